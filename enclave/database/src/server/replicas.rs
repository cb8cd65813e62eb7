//! What replicas get: once a turn, as much as each takes.

use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use super::Server;
use crate::network::Buffers;
use crate::persistence;
use crate::replication::spool::{self, Spool};
use crate::replication::stream::Stream;
use crate::replication::{Replica, Stage};
use crate::session::Otherwise;

/// Bytes that wait to be sent to a replica beyond which it gets no more for now.
const ROOM: usize = 512 << 10;
/// How soon to look again where another thread has to do something first.
pub(super) const SOON: Duration = Duration::from_millis(1);
/// Milliseconds between two signs of life for who waits for a snapshot.
const SIGN: i64 = 1000;

/// What becomes of a replica.
enum Next {
    /// It stays.
    Stays,
    /// It stays, and there is more for it as soon as another thread has read it.
    Soon,
    /// It has the snapshot, and wants no more.
    Has,
    /// It is cut off.
    Gone,
}

impl Server {
    /// Gives those who follow what there is for them. Whether there is more soon.
    pub(super) fn replicate(&mut self) -> bool {
        if self.shared.replication.is_idle() {
            return false;
        }
        if self.shared.saving.is_for_replicas() {
            persistence::look(&mut self.store, &mut self.shared);
        }
        if let Some(saved) = self.shared.replication.take_saved() {
            self.give_snapshot(saved);
        }
        if self.shared.replication.has_waiting() {
            self.begin_snapshot();
        }
        self.speak();
        let mut soon = self.shared.saving.is_for_replicas();
        let mut replicas = std::mem::take(&mut self.shared.replication.replicas);
        let mut gone = Vec::new();
        replicas.retain(|session, replica| {
            let Some(slot) = self.shared.slots.get(session).copied() else { return false };
            let buffers = &mut self.shared.wires.buffers[slot];
            let before = buffers.output.len();
            let next = feed(replica, &self.shared.replication.stream, buffers, self.store.now);
            let (grew, unsent) = (buffers.output.len() > before, buffers.unsent());
            if grew {
                self.shared.wires.dirty.push(slot);
            }
            let late = self.store.now - replica.heard > self.shared.config.number("repl-timeout") * 1000;
            match next {
                Next::Gone => gone.push(slot),
                Next::Stays | Next::Soon if late && is_timed(replica) => gone.push(slot),
                _ if is_far_behind(replica, &self.shared, unsent, self.store.now) => {
                    self.shared.counters.output_limit += 1;
                    gone.push(slot);
                }
                Next::Soon => soon = true,
                Next::Has => {
                    if let Some(Some(session)) = self.shared.sessions.get_mut(slot) {
                        session.follows = false;
                    }
                    return false;
                }
                Next::Stays => {}
            }
            true
        });
        self.shared.replication.replicas = replicas;
        gone.into_iter().for_each(|slot| self.connections().close(slot));
        self.forget_stream();
        self.settle_waits();
        soon
    }

    /// Begins the snapshot that replicas wait for.
    fn begin_snapshot(&mut self) {
        match persistence::begin_for_replicas(&mut self.store, &mut self.shared) {
            Ok(false) => {}
            Ok(true) => {
                let replication = &mut self.shared.replication;
                // From here on each of them must be able to begin.
                replication.stream.forget_database();
                let (end, id) = (replication.stream.end(), replication.stream.id().to_owned());
                for (session, replica) in &mut replication.replicas {
                    if !matches!(replica.stage, Stage::Waits) {
                        continue;
                    }
                    (replica.stage, replica.at, replica.heard) = (Stage::Saves, end, self.store.now);
                    if replica.told
                        && let Some(slot) = self.shared.slots.get(session)
                    {
                        self.shared.wires.buffers[*slot].output.extend_from_slice(format!("+FULLRESYNC {id} {end}\r\n").as_bytes());
                        self.shared.wires.dirty.push(*slot);
                    }
                }
            }
            Err(error) => self.refuse(|stage| matches!(stage, Stage::Waits), &error.to_string()),
        }
    }

    /// Gives the snapshot to those for whom it was written.
    fn give_snapshot(&mut self, saved: Result<std::sync::Arc<Spool>, String>) {
        let spool = match saved {
            Ok(spool) => spool,
            Err(why) => return self.refuse(|stage| matches!(stage, Stage::Saves), &why),
        };
        for (session, replica) in &mut self.shared.replication.replicas {
            let (Stage::Saves, Some(slot)) = (&replica.stage, self.shared.slots.get(session).copied()) else { continue };
            let output = &mut self.shared.wires.buffers[slot].output;
            match spool::read(spool.clone()) {
                Ok(pieces) => {
                    output.extend_from_slice(format!("${}\r\n", spool.length).as_bytes());
                    (replica.stage, replica.heard) = (Stage::Loads(pieces, spool.length), self.store.now);
                }
                Err(error) => {
                    output.extend_from_slice(format!("-ERR there is no thread for the snapshot: {error}\r\n").as_bytes());
                    if let Some(Some(session)) = self.shared.sessions.get_mut(slot) {
                        session.closing = true;
                    }
                }
            }
            self.shared.wires.dirty.push(slot);
        }
    }

    /// Tells replicas that there is no snapshot for them: the connection is of no more use.
    fn refuse(&mut self, which: impl Fn(&Stage) -> bool, why: &str) {
        let why = why.replace(['\r', '\n'], " ");
        let mut refused = Vec::new();
        self.shared.replication.replicas.retain(|session, replica| {
            let is_refused = which(&replica.stage);
            refused.extend(is_refused.then_some(*session));
            !is_refused
        });
        for id in refused {
            let Some(slot) = self.shared.slots.get(&id).copied() else { continue };
            self.shared.wires.buffers[slot].output.extend_from_slice(format!("-ERR there is no snapshot: {why}\r\n").as_bytes());
            self.shared.wires.dirty.push(slot);
            if let Some(Some(session)) = self.shared.sessions.get_mut(slot) {
                session.closing = true;
            }
        }
    }

