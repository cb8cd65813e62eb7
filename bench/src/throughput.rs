//! Figures 8 and 9: so many calls at once; throughput is their number by the time until the last is answered.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use serde::Serialize;
use teemate_tests::running::Node;

use crate::latency::{self, Others};
use crate::mode::Mode;
use crate::workload::Workload;

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Function.
    pub function: String,
    /// Way.
    pub mode: Mode,
    /// Calls at once.
    pub calls: usize,
    /// Which turn.
    pub round: usize,
    /// Until the last answer.
    pub seconds: f64,
    /// Calls by seconds.
    pub per_second: f64,
    /// Calls that failed; such a round counts in no median.
    pub failed: usize,
    /// The first failure.
    pub error: Option<String>,
}

/// One round. `None`: this function can't run this way.
pub fn once(workload: &Workload, mode: Mode, calls: usize, round: usize, node: &Node, others: Others<'_>) -> Option<Round> {
    latency::can(workload, mode, others)?;
    // All wait at the barrier, and so does the clock.
    let barrier = Barrier::new(calls + 1);
    let (seconds, errors) = thread::scope(|scope| {
        let threads: Vec<_> = (0..calls)
            .map(|_| {
                scope.spawn(|| {
                    let connection = (!matches!(mode, Mode::Node | Mode::Attested)).then(|| latency::connect(node));
                    barrier.wait();
                    match connection {
                        None => latency::once(workload, mode, node, others).and_then(|sample| sample.error),
                        Some(Ok(mut connection)) => latency::call(&mut connection, workload, mode).error,
                        Some(Err(error)) => Some(error.to_string()),
                    }
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        let errors: Vec<String> =
            threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|_| Some("its thread panicked".to_owned()))).collect();
        (begin.elapsed().as_secs_f64(), errors)
    });
    Some(Round {
        function: workload.name.clone(),
        mode,
        calls,
        round,
        seconds,
        per_second: calls as f64 / seconds,
        failed: errors.len(),
        error: errors.into_iter().next(),
    })
}
