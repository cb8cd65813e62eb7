//! The database as a program: serves Redis's clients over TCP on this machine.

mod allocator;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use teemate_database::config::Config;
use teemate_database::network::Native;
use teemate_database::saving;
use teemate_database::server::Server;
use teemate_database::shared::Shared;
use teemate_database::store::Store;

/// A key-value store that Redis's clients can talk to, with snapshots that start in constant time.
#[derive(Debug, Parser)]
#[command(name = "teemate-database", version)]
struct Arguments {
    /// TCP port on 127.0.0.1; 0 takes a free one and prints it.
    #[arg(long, default_value_t = 6379)]
    port: u16,
    /// Directory of the snapshot.
    #[arg(long, default_value = ".")]
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
    /// Another setting, as CONFIG SET has it; can be given several times.
    #[arg(long = "set", value_names = ["NAME", "VALUE"], num_args = 2)]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teemate-database: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    let databases = arguments.databases.to_string();
    let named = [
        ("dbfilename", &arguments.dbfilename),
        ("requirepass", &arguments.requirepass),
        ("save", &arguments.save),
        ("databases", &databases),
    ];
    let others = arguments.settings.chunks(2).filter_map(|pair| Some((pair.first()?.as_str(), pair.get(1)?)));
    for (name, value) in named.into_iter().chain(others) {
        config.set_at_start(name, value).map_err(|why| format!("{name} can't be {value:?}: {why}"))?;
    }
    // Clients are on this machine; who is elsewhere comes through the gateway, with TLS.
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), arguments.port))?;
    let port = listener.local_addr()?.port();
    config.set_at_start("port", &port.to_string())?;
    config.set_at_start("dir", &std::fs::canonicalize(&arguments.dir)?.to_string_lossy())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let mut store = Store::new(usize::try_from(config.number("databases")).unwrap_or(16));
    store.now = now;
    let path = saving::path(&config);
    if let Some(keys) = saving::load(&mut store, &path)? {
        eprintln!("teemate-database: {keys} keys from {}", path.display());
    }
    let mut shared = Shared::new(config, now);
    (shared.port, shared.saving.changes) = (port, store.changes);
    if arguments.port == 0 {
        println!("{port}");
    }
    Server::new(Native::new(listener)?, store, shared).run()?;
    Ok(())
}
