//! Reads a snapshot, entry by entry. Nothing in it is believed: lengths bound what is read, never what is allocated.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::stream::{Consumer, Group, Pending, Stream, StreamId, StreamState, read_node};
use crate::{Crc64, code, compact, lzf};

/// Longest string: Redis's own limit.
const MAX_STRING: u64 = 512 << 20;

/// Why a snapshot can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ends too early, or can't be read.
    #[error("the snapshot can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is no snapshot, or of a version that is too new.
    #[error("this is no snapshot of Redis's, or one of a version that is not read here: it begins with {0:?}")]
    Header(String),
    /// A type or an encoding that is not read.
    #[error("the snapshot has a value of type {kind} at byte {at}, which is not read here: one of a module, or of a newer Redis")]
    Kind {
        /// Number of the type.
        kind: u8,
        /// Where.
        at: u64,
    },
    /// A string in an encoding that is not read, or longer than any.
    #[error("the snapshot has a string at byte {at} that {why}")]
    Text {
        /// Where.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A value whose content contradicts itself.
    #[error("the snapshot has a value of type {kind}, ending at byte {at}, whose content is damaged")]
    Value {
        /// Number of the type.
        kind: u8,
        /// Where it ends.
        at: u64,
    },
    /// What RESTORE was given.
    #[error("the payload was changed or cut, or is of a newer version")]
    Payload,
    /// The sum at the end.
    #[error("the snapshot was changed or cut: its sum is {found:016x}, and it says {said:016x}")]
    Sum {
        /// Of what was read.
        found: u64,
        /// At its end.
        said: u64,
    },
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bytes.
    Text(Vec<u8>),
    /// In order.
    List(Vec<Vec<u8>>),
    /// Members.
    Set(Vec<Vec<u8>>),
    /// Fields and values.
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    /// Members and scores.
    SortedSet(Vec<(Vec<u8>, f64)>),
    /// Entries, groups.
    Stream(Box<Stream>),
}

/// An entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Number of its database.
    pub database: usize,
    /// Key.
    pub key: Vec<u8>,
    /// Milliseconds since 1970 at which it expires.
    pub expires: Option<i64>,
    /// Value.
    pub value: Value,
}

/// Reads from anything that gives bytes; better something that is buffered.
pub struct Reader<R> {
    from: R,
    crc: Crc64,
    at: u64,
    database: usize,
    functions: Vec<Vec<u8>>,
    aux: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Pairs that are kept of those before the first entry; and their longest value.
const AUX: (usize, usize) = (32, 256);

/// A length, or one of the forms in which a string is no plain bytes.
enum Length {
    Bytes(u64),
    Special(u8),
}

impl<R: Read> Reader<R> {
    /// Begins.
    ///
    /// # Errors
    /// [`Error::Header`]; so of all that follow.
    pub fn new(from: R) -> Result<Self, Error> {
        let mut reader = Reader::bare(from);
        let header = reader.array::<9>()?;
        let version = std::str::from_utf8(&header[5..]).ok().and_then(|text| text.parse::<u32>().ok());
        if !header.starts_with(b"REDIS") || !version.is_some_and(|version| (5..=12).contains(&version)) {
            return Err(Error::Header(String::from_utf8_lossy(&header).into_owned()));
        }
        Ok(reader)
    }

    /// For one value without a snapshot around it.
    pub(crate) fn bare(from: R) -> Self {
        Reader { from, crc: Crc64::default(), at: 0, database: 0, functions: Vec::new(), aux: Vec::new() }
    }

    /// Bytes read.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// A type and a value of it.
    pub(crate) fn bare_value(&mut self) -> Result<Value, Error> {
        let kind = self.byte()?;
        if is_value(kind) { self.value(kind) } else { Err(Error::Kind { kind, at: 0 }) }
    }

