//! A conversation with a database, in Redis's protocol over a connection that was verified.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use teemate_attestation::database::{Identity, Known};
use teemate_attestation::memory::Memory;
use teemate_attestation::{Connector, Endpoint, Stream};

use crate::failure::Failure;
use crate::output::harmless;

/// How long the database may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest password, and longest line of a reply.
const LINE: u64 = 4096;
/// Most parts of a reply.
const PARTS: i64 = 64;

/// What the database answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A word.
    Status(String),
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Several of them.
    Parts(Vec<Reply>),
    /// Nothing.
    Nothing,
}

/// The conversation.
pub struct Connection {
    stream: BufReader<Patient>,
    endpoint: String,
}

/// A stream that fails when nothing comes for long.
struct Patient {
    stream: Stream,
    patience: Duration,
}

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_deadline(Some(Instant::now() + self.patience));
        self.stream.read(into)
    }
}

impl Connection {
    /// Verifies the endpoint, connects, and makes sure that it is the database that was known there.
    ///
    /// # Errors
    /// That it is refused, can't be reached, or is another database.
    pub fn open(connector: &Connector, endpoint: &Endpoint, known: &Known) -> Result<Connection, Failure> {
        let patient = Patient { stream: connector.connect(endpoint)?, patience: PATIENCE };
        let mut connection = Connection { stream: BufReader::with_capacity(64 << 10, patient), endpoint: endpoint.to_string() };
        connection.identify(known)?;
        Ok(connection)
    }

    /// Asks which database it is, between two commands, and compares that with what is known, which it then belongs to.
    ///
    /// # Errors
    /// That it is another one than was known.
    pub fn identify(&mut self, known: &Known) -> Result<Identity, Failure> {
        // Opened before it is asked.
        let memory = Memory::open(&known.path)?;
        let Patient { stream, patience } = self.stream.get_mut();
        stream.set_deadline(Some(Instant::now() + *patience));
        let mrsigner = stream.verified().mrsigner;
        let identity = Identity::ask(stream)?;
        known.compare(memory, &self.endpoint, mrsigner, &identity)?;
        Ok(identity)
    }

    /// Says who asks.
    ///
    /// # Errors
    /// That the database does not know him.
    pub fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        self.expect_ok(&["auth", user, password])
    }

    /// How long it may be silent from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.get_mut().patience = patience;
    }

    /// Sends a command.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn send<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<(), Failure> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend_from_slice(word);
            request.extend(b"\r\n");
        }
        let patient = self.stream.get_mut();
        patient.stream.set_deadline(Some(Instant::now() + patient.patience));
        patient.stream.write_all(&request)?;
        patient.stream.flush()?;
        Ok(())
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// Those of the connection, and what the database has against it.
    pub fn receive(&mut self) -> Result<Reply, Failure> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| nonsense(&line))?;
        let number = || rest.parse::<i64>().map_err(|_| nonsense(&line));
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => return Err(Failure::new(harmless(rest))),
            ":" => Reply::Integer(number()?),
            "$" | "*" if number()? < 0 => Reply::Nothing,
            "$" => {
                let length = u64::try_from(number()?).ok().filter(|length| *length <= LINE).ok_or_else(|| nonsense(&line))?;
                let mut bytes = vec![0; length as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(length as usize);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" if number()? <= PARTS => Reply::Parts((0..number()?).map(|_| self.receive()).collect::<Result<_, _>>()?),
            _ => return Err(nonsense(&line)),
        })
    }

    /// Sends a command that is answered with OK.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn expect_ok<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<(), Failure> {
        self.send(words)?;
        self.receive_ok()
    }

    /// Waits for OK.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn receive_ok(&mut self) -> Result<(), Failure> {
        match self.receive()? {
            Reply::Status(word) if word == "OK" => Ok(()),
            other => Err(nonsense(&format!("{other:?}"))),
        }
    }

    /// Waits for the snapshot that SYNC asked for, and gives the number of its bytes, which come next.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn snapshot(&mut self) -> Result<u64, Failure> {
        loop {
            let line = self.line()?;
            match line.split_at_checked(1) {
                // A sign of life.
                None => {}
                Some(("-", why)) => return Err(Failure::new(harmless(why))),
                Some(("$", length)) => return length.parse().map_err(|_| nonsense(&line)),
                Some(_) => return Err(nonsense(&line)),
            }
        }
    }

    /// So many bytes, as they come.
    pub fn bytes(&mut self, count: u64) -> impl Read + '_ {
        (&mut self.stream).take(count)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(Failure::new("the database ended the connection, or does not speak its protocol"));
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
    }
}

fn nonsense(line: &str) -> Failure {
    let shown: String = harmless(line).chars().take(200).collect();
    Failure::new(format!("it does not answer as a database: {shown:?}"))
}

/// The first line of a file.
///
/// # Errors
/// That it can't be read, or is empty.
pub fn password(path: &Path) -> Result<String, Failure> {
    let mut line = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(LINE).read_line(&mut line)
    } else {
        std::fs::File::open(path).and_then(|file| BufReader::new(file.take(LINE)).read_line(&mut line))
    };
    read.map_err(|error| Failure::new(format!("the password can't be read from {}: {error}", path.display())))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::usage(format!("{} begins with an empty line: that is no password", path.display())));
    }
    Ok(password.to_owned())
}
