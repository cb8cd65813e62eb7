//! A sealed file: encrypted in chunks as it streams through, in either direction, without seeking.

use std::io::{self, Read, Write};

use ring::rand::{SecureRandom, SystemRandom};

use crate::seal::{SegmentKey, TAG};
use crate::{Error, Sealing};

/// Bytes of content in a chunk; the last one may have fewer.
pub const CHUNK: usize = 64 << 10;
/// Bytes of a header: magic and format, ISVSVN, CPUSVN, key id.
pub const HEADER: usize = 58;
const MAGIC: &[u8; 8] = b"TMFILE\0\x01";
const PURPOSE: &str = "teemate sealed file 1";

/// What a file is. A file of another label does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Whose.
    pub owner: String,
    /// Which database.
    pub database: String,
    /// What kind of file.
    pub kind: &'static str,
    /// Its name, of at least the kind.
    pub name: String,
}

impl Label {
    /// Each with its length, so that no two labels have the same bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in [&self.owner, &self.database, self.kind, &self.name] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.bytes());
        }
        bytes
    }
}

/// A header for a file that begins now, and its keys.
pub(crate) fn begin(sealing: &dyn Sealing, file: &str, magic: &[u8; 8], purpose: &str) -> Result<([u8; HEADER], SegmentKey), Error> {
    let mut header = [0; HEADER];
    let (isv_svn, cpu_svn) = sealing.current();
    header[..8].copy_from_slice(magic);
    header[8..10].copy_from_slice(&isv_svn.to_le_bytes());
    header[10..26].copy_from_slice(&cpu_svn);
    SystemRandom::new().fill(&mut header[26..]).map_err(|_| Error::Random)?;
    let key = key(sealing, file, &header, magic, purpose)?;
    Ok((header, key))
}

/// The keys of a file that begins so.
pub(crate) fn key(sealing: &dyn Sealing, file: &str, header: &[u8; HEADER], magic: &[u8; 8], purpose: &str) -> Result<SegmentKey, Error> {
    if !header.starts_with(magic) {
        return Err(Error::Damaged { file: file.to_owned(), what: "it does not begin as a file of this kind and format does".to_owned() });
    }
    let (mut cpu_svn, mut key_id) = ([0; 16], [0; 32]);
    cpu_svn.copy_from_slice(&header[10..26]);
    key_id.copy_from_slice(&header[26..]);
    let isv_svn = u16::from_le_bytes([header[8], header[9]]);
    let seal_key = sealing.key(isv_svn, cpu_svn, key_id).map_err(|source| Error::Key { file: file.to_owned(), source })?;
    SegmentKey::derive(&seal_key, &key_id, purpose).map_err(|_| Error::Random)
}

fn associated(label: &Label) -> Vec<u8> {
    let mut bytes = label.bytes();
    bytes.push(0);
    bytes
}

/// Says in the associated data whether a chunk is the last.
fn set_last(associated: &mut [u8], last: bool) {
    if let Some(flag) = associated.last_mut() {
        *flag = u8::from(last);
    }
}

