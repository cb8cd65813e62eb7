//! EENTER and ERESUME, and where EEXIT and AEX land: one page of code at the same address in every process.
//!
//! The same address because a thread may go in with one process and come out with another: the LibOS keeps the exit address of the last
//! EENTER (R8), and ERESUME does not change it. ERESUME does refresh the AEP, FS and GS (SDM vol. 3D, ERESUME), so GS is what the page
//! finds its process's own data with. It does not refresh U_RSP, so EENTER is executed with the stack pointer in the slot's stack, which
//! every process has at the same address; nothing is ever kept there.
//!
//! An exception inside the enclave is an AEX; the kernel sees it at the AEP and delivers a signal with RIP = AEP (only the vDSO's own
//! code has a fix-up). [`super::process`] catches it and goes on at [`Labels::exception`]. For every other AEX (interrupts, page faults
//! that the kernel settles) the code at the AEP is what runs next, and resumes at once.

use std::{arch::global_asm, mem::offset_of, sync::OnceLock};

/// Where every process maps the page. Not where the simulator has its own.
pub const BASE: u64 = 0x1F80_0000_0000;
/// Its size.
pub const SIZE: u64 = 0x1000;

/// What `enter` and `resume` return.
pub mod kind {
    /// EEXIT.
    pub const EXIT: u64 = 0;
    /// An exception inside the enclave.
    pub const EXCEPTION: u64 = 1;
    /// [`super::Control::interrupt`] was set.
    pub const INTERRUPTED: u64 = 2;
    /// EENTER or ERESUME itself raised an exception.
    pub const REFUSED: u64 = 3;
}

/// What the page knows of the thread that uses it: GS points here. Private to the process.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    /// The host's stack pointer, registers saved on it.
    pub host_rsp: u64,
    /// RDI at EEXIT.
    pub out0: u64,
    /// RSI at EEXIT.
    pub out1: u64,
    /// Address of the TCS.
    pub tcs: u64,
    /// U_RSP.
    pub stack_top: u64,
    /// Not 0: leave at the next AEX.
    pub interrupt: u64,
    /// Of the last exception: vector.
    pub vector: u64,
    /// Error code.
    pub error: u64,
    /// CR2.
    pub address: u64,
}

