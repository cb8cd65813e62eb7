//! The protocol's JSON.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

/// Public key of the session as a JWK. The fields are in the order of their names: so this is its canonical form (RFC 8785), too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    pub alg: &'static str,
    pub crv: &'static str,
    pub kty: &'static str,
    pub x: String,
    pub y: String,
}

/// First request.
#[derive(Serialize)]
pub struct AuthRequest {
    pub version: &'static str,
    pub tee: &'static str,
    #[serde(rename = "extra-params")]
    pub extra_params: &'static str,
}

/// Its answer.
#[derive(Deserialize)]
pub struct Challenge {
    pub nonce: String,
    #[serde(rename = "extra-params", default)]
    pub extra_params: serde_json::Value,
}

/// What REPORT_DATA is the digest of. In the order of the names, as RFC 8785 has it.
#[derive(Serialize)]
pub struct Bound<'a> {
    #[serde(rename = "additional-evidence")]
    pub additional_evidence: &'a str,
    pub nonce: &'a str,
    #[serde(rename = "tee-pubkey")]
    pub tee_pubkey: &'a Jwk,
}

/// Second request.
#[derive(Serialize)]
pub struct Attestation<'a> {
    #[serde(rename = "runtime-data")]
    pub runtime_data: RuntimeData<'a>,
    #[serde(rename = "tee-evidence")]
    pub tee_evidence: TeeEvidence<'a>,
}

/// Part of it.
#[derive(Serialize)]
pub struct RuntimeData<'a> {
    pub nonce: &'a str,
    #[serde(rename = "tee-pubkey")]
    pub tee_pubkey: &'a Jwk,
}

/// Part of it.
#[derive(Serialize)]
pub struct TeeEvidence<'a> {
    pub primary_evidence: &'a Evidence,
    pub additional_evidence: &'a str,
}

/// What shows that an enclave holds the session's key.
#[derive(Clone, PartialEq, Eq)]
pub enum Evidence {
    /// An SGX quote with the session's REPORT_DATA.
    Sgx {
        /// The quote, version 3.
        quote: Vec<u8>,
    },
    /// Nothing but the digest, for brokers that accept the `sample` TEE. Proves nothing, and is for tests of brokers.
    Sample {
        /// The session's REPORT_DATA.
        report_data: [u8; 64],
    },
}

impl Evidence {
    /// What the protocol calls it.
    pub fn tee(&self) -> &'static str {
        match self {
            Evidence::Sgx { .. } => "sgx",
            Evidence::Sample { .. } => "sample",
        }
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tee())
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Evidence::Sgx { quote } => map.serialize_entry("quote", &BASE64_STANDARD.encode(quote))?,
            Evidence::Sample { report_data } => {
                map.serialize_entry("svn", "1")?;
                // The sample verifier compares the digest without the padding.
                map.serialize_entry("report_data", &BASE64_STANDARD.encode(&report_data[..48]))?;
            }
        }
        map.end()
    }
}

/// Answer to the second request.
#[derive(Deserialize)]
pub struct Attested {
    pub token: String,
}

/// A secret: JWE in flattened JSON serialization (RFC 7516, 7.2.2).
#[derive(Deserialize)]
pub struct Jwe {
    pub protected: String,
    pub encrypted_key: String,
    #[serde(default)]
    pub aad: Option<String>,
    pub iv: String,
    pub ciphertext: String,
    pub tag: String,
}

/// Its protected header.
#[derive(Deserialize)]
pub struct JweHeader {
    pub alg: String,
    pub enc: String,
    pub epk: Option<Epk>,
    #[serde(default)]
    pub apu: String,
    #[serde(default)]
    pub apv: String,
    pub crit: Option<serde_json::Value>,
    pub zip: Option<serde_json::Value>,
}

/// The sender's public key.
#[derive(Deserialize)]
pub struct Epk {
    pub kty: String,
    pub crv: String,
    pub x: String,
    pub y: String,
}

/// What came instead of an answer.
#[derive(Deserialize)]
pub struct ErrorInformation {
    #[serde(default)]
    pub detail: String,
}
