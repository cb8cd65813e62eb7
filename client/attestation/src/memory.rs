//! Remembers the epoch of each store that was seen, so that an old copy of it is noticed.
//!
//! An enclave can't keep a counter that its host can't set back. But its users can: the store's epoch only rises, so a lower one than a user
//! has seen means that the host presents an old copy. The file holds one line for each store that the user spoke to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use teemate_evidence::api::Info;
use teemate_evidence::encoding::hex;

/// Longest file that is read.
const MAX_LENGTH: u64 = 4 << 20;
const VERSION: u32 = 1;

/// Why the memory can't be used, or what it found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read or written.
    #[error("the memory of known nodes, {}, can't be used: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is damaged. It is not thrown away silently: then anybody could make the user forget.
    #[error("the memory of known nodes, {}, is damaged ({why}); if you know why, remove it", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// The store is older than it was.
    #[error(
        "{node} presents an OLD COPY of its store: epoch {presented}, but epoch {known} was seen before; what was stored in between is gone or hidden. If its operator can explain that, `teemate attest --accept-store` accepts it"
    )]
    RolledBack {
        /// Who.
        node: String,
        /// What was seen.
        known: u64,
        /// What is presented.
        presented: u64,
    },
    /// It has another witness.
    #[error("{node} has ANOTHER WITNESS than before, or none")]
    OtherWitness {
        /// Who.
        node: String,
    },
    /// It is another store.
    #[error(
        "{node} presents ANOTHER STORE than before: what was stored there is gone or hidden. If its operator explains it, `--accept-store` accepts it"
    )]
    OtherStore {
        /// Who.
        node: String,
    },
}

/// What an enclave presents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Name of the store.
    pub store: Option<String>,
    /// Its epoch.
    pub epoch: u64,
    /// Which witness it has. Only databases have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

impl From<&Info> for Seen {
    fn from(info: &Info) -> Self {
        Seen { store: info.store.clone(), epoch: info.epoch, witness: None }
    }
}

/// What an enclave presents whose store may be a copy of another node's: the two are remembered apart, and behind one name there may be several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Of this node's own store.
    pub own: Seen,
    /// Name of the store that it is a copy of.
    pub source: Option<String>,
}

impl From<&Info> for Presented {
    fn from(info: &Info) -> Self {
        Presented { own: Seen::from(info), source: info.source.clone() }
    }
}

impl Presented {
    /// What is behind the name, whichever node answers there: with a copy it is not said how far that has come.
    pub fn behind(self) -> Seen {
        match self.source {
            Some(source) => Seen { store: Some(source), epoch: 0, witness: None },
            None => self.own,
        }
    }
}

/// Whose store: which signer's enclave, at which node, for which owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose<'a> {
    /// Where, as the user names it.
    pub node: &'a str,
    /// MRSIGNER: the seal key, and so the store, is the signer's.
    pub mrsigner: [u8; 32],
    /// Namespace of the owner, if the client knows it.
    pub owner: Option<&'a str>,
}

impl Whose<'_> {
    fn prefix(&self) -> String {
        format!("{} {} ", hex(&self.mrsigner), self.node)
    }

    fn key(&self) -> String {
        self.prefix() + self.owner.unwrap_or("-")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    seen: BTreeMap<String, Seen>,
}

/// The file.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    seen: BTreeMap<String, Seen>,
}

impl Memory {
    /// `$XDG_STATE_HOME/teemate/known-nodes.json`, else below `$HOME/.local/state`. `None`: there is neither.
    pub fn default_path() -> Option<PathBuf> {
        let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || std::env::var_os("HOME").filter(|path| !path.is_empty()).map(|home| Path::new(&home).join(".local/state"));
        Some(state.or_else(home)?.join("teemate/known-nodes.json"))
    }

