//! The user's side of attestation. A user trusts a quote and nothing else: this decides whether a quote deserves it.
//!
//! * [`policy`]: what the user accepts, a TOML file;
//! * [`verify()`]: a quote against a policy, by `dcap-qvl` and the maker's root;
//! * [`tls`]: connections that end in an enclave: the certificate's quote is verified in the handshake, before anything is sent;
//! * [`http`]: requests over such a connection, with a bound on every answer;
//! * [`session`]: TeeMate's own paths: information, fresh quotes, receipts;
//! * [`proxy`]: plain local HTTP for clients that can't verify;
//! * [`memory`]: the last epoch that was seen of a store, so that an old copy is noticed;
//! * [`database`]: the same for databases;
//! * [`describe()`]: what a quote says, in words.
//!
//! Everything that comes from a node, its certificate included, is an enemy's until it is verified.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod collateral;
pub mod database;
pub mod describe;
pub mod document;
pub mod endpoint;
pub mod http;
pub mod memory;
pub mod policy;
pub mod proxy;
pub mod refusal;
pub mod session;
pub mod tls;
pub mod verify;

pub use collateral::Collateral;
pub use describe::{Description, describe};
pub use document::Document;
pub use endpoint::Endpoint;
pub use policy::{Identity, Policy};
pub use refusal::Refusal;
pub use session::Session;
pub use tls::{Connector, Stream};
pub use verify::{Accepted, Verified, verify};

/// Seconds since 1970, by this machine's clock.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
