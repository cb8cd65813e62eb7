//! What a database and its witness say to each other: how far the database has come, and nothing of what it holds.
//!
//! A witness is a program that the database's owner runs where the host of the enclave has no say. It remembers one [`Mark`] a database,
//! which only goes forward. An enclave can't remember anything beyond its end; so it asks the witness before it believes what it finds on
//! its
//! disk.
//!
//! * [`mark`]: how far a database has come, and what comes after what;
//! * [`protocol`]: two requests, over TLS that ends in the enclave.
#![forbid(unsafe_code)]

pub mod mark;
pub mod protocol;

pub use mark::{Backwards, Head, Mark, Remembered, Version};
