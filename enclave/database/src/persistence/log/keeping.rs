//! Putting the log on disk once a second, by another thread.

use std::time::{Duration, Instant};

use teemate_sealed::{Error, Head, Log, Syncing};

use super::Policy;
use crate::persistence::helper::Helper;

/// How often the log is put on disk by `everysec`.
const SECOND: Duration = Duration::from_secs(1);

/// The thread, and what it did last.
pub(super) struct Keeping {
    disk: Helper<Syncing, Result<Head, Error>>,
    /// When it was put on disk last.
    synced: Option<Instant>,
    /// Times that putting it on disk took longer than a second.
    pub delayed: u64,
}

impl Keeping {
    pub fn new() -> Keeping {
        Keeping { disk: Helper::new("log", Syncing::wait), synced: None, delayed: 0 }
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
            && self.synced.is_none_or(|at| at.elapsed() >= SECOND)
            && let Some(syncing) = log.begin_sync()?
        {
            self.synced = Some(Instant::now());
            if let Some(synced) = self.disk.give(syncing) {
                log.synced(synced)?;
            }
        }
        Ok(())
    }

    /// Waits for what is under way.
    pub fn end(self) {
        self.disk.end();
    }
}
