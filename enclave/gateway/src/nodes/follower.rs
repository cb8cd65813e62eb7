//! A node that follows: it joins the source, copies what there is, and again whenever that changes.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use teemate_attestation::http::{Client, Request, Response};
use teemate_attestation::{Connector, Endpoint};
use teemate_vault::{Change, Key, Owners, Vault};

use super::wire::{EXPORTER, Join, Joined, KINDS, Manifest, OWNERS, Place, Record, TOKEN, report_data};
use super::{Acceptance, other};
use crate::lock;
use crate::platform::Attester;
use crate::whisk::Whisk;

/// How long after a failure the source is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A connection that rested for so long may have been closed.
const FRESH: Duration = Duration::from_secs(5);
/// Largest answer: code of 48 MB as the store has it.
const MOST: usize = 80 << 20;
/// Records of calls that wait for the source. Further ones stay here alone.
const RECORDS: usize = 4096;
/// Changes, and bytes of them, that are made at once.
const BATCH: (usize, usize) = (64, 1 << 20);

/// A connection that somebody carries.
pub trait Wire: Read + Write + Send {}

impl<S: Read + Write + Send> Wire for S {}

/// Connects to a `host:port`.
pub type Dial = Box<dyn Fn(&str) -> io::Result<Box<dyn Wire>> + Send + Sync>;

/// A conversation with the source, which has admitted this node.
struct Session {
    client: Client<StreamOwned<ClientConnection, Box<dyn Wire>>>,
    token: String,
    used: Instant,
}

/// The follower.
pub struct Follower {
    endpoint: Endpoint,
    acceptance: Acceptance,
    attester: Arc<dyn Attester>,
    dial: Dial,
    vault: Arc<Vault>,
    owners: Arc<Owners>,
    whisk: OnceLock<Weak<Whisk>>,
    /// What else must look again: who was known by his key.
    forget: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// For what clients wait for.
    session: Mutex<Option<Session>>,
    /// What was copied, with the source's versions. Held while something is.
    copied: Mutex<HashMap<Place, u64>>,
    records: SyncSender<Record>,
    source: Mutex<Option<String>>,
    ended: AtomicBool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.client.stream_mut().conn.send_close_notify();
        let _ = self.client.stream_mut().flush();
    }
}

impl Session {
    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<(&str, &[u8])>) -> io::Result<Response> {
        let token = [(TOKEN, self.token.as_str())];
        let headers = [&token[..], headers].concat();
        let response = self.client.send(&Request { method, path, headers: &headers, body }, MOST).map_err(other)?;
        self.used = Instant::now();
        Ok(response)
    }

    fn get(&mut self, path: &str, query: &[(&str, &str)]) -> io::Result<Response> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        self.send("GET", &format!("/teemate/v1/nodes/{path}?{query}"), &[], None)
    }
}

impl Follower {
    /// One of the node at this endpoint; it does nothing yet. `dial` makes connections whose reading waits for half a minute, at least.
    ///
    /// # Errors
    /// When there are no threads.
    pub fn new(
        endpoint: Endpoint,
        acceptance: Acceptance,
        attester: Arc<dyn Attester>,
        dial: Dial,
        vault: Arc<Vault>,
        owners: Arc<Owners>,
    ) -> io::Result<Arc<Follower>> {
        let (records, waiting) = sync_channel(RECORDS);
        let follower = Arc::new(Follower {
            endpoint,
            acceptance,
            attester,
            dial,
            vault,
            owners,
            whisk: OnceLock::new(),
            forget: OnceLock::new(),
            session: Mutex::default(),
            copied: Mutex::default(),
            records,
            source: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&follower);
        spawn("records", move || pass_on(&weak, &waiting))?;
        Ok(follower)
    }

    /// Follows from now on. What was copied `whisk` looks at again; `forget` is called when owners have changed.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn follow(self: &Arc<Self>, whisk: &Arc<Whisk>, forget: Box<dyn Fn() + Send + Sync>) -> io::Result<()> {
        let _ = (self.whisk.set(Arc::downgrade(whisk)), self.forget.set(forget));
        let follower = self.clone();
        spawn("follower", move || follower.run())
    }

    /// Follows no more.
    pub fn end(&self) {
        self.ended.store(true, SeqCst);
        // Nothing is written from now on: who copies looks for that, and has finished now.
        drop(lock(&self.copied));
    }

    /// Where the source is.
    pub fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// Name of the source's store, once it was reached.
    pub fn source(&self) -> Option<String> {
        lock(&self.source).clone()
    }

