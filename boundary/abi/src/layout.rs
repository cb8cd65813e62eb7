//! The enclave's address range (ELRANGE). The same addresses in every process: EPCM.ENCLAVEADDRESS binds each page to one of them.
//!
//! ```text
//! ELRANGE_BASE  EnclaveInfo (measured, read-only)
//!               TCS blocks, one for each thread that may be inside at one time
//!               LibOS: text, rodata, data, bss
//!               payload: segments, then the trampolines of its rewritten syscall sites
//! heap_start    dynamic range: pages come by EAUG + EACCEPT as they are needed
//! heap_end      = ELRANGE_BASE + size
//! ```

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Start of ELRANGE: aligned to every size up to 16 TiB, below every address that Linux gives to a PIE program or a library.
pub const ELRANGE_BASE: u64 = 0x1000_0000_0000;
/// Size of ELRANGE unless the image says otherwise: 64 GiB. Address space, not memory.
pub const ELRANGE_SIZE: u64 = 1 << 36;
/// Largest size that an image may ask for: 1 TiB.
pub const ELRANGE_SIZE_MAX: u64 = 1 << 40;

/// SSA frames a TCS has: one for the payload, one for a fault in the LibOS, one more so that neither handler runs into CSSA = NSSA.
pub const NSSA: u32 = 3;
/// Pages of one SSA frame. One page holds GPRSGX, MISC (EXINFO) and an XSAVE area with AVX-512 (SDM vol. 3D, 34.7).
pub const SSA_FRAME_PAGES: u32 = 1;
/// Most TCSs that an image may have.
pub const TCS_MAX: u32 = 1024;

/// One TCS block: `[TCS][SSA x 3][local][entry stack x 2][guard: never added]`.
pub mod tcs_block {
    use super::PAGE_SIZE;
    /// From one block to the next.
    pub const STRIDE: u64 = 8 * PAGE_SIZE;
    /// The TCS page.
    pub const TCS: u64 = 0;
    /// First SSA frame.
    pub const SSA: u64 = PAGE_SIZE;
    /// Page that GS points to while the thread is inside.
    pub const LOCAL: u64 = 4 * PAGE_SIZE;
    /// Entry stack, lowest address; it grows down from [`STACK_TOP`].
    pub const STACK: u64 = 5 * PAGE_SIZE;
    /// End of the entry stack.
    pub const STACK_TOP: u64 = 7 * PAGE_SIZE;
}

/// Symbols that the LibOS's ELF file must define, for the image builder.
pub mod symbol {
    /// Where EENTER goes (TCS.OENTRY).
    pub const ENTRY: &str = "teemate_entry";
    /// Where the trampolines of rewritten syscall sites call: the syscall ABI, but by `call`.
    pub const SYSCALL: &str = "teemate_syscall";
    /// The one ENCLU of the LibOS: `0f 01 d7`, `c3`, then 12 bytes `cc`; 16-aligned. A simulator may divert it.
    pub const ENCLU_GATE: &str = "teemate_enclu_gate";
}

/// Bytes at [`symbol::ENCLU_GATE`]: `enclu; ret`, padded with `int3`.
pub const ENCLU_GATE_BYTES: [u8; 16] = [0x0f, 0x01, 0xd7, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];

/// First eight bytes of [`EnclaveInfo`].
pub const INFO_MAGIC: u64 = u64::from_le_bytes(*b"TEEMATE1");

/// What the LibOS must know of its own enclave: the first page of ELRANGE, measured, read-only.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EnclaveInfo {
    /// [`INFO_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// TCS blocks.
    pub tcs_count: u32,
    /// Size of ELRANGE.
    pub elrange_size: u64,
    /// Address of the first TCS block.
    pub tcs_start: u64,
    /// LibOS, first byte.
    pub libos_start: u64,
    /// LibOS, end.
    pub libos_end: u64,
    /// Payload, first byte (its ELF header: AT_PHDR lies in it).
    pub payload_start: u64,
    /// Payload, end, trampolines included.
    pub payload_end: u64,
    /// Where the payload starts to run.
    pub payload_entry: u64,
    /// Address of its program headers.
    pub payload_phdr: u64,
    /// How many.
    pub payload_phnum: u64,
    /// Dynamic range, first byte.
    pub heap_start: u64,
    /// Dynamic range, end.
    pub heap_end: u64,
    /// Arguments in `strings`, before the environment.
    pub argc: u32,
    /// Environment entries in `strings`.
    pub envc: u32,
    /// Arguments and environment, each with a NUL.
    pub strings: [u8; 2048],
}

/// Address of TCS block `index`, given the address of the first.
pub const fn tcs_address(tcs_start: u64, index: u32) -> u64 {
    tcs_start + index as u64 * tcs_block::STRIDE
}

const _: () = assert!(size_of::<EnclaveInfo>() <= PAGE_SIZE as usize);
