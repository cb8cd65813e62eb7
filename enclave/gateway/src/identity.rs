//! The keys of this enclave's life: one for TLS, one for receipts. Made here, at the start, and never written anywhere.

use ring::rand::{SecureRandom, SystemRandom};
use teemate_evidence::{Binding, PublicKey, SecretKey};

use crate::error::GatewayError;

/// The keys.
pub struct Identity {
    tls: SecretKey,
    receipt: SecretKey,
}

impl Identity {
    /// New keys.
    ///
    /// # Errors
    /// [`GatewayError::Random`].
    pub fn generate() -> Result<Self, GatewayError> {
        Ok(Identity { tls: key()?, receipt: key()? })
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

fn key() -> Result<SecretKey, GatewayError> {
    let random = SystemRandom::new();
    // Each try fails with a chance of 2^-32.
    for _ in 0..4 {
        let mut bytes = [0; 32];
        random.fill(&mut bytes).map_err(|_| GatewayError::Random)?;
        if let Some(key) = SecretKey::from_bytes(&bytes) {
            return Ok(key);
        }
    }
    Err(GatewayError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_enclave_has_keys_of_its_own_and_binds_both() {
        let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.tls().public(), two.tls().public());
        assert_ne!(one.tls().public(), one.receipt_public());
        let binding = one.challenge([7; 32]);
        binding.check(&one.challenge([7; 32]).report_data()).unwrap();
        assert!(binding.check(&one.challenge([8; 32]).report_data()).is_err());
        assert!(binding.check(&two.challenge([7; 32]).report_data()).is_err());
        assert!(binding.check(&one.voucher().report_data()).is_err());
    }
}
