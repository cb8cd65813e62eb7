//! Descriptors: what the host holds for the payload, and files whose content is in the enclave.
//!
//! A container's files are on the host's disk. The LibOS reads one whole, checks its length and SHA-256 against what the function's owner
//! deployed, and serves the copy that it checked; a file that differs is EBADMSG, and the payload names it. Files that the payload keeps
//! itself are in [`crate::data`].

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use teemate_abi::ocall::DESCRIPTOR_FIRST;

use crate::data::Data;
use crate::lock::Spin;
use crate::sockets::Address;
use crate::{SysResult, container, epoll, memory, ocall, user};

/// The listening socket: the payload's own threads have it, containers do not.
pub const LISTEN_FD: i32 = 4;
/// Descriptors below this one are the host's own, passed through.
const STANDARD: i32 = LISTEN_FD + 1;
/// First number of a descriptor that the LibOS made.
const FIRST: usize = 16;
/// Descriptors that there may be at one time.
const MAX: usize = 16384;
/// Largest verified file.
const MAX_FILE: u64 = 64 << 20;
/// Most bytes of one read(2) or write(2), or of one piece.
pub const MAX_TRANSFER: u64 = 1 << 30;
/// Most pieces of readv(2) and writev(2).
const MAX_PIECES: u64 = 1024;

/// What is behind a descriptor; several may share it.
pub struct File {
    /// Never used twice. Those below [`STANDARD`] stand for the descriptors with that number.
    pub id: u64,
    /// Container that made it: only that one may use it, because only its process holds the host's part. 0: the payload's own threads.
    owner: u64,
    nonblocking: AtomicBool,
    /// The host's part went with its process.
    abandoned: AtomicBool,
    /// What it is.
    pub kind: Kind,
}

/// Kinds of [`File`].
pub enum Kind {
    /// A connection.
    Socket {
        /// The host's number.
        fd: i32,
        /// The other end, by the host's word.
        peer: Address,
    },
    /// Content in the enclave, mapped in the payload's arena.
    Content {
        /// Where.
        start: u64,
        /// Bytes.
        length: u64,
        /// The next byte to read.
        position: Spin<u64>,
    },
    /// A file of the data directory.
    Data(Data),
    /// An instance of [`epoll`].
    Epoll,
    /// A counter of eventfd(2). Any thread may use it: it is inside.
    Event,
}

impl File {
    /// A file of the running thread's container.
    pub fn new(kind: Kind, nonblocking: bool) -> File {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST as u64);
        File {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            owner: container::current(),
            nonblocking: AtomicBool::new(nonblocking),
            abandoned: AtomicBool::new(false),
            kind,
        }
    }

    /// The container whose process holds the host's part; 0: that of the payload's own threads.
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// Closes the host's part.
    fn give_back(&self, host: i32) {
        release(self.owner, host);
        if !self.abandoned.load(Ordering::Relaxed) {
            ocall::close(host);
        }
    }

    fn usable(&self) -> bool {
        matches!(self.kind, Kind::Event) || self.owner == container::current()
    }
}

/// Never under the lock of the table: it may ask the host.
impl Drop for File {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Socket { fd, .. } => {
                epoll::closed(self.id);
                self.give_back(*fd);
            }
            Kind::Data(data) => self.give_back(data.host()),
            Kind::Content { start, length, .. } => {
                let _ = memory::munmap(*start, (*length).max(1));
            }
            Kind::Epoll => epoll::destroy(self.id),
            Kind::Event => epoll::closed(self.id),
        }
    }
}

struct Table {
    /// By number, less [`FIRST`].
    files: Vec<Option<Arc<File>>>,
    /// No number below this one is free.
    lowest: usize,
    open: usize,
    /// The host's numbers in use, each with the container whose process has it: one that a process gives twice is a lie.
    of_host: BTreeSet<(u64, i32)>,
}

static TABLE: Spin<Table> = Spin::new(Table { files: Vec::new(), lowest: 0, open: 0, of_host: BTreeSet::new() });
/// Whether each standard descriptor was made non-blocking.
static NONBLOCKING: [AtomicBool; STANDARD as usize] = [const { AtomicBool::new(false) }; STANDARD as usize];

/// Notes a number that the process of this container (0: of the payload's own threads) gave for something new; EIO when it can't be new.
pub fn claim(owner: u64, host: i32) -> Result<(), i32> {
    if host >= DESCRIPTOR_FIRST && TABLE.lock().of_host.insert((owner, host)) { Ok(()) } else { Err(libc::EIO) }
}

/// Forgets it, before the process may give it again.
pub fn release(owner: u64, host: i32) {
    TABLE.lock().of_host.remove(&(owner, host));
}

