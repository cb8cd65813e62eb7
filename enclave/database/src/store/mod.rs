//! The databases, and the one way in which they change.
//!
//! Whoever changes or drops an entry, for whatever reason (a command, its time has come, memory is short), does it here; and before it is
//! done, the entry is handed to the snapshot that has not seen it. Nothing else knows of snapshots.

mod walk;
mod watch;

use std::collections::HashMap;

use crate::eviction::{Access, Clock};
use crate::structures::{Dict, hash};
use crate::value::Value;

use walk::Walk;
pub use walk::Walked;
use watch::Interest;

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    /// Milliseconds since 1970; 0: never.
    expires: i64,
    /// The snapshot that was under way, or the last one, when this entry was made or handed over.
    epoch: u32,
    /// When it was last asked for, and how often: see [`crate::eviction`].
    access: Access,
}

/// A change: in which database, of which key (`None`: of all), and why.
pub type Touched = (usize, Option<Box<[u8]>>, Cause);

/// Why a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A command.
    Command,
    /// Its time had come.
    Expired,
    /// Memory was short.
    Evicted,
}

#[derive(Clone, Debug, Default)]
struct Database {
    entries: Dict<Entry>,
    /// Keys that expire.
    expiring: Dict<()>,
    /// Its number when the snapshot began.
    origin: usize,
    /// Where the walker goes on; `None`: it has passed.
    cursor: Option<u64>,
}

/// What becomes of a key's time when it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It has none.
    Never,
    /// What it had.
    Keep,
    /// Milliseconds since 1970.
    At(i64),
}

/// All databases.
#[derive(Debug)]
pub struct Store {
    databases: Vec<Database>,
    epoch: u32,
    walk: Option<Walk>,
    /// The time, as the server told it last: all of one command happens at one time.
    pub now: i64,
    /// Changes since the start.
    pub changes: u64,
    /// Keys whose time came.
    pub expired: u64,
    /// Keys that somebody watches or waits for, by database.
    interests: Vec<HashMap<Box<[u8]>, Interest>>,
    /// Keys that somebody waits for and that have changed since the server asked last.
    filled: Vec<(usize, Box<[u8]>)>,
    /// Whether `touched` is kept.
    pub record: bool,
    /// Keys that have changed since the server asked last, and why. `None`: all keys of a database.
    pub touched: Vec<Touched>,
    cause: Cause,
    /// The key that changed last, where somebody wants to know.
    last: Option<Box<[u8]>>,
    remembers: bool,
    /// Keys that were made since this was asked for last, where somebody wants to know.
    pub made: Vec<Box<[u8]>>,
    /// What a new entry's access is, and how it changes when it is asked for.
    pub clock: Clock,
    /// Whether a log is being carried out again: then no key's time comes by itself, for the log says when it did.
    pub replaying: bool,
    /// Whether it is a replica's: a key whose time has come is as if it were not there, and goes when the other end says so.
    pub passive: bool,
    /// Whether `dropped` is kept.
    pub logs: bool,
    /// Keys that went by themselves, because their time had come or memory was short, since the log asked last.
    pub dropped: Vec<(usize, Box<[u8]>)>,
}

impl Store {
    /// So many empty databases.
    pub fn new(databases: usize) -> Store {
        Store {
            databases: vec![Database::default(); databases],
            epoch: 1,
            walk: None,
            now: 0,
            changes: 0,
            expired: 0,
            interests: vec![HashMap::new(); databases],
            filled: Vec::new(),
            record: false,
            touched: Vec::new(),
            cause: Cause::Command,
            last: None,
            remembers: false,
            made: Vec::new(),
            clock: Clock::default(),
            replaying: false,
            passive: false,
            logs: false,
            dropped: Vec::new(),
        }
    }

    /// Whether a key of this time is gone by now.
    pub fn is_over(&self, time: i64) -> bool {
        time <= self.now && !self.replaying
    }

    /// Whether a key's time has come.
    fn is_late(&self, entry: &Entry) -> bool {
        entry.expires != 0 && self.is_over(entry.expires)
    }

