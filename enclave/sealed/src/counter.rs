//! Who remembers how far a log has come, so that an old one that comes back is noticed.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Directory, Error, FileDirectory, Label, Reader, Sealing, Writer};

/// How far a log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Random number of the log.
    pub log: [u8; 16],
    /// Frames so far, over all generations.
    pub frames: u64,
    /// Tag of the last one, which hangs on all before it.
    pub root: [u8; 16],
}

impl Head {
    /// Forty bytes.
    pub fn to_bytes(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.log);
        bytes[16..24].copy_from_slice(&self.frames.to_le_bytes());
        bytes[24..].copy_from_slice(&self.root);
        bytes
    }

    /// What [`Head::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8; 40]) -> Head {
        let (mut log, mut frames, mut root) = ([0; 16], [0; 8], [0; 16]);
        log.copy_from_slice(&bytes[..16]);
        frames.copy_from_slice(&bytes[16..24]);
        root.copy_from_slice(&bytes[24..]);
        Head { log, frames: u64::from_le_bytes(frames), root }
    }
}

/// Keeps the last head. What it is worth depends on where it keeps it.
pub trait Counter: Send {
    /// The last head; `None`: there was none.
    ///
    /// # Errors
    /// When it can't be had: the log must not be opened without it then.
    fn last(&self) -> Result<Option<Head>, Error>;

    /// Remembers a head from now on. Only what is on disk is to be remembered: else a crash looks like a rollback.
    ///
    /// # Errors
    /// When that is not certain.
    fn remember(&self, head: Head) -> Result<(), Error>;
}

/// In the enclave's memory: a container that starts anew in the same enclave finds every rollback. The next enclave knows nothing.
#[derive(Clone, Debug, Default)]
pub struct MemoryCounter(Arc<Mutex<Option<Head>>>);

impl Counter for MemoryCounter {
    fn last(&self) -> Result<Option<Head>, Error> {
        Ok(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn remember(&self, head: Head) -> Result<(), Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
        Ok(())
    }
}

/// In a sealed file. The host can put back an old one together with an old log, or delete it, unnoticed: this finds accidents, such as a log that was
/// restored from a backup alone, and no host that means it.
pub struct FileCounter {
    directory: Arc<dyn Directory + Sync>,
    sealing: Arc<dyn Sealing + Send + Sync>,
    label: Label,
}

impl FileCounter {
    /// In a file of the label's name in this directory, best on another disk than the log.
    pub fn new(
        directory: impl Into<PathBuf>,
        sealing: Arc<dyn Sealing + Send + Sync>,
        owner: &str,
        database: &str,
        name: &str,
    ) -> FileCounter {
        FileCounter::on(Arc::new(FileDirectory::new(directory)), sealing, owner, database, name)
    }

    /// The same, in a directory that something else carries.
    pub fn on(
        directory: Arc<dyn Directory + Sync>,
        sealing: Arc<dyn Sealing + Send + Sync>,
        owner: &str,
        database: &str,
        name: &str,
    ) -> FileCounter {
        let label = Label { owner: owner.to_owned(), database: database.to_owned(), kind: "head", name: name.to_owned() };
        FileCounter { directory, sealing, label }
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error {
        let file = self.label.name.clone();
        move |source| Error::Disk { file: file.clone(), what, source }
    }
}

impl Counter for FileCounter {
    fn last(&self) -> Result<Option<Head>, Error> {
        let Some(file) = self.directory.open(&self.label.name).map_err(self.failed("opened"))? else { return Ok(None) };
        let mut reader = Reader::new(file, &*self.sealing, &self.label)?;
        let mut bytes = [0; 40];
        reader.read_exact(&mut bytes).map_err(self.failed("read"))?;
        Ok(Some(Head::from_bytes(&bytes)))
    }

    fn remember(&self, head: Head) -> Result<(), Error> {
        let new = format!("{}.new", self.label.name);
        let file = self.directory.create(&new).map_err(self.failed("made"))?;
        let mut writer = Writer::new(file, &*self.sealing, &self.label)?;
        writer.write_all(&head.to_bytes()).map_err(self.failed("written"))?;
        writer.finish().and_then(|mut file| file.sync()).map_err(self.failed("written"))?;
        self.directory.replace(&new, &self.label.name).map_err(self.failed("replaced"))
    }
}
