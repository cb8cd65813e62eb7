//! What other threads do for the log: putting it on disk once a second, and telling the witness how far it has come.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use teemate_sealed::{Error, Head, Log, Syncing};

use super::Policy;
use crate::persistence::disk::Witness;
use crate::persistence::helper::Helper;

/// How often the log is put on disk by `everysec`, and the witness is told.
const SECOND: Duration = Duration::from_secs(1);

/// The threads, and what they did last.
pub(super) struct Keeping {
    disk: Helper<Syncing, Result<Head, Error>>,
    witness: Option<Witness>,
    teller: Option<Helper<Head, Result<(), Error>>>,
    /// When it was put on disk last.
    synced: Option<Instant>,
    /// When the witness was told last, and what.
    told: Option<(Instant, Head)>,
    /// Times that putting it on disk took longer than a second.
    pub delayed: u64,
    /// Why the witness could not be told the last time, if so.
    pub untold: Option<String>,
}

/// The head that a witness remembers.
///
/// # Errors
/// When it can't be asked: the log must not be opened then.
pub(super) fn last(witness: &Witness) -> Result<Option<Head>, Error> {
    witness.lock().unwrap_or_else(PoisonError::into_inner).last()
}

fn tell(witness: &Witness, head: Head) -> Result<(), Error> {
    witness.lock().unwrap_or_else(PoisonError::into_inner).remember(head)
}

impl Keeping {
    pub fn new(witness: Option<Witness>) -> Keeping {
        let teller = witness.clone().map(|witness| Helper::new("witness", move |head| tell(&witness, head)));
        Keeping { disk: Helper::new("log", Syncing::wait), witness, teller, synced: None, told: None, delayed: 0, untold: None }
    }

    pub fn is_syncing(&self) -> bool {
        self.disk.is_busy()
    }

    /// Looks what has ended, and begins what is due.
    ///
    /// # Errors
    /// That the log could not be written, or not be put on disk.
    pub fn tick(&mut self, log: &mut Log, policy: Policy) -> Result<(), Error> {
        if let Some(synced) = self.disk.look() {
            self.delayed += u64::from(self.synced.is_some_and(|at| at.elapsed() > SECOND));
            log.synced(synced.unwrap_or_else(|| Err(Error::Failed("the thread that put it on disk ended".to_owned()))))?;
        }
        if policy == Policy::Everysec
            && !log.is_synced()
            && !self.disk.is_busy()
            && is_due(self.synced)
            && let Some(syncing) = log.begin_sync()?
        {
            self.synced = Some(Instant::now());
            if let Some(synced) = self.disk.give(syncing) {
                log.synced(synced)?;
            }
        }
        self.tell(log);
        Ok(())
    }

    /// Tells the witness what is on disk.
    fn tell(&mut self, log: &Log) {
        let Some(teller) = &mut self.teller else { return };
        let mut told = teller.look().map(|told| told.unwrap_or_else(|| Err(Error::Failed("its thread ended".to_owned()))));
        if let Some(head) = log.on_disk().filter(|_| !teller.is_busy() && is_due(self.told.map(|(at, _)| at)))
            && (self.untold.is_some() || self.told.is_none_or(|(_, told)| told != head))
        {
            self.told = Some((Instant::now(), head));
            told = teller.give(head).or(told);
        }
        if let Some(told) = told {
            let untold = told.err().map(|error| error.to_string());
            if let Some(why) = untold.as_ref().filter(|_| self.untold.is_none()) {
                eprintln!("teemate-database: nobody could be told how far the log has come: {why}");
            }
            self.untold = untold;
        }
    }

    /// After a rewrite: a witness of before could compare no more than the log's number.
    pub fn tell_soon(&mut self) {
        self.told = None;
    }

    /// Waits for what is under way, and tells the witness this head.
    pub fn end(self, head: Option<Head>) {
        self.disk.end();
        if let Some(teller) = self.teller {
            teller.end();
        }
        if let Some((witness, head)) = self.witness.zip(head)
            && let Err(error) = tell(&witness, head)
        {
            eprintln!("teemate-database: nobody could be told how far the log has come: {error}");
        }
    }
}

fn is_due(last: Option<Instant>) -> bool {
    last.is_none_or(|at| at.elapsed() >= SECOND)
}
