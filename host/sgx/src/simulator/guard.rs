//! The guard: a SIGKILL is an AEX as well.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{memory::Memory, shared::Shared};
use crate::device::Error;

/// What a kill hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Rule {
    /// Nothing of an enclave was in the thread.
    Outside = 0,
}

/// Kills by [`Rule`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KillCounts(pub [u64; 16]);

impl KillCounts {
    pub(super) fn read(shared: &Shared) -> Self {
        let mut counts = KillCounts::default();
        for (to, from) in counts.0.iter_mut().zip(&shared.secs().kills) {
            *to = from.load(Relaxed);
        }
        counts
    }
    /// inside
    pub fn inside(&self) -> u64 {
        0
    }
    /// transition
    pub fn in_transition(&self) -> u64 {
        0
    }
}

/// Traces.
pub struct Guard;
impl Guard {
    /// New.
    pub fn start() -> Result<Arc<Guard>, Error> {
        Ok(Arc::new(Guard))
    }
    /// seize
    pub fn seize(&self, _pid: i32, _memory: Arc<Memory>) -> Result<(), Error> {
        Ok(())
    }
    /// wait
    pub fn wait_saved(&self, _pid: i32) -> Result<(), Error> {
        Ok(())
    }
}
