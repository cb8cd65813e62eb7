//! The loop: input, commands, output, and what is done as time passes.

mod following;
mod importing;
mod replicas;
mod stopping;
mod upkeep;
mod waiting;

use std::io;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::commands::{self, Context, event};
use crate::dispatch;
use crate::network::{Buffers, Network, Turn};
use crate::persistence;
use crate::resp::{self, Reply, Request};
use crate::session::{Session, Waiting};
use crate::shared::{Listening, Push, Shared};
use crate::store::Store;

pub use stopping::{Ended, Stop};
use waiting::{is_paused, paused};

/// Requests of one connection that a turn carries out before others have their turn.
const REQUESTS: usize = 1024;
/// How long one turn may go on with the snapshot's walk, with expiry.
const SLICE: Duration = Duration::from_millis(1);
/// How often time-driven work is looked at.
const TICK: Duration = Duration::from_millis(100);

/// The server.
pub struct Server<N> {
    network: N,
    store: Store,
    shared: Shared,
    buffers: Vec<Buffers>,
    /// Slots with something to send.
    dirty: Vec<usize>,
    /// Slots with requests that a turn had no time for, or that waited.
    again: Vec<usize>,
    next_id: u64,
    request: Request,
    last_tick: Instant,
    expiry: (usize, u64),
    stops: Option<Receiver<Stop>>,
    /// Another thread is about to have something for a connection.
    soon: Option<Duration>,
    followed: following::Followed,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}

impl<N: Network> Server<N> {
    /// Serves these databases over this network.
    pub fn new(network: N, store: Store, shared: Shared) -> Server<N> {
        Server {
            network,
            store,
            shared,
            buffers: Vec::new(),
            dirty: Vec::new(),
            again: Vec::new(),
            next_id: 1,
            request: Request::default(),
            last_tick: Instant::now(),
            expiry: (0, 0),
            stops: None,
            soon: None,
            followed: following::Followed::new(),
        }
    }

    /// Until SHUTDOWN, or until it is told to end.
    ///
    /// # Errors
    /// What ends the whole server: the network.
    pub fn run(mut self) -> io::Result<Ended> {
        let mut turn = Turn::default();
        commands::follow_from_the_start(&mut self.store, &mut self.shared);
        loop {
            self.commit();
            if let Some(why) = self.shared.guard.left_behind() {
                return Err(io::Error::other(why.to_owned()));
            }
            let busy = !self.again.is_empty() || self.store.is_walking();
            let wait = if busy { Duration::ZERO } else { self.until_next() };
            self.dirty.sort_unstable();
            self.dirty.dedup();
            let dirty = std::mem::take(&mut self.dirty);
            self.network.turn(&mut self.buffers, &dirty, wait, &mut turn)?;
            self.dirty = dirty;
            self.dirty.clear();
            self.set_time();
            self.shared.counters.input += turn.bytes.0;
            self.shared.counters.output += turn.bytes.1;
            for (slot, peer, local) in turn.opened.drain(..) {
                self.open(slot, peer, local);
            }
            let mut ready = std::mem::take(&mut self.again);
            ready.append(&mut turn.ready);
            for slot in ready.drain(..) {
                self.serve(slot);
            }
            for slot in turn.closed.drain(..) {
                self.close(slot);
            }
            turn.bytes = (0, 0);
            self.background();
            if let Some(ended) = self.ends() {
                self.commit();
                let dirty = std::mem::take(&mut self.dirty);
                self.network.turn(&mut self.buffers, &dirty, Duration::ZERO, &mut turn)?;
                persistence::end(&mut self.shared);
                return Ok(ended);
            }
        }
    }

    /// What this turn's commands did goes into the log, once for all of them, before anybody is told. Who would be told of something that
    /// could not be kept gets no answer: the connection ends.
    fn commit(&mut self) {
        let followed = self.follow();
        persistence::gather(&mut self.store, &mut self.shared);
        let soon = self.import() | self.replicate();
        self.soon = soon.then_some(replicas::SOON).into_iter().chain(followed).min();
        if !persistence::commit(&mut self.store, &mut self.shared) {
            for slot in std::mem::take(&mut self.dirty) {
                self.close(slot);
            }
        }
    }

    fn set_time(&mut self) {
        let now = now();
        self.store.now = now;
        let hot = &self.shared.config.hot;
        self.store.clock.now = now;
        self.store.clock.lfu = hot.lfu;
        self.store.clock.counts = hot.counts;
        self.shared.clock = Instant::now();
        self.store.record = hot.events & event::EXPIRED != 0 || !self.shared.trackers.is_empty();
    }

    fn until_next(&self) -> Duration {
        let tick = TICK.saturating_sub(self.last_tick.elapsed()).min(self.soon.unwrap_or(TICK));
        match self.shared.deadlines.first() {
            Some((until, _)) => tick.min(Duration::from_millis(until.saturating_sub(now()).max(0) as u64)),
            None => tick,
        }
    }

    // ---- connections ----------------------------------------------------------------------------------------------------------------

    fn open(&mut self, slot: usize, peer: String, local: String) {
        let id = self.next_id;
        self.next_id += 1;
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
            self.buffers[slot].output.extend_from_slice(b"-ERR max number of clients reached\r\n");
            self.again.push(slot);
            self.dirty.push(slot);
        }
        shared.counters.connections += 1;
        shared.slots.insert(id, slot);
        shared.sessions[slot] = Some(Box::new(session));
    }

    fn close(&mut self, slot: usize) {
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        self.network.close(slot);
        self.buffers[slot] = Buffers::default();
        self.dirty.retain(|dirty| *dirty != slot);
        self.again.retain(|again| *again != slot);
        commands::unwatch(&mut self.store, &mut session);
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

    fn forget(&mut self, session: u64, waiting: &Waiting) {
        self.shared.stop_waiting(session, waiting);
        waiting.keys.iter().for_each(|(db, key)| self.store.unawait_key(*db, key));
    }

    /// Carries out what a connection asks for, as far as it has come.
    fn serve(&mut self, slot: usize) {
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        if session.follows
            && let Some(replica) = self.shared.replication.replicas.get_mut(&session.id)
        {
            replica.heard = self.store.now;
        }
        let buffers = &mut self.buffers[slot];
        let input = std::mem::take(&mut buffers.input);
        let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
        let mut request = std::mem::take(&mut self.request);
        let (mut at, mut count) = (0, 0);
        while session.waiting.is_none() && !session.closing && !session.killed && at < input.len() {
            if count == REQUESTS {
                self.again.push(slot);
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
                    if self.store.has_filled() || !self.shared.unblock.is_empty() || !self.shared.messages.is_empty() {
                        let buffers = &mut self.buffers[slot];
                        buffers.output = std::mem::take(&mut reply.bytes);
                        self.shared.sessions[slot] = Some(session);
                        self.after();
                        reply.bytes = std::mem::take(&mut self.buffers[slot].output);
                        match self.shared.sessions[slot].take() {
                            Some(back) => session = back,
                            None => {
                                self.request = request;
                                return;
                            }
                        }
                    }
                }
            }
        }
        self.request = request;
        let buffers = &mut self.buffers[slot];
        buffers.output = reply.bytes;
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
        if rest > self.shared.config.hot.query_limit {
            session.killed = true;
        }
        if session.closing {
            buffers.input.clear();
        }
        session.buffers = (rest, buffers.unsent());
        if buffers.unsent() > 0 {
            self.dirty.push(slot);
        }
        self.shared.sessions[slot] = Some(session);
    }
}