/// Seals what is written to it. A file that was not finished does not open.
pub struct Writer<W> {
    into: W,
    key: SegmentKey,
    associated: Vec<u8>,
    id: [u8; 32],
    chunk: Vec<u8>,
    sequence: u64,
    failed: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Error`]: no key, or a failing `into`.
    pub fn new(mut into: W, sealing: &dyn Sealing, label: &Label) -> Result<Self, Error> {
        let (header, key) = begin(sealing, &label.name, MAGIC, PURPOSE)?;
        into.write_all(&header).map_err(|source| Error::Disk { file: label.name.clone(), what: "written", source })?;
        let mut id = [0; 32];
        id.copy_from_slice(&header[26..]);
        Ok(Writer { into, key, associated: associated(label), id, chunk: Vec::with_capacity(CHUNK + TAG), sequence: 0, failed: false })
    }

    /// Random number of this file: no other has it.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Encrypts the chunk where it lies, and writes it. After an error what is in the chunk is ciphertext: nothing more is written.
    fn seal(&mut self, last: bool) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to this file failed"));
        }
        self.failed = true;
        set_last(&mut self.associated, last);
        let tag = self.key.seal(self.sequence, &self.associated, &mut self.chunk).map_err(io::Error::other)?;
        self.chunk.extend_from_slice(&tag);
        self.into.write_all(&self.chunk)?;
        self.chunk.clear();
        self.sequence += 1;
        self.failed = false;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of what it is written into.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        self.into.flush()?;
        Ok(self.into)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits: it may be the last.
        if self.chunk.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let count = bytes.len().min(CHUNK.saturating_sub(self.chunk.len()));
        if self.failed || (count == 0 && !bytes.is_empty()) {
            return Err(io::Error::other("an earlier write to this file failed"));
        }
        self.chunk.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// What is in a chunk that is not full stays until it is, or until the end.
    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// Opens what a [`Writer`] sealed. Gives a chunk's bytes only after the chunk was authenticated. The end is the end only when the reader says so
/// by giving no more bytes: a file that was cut is an error.
pub struct Reader<R> {
    from: R,
    key: SegmentKey,
    file: String,
    associated: Vec<u8>,
    id: [u8; 32],
    chunk: Vec<u8>,
    /// Bytes of the chunk that were given, and that it has.
    given: usize,
    length: usize,
    /// The first byte of the next chunk: whether there is one tells whether this one is the last.
    ahead: Option<u8>,
    sequence: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`Error`]: no such header, no key.
    pub fn new(mut from: R, sealing: &dyn Sealing, label: &Label) -> Result<Self, Error> {
        let file = label.name.clone();
        let mut header = [0; HEADER];
        from.read_exact(&mut header).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::Damaged { file: file.clone(), what: "it ends within its header".to_owned() },
            _ => Error::Disk { file: file.clone(), what: "read", source },
        })?;
        let key = key(sealing, &file, &header, MAGIC, PURPOSE)?;
        let mut id = [0; 32];
        id.copy_from_slice(&header[26..]);
        let chunk = Vec::with_capacity(CHUNK + TAG + 1);
        Ok(Reader {
            from,
            key,
            file,
            associated: associated(label),
            id,
            chunk,
            given: 0,
            length: 0,
            ahead: None,
            sequence: 0,
            ended: false,
        })
    }

    /// Random number of this file: no other has it.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        self.chunk.clear();
        self.chunk.extend(self.ahead.take());
        let wanted = CHUNK + TAG + 1 - self.chunk.len();
        (&mut self.from).take(wanted as u64).read_to_end(&mut self.chunk)?;
        let last = self.chunk.len() <= CHUNK + TAG;
        if !last {
            self.ahead = self.chunk.pop();
        }
        set_last(&mut self.associated, last);
        let Some(plain) = self.key.open(self.sequence, &self.associated, &mut self.chunk) else {
            let why = if last { ", or the file was cut behind it" } else { "" };
            let what = format!("chunk {} is not what was written there{why}", self.sequence);
            // Nothing of it is given, now or later.
            (self.given, self.length) = (0, 0);
            return Err(io::Error::new(io::ErrorKind::InvalidData, Error::Damaged { file: self.file.clone(), what }));
        };
        (self.given, self.length) = (0, plain.len());
        self.sequence += 1;
        self.ended = last;
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.length && !self.ended && !into.is_empty() {
            self.next_chunk()?;
        }
        let count = into.len().min(self.length - self.given);
        into[..count].copy_from_slice(&self.chunk[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::FixedSealing;

    fn label(name: &str) -> Label {
        Label { owner: "o".to_owned(), database: "d".to_owned(), kind: "snapshot", name: name.to_owned() }
    }

    fn sealing() -> FixedSealing {
        FixedSealing::new([7; 16])
    }

    fn seal(bytes: &[u8], name: &str) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &sealing(), &label(name)).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn open(bytes: &[u8], name: &str) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let mut reader = Reader::new(bytes, &sealing(), &label(name)).map_err(|error| error.to_string())?;
        reader.read_to_end(&mut content).map_err(|error| error.to_string())?;
        Ok(content)
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 7) as u8).collect()
    }

    #[test]
    fn what_is_sealed_is_read_at_every_edge_of_a_chunk() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
            assert_eq!(open(&seal(&content(length), "n"), "n").unwrap(), content(length));
        }
    }

    #[test]
    fn a_cut_a_swap_another_name_and_another_file_are_noticed() {
        let sealed = seal(&content(3 * CHUNK), "n");
        let whole = CHUNK + TAG;
        for chunks in 0..3 {
            let error = open(&sealed[..HEADER + chunks * whole], "n").unwrap_err();
            assert!(error.contains("cut behind"), "{error}");
        }
        let mut swapped = sealed.clone();
        swapped[HEADER..HEADER + 2 * whole].rotate_left(whole);
        assert!(open(&swapped, "n").unwrap_err().contains("chunk 0"));
        let mut mixed = seal(&content(3 * CHUNK), "n");
        mixed[HEADER + whole..].copy_from_slice(&sealed[HEADER + whole..]);
        assert!(open(&mixed, "n").unwrap_err().contains("chunk 1"));
        assert!(open(&sealed, "m").is_err());
        assert!(open(&[&sealed[..], &[0]].concat(), "n").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_change_is_noticed(length in 0usize..200_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let sealed = seal(&content(length), "n");
            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(&changed, "n").is_err());
            prop_assert!(open(&sealed[..at.index(sealed.len())], "n").is_err());
        }
    }
}
