//! Following another server: a thread that connects to it, gets its snapshot and its stream, and begins again when the connection breaks.
//!
//! As Redis's replicas do it. Natively over TCP without encryption: for one machine, or a network that is trusted. An enclave connects to
//! enclaves that it has verified alone ([`Dial`]). What comes is carried out by the server's own thread; this one reads a snapshot into
//! databases that nobody uses, and everything after it goes through a queue that is bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::persistence::import::{self, Loaded};
use crate::resp::write_request;
use crate::store::Store;
use crate::value::Limits;

/// Pieces of the stream that wait for the server.
const PIECES: usize = 64;
/// Longest line of an answer.
const LINE: u64 = 4096;
/// How long a connection may take to come about, and the other end to take what it is sent.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long after it broke another is tried.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is said how far this end is, where nobody asks.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// Stack of the thread, which may verify a quote.
const STACK: usize = 1 << 20;
/// How soon it is looked whether somebody asks.
const LOOK: Duration = Duration::from_millis(10);

/// A connection to the server that is followed.
pub trait Connection: Read + Write + Send {
    /// From now on reading fails with `WouldBlock` or `TimedOut` when nothing comes for so long.
    ///
    /// # Errors
    /// When that can't be said.
    fn wait_at_most(&mut self, limit: Duration) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn wait_at_most(&mut self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

/// Whom to connect to.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is accepted as an enclave there (the text of a client's policy); empty: what this one is itself.
    pub policy: String,
    /// Collateral for its quote, JSON; empty: none.
    pub collateral: String,
}

/// Connects, and verifies whom there is.
pub type Dial = Arc<dyn Fn(&Peer) -> io::Result<Box<dyn Connection>> + Send + Sync>;

/// How a server follows others.
#[derive(Clone)]
pub struct Following {
    /// How it connects.
    pub dial: Dial,
    /// Whether the other end must say that a password was needed: the host may lead this one to a server of its own, of the same program.
    pub demands_password: bool,
}

impl Following {
    /// By plain TCP.
    pub fn plain() -> Following {
        Following { dial: Arc::new(plain), demands_password: false }
    }
}

impl std::fmt::Debug for Following {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Following").field("demands_password", &self.demands_password).finish_non_exhaustive()
    }
}

fn plain(peer: &Peer) -> io::Result<Box<dyn Connection>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in (peer.host.as_str(), peer.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(CONNECT))?;
                return Ok(Box::new(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What the thread tells the server.
pub enum Event {
    /// It begins a snapshot of that stream, which has come so far: what there is here does not count any more.
    Full,
    /// The snapshot, the stream's name, and how far that had come.
    Loaded(Box<Loaded>, String, u64),
    /// It goes on where it was; the stream may have another name now.
    Continues(String),
    /// The next bytes of the stream.
    Bytes(Vec<u8>),
    /// The connection broke, or did not come about.
    Broken(String),
}

/// How the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Connecting,
    /// It gets a snapshot.
    Loading,
    /// It follows.
    Up,
}

/// What both threads know.
#[derive(Debug, Default)]
struct Told {
    /// Bytes of the stream that were carried out.
    applied: AtomicU64,
    /// Whether the other end wants to know.
    asked: AtomicBool,
    /// Whether nobody follows any more.
    ended: AtomicBool,
}

/// Whom it follows, from the server's side.
pub struct Link {
    /// The other's name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is.
    pub state: State,
    /// Since when (ms) it is not up.
    pub down_since: i64,
    /// When (ms) something came last.
    pub heard: i64,
    /// Bytes of the stream that are no whole command yet.
    pub rest: Vec<u8>,
    /// Why there is no connection, if it is known.
    pub why: Option<String>,
    /// What the thread tells.
    pub events: Receiver<Event>,
    told: Arc<Told>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Link")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.told.ended.store(true, SeqCst);
    }
}

