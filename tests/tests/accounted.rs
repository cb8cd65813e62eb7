//! Each call of an owner is answered once or refused with a clear error, and what ran has its record, while containers are killed, the node
//! is stopped and started again, and the enclave is replaced by its next release.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use teemate_attestation::http::{Request, Response};
use teemate_attestation::{Connector, Endpoint, Policy, Session};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::{full, skip};

/// Has work enough for a kill to hit it.
const ECHO: &str = "function main({ n }) { console.log('n=' + n); let s = 0; for (let i = 0; i < 20000; i++) s += i; return { n, s }; }";
const CALLERS: usize = 4;
/// Longest that a call, a start or an answer may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// The gateway keeps the newest 5000 records of an owner: they are read before that many are made.
const MOST_OF_A_BATCH: u64 = 2_000;
const PAGE: usize = 200;

/// What a caller was told.
enum Said {
    Result {
        id: String,
        n: u64,
    },
    Failed {
        id: String,
    },
    /// Nothing ran.
    Refused(String),
    /// The connection broke: the caller knows that it does not know.
    Cut(String),
}

struct Client {
    connector: Connector,
    endpoint: Endpoint,
    credentials: String,
}

impl Client {
    fn of(owner: &Owner, node: &Node) -> Client {
        let policy = Policy::load(&owner.home().join("policy.toml")).unwrap();
        let credentials = format!("Basic {}", STANDARD.encode(owner.auth().unwrap()));
        let endpoint = format!("https://{}", node.endpoint()).parse().unwrap();
        Client { connector: Connector::new(policy).unwrap(), endpoint, credentials }
    }

    /// A verified connection; nobody listens for a while when the node was stopped.
    fn open(&self) -> Session {
        let begin = Instant::now();
        loop {
            match Session::open(&self.connector, &self.endpoint) {
                Ok(session) => return session,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "the enclave does not answer: {error}"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn send(&self, session: &mut Session, method: &str, path: &str, body: Option<&Value>) -> Result<Response, String> {
        let body = body.map(ToString::to_string);
        let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
        let request = Request { method, path, headers: &[("Authorization", &self.credentials)], body };
        session.client().send_within(&request, 32 << 20, PATIENCE).map_err(|error| error.to_string())
    }

    fn call(&self, session: &mut Session, n: u64) -> Said {
        let path = "/api/v1/namespaces/_/actions/echo?blocking=true";
        let response = match self.send(session, "POST", path, Some(&json!({ "n": n }))) {
            Ok(response) => response,
            Err(error) => return Said::Cut(error),
        };
        if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            *session = self.open();
        }
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        match (response.status, answer["activationId"].as_str(), answer["error"].as_str()) {
            (200, Some(id), _) => {
                let n = answer["response"]["result"]["n"].as_u64().unwrap_or(u64::MAX);
                Said::Result { id: id.to_owned(), n }
            }
            (400.., Some(id), _) if answer["response"]["success"] == json!(false) => Said::Failed { id: id.to_owned() },
            (429 | 500.., _, Some(why)) if !why.is_empty() => Said::Refused(format!("{}: {why}", response.status)),
            _ => panic!("call {n}: {} {}", response.status, String::from_utf8_lossy(&response.body)),
        }
    }

    /// The newest records, until none is older than what is wanted: all since `since` (ms).
    fn records(&self, since: u64) -> Vec<Value> {
        let (mut session, mut records) = (self.open(), Vec::new());
        loop {
            let skip = records.len();
            let path = format!("/api/v1/namespaces/_/activations?docs=true&name=echo&since={since}&limit={PAGE}&skip={skip}");
            let response = self.send(&mut session, "GET", &path, None).unwrap();
            let page: Vec<Value> = serde_json::from_slice(&response.body).unwrap();
            if page.is_empty() {
                return records;
            }
            records.extend(page);
        }
    }
}

/// Kills one container that runs a call, if there is one.
fn kill_one(node: &Node, which: u64) -> bool {
    let running = || node.ps().unwrap().containers.into_iter().filter(|container| container.role == "function").collect::<Vec<_>>();
    let candidates = running();
    if candidates.is_empty() {
        return false;
    }
    let victim = &candidates[which as usize % candidates.len()];
    let Some(Ok(pinned)) = Pid::from_raw(victim.pid as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return false };
    // Looked up again once it is pinned: a number that is used anew is never hit.
    let still = running().iter().any(|other| (other.id, other.pid) == (victim.id, victim.pid));
    still && pidfd_send_signal(&pinned, Signal::KILL).is_ok()
}

/// What becomes of the calls of one batch, while `disturb` does what it does until they are over.
fn batch(client: &Client, numbers: std::ops::Range<u64>, disturb: impl FnOnce(&dyn Fn() -> u64)) -> BTreeMap<u64, Said> {
    let (next, done, over) = (AtomicU64::new(numbers.start), AtomicU64::new(0), AtomicUsize::new(0));
    let said = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                // Counted also when this thread panics, or who disturbs would wait for it.
                let _over = Over(&over);
                let mut session = client.open();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= numbers.end {
                        return;
                    }
                    let answer = client.call(&mut session, n);
                    if matches!(answer, Said::Cut(_)) {
                        session = client.open();
                    }
                    assert!(said.lock().unwrap().insert(n, answer).is_none(), "call {n} was answered twice");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        disturb(&|| if over.load(Ordering::Acquire) == CALLERS { u64::MAX } else { done.load(Ordering::Relaxed) });
    });
    said.into_inner().unwrap()
}

