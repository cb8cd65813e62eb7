//! Builds, then measures the paper's figures.

use std::process::Command;

use anyhow::Result;

use crate::{build, step, tools};

/// Runs teemate-bench with these arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    for sentence in tools::ensure(&[tools::RUNC]) {
        println!("note: {sentence}");
    }
    let built = build::everything()?;
    step::run(Command::new(built.program("teemate-bench")).args(arguments).env("TEEMATE_ARTIFACTS", built.directory()))
}
