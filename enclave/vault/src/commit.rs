//! Group commit: whoever finds the writer free takes it and writes everything that waits, for all.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use crate::format::Payload;
use crate::index::{At, Spot};
use crate::queue::{Done, Pending, Queued};
use crate::vault::{Shared, State};
use crate::writer::Writer;
use crate::{Key, VaultError};
use teemate_sealed::seal::SegmentKey;

/// How long what nobody waits for is gathered.
const GATHER: Duration = Duration::from_millis(10);
/// How long the flusher waits after a failure, at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a number for a blob is waited for.
const TRIES: usize = 500;
/// Deleted blobs that one commit tells the journal of, and blobs that are deleted after one commit.
const DROPS: usize = 256;

/// The writer in somebody's hands. It goes back when this is dropped; a panic closes the vault instead, for the writer's state is unknown.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
    pub writer: Option<Writer>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        match self.writer.take() {
            Some(writer) if !std::thread::panicking() => state.writer = Some(writer),
            _ => state.broken = true,
        }
        self.shared.turn.notify_all();
    }
}

impl Shared {
    /// Waits for the outcome of a commit, or sees to it.
    pub(crate) fn settle(&self, done: &Done) -> Result<(), VaultError> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = done.get() {
                return outcome.clone();
            }
            state = self.step(state)?;
        }
    }

    /// Waits until everything that is queued now is durable.
    pub(crate) fn flush(&self) -> Result<(), VaultError> {
        let mut state = self.lock();
        let (target, failures) = (state.queue.last_epoch(), state.failures);
        loop {
            if state.failures != failures {
                return Err(state.trouble.clone().unwrap_or(VaultError::Closed));
            }
            if state.writer.is_some() && !state.queue.waits(target) {
                return Ok(());
            }
            state = self.step(state)?;
        }
    }

    /// Writes a group, or waits for who does.
    fn step<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, VaultError> {
        if state.broken {
            return Err(VaultError::Closed);
        }
        let Some(writer) = state.writer.take() else {
            return Ok(self.turn.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner));
        };
        let group = state.queue.take_group();
        drop(state);
        self.write(Turn { shared: self, writer: Some(writer) }, group);
        Ok(self.lock())
    }

    /// The writer, when it is free.
    pub(crate) fn take_turn(&self) -> Result<Turn<'_>, VaultError> {
        let mut state = self.lock();
        loop {
            if state.broken {
                return Err(VaultError::Closed);
            }
            if let Some(writer) = state.writer.take() {
                return Ok(Turn { shared: self, writer: Some(writer) });
            }
            state = self.turn.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn write(&self, mut turn: Turn<'_>, group: Vec<Pending>) {
        let Some(writer) = turn.writer.as_mut().filter(|_| !group.is_empty()) else { return };
        let (blobs, dropped) = {
            let mut state = self.lock();
            let keep = state.dropped.len().saturating_sub(DROPS);
            (state.numbers.next(), state.dropped.split_off(keep))
        };
        match self.append(writer, &group, blobs, &dropped) {
            Ok((spots, key)) => self.written(group, &spots, key),
            Err(error) => {
                let mut state = self.lock();
                state.dropped.extend(dropped);
                state.fail(group, &error);
            }
        }
        // Who waits for these commits need not wait for what follows.
        self.turn.notify_all();
        self.collect();
        self.compact_if_worth(&mut turn);
    }

    fn append(
        &self,
        writer: &mut Writer,
        group: &[Pending],
        blobs: u64,
        dropped: &[[u8; 32]],
    ) -> Result<(Vec<Spot>, Option<Arc<SegmentKey>>), VaultError> {
        let mut batch = writer.batch(&*self.sealing, blobs)?;
        let mut spots = Vec::with_capacity(group.len());
        for (position, pending) in group.iter().enumerate() {
            let dropped = if position == 0 { dropped.to_vec() } else { Vec::new() };
            let payload = Payload::Commit { epoch: pending.epoch, blobs, changes: pending.deltas(), dropped };
            spots.push(writer.add(&mut batch, &payload)?);
        }
        let key = writer.append(&*self.disk, batch)?;
        Ok((spots, key))
    }

    fn written(&self, group: Vec<Pending>, spots: &[Spot], key: Option<Arc<SegmentKey>>) {
        let mut state = self.lock();
        state.keys.extend(key);
        state.trouble = None;
        for (pending, spot) in group.into_iter().zip(spots) {
            state.queue.written(&pending);
            state.durable = pending.epoch;
            for (key, value) in pending.changes {
                state.apply(&key, value, pending.epoch, *spot);
            }
            if let Some(done) = pending.done {
                let _ = done.set(Ok(()));
            }
        }
        // Something else lies now where a failed append may have left a commit that names these.
        let orphans = std::mem::take(&mut state.orphans);
        drop(state);
        self.drop_blobs(orphans);
    }

    /// Deletes blobs that no record names any more.
    fn collect(&self) {
        let mut ids = {
            let mut state = self.lock();
            let keep = state.garbage.len().saturating_sub(DROPS);
            state.garbage.split_off(keep)
        };
        let mut dropped = Vec::new();
        while let Some(id) = ids.pop() {
            if self.disk.drop_blob(id).is_err() {
                ids.push(id);
                break;
            }
            dropped.push(id);
        }
        let mut state = self.lock();
        state.garbage.extend(ids);
        state.dropped.extend(dropped);
    }

    /// Deletes blobs that the journal never named.
    pub(crate) fn drop_blobs(&self, blobs: Vec<(u64, [u8; 32])>) {
        for (number, id) in blobs {
            let kept = self.disk.drop_blob(id).is_err();
            let mut state = self.lock();
            state.numbers.settle(number);
            state.garbage.extend(kept.then_some(id));
        }
    }

    /// Changes that are not to be after all.
    pub(crate) fn give_up(&self, changes: Vec<(Key, Queued)>) {
        self.drop_blobs(blobs_of(&changes).collect());
    }

    /// A number for a blob, when not too many are under way.
    pub(crate) fn take_number(&self) -> Result<u64, VaultError> {
        for _ in 0..TRIES {
            let orphans = {
                let mut state = self.lock();
                if let Some(number) = state.numbers.take() {
                    return Ok(number);
                }
                !state.orphans.is_empty()
            };
            if orphans {
                self.begin_segment()?
            } else {
                self.flush()?
            }
            // What is under way now is in the hands of other threads.
            let state = self.lock();
            if state.numbers.is_full() {
                drop(self.turn.wait_timeout(state, GATHER).unwrap_or_else(std::sync::PoisonError::into_inner));
            }
        }
        Err(VaultError::Busy { bytes: self.lock().queue.bytes() })
    }

    /// Writes the first frame of a segment when there is none: at the start, and after a failed append, in whose place it then lies.
    pub(crate) fn begin_segment(&self) -> Result<(), VaultError> {
        let mut turn = self.take_turn()?;
        let Some(writer) = turn.writer.as_mut() else { return Err(VaultError::Closed) };
        let blobs = self.lock().numbers.next();
        let batch = writer.batch(&*self.sealing, blobs)?;
        if !batch.is_empty() {
            let key = writer.append(&*self.disk, batch)?;
            self.lock().keys.extend(key);
        }
        let orphans = std::mem::take(&mut self.lock().orphans);
        self.drop_blobs(orphans);
        Ok(())
    }
}