    /// The code of a library.
    pub(crate) fn bare_function(&mut self) -> Result<Vec<u8>, Error> {
        let kind = self.byte()?;
        if kind == code::FUNCTION { self.string() } else { Err(Error::Kind { kind, at: 0 }) }
    }

    /// Libraries of functions that came so far, as FUNCTION LOAD takes them.
    pub fn functions(&self) -> &[Vec<u8>] {
        &self.functions
    }

    /// The value of a pair that [`crate::Writer::aux`] wrote, when it has come: pairs come first.
    pub fn aux(&self, name: &str) -> Option<&[u8]> {
        self.aux.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.crc.update(&bytes);
        self.at += N as u64;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    fn length(&mut self) -> Result<Length, Error> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Bytes(u64::from(first)),
            1 => Length::Bytes(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Length::Bytes(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Length::Bytes(u64::from_be_bytes(self.array()?)),
            2 => return Err(Error::Text { at: self.at, why: "has a length that is none" }),
            _ => Length::Special(first & 0x3f),
        })
    }

    fn count(&mut self) -> Result<u64, Error> {
        match self.length()? {
            Length::Bytes(count) => Ok(count),
            Length::Special(_) => Err(Error::Text { at: self.at, why: "stands where a number must" }),
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, Error> {
        let at = self.at;
        let number = |number: i64| Ok(number.to_string().into_bytes());
        match self.length()? {
            Length::Bytes(length) if length > MAX_STRING => Err(Error::Text { at, why: "is longer than 512 MB" }),
            Length::Bytes(length) => self.exactly(length),
            Length::Special(0) => number(i64::from(i8::from_le_bytes(self.array()?))),
            Length::Special(1) => number(i64::from(i16::from_le_bytes(self.array()?))),
            Length::Special(2) => number(i64::from(i32::from_le_bytes(self.array()?))),
            Length::Special(3) => {
                let (packed, length) = (self.count()?, self.count()?);
                if packed > MAX_STRING || length > MAX_STRING {
                    return Err(Error::Text { at, why: "is longer than 512 MB" });
                }
                let packed = self.exactly(packed)?;
                lzf::unpack(&packed, length as usize).ok_or(Error::Text { at, why: "is packed in a way that can't be" })
            }
            Length::Special(_) => Err(Error::Text { at, why: "has an encoding that is not read here" }),
        }
    }

    /// As many bytes as come, not as many as are announced, are allocated.
    fn exactly(&mut self, length: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        (&mut self.from).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.crc.update(&bytes);
        self.at += length;
        Ok(bytes)
    }

    fn strings(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let count = self.count()?;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.string()?);
        }
        Ok(all)
    }

    /// The next entry. `None` at the end, when the sum is right.
    ///
    /// # Errors
    /// [`Error`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut expires = None;
        loop {
            let at = self.at;
            match self.byte()? {
                code::AUX => {
                    let (name, value) = (self.string()?, self.string()?);
                    if self.aux.len() < AUX.0 && value.len() <= AUX.1 {
                        self.aux.push((name, value));
                    }
                }
                code::RESIZE => {
                    self.count()?;
                    self.count()?;
                }
                code::SELECT => self.database = usize::try_from(self.count()?).unwrap_or(usize::MAX),
                code::EXPIRES_MS => expires = Some(i64::from_le_bytes(self.array()?)),
                code::EXPIRES_S => expires = Some(i64::from(u32::from_le_bytes(self.array()?)) * 1000),
                code::FREQUENCY => drop(self.byte()?),
                code::IDLE => drop(self.count()?),
                code::END => return self.end().map(|()| None),
                code::FUNCTION => {
                    let library = self.string()?;
                    self.functions.push(library);
                }
                kind if is_value(kind) => {
                    let key = self.string()?;
                    let value = self.value(kind)?;
                    return Ok(Some(Entry { database: self.database, key, expires, value }));
                }
                kind => return Err(Error::Kind { kind, at }),
            }
        }
    }

