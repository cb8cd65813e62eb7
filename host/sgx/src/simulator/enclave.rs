//! The node's handle of a simulated enclave: sharing, EDMM, counters.

use std::{
    collections::HashMap,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use teemate_abi::{host_area, layout::PAGE_SIZE, ocall::edmm};

use super::{
    epcm::{Refusal, Word},
    guard::{Guard, KillCounts, Rule},
    memory::Memory,
    process, signals,
};
use crate::device::{Counters, DeviceKind, Enclave, EpcUsage, Error, TcsState};

/// How long a shootdown waits for a process.
const SHOOTDOWN_LIMIT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 10_000;

/// An enclave of the simulator.
pub struct SimulatedEnclave {
    memory: Arc<Memory>,
    guard: Arc<Guard>,
    /// By which the guard knows it.
    number: u64,
    /// Processes that `guard` was called for, by host pid: whom a shootdown asks.
    attached: Mutex<HashMap<i32, OwnedFd>>,
}

impl SimulatedEnclave {
    pub(super) fn new(memory: Arc<Memory>, guard: Arc<Guard>) -> Result<Self, Error> {
        crate::clock::keep(&memory, Memory::header);
        let number = guard.show(&memory)?;
        Ok(SimulatedEnclave { memory, guard, number, attached: Mutex::default() })
    }

    /// Kills by what they hit.
    pub fn kills(&self) -> KillCounts {
        KillCounts::read(&self.memory.shared())
    }

    /// Busy and CSSA of a TCS.
    pub fn tcs_state(&self, tcs: u32) -> Option<TcsState> {
        let shared = self.memory.shared();
        let state = shared.record(tcs as u64)?.state.load(SeqCst);
        Some(TcsState { busy: state & 1 != 0, cssa: (state >> 32) as u32 })
    }

    /// A copy of enclave memory, as a debugger would read it. The simulator protects nothing.
    pub fn peek(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        // SAFETY: copied at once; a race with the enclave gives torn data, which is what reading another process's memory gives.
        unsafe { self.memory.enclave_bytes(address, length) }.map(|bytes| bytes.to_vec())
    }

    /// For tests: see [`Guard::kill_after`].
    #[doc(hidden)]
    pub fn kill_after(&self, pid: i32, instructions: u64) {
        let _ = self.guard.kill_after(pid, instructions);
    }

    /// Frees the entry of a dead process; the guard's work.
    fn forget(&self, pid: i32) {
        if let Ok(mut attached) = self.attached.lock() {
            attached.remove(&pid);
        }
    }

    fn change(&self, page: u64, leaf: &'static str, rule: impl Fn(Word) -> Result<Word, Refusal>) -> Result<(), Error> {
        let address = teemate_abi::layout::ELRANGE_BASE + page * PAGE_SIZE;
        let refused = |why| Error::Leaf { leaf, address, why };
        let shared = self.memory.shared();
        let word = shared.word(page).ok_or_else(|| refused("the page is outside ELRANGE"))?;
        for _ in 0..ATTEMPTS {
            let now = Word(word.load(SeqCst));
            let next = rule(now).map_err(|refusal| match refusal {
                Refusal::Host(why) => refused(why),
                _ => refused("the page is not in a state for this"),
            })?;
            if word.compare_exchange(now.0, next.0, SeqCst, SeqCst).is_ok() {
                shared.changed(page);
                return Ok(());
            }
        }
        Err(refused("the enclave changes the page all the time"))
    }

    /// Makes every attached process drop rights that the EPCM does not give any more; then the pages count as tracked.
    fn shootdown(&self, first: u64, count: u64) -> Result<(), Error> {
        let shared = self.memory.shared();
        let wanted = shared.secs().revocations.fetch_add(1, SeqCst) + 1;
        let deadline = Instant::now() + SHOOTDOWN_LIMIT;
        let mut waiting = Vec::new();
        if let Ok(mut attached) = self.attached.lock() {
            attached.retain(|pid, pidfd| {
                let Some(entry) = entry_of(*pid).filter(|entry| *entry < super::shared::PROCESS_COUNT) else {
                    return !gone(pidfd);
                };
                if send(pidfd, signals::shootdown_signal()) {
                    waiting.push((*pid, entry));
                    true
                } else {
                    false
                }
            });
        }
        for (pid, entry) in waiting {
            let Some(entry) = shared.process(entry) else { continue };
            while entry.acknowledged.load(SeqCst) < wanted {
                let alive = self.attached.lock().is_ok_and(|attached| attached.get(&pid).is_some_and(|pidfd| !gone(pidfd)));
                if !alive {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Error::Unsupported(format!(
                        "process {pid} did not give up its mapping within {SHOOTDOWN_LIMIT:?}; is it stopped? End it"
                    )));
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        for page in first..first + count {
            let Some(word) = shared.word(page) else { break };
            for _ in 0..ATTEMPTS {
                let now = Word(word.load(SeqCst));
                if word.compare_exchange(now.0, now.tracked().0, SeqCst, SeqCst).is_ok() {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Drop for SimulatedEnclave {
    fn drop(&mut self) {
        self.guard.forget(self.number);
    }
}

impl Enclave for SimulatedEnclave {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Simulator
    }

    fn mrenclave(&self) -> [u8; 32] {
        self.memory.shared().identity().mrenclave
    }

    fn tcs_count(&self) -> u32 {
        self.memory.shared().identity().tcs_count as u32
    }

    fn share(&self) -> Result<Vec<OwnedFd>, Error> {
        let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(|source| Error::System { what: "dup", source, hint: "raise `ulimit -n`" });
        self.memory.fds.iter().map(duplicate).collect()
    }

    fn epc(&self) -> EpcUsage {
        let shared = self.memory.shared();
        EpcUsage { pages: shared.epc_pages(), limit: shared.secs().epc_limit.load(Relaxed) }
    }

    fn charged_pages(&self, tcs: u32) -> u64 {
        let address = host_area::slot(tcs) + host_area::SLOT_MAILBOX + std::mem::offset_of!(host_area::Mailbox, charged_pages) as u64;
        let bytes = if tcs < self.tcs_count() { self.memory.host_bytes(address, 8) } else { None };
        bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn counters(&self) -> Counters {
        let shared = self.memory.shared();
        let kills = self.kills();
        let mut counters = Counters {
            eaug: shared.eaug(),
            eremove: shared.secs().eremove.load(Relaxed),
            killed_inside: kills.by(Rule::Inside) + kills.by(Rule::InsideSyscall),
            killed_entering: kills.by(Rule::Entering) + kills.by(Rule::Resuming),
            killed_in_leaf: kills.by(Rule::LeafBefore) + kills.by(Rule::LeafAfter),
            killed_in_exit: kills.by(Rule::HandlerInside) + kills.by(Rule::HandlerTransition),
            ..Counters::default()
        };
        for record in shared.records() {
            counters.eenter += record.eenter.load(Relaxed);
            counters.eexit += record.eexit.load(Relaxed);
            counters.aex += record.aex.load(Relaxed);
            counters.eresume += record.eresume.load(Relaxed);
        }
        counters
    }

    fn edmm(&self, operation: u64, address: u64, length: u64, permissions: u64) -> Result<u64, Error> {
        let leaf = match operation {
            edmm::RESTRICT => "EMODPR",
            edmm::TRIM => "EMODT",
            edmm::REMOVE => "EREMOVE",
            _ => return Err(Error::Leaf { leaf: "EDMM", address, why: "no such operation" }),
        };
        let refused = |why| Error::Leaf { leaf, address, why };
        let shared = self.memory.shared();
        if !address.is_multiple_of(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE) || length == 0 {
            return Err(refused("address and length are not whole pages"));
        }
        let first = shared.page_of(address).ok_or_else(|| refused("the range is outside ELRANGE"))?;
        let count = length / PAGE_SIZE;
        if count > shared.page_count() - first {
            return Err(refused("the range ends outside ELRANGE"));
        }
        let mut done = 0;
        let mut error = None;
        for page in first..first + count {
            let changed = match operation {
                edmm::RESTRICT => {
                    let rights = u8::try_from(permissions).map_err(|_| refused("no such permissions"))?;
                    self.change(page, leaf, |word| word.emodpr(rights))
                }
                edmm::TRIM => self.change(page, leaf, Word::trim),
                _ => self.change(page, leaf, Word::remove).and_then(|()| {
                    shared.secs().epc_pages.fetch_sub(1, Relaxed);
                    shared.secs().eremove.fetch_add(1, Relaxed);
                    self.memory.punch(page)
                }),
            };
            if let Err(why) = changed {
                error = Some(why);
                break;
            }
            done += 1;
        }
        if operation != edmm::REMOVE && done > 0 {
            self.shootdown(first, done)?;
        }
        match error {
            Some(error) if done == 0 => Err(error),
            _ => Ok(done * PAGE_SIZE),
        }
    }

    fn guard(&self, pid: i32) -> Result<(), Error> {
        let pidfd = pidfd_open(pid)?;
        self.guard.seize(pid, self.number)?;
        if let Ok(mut attached) = self.attached.lock() {
            attached.retain(|_, pidfd| !gone(pidfd));
            attached.insert(pid, pidfd);
        }
        Ok(())
    }

    fn wait_saved(&self, pid: i32) -> Result<(), Error> {
        let result = self.guard.wait_saved(pid);
        self.forget(pid);
        result
    }
}

fn pidfd_open(pid: i32) -> Result<OwnedFd, Error> {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(process::system("pidfd_open", "the process is gone, or `ulimit -n` is too small"));
    }
    // SAFETY: new, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn send(pidfd: &OwnedFd, signal: i32) -> bool {
    // SAFETY: no siginfo is passed.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) == 0 }
}

fn gone(pidfd: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one local pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

/// Which entry a process has claimed; none before its first thread.
pub(super) fn entry_of(pid: i32) -> Option<usize> {
    let mut own = 0u64;
    let local = libc::iovec { iov_base: (&raw mut own).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: process::PROCESS_PAGE as *mut _, iov_len: 8 };
    // SAFETY: writes eight bytes to `own`.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    if read == 8 { own.checked_sub(1).map(|index| index as usize) } else { None }
}
