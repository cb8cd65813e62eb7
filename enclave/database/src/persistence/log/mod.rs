//! The append-only log: what every command did, in order.
//!
//! What one client's request did, a transaction's or a script's all together, is a *unit*: commands in Redis's own form, with SELECT where the
//! database changes. A unit is there whole or not at all. All units of one turn of the server are written at once, and, if the policy says so,
//! put on disk at once, before any of their clients is answered.
//!
//! A record of the sealed log is a unit, or a piece of a long one: a byte that says which, and the bytes.

mod keeping;
mod rewriting;

use std::time::{Duration, Instant};

use keeping::Keeping;
use teemate_sealed::{Content, Found, Head, Known, Log};

use super::Error;
use super::disk::Storage;
use super::rdb::Beyond;
use crate::config::Config;
use crate::resp::write_request;

/// Bytes of a unit that one record has.
const PIECE: usize = 64 << 20;
/// Bytes that are gathered in one turn before they are written.
const GATHERED: usize = 32 << 20;
/// Bytes that may wait for the first base.
const PENDING: usize = 512 << 20;
/// After how long a write that failed is tried again.
const SECOND: Duration = Duration::from_secs(1);

/// The record begins a unit.
pub(super) const FIRST: u8 = 1;
/// And ends one.
pub(super) const LAST: u8 = 2;

/// When the log is put on disk: the setting appendfsync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Before anybody is answered.
    Always,
    /// Once a second.
    #[default]
    Everysec,
    /// When the host's kernel thinks fit.
    No,
}

/// Whether there is a log, and whether it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Off,
    /// It was turned on, and counts when its first base is complete. Until then units wait in memory, from the beginning of that base on.
    Waiting,
    On,
}

/// How the log is doing, for INFO.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Bytes of the base and of the units since.
    pub size: u64,
    /// Bytes of the base.
    pub base: u64,
    /// Rewrites that ended well.
    pub rewrites: u64,
    /// Rewrites in a row that did not.
    pub failures: u64,
    /// Times that putting it on disk took longer than a second under `everysec`.
    pub delayed: u64,
    /// Bytes that wait to be written.
    pub waiting: usize,
    /// Whether another thread is just putting it on disk.
    pub syncing: bool,
}

/// The log.
#[derive(Default)]
pub struct AppendLog {
    state: State,
    log: Option<Log>,
    keeping: Option<Keeping>,
    /// The unit that is being gathered.
    unit: Vec<u8>,
    /// The database that the last command in the log was for; `None`: nothing may be assumed.
    database: Option<usize>,
    /// Units that wait for the first base, and their bytes.
    pending: (Vec<Vec<u8>>, usize),
    /// Whether a client waits to be told of something since the last commit.
    owed: bool,
    /// Why it can't be written, and when that is tried again.
    failed: Option<String>,
    retry: Option<Instant>,
    /// A unit did not find room: only a rewrite makes the log whole.
    broken: bool,
    rewriting: bool,
    /// BGREWRITEAOF while something else was under way.
    pub scheduled: bool,
    /// Bytes of units since the rewrite began.
    since: u64,
    /// Why the last rewrite failed, if it did, and when (milliseconds since 1970).
    rewrite_failed: Option<(String, i64)>,
    /// The log that was left when it was turned off: it does not go on.
    left: Option<Beyond>,
    figures: Figures,
}

impl AppendLog {
    // ---- beginning and end ----------------------------------------------------------------------------------------------------------

    /// Opens the log that the settings name, and gives what it has to `content`.
    ///
    /// # Errors
    /// No key; or it was changed, or rolled back.
    pub fn open(&mut self, storage: &Storage, config: &Config, known: Known, content: &mut dyn Content) -> Result<(), Error> {
        let key = storage.key.clone().ok_or(Error::NoKey)?;
        let directory = storage.disk.directory(config.get("dir"));
        let name = (storage.owner.as_str(), storage.database.as_str(), config.get("appendfilename"));
        let log = Log::open(directory, key, name, known, content)?;
        *self = AppendLog { state: State::On, log: Some(log), keeping: Some(Keeping::new()), ..AppendLog::default() };
        Ok(())
    }

    /// Looks at the log that lies on disk, before anything of it is read. One that can't be read says nothing; where it is used, that
    /// shows.
    pub fn look(storage: &Storage, config: &Config) -> Option<Found> {
        let name = (storage.owner.as_str(), storage.database.as_str(), config.get("appendfilename"));
        Log::look(storage.disk.directory(config.get("dir")), storage.key.clone()?, name).ok().flatten()
    }

