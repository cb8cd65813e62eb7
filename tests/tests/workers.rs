//! More calls than an enclave has threads: further enclaves of the image take them, the host sees nothing of it, and none stays that
//! nobody needs.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use teemate_control::function::{FailureKind, Limits};
use teemate_control::node::{ContainerInfo, Ps};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::{Node, result};
use teemate_tests::witness::Canaries;
use teemate_tests::{memory, skip};

/// TCSs of the image; the service has half of them.
const TCS: u32 = 32;
/// Containers that one enclave can have at a time.
const PLACES: usize = 16;
const NAP: &str = "function main(p) { console.log('n=' + p.n); \
                   return new Promise((done) => setTimeout(() => done({ n: p.n }), p.ms)); }";
/// Holds memory for a while, so that the EPC is used up before the TCSs are.
const HOLD: &str = "function main(p) { const held = new Uint8Array(p.mib << 20).fill(1); \
                    return new Promise((done) => setTimeout(() => done({ n: p.n, held: held.length }), p.ms)); }";
/// Longest that anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(arguments: &[&str]) -> Option<(Artifacts, Owner, Node)> {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => {
            skip(reason);
            return None;
        }
    };
    if std::fs::read(artifacts.directory().join("signing-key.pem")).is_err() {
        skip("the signing key of the artifacts can't be read, so no image with few TCSs can be made");
        return None;
    }
    let ada = Owner::new(&artifacts).unwrap();
    let image = ada.image(&artifacts, "few", TCS).unwrap();
    let node = Node::start_image(&artifacts, &image, &[&["--queue-timeout", "120"], arguments].concat()).unwrap();
    node.deploy_script("nap", NAP, Limits::default()).unwrap();
    Some((artifacts, ada, node))
}

fn functions(ps: &Ps) -> impl Iterator<Item = &ContainerInfo> {
    ps.containers.iter().filter(|container| container.role == "function")
}

fn workers(ps: &Ps) -> Vec<u64> {
    ps.enclaves.iter().filter(|enclave| enclave.role == "worker").map(|enclave| enclave.id).collect()
}

/// Whether a function's container is in a worker.
fn in_worker(ps: &Ps) -> bool {
    let workers = workers(ps);
    functions(ps).any(|one| one.enclave.is_some_and(|enclave| workers.contains(&enclave)))
}

/// Waits until what runs is as wanted.
fn until(node: &Node, what: &str, fits: impl Fn(&Ps) -> bool) -> Ps {
    let begin = Instant::now();
    loop {
        let ps = node.ps().unwrap();
        if fits(&ps) {
            return ps;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} did not come to be: {:?}\n{}", ps.enclaves, node.last_words());
        thread::sleep(Duration::from_millis(50));
    }
}

