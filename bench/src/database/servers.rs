//! The servers that are compared, each a process of its own, empty at its start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustls::{ClientConnection, StreamOwned};
use serde::Serialize;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::memory;
use teemate_tests::redis::{Redis, Reply};
use teemate_tests::running::Node;

use super::load::Target;
use super::tls;
use crate::footprint;

/// Password of our enclave: it serves nobody without.
const PASSWORD: &str = "bench";
/// How long a server may take to answer, and a snapshot to end.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Debian's redis-server, in the clear.
    Redis,
    /// Our server as an ordinary program, in the clear.
    Native,
    /// Debian's redis-server under TLS.
    RedisTls,
    /// Our server in the shared enclave: TLS alone.
    Shared,
    /// The paper's Strawman: another enclave, and a copy of everything in it. Figure 11 alone.
    Exclusive,
}

impl Kind {
    /// For tables and figures.
    pub const fn title(self) -> &'static str {
        match self {
            Kind::Redis => "Redis",
            Kind::Native => "native",
            Kind::RedisTls => "Redis, TLS",
            Kind::Shared => "shared (TLS)",
            Kind::Exclusive => "exclusive",
        }
    }

    /// Redis with the same encryption of its connections as ours.
    pub const fn rival(self) -> Option<Kind> {
        match self {
            Kind::Native => Some(Kind::Redis),
            Kind::Shared => Some(Kind::RedisTls),
            Kind::Redis | Kind::RedisTls | Kind::Exclusive => None,
        }
    }
}

enum Process {
    Program { child: Child, _directory: tempfile::TempDir },
    Node(Box<Node>),
}

/// A server of one's own.
pub struct Server {
    /// Who.
    pub kind: Kind,
    /// Where its clients ask.
    pub target: Target,
    process: Process,
}

/// A connection for orders.
pub enum Control {
    /// In the clear.
    Plain(Redis),
    /// Under TLS.
    Tls(Box<Redis<StreamOwned<ClientConnection, TcpStream>>>),
}

impl Server {
    /// Starts one, and waits until it answers.
    pub fn start(kind: Kind, artifacts: &Artifacts) -> Result<Server> {
        match kind {
            Kind::Redis | Kind::RedisTls => redis(kind),
            Kind::Native => native(artifacts),
            Kind::Shared => enclave(artifacts),
            Kind::Exclusive => bail!("the exclusive way is made of two servers"),
        }
    }

    /// A connection for orders.
    pub fn control(&self) -> Result<Control> {
        control(&self.target)
    }

    /// Memory of all that belongs to it, in KiB: EPC, and what its processes have besides; shared pages counted once.
    pub fn memory_kib(&self) -> Result<u64> {
        match &self.process {
            Process::Node(node) => footprint::now(node).map(|(_, resident, _)| resident).context("the node does not tell its memory"),
            Process::Program { child, .. } => Ok(memory::of(&memory::family(child.id())).pss_kib),
        }
    }

    /// Ends the process that Redis forked, if there is one: what was to be measured of it has been.
    pub fn end_fork(&self) {
        if let Process::Program { child, .. } = &self.process {
            for pid in memory::family(child.id()).into_iter().skip(1) {
                if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Program { child, .. } => {
                let _ = child.kill();
                let _ = child.wait();
            }
            // In order it would write everything first.
            Process::Node(node) => drop(node.crash()),
        }
    }
}

impl Control {
    /// Sends a command and waits for its reply; an error is one here, too.
    pub fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        let reply = match self {
            Control::Plain(redis) => redis.call(words)?,
            Control::Tls(redis) => redis.call(words)?,
        };
        match reply {
            Reply::Error(why) => Err(anyhow!("{}: {why}", words.join(" "))),
            reply => Ok(reply),
        }
    }

    /// A number of INFO.
    pub fn number(&mut self, field: &str) -> Result<u64> {
        let text = self.text(field)?;
        text.parse().with_context(|| format!("INFO's {field} is {text:?}"))
    }

