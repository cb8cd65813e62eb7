//! SIGKILL at any instruction loses nothing: at random instants, and at each instruction in turn.
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{DATA, HEAP, Random, act, attach, build, in_child, sleep_us, spawn_guarded, spawn_guarded_and, wait};
use teemate_sgx::simulator::{Rule, SimulatedEnclave};
use teemate_sgx::{Enclave, Exit, TcsState, Thread};

/// What a child does again and again with its TCS; whatever was interrupted is carried on by the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// All registers hold a pattern.
    Spin,
    /// EENTER and EEXIT.
    Enter,
    /// AEX, EENTER at CSSA 1, EEXIT, ERESUME.
    Exception,
    /// EACCEPT of new pages, each exactly once.
    Grow(u64),
}

const FAILED: i32 = 50;

/// Carries on from whatever state the TCS is in. 0: done; else a code that says what went wrong.
fn carry_on(thread: &Thread<'_>, work: Work, rounds: u64) -> i32 {
    for _ in 0..rounds {
        let came = match thread.state() {
            TcsState { busy: true, .. } => return FAILED + 1,
            TcsState { cssa: 0, .. } => match work {
                Work::Spin => thread.enter(act::SPIN, 0, 0x1122_3344_5566_7788),
                Work::Enter => thread.enter(act::ADD, 5, 6),
                Work::Exception => thread.enter(act::SYSCALL, 0, 0),
                Work::Grow(pages) => thread.enter(act::GROW, HEAP, pages),
            },
            _ => thread.resume(),
        };
        match (work, came) {
            (Work::Spin, Ok(Exit::Exit { reason: 80, .. })) => return 0,
            (Work::Enter, Ok(Exit::Exit { reason: 77, argument: 11 })) => {}
            (Work::Exception, Ok(Exit::Exit { reason: 78, argument: 39 } | Exit::Exit { reason: 83, argument: 2 })) => {}
            (Work::Exception, Ok(Exit::Exception { vector: 6, .. })) => match thread.enter(act::SKIP, 2, 0) {
                Ok(Exit::Exit { reason: 83, argument: 2 }) => {}
                _ => return FAILED + 2,
            },
            (Work::Grow(pages), Ok(Exit::Exit { reason: 86, argument })) if pages == argument => return 0,
            (_, Ok(Exit::Interrupted)) => {}
            (_, other) => {
                eprintln!("{work:?}: {other:?} at {:?}", thread.state());
                return FAILED + 3;
            }
        }
    }
    0
}

/// The last child: ends what is left, unharmed.
fn finish(enclave: &SimulatedEnclave, work: Work) {
    in_child(|| {
        let attachment = attach(enclave);
        let thread = attachment.thread(0).unwrap();
        unsafe { &*(DATA as *const AtomicU64) }.store(1, SeqCst);
        if matches!(work, Work::Enter | Work::Exception) {
            for round in 0..8 {
                if round > 2 && thread.state().cssa == 0 {
                    break;
                }
                assert_eq!(carry_on(&thread, work, 1), 0);
            }
        } else {
            assert_eq!(carry_on(&thread, work, u64::MAX), 0);
        }
    });
    assert_eq!(enclave.tcs_state(0).unwrap(), TcsState { busy: false, cssa: 0 });
    assert_eq!(enclave.kills().by(Rule::Lost), 0);
    assert_eq!(enclave.kills().by(Rule::Vanished), 0);
    if let Work::Grow(pages) = work {
        assert_eq!(enclave.epc().pages, common::image().page_count() + 1 + pages);
    }
}

/// Kills children until `wanted` of them had something of the enclave in their registers.
fn random_kills(work: Work, gate: bool, wanted: u64) {
    let (enclave, _dir) = build(gate);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut rounds = 0;
    while enclave.kills().inside() + enclave.kills().by(Rule::Entering) + enclave.kills().by(Rule::Resuming) < wanted {
        rounds += 1;
        assert!(rounds < 100 + wanted * 20, "too few kills hit: {:?}", enclave.kills());
        let pid = spawn_guarded(&enclave, || {
            let attachment = attach(&enclave);
            let Ok(thread) = attachment.thread(0) else { return FAILED };
            carry_on(&thread, work, u64::MAX)
        });
        let entries = |enclave: &SimulatedEnclave| enclave.counters().eenter + enclave.counters().eresume;
        let (before, until) = (entries(&enclave), Instant::now() + Duration::from_secs(2));
        while entries(&enclave) == before && Instant::now() < until {
            std::hint::spin_loop();
        }
        sleep_us(random.below(200));
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let code = wait(pid);
        enclave.wait_saved(pid).unwrap();
        if matches!(work, Work::Grow(_)) && code == 0 {
            break;
        }
        assert_eq!(code, -libc::SIGKILL, "after {rounds} kills: {:?}", enclave.kills());
        assert!(!enclave.tcs_state(0).unwrap().busy, "{:?}", enclave.kills());
    }
    finish(&enclave, work);
    eprintln!("{work:?} gate={gate}: {rounds} kills, {:?}", enclave.kills().0);
}

