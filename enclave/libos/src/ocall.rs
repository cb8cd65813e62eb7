//! Asking the host. The one place that reads what the host wrote.

use teemate_abi::host_area::MAILBOX_DATA;
use teemate_abi::ocall as number;
use teemate_abi::transition::RETURN_DONE;

use crate::{entry, local::Local};

/// The process that should have answered is gone, and the call must not be made twice.
#[derive(Debug)]
pub struct Lost;

/// The service's channel.
const CHANNEL: i32 = 3;

/// Most bytes of data that one call carries.
pub const MAX_DATA: usize = MAILBOX_DATA;

/// One call. The pieces of `send` are copied out; after it the host's `ret`, unchecked: each caller below says what it may be.
fn once(call: u32, args: [u64; 6], send: &[&[u8]]) -> Result<i64, Lost> {
    let local = Local::current();
    let mailbox = local.mailbox();
    let Some(thread) = local.thread() else { crate::end::stop() };
    // SAFETY: the mailbox is outside ELRANGE at a constant place and `send` fits (callers cut to MAX_DATA). The thread's XSTATE page is
    // its own. `switch_ocall` comes back on this stack when the host has answered.
    let outcome = unsafe {
        debug_assert!(send.iter().map(|piece| piece.len()).sum::<usize>() <= MAX_DATA);
        local.calls = local.calls.wrapping_add(1);
        (&raw mut (*mailbox).call).write_volatile(call);
        (&raw mut (*mailbox).sequence).write_volatile(local.calls);
        (&raw mut (*mailbox).args).write_volatile(args);
        let mut to: *mut u8 = (&raw mut (*mailbox).data).cast();
        for piece in send {
            core::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            to = to.add(piece.len());
        }
        entry::save_xstate(thread.xstate);
        let outcome = entry::switch_ocall();
        entry::restore_xstate(thread.xstate);
        outcome
    };
    if outcome != RETURN_DONE {
        return Err(Lost);
    }
    // SAFETY: as above; read once.
    Ok(unsafe { (&raw const (*mailbox).ret).read_volatile() })
}

/// A call that may be made again until somebody answers.
fn again(call: u32, args: [u64; 6], send: &[&[u8]]) -> i64 {
    loop {
        if let Ok(ret) = once(call, args, send) {
            return ret;
        }
    }
}

/// Checks a `ret` that should be a count up to `max`, or an errno.
fn count(ret: i64, max: usize) -> Result<usize, i32> {
    match ret {
        0.. if ret as u64 <= max as u64 => Ok(ret as usize),
        -4095..=-1 => Err(-ret as i32),
        _ => Err(libc::EIO),
    }
}

/// Copies data of the reply in, from `offset` on: until this thread's next call they are there.
pub fn take(offset: usize, into: &mut [u8]) {
    let mailbox = Local::current().mailbox();
    if offset.checked_add(into.len()).is_none_or(|end| end > MAX_DATA) {
        crate::end::panic(format_args!("a reply is read beyond its end"));
    }
    // SAFETY: the range lies in the mailbox's data, as was just checked; the host may write meanwhile, which can only garble bytes that it
    // chose anyway.
    unsafe { core::ptr::copy_nonoverlapping((&raw const (*mailbox).data).cast::<u8>().add(offset), into.as_mut_ptr(), into.len()) }
}

/// Waits until the park word `index` differs from `expected`, for at most `timeout_ns`. Returns early whenever the host likes.
pub fn park(index: u32, expected: u32, timeout_ns: u64) {
    // A wait that is lost with its process is a spurious wake-up.
    let _ = once(number::PARK, [u64::from(index), u64::from(expected), timeout_ns, 0, 0, 0], &[]);
}

/// Wakes who waits on a park word.
pub fn unpark(index: u32) {
    again(number::UNPARK, [u64::from(index), 0, 0, 0, 0, 0], &[]);
}

/// Asks for a host thread for a LibOS thread that is ready.
pub fn spawn() {
    again(number::SPAWN, [0; 6], &[]);
}

