//! Messages on a packet socket: each packet carries a header and a piece of one message, so that a message may be larger than a packet
//! and a lost peer never leaves the stream out of step.

use std::collections::HashMap;

use serde::{Serialize, de::DeserializeOwned};

/// Largest packet on the wire, header included: below the default socket buffer of Linux (212,992 bytes).
pub const MAX_PACKET: usize = 64 * 1024;
/// Largest message: code of 48 MB (OpenWhisk's limit) in base64, and some room.
pub const MAX_MESSAGE: usize = 80 << 20;
/// Messages that may be half-read at one time.
const MAX_PARTIAL: usize = 64;
const HEADER: usize = 16;

/// What is wrong with a peer's packets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than a header.
    #[error("a packet of {0} bytes is shorter than its header of {HEADER} bytes: the other end speaks another protocol")]
    Short(usize),
    /// Length or offset do not fit what came before.
    #[error("a piece at offset {offset} of a message of {total} bytes does not fit: the other end lost or repeated a packet")]
    Misfit {
        /// Offset that the piece claims.
        offset: u32,
        /// Length that the message claims.
        total: u32,
    },
    /// Larger than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is larger than the limit of {MAX_MESSAGE} bytes")]
    Large(usize),
    /// Too many messages begun and not finished.
    #[error("more than {MAX_PARTIAL} messages are half-sent: the other end is out of order")]
    Partial,
    /// The bytes are not a message.
    #[error("a message cannot be decoded ({0}): both ends must be of the same version")]
    Decode(String),
}

/// Cuts `message` into packets. `id` must differ from that of any message still on its way.
pub fn cut<M: Serialize>(id: u64, message: &M) -> Result<Vec<Vec<u8>>, PacketError> {
    let bytes = postcard::to_stdvec(message).map_err(|e| PacketError::Decode(e.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(PacketError::Large(bytes.len()));
    }
    let total = bytes.len() as u32;
    let mut offset = 0u32;
    let mut packets = Vec::with_capacity(bytes.len() / (MAX_PACKET - HEADER) + 1);
    loop {
        let piece = &bytes[offset as usize..bytes.len().min(offset as usize + MAX_PACKET - HEADER)];
        let mut packet = Vec::with_capacity(HEADER + piece.len());
        packet.extend_from_slice(&id.to_le_bytes());
        packet.extend_from_slice(&total.to_le_bytes());
        packet.extend_from_slice(&offset.to_le_bytes());
        packet.extend_from_slice(piece);
        packets.push(packet);
        offset += piece.len() as u32;
        if offset == total {
            return Ok(packets);
        }
    }
}

/// Joins packets of one channel into messages. Memory is bounded by what has arrived, not by what a header claims.
///
/// A packet that comes twice in a row counts once: a process that is killed while it sends or receives leaves nobody who knows how far it
/// came, and the next one does it again.
#[derive(Default)]
pub struct Joiner {
    partial: HashMap<u64, (u32, Vec<u8>)>,
    /// Header of the last packet.
    last: Option<[u8; HEADER]>,
}

impl Joiner {
    /// Takes one packet; gives a message when it was the last of it. After an error the channel should be closed.
    pub fn take<M: DeserializeOwned>(&mut self, packet: &[u8]) -> Result<Option<M>, PacketError> {
        let (header, piece) = packet.split_at_checked(HEADER).ok_or(PacketError::Short(packet.len()))?;
        if self.last.as_ref().is_some_and(|last| last == header) {
            return Ok(None);
        }
        self.last = header.try_into().ok();
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (id, total, offset) = (u64::from(word(0)) | u64::from(word(4)) << 32, word(8), word(12));
        if total as usize > MAX_MESSAGE {
            return Err(PacketError::Large(total as usize));
        }
        if offset == 0 && piece.len() == total as usize {
            return decode(piece).map(Some);
        }
        let misfit = PacketError::Misfit { offset, total };
        if piece.is_empty() {
            return Err(misfit);
        }
        if offset == 0 {
            if self.partial.len() >= MAX_PARTIAL {
                return Err(PacketError::Partial);
            }
            if piece.len() > total as usize || self.partial.contains_key(&id) {
                return Err(misfit);
            }
            self.partial.insert(id, (total, piece.to_vec()));
            return Ok(None);
        }
        let Some((expected, bytes)) = self.partial.get_mut(&id) else { return Err(misfit) };
        if *expected != total || bytes.len() != offset as usize || bytes.len() + piece.len() > total as usize {
            return Err(misfit);
        }
        bytes.extend_from_slice(piece);
        if bytes.len() < total as usize {
            return Ok(None);
        }
        let message = decode(bytes);
        self.partial.remove(&id);
        message.map(Some)
    }
}

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, PacketError> {
    postcard::from_bytes(bytes).map_err(|e| PacketError::Decode(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_cut_is_joined(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200_000), 1..6)) {
            let mut queues: Vec<_> = messages.iter().enumerate()
                .map(|(i, m)| cut(i as u64, m).unwrap().into_iter()).collect();
            let mut joiner = Joiner::default();
            let mut got = Vec::new();
            // Round-robin: packets of different messages are mixed on the wire.
            while queues.iter().any(|q| q.len() > 0) {
                for (i, q) in queues.iter_mut().enumerate() {
                    if let Some(p) = q.next() && let Some(m) = joiner.take::<Vec<u8>>(&p).unwrap() { got.push((i, m)); }
                }
            }
            got.sort();
            prop_assert_eq!(got, messages.into_iter().enumerate().collect::<Vec<_>>());
            prop_assert!(joiner.partial.is_empty());
        }

        #[test]
        fn hostile_packets_never_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64)) {
            let mut joiner = Joiner::default();
            for p in packets { let _ = joiner.take::<crate::service::ToService>(&p); }
        }
    }

    #[test]
    fn a_claimed_length_costs_nothing() {
        let mut packet = vec![0u8; 17];
        packet[8..12].copy_from_slice(&(MAX_MESSAGE as u32).to_le_bytes());
        let mut joiner = Joiner::default();
        assert_eq!(joiner.take::<Vec<u8>>(&packet), Ok(None));
        assert!(joiner.partial[&0].1.capacity() < 1024);
        packet[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(joiner.take::<Vec<u8>>(&packet), Err(PacketError::Large(u32::MAX as usize)));
    }
}
