//! Containers die at any instant, and nobody else notices: every caller gets an answer or a clear error within its deadline, no lock stays
//! held, nothing leaks, later calls are right.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use teemate_client::deployment::Deployment;
use teemate_control::function::{FailureKind, Limits, Outcome};
use teemate_control::node::{ContainerInfo, Request, Sharing};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::running::{Node, invoke, result};
use teemate_tests::{full, skip};

/// Allocates, hashes and yields: locks of the allocator, host calls and plain computation are all hit.
const WORK: &str = "
const crypto = require('crypto');
function main(p) {
  let text = '';
  for (let i = 0; i < p.rounds; i++) {
    const list = [];
    for (let k = 0; k < 500; k++) list.push({ k, s: 'x'.repeat(k % 50) });
    text = crypto.createHash('sha256').update(JSON.stringify(list) + text).digest('hex');
    if (i % 10 == 0) console.log(i);
  }
  return { text };
}";
/// Takes a megabyte more each few milliseconds.
const GROW: &str = "
function main() {
  const all = [];
  for (let i = 0; i < 200; i++) {
    all.push(new Uint8Array(1 << 20).fill(i));
    for (const end = Date.now() + 10; Date.now() < end; );
  }
  return { megabytes: all.length };
}";
/// Leaves and enters some thousand times, and grows: calls of the host, entries and faults are hit.
const NAPS: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 256) "{\"naps\":2000}")
  (func (export "_start") (local $i i32) (local $top i32)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 20000))
    (loop $again
      (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 50)))
        (then
          (local.set $top (memory.grow (i32.const 4)))
          (i32.store (i32.shl (local.get $top) (i32.const 16)) (i32.const 7))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 2000))))
    (i32.store (i32.const 200) (i32.const 256))
    (i32.store (i32.const 204) (i32.const 13))
    (drop (call $write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 208)))))"#;
const ROUNDS: u64 = 40;
/// Time of a call; the answer must come within this and what the node needs to tell.
const DEADLINE: Duration = Duration::from_secs(20);
const CALLERS: usize = 4;

fn start() -> Option<Node> {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => {
            skip(reason);
            return None;
        }
    };
    let node = Node::start(&artifacts, Sharing::Shared).unwrap();
    let limits = Limits { timeout_ms: DEADLINE.as_millis() as u64, ..Limits::default() };
    node.deploy_script("work", WORK, limits).unwrap();
    Some(node)
}

fn containers(node: &Node) -> Vec<ContainerInfo> {
    node.ps().unwrap().containers.into_iter().filter(|container| container.role == "function").collect()
}

/// Kills a container's process. The id is looked up again once the process is pinned, so that a number used anew is never hit.
fn sigkill(node: &Node, container: &ContainerInfo) -> bool {
    let Some(pid) = Pid::from_raw(container.pid as i32) else { return false };
    let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let still = containers(node).iter().any(|other| (other.id, other.pid) == (container.id, container.pid));
    still && pidfd_send_signal(&pinned, Signal::KILL).is_ok()
}

/// What became of the calls.
#[derive(Default)]
struct Seen {
    right: AtomicU64,
    lost: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn take(&self, outcome: Result<Outcome, String>, took: Duration, must: &serde_json::Value) {
        let complain = |text: String| self.wrong.lock().unwrap().push(text);
        if took > DEADLINE + Duration::from_secs(5) {
            complain(format!("an answer took {took:?}"));
        }
        match outcome {
            Err(error) => complain(error),
            Ok(outcome) => match &outcome.result {
                Ok(_) if result(&outcome).as_ref() == Ok(must) => _ = self.right.fetch_add(1, Ordering::Relaxed),
                Ok(_) => complain(format!("a wrong result: {:?}", result(&outcome))),
                Err(failure) if failure.kind == FailureKind::ContainerLost && !failure.message.is_empty() => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
                Err(failure) => complain(format!("{:?}: {}", failure.kind, failure.message)),
            },
        }
    }
}

