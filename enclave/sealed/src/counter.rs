//! Who remembers how far a database has come, so that an old state that comes back is noticed.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use teemate_witness::{Mark, Remembered};

use crate::{Directory, Error, FileDirectory, Label, Reader, Sealing, Writer};

/// Keeps the last mark. What it is worth depends on where it keeps it.
pub trait Counter: Send {
    /// Begins an epoch that is greater than `above`. From now on who began before may remember nothing.
    ///
    /// # Errors
    /// When that is not certain: what is on disk must not be used then.
    fn open(&mut self, above: u64) -> Result<Remembered, Error>;

    /// Remembers a mark from now on. Only what is on disk is to be remembered: else a crash looks like a rollback.
    ///
    /// # Errors
    /// When that is not certain; [`Error::Backwards`], when it does not come after the last one.
    fn remember(&mut self, mark: &Mark) -> Result<(), Error>;

    /// What it is, in a word, for those who ask how they are protected.
    fn name(&self) -> &'static str;
}

fn next(kept: Remembered, above: u64) -> Result<Remembered, Error> {
    kept.open(above).ok_or_else(|| Error::Counter("there are no epochs left".to_owned()))
}

/// In the enclave's memory: a database that is opened anew in the same enclave finds every rollback. The next enclave knows nothing.
#[derive(Debug, Default)]
pub struct MemoryCounter(Remembered);

impl Counter for MemoryCounter {
    fn open(&mut self, above: u64) -> Result<Remembered, Error> {
        self.0 = next(self.0, above)?;
        Ok(self.0)
    }

    fn remember(&mut self, mark: &Mark) -> Result<(), Error> {
        self.0 = self.0.with(mark).map_err(Error::Backwards)?;
        Ok(())
    }

    fn name(&self) -> &'static str {
        "enclave"
    }
}

/// In a sealed file. The host can put back an old one together with an old database, or delete it, unnoticed: this finds accidents, such as
/// a database that was restored from a backup alone, and no host that means it. A new database, which has nothing yet, leaves no file.
pub struct FileCounter {
    directory: Arc<dyn Directory + Sync>,
    sealing: Arc<dyn Sealing + Send + Sync>,
    label: Label,
    /// Of a database that has nothing yet.
    new: Remembered,
}

impl FileCounter {
    /// In a file of the label's name in this directory, best on another disk than the database.
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
        FileCounter { directory, sealing, label, new: Remembered::default() }
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error {
        let file = self.label.name.clone();
        move |source| match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Disk { file: file.clone(), what, source },
        }
    }

    fn read(&self) -> Result<Option<Remembered>, Error> {
        let Some(file) = self.directory.open(&self.label.name).map_err(self.failed("opened"))? else { return Ok(None) };
        let mut bytes = Vec::new();
        Reader::new(file, &*self.sealing, &self.label)?.read_to_end(&mut bytes).map_err(self.failed("read"))?;
        let damaged = || Error::Damaged { file: self.label.name.clone(), what: "it is of another release".to_owned() };
        postcard::from_bytes(&bytes).map(Some).map_err(|_| damaged())
    }

    fn write(&self, kept: &Remembered) -> Result<(), Error> {
        let new = format!("{}.new", self.label.name);
        let bytes = postcard::to_stdvec(kept).map_err(|error| Error::Counter(error.to_string()))?;
        let file = self.directory.create(&new).map_err(self.failed("made"))?;
        let mut writer = Writer::new(file, &*self.sealing, &self.label)?;
        writer.write_all(&bytes).map_err(self.failed("written"))?;
        writer.finish().and_then(|mut file| file.sync()).map_err(self.failed("written"))?;
        self.directory.replace(&new, &self.label.name).map_err(self.failed("replaced"))
    }
}

impl Counter for FileCounter {
    fn open(&mut self, above: u64) -> Result<Remembered, Error> {
        let found = self.read()?;
        let kept = next(found.unwrap_or_default(), above)?;
        match found {
            None if above == 0 => self.new = kept,
            _ => self.write(&kept)?,
        }
        Ok(kept)
    }

    fn remember(&mut self, mark: &Mark) -> Result<(), Error> {
        let kept = self.read()?.unwrap_or(self.new);
        if kept.last == Some(*mark) && kept.epoch == mark.epoch {
            return Ok(());
        }
        self.write(&kept.with(mark).map_err(Error::Backwards)?)
    }

    fn name(&self) -> &'static str {
        "file"
    }
}
