//! The service as it runs in an enclave, with a channel in place of the LibOS: calls wait for containers, containers are lost.
#![allow(clippy::unwrap_used)]

mod harness;

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use harness::{Node, failure, in_process, spec, text};
use teemate_control::function::{FailureKind, Kind, Phase};
use teemate_control::service::{FromService, ToService};
use teemate_link::EnclavePlatform;

fn start() -> (Node, Sender<u64>) {
    let (mut node, enter, _) = in_process(true, EnclavePlatform, None);
    node.deploy_wat("echo", include_str!("../../../examples/functions/hello/echo.wat")).unwrap();
    node.deploy_wat("loop", include_str!("../../../examples/functions/misbehaving/loop.wat")).unwrap();
    (node, enter)
}

fn need(node: &mut Node) -> (u64, String) {
    match node.receive_that(|m| matches!(m, FromService::NeedContainer { .. })) {
        FromService::NeedContainer { container, function, .. } => (container, function),
        _ => unreachable!(),
    }
}

#[test]
fn a_call_runs_in_its_container() {
    let (mut node, enter) = start();
    let mut seen = std::collections::HashSet::new();
    for n in 0..200 {
        let request = node.begin("echo", &format!("{{\"n\":{n}}}"), false);
        let (container, function) = need(&mut node);
        assert!(container != 0 && seen.insert(container));
        assert_eq!(function, "echo");
        enter.send(container).unwrap();
        let outcome = node.answer(request);
        assert_eq!(text(&outcome), format!("{{\"n\":{n}}}"));
        assert_eq!(outcome.container, container);
        assert_eq!(
            outcome.marks.iter().map(|m| m.phase).collect::<Vec<_>>(),
            [Phase::Accepted, Phase::Entered, Phase::InstanceReady, Phase::Executed, Phase::Answered]
        );
    }
    node.send(&ToService::Stats { request: 1 });
    let FromService::Stats { running, idle_workers, answered, .. } = node.receive() else { panic!() };
    assert_eq!((running, answered), (0, 200));
    assert!(idle_workers <= 2, "{idle_workers}");
}

#[test]
fn containers_come_in_any_order() {
    let (mut node, enter) = start();
    let requests: Vec<_> = (0..64).map(|n| node.begin("echo", &format!("{{\"n\":{n}}}"), false)).collect();
    let mut containers: Vec<_> = (0..64).map(|_| need(&mut node).0).collect();
    containers.reverse();
    // Ids that nobody asked for, and one twice: the service takes no notice.
    enter.send(1).unwrap();
    enter.send(0).unwrap();
    for container in &containers {
        enter.send(*container).unwrap();
    }
    enter.send(containers[0]).unwrap();
    for (n, request) in requests.into_iter().enumerate() {
        assert_eq!(text(&node.answer(request)), format!("{{\"n\":{n}}}"));
    }
    let request = node.begin("echo", "{}", false);
    let container = need(&mut node).0;
    enter.send(container).unwrap();
    assert_eq!(text(&node.answer(request)), "{}");
}

#[test]
fn a_container_lost_before_it_came() {
    let (mut node, enter) = start();
    let request = node.begin("echo", "{}", false);
    let container = need(&mut node).0;
    node.send(&ToService::ContainerLost { container, reason: "no TCS".into() });
    let (kind, message) = failure(&node.answer(request));
    assert_eq!(kind, FailureKind::ContainerLost);
    assert!(message.contains("no TCS"), "{message}");
    // It comes all the same: nothing runs, and the worker takes the next.
    enter.send(container).unwrap();
    let request = node.begin("echo", "{\"next\":1}", false);
    let container = need(&mut node).0;
    enter.send(container).unwrap();
    assert_eq!(text(&node.answer(request)), "{\"next\":1}");
}

#[test]
fn a_container_lost_at_work() {
    let (mut node, enter) = start();
    for reason in ["killed", "out of memory"] {
        let request = node.begin("loop", "{}", false);
        let container = need(&mut node).0;
        enter.send(container).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let began = Instant::now();
        node.send(&ToService::ContainerLost { container, reason: reason.into() });
        let outcome = node.answer(request);
        let (kind, message) = failure(&outcome);
        assert_eq!(kind, FailureKind::ContainerLost);
        assert!(message.contains(reason), "{message}");
        assert_eq!(outcome.container, container);
        assert!(began.elapsed() < Duration::from_secs(2));
        // Once more, and a cancel of what is over: no second answer.
        node.send(&ToService::ContainerLost { container, reason: reason.into() });
        node.send(&ToService::Cancel { request });
    }
    node.send(&ToService::Stats { request: 1 });
    assert!(matches!(node.receive(), FromService::Stats { running: 0, answered: 2, .. }));
}

#[test]
fn a_cancel_before_the_container_came() {
    let (mut node, _enter) = start();
    let request = node.begin("echo", "{}", false);
    let container = need(&mut node).0;
    node.send(&ToService::Cancel { request });
    assert_eq!(failure(&node.answer(request)).0, FailureKind::Limit);
    // The node need not make it any more.
    let message = node.receive_that(|m| matches!(m, FromService::Unneeded { .. }));
    assert_eq!(message, FromService::Unneeded { container });
}

#[test]
fn more_calls_than_workers() {
    let (mut node, enter) = start();
    let requests: Vec<_> = (0..300).map(|_| node.begin("echo", "{}", false)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let (mut done, mut busy) = (0, 0);
    for _ in 0..256 {
        let container = need(&mut node).0;
        enter.send(container).unwrap();
    }
    for request in requests {
        match node.answer(request).result {
            Ok(_) => done += 1,
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::Busy, "{failure}");
                busy += 1
            }
        }
    }
    assert_eq!((done, busy), (256, 44));
}

#[test]
fn a_sleeper_is_stopped_too() {
    if !teemate_functions::javascript::is_built() {
        println!("skipped: the JavaScript engine is not built (cargo xtask build)");
        return;
    }
    let (mut node, enter) = start();
    node.deploy(spec("sleep", Kind::JavaScript), include_bytes!("../../../examples/functions/sleep/main.js").to_vec()).unwrap();
    let request = node.begin("sleep", "{\"sleep\":30}", false);
    let container = need(&mut node).0;
    enter.send(container).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    node.send(&ToService::ContainerLost { container, reason: "killed".into() });
    assert_eq!(failure(&node.answer(request)).0, FailureKind::ContainerLost);
    assert!(began.elapsed() < Duration::from_secs(2));
}
