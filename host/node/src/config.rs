//! What the operator decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use teemate_control::node::Sharing;
use teemate_control::service::Nodes;

use crate::gateway::{self, Listen};

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// SGX if the machine has it, else the simulator.
    Auto,
    /// Only SGX.
    Sgx,
    /// The simulator, which protects nothing.
    Simulator,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The node: runs functions in containers, many of which share one enclave.
///
/// Runs in the foreground until it is told to stop (SIGTERM, SIGINT, or `teemate node stop`). The log goes to standard error;
/// `RUST_LOG` sets its level.
#[derive(Clone, Debug, Parser)]
#[command(name = "teemate-node", version)]
pub struct Config {
    /// Where functions are kept. Created if it is missing; only one node may use it.
    #[arg(long, env = "TEEMATE_STATE", default_value_os_t = default_state())]
    pub state: PathBuf,
    /// Where the node listens.
    #[arg(long, env = "TEEMATE_SOCKET", default_value_os_t = default_socket())]
    pub socket: PathBuf,
    /// Where the enclave answers its clients by attested TLS, or `none`. Only in shared mode.
    #[arg(long, env = "TEEMATE_LISTEN", value_parser = gateway::address, default_value = "127.0.0.1:8443")]
    pub listen: Listen,
    /// The enclave's image; not needed in native mode.
    #[arg(long, env = "TEEMATE_IMAGE")]
    pub image: Option<PathBuf>,
    /// Directory in which the payload keeps files of its own, sealed: a database's. Created if it is missing. Without it the payload keeps
    /// none.
    #[arg(long, env = "TEEMATE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Directory, best on another disk, of a counter that tells a database that was put back by accident. Created if it is missing.
    #[arg(long, value_name = "DIR", requires = "data")]
    pub witness_directory: Option<PathBuf>,
    /// The payload as an ordinary program, for native mode.
    #[arg(long, default_value_os_t = beside("teemate-functions"))]
    pub native_payload: PathBuf,
    /// The program that becomes the containers' processes.
    #[arg(long, default_value_os_t = beside("teemate-zygote"))]
    pub zygote: PathBuf,
    /// Which enclave device to use.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Where the machine's quoting service answers (hardware).
    #[arg(long, value_name = "PATH", default_value = teemate_quoting::DEFAULT_SOCKET)]
    pub aesm_socket: PathBuf,
    /// Let other nodes follow this one: they copy its owners and what those deployed, enclave to enclave.
    #[arg(long, conflicts_with = "join")]
    pub accept_nodes: bool,
    /// Follow the node whose enclave answers there: serve its owners, too.
    #[arg(long, value_name = "https://HOST:PORT")]
    pub join: Option<String>,
    /// Collateral for the quotes of other nodes' processors (hardware).
    #[arg(long, value_name = "FILE")]
    pub collateral: Option<PathBuf>,
    /// How calls and enclaves relate, unless a call says otherwise.
    #[arg(long, value_parser = sharing, default_value = "shared")]
    pub sharing: Sharing,
    /// The most EPC that an enclave may have, in bytes or with K, M, G. The simulator enforces it; on SGX the enclave keeps its containers to
    /// it. 0: no limit.
    #[arg(long, value_parser = size, default_value = "0")]
    pub epc_limit: u64,
    /// The most function containers at one time.
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=3000), default_value = "256")]
    pub max_containers: usize,
    /// Containers of the shared enclave that are made ahead of their calls, each with a thread of the enclave, and kept ready. 0: each call
    /// makes its own.
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=256), default_value = "4")]
    pub ready_containers: usize,
    /// Threads of the enclave kept for the payload itself; containers share the rest.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=512), default_value = "24")]
    pub service_threads: u32,
    /// The most enclaves of the image: the one that serves, and workers that are built when it has no room for a call. 1: no workers.
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=16), default_value = "1")]
    pub enclaves: usize,
    /// How long a worker enclave stays without being given a call, in seconds.
    #[arg(long, value_parser = seconds, default_value = "60")]
    pub worker_idle: Duration,
    /// The most calls that wait for a thread of the enclave.
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=65536), default_value = "4096")]
    pub queue: usize,
    /// How long a call waits for a thread of the enclave, in seconds.
    #[arg(long, value_parser = seconds, default_value = "30")]
    pub queue_timeout: Duration,
    /// How long calls under way have when the node stops, in seconds.
    #[arg(long, value_parser = seconds, default_value = "10")]
    pub stop_grace: Duration,
    /// Serve Prometheus metrics by HTTP at this address, for example 127.0.0.1:9464. Whoever reaches it reads them.
    #[arg(long, value_parser = address)]
    pub metrics_address: Option<SocketAddr>,
    /// How the log looks.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Write the process id to this file when the node answers; removed at its end. Default: `node.pid` in the state directory.
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Write a line to this inherited descriptor when the node answers, and close it.
    #[arg(long, value_parser = clap::value_parser!(i32).range(3..))]
    pub ready_fd: Option<i32>,
}

impl Config {
    /// What this node is to others, if anything.
    ///
    /// # Errors
    /// When the collateral can't be read.
    pub fn nodes(&self) -> std::io::Result<Option<Nodes>> {
        if !self.accept_nodes && self.join.is_none() {
            return Ok(None);
        }
        let collateral = self.collateral.as_ref().map(std::fs::read_to_string).transpose()?;
        Ok(Some(Nodes { join: self.join.clone(), collateral }))
    }

    /// Where the process id is written.
    pub fn pid_path(&self) -> PathBuf {
        self.pid_file.clone().unwrap_or_else(|| self.state.join("node.pid"))
    }
}

fn default_state() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/teemate");
    }
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map_or_else(|| PathBuf::from("/var/lib/teemate"), |base| base.join("teemate"))
}

/// The same as the command line's.
fn default_socket() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() => directory.join("teemate/node.sock"),
        _ => PathBuf::from("/run/teemate/node.sock"),
    }
}

/// A program in the directory of this one.
fn beside(name: &str) -> PathBuf {
    std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name))).unwrap_or_else(|| PathBuf::from(name))
}

fn sharing(text: &str) -> Result<Sharing, String> {
    match text {
        "native" => Ok(Sharing::Native),
        "exclusive" => Ok(Sharing::Exclusive),
        "shared" => Ok(Sharing::Shared),
        _ => Err("it must be native, exclusive or shared".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(|c: char| c.is_ascii_alphabetic()) {
        Some(digits) => match text.as_bytes().last() {
            Some(b'K' | b'k') => (digits, 10),
            Some(b'M' | b'm') => (digits, 20),
            Some(b'G' | b'g') => (digits, 30),
            _ => return Err("the unit must be K, M or G".to_owned()),
        },
        None => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "it must be a number of bytes, with K, M or G if you like".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it must be a number of seconds from 0 to 86400".to_owned()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an address and a port, such as 127.0.0.1:9464".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("7"), Ok(7));
        for bad in ["", "M", "1T", "-1", "99999999999G", "1.5M"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        assert!(address("127.0.0.1:1").is_ok() && address("localhost").is_err());
        assert!(seconds("0.5").is_ok() && seconds("nan").is_err() && seconds("-1").is_err());
        let parse = |arguments: &[&str]| Config::try_parse_from([&["teemate-node"], arguments].concat());
        assert!(parse(&["--sharing", "native"]).is_ok());
        for bad in [
            ["--sharing", "x"],
            ["--max-containers", "0"],
            ["--ready-fd", "1"],
            ["--service-threads", "0"],
            ["--enclaves", "0"],
            ["--worker-idle", "x"],
            ["--listen", "x"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }
}
