//! The database as a program: serves Redis's clients over TCP on this machine.

mod allocator;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use teemate_database::config::Config;
use teemate_database::network::Native;
use teemate_database::persistence;
use teemate_database::persistence::disk::{Key, Storage, Witness};
use teemate_database::replication::link::Following;
use teemate_database::server::Server;
use teemate_database::shared::Shared;
use teemate_database::store::Store;
use teemate_sealed::{FileCounter, FixedSealing};

/// A key-value store that Redis's clients can talk to, with snapshots that start in constant time.
#[derive(Debug, Parser)]
#[command(name = "teemate-database", version)]
struct Arguments {
    /// TCP port on 127.0.0.1; 0 takes a free one and prints it.
    #[arg(long, default_value_t = 6379)]
    port: u16,
    /// Directory of the snapshot and of the append-only log.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// File name of the snapshot, which is read at the start.
    #[arg(long, default_value = "dump.rdb", value_name = "NAME")]
    dbfilename: String,
    /// File with the key that snapshots and log are sealed with: 32 hexadecimal digits. Outside of an enclave it protects from nobody who can
    /// read that file.
    #[arg(long, value_name = "FILE")]
    sealing_key: Option<PathBuf>,
    /// Snapshots are plain RDB files, which anybody with access to the directory can read and change. Without this and without a key nothing
    /// is kept.
    #[arg(long)]
    insecure_plain_rdb: bool,
    /// What the files belong to: those of another database do not open.
    #[arg(long, default_value = "database", value_name = "NAME")]
    name: String,
    /// Directory, best on another disk, of the counter that tells an old log or snapshot from the newest.
    #[arg(long, value_name = "DIR", requires = "sealing_key")]
    witness_directory: Option<PathBuf>,
    /// Keep an append-only log, as CONFIG SET appendonly yes does.
    #[arg(long, requires = "sealing_key")]
    appendonly: bool,
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
        ("dbfilename", arguments.dbfilename.as_str()),
        ("requirepass", &arguments.requirepass),
        ("save", &arguments.save),
        ("databases", &databases),
        ("appendonly", if arguments.appendonly { "yes" } else { "no" }),
    ];
    let others = arguments.settings.chunks(2).filter_map(|pair| Some((pair.first()?.as_str(), pair.get(1)?.as_str())));
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
    let mut shared = Shared::new(config, now);
    (shared.storage, shared.port, shared.replication.following) = (storage(arguments)?, port, Some(Following::plain()));
    let started = persistence::start(&mut store, &mut shared)?;
    if let Some(torn) = started.torn {
        eprintln!("teemate-database: {torn}");
    }
    if let Some(from) = started.from {
        eprintln!("teemate-database: {} keys from {from}", started.keys);
    }
    if arguments.port == 0 {
        println!("{port}");
    }
    Server::new(Native::new(listener)?, store, shared).run()?;
    Ok(())
}

fn storage(arguments: &Arguments) -> Result<Storage, Box<dyn std::error::Error>> {
    let key: Option<Key> = match &arguments.sealing_key {
        Some(path) => Some(Arc::new(FixedSealing::new(read_key(path)?))),
        None => None,
    };
    if key.is_none() && !arguments.insecure_plain_rdb {
        eprintln!(
            "teemate-database: nothing is kept: give --sealing-key FILE, or --insecure-plain-rdb for snapshots that anybody can read"
        );
    }
    let witness = arguments.witness_directory.as_ref().zip(key.clone()).map(|(directory, key)| {
        eprintln!(
            "teemate-database: the counter is a file on this machine: it tells an old state that was put back by accident, and \
                 no host that means it"
        );
        Arc::new(Mutex::new(FileCounter::new(directory, key, "", &arguments.name, "counter"))) as Witness
    });
    if witness.is_none() && arguments.appendonly {
        eprintln!("teemate-database: there is no --witness-directory: an older log that is put back is not noticed");
    }
    Ok(Storage { key, plain: arguments.insecure_plain_rdb, database: arguments.name.clone(), witness, ..Storage::default() })
}

fn read_key(path: &Path) -> Result<[u8; 16], Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    let number = Some(text.trim()).filter(|digits| digits.len() == 32).and_then(|digits| u128::from_str_radix(digits, 16).ok());
    Ok(number.ok_or_else(|| format!("{} does not hold 32 hexadecimal digits", path.display()))?.to_be_bytes())
}
