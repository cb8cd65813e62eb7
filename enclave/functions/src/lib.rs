//! The function service: WebAssembly and JavaScript functions of many owners in one enclave.
//!
//! A payload: an ordinary `std` program that runs in an enclave under the LibOS, and just as well as a process. It speaks
//! [`teemate_control::service`] with the node over file descriptor 3.
//!
//! Three rules hold it together.
//! * *Code is compiled here.* A module is compiled in this process, from what its owner gave, or it is part of the measured program
//!   (the JavaScript engine). What somebody else compiled could break out, so an enclave takes none.
//! * *Nothing outlives a call* but compiled code: a fresh instance each time, in memory that holds either zeros or the engine's image.
//! * *Every call is answered once*, whatever happens to its container: see [`jobs`].
//!
//! From the outside in: [`channel`] (packets), [`service`] (who does what), [`handle`] (the service as the gateway in this process sees
//! it), [`deploy`], [`calls`], [`jobs`] (which call is where), [`links`] (calls that run in another enclave), [`registry`] and [`function`]
//! (what is deployed), [`asks`] (questions to the host), [`call`] (one call), [`wasi`] and [`javascript`] (what the code sees), [`memory`]
//! (where it lives).
#![deny(unsafe_code)]

pub mod call;
pub mod calls;
pub mod cleaner;
pub mod control;
pub mod deploy;
pub mod egress;
pub mod encrypted;
pub mod engine;
pub mod files;
pub mod function;
pub mod gateway;
pub mod guest;
pub mod handle;
pub mod image;
pub mod javascript;
pub mod jobs;
pub mod links;
pub mod memory;
pub mod registry;
pub mod reuse;
pub mod service;
pub mod slices;
pub mod snapshot;
pub mod source;
pub mod spec;
pub mod stacks;
pub mod wasi;

pub use teemate_service::{asks, channel, clock};
use teemate_service::{lock, thread};
