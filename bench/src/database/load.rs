//! The clients: one thread that keeps many connections busy, in the clear or under TLS, the same for whoever serves.
//!
//! A closed loop: each connection sends `pipeline` requests, waits for all replies, and goes on. The time of such a batch is its latency.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll;
use rustls::{ClientConfig, ClientConnection};

use super::histogram::Histogram;
use super::tls;

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(60);
/// Digits of a key's number.
const DIGITS: usize = 12;

/// Who is asked.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Whether by TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// What clients say first, if anything.
    pub password: Option<&'static str>,
}

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// GET.
    Get,
    /// SET.
    Set,
}

/// Which key is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other; the load ends when each had its turn.
    Sequential,
    /// Any, as long as it lasts.
    Random,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Requests that each sends at a time.
    pub pipeline: usize,
    /// Command.
    pub command: Command,
    /// Keys.
    pub keys: u64,
    /// Their order.
    pub order: Order,
    /// Bytes of a value.
    pub value: usize,
    /// Requests a second at most. `None`: as many as there can be.
    pub rate: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// Seconds from the first request to the last reply.
    pub seconds: f64,
    /// Times of batches in nanoseconds.
    pub latency: Histogram,
    /// Error replies; the first.
    pub errors: u64,
    /// See `errors`.
    pub error: Option<String>,
}

impl Outcome {
    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds.max(1e-9)
    }
}

/// When it ends, and how far it is.
#[derive(Default)]
pub struct Watch {
    /// Set from outside: no more is sent.
    pub over: AtomicBool,
    /// Requests answered so far.
    pub answered: AtomicU64,
}

/// Puts this load on a server, for a time, or until it is through, or until it is told to end.
///
/// # Errors
/// When a connection fails, or a reply does not come.
pub fn put(target: &Target, load: &Load, time: Option<Duration>, watch: &Watch) -> Result<Outcome> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = (0..load.connections).map(|_| Client::connect(target, load)).collect::<Result<Vec<_>>>()?;
    for (at, client) in clients.iter().enumerate() {
        epoll::add(&epoll, client.stream.as_fd(), epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
    }
    let mut keys = Keys { next: 0, end: load.keys, order: load.order, random: 0x9e37_79b9_7f4a_7c15 };
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    let (mut waiting, mut last) = (0, begin);
    for client in &mut clients {
        waiting += usize::from(client.send(&mut keys, load.pipeline)?);
    }
    let mut events: Vec<epoll::Event> = Vec::with_capacity(load.connections);
    while waiting > 0 {
        events.clear();
        let wait = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if last.elapsed() > PATIENCE {
            bail!("no reply for {PATIENCE:?}");
        }
        for event in &events {
            let client = &mut clients[event.data.u64() as usize];
            client.receive(&mut outcome)?;
            if client.left > 0 || client.sent == 0 {
                continue;
            }
            last = Instant::now();
            outcome.latency.add(last.duration_since(client.since).as_nanos() as u64);
            outcome.requests += client.sent as u64;
            watch.answered.store(outcome.requests, Ordering::Relaxed);
            let over = watch.over.load(Ordering::Relaxed) || time.is_some_and(|time| last.duration_since(begin) >= time);
            if let Some(rate) = load.rate.filter(|_| !over) {
                pace(outcome.requests, rate, begin);
            }
            client.sent = 0;
            if over || !client.send(&mut keys, load.pipeline)? {
                waiting -= 1;
            }
        }
    }
    outcome.seconds = last.duration_since(begin).as_secs_f64();
    Ok(outcome)
}

/// Waits until so many requests are no more than the rate allows.
fn pace(requests: u64, rate: f64, begin: Instant) {
    let due = Duration::from_secs_f64(requests as f64 / rate);
    let early = due.saturating_sub(begin.elapsed());
    if early > Duration::from_millis(1) {
        std::thread::sleep(early);
    }
}

struct Keys {
    next: u64,
    end: u64,
    order: Order,
    random: u64,
}

impl Keys {
    fn next(&mut self) -> Option<u64> {
        match self.order {
            Order::Sequential => {
                let next = self.next;
                self.next += 1;
                (next < self.end).then_some(next)
            }
            Order::Random => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                Some(self.random % self.end)
            }
        }
    }
}

/// A connection.
struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// One request, and where in it the key's digits are.
    request: Vec<u8>,
    digits: usize,
    output: Vec<u8>,
    input: Vec<u8>,
    scratch: Box<[u8]>,
    /// Requests of the batch, and replies that are still to come.
    sent: usize,
    left: usize,
    since: Instant,
}

