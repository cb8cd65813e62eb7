//! What a record is called, and a change of one.

use std::fmt;

use crate::VaultError;

const MAX_OWNER: usize = 256;
const MAX_KIND: usize = 64;
const MAX_NAME: usize = 1024;

/// Name of a record: whose it is, what it is, what it is called there. The host learns none of the three.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose: 1 to 256 bytes.
    pub owner: String,
    /// What: 1 to 64 bytes.
    pub kind: String,
    /// Name within owner and kind: 1 to 1024 bytes.
    pub name: String,
}

impl Key {
    /// The key of these three.
    pub fn new(owner: impl Into<String>, kind: impl Into<String>, name: impl Into<String>) -> Key {
        Key { owner: owner.into(), kind: kind.into(), name: name.into() }
    }

    /// Bytes of the three.
    pub(crate) fn len(&self) -> u64 {
        (self.owner.len() + self.kind.len() + self.name.len()) as u64
    }

    pub(crate) fn check(&self) -> Result<(), VaultError> {
        for (what, text, limit) in
            [("the owner", &self.owner, MAX_OWNER), ("the kind", &self.kind, MAX_KIND), ("the name", &self.name, MAX_NAME)]
        {
            if text.is_empty() {
                return Err(VaultError::Name { what, reason: "it is empty" });
            }
            if text.len() > limit {
                return Err(VaultError::Name { what, reason: "it is too long" });
            }
        }
        Ok(())
    }
}

/// As errors name a record.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of owner {:?}", self.kind, self.name, self.owner)
    }
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record has this value from now on.
    Put(Key, Vec<u8>),
    /// The record is no more. One that was not there is no error.
    Delete(Key),
}

impl Change {
    /// Which record.
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(key, _) | Change::Delete(key) => key,
        }
    }
}
