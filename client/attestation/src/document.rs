//! Evidence in a file, checked without any connection.

use serde::Serialize;
use teemate_evidence::api::{AttestResponse, MAX_ANSWER, ReceiptBundle};
use teemate_evidence::{Binding, Error, Receipt};

use crate::certificate::Certificate;
use crate::session::check_fresh;
use crate::{Collateral, Policy, Refusal, Verified, verify};

/// What a file can be.
#[derive(Clone, Debug)]
pub enum Document {
    /// A bare quote.
    Quote(Vec<u8>),
    /// A certificate with a quote inside.
    Certificate(Certificate),
    /// A quote with what it binds, as `POST /teemate/v1/attest` answers and `teemate attest --save` writes.
    Answer(Box<AttestResponse>),
    /// A receipt with its quote, as `GET /teemate/v1/receipts/..` answers.
    Receipt(Box<ReceiptBundle>),
}

/// What a document says, verified.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What the quote says.
    pub verified: Verified,
    /// Which keys it binds.
    pub binding: Option<Binding>,
    /// What ran.
    pub receipt: Option<Receipt>,
    /// Whether the quote is known to answer a nonce of the asker's.
    pub freshness: Freshness,
}

/// What is known of a quote's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// It answers the nonce that was given.
    AnswersNonce,
    /// It may be of any age.
    Unknown,
}

impl Document {
    /// Finds out what it is.
    ///
    /// # Errors
    /// [`Error`]: none of the kinds.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_ANSWER {
            return Err(Error::TooLarge { what: "file", length: bytes.len(), limit: MAX_ANSWER });
        }
        let start = bytes.trim_ascii_start();
        if start.starts_with(b"{") {
            let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| malformed("JSON file", &error))?;
            return if value.get("receipt").is_some() {
                Ok(Document::Receipt(Box::new(serde_json::from_value(value).map_err(|error| malformed("receipt bundle", &error))?)))
            } else if value.get("binding").is_some() {
                Ok(Document::Answer(Box::new(serde_json::from_value(value).map_err(|error| malformed("attestation answer", &error))?)))
            } else {
                Err(malformed("JSON file", &"it is neither a receipt bundle nor an attestation answer"))
            };
        }
        if start.starts_with(b"-----BEGIN CERTIFICATE-----") {
            return Ok(Document::Certificate(Certificate::from_pem(start)?));
        }
        // DER's SEQUENCE with a long length; a quote begins with its version.
        if bytes.starts_with(&[0x30, 0x82]) {
            return Ok(Document::Certificate(Certificate::from_der(bytes)?));
        }
        if bytes.starts_with(&[3, 0]) {
            // Quoting services pad with zeros.
            let length = teemate_evidence::quote::length(bytes).unwrap_or(bytes.len());
            let (quote, padding) = bytes.split_at(length);
            if padding.iter().any(|byte| *byte != 0) {
                return Err(malformed("quote", &"something follows its end"));
            }
            return Ok(Document::Quote(quote.to_vec()));
        }
        Err(malformed("file", &"it is no quote, certificate, attestation answer or receipt bundle"))
    }

    /// What it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Document::Quote(_) => "quote",
            Document::Certificate(_) => "certificate",
            Document::Answer(_) => "attestation answer",
            Document::Receipt(_) => "receipt",
        }
    }

    /// Verifies it. Collateral that the document brings is used where none is given; `nonce` is the one that the quote must answer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(
        &self,
        collateral: Option<&Collateral>,
        policy: &Policy,
        nonce: Option<&[u8; 32]>,
        now: u64,
    ) -> Result<Findings, Refusal> {
        let brought = match self {
            Document::Answer(answer) => answer.collateral.as_ref(),
            Document::Receipt(bundle) => bundle.collateral.as_ref(),
            _ => None,
        };
        let brought = brought.filter(|_| collateral.is_none()).map(Collateral::from_json).transpose()?;
        let collateral = collateral.or(brought.as_ref());
        let mut findings = match self {
            Document::Quote(quote) => Findings::of(verify(quote, collateral, policy, now)?),
            Document::Certificate(certificate) => Findings::of(certificate.verify(collateral, policy, now)?),
            Document::Answer(answer) => {
                let verified = verify(&answer.quote, collateral, policy, now)?;
                answer.binding.check(&verified.report_data)?;
                Findings { binding: Some(answer.binding.clone()), ..Findings::of(verified) }
            }
            Document::Receipt(bundle) => {
                let verified = verify(&bundle.quote, collateral, policy, now)?;
                let receipt = bundle.check(&verified.report_data)?;
                Findings { binding: Some(bundle.binding.clone()), receipt: Some(receipt), ..Findings::of(verified) }
            }
        };
        if let Some(nonce) = nonce {
            match &findings.binding {
                Some(binding) => check_fresh(binding, &findings.verified, nonce)?,
                None => return Err(Refusal::Nonce),
            }
            findings.freshness = Freshness::AnswersNonce;
        }
        Ok(findings)
    }
}

impl Findings {
    fn of(verified: Verified) -> Self {
        Findings { verified, binding: None, receipt: None, freshness: Freshness::Unknown }
    }
}

fn malformed(what: &'static str, why: &dyn std::fmt::Display) -> Error {
    Error::Malformed { what, why: why.to_string() }
}
