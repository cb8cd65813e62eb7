//! Writes what lives into a new generation, and leaves what is dead behind.

use std::sync::Arc;

use crate::commit::Turn;
use crate::fetch::{self, Source};
use crate::format::{Delta, Payload, Store, Value};
use crate::index::{At, Record, Spot};
use crate::replay::piece;
use crate::vault::Shared;
use crate::witness::HISTORY;
use crate::writer::{Batch, Writer};
use crate::{Key, VaultError};
use teemate_sealed::seal::SegmentKey;

/// Records and bytes of values in one frame of a snapshot.
const RECORDS: usize = 64;
const VALUES: u64 = 64 << 10;
/// Names of garbage in one frame.
const GARBAGE: usize = 4096;
/// Bytes of one append.
const APPEND: usize = 1 << 20;

/// A record on its way: the value when it is in memory, else where it lies.
struct Moved {
    key: Key,
    record: Record,
    value: Option<Arc<[u8]>>,
    source: Option<Source>,
}

impl Shared {
    /// Compacts whatever is dead.
    pub(crate) fn compact_now(&self) -> Result<(), VaultError> {
        let mut turn = self.take_turn()?;
        self.rewrite(&mut turn)
    }

    /// Compacts when more than half is dead.
    pub(crate) fn compact_if_worth(&self, turn: &mut Turn<'_>) {
        let Some(size) = turn.writer.as_ref().map(Writer::size) else { return };
        let (live, least) = {
            let state = self.lock();
            (state.index.live(), state.compact_at)
        };
        if size < least || size / 2 <= live {
            return;
        }
        // A failure is nobody's failure: the old generation goes on.
        if let Err(error) = self.rewrite(turn) {
            let mut state = self.lock();
            state.trouble = Some(error);
            state.compact_at = size.saturating_mul(2);
        }
    }

    fn rewrite(&self, turn: &mut Turn<'_>) -> Result<(), VaultError> {
        let (generation, blobs, durable, history, garbage) = {
            let mut state = self.lock();
            state.last_generation += 1;
            let from = state.history.len().saturating_sub(HISTORY);
            (state.last_generation, state.numbers.next(), state.durable, state.history[from..].to_vec(), state.garbage.clone())
        };
        let store = Store { secret: self.secret, history, snapshot: true };
        let mut writer = Writer::begin(generation, self.opening, store, self.options.padding);
        let mut batch = writer.batch(&*self.sealing, blobs)?;
        let mut keys = Vec::new();
        let mut spots: Vec<Spot> = Vec::new();
        let (mut after, mut records) = (None, 0);
        loop {
            let chunk = self.chunk(after.as_ref());
            let Some(last) = chunk.last() else { break };
            after = Some(last.key.clone());
            records += chunk.len() as u64;
            let spot = self.add_chunk(&writer, &mut batch, &chunk)?;
            spots.extend(chunk.iter().filter(|moved| matches!(moved.record.at, At::Journal(_))).map(|_| spot));
            if batch.len() >= APPEND {
                keys.extend(writer.append(&*self.disk, batch)?);
                batch = writer.batch(&*self.sealing, blobs)?;
            }
        }
        for ids in garbage.chunks(GARBAGE) {
            writer.add(&mut batch, &Payload::Snapshot { records: Vec::new(), garbage: ids.to_vec() })?;
        }
        writer.add(&mut batch, &Payload::SnapshotEnd { records, epoch: durable })?;
        keys.extend(writer.append(&*self.disk, batch)?);
        self.activate(generation)?;
        self.move_to(turn, writer, keys, spots);
        Ok(())
    }

    /// The next records. Nobody changes the index meanwhile: that takes the writer, which is here.
    fn chunk(&self, after: Option<&Key>) -> Vec<Moved> {
        let state = self.lock();
        let mut bytes = 0;
        let moved = state.index.after(after).take(RECORDS).take_while(|(_, record)| {
            let fits = bytes == 0 || bytes <= VALUES;
            bytes += if record.blob().is_none() { record.length.max(1) } else { 1 };
            fits
        });
        let moved = moved.map(|(key, record)| {
            let value = state.cache.peek(record.serial);
            let source = match &record.at {
                At::Journal(spot) if value.is_none() => {
                    state.keys.get(spot.segment as usize).map(|key| Source { generation: state.generation, key: key.clone(), spot: *spot })
                }
                _ => None,
            };
            Moved { key, record: record.clone(), value, source }
        });
        moved.collect()
    }

    fn add_chunk(&self, writer: &Writer, batch: &mut Batch, chunk: &[Moved]) -> Result<Spot, VaultError> {
        let mut read: Vec<Option<Arc<[u8]>>> = Vec::with_capacity(chunk.len());
        // Neighbours often lie in one frame of an earlier snapshot, which is opened once for all of them.
        let mut frame: Option<(Spot, Option<Vec<u8>>)> = None;
        for Moved { key, record, value, source } in chunk {
            let Some(source) = source else {
                read.push(value.clone());
                continue;
            };
            let plain = match frame.take() {
                Some((spot, plain)) if spot == source.spot => plain,
                _ => fetch::open_frame(&*self.disk, source)?,
            };
            read.push(Some(fetch::value_in(plain.as_deref().unwrap_or_default(), key, record, source)?));
            frame = Some((source.spot, plain));
        }
        let mut records = Vec::with_capacity(chunk.len());
        for (Moved { key, record, .. }, value) in chunk.iter().zip(&read) {
            let value = match (&record.at, value) {
                (At::Blob(blob), _) => Value::Blob((**blob).clone()),
                (At::Journal(_), Some(value)) => Value::Here(value),
                (At::Journal(_), None) => return Err(VaultError::Closed),
            };
            records.push((record.version, Delta { owner: &key.owner, kind: &key.kind, name: &key.name, value }));
        }
        writer.add(batch, &Payload::Snapshot { records, garbage: Vec::new() })
    }

    /// Switches. After an error the disk is asked which generation is the active one; an answer that is neither closes the vault, for a
    /// commit to a generation that is not active would be lost.
    fn activate(&self, generation: u64) -> Result<(), VaultError> {
        let Err(error) = self.disk.activate(generation) else { return Ok(()) };
        let active = piece(&*self.disk, 0, 8).ok().flatten().and_then(|bytes| bytes.first_chunk().copied()).map(u64::from_le_bytes);
        let mut state = self.lock();
        if active == Some(generation) {
            return Ok(());
        }
        state.broken |= active != Some(state.generation);
        Err(VaultError::Disk { doing: "activating a compacted journal", reason: error.to_string() })
    }

    fn move_to(&self, turn: &mut Turn<'_>, writer: Writer, keys: Vec<Arc<SegmentKey>>, spots: Vec<Spot>) {
        let mut state = self.lock();
        state.generation = writer.generation;
        state.keys = keys;
        state.index.relocate(spots);
        state.dropped.clear();
        state.compact_at = self.options.compact_from.max(writer.size().saturating_mul(3) / 2);
        turn.writer = Some(writer);
    }
}
