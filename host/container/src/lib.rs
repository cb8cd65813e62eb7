//! Containers: host processes with their own namespaces and control groups, started by a zygote without `execve`.
//!
//! * [`node`]: what the node uses: [`node::Zygote`], [`node::Container`];
//! * [`zygote`]: what the zygote's program calls, and the [`zygote::Body`] that its containers run;
//! * [`cgroup`]: control groups, v1 and v2, with a pool of ready ones;
//! * [`pool`]: ready network namespaces;
//! * [`seccomp`]: the filter of the enclave's runner;
//! * [`command`]: a body that becomes another program, for baselines;
//! * [`doctor`]: what this machine offers and what it lacks.
//!
//! Untrusted code: nothing here protects the enclave, which protects itself. It protects containers from each other and the host from
//! them, as any container runtime does.
#![cfg(target_os = "linux")]

pub mod cgroup;
pub mod command;
pub mod doctor;
pub mod error;
pub mod node;
pub mod pool;
pub mod protocol;
mod ring;
mod rlimit;
mod root;
pub mod seccomp;
mod setup;
mod socket;
mod sys;
pub mod zygote;

pub use error::{Error, Result};
pub use node::{Container, Ending, Fds, Helper, Timing, Zygote, ZygoteConfig};
pub use protocol::{ContainerSpec, Filter, Namespaces, Rlimits, RootTemplate, User};
pub use rlimit::Rlimit;
pub use sys::{Exit, monotonic_ns};