    /// The log that lies on disk is off, and has less than what there is.
    pub fn leave(&mut self, found: Option<Found>) {
        self.left = found.map(|Found { log, generation, .. }| Beyond { log, generation, frames: u64::MAX });
    }

    /// How far the log on disk has come, if it does not have everything that there is.
    pub fn has_less(&self) -> Option<Beyond> {
        let Some(log) = self.log.as_ref().filter(|log| !log.is_new()) else { return self.left };
        let (name, generation) = log.generation();
        let beyond = |frames| Some(Beyond { log: name, generation, frames });
        match self.state {
            State::Waiting | State::Off => beyond(u64::MAX),
            State::On if self.broken || self.failed.is_some() => beyond(log.head().frames),
            State::On => None,
        }
    }

    /// Whether the log that was opened has no more than this, which a snapshot goes beyond. Then its next generation comes after both.
    pub fn is_within(&mut self, beyond: &Beyond) -> bool {
        let Some(log) = self.log.as_mut().filter(|log| !log.is_new()) else { return false };
        let within = beyond.covers(log.generation(), log.head().frames);
        if within {
            log.skip_to(beyond.generation);
        }
        within
    }

    /// How far it is on disk for certain.
    pub fn on_disk(&self) -> Option<Head> {
        self.log.as_ref().filter(|_| self.state == State::On).and_then(Log::on_disk)
    }

