//! Data files of the payload, by descriptor: what is done with one that the node has opened.

use std::os::fd::{BorrowedFd, RawFd};

use crate::host::{MailboxRef, Reply, errno, value_or_errno};

/// fdatasync(2) if the data are enough, else fsync(2).
pub fn sync(fd: RawFd, data_only: bool) -> Reply {
    // SAFETY: no memory is involved.
    value_or_errno(unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } }.into())
}

/// ftruncate(2).
pub fn truncate(fd: RawFd, size: i64) -> Reply {
    // SAFETY: no memory is involved.
    value_or_errno(unsafe { libc::ftruncate(fd, size) }.into())
}

/// Type, mode and size, into the mailbox (`teemate_abi::ocall::STATUS`).
pub fn status(mailbox: MailboxRef, fd: RawFd) -> Reply {
    // SAFETY: the descriptor is in the set of those that the enclave may use: it stays open during this call unless the enclave closes it
    // meanwhile, and then the kernel says so.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // By rustix, which calls fstat(2) itself: the C library's goes by newfstatat(2), which a container's filter does not know.
    match rustix::fs::fstat(fd) {
        Ok(status) => {
            let size = status.st_size.to_le_bytes();
            mailbox.fill(&status.st_mode.to_le_bytes().into_iter().chain(size).collect::<Vec<u8>>());
            0
        }
        Err(error) => errno(error.raw_os_error()),
    }
}
