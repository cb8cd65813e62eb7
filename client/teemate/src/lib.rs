//! The user's side of a node: speak to it, start it, deploy to it, and tell where a call's time went.
//!
//! The library needs no terminal and few crates, so that the demo, the benchmark and the end-to-end tests use the very code that the
//! command line uses. What comes from a node is data of an untrusted host: it is shown, never executed, and its size is bounded.
#![forbid(unsafe_code)]

pub mod action;
pub mod breakdown;
pub mod connection;
pub mod deployment;
#[cfg(feature = "cli")]
pub mod enclave;
pub mod node;
pub mod oci;
#[cfg(feature = "cli")]
pub mod profile;
pub mod program;
#[cfg(feature = "cli")]
pub mod registry;
pub mod socket;

pub use connection::{Connection, Error};
