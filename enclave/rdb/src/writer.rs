//! Writes a snapshot, entry by entry.

use std::io::{self, Write};

use crate::stream::{NODE_BYTES, NODE_ENTRIES, write_node};
use crate::{Crc64, StreamId, StreamState, code};

/// Writes into anything that takes bytes. Small writes are gathered here.
pub struct Writer<W> {
    into: W,
    buffer: Vec<u8>,
    crc: Crc64,
    database: Option<usize>,
    written: u64,
    /// One value alone: no header, database, key or expiry.
    bare: bool,
}

/// Entries of a stream that go into one node.
type Node<F, V> = Vec<(StreamId, Vec<(F, V)>)>;

/// Version 10 is Redis 7.0's: streams of type 19 came with it.
const VERSION: &[u8; 9] = b"REDIS0010";
/// Bytes that are gathered.
const GATHERED: usize = 64 << 10;

impl<W: Write> Writer<W> {
    /// Begins a snapshot.
    ///
    /// # Errors
    /// Those of `into`; so of all that follow.
    pub fn new(into: W) -> io::Result<Self> {
        let mut writer =
            Writer { into, buffer: Vec::with_capacity(GATHERED + 4096), crc: Crc64::default(), database: None, written: 0, bare: false };
        writer.bytes(VERSION)?;
        Ok(writer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.crc.update(&self.buffer);
        self.into.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > GATHERED {
            self.flush()?;
        }
        if bytes.len() > GATHERED {
            self.crc.update(bytes);
            self.written += bytes.len() as u64;
            return self.into.write_all(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn length(&mut self, length: usize) -> io::Result<()> {
        match length {
            0..0x40 => self.bytes(&[length as u8]),
            0x40..0x4000 => self.bytes(&[0x40 | (length >> 8) as u8, length as u8]),
            0x4000..=0xffff_ffff => {
                self.bytes(&[0x80])?;
                self.bytes(&(length as u32).to_be_bytes())
            }
            _ => {
                self.bytes(&[0x81])?;
                self.bytes(&(length as u64).to_be_bytes())
            }
        }
    }

    fn string(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length(bytes.len())?;
        self.bytes(bytes)
    }

    /// A pair that readers may look at, or not.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn aux(&mut self, name: &str, value: &str) -> io::Result<()> {
        self.bytes(&[code::AUX])?;
        self.string(name.as_bytes())?;
        self.string(value.as_bytes())
    }

    fn entry(&mut self, database: usize, key: &[u8], expires: Option<i64>, kind: u8) -> io::Result<()> {
        if self.bare {
            return self.bytes(&[kind]);
        }
        if self.database != Some(database) {
            self.bytes(&[code::SELECT])?;
            self.length(database)?;
            self.database = Some(database);
        }
        if let Some(expires) = expires {
            self.bytes(&[code::EXPIRES_MS])?;
            self.bytes(&expires.to_le_bytes())?;
        }
        self.bytes(&[kind])?;
        self.string(key)
    }

    /// A string. `expires`: milliseconds since 1970; so of all that follow.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn text(&mut self, database: usize, key: &[u8], expires: Option<i64>, text: &[u8]) -> io::Result<()> {
        self.entry(database, key, expires, code::STRING)?;
        self.string(text)
    }

    /// A list.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn list<T: AsRef<[u8]>>(
        &mut self,
        database: usize,
        key: &[u8],
        expires: Option<i64>,
        items: impl ExactSizeIterator<Item = T>,
    ) -> io::Result<()> {
        self.entry(database, key, expires, code::LIST)?;
        self.length(items.len())?;
        items.into_iter().try_for_each(|item| self.string(item.as_ref()))
    }

    /// A set of `length` members.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn set<T: AsRef<[u8]>>(
        &mut self,
        database: usize,
        key: &[u8],
        expires: Option<i64>,
        length: usize,
        members: impl Iterator<Item = T>,
    ) -> io::Result<()> {
        self.entry(database, key, expires, code::SET)?;
        self.length(length)?;
        members.into_iter().try_for_each(|member| self.string(member.as_ref()))
    }

