//! Spin locks. A holder that is interrupted by an AEX keeps its lock until somebody resumes its TCS; the node's adoption of dead
//! containers is what bounds that wait, so a waiter only ever spins.

use core::sync::atomic::{AtomicBool, Ordering};

/// The raw lock.
pub struct RawSpin(AtomicBool);

// SAFETY: `try_lock` gives the lock to one caller, by one atomic swap; only `unlock` gives it back.
unsafe impl lock_api::RawMutex for RawSpin {
    // The trait wants a constant: each use makes a new lock, as it should.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: RawSpin = RawSpin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            while self.0.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A value behind a spin lock.
pub type Spin<T> = lock_api::Mutex<RawSpin, T>;
