//! A node's life: orderly stop, crash, restart; functions survive, nothing else is left.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use teemate_control::function::{FailureKind, Limits};
use teemate_control::node::{Request, Response, Sharing};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::running::Node;
use teemate_tests::{memory, skip};

const ECHO: &str = "function main(p) { console.log('called'); return p; }";
const SLEEP: &str = "function main(p) { return new Promise((done) => setTimeout(() => done({ slept: p.ms }), p.ms)); }";

fn start() -> Option<Node> {
    match Artifacts::find() {
        Ok(artifacts) => Some(Node::start(&artifacts, Sharing::Shared).unwrap()),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

/// Processes that still run. Zombies whose parent has not looked yet don't count.
fn alive(pids: &[u32]) -> Vec<u32> {
    let runs = |pid: &&u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    pids.iter().filter(runs).copied().collect()
}

#[test]
fn functions_survive_an_orderly_restart() {
    let Some(mut node) = start() else { return };
    let info = node.deploy_script("echo", ECHO, Limits::default()).unwrap();
    let family = memory::family(node.pid().unwrap());
    node.stop().unwrap();
    assert_eq!(alive(&family), Vec::<u32>::new(), "processes are left");
    node.restart().unwrap();
    assert_eq!(node.call("echo", json!({ "a": 1 })).unwrap(), json!({ "a": 1 }));
    let mut connection = node.connect().unwrap();
    let Ok(Response::Function(again)) = connection.ask(&Request::Function { name: "echo".into() }) else { panic!() };
    assert_eq!((again.digest, again.spec), (info.digest, info.spec));
    assert!(matches!(connection.ask(&Request::Delete { name: "echo".into() }), Ok(Response::Ok)));
    drop(connection);
    node.stop().unwrap();
    node.restart().unwrap();
    assert!(node.call("echo", json!({})).unwrap_err().contains("echo"), "a deleted function came back");
    node.stop().unwrap();
}

#[test]
fn a_stop_lets_calls_under_way_finish() {
    let Some(mut node) = start() else { return };
    node.deploy_script("sleep", SLEEP, Limits::default()).unwrap();
    let mut connection = node.connect().unwrap();
    let call = std::thread::spawn(move || teemate_tests::running::invoke(&mut connection, "sleep", json!({ "ms": 1500 }), None));
    std::thread::sleep(Duration::from_millis(500));
    node.stop().unwrap();
    let outcome = call.join().unwrap().unwrap();
    assert!(outcome.result.is_ok(), "{:?}", outcome.result);
}

#[test]
fn after_a_crash_the_next_node_starts_clean() {
    let Some(mut node) = start() else { return };
    node.deploy_script("echo", ECHO, Limits::default()).unwrap();
    node.deploy_script("sleep", SLEEP, Limits::default()).unwrap();
    let mut connection = node.connect().unwrap();
    let call = std::thread::spawn(move || teemate_tests::running::invoke(&mut connection, "sleep", json!({ "ms": 20_000 }), None));
    std::thread::sleep(Duration::from_millis(500));
    let family = memory::family(node.pid().unwrap());
    assert!(family.len() > 1);
    node.crash().unwrap();
    assert!(call.join().unwrap().is_err(), "a call outlived its node");
    node.restart().unwrap();
    // The old enclave and its containers are gone: by themselves, or by the new node's hand.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(alive(&family), Vec::<u32>::new(), "processes of the crashed node are left");
    assert_eq!(node.call("echo", json!({ "b": 2 })).unwrap(), json!({ "b": 2 }));
    node.stop().unwrap();
}

#[test]
fn logs_metrics_and_counts() {
    let Some(mut node) = start() else { return };
    node.deploy_script("echo", ECHO, Limits::default()).unwrap();
    for n in 0..3 {
        node.call("echo", json!({ "n": n })).unwrap();
    }
    let mut connection = node.connect().unwrap();
    let Ok(Response::Logs { calls }) = connection.ask(&Request::Logs { name: "echo".into(), last: 2 }) else { panic!() };
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.success && call.logs.contains("called")), "{calls:?}");
    let Ok(Response::Function(info)) = connection.ask(&Request::Function { name: "echo".into() }) else { panic!() };
    assert_eq!((info.calls, info.failed), (3, 0));
    assert_eq!(node.status().unwrap().calls, 3);
    let metrics = node.metrics().unwrap();
    assert!(metrics.contains("# TYPE") && metrics.trim_end().ends_with("# EOF"), "{metrics}");
    node.stop().unwrap();
}

#[test]
fn a_function_replaced_is_the_new_one_at_once() {
    let Some(mut node) = start() else { return };
    for version in 0..5 {
        node.deploy_script("f", &format!("function main() {{ return {{ version: {version} }}; }}"), Limits::default()).unwrap();
        assert_eq!(node.call("f", json!({})).unwrap(), json!({ "version": version }));
    }
    let outcome = node.invoke("none", json!({}));
    let kind = match outcome {
        Ok(outcome) => outcome.result.unwrap_err().kind,
        Err(teemate_client::Error::Failed(failure)) => failure.kind,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(kind, FailureKind::Invalid);
    node.stop().unwrap();
}
