//! Owners: who they are, their keys, and what they may use.
//!
//! The administrator invites an owner and gets a token; whoever brings the token first, over attested TLS, becomes that owner and receives a
//! key that was made in the enclave. The administrator never sees the key. If he claims in the owner's place, the owner's own claim fails
//! and says so. Of keys and tokens only hashes are kept: both have more than 128 bits from the processor, so nobody guesses them back.

mod credentials;
mod record;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use subtle::ConstantTimeEq;

use self::record::{Stage, Stored};
use crate::{Change, Key, Vault, VaultError};

pub use self::record::{OwnerInfo, OwnerLimits, OwnerState};

/// Under what the owners themselves are kept: owner and kind of the records. No namespace begins with a dot.
pub const SHELF: (&str, &str) = (".owners", "owner");
/// How many owners there may be.
const MOST: usize = 10_000;
/// Longest time that a claim token may be valid.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a question about owners was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// The store's own error.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A name that a namespace cannot have.
    #[error("{name:?} cannot be a namespace: 1 to 64 letters, digits and _ . @ -, beginning with a letter or a digit")]
    Name {
        /// The name.
        name: String,
    },
    /// There is such an owner.
    #[error("the namespace {namespace:?} has an owner; remove it first, with all that it keeps")]
    Exists {
        /// Namespace.
        namespace: String,
    },
    /// There is no such owner.
    #[error("there is no owner with the namespace {namespace:?}")]
    None {
        /// Namespace.
        namespace: String,
    },
    /// Too many owners.
    #[error("there are {MOST} owners, and that is the limit")]
    TooMany,
    /// No invitation has this token.
    #[error("this claim token is not valid: ask the administrator for a new invitation")]
    Token,
    /// The token was used.
    #[error(
        "this claim token was used already. If you did not use it, somebody else now has the namespace {namespace:?}: use nothing of it, \
         and have the administrator remove it and invite you anew"
    )]
    Used {
        /// Namespace.
        namespace: String,
    },
    /// The token came too late.
    #[error("this claim token has expired: ask the administrator for a new invitation")]
    Expired,
    /// A validity that makes no sense.
    #[error("a claim token is valid for 1 second to 366 days")]
    Validity,
}

/// Somebody who has shown his key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What his functions are called under.
    pub namespace: String,
    /// Public half of his credentials; never changes, and no later owner of the same namespace has it. What he stores lies under it.
    pub uuid: String,
    /// What he may use.
    pub limits: OwnerLimits,
}

/// What a claim gives, once.
#[derive(Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Namespace.
    pub namespace: String,
    /// Public half of the credentials.
    pub uuid: String,
    /// Secret half: 64 characters. Nobody can show it again.
    pub key: String,
}

/// Without the key, so that no log has it.
impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed").field("namespace", &self.namespace).field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// The owners of a vault.
pub struct Owners {
    vault: Arc<Vault>,
    table: RwLock<Table>,
    clock: fn() -> u64,
}

#[derive(Default)]
struct Table {
    owners: BTreeMap<String, Stored>,
    by_uuid: HashMap<String, String>,
}

