//! The key-value store that Redis clients talk to, with snapshots that start in constant time.
//!
//! | module | what |
//! |---|---|
//! | [`structures`] | containers that are cloned in nearly constant time |
//! | [`value`] | what a key can hold |
//! | [`store`] | the databases, and the one way in which they change |
//! | [`snapshot`] | the queue between the server and a snapshot's writer |
//! | [`persistence`] | snapshots in files, and the append-only log |
//! | [`replication`] | the stream that replicas follow, and who follows it |
//! | [`runner`] | what runs a snapshot's writer |
//! | [`payload`] | the database as a node's payload, in an enclave |
//! | [`stored`] | values as Redis's snapshot format has them |
//! | [`resp`] | the protocol |
//! | [`network`], [`tls`] | one turn of input and output for all connections |
//! | [`server`] | the loop: input, commands, output, time |
//! | [`dispatch`] | from a request to its command |
//! | [`commands`] | the commands, a table a family |
//! | [`session`], [`shared`] | what is known of one connection, and of all |
//! | [`witness`] | a witness elsewhere, which remembers how far all of it had come |
//! | [`config`], [`acl`], [`settings`] | settings, users, and what of them is kept |
//! | [`eviction`] | what goes when memory is short |
#![forbid(unsafe_code)]

pub mod acl;
pub mod commands;
pub mod config;
pub mod dispatch;
pub mod error;
pub mod eviction;
pub mod glob;
pub mod network;
pub mod number;
pub mod payload;
pub mod persistence;
pub mod replication;
pub mod resp;
pub mod runner;
pub mod server;
pub mod session;
pub mod settings;
pub mod shared;
pub mod snapshot;
pub mod store;
pub mod stored;
pub mod structures;
pub mod tls;
pub mod value;
pub mod witness;
