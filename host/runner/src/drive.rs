//! Takes a thread into the enclave, serves its calls and exceptions, and brings it out again.

use std::fmt;

use teemate_abi::host_area::MAILBOX_DATA;
use teemate_abi::transition::{EXCEPTION_EPC_FULL, EXCEPTION_REFLECT, RETURN_DONE, RETURN_LOST, enter, exit, refused};

use crate::calls::Calls;
use crate::host::MailboxRef;
use crate::reaper::Found;
use crate::role;

/// How a thread came out of the enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// EEXIT.
    Exit {
        /// RDI.
        reason: u64,
        /// RSI.
        argument: u64,
    },
    /// AEX that the enclave must look at.
    Exception {
        /// x86 vector.
        vector: u8,
        /// Error code.
        error: u32,
        /// Address of a page fault.
        address: u64,
    },
    /// AEX by an access for which there is no EPC page left.
    EpcFull,
    /// AEX for the host's own reasons.
    Interrupted,
}

/// EENTER and ERESUME of one TCS.
pub trait Transition {
    /// EENTER.
    fn enter(&mut self, reason: u64, a: u64, b: u64) -> Result<Left, String>;
    /// ERESUME.
    fn resume(&mut self) -> Result<Left, String>;
    /// SSA frames in use: above 0 the thread was inside when it stopped. `None`: the device can't tell.
    fn cssa(&self) -> Option<u32>;
}

/// What became of a TCS.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing runs on it any more.
    Idle,
    /// The LibOS refused the entry (`teemate_abi::transition::refused`).
    Refused(u64),
    /// The payload ended with this status.
    PayloadExit(i32),
    /// The LibOS or the payload cannot go on.
    Panic(String),
    /// The device failed.
    Device(String),
}

impl End {
    /// For a process that has no other purpose than this TCS.
    pub fn status(&self) -> i32 {
        match self {
            End::Idle => role::EXIT_IDLE,
            End::Refused(why) => role::EXIT_REFUSED + (*why).min(15) as i32,
            End::PayloadExit(_) => role::EXIT_PAYLOAD,
            End::Panic(_) => role::EXIT_PANIC,
            End::Device(_) => role::EXIT_DEVICE,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Idle => f.write_str("its thread has ended"),
            End::Refused(why) => write!(f, "the LibOS refused the entry: {}", refusal(*why)),
            End::PayloadExit(status) => write!(f, "the payload ended with status {status}"),
            End::Panic(message) => write!(f, "the enclave can't go on: {message}"),
            End::Device(message) => write!(f, "the enclave device failed: {message}"),
        }
    }
}

/// In words.
fn refusal(why: u64) -> &'static str {
    match why {
        refused::REASON => "unknown reason",
        refused::NO_THREAD => "no thread is ready",
        refused::NO_WORKER => "no worker waits for a container",
        refused::OCALL_PENDING => "a call of this TCS is not answered yet",
        refused::NO_OCALL => "no call of this TCS is pending",
        refused::CSSA => "the TCS is in another state",
        refused::DEAD => "the payload has ended",
        _ => "a reason that this program doesn't know",
    }
}

/// EENTER with `reason`, then everything until the TCS is idle or nothing can go on.
pub fn run(thread: &mut impl Transition, calls: &Calls<'_>, tcs: u32, mailbox: MailboxRef, reason: u64, argument: u64) -> End {
    let left = thread.enter(reason, argument, 0);
    follow(thread, calls, tcs, mailbox, left)
}

