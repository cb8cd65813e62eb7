//! Builds, then measures the paper's figures.

use std::process::Command;

use anyhow::Result;

use crate::{build, step, tools};

/// Runs teemate-bench with these arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let is_database = arguments.first().is_some_and(|first| first == "database");
    for sentence in tools::ensure(if is_database { &[tools::REDIS] } else { &[tools::RUNC] }) {
        println!("note: {sentence}");
    }
    let built = build::everything()?;
    if is_database {
        build::native_database(&built)?;
    }
    step::run(Command::new(built.program("teemate-bench")).args(arguments).env("TEEMATE_ARTIFACTS", built.directory()))
}
