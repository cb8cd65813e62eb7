//! The journal's bytes. `docs/storage.md` has the same in prose.
//!
//! A generation is a file header and frames. A frame is a header, which is authenticated by itself so that a changed length does not pass
//! for a torn tail, and a sealed payload, bound to the generation, to its number and to the frame before it. A segment frame begins what
//! one opening of the store writes: it names, in clear, what the segment's key derives from.

use serde::{Deserialize, Serialize};

use crate::{Padding, VaultError};
use teemate_sealed::seal::{CHECK, SegmentKey, TAG};

/// The format's number, last byte of the magic.
pub const FORMAT: u8 = 1;
/// What the keys of a journal are derived for.
pub const PURPOSE: &str = "teemate vault 1";
const MAGIC: [u8; 7] = *b"TMVAULT";
/// Bytes of the file header: generation, magic, format.
pub const FILE_HEADER: usize = 16;
/// Bytes of a frame header: length, kind, sequence, check.
pub const FRAME_HEADER: usize = 24;
const UNCHECKED: usize = FRAME_HEADER - CHECK;
/// Bytes of a segment's description: ISVSVN, CPUSVN, key id.
pub const SEGMENT: usize = 50;
/// The most bytes of a frame's body.
pub const MAX_BODY: usize = 4 << 20;
/// Tag that the first frame of a generation follows.
pub const NO_TAG: [u8; TAG] = [0; TAG];

/// The first bytes of a generation.
pub fn file_header(generation: u64) -> [u8; FILE_HEADER] {
    let mut bytes = [0; FILE_HEADER];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    bytes[8..15].copy_from_slice(&MAGIC);
    bytes[15] = FORMAT;
    bytes
}

/// Number of the generation that begins so.
pub fn read_file_header(bytes: &[u8; FILE_HEADER]) -> Result<u64, VaultError> {
    if bytes[8..15] != MAGIC {
        return Err(VaultError::damaged("the journal does not begin as one of TeeMate's does"));
    }
    if bytes[15] != FORMAT {
        return Err(VaultError::Format { found: bytes[15], known: FORMAT });
    }
    Ok(u64::from_le_bytes(*bytes.first_chunk().ok_or(VaultError::Closed)?))
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Begins a segment.
    Segment = 1,
    /// Belongs to the segment before it.
    Entry = 2,
}

/// A frame's header as it lies on the disk: an allegation until its check was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body: of the description, for a segment frame, of the ciphertext and its tag.
    pub length: u32,
    /// What the frame is.
    pub kind: Option<Kind>,
    /// Its number in the generation.
    pub sequence: u64,
    raw: [u8; FRAME_HEADER],
}

impl Header {
    /// Reads one.
    pub fn read(raw: [u8; FRAME_HEADER]) -> Header {
        let [a, b, c, d, e, f, g, h, ..] = raw;
        let kind = match u32::from_le_bytes([e, f, g, h]) {
            1 => Some(Kind::Segment),
            2 => Some(Kind::Entry),
            _ => None,
        };
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&raw[8..16]);
        Header { length: u32::from_le_bytes([a, b, c, d]), kind, sequence: u64::from_le_bytes(sequence), raw }
    }

    /// Whether the check is that of a frame in this place.
    pub fn is_genuine(&self, key: &SegmentKey, place: &Place, segment: &[u8]) -> bool {
        self.sequence == place.sequence && key.check(&place.associated(&self.raw, segment)) == self.raw[UNCHECKED..]
    }
}

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Generation.
    pub generation: u64,
    /// Number of the frame in it.
    pub sequence: u64,
    /// Tag of the frame before.
    pub before: [u8; TAG],
}

impl Place {
    /// What a frame's check and its tag cover besides the ciphertext.
    fn associated(&self, header: &[u8; FRAME_HEADER], segment: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(UNCHECKED + 8 + TAG + SEGMENT);
        bytes.extend_from_slice(&header[..UNCHECKED]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.before);
        bytes.extend_from_slice(segment);
        bytes
    }
}

