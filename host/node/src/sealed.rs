//! Sealed bytes of the enclave on disk: a journal in generations, and blobs. What they hold only the enclave can read.
//!
//! ```text
//! sealed/active              the number of the generation that counts, sixteen hexadecimal digits
//!        journal-<number>    its bytes; a second one while the enclave writes the next generation
//!        blobs/<id>          one file each
//! ```
//! The host promises no more than a disk does: bytes that were acknowledged are there after a crash. The enclave checks all of them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use teemate_control::packet::MAX_MESSAGE;
use teemate_control::service::{Ask, JOURNAL_PIECE, Reply};

use crate::error::{Error, Result};
use crate::text::hex;

/// The directory of sealed bytes.
#[derive(Debug)]
pub struct Sealed {
    directory: PathBuf,
    /// Journal that was appended to last: its number and file.
    open: Option<(u64, File)>,
}

impl Sealed {
    /// Opens the directory below the state directory; made if it is missing.
    pub fn open(state: &Path) -> Result<Sealed> {
        let directory = state.join("sealed");
        let made = fs::create_dir_all(directory.join("blobs")).and_then(|()| {
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
            sync_directory(&directory)?;
            // Half-written blobs of an earlier node.
            for entry in fs::read_dir(directory.join("blobs"))?.flatten() {
                if entry.file_name().to_string_lossy().ends_with(".new") {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        });
        made.map_err(Error::system(format!("use the directory {}", directory.display())))?;
        Ok(Sealed { directory, open: None })
    }

    /// Answers a question about sealed bytes; `None` for any other.
    pub fn answer(&mut self, ask: &Ask) -> Option<Reply> {
        let (what, result) = match ask {
            Ask::QuoteTarget | Ask::Quote { .. } => return None,
            Ask::Connect { .. } | Ask::Send { .. } | Ask::Receive { .. } | Ask::HangUp { .. } => return None,
            Ask::Journal { offset, length } => ("read the sealed journal", self.journal(*offset, *length)),
            Ask::Append { generation, offset, bytes } => ("write the sealed journal", self.append(*generation, *offset, bytes)),
            Ask::Activate { generation } => ("switch to a new sealed journal", self.activate(*generation)),
            Ask::PutBlob { id, bytes } => ("write a sealed blob", self.put_blob(id, bytes)),
            Ask::Blob { id } => ("read a sealed blob", self.blob(id)),
            Ask::DropBlob { id } => ("remove a sealed blob", self.drop_blob(id)),
        };
        Some(result.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot {what} in {}", self.directory.display());
            Reply::Failed(format!("the host cannot {what}: {error}"))
        }))
    }

    fn active(&self) -> std::io::Result<Option<u64>> {
        match fs::read_to_string(self.directory.join("active")) {
            Ok(text) => u64::from_str_radix(text.trim(), 16).map(Some).map_err(|_| {
                std::io::Error::other("the file `active` does not hold a number; it was changed by hand or by a failing disk")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("journal-{generation:016x}"))
    }

    fn blob_path(&self, id: &[u8; 32]) -> PathBuf {
        self.directory.join("blobs").join(hex(id))
    }

    fn journal(&self, offset: u64, length: u32) -> std::io::Result<Reply> {
        let Some(generation) = self.active()? else { return Ok(Reply::Missing) };
        let mut file = File::open(self.path(generation))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(u64::from(length).min(JOURNAL_PIECE as u64)).read_to_end(&mut bytes)?;
        Ok(Reply::Bytes(bytes))
    }

    fn append(&mut self, generation: u64, offset: u64, bytes: &[u8]) -> std::io::Result<Reply> {
        let file = match &self.open {
            Some((number, file)) if *number == generation => file,
            _ => {
                let path = self.path(generation);
                let new = !path.exists();
                let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
                if new {
                    sync_directory(&self.directory)?;
                }
                &self.open.insert((generation, file)).1
            }
        };
        let length = file.metadata()?.len();
        if offset > length {
            return Err(std::io::Error::other(format!("the journal has {length} bytes, and {offset} is beyond its end")));
        }
        if offset < length {
            // What lies beyond was never acknowledged, or is the same piece, which the enclave sends again. It goes first, and durably: a
            // crash must not leave its end behind what is written now.
            file.set_len(offset)?;
            file.sync_data()?;
        }
        file.write_all_at(bytes, offset)?;
        file.sync_data()?;
        Ok(Reply::Done)
    }

    fn activate(&mut self, generation: u64) -> std::io::Result<Reply> {
        // Never point to what is not there.
        File::open(self.path(generation))?.sync_all()?;
        write_whole(&self.directory.join("active"), format!("{generation:016x}\n").as_bytes())?;
        if self.open.as_ref().is_some_and(|(number, _)| *number != generation) {
            self.open = None;
        }
        for entry in fs::read_dir(&self.directory)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("journal-") && entry.path() != self.path(generation) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Reply::Done)
    }

    fn put_blob(&self, id: &[u8; 32], bytes: &[u8]) -> std::io::Result<Reply> {
        write_whole(&self.blob_path(id), bytes)?;
        Ok(Reply::Done)
    }

    fn blob(&self, id: &[u8; 32]) -> std::io::Result<Reply> {
        match File::open(self.blob_path(id)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX_MESSAGE as u64).read_to_end(&mut bytes)?;
                Ok(Reply::Bytes(bytes))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Reply::Missing),
            Err(error) => Err(error),
        }
    }

    fn drop_blob(&self, id: &[u8; 32]) -> std::io::Result<Reply> {
        match fs::remove_file(self.blob_path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(Reply::Done),
        }
    }
}

