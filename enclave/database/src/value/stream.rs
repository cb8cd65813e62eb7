//! Entries in the order of their numbers, and groups of consumers that read them.

use std::collections::BTreeMap;
use std::fmt;

use super::Blob;
use crate::number;
use crate::structures::Sequence;

/// The number of an entry: a time in milliseconds, and a count within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Milliseconds since 1970, usually.
    pub ms: u64,
    /// Count within the millisecond.
    pub seq: u64,
}

impl Id {
    /// The lowest; no entry has it.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// The highest.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// Reads `MS-SEQ`, or `MS` alone, to which `missing` is added.
    pub fn parse(text: &[u8], missing: u64) -> Option<Id> {
        let dash = text.iter().position(|byte| *byte == b'-');
        let (ms, seq) = dash.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
        Some(Id { ms: number::natural(ms)?, seq: seq.map_or(Some(missing), number::natural)? })
    }

    /// The next one. `None`: there is none.
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The one before. `None`: there is none.
    pub fn previous(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub id: Id,
    /// Fields and values in turn, each behind its length: one allocation an entry.
    packed: Blob,
}

impl Item {
    /// An entry of these fields and values in turn.
    pub fn new<T: AsRef<[u8]>>(id: Id, parts: &[T]) -> Item {
        let mut packed = Vec::with_capacity(parts.iter().map(|part| part.as_ref().len() + 4).sum());
        for part in parts {
            // A request's parts are below 4 GB each.
            packed.extend_from_slice(&(part.as_ref().len() as u32).to_le_bytes());
            packed.extend_from_slice(part.as_ref());
        }
        Item { id, packed: packed.into() }
    }

    /// Fields and values in turn.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = &*self.packed;
        std::iter::from_fn(move || {
            let (length, rest) = left.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            left = rest;
            Some(part)
        })
    }
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which.
    pub id: Id,
    /// To whom.
    pub consumer: Blob,
    /// When, last: milliseconds since 1970.
    pub time: i64,
    /// How often.
    pub count: u64,
}

/// Who reads for a group.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    /// When it was last heard of: milliseconds since 1970.
    pub seen: i64,
    /// What was delivered to it and not acknowledged.
    pub pending: Sequence<Id>,
}

impl Consumer {
    fn place(&self, id: Id) -> usize {
        self.pending.partition_point(|known| *known < id)
    }

    fn forget(&mut self, id: Id) {
        let place = self.place(id);
        if self.pending.get(place) == Some(&id) {
            self.pending.remove(place);
        }
    }
}

/// Consumers that share the entries of a stream.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The last entry that was delivered.
    pub last: Id,
    /// How many were, if that is known.
    pub read: Option<u64>,
    /// What was delivered and not acknowledged, by number.
    pub pending: Sequence<Pending>,
    /// Its consumers.
    pub consumers: BTreeMap<Blob, Consumer>,
}

impl Group {
    /// The place of the first pending entry from this number on.
    pub fn place(&self, id: Id) -> usize {
        self.pending.partition_point(|known| known.id < id)
    }

    /// A pending entry.
    pub fn find(&self, id: Id) -> Option<&Pending> {
        self.pending.get(self.place(id)).filter(|pending| pending.id == id)
    }

    /// Notes that an entry is pending, or now with another consumer.
    pub fn deliver(&mut self, pending: Pending) {
        let (id, place) = (pending.id, self.place(pending.id));
        if let Some(consumer) = self.consumers.get_mut(&pending.consumer) {
            let at = consumer.place(id);
            if consumer.pending.get(at) != Some(&id) {
                consumer.pending.insert(at, id);
            }
        }
        match self.pending.get(place).filter(|known| known.id == id).map(|known| known.consumer.clone()) {
            Some(before) => {
                if before != pending.consumer
                    && let Some(consumer) = self.consumers.get_mut(&before)
                {
                    consumer.forget(id);
                }
                if let Some(known) = self.pending.get_mut(place) {
                    *known = pending;
                }
            }
            None => self.pending.insert(place, pending),
        }
    }

    /// A pending entry is so no longer. Whether it was.
    pub fn acknowledge(&mut self, id: Id) -> bool {
        let place = self.place(id);
        if self.pending.get(place).is_none_or(|known| known.id != id) {
            return false;
        }
        if let Some(pending) = self.pending.remove(place)
            && let Some(consumer) = self.consumers.get_mut(&pending.consumer)
        {
            consumer.forget(id);
        }
        true
    }

    /// Drops a consumer. What was pending with it.
    pub fn drop_consumer(&mut self, name: &[u8]) -> usize {
        let Some(consumer) = self.consumers.remove(name) else { return 0 };
        for id in consumer.pending.iter() {
            let place = self.place(*id);
            self.pending.remove(place);
        }
        consumer.pending.len()
    }
}

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    items: Sequence<Item>,
    /// The highest number that was ever used.
    pub last: Id,
    /// The highest number that was deleted by name.
    pub max_deleted: Id,
    /// Entries that were ever added.
    pub added: u64,
    /// Groups by name.
    pub groups: BTreeMap<Blob, Group>,
}

