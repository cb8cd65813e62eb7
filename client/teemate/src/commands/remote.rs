//! `teemate function` as an owner: OpenWhisk's API, over TLS that ends in the enclave.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use teemate_client::deployment::{self, MAX_CODE};
use teemate_client::enclave::{Answer, Enclave, Error, escape};
use teemate_control::function::Reuse;

use super::function::parameters;
use crate::arguments::{Deploy, Function, Invoke, KindName};
use crate::failure::{FAILED, Failure};
use crate::output::{Output, bytes, harmless, table};

/// How often new activations are sought.
const FOLLOW: Duration = Duration::from_secs(1);
/// Most bytes of a file of root certificates.
const MAX_ROOTS: u64 = 64 << 10;
/// Annotations that are taken away by a deployment that does not name them: a function must not keep its secrets unasked, nor stay open to
/// anybody.
const UNASKED: [&str; 4] = ["teemate-broker", "teemate-secrets", "web-export", "final"];
/// Bytes of OpenWhisk's unit of limits.
const MEGABYTE: u64 = 1 << 20;

/// Carries out a `function` command at the enclave of this profile.
pub fn run(command: &Function, profile: &str, output: &Output) -> Result<ExitCode, Failure> {
    let enclave = Enclave::of(profile)?;
    match command {
        Function::Deploy(arguments) => deploy(arguments, &enclave, output),
        Function::Invoke(arguments) => invoke(arguments, &enclave, output),
        Function::List => list(&enclave, output),
        Function::Show { name } => show(name, &enclave, output),
        Function::Delete { name } => delete(name, &enclave, output),
        Function::Logs { name, last, follow } => logs(name, *last, *follow, &enclave, output),
    }
}

/// Path of an action; its name may have a package before it.
fn action(name: &str) -> String {
    let name: Vec<_> = name.split('/').map(escape).collect();
    format!("/api/v1/namespaces/_/actions/{}", name.join("/"))
}

