//! The FIFOs (or files) that containerd gives for a container's output.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};

use crate::error::{Error, Result};

/// How long a reader may leave output unread before it is given up.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);

/// Paths as the request names them; empty: none.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

fn path(name: &str) -> Result<Option<PathBuf>> {
    match name.split_once("://") {
        None if name.is_empty() => Ok(None),
        None => Ok(Some(PathBuf::from(name))),
        Some(("file", path)) => Ok(Some(PathBuf::from(path))),
        Some((scheme, _)) => Err(Error::Unsupported(format!("output to {scheme}:// is not supported; use FIFOs or files"))),
    }
}

/// Opens an output. A FIFO that nobody reads yet is opened for reading too, so that the opening never waits.
pub fn output(name: &str) -> Result<Option<File>> {
    let Some(path) = path(name)? else { return Ok(None) };
    let mode = Mode::from_raw_mode(0o640);
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::APPEND | if name.contains("://") { OFlags::CREATE } else { OFlags::empty() };
    let fd = match open(&path, flags | OFlags::WRONLY, mode) {
        Err(rustix::io::Errno::NXIO) => open(&path, flags | OFlags::RDWR, mode),
        opened => opened,
    };
    fd.map(|fd| Some(File::from(fd))).map_err(Error::file(path))
}

/// Opens an input to be read by this process. Reading does not wait.
pub fn reading(name: &str) -> Result<Option<File>> {
    let Some(path) = path(name)? else { return Ok(None) };
    let fd = open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    fd.map(|fd| Some(File::from(fd))).map_err(Error::file(path))
}

/// Opens an input: the end that a program reads, and one that keeps it from ending before somebody writes to it.
pub fn input(name: &str) -> Result<Option<(File, File)>> {
    let Some(path) = path(name)? else { return Ok(None) };
    let end = |flags| open(&path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map(File::from);
    let keeper = end(OFlags::RDWR).map_err(Error::file(&path))?;
    Ok(Some((end(OFlags::RDONLY).map_err(Error::file(&path))?, keeper)))
}

/// Gives a file back to programs that expect to wait in it.
pub fn waiting(file: File) -> Result<File> {
    let set = rustix::fs::fcntl_getfl(&file).and_then(|flags| rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK));
    set.map_err(Error::file(Path::new("the container's output")))?;
    Ok(file)
}

/// Writes everything and closes. What nobody reads for too long is lost, as it would be with a container's log.
pub fn write_out(file: Option<File>, mut bytes: &[u8]) {
    let Some(mut file) = file else { return };
    let end = Instant::now() + UNREAD_LIMIT;
    while !bytes.is_empty() && Instant::now() < end {
        match file.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let step = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                let _ = poll(&mut [PollFd::new(&file, PollFlags::OUT)], Some(&step));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("output is lost: {error}");
                return;
            }
        }
    }
}