    fn run(&self) {
        let mut told = String::new();
        while !self.ended.load(SeqCst) {
            if let Err(error) = self.connect().and_then(|mut session| self.copy_on(&mut session)) {
                let why = error.to_string();
                // Once: it is tried each second.
                if why != told && !self.ended.load(SeqCst) {
                    eprintln!("teemate-gateway: {} is not followed now: {why}", self.endpoint);
                    told = why;
                }
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn copy_on(&self, session: &mut Session) -> io::Result<()> {
        let mut known = String::new();
        while !self.ended.load(SeqCst) {
            let response = session.get("manifest", &[("since", known.as_str())])?;
            match response.status {
                304 => {}
                200 => known = self.copy(&response.body, session)?,
                _ => return Err(said("the manifest", &response)),
            }
        }
        Ok(())
    }

    /// Connects, verifies, is verified.
    fn connect(&self) -> io::Result<Session> {
        let Acceptance { policy, collateral } = &self.acceptance;
        let mut connector = Connector::new(policy.clone()).map_err(other)?;
        if let Some(collateral) = collateral {
            connector = connector.with_collateral(collateral.clone());
        }
        let tls = connector.over(&self.endpoint, (self.dial)(&self.endpoint.authority())?).map_err(other)?;
        let channel = tls.conn.export_keying_material([0; 32], EXPORTER, None).map_err(other)?;
        let join = Join { quote: self.attester.quote(report_data(&channel))? };
        let body = serde_json::to_vec(&join).map_err(other)?;
        let mut client = Client::new(tls, self.endpoint.authority());
        let request = Request { method: "POST", path: "/teemate/v1/nodes/join", headers: &[], body: Some(("application/json", &body)) };
        let response = client.send(&request, MOST).map_err(other)?;
        if response.status != 200 {
            return Err(said("admission", &response));
        }
        let Joined { token, store } = serde_json::from_slice(&response.body).map_err(other)?;
        *lock(&self.source) = Some(store);
        Ok(Session { client, token, used: Instant::now() })
    }

    /// Asks the source for a client's sake.
    ///
    /// # Errors
    /// When it is not there. Whether it has done what was asked is not known then, unless nothing was sent.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<(&str, &[u8])>) -> io::Result<Response> {
        let mut place = lock(&self.session);
        let mut session = match place.take().filter(|session| session.used.elapsed() < FRESH) {
            Some(session) => session,
            None => self.connect()?,
        };
        let response = session.send(method, &format!("/teemate/v1/nodes/{path}"), headers, body)?;
        *place = Some(session);
        Ok(response)
    }

    /// Copies what the source has now: a client has changed something there, and may look for it here.
    pub fn catch_up(&self) {
        let caught = || -> io::Result<()> {
            let mut session = self.connect()?;
            let response = session.get("manifest", &[])?;
            if response.status == 200 { self.copy(&response.body, &mut session).map(drop) } else { Err(said("the manifest", &response)) }
        };
        if let Err(error) = caught() {
            eprintln!("teemate-gateway: what was changed at {} comes later: {error}", self.endpoint);
        }
    }

    /// The record of a call that was made here.
    pub fn record(&self, at: Place, value: Vec<u8>) {
        if self.records.try_send(Record { at, value }).is_err() {
            eprintln!("teemate-gateway: the record of a call stays on this node alone: too many wait for {}", self.endpoint);
        }
    }

    /// Makes this store what the manifest says. Gives its digest.
    fn copy(&self, manifest: &[u8], session: &mut Session) -> io::Result<String> {
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(other)?;
        let allowed = |place: &Place| KINDS.contains(&place.kind.as_str()) || (place.owner.as_str(), place.kind.as_str()) == OWNERS;
        if let Some((strange, _)) = manifest.entries.iter().find(|(place, _)| !allowed(place)) {
            return Err(other(format!("it has a record of the kind {:?}, which is not copied", strange.kind)));
        }
        let mut copied = lock(&self.copied);
        let wanted: HashSet<&Place> = manifest.entries.iter().map(|(place, _)| place).collect();
        let gone: Vec<Place> = self.present().into_iter().filter(|place| !wanted.contains(place)).collect();
        let (mut changes, mut size, mut looked) = (Vec::new(), 0, Vec::new());
        // What somebody owns before its owner: he finds all of it when he is let in.
        let (owners, rest): (Vec<_>, Vec<_>) = manifest.entries.iter().partition(|(place, _)| place.kind == OWNERS.1);
        for (place, version) in rest.into_iter().chain(owners) {
            if copied.get(place) == Some(version) {
                continue;
            }
            let query = [("owner", place.owner.as_str()), ("kind", &place.kind), ("name", &place.name)];
            let response = session.get("record", &query)?;
            match response.status {
                200 => {}
                // It went meanwhile; the next manifest says so.
                404 => continue,
                _ => return Err(said("a record", &response)),
            }
            let key = Key::new(&place.owner, &place.kind, &place.name);
            if self.vault.get(&key).map_err(other)?.as_deref() != Some(&response.body) {
                size += response.body.len();
                changes.push(Change::Put(key, response.body));
            }
            looked.push((place.clone(), *version));
            if changes.len() >= BATCH.0 || size >= BATCH.1 {
                size = 0;
                self.make(&mut changes, &mut looked, &mut copied)?;
            }
        }
        self.make(&mut changes, &mut looked, &mut copied)?;
        for place in gone.chunks(BATCH.0) {
            let mut deletions = place.iter().map(|place| Change::Delete(Key::new(&place.owner, &place.kind, &place.name))).collect();
            let mut looked = place.iter().map(|place| (place.clone(), 0)).collect();
            self.make(&mut deletions, &mut looked, &mut copied)?;
        }
        copied.retain(|place, _| wanted.contains(place));
        Ok(manifest.digest)
    }

    /// Commits changes, and has everybody look at them.
    fn make(&self, changes: &mut Vec<Change>, looked: &mut Vec<(Place, u64)>, copied: &mut HashMap<Place, u64>) -> io::Result<()> {
        if self.ended.load(SeqCst) {
            return Err(other("this node follows no more"));
        }
        let changed: HashSet<Key> = changes.iter().map(|change| change.key().clone()).collect();
        self.vault.commit(std::mem::take(changes)).map_err(other)?;
        let mut owners = false;
        for (place, version) in looked.drain(..) {
            if changed.contains(&Key::new(&place.owner, &place.kind, &place.name)) {
                owners |= place.kind == OWNERS.1;
                if let Some(whisk) = self.whisk.get().and_then(Weak::upgrade) {
                    whisk.renew(&place.owner, &place.kind, &place.name).map_err(other)?;
                }
            }
            copied.insert(place, version);
        }
        if owners {
            self.look_at_owners()?;
        }
        Ok(())
    }

    /// Owners were copied. Of one who is gone nothing stays, the records of his calls here among it.
    fn look_at_owners(&self) -> io::Result<()> {
        let before = self.owners.list();
        self.owners.reload().map_err(other)?;
        self.forget.get().inspect(|forget| forget());
        let now: HashSet<String> = self.owners.list().into_iter().filter_map(|owner| owner.uuid).collect();
        for owner in before {
            let Some(uuid) = owner.uuid.filter(|uuid| !now.contains(uuid)) else { continue };
            if let Some(whisk) = self.whisk.get().and_then(Weak::upgrade) {
                whisk.forget(&owner.namespace);
            }
            self.vault.delete_owner(&uuid).map_err(other)?;
        }
        Ok(())
    }

    /// What was copied, and is in the store.
    fn present(&self) -> Vec<Place> {
        let list = |owner: &str, kind: &str| {
            let place = |(name, _)| Place { owner: owner.to_owned(), kind: kind.to_owned(), name };
            self.vault.list(owner, kind).into_iter().map(place).collect::<Vec<_>>()
        };
        let mut all = list(OWNERS.0, OWNERS.1);
        for owner in self.owners.list().into_iter().filter_map(|owner| owner.uuid) {
            all.extend(KINDS.iter().flat_map(|kind| list(&owner, kind)));
        }
        all
    }
}

/// Passes records of calls on to the source, each until it has it.
fn pass_on(follower: &Weak<Follower>, records: &Receiver<Record>) {
    for record in records {
        let Ok(body) = serde_json::to_vec(&record) else { continue };
        loop {
            let Some(follower) = follower.upgrade().filter(|follower| !follower.ended.load(SeqCst)) else { return };
            match follower.ask("POST", "keep", &[], Some(("application/json", &body))) {
                // One that it refuses it will not take later either.
                Ok(_) => break,
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(1 << 20).spawn(body).map(drop)
}

fn said(what: &str, response: &Response) -> io::Error {
    let why = serde_json::from_slice::<serde_json::Value>(&response.body).ok().and_then(|body| body["error"].as_str().map(str::to_owned));
    other(format!("asked for {what} it answers {}: {}", response.status, why.unwrap_or_default()))
}
