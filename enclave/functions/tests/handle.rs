//! The service as the gateway in its process uses it: functions of owners, questions to a host that lies.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use harness::{Node, failure, in_process, spec, text};
use teemate_control::function::{Failure, FailureKind, Kind, Outcome, Phase};
use teemate_control::service::{Ask, FromService, Order, OrderDone, Reply, ToService};
use teemate_functions::handle::Handle;
use teemate_functions::jobs::Input;
use teemate_functions::service::Gateway;
use teemate_link::EnclavePlatform;
use teemate_service::stream::Host;

const ECHO: &str = include_str!("../../../examples/functions/hello/echo.wat");
const LOOP: &str = include_str!("../../../examples/functions/misbehaving/loop.wat");
const PATIENCE: Duration = Duration::from_secs(20);

fn deploy(handle: &Handle, name: &str, wat: &str) -> Result<[u8; 32], Failure> {
    let (sender, receiver) = channel();
    handle.deploy(spec(name, Kind::Wasm), wat::parse_str(wat).unwrap(), Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(PATIENCE).unwrap()
}

fn invoke(handle: &Handle, name: &str, params: &str) -> (u64, Receiver<Outcome>) {
    let (sender, receiver) = channel();
    let input = Input { params: params.into(), env: vec![("__OW_KEY".into(), params.into())] };
    (handle.invoke(name, input, Box::new(move |outcome| sender.send(outcome).unwrap())), receiver)
}

fn need(node: &mut Node) -> (u64, String, u64) {
    match node.receive_that(|m| matches!(m, FromService::NeedContainer { .. })) {
        FromService::NeedContainer { container, function, timeout_ms, .. } => (container, function, timeout_ms),
        _ => unreachable!(),
    }
}

#[test]
fn calls_from_within() {
    let (mut node, enter, handle) = in_process(true, EnclavePlatform, None);
    deploy(&handle, "f-1", ECHO).unwrap();
    for n in 0..50 {
        let params = format!("{{\"n\":{n}}}");
        let (_, answer) = invoke(&handle, "f-1", &params);
        let (container, function, timeout_ms) = need(&mut node);
        assert_eq!((function.as_str(), timeout_ms), ("f-1", 60_000));
        enter.send(container).unwrap();
        let outcome = answer.recv_timeout(PATIENCE).unwrap();
        assert_eq!((text(&outcome), outcome.container), (params, container));
        let phases: Vec<_> = outcome.marks.iter().map(|mark| mark.phase).collect();
        assert_eq!(phases, [Phase::Accepted, Phase::Entered, Phase::InstanceReady, Phase::Executed, Phase::Answered]);
        // Nothing more comes, whatever the node says.
        node.send(&ToService::ContainerLost { container, reason: "late".into() });
        assert!(answer.recv_timeout(Duration::from_millis(1)).is_err());
    }
    node.send(&ToService::Stats { request: 1 });
    assert!(matches!(node.receive(), FromService::Stats { running: 0, answered: 50, functions: 1, .. }));
}

#[test]
fn calls_from_within_are_lost_cancelled_and_refused() {
    let (mut node, enter, handle) = in_process(true, EnclavePlatform, None);
    deploy(&handle, "f", LOOP).unwrap();
    let wait = |answer: Receiver<Outcome>| answer.recv_timeout(PATIENCE).unwrap();
    // Lost before it came, and at work.
    let (_, answer) = invoke(&handle, "f", "{}");
    let container = need(&mut node).0;
    node.send(&ToService::ContainerLost { container, reason: "no TCS".into() });
    assert_eq!(failure(&wait(answer)).0, FailureKind::ContainerLost);
    let (_, answer) = invoke(&handle, "f", "{}");
    let container = need(&mut node).0;
    enter.send(container).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    node.send(&ToService::ContainerLost { container, reason: "killed".into() });
    assert_eq!(failure(&wait(answer)).0, FailureKind::ContainerLost);
    // Given up before and at work. The node's cancel of the same number is of another call.
    let (call, answer) = invoke(&handle, "f", "{}");
    need(&mut node);
    node.send(&ToService::Cancel { request: call });
    assert!(answer.recv_timeout(Duration::from_millis(50)).is_err());
    handle.cancel(call);
    assert_eq!(failure(&wait(answer)).0, FailureKind::Limit);
    let (call, answer) = invoke(&handle, "f", "{}");
    enter.send(need(&mut node).0).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    handle.cancel(call);
    handle.cancel(call);
    assert_eq!(failure(&wait(answer)).0, FailureKind::Limit);
    handle.cancel(424_242);
    // Refused.
    assert_eq!(failure(&wait(invoke(&handle, "g", "{}").1)).0, FailureKind::Invalid);
    assert_eq!(failure(&wait(invoke(&handle, "f", "[]").1)).0, FailureKind::Invalid);
    let (sender, receiver) = channel();
    let input = Input { params: b"{}".to_vec(), env: vec![("A=B".into(), String::new())] };
    handle.invoke("f", input, Box::new(move |outcome| sender.send(outcome).unwrap()));
    assert!(failure(&wait(receiver)).1.contains("A=B"));
    assert_eq!(deploy(&handle, "a b", ECHO).unwrap_err().kind, FailureKind::Invalid);
}

#[test]
fn the_node_does_not_reach_functions_of_owners() {
    let (mut node, enter, handle) = in_process(true, EnclavePlatform, None);
    deploy(&handle, "f", ECHO).unwrap();
    let request = node.begin("f", "{}", false);
    assert!(failure(&node.answer(request)).1.contains("no function 'f'"));
    node.send(&ToService::Delete { request: 900, name: "f".into() });
    assert!(matches!(node.receive(), FromService::Failed { request: 900, .. }));
    // One of the same name is another.
    node.deploy_wat("f", LOOP).unwrap();
    let (_, answer) = invoke(&handle, "f", "{\"a\":1}");
    enter.send(need(&mut node).0).unwrap();
    assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), "{\"a\":1}");
    // And the other way round.
    handle.delete("f");
    node.deploy_wat("f", ECHO).unwrap();
    assert_eq!(failure(&invoke(&handle, "f", "{}").1.recv_timeout(PATIENCE).unwrap()).0, FailureKind::Invalid);
    let request = node.begin("f", "{\"b\":2}", false);
    enter.send(need(&mut node).0).unwrap();
    assert_eq!(text(&node.answer(request)), "{\"b\":2}");
}

