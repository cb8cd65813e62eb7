//! The databases, and the one way in which they change.
//!
//! Whoever changes or drops an entry, for whatever reason (a command, its time has come, memory is short), does it here; and before it is
//! done, the entry is handed to the snapshot that has not seen it. Nothing else knows of snapshots.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use crate::eviction::Clock;
use crate::snapshot::{End, FULL, Item, Queue};
use crate::structures::{Dict, hash};
use crate::value::Value;

/// Entries that one step of the walker looks at.
const STEP: usize = 256;
/// For how long a write may wait for the snapshot's writer.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    /// Milliseconds since 1970; 0: never.
    expires: i64,
    /// The snapshot that was under way, or the last one, when this entry was made or handed over.
    epoch: u32,
    /// When it was last asked for, and how often: see [`crate::eviction`].
    access: Cell<u32>,
}

/// Somebody's interest in a key.
#[derive(Clone, Debug, Default)]
struct Interest {
    /// Changes of the key that have been seen.
    version: u64,
    /// How many WATCH it.
    watchers: usize,
    /// How many wait for it.
    waiters: usize,
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

/// A snapshot under way.
#[derive(Debug)]
struct Walk {
    queue: Queue,
    /// Tables that were flushed before the walker had passed them, each with the number of its database.
    flushed: Vec<(usize, Dict<Entry>, u64)>,
    /// Bytes handed over by writes.
    handed: usize,
    /// The most that may wait.
    limit: usize,
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

/// What the walker found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    /// There is no snapshot.
    Nothing,
    /// There is more to do, now.
    More,
    /// The queue is full.
    Full,
    /// That was the end.
    Done,
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
        }
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
        self.expire(database, hash, key);
        let entry = self.databases[database].entries.get_hashed(hash, key)?;
        self.clock.touch(&entry.access);
        Some(&entry.value)
    }

    /// The value of a key, for who must not leave a trace in its access.
    pub fn peek(&mut self, database: usize, key: &[u8]) -> Option<&Value> {
        let hash = hash(key);
        self.expire(database, hash, key);
        self.databases[database].entries.get_hashed(hash, key).map(|entry| &entry.value)
    }

    /// Whether there is such a key.
    pub fn contains(&mut self, database: usize, key: &[u8]) -> bool {
        self.peek(database, key).is_some()
    }

    /// The access of a key, as [`Clock`] reads it.
    pub fn access(&mut self, database: usize, key: &[u8]) -> Option<u32> {
        let hash = hash(key);
        self.expire(database, hash, key);
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
            let entry = Entry { value: make(), expires: 0, epoch: self.epoch, access: Cell::new(self.clock.fresh()) };
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
        let access = Cell::new(self.clock.fresh());
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
        self.expire(database, hash, key);
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

    /// Drops a key whose time has come.
    fn expire(&mut self, database: usize, hash: u64, key: &[u8]) {
        let it = &self.databases[database];
        if it.expiring.is_empty() {
            return;
        }
        let late = it.entries.get_hashed(hash, key).is_some_and(|entry| entry.expires != 0 && entry.expires <= self.now);
        if late {
            let cause = std::mem::replace(&mut self.cause, Cause::Expired);
            if self.drop_entry(database, hash, key).is_some() {
                self.expired += 1;
            }
            self.cause = cause;
        }
    }

    /// Drops a key because memory is short. Whether there was one.
    pub fn evict(&mut self, database: usize, key: &[u8]) -> bool {
        let cause = std::mem::replace(&mut self.cause, Cause::Evicted);
        let dropped = self.drop_entry(database, hash(key), key).is_some();
        self.cause = cause;
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
        keys.iter().for_each(|key| self.expire(database, hash(key), key));
        ((self.expired - before) as usize, keys.len())
    }

    // ---- whole databases ------------------------------------------------------------------------------------------------------------

    /// Keys from a cursor on, as [`Dict::scan`] has them. Those whose time has come are left out.
    pub fn scan(&self, database: usize, cursor: u64, count: usize, mut see: impl FnMut(&[u8], &Value)) -> u64 {
        let now = self.now;
        self.databases[database].entries.scan(cursor, count, |key, entry| {
            if entry.expires == 0 || entry.expires > now {
                see(key, &entry.value);
            }
        })
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
            // In one piece: the walker goes on in it.
            walk.flushed.push((it.origin, entries, cursor));
        }
        self.changes += 1;
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

    // ---- who looks on ---------------------------------------------------------------------------------------------------------------

    fn touch(&mut self, database: usize, key: &[u8]) {
        self.changes += 1;
        if self.remembers {
            self.last = Some(key.into());
        }
        if self.record {
            self.touched.push((database, Some(key.into()), self.cause));
        }
        let interests = &mut self.interests[database];
        if !interests.is_empty()
            && let Some(interest) = interests.get_mut(key)
        {
            interest.version += 1;
            if interest.waiters > 0 && self.filled.last().is_none_or(|(db, last)| *db != database || **last != *key) {
                self.filled.push((database, key.into()));
            }
        }
    }

    /// Everything in a database changes that is there, in one of those that it is made of.
    fn touch_all(&mut self, database: usize, of: &[usize]) {
        if self.record {
            self.touched.push((database, None, self.cause));
        }
        let (databases, now) = (&self.databases, self.now);
        let lives = |entry: &Entry| entry.expires == 0 || entry.expires > now;
        for (key, interest) in &mut self.interests[database] {
            if !of.iter().any(|one| databases[*one].entries.get(key).is_some_and(lives)) {
                continue;
            }
            interest.version += 1;
            if interest.waiters > 0 {
                self.filled.push((database, key.clone()));
            }
        }
    }

    fn release(&mut self, database: usize, key: &[u8]) {
        if self.interests[database].get(key).is_some_and(|interest| interest.watchers + interest.waiters == 0) {
            self.interests[database].remove(key);
        }
    }

    /// Begins to watch a key. What to compare with: twice its version, and one more if the key is there.
    pub fn watch(&mut self, database: usize, key: &[u8]) -> u64 {
        let lives = self.contains(database, key);
        let interest = self.interests[database].entry(key.into()).or_default();
        interest.watchers += 1;
        interest.version << 1 | u64::from(lives)
    }

    /// Ends it. Whether the key has changed since.
    pub fn unwatch(&mut self, database: usize, key: &[u8], version: u64) -> bool {
        // A key whose time came only since has changed; one that nobody could see then, and can't now, has not.
        let late = self.databases[database].entries.get(key).is_some_and(|entry| entry.expires != 0 && entry.expires <= self.now);
        let Some(interest) = self.interests[database].get_mut(key) else { return true };
        let changed = interest.version != version >> 1 || late && version & 1 == 1;
        interest.watchers = interest.watchers.saturating_sub(1);
        self.release(database, key);
        changed
    }

    /// Somebody waits for a key from now on.
    pub fn await_key(&mut self, database: usize, key: &[u8]) {
        self.interests[database].entry(key.into()).or_default().waiters += 1;
    }

    /// And does not any more.
    pub fn unawait_key(&mut self, database: usize, key: &[u8]) {
        if let Some(interest) = self.interests[database].get_mut(key) {
            interest.waiters = interest.waiters.saturating_sub(1);
        }
        self.release(database, key);
    }

    /// Begins to remember which key changed last.
    pub fn remember_last(&mut self) {
        (self.last, self.remembers) = (None, true);
        self.made.clear();
    }

    /// The key that changed last since then.
    pub fn last_changed(&mut self) -> Option<&[u8]> {
        self.remembers = false;
        self.last.as_deref()
    }

    /// Keys that somebody waits for and that have changed, since this was asked last.
    pub fn filled(&mut self) -> Vec<(usize, Box<[u8]>)> {
        std::mem::take(&mut self.filled)
    }

    /// Whether there are any.
    pub fn has_filled(&self) -> bool {
        !self.filled.is_empty()
    }

    // ---- snapshots ------------------------------------------------------------------------------------------------------------------

    /// Begins a snapshot: what there is now goes into the queue, by and by. At most `limit` bytes of what writes hand over may wait.
    /// Takes the same time however much there is. `None`: there is one under way.
    pub fn begin_snapshot(&mut self, limit: usize) -> Option<Queue> {
        if self.walk.is_some() {
            return None;
        }
        self.epoch += 1;
        for (number, database) in self.databases.iter_mut().enumerate() {
            (database.origin, database.cursor) = (number, (!database.entries.is_empty()).then_some(0));
        }
        let queue = Queue::default();
        self.walk = Some(Walk { queue: queue.clone(), flushed: Vec::new(), handed: 0, limit });
        Some(queue)
    }

    /// Whether a snapshot is under way: its entries are not all handed over.
    pub fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Bytes that writes have handed over to the snapshot under way.
    pub fn handed_over(&self) -> usize {
        self.walk.as_ref().map_or(0, |walk| walk.handed)
    }

    /// Gives the snapshot up.
    pub fn abort_snapshot(&mut self, why: &str) {
        if let Some(walk) = self.walk.take() {
            walk.queue.finish(End::Aborted(why.to_owned()));
        }
    }

    /// One small step of the walker.
    pub fn walk(&mut self) -> Walked {
        let Some(walk) = &mut self.walk else { return Walked::Nothing };
        if walk.queue.is_deserted() {
            self.walk = None;
            return Walked::Done;
        }
        if walk.queue.weight() >= FULL {
            return Walked::Full;
        }
        let epoch = self.epoch;
        let hand_over = |database: usize, key: &[u8], entry: &mut Entry| {
            if entry.epoch < epoch {
                entry.epoch = epoch;
                walk.queue.push(item(database, key, entry));
            }
        };
        if let Some((database, entries, cursor)) = walk.flushed.last_mut() {
            *cursor = entries.scan_mut(*cursor, STEP, |key, entry| hand_over(*database, key, entry));
            if *cursor == 0 {
                walk.flushed.pop();
            }
            return Walked::More;
        }
        if let Some(database) = self.databases.iter_mut().find(|database| database.cursor.is_some()) {
            let origin = database.origin;
            let next = database.entries.scan_mut(database.cursor.unwrap_or(0), STEP, |key, entry| hand_over(origin, key, entry));
            database.cursor = (next != 0).then_some(next);
            return Walked::More;
        }
        walk.queue.finish(End::Complete);
        self.walk = None;
        Walked::Done
    }

    /// Hands an entry that is about to change to the snapshot that has not seen it.
    fn hand_over(&mut self, database: usize, hash: u64, key: &[u8]) {
        let Some(walk) = &mut self.walk else { return };
        let it = &mut self.databases[database];
        if it.cursor.is_none() || it.entries.get_hashed(hash, key).is_none_or(|entry| entry.epoch >= self.epoch) {
            return;
        }
        let Some(entry) = it.entries.get_mut_hashed(hash, key) else { return };
        entry.epoch = self.epoch;
        let item = item(it.origin, key, entry);
        walk.handed += item.key.len() + item.value.weight();
        let weight = walk.queue.push(item);
        if weight >= FULL && !walk.queue.wait_below(FULL, PAUSE) && walk.queue.weight() >= walk.limit {
            let limit = walk.limit;
            self.abort_snapshot(&format!(
                "writes handed over {weight} bytes faster than they were saved; snapshot-buffer allows {limit}: raise it, or save when less is written"
            ));
        }
    }
}

