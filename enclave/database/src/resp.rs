//! RESP, the protocol of Redis's clients (<https://redis.io/docs/latest/develop/reference/protocol-spec/>): requests as they arrive in
//! pieces, and replies in version 2 or 3.

use crate::number;

/// Most arguments of a request.
const MAX_ARGUMENTS: i64 = 1 << 20;
/// Longest argument.
const MAX_ARGUMENT: i64 = 512 << 20;
/// Longest line: an inline command, or a length.
const MAX_LINE: usize = 64 << 10;

/// What is wrong with a request. The connection can't go on: nobody knows where the next request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line without end.
    #[error("Protocol error: too big inline request")]
    Inline,
    /// A length line without end.
    #[error("Protocol error: too big mbulk count string")]
    CountLine,
    /// The number of arguments.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// The length of an argument.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// No argument where one must come.
    #[error("Protocol error: expected '$', got '{0}'")]
    Kind(char),
    /// Quotes that do not close.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
}

/// One request, if it is all there: its arguments, as ranges of the buffer, and how many bytes it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Where each argument lies. Of an inline command: in [`Request::text`].
    pub arguments: Vec<std::ops::Range<usize>>,
    /// An inline command's arguments, one after the other, without their quotes.
    pub text: Option<Vec<u8>>,
}

impl Request {
    /// The arguments.
    pub fn arguments<'a>(&'a self, buffer: &'a [u8]) -> Vec<&'a [u8]> {
        let bytes = self.text.as_deref().unwrap_or(buffer);
        self.arguments.iter().map(|range| &bytes[range.clone()]).collect()
    }
}

/// Reads the request at the beginning of `buffer`. `None`: more of it must come. Else the request and its length in bytes.
///
/// # Errors
/// [`ProtocolError`].
pub fn request(buffer: &[u8]) -> Result<Option<(Request, usize)>, ProtocolError> {
    let mut request = Request::default();
    Ok(request_into(buffer, &mut request)?.map(|length| (request, length)))
}

/// The same for who reads many: `request` is used again, so that nothing is allocated for it.
///
/// # Errors
/// [`ProtocolError`].
pub fn request_into(buffer: &[u8], request: &mut Request) -> Result<Option<usize>, ProtocolError> {
    request.arguments.clear();
    request.text = None;
    match buffer.first() {
        None => Ok(None),
        Some(b'*') => multibulk(buffer, &mut request.arguments),
        Some(_) => inline(buffer, request),
    }
}

/// The line at `at`, and where the next one begins.
fn line(buffer: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = &buffer[at..];
    let end = memchr::memchr(b'\n', &rest[..rest.len().min(MAX_LINE)])?;
    let text = &rest[..end];
    Some((text.strip_suffix(b"\r").unwrap_or(text), at + end + 1))
}

fn multibulk(buffer: &[u8], arguments: &mut Vec<std::ops::Range<usize>>) -> Result<Option<usize>, ProtocolError> {
    let Some((count, mut at)) = line(buffer, 1) else {
        return if buffer.len() > MAX_LINE { Err(ProtocolError::CountLine) } else { Ok(None) };
    };
    let count = number::integer(count).filter(|count| *count <= MAX_ARGUMENTS).ok_or(ProtocolError::Count)?;
    for _ in 0..count.max(0) {
        match buffer.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::Kind(char::from(*other))),
        }
        let Some((length, begin)) = line(buffer, at + 1) else {
            return if buffer.len() - at > MAX_LINE { Err(ProtocolError::Length) } else { Ok(None) };
        };
        let length = number::integer(length).filter(|length| (0..=MAX_ARGUMENT).contains(length)).ok_or(ProtocolError::Length)?;
        let end = begin + length as usize;
        if buffer.len() < end + 2 {
            return Ok(None);
        }
        arguments.push(begin..end);
        at = end + 2;
    }
    Ok(Some(at))
}

fn inline(buffer: &[u8], request: &mut Request) -> Result<Option<usize>, ProtocolError> {
    let Some((text, next)) = line(buffer, 0) else {
        return if buffer.len() > MAX_LINE { Err(ProtocolError::Inline) } else { Ok(None) };
    };
    let words = words(text).ok_or(ProtocolError::Quotes)?;
    let mut all = Vec::new();
    for word in words {
        request.arguments.push(all.len()..all.len() + word.len());
        all.extend_from_slice(&word);
    }
    request.text = Some(all);
    Ok(Some(next))
}

