//! The host area, by address, and the system calls that work on its bytes. All of this crate's raw pointers to shared memory are here.
//!
//! No Rust reference to a mailbox's data exists anywhere: other processes, and the enclave, may write it at any time. Bytes are copied
//! in or out, or given to the kernel as a pointer.

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use teemate_abi::host_area::{self, MAILBOX_DATA, Mailbox};

/// A result as the mailbox carries it: a value, or minus an errno.
pub type Reply = i64;

/// Minus this errno.
pub const fn errno(number: i32) -> Reply {
    -(number as i64)
}

/// The host area of this process.
#[derive(Clone, Copy)]
pub struct HostArea {
    base: NonNull<u8>,
    slots: u32,
}

// SAFETY: a HostArea is an address; every access through it is atomic, volatile, or made by the kernel.
unsafe impl Send for HostArea {}
// SAFETY: as above.
unsafe impl Sync for HostArea {}

impl HostArea {
    /// The one at its fixed address.
    ///
    /// # Safety
    /// An enclave's attachment has mapped it, for so many slots, and it stays mapped for the rest of this process's life.
    pub unsafe fn mapped(slots: u32) -> Option<HostArea> {
        NonNull::new(host_area::BASE as *mut u8).map(|base| HostArea { base, slots })
    }

    /// Memory that stands in for it.
    #[cfg(test)]
    pub fn stand_in(slots: u32) -> HostArea {
        let words = host_area::size(slots) as usize / 4096;
        let memory: &'static mut [Page] = Box::leak((0..words).map(|_| Page([0; 4096])).collect());
        HostArea { base: NonNull::from(memory).cast(), slots }
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: callers pass offsets of aligned words inside the area, which stays mapped (see `mapped`).
        unsafe { self.base.byte_add(offset as usize).cast::<AtomicU32>().as_ref() }
    }

    /// A park word.
    pub fn park_word(&self, index: u64) -> Option<&AtomicU32> {
        const { assert!(host_area::PARK_WORDS + host_area::PARK_COUNT * host_area::PARK_STRIDE <= host_area::SLOTS) };
        (index < host_area::PARK_COUNT).then(|| self.word(host_area::PARK_WORDS - host_area::BASE + index * host_area::PARK_STRIDE))
    }

    /// The word that is bumped when a LibOS thread wants a host thread.
    pub fn spawn_word(&self) -> &AtomicU32 {
        self.word(std::mem::offset_of!(host_area::Header, spawn) as u64)
    }

    /// The mailbox of a slot.
    pub fn mailbox(&self, slot: u32) -> Option<MailboxRef> {
        let offset = host_area::slot(slot) - host_area::BASE + host_area::SLOT_MAILBOX;
        // SAFETY: the slot exists, so the offset is within the area.
        (slot < self.slots).then(|| MailboxRef(unsafe { self.base.byte_add(offset as usize) }.cast()))
    }
}

#[cfg(test)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A mailbox, by address.
#[derive(Clone, Copy)]
pub struct MailboxRef(NonNull<Mailbox>);

/// A call as it was in the mailbox at one instant: what is checked is what is used.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// One of `teemate_abi::ocall`.
    pub number: u32,
    /// Which call of this TCS it is.
    pub sequence: u32,
    /// Arguments.
    pub args: [u64; 6],
}

impl MailboxRef {
    /// Copies the call out.
    pub fn call(self) -> Call {
        let at = self.0.as_ptr();
        // SAFETY: `at` points to a mapped mailbox (HostArea::mailbox); volatile reads of plain integers.
        unsafe {
            Call {
                number: (&raw const (*at).call).read_volatile(),
                sequence: (&raw const (*at).sequence).read_volatile(),
                args: (&raw const (*at).args).read_volatile(),
            }
        }
    }

    /// Writes the reply to the call with this number; from then on it is complete, whoever gives it to the enclave.
    pub fn reply(self, sequence: u32, value: Reply) {
        let at = self.0.as_ptr();
        // SAFETY: as in `call`; the note is an aligned integer, and shared memory of this process for good.
        unsafe {
            (&raw mut (*at).ret).write_volatile(value);
            AtomicU64::from_ptr(&raw mut (*at).answered).store(u64::from(sequence), Ordering::Release);
        }
    }

    /// Whether the call that is there has its reply.
    pub fn is_answered(self) -> bool {
        let at = self.0.as_ptr();
        // SAFETY: as in `reply`.
        let answered = unsafe { AtomicU64::from_ptr(&raw mut (*at).answered) }.load(Ordering::Acquire);
        let sequence = self.call().sequence;
        // 0 is what a TCS that never called has.
        sequence != 0 && answered == u64::from(sequence)
    }

    /// Numbers the call, as the enclave does.
    #[cfg(test)]
    pub fn call_as(self, sequence: u32) {
        // SAFETY: as in `call`.
        unsafe { (&raw mut (*self.0.as_ptr()).sequence).write_volatile(sequence) }
    }

    fn data(self) -> *mut u8 {
        // SAFETY: the field lies in the mapped mailbox; only its address is taken.
        unsafe { (&raw mut (*self.0.as_ptr()).data).cast() }
    }

