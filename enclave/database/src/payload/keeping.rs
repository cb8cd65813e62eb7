//! Settings and users, sealed in the data directory.
//!
//! They hold the database's own random name, which is part of every other file's label. So whoever takes the settings away, to come back as
//! the first to set a password, has files that the new database does not open.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use teemate_sealed::{Label, Reader, Writer};
use teemate_service::clock;

use crate::persistence::disk::Key;
use crate::settings::Keep;

const FILE: &str = "settings";
/// Bytes of a database's name.
const NAME: usize = 16;

/// The file.
pub struct Settings {
    path: PathBuf,
    sealing: Key,
    name: [u8; NAME],
}

fn label() -> Label {
    Label { owner: "teemate".to_owned(), database: String::new(), kind: "settings", name: FILE.to_owned() }
}

impl Settings {
    /// Opens it; gives what was kept, if anything. Without a file this is a new database, with a new name.
    ///
    /// # Errors
    /// A file that can't be read, or that is not what this enclave's signer sealed.
    pub fn open(directory: &Path, sealing: Key) -> io::Result<(Settings, Option<Vec<u8>>)> {
        let path = directory.join(FILE);
        let mut settings = Settings { path, sealing, name: [0; NAME] };
        let file = match File::open(&settings.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                clock::random(&mut settings.name);
                return Ok((settings, None));
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        Reader::new(file, &*settings.sealing, &label()).map_err(io::Error::other)?.read_to_end(&mut bytes)?;
        let (name, rest) = bytes.split_first_chunk::<NAME>().ok_or_else(|| io::Error::other("the settings are too short"))?;
        settings.name = *name;
        let rest = rest.to_vec();
        Ok((settings, Some(rest)))
    }

    /// The database's name, for the labels of its other files.
    pub fn database(&self) -> String {
        self.name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn write(&self, settings: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let file = File::create(&new)?;
        let mut writer = Writer::new(&file, &*self.sealing, &label()).map_err(io::Error::other)?;
        writer.write_all(&self.name)?;
        writer.write_all(settings)?;
        writer.finish().map_err(io::Error::other)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Keep for Settings {
    fn keep(&self, settings: &[u8]) -> Result<(), String> {
        self.write(settings).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use teemate_sealed::FixedSealing;

    #[test]
    fn they_come_back_and_the_host_can_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let sealing: Key = Arc::new(FixedSealing::new([3; 16]));
        let open = || Settings::open(directory.path(), sealing.clone());
        let (first, none) = open().unwrap();
        assert_eq!(none, None);
        first.keep(b"canary one").unwrap();
        first.keep(b"canary two").unwrap();
        let (second, kept) = open().unwrap();
        assert_eq!((kept.as_deref(), second.database()), (Some(&b"canary two"[..]), first.database()));
        let path = directory.path().join(FILE);
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"));
        for at in (0..bytes.len()).step_by(7) {
            let mut lie = bytes.clone();
            lie[at] ^= 4;
            fs::write(&path, lie).unwrap();
            assert!(open().is_err(), "byte {at}");
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(open().is_err());
        let other: Key = Arc::new(FixedSealing::new([4; 16]));
        fs::write(&path, &bytes).unwrap();
        assert!(Settings::open(directory.path(), other).is_err());
        // Without the file it is another database.
        fs::remove_file(&path).unwrap();
        assert_ne!(open().unwrap().0.database(), first.database());
    }
}
