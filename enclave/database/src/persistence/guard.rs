//! What keeps an old state from being taken for the newest: whoever remembers how far the database had come is asked before anything is
//! served, and told as it goes on.
//!
//! Settings, snapshot and log are compared each by itself. Each must be what was remembered last, or come after it. Every opening begins an
//! epoch, of which
//! there is one alone: so of two copies that go on by themselves one can't pass for the other.

use std::fmt;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use teemate_sealed::{Counter, Error as Unkept, Head, Known, Mark, Remembered, Version};
use teemate_service::clock;

use super::Error;
use super::disk::{Storage, Witness};
use super::helper::Helper;

/// How often what is new is told, unless an answer waits for it.
const SECOND: Duration = Duration::from_secs(1);
/// How often something is told though nothing is new: so that a copy that was left behind learns of it, and a connection is not idle.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a witness elsewhere calls itself ([`Counter::name`]).
pub const WITNESS: &str = "witness";
/// How far above all that are known the epochs of a new witness begin, at least; at random, and at most twice as far.
const APART: u64 = 1 << 40;

/// Makes a way to a witness that the settings name.
pub trait Reach: Send {
    /// The witness at this address, which must show a certificate of these (PEM). `new`: it may see this database for the first time.
    ///
    /// # Errors
    /// What is wrong with the two. Whether anybody answers there shows later.
    fn reach(&self, address: &str, roots: &str, new: bool) -> Result<Witness, String>;
}

/// What is known, and who is told.
#[derive(Default)]
pub struct Guard {
    witness: Option<Witness>,
    name: Option<&'static str>,
    /// What was remembered at the start, and the epoch that began then.
    known: Remembered,
    /// How far everything on disk is.
    mark: Mark,
    told: Option<Mark>,
    teller: Option<Helper<Mark, Result<(), Unkept>>>,
    /// What the other thread is telling.
    telling: Option<Mark>,
    /// When something was told last.
    at: Option<Instant>,
    /// Something is new that shall not wait a second.
    soon: bool,
    away: Option<String>,
    left_behind: Option<String>,
    /// Numbers of the last snapshot and of the last settings that were begun: one that failed may be on disk all the same.
    made: (u64, u64),
}