/// Gives a file a number.
pub fn insert(file: File) -> SysResult {
    share(Arc::new(file))
}

fn share(file: Arc<File>) -> SysResult {
    // A file that finds no room is dropped after the lock is free again.
    let mut table = TABLE.lock();
    let Table { files, lowest, open, .. } = &mut *table;
    if *open >= MAX {
        return Err(libc::EMFILE);
    }
    while files.get(*lowest).is_some_and(Option::is_some) {
        *lowest += 1;
    }
    if *lowest == files.len() {
        files.push(None);
    }
    files[*lowest] = Some(file);
    *open += 1;
    Ok((FIRST + *lowest) as u64)
}

/// What a number stands for.
pub enum Target {
    /// One of the host's own, passed through.
    Standard(i32),
    /// What the LibOS knows of.
    File(Arc<File>),
}

/// What `fd` stands for, if the running thread may use it.
pub fn get(fd: u64) -> Result<Target, i32> {
    let number = fd as u32 as usize;
    if number < STANDARD as usize {
        let foreign = number == LISTEN_FD as usize && container::current() != 0;
        return if foreign { Err(libc::EBADF) } else { Ok(Target::Standard(number as i32)) };
    }
    let slot = number.checked_sub(FIRST).ok_or(libc::EBADF)?;
    match TABLE.lock().files.get(slot) {
        Some(Some(file)) if file.usable() => Ok(Target::File(Arc::clone(file))),
        _ => Err(libc::EBADF),
    }
}

impl Target {
    /// The host's descriptor.
    pub fn host(&self) -> Result<i32, i32> {
        match self {
            Target::Standard(fd) => Ok(*fd),
            Target::File(file) => match file.kind {
                Kind::Socket { fd, .. } => Ok(fd),
                _ => Err(libc::EBADF),
            },
        }
    }

    fn flag(&self) -> &AtomicBool {
        match self {
            Target::Standard(fd) => &NONBLOCKING[*fd as usize],
            Target::File(file) => &file.nonblocking,
        }
    }

    /// O_NONBLOCK. The host is not told: each call says whether it may wait.
    pub fn nonblocking(&self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }

    /// Flags for a transfer with these: a socket that is not to wait says so with each. 0 to 2 are no sockets, and say nothing.
    fn flags(&self, flags: Option<u64>) -> Option<u64> {
        match self {
            Target::Standard(0..3) => flags,
            _ if self.nonblocking() => Some(flags.unwrap_or(0) | libc::MSG_DONTWAIT as u64),
            _ => flags,
        }
    }
}

/// read(2), and recvfrom(2) with flags.
pub fn read(fd: u64, address: u64, length: u64, flags: Option<u64>) -> SysResult {
    let target = get(fd)?;
    let length = length.min(MAX_TRANSFER);
    if let Target::File(file) = &target {
        match &file.kind {
            Kind::Content { start, length: size, position } => {
                let mut position = position.lock();
                let count = length.min(*size - *position);
                let into = user::bytes_mut(address, count)?;
                into.copy_from_slice(user::bytes(*start + *position, count)?);
                *position += count;
                return Ok(count);
            }
            Kind::Data(data) => return data.read(file.owner, address, length),
            Kind::Event => return epoll::read_event(file.id, address, length),
            Kind::Epoll => return Err(libc::EINVAL),
            Kind::Socket { .. } => {}
        }
    }
    transfer(&target, &[[address, length]], flags, false)
}

/// write(2), and sendto(2) with flags.
pub fn write(fd: u64, address: u64, length: u64, flags: Option<u64>) -> SysResult {
    let target = get(fd)?;
    match &target {
        Target::File(file) if matches!(file.kind, Kind::Event) => epoll::write_event(file.id, address, length),
        Target::File(file) if let Kind::Data(data) = &file.kind => data.write(file.owner, address, length),
        _ => transfer(&target, &[[address, length.min(MAX_TRANSFER)]], flags, true),
    }
}

/// writev(2) and readv(2).
pub fn vectored(fd: u64, vector: u64, count: u64, writes: bool) -> SysResult {
    if count > MAX_PIECES {
        return Err(libc::EINVAL);
    }
    let mut pieces = Vec::with_capacity(count as usize);
    for i in 0..count {
        let [base, length] = user::read::<[u64; 2]>(vector.checked_add(i * 16).ok_or(libc::EFAULT)?)?;
        pieces.push([base, length.min(MAX_TRANSFER)]);
    }
    let target = get(fd)?;
    if target.host().is_ok() {
        return transfer(&target, &pieces, None, writes);
    }
    // What is inside takes and gives all that there is with the first piece.
    match pieces.iter().find(|piece| piece[1] > 0) {
        Some([base, length]) if writes => write(fd, *base, *length, None),
        Some([base, length]) => read(fd, *base, *length, None),
        None => Ok(0),
    }
}

