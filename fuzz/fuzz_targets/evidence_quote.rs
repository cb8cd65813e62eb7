//! Quotes: any bytes, and a good one with bytes changed. A changed one is refused, or what changed says nothing.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use teemate_attestation::{Collateral, Document, Identity, Policy, Verified, verify};
use teemate_evidence::quote::{Quote, length};
use teemate_evidence::simulation::{self, Platform};

const NOW: u64 = 1_790_000_000;

struct Good {
    quote: Vec<u8>,
    collateral: Collateral,
    policy: Policy,
    verified: Verified,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let quote = Platform::new(&[1; 32]).quote(&[0x40; 384]);
        let collateral = Collateral::from_json(&simulation::Collateral::new(NOW).json()).expect("own collateral");
        let policy = Policy { insecure_simulation: true, ..Policy::strict(vec![Identity::Enclave { mrenclave: [0x40; 32] }]) };
        let verified = verify(&quote, Some(&collateral), &policy, NOW).expect("a good quote");
        Good { quote, collateral, policy, verified }
    })
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(quote) = Quote::parse(bytes) {
        assert_eq!(length(bytes), Some(bytes.len()));
        assert_eq!(Quote::parse(bytes).expect("the same bytes again"), quote);
    }
    let good = good();
    if let Ok(document) = Document::parse(bytes) {
        let _ = document.verify(Some(&good.collateral), &good.policy, None, NOW);
    }
    // Three bytes say: add this at there.
    let mut changed = good.quote.clone();
    for change in bytes.chunks_exact(3).take(64) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] = changed[at].wrapping_add(change[2]);
    }
    if let Ok(verified) = verify(&changed, Some(&good.collateral), &good.policy, NOW) {
        assert_eq!(verified, good.verified);
    }
});
