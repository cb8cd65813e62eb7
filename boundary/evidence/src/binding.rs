//! What REPORT_DATA of a quote stands for.
//!
//! A quote proves 64 bytes. TeeMate puts SHA-384 of a canonical JSON text there (16 zero bytes follow), so that the text, sent along, says
//! in a form that people and other programs can read which keys the enclave speaks for and which question it answers:
//!
//! ```json
//! {"nonce":"<base64url, 32 bytes>","purpose":"attest","receipt_key":{"crv":"P-256","kty":"EC","x":"..","y":".."},
//!  "tls_key":"<hex SHA-256 of the SubjectPublicKeyInfo>","version":1}
//! ```
//!
//! `nonce` is there if and only if somebody asked with one. The quote in a TLS certificate is another matter: there REPORT_DATA is what the
//! interoperable RA-TLS form prescribes ([`crate::extension`]). The two can't be mistaken for each other: one has a digest of 48 bytes, the
//! other one of 32, and both end in zeros.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

use crate::encoding::{as_hex, as_optional_base64url};
use crate::{Error, PublicKey, canonical};

/// Version of the binding's form.
pub const VERSION: u32 = 1;

/// What a quote was made for. A quote for one purpose is no answer to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// An answer to a nonce: the enclave is alive and is what it is, now.
    Attest,
    /// It accompanies receipts, for checks long after: no nonce.
    Receipts,
}

/// What a quote binds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// [`VERSION`].
    pub version: u32,
    /// What for.
    pub purpose: Purpose,
    /// What the asker made up, so that the answer can't be an old one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_base64url")]
    pub nonce: Option<[u8; 32]>,
    /// SHA-256 of the SubjectPublicKeyInfo that the enclave's TLS certificates have.
    #[serde(with = "as_hex")]
    pub tls_key: [u8; 32],
    /// The key that signs receipts.
    pub receipt_key: PublicKey,
}

impl Binding {
    /// An answer to `nonce`.
    pub fn attest(nonce: [u8; 32], tls_key: [u8; 32], receipt_key: PublicKey) -> Self {
        Binding { version: VERSION, purpose: Purpose::Attest, nonce: Some(nonce), tls_key, receipt_key }
    }

    /// What goes with receipts.
    pub fn receipts(tls_key: [u8; 32], receipt_key: PublicKey) -> Self {
        Binding { version: VERSION, purpose: Purpose::Receipts, nonce: None, tls_key, receipt_key }
    }

    /// The text that is hashed.
    pub fn text(&self) -> String {
        // Strings and one small integer: such a value always has a canonical text.
        canonical::json(self).unwrap_or_default()
    }

    /// REPORT_DATA: SHA-384 of [`Binding::text`], then zeros.
    pub fn report_data(&self) -> [u8; 64] {
        padded(Sha384::digest(self.text()).as_slice())
    }

    /// Whether a quote with this REPORT_DATA binds this, and the form is one that is understood.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another version, [`Error::Malformed`] for a nonce where none belongs, [`Error::Mismatch`] otherwise.
    pub fn check(&self, report_data: &[u8; 64]) -> Result<(), Error> {
        if self.version != VERSION {
            return Err(Error::unsupported("key binding", format!("version {}, this is {VERSION}", self.version)));
        }
        if self.nonce.is_some() != (self.purpose == Purpose::Attest) {
            return Err(Error::malformed("key binding", "an answer to a challenge has a nonce, and nothing else has one"));
        }
        if self.report_data() != *report_data {
            return Err(Error::Mismatch("the quote binds other keys or another nonce than the answer says: REPORT_DATA does not fit"));
        }
        Ok(())
    }
}

/// REPORT_DATA for the key release protocol of Confidential Containers: SHA-384 of the canonical JSON of the server's nonce and the key
/// (a JWK) that it shall wrap secrets for. `None`: the key has numbers that JSON readers disagree on.
pub fn kbs_report_data(nonce: &str, tee_public_key: &serde_json::Value) -> Option<[u8; 64]> {
    let text = canonical::json(&serde_json::json!({ "nonce": nonce, "tee-pubkey": tee_public_key }))?;
    Some(padded(Sha384::digest(text).as_slice()))
}

pub(crate) fn padded(digest: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    for (to, from) in data.iter_mut().zip(digest) {
        *to = *from;
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use crate::encoding::hex;

    fn binding() -> Binding {
        Binding::attest([1; 32], [2; 32], SecretKey::from_bytes(&[3; 32]).unwrap().public())
    }

    #[test]
    fn the_form_does_not_change_unnoticed() {
        assert_eq!(
            binding().text(),
            r#"{"nonce":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE","purpose":"attest","receipt_key":{"crv":"P-256","kty":"EC","x":"WRq3ceu8_W2cuQlNEGUordGmnUTCwfYn8InsWLnGGt8","y":"n05qvw0EXAxpOjxorXyXynK-ZN70om_s0mPdmKkngPA"},"tls_key":"0202020202020202020202020202020202020202020202020202020202020202","version":1}"#
        );
        // What sha384sum says of it.
        assert_eq!(
            hex(&binding().report_data()),
            "e4e9b27404bdffd7b0ca5ae6b20cd3323cd3d3152403fabc86c73237c93378970654101436e50c88fd68c33f3c49163400000000000000000000000000000000"
        );
    }

    #[test]
    fn every_field_is_bound() {
        let data = binding().report_data();
        assert_eq!(binding().check(&data), Ok(()));
        let changes: [fn(&mut Binding); 4] = [
            |b| b.nonce = Some([9; 32]),
            |b| b.tls_key[31] ^= 1,
            |b| b.receipt_key = SecretKey::from_bytes(&[4; 32]).unwrap().public(),
            |b| (b.purpose, b.nonce) = (Purpose::Receipts, None),
        ];
        for change in changes {
            let mut other = binding();
            change(&mut other);
            assert!(matches!(other.check(&data), Err(Error::Mismatch(_))), "{other:?}");
        }
        for bit in 0..512 {
            let mut other = data;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(binding().check(&other).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn forms_that_are_not_spoken_are_refused_though_their_hash_fits() {
        let mut other = binding();
        other.version = 2;
        assert!(matches!(other.check(&other.report_data()), Err(Error::Unsupported { .. })));
        let mut other = binding();
        other.nonce = None;
        assert!(matches!(other.check(&other.report_data()), Err(Error::Malformed { .. })));
        let mut other = binding();
        other.purpose = Purpose::Receipts;
        assert!(matches!(other.check(&other.report_data()), Err(Error::Malformed { .. })));
    }

    #[test]
    fn json_goes_there_and_back_and_takes_nothing_else() {
        let text = serde_json::to_string(&binding()).unwrap();
        assert_eq!(serde_json::from_str::<Binding>(&text).unwrap(), binding());
        for (from, to) in [("\"version\":1", "\"version\":1,\"more\":1"), ("attest", "other"), ("0202", "0"), ("0202", "ZZZZ")] {
            assert!(serde_json::from_str::<Binding>(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_kbs_form_is_sorted_and_padded() {
        let key = serde_json::json!({"kty": "EC", "crv": "P-256", "alg": "ECDH-ES"});
        let expected = Sha384::digest(r#"{"nonce":"n","tee-pubkey":{"alg":"ECDH-ES","crv":"P-256","kty":"EC"}}"#);
        let data = kbs_report_data("n", &key).unwrap();
        assert_eq!(data[..48], expected[..]);
        assert_eq!(data[48..], [0; 16]);
        assert_eq!(kbs_report_data("n", &serde_json::json!(1.5)), None);
    }
}
