//! Plain local connections for clients that can't verify: a pipe of bytes from a local socket to an enclave.
//!
//! Each local connection gets a connection of its own, which is verified by itself before a byte of the client's is sent; a database is
//! asked which one it is, too. The proxy reads nothing of what it forwards. Where an endpoint is refused it says so in the client's
//! protocol, as far as that has a way to.
//!
//! A client of Redis's protocol that speaks TLS is an enclave that follows the database behind the proxy, because a Sentinel named this address to it.
//! It verifies for itself: its bytes are passed to the endpoint as they are.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::database::{self, Identity, Known};
use crate::memory::Memory;
use crate::tls::Attested;
use crate::{Connector, Endpoint, Refusal, tls};

/// What clients speak. It decides what ALPN offers and how a refusal is told; the bytes are the same pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: a page with status 502.
    Http,
    /// Redis's: an error reply to the first command.
    Redis,
    /// Anything else: the connection is reset.
    Tcp,
}

impl Protocol {
    /// Its name in ALPN, if it has one. Redis's has none that is registered.
    fn alpn(self) -> Option<&'static str> {
        (self == Protocol::Http).then_some(tls::HTTP)
    }
}

/// Longest head of a request that is read before a refusal is answered.
const MAX_HEAD: usize = 64 << 10;
/// How long a client may take to send that, and to read the refusal.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// How it runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the enclave is.
    pub endpoint: Endpoint,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Most connections at once; further ones wait.
    pub connections: usize,
    /// A connection on which nothing moves in either direction for so long is closed.
    pub idle: Duration,
    /// What is known of the databases there, if they are any.
    pub known: Option<Known>,
}

/// Something worth telling.
#[derive(Debug)]
pub enum Event {
    /// A connection was made and verified.
    Opened(SocketAddr),
    /// A connection of a client that speaks TLS and verifies for itself.
    Passed(SocketAddr),
    /// A connection ended, with the bytes that went to the enclave and came from it.
    Closed(SocketAddr, u64, u64),
    /// A connection was closed because nothing moved on it.
    Idle(SocketAddr),
    /// The endpoint can't be used; the client was told.
    Refused(SocketAddr, String),
    /// Accepting failed; it goes on.
    Accept(io::Error),
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, connector: Connector, options: Options, tell: impl Fn(Event) + Send + Sync + 'static) {
    let places = Arc::new(Semaphore::new(options.connections));
    let (connector, options, tell) = (Arc::new(connector), Arc::new(options), Arc::new(tell));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((local, from)) => {
                let (connector, options, tell) = (connector.clone(), options.clone(), tell.clone());
                tokio::spawn(async move {
                    tell(connection(local, from, &connector, &options, &*tell).await);
                    drop(place);
                });
            }
            Err(error) => {
                tell(Event::Accept(error));
                // Most likely no descriptors are left; others will be closed.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    mut local: TcpStream,
    from: SocketAddr,
    connector: &Connector,
    options: &Options,
    tell: &(impl Fn(Event) + Send + Sync),
) -> Event {
    if options.protocol == Protocol::Redis {
        match timeout(options.idle, speaks_tls(&local)).await {
            Ok(false) => {}
            Ok(true) => return pass(local, from, connector, options, tell).await,
            Err(_) => return Event::Idle(from),
        }
    }
    let remote = match meet(connector, options).await {
        Ok(remote) => remote,
        Err(error) => {
            let why = error.to_string();
            let _ = timeout(PAGE_TIME, refuse(&mut local, options.protocol, &why)).await;
            return Event::Refused(from, why);
        }
    };
    tell(Event::Opened(from));
    pipe(local, remote, from, options.idle).await
}

/// Passes a client on that verifies for itself.
async fn pass(
    local: TcpStream,
    from: SocketAddr,
    connector: &Connector,
    options: &Options,
    tell: &(impl Fn(Event) + Send + Sync),
) -> Event {
    match dial(&options.endpoint, connector.timeout()).await {
        Ok(remote) => {
            tell(Event::Passed(from));
            pipe(local, remote, from, options.idle).await
        }
        Err(error) => Event::Refused(from, error.to_string()),
    }
}

/// Whether a client's first byte is that of a TLS handshake (RFC 8446, 5.1), which no request of Redis's begins with. Redis's clients speak first.
async fn speaks_tls(local: &TcpStream) -> bool {
    let mut first = [0];
    matches!(local.peek(&mut first).await, Ok(1)) && first == [22]
}

/// Carries bytes both ways until the end.
async fn pipe(local: TcpStream, remote: impl AsyncRead + AsyncWrite + Unpin, from: SocketAddr, idle: Duration) -> Event {
    let _ = local.set_nodelay(true);
    let moved = Arc::new(Moved { start: Instant::now(), last: AtomicU64::new(0) });
    let mut local = Watched { inner: local, moved: moved.clone(), read: 0 };
    let mut remote = Watched { inner: remote, moved: moved.clone(), read: 0 };
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut local, &mut remote) => {
            if copied.is_err() {
                // The enclave did not say that this is the end: the host may have cut the connection. So the client gets no end either.
                let _ = local.inner.set_zero_linger();
            }
            Event::Closed(from, local.read, remote.read)
        }
        () = moved.stands_still(idle) => Event::Idle(from),
    }
}

