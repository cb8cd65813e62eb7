//! What a verifier needs beside a quote: TCB information, identity of the quoting enclave, revocation lists. Everybody can make the
//! simulated ones, so the client makes its own and asks nobody.

use serde_json::{Value, json};

use super::pki::{self, Issuer, revocation_list};
use super::platform::{self, Platform};
use super::{CPUSVN, FMSPC, PCE_SVN};
use crate::certificate::pem;
use crate::encoding::hex;
use crate::time::Civil;

const DAY: u64 = 86_400;

/// Collateral for simulated quotes. What a real provisioning service decides can be set, to test what policies make of it.
pub struct Collateral {
    issued: u64,
    expires: u64,
    status: String,
    advisories: Vec<String>,
    revoked: Vec<[u8; 16]>,
    fmspc: [u8; 6],
}

impl Collateral {
    /// As of `now`: issued at the beginning of the day, good for thirty days, everything up to date, nothing revoked.
    pub fn new(now: u64) -> Self {
        let issued = now - now % DAY;
        let status = "UpToDate".to_owned();
        Collateral { issued, expires: issued + 30 * DAY, status, advisories: Vec::new(), revoked: Vec::new(), fmspc: FMSPC }
    }

    /// Good up to then.
    pub fn expires(mut self, at: u64) -> Self {
        self.expires = at;
        self
    }

    /// The platform's TCB status, and the advisories that it is open to.
    pub fn status(mut self, status: &str, advisories: &[&str]) -> Self {
        self.status = status.to_owned();
        self.advisories = advisories.iter().map(|id| (*id).to_owned()).collect();
        self
    }

    /// With the platform's PCK certificate revoked.
    pub fn revoke(mut self, platform: &Platform) -> Self {
        self.revoked.push(platform.serial());
        self
    }

    /// For another family of processors.
    pub fn fmspc(mut self, fmspc: [u8; 6]) -> Self {
        self.fmspc = fmspc;
        self
    }

    /// The JSON object that `dcap-qvl` and other verifiers read.
    pub fn json(&self) -> Value {
        let (issued, expires) = (Civil::from_unix(self.issued).to_string(), Civil::from_unix(self.expires).to_string());
        let components: Vec<Value> = CPUSVN.iter().map(|svn| json!({ "svn": svn })).collect();
        let tcb_info = json!({
            "id": "SGX",
            "version": 3,
            "issueDate": issued,
            "nextUpdate": expires,
            "fmspc": hex(&self.fmspc).to_uppercase(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 1,
            "tcbLevels": [{
                "tcb": { "sgxtcbcomponents": components, "pcesvn": PCE_SVN },
                "tcbDate": "2024-01-01T00:00:00Z",
                "tcbStatus": self.status,
                "advisoryIDs": self.advisories,
            }],
        })
        .to_string();
        let qe_identity = json!({
            "id": "QE",
            "version": 2,
            "issueDate": issued,
            "nextUpdate": expires,
            "tcbEvaluationDataNumber": 1,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": hex(&platform::ATTRIBUTES).to_uppercase(),
            "attributesMask": "FF".repeat(16),
            "mrsigner": hex(&platform::mrsigner()).to_uppercase(),
            "isvprodid": platform::ISV_PROD_ID,
            "tcbLevels": [{ "tcb": { "isvsvn": platform::ISV_SVN }, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": "UpToDate" }],
        })
        .to_string();
        let signer = pki::tcb_signing_key();
        let signer_chain = pem(pki::tcb_signer()) + &pem(pki::root());
        let list = |issuer, revoked: &[[u8; 16]]| hex(&revocation_list(issuer, self.issued, self.expires, revoked));
        json!({
            "pck_crl_issuer_chain": pem(pki::ca()) + &pem(pki::root()),
            "root_ca_crl": list(Issuer::Root, &[]),
            "pck_crl": list(Issuer::Ca, &self.revoked),
            "tcb_info_issuer_chain": signer_chain,
            "tcb_info_signature": hex(&signer.sign(tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": signer_chain,
            "qe_identity_signature": hex(&signer.sign(qe_identity.as_bytes())),
            "qe_identity": qe_identity,
        })
    }
}
