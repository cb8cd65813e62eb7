//! Serves one OCALL (`teemate_abi::ocall`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::futex;
use teemate_abi::host_area::MAILBOX_DATA;
use teemate_abi::layout::{ELRANGE_BASE, ELRANGE_SIZE_MAX, PAGE_SIZE};
use teemate_abi::ocall;

use crate::board::{Board, EdmmRequest};
use crate::broker::{self, FileQuestion, Question};
use crate::descriptors::{Descriptors, LISTEN_FD, SERVICE_FD, Service};
use crate::files;
use crate::host::{self, Call, HostArea, MailboxRef, Reply, errno};
use crate::sockets;
use crate::turn;

/// How long the node has for a request of dynamic memory.
const EDMM_LIMIT: Duration = Duration::from_secs(60);
/// Longest path of READ_FILE.
const PATH_MAX: usize = 4096;
/// Most entries of POLL.
const POLL_MAX: usize = 1024;
/// Most bytes of one PREFAULT.
const PREFAULT_MAX: u64 = 64 << 20;

/// What a process's calls may touch.
pub struct Calls<'a> {
    /// Shared with the node.
    pub board: &'a Board,
    /// Shared with the enclave.
    pub host: HostArea,
    /// What may be read and written.
    pub descriptors: &'a Descriptors,
    /// The way to the node's broker, if this container may connect at all.
    pub broker: Option<BorrowedFd<'a>>,
}