impl Link {
    /// Begins to follow. `stream`: the name of the stream that this server has, and how far it is, if it can go on from there.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(
        following: &Following,
        (host, port): (&str, u16),
        config: &Config,
        own_port: u16,
        databases: usize,
        stream: Option<(String, u64)>,
        now: i64,
    ) -> io::Result<Link> {
        let (give, events) = sync_channel(PIECES);
        let told = Arc::new(Told::default());
        let announced = match config.number("replica-announce-port") {
            0 => own_port,
            port => u16::try_from(port).unwrap_or(own_port),
        };
        let thread = Thread {
            following: following.clone(),
            peer: Peer {
                host: host.to_owned(),
                port,
                policy: config.get("replica-policy").to_owned(),
                collateral: config.get("replica-collateral").to_owned(),
            },
            user: config.get("masteruser").to_owned(),
            password: config.get("masterauth").to_owned(),
            announced: (config.get("replica-announce-ip").to_owned(), announced),
            timeout: Duration::from_secs(config.number("repl-timeout").max(1).unsigned_abs()),
            databases,
            limits: config.hot.limits,
            give,
            told: told.clone(),
            stream,
        };
        std::thread::Builder::new().name("link".to_owned()).stack_size(STACK).spawn(move || thread.run())?;
        let (host, state, rest) = (host.to_owned(), State::Connecting, Vec::new());
        Ok(Link { host, port, state, down_since: now, heard: now, rest, why: None, events, told })
    }

    /// Says how far it is carried out.
    pub fn applied(&self, offset: u64) {
        self.told.applied.store(offset, SeqCst);
    }

    /// The other end wants to know that.
    pub fn ask(&self) {
        self.told.asked.store(true, SeqCst);
    }
}

type Wire = BufReader<Box<dyn Connection>>;

struct Thread {
    following: Following,
    peer: Peer,
    user: String,
    password: String,
    announced: (String, u16),
    timeout: Duration,
    databases: usize,
    limits: Limits,
    give: SyncSender<Event>,
    told: Arc<Told>,
    /// The stream's name, and the bytes of it that have come.
    stream: Option<(String, u64)>,
}

/// Why the thread stops what it does.
enum Ends {
    /// The connection broke.
    Broken(String),
    /// Nobody wants it any more.
    Deserted,
}

impl From<io::Error> for Ends {
    fn from(error: io::Error) -> Ends {
        Ends::Broken(error.to_string())
    }
}

