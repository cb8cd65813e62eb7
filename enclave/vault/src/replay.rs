//! Reads the journal when the store is opened, and believes none of it before it is authenticated.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::disk::{Disk, MAX_PIECE};
use crate::error::VaultError;
use crate::format::{
    self, Delta, FILE_HEADER, FRAME_HEADER, Header, Kind, MAX_BODY, NO_TAG, Opening, PURPOSE, Payload, Place, SEGMENT, Store, Value,
};
use crate::index::{At, Index, Spot};
use crate::writer::Cursor;
use crate::{Key, Sealing, cache::Cache};
use teemate_sealed::seal::{SegmentKey, TAG};

/// What the journal says.
pub struct Replayed {
    /// Records.
    pub index: Index,
    /// Small values.
    pub cache: Cache,
    /// Keys of the generation's segments.
    pub keys: Vec<Arc<SegmentKey>>,
    /// The generation.
    pub generation: u64,
    /// Its end; a torn tail is not part of it.
    pub cursor: Cursor,
    /// Secret of the blobs' names.
    pub secret: [u8; 32],
    /// Openings so far, oldest first.
    pub history: Vec<Opening>,
    /// The last commit.
    pub epoch: u64,
    /// Number of the last opening's next blob.
    pub blobs: u64,
    /// Superseded blobs that may still be there.
    pub garbage: BTreeSet<[u8; 32]>,
    /// A segment was sealed by other versions than those of now.
    pub stale: bool,
}

/// Reads all of it. `None`: there is no journal.
pub fn replay(disk: &dyn Disk, sealing: &dyn Sealing, cache: usize) -> Result<Option<Replayed>, VaultError> {
    let mut source = Source { disk, buffer: Vec::new(), at: 0, offset: 0, ended: false };
    if !source.exists()? {
        return Ok(None);
    }
    if source.fill(FILE_HEADER)? < FILE_HEADER {
        return Err(VaultError::damaged("the journal is shorter than its header"));
    }
    let mut raw = [0; FILE_HEADER];
    raw.copy_from_slice(source.take(FILE_HEADER));
    let mut reading = Reading { sealing, stage: Stage::Start, replayed: Replayed::empty(format::read_file_header(&raw)?, cache) };
    while reading.frame(&mut source)? {}
    match reading.stage {
        Stage::Commits => Ok(Some(reading.replayed)),
        Stage::Start | Stage::Snapshot => Err(VaultError::damaged(format!(
            "the journal's generation {} is incomplete: it ends after {} bytes, within what every generation begins with",
            reading.replayed.generation, reading.replayed.cursor.offset
        ))),
    }
}

