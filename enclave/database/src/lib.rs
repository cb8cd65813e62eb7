//! The key-value store that Redis clients talk to, with snapshots that start in constant time.
//!
//! | module | what |
//! |---|---|
//! | [`structures`] | containers that are cloned in nearly constant time |
//! | [`value`] | what a key can hold |
//! | [`store`] | the databases, and the one way in which they change |
//! | [`snapshot`] | the queue between the server and a snapshot's writer |
//! | [`resp`] | the protocol |
#![forbid(unsafe_code)]

pub mod glob;
pub mod number;
pub mod resp;
pub mod snapshot;
pub mod store;
pub mod structures;
pub mod value;
