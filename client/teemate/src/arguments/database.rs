//! `teemate db`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::attestation::Judge;
use crate::value;

/// The confidential database.
#[derive(Debug, Subcommand)]
pub enum Database {
    /// Start a node whose enclave is the database, and wait until it answers. `teemate node stop` and `status` are for it, too.
    Start(Start),
    /// Verify a database that nobody owns, and become its owner by setting its password.
    Claim(Claim),
}

/// `teemate db start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Where the database keeps its files, sealed: in `files` of this directory.
    #[arg(long, env = "TEEMATE_DATA", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data: PathBuf,
    /// Where the enclave answers its clients by attested TLS.
    #[arg(long, env = "TEEMATE_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:6390")]
    pub listen: String,
    /// Image of the enclave [default: database.teemate beside this program].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Where the node keeps its own state and its log [default: `node` in the data directory].
    #[arg(long, env = "TEEMATE_STATE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// Stay with the node until it ends; its log goes to stderr.
    #[arg(long)]
    pub foreground: bool,
    /// How long the start may take: what was kept is read.
    #[arg(long, default_value = "300s", value_parser = value::milliseconds, value_name = "TIME")]
    pub timeout: u64,
    /// Further arguments for teemate-node, after `--`.
    #[arg(last = true)]
    pub arguments: Vec<OsString>,
}

/// `teemate db claim`.
#[derive(Debug, Args)]
pub struct Claim {
    /// `https://HOST:PORT` of the enclave.
    pub endpoint: String,
    /// File with the password, up to the first line's end; - for stdin.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: PathBuf,
    /// What the enclave's quote must satisfy.
    #[command(flatten)]
    pub judge: Judge,
}
