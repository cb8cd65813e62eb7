//! The keys of this enclave's life: one for TLS, one for receipts. Made here, at the start, and never written anywhere.

use teemate_evidence::{Binding, PublicKey, SecretKey};
use teemate_service::certificate::fresh_key;

/// The keys.
pub struct Identity {
    tls: SecretKey,
    receipt: SecretKey,
}

impl Identity {
    /// New keys.
    pub fn generate() -> Self {
        Identity { tls: fresh_key(), receipt: fresh_key() }
    }

    /// The key of TLS certificates.
    pub fn tls(&self) -> &SecretKey {
        &self.tls
    }

    /// The key that signs receipts.
    pub fn receipt(&self) -> &SecretKey {
        &self.receipt
    }

    /// The key that checks receipts.
    pub fn receipt_public(&self) -> PublicKey {
        self.receipt.public()
    }

    /// What a quote that answers `nonce` binds.
    pub fn challenge(&self, nonce: [u8; 32]) -> Binding {
        Binding::attest(nonce, self.tls.public().spki_sha256(), self.receipt_public())
    }

    /// What a quote that goes with receipts binds.
    pub fn voucher(&self) -> Binding {
        Binding::receipts(self.tls.public().spki_sha256(), self.receipt_public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_enclave_has_keys_of_its_own_and_binds_both() {
        let (one, two) = (Identity::generate(), Identity::generate());
        assert_ne!(one.tls().public(), two.tls().public());
        assert_ne!(one.tls().public(), one.receipt_public());
        let binding = one.challenge([7; 32]);
        binding.check(&one.challenge([7; 32]).report_data()).unwrap();
        assert!(binding.check(&one.challenge([8; 32]).report_data()).is_err());
        assert!(binding.check(&two.challenge([7; 32]).report_data()).is_err());
        assert!(binding.check(&one.voucher().report_data()).is_err());
    }
}