/// As many calls of the host as it takes: who waits by edges (tokio does) takes a short transfer as a sign that the socket is drained, or
/// full. Only of a stream: what else there is transfers at most one mailbox with a call.
fn transfer(target: &Target, pieces: &[[u64; 2]], flags: Option<u64>, writes: bool) -> SysResult {
    let fd = target.host()?;
    let mut flags = target.flags(flags);
    let once = matches!(target, Target::Standard(_)) || flags.is_some_and(|flags| flags & libc::MSG_PEEK as u64 != 0);
    let mut total = 0;
    loop {
        let part = window(pieces, total, ocall::MAX_DATA as u64);
        let length: u64 = part.iter().map(|piece| piece[1]).sum();
        if length == 0 && total > 0 {
            return Ok(total);
        }
        match if writes { send(fd, &part, flags) } else { receive(fd, &part, flags) } {
            Ok(count) => {
                total += count;
                if once || count < length || length == 0 {
                    return Ok(total);
                }
            }
            Err(error) if total == 0 => return Err(error),
            Err(_) => return Ok(total),
        }
        if !writes {
            // Something came: the rest is taken if it is there.
            flags = Some(flags.unwrap_or(0) | libc::MSG_DONTWAIT as u64);
        }
    }
}

/// The part of all pieces that begins after `skip` bytes, at most `most` bytes long.
fn window(pieces: &[[u64; 2]], mut skip: u64, mut most: u64) -> Vec<[u64; 2]> {
    let mut part = Vec::new();
    for [base, length] in pieces {
        let passed = skip.min(*length);
        let count = (*length - passed).min(most);
        if count > 0 {
            part.push([base.wrapping_add(passed), count]);
        }
        skip -= passed;
        most -= count;
    }
    part
}

fn send(fd: i32, part: &[[u64; 2]], flags: Option<u64>) -> SysResult {
    let bytes = part.iter().map(|[base, length]| user::bytes(*base, *length)).collect::<Result<Vec<_>, _>>()?;
    ocall::send(fd, &bytes, flags).map(|count| count as u64)
}

fn receive(fd: i32, part: &[[u64; 2]], flags: Option<u64>) -> SysResult {
    if fd == 0 {
        return Ok(0);
    }
    for [base, length] in part {
        user::check(*base, *length, true)?;
    }
    let got = ocall::receive(fd, part.iter().map(|piece| piece[1] as usize).sum(), flags)?;
    let mut at = 0;
    for [base, length] in part {
        let count = (got - at).min(*length as usize);
        ocall::take(at, user::bytes_mut(*base, count as u64)?);
        at += count;
    }
    Ok(got as u64)
}

