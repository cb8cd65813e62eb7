//! A network under TLS 1.3: what comes is decrypted, what goes is encrypted, in the server's own thread.
//!
//! The host has the sockets, and so only ciphertext.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};

use crate::network::{Buffers, Network, Turn};

/// A network of ciphertext, and the connections over it.
pub struct Tls<N> {
    network: N,
    config: Arc<ServerConfig>,
    connections: Vec<Option<ServerConnection>>,
    /// Ciphertext.
    outside: Vec<Buffers>,
    /// Slots with ciphertext that came of itself: handshakes, alerts.
    dirty: Vec<usize>,
    /// Slots with ciphertext that the other end does not take.
    behind: Vec<usize>,
    turn: Turn,
}

impl<N: Network> Tls<N> {
    /// Over this network.
    pub fn new(network: N, config: Arc<ServerConfig>) -> Tls<N> {
        Tls { network, config, connections: Vec::new(), outside: Vec::new(), dirty: Vec::new(), behind: Vec::new(), turn: Turn::default() }
    }

    /// Encrypts what waits to be sent on a connection.
    fn seal(&mut self, slot: usize, buffers: &mut Buffers) -> bool {
        let Some(Some(tls)) = self.connections.get_mut(slot) else { return false };
        let output = buffers.take_unsent();
        // The buffer of plaintext has no limit, and what is written while a handshake is under way waits for its end.
        tls.writer().write_all(&output).is_ok() && drain(tls, &mut self.outside[slot])
    }

    /// Decrypts what came. Whether the connection still stands.
    fn open(&mut self, slot: usize, buffers: &mut Buffers) -> bool {
        let Some(Some(tls)) = self.connections.get_mut(slot) else { return false };
        let outside = &mut self.outside[slot];
        let input = std::mem::take(&mut outside.input);
        let mut rest = &input[..];
        let mut stands = true;
        while !rest.is_empty() && stands {
            stands = tls.read_tls(&mut rest).is_ok_and(|read| read > 0)
                && tls.process_new_packets().is_ok()
                // Nothing more to read for now is no error.
                && match tls.reader().read_to_end(&mut buffers.input) {
                    Ok(_) => false,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                };
        }
        if tls.wants_write() {
            // Why it ends is told, if it can be.
            stands &= drain(tls, outside);
            self.dirty.push(slot);
        }
        stands
    }
}

/// Puts ciphertext where it is sent from.
fn drain(tls: &mut ServerConnection, outside: &mut Buffers) -> bool {
    while tls.wants_write() {
        if tls.write_tls(&mut outside.output).is_err() {
            return false;
        }
    }
    true
}

impl<N: Network> Network for Tls<N> {
    fn turn(&mut self, buffers: &mut Vec<Buffers>, dirty: &[usize], wait: Duration, turn: &mut Turn) -> io::Result<()> {
        // What the last turn left is sent before anything is waited for.
        let mut send = std::mem::take(&mut self.dirty);
        for slot in dirty {
            if self.seal(*slot, &mut buffers[*slot]) {
                send.push(*slot);
            } else {
                turn.closed.push(*slot);
            }
        }
        send.sort_unstable();
        send.dedup();
        let mut inner = std::mem::take(&mut self.turn);
        let result = self.network.turn(&mut self.outside, &send, wait, &mut inner);
        // Those that took nothing before may have taken something now, though nothing more was given to them.
        send.append(&mut self.behind);
        for slot in &send {
            if let (Some(buffers), Some(outside)) = (buffers.get_mut(*slot), self.outside.get(*slot)) {
                buffers.behind = outside.unsent();
                self.behind.extend((buffers.behind > 0).then_some(*slot));
            }
        }
        self.behind.sort_unstable();
        self.behind.dedup();
        if buffers.len() < self.outside.len() {
            buffers.resize_with(self.outside.len(), Buffers::default);
            self.connections.resize_with(self.outside.len(), || None);
        }
        for (slot, peer, local) in inner.opened.drain(..) {
            buffers[slot] = Buffers::default();
            match ServerConnection::new(self.config.clone()) {
                Ok(mut tls) => {
                    tls.set_buffer_limit(None);
                    self.connections[slot] = Some(tls);
                    turn.opened.push((slot, peer, local));
                }
                Err(_) => self.network.close(slot),
            }
        }
        for slot in inner.ready.drain(..) {
            let before = buffers[slot].input.len();
            let stands = self.open(slot, &mut buffers[slot]);
            if buffers[slot].input.len() > before {
                turn.ready.push(slot);
            }
            if !stands {
                turn.closed.push(slot);
            }
        }
        turn.closed.append(&mut inner.closed);
        turn.bytes.0 += inner.bytes.0;
        turn.bytes.1 += inner.bytes.1;
        inner.bytes = (0, 0);
        self.turn = inner;
        result
    }

    fn close(&mut self, slot: usize) {
        if let Some(place) = self.connections.get_mut(slot) {
            *place = None;
        }
        self.dirty.retain(|dirty| *dirty != slot);
        self.behind.retain(|behind| *behind != slot);
        self.network.close(slot);
    }
}

#[cfg(test)]
mod tests;
