//! What a key can hold. To clone a value is to share it: that is what a snapshot takes.

mod hash;
mod set;
mod sorted_set;
pub mod stream;
mod text;

use std::sync::Arc;

pub use hash::Hash;
pub use set::Set;
pub use sorted_set::{Member, SortedSet};
pub use stream::{Consumer, Group, Id, Item, Pending, Stream};
pub use text::Text;

use crate::structures::Sequence;

/// Bytes that are shared and never changed.
pub type Blob = Arc<[u8]>;

/// Up to which size values are kept in their small forms. Those that are large stay so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fields of a hash, and bytes of a field or value (hash-max-listpack-entries, -value).
    pub hash: (usize, usize),
    /// Members of a sorted set, and bytes of one (zset-max-listpack-entries, -value).
    pub sorted_set: (usize, usize),
    /// Whole numbers of a set (set-max-intset-entries).
    pub set: usize,
}

impl Default for Limits {
    /// Redis's.
    fn default() -> Self {
        Limits { hash: (128, 64), sorted_set: (128, 64), set: 512 }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Bytes.
    Text(Text),
    /// Bytes in an order.
    List(Sequence<Blob>),
    /// Fields and their values.
    Hash(Arc<Hash>),
    /// Members.
    Set(Arc<Set>),
    /// Members in the order of their scores.
    SortedSet(Arc<SortedSet>),
    /// Entries in the order of their numbers.
    Stream(Arc<Stream>),
}

impl Value {
    /// As TYPE names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "string",
            Value::List(_) => "list",
            Value::Hash(_) => "hash",
            Value::Set(_) => "set",
            Value::SortedSet(_) => "zset",
            Value::Stream(_) => "stream",
        }
    }

    /// As OBJECT ENCODING names what Redis would have chosen, where the choice shows.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::Text(text) => text.encoding(),
            Value::List(_) => "quicklist",
            Value::Hash(hash) => hash.encoding(),
            Value::Set(set) => set.encoding(),
            Value::SortedSet(set) => set.encoding(),
            Value::Stream(_) => "stream",
        }
    }

    /// Whether it has no elements: such a value is no value, and its key goes.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Text(_) => false,
            Value::List(list) => list.is_empty(),
            Value::Hash(hash) => hash.is_empty(),
            Value::Set(set) => set.is_empty(),
            Value::SortedSet(set) => set.is_empty(),
            // An empty stream still knows its last number and its groups.
            Value::Stream(_) => false,
        }
    }

    /// About how many bytes it takes, found in constant time: for bounds, not for accounts.
    pub fn weight(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::List(list) => list.len() * 48,
            Value::Hash(hash) => hash.len() * 96,
            Value::Set(set) => set.len() * 64,
            Value::SortedSet(set) => set.len() * 128,
            Value::Stream(stream) => stream.len() * 128,
        }
    }
}