impl Stream {
    /// Entries.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Entries by number.
    pub fn items(&self) -> &Sequence<Item> {
        &self.items
    }

    /// The places of entries from `start` to `end`, both included.
    pub fn places(&self, start: Id, end: Id) -> std::ops::Range<usize> {
        let first = self.items.partition_point(|item| item.id < start);
        first..self.items.partition_point(|item| item.id <= end).max(first)
    }

    /// An entry.
    pub fn find(&self, id: Id) -> Option<&Item> {
        self.items.get(self.items.partition_point(|item| item.id < id)).filter(|item| item.id == id)
    }

    /// The number of the first entry.
    pub fn first(&self) -> Id {
        self.items.first().map_or(Id::MIN, |item| item.id)
    }

    /// Adds an entry, whose number is higher than any.
    pub fn push(&mut self, item: Item) {
        self.last = item.id;
        self.added += 1;
        self.items.push_back(item);
    }

    /// Deletes an entry. Whether there was one.
    pub fn remove(&mut self, id: Id) -> bool {
        let place = self.items.partition_point(|item| item.id < id);
        if self.items.get(place).is_none_or(|item| item.id != id) {
            return false;
        }
        self.items.remove(place);
        self.max_deleted = self.max_deleted.max(id);
        true
    }

    /// Drops so many entries from the beginning.
    pub fn trim(&mut self, count: usize) {
        self.items.remove_range(0..count.min(self.items.len()));
    }

    /// Whether an entry from this number on was deleted by name, so that counts say nothing.
    pub fn has_gaps(&self, start: Id) -> bool {
        !self.is_empty() && self.max_deleted != Id::MIN && start <= self.max_deleted
    }

    /// How many entries were added up to this one, if that can be told.
    pub fn position(&self, id: Id) -> Option<u64> {
        if self.added == 0 || self.is_empty() && id <= self.last || id == self.last {
            return Some(self.added);
        }
        if id > self.last {
            return None;
        }
        let first = self.first();
        if self.max_deleted == Id::MIN || self.max_deleted < first {
            let before = self.added.saturating_sub(self.len() as u64);
            if id < first {
                return Some(before);
            }
            if id == first {
                return Some(before + 1);
            }
        }
        None
    }

    /// How many entries a group has not got yet, if that can be told.
    pub fn lag(&self, group: &Group) -> Option<u64> {
        if self.added == 0 {
            return Some(0);
        }
        match group.read {
            Some(read) if !self.has_gaps(group.last) => Some(self.added.saturating_sub(read)),
            _ => self.position(group.last).map(|read| self.added.saturating_sub(read)),
        }
    }

    /// Notes that a group got this entry.
    pub fn advance(&self, group: &mut Group, id: Id) {
        if id > group.last {
            group.read = match group.read {
                Some(read) if !self.has_gaps(id) => Some(read + 1),
                _ if self.added > 0 => self.position(id),
                read => read,
            };
            group.last = id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_parts() {
        let item = Item::new(Id { ms: 1, seq: 2 }, &[&b"a"[..], b"", b"long value"]);
        assert_eq!(item.parts().collect::<Vec<_>>(), [&b"a"[..], b"", b"long value"]);
        assert_eq!(item.id.to_string(), "1-2");
        assert_eq!(Id::parse(b"1-2", 0), Some(item.id));
        for bad in ["", "-", "1-", "-1", "a-1", "1-2-3", "18446744073709551616"] {
            assert_eq!(Id::parse(bad.as_bytes(), 0), None, "{bad}");
        }
    }

    #[test]
    fn a_pending_entry_is_with_one_consumer() {
        let mut group = Group::default();
        for name in ["a", "b"] {
            group.consumers.insert(name.as_bytes().into(), Consumer::default());
        }
        let pending = |seq, consumer: &str| Pending { id: Id { ms: 1, seq }, consumer: consumer.as_bytes().into(), time: 0, count: 1 };
        group.deliver(pending(2, "a"));
        group.deliver(pending(1, "a"));
        group.deliver(pending(2, "b"));
        let counts = |group: &Group| group.consumers.values().map(|consumer| consumer.pending.len()).collect::<Vec<_>>();
        assert_eq!((group.pending.len(), counts(&group)), (2, vec![1, 1]));
        assert!(group.acknowledge(Id { ms: 1, seq: 2 }) && !group.acknowledge(Id { ms: 1, seq: 2 }));
        assert_eq!(counts(&group), [1, 0]);
        assert_eq!((group.drop_consumer(b"a"), group.pending.len()), (1, 0));
    }
}
