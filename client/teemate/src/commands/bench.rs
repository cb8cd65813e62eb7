//! `teemate bench`: the program beside this one.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use teemate_client::{program, socket};

use crate::failure::Failure;

const PROGRAM: &str = "teemate-bench";

/// Starts it with the rest of the command line, and takes over its exit code.
pub fn run(arguments: &[OsString], node: &Path) -> Result<ExitCode, Failure> {
    let path = program::find(PROGRAM).ok_or_else(|| Failure::new(program::missing(PROGRAM)))?;
    let status = Command::new(&path)
        .args(arguments)
        .env(socket::VARIABLE, node)
        .status()
        .map_err(|error| Failure::new(format!("{} can't be started: {error}", path.display())))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
