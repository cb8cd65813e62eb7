//! Certificates and the evidence in them: any bytes, and a good certificate with bytes changed.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use teemate_attestation::certificate::Certificate;
use teemate_evidence::SecretKey;
use teemate_evidence::certificate::self_signed;
use teemate_evidence::extension::{Claims, Evidence};

fn good() -> &'static (Vec<u8>, [u8; 64]) {
    static GOOD: OnceLock<(Vec<u8>, [u8; 64])> = OnceLock::new();
    GOOD.get_or_init(|| {
        let key = SecretKey::from_bytes(&[1; 32]).expect("a key");
        let claims = Claims::new(&key.public().spki());
        let evidence = Evidence { quote: vec![3; 500], claims: claims.encode() };
        (self_signed(&key, &evidence.encode(), &["node"], 0, 4_000_000_000), claims.report_data())
    })
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(evidence) = Evidence::decode(bytes) {
        assert_eq!(evidence.encode(), bytes, "one spelling");
        let _ = Claims::decode(&evidence.claims);
    }
    if let Ok(claims) = Claims::decode(bytes) {
        assert_eq!(Claims::decode(&claims.encode()).expect("its own bytes"), claims);
    }
    let _ = (Certificate::from_der(bytes), Certificate::from_pem(bytes));
    let (good, data) = good();
    let expected = Certificate::from_der(good).expect("a good certificate");
    let mut changed = good.clone();
    for change in bytes.chunks_exact(3).take(16) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] = changed[at].wrapping_add(change[2]);
    }
    // REPORT_DATA binds the key and the claims: with other ones it fits no more.
    if let Ok(certificate) = Certificate::from_der(&changed)
        && certificate.evidence.check(&certificate.spki, data).is_ok()
    {
        assert_eq!((certificate.spki, certificate.evidence.claims), (expected.spki, expected.evidence.claims));
    }
});
