//! Many calls of an owner, while containers are killed, the enclave is upgraded and the node starts anew: each is answered once, or refused
//! with an error that says so, and the records are complete.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use teemate_attestation::http::Request;
use teemate_attestation::{Connector, Endpoint, Policy, Session};
use teemate_client::Connection;
use teemate_control::node::{Request as NodeRequest, Response};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::{full, skip};

const WORK: &str = "function main({ n }) { let sum = 0; for (let i = 0; i < 20000; i++) sum += i; return { n, sum }; }";
const SUM: u64 = 199_990_000;
/// Callers at one time.
const CALLERS: u64 = 6;
/// How long one call may take, the node's start included.
const PATIENCE: Duration = Duration::from_secs(90);
/// Records that a list gives at a time, and that the enclave keeps at least.
const PAGE: usize = 200;
const KEPT: usize = 4000;

/// What came of the calls, by their numbers.
#[derive(Default)]
struct Outcomes {
    /// Number and id of the activation, in the order in which the answers came.
    answered: Mutex<Vec<(u64, String)>>,
    /// The node or the enclave said no, in words.
    refused: AtomicU64,
    /// The connection ended first: nobody knows.
    unknown: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

struct Caller {
    connector: Connector,
    endpoint: Endpoint,
    credentials: String,
    session: Option<Session>,
}

impl Caller {
    fn new(policy: &Path, address: SocketAddr, auth: &str) -> Caller {
        Caller {
            connector: Connector::new(Policy::load(policy).unwrap()).unwrap(),
            endpoint: address.to_string().parse().unwrap(),
            credentials: format!("Basic {}", STANDARD.encode(auth)),
            session: None,
        }
    }

    /// `None`: no connection, or it ended before the answer; with whether anything was sent.
    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), bool> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.connector, &self.endpoint).map_err(|_| false)?,
        };
        let body = body.map(ToString::to_string);
        let request = Request {
            method,
            path,
            headers: &[("Authorization", &self.credentials)],
            body: body.as_ref().map(|body| ("application/json", body.as_bytes())),
        };
        let answer = session.client().send_within(&request, 32 << 20, PATIENCE).map_err(|_| true)?;
        let value = serde_json::from_slice(&answer.body).map_err(|_| true)?;
        self.session = Some(session);
        Ok((answer.status, value))
    }

    fn call(&mut self, n: u64, outcomes: &Outcomes) {
        let wrong = |text: String| outcomes.wrong.lock().unwrap().push(text);
        match self.ask("POST", "/api/v1/namespaces/_/actions/work?blocking=true", Some(&json!({ "n": n }))) {
            Ok((200, record)) => {
                if record["response"]["result"] != json!({ "n": n, "sum": SUM }) {
                    wrong(format!("call {n}: {record}"));
                }
                let id = record["activationId"].as_str().unwrap_or_default().to_owned();
                outcomes.answered.lock().unwrap().push((n, id));
            }
            // The record of a call whose container was killed, or a sentence.
            Ok((429 | 500 | 502 | 503, answer)) => {
                let says = answer["error"].is_string() || answer["response"]["result"]["error"].is_string();
                if !says {
                    wrong(format!("call {n} is refused without a word: {answer}"));
                }
                outcomes.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok((status, answer)) => wrong(format!("call {n}: HTTP {status}: {answer}")),
            Err(sent) => {
                let count = if sent { &outcomes.unknown } else { &outcomes.refused };
                count.fetch_add(1, Ordering::Relaxed);
                // The node may be starting; who is refused does not ask at once again.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Kills a container that runs a call, or waits for one. Whether it did.
fn kill_one(socket: &Path, seed: &mut u64) -> bool {
    let Ok(Response::Ps(ps)) = Connection::open(socket).and_then(|mut connection| connection.ask(&NodeRequest::Ps)) else { return false };
    let containers: Vec<_> =
        ps.containers.into_iter().filter(|container| ["function", "ready"].contains(&container.role.as_str())).collect();
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let Some(container) = containers.get((*seed >> 33) as usize % containers.len().max(1)) else { return false };
    let Some(pid) = Pid::from_raw(container.pid as i32) else { return false };
    // It may have ended by itself, and its number may be another process's: its cgroup says whether it is still the same.
    let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let Ok(groups) = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid)) else { return false };
    groups.contains("teemate") && pidfd_send_signal(&pinned, Signal::KILL).is_ok()
}

#[test]
fn calls_are_answered_once_whatever_happens() {
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
    let policy = ada.policy_of_signer("policy.toml", &image).unwrap();
    ada.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    ada.deploy("work", WORK).unwrap();
    let (address, auth, socket) = (node.endpoint(), ada.auth().unwrap(), node.socket().to_owned());

    let calls = if full() { 100_000 } else { 1_200 };
    let (next, over, killed, outcomes) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0), Outcomes::default());
    let until = |part: u64| {
        while next.load(Ordering::Relaxed) < calls * part / 3 {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut caller = Caller::new(&policy, address, &auth);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= calls {
                            return;
                        }
                        caller.call(n, &outcomes);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut seed = 7;
            while !over.load(Ordering::Relaxed) {
                killed.fetch_add(kill_one(&socket, &mut seed).into(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        until(1);
        let upgraded = ada.json(&["--socket", &socket.display().to_string(), "node", "upgrade", &image.display().to_string()]);
        until(2);
        let restarted = node.stop().and_then(|()| node.restart_here());
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        over.store(true, Ordering::Relaxed);
        upgraded.unwrap();
        restarted.unwrap();
    });

    let wrong = outcomes.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} calls went wrong:\n{}\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"), node.last_words());
    let answered = outcomes.answered.into_inner().unwrap();
    let (refused, unknown, killed) = (outcomes.refused.into_inner(), outcomes.unknown.into_inner(), killed.into_inner());
    println!("{calls} calls, {killed} kills: {} answered, {refused} refused, {unknown} cut off", answered.len());
    assert_eq!(answered.len() as u64 + refused + unknown, calls);
    assert!(answered.len() as u64 > calls / 2 && killed > 0);

    // What was answered is on record, once each, with the same result.
    let mut caller = Caller::new(&policy, node.endpoint(), &auth);
    let mut records = HashMap::new();
    let mut successes = HashSet::new();
    for skip in (0..).step_by(PAGE) {
        let path = format!("/api/v1/namespaces/_/activations?docs=true&name=work&limit={PAGE}&skip={skip}");
        let (status, page) = caller.ask("GET", &path, None).unwrap();
        assert_eq!(status, 200, "{page}");
        let page = page.as_array().unwrap().clone();
        if page.is_empty() {
            break;
        }
        for record in page {
            let n = record["response"]["result"]["n"].as_u64();
            assert!(n.is_none_or(|n| successes.insert(n)), "call {n:?} was carried out twice");
            assert!(record["end"].is_u64(), "{record}");
            records.insert(record["activationId"].as_str().unwrap().to_owned(), n);
        }
    }
    let missing: Vec<_> = answered.iter().rev().take(KEPT).filter(|(n, id)| records.get(id) != Some(&Some(*n))).collect();
    assert!(missing.is_empty(), "{} of {} records are missing: {:?}", missing.len(), answered.len(), &missing[..missing.len().min(5)]);
    node.stop().unwrap();
}
