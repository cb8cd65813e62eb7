//! Settings and users, sealed in the data directory, with the database's own name and secret.
//!
//! They hold the database's own random name, which is part of every other file's label. So whoever takes the settings away, to come back as
//! the first to set a password, has files that the new database does not open.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use teemate_sealed::{Label, Reader, Version, Writer};
use teemate_service::clock;

use crate::persistence::disk::Key;
use crate::settings::Keep;

const FILE: &str = "settings";
/// Bytes of a database's name.
const NAME: usize = 16;
/// Bytes of what it is known by to its witness.
const SECRET: usize = 32;
/// Bytes before the settings themselves: name, secret, version.
const HEAD: usize = NAME + SECRET + 16;

/// The file.
pub struct Settings {
    path: PathBuf,
    sealing: Key,
    name: [u8; NAME],
    secret: [u8; SECRET],
    version: Version,
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
        let mut settings = Settings { path, sealing, name: [0; NAME], secret: [0; SECRET], version: Version::default() };
        let file = match File::open(&settings.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                clock::random(&mut settings.name);
                clock::random(&mut settings.secret);
                return Ok((settings, None));
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        Reader::new(file, &*settings.sealing, &label()).map_err(io::Error::other)?.read_to_end(&mut bytes)?;
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(|| io::Error::other("the settings are too short"))?;
        let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        settings.name.copy_from_slice(&head[..NAME]);
        settings.secret.copy_from_slice(&head[NAME..NAME + SECRET]);
        settings.version = Version { epoch: number(NAME + SECRET), count: number(NAME + SECRET + 8) };
        let rest = rest.to_vec();
        Ok((settings, Some(rest)))
    }

    /// Name and secret, by which a witness knows the database.
    pub fn identity(&self) -> ([u8; NAME], [u8; SECRET]) {
        (self.name, self.secret)
    }

    /// The database's name, for the labels of its other files.
    pub fn database(&self) -> String {
        self.name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn write(&self, settings: &[u8], version: Version) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let file = File::create(&new)?;
        let mut writer = Writer::new(&file, &*self.sealing, &label()).map_err(io::Error::other)?;
        writer.write_all(&self.name)?;
        writer.write_all(&self.secret)?;
        writer.write_all(&version.epoch.to_le_bytes())?;
        writer.write_all(&version.count.to_le_bytes())?;
        writer.write_all(settings)?;
        writer.finish().map_err(io::Error::other)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Keep for Settings {
    fn version(&self) -> Version {
        self.version
    }

    fn keep(&self, settings: &[u8], version: Version) -> Result<(), String> {
        self.write(settings, version).map_err(|error| error.to_string())
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
        let version = Version { epoch: 300, count: 2 };
        first.keep(b"canary one", Version { count: 1, ..version }).unwrap();
        first.keep(b"canary two", version).unwrap();
        let (second, kept) = open().unwrap();
        assert_eq!((second.version(), second.identity()), (version, first.identity()));
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
        let other = open().unwrap().0;
        assert_ne!((other.identity().0, other.identity().1), first.identity());
    }
}
