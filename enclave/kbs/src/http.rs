//! HTTP/1.1 over any stream: as much of it as the protocol needs, with bounds on all that the broker sends.

use std::io::{self, Read, Write};

use teemate_service::pinned::is_harmless;

use crate::protocol::{Answer, Method, Request};
use crate::{KbsError, Transport};

/// Most bytes of an answer's head.
pub const MAX_HEAD: usize = 16 << 10;
/// Most bytes of an answer's body.
pub const MAX_BODY: usize = 2 << 20;
const MAX_HEADERS: usize = 64;
/// Interim answers (1xx) before the real one.
const MAX_INTERIM: usize = 4;
/// Longest line that gives a chunk's size.
const MAX_CHUNK_LINE: usize = 256;
const PIECE: usize = 8 << 10;

/// A broker at the other end of a stream.
pub struct Http<S> {
    stream: S,
    host: String,
    prefix: String,
    /// Lines of the head that every request has.
    headers: String,
    read: Vec<u8>,
}

impl<S: Read + Write> Http<S> {
    /// Over this stream, to `host` (with a port, if it is not the usual one), below `prefix` (empty, or a path such as `/broker`).
    ///
    /// # Errors
    /// When one of the two cannot stand in a header.
    pub fn new(stream: S, host: &str, prefix: &str) -> Result<Http<S>, KbsError> {
        if host.is_empty() || host.contains('/') || !is_harmless(host) || !is_harmless(prefix) {
            return Err(KbsError::Connection(io::Error::new(io::ErrorKind::InvalidInput, "the broker's address is none")));
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Http { stream, host: host.to_owned(), prefix, headers: String::new(), read: Vec::new() })
    }

    /// Has every request carry this header, too.
    ///
    /// # Errors
    /// When the value cannot stand in a header.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Result<Http<S>, KbsError> {
        if value.is_empty() || !is_harmless(value) {
            return Err(KbsError::Connection(io::Error::new(io::ErrorKind::InvalidInput, "a header's value is none")));
        }
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        Ok(self)
    }
}

impl<S: Read + Write> Transport for Http<S> {
    fn exchange(&mut self, request: &Request) -> Result<Answer, KbsError> {
        let method = match request.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let mut head = format!("{method} {}{} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n", self.prefix, request.path, self.host);
        if let Some(cookie) = &request.cookie {
            head.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        if request.method == Method::Post {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", request.body.len()));
        }
        head.push_str(&self.headers);
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&request.body);
        self.stream.write_all(&bytes)?;
        self.stream.flush()?;
        read_answer(&mut self.stream, &mut self.read)
    }
}

/// How long a body is.
enum Length {
    Bytes(usize),
    Chunks,
    ToTheEnd,
}

/// Reads one answer. `read` holds bytes that were read already, and afterwards what followed.
///
/// # Errors
/// When the stream fails or ends, and when it is no answer or one beyond the bounds.
pub fn read_answer(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<Answer, KbsError> {
    for _ in 0..=MAX_INTERIM {
        let (status, cookies, length) = read_head(stream, read)?;
        if (100..200).contains(&status) {
            continue;
        }
        let body = match length {
            _ if matches!(status, 204 | 304) => Vec::new(),
            Length::Bytes(length) => read_exact(stream, read, length)?,
            Length::Chunks => read_chunks(stream, read)?,
            Length::ToTheEnd => read_to_end(stream, read)?,
        };
        return Ok(Answer { status, cookies, body });
    }
    Err(wrong("it never comes to the point"))
}

fn wrong(what: &'static str) -> KbsError {
    KbsError::Malformed { step: "a request", what }
}

fn read_head(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<(u16, Vec<String>, Length), KbsError> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&read[..read.len().min(MAX_HEAD)]).map_err(|_| wrong("it is no HTTP/1.1"))? {
            httparse::Status::Complete(end) => {
                let status = response.code.ok_or_else(|| wrong("it has no status"))?;
                let length = body_length(response.headers)?;
                let cookies = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("set-cookie"));
                let cookies = cookies.filter_map(|header| std::str::from_utf8(header.value).ok()).map(str::to_owned).collect();
                read.drain(..end);
                return Ok((status, cookies, length));
            }
            httparse::Status::Partial if read.len() >= MAX_HEAD => return Err(KbsError::TooLarge { limit: MAX_HEAD }),
            httparse::Status::Partial => more(stream, read)?,
        }
    }
}

fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn body_length(headers: &[httparse::Header<'_>]) -> Result<Length, KbsError> {
    let mut codings = values(headers, "transfer-encoding");
    if let Some(coding) = codings.next() {
        let single = codings.next().is_none() && values(headers, "content-length").next().is_none();
        return if single && coding.eq_ignore_ascii_case(b"chunked") { Ok(Length::Chunks) } else { Err(wrong("its length is ambiguous")) };
    }
    let mut lengths = values(headers, "content-length").map(|value| {
        let digits = std::str::from_utf8(value).ok().map(str::trim).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|text| text.parse::<usize>().ok()).ok_or_else(|| wrong("its length is no number"))
    });
    let Some(first) = lengths.next().transpose()? else { return Ok(Length::ToTheEnd) };
    for other in lengths {
        if other? != first {
            return Err(wrong("its length is ambiguous"));
        }
    }
    if first > MAX_BODY { Err(KbsError::TooLarge { limit: MAX_BODY }) } else { Ok(Length::Bytes(first)) }
}

