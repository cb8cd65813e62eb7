//! `attest`, `verify`, `policy`, `proxy`, `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::value;

/// Where the policy is.
#[derive(Clone, Debug, Args)]
pub struct PolicyFile {
    /// What is accepted as an enclave [default: policy.toml in $XDG_CONFIG_HOME/teemate, else in ~/.config/teemate].
    #[arg(long, env = "TEEMATE_POLICY", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
}

/// What quotes are verified with.
#[derive(Clone, Debug, Args)]
pub struct Judge {
    /// What is accepted.
    #[command(flatten)]
    pub policy: PolicyFile,
    /// TCB information and revocation lists of the processor's maker, JSON [default: what the policy names].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub collateral: Option<PathBuf>,
}

/// `teemate attest`.
#[derive(Debug, Args)]
pub struct Attest {
    /// `https://HOST:PORT` of the enclave [default: the profile's].
    #[arg(value_name = "URL", conflicts_with = "node")]
    pub endpoint: Option<String>,
    /// The enclave of the node at --socket; the node is only asked where it listens.
    #[arg(long)]
    pub node: bool,
    /// Nonce that the quote must answer: 32 bytes in hexadecimal or base64url [default: drawn at random].
    #[arg(long, value_name = "NONCE")]
    pub nonce: Option<String>,
    /// Keep quote and binding in a file, for `teemate verify`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub save: Option<PathBuf>,
    /// Accept the store that the enclave presents, though it is another or older than the one that was seen before.
    #[arg(long)]
    pub accept_store: bool,
    /// What quotes are verified with.
    #[command(flatten)]
    pub judge: Judge,
}

/// `teemate verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The file; - for stdin.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Fail unless the quote answers this nonce.
    #[arg(long, value_name = "NONCE")]
    pub nonce: Option<String>,
    /// Fail unless the receipt is about these parameters.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub input: Option<PathBuf>,
    /// Fail unless the receipt is about this result.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Verify as of then, as 2026-11-20T09:30:00Z: collateral that has ended since is taken [default: now].
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// What quotes are verified with.
    #[command(flatten)]
    pub judge: Judge,
}

/// `teemate policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Write a policy.
    Init(PolicyInit),
    /// Read a policy and tell what is wrong with it.
    Check(PolicyFile),
    /// Show what a policy accepts, defaults included.
    Show(PolicyFile),
}

/// `teemate policy init`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("identity").required(true).multiple(true).args(["mrenclave", "mrsigner", "image"]))]
pub struct PolicyInit {
    /// Where it goes; - for stdout.
    #[command(flatten)]
    pub policy: PolicyFile,
    /// Accept the enclave of this measurement, in hexadecimal; repeatable.
    #[arg(long, value_name = "HEX")]
    pub mrenclave: Vec<String>,
    /// Accept the enclave of this image, which is measured; repeatable.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Vec<PathBuf>,
    /// Accept what this signer signs as --product, from --min-svn on.
    #[arg(long, value_name = "HEX", requires = "product", requires = "min_svn")]
    pub mrsigner: Option<String>,
    /// ISVPRODID.
    #[arg(long, value_name = "NUMBER", requires = "mrsigner")]
    pub product: Option<u16>,
    /// Least ISVSVN.
    #[arg(long, value_name = "NUMBER", requires = "mrsigner")]
    pub min_svn: Option<u16>,
    /// Accept simulated quotes, which prove nothing.
    #[arg(long)]
    pub insecure_simulation: bool,
    /// Replace a policy that is there.
    #[arg(long)]
    pub replace: bool,
}

/// What the proxy's clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1: a refusal is a page with status 502.
    Http,
    /// Redis's protocol: a refusal is an error reply.
    Redis,
    /// Any other over TCP: a refusal is a reset.
    Tcp,
}

/// `teemate proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// Where local clients connect.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// `https://HOST:PORT` of the enclave.
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// What local clients speak. The bytes go through as they are; this decides how a client is told that the endpoint is refused.
    #[arg(long, value_enum, default_value_t = Protocol::Http)]
    pub protocol: Protocol,
    /// Most connections at once; further ones wait.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// A connection on which nothing moves for so long is closed.
    #[arg(long, default_value = "15m", value_parser = value::milliseconds, value_name = "TIME")]
    pub idle: u64,
    /// Listen beyond this machine, though what clients send there is not encrypted.
    #[arg(long)]
    pub insecure_remote: bool,
    /// Take the database there for the right one, though another was known, a newer one, or one with another witness (--protocol redis).
    #[arg(long)]
    pub accept_database: bool,
    /// What quotes are verified with.
    #[command(flatten)]
    pub judge: Judge,
}

/// `teemate serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The web action: NAMESPACE/ACTION or NAMESPACE/PACKAGE/ACTION.
    pub action: String,
    /// `https://HOST:PORT` of the enclave.
    #[arg(long, env = "TEEMATE_ENDPOINT", value_name = "URL")]
    pub endpoint: String,
    /// Address to listen on. What comes there is not encrypted: in a pod only the pod's own proxy reaches it.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: std::net::IpAddr,
    /// Port to listen on; 0: any, and it is told.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Most connections at once; further ones wait.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// How long requests may take to finish when it is told to end.
    #[arg(long, default_value = "30s", value_parser = value::milliseconds, value_name = "TIME")]
    pub grace: u64,
    /// What quotes are verified with.
    #[command(flatten)]
    pub judge: Judge,
}
