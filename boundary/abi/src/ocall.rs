//! What the enclave asks of the host. Numbers in the mailbox's `call`; `args` as each says; the reply in `ret` (minus an errno on error).
//!
//! *Repeatable* calls may be carried out twice without harm: when the process that should have answered is gone, the LibOS asks again.

/// `(park word index, expected value, timeout ns or u64::MAX)`: futex wait on a park word. 0, or ETIMEDOUT, EAGAIN, EINTR. Repeatable.
pub const PARK: u32 = 1;
/// `(park word index)`: futex wake on a park word. Repeatable.
pub const UNPARK: u32 = 2;
/// `()`: another LibOS thread is ready; give it a host thread of the service process. Repeatable.
pub const SPAWN: u32 = 3;
/// `(clock id)`: nanoseconds. Repeatable.
pub const CLOCK: u32 = 4;
/// `(fd, length)` + data: write. `ret`: bytes written.
pub const WRITE: u32 = 5;
/// `(fd, length)`: read. `ret`: bytes in the data.
pub const READ: u32 = 6;
/// `(fd, length, flags)` + data: send.
pub const SEND: u32 = 7;
/// `(fd, length, flags)`: recv.
pub const RECV: u32 = 8;
/// `(fd)`: close.
pub const CLOSE: u32 = 9;
/// `(fd, how)`: shutdown.
pub const SHUTDOWN: u32 = 10;
/// `(count, timeout ms)` + data (struct pollfd each): poll. `ret`: ready ones; data: the same array with revents. Repeatable.
pub const POLL: u32 = 11;
/// `(length)` + data `host:port`: connect by the node's broker. `ret`: fd.
pub const CONNECT: u32 = 12;
/// `(path length, offset, length)` + data path: bytes of a file of the container. `ret`: bytes in the data. Repeatable.
pub const READ_FILE: u32 = 13;
/// `(operation, address, length, permissions)`: one of [`edmm`], carried out by the node. `ret`: bytes done. Repeatable from there.
pub const EDMM: u32 = 14;
/// `(start, length)`: map these pages in one go. Only a hint. Repeatable.
pub const PREFAULT: u32 = 15;
/// `(fd, level, name, value length)` + data: setsockopt of the few options that sockets need.
pub const SETSOCKOPT: u32 = 16;
/// `(fd, wait: 0 or 1)`: accept a connection of the listener. `ret`: its descriptor; data: the peer's address, [`ADDRESS`] bytes. Repeatable:
/// a connection that was accepted by a process that is gone is gone too.
pub const ACCEPT: u32 = 17;
/// `()`: an epoll instance, which [`KICK`] wakes with the index [`KICKED`]. `ret`: its descriptor. Repeatable.
pub const EPOLL_CREATE: u32 = 18;
/// `(epoll, operation, fd, events, index)`: epoll_ctl; `index` is what comes back with an event. ESTALE when there is no such `epoll` (any more).
pub const EPOLL_CTL: u32 = 19;
/// `(epoll, most events, timeout ms or -1)`: epoll_wait. `ret`: events; data: [`EPOLL_EVENT`] bytes each, events (4) and index (8). ESTALE
/// as in [`EPOLL_CTL`].
pub const EPOLL_WAIT: u32 = 20;
/// `()`: ends the present or the next [`EPOLL_WAIT`] of each epoll instance of the service's process. Any process may ask. Repeatable.
pub const KICK: u32 = 21;
/// `(fd)`: getsockname. Data: [`ADDRESS`] bytes. Repeatable.
pub const SOCKET_NAME: u32 = 22;
/// `(fd)`: SO_ERROR. `ret`: the errno itself, which the socket then forgets.
pub const SOCKET_ERROR: u32 = 23;
/// `(path length, flags)` + data path: a file of the payload's data directory, opened by the node; flags as open(2) has them, of those in
/// [`OPEN_FLAGS`]. With O_DIRECTORY and O_CREAT a directory, which may be there already. `ret`: fd.
pub const OPEN: u32 = 24;
/// `(fd, length, offset)`: pread(2) of a file from [`OPEN`]. `ret`: bytes in the data. Repeatable.
pub const READ_AT: u32 = 25;
/// `(fd, length, offset)` + data: pwrite(2). Repeatable.
pub const WRITE_AT: u32 = 26;
/// `(fd, data only: 0 or 1)`: fsync(2) or fdatasync(2). Repeatable.
pub const SYNC: u32 = 27;
/// `(fd, length)`: ftruncate(2). Repeatable.
pub const TRUNCATE: u32 = 28;
/// `(fd)`: data: `st_mode` (4 bytes) and size (8). Repeatable.
pub const STATUS: u32 = 29;
/// `(length of the old path, length of the new one)` + data both: rename(2) in the data directory, by the node.
pub const RENAME: u32 = 30;
/// `(path length)` + data path: unlink(2) in the data directory, by the node.
pub const REMOVE: u32 = 31;

/// `(bytes of records, timeout ms or -1, a connection of earlier turns or -1)` + data: records of [`crate::turn`]: sends and closes, waits
/// until a connection of earlier turns or the listener is ready, and accepts and reads. `ret`: bytes of records in the data. Only in the
/// service's process; ESTALE when a connection is of an earlier one: then all of them are gone.
pub const TURN: u32 = 32;

/// Flags of [`OPEN`]: O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY.
pub const OPEN_FLAGS: u64 = 0o1 | 0o2 | 0o100 | 0o200 | 0o1000 | 0o200_000;
/// Longest path in the data directory.
pub const DATA_PATH_MAX: usize = 255;
/// Bytes of the reply to [`STATUS`].
pub const FILE_STATUS: usize = 12;

/// Numbers of descriptors that the host makes on demand (CONNECT, ACCEPT, EPOLL_CREATE, OPEN) are at least this; below are those that it gave.
pub const DESCRIPTOR_FIRST: i32 = 64;
/// Bytes of an address in a reply: a `struct sockaddr_in` or `sockaddr_in6`, zeroes behind it; all zeroes for another family.
pub const ADDRESS: usize = 28;
/// Bytes of one event in the reply to [`EPOLL_WAIT`]: Linux's packed `struct epoll_event`.
pub const EPOLL_EVENT: usize = 12;
/// Most events of one [`EPOLL_WAIT`].
pub const EPOLL_EVENTS_MAX: usize = 1024;
/// The index of no descriptor: somebody called [`KICK`].
pub const KICKED: u64 = u64::MAX;

/// Operations of [`EDMM`].
pub mod edmm {
    /// EMODPR: restrict to `permissions` (SECINFO R=1, W=2, X=4).
    pub const RESTRICT: u64 = 1;
    /// EMODT to PT_TRIM.
    pub const TRIM: u64 = 2;
    /// EREMOVE of trimmed and accepted pages.
    pub const REMOVE: u64 = 3;
}