    fn text(&mut self, field: &str) -> Result<String> {
        let value = match self {
            Control::Plain(redis) => redis.info(field)?,
            Control::Tls(redis) => redis.info(field)?,
        };
        value.with_context(|| format!("INFO has no {field}"))
    }

    /// Whether a snapshot is under way.
    pub fn is_saving(&mut self) -> Result<bool> {
        Ok(self.number("rdb_bgsave_in_progress")? != 0)
    }

    /// Waits for the end of the snapshot under way; it must have ended well.
    pub fn saved(&mut self) -> Result<()> {
        self.ended()?;
        match self.text("rdb_last_bgsave_status")?.as_str() {
            "ok" => Ok(()),
            _ => bail!("the snapshot failed: {}", self.text("rdb_last_bgsave_error").unwrap_or_default()),
        }
    }

    /// Waits for the end of the snapshot under way.
    pub fn ended(&mut self) -> Result<()> {
        let begin = Instant::now();
        while self.is_saving()? {
            if begin.elapsed() > PATIENCE {
                bail!("the snapshot does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn control(target: &Target) -> Result<Control> {
    let stream = TcpStream::connect(target.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut control = match &target.tls {
        None => Control::Plain(Redis::over(stream)),
        Some(config) => Control::Tls(Box::new(Redis::over(StreamOwned::new(tls::client(config)?, stream)))),
    };
    if let Some(password) = target.password {
        control.ask(&["auth", password])?;
    }
    Ok(control)
}

/// A port that is free now.
fn port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn redis(kind: Kind) -> Result<Server> {
    let directory = tempfile::tempdir()?;
    let port = port()?.to_string();
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir"]).arg(directory.path());
    let tls = if kind == Kind::RedisTls {
        let (certificate, key) = (directory.path().join("certificate.pem"), directory.path().join("key.pem"));
        tls::certificate(&certificate, &key)?;
        command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no", "--tls-cert-file"]).arg(certificate);
        command.arg("--tls-key-file").arg(key);
        Some(tls::config()?)
    } else {
        command.args(["--port", &port]);
        None
    };
    program(kind, command, directory, &port, tls)
}

fn native(artifacts: &Artifacts) -> Result<Server> {
    let directory = tempfile::tempdir()?;
    let (key, port) = (directory.path().join("key"), port()?.to_string());
    std::fs::write(&key, "00112233445566778899aabbccddeeff\n")?;
    let mut command = Command::new(artifacts.program("teemate-database"));
    command.args(["--port", &port, "--dir"]).arg(directory.path()).arg("--sealing-key").arg(key);
    program(Kind::Native, command, directory, &port, None)
}

fn program(
    kind: Kind,
    mut command: Command,
    directory: tempfile::TempDir,
    port: &str,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<Server> {
    let name = Path::new(command.get_program()).display().to_string();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| format!("{name} can't be started"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    let target = Target { address, tls, password: None };
    let mut server = Server { kind, target, process: Process::Program { child, _directory: directory } };
    let begin = Instant::now();
    loop {
        match server.control().and_then(|mut control| control.ask(&["ping"])) {
            Ok(_) => return Ok(server),
            Err(error) if begin.elapsed() > Duration::from_secs(20) => return Err(error.context(format!("{name} does not answer"))),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        if let Process::Program { child, .. } = &mut server.process
            && let Some(status) = child.try_wait()?
        {
            bail!("{name} ended with {status}");
        }
    }
}

fn enclave(artifacts: &Artifacts) -> Result<Server> {
    let node = Node::start_database(artifacts).map_err(|error| anyhow!(error))?;
    let mut target = Target { address: node.endpoint(), tls: Some(tls::config()?), password: None };
    control(&target)?.ask(&["config", "set", "requirepass", PASSWORD])?;
    target.password = Some(PASSWORD);
    control(&target)?.ask(&["config", "set", "save", ""])?;
    Ok(Server { kind: Kind::Shared, target, process: Process::Node(Box::new(node)) })
}
