//! What is done as time passes: waiting that ends, the snapshot's walk, expiry, limits.

use std::time::Instant;

use super::{SLICE, Server, TICK};
use crate::commands::{self, event};
use crate::eviction::used_memory;
use crate::persistence;
use crate::store::{Cause, Walked};

/// Bytes a second that a snapshot is given while clients are served: they and the writer share the processors.
const PACE: usize = 32 << 20;
/// Seconds that a snapshot of everything takes at most by that pace, however much there is.
const LONGEST: usize = 120;
/// Commands between two ticks from which on clients are taken to be served: who merely looks how the snapshot goes on does not slow it.
const SERVING: u64 = 100;

impl Server {
    /// Whether the snapshot under way has to wait for a moment, since clients are served.
    pub(super) fn is_paced(&self) -> bool {
        self.serving && self.store.is_given_more(PACE.max(used_memory() / LONGEST))
    }

    pub(super) fn background(&mut self) {
        while let Some((until, id)) = self.shared.deadlines.first().copied() {
            if until > self.store.now {
                break;
            }
            self.shared.deadlines.remove(&(until, id));
            self.connections().end_waiting(id, false);
        }
        if self.shared.pause.until > 0 && self.shared.pause.until <= self.store.now {
            self.shared.pause.until = 0;
        }
        if self.store.is_walking() && !self.is_paced() {
            self.walk();
        }
        if self.last_tick.elapsed() >= TICK {
            self.last_tick = Instant::now();
            self.tick();
        }
        let gone: Vec<usize> = self.limits();
        gone.into_iter().for_each(|slot| self.connections().close(slot));
        if self.store.has_filled() || !self.shared.messages.is_empty() || !self.shared.unblock.is_empty() {
            self.connections().after();
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
        if self.shared.active_expire && !self.shared.replication.is_replica() {
            self.expire();
        }
        let commands = self.shared.counters.commands;
        self.serving = commands.saturating_sub(self.commands) >= SERVING;
        self.commands = commands;
        let used = used_memory();
        self.shared.counters.peak = self.shared.counters.peak.max(used);
        persistence::upkeep(&mut self.store, &mut self.shared);
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
        let touched: Vec<usize> = self.shared.wires.dirty.clone();
        for slot in touched {
            let Some(Some(session)) = self.shared.sessions.get_mut(slot) else { continue };
            let unsent = self.shared.wires.buffers[slot].unsent();
            let (hard, soft, seconds) = self.shared.config.hot.output_limits[usize::from(session.is_subscriber())];
            if session.follows {
                // What waits for a replica is looked at where it is given.
                continue;
            }
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
            let idle =
                slow > 0 && now - session.used > slow * 1000 && session.waiting.is_none() && !session.is_subscriber() && !session.follows;
            // What it is told last is sent first; who does not read it within a minute does not want it.
            if session.killed || session.closing && self.shared.wires.buffers[slot].unsent() == 0 || idle {
                gone.push(slot);
            }
        }
        gone
    }
}