#[test]
fn a_calls_environment() {
    let (_node, _enter, handle) = in_process(false, EnclavePlatform, None);
    // Gives the number of bytes of its environment.
    let sizes = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $e (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\07\00\00\00") (data (i32.const 16) "{\22n\22:0}")
        (func (export "_start")
            (drop (call $e (i32.const 32) (i32.const 36)))
            (i32.store8 (i32.const 21) (i32.add (i32.const 48) (i32.load (i32.const 32))))
            (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    deploy(&handle, "wasi", sizes).unwrap();
    assert_eq!(text(&invoke(&handle, "wasi", "{}").1.recv_timeout(PATIENCE).unwrap()), r#"{"n":1}"#);
    if !teemate_functions::javascript::is_built() {
        println!("skipped: the JavaScript engine is not built (cargo xtask build)");
        return;
    }
    let (sender, receiver) = channel();
    let mut js = spec("js", Kind::JavaScript);
    js.env = vec![("KEPT".into(), "1".into()), ("__OW_KEY".into(), "of the function".into())];
    let source = b"function main() { return { kept: process.env.KEPT, key: process.env.__OW_KEY } }".to_vec();
    handle.deploy(js, source, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(text(&invoke(&handle, "js", "{}").1.recv_timeout(PATIENCE).unwrap()), r#"{"kept":"1","key":"{}"}"#);
}

#[test]
fn questions_are_answered_once_and_fittingly() {
    let (mut node, _enter, handle) = in_process(true, EnclavePlatform, None);
    let question = |node: &mut Node| match node.receive_that(|m| matches!(m, FromService::Ask { .. })) {
        FromService::Ask { question, ask } => (question, ask),
        _ => unreachable!(),
    };
    let waiter = |ask: Ask, limit: Duration| {
        let handle = handle.clone();
        std::thread::spawn(move || handle.ask_wait(ask, limit))
    };
    let blob = Ask::Blob { id: [7; 32] };
    let waiting = waiter(blob.clone(), PATIENCE);
    let (number, asked) = question(&mut node);
    assert_eq!(asked, blob);
    // Replies to nothing, then the right one, then it again.
    for (question, reply) in [(number + 1, Reply::Done), (0, Reply::Missing), (number, Reply::Bytes(vec![1, 2])), (number, Reply::Done)] {
        node.send(&ToService::Reply { question, reply });
    }
    assert_eq!(waiting.join().unwrap().unwrap(), Reply::Bytes(vec![1, 2]));
    // A reply that does not fit, a reason, none at all.
    let waiting = waiter(Ask::Activate { generation: 1 }, PATIENCE);
    let number = question(&mut node).0;
    node.send(&ToService::Reply { question: number, reply: Reply::Bytes(vec![0; 100]) });
    assert!(waiting.join().unwrap().unwrap_err().to_string().contains("does not fit"));
    let waiting = waiter(Ask::QuoteTarget, PATIENCE);
    let number = question(&mut node).0;
    node.send(&ToService::Reply { question: number, reply: Reply::Failed("no quoting enclave".into()) });
    assert!(waiting.join().unwrap().unwrap_err().to_string().contains("no quoting enclave"));
    let waiting = waiter(blob.clone(), Duration::from_millis(30));
    let number = question(&mut node).0;
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    node.send(&ToService::Reply { question: number, reply: Reply::Missing });
    // Another node does not know what was asked of the one before.
    let waiting = waiter(blob, PATIENCE);
    question(&mut node);
    node.send(&ToService::Hello { protocol: teemate_control::PROTOCOL });
    assert!(waiting.join().unwrap().unwrap_err().to_string().contains("replaced"));
    // Callbacks.
    let (sender, receiver) = channel();
    handle.ask(Ask::Journal { offset: 0, length: 1 << 20 }, Box::new(move |reply| sender.send(reply).unwrap()));
    let number = question(&mut node).0;
    node.send(&ToService::Reply { question: number, reply: Reply::Bytes(vec![]) });
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), Reply::Bytes(vec![]));
}

#[test]
fn orders_reach_the_gateway() {
    let gateway: Gateway = Box::new(|order, done| match order {
        Order::Serve => done(Ok(OrderDone::Done)),
        _ => drop(std::thread::spawn(move || done(Err(Failure::new(FailureKind::Busy, "later"))))),
    });
    let (mut node, _enter, _handle) = in_process(true, EnclavePlatform, Some(gateway));
    node.send(&ToService::Administer { request: 5, order: Order::Serve });
    assert_eq!(node.receive(), FromService::Administered { request: 5, done: OrderDone::Done });
    node.send(&ToService::Administer { request: 6, order: Order::Owners });
    assert!(matches!(node.receive(), FromService::Failed { request: 6, failure } if failure.message == "later"));
    let (mut node, _enter, _handle) = in_process(true, EnclavePlatform, None);
    node.send(&ToService::Administer { request: 7, order: Order::Serve });
    assert!(matches!(node.receive(), FromService::Failed { request: 7, .. }));
}

#[test]
fn without_containers_calls_run_in_this_process() {
    let (mut node, _enter, handle) = in_process(false, EnclavePlatform, None);
    deploy(&handle, "f", ECHO).unwrap();
    let answers: Vec<_> = (0..100).map(|n| invoke(&handle, "f", &format!("{{\"n\":{n}}}")).1).collect();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), format!("{{\"n\":{n}}}"));
    }
    // What runs is finished before the service ends; the node's own calls are refused meanwhile.
    deploy(&handle, "loop", LOOP).unwrap();
    let (call, answer) = invoke(&handle, "loop", "{}");
    node.send(&ToService::Stats { request: 1 });
    assert!(matches!(node.receive(), FromService::Stats { running: 1, answered: 100, .. }));
    handle.cancel(call);
    failure(&answer.recv_timeout(PATIENCE).unwrap());
}
