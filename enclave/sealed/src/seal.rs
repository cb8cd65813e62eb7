//! The keys of what one writer writes, and what is encrypted with them.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};

/// The cipher can't be used with what it was given: more than 64 GB at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cipher refused: a key that is none, or too much at once")]
pub struct Refused;

/// Bytes that encryption adds.
pub const TAG: usize = 16;
/// Bytes of a frame header's check.
pub const CHECK: usize = 8;

/// Keys of one segment: what one writer writes into one file. Each segment has a random number of its own, so that a counter is a nonce that
/// never comes twice, even when the host puts an old file back and the same counter is reached again.
pub struct SegmentKey {
    frames: LessSafeKey,
    check: hmac::Key,
}

impl SegmentKey {
    /// Derives them from the seal key, for this use.
    ///
    /// # Errors
    /// [`Refused`] never comes to be with keys of these lengths; so of all that follow.
    pub fn derive(seal_key: &[u8; 16], key_id: &[u8; 32], purpose: &str) -> Result<SegmentKey, Refused> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, key_id).extract(seal_key);
        let broken = |_| Refused;
        let frames = UnboundKey::from(secret.expand(&[purpose.as_bytes(), b": frames"], &AES_256_GCM).map_err(broken)?);
        let check = hmac::Key::from(secret.expand(&[purpose.as_bytes(), b": frame headers"], hmac::HMAC_SHA256).map_err(broken)?);
        Ok(SegmentKey { frames: LessSafeKey::new(frames), check })
    }

    /// Encrypts in place and returns the tag.
    ///
    /// # Errors
    /// [`Refused`] above 64 GB.
    pub fn seal(&self, sequence: u64, associated: &[u8], plain: &mut [u8]) -> Result<[u8; TAG], Refused> {
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
///
/// # Errors
/// None with a key of this length.
pub fn once(key: &[u8; 32]) -> Result<LessSafeKey, Refused> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| Refused)
}

/// Encrypts in place and returns the tag.
///
/// # Errors
/// [`Refused`] above 64 GB.
pub fn seal(key: &LessSafeKey, nonce: Nonce, associated: &[u8], plain: &mut [u8]) -> Result<[u8; TAG], Refused> {
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(associated), plain).map_err(|_| Refused)?;
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
        let key = SegmentKey::derive(&[1; 16], &[2; 32], "test").unwrap();
        let mut bytes = b"value".to_vec();
        let tag = key.seal(7, b"place", &mut bytes).unwrap();
        assert_ne!(bytes, b"value");
        bytes.extend_from_slice(&tag);
        assert_eq!(key.open(7, b"place", &mut bytes.clone()).unwrap(), b"value");
        assert!(key.open(8, b"place", &mut bytes.clone()).is_none());
        assert!(key.open(7, b"other", &mut bytes.clone()).is_none());
        for other in [SegmentKey::derive(&[1; 16], &[3; 32], "test").unwrap(), SegmentKey::derive(&[2; 16], &[2; 32], "test").unwrap()] {
            assert!(other.open(7, b"place", &mut bytes.clone()).is_none());
            assert_ne!(other.check(b"header"), key.check(b"header"));
        }
    }
}
