//! Builds, then measures the paper's figures.

use std::process::Command;

use anyhow::Result;

use crate::{build, step, tools};

/// Runs teemate-bench with these arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let part = arguments.first().map(String::as_str);
    let is_database = part == Some("database");
    let wanted: &[tools::Tool] = match part {
        Some("database") => &[tools::REDIS],
        Some("containers") => &[tools::CONTAINERD, tools::RUNC, tools::BUSYBOX],
        _ => &[tools::RUNC],
    };
    for sentence in tools::ensure(wanted) {
        println!("note: {sentence}");
    }
    let built = build::everything()?;
    if is_database {
        build::native_database(&built)?;
    }
    step::run(Command::new(built.program("teemate-bench")).args(arguments).env("TEEMATE_ARTIFACTS", built.directory()))
}