/// Appends a frame to `into` and returns its tag. `segment` is empty for an entry.
pub fn write_frame(
    into: &mut Vec<u8>,
    key: &SegmentKey,
    place: &Place,
    segment: &[u8],
    payload: &Payload<'_>,
    padding: Padding,
) -> Result<[u8; TAG], VaultError> {
    let kind = if segment.is_empty() { Kind::Entry } else { Kind::Segment };
    let mut plain = postcard::to_allocvec(payload).map_err(|_| VaultError::Closed)?;
    plain.resize(padding.size(plain.len()), 0);
    let length = segment.len() + plain.len() + TAG;
    if length > MAX_BODY {
        return Err(VaultError::TooLarge { what: "one commit", bytes: length as u64, limit: MAX_BODY as u64 });
    }
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
    header[8..16].copy_from_slice(&place.sequence.to_le_bytes());
    let associated = place.associated(&header, segment);
    header[UNCHECKED..].copy_from_slice(&key.check(&associated));
    let tag = key.seal(place.sequence, &associated, &mut plain)?;
    into.reserve(FRAME_HEADER + length);
    into.extend_from_slice(&header);
    into.extend_from_slice(segment);
    into.extend_from_slice(&plain);
    into.extend_from_slice(&tag);
    Ok(tag)
}

/// Opens a frame's body in place: the payload's bytes and the frame's tag. `None`: it is not the frame of this place.
pub fn open_body<'a>(
    header: &Header,
    key: &SegmentKey,
    place: &Place,
    segment: &[u8],
    body: &'a mut [u8],
) -> Option<(&'a [u8], [u8; TAG])> {
    let tag = *body.last_chunk()?;
    let plain = key.open(place.sequence, &place.associated(&header.raw, segment), body)?;
    Some((plain, tag))
}

/// ISVSVN, CPUSVN and key id of a segment.
pub fn segment(isv_svn: u16, cpu_svn: [u8; 16], key_id: [u8; 32]) -> [u8; SEGMENT] {
    let mut bytes = [0; SEGMENT];
    bytes[..2].copy_from_slice(&isv_svn.to_le_bytes());
    bytes[2..18].copy_from_slice(&cpu_svn);
    bytes[18..].copy_from_slice(&key_id);
    bytes
}

/// The three of a segment's description.
pub fn read_segment(bytes: &[u8; SEGMENT]) -> (u16, [u8; 16], [u8; 32]) {
    let (mut cpu_svn, mut key_id) = ([0; 16], [0; 32]);
    cpu_svn.copy_from_slice(&bytes[2..18]);
    key_id.copy_from_slice(&bytes[18..]);
    (u16::from_le_bytes([bytes[0], bytes[1]]), cpu_svn, key_id)
}

/// What a frame says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Payload<'a> {
    /// First frame of a segment.
    Segment {
        /// The opening of the store that writes it.
        opening: Opening,
        /// Number of the next blob of that opening.
        blobs: u64,
        /// In the first segment of a generation.
        store: Option<Store>,
    },
    /// What one commit changed.
    Commit {
        /// Its number; the version of what it wrote.
        epoch: u64,
        /// Number of the opening's next blob.
        blobs: u64,
        /// Changes.
        #[serde(borrow)]
        changes: Vec<Delta<'a>>,
        /// Blobs that were superseded earlier and are deleted by now.
        dropped: Vec<[u8; 32]>,
    },
    /// Records as an earlier generation had them.
    Snapshot {
        /// Version and record.
        #[serde(borrow)]
        records: Vec<(u64, Delta<'a>)>,
        /// Superseded blobs that are still to be deleted.
        garbage: Vec<[u8; 32]>,
    },
    /// The snapshot is complete.
    SnapshotEnd {
        /// How many records it has.
        records: u64,
        /// The last commit that is in it.
        epoch: u64,
    },
}