/// Brings the thread of a killed process to its end. A call that had its reply when the process died gets it. `tell` hears at once how the
/// thread was found: its end may be a long time off.
pub fn adopt(thread: &mut impl Transition, calls: &Calls<'_>, tcs: u32, mailbox: MailboxRef, tell: impl FnOnce(Found)) -> (End, Found) {
    let (found, left) = if thread.cssa().is_some_and(|cssa| cssa != 0) {
        (Found::Inside, None)
    } else {
        match thread.enter(enter::RETURN, if mailbox.is_answered() { RETURN_DONE } else { RETURN_LOST }, 0) {
            Ok(Left::Exit { reason: exit::REFUSED, argument: refused::NO_OCALL }) => (Found::Idle, None),
            // A device that can't tell: the LibOS can.
            Ok(Left::Exit { reason: exit::REFUSED, argument: refused::CSSA }) => (Found::Inside, None),
            left => (Found::InCall, Some(left)),
        }
    };
    tell(found);
    let end = match (found, left) {
        (Found::Idle, _) => End::Idle,
        (_, Some(left)) => follow(thread, calls, tcs, mailbox, left),
        (_, None) => {
            let left = thread.resume();
            match follow(thread, calls, tcs, mailbox, left) {
                // It was killed while it asked for something to run, and there was nothing.
                End::Refused(refused::NO_THREAD | refused::NO_WORKER | refused::NO_OCALL) => End::Idle,
                end => end,
            }
        }
    };
    (end, found)
}

fn follow(thread: &mut impl Transition, calls: &Calls<'_>, tcs: u32, mailbox: MailboxRef, first: Result<Left, String>) -> End {
    let mut left = first;
    loop {
        left = match left {
            Err(message) => return End::Device(message),
            Ok(Left::Exit { reason: exit::OCALL, .. }) => {
                calls.serve(tcs, mailbox);
                thread.enter(enter::RETURN, RETURN_DONE, 0)
            }
            Ok(Left::Exit { reason: exit::IDLE, .. }) => return End::Idle,
            Ok(Left::Exit { reason: exit::RESUME, .. }) | Ok(Left::Interrupted) => thread.resume(),
            Ok(Left::Exit { reason: exit::REFUSED, argument }) => return End::Refused(argument),
            Ok(Left::Exit { reason: exit::PAYLOAD_EXIT, argument }) => return End::PayloadExit(argument as i32),
            Ok(Left::Exit { reason: exit::PANIC, argument }) => return End::Panic(message(mailbox, argument)),
            Ok(Left::Exit { reason, .. }) => return End::Device(format!("the enclave left with the unknown reason {reason}")),
            Ok(Left::EpcFull) => thread.enter(enter::EXCEPTION, EXCEPTION_EPC_FULL, 0),
            Ok(Left::Exception { .. }) => thread.enter(enter::EXCEPTION, EXCEPTION_REFLECT, 0),
        };
    }
}

/// Text of the enclave's, for a terminal or a log: bounded, without control characters.
fn message(mailbox: MailboxRef, length: u64) -> String {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(2048).min(MAILBOX_DATA);
    sanitised(&mailbox.copy(0, length).unwrap_or_default())
}

