//! Sockets: the listener that the host gives, connections that come by it or by the node's broker. What comes through them is the host's
//! word, and so are addresses.

use alloc::vec::Vec;

use teemate_abi::ocall::ADDRESS;

use crate::files::{self, File, Kind, LISTEN_FD, Target};
use crate::{SysResult, container, ocall, user};

/// Most entries of poll(2).
const POLL_MAX: u64 = 64;

/// The address of a peer, by the host's word: IPv4 or IPv6. Any other family, and nonsense, is 0.0.0.0:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    bytes: [u8; ADDRESS],
    length: usize,
}

impl Address {
    /// As the host wrote it.
    pub fn from_host(mut bytes: [u8; ADDRESS]) -> Address {
        let length = match i32::from(u16::from_le_bytes([bytes[0], bytes[1]])) {
            libc::AF_INET6 => ADDRESS,
            libc::AF_INET => 16,
            _ => {
                bytes = [0; ADDRESS];
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_le_bytes());
                16
            }
        };
        bytes[length..].fill(0);
        Address { bytes, length }
    }

    /// Stores it as Linux does: cut to the room that there is, with the whole length.
    fn store(&self, address: u64, length: u64) -> Result<(), i32> {
        if address == 0 {
            return Ok(());
        }
        let room = user::read::<u32>(length)? as usize;
        let count = room.min(self.length);
        user::bytes_mut(address, count as u64)?.copy_from_slice(&self.bytes[..count]);
        user::write(length, self.length as u32)
    }
}

/// accept(2) and accept4(2).
pub fn accept(fd: u64, address: u64, length: u64, flags: u64) -> SysResult {
    let nonblocking = libc::SOCK_NONBLOCK as u64;
    if flags & !(nonblocking | libc::SOCK_CLOEXEC as u64) != 0 {
        return Err(libc::EINVAL);
    }
    let listener = files::get(fd)?;
    let Target::Standard(LISTEN_FD) = listener else { return Err(libc::EINVAL) };
    if address != 0 {
        user::check(length, 4, true)?;
        user::check(address, u64::from(user::read::<u32>(length)?).min(ADDRESS as u64), true)?;
    }
    let (host, peer) = ocall::accept(LISTEN_FD, !listener.nonblocking())?;
    let peer = Address::from_host(peer);
    let number = files::insert(socket(host, peer, flags & nonblocking != 0)?)?;
    peer.store(address, length)?;
    Ok(number)
}

/// A descriptor that the host made for a call just now.
fn socket(host: i32, peer: Address, nonblocking: bool) -> Result<File, i32> {
    files::claim(container::current(), host)?;
    Ok(File::new(Kind::Socket { fd: host, peer }, nonblocking))
}

/// The syscall CONNECT.
pub fn connect(address: u64, length: u64) -> SysResult {
    if length > 512 {
        return Err(libc::EINVAL);
    }
    let address = Vec::from(user::bytes(address, length)?);
    let host = ocall::connect(&address)?;
    // Who answers for this name is the broker's business.
    files::insert(socket(host, Address::from_host([0; ADDRESS]), false)?)
}

/// shutdown(2).
pub fn shutdown(fd: u64, how: u64) -> SysResult {
    ocall::shutdown(files::get(fd)?.host()?, how).map(|()| 0)
}

/// getpeername(2): what the host said when the connection came.
pub fn peer_name(fd: u64, address: u64, length: u64) -> SysResult {
    match files::get(fd)? {
        Target::File(file) => match &file.kind {
            Kind::Socket { peer, .. } => peer.store(address, length).map(|()| 0),
            _ => Err(libc::ENOTSOCK),
        },
        Target::Standard(_) => Err(libc::ENOTCONN),
    }
}

/// getsockname(2).
pub fn name(fd: u64, address: u64, length: u64) -> SysResult {
    let host = files::get(fd)?.host()?;
    user::check(length, 4, true)?;
    Address::from_host(ocall::socket_name(host)?).store(address, length).map(|()| 0)
}