/// Connects and verifies; and a database is the one that was known.
async fn meet(connector: &Connector, options: &Options) -> Result<TlsStream<TcpStream>, Error> {
    let Some(known) = &options.known else { return Ok(connect(connector, &options.endpoint, options.protocol).await?.0) };
    let refused = |source| Error::Database { endpoint: options.endpoint.clone(), source };
    // Opened before it is asked.
    let memory = Memory::open(&known.path).map_err(|error| refused(error.into()))?;
    let (mut stream, attested) = connect(connector, &options.endpoint, options.protocol).await?;
    let late = |_| refused(io::Error::new(io::ErrorKind::TimedOut, "it took too long").into());
    let identity = timeout(connector.timeout(), identity(&mut stream)).await.map_err(late)?.map_err(refused)?;
    known.compare(memory, &options.endpoint.to_string(), attested.verified.mrsigner, &identity).map_err(refused)?;
    Ok(stream)
}

/// Which database it is.
async fn identity(stream: &mut TlsStream<TcpStream>) -> Result<Identity, database::Error> {
    stream.write_all(database::QUESTION).await?;
    stream.flush().await?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 512]);
    loop {
        match stream.read(&mut piece).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
        if let Some(identity) = Identity::parse(&bytes)? {
            return Ok(identity);
        }
    }
}

/// Connects and verifies.
///
/// # Errors
/// [`tls::Error`].
pub async fn connect(
    connector: &Connector,
    endpoint: &Endpoint,
    protocol: Protocol,
) -> Result<(TlsStream<TcpStream>, Attested), tls::Error> {
    let deadline = Instant::now() + connector.timeout();
    let socket = dial(endpoint, connector.timeout()).await?;
    let (verifier, config, name) = connector.configure(endpoint, protocol.alpn())?;
    let done = tokio::time::timeout_at(deadline, TlsConnector::from(config).connect(name, socket)).await;
    verifier.verdict(endpoint, done.unwrap_or_else(|_| Err(late())))
}

async fn dial(endpoint: &Endpoint, within: Duration) -> Result<TcpStream, tls::Error> {
    let dialled = timeout(within, TcpStream::connect((endpoint.host.as_str(), endpoint.port))).await;
    let made = dialled.unwrap_or_else(|_| Err(late())).and_then(|socket| socket.set_nodelay(true).map(|()| socket));
    made.map_err(|source| tls::Error::Unreachable { endpoint: endpoint.clone(), source })
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it took too long")
}

/// Tells the client that the endpoint is refused.
async fn refuse(local: &mut TcpStream, protocol: Protocol, why: &str) -> io::Result<()> {
    let clean: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match protocol {
        Protocol::Http => refuse_request(local, &clean).await,
        Protocol::Redis => {
            // A reply before the first command would answer nothing: clients take it for nonsense.
            if local.read(&mut [0; 4096]).await? == 0 {
                return Ok(());
            }
            finish(local, &format!("-ERR teemate proxy sent nothing of this to the endpoint: {clean}\r\n")).await
        }
        // The log says why; an end without a reset would look like an answer of no bytes.
        Protocol::Tcp => local.set_zero_linger(),
    }
}

/// Reads a request's head, so that the client does not meet a reset while it writes, and answers 502.
async fn refuse_request(local: &mut TcpStream, why: &str) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match local.read(&mut buffer).await? {
            0 => break,
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    let body = format!("502 Bad Gateway\n\nteemate proxy sent nothing of this request to the endpoint:\n{why}\n");
    let answer = format!(
        "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n{body}",
        body.len()
    );
    finish(local, &answer).await
}

/// Sends the last answer of a connection.
async fn finish(local: &mut TcpStream, answer: &str) -> io::Result<()> {
    local.write_all(answer.as_bytes()).await?;
    local.shutdown().await?;
    let mut buffer = [0; 4096];
    // What is still on its way is thrown away: an early close would reset the connection and the page with it.
    let mut left = 1usize << 20;
    while left > 0 {
        match local.read(&mut buffer).await? {
            0 => break,
            length => left = left.saturating_sub(length),
        }
    }
    Ok(())
}

/// When something moved last.
struct Moved {
    start: Instant,
    last: AtomicU64,
}

impl Moved {
    fn note(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    async fn stands_still(&self, time: Duration) {
        loop {
            let last = self.start + Duration::from_millis(self.last.load(Relaxed));
            let left = (last + time).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// Notes each byte that moves.
struct Watched<S> {
    inner: S,
    moved: Arc<Moved>,
    read: u64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        let length = buffer.filled().len() - before;
        if length > 0 {
            self.moved.note();
            self.read += length as u64;
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        self.moved.note();
        Poll::Ready(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is refused or can't be reached.
    #[error(transparent)]
    Endpoint(#[from] tls::Error),
    /// The database there is not the one that was known, or does not say which it is.
    #[error("{endpoint} is refused: {source}")]
    Database {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: database::Error,
    },
    /// The policy's collateral can't be used.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It can't listen.
    #[error("can't listen on {listen}: {source}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Verifies the endpoint, listens, calls `ready` with the address, and serves for ever on this thread.
///
/// # Errors
/// [`Error`]: it did not start.
pub fn run(
    listen: SocketAddr,
    connector: Connector,
    mut options: Options,
    ready: impl FnOnce(SocketAddr),
    tell: impl Fn(Event) + Send + Sync + 'static,
) -> Result<(), Error> {
    let failed = |source| Error::Listen { listen, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async move {
        // Somebody who can't be accepted is known before a client's first request is.
        drop(meet(&connector, &options).await?);
        if let Some(known) = &mut options.known {
            // Once: the next one that is another is refused.
            known.accept = false;
        }
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        ready(listener.local_addr().map_err(failed)?);
        serve(listener, connector, options, tell).await;
        Ok(())
    })
}
