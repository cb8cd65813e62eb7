//! The key-value store that Redis clients talk to, with snapshots that start in constant time.
#![forbid(unsafe_code)]

pub mod structures;