impl Calls<'_> {
    /// Serves the call in this slot's mailbox.
    pub fn serve(&self, tcs: u32, mailbox: MailboxRef) {
        let call = mailbox.call();
        self.board.count(tcs, call.number);
        match self.descriptors.service().filter(|_| is_receive(&call)) {
            Some(service) => self.receive_once(mailbox, call, service),
            None => mailbox.reply(call.sequence, self.act(tcs, mailbox, call.number, call.args)),
        }
    }

    /// A packet of the channel, which outlives this process: it is taken off only when the reply is complete. Killed before, and it is
    /// still there; killed between, and it comes twice in a row, which its reader knows.
    fn receive_once(&self, mailbox: MailboxRef, call: Call, service: &Service) {
        let length = usize::try_from(call.args[1]).unwrap_or(usize::MAX);
        let flags = if call.number == ocall::RECV { call.args[2] as i32 } else { 0 };
        service.read_alone(|channel| {
            let wait = flags & libc::MSG_DONTWAIT != 0 || self.descriptors.wait(channel, true);
            let reply =
                if wait { mailbox.receive(channel, length, flags & libc::MSG_DONTWAIT | libc::MSG_PEEK) } else { errno(libc::EAGAIN) };
            mailbox.reply(call.sequence, reply);
            if reply > 0 && flags & libc::MSG_PEEK == 0 {
                MailboxRef::discard(channel);
            }
        });
    }

    fn act(&self, tcs: u32, mailbox: MailboxRef, number: u32, args: [u64; 6]) -> Reply {
        let length = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        match number {
            ocall::PARK => self.park(args[0], args[1], args[2]),
            ocall::UNPARK => match self.host.park_word(args[0]) {
                Some(word) => wake(word),
                None => errno(libc::EINVAL),
            },
            ocall::SPAWN => {
                let word = self.host.spawn_word();
                word.fetch_add(1, Ordering::AcqRel);
                wake(word)
            }
            ocall::CLOCK => clock(args[0]),
            // Standard output and error only: what a payload says. Everything else must be in the set.
            ocall::WRITE => match args[0] as RawFd {
                fd @ 1..=2 => mailbox.write(fd, length(args[1])),
                fd => self.patiently(fd, false, |fd| mailbox.write(fd, length(args[1]))),
            },
            ocall::READ => self.patiently(args[0] as RawFd, true, |fd| mailbox.read(fd, length(args[1]))),
            ocall::SEND => {
                let flags = args[2] as i32 & (libc::MSG_DONTWAIT | libc::MSG_MORE) | libc::MSG_NOSIGNAL;
                let act = |fd| mailbox.send(fd, length(args[1]), flags);
                let fd = args[0] as RawFd;
                if flags & libc::MSG_DONTWAIT == 0 { self.patiently(fd, false, act) } else { self.on(fd, act) }
            }
            ocall::RECV => {
                let flags = args[2] as i32 & (libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_WAITALL | libc::MSG_TRUNC);
                let act = |fd| mailbox.receive(fd, length(args[1]), flags);
                let fd = args[0] as RawFd;
                if flags & libc::MSG_DONTWAIT == 0 { self.patiently(fd, true, act) } else { self.on(fd, act) }
            }
            ocall::CLOSE => self.descriptors.remove(args[0] as RawFd).map_or(errno(libc::EBADF), host::close),
            ocall::SHUTDOWN => self.on(args[0] as RawFd, |fd| host::shutdown(fd, args[1] as i32)),
            ocall::POLL => self.poll(mailbox, length(args[0]), args[1] as i32),
            ocall::CONNECT => self.connect(mailbox, length(args[0])),
            ocall::READ_FILE => read_file(mailbox, length(args[0]), args[1], length(args[2])),
            ocall::EDMM => {
                let request = EdmmRequest { operation: args[0], address: args[1], length: args[2], permissions: args[3] };
                self.board.ask_edmm(tcs, request, EDMM_LIMIT)
            }
            ocall::PREFAULT => {
                let end = args[0].checked_add(args[1]);
                let inside = args[0] >= ELRANGE_BASE && end.is_some_and(|end| end <= ELRANGE_BASE + ELRANGE_SIZE_MAX);
                if inside && args[1] <= PREFAULT_MAX && args[0].is_multiple_of(PAGE_SIZE) {
                    host::prefault(args[0], args[1]);
                }
                0
            }
            ocall::SETSOCKOPT => self.setsockopt(mailbox, args),
            ocall::ACCEPT => self.accept(mailbox, args[0] as RawFd, args[1] != 0),
            ocall::EPOLL_CREATE => match self.descriptors.service().map(|_| sockets::epoll(self.descriptors.kick())) {
                Some(Ok(epoll)) => self.adopt(epoll),
                Some(Err(error)) => errno(error.raw_os_error().unwrap_or(libc::EIO)),
                None => errno(libc::EPERM),
            },
            ocall::EPOLL_CTL => {
                let Some(epoll) = self.descriptors.made(args[0] as RawFd) else { return errno(libc::ESTALE) };
                self.on(args[2] as RawFd, |fd| sockets::epoll_control(epoll, args[1] as i32, fd, args[3] as u32, args[4]))
            }
            ocall::EPOLL_WAIT => {
                let Some(epoll) = self.descriptors.made(args[0] as RawFd) else { return errno(libc::ESTALE) };
                sockets::epoll_wait(mailbox, epoll, length(args[1]), args[2])
            }
            ocall::KICK => sockets::ring(self.descriptors.kick()),
            ocall::SOCKET_NAME => self.on(args[0] as RawFd, |fd| sockets::name(mailbox, fd)),
            ocall::SOCKET_ERROR => self.on(args[0] as RawFd, sockets::error),
            ocall::OPEN => match self.path(mailbox, 0, length(args[0])) {
                Some(path) => self.ask_for(Question::File(FileQuestion::Open { path, flags: (args[1] & ocall::OPEN_FLAGS) as u32 })),
                None => errno(libc::EINVAL),
            },
            ocall::READ_AT => self.at(args, |fd, length, offset| mailbox.read_at(fd, length, offset)),
            ocall::WRITE_AT => self.at(args, |fd, length, offset| mailbox.write_at(fd, length, offset)),
            ocall::SYNC => self.file(args[0], |fd| files::sync(fd, args[1] != 0)),
            ocall::TRUNCATE => match i64::try_from(args[1]) {
                Ok(size) => self.file(args[0], |fd| files::truncate(fd, size)),
                Err(_) => errno(libc::EINVAL),
            },
            ocall::STATUS => self.file(args[0], |fd| files::status(mailbox, fd)),
            ocall::RENAME => {
                let middle = length(args[0]);
                match (self.path(mailbox, 0, middle), self.path(mailbox, middle, length(args[1]))) {
                    (Some(from), Some(to)) => self.tell(FileQuestion::Rename { from, to }),
                    _ => errno(libc::EINVAL),
                }
            }
            ocall::REMOVE => match self.path(mailbox, 0, length(args[0])) {
                Some(path) => self.tell(FileQuestion::Remove { path }),
                None => errno(libc::EINVAL),
            },
            ocall::TURN => match self.descriptors.service() {
                Some(_) if args[2] as i32 >= 0 && self.descriptors.made(args[2] as RawFd).is_none() => errno(libc::ESTALE),
                Some(service) => turn::turn(mailbox, service, self.descriptors, length(args[0]), args[1] as i32),
                None => errno(libc::EPERM),
            },
            _ => errno(libc::ENOSYS),
        }
    }

    /// As [`Calls::on`], after the wait that the payload asked for.
    fn patiently(&self, fd: RawFd, receive: bool, act: impl FnOnce(RawFd) -> Reply) -> Reply {
        self.on(fd, |fd| if self.descriptors.wait(fd, receive) { act(fd) } else { errno(libc::EAGAIN) })
    }

    fn on(&self, fd: RawFd, act: impl FnOnce(RawFd) -> Reply) -> Reply {
        self.descriptors.real(fd).map_or(errno(libc::EBADF), act)
    }

    fn park(&self, index: u64, expected: u64, timeout_ns: u64) -> Reply {
        let Some(word) = self.host.park_word(index) else { return errno(libc::EINVAL) };
        let timeout = (timeout_ns != u64::MAX)
            .then_some(futex::Timespec { tv_sec: (timeout_ns / 1_000_000_000) as i64, tv_nsec: (timeout_ns % 1_000_000_000) as _ });
        match futex::wait(word, futex::Flags::empty(), expected as u32, timeout.as_ref()) {
            Ok(()) => 0,
            Err(error) => errno(error.raw_os_error()),
        }
    }

    fn poll(&self, mailbox: MailboxRef, count: usize, timeout_ms: i32) -> Reply {
        const ENTRY: usize = size_of::<libc::pollfd>();
        if count > POLL_MAX {
            return errno(libc::EINVAL);
        }
        let Some(bytes) = mailbox.copy(0, count * ENTRY) else { return errno(libc::EINVAL) };
        let entries = bytes
            .chunks_exact(ENTRY)
            .map(|entry| libc::pollfd {
                fd: i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]),
                events: i16::from_le_bytes([entry[4], entry[5]]),
                revents: 0,
            })
            .collect();
        let (reply, entries) = host::poll(entries, timeout_ms, |fd| self.descriptors.real(fd));
        let mut bytes = Vec::with_capacity(count * ENTRY);
        for entry in entries {
            bytes.extend_from_slice(&entry.fd.to_le_bytes());
            bytes.extend_from_slice(&entry.events.to_le_bytes());
            bytes.extend_from_slice(&entry.revents.to_le_bytes());
        }
        mailbox.fill(&bytes);
        reply
    }

    fn connect(&self, mailbox: MailboxRef, length: usize) -> Reply {
        if length > broker::ADDRESS_MAX {
            return errno(libc::EINVAL);
        }
        let Some(address) = mailbox.copy(0, length) else { return errno(libc::EINVAL) };
        self.ask_for(Question::Connect(address))
    }

    /// A descriptor from the node.
    fn ask_for(&self, question: Question) -> Reply {
        let Some(socket) = self.broker else { return errno(libc::EACCES) };
        match broker::ask(socket, &question) {
            Ok(descriptor) => self.adopt(descriptor),
            Err(error) => errno(error.raw_os_error()),
        }
    }

    /// Something that the node does in the data directory.
    fn tell(&self, question: FileQuestion) -> Reply {
        let Some(socket) = self.broker else { return errno(libc::EACCES) };
        broker::tell(socket, &Question::File(question)).map_or_else(|error| errno(error.raw_os_error()), |_| 0)
    }

    /// A path of the data directory, from the mailbox.
    fn path(&self, mailbox: MailboxRef, offset: usize, length: usize) -> Option<Vec<u8>> {
        (length <= ocall::DATA_PATH_MAX).then(|| mailbox.copy(offset, length)).flatten()
    }

    /// On a file that was opened on demand: the channel and the listener are none.
    fn file(&self, fd: u64, act: impl FnOnce(RawFd) -> Reply) -> Reply {
        self.descriptors.made(fd as RawFd).map_or(errno(libc::EBADF), act)
    }

    fn at(&self, [fd, length, offset, ..]: [u64; 6], act: impl FnOnce(RawFd, usize, i64) -> Reply) -> Reply {
        match (usize::try_from(length), i64::try_from(offset)) {
            (Ok(length), Ok(offset)) => self.file(fd, |fd| act(fd, length, offset)),
            _ => errno(libc::EINVAL),
        }
    }

    fn adopt(&self, connection: OwnedFd) -> Reply {
        self.descriptors.insert(connection).map_or(errno(libc::EMFILE), Reply::from)
    }

    fn accept(&self, mailbox: MailboxRef, fd: RawFd, wait: bool) -> Reply {
        let listener = self.descriptors.service().and_then(Service::listener).filter(|_| fd == LISTEN_FD);
        let Some(listener) = listener else { return errno(libc::EBADF) };
        match sockets::accept(listener, wait) {
            Ok((connection, peer)) => {
                mailbox.fill(&peer);
                self.adopt(connection)
            }
            Err(error) => errno(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// Options of a connection, in a container without setsockopt(2), which its filter on system calls does not know: timeouts are kept
    /// here and waited for before a call; what only tunes a connection is the broker's business.
    fn setsockopt(&self, mailbox: MailboxRef, args: [u64; 6]) -> Reply {
        let (fd, level, name, length) = (args[0] as RawFd, args[1] as i32, args[2] as i32, args[3]);
        let Some(fd) = self.descriptors.real(fd) else { return errno(libc::EBADF) };
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
                let time = (length == 16).then(|| mailbox.copy(0, 16)).flatten();
                let Some(time) = time else { return errno(libc::EINVAL) };
                let word = |at: usize| time.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_le_bytes);
                let ms = word(0).saturating_mul(1000).saturating_add((word(8).saturating_add(999)) / 1000);
                let Ok(ms) = i32::try_from(ms.max(0)) else { return errno(libc::EDOM) };
                self.descriptors.set_patience(fd, name == libc::SO_RCVTIMEO, ms);
                0
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE)
            | (libc::IPPROTO_TCP, libc::TCP_NODELAY | libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT) => {
                let value = (length == 4).then(|| mailbox.copy(0, 4)).flatten().and_then(|bytes| bytes.try_into().ok());
                let Some(value) = value.map(i32::from_le_bytes) else { return errno(libc::EINVAL) };
                if self.descriptors.service().is_some() { sockets::set_option(fd, level, name, value) } else { 0 }
            }
            _ => errno(libc::ENOPROTOOPT),
        }
    }
}