    /// Reads the file; nothing is known where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let damaged = |why: String| Error::Damaged { path: path.to_owned(), why };
        let mut text = String::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(MAX_LENGTH).read_to_string(&mut text).map_err(io)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Memory { path: path.to_owned(), seen: BTreeMap::new() });
            }
            Err(error) => return Err(io(error)),
        };
        let file: File = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if file.version != VERSION {
            return Err(damaged(format!("version {}, this is {VERSION}", file.version)));
        }
        Ok(Memory { path: path.to_owned(), seen: file.seen })
    }

    /// What was seen last.
    pub fn last(&self, whose: &Whose<'_>) -> Option<&Seen> {
        self.seen.get(&whose.key())
    }

    /// Compares what an enclave answered with what was known when this memory was opened, which must be before it was asked: what other
    /// processes have seen since may be newer than an honest answer. Remembers the newest. With nothing remembered anything is taken.
    ///
    /// # Errors
    /// [`Error::RolledBack`], [`Error::OtherStore`], [`Error::OtherWitness`]: then what was known stays. [`Error::Io`], [`Error::Damaged`].
    pub fn observe(&mut self, whose: &Whose<'_>, seen: Seen) -> Result<(), Error> {
        let before = self.last(whose).cloned();
        self.compare(whose, before.as_ref(), seen)
    }

    fn compare(&mut self, whose: &Whose<'_>, before: Option<&Seen>, seen: Seen) -> Result<(), Error> {
        let _alone = self.refresh()?;
        if let Some(known) = before
            && seen.epoch < known.epoch
            // Not one that was forgotten meanwhile, on purpose.
            && self.last(whose).is_some_and(|now| now.store == known.store)
        {
            return Err(Error::RolledBack { node: whose.node.to_owned(), known: known.epoch, presented: seen.epoch });
        }
        if let Some(now) = self.last(whose) {
            if now.store.is_some() && now.store != seen.store {
                return Err(Error::OtherStore { node: whose.node.to_owned() });
            }
            if now.store == seen.store && now.witness.is_some() && now.witness != seen.witness {
                return Err(Error::OtherWitness { node: whose.node.to_owned() });
            }
            if seen.epoch <= now.epoch && now.store == seen.store && now.witness == seen.witness {
                return Ok(());
            }
        }
        self.seen.insert(whose.key(), seen);
        self.save().map_err(|source| self.failed(source))
    }

    /// The same for what may be a copy: which node answers behind a name is then of no account, only whose copy it is. A copy's own epoch is
    /// that of its node's store.
    ///
    /// # Errors
    /// As [`Memory::observe`].
    pub fn observe_one_of(&mut self, whose: &Whose<'_>, presented: Presented) -> Result<(), Error> {
        let Presented { own, source: Some(source) } = presented else { return self.observe(whose, presented.own) };
        let node = format!("{}#{}", whose.node, own.store.as_deref().unwrap_or_default());
        let copy = Whose { node: &node, ..whose.clone() };
        let before = self.last(&copy).cloned();
        // Which store it is a copy of an enclave says that was verified. How far it has come it need not know.
        let known = self.last(whose).map_or(0, |known| known.epoch);
        self.observe(whose, Seen { store: Some(source), epoch: known, witness: None })?;
        self.compare(&copy, before.as_ref(), own)
    }

    /// Remembers it, whatever was known, and forgets what was known of this signer's store at this node for other owners.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn accept(&mut self, whose: &Whose<'_>, seen: Seen) -> Result<(), Error> {
        let _alone = self.refresh()?;
        let prefix = whose.prefix();
        self.seen.retain(|key, _| !key.starts_with(&prefix));
        self.seen.insert(whose.key(), seen);
        self.save().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }

    /// Reads the file again. As long as the answer lives no other process changes it: two that write at once must not forget what the
    /// other one saw.
    fn refresh(&mut self) -> Result<std::fs::File, Error> {
        let lock = || {
            if let Some(directory) = self.path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let file = std::fs::File::create(self.path.with_extension("lock"))?;
            file.lock()?;
            Ok(file)
        };
        let file = lock().map_err(|source| self.failed(source))?;
        self.seen = Memory::open(&self.path)?.seen;
        Ok(file)
    }

    /// Writes a new file and puts it in the old one's place.
    fn save(&self) -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let text = serde_json::to_vec_pretty(&File { version: VERSION, seen: self.seen.clone() })?;
        let new = self.path.with_extension(format!("new-{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Whose<'static> = Whose { node: "https://node:1", mrsigner: [1; 32], owner: Some("ada") };

    fn seen(store: &str, epoch: u64) -> Seen {
        Seen { store: Some(store.to_owned()), epoch, witness: None }
    }

    #[test]
    fn an_old_copy_and_another_store_are_noticed_also_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/known.json");
        let mut memory = Memory::open(&path).unwrap();
        memory.observe(&ADA, seen("s", 5)).unwrap();
        memory.observe(&ADA, seen("s", 5)).unwrap();
        memory.observe(&ADA, seen("s", 9)).unwrap();
        let mut memory = Memory::open(&path).unwrap();
        assert!(matches!(memory.observe(&ADA, seen("s", 8)), Err(Error::RolledBack { known: 9, presented: 8, .. })));
        assert!(matches!(memory.observe(&ADA, seen("t", 100)), Err(Error::OtherStore { .. })));
        assert!(
            matches!(memory.observe(&ADA, Seen { store: None, epoch: 100, witness: None }), Err(Error::OtherStore { .. })),
            "a store does not lose its name"
        );
        assert_eq!(Memory::open(&path).unwrap().last(&ADA), Some(&seen("s", 9)), "a refusal changes nothing");
        memory.accept(&ADA, seen("t", 1)).unwrap();
        Memory::open(&path).unwrap().observe(&ADA, seen("t", 2)).unwrap();
    }

    #[test]
    fn several_nodes_may_answer_for_one_store() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(&directory.path().join("known.json")).unwrap();
        let of = |own: Seen, source: Option<&str>| Presented { own, source: source.map(str::to_owned) };
        memory.observe_one_of(&ADA, of(seen("copy", 3), Some("s"))).unwrap();
        memory.observe_one_of(&ADA, of(seen("s", 50), None)).unwrap();
        memory.observe_one_of(&ADA, of(seen("copy", 4), Some("s"))).unwrap();
        memory.observe_one_of(&ADA, of(seen("another copy", 1), Some("s"))).unwrap();
        // What another process saw meanwhile makes no answer an old one.
        let mut late = Memory::open(&memory.path).unwrap();
        memory.observe_one_of(&ADA, of(seen("copy", 5), Some("s"))).unwrap();
        late.observe_one_of(&ADA, of(seen("copy", 4), Some("s"))).unwrap();
        // Each goes on from where it was, and none is a copy of anything else.
        let old = |memory: &mut Memory, presented| memory.observe_one_of(&ADA, presented).unwrap_err();
        assert!(matches!(old(&mut memory, of(seen("copy", 3), Some("s"))), Error::RolledBack { .. }));
        assert!(matches!(old(&mut memory, of(seen("s", 49), None)), Error::RolledBack { .. }));
        assert!(matches!(old(&mut memory, of(seen("copy", 9), Some("t"))), Error::OtherStore { .. }));
        assert!(matches!(old(&mut memory, of(seen("t", 90), None)), Error::OtherStore { .. }));
    }

    #[test]
    fn signers_nodes_and_owners_are_apart() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(&directory.path().join("known.json")).unwrap();
        memory.observe(&ADA, seen("s", 5)).unwrap();
        memory.observe(&Whose { owner: Some("bob"), ..ADA }, seen("s", 1)).unwrap();
        memory.observe(&Whose { owner: None, ..ADA }, seen("s", 1)).unwrap();
        memory.observe(&Whose { node: "https://node:2", ..ADA }, seen("u", 1)).unwrap();
        memory.observe(&Whose { mrsigner: [2; 32], ..ADA }, seen("v", 1)).unwrap();
        assert_eq!(memory.seen.len(), 5);
        memory.accept(&ADA, seen("w", 0)).unwrap();
        assert_eq!(memory.last(&ADA), Some(&seen("w", 0)));
        assert_eq!(memory.last(&Whose { owner: Some("bob"), ..ADA }), None, "the other owners' store is the same one");
        assert_eq!(memory.seen.len(), 3);
    }

    #[test]
    fn what_another_process_saw_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known.json");
        let (mut one, mut two) = (Memory::open(&path).unwrap(), Memory::open(&path).unwrap());
        one.observe(&ADA, seen("s", 5)).unwrap();
        // Asked before the other one was, and answered after it: no old copy, and nothing is forgotten.
        two.observe(&ADA, seen("s", 4)).unwrap();
        assert_eq!(Memory::open(&path).unwrap().last(&ADA), Some(&seen("s", 5)));
        assert!(matches!(two.observe(&ADA, seen("s", 4)), Err(Error::RolledBack { .. })), "it knows now");
        assert!(matches!(Memory::open(&path).unwrap().observe(&ADA, seen("s", 4)), Err(Error::RolledBack { .. })));
        assert!(matches!(Memory::open(&path).unwrap().observe(&ADA, seen("t", 9)), Err(Error::OtherStore { .. })));
        let bob = Whose { owner: Some("bob"), ..ADA };
        two.observe(&bob, seen("s", 6)).unwrap();
        one.observe(&ADA, seen("s", 7)).unwrap();
        let last = Memory::open(&path).unwrap();
        assert_eq!((last.last(&ADA), last.last(&bob)), (Some(&seen("s", 7)), Some(&seen("s", 6))));
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known.json");
        for text in ["", "{}", "{\"version\":2,\"seen\":{}}", "{\"version\":1,\"seen\":{\"a\":{}}}", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Memory::open(&path), Err(Error::Damaged { .. })), "{text}");
        }
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known.json");
        Memory::open(&path).unwrap().observe(&ADA, seen("s", 5)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
