//! Big values: a file of their own, with a key of its own that only the journal has.

use ring::digest::{SHA256, digest};
use ring::hmac;

use crate::format::BlobRef;
use crate::{Key, Padding, VaultError, random};
use teemate_sealed::seal::{self, TAG};

/// Values longer than this are blobs.
pub const INLINE: usize = 64 << 10;

/// What the host calls the blob of this number: random to the host, computable for the next opening, which so finds what a crash left.
pub fn id(secret: &[u8; 32], opening: &[u8; 16], number: u64) -> [u8; 32] {
    let mut message = [0; 24];
    message[..16].copy_from_slice(opening);
    message[16..].copy_from_slice(&number.to_le_bytes());
    let mut id = [0; 32];
    id.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &message).as_ref());
    id
}

/// Bytes for the disk, and what the journal must know of them.
pub fn seal(id: [u8; 32], key: &Key, value: &[u8], padding: Padding) -> Result<(Vec<u8>, BlobRef), VaultError> {
    let secret: [u8; 32] = random::bytes()?;
    let size = padding.size(value.len());
    let mut bytes = Vec::with_capacity(size + TAG);
    bytes.extend_from_slice(value);
    bytes.resize(size, 0);
    // The key is for this message alone, so the nonce may be any.
    let tag = seal::seal(&seal::once(&secret)?, seal::nonce(0), &associated(&id, key), &mut bytes)?;
    bytes.extend_from_slice(&tag);
    let reference = BlobRef { id, key: secret, digest: sha256(&bytes), length: value.len() as u64 };
    Ok((bytes, reference))
}

/// The value in a blob's bytes. `Err`: what is wrong with them.
pub fn open(reference: &BlobRef, key: &Key, mut bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    if sha256(&bytes) != reference.digest {
        return Err("its blob is not the one that was stored: it was changed, swapped or is an older one");
    }
    let cipher = seal::once(&reference.key).map_err(|_| "its key is of no use")?;
    let plain = cipher
        .open_in_place(seal::nonce(0), ring::aead::Aad::from(associated(&reference.id, key)), &mut bytes)
        .map_err(|_| "its blob belongs to another record")?
        .len();
    let length = usize::try_from(reference.length).ok().filter(|length| *length <= plain).ok_or("its blob is too short")?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Owner, kind, name and id, each with its length. The version is bound by the id, which no two versions share, and by the journal.
fn associated(id: &[u8; 32], key: &Key) -> Vec<u8> {
    let mut bytes = b"teemate vault 1: blob".to_vec();
    bytes.extend_from_slice(id);
    for part in [&key.owner, &key.kind, &key.name] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_of_one_record_and_unchanged() {
        let key = Key::new("owner", "code", "name");
        for padding in [Padding::Exact, Padding::Classes] {
            let (bytes, reference) = seal([1; 32], &key, b"big value", padding).unwrap();
            assert_eq!(open(&reference, &key, bytes.clone()).unwrap(), b"big value");
            assert!(!bytes.windows(5).any(|window| window == b"value"));
            assert!(open(&reference, &Key::new("owner", "cod", "ename"), bytes.clone()).is_err());
            let other = BlobRef { id: [2; 32], ..reference.clone() };
            assert!(open(&other, &key, bytes.clone()).is_err());
            let mut changed = bytes.clone();
            changed[0] ^= 1;
            assert!(open(&reference, &key, changed).is_err());
            assert!(open(&reference, &key, Vec::new()).is_err());
        }
    }

    #[test]
    fn names_of_blobs_differ() {
        assert_ne!(id(&[1; 32], &[2; 16], 0), id(&[1; 32], &[2; 16], 1));
        assert_ne!(id(&[1; 32], &[2; 16], 0), id(&[1; 32], &[3; 16], 0));
        assert_ne!(id(&[1; 32], &[2; 16], 0), id(&[4; 32], &[2; 16], 0));
    }
}
