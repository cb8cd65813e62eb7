//! Who looks on: those who WATCH a key, those who wait for one, and those who want to know what has changed.

use super::Store;

/// Somebody's interest in a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Interest {
    /// Changes of the key that have been seen.
    version: u64,
    /// How many WATCH it.
    watchers: usize,
    /// How many wait for it.
    waiters: usize,
}

impl Store {
    pub(super) fn touch(&mut self, database: usize, key: &[u8]) {
        self.changes += 1;
        if self.remembers {
            self.last = Some(key.into());
        }
        if self.record {
            self.touched.push((database, Some(key.into()), self.cause));
        }
        let interests = &mut self.interests[database];
        if !interests.is_empty()
            && let Some(interest) = interests.get_mut(key)
        {
            interest.version += 1;
            if interest.waiters > 0 && self.filled.last().is_none_or(|(db, last)| *db != database || **last != *key) {
                self.filled.push((database, key.into()));
            }
        }
    }

    /// Everything in a database changes that is there, in one of those that it is made of.
    pub(super) fn touch_all(&mut self, database: usize, of: &[usize]) {
        if self.record {
            self.touched.push((database, None, self.cause));
        }
        let (databases, now) = (&self.databases, self.now);
        for (key, interest) in &mut self.interests[database] {
            let entries = of.iter().filter_map(|one| databases[*one].entries.get(key));
            let (mut is_there, mut lives) = (false, false);
            for entry in entries {
                (is_there, lives) = (true, lives || entry.expires == 0 || entry.expires > now);
            }
            interest.version += u64::from(lives);
            // Who waits looks at a key whose time has come, too: that drops it, for replicas as well.
            if is_there && interest.waiters > 0 {
                self.filled.push((database, key.clone()));
            }
        }
    }

    fn release(&mut self, database: usize, key: &[u8]) {
        if self.interests[database].get(key).is_some_and(|interest| interest.watchers + interest.waiters == 0) {
            self.interests[database].remove(key);
        }
    }

    /// Begins to watch a key. What to compare with: twice its version, and one more if the key is there.
    pub fn watch(&mut self, database: usize, key: &[u8]) -> u64 {
        let lives = self.contains(database, key);
        let interest = self.interests[database].entry(key.into()).or_default();
        interest.watchers += 1;
        interest.version << 1 | u64::from(lives)
    }

    /// Ends it. Whether the key has changed since.
    pub fn unwatch(&mut self, database: usize, key: &[u8], version: u64) -> bool {
        // A key whose time came only since has changed; one that nobody could see then, and can't now, has not.
        let late = self.databases[database].entries.get(key).is_some_and(|entry| entry.expires != 0 && entry.expires <= self.now);
        let Some(interest) = self.interests[database].get_mut(key) else { return true };
        let changed = interest.version != version >> 1 || late && version & 1 == 1;
        interest.watchers = interest.watchers.saturating_sub(1);
        self.release(database, key);
        changed
    }

    /// Somebody waits for a key from now on.
    pub fn await_key(&mut self, database: usize, key: &[u8]) {
        self.interests[database].entry(key.into()).or_default().waiters += 1;
    }

    /// And does not any more.
    pub fn unawait_key(&mut self, database: usize, key: &[u8]) {
        if let Some(interest) = self.interests[database].get_mut(key) {
            interest.waiters = interest.waiters.saturating_sub(1);
        }
        self.release(database, key);
    }

    /// Begins to remember which key changed last.
    pub fn remember_last(&mut self) {
        (self.last, self.remembers) = (None, true);
        self.made.clear();
    }

    /// The key that changed last since then.
    pub fn last_changed(&mut self) -> Option<&[u8]> {
        self.remembers = false;
        self.last.as_deref()
    }

    /// Keys that somebody waits for and that have changed, since this was asked last.
    pub fn filled(&mut self) -> Vec<(usize, Box<[u8]>)> {
        std::mem::take(&mut self.filled)
    }

    /// Whether there are any.
    pub fn has_filled(&self) -> bool {
        !self.filled.is_empty()
    }
}
