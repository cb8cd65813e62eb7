//! ENCLU, the one instruction by which an enclave talks to the processor.

use core::arch::{asm, global_asm};

use teemate_abi::transition::enclu;

/// Access rights and state of a page, as EACCEPT and EMODPE take them (SDM vol. 3D, 34.11).
#[repr(C, align(64))]
pub struct SecInfo {
    flags: u64,
    reserved: [u64; 7],
}

/// SECINFO.FLAGS.
pub mod flags {
    /// Readable.
    pub const R: u64 = 1;
    /// Writable.
    pub const W: u64 = 2;
    /// Executable.
    pub const X: u64 = 4;
    /// EAUGed and not accepted.
    pub const PENDING: u64 = 8;
    /// EMODTed and not accepted.
    pub const MODIFIED: u64 = 16;
    /// EMODPRed and not accepted.
    pub const RESTRICTED: u64 = 32;
    /// PT_REG in the page type field.
    pub const REGULAR: u64 = 2 << 8;
    /// PT_TRIM in the page type field.
    pub const TRIM: u64 = 4 << 8;
}

/// What EACCEPT returned in RAX when the host had no page left: no error of the processor, but put there by the exception handler.
pub const EPC_FULL: u64 = 0xEFC;

unsafe extern "C" {
    /// The one ENCLU of the LibOS: leaf in RAX, operands in RBX, RCX, RDX. Not a function of the C ABI: only assembly calls it.
    pub fn teemate_enclu_gate();
}

// `teemate_abi::layout::ENCLU_GATE_BYTES`: `enclu; ret`, padded.
#[cfg(not(test))]
global_asm!(
    ".pushsection .text.teemate_enclu_gate, \"ax\", @progbits",
    ".p2align 4",
    ".globl teemate_enclu_gate",
    "teemate_enclu_gate:",
    ".byte 0x0f, 0x01, 0xd7, 0xc3",
    ".fill 12, 1, 0xcc",
    ".popsection",
);

// Tests run outside an enclave, where the instruction must not be reached.
#[cfg(test)]
global_asm!(".globl teemate_enclu_gate", "teemate_enclu_gate: ud2");

/// Carries out a leaf; gives RAX.
///
/// # Safety
/// `b`, `c` and `d` are what the leaf wants.
unsafe fn leaf(number: u64, b: u64, c: u64, d: u64) -> u64 {
    let result;
    // SAFETY: the caller's operands. RBX is the compiler's own, so it is swapped in and out.
    unsafe {
        asm!(
            "xchg rbx, {b}",
            "call {gate}",
            "xchg rbx, {b}",
            b = inout(reg) b => _,
            gate = sym teemate_enclu_gate,
            inout("rax") number => result,
            inout("rcx") c => _,
            inout("rdx") d => _,
            out("rdi") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// EACCEPT: the page at `address` is in the state that `flags` says. The processor's error code, or [`EPC_FULL`].
pub fn eaccept(address: u64, flags: u64) -> Result<(), u64> {
    let info = SecInfo { flags, reserved: [0; 7] };
    // SAFETY: SECINFO is 64-aligned and in the enclave; EACCEPT changes nothing of a page that is not in that state.
    match unsafe { leaf(enclu::EACCEPT, &raw const info as u64, address, 0) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// EMODPE: gives the page at `address` the rights in `flags` besides those that it has.
pub fn emodpe(address: u64, flags: u64) {
    let info = SecInfo { flags, reserved: [0; 7] };
    // SAFETY: as for EACCEPT; rights only grow, on a page that the LibOS owns.
    unsafe { leaf(enclu::EMODPE, &raw const info as u64, address, 0) };
}

/// EREPORT. `target` null: a TARGETINFO of zeros (nobody can check the report's MAC, but its content can be read).
pub fn ereport(target: &[u8; 512], data: &[u8; 64]) -> [u8; 432] {
    #[repr(C, align(512))]
    struct Target([u8; 512]);
    #[repr(C, align(128))]
    struct Data([u8; 64]);
    #[repr(C, align(512))]
    struct Report([u8; 432]);
    let (target, data, mut report) = (Target(*target), Data(*data), Report([0; 432]));
    // SAFETY: the three operands are aligned and sized as EREPORT wants them, and in the enclave.
    unsafe { leaf(enclu::EREPORT, &raw const target as u64, &raw const data as u64, &raw mut report as u64) };
    report.0
}

/// EGETKEY. The processor's error code when it refuses.
pub fn egetkey(request: &[u8; 512]) -> Result<[u8; 16], u64> {
    #[repr(C, align(512))]
    struct Request([u8; 512]);
    #[repr(C, align(16))]
    struct Key([u8; 16]);
    let (request, mut key) = (Request(*request), Key([0; 16]));
    // SAFETY: both operands are aligned and sized as EGETKEY wants them, and in the enclave.
    match unsafe { leaf(enclu::EGETKEY, &raw const request as u64, &raw mut key as u64, 0) } {
        0 => Ok(key.0),
        error => Err(error),
    }
}
