//! Commands that wait until a key has something for them.
//!
//! A handler looks; if there is nothing, it calls [`Context::block`] and returns without a reply. When one of its keys changes, the server
//! calls the same handler again with the same arguments: it replies, or blocks again, and keeps its place among those who wait.

use super::Context;
use crate::error::Error;
use crate::number;
use crate::session::{Otherwise, Waiting};

impl Context<'_> {
    /// Waits for any of these keys of the selected database until `until` (milliseconds since 1970; `None`: for ever). In a transaction
    /// or a script nothing waits: `otherwise` is the reply at once.
    pub fn block(&mut self, keys: &[&[u8]], until: Option<i64>, otherwise: Otherwise) {
        if self.session.executing {
            self.reply.otherwise(otherwise);
            return;
        }
        if self.session.retrying {
            // Its place and its time stay what they were.
            self.session.retrying = false;
            return;
        }
        let db = self.db();
        self.session.waiting = Some(Waiting {
            request: self.args.iter().map(|arg| Box::from(*arg)).collect(),
            keys: keys.iter().map(|key| (db, Box::from(*key))).collect(),
            until,
            otherwise,
            paused: false,
        });
    }

    /// A timeout in seconds, with fractions, as the blocking commands have it: when it ends. 0: never.
    ///
    /// # Errors
    /// What is no number, or negative.
    pub fn timeout(&self, at: usize) -> Result<Option<i64>, Error> {
        let seconds = number::float(self.arg(at)).ok_or_else(|| Error::new("timeout is not a float or out of range"))?;
        if seconds < 0.0 {
            return Err(Error::new("timeout is negative"));
        }
        self.after_ms(seconds * 1000.0)
    }

    /// The same in whole milliseconds (XREAD BLOCK).
    ///
    /// # Errors
    /// What is no number, or negative.
    pub fn timeout_ms(&self, at: usize) -> Result<Option<i64>, Error> {
        let ms = number::integer(self.arg(at)).ok_or_else(|| Error::new("timeout is not an integer or out of range"))?;
        if ms < 0 {
            return Err(Error::new("timeout is negative"));
        }
        self.after_ms(ms as f64)
    }

    fn after_ms(&self, ms: f64) -> Result<Option<i64>, Error> {
        if ms == 0.0 {
            return Ok(None);
        }
        if !ms.is_finite() || ms.ceil() >= (i64::MAX - self.store.now) as f64 {
            return Err(Error::new("timeout is out of range"));
        }
        Ok(Some(self.store.now + ms.ceil() as i64))
    }
}
