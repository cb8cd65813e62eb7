//! Time stamps and outcomes of starting containers, in memory that node, zygote and container share.
//!
//! A container writes only its own slot, with code of this crate, and unmaps the ring before its body runs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::protocol::Stage;

/// Containers of one zygote that may exist at once.
pub(crate) const SLOTS: u32 = 4096;

pub(crate) const PENDING: u32 = 0;
pub(crate) const READY: u32 = 1;
pub(crate) const FAILED: u32 = 2;

/// One container's line. All zero is "pending".
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct Slot {
    pub status: AtomicU32,
    pub stage: AtomicU32,
    pub errno: AtomicU32,
    pub first_ns: AtomicU64,
    pub ready_ns: AtomicU64,
}

impl Slot {
    pub(crate) fn clear(&self) {
        self.stage.store(0, Ordering::Relaxed);
        self.errno.store(0, Ordering::Relaxed);
        self.first_ns.store(0, Ordering::Relaxed);
        self.ready_ns.store(0, Ordering::Relaxed);
        self.status.store(PENDING, Ordering::Release);
    }

    /// Publish the outcome and wake a waiting node.
    pub(crate) fn finish(&self, status: u32) {
        self.status.store(status, Ordering::Release);
        // A failed wake only delays the node until its next look.
        let _ = rustix::thread::futex::wake(&self.status, rustix::thread::futex::Flags::empty(), 1);
    }

    pub(crate) fn fail(&self, stage: Stage, errno: i32) {
        self.stage.store(stage as u32, Ordering::Relaxed);
        self.errno.store(errno.unsigned_abs(), Ordering::Relaxed);
        self.finish(FAILED);
    }
}

/// The mapping.
pub(crate) struct Ring {
    address: *mut Slot,
    slots: u32,
}

// SAFETY: the ring is memory full of atomics; the pointer is never used to unmap while borrowed (`Drop` and `unmap` need ownership).
unsafe impl Send for Ring {}
// SAFETY: as above; shared access goes through atomics only.
unsafe impl Sync for Ring {}

impl Ring {
    /// New memory for the ring.
    pub(crate) fn create() -> io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create("teemate-starts", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, u64::from(SLOTS) * size_of::<Slot>() as u64)?;
        // Nobody can shorten it below a mapping (SIGBUS).
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(fd)
    }

    pub(crate) fn map(fd: impl AsFd) -> io::Result<Self> {
        let bytes = SLOTS as usize * size_of::<Slot>();
        let size = rustix::fs::fstat(&fd)?.st_size;
        if u64::try_from(size).ok() != Some(bytes as u64) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ring of time stamps has another size"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file has the mapped size and cannot shrink.
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0) }?;
        Ok(Self { address: address.cast(), slots: SLOTS })
    }

    pub(crate) fn slot(&self, index: u32) -> Option<&Slot> {
        if index >= self.slots {
            return None;
        }
        // SAFETY: in bounds of the mapping, which lives as long as `self`; a slot is atomics, valid for any bytes, page-aligned base.
        Some(unsafe { &*self.address.add(index as usize) })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `map`, and no borrow of a slot outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.address.cast(), self.slots as usize * size_of::<Slot>()) };
    }
}
