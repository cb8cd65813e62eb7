//! What a program in the enclave keeps in plain files, on a disk that belongs to the host: sealed files, sealed append-only logs, the keys
//! of both, and what helps against old files that come back. The formats and what each promises: `docs/storage.md`.
#![forbid(unsafe_code)]

mod counter;
mod directory;
mod error;
mod file;
mod log;
pub mod seal;
mod sealing;
#[cfg(feature = "simulated")]
pub mod simulated;

pub use counter::{Counter, FileCounter, MemoryCounter};
pub use directory::{AppendFile, Directory, FileDirectory};
pub use error::Error;
pub use file::{Label, Reader, Writer};
pub use log::{Base, Content, Finished, Found, Known, Log, Syncing};
pub use sealing::{EnclaveSealing, FixedSealing, Sealing};
pub use teemate_witness::{Head, Mark, Remembered, Version};
