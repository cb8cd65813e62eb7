//! `teemate activation`: what an owner's calls came to.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use teemate_client::enclave::{Enclave, escape};

use super::remote::describe_activation;
use crate::arguments::Activation;
use crate::failure::Failure;
use crate::output::{Output, harmless, table};

/// Carries out an `activation` command.
pub fn run(command: &Activation, profile: Option<&str>, output: &Output) -> Result<ExitCode, Failure> {
    let profile = profile.ok_or_else(|| Failure::usage("activations belong to an owner: name a profile with --profile"))?;
    let enclave = Enclave::of(profile)?;
    match command {
        Activation::List { limit, name } => list(*limit, name.as_deref(), &enclave, output),
        Activation::Get { id } => show(&enclave.ask("GET", &activation(id, ""), None)?.body, output),
        Activation::Result { id } => result(&enclave.ask("GET", &activation(id, "/result"), None)?.body, output),
        Activation::Logs { id } => logs(&enclave.ask("GET", &activation(id, "/logs"), None)?.body, output),
        Activation::Receipt { id, output: file } => receipt(id, file.as_deref(), &enclave, output),
    }
}

fn activation(id: &str, part: &str) -> String {
    format!("/api/v1/namespaces/_/activations/{}{part}", escape(id))
}

fn list(limit: usize, name: Option<&str>, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    let name = name.map(|name| format!("&name={}", escape(name))).unwrap_or_default();
    let answer = enclave.ask("GET", &format!("/api/v1/namespaces/_/activations?limit={limit}{name}"), None)?.body;
    output.result(&answer, || {
        let rows = answer.as_array().into_iter().flatten().map(|record| {
            let text = |member: &str| record[member].as_str().unwrap_or("-").to_owned();
            vec![text("activationId"), text("name"), record["statusCode"].to_string(), format!("{} ms", record["duration"])]
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() { "no activation".to_owned() } else { harmless(&table(&["activation", "name", "status", "took"], rows, &[3])) }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(record: &Value, output: &Output) -> Result<ExitCode, Failure> {
    output.result(record, || {
        let result = serde_json::to_string_pretty(&record["response"]["result"]).unwrap_or_default();
        format!("{}\n{}", describe_activation(record), harmless(&result))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn result(record: &Value, output: &Output) -> Result<ExitCode, Failure> {
    output.result(record, || harmless(&serde_json::to_string_pretty(&record["result"]).unwrap_or_default()))?;
    Ok(ExitCode::SUCCESS)
}

fn logs(record: &Value, output: &Output) -> Result<ExitCode, Failure> {
    output.result(record, || {
        let lines: Vec<_> = record["logs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        harmless(&lines.join("\n"))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The signed receipt with what is needed to check it: `teemate verify` does, without any connection.
fn receipt(id: &str, file: Option<&Path>, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    let bundle = enclave.ask("GET", &format!("/teemate/v1/receipts/{}", escape(id)), None)?.body;
    let Some(file) = file else {
        output.result(&bundle, || bundle.to_string())?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::write(file, format!("{bundle}\n"))?;
    output.result(&json!({ "receipt": file }), || format!("check it with `teemate verify {}`", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
