//! Intel's quoting service, AESM: a unix socket, one question a connection. A question and an answer are a length (4 bytes, this machine's
//! order, which is little-endian) and a protobuf message.
//!
//! Written against Intel's published messages and the way other users speak with it; it has not run against a real one. AESM is a process of
//! the host and may lie, break off or hang: every wait has an end, every length a bound. That its quotes are genuine is for the verifier.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use teemate_evidence::api::MAX_QUOTE;
use teemate_evidence::quote::{Quote, length};

use crate::messages::{GetQuoteExRequest, GetQuoteSizeExRequest, InitQuoteExRequest, Request, Response, meaning};
use crate::{Error, QuotingService, REPORT, TARGETINFO};

/// Where aesmd listens.
pub const DEFAULT_SOCKET: &str = "/var/run/aesmd/aesm.socket";
/// Longest answer that is read.
const MAX_ANSWER: u32 = 128 << 10;
/// Bytes of the hash that names an attestation key.
const KEY_HASH: u64 = 32;

/// The quoting service.
#[derive(Clone, Debug)]
pub struct Aesm {
    socket: PathBuf,
    time: Duration,
}

impl Default for Aesm {
    fn default() -> Self {
        Aesm::new(DEFAULT_SOCKET)
    }
}

impl Aesm {
    /// At this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Aesm { socket: socket.into(), time: Duration::from_secs(30) }
    }

    /// How long one question may take. The first one of a machine's life can take long: it fetches certificates.
    pub fn with_timeout(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn ask(&self, request: Request) -> Result<Response, Error> {
        let deadline = Instant::now() + self.time;
        let unreachable = |source: io::Error| self.timed(source, |socket, source| Error::Unreachable { socket, source });
        let broken = |source: io::Error| self.timed(source, |socket, source| Error::Broken { socket, source });
        let mut stream = self.open(deadline).map_err(unreachable)?;
        let body = request.encode_to_vec();
        let message = [&(body.len() as u32).to_ne_bytes()[..], &body].concat();
        let mut written = 0;
        while written < message.len() {
            stream.set_write_timeout(Some(remaining(deadline).map_err(broken)?)).map_err(broken)?;
            match stream.write(&message[written..]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        let mut prefix = [0; 4];
        read(&mut stream, &mut prefix, deadline).map_err(broken)?;
        let length = u32::from_ne_bytes(prefix);
        if length > MAX_ANSWER {
            return Err(Error::Nonsense(format!("{length} bytes; at most {MAX_ANSWER} are read")));
        }
        let mut answer = vec![0; length as usize];
        read(&mut stream, &mut answer, deadline).map_err(broken)?;
        Response::decode(&answer[..]).map_err(|error| Error::Nonsense(error.to_string()))
    }

    /// Connecting waits where a service does not accept; SO_SNDTIMEO bounds that.
    fn open(&self, deadline: Instant) -> io::Result<UnixStream> {
        let address = SocketAddrUnix::new(&self.socket)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(remaining(deadline)?))?;
        connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }

    fn timed(&self, source: io::Error, other: impl FnOnce(PathBuf, io::Error) -> Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Late { socket: self.socket.clone(), time: self.time },
            _ => other(self.socket.clone(), source),
        }
    }

    /// Microseconds, as the messages have them.
    fn microseconds(&self) -> Option<u32> {
        Some(u32::try_from(self.time.as_micros()).unwrap_or(u32::MAX))
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn read(stream: &mut UnixStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `sgx_ql_att_key_id_t` of Intel's quoting enclave with an ECDSA P-256 key, in the 256 bytes that AESM wants.
fn key_id() -> Vec<u8> {
    const MRSIGNER: [u8; 32] = [
        0x8c, 0x4f, 0x57, 0x75, 0xd7, 0x96, 0x50, 0x3e, 0x96, 0x13, 0x7f, 0x77, 0xc6, 0x8a, 0x82, 0x9a, 0x00, 0x56, 0xac, 0x8d, 0xed, 0x70,
        0x14, 0x0b, 0x08, 0x1b, 0x09, 0x44, 0x90, 0xc5, 0x7b, 0xff,
    ];
    const ECDSA_P256: u32 = 2;
    let mut id = Vec::with_capacity(256);
    id.extend([0, 0, 0, 0]); // id, version
    id.extend(32u16.to_le_bytes()); // length of MRSIGNER
    id.extend(MRSIGNER);
    id.extend([0; 16]);
    id.extend(1u32.to_le_bytes()); // product
    id.extend([0; 16 + 64 + 16]); // extended product, configuration, family
    id.extend(ECDSA_P256.to_le_bytes());
    id.resize(256, 0);
    id
}

fn checked(code: u32) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::Refused { code, meaning: meaning(code) }) }
}

fn missing(what: &str) -> Error {
    Error::Nonsense(format!("it has no {what}"))
}

impl QuotingService for Aesm {
    fn target(&self) -> Result<[u8; TARGETINFO], Error> {
        let question =
            InitQuoteExRequest { att_key_id: Some(key_id()), b_pub_key_id: true, buf_size: Some(KEY_HASH), timeout: self.microseconds() };
        let answer = self.ask(Request { init_quote_ex: Some(question), ..Request::default() })?;
        let answer = answer.init_quote_ex.ok_or_else(|| missing("answer to the question"))?;
        checked(answer.error_code())?;
        let target = answer.target_info.ok_or_else(|| missing("TARGETINFO"))?;
        let length = target.len();
        target.try_into().map_err(|_| Error::Nonsense(format!("a TARGETINFO of {length} bytes")))
    }

    fn quote(&self, report: &[u8; REPORT]) -> Result<Vec<u8>, Error> {
        let question = GetQuoteSizeExRequest { att_key_id: Some(key_id()), timeout: self.microseconds() };
        let answer = self.ask(Request { get_quote_size_ex: Some(question), ..Request::default() })?;
        let answer = answer.get_quote_size_ex.ok_or_else(|| missing("answer to the question"))?;
        checked(answer.error_code())?;
        let size = answer.quote_size.ok_or_else(|| missing("size of a quote"))?;
        if size as usize > MAX_QUOTE {
            return Err(Error::Nonsense(format!("a quote of {size} bytes")));
        }
        let question =
            GetQuoteExRequest { report: report.to_vec(), att_key_id: Some(key_id()), buf_size: size, timeout: self.microseconds() };
        let answer = self.ask(Request { get_quote_ex: Some(question), ..Request::default() })?;
        let answer = answer.get_quote_ex.ok_or_else(|| missing("answer to the question"))?;
        checked(answer.error_code())?;
        let mut quote = answer.quote.ok_or_else(|| missing("quote"))?;
        // It fills the whole buffer.
        quote.truncate(length(&quote).ok_or_else(|| Error::Nonsense("a quote that is cut off".to_owned()))?);
        let parsed = Quote::parse(&quote).map_err(|error| Error::Nonsense(error.to_string()))?;
        if parsed.body.bytes()[..] != report[..384] {
            return Err(Error::Nonsense("a quote of another report".to_owned()));
        }
        Ok(quote)
    }

    fn is_simulation(&self) -> bool {
        false
    }
}
