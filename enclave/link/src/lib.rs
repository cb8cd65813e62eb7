//! A channel between two enclaves of the same program on one machine, over a host that nobody believes.
//!
//! ```text
//! opener                                                     answerer
//!   |-- Offer: X25519 key, TARGETINFO ---------------------------->|
//!   |<-- Answer: X25519 key, TARGETINFO, REPORT for the opener ----|
//!   |-- Proof: REPORT for the answerer --------------------------->|
//!   |== records in both directions: AES-256-GCM, counted ==========|
//! ```
//!
//! Each REPORT is made by EREPORT for the other's TARGETINFO, so only the other can check its MAC, and binds both keys, both targets and
//! the role of who made it. An enclave takes a REPORT only of what it is itself: same measurement, signer, product, versions and
//! attributes, so a debug enclave speaks to debug enclaves alone. The session's keys come of the X25519 agreement and the transcript.
//!
//! A record's nonce is its number in its direction, and never on the wire. What the host replays, reorders, leaves out or takes from
//! another session does not open, and a session in which one record did not open is over: there is no way back into step, and whoever
//! waits for an answer over it is told that it is lost.
//!
//! * [`handshake`]: from nothing to a session;
//! * [`session`][]: records;
//! * [`platform`]: what the processor does for it.
#![forbid(unsafe_code)]

mod error;
pub mod handshake;
pub mod platform;
pub mod session;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::LinkError;
pub use handshake::{Answerer, Opener};
pub use platform::{EnclavePlatform, Platform};
pub use session::Session;
