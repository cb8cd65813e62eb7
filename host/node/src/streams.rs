//! Connections that the enclave has the host open, to servers that its owners named: the host carries bytes of TLS, and ends none of it.
//!
//! Each connection has a thread, which does one thing after the other: a server that does not answer holds up nobody else's question.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use teemate_control::service::{Ask, Reply, STREAM_PIECE, ToService};

use crate::broker::dial;
use crate::channel::Channel;
use crate::locks::Lock;

/// Connections at one time, those that are being opened or closed among them: each has a thread.
const OPEN_MAX: usize = 64;
/// Questions that wait for one connection. The service asks one at a time.
const QUEUE: usize = 4;
/// A connection that nobody asks about for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long a server may take no bytes.
const SEND_LIMIT: Duration = Duration::from_secs(20);
/// The longest that bytes are waited for.
const RECEIVE_LIMIT: Duration = Duration::from_secs(30);

/// The connections of one enclave.
pub struct Streams {
    /// Threads must not keep the channel of a service that is gone.
    channel: Weak<Channel>,
    open: Arc<Mutex<HashMap<u64, Open>>>,
    threads: Arc<AtomicUsize>,
}

struct Open {
    questions: SyncSender<(u64, Ask)>,
    /// Once it is there; to interrupt who waits for it.
    socket: Arc<OnceLock<TcpStream>>,
}

impl Streams {
    /// None yet.
    pub fn new(channel: &Arc<Channel>) -> Streams {
        Streams { channel: Arc::downgrade(channel), open: Arc::default(), threads: Arc::default() }
    }

    /// Leaves a question about a connection. Never blocks for long.
    pub fn leave(&self, channel: &Channel, question: u64, ask: Ask) {
        let said = match &ask {
            Ask::Connect { connection, address } => self.connect(*connection, address, question),
            Ask::HangUp { connection } => {
                if let Some(open) = self.open.locked().remove(connection) {
                    open.hang_up();
                }
                Some(Reply::Done)
            }
            Ask::Send { connection, .. } | Ask::Receive { connection, .. } => {
                let questions = self.open.locked().get(connection).map(|open| open.questions.clone());
                let left = questions.map(|questions| questions.try_send((question, ask)));
                match left {
                    Some(Ok(())) => None,
                    Some(Err(_)) => Some(Reply::Failed("the connection has ended, or too much is asked of it at once".to_owned())),
                    None => Some(Reply::Failed("there is no such connection (any more)".to_owned())),
                }
            }
            _ => Some(Reply::Failed("this is no question about a connection".to_owned())),
        };
        if let Some(reply) = said {
            let _ = channel.send(&ToService::Reply { question, reply });
        }
    }

