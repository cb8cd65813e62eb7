//! What is remembered: a file for each database, on disk before anything is answered.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use teemate_witness::protocol::{MAX_REASON, Refusal};
use teemate_witness::{Mark, Remembered};

use crate::{Error, failed, replace, sync};

/// Most databases: whoever reaches the port can make one known.
pub const MAX_DATABASES: usize = 1000;
/// The format of the files.
const FORMAT: u32 = 1;
/// Longest file that is read.
const MAX_FILE: u64 = 16 << 10;
/// How the files end: what is remembered, and that the next state is to be taken.
const REMEMBERED: &str = "mark";
const ACCEPT: &str = "accept";

/// A database's name.
pub type Name = [u8; 16];

/// What is remembered of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// SHA-256 of its secret.
    key: [u8; 32],
    /// How far it had come.
    pub kept: Remembered,
}

/// The directory. One process has it at a time.
#[derive(Debug)]
pub struct Memory {
    directory: PathBuf,
    known: Mutex<HashMap<Name, Arc<Mutex<Record>>>>,
    _lock: File,
}

/// A name as it is written.
pub fn show(name: &Name) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that is written so.
///
/// # Errors
/// [`Error::Name`].
pub fn parse(text: &str) -> Result<Name, Error> {
    let number = Some(text).filter(|text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = number.and_then(|text| u128::from_str_radix(text, 16).ok());
    Ok(number.ok_or_else(|| Error::Name(text.chars().take(80).collect()))?.to_be_bytes())
}

/// What a directory has, whether a witness serves it or not.
///
/// # Errors
/// [`Error::File`], [`Error::Damaged`].
pub fn read(directory: &Path) -> Result<Vec<(Name, Record)>, Error> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory, "read"))? {
        let path = entry.map_err(failed(directory, "read"))?.path();
        if path.extension().is_none_or(|extension| extension != REMEMBERED) {
            continue;
        }
        let damaged = |why: String| Error::Damaged { path: path.clone(), why };
        let name = path.file_stem().and_then(|name| parse(name.to_str()?).ok()).ok_or_else(|| damaged("its name is none".to_owned()))?;
        if path.metadata().map_err(failed(&path, "read"))?.len() > MAX_FILE {
            return Err(damaged("it is too long".to_owned()));
        }
        let bytes = fs::read(&path).map_err(failed(&path, "read"))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("format {}, this is {FORMAT}", record.format)));
        }
        all.push((name, record));
    }
    all.sort_by_key(|(name, _)| *name);
    Ok(all)
}

/// Has the next state that is shown of a database taken for the newest, whatever is known: the owner has put back a backup. A witness that
/// serves the directory sees it.
///
/// # Errors
/// [`Error::File`].
pub fn accept(directory: &Path, name: &Name) -> Result<(), Error> {
    replace(directory, &format!("{}.{ACCEPT}", show(name)), b"")
}