/// Calls on and on from some threads while `killer` does its work; then everything must be as before.
fn survive(node: &mut Node, function: &str, killer: impl FnOnce(&Node, &Seen) -> u64) {
    let params = || json!({ "rounds": ROUNDS });
    let must = node.call(function, params()).unwrap();
    // As many at once as later: the enclave keeps memories for as many.
    for _ in 0..3 {
        thread::scope(|scope| (0..CALLERS).for_each(|_| drop(scope.spawn(|| node.call(function, params()).unwrap()))));
    }
    let before = at_rest(node);
    let seen = Seen::default();
    let over = AtomicBool::new(false);
    let shared: &Node = node;
    let killed = thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                // No answer at all is wrong too, and must not stop the test for ever.
                let connect = || {
                    let mut connection = shared.connect().unwrap();
                    connection.set_timeout(Some(DEADLINE + Duration::from_secs(10))).unwrap();
                    connection
                };
                let mut connection = connect();
                while !over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let outcome = invoke(&mut connection, function, params(), None).map_err(|error| error.to_string());
                    if outcome.is_err() {
                        connection = connect();
                    }
                    seen.take(outcome, begin.elapsed(), &must);
                }
            });
        }
        let killed = killer(shared, &seen);
        over.store(true, Ordering::Relaxed);
        killed
    });
    let (right, lost) = (seen.right.into_inner(), seen.lost.into_inner());
    println!("{killed} kills; {right} calls were right, {lost} were lost with their container");
    tell_states(&node.metrics().unwrap_or_default());
    let wrong = seen.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of the calls went wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), node.last_words());
    assert!(lost > 0 && lost <= killed, "{lost} calls were lost by {killed} kills");
    // Later calls are right, as many at once as before: no lock is held, no TCS is gone.
    for _ in 0..20 {
        assert_eq!(node.call(function, params()).unwrap(), must);
    }
    let after = at_rest(node);
    assert_eq!(after.0, before.0, "a TCS leaks");
    let grown = after.1.saturating_sub(before.1);
    println!("{grown} EPC pages more than before");
    assert!(grown < 4096, "{grown} EPC pages leak");
    node.stop().unwrap();
}

/// Kills and adoptions by what they hit.
fn states(metrics: &str) -> impl Iterator<Item = (&str, u64)> {
    let told =
        |name: &str| ["teemate_kills_saved", "teemate_threads_adopted", "teemate_service_takeovers"].iter().any(|n| name.starts_with(n));
    metrics
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter(move |(name, _)| told(name))
        .filter_map(|(n, count)| Some((n, count.parse().ok()?)))
}

fn tell_states(metrics: &str) {
    states(metrics).for_each(|(name, count)| println!("{name} {count}"));
}

#[test]
fn containers_killed_before_their_call() {
    let Some(mut node) = start() else { return };
    let params = || json!({ "rounds": 1 });
    let must = node.call("work", params()).unwrap();
    let before = at_rest(&node);
    let seen = Seen::default();
    for round in 0..12 {
        let ready = made_ahead(&node);
        for container in &ready {
            let pinned = pidfd_open(Pid::from_raw(container.pid as i32).unwrap(), PidfdFlags::empty());
            // It may have been taken, and its number used anew, only if somebody called meanwhile; nobody does.
            let _ = pinned.and_then(|pinned| pidfd_send_signal(&pinned, Signal::KILL));
        }
        // At once, and a little later: the node may not have noticed yet.
        for _ in 0..3 {
            let begin = Instant::now();
            seen.take(node.invoke("work", params()).map_err(|error| error.to_string()), begin.elapsed(), &must);
            thread::sleep(Duration::from_millis(round));
        }
    }
    let wrong = seen.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:?}\n{}", node.last_words());
    assert!(seen.right.into_inner() > 0);
    assert_eq!(at_rest(&node).0, before.0, "a TCS leaks");
    node.stop().unwrap();
}

/// Containers that wait for a call. They are made when nothing else is to be done, which on a busy machine may take a while.
fn made_ahead(node: &Node) -> Vec<ContainerInfo> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let ready: Vec<_> = node.at_rest().unwrap().containers.into_iter().filter(|container| container.role == "ready").collect();
        if !ready.is_empty() {
            return ready;
        }
        assert!(Instant::now() < end, "no container is made ahead");
    }
}