    fn value(&mut self, kind: u8) -> Result<Value, Error> {
        match kind {
            code::STRING => self.string().map(Value::Text),
            code::LIST => self.strings().map(Value::List),
            code::SET => self.strings().map(Value::Set),
            code::HASH => {
                let mut pairs = Vec::new();
                for _ in 0..self.count()? {
                    pairs.push((self.string()?, self.string()?));
                }
                Ok(Value::Hash(pairs))
            }
            code::SORTED_SET | code::SORTED_SET_TEXT => self.sorted_set(kind),
            code::STREAM | code::STREAM_2 | code::STREAM_3 => self.stream(kind).map(|stream| Value::Stream(Box::new(stream))),
            code::LIST_QUICK | code::LIST_QUICK_2 => self.quicklist(kind).map(Value::List),
            _ => {
                let bytes = self.string()?;
                compact_value(kind, &bytes).ok_or(self.damaged(kind))
            }
        }
    }

    fn damaged(&self, kind: u8) -> Error {
        Error::Value { kind, at: self.at }
    }

    fn sorted_set(&mut self, kind: u8) -> Result<Value, Error> {
        let mut members = Vec::new();
        for _ in 0..self.count()? {
            let member = self.string()?;
            let score = match kind {
                code::SORTED_SET => f64::from_le_bytes(self.array()?),
                _ => match self.byte()? {
                    253 => f64::NAN,
                    254 => f64::INFINITY,
                    255 => f64::NEG_INFINITY,
                    length => score(&self.exactly(u64::from(length))?).unwrap_or(f64::NAN),
                },
            };
            // What is no number has no place in an order.
            if score.is_nan() {
                return Err(self.damaged(kind));
            }
            members.push((member, score));
        }
        Ok(Value::SortedSet(members))
    }

    /// Nodes, each one string, or a packed list of strings.
    fn quicklist(&mut self, kind: u8) -> Result<Vec<Vec<u8>>, Error> {
        const PLAIN: u64 = 1;
        const PACKED: u64 = 2;
        let mut all = Vec::new();
        for _ in 0..self.count()? {
            let container = if kind == code::LIST_QUICK { None } else { Some(self.count()?) };
            let node = self.string()?;
            match container {
                Some(PLAIN) => all.push(node),
                Some(PACKED) => all.extend(compact::listpack(&node).ok_or(self.damaged(kind))?),
                Some(_) => return Err(self.damaged(kind)),
                None => all.extend(compact::ziplist(&node).ok_or(self.damaged(kind))?),
            }
        }
        Ok(all)
    }

    fn stream_id(&mut self) -> Result<StreamId, Error> {
        Ok(StreamId { ms: self.count()?, sequence: self.count()? })
    }

    fn stream(&mut self, kind: u8) -> Result<Stream, Error> {
        let mut entries = Vec::new();
        for _ in 0..self.count()? {
            let base: [u8; 16] = self.string()?.try_into().map_err(|_| self.damaged(kind))?;
            let node = self.string()?;
            read_node(StreamId::from_bytes(base), &node, &mut entries).ok_or(self.damaged(kind))?;
        }
        let length = self.count()?;
        let last = self.stream_id()?;
        let first = entries.first().map(|entry| entry.id).unwrap_or_default();
        let mut state = StreamState { last, first, added: length, ..StreamState::default() };
        if kind != code::STREAM {
            (state.first, state.max_deleted, state.added) = (self.stream_id()?, self.stream_id()?, self.count()?);
        }
        if length != entries.len() as u64 || entries.last().is_some_and(|entry| entry.id > state.last) {
            return Err(self.damaged(kind));
        }
        for _ in 0..self.count()? {
            let group = self.group(kind)?;
            state.groups.push(group);
        }
        Ok(Stream { entries, state })
    }