impl Memory {
    /// Opens a directory, which is made if it is missing.
    ///
    /// # Errors
    /// [`Error`]: nothing is served from what can't be read.
    pub fn open(directory: &Path) -> Result<Memory, Error> {
        use std::os::unix::fs::DirBuilderExt;
        if !directory.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory, "made"))?;
        }
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(failed(&path, "made"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::InUse(directory.to_owned()),
            fs::TryLockError::Error(source) => Error::File { path, what: "locked", source },
        })?;
        let known = read(directory)?.into_iter().map(|(name, record)| (name, Arc::new(Mutex::new(record)))).collect();
        Ok(Memory { directory: directory.to_owned(), known: Mutex::new(known), _lock: lock })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A database is opened: the epoch that begins, and what was remembered.
    ///
    /// # Errors
    /// Why not: then nothing has changed.
    pub fn begin(&self, name: &Name, secret: &[u8; 32], above: u64, new: bool) -> Result<Remembered, Refusal> {
        let key: [u8; 32] = Sha256::digest(secret).into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = self.take_acceptance(name)?;
        let record = match known.get(name) {
            Some(record) => record.clone(),
            None if !new && !accepted => return Err(Refusal::Unknown),
            None if known.len() >= MAX_DATABASES => return Err(Refusal::Full),
            None => {
                // It is among the known when it is on disk: the lock is held until then.
                let kept = Remembered::default().open(above).ok_or(Refusal::Full)?;
                let record = Record { format: FORMAT, key, kept };
                self.write(name, &record)?;
                known.insert(*name, Arc::new(Mutex::new(record)));
                return Ok(kept);
            }
        };
        drop(known);
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = record.clone();
        if accepted {
            (next.key, next.kept.last) = (key, None);
        }
        if !bool::from(next.key.ct_eq(&key)) {
            return Err(Refusal::Key);
        }
        next.kept = next.kept.open(above).ok_or(Refusal::Full)?;
        self.write(name, &next)?;
        *record = next;
        Ok(record.kept)
    }

    /// A database has come this far.
    ///
    /// # Errors
    /// Why that is not remembered.
    pub fn remember(&self, name: &Name, secret: &[u8; 32], mark: &Mark) -> Result<(), Refusal> {
        let record = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().ok_or(Refusal::Unknown)?;
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        if !bool::from(record.key[..].ct_eq(&Sha256::digest(secret)[..])) {
            return Err(Refusal::Key);
        }
        let kept = record.kept.with(mark).map_err(Refusal::Backwards)?;
        if kept != record.kept {
            let next = Record { kept, ..record.clone() };
            self.write(name, &next)?;
            *record = next;
        }
        Ok(())
    }

    fn write(&self, name: &Name, record: &Record) -> Result<(), Refusal> {
        let bytes = serde_json::to_vec(record).map_err(|error| refusal(&error))?;
        replace(&self.directory, &format!("{}.{REMEMBERED}", show(name)), &bytes).map_err(|error| refusal(&error))
    }

    /// Whether the owner has said that the next state is to be taken. He has said it once.
    fn take_acceptance(&self, name: &Name) -> Result<bool, Refusal> {
        match fs::remove_file(self.directory.join(format!("{}.{ACCEPT}", show(name)))) {
            Ok(()) => sync(&self.directory).map(|()| true).map_err(|error| refusal(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(refusal(&error)),
        }
    }
}

fn refusal(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string().chars().take(MAX_REASON).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use teemate_witness::{Backwards, Head, Version};

    use super::*;

    const NAME: Name = [1; 16];
    const KEY: [u8; 32] = [2; 32];

    fn mark(epoch: u64, frames: u64) -> Mark {
        let log = Some(Head { log: [7; 16], frames, root: [frames as u8; 16] });
        Mark { epoch, settings: Version { epoch: 1, count: 1 }, snapshot: Version::default(), log }
    }

    fn kept(epoch: u64, last: Option<Mark>) -> Remembered {
        Remembered { epoch, last }
    }

    #[test]
    fn the_first_time_is_asked_for_and_the_rest_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path()).unwrap();
        assert_eq!(memory.begin(&NAME, &KEY, 0, false), Err(Refusal::Unknown));
        assert_eq!(memory.remember(&NAME, &KEY, &mark(1, 1)), Err(Refusal::Unknown));
        assert_eq!(memory.begin(&NAME, &KEY, 0, true), Ok(kept(1, None)));
        memory.remember(&NAME, &KEY, &mark(1, 5)).unwrap();
        memory.remember(&NAME, &KEY, &mark(1, 5)).unwrap();
        assert_eq!(memory.remember(&NAME, &KEY, &mark(1, 4)), Err(Refusal::Backwards(Backwards::Log)));
        assert_eq!(memory.begin(&NAME, &[3; 32], 0, true), Err(Refusal::Key));
        // Who opened it before has no say, whatever he says.
        assert_eq!(memory.begin(&NAME, &KEY, 0, false), Ok(kept(2, Some(mark(1, 5)))));
        for epoch in [0, 1, 3, u64::MAX] {
            assert_eq!(memory.remember(&NAME, &KEY, &mark(epoch, 9)), Err(Refusal::Backwards(Backwards::Superseded)), "{epoch}");
        }
        memory.remember(&NAME, &KEY, &mark(2, 6)).unwrap();
        assert_eq!(memory.begin(&NAME, &KEY, 70, false), Ok(kept(71, Some(mark(2, 6)))));
        assert_eq!(memory.begin(&NAME, &KEY, u64::MAX, false), Err(Refusal::Full), "there is no epoch after it");
        assert_eq!(memory.begin(&NAME, &KEY, 0, false).unwrap().epoch, 72);
    }

    #[test]
    fn another_process_finds_all_of_it_and_may_not_have_it_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path()).unwrap();
        memory.begin(&NAME, &KEY, 0, true).unwrap();
        memory.remember(&NAME, &KEY, &mark(1, 5)).unwrap();
        assert!(matches!(Memory::open(directory.path()), Err(Error::InUse(_))));
        drop(memory);
        let memory = Memory::open(directory.path()).unwrap();
        assert_eq!(memory.begin(&NAME, &KEY, 0, false), Ok(kept(2, Some(mark(1, 5)))));
        let file = directory.path().join(format!("{}.mark", show(&NAME)));
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("2,2,2,2,2"), "the secret is not kept");
        drop(memory);
        for damage in ["", "{}", &text[..text.len() - 1], &text.replace("\"format\":1", "\"format\":2"), &"x".repeat(20_000)] {
            fs::write(&file, damage).unwrap();
            assert!(matches!(Memory::open(directory.path()), Err(Error::Damaged { .. })), "{damage:.20}");
        }
    }

    #[test]
    fn what_the_owner_accepts_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path()).unwrap();
        memory.begin(&NAME, &KEY, 0, true).unwrap();
        memory.remember(&NAME, &KEY, &mark(1, 5)).unwrap();
        accept(directory.path(), &NAME).unwrap();
        // A backup has the old secret perhaps, or another.
        let other = [9; 32];
        assert_eq!(memory.begin(&NAME, &other, 0, false), Ok(kept(2, None)));
        assert_eq!(memory.remember(&NAME, &KEY, &mark(2, 3)), Err(Refusal::Key));
        memory.remember(&NAME, &other, &mark(2, 3)).unwrap();
        assert_eq!(memory.begin(&NAME, &KEY, 0, false), Err(Refusal::Key));
        assert_eq!(memory.begin(&NAME, &other, 0, false), Ok(kept(3, Some(mark(2, 3)))));
        // One that was never seen here.
        accept(directory.path(), &[8; 16]).unwrap();
        assert_eq!(memory.begin(&[8; 16], &KEY, 41, false), Ok(kept(42, None)));
        assert_eq!(parse(&show(&NAME)).unwrap(), NAME);
        for bad in ["", "xyz", "+0000000000000000000000000000001", &"0".repeat(33)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_on_disk_was_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path()).unwrap();
        memory.begin(&NAME, &KEY, 0, true).unwrap();
        memory.remember(&NAME, &KEY, &mark(1, 5)).unwrap();
        // A directory where the new file would be.
        let new = directory.path().join(format!("{}.mark.new", show(&NAME)));
        fs::create_dir(&new).unwrap();
        assert!(matches!(memory.remember(&NAME, &KEY, &mark(1, 6)), Err(Refusal::Failed(_))));
        assert!(matches!(memory.begin(&NAME, &KEY, 0, false), Err(Refusal::Failed(_))));
        fs::remove_dir(&new).unwrap();
        assert_eq!(memory.begin(&NAME, &KEY, 0, false), Ok(kept(2, Some(mark(1, 5)))));
    }

    #[test]
    fn strangers_can_not_fill_it_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path()).unwrap();
        let record = Arc::new(Mutex::new(Record { format: FORMAT, key: KEY, kept: kept(1, None) }));
        for number in 0..MAX_DATABASES as u128 {
            memory.known.lock().unwrap().insert((number + 99).to_be_bytes(), record.clone());
        }
        assert_eq!(memory.begin(&NAME, &KEY, 0, true), Err(Refusal::Full));
    }

    #[test]
    fn many_at_once_leave_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path()).unwrap();
        for name in 1..4u8 {
            memory.begin(&[name; 16], &KEY, 0, true).unwrap();
        }
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let memory = &memory;
                scope.spawn(move || {
                    let name = [(thread % 3) as u8 + 1; 16];
                    for frames in 0..40 {
                        // Of two threads one comes too late now and then.
                        let _ = memory.remember(&name, &KEY, &mark(1, frames * 2 + thread % 2));
                    }
                });
            }
        });
        drop(memory);
        let all = read(directory.path()).unwrap();
        assert_eq!(all.len(), 3);
        for (name, record) in all {
            assert!(record.kept.last.unwrap().log.unwrap().frames >= 78, "{name:?} {record:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever is asked, in whatever order, with ends of the process in between: what was answered with yes is remembered, and nothing
        /// goes back.
        #[test]
        fn only_ever_forward(steps in proptest::collection::vec((0..4u8, 0..4u64, 0..6u64), 1..20)) {
            let directory = tempfile::tempdir().unwrap();
            let mut memory = Memory::open(directory.path()).unwrap();
            let Remembered { mut epoch, mut last } = memory.begin(&NAME, &KEY, 0, true).unwrap();
            for (what, other, frames) in steps {
                match what {
                    0 => {
                        let Remembered { epoch: next, last: found } = memory.begin(&NAME, &KEY, 0, false).unwrap();
                        prop_assert!(next > epoch);
                        prop_assert_eq!(found, last);
                        epoch = next;
                    }
                    1 => {
                        drop(memory);
                        memory = Memory::open(directory.path()).unwrap();
                    }
                    _ => {
                        let told = mark(if what == 2 { epoch } else { other }, frames);
                        let right = told.epoch == epoch && last.is_none_or(|last| told.comes_after(&last).is_ok());
                        prop_assert_eq!(memory.remember(&NAME, &KEY, &told).is_ok(), right);
                        if right {
                            last = Some(told);
                        }
                    }
                }
            }
        }
    }
}
