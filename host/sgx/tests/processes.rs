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

/// Whether a thread that went in is saved. One that was killed in EENTER never was inside, and its TCS is as before.
fn is_saved(enclave: &SimulatedEnclave, tcs: u32) -> bool {
    let state = enclave.tcs_state(tcs).unwrap();
    assert!(!state.busy && state.cssa <= 1, "{state:?}");
    state.cssa == 1
}

#[test]
fn every_thread_of_a_killed_process_is_saved() {
    // Where two processors have much to do, a busy TCS may be in EENTER for long; not ten times in a row, in four threads.
    assert!((0..10).map(|_| threads_saved()).sum::<u64>() > 0);
}

fn threads_saved() -> u64 {
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
    let saved: Vec<u32> = (0..4).filter(|tcs| is_saved(&enclave, *tcs)).collect();
    in_child(|| {
        let attachment = attach(&enclave);
        stop_spinning();
        for tcs in &saved {
            assert!(matches!(attachment.thread(*tcs).unwrap().resume(), Ok(Exit::Exit { reason: 80, .. })));
        }
    });
    let kills = enclave.kills();
    assert_eq!((kills.by(Rule::Lost), kills.by(Rule::Entering) + saved.len() as u64), (0, 4));
    saved.len() as u64
}

#[test]
fn a_process_in_another_pid_namespace() {
    if !makes_pid_namespaces() {
        return;
    }
    let (enclave, _dir) = build(true);
    for _ in 0..20 {
        let pid = first_of_a_namespace(&enclave, || spin(&enclave, 0));
        until(|| enclave.tcs_state(0).unwrap().busy);
        kill(&enclave, pid);
        is_saved(&enclave, 0);
    }
    assert!(is_saved(&enclave, 0), "twenty times in a row it was killed in its first EENTER");
    in_child(|| {
        stop_spinning_attached(&enclave);
    });
}

fn makes_pid_namespaces() -> bool {
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        eprintln!("skipped: making a pid namespace needs root");
    }
    is_root
}

/// A guarded child that is the first process of a pid namespace, as those of containers are.
fn first_of_a_namespace(enclave: &SimulatedEnclave, work: impl FnOnce() -> i32 + Send) -> i32 {
    // In a thread of its own, because unshare changes what all its later children get.
    std::thread::scope(|scope| {
        let forking = scope.spawn(|| {
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
            spawn_guarded(enclave, || if unsafe { libc::getpid() } == 1 { work() } else { 3 })
        });
        forking.join().unwrap()
    })
}

/// The kernel keeps a traced one alive: the fault that ends any other process only comes again.
#[test]
fn the_first_process_of_a_namespace_dies_of_its_own_fault() {
    if !makes_pid_namespaces() {
        return;
    }
    let (enclave, _dir) = build(true);
    let pid = first_of_a_namespace(&enclave, || {
        let _attachment = attach(&enclave);
        // Attached, it has handlers for some faults; its last one is by this instruction.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            std::arch::asm!("hlt");
        }
        4
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut status = 0;
    while unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > deadline {
            unsafe { libc::kill(pid, libc::SIGKILL) };
            wait(pid);
            panic!("it faults for ever");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(libc::WIFSIGNALED(status), "{status:#x}");
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