impl Client {
    fn connect(target: &Target, load: &Load) -> Result<Client> {
        let mut stream = TcpStream::connect(target.address).with_context(|| format!("{} can't be reached", target.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut tls = match &target.tls {
            Some(config) => Some(Box::new(tls::client(config)?)),
            None => None,
        };
        if let Some(tls) = &mut tls {
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
        }
        if let Some(password) = target.password {
            authenticate(&mut stream, tls.as_deref_mut(), password)?;
        }
        stream.set_nonblocking(true)?;
        let (request, digits) = request(load);
        Ok(Client {
            stream,
            tls,
            request,
            digits,
            output: Vec::new(),
            input: Vec::new(),
            scratch: vec![0; 64 << 10].into(),
            sent: 0,
            left: 0,
            since: Instant::now(),
        })
    }

    /// Sends the next batch. False: there are no more keys.
    fn send(&mut self, keys: &mut Keys, pipeline: usize) -> Result<bool> {
        self.output.clear();
        let mut count = 0;
        while count < pipeline
            && let Some(key) = keys.next()
        {
            let at = self.output.len() + self.digits;
            self.output.extend_from_slice(&self.request);
            write_digits(&mut self.output[at..at + DIGITS], key);
            count += 1;
        }
        (self.sent, self.left) = (count, count);
        if count == 0 {
            return Ok(false);
        }
        self.since = Instant::now();
        match &mut self.tls {
            None => write_all(&self.stream, &self.output, |mut stream, bytes| stream.write(bytes))?,
            Some(tls) => {
                tls.writer().write_all(&self.output)?;
                while tls.wants_write() {
                    match tls.write_tls(&mut self.stream) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => wait_to_write(&self.stream)?,
                        other => drop(other?),
                    }
                }
            }
        }
        Ok(true)
    }

    /// Reads what is there, and counts replies.
    fn receive(&mut self, outcome: &mut Outcome) -> Result<()> {
        match self.stream.read(&mut self.scratch) {
            Ok(0) => bail!("the server has hung up"),
            Ok(count) => {
                let mut bytes = &self.scratch[..count];
                match &mut self.tls {
                    None => self.input.extend_from_slice(bytes),
                    Some(tls) => {
                        while !bytes.is_empty() {
                            tls.read_tls(&mut bytes)?;
                            tls.process_new_packets()?;
                            match tls.reader().read_to_end(&mut self.input) {
                                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                                _ => {}
                            }
                        }
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let mut at = 0;
        while self.left > 0
            && let Some(length) = reply(&self.input[at..])?
        {
            if self.input[at] == b'-' {
                outcome.errors += 1;
                let text = || String::from_utf8_lossy(&self.input[at + 1..at + length - 2]).into_owned();
                outcome.error.get_or_insert_with(text);
            }
            at += length;
            self.left -= 1;
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// One request, and where in it the digits of its key are.
fn request(load: &Load) -> (Vec<u8>, usize) {
    let name = match load.command {
        Command::Get => "*2\r\n$3\r\nGET\r\n$16\r\nkey:",
        Command::Set => "*3\r\n$3\r\nSET\r\n$16\r\nkey:",
    };
    let mut bytes = name.as_bytes().to_vec();
    let digits = bytes.len();
    bytes.extend([b'0'; DIGITS]);
    bytes.extend(b"\r\n");
    if load.command == Command::Set {
        bytes.extend(format!("${}\r\n", load.value).into_bytes());
        // Nothing that could be compressed: Redis does that in its file.
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        bytes.extend((0..load.value).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        }));
        bytes.extend(b"\r\n");
    }
    (bytes, digits)
}

fn write_digits(into: &mut [u8], mut number: u64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Length of the reply that these bytes begin with, if it is whole.
fn reply(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let length = match bytes[0] {
        b'+' | b'-' | b':' => end + 1,
        b'$' if bytes[1] == b'-' => end + 1,
        b'$' => end + 1 + std::str::from_utf8(&bytes[1..end - 1])?.parse::<usize>()? + 2,
        other => bail!("a reply begins with {:?}", char::from(other)),
    };
    Ok((bytes.len() >= length).then_some(length))
}

fn write_all(stream: &TcpStream, mut bytes: &[u8], mut write: impl FnMut(&TcpStream, &[u8]) -> io::Result<usize>) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(stream, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_to_write(stream)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A batch is not so large that a server would have to be read from first: it takes what it is sent.
fn wait_to_write(stream: &TcpStream) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let wait = rustix::time::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&wait)) {
        Ok(0) => Err(ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn authenticate(stream: &mut TcpStream, tls: Option<&mut ClientConnection>, password: &str) -> Result<()> {
    let request = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len());
    let mut answer = [0; 5];
    match tls {
        None => {
            stream.write_all(request.as_bytes())?;
            stream.read_exact(&mut answer)?;
        }
        Some(tls) => {
            let mut stream = rustls::Stream::new(tls, stream);
            stream.write_all(request.as_bytes())?;
            stream.read_exact(&mut answer)?;
        }
    }
    if answer != *b"+OK\r\n" {
        bail!("the server does not take the password");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_wherever_they_are_cut() {
        let bytes = b"+OK\r\n$3\r\na\nb\r\n$-1\r\n-ERR no\r\n:7\r\n";
        let lengths = [5, 9, 5, 9, 4];
        let mut at = 0;
        for length in lengths {
            for cut in at..at + length {
                assert_eq!(reply(&bytes[at..cut]).unwrap(), None);
            }
            assert_eq!(reply(&bytes[at..]).unwrap(), Some(length));
            at += length;
        }
        assert_eq!(at, bytes.len());
        assert!(reply(b"?\r\n").is_err());
    }

    #[test]
    fn a_request_has_its_key() {
        let load = Load { connections: 1, pipeline: 1, command: Command::Set, keys: 1, order: Order::Sequential, value: 4, rate: None };
        let (mut bytes, at) = request(&load);
        write_digits(&mut bytes[at..at + DIGITS], 1234);
        assert!(bytes.starts_with(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000001234\r\n$4\r\n"));
        assert!(bytes.ends_with(b"\r\n"));
    }
}
