//! The walker of a snapshot, and what writes hand over to it.

use std::time::{Duration, Instant};

use super::{Entry, Store};
use crate::snapshot::{AHEAD, End, FULL, Item, Queue};
use crate::structures::Dict;

/// Entries that one step of the walker looks at.
const STEP: usize = 256;
/// For how long a write may wait for the snapshot's writer.
const PAUSE: Duration = Duration::from_millis(20);

/// A snapshot under way.
#[derive(Debug)]
pub(super) struct Walk {
    queue: Queue,
    /// Tables that were flushed before the walker had passed them, each with the number of its database.
    flushed: Vec<(usize, Dict<Entry>, u64)>,
    /// Bytes handed over by writes.
    handed: usize,
    /// Bytes handed over by all, and since when.
    given: usize,
    began: Instant,
    /// The most that may wait.
    limit: usize,
}

/// What the walker found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    /// There is no snapshot.
    Nothing,
    /// There is more to do, now.
    More,
    /// The queue is as full as the walker may make it.
    Full,
    /// That was the end.
    Done,
}

impl Walk {
    /// Takes a table that was dropped, in one piece: the walker goes on in it.
    pub(super) fn hand_over_all(&mut self, database: usize, entries: Dict<Entry>, cursor: u64) {
        self.flushed.push((database, entries, cursor));
    }
}

impl Store {
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
        self.walk = Some(Walk { queue: queue.clone(), flushed: Vec::new(), handed: 0, given: 0, began: Instant::now(), limit });
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

    /// Whether the snapshot under way has been given more than so many bytes a second.
    pub fn is_given_more(&self, bytes_a_second: usize) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.given as f64 > walk.began.elapsed().as_secs_f64() * bytes_a_second as f64)
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
        if walk.queue.weight() >= AHEAD {
            return Walked::Full;
        }
        let epoch = self.epoch;
        let mut hand_over = |database: usize, key: &[u8], entry: &mut Entry| {
            if entry.epoch < epoch {
                entry.epoch = epoch;
                walk.given += key.len() + entry.value.weight();
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
    pub(super) fn hand_over(&mut self, database: usize, hash: u64, key: &[u8]) {
        let Some(walk) = &mut self.walk else { return };
        let it = &mut self.databases[database];
        if it.cursor.is_none() || it.entries.get_hashed(hash, key).is_none_or(|entry| entry.epoch >= self.epoch) {
            return;
        }
        let Some(entry) = it.entries.get_mut_hashed(hash, key) else { return };
        entry.epoch = self.epoch;
        let item = item(it.origin, key, entry);
        let bytes = item.key.len() + item.value.weight();
        (walk.handed, walk.given) = (walk.handed + bytes, walk.given + bytes);
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
