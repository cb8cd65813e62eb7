//! The database as a program.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use teemate_database::executor::Executor;
use teemate_database::serve::{Server, now_ms};
use teemate_database::shared::{Settings, Shared};
use teemate_database::store::Store;
use teemate_database::{commands, saving};

/// A key-value store that Redis clients talk to, with snapshots that start in constant time. Plain TCP on the loopback address; it does not
/// run in an enclave yet.
#[derive(Debug, Parser)]
#[command(name = "teemate-database", version)]
struct Options {
    /// Port on 127.0.0.1; 0: any, which is told on stdout.
    #[arg(long, default_value_t = 6379)]
    port: u16,
    /// Directory of snapshots.
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// File name of the snapshot, which is read at the start.
    #[arg(long, default_value = "dump.rdb", value_name = "NAME")]
    dbfilename: String,
    /// Password of the user `default`.
    #[arg(long, env = "TEEMATE_DATABASE_PASSWORD", hide_env_values = true, default_value = "", hide_default_value = true)]
    requirepass: String,
    /// When to make a snapshot by itself: pairs of seconds and changes.
    #[arg(long, default_value = "", value_name = "SECONDS CHANGES ...")]
    save: String,
    /// Databases.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    databases: u16,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let save = commands::save_points(&options.save).ok_or("--save wants pairs of seconds and changes, as in \"900 1 300 10\"")?;
    if options.dbfilename.is_empty() || options.dbfilename.contains('/') {
        return Err("--dbfilename wants a file name, without a path".to_owned());
    }
    let settings =
        Settings { password: options.requirepass, directory: options.dir, file: options.dbfilename, save, ..Settings::default() };
    let mut store = Store::new(options.databases.into());
    store.now = now_ms();
    let path = settings.directory.join(&settings.file);
    if let Some(keys) = saving::load(&mut store, &path).map_err(|error| error.to_string())? {
        eprintln!("{keys} keys read from {}", path.display());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .map_err(|error| format!("can't listen on port {}: {error}", options.port))?;
    if options.port == 0 {
        println!("{}", listener.local_addr().map_err(|error| error.to_string())?.port());
    }
    let now = store.now;
    let mut server = Server::new(Executor { store, shared: Shared::new(settings, now) }, listener).map_err(|error| error.to_string())?;
    server.run().map_err(|error| error.to_string())
}
