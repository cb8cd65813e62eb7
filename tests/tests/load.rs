//! Many calls, one after the other and at once; afterwards memory is what it was before.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::json;
use teemate_control::function::Limits;
use teemate_control::node::{EnclaveInfo, Sharing};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::running::{Node, invoke, result};
use teemate_tests::{full, memory, skip};

const ECHO: &str = "function main(p) { return { n: p.n + 1 }; }";
/// Takes its time, so that all calls of it overlap.
const HOLD: &str = "function main() { return new Promise((done) => setTimeout(() => done({}), 1500)); }";
/// Calls before memory is looked at for the first time: pools fill.
const WARM: u64 = 130;
/// Most times that they are made.
const WARM_ROUNDS: u64 = 8;
/// Times that the work may leave more than before until it is called a leak.
const ATTEMPTS: u32 = 3;
/// How much memory may differ afterwards, in KiB: what allocators keep.
const SLACK_KIB: u64 = 8 << 10;

fn start() -> Option<Node> {
    match Artifacts::find() {
        Ok(artifacts) => Some(Node::start(&artifacts, Sharing::Shared).unwrap()),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

/// Calls, `each` on each of `at_once` connections, and checks every answer.
fn calls(node: &Node, at_once: u64, each: u64) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                let mut connection = node.connect().unwrap();
                for _ in 0..each {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let outcome = invoke(&mut connection, "echo", json!({ "n": n }), None).unwrap();
                    assert_eq!(result(&outcome).unwrap(), json!({ "n": n + 1 }));
                }
            });
        }
    });
}

/// So many calls that are all under way at one time: what the enclave keeps for later calls (workers, memories) is then as much as it gets.
fn hold(node: &Node, callers: usize) {
    node.deploy_script("hold", HOLD, Limits::default()).unwrap();
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let mut connection = node.connect().unwrap();
                invoke(&mut connection, "hold", json!({}), None).unwrap();
            });
        }
    });
}

/// What the node and its enclave hold, once nothing runs.
fn at_rest(node: &Node) -> (EnclaveInfo, u64, usize) {
    let ps = node.at_rest().unwrap();
    let family = memory::family(node.pid().unwrap());
    (ps.enclaves[0].clone(), memory::of(&family).pss_kib, family.len())
}

fn memory_is_as_before(node: &Node, work: impl Fn()) {
    node.deploy_script("echo", ECHO, Limits::default()).unwrap();
    // How many memories, workers and connections there are at one time depends on the machine: until nothing is added any more.
    let mut rest = at_rest(node);
    for _ in 0..WARM_ROUNDS {
        let pages = rest.0.epc_pages;
        calls(node, 65, WARM / 65);
        hold(node, 65);
        // The work itself, too: a leak adds as much each time, and what is only kept for later calls is added once.
        work();
        rest = at_rest(node);
        println!("EPC pages: {pages}, then {}", rest.0.epc_pages);
        if rest.0.epc_pages <= pages + SLACK_KIB / 16 {
            break;
        }
    }
    for attempt in 1.. {
        let (before, kib_before, processes_before) = rest;
        work();
        rest = at_rest(node);
        let (after, kib_after, processes_after) = &rest;
        assert_eq!(after.tcs_leased, before.tcs_leased, "a TCS leaks");
        assert_eq!(*processes_after, processes_before, "processes are left");
        println!(
            "EPC pages: {} before, {} after; memory: {kib_before} KiB before, {kib_after} KiB after",
            before.epc_pages, after.epc_pages
        );
        if after.epc_pages <= before.epc_pages + SLACK_KIB / 4 && *kib_after <= kib_before + SLACK_KIB {
            break;
        }
        // A busy machine may have had more at one time than ever before; it does not each time.
        assert!(attempt < ATTEMPTS, "memory grows each time");
    }
}

#[test]
fn calls_in_sequence() {
    let Some(mut node) = start() else { return };
    let count = if full() { 10_000 } else { 1_000 };
    memory_is_as_before(&node, || calls(&node, 1, count));
    node.stop().unwrap();
}

#[test]
fn sixty_four_calls_at_once() {
    let Some(mut node) = start() else { return };
    let rounds = if full() { 50 } else { 10 };
    memory_is_as_before(&node, || calls(&node, 64, rounds));
    node.stop().unwrap();
}
