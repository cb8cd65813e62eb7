//! The JSON of the gateway's own paths, all under `/teemate/v1/` on the attested TLS listener.
//!
//! | path | request | answer |
//! |---|---|---|
//! | `GET info` | - | [`Info`] |
//! | `POST attest` | [`AttestRequest`] | [`AttestResponse`] |
//! | `GET receipts/{activation}` | - | [`ReceiptBundle`] |
//!
//! Types that the enclave answers with take members that they do not know, so that an older client speaks with a newer enclave; what is
//! hashed or signed ([`Binding`], [`crate::Receipt`]) does not.

use serde::{Deserialize, Serialize};

use crate::encoding::{as_base64, as_base64url, as_hex, unbase64url};
use crate::{Binding, Error, PublicKey, Receipt};

/// Version of these types.
pub const VERSION: u32 = 1;
/// Largest quote that is read. A real one has about 5 kB.
pub const MAX_QUOTE: usize = 32 << 10;
/// Largest collateral that is read, as JSON.
pub const MAX_COLLATERAL: usize = 512 << 10;
/// Largest answer of these paths that a client reads.
pub const MAX_ANSWER: usize = 1 << 20;

/// Where the paths are.
pub mod path {
    /// [`super::Info`].
    pub const INFO: &str = "/teemate/v1/info";
    /// [`super::AttestRequest`].
    pub const ATTEST: &str = "/teemate/v1/attest";
    /// [`super::ReceiptBundle`], with the activation after it.
    pub const RECEIPTS: &str = "/teemate/v1/receipts/";
}

/// What an enclave says of itself. Believe it no further than the connection's quote: a client compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// TeeMate's version.
    pub version: String,
    /// Version of these types: [`VERSION`].
    pub api: u32,
    /// MRENCLAVE.
    #[serde(with = "as_hex")]
    pub mrenclave: [u8; 32],
    /// MRSIGNER.
    #[serde(with = "as_hex")]
    pub mrsigner: [u8; 32],
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// Whether its quotes come from a simulated quoting enclave: then nothing here is protected.
    pub simulation: bool,
    /// Name of the sealed store, drawn at random when it was made: a client that saw another one is speaking to a store without its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Name of another node's store, if this one's is a copy of that: several nodes serve the same owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The store's epoch: it never falls, unless somebody presents an old copy of the store.
    pub epoch: u64,
    /// The key that signs receipts.
    pub receipt_key: PublicKey,
}

/// Asks for a quote that can't be an old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// 32 bytes that the asker just drew.
    #[serde(with = "as_base64url")]
    pub nonce: [u8; 32],
}

/// A fresh quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestResponse {
    /// The quote: DCAP version 3. Its REPORT_DATA is [`Binding::report_data`].
    #[serde(with = "as_base64")]
    pub quote: Vec<u8>,
    /// What it binds: the request's nonce, the key of this very TLS connection, the receipt key.
    pub binding: Binding,
    /// What the host fetched for its verification, if it did: a JSON object as `dcap-qvl` and PCCS clients write it. It is signed by the
    /// maker of the processor, so it may come from anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<serde_json::Value>,
}

/// A receipt with what is needed to check it without any connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptBundle {
    /// Version of these types: [`VERSION`].
    pub version: u32,
    /// The signed receipt ([`Receipt::sign`]).
    pub receipt: String,
    /// A quote whose REPORT_DATA is that of `binding`.
    #[serde(with = "as_base64")]
    pub quote: Vec<u8>,
    /// Which keys the quote binds; its purpose is [`crate::Purpose::Receipts`].
    pub binding: Binding,
    /// Collateral as in [`AttestResponse`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<serde_json::Value>,
}

impl ReceiptBundle {
    /// The receipt, if the bound key signed it and `report_data`, from the *verified* quote, binds that key.
    ///
    /// # Errors
    /// [`Error`], naming the piece.
    pub fn check(&self, report_data: &[u8; 64]) -> Result<Receipt, Error> {
        if self.version != VERSION {
            return Err(Error::unsupported("receipt bundle", format!("version {}, this is {VERSION}", self.version)));
        }
        if self.binding.purpose != crate::Purpose::Receipts {
            return Err(Error::Mismatch("the quote in the receipt bundle was made for another purpose than receipts"));
        }
        self.binding.check(report_data)?;
        Receipt::check(&self.receipt, &self.binding.receipt_key)
    }
}