struct Over<'a>(&'a AtomicUsize);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

#[derive(Default, Debug)]
struct Counts {
    right: u64,
    failed: u64,
    refused: u64,
    cut: u64,
    records: u64,
}

/// Compares what was said with the records.
fn account(said: &BTreeMap<u64, Said>, records: &[Value], counts: &mut Counts) {
    let mut by_id = BTreeMap::new();
    let mut results = BTreeSet::new();
    for record in records {
        assert!(by_id.insert(record["activationId"].as_str().unwrap(), record).is_none(), "one record is listed twice: {record}");
        if let Some(n) = record["response"]["result"]["n"].as_u64() {
            assert!(results.insert(n), "call {n} has two records");
        }
    }
    counts.records += records.len() as u64;
    let mut known = BTreeSet::new();
    for (call, said) in said {
        match said {
            Said::Result { id, n } => {
                assert_eq!(n, call, "another call's result");
                let record = by_id.get(id.as_str()).unwrap_or_else(|| panic!("call {n} was answered, and has no record {id}"));
                assert_eq!(record["response"]["result"]["n"], json!(n), "{record}");
                assert!(record["logs"][0].as_str().is_some_and(|line| line.ends_with(&format!("n={n}"))), "{record}");
                assert!(record["end"].as_u64() >= record["start"].as_u64(), "{record}");
                counts.right += 1;
                known.insert(id.as_str());
            }
            Said::Failed { id } => {
                let record = by_id.get(id.as_str()).unwrap_or_else(|| panic!("call {call} failed, and has no record {id}"));
                assert_eq!(record["response"]["success"], json!(false), "{record}");
                assert!(record["response"]["result"]["error"].as_str().is_some_and(|why| !why.is_empty()), "{record}");
                counts.failed += 1;
                known.insert(id.as_str());
            }
            Said::Refused(why) => {
                assert!(!results.contains(call), "call {call} was refused ({why}), and ran");
                counts.refused += 1;
            }
            Said::Cut(why) => {
                assert!(!why.is_empty());
                counts.cut += 1;
            }
        }
    }
    // What nobody was told of is of callers whose connection broke.
    let cut = said.values().filter(|said| matches!(said, Said::Cut(_))).count();
    let unknown = by_id.keys().filter(|id| !known.contains(*id)).count();
    assert!(unknown <= cut, "{unknown} records are of no call that was made; {cut} connections broke");
}

#[test]
fn every_call_is_answered_or_refused_and_every_record_is_there() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    if std::fs::read(artifacts.directory().join("signing-key.pem")).is_err() {
        return skip("the signing key of the artifacts can't be read, so no second image of the same signer can be made");
    }
    let mut node = Node::start_listening(&artifacts).unwrap();
    let ada = Owner::new(&artifacts).unwrap();
    let image = ada.next_release(&artifacts).unwrap();
    let policy = ada.policy_of_the_signer(&image).unwrap();
    ada.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    ada.deploy("echo", ECHO).unwrap();
    let client = Client::of(&ada, &node);

    let (batches, size) = if full() { (50, MOST_OF_A_BATCH) } else { (3, 300) };
    let (mut counts, mut kills, mut seed) = (Counts::default(), 0u64, 0x9e37_79b9_7f4a_7c15u64);
    let begin = Instant::now();
    for number in 0..batches {
        let since = now_ms();
        let numbers = number * size..(number + 1) * size;
        let middle = size / 2;
        // One restart and one upgrade, each in the midst of calls.
        let (mut restart, mut upgrade) = (number == batches / 3, number == batches * 2 / 3);
        let said = batch(&client, numbers, |done| {
            while done() != u64::MAX {
                if restart && done() >= middle {
                    node.stop().unwrap();
                    node.restart_here().unwrap();
                    restart = false;
                }
                if upgrade && done() >= middle {
                    let socket = node.socket().display().to_string();
                    ada.json(&["--socket", &socket, "node", "upgrade", &image.display().to_string()]).unwrap();
                    upgrade = false;
                }
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                kills += u64::from(kill_one(&node, seed >> 33));
                thread::sleep(Duration::from_millis(5 + (seed >> 40) % 60));
            }
        });
        assert!(!restart && !upgrade, "the calls were over before the node was disturbed");
        assert_eq!(said.len() as u64, size, "a call got no answer\n{}", node.last_words());
        account(&said, &client.records(since), &mut counts);
    }
    println!("{} calls in {:?}, {kills} kills, one restart, one upgrade: {counts:?}", batches * size, begin.elapsed());
    assert!(kills > 0 && counts.failed <= kills, "{counts:?}, {kills} kills");
    // Restart and upgrade close connections that rest, which a caller may learn when it has sent: at most two of each caller.
    assert!(counts.cut <= 2 * CALLERS as u64, "{counts:?}");
    assert!(counts.right * 100 >= batches * size * 80, "{counts:?}");
    node.stop().unwrap();
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}
