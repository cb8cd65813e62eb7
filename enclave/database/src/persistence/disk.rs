//! Where things are kept, and in which form.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use teemate_sealed::{AppendFile, Counter, Directory, FileDirectory, Label, Sealing};
use teemate_service::clock;

use super::Error;
use crate::config::Config;

/// The disk, as the database sees it: directories by their paths, each with the few calls of [`Directory`]. Outside of an enclave the operating
/// system carries them; inside, whatever reaches the host.
pub trait Disk: Send + Sync {
    /// The directory of this path. Whether it is there shows when it is used.
    fn directory(&self, path: &str) -> Arc<dyn Directory + Sync>;

    /// Whether there is such a directory.
    fn is_directory(&self, path: &str) -> bool;
}

/// By the operating system's own calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Disk for Native {
    fn directory(&self, path: &str) -> Arc<dyn Directory + Sync> {
        Arc::new(FileDirectory::new(path))
    }

    fn is_directory(&self, path: &str) -> bool {
        Path::new(path).is_dir()
    }
}

/// The key that files are sealed with.
pub type Key = Arc<dyn Sealing + Send + Sync>;

/// Who remembers how far everything has come. Shared with the thread that tells it.
pub type Witness = Arc<Mutex<dyn Counter>>;

/// Where things are kept, and in which form.
#[derive(Clone)]
pub struct Storage {
    /// What carries files.
    pub disk: Arc<dyn Disk>,
    /// Without one nothing is sealed, so there is no log, and no snapshot that is not plain.
    pub key: Option<Key>,
    /// Whether snapshots are plain RDB files, which the host can read and change.
    pub plain: bool,
    /// Whose files they are, and of which database: files of another do not open.
    pub owner: String,
    /// See `owner`.
    pub database: String,
    /// Who remembers how far everything has come. It has to answer, or to fail, in bounded time: the start and the end wait for it.
    pub witness: Option<Witness>,
}

impl Default for Storage {
    /// Nowhere: nothing is kept.
    fn default() -> Self {
        Storage { disk: Arc::new(Native), key: None, plain: false, owner: String::new(), database: String::new(), witness: None }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("sealed", &self.key.is_some()).field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl Storage {
    /// Where the settings say that the snapshot is.
    ///
    /// # Errors
    /// [`Error::Nowhere`].
    pub fn snapshot(&self, config: &Config) -> Result<Place, Error> {
        self.place(config.get("dir"), config.get("dbfilename"))
    }

    /// A file for a snapshot that replicas get, one of several by its number. What was in it before does not open as this one: a host that
    /// puts back another time's file gives none.
    ///
    /// # Errors
    /// [`Error::Nowhere`].
    pub fn spool(&self, config: &Config, number: usize) -> Result<Place, Error> {
        let mut once = [0; 16];
        clock::random(&mut once);
        let mut place = self.place(config.get("dir"), &format!("replica-{number}.rdb"))?;
        place.label.kind = "replica";
        place.label.name = once.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(place)
    }

    /// A snapshot of this name in this directory.
    ///
    /// # Errors
    /// [`Error::Nowhere`].
    pub fn place(&self, directory: &str, name: &str) -> Result<Place, Error> {
        if self.key.is_none() && !self.plain {
            return Err(Error::Nowhere);
        }
        Ok(Place {
            directory: self.disk.directory(directory),
            name: name.to_owned(),
            key: self.key.clone(),
            plain: self.plain,
            label: Label { owner: self.owner.clone(), database: self.database.clone(), kind: "snapshot", name: name.to_owned() },
        })
    }
}

/// Where a snapshot is, and in which form.
pub struct Place {
    directory: Arc<dyn Directory + Sync>,
    name: String,
    key: Option<Key>,
    plain: bool,
    label: Label,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Something that is written beside the file in whose place it is put when it is complete.
pub enum Writer {
    /// As it is.
    Plain(Box<dyn AppendFile>),
    /// In sealed chunks.
    Sealed(Box<teemate_sealed::Writer<Box<dyn AppendFile>>>),
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Writer::Plain(file) => file.write(bytes),
            Writer::Sealed(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Writer::Plain(file) => file.flush(),
            Writer::Sealed(writer) => writer.flush(),
        }
    }
}

impl Place {
    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Deletes the file.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remove(&self) -> Result<(), Error> {
        self.directory.remove(&self.name).map_err(super::failed(&self.name, "removed"))
    }

    /// Replaces the file by what `write` writes: when that is complete and on disk, at once. Else the old one stays.
    ///
    /// # Errors
    /// Those of `write` and of the disk.
    pub fn replace<T>(&self, write: impl FnOnce(&mut Writer) -> Result<T, Error>) -> Result<T, Error> {
        let new = format!("{}.new", self.name);
        let file = self.directory.create(&new).map_err(super::failed(&new, "made"))?;
        let result = (|| {
            let mut writer = match self.key.as_ref().filter(|_| !self.plain) {
                Some(key) => Writer::Sealed(Box::new(teemate_sealed::Writer::new(file, &**key, &self.label)?)),
                None => Writer::Plain(file),
            };
            let done = write(&mut writer)?;
            let mut file = match writer {
                Writer::Plain(file) => file,
                Writer::Sealed(writer) => writer.finish().map_err(super::failed(&new, "written"))?,
            };
            file.sync().map_err(super::failed(&new, "put on disk"))?;
            // The new name is on disk when this returns, too.
            self.directory.replace(&new, &self.name).map_err(super::failed(&self.name, "replaced"))?;
            Ok(done)
        })();
        if result.is_err() {
            let _ = self.directory.remove(&new);
        }
        result
    }

    /// Opens the file; `None`: there is none. A plain one only if that was asked for: anybody can write one.
    ///
    /// # Errors
    /// That it is not what this database wrote, or can't be read.
    pub fn open(&self) -> Result<Option<Box<dyn Read>>, Error> {
        let Some(mut file) = self.directory.open(&self.name).map_err(super::failed(&self.name, "opened"))? else { return Ok(None) };
        let mut first = [0; 5];
        let mut length = 0;
        while length < first.len() {
            match file.read(&mut first[length..]).map_err(super::failed(&self.name, "read"))? {
                0 => break,
                count => length += count,
            }
        }
        let is_plain = first == *b"REDIS";
        let whole = io::Cursor::new(first).take(length as u64).chain(file);
        match &self.key {
            _ if is_plain && self.plain => Ok(Some(Box::new(whole))),
            _ if is_plain => Err(Error::Plain(self.name.clone())),
            Some(key) => Ok(Some(Box::new(teemate_sealed::Reader::new(whole, &**key, &self.label)?))),
            // What it is will be said by who reads it.
            None => Ok(Some(Box::new(whole))),
        }
    }
}
