//! Keys and certificates. Those of root, CA and TCB signer are the same everywhere, and public.

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::{CPUSVN, FMSPC, PCE_SVN};
use crate::SecretKey;
use crate::certificate::{Extension, Template, extensions, name, serial, sign};
use crate::der::{self, explicit, object, sequence, value};

// PUBLIC ON PURPOSE: these "secret" keys protect nothing and must never be trusted for anything but tests.
const ROOT: &[u8; 32] = b"INSECURE TeeMate simulation root";
const CA: &[u8; 32] = b"INSECURE TeeMate simulation CA..";
const TCB_SIGNER: &[u8; 32] = b"INSECURE TeeMate simulation TCB.";

const ORGANIZATION: &str = "INSECURE TeeMate simulation";
const ROOT_NAME: &str = "INSECURE TeeMate simulation: Root CA";
const CA_NAME: &str = "INSECURE TeeMate simulation: PCK Processor CA";
const PCK_NAME: &str = "INSECURE TeeMate simulation: PCK Certificate";
const TCB_SIGNER_NAME: &str = "INSECURE TeeMate simulation: TCB Signing";

/// 2024-01-01.
const NOT_BEFORE: u64 = 1_704_067_200;
/// 2049-12-31.
const NOT_AFTER: u64 = 2_524_521_600;

/// 1.2.840.113741.1.13.1, Intel's SGX extension.
const SGX: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const CRL_NUMBER: [u8; 3] = [0x55, 0x1d, 0x14];

/// A key from any 32 bytes, the same each time.
pub(super) fn key(seed: &[u8; 32]) -> SecretKey {
    let mut bytes = *seed;
    loop {
        if let Some(key) = SecretKey::from_bytes(&bytes) {
            return key;
        }
        bytes = Sha256::digest(bytes).into();
    }
}

pub(super) fn tcb_signing_key() -> SecretKey {
    key(TCB_SIGNER)
}

fn authority() -> [Extension; 2] {
    [
        Extension { oid: BASIC_CONSTRAINTS.to_vec(), critical: true, content: sequence(&[&[1, 1, 0xff]]) },
        // keyCertSign, cRLSign.
        Extension { oid: KEY_USAGE.to_vec(), critical: true, content: vec![der::BIT_STRING, 2, 1, 0x06] },
    ]
}

fn leaf() -> [Extension; 2] {
    [
        Extension { oid: BASIC_CONSTRAINTS.to_vec(), critical: true, content: sequence(&[]) },
        // digitalSignature, nonRepudiation.
        Extension { oid: KEY_USAGE.to_vec(), critical: true, content: vec![der::BIT_STRING, 2, 6, 0xc0] },
    ]
}

fn certify(issuer: &str, by: &SecretKey, subject: &str, key: &SecretKey, extensions: &[Extension]) -> Vec<u8> {
    let spki = key.public().spki();
    let template = Template {
        serial: serial(&spki),
        issuer: name(ORGANIZATION, issuer),
        subject: name(ORGANIZATION, subject),
        not_before: NOT_BEFORE,
        not_after: NOT_AFTER,
        spki,
        extensions,
    };
    template.sign(by)
}

/// The root certificate, DER. **Trust it for nothing but tests: its key is public.**
pub fn root() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| certify(ROOT_NAME, &key(ROOT), ROOT_NAME, &key(ROOT), &authority()))
}

pub(super) fn ca() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| certify(ROOT_NAME, &key(ROOT), CA_NAME, &key(CA), &authority()))
}

pub(super) fn tcb_signer() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| certify(ROOT_NAME, &key(ROOT), TCB_SIGNER_NAME, &tcb_signing_key(), &leaf()))
}

/// The certificate of a platform's PCK key, with Intel's SGX extension.
pub(super) fn pck(platform: &SecretKey, ppid: &[u8; 16]) -> Vec<u8> {
    let [basic, usage] = leaf();
    let sgx = Extension { oid: SGX.to_vec(), critical: false, content: sgx_extension(ppid) };
    certify(CA_NAME, &key(CA), PCK_NAME, platform, &[basic, usage, sgx])
}

