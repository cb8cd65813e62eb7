//! `teemate db`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::attestation::Judge;
use crate::value;

/// The confidential database.
#[derive(Debug, Subcommand)]
pub enum Database {
    /// Start a node whose enclave is the database, and wait until it answers. `teemate node stop` and `status` are for it, too.
    Start(Start),
    /// Verify a database that nobody owns, and become its owner by setting its password.
    Claim(Claim),
    /// Verify a database, and write everything that is in it, as of one moment, into a plain RDB file, which Redis 7.0 loads.
    Export(Export),
    /// Verify a database, and put everything that is in an RDB file into it, in the place of what there is: all of it, or nothing.
    Import(Import),
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
    /// Directory, best on another disk, of a counter that tells a state that was put back by accident. It is this machine's: against a host
    /// that means it only a witness helps (`teemate witness serve`, `teemate db claim --witness`).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub witness_directory: Option<PathBuf>,
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
    /// `https://HOST:PORT` of a witness that remembers how far the database has come: without it a host can put back an old state
    /// unnoticed.
    #[arg(long, value_name = "URL", requires = "witness_ca")]
    pub witness: Option<String>,
    /// Certificate of the witness, or of who signed it, in PEM.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "witness")]
    pub witness_ca: Option<PathBuf>,
    /// When the witness is told.
    #[arg(long, value_enum, value_name = "WHEN", requires = "witness")]
    pub witness_sync: Option<WitnessSync>,
    /// What happens to writes while the witness can't be told.
    #[arg(long, value_enum, value_name = "WHAT", requires = "witness")]
    pub witness_away: Option<WitnessAway>,
    /// Claim it though another database was known at this endpoint.
    #[arg(long)]
    pub accept_database: bool,
    /// What the enclave's quote must satisfy.
    #[command(flatten)]
    pub judge: Judge,
}

/// Which database, and who asks.
#[derive(Debug, Args)]
pub struct Access {
    /// `https://HOST:PORT` of the enclave.
    pub endpoint: String,
    /// User of the database: one who may call commands of the category `dangerous`.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub user: String,
    /// File with the user's password, up to the first line's end; - for stdin.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: PathBuf,
    /// Take it for the right one though another database was known at this endpoint.
    #[arg(long)]
    pub accept_database: bool,
    /// What the enclave's quote must satisfy.
    #[command(flatten)]
    pub judge: Judge,
}

/// `teemate db export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Which database, and who asks.
    #[command(flatten)]
    pub access: Access,
    /// File to write, in the place of what has this name when all of it has come. Not encrypted: whoever can read it reads everything.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

/// `teemate db import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Which database, and who asks.
    #[command(flatten)]
    pub access: Access,
    /// RDB file, of Redis up to 7.2 or of `teemate db export`.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Replace what the database has. Without this it must be empty.
    #[arg(long)]
    pub replace: bool,
}

/// The setting witness-sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WitnessSync {
    /// Before anybody is answered.
    Always,
    /// About once a second.
    Everysec,
}

/// The setting witness-away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WitnessAway {
    /// They are refused.
    Refuse,
    /// They go on, with a warning in INFO.
    Continue,
}