/// lseek(2) on content.
pub fn seek(fd: u64, offset: i64, whence: u64) -> SysResult {
    match get(fd)? {
        Target::File(file) => match &file.kind {
            Kind::Content { length, position, .. } => {
                let mut position = position.lock();
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
            Kind::Data(data) => data.seek(file.owner, offset, whence),
            _ => Err(libc::ESPIPE),
        },
        Target::Standard(_) => Err(libc::ESPIPE),
    }
}

/// close(2).
pub fn close(fd: u64) -> SysResult {
    let Target::File(file) = get(fd)? else { return Ok(0) };
    let removed = {
        let slot = fd as u32 as usize - FIRST;
        let mut table = TABLE.lock();
        match table.files.get_mut(slot) {
            // Not another one that came to the number meanwhile.
            Some(place) if place.as_ref().is_some_and(|there| there.id == file.id) => {
                let removed = place.take();
                table.lowest = table.lowest.min(slot);
                table.open -= 1;
                removed
            }
            _ => None,
        }
    };
    // The last owner closes what is behind it: this one, or a call of another thread that still works with it.
    removed.map(|_| 0).ok_or(libc::EBADF)
}

/// fcntl(2).
pub fn control(fd: u64, command: u64, argument: u64) -> SysResult {
    let target = get(fd)?;
    match command as i32 {
        libc::F_GETFL => Ok((libc::O_RDWR | if target.nonblocking() { libc::O_NONBLOCK } else { 0 }) as u64),
        libc::F_SETFL => {
            target.flag().store(argument as i32 & libc::O_NONBLOCK != 0, Ordering::Relaxed);
            Ok(0)
        }
        libc::F_GETFD => Ok(libc::FD_CLOEXEC as u64),
        libc::F_SETFD => Ok(0),
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => match target {
            Target::File(file) => share(file),
            Target::Standard(_) => Err(libc::EINVAL),
        },
        _ => Err(libc::EINVAL),
    }
}

/// ioctl(2): FIONBIO is how std makes a socket non-blocking. Nothing is a terminal.
pub fn ioctl(fd: u64, request: u64, argument: u64) -> SysResult {
    let target = get(fd)?;
    match request {
        libc::FIONBIO => {
            target.flag().store(user::read::<u32>(argument)? != 0, Ordering::Relaxed);
            Ok(0)
        }
        libc::FIOCLEX | libc::FIONCLEX => Ok(0),
        _ => Err(libc::ENOTTY),
    }
}

/// Drops what a container left open. Its process is about to end, so the host's side closes by itself.
pub fn close_all_of(container: u64) {
    let left: Vec<Arc<File>> = {
        let mut table = TABLE.lock();
        let Table { files, lowest, open, .. } = &mut *table;
        let of_it = files.iter_mut().enumerate().filter(|(_, file)| file.as_ref().is_some_and(|file| file.owner == container));
        of_it
            .filter_map(|(slot, file)| {
                *lowest = (*lowest).min(slot);
                *open -= 1;
                file.take()
            })
            .collect()
    };
    left.iter().for_each(|file| file.abandoned.store(true, Ordering::Relaxed));
}

/// For fstat(2): the type, and the length of content.
pub fn status(fd: u64) -> Result<(u32, u64), i32> {
    Ok(match get(fd)? {
        Target::Standard(0..3) => (libc::S_IFIFO | 0o600, 0),
        Target::Standard(_) => (libc::S_IFSOCK | 0o600, 0),
        Target::File(file) => match &file.kind {
            Kind::Content { length, .. } => (libc::S_IFREG | 0o444, *length),
            Kind::Data(data) => data.status(file.owner)?,
            Kind::Socket { .. } => (libc::S_IFSOCK | 0o600, 0),
            // As Linux has it: of no type.
            Kind::Epoll | Kind::Event => (0o600, 0),
        },
    })
}

/// The syscall VERIFIED_FILE.
pub fn verified(path: u64, path_length: u64, sha256: u64, size: u64) -> SysResult {
    if path_length > 4096 || size > MAX_FILE {
        return Err(libc::E2BIG);
    }
    // The path is copied: the payload's buffer must not change between the host's reading and ours.
    let path = Vec::from(user::bytes(path, path_length)?);
    let expected = user::read::<[u8; 32]>(sha256)?;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let start = memory::mmap(0, size.max(1), (libc::PROT_READ | libc::PROT_WRITE) as u64, anonymous, -1)?;
    // Dropped, and so unmapped, when it is not what it should be.
    let file = File::new(Kind::Content { start, length: size, position: Spin::new(0) }, false);
    fill(&path, start, size, &expected)?;
    insert(file)
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

#[cfg(test)]
mod tests {
    use super::{DESCRIPTOR_FIRST, claim, release, window};

    /// The host gives numbers that are no new descriptor's: one of its own, one that is in use.
    #[test]
    fn a_lying_descriptor_is_an_error() {
        for lie in [i32::MIN, -1, 0, 3, DESCRIPTOR_FIRST - 1] {
            assert_eq!(claim(1, lie), Err(libc::EIO), "{lie}");
        }
        assert_eq!(claim(1, DESCRIPTOR_FIRST + 7), Ok(()));
        assert_eq!(claim(1, DESCRIPTOR_FIRST + 7), Err(libc::EIO), "given twice");
        assert_eq!(claim(2, DESCRIPTOR_FIRST + 7), Ok(()), "another process numbers its own");
        release(1, DESCRIPTOR_FIRST + 7);
        assert_eq!(claim(2, DESCRIPTOR_FIRST + 7), Err(libc::EIO), "only one of the two is free again");
        assert_eq!(claim(1, DESCRIPTOR_FIRST + 7), Ok(()));
        release(1, DESCRIPTOR_FIRST + 7);
        release(2, DESCRIPTOR_FIRST + 7);
    }

    #[test]
    fn a_window_moves_over_all_pieces() {
        let pieces = [[100, 5], [200, 0], [300, 7], [400, 9]];
        assert_eq!(window(&pieces, 0, 6), [[100, 5], [300, 1]]);
        assert_eq!(window(&pieces, 6, 100), [[301, 6], [400, 9]]);
        assert_eq!(window(&pieces, 12, 2), [[400, 2]]);
        assert!(window(&pieces, 21, 6).is_empty());
        let mut at = 0;
        let mut seen = Vec::new();
        loop {
            let part = window(&pieces, at, 4);
            if part.is_empty() {
                break;
            }
            for [base, length] in part {
                seen.extend(base..base + length);
                at += length;
            }
        }
        assert_eq!(seen, [100..105, 300..307, 400..409].into_iter().flatten().collect::<Vec<_>>());
    }
}