fn deploy(arguments: &Deploy, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    let body = action_body(arguments)?;
    let progress = output.progress(format!("deploying {}: the code goes to the enclave, encrypted", arguments.name));
    let answer = enclave.ask("PUT", &format!("{}?overwrite=true", action(&arguments.name)), Some(&body));
    progress.finish_and_clear();
    let answer = answer?.body;
    output.result(&answer, || {
        let text = |member: &str| answer[member].as_str().unwrap_or("-").to_owned();
        harmless(&format!("{}/{} is deployed: version {}, {}", text("namespace"), text("name"), text("version"), kind(&answer)))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What OpenWhisk's API takes for an action; what it has no member for goes into annotations.
fn action_body(arguments: &Deploy) -> Result<Value, Failure> {
    if !arguments.files.is_empty() {
        return Err(Failure::usage("files of an owner's function travel in its zip: deploy a .zip instead of --file"));
    }
    let code = deployment::read(&arguments.file, MAX_CODE)?;
    let zipped = deployment::is_archive(&code);
    let module = code.starts_with(b"\0asm");
    let is_module = match arguments.kind {
        KindName::Auto => module,
        KindName::Wasm => true,
        KindName::Javascript => false,
    };
    let binary = zipped || is_module;
    let source = if binary {
        STANDARD.encode(&code)
    } else {
        String::from_utf8(code).map_err(|_| {
            Failure::new(format!("{} is neither a WebAssembly module, nor a zip, nor JavaScript source in UTF-8", arguments.file.display()))
        })?
    };
    let kind = if is_module { "wasm:default" } else { "nodejs:default" };
    let mut annotations = vec![
        json!({ "key": "teemate-egress", "value": arguments.egress }),
        json!({ "key": "teemate-result", "value": arguments.result }),
        json!({ "key": "teemate-reuse", "value": Reuse::from(arguments.reuse) }),
        json!({ "key": "teemate-idle", "value": arguments.idle }),
    ];
    if arguments.web {
        // Who calls by HTTP may not take the place of parameters that the owner has bound.
        annotations.extend(["web-export", "final"].map(|key| json!({ "key": key, "value": true })));
    }
    if let Some(fuel) = arguments.fuel {
        annotations.push(json!({ "key": "teemate-fuel", "value": fuel }));
    }
    if arguments.cpu > 0 {
        annotations.push(json!({ "key": "teemate-cpu", "value": arguments.cpu }));
    }
    if !arguments.env.is_empty() {
        let env: serde_json::Map<_, _> = arguments.env.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        annotations.push(json!({ "key": "teemate-env", "value": env }));
    }
    if let (Some(address), Some(file)) = (&arguments.broker, &arguments.broker_ca) {
        let roots = String::from_utf8(deployment::read(file, MAX_ROOTS)?)
            .map_err(|_| Failure::new(format!("{} holds no certificates in PEM: it is no text", file.display())))?;
        let secrets: serde_json::Map<_, _> = arguments.secrets.iter().map(|(name, id)| (name.clone(), id.clone().into())).collect();
        annotations.push(json!({ "key": "teemate-broker", "value": { "address": address, "roots": roots } }));
        annotations.push(json!({ "key": "teemate-secrets", "value": secrets }));
    }
    Ok(json!({
        "delAnnotations": UNASKED,
        "exec": { "kind": kind, "code": source, "binary": binary, "main": arguments.main },
        "limits": {
            "timeout": arguments.timeout,
            "memory": arguments.memory.div_ceil(MEGABYTE),
            "logs": arguments.log / MEGABYTE,
        },
        "annotations": annotations,
    }))
}

fn invoke(arguments: &Invoke, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    if arguments.sharing.is_some() || arguments.breakdown {
        return Err(Failure::usage("--sharing and --breakdown belong to the node's operator; an owner's call has neither"));
    }
    let params = parameters(arguments)?;
    let progress = output.progress(format!("calling {}", arguments.name));
    let begin = Instant::now();
    let answer = enclave.ask("POST", &format!("{}?blocking=true", action(&arguments.name)), Some(&params));
    let elapsed = begin.elapsed();
    progress.finish_and_clear();
    let activation = match answer {
        Ok(Answer { status: 202, body }) => {
            // It takes longer than a blocking call may: it goes on, and can be asked for.
            let id = body["activationId"].as_str().unwrap_or("-").to_owned();
            output.result(&body, || harmless(&format!("still running: see `teemate activation get {id}`")))?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(answer) => answer.body,
        // The record of a call that failed.
        Err(Error::Answered { body, .. }) if body["activationId"].is_string() && body["response"].is_object() => body,
        Err(error) => return Err(error.into()),
    };
    let response = &activation["response"];
    let success = response["success"].as_bool() == Some(true);
    let mut document = activation.clone();
    document["elapsed_us"] = json!(elapsed.as_micros() as u64);
    if output.is_json() || success {
        output.result(&document, || serde_json::to_string_pretty(&response["result"]).unwrap_or_default())?;
    }
    let mut err = std::io::stderr().lock();
    if arguments.logs && !output.is_json() {
        for line in activation["logs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(err, "{}", harmless(line));
        }
    }
    if success {
        return Ok(ExitCode::SUCCESS);
    }
    let said = &response["result"]["error"];
    let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
    let _ = writeln!(
        err,
        "error: {} failed ({}): {}; activation {}",
        arguments.name,
        harmless(response["status"].as_str().unwrap_or("no status")),
        harmless(&said),
        harmless(activation["activationId"].as_str().unwrap_or("-"))
    );
    Ok(ExitCode::from(FAILED))
}

fn kind(action: &Value) -> String {
    action["exec"]["kind"]
        .as_str()
        .map(str::to_owned)
        .or_else(|| annotation(action, "exec").and_then(|value| value.as_str().map(str::to_owned)))
        .unwrap_or_else(|| "-".to_owned())
}

fn annotation<'a>(entity: &'a Value, key: &str) -> Option<&'a Value> {
    entity["annotations"].as_array()?.iter().find(|pair| pair["key"] == key).map(|pair| &pair["value"])
}

fn list(enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    let answer = enclave.ask("GET", "/api/v1/namespaces/_/actions?limit=200", None)?.body;
    output.result(&answer, || {
        let rows = answer.as_array().into_iter().flatten().map(|action| {
            let text = |member: &str| action[member].as_str().unwrap_or("-").to_owned();
            vec![format!("{}/{}", text("namespace"), text("name")), kind(action), text("version")]
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            return "no function is deployed; deploy one with `teemate function deploy NAME FILE`".to_owned();
        }
        harmless(&table(&["name", "kind", "version"], rows, &[]))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(name: &str, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    let answer = enclave.ask("GET", &format!("{}?code=false", action(name)), None)?.body;
    output.result(&answer, || {
        let limits = &answer["limits"];
        harmless(&format!(
            "name       {}/{}\nkind       {}\nversion    {}\nlimits     time {} ms, memory {}, log {}\nannotations {}",
            answer["namespace"].as_str().unwrap_or("-"),
            answer["name"].as_str().unwrap_or("-"),
            kind(&answer),
            answer["version"].as_str().unwrap_or("-"),
            limits["timeout"],
            bytes(limits["memory"].as_u64().unwrap_or(0) * MEGABYTE),
            bytes(limits["logs"].as_u64().unwrap_or(0) * MEGABYTE),
            answer["annotations"],
        ))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn delete(name: &str, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    enclave.ask("DELETE", &action(name), None)?;
    output.result(&json!({ "deleted": name }), || format!("{name} is deleted"))?;
    Ok(ExitCode::SUCCESS)
}

fn logs(name: &str, last: usize, follow: bool, enclave: &Enclave, output: &Output) -> Result<ExitCode, Failure> {
    let mut seen = std::collections::HashSet::new();
    let last = last.clamp(1, 200);
    loop {
        let target = format!("/api/v1/namespaces/_/activations?docs=true&name={}&limit={last}", escape(name));
        let mut answer = enclave.ask("GET", &target, None)?.body;
        if let Some(list) = answer.as_array_mut() {
            list.reverse();
            list.retain(|activation| activation["activationId"].as_str().is_some_and(|id| seen.insert(id.to_owned())));
        }
        let empty = answer.as_array().is_none_or(Vec::is_empty);
        if !(follow && empty) {
            output.result(&answer, || {
                if empty {
                    return format!("{} has no activation", harmless(name));
                }
                answer.as_array().into_iter().flatten().map(describe_activation).collect::<Vec<_>>().join("\n")
            })?;
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(FOLLOW);
    }
}

/// A record and its log.
pub fn describe_activation(activation: &Value) -> String {
    let lines: Vec<_> = activation["logs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let log = if lines.is_empty() { "(it wrote nothing)".to_owned() } else { lines.join("\n") };
    harmless(&format!(
        "-- {} {} {}, {} ms\n{log}",
        activation["activationId"].as_str().unwrap_or("-"),
        activation["name"].as_str().unwrap_or("-"),
        activation["response"]["status"].as_str().unwrap_or("ended"),
        activation["duration"],
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn body(line: &str, file: &Path) -> Result<Value, Failure> {
        let line = line.split(' ').map(str::to_owned).chain([file.display().to_string()]);
        let Command::Function(Function::Deploy(deploy)) = Arguments::try_parse_from(line).unwrap().command else { panic!() };
        action_body(&deploy)
    }

    #[test]
    fn what_openwhisk_has_no_member_for_is_annotated() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.js");
        std::fs::write(&file, "function main() {}").unwrap();
        let made = body("teemate function deploy --memory 100K --egress a:1 --env A=B --fuel 9 f", &file).unwrap();
        assert_eq!(made["exec"]["kind"], "nodejs:default");
        assert_eq!(made["limits"]["memory"], 1, "a part of a megabyte is a whole one");
        assert_eq!(annotation(&made, "teemate-egress"), Some(&json!(["a:1"])));
        assert_eq!(annotation(&made, "teemate-env"), Some(&json!({"A": "B"})));
        assert_eq!(annotation(&made, "teemate-fuel"), Some(&json!(9)));
        std::fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
        let pem = directory.path().join("ca.pem");
        std::fs::write(&pem, "a certificate").unwrap();
        let line = "teemate function deploy --secret A=a/b/c --broker https://b f --broker-ca";
        let secrets = [line, &pem.display().to_string()].join(" ");
        let made = body(&secrets, &file).unwrap();
        assert_eq!(annotation(&made, "teemate-secrets"), Some(&json!({"A": "a/b/c"})));
        assert_eq!(annotation(&made, "teemate-broker"), Some(&json!({"address": "https://b", "roots": "a certificate"})));
        for lacking in ["--secret A=a/b/c", "--secret A=a/b/c --broker https://b", "--broker-ca x", "--secret A --broker b --broker-ca c"] {
            let line = format!("teemate function deploy f f.js {lacking}");
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{lacking}");
        }
        std::fs::write(&pem, [0xff]).unwrap();
        assert!(body(&secrets, &file).is_err());
        let made = body("teemate function deploy f", &file).unwrap();
        assert_eq!((annotation(&made, "teemate-secrets"), &made["delAnnotations"]), (None, &json!(UNASKED)));
        assert_eq!((&made["exec"]["kind"], &made["exec"]["binary"]), (&json!("wasm:default"), &json!(true)));
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(body("teemate function deploy f", &file).is_err());
        assert!(body("teemate function deploy --file x=/y f", &file).is_err());
    }

    #[test]
    fn a_package_stays_a_segment_of_its_own() {
        assert_eq!(action("p/a b"), "/api/v1/namespaces/_/actions/p/a%20b");
    }
}
