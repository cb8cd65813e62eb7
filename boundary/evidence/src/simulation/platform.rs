//! A simulated platform and its quoting enclave. Who calls it must have checked the REPORT's MAC: here only signatures are made.

use sha2::{Digest, Sha256};

use super::{CPUSVN, PCE_SVN, pki};
use crate::SecretKey;
use crate::certificate::pem;
use crate::quote::{BODY, SIMULATION_MARK};

/// INIT, MODE64BIT, PROVISIONKEY; legacy XFRM.
pub(super) const ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0x03, 0, 0, 0, 0, 0, 0, 0];
pub(super) const ISV_PROD_ID: u16 = 1;
pub(super) const ISV_SVN: u16 = 1;
/// Intel's, because verifiers know no other; the user data beside it says what this is.
const QE_VENDOR: [u8; 16] = [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// MRSIGNER of the simulated quoting enclave.
pub(super) fn mrsigner() -> [u8; 32] {
    Sha256::digest(b"INSECURE TeeMate simulation: signer of the quoting enclave").into()
}

/// A machine with its PCK key and its quoting enclave's attestation key.
pub struct Platform {
    pck: SecretKey,
    attestation: SecretKey,
    ppid: [u8; 16],
}

impl Platform {
    /// The same secret gives the same platform.
    pub fn new(secret: &[u8; 32]) -> Self {
        let derive = |what: &[u8]| -> [u8; 32] { Sha256::new().chain_update(what).chain_update(secret).finalize().into() };
        let mut ppid = [0; 16];
        ppid.copy_from_slice(&derive(b"teemate simulated PPID")[..16]);
        Platform {
            pck: pki::key(&derive(b"teemate simulated PCK")),
            attestation: pki::key(&derive(b"teemate simulated attestation key")),
            ppid,
        }
    }

    /// MRENCLAVE of the simulated quoting enclave.
    pub fn mrenclave() -> [u8; 32] {
        Sha256::digest(b"INSECURE TeeMate simulation: quoting enclave").into()
    }

    /// TARGETINFO of the simulated quoting enclave: whom a REPORT must be made for.
    pub fn target() -> [u8; 512] {
        let mut target = [0; 512];
        target[..32].copy_from_slice(&Self::mrenclave());
        target[32..48].copy_from_slice(&ATTRIBUTES);
        target
    }

    pub(super) fn serial(&self) -> [u8; 16] {
        pki::pck_serial(&self.pck)
    }

    /// A quote of this report body.
    pub fn quote(&self, body: &[u8; BODY]) -> Vec<u8> {
        let mut quote = vec![3, 0, 2, 0, 0, 0, 0, 0];
        quote.extend(ISV_SVN.to_le_bytes());
        quote.extend(PCE_SVN.to_le_bytes());
        quote.extend(QE_VENDOR);
        quote.extend(SIMULATION_MARK);
        quote.extend([0; 4]);
        quote.extend(body);
        let signature = self.attestation.sign(&quote);
        let key = self.attestation.public().coordinates();
        // Real ones have random bytes or a certificate's hash here; 32 of them are expected.
        let authentication: [u8; 32] = Sha256::digest(SIMULATION_MARK).into();
        let qe_body = self.qe_body(&key, &authentication);
        let chain = pem(&pki::pck(&self.pck, &self.ppid)) + &pem(pki::ca()) + &pem(pki::root());
        let mut signed = Vec::with_capacity(4096);
        signed.extend(signature);
        signed.extend(key);
        signed.extend(qe_body);
        signed.extend(self.pck.sign(&qe_body));
        signed.extend((authentication.len() as u16).to_le_bytes());
        signed.extend(authentication);
        signed.extend(crate::quote::PCK_CHAIN.to_le_bytes());
        signed.extend((chain.len() as u32).to_le_bytes());
        signed.extend(chain.as_bytes());
        quote.extend((signed.len() as u32).to_le_bytes());
        quote.extend(signed);
        quote
    }

    /// Report body of the quoting enclave.
    fn qe_body(&self, key: &[u8; 64], authentication: &[u8]) -> [u8; BODY] {
        let mut body = [0; BODY];
        body[..16].copy_from_slice(&CPUSVN);
        body[48..64].copy_from_slice(&ATTRIBUTES);
        body[64..96].copy_from_slice(&Self::mrenclave());
        body[128..160].copy_from_slice(&mrsigner());
        body[256..258].copy_from_slice(&ISV_PROD_ID.to_le_bytes());
        body[258..260].copy_from_slice(&ISV_SVN.to_le_bytes());
        body[320..352].copy_from_slice(&Sha256::new().chain_update(key).chain_update(authentication).finalize());
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quote::Quote;

    #[test]
    fn a_quote_is_marked_and_has_the_body_that_was_given() {
        let bytes = Platform::new(&[1; 32]).quote(&[7; BODY]);
        let quote = Quote::parse(&bytes).unwrap();
        assert!(quote.is_marked_as_simulation());
        assert_eq!(quote.body.bytes(), &[7; BODY]);
        assert_eq!(quote.qe_body.mrenclave(), Platform::mrenclave());
        let text = std::str::from_utf8(quote.certification).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 3);
    }

    #[test]
    fn platforms_differ_by_their_secret_only() {
        let quote = |secret: u8| Platform::new(&[secret; 32]).quote(&[7; BODY]);
        assert_eq!(quote(1), quote(1));
        assert_ne!(quote(1), quote(2));
    }
}
