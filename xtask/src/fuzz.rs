//! Fuzzes the parsers that read hostile bytes, with libFuzzer and AddressSanitizer.
//!
//! The stable compiler has both behind RUSTC_BOOTSTRAP=1. That is for fuzzing alone: nothing that ships is built so.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths::{self, TARGET, cargo, root};
use crate::step::{self, Steps};

const MINUTES: u64 = 5;
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
];

/// All targets, the time shared among them.
pub fn run(arguments: &[String]) -> Result<()> {
    let minutes = match arguments {
        [] => MINUTES,
        [minutes] => {
            minutes.parse().ok().filter(|minutes| (1..=10_000).contains(minutes)).context("the time is a number of minutes from 1 on")?
        }
        _ => bail!("`cargo xtask fuzz` takes one number of minutes"),
    };
    let targets = targets()?;
    let seconds = (minutes * 60 / targets.len() as u64).max(1);
    let mut steps = Steps::default();
    steps.step("building the fuzz targets", build)?;
    for target in &targets {
        steps.step(&format!("fuzzing {target} for {seconds} s"), || fuzz(target, seconds))?;
    }
    println!("{}", steps.summary());
    Ok(())
}

/// Names of the targets, by their files.
fn targets() -> Result<Vec<String>> {
    let directory = root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("{} can't be read", directory.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.path().file_name()?.to_str()?.strip_suffix(".rs").map(str::to_owned)).collect();
    names.sort();
    if names.is_empty() {
        bail!("{} has no target", directory.display());
    }
    Ok(names)
}

fn build() -> Result<()> {
    let mut command = Command::new(cargo());
    command
        .current_dir(root().join("fuzz"))
        .args(["build", "--release", "--locked", "--bins", "--target", TARGET])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", paths::target("fuzz"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    step::run(&mut command)
}

fn fuzz(target: &str, seconds: u64) -> Result<()> {
    let corpus = paths::artifacts().join("fuzz").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("{} can't be made", corpus.display()))?;
    let mut command = Command::new(paths::target("fuzz").join(TARGET).join("release").join(target));
    command
        .current_dir(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1", "-verbosity=0", "-close_fd_mask=0"])
        .arg("-artifact_prefix=crash-")
        .arg(&corpus);
    let seeds = root().join("fuzz/seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    step::run(&mut command).with_context(|| format!("what made it fail lies in {}", corpus.display()))
}
