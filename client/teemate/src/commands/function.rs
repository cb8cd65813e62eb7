//! `teemate function`.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use teemate_client::deployment::{Deployment, check_name};
use teemate_client::{Connection, breakdown};
use teemate_control::function::{Kind, Limits, Mark, Outcome};
use teemate_control::node::{CallLog, FunctionInfo, Request, Response};

use super::connect;
use crate::arguments::{Deploy, Function, Invoke};
use crate::failure::{FAILED, Failure, kind_name};
use crate::output::{Output, bytes, duration, harmless, table};
use crate::value;

/// Longest text of parameters that is read from a file or stdin.
const MAX_PARAMETERS: u64 = 16 << 20;
/// How often new logs are sought.
const FOLLOW: Duration = Duration::from_millis(500);

/// Carries out a `function` command.
pub fn run(command: &Function, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Function::Deploy(arguments) => deploy(arguments, socket, output),
        Function::Invoke(arguments) => invoke(arguments, socket, output),
        Function::List => list(socket, output),
        Function::Show { name } => show(name, socket, output),
        Function::Delete { name } => delete(name, socket, output),
        Function::Logs { name, last, follow: false } => logs(name, *last, socket, output),
        Function::Logs { name, last, follow: true } => follow(name, *last, socket),
    }
}