fn kill(process: &ContainerInfo) -> bool {
    let pinned = Pid::from_raw(process.pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    pinned.is_some_and(|pinned| pidfd_send_signal(&pinned, Signal::KILL).is_ok())
}

#[test]
fn three_times_as_many_calls_as_threads() {
    let Some((_, _, mut node)) = start(&["--enclaves", "3", "--worker-idle", "2"]) else { return };
    let before = until(&node, "rest", |ps| functions(ps).next().is_none());
    assert_eq!(before.enclaves.len(), 1);
    assert_eq!((before.enclaves[0].role.as_str(), before.enclaves[0].tcs_total), ("serving", TCS));
    let calls = 3 * PLACES;
    let over = AtomicBool::new(false);
    let seen: Mutex<BTreeMap<u64, BTreeSet<u64>>> = Mutex::default();
    thread::scope(|scope| {
        let all: Vec<_> = (0..calls)
            .map(|n| {
                scope.spawn({
                    let node = &node;
                    move || node.invoke("nap", json!({ "n": n, "ms": 8000 }))
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let ps = node.ps().unwrap();
                for enclave in &ps.enclaves {
                    assert!(enclave.tcs_leased <= enclave.tcs_total && enclave.mrenclave == before.enclaves[0].mrenclave);
                }
                for container in functions(&ps) {
                    seen.lock().unwrap().entry(container.enclave.unwrap()).or_default().insert(container.id);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let over = Over(&over);
        let mut containers = BTreeSet::new();
        let outcomes: Vec<_> = all.into_iter().map(|call| call.join().unwrap()).collect();
        drop(over);
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let outcome = outcome.unwrap();
            assert_eq!(result(&outcome), Ok(json!({ "n": n })), "{}", node.last_words());
            assert_eq!(outcome.logs.trim_end(), format!("n={n}"));
            assert!(outcome.usage.fuel > 0 && outcome.usage.execution_us >= 8_000_000, "{:?}", outcome.usage);
            assert!(containers.insert(outcome.container), "two calls of a fresh function in one container");
        }
    });
    let seen = seen.into_inner().unwrap();
    let places: BTreeMap<_, _> = seen.iter().map(|(enclave, containers)| (enclave, containers.len())).collect();
    println!("containers by enclave: {places:?}");
    assert!(seen.len() >= 2, "all in one enclave: {places:?}\n{}", node.last_words());
    let metrics = node.metrics().unwrap();
    for word in ["teemate_tcs{enclave=\"1\",role=\"serving\",state=\"free\"}", "teemate_workers", "teemate_calls_elsewhere_total"] {
        assert!(metrics.contains(word), "no {word} in {metrics}");
    }
    assert!(!metrics.contains("teemate_calls_elsewhere_total 0\n"), "{metrics}");
    // Nobody needs them any more.
    let after = until(&node, "one enclave alone", |ps| ps.enclaves.len() == 1);
    assert_eq!(after.enclaves[0].id, before.enclaves[0].id);
    assert_eq!(node.call("nap", json!({ "n": 7, "ms": 1 })), Ok(json!({ "n": 7 })));
    assert!(!node.metrics().unwrap().contains("teemate_rebuilds_total 1"));
    node.stop().unwrap();
}

#[test]
fn an_owners_calls_overflow_and_the_host_finds_nothing() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can read the memory of all processes of a node");
    }
    let Some((_, ada, mut node)) = start(&["--enclaves", "2"]) else { return };
    let policy = ada.policy("policy.toml", &format!("mrenclave = \"{}\"", node.status().unwrap().mrenclave)).unwrap();
    ada.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    let canaries = Canaries::new(&["code", "parameter", "result", "log"]).unwrap();
    let source = format!(
        "const hidden = '{}';\nfunction main(p) {{ console.log('{}' + p.note.length); \
         return new Promise((done) => setTimeout(() => done({{ made: hidden.length, echo: p.note, own: '{}' }}), 3000)); }}",
        canaries.text("code"),
        canaries.text("log"),
        canaries.text("result"),
    );
    ada.deploy("secretive", &source).unwrap();
    // The operator's calls take all threads of the enclave that serves and some of the worker's, so the owner's go there, too.
    let over = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        for n in 0..PLACES + PLACES / 2 {
            let (node, over) = (&node, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    assert_eq!(node.call("nap", json!({ "n": n, "ms": 4000 })), Ok(json!({ "n": n })));
                }
            });
        }
        let over = Over(&over);
        until(&node, "calls in a worker", in_worker);
        let records = scope.spawn(|| {
            let call = || ada.call("secretive", &json!({ "note": canaries.text("parameter") }));
            thread::scope(|scope| {
                let calls: Vec<_> = (0..6).map(|_| scope.spawn(call)).collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
            })
        });
        let looking = scope.spawn(|| {
            let mut elsewhere = BTreeSet::new();
            while !records.is_finished() {
                let ps = node.ps().unwrap();
                let worker = workers(&ps);
                let theirs = functions(&ps).filter(|one| one.function.as_deref() != Some("nap"));
                elsewhere.extend(theirs.filter(|one| one.enclave.is_some_and(|enclave| worker.contains(&enclave))).map(|one| one.id));
                thread::sleep(Duration::from_millis(50));
            }
            (elsewhere, records)
        });
        let mut found = BTreeSet::new();
        while !looking.is_finished() {
            let (seen, looked) = canaries.in_processes(&memory::family(node.pid().unwrap()));
            assert!(looked > 10 << 20, "only {looked} bytes of memory could be looked at");
            found.extend(seen);
        }
        let (elsewhere, records) = looking.join().unwrap();
        drop(over);
        for record in records.join().unwrap() {
            let record = record.unwrap();
            assert_eq!(record["response"]["result"]["echo"].as_str(), Some(canaries.text("parameter")), "{record}");
            assert!(record["logs"][0].as_str().is_some_and(|line| line.contains(canaries.text("log"))), "{record}");
            // What it used, and where, is in the receipt of the enclave that answered.
            let receipt = ada.home().join("receipt.json").display().to_string();
            let id = record["activationId"].as_str().unwrap();
            ada.json(&["--profile", "default", "activation", "receipt", id, "--output", &receipt]).unwrap();
            let verified = ada.json(&["verify", &receipt, "--policy", &policy.display().to_string()]).unwrap();
            assert!(verified.to_string().contains(id), "{verified}");
        }
        assert!(!elsewhere.is_empty(), "no call of the owner's ran in a worker\n{}", node.last_words());
        println!("{} of the owner's containers were seen in the worker", elsewhere.len());
        found
    });
    assert!(found.is_empty(), "the host found {found:#?}");
    assert!(canaries.in_files(&node.state()).is_empty());
    node.stop().unwrap();
}

