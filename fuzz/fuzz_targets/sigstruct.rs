//! SIGSTRUCTs. One that is accepted stays accepted; none panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_image::{SIGSTRUCT_SIZE, verify_sigstruct};

fuzz_target!(|bytes: &[u8]| {
    let mut sigstruct = [0; SIGSTRUCT_SIZE];
    let length = bytes.len().min(SIGSTRUCT_SIZE);
    sigstruct[..length].copy_from_slice(&bytes[..length]);
    // With the constants in place, what follows them is reached.
    if let Ok(verified) = verify_sigstruct(&sigstruct) {
        assert_eq!(verify_sigstruct(&sigstruct).expect("the same bytes again"), verified);
    }
    let header = [6u8, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    sigstruct[..16].copy_from_slice(&header);
    sigstruct[24..40].copy_from_slice(&[1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1, 0, 0, 0]);
    sigstruct[16..20].fill(0);
    sigstruct[512..516].copy_from_slice(&3u32.to_le_bytes());
    for range in [44..128, 908..912, 992..1008, 1028..1040] {
        sigstruct[range].fill(0);
    }
    sigstruct[511] |= 0x80;
    sigstruct[128] |= 1;
    let _ = verify_sigstruct(&sigstruct);
});
