//! Containers that serve more than one call: what happens between two calls of the same function.
//!
//! A worker whose function is rewound or kept does not give its container back after a call. It waits, as an entry in
//! [`Jobs`](crate::jobs::Jobs), until a call of the same deployment of the same function is given to it, until it has waited as long as
//! its owner allows, or until it is told to go: because the function was replaced, because the node is short of containers, or because
//! its container was killed. A call that was given to a container which is found dead before it began gets another container.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use teemate_control::function::{FailureKind, Outcome, Phase, Reuse};
use teemate_control::service::FromService;

use crate::call::{self, Finished, Warm};
use crate::clock::{mark, monotonic_ns};
use crate::function::Function;
use crate::jobs::{Job, Next};
use crate::lock;
use crate::service::Service;

/// By how much more than it needs a container's life is prolonged, so that it need not be at each call.
const SLACK_MS: u64 = 60_000;

/// What a waiting container is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet.
    #[default]
    Nothing,
    /// A call waits under its id.
    Work,
    /// It shall go; it is counted among the workers that wait for a container already.
    Leave,
    /// Its container is gone.
    Lost,
}

/// What wakes a waiting container.
#[derive(Default)]
pub struct Bell {
    told: Mutex<Told>,
    rung: Condvar,
}

impl Bell {
    /// Tells it. The loss of the container overrides what it was told before.
    pub fn ring(&self, told: Told) {
        *lock(&self.told) = told;
        self.rung.notify_one();
    }

    /// Waits; `Nothing` when the time is over.
    fn wait(&self, limit: Duration) -> Told {
        let end = Instant::now().checked_add(limit);
        let mut told = lock(&self.told);
        loop {
            let left = end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
            if *told != Told::Nothing || left.is_zero() {
                return *told;
            }
            told = self.rung.wait_timeout(told, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

/// The life of a container, as the node was told.
struct Life {
    container: u64,
    until_ns: u64,
}

impl Life {
    /// The node lets it live for the time limit of the call that it was made for.
    fn new(job: &Job) -> Life {
        let timeout_ns = job.function.spec.limits.timeout_ms.saturating_mul(1_000_000);
        Life { container: job.container, until_ns: monotonic_ns().saturating_add(timeout_ns) }
    }

    /// It will wait, and then perhaps serve another call. Gives what the node must be told, if anything.
    fn prolong(&mut self, function: &Function) -> Option<FromService> {
        let limits = &function.spec.limits;
        let needed_ms = limits.idle_ms.saturating_add(limits.timeout_ms);
        let until = |ms: u64| monotonic_ns().saturating_add(ms.saturating_mul(1_000_000));
        if until(needed_ms) <= self.until_ns {
            return None;
        }
        let for_ms = needed_ms.saturating_add(SLACK_MS);
        self.until_ns = until(for_ms);
        Some(FromService::KeepContainer { container: self.container, for_ms })
    }
}

impl Service {
    /// Serves calls in the container of this one, until it is given back: the worker then counts as one that waits for a container.
    pub(crate) fn serve_in_container(self: &Arc<Self>, job: Job) {
        let (function, container) = (job.function.clone(), job.container);
        let mut life = Life::new(&job);
        let mut job = Box::new(job);
        let mut warm = None;
        loop {
            let caller = job.caller;
            let Finished { outcome, rest, warm: kept } = self.execute(*job, warm.take());
            // Before the answer, so that the call that follows on it finds this container, or a worker that waits for one.
            let next = if stays(&outcome, kept.as_ref(), function.spec.reuse) { self.next(container, &function) } else { self.leave() };
            if let Next::Wait(_) = next
                && let Some(message) = life.prolong(&function)
            {
                self.outbox.post(message);
            }
            self.answer(caller, outcome);
            // The instance is taken down, and the next one made, when the answer is on its way.
            drop(rest);
            self.cleaner.wake();
            warm = match (kept, &next, function.spec.reuse) {
                (Some(kept), ..) => Some(kept),
                (None, Next::Wait(_) | Next::Call(..), Reuse::Rewind) => call::prepare(&function, &Arc::default()),
                (None, ..) => None,
            };
            job = match self.follow(next, container, &function) {
                Some(job) => job,
                None => return,
            };
            job.marks.push(mark(Phase::Entered));
        }
    }

    /// Waits for the next call. `None` when the container is to be given back.
    fn follow(&self, mut next: Next, container: u64, function: &Arc<Function>) -> Option<Box<Job>> {
        let idle = Duration::from_millis(function.spec.limits.idle_ms);
        loop {
            match next {
                Next::Leave => return None,
                Next::Call(job, unneeded) => {
                    self.outbox.post(FromService::Unneeded { container: unneeded });
                    return Some(job);
                }
                Next::Wait(bell) => match bell.wait(idle) {
                    Told::Work => {
                        let job = lock(&self.jobs).enter(container);
                        if let Some(job) = job {
                            return Some(Box::new(job));
                        }
                        // It was given up before it began; or lost with the container, as the bell says by now, and the adopter is here.
                        next = if bell.wait(Duration::ZERO) == Told::Lost { self.leave() } else { self.next(container, function) };
                    }
                    Told::Leave => return None,
                    Told::Lost => {
                        self.leave();
                        return None;
                    }
                    Told::Nothing => {
                        let mut jobs = lock(&self.jobs);
                        if jobs.withdraw(container) {
                            self.idle.fetch_add(1, SeqCst);
                            return None;
                        }
                        next = Next::Wait(bell);
                    }
                },
            }
        }
    }

    fn next(&self, container: u64, function: &Arc<Function>) -> Next {
        let mut jobs = lock(&self.jobs);
        let next = jobs.next(container, function, monotonic_ns());
        if let Next::Leave = next {
            self.idle.fetch_add(1, SeqCst);
        }
        next
    }

    fn leave(&self) -> Next {
        self.idle.fetch_add(1, SeqCst);
        Next::Leave
    }

    /// Tells containers of a function that is no more to go.
    pub(crate) fn retire(&self, function: &Arc<Function>) {
        function.retired.store(true, SeqCst);
        self.forget_elsewhere(function);
        let mut jobs = lock(&self.jobs);
        let gone = jobs.dismiss(usize::MAX, Some(function));
        self.idle.fetch_add(gone, SeqCst);
    }

    /// The node is short of containers.
    pub(crate) fn reclaim(&self, wanted: u32) {
        let mut jobs = lock(&self.jobs);
        let gone = jobs.want(wanted as usize, monotonic_ns());
        self.idle.fetch_add(gone, SeqCst);
    }
}

/// Whether a container may serve another call. A limit that was passed may be the container's, and whatever failed for another reason
/// than the function's own is better not met again.
fn stays(outcome: &Outcome, kept: Option<&Warm>, reuse: Reuse) -> bool {
    match reuse {
        Reuse::Fresh => false,
        Reuse::Rewind => match &outcome.result {
            Ok(_) => true,
            Err(failure) => matches!(failure.kind, FailureKind::Application | FailureKind::Denied),
        },
        Reuse::Keep => kept.is_some(),
    }
}
