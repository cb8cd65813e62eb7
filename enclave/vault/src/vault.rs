//! The store as its users see it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::blob::{self, INLINE};
use crate::cache::Cache;
use crate::commit;
use crate::disk::Disk;
use crate::format::{MAX_BODY, Opening};
use crate::index::Index;
use crate::numbers::Numbers;
use crate::queue::{Done, Queue, Queued};
use crate::witness::{self, Witness};
use crate::writer::Writer;
use crate::{Change, Key, Options, Sealing, Usage, VaultError, opening};
use teemate_sealed::seal::SegmentKey;

/// Bytes of names and small values in one commit.
const MAX_COMMIT: u64 = (MAX_BODY * 3 / 4) as u64;
/// What a change takes in a commit besides names and value.
const CHANGE: u64 = 160;

/// The sealed store. Threads share it; commits that come together are written together.
pub struct Vault {
    shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

/// What the threads share.
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub sealing: Arc<dyn Sealing>,
    pub options: Options,
    pub secret: [u8; 32],
    pub opening: Opening,
    state: Mutex<State>,
    /// The writer is back, or a commit has its outcome.
    pub turn: Condvar,
    /// Something waits that nobody waits for, or the vault closes.
    pub wake: Condvar,
}

/// What changes.
pub(crate) struct State {
    pub index: Index,
    pub cache: Cache,
    /// The active generation, and the keys of its segments.
    pub generation: u64,
    pub keys: Vec<Arc<SegmentKey>>,
    /// The highest generation that was ever begun.
    pub last_generation: u64,
    pub queue: Queue,
    pub numbers: Numbers,
    /// Away while somebody writes.
    pub writer: Option<Writer>,
    /// A thread panicked with it.
    pub broken: bool,
    pub closing: bool,
    /// The last durable commit.
    pub durable: u64,
    pub history: Vec<Opening>,
    /// Blobs to be deleted that no record names, and those that the journal shall be told to be deleted.
    pub garbage: Vec<[u8; 32]>,
    pub dropped: Vec<[u8; 32]>,
    /// Blobs of commits whose append failed: kept until something else lies in the place of that append.
    pub orphans: Vec<(u64, [u8; 32])>,
    /// Bytes of the journal from which the next compaction is tried.
    pub compact_at: u64,
    /// Why the last compaction or background write failed.
    pub trouble: Option<VaultError>,
    /// Appends that failed.
    pub failures: u64,
}

