//! Linux's in-kernel SGX driver (5.11 and later; dynamic memory from 6.0): `/dev/sgx_enclave`.
//!
//! **This has not run on SGX hardware.** It was written against the kernel's header and source (`arch/x86/include/uapi/asm/sgx.h`,
//! `arch/x86/kernel/cpu/sgx/{driver,encl,ioctl}.c`) and the SDM, vol. 3D; structures, numbers, retries and the entry code's way in and
//! out are tested without a processor that has SGX.
//!
//! What the source says, and this relies on:
//! * ioctls need no mapping: CREATE takes base and size from the SECS, ADD_PAGES names pages by offset. So the node maps nothing.
//! * A source page of ADD_PAGES must be in memory that may be executable (no `noexec` mount), and aligned.
//! * ADD_PAGES gives 0 with `count < length` after a signal. The EDMM calls want `result` and `count` zero, and give `count` on error too.
//! * A second ioctl at the same time is -EBUSY, with nothing written back.
//! * mmap: MAP_SHARED, inside ELRANGE, no more rights than SECINFO gave each page there (a TCS: read and write), no READ_IMPLIES_EXEC.
//!   Pages that come later (EAUG) are not limited.
//! * A fault on a page that is not there is EAUG, by whomever: so nothing outside the enclave may touch the dynamic range.
//!
//! * [`ioctl`]: numbers, structures, and the trait that a test implements.
//! * [`enclave`]: the node's side: build, share, EDMM.
//! * [`process`]: a container's side: map, enter, resume.
//! * [`entry`]: the code page with EENTER and ERESUME.
//! * [`mod@probe`]: what this machine has of all this.

pub mod enclave;
pub mod entry;
pub mod ioctl;
pub mod probe;
pub mod process;

pub use enclave::{KernelDevice, KernelEnclave};
pub use probe::{Finding, probe};
pub use process::{Attachment, Thread};
