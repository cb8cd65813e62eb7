//! The payload's own threads: a host thread, with a TCS of its own, for each LibOS thread that is ready to run.
//!
//! When its process is killed another one takes over: it brings every TCS on from where it was, in a call or inside, all at the same time,
//! for the threads wait for one another. The channel and the listening socket are the same; connections were the dead process's own.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::thread::futex;
use teemate_abi::transition::{enter, refused};

use crate::body::Mapped;
use crate::descriptors::Descriptors;
use crate::drive::End;
use crate::role;

/// What the payload's process has.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    /// The enclave.
    pub mapped: &'a Mapped,
    /// What the enclave may name.
    pub descriptors: &'a Descriptors,
    /// The way to the node's broker, if the payload may ask for anything.
    pub broker: Option<BorrowedFd<'a>>,
    /// An earlier process did this and was killed.
    pub takes_over: bool,
}

/// Runs the payload with these TCSs until it ends. Gives the process's exit status.
pub fn serve(service: Service<'_>, tcs: &[u32]) -> i32 {
    let Some((first, others)) = tcs.split_first() else { return role::EXIT_SETUP };
    let begin: Vec<u32> = if service.takes_over { tcs.to_vec() } else { vec![*first] };
    let free = if service.takes_over { Vec::new() } else { others.iter().rev().copied().collect() };
    let pool = &Pool { service, free: Mutex::new(free) };
    std::thread::scope(|scope| {
        let word = service.mapped.host.spawn_word();
        let mut seen = word.load(Ordering::Acquire);
        for tcs in begin {
            let spawned = std::thread::Builder::new().name(format!("tcs-{tcs}")).spawn_scoped(scope, move || pool.begin(tcs));
            if let Err(error) = spawned {
                eprintln!("a thread of the payload can't be started: {error}");
                std::process::exit(role::EXIT_SETUP);
            }
        }
        // Ends with the process: `Pool::end` ends it when the payload does.
        loop {
            let now = word.load(Ordering::Acquire);
            // Each bump is one LibOS thread that became ready. Too many host threads do no harm: they are refused and end.
            for _ in 0..now.wrapping_sub(seen).min(tcs.len() as u32) {
                let Some(tcs) = pool.free().pop() else { break };
                let spawned = std::thread::Builder::new().name(format!("tcs-{tcs}")).spawn_scoped(scope, move || pool.work(tcs));
                if let Err(error) = spawned {
                    eprintln!("a thread of the payload has to wait: no host thread can be started: {error}");
                    pool.free().push(tcs);
                    break;
                }
            }
            seen = now;
            let _ = futex::wait(word, futex::Flags::empty(), seen, None);
        }
    })
}

/// TCSs that nobody uses now.
struct Pool<'a> {
    service: Service<'a>,
    free: Mutex<Vec<u32>>,
}

impl Pool<'_> {
    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first thing that this process does with a TCS.
    fn begin(&self, tcs: u32) {
        let Service { mapped, descriptors, broker, takes_over, .. } = self.service;
        if takes_over {
            let end = mapped.take_over(tcs, descriptors, broker);
            if end != End::Idle {
                self.end(&end);
            }
        }
        self.work(tcs);
    }

    /// Runs LibOS threads on this TCS as long as one is ready.
    fn work(&self, mut tcs: u32) {
        let Service { mapped, descriptors, broker, .. } = self.service;
        let word = mapped.host.spawn_word();
        loop {
            let seen = word.load(Ordering::Acquire);
            match mapped.run(tcs, enter::START, 0, descriptors, broker) {
                // Its thread ended or waits for a container. Another may have become ready while no TCS was free.
                End::Idle => {}
                End::Refused(refused::NO_THREAD) => {
                    self.free().push(tcs);
                    // One that became ready since was perhaps looked after while nothing was free.
                    if word.load(Ordering::Acquire) == seen {
                        return;
                    }
                    let Some(free) = self.free().pop() else { return };
                    tcs = free;
                }
                end => self.end(&end),
            }
        }
    }

    /// The payload has come to its end.
    fn end(&self, end: &End) -> ! {
        // It was told to shut down.
        if *end == End::PayloadExit(0) {
            std::process::exit(0);
        }
        eprintln!("the payload's process ends: {end}");
        std::process::exit(end.status())
    }
}
