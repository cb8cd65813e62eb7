//! Medians of what the simulator's transitions cost on this machine, with and without the guard.
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{DATA, HEAP, act, attach, build, spawn_guarded, wait};
use teemate_sgx::{Enclave, Exit, Thread};

const ROUNDS: usize = 301;

fn median(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn measure(mut work: impl FnMut(), inner: u64) -> u64 {
    let one = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..inner {
            work();
        }
        start.elapsed().as_nanos() as u64 / inner
    };
    median((0..ROUNDS).map(|_| one(&mut work)).collect())
}

fn run(thread: &Thread<'_>, gate: bool, guarded: bool) {
    let how = format!("{}, {}", if gate { "gate" } else { "trap" }, if guarded { "guarded" } else { "not guarded" });
    let enter = measure(|| assert!(matches!(thread.enter(act::ADD, 1, 2), Ok(Exit::Exit { argument: 3, .. }))), 20);
    println!("{how}: EENTER + EEXIT                            {enter:>7} ns");
    let exception = measure(
        || {
            thread.enter(act::SYSCALL, 0, 0).unwrap();
            thread.enter(act::SKIP, 2, 0).unwrap();
            thread.resume().unwrap();
        },
        4,
    );
    println!("{how}: syscall: AEX, EENTER, EEXIT, ERESUME, EEXIT {exception:>5} ns");
    let pages = 2000;
    let start = Instant::now();
    assert!(matches!(thread.enter(act::GROW, HEAP, pages), Ok(Exit::Exit { reason: 86, .. })));
    println!("{how}: EAUG + EACCEPT + first write, a page        {:>5} ns", start.elapsed().as_nanos() as u64 / pages);
    // EACCEPT of a page that is there: refused with a code, so it can be repeated.
    for (index, value) in [0, DATA + 0x840, HEAP, 0].into_iter().enumerate() {
        unsafe { ((DATA + 0x900) as *mut u64).add(index).write(value) };
    }
    let leaf = measure(|| assert!(matches!(thread.enter(act::LEAF, DATA + 0x900, 5), Ok(Exit::Exit { argument: 19, .. }))), 20);
    println!("{how}: a leaf alone (EACCEPT, refused)             {:>5} ns", leaf.saturating_sub(enter));
}

fn main() {
    println!("{}", teemate_sgx::simulator::BANNER);
    for gate in [true, false] {
        for guarded in [false, true] {
            let (enclave, _dir) = build(gate);
            let work = || {
                let attachment = attach(&enclave);
                let Ok(thread) = attachment.thread(0) else { return 1 };
                run(&thread, gate, guarded);
                0
            };
            let pid = if guarded { spawn_guarded(&enclave, work) } else { common::spawn(work) };
            assert_eq!(wait(pid), 0);
            let _ = enclave.counters();
        }
    }
}
