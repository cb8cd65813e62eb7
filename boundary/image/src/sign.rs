//! Signing keys, and signing. RSA-3072 with exponent 3 and PKCS #1 v1.5 padding, because the processor can verify nothing else.
//!
//! Crate `rsa` has a known timing side channel (RUSTSEC-2023-0071). Sign where nobody else can measure: on the builder's own machine, not
//! in a service.

use num_bigint::BigUint;
use rsa::{
    Pkcs1v15Sign, RsaPrivateKey,
    pkcs1::DecodeRsaPrivateKey as _,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding},
    rand_core::OsRng,
    traits::PublicKeyParts as _,
};
use sha2::{Digest as _, Sha256};

use crate::{
    Error, Image, SIGSTRUCT_SIZE,
    sigstruct::{NUMBER, digest, field, quotients, unsigned},
    verify_sigstruct,
};

/// A key that signs enclaves. Its public part's hash is MRSIGNER.
pub struct SigningKey(RsaPrivateKey);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nothing of the private part.
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new one. Takes some seconds.
    pub fn generate() -> Result<Self, Error> {
        let key = RsaPrivateKey::new_with_exp(&mut OsRng, NUMBER * 8, &rsa::BigUint::from(3u32));
        key.map(SigningKey).map_err(|error| Error::Key(format!("no key could be made ({error})")))
    }

    /// From PEM: PKCS #8 (`BEGIN PRIVATE KEY`) or PKCS #1 (`BEGIN RSA PRIVATE KEY`).
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let key = if pem.contains("BEGIN RSA PRIVATE KEY") {
            RsaPrivateKey::from_pkcs1_pem(pem).map_err(|error| error.to_string())
        } else {
            RsaPrivateKey::from_pkcs8_pem(pem).map_err(|error| error.to_string())
        };
        let key = key.map_err(|error| Error::Key(format!("it is not an unencrypted RSA private key in PEM ({error})")))?;
        if key.n().bits() != NUMBER * 8 || key.e() != &rsa::BigUint::from(3u32) {
            return Err(Error::Key("SGX wants an RSA key of 3072 bits with exponent 3; make one with `teemate image keygen`".to_owned()));
        }
        key.validate().map_err(|error| Error::Key(format!("its numbers don't belong together ({error})")))?;
        Ok(SigningKey(key))
    }

    /// To PEM, PKCS #8.
    pub fn to_pem(&self) -> Result<String, Error> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF).map_err(|error| Error::Key(format!("it can't be written as PEM ({error})")))?;
        Ok(pem.to_string())
    }

    /// MRSIGNER of what it signs.
    pub fn mrsigner(&self) -> [u8; 32] {
        Sha256::digest(little_endian(self.0.n().to_bytes_le())).into()
    }
}

impl Image {
    /// The SIGSTRUCT for this image as it is now. `date` is `0xYYYYMMDD`, a parameter so that the same input gives the same signature.
    pub fn sign(&self, key: &SigningKey, date: u32) -> Result<[u8; SIGSTRUCT_SIZE], Error> {
        let mut bytes = unsigned(self, &self.measure(), date);
        let modulus = little_endian(key.0.n().to_bytes_le());
        bytes[field::MODULUS].copy_from_slice(&modulus);
        // The random number only blinds the computation; the result does not depend on it.
        let signature = key.0.sign_with_rng(&mut OsRng, Pkcs1v15Sign::new::<Sha256>(), &digest(&bytes));
        let mut signature = signature.map_err(|error| Error::Key(format!("it can't sign ({error})")))?;
        signature.reverse();
        let (q1, q2) = quotients(&BigUint::from_bytes_le(&modulus), &BigUint::from_bytes_le(&signature));
        bytes[field::SIGNATURE].copy_from_slice(&little_endian(signature));
        bytes[field::Q1].copy_from_slice(&little_endian(q1.to_bytes_le()));
        bytes[field::Q2].copy_from_slice(&little_endian(q2.to_bytes_le()));
        // A fault in the computation must not leave the house: it could give the key away.
        verify_sigstruct(&bytes)?;
        Ok(bytes)
    }
}

/// A number that has at most [`NUMBER`] bytes, padded to them.
fn little_endian(bytes: Vec<u8>) -> [u8; NUMBER] {
    let mut number = [0; NUMBER];
    for (place, byte) in number.iter_mut().zip(bytes) {
        *place = byte;
    }
    number
}
