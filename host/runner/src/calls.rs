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
use crate::broker;
use crate::descriptors::{Descriptors, LISTEN_FD, SERVICE_FD, Service};
use crate::host::{self, Call, HostArea, MailboxRef, Reply, errno};
use crate::sockets;

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
            ocall::EPOLL_CREATE => match self.descriptors.service().map(|service| sockets::epoll(service.kick())) {
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
            ocall::KICK => match self.descriptors.service() {
                Some(service) => sockets::ring(service.kick()),
                None => {
                    let word = self.host.kick_word();
                    word.fetch_add(1, Ordering::AcqRel);
                    wake(word)
                }
            },
            ocall::SOCKET_NAME => self.on(args[0] as RawFd, |fd| sockets::name(mailbox, fd)),
            ocall::SOCKET_ERROR => self.on(args[0] as RawFd, sockets::error),
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
        let Some(socket) = self.broker else { return errno(libc::EACCES) };
        if length > broker::ADDRESS_MAX {
            return errno(libc::EINVAL);
        }
        let Some(address) = mailbox.copy(0, length) else { return errno(libc::EINVAL) };
        match broker::ask(socket, &address) {
            Ok(connection) => self.adopt(connection),
            Err(error) => errno(error.raw_os_error()),
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
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    struct Bench {
        board: Board,
        host: HostArea,
        descriptors: Descriptors,
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
        let bench = Bench::new(Descriptors::none());
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
        let bench = Bench::new(Descriptors::none());
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
            for answer in [Ok(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())), Err(Errno::ACCESS)] {
                let address = broker::next(node.as_fd()).unwrap().unwrap();
                assert_eq!(address, b"host:80");
                broker::answer(node.as_fd(), answer).unwrap();
            }
        });
        let bench = Bench::new(Descriptors::none());
        let ask = |broker| bench.ask_with(ocall::CONNECT, [7, 0, 0, 0, 0, 0], b"host:80", broker).0;
        let fd = ask(Some(ours.as_fd()));
        assert!(fd >= ocall::DESCRIPTOR_FIRST.into(), "{fd}");
        assert_eq!(bench.ask(ocall::CLOSE, [fd as u64, 0, 0, 0, 0, 0], b"").0, 0);
        assert_eq!(ask(Some(ours.as_fd())), errno(libc::EACCES));
        answerer.join().unwrap();
        assert_eq!(ask(Some(ours.as_fd())), errno(libc::ECONNRESET));
        assert_eq!(ask(None), errno(libc::EACCES));
    }

    /// A server as the enclave drives it: everything by numbers, and nothing by a number that it was not given.
    #[test]
    fn a_service_accepts_waits_and_is_woken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (channel, _node) = std::os::unix::net::UnixStream::pair().unwrap();
        let service = Service::new(channel.into(), Some(listener.into())).unwrap();
        let bench = Bench::new(Descriptors::of_service(service, 7));
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
        let container = Bench::new(Descriptors::none());
        assert_eq!(container.ask(ocall::EPOLL_CREATE, [0; 6], b"").0, errno(libc::EPERM));
        assert_eq!(container.ask(ocall::ACCEPT, [listen, 0, 0, 0, 0, 0], b"").0, errno(libc::EBADF));
        assert_eq!(container.ask(ocall::KICK, [0; 6], b"").0, 0);
        assert_eq!(container.host.kick_word().load(Ordering::Relaxed), 1, "another process passes it on");
    }

    #[test]
    fn parking_waits_for_a_wake_or_the_time() {
        let bench = Bench::new(Descriptors::none());
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
            let bench = Bench::new(Descriptors::none());
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
