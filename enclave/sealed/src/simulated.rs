//! A disk in memory for tests: it crashes when it is told to, and after a power cut has only what was put on it for certain.
//!
//! What is certain: of a file, what was there at its last [`AppendFile::sync`]; of names, what was there at the last [`Directory::sync`] or
//! [`Directory::replace`]. Of the rest, as much as the test says. It is shared: a clone is the same disk.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{AppendFile, Directory};

#[derive(Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// What is on disk for certain: this much of the beginning.
    synced: usize,
}

/// Everything on a disk: kept by a host that means to put it back.
#[derive(Clone, Default)]
pub struct Content {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
}

#[derive(Default)]
struct State {
    content: Content,
    operations: u64,
    /// At which operation the machine ends, and how many 256ths of a write arrive then.
    crash: Option<(u64, u8)>,
    dead: bool,
    /// Operations that fail while the machine goes on: of this kind, with this error.
    refused: Option<(Kind, io::ErrorKind)>,
}

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Directory::create`].
    Create,
    /// Appending, of which half arrives.
    Write,
    /// [`AppendFile::sync`] and [`Directory::sync_file`].
    Sync,
    /// [`AppendFile::cut`].
    Cut,
    /// [`Directory::replace`].
    Replace,
    /// [`Directory::sync`].
    SyncNames,
    /// [`Directory::remove`].
    Remove,
}

/// The disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The machine ends with the operation of this number, counted from 0. If it is a write, `part` 256ths of it arrive.
    pub fn crash_at(&self, operation: u64, part: u8) {
        self.state().crash = Some((operation, part));
    }

    /// Operations of this kind fail from now on; `None`: nothing does.
    pub fn refuse(&self, what: Option<(Kind, io::ErrorKind)>) {
        self.state().refused = what;
    }

    /// The process ends here and now, the machine goes on: what was written is there, and none of it is more certain than before.
    pub fn restart(&self) {
        let mut state = self.state();
        (state.dead, state.crash) = (false, None);
    }

    /// The machine loses its power and is on again: of what was not certain, `part` 256ths of each file are there, then perhaps zeros.
    pub fn cut_power(&self, part: u8, zeros: bool) {
        let mut state = self.state();
        (state.dead, state.crash) = (false, None);
        let content = &mut state.content;
        content.names = content.durable.clone();
        for inode in &mut content.inodes {
            let length = inode.bytes.len();
            let synced = inode.synced.min(length);
            inode.bytes.truncate(synced + (length - synced) * usize::from(part) / 256);
            if zeros {
                inode.bytes.resize(length, 0);
            }
            // What is there after it was read from the disk.
            inode.synced = inode.bytes.len();
        }
    }

    /// All of it, to be put back later.
    pub fn content(&self) -> Content {
        self.state().content.clone()
    }

    /// Puts back what was there.
    pub fn put_back(&self, content: Content) {
        self.state().content = content;
    }

    /// Names of the files.
    pub fn names(&self) -> Vec<String> {
        self.state().content.names.keys().cloned().collect()
    }

    /// What is in a file; nothing, if there is no such file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.content.names.get(name).map_or_else(Vec::new, |number| state.content.inodes[*number].bytes.clone())
    }

    /// Puts other bytes into a file, or makes one, as a host can.
    pub fn set_bytes(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let synced = bytes.len();
        state.content.inodes.push(Inode { bytes, synced });
        let number = state.content.inodes.len() - 1;
        state.content.names.insert(name.to_owned(), number);
        state.content.durable.insert(name.to_owned(), number);
    }

    /// Takes a file away, as a host can.
    pub fn take(&self, name: &str) {
        let mut state = self.state();
        state.content.names.remove(name);
        state.content.durable.remove(name);
    }

    /// Does something, unless the machine ends with it: then `ended` says what becomes of it.
    fn operation<T>(&self, kind: Kind, ended: impl FnOnce(&mut Content, u8), done: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("the machine is off"));
        }
        state.operations += 1;
        if let Some((_, part)) = state.crash.filter(|(at, _)| *at + 1 == state.operations) {
            state.dead = true;
            ended(&mut state.content, part);
            return Err(io::Error::other("the machine went off"));
        }
        if let Some((_, error)) = state.refused.filter(|(refused, _)| *refused == kind) {
            if kind == Kind::Write {
                ended(&mut state.content, 128);
            }
            return Err(error.into());
        }
        Ok(done(&mut state.content))
    }
}

struct Open(Disk, usize);

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let append = |content: &mut Content, arrived: usize| content.inodes[self.1].bytes.extend_from_slice(&bytes[..arrived]);
        self.0.operation(
            Kind::Write,
            |content, part| append(content, bytes.len() * usize::from(part) / 256),
            |content| append(content, bytes.len()),
        )?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sync(content: &mut Content, number: usize) {
    let inode = &mut content.inodes[number];
    inode.synced = inode.bytes.len();
}

impl AppendFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        self.0.operation(Kind::Sync, |_, _| {}, |content| sync(content, self.1))
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let cut = |content: &mut Content| content.inodes[self.1].bytes.truncate(length as usize);
        self.0.operation(Kind::Cut, |content, _| cut(content), cut)
    }

    fn another(&self) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(Open(self.0.clone(), self.1)))
    }
}

impl Directory for Disk {
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let create = |content: &mut Content| {
            content.inodes.push(Inode::default());
            let number = content.inodes.len() - 1;
            content.names.insert(name.to_owned(), number);
            number
        };
        let ended = |content: &mut Content, _| {
            create(content);
        };
        let number = self.operation(Kind::Create, ended, create)?;
        Ok(Box::new(Open(self.clone(), number)))
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read>>> {
        let state = self.state();
        let number = state.content.names.get(name);
        Ok(number.map(|number| Box::new(io::Cursor::new(state.content.inodes[*number].bytes.clone())) as Box<dyn Read>))
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.state().content.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let replace = |content: &mut Content| {
            if let Some(number) = content.names.remove(from) {
                content.names.insert(to.to_owned(), number);
            }
            content.durable = content.names.clone();
        };
        // At once or not at all.
        let ended = |content: &mut Content, part| {
            if part >= 128 {
                replace(content);
            }
        };
        self.operation(Kind::Replace, ended, replace)
    }

    fn sync(&self) -> io::Result<()> {
        self.operation(Kind::SyncNames, |_, _| {}, |content| content.durable = content.names.clone())
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        let number = self.state().content.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        self.operation(Kind::Sync, |_, _| {}, |content| sync(content, number))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let remove = |content: &mut Content| {
            content.names.remove(name);
        };
        self.operation(Kind::Remove, |content, _| remove(content), remove)
    }
}
