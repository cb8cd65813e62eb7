//! Data files of the payload, by descriptor: what is done with one that the node has opened.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use crate::host::{MailboxRef, Reply, value_or_errno};

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
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel writes one `stat`.
    let reply = value_or_errno(unsafe { libc::fstat(fd, status.as_mut_ptr()) }.into());
    // SAFETY: plain data, for which zeroes are a value too.
    let status = unsafe { status.assume_init() };
    mailbox.fill(&status.st_mode.to_le_bytes().into_iter().chain(status.st_size.to_le_bytes()).collect::<Vec<u8>>());
    reply
}
