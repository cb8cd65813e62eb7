//! `teemate db`.

mod connection;
mod transfer;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use teemate_attestation::Endpoint;
use teemate_attestation::database::Known;
use teemate_attestation::memory::Memory;
use teemate_client::node::image_beside;

use self::connection::{Connection, password};
use super::{node, policy};
use crate::arguments::database::{Claim, Database, Start, WitnessAway, WitnessSync};
use crate::arguments::{NodeStart, SharingName};
use crate::failure::Failure;
use crate::output::Output;

/// Name of the image.
const IMAGE: &str = "database.teemate";
/// Most bytes of a witness's certificates.
const MAX_ROOTS: u64 = 64 << 10;

/// Carries out a `db` command.
pub fn run(command: &Database, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Database::Start(arguments) => start(arguments, socket, output),
        Database::Claim(arguments) => claim(arguments, output),
        Database::Export(arguments) => transfer::export(arguments, output),
        Database::Import(arguments) => transfer::import(arguments, output),
    }
}

fn start(arguments: &Start, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let image = arguments.image.clone().or_else(|| image_beside(IMAGE));
    let image = image.ok_or_else(|| {
        Failure::new(format!("there is no {IMAGE} beside this program: build one with `cargo xtask build`, and name it with --image"))
    })?;
    let data = std::path::absolute(&arguments.data)?;
    let counter = match &arguments.witness_directory {
        Some(directory) => vec!["--witness-directory".into(), std::path::absolute(directory)?.into_os_string()],
        None => Vec::new(),
    };
    let start = NodeStart {
        foreground: arguments.foreground,
        image: Some(image),
        state: Some(arguments.state.clone().unwrap_or_else(|| data.join("node"))),
        sharing: SharingName::Shared,
        listen: Some(arguments.listen.clone()),
        timeout: arguments.timeout,
        // Apart from the node's own: what the enclave can reach is below this.
        arguments: [vec!["--data".into(), data.join("files").into_os_string()], counter, arguments.arguments.clone()].concat(),
    };
    if arguments.witness_directory.is_some() {
        eprintln!("warning: a counter on this machine tells accidents, and no host that means it: see `teemate witness`");
    }
    node::start(&start, socket, output)
}

fn endpoint(text: &str) -> Result<Endpoint, Failure> {
    text.parse().map_err(|why| Failure::usage(format!("{text:?} is no endpoint: {why}")))
}

fn claim(arguments: &Claim, output: &Output) -> Result<ExitCode, Failure> {
    let endpoint = endpoint(&arguments.endpoint)?;
    let password = password(&arguments.password_file)?;
    let witness = witness(arguments)?;
    let connector = policy::connector(&arguments.judge, None)?;
    let known = known(arguments.accept_database)?;
    // One that was known by another name is not what is to be claimed here.
    let mut connection = Connection::open(&connector, &endpoint, &known)?;
    let words = [&["config", "set", "requirepass", &password].map(str::to_owned)[..], &witness].concat();
    if let Err(failure) = connection.expect_ok(&words) {
        let why = match failure.message() {
            why if why.starts_with("NOAUTH") => {
                "it has an owner already. If that should be you: somebody else was first, or the host shows you another database"
            }
            why => why,
        };
        return Err(Failure::new(format!("{endpoint} was not claimed: {why}")));
    }
    // From now on it is known, with its witness.
    let identity = connection.identify(&known)?;
    let document = json!({
        "endpoint": endpoint.to_string(),
        "claimed": true,
        "database": identity.database,
        "protection": identity.protection,
        "epoch": identity.epoch,
    });
    output.result(&document, || {
        let warning = match identity.witness {
            Some(_) => "",
            None => "\nwithout a witness (--witness) its host can put back an old state of it: a new start of its enclave does not notice",
        };
        format!(
            "{endpoint} is yours: its password is set, and kept sealed; {identity}\n\
             clients reach it by `teemate proxy --endpoint {endpoint} --protocol redis`{warning}"
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What is known of databases, where this user keeps it.
pub fn known(accept: bool) -> Result<Known, Failure> {
    let path = Memory::default_path()
        .ok_or_else(|| Failure::new("there is no place to remember databases: neither HOME nor XDG_STATE_HOME is set"))?;
    Ok(Known { path, accept })
}

/// The settings of the witness, if there shall be one.
fn witness(arguments: &Claim) -> Result<Vec<String>, Failure> {
    let (Some(address), Some(file)) = (&arguments.witness, &arguments.witness_ca) else { return Ok(Vec::new()) };
    let mut roots = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_ROOTS).read_to_string(&mut roots));
    read.map_err(|error| Failure::new(format!("{} can't be read as certificates in PEM: {error}", file.display())))?;
    let mut words = vec!["witness".to_owned(), address.clone(), "witness-ca".to_owned(), roots];
    if let Some(sync) = arguments.witness_sync {
        words.extend(["witness-sync".to_owned(), if sync == WitnessSync::Always { "always" } else { "everysec" }.to_owned()]);
    }
    if let Some(away) = arguments.witness_away {
        words.extend(["witness-away".to_owned(), if away == WitnessAway::Refuse { "refuse" } else { "continue" }.to_owned()]);
    }
    Ok(words)
}
