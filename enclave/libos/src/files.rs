//! Descriptors: what the host holds for the payload, and files whose content is in the enclave.
//!
//! A container's files are on the host's disk. The LibOS reads one whole, checks its length and SHA-256 against what the function's owner
//! deployed, and serves the copy that it checked; a file that differs is EBADMSG, and the payload names it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use sha2::{Digest, Sha256};

use crate::lock::Spin;
use crate::{SysResult, container, memory, ocall, user};

/// First number of a descriptor that the LibOS made; those below are the host's own 0 to 3, passed through.
const FIRST: i32 = 16;
/// Descriptors that there may be at one time.
const MAX: usize = 4096;
/// Largest verified file.
const MAX_FILE: u64 = 64 << 20;

enum File {
    /// Of the host, in the process of this container.
    Host { fd: i32, owner: u64 },
    /// Content in the enclave, mapped in the payload's arena.
    Content { start: u64, length: u64, position: u64, owner: u64 },
}

static TABLE: Spin<BTreeMap<i32, File>> = Spin::new(BTreeMap::new());

fn insert(file: File) -> Result<i32, i32> {
    let mut table = TABLE.lock();
    if table.len() >= MAX {
        return Err(libc::EMFILE);
    }
    let mut fd = FIRST;
    while table.contains_key(&fd) {
        fd += 1;
    }
    table.insert(fd, file);
    Ok(fd)
}

/// The host's descriptor behind `fd`, if it is one that this thread's container may use.
fn host(fd: u64) -> Result<i32, i32> {
    let fd = fd as i32;
    match TABLE.lock().get(&fd) {
        _ if (0..4).contains(&fd) => Ok(fd),
        Some(File::Host { fd, owner }) if *owner == container::current() => Ok(*fd),
        _ => Err(libc::EBADF),
    }
}

/// read(2), and recvfrom(2) with flags.
pub fn read(fd: u64, address: u64, length: u64, flags: Option<u64>) -> SysResult {
    let length = length.min(1 << 30);
    if let Some(File::Content { start, length: size, position, .. }) = TABLE.lock().get_mut(&(fd as i32)) {
        let count = length.min(*size - *position);
        let into = user::bytes_mut(address, count)?;
        into.copy_from_slice(user::bytes(*start + *position, count)?);
        *position += count;
        return Ok(count);
    }
    let fd = host(fd)?;
    if fd == 0 {
        return Ok(0);
    }
    let into = user::bytes_mut(address, length.min(ocall::MAX_DATA as u64))?;
    ocall::receive(fd, into, flags).map(|n| n as u64)
}

/// write(2), and sendto(2) with flags.
pub fn write(fd: u64, address: u64, length: u64, flags: Option<u64>) -> SysResult {
    let fd = host(fd)?;
    let data = user::bytes(address, length.min(ocall::MAX_DATA as u64))?;
    ocall::send(fd, data, flags).map(|n| n as u64)
}

