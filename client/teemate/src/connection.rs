//! A connection to a node: one JSON object a line, in both directions.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use teemate_control::function::Failure;
use teemate_control::node::{Request, Response, Status};
use teemate_control::packet::MAX_MESSAGE;

/// Longest answer that is read: a message with its base64 and JSON around it. A node that sends more is not believed.
const MAX_LINE: u64 = 2 * MAX_MESSAGE as u64;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node listens there.
    #[error("no node answers at {}: {source}; start one with `teemate node start`, or name its socket with --socket", socket.display())]
    Unreachable {
        /// Where it was sought.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The node went away, or did not answer in time.
    #[error("the node at {} stopped answering: {source}; see its log, and `teemate node status`", socket.display())]
    Lost {
        /// Where it was.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What came back is not an answer.
    #[error("the answer of the node at {} can't be understood ({why}); node and command line must be of the same version", socket.display())]
    Nonsense {
        /// Where it came from.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The node answered that it failed.
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// One connection. It carries any number of requests, one after the other.
pub struct Connection {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to the node that listens on `socket`.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub fn open(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).map_err(|source| Error::Unreachable { socket: socket.to_owned(), source })?;
        Ok(Connection { socket: socket.to_owned(), stream: BufReader::new(stream) })
    }

    /// Gives up on an answer that takes longer. Without it a request waits as long as the node holds the connection.
    ///
    /// # Errors
    /// [`Error::Lost`] when the socket refuses the option.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        let socket = self.stream.get_ref();
        socket
            .set_read_timeout(timeout)
            .and_then(|()| socket.set_write_timeout(timeout))
            .map_err(|source| Error::Lost { socket: self.socket.clone(), source })
    }

    /// Asks, and waits for the answer. A [`Response::Failed`] becomes [`Error::Failed`].
    ///
    /// # Errors
    /// All of [`Error`] but [`Error::Unreachable`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, Error> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.nonsense(error))?;
        line.push(b'\n');
        // A node that refuses a request early closes after its answer: so the answer is read even when the request could not be written.
        let written = self.stream.get_mut().write_all(&line);
        let mut answer = Vec::new();
        let read = self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut answer);
        if answer.is_empty() {
            let closed = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it closed the connection");
            let source = written.err().or(read.err()).unwrap_or_else(closed);
            return Err(Error::Lost { socket: self.socket.clone(), source });
        }
        if !answer.ends_with(b"\n") {
            let why = if answer.len() as u64 == MAX_LINE { "it is longer than any answer may be" } else { "it ends in the middle" };
            return Err(self.nonsense(why));
        }
        match serde_json::from_slice(&answer).map_err(|error| self.nonsense(error))? {
            Response::Failed(failure) => Err(Error::Failed(failure)),
            response => Ok(response),
        }
    }

    /// The node's status; refuses a node of another protocol.
    ///
    /// # Errors
    /// Those of [`Connection::ask`], and [`Error::Nonsense`] for another protocol.
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.ask(&Request::Status)? {
            Response::Status(status) if status.protocol == teemate_control::PROTOCOL => Ok(status),
            Response::Status(status) => {
                Err(self.nonsense(format!("it speaks protocol {}, this is {}", status.protocol, teemate_control::PROTOCOL)))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// For an answer that belongs to another request.
    pub fn unexpected(&self, response: &Response) -> Error {
        let mut text = format!("{response:?}");
        text.truncate(text.char_indices().nth(60).map_or(text.len(), |(at, _)| at));
        self.nonsense(format!("it belongs to another request: {text}"))
    }

    fn nonsense(&self, why: impl ToString) -> Error {
        Error::Nonsense { socket: self.socket.clone(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use teemate_control::function::FailureKind;

    /// A node that answers each line with the next of `answers`, then closes.
    fn node(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream);
            for answer in answers {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                lines.get_mut().write_all(&answer).unwrap();
            }
        });
        (directory, socket)
    }

    fn answer(bytes: &[u8]) -> Result<Response, Error> {
        let (_directory, socket) = node(vec![bytes.to_vec()]);
        Connection::open(&socket).unwrap().ask(&Request::Ps)
    }

    #[test]
    fn an_answer_is_read() {
        assert_eq!(answer(b"{\"response\":\"ok\"}\n").unwrap(), Response::Ok);
    }

    #[test]
    fn a_failure_is_an_error_with_the_nodes_sentence() {
        let failure = Failure::new(FailureKind::Busy, "no TCS is free");
        let mut line = serde_json::to_vec(&Response::Failed(failure.clone())).unwrap();
        line.push(b'\n');
        match answer(&line) {
            Err(Error::Failed(got)) => assert_eq!(got, failure),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn truncated_and_foreign_answers_are_refused() {
        for bytes in [&b"{\"response\":\"ok\"}"[..], b"\n", b"hello\n", b"{\"response\":\"later\"}\n", b"\xff\xfe\n"] {
            assert!(matches!(answer(bytes), Err(Error::Nonsense { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn a_node_that_hangs_up_is_lost() {
        assert!(matches!(answer(b""), Err(Error::Lost { .. })));
    }

    #[test]
    fn where_nobody_listens_the_error_says_how_to_start() {
        let error = Connection::open(Path::new("/nowhere/node.sock")).err().unwrap();
        assert!(error.to_string().contains("teemate node start"), "{error}");
    }

    #[test]
    fn a_silent_node_times_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut connection = Connection::open(&socket).unwrap();
        connection.set_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(matches!(connection.ask(&Request::Ps), Err(Error::Lost { .. })));
    }

    #[test]
    fn another_protocol_is_refused() {
        let status = Status {
            version: "9".into(),
            protocol: 999,
            pid: 1,
            uptime_s: 0,
            device: "simulator".into(),
            sharing: Default::default(),
            mrenclave: String::new(),
            endpoint: None,
            calls: 0,
            running: 0,
        };
        let mut line = serde_json::to_vec(&Response::Status(status)).unwrap();
        line.push(b'\n');
        let (_directory, socket) = node(vec![line]);
        let error = Connection::open(&socket).unwrap().status().unwrap_err();
        assert!(error.to_string().contains("999"), "{error}");
    }
}
