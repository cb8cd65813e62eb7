//! Receipts: nested attestation. A quote says which program runs; a receipt, signed with a key that the quote binds, says what that program
//! ran: whose function, which code, in which container, within which limits, and what it used.
//!
//! A receipt is a JSON Web Signature in compact form (RFC 7515) with ES256, so that any JOSE library can check it:
//! `base64url(header) . base64url(payload) . base64url(r, s)`. The header has `alg`, `kid` (the key's RFC 7638 thumbprint) and `typ`, and
//! nothing else; the payload is [`Receipt`] as canonical JSON.
//!
//! Time in a receipt is the host's, made monotonic; that is why its members are called *untrusted*.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::encoding::{as_hex, as_optional_hex, base64url, unbase64url, unbase64url_array};
use crate::{Error, PublicKey, Signer, canonical};

/// Version of the payload.
pub const VERSION: u32 = 1;
/// `typ` of the header.
pub const TYPE: &str = "teemate-receipt+jws";
/// Longest receipt that is read.
pub const MAX_LENGTH: usize = 16 << 10;
/// Longest owner, action or version.
pub const MAX_NAME: usize = 512;

/// What an instance was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// A new container and a new instance.
    Fresh,
    /// The container stayed; the instance was rewound to its snapshot.
    Rewind,
    /// The instance stayed as the same owner's earlier calls of the same function left it.
    Keep,
}

/// How the call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// With a result.
    Success,
    /// With an `error` that the function gave as its result.
    ApplicationError,
    /// By the function's fault: it threw, or passed a limit.
    DeveloperError,
    /// By the service's or the host's fault.
    InternalError,
}

/// What the call might have used at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock time, milliseconds.
    pub timeout_ms: u64,
    /// Linear memory, bytes.
    pub memory: u64,
    /// Fuel. Absent: only time limited it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Log, bytes.
    pub log: u64,
    /// Result, bytes.
    pub result: u64,
}

/// What the call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Fuel.
    pub fuel: u64,
    /// Peak of linear memory, bytes.
    pub memory_peak: u64,
    /// Time from the instance's start to its return, microseconds of the host's clock.
    pub untrusted_execution_us: u64,
}

/// What one call was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`VERSION`].
    pub version: u32,
    /// Namespace of the owner.
    pub owner: String,
    /// The action, with its package if it is in one.
    pub action: String,
    /// The action's version.
    pub action_version: String,
    /// SHA-256 of the code as its owner gave it.
    #[serde(with = "as_hex")]
    pub code_sha256: [u8; 32],
    /// Its limits.
    pub limits: Limits,
    /// The container.
    pub container: u64,
    /// The activation: 32 hexadecimal digits.
    pub activation: String,
    /// What the instance was before.
    pub reuse: Reuse,
    /// How it ended.
    pub status: Status,
    /// What it used.
    pub usage: Usage,
    /// SHA-256 of the parameters as the function read them, if the caller asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_hex")]
    pub input_sha256: Option<[u8; 32]>,
    /// SHA-256 of the result as it was returned, if the caller asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_hex")]
    pub output_sha256: Option<[u8; 32]>,
    /// When it started, milliseconds since 1970 by the host's clock.
    pub untrusted_start_ms: u64,
    /// When it ended, likewise.
    pub untrusted_end_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

impl Header {
    fn of(key: &PublicKey) -> Self {
        Header { alg: "ES256".to_owned(), kid: key.thumbprint(), typ: TYPE.to_owned() }
    }
}

impl Receipt {
    /// Signs it.
    ///
    /// # Errors
    /// [`Error::Malformed`] for names that are too long and numbers beyond 2^53; [`Error::Unsigned`].
    pub fn sign(&self, key: &impl Signer) -> Result<String, Error> {
        self.check_form()?;
        let text = |value: Option<String>| value.ok_or_else(|| Error::malformed(WHAT, "a number is beyond 2^53"));
        let (header, payload) = (text(canonical::json(&Header::of(&key.public())))?, text(canonical::json(self))?);
        let mut token = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
        let signature = key.sign(token.as_bytes()).ok_or(Error::Unsigned { what: WHAT })?;
        token.push('.');
        token.push_str(&base64url(&signature));
        Ok(token)
    }

