//! How much an owner may call: so many a minute, so many at one time.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use http::StatusCode;

use super::lock;
use super::rejection::Rejection;

/// What is counted by the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Invocations of actions.
    Actions,
    /// Fires of triggers.
    Triggers,
}

/// Counters of one owner.
#[derive(Default)]
pub struct Throttle {
    minute: Mutex<Minute>,
    running: Arc<AtomicU32>,
}

#[derive(Default)]
struct Minute {
    number: u64,
    actions: u32,
    triggers: u32,
}

/// One of several that may run at one time. Dropping it makes room.
pub struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn too_many(message: String) -> Rejection {
    Rejection::new(StatusCode::TOO_MANY_REQUESTS, message)
}

/// Takes one of `allowed`; how many there are when there is none.
fn take(running: &Arc<AtomicU32>, allowed: u32) -> Result<Permit, u32> {
    let more = |count: u32| (count < allowed).then(|| count + 1);
    running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(|_| Permit(running.clone()))
}

impl Throttle {
    /// Counts one in the minute in which `now_ms` is.
    ///
    /// # Errors
    /// 429 when there were as many as may be.
    pub fn count(&self, rate: Rate, now_ms: u64, allowed: u32) -> Result<(), Rejection> {
        let mut minute = lock(&self.minute);
        let number = now_ms / 60_000;
        if minute.number != number {
            *minute = Minute { number, ..Minute::default() };
        }
        let count = match rate {
            Rate::Actions => &mut minute.actions,
            Rate::Triggers => &mut minute.triggers,
        };
        *count = count.saturating_add(1);
        if *count > allowed {
            return Err(too_many(format!("Too many requests in the last minute (count: {count}, allowed: {allowed}).")));
        }
        Ok(())
    }

    /// Takes one of those that may run at one time.
    ///
    /// # Errors
    /// 429 when there are as many as may be.
    pub fn enter(&self, allowed: u32) -> Result<Permit, Rejection> {
        take(&self.running, allowed)
            .map_err(|count| too_many(format!("Too many concurrent requests in flight (count: {count}, allowed: {allowed}).")))
    }
}

/// How much all owners together may have under way.
#[derive(Default)]
pub struct Overall(Arc<AtomicU32>);

impl Overall {
    /// How many there are.
    pub fn running(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes one of those that may run at one time.
    ///
    /// # Errors
    /// 429 when there are as many as may be.
    pub fn enter(&self, allowed: u32) -> Result<Permit, Rejection> {
        take(&self.0, allowed).map_err(|_| too_many("System is overloaded, try again later.".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_counts_anew() {
        let throttle = Throttle::default();
        throttle.count(Rate::Actions, 0, 2).unwrap();
        throttle.count(Rate::Actions, 59_999, 2).unwrap();
        let rejection = throttle.count(Rate::Actions, 59_999, 2).unwrap_err();
        assert_eq!(rejection.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejection.message, "Too many requests in the last minute (count: 3, allowed: 2).");
        // Triggers have a count of their own.
        throttle.count(Rate::Triggers, 59_999, 1).unwrap();
        throttle.count(Rate::Actions, 60_000, 2).unwrap();
    }

    #[test]
    fn a_permit_makes_room_when_it_goes() {
        let throttle = Throttle::default();
        let first = throttle.enter(2).unwrap();
        let _second = throttle.enter(2).unwrap();
        let Err(rejection) = throttle.enter(2) else { panic!("a third one of two") };
        assert_eq!(rejection.message, "Too many concurrent requests in flight (count: 2, allowed: 2).");
        drop(first);
        throttle.enter(2).unwrap();
        let overall = Overall::default();
        let held = overall.enter(1).unwrap();
        assert_eq!(overall.enter(1).err().unwrap().message, "System is overloaded, try again later.");
        drop(held);
        overall.enter(1).unwrap();
    }
}
