//! A witness elsewhere. TLS to it ends here; whoever carries the bytes can only withhold them.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use teemate_sealed::{Counter, Error, Mark, Remembered};
use teemate_service::pinned::Pinned;
use teemate_witness::protocol::{self, About, Refusal, Request, Response, Secret, VERSION};

use crate::persistence::guard::WITNESS;

/// How long a connection, its handshake, a request and its response may take together. The server waits for it at the start, at the end,
/// and, once, when the witness has gone.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes in both directions, which somebody carries.
pub trait Wire: Read + Write + Send {
    /// From now on the rest must be done in this time.
    ///
    /// # Errors
    /// When that can't be said.
    fn renew(&mut self, limit: Duration) -> io::Result<()>;
}

/// Connects to a `HOST:PORT`.
pub type Dial = Arc<dyn Fn(&str, Duration) -> io::Result<Box<dyn Wire>> + Send + Sync>;

/// The witness.
pub struct Remote {
    server: Pinned,
    dial: Dial,
    database: [u8; 16],
    secret: Secret,
    new: bool,
    connection: Option<StreamOwned<ClientConnection, Box<dyn Wire>>>,
}

impl Remote {
    /// The witness at this address, known by these certificates (PEM), for the database of this name and secret. `new`: it may see it for
    /// the first time.
    ///
    /// # Errors
    /// What is wrong with address and certificates.
    pub fn new(address: &str, roots: &str, (database, secret): ([u8; 16], [u8; 32]), new: bool, dial: Dial) -> Result<Remote, String> {
        let server = Pinned::new(address, roots).map_err(|error| error.to_string())?;
        if !server.path().is_empty() {
            return Err(format!("{server} has a path: a witness has none"));
        }
        Ok(Remote { server, dial, database, secret: Secret(secret), new, connection: None })
    }

    fn ask(&mut self, about: About) -> Result<Response, Error> {
        let request = Request { version: VERSION, database: self.database, secret: self.secret, about };
        // One that was idle may have been closed by whoever carries it; and each request can be made twice.
        let answered = match self.connection.take() {
            Some(connection) => self.exchange(connection, &request).or_else(|_| self.first(&request)),
            None => self.first(&request),
        };
        match answered {
            Ok(Response::Refused(Refusal::Backwards(why))) => Err(Error::Backwards(why)),
            Ok(Response::Refused(refusal)) => Err(Error::Counter(format!("the witness {} says no: {refusal}", self.server))),
            Ok(response) => Ok(response),
            Err(error) => Err(Error::Counter(format!("the witness {} can't be asked: {error}", self.server))),
        }
    }

    fn first(&mut self, request: &Request) -> io::Result<Response> {
        let wire = (self.dial)(&self.server.endpoint(), LIMIT)?;
        let connection = self.server.over(wire).map_err(io::Error::other)?;
        self.exchange(connection, request)
    }

    fn exchange(&mut self, mut connection: StreamOwned<ClientConnection, Box<dyn Wire>>, request: &Request) -> io::Result<Response> {
        connection.sock.renew(LIMIT)?;
        protocol::write(request, &mut connection)?;
        let response = protocol::read(&mut connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // What came out of TLS is the witness's; a connection on which something failed is not used again.
        self.connection = Some(connection);
        Ok(response)
    }

    fn unexpected(&self) -> Error {
        Error::Counter(format!("the witness {} answered something else than it was asked", self.server))
    }
}

impl Counter for Remote {
    fn open(&mut self, above: u64) -> Result<Remembered, Error> {
        match self.ask(About::Open { above, new: self.new })? {
            Response::Opened(kept) if kept.epoch > above && kept.last.is_none_or(|last| last.epoch < kept.epoch) => Ok(kept),
            _ => Err(self.unexpected()),
        }
    }

    fn remember(&mut self, mark: &Mark) -> Result<(), Error> {
        match self.ask(About::Remember(*mark))? {
            Response::Remembered => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    fn name(&self) -> &'static str {
        WITNESS
    }
}
