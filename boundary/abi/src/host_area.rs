//! Memory that both sides can write: a memfd that every container process maps MAP_SHARED at the same address.
//!
//! The same address everywhere, because ERESUME restores the untrusted stack pointer that an *earlier* process had (it refreshes the
//! AEP, FS and GS, but not RSP and RBP; SDM vol. 3D, ERESUME).

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Start of the host area: above ELRANGE and below everything that Linux maps by itself.
pub const BASE: u64 = 0x2000_0000_0000;
/// Start of the park words.
pub const PARK_WORDS: u64 = BASE + 0x1_0000;
/// From one park word to the next: a cache line.
pub const PARK_STRIDE: u64 = 64;
/// Park words, one for each LibOS thread that there may be.
pub const PARK_COUNT: u64 = 1024;
/// Start of the slots, one for each TCS.
pub const SLOTS: u64 = BASE + 0x10_0000;
/// From one slot to the next.
pub const SLOT_STRIDE: u64 = 0x4_0000;
/// Within a slot: what the host's own code keeps of this TCS.
pub const SLOT_CONTROL: u64 = 0;
/// Within a slot: untrusted stack, lowest address.
pub const SLOT_STACK: u64 = 0x1000;
/// Within a slot: end of the untrusted stack.
pub const SLOT_STACK_TOP: u64 = 0x1_0000;
/// Within a slot: alternate signal stack, lowest address.
pub const SLOT_SIGNAL_STACK: u64 = 0x1_0000;
/// Within a slot: end of the alternate signal stack.
pub const SLOT_SIGNAL_STACK_TOP: u64 = 0x2_0000;
/// Within a slot: the mailbox.
pub const SLOT_MAILBOX: u64 = 0x2_0000;

/// First eight bytes of [`Header`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"TMHOST01");

/// Size of the host area for so many TCSs.
pub const fn size(tcs_count: u32) -> u64 {
    SLOTS - BASE + tcs_count as u64 * SLOT_STRIDE
}

/// Address of slot `index`.
pub const fn slot(index: u32) -> u64 {
    SLOTS + index as u64 * SLOT_STRIDE
}

/// At [`BASE`]. The node makes it; the enclave reads the clock and `acceptable_pages` from it and nothing else, and writes
/// `accepted_pages`.
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// Slots.
    pub tcs_count: u32,
    /// The clock without an exit: `ns = clock_ns + ((rdtsc - clock_tsc) * clock_mult >> 32)`. Untrusted; the LibOS keeps it monotonic.
    pub clock_tsc: AtomicU64,
    /// CLOCK_MONOTONIC at `clock_tsc`.
    pub clock_ns: AtomicU64,
    /// Nanoseconds a tick, times 2^32. 0: not known, ask by OCALL.
    pub clock_mult: AtomicU64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, nanoseconds.
    pub clock_realtime_offset: AtomicU64,
    /// Bumped and woken when a LibOS thread became ready and wants a host thread (the service process waits here).
    pub spawn: AtomicU32,
    /// Bumped and woken when a slot asks the node for something ([`crate::ocall::EDMM`]).
    pub node: AtomicU32,
    /// Pages that the enclave has accepted since EINIT, for people to look at.
    pub accepted_pages: AtomicU64,
    /// How many the host means to let it accept; 0: it does not say. The enclave refuses its containers more memory before that, so that
    /// its own threads find some. A host that lies gets an enclave that serves less, or ends.
    pub acceptable_pages: AtomicU64,
}

/// Bytes of data that a mailbox carries.
pub const MAILBOX_DATA: usize = 0x2_0000 - 128;

/// One OCALL and its reply, at [`SLOT_MAILBOX`] of the slot.
#[repr(C)]
pub struct Mailbox {
    /// One of [`crate::ocall`].
    pub call: u32,
    /// Number of the call: the enclave counts them for each TCS.
    pub sequence: u32,
    /// Arguments.
    pub args: [u64; 6],
    /// Reply: a value, or minus an errno.
    pub ret: i64,
    /// Pages that the enclave charges to the container that runs here, for people to look at; 0: none runs.
    pub charged_pages: u64,
    /// The host's note of the last `sequence` whose reply is complete: who adopts the TCS of a killed process knows by it whether there
    /// is a reply to give.
    pub answered: u64,
    /// Room for what later versions need.
    pub spare: [u64; 6],
    /// Bytes that the call or the reply carries; how many is said by the arguments or by `ret`.
    pub data: [u8; MAILBOX_DATA],
}

const _: () = assert!(size_of::<Mailbox>() == (SLOT_STRIDE - SLOT_MAILBOX) as usize);
const _: () = assert!(size_of::<Header>() <= 4096);
