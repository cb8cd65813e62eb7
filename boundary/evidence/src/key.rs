//! P-256 keys: those that sign receipts and certificates. Signatures are deterministic (RFC 6979), so no random numbers are needed to sign.

use p256::ecdsa::signature::{Signer as _, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::encoding::{as_base64url, base64url};
use crate::{Error, canonical};

/// A signature: r, then s, 32 bytes each, as JWS has it.
pub type RawSignature = [u8; 64];

/// Signs with a key of its own: [`SecretKey`], or a faster one for who signs often.
pub trait Signer {
    /// The key that checks.
    fn public(&self) -> PublicKey;

    /// ECDSA with SHA-256. `None`: it could not be made.
    fn sign(&self, message: &[u8]) -> Option<RawSignature>;
}

impl Signer for SecretKey {
    fn public(&self) -> PublicKey {
        SecretKey::public(self)
    }

    fn sign(&self, message: &[u8]) -> Option<RawSignature> {
        Some(SecretKey::sign(self, message))
    }
}

/// A key that signs.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From 32 random bytes. `None` with a chance of 2^-32: they are zero or beyond the group's order; take others.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(bytes).ok().map(SecretKey)
    }

    /// The scalar, to seal it.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes().into()
    }

    /// The key that checks.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// ECDSA with SHA-256.
    pub fn sign(&self, message: &[u8]) -> RawSignature {
        let signature: Signature = self.0.sign(message);
        signature.to_bytes().into()
    }

    /// The same as a DER `Ecdsa-Sig-Value`, as X.509 has it.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(message);
        signature.to_der().as_bytes().to_vec()
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SecretKey(of {:?})", self.public())
    }
}

/// A key that checks signatures. In JSON it is a JWK: `{"kty":"EC","crv":"P-256","x":..,"y":..}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From an uncompressed point: 4, x, y. `None` unless it is on the curve.
    pub fn from_point(point: &[u8; 65]) -> Option<Self> {
        if point[0] != 4 {
            return None;
        }
        VerifyingKey::from_sec1_bytes(point).ok().map(PublicKey)
    }

    /// The uncompressed point: 4, x, y.
    pub fn point(&self) -> [u8; 65] {
        let mut point = [0; 65];
        point.copy_from_slice(self.0.to_sec1_point(false).as_bytes());
        point
    }

    /// x, then y, as SGX quotes have it.
    pub fn coordinates(&self) -> [u8; 64] {
        let mut coordinates = [0; 64];
        coordinates.copy_from_slice(&self.point()[1..]);
        coordinates
    }

    /// The DER of the SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.point()].concat()
    }

    /// The key of an SubjectPublicKeyInfo in DER, if it is one of P-256.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        Self::from_point(der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?)
    }

    /// SHA-256 of [`PublicKey::spki`].
    pub fn spki_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.spki()).into()
    }

    /// Whether `signature` is that of `message`.
    pub fn verify(&self, message: &[u8], signature: &RawSignature) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }

    /// The key's JWK thumbprint (RFC 7638), which names it in receipts.
    pub fn thumbprint(&self) -> String {
        // The members that the RFC names are exactly those that are written, and the canonical text sorts them as it asks.
        base64url(&Sha256::digest(canonical::json(self).unwrap_or_default()))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PublicKey({})", self.thumbprint())
    }
}

/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: Kty,
    crv: Crv,
    #[serde(with = "as_base64url")]
    x: [u8; 32],
    #[serde(with = "as_base64url")]
    y: [u8; 32],
}

#[derive(Serialize, Deserialize)]
enum Kty {
    #[serde(rename = "EC")]
    EllipticCurve,
}

#[derive(Serialize, Deserialize)]
enum Crv {
    #[serde(rename = "P-256")]
    P256,
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut x, mut y) = ([0; 32], [0; 32]);
        let coordinates = self.coordinates();
        x.copy_from_slice(&coordinates[..32]);
        y.copy_from_slice(&coordinates[32..]);
        Jwk { kty: Kty::EllipticCurve, crv: Crv::P256, x, y }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let jwk = Jwk::deserialize(deserializer)?;
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&jwk.x);
        point[33..].copy_from_slice(&jwk.y);
        Self::from_point(&point).ok_or_else(|| serde::de::Error::custom(Error::malformed("public key", "it is not a point of P-256")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_key_goes_through_its_forms() {
        let public = key(7).public();
        assert_eq!(PublicKey::from_point(&public.point()), Some(public));
        assert_eq!(PublicKey::from_spki(&public.spki()), Some(public));
        let json = serde_json::to_string(&public).unwrap();
        assert!(json.starts_with(r#"{"kty":"EC","crv":"P-256","x":""#), "{json}");
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), public);
        assert_eq!(SecretKey::from_bytes(&key(7).to_bytes()).unwrap().public(), public);
        assert!(!format!("{:?}", key(7)).contains("07"), "a secret is not printed");
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        // The public key of RFC 7517's example A.1; the thumbprint is what an independent implementation of RFC 7638 gives for it.
        let jwk = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;
        let key: PublicKey = serde_json::from_str(jwk).unwrap();
        assert_eq!(key.thumbprint(), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(SecretKey::from_bytes(&[0; 32]).is_none());
        assert!(SecretKey::from_bytes(&[255; 32]).is_none());
        let mut point = key(1).public().point();
        point[64] ^= 1;
        assert!(PublicKey::from_point(&point).is_none());
        point[64] ^= 1;
        point[0] = 2;
        assert!(PublicKey::from_point(&point).is_none());
        let off = r#"{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
        assert!(serde_json::from_str::<PublicKey>(off).is_err());
        assert!(serde_json::from_str::<PublicKey>(&off.replace("P-256", "P-384")).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn only_the_signed_message_verifies(message: Vec<u8>, flip in 0usize..64) {
            let signature = key(3).sign(&message);
            prop_assert!(key(3).public().verify(&message, &signature));
            prop_assert!(!key(4).public().verify(&message, &signature));
            let mut other = signature;
            other[flip] ^= 1;
            prop_assert!(!key(3).public().verify(&message, &other));
        }
    }
}
