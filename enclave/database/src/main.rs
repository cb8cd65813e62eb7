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
    /// A setting, as CONFIG SET has it; can be given several times.
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
    for setting in arguments.settings.chunks(2) {
        if let [name, value] = setting {
            config.set_at_start(name, value).map_err(|why| format!("{name} can't be {value:?}: {why}"))?;
        }
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
    shared.port = port;
    println!("listening on 127.0.0.1:{port}");
    Server::new(Native::new(listener)?, store, shared).run()?;
    Ok(())
}
