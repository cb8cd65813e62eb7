//! The ways out of the enclave: to a witness, and to the server that is followed. The host connects and carries bytes, TLS ends here.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use teemate_attestation::{Collateral, Connector, Endpoint, Policy};

use teemate_control::service::{Ask, Reply};
use teemate_service::peers;
use teemate_service::stream::{Host, HostStream, Lasting};

use super::Node;
use super::keeping::Settings;
use crate::persistence::disk::Witness;
use crate::persistence::guard::Reach;
use crate::replication::link::{CONNECT, Connection, Following, Peer};
use crate::witness::{Dial, Remote, Wire};

/// Most bytes that a handshake and an answer have.
const MOST: usize = 64 << 10;

/// The node, which outlives whoever asks it.
struct Carrier(Arc<Node>);

impl Host for Carrier {
    fn ask_wait(&self, ask: Ask, limit: Duration) -> io::Result<Reply> {
        self.0.ask_wait(ask, limit)
    }

    fn tell(&self, ask: Ask) {
        self.0.tell(ask);
    }
}

impl Wire for HostStream<Carrier> {
    fn renew(&mut self, limit: Duration) -> io::Result<()> {
        HostStream::renew(self, limit, MOST);
        Ok(())
    }
}

/// The way for one database.
pub struct Way {
    dial: Dial,
    identity: ([u8; 16], [u8; 32]),
}

impl Way {
    /// By this node, in the name of the database of these settings.
    pub fn new(node: &Arc<Node>, settings: &Settings) -> Way {
        let node = node.clone();
        let dial: Dial = Arc::new(move |address, limit| {
            let stream = HostStream::connect(Carrier(node.clone()), address, limit, MOST)?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        });
        Way { dial, identity: settings.identity() }
    }
}

impl Reach for Way {
    fn reach(&self, address: &str, roots: &str, new: bool) -> Result<Witness, String> {
        Ok(Arc::new(Mutex::new(Remote::new(address, roots, self.identity, new, self.dial.clone())?)))
    }
}

/// With the server that is followed: an enclave that was verified.
impl Connection for StreamOwned<ClientConnection, Lasting<Carrier>> {
    fn wait_at_most(&mut self, limit: Duration) -> io::Result<()> {
        self.sock.limit = limit;
        Ok(())
    }
}

/// How the database follows another one: by connections that this node carries, to enclaves that are verified here.
pub fn following(node: &Arc<Node>) -> Following {
    let node = node.clone();
    let dial = move |peer: &Peer| {
        let endpoint = Endpoint { host: peer.host.clone(), port: peer.port };
        let mut connector = Connector::new(policy(peer)?).map_err(io::Error::other)?;
        if !peer.collateral.is_empty() {
            connector = connector.with_collateral(Collateral::from_slice(peer.collateral.as_bytes()).map_err(io::Error::other)?);
        }
        let carried = Lasting::connect(Carrier(node.clone()), &endpoint.authority(), CONNECT)?;
        let tls = connector.over(&endpoint, carried).map_err(io::Error::other)?;
        Ok(Box::new(tls) as Box<dyn Connection>)
    };
    Following { dial: Arc::new(dial), demands_password: true }
}

/// What the owner accepts; if he said nothing, what this one is itself.
fn policy(peer: &Peer) -> io::Result<Policy> {
    if !peer.policy.is_empty() {
        let policy = Policy::parse(&peer.policy).map_err(|error| io::Error::other(format!("replica-policy: {error}")))?;
        // There are no files in here.
        return Ok(Policy { collateral: None, ..policy });
    }
    peers::like_this_one()
}