#[test]
fn calls_overflow_when_the_epc_is_short_and_threads_are_not() {
    let Some((_, _, mut node)) = start(&["--enclaves", "2", "--epc-limit", "512M"]) else { return };
    node.deploy_script("hold", HOLD, Limits::default()).unwrap();
    let serving = |ps: &Ps| ps.enclaves.iter().find(|one| one.role == "serving").cloned().unwrap();
    let short = |ps: &Ps| serving(ps).epc_pages * 10 > serving(ps).epc_limit * 9;
    thread::scope(|scope| {
        let hold = |n: usize, mib: u64| {
            let node = &node;
            (mib, scope.spawn(move || node.call("hold", json!({ "n": n, "mib": mib, "ms": 12_000 }))))
        };
        let mut calls = Vec::new();
        // One after the other: what a call will need is not known before it runs. The last is small, for what is kept from containers is
        // not much less than a tenth.
        while !short(&node.ps().unwrap()) {
            let before = serving(&node.ps().unwrap());
            let mib = ((before.epc_limit * 9 / 10 - before.epc_pages) / 256 + 1).min(40);
            calls.push(hold(calls.len(), mib));
            assert!(calls.len() < PLACES, "{} calls do not hold nine tenths of 512 MiB\n{}", calls.len(), node.last_words());
            until(&node, "a call that holds its memory", |ps| serving(ps).epc_pages > before.epc_pages + (mib << 8));
        }
        let here = calls.len();
        let ps = node.ps().unwrap();
        assert!(serving(&ps).tcs_leased + 2 < serving(&ps).tcs_total, "the threads ran out first: {:?}", ps.enclaves);
        // What still fits asks for a worker, and then goes there, and so does what would not fit any more.
        let mut went = false;
        for _ in 0..100 {
            let nap = scope.spawn(|| node.call("nap", json!({ "n": 0, "ms": 100 })));
            while !nap.is_finished() {
                went = went || in_worker(&node.ps().unwrap());
                thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(nap.join().unwrap(), Ok(json!({ "n": 0 })));
            if went {
                break;
            }
        }
        assert!(went, "no call went to a worker\n{}", node.last_words());
        let more: Vec<_> = (here..here + 3).map(|n| hold(n, 40)).collect();
        println!("{here} calls in the enclave that serves, then {:?}", node.ps().unwrap().enclaves);
        for (n, (mib, call)) in calls.into_iter().chain(more).enumerate() {
            assert_eq!(call.join().unwrap(), Ok(json!({ "n": n, "held": mib << 20 })), "{}", node.last_words());
        }
    });
    node.stop().unwrap();
}

#[test]
fn a_worker_is_killed_under_load() {
    let Some((_, _, mut node)) = start(&["--enclaves", "2"]) else { return };
    let (over, right, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..PLACES + PLACES / 2 {
            let (node, over, right, lost) = (&node, &over, &right, &lost);
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    let begin = Instant::now();
                    let outcome = node.invoke("nap", json!({ "n": n, "ms": 300 })).unwrap();
                    assert!(begin.elapsed() < PATIENCE, "an answer took {:?}", begin.elapsed());
                    match &outcome.result {
                        Ok(_) => {
                            assert_eq!(result(&outcome), Ok(json!({ "n": n })));
                            right.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(failure) => {
                            assert_eq!(failure.kind, FailureKind::ContainerLost, "{failure}");
                            assert!(failure.message.contains("container was"), "{failure}");
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let _over = Over(&over);
        let process = |ps: &Ps, role: &str| {
            let worker = workers(ps);
            ps.containers.iter().find(|one| one.role == role && one.enclave.is_some_and(|id| worker.contains(&id))).cloned()
        };
        // The service's process: another takes over, with the same channel and so the same link.
        let first = workers(&until(&node, "calls in a worker", in_worker));
        let mut dead = BTreeSet::new();
        while dead.len() < 5 {
            let ps = until(&node, "a service to kill", |ps| process(ps, "service").is_some_and(|one| !dead.contains(&one.id)));
            let service = process(&ps, "service").unwrap();
            if kill(&service) {
                dead.insert(service.id);
            }
            thread::sleep(Duration::from_millis(400));
        }
        let ps = until(&node, "calls in the worker", in_worker);
        assert_eq!(workers(&ps), first, "the worker was given up\n{}", node.last_words());
        println!("{right:?} right and {lost:?} lost when its service was killed {} times", dead.len());
        // A process without which the enclave can't go on: its calls are lost, others are not, and another worker comes.
        assert!(kill(&process(&ps, "reaper").unwrap()));
        until(&node, "another worker", |ps| workers(ps).iter().any(|id| !first.contains(id)) && in_worker(ps));
    });
    let (right, lost) = (right.into_inner(), lost.into_inner());
    println!("{right} calls were right, {lost} were lost");
    assert!(right > 100 && lost <= 2 * PLACES as u64, "{right} right, {lost} lost\n{}", node.last_words());
    assert!(node.metrics().unwrap().contains("teemate_rebuilds_total 0"), "the enclave that serves was built anew\n{}", node.last_words());
    assert_eq!(node.call("nap", json!({ "n": 1, "ms": 1 })), Ok(json!({ "n": 1 })));
    node.stop().unwrap();
}

/// Ends the callers also when a test fails, or it would wait for them.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