global_asm!(
    ".pushsection .rodata.teemate_sgx_entry, \"a\", @progbits",
    ".balign 64",
    ".globl teemate_sgx_start", ".hidden teemate_sgx_start",
    "teemate_sgx_start:",

    // enter(rdi control, rsi reason, rdx a, rcx b) -> kind
    ".globl teemate_sgx_enter", ".hidden teemate_sgx_enter",
    "teemate_sgx_enter:",
    "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdi + {host_rsp}], rsp",
    "mov rbx, [rdi + {tcs}]",
    "mov rsp, [rdi + {stack_top}]",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "lea rcx, [rip + teemate_sgx_aep]",
    "lea r8, [rip + teemate_sgx_landing]",
    "xor ebp, ebp",
    "mov eax, 2",
    ".globl teemate_sgx_eenter", ".hidden teemate_sgx_eenter",
    "teemate_sgx_eenter:",
    ".byte 0x0f, 0x01, 0xd7",

    // EEXIT comes here. The enclave left nothing but RDI and RSI; FS and GS are ours again.
    ".globl teemate_sgx_landing", ".hidden teemate_sgx_landing",
    "teemate_sgx_landing:",
    "mov gs:[{out0}], rdi",
    "mov gs:[{out1}], rsi",
    "xor eax, eax",
    "30:",
    "mov rsp, gs:[{host_rsp}]",
    // The flags, MXCSR and x87 state are the enclave's choice.
    "push 2",
    "popfq",
    "fninit",
    "ldmxcsr [rsp]",
    "fldcw [rsp + 4]",
    "add rsp, 8",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
    "ret",

    // resume(rdi control) -> kind
    ".balign 16",
    ".globl teemate_sgx_resume", ".hidden teemate_sgx_resume",
    "teemate_sgx_resume:",
    "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdi + {host_rsp}], rsp",
    "mov rbx, [rdi + {tcs}]",
    "mov rsp, [rdi + {stack_top}]",
    "lea rcx, [rip + teemate_sgx_aep]",
    "mov eax, 3",
    ".globl teemate_sgx_eresume", ".hidden teemate_sgx_eresume",
    "teemate_sgx_eresume:",
    ".byte 0x0f, 0x01, 0xd7",
    "ud2",

    // AEX: RAX = 3 (ERESUME), RBX = TCS, RCX = AEP, RSP = U_RSP, FS and GS ours.
    ".balign 16",
    ".globl teemate_sgx_aep", ".hidden teemate_sgx_aep",
    "teemate_sgx_aep:",
    "cmp dword ptr gs:[{interrupt}], 0",
    "jne 31f",
    ".globl teemate_sgx_aep_eresume", ".hidden teemate_sgx_aep_eresume",
    "teemate_sgx_aep_eresume:",
    ".byte 0x0f, 0x01, 0xd7",
    "ud2",
    "31:",
    "mov eax, {k_interrupted}",
    "jmp 30b",

    ".globl teemate_sgx_exception", ".hidden teemate_sgx_exception",
    "teemate_sgx_exception:",
    "mov eax, {k_exception}",
    "jmp 30b",

    ".globl teemate_sgx_refused", ".hidden teemate_sgx_refused",
    "teemate_sgx_refused:",
    "mov eax, {k_refused}",
    "jmp 30b",
    ".globl teemate_sgx_end", ".hidden teemate_sgx_end",
    "teemate_sgx_end:",
    ".popsection",
    host_rsp = const offset_of!(Control, host_rsp),
    out0 = const offset_of!(Control, out0),
    out1 = const offset_of!(Control, out1),
    tcs = const offset_of!(Control, tcs),
    stack_top = const offset_of!(Control, stack_top),
    interrupt = const offset_of!(Control, interrupt),
    k_interrupted = const kind::INTERRUPTED,
    k_exception = const kind::EXCEPTION,
    k_refused = const kind::REFUSED,
);

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident),* $(,)?) => {
        unsafe extern "C" {
            #[link_name = "teemate_sgx_start"]
            static START: u8;
            $(static $symbol: u8;)*
        }

        /// Addresses in the page, in every process.
        #[derive(Clone, Copy, Debug)]
        pub struct Labels {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Labels {
            fn read() -> Labels {
                let start = &raw const START as u64;
                Labels { $($name: BASE + (&raw const $symbol as u64 - start),)* }
            }
        }
    };
}

labels! {
    /// `enter(control, reason, a, b)`.
    enter = teemate_sgx_enter,
    /// Its ENCLU.
    eenter = teemate_sgx_eenter,
    /// Where EEXIT lands.
    landing = teemate_sgx_landing,
    /// `resume(control)`.
    resume = teemate_sgx_resume,
    /// Its ENCLU.
    eresume = teemate_sgx_eresume,
    /// The AEP.
    aep = teemate_sgx_aep,
    /// The ENCLU that resumes after an interrupt.
    aep_eresume = teemate_sgx_aep_eresume,
    /// Where a signal handler goes on after an exception inside.
    exception = teemate_sgx_exception,
    /// Where a signal handler goes on after an exception of ENCLU.
    refused = teemate_sgx_refused,
    /// The page's used end.
    end = teemate_sgx_end,
}

/// Where everything in the page is.
pub fn labels() -> &'static Labels {
    static LABELS: OnceLock<Labels> = OnceLock::new();
    LABELS.get_or_init(Labels::read)
}

/// The page.
pub fn page() -> Vec<u8> {
    let length = (labels().end - BASE) as usize;
    // SAFETY: from START to `teemate_sgx_end` is one piece of read-only data, made by the global_asm above.
    let mut page = unsafe { std::slice::from_raw_parts(&raw const START, length) }.to_vec();
    page.resize(SIZE as usize, 0xcc);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_enclu_is_where_its_label_is() {
        let page = page();
        let l = labels();
        for address in [l.eenter, l.eresume, l.aep_eresume] {
            let at = (address - BASE) as usize;
            assert_eq!(page[at..at + 3], [0x0f, 0x01, 0xd7]);
        }
        assert_eq!(page.windows(3).filter(|bytes| *bytes == [0x0f, 0x01, 0xd7]).count(), 3);
        assert_eq!(l.landing, l.eenter + 3, "EENTER falls into the landing, should an enclave go to its next instruction");
        assert!(l.end < BASE + SIZE);
    }
}