/// Words of a line, as a shell would have them: `"..."` with escapes, `'...'`. `None`: a quote is not closed, or not followed by a space.
pub fn words(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    loop {
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
        if bytes.peek().is_none() {
            return Some(words);
        }
        let mut word = Vec::new();
        loop {
            match bytes.next() {
                None => break,
                Some(byte) if byte.is_ascii_whitespace() => break,
                Some(quote @ (b'"' | b'\'')) => {
                    loop {
                        match (bytes.next()?, quote) {
                            (b'"', b'"') | (b'\'', b'\'') => break,
                            (b'\\', b'"') => word.push(escaped(&mut bytes)?),
                            (b'\\', b'\'') if bytes.peek() == Some(&b'\'') => word.extend(bytes.next()),
                            (byte, _) => word.push(byte),
                        }
                    }
                    if bytes.peek().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                        return None;
                    }
                }
                Some(byte) => word.push(byte),
            }
        }
        words.push(word);
    }
}

fn escaped(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8> + Clone>) -> Option<u8> {
    Some(match bytes.next()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        b'x' => {
            let mut ahead = bytes.clone();
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            match (digit(ahead.next()), digit(ahead.next())) {
                (Some(high), Some(low)) => {
                    *bytes = ahead;
                    (high * 16 + low) as u8
                }
                _ => b'x',
            }
        }
        other => other,
    })
}

/// Replies, one behind the other, in the version of the protocol that the client chose.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What is to be sent.
    pub bytes: Vec<u8>,
    /// 2 or 3.
    pub version: u8,
}

impl Default for Reply {
    fn default() -> Self {
        Reply { bytes: Vec::new(), version: 2 }
    }
}