/// Leased TCSs and EPC pages, once no function runs.
fn at_rest(node: &Node) -> (u32, u64) {
    let ps = node.at_rest().unwrap();
    (ps.enclaves[0].tcs_leased, ps.enclaves[0].epc_pages)
}

/// A small generator (xorshift): instants need not be secret, only spread.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Kills `count` containers, one at a time, at instants spread over their lives. Ends at once when a call went wrong: what follows would
/// only hide it.
fn killing(node: &Node, seen: &Seen, count: u64, kill: impl Fn(&Node, &ContainerInfo) -> bool) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut killed, begin) = (0, Instant::now());
    while killed < count && seen.wrong.lock().unwrap().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(1200), "only {killed} of {count} kills in 20 minutes");
        thread::sleep(Duration::from_micros(random(&mut state) % 15_000));
        let running = containers(node);
        if running.is_empty() {
            continue;
        }
        let which = random(&mut state) as usize % running.len();
        killed += u64::from(kill(node, &running[which]));
    }
    killed
}

#[test]
fn sigkills_at_random_instants() {
    let Some(mut node) = start() else { return };
    let count = if full() { 1_000 } else { 200 };
    survive(&mut node, "work", |node, seen| killing(node, seen, count, sigkill));
}

/// Most kills hit what takes most time. Here that is a call of the host, and much of the rest is entries, exits and new pages.
#[test]
fn sigkills_in_calls_and_transitions() {
    let Some(mut node) = start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let code = directory.path().join("naps.wasm");
    std::fs::write(&code, wat::parse_str(NAPS).unwrap()).unwrap();
    let limits = Limits { timeout_ms: DEADLINE.as_millis() as u64, ..Limits::default() };
    node.deploy(&Deployment { name: "naps".into(), code, limits, ..Deployment::default() }).unwrap();
    let count = if full() { 1_000 } else { 100 };
    survive(&mut node, "naps", |node, seen| {
        let killed = killing(node, seen, count, sigkill);
        let metrics = node.metrics().unwrap();
        let in_call = states(&metrics).find(|(name, _)| name.contains("in_call")).map_or(0, |(_, count)| count);
        assert!(in_call > 0, "no kill hit a call of the host\n{metrics}");
        killed
    });
}

#[test]
fn containers_killed_by_the_administrator() {
    let Some(mut node) = start() else { return };
    let count = if full() { 200 } else { 40 };
    survive(&mut node, "work", |node, seen| {
        let mut connection = node.connect().unwrap();
        let connection = std::cell::RefCell::new(&mut connection);
        // A container that ended in the meantime is no kill, and no error of the test.
        killing(node, seen, count, |_, container| connection.borrow_mut().ask(&Request::Kill { container: container.id }).is_ok())
    });
}

