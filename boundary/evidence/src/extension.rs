//! A quote in a certificate, in the interoperable RA-TLS form of the Confidential Computing Consortium.
//!
//! The extension `tcg-dice-conceptual-message-wrapper` (formerly *tagged evidence*, 2.23.133.5.4.9), not critical, holds CBOR:
//!
//! ```text
//! 60000([ quote: bytes, claims: bytes ])
//! claims = { "pubkey-hash": bytes([ algorithm, hash of the SubjectPublicKeyInfo ]), ? "nonce": bytes }
//! REPORT_DATA of the quote = SHA-256(claims), then zeros
//! ```
//!
//! Gramine and others read and write the same. Claims of other names are allowed and ignored; they are hashed like the rest.

use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::Error;
use crate::api::MAX_QUOTE;
use crate::binding::padded;
use crate::cbor::{Reader, Writer};

/// The extension's object identifier.
pub const OID: &str = "2.23.133.5.4.9";
/// Its DER, without tag and length.
pub const OID_DER: [u8; 6] = [0x67, 0x81, 0x05, 0x05, 0x04, 0x09];
/// IANA's CBOR tag for a quote of an Intel TEE.
pub const TAG_QUOTE: u64 = 60_000;
/// Longest claims that are read.
pub const MAX_CLAIMS: usize = 4 << 10;
/// Longest nonce that is read.
pub const MAX_NONCE: usize = 256;

const WHAT: &str = "certificate's evidence";

/// Hash of a SubjectPublicKeyInfo; the names and numbers are IANA's of named information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyHash {
    /// 1.
    Sha256([u8; 32]),
    /// 7.
    Sha384([u8; 48]),
    /// 8.
    Sha512([u8; 64]),
}

impl KeyHash {
    /// Whether it is that of `spki`.
    pub fn is_of(&self, spki: &[u8]) -> bool {
        match self {
            KeyHash::Sha256(hash) => hash[..] == Sha256::digest(spki)[..],
            KeyHash::Sha384(hash) => hash[..] == Sha384::digest(spki)[..],
            KeyHash::Sha512(hash) => hash[..] == Sha512::digest(spki)[..],
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (id, hash): (u64, &[u8]) = match self {
            KeyHash::Sha256(hash) => (1, hash),
            KeyHash::Sha384(hash) => (7, hash),
            KeyHash::Sha512(hash) => (8, hash),
        };
        Writer::default().array(2).unsigned(id).bytes(hash).finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, WHAT);
        reader.array(2)?;
        let (id, hash) = (reader.unsigned()?, reader.bytes()?);
        reader.end()?;
        let length = |_| Error::malformed(WHAT, "the hash of the key has the wrong length");
        match id {
            1 => Ok(KeyHash::Sha256(hash.try_into().map_err(length)?)),
            7 => Ok(KeyHash::Sha384(hash.try_into().map_err(length)?)),
            8 => Ok(KeyHash::Sha512(hash.try_into().map_err(length)?)),
            _ => Err(Error::unsupported(WHAT, format!("hash algorithm {id}"))),
        }
    }
}

/// What the quote in a certificate binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The certificate's key.
    pub key: KeyHash,
    /// What the asker made up, if the certificate was made for one asker.
    pub nonce: Option<Vec<u8>>,
}

impl Claims {
    /// For a certificate with this SubjectPublicKeyInfo.
    pub fn new(spki: &[u8]) -> Self {
        Claims { key: KeyHash::Sha256(Sha256::digest(spki).into()), nonce: None }
    }

