//! The API as its clients see it, over functions that do what their source says in one line, and a store in memory.

mod actions;
mod activations;
mod invoking;
mod packages;
mod rules;
mod secrets;
mod sequences;
mod web;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Outcome, Usage};
use teemate_vault::OwnerLimits;

use super::receipt::{Finished, Witness};
use super::store::{Account, Change, Key, StoreError};
use super::*;
use crate::platform::Call;
use crate::router::Owner;

/// A store in memory, which can be told to fail.
#[derive(Default)]
pub struct MemoryStore {
    pub kept: Mutex<BTreeMap<Key, Vec<u8>>>,
    pub owners: Mutex<HashMap<String, Account>>,
    pub fails: Mutex<bool>,
    /// Commits wait while this is so.
    pub is_slow: AtomicBool,
}

impl MemoryStore {
    fn ok(&self) -> Result<(), StoreError> {
        if *lock(&self.fails) { Err(StoreError::new("do this", "it was told to fail")) } else { Ok(()) }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        self.ok()?;
        Ok(lock(&self.kept).get(key).cloned())
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.ok()?;
        while self.is_slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut kept = lock(&self.kept);
        for change in changes {
            match change {
                Change::Put(key, value) => drop(kept.insert(key, value)),
                Change::Delete(key) => drop(kept.remove(&key)),
            }
        }
        Ok(())
    }

    fn put_soon(&self, key: Key, value: Vec<u8>) -> Result<(), StoreError> {
        self.commit(vec![Change::Put(key, value)])
    }

    fn list(&self, owner: &str, kind: &'static str) -> Result<Vec<String>, StoreError> {
        self.ok()?;
        Ok(lock(&self.kept).keys().filter(|key| key.owner == owner && key.kind == kind).map(|key| key.name.clone()).collect())
    }

    fn account(&self, namespace: &str) -> Option<Account> {
        lock(&self.owners).get(namespace).cloned()
    }
}

/// Who waits for the end of a call.
type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Functions that do what the first line of their source says.
#[derive(Default)]
pub struct Scripted {
    pub deployed: Mutex<BTreeMap<String, (FunctionSpec, String)>>,
    pub deploys: AtomicU64,
    pub calls: AtomicU64,
    /// Calls that wait for ever, by number.
    waiting: Mutex<HashMap<u64, Done>>,
}

fn outcome(result: Result<Vec<u8>, Failure>, logs: &str) -> Outcome {
    Outcome { result, logs: logs.to_owned(), usage: Usage { execution_us: 1500, ..Usage::default() }, container: 7, marks: vec![] }
}

impl Functions for Scripted {
    fn deploy(&self, spec: FunctionSpec, code: Vec<u8>, done: Box<dyn FnOnce(Result<[u8; 32], Failure>) + Send>) {
        self.deploys.fetch_add(1, Ordering::Relaxed);
        let digest = Sha256::digest(&code).into();
        let code = String::from_utf8_lossy(&code).into_owned();
        if code.starts_with("syntax error") {
            return done(Err(Failure::new(FailureKind::Invalid, format!("'{}' does not compile: SyntaxError", spec.name))));
        }
        lock(&self.deployed).insert(spec.name.clone(), (spec, code));
        done(Ok(digest));
    }

    fn delete(&self, id: &str) {
        lock(&self.deployed).remove(id);
    }

