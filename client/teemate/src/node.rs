//! Starts a node and waits until it answers; stops it in order.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use teemate_control::node::{Request, Sharing, Status};

use crate::{Connection, program};

/// Name of the node's program.
pub const PROGRAM: &str = "teemate-node";
/// How often a starting or stopping node is asked.
const STEP: Duration = Duration::from_millis(20);

/// How a node shall run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub socket: PathBuf,
    /// The node's program; `None`: [`program::find`].
    pub program: Option<PathBuf>,
    /// Where it keeps functions and its log; `None`: the node's own choice.
    pub state: Option<PathBuf>,
    /// Image of the enclave; `None`: [`find_image`].
    pub image: Option<PathBuf>,
    /// How calls and enclaves relate.
    pub sharing: Sharing,
    /// Where the enclave answers its clients: `ADDRESS:PORT` or `none`; `None`: the node's own choice.
    pub listen: Option<String>,
    /// Further arguments for `teemate-node`.
    pub arguments: Vec<OsString>,
    /// How long it may take until it answers.
    pub patience: Duration,
}

impl Options {
    /// A node that listens on `socket`, the rest by default.
    pub fn new(socket: PathBuf) -> Self {
        Options {
            socket,
            program: None,
            state: None,
            image: None,
            sharing: Sharing::Shared,
            listen: None,
            arguments: Vec::new(),
            patience: Duration::from_secs(120),
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no program.
    #[error("{}", program::missing(PROGRAM))]
    NoProgram,
    /// There is no image.
    #[error("there is no enclave image: build one with `cargo xtask build`, and name it with --image or TEEMATE_IMAGE")]
    NoImage,
    /// Somebody listens there.
    #[error("a node (pid {0}) already answers at this socket; stop it with `teemate node stop`, or take another --socket")]
    Running(u32),
    /// The operating system refuses.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended at once.
    #[error("the node ended ({status}) before it answered; its last words:\n{log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// End of its log.
        log: String,
    },
    /// It took too long.
    #[error("the node did not answer within {} s and was killed; its last words:\n{log}", patience.as_secs())]
    Slow {
        /// How long it had.
        patience: Duration,
        /// End of its log.
        log: String,
    },
}

/// Where the enclave's image is: `$TEEMATE_IMAGE`, else `functions.teemate` beside this executable or one directory up.
pub fn find_image() -> Option<PathBuf> {
    if let Some(image) = std::env::var_os("TEEMATE_IMAGE").filter(|image| !image.is_empty()) {
        return Some(image.into());
    }
    image_beside("functions.teemate")
}

/// The image of this name beside this executable or one directory up.
pub fn image_beside(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|image| image.is_file())
}

/// The command that runs a node in the foreground.
///
/// # Errors
/// When there is no program, or no image for a mode that needs one.
pub fn command(options: &Options) -> Result<Command, StartError> {
    let program = options.program.clone().or_else(|| program::find(PROGRAM)).ok_or(StartError::NoProgram)?;
    let mut command = Command::new(program);
    command.arg("--socket").arg(&options.socket);
    if let Some(state) = &options.state {
        command.arg("--state").arg(state);
    }
    match options.image.clone().or_else(find_image) {
        Some(image) => _ = command.arg("--image").arg(image),
        None if options.sharing == Sharing::Native => {}
        None => return Err(StartError::NoImage),
    }
    if let Some(listen) = &options.listen {
        command.arg("--listen").arg(listen);
    }
    command.arg("--sharing").arg(sharing_name(options.sharing)).args(&options.arguments);
    Ok(command)
}

/// Starts a node in the background, in a process group of its own, with `log` as its output, and waits until it answers.
///
/// # Errors
/// [`StartError`]; a node that does not answer is not left behind.
pub fn start(options: &Options, log: &Path) -> Result<(Child, Status), StartError> {
    if let Some(status) = running(&options.socket) {
        return Err(StartError::Running(status.pid));
    }
    let system = |what: String| move |source| StartError::System { what, source };
    for directory in [options.socket.parent(), log.parent(), options.state.as_deref()].into_iter().flatten() {
        std::fs::create_dir_all(directory).map_err(system(format!("the directory {} can't be made", directory.display())))?;
    }
    let out = File::create(log).map_err(system(format!("the log {} can't be written", log.display())))?;
    let err = out.try_clone().map_err(system("the log can't be shared".to_owned()))?;
    let mut child = command(options)?
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(system(format!("{PROGRAM} can't be started")))?;
    let begin = Instant::now();
    loop {
        if let Some(status) = running(&options.socket) {
            return Ok((child, status));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(StartError::Ended { status, log: tail(log) });
        }
        if begin.elapsed() > options.patience {
            let _ = child.kill();
            let _ = child.wait();
            return Err(StartError::Slow { patience: options.patience, log: tail(log) });
        }
        std::thread::sleep(STEP);
    }
}

/// Asks the node to finish what runs and to exit, and waits until nobody answers any more.
///
/// # Errors
/// When no node answers, or it still does after `patience`.
pub fn stop(socket: &Path, patience: Duration) -> Result<(), crate::Error> {
    let mut connection = Connection::open(socket)?;
    connection.set_timeout(Some(patience))?;
    let status = connection.status()?;
    match connection.ask(&Request::Stop) {
        // A node that exits may close the connection before its answer is out.
        Ok(_) | Err(crate::Error::Lost { .. }) => {}
        Err(error) => return Err(error),
    }
    let begin = Instant::now();
    while running(socket).is_some_and(|now| now.pid == status.pid) || alive(status.pid) {
        if begin.elapsed() > patience {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("pid {} is still there", status.pid));
            return Err(crate::Error::Lost { socket: socket.to_owned(), source });
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// The mode's name on a command line.
pub const fn sharing_name(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Native => "native",
        Sharing::Exclusive => "exclusive",
        Sharing::Shared => "shared",
    }
}

/// The status of the node that answers there, if one does.
pub fn running(socket: &Path) -> Option<Status> {
    let mut connection = Connection::open(socket).ok()?;
    connection.set_timeout(Some(Duration::from_secs(5))).ok()?;
    connection.status().ok()
}

/// Whether a process runs; a zombie does not.
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "(none)".to_owned(),
        Ok(text) => {
            let lines: Vec<_> = text.trim_end().lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        }
        Err(error) => format!("({} can't be read: {error})", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(file.path(), text).unwrap();
        let tail = tail(file.path());
        assert!(tail.ends_with("line 999"));
        assert_eq!(tail.lines().count(), 12);
    }

    #[test]
    fn this_process_is_alive_and_a_reaped_one_is_not() {
        assert!(alive(std::process::id()));
        let mut child = Command::new("/bin/true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!alive(pid));
    }

    #[test]
    fn where_no_node_runs_stop_says_so() {
        let error = stop(Path::new("/nowhere/node.sock"), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, crate::Error::Unreachable { .. }));
    }
}