/// Whether a call reads from the channel.
fn is_receive(call: &Call) -> bool {
    [ocall::READ, ocall::RECV].contains(&call.number) && call.args[0] as RawFd == SERVICE_FD
}

fn wake(word: &std::sync::atomic::AtomicU32) -> Reply {
    match futex::wake(word, futex::Flags::empty(), i32::MAX as u32) {
        Ok(count) => count as Reply,
        Err(error) => errno(error.raw_os_error()),
    }
}

fn clock(id: u64) -> Reply {
    use rustix::time::ClockId;
    let id = match id as i32 {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => ClockId::Realtime,
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_MONOTONIC_COARSE => ClockId::Monotonic,
        libc::CLOCK_BOOTTIME => ClockId::Boottime,
        libc::CLOCK_PROCESS_CPUTIME_ID => ClockId::ProcessCPUTime,
        libc::CLOCK_THREAD_CPUTIME_ID => ClockId::ThreadCPUTime,
        _ => return errno(libc::EINVAL),
    };
    let now = rustix::time::clock_gettime(id);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// A file below this process's root, which is the container's: without following symbolic links, read-only, regular files only.
///
/// Part by part instead of openat2: a filter on system calls can look at the flags of openat, and not at those of openat2.
fn read_file(mailbox: MailboxRef, path_length: usize, offset: u64, length: usize) -> Reply {
    if path_length > PATH_MAX || length > MAILBOX_DATA {
        return errno(libc::EINVAL);
    }
    let Ok(offset) = i64::try_from(offset) else { return errno(libc::EINVAL) };
    let Some(path) = mailbox.copy(0, path_length) else { return errno(libc::EINVAL) };
    match open_plain(&path) {
        Ok(file) => mailbox.read_at(file.as_raw_fd(), length, offset),
        Err(error) => errno(error.raw_os_error()),
    }
}

fn open_plain(path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(Errno::ACCESS);
    }
    let name = parts.pop().ok_or(Errno::ISDIR)?;
    let walk = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(CWD, "/", walk, Mode::empty())?;
    for part in parts {
        directory = rustix::fs::openat(&directory, part, walk, Mode::empty())?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    match rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        rustix::fs::FileType::RegularFile => Ok(file),
        rustix::fs::FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::new_kick;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    struct Bench {
        board: Board,
        host: HostArea,
        descriptors: Descriptors,
    }

    fn container() -> Descriptors {
        Descriptors::of_container(new_kick().unwrap())
    }

    impl Bench {
        fn new(descriptors: Descriptors) -> Bench {
            Bench { board: Board::create().unwrap(), host: HostArea::stand_in(1), descriptors }
        }

        fn ask(&self, number: u32, args: [u64; 6], data: &[u8]) -> (Reply, Vec<u8>) {
            self.ask_with(number, args, data, None)
        }

        fn ask_with(&self, number: u32, args: [u64; 6], data: &[u8], broker: Option<BorrowedFd<'_>>) -> (Reply, Vec<u8>) {
            let mailbox = self.host.mailbox(0).unwrap();
            mailbox.fill(data);
            let calls = Calls { board: &self.board, host: self.host, descriptors: &self.descriptors, broker };
            let reply = calls.act(0, mailbox, number, args);
            (reply, mailbox.copy(0, 256).unwrap())
        }
    }

    #[test]
    fn a_file_comes_by_piece_and_links_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data");
        std::fs::write(&file, b"0123456789").unwrap();
        std::os::unix::fs::symlink(&file, directory.path().join("link")).unwrap();
        let bench = Bench::new(container());
        let name = |name: &str| directory.path().join(name).to_str().unwrap().as_bytes().to_vec();
        let read = |path: &[u8], offset: u64, length: u64| bench.ask(ocall::READ_FILE, [path.len() as u64, offset, length, 0, 0, 0], path);
        let (reply, data) = read(&name("data"), 4, 3);
        assert_eq!((reply, &data[..3]), (3, &b"456"[..]));
        assert_eq!(read(&name("data"), 20, 3).0, 0);
        assert_eq!(read(&name("link"), 0, 3).0, errno(libc::ELOOP));
        assert_eq!(read(&name(""), 0, 3).0, errno(libc::EISDIR));
        assert_eq!(read(&name("data/.."), 0, 3).0, errno(libc::EACCES));
        assert_eq!(read(b"", 0, 3).0, errno(libc::EISDIR));
        assert_eq!(read(b"/dev/zero", 0, 3).0, errno(libc::EACCES), "only regular files");
        assert_eq!(read(&name("none"), 0, 3).0, errno(libc::ENOENT));
        assert_eq!(read(&name("data"), u64::MAX, 3).0, errno(libc::EINVAL));
        assert_eq!(read(&name("data"), 0, MAILBOX_DATA as u64 + 1).0, errno(libc::EINVAL));
    }

    #[test]
    fn only_given_descriptors_can_be_used() {
        let (a, b) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (real, theirs) = (a.as_raw_fd(), b);
        let bench = Bench::new(container());
        let ours = bench.descriptors.insert(a).unwrap() - real;
        let fd = |fd: RawFd| (fd + ours) as u64;
        let ours = real;
        assert_eq!(bench.ask(ocall::SEND, [fd(ours), 5, 0, 0, 0, 0], b"hello").0, 5);
        let mut buffer = [0; 16];
        assert_eq!(rustix::net::recv(&theirs, &mut buffer[..], rustix::net::RecvFlags::empty()).unwrap().0, 5);
        rustix::net::send(&theirs, b"back", rustix::net::SendFlags::empty()).unwrap();
        let mut entry = fd(ours).to_le_bytes()[..4].to_vec();
        entry.extend([1, 0, 0, 0]);
        entry.extend(&fd(theirs.as_raw_fd()).to_le_bytes()[..4]);
        entry.extend([1, 0, 0, 0]);
        let (reply, data) = bench.ask(ocall::POLL, [2, 1000, 0, 0, 0, 0], &entry);
        assert_eq!((reply, data[6], i16::from_le_bytes([data[14], data[15]])), (2, 1, libc::POLLNVAL));
        let time = [0i64, 20_000].map(i64::to_le_bytes).concat();
        let option = [fd(ours), libc::SOL_SOCKET as u64, libc::SO_RCVTIMEO as u64, 16, 0, 0];
        assert_eq!(bench.ask(ocall::SETSOCKOPT, option, &time).0, 0);
        assert_eq!(bench.ask(ocall::SETSOCKOPT, [fd(ours), 1, 999, 16, 0, 0], &time).0, errno(libc::ENOPROTOOPT));
        let (reply, data) = bench.ask(ocall::RECV, [fd(ours), 100, 0, 0, 0, 0], b"");
        assert_eq!((reply, &data[..4]), (4, &b"back"[..]));
        assert_eq!(bench.ask(ocall::RECV, [fd(ours), 100, 0, 0, 0, 0], b"").0, errno(libc::EAGAIN), "after 20 ms");
        for number in [ocall::READ, ocall::WRITE, ocall::SEND, ocall::RECV, ocall::CLOSE, ocall::SHUTDOWN] {
            assert_eq!(bench.ask(number, [fd(theirs.as_raw_fd()), 1, 0, 0, 0, 0], b"").0, errno(libc::EBADF), "call {number}");
            assert_eq!(bench.ask(number, [u64::MAX, 1, 0, 0, 0, 0], b"").0, errno(libc::EBADF), "call {number}");
        }
        assert_eq!(bench.ask(ocall::CLOSE, [fd(ours), 0, 0, 0, 0, 0], b"").0, 0);
        assert_eq!(bench.ask(ocall::CLOSE, [fd(ours), 0, 0, 0, 0, 0], b"").0, errno(libc::EBADF));
    }

    #[test]
    fn a_connection_is_a_descriptor_from_the_broker() {
        let (ours, node) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let answerer = std::thread::spawn(move || {
            for answer in [Ok(Some(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()))), Ok(None), Err(Errno::ACCESS)] {
                let question = broker::next(node.as_fd()).unwrap().unwrap();
                assert_eq!(question, Question::Connect(b"host:80".to_vec()));
                broker::answer(node.as_fd(), answer).unwrap();
            }
        });
        let bench = Bench::new(container());
        let ask = |broker| bench.ask_with(ocall::CONNECT, [7, 0, 0, 0, 0, 0], b"host:80", broker).0;
        let fd = ask(Some(ours.as_fd()));
        assert!(fd >= ocall::DESCRIPTOR_FIRST.into(), "{fd}");
        assert_eq!(bench.ask(ocall::CLOSE, [fd as u64, 0, 0, 0, 0, 0], b"").0, 0);
        assert_eq!(ask(Some(ours.as_fd())), errno(libc::ECONNRESET), "an answer without a descriptor");
        assert_eq!(ask(Some(ours.as_fd())), errno(libc::EACCES));
        answerer.join().unwrap();
        assert_eq!(ask(Some(ours.as_fd())), errno(libc::ECONNRESET));
        assert_eq!(ask(None), errno(libc::EACCES));
    }

    /// A payload's file as the enclave drives it; the node's part opens it by name.
    #[test]
    fn a_data_file_is_read_and_written_at_offsets() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, node) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let below = directory.path().to_owned();
        let answerer = std::thread::spawn(move || {
            while let Ok(Some(Question::File(question))) = broker::next(node.as_fd()) {
                let name = |path: &[u8]| below.join(std::str::from_utf8(path).unwrap());
                let answer = match question {
                    FileQuestion::Open { path, flags } => {
                        assert_eq!(flags, (libc::O_RDWR | libc::O_CREAT) as u32, "others are taken away");
                        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(name(&path));
                        Ok(Some(OwnedFd::from(file.unwrap())))
                    }
                    FileQuestion::Rename { from, to } => std::fs::rename(name(&from), name(&to)).map(|()| None).map_err(|_| Errno::NOENT),
                    FileQuestion::Remove { path } => std::fs::remove_file(name(&path)).map(|()| None).map_err(|_| Errno::NOENT),
                };
                broker::answer(node.as_fd(), answer).unwrap();
            }
        });
        let bench = Bench::new(container());
        let ask = |number, args, data: &[u8]| bench.ask_with(number, args, data, Some(ours.as_fd()));
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_PATH) as u64;
        let fd = ask(ocall::OPEN, [4, flags, 0, 0, 0, 0], b"file").0 as u64;
        assert!(fd as i32 >= ocall::DESCRIPTOR_FIRST);
        assert_eq!(ask(ocall::WRITE_AT, [fd, 5, 3, 0, 0, 0], b"hello").0, 5);
        assert_eq!(ask(ocall::SYNC, [fd, 1, 0, 0, 0, 0], b"").0, 0);
        let (read, data) = ask(ocall::READ_AT, [fd, 100, 2, 0, 0, 0], b"");
        assert_eq!((read, &data[..6]), (6, &b"\0hello"[..]));
        assert_eq!(ask(ocall::TRUNCATE, [fd, 4, 0, 0, 0, 0], b"").0, 0);
        let (status, data) = ask(ocall::STATUS, [fd, 0, 0, 0, 0, 0], b"");
        let mode = u32::from_le_bytes(data[..4].try_into().unwrap());
        assert_eq!((status, mode & libc::S_IFMT, u64::from_le_bytes(data[4..12].try_into().unwrap())), (0, libc::S_IFREG, 4));
        assert_eq!(ask(ocall::RENAME, [4, 5, 0, 0, 0, 0], b"fileother").0, 0);
        assert_eq!(std::fs::read(directory.path().join("other")).unwrap(), b"\0\0\0h");
        assert_eq!(ask(ocall::REMOVE, [4, 0, 0, 0, 0, 0], b"file").0, errno(libc::ENOENT));
        assert_eq!(ask(ocall::REMOVE, [5, 0, 0, 0, 0, 0], b"other").0, 0);
        for (number, args) in [
            (ocall::READ_AT, [fd, 1, u64::MAX, 0, 0, 0]),
            (ocall::READ_AT, [fd, MAILBOX_DATA as u64 + 1, 0, 0, 0, 0]),
            (ocall::TRUNCATE, [fd, u64::MAX, 0, 0, 0, 0]),
            (ocall::OPEN, [256, 0, 0, 0, 0, 0]),
            (ocall::RENAME, [u64::MAX, u64::MAX, 0, 0, 0, 0]),
        ] {
            assert_eq!(ask(number, args, b"").0, errno(libc::EINVAL), "call {number}");
        }
        for number in [ocall::READ_AT, ocall::WRITE_AT, ocall::SYNC, ocall::TRUNCATE, ocall::STATUS] {
            assert_eq!(ask(number, [SERVICE_FD as u64, 1, 0, 0, 0, 0], b"").0, errno(libc::EBADF), "call {number}");
        }
        assert_eq!(bench.ask(ocall::OPEN, [4, 0, 0, 0, 0, 0], b"file").0, errno(libc::EACCES), "no way to the node");
        drop(ours);
        answerer.join().unwrap();
    }

    /// A server as the enclave drives it: everything by numbers, and nothing by a number that it was not given.
    #[test]
    fn a_service_accepts_waits_and_is_woken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (channel, _node) = std::os::unix::net::UnixStream::pair().unwrap();
        let service = Service::new(channel.into(), Some(listener.into())).unwrap();
        let kick = new_kick().unwrap();
        let container = Bench::new(Descriptors::of_container(kick.try_clone().unwrap()));
        let bench = Bench::new(Descriptors::of_service(service, kick, 7));
        let ask = |number, args| bench.ask(number, args, b"");
        let listen = LISTEN_FD as u64;
        let epoll = ask(ocall::EPOLL_CREATE, [0; 6]).0 as u64;
        let watch = |fd: u64, index: u64| ask(ocall::EPOLL_CTL, [epoll, libc::EPOLL_CTL_ADD as u64, fd, libc::EPOLLIN as u64, index, 0]).0;
        let wait = |ms: i64| {
            let (count, data) = ask(ocall::EPOLL_WAIT, [epoll, 8, ms as u64, 0, 0, 0]);
            let event = |n: usize| u64::from_le_bytes(data[n * 12 + 4..n * 12 + 12].try_into().unwrap());
            (0..count.max(0) as usize).map(event).collect::<Vec<_>>()
        };
        assert_eq!(watch(listen, 11), 0);
        assert_eq!(ask(ocall::ACCEPT, [listen, 0, 0, 0, 0, 0]).0, errno(libc::EAGAIN));
        let mut client = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(wait(-1), [11]);
        let (connection, peer) = ask(ocall::ACCEPT, [listen, 1, 0, 0, 0, 0]);
        assert!(connection >= ocall::DESCRIPTOR_FIRST.into(), "{connection}");
        assert_eq!(peer[2..4], client.local_addr().unwrap().port().to_be_bytes());
        let (_, name) = ask(ocall::SOCKET_NAME, [connection as u64, 0, 0, 0, 0, 0]);
        assert_eq!(name[2..4], address.port().to_be_bytes());
        assert_eq!(ask(ocall::SOCKET_ERROR, [connection as u64, 0, 0, 0, 0, 0]).0, 0);
        let nodelay = [connection as u64, libc::IPPROTO_TCP as u64, libc::TCP_NODELAY as u64, 4, 0, 0];
        assert_eq!(bench.ask(ocall::SETSOCKOPT, nodelay, &1i32.to_le_bytes()).0, 0);
        assert_eq!(watch(connection as u64, 12), 0);
        std::io::Write::write_all(&mut client, b"hi").unwrap();
        assert_eq!(wait(-1), [12]);
        assert_eq!(ask(ocall::RECV, [connection as u64, 100, libc::MSG_DONTWAIT as u64, 0, 0, 0]).0, 2);
        assert!(wait(0).is_empty());
        assert_eq!(ask(ocall::KICK, [0; 6]).0, 0);
        assert_eq!(wait(-1), [ocall::KICKED]);
        assert!(wait(0).is_empty(), "a kick counts once");
        for wrong in [connection as u64 + 1, 1 << 20, u64::MAX, ocall::DESCRIPTOR_FIRST as u64] {
            assert_eq!(watch(wrong, 13), errno(libc::EBADF), "{wrong}");
            assert_eq!(ask(ocall::EPOLL_WAIT, [wrong, 8, 0, 0, 0, 0]).0, errno(libc::ESTALE), "{wrong}");
            assert_eq!(ask(ocall::ACCEPT, [wrong, 0, 0, 0, 0, 0]).0, errno(libc::EBADF), "{wrong}");
        }
        assert_eq!(ask(ocall::EPOLL_WAIT, [epoll, 0, 0, 0, 0, 0]).0, errno(libc::EINVAL));
        assert_eq!(ask(ocall::EPOLL_WAIT, [epoll, 1025, 0, 0, 0, 0]).0, errno(libc::EINVAL));
        assert_eq!(container.ask(ocall::EPOLL_CREATE, [0; 6], b"").0, errno(libc::EPERM));
        assert_eq!(container.ask(ocall::ACCEPT, [listen, 0, 0, 0, 0, 0], b"").0, errno(libc::EBADF));
        assert_eq!(container.ask(ocall::KICK, [0; 6], b"").0, 0);
        assert_eq!(wait(-1), [ocall::KICKED], "another process's kick");
    }

    /// A server that takes turns.
    #[test]
    fn a_turn_serves_many_connections() {
        use teemate_abi::turn::{CLOSE, DATA, HUNG_UP, OPENED, Records, SEND, SENT, WRITABLE, header};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (channel, _node) = std::os::unix::net::UnixStream::pair().unwrap();
        let bench =
            Bench::new(Descriptors::of_service(Service::new(channel.into(), Some(listener.into())).unwrap(), new_kick().unwrap(), 3));
        let mailbox = bench.host.mailbox(0).unwrap();
        let turn = |request: &[u8], ms: i64| {
            let (reply, _) = bench.ask(ocall::TURN, [request.len() as u64, ms as u64, u64::MAX, 0, 0, 0], request);
            let bytes = mailbox.copy(0, usize::try_from(reply).unwrap_or(0)).unwrap();
            let mut records = Records::new(&bytes);
            let all: Vec<_> = records.by_ref().map(|record| (record.kind, record.fd, record.length, record.bytes.to_vec())).collect();
            assert!(records.is_at_the_end());
            (reply, all)
        };
        let record = |kind, fd, bytes: &[u8]| [&header(kind, fd, bytes.len() as u32)[..], bytes].concat();
        assert_eq!(turn(b"", 0), (0, vec![]));
        let mut clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let mut fds = Vec::new();
        while fds.len() < 3 {
            fds.extend(turn(b"", 1000).1.into_iter().map(|(kind, fd, length, _)| {
                assert_eq!((kind, length as usize), (OPENED, ocall::ADDRESS));
                fd
            }));
        }
        for (at, client) in clients.iter_mut().enumerate() {
            std::io::Write::write_all(client, format!("hello {at}").as_bytes()).unwrap();
        }
        let mut came = Vec::new();
        while came.len() < 3 {
            came.extend(turn(b"", 1000).1);
        }
        came.sort_by_key(|(_, fd, ..)| *fd);
        for (kind, fd, _, bytes) in came {
            let at = fds.iter().position(|known| *known == fd).unwrap();
            assert_eq!((kind, bytes), (DATA, format!("hello {at}").into_bytes()));
        }
        // Sends and a close with one exit; the answers are in the order of the sends.
        let request = [record(SEND, fds[0], b"zero"), record(SEND, fds[1], b"one"), record(CLOSE, fds[2], b"")].concat();
        assert_eq!(turn(&request, 0).1, [(SENT, fds[0], 4, vec![]), (SENT, fds[1], 3, vec![])]);
        let mut text = [0; 4];
        std::io::Read::read_exact(&mut clients[0], &mut text).unwrap();
        assert_eq!(&text, b"zero");
        assert_eq!(std::io::Read::read(&mut clients[2], &mut text).unwrap(), 0);
        // A reader that does not read: at some time not all is taken, and later there is room again.
        let piece = vec![7; 100_000];
        let mut sent = 0;
        loop {
            let (_, answer) = turn(&record(SEND, fds[0], &piece), 0);
            sent += answer[0].2 as usize;
            if answer[0].2 < piece.len() as u32 {
                break;
            }
        }
        let reader = std::thread::spawn({
            let mut client = clients[0].try_clone().unwrap();
            move || {
                let mut bytes = vec![0; sent];
                std::io::Read::read_exact(&mut client, &mut bytes).unwrap();
            }
        });
        while !turn(b"", 1000).1.iter().any(|(kind, fd, ..)| (*kind, *fd) == (WRITABLE, fds[0])) {}
        reader.join().unwrap();
        drop(clients);
        let mut gone: Vec<_> = Vec::new();
        while gone.len() < 2 {
            gone.extend(turn(b"", 1000).1.into_iter().filter(|(kind, ..)| *kind == HUNG_UP).map(|(_, fd, ..)| fd));
        }
        gone.sort_unstable();
        assert_eq!(gone, fds[..2]);
        assert_eq!(turn(b"", 0).1, [], "it is said once");
        for wrong in [&b"short"[..], &header(99, fds[0], 0), &header(SEND, fds[0], 1 << 31)] {
            assert_eq!(turn(wrong, 0).0, errno(libc::EINVAL));
        }
        for fd in [fds[2], SERVICE_FD, LISTEN_FD, -1, i32::MAX] {
            assert_eq!(turn(&record(SEND, fd, b"x"), 0).0, errno(libc::ESTALE), "{fd}");
        }
        assert_eq!(bench.ask(ocall::TURN, [0, 0, fds[2] as u64, 0, 0, 0], b"").0, errno(libc::ESTALE), "of another process");
        let container = Bench::new(container());
        assert_eq!(container.ask(ocall::TURN, [0; 6], b"").0, errno(libc::EPERM));
    }

    #[test]
    fn parking_waits_for_a_wake_or_the_time() {
        let bench = Bench::new(container());
        assert_eq!(bench.ask(ocall::PARK, [3, 1, u64::MAX, 0, 0, 0], b"").0, errno(libc::EAGAIN));
        assert_eq!(bench.ask(ocall::PARK, [3, 0, 1_000_000, 0, 0, 0], b"").0, errno(libc::ETIMEDOUT));
        assert_eq!(bench.ask(ocall::UNPARK, [3, 0, 0, 0, 0, 0], b"").0, 0);
        assert_eq!(bench.ask(ocall::SPAWN, [0; 6], b"").0, 0);
        assert_eq!(bench.host.spawn_word().load(Ordering::Relaxed), 1);
        assert!(bench.ask(ocall::CLOCK, [libc::CLOCK_MONOTONIC as u64, 0, 0, 0, 0, 0], b"").0 > 0);
    }

    proptest! {
        /// Whatever the enclave writes, the runner answers. Calls that may wait or write somewhere are left out.
        #[test]
        fn hostile_calls_get_an_answer(number in 1u32..64, args: [u64; 6], data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assume!(![ocall::PARK, ocall::EDMM].contains(&number));
            let bench = Bench::new(container());
            // Never the test's own output.
            let args = if number == ocall::WRITE { [args[0] | 1 << 20, args[1], args[2], args[3], args[4], args[5]] } else { args };
            let args = if number == ocall::POLL { [args[0], 0, 0, 0, 0, 0] } else { args };
            bench.ask(number, args, &data);
            if number != ocall::POLL {
                bench.ask(number, args.map(|arg| arg % 300_000 + 3), &data);
            }
        }
    }
}
