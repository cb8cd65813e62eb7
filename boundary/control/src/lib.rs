//! Messages between the node, the function service in the enclave, and the command line.
//!
//! Three parties speak here and none believes another: the service treats what the node sends as hostile bytes, the node treats the
//! service as a payload that may be compromised by a function, and the command line treats the node as the cloud.
//!
//! * [`service`]: node <-> function service, over the payload's file descriptor 3 (a `SOCK_SEQPACKET` socket);
//! * [`packet`]: how messages larger than one packet are cut and joined again;
//! * [`node`]: command line <-> node, JSON lines over a unix socket;
//! * [`task`]: containers that somebody else directs;
//! * [`envelope`]: code that is encrypted until it is in the enclave;
//! * [`function`]: what both protocols say of a function: its specification, limits, outcome and phases.
#![forbid(unsafe_code)]

pub mod envelope;
pub mod function;
pub mod node;
pub mod packet;
pub mod service;
pub mod task;

/// Version of both protocols. The two ends refuse each other when it differs.
pub const PROTOCOL: u32 = 3;
