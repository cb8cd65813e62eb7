//! A disk in memory that does what a disk, a crash or a hostile host may do.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, MAX_PIECE};

/// What becomes of a write that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing of it is there.
    Nothing,
    /// The first so many 256ths of it are.
    Part(u8),
    /// The same, and zeros up to its end.
    PartAndZeros(u8),
    /// All of it is, and yet an error came back.
    Whole,
}

/// A write that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which: writes are counted from 0 on, over the disk's life.
    pub write: u64,
    /// What becomes of it.
    pub effect: Effect,
    /// Whether the disk is dead afterwards, until [`MemoryDisk::revive`]: the machine crashed.
    pub crash: bool,
}

/// What lies on the disk. A copy of it is what a host can put back later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The files of the generations.
    pub generations: BTreeMap<u64, Vec<u8>>,
    /// Which of them is active.
    pub active: Option<u64>,
    /// Blobs.
    pub blobs: HashMap<[u8; 32], Vec<u8>>,
}

impl Content {
    /// The active generation's bytes; empty when there is none.
    pub fn journal(&mut self) -> &mut Vec<u8> {
        self.generations.entry(self.active.unwrap_or_default()).or_default()
    }
}

#[derive(Default)]
struct State {
    content: Content,
    writes: u64,
    faults: Vec<Fault>,
    dead: bool,
    piece: usize,
}

/// The disk.
#[derive(Default)]
pub struct MemoryDisk(Mutex<State>);

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// A disk with this content.
    pub fn with(content: Content) -> MemoryDisk {
        MemoryDisk(Mutex::new(State { content, ..State::default() }))
    }

    /// Gives the journal in pieces of so many bytes.
    pub fn in_pieces(self, bytes: usize) -> MemoryDisk {
        self.state().piece = bytes;
        self
    }

    /// What lies on it.
    pub fn content(&self) -> Content {
        self.state().content.clone()
    }

    /// Changes what lies on it.
    pub fn tamper<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.state().content)
    }

    /// Lets writes fail.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults = faults.into_iter().collect();
    }

    /// How many writes there were.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// After a crash: what was written is there, and writing is possible again.
    pub fn revive(&self) {
        let mut state = self.state();
        state.dead = false;
        state.faults.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a write of `length` bytes: `apply` gets how many of them arrive, and how many zeros follow.
    fn write(&self, length: usize, apply: impl FnOnce(&mut Content, usize, usize)) -> io::Result<()> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("the disk is gone"));
        }
        let number = state.writes;
        state.writes += 1;
        let Some(fault) = state.faults.iter().copied().find(|fault| fault.write == number) else {
            apply(&mut state.content, length, 0);
            return Ok(());
        };
        let part = |of256: u8| length * usize::from(of256) / 256;
        match fault.effect {
            Effect::Nothing => {}
            Effect::Part(of256) => apply(&mut state.content, part(of256), 0),
            Effect::PartAndZeros(of256) => apply(&mut state.content, part(of256), length - part(of256)),
            Effect::Whole => apply(&mut state.content, length, 0),
        }
        state.dead = fault.crash;
        Err(io::Error::other("the write failed"))
    }
}

fn arrived(mut bytes: Vec<u8>, count: usize, zeros: usize) -> Vec<u8> {
    bytes.truncate(count);
    bytes.resize(count + zeros, 0);
    bytes
}

impl Disk for MemoryDisk {
    fn journal(&self, offset: u64) -> io::Result<Option<Vec<u8>>> {
        self.journal_part(offset, MAX_PIECE)
    }

    fn journal_part(&self, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        let state = self.state();
        if state.dead {
            return Err(io::Error::other("the disk is gone"));
        }
        let Some(bytes) = state.content.active.and_then(|active| state.content.generations.get(&active)) else { return Ok(None) };
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let piece = if state.piece == 0 { length.min(MAX_PIECE) } else { state.piece };
        Ok(Some(rest[..rest.len().min(piece)].to_vec()))
    }

    fn append(&self, generation: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let length = bytes.len();
        self.write(length, |content, count, zeros| {
            let file = content.generations.entry(generation).or_default();
            file.resize(offset as usize, 0);
            file.extend_from_slice(&arrived(bytes, count, zeros));
        })
    }

    fn activate(&self, generation: u64) -> io::Result<()> {
        // At once or not at all: a part of it is nothing.
        self.write(255, |content, count, _| {
            if count >= 128 {
                content.active = Some(generation);
                content.generations.retain(|number, _| *number == generation);
            }
        })
    }

    fn put_blob(&self, id: [u8; 32], bytes: Vec<u8>) -> io::Result<()> {
        let length = bytes.len();
        self.write(length, |content, count, zeros| {
            content.blobs.insert(id, arrived(bytes, count, zeros));
        })
    }

    fn blob(&self, id: [u8; 32]) -> io::Result<Option<Vec<u8>>> {
        let state = self.state();
        if state.dead { Err(io::Error::other("the disk is gone")) } else { Ok(state.content.blobs.get(&id).cloned()) }
    }

    fn drop_blob(&self, id: [u8; 32]) -> io::Result<()> {
        self.write(255, |content, count, _| {
            if count >= 128 {
                content.blobs.remove(&id);
            }
        })
    }
}