impl Replayed {
    fn empty(generation: u64, cache: usize) -> Replayed {
        Replayed {
            index: Index::default(),
            cache: Cache::new(cache),
            keys: Vec::new(),
            generation,
            cursor: Cursor { offset: FILE_HEADER as u64, sequence: 0, before: NO_TAG },
            secret: [0; 32],
            history: Vec::new(),
            epoch: 0,
            blobs: 0,
            garbage: BTreeSet::new(),
            stale: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Snapshot,
    Commits,
}

struct Reading<'a> {
    sealing: &'a dyn Sealing,
    stage: Stage,
    replayed: Replayed,
}

impl Reading<'_> {
    /// Reads the next frame. `false`: there is none, or the tail of an append that a crash tore.
    fn frame(&mut self, source: &mut Source<'_>) -> Result<bool, VaultError> {
        let have = source.fill(FRAME_HEADER)?;
        if have < FRAME_HEADER {
            return Ok(false);
        }
        let Some(raw) = source.peek().first_chunk() else { return Ok(false) };
        let header = Header::read(*raw);
        let cursor = self.replayed.cursor;
        let place = Place { generation: self.replayed.generation, sequence: cursor.sequence, before: cursor.before };
        let mut segment = [0; SEGMENT];
        let (key, described) = match header.kind {
            Some(Kind::Segment) => {
                if source.fill(FRAME_HEADER + SEGMENT)? < FRAME_HEADER + SEGMENT {
                    return Ok(false);
                }
                segment.copy_from_slice(&source.peek()[FRAME_HEADER..FRAME_HEADER + SEGMENT]);
                (Some(self.key(&segment)?), &segment[..])
            }
            Some(Kind::Entry) => (self.replayed.keys.last().cloned(), &[][..]),
            None => (None, &[][..]),
        };
        let Some(key) = key.filter(|key| header.is_genuine(key, &place, described)) else {
            // What is sealed never is nothing but zeros.
            return if source.is_zero_from(FRAME_HEADER + described.len())? { Ok(false) } else { Err(self.wrong(&header)) };
        };
        let (length, whole) = (header.length as usize, FRAME_HEADER + header.length as usize);
        if length < described.len() + TAG || length > MAX_BODY {
            return Err(self.wrong(&header));
        }
        if source.fill(whole)? < whole {
            return Ok(false);
        }
        let mut body = source.peek()[FRAME_HEADER + described.len()..whole].to_vec();
        let unwritten = body.ends_with(&[0; 4]);
        let Some((plain, tag)) = format::open_body(&header, &key, &place, described, &mut body) else {
            return if unwritten && source.is_zero_from(whole)? { Ok(false) } else { Err(self.wrong(&header)) };
        };
        let senseless =
            || VaultError::damaged(format!("entry {} of the journal makes no sense, though this enclave sealed it", place.sequence));
        let payload = Payload::read(plain).ok_or_else(senseless)?;
        let spot = Spot {
            segment: (self.replayed.keys.len() as u32).wrapping_sub(u32::from(described.is_empty())),
            sequence: place.sequence,
            offset: cursor.offset,
            length: whole as u32,
        };
        self.apply(payload, spot, key).ok_or_else(senseless)?;
        source.take(whole);
        self.replayed.cursor = Cursor { offset: cursor.offset + whole as u64, sequence: cursor.sequence + 1, before: tag };
        Ok(true)
    }

    fn key(&mut self, segment: &[u8; SEGMENT]) -> Result<Arc<SegmentKey>, VaultError> {
        let (isv_svn, cpu_svn, key_id) = format::read_segment(segment);
        let current = self.sealing.current();
        let seal_key = self.sealing.key(isv_svn, cpu_svn, key_id).map_err(|error| match isv_svn > current.0 {
            true => VaultError::Newer { sealed: isv_svn, own: current.0 },
            false => VaultError::NoKey { reason: format!("{error} (sealed at ISVSVN {isv_svn}, CPUSVN {})", hex(&cpu_svn)) },
        })?;
        self.replayed.stale |= (isv_svn, cpu_svn) != current;
        Ok(Arc::new(SegmentKey::derive(&seal_key, &key_id, PURPOSE)?))
    }

    /// Names what is wrong with a frame.
    fn wrong(&self, header: &Header) -> VaultError {
        let Replayed { generation, cursor, .. } = &self.replayed;
        let (expected, found) = (cursor.sequence, header.sequence);
        if expected == 0 {
            return VaultError::Foreign;
        }
        let place = format!("(generation {generation}, byte {})", cursor.offset);
        VaultError::damaged(match found {
            _ if found == expected => format!("entry {expected} of the journal was changed, or those before it were exchanged {place}"),
            _ if found > expected && found - expected < 1 << 32 => {
                format!("the journal lacks entry {expected}: entry {found} lies in its place {place}")
            }
            _ if found < expected => format!("the journal has entry {found} again where entry {expected} belongs {place}"),
            _ => format!("entry {expected} of the journal was changed {place}"),
        })
    }

