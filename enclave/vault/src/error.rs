//! What can go wrong, in sentences for the node's administrator.

use std::io;

/// Why the vault refused. Cloneable, because one failed append is the failure of every commit in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The disk failed before anything was changed.
    #[error("the store's disk failed at {doing}: {reason}")]
    Disk {
        /// What was asked of it.
        doing: &'static str,
        /// Its answer.
        reason: String,
    },
    /// The disk failed at a write: whether the change is kept will show when the store is opened the next time.
    #[error("the store's disk failed at a write: {reason}. Whether the change was kept is unknown; read it, or make it again")]
    Unknown {
        /// The disk's answer.
        reason: String,
    },
    /// What lies on the disk is not what the enclave put there.
    #[error("{what}. Put back the newest undamaged copy of the store; clients that saw a later epoch will notice what it lacks")]
    Damaged {
        /// Which record, or which position, and how it shows.
        what: String,
    },
    /// Sealed by an enclave with a higher security version.
    #[error("the store was sealed at ISVSVN {sealed}, and this enclave has {own}: start an image with ISVSVN {sealed} or higher")]
    Newer {
        /// Security version that sealed it.
        sealed: u16,
        /// Security version of this enclave.
        own: u16,
    },
    /// The sealing key cannot be had.
    #[error("the processor gives no key for the store: {reason}")]
    NoKey {
        /// Its answer.
        reason: String,
    },
    /// The first frame does not open.
    #[error(
        "the store does not open with this enclave's key: it was sealed on another machine, by another signer, for another product or \
         in debug mode, or its beginning was changed"
    )]
    Foreign,
    /// A format of another time.
    #[error("the store has format {found}, and this enclave knows {known} only")]
    Format {
        /// Its number.
        found: u8,
        /// What this enclave writes.
        known: u8,
    },
    /// A name that cannot be kept.
    #[error("{what} is not a name that can be stored: {reason}")]
    Name {
        /// Which part of the key.
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The same key twice in one commit.
    #[error("one commit changes {name} twice")]
    Twice {
        /// Name of the key.
        name: String,
    },
    /// A value or a commit beyond the limit.
    #[error("{bytes} bytes are too many for {what}: at most {limit}")]
    TooLarge {
        /// A value, or a commit.
        what: &'static str,
        /// How many.
        bytes: u64,
        /// Limit.
        limit: u64,
    },
    /// The owner's space is used up.
    #[error("storage of this owner is full: {bytes} of {limit} bytes would be used. Delete something first")]
    OwnerBytes {
        /// What would be used.
        bytes: u64,
        /// Limit.
        limit: u64,
    },
    /// The owner has too many records.
    #[error("this owner would have {records} records, and {limit} is the limit. Delete something first")]
    OwnerRecords {
        /// What there would be.
        records: u64,
        /// Limit.
        limit: u64,
    },
    /// More than the vault may hold in memory is waiting for the disk.
    #[error("the store's disk does not keep up: {bytes} bytes wait to be written. Try again later")]
    Busy {
        /// What waits.
        bytes: usize,
    },
    /// The processor gave no random numbers.
    #[error("no random numbers can be had")]
    Random,
    /// A thread panicked while it wrote.
    #[error("the store is closed after an internal error; restart the service")]
    Closed,
}

impl VaultError {
    /// A disk's error at this request.
    pub(crate) fn disk(doing: &'static str) -> impl Fn(io::Error) -> VaultError {
        move |error| VaultError::Disk { doing, reason: error.to_string() }
    }

    /// Damage.
    pub(crate) fn damaged(what: impl Into<String>) -> VaultError {
        VaultError::Damaged { what: what.into() }
    }
}

impl From<teemate_sealed::seal::Refused> for VaultError {
    fn from(_: teemate_sealed::seal::Refused) -> VaultError {
        // The format's limits lie far below the cipher's.
        VaultError::Closed
    }
}
