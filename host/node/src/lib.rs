//! The node: enclaves, TCS leases, containers, metrics.
//!
//! Untrusted, as all of `host/`: it may delay, lose or refuse a call, and learns nothing of it that the enclave does not tell. Plain
//! threads and blocking sockets: a call passes through as few of them as possible, and none is woken that need not be.
//!
//! * [`node`]: what a client can ask, and the life of the whole;
//! * [`control`]: the socket that clients ask at;
//! * [`store`], [`history`]: functions, and their last calls;
//! * [`shared`], [`solo`]: the modes;
//! * [`workers`]: further enclaves, when the shared one has no room;
//! * [`takeover`]: the service, when its process is killed;
//! * [`upgrade`]: from one image to another;
//! * [`channel`]: the node's end of a function service;
//! * [`answers`], [`sealed`], [`streams`]: what the service asks of the host;
//! * [`gateway`]: the socket at which the enclave answers its own clients;
//! * [`containers`]: every process that the node started;
//! * [`lease`]: who may enter with which TCS;
//! * [`broker`], [`data`]: connections and data files for containers;
//! * [`tasks`]: containers that somebody else directs;
//! * [`metrics`], [`names`]: what is counted;
//! * [`signals`]: SIGTERM and SIGINT (unsafe).

pub mod ahead;
pub mod answers;
pub mod broker;
pub mod channel;
pub mod config;
pub mod containers;
pub mod control;
pub mod data;
pub mod device;
pub mod error;
pub mod gateway;
pub mod history;
pub mod lease;
mod locks;
pub mod metrics;
pub mod names;
pub mod node;
pub mod sealed;
pub mod shared;
pub mod signals;
pub mod solo;
pub mod store;
pub mod streams;
pub mod takeover;
pub mod tasks;
mod text;
pub mod upgrade;
pub mod workers;

pub use config::Config;
pub use error::{Error, Result};
