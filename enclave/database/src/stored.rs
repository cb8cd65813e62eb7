//! Values as Redis's snapshot format has them, and back: for files, and for DUMP and RESTORE.

use std::io::{self, Write};
use std::sync::Arc;

use teemate_rdb::{StreamId, StreamState, Writer};

use crate::value::{Consumer, Group, Hash, Id, Limits, Pending, Set, SortedSet, Stream, Text, Value, stream};

/// Writes an entry.
///
/// # Errors
/// Those of what is written into.
pub fn write<W: Write>(writer: &mut Writer<W>, database: usize, key: &[u8], value: &Value, expires: Option<i64>) -> io::Result<()> {
    match value {
        Value::Text(text) => writer.text(database, key, expires, &text.bytes()),
        Value::List(list) => writer.list(database, key, expires, list.iter()),
        Value::Set(set) => writer.set(database, key, expires, set.len(), set.iter()),
        Value::Hash(hash) => writer.hash(database, key, expires, hash.len(), hash.iter()),
        Value::SortedSet(set) => writer.sorted_set(database, key, expires, set.members().iter().map(|member| (&member.name, member.score))),
        Value::Stream(stream) => {
            let entries = stream.items().iter().map(|item| (outer(item.id), pairs(item)));
            writer.stream(database, key, expires, &state(stream), entries)
        }
    }
}

fn outer(id: Id) -> StreamId {
    StreamId { ms: id.ms, sequence: id.seq }
}

fn inner(id: StreamId) -> Id {
    Id { ms: id.ms, seq: id.sequence }
}

fn pairs(item: &stream::Item) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut parts = item.parts();
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}

/// What a stream is beside its entries.
fn state(stream: &Stream) -> StreamState {
    let group = |(name, group): (&crate::value::Blob, &Group)| {
        let names: Vec<_> = group.consumers.keys().collect();
        teemate_rdb::Group {
            name: name.to_vec(),
            last: outer(group.last),
            read: group.read.map_or(-1, |read| i64::try_from(read).unwrap_or(-1)),
            pending: group
                .pending
                .iter()
                .map(|pending| teemate_rdb::Pending {
                    id: outer(pending.id),
                    consumer: names.binary_search(&&pending.consumer).unwrap_or(usize::MAX),
                    delivered: pending.time,
                    times: pending.count,
                })
                .collect(),
            consumers: group
                .consumers
                .iter()
                .map(|(name, consumer)| teemate_rdb::Consumer { name: name.to_vec(), seen: consumer.seen, active: consumer.seen })
                .collect(),
        }
    };
    StreamState {
        last: outer(stream.last),
        first: outer(stream.first()),
        max_deleted: outer(stream.max_deleted),
        added: stream.added,
        groups: stream.groups.iter().map(group).collect(),
    }
}

/// The value that was read. `None`: it can't be one, since it has no elements, or what it says of itself does not fit together.
pub fn read(read: teemate_rdb::Value, limits: &Limits) -> Option<Value> {
    let value = match read {
        teemate_rdb::Value::Text(text) => Value::Text(Text::new(&text)),
        teemate_rdb::Value::List(items) => Value::List(items.into_iter().map(Into::into).collect()),
        teemate_rdb::Value::Set(members) => {
            let mut set = Set::default();
            for member in &members {
                set.insert(member, limits);
            }
            Value::Set(Arc::new(set))
        }
        teemate_rdb::Value::Hash(pairs) => {
            let mut hash = Hash::default();
            for (field, value) in &pairs {
                hash.insert(field, value, limits);
            }
            Value::Hash(Arc::new(hash))
        }
        teemate_rdb::Value::SortedSet(members) => {
            let mut set = SortedSet::default();
            // A file can say anything; what is no number has no place in an order.
            for (member, score) in members.iter().filter(|(_, score)| !score.is_nan()) {
                set.insert(member, *score, limits);
            }
            Value::SortedSet(Arc::new(set))
        }
        teemate_rdb::Value::Stream(stream) => Value::Stream(Arc::new(read_stream(*stream)?)),
    };
    (!value.is_empty()).then_some(value)
}

fn read_stream(read: teemate_rdb::Stream) -> Option<Stream> {
    let mut stream = Stream::default();
    for entry in &read.entries {
        let id = inner(entry.id);
        if id <= stream.last {
            return None;
        }
        let parts: Vec<&[u8]> = entry.fields.iter().flat_map(|(field, value)| [field.as_slice(), value]).collect();
        stream.push(stream::Item::new(id, &parts));
    }
    let state = read.state;
    stream.last = stream.last.max(inner(state.last));
    stream.max_deleted = inner(state.max_deleted);
    stream.added = state.added.max(stream.len() as u64);
    for group in state.groups {
        let mut made = Group { last: inner(group.last), read: u64::try_from(group.read).ok(), ..Group::default() };
        if made.read.is_none() && stream.max_deleted == Id::MIN && stream.added == stream.len() as u64 {
            // Files before version 10 do not say it.
            made.read = stream.position(made.last);
        }
        for consumer in &group.consumers {
            made.consumers.insert(consumer.name.as_slice().into(), Consumer { seen: consumer.seen, ..Consumer::default() });
        }
        for pending in &group.pending {
            let consumer = group.consumers.get(pending.consumer)?.name.as_slice().into();
            made.deliver(Pending { id: inner(pending.id), consumer, time: pending.delivered, count: pending.times });
        }
        stream.groups.insert(group.name.as_slice().into(), made);
    }
    Some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_back_as_it_was() {
        let mut stream = Stream::default();
        for seq in 1..300 {
            stream.push(stream::Item::new(Id { ms: 7, seq }, &[&b"field"[..], seq.to_string().as_bytes()]));
        }
        assert!(stream.remove(Id { ms: 7, seq: 5 }));
        let mut group = Group { last: Id { ms: 7, seq: 9 }, read: Some(9), ..Group::default() };
        group.consumers.insert(b"idle"[..].into(), Consumer::default());
        group.consumers.insert(b"a"[..].into(), Consumer { seen: 3, ..Consumer::default() });
        group.deliver(Pending { id: Id { ms: 7, seq: 8 }, consumer: b"a"[..].into(), time: 4, count: 2 });
        stream.groups.insert(b"g"[..].into(), group);
        let value = Value::Stream(Arc::new(stream));
        let dumped = teemate_rdb::dump(|writer| write(writer, 0, b"key", &value, None)).unwrap();
        let back = read(teemate_rdb::restore(&dumped).unwrap(), &Limits::default()).unwrap();
        assert_eq!(format!("{back:?}").len(), format!("{value:?}").len());
        let (Value::Stream(a), Value::Stream(b)) = (&value, &back) else { panic!("no stream") };
        assert!(a.items().iter().eq(b.items().iter()));
        assert_eq!((a.last, a.max_deleted, a.added), (b.last, b.max_deleted, b.added));
        assert_eq!(format!("{:?}", a.groups), format!("{:?}", b.groups));
    }
}
