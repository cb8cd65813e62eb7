//! `teemate image`.

use std::process::ExitCode;

use crate::arguments::Image;
use crate::failure::Failure;
use crate::output::Output;

/// Carries out an `image` command.
pub fn run(_command: &Image, _output: &Output) -> Result<ExitCode, Failure> {
    Err(Failure::new("not in this revision yet"))
}
