//! What one connection is doing: how many requests are under way, since when there was none, how long its answers may take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::Limits;
use crate::lock;
use crate::metrics::Metrics;

/// Shared between a connection, its requests and the server.
#[derive(Debug)]
pub struct Activity {
    state: Mutex<State>,
    changed: Notify,
    channel: OnceLock<[u8; 32]>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    /// When the connection began or the last request ended.
    quiet_since: Instant,
    answered: u32,
    abandoned: u32,
    /// Answers on their way, and when each has to be out.
    answers: BTreeMap<u64, Instant>,
    next: u64,
    told_to_close: bool,
    cut: bool,
    /// When it began to close with nothing under way.
    leaving_since: Option<Instant>,
}

/// What the server has to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look again then, or when something changes.
    Wait(Instant),
    /// Finish what runs and close.
    Finish,
    /// End it now: its place is needed, or time is up.
    Cut,
    /// Cut it now: it resets too much.
    Resets,
    /// Cut it now: it does not take its answers.
    Slow,
}

impl Activity {
    /// Of a connection that begins now.
    pub fn new() -> Arc<Self> {
        let state = State {
            under_way: 0,
            quiet_since: Instant::now(),
            answered: 0,
            abandoned: 0,
            answers: BTreeMap::new(),
            next: 0,
            told_to_close: false,
            cut: false,
            leaving_since: None,
        };
        Arc::new(Activity { state: Mutex::new(state), changed: Notify::new(), channel: OnceLock::new() })
    }

    /// Notes keying material that only the two ends of this connection have.
    pub fn bind(&self, channel: [u8; 32]) {
        let _ = self.channel.set(channel);
    }

    /// That material.
    pub fn channel(&self) -> Option<[u8; 32]> {
        self.channel.get().copied()
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>, metrics: &Arc<Metrics>) -> UnderWay {
        metrics.requests.add();
        {
            let mut state = lock(&self.state);
            state.under_way += 1;
            state.leaving_since = None;
        }
        UnderWay { activity: self.clone(), metrics: metrics.clone(), answer: None }
    }

    /// Since when there has been no request; `None` while there is one, or when it is to close anyway.
    pub fn quiet_since(&self) -> Option<Instant> {
        let state = lock(&self.state);
        (state.under_way == 0 && !state.told_to_close).then_some(state.quiet_since)
    }

    /// Tells the connection to finish and close.
    pub fn close(&self) {
        lock(&self.state).told_to_close = true;
        self.changed.notify_one();
    }

    /// Ends the connection without more ado.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        (state.told_to_close, state.cut) = (true, true);
        drop(state);
        self.changed.notify_one();
    }

    /// Of a connection that finishes: when it has had time enough to go. `None` while a request is under way.
    pub fn farewell(&self, limits: &Limits) -> Option<Instant> {
        let mut state = lock(&self.state);
        if state.under_way > 0 {
            return None;
        }
        let since = *state.leaving_since.get_or_insert_with(Instant::now);
        Some(since + limits.farewell)
    }

    /// Waits for [`Activity::close`], [`Activity::cut`] or a request that was taken back.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How things stand.
    pub fn verdict(&self, now: Instant, limits: &Limits) -> Verdict {
        let mut state = lock(&self.state);
        if state.cut {
            return Verdict::Cut;
        }
        if state.abandoned > state.answered.saturating_add(limits.resets) {
            return Verdict::Resets;
        }
        let late = state.answers.values().min().copied();
        if late.is_some_and(|late| late <= now) {
            return Verdict::Slow;
        }
        let quiet = state.quiet_since + limits.idle;
        // Once decided it stays so, also when a request comes that the peer sent before it knew.
        state.told_to_close |= state.under_way == 0 && quiet <= now;
        if state.told_to_close {
            return Verdict::Finish;
        }
        let next = if state.under_way == 0 { quiet } else { now + limits.idle };
        Verdict::Wait(late.map_or(next, |late| late.min(next)))
    }
}

/// A request, from its head to the last byte of its answer.
#[derive(Debug)]
pub struct UnderWay {
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
    answer: Option<u64>,
}

