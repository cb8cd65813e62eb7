//! Figures 11 and 12, and steady throughput: the database against Redis, in one run on one machine.

mod burst;
mod histogram;
mod load;
mod report;
mod servers;
mod starting;
mod steady;
mod tls;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use teemate_tests::artifacts::Artifacts;

use crate::machine;
use report::Run;
use servers::{Kind, Server};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Figure 11: the start of a snapshot, by size.
    Start,
    /// Figure 12: requests while a snapshot is made.
    Burst,
    /// Figure 12: memory while all keys are written again during a snapshot.
    Rewrite,
    /// Memory over time, with a snapshot each minute.
    Series,
    /// Steady throughput.
    Steady,
}

/// Measures the database against Redis, figures 11 and 12: the start of a snapshot by size, requests and memory while one is made, memory
/// over time, and steady throughput.
///
/// Starts servers of its own. They take turns within each part; only the ratios of one run mean something.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where tables, raw samples and figures go [default: artifacts/bench/database-TIME].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// What to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "start,burst,rewrite,series,steady")]
    parts: Vec<Part>,
    /// Servers to compare.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "redis,native,redis-tls,shared,exclusive")]
    modes: Vec<Kind>,
    /// Sizes in MiB for the start of a snapshot.
    #[arg(long, value_delimiter = ',', default_value = "32,64,128,256,512,1024", value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..=65536))]
    sizes: Vec<u64>,
    /// Size in MiB for everything else but steady throughput.
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65536))]
    size: u64,
    /// Samples for the start of a snapshot; exclusive has one.
    #[arg(long, default_value_t = 7)]
    samples: usize,
    /// Rounds of everything else.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Minutes of the series, for each server.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Writes a second during the series.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// A short run that only shows that it works: 8 and 16 MiB, one round of a second, a series of ten.
    #[arg(long)]
    quick: bool,
}

/// Measures, and writes what came of it.
pub fn run(mut options: Options, artifacts: &Artifacts) -> Result<()> {
    let (mut time, mut every) = (Duration::from_secs(options.minutes * 60), Duration::from_secs(60));
    if options.quick {
        (options.sizes, options.size, options.samples, options.rounds, options.seconds) = (vec![8, 16], 16, 2, 1, 1);
        (time, every) = (Duration::from_secs(10), Duration::from_secs(4));
    }
    let redis = Command::new("redis-server").arg("--version").output();
    let redis = redis.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let mut run = Run::begin(redis.clone().unwrap_or_else(|| "No Redis".to_owned()));
    if machine::is_busy() {
        run.notes.push(format!("the machine was busy (load {}): nothing here is worth writing down", machine::load()));
    }
    if redis.is_none() {
        run.notes.push("Redis: redis-server is missing; on Debian `apt-get install redis-server` brings it".to_owned());
        options.modes.retain(|kind| !matches!(kind, Kind::Redis | Kind::RedisTls));
    }
    if !artifacts.program("teemate-database").is_file() {
        run.notes.push("native: teemate-database is not among the artifacts; `cargo xtask bench database` builds it".to_owned());
        options.modes.retain(|kind| *kind != Kind::Native);
    }
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| artifacts.directory().join("bench").join(format!("database-{}", crate::seconds())));
    let mut text = String::new();
    for part in &options.parts {
        match part {
            Part::Start => start(&mut run, &options, artifacts),
            Part::Burst => burst(&mut run, &options, artifacts),
            Part::Rewrite => rewrite(&mut run, &options, artifacts),
            Part::Series => series(&mut run, &options, time, every, artifacts),
            Part::Steady => steady(&mut run, &options, artifacts),
        }
        run.load_after = machine::load();
        // After each part: who ends it early has what was measured until then.
        text = report::write(&run, &output)?;
    }
    println!("{text}\nwritten to {}", output.display());
    Ok(())
}

/// Keeps what was measured, or notes why nothing was.
fn keep<T>(failures: &mut Vec<String>, what: &str, kind: Kind, measured: Result<T>) -> Option<T> {
    match measured {
        Ok(measured) => Some(measured),
        Err(error) => {
            eprintln!("{what}, {}: {error:#}", kind.title());
            failures.push(format!("{what}, {}: {error:#}", kind.title()));
            None
        }
    }
}

fn start(run: &mut Run, options: &Options, artifacts: &Artifacts) {
    for mib in &options.sizes {
        // Redis's fork does not depend on how its clients come.
        for kind in options.modes.iter().filter(|kind| **kind != Kind::RedisTls) {
            eprintln!("figure 11: {mib} MiB, {}", kind.title());
            let samples = if *kind == Kind::Exclusive { 1 } else { options.samples };
            let starts = starting::measure(*kind, *mib, samples, artifacts);
            run.starts.extend(keep(&mut run.failures, &format!("start at {mib} MiB"), *kind, starts).unwrap_or_default());
        }
    }
}

/// Those that serve requests, each with so much data.
fn filled(run: &mut Run, options: &Options, artifacts: &Artifacts) -> Vec<Server> {
    let kinds: Vec<Kind> = options.modes.iter().copied().filter(|kind| *kind != Kind::Exclusive).collect();
    kinds.into_iter().filter_map(|kind| keep(&mut run.failures, "filling", kind, burst::filled(kind, options.size, artifacts))).collect()
}

fn burst(run: &mut Run, options: &Options, artifacts: &Artifacts) {
    let servers = filled(run, options, artifacts);
    for round in 1..=options.rounds {
        for server in &servers {
            eprintln!("figure 12, requests: round {round}, {}", server.kind.title());
            let bursts = burst::requests(server, options.size, Duration::from_secs(options.seconds), round);
            run.bursts.extend(keep(&mut run.failures, "requests", server.kind, bursts).into_iter().flatten());
        }
    }
}

fn rewrite(run: &mut Run, options: &Options, artifacts: &Artifacts) {
    let servers = filled(run, options, artifacts);
    for round in 1..=options.rounds.min(3) {
        for server in &servers {
            eprintln!("figure 12, memory: round {round}, {}", server.kind.title());
            let rewrite = burst::rewrite(server, options.size, round);
            run.rewrites.extend(keep(&mut run.failures, "memory", server.kind, rewrite));
        }
    }
}

fn series(run: &mut Run, options: &Options, time: Duration, every: Duration, artifacts: &Artifacts) {
    for kind in options.modes.iter().filter(|kind| !matches!(kind, Kind::Exclusive | Kind::RedisTls)) {
        eprintln!("figure 12, series: {}", kind.title());
        let looks = burst::series(*kind, options.size, time, every, f64::from(options.rate), artifacts);
        run.series.extend(keep(&mut run.failures, "series", *kind, looks).into_iter().flatten());
    }
}

fn steady(run: &mut Run, options: &Options, artifacts: &Artifacts) {
    let kinds: Vec<Kind> = options.modes.iter().copied().filter(|kind| *kind != Kind::Exclusive).collect();
    let start = |kind| {
        let server = Server::start(kind, artifacts)?;
        steady::prepare(&server).context("no keys can be written")?;
        Ok(server)
    };
    let servers: Vec<Server> = kinds.into_iter().filter_map(|kind| keep(&mut run.failures, "steady", kind, start(kind))).collect();
    for round in 1..=options.rounds {
        eprintln!("steady throughput: round {round}");
        for case in steady::CASES {
            for server in &servers {
                let measured = steady::once(server, case, Duration::from_secs(options.seconds), round);
                run.steady.extend(keep(&mut run.failures, "steady", server.kind, measured));
            }
        }
    }
}
