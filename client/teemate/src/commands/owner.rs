//! `teemate owner`: what the node's administrator does about owners. Their keys and data he never sees.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use teemate_control::node::{Request, Response};
use teemate_control::service::Allowance;

use super::connect;
use crate::arguments::Owner;
use crate::failure::Failure;
use crate::output::{Output, harmless, table};

/// Carries out an `owner` command.
pub fn run(command: &Owner, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Owner::Invite { namespace, per_minute, concurrent } => {
            invite(namespace, Allowance { per_minute: *per_minute, concurrent: *concurrent }, socket, output)
        }
        Owner::List => list(socket, output),
        Owner::Remove { namespace } => remove(namespace, socket, output),
    }
}

fn invite(namespace: &str, allowance: Allowance, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    let (token, expires, endpoint) = match connection.ask(&Request::Invite { namespace: namespace.to_owned(), allowance })? {
        Response::Invitation { token, expires, endpoint } => (token, expires, endpoint),
        other => return Err(connection.unexpected(&other).into()),
    };
    let document = json!({ "namespace": namespace, "token": token, "expires": expires, "endpoint": endpoint });
    output.result(&document, || {
        harmless(&format!(
            "{namespace} can be claimed once, by:\n  teemate login https://{endpoint} --claim {token}\n\
             Give this to its owner only. Whoever claims first owns it; an owner who comes second is told so."
        ))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    let owners = match connection.ask(&Request::Owners)? {
        Response::Owners { owners } => owners,
        other => return Err(connection.unexpected(&other).into()),
    };
    output.result(&owners, || {
        if owners.is_empty() {
            return "there is no owner; invite one with `teemate owner invite NAMESPACE`".to_owned();
        }
        let state = |claimed| if claimed { "claimed" } else { "invited" };
        let rows = owners.iter().map(|owner| vec![owner.namespace.clone(), state(owner.claimed).to_owned()]);
        harmless(&table(&["namespace", "state"], rows.collect(), &[]))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn remove(namespace: &str, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    match connection.ask(&Request::RemoveOwner { namespace: namespace.to_owned() })? {
        Response::Ok => {}
        other => return Err(connection.unexpected(&other).into()),
    }
    output.result(&json!({ "removed": namespace }), || format!("{namespace} is removed, with everything that it had"))?;
    Ok(ExitCode::SUCCESS)
}
