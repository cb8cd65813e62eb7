//! What a verifier needs beside a quote: the maker's TCB information, the quoting enclave's identity, revocation lists.
//!
//! All of it is signed by the maker, so it may come from anybody, the host included. A host that withholds newer collateral is stopped by
//! dates: each piece has a date on which it ends, and the policy sets the greatest age.

use std::io::Read;
use std::path::Path;

use dcap_qvl::QuoteCollateralV3;
use serde_json::Value;
use teemate_evidence::api::MAX_COLLATERAL;
use teemate_evidence::time;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

use crate::Refusal;

/// Collateral, not verified yet.
#[derive(Clone, Debug)]
pub struct Collateral(pub(crate) QuoteCollateralV3);

impl Collateral {
    /// From the JSON object that PCCS clients write, and that `GET /teemate/v1/collateral` answers.
    ///
    /// # Errors
    /// [`Refusal::BadCollateral`].
    pub fn from_json(value: &Value) -> Result<Self, Refusal> {
        let collateral: QuoteCollateralV3 = serde_json::from_value(value.clone()).map_err(bad)?;
        // dcap-qvl would prefer such a chain to the quote's own; quotes here always have theirs.
        if collateral.pck_certificate_chain.is_some() {
            return Err(bad("it has a PCK certificate chain; the quote has its own"));
        }
        Ok(Collateral(collateral))
    }

    /// From bytes of JSON.
    ///
    /// # Errors
    /// [`Refusal::BadCollateral`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_COLLATERAL {
            return Err(bad(format!("it has {} bytes; at most {MAX_COLLATERAL} are read", bytes.len())));
        }
        Self::from_json(&serde_json::from_slice(bytes).map_err(bad)?)
    }

    /// From a file.
    ///
    /// # Errors
    /// [`Refusal::BadCollateral`].
    pub fn load(path: &Path) -> Result<Self, Refusal> {
        let name = |error: &dyn std::fmt::Display| bad(format!("{}: {error}", path.display()));
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| name(&error))?;
        file.take(MAX_COLLATERAL as u64 + 1).read_to_end(&mut bytes).map_err(|error| name(&error))?;
        Self::from_slice(&bytes).map_err(|error| match error {
            Refusal::BadCollateral(why) => name(&why),
            other => other,
        })
    }

    /// Whether it is that of simulated platforms.
    pub(crate) fn is_simulation(&self) -> bool {
        let fmspc = teemate_evidence::encoding::hex(&teemate_evidence::simulation::FMSPC).to_uppercase();
        dates(&self.0.tcb_info).is_ok_and(|info| info.fmspc == Some(fmspc))
    }

    /// The date of its oldest piece, the root's revocation list apart, which is made once a year. What this says is only worth something after
    /// verification.
    pub(crate) fn issued(&self) -> Result<u64, Refusal> {
        let list = |der: &[u8]| {
            let list = CertificateList::<Rfc5280>::from_der(der).map_err(bad)?;
            Ok::<_, Refusal>(list.tbs_cert_list.this_update.to_unix_duration().as_secs())
        };
        let signed = |text: &str| time::parse(&dates(text)?.issue_date).ok_or_else(|| bad("a date of issue is no date"));
        let pieces = [signed(&self.0.tcb_info)?, signed(&self.0.qe_identity)?, list(&self.0.pck_crl)?];
        Ok(pieces.into_iter().min().unwrap_or_default())
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dates {
    issue_date: String,
    fmspc: Option<String>,
}

fn dates(text: &str) -> Result<Dates, Refusal> {
    serde_json::from_str(text).map_err(bad)
}

fn bad(why: impl ToString) -> Refusal {
    Refusal::BadCollateral(why.to_string())
}
