//! Where things are.

use std::path::PathBuf;

pub use teemate_tests::artifacts::root;

/// The only target: enclaves are x86-64 code, and a static-pie program of glibc is what the image builder takes.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What `build` makes.
pub fn artifacts() -> PathBuf {
    root().join("artifacts")
}

/// Where cargo compiles what has flags of its own, so that they never invalidate what is compiled without.
pub fn target(purpose: &str) -> PathBuf {
    target_base().join(format!("xtask-{purpose}"))
}

/// Where cargo compiles everything else.
pub fn target_base() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
