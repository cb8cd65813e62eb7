//! What crosses the wall between the enclave and its host: where things are ([`layout`]), how a thread goes in and out ([`transition`]),
//! what the enclave asks of the host ([`ocall`], [`turn`]), and the memory that both can write ([`host_area`]).
//!
//! Both sides link this crate, and nothing else of each other. Everything in the host area is an *allegation* for the enclave: it copies
//! a value once, checks the copy, and works on the copy.
#![no_std]
#![forbid(unsafe_code)]

pub mod host_area;
pub mod layout;
pub mod ocall;
pub mod own_calls;
pub mod transition;
pub mod turn;

/// Version of everything in this crate. Part of the measured [`layout::EnclaveInfo`] and of the host area's header: they must agree.
pub const ABI_VERSION: u32 = 3;
