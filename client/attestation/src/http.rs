//! Requests over a connection: HTTP/1.1, one after the other, with a bound on each answer and on its time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use crate::tls::Stream;

/// Longest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// Most headers of an answer.
const MAX_HEADERS: usize = 64;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, or took too long.
    #[error("the connection to the enclave broke: {0}")]
    Io(#[from] io::Error),
    /// The answer is no HTTP.
    #[error("the enclave's answer is no HTTP: {0}")]
    Malformed(&'static str),
    /// The answer is larger than the caller takes.
    #[error("the enclave's answer is longer than the {0} bytes that are read")]
    TooLarge(usize),
    /// The request can't be written as HTTP.
    #[error("the request has a {0} with characters that HTTP has no place for")]
    Request(&'static str),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What a request is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `POST` ..
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body, and its type.
    pub body: Option<(&'a str, &'a [u8])>,
}

/// A client on one connection.
pub struct Client<S = Stream> {
    stream: BufReader<S>,
    host: String,
}

impl<S: Read + Write> Client<S> {
    /// Over a stream, to this host.
    pub fn new(stream: S, host: impl Into<String>) -> Self {
        Client { stream: BufReader::new(stream), host: host.into() }
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// The same, to be changed: what is not read yet stays.
    pub fn stream_mut(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Sends a request and reads the answer, of which the body has at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error`]; the connection is not to be used again then.
    pub fn send(&mut self, request: &Request<'_>, limit: usize) -> Result<Response, Error> {
        let head = self.head(request)?;
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        if let Some((_, body)) = request.body {
            stream.write_all(body)?;
        }
        stream.flush()?;
        // Interim answers (100 Continue) come before the one that was asked for.
        for _ in 0..8 {
            let (status, headers) = self.read_head()?;
            if status >= 200 {
                let body =
                    if request.method == "HEAD" || status == 204 || status == 304 { Vec::new() } else { self.read_body(&headers, limit)? };
                return Ok(Response { status, headers, body });
            }
        }
        Err(Error::Malformed("too many interim answers"))
    }

    fn head(&self, request: &Request<'_>) -> Result<String, Error> {
        let token = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
        let visible = |text: &str| text.bytes().all(|c| (b' '..=b'~').contains(&c) || c == b'\t');
        if !token(request.method) {
            return Err(Error::Request("method"));
        }
        if !request.path.starts_with('/') || !visible(request.path) || request.path.contains(' ') {
            return Err(Error::Request("path"));
        }
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.path, self.host);
        for (name, value) in request.headers {
            if !token(name) || !visible(value) {
                return Err(Error::Request("header"));
            }
            head += &format!("{name}: {value}\r\n");
        }
        if let Some((kind, body)) = request.body {
            head += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        Ok(head + "\r\n")
    }

    fn read_head(&mut self) -> Result<(u16, Vec<(String, String)>), Error> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let before = head.len();
            (&mut self.stream).take((MAX_HEAD - before) as u64).read_until(b'\n', &mut head)?;
            if head.len() == before {
                return Err(if before >= MAX_HEAD { Error::Malformed("its head is too long") } else { ended() });
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {}
            _ => return Err(Error::Malformed("its head can't be read")),
        }
        let status = response.code.ok_or(Error::Malformed("it has no status"))?;
        let headers =
            response.headers.iter().map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()));
        Ok((status, headers.collect()))
    }

    fn read_body(&mut self, headers: &[(String, String)], limit: usize) -> Result<Vec<u8>, Error> {
        let all = |name: &str| headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.trim()).collect::<Vec<_>>();
        let (encodings, lengths) = (all("transfer-encoding"), all("content-length"));
        match (&encodings[..], &lengths[..]) {
            ([], []) => {
                let mut body = Vec::new();
                (&mut self.stream).take(limit as u64 + 1).read_to_end(&mut body)?;
                if body.len() > limit { Err(Error::TooLarge(limit)) } else { Ok(body) }
            }
            ([], [length]) if length.bytes().all(|c| c.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| Error::TooLarge(limit))?;
                let mut body = Vec::new();
                self.read_exactly(length, &mut body, limit)?;
                Ok(body)
            }
            ([encoding], []) if encoding.eq_ignore_ascii_case("chunked") => self.read_chunks(limit),
            _ => Err(Error::Malformed("its length is not clear")),
        }
    }

    fn read_exactly(&mut self, length: usize, body: &mut Vec<u8>, limit: usize) -> Result<(), Error> {
        if length > limit - body.len() {
            return Err(Error::TooLarge(limit));
        }
        let read = (&mut self.stream).take(length as u64).read_to_end(body)?;
        if read == length { Ok(()) } else { Err(ended()) }
    }

    fn read_chunks(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(Error::Malformed("a chunk has no length"));
            }
            let length = usize::from_str_radix(digits, 16).map_err(|_| Error::TooLarge(limit))?;
            if length == 0 {
                break;
            }
            self.read_exactly(length, &mut body, limit)?;
            if !self.line()?.is_empty() {
                return Err(Error::Malformed("a chunk has another length than it says"));
            }
        }
        for _ in 0..MAX_HEADERS {
            if self.line()?.is_empty() {
                return Ok(body);
            }
        }
        Err(Error::Malformed("too many trailers"))
    }

    /// A line without its end; bounded.
    fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        (&mut self.stream).take(1024).read_until(b'\n', &mut line)?;
        let text = line.strip_suffix(b"\r\n").ok_or(Error::Malformed("a line in its body does not end"))?;
        String::from_utf8(text.to_vec()).map_err(|_| Error::Malformed("a line in its body is not text"))
    }
}

impl Client<Stream> {
    /// The next answers must be there within this time, each.
    pub fn send_within(&mut self, request: &Request<'_>, limit: usize, time: Duration) -> Result<Response, Error> {
        self.stream.get_mut().set_deadline(Some(Instant::now() + time));
        let answer = self.send(request, limit);
        self.stream.get_mut().set_deadline(None);
        answer
    }
}

fn ended() -> Error {
    Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended in the middle"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers with what was prepared, and keeps what was sent.
    struct Fake(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Fake {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn client(answer: &[u8]) -> Client<Fake> {
        Client::new(Fake(io::Cursor::new(answer.to_vec()), Vec::new()), "node:1")
    }

    const GET: Request<'static> = Request { method: "GET", path: "/a?b", headers: &[("X-Y", "z")], body: None };

    fn ask(answer: &[u8]) -> Result<Response, Error> {
        client(answer).send(&GET, 10)
    }

    #[test]
    fn a_request_is_written_as_it_should() {
        let mut client = client(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 204 No\r\n\r\n");
        let request = Request { method: "POST", path: "/p", body: Some(("application/json", b"{}")), ..Request::default() };
        let answer = client.send(&request, 10).unwrap();
        assert_eq!((answer.status, &answer.body[..], answer.header("content-length")), (200, &b"ok"[..], Some("2")));
        assert_eq!(client.send(&GET, 10).unwrap().status, 204);
        let sent = String::from_utf8(client.stream().1.clone()).unwrap();
        let expected = "POST /p HTTP/1.1\r\nHost: node:1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}GET /a?b HTTP/1.1\r\nHost: node:1\r\nX-Y: z\r\n\r\n";
        assert_eq!(sent, expected);
    }

    #[test]
    fn bodies_of_each_kind() {
        assert_eq!(ask(b"HTTP/1.1 200 OK\r\n\r\nto the end").unwrap().body, b"to the end");
        assert_eq!(
            ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n").unwrap().body,
            b"abcde"
        );
        assert_eq!(ask(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").unwrap().status, 404);
    }

    #[test]
    fn lies_and_excesses_are_errors() {
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nabcdefghijk",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nlonger than ten",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\nabcdefghijk\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
            b"nonsense\r\n\r\n",
        ] {
            assert!(ask(answer).is_err(), "{}", String::from_utf8_lossy(answer));
        }
        let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(20_000)].concat();
        assert!(matches!(ask(&endless), Err(Error::Malformed(_))));
        assert!(matches!(ask(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20)), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_request_cannot_smuggle_another() {
        for request in [
            Request { path: "/a b", ..GET },
            Request { path: "/a\r\nX: y", ..GET },
            Request { path: "a", ..GET },
            Request { method: "G T", ..GET },
            Request { headers: &[("A", "b\r\nC: d")], ..GET },
            Request { headers: &[("A: b", "c")], ..GET },
        ] {
            assert!(matches!(client(b"").send(&request, 10), Err(Error::Request(_))));
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(head in "(HTTP/1.1 [0-9]{3} OK\r\n)?([a-z-]{1,17}: [a-z0-9]{0,8}\r\n){0,3}\r\n", body: Vec<u8>) {
            let _ = ask(&[head.as_bytes(), &body].concat());
            let _ = ask(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &body[..]].concat());
        }
    }
}
