//! What the store has, in memory: names, versions, and where each value lies.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::format::BlobRef;
use crate::{Key, Usage};

/// Bytes of a record in the journal besides its names and its value, about.
const OVERHEAD: u64 = 24;
/// Bytes of a blob's description.
const BLOB: u64 = 104;

/// A frame of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Which of the generation's segments, and so which key.
    pub segment: u32,
    /// Number of the frame.
    pub sequence: u64,
    /// Where it begins.
    pub offset: u64,
    /// Header and body.
    pub length: u32,
}

/// Where a value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// In a frame of the journal.
    Journal(Spot),
    /// In a blob.
    Blob(Arc<BlobRef>),
}

/// A record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Differs for every value that this enclave has seen.
    pub serial: u64,
    /// Epoch of the commit that wrote it.
    pub version: u64,
    /// Bytes of the value.
    pub length: u64,
    /// Where it is.
    pub at: At,
}

impl Record {
    /// Bytes that it takes in the journal, about.
    fn weight(&self, names: u64) -> u64 {
        OVERHEAD
            + names
            + match self.at {
                At::Journal(_) => self.length,
                At::Blob(_) => BLOB,
            }
    }

    /// Name of its blob, if it has one.
    pub fn blob(&self) -> Option<[u8; 32]> {
        match &self.at {
            At::Blob(blob) => Some(blob.id),
            At::Journal(_) => None,
        }
    }
}

type Shelf = BTreeMap<String, Record>;

/// All records, by owner, kind and name.
#[derive(Default)]
pub struct Index {
    owners: BTreeMap<String, BTreeMap<String, Shelf>>,
    serial: u64,
    live: u64,
    records: u64,
}