    fn invoke(&self, call: Call, done: Box<dyn FnOnce(Outcome) + Send>) -> u64 {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let (_, code) = lock(&self.deployed).get(&call.function).cloned().expect("called before it was deployed");
        let line = code.lines().next().unwrap_or_default();
        let (word, rest) = line.trim_start_matches("//").split_once(' ').unwrap_or((line.trim_start_matches("//"), ""));
        let params: Value = serde_json::from_slice(&call.params).unwrap();
        let result = match word {
            "echo" => Ok(call.params.clone()),
            "raw" => Ok(rest.as_bytes().to_vec()),
            "env" => Ok(json!(call.env.iter().cloned().collect::<BTreeMap<_, _>>()).to_string().into_bytes()),
            "add" => Ok(json!({ "n": params["n"].as_i64().unwrap_or(0) + 1 }).to_string().into_bytes()),
            "log" => {
                done(outcome(Ok(b"{}".to_vec()), &rest.replace("\\n", "\n")));
                return number;
            }
            "throw" => Err(Failure::new(FailureKind::Application, format!("An error has occurred: Error: {rest}"))),
            "time" => Err(Failure::new(FailureKind::Limit, "time: the call ran longer than its limit of 100 ms")),
            "busy" => Err(Failure::new(FailureKind::Busy, "no room")),
            "lost" => Err(Failure::new(FailureKind::ContainerLost, "it was killed")),
            "sleep" => {
                let ms = rest.parse().unwrap();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(ms));
                    done(outcome(Ok(call.params), ""));
                });
                return number;
            }
            "wait" => {
                lock(&self.waiting).insert(number, done);
                return number;
            }
            other => panic!("no such function: {other}"),
        };
        done(outcome(result, ""));
        number
    }

    fn cancel(&self, call: u64) {
        if let Some(done) = lock(&self.waiting).remove(&call) {
            done(outcome(Err(Failure::new(FailureKind::Application, "cancelled")), ""));
        }
    }
}

impl Scripted {
    /// Ends all calls that wait.
    pub fn release(&self) {
        let waiting: Vec<_> = lock(&self.waiting).drain().collect();
        for (_, done) in waiting {
            done(outcome(Ok(b"{\"released\":true}".to_vec()), ""));
        }
    }
}

/// Keeps the receipts.
#[derive(Default)]
pub struct Notes(pub Mutex<Vec<teemate_evidence::Receipt>>);

impl Witness for Notes {
    fn on_finished(&self, call: &Finished<'_>) {
        lock(&self.0).push(call.receipt());
    }
}

/// The API and what is under it.
pub struct Bench {
    pub whisk: Arc<Whisk>,
    pub functions: Arc<Scripted>,
    pub store: Arc<MemoryStore>,
    pub notes: Arc<Notes>,
    pub brokers: Arc<secrets::Scripted>,
}

