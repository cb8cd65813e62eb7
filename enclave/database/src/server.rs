//! The loop: input, commands, output, and what is done as time passes.

use std::io;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::commands::{self, Context, event};
use crate::dispatch;
use crate::error::Error;
use crate::network::{Buffers, Network, Turn};
use crate::payload::Stop;
use crate::resp::{self, Reply, Request};
use crate::saving;
use crate::session::{Session, Waiting};
use crate::shared::{Listening, Push, Shared};
use crate::store::{Cause, Store, Walked};
use crate::value::Value;

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
    failed_save: i64,
    stops: Option<Receiver<Stop>>,
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
            failed_save: 0,
            stops: None,
        }
    }

    /// The same, which ends when it is told to, with everything on disk.
    pub fn until(self, stops: Receiver<Stop>) -> Server<N> {
        Server { stops: Some(stops), ..self }
    }

    /// Until SHUTDOWN.
    ///
    /// # Errors
    /// What ends the whole server: the network.
    pub fn run(mut self) -> io::Result<()> {
        let mut turn = Turn::default();
        loop {
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
            if self.shared.shutdown || self.is_told_to_stop() {
                let dirty = std::mem::take(&mut self.dirty);
                self.network.turn(&mut self.buffers, &dirty, Duration::ZERO, &mut turn)?;
                return Ok(());
            }
        }
    }

    /// Whether it is to end, and what is in memory is on disk. When it can't be written the server goes on: somebody may find the room.
    fn is_told_to_stop(&mut self) -> bool {
        let Some(stop) = self.stops.as_ref().and_then(|stops| stops.try_recv().ok()) else { return false };
        self.shared.saving.finish(&mut self.store);
        let path = saving::path(&self.shared.config);
        let saved = self.shared.saving.save_here(&mut self.store, path).map_err(|error| error.to_string());
        let ends = saved.is_ok();
        stop.done(saved);
        ends
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
        let tick = TICK.saturating_sub(self.last_tick.elapsed());
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

    /// What follows from commands: messages to others, who waited for a key.
    fn after(&mut self) {
        // What one gets may be what another waits for; each round serves at least one, or ends.
        for _ in 0..10_000 {
            self.unblock();
            let filled = self.store.filled();
            if filled.is_empty() {
                break;
            }
            for (db, key) in filled {
                let waiters: Vec<u64> =
                    self.shared.waiters.get(&(db, key)).map(|queue| queue.iter().copied().collect()).unwrap_or_default();
                for id in waiters {
                    self.retry(id);
                }
            }
        }
        self.deliver();
    }

    /// Tries again what a connection waits for.
    fn retry(&mut self, id: u64) {
        let Some(slot) = self.shared.slots.get(&id).copied() else { return };
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        let Some(waiting) = session.waiting.take() else {
            self.shared.sessions[slot] = Some(session);
            return;
        };
        let buffers = &mut self.buffers[slot];
        let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
        let before = reply.bytes.len();
        let args: Vec<&[u8]> = waiting.request.iter().map(|arg| &**arg).collect();
        session.retrying = true;
        let database = session.database;
        if let Some((db, _)) = waiting.keys.first() {
            session.database = *db;
        }
        let result = match commands::find(args.first().copied().unwrap_or_default()) {
            Some(command) => {
                let (store, shared) = (&mut self.store, &mut self.shared);
                let mut context = Context { store, session: &mut session, shared, args: &args, reply: &mut reply };
                let result = commands::run(&mut context, command);
                match &result {
                    Err(error) if *error != Error::WrongType => {
                        dispatch::note_error(&mut context, error);
                        context.shared.calls.entry(command.name).or_default().failed += 1;
                    }
                    _ => {}
                }
                result
            }
            None => Ok(()),
        };
        session.database = database;
        // `block` takes the mark away: then it waits on. So it does for a key that became something else.
        // Not so where the list is there, and the wrong one is that to which its element would go.
        let is_list = waiting.keys.first().is_some_and(|(db, key)| matches!(self.store.peek(*db, key), Some(Value::List(_))));
        let carries = args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"blmove") || name.eq_ignore_ascii_case(b"brpoplpush"));
        let waits = !session.retrying || result == Err(Error::WrongType) && !(carries && is_list);
        session.retrying = false;
        if waits {
            reply.bytes.truncate(before);
            session.waiting = Some(waiting);
        } else {
            if let Err(error) = result {
                reply.bytes.truncate(before);
                reply.error(&error.to_string());
            }
            self.forget(id, &waiting);
            self.again.push(slot);
        }
        self.buffers[slot].output = reply.bytes;
        self.dirty.push(slot);
        self.shared.sessions[slot] = Some(session);
    }

    /// Ends the waiting of those for whom CLIENT UNBLOCK was called.
    fn unblock(&mut self) {
        for (id, with_error) in std::mem::take(&mut self.shared.unblock) {
            self.end_waiting(id, with_error);
        }
    }

    fn end_waiting(&mut self, id: u64, with_error: bool) {
        let Some(slot) = self.shared.slots.get(&id).copied() else { return };
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        if let Some(waiting) = session.waiting.take() {
            self.forget(id, &waiting);
            let buffers = &mut self.buffers[slot];
            if waiting.paused {
                // It comes again, before what came behind it.
                let mut input = Vec::new();
                input.extend_from_slice(format!("*{}\r\n", waiting.request.len()).as_bytes());
                for arg in &waiting.request {
                    input.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                    input.extend_from_slice(arg);
                    input.extend_from_slice(b"\r\n");
                }
                input.append(&mut buffers.input);
                buffers.input = input;
            } else {
                let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
                if with_error {
                    reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
                } else {
                    reply.otherwise(waiting.otherwise);
                }
                buffers.output = reply.bytes;
                self.dirty.push(slot);
            }
            self.again.push(slot);
        }
        self.shared.sessions[slot] = Some(session);
    }

    /// Puts messages into the buffers of those who get them.
    fn deliver(&mut self) {
        for (id, push) in std::mem::take(&mut self.shared.messages) {
            let Some(slot) = self.shared.slots.get(&id).copied() else { continue };
            let Some(Some(session)) = self.shared.sessions.get(slot) else { continue };
            let buffers = &mut self.buffers[slot];
            let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
            write_push(&mut reply, &push);
            buffers.output = reply.bytes;
            self.dirty.push(slot);
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------------------------

    fn background(&mut self) {
        while let Some((until, id)) = self.shared.deadlines.first().copied() {
            if until > self.store.now {
                break;
            }
            self.shared.deadlines.remove(&(until, id));
            self.end_waiting(id, false);
        }
        if self.shared.pause.until > 0 && self.shared.pause.until <= self.store.now {
            self.shared.pause.until = 0;
        }
        if self.store.is_walking() {
            self.walk();
        }
        if self.last_tick.elapsed() >= TICK {
            self.last_tick = Instant::now();
            self.tick();
        }
        let gone: Vec<usize> = self.limits();
        gone.into_iter().for_each(|slot| self.close(slot));
        if self.store.has_filled() || !self.shared.messages.is_empty() || !self.shared.unblock.is_empty() {
            self.after();
        }
    }

    /// Goes on with the snapshot, for a short time.
    fn walk(&mut self) {
        let began = Instant::now();
        while began.elapsed() < SLICE {
            match self.store.walk() {
                Walked::More => {}
                Walked::Full => {
                    // The writer needs the processor, not we.
                    std::thread::yield_now();
                    break;
                }
                Walked::Nothing | Walked::Done => break,
            }
        }
    }

    fn tick(&mut self) {
        if self.shared.active_expire {
            self.expire();
        }
        let used = crate::eviction::used_memory();
        self.shared.counters.peak = self.shared.counters.peak.max(used);
        let was_under_way = self.shared.saving.is_under_way();
        self.shared.saving.look(&mut self.store);
        if was_under_way && !self.shared.saving.is_under_way() && self.shared.saving.failed.is_some() {
            self.failed_save = self.store.now;
        }
        let changes = self.store.changes.saturating_sub(self.shared.saving.changes);
        let since = self.store.now / 1000 - self.shared.saving.last;
        let due = self.shared.config.hot.save.iter().any(|(seconds, least)| changes >= *least && since >= *seconds as i64);
        // After a failure it is tried again a little later only.
        let may = self.shared.saving.failed.is_none() || self.store.now - self.failed_save > 5000;
        if !self.shared.saving.is_under_way() && (due && may || self.shared.save_again) {
            self.shared.save_again = false;
            let path = saving::path(&self.shared.config);
            let limit = usize::try_from(self.shared.config.number("snapshot-buffer")).unwrap_or(usize::MAX);
            if let Err(error) = self.shared.saving.begin(&mut self.store, path, limit) {
                self.shared.saving.failed = Some(error.to_string());
                self.failed_save = self.store.now;
            }
        }
    }

    /// Drops keys whose time has come, for a short time: as long as many are found.
    fn expire(&mut self) {
        let began = Instant::now();
        let databases = self.store.databases();
        for _ in 0..databases {
            let (db, mut cursor) = self.expiry;
            if self.store.expiring(db) > 0 {
                loop {
                    let (dropped, seen) = self.store.expire_some(db, &mut cursor, 64);
                    if cursor == 0 || dropped * 10 < seen || began.elapsed() >= SLICE {
                        break;
                    }
                }
            } else {
                cursor = 0;
            }
            self.expiry = if cursor == 0 { ((db + 1) % databases, 0) } else { (db, cursor) };
            if began.elapsed() >= SLICE {
                break;
            }
        }
        for (db, key, cause) in std::mem::take(&mut self.store.touched) {
            if let (Some(key), Cause::Expired) = (&key, cause) {
                commands::notify(&mut self.shared, db, event::EXPIRED, "expired", key);
            }
            commands::invalidate(&mut self.shared, key.as_deref(), None);
        }
    }

    /// Those who are to be closed: said so, were killed, or let their output grow.
    fn limits(&mut self) -> Vec<usize> {
        let (mut gone, now) = (Vec::new(), self.store.now);
        let slow = self.shared.config.number("timeout");
        let mut over = 0;
        let touched: Vec<usize> = self.dirty.clone();
        for slot in touched {
            let Some(Some(session)) = self.shared.sessions.get_mut(slot) else { continue };
            let unsent = self.buffers[slot].unsent();
            let (hard, soft, seconds) = self.shared.config.hot.output_limits[usize::from(session.is_subscriber())];
            let is_soft = soft > 0 && unsent > soft;
            let since = if is_soft { *session.soft_limit_since.get_or_insert(now) } else { now };
            if !is_soft {
                session.soft_limit_since = None;
            }
            if hard > 0 && unsent > hard || is_soft && now - since > seconds * 1000 {
                session.killed = true;
                over += 1;
            }
        }
        self.shared.counters.output_limit += over;
        for (slot, session) in self.shared.sessions.iter().enumerate() {
            let Some(session) = session else { continue };
            let idle = slow > 0 && now - session.used > slow * 1000 && session.waiting.is_none() && !session.is_subscriber();
            // What it is told last is sent first; who does not read it within a minute does not want it.
            if session.killed || session.closing && self.buffers[slot].unsent() == 0 || idle {
                gone.push(slot);
            }
        }
        gone
    }
}

fn is_paused(store: &Store, shared: &Shared, session: &Session, args: &[&[u8]]) -> bool {
    if shared.pause.until <= store.now || session.queue.is_some() && !args[0].eq_ignore_ascii_case(b"exec") {
        return false;
    }
    let Some(command) = commands::find(args[0]) else { return false };
    // Who pauses must be able to go on.
    if command.name == "client" || command.name == "ping" && !shared.pause.all {
        return false;
    }
    let writes = command.writes() || matches!(command.name, "publish" | "spublish" | "pfcount" | "eval" | "evalsha" | "fcall" | "script");
    let queued = command.name == "exec"
        && session
            .queue
            .iter()
            .flatten()
            .any(|request| request.first().is_some_and(|name| commands::find(name).is_some_and(commands::Command::writes)));
    shared.pause.all || writes || queued
}

fn paused(args: &[&[u8]], until: i64) -> Waiting {
    Waiting {
        request: args.iter().map(|arg| Box::from(*arg)).collect(),
        keys: Vec::new(),
        until: Some(until),
        otherwise: crate::session::Otherwise::Null,
        paused: true,
    }
}

fn write_push(reply: &mut Reply, push: &Push) {
    match push {
        Push::Message { pattern: None, channel, content, shard } => {
            reply.push(3);
            reply.bulk(if *shard { b"smessage" } else { b"message" });
            reply.bulk(channel);
            reply.bulk(content);
        }
        Push::Message { pattern: Some(pattern), channel, content, .. } => {
            reply.push(4);
            reply.bulk(b"pmessage");
            reply.bulk(pattern);
            reply.bulk(channel);
            reply.bulk(content);
        }
        Push::Line(line) => reply.simple(line),
        Push::RedirectBroken(id) if reply.version >= 3 => {
            reply.push(2);
            reply.bulk(b"tracking-redir-broken");
            reply.integer(*id as i64);
        }
        Push::RedirectBroken(_) => {}
        Push::Invalidate(keys) => {
            if reply.version >= 3 {
                reply.push(2);
                reply.bulk(b"invalidate");
            } else {
                reply.array(3);
                reply.bulk(b"message");
                reply.bulk(b"__redis__:invalidate");
            }
            match keys {
                Some(keys) => reply.bulks(keys.iter()),
                None => reply.null_array(),
            }
        }
    }
}
