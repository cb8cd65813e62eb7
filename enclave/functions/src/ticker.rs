//! One thread for what must happen beside the calls: the tick that makes them look at their stop switches, and the wiping of memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::function::Engines;
use crate::lock;

/// How late a call may notice that it must stop.
const TICK: Duration = Duration::from_millis(10);
/// Ticks without a call after which the ticker sleeps: a new call then need not wake it each time.
const LINGER: u32 = 20;

/// Wakes and sleeps with the calls.
#[derive(Default)]
pub struct Ticker {
    running: AtomicU64,
    asleep: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    wipe: AtomicBool,
}

impl Ticker {
    /// A call begins.
    pub fn begin(&self) {
        self.running.fetch_add(1, SeqCst);
        if self.asleep.load(SeqCst) {
            // Under the lock, so that the ticker is either still before its check or already waiting.
            drop(lock(&self.lock));
            self.wake.notify_all();
        }
    }

    /// A call is over.
    pub fn end(&self) {
        self.running.fetch_sub(1, SeqCst);
    }

    /// An instance is gone: its memory can be wiped.
    pub fn wipe(&self) {
        if !self.wipe.swap(true, SeqCst) {
            drop(lock(&self.lock));
            self.wake.notify_all();
        }
    }

    /// The thread. Keeps `spare` memories of each sort ready.
    pub fn run(&self, engines: &Engines, spare: usize) {
        let mut quiet = 0;
        let mut ticked = monotonic_ns();
        loop {
            let guard = lock(&self.lock);
            if quiet >= LINGER {
                self.asleep.store(true, SeqCst);
                let mut guard = guard;
                while self.running.load(SeqCst) == 0 && !self.wipe.load(SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                self.asleep.store(false, SeqCst);
                quiet = 0;
            } else if !self.wipe.load(SeqCst) {
                drop(self.wake.wait_timeout(guard, TICK));
            } else {
                drop(guard);
            }
            let woken = self.wipe.swap(false, SeqCst);
            engines.clean();
            engines.prepare(spare);
            let now = monotonic_ns();
            if now.saturating_sub(ticked) < TICK.as_nanos() as u64 && woken {
                continue;
            }
            ticked = now;
            if self.running.load(SeqCst) > 0 {
                engines.tick();
                quiet = 0;
            } else {
                quiet += 1;
            }
        }
    }
}
