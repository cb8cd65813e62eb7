//! One turn of input and output for all connections: what is to be sent, a wait for what is ready, what has come.
//!
//! The server knows no more of the network than [`Network::turn`]. Outside of an enclave it makes one system call for each ready connection;
//! inside it is one exit for all of them.

pub mod batched;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::epoll;

use crate::resp::Request;

/// Bytes that one turn reads from one connection: the others get theirs before it gets more.
const READ: usize = 64 << 10;
/// Connections that one turn accepts.
const ACCEPT: usize = 256;
/// Token of the listener.
const LISTENER: u64 = u64::MAX;

/// Bytes on their way from and to a connection.
#[derive(Debug, Default)]
pub struct Buffers {
    /// What has come and is not carried out yet.
    pub input: Vec<u8>,
    /// What is to be sent.
    pub output: Vec<u8>,
    /// How much of it has been.
    sent: usize,
    /// Whether the server wants nothing of it for now: who waits sends nothing that would be carried out.
    pub closed: bool,
    waits_to_write: bool,
    /// Bytes that are on their way already, and that the other end does not take.
    pub(crate) behind: usize,
}

impl Buffers {
    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.output.len().saturating_sub(self.sent) + self.behind
    }

    /// Takes out what is to be sent.
    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        let mut output = std::mem::take(&mut self.output);
        output.drain(..std::mem::take(&mut self.sent));
        output
    }
}

/// What a turn brought, by the connections' slots.
#[derive(Debug, Default)]
pub struct Turn {
    /// New connections: slot, the other end, this end.
    pub opened: Vec<(usize, String, String)>,
    /// Those for which something has come.
    pub ready: Vec<usize>,
    /// Those that are gone: the other end closed them, or they broke.
    pub closed: Vec<usize>,
    /// Bytes received and sent.
    pub bytes: (u64, u64),
}

/// Where bytes come from and go to.
pub trait Network {
    /// Sends what waits on the connections in `dirty`, waits until something is ready, at most for `wait`, and reads it into the buffers.
    ///
    /// # Errors
    /// What concerns all connections: one that breaks is told in [`Turn::closed`].
    fn turn(&mut self, buffers: &mut Vec<Buffers>, dirty: &[usize], wait: Duration, turn: &mut Turn) -> io::Result<()>;

    /// Closes a connection. Its slot may be given to a new one.
    fn close(&mut self, slot: usize);
}

/// The network, and what is on its way.
#[derive(Default)]
pub struct Wires {
    /// Not there while a turn is under way, nor for who only carries out a log.
    pub network: Option<Box<dyn Network>>,
    /// By the connections' slots.
    pub buffers: Vec<Buffers>,
    /// Slots with something to send.
    pub dirty: Vec<usize>,
    /// Slots with requests that have come and are next.
    pub ready: VecDeque<usize>,
    /// Slots with requests that a turn had no time for, or that waited.
    pub again: Vec<usize>,
    /// Slots whose other end went: they are closed when what they asked for is done.
    pub gone: Vec<usize>,
    /// The next connection's number.
    pub next_id: u64,
    /// Room for a request, used again and again.
    pub request: Request,
}

impl Wires {
    /// Sends what waits on these slots, waits, and reads. `None`: there is no network.
    ///
    /// # Errors
    /// Those of [`Network::turn`].
    pub fn turn(&mut self, dirty: &[usize], wait: Duration, turn: &mut Turn) -> io::Result<()> {
        match &mut self.network {
            Some(network) => network.turn(&mut self.buffers, dirty, wait, turn),
            None => Ok(()),
        }
    }
}

/// By the operating system's own calls, over TCP without encryption: for one machine.
pub struct Native {
    listener: TcpListener,
    epoll: std::os::fd::OwnedFd,
    streams: Vec<Option<TcpStream>>,
    free: Vec<usize>,
    events: Vec<epoll::Event>,
    scratch: Box<[u8]>,
}

