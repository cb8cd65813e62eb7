//! Writes frames to the journal's end.

use std::sync::Arc;

use crate::disk::Disk;
use crate::error::VaultError;
use crate::format::{self, FILE_HEADER, FRAME_HEADER, NO_TAG, Opening, PURPOSE, Payload, Place, Store};
use crate::index::Spot;
use crate::{Padding, Sealing, random};
use teemate_sealed::seal::{SegmentKey, TAG};

/// The end of what is known to be written.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// Bytes.
    pub offset: u64,
    /// Number of the next frame.
    pub sequence: u64,
    /// Tag of the last frame.
    pub before: [u8; TAG],
}

/// The one that writes. There is one for each opening, and whoever leads a group of commits has it.
pub struct Writer {
    /// Generation that is written.
    pub generation: u64,
    cursor: Cursor,
    /// Key of the segment, once its first frame is there. A failed append ends the segment: what the disk kept of it is unknown, and no
    /// counter may encrypt two things.
    key: Option<Arc<SegmentKey>>,
    segments: u32,
    opening: Opening,
    store: Option<Store>,
    padding: Padding,
}

/// Frames that are written together.
pub struct Batch {
    bytes: Vec<u8>,
    start: u64,
    cursor: Cursor,
    key: Arc<SegmentKey>,
    segment: u32,
    begins: bool,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Writer {
    /// Goes on at the end of a generation with this many segments.
    pub fn resume(generation: u64, cursor: Cursor, segments: u32, opening: Opening, padding: Padding) -> Writer {
        Writer { generation, cursor, key: None, segments, opening, store: None, padding }
    }

    /// Begins a generation.
    pub fn begin(generation: u64, opening: Opening, store: Store, padding: Padding) -> Writer {
        let cursor = Cursor { offset: 0, sequence: 0, before: NO_TAG };
        Writer { generation, cursor, key: None, segments: 0, opening, store: Some(store), padding }
    }

    /// Bytes of the generation.
    pub fn size(&self) -> u64 {
        self.cursor.offset
    }

    /// Frames to come; `blobs` is the number of the opening's next blob. Begins a segment when there is none.
    pub fn batch(&self, sealing: &dyn Sealing, blobs: u64) -> Result<Batch, VaultError> {
        let mut bytes = Vec::new();
        let mut cursor = self.cursor;
        if let Some(key) = &self.key {
            return Ok(Batch { bytes, start: cursor.offset, cursor, key: key.clone(), segment: self.segments - 1, begins: false });
        }
        if cursor.offset == 0 {
            bytes.extend_from_slice(&format::file_header(self.generation));
            cursor.offset = FILE_HEADER as u64;
        }
        let (isv_svn, cpu_svn) = sealing.current();
        let key_id = random::bytes()?;
        let seal_key = sealing.key(isv_svn, cpu_svn, key_id).map_err(|error| VaultError::NoKey { reason: error.to_string() })?;
        let key = Arc::new(SegmentKey::derive(&seal_key, &key_id, PURPOSE)?);
        let mut batch = Batch { bytes, start: self.cursor.offset, cursor, key, segment: self.segments, begins: true };
        let payload = Payload::Segment { opening: self.opening, blobs, store: self.store.clone() };
        self.write(&mut batch, &format::segment(isv_svn, cpu_svn, key_id), &payload)?;
        Ok(batch)
    }

    /// Adds a frame.
    pub fn add(&self, batch: &mut Batch, payload: &Payload<'_>) -> Result<Spot, VaultError> {
        self.write(batch, &[], payload)
    }

    fn write(&self, batch: &mut Batch, segment: &[u8], payload: &Payload<'_>) -> Result<Spot, VaultError> {
        let cursor = &mut batch.cursor;
        let place = Place { generation: self.generation, sequence: cursor.sequence, before: cursor.before };
        let from = batch.bytes.len();
        cursor.before = format::write_frame(&mut batch.bytes, &batch.key, &place, segment, payload, self.padding)?;
        let length = batch.bytes.len() - from;
        debug_assert!(length > FRAME_HEADER);
        let spot = Spot { segment: batch.segment, sequence: cursor.sequence, offset: cursor.offset, length: length as u32 };
        cursor.sequence += 1;
        cursor.offset += length as u64;
        Ok(spot)
    }

    /// Makes the frames durable. Returns the key of the segment that they begin, if they do.
    ///
    /// # Errors
    /// What became of the frames is unknown then, and the next ones are written over them, in a segment of their own.
    pub fn append(&mut self, disk: &dyn Disk, batch: Batch) -> Result<Option<Arc<SegmentKey>>, VaultError> {
        if let Err(error) = disk.append(self.generation, batch.start, batch.bytes) {
            self.key = None;
            return Err(VaultError::Unknown { reason: error.to_string() });
        }
        self.cursor = batch.cursor;
        self.store = None;
        self.segments = batch.segment + 1;
        self.key = Some(batch.key.clone());
        Ok(batch.begins.then_some(batch.key))
    }
}