    /// The receipt in `token`, if `key` signed it. Whether the key is an enclave's is for a quote to say.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`], [`Error::Unsupported`] for another algorithm, type or version, and [`Error::Signature`].
    pub fn check(token: &str, key: &PublicKey) -> Result<Receipt, Error> {
        if token.len() > MAX_LENGTH {
            return Err(Error::TooLarge { what: WHAT, length: token.len(), limit: MAX_LENGTH });
        }
        let not_three = || Error::malformed(WHAT, "it is not three parts with dots between them");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(not_three)?;
        let (header, payload) = signed.split_once('.').ok_or_else(not_three)?;
        let decode = |part: &str| unbase64url(part).ok_or_else(|| Error::malformed(WHAT, "a part of it is not base64url"));
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|error| Error::malformed(WHAT, format!("header: {error}")))?;
        if header.alg != "ES256" {
            return Err(Error::unsupported(WHAT, "its algorithm is not ES256"));
        }
        if header.typ != TYPE {
            return Err(Error::unsupported(WHAT, format!("its type is not {TYPE}")));
        }
        // The key comes from the quote; a header that names another only makes the error clearer.
        if header.kid != key.thumbprint() {
            return Err(Error::Mismatch("the receipt names another key than the one that the quote binds"));
        }
        let signature = unbase64url_array(signature).ok_or_else(|| Error::malformed(WHAT, "its signature does not have 64 bytes"))?;
        let payload = decode(payload)?;
        if !key.verify(signed.as_bytes(), &signature) {
            return Err(Error::Signature { what: WHAT });
        }
        let receipt: Receipt = serde_json::from_slice(&payload).map_err(|error| Error::malformed(WHAT, error))?;
        receipt.check_form()?;
        Ok(receipt)
    }

    fn check_form(&self) -> Result<(), Error> {
        if self.version != VERSION {
            return Err(Error::unsupported(WHAT, format!("version {}, this is {VERSION}", self.version)));
        }
        if [&self.owner, &self.action, &self.action_version].into_iter().any(|name| name.len() > MAX_NAME) {
            return Err(Error::malformed(WHAT, format!("a name is longer than {MAX_NAME} bytes")));
        }
        if self.activation.len() != 32 || !self.activation.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Err(Error::malformed(WHAT, "an activation id is 32 hexadecimal digits"));
        }
        Ok(())
    }

    /// Whether `bytes` are the parameters that the function read. `None`: the receipt does not say.
    pub fn has_input(&self, bytes: &[u8]) -> Option<bool> {
        Some(self.input_sha256? == <[u8; 32]>::from(Sha256::digest(bytes)))
    }

    /// Whether `bytes` are the result. `None`: the receipt does not say.
    pub fn has_output(&self, bytes: &[u8]) -> Option<bool> {
        Some(self.output_sha256? == <[u8; 32]>::from(Sha256::digest(bytes)))
    }
}

