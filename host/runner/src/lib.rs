//! What runs in a container's process: enters the enclave and serves its calls.
//!
//! The runner is untrusted, and it does not trust the enclave either: a payload that a function took over must gain nothing on the
//! host beyond what its container has. So each OCALL is checked here against what this process was given: descriptors, the park words,
//! the container's own root.
//!
//! * [`board`]: memory shared with the node;
//! * [`role`]: what a process of the zygote shall be;
//! * [`host`]: the host area, by address (unsafe);
//! * [`descriptors`]: what the enclave may name of this process;
//! * [`sockets`]: sockets and epoll, by number (unsafe);
//! * [`turn`]: one turn of input and output for many connections (unsafe);
//! * [`files`]: data files, by number (unsafe);
//! * [`calls`]: serves one OCALL;
//! * [`drive`]: takes a thread in, serves, and brings it out again;
//! * [`broker`]: asks the node for connections and data files;
//! * [`body`]: the roles, as the body of a zygote;
//! * [`service`]: the role that runs the payload's own threads;
//! * [`reaper`]: the role that adopts orphaned threads.

pub mod board;
pub mod body;
pub mod broker;
pub mod calls;
pub mod descriptors;
pub mod drive;
pub mod files;
pub mod host;
pub mod reaper;
pub mod role;
pub mod service;
pub mod sockets;
pub mod turn;