impl Reply {
    fn head(&mut self, kind: u8, number: i64) {
        self.bytes.push(kind);
        let mut digits = [0; 20];
        self.bytes.extend_from_slice(decimal(number, &mut digits));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `+OK` and others: a word without line ends.
    pub fn simple(&mut self, word: &str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(word.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// An error: its first word is its kind. Line ends become spaces.
    pub fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        self.bytes.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A whole number.
    pub fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    /// A count.
    pub fn count(&mut self, number: usize) {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as i64);
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Bytes, or nothing.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Nothing, where bytes could be.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(if self.version >= 3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Nothing, where a list could be.
    pub fn null_array(&mut self) {
        self.bytes.extend_from_slice(if self.version >= 3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// What a command that waited in vain is told.
    pub fn otherwise(&mut self, otherwise: crate::session::Otherwise) {
        match otherwise {
            crate::session::Otherwise::NullArray => self.null_array(),
            crate::session::Otherwise::Null => self.null(),
            crate::session::Otherwise::Integer(number) => self.integer(number),
        }
    }

    /// Yes or no: a number in version 2.
    pub fn boolean(&mut self, yes: bool) {
        if self.version >= 3 {
            self.bytes.extend_from_slice(if yes { b"#t\r\n" } else { b"#f\r\n" });
        } else {
            self.integer(yes.into());
        }
    }

    /// So many replies follow.
    pub fn array(&mut self, length: usize) {
        self.head(b'*', length as i64);
    }

    /// So many pairs follow.
    pub fn map(&mut self, pairs: usize) {
        if self.version >= 3 { self.head(b'%', pairs as i64) } else { self.head(b'*', 2 * pairs as i64) }
    }

    /// So many members follow.
    pub fn set(&mut self, length: usize) {
        self.head(if self.version >= 3 { b'~' } else { b'*' }, length as i64);
    }

    /// So many parts of a message follow that nobody asked for.
    pub fn push(&mut self, length: usize) {
        self.head(if self.version >= 3 { b'>' } else { b'*' }, length as i64);
    }

    /// A floating-point number.
    pub fn double(&mut self, number: f64) {
        let text = number::show(number);
        if self.version >= 3 {
            self.bytes.push(b',');
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// Text for people, which RESP3 marks as such.
    pub fn verbatim(&mut self, text: &str) {
        if self.version >= 3 {
            self.head(b'=', text.len() as i64 + 4);
            self.bytes.extend_from_slice(b"txt:");
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// A list of bytes.
    pub fn bulks<T: AsRef<[u8]>>(&mut self, items: impl ExactSizeIterator<Item = T>) {
        self.array(items.len());
        items.for_each(|item| self.bulk(item.as_ref()));
    }
}

/// A request as clients send it.
pub fn write_request<A: AsRef<[u8]>>(into: &mut Vec<u8>, words: &[A]) {
    let mut digits = [0; 20];
    let mut head = |into: &mut Vec<u8>, kind: u8, number: usize| {
        into.push(kind);
        into.extend_from_slice(decimal(number as i64, &mut digits));
        into.extend_from_slice(b"\r\n");
    };
    head(into, b'*', words.len());
    for word in words.iter().map(AsRef::as_ref) {
        head(into, b'$', word.len());
        into.extend_from_slice(word);
        into.extend_from_slice(b"\r\n");
    }
}

/// Digits of a number, without an allocation.
pub fn decimal(number: i64, digits: &mut [u8; 20]) -> &[u8] {
    let (mut left, mut at) = (number.unsigned_abs(), digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut reply = Reply::default();
        reply.bulks(arguments.iter());
        reply.bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn requests_come_in_pieces(arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), rest in prop::collection::vec(any::<u8>(), 0..10)) {
            let bytes = encoded(&arguments);
            for end in 0..bytes.len() {
                prop_assert_eq!(request(&bytes[..end]), Ok(None));
            }
            let all = [bytes.as_slice(), rest.as_slice()].concat();
            let (read, length) = request(&all).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(read.arguments(&all), arguments.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_a_request_an_error_or_too_few(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'"')], 0..80)) {
            if let Ok(Some((read, length))) = request(&bytes) {
                prop_assert!(length <= bytes.len());
                read.arguments(&bytes);
            }
        }
    }

    #[test]
    fn inline_commands_have_words() {
        let read = |text: &str| {
            request(text.as_bytes()).map(|read| {
                read.map(|(read, _)| read.arguments(b"").iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>())
            })
        };
        assert_eq!(read("PING\r\n"), Ok(Some(vec!["PING".into()])));
        assert_eq!(read("set a \"b\\x41\\n\" 'c d'\n"), Ok(Some(vec!["set".into(), "a".into(), "bA\n".into(), "c d".into()])));
        assert_eq!(read("\r\n"), Ok(Some(vec![])));
        assert_eq!(read("PIN"), Ok(None));
        assert_eq!(read("a \"b\r\n"), Err(ProtocolError::Quotes));
        assert_eq!(read("a \"b\"c\r\n"), Err(ProtocolError::Quotes));
        assert_eq!(read(&"x".repeat(MAX_LINE + 1)), Err(ProtocolError::Inline));
    }

    #[test]
    fn lengths_are_not_believed() {
        for (bad, error) in [
            ("*9999999999\r\n", ProtocolError::Count),
            ("*x\r\n", ProtocolError::Count),
            ("*1\r\n$-1\r\n", ProtocolError::Length),
            ("*1\r\n$999999999999\r\n", ProtocolError::Length),
            ("*1\r\n:1\r\n", ProtocolError::Kind(':')),
        ] {
            assert_eq!(request(bad.as_bytes()), Err(error), "{bad}");
        }
        assert_eq!(request(b"*1048576\r\n"), Ok(None), "announced, and not yet there");
        assert_eq!(request(b"*-1\r\n").unwrap().unwrap().1, 5);
    }

    #[test]
    fn replies_in_both_versions() {
        for (version, text) in [(2, "$-1\r\n*2\r\n$3\r\n1.5\r\n*-1\r\n"), (3, "_\r\n%1\r\n,1.5\r\n_\r\n")] {
            let mut reply = Reply { version, ..Reply::default() };
            reply.null();
            reply.map(1);
            reply.double(1.5);
            reply.null_array();
            assert_eq!(String::from_utf8(reply.bytes).unwrap(), text);
        }
        let mut reply = Reply::default();
        reply.integer(i64::MIN);
        reply.error("ERR a\r\nb");
        assert_eq!(reply.bytes, b":-9223372036854775808\r\n-ERR a  b\r\n");
    }
}