    fn group(&mut self, kind: u8) -> Result<Group, Error> {
        let (name, last) = (self.string()?, self.stream_id()?);
        let read = if kind == code::STREAM { -1 } else { self.count()? as i64 };
        // All deliveries come first, then whose they are. Each must be of exactly one consumer.
        let mut deliveries = BTreeMap::new();
        for _ in 0..self.count()? {
            let id = StreamId::from_bytes(self.array()?);
            let (delivered, times) = (i64::from_le_bytes(self.array()?), self.count()?);
            if deliveries.insert(id, (None, delivered, times)).is_some() {
                return Err(self.damaged(kind));
            }
        }
        let mut consumers = Vec::new();
        for place in 0..self.count()? {
            let (name, seen) = (self.string()?, i64::from_le_bytes(self.array()?));
            let active = if kind == code::STREAM_3 { i64::from_le_bytes(self.array()?) } else { seen };
            consumers.push(Consumer { name, seen, active });
            for _ in 0..self.count()? {
                let id = StreamId::from_bytes(self.array()?);
                match deliveries.get_mut(&id) {
                    Some((consumer @ None, ..)) => *consumer = Some(place as usize),
                    _ => return Err(self.damaged(kind)),
                }
            }
        }
        let pending =
            deliveries.into_iter().map(|(id, (consumer, delivered, times))| Some(Pending { id, consumer: consumer?, delivered, times }));
        let pending = pending.collect::<Option<_>>().ok_or(self.damaged(kind))?;
        Ok(Group { name, last, read, pending, consumers })
    }

    fn end(&mut self) -> Result<(), Error> {
        let found = self.crc.value();
        let said = u64::from_le_bytes(self.array()?);
        // Redis writes 0 where it was told not to sum.
        if said != 0 && said != found { Err(Error::Sum { found, said }) } else { Ok(()) }
    }
}

/// Whether a type is that of a value which is read here.
fn is_value(kind: u8) -> bool {
    // 6 and 7 are values of modules, 8 was never used.
    matches!(kind, code::STRING..=code::SORTED_SET | code::HASH_ZIPMAP..=code::STREAM_3)
}

/// A value that is one packed string.
fn compact_value(kind: u8, bytes: &[u8]) -> Option<Value> {
    let scored = |elements| {
        let pairs = compact::pairs(elements)?.into_iter();
        pairs.map(|(member, text)| Some((member, score(&text)?))).collect::<Option<_>>().map(Value::SortedSet)
    };
    match kind {
        code::HASH_ZIPMAP => compact::pairs(compact::zipmap(bytes)?).map(Value::Hash),
        code::LIST_ZIPLIST => compact::ziplist(bytes).map(Value::List),
        code::SET_INTSET => compact::intset(bytes).map(Value::Set),
        code::SORTED_SET_ZIPLIST => scored(compact::ziplist(bytes)?),
        code::HASH_ZIPLIST => compact::pairs(compact::ziplist(bytes)?).map(Value::Hash),
        code::HASH_LISTPACK => compact::pairs(compact::listpack(bytes)?).map(Value::Hash),
        code::SORTED_SET_LISTPACK => scored(compact::listpack(bytes)?),
        code::SET_LISTPACK => compact::listpack(bytes).map(Value::Set),
        _ => None,
    }
}

