//! Figure 7: the latency of a cold call, and its parts. Modes take turns (A B A B), so that a slow minute of the machine hits all.

use std::time::Instant;

use serde::Serialize;
use teemate_client::breakdown;
use teemate_tests::running::{Node, invoke, result};

use crate::mode::Mode;
use crate::nodejs::{Action, Nodejs};
use crate::workload::Workload;

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Function.
    pub function: String,
    /// Way.
    pub mode: Mode,
    /// Which turn.
    pub round: usize,
    /// From request to result, seen by the caller.
    pub latency_us: f64,
    /// Its parts.
    pub parts: Vec<(&'static str, f64)>,
    /// What went wrong, if anything. Such a sample counts in no median.
    pub error: Option<String>,
}

/// Samples a mode shall give.
pub fn wanted(mode: Mode, samples: usize, slow: usize) -> usize {
    match mode {
        Mode::Exclusive | Mode::Node => slow.min(samples),
        Mode::Native | Mode::Shared => samples,
    }
}

/// Measures one function in all modes.
pub fn measure(workload: &Workload, modes: &[Mode], samples: usize, slow: usize, node: &Node, nodejs: Option<&Nodejs>) -> Vec<Sample> {
    let mut all = Vec::new();
    // The first call of each mode fills caches and pools; the paper's subject is a fresh container, not a fresh node.
    for round in 0..=samples {
        for mode in modes {
            if round > wanted(*mode, samples, slow) {
                continue;
            }
            if let Some(mut sample) = once(workload, *mode, node, nodejs)
                && round > 0
            {
                sample.round = round;
                all.push(sample);
            }
        }
    }
    all
}

/// One call. `None`: this function can't run this way.
pub fn once(workload: &Workload, mode: Mode, node: &Node, nodejs: Option<&Nodejs>) -> Option<Sample> {
    let sample = |latency_us: f64, parts, error| Sample { function: workload.name.clone(), mode, round: 0, latency_us, parts, error };
    if mode == Mode::Node {
        let (nodejs, action) = (nodejs?, action(workload)?);
        nodejs.fits(&action).ok()?;
        return Some(match nodejs.call(&action, &workload.params) {
            Ok(call) => {
                let parts =
                    vec![("container creation", call.container_us), ("initialisation", call.init_us), ("function execution", call.run_us)];
                sample(call.total_us, parts, workload.check(&call.result).err())
            }
            Err(error) => sample(0.0, Vec::new(), Some(format!("{error:#}"))),
        });
    }
    let mut connection = match node.connect() {
        Ok(connection) => connection,
        Err(error) => return Some(sample(0.0, Vec::new(), Some(error.to_string()))),
    };
    let begin = Instant::now();
    let outcome = invoke(&mut connection, &workload.name, workload.params.clone(), mode.sharing());
    let latency_us = begin.elapsed().as_secs_f64() * 1e6;
    Some(match outcome {
        Ok(outcome) => {
            let parts = breakdown::parts(&outcome.marks).into_iter().map(|(part, us)| (part.title(), us)).collect();
            let error = result(&outcome).and_then(|value| workload.check(&value)).err();
            sample(latency_us, parts, error)
        }
        Err(error) => sample(latency_us, Vec::new(), Some(error.to_string())),
    })
}

/// The function for a Node container, if it has a script.
pub fn action(workload: &Workload) -> Option<Action<'_>> {
    let network = !workload.deployment.egress.is_empty();
    Some(Action { code: workload.script.as_deref()?, files: &workload.deployment.files, network })
}
