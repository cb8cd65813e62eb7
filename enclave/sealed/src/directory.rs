//! The files of a log, and of who else keeps sealed files, as they see them: what carries them to a disk is behind these two traits.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;

/// A file that is appended to.
pub trait AppendFile: Write + Send {
    /// What was written is on disk when this returns.
    ///
    /// # Errors
    /// Those of the disk; what is on disk is then unknown.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to so many bytes.
    ///
    /// # Errors
    /// Those of the disk.
    fn cut(&mut self, length: u64) -> io::Result<()>;

    /// The same file once more, so that another thread can wait for [`AppendFile::sync`] while this one appends.
    ///
    /// # Errors
    /// Where that can't be had.
    fn another(&self) -> io::Result<Box<dyn AppendFile>>;
}

/// Where a log's files lie. All of it belongs to the host.
pub trait Directory: Send {
    /// Makes an empty file, in place of what has this name.
    ///
    /// # Errors
    /// Those of the disk; so of all.
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>>;

    /// Opens a file to read; `None`: there is none.
    ///
    /// # Errors
    /// Those of the disk.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read>>>;

    /// Puts a file in another's place, at once or not at all, and on disk when it returns.
    ///
    /// # Errors
    /// Those of the disk.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Names that were made are on disk when this returns.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync(&self) -> io::Result<()>;

    /// What was written to a file, by whatever process, is on disk when this returns.
    ///
    /// # Errors
    /// Those of the disk, and that there is no such file.
    fn sync_file(&self, name: &str) -> io::Result<()>;

    /// Deletes a file; one that is not there is no error.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct FileDirectory(PathBuf);

impl FileDirectory {
    /// This one, which must be there.
    pub fn new(path: impl Into<PathBuf>) -> FileDirectory {
        FileDirectory(path.into())
    }
}

impl AppendFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn another(&self) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl Directory for FileDirectory {
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let path = self.0.join(name);
        // What has the name may be open elsewhere still.
        self.remove(name)?;
        Ok(Box::new(fs::OpenOptions::new().append(true).create_new(true).open(path)?))
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read>>> {
        match File::open(self.0.join(name)) {
            Ok(file) => Ok(Some(Box::new(BufReader::with_capacity(1 << 18, file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        File::open(self.0.join(name))?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