    /// A hash of `length` fields.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn hash<F: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        database: usize,
        key: &[u8],
        expires: Option<i64>,
        length: usize,
        fields: impl Iterator<Item = (F, V)>,
    ) -> io::Result<()> {
        self.entry(database, key, expires, code::HASH)?;
        self.length(length)?;
        for (field, value) in fields {
            self.string(field.as_ref())?;
            self.string(value.as_ref())?;
        }
        Ok(())
    }

    /// A sorted set.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn sorted_set<T: AsRef<[u8]>>(
        &mut self,
        database: usize,
        key: &[u8],
        expires: Option<i64>,
        members: impl ExactSizeIterator<Item = (T, f64)>,
    ) -> io::Result<()> {
        self.entry(database, key, expires, code::SORTED_SET)?;
        self.length(members.len())?;
        for (member, score) in members {
            self.string(member.as_ref())?;
            self.bytes(&score.to_le_bytes())?;
        }
        Ok(())
    }

    /// A stream: what it is beside its entries, and these, by growing ids. The entries are gone through twice.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn stream<F: AsRef<[u8]>, V: AsRef<[u8]>, P: Iterator<Item = (F, V)>>(
        &mut self,
        database: usize,
        key: &[u8],
        expires: Option<i64>,
        state: &StreamState,
        entries: impl Iterator<Item = (StreamId, P)> + Clone,
    ) -> io::Result<()> {
        self.entry(database, key, expires, code::STREAM_2)?;
        // How many nodes there are comes before them.
        let (mut nodes, mut length) = (0, 0);
        in_nodes(entries.clone(), |node| {
            nodes += 1;
            length += node.len();
            Ok(())
        })?;
        self.length(nodes)?;
        in_nodes(entries, |node| {
            let Some(packed) = write_node(&node) else { return Ok(()) };
            self.string(&node[0].0.to_bytes())?;
            self.string(&packed)
        })?;
        self.length(length)?;
        for id in [state.last, state.first, state.max_deleted] {
            self.stream_id(id)?;
        }
        self.length(state.added as usize)?;
        self.length(state.groups.len())?;
        for group in &state.groups {
            self.string(&group.name)?;
            self.stream_id(group.last)?;
            self.length(group.read as usize)?;
            self.length(group.pending.len())?;
            for pending in &group.pending {
                self.bytes(&pending.id.to_bytes())?;
                self.bytes(&pending.delivered.to_le_bytes())?;
                self.length(pending.times as usize)?;
            }
            self.length(group.consumers.len())?;
            let mut by_consumer = vec![Vec::new(); group.consumers.len()];
            for pending in &group.pending {
                let ids = by_consumer.get_mut(pending.consumer);
                ids.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a delivery to a consumer that the group does not have"))?
                    .push(pending.id);
            }
            for (consumer, ids) in group.consumers.iter().zip(by_consumer) {
                self.string(&consumer.name)?;
                self.bytes(&consumer.seen.to_le_bytes())?;
                self.length(ids.len())?;
                ids.into_iter().try_for_each(|id| self.bytes(&id.to_bytes()))?;
            }
        }
        Ok(())
    }

    fn stream_id(&mut self, id: StreamId) -> io::Result<()> {
        self.length(id.ms as usize)?;
        self.length(id.sequence as usize)
    }

    /// A library of functions, as FUNCTION LOAD takes it.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn function(&mut self, library: &[u8]) -> io::Result<()> {
        self.bytes(&[code::FUNCTION])?;
        self.string(library)
    }

    /// How many keys the database has from here on, and how many of them expire: a hint for who loads it.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn sizes(&mut self, database: usize, keys: usize, expiring: usize) -> io::Result<()> {
        self.bytes(&[code::SELECT])?;
        self.length(database)?;
        self.database = Some(database);
        self.bytes(&[code::RESIZE])?;
        self.length(keys)?;
        self.length(expiring)
    }

    /// Ends it. Bytes of the whole, and what it was written into.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn finish(mut self) -> io::Result<(u64, W)> {
        self.bytes(&[code::END])?;
        self.flush()?;
        self.into.write_all(&self.crc.value().to_le_bytes())?;
        self.into.flush()?;
        Ok((self.written + 8, self.into))
    }
}

impl Writer<Vec<u8>> {
    /// For one value without a snapshot around it.
    pub(crate) fn bare() -> Self {
        Writer { into: Vec::new(), buffer: Vec::new(), crc: Crc64::default(), database: None, written: 0, bare: true }
    }

    /// What was written.
    pub(crate) fn into_bare(mut self) -> io::Result<Vec<u8>> {
        self.flush()?;
        Ok(self.into)
    }
}

/// Gives a stream's entries to `each` in such portions as nodes have.
fn in_nodes<F: AsRef<[u8]>, V: AsRef<[u8]>, P: Iterator<Item = (F, V)>>(
    entries: impl Iterator<Item = (StreamId, P)>,
    mut each: impl FnMut(Node<F, V>) -> io::Result<()>,
) -> io::Result<()> {
    let (mut node, mut bytes) = (Vec::new(), 0);
    for (id, fields) in entries {
        let fields: Vec<_> = fields.collect();
        bytes += fields.iter().map(|(field, value)| field.as_ref().len() + value.as_ref().len() + 4).sum::<usize>() + 16;
        node.push((id, fields));
        if node.len() >= NODE_ENTRIES || bytes >= NODE_BYTES {
            each(std::mem::take(&mut node))?;
            bytes = 0;
        }
    }
    if node.is_empty() { Ok(()) } else { each(node) }
}