/// writev(2) and readv(2): the pieces in order, until one is short.
pub fn vectored(fd: u64, vector: u64, count: u64, writes: bool) -> SysResult {
    if count > 1024 {
        return Err(libc::EINVAL);
    }
    let mut total = 0;
    for i in 0..count {
        let [base, length] = user::read::<[u64; 2]>(vector.checked_add(i * 16).ok_or(libc::EFAULT)?)?;
        if length == 0 {
            continue;
        }
        match if writes { write(fd, base, length, None) } else { read(fd, base, length, None) } {
            Ok(n) => {
                total += n;
                if n < length {
                    break;
                }
            }
            Err(error) if total == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(total)
}

/// lseek(2) on content.
pub fn seek(fd: u64, offset: i64, whence: u64) -> SysResult {
    match TABLE.lock().get_mut(&(fd as i32)) {
        Some(File::Content { length, position, .. }) => {
            let base = match whence as i32 {
                libc::SEEK_SET => 0,
                libc::SEEK_CUR => *position,
                libc::SEEK_END => *length,
                _ => return Err(libc::EINVAL),
            };
            let to = base.checked_add_signed(offset).ok_or(libc::EINVAL)?;
            *position = to.min(*length);
            Ok(*position)
        }
        Some(File::Host { .. }) => Err(libc::ESPIPE),
        None => Err(if (0..4).contains(&(fd as i32)) { libc::ESPIPE } else { libc::EBADF }),
    }
}

/// close(2).
pub fn close(fd: u64) -> SysResult {
    let file = TABLE.lock().remove(&(fd as i32));
    match file {
        Some(file) => {
            drop_file(file);
            Ok(0)
        }
        None if (0..4).contains(&(fd as i32)) => Ok(0),
        None => Err(libc::EBADF),
    }
}

fn drop_file(file: File) {
    match file {
        File::Host { fd, .. } => ocall::close(fd),
        File::Content { start, length, .. } => {
            let _ = memory::munmap(start, length.max(1));
        }
    }
}

/// Drops what a container left open. Its process is about to end, so the host's side closes by itself.
pub fn close_all_of(container: u64) {
    loop {
        let file = {
            let mut table = TABLE.lock();
            let Some(fd) = table.iter().find_map(|(&fd, file)| match file {
                File::Host { owner, .. } | File::Content { owner, .. } if *owner == container => Some(fd),
                _ => None,
            }) else {
                return;
            };
            table.remove(&fd)
        };
        if let Some(File::Content { start, length, .. }) = file {
            let _ = memory::munmap(start, length.max(1));
        }
    }
}

/// Length of content, and whether `fd` is a descriptor at all, for fstat(2).
pub fn length(fd: u64) -> Result<Option<u64>, i32> {
    match TABLE.lock().get(&(fd as i32)) {
        Some(File::Content { length, .. }) => Ok(Some(*length)),
        Some(File::Host { .. }) => Ok(None),
        None if (0..4).contains(&(fd as i32)) => Ok(None),
        None => Err(libc::EBADF),
    }
}

/// The syscall VERIFIED_FILE.
pub fn verified(path: u64, path_length: u64, sha256: u64, size: u64) -> SysResult {
    if path_length > 4096 || size > MAX_FILE {
        return Err(libc::E2BIG);
    }
    // The path is copied: the payload's buffer must not change between the host's reading and ours.
    let path = Vec::from(user::bytes(path, path_length)?);
    let expected = user::read::<[u8; 32]>(sha256)?;
    let owner = container::current();
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let start = memory::mmap(0, size.max(1), (libc::PROT_READ | libc::PROT_WRITE) as u64, anonymous, -1)?;
    let answer = fill(&path, start, size, &expected).and_then(|()| insert(File::Content { start, length: size, position: 0, owner }));
    if answer.is_err() {
        memory::munmap(start, size.max(1))?;
    }
    answer.map(|fd| fd as u64)
}

fn fill(path: &[u8], start: u64, size: u64, expected: &[u8; 32]) -> Result<(), i32> {
    let content = user::bytes_mut(start, size)?;
    let mut at = 0;
    while at < content.len() {
        match ocall::read_file(path, at as u64, &mut content[at..])? {
            0 => return Err(libc::EBADMSG),
            n => at += n,
        }
    }
    // One byte more tells that the file is longer than it should be.
    let mut beyond = [0u8; 1];
    if ocall::read_file(path, size, &mut beyond)? != 0 || Sha256::digest(&*content)[..] != expected[..] {
        return Err(libc::EBADMSG);
    }
    Ok(())
}

/// The syscall CONNECT.
pub fn connect(address: u64, length: u64) -> SysResult {
    if length > 512 {
        return Err(libc::EINVAL);
    }
    let address = Vec::from(user::bytes(address, length)?);
    let fd = ocall::connect(&address)?;
    insert(File::Host { fd, owner: container::current() }).map(|fd| fd as u64)
}

/// shutdown(2).
pub fn shutdown(fd: u64, how: u64) -> SysResult {
    ocall::shutdown(host(fd)?, how).map(|()| 0)
}

/// setsockopt(2): the timeouts and TCP_NODELAY that std sets.
pub fn set_option(fd: u64, level: u64, name: u64, value: u64, length: u64) -> SysResult {
    if length > 64 {
        return Err(libc::EINVAL);
    }
    let fd = host(fd)?;
    ocall::set_option(fd, level, name, user::bytes(value, length)?).map(|()| 0)
}

/// poll(2) on descriptors of the host.
pub fn poll(address: u64, count: u64, timeout_ms: u64) -> SysResult {
    if count > 64 {
        return Err(libc::EINVAL);
    }
    let entries = user::bytes_mut(address, count * 8)?;
    let mut copy = [0u8; 8 * 64];
    let copy = &mut copy[..entries.len()];
    copy.copy_from_slice(entries);
    // std asks at its start whether 0, 1 and 2 are open: no need to leave for that.
    if timeout_ms == 0 {
        entries.chunks_exact_mut(8).for_each(|e| e[6..8].fill(0));
        return Ok(0);
    }
    for entry in copy.chunks_exact_mut(8) {
        let fd = i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let fd = host(fd as u64).unwrap_or(-1);
        entry[..4].copy_from_slice(&fd.to_ne_bytes());
    }
    let ready = ocall::poll(copy, timeout_ms)?;
    for (mine, answer) in entries.chunks_exact_mut(8).zip(copy.chunks_exact(8)) {
        mine[6..8].copy_from_slice(&answer[6..8]);
    }
    Ok(ready as u64)
}
