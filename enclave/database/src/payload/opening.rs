//! An open database: read from the data directory, served by a thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use teemate_sealed::{EnclaveSealing, FileCounter, MemoryCounter};

use super::containers::Containers;
use super::keeping::Settings;
use super::reaching::{Way, following};
use super::{Node, certificate};
use crate::acl::Acl;
use crate::config::Config;
use crate::network::batched::Batched;
use crate::persistence;
use crate::persistence::disk::{Key, Storage, Witness};
use crate::persistence::guard::Reach;
use crate::server::{Ended, Server, Stop};
use crate::settings::decode;
use crate::shared::Shared;
use crate::store::Store;
use crate::tls::Tls;

/// The data directory, as the library OS shows it.
const DATA: &str = "/data";
/// Where a counter is, if the node's operator gave a directory for it.
const COUNTER: &str = "/data/witness";
/// Stack of the server's thread: scripts are deep.
const STACK: usize = 8 << 20;

/// A database that serves.
pub struct Open {
    stops: Sender<Stop>,
    server: JoinHandle<()>,
}

impl Open {
    /// Opens it.
    ///
    /// # Errors
    /// When there is no quote, or what is in the directory can't be read.
    pub fn new(node: &Arc<Node>, containers: &Arc<Containers>, memory: &mut Option<(String, Witness)>) -> io::Result<Open> {
        let tls = certificate::config(node)?;
        let (stops, received) = channel();
        let (opened, outcome) = channel();
        let (node, containers, mut remembered) = (node.clone(), containers.clone(), memory.take());
        // What is in memory belongs to the server's thread from the start.
        let server = std::thread::Builder::new().name("server".to_owned()).stack_size(STACK).spawn(move || {
            let read = read(&node, containers, &mut remembered);
            let (store, shared) = match read {
                Ok(read) => read,
                Err(error) => return drop(opened.send((Err(error), remembered))),
            };
            let server = Server::new(Tls::new(Batched::new(teemate_containers::turn), tls), store, shared).until(received);
            let _ = opened.send((Ok(()), remembered));
            // After a panic nothing in memory can be relied on: it is as if the server had been killed with its enclave.
            match catch_unwind(AssertUnwindSafe(|| server.run())) {
                Ok(Ok(Ended::Told)) => return,
                Ok(Ok(Ended::Shutdown)) => eprintln!("teemate-database: the server ends: a client said SHUTDOWN"),
                Ok(Err(error)) => eprintln!("teemate-database: the server ends: {error}"),
                Err(_) => eprintln!("teemate-database: the server ends by an error within it"),
            }
            // The node builds the enclave anew, and what is on disk is served again.
            std::process::exit(0);
        })?;
        let (outcome, remembered) = outcome.recv().map_err(io::Error::other)?;
        *memory = remembered;
        outcome?;
        Ok(Open { stops, server })
    }

    /// Whether its server runs.
    pub fn is_serving(&self) -> bool {
        !self.server.is_finished()
    }

    /// Ends it, with everything on disk.
    ///
    /// # Errors
    /// When it can't be written: then it serves on.
    pub fn close(&self, within: Duration) -> Result<(), String> {
        if self.server.is_finished() {
            return Ok(());
        }
        let (stop, outcome) = Stop::new();
        self.stops.send(stop).map_err(|_| "the server has ended".to_owned())?;
        // A snapshot of everything takes what it takes; half of it would be nothing.
        match outcome.recv_timeout(within.max(Duration::from_secs(600))) {
            Ok(outcome) => outcome,
            Err(_) => Err("the database was not written in time".to_owned()),
        }
    }
}

/// What the data directory holds.
fn read(node: &Arc<Node>, containers: Arc<Containers>, memory: &mut Option<(String, Witness)>) -> io::Result<(Store, Shared)> {
    let mut config = Config::default();
    config.set_at_start("dir", DATA).map_err(io::Error::other)?;
    let mut acl = Acl::default();
    let sealing: Key = Arc::new(EnclaveSealing::new()?);
    let (settings, kept) = Settings::open(Path::new(DATA), sealing.clone())?;
    if let Some(kept) = kept {
        decode(&kept, &mut config, &mut acl).map_err(io::Error::other)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
    let mut store = Store::new(usize::try_from(config.number("databases")).unwrap_or(16));
    store.now = now;
    let reach = Way::new(node, &settings);
    let witness = match (config.get("witness"), config.get("witness-ca")) {
        ("", _) if Path::new(COUNTER).is_dir() => {
            eprintln!(
                "teemate-database: the counter is a file on this machine: it tells an old state that was put back by accident, and \
                 no host that means it"
            );
            Arc::new(Mutex::new(FileCounter::new(COUNTER, sealing.clone(), "", &settings.database(), "counter"))) as Witness
        }
        // What this enclave saw of another database says nothing of this one.
        ("", _) => match memory.take().filter(|(database, _)| *database == settings.database()) {
            Some((_, witness)) => witness,
            None => Arc::new(Mutex::new(MemoryCounter::default())),
        },
        (address, roots) => reach.reach(address, roots, false).map_err(io::Error::other)?,
    };
    if config.get("witness").is_empty() && !Path::new(COUNTER).is_dir() {
        *memory = Some((settings.database(), witness.clone()));
    }
    let mut shared = Shared::new(config, now);
    // Sealed always: what is plain the host could read, and write.
    shared.storage = Storage { key: Some(sealing), database: settings.database(), witness: Some(witness), ..Storage::default() };
    shared.saving.runner = Box::new(containers);
    shared.settings = Some(Box::new(settings));
    shared.reach = Some(Box::new(reach));
    shared.replication.following = Some(following(node));
    (shared.acl, shared.protected) = (acl, true);
    let started = persistence::start(&mut store, &mut shared).map_err(io::Error::other)?;
    if let Some(torn) = started.torn {
        eprintln!("teemate-database: {torn}");
    }
    if let Some(from) = started.from {
        eprintln!("teemate-database: {} keys from {from}", started.keys);
    }
    Ok((store, shared))
}
