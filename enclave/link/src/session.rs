//! Records: sealed one after the other, opened in the same order or not at all.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::error::LinkError;
use crate::handshake::kind;

/// Bytes that a record has beside what it holds and the padding: kind, length, tag.
const OVERHEAD: usize = 1 + LENGTH + 16;
const LENGTH: usize = 4;
/// Of what a record holds: whatever is smaller looks alike.
const SMALLEST: usize = 1024;

pub(crate) struct Keys {
    pub ours: [u8; 32],
    pub theirs: [u8; 32],
}

/// One end of an agreed channel.
pub struct Session {
    seal: LessSafeKey,
    open: LessSafeKey,
    sealed: u64,
    opened: u64,
    over: bool,
}

impl Session {
    pub(crate) fn new(keys: Keys) -> Result<Session, LinkError> {
        let key = |bytes: &[u8; 32]| UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| LinkError::Keys);
        Ok(Session { seal: key(&keys.ours)?, open: key(&keys.theirs)?, sealed: 0, opened: 0, over: false })
    }

    /// Seals the next record. It must be sent before any that is sealed later.
    ///
    /// # Errors
    /// When the session is over.
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>, LinkError> {
        if self.over {
            return Err(LinkError::Over);
        }
        let length = u32::try_from(plain.len()).map_err(|_| LinkError::Misplaced)?;
        let nonce = nonce(&mut self.sealed)?;
        let size = class(plain.len());
        let mut record = Vec::with_capacity(size + OVERHEAD);
        record.push(kind::RECORD);
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(plain);
        record.resize(1 + LENGTH + size, 0);
        let body = record.get_mut(1..).ok_or(LinkError::Over)?;
        let tag = self.seal.seal_in_place_separate_tag(nonce, Aad::from([kind::RECORD]), body).map_err(|_| LinkError::Keys)?;
        record.extend_from_slice(tag.as_ref());
        Ok(record)
    }

    /// Opens the next record of the other end. After an error the session is over, for both directions.
    ///
    /// # Errors
    /// When it is not the next one.
    pub fn open(&mut self, record: &[u8]) -> Result<Vec<u8>, LinkError> {
        if self.over {
            return Err(LinkError::Over);
        }
        let opened = self.try_open(record);
        self.over = opened.is_err();
        opened
    }

    fn try_open(&mut self, record: &[u8]) -> Result<Vec<u8>, LinkError> {
        let Some((&kind::RECORD, sealed)) = record.split_first() else { return Err(LinkError::Record) };
        let nonce = nonce(&mut self.opened)?;
        let mut body = sealed.to_vec();
        let plain = self.open.open_in_place(nonce, Aad::from([kind::RECORD]), &mut body).map_err(|_| LinkError::Record)?;
        let (length, plain) = plain.split_first_chunk::<LENGTH>().ok_or(LinkError::Record)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > plain.len() {
            return Err(LinkError::Record);
        }
        body.copy_within(LENGTH..LENGTH + length, 0);
        body.truncate(length);
        Ok(body)
    }
}

/// What a record of so many bytes is padded to (Padmé): of a number with e + 1 bits, the lowest e - log2(e) - 1 are rounded up to zero. At
/// most 12 % more. A caller may have asked that the size of his answer be hidden; on its way between enclaves it always is.
fn class(bytes: usize) -> usize {
    if bytes <= SMALLEST {
        return SMALLEST;
    }
    let exponent = bytes.ilog2();
    let kept = exponent.ilog2() + 1;
    bytes.next_multiple_of(1 << (exponent - kept))
}

/// The number of a record as its nonce. Each direction has a key of its own, so no nonce comes twice with one key.
fn nonce(count: &mut u64) -> Result<Nonce, LinkError> {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&count.to_be_bytes());
    *count = count.checked_add(1).ok_or(LinkError::Over)?;
    Ok(Nonce::assume_unique_for_key(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_few_classes() {
        let end = || Session::new(Keys { ours: [1; 32], theirs: [1; 32] }).unwrap();
        let (mut here, mut there) = (end(), end());
        let mut sizes = std::collections::BTreeSet::new();
        for length in (0..100_000).step_by(191) {
            let plain = vec![7; length];
            let record = here.seal(&plain).unwrap();
            assert!(length <= SMALLEST || record.len() - OVERHEAD <= length * 9 / 8, "{length}: {}", record.len());
            sizes.insert(record.len());
            assert_eq!(there.open(&record).unwrap(), plain);
        }
        assert!(sizes.len() < 130, "{}", sizes.len());
    }
}
