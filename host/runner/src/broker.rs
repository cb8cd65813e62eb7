//! Connections for containers, which have no network: a container asks over a socket of its own, the node answers with a descriptor.
//!
//! A question is one packet, `host:port`. An answer is one packet, an errno (0: none) as four bytes, with the descriptor beside it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};

/// Longest address.
pub const ADDRESS_MAX: usize = 512;

/// Container: asks, and waits for the answer.
pub fn ask(socket: BorrowedFd<'_>, address: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| send(socket, address, SendFlags::NOSIGNAL)).map_err(|_| Errno::CONNRESET)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 4];
    let received =
        rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let connection = fds.by_ref().flatten().next();
    match (received.bytes, i32::from_le_bytes(bytes), connection) {
        (4, 0, Some(connection)) => Ok(connection),
        (4, number, _) if number > 0 => Err(Errno::from_raw_os_error(number)),
        _ => Err(Errno::CONNRESET),
    }
}

/// Node: the next question; `None` when the container is gone.
pub fn next(socket: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Errno> {
    let mut bytes = vec![0u8; ADDRESS_MAX + 1];
    let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()))?;
    bytes.truncate(length);
    Ok((length > 0).then_some(bytes))
}

/// Node: the answer to the last question.
pub fn answer(socket: BorrowedFd<'_>, answer: Result<OwnedFd, Errno>) -> Result<(), Errno> {
    use std::os::fd::AsFd;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let number = answer.as_ref().map_or_else(|error| error.raw_os_error(), |_| 0).to_le_bytes();
    let fds: Vec<BorrowedFd<'_>> = answer.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&number)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}