    /// Says what is to be said as time passes: that this end lives, and a question how far they are.
    fn speak(&mut self) {
        let (now, replication) = (self.store.now, &mut self.shared.replication);
        let follows = replication.following().any(|(_, replica)| matches!(replica.stage, Stage::Follows));
        if std::mem::take(&mut replication.asks) && follows {
            replication.stream.say(&[b"REPLCONF", b"GETACK", b"*"]);
        }
        if replication.following().next().is_some()
            && now - replication.said >= self.shared.config.number("repl-ping-replica-period") * 1000
        {
            replication.said = now;
            replication.stream.say(&[b"PING"]);
        }
        for (session, replica) in &mut replication.replicas {
            if matches!(replica.stage, Stage::Waits | Stage::Saves)
                && now - replica.heard >= SIGN
                && let Some(slot) = self.shared.slots.get(session)
            {
                replica.heard = now;
                self.shared.wires.buffers[*slot].output.push(b'\n');
                self.shared.wires.dirty.push(*slot);
            }
        }
    }

    /// Forgets of the stream what nobody needs, and all of it when nobody has followed for long.
    fn forget_stream(&mut self) {
        let (now, config, replication) = (self.store.now, &self.shared.config, &mut self.shared.replication);
        replication.trim(config.number("repl-backlog-size").unsigned_abs());
        if replication.following().next().is_some() || replication.is_replica() {
            replication.alone_since = None;
            return;
        }
        let since = *replication.alone_since.get_or_insert(now);
        let ttl = config.number("repl-backlog-ttl");
        if replication.kept && ttl > 0 && now - since > ttl * 1000 {
            replication.kept = false;
            replication.restart();
        }
    }

    /// Answers those who WAIT, as far as replicas have come.
    fn settle_waits(&mut self) {
        if self.shared.replication.waiters.is_empty() {
            return;
        }
        for waiter in std::mem::take(&mut self.shared.replication.waiters) {
            let have = self.shared.replication.acknowledged(waiter.offset);
            let Some(slot) = self.shared.slots.get(&waiter.session).copied() else { continue };
            let Some(Some(session)) = self.shared.sessions.get_mut(slot) else { continue };
            let Some(waiting) = session.waiting.as_mut().filter(|waiting| waiting.request[0].eq_ignore_ascii_case(b"wait")) else {
                continue;
            };
            waiting.otherwise = Otherwise::Integer(have);
            if have >= waiter.replicas {
                self.connections().end_waiting(waiter.session, false);
            } else {
                self.shared.replication.waiters.push(waiter);
            }
        }
    }
}

/// Puts what there is for a replica where it is sent from, as far as there is room.
fn feed(replica: &mut Replica, stream: &Stream, buffers: &mut Buffers, now: i64) -> Next {
    if let Stage::Loads(pieces, left) = &mut replica.stage {
        while buffers.unsent() < ROOM && *left > 0 {
            match pieces.try_recv() {
                Ok(Ok(piece)) => {
                    *left = left.saturating_sub(piece.len() as u64);
                    buffers.output.extend_from_slice(&piece);
                    replica.heard = now;
                }
                Err(TryRecvError::Empty) => return Next::Soon,
                Ok(Err(why)) => {
                    eprintln!("teemate-database: a replica did not get its snapshot: {why}");
                    return Next::Gone;
                }
                Err(TryRecvError::Disconnected) => return Next::Gone,
            }
        }
        if *left > 0 {
            return Next::Stays;
        }
        // That was all only if the reader has nothing to say against it.
        match pieces.try_recv() {
            Err(TryRecvError::Disconnected) if replica.only_snapshot => return Next::Has,
            Err(TryRecvError::Disconnected) => (replica.stage, replica.heard) = (Stage::Follows, now),
            Err(TryRecvError::Empty) => return Next::Soon,
            Ok(_) => return Next::Gone,
        }
    }
    if let Stage::Follows = replica.stage {
        while buffers.unsent() < ROOM {
            let Some((first, second)) = stream.from(replica.at) else { return Next::Gone };
            let piece = if first.is_empty() { second } else { first };
            if piece.is_empty() {
                break;
            }
            let piece = &piece[..piece.len().min(ROOM)];
            buffers.output.extend_from_slice(piece);
            replica.at += piece.len() as u64;
        }
        if !replica.told {
            // It does not say how far it is.
            replica.heard = now;
        }
    }
    Next::Stays
}

/// Whether it must show that it lives: while it gets a snapshot by taking it, later by saying how far it is, if it is one that does.
fn is_timed(replica: &Replica) -> bool {
    match replica.stage {
        Stage::Waits | Stage::Saves => false,
        Stage::Loads(..) => true,
        Stage::Follows => replica.told,
    }
}

/// Whether more waits for a replica than may.
fn is_far_behind(replica: &mut Replica, shared: &crate::shared::Shared, unsent: usize, now: i64) -> bool {
    if replica.only_snapshot || matches!(replica.stage, Stage::Waits) {
        return false;
    }
    let behind = usize::try_from(shared.replication.stream.end() - replica.at).unwrap_or(usize::MAX).saturating_add(unsent);
    let (hard, soft, seconds) = shared.config.hot.output_limits[2];
    let is_soft = soft > 0 && behind > soft;
    let since = if is_soft { *replica.soft_limit_since.get_or_insert(now) } else { now };
    if !is_soft {
        replica.soft_limit_since = None;
    }
    hard > 0 && behind > hard || is_soft && now - since > seconds * 1000
}
