//! The key-value store that Redis clients talk to, with snapshots that start in constant time.
//!
//! | module | what |
//! |---|---|
//! | [`structures`] | containers that are cloned in nearly constant time |
//! | [`value`] | what a key can hold |
//! | [`store`] | the databases, and the one way in which they change |
//! | [`snapshot`], [`saving`] | what a snapshot is given, and how it is written |
//! | [`resp`] | the protocol |
//! | [`commands`], [`executor`] | what clients can ask for, and when |
//! | [`serve`] | connections |
#![forbid(unsafe_code)]

pub mod commands;
pub mod error;
pub mod executor;
pub mod glob;
pub mod number;
pub mod resp;
pub mod saving;
pub mod serve;
pub mod session;
pub mod shared;
pub mod snapshot;
pub mod store;
pub mod structures;
pub mod value;
