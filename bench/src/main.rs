//! `teemate-bench`: the paper's figures 7 to 10, in one run on one machine; `teemate-bench database`: 11 and 12;
//! `teemate-bench containers`: functions by containerd, beside runc.
#![forbid(unsafe_code)]

mod attested;
mod containers;
mod database;
mod figures;
mod footprint;
mod latency;
mod machine;
mod mode;
mod modules;
mod nodejs;
mod report;
mod reuse;
mod stats;
mod throughput;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use teemate_client::deployment::Deployment;
use teemate_control::function::Reuse;
use teemate_control::node::Sharing;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::manifest::Manifest;
use teemate_tests::object_store::ObjectStore;
use teemate_tests::running::Node;

use crate::attested::Attested;
use crate::latency::{Nodes, Others};
use crate::mode::Mode;
use crate::nodejs::Nodejs;
use crate::report::Run;
use crate::workload::{SMALL, Workload};

/// Measures the paper's figures 7 to 10: a cold call and its parts, throughput at 8 and 64 calls, peak memory at 64 calls.
///
/// Starts nodes of its own. Modes take turns within each figure; only the ratios of one run mean something.
#[derive(Debug, Parser)]
#[command(name = "teemate-bench", version, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    /// Where tables, raw samples and figures go [default: artifacts/bench/TIME].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Figures to measure.
    #[arg(long, value_delimiter = ',', default_value = "7,8,9,10", value_parser = clap::value_parser!(u8).range(7..=10))]
    figures: Vec<u8>,
    /// Ways to compare.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "node,native,exclusive,unpooled,shared,rewound,attested")]
    modes: Vec<Mode>,
    /// Functions of the manifest [default: all]; the small one always belongs to it.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    functions: Vec<String>,
    /// Samples of native and of both shared ways for figure 7.
    #[arg(long, default_value_t = 30)]
    samples: usize,
    /// Samples of exclusive and of Node containers for figure 7: each takes long.
    #[arg(long, default_value_t = 10)]
    slow_samples: usize,
    /// Rounds for figures 8 and 9; exclusive gets one.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Functions for figure 10.
    #[arg(long, value_delimiter = ',', default_value = "sleep,dynamic-html,crypto-md5", value_name = "NAMES")]
    memory_functions: Vec<String>,
    /// The manifest.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// A short run that only shows that it works: 3 samples, 1 round, the small function and two others.
    #[arg(long)]
    quick: bool,
}

