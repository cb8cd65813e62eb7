//! One thread for what must happen beside the calls: memory that ended instances left is wiped, and some is made ready.

use std::sync::{Condvar, Mutex};

use crate::function::Engines;
use crate::lock;

/// Sleeps until somebody has work for it.
#[derive(Default)]
pub struct Cleaner {
    wanted: Mutex<bool>,
    wake: Condvar,
}

impl Cleaner {
    /// An instance is gone, or a new sort of them is there.
    pub fn wake(&self) {
        let before = std::mem::replace(&mut *lock(&self.wanted), true);
        if !before {
            self.wake.notify_one();
        }
    }

    /// The thread. Keeps `spare` memories of each sort ready.
    pub fn run(&self, engines: &Engines, spare: usize) {
        loop {
            while engines.clean() > 0 {}
            engines.prepare(spare);
            let mut wanted = lock(&self.wanted);
            while !std::mem::take(&mut *wanted) {
                wanted = self.wake.wait(wanted).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }
}
