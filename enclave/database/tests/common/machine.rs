//! A database in this process, on a disk in memory that can lose what was not put on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use teemate_database::commands::Context;
use teemate_database::config::Config;
use teemate_database::dispatch;
use teemate_database::persistence::disk::{self, Key, Storage, Witness};
use teemate_database::persistence::{self, Error, Started, rdb};
use teemate_database::resp::{self, Reply};
use teemate_database::session::Session;
use teemate_database::shared::Shared;
use teemate_database::store::Store;
use teemate_rdb::Value;
use teemate_sealed::simulated::Disk;
use teemate_sealed::{Directory, FileCounter, FixedSealing};

/// Carries files to the disk in memory: all directories are the same one.
struct Carrier(Disk);

impl disk::Disk for Carrier {
    fn directory(&self, _: &str) -> Arc<dyn Directory + Sync> {
        Arc::new(self.0.clone())
    }

    fn is_directory(&self, _: &str) -> bool {
        true
    }
}

/// The key of all tests.
pub fn key() -> Key {
    Arc::new(FixedSealing::new([5; 16]))
}

/// A counter on that disk.
pub fn counter(disk: &Disk) -> Witness {
    Arc::new(Mutex::new(FileCounter::on(Arc::new(disk.clone()), key(), "owner", "database", "counter")))
}

/// How things are kept on that disk.
pub fn storage(disk: &Disk, witness: Option<Witness>) -> Storage {
    let (owner, database) = ("owner".to_owned(), "database".to_owned());
    Storage { disk: Arc::new(Carrier(disk.clone())), key: Some(key()), plain: false, owner, database, witness }
}

/// What there is: database and key, and the value and its time as text.
pub type Content = BTreeMap<(usize, Vec<u8>), String>;

/// The settings with these.
pub fn config(settings: &[(&str, &str)]) -> Config {
    let mut config = Config::default();
    for (name, value) in [("save", ""), ("databases", "4")].iter().chain(settings) {
        config.set_at_start(name, value).unwrap();
    }
    config
}

/// A database, and one client.
pub struct Machine {
    pub store: Store,
    pub shared: Shared,
    pub session: Session,
    pub started: Started,
}

impl Machine {
    /// Starts on what the disk has.
    pub fn start(disk: &Disk, settings: &[(&str, &str)], witness: Option<Witness>) -> Result<Machine, Error> {
        Machine::start_at(1_700_000_000_000, storage(disk, witness), settings)
    }

    /// At this time, on this.
    pub fn start_at(now: i64, storage: Storage, settings: &[(&str, &str)]) -> Result<Machine, Error> {
        let mut store = Store::new(4);
        store.now = now;
        let mut shared = Shared::new(config(settings), now);
        shared.storage = storage;
        let started = persistence::start(&mut store, &mut shared)?;
        let mut session = Session::new(1, 0, now);
        session.user = shared.acl.initial();
        Ok(Machine { store, shared, session, started })
    }

    /// Carries out a line. The reply, `|` for line ends.
    pub fn ask(&mut self, line: &str) -> String {
        let words = resp::words(line.as_bytes()).unwrap();
        self.carry_out(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// Carries out a command.
    pub fn carry_out(&mut self, args: &[&[u8]]) -> String {
        let mut reply = Reply::default();
        let (store, shared, session) = (&mut self.store, &mut self.shared, &mut self.session);
        dispatch::process(&mut Context { store, shared, session, args, reply: &mut reply });
        // Nobody waits here.
        self.session.waiting = None;
        String::from_utf8_lossy(&reply.bytes).replace("\r\n", "|")
    }

    /// Ends a turn of the server. Whether its clients may be answered.
    pub fn commit(&mut self) -> bool {
        persistence::commit(&mut self.store, &mut self.shared)
    }

    /// Rewrites the log and waits for it. Whether that went well.
    pub fn rewrite(&mut self) -> bool {
        let begun = persistence::rewrite(&mut self.store, &mut self.shared).is_ok();
        persistence::finish(&mut self.store, &mut self.shared);
        begun && self.shared.log.rewrite_failed().is_none()
    }

    /// The process ends: nothing of it writes any more. What the disk does then is to be said to the disk.
    pub fn kill(mut self) {
        self.store.abort_snapshot("killed");
        while self.shared.saving.is_under_way() {
            self.shared.saving.look(&mut self.store);
            std::thread::yield_now();
        }
    }

    /// What there is.
    pub fn content(&mut self) -> Content {
        content(&mut self.store)
    }
}

/// What is in a store.
pub fn content(store: &mut Store) -> Content {
    let mut bytes = Vec::new();
    rdb::write_store(store, &[], &mut bytes, "memory").unwrap();
    read(&bytes)
}

/// What is in an RDB file.
pub fn read(bytes: &[u8]) -> Content {
    let mut all = Content::new();
    rdb::entries(bytes, "memory", |entry| {
        let value = match entry.value {
            Value::Set(mut members) => {
                members.sort();
                format!("set {members:?}")
            }
            Value::Hash(mut pairs) => {
                pairs.sort();
                format!("hash {pairs:?}")
            }
            Value::Stream(mut stream) => {
                for group in &mut stream.state.groups {
                    // When somebody was seen last is of this process alone.
                    // How many entries it has read is counted again where nobody knew it.
                    group.read = 0;
                    group.consumers.iter_mut().for_each(|consumer| (consumer.seen, consumer.active) = (0, 0));
                }
                format!("{stream:?}")
            }
            other => format!("{other:?}"),
        };
        all.insert((entry.database, entry.key), format!("{value} {:?}", entry.expires));
        Ok(())
    })
    .unwrap();
    all
}
