//! Secrets that a key broker releases to an enclave: the client's side of the KBS protocol of Confidential Containers, version 0.4.0.
//!
//! An owner puts secrets into a broker of his own, with a policy that says which enclave may have them. The enclave asks for a challenge,
//! answers it by a quote whose REPORT_DATA binds the challenge and a key that it made for this session, and gets each secret encrypted to
//! that key. The host carries the bytes and learns nothing but their sizes.
//!
//! The protocol itself does no input and output: [`Hello`], [`Challenged`] and [`Session`] make requests and read answers, each of which can
//! only be used in its turn. [`release`] drives them over a [`Transport`]; [`Http`] is one, over any stream. A [`Broker`] is where one is
//! and by which authorities it is known, and makes such a stream of a TCP connection.
//!
//! Who answers is authenticated by TLS alone: over plain HTTP the host could play the broker, and give secrets of its own choosing.
#![forbid(unsafe_code)]

mod broker;
mod error;
mod http;
mod jwe;
mod key;
mod message;
mod protocol;
mod release;
mod resource;
#[cfg(feature = "testing")]
pub mod testing;

pub use broker::Broker;
pub use error::KbsError;
pub use http::{Http, MAX_BODY, MAX_HEAD, read_answer};
pub use message::Evidence;
pub use protocol::{Answer, Challenged, Hello, Method, Request, Session, VERSION};
pub use release::{Transport, release};
pub use resource::ResourceId;