/// CLOCK_MONOTONIC or CLOCK_REALTIME as the host has it, nanoseconds.
pub fn clock(id: u64) -> u64 {
    again(number::CLOCK, [id, 0, 0, 0, 0, 0], &[]).max(0) as u64
}

/// write(2) or send(2) of these pieces, at most [`MAX_DATA`] bytes, on a descriptor of the host. A send that is lost with its process is a
/// broken connection; but the channel outlives the process, and its other end knows a packet that comes twice.
pub fn send(fd: i32, pieces: &[&[u8]], flags: Option<u64>) -> Result<usize, i32> {
    let length = pieces.iter().map(|piece| piece.len()).sum();
    let call = if flags.is_some() { number::SEND } else { number::WRITE };
    let args = [fd as u64, length as u64, flags.unwrap_or(0), 0, 0, 0];
    let ret = match once(call, args, pieces) {
        Ok(ret) => ret,
        Err(Lost) if fd == CHANNEL => again(call, args, pieces),
        Err(Lost) => return Err(libc::EPIPE),
    };
    count(ret, length)
}

/// read(2) or recv(2) of at most `length` bytes on a descriptor of the host; [`take`] has them. What comes is the host's word.
pub fn receive(fd: i32, length: usize, flags: Option<u64>) -> Result<usize, i32> {
    let length = length.min(MAX_DATA);
    let call = if flags.is_some() { number::RECV } else { number::READ };
    // A receive that is lost with its process took nothing that anybody knows of: ask the new process. Connections went with the old one;
    // from the channel the host takes nothing before its reply is complete.
    let ret = again(call, [fd as u64, length as u64, flags.unwrap_or(0), 0, 0, 0], &[]);
    count(ret, length)
}

/// close(2), shutdown(2).
pub fn close(fd: i32) {
    let _ = once(number::CLOSE, [fd as u64, 0, 0, 0, 0, 0], &[]);
}

/// shutdown(2).
pub fn shutdown(fd: i32, how: u64) -> Result<(), i32> {
    count(once(number::SHUTDOWN, [fd as u64, how, 0, 0, 0, 0], &[]).map_err(|Lost| libc::ENOTCONN)?, 0).map(|_| ())
}

/// setsockopt(2).
pub fn set_option(fd: i32, level: u64, name: u64, value: &[u8]) -> Result<(), i32> {
    let ret = once(number::SETSOCKOPT, [fd as u64, level, name, value.len() as u64, 0, 0], &[value]).map_err(|Lost| libc::EBADF)?;
    count(ret, 0).map(|_| ())
}

/// poll(2) on an array of struct pollfd; `revents` come back in it.
pub fn poll(fds: &mut [u8], timeout_ms: u64) -> Result<usize, i32> {
    let ret = again(number::POLL, [(fds.len() / 8) as u64, timeout_ms, 0, 0, 0, 0], &[&*fds]);
    let ready = count(ret, fds.len() / 8)?;
    let mut answer = [0u8; 8 * 64];
    let answer = &mut answer[..fds.len()];
    take(0, answer);
    for (mine, theirs) in fds.chunks_exact_mut(8).zip(answer.chunks_exact(8)) {
        mine[6..8].copy_from_slice(&theirs[6..8]);
    }
    Ok(ready)
}

/// A connection that the node makes. The host's descriptor.
pub fn connect(address: &[u8]) -> Result<i32, i32> {
    let ret = once(number::CONNECT, [address.len() as u64, 0, 0, 0, 0, 0], &[address]).map_err(|Lost| libc::ECONNREFUSED)?;
    count(ret, i32::MAX as usize).map(|fd| fd as i32)
}

/// A connection of the listener, and the other end's address. `wait`: until there is one. EIO for a number that is no descriptor's.
pub fn accept(fd: i32, wait: bool) -> Result<(i32, [u8; number::ADDRESS]), i32> {
    let ret = again(number::ACCEPT, [fd as u64, u64::from(wait), 0, 0, 0, 0], &[]);
    let accepted = count(ret, i32::MAX as usize)? as i32;
    let mut address = [0; number::ADDRESS];
    take(0, &mut address);
    Ok((accepted, address))
}

