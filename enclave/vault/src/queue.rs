//! What waits for the disk, and what the store will be when all of it is written.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use crate::format::{BlobRef, Delta, Value};
use crate::index::Index;
use crate::{Key, Options, Usage, VaultError};

/// Bytes of commits that go into one append.
const GROUP: usize = 1 << 20;
/// What a queued change costs besides names and value.
const OVERHEAD: usize = 160;

/// Where the outcome of a commit appears.
pub type Done = Arc<OnceLock<Result<(), VaultError>>>;

/// A queued value.
#[derive(Clone)]
pub enum Queued {
    /// None any more.
    Gone,
    /// Small.
    Small(Arc<[u8]>),
    /// In a blob that is written already; the number is the blob's.
    Blob(BlobRef, u64),
}

impl Queued {
    fn length(&self) -> Option<u64> {
        match self {
            Queued::Gone => None,
            Queued::Small(value) => Some(value.len() as u64),
            Queued::Blob(blob, _) => Some(blob.length),
        }
    }

    fn cost(&self) -> usize {
        match self {
            Queued::Small(value) => value.len() + OVERHEAD,
            _ => OVERHEAD,
        }
    }
}

/// A commit that waits.
pub struct Pending {
    /// Its number.
    pub epoch: u64,
    /// Changes.
    pub changes: Vec<(Key, Queued)>,
    /// Who waits for it. `None`: nobody, and it is tried until it succeeds.
    pub done: Option<Done>,
}

impl Pending {
    /// Bytes of memory.
    fn cost(&self) -> usize {
        self.changes.iter().map(|(key, value)| key.len() as usize + value.cost()).sum()
    }

    /// As the journal has it.
    pub fn deltas(&self) -> Vec<Delta<'_>> {
        self.changes.iter().map(|(key, value)| delta(key, value)).collect()
    }
}

fn delta<'a>(key: &'a Key, value: &'a Queued) -> Delta<'a> {
    let value = match value {
        Queued::Gone => Value::Gone,
        Queued::Small(value) => Value::Here(value),
        Queued::Blob(blob, _) => Value::Blob(blob.clone()),
    };
    Delta { owner: &key.owner, kind: &key.kind, name: &key.name, value }
}

/// Commits in their order, and sums.
pub struct Queue {
    waiting: VecDeque<Pending>,
    bytes: usize,
    next_epoch: u64,
    /// Length that the newest queued change gives each record.
    ahead: HashMap<Key, (u64, Option<u64>)>,
    /// Values that nobody waits for: they can be read at once.
    soon: HashMap<Key, (u64, Queued)>,
    usage: HashMap<String, Usage>,
}

impl Queue {
    /// Nothing waits; the next commit has this number.
    pub fn new(next_epoch: u64, index: &Index) -> Queue {
        let usage = index.usage().map(|(owner, usage)| (owner.to_owned(), usage)).collect();
        Queue { waiting: VecDeque::new(), bytes: 0, next_epoch, ahead: HashMap::new(), soon: HashMap::new(), usage }
    }

    /// What an owner keeps, with what waits.
    pub fn usage(&self, owner: &str) -> Usage {
        self.usage.get(owner).copied().unwrap_or_default()
    }

