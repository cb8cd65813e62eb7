//! Reads values: from memory, from the journal, from blobs. What comes from the disk is checked against what the index says.

use std::sync::Arc;

use crate::blob;
use crate::disk::Disk;
use crate::format::{self, BlobRef, FRAME_HEADER, Header, Payload, Place, Value};
use crate::index::{At, Record, Spot};
use crate::queue::Queued;
use crate::replay::piece;
use crate::vault::Shared;
use crate::{Key, VaultError};
use teemate_sealed::seal::{SegmentKey, TAG};

/// How often a record may move while it is read.
const TRIES: usize = 16;

/// What is needed to read a frame again.
pub(crate) struct Source {
    pub generation: u64,
    pub key: Arc<SegmentKey>,
    pub spot: Spot,
}

enum Found {
    Value(u64, Vec<u8>),
    Frame(Record, Source),
    Blob(u64, Arc<BlobRef>),
}

impl Shared {
    /// A record's version and value.
    pub(crate) fn fetch(&self, key: &Key) -> Result<Option<(u64, Vec<u8>)>, VaultError> {
        let mut last = None;
        for _ in 0..TRIES {
            let (serial, read) = match self.find(key)? {
                None => return Ok(None),
                Some(Found::Value(version, value)) => return Ok(Some((version, value))),
                Some(Found::Frame(record, source)) => {
                    let read = read_frame(&*self.disk, key, &record, &source);
                    if let Ok(value) = &read {
                        self.remember(key, record.serial, value);
                    }
                    ((source.generation, record.serial), read.map(|value| (record.version, value.to_vec())))
                }
                Some(Found::Blob(version, blob)) => {
                    ((0, version), read_blob(&*self.disk, key, version, &blob).map(|value| (version, value)))
                }
            };
            match read {
                Ok(found) => return Ok(Some(found)),
                // It may have been replaced or moved meanwhile, and then what is there no longer is what was looked for.
                Err(error) if last.as_ref().is_some_and(|(before, _)| *before == serial) => return Err(error),
                Err(error) => last = Some((serial, error)),
            }
        }
        Err(last.map_or(VaultError::Closed, |(_, error)| error))
    }

    fn find(&self, key: &Key) -> Result<Option<Found>, VaultError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some((version, value)) = state.queue.soon(key) {
            return Ok(match value {
                Queued::Gone => None,
                Queued::Small(value) => Some(Found::Value(version, value.to_vec())),
                Queued::Blob(blob, _) => Some(Found::Blob(version, Arc::new(blob.clone()))),
            });
        }
        let Some(record) = state.index.get(key) else { return Ok(None) };
        match &record.at {
            At::Blob(blob) => Ok(Some(Found::Blob(record.version, blob.clone()))),
            At::Journal(spot) => {
                if let Some(value) = state.cache.get(record.serial) {
                    return Ok(Some(Found::Value(record.version, value.to_vec())));
                }
                let key = state.keys.get(spot.segment as usize).cloned().ok_or(VaultError::Closed)?;
                Ok(Some(Found::Frame(record.clone(), Source { generation: state.generation, key, spot: *spot })))
            }
        }
    }

    fn remember(&self, key: &Key, serial: u64, value: &Arc<[u8]>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.index.get(key).is_some_and(|record| record.serial == serial) {
            state.cache.insert(serial, value.clone());
        }
    }
}

/// Names a record that the journal no longer has.
fn wrong(key: &Key, record: &Record, source: &Source) -> VaultError {
    VaultError::damaged(format!(
        "{key} (version {}) cannot be read: entry {} of the journal is no longer what it was (generation {}, byte {})",
        record.version, source.spot.sequence, source.generation, source.spot.offset
    ))
}

/// A value out of its frame.
pub(crate) fn read_frame(disk: &dyn Disk, key: &Key, record: &Record, source: &Source) -> Result<Arc<[u8]>, VaultError> {
    let plain = open_frame(disk, source)?.ok_or_else(|| wrong(key, record, source))?;
    value_in(&plain, key, record, source)
}

/// What a frame says. `None`: another one lies in its place.
pub(crate) fn open_frame(disk: &dyn Disk, source: &Source) -> Result<Option<Vec<u8>>, VaultError> {
    let Source { generation, key, spot } = source;
    // The frame is bound to the tag of the one before it, which lies right before it and needs no trust: another one does not fit.
    let Some(mut bytes) = read(disk, spot.offset - TAG as u64, TAG + spot.length as usize)? else { return Ok(None) };
    let opened = || -> Option<usize> {
        let place = Place { generation: *generation, sequence: spot.sequence, before: *bytes.first_chunk()? };
        let header = Header::read(*bytes.get(TAG..)?.first_chunk()?);
        let body = bytes.get_mut(TAG + FRAME_HEADER..)?;
        if !header.is_genuine(key, &place, &[]) || header.length as usize != body.len() {
            return None;
        }
        Some(format::open_body(&header, key, &place, &[], body)?.0.len())
    };
    let Some(length) = { opened }() else { return Ok(None) };
    bytes.truncate(TAG + FRAME_HEADER + length);
    bytes.drain(..TAG + FRAME_HEADER);
    Ok(Some(bytes))
}

/// The record's value in what its frame says.
pub(crate) fn value_in(plain: &[u8], key: &Key, record: &Record, source: &Source) -> Result<Arc<[u8]>, VaultError> {
    let is_it = |delta: &format::Delta<'_>| delta.owner == key.owner && delta.kind == key.kind && delta.name == key.name;
    let delta = match Payload::read(plain) {
        Some(Payload::Commit { epoch, changes, .. }) if epoch == record.version => changes.into_iter().find(is_it),
        Some(Payload::Snapshot { records, .. }) => {
            records.into_iter().find(|(version, delta)| *version == record.version && is_it(delta)).map(|(_, delta)| delta)
        }
        _ => None,
    };
    match delta.map(|delta| delta.value) {
        Some(Value::Here(value)) if value.len() as u64 == record.length => Ok(Arc::from(value)),
        _ => Err(wrong(key, record, source)),
    }
}

/// These bytes of the journal. `None`: they are not there.
fn read(disk: &dyn Disk, offset: u64, length: usize) -> Result<Option<Vec<u8>>, VaultError> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let missing = length - bytes.len();
        let piece = match piece(disk, offset + bytes.len() as u64, missing)? {
            Some(piece) if !piece.is_empty() => piece,
            _ => return Ok(None),
        };
        bytes.extend_from_slice(&piece[..piece.len().min(missing)]);
    }
    Ok(Some(bytes))
}

fn read_blob(disk: &dyn Disk, key: &Key, version: u64, blob: &BlobRef) -> Result<Vec<u8>, VaultError> {
    let wrong = |how: &str| VaultError::damaged(format!("{key} (version {version}) cannot be read: {how}"));
    let bytes = disk.blob(blob.id).map_err(VaultError::disk("reading a blob"))?.ok_or_else(|| wrong("its blob is missing"))?;
    blob::open(blob, key, bytes).map_err(wrong)
}
