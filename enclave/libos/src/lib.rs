//! The library operating system inside the enclave.
//!
//! A payload is a static Linux program; this crate is the Linux that it sees. Four principles:
//!
//! 1. **A LibOS thread is not a TCS and not a host thread.** All of its state is on a stack inside ELRANGE ([`thread`]). It can stop at any
//!    OCALL and go on in another process; a kill leaves its registers in the SSA, where another process resumes them.
//! 2. **What the host says is an allegation.** [`ocall`] is the only module that reads what the host wrote; it copies once and checks.
//!    Identity (which container, which thread) comes from the TCS and from tables in here, never from an argument.
//! 3. **The hot path leaves the enclave only when it must.** Syscall sites of the payload are rewritten to calls of [`entry`]; time,
//!    memory and most futex calls are answered inside.
//! 4. **Pages stay.** A freed page is zeroed and kept accepted ([`memory`]): growth is rare, and charged to the container that caused it.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod boot;
pub mod clock;
pub mod container;
pub mod cpuid;
pub mod data;
pub mod enclu;
pub mod end;
pub mod entry;
pub mod epoll;
pub mod exception;
pub mod files;
pub mod futex;
pub mod heap;
pub mod interest;
pub mod local;
pub mod lock;
#[cfg(all(not(test), feature = "image"))]
mod mem_functions;
pub mod memory;
pub mod ocall;
pub mod random;
pub mod signal;
pub mod sockets;
pub mod space;
pub mod syscall;
pub mod thread;
pub mod turn;
pub mod user;

/// A syscall's answer: a value, or a Linux errno (positive).
pub type SysResult = Result<u64, i32>;