/// Kills the process of the payload's own threads: no call may notice, for the enclave and the channel stay.
#[test]
fn the_service_is_killed_under_load() {
    let Some(mut node) = start() else { return };
    let count = if full() { 200 } else { 25 };
    let params = || json!({ "rounds": ROUNDS });
    let must = node.call("work", params()).unwrap();
    let before = at_rest(&node);
    let service = || node.ps().unwrap().containers.into_iter().find(|container| container.role == "service");
    let seen = Seen::default();
    let over = AtomicBool::new(false);
    let mut state = 0x2545_f491_4f6c_dd1d;
    let killed = thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let outcome = node.invoke("work", params()).map_err(|error| error.to_string());
                    seen.take(outcome, begin.elapsed(), &must);
                }
            });
        }
        let begin = Instant::now();
        let mut dead = BTreeSet::new();
        while dead.len() < count && seen.wrong.lock().unwrap().is_empty() && begin.elapsed() < Duration::from_secs(300) {
            thread::sleep(Duration::from_micros(random(&mut state) % 300_000));
            // Each process once: a dead one is still there for a moment.
            let Some(process) = service().filter(|process| !dead.contains(&process.id)) else { continue };
            let pinned = Pid::from_raw(process.pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            let Some(pinned) = pinned.filter(|_| service().is_some_and(|other| other.id == process.id)) else { continue };
            if pidfd_send_signal(&pinned, Signal::KILL).is_ok() {
                dead.insert(process.id);
            }
        }
        over.store(true, Ordering::Relaxed);
        dead.len()
    });
    let metrics = node.metrics().unwrap();
    for line in
        metrics.lines().filter(|line| ["kill", "adopted", "takeovers"].iter().any(|word| line.contains(word)) && !line.starts_with('#'))
    {
        println!("{line}");
    }
    let (right, lost) = (seen.right.into_inner(), seen.lost.into_inner());
    println!("{right} calls were right, {lost} were lost with their container");
    let wrong = seen.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of the calls went wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), node.last_words());
    assert_eq!((killed, lost), (count, 0), "kills in five minutes; no container was killed\n{}", node.last_words());
    assert!(metrics.contains("teemate_rebuilds_total 0"), "the enclave was built anew\n{}", node.last_words());
    assert!(metrics.contains(&format!("teemate_service_takeovers_total {count}")), "{}", node.last_words());
    for _ in 0..20 {
        assert_eq!(node.call("work", params()).unwrap(), must);
    }
    assert_eq!(at_rest(&node).0, before.0, "a TCS leaks");
    node.stop().unwrap();
}

/// The file of a container's cgroup that limits its memory, and the one that tells how much there is.
fn memory_files(container: &ContainerInfo) -> Option<(PathBuf, PathBuf)> {
    let candidates = container.cgroups.iter().flat_map(|path| {
        let relative = path.trim_start_matches('/');
        let below = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(|base| PathBuf::from(base).join(relative));
        std::iter::once(PathBuf::from(path)).chain(below)
    });
    for directory in candidates {
        for (limit, usage) in [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")] {
            if directory.join(limit).exists() {
                return Some((directory.join(limit), directory.join(usage)));
            }
        }
    }
    None
}

#[test]
fn containers_out_of_memory() {
    let Some(mut node) = start() else { return };
    if !rustix::process::geteuid().is_root() {
        return skip("only root may tighten a cgroup's limit from outside");
    }
    node.deploy_script("grow", GROW, Limits { timeout_ms: DEADLINE.as_millis() as u64, ..Limits::default() }).unwrap();
    let mut reason = None;
    // One call is held, and its cgroup gets less memory than it has.
    thread::scope(|scope| {
        let call = scope.spawn(|| node.invoke("grow", json!({})));
        let begin = Instant::now();
        let files = loop {
            if let Some(container) = containers(&node).first() {
                break memory_files(container);
            }
            if call.is_finished() || begin.elapsed() > Duration::from_secs(10) {
                panic!("no container came: {:?}\n{}", call.join(), node.last_words());
            }
            thread::sleep(Duration::from_millis(5));
        };
        let Some((limit, usage)) = files else {
            reason = Some("the containers have no memory cgroup");
            for container in containers(&node) {
                sigkill(&node, &container);
            }
            let _ = call.join();
            return;
        };
        // No page more: version 2 takes a limit of 0 at once, version 1 none below what is in use.
        while !call.is_finished() {
            if std::fs::write(&limit, "0").is_err() {
                let now = std::fs::read_to_string(&usage).unwrap_or_default();
                let _ = std::fs::write(&limit, now.trim());
            }
            thread::sleep(Duration::from_millis(2));
        }
        let outcome = call.join().unwrap().unwrap();
        match outcome.result {
            Err(failure) => assert_eq!(failure.kind, FailureKind::ContainerLost, "{}", failure.message),
            Ok(_) => panic!("the call went on growing in a cgroup without a free page"),
        }
    });
    if let Some(reason) = reason {
        return skip(reason);
    }
    node.call("work", json!({ "rounds": 1 })).unwrap();
    at_rest(&node);
    node.stop().unwrap();
}