fn broken(why: impl ToString) -> Ends {
    Ends::Broken(why.to_string())
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.follow() {
                Ends::Deserted => return,
                Ends::Broken(why) => {
                    if self.tell(Event::Broken(why)).is_err() {
                        return;
                    }
                }
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn tell(&self, event: Event) -> Result<(), Ends> {
        self.give.send(event).map_err(|_| Ends::Deserted)
    }

    fn follow(&mut self) -> Ends {
        match self.connect().and_then(|stream| self.synchronise(stream)) {
            Ok(()) => Ends::Deserted,
            Err(ends) => ends,
        }
    }

    fn connect(&self) -> Result<Wire, Ends> {
        if self.following.demands_password && self.password.is_empty() {
            return Err(broken("there is no masterauth: without a password anybody's database could be followed"));
        }
        let mut connection = (self.following.dial)(&self.peer)?;
        connection.wait_at_most(self.timeout)?;
        Ok(BufReader::with_capacity(64 << 10, connection))
    }

    fn synchronise(&mut self, mut stream: Wire) -> Result<(), Ends> {
        if !self.password.is_empty() {
            let words: &[&str] = if self.user.is_empty() { &["AUTH", &self.password] } else { &["AUTH", &self.user, &self.password] };
            demand(&mut stream, words)?;
        }
        if self.following.demands_password {
            // An enclave that was verified does not lie.
            demand(&mut stream, &["REPLCONF", "password", "needed"])?;
        }
        demand(&mut stream, &["PING"])?;
        demand(&mut stream, &["REPLCONF", "listening-port", &self.announced.1.to_string()])?;
        if !self.announced.0.is_empty() {
            demand(&mut stream, &["REPLCONF", "ip-address", &self.announced.0])?;
        }
        // Without `eof`: a snapshot comes with its length.
        demand(&mut stream, &["REPLCONF", "capa", "psync2"])?;
        let (id, next) = match &self.stream {
            Some((id, end)) => (id.clone(), (end + 1).to_string()),
            None => ("?".to_owned(), "-1".to_owned()),
        };
        let answer = demand(&mut stream, &["PSYNC", &id, &next])?;
        let words: Vec<&str> = answer.split(' ').collect();
        match words[..] {
            ["FULLRESYNC", id, offset] if id.len() == 40 => {
                let offset = offset.parse().map_err(|_| broken(format!("{answer:?} says no number")))?;
                self.load(&mut stream, id, offset)?;
            }
            ["CONTINUE", ..] if self.stream.is_some() => {
                if let (Some(new), Some((id, _))) = (words.get(1), &mut self.stream) {
                    (*new).clone_into(id);
                }
                let id = self.stream.as_ref().map(|(id, _)| id.clone()).unwrap_or_default();
                self.tell(Event::Continues(id))?;
            }
            _ => return Err(broken(format!("it answers PSYNC with {answer:?}"))),
        }
        self.carry(stream)
    }

    /// Gets a snapshot.
    fn load(&mut self, stream: &mut Wire, id: &str, offset: u64) -> Result<(), Ends> {
        // From now on there is nothing from which it could go on.
        self.stream = None;
        self.tell(Event::Full)?;
        let line = line(stream)?;
        let length = line.strip_prefix('$').and_then(|length| length.parse().ok());
        let length: u64 = length.ok_or_else(|| broken(format!("where a snapshot should begin it says {line:?}")))?;
        let mut store = Store::new(self.databases);
        // What expires the other end says.
        store.replaying = true;
        let loaded = import::load(store, &mut stream.take(length), &self.limits, 0, "its snapshot").map_err(broken)?;
        self.stream = Some((id.to_owned(), offset));
        self.told.applied.store(offset, SeqCst);
        self.tell(Event::Loaded(Box::new(loaded), id.to_owned(), offset))
    }

    /// Passes the stream on, and says how far this end is.
    fn carry(&mut self, mut stream: Wire) -> Result<(), Ends> {
        stream.get_mut().wait_at_most(LOOK)?;
        let (mut said, mut heard) = (Instant::now() - ACKNOWLEDGE, Instant::now());
        while !self.told.ended.load(SeqCst) {
            if said.elapsed() >= ACKNOWLEDGE || self.told.asked.swap(false, SeqCst) {
                said = Instant::now();
                let applied = self.told.applied.load(SeqCst).to_string();
                send(stream.get_mut(), &["REPLCONF", "ACK", &applied])?;
            }
            let asked = Instant::now();
            let piece = match stream.fill_buf() {
                Ok([]) => return Err(broken("it ended the connection")),
                Ok(bytes) => bytes.to_vec(),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {
                    if heard.elapsed() > self.timeout {
                        return Err(broken("nothing comes from it any more"));
                    }
                    // A host that does not wait as it was told makes this thread no busier.
                    std::thread::sleep(LOOK.saturating_sub(asked.elapsed()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            stream.consume(piece.len());
            heard = Instant::now();
            if let Some((_, end)) = &mut self.stream {
                *end += piece.len() as u64;
            }
            self.tell(Event::Bytes(piece))?;
        }
        Err(Ends::Deserted)
    }
}

fn send(connection: &mut Box<dyn Connection>, words: &[&str]) -> io::Result<()> {
    let mut request = Vec::new();
    write_request(&mut request, words);
    connection.write_all(&request)?;
    connection.flush()
}

/// The next line that is not empty: those are signs of life.
fn line(stream: &mut Wire) -> Result<String, Ends> {
    loop {
        let mut line = Vec::new();
        stream.take(LINE).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(broken("it ended the connection"));
        }
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        if !text.is_empty() {
            return Ok(text);
        }
    }
}

/// Sends a command, and gives the word that answers it.
fn demand(stream: &mut Wire, words: &[&str]) -> Result<String, Ends> {
    send(stream.get_mut(), words)?;
    let line = line(stream)?;
    line.strip_prefix('+').map(str::to_owned).ok_or_else(|| broken(format!("it answers {} with {line:?}", words[0])))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::config::Config;

    /// A stream that goes on, and of which never anything comes; who asks is told so at once.
    struct Hasty {
        answers: io::Cursor<Vec<u8>>,
        asked: Arc<AtomicUsize>,
    }

    impl Read for Hasty {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.answers.read(buffer)? {
                0 => {
                    self.asked.fetch_add(1, SeqCst);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                count => Ok(count),
            }
        }
    }

    impl Write for Hasty {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Connection for Hasty {
        fn wait_at_most(&mut self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_is_told_at_once_that_there_is_nothing_does_not_spin() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counts = asked.clone();
        let dial: Dial = Arc::new(move |_| {
            let answers = io::Cursor::new(b"+PONG\r\n+OK\r\n+OK\r\n+CONTINUE\r\n".to_vec());
            Ok(Box::new(Hasty { answers, asked: counts.clone() }))
        });
        let mut config = Config::default();
        config.set("repl-timeout", "1").unwrap();
        let following = Following { dial, demands_password: false };
        let link = Link::start(&following, ("there", 1), &config, 2, 16, Some(("a".repeat(40), 0)), 0).unwrap();
        let next = || link.events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(next(), Event::Continues(_)));
        assert!(matches!(next(), Event::Broken(why) if why.contains("nothing comes")));
        assert!(asked.load(SeqCst) <= 110, "asked {asked:?} times in a second");
    }
}
