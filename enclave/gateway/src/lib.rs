//! TLS and HTTP that end in the enclave.
//!
//! The node gives the service a listening socket and nothing else of the network: who accepts, decrypts, authenticates and answers is
//! this crate, inside. To the host each connection is a stream of TLS records.
//!
//! From the outside in: [`gateway`] (the thread), [`server`] (who may connect), [`tls`] and [`paced`] (what a connection is made of),
//! [`connection`] and [`activity`] (how long it may last), [`service`] (one request), then [`api`] or what implements [`Routes`].
#![forbid(unsafe_code)]

mod accounts;
pub mod activity;
pub mod api;
pub mod auth;
pub mod body;
pub mod budget;
pub mod connection;
pub mod error;
pub mod gateway;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod nodes;
pub mod paced;
pub mod padding;
pub mod platform;
pub mod receipts;
pub mod router;
pub mod server;
pub mod service;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod whisk;

pub use api::About;
pub use error::GatewayError;
pub use gateway::{Drained, Gateway, Parts, Settings, State};
pub use identity::Identity;
pub use limits::Limits;
pub use metrics::Counts;
pub use platform::{Accounts, Attester, Call, ClaimError, Claimed, Functions, KeyBrokers};
pub use receipts::{MemoryShelf, Receipts, Shelf};
pub use router::{BodyLimit, Owner, Request, Response, Routes};
pub use whisk::Whisk;

/// Locks, also when another thread panicked while it held the lock: what our locks guard is valid after each statement.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
