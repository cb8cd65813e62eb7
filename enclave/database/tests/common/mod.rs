//! What several tests need.
#![allow(dead_code, clippy::unwrap_used, reason = "not each test needs all of it; a test fails by it")]

pub mod machine;
pub mod process;
pub mod transfer;