impl Native {
    /// Listens there.
    ///
    /// # Errors
    /// The address is taken, or no epoll can be had.
    pub fn new(listener: TcpListener) -> io::Result<Native> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, listener.as_fd(), epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Native {
            listener,
            epoll,
            streams: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(1024),
            scratch: vec![0; READ].into(),
        })
    }

    fn accept(&mut self, buffers: &mut Vec<Buffers>, turn: &mut Turn) {
        for _ in 0..ACCEPT {
            let Ok((stream, peer)) = self.listener.accept() else { return };
            let local = stream.local_addr().map_or_else(|_| String::new(), |local| local.to_string());
            // Who asks wants to know soon; without it nothing breaks.
            let _ = stream.set_nodelay(true);
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let slot = self.free.pop().unwrap_or_else(|| {
                self.streams.push(None);
                self.streams.len() - 1
            });
            if buffers.len() <= slot {
                buffers.resize_with(slot + 1, Buffers::default);
            }
            buffers[slot] = Buffers::default();
            if epoll::add(&self.epoll, stream.as_fd(), epoll::EventData::new_u64(slot as u64), epoll::EventFlags::IN).is_err() {
                self.free.push(slot);
                continue;
            }
            self.streams[slot] = Some(stream);
            turn.opened.push((slot, peer.to_string(), local));
        }
    }

    /// Sends what it takes now. Whether the connection still stands.
    fn send(&mut self, slot: usize, buffers: &mut Buffers, sent: &mut u64) -> bool {
        let Some(Some(stream)) = self.streams.get_mut(slot) else { return false };
        while buffers.sent < buffers.output.len() {
            match stream.write(&buffers.output[buffers.sent..]) {
                Ok(0) => return false,
                Ok(count) => {
                    buffers.sent += count;
                    *sent += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if buffers.sent == buffers.output.len() {
            buffers.sent = 0;
            buffers.output.clear();
            // What a large reply needed is given back.
            buffers.output.shrink_to(READ);
        }
        let wants = !buffers.output.is_empty();
        if wants != buffers.waits_to_write {
            buffers.waits_to_write = wants;
            let flags = if wants { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            return epoll::modify(&self.epoll, stream.as_fd(), epoll::EventData::new_u64(slot as u64), flags).is_ok();
        }
        true
    }

    /// Reads what is there, up to a limit. Whether the connection still stands.
    fn receive(&mut self, slot: usize, buffers: &mut Buffers, received: &mut u64) -> bool {
        let Some(Some(stream)) = self.streams.get_mut(slot) else { return false };
        let result = loop {
            match stream.read(&mut self.scratch) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let count = *result.as_ref().unwrap_or(&0);
        buffers.input.extend_from_slice(&self.scratch[..count]);
        *received += count as u64;
        match result {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

impl Network for Native {
    fn turn(&mut self, buffers: &mut Vec<Buffers>, dirty: &[usize], wait: Duration, turn: &mut Turn) -> io::Result<()> {
        for slot in dirty {
            if !self.send(*slot, &mut buffers[*slot], &mut turn.bytes.1) {
                turn.closed.push(*slot);
            }
        }
        let wait = rustix::time::Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.events.len() {
            let (token, flags) = (self.events[at].data.u64(), self.events[at].flags);
            if token == LISTENER {
                self.accept(buffers, turn);
                continue;
            }
            let slot = token as usize;
            let mut stands = true;
            if flags.intersects(epoll::EventFlags::OUT) {
                stands = self.send(slot, &mut buffers[slot], &mut turn.bytes.1);
            }
            if stands && flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                stands = self.receive(slot, &mut buffers[slot], &mut turn.bytes.0);
                turn.ready.push(slot);
            }
            if !stands {
                turn.closed.push(slot);
            }
        }
        Ok(())
    }

    fn close(&mut self, slot: usize) {
        // The descriptor leaves the epoll instance as it is closed.
        if let Some(stream) = self.streams.get_mut(slot)
            && stream.take().is_some()
        {
            self.free.push(slot);
        }
    }
}
