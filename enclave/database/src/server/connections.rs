//! Connections: one comes, asks, and goes.

use crate::commands::{self, Context};
use crate::dispatch;
use crate::network::Buffers;
use crate::resp::{self, Reply};
use crate::session::{Session, Waiting};
use crate::shared::{Listening, Push, Shared};
use crate::store::Store;

use super::waiting::{is_paused, paused};

/// Requests of one connection that a turn carries out before others have their turn.
const REQUESTS: usize = 1024;

/// What connections work on.
pub(super) struct Connections<'a> {
    pub store: &'a mut Store,
    pub shared: &'a mut Shared,
}

impl Connections<'_> {
    pub(super) fn open(&mut self, slot: usize, peer: String, local: String) {
        let id = self.shared.wires.next_id.max(1);
        self.shared.wires.next_id = id + 1;
        let mut session = Session::new(id, slot, self.store.now);
        (session.address, session.local) = (peer, local);
        session.user = self.shared.acl.initial();
        session.unasked = session.user.is_some();
        let shared = &mut self.shared;
        if shared.sessions.len() <= slot {
            shared.sessions.resize_with(slot + 1, || None);
        }
        let most = usize::try_from(shared.config.number("maxclients")).unwrap_or(usize::MAX);
        if shared.slots.len() >= most {
            shared.counters.rejected += 1;
            session.closing = true;
            shared.wires.buffers[slot].output.extend_from_slice(b"-ERR max number of clients reached\r\n");
            shared.wires.again.push(slot);
            shared.wires.dirty.push(slot);
        }
        shared.counters.connections += 1;
        shared.slots.insert(id, slot);
        shared.sessions[slot] = Some(Box::new(session));
    }

    pub(super) fn close(&mut self, slot: usize) {
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else {
            // Its own command is being carried out: when that is done.
            if self.shared.running.is_some() {
                self.shared.wires.gone.push(slot);
            }
            return;
        };
        let wires = &mut self.shared.wires;
        if let Some(network) = &mut wires.network {
            network.close(slot);
        }
        wires.buffers[slot] = Buffers::default();
        wires.dirty.retain(|dirty| *dirty != slot);
        wires.again.retain(|again| *again != slot);
        commands::unwatch(self.store, &mut session);
        if let Some(waiting) = session.waiting.take() {
            self.forget(session.id, &waiting);
        }
        let id = session.id;
        session.channels.iter().for_each(|name| self.shared.unsubscribe(id, name, Listening::Channel));
        session.patterns.iter().for_each(|name| self.shared.unsubscribe(id, name, Listening::Pattern));
        session.shards.iter().for_each(|name| self.shared.unsubscribe(id, name, Listening::Shard));
        self.shared.monitors.retain(|monitor| *monitor != id);
        self.shared.replication.replicas.remove(&id);
        // Given up, unless it is in place already.
        drop(self.shared.import.take_if(|import| import.session == id && !import.is_in_place()));
        self.shared.trackers.remove(&id);
        self.shared.slots.remove(&id);
        for other in self.shared.sessions.iter_mut().flatten() {
            if let Some(tracking) = &mut other.tracking
                && tracking.redirect == id
            {
                tracking.broken = true;
                self.shared.messages.push((other.id, Push::RedirectBroken(id)));
            }
        }
    }

    pub(super) fn forget(&mut self, session: u64, waiting: &Waiting) {
        self.shared.stop_waiting(session, waiting);
        waiting.keys.iter().for_each(|(db, key)| self.store.unawait_key(*db, key));
    }

    /// Carries out what a connection asks for, as far as it has come.
    pub(super) fn serve(&mut self, slot: usize) {
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        if session.follows
            && let Some(replica) = self.shared.replication.replicas.get_mut(&session.id)
        {
            replica.heard = self.store.now;
        }
        let buffers = &mut self.shared.wires.buffers[slot];
        let input = std::mem::take(&mut buffers.input);
        let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
        let mut request = std::mem::take(&mut self.shared.wires.request);
        let (mut at, mut count) = (0, 0);
        while session.waiting.is_none() && !session.closing && !session.killed && at < input.len() {
            if count == REQUESTS {
                self.shared.wires.again.push(slot);
                break;
            }
            match resp::request_into(&input[at..], &mut request) {
                Ok(None) => break,
                Err(error) => {
                    reply.error(&format!("ERR {error}"));
                    session.closing = true;
                }
                Ok(Some(length)) => {
                    let bytes = request.text.as_deref().unwrap_or(&input[at..at + length]);
                    at += length;
                    count += 1;
                    // Few arguments need no allocation.
                    let mut few: [&[u8]; 8] = [&[]; 8];
                    let many: Vec<&[u8]>;
                    let ranges = &request.arguments;
                    let args: &[&[u8]] = if ranges.len() <= few.len() {
                        ranges.iter().zip(&mut few).for_each(|(range, arg)| *arg = &bytes[range.clone()]);
                        &few[..ranges.len()]
                    } else {
                        many = ranges.iter().map(|range| &bytes[range.clone()]).collect();
                        &many
                    };
                    if args.is_empty() {
                        continue;
                    }
                    session.buffers = (input.len() - (at - length), reply.bytes.len());
                    let (store, shared) = (&mut self.store, &mut self.shared);
                    if shared.pause.until > 0 && is_paused(store, shared, &session, args) {
                        session.waiting = Some(paused(args, shared.pause.until));
                    } else {
                        dispatch::process(&mut Context { store, session: &mut session, shared, args, reply: &mut reply });
                    }
                    if let Some(waiting) = &session.waiting {
                        self.shared.wait(session.id, waiting);
                        waiting.keys.iter().for_each(|(db, key)| self.store.await_key(*db, key));
                    }
                    // While a script runs nobody else gets anything from what it has done so far.
                    let is_done = self.shared.running.is_none();
                    if is_done && (self.store.has_filled() || !self.shared.unblock.is_empty() || !self.shared.messages.is_empty()) {
                        let buffers = &mut self.shared.wires.buffers[slot];
                        buffers.output = std::mem::take(&mut reply.bytes);
                        self.shared.sessions[slot] = Some(session);
                        self.after();
                        reply.bytes = std::mem::take(&mut self.shared.wires.buffers[slot].output);
                        match self.shared.sessions[slot].take() {
                            Some(back) => session = back,
                            None => {
                                self.shared.wires.request = request;
                                return;
                            }
                        }
                    }
                }
            }
        }
        self.shared.wires.request = request;
        let wires = &mut self.shared.wires;
        let buffers = &mut wires.buffers[slot];
        buffers.output = reply.bytes;
        let arrived = std::mem::take(&mut buffers.input);
        let rest = input.len() - at;
        if rest == 0 {
            // The buffer is used again, unless it became large.
            buffers.input = input;
            buffers.input.clear();
            buffers.input.shrink_to(64 << 10);
        } else if at == 0 {
            buffers.input = input;
        } else {
            buffers.input = input[at..].to_vec();
        }
        if !arrived.is_empty() {
            // It came while a script ran.
            buffers.input.extend_from_slice(&arrived);
            wires.again.push(slot);
        }
        if rest > self.shared.config.hot.query_limit {
            session.killed = true;
        }
        if session.closing {
            buffers.input.clear();
        }
        session.buffers = (rest, buffers.unsent());
        if buffers.unsent() > 0 {
            self.shared.wires.dirty.push(slot);
        }
        self.shared.sessions[slot] = Some(session);
    }
}
