//! What may stop a call from outside while it runs: its deadline, a cancel, the loss of its container.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use teemate_control::function::{Failure, FailureKind};

use crate::clock::monotonic_ns;
use crate::lock;

/// The stop switch of one call, shared by the thread that runs it and those that may stop it.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: Option<Failure>,
    /// Nanoseconds of the monotonic clock, and the limit that led to it.
    deadline: Option<(u64, u64)>,
}

impl Control {
    /// Starts the call's time, which began at `now_ns` of the monotonic clock.
    pub fn start(&self, now_ns: u64, timeout_ms: u64) {
        lock(&self.state).deadline = Some((now_ns.saturating_add(timeout_ms.saturating_mul(1_000_000)), timeout_ms));
    }

    /// Stops the call with this failure. The first one counts.
    pub fn stop(&self, failure: Failure) {
        lock(&self.state).stop.get_or_insert(failure);
        self.changed.notify_all();
    }

    /// Why somebody has stopped it, if somebody has; does not look at the clock.
    pub fn stopped(&self) -> Option<Failure> {
        lock(&self.state).stop.clone()
    }

    /// Why the call must end now, if it must.
    pub fn check(&self) -> Result<(), Failure> {
        lock(&self.state).check()
    }

    /// Time that is left.
    pub fn left(&self) -> Duration {
        let deadline = lock(&self.state).deadline;
        deadline.map_or(Duration::MAX, |(at, _)| Duration::from_nanos(at.saturating_sub(monotonic_ns())))
    }

    /// Sleeps, but no longer than the call may last.
    ///
    /// # Errors
    /// The reason for which the call must end.
    pub fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        let until = monotonic_ns().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        let mut state = lock(&self.state);
        loop {
            state.check()?;
            let now = monotonic_ns();
            if now >= until {
                return Ok(());
            }
            let end = state.deadline.map_or(until, |(at, _)| at.min(until));
            let wait = Duration::from_nanos(end.saturating_sub(now));
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn check(&self) -> Result<(), Failure> {
        if let Some(failure) = &self.stop {
            return Err(failure.clone());
        }
        match self.deadline {
            Some((at, limit)) if monotonic_ns() >= at => Err(Failure::new(
                FailureKind::Limit,
                format!("time: the call ran longer than its limit of {limit} ms; raise limits.timeout_ms if it needs more"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_at_the_deadline() {
        let control = Control::default();
        control.start(monotonic_ns(), 30);
        let began = std::time::Instant::now();
        let failure = control.sleep(Duration::from_secs(60)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Limit);
        assert!(failure.message.contains("30 ms"), "{failure}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_sleep_ends_when_stopped() {
        let control = std::sync::Arc::new(Control::default());
        control.start(monotonic_ns(), 60_000);
        let sleeper = std::thread::spawn({
            let c = control.clone();
            move || c.sleep(Duration::MAX)
        });
        std::thread::sleep(Duration::from_millis(20));
        control.stop(Failure::new(FailureKind::ContainerLost, "killed"));
        assert_eq!(sleeper.join().unwrap().unwrap_err().kind, FailureKind::ContainerLost);
    }
}