#[test]
fn registers_survive_a_thousand_kills() {
    random_kills(Work::Spin, true, 1000);
}

#[test]
fn entries_and_exits_survive() {
    random_kills(Work::Enter, true, 300);
    random_kills(Work::Enter, false, 200);
}

#[test]
fn exceptions_survive() {
    random_kills(Work::Exception, true, 300);
    random_kills(Work::Exception, false, 200);
}

#[test]
fn growth_survives() {
    random_kills(Work::Grow(15_000), true, 300);
    random_kills(Work::Grow(15_000), false, 300);
}

#[test]
fn threads_that_come_and_go_are_not_waited_for() {
    let (enclave, _dir) = build(true);
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..60 {
        let pid = spawn_guarded(&enclave, || {
            let attachment = attach(&enclave);
            loop {
                std::thread::scope(|scope| {
                    for tcs in 0..2 {
                        let attachment = &attachment;
                        scope.spawn(move || attachment.thread(tcs).map(|thread| thread.enter(act::ADD, 5, 6)).is_ok());
                        scope.spawn(|| ());
                    }
                });
            }
        });
        sleep_us(random.below(20_000));
        unsafe { libc::kill(pid, libc::SIGKILL) };
        assert_eq!(wait(pid), -libc::SIGKILL, "round {round}");
        enclave.wait_saved(pid).unwrap();
        for tcs in 0..2 {
            assert!(!enclave.tcs_state(tcs).unwrap().busy, "round {round}: {:?}", enclave.kills());
            // What was interrupted is brought to its end, for the next round.
            in_child(|| {
                let attachment = attach(&enclave);
                let thread = attachment.thread(tcs).unwrap();
                while thread.state().cssa > 0 {
                    thread.resume().unwrap();
                }
            });
        }
    }
    assert_eq!((enclave.kills().by(Rule::Lost), enclave.kills().by(Rule::Vanished)), (0, 0));
}

/// Kills a child after 0, 1, 2, ... instructions of its work (and every `stride`-th from there on), then lets another carry on.
fn stepped_kills(work: Work, gate: bool, stride: u64) {
    let (mut instructions, mut kills) = (0, 0);
    let (mut enclave, mut dir) = build(gate);
    loop {
        if matches!(work, Work::Grow(_)) {
            (enclave, dir) = build(gate);
        }
        let doom = |pid| enclave.kill_after(pid, instructions);
        let pid = spawn_guarded_and(&enclave, doom, || {
            let attachment = attach(&enclave);
            let Ok(thread) = attachment.thread(0) else { return FAILED };
            unsafe { std::arch::asm!("int3") };
            carry_on(&thread, work, 1)
        });
        let code = wait(pid);
        enclave.wait_saved(pid).unwrap();
        assert!(code == 0 || code == -libc::SIGKILL, "{instructions}: {code}");
        let before = enclave.kills();
        assert!(!enclave.tcs_state(0).unwrap().busy, "{instructions}: {before:?}");
        finish(&enclave, work);
        if code == 0 {
            break;
        }
        kills += 1;
        instructions += stride;
        assert!(kills < 20_000, "it never ends");
    }
    drop(dir);
    eprintln!("{work:?} gate={gate}: killed at {kills} instructions, {:?}", enclave.kills().0);
}

#[test]
fn each_instruction_of_enter_and_exit() {
    // Without optimisation the test's own code between two entries is thousands of instructions.
    let (gate, trap) = if cfg!(debug_assertions) { (41, 211) } else { (1, 7) };
    stepped_kills(Work::Enter, true, gate);
    stepped_kills(Work::Enter, false, trap);
}

#[test]
fn instructions_of_a_leaf() {
    // Gate: registers are saved, Rust does the work, registers are loaded. Two pages, so that one EACCEPT follows another.
    stepped_kills(Work::Grow(2), true, 97);
    stepped_kills(Work::Grow(2), false, 211);
}

#[test]
fn instructions_of_an_exception() {
    stepped_kills(Work::Exception, true, 499);
}

#[test]
#[ignore = "takes about ten minutes"]
fn each_instruction_of_a_leaf() {
    stepped_kills(Work::Grow(2), true, 1);
    stepped_kills(Work::Grow(2), false, 1);
}

#[test]
#[ignore = "takes some minutes"]
fn each_instruction_of_an_exception() {
    stepped_kills(Work::Exception, true, 1);
}
