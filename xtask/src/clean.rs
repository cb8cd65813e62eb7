//! Removes what the other tasks made. The signing key goes with it: it is for development only.

use std::io::ErrorKind;

use anyhow::{Context, Result};

use crate::paths;

/// Removes artifacts and the target directories that only xtask uses.
pub fn run() -> Result<()> {
    for directory in [paths::artifacts(), paths::target("static"), paths::target("payload"), paths::target("libos"), paths::target("fuzz")]
    {
        match std::fs::remove_dir_all(&directory) {
            Ok(()) => println!("removed {}", directory.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{} can't be removed", directory.display())),
        }
    }
    Ok(())
}
