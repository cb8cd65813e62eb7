//! What end-to-end tests, the demo and the benchmark have in common: where the artifacts are, a node in a directory of its own, an object
//! store, a containerd, a registry, what a host can see, what a process has in memory, and a soak of the database.
#![forbid(unsafe_code)]

pub mod action_image;
pub mod archive;
pub mod artifacts;
pub mod containerd;
pub mod cri;
pub mod docker;
pub mod invoker;
pub mod manifest;
pub mod manifests;
pub mod memory;
pub mod network;
pub mod node_image;
pub mod object_store;
pub mod owner;
pub mod redis;
pub mod redis_suite;
pub mod registry;
pub mod running;
pub mod scratch;
pub mod soak;
pub mod witness;

/// Says why a test did not run. `cargo xtask test` finds the line and counts the test as skipped.
pub fn skip(reason: impl std::fmt::Display) {
    println!("SKIPPED: {reason}");
}

/// Whether the long versions of tests shall run: `TEEMATE_FULL=1`.
pub fn full() -> bool {
    std::env::var_os("TEEMATE_FULL").is_some_and(|value| value == "1")
}