impl Owners {
    /// Reads the owners of this vault, and finishes removals that were interrupted.
    ///
    /// # Errors
    /// Those of the vault.
    pub fn open(vault: Arc<Vault>) -> Result<Owners, OwnerError> {
        Owners::with_clock(vault, || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// With another clock: seconds since 1970. In an enclave the time is the host's word; it decides only when tokens expire.
    ///
    /// # Errors
    /// Those of the vault.
    pub fn with_clock(vault: Arc<Vault>, clock: fn() -> u64) -> Result<Owners, OwnerError> {
        let table = Table::read(&vault)?;
        let leaving: Vec<String> =
            table.owners.iter().filter(|(_, stored)| matches!(stored.stage, Stage::Leaving { .. })).map(|(name, _)| name.clone()).collect();
        // What a late write left under the number of an owner who is gone.
        for (owner, _) in vault.owners() {
            if credentials::is_uuid(&owner) && !table.by_uuid.contains_key(&owner) {
                vault.delete_owner(&owner)?;
            }
        }
        let owners = Owners { vault, table: RwLock::new(table), clock };
        for namespace in leaving {
            owners.remove(&namespace)?;
        }
        Ok(owners)
    }

    /// Reads all of them again: somebody else has changed them in the store.
    ///
    /// # Errors
    /// Those of the vault; then what was known stays.
    pub fn reload(&self) -> Result<(), OwnerError> {
        let mut table = self.write();
        *table = Table::read(&self.vault)?;
        Ok(())
    }

    /// Invites somebody to become the owner of a namespace: the token is for him, and is valid once, for this long. Inviting again makes
    /// the first token worthless.
    ///
    /// # Errors
    /// When the name cannot be, or has an owner; those of the vault.
    pub fn invite(&self, namespace: &str, limits: OwnerLimits, validity: Duration) -> Result<String, OwnerError> {
        if !is_namespace(namespace) {
            return Err(OwnerError::Name { name: namespace.to_owned() });
        }
        if validity < Duration::from_secs(1) || validity > LONGEST {
            return Err(OwnerError::Validity);
        }
        let mut table = self.write();
        match table.owners.get(namespace) {
            Some(Stored { stage: Stage::Invited { .. }, .. }) => {}
            Some(_) => return Err(OwnerError::Exists { namespace: namespace.to_owned() }),
            None if table.owners.len() >= MOST => return Err(OwnerError::TooMany),
            None => {}
        }
        let token = credentials::token()?;
        let stage = Stage::Invited { token: credentials::hash_token(&token), expires: (self.clock)().saturating_add(validity.as_secs()) };
        self.keep(&mut table, namespace, Stored { stage, limits })?;
        Ok(token)
    }

    /// Makes the bearer of a token the owner that it was made for.
    ///
    /// # Errors
    /// When the token is unknown, used or too old; those of the vault.
    pub fn claim(&self, token: &str) -> Result<Claimed, OwnerError> {
        let hash = credentials::hash_token(token.trim());
        let mut table = self.write();
        let found = table.owners.iter().find(|(_, stored)| stored.token().is_some_and(|token| bool::from(token.ct_eq(&hash))));
        let (namespace, stored) = found.map(|(name, stored)| (name.clone(), stored.clone())).ok_or(OwnerError::Token)?;
        let Stage::Invited { token, expires } = stored.stage else { return Err(OwnerError::Used { namespace }) };
        let now = (self.clock)();
        if now > expires {
            return Err(OwnerError::Expired);
        }
        let (uuid, key) = (credentials::uuid()?, credentials::key()?);
        let stage = Stage::Active { uuid: uuid.clone(), key: credentials::hash_key(&uuid, &key), token, since: now };
        self.keep(&mut table, &namespace, Stored { stage, limits: stored.limits })?;
        Ok(Claimed { namespace, uuid, key })
    }

    /// The owner with these credentials. Takes as long for a wrong key as for an unknown owner.
    pub fn authenticate(&self, uuid: &str, key: &str) -> Option<Owner> {
        let given = credentials::hash_key(uuid, key);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let known = table.by_uuid.get(uuid).and_then(|namespace| table.owners.get_key_value(namespace));
        let nobody = [0; 32];
        let (expected, active) = match known {
            Some((_, Stored { stage: Stage::Active { key, .. }, .. })) => (key, true),
            _ => (&nobody, false),
        };
        let equal = bool::from(expected.ct_eq(&given));
        let (namespace, stored) = known.filter(|_| equal && active)?;
        Some(Owner { namespace: namespace.clone(), uuid: uuid.to_owned(), limits: stored.limits.clone() })
    }

    /// Gives an owner a new key. The old one is worthless from now on.
    ///
    /// # Errors
    /// When there is no such owner; those of the vault.
    pub fn rotate(&self, namespace: &str) -> Result<Claimed, OwnerError> {
        let mut table = self.write();
        let stored = table.owners.get(namespace).cloned();
        let Some(Stored { stage: Stage::Active { uuid, token, since, .. }, limits }) = stored else {
            return Err(OwnerError::None { namespace: namespace.to_owned() });
        };
        let new = credentials::key()?;
        let stage = Stage::Active { uuid: uuid.clone(), key: credentials::hash_key(&uuid, &new), token, since };
        self.keep(&mut table, namespace, Stored { stage, limits })?;
        Ok(Claimed { namespace: namespace.to_owned(), uuid, key: new })
    }

    /// Changes what an owner may use.
    ///
    /// # Errors
    /// When there is no such owner; those of the vault.
    pub fn limit(&self, namespace: &str, limits: OwnerLimits) -> Result<(), OwnerError> {
        let mut table = self.write();
        let Some(stored) = table.owners.get(namespace).cloned() else { return Err(OwnerError::None { namespace: namespace.to_owned() }) };
        self.keep(&mut table, namespace, Stored { limits, ..stored })
    }

    /// Removes an owner, or an invitation, and everything that the owner keeps. His key is worthless at once.
    ///
    /// # Errors
    /// When there is no such owner; those of the vault: the rest is removed when the store is opened the next time.
    pub fn remove(&self, namespace: &str) -> Result<(), OwnerError> {
        let uuid = {
            let mut table = self.write();
            let Some(stored) = table.owners.get(namespace).cloned() else {
                return Err(OwnerError::None { namespace: namespace.to_owned() });
            };
            match stored.stage {
                Stage::Invited { .. } => None,
                Stage::Active { uuid, .. } | Stage::Leaving { uuid } => {
                    let stage = Stage::Leaving { uuid: uuid.clone() };
                    self.keep(&mut table, namespace, Stored { stage, limits: stored.limits })?;
                    Some(uuid)
                }
            }
        };
        if let Some(uuid) = uuid {
            self.vault.delete_owner(&uuid)?;
        }
        let mut table = self.write();
        self.vault.commit(vec![Change::Delete(place(namespace))])?;
        table.forget(namespace);
        Ok(())
    }

    /// One owner.
    pub fn get(&self, namespace: &str) -> Option<OwnerInfo> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.owners.get(namespace).map(|stored| stored.info(namespace))
    }

    /// All owners and invitations, by namespace.
    pub fn list(&self) -> Vec<OwnerInfo> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.owners.iter().map(|(namespace, stored)| stored.info(namespace)).collect()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the vault first: what is not durable does not count.
    fn keep(&self, table: &mut Table, namespace: &str, stored: Stored) -> Result<(), OwnerError> {
        self.vault.put(&place(namespace), &stored.write()?)?;
        table.set(namespace.to_owned(), stored);
        Ok(())
    }
}

impl Table {
    fn read(vault: &Vault) -> Result<Table, OwnerError> {
        let mut table = Table::default();
        for (namespace, _) in vault.list(SHELF.0, SHELF.1) {
            if let Some(bytes) = vault.get(&place(&namespace))? {
                table.set(namespace, Stored::read(&bytes)?);
            }
        }
        Ok(table)
    }

    fn set(&mut self, namespace: String, stored: Stored) {
        self.forget(&namespace);
        if let Some(uuid) = stored.uuid() {
            self.by_uuid.insert(uuid.to_owned(), namespace.clone());
        }
        self.owners.insert(namespace, stored);
    }

    fn forget(&mut self, namespace: &str) {
        if let Some(uuid) = self.owners.remove(namespace).as_ref().and_then(Stored::uuid) {
            self.by_uuid.remove(uuid);
        }
    }
}

fn place(namespace: &str) -> Key {
    Key::new(SHELF.0, SHELF.1, namespace)
}

/// As OpenWhisk's names of entities without spaces, and not `_`, which means one's own.
fn is_namespace(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
    name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed)
}
