//! Figure 7: the latency of a cold call, and its parts. Modes take turns (A B A B), so that a slow minute of the machine hits all.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use teemate_client::{Connection, Error, breakdown};
use teemate_tests::running::{Node, invoke, result};

use crate::attested::Attested;
use crate::mode::Mode;
use crate::nodejs::{Action, Nodejs};
use crate::workload::{self, Workload};

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

/// Between two samples: what the last one left is taken down, and what is made ahead is made.
const PAUSE: Duration = Duration::from_millis(50);

/// Those that do not answer on a node's own socket.
#[derive(Clone, Copy, Default)]
pub struct Others<'a> {
    /// Node containers.
    pub nodejs: Option<&'a Nodejs>,
    /// An owner at the enclave.
    pub attested: Option<&'a Attested>,
}

/// Nodes by the way that they serve.
pub struct Nodes {
    /// With containers that are made ahead.
    pub pooled: Node,
    /// Without, if that way is wanted.
    pub unpooled: Option<Node>,
}

impl Nodes {
    /// The one for a mode.
    pub fn of(&self, mode: Mode) -> Option<&Node> {
        if mode == Mode::Unpooled { self.unpooled.as_ref() } else { Some(&self.pooled) }
    }
}

/// Samples a mode shall give.
pub fn wanted(mode: Mode, samples: usize, slow: usize) -> usize {
    match mode {
        Mode::Exclusive | Mode::Node => slow.min(samples),
        Mode::Native | Mode::Unpooled | Mode::Shared | Mode::Rewound | Mode::Attested => samples,
    }
}

/// Measures one function in all modes.
pub fn measure(workload: &Workload, modes: &[Mode], samples: usize, slow: usize, nodes: &Nodes, others: Others<'_>) -> Vec<Sample> {
    let mut all = Vec::new();
    // The first call of each mode fills caches and pools; the paper's subject is a fresh container, not a fresh node.
    for round in 0..=samples {
        for mode in modes {
            if round > wanted(*mode, samples, slow) {
                continue;
            }
            let Some(node) = nodes.of(*mode) else { continue };
            let sample = once(workload, *mode, node, others);
            thread::sleep(PAUSE);
            if let Some(mut sample) = sample
                && round > 0
            {
                sample.round = round;
                all.push(sample);
            }
        }
    }
    all
}

/// Whether this function can run this way at all.
pub fn can(workload: &Workload, mode: Mode, others: Others<'_>) -> Option<()> {
    match mode {
        Mode::Node => others.nodejs?.fits(&action(workload)?).ok(),
        Mode::Attested => others.attested.map(drop),
        Mode::Native | Mode::Exclusive | Mode::Unpooled | Mode::Shared | Mode::Rewound => Some(()),
    }
}

/// One call. `None`: this function can't run this way. Returns when what it left at the node is taken down.
pub fn once(workload: &Workload, mode: Mode, node: &Node, others: Others<'_>) -> Option<Sample> {
    can(workload, mode, others)?;
    if mode == Mode::Node {
        let (nodejs, action) = (others.nodejs?, action(workload)?);
        return Some(match nodejs.call(&action, &workload.params) {
            Ok(call) => {
                let parts =
                    vec![("container creation", call.container_us), ("initialisation", call.init_us), ("function execution", call.run_us)];
                sample(workload, mode, call.total_us, parts, workload.check(&call.result).err())
            }
            Err(error) => sample(workload, mode, 0.0, Vec::new(), Some(format!("{error:#}"))),
        });
    }
    if mode == Mode::Attested {
        return Some(match others.attested?.call(workload) {
            Ok((latency_us, result)) => sample(workload, mode, latency_us, Vec::new(), workload.check(&result).err()),
            Err(error) => sample(workload, mode, 0.0, Vec::new(), Some(format!("{error:#}"))),
        });
    }
    let mut connection = match connect(node) {
        Ok(connection) => connection,
        Err(error) => return Some(sample(workload, mode, 0.0, Vec::new(), Some(error.to_string()))),
    };
    let sample = call(&mut connection, workload, mode);
    // The node answers the next request of a connection when it is done with the one before.
    let _ = connection.status();
    Some(sample)
}

/// A connection that has been answered: the node's thread for it runs. A caller's connection is no part of a call.
pub fn connect(node: &Node) -> Result<Connection, Error> {
    let mut connection = node.connect()?;
    connection.status()?;
    Ok(connection)
}

/// One call on an open connection.
pub fn call(connection: &mut Connection, workload: &Workload, mode: Mode) -> Sample {
    let begin = Instant::now();
    let rewound;
    let name = if mode == Mode::Rewound {
        rewound = workload::rewound(&workload.name);
        &rewound
    } else {
        &workload.name
    };
    let outcome = invoke(connection, name, workload.params.clone(), mode.sharing());
    let latency_us = begin.elapsed().as_secs_f64() * 1e6;
    match outcome {
        Ok(outcome) => {
            let parts = breakdown::parts(&outcome.marks).into_iter().map(|(part, us)| (part.title(), us)).collect();
            let error = result(&outcome).and_then(|value| workload.check(&value)).err();
            sample(workload, mode, latency_us, parts, error)
        }
        Err(error) => sample(workload, mode, latency_us, Vec::new(), Some(error.to_string())),
    }
}

fn sample(workload: &Workload, mode: Mode, latency_us: f64, parts: Vec<(&'static str, f64)>, error: Option<String>) -> Sample {
    Sample { function: workload.name.clone(), mode, round: 0, latency_us, parts, error }
}

/// The function for a Node container, if it has a script.
pub fn action(workload: &Workload) -> Option<Action<'_>> {
    let network = !workload.deployment.egress.is_empty();
    Some(Action { code: workload.script.as_deref()?, files: &workload.deployment.files, network })
}