/// What else can be measured.
#[derive(Debug, Subcommand)]
enum Other {
    Database(database::Options),
    Containers(containers::Options),
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    let done = match options.other.take() {
        Some(Other::Database(options)) => artifacts().and_then(|artifacts| database::run(options, &artifacts)),
        Some(Other::Containers(options)) => artifacts().and_then(|artifacts| containers::run(&options, &artifacts)),
        None => run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<()> {
    if options.quick {
        (options.samples, options.slow_samples, options.rounds) = (3, 1, 1);
        options.functions = vec!["dynamic-html".to_owned(), "crypto-md5".to_owned()];
        options.memory_functions = vec!["sleep".to_owned()];
    }
    let artifacts = artifacts()?;
    let manifest = Manifest::load(&options.manifest.clone().unwrap_or_else(Artifacts::manifest)).map_err(|error| anyhow!(error))?;
    let store = ObjectStore::start()?;
    let directory = tempfile::tempdir()?;
    let mut workloads = vec![workload::small(directory.path())?];
    workloads.extend(workload::nine(&manifest, &options.functions, &store.address(), directory.path())?);
    let heavy = workload::nine(&manifest, &options.memory_functions, &store.address(), directory.path())?;

    let nodejs = if options.modes.contains(&Mode::Node) { Nodejs::find() } else { Err(anyhow!("it was not asked for")) };
    let mut run = Run {
        machine: machine::look(),
        load_after: String::new(),
        node: None,
        nodejs: nodejs.as_ref().map_or_else(|reason| format!("none: {reason:#}"), Nodejs::describe),
        latency: Vec::new(),
        throughput: Vec::new(),
        memory: Vec::new(),
        modules: Vec::new(),
        reuse: Vec::new(),
        notes: Vec::new(),
    };
    if machine::is_busy() {
        run.notes.push(format!("the machine was busy (load {}): nothing here is worth writing down", machine::load()));
    }
    if let Err(reason) = &nodejs {
        options.modes.retain(|mode| *mode != Mode::Node);
        run.notes.push(format!("the Node container: {reason:#}"));
    }
    let nodejs = nodejs.ok();
    run.notes.push(format!(
        "exclusive and the Node container have {} samples in figure 7, exclusive one round in figures 8 and 9: each takes long",
        options.slow_samples.min(options.samples)
    ));

    if options.figures.iter().any(|figure| *figure <= 9) {
        let unpooled = options.modes.contains(&Mode::Unpooled);
        let unpooled = unpooled.then(|| Node::start_with(&artifacts, Sharing::Shared, &["--ready-containers", "0"])).transpose();
        let mut nodes = Nodes { pooled: start_pooled(&artifacts, &options)?, unpooled: unpooled.map_err(|error| anyhow!(error))? };
        run.node = Some(nodes.pooled.status()?);
        deploy(&nodes.pooled, &workloads, Reuse::Fresh)?;
        nodes.unpooled.iter().try_for_each(|node| deploy(node, &workloads, Reuse::Fresh))?;
        if options.modes.contains(&Mode::Rewound) {
            deploy(&nodes.pooled, &workloads, Reuse::Rewind)?;
        }
        let attested = attested(&mut run, &options, &workloads, &artifacts, &nodes.pooled)?;
        let others = Others { nodejs: nodejs.as_ref(), attested: attested.as_ref() };
        if options.figures.contains(&7) {
            figure7(&mut run, &options, &workloads, &nodes, others);
            if options.modes.contains(&Mode::Rewound) {
                let short: Vec<&Workload> = workloads.iter().filter(|workload| reuse::FUNCTIONS.contains(&&*workload.name)).collect();
                run.reuse = reuse::measure(&short, options.samples * 4, &nodes.pooled, attested.as_ref())?;
            }
        }
        if modules::MODES.iter().all(|mode| options.modes.contains(mode)) {
            match modules::workloads(&manifest, directory.path()) {
                Ok(workloads) => {
                    deploy(&nodes.pooled, &workloads, Reuse::Fresh)?;
                    run.modules = modules::measure(&workloads, options.samples, &nodes);
                }
                Err(reason) => run.notes.push(format!("WebAssembly modules: {reason:#}")),
            }
        }
        for (figure, calls) in [(8, 8), (9, 64)] {
            if options.figures.contains(&figure) {
                figures8and9(&mut run, &options, calls, &workloads, &nodes, others);
            }
        }
        nodes.pooled.stop().map_err(|error| anyhow!(error))?;
        nodes.unpooled.iter_mut().try_for_each(Node::stop).map_err(|error| anyhow!(error))?;
    }
    if options.figures.contains(&10) {
        figure10(&mut run, &options, &heavy, &artifacts, Others { nodejs: nodejs.as_ref(), attested: None })?;
    }
    run.load_after = machine::load();

    let output = options.output.unwrap_or_else(|| artifacts.directory().join("bench").join(seconds().to_string()));
    let text = report::write(&run, &output)?;
    println!("{text}\nwritten to {}", output.display());
    Ok(())
}

/// Seconds since 1970: a name for what is written.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Those that stand around this program, else those of the source tree.
fn artifacts() -> Result<Artifacts> {
    let own = std::env::current_exe().ok();
    let around = own.as_deref().and_then(|own| own.parent()?.parent()).map(|directory| Artifacts::at(directory.to_owned()));
    match around.filter(|around| around.image().is_file() && around.program("teemate-node").is_file()) {
        Some(around) => Ok(around),
        None => Artifacts::find().map_err(|error| anyhow!(error)),
    }
}

fn start(artifacts: &Artifacts, sharing: Sharing) -> Result<Node> {
    Node::start(artifacts, sharing).map_err(|error| anyhow!(error))
}

/// The node with containers made ahead; its enclave answers owners if they are to be measured.
fn start_pooled(artifacts: &Artifacts, options: &Options) -> Result<Node> {
    if options.modes.contains(&Mode::Attested) {
        return Node::start_listening(artifacts).map_err(|error| anyhow!(error));
    }
    start(artifacts, Sharing::Shared)
}

/// An owner with the functions that one can have, if owners are to be measured.
fn attested(run: &mut Run, options: &Options, workloads: &[Workload], artifacts: &Artifacts, node: &Node) -> Result<Option<Attested>> {
    if !options.modes.contains(&Mode::Attested) {
        return Ok(None);
    }
    let attested = Attested::claim(artifacts, node)?;
    for workload in workloads {
        if let Err(reason) = attested.deploy(workload) {
            run.notes.push(format!("{}, {}: {reason:#}", workload.name, Mode::Attested.title()));
        }
    }
    Ok(Some(attested))
}

fn deploy(node: &Node, workloads: &[Workload], reuse: Reuse) -> Result<()> {
    for workload in workloads {
        let name = if reuse == Reuse::Rewind { workload::rewound(&workload.name) } else { workload.name.clone() };
        let deployment = Deployment { name, reuse, ..workload.deployment.clone() };
        node.deploy(&deployment).map_err(|error| anyhow!("{}: {error}", workload.name)).context("a function can't be deployed")?;
    }
    Ok(())
}

fn figure7(run: &mut Run, options: &Options, workloads: &[Workload], nodes: &Nodes, others: Others<'_>) {
    for workload in workloads {
        eprintln!("figure 7: {}", workload.name);
        run.latency.extend(latency::measure(workload, &options.modes, options.samples, options.slow_samples, nodes, others));
    }
}

fn figures8and9(run: &mut Run, options: &Options, calls: usize, workloads: &[Workload], nodes: &Nodes, others: Others<'_>) {
    for workload in workloads {
        eprintln!("{calls} calls at once: {}", workload.name);
        for round in 1..=options.rounds {
            // Containers that wait for their function's next call would be taken down for those of others.
            for mode in options.modes.iter().filter(|mode| **mode != Mode::Rewound) {
                let rounds = if *mode == Mode::Exclusive { 1 } else { options.rounds };
                if round > rounds {
                    continue;
                }
                let Some(node) = nodes.of(*mode) else { continue };
                if let Some(short) = too_little_memory(*mode, calls, node) {
                    run.notes.push(format!("{}, {}, {calls} calls at once: {short}", workload.name, mode.title()));
                    continue;
                }
                run.throughput.extend(throughput::once(workload, *mode, calls, round, node, others));
            }
        }
    }
}

/// Whether so many enclaves or runtimes would not fit: a run must not end in the machine's own OOM killer.
fn too_little_memory(mode: Mode, calls: usize, node: &Node) -> Option<String> {
    let each_kib = match mode {
        Mode::Node => 80 << 10,
        // What the shared enclave has is the least that each of its own would have.
        Mode::Exclusive => node.ps().ok()?.enclaves.iter().map(|enclave| enclave.epc_pages * 4).max()?,
        Mode::Native | Mode::Unpooled | Mode::Shared | Mode::Rewound | Mode::Attested => return None,
    };
    let (needed, available) = (each_kib * calls as u64, machine::available_kib());
    (needed > available * 9 / 10).then(|| format!("needs about {} MiB, and {} are available", needed / 1024, available / 1024))
}

fn figure10(run: &mut Run, options: &Options, workloads: &[Workload], artifacts: &Artifacts, others: Others<'_>) -> Result<()> {
    const CALLS: usize = 64;
    for workload in workloads.iter().filter(|workload| workload.name != SMALL) {
        // The pool is part of the node at rest: it is in shared's figure.
        for mode in options.modes.iter().filter(|mode| **mode != Mode::Unpooled) {
            eprintln!("figure 10: {}, {}", workload.name, mode.title());
            if matches!(mode, Mode::Rewound | Mode::Attested) {
                // The memory is the shared enclave's, whoever calls, and for calls at once there is a container each.
                continue;
            }
            let Some(sharing) = mode.sharing() else {
                run.memory.extend(others.nodejs.and_then(|nodejs| footprint::of_nodejs(workload, CALLS, nodejs)));
                continue;
            };
            let mut node = start(artifacts, sharing)?;
            run.node.get_or_insert(node.status()?);
            deploy(&node, std::slice::from_ref(workload), Reuse::Fresh)?;
            match too_little_memory(*mode, CALLS, &node) {
                Some(short) => run.notes.push(format!("{}, {}, memory: {short}", workload.name, mode.title())),
                None => run.memory.push(footprint::of_node(workload, *mode, CALLS, &node)),
            }
            node.stop().map_err(|error| anyhow!(error))?;
        }
    }
    Ok(())
}
