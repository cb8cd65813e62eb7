//! `teemate witness`.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use serde_json::json;
use teemate_witness_server::memory::{self, show};
use teemate_witness_server::server::Event;
use teemate_witness_server::{Identity, Memory, Server};

use crate::arguments::witness::{Accept, Directory, Serve, Witness};
use crate::failure::Failure;
use crate::output::{Output, harmless, table};

/// Carries out a `witness` command.
pub fn run(command: &Witness, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Witness::Serve(arguments) => serve(arguments, output),
        Witness::Accept(arguments) => accept(arguments, output),
        Witness::Show(directory) => list(directory, output),
    }
}

fn serve(arguments: &Serve, output: &Output) -> Result<ExitCode, Failure> {
    let memory = Memory::open(&arguments.directory.directory)?;
    let ip = Some(arguments.listen.ip()).filter(|ip| !ip.is_unspecified()).as_ref().map(IpAddr::to_string);
    let names: Vec<String> = arguments.name.iter().cloned().chain(ip).chain(["localhost".to_owned()]).collect();
    let identity = Identity::open(&arguments.directory.directory, &names)?;
    let server = Server::bind(arguments.listen, &identity, memory)?;
    let (address, certificate) = (server.address()?, identity.certificate().to_owned());
    output.result(&json!({ "listen": address, "certificate": certificate }), || {
        format!(
            "the witness listens on {address}\ndatabases have it by `teemate db claim ... --witness https://NAME:{} --witness-ca {}`",
            address.port(),
            certificate.display()
        )
    })?;
    server.serve(|event| {
        let text = match event {
            Event::Opened(from, database, epoch) => format!("{from}: database {database} was opened, epoch {epoch}"),
            Event::Refused(from, refusal) => format!("{from}: {refusal}"),
            Event::Broken(from, error) => format!("{from}: {error}"),
            Event::Accept(error) => format!("no connection can be accepted: {error}"),
        };
        let _ = writeln!(std::io::stderr(), "{}", harmless(&text));
    });
    Ok(ExitCode::SUCCESS)
}

fn accept(arguments: &Accept, output: &Output) -> Result<ExitCode, Failure> {
    let name = memory::parse(&arguments.database).map_err(Failure::usage)?;
    memory::accept(&arguments.directory.directory, &name)?;
    output.result(&json!({ "database": show(&name), "accepted": true }), || {
        format!("what {} shows next is taken for its newest state: start it", show(&name))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: &Directory, output: &Output) -> Result<ExitCode, Failure> {
    let all = memory::read(&arguments.directory)?;
    let document: Vec<_> = all
        .iter()
        .map(|(name, record)| {
            let last = record.kept.last.as_ref();
            json!({
                "database": show(name),
                "epoch": record.kept.epoch,
                "settings": last.map(|last| last.settings.to_string()),
                "snapshot": last.map(|last| last.snapshot.to_string()),
                "log_frames": last.and_then(|last| last.log).map(|log| log.frames),
            })
        })
        .collect();
    output.result(&document, || {
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let rows = all.iter().map(|(name, record)| {
            let last = record.kept.last.as_ref();
            vec![
                show(name),
                record.kept.epoch.to_string(),
                dash(last.map(|last| last.settings.to_string())),
                dash(last.map(|last| last.snapshot.to_string())),
                dash(last.and_then(|last| last.log).map(|log| log.frames.to_string())),
            ]
        });
        table(&["database", "epoch", "settings", "snapshot", "log"], rows.collect(), &[1, 4])
    })?;
    Ok(ExitCode::SUCCESS)
}
