//! What using a container again saves: one caller calls one function again and again, on one connection and without a pause, so that each
//! policy of reuse does all of its work between two calls. Ways take turns by streaks of calls.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use teemate_attestation::Session;
use teemate_client::{Connection, deployment::Deployment};
use teemate_control::function::Reuse;
use teemate_tests::running::{Node, invoke, result};

use crate::attested::Attested;
use crate::latency;
use crate::stats::{Spread, spread, times};
use crate::workload::Workload;

/// A rewound call may take so much of a fresh one's time.
const MARK: f64 = 0.2;
/// Calls of a streak.
const STREAK: usize = 25;
/// Before a streak: what is made ahead is made.
const PAUSE: Duration = Duration::from_millis(250);
/// The functions: those whose call is short.
pub const FUNCTIONS: [&str; 2] = [crate::workload::SMALL, "dynamic-html"];
/// The policies.
const POLICIES: [Reuse; 3] = [Reuse::Fresh, Reuse::Rewind, Reuse::Keep];

/// Where the caller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// At the node's socket, as the operator.
    Operator,
    /// An owner, with a TLS connection into the enclave that was verified before.
    Owner,
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Function.
    pub function: String,
    /// Who called.
    pub caller: Caller,
    /// With which policy.
    pub reuse: Reuse,
    /// Which of its streak, from 0. The first ones of a fresh streak find containers that were made ahead.
    pub number: usize,
    /// From request to result, seen by the caller.
    pub latency_us: f64,
    /// What went wrong, if anything. Such a sample counts in no median.
    pub error: Option<String>,
}

/// The function's name under this policy.
fn name(function: &str, reuse: Reuse) -> String {
    match reuse {
        Reuse::Fresh => format!("{function}-once"),
        Reuse::Rewind => format!("{function}-again"),
        Reuse::Keep => format!("{function}-kept"),
    }
}

/// A module with `_start` runs once.
fn can_be_kept(workload: &Workload) -> bool {
    workload.name != crate::workload::SMALL
}

/// Deploys the functions with each policy, and measures.
///
/// # Errors
/// When one can't be deployed, or nobody can connect.
pub fn measure(workloads: &[&Workload], samples: usize, node: &Node, attested: Option<&Attested>) -> anyhow::Result<Vec<Sample>> {
    let mut all = Vec::new();
    for workload in workloads {
        eprintln!("reuse: {}", workload.name);
        let possible = POLICIES.into_iter().filter(|reuse| *reuse != Reuse::Keep || can_be_kept(workload));
        let policies: Vec<Reuse> = possible.collect();
        for reuse in policies.iter().copied() {
            let deployment = Deployment { name: name(&workload.name, reuse), reuse, ..workload.deployment.clone() };
            node.deploy(&deployment).map_err(|error| anyhow::anyhow!("{}: {error}", deployment.name))?;
            attested.map(|attested| attested.deploy_as(workload, &deployment.name, reuse)).transpose()?;
        }
        let mut connection = latency::connect(node)?;
        let mut session = attested.map(Attested::session).transpose()?;
        // The first streak of each way warms it up.
        for streak in 0..=samples.div_ceil(STREAK) {
            for reuse in policies.iter().copied() {
                let taken = operators(&mut connection, workload, reuse);
                let taken = taken.into_iter().chain(match (attested, &mut session) {
                    (Some(attested), Some(session)) => owners(attested, session, workload, reuse),
                    _ => Vec::new(),
                });
                if streak > 0 {
                    all.extend(taken);
                }
            }
        }
    }
    Ok(all)
}

fn operators(connection: &mut Connection, workload: &Workload, reuse: Reuse) -> Vec<Sample> {
    let name = name(&workload.name, reuse);
    streak(workload, Caller::Operator, reuse, || {
        let outcome = invoke(connection, &name, workload.params.clone(), None).map_err(|error| error.to_string())?;
        Ok(move || result(&outcome))
    })
}

fn owners(attested: &Attested, session: &mut Session, workload: &Workload, reuse: Reuse) -> Vec<Sample> {
    let name = name(&workload.name, reuse);
    streak(workload, Caller::Owner, reuse, || {
        let value = attested.call_on(session, &name, &workload.params).map_err(|error| format!("{error:#}"))?;
        Ok(move || Ok(value))
    })
}

/// A streak of calls. `call` gives what is looked at when the clock has stopped.
fn streak<R>(workload: &Workload, caller: Caller, reuse: Reuse, mut call: impl FnMut() -> Result<R, String>) -> Vec<Sample>
where
    R: FnOnce() -> Result<serde_json::Value, String>,
{
    thread::sleep(PAUSE);
    (0..STREAK)
        .map(|number| {
            let begin = Instant::now();
            let called = call();
            let latency_us = begin.elapsed().as_secs_f64() * 1e6;
            let error = called.and_then(|result| result()).and_then(|value| workload.check(&value)).err();
            Sample { function: workload.name.clone(), caller, reuse, number, latency_us, error }
        })
        .collect()
}

fn of(samples: &[Sample], function: &str, caller: Caller, reuse: Reuse) -> Option<Spread> {
    let ours = |sample: &&Sample| sample.function == function && sample.caller == caller && sample.reuse == reuse && sample.error.is_none();
    spread(samples.iter().filter(ours).map(|sample| sample.latency_us))
}

/// The table.
pub fn text(samples: &[Sample]) -> String {
    let mut text = format!(
        "## Containers used again\n\nOne caller, one connection, {STREAK} calls without a pause, then a pause; median (p10 to p90). The first calls of a\n\
         fresh streak find containers that were made ahead, the others wait for theirs. A rewound call of the small function\n\
         shall take at most {MARK} of a fresh one.\n\n\
         | function | caller | fresh | rewound | kept | rewound / fresh | |\n|---|---|---|---|---|---|---|\n"
    );
    let mut functions: Vec<&str> = samples.iter().map(|sample| sample.function.as_str()).collect();
    functions.dedup();
    for function in functions {
        for (caller, title) in [(Caller::Operator, "operator, node's socket"), (Caller::Owner, "owner, TLS into the enclave")] {
            let [fresh, rewound, kept] = POLICIES.map(|reuse| of(samples, function, caller, reuse));
            let (Some(fresh), Some(rewound)) = (fresh, rewound) else { continue };
            let ratio = rewound.median / fresh.median;
            // Of any other function most of a call is the function itself.
            let verdict = match function {
                crate::workload::SMALL if ratio <= MARK => "met",
                crate::workload::SMALL => "**missed**",
                _ => "",
            };
            let _ = writeln!(
                text,
                "| {function} | {title} | {} | {} | {} | {ratio:.3} | {verdict} |",
                times(Some(fresh)),
                times(Some(rewound)),
                times(kept)
            );
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_judged() {
        let sample = |reuse, latency_us| Sample {
            function: crate::workload::SMALL.into(),
            caller: Caller::Owner,
            reuse,
            number: 0,
            latency_us,
            error: None,
        };
        let table = |rewound| text(&[sample(Reuse::Fresh, 1000.0), sample(Reuse::Rewind, rewound), sample(Reuse::Keep, 10.0)]);
        assert!(table(199.0).contains("| 0.199 | met |"), "{}", table(199.0));
        assert!(table(300.0).contains("| 0.300 | **missed** |"));
        assert!(!table(199.0).contains("operator, "), "what was not measured has no row");
    }
}
