//! The board: one memfd that the node and all container processes of one zygote map.
//!
//! It carries what is not the enclave's business: the word that lets a container enter, requests to the node for dynamic memory,
//! counters and time stamps. The node believes nothing of it: what it reads here are hints for people, and operands that it checks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;
use teemate_abi::layout::TCS_MAX;

use crate::reaper::Found;

/// Slots: one for each TCS that an image may have.
pub const SLOTS: u32 = TCS_MAX;
/// Kinds of OCALL that are counted; numbers beyond count as kind 0.
pub const OCALL_KINDS: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"TMBOARD3");
/// A wait without end is made of waits of this length.
const LONG: Duration = Duration::from_secs(3600);

/// Time stamps that a container's process leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stamp {
    /// First instruction of the process.
    ProcessStarted = 0,
    /// Namespaces, root and cgroup are as they shall be.
    ContainerReady = 1,
    /// The enclave is mapped.
    EnclaveMapped = 2,
    /// About to enter.
    Entered = 3,
}

/// All stamps, in the order in which they happen.
pub const STAMPS: [Stamp; 4] = [Stamp::ProcessStarted, Stamp::ContainerReady, Stamp::EnclaveMapped, Stamp::Entered];

/// States of [`Slot::edmm`].
mod edmm_state {
    /// Nothing asked.
    pub const NONE: u32 = 0;
    /// The runner asks.
    pub const ASKED: u32 = 1;
    /// The node is at it.
    pub const TAKEN: u32 = 2;
    /// The reply is there.
    pub const DONE: u32 = 3;
}

/// A request for dynamic memory, as a runner wrote it: an allegation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdmmRequest {
    /// `teemate_abi::ocall::edmm`.
    pub operation: u64,
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// SECINFO bits.
    pub permissions: u64,
}

/// The call that a container is let in for, as the node wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Id that the enclave gave the container; 0: none, the container is not needed and ends.
    pub container: u64,
    /// Whether it may ask for connections.
    pub broker: bool,
}

/// What is kept of one TCS.
#[repr(C, align(512))]
pub struct Slot {
    /// 0: wait. The lease's own number (never 0): enter for `container`.
    go: AtomicU32,
    broker: AtomicU32,
    container: AtomicU64,
    edmm: AtomicU32,
    edmm_args: [AtomicU64; 4],
    edmm_reply: AtomicI64,
    stamps: [AtomicU64; STAMPS.len()],
    ocalls: [AtomicU64; OCALL_KINDS],
    /// Times that a process which took over found a thread here: idle, in a call, inside.
    found: [AtomicU64; 3],
}

#[repr(C)]
struct Layout {
    magic: AtomicU64,
    /// Bumped and woken when a slot asks for dynamic memory.
    bell: AtomicU32,
    /// One bit a slot: asks for dynamic memory.
    asking: [AtomicU64; (SLOTS / 64) as usize],
    slots: [Slot; SLOTS as usize],
}

const SIZE: usize = size_of::<Layout>().next_multiple_of(4096);

/// A mapping of a board.
pub struct Board {
    at: NonNull<Layout>,
    fd: OwnedFd,
}