    /// How many databases.
    pub fn databases(&self) -> usize {
        self.databases.len()
    }

    /// Keys of a database, those included whose time has come and that nobody has looked at since.
    pub fn len(&self, database: usize) -> usize {
        self.databases[database].entries.len()
    }

    /// Whether a database has no keys.
    pub fn is_empty(&self, database: usize) -> bool {
        self.len(database) == 0
    }

    /// Keys of a database that expire.
    pub fn expiring(&self, database: usize) -> usize {
        self.databases[database].expiring.len()
    }

    // ---- one key --------------------------------------------------------------------------------------------------------------------

    /// The value of a key.
    pub fn get(&mut self, database: usize, key: &[u8]) -> Option<&Value> {
        let hash = hash(key);
        if self.expire(database, hash, key) {
            return None;
        }
        let entry = self.databases[database].entries.get_hashed(hash, key)?;
        self.clock.touch(&entry.access);
        Some(&entry.value)
    }

    /// The value of a key, for who must not leave a trace in its access.
    pub fn peek(&mut self, database: usize, key: &[u8]) -> Option<&Value> {
        let hash = hash(key);
        if self.expire(database, hash, key) {
            return None;
        }
        self.databases[database].entries.get_hashed(hash, key).map(|entry| &entry.value)
    }

    /// The same of a key whose time may be over: it is not dropped.
    pub fn peek_late(&self, database: usize, key: &[u8]) -> Option<&Value> {
        self.databases[database].entries.get_hashed(hash(key), key).map(|entry| &entry.value)
    }

    /// Whether there is such a key.
    pub fn contains(&mut self, database: usize, key: &[u8]) -> bool {
        self.peek(database, key).is_some()
    }

    /// The access of a key, as [`Clock`] reads it.
    pub fn access(&mut self, database: usize, key: &[u8]) -> Option<u32> {
        let hash = hash(key);
        if self.expire(database, hash, key) {
            return None;
        }
        self.databases[database].entries.get_hashed(hash, key).map(|entry| entry.access.get())
    }

    /// Sets it.
    pub fn set_access(&mut self, database: usize, key: &[u8], access: u32) {
        if let Some(entry) = self.databases[database].entries.get(key) {
            entry.access.set(access);
        }
    }

    /// The value of a key, to be changed.
    pub fn edit(&mut self, database: usize, key: &[u8]) -> Option<&mut Value> {
        let hash = hash(key);
        self.expire(database, hash, key);
        self.hand_over(database, hash, key);
        self.clock.touch(&self.databases[database].entries.get_hashed(hash, key)?.access);
        self.touch(database, key);
        self.databases[database].entries.get_mut_hashed(hash, key).map(|entry| &mut entry.value)
    }

    /// The same; a key that is not there is made.
    pub fn edit_or(&mut self, database: usize, key: &[u8], make: impl FnOnce() -> Value) -> &mut Value {
        let hash = hash(key);
        self.expire(database, hash, key);
        if self.databases[database].entries.get_hashed(hash, key).is_none() {
            let entry = Entry { value: make(), expires: 0, epoch: self.epoch, access: Access::new(self.clock.fresh()) };
            self.databases[database].entries.insert_hashed(hash, key, entry);
            if self.remembers {
                self.made.push(key.into());
            }
        } else {
            self.hand_over(database, hash, key);
        }
        self.touch(database, key);
        match self.databases[database].entries.get_mut_hashed(hash, key) {
            Some(entry) => &mut entry.value,
            None => unreachable!("it was put in above"),
        }
    }

