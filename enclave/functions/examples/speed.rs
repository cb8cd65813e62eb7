//! What a call costs in this process: `cargo run --release -p teemate-functions --example speed [script.js ...]`.
//! Medians of the phases, microseconds, for a small module and a small script; then each script that is named, with its fuel.

use std::sync::Arc;
use std::time::Instant;

use teemate_control::function::{FunctionSpec, Kind, Limits};
use teemate_functions::call;
use teemate_functions::control::Control;
use teemate_functions::function::{Engines, Function};
use teemate_functions::jobs::Input;

fn spec(kind: Kind) -> FunctionSpec {
    FunctionSpec {
        name: "f".into(),
        kind,
        main: "main".into(),
        limits: Limits::default(),
        egress: vec![],
        files: vec![],
        env: vec![],
        reuse: Default::default(),
    }
}

fn main() {
    let began = Instant::now();
    let engines = Engines::new().expect("the engine starts");
    println!("engine {} us", began.elapsed().as_micros());
    let began = Instant::now();
    let scripts = engines.script().is_ok();
    println!("JavaScript engine {} us", began.elapsed().as_micros());
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/functions/");
    let hello = wat::parse_file(format!("{folder}hello/hello.wat")).expect("hello.wat parses");
    measure(&engines, "hello.wat", Kind::Wasm, &hello, 2000);
    if !scripts {
        println!("skipped: JavaScript: the engine is not built");
        return;
    }
    measure(
        &engines,
        "hello.js",
        Kind::JavaScript,
        &std::fs::read(format!("{folder}hello/main.js")).expect("hello/main.js is there"),
        2000,
    );
    for path in std::env::args().skip(1) {
        let code = std::fs::read(&path).expect("the script is there");
        measure(&engines, &path, if path.ends_with(".wasm") { Kind::Wasm } else { Kind::JavaScript }, &code, 5);
    }
}

fn measure(engines: &Engines, name: &str, kind: Kind, code: &[u8], rounds: usize) {
    let began = Instant::now();
    let function = match Function::deploy(engines, spec(kind), code, None) {
        Ok(function) => Arc::new(function),
        Err(failure) => return println!("{name}: {failure}"),
    };
    let deploy = began.elapsed().as_micros();
    let mut columns: [Vec<f64>; 4] = Default::default();
    let mut fuel = 0;
    for _ in 0..rounds {
        let start = teemate_functions::clock::monotonic_ns();
        let control = Arc::new(Control::default());
        let finished = call::run(&function, &control, Input { params: b"{}".to_vec(), env: Vec::new() }, 0, Vec::new());
        let marks: Vec<u64> = finished.outcome.marks.iter().map(|mark| mark.at_ns).collect();
        if let Err(failure) = &finished.outcome.result {
            return println!("{name}: {failure}\n{}", finished.outcome.logs);
        }
        fuel = finished.outcome.usage.fuel;
        let ended = teemate_functions::clock::monotonic_ns();
        drop(finished);
        let dropped = teemate_functions::clock::monotonic_ns();
        engines.clean();
        let cleaned = teemate_functions::clock::monotonic_ns();
        let us = |from: u64, to: u64| (to - from) as f64 / 1000.0;
        for (column, value) in columns.iter_mut().zip([us(start, marks[0]), us(marks[0], ended), us(ended, dropped), us(dropped, cleaned)])
        {
            column.push(value);
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [ready, run, drop, clean] = &mut columns;
    println!(
        "{name}: deploy {deploy}; instance {:.1}, run {:.1}, drop {:.1}, wipe {:.1} us; fuel {fuel}",
        median(ready),
        median(run),
        median(drop),
        median(clean)
    );
}
