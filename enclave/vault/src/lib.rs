//! The sealed store: what the enclave keeps beyond its own life, on a disk that belongs to the host.
//!
//! Everything leaves the enclave encrypted and authenticated. The store is a journal of sealed frames, each bound to its place by a number
//! and to the frame before it, and blobs for big values, each named, keyed and digested by the journal. The key comes from EGETKEY by
//! signer and product, so a restart opens the store, and so does an upgrade by the same signer; a lower ISVSVN does not.
//!
//! The host can still throw the store away or put back an older one. Without a second witness no enclave can see that; [`Vault::witness`]
//! makes each client that witness. The format, what the host can observe and what a rollback needs: `docs/storage.md`.
#![forbid(unsafe_code)]

mod blob;
mod cache;
mod commit;
mod compaction;
mod disk;
mod error;
mod fetch;
mod format;
mod index;
mod key;
mod numbers;
mod opening;
mod options;
pub mod owners;
mod padding;
mod queue;
mod random;
mod replay;
mod usage;
mod vault;
mod witness;
mod writer;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use disk::{Disk, MAX_PIECE};
pub use error::VaultError;
pub use key::{Change, Key};
pub use options::{Options, Padding};
pub use owners::{Claimed, Owner, OwnerError, OwnerInfo, OwnerLimits, OwnerState, Owners};
pub use teemate_sealed::{EnclaveSealing, FixedSealing, Sealing};
pub use usage::Usage;
pub use vault::Vault;
pub use witness::Witness;