    /// Sets a key.
    pub fn set(&mut self, database: usize, key: &[u8], value: Value, expiry: Expiry) {
        let hash = hash(key);
        self.expire(database, hash, key);
        self.hand_over(database, hash, key);
        self.touch(database, key);
        let it = &mut self.databases[database];
        let old = it.entries.get_hashed(hash, key).map_or(0, |entry| entry.expires);
        let expires = match expiry {
            Expiry::Never => 0,
            Expiry::Keep => old,
            Expiry::At(time) => time,
        };
        let access = Access::new(self.clock.fresh());
        let before = it.entries.insert_hashed(hash, key, Entry { value, expires, epoch: self.epoch, access });
        if self.remembers && before.is_none() {
            self.made.push(key.into());
        }
        match (old != 0, expires != 0) {
            (false, true) => drop(it.expiring.insert_hashed(hash, key, ())),
            (true, false) => drop(it.expiring.remove_hashed(hash, key)),
            _ => {}
        }
    }

    /// Drops a key. Its value, and when it would have expired.
    pub fn remove(&mut self, database: usize, key: &[u8]) -> Option<(Value, Option<i64>)> {
        let hash = hash(key);
        self.expire(database, hash, key);
        self.drop_entry(database, hash, key)
    }

    /// Drops a key whose value has no elements any more. Whether it did.
    pub fn remove_if_empty(&mut self, database: usize, key: &[u8]) -> bool {
        let empty = self.databases[database].entries.get(key).is_some_and(|entry| entry.value.is_empty());
        empty && self.drop_entry(database, hash(key), key).is_some()
    }

    fn drop_entry(&mut self, database: usize, hash: u64, key: &[u8]) -> Option<(Value, Option<i64>)> {
        self.hand_over(database, hash, key);
        let it = &mut self.databases[database];
        let (_, entry) = it.entries.remove_hashed(hash, key)?;
        if entry.expires != 0 {
            it.expiring.remove_hashed(hash, key);
        }
        self.touch(database, key);
        Some((entry.value, (entry.expires != 0).then_some(entry.expires)))
    }

    // ---- time -----------------------------------------------------------------------------------------------------------------------

    /// When a key expires: `None` if there is no such key, `Some(None)` if it stays.
    pub fn expires(&mut self, database: usize, key: &[u8]) -> Option<Option<i64>> {
        let hash = hash(key);
        if self.expire(database, hash, key) {
            return None;
        }
        let entry = self.databases[database].entries.get_hashed(hash, key)?;
        Some((entry.expires != 0).then_some(entry.expires))
    }

    /// Says when a key expires. Whether there is such a key.
    pub fn set_expires(&mut self, database: usize, key: &[u8], expires: Option<i64>) -> bool {
        let hash = hash(key);
        self.expire(database, hash, key);
        self.hand_over(database, hash, key);
        let it = &mut self.databases[database];
        let Some(entry) = it.entries.get_mut_hashed(hash, key) else { return false };
        entry.expires = expires.unwrap_or(0);
        match expires {
            Some(_) => drop(it.expiring.insert_hashed(hash, key, ())),
            None => drop(it.expiring.remove_hashed(hash, key)),
        }
        self.touch(database, key);
        true
    }

    /// Drops a key whose time has come. Whether it is there all the same, and is not to be seen.
    fn expire(&mut self, database: usize, hash: u64, key: &[u8]) -> bool {
        let it = &self.databases[database];
        if it.expiring.is_empty() {
            return false;
        }
        let late = it.entries.get_hashed(hash, key).is_some_and(|entry| self.is_late(entry));
        if late && self.passive {
            return true;
        }
        if late && self.drop_by_itself(database, key, Cause::Expired) {
            self.expired += 1;
        }
        false
    }

    /// Drops a key because memory is short. Whether there was one.
    pub fn evict(&mut self, database: usize, key: &[u8]) -> bool {
        self.drop_by_itself(database, key, Cause::Evicted)
    }

    fn drop_by_itself(&mut self, database: usize, key: &[u8], cause: Cause) -> bool {
        let before = std::mem::replace(&mut self.cause, cause);
        let dropped = self.drop_entry(database, hash(key), key).is_some();
        self.cause = before;
        if dropped && self.logs {
            self.dropped.push((database, key.into()));
        }
        dropped
    }

