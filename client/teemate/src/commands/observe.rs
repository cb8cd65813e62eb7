//! `teemate ps`, `metrics` and `kill`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use teemate_control::node::{ContainerInfo, Ps, Request, Response};

use super::connect;
use crate::failure::Failure;
use crate::output::{Output, bytes, duration, harmless, table};

/// Enclaves and containers.
pub fn ps(socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    let ps = match connection.ask(&Request::Ps)? {
        Response::Ps(ps) => ps,
        other => return Err(connection.unexpected(&other).into()),
    };
    output.result(&ps, || describe(&ps))?;
    Ok(ExitCode::SUCCESS)
}

/// Prometheus text.
pub fn metrics(socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    let text = match connection.ask(&Request::Metrics)? {
        Response::Metrics { text } => text,
        other => return Err(connection.unexpected(&other).into()),
    };
    output.result(&json!({ "text": text }), || harmless(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// Kills a container.
pub fn kill(container: u64, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    match connection.ask(&Request::Kill { container })? {
        Response::Ok => {}
        other => return Err(connection.unexpected(&other).into()),
    }
    output.result(&json!({ "killed": container }), || format!("container {container} is killed"))?;
    Ok(ExitCode::SUCCESS)
}

/// Tables: enclaves, containers, and the containers' namespaces and cgroups.
fn describe(ps: &Ps) -> String {
    let enclaves = ps.enclaves.iter().map(|enclave| {
        let limit = if enclave.epc_limit == 0 { "no limit".to_owned() } else { bytes(enclave.epc_limit.saturating_mul(4096)) };
        vec![
            enclave.id.to_string(),
            enclave.role.clone(),
            enclave.device.clone(),
            enclave.mrenclave.chars().take(16).collect(),
            format!("{}/{}", enclave.tcs_leased, enclave.tcs_total),
            enclave.epc_pages.to_string(),
            bytes(enclave.epc_pages.saturating_mul(4096)),
            limit,
        ]
    });
    let enclaves = table(&["enclave", "role", "device", "mrenclave", "tcs", "pages", "epc", "limit"], enclaves.collect(), &[0, 4, 5, 6]);
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let containers = ps.containers.iter().map(|container| {
        vec![
            container.id.to_string(),
            container.role.clone(),
            optional(container.function.clone()),
            optional(container.enclave.map(|id| id.to_string())),
            optional(container.tcs.map(|tcs| tcs.to_string())),
            container.pid.to_string(),
            optional(container.charged_pages.map(|pages| pages.to_string())),
            bytes(container.rss_kib.saturating_mul(1024)),
            duration(container.age_ms),
        ]
    });
    let head = ["container", "role", "function", "enclave", "tcs", "pid", "charged", "resident", "age"];
    let containers = table(&head, containers.collect(), &[0, 3, 4, 5, 6, 7, 8]);
    harmless(&format!("{enclaves}\n\n{containers}\n\n{}", namespaces(&ps.containers)))
}

/// A column for each kind of namespace that any container has.
fn namespaces(containers: &[ContainerInfo]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for (kind, _) in containers.iter().flat_map(|container| &container.namespaces) {
        if !kinds.contains(&kind.as_str()) {
            kinds.push(kind);
        }
    }
    let rows = containers.iter().map(|container| {
        let inode = |kind: &&str| {
            let found = container.namespaces.iter().find(|(name, _)| name == kind);
            found.map_or_else(|| "-".to_owned(), |(_, inode)| inode.to_string())
        };
        let mut row = vec![container.id.to_string()];
        row.extend(kinds.iter().map(inode));
        row.push(if container.cgroups.is_empty() { "-".to_owned() } else { container.cgroups.join(" ") });
        row
    });
    let mut head = vec!["container"];
    head.extend(&kinds);
    head.push("cgroups");
    table(&head, rows.collect(), &(0..=kinds.len()).collect::<Vec<_>>())
}
