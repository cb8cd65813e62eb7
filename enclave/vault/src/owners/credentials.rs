//! Tokens, uuids and keys, and the hashes by which they are known again.

use ring::digest::{Context, SHA256};

use crate::{VaultError, random};

const KEY_LENGTH: usize = 64;
const TOKEN_PREFIX: &str = "tmc_";

/// A claim token: 128 random bits.
pub fn token() -> Result<String, VaultError> {
    Ok(format!("{TOKEN_PREFIX}{}", hex(&random::bytes::<16>()?)))
}

/// A version 4 UUID.
pub fn uuid() -> Result<String, VaultError> {
    let mut bytes: [u8; 16] = random::bytes()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

/// Whether this is written as a version 4 UUID.
pub fn is_uuid(text: &str) -> bool {
    let fits = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        14 => c == '4',
        19 => matches!(c, '8' | '9' | 'a' | 'b'),
        _ => c.is_ascii_hexdigit() && !c.is_ascii_uppercase(),
    };
    text.len() == 36 && text.char_indices().all(fits)
}

/// A key as OpenWhisk's: 64 letters and digits, more than 380 random bits.
pub fn key() -> Result<String, VaultError> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut key = String::with_capacity(KEY_LENGTH);
    while key.len() < KEY_LENGTH {
        // The highest multiple of 62 in a byte: beyond it some letters would come more often.
        let fair = random::bytes::<96>()?.into_iter().filter(|byte| *byte < 248);
        key.extend(fair.map(|byte| char::from(LETTERS[usize::from(byte % 62)])).take(KEY_LENGTH - key.len()));
    }
    Ok(key)
}

/// Hash of a claim token.
pub fn hash_token(token: &str) -> [u8; 32] {
    hash(&[b"teemate claim token", token.as_bytes()])
}

/// Hash of a key, which is of use for this uuid alone.
pub fn hash_key(uuid: &str, key: &str) -> [u8; 32] {
    hash(&[b"teemate owner key", uuid.as_bytes(), key.as_bytes()])
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_look_as_openwhisks_and_never_repeat() {
        let mut seen = std::collections::HashSet::new();
        let mut letters = std::collections::HashSet::new();
        for _ in 0..200 {
            let (uuid, key, token) = (uuid().unwrap(), key().unwrap(), token().unwrap());
            assert!(is_uuid(&uuid), "{uuid}");
            assert!(key.len() == 64 && key.chars().all(|c| c.is_ascii_alphanumeric()), "{key}");
            assert!(token.len() == 36, "{token}");
            letters.extend(key.chars());
            assert!(seen.insert(uuid) && seen.insert(key) && seen.insert(token));
        }
        assert_eq!(letters.len(), 62);
        for wrong in ["", "x", "guest", "00000000-0000-1000-8000-000000000000", "00000000-0000-4000-0000-000000000000"] {
            assert!(!is_uuid(wrong));
        }
    }

    #[test]
    fn a_hash_is_of_one_pair() {
        assert_eq!(hash_key("a", "b"), hash_key("a", "b"));
        assert_ne!(hash_key("a", "bc"), hash_key("ab", "c"));
        assert_ne!(hash_key("", "a"), hash_token("a"));
    }
}
