//! Replicas: who follows, what there is for them, and how far each has come.
//!
//! | module | what |
//! |---|---|
//! | [`stream`] | what is carried out after the snapshot |
//! | [`spool`] | the snapshot |
//! | [`link`] | being a replica |
//!
//! As Redis's masters do it: who asks (PSYNC, SYNC) gets a snapshot, of one moment, and then what happened since that moment as commands.
//! An export is the same without what happened since. All who ask before a snapshot begins share it. The server's loop
//! (`server/replicas.rs`) moves everything; here is what it knows.

pub mod link;
pub mod spool;
pub mod stream;

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use self::link::{Following, Link};
use self::spool::Spool;
use self::stream::Stream;
use crate::persistence::disk::Place;

/// Snapshots for replicas that lie in files at a time: who gets one slowly does not keep others from the next.
pub const SPOOLS: usize = 4;

/// How long (ms) a replica that begins is not told that this end lives: shorter than it is waited for anywhere.
const UNSAID: i64 = 5000;

/// How far a replica is.
#[derive(Debug)]
pub enum Stage {
    /// It waits for a snapshot to begin.
    Waits,
    /// Its snapshot is being written.
    Saves,
    /// It gets its snapshot: pieces, and how many bytes are still to come.
    Loads(Receiver<Result<Vec<u8>, String>>, u64),
    /// It follows the stream.
    Follows,
}

/// Somebody who follows, or wants a snapshot.
#[derive(Debug)]
pub struct Replica {
    /// How far it is.
    pub stage: Stage,
    /// It wants the snapshot alone.
    pub only_snapshot: bool,
    /// It asked by PSYNC, and is told where in the stream it begins.
    pub told: bool,
    /// Where it can be reached: as it says, or as the connection shows.
    pub ip: String,
    /// Its port, as it says.
    pub port: u16,
    /// The number of the byte of the stream that it gets next.
    pub at: u64,
    /// How much of the stream it has carried out, as it says.
    pub acknowledged: u64,
    /// Milliseconds since 1970 when it said something last, or took something.
    pub heard: i64,
    /// Since when (ms) more waits for it than the soft limit.
    pub soft_limit_since: Option<i64>,
}

/// Somebody who waits until so many replicas have carried out so much.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// Session.
    pub session: u64,
    /// Bytes of the stream.
    pub offset: u64,
    /// Replicas.
    pub replicas: i64,
}

/// Counters, for INFO.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Snapshots that replicas got, or begin to get.
    pub full: u64,
    /// Replicas that went on where they were.
    pub partial: u64,
    /// Replicas that wanted to, and could not.
    pub refused: u64,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Replication {
    /// What is carried out after the snapshot.
    pub stream: Stream,
    /// The name that the stream had before, and how far it had come then: who followed it to there, and no further, can go on.
    pub before: Option<(String, u64)>,
    /// How it can follow another server, if it can at all.
    pub following: Option<Following>,
    /// Whom it follows.
    pub link: Option<Link>,
    /// By session.
    pub replicas: BTreeMap<u64, Replica>,
    /// Whether the stream is kept: somebody follows it, or did a while ago.
    pub kept: bool,
    /// Since when (ms) nobody follows it.
    pub alone_since: Option<i64>,
    /// When (ms) something was last said to those who follow.
    pub said: i64,
    /// Who WAITs.
    pub waiters: Vec<Waiter>,
    /// Whether those who follow are to be asked how far they have come.
    pub asks: bool,
    /// For INFO.
    pub counters: Counters,
    spools: [Weak<Spool>; SPOOLS],
    /// Of the snapshot that is being written, its place among them.
    saving: usize,
    /// How that ended.
    saved: Option<Result<(Place, u64), String>>,
}

impl Replication {
    /// Whether effects are to be noted. Those of a replica are not its own.
    pub fn takes(&self) -> bool {
        self.kept && self.link.is_none()
    }

    /// Whether it follows another server.
    pub fn is_replica(&self) -> bool {
        self.link.is_some()
    }

    /// Whether somebody who has this much of this stream can go on from there.
    pub fn continues(&mut self, id: &[u8], at: u64) -> bool {
        let is_it = id == self.stream.id().as_bytes();
        let was_it = self.before.as_ref().is_some_and(|(before, end)| id == before.as_bytes() && at <= *end);
        self.kept && (is_it || was_it) && self.stream.from(at).is_some()
    }

    /// Adds an effect.
    pub fn note(&mut self, database: usize, command: &[&[u8]]) {
        self.stream.note(database, command);
    }

    /// What was noted since this was said last is one.
    pub fn end_unit(&mut self) {
        self.stream.end_unit();
    }

    /// Whether nothing is to be done.
    pub fn is_idle(&self) -> bool {
        self.replicas.is_empty() && !self.kept && self.saved.is_none()
    }

    /// A session wants a snapshot, and what comes after it if it wants more than that.
    pub fn add(&mut self, session: u64, replica: Replica) {
        if !replica.only_snapshot {
            (self.kept, self.alone_since) = (true, None);
            // It need not be told as it begins that this end lives.
            self.said = self.said.max(replica.heard - UNSAID);
        }
        self.replicas.insert(session, replica);
    }

    /// Whether somebody waits for a snapshot to begin.
    pub fn has_waiting(&self) -> bool {
        self.replicas.values().any(|replica| matches!(replica.stage, Stage::Waits))
    }

    /// Those who follow: who gets the snapshot alone does not.
    pub fn following(&self) -> impl Iterator<Item = (&u64, &Replica)> {
        self.replicas.iter().filter(|(_, replica)| !replica.only_snapshot)
    }

    /// How many of those who follow have carried out so much of the stream.
    pub fn acknowledged(&self, offset: u64) -> i64 {
        let has = |replica: &&Replica| matches!(replica.stage, Stage::Follows) && replica.acknowledged >= offset;
        self.replicas.values().filter(has).count() as i64
    }

    /// The number of a file that nobody gets: the snapshot that begins now is written into it. There is none other until that has ended.
    pub fn take_spool(&mut self) -> Option<usize> {
        let free = self.spools.iter().position(|spool| spool.strong_count() == 0)?;
        self.saving = free;
        Some(free)
    }

    /// The snapshot that was being written is there, or why not.
    pub fn saved(&mut self, result: Result<(Place, u64), String>) {
        self.saved = Some(result);
    }

    /// The same, for who goes on with it.
    pub fn take_saved(&mut self) -> Option<Result<Arc<Spool>, String>> {
        let spool = self.saved.take()?.map(|(place, length)| Arc::new(Spool::new(place, length)));
        if let Ok(spool) = &spool {
            self.spools[self.saving] = Arc::downgrade(spool);
        }
        Some(spool)
    }

    /// Forgets what nobody needs: all but the last `backlog` bytes, and what somebody who follows has not got.
    pub fn trim(&mut self, backlog: u64) {
        let needed = self.replicas.values().filter(|replica| !replica.only_snapshot && !matches!(replica.stage, Stage::Waits));
        let first = needed.map(|replica| replica.at).min().unwrap_or(u64::MAX);
        self.stream.forget(first.min(self.stream.end().saturating_sub(backlog)));
    }

    /// What there is did not come out of the stream: nobody can follow it on.
    pub fn restart(&mut self) {
        self.before = None;
        self.stream.restart();
    }
}