/// One record's change.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta<'a> {
    /// Owner.
    pub owner: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Name.
    pub name: &'a str,
    /// What it is from now on.
    pub value: Value<'a>,
}

/// A record's value in the journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Value<'a> {
    /// None any more.
    Gone,
    /// Here.
    Here(&'a [u8]),
    /// In a blob.
    Blob(BlobRef),
}

/// A blob as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// What the host calls it.
    pub id: [u8; 32],
    /// Its key, used for nothing else.
    pub key: [u8; 32],
    /// SHA-256 of its bytes on the disk.
    pub digest: [u8; 32],
    /// Length of the value.
    pub length: u64,
}

/// One opening of the store: from its start until the enclave ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Random.
    pub id: [u8; 16],
    /// Its first epoch.
    pub epoch: u64,
}

/// What every generation carries on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The blobs' names derive from it.
    pub secret: [u8; 32],
    /// Openings before this one, oldest first.
    pub history: Vec<Opening>,
    /// A snapshot follows; without its end the generation is not complete.
    pub snapshot: bool,
}

impl<'a> Payload<'a> {
    /// Reads an authenticated payload; the rest is padding.
    pub fn read(bytes: &'a [u8]) -> Option<Payload<'a>> {
        let (payload, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.iter().all(|byte| *byte == 0).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SegmentKey {
        SegmentKey::derive(&[1; 16], &[2; 32], PURPOSE).unwrap()
    }

    fn place(sequence: u64) -> Place {
        Place { generation: 3, sequence, before: [9; TAG] }
    }

    fn open(frame: &[u8], place: &Place) -> Option<Vec<u8>> {
        let header = Header::read(*frame.first_chunk()?);
        let mut body = frame[FRAME_HEADER..].to_vec();
        if !header.is_genuine(&key(), place, &[]) || header.length as usize != body.len() {
            return None;
        }
        open_body(&header, &key(), place, &[], &mut body).map(|(plain, _)| plain.to_vec())
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written_and_nowhere_else(
            value in proptest::collection::vec(any::<u8>(), 0..600), flip in any::<prop::sample::Index>(), classes in any::<bool>(),
        ) {
            let payload = Payload::Commit {
                epoch: 12,
                blobs: 4,
                changes: vec![Delta { owner: "o", kind: "k", name: "n", value: Value::Here(&value) }],
                dropped: vec![[8; 32]],
            };
            let padding = if classes { Padding::Classes } else { Padding::Exact };
            let mut frame = Vec::new();
            write_frame(&mut frame, &key(), &place(5), &[], &payload, padding).unwrap();
            let plain = open(&frame, &place(5)).unwrap();
            prop_assert_eq!(Payload::read(&plain).unwrap(), payload);
            prop_assert!(open(&frame, &place(6)).is_none());
            for other in [Place { generation: 4, ..place(5) }, Place { before: NO_TAG, ..place(5) }] {
                prop_assert!(open(&frame, &other).is_none());
            }
            let at = flip.index(frame.len() * 8);
            frame[at / 8] ^= 1 << (at % 8);
            prop_assert!(open(&frame, &place(5)).is_none());
        }

        #[test]
        fn no_bytes_make_the_reader_of_payloads_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Payload::read(&bytes);
        }
    }

    #[test]
    fn a_commit_beyond_the_limit_is_refused() {
        let value = vec![0; MAX_BODY];
        let changes = vec![Delta { owner: "o", kind: "k", name: "n", value: Value::Here(&value) }];
        let payload = Payload::Commit { epoch: 1, blobs: 0, changes, dropped: Vec::new() };
        let written = write_frame(&mut Vec::new(), &key(), &place(1), &[], &payload, Padding::Exact);
        assert!(matches!(written, Err(VaultError::TooLarge { .. })));
    }
}