/// setsockopt(2): the timeouts and TCP_NODELAY that std sets.
pub fn set_option(fd: u64, level: u64, name: u64, value: u64, length: u64) -> SysResult {
    if length > 64 {
        return Err(libc::EINVAL);
    }
    let fd = files::get(fd)?.host()?;
    ocall::set_option(fd, level, name, user::bytes(value, length)?).map(|()| 0)
}

/// getsockopt(2): what a socket is, which is known here, and SO_ERROR, which the host knows.
pub fn option(fd: u64, level: u64, name: u64, value: u64, length: u64) -> SysResult {
    let target = files::get(fd)?;
    let host = target.host()?;
    let listens = matches!(target, Target::Standard(LISTEN_FD));
    let answer = match (level as i32, name as i32) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => ocall::socket_error(host)?,
        (libc::SOL_SOCKET, libc::SO_TYPE) if matches!(target, Target::Standard(3)) => libc::SOCK_SEQPACKET,
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => i32::from(listens),
        _ => return Err(libc::ENOPROTOOPT),
    };
    if user::read::<u32>(length)? < 4 {
        return Err(libc::EINVAL);
    }
    user::write(value, answer as u32)?;
    user::write(length, 4u32)?;
    Ok(0)
}

/// poll(2) on descriptors of the host; one that is none is POLLNVAL.
pub fn poll(address: u64, count: u64, timeout_ms: u64) -> SysResult {
    if count > POLL_MAX {
        return Err(libc::EINVAL);
    }
    let entries = user::bytes_mut(address, count * 8)?;
    let mut copy = [0u8; 8 * POLL_MAX as usize];
    let copy = &mut copy[..entries.len()];
    copy.copy_from_slice(entries);
    let number = |entry: &[u8]| i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
    // std asks at its start whether 0, 1 and 2 are open: no need to leave for that.
    if timeout_ms == 0 && copy.chunks_exact(8).all(|entry| (0..3).contains(&number(entry))) {
        entries.chunks_exact_mut(8).for_each(|entry| entry[6..8].fill(0));
        return Ok(0);
    }
    let mut wrong = 0;
    for entry in copy.chunks_exact_mut(8) {
        let fd = number(entry);
        let host = if fd < 0 { None } else { files::get(fd as u64).and_then(|target| target.host()).ok() };
        wrong += u64::from(fd >= 0 && host.is_none());
        entry[..4].copy_from_slice(&host.unwrap_or(-1).to_ne_bytes());
    }
    let ready = ocall::poll(copy, if wrong > 0 { 0 } else { timeout_ms })?;
    for (mine, answer) in entries.chunks_exact_mut(8).zip(copy.chunks_exact(8)) {
        let invalid = number(mine) >= 0 && number(answer) < 0;
        let events = if invalid { libc::POLLNVAL.to_ne_bytes() } else { [answer[6], answer[7]] };
        mine[6..8].copy_from_slice(&events);
    }
    Ok(ready as u64 + wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host says who called: its word may be wrong, but it is always an address.
    #[test]
    fn a_lying_address_is_an_address() {
        let given = |family: i32| {
            let mut bytes = [0x77; ADDRESS];
            bytes[..2].copy_from_slice(&(family as u16).to_le_bytes());
            bytes
        };
        let v6 = Address::from_host(given(libc::AF_INET6));
        assert_eq!((v6.length, v6.bytes), (28, given(libc::AF_INET6)));
        let v4 = Address::from_host(given(libc::AF_INET));
        assert_eq!((v4.length, &v4.bytes[2..16], &v4.bytes[16..]), (16, &[0x77; 14][..], &[0; 12][..]));
        for lie in [libc::AF_UNIX, 0, 0xffff] {
            let none = Address::from_host(given(lie));
            assert_eq!((none.length, none.bytes[0], &none.bytes[2..]), (16, libc::AF_INET as u8, &[0; 26][..]), "{lie}");
        }
    }
}
