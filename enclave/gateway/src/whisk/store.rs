//! What the API needs of the sealed store.

use std::io;

use teemate_vault::OwnerLimits;

/// Where something is kept: whose, of what kind, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose: [`Account::id`].
    pub owner: String,
    /// Kind: see [`kind`].
    pub kind: &'static str,
    /// Name within the kind.
    pub name: String,
}

/// An owner, as the store knows him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What he keeps lies under it; no later owner of the same namespace has it.
    pub id: String,
    /// What he may use.
    pub limits: OwnerLimits,
}

/// Kinds of what this API keeps.
pub mod kind {
    /// An action without its code.
    pub const ACTION: &str = "action";
    /// The code of an action.
    pub const CODE: &str = "code";
    /// A package.
    pub const PACKAGE: &str = "package";
    /// A trigger, with the state of its rules.
    pub const TRIGGER: &str = "trigger";
    /// A rule.
    pub const RULE: &str = "rule";
    /// The record of an activation.
    pub const ACTIVATION: &str = "activation";
    /// The receipt of an activation.
    pub const RECEIPT: &str = "receipt";
}

impl Key {
    /// A key.
    pub fn new(owner: &str, kind: &'static str, name: impl Into<String>) -> Self {
        Key { owner: owner.to_owned(), kind, name: name.into() }
    }
}

/// One change of several that are made together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Keep this.
    Put(Key, Vec<u8>),
    /// Forget that.
    Delete(Key),
}

/// The store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the sealed store cannot {what}: {source}")]
pub struct StoreError {
    /// What it was asked for.
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    /// An error of this.
    pub fn new(what: &'static str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        StoreError { what, source: io::Error::other(why) }
    }
}

/// A store whose entries outlive the enclave. Its calls may block.
pub trait Store: Send + Sync + 'static {
    /// What is kept there.
    ///
    /// # Errors
    /// When the store cannot be read, or was changed by the host.
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError>;

    /// Makes all of these changes or none; they are durable when it returns.
    ///
    /// # Errors
    /// When they are not.
    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError>;

    /// Keeps something that will be durable soon, and can be read at once.
    ///
    /// # Errors
    /// When the store has no room for it now.
    fn put_soon(&self, key: Key, value: Vec<u8>) -> Result<(), StoreError>;

    /// Names of all that an owner has of a kind.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn list(&self, owner: &str, kind: &'static str) -> Result<Vec<String>, StoreError>;

    /// The owner of a namespace, if there is one. Does not block.
    fn account(&self, namespace: &str) -> Option<Account>;
}