    /// The CBOR map.
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::default().map(1 + u64::from(self.nonce.is_some())).text("pubkey-hash").bytes(&self.key.encode());
        match &self.nonce {
            Some(nonce) => writer.text("nonce").bytes(nonce),
            None => writer,
        }
        .finish()
    }

    /// Reads the CBOR map.
    ///
    /// # Errors
    /// [`Error`]: not such a map, a name twice, or no key.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_CLAIMS {
            return Err(Error::TooLarge { what: WHAT, length: bytes.len(), limit: MAX_CLAIMS });
        }
        let mut reader = Reader::new(bytes, WHAT);
        let (mut key, mut nonce, mut names) = (None, None, Vec::new());
        for _ in 0..reader.map()? {
            let (name, value) = (reader.text()?, reader.bytes()?);
            if names.contains(&name) {
                return Err(Error::malformed(WHAT, "a claim is there twice"));
            }
            names.push(name);
            match name {
                "pubkey-hash" => key = Some(KeyHash::decode(value)?),
                "nonce" if value.len() <= MAX_NONCE => nonce = Some(value.to_vec()),
                "nonce" => return Err(Error::TooLarge { what: "certificate's nonce", length: value.len(), limit: MAX_NONCE }),
                _ => {}
            }
        }
        reader.end()?;
        let key = key.ok_or_else(|| Error::malformed(WHAT, "it does not say which key it is for"))?;
        Ok(Claims { key, nonce })
    }

    /// REPORT_DATA of the quote that binds these.
    pub fn report_data(&self) -> [u8; 64] {
        report_data(&self.encode())
    }
}

fn report_data(claims: &[u8]) -> [u8; 64] {
    padded(&Sha256::digest(claims))
}

/// The extension's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The quote.
    pub quote: Vec<u8>,
    /// The claims, as they were hashed.
    pub claims: Vec<u8>,
}

impl Evidence {
    /// The CBOR.
    pub fn encode(&self) -> Vec<u8> {
        Writer::default().tag(TAG_QUOTE).array(2).bytes(&self.quote).bytes(&self.claims).finish()
    }

