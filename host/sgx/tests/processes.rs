//! Several processes and threads at one enclave.
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{CODE, DATA, HEAP, act, attach, build, in_child, spawn_guarded, wait};
use teemate_abi::ocall::edmm;
use teemate_sgx::simulator::{Rule, SimulatedEnclave};
use teemate_sgx::{Enclave, Error, Exit, TcsState};

const SEED: u64 = 0x1122_3344_5566_7788;

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !what() {
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn spin(enclave: &SimulatedEnclave, tcs: u32) -> i32 {
    let attachment = attach(enclave);
    let Ok(thread) = attachment.thread(tcs) else { return 1 };
    let came = if thread.state().cssa == 0 { thread.enter(act::SPIN, 0, SEED) } else { thread.resume() };
    if matches!(came, Ok(Exit::Exit { reason: 80, .. })) { 0 } else { 2 }
}

fn kill(enclave: &SimulatedEnclave, pid: i32) {
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(wait(pid), -libc::SIGKILL);
    enclave.wait_saved(pid).unwrap();
}

fn stop_spinning() {
    unsafe { &*(DATA as *const AtomicU64) }.store(1, SeqCst);
}

#[test]
fn a_busy_tcs_refuses() {
    let (enclave, _dir) = build(true);
    let pid = spawn_guarded(&enclave, || spin(&enclave, 0));
    until(|| enclave.tcs_state(0).unwrap().busy);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        assert!(matches!(thread.enter(act::ADD, 0, 0), Err(Error::Entry { why, .. }) if why.contains("busy")));
        assert!(matches!(thread.resume(), Err(Error::Entry { why, .. }) if why.contains("busy")));
        let other = 1;
        drop(thread);
        let thread = attachment.thread(other).unwrap();
        assert!(thread.enter(act::ADD, 0, 0).is_ok());
    });
    kill(&enclave, pid);
    assert_eq!(enclave.tcs_state(0).unwrap(), TcsState { busy: false, cssa: 1 });
}

#[test]
fn every_thread_of_a_killed_process_is_saved() {
    let (enclave, _dir) = build(true);
    let pid = spawn_guarded(&enclave, || {
        let attachment = attach(&enclave);
        std::thread::scope(|scope| {
            for tcs in 0..4 {
                let attachment = &attachment;
                scope.spawn(move || attachment.thread(tcs).unwrap().enter(act::SPIN, 0, SEED + u64::from(tcs)));
            }
        });
        0
    });
    until(|| (0..4).all(|tcs| enclave.tcs_state(tcs).unwrap().busy));
    kill(&enclave, pid);
    for tcs in 0..4 {
        assert_eq!(enclave.tcs_state(tcs).unwrap(), TcsState { busy: false, cssa: 1 });
    }
    in_child(|| {
        let attachment = attach(&enclave);
        stop_spinning();
        for tcs in 0..4 {
            assert!(matches!(attachment.thread(tcs).unwrap().resume(), Ok(Exit::Exit { reason: 80, .. })));
        }
    });
    assert_eq!(enclave.kills().by(Rule::Lost), 0);
}

#[test]
fn a_process_in_another_pid_namespace() {
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: making a pid namespace needs root");
        return;
    }
    let (enclave, _dir) = build(true);
    for _ in 0..20 {
        // In a thread of its own, because unshare changes what all its later children get.
        let pid = std::thread::scope(|scope| {
            let forking = scope.spawn(|| {
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
                spawn_guarded(&enclave, || if unsafe { libc::getpid() } == 1 { spin(&enclave, 0) } else { 3 })
            });
            forking.join().unwrap()
        });
        until(|| enclave.tcs_state(0).unwrap().busy);
        kill(&enclave, pid);
        assert_eq!(enclave.tcs_state(0).unwrap(), TcsState { busy: false, cssa: 1 });
    }
    in_child(|| {
        stop_spinning_attached(&enclave);
    });
}

fn stop_spinning_attached(enclave: &SimulatedEnclave) {
    let attachment = attach(enclave);
    stop_spinning();
    assert!(matches!(attachment.thread(0).unwrap().resume(), Ok(Exit::Exit { reason: 80, .. })));
}

#[test]
fn rights_that_are_taken_away_are_gone_in_a_running_process() {
    let (enclave, _dir) = build(true);
    let pid = spawn_guarded(&enclave, || {
        let attachment = attach(&enclave);
        let Ok(thread) = attachment.thread(0) else { return 1 };
        if !matches!(thread.enter(act::GROW, HEAP, 4), Ok(Exit::Exit { reason: 86, .. })) {
            return 2;
        }
        for _ in 0..50_000_000u64 {
            match thread.enter(act::STORE, HEAP + 4096, 0) {
                Ok(Exit::Exit { reason: 79, .. }) => {}
                Ok(Exit::Exception { vector: 14, error: 0x8007, address }) if address == HEAP + 4096 => return 0,
                _ => return 3,
            }
        }
        4
    });
    until(|| enclave.counters().eenter > 10);
    assert_eq!(enclave.edmm(edmm::RESTRICT, HEAP + 4096, 4096, 1).unwrap(), 4096);
    assert_eq!(wait(pid), 0);
}

#[test]
fn an_image_page_stays_what_it_was() {
    let (enclave, _dir) = build(true);
    assert!(enclave.edmm(edmm::REMOVE, CODE, 4096, 0).is_err());
    assert!(enclave.edmm(edmm::RESTRICT, HEAP, 4096, 1).is_err(), "no page there");
    assert!(enclave.edmm(edmm::TRIM, 0x1000, 4096, 0).is_err(), "outside");
    assert!(enclave.edmm(edmm::TRIM, CODE + 1, 4096, 0).is_err(), "not aligned");
    assert!(enclave.edmm(77, CODE, 4096, 0).is_err());
}
