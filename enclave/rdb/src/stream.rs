//! Streams: what one holds, and the packed nodes in which a snapshot has its entries.

use crate::compact::{ListpackWriter, listpack};

/// Milliseconds, and a number among those of the same millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Milliseconds since 1970, or what a client said they were.
    pub ms: u64,
    /// Number.
    pub sequence: u64,
}

impl StreamId {
    /// Sixteen bytes, big-endian.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.sequence)).to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> StreamId {
        let whole = u128::from_be_bytes(bytes);
        StreamId { ms: (whole >> 64) as u64, sequence: whole as u64 }
    }
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Its id; they grow.
    pub id: StreamId,
    /// Fields and values, in order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a stream has beside its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Highest id that was given.
    pub last: StreamId,
    /// Id of the first entry; 0-0 in an empty stream.
    pub first: StreamId,
    /// Highest id that was deleted.
    pub max_deleted: StreamId,
    /// Entries that were ever added.
    pub added: u64,
    /// Groups of consumers.
    pub groups: Vec<Group>,
}

/// A group of consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: Vec<u8>,
    /// Last id that was delivered.
    pub last: StreamId,
    /// Entries that it read; -1: not known.
    pub read: i64,
    /// Entries that were delivered and not acknowledged.
    pub pending: Vec<Pending>,
    /// Consumers.
    pub consumers: Vec<Consumer>,
}

/// A delivery that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Of which entry.
    pub id: StreamId,
    /// Place of its consumer in [`Group::consumers`].
    pub consumer: usize,
    /// Milliseconds since 1970 of the last delivery.
    pub delivered: i64,
    /// How often.
    pub times: u64,
}

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Name.
    pub name: Vec<u8>,
    /// Milliseconds since 1970 at which it was last heard of.
    pub seen: i64,
    /// Milliseconds since 1970 at which it last got something, or -1. Version 9 and 10 don't have it: it is `seen` then.
    pub active: i64,
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Entries by id.
    pub entries: Vec<StreamEntry>,
    /// The rest.
    pub state: StreamState,
}

/// Bytes of names that the entries of one node may repeat.
const MAX_REPEATED: usize = 64 << 20;
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// Reads a node (`t_stream.c`): the fields of its first entry, then entries whose ids are differences to the node's. Deleted ones are left out.
pub(crate) fn read_node(base: StreamId, node: &[u8], into: &mut Vec<StreamEntry>) -> Option<()> {
    let mut elements = listpack(node)?.into_iter();
    let mut next = || elements.next();
    let integer = |element: Option<Vec<u8>>| std::str::from_utf8(&element?).ok()?.parse::<i64>().ok();
    let (here, deleted) = (integer(next())?, integer(next())?);
    let fields = integer(next())?;
    let mut names = Vec::new();
    for _ in 0..fields {
        names.push(next()?);
    }
    integer(next())?;
    // Names stand once in the node and in each entry of the stream: a small node could become more than there is memory.
    let mut budget = node.len().saturating_mul(16).saturating_add(MAX_REPEATED);
    let repeated = names.iter().map(Vec::len).sum::<usize>();
    for _ in 0..here.checked_add(deleted)? {
        let flags = integer(next())?;
        // The differences wrap, as Redis's do.
        let id =
            StreamId { ms: base.ms.wrapping_add(integer(next())? as u64), sequence: base.sequence.wrapping_add(integer(next())? as u64) };
        let mut fields = Vec::new();
        if flags & SAME_FIELDS != 0 {
            budget = budget.checked_sub(repeated)?;
            for name in &names {
                fields.push((name.clone(), next()?));
            }
        } else {
            for _ in 0..integer(next())? {
                fields.push((next()?, next()?));
            }
        }
        integer(next())?;
        if flags & DELETED == 0 {
            if into.last().is_some_and(|last| last.id >= id) {
                return None;
            }
            into.push(StreamEntry { id, fields });
        }
    }
    next().is_none().then_some(())
}

/// Entries that one node has at most, as Redis's `stream-node-max-entries`.
pub(crate) const NODE_ENTRIES: usize = 100;
/// Bytes from which a node is full, as Redis's `stream-node-max-bytes`.
pub(crate) const NODE_BYTES: usize = 4096;

/// A node of these entries, of which there must be one.
pub(crate) fn write_node<F: AsRef<[u8]>, V: AsRef<[u8]>>(entries: &[(StreamId, Vec<(F, V)>)]) -> Option<Vec<u8>> {
    let (base, names) = entries.first()?;
    let mut writer = ListpackWriter::new();
    writer.integer(entries.len() as i64);
    writer.integer(0);
    writer.integer(names.len() as i64);
    names.iter().for_each(|(name, _)| writer.string(name.as_ref()));
    writer.integer(0);
    for (id, fields) in entries {
        let same = fields.len() == names.len() && fields.iter().zip(names).all(|((a, _), (b, _))| a.as_ref() == b.as_ref());
        writer.integer(if same { SAME_FIELDS } else { 0 });
        writer.integer(id.ms.wrapping_sub(base.ms) as i64);
        writer.integer(id.sequence.wrapping_sub(base.sequence) as i64);
        if !same {
            writer.integer(fields.len() as i64);
        }
        for (name, value) in fields {
            if !same {
                writer.string(name.as_ref());
            }
            writer.string(value.as_ref());
        }
        // How many elements of the listpack the entry is.
        writer.integer(fields.len() as i64 + 3 + if same { 0 } else { fields.len() as i64 + 1 });
    }
    Some(writer.finish())
}
