//! The host's monotonic clock, for marks. Untrusted in an enclave: it says how long something took, never whether it may.
#![allow(unsafe_code)]

use teemate_control::function::{Mark, Phase};

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the kernel to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// This phase is reached now.
pub fn mark(phase: Phase) -> Mark {
    Mark { phase, at_ns: monotonic_ns() }
}

/// Number of an enclave's first container: ids go from a random start upwards, and are never 0. They stay below 2^53, for receipts carry
/// them as JSON numbers.
pub fn first_container() -> u64 {
    let mut start = [0; 8];
    random(&mut start);
    // Half of the range is left: more than any enclave can use.
    (u64::from_le_bytes(start) >> 12) + 1
}

/// Random bytes of the system: RDRAND in an enclave.
pub fn random(buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        // SAFETY: `rest` is ours and as long as we say.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if got > 0 {
            filled += got as usize;
        } else if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            // Without randomness nothing here may go on.
            std::process::abort();
        }
    }
}
