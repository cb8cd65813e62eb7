//! Containers that serve more than one call: what a later call finds of an earlier one, and when a container goes.
#![allow(clippy::unwrap_used)]

mod harness;

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use harness::{Node, failure, in_process, spec, text};
use teemate_control::function::{FailureKind, FunctionSpec, Kind, Outcome, Phase, Reuse};
use teemate_control::service::{FromService, ToService};
use teemate_functions::call::{self, Warm};
use teemate_functions::control::Control;
use teemate_functions::function::{Engines, Function};
use teemate_functions::jobs::Input;
use teemate_link::EnclavePlatform;

macro_rules! need_javascript {
    () => {
        if !teemate_functions::javascript::is_built() {
            println!("skipped: the JavaScript engine is not built (cargo xtask build)");
            return;
        }
    };
}

/// A service whose containers come when they are let in.
struct Enclave {
    node: Node,
    enter: Sender<u64>,
}

fn start() -> Enclave {
    let (node, enter, _) = in_process(true, EnclavePlatform, None);
    Enclave { node, enter }
}

impl Enclave {
    fn deploy_js(&mut self, name: &str, reuse: Reuse, source: &str) {
        self.node.deploy(FunctionSpec { reuse, ..spec(name, Kind::JavaScript) }, source.into()).unwrap();
    }

    fn deploy_wat(&mut self, name: &str, reuse: Reuse, text: &str) {
        self.node.deploy(FunctionSpec { reuse, ..spec(name, Kind::Wasm) }, wat::parse_str(text).unwrap()).unwrap();
    }

    /// Calls, and lets a container in if one is wanted. Says whether one was.
    fn call(&mut self, name: &str, params: &str) -> (Outcome, bool) {
        let request = self.node.begin(name, params, false);
        let mut new = false;
        loop {
            match self.node.receive_that(|_| true) {
                FromService::NeedContainer { container, .. } => {
                    new = true;
                    self.enter.send(container).unwrap();
                }
                FromService::Done { request: done, outcome } if done == request => return (outcome, new),
                FromService::Failed { failure, .. } => panic!("{failure}"),
                _ => {}
            }
        }
    }

    /// Calls, in a container that is there already.
    fn again(&mut self, name: &str, params: &str) -> Outcome {
        let (outcome, new) = self.call(name, params);
        assert!(!new, "another container was wanted");
        outcome
    }

    fn first(&mut self, name: &str, params: &str) -> Outcome {
        let (outcome, new) = self.call(name, params);
        assert!(new, "no container was wanted");
        outcome
    }

    fn need(&mut self) -> u64 {
        match self.node.receive_that(|m| matches!(m, FromService::NeedContainer { .. })) {
            FromService::NeedContainer { container, .. } => container,
            _ => unreachable!(),
        }
    }

