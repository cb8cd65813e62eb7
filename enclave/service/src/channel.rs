//! Packets over the payload's socket, and the queue of messages to the node.
//!
//! A worker runs in another container, whose process does not have the socket: it leaves its message in the [`Outbox`], and the sender
//! thread of the service writes it. The reading thread writes its own, small messages itself, which saves a hop. What this process itself
//! wants to hear of a worker takes the same way, for the same reason.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Condvar, Mutex};

use teemate_control::PROTOCOL;
use teemate_control::function::{Outcome, Phase};
use teemate_control::packet::{self, Joiner, MAX_PACKET};
use teemate_control::service::{FromService, ToService};

use crate::clock::mark;
use crate::lock;

/// A SOCK_SEQPACKET socket.
#[derive(Clone, Copy)]
pub struct Channel(pub RawFd);

impl Channel {
    /// Waits for a packet. `None` at the end.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn receive<'a>(&self, buffer: &'a mut [u8; MAX_PACKET]) -> io::Result<Option<&'a [u8]>> {
        loop {
            // SAFETY: the buffer is ours and as long as we say.
            let got = unsafe { libc::recv(self.0, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            match usize::try_from(got) {
                Ok(0) => return Ok(None),
                // The host gave the number: it must not reach beyond the buffer.
                Ok(length) => return Ok(Some(buffer.get(..length).ok_or(io::ErrorKind::InvalidData)?)),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                    error => return Err(error),
                },
            }
        }
    }

    fn send(&self, packet: &[u8], flags: i32) -> io::Result<()> {
        loop {
            // SAFETY: the packet is ours and as long as we say.
            let sent = unsafe { libc::send(self.0, packet.as_ptr().cast(), packet.len(), flags | libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Messages from the node, put together from packets.
pub struct Inbox {
    channel: Channel,
    joiner: Joiner,
    buffer: Box<[u8; MAX_PACKET]>,
    greeted: bool,
}

impl Inbox {
    /// Of this channel.
    pub fn new(channel: Channel) -> Inbox {
        Inbox { channel, joiner: Joiner::default(), buffer: Box::new([0; MAX_PACKET]), greeted: false }
    }

    /// Waits for the next message; `None` at the end. A greeting comes out of here only if it is not the first: then the node is another
    /// one, and what the one before was asked will not be answered.
    ///
    /// # Errors
    /// Those of the channel, and that the node speaks another version.
    pub fn receive(&mut self) -> io::Result<Option<ToService>> {
        while let Some(packet) = self.channel.receive(&mut self.buffer)? {
            match self.joiner.take::<ToService>(packet) {
                Ok(None) => {}
                Ok(Some(ToService::Hello { protocol })) => {
                    self.joiner = Joiner::default();
                    if protocol != PROTOCOL {
                        return Err(io::Error::other(format!(
                            "the node speaks protocol {protocol}, this service {PROTOCOL}: both must be of the same version"
                        )));
                    }
                    if std::mem::replace(&mut self.greeted, true) {
                        return Ok(Some(ToService::Hello { protocol }));
                    }
                }
                Ok(message) => return Ok(message),
                Err(error) => {
                    eprintln!("teemate: from the node: {error}");
                    self.joiner = Joiner::default();
                }
            }
        }
        Ok(None)
    }
}

/// Something that the sender does in its turn. It must not wait for anything: the messages behind it would wait too.
pub type Errand = Box<dyn FnOnce() + Send>;

enum Item {
    Message(FromService),
    Errand(Errand),
}

/// Messages on their way to the node, and errands in this process.
pub struct Outbox {
    channel: Channel,
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// The sender has taken a message and not yet written it all.
    sending: bool,
    next_id: u64,
    close: bool,
}

impl Outbox {
    /// An empty one.
    pub fn new(channel: Channel) -> Outbox {
        Outbox { channel, queue: Mutex::default(), filled: Condvar::new() }
    }

    /// Leaves a message for the sender.
    pub fn post(&self, message: FromService) {
        lock(&self.queue).items.push_back(Item::Message(message));
        self.filled.notify_one();
    }

    /// Leaves an errand for the sender.
    pub fn send_out(&self, errand: Errand) {
        lock(&self.queue).items.push_back(Item::Errand(errand));
        self.filled.notify_one();
    }

    /// Writes a message at once if that is possible without waiting, else leaves it for the sender. Only from the process that has
    /// the socket.
    pub fn post_here(&self, mut message: FromService) {
        let mut queue = lock(&self.queue);
        if queue.items.is_empty() && !queue.sending {
            answered(&mut message);
            queue.next_id += 1;
            if let Ok(packets) = packet::cut(queue.next_id, &message)
                && let [packet] = &packets[..]
                && self.channel.send(packet, libc::MSG_DONTWAIT).is_ok()
            {
                return;
            }
        }
        queue.items.push_back(Item::Message(message));
        drop(queue);
        self.filled.notify_one();
    }

    /// Lets [`Outbox::run`] end when everything is written.
    pub fn close(&self) {
        lock(&self.queue).close = true;
        self.filled.notify_one();
    }

    /// The sender: writes messages until closed, or until the node is gone.
    pub fn run(&self) {
        loop {
            let (item, id) = {
                let mut queue = lock(&self.queue);
                loop {
                    queue.sending = false;
                    if let Some(item) = queue.items.pop_front() {
                        queue.sending = true;
                        queue.next_id += 1;
                        break (item, queue.next_id);
                    }
                    if queue.close {
                        return;
                    }
                    queue = self.filled.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            };
            let mut message = match item {
                Item::Message(message) => message,
                Item::Errand(errand) => {
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(errand)).is_err() {
                        eprintln!("teemate: an errand within the service failed");
                    }
                    continue;
                }
            };
            answered(&mut message);
            let packets = match packet::cut(id, &message) {
                Ok(packets) => packets,
                Err(error) => {
                    eprintln!("teemate: a message could not be sent: {error}");
                    continue;
                }
            };
            for packet in packets {
                if let Err(error) = self.channel.send(&packet, 0) {
                    if error.kind() != io::ErrorKind::BrokenPipe {
                        eprintln!("teemate: the node cannot be reached: {error}");
                    }
                    return;
                }
            }
        }
    }
}

/// The answer leaves now.
fn answered(message: &mut FromService) {
    if let FromService::Done { outcome, .. } = message {
        leaves(outcome);
    }
}

/// The outcome leaves the service now.
pub fn leaves(outcome: &mut Outcome) {
    if outcome.marks.last().is_none_or(|last| last.phase != Phase::Answered) {
        outcome.marks.push(mark(Phase::Answered));
    }
}
