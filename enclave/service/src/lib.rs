//! What every payload needs that a node runs: its end of the node's channel ([`teemate_control::service`]), and what it shows to clients.
//!
//! * [`channel`]: packets and messages, in both directions (unsafe);
//! * [`asks`]: questions to the host, and what replies fit them;
//! * [`stream`], [`pinned`]: connections to servers that owners named, whose bytes the host carries;
//! * [`peers`]: which other enclaves are of the same kind;
//! * [`quotes`]: quotes of this enclave, by such questions;
//! * [`certificate`], [`tls`]: what shows them to clients;
//! * [`clock`]: the host's clock, and randomness (unsafe).
#![deny(unsafe_code)]

pub mod asks;
pub mod certificate;
pub mod channel;
pub mod clock;
pub mod peers;
pub mod pinned;
pub mod quotes;
pub mod stream;
pub mod tls;

/// Starts a thread.
///
/// # Errors
/// When the system, or the enclave, has none.
pub fn thread(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(body)
}

/// Locks, also when another thread panicked while it held the lock: what our locks guard is valid after each statement.
pub fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
