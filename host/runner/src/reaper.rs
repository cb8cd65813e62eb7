//! Adopts the threads of killed processes; and what node and reaper say to each other, a packet each.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};

use crate::body::{Entering, Mapped};
use crate::calls::Calls;
use crate::descriptors::Descriptors;
use crate::drive::{self, End};
use crate::role;

/// Threads that are adopted at one time; the others wait.
const AT_ONCE: usize = 64;

/// Node to reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take over the thread of a killed process.
    Adopt {
        /// Its TCS.
        tcs: u32,
    },
}

/// Reaper to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It serves.
    Ready,
    /// The thread came to its end, or to the wait for another container: the TCS is idle.
    Adopted {
        /// Which.
        tcs: u32,
        /// How the TCS was found.
        found: Found,
    },
    /// It could not be brought to an end. The TCS must not be leased again.
    Stuck {
        /// Which.
        tcs: u32,
        /// The runner's exit status for it.
        status: i32,
    },
}

/// How an orphaned TCS was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Idle: the process had not entered, or had left for good.
    Idle,
    /// Outside, in a call to the host.
    InCall,
    /// Inside: it was resumed from its SSA frame.
    Inside,
}

impl Found {
    /// For counters: idle, in a call, inside.
    pub fn index(self) -> usize {
        match self {
            Found::Idle => 0,
            Found::InCall => 1,
            Found::Inside => 2,
        }
    }
}

/// For the wire.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap_or_default()
}

/// From the wire.
pub fn decode<M: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<M> {
    postcard::from_bytes(bytes).ok()
}

/// Serves the node until it closes its end. Gives the process's exit status.
pub fn serve(mapped: &Mapped, socket: &OwnedFd, kick: OwnedFd) -> i32 {
    // Nothing of the dead containers' is open here: calls on their descriptors fail, as they would after their death.
    let descriptors = &Descriptors::of_container(kick);
    let running = AtomicUsize::new(0);
    if report(socket, Report::Ready).is_err() {
        return role::EXIT_SETUP;
    }
    std::thread::scope(|scope| {
        let mut buffer = [0u8; 64];
        loop {
            let length = match rustix::io::retry_on_intr(|| recv(socket, &mut buffer[..], RecvFlags::empty())) {
                Ok((0, _)) | Err(_) => return,
                Ok((length, _)) => length,
            };
            let Some(Command::Adopt { tcs }) = decode(buffer.get(..length).unwrap_or_default()) else {
                eprintln!("the reaper got what is no command");
                continue;
            };
            let running = &running;
            let work = move || {
                let message = adopt(mapped, descriptors, tcs);
                if report(socket, message).is_err() {
                    std::process::exit(role::EXIT_SETUP);
                }
                running.fetch_sub(1, Ordering::AcqRel);
            };
            let room = running.fetch_add(1, Ordering::AcqRel) < AT_ONCE;
            // Without room, or without a thread, the next command waits: `work` is small enough to be made twice.
            if !room || std::thread::Builder::new().name(format!("adopt-{tcs}")).spawn_scoped(scope, work).is_err() {
                work();
            }
        }
    });
    role::EXIT_IDLE
}

fn report(socket: &OwnedFd, report: Report) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| send(socket, &encode(&report), SendFlags::NOSIGNAL)).map(|_| ())
}

fn adopt(mapped: &Mapped, descriptors: &Descriptors, tcs: u32) -> Report {
    mapped.attachment.sync();
    let calls = Calls { board: &mapped.board, host: mapped.host, descriptors, broker: None };
    let (Some(mailbox), Ok(thread)) = (mapped.host.mailbox(tcs), mapped.attachment.thread(tcs)) else {
        return Report::Stuck { tcs, status: role::EXIT_SETUP };
    };
    match drive::adopt(&mut Entering(thread), &calls, tcs, mailbox, |_| {}) {
        (End::Idle, found) => Report::Adopted { tcs, found },
        (end, _) => {
            eprintln!("TCS {tcs} can't be adopted: {end}");
            Report::Stuck { tcs, status: end.status() }
        }
    }
}
