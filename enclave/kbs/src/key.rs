//! The session's key.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use ring::rand::{SecureRandom, SystemRandom};

use crate::KbsError;
use crate::jwe::{ALGORITHM, CURVE};
use crate::message::Jwk;

/// Made in the enclave for one session; the secret half never leaves it.
pub struct SessionKey(SecretKey);

impl SessionKey {
    /// A new one.
    pub fn generate() -> Result<SessionKey, KbsError> {
        // One of 2^32 numbers is none of the group's; sixteen in a row are no accident.
        for _ in 0..16 {
            let mut bytes = [0; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| KbsError::Random)?;
            if let Ok(key) = SecretKey::from_slice(&bytes) {
                return Ok(SessionKey(key));
            }
        }
        Err(KbsError::Random)
    }

    #[cfg(test)]
    pub fn from_scalar(bytes: &[u8; 32]) -> SessionKey {
        SessionKey(SecretKey::from_slice(bytes).unwrap())
    }

    /// The public half.
    pub fn public(&self) -> Jwk {
        let point = self.0.public_key().to_sec1_point(false);
        let coordinates = point.as_bytes();
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Jwk { alg: ALGORITHM, crv: CURVE, kty: "EC", x: text(&coordinates[1..33]), y: text(&coordinates[33..65]) }
    }

    /// ECDH with a point: the x coordinate of the product. `None`: it is not on the curve.
    pub fn agree(&self, x: &[u8; 32], y: &[u8; 32]) -> Option<[u8; 32]> {
        let mut point = [4; 65];
        point[1..33].copy_from_slice(x);
        point[33..].copy_from_slice(y);
        let other = p256::PublicKey::from_sec1_bytes(&point).ok()?;
        let shared = p256::ecdh::diffie_hellman(self.0.to_nonzero_scalar(), other.as_affine());
        Some((*shared.raw_secret_bytes()).into())
    }
}
