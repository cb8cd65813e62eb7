//! `teemate witness`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// The witness of databases.
#[derive(Debug, Subcommand)]
pub enum Witness {
    /// Serve, until it is killed. On a machine whose operator is not the databases' host: else it is worth nothing.
    Serve(Serve),
    /// Take the next state that a database shows for its newest, though more is known: a backup that its owner has put back. Once.
    Accept(Accept),
    /// Tell which databases are known, and how far they have come.
    Show(Directory),
}

/// Where it remembers.
#[derive(Debug, Args)]
pub struct Directory {
    /// Where it keeps its key, its certificate and what it remembers. Whoever can write there can make it forget.
    #[arg(long, env = "TEEMATE_WITNESS", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

/// `teemate witness serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where databases reach it, by TLS.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6391")]
    pub listen: SocketAddr,
    /// Name or address by which databases reach it, for its certificate, which is made at the first start; repeatable. The address at which
    /// it listens is in it in any case.
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Where it remembers.
    #[command(flatten)]
    pub directory: Directory,
}

/// `teemate witness accept`.
#[derive(Debug, Args)]
pub struct Accept {
    /// The database, as its error at the start and `teemate witness show` name it.
    pub database: String,
    /// Where the witness remembers.
    #[command(flatten)]
    pub directory: Directory,
}
