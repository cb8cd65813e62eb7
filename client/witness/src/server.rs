//! TLS, a thread a connection, bounds on all that a stranger can send.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use teemate_witness::protocol::{self, About, Refusal, Request, Response, VERSION};

use crate::memory::show;
use crate::{Error, Identity, Memory};

/// Connections at one time.
const CONNECTIONS: usize = 256;
/// How long a connection may take until a database has said something by it.
const GREETING: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for so long is closed. Databases say something every ten seconds.
const IDLE: Duration = Duration::from_secs(120);

/// Something worth telling.
#[derive(Debug)]
pub enum Event {
    /// A database was opened, in this epoch.
    Opened(SocketAddr, String, u64),
    /// A database, or somebody else, was refused something.
    Refused(SocketAddr, Refusal),
    /// A connection ended otherwise than by its end.
    Broken(SocketAddr, io::Error),
    /// Accepting failed; it goes on.
    Accept(io::Error),
}

/// A witness that listens.
pub struct Server {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    memory: Arc<Memory>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`Error`].
    pub fn bind(listen: SocketAddr, identity: &Identity, memory: Memory) -> Result<Server, Error> {
        let listener = TcpListener::bind(listen).map_err(Error::Serve)?;
        Ok(Server { listener, tls: identity.tls()?, memory: Arc::new(memory) })
    }

    /// Where.
    ///
    /// # Errors
    /// Those of the system.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(Error::Serve)
    }

    /// Serves for ever.
    pub fn serve(self, tell: impl Fn(Event) + Send + Sync + 'static) {
        let (tell, open) = (Arc::new(tell), Arc::new(AtomicUsize::new(0)));
        loop {
            let (socket, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    tell(Event::Accept(error));
                    // Most likely no descriptors are left; others will be closed.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
                open.fetch_sub(1, Ordering::AcqRel);
                tell(Event::Broken(from, io::Error::other("as many connections are open as may be")));
                continue;
            }
            let place = Place(open.clone());
            let (tls, memory, told) = (self.tls.clone(), self.memory.clone(), tell.clone());
            let begun = std::thread::Builder::new().name("connection".to_owned()).stack_size(256 << 10).spawn(move || {
                let _place = place;
                if let Err(error) = connection(socket, from, tls, &memory, &*told) {
                    told(Event::Broken(from, error));
                }
            });
            if let Err(error) = begun {
                tell(Event::Accept(error));
            }
        }
    }
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A socket on which everything must be done by some time: a peer that sends a byte now and then does not hold it for longer.
struct Timed {
    socket: TcpStream,
    end: Instant,
}

impl Timed {
    fn hurry(&self) -> io::Result<()> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.set_write_timeout(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.hurry()?;
        self.socket.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hurry()?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn connection(socket: TcpStream, from: SocketAddr, tls: Arc<ServerConfig>, memory: &Memory, tell: &dyn Fn(Event)) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let session = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, Timed { socket, end: Instant::now() + GREETING });
    while let Some(request) = protocol::read::<Request>(&mut stream)? {
        let response = answer(&request, memory);
        match &response {
            Response::Refused(refusal) => tell(Event::Refused(from, refusal.clone())),
            Response::Opened(kept) => tell(Event::Opened(from, show(&request.database), kept.epoch)),
            Response::Remembered => {}
        }
        if !matches!(response, Response::Refused(_)) {
            stream.sock.end = Instant::now() + IDLE;
        }
        protocol::write(&response, &mut stream)?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

fn answer(request: &Request, memory: &Memory) -> Response {
    let (name, secret) = (&request.database, &request.secret.0);
    let answer = match &request.about {
        _ if request.version != VERSION => Err(Refusal::Version(VERSION)),
        About::Open { above, new } => memory.begin(name, secret, *above, *new).map(Response::Opened),
        About::Remember(mark) => memory.remember(name, secret, mark).map(|()| Response::Remembered),
    };
    answer.unwrap_or_else(Response::Refused)
}
