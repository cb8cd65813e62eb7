//! How a thread goes in and out.
//!
//! EENTER carries a reason in RDI and two arguments in RSI and RDX; EEXIT carries the same back. A container is a host process whose
//! thread enters; which LibOS thread it then runs is decided inside.

/// Why the host enters (RDI at EENTER).
pub mod enter {
    /// Run a LibOS thread that is ready: the first one boots the payload; later ones follow [`crate::ocall::SPAWN`].
    pub const START: u64 = 1;
    /// Run a worker that waits for a container; RSI is the container's id, an opaque number that the enclave made.
    pub const CONTAINER: u64 = 2;
    /// The OCALL of this TCS is done. RSI: [`super::RETURN_DONE`] or [`super::RETURN_LOST`].
    pub const RETURN: u64 = 3;
    /// Second stage of an exception: only at CSSA > 0. RSI: [`super::EXCEPTION_REFLECT`] or [`super::EXCEPTION_EPC_FULL`].
    pub const EXCEPTION: u64 = 4;
}

/// The reply is in the mailbox.
pub const RETURN_DONE: u64 = 0;
/// The process that should have carried out the OCALL is gone; nobody knows how far it came.
pub const RETURN_LOST: u64 = 1;

/// Look at SSA[0] and mend it.
pub const EXCEPTION_REFLECT: u64 = 0;
/// The fault was an EACCEPT for which the host has no EPC page left.
pub const EXCEPTION_EPC_FULL: u64 = 1;

/// Why the enclave leaves (RDI at EEXIT).
pub mod exit {
    /// The mailbox of this TCS holds a call.
    pub const OCALL: u64 = 1;
    /// Nothing runs on this TCS any more: its thread ended, or waits for another container. The TCS can be leased again.
    pub const IDLE: u64 = 2;
    /// The exception is dealt with: ERESUME.
    pub const RESUME: u64 = 3;
    /// The entry made no sense here; RSI is one of [`super::refused`].
    pub const REFUSED: u64 = 4;
    /// The payload called exit_group; RSI is its status.
    pub const PAYLOAD_EXIT: u64 = 5;
    /// The LibOS or the payload hit an error from which nothing can go on; the mailbox's data is the message, RSI its length.
    pub const PANIC: u64 = 6;
}

/// Why an entry was refused (RSI with [`exit::REFUSED`]).
pub mod refused {
    /// Unknown reason in RDI.
    pub const REASON: u64 = 1;
    /// START, but no thread is ready.
    pub const NO_THREAD: u64 = 2;
    /// CONTAINER, but no worker waits.
    pub const NO_WORKER: u64 = 3;
    /// This TCS has an OCALL that is not answered: only RETURN is possible.
    pub const OCALL_PENDING: u64 = 4;
    /// RETURN, but no OCALL is pending. Harmless: an adopter found the TCS already idle.
    pub const NO_OCALL: u64 = 5;
    /// EXCEPTION at CSSA = 0, or another reason at CSSA > 0.
    pub const CSSA: u64 = 6;
    /// The payload has exited or panicked.
    pub const DEAD: u64 = 7;
}

/// ENCLU leaf numbers (SDM vol. 3D, 40.1; RAX).
pub mod enclu {
    /// EREPORT.
    pub const EREPORT: u64 = 0;
    /// EGETKEY.
    pub const EGETKEY: u64 = 1;
    /// EENTER.
    pub const EENTER: u64 = 2;
    /// ERESUME.
    pub const ERESUME: u64 = 3;
    /// EEXIT.
    pub const EEXIT: u64 = 4;
    /// EACCEPT.
    pub const EACCEPT: u64 = 5;
    /// EMODPE.
    pub const EMODPE: u64 = 6;
    /// EACCEPTCOPY.
    pub const EACCEPTCOPY: u64 = 7;
}
