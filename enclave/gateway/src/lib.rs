//! TLS and HTTP that end in the enclave.
//!
//! The node gives the service a listening socket and nothing else of the network: who accepts, decrypts, authenticates and answers is
//! this crate, inside. To the host each connection is a stream of TLS records.
#![forbid(unsafe_code)]

pub mod platform;
pub mod router;

pub use platform::{Attester, Call, Functions};
pub use router::{BodyLimit, Owner, Request, Response, Routes};