    /// Copies bytes of the data out; `None` when there are not so many.
    pub fn copy(self, offset: usize, length: usize) -> Option<Vec<u8>> {
        if offset.checked_add(length)? > MAILBOX_DATA {
            return None;
        }
        let mut bytes = vec![0u8; length];
        // SAFETY: both ranges are valid for `length` bytes and do not overlap: one was just allocated.
        unsafe { std::ptr::copy_nonoverlapping(self.data().add(offset), bytes.as_mut_ptr(), length) };
        Some(bytes)
    }

    /// Copies bytes into the data; cuts them at its end. Gives how many.
    pub fn fill(self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(MAILBOX_DATA);
        // SAFETY: as in `copy`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data(), length) };
        length
    }

    /// write(2) of the data.
    pub fn write(self, fd: RawFd, length: usize) -> Reply {
        // SAFETY: the kernel reads `length` <= MAILBOX_DATA mapped bytes.
        self.checked(length, |data, length| unsafe { libc::write(fd, data.cast(), length) })
    }

    /// read(2) into the data.
    pub fn read(self, fd: RawFd, length: usize) -> Reply {
        // SAFETY: the kernel writes at most `length` <= MAILBOX_DATA mapped bytes.
        self.checked(length, |data, length| unsafe { libc::read(fd, data.cast(), length) })
    }

    /// pread(2) into the data.
    pub fn read_at(self, fd: RawFd, length: usize, offset: i64) -> Reply {
        // SAFETY: as in `read`.
        self.checked(length, |data, length| unsafe { libc::pread(fd, data.cast(), length, offset) })
    }

    /// pwrite(2) of the data.
    pub fn write_at(self, fd: RawFd, length: usize, offset: i64) -> Reply {
        // SAFETY: as in `write`.
        self.checked(length, |data, length| unsafe { libc::pwrite(fd, data.cast(), length, offset) })
    }

    /// send(2) of the data.
    pub fn send(self, fd: RawFd, length: usize, flags: i32) -> Reply {
        // SAFETY: as in `write`.
        self.checked(length, |data, length| unsafe { libc::send(fd, data.cast(), length, flags) })
    }

    /// recv(2) into the data.
    pub fn receive(self, fd: RawFd, length: usize, flags: i32) -> Reply {
        // SAFETY: as in `read`.
        self.checked(length, |data, length| unsafe { libc::recv(fd, data.cast(), length, flags) })
    }

    /// Takes the next packet off a socket and forgets it.
    pub fn discard(fd: RawFd) {
        // SAFETY: the kernel writes nothing: there is room for nothing.
        let _ = unsafe { libc::recv(fd, std::ptr::null_mut(), 0, libc::MSG_DONTWAIT) };
    }

    fn checked(self, length: usize, act: impl FnOnce(*mut u8, usize) -> isize) -> Reply {
        if length > MAILBOX_DATA {
            return errno(libc::EINVAL);
        }
        value_or_errno(act(self.data(), length) as i64)
    }
}

/// What a libc function gave: itself, or minus errno.
pub fn value_or_errno(value: i64) -> Reply {
    if value < 0 { errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { value }
}

/// poll(2). A descriptor for which `real` gives nothing is answered with POLLNVAL.
pub fn poll(entries: Vec<libc::pollfd>, timeout_ms: i32, real: impl Fn(RawFd) -> Option<RawFd>) -> (Reply, Vec<libc::pollfd>) {
    let refused = |entry: &libc::pollfd| entry.fd >= 0 && real(entry.fd).is_none();
    let bad = entries.iter().filter(|entry| refused(entry)).count() as Reply;
    let mut asked: Vec<libc::pollfd> =
        entries.iter().map(|entry| libc::pollfd { fd: if entry.fd < 0 { -1 } else { real(entry.fd).unwrap_or(-1) }, ..*entry }).collect();
    let timeout_ms = if bad > 0 { 0 } else { timeout_ms };
    // SAFETY: the kernel reads and writes `len` entries of a vector of our own.
    let ready = value_or_errno(i64::from(unsafe { libc::poll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, timeout_ms) }));
    let answer = entries
        .iter()
        .zip(asked)
        .map(|(entry, asked)| libc::pollfd { revents: if refused(entry) { libc::POLLNVAL } else { asked.revents }, ..*entry })
        .collect();
    (if ready < 0 { ready } else { ready + bad }, answer)
}

/// shutdown(2).
pub fn shutdown(fd: RawFd, how: i32) -> Reply {
    // SAFETY: no memory is involved.
    value_or_errno(i64::from(unsafe { libc::shutdown(fd, how) }))
}

/// close(2) of a descriptor that [`crate::descriptors::Descriptors`] handed over: nobody else in this process owns it.
pub fn close(fd: RawFd) -> Reply {
    // SAFETY: no memory is involved; the caller took the descriptor out of the set, so it is closed once.
    value_or_errno(i64::from(unsafe { libc::close(fd) }))
}

/// MADV_POPULATE_WRITE on pages of ELRANGE, which the caller has checked. Only a hint: errors are ignored.
pub fn prefault(start: u64, length: u64) {
    // SAFETY: MADV_POPULATE_WRITE makes pages present as a write would, and changes none; on unmapped ranges it fails.
    let _ = unsafe { libc::madvise(start as *mut libc::c_void, length as usize, libc::MADV_POPULATE_WRITE) };
}
