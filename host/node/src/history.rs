//! The last calls of each function: logs and phases.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use teemate_control::function::{Mark, Outcome};
use teemate_control::node::CallLog;

use crate::locks::Lock;
use crate::text::cut;

/// Calls kept of each function.
const CALLS_KEPT: usize = 64;
/// Bytes of log kept of each call.
const LOG_KEPT: usize = 64 << 10;
/// Functions with calls kept.
const FUNCTIONS_KEPT: usize = 1024;

/// Counts of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls.
    pub calls: u64,
    /// Of which failed.
    pub failed: u64,
}

#[derive(Default)]
struct Entry {
    tally: Tally,
    calls: VecDeque<CallLog>,
}

/// All of them.
#[derive(Default)]
pub struct History {
    functions: Mutex<HashMap<String, Entry>>,
}

impl History {
    /// Notes a call that ended. `None`: it had no outcome.
    pub fn note(&self, name: &str, outcome: Option<&Outcome>) {
        let mut functions = self.functions.locked();
        if !functions.contains_key(name) && functions.len() >= FUNCTIONS_KEPT {
            return;
        }
        let entry = functions.entry(name.to_owned()).or_default();
        entry.tally.calls += 1;
        let success = outcome.is_some_and(|outcome| outcome.result.is_ok());
        entry.tally.failed += u64::from(!success);
        let Some(outcome) = outcome else { return };
        let mut logs = outcome.logs.clone();
        cut(&mut logs, LOG_KEPT);
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if entry.calls.len() == CALLS_KEPT {
            entry.calls.pop_front();
        }
        entry.calls.push_back(CallLog { container: outcome.container, ended, success, logs, marks: outcome.marks.clone() });
    }

    /// Adds the last phase to the call that ran in this container, if it is still known.
    pub fn reaped(&self, name: Option<&str>, container: u64, mark: Mark) {
        let mut functions = self.functions.locked();
        let Some(entry) = name.and_then(|name| functions.get_mut(name)) else { return };
        let call = entry.calls.iter_mut().rev().find(|call| call.container == container);
        if let Some(call) = call
            && call.marks.iter().all(|known| known.phase != mark.phase)
        {
            call.marks.push(mark);
        }
    }

    /// Counts of a function.
    pub fn tally(&self, name: &str) -> Tally {
        self.functions.locked().get(name).map_or_else(Tally::default, |entry| entry.tally)
    }

    /// Its last calls, oldest first.
    pub fn last(&self, name: &str, count: usize) -> Vec<CallLog> {
        let functions = self.functions.locked();
        let Some(entry) = functions.get(name) else { return Vec::new() };
        entry.calls.iter().skip(entry.calls.len().saturating_sub(count)).cloned().collect()
    }

    /// Forgets a function.
    pub fn forget(&self, name: &str) {
        self.functions.locked().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use teemate_control::function::{Phase, Usage};

    #[test]
    fn it_is_bounded_and_counts_all() {
        let history = History::default();
        for container in 0..200 {
            let outcome = Outcome { result: Ok(vec![]), logs: "ä".repeat(60_000), usage: Usage::default(), container, marks: vec![] };
            history.note("f", Some(&outcome));
        }
        history.note("f", None);
        assert_eq!(history.tally("f"), Tally { calls: 201, failed: 1 });
        let last = history.last("f", usize::MAX);
        assert_eq!((last.len(), last[0].container, last[63].container), (CALLS_KEPT, 136, 199));
        assert!(last[0].logs.len() <= LOG_KEPT);
        assert_eq!(history.last("f", 1)[0].container, 199);
        history.reaped(Some("f"), 150, Mark { phase: Phase::Reaped, at_ns: 1 });
        history.reaped(Some("f"), 150, Mark { phase: Phase::Reaped, at_ns: 2 });
        history.reaped(Some("f"), 1, Mark { phase: Phase::Reaped, at_ns: 1 });
        assert_eq!(history.last("f", 64)[14].marks.len(), 1);
        history.forget("f");
        assert_eq!(history.tally("f"), Tally::default());
    }
}
