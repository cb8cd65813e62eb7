//! Reads a snapshot, entry by entry. Nothing in it is believed: lengths bound what is read, never what is allocated.

use std::io::{self, Read};

use crate::{Crc64, code};

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
    #[error("the snapshot has a value of type {kind} at byte {at}, which is not read here: write it with Redis 7 and plain encodings")]
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
}

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
        let mut reader = Reader { from, crc: Crc64::default(), at: 0, database: 0 };
        let header = reader.array::<9>()?;
        let version = std::str::from_utf8(&header[5..]).ok().and_then(|text| text.parse::<u32>().ok());
        if !header.starts_with(b"REDIS") || !version.is_some_and(|version| (5..=11).contains(&version)) {
            return Err(Error::Header(String::from_utf8_lossy(&header).into_owned()));
        }
        Ok(reader)
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
                unpack(&packed, length as usize).ok_or(Error::Text { at, why: "is packed in a way that can't be" })
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
                    self.string()?;
                    self.string()?;
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
                kind @ (code::STRING | code::LIST | code::SET | code::HASH | code::SORTED_SET) => {
                    let key = self.string()?;
                    let value = self.value(kind)?;
                    return Ok(Some(Entry { database: self.database, key, expires, value }));
                }
                kind => return Err(Error::Kind { kind, at }),
            }
        }
    }

    fn value(&mut self, kind: u8) -> Result<Value, Error> {
        Ok(match kind {
            code::LIST => Value::List(self.strings()?),
            code::SET => Value::Set(self.strings()?),
            code::HASH => {
                let mut pairs = Vec::new();
                for _ in 0..self.count()? {
                    pairs.push((self.string()?, self.string()?));
                }
                Value::Hash(pairs)
            }
            code::SORTED_SET => {
                let mut members = Vec::new();
                for _ in 0..self.count()? {
                    members.push((self.string()?, f64::from_le_bytes(self.array()?)));
                }
                Value::SortedSet(members)
            }
            _ => Value::Text(self.string()?),
        })
    }

    fn end(&mut self) -> Result<(), Error> {
        let found = self.crc.value();
        let said = u64::from_le_bytes(self.array()?);
        // Redis writes 0 where it was told not to sum.
        if said != 0 && said != found { Err(Error::Sum { found, said }) } else { Ok(()) }
    }
}

/// LZF, as Redis packs strings with it. `None`: it does not unpack to so many bytes.
fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < packed.len() {
        let control = usize::from(packed[at]);
        at += 1;
        if control < 32 {
            bytes.extend_from_slice(packed.get(at..at + control + 1)?);
            at += control + 1;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(*packed.get(at)?);
                at += 1;
            }
            let back = (control & 0x1f) << 8 | usize::from(*packed.get(at)?);
            at += 1;
            let from = bytes.len().checked_sub(back + 1)?;
            if bytes.len() + count + 2 > length {
                return None;
            }
            for place in from..from + count + 2 {
                bytes.push(bytes[place]);
            }
        }
        if bytes.len() > length {
            return None;
        }
    }
    (bytes.len() == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Writer;

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
        ]
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
        for Entry { database, key, expires, value } in entries {
            match value {
                Value::Text(text) => writer.text(*database, key, *expires, text),
                Value::List(items) => writer.list(*database, key, *expires, items.iter()),
                Value::Set(members) => writer.set(*database, key, *expires, members.len(), members.iter()),
                Value::Hash(pairs) => writer.hash(*database, key, *expires, pairs.len(), pairs.iter().map(|(f, v)| (f, v))),
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
