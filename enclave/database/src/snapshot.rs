//! What a snapshot is given, and by whom.
//!
//! A snapshot begins by a new epoch: constant time, whatever there is. From then on every entry that is older than the epoch is handed over
//! once: by the walker, which goes through the tables in small steps, or by whoever is about to change or drop the entry, just before. What
//! is handed over is a shared value, not a copy.
//!
//! The queue between the two is bounded in bytes. The walker waits when a part of it is full, so that there is room for writes: these can't
//! wait, so the server pauses when all of it is, and gives the snapshot up when writes have handed over more than it may hold.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::value::Value;

/// An entry as it was when the snapshot began.
#[derive(Clone, Debug)]
pub struct Item {
    /// Number of the database that it was in.
    pub database: usize,
    /// Key.
    pub key: Box<[u8]>,
    /// Value.
    pub value: Value,
    /// Milliseconds since 1970 at which it expires.
    pub expires: Option<i64>,
}

impl Item {
    fn weight(&self) -> usize {
        self.key.len() + self.value.weight() + 64
    }
}

/// Bytes that wait at which the walker pauses.
pub const AHEAD: usize = 2 << 20;
/// Bytes that wait at which writes make the server wait.
pub const FULL: usize = 8 << 20;
/// Bytes that wait at which the writer is woken: for each entry it would be a system call. The walker comes as far, or to its end.
const WAKE: usize = 128 << 10;

/// How a snapshot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was handed over.
    Complete,
    /// It was given up, and why.
    Aborted(String),
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    weight: usize,
    end: Option<End>,
    /// Nobody takes anything any more.
    deserted: bool,
    /// Whether the writer waits for entries, the server for room.
    waits: (bool, bool),
}

/// The queue between the server and a snapshot's writer.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<(Mutex<State>, Condvar)>);

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an entry over. Bytes that wait now.
    pub fn push(&self, item: Item) -> usize {
        let mut state = self.state();
        if state.deserted || state.end.is_some() {
            return 0;
        }
        state.weight += item.weight();
        state.items.push_back(item);
        if state.weight >= WAKE && state.waits.0 {
            state.waits.0 = false;
            self.0.1.notify_all();
        }
        state.weight
    }

    /// Bytes that wait.
    pub fn weight(&self) -> usize {
        self.state().weight
    }

    /// Says that nothing more comes.
    pub fn finish(&self, end: End) {
        let mut state = self.state();
        if matches!(end, End::Aborted(_)) {
            state.items.clear();
            state.weight = 0;
        }
        state.end.get_or_insert(end);
        self.0.1.notify_all();
    }

    /// The next entries, or how it ended. Waits for either.
    pub fn take(&self) -> Result<Vec<Item>, End> {
        let mut state = self.state();
        loop {
            if !state.items.is_empty() {
                state.weight = 0;
                let items = std::mem::take(&mut state.items).into();
                if state.waits.1 {
                    self.0.1.notify_all();
                }
                return Ok(items);
            }
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            state.waits.0 = true;
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until less than `weight` bytes wait, at most for `time`. Whether that came to be.
    pub fn wait_below(&self, weight: usize, time: Duration) -> bool {
        let mut state = self.state();
        state.waits.1 = true;
        let waited = self.0.1.wait_timeout_while(state, time, |state| state.weight >= weight && !state.deserted);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waits.1 = false;
        !result.timed_out()
    }

    /// The writer is gone: nothing needs to be handed over any more.
    pub fn desert(&self) {
        let mut state = self.state();
        *state = State { deserted: true, end: state.end.take(), ..State::default() };
        self.0.1.notify_all();
    }

    /// Whether the writer is gone.
    pub fn is_deserted(&self) -> bool {
        self.state().deserted
    }
}
