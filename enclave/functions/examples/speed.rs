//! What a call costs in this process: `cargo run --release -p teemate-functions --example speed [script.js ...]`.
//! Medians of the phases, microseconds, for a small module and a small script by each policy of reuse; then each script that is named, with
//! its fuel. `prepare` is what a rewound instance costs after the answer, while nobody waits.

use std::sync::Arc;
use std::time::Instant;

use teemate_control::function::{FunctionSpec, Kind, Limits, Reuse};
use teemate_functions::call::{self, Finished};
use teemate_functions::clock::monotonic_ns;
use teemate_functions::control::Control;
use teemate_functions::function::{Engines, Function};
use teemate_functions::jobs::Input;

fn spec(kind: Kind, reuse: Reuse) -> FunctionSpec {
    let (limits, main) = (Limits::default(), "main".to_owned());
    FunctionSpec { name: "f".into(), kind, main, limits, egress: vec![], files: vec![], env: vec![], reuse }
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
    for reuse in [Reuse::Fresh, Reuse::Rewind] {
        measure(&engines, "hello.wat", Kind::Wasm, &hello, 2000, reuse);
    }
    if !scripts {
        println!("skipped: JavaScript: the engine is not built");
        return;
    }
    let script = std::fs::read(format!("{folder}hello/main.js")).expect("hello/main.js is there");
    for reuse in [Reuse::Fresh, Reuse::Rewind, Reuse::Keep] {
        measure(&engines, "hello.js", Kind::JavaScript, &script, 2000, reuse);
    }
    for path in std::env::args().skip(1) {
        let code = std::fs::read(&path).expect("the script is there");
        let kind = if path.ends_with(".wasm") { Kind::Wasm } else { Kind::JavaScript };
        for reuse in [Reuse::Fresh, Reuse::Rewind] {
            measure(&engines, &path, kind, &code, 5, reuse);
        }
    }
}

/// Time that the processor has given to this thread: what counts on a machine that others use, too.
fn processor_us() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec for the kernel to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn measure(engines: &Engines, name: &str, kind: Kind, code: &[u8], rounds: usize, reuse: Reuse) {
    let began = Instant::now();
    let function = match Function::deploy(engines, spec(kind, reuse), code, None) {
        Ok(function) => Arc::new(function),
        Err(failure) => return println!("{name}: {failure}"),
    };
    let deploy = began.elapsed().as_micros();
    let mut columns: [Vec<f64>; 6] = Default::default();
    let mut fuel = 0;
    let mut warm = None;
    for _ in 0..rounds {
        let start = monotonic_ns();
        let control = Arc::new(Control::default());
        let began_us = processor_us();
        let finished = call::run(&function, &control, Input { params: b"{}".to_vec(), env: Vec::new() }, 0, Vec::new(), warm.take());
        columns[5].push(processor_us() - began_us);
        let Finished { outcome, rest, warm: kept } = finished;
        let marks: Vec<u64> = outcome.marks.iter().map(|mark| mark.at_ns).collect();
        if let Err(failure) = &outcome.result {
            return println!("{name}: {failure}\n{}", outcome.logs);
        }
        fuel = outcome.usage.fuel;
        let ended = monotonic_ns();
        drop(rest);
        let dropped = monotonic_ns();
        engines.clean();
        let cleaned = monotonic_ns();
        warm = if reuse == Reuse::Rewind { call::prepare(&function, &Arc::default()) } else { kept };
        let prepared = monotonic_ns();
        let times = [(start, marks[0]), (marks[0], ended), (ended, dropped), (cleaned, prepared), (dropped, cleaned)];
        for (column, (from, to)) in columns.iter_mut().zip(times) {
            column.push((to - from) as f64 / 1000.0);
        }
    }
    let [ready, run, drop, prepare, wipe, processor] = columns.map(|mut values| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    });
    let snapshot = function.snapshot.get().and_then(Option::as_ref).map_or(0, |snapshot| snapshot.changed() / 1024);
    println!(
        "{name} {reuse:?}: deploy {deploy}; instance {ready:.1}, run {run:.1}, drop {drop:.1}, prepare {prepare:.1}, wipe {wipe:.1} us; processor {processor:.1} us, fuel {fuel}; snapshot {snapshot} KiB"
    );
}
