//! The payload's own threads: a host thread, with a TCS of its own, for each LibOS thread that is ready to run.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::thread::futex;
use teemate_abi::transition::{enter, refused};

use crate::body::Mapped;
use crate::descriptors::Descriptors;
use crate::drive::End;
use crate::role;
use crate::sockets;

/// Runs the payload until it ends. `shared`: containers in processes of their own work for it. Gives the process's exit status.
pub fn serve(mapped: &Mapped, tcs: &[u32], descriptors: &Descriptors, broker: Option<BorrowedFd<'_>>, shared: bool) -> i32 {
    let mut free: Vec<u32> = tcs.iter().rev().copied().collect();
    let Some(first) = free.pop() else { return role::EXIT_SETUP };
    let service = Service { mapped, descriptors, broker, free: Mutex::new(free) };
    std::thread::scope(|scope| {
        let word = mapped.host.spawn_word();
        let mut seen = word.load(Ordering::Acquire);
        let service = &service;
        let kicks = std::thread::Builder::new().name("kick".to_owned());
        if shared && let Err(error) = kicks.spawn_scoped(scope, || pass_kicks_on(mapped, descriptors)) {
            eprintln!("nobody can pass on what wakes the payload's threads: {error}");
            std::process::exit(role::EXIT_SETUP);
        }
        let spawned = std::thread::Builder::new().name("main".to_owned()).spawn_scoped(scope, move || service.work(first));
        if let Err(error) = spawned {
            eprintln!("the payload's first thread can't be started: {error}");
            std::process::exit(role::EXIT_SETUP);
        }
        // Ends with the process: `Service::work` ends it when the payload does.
        loop {
            let now = word.load(Ordering::Acquire);
            // Each bump is one LibOS thread that became ready. Too many host threads do no harm: they are refused and end.
            for _ in 0..now.wrapping_sub(seen).min(tcs.len() as u32) {
                let Some(tcs) = service.free().pop() else { break };
                let spawned = std::thread::Builder::new().name(format!("tcs-{tcs}")).spawn_scoped(scope, move || service.work(tcs));
                if let Err(error) = spawned {
                    eprintln!("a thread of the payload has to wait: no host thread can be started: {error}");
                    service.free().push(tcs);
                    break;
                }
            }
            seen = now;
            let _ = futex::wait(word, futex::Flags::empty(), seen, None);
        }
    })
}

/// Other processes share memory with this one and no descriptors: what they want awake is asked for by a word, and waits on a descriptor.
fn pass_kicks_on(mapped: &Mapped, descriptors: &Descriptors) {
    let Some(service) = descriptors.service() else { return };
    let word = mapped.host.kick_word();
    // As if it had just changed: what was asked of an earlier process counts for this one.
    let mut seen = word.load(Ordering::Acquire).wrapping_sub(1);
    loop {
        let now = word.load(Ordering::Acquire);
        if now != seen {
            seen = now;
            sockets::ring(service.kick());
        } else {
            let _ = futex::wait(word, futex::Flags::empty(), seen, None);
        }
    }
}

struct Service<'a> {
    mapped: &'a Mapped,
    descriptors: &'a Descriptors,
    /// Only for a payload with one call at a time: questions and answers on it are not told apart.
    broker: Option<BorrowedFd<'a>>,
    free: Mutex<Vec<u32>>,
}

impl Service<'_> {
    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs LibOS threads on this TCS as long as one is ready.
    fn work(&self, tcs: u32) {
        loop {
            match self.mapped.run(tcs, enter::START, 0, self.descriptors, self.broker) {
                // Its thread ended or waits for a container. Another may have become ready while no TCS was free.
                End::Idle => {}
                End::Refused(refused::NO_THREAD) => break,
                // It was told to shut down.
                End::PayloadExit(0) => std::process::exit(0),
                end => {
                    let status = end.status();
                    eprintln!("the payload's process ends: {end}");
                    std::process::exit(status);
                }
            }
        }
        self.free().push(tcs);
    }
}
