//! Bytes in JSON: hexadecimal for digests that people compare, base64 for the rest. Decoding takes one spelling of each value only.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).map(char::from).collect()
}

/// Hexadecimal of exactly `N` bytes; either case.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    Some(bytes)
}

/// base64url without padding (RFC 7515).
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The inverse of [`base64url`]; refuses padding, white space and bits that stand for nothing.
pub fn unbase64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The inverse of [`base64url`] for exactly `N` bytes.
pub fn unbase64url_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    unbase64url(text)?.try_into().ok()
}

/// Serde: an array of bytes as lower-case hexadecimal.
pub mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes it.
    pub fn serialize<const N: usize, S: Serializer>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex(bytes))
    }

    /// Reads it.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        // One spelling only: these texts are hashed and signed.
        super::unhex(&text)
            .filter(|bytes| super::hex(bytes) == text)
            .ok_or_else(|| D::Error::custom(format!("expected {N} bytes in lower-case hexadecimal")))
    }
}

/// Serde: the same for what may be absent.
pub mod as_optional_hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wrapped<const N: usize>(#[serde(with = "super::as_hex")] [u8; N]);

    /// Writes it.
    pub fn serialize<const N: usize, S: Serializer>(bytes: &Option<[u8; N]>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.map(Wrapped).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; N]>, D::Error> {
        Ok(Option::<Wrapped<N>>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
    }
}

/// Serde: an array of bytes as base64url without padding.
pub mod as_base64url {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes it.
    pub fn serialize<const N: usize, S: Serializer>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::base64url(bytes))
    }

    /// Reads it.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        super::unbase64url_array(&text).ok_or_else(|| D::Error::custom(format!("expected {N} bytes in base64url without padding")))
    }
}

/// Serde: the same for what may be absent.
pub mod as_optional_base64url {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wrapped<const N: usize>(#[serde(with = "super::as_base64url")] [u8; N]);

    /// Writes it.
    pub fn serialize<const N: usize, S: Serializer>(bytes: &Option<[u8; N]>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.map(Wrapped).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; N]>, D::Error> {
        Ok(Option::<Wrapped<N>>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
    }
}

/// Serde: bytes of any length as base64 with padding, as `base64 -d` reads it.
pub mod as_base64 {
    use base64::Engine;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes it.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::STANDARD.encode(bytes))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        super::STANDARD.decode(text.as_bytes()).map_err(|error| D::Error::custom(format!("expected base64: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hexadecimal_goes_there_and_back(bytes: [u8; 7]) {
            prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
            prop_assert_eq!(unhex(&hex(&bytes).to_uppercase()), Some(bytes));
        }

        #[test]
        fn base64url_has_one_spelling(text in "[A-Za-z0-9_-]{0,9}") {
            if let Some(bytes) = unbase64url(&text) {
                prop_assert_eq!(base64url(&bytes), text);
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (unhex::<4>(&text), unbase64url(&text), unbase64url_array::<4>(&text));
        }
    }

    #[test]
    fn wrong_lengths_and_digits_are_refused() {
        assert_eq!(unhex::<2>("abc"), None);
        assert_eq!(unhex::<2>("abcdef"), None);
        assert_eq!(unhex::<2>("ab+d"), None);
        assert_eq!(unhex::<1>("é"), None);
        assert_eq!(unbase64url("AB=="), None);
    }
}
