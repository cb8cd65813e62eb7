//! Back-pressure, end to end: an owner who asks for more than the administrator allows hears 429 with OpenWhisk's sentence, in time, and
//! nobody else notices.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::{Owner, Run};
use teemate_tests::running::Node;
use teemate_tests::skip;

const SLEEP: &str = "function main({ ms }) { return new Promise((done) => setTimeout(() => done({ ms }), ms)); }";

fn call(owner: &Owner, ms: u64) -> Run {
    owner.run(&["--profile", "default", "function", "invoke", "sleep", "--params", &json!({ "ms": ms }).to_string()]).unwrap()
}

fn refused(run: &Run, sentence: &str) -> bool {
    run.code != 0 && run.err.contains(sentence) && run.err.contains("429")
}

#[test]
fn who_asks_for_too_much_is_refused_and_others_are_not() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let mut node = Node::start_listening(&artifacts).unwrap();
    let mrenclave = format!("mrenclave = \"{}\"", node.status().unwrap().mrenclave);
    let owner = |namespace: &str, per_minute: u32, concurrent: u32| {
        let owner = Owner::new(&artifacts).unwrap();
        let policy = owner.policy("policy.toml", &mrenclave).unwrap();
        owner.claim_limited(node.socket(), namespace, node.endpoint(), &policy, per_minute, concurrent).unwrap();
        owner.deploy("sleep", SLEEP).unwrap();
        owner
    };
    let (slow, often, free) = (owner("slow", 1000, 2), owner("often", 3, 10), owner("free", 1000, 10));

    // At a time: two that run for some seconds, and everyone who comes meanwhile.
    thread::scope(|scope| {
        let held: Vec<_> = (0..2).map(|_| scope.spawn(|| call(&slow, 6_000))).collect();
        let running = || node.ps().unwrap().containers.into_iter().filter(|container| container.role == "function").count();
        let begin = Instant::now();
        while running() < 2 {
            assert!(begin.elapsed() < Duration::from_secs(5), "they do not run");
            thread::sleep(Duration::from_millis(10));
        }
        let run = call(&slow, 0);
        assert!(refused(&run, "Too many concurrent requests in flight (count: 2, allowed: 2)."), "{run:?}");
        // Refused while they run: it did not wait for them; and others are served meanwhile.
        assert_eq!(call(&free, 0).code, 0);
        // The other owner's container may not be taken down yet.
        assert!(running() >= 2, "the refusal came after the others' end");
        for held in held {
            let run = held.join().unwrap();
            assert_eq!(run.code, 0, "{run:?}");
        }
    });
    assert_eq!(call(&slow, 0).code, 0, "a place that became free is not given");

    // In a minute: one that begins meanwhile gives as many again, so at least two of eight are refused.
    let begin = Instant::now();
    let runs: Vec<_> = (0..8).map(|_| call(&often, 0)).collect();
    if begin.elapsed() < Duration::from_secs(60) {
        let (served, rest): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.code == 0);
        assert!(served.len() >= 3 && rest.len() >= 2, "{runs:?}");
        assert!(rest.iter().all(|run| refused(run, "Too many requests in the last minute (count: ")), "{rest:?}");
        assert!(rest.iter().all(|run| run.err.contains("allowed: 3")), "{rest:?}");
    } else {
        skip("eight calls took more than a minute, so no limit for a minute could be reached");
    }
    assert_eq!(call(&free, 0).code, 0, "one owner's limit is another's");
    // What was refused left no record and holds no place.
    let records = slow.json(&["--profile", "default", "activation", "list"]).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 3, "{records}");
    node.stop().unwrap();
}
