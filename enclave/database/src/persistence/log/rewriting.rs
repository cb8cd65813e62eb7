//! Rewriting the log: a base takes the place of everything before it.

use teemate_sealed::{Base, Finished};

use super::{AppendLog, PENDING, State};
use crate::persistence::Error;

/// Milliseconds after which a rewrite that failed is tried again.
const AGAIN: i64 = 5000;

impl AppendLog {
    /// Whether a rewrite is due: asked for, needed, or the log has grown by so many percent, above so many bytes.
    pub fn wants_rewrite(&self, percentage: i64, least: i64, now: i64) -> bool {
        if self.state == State::Off || self.rewriting || self.rewrite_failed.as_ref().is_some_and(|(_, at)| now - at < AGAIN) {
            return false;
        }
        let (size, base) = (self.figures.size, self.figures.base);
        let grown = || (size.saturating_sub(base)).saturating_mul(100) / base.max(1) >= percentage.unsigned_abs();
        self.scheduled || self.broken || self.state == State::Waiting || percentage > 0 && size > least.unsigned_abs() && grown()
    }

    /// Whether one is under way.
    pub fn is_rewriting(&self) -> bool {
        self.rewriting
    }

    /// Why the last one failed, if it did.
    pub fn rewrite_failed(&self) -> Option<&str> {
        self.rewrite_failed.as_ref().map(|(why, _)| why.as_str())
    }

    /// Begins one: what is written into what this gives stands for everything that was noted so far.
    ///
    /// # Errors
    /// The log is off; or those of the disk.
    pub fn begin_rewrite(&mut self) -> Result<Base, Error> {
        if self.state == State::Off {
            return Err(Error::Off);
        }
        self.end_unit();
        let Some(log) = &mut self.log else { return Err(Error::Off) };
        let base = log.begin_rewrite()?;
        // It stands for what is missing, too; but only when it counts.
        if !std::mem::take(&mut self.broken) {
            (self.failed, self.retry) = (None, None);
        }
        self.pending = (Vec::new(), 0);
        self.database = None;
        (self.scheduled, self.rewriting, self.since) = (false, true, 0);
        Ok(base)
    }

    /// Ends one: from now on the new base counts, unless there is none.
    pub fn end_rewrite(&mut self, result: Result<(Finished, u64), String>, now: i64) {
        if !std::mem::take(&mut self.rewriting) && result.is_ok() {
            // It is of a log that was turned off meanwhile.
            return;
        }
        match result.and_then(|(finished, bytes)| self.switch(finished, bytes).map_err(|error| error.to_string())) {
            Ok(()) => {
                self.rewrite_failed = None;
                (self.figures.rewrites, self.figures.failures) = (self.figures.rewrites + 1, 0);
            }
            Err(why) => {
                eprintln!("teemate-database: the log was not rewritten: {why}");
                self.rewrite_failed = Some((why, now));
                self.figures.failures += 1;
                self.broken = self.failed.is_some() && self.retry.is_none();
                self.pending = (Vec::new(), 0);
            }
        }
    }

    fn switch(&mut self, finished: Finished, bytes: u64) -> Result<(), Error> {
        let Some(log) = &mut self.log else { return Err(Error::Off) };
        if self.pending.1 > PENDING {
            return Err(Error::Log("more was written meanwhile than may wait for it".to_owned()));
        }
        if let Err(error) = log.switch(finished) {
            self.failed = Some(error.to_string());
            return Err(error.into());
        }
        (self.figures.base, self.figures.size) = (bytes, bytes + self.since);
        self.state = State::On;
        let (units, _) = std::mem::take(&mut self.pending);
        if let Err(error) = units.iter().try_for_each(|unit| self.append(unit)).and_then(|()| self.sync()) {
            // What comes after hangs on it, so it is written anew.
            self.broken = true;
            self.failed = Some(error.to_string());
            return Err(error);
        }
        if self.retry.is_none() {
            // Nothing is missing any more.
            self.failed = None;
        }
        Ok(())
    }
}