impl Shared {
    pub(crate) fn new(parts: opening::Parts) -> Shared {
        Shared {
            disk: parts.disk,
            sealing: parts.sealing,
            options: parts.options,
            secret: parts.secret,
            opening: parts.opening,
            state: Mutex::new(parts.state),
            turn: Condvar::new(),
            wake: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault {
    /// Opens the store, or begins one when the disk has none.
    ///
    /// # Errors
    /// What is wrong with the store, by position; or the disk's or the processor's error.
    pub fn open(disk: Arc<dyn Disk>, sealing: Arc<dyn Sealing>) -> Result<Arc<Vault>, VaultError> {
        Vault::open_with(disk, sealing, Options::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`open`](Vault::open).
    pub fn open_with(disk: Arc<dyn Disk>, sealing: Arc<dyn Sealing>, options: Options) -> Result<Arc<Vault>, VaultError> {
        let shared = Arc::new(opening::open(disk, sealing, options)?);
        Ok(Arc::new(Vault { shared, flusher: Mutex::new(None) }))
    }

    /// Number of the last durable commit. It only grows; a client that remembers it notices an older store: see [`Vault::witness`].
    pub fn epoch(&self) -> u64 {
        self.shared.lock().durable
    }

    /// What a client shall remember.
    pub fn witness(&self) -> Witness {
        Witness { epoch: self.epoch(), opening: self.shared.opening.id }
    }

    /// Whether this store has everything that the witness saw. `false`: the host put an older store back, or another one; or the store was
    /// opened more than four thousand times since.
    pub fn continues(&self, witness: &Witness) -> bool {
        let state = self.shared.lock();
        witness::continues(&state.history, state.durable, witness)
    }

    /// Whether the key is kept from the host.
    pub fn is_protected(&self) -> bool {
        self.shared.sealing.is_protected()
    }

    /// A record's value.
    ///
    /// # Errors
    /// When the disk fails, or gives anything but what was written: the error names the record.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, VaultError> {
        Ok(self.get_versioned(key)?.map(|(_, value)| value))
    }

    /// A record's version and value.
    ///
    /// # Errors
    /// As [`get`](Vault::get).
    pub fn get_versioned(&self, key: &Key) -> Result<Option<(u64, Vec<u8>)>, VaultError> {
        self.shared.fetch(key)
    }

    /// Sets a record. It is durable when this returns.
    ///
    /// # Errors
    /// Limits, and those of the disk.
    pub fn put(&self, key: &Key, value: &[u8]) -> Result<(), VaultError> {
        self.commit(vec![Change::Put(key.clone(), value.to_vec())])
    }

    /// Deletes a record. One that is not there is no error.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn delete(&self, key: &Key) -> Result<(), VaultError> {
        self.commit(vec![Change::Delete(key.clone())])
    }

    /// Makes all these changes or none of them. They are durable when this returns.
    ///
    /// # Errors
    /// Limits, and those of the disk.
    pub fn commit(&self, changes: Vec<Change>) -> Result<(), VaultError> {
        if changes.is_empty() {
            return Ok(());
        }
        let done = Done::default();
        self.enqueue(changes, Some(done.clone()))?;
        self.shared.settle(&done)
    }

    /// Sets a record that can be read at once and is durable a few hundredths of a second later. A value of more than 64 KiB goes to the
    /// disk before this returns; of smaller ones so many are held back as [`Options::queue`] allows.
    ///
    /// # Errors
    /// Limits; and [`VaultError::Busy`] when the disk does not keep up.
    pub fn put_soon(&self, key: &Key, value: Vec<u8>) -> Result<(), VaultError> {
        if !self.start_flusher() {
            return self.put(key, &value);
        }
        self.enqueue(vec![Change::Put(key.clone(), value)], None)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Waits until everything that was put so far is durable.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&self) -> Result<(), VaultError> {
        self.shared.flush()
    }

    /// Names and versions of an owner's records of a kind, in order.
    pub fn list(&self, owner: &str, kind: &str) -> Vec<(String, u64)> {
        self.list_from(owner, kind, "", usize::MAX)
    }

    /// The first `limit` of those whose name is `from` or comes after it.
    pub fn list_from(&self, owner: &str, kind: &str, from: &str, limit: usize) -> Vec<(String, u64)> {
        let state = self.shared.lock();
        let mut soon: BTreeMap<&str, u64> = state.queue.soon_on(owner, kind, from).collect();
        let mut found = Vec::new();
        for (name, version) in state.index.list(owner, kind, from) {
            if found.len() >= limit {
                return found;
            }
            while let Some(first) = soon.first_entry().filter(|first| *first.key() < name) {
                let (name, version) = first.remove_entry();
                found.push((name.to_owned(), version));
            }
            found.push((name.to_owned(), soon.remove(name).unwrap_or(version)));
        }
        found.extend(soon.into_iter().map(|(name, version)| (name.to_owned(), version)));
        found.truncate(limit);
        found
    }

    /// Who keeps something, and how much.
    pub fn owners(&self) -> Vec<(String, Usage)> {
        let state = self.shared.lock();
        let mut owners: Vec<_> = state.queue.owners().map(|(owner, usage)| (owner.clone(), *usage)).collect();
        owners.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        owners
    }

    /// What one owner keeps.
    pub fn usage(&self, owner: &str) -> Usage {
        self.shared.lock().queue.usage(owner)
    }

    /// Deletes everything of an owner, in as many commits as it takes.
    ///
    /// # Errors
    /// Those of the disk; some of it may be deleted then.
    pub fn delete_owner(&self, owner: &str) -> Result<(), VaultError> {
        const AT_ONCE: usize = 1000;
        self.flush()?;
        loop {
            let keys: Vec<Change> = {
                let state = self.shared.lock();
                let before = Key::new(owner, "", "");
                state
                    .index
                    .after(Some(&before))
                    .take_while(|(key, _)| key.owner == owner)
                    .take(AT_ONCE)
                    .map(|(key, _)| Change::Delete(key))
                    .collect()
            };
            if keys.is_empty() {
                return Ok(());
            }
            self.commit(keys)?;
        }
    }

    /// Writes a new generation of the journal without what is dead in it. The vault does that by itself when more than half is dead.
    ///
    /// # Errors
    /// Those of the disk; nothing is lost then.
    pub fn compact(&self) -> Result<(), VaultError> {
        self.shared.compact_now()
    }

    /// Why a write in the background or a compaction failed, if the last one did. For the node's log.
    pub fn trouble(&self) -> Option<VaultError> {
        self.shared.lock().trouble.clone()
    }

    /// Checks changes, writes big values to their blobs, and queues the rest.
    fn enqueue(&self, changes: Vec<Change>, done: Option<Done>) -> Result<u64, VaultError> {
        let shared = &self.shared;
        self.check(&changes)?;
        let mut queued: Vec<(Key, Queued)> = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                Change::Delete(key) => queued.push((key, Queued::Gone)),
                Change::Put(key, value) if value.len() <= INLINE => queued.push((key, Queued::Small(value.into()))),
                Change::Put(key, value) => match self.put_blob(&key, &value) {
                    Ok(blob) => queued.push((key, blob)),
                    Err(error) => {
                        shared.give_up(queued);
                        return Err(error);
                    }
                },
            }
        }
        let mut room = 1;
        loop {
            let mut guard = shared.lock();
            let state = &mut *guard;
            if state.broken {
                return Err(VaultError::Closed);
            }
            match state.queue.push(queued, done.clone(), &state.index, &shared.options) {
                Ok(epoch) => return Ok(epoch),
                Err((VaultError::Busy { .. }, back)) if room > 0 => {
                    drop(guard);
                    queued = back;
                    room -= 1;
                    if let Err(error) = shared.flush() {
                        shared.give_up(queued);
                        return Err(error);
                    }
                }
                Err((error, back)) => {
                    drop(guard);
                    shared.give_up(back);
                    return Err(error);
                }
            }
        }
    }

