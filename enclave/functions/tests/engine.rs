//! What the JavaScript engine does in ways of its own comes out as QuickJS-ng's and the standard's: regular expressions, iteration over arrays,
//! strings that grow.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use teemate_control::function::{FunctionSpec, Kind, Limits, Reuse};
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
    let limits = Limits { timeout_ms: 300_000, ..Limits::default() };
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

#[test]
fn replaced_functions_are_as_the_standard_has_them() {
    need_javascript!();
    let function = deploy(include_bytes!("engine.js"), "main", Reuse::Fresh);
    let result = call(&function, "{}");
    assert_eq!(result["failed"], serde_json::json!([]));
    assert!(result["cases"].as_u64() > Some(20));
}