impl UnderWay {
    /// The answer begins, and has to be taken until `deadline`. When it is `long`, the connection is told at once; else it finds out when it
    /// looks the next time.
    pub fn answer(&mut self, deadline: Instant, long: bool) {
        let mut state = lock(&self.activity.state);
        let id = state.next;
        state.next += 1;
        state.answered = state.answered.saturating_add(1);
        state.answers.insert(id, deadline);
        self.answer = Some(id);
        if long {
            drop(state);
            self.activity.changed.notify_one();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.activity.state);
        state.under_way -= 1;
        state.quiet_since = Instant::now();
        match self.answer {
            Some(id) => {
                state.answers.remove(&id);
            }
            None => {
                state.abandoned = state.abandoned.saturating_add(1);
                self.metrics.abandoned.add();
                drop(state);
                self.activity.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> Limits {
        Limits { idle: Duration::from_secs(60), resets: 2, ..Limits::default() }
    }

    #[test]
    fn a_connection_without_requests_is_closed_and_one_with_requests_is_not() {
        let (activity, limits, metrics) = (Activity::new(), limits(), Arc::default());
        let start = activity.quiet_since().unwrap();
        assert_eq!(activity.verdict(start, &limits), Verdict::Wait(start + limits.idle));
        let request = activity.begin(&metrics);
        assert_eq!(activity.quiet_since(), None);
        assert!(matches!(activity.verdict(start + limits.idle * 10, &limits), Verdict::Wait(_)));
        drop(request);
        assert!(matches!(activity.verdict(Instant::now(), &limits), Verdict::Wait(_)));
        let quiet = activity.quiet_since().unwrap();
        assert_eq!(activity.verdict(quiet + limits.idle, &limits), Verdict::Finish);
        // No way back.
        assert_eq!(activity.verdict(quiet, &limits), Verdict::Finish);
        assert_eq!(activity.quiet_since(), None);
    }

    #[test]
    fn who_is_told_to_close_finishes_first_and_then_has_time_to_go() {
        let (activity, limits, metrics) = (Activity::new(), limits(), Arc::default());
        let request = activity.begin(&metrics);
        activity.close();
        assert_eq!(activity.verdict(Instant::now(), &limits), Verdict::Finish);
        assert_eq!(activity.farewell(&limits), None);
        drop(request);
        let end = activity.farewell(&limits).unwrap();
        assert!(end > Instant::now());
        assert_eq!(activity.farewell(&limits), Some(end));
        let late = activity.begin(&metrics);
        assert_eq!(activity.farewell(&limits), None);
        drop(late);
        assert!(activity.farewell(&limits).unwrap() >= end);
        activity.cut();
        assert_eq!(activity.verdict(Instant::now(), &limits), Verdict::Cut);
    }

    #[test]
    fn resets_beyond_what_was_finished_are_too_many() {
        let (activity, limits, metrics) = (Activity::new(), limits(), Arc::<Metrics>::default());
        let now = Instant::now();
        for _ in 0..2 {
            drop(activity.begin(&metrics));
        }
        assert!(matches!(activity.verdict(now, &limits), Verdict::Wait(_)));
        let mut request = activity.begin(&metrics);
        request.answer(now + limits.idle, false);
        drop(request);
        drop(activity.begin(&metrics));
        assert!(matches!(activity.verdict(now, &limits), Verdict::Wait(_)));
        drop(activity.begin(&metrics));
        assert_eq!(activity.verdict(now, &limits), Verdict::Resets);
        assert_eq!(metrics.abandoned.get(), 4);
    }

    #[test]
    fn an_answer_that_is_not_taken_is_noticed() {
        let (activity, limits, metrics) = (Activity::new(), limits(), Arc::default());
        let now = Instant::now();
        let mut request = activity.begin(&metrics);
        request.answer(now + Duration::from_secs(5), true);
        assert_eq!(activity.verdict(now, &limits), Verdict::Wait(now + Duration::from_secs(5)));
        assert_eq!(activity.verdict(now + Duration::from_secs(5), &limits), Verdict::Slow);
        drop(request);
        assert!(matches!(activity.verdict(now + Duration::from_secs(5), &limits), Verdict::Wait(_)));
    }
}
