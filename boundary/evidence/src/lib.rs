//! What an enclave says of itself, in the forms that both sides of the wall need.
//!
//! * [`binding`]: what REPORT_DATA of a quote stands for: nonce, TLS key, receipt key;
//! * [`extension`] and [`certificate`]: a quote in a TLS certificate, in the interoperable RA-TLS form;
//! * [`receipt`]: what ran, signed for each call with a key that is bound in a quote;
//! * [`quote`]: the layout of a DCAP quote of version 3;
//! * [`api`]: the JSON of the gateway's own paths under `/teemate/v1/`;
//! * `simulation` (a feature): certificates and quotes of a quoting enclave that proves nothing.
//!
//! Everything here is a pure function of its arguments. What is decoded comes from an enemy: lengths are bounded, unknown things refused,
//! and nothing panics. Whether a quote is *genuine* is not decided here but by `teemate-attestation`.
#![forbid(unsafe_code)]

pub mod api;
pub mod binding;
mod canonical;
mod cbor;
pub mod certificate;
mod der;
pub mod encoding;
pub mod error;
pub mod extension;
pub mod key;
pub mod quote;
pub mod receipt;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod time;

pub use binding::{Binding, Purpose};
pub use error::Error;
pub use key::{PublicKey, RawSignature, SecretKey, Signer};
pub use receipt::Receipt;