fn deploy(arguments: &Deploy, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    if arguments.broker.is_some() {
        return Err(Failure::usage("secrets are an owner's, and what is deployed here is the operator's: use --profile"));
    }
    if arguments.web {
        return Err(Failure::usage("what anybody calls by HTTP is an owner's, and what is deployed here is the operator's: use --profile"));
    }
    let deployment = Deployment {
        name: arguments.name.clone(),
        code: arguments.file.clone(),
        kind: arguments.kind.into(),
        main: Some(arguments.main.clone()),
        limits: Limits {
            timeout_ms: arguments.timeout,
            memory: arguments.memory,
            fuel: arguments.fuel,
            log: arguments.log,
            result: arguments.result,
            cpu_milli: arguments.cpu,
            idle_ms: arguments.idle,
        },
        egress: arguments.egress.clone(),
        files: arguments.files.clone(),
        env: arguments.env.clone(),
        reuse: arguments.reuse.into(),
    };
    let request = deployment.request()?;
    // Compilation happens in the enclave, and takes as long as it takes.
    let mut connection = Connection::open(socket)?;
    let progress = output.progress(format!("deploying {}: it is compiled in the enclave", arguments.name));
    let answer = connection.ask(&request);
    progress.finish_and_clear();
    let info = function(&connection, answer?)?;
    output.result(&info, || {
        format!("{} is deployed: {}, {}, SHA-256 {}", info.spec.name, kind(info.spec.kind), bytes(info.size), info.digest)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn invoke(arguments: &Invoke, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    check_name(&arguments.name)?;
    let params = parameters(arguments)?;
    let mut connection = Connection::open(socket)?;
    let request = Request::Invoke { name: arguments.name.clone(), params, sharing: arguments.sharing.map(Into::into) };
    let progress = output.progress(format!("calling {}", arguments.name));
    let begin = Instant::now();
    let answer = connection.ask(&request);
    let elapsed = begin.elapsed();
    progress.finish_and_clear();
    let outcome = match answer? {
        Response::Invoked { outcome } => outcome,
        other => return Err(connection.unexpected(&other).into()),
    };
    report(&outcome, elapsed, arguments, output)
}

fn report(outcome: &Outcome, elapsed: Duration, arguments: &Invoke, output: &Output) -> Result<ExitCode, Failure> {
    let (result, failure) = match &outcome.result {
        Ok(bytes) => {
            let result: Value = serde_json::from_slice(bytes)
                .map_err(|error| Failure::new(format!("{} gave a result that is not JSON ({error})", arguments.name)))?;
            (Some(result), None)
        }
        Err(failure) => (None, Some(failure)),
    };
    let document = json!({
        "result": result,
        "error": failure.map(|failure| json!({ "kind": kind_name(failure.kind), "message": failure.message })),
        "logs": outcome.logs,
        "usage": outcome.usage,
        "container": outcome.container,
        "elapsed_us": elapsed.as_micros() as u64,
        "breakdown": breakdown::steps(&outcome.marks),
        "parts": breakdown::parts(&outcome.marks).into_iter().map(|(part, us)| json!({ "part": part, "us": us })).collect::<Vec<_>>(),
    });
    if output.is_json() || result.is_some() {
        output.result(&document, || result.as_ref().and_then(|result| serde_json::to_string_pretty(result).ok()).unwrap_or_default())?;
    }
    let mut err = std::io::stderr().lock();
    if arguments.logs && !output.is_json() && !outcome.logs.is_empty() {
        let _ = writeln!(err, "{}", harmless(outcome.logs.trim_end()));
    }
    if arguments.breakdown && !output.is_json() {
        let _ = writeln!(err, "{}", describe_breakdown(&outcome.marks, elapsed, outcome));
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => {
            let _ = writeln!(err, "error: {} failed ({}): {}", arguments.name, kind_name(failure.kind), harmless(&failure.message));
            Ok(ExitCode::from(FAILED))
        }
    }
}

fn describe_breakdown(marks: &[Mark], elapsed: Duration, outcome: &Outcome) -> String {
    let mut rows: Vec<_> =
        breakdown::parts(marks).into_iter().map(|(part, us)| vec![part.title().to_owned(), breakdown::human(us)]).collect();
    if let Some(us) = breakdown::latency_us(marks) {
        rows.push(vec!["in the node, in all".to_owned(), breakdown::human(us)]);
    }
    rows.push(vec!["seen from here".to_owned(), breakdown::human(elapsed.as_secs_f64() * 1e6)]);
    let usage = &outcome.usage;
    let used =
        format!("fuel {}, memory {}, execution {}", usage.fuel, bytes(usage.memory_peak), breakdown::human(usage.execution_us as f64));
    format!("{}\nused: {used}; container {}", table(&["part", "time"], rows, &[1]), outcome.container)
}

/// The parameters of a call, from wherever the command line takes them.
pub fn parameters(arguments: &Invoke) -> Result<Value, Failure> {
    let text = arguments.params.as_deref().map(parameter_text).transpose()?;
    value::parameters(text.as_deref(), &arguments.param).map_err(Failure::usage)
}

fn parameter_text(source: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match source.strip_prefix('@') {
        Some(path) => {
            let file =
                std::fs::File::open(path).map_err(|error| Failure::new(format!("the parameters in {path} can't be read: {error}")))?;
            file.take(MAX_PARAMETERS + 1).read_to_string(&mut text)
        }
        None if source == "-" => std::io::stdin().take(MAX_PARAMETERS + 1).read_to_string(&mut text),
        None => return Ok(source.to_owned()),
    };
    let length = read.map_err(|error| Failure::new(format!("the parameters can't be read from {source}: {error}")))?;
    if length as u64 > MAX_PARAMETERS {
        return Err(Failure::new(format!("the parameters in {source} are longer than {}", bytes(MAX_PARAMETERS))));
    }
    Ok(text)
}

fn list(socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut connection = connect(socket)?;
    let functions = match connection.ask(&Request::Functions)? {
        Response::Functions { functions } => functions,
        other => return Err(connection.unexpected(&other).into()),
    };
    output.result(&functions, || {
        let rows = functions.iter().map(|info| {
            vec![
                info.spec.name.clone(),
                kind(info.spec.kind).to_owned(),
                bytes(info.size),
                info.digest.chars().take(12).collect(),
                info.calls.to_string(),
                info.failed.to_string(),
            ]
        });
        if functions.is_empty() {
            return "no function is deployed; deploy one with `teemate function deploy NAME FILE`".to_owned();
        }
        harmless(&table(&["name", "kind", "size", "digest", "calls", "failed"], rows.collect(), &[2, 4, 5]))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(name: &str, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    check_name(name)?;
    let mut connection = connect(socket)?;
    let answer = connection.ask(&Request::Function { name: name.to_owned() })?;
    let info = function(&connection, answer)?;
    output.result(&info, || describe(&info))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(info: &FunctionInfo) -> String {
    let spec = &info.spec;
    let limits = &spec.limits;
    let mut text = format!(
        "name       {}\nkind       {}\nsize       {}\nSHA-256    {}\ncalls      {}, of which {} failed\n\
         limits     time {}, memory {}, fuel {}, log {}, result {}, cpu {}\n",
        spec.name,
        kind(spec.kind),
        bytes(info.size),
        info.digest,
        info.calls,
        info.failed,
        duration(limits.timeout_ms),
        bytes(limits.memory),
        limits.fuel.map_or_else(|| "no limit".to_owned(), |fuel| fuel.to_string()),
        bytes(limits.log),
        bytes(limits.result),
        if limits.cpu_milli == 0 { "no limit".to_owned() } else { format!("{}m", limits.cpu_milli) },
    );
    if spec.kind == Kind::JavaScript {
        text += &format!("main       {}\n", spec.main);
    }
    for pair in &spec.egress {
        text += &format!("egress     {pair}\n");
    }
    for file in &spec.files {
        let digest: String = file.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("file       {} ({}, SHA-256 {digest})\n", file.path, bytes(file.length));
    }
    for (name, value) in &spec.env {
        text += &format!("env        {name}={value}\n");
    }
    harmless(&text)
}

fn delete(name: &str, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    check_name(name)?;
    let mut connection = connect(socket)?;
    match connection.ask(&Request::Delete { name: name.to_owned() })? {
        Response::Ok => {}
        other => return Err(connection.unexpected(&other).into()),
    }
    output.result(&json!({ "deleted": name }), || format!("{name} is deleted"))?;
    Ok(ExitCode::SUCCESS)
}

fn call_logs(connection: &mut Connection, name: &str, last: usize) -> Result<Vec<CallLog>, Failure> {
    match connection.ask(&Request::Logs { name: name.to_owned(), last })? {
        Response::Logs { calls } => Ok(calls),
        other => Err(connection.unexpected(&other).into()),
    }
}

fn logs(name: &str, last: usize, socket: &Path, output: &Output) -> Result<ExitCode, Failure> {
    check_name(name)?;
    let calls = call_logs(&mut connect(socket)?, name, last)?;
    output.result(&calls, || match calls.as_slice() {
        [] => format!("{name} has no call in the node's memory"),
        calls => calls.iter().map(describe_call).collect::<Vec<_>>().join("\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn follow(name: &str, last: usize, socket: &Path) -> Result<ExitCode, Failure> {
    check_name(name)?;
    let mut connection = connect(socket)?;
    let mut seen = HashSet::new();
    let mut ask = last;
    loop {
        for call in call_logs(&mut connection, name, ask)? {
            if seen.insert((call.container, call.ended)) {
                writeln!(std::io::stdout(), "{}", describe_call(&call))?;
            }
        }
        ask = last.max(100);
        std::thread::sleep(FOLLOW);
    }
}

fn describe_call(call: &CallLog) -> String {
    let word = if call.success { "succeeded" } else { "failed" };
    let took = breakdown::latency_us(&call.marks).map(|us| format!(" after {}", breakdown::human(us))).unwrap_or_default();
    let logs = call.logs.trim_end();
    let logs = if logs.is_empty() { "(it wrote nothing)" } else { logs };
    harmless(&format!("-- container {} {word}{took}, ended at {}\n{logs}", call.container, call.ended))
}

fn function(connection: &Connection, response: Response) -> Result<FunctionInfo, Failure> {
    match response {
        Response::Function(info) => Ok(info),
        other => Err(connection.unexpected(&other).into()),
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Wasm => "wasm",
        Kind::JavaScript => "javascript",
    }
}
