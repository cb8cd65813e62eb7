//! What may stop a call from outside while it runs: its deadline, a cancel, the loss of its container.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use teemate_control::function::{Failure, FailureKind};

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
    deadline: Option<(Instant, u64)>,
}

impl Control {
    /// Starts the call's time.
    pub fn start(&self, timeout_ms: u64) {
        lock(&self.state).deadline = Some((Instant::now() + Duration::from_millis(timeout_ms), timeout_ms));
    }

    /// Stops the call with this failure. The first one counts.
    pub fn stop(&self, failure: Failure) {
        lock(&self.state).stop.get_or_insert(failure);
        self.changed.notify_all();
    }

    /// Why the call must end now, if it must.
    pub fn check(&self) -> Result<(), Failure> {
        lock(&self.state).check()
    }

    /// Time that is left.
    pub fn left(&self) -> Duration {
        let deadline = lock(&self.state).deadline;
        deadline.map_or(Duration::MAX, |(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// Sleeps, but no longer than the call may last.
    ///
    /// # Errors
    /// The reason for which the call must end.
    pub fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        let until = Instant::now().checked_add(duration);
        let mut state = lock(&self.state);
        loop {
            state.check()?;
            let now = Instant::now();
            let ends = [until, state.deadline.map(|(at, _)| at)];
            let Some(end) = ends.into_iter().flatten().min() else {
                state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            };
            if until.is_some_and(|until| now >= until) {
                return Ok(());
            }
            let wait = end.saturating_duration_since(now);
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
            Some((at, limit)) if Instant::now() >= at => Err(Failure::new(
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
        control.start(30);
        let began = Instant::now();
        let failure = control.sleep(Duration::from_secs(60)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Limit);
        assert!(failure.message.contains("30 ms"), "{failure}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_sleep_ends_when_stopped() {
        let control = std::sync::Arc::new(Control::default());
        control.start(60_000);
        let sleeper = std::thread::spawn({ let c = control.clone(); move || c.sleep(Duration::MAX) });
        std::thread::sleep(Duration::from_millis(20));
        control.stop(Failure::new(FailureKind::ContainerLost, "killed"));
        assert_eq!(sleeper.join().unwrap().unwrap_err().kind, FailureKind::ContainerLost);
    }
}
