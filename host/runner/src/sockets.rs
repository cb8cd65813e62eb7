//! Sockets and epoll, by number: the system calls that a payload's server needs. Who may use which number is decided before.

use std::io::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use teemate_abi::ocall::{ADDRESS, EPOLL_EVENT, EPOLL_EVENTS_MAX, KICKED};

use crate::host::{self, MailboxRef, Reply, errno, value_or_errno};

/// Events that the enclave may ask for.
const EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET | libc::EPOLLONESHOT) as u32;

/// Accepts a connection: the next one if `wait`, else one that is there.
pub fn accept(listener: RawFd, wait: bool) -> Result<(OwnedFd, [u8; ADDRESS])> {
    loop {
        let mut address = [0u8; size_of::<libc::sockaddr_storage>()];
        let mut length = address.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes of the address, and its length.
        let fd = unsafe { libc::accept4(listener, address.as_mut_ptr().cast(), &raw mut length, libc::SOCK_CLOEXEC) };
        if fd >= 0 {
            // SAFETY: accept4 made this descriptor for us.
            return Ok((unsafe { OwnedFd::from_raw_fd(fd) }, plain(&address)));
        }
        match Error::last_os_error() {
            error if error.kind() == std::io::ErrorKind::Interrupted => {}
            error if error.kind() == std::io::ErrorKind::WouldBlock && wait => {
                host::poll(vec![libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 }], -1, Some);
            }
            error => return Err(error),
        }
    }
}

/// An address as a reply has it.
fn plain(address: &[u8]) -> [u8; ADDRESS] {
    let mut plain = [0; ADDRESS];
    let length = match i32::from(u16::from_ne_bytes([address[0], address[1]])) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => 0,
    };
    plain[..length].copy_from_slice(&address[..length]);
    plain
}

/// getsockname(2), into the mailbox.
pub fn name(mailbox: MailboxRef, fd: RawFd) -> Reply {
    let mut address = [0u8; size_of::<libc::sockaddr_storage>()];
    let mut length = address.len() as libc::socklen_t;
    // SAFETY: as in `accept`.
    match unsafe { libc::getsockname(fd, address.as_mut_ptr().cast(), &raw mut length) } {
        0 => {
            mailbox.fill(&plain(&address));
            0
        }
        value => value_or_errno(value.into()),
    }
}

/// SO_ERROR: its value.
pub fn error(fd: RawFd) -> Reply {
    let (mut value, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes an integer, and its length.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut value).cast(), &raw mut length) } {
        0 => value.into(),
        failed => value_or_errno(failed.into()),
    }
}

/// setsockopt(2) with an integer.
pub fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> Reply {
    // SAFETY: the kernel reads an integer.
    value_or_errno(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t) }.into())
}

/// An epoll instance that `kick` wakes: each write of it is an edge, so that nobody has to read it.
pub fn epoll(kick: RawFd) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: epoll_create1 made this descriptor for us.
    let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
    match control(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, kick, (libc::EPOLLIN | libc::EPOLLET) as u32, KICKED) {
        0 => Ok(epoll),
        failed => Err(Error::from_raw_os_error(-failed as i32)),
    }
}

/// epoll_ctl(2).
pub fn epoll_control(epoll: RawFd, operation: i32, fd: RawFd, events: u32, index: u64) -> Reply {
    control(epoll, operation, fd, events & EVENTS, index)
}

fn control(epoll: RawFd, operation: i32, fd: RawFd, events: u32, index: u64) -> Reply {
    let mut event = libc::epoll_event { events, u64: index };
    // SAFETY: the kernel reads one event.
    value_or_errno(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }.into())
}

/// epoll_wait(2), into the mailbox.
pub fn epoll_wait(mailbox: MailboxRef, epoll: RawFd, most: usize, timeout_ms: u64) -> Reply {
    const { assert!(size_of::<libc::epoll_event>() == EPOLL_EVENT) };
    if most == 0 || most > EPOLL_EVENTS_MAX {
        return errno(libc::EINVAL);
    }
    let timeout_ms = i32::try_from(timeout_ms as i64).unwrap_or(-1);
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; most];
    // SAFETY: the kernel writes at most `most` events, for which there is room.
    let reply = value_or_errno(unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), most as i32, timeout_ms) }.into());
    let mut bytes = Vec::with_capacity(reply.max(0) as usize * EPOLL_EVENT);
    for event in events.iter().take(reply.max(0) as usize) {
        let (events, index) = (event.events, event.u64);
        bytes.extend_from_slice(&events.to_le_bytes());
        bytes.extend_from_slice(&index.to_le_bytes());
    }
    mailbox.fill(&bytes);
    reply
}

/// Wakes every instance of [`epoll`] with this `kick`.
pub fn ring(kick: RawFd) -> Reply {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the kernel reads eight bytes.
    match value_or_errno(unsafe { libc::write(kick, one.as_ptr().cast(), one.len()) } as i64) {
        0.. => 0,
        failed => failed,
    }
}
