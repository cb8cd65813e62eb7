//! A node in a temporary directory, stopped when its owner goes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;
use teemate_client::deployment::Deployment;
use teemate_client::node::{self, Options};
use teemate_client::{Connection, Error};
use teemate_control::function::{FunctionSpec, Limits, Outcome};
use teemate_control::node::{FunctionInfo, Ps, Request, Response, Sharing, Status};

use crate::artifacts::Artifacts;

/// How long a node may take to stop in order.
const STOP: Duration = Duration::from_secs(60);

/// A node of one's own.
pub struct Node {
    child: Option<Child>,
    directory: tempfile::TempDir,
    options: Options,
    /// Where its enclave answers clients, or did.
    address: Option<SocketAddr>,
}

impl Node {
    /// Starts one with this mode, and waits until it answers.
    ///
    /// # Errors
    /// A sentence with the end of its log.
    pub fn start(artifacts: &Artifacts, sharing: Sharing) -> Result<Node, String> {
        Node::start_with(artifacts, sharing, &[])
    }

    /// The same with further arguments of the node's program.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(artifacts: &Artifacts, sharing: Sharing, arguments: &[&str]) -> Result<Node, String> {
        let mut node = Node::prepare(artifacts, sharing)?;
        node.options.arguments = arguments.iter().map(Into::into).collect();
        node.begin()?;
        Ok(node)
    }

    fn prepare(artifacts: &Artifacts, sharing: Sharing) -> Result<Node, String> {
        let directory = tempfile::Builder::new().prefix("teemate-").tempdir().map_err(|error| error.to_string())?;
        let options = Options {
            program: Some(artifacts.program(node::PROGRAM)),
            image: Some(artifacts.image()),
            state: Some(directory.path().join("state")),
            sharing,
            listen: Some("none".to_owned()),
            ..Options::new(directory.path().join("node.sock"))
        };
        Ok(Node { child: None, directory, options, address: None })
    }

    /// Starts one in shared mode whose enclave answers its own clients, at any port that is free.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_listening(artifacts: &Artifacts) -> Result<Node, String> {
        let mut node = Node::prepare(artifacts, Sharing::Shared)?;
        node.options.listen = Some("127.0.0.1:0".to_owned());
        node.begin()?;
        Ok(node)
    }

    /// Starts one in shared mode by this program, whose enclave answers its own clients at this address.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_by(artifacts: &Artifacts, program: &Path, listen: &str, arguments: &[&str]) -> Result<Node, String> {
        let mut node = Node::prepare(artifacts, Sharing::Shared)?;
        node.options.program = Some(program.to_owned());
        node.options.listen = Some(listen.to_owned());
        node.options.arguments = arguments.iter().map(Into::into).collect();
        node.begin()?;
        Ok(node)
    }

    /// Starts one whose enclave is the database, with files in [`Node::data`].
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_database(artifacts: &Artifacts) -> Result<Node, String> {
        let node = Node::prepare(artifacts, Sharing::Shared)?;
        let data = node.data();
        node.begin_database(artifacts, &data)
    }

    /// The same with its files in this directory.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_database_in(artifacts: &Artifacts, data: &Path) -> Result<Node, String> {
        Node::prepare(artifacts, Sharing::Shared)?.begin_database(artifacts, data)
    }

    fn begin_database(mut self, artifacts: &Artifacts, data: &Path) -> Result<Node, String> {
        self.options.image = Some(artifacts.database_image());
        self.options.listen = Some("127.0.0.1:0".to_owned());
        self.options.arguments = vec!["--data".into(), data.into()];
        self.begin()?;
        Ok(self)
    }

    /// Starts one in shared mode with another image than the artifacts', whose enclave answers its own clients.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_image(artifacts: &Artifacts, image: &Path, arguments: &[&str]) -> Result<Node, String> {
        let mut node = Node::prepare(artifacts, Sharing::Shared)?;
        node.options.image = Some(image.to_owned());
        node.options.listen = Some("127.0.0.1:0".to_owned());
        node.options.arguments = arguments.iter().map(Into::into).collect();
        node.begin()?;
        Ok(node)
    }

    /// Where a database keeps its files.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where its enclave answers. Panics if it does not.
    pub fn endpoint(&self) -> SocketAddr {
        self.address.unwrap_or_else(|| panic!("the enclave answers no clients\n{}", self.last_words()))
    }

    fn begin(&mut self) -> Result<(), String> {
        let (child, status) = node::start(&self.options, &self.log()).map_err(|error| error.to_string())?;
        self.child = Some(child);
        self.address = status.endpoint.and_then(|text| text.parse().ok());
        Ok(())
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.options.socket
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("node.log")
    }

    /// The end of its log, for the message of a failed test.
    pub fn last_words(&self) -> String {
        last_lines(&self.log(), 40)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its directory of state: functions survive there.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it does not stop in time, or does not exit with 0.
    pub fn stop(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // The child is reaped in another thread, so that nobody waits for a zombie.
        let waiter = std::thread::spawn(move || child.wait());
        node::stop(&self.options.socket, STOP).map_err(|error| format!("{error}\n{}", self.last_words()))?;
        match waiter.join() {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("the node ended with {status}\n{}", self.last_words())),
            _ => Err("the node can't be waited for".to_owned()),
        }
    }

    /// Kills it with SIGKILL, as a crash would, and waits for its end.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn crash(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Starts it again on the same state.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn restart(&mut self) -> Result<(), String> {
        self.begin()
    }

    /// Starts it again on the same state, with its enclave at the same address as before.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn restart_here(&mut self) -> Result<(), String> {
        self.options.listen = self.address.map(|address| address.to_string());
        self.begin()
    }

    /// A new connection.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(&self) -> Result<Connection, Error> {
        let mut connection = Connection::open(&self.options.socket)?;
        connection.set_timeout(Some(Duration::from_secs(660)))?;
        Ok(connection)
    }

    /// Its status.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status, Error> {
        self.connect()?.status()
    }

    /// What runs.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ps(&self) -> Result<Ps, Error> {
        let mut connection = self.connect()?;
        match connection.ask(&Request::Ps)? {
            Response::Ps(ps) => Ok(ps),
            other => Err(connection.unexpected(&other)),
        }
    }

    /// What runs when no call does: waits for the end of those that are ending, and until the containers that are made ahead are as
    /// many as they will be.
    ///
    /// # Errors
    /// A sentence, when that takes too long.
    pub fn at_rest(&self) -> Result<Ps, String> {
        let begin = Instant::now();
        let mut before = Vec::new();
        loop {
            let ps = self.ps().map_err(|error| error.to_string())?;
            let of_role = |role: &str| ps.containers.iter().filter(|one| one.role == role).map(|one| one.pid).collect::<Vec<_>>();
            let (busy, ready) = (of_role("function"), of_role("ready"));
            if busy.is_empty() && !before.is_empty() && before == [ready.clone()] {
                return Ok(ps);
            }
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(format!("no rest within 10 s: {:?}", ps.containers));
            }
            before = if busy.is_empty() { vec![ready] } else { Vec::new() };
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Its counters.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String, Error> {
        let mut connection = self.connect()?;
        match connection.ask(&Request::Metrics)? {
            Response::Metrics { text } => Ok(text),
            other => Err(connection.unexpected(&other)),
        }
    }

    /// Deploys files.
    ///
    /// # Errors
    /// A sentence.
    pub fn deploy(&self, deployment: &Deployment) -> Result<FunctionInfo, String> {
        let request = deployment.request().map_err(|error| error.to_string())?;
        self.deploy_request(&request).map_err(|error| error.to_string())
    }

    /// Deploys JavaScript source.
    ///
    /// # Errors
    /// A sentence.
    pub fn deploy_script(&self, name: &str, source: &str, limits: Limits) -> Result<FunctionInfo, String> {
        self.deploy_changed(name, source, limits, |_| {})
    }

    /// Deploys JavaScript source, with what `change` makes of its specification.
    ///
    /// # Errors
    /// A sentence.
    pub fn deploy_changed(
        &self,
        name: &str,
        source: &str,
        limits: Limits,
        change: impl FnOnce(&mut FunctionSpec),
    ) -> Result<FunctionInfo, String> {
        let code = self.directory.path().join("code.js");
        std::fs::write(&code, source).map_err(|error| error.to_string())?;
        let deployment = Deployment { name: name.to_owned(), code, limits, ..Deployment::default() };
        let mut request = deployment.request().map_err(|error| error.to_string())?;
        if let Request::Deploy { spec, .. } = &mut request {
            change(spec);
        }
        self.deploy_request(&request).map_err(|error| error.to_string())
    }

    /// Sends a deployment as it is.
    ///
    /// # Errors
    /// The node's.
    pub fn deploy_request(&self, request: &Request) -> Result<FunctionInfo, Error> {
        let mut connection = self.connect()?;
        match connection.ask(request)? {
            Response::Function(info) => Ok(info),
            other => Err(connection.unexpected(&other)),
        }
    }

    /// Calls a function.
    ///
    /// # Errors
    /// When there is no outcome: the node refused, or went away.
    pub fn invoke(&self, name: &str, params: Value) -> Result<Outcome, Error> {
        invoke(&mut self.connect()?, name, params, None)
    }

    /// Calls a function and reads its result; its failure is an error too.
    ///
    /// # Errors
    /// A sentence.
    pub fn call(&self, name: &str, params: Value) -> Result<Value, String> {
        let outcome = self.invoke(name, params).map_err(|error| error.to_string())?;
        result(&outcome)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.is_some() && self.stop().is_err() {
            let _ = self.crash();
        }
    }
}

/// Calls a function on an open connection.
///
/// # Errors
/// When there is no outcome.
pub fn invoke(connection: &mut Connection, name: &str, params: Value, sharing: Option<Sharing>) -> Result<Outcome, Error> {
    match connection.ask(&Request::Invoke { name: name.to_owned(), params, sharing })? {
        Response::Invoked { outcome } => Ok(outcome),
        other => Err(connection.unexpected(&other)),
    }
}

/// The result of an outcome as JSON.
///
/// # Errors
/// A sentence with the failure, or what is wrong with the bytes.
pub fn result(outcome: &Outcome) -> Result<Value, String> {
    match &outcome.result {
        Ok(bytes) => serde_json::from_slice(bytes).map_err(|error| format!("the result is not JSON: {error}")),
        Err(failure) => Err(format!("{:?}: {}", failure.kind, failure.message)),
    }
}

/// So many lines of the end of a log; of one that can't be read, none.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
