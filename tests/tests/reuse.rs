//! Containers that serve more than one call of their function, in the whole system: rewound, kept, killed while they wait, given back when
//! others need them.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use teemate_control::function::{FailureKind, Limits, Outcome, Reuse};
use teemate_control::node::{ContainerInfo, Sharing};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::running::{Node, invoke, result};
use teemate_tests::{full, skip};

const COUNT: &str = "let n = 0; const at = Date.now(); function main() { n += 1; return { n }; }";
const POLICIES: [(&str, Reuse); 3] = [("fresh", Reuse::Fresh), ("rewind", Reuse::Rewind), ("keep", Reuse::Keep)];

fn start() -> Option<Node> {
    start_with(&[])
}

fn start_with(arguments: &[&str]) -> Option<Node> {
    match Artifacts::find() {
        Ok(artifacts) => Some(Node::start_with(&artifacts, Sharing::Shared, arguments).unwrap()),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

fn deploy(node: &Node, name: &str, reuse: Reuse, limits: Limits) {
    node.deploy_changed(name, COUNT, limits, |spec| spec.reuse = reuse).unwrap();
}

fn call(node: &Node, name: &str) -> (u64, Outcome) {
    let outcome = node.invoke(name, json!({})).unwrap();
    let result = result(&outcome).unwrap_or_else(|error| panic!("{name}: {error}\n{}", node.last_words()));
    (result["n"].as_u64().unwrap(), outcome)
}

fn containers(node: &Node) -> Vec<ContainerInfo> {
    node.ps().unwrap().containers.into_iter().filter(|container| container.role == "function").collect()
}

fn kill(node: &Node, id: u64) {
    let found = containers(node).into_iter().find(|container| container.id == id);
    let container = found.unwrap_or_else(|| panic!("{id} is none of {:?}\n{}", node.ps().unwrap().containers, node.last_words()));
    let pinned = pidfd_open(Pid::from_raw(container.pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
    assert!(containers(node).iter().any(|other| (other.id, other.pid) == (id, container.pid)));
    pidfd_send_signal(&pinned, Signal::KILL).unwrap();
}

#[test]
fn calls_share_what_their_owner_allows() {
    let Some(mut node) = start() else { return };
    for (name, reuse) in POLICIES {
        deploy(&node, name, reuse, Limits::default());
        let (first, before) = call(&node, name);
        assert_eq!(first, 1);
        for round in 2..8 {
            let (n, outcome) = call(&node, name);
            assert_eq!(n, if reuse == Reuse::Keep { round } else { 1 }, "{name}");
            assert_eq!(outcome.container == before.container, reuse != Reuse::Fresh, "{name}");
            // The phases of a call are its own, also in a container that is older.
            let accepted = outcome.marks[0].at_ns;
            assert!(outcome.marks.iter().all(|mark| mark.at_ns + 1_000_000_000 > accepted), "{:?}", outcome.marks);
        }
    }
    let kept: Vec<_> = containers(&node).into_iter().filter_map(|container| container.function).collect();
    assert!(kept.contains(&"rewind".to_owned()) && kept.contains(&"keep".to_owned()), "{kept:?}");
    // A new deployment begins anew, in another container.
    let before = call(&node, "keep").1.container;
    deploy(&node, "keep", Reuse::Keep, Limits::default());
    let (n, outcome) = call(&node, "keep");
    assert!(n == 1 && outcome.container != before);
    node.stop().unwrap();
}

#[test]
fn a_waiting_container_that_is_killed_loses_no_call() {
    let Some(mut node) = start() else { return };
    deploy(&node, "keep", Reuse::Keep, Limits::default());
    deploy(&node, "rewind", Reuse::Rewind, Limits::default());
    let (mut lost, mut carried, rounds) = (0, 0, if full() { 300 } else { 20 });
    for round in 0..rounds {
        let name = if round % 2 == 0 { "keep" } else { "rewind" };
        let container = call(&node, name).1.container;
        kill(&node, container);
        // At once, or when the node has noticed.
        std::thread::sleep(Duration::from_millis(round % 4));
        let outcome = node.invoke(name, json!({})).unwrap();
        match &outcome.result {
            // Given to the container in the moment of its death, and carried to its end by the adopter: right, and once.
            Ok(_) if outcome.container == container => carried += 1,
            Ok(_) => {}
            // The same, but the service knew in time that the container was gone.
            Err(failure) if failure.kind == FailureKind::ContainerLost => lost += 1,
            Err(failure) => panic!("{failure}\n{}", node.last_words()),
        }
    }
    println!("{lost} of {rounds} calls were lost with a container that had waited for them, {carried} were carried on by an adopter");
    assert!((lost + carried) * 2 <= rounds, "{lost} of {rounds} were lost, {carried} carried on");
    node.stop().unwrap();
}

#[test]
fn containers_that_wait_go_when_others_need_them() {
    // Alone: with a worker there is room for all of them.
    let Some(mut node) = start_with(&["--enclaves", "1"]) else { return };
    let threads = node.ps().unwrap().enclaves[0].tcs_total;
    let began = Instant::now();
    // More functions than there are threads for containers, each of which would like to keep one.
    for number in 0..threads + 2 {
        let name = format!("keep-{number}");
        deploy(&node, &name, Reuse::Keep, Limits::default());
        assert_eq!(call(&node, &name).0, 1);
    }
    println!("{} functions by {threads} threads: {:?}", threads + 2, began.elapsed());
    let kept = containers(&node);
    assert!(kept.len() < threads as usize, "{} containers", kept.len());
    assert!(kept.iter().any(|container| container.function.as_deref() == Some(&format!("keep-{}", threads + 1))));
    node.stop().unwrap();
}

#[test]
fn a_container_waits_as_long_as_it_may_and_no_longer() {
    let Some(mut node) = start() else { return };
    deploy(&node, "short", Reuse::Keep, Limits { idle_ms: 100, ..Limits::default() });
    call(&node, "short");
    let end = Instant::now() + Duration::from_secs(20);
    while !containers(&node).is_empty() {
        assert!(Instant::now() < end, "it stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(call(&node, "short").0, 1);
    if !full() {
        skip("that a container outlives its call's time limit takes 15 s; TEEMATE_FULL=1 runs it");
        return;
    }
    deploy(&node, "long", Reuse::Keep, Limits { timeout_ms: 1000, ..Limits::default() });
    let container = call(&node, "long").1.container;
    std::thread::sleep(Duration::from_secs(15));
    let (n, outcome) = call(&node, "long");
    assert_eq!((n, outcome.container), (2, container));
    node.stop().unwrap();
}

/// Looks for what an earlier call left wherever a script can leave something, then leaves it there.
const CANARY: &str = r#"
let calls = 0; const list = [1, 2, 3]; const map = new Map();
function main({ n }) {
    const found = [calls, list.length, map.size, typeof globalThis.kept, typeof ({}).leak, process.env.LEFT ?? ""];
    calls += 1; list.push(n); map.set(n, "the secret of call " + n); globalThis.kept = map;
    Object.prototype.leak = n; process.env.LEFT = "x"; globalThis.big = new Uint8Array(1 << 16).fill(0x53);
    setInterval(() => { globalThis.ticked = true }, 1);
    return { found };
}"#;

#[test]
fn rewinding_leaves_no_residue() {
    let Some(mut node) = start() else { return };
    node.deploy_changed("canary", CANARY, Limits::default(), |spec| spec.reuse = Reuse::Rewind).unwrap();
    let rounds = if full() { 100_000 } else { 500 };
    let mut connection = node.connect().unwrap();
    let (mut first, mut reused) = (None, 0);
    let began = Instant::now();
    for n in 0..rounds {
        let outcome = invoke(&mut connection, "canary", json!({ "n": n }), None).unwrap();
        assert_eq!(result(&outcome), Ok(json!({ "found": [0, 3, 0, "undefined", "undefined", ""] })), "call {n}\n{}", node.last_words());
        reused += u64::from(first.replace(outcome.container) == Some(outcome.container));
    }
    println!("{rounds} calls in {:?}, {reused} of them in the container of the one before", began.elapsed());
    assert!(reused * 10 >= rounds * 9, "only {reused} of {rounds} calls were in a container that was used before");
    node.stop().unwrap();
}

/// What a call takes by each policy, seen by who calls: medians and percentiles of interleaved calls. `--nocapture` shows them.
#[test]
fn what_reuse_gains() {
    let Some(mut node) = start() else { return };
    for (name, reuse) in POLICIES {
        deploy(&node, name, reuse, Limits::default());
        call(&node, name);
    }
    let rounds = if full() { 1000 } else { 40 };
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut connection = node.connect().unwrap();
    for _ in 0..rounds {
        for (times, (name, _)) in times.iter_mut().zip(POLICIES) {
            let began = Instant::now();
            let outcome = invoke(&mut connection, name, json!({}), None).unwrap();
            times.push(began.elapsed());
            result(&outcome).unwrap();
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    for (times, (name, _)) in times.iter_mut().zip(POLICIES) {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
        println!("{name}: p10 {} us, p50 {} us, p90 {} us; load {}", at(10), at(50), at(90), load.trim());
    }
    node.stop().unwrap();
}
