//! Policies: one that is read is the same after it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_attestation::{Endpoint, Policy};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(policy) = Policy::parse(&text) {
        // A path that is not text can't come out of TOML, so everything goes there and back.
        assert_eq!(Policy::parse(&policy.to_toml()).expect("its own text"), policy);
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse::<Endpoint>().expect("its own text"), endpoint);
    }
});
