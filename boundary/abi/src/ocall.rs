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

/// Operations of [`EDMM`].
pub mod edmm {
    /// EMODPR: restrict to `permissions` (SECINFO R=1, W=2, X=4).
    pub const RESTRICT: u64 = 1;
    /// EMODT to PT_TRIM.
    pub const TRIM: u64 = 2;
    /// EREMOVE of trimmed and accepted pages.
    pub const REMOVE: u64 = 3;
}