/// A score as text; never what is no number.
fn score(text: &[u8]) -> Option<f64> {
    let score: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!score.is_nan()).then_some(score)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{StreamEntry, Writer};

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..20), 1 => prop::collection::vec(any::<u8>(), 60..70), 1 => Just(vec![7; 70_000])]
    }

    fn value() -> impl Strategy<Value = Value> {
        let list = || prop::collection::vec(text(), 0..5);
        prop_oneof![
            text().prop_map(Value::Text),
            list().prop_map(Value::List),
            list().prop_map(Value::Set),
            prop::collection::vec((text(), text()), 0..5).prop_map(Value::Hash),
            prop::collection::vec((text(), -1e9f64..1e9), 0..5).prop_map(Value::SortedSet),
            stream().prop_map(|stream| Value::Stream(Box::new(stream))),
        ]
    }

    fn stream() -> impl Strategy<Value = Stream> {
        let id = || (any::<u64>(), any::<u64>()).prop_map(|(ms, sequence)| StreamId { ms, sequence });
        let fields =
            || prop_oneof![prop::collection::vec((text(), text()), 0..3), text().prop_map(|value| vec![(b"same".to_vec(), value)]),];
        let pending = prop::collection::btree_map(id(), (0usize..2, any::<i64>(), any::<u64>()), 0..4);
        (prop::collection::btree_map(id(), fields(), 0..8), pending, id(), any::<u64>(), any::<i64>()).prop_map(
            |(entries, pending, max_deleted, added, read)| {
                let entries: Vec<_> = entries.into_iter().map(|(id, fields)| StreamEntry { id, fields }).collect();
                let pending =
                    pending.into_iter().map(|(id, (consumer, delivered, times))| Pending { id, consumer, delivered, times }).collect();
                let consumers = ["one", "two"].map(|name| Consumer { name: name.into(), seen: 5, active: 5 }).into();
                let groups = vec![Group { name: b"group".to_vec(), last: max_deleted, read, pending, consumers }];
                let last = StreamId { ms: u64::MAX, sequence: u64::MAX };
                let first = entries.first().map(|entry| entry.id).unwrap_or_default();
                Stream { entries, state: StreamState { last, first, max_deleted, added, groups } }
            },
        )
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (0usize..20_000, text(), prop::option::of(any::<i64>()), value()).prop_map(|(database, key, expires, value)| Entry {
            database,
            key,
            expires,
            value,
        })
    }

    fn write(entries: &[Entry]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.aux("redis-ver", "7.0.0").unwrap();
        writer.aux("long", &"x".repeat(300)).unwrap();
        for Entry { database, key, expires, value } in entries {
            match value {
                Value::Text(text) => writer.text(*database, key, *expires, text),
                Value::List(items) => writer.list(*database, key, *expires, items.iter()),
                Value::Set(members) => writer.set(*database, key, *expires, members.len(), members.iter()),
                Value::Hash(pairs) => writer.hash(*database, key, *expires, pairs.len(), pairs.iter().map(|(f, v)| (f, v))),
                Value::Stream(stream) => {
                    let entries = stream.entries.iter().map(|entry| (entry.id, entry.fields.iter().map(|(field, value)| (field, value))));
                    writer.stream(*database, key, *expires, &stream.state, entries)
                }
                Value::SortedSet(members) => writer.sorted_set(*database, key, *expires, members.iter().map(|(m, s)| (m, *s))),
            }
            .unwrap();
        }
        let (length, bytes) = writer.finish().unwrap();
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
        let mut reader = Reader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            all.push(entry);
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..12)) {
            prop_assert_eq!(read(&write(&entries)).unwrap(), entries);
        }

        #[test]
        fn what_was_cut_or_changed_is_noticed(entries in prop::collection::vec(entry(), 1..4), cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bit in 0u8..8) {
            let bytes = write(&entries);
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
            let mut changed = bytes.clone();
            changed[flip.index(bytes.len())] ^= 1 << bit;
            prop_assert!(read(&changed).is_err());
        }

        #[test]
        fn any_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&[&b"REDIS0009"[..], &bytes].concat()).is_err() || bytes.contains(&code::END));
        }
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        // A string of 500 MB that is announced, a list of 2^60, and a packed string that repeats itself.
        for bomb in
            [&b"\x00\x01a\x80\x1d\xcd\x65\x00"[..], b"\x01\x01a\x81\x10\0\0\0\0\0\0\0", b"\x00\x01a\xc3\x04\x80\x10\0\0\0\x00a\xe0\xff"]
        {
            assert!(read(&[b"REDIS0009", bomb].concat()).is_err());
        }
    }
}
