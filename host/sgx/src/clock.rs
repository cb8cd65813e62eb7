//! The clock that an enclave reads without an exit: the host area's header says how TSC ticks become CLOCK_MONOTONIC.
//!
//! The scale is measured from the start of the enclave on, so that its error shrinks as the enclave ages: a thread measures it again
//! after 10 ms, 20 ms, ... up to once a second. Only the scale changes, in one store: no reader sees half of an update.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use teemate_abi::host_area::Header;

/// Sets the clock of `owner`'s header, and keeps it right until the owner is dropped.
pub fn keep<Owner: Send + Sync + 'static>(owner: &Arc<Owner>, header: fn(&Owner) -> &Header) {
    let start = sample();
    header(owner).clock_tsc.store(start.tsc, Relaxed);
    header(owner).clock_ns.store(start.ns, Relaxed);
    set_offset(header(owner));
    let weak = Arc::downgrade(owner);
    let mut pause = Duration::from_millis(10);
    let keeper = move || {
        loop {
            std::thread::sleep(pause);
            let Some(owner) = weak.upgrade() else { return };
            header(&owner).clock_mult.store(scale(&start, &sample()), Relaxed);
            set_offset(header(&owner));
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    };
    // Without the thread the scale stays 0, and the enclave asks for the time by OCALL.
    if let Err(error) = std::thread::Builder::new().name("enclave-clock".to_owned()).spawn(keeper) {
        tracing::warn!(%error, "no thread for the enclave's clock: it will leave for the time");
    }
}

#[derive(Clone, Copy)]
struct Sample {
    tsc: u64,
    ns: u64,
}

/// TSC and CLOCK_MONOTONIC at one instant: the closest of a few tries.
fn sample() -> Sample {
    let tries = (0..8).map(|_| {
        let (before, ns, after) = (tsc(), now(libc::CLOCK_MONOTONIC), tsc());
        (after.saturating_sub(before), Sample { tsc: before + after.saturating_sub(before) / 2, ns })
    });
    tries.min_by_key(|(width, _)| *width).map_or(Sample { tsc: tsc(), ns: now(libc::CLOCK_MONOTONIC) }, |(_, sample)| sample)
}

/// Nanoseconds a tick, times 2^32; 0 when the TSC did not run.
fn scale(start: &Sample, end: &Sample) -> u64 {
    let ticks = u128::from(end.tsc.saturating_sub(start.tsc));
    let ns = u128::from(end.ns.saturating_sub(start.ns));
    (ns << 32).checked_div(ticks).and_then(|scale| u64::try_from(scale).ok()).unwrap_or(0)
}

fn set_offset(header: &Header) {
    header.clock_realtime_offset.store(now(libc::CLOCK_REALTIME).saturating_sub(now(libc::CLOCK_MONOTONIC)), Relaxed);
}

fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn tsc() -> u64 {
    // SAFETY: RDTSC reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_that_of_the_samples() {
        let at = |tsc, ns| Sample { tsc, ns };
        assert_eq!(scale(&at(100, 50), &at(1100, 550)), 1 << 31);
        assert_eq!(scale(&at(100, 50), &at(100, 550)), 0);
        assert_eq!(scale(&at(0, 0), &at(1, u64::MAX)), 0);
    }
}