    /// Some entry of a database, or of those of its keys that expire: its key, its access and its time.
    pub fn sample(&self, database: usize, expiring: bool, random: impl FnMut(usize) -> usize) -> Option<(&[u8], u32, i64)> {
        let it = &self.databases[database];
        let (key, entry) = if expiring {
            let key = it.expiring.random(random)?.0;
            (key, it.entries.get(key)?)
        } else {
            it.entries.random(random)?
        };
        Some((key, entry.access.get(), entry.expires))
    }

    /// Looks at some keys that expire, and drops those whose time has come. How many of how many: who finds many should look again.
    pub fn expire_some(&mut self, database: usize, cursor: &mut u64, count: usize) -> (usize, usize) {
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        *cursor = self.databases[database].expiring.scan(*cursor, count, |key, ()| keys.push(key.into()));
        let before = self.expired;
        keys.iter().for_each(|key| _ = self.expire(database, hash(key), key));
        ((self.expired - before) as usize, keys.len())
    }

    // ---- whole databases ------------------------------------------------------------------------------------------------------------

    /// Keys from a cursor on, as [`Dict::scan`] has them. Those whose time has come are left out.
    pub fn scan(&self, database: usize, cursor: u64, count: usize, mut see: impl FnMut(&[u8], &Value)) -> u64 {
        self.databases[database].entries.scan(cursor, count, |key, entry| {
            if !self.is_late(entry) {
                see(key, &entry.value);
            }
        })
    }

    /// The same, and drops on the way those whose time has come.
    pub fn scan_and_expire(&mut self, database: usize, cursor: u64, count: usize, mut see: impl FnMut(&[u8], &Value)) -> u64 {
        let mut late: Vec<Box<[u8]>> = Vec::new();
        let next = self.databases[database].entries.scan(cursor, count, |key, entry| {
            if self.is_late(entry) {
                late.push(key.into());
            } else {
                see(key, &entry.value);
            }
        });
        for key in late {
            self.expire(database, hash(&key), &key);
        }
        next
    }

    /// A key at random.
    pub fn random(&mut self, database: usize, mut random: impl FnMut(usize) -> usize) -> Option<Box<[u8]>> {
        // Keys whose time has come are dropped on the way; there are no more of them than keys.
        for _ in 0..=self.len(database) {
            let key: Box<[u8]> = self.databases[database].entries.random(&mut random)?.0.into();
            if self.contains(database, &key) {
                return Some(key);
            }
        }
        None
    }

    /// Drops all keys of a database.
    pub fn flush(&mut self, database: usize) {
        self.touch_all(database, &[database]);
        let it = &mut self.databases[database];
        let (entries, cursor) = (std::mem::take(&mut it.entries), it.cursor.take());
        it.expiring.clear();
        if let (Some(walk), Some(cursor)) = (&mut self.walk, cursor) {
            walk.hand_over_all(it.origin, entries, cursor);
        }
        self.changes += 1;
    }

    /// Puts the keys of other databases, as many as these, in the place of all that there are. What there was.
    pub fn adopt(&mut self, mut other: Store) -> Store {
        (0..self.databases.len()).for_each(|database| self.touch_all(database, &[database]));
        for (mine, theirs) in self.databases.iter_mut().zip(&mut other.databases) {
            std::mem::swap(&mut mine.entries, &mut theirs.entries);
            std::mem::swap(&mut mine.expiring, &mut theirs.expiring);
            if let (Some(walk), Some(cursor)) = (&mut self.walk, mine.cursor.take()) {
                walk.hand_over_all(mine.origin, std::mem::take(&mut theirs.entries), cursor);
            }
            self.changes += 1 + mine.entries.len() as u64;
        }
        (0..self.databases.len()).for_each(|database| self.touch_all(database, &[database]));
        other
    }

    /// Exchanges two databases.
    pub fn swap(&mut self, a: usize, b: usize) {
        self.touch_all(a, &[a, b]);
        if a != b {
            self.touch_all(b, &[a, b]);
        }
        self.databases.swap(a, b);
        self.changes += 1;
    }
}

#[cfg(test)]
mod tests;