    fn check(&self, changes: &[Change]) -> Result<(), VaultError> {
        let mut sum = 0;
        let mut seen = std::collections::HashSet::with_capacity(changes.len());
        for change in changes {
            let key = change.key();
            key.check()?;
            if !seen.insert(key) {
                return Err(VaultError::Twice { name: key.to_string() });
            }
            sum += key.len() + CHANGE;
            if let Change::Put(_, value) = change {
                let (bytes, limit) = (value.len() as u64, self.shared.options.value);
                if bytes > limit {
                    return Err(VaultError::TooLarge { what: "one value", bytes, limit });
                }
                sum += if value.len() <= INLINE { bytes } else { 0 };
            }
        }
        if sum > MAX_COMMIT {
            return Err(VaultError::TooLarge { what: "one commit", bytes: sum, limit: MAX_COMMIT });
        }
        Ok(())
    }

    fn put_blob(&self, key: &Key, value: &[u8]) -> Result<Queued, VaultError> {
        let shared = &self.shared;
        let number = shared.take_number()?;
        let id = blob::id(&shared.secret, &shared.opening.id, number);
        let written = blob::seal(id, key, value, shared.options.padding)
            .and_then(|(bytes, reference)| shared.disk.put_blob(id, bytes).map_err(VaultError::disk("writing a blob")).map(|()| reference));
        match written {
            Ok(reference) => Ok(Queued::Blob(reference, number)),
            Err(error) => {
                shared.drop_blobs(vec![(number, id)]);
                Err(error)
            }
        }
    }

    /// Whether the thread for what nobody waits for runs.
    fn start_flusher(&self) -> bool {
        let mut flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
        if flusher.is_none() {
            let shared = self.shared.clone();
            *flusher = std::thread::Builder::new().name("vault".into()).stack_size(256 << 10).spawn(move || commit::flusher(&shared)).ok();
        }
        flusher.is_some()
    }
}

impl Drop for Vault {
    /// Writes what waits.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = flusher {
            let _ = thread.join();
        }
    }
}
