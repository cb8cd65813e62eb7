//! Certificates with a quote inside ([`teemate_evidence::extension`]).

use teemate_evidence::Error;
use teemate_evidence::extension::{Evidence, OID};
use x509_cert::Certificate as X509;
use x509_cert::der::{Decode, DecodePem, Encode};

use crate::{Collateral, Policy, Refusal, Verified, verify};

/// Longest certificate that is read.
pub const MAX_LENGTH: usize = 64 << 10;

const WHAT: &str = "certificate";

/// A certificate and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// Quote and claims.
    pub evidence: Evidence,
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// [`Error`]: no certificate, or none with evidence.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        within(der)?;
        Self::of(&X509::from_der(der).map_err(malformed)?)
    }

    /// Reads PEM.
    ///
    /// # Errors
    /// As [`Certificate::from_der`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        within(pem)?;
        Self::of(&X509::from_pem(pem).map_err(malformed)?)
    }

    fn of(certificate: &X509) -> Result<Self, Error> {
        let inner = certificate.tbs_certificate();
        let spki = inner.subject_public_key_info().to_der().map_err(malformed)?;
        let mut found = inner.extensions().into_iter().flatten().filter(|extension| extension.extn_id.to_string() == OID);
        let extension = found.next().ok_or_else(|| malformed("there is no quote in it: this is no enclave's certificate"))?;
        if found.next().is_some() {
            return Err(malformed("there are two quotes in it"));
        }
        Ok(Certificate { spki, evidence: Evidence::decode(extension.extn_value.as_bytes())? })
    }

    /// Verifies the quote, and that it is for this certificate's key. Nothing else in a certificate (names, dates, signature) matters.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(&self, collateral: Option<&Collateral>, policy: &Policy, now: u64) -> Result<Verified, Refusal> {
        let verified = verify(&self.evidence.quote, collateral, policy, now)?;
        self.evidence.check(&self.spki, &verified.report_data)?;
        Ok(verified)
    }
}

fn within(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > MAX_LENGTH {
        return Err(Error::TooLarge { what: WHAT, length: bytes.len(), limit: MAX_LENGTH });
    }
    Ok(())
}

fn malformed(why: impl ToString) -> Error {
    Error::Malformed { what: WHAT, why: why.to_string() }
}
