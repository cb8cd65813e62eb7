//! One turn of input and output for many connections: sends, waits, accepts and reads, while the enclave is left once.
//!
//! The connections of turns are watched by an epoll instance of their own, level-triggered: what a turn has no room for comes in the next.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use teemate_abi::host_area::MAILBOX_DATA;
use teemate_abi::ocall::ADDRESS;
use teemate_abi::turn::{CLOSE, DATA, HEADER, HUNG_UP, OPENED, Records, SEND, SENT, WRITABLE, header};

use crate::descriptors::{Descriptors, Service};
use crate::host::{self, MailboxRef, Reply, errno};
use crate::sockets;

/// Token of the listener; no descriptor has it.
const LISTENER: u64 = u64::MAX - 1;
/// Events of one turn.
const EVENTS: usize = 256;
/// Connections that one turn accepts.
const ACCEPT: usize = 64;
/// What a connection may fill of a reply while others have something too.
const SHARE: usize = 16 << 10;
/// Least room for a read.
const ROOM: usize = 512;

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;

/// The epoll instance of a service's turns.
pub fn epoll(kick: RawFd, listener: Option<RawFd>) -> std::io::Result<OwnedFd> {
    let epoll = sockets::epoll(kick)?;
    if let Some(listener) = listener {
        match sockets::epoll_control(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, listener, IN, LISTENER) {
            0 => {}
            failed => return Err(std::io::Error::from_raw_os_error(-failed as i32)),
        }
    }
    Ok(epoll)
}

/// Carries a turn out.
pub fn turn(mailbox: MailboxRef, service: &Service, descriptors: &Descriptors, length: usize, timeout_ms: i32) -> Reply {
    let Some(request) = mailbox.copy(0, length) else { return errno(libc::EINVAL) };
    let epoll = match service.turns(descriptors.kick()) {
        Ok(epoll) => epoll,
        Err(error) => return errno(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut turn = Turn { descriptors, epoll, reply: Vec::with_capacity(4096) };
    let mut records = Records::new(&request);
    for record in records.by_ref() {
        match record.kind {
            SEND => match descriptors.made(record.fd) {
                Some(fd) => turn.send(record.fd, fd, record.bytes),
                None => return errno(libc::ESTALE),
            },
            // The descriptor leaves the epoll instance as it is closed.
            CLOSE => _ = descriptors.remove(record.fd).map(host::close),
            _ => return errno(libc::EINVAL),
        }
    }
    if !records.is_at_the_end() {
        return errno(libc::EINVAL);
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    // SAFETY: the kernel writes at most `EVENTS` events, for which there is room.
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS as i32, timeout_ms) };
    events.truncate(usize::try_from(count).unwrap_or(0));
    let alone = events.len() == 1;
    for event in events {
        let (flags, token) = (event.events, event.u64);
        if token == LISTENER {
            if let Some(listener) = service.listener() {
                turn.accept(listener);
            }
        } else if let Ok(number) = RawFd::try_from(token)
            && let Some(fd) = descriptors.made(number)
        {
            if flags & OUT != 0 {
                turn.watch(libc::EPOLL_CTL_MOD, number, fd, IN);
                turn.add(WRITABLE, number, &[]);
            }
            if flags & !OUT != 0 {
                turn.receive(number, fd, if alone { MAILBOX_DATA } else { SHARE });
            }
        }
    }
    mailbox.fill(&turn.reply) as Reply
}

struct Turn<'a> {
    descriptors: &'a Descriptors,
    epoll: RawFd,
    reply: Vec<u8>,
}

impl Turn<'_> {
    fn room(&self) -> usize {
        MAILBOX_DATA - self.reply.len()
    }

    fn add(&mut self, kind: u32, number: RawFd, bytes: &[u8]) {
        if self.room() >= HEADER + bytes.len() {
            self.reply.extend(header(kind, number, bytes.len() as u32));
            self.reply.extend(bytes);
        }
    }

    fn watch(&self, operation: i32, number: RawFd, fd: RawFd, events: u32) -> bool {
        sockets::epoll_control(self.epoll, operation, fd, events, number as u64) == 0
    }

    /// A send is answered in any case, and a request has fewer bytes than a mailbox: there is room for all answers.
    fn send(&mut self, number: RawFd, fd: RawFd, bytes: &[u8]) {
        // SAFETY: the kernel reads the slice's bytes.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        let broken = sent < 0 && !matches!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
        let sent = usize::try_from(sent).unwrap_or(0);
        self.reply.extend(header(SENT, number, sent as u32));
        if broken {
            self.add(HUNG_UP, number, &[]);
        } else if sent < bytes.len() {
            self.watch(libc::EPOLL_CTL_MOD, number, fd, IN | OUT);
        }
    }

    fn accept(&mut self, listener: RawFd) {
        for _ in 0..ACCEPT {
            if self.room() < HEADER + ADDRESS {
                return;
            }
            let Ok((connection, peer)) = sockets::accept(listener, false) else { return };
            let fd = connection.as_raw_fd();
            // Who asks wants to know soon; without it nothing breaks.
            sockets::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            let Some(number) = self.descriptors.insert(connection) else { return };
            if self.watch(libc::EPOLL_CTL_ADD, number, fd, IN) {
                self.add(OPENED, number, &peer);
            } else if let Some(fd) = self.descriptors.remove(number) {
                host::close(fd);
            }
        }
    }

    fn receive(&mut self, number: RawFd, fd: RawFd, most: usize) {
        let room = self.room();
        if room < HEADER + ROOM {
            // Level-triggered: it comes again.
            return;
        }
        let start = self.reply.len();
        self.reply.resize(start + HEADER + most.min(room - HEADER), 0);
        let into = &mut self.reply[start + HEADER..];
        // SAFETY: the kernel writes at most the slice's bytes.
        let got = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
        let waits = got < 0 && matches!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
        match usize::try_from(got) {
            Ok(got) if got > 0 => {
                self.reply.truncate(start + HEADER + got);
                self.reply[start..start + HEADER].copy_from_slice(&header(DATA, number, got as u32));
            }
            _ => {
                self.reply.truncate(start);
                if !waits {
                    // Said once: the enclave closes it, and until then there is nothing more to say.
                    self.watch(libc::EPOLL_CTL_DEL, number, fd, 0);
                    self.add(HUNG_UP, number, &[]);
                }
            }
        }
    }
}