// SAFETY: everything in a Layout is atomic, and the mapping lives until the drop.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// A new, empty one. Its size can't be changed by whoever gets the descriptor.
    pub fn create() -> std::io::Result<Board> {
        let fd = rustix::fs::memfd_create("teemate-board", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, SIZE as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let board = Board::map(fd)?;
        board.layout().magic.store(MAGIC, Ordering::Release);
        Ok(board)
    }

    /// One that another process made.
    pub fn open(fd: OwnedFd) -> std::io::Result<Board> {
        let stat = rustix::fs::fstat(&fd)?;
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        if stat.st_size != SIZE as i64 || !seals.contains(SealFlags::SHRINK) {
            return Err(std::io::Error::other("this descriptor is not a board: its size is wrong or not sealed"));
        }
        let board = Board::map(fd)?;
        if board.layout().magic.load(Ordering::Acquire) != MAGIC {
            return Err(std::io::Error::other("this descriptor is not a board: the magic number is missing"));
        }
        Ok(board)
    }

    fn map(fd: OwnedFd) -> std::io::Result<Board> {
        // SAFETY: a new mapping at an address that the kernel chooses; the file has SIZE bytes and is sealed against shrinking.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0) }?;
        let at = NonNull::new(at.cast()).ok_or_else(|| std::io::Error::other("mmap gave a null pointer"))?;
        Ok(Board { at, fd })
    }

    /// The descriptor, for another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn layout(&self) -> &Layout {
        // SAFETY: `at` points to SIZE mapped bytes until the drop, page-aligned (so more than Slot's 512); all zero is a valid Layout,
        // and so is everything else, for every field is an atomic integer.
        unsafe { self.at.as_ref() }
    }

    /// A slot; `None` when there is no such TCS.
    pub fn slot(&self, tcs: u32) -> Option<&Slot> {
        self.layout().slots.get(tcs as usize)
    }

    /// Before a TCS is leased: no stamp, no leave to enter, no request.
    pub fn reset(&self, tcs: u32) {
        let Some(slot) = self.slot(tcs) else { return };
        slot.go.store(0, Ordering::Relaxed);
        slot.edmm.store(edmm_state::NONE, Ordering::Release);
        for stamp in &slot.stamps {
            stamp.store(0, Ordering::Relaxed);
        }
    }

    /// Lets the process with the lease of this number enter, for this call.
    pub fn let_in(&self, tcs: u32, number: u32, guest: Guest) {
        let Some(slot) = self.slot(tcs) else { return };
        slot.container.store(guest.container, Ordering::Relaxed);
        slot.broker.store(guest.broker.into(), Ordering::Relaxed);
        slot.go.store(number, Ordering::Release);
        let _ = futex::wake(&slot.go, futex::Flags::empty(), 1);
    }

    /// Waits for [`Board::let_in`]; `None` when it does not come in time. Without a limit it waits as long as the process lives.
    pub fn wait_for_leave(&self, tcs: u32, number: u32, limit: Option<Duration>) -> Option<Guest> {
        let slot = self.slot(tcs)?;
        // Most often the node is done before us, or a few microseconds later: a sleep would cost more.
        for _ in 0..200 {
            if slot.go.load(Ordering::Acquire) == number {
                break;
            }
            std::hint::spin_loop();
        }
        while !wait_until(&slot.go, limit.unwrap_or(LONG), |value| value == number) {
            if limit.is_some() {
                return None;
            }
        }
        Some(Guest { container: slot.container.load(Ordering::Relaxed), broker: slot.broker.load(Ordering::Relaxed) != 0 })
    }

    /// Leaves a time stamp.
    pub fn stamp(&self, tcs: u32, stamp: Stamp) {
        self.stamp_at(tcs, stamp, now_ns());
    }

    /// Leaves a time stamp that was taken earlier.
    pub fn stamp_at(&self, tcs: u32, stamp: Stamp, at_ns: u64) {
        if let Some(slot) = self.slot(tcs) {
            slot.stamps[stamp as usize].store(at_ns, Ordering::Release);
        }
    }

    /// The stamps that are there.
    pub fn stamps(&self, tcs: u32) -> impl Iterator<Item = (Stamp, u64)> {
        let slot = self.slot(tcs);
        STAMPS.into_iter().filter_map(move |stamp| {
            let at = slot?.stamps[stamp as usize].load(Ordering::Acquire);
            (at != 0).then_some((stamp, at))
        })
    }

    /// Counts an OCALL.
    pub fn count(&self, tcs: u32, call: u32) {
        if let Some(slot) = self.slot(tcs) {
            let kind = if (call as usize) < OCALL_KINDS { call as usize } else { 0 };
            slot.ocalls[kind].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes how a process that took over found this thread.
    pub fn note_found(&self, tcs: u32, found: Found) {
        if let Some(slot) = self.slot(tcs) {
            slot.found[found.index()].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Threads that were taken over, by [`Found::index`].
    pub fn found(&self) -> [u64; 3] {
        let mut sum = [0u64; 3];
        for slot in &self.layout().slots {
            for (total, count) in sum.iter_mut().zip(&slot.found) {
                *total = total.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        sum
    }

    /// OCALLs by kind, over all slots.
    pub fn ocalls(&self) -> [u64; OCALL_KINDS] {
        let mut sum = [0u64; OCALL_KINDS];
        for slot in &self.layout().slots {
            for (total, count) in sum.iter_mut().zip(&slot.ocalls) {
                *total = total.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        sum
    }

    /// Asks the node for dynamic memory and waits for its answer: bytes done, or minus an errno.
    pub fn ask_edmm(&self, tcs: u32, request: EdmmRequest, limit: Duration) -> i64 {
        let refused = -i64::from(libc::EINVAL);
        let Some(slot) = self.slot(tcs) else { return refused };
        let values = [request.operation, request.address, request.length, request.permissions];
        for (word, value) in slot.edmm_args.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        slot.edmm.store(edmm_state::ASKED, Ordering::Release);
        self.layout().asking[(tcs / 64) as usize].fetch_or(1 << (tcs % 64), Ordering::AcqRel);
        self.ring();
        if !wait_until(&slot.edmm, limit, |value| value == edmm_state::DONE) {
            slot.edmm.store(edmm_state::NONE, Ordering::Release);
            return -i64::from(libc::ETIMEDOUT);
        }
        let reply = slot.edmm_reply.load(Ordering::Acquire);
        slot.edmm.store(edmm_state::NONE, Ordering::Release);
        reply
    }

    /// Wakes the node's thread in [`Board::wait_for_requests`].
    pub fn ring(&self) {
        self.layout().bell.fetch_add(1, Ordering::AcqRel);
        let _ = futex::wake(&self.layout().bell, futex::Flags::empty(), i32::MAX as u32);
    }

    /// Node: what the bell shows now, for [`Board::wait_for_requests`].
    pub fn bell(&self) -> u32 {
        self.layout().bell.load(Ordering::Acquire)
    }

    /// Node: waits until the bell shows something else than `seen`, at most `limit`.
    pub fn wait_for_requests(&self, seen: u32, limit: Duration) {
        let _ = wait_until(&self.layout().bell, limit, |value| value != seen);
    }

    /// Node: carries out each request that is there; `act` gives the reply.
    pub fn serve_requests(&self, mut act: impl FnMut(u32, EdmmRequest) -> i64) {
        for (word, bits) in self.layout().asking.iter().enumerate() {
            let mut set = bits.swap(0, Ordering::AcqRel);
            while set != 0 {
                let tcs = word as u32 * 64 + set.trailing_zeros();
                set &= set - 1;
                let Some(slot) = self.slot(tcs) else { continue };
                let state = (edmm_state::ASKED, edmm_state::TAKEN);
                if slot.edmm.compare_exchange(state.0, state.1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    continue;
                }
                let [operation, address, length, permissions] =
                    [0, 1, 2, 3].map(|index: usize| slot.edmm_args[index].load(Ordering::Relaxed));
                let reply = act(tcs, EdmmRequest { operation, address, length, permissions });
                slot.edmm_reply.store(reply, Ordering::Release);
                // Fails when the slot was reset meanwhile: its process is gone, and nobody waits.
                let state = (edmm_state::TAKEN, edmm_state::DONE);
                if slot.edmm.compare_exchange(state.0, state.1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    let _ = futex::wake(&slot.edmm, futex::Flags::empty(), 1);
                }
            }
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; no reference outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), SIZE) };
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Waits on a word that other processes change until `done` holds; false at the limit.
fn wait_until(word: &AtomicU32, limit: Duration, done: impl Fn(u32) -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        let value = word.load(Ordering::Acquire);
        if done(value) {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = futex::Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        let _ = futex::wait(word, futex::Flags::empty(), value, Some(&timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_request_gets_its_reply() {
        let board = Arc::new(Board::create().unwrap());
        let node = Arc::clone(&board);
        let server = std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(5);
            let mut served = 0;
            while served < 3 && Instant::now() < end {
                let seen = node.bell();
                node.serve_requests(|tcs, request| {
                    served += 1;
                    i64::from(tcs) + request.length as i64
                });
                if served < 3 {
                    node.wait_for_requests(seen, Duration::from_millis(100));
                }
            }
        });
        for tcs in [0, 65, SLOTS - 1] {
            let request = EdmmRequest { operation: 1, address: 2, length: 4096, permissions: 3 };
            assert_eq!(board.ask_edmm(tcs, request, Duration::from_secs(5)), 4096 + i64::from(tcs));
        }
        assert_eq!(board.ask_edmm(SLOTS, EdmmRequest { operation: 0, address: 0, length: 0, permissions: 0 }, Duration::ZERO), -22);
        server.join().unwrap();
    }

    #[test]
    fn a_second_mapping_sees_the_same() {
        let board = Board::create().unwrap();
        let other = Board::open(board.fd().try_clone_to_owned().unwrap()).unwrap();
        board.reset(7);
        let (soon, guest) = (Some(Duration::from_millis(1)), Guest { container: u64::MAX, broker: true });
        assert_eq!(other.wait_for_leave(7, 9, soon), None);
        board.let_in(7, 9, guest);
        assert_eq!(other.wait_for_leave(7, 9, soon), Some(guest));
        assert_eq!(other.wait_for_leave(7, 9, None), Some(guest));
        assert_eq!(other.wait_for_leave(7, 10, soon), None, "another container's leave must not count");
        other.stamp(7, Stamp::Entered);
        assert_eq!(board.stamps(7).map(|(stamp, _)| stamp).collect::<Vec<_>>(), [Stamp::Entered]);
        other.count(7, 3);
        other.count(7, u32::MAX);
        assert_eq!((board.ocalls()[3], board.ocalls()[0]), (1, 1));
    }

    #[test]
    fn a_foreign_descriptor_is_refused() {
        let fd = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Board::open(fd).is_err());
    }
}