/// An answer, read.
#[derive(Clone, Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{:?}", self.bytes);
        self.json()
    }

    /// The sentence of an error with this status.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{:?}", self.bytes);
        let body = self.json();
        assert_eq!(body["code"].as_str(), self.headers.get("x-request-id").and_then(|id| id.to_str().ok()), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Bench {
        let mut config = Config { api_host: "https://host".into(), ..Config::default() };
        change(&mut config);
        let (functions, store, notes) = (Arc::new(Scripted::default()), Arc::new(MemoryStore::default()), Arc::new(Notes::default()));
        for name in ["ada", "bob"] {
            let limits = OwnerLimits { calls_per_minute: 1000, triggers_per_minute: 1000, ..OwnerLimits::default() };
            lock(&store.owners).insert(name.into(), Account { id: format!("uuid-{name}"), limits });
        }
        let brokers = Arc::new(secrets::Scripted::default());
        let whisk = Whisk::new(config, functions.clone(), store.clone(), notes.clone(), brokers.clone());
        Bench { whisk, functions, store, notes, brokers }
    }

    /// The same store, after a restart.
    pub fn restarted(&self) -> Bench {
        let functions = Arc::new(Scripted::default());
        let (store, notes, brokers) = (self.store.clone(), self.notes.clone(), self.brokers.clone());
        let whisk = Whisk::new(self.whisk.config.clone(), functions.clone(), store.clone(), notes.clone(), brokers.clone());
        Bench { whisk, functions, store, notes, brokers }
    }

    pub fn limit(&self, change: impl FnOnce(&mut OwnerLimits)) {
        change(&mut lock(&self.store.owners).get_mut("ada").unwrap().limits);
    }

    pub async fn send(&self, owner: &str, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answered {
        let answered = self.send_only(owner, method, target, headers, body).await;
        // What tests look at below the API is there.
        self.whisk.keeping.settled(owner, None).await;
        answered
    }

    /// The same, and does not wait until a call's record is kept.
    pub async fn send_only(&self, owner: &str, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answered {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        };
        let header =
            |(name, value): &(&str, &str)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        let request = Request {
            method,
            path: path.to_owned(),
            query: query.split('&').filter(|it| !it.is_empty()).map(pair).collect(),
            headers: headers.iter().map(header).collect(),
            body: body.into(),
            owner: (!owner.is_empty()).then(|| Owner { namespace: owner.into(), uuid: format!("uuid-{owner}") }),
        };
        let response = self.whisk.clone().handle(request).await;
        Answered { status: response.status.as_u16(), headers: response.headers, bytes: response.body }
    }

    pub async fn get(&self, target: &str) -> Answered {
        self.send("ada", Method::GET, &at(target), &[], "").await
    }

    pub async fn put(&self, target: &str, body: Value) -> Answered {
        self.send("ada", Method::PUT, &at(target), &[], body.to_string()).await
    }

    pub async fn post(&self, target: &str, body: Value) -> Answered {
        self.send("ada", Method::POST, &at(target), &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn delete(&self, target: &str) -> Answered {
        self.send("ada", Method::DELETE, &at(target), &[], "").await
    }

    /// Makes an action that does this.
    pub async fn action(&self, name: &str, does: &str) -> Value {
        self.put(&format!("actions/{name}?overwrite=true"), json!({ "exec": { "kind": "nodejs:20", "code": format!("//{does}") } }))
            .await
            .ok()
    }

    /// Calls it and waits for the result.
    pub async fn call(&self, name: &str, params: Value) -> Answered {
        self.post(&format!("actions/{name}?blocking=true&result=true"), params).await
    }

    /// Waits until the namespace has so many activations, and gives them.
    pub async fn activations(&self, count: usize) -> Vec<Value> {
        loop {
            let list = self.get("activations?docs=true").await.ok();
            let list = list.as_array().unwrap();
            if list.len() >= count {
                return list.clone();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn at(target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { format!("/namespaces/_/{target}") }
}

pub fn annotation<'a>(entity: &'a Value, key: &str) -> Option<&'a Value> {
    entity["annotations"].as_array().unwrap().iter().find(|it| it["key"] == key).map(|it| &it["value"])
}

#[tokio::test]
async fn clients_find_what_they_read_first() {
    let bench = Bench::new();
    let info = bench.send("", Method::GET, "", &[], "").await;
    assert_eq!(info.ok()["api_version_path"], "v1");
    assert_eq!(info.header("access-control-allow-origin"), Some("*"));
    let root: Value = serde_json::from_slice(&bench.whisk.root().body).unwrap();
    assert_eq!(root["limits"]["actions_per_minute"], 60);
    assert_eq!(root["runtimes"]["nodejs"][0]["kind"], "nodejs:20");
    assert_eq!(bench.get("/namespaces").await.ok(), json!(["ada"]));
    assert_eq!(bench.get("limits").await.ok()["concurrentInvocations"], 30);
    assert_eq!(bench.send("", Method::OPTIONS, "/namespaces/_/actions", &[], "").await.status, 200);
    // What is not there, and who may not.
    bench.get("/nothing").await.error(404);
    bench.get("nothing").await.error(404);
    bench.send("", Method::GET, "/namespaces/_/actions", &[], "").await.error(401);
    let forbidden = "The supplied authentication is not authorized to access 'bob'.";
    assert_eq!(bench.get("/namespaces/bob/actions").await.error(403), forbidden);
    assert_eq!(
        bench.get("/namespaces/nobody/actions").await.error(403),
        "The supplied authentication is not authorized to access 'nobody'."
    );
    assert_eq!(bench.get("/namespaces/a$/actions").await.error(400), "The namespace contains illegal characters.");
    assert_eq!(bench.get("actions/%24").await.error(400), "The name of the entity contains illegal characters.");
    bench.post("packages/p", json!({})).await.error(405);
    bench.post("activations", json!({})).await.error(405);
}

#[tokio::test]
async fn the_transaction_is_the_clients_if_it_will_do() {
    let bench = Bench::new();
    let id = |given: &'static str| {
        let bench = &bench;
        async move {
            bench.send("ada", Method::GET, "/namespaces", &[("x-request-id", given)], "").await.header("x-request-id").unwrap().to_owned()
        }
    };
    assert_eq!(id("abc-1").await, "abc-1");
    for bad in ["sid_loadbalancer", "a b", ""] {
        assert_eq!(id(bad).await.len(), 32, "{bad}");
    }
}

#[test]
fn bodies_are_bounded_before_they_are_read() {
    let bench = Bench::new();
    let of = |method: Method, path: &str| bench.whisk.limits(&method, path);
    assert!(of(Method::PUT, "/namespaces/_/actions/a").bytes > 48 << 20);
    assert!(of(Method::PUT, "/namespaces/_/triggers/a").bytes < 4 << 20);
    assert!(of(Method::POST, "/namespaces/_/actions/a").bytes < 2 << 20);
    assert!(of(Method::GET, "/namespaces/_/actions/a").bytes < 1 << 20);
    assert!(of(Method::PUT, "/web/a/b/actions/").bytes < 2 << 20);
    for (path, anonymous) in
        [("/web/a/b/c", true), ("", true), ("/", true), ("/namespaces", false), ("/namespaces/_/actions", false), ("/webs/a", false)]
    {
        assert_eq!(of(Method::GET, path).anonymous, anonymous, "{path}");
    }
}

fn requests() -> impl proptest::strategy::Strategy<Value = Vec<(usize, Vec<usize>, usize)>> {
    proptest::collection::vec((0..6usize, proptest::collection::vec(0..PIECES.len(), 0..6), 0..BODIES.len()), 1..12)
}

const PIECES: [&str; 22] = [
    "namespaces",
    "web",
    "_",
    "ada",
    "bob",
    "actions",
    "packages",
    "triggers",
    "rules",
    "activations",
    "limits",
    "default",
    "a",
    "b",
    "p",
    "",
    "a.json",
    "%ff",
    "a?blocking=true&overwrite=true&count=1",
    "p?overwrite=true",
    "..",
    "%00",
];

const BODIES: [&str; 12] = [
    "",
    "{",
    "[]",
    "null",
    r#"{"exec":{"kind":"nodejs:20","code":"//echo"},"annotations":[{"key":"web-export","value":true}]}"#,
    r#"{"exec":{"kind":"sequence","components":["/_/a","/_/b"]}}"#,
    r#"{"exec":{"kind":"sequence","components":["/_/p/a","/_/p/b"]}}"#,
    r#"{"binding":{"namespace":"_","name":"p"}}"#,
    r#"{"trigger":"/_/a","action":"/_/b"}"#,
    r#"{"status":"inactive"}"#,
    r#"{"publish":true}"#,
    r#"{"a":1e400}"#,
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever comes, in whatever order: it has an answer, which is not that something broke.
    #[test]
    fn no_request_breaks_it(requests in requests()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new();
            for (method, path, body) in requests {
                let method = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"][method].parse().unwrap();
                let path: String = path.into_iter().map(|piece| format!("/{}", PIECES[piece])).collect();
                let (target, query) = path.split_once('?').map_or((&*path, String::new()), |(target, query)| (target, query.replace('/', "")));
                let answered = bench.send("ada", method, &format!("{target}?{query}"), &[], BODIES[body]).await;
                proptest::prop_assert!(answered.status != 500, "{path}: {:?}", answered.bytes);
            }
            Ok(())
        })?;
    }
}
