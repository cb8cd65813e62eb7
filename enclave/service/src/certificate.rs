//! The certificate with which an enclave meets its clients: self-signed, with a quote in it that binds the key (the interoperable RA-TLS
//! form, `docs/attestation.md`).

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use teemate_evidence::SecretKey;
use teemate_evidence::certificate::self_signed;
use teemate_evidence::extension::{Claims, Evidence};

use crate::clock;

/// Dates of a certificate, around the host's time: they are there for libraries that want them. What counts is the quote.
const VALID_BEFORE: u64 = 24 * 3600;
const VALID_AFTER: u64 = 7 * 24 * 3600;

/// A key that nobody else has.
pub fn fresh_key() -> SecretKey {
    loop {
        let mut bytes = [0; 32];
        clock::random(&mut bytes);
        // One in 2^32 is no key.
        if let Some(key) = SecretKey::from_bytes(&bytes) {
            return key;
        }
    }
}

/// A certificate (DER) of this key for these names, with a fresh quote. Blocks as long as the quote takes.
///
/// # Errors
/// Those of `quote`.
pub fn attested(key: &SecretKey, names: &[&str], quote: impl FnOnce([u8; 64]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    let claims = Claims::new(&key.public().spki());
    let evidence = Evidence { quote: quote(claims.report_data())?, claims: claims.encode() }.encode();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Ok(self_signed(key, &evidence, names, now.saturating_sub(VALID_BEFORE), now.saturating_add(VALID_AFTER)))
}
