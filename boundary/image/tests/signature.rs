//! SIGSTRUCTs: made, verified, and every way to be wrong.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use proptest::prelude::*;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sgx_isa::Sigstruct;
use sha2::{Digest as _, Sha256};
use teemate_image::{Attributes, Content, Image, PageKind, PageRun, SIGSTRUCT_SIZE, SigningKey, rewrite::Report, verify_sigstruct};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static SIGNED: LazyLock<[u8; SIGSTRUCT_SIZE]> = LazyLock::new(|| image().sign(&KEY, 0x2026_1120).unwrap());

fn image() -> Image {
    Image {
        elrange_size: 1 << 24,
        ssa_frame_pages: 1,
        pages: vec![PageRun { offset: 0, count: 1, kind: PageKind::READ, content: Content::Zero }],
        gate: 0,
        tcs_start: 0,
        tcs_count: 1,
        heap_start: 0,
        attributes: Attributes { flags: 4, xfrm: 0xe7 },
        miscselect: 1,
        isv_prod_id: 0x1234,
        isv_svn: 7,
        report: Report::default(),
        sigstruct: None,
    }
}

#[test]
fn a_signature_verifies() {
    let verified = verify_sigstruct(&SIGNED).unwrap();
    assert_eq!(verified.mrenclave, image().measure());
    assert_eq!(verified.mrsigner, KEY.mrsigner());
    assert_eq!((verified.isv_prod_id, verified.isv_svn, verified.date, verified.vendor), (0x1234, 7, 0x2026_1120, 0));
    assert_eq!(*SIGNED, image().sign(&KEY, 0x2026_1120).unwrap(), "the same input gives the same signature");
    let signed = Image { sigstruct: Some(*SIGNED), ..image() };
    signed.verify().unwrap();
    let other = Image { elrange_size: 1 << 25, ..signed };
    assert!(other.verify().unwrap_err().to_string().contains("another enclave"));
}

#[test]
fn others_read_the_same_fields() {
    let theirs = Sigstruct::try_copy_from(&SIGNED[..]).unwrap();
    assert_eq!(theirs.header, sgx_isa::SIGSTRUCT_HEADER1);
    assert_eq!(theirs.header2, sgx_isa::SIGSTRUCT_HEADER2);
    assert_eq!((theirs.exponent, theirs.date, theirs.isvprodid, theirs.isvsvn), (3, 0x2026_1120, 0x1234, 7));
    assert_eq!(theirs.enclavehash, image().measure());
    assert_eq!(theirs.attributes.flags.bits(), 4);
    assert_eq!((theirs.attributes.xfrm, theirs.attributemask), (0xe7, [!1, !0xe4]));
    assert_eq!((theirs.miscselect.bits(), theirs.miscmask), (1, !1));
    // The signature, by another implementation over another crate's idea of what is signed.
    let modulus = rsa::BigUint::from_bytes_le(&theirs.modulus);
    let key = RsaPublicKey::new(modulus.clone(), rsa::BigUint::from(3u32)).unwrap();
    let (one, two) = theirs.signature_data();
    let digest = Sha256::new().chain_update(one).chain_update(two).finalize();
    let mut signature = theirs.signature;
    signature.reverse();
    key.verify(Pkcs1v15Sign::new::<Sha256>(), &digest, &signature).unwrap();
    // What the processor computes with Q1 and Q2 instead of dividing.
    let [signature, q1, q2] = [&theirs.signature, &theirs.q1, &theirs.q2].map(|bytes| rsa::BigUint::from_bytes_le(bytes));
    let rest = &signature * &signature - q1 * &modulus;
    assert!(rest < modulus && signature * rest - q2 * &modulus < modulus);
}

#[test]
fn what_a_signature_permits() {
    let verified = verify_sigstruct(&SIGNED).unwrap();
    let hash = image().measure();
    let permits = |flags, xfrm, misc| verified.permits(&hash, Attributes { flags, xfrm }, misc);
    for xfrm in [3, 7, 0xe7] {
        permits(4, xfrm, 1).unwrap();
        permits(5, xfrm, 0).unwrap();
    }
    assert!(permits(6, 3, 1).unwrap_err().to_string().contains("not for a debug enclave"));
    assert!(permits(4 | 16, 3, 1).is_err(), "PROVISIONKEY");
    assert!(permits(4, 3 | 1 << 9, 1).is_err(), "PKRU");
    assert!(permits(4, 3 | 1 << 18, 1).is_err(), "AMX");
    assert!(permits(4, 1, 1).is_err(), "no SSE");
    assert!(permits(4, 3, 2).is_err(), "MISCSELECT");
}

#[test]
fn keys_as_files() {
    let pem = KEY.to_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(SigningKey::from_pem(&pem).unwrap().mrsigner(), KEY.mrsigner());
    assert!(!format!("{:?}", *KEY).contains("d:"));
    for wrong in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &pem[..pem.len() / 2]] {
        assert!(SigningKey::from_pem(wrong).unwrap_err().to_string().contains("PEM"), "{wrong}");
    }
    // 512 bits, e = 65537: right format, wrong kind.
    let small = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 512).unwrap();
    let small = rsa::pkcs8::EncodePrivateKey::to_pkcs8_pem(&small, rsa::pkcs8::LineEnding::LF).unwrap();
    assert!(SigningKey::from_pem(&small).unwrap_err().to_string().contains("3072 bits with exponent 3"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_change_is_refused(at in 0..SIGSTRUCT_SIZE, change in 1u8..) {
        let mut bytes = *SIGNED;
        bytes[at] ^= change;
        prop_assert!(verify_sigstruct(&bytes).is_err(), "byte {}", at);
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), SIGSTRUCT_SIZE)) {
        let mut bytes: [u8; SIGSTRUCT_SIZE] = noise.try_into().unwrap();
        prop_assert!(verify_sigstruct(&bytes).is_err());
        // With everything right that is easy to get right.
        for range in [0..128, 512..516, 900..1040] {
            bytes[range.clone()].copy_from_slice(&SIGNED[range]);
        }
        bytes[128] |= 1;
        bytes[511] |= 0x80;
        prop_assert!(verify_sigstruct(&bytes).is_err());
    }
}