impl State {
    fn apply(&mut self, key: &Key, value: Queued, epoch: u64, spot: Spot) {
        let old = match value {
            Queued::Gone => self.index.remove(key),
            Queued::Small(value) => {
                let (serial, old) = self.index.set(key, epoch, value.len() as u64, At::Journal(spot));
                self.cache.insert(serial, value);
                old
            }
            Queued::Blob(blob, number) => {
                self.numbers.settle(number);
                self.index.set(key, epoch, blob.length, At::Blob(Arc::new(blob))).1
            }
        };
        if let Some(old) = old {
            self.cache.remove(old.serial);
            self.garbage.extend(old.blob());
        }
    }

    fn fail(&mut self, group: Vec<Pending>, error: &VaultError) {
        self.failures += 1;
        self.trouble = Some(error.clone());
        for pending in self.queue.failed(group, &self.index) {
            self.orphans.extend(blobs_of(&pending.changes));
            if let Some(done) = pending.done {
                let _ = done.set(Err(error.clone()));
            }
        }
    }
}

fn blobs_of(changes: &[(Key, Queued)]) -> impl Iterator<Item = (u64, [u8; 32])> {
    changes.iter().filter_map(|(_, value)| match value {
        Queued::Blob(blob, number) => Some((*number, blob.id)),
        _ => None,
    })
}

/// Writes what nobody waits for, until the vault closes.
pub(crate) fn flusher(shared: &Shared) {
    let mut pause = GATHER;
    loop {
        let mut state = shared.lock();
        while state.queue.is_empty() && !state.closing && !state.broken {
            state = shared.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let closing = state.closing;
        if state.broken || (closing && state.queue.is_empty()) {
            return;
        }
        let asleep = shared.wake.wait_timeout_while(state, pause, |state| !state.closing);
        drop(asleep.unwrap_or_else(std::sync::PoisonError::into_inner));
        match shared.flush() {
            Ok(()) => pause = GATHER,
            // Nobody is left who could try again.
            Err(_) if closing => return,
            Err(_) => pause = (pause * 2).min(PATIENCE),
        }
    }
}
