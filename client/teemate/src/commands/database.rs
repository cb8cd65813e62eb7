//! `teemate db`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use teemate_attestation::Endpoint;
use teemate_client::node::image_beside;

use super::{node, policy};
use crate::arguments::database::{Claim, Database, Start};
use crate::arguments::{NodeStart, SharingName};
use crate::failure::Failure;
use crate::output::{Output, harmless};

/// Name of the image.
const IMAGE: &str = "database.teemate";
/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest password, and longest line of a reply.
const LINE: u64 = 4096;

/// Carries out a `db` command.
pub fn run(command: &Database, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Database::Start(arguments) => start(arguments, socket, output),
        Database::Claim(arguments) => claim(arguments, output),
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

fn claim(arguments: &Claim, output: &Output) -> Result<ExitCode, Failure> {
    let endpoint: Endpoint =
        arguments.endpoint.parse().map_err(|why| Failure::usage(format!("{:?} is no endpoint: {why}", arguments.endpoint)))?;
    let password = password(&arguments.password_file)?;
    let connector = policy::connector(&arguments.judge, None)?;
    let mut stream = connector.connect(&endpoint)?;
    stream.set_deadline(Some(Instant::now() + PATIENCE));
    let mut request = Vec::new();
    for word in ["*4", "$6", "config", "$3", "set", "$11", "requirepass", &format!("${}", password.len()), &password] {
        request.extend(word.bytes().chain(*b"\r\n"));
    }
    stream.write_all(&request)?;
    stream.flush()?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE)).read_line(&mut line)?;
    let line = line.trim_end();
    if line != "+OK" {
        let why = match line.strip_prefix('-') {
            Some(why) if why.starts_with("NOAUTH") => {
                "it has an owner already. If that should be you: somebody else was first, or the host shows you another database".to_owned()
            }
            Some(why) => harmless(why),
            None => format!("it does not answer as a database: {:?}", harmless(line)),
        };
        return Err(Failure::new(format!("{endpoint} was not claimed: {why}")));
    }
    output.result(&json!({ "endpoint": endpoint.to_string(), "claimed": true }), || {
        format!("{endpoint} is yours: its password is set, and kept sealed\nclients reach it by `teemate proxy --endpoint {endpoint} --protocol redis`")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The first line of a file.
fn password(path: &Path) -> Result<String, Failure> {
    let mut line = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(LINE).read_line(&mut line)
    } else {
        std::fs::File::open(path).and_then(|file| BufReader::new(file.take(LINE)).read_line(&mut line))
    };
    read.map_err(|error| Failure::new(format!("the password can't be read from {}: {error}", path.display())))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::usage(format!("{} begins with an empty line: that is no password", path.display())));
    }
    Ok(password.to_owned())
}
