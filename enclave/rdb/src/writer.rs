//! Writes a snapshot, entry by entry.

use std::io::{self, Write};

use crate::{Crc64, code};

/// Writes into anything that takes bytes. Small writes are gathered here.
pub struct Writer<W> {
    into: W,
    buffer: Vec<u8>,
    crc: Crc64,
    database: Option<usize>,
    written: u64,
}

/// Bytes that are gathered.
const GATHERED: usize = 64 << 10;

impl<W: Write> Writer<W> {
    /// Begins a snapshot.
    ///
    /// # Errors
    /// Those of `into`; so of all that follow.
    pub fn new(into: W) -> io::Result<Self> {
        let mut writer = Writer { into, buffer: Vec::with_capacity(GATHERED + 4096), crc: Crc64::default(), database: None, written: 0 };
        writer.bytes(b"REDIS0009")?;
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
