//! Functions that run in Node: one process, with globals of its own for each call.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Outcome, Usage};
use teemate_gateway::{Call, Functions};

type Answer = Box<dyn FnOnce(Value) + Send>;

/// The process, and what it was asked.
pub struct NodeFunctions {
    deployed: Mutex<HashMap<String, (FunctionSpec, Vec<u8>)>>,
    asked: AtomicU64,
    stdin: Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u64, Answer>>>,
    process: Mutex<Child>,
}

impl NodeFunctions {
    pub fn start() -> NodeFunctions {
        let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openwhisk/runner.js");
        let mut node = Command::new("node");
        node.arg(runner).env("NODE_NO_WARNINGS", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = node.spawn().expect("node runs");
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        let waiting: Arc<Mutex<HashMap<u64, Answer>>> = Arc::default();
        let answers = waiting.clone();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let answer: Value = serde_json::from_str(&line.expect("the runner writes text")).expect("the runner writes JSON");
                let id = answer["id"].as_u64().expect("an answer has an id");
                let done = answers.lock().expect("no panic").remove(&id).expect("each question is answered once");
                done(answer);
            }
        });
        let stdin = Mutex::new(process.stdin.take().expect("piped"));
        NodeFunctions { deployed: Mutex::default(), asked: AtomicU64::new(1), stdin, waiting, process: Mutex::new(process) }
    }

    fn ask(&self, mut question: Value, done: impl FnOnce(Value) + Send + 'static) -> u64 {
        let id = self.asked.fetch_add(1, Ordering::Relaxed);
        question["id"] = id.into();
        self.waiting.lock().expect("no panic").insert(id, Box::new(done));
        self.stdin.lock().expect("no panic").write_all(format!("{question}\n").as_bytes()).expect("the runner reads");
        id
    }
}

impl Drop for NodeFunctions {
    fn drop(&mut self) {
        let process = self.process.get_mut().expect("no panic");
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Functions for NodeFunctions {
    fn deploy(&self, spec: FunctionSpec, code: Vec<u8>, done: Box<dyn FnOnce(Result<[u8; 32], Failure>) + Send>) {
        let digest = Sha256::digest(&code).into();
        let (name, kind, text) = (spec.name.clone(), spec.kind, STANDARD.encode(&code));
        let is_module = code.starts_with(b"\0asm");
        self.deployed.lock().expect("no panic").insert(name.clone(), (spec, code));
        if kind == Kind::Wasm {
            let no_module = || Failure::new(FailureKind::Invalid, format!("'{name}' does not begin with \\0asm"));
            return done(if is_module { Ok(digest) } else { Err(no_module()) });
        }
        self.ask(json!({ "op": "compile", "name": name, "code": text }), move |answer| {
            let why = answer["message"].as_str().map(|why| format!("'{name}' does not compile: {why}"));
            done(why.map_or(Ok(digest), |why| Err(Failure::new(FailureKind::Invalid, why))));
        });
    }

    fn delete(&self, id: &str) {
        self.deployed.lock().expect("no panic").remove(id);
    }

    fn invoke(&self, call: Call, done: Box<dyn FnOnce(Outcome) + Send>) -> u64 {
        let (spec, code) = self.deployed.lock().expect("no panic").get(&call.function).cloned().expect("deployed before it is called");
        let params: Value = serde_json::from_slice(&call.params).expect("an object");
        let env: Map<String, Value> = call.env.into_iter().map(|(key, value)| (key, value.into())).collect();
        let question = match spec.kind {
            Kind::Wasm => json!({ "op": "wasm", "code": STANDARD.encode(code), "params": params, "env": env }),
            Kind::JavaScript => {
                let timeout = spec.limits.timeout_ms;
                json!({ "op": "run", "name": spec.name, "entry": spec.main, "params": params, "env": env, "timeout": timeout })
            }
        };
        let began = Instant::now();
        self.ask(question, move |answer| {
            let usage = Usage { execution_us: began.elapsed().as_micros() as u64, ..Usage::default() };
            let logs = answer["logs"].as_str().unwrap_or_default().to_owned();
            done(Outcome { result: result(&spec, &answer), logs, usage, container: 1, marks: Vec::new() });
        })
    }

    fn cancel(&self, _: u64) {}
}

fn result(spec: &FunctionSpec, answer: &Value) -> Result<Vec<u8>, Failure> {
    let message = answer["message"].as_str().unwrap_or_default();
    match (answer["ok"].as_str(), answer["failure"].as_str()) {
        (Some(text), _) if text.len() as u64 > spec.limits.result => {
            Err(Failure::new(FailureKind::Limit, "result: it is larger than its limit"))
        }
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Some("limit")) => Err(Failure::new(FailureKind::Limit, message)),
        (None, _) => Err(Failure::new(FailureKind::Application, message)),
    }
}
