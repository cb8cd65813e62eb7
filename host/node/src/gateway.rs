//! The gateway as the node sees it: a socket that the node opens and only the enclave reads, and orders that show no owner's data.
//!
//! The socket outlives enclaves. Connections that an enclave has not accepted when it goes wait in it for the next one: so an upgrade, or
//! a crash, refuses nobody.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use teemate_control::function::{Failure, FailureKind};
use teemate_control::service::{Order, OrderDone};

use crate::error::{Error, Result};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long an address may be taken.
const PATIENCE: Duration = Duration::from_secs(3);
/// Connections are cut this long after they were asked to end.
pub const DRAIN_MS: u64 = 30_000;

/// The listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    /// Listens at this address; port 0 takes any that is free. After a crash the processes of the node before may hold it for a moment
    /// still, so it is tried for some seconds.
    pub fn open(address: SocketAddr) -> Result<Listener> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Listener::try_open(address) {
                Err(Error::System { source, .. }) if source.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                opened => return opened,
            }
        }
    }

    fn try_open(address: SocketAddr) -> Result<Listener> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let opened = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).and_then(|socket| {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &address)?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        });
        let what = || format!("listen at {address} for the enclave's clients (take another --listen, or `--listen none`)");
        let listener = TcpListener::from(opened.map_err(Error::system(what()))?);
        let address = listener.local_addr().map_err(Error::system(what()))?;
        Ok(Listener { socket: listener.into(), address })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For the service's process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What `--listen` says.
pub fn address(text: &str) -> std::result::Result<Listen, String> {
    match text {
        "none" => Ok(Listen(None)),
        _ => text.parse().map(|address| Listen(Some(address))).map_err(|_| {
            "it must be an address and a port, such as 127.0.0.1:8443 or [::]:8443 (port 0: any that is free), or `none`".to_owned()
        }),
    }
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

/// The answer that an order must have.
pub fn expect_done(done: OrderDone) -> std::result::Result<(), Failure> {
    match done {
        OrderDone::Done => Ok(()),
        _ => Err(Failure::new(FailureKind::Internal, "the gateway gave another kind of answer than was asked for")),
    }
}

/// The order to stop.
pub fn drain() -> Order {
    Order::Drain { within_ms: DRAIN_MS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_named() {
        let first = Listener::open("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(first.address().port(), 0);
        let error = Listener::open(first.address()).unwrap_err().to_string();
        assert!(error.contains(&first.address().to_string()) && error.contains("--listen none"), "{error}");
        assert!(std::net::TcpStream::connect(first.address()).is_ok(), "it waits to be accepted");
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(address("none"), Ok(Listen(None)));
        assert!(address("127.0.0.1:0").is_ok() && address("[::1]:8443").is_ok());
        assert!(address("localhost").is_err() && address("8443").is_err());
    }
}
