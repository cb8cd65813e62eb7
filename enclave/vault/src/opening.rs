//! Opens a store: reads it, cleans up after a crash, and begins a segment of its own.

use std::sync::Arc;

use crate::disk::Disk;
use crate::format::{Opening, Store};
use crate::index::Index;
use crate::numbers::Numbers;
use crate::queue::Queue;
use crate::replay::{self, Replayed};
use crate::vault::{Shared, State};
use crate::writer::Writer;
use crate::{Options, Sealing, VaultError, blob, cache::Cache, random};

/// Segments from which on a generation is written anew at the start.
const MANY_SEGMENTS: usize = 64;

/// What a vault is made of.
pub struct Parts {
    pub disk: Arc<dyn Disk>,
    pub sealing: Arc<dyn Sealing>,
    pub options: Options,
    pub secret: [u8; 32],
    pub opening: Opening,
    pub state: State,
}

/// Opens the store on this disk, or begins one.
pub fn open(disk: Arc<dyn Disk>, sealing: Arc<dyn Sealing>, options: Options) -> Result<Shared, VaultError> {
    match replay::replay(&*disk, &*sealing, options.cache)? {
        None => begin(disk, sealing, options),
        Some(replayed) => go_on(disk, sealing, options, replayed),
    }
}

fn begin(disk: Arc<dyn Disk>, sealing: Arc<dyn Sealing>, options: Options) -> Result<Shared, VaultError> {
    const FIRST: u64 = 1;
    let opening = Opening { id: random::bytes()?, epoch: 1 };
    let secret = random::bytes()?;
    let store = Store { secret, history: Vec::new(), snapshot: false };
    let mut writer = Writer::begin(FIRST, opening, store, options.padding);
    let batch = writer.batch(&*sealing, 0)?;
    let key = writer.append(&*disk, batch)?;
    disk.activate(FIRST).map_err(VaultError::disk("activating the first generation"))?;
    let mut state = state(Index::default(), Cache::new(options.cache), writer, vec![opening], &options);
    state.keys.extend(key);
    Ok(Shared::new(Parts { disk, sealing, options, secret, opening, state }))
}

fn go_on(disk: Arc<dyn Disk>, sealing: Arc<dyn Sealing>, options: Options, replayed: Replayed) -> Result<Shared, VaultError> {
    let Replayed { index, cache, keys, generation, cursor, secret, mut history, epoch, blobs, garbage, stale } = replayed;
    let last = history.last().map(|opening| opening.id).unwrap_or_default();
    let opening = Opening { id: random::bytes()?, epoch: epoch + 1 };
    history.push(opening);
    let segments = keys.len();
    let writer = Writer::resume(generation, cursor, segments as u32, opening, options.padding);
    let mut state = state(index, cache, writer, history, &options);
    state.keys = keys;
    // What the last opening wrote for commits that never came: nobody names it.
    let named: std::collections::HashSet<[u8; 32]> = state.index.after(None).filter_map(|(_, record)| record.blob()).collect();
    let suspects = Numbers::suspects(blobs).map(|number| blob::id(&secret, &last, number)).filter(|id| !named.contains(id));
    let left: Vec<[u8; 32]> = suspects.collect();
    for id in left {
        // A leftover that stays costs room and nothing else; the next opening looks for its own.
        let _ = disk.drop_blob(id);
    }
    state.garbage = garbage.into_iter().filter(|id| !named.contains(id)).collect();
    let shared = Shared::new(Parts { disk, sealing, options, secret, opening, state });
    if (stale || segments >= MANY_SEGMENTS) && shared.compact_now().is_ok() {
        return Ok(shared);
    }
    shared.begin_segment()?;
    Ok(shared)
}

fn state(index: Index, cache: Cache, writer: Writer, history: Vec<Opening>, options: &Options) -> State {
    let durable = history.last().map_or(0, |opening| opening.epoch);
    State {
        queue: Queue::new(durable + 1, &index),
        index,
        cache,
        generation: writer.generation,
        keys: Vec::new(),
        last_generation: writer.generation,
        numbers: Numbers::default(),
        writer: Some(writer),
        broken: false,
        closing: false,
        durable,
        history,
        garbage: Vec::new(),
        dropped: Vec::new(),
        orphans: Vec::new(),
        compact_at: options.compact_from,
        trouble: None,
        failures: 0,
    }
}