/// getsockname(2).
pub fn socket_name(fd: i32) -> Result<[u8; number::ADDRESS], i32> {
    count(again(number::SOCKET_NAME, [fd as u64, 0, 0, 0, 0, 0], &[]), 0)?;
    let mut address = [0; number::ADDRESS];
    take(0, &mut address);
    Ok(address)
}

/// SO_ERROR.
pub fn socket_error(fd: i32) -> Result<i32, i32> {
    let ret = once(number::SOCKET_ERROR, [fd as u64, 0, 0, 0, 0, 0], &[]).map_err(|Lost| libc::EBADF)?;
    count(ret, 4095).map(|error| error as i32)
}

/// An epoll instance of the host.
pub fn epoll_create() -> Result<i32, i32> {
    count(again(number::EPOLL_CREATE, [0; 6], &[]), i32::MAX as usize).map(|fd| fd as i32)
}

/// epoll_ctl(2), with `index` for what the payload wants to be told. ESTALE when the instance went with its process.
pub fn epoll_control(epoll: i32, operation: i32, fd: i32, events: u32, index: u64) -> Result<(), i32> {
    let args = [epoll as u64, operation as u64, fd as u64, u64::from(events), index, 0];
    count(once(number::EPOLL_CTL, args, &[]).map_err(|Lost| libc::ESTALE)?, 0).map(|_| ())
}

/// epoll_wait(2): how many events came; [`epoll_event`] has them. ESTALE as in [`epoll_control`].
pub fn epoll_wait(epoll: i32, most: usize, timeout_ms: i64) -> Result<usize, i32> {
    let most = most.min(number::EPOLL_EVENTS_MAX);
    let ret = once(number::EPOLL_WAIT, [epoll as u64, most as u64, timeout_ms as u64, 0, 0, 0], &[]).map_err(|Lost| libc::ESTALE)?;
    count(ret, most)
}

/// Event `n` of the last [`epoll_wait`] of this thread: an allegation, index and all.
pub fn epoll_event(n: usize) -> [u8; number::EPOLL_EVENT] {
    let mut event = [0; number::EPOLL_EVENT];
    take(n * number::EPOLL_EVENT, &mut event);
    event
}

/// Ends the epoll_wait of the service's threads.
pub fn kick() {
    again(number::KICK, [0; 6], &[]);
}

/// Bytes of a file of the container, from `offset`.
pub fn read_file(path: &[u8], offset: u64, into: &mut [u8]) -> Result<usize, i32> {
    let length = into.len().min(MAX_DATA);
    let ret = again(number::READ_FILE, [path.len() as u64, offset, length as u64, 0, 0, 0], &[path]);
    let got = count(ret, length)?;
    take(0, &mut into[..got]);
    Ok(got)
}

/// A file of the data directory: the host's descriptor.
pub fn open(path: &[u8], flags: u64) -> Result<i32, i32> {
    loop {
        if let Ok(opened) = open_once(path, flags) {
            return opened;
        }
    }
}

/// The same, which must not be made again as it was: who asked for a new file may have got it.
pub fn open_once(path: &[u8], flags: u64) -> Result<Result<i32, i32>, Lost> {
    let ret = once(number::OPEN, [path.len() as u64, flags, 0, 0, 0, 0], &[path])?;
    Ok(count(ret, i32::MAX as usize).map(|fd| fd as i32))
}

/// pread(2) of at most `length` bytes, and of [`MAX_DATA`]; [`take`] has them.
pub fn read_at(fd: i32, length: usize, offset: u64) -> Result<usize, i32> {
    count(again(number::READ_AT, [fd as u64, length as u64, offset, 0, 0, 0], &[]), length)
}