impl Index {
    /// A record.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.owners.get(&key.owner)?.get(&key.kind)?.get(&key.name)
    }

    /// Sets a record. Returns its serial number and what it replaces.
    pub fn set(&mut self, key: &Key, version: u64, length: u64, at: At) -> (u64, Option<Record>) {
        self.serial += 1;
        let record = Record { serial: self.serial, version, length, at };
        self.live += record.weight(key.len());
        self.records += 1;
        let shelf = self.owners.entry(key.owner.clone()).or_default().entry(key.kind.clone()).or_default();
        let old = shelf.insert(key.name.clone(), record);
        self.forget(key, old.as_ref());
        (self.serial, old)
    }

    /// Removes a record.
    pub fn remove(&mut self, key: &Key) -> Option<Record> {
        let kinds = self.owners.get_mut(&key.owner)?;
        let shelf = kinds.get_mut(&key.kind)?;
        let old = shelf.remove(&key.name);
        if shelf.is_empty() {
            kinds.remove(&key.kind);
        }
        if kinds.is_empty() {
            self.owners.remove(&key.owner);
        }
        self.forget(key, old.as_ref());
        old
    }

    fn forget(&mut self, key: &Key, old: Option<&Record>) {
        if let Some(old) = old {
            self.live -= old.weight(key.len());
            self.records -= 1;
        }
    }

    /// Bytes that the records would take in a new generation, about.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// How many records there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Names and versions on a shelf, from `from` on.
    pub fn list<'a>(&'a self, owner: &str, kind: &str, from: &str) -> impl Iterator<Item = (&'a str, u64)> + use<'a> {
        let shelf = self.owners.get(owner).and_then(|kinds| kinds.get(kind));
        let range = shelf.map(|shelf| shelf.range::<str, _>((Bound::Included(from), Bound::Unbounded)));
        range.into_iter().flatten().map(|(name, record)| (name.as_str(), record.version))
    }

    /// All records after `after`, or all, in the order of their keys.
    pub fn after<'a>(&'a self, after: Option<&Key>) -> impl Iterator<Item = (Key, &'a Record)> + use<'a> {
        let beyond = |text: &str| (Bound::Excluded(text.to_owned()), Bound::Unbounded);
        let same_owner = after.and_then(|key| self.owners.get_key_value(&key.owner));
        let same_shelf = after.zip(same_owner).and_then(|(key, (_, kinds))| kinds.get_key_value(&key.kind));
        let rest_of_shelf = after.zip(same_owner).zip(same_shelf).map(|((key, (owner, _)), (kind, shelf))| {
            shelf.range(beyond(&key.name)).map(move |(name, record)| (owner, kind, name, record))
        });
        let rest_of_owner = after.zip(same_owner).map(|(key, (owner, kinds))| {
            kinds
                .range(beyond(&key.kind))
                .flat_map(move |(kind, shelf)| shelf.iter().map(move |(name, record)| (owner, kind, name, record)))
        });
        let rest = match after {
            Some(key) => self.owners.range(beyond(&key.owner)),
            None => self.owners.range::<String, _>(..),
        };
        let rest = rest.flat_map(|(owner, kinds)| {
            kinds.iter().flat_map(move |(kind, shelf)| shelf.iter().map(move |(name, record)| (owner, kind, name, record)))
        });
        let all = rest_of_shelf.into_iter().flatten().chain(rest_of_owner.into_iter().flatten()).chain(rest);
        all.map(|(owner, kind, name, record)| (Key::new(owner.as_str(), kind.as_str(), name.as_str()), record))
    }

    /// Gives new places to the values that lie in the journal, in the order of their keys.
    pub fn relocate(&mut self, spots: impl IntoIterator<Item = Spot>) {
        let records = self.owners.values_mut().flat_map(|kinds| kinds.values_mut()).flat_map(|shelf| shelf.values_mut());
        let old = records.filter_map(|record| match &mut record.at {
            At::Journal(spot) => Some(spot),
            At::Blob(_) => None,
        });
        for (old, new) in old.zip(spots) {
            *old = new;
        }
    }

    /// Who has records, and how much.
    pub fn usage(&self) -> impl Iterator<Item = (&str, Usage)> {
        self.owners.iter().map(|(owner, kinds)| {
            let mut usage = Usage::default();
            for (kind, shelf) in kinds {
                for (name, record) in shelf {
                    let size = record.length + (owner.len() + kind.len() + name.len()) as u64;
                    usage = usage.replaced(None, Some(size));
                }
            }
            (owner.as_str(), usage)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(offset: u64) -> Spot {
        Spot { segment: 0, sequence: 0, offset, length: 0 }
    }

    #[test]
    fn records_are_walked_in_order_from_anywhere() {
        let mut index = Index::default();
        let mut keys = Vec::new();
        for owner in ["a", "b", "c"] {
            for kind in ["x", "y"] {
                for name in ["1", "2", "3"] {
                    keys.push(Key::new(owner, kind, name));
                }
            }
        }
        for key in keys.iter().rev() {
            index.set(key, 1, 10, At::Journal(spot(0)));
        }
        let walk = |after: Option<&Key>| index.after(after).map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(walk(None), keys);
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(walk(Some(key)), keys[at + 1..], "{key}");
        }
        assert_eq!(walk(Some(&Key::new("b", "xx", "1"))), keys[9..], "after a key that is gone");
        assert_eq!(index.list("b", "y", "2").collect::<Vec<_>>(), [("2", 1), ("3", 1)]);
        index.relocate((0..).map(spot));
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(index.get(key).unwrap().at, At::Journal(spot(at as u64)));
        }
    }

    #[test]
    fn sums_follow_changes() {
        let mut index = Index::default();
        let key = Key::new("a", "x", "1");
        index.set(&key, 1, 10, At::Journal(spot(0)));
        let once = index.live();
        let (_, old) = index.set(&key, 2, 10, At::Journal(spot(1)));
        assert_eq!((old.unwrap().version, index.live(), index.records()), (1, once, 1));
        assert_eq!(index.usage().collect::<Vec<_>>(), [("a", Usage { bytes: 13, records: 1 })]);
        assert_eq!(index.remove(&key).unwrap().version, 2);
        assert_eq!((index.live(), index.records(), index.usage().count()), (0, 0, 0));
        assert!(index.remove(&key).is_none());
    }
}