    /// Who keeps something.
    pub fn owners(&self) -> impl Iterator<Item = (&String, &Usage)> {
        self.usage.iter()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last number given out.
    pub fn last_epoch(&self) -> u64 {
        self.next_epoch - 1
    }

    /// Whether a commit up to this number waits.
    pub fn waits(&self, epoch: u64) -> bool {
        self.waiting.front().is_some_and(|pending| pending.epoch <= epoch)
    }

    /// A value that nobody waits for and that is not written yet, with its version.
    pub fn soon(&self, key: &Key) -> Option<(u64, &Queued)> {
        self.soon.get(key).map(|(epoch, value)| (*epoch, value))
    }

    /// Names and versions on a shelf that are not written yet.
    pub fn soon_on<'a>(&'a self, owner: &'a str, kind: &'a str, from: &'a str) -> impl Iterator<Item = (&'a str, u64)> + 'a {
        let here = move |key: &Key| key.owner == owner && key.kind == kind && key.name.as_str() >= from;
        self.soon.iter().filter(move |(key, _)| here(key)).map(|(key, (epoch, _))| (key.name.as_str(), *epoch))
    }

    /// Puts a commit at the end.
    ///
    /// # Errors
    /// When it would take an owner beyond the limits, or the queue is full. The changes come back.
    pub fn push(
        &mut self,
        changes: Vec<(Key, Queued)>,
        done: Option<Done>,
        index: &Index,
        options: &Options,
    ) -> Result<u64, (VaultError, Vec<(Key, Queued)>)> {
        if let Err(error) = self.check(&changes, index, options) {
            return Err((error, changes));
        }
        let pending = Pending { epoch: self.next_epoch, changes, done };
        if self.bytes > 0 && self.bytes + pending.cost() > options.queue {
            return Err((VaultError::Busy { bytes: self.bytes }, pending.changes));
        }
        self.next_epoch += 1;
        self.account(&pending, index);
        self.bytes += pending.cost();
        if pending.done.is_none() {
            for (key, value) in &pending.changes {
                self.soon.insert(key.clone(), (pending.epoch, value.clone()));
            }
        }
        let epoch = pending.epoch;
        self.waiting.push_back(pending);
        Ok(epoch)
    }

    /// Bytes that this record counts for, with what waits.
    fn size(&self, key: &Key, index: &Index) -> Option<u64> {
        let length = self.ahead.get(key).map_or_else(|| index.get(key).map(|record| record.length), |(_, length)| *length);
        length.map(|length| length + key.len())
    }

    fn check(&self, changes: &[(Key, Queued)], index: &Index, options: &Options) -> Result<(), VaultError> {
        let mut sums: HashMap<&str, Usage> = HashMap::new();
        for (key, value) in changes {
            let sum = sums.entry(&key.owner).or_insert_with(|| self.usage(&key.owner));
            *sum = sum.replaced(self.size(key, index), value.length().map(|length| length + key.len()));
        }
        for (owner, sum) in sums {
            let now = self.usage(owner);
            if sum.bytes > options.owner_bytes && sum.bytes > now.bytes {
                return Err(VaultError::OwnerBytes { bytes: sum.bytes, limit: options.owner_bytes });
            }
            if sum.records > options.owner_records && sum.records > now.records {
                return Err(VaultError::OwnerRecords { records: sum.records, limit: options.owner_records });
            }
        }
        Ok(())
    }

    fn account(&mut self, pending: &Pending, index: &Index) {
        for (key, value) in &pending.changes {
            let length = value.length();
            let sum = self.usage(&key.owner).replaced(self.size(key, index), length.map(|length| length + key.len()));
            if sum == Usage::default() {
                self.usage.remove(&key.owner);
            } else {
                self.usage.insert(key.owner.clone(), sum);
            }
            self.ahead.insert(key.clone(), (pending.epoch, length));
        }
    }

    /// What goes into the next append.
    pub fn take_group(&mut self) -> Vec<Pending> {
        let mut cost = 0;
        let fits = self.waiting.iter().take_while(|pending| {
            let first = cost == 0;
            cost += pending.cost();
            first || cost <= GROUP
        });
        let count = fits.count();
        self.waiting.drain(..count).collect()
    }

    /// A commit is written and in the index.
    pub fn written(&mut self, pending: &Pending) {
        self.bytes -= pending.cost();
        for (key, _) in &pending.changes {
            if self.ahead.get(key).is_some_and(|(epoch, _)| *epoch == pending.epoch) {
                self.ahead.remove(key);
            }
            if self.soon.get(key).is_some_and(|(epoch, _)| *epoch == pending.epoch) {
                self.soon.remove(key);
            }
        }
    }

    /// A group could not be written: what nobody waits for goes back to the front. Returns the rest.
    pub fn failed(&mut self, group: Vec<Pending>, index: &Index) -> Vec<Pending> {
        let (again, lost): (Vec<_>, Vec<_>) = group.into_iter().partition(|pending| pending.done.is_none());
        for pending in again.into_iter().rev() {
            self.waiting.push_front(pending);
        }
        self.bytes -= lost.iter().map(Pending::cost).sum::<usize>();
        // Sums and lengths stood for the lost ones too.
        self.ahead.clear();
        self.usage = index.usage().map(|(owner, usage)| (owner.to_owned(), usage)).collect();
        let waiting = std::mem::take(&mut self.waiting);
        for pending in &waiting {
            self.account(pending, index);
        }
        self.waiting = waiting;
        lost
    }
}
