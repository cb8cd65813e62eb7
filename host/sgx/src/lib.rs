//! The enclave device: one trait, two devices.
//!
//! * `kernel`: Linux's in-kernel driver, `/dev/sgx_enclave`. It compiles always and has not run on hardware yet.
//! * [`simulator`]: the processor and the driver, in user space. The same image, the same LibOS, the same host code; it protects nothing.
//!
//! The node builds an enclave with a [`Device`] and keeps the [`Enclave`]; a container's process gets its descriptors (by inheritance or
//! SCM_RIGHTS), maps it with [`Attachment::attach`], and enters it with a [`Thread`].

pub mod attachment;
mod clock;
pub mod device;
pub mod kernel;
pub mod simulator;

pub use attachment::{Attachment, Thread};
pub use device::*;
