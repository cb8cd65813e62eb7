//! A connection to a server of an owner's, whose bytes the host carries: for TLS, which notices what the host does to them.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use teemate_control::service::{Ask, Reply, STREAM_PIECE};

/// How much longer than the server the host has for its reply.
const GRACE: Duration = Duration::from_secs(2);

/// Numbers of connections.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Who can ask the host.
pub trait Host {
    /// Asks, and waits.
    ///
    /// # Errors
    /// When the host does not reply in time, or says why it cannot.
    fn ask_wait(&self, ask: Ask, limit: Duration) -> io::Result<Reply>;

    /// Tells the host something whose reply nobody waits for.
    fn tell(&self, ask: Ask);
}

/// A stream of bytes through the host. Closed when it goes.
pub struct HostStream<H: Host> {
    host: H,
    connection: u64,
    /// Until when there may be anything.
    end: Instant,
    /// Bytes that may still come.
    room: usize,
    /// Came and was not read.
    read: Vec<u8>,
    at: usize,
}

impl<H: Host> HostStream<H> {
    /// Connects to a `host:port`. Everything together may take `limit`, and bring at most `most` bytes.
    ///
    /// # Errors
    /// When the host does not do it in time, or says why it cannot.
    pub fn connect(host: H, address: &str, limit: Duration, most: usize) -> io::Result<HostStream<H>> {
        let connection = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let stream = HostStream { host, connection, end: Instant::now() + limit, room: most, read: Vec::new(), at: 0 };
        stream.ask(Ask::Connect { connection, address: address.to_owned() })?;
        Ok(stream)
    }

    /// From now on the rest may take `limit`, and bring at most `most` bytes.
    pub fn renew(&mut self, limit: Duration, most: usize) {
        (self.end, self.room) = (Instant::now() + limit, most);
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long")) } else { Ok(left) }
    }

    fn ask(&self, ask: Ask) -> io::Result<Reply> {
        self.host.ask_wait(ask, self.left()? + GRACE)
    }
}

impl<H: Host> Read for HostStream<H> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.at == self.read.len() {
            if self.room == 0 {
                return Err(io::Error::other("it sends more than there is room for"));
            }
            let within_ms = u32::try_from(self.left()?.as_millis()).unwrap_or(u32::MAX).max(1);
            let length = self.room.min(STREAM_PIECE) as u32;
            let bytes = match self.ask(Ask::Receive { connection: self.connection, length, within_ms })? {
                Reply::Bytes(bytes) => bytes,
                Reply::Missing => return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came in time")),
                // A reply that is longer, or another one, has become a failure already.
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            self.room -= bytes.len().min(self.room);
            (self.read, self.at) = (bytes, 0);
        }
        let count = into.len().min(self.read.len() - self.at);
        into[..count].copy_from_slice(&self.read[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl<H: Host> Write for HostStream<H> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(STREAM_PIECE)];
        if !piece.is_empty() {
            self.ask(Ask::Send { connection: self.connection, bytes: piece.to_vec() })?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that lasts: each step may take a time of its own, and anything may come.
pub struct Lasting<H: Host> {
    stream: HostStream<H>,
    /// How long reading waits.
    pub limit: Duration,
}

impl<H: Host> Lasting<H> {
    /// How long the other end may take to take what it is sent.
    const SEND: Duration = Duration::from_secs(20);

    /// Connects to a `host:port`.
    ///
    /// # Errors
    /// As [`HostStream::connect`].
    pub fn connect(host: H, address: &str, limit: Duration) -> io::Result<Lasting<H>> {
        Ok(Lasting { stream: HostStream::connect(host, address, limit, usize::MAX)?, limit })
    }
}

impl<H: Host> Read for Lasting<H> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.renew(self.limit, usize::MAX);
        self.stream.read(into)
    }
}

impl<H: Host> Write for Lasting<H> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.renew(Self::SEND, usize::MAX);
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<H: Host> Drop for HostStream<H> {
    fn drop(&mut self) {
        self.host.tell(Ask::HangUp { connection: self.connection });
    }
}
