//! Time. The enclave has none of its own: the tick is the processor's TSC, its scale and start are the host's word. What is kept is that
//! time never goes back.

use core::sync::atomic::{AtomicU64, Ordering};

use teemate_abi::host_area::{BASE, Header};

use crate::ocall;

static LAST: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds of CLOCK_MONOTONIC, by the host's word, never less than before.
pub fn monotonic() -> u64 {
    let now = untrusted_now();
    LAST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Nanoseconds since 1970, by the host's word: [`monotonic`] and the offset that the host states now.
pub fn realtime() -> u64 {
    // SAFETY: the header is at a constant place outside ELRANGE; an atomic load copies the value.
    let offset = unsafe { &*(BASE as *const Header) }.clock_realtime_offset.load(Ordering::Relaxed);
    monotonic().saturating_add(offset)
}

fn untrusted_now() -> u64 {
    // SAFETY: as in `realtime`. Other fields of the header are not looked at.
    let header = unsafe { &*(BASE as *const Header) };
    let mult = header.clock_mult.load(Ordering::Relaxed);
    if mult == 0 {
        return ocall::clock(libc::CLOCK_MONOTONIC as u64);
    }
    // SAFETY: RDTSC is legal in enclaves of SGX2 processors and reads a counter.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    scale(tsc, header.clock_tsc.load(Ordering::Relaxed), header.clock_ns.load(Ordering::Relaxed), mult)
}

/// `ns + (tsc - start) * mult / 2^32`, without overflow whatever the host wrote.
fn scale(tsc: u64, start: u64, ns: u64, mult: u64) -> u64 {
    let ticks = u128::from(tsc.saturating_sub(start));
    let passed = (ticks * u128::from(mult)) >> 32;
    ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX / 2)).min(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn scales_and_never_overflows() {
        assert_eq!(scale(3_000_000_000, 0, 5, (1 << 32) / 3), 5 + 999_999_999);
        assert_eq!(scale(10, 20, 7, 1 << 32), 7);
        assert_eq!(scale(u64::MAX, 0, u64::MAX, u64::MAX), u64::MAX / 2);
    }
}
