//! The node: found, or started for the containerd namespace; asked over its unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use teemate_control::PROTOCOL;
use teemate_control::node::{Request, Response};
use teemate_control::task::{TaskInfo, TaskStats};

use crate::error::{Error, Result};

/// What the operator decides for all shims of the machine, if the file is there.
const CONFIGURATION: &str = "/etc/teemate/containerd.json";
/// Where a node listens that nobody said anything else of.
const DEFAULT_SOCKET: &str = "/run/teemate/node.sock";
/// How long a node may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long one answer may take; a start of a node with a large image is the slowest.
const ANSWER_LIMIT: Duration = Duration::from_secs(150);

/// The configuration. Each value may also come from the environment of containerd, which goes first.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Configuration {
    /// Socket of a node that runs (`TEEMATE_SOCKET`).
    socket: Option<PathBuf>,
    /// The node's program (`TEEMATE_NODE`), by default beside the shim's, or on the PATH.
    program: Option<PathBuf>,
    /// The enclave's image (`TEEMATE_IMAGE`). With it, a node is started for each namespace where none runs.
    image: Option<PathBuf>,
    /// Further arguments of a node that is started.
    arguments: Vec<String>,
}

/// Where the node of a namespace is.
#[derive(Clone, Debug)]
pub struct Node {
    socket: PathBuf,
}

impl Node {
    /// The node that runs for this namespace; none is started.
    pub fn running(namespace: &str) -> Result<Node> {
        let configuration = configuration()?;
        if let Some(socket) = configuration.socket {
            return Ok(Node { socket });
        }
        let own = own_socket(namespace);
        Ok(Node { socket: if own.exists() { own } else { PathBuf::from(DEFAULT_SOCKET) } })
    }

    /// The same; one is started if none runs and there is an image for it.
    pub fn find_or_start(namespace: &str) -> Result<Node> {
        let node = Node::running(namespace)?;
        let configuration = configuration()?;
        let error = match node.connect() {
            Ok(_) => return Ok(node),
            Err(error) => error,
        };
        let Some(image) = configuration.image.filter(|_| configuration.socket.is_none()) else {
            return Err(Error::Node {
                socket: node.socket,
                reason: format!("does not answer ({error}); start one, or name an image in {CONFIGURATION} so that one is started"),
            });
        };
        let node = Node { socket: own_socket(namespace) };
        let program = configuration.program.or_else(beside).unwrap_or_else(|| PathBuf::from("teemate-node"));
        node.start(namespace, &program, &image, &configuration.arguments)?;
        Ok(node)
    }

    fn start(&self, namespace: &str, program: &Path, image: &Path, arguments: &[String]) -> Result<()> {
        let directory = self.socket.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
        let log = directory.join("node.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).map_err(Error::file(&log))?;
        let mut command = Command::new(program);
        command.arg("--socket").arg(&self.socket).arg("--state").arg(Path::new("/var/lib/teemate/containerd").join(namespace));
        command.arg("--image").arg(image).args(["--listen", "none"]).args(arguments);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0);
        command.spawn().map_err(Error::file(program))?;
        let end = Instant::now() + START_LIMIT;
        while self.connect().is_err() {
            if Instant::now() > end {
                let reason = format!("was started and does not answer within {} s; see {}", START_LIMIT.as_secs(), log.display());
                return Err(Error::Node { socket: self.socket.clone(), reason });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops the node if it is one that a shim started.
    pub fn stop_own(namespace: &str) {
        let node = Node { socket: own_socket(namespace) };
        if node.socket.exists() {
            let _ = node.ask(&Request::Stop);
        }
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.socket)
    }

    /// Asks one thing on a connection of its own.
    pub fn ask(&self, request: &Request) -> Result<Response> {
        let failed = |reason: String| Error::Node { socket: self.socket.clone(), reason };
        let mut stream = self.connect().map_err(|error| failed(format!("does not answer: {error}")))?;
        let _ = stream.set_read_timeout(Some(ANSWER_LIMIT));
        let mut line = serde_json::to_vec(request).map_err(|error| failed(error.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(|error| failed(format!("takes no request: {error}")))?;
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut answer).map_err(|error| failed(format!("gives no answer: {error}")))?;
        if answer.is_empty() {
            return Err(failed("closed the connection".to_owned()));
        }
        let response = serde_json::from_slice(&answer)
            .map_err(|error| failed(format!("speaks another protocol than this shim ({PROTOCOL}): {error}")))?;
        match response {
            Response::Failed(failure) => Err(Error::Refused(failure.message)),
            response => Ok(response),
        }
    }

    /// As [`Node::ask`], where the answer is a task.
    pub fn task(&self, request: &Request) -> Result<TaskInfo> {
        match self.ask(request)? {
            Response::Task(info) => Ok(info),
            _ => Err(self.mixed_up()),
        }
    }

    /// What a task uses.
    pub fn stats(&self, id: &str) -> Result<TaskStats> {
        match self.ask(&Request::TaskStats { id: id.to_owned() })? {
            Response::TaskStats(stats) => Ok(stats),
            _ => Err(self.mixed_up()),
        }
    }

    fn mixed_up(&self) -> Error {
        Error::Node { socket: self.socket.clone(), reason: "gave another kind of answer than was asked for".to_owned() }
    }
}

fn own_socket(namespace: &str) -> PathBuf {
    Path::new("/run/teemate/containerd").join(namespace).join("node.sock")
}

fn beside() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.parent()?.join("teemate-node");
    program.is_file().then_some(program)
}

fn configuration() -> Result<Configuration> {
    let path = Path::new(CONFIGURATION);
    let mut configuration = match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(Error::file(path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Configuration::default(),
        Err(error) => return Err(Error::file(path)(error)),
    };
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    configuration.socket = variable("TEEMATE_SOCKET").or(configuration.socket);
    configuration.program = variable("TEEMATE_NODE").or(configuration.program);
    configuration.image = variable("TEEMATE_IMAGE").or(configuration.image);
    Ok(configuration)
}