/// Bytes as text that can be printed anywhere.
pub fn sanitised(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::descriptors::Descriptors;
    use crate::host::HostArea;
    use std::collections::VecDeque;

    struct Script {
        steps: VecDeque<(&'static str, Left)>,
        cssa: Option<u32>,
    }

    impl Script {
        fn step(&mut self, what: String) -> Result<Left, String> {
            let (expected, left) = self.steps.pop_front().ok_or_else(|| format!("unexpected {what}"))?;
            assert_eq!(what, expected);
            Ok(left)
        }
    }

    impl Transition for Script {
        fn enter(&mut self, reason: u64, a: u64, _: u64) -> Result<Left, String> {
            self.step(format!("enter {reason} {a}"))
        }
        fn resume(&mut self) -> Result<Left, String> {
            self.step("resume".to_owned())
        }
        fn cssa(&self) -> Option<u32> {
            self.cssa
        }
    }

    fn with(cssa: Option<u32>, steps: &[(&'static str, Left)], act: impl FnOnce(&mut Script, &Calls<'_>, MailboxRef)) {
        let (board, host, descriptors) =
            (Board::create().unwrap(), HostArea::stand_in(1), Descriptors::of_container(crate::descriptors::new_kick().unwrap()));
        let calls = Calls { board: &board, host, descriptors: &descriptors, broker: None };
        let mut script = Script { steps: steps.iter().copied().collect(), cssa };
        act(&mut script, &calls, host.mailbox(0).unwrap());
        assert!(script.steps.is_empty(), "left over: {:?}", script.steps);
    }

    const fn out(reason: u64, argument: u64) -> Left {
        Left::Exit { reason, argument }
    }

    #[test]
    fn a_container_calls_faults_and_ends() {
        let steps = [
            ("enter 2 77", out(exit::OCALL, 0)),
            ("enter 3 0", Left::Interrupted),
            ("resume", Left::Exception { vector: 6, error: 0, address: 0 }),
            ("enter 4 0", out(exit::RESUME, 0)),
            ("resume", Left::EpcFull),
            ("enter 4 1", out(exit::RESUME, 0)),
            ("resume", out(exit::IDLE, 0)),
        ];
        with(None, &steps, |script, calls, mailbox| {
            assert_eq!(run(script, calls, 0, mailbox, enter::CONTAINER, 77), End::Idle);
            assert_eq!(calls.board.ocalls()[0], 1, "the unknown call 0 was counted");
        });
    }

    #[test]
    fn orphans_are_adopted_in_every_state() {
        let lost = "enter 3 1";
        for (cssa, steps, expected) in [
            (Some(1), vec![("resume", out(exit::IDLE, 0))], (End::Idle, Found::Inside)),
            (Some(1), vec![("resume", out(exit::REFUSED, refused::NO_THREAD))], (End::Idle, Found::Inside)),
            (Some(1), vec![("resume", out(exit::REFUSED, refused::NO_WORKER))], (End::Idle, Found::Inside)),
            (Some(1), vec![("resume", out(exit::REFUSED, refused::DEAD))], (End::Refused(refused::DEAD), Found::Inside)),
            (Some(0), vec![(lost, out(exit::REFUSED, refused::NO_OCALL))], (End::Idle, Found::Idle)),
            (Some(0), vec![(lost, out(exit::OCALL, 0)), ("enter 3 0", out(exit::IDLE, 0))], (End::Idle, Found::InCall)),
            (None, vec![(lost, out(exit::REFUSED, refused::CSSA)), ("resume", out(exit::IDLE, 0))], (End::Idle, Found::Inside)),
            (None, vec![(lost, out(exit::REFUSED, refused::DEAD))], (End::Refused(refused::DEAD), Found::InCall)),
        ] {
            with(cssa, &steps, |script, calls, mailbox| {
                assert_eq!(adopt(script, calls, 0, mailbox, |found| assert_eq!(found, expected.1)), expected)
            });
        }
    }

    #[test]
    fn a_reply_that_was_complete_is_not_lost() {
        let steps = [("enter 3 0", out(exit::OCALL, 0)), ("enter 3 0", out(exit::IDLE, 0))];
        with(Some(0), &steps, |script, calls, mailbox| {
            mailbox.reply(0, 5);
            assert!(!mailbox.is_answered());
            mailbox.call_as(7);
            assert!(!mailbox.is_answered());
            mailbox.reply(7, 5);
            assert_eq!(adopt(script, calls, 0, mailbox, |_| {}), (End::Idle, Found::InCall));
        });
    }

    #[test]
    fn a_panic_is_bounded_and_printable() {
        with(None, &[("enter 1 0", out(exit::PANIC, u64::MAX))], |script, calls, mailbox| {
            mailbox.fill(b"bad\x1b[31m thing");
            let End::Panic(text) = run(script, calls, 0, mailbox, enter::START, 0) else { panic!("no panic") };
            assert!(text.starts_with("bad\u{fffd}[31m thing") && text.chars().count() <= 2048);
        });
    }

    #[test]
    fn an_unknown_reason_ends_the_thread() {
        with(None, &[("enter 1 0", out(99, 0))], |script, calls, mailbox| {
            assert!(matches!(run(script, calls, 0, mailbox, enter::START, 0), End::Device(_)));
        });
    }
}
