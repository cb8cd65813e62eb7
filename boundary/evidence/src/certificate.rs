//! Writes certificates: self-signed ones with a quote inside, which `teemate-attestation` reads, and those of a witness.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::SecretKey;
use crate::der::{self, explicit, object, sequence, value};
use crate::extension::OID_DER;

const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];
const SUBJECT_ALTERNATIVE_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// One extension.
pub(crate) struct Extension {
    pub(crate) oid: Vec<u8>,
    pub(crate) critical: bool,
    pub(crate) content: Vec<u8>,
}

/// What is to be signed.
pub(crate) struct Template<'a> {
    pub(crate) serial: [u8; 16],
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: &'a [Extension],
}

/// A distinguished name: organization, common name.
pub(crate) fn name(organization: &str, common: &str) -> Vec<u8> {
    let part = |oid: &[u8], text: &str| value(der::SET, &[&sequence(&[&object(oid), &value(der::UTF8_STRING, &[text.as_bytes()])])]);
    sequence(&[&part(&ORGANIZATION, organization), &part(&COMMON_NAME, common)])
}

pub(crate) fn extensions(all: &[Extension]) -> Vec<u8> {
    let each: Vec<Vec<u8>> = all
        .iter()
        .map(|extension| {
            let critical: &[u8] = if extension.critical { &[1, 1, 0xff] } else { &[] };
            sequence(&[&object(&extension.oid), critical, &value(der::OCTET_STRING, &[&extension.content])])
        })
        .collect();
    sequence(&each.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// To-be-signed part, algorithm, signature: certificates and revocation lists alike.
pub(crate) fn sign(to_be_signed: &[u8], key: &SecretKey) -> Vec<u8> {
    let algorithm = sequence(&[&object(&der::ECDSA_SHA256)]);
    sequence(&[to_be_signed, &algorithm, &der::bits(&key.sign_der(to_be_signed))])
}

impl Template<'_> {
    pub(crate) fn sign(&self, key: &SecretKey) -> Vec<u8> {
        let to_be_signed = sequence(&[
            &explicit(0, &der::unsigned(&[2])),
            &der::unsigned(&self.serial),
            &sequence(&[&object(&der::ECDSA_SHA256)]),
            &self.issuer,
            &sequence(&[&der::time(self.not_before), &der::time(self.not_after)]),
            &self.subject,
            &self.spki,
            &explicit(3, &extensions(self.extensions)),
        ]);
        sign(&to_be_signed, key)
    }
}

/// A serial number that is positive and made of what is certified.
pub(crate) fn serial(of: &[u8]) -> [u8; 16] {
    let mut serial = [0; 16];
    serial.copy_from_slice(&Sha256::digest(of)[..16]);
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

/// A certificate that `key` signs for itself, with `evidence` ([`crate::extension::Evidence::encode`]) inside, for these DNS names.
///
/// Who checks it looks at the quote, not at the names or the dates: they are there for libraries that want them.
pub fn self_signed(key: &SecretKey, evidence: &[u8], names: &[&str], not_before: u64, not_after: u64) -> Vec<u8> {
    let mut all = vec![Extension { oid: OID_DER.to_vec(), critical: false, content: evidence.to_vec() }];
    all.extend(alternative_names(names));
    own("TeeMate enclave", key, &[&key.public().spki(), evidence].concat(), &all, (not_before, not_after))
}

/// A certificate that `key` signs for itself, for these DNS names and IP addresses: of a server whose clients were given it beforehand.
pub fn of_server(key: &SecretKey, names: &[&str], not_before: u64, not_after: u64) -> Vec<u8> {
    let all: Vec<Extension> = alternative_names(names).into_iter().collect();
    own("TeeMate witness", key, &key.public().spki(), &all, (not_before, not_after))
}

fn own(common: &str, key: &SecretKey, of: &[u8], extensions: &[Extension], (not_before, not_after): (u64, u64)) -> Vec<u8> {
    let own = name("TeeMate", common);
    let spki = key.public().spki();
    Template { serial: serial(of), issuer: own.clone(), subject: own, not_before, not_after, spki, extensions }.sign(key)
}

/// The names that a certificate is for, if it is for any.
fn alternative_names(names: &[&str]) -> Option<Extension> {
    let one = |name: &&str| match name.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => value(0x87, &[&address.octets()]),
        Ok(IpAddr::V6(address)) => value(0x87, &[&address.octets()]),
        Err(_) => value(0x82, &[name.as_bytes()]),
    };
    let names: Vec<Vec<u8>> = names.iter().map(one).collect();
    let content = sequence(&names.iter().map(Vec::as_slice).collect::<Vec<_>>());
    (!names.is_empty()).then(|| Extension { oid: SUBJECT_ALTERNATIVE_NAME.to_vec(), critical: false, content })
}

/// The key as PKCS #8 in DER, as TLS libraries read it.
pub fn pkcs8(key: &SecretKey) -> Vec<u8> {
    const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let private =
        sequence(&[&der::unsigned(&[1]), &value(der::OCTET_STRING, &[&key.to_bytes()]), &explicit(1, &der::bits(&key.public().point()))]);
    sequence(&[&der::unsigned(&[0]), &sequence(&[&object(&EC_PUBLIC_KEY), &object(&P256)]), &value(der::OCTET_STRING, &[&private])])
}

/// PEM of a certificate.
pub fn pem(certificate: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::{Decode, Encode};

    #[test]
    fn a_certificate_is_what_an_independent_crate_reads() {
        let key = SecretKey::from_bytes(&[5; 32]).unwrap();
        let der = self_signed(&key, b"evidence", &["localhost", "node.example"], 1_700_000_000, 2_600_000_000);
        let read = x509_cert::Certificate::from_der(&der).unwrap();
        assert_eq!(read.to_der().unwrap(), der);
        let inner = read.tbs_certificate();
        assert_eq!(inner.subject().to_string(), "CN=TeeMate enclave,O=TeeMate");
        assert_eq!(inner.subject_public_key_info().to_der().unwrap(), key.public().spki());
        assert_eq!(inner.validity().not_before.to_unix_duration().as_secs(), 1_700_000_000);
        assert_eq!(inner.validity().not_after.to_unix_duration().as_secs(), 2_600_000_000);
        let extensions = inner.extensions().unwrap();
        assert_eq!(extensions[0].extn_id.to_string(), crate::extension::OID);
        assert_eq!(extensions[0].extn_value.as_bytes(), b"evidence");
        assert!(!extensions[0].critical);
        let names = x509_cert::ext::pkix::SubjectAltName::from_der(extensions[1].extn_value.as_bytes()).unwrap();
        assert_eq!(names.0.len(), 2);
        let signature = p256::ecdsa::DerSignature::from_bytes(read.signature().raw_bytes()).unwrap();
        let verifier = p256::ecdsa::VerifyingKey::from_sec1_bytes(&key.public().point()).unwrap();
        p256::ecdsa::signature::Verifier::verify(&verifier, &inner.to_der().unwrap(), &signature).unwrap();
    }

    #[test]
    fn pem_has_short_lines() {
        let text = pem(&[0; 100]);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(text.lines().count(), 5);
    }
}