/// Reads something more.
fn more(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<(), KbsError> {
    match some(stream, read)? {
        0 => Err(KbsError::Connection(io::ErrorKind::UnexpectedEof.into())),
        _ => Ok(()),
    }
}

fn some(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<usize, KbsError> {
    let mut piece = [0; PIECE];
    loop {
        match stream.read(&mut piece) {
            Ok(count) => {
                read.extend_from_slice(&piece[..count]);
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_exact(stream: &mut impl Read, read: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, KbsError> {
    while read.len() < length {
        more(stream, read)?;
    }
    Ok(read.drain(..length).collect())
}

fn read_to_end(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<Vec<u8>, KbsError> {
    while some(stream, read)? > 0 {
        if read.len() > MAX_BODY {
            return Err(KbsError::TooLarge { limit: MAX_BODY });
        }
    }
    if read.len() > MAX_BODY { Err(KbsError::TooLarge { limit: MAX_BODY }) } else { Ok(std::mem::take(read)) }
}

fn read_line(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<Vec<u8>, KbsError> {
    loop {
        if let Some(end) = read.windows(2).take(MAX_CHUNK_LINE).position(|pair| pair == b"\r\n") {
            let line = read[..end].to_vec();
            read.drain(..end + 2);
            return Ok(line);
        }
        if read.len() > MAX_CHUNK_LINE + 1 {
            return Err(wrong("a line is too long"));
        }
        more(stream, read)?;
    }
}

fn read_chunks(stream: &mut impl Read, read: &mut Vec<u8>) -> Result<Vec<u8>, KbsError> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream, read)?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size = text.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or_else(|| wrong("a chunk's size is no number"))?;
        if size == 0 {
            break;
        }
        if size > MAX_BODY - body.len() {
            return Err(KbsError::TooLarge { limit: MAX_BODY });
        }
        body.extend(read_exact(stream, read, size)?);
        if !read_line(stream, read)?.is_empty() {
            return Err(wrong("a chunk is longer than it says"));
        }
    }
    for _ in 0..MAX_HEADERS {
        if read_line(stream, read)?.is_empty() {
            return Ok(body);
        }
    }
    Err(wrong("it has too many trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stream that gives its bytes in pieces.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read(text: &str, pieces: usize) -> Result<Answer, KbsError> {
        read_answer(&mut Pieces(text.as_bytes(), pieces), &mut Vec::new())
    }

    #[test]
    fn bodies_by_length_by_chunks_and_to_the_end() {
        for pieces in [1, 2, 7, 1000] {
            for text in [
                "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\nhello and more",
                "HTTP/1.1 200 OK\r\nset-cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n03\r\nllo\r\n0\r\nT: t\r\n\r\n",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nSet-Cookie: a=b\r\n\r\nhello",
            ] {
                let answer = read(text, pieces).unwrap();
                assert_eq!(answer, Answer { status: 200, cookies: vec!["a=b".into()], body: b"hello".to_vec() });
            }
        }
        let mut rest = Vec::new();
        let two = "HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\naHTTP/1.1 204 No\r\n\r\n".as_bytes();
        let stream = &mut Pieces(two, 1000);
        assert_eq!(read_answer(stream, &mut rest).unwrap().status, 404);
        assert_eq!(read_answer(stream, &mut rest).unwrap().status, 204, "the connection is kept");
    }

    #[test]
    fn odd_answers_are_refused() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            &"HTTP/1.1 100 Continue\r\n\r\n".repeat(9),
            &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD)),
            &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", "0".repeat(1000)),
            &format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY + 1)),
        ] {
            assert!(read(text, 4096).is_err(), "{:.100}", text);
        }
    }

    #[test]
    fn addresses_cannot_smuggle_headers() {
        let new = |host, prefix| Http::new(io::Cursor::new(Vec::new()), host, prefix).map(|http| http.prefix);
        assert_eq!(new("broker:8080", "/").unwrap(), "");
        assert_eq!(new("broker", "a/b/").unwrap(), "/a/b");
        for (host, prefix) in [("", ""), ("a\r\nX: y", ""), ("a/b", ""), ("a", "x y"), ("a", "x?y")] {
            assert!(new(host, prefix).is_err(), "{host:?} {prefix:?}");
        }
        let with = |value| Http::new(io::Cursor::new(Vec::new()), "broker", "")?.with_header("x-owner", value).map(|http| http.headers);
        assert_eq!(with("abc-1").unwrap(), "x-owner: abc-1\r\n");
        assert!(with("a\r\nb: c").is_err() && with("").is_err());
    }

    proptest! {
        #[test]
        fn chunks_are_put_together(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8), pieces in 1..20usize) {
            let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                text.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            text.extend(b"0\r\n\r\n");
            let answer = read_answer(&mut Pieces(&text, pieces), &mut Vec::new()).unwrap();
            prop_assert_eq!(answer.body, chunks.concat());
        }
    }
}
