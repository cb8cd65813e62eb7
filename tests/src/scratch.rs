//! What an image on nothing holds: some of our programs, and the C library that they were linked with.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use teemate_client::oci::ImageFile;

use crate::artifacts::Artifacts;

/// Where everything of ours is.
pub const PLACE: &str = "opt/teemate";

/// These programs, and what they are loaded with.
///
/// # Errors
/// A sentence.
pub fn programs(artifacts: &Artifacts, names: &[&str]) -> Result<Vec<ImageFile>, String> {
    let mut files = Vec::new();
    let mut libraries = BTreeSet::new();
    for name in names {
        let program = artifacts.program(name);
        libraries.extend(libraries_of(&program)?);
        files.push(ImageFile { path: format!("{PLACE}/bin/{name}"), content: stripped(&program)?, executable: true });
    }
    for library in libraries {
        let path = library.trim_start_matches('/').to_owned();
        files.push(ImageFile { path, content: read(Path::new(&library))?, executable: true });
    }
    Ok(files)
}

/// A file for an image.
///
/// # Errors
/// A sentence.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{} can't be read: {error}", path.display()))
}

/// What a program is loaded with, the loader among it. None for a static one.
fn libraries_of(program: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("ldd").arg(program).output().map_err(|error| format!("ldd can't be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `name => /path (address)`, or `/path (address)`: the loader.
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    Ok(text.lines().filter_map(path).collect())
}

/// A program without what only a debugger wants, where the machine has `strip`.
fn stripped(program: &Path) -> Result<Vec<u8>, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let done = Command::new("strip").arg("-o").arg(file.path()).arg(program).stderr(Stdio::null()).status();
    read(if done.is_ok_and(|status| status.success()) { file.path() } else { program })
}