    /// Starts to open one. What comes of it, its thread replies.
    fn connect(&self, connection: u64, address: &str, question: u64) -> Option<Reply> {
        let (questions, asked) = sync_channel(QUEUE);
        let socket = Arc::new(OnceLock::new());
        let mut open = self.open.locked();
        if self.threads.load(Ordering::Acquire) >= OPEN_MAX {
            return Some(Reply::Failed(format!("{OPEN_MAX} connections of the enclave are open already; try again later")));
        }
        if open.contains_key(&connection) {
            return Some(Reply::Failed("there is a connection of this number".to_owned()));
        }
        open.insert(connection, Open { questions, socket: Arc::clone(&socket) });
        self.threads.fetch_add(1, Ordering::AcqRel);
        drop(open);
        let (open, threads) = (Arc::clone(&self.open), Arc::clone(&self.threads));
        let stream = Stream { connection, open, threads, channel: Weak::clone(&self.channel), socket };
        let address = address.to_owned();
        let work = move || stream.work(&address, question, &asked);
        match std::thread::Builder::new().name("stream".to_owned()).stack_size(256 << 10).spawn(work) {
            Ok(_) => None,
            Err(error) => Some(Reply::Failed(format!("the host has no thread for a connection: {error}"))),
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.open.locked().drain().for_each(|(_, open)| open.hang_up());
    }
}

impl Open {
    fn hang_up(self) {
        if let Some(socket) = self.socket.get() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A connection, in its thread.
struct Stream {
    connection: u64,
    open: Arc<Mutex<HashMap<u64, Open>>>,
    threads: Arc<AtomicUsize>,
    channel: Weak<Channel>,
    socket: Arc<OnceLock<TcpStream>>,
}

impl Stream {
    fn work(&self, address: &str, question: u64, asked: &Receiver<(u64, Ask)>) {
        let dialled = dial(address);
        let Ok(socket) = dialled.map(|socket| self.socket.get_or_init(|| socket)).map_err(|error| {
            tracing::info!(address = %address.escape_default(), %error, "a connection of the enclave's cannot be opened");
            self.reply(question, Reply::Failed(format!("the host cannot connect to {address}: {error}")));
        }) else {
            return;
        };
        tracing::debug!(address = %address.escape_default(), "a connection of the enclave's is open");
        self.reply(question, Reply::Done);
        loop {
            match asked.recv_timeout(IDLE) {
                Ok((question, ask)) => self.reply(question, answer(socket, ask)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn reply(&self, question: u64, reply: Reply) {
        if let Some(channel) = self.channel.upgrade() {
            let _ = channel.send(&ToService::Reply { question, reply });
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.open.locked();
        if open.get(&self.connection).is_some_and(|open| Arc::ptr_eq(&open.socket, &self.socket)) {
            open.remove(&self.connection);
        }
        self.threads.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(mut socket: &TcpStream, ask: Ask) -> Reply {
    let failed = |what: &str, error: std::io::Error| Reply::Failed(format!("the host cannot {what}: {error}"));
    match ask {
        Ask::Send { bytes, .. } if bytes.len() <= STREAM_PIECE => {
            match socket.set_write_timeout(Some(SEND_LIMIT)).and_then(|()| socket.write_all(&bytes)) {
                Ok(()) => Reply::Done,
                Err(error) => failed("send", error),
            }
        }
        Ask::Receive { length, within_ms, .. } if length > 0 => {
            let within = Duration::from_millis(u64::from(within_ms).max(1)).min(RECEIVE_LIMIT);
            let mut bytes = vec![0; (length as usize).min(STREAM_PIECE)];
            let mut read = || socket.set_read_timeout(Some(within)).and_then(|()| socket.read(&mut bytes));
            let count = loop {
                match read() {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            match count {
                Ok(count) => {
                    bytes.truncate(count);
                    Reply::Bytes(bytes)
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Reply::Missing,
                Err(error) => failed("receive", error),
            }
        }
        _ => Reply::Failed("a question about a connection is out of its bounds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use rustix::net::{RecvFlags, recv};
    use teemate_control::packet::{Joiner, MAX_PACKET};

    use super::*;

    /// The service's end.
    struct Service {
        streams: Streams,
        channel: Arc<Channel>,
        end: OwnedFd,
        asked: u64,
    }

    impl Service {
        fn new() -> Service {
            let (channel, end) = Channel::pair().unwrap();
            Service { streams: Streams::new(&channel), channel, end, asked: 0 }
        }

        fn leave(&mut self, ask: Ask) -> u64 {
            self.asked += 1;
            self.streams.leave(&self.channel, self.asked, ask);
            self.asked
        }

        fn reply(&self) -> (u64, Reply) {
            let (mut joiner, mut buffer) = (Joiner::default(), vec![0; MAX_PACKET]);
            loop {
                let (length, _) = recv(&self.end, &mut buffer[..], RecvFlags::empty()).unwrap();
                match joiner.take(&buffer[..length]).unwrap() {
                    Some(ToService::Reply { question, reply }) => return (question, reply),
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            }
        }

        fn ask(&mut self, ask: Ask) -> Reply {
            let question = self.leave(ask);
            let (answered, reply) = self.reply();
            assert_eq!(answered, question);
            reply
        }

        fn connect(&mut self, connection: u64, server: &TcpListener) -> (Reply, Option<TcpStream>) {
            let reply = self.ask(Ask::Connect { connection, address: server.local_addr().unwrap().to_string() });
            let accepted = (reply == Reply::Done).then(|| server.accept().unwrap().0);
            (reply, accepted)
        }
    }

    fn receive(connection: u64, within_ms: u32) -> Ask {
        Ask::Receive { connection, length: u32::MAX, within_ms }
    }

    fn says(reply: Reply, words: &str) {
        assert!(matches!(&reply, Reply::Failed(why) if why.contains(words)), "{reply:?}");
    }

    #[test]
    fn bytes_go_both_ways_until_the_end() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut service = Service::new();
        let (reply, accepted) = service.connect(1, &server);
        assert_eq!(reply, Reply::Done);
        let mut accepted = accepted.unwrap();
        assert_eq!(service.ask(Ask::Send { connection: 1, bytes: b"there".to_vec() }), Reply::Done);
        let mut there = [0; 5];
        accepted.read_exact(&mut there).unwrap();
        accepted.write_all(b"and back").unwrap();
        assert_eq!(service.ask(receive(1, 5000)), Reply::Bytes(b"and back".to_vec()));
        assert_eq!(service.ask(receive(1, 10)), Reply::Missing);
        accepted.write_all(&[7; 2 * STREAM_PIECE]).unwrap();
        let mut left = 2 * STREAM_PIECE;
        while left > 0 {
            let Reply::Bytes(bytes) = service.ask(receive(1, 5000)) else { panic!() };
            assert!(!bytes.is_empty() && bytes.len() <= STREAM_PIECE);
            left -= bytes.len();
        }
        drop(accepted);
        assert_eq!(service.ask(receive(1, 5000)), Reply::Bytes(Vec::new()));
        assert_eq!(service.ask(Ask::HangUp { connection: 1 }), Reply::Done);
        says(service.ask(receive(1, 5000)), "no such connection");
        assert_eq!(service.ask(Ask::HangUp { connection: 1 }), Reply::Done);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut service = Service::new();
        says(service.ask(receive(1, 1)), "no such connection");
        says(service.ask(Ask::Connect { connection: 1, address: "nonsense".into() }), "nonsense");
        let (_, _accepted) = service.connect(2, &server);
        says(service.ask(Ask::Send { connection: 2, bytes: vec![0; STREAM_PIECE + 1] }), "bounds");
        says(service.ask(Ask::Receive { connection: 2, length: 0, within_ms: 1 }), "bounds");
        says(service.connect(2, &server).0, "of this number");
        drop(server);
        // Its port is nobody's now.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        says(service.ask(Ask::Connect { connection: 3, address: gone }), "cannot connect");
    }

    #[test]
    fn a_silent_server_holds_up_nobody_and_can_be_left() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut service = Service::new();
        let (_, silent) = service.connect(1, &server);
        let (_, other) = service.connect(2, &server);
        let began = Instant::now();
        let waits = service.leave(receive(1, 30_000));
        other.unwrap().write_all(b"x").unwrap();
        assert_eq!(service.ask(receive(2, 5000)), Reply::Bytes(b"x".to_vec()));
        let hung_up = service.leave(Ask::HangUp { connection: 1 });
        let mut replies = [service.reply().0, service.reply().0];
        replies.sort_unstable();
        assert_eq!(replies, [waits, hung_up]);
        assert!(began.elapsed() < Duration::from_secs(20));
        drop(silent);
    }

    #[test]
    fn there_are_only_so_many_and_none_outlives_the_enclave() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut service = Service::new();
        let accepted: Vec<_> = (1..=OPEN_MAX as u64).map(|connection| service.connect(connection, &server).1.unwrap()).collect();
        says(service.connect(1000, &server).0, "open already");
        service.ask(Ask::HangUp { connection: 1 });
        let began = Instant::now();
        while service.connect(1001, &server).0 != Reply::Done {
            assert!(began.elapsed() < Duration::from_secs(20), "its place stays taken");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(service);
        for mut stream in accepted {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }
}
