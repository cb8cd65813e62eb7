//! `teemate action`: what an OpenWhisk invoker starts as a container. Its calls run in a container of the shared enclave.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use teemate_client::action::{Backend, Call, Container, Init, MARKER, Ran, Reply};
use teemate_client::enclave::{self, Conversation, Enclave};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Action;
use crate::failure::Failure;

/// Longest body: OpenWhisk's 48 MB of code, as base64 and with what stands around it.
const MAX_BODY: usize = 66 << 20;
/// How long a client may take to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The key under which the enclave's API takes an array for a call.
const ARRAY: &str = "\u{1e}array";
/// How often the record of a call is asked for that takes longer than a blocking call may.
const POLL: Duration = Duration::from_millis(200);

/// Carries out `action`. It ends when it is told to by a signal, as an invoker does.
pub fn run(arguments: &Action, profile: Option<&str>) -> Result<ExitCode, Failure> {
    let profile = profile.ok_or_else(|| Failure::usage("say whose action it is: --profile NAME, or TEEMATE_PROFILE"))?;
    let enclave = Enclave::of(profile)?;
    // An enclave that the policy refuses is known before an invoker sends it anything.
    let conversation = enclave.open()?;
    let backend = Shared {
        name: format!("container-{:016x}", session_number()?),
        timeout: arguments.timeout,
        memory: arguments.memory.div_ceil(1 << 20),
        conversation: Mutex::new(Some(conversation)),
        enclave,
    };
    let container = Arc::new(Container::new(backend));
    let failed = |what: &str, error: std::io::Error| Failure::new(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| failed("no thread can be started", error))?;
    runtime.block_on(async {
        let address = (arguments.address, arguments.port);
        let listener =
            TcpListener::bind(address).await.map_err(|error| failed(&format!("can't listen on {}:{}", address.0, address.1), error))?;
        if arguments.port == 0 {
            // Whoever lets the system choose must be told. Otherwise nothing: the invoker takes what is written for the action's log.
            let told = listener.local_addr().map_err(|error| failed("no address", error))?;
            println!("{told}");
        }
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("no signal can be awaited", error))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("no signal can be awaited", error))?;
        tokio::select! {
            () = serve(listener, container.clone()) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok::<_, Failure>(())
    })?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    container.backend().forget();
    Ok(ExitCode::SUCCESS)
}

async fn serve(listener: TcpListener, container: Arc<Container<Shared>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let container = container.clone();
        tokio::spawn(async move {
            let answers = service_fn(move |request| answer(request, container.clone()));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
            // A client that breaks off is nobody's concern.
            let _ = http.serve_connection(TokioIo::new(stream), answers).await;
        });
    }
}

async fn answer(request: Request<Incoming>, container: Arc<Container<Shared>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let init = match (request.method(), request.uri().path()) {
        (&Method::POST, "/init") => true,
        (&Method::POST, "/run") => false,
        _ => return Ok(respond(404, &json!({ "error": "only POST /init and POST /run are served" }))),
    };
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(respond(413, &json!({ "error": format!("the request is longer than {MAX_BODY} bytes, or was broken off") }))),
    };
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(_) if body.is_empty() => Value::Null,
        Err(error) => return Ok(respond(400, &json!({ "error": format!("the request is not JSON: {error}") }))),
    };
    // The protocol's own thread: the enclave is asked by blocking calls, and a second request must be told at once that one runs.
    let done = tokio::task::spawn_blocking(move || if init { container.init(&body) } else { container.run(&body) }).await;
    let Ok(reply) = done else { return Ok(respond(500, &json!({ "error": "the container is broken" }))) };
    tell(&reply);
    Ok(respond(reply.status, &reply.body))
}

/// What the invoker reads as the activation's log. It comes before the answer.
fn tell(reply: &Reply) {
    let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
    // Nobody may be reading; the answer is given all the same.
    for (is_error, line) in &reply.lines {
        let _ = if *is_error { writeln!(stderr, "{line}") } else { writeln!(stdout, "{line}") };
    }
    if reply.ended {
        let _ = writeln!(stdout, "{MARKER}");
        let _ = writeln!(stderr, "{MARKER}");
    }
    let _ = (stdout.flush(), stderr.flush());
}

fn respond(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// For a name that no other container has.
fn session_number() -> Result<u64, Failure> {
    use std::hash::{BuildHasher, RandomState};
    Ok(RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now())))
}

/// The action as one of an owner's, in the enclave.
struct Shared {
    enclave: Enclave,
    /// Its name there.
    name: String,
    timeout: u64,
    memory: u64,
    /// The connection, unless it broke.
    conversation: Mutex<Option<Conversation>>,
}

impl Shared {
    fn path(&self) -> String {
        format!("/api/v1/namespaces/_/actions/{}", self.name)
    }