pub(super) fn pck_serial(platform: &SecretKey) -> [u8; 16] {
    serial(&platform.public().spki())
}

fn sgx_extension(ppid: &[u8; 16]) -> Vec<u8> {
    let member = |path: &[u8], content: &[u8]| sequence(&[&object(&[&SGX[..], path].concat()), content]);
    let mut tcb = Vec::new();
    for (number, svn) in (1u8..).zip(CPUSVN) {
        tcb.extend(member(&[2, number], &der::unsigned(&[svn])));
    }
    tcb.extend(member(&[2, 17], &der::unsigned(&PCE_SVN.to_be_bytes())));
    tcb.extend(member(&[2, 18], &value(der::OCTET_STRING, &[&CPUSVN])));
    sequence(&[
        &member(&[1], &value(der::OCTET_STRING, &[ppid])),
        &member(&[2], &sequence(&[&tcb])),
        &member(&[3], &value(der::OCTET_STRING, &[&[0, 0]])),
        &member(&[4], &value(der::OCTET_STRING, &[&FMSPC])),
        &member(&[5], &value(der::ENUMERATED, &[&[0]])),
    ])
}

/// Which certificate authority a revocation list is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Issuer {
    Root,
    Ca,
}

/// A revocation list with these serial numbers.
pub(super) fn revocation_list(issuer: Issuer, issued: u64, next: u64, revoked: &[[u8; 16]]) -> Vec<u8> {
    let (common, by) = match issuer {
        Issuer::Root => (ROOT_NAME, key(ROOT)),
        Issuer::Ca => (CA_NAME, key(CA)),
    };
    let entries: Vec<u8> = revoked.iter().flat_map(|serial| sequence(&[&der::unsigned(serial), &der::time(issued)])).collect();
    let entries = if entries.is_empty() { Vec::new() } else { sequence(&[&entries]) };
    let number = Extension { oid: CRL_NUMBER.to_vec(), critical: false, content: der::unsigned(&[1]) };
    let to_be_signed = sequence(&[
        &der::unsigned(&[1]),
        &sequence(&[&object(&der::ECDSA_SHA256)]),
        &name(ORGANIZATION, common),
        &der::time(issued),
        &der::time(next),
        &entries,
        &explicit(0, &extensions(&[number])),
    ]);
    sign(&to_be_signed, &by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::{Decode, Encode};

    #[test]
    fn certificates_and_lists_are_what_an_independent_crate_reads() {
        let platform = key(&[1; 32]);
        let pck = pck(&platform, &[2; 16]);
        for (der, subject) in [(root(), ROOT_NAME), (ca(), CA_NAME), (tcb_signer(), TCB_SIGNER_NAME), (&pck, PCK_NAME)] {
            let read = x509_cert::Certificate::from_der(der).unwrap();
            assert_eq!(read.to_der().unwrap(), der);
            assert!(read.tbs_certificate().subject().to_string().contains(subject));
            assert!(subject.contains("INSECURE"));
        }
        let list = revocation_list(Issuer::Ca, NOT_BEFORE, NOT_AFTER, &[pck_serial(&platform)]);
        let read = x509_cert::crl::CertificateList::<x509_cert::certificate::Rfc5280>::from_der(&list).unwrap();
        assert_eq!(read.to_der().unwrap(), list);
        assert_eq!(read.tbs_cert_list.revoked_certificates.unwrap().len(), 1);
    }

    #[test]
    fn the_root_is_the_same_each_time_and_everywhere() {
        // A change here makes old clients refuse new nodes.
        assert_eq!(crate::encoding::hex(&Sha256::digest(root())), "94ab86c916d075b7d59fbfd2387abc416a0fa961cef5274c569b778e4d4663eb");
    }
}