    /// `None`: no enclave writes that.
    fn apply(&mut self, payload: Payload<'_>, spot: Spot, key: Arc<SegmentKey>) -> Option<()> {
        let replayed = &mut self.replayed;
        match (payload, self.stage) {
            (Payload::Segment { opening, blobs, store }, stage) => {
                match (store, stage) {
                    (Some(store), Stage::Start) => self.stage = replayed.begin(store),
                    (None, Stage::Commits) => {}
                    _ => return None,
                }
                if replayed.history.last() != Some(&opening) {
                    replayed.history.push(opening);
                }
                replayed.epoch = replayed.epoch.max(opening.epoch);
                replayed.blobs = blobs;
                replayed.keys.push(key);
            }
            (Payload::Snapshot { records, garbage }, Stage::Snapshot) => {
                for (version, delta) in records {
                    replayed.epoch = replayed.epoch.max(version);
                    replayed.change(version, &delta, spot);
                }
                replayed.garbage.extend(garbage);
            }
            (Payload::SnapshotEnd { records, epoch }, Stage::Snapshot) if records == replayed.index.records() => {
                replayed.epoch = replayed.epoch.max(epoch);
                self.stage = Stage::Commits;
            }
            (Payload::Commit { epoch, blobs, changes, dropped }, Stage::Commits) if epoch > replayed.epoch => {
                replayed.epoch = epoch;
                replayed.blobs = blobs;
                for delta in &changes {
                    replayed.change(epoch, delta, spot);
                }
                for id in dropped {
                    replayed.garbage.remove(&id);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

impl Replayed {
    fn begin(&mut self, store: Store) -> Stage {
        self.secret = store.secret;
        self.history = store.history;
        if store.snapshot { Stage::Snapshot } else { Stage::Commits }
    }

    fn change(&mut self, version: u64, delta: &Delta<'_>, spot: Spot) {
        let key = Key::new(delta.owner, delta.kind, delta.name);
        let old = match &delta.value {
            Value::Gone => self.index.remove(&key),
            Value::Here(value) => {
                let (serial, old) = self.index.set(&key, version, value.len() as u64, At::Journal(spot));
                self.cache.insert(serial, Arc::from(*value));
                old
            }
            Value::Blob(blob) => {
                self.garbage.remove(&blob.id);
                self.index.set(&key, version, blob.length, At::Blob(Arc::new(blob.clone()))).1
            }
        };
        if let Some(old) = old {
            self.cache.remove(old.serial);
            self.garbage.extend(old.blob());
        }
    }
}

/// The journal's bytes, in whatever pieces the host gives them.
struct Source<'a> {
    disk: &'a dyn Disk,
    buffer: Vec<u8>,
    at: usize,
    /// Where the buffer ends in the file.
    offset: u64,
    ended: bool,
}

impl Source<'_> {
    fn exists(&mut self) -> Result<bool, VaultError> {
        let piece = piece(self.disk, 0, MAX_PIECE)?;
        let exists = piece.is_some();
        self.push(piece.unwrap_or_default());
        Ok(exists)
    }

    fn push(&mut self, piece: Vec<u8>) {
        self.ended = piece.is_empty();
        self.offset += piece.len() as u64;
        self.buffer.drain(..self.at);
        self.at = 0;
        if self.buffer.is_empty() { self.buffer = piece } else { self.buffer.extend_from_slice(&piece) }
    }

    /// Sees to it that `wanted` bytes are there, and says how many are.
    fn fill(&mut self, wanted: usize) -> Result<usize, VaultError> {
        while self.buffer.len() - self.at < wanted && !self.ended {
            let piece =
                piece(self.disk, self.offset, MAX_PIECE)?.ok_or_else(|| VaultError::damaged("the journal vanished while it was read"))?;
            self.push(piece);
        }
        Ok((self.buffer.len() - self.at).min(wanted))
    }

    fn peek(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let from = self.at;
        self.at += count;
        &self.buffer[from..self.at]
    }

    /// Whether the file holds nothing but zeros from here on.
    fn is_zero_from(&mut self, ahead: usize) -> Result<bool, VaultError> {
        self.take(ahead);
        loop {
            if self.peek().iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            self.at = self.buffer.len();
            if self.fill(1)? == 0 {
                return Ok(true);
            }
        }
    }
}

/// A piece of the journal, no longer than agreed.
pub fn piece(disk: &dyn Disk, offset: u64, wanted: usize) -> Result<Option<Vec<u8>>, VaultError> {
    let piece = disk.journal_part(offset, wanted).map_err(VaultError::disk("reading the journal"))?;
    match &piece {
        Some(bytes) if bytes.len() > MAX_PIECE => {
            Err(VaultError::Disk { doing: "reading the journal", reason: format!("it gave {} bytes at once", bytes.len()) })
        }
        _ => Ok(piece),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