const WHAT: &str = "receipt";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use proptest::prelude::*;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[5; 32]).unwrap()
    }

    fn receipt() -> Receipt {
        Receipt {
            version: VERSION,
            owner: "ada".into(),
            action: "tools/hello".into(),
            action_version: "0.0.3".into(),
            code_sha256: [0xab; 32],
            limits: Limits { timeout_ms: 60_000, memory: 256 << 20, fuel: None, log: 10 << 20, result: 1 << 20 },
            container: 17,
            activation: "0123456789abcdef0123456789abcdef".into(),
            reuse: Reuse::Fresh,
            status: Status::Success,
            usage: Usage { fuel: 12_345, memory_peak: 1 << 20, untrusted_execution_us: 700 },
            input_sha256: Some(Sha256::digest(b"{}").into()),
            output_sha256: None,
            untrusted_start_ms: 1_700_000_000_000,
            untrusted_end_ms: 1_700_000_000_001,
        }
    }

    /// A token with any header and payload, rightly signed.
    fn token(header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
        format!("{signed}.{}", base64url(&key().sign(signed.as_bytes())))
    }

    fn header() -> String {
        canonical::json(&Header::of(&key().public())).unwrap()
    }

    #[test]
    fn a_signed_receipt_is_taken_and_says_what_it_said() {
        let token = receipt().sign(&key()).unwrap();
        let checked = Receipt::check(&token, &key().public()).unwrap();
        assert_eq!(checked, receipt());
        assert_eq!((checked.has_input(b"{}"), checked.has_input(b"{ }"), checked.has_output(b"")), (Some(true), Some(false), None));
    }

    #[test]
    fn each_changed_character_is_noticed() {
        let token = receipt().sign(&key()).unwrap();
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert!(Receipt::check(&other, &key().public()).is_err(), "character {at}");
        }
        for length in 0..token.len() {
            assert!(Receipt::check(&token[..length], &key().public()).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn another_key_is_refused() {
        let other = SecretKey::from_bytes(&[6; 32]).unwrap().public();
        let token = receipt().sign(&key()).unwrap();
        assert!(matches!(Receipt::check(&token, &other), Err(Error::Mismatch(_))));
        // Also when the header lies about it.
        let payload = canonical::json(&receipt()).unwrap();
        let lying = canonical::json(&Header::of(&other)).unwrap();
        assert_eq!(Receipt::check(&super::tests::token(&lying, &payload), &other), Err(Error::Signature { what: "receipt" }));
    }

    #[test]
    fn algorithms_and_types_are_not_the_senders_choice() {
        let payload = canonical::json(&receipt()).unwrap();
        assert!(Receipt::check(&token(&header(), &payload), &key().public()).is_ok());
        for (from, to) in [
            ("\"ES256\"", "\"none\""),
            ("\"ES256\"", "\"HS256\""),
            (TYPE, "JWT"),
            ("{", "{\"crit\":[\"exp\"],"),
            ("{", "{\"jwk\":{},"),
            ("{\"alg\":\"ES256\",", "{"),
            ("{\"alg\":\"ES256\",", "{\"alg\":\"ES256\",\"alg\":\"ES256\","),
        ] {
            let token = token(&header().replacen(from, to, 1), &payload);
            assert!(matches!(Receipt::check(&token, &key().public()), Err(Error::Unsupported { .. } | Error::Malformed { .. })), "{to}");
        }
    }

    #[test]
    fn payloads_of_another_form_are_refused_though_signed() {
        let payload = canonical::json(&receipt()).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"version\":1", "\"version\":1,\"more\":1"),
            ("0123456789abcdef0123456789abcdef", "0123"),
            ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcde\u{0}"),
            ("\"fresh\"", "\"warm\""),
            ("\"owner\":\"ada\",", ""),
        ] {
            assert!(payload.contains(from), "{from}");
            assert!(Receipt::check(&token(&header(), &payload.replacen(from, to, 1)), &key().public()).is_err(), "{to}");
        }
        assert!(matches!(Receipt::check(&"a".repeat(MAX_LENGTH + 1), &key().public()), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn what_could_not_be_checked_is_not_signed() {
        let mut long = receipt();
        long.action = "a".repeat(MAX_NAME + 1);
        assert!(long.sign(&key()).is_err());
        let mut large = receipt();
        large.usage.fuel = u64::MAX;
        assert!(large.sign(&key()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_receipt_goes_there_and_back(owner in "\\PC{0,40}", fuel in proptest::option::of(0u64..1 << 53), container in 0u64..1 << 53, digest: [u8; 32]) {
            let mut any = receipt();
            (any.owner, any.limits.fuel, any.container, any.output_sha256) = (owner, fuel, container, Some(digest));
            let token = any.sign(&key()).unwrap();
            prop_assert_eq!(Receipt::check(&token, &key().public()).unwrap(), any);
        }

        #[test]
        fn no_text_panics(text in "[ -~]{0,80}(\\.[A-Za-z0-9_-]{0,20}){0,3}") {
            prop_assert!(Receipt::check(&text, &key().public()).is_err());
        }
    }
}
