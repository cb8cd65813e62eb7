//! A function's code, encrypted to a key that an owner's key broker releases to the enclave alone.
//!
//! ```text
//! MAGIC | length of the head, 4 bytes, little endian | head: Release as JSON | nonce, 12 bytes | code, AES-256-GCM, tag at its end
//! ```
//! All before the nonce is associated data. Who packs an image makes it; the enclave opens it; everybody between carries bytes.

use serde::{Deserialize, Serialize};

/// How it begins.
pub const MAGIC: &[u8] = b"teemate-encrypted-1\n";
/// Bytes of a key.
pub const KEY: usize = 32;
/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes that the code grows by when it is encrypted, beside the head.
pub const TAG: usize = 16;
/// Longest head: a chain of certificates, and some room.
const MAX_HEAD: usize = 256 << 10;

/// Who releases the key, and to what name. Nothing here is secret, and changing it opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// `https://HOST[:PORT][/PATH]` of the broker.
    pub broker: String,
    /// Certificates to one of which its own must chain, PEM.
    pub roots: String,
    /// `repository/type/tag` of the key: 32 bytes.
    pub resource: String,
}

/// An envelope, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Where its key is.
    pub release: Release,
    /// What must be as it was when the code was encrypted.
    pub associated: &'a [u8],
    /// Nonce.
    pub nonce: [u8; NONCE],
    /// Code and tag.
    pub sealed: &'a [u8],
}

/// Whether these bytes begin as one.
pub fn is_envelope(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What is before the nonce. `None`: the head is too long.
pub fn associated(release: &Release) -> Option<Vec<u8>> {
    let head = serde_json::to_vec(release).ok().filter(|head| head.len() <= MAX_HEAD)?;
    let length = u32::try_from(head.len()).ok()?;
    Some([MAGIC, &length.to_le_bytes(), &head].concat())
}

/// Takes one apart. `None`: it is none, or broken.
pub fn parse(bytes: &[u8]) -> Option<Envelope<'_>> {
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (head, rest) = rest.split_at_checked(length).filter(|_| length <= MAX_HEAD)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE>().filter(|(_, sealed)| sealed.len() >= TAG)?;
    let release = serde_json::from_slice(head).ok()?;
    Some(Envelope { release, associated: &bytes[..MAGIC.len() + 4 + length], nonce: *nonce, sealed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn release() -> Release {
        Release { broker: "https://broker:1".into(), roots: "PEM".into(), resource: "a/b/c".into() }
    }

    #[test]
    fn what_was_put_together_comes_apart() {
        let before = associated(&release()).unwrap();
        let bytes = [&before[..], &[7; NONCE], &[9; 40]].concat();
        let parts = parse(&bytes).unwrap();
        assert_eq!((parts.release, parts.associated, parts.nonce, parts.sealed), (release(), &before[..], [7; NONCE], &[9; 40][..]));
        assert!(is_envelope(&bytes) && !is_envelope(b"function main() {}"));
        for cut in 0..before.len() + NONCE + TAG {
            assert_eq!(parse(&bytes[..cut]), None, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), length in any::<u32>()) {
            let _ = parse(&bytes);
            let _ = parse(&[MAGIC, &length.to_le_bytes(), &bytes].concat());
        }
    }
}
