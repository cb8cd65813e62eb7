//! The keys of this enclave's life: one for TLS, one for receipts. Made here, at the start, and never written anywhere.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use teemate_evidence::certificate::pkcs8;
use teemate_evidence::{Binding, PublicKey, RawSignature, SecretKey, Signer};
use teemate_service::certificate::fresh_key;

use crate::error::GatewayError;

/// The keys.
pub struct Identity {
    tls: SecretKey,
    receipt: ReceiptKey,
}

/// The key that signs receipts. Each call waits for one signature, and this library's take a tenth of the time of [`SecretKey`]'s.
pub struct ReceiptKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
    random: SystemRandom,
}

impl ReceiptKey {
    fn generate() -> Result<Self, GatewayError> {
        let (key, random) = (fresh_key(), SystemRandom::new());
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8(&key), &random);
        Ok(ReceiptKey { pair: pair.map_err(|_| GatewayError::Random)?, public: key.public(), random })
    }
}

impl Signer for ReceiptKey {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Option<RawSignature> {
        self.pair.sign(&self.random, message).ok()?.as_ref().try_into().ok()
    }
}

impl Identity {
    /// New keys.
    ///
    /// # Errors
    /// [`GatewayError::Random`].
    pub fn generate() -> Result<Self, GatewayError> {
        Ok(Identity { tls: fresh_key(), receipt: ReceiptKey::generate()? })
    }

    /// The key of TLS certificates.
    pub fn tls(&self) -> &SecretKey {
        &self.tls
    }

    /// The key that signs receipts.
    pub fn receipt(&self) -> &ReceiptKey {
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
        let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.tls().public(), two.tls().public());
        assert_ne!(one.tls().public(), one.receipt_public());
        let binding = one.challenge([7; 32]);
        binding.check(&one.challenge([7; 32]).report_data()).unwrap();
        assert!(binding.check(&one.challenge([8; 32]).report_data()).is_err());
        assert!(binding.check(&two.challenge([7; 32]).report_data()).is_err());
        assert!(binding.check(&one.voucher().report_data()).is_err());
    }

    #[test]
    fn what_the_receipt_key_signs_its_public_key_verifies() {
        let identity = Identity::generate().unwrap();
        let signature = identity.receipt().sign(b"receipt").unwrap();
        assert!(identity.receipt_public().verify(b"receipt", &signature));
        assert!(!identity.receipt_public().verify(b"another", &signature));
    }
}
