//! What the JavaScript engine does in ways of its own comes out as QuickJS-ng's and the standard's: regular expressions, iteration over arrays,
//! strings that grow, calls of built-in functions. And its meter ends what does not end.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Limits, Reuse};
use teemate_functions::call::{self, Finished};
use teemate_functions::control::Control;
use teemate_functions::function::{Engines, Function};
use teemate_functions::jobs::Input;

macro_rules! need_javascript {
    () => {
        if !teemate_functions::javascript::is_built() {
            println!("skipped: the JavaScript engine is not built: run `cargo xtask build`");
            return;
        }
    };
}

fn deploy(source: &[u8], main: &str, reuse: Reuse) -> Arc<Function> {
    deploy_with(source, main, reuse, Limits { timeout_ms: 300_000, ..Limits::default() })
}

fn deploy_with(source: &[u8], main: &str, reuse: Reuse, limits: Limits) -> Arc<Function> {
    let kind = Kind::JavaScript;
    let (name, main) = ("engine".into(), main.into());
    let spec = FunctionSpec { name, kind, main, limits, egress: vec![], files: vec![], env: vec![], reuse };
    Arc::new(Function::deploy(&Engines::new().unwrap(), spec, source, None).unwrap())
}

fn result(finished: &mut Finished) -> serde_json::Value {
    serde_json::from_slice(std::mem::replace(&mut finished.outcome.result, Ok(vec![])).unwrap().as_slice()).unwrap()
}

fn call(function: &Arc<Function>, params: &str) -> serde_json::Value {
    let input = Input { params: params.into(), env: Vec::new() };
    result(&mut call::run(function, &Arc::new(Control::default()), input, 0, Vec::new(), None))
}

#[test]
fn a_search_finds_what_trying_each_position_finds() {
    need_javascript!();
    let function = deploy(include_bytes!("regexp.js"), "main", Reuse::Fresh);
    for seed in [1, 4242, 31337] {
        let result = call(&function, &format!("{{\"seed\":{seed},\"count\":800}}"));
        assert!(result["tried"].as_u64() > Some(3000) && result["found"].as_u64() > Some(800), "seed {seed}: {result}");
    }
}

#[test]
fn much_text_is_searched_as_little_is() {
    need_javascript!();
    let function = deploy(include_bytes!("regexp.js"), "long", Reuse::Fresh);
    for seed in [7, 99] {
        let result = call(&function, &format!("{{\"seed\":{seed},\"count\":150}}"));
        assert!(result["matches"].as_u64() > Some(1000), "seed {seed}: {result}");
    }
}

/// What was learnt of an expression in one call is gone in the next, with the memory that it lay in.
#[test]
fn rewound_instances_learn_anew() {
    need_javascript!();
    let function = deploy(include_bytes!("regexp.js"), "main", Reuse::Rewind);
    let mut warm = None;
    let mut told = Vec::new();
    for _ in 0..3 {
        let input = Input { params: b"{\"seed\":5,\"count\":60}".to_vec(), env: Vec::new() };
        let mut finished = call::run(&function, &Arc::new(Control::default()), input, 0, Vec::new(), warm.take());
        let result = result(&mut finished);
        assert!(result["tried"].as_u64() > Some(200), "{result}");
        told.push((result, finished.outcome.usage.fuel));
        warm = call::prepare(&function, &Arc::default());
        assert!(warm.is_some());
    }
    // The first call evaluated the script, too.
    assert_eq!(told[0].0, told[1].0);
    assert_eq!(told[1], told[2]);
}

/// Loops, calls, expressions, sorts, and what is done outside the interpreter: each of them uses fuel, and comes to an end by it.
const ENDLESS: &[(&str, &str)] = &[
    ("a loop", "for (;;) {}"),
    ("calls", "function f() { g(); } function g() { try { f(); } catch { f(); } } for (;;) try { f(); } catch {}"),
    ("callbacks", "for (;;) [1, 2, 3].map((n) => n + 1);"),
    ("an expression that tries all ways", "/^(([a-z])+.)+[A-Z]([a-z])+$/.test('a'.repeat(200));"),
    ("a sort", "for (const list = Array.from({ length: 1000 }, (_, i) => i);;) list.reverse().sort();"),
    ("copies of memory", "for (const bytes = new Uint8Array(32 << 20);;) bytes.copyWithin(1, 0);"),
    ("memory that is filled", "for (const bytes = new Uint8Array(32 << 20);;) bytes.fill(7);"),
    ("digests", "for (const bytes = Buffer.alloc(8 << 20);;) require('crypto').createHash('sha256').update(bytes).digest();"),
    ("random bytes", "for (;;) require('crypto').randomBytes(1 << 20);"),
];

#[test]
fn fuel_ends_what_does_not_end() {
    need_javascript!();
    for &(what, code) in ENDLESS {
        let source = format!("function main() {{ {code} }}");
        let limits = Limits { timeout_ms: 300_000, fuel: Some(2_000_000_000), ..Limits::default() };
        let function = deploy_with(source.as_bytes(), "main", Reuse::Fresh, limits);
        let input = Input { params: b"{}".to_vec(), env: Vec::new() };
        let finished = call::run(&function, &Arc::new(Control::default()), input, 0, Vec::new(), None);
        let failure = finished.outcome.result.unwrap_err();
        assert!(failure.kind == FailureKind::Limit && failure.message.contains("fuel"), "{what}: {failure:?}");
        assert_eq!(finished.outcome.usage.fuel, 2_000_000_000, "{what}");
    }
}

/// The stop switch is looked at after each slice of fuel. None of these has a limit of fuel: what did not look would not come to an end.
#[test]
fn what_does_not_end_can_be_stopped() {
    need_javascript!();
    for &(what, code) in ENDLESS {
        let function = deploy(format!("function main() {{ {code} }}").as_bytes(), "main", Reuse::Fresh);
        let control = Arc::new(Control::default());
        let finished = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                control.stop(Failure::new(FailureKind::ContainerLost, "stopped"));
            });
            let input = Input { params: b"{}".to_vec(), env: Vec::new() };
            call::run(&function, &control, input, 0, Vec::new(), None)
        });
        let failure = finished.outcome.result.unwrap_err();
        assert!(failure.kind == FailureKind::ContainerLost, "{what}: {failure:?}");
    }
}

#[test]
fn replaced_functions_are_as_the_standard_has_them() {
    need_javascript!();
    let function = deploy(include_bytes!("engine.js"), "main", Reuse::Fresh);
    let result = call(&function, "{}");
    assert_eq!(result["failed"], serde_json::json!([]));
    assert!(result["cases"].as_u64() > Some(20));
}