/// A nonce as people write it on a command line: 32 bytes in base64url or hexadecimal.
pub fn parse_nonce(text: &str) -> Option<[u8; 32]> {
    crate::encoding::unhex(text).or_else(|| unbase64url(text)?.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use crate::receipt::{Limits, Reuse, Status, Usage};

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[5; 32]).unwrap()
    }

    fn bundle() -> ReceiptBundle {
        let receipt = Receipt {
            version: 1,
            owner: "ada".into(),
            action: "hello".into(),
            action_version: "0.0.1".into(),
            code_sha256: [1; 32],
            limits: Limits { timeout_ms: 1, memory: 2, fuel: Some(3), log: 4, result: 5 },
            container: 1,
            activation: "0".repeat(32),
            reuse: Reuse::Keep,
            status: Status::ApplicationError,
            usage: Usage::default(),
            input_sha256: None,
            output_sha256: None,
            untrusted_start_ms: 0,
            untrusted_end_ms: 0,
        };
        ReceiptBundle {
            version: VERSION,
            receipt: receipt.sign(&key()).unwrap(),
            quote: vec![1, 2, 3],
            binding: Binding::receipts([2; 32], key().public()),
            collateral: None,
        }
    }

    #[test]
    fn a_bundle_is_checked_in_each_part() {
        let data = bundle().binding.report_data();
        assert_eq!(bundle().check(&data).unwrap().owner, "ada");
        assert!(bundle().check(&[0; 64]).is_err());
        let changes: [fn(&mut ReceiptBundle); 4] = [
            |b| b.version = 2,
            |b| b.binding.tls_key[0] ^= 1,
            |b| b.binding.receipt_key = SecretKey::from_bytes(&[6; 32]).unwrap().public(),
            |b| b.receipt.push('A'),
        ];
        for change in changes {
            let mut other = bundle();
            change(&mut other);
            assert!(other.check(&data).is_err());
        }
        // An answer to a challenge is not a voucher for receipts, even for the same keys.
        let mut other = bundle();
        other.binding = Binding::attest([9; 32], [2; 32], key().public());
        assert!(other.check(&other.binding.report_data()).is_err());
    }

    #[test]
    fn json_is_what_the_table_says() {
        let info = Info {
            version: "0.1.0".into(),
            api: 1,
            mrenclave: [1; 32],
            mrsigner: [2; 32],
            isv_prod_id: 1,
            isv_svn: 2,
            simulation: true,
            store: None,
            source: None,
            epoch: 7,
            receipt_key: key().public(),
        };
        let mut value = serde_json::to_value(&info).unwrap();
        assert_eq!(value["mrenclave"], "01".repeat(32));
        assert_eq!(value["receipt_key"]["kty"], "EC");
        value["new"] = 1.into();
        assert_eq!(serde_json::from_value::<Info>(value).unwrap(), info);
        let request = serde_json::to_string(&AttestRequest { nonce: [0; 32] }).unwrap();
        assert_eq!(request, format!("{{\"nonce\":\"{}\"}}", "A".repeat(43)));
        assert!(serde_json::from_str::<AttestRequest>("{\"nonce\":\"AAAA\"}").is_err());
        let text = serde_json::to_string(&bundle()).unwrap();
        assert!(text.contains("\"quote\":\"AQID\""), "{text}");
        assert_eq!(serde_json::from_str::<ReceiptBundle>(&text).unwrap(), bundle());
    }

    #[test]
    fn nonces_are_read_in_both_spellings() {
        assert_eq!(parse_nonce(&"ab".repeat(32)), Some([0xab; 32]));
        assert_eq!(parse_nonce(&"A".repeat(43)), Some([0; 32]));
        assert_eq!(parse_nonce("short"), None);
    }
}
