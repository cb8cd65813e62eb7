//! `teemate node`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use teemate_client::Connection;
use teemate_client::node::{self, Options};
use teemate_control::node::{Request, Response, Status};

use super::connect;
use crate::arguments::{Node, NodeStart};
use crate::failure::{FAILED, Failure};
use crate::output::{Output, duration, harmless};

/// Carries out a `node` command.
pub fn run(command: &Node, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Node::Start(arguments) => start(arguments, socket, output),
        Node::Stop { timeout } => stop(socket, Duration::from_millis(*timeout), output),
        Node::Status => status(socket, output),
        Node::InstallShim { directory } => install_shim(directory, output),
        Node::Upgrade { image } => upgrade(image, socket, output),
    }
}

/// Name of the shim's program, which lies beside this one.
const SHIM: &str = "containerd-shim-teemate-v1";

fn install_shim(directory: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::new(format!("this program can't be found: {error}")))?;
    let (from, to) = (own.with_file_name(SHIM), directory.join(SHIM));
    // One that runs can't be written to, but it can be replaced.
    let new = directory.join(format!(".{SHIM}.new"));
    let copied = std::fs::copy(&from, &new).and_then(|_| std::fs::rename(&new, &to));
    copied.map_err(|error| Failure::new(format!("{} can't be copied to {}: {error}", from.display(), directory.display())))?;
    output.result(&json!({ "shim": to }), || format!("{} is in place", to.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `teemate node start`.
pub fn start(start: &NodeStart, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    if start.foreground { foreground(start, socket) } else { background(start, socket, output) }
}

fn options(start: &NodeStart, socket: &Path) -> Options {
    Options {
        socket: socket.to_owned(),
        program: None,
        state: start.state.clone(),
        image: start.image.clone(),
        sharing: start.sharing.into(),
        listen: start.listen.clone(),
        arguments: start.arguments.clone(),
        patience: Duration::from_millis(start.timeout),
    }
}

/// Where the log of a node goes that runs in the background: to its state, else beside its socket.
fn log_path(start: &NodeStart, socket: &Path) -> PathBuf {
    let directory = start.state.as_deref().or(socket.parent()).unwrap_or(Path::new("."));
    directory.join("node.log")
}

fn background(start: &NodeStart, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let log = log_path(start, socket);
    let progress = output.progress("starting the node: enclave, function service, zygote");
    let started = node::start(&options(start, socket), &log);
    progress.finish_and_clear();
    let (_child, status) = started?;
    let document = json!({ "status": status, "socket": socket, "log": log });
    output.result(&document, || format!("{}\nsocket      {}\nlog         {}", describe(&status), socket.display(), log.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn foreground(start: &NodeStart, socket: &Path) -> Result<ExitCode, Failure> {
    let mut command = node::command(&options(start, socket))?;
    // exec(2): signals and the exit code are the node's own.
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    Err(Failure::new(format!("{} can't be started: {error}", command.get_program().display())))
}

fn stop(socket: &Path, patience: Duration, output: &Output) -> Result<ExitCode, Failure> {
    let progress = output.progress("stopping the node: calls under way may finish");
    let stopped = node::stop(socket, patience);
    progress.finish_and_clear();
    stopped?;
    output.result(&json!({ "stopped": true }), || "the node has stopped".to_owned())?;
    Ok(ExitCode::SUCCESS)
}

fn upgrade(image: &Path, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    // The node has its own directory.
    let image = std::path::absolute(image)?;
    let mut connection = Connection::open(socket)?;
    let progress = output.progress("building the new enclave; the old one serves until it stands");
    let answer = connection.ask(&Request::Upgrade { image });
    progress.finish_and_clear();
    let mrenclave = match answer? {
        Response::Upgraded { mrenclave } => mrenclave,
        other => return Err(connection.unexpected(&other).into()),
    };
    output.result(&json!({ "mrenclave": mrenclave }), || format!("the node runs MRENCLAVE {} now", harmless(&mrenclave)))?;
    Ok(ExitCode::SUCCESS)
}

fn status(socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let status = connect(socket)?.status()?;
    output.result(&status, || describe(&status))?;
    let sane = status.protocol == teemate_control::PROTOCOL;
    Ok(if sane { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn describe(status: &Status) -> String {
    let note = if status.device == "simulator" { " (protects nothing: for tests and development)" } else { "" };
    harmless(&format!(
        "node        {} (protocol {}), pid {}, up {}\ndevice      {}{note}\nsharing     {}\nMRENCLAVE   {}\nendpoint    {}\ncalls       {} answered, {} under way",
        status.version,
        status.protocol,
        status.pid,
        duration(status.uptime_s.saturating_mul(1000)),
        status.device,
        node::sharing_name(status.sharing),
        if status.mrenclave.is_empty() { "-" } else { &status.mrenclave },
        status.endpoint.as_ref().map_or_else(|| "-".to_owned(), |endpoint| format!("https://{endpoint}")),
        status.calls,
        status.running,
    ))
}
