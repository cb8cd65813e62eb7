//! Containers that are made before there is a call for them.
//!
//! A container's creation (a clone with its namespaces, control groups, mounts, a filter, a guard) takes longer than everything else of a
//! short call, and none of it depends on the call. So some containers are made ahead, in quiet moments, up to the point where their thread
//! would enter the enclave. Each is used for one call, as one that is made for it; what is the call's own (limits, connections, life time)
//! it gets with the call. A function with files has a root of its own, and is never served from here.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use teemate_container::cgroup::Limits;

use crate::containers::Process;
use crate::locks::{Lock, wait};

/// Without a new call for so long, the moment is quiet, though calls may be under way.
const QUIET: Duration = Duration::from_millis(20);

/// A container that waits for its call.
pub struct Ready {
    /// Its process.
    pub process: Arc<Process>,
    /// The broker's end of the socket over which it would ask for connections.
    pub broker: OwnedFd,
}

struct State {
    ready: VecDeque<Ready>,
    last_call: Instant,
    /// Of the last call: the next one is most likely alike, and then its limits are set already.
    limits: Limits,
}

/// Those of one enclave.
pub struct Ahead {
    size: usize,
    state: Mutex<State>,
    used: Condvar,
    taken: AtomicU64,
}

impl Ahead {
    /// None yet; never more than `size`. `limits` are what the first ones get.
    pub fn new(size: usize, limits: Limits) -> Ahead {
        let state = State { ready: VecDeque::new(), last_call: Instant::now(), limits };
        Ahead { size, state: Mutex::new(state), used: Condvar::new(), taken: AtomicU64::new(0) }
    }

    /// The one that was made first: none becomes old while there are calls.
    pub fn take(&self, limits: Limits) -> Option<Ready> {
        let mut state = self.state.locked();
        state.limits = limits;
        state.last_call = Instant::now();
        state.ready.pop_front()
    }

    /// One of them, for whatever purpose.
    pub fn take_any(&self) -> Option<Ready> {
        self.state.locked().ready.pop_front()
    }

    /// Counts one that a call got.
    pub fn count_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn add(&self, ready: Ready) {
        self.state.locked().ready.push_back(ready);
    }

    /// Forgets one that has ended.
    pub fn forget(&self, process: &Process) {
        self.state.locked().ready.retain(|ready| ready.process.serial != process.serial);
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.state.locked().ready.len()
    }

    /// How many calls got one.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Says that a call is over: perhaps the moment is quiet.
    pub fn nudge(&self) {
        self.used.notify_all();
    }

    /// Whether the last call began a while ago.
    pub fn is_quiet(&self) -> bool {
        self.state.locked().last_call.elapsed() > QUIET
    }

    /// Waits for a call's end, at most so long.
    pub fn pause(&self, limit: Duration) {
        drop(wait(&self.used, self.state.locked(), limit));
    }

    /// Limits for the next one, if there is room for it.
    pub fn wanted(&self) -> Option<Limits> {
        let state = self.state.locked();
        (state.ready.len() < self.size).then_some(state.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_gives_nothing_and_learns_the_limits_of_calls() {
        let (first, other) = (Limits::default(), Limits { pids: Some(7), ..Limits::default() });
        let ahead = Ahead::new(2, first);
        assert_eq!(ahead.wanted(), Some(first));
        assert!(ahead.take(other).is_none());
        assert_eq!(ahead.wanted(), Some(other), "the next one is made for calls like the last");
        assert_eq!(ahead.taken(), 0);
        assert_eq!(Ahead::new(0, first).wanted(), None, "a pool of none never grows");
    }
}