/// pwrite(2) of at most [`MAX_DATA`] bytes.
pub fn write_at(fd: i32, bytes: &[u8], offset: u64) -> Result<usize, i32> {
    count(again(number::WRITE_AT, [fd as u64, bytes.len() as u64, offset, 0, 0, 0], &[bytes]), bytes.len())
}

/// fsync(2), or fdatasync(2).
pub fn sync(fd: i32, data_only: bool) -> Result<(), i32> {
    count(again(number::SYNC, [fd as u64, u64::from(data_only), 0, 0, 0, 0], &[]), 0).map(|_| ())
}

/// ftruncate(2).
pub fn truncate(fd: i32, size: u64) -> Result<(), i32> {
    count(again(number::TRUNCATE, [fd as u64, size, 0, 0, 0, 0], &[]), 0).map(|_| ())
}

/// `st_mode` and size of a file, unchecked.
pub fn file_status(fd: i32) -> Result<(u32, u64), i32> {
    count(again(number::STATUS, [fd as u64, 0, 0, 0, 0, 0], &[]), 0)?;
    let (mut mode, mut size) = ([0; 4], [0; 8]);
    take(0, &mut mode);
    take(4, &mut size);
    Ok((u32::from_le_bytes(mode), u64::from_le_bytes(size)))
}

/// rename(2) in the data directory.
pub fn rename(from: &[u8], to: &[u8]) -> Result<(), i32> {
    gone(number::RENAME, [from.len() as u64, to.len() as u64, 0, 0, 0, 0], &[from, to])
}

/// unlink(2) in the data directory.
pub fn remove(path: &[u8]) -> Result<(), i32> {
    gone(number::REMOVE, [path.len() as u64, 0, 0, 0, 0, 0], &[path])
}

/// A call after which a name is gone. One that was lost with its process may have been carried out: then the name is gone at the next try.
fn gone(call: u32, args: [u64; 6], send: &[&[u8]]) -> Result<(), i32> {
    let mut lost = false;
    loop {
        match once(call, args, send) {
            Err(Lost) => lost = true,
            Ok(ret) => match count(ret, 0) {
                Err(libc::ENOENT) if lost => return Ok(()),
                done => return done.map(|_| ()),
            },
        }
    }
}

/// One of `teemate_abi::ocall::edmm` on a range. What the host says is not believed: EACCEPT checks each page.
pub fn edmm(operation: u64, address: u64, length: u64, permissions: u64) -> Result<(), i32> {
    let ret = again(number::EDMM, [operation, address, length, permissions, 0, 0], &[]);
    match count(ret, length as usize)? {
        done if done as u64 == length => Ok(()),
        _ => Err(libc::EIO),
    }
}

/// A turn of input and output: how many bytes of records came, which [`take`] has. ESTALE when the connections, of which `one` is one, went
/// with their process.
pub fn turn(records: &[u8], timeout_ms: i64, one: Option<i32>) -> Result<usize, i32> {
    let args = [records.len() as u64, timeout_ms as u64, one.map_or(u64::MAX, |fd| fd as u64), 0, 0, 0];
    let ret = once(number::TURN, args, &[records]).map_err(|Lost| libc::ESTALE)?;
    count(ret, MAX_DATA)
}

/// A hint that a range is about to be touched.
pub fn prefault(start: u64, length: u64) {
    let _ = once(number::PREFAULT, [start, length, 0, 0, 0, 0], &[]);
}

#[cfg(test)]
mod tests {
    use super::count;

    /// The host lies about what it did: more bytes than there is room for, errors that no Linux has, numbers that are no errors.
    #[test]
    fn a_lying_count_is_an_error() {
        assert_eq!(count(0, 10), Ok(0));
        assert_eq!(count(10, 10), Ok(10));
        assert_eq!(count(-i64::from(libc::EAGAIN), 10), Err(libc::EAGAIN));
        for lie in [11, i64::MAX, -4096, i64::MIN] {
            assert_eq!(count(lie, 10), Err(libc::EIO), "{lie}");
        }
    }
}
