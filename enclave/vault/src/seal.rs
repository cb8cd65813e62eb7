//! The keys of a segment, and what is encrypted with them.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};

use crate::VaultError;

/// Bytes that encryption adds.
pub const TAG: usize = 16;
/// Bytes of a frame header's check.
pub const CHECK: usize = 8;

/// Keys of one segment: what one opening of the store writes into one generation. Each segment has a random number of its own, so that a
/// counter is a nonce that never comes twice, even when the host puts an old store back and the same counter is reached again.
pub struct SegmentKey {
    frames: LessSafeKey,
    check: hmac::Key,
}

impl SegmentKey {
    /// Derives them from the seal key.
    pub fn derive(seal_key: &[u8; 16], key_id: &[u8; 32]) -> Result<SegmentKey, VaultError> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, key_id).extract(seal_key);
        let broken = |_| VaultError::Closed;
        let frames = UnboundKey::from(secret.expand(&[b"teemate vault 1: frames"], &AES_256_GCM).map_err(broken)?);
        let check = hmac::Key::from(secret.expand(&[b"teemate vault 1: frame headers"], hmac::HMAC_SHA256).map_err(broken)?);
        Ok(SegmentKey { frames: LessSafeKey::new(frames), check })
    }

    /// Encrypts in place and returns the tag.
    pub fn seal(&self, sequence: u64, associated: &[u8], plain: &mut [u8]) -> Result<[u8; TAG], VaultError> {
        seal(&self.frames, nonce(sequence), associated, plain)
    }

    /// Decrypts in place. `None`: these bytes were not sealed so.
    pub fn open<'a>(&self, sequence: u64, associated: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.frames.open_in_place(nonce(sequence), Aad::from(associated), sealed).ok()
    }

    /// What authenticates a frame's header before its body is there.
    pub fn check(&self, header: &[u8]) -> [u8; CHECK] {
        let mut check = [0; CHECK];
        check.copy_from_slice(&hmac::sign(&self.check, header).as_ref()[..CHECK]);
        check
    }
}

/// A key for one message.
pub fn once(key: &[u8; 32]) -> Result<LessSafeKey, VaultError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| VaultError::Closed)
}

/// Encrypts in place and returns the tag.
pub fn seal(key: &LessSafeKey, nonce: Nonce, associated: &[u8], plain: &mut [u8]) -> Result<[u8; TAG], VaultError> {
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(associated), plain).map_err(|_| VaultError::TooLarge {
        what: "one encryption",
        bytes: plain.len() as u64,
        limit: 1 << 36,
    })?;
    let mut bytes = [0; TAG];
    bytes.copy_from_slice(tag.as_ref());
    Ok(bytes)
}

/// A counter as nonce.
pub fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_in_its_place() {
        let key = SegmentKey::derive(&[1; 16], &[2; 32]).unwrap();
        let mut bytes = b"value".to_vec();
        let tag = key.seal(7, b"place", &mut bytes).unwrap();
        assert_ne!(bytes, b"value");
        bytes.extend_from_slice(&tag);
        assert_eq!(key.open(7, b"place", &mut bytes.clone()).unwrap(), b"value");
        assert!(key.open(8, b"place", &mut bytes.clone()).is_none());
        assert!(key.open(7, b"other", &mut bytes.clone()).is_none());
        for other in [SegmentKey::derive(&[1; 16], &[3; 32]).unwrap(), SegmentKey::derive(&[2; 16], &[2; 32]).unwrap()] {
            assert!(other.open(7, b"place", &mut bytes.clone()).is_none());
            assert_ne!(other.check(b"header"), key.check(b"header"));
        }
    }
}