    /// Whether who waits for an answer waits for what is not kept yet.
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// The greatest epoch that is known of it.
    pub fn epoch(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::epoch)
    }

    /// The epoch of what is written from now on.
    pub fn set_epoch(&mut self, epoch: u64) {
        if let Some(log) = &mut self.log {
            log.set_epoch(epoch);
        }
    }

    /// Goes on from what was read: bytes of everything, and of the base.
    pub fn continues(&mut self, size: u64, base: u64) {
        (self.figures.size, self.figures.base) = (size, base);
    }

    /// What is there does not count: everything begins with a base.
    pub fn wait_for_base(&mut self) {
        self.state = State::Waiting;
    }

    /// Whether nothing of it is on disk yet.
    pub fn is_new(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_new)
    }

    /// What a crash tore, in a sentence.
    pub fn torn(&self) -> Option<String> {
        self.log.as_ref().and_then(Log::torn).map(str::to_owned)
    }

    /// Puts everything on disk, and turns the log off. How far it is there.
    pub fn close(&mut self) -> Option<Head> {
        if let Err(error) = self.sync() {
            eprintln!("teemate-database: the log was closed before all of it was on disk: {error}");
        }
        let head = self.on_disk();
        if let Some(keeping) = self.keeping.take() {
            keeping.end();
        }
        let left = self.log.as_ref().filter(|log| !log.is_new()).map(Log::generation);
        let left = left.map(|(log, generation)| Beyond { log, generation, frames: u64::MAX }).or(self.left);
        *self = AppendLog { left, ..AppendLog::default() };
        head
    }

    /// Puts everything on disk and waits for it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync(&mut self) -> Result<(), Error> {
        match self.log.as_mut().filter(|_| self.state == State::On) {
            Some(log) => Ok(log.sync()?),
            None => Ok(()),
        }
    }

    // ---- what goes in ---------------------------------------------------------------------------------------------------------------

    /// Whether it is on, or will be when its first base is complete.
    pub fn is_wanted(&self) -> bool {
        self.state != State::Off
    }

    /// Whether effects are to be noted.
    pub fn takes(&self) -> bool {
        match self.state {
            State::Off => false,
            State::Waiting => self.rewriting,
            State::On => true,
        }
    }

    /// Adds a command to the unit.
    pub fn note(&mut self, database: usize, command: &[&[u8]]) {
        self.owed = true;
        if self.database != Some(database) {
            self.database = Some(database);
            write_request(&mut self.unit, &[&b"SELECT"[..], database.to_string().as_bytes()]);
        }
        write_request(&mut self.unit, command);
    }

    /// Adds keys that went by themselves, before what goes with them.
    pub fn drop_keys(&mut self, keys: &[(usize, Box<[u8]>)]) {
        let owed = self.owed;
        if self.takes() {
            keys.iter().for_each(|(database, key)| self.note(*database, &[b"DEL", key]));
        }
        // Nobody is told of these.
        self.owed = owed;
    }

    /// Ends the unit.
    pub fn end_unit(&mut self) {
        if self.unit.is_empty() || !self.takes() {
            return;
        }
        let unit = std::mem::take(&mut self.unit);
        self.figures.size += unit.len() as u64;
        self.since += unit.len() as u64;
        if self.state == State::Waiting {
            self.pending.1 += unit.len();
            if self.pending.1 <= PENDING {
                self.pending.0.push(unit);
            } else {
                // That base is given up when it comes; another one begins.
                self.pending.0.clear();
            }
            return;
        }
        if let Err(error) = self.append(&unit) {
            self.broken = true;
            self.failed = Some(error.to_string());
        }
        // The room is used again, unless it became large.
        self.unit = unit;
        self.unit.clear();
        self.unit.shrink_to(1 << 20);
    }

    fn append(&mut self, unit: &[u8]) -> Result<(), Error> {
        let Some(log) = self.log.as_mut().filter(|_| !self.broken) else {
            return Err(Error::Log("an earlier entry is missing".to_owned()));
        };
        if log.gathered() + unit.len() > GATHERED && log.gathered() > 0 && self.retry.is_none() {
            // What comes of it shows at the commit.
            let _ = log.flush();
        }
        let last = unit.len().div_ceil(PIECE) - 1;
        let mut record = Vec::with_capacity(unit.len().min(PIECE) + 1);
        for (number, piece) in unit.chunks(PIECE).enumerate() {
            record.clear();
            record.push(if number == 0 { FIRST } else { 0 } | if number == last { LAST } else { 0 });
            record.extend_from_slice(piece);
            if number > 0 {
                // Pieces may be in different frames: the unit counts when its last one is there.
                let _ = log.flush();
            }
            log.append(&record)?;
        }
        Ok(())
    }

    /// Writes what was gathered, and puts it on disk if the policy says so. Whether who is owed an answer may have it.
    pub fn commit(&mut self, policy: Policy) -> bool {
        self.end_unit();
        let owed = std::mem::take(&mut self.owed);
        if self.state != State::On {
            return true;
        }
        let Some(log) = &mut self.log else { return true };
        if log.gathered() == 0 && (policy != Policy::Always || log.is_synced()) && !self.broken {
            return true;
        }
        if self.broken || self.retry.is_some_and(|at| Instant::now() < at) {
            return !owed;
        }
        let done = if policy == Policy::Always { log.sync() } else { log.flush() };
        match done {
            Ok(()) => {
                (self.failed, self.retry) = (None, None);
                true
            }
            Err(error) => {
                self.failed = Some(error.to_string());
                self.retry = Some(Instant::now() + SECOND);
                !owed
            }
        }
    }

    /// What there is is another thing than what was noted: nothing more is taken until a rewrite has put it in the log's place.
    pub fn replaced(&mut self, why: &str) {
        if self.state != State::Off {
            (self.broken, self.failed, self.retry) = (true, Some(why.to_owned()), None);
        }
    }

    /// As [`AppendLog::commit`] while a unit is being gathered, for what came before it.
    pub fn commit_before(&mut self, policy: Policy) -> bool {
        let unit = std::mem::take(&mut self.unit);
        let done = self.commit(policy);
        // Who was not told, or did what is in this unit, is still owed that.
        self.owed = !done || !unit.is_empty();
        self.unit = unit;
        done
    }

    /// Why nothing can be written, if so.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    // ---- as time passes -------------------------------------------------------------------------------------------------------------

    /// Lets another thread put on disk what is due.
    pub fn tick(&mut self, policy: Policy) {
        let (Some(log), Some(keeping)) = (self.log.as_mut().filter(|_| self.state == State::On), &mut self.keeping) else { return };
        if self.retry.is_none()
            && let Err(error) = keeping.tick(log, policy)
        {
            self.failed = Some(error.to_string());
            self.retry = Some(Instant::now() + SECOND);
        }
    }

    /// For INFO.
    pub fn figures(&self) -> Figures {
        Figures {
            waiting: self.log.as_ref().map_or(0, Log::gathered) + self.pending.1,
            syncing: self.keeping.as_ref().is_some_and(Keeping::is_syncing),
            delayed: self.keeping.as_ref().map_or(0, |keeping| keeping.delayed),
            ..self.figures.clone()
        }
    }
}
