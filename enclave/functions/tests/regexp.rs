//! The filter before the engine's regular expressions lets through what it must.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use teemate_control::function::{FunctionSpec, Kind, Limits, Reuse};
use teemate_functions::call;
use teemate_functions::control::Control;
use teemate_functions::function::{Engines, Function};
use teemate_functions::jobs::Input;

#[test]
fn a_search_finds_what_trying_each_position_finds() {
    if !teemate_functions::javascript::is_built() {
        println!("skipped: the JavaScript engine is not built: run `cargo xtask build`");
        return;
    }
    let engines = Engines::new().unwrap();
    let limits = Limits { timeout_ms: 300_000, ..Limits::default() };
    let spec = FunctionSpec {
        name: "regexp".into(),
        kind: Kind::JavaScript,
        main: "main".into(),
        limits,
        egress: vec![],
        files: vec![],
        env: vec![],
        reuse: Reuse::default(),
    };
    let function = Arc::new(Function::deploy(&engines, spec, include_bytes!("regexp.js"), None).unwrap());
    for seed in [1, 4242, 31337] {
        let params = format!("{{\"seed\":{seed},\"count\":1500}}");
        let input = Input { params: params.into_bytes(), env: Vec::new() };
        let finished = call::run(&function, &Arc::new(Control::default()), input, 0, Vec::new(), None);
        let result: serde_json::Value = serde_json::from_slice(&finished.outcome.result.unwrap()).unwrap();
        assert!(result["tried"].as_u64() > Some(3000) && result["found"].as_u64() > Some(500), "seed {seed}: {result}");
    }
}
