//! Formatting and clippy.

use std::process::Command;

use anyhow::Result;

use crate::build::ENGINE_BUILD;
use crate::paths::{cargo, root};
use crate::step::{Steps, run as run_command};

/// Both; the first that fails ends it.
pub fn run() -> Result<()> {
    let mut steps = Steps::default();
    steps.step("formatting", || run_command(&mut formatting()))?;
    steps.step("clippy", || run_command(&mut clippy()))
}

/// The command that checks formatting.
pub fn formatting() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["fmt", "--all", "--check"]);
    command
}

/// The command that runs clippy over everything, tests too. Warnings are errors.
pub fn clippy() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args([
        "clippy",
        "--quiet",
        "--workspace",
        "--features",
        ENGINE_BUILD,
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]);
    command
}