fn lock(witness: &Witness) -> MutexGuard<'_, dyn Counter + 'static> {
    witness.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a witness that may never have heard of this database.
///
/// Its epochs begin where nothing can be that was made before: a host could have made copies until now, and opened them as often as it
/// liked.
///
/// # Errors
/// That it can't be asked, or says no.
pub(super) fn meet(witness: &Witness, above: u64) -> Result<Remembered, Unkept> {
    let mut random = [0; 8];
    clock::random(&mut random);
    lock(witness).open(above.saturating_add(APART).saturating_add(u64::from_le_bytes(random) % APART))
}

impl Guard {
    // ---- at the start ---------------------------------------------------------------------------------------------------------------

    /// Asks whoever remembers. `settings`: which ones were found; `above`: the greatest epoch of what was found.
    ///
    /// # Errors
    /// That nobody answers, or that the settings are older than those that are remembered: nothing may be served.
    pub fn open(storage: &Storage, settings: Version, above: u64) -> Result<Guard, Error> {
        let (mut known, mut name) = (Remembered { epoch: above, last: None }, None);
        if let Some(witness) = &storage.witness {
            let mut witness = lock(witness);
            name = Some(witness.name());
            known = witness.open(above).map_err(|error| Error::Unwitnessed(error.to_string()))?;
        }
        let mut guard = Guard { known, name, made: (0, settings.count), ..Guard::default() };
        guard.mark = Mark { epoch: known.epoch, settings, snapshot: Version::default(), log: known.last.and_then(|last| last.log) };
        if let Some(last) = known.last.filter(|last| settings < last.settings) {
            return Err(guard.rolled_back(format!("the settings found are {settings}, and {} are known", last.settings), storage));
        }
        guard.listen(storage.witness.clone());
        Ok(guard)
    }

    fn listen(&mut self, witness: Option<Witness>) {
        self.teller = witness.clone().map(|witness| Helper::new("witness", move |mark: Mark| lock(&witness).remember(&mark)));
        (self.witness, self.told, self.telling, self.away, self.soon) = (witness, None, None, None, true);
    }

    /// The snapshot that was found; the smallest version, if there is none.
    ///
    /// # Errors
    /// That it is older than the one that is remembered.
    pub fn found_snapshot(&mut self, found: Version, storage: &Storage) -> Result<(), Error> {
        if let Some(last) = self.known.last.filter(|last| found < last.snapshot) {
            return Err(self.rolled_back(format!("the snapshot found is {found}, and {} is known", last.snapshot), storage));
        }
        self.mark.snapshot = found;
        self.made.0 = found.count;
        Ok(())
    }

    /// What a log must have that is opened now.
    pub fn known_log(&self) -> Known {
        let epoch = self.known.last.map_or(0, |last| last.epoch);
        // A witness was there when the log began. The others may have come later, and can't say that there was none.
        let none = (self.name == Some(WITNESS) && self.known.last.is_some()).then_some((None, epoch));
        Known { last: self.mark.log.map(|head| (Some(head), epoch)).or(none), epoch: self.mark.epoch }
    }

    /// The same error, with what the owner can do about it.
    pub fn explain(&self, error: Error, storage: &Storage) -> Error {
        match error {
            Error::Sealed(error @ (Unkept::RolledBack { .. } | Unkept::Foreign { .. })) if self.known.last.is_some() => {
                self.rolled_back(error.to_string(), storage)
            }
            other => other,
        }
    }

    fn rolled_back(&self, why: String, storage: &Storage) -> Error {
        let accept = match self.name {
            Some(WITNESS) => format!("run `teemate witness accept {}` where the witness is, and start again", storage.database),
            Some("file") => "delete the counter's file, and start again".to_owned(),
            _ => "stop the node, and start it again".to_owned(),
        };
        Error::RolledBack { why, accept }
    }

    // ---- as it goes on --------------------------------------------------------------------------------------------------------------

    /// The epoch that began when the database was opened.
    pub fn epoch(&self) -> u64 {
        self.mark.epoch
    }

    /// Which one a snapshot is that begins now.
    pub fn next_snapshot(&mut self) -> Version {
        self.made.0 += 1;
        Version { epoch: self.mark.epoch, count: self.made.0 }
    }

    /// A snapshot is on disk in the place of the one before.
    pub fn snapshot_is(&mut self, version: Version) {
        (self.mark.snapshot, self.soon) = (version, true);
    }

    /// Whether there is one on disk.
    pub fn has_snapshot(&self) -> bool {
        self.mark.snapshot != Version::default()
    }

    /// Whether there are any settings on disk.
    pub fn has_settings(&self) -> bool {
        self.mark.settings != Version::default()
    }

    /// Which ones settings are that are kept now.
    pub fn next_settings(&mut self) -> Version {
        self.made.1 += 1;
        Version { epoch: self.mark.epoch, count: self.made.1 }
    }

    /// Settings are on disk in the place of those before.
    pub fn settings_are(&mut self, version: Version) {
        (self.mark.settings, self.soon) = (version, true);
    }

    /// How far the log is on disk. One that is off stays where it was.
    pub fn log_is(&mut self, head: Option<Head>) {
        self.mark.log = head.or(self.mark.log);
    }

    /// Whether nothing was kept yet that could be put back.
    fn is_new(&self) -> bool {
        !self.has_settings() && !self.has_snapshot() && self.mark.log.is_none()
    }

    /// Tells what is new, by another thread, when that is due.
    pub fn tick(&mut self) {
        if self.is_new() {
            return;
        }
        let Some(teller) = self.teller.as_mut().filter(|_| self.left_behind.is_none()) else { return };
        if let Some(told) = teller.look() {
            self.note(told);
        }
        let (new, since) = (self.told != Some(self.mark), self.at.map(|at| at.elapsed()));
        let after = match (new, self.soon, &self.away) {
            (true, true, None) => Duration::ZERO,
            (true, ..) | (_, _, Some(_)) => SECOND,
            (false, ..) => HEARTBEAT,
        };
        if let Some(teller) = &mut self.teller
            && !teller.is_busy()
            && since.is_none_or(|since| since >= after)
        {
            (self.at, self.telling, self.soon) = (Some(Instant::now()), Some(self.mark), false);
            if let Some(told) = teller.give(self.mark) {
                self.note(Some(told));
            }
        }
    }

    /// Tells everything now, and waits for it. Whether that went well, or there is nobody to tell.
    pub fn tell(&mut self) -> bool {
        let Some(witness) = self.witness.clone().filter(|_| !self.is_new()) else { return true };
        // In the order in which it came to be.
        if let Some(told) = self.teller.as_mut().and_then(Helper::wait) {
            self.note(told);
        }
        if self.told == Some(self.mark) && self.away.is_none() {
            return true;
        }
        (self.at, self.telling, self.soon) = (Some(Instant::now()), Some(self.mark), false);
        let told = lock(&witness).remember(&self.mark);
        self.note(Some(told));
        self.away.is_none() && self.left_behind.is_none()
    }

    /// The same, before an answer. When the witness is away nobody waits for it again: the other thread finds out when it is back.
    pub fn cover(&mut self) -> bool {
        if self.witness.is_none() || self.is_new() || self.told == Some(self.mark) && self.away.is_none() {
            return true;
        }
        self.away.is_none() && self.tell()
    }

    fn note(&mut self, told: Option<Result<(), Unkept>>) {
        match told.unwrap_or_else(|| Err(Unkept::Counter("the thread that tells it ended".to_owned()))) {
            Ok(()) => {
                self.told = self.telling.take();
                if self.away.take().is_some() {
                    eprintln!("teemate-database: the witness is back: it knows how far the database has come");
                }
            }
            Err(Unkept::Backwards(why)) => self.left_behind = Some(why.to_string()),
            Err(error) => {
                if self.away.is_none() {
                    eprintln!("teemate-database: nobody could be told how far the database has come: {error}");
                }
                self.away = Some(error.to_string());
            }
        }
    }

    /// Tells the last, and ends the thread.
    pub fn end(&mut self) {
        if self.left_behind.is_none() {
            self.tell();
        }
        if let Some(teller) = self.teller.take() {
            teller.end();
        }
    }

    /// Has another witness from now on, or none; it was opened, and this is what it said.
    pub fn change(&mut self, witness: Option<Witness>, opened: Option<Remembered>) {
        // Whoever remembered until now learns of the settings that name him no more: older ones he does not take for the newest then.
        self.end();
        self.name = witness.as_ref().map(|witness| lock(witness).name());
        if let Some(opened) = opened {
            self.mark.epoch = opened.epoch;
        }
        self.known = Remembered { epoch: self.mark.epoch, last: Some(self.mark) };
        self.listen(witness);
    }

    // ---- for who asks ---------------------------------------------------------------------------------------------------------------

    /// What keeps an old state from being served, in a word.
    pub fn protection(&self) -> &'static str {
        self.name.unwrap_or("none")
    }

    /// Why nobody could be told the last time, if so.
    pub fn away(&self) -> Option<&str> {
        self.away.as_deref()
    }

    /// That this is a copy that was left behind: nothing of it may be served any more.
    pub fn left_behind(&self) -> Option<&str> {
        self.left_behind.as_deref()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Guard")
            .field("mark", &self.mark)
            .field("told", &self.told)
            .field("away", &self.away)
            .finish_non_exhaustive()
    }
}