    /// Waits until so many workers wait for a container.
    fn idle_workers(&mut self, wanted: u64) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            self.node.send(&ToService::Stats { request: 1 });
            match self.node.receive_that(|m| matches!(m, FromService::Stats { .. })) {
                FromService::Stats { idle_workers, .. } if idle_workers == wanted => return,
                stats => assert!(Instant::now() < end, "{stats:?}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// How often a residue is looked for: often enough to see one, or, in full, for good measure.
fn rounds(usual: usize) -> usize {
    if std::env::var_os("TEEMATE_FULL").is_some() { 100_000 } else { usual }
}

/// Looks through all its memory for what an earlier call left, then leaves a canary everywhere, its grown pages included. Its globals, its
/// table and its passive segment are changed too, and looked at.
const CANARY: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (table $t 2 funcref)
    (elem (i32.const 0) $nothing)
    (global $g (mut i32) (i32.const 7))
    (data (i32.const 0) "\10\00\00\00\0b\00\00\00") (data (i32.const 16) "{\22found\22:0}\0a")
    (data $passive "x")
    (func $nothing)
    (func (export "_start") (local $at i32) (local $found i32)
        (local.set $found (i32.ne (memory.size) (i32.const 2)))
        (local.set $found (i32.or (local.get $found) (i32.ne (global.get $g) (i32.const 7))))
        (local.set $found (i32.or (local.get $found) (i32.eqz (ref.is_null (table.get $t (i32.const 1))))))
        (memory.init $passive (i32.const 60) (i32.const 0) (i32.const 1))
        (data.drop $passive)
        (drop (memory.grow (i32.const 4)))
        (local.set $at (i32.const 64))
        (loop $on
            (local.set $found (i32.or (local.get $found) (i64.ne (i64.load (local.get $at)) (i64.const 0))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $on (i32.lt_u (local.get $at) (i32.const 393216))))
        (i32.store8 (i32.const 25) (i32.add (i32.const 48) (local.get $found)))
        (memory.fill (i32.const 64) (i32.const 0x53) (i32.const 393152))
        (global.set $g (i32.const 0x53))
        (table.set $t (i32.const 1) (ref.func $nothing))
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[test]
fn a_rewound_module_finds_nothing_of_an_earlier_call() {
    let mut enclave = start();
    enclave.deploy_wat("canary", Reuse::Rewind, CANARY);
    assert_eq!(text(&enclave.first("canary", "{}")), r#"{"found":0}"#);
    for round in 0..rounds(if cfg!(debug_assertions) { 200 } else { 5000 }) {
        assert_eq!(text(&enclave.again("canary", "{}")), r#"{"found":0}"#, "round {round}");
    }
}

#[test]
fn a_rewound_script_finds_nothing_of_an_earlier_call() {
    need_javascript!();
    let mut enclave = start();
    enclave.deploy_js(
        "canary",
        Reuse::Rewind,
        r#"console.log("initialised");
        let calls = 0; const list = [1, 2, 3]; const map = new Map(); let timer = null;
        function main({ n }) {
            const found = [calls, list.length, map.size, typeof globalThis.kept, typeof ({}).leak, typeof [].push, process.env.LEFT ?? "", timer];
            calls += 1; list.push(n); map.set(n, "the secret of call " + n); globalThis.kept = map;
            Object.prototype.leak = n; Array.prototype.push = null; process.env.LEFT = "x";
            timer = setInterval(() => { globalThis.ticked = true }, 1) && 1;
            globalThis.big = new Uint8Array(1 << 20).fill(0x53);
            Promise.resolve().then(() => { throw new Error("left over") });
            return { found };
        }"#,
    );
    let nothing = r#"{"found":[0,3,0,"undefined","undefined","function","",null]}"#;
    let first = enclave.first("canary", r#"{"n":0}"#);
    assert_eq!((text(&first).as_str(), first.logs.as_str()), (nothing, "initialised\n"));
    for n in 1..rounds(if cfg!(debug_assertions) { 60 } else { 2000 }) {
        let outcome = enclave.again("canary", &format!("{{\"n\":{n}}}"));
        // The top level ran once.
        assert_eq!((text(&outcome).as_str(), outcome.logs.as_str()), (nothing, ""), "round {n}");
        assert_eq!(outcome.container, first.container);
    }
}

#[test]
fn what_is_random_is_not_frozen() {
    need_javascript!();
    let mut enclave = start();
    let mut seen = std::collections::HashSet::new();
    let mut all = |enclave: &mut Enclave, name: &str| {
        assert!(seen.insert(text(&enclave.first(name, "{}"))));
        for _ in 0..20 {
            assert!(seen.insert(text(&enclave.again(name, "{}"))), "{name} repeats itself");
        }
    };
    enclave.deploy_js("later", Reuse::Rewind, "function main() { return { r: Math.random(), u: crypto.randomUUID() } }");
    all(&mut enclave, "later");
    enclave.deploy_js("math", Reuse::Rewind, "function main() { return { r: Math.random() } }");
    all(&mut enclave, "math");
    // A secret that is made at the top is made for each call.
    enclave.deploy_js("top", Reuse::Rewind, "const key = crypto.randomUUID(); function main() { return { key } }");
    all(&mut enclave, "top");
    // Other values of the top are what they were.
    enclave.deploy_js("time", Reuse::Rewind, "const at = Date.now() + Math.random(); function main() { return { at } }");
    let at = text(&enclave.first("time", "{}"));
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(text(&enclave.again("time", "{}")), at);
}

#[test]
fn a_kept_instance_goes_on() {
    need_javascript!();
    let mut enclave = start();
    enclave.deploy_js(
        "count",
        Reuse::Keep,
        r#"console.log("initialised"); let n = 0;
        async function main({ fail, text = "" }) { n += 1; await null; if (fail) throw new Error("on purpose"); return { n, length: text.length } }"#,
    );
    let first = enclave.first("count", "{}");
    assert_eq!((text(&first).as_str(), first.logs.as_str()), (r#"{"n":1,"length":0}"#, "initialised\n"));
    // Large parameters many times: what is done with is given back.
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(400_000));
    let mut peaks = Vec::new();
    for n in 2..300 {
        let outcome = enclave.again("count", &long);
        assert_eq!((text(&outcome), outcome.logs.as_str()), (format!("{{\"n\":{n},\"length\":400000}}"), ""));
        assert_eq!(outcome.container, first.container);
        peaks.push(outcome.usage.memory_peak);
    }
    assert_eq!(peaks[50], peaks[peaks.len() - 1], "its memory grows with its calls");
    // A call that fails takes the instance with it.
    assert_eq!(failure(&enclave.again("count", r#"{"fail":true}"#)).0, FailureKind::Application);
    assert_eq!(text(&enclave.first("count", "{}")), r#"{"n":1,"length":0}"#);
}

/// Counts in its memory; says how often it was made ready, and how often called.
const COUNTER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\0b\00\00\00\00\01\00\00\40\00\00\00") (data (i32.const 16) "{\22n\22:[0,0]}")
    (func (export "_initialize") (i32.store8 (i32.const 22) (i32.add (i32.load8_u (i32.const 22)) (i32.const 1))))
    (func (export "handle")
        (i32.store8 (i32.const 24)
            (i32.add (i32.const 48) (i32.rem_u (i32.sub (i32.load8_u (i32.const 24)) (i32.const 47)) (i32.const 10))))
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
        (drop (call $r (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 36)))
        (if (i32.gt_u (i32.load (i32.const 36)) (i32.const 2)) (then (call $exit (i32.const 0))))))"#;

#[test]
fn modules_that_are_called_again() {
    let mut enclave = start();
    enclave.deploy_wat("kept", Reuse::Keep, COUNTER);
    assert_eq!(text(&enclave.first("kept", "{}")), r#"{"n":[1,1]}"#);
    assert_eq!(text(&enclave.again("kept", "{}")), r#"{"n":[1,2]}"#);
    // It leaves by proc_exit: its result counts, its instance is not used again.
    assert_eq!(text(&enclave.again("kept", r#"{"exit":1}"#)), r#"{"n":[1,3]}"#);
    assert_eq!(text(&enclave.first("kept", "{}")), r#"{"n":[1,1]}"#);
    enclave.deploy_wat("rewound", Reuse::Rewind, COUNTER);
    assert_eq!(text(&enclave.first("rewound", "{}")), r#"{"n":[1,1]}"#);
    for _ in 0..5 {
        assert_eq!(text(&enclave.again("rewound", r#"{"exit":1}"#)), r#"{"n":[1,1]}"#);
    }
    enclave.deploy_wat("fresh", Reuse::Fresh, COUNTER);
    for _ in 0..3 {
        assert_eq!(text(&enclave.first("fresh", "{}")), r#"{"n":[1,1]}"#);
    }
    let command = wat::parse_str(CANARY).unwrap();
    let refused = enclave.node.deploy(FunctionSpec { reuse: Reuse::Keep, ..spec("no", Kind::Wasm) }, command).unwrap_err();
    assert!(refused.message.contains("handle"), "{refused}");
}

#[test]
fn a_failure_leaves_nothing_either() {
    need_javascript!();
    let mut enclave = start();
    let source = "let n = 0; function main({ how }) { n += 1; if (how === 'throw') throw new Error('x'); if (how === 'loop') for (;;); return { n } }";
    let mut spec = FunctionSpec { reuse: Reuse::Rewind, ..spec("f", Kind::JavaScript) };
    spec.limits.timeout_ms = 300;
    enclave.node.deploy(spec, source.into()).unwrap();
    assert_eq!(text(&enclave.first("f", "{}")), r#"{"n":1}"#);
    assert_eq!(failure(&enclave.again("f", r#"{"how":"throw"}"#)).0, FailureKind::Application);
    assert_eq!(text(&enclave.again("f", "{}")), r#"{"n":1}"#);
    // Whoever passes a limit gives its container back.
    assert_eq!(failure(&enclave.again("f", r#"{"how":"loop"}"#)).0, FailureKind::Limit);
    assert_eq!(text(&enclave.first("f", "{}")), r#"{"n":1}"#);
    // A top level that throws says so at each call.
    enclave.deploy_js("bad", Reuse::Rewind, "throw new Error('at the top')");
    for _ in 0..2 {
        assert!(failure(&enclave.call("bad", "{}").0).1.contains("at the top"));
    }
}

#[test]
fn a_container_belongs_to_one_deployment() {
    let mut enclave = start();
    enclave.deploy_wat("a", Reuse::Keep, COUNTER);
    enclave.deploy_wat("b", Reuse::Keep, COUNTER);
    assert_eq!(text(&enclave.first("a", "{}")), r#"{"n":[1,1]}"#);
    assert_eq!(text(&enclave.first("b", "{}")), r#"{"n":[1,1]}"#);
    assert_eq!(text(&enclave.again("a", "{}")), r#"{"n":[1,2]}"#);
    // Another deployment, also of the same code, begins anew, and the old one's container goes.
    enclave.deploy_wat("a", Reuse::Keep, COUNTER);
    enclave.idle_workers(1);
    assert_eq!(text(&enclave.first("a", "{}")), r#"{"n":[1,1]}"#);
    enclave.node.send(&ToService::Delete { request: 77, name: "b".into() });
    enclave.idle_workers(1);
}

#[test]
fn containers_go_when_their_time_is_over() {
    let mut enclave = start();
    let mut spec = FunctionSpec { reuse: Reuse::Keep, ..spec("f", Kind::Wasm) };
    spec.limits.idle_ms = 30;
    enclave.node.deploy(spec, wat::parse_str(COUNTER).unwrap()).unwrap();
    for _ in 0..3 {
        assert_eq!(text(&enclave.first("f", "{}")), r#"{"n":[1,1]}"#);
        enclave.idle_workers(1);
    }
}

#[test]
fn containers_go_when_the_node_is_short_of_them() {
    let mut enclave = start();
    enclave.deploy_wat("a", Reuse::Keep, COUNTER);
    enclave.deploy_wat("b", Reuse::Keep, COUNTER);
    let first = enclave.first("a", "{}").container;
    enclave.first("b", "{}");
    // The one that has waited longest goes first.
    enclave.node.send(&ToService::Reclaim { wanted: 1 });
    enclave.idle_workers(1);
    assert_eq!(text(&enclave.again("b", "{}")), r#"{"n":[1,2]}"#);
    let (outcome, new) = enclave.call("a", "{}");
    assert!(new && outcome.container != first);
    // More are wanted than wait: a container that is done goes too, and that is not remembered for ever.
    enclave.node.send(&ToService::Reclaim { wanted: 3 });
    enclave.idle_workers(2);
    enclave.first("a", "{}");
    enclave.idle_workers(2);
    std::thread::sleep(Duration::from_millis(600));
    enclave.first("a", "{}");
    enclave.again("a", "{}");
}

#[test]
fn a_waiting_container_that_is_killed_loses_no_call() {
    let mut enclave = start();
    enclave.deploy_wat("f", Reuse::Keep, COUNTER);
    let container = enclave.first("f", "{}").container;
    enclave.again("f", "{}");
    enclave.node.send(&ToService::ContainerLost { container, reason: "killed".into() });
    let outcome = enclave.first("f", "{}");
    assert_eq!(text(&outcome), r#"{"n":[1,1]}"#);
    // Calls and losses at the same time: each call has its answer, and it is a result unless it had begun.
    for _ in 0..200 {
        let (outcome, _) = enclave.call("f", "{}");
        let request = enclave.node.begin("f", "{}", false);
        enclave.node.send(&ToService::ContainerLost { container: outcome.container, reason: "killed".into() });
        let answer = loop {
            match enclave.node.receive_that(|_| true) {
                FromService::NeedContainer { container, .. } => enclave.enter.send(container).unwrap(),
                FromService::Done { request: done, outcome } if done == request => break outcome,
                FromService::Failed { failure, .. } => panic!("{failure}"),
                _ => {}
            }
        };
        match answer.result {
            Ok(_) => {}
            Err(failure) => assert_eq!(failure.kind, FailureKind::ContainerLost, "{}", failure.message),
        }
    }
}

#[test]
fn each_call_at_a_time_has_a_container_of_its_own() {
    need_javascript!();
    let mut enclave = start();
    enclave.deploy_js("f", Reuse::Rewind, "async function main({ ms }) { await new Promise((r) => setTimeout(r, ms)); return { ms } }");
    let requests: Vec<_> = (0..4).map(|_| enclave.node.begin("f", r#"{"ms":50}"#, false)).collect();
    for _ in 0..4 {
        let container = enclave.need();
        enclave.enter.send(container).unwrap();
    }
    let mut containers: Vec<_> = requests.into_iter().map(|request| enclave.node.answer(request).container).collect();
    containers.sort();
    containers.dedup();
    assert_eq!(containers.len(), 4);
    let requests: Vec<_> = (0..4).map(|_| enclave.node.begin("f", r#"{"ms":50}"#, false)).collect();
    for request in requests {
        assert!(containers.contains(&enclave.node.answer(request).container));
    }
    // One that waits for a container is taken by the first that is free.
    enclave.node.send(&ToService::Reclaim { wanted: 4 });
    enclave.idle_workers(4);
    let first = enclave.node.begin("f", r#"{"ms":50}"#, false);
    let second = enclave.node.begin("f", r#"{"ms":0}"#, false);
    let (container, unneeded) = (enclave.need(), enclave.need());
    enclave.enter.send(container).unwrap();
    assert_eq!(enclave.node.answer(first).container, container);
    assert_eq!(enclave.node.answer(second).container, container);
    let message = enclave.node.receive_that(|m| matches!(m, FromService::Unneeded { .. }));
    assert_eq!(message, FromService::Unneeded { container: unneeded });
    // It comes all the same.
    enclave.enter.send(unneeded).unwrap();
    assert_eq!(enclave.again("f", r#"{"ms":0}"#).container, container);
}

#[test]
fn the_node_is_told_how_long_a_container_stays() {
    let mut enclave = start();
    let mut spec = FunctionSpec { reuse: Reuse::Keep, ..spec("f", Kind::Wasm) };
    (spec.limits.timeout_ms, spec.limits.idle_ms) = (1000, 5000);
    enclave.node.deploy(spec, wat::parse_str(COUNTER).unwrap()).unwrap();
    let request = enclave.node.begin("f", "{}", false);
    let message = enclave.node.receive_that(|m| matches!(m, FromService::NeedContainer { .. }));
    let FromService::NeedContainer { container, timeout_ms, keep_ms, .. } = message else { unreachable!() };
    assert_eq!((timeout_ms, keep_ms), (1000, 5000));
    enclave.enter.send(container).unwrap();
    let outcome = enclave.node.answer(request);
    let message = enclave.node.receive_that(|m| matches!(m, FromService::KeepContainer { .. }));
    assert_eq!(message, FromService::KeepContainer { container, for_ms: 66_000 });
    assert!(outcome.marks.iter().any(|mark| mark.phase == Phase::Entered));
    // Once is enough for many calls.
    for _ in 0..5 {
        let outcome = enclave.again("f", "{}");
        let phases: Vec<_> = outcome.marks.iter().map(|mark| mark.phase).collect();
        assert_eq!(phases, [Phase::Accepted, Phase::Entered, Phase::InstanceReady, Phase::Executed, Phase::Answered]);
    }
    enclave.node.send(&ToService::Stats { request: 1 });
    assert!(matches!(enclave.node.receive(), FromService::Stats { .. }));
}

/// Does to its instance what it is told, and leaves it there.
const BUSY: &str = r#"
    const state = { list: [1, "two", { three: 3 }], map: new Map([["a", 1]]), text: "x".repeat(5000), date: new Date(0), re: /a+b/g };
    let timer;
    const acts = [
        (n) => state.list.push("y".repeat(n)),
        (n) => state.map.set("k" + n, new Uint8Array(n * 100).fill(n)),
        (n) => { globalThis["g" + n] = () => n; },
        (n) => { Object.prototype["p" + n] = n; },
        (n) => { timer = setTimeout(() => state.list.push(n), n); },
        (n) => Promise.resolve(n).then((v) => state.list.push(v)),
        (n) => state.re.exec("b" + "a".repeat(n) + "b"),
        (n) => { delete state.text; state.list.length = n; },
        (n) => { process.env["E" + n] = "v"; console.log(n); console.group(); console.count(); },
        (n) => { globalThis.big = new ArrayBuffer(n * 40000); },
        (n) => { eval("var v" + n + " = " + n); },
        (n) => { if (n > 200) throw new Error("thrown " + n); },
        (n) => { state.list = state.list.concat(state.list).sort().slice(0, 5000); },
        (n) => { Math.random(); crypto.getRandomValues(new Uint8Array(n)); },
    ];
    function main({ todo }) { for (const [what, n] of todo) acts[what % acts.length](n); return {}; }"#;

fn run(function: &Arc<Function>, warm: Option<Warm>, params: &str) -> Outcome {
    let input = Input { params: params.into(), env: vec![("__OW_ACTIVATION_ID".into(), "7".into())] };
    call::run(function, &Arc::new(Control::default()), input, 1, Vec::new(), warm).outcome
}

fn prepare(function: &Arc<Function>) -> Warm {
    call::prepare(function, &Arc::new(Control::default())).unwrap()
}

#[test]
fn a_rewound_instance_sees_its_own_calls_environment() {
    need_javascript!();
    let engines = Engines::new().unwrap();
    let source = "const top = process.env.__OW_KEY; function main() { return { top, key: process.env.__OW_KEY, own: process.env.OWN } }";
    for (reuse, again) in [(Reuse::Rewind, Some("2")), (Reuse::Fresh, None)] {
        let env = vec![("OWN".to_owned(), "o".to_owned())];
        let spec = FunctionSpec { reuse, env, ..spec("f", Kind::JavaScript) };
        let function = Arc::new(Function::deploy(&engines, spec, source.as_bytes(), None).unwrap());
        let call = |key: Option<&str>, warm| {
            let env = key.map(|key| ("__OW_KEY".to_owned(), key.to_owned())).into_iter().collect();
            let input = Input { params: b"{}".to_vec(), env };
            text(&call::run(&function, &Arc::new(Control::default()), input, 1, Vec::new(), warm).outcome)
        };
        let top = if reuse == Reuse::Fresh { r#""top":"1","# } else { "" };
        assert_eq!(call(Some("1"), None), format!(r#"{{{top}"key":"1","own":"o"}}"#));
        if again.is_some() {
            assert_eq!(call(again, Some(prepare(&function))), r#"{"key":"2","own":"o"}"#);
            assert_eq!(call(None, Some(prepare(&function))), r#"{"own":"o"}"#);
        }
    }
}

/// As many bytes as two instances differ in; `None` when their sizes differ.
fn differing(a: &[u8], b: &[u8]) -> Option<usize> {
    (a.len() == b.len()).then(|| a.iter().zip(b).filter(|(a, b)| a != b).count())
}

#[test]
fn a_rewound_instance_is_a_fresh_one_byte_by_byte() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    need_javascript!();
    let engines = Engines::new().unwrap();
    let deploy = || {
        let spec = FunctionSpec { reuse: Reuse::Rewind, ..spec("busy", Kind::JavaScript) };
        Arc::new(Function::deploy(&engines, spec, BUSY.as_bytes(), None).unwrap())
    };
    // The first instance of a deployment is initialised, not rewound.
    let function = deploy();
    let fresh = prepare(&function).memory().to_vec();
    assert!(function.snapshot.get().is_some_and(Option::is_some));
    // Initialising twice gives the same bytes but for the state of Math.random, so that there is one state to go back to.
    let other = prepare(&deploy()).memory().to_vec();
    assert!(differing(&fresh, &other).is_some_and(|bytes| bytes <= 8), "{:?}", differing(&fresh, &other));
    let cases = if std::env::var_os("TEEMATE_FULL").is_some() { 2000 } else { 32 };
    let todo = prop::collection::vec((0..14u8, 1..=255u8), 0..12);
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) })
        .run(&todo, |todo| {
            let warm = prepare(&function);
            prop_assert!(warm.memory() == fresh, "before the call");
            let params = serde_json::json!({ "todo": todo }).to_string();
            let outcome = run(&function, Some(warm), &params);
            if let Err(failure) = outcome.result {
                prop_assert!(failure.message.contains("thrown"), "{}", failure);
            }
            engines.clean();
            prop_assert!(prepare(&function).memory() == fresh, "after {params}");
            Ok(())
        })
        .unwrap();
}