fn item(database: usize, key: &[u8], entry: &Entry) -> Item {
    Item { database, key: key.into(), value: entry.value.clone(), expires: (entry.expires != 0).then_some(entry.expires) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::value::{Hash, Limits, Text};

    /// What there is, in a form that can be compared: database and key; the value as text; the time.
    type Content = BTreeMap<(usize, Vec<u8>), (String, Option<i64>)>;

    fn show(value: &Value) -> String {
        match value {
            Value::Hash(hash) => {
                let fields: BTreeMap<_, _> = hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
                format!("{fields:?}")
            }
            other => format!("{other:?}"),
        }
    }

    fn content(store: &Store) -> Content {
        let mut all = Content::new();
        for (number, database) in store.databases.iter().enumerate() {
            for (key, entry) in database.entries.iter() {
                all.insert((number, key.to_vec()), (show(&entry.value), (entry.expires != 0).then_some(entry.expires)));
            }
        }
        all
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(usize, u16, i64),
        SetFor(usize, u16, i64),
        Append(usize, u16),
        Field(usize, u16, u8),
        Remove(usize, u16),
        Expires(usize, u16, Option<i64>),
        Rename(usize, u16, u16),
        Flush(usize),
        Swap(usize, usize),
        Time(i64),
        ExpireSome(usize),
        Walk(u8),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (db, key) = (0usize..3, 0u16..400);
        prop_oneof![
            6 => (db.clone(), key.clone(), any::<i64>()).prop_map(|(d, k, v)| Step::Set(d, k, v)),
            2 => (db.clone(), key.clone(), 1i64..200).prop_map(|(d, k, t)| Step::SetFor(d, k, t)),
            4 => (db.clone(), key.clone()).prop_map(|(d, k)| Step::Append(d, k)),
            4 => (db.clone(), key.clone(), any::<u8>()).prop_map(|(d, k, f)| Step::Field(d, k, f)),
            4 => (db.clone(), key.clone()).prop_map(|(d, k)| Step::Remove(d, k)),
            2 => (db.clone(), key.clone(), prop::option::of(1i64..200)).prop_map(|(d, k, t)| Step::Expires(d, k, t)),
            2 => (db.clone(), key.clone(), key).prop_map(|(d, a, b)| Step::Rename(d, a, b)),
            1 => db.clone().prop_map(Step::Flush),
            1 => (db.clone(), db.clone()).prop_map(|(a, b)| Step::Swap(a, b)),
            1 => (1i64..60).prop_map(Step::Time),
            1 => db.prop_map(Step::ExpireSome),
            3 => (1u8..4).prop_map(Step::Walk),
            1 => Just(Step::Take),
        ]
    }

    fn key(number: u16) -> Vec<u8> {
        format!("key:{number}").into_bytes()
    }

    fn act(store: &mut Store, step: &Step, taken: &mut Vec<Item>, queue: Option<&Queue>) {
        match *step {
            Step::Set(d, k, v) => store.set(d, &key(k), Value::Text(Text::Integer(v)), Expiry::Keep),
            Step::SetFor(d, k, t) => store.set(d, &key(k), Value::Text(Text::new(b"short")), Expiry::At(store.now + t)),
            Step::Append(d, k) => match store.edit_or(d, &key(k), || Value::Text(Text::new(b"x"))) {
                Value::Text(text) => text.bytes_mut().push(b'y'),
                other => *other = Value::Text(Text::new(b"was a hash")),
            },
            Step::Field(d, k, f) => match store.edit_or(d, &key(k), || Value::Hash(Arc::default())) {
                Value::Hash(hash) => drop(Arc::make_mut(hash).insert(&[f], &[f; 70], &Limits::default())),
                other => *other = Value::Hash(Arc::new(Hash::default())),
            },
            Step::Remove(d, k) => drop(store.remove(d, &key(k))),
            Step::Expires(d, k, t) => drop(store.set_expires(d, &key(k), t.map(|t| store.now + t))),
            Step::Rename(d, a, b) => {
                if let Some((value, expires)) = store.remove(d, &key(a)) {
                    store.set(d, &key(b), value, expires.map_or(Expiry::Never, Expiry::At));
                }
            }
            Step::Flush(d) => store.flush(d),
            Step::Swap(a, b) => store.swap(a, b),
            Step::Time(t) => store.now += t,
            Step::ExpireSome(d) => drop(store.expire_some(d, &mut 0, 50)),
            Step::Walk(n) => (0..n).for_each(|_| {
                store.walk();
            }),
            Step::Take => {
                if let Some(queue) = queue
                    && queue.weight() > 0
                {
                    taken.extend(queue.take().unwrap_or_default());
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is done meanwhile, a snapshot is what there was when it began: each entry, once.
        #[test]
        fn a_snapshot_is_one_point_in_time(before in prop::collection::vec(step(), 0..400), during in prop::collection::vec(step(), 0..200)) {
            let mut store = Store::new(3);
            store.now = 1000;
            let mut taken = Vec::new();
            before.iter().for_each(|step| act(&mut store, step, &mut taken, None));
            // A first snapshot that is given up leaves nothing behind.
            let given_up = store.begin_snapshot(usize::MAX).unwrap();
            if store.walk() == Walked::More {
                store.abort_snapshot("it was told to");
                prop_assert_eq!(given_up.take().unwrap_err(), End::Aborted("it was told to".into()));
            }

            let then = content(&store);
            let queue = store.begin_snapshot(usize::MAX).unwrap();
            prop_assert!(store.begin_snapshot(1).is_none());
            during.iter().for_each(|step| act(&mut store, step, &mut taken, Some(&queue)));
            while !matches!(store.walk(), Walked::Done | Walked::Nothing) {}
            loop {
                match queue.take() {
                    Ok(items) => taken.extend(items),
                    Err(end) => {
                        prop_assert_eq!(end, End::Complete);
                        break;
                    }
                }
            }
            let count = taken.len();
            let seen: Content = taken.into_iter().map(|item| ((item.database, item.key.into_vec()), (show(&item.value), item.expires))).collect();
            prop_assert_eq!(count, seen.len(), "an entry came twice");
            prop_assert_eq!(seen, then);
        }
    }

    #[test]
    fn writes_that_hand_over_too_much_end_the_snapshot() {
        let mut store = Store::new(1);
        let large = || Value::Text(Text::new(&vec![b'x'; 1 << 20]));
        (0..40).for_each(|k| store.set(0, &key(k), large(), Expiry::Never));
        let queue = store.begin_snapshot(FULL + (4 << 20)).unwrap();
        (0..40).for_each(|k| store.set(0, &key(k), large(), Expiry::Never));
        assert!(!store.is_walking());
        assert!(matches!(queue.take(), Err(End::Aborted(why)) if why.contains("snapshot-buffer")));
        assert!(store.begin_snapshot(FULL).is_some(), "the next one may begin");
    }

    #[test]
    fn what_nobody_takes_is_not_kept() {
        let mut store = Store::new(1);
        (0..1000).for_each(|k| store.set(0, &key(k), Value::Text(Text::Integer(1)), Expiry::Never));
        let queue = store.begin_snapshot(usize::MAX).unwrap();
        store.walk();
        queue.desert();
        assert_eq!((store.walk(), queue.weight()), (Walked::Done, 0));
        assert!(!store.is_walking());
    }

    #[test]
    fn watched_keys_tell_of_changes() {
        let mut store = Store::new(2);
        store.set(0, b"a", Value::Text(Text::Integer(1)), Expiry::At(10));
        for (change, expected) in [
            (Box::new(|_: &mut Store| {}) as Box<dyn Fn(&mut Store)>, false),
            (Box::new(|store| assert!(store.get(0, b"a").is_some())), false),
            (Box::new(|store| store.set(1, b"a", Value::Text(Text::Integer(2)), Expiry::Never)), false),
            (Box::new(|store| assert!(store.edit(0, b"a").is_some())), true),
            (Box::new(|store| assert!(store.set_expires(0, b"a", Some(10)))), true),
            (Box::new(|store| store.swap(0, 1)), true),
            (Box::new(|store| store.swap(0, 1)), true),
            (Box::new(|store| store.now = 20), true),
        ] {
            let version = store.watch(0, b"a");
            change(&mut store);
            assert_eq!(store.unwatch(0, b"a", version), expected);
        }
        assert!(store.interests.iter().all(HashMap::is_empty));
    }
}