/// Writes a file beside its place and renames it into it, durably.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(state: &Path) -> Sealed {
        Sealed::open(state).unwrap()
    }

    fn bytes(reply: Option<Reply>) -> Vec<u8> {
        match reply {
            Some(Reply::Bytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn journal(offset: u64) -> Ask {
        Ask::Journal { offset, length: u32::MAX }
    }

    #[test]
    fn a_journal_grows_and_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        let mut sealed = open(state.path());
        assert_eq!(sealed.answer(&journal(0)), Some(Reply::Missing));
        let append = |generation, offset, text: &str| Ask::Append { generation, offset, bytes: text.as_bytes().to_vec() };
        assert_eq!(sealed.answer(&append(7, 0, "head")), Some(Reply::Done));
        assert_eq!(sealed.answer(&journal(0)), Some(Reply::Missing), "it is not active yet");
        assert_eq!(sealed.answer(&Ask::Activate { generation: 7 }), Some(Reply::Done));
        assert_eq!(sealed.answer(&append(7, 4, "tail")), Some(Reply::Done));
        assert_eq!(sealed.answer(&append(7, 4, "tail")), Some(Reply::Done), "twice is once");
        assert!(matches!(sealed.answer(&append(7, 100, "x")), Some(Reply::Failed(_))));
        let mut again = open(state.path());
        assert_eq!(bytes(again.answer(&journal(0))), b"headtail");
        assert_eq!(bytes(again.answer(&journal(6))), b"il");
        assert_eq!(bytes(again.answer(&Ask::Journal { offset: 1, length: 3 })), b"ead");
        assert_eq!(bytes(again.answer(&journal(8))), b"");
        assert!(matches!(again.answer(&Ask::Activate { generation: 9 }), Some(Reply::Failed(_))));
        assert_eq!(again.answer(&append(9, 0, "next")), Some(Reply::Done));
        assert_eq!(again.answer(&Ask::Activate { generation: 9 }), Some(Reply::Done));
        assert_eq!(bytes(again.answer(&journal(0))), b"next");
        assert!(!state.path().join("sealed/journal-0000000000000007").exists());
    }

    #[test]
    fn blobs_are_kept_whole_or_not_at_all() {
        let state = tempfile::tempdir().unwrap();
        let mut sealed = open(state.path());
        let id = [3; 32];
        assert_eq!(sealed.answer(&Ask::Blob { id }), Some(Reply::Missing));
        assert_eq!(sealed.answer(&Ask::PutBlob { id, bytes: vec![1; 100_000] }), Some(Reply::Done));
        assert_eq!(bytes(sealed.answer(&Ask::Blob { id })), vec![1; 100_000]);
        let half = state.path().join("sealed/blobs/abc.new");
        fs::write(&half, b"half").unwrap();
        let mut sealed = open(state.path());
        assert!(!half.exists());
        assert_eq!(sealed.answer(&Ask::DropBlob { id }), Some(Reply::Done));
        assert_eq!(sealed.answer(&Ask::DropBlob { id }), Some(Reply::Done));
        assert_eq!(sealed.answer(&Ask::Blob { id }), Some(Reply::Missing));
        assert_eq!(sealed.answer(&Ask::QuoteTarget), None);
    }
}