    /// Asks on the connection that there is, or on a new one.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Result<enclave::Answer, enclave::Error> {
        let mut place = self.conversation.lock().unwrap_or_else(PoisonError::into_inner);
        let mut conversation = match place.take() {
            Some(conversation) if !conversation.is_over() => conversation,
            _ => self.enclave.open()?,
        };
        let answer = conversation.ask(method, path, headers, body);
        if matches!(answer, Ok(_) | Err(enclave::Error::Answered { .. })) {
            *place = Some(conversation);
        }
        answer
    }

    /// The action is of no use without this process.
    fn forget(&self) {
        let _ = self.ask("DELETE", &self.path(), &[], None);
    }

    /// The record of a call that outlasts a blocking request.
    fn record(&self, id: &str) -> Result<Value, enclave::Error> {
        let path = format!("/api/v1/namespaces/_/activations/{id}");
        let end = std::time::Instant::now() + Duration::from_millis(self.timeout) + Duration::from_secs(60);
        loop {
            match self.ask("GET", &path, &[], None) {
                Err(enclave::Error::Answered { status: 404, .. }) if std::time::Instant::now() < end => std::thread::sleep(POLL),
                answer => return answer.map(|answer| answer.body),
            }
        }
    }
}

impl Backend for Shared {
    fn init(&self, init: &Init) -> Result<(), String> {
        // A module says so itself; everything else is JavaScript or a zip of it.
        let kind = if init.binary && init.code.starts_with("AGFzbQ") { "wasm:default" } else { "nodejs:default" };
        let env: Vec<_> = init.env.iter().map(|(key, value)| json!({ "key": key, "value": value, "init": true })).collect();
        let action = json!({
            "exec": { "kind": kind, "code": init.code, "binary": init.binary, "main": init.main },
            "parameters": env,
            "limits": { "timeout": self.timeout, "memory": self.memory },
            "annotations": [
                { "key": "teemate-reuse", "value": "keep" },
                { "key": "teemate-idle", "value": 3_600_000 },
                { "key": "teemate-stands-for", "value": init.name },
            ],
        });
        match self.ask("PUT", &format!("{}?overwrite=true", self.path()), &[("x-teemate-ready", "true")], Some(&action)) {
            Ok(_) => Ok(()),
            Err(enclave::Error::Answered { message, .. }) => Err(message),
            Err(error) => Err(error.to_string()),
        }
    }

    fn run(&self, call: &Call) -> Ran {
        let env = ascii(&Value::Object(call.env.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()));
        let value = if call.value.is_array() { json!({ ARRAY: call.value }) } else { call.value.clone() };
        let path = format!("{}?blocking=true", self.path());
        let answer = self.ask("POST", &path, &[("x-teemate-environment", &env)], Some(&value));
        let record = match answer {
            Ok(answer) if answer.status == 202 => self.record(answer.body["activationId"].as_str().unwrap_or_default()),
            Ok(answer) => Ok(answer.body),
            Err(enclave::Error::Answered { body, .. }) if body["activationId"].is_string() => Ok(body),
            Err(error) => Err(error),
        };
        match record {
            Ok(value @ Value::Array(_)) => Ran { result: Ok(value), lines: Vec::new() },
            Ok(record) => ran(&record),
            Err(error) => Ran { result: Err(format!("An error has occurred: {error}")), lines: Vec::new() },
        }
    }
}

/// What an activation's record says.
fn ran(record: &Value) -> Ran {
    let lines = record["logs"].as_array().into_iter().flatten().filter_map(Value::as_str).map(line).collect();
    let response = &record["response"];
    let result = match response["status"].as_str() {
        Some("success" | "application error") => Ok(response["result"].clone()),
        _ => Err(response["result"]["error"].as_str().unwrap_or("An error has occurred.").to_owned()),
    };
    // What is no object is the action's result to the API, too, but in other words.
    let result = result.map_err(|why| match why.as_str() {
        "The action did not produce a valid JSON or JSON Array response." => "The action did not return a dictionary.".to_owned(),
        _ => why,
    });
    Ran { result, lines }
}

/// `TIME stdout: text` of a record as a line of its stream.
fn line(text: &str) -> (bool, String) {
    let (_, rest) = text.split_once(' ').unwrap_or(("", text));
    let rest = rest.trim_start();
    match (rest.strip_prefix("stderr: "), rest.strip_prefix("stdout: ")) {
        (Some(text), _) => (true, text.to_owned()),
        (None, Some(text)) => (false, text.to_owned()),
        (None, None) => (false, text.to_owned()),
    }
}

/// JSON for a header: nothing but ASCII.
fn ascii(value: &Value) -> String {
    value.to_string().chars().fold(String::new(), |mut text, c| {
        match c {
            ' '..='~' => text.push(c),
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_ascii_and_the_same_json() {
        let value = json!({ "A": "ü\u{1f600}\n\u{7f}" });
        let text = ascii(&value);
        assert!(text.is_ascii() && !text.contains('\u{7f}'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn records_become_results_and_lines() {
        let record = |status: &str, result: Value| json!({ "logs": ["2026-01-01T00:00:00.000Z stdout: a b", "2026-01-01T00:00:00.000Z       stderr: c"], "response": { "status": status, "result": result } });
        let good = ran(&record("success", json!({ "a": 1 })));
        assert_eq!(good.result, Ok(json!({ "a": 1 })));
        assert_eq!(good.lines, [(false, "a b".to_owned()), (true, "c".to_owned())]);
        assert_eq!(ran(&record("application error", json!({ "error": 5 }))).result, Ok(json!({ "error": 5 })));
        assert_eq!(ran(&record("action developer error", json!({ "error": "boom" }))).result, Err("boom".to_owned()));
    }
}
