//! Answers containers that may have connections or data files: resolves and connects, or opens, and passes the descriptor.
//!
//! A container has no network and no directory. Its allow-list came from the enclave with the wish for the container; what it asks for is
//! compared with the list as text, so that a name that resolves to something else gains nothing beyond what the owner of the function
//! allowed.

use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use teemate_runner::broker::{self, Question};

use crate::data::Data;
use crate::error::{Error, Result};

/// How long one address of a name may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Connections that a container of one call may ask for.
const QUESTIONS_MAX: usize = 1024;

/// `host:port` in its two parts.
pub fn split(address: &str) -> std::result::Result<(&str, u16), String> {
    let bad = |why: &str| format!("{address:?} is not a host:port pair: {why}");
    if address.len() > broker::ADDRESS_MAX {
        return Err(bad("it is too long"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("the colon is missing"))?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || (c == ':' && inner.len() < host.len());
    if inner.is_empty() || !inner.chars().all(plain) {
        return Err(bad("the host must be a name or an address"));
    }
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad("the port must be a number"));
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(bad("the port must be 1 to 65535")),
        Ok(port) => Ok((inner, port)),
    }
}

/// Whether the list allows the address: the same host (letter case aside) and the same port.
pub fn allows(list: &[String], address: &str) -> bool {
    let Ok((host, port)) = split(address) else { return false };
    list.iter().any(|entry| split(entry).is_ok_and(|(h, p)| p == port && h.eq_ignore_ascii_case(host)))
}

/// Questions that are being answered, over all containers.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Most of them: each has a thread.
const OPEN_MAX: usize = 512;

struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The socket over which a container asks: the broker's end, and the container's.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::system("make a socket for a container's connections"))
}

/// What a container may have.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// `host:port` that it may connect.
    pub egress: Vec<String>,
    /// The payload's data directory.
    pub data: Option<Arc<Data>>,
}

impl Allowed {
    /// Whether there is nothing to ask for.
    pub fn is_nothing(&self) -> bool {
        self.egress.is_empty() && self.data.is_none()
    }

    fn answer(&self, question: &Question) -> std::result::Result<Option<OwnedFd>, Errno> {
        match (question, &self.data) {
            (Question::Connect(address), _) => connect(&self.egress, address).map(Some),
            (Question::File(question), Some(data)) => data.answer(question),
            (Question::File(_), None) => Err(Errno::ACCESS),
        }
    }
}

/// A broker for one container, `again` if it may serve more than one call. Gives the container's end; the broker ends with it. Without a
/// deadline it serves as long as its container lives.
pub fn serve(allowed: Allowed, deadline: Option<Duration>, again: bool) -> Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    serve_at(ours, allowed, deadline, again)?;
    Ok(theirs)
}

/// A broker at its end of a [`pair`].
pub fn serve_at(ours: OwnedFd, allowed: Allowed, deadline: Option<Duration>, again: bool) -> Result<()> {
    if OPEN.fetch_add(1, Ordering::AcqRel) >= OPEN_MAX {
        drop(Open);
        return Err(Error::Busy(format!("{OPEN_MAX} containers with connections run already; try again later")));
    }
    let open = Open;
    // A container that outlives its deadline is killed, and that closes its end; the timeout is for one that hands its end away.
    let timeout = rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Recv, deadline);
    timeout.map_err(Error::system("set the timeout of a container's connections"))?;
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            let _open = open;
            for _ in 0..if again { usize::MAX } else { QUESTIONS_MAX } {
                let answer = match broker::next(ours.as_fd()) {
                    Ok(Some(question)) => allowed.answer(&question),
                    Err(Errno::INVAL) => Err(Errno::INVAL),
                    _ => return,
                };
                if broker::answer(ours.as_fd(), answer).is_err() {
                    return;
                }
            }
        })
        .map_err(Error::system("start a thread for a container's connections"))?;
    Ok(())
}

fn connect(list: &[String], question: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let address = std::str::from_utf8(question).map_err(|_| Errno::INVAL)?;
    if !allows(list, address) {
        tracing::info!(address = %address.escape_default(), "a container asked for a connection that its function may not make");
        return Err(Errno::ACCESS);
    }
    dial(address).map(OwnedFd::from)
}

/// Connects to a `host:port`: to the first of its addresses that answers.
pub fn dial(address: &str) -> std::result::Result<TcpStream, Errno> {
    let (host, port) = split(address).map_err(|_| Errno::INVAL)?;
    let addresses = (host, port).to_socket_addrs().map_err(|_| Errno::HOSTUNREACH)?;
    let mut last = Errno::HOSTUNREACH;
    for address in addresses.take(ADDRESSES_MAX) {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(stream) => {
                // Who uses it can't set options; a request and its answer gain nothing by waiting for more.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Errno::from_io_error(&error).unwrap_or(Errno::TIMEDOUT),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(split("a-b.example:80"), Ok(("a-b.example", 80)));
        assert_eq!(split("[::1]:8080"), Ok(("::1", 8080)));
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:+1", "a b:1", "a:1:2", "::1:80", "a/b:1", "[]:1", "ä:1", "a:99999999999"] {
            assert!(split(bad).is_err(), "{bad:?}");
        }
        assert!(split(&format!("{}:1", "a".repeat(600))).is_err());
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let list = vec!["Store.example:443".to_owned(), "[::1]:80".to_owned()];
        for good in ["store.example:443", "STORE.EXAMPLE:443", "[::1]:80", "store.example:0443"] {
            assert!(allows(&list, good), "{good}");
        }
        for bad in ["store.example:80", "xstore.example:443", "store.example.evil:443", "", "store.example:443\0", "store.example:443 "] {
            assert!(!allows(&list, bad), "{bad:?}");
        }
        assert!(!allows(&[], "store.example:443"));
        assert!(!allows(&["*:443".to_owned()], "store.example:443"), "there are no wildcards");
    }

    #[test]
    fn a_container_gets_a_connection_that_works() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let allowed = Allowed { egress: vec![address.clone()], data: None };
        let theirs = serve(allowed, Some(Duration::from_secs(5)), false).unwrap();
        let ask = |address: &[u8]| broker::ask(theirs.as_fd(), &Question::Connect(address.to_vec()));
        let mut connection = TcpStream::from(ask(address.as_bytes()).unwrap());
        connection.write_all(b"hello").unwrap();
        drop(connection);
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(ask(b"127.0.0.1:1").unwrap_err(), Errno::ACCESS);
        assert_eq!(ask(b"\0noise").unwrap_err(), Errno::INVAL);
        let file = Question::File(broker::FileQuestion::Open { path: b"x".to_vec(), flags: 0 });
        assert_eq!(broker::ask(theirs.as_fd(), &file).unwrap_err(), Errno::ACCESS, "it has no data directory");
        drop(listener);
        assert_eq!(ask(address.as_bytes()).unwrap_err(), Errno::CONNREFUSED);
    }
}