    /// Reads the CBOR. Whether the claims and the quote fit is for [`Evidence::check`].
    ///
    /// # Errors
    /// [`Error`]: not of the form, another kind of evidence, or too large.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let limit = MAX_QUOTE + MAX_CLAIMS + 64;
        if bytes.len() > limit {
            return Err(Error::TooLarge { what: WHAT, length: bytes.len(), limit });
        }
        let mut reader = Reader::new(bytes, WHAT);
        let tag = reader.tag()?;
        if tag != TAG_QUOTE {
            return Err(Error::unsupported(WHAT, format!("CBOR tag {tag}; a quote has {TAG_QUOTE}")));
        }
        reader.array(2)?;
        let evidence = Evidence { quote: reader.bytes()?.to_vec(), claims: reader.bytes()?.to_vec() };
        reader.end()?;
        Ok(evidence)
    }

    /// The claims, if `report_data`, from the *verified* quote, binds them and they are about the key `spki`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when they do not belong together, and those of [`Claims::decode`].
    pub fn check(&self, spki: &[u8], report_data: &[u8; 64]) -> Result<Claims, Error> {
        if self::report_data(&self.claims) != *report_data {
            return Err(Error::Mismatch("the quote in the certificate was made for other claims: REPORT_DATA does not fit"));
        }
        let claims = Claims::decode(&self.claims)?;
        if !claims.key.is_of(spki) {
            return Err(Error::Mismatch("the quote in the certificate is for another key than the certificate's"));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn evidence() -> (Evidence, [u8; 64]) {
        let claims = Claims::new(b"a key");
        (Evidence { quote: vec![7; 5000], claims: claims.encode() }, claims.report_data())
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let claims = Claims { key: KeyHash::Sha256([0xaa; 32]), nonce: Some(vec![1, 2]) };
        let hex = crate::encoding::hex(&claims.encode());
        // {"pubkey-hash": h'82 01 5820 aa..', "nonce": h'0102'}
        assert_eq!(hex, format!("a26b7075626b65792d686173685824820158 20{}656e6f6e6365420102", "aa".repeat(32)).replace(' ', ""));
        let whole = Evidence { quote: vec![1], claims: vec![2] }.encode();
        assert_eq!(whole, [0xd9, 0xea, 0x60, 0x82, 0x41, 1, 0x41, 2]);
    }

    #[test]
    fn evidence_goes_there_and_back_and_fits_its_key_only() {
        let (evidence, data) = evidence();
        let decoded = Evidence::decode(&evidence.encode()).unwrap();
        assert_eq!(decoded, evidence);
        assert_eq!(decoded.check(b"a key", &data).unwrap(), Claims::new(b"a key"));
        assert!(matches!(decoded.check(b"another key", &data), Err(Error::Mismatch(why)) if why.contains("another key")));
        for bit in 0..512 {
            let mut other = data;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(decoded.check(b"a key", &other).is_err(), "bit {bit}");
        }
        for at in 0..evidence.claims.len() {
            let mut other = evidence.clone();
            other.claims[at] ^= 1;
            assert!(other.check(b"a key", &data).is_err(), "claims byte {at}");
        }
    }

    #[test]
    fn claims_of_other_names_are_allowed_and_all_three_hashes() {
        for key in [
            KeyHash::Sha256(Sha256::digest(b"k").into()),
            KeyHash::Sha384(Sha384::digest(b"k").into()),
            KeyHash::Sha512(Sha512::digest(b"k").into()),
        ] {
            let claims = Claims { key, nonce: None };
            assert!(claims.key.is_of(b"k") && !claims.key.is_of(b"l"));
            assert_eq!(Claims::decode(&claims.encode()).unwrap(), claims);
            let more =
                Writer::default().map(3).text("x").bytes(b"1").text("pubkey-hash").bytes(&claims.key.encode()).text("nonce").bytes(b"n");
            assert_eq!(Claims::decode(&more.finish()).unwrap(), Claims { nonce: Some(b"n".to_vec()), ..claims });
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        let key = KeyHash::Sha256([0; 32]).encode();
        let twice = Writer::default().map(2).text("pubkey-hash").bytes(&key).text("pubkey-hash").bytes(&key).finish();
        let none = Writer::default().map(1).text("nonce").bytes(b"n").finish();
        let text = Writer::default().map(1).text("pubkey-hash").text("hash").finish();
        let short =
            Writer::default().map(1).text("pubkey-hash").bytes(&Writer::default().array(2).unsigned(1).bytes(&[0; 31]).finish()).finish();
        let md5 =
            Writer::default().map(1).text("pubkey-hash").bytes(&Writer::default().array(2).unsigned(6).bytes(&[0; 16]).finish()).finish();
        let nonce = Writer::default().map(2).text("pubkey-hash").bytes(&key).text("nonce").bytes(&[0; MAX_NONCE + 1]).finish();
        let endless = Writer::default().map(u64::MAX).text("pubkey-hash").bytes(&key).finish();
        for wrong in [twice, none, text, short, md5, nonce, endless, vec![0; MAX_CLAIMS + 1], Vec::new()] {
            assert!(Claims::decode(&wrong).is_err(), "{wrong:?}");
        }
        let (evidence, _) = evidence();
        let bytes = evidence.encode();
        for length in 0..bytes.len() {
            assert!(Evidence::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        assert!(Evidence::decode(&[&bytes[..], b"x"].concat()).is_err());
        let mut report = bytes;
        report[2] = 0x61;
        assert!(matches!(Evidence::decode(&report), Err(Error::Unsupported { .. })), "a report is no quote");
        assert!(matches!(Evidence::decode(&vec![0; MAX_QUOTE * 2]), Err(Error::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_encoded_to_the_same_bytes(bytes: Vec<u8>, quote: Vec<u8>, claims: Vec<u8>) {
            if let Ok(evidence) = Evidence::decode(&bytes) {
                prop_assert_eq!(evidence.encode(), bytes.clone());
            }
            let _ = Claims::decode(&bytes);
            let evidence = Evidence { quote, claims };
            prop_assert_eq!(Evidence::decode(&evidence.encode()).unwrap(), evidence);
        }
    }
}
