//! `teemate db`.

mod connection;
mod transfer;

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use teemate_attestation::Endpoint;
use teemate_client::node::image_beside;

use self::connection::{Connection, password};
use super::{node, policy};
use crate::arguments::database::{Claim, Database, Start};
use crate::arguments::{NodeStart, SharingName};
use crate::failure::Failure;
use crate::output::Output;

/// Name of the image.
const IMAGE: &str = "database.teemate";

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
    let start = NodeStart {
        foreground: arguments.foreground,
        image: Some(image),
        state: Some(arguments.state.clone().unwrap_or_else(|| data.join("node"))),
        sharing: SharingName::Shared,
        listen: Some(arguments.listen.clone()),
        timeout: arguments.timeout,
        // Apart from the node's own: what the enclave can reach is below this.
        arguments: [vec!["--data".into(), data.join("files").into_os_string()], arguments.arguments.clone()].concat(),
    };
    node::start(&start, socket, output)
}

fn endpoint(text: &str) -> Result<Endpoint, Failure> {
    text.parse().map_err(|why| Failure::usage(format!("{text:?} is no endpoint: {why}")))
}

fn claim(arguments: &Claim, output: &Output) -> Result<ExitCode, Failure> {
    let endpoint = endpoint(&arguments.endpoint)?;
    let password = password(&arguments.password_file)?;
    let connector = policy::connector(&arguments.judge, None)?;
    let mut connection = Connection::open(&connector, &endpoint)?;
    if let Err(failure) = connection.expect_ok(&["config", "set", "requirepass", &password]) {
        let why = match failure.message() {
            why if why.starts_with("NOAUTH") => {
                "it has an owner already. If that should be you: somebody else was first, or the host shows you another database"
            }
            why => why,
        };
        return Err(Failure::new(format!("{endpoint} was not claimed: {why}")));
    }
    output.result(&json!({ "endpoint": endpoint.to_string(), "claimed": true }), || {
        format!("{endpoint} is yours: its password is set, and kept sealed\nclients reach it by `teemate proxy --endpoint {endpoint} --protocol redis`")
    })?;
    Ok(ExitCode::SUCCESS)
}
