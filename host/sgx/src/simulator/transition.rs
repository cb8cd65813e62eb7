//! EENTER, ERESUME, and the leaves that need no trap: one page of code, at the same address in every process.
//!
//! It has to be at a fixed place because a thread may be killed while it is in it, and the guard, in another process, must tell from RIP
//! alone how far it came ([`locate`]). So each instruction after which the state of the TCS differs has a label right behind it, and
//! nothing in the page depends on where the process has its own code: what it needs of the process is in the TCS's [`Record`].
//!
//! The order of stores is the whole argument:
//! * EENTER takes the TCS by one compare-exchange; a kill from there to the jump to OENTRY gives it back.
//! * ERESUME takes it and lowers CSSA by one compare-exchange, then only reads the SSA frame; a kill before IRETQ undoes both.
//! * EEXIT gives the TCS back by one store; before it a kill re-executes the EEXIT, after it nothing is inside.
//! * other leaves first save every register in the record, then let Rust do the work, then load every register from the record.
//!
//! IRETQ is legal here (this is host code), and is the only instruction that loads RIP, RSP and RFLAGS at once without a signal.

use std::{
    arch::global_asm,
    mem::offset_of,
    sync::{
        OnceLock,
        atomic::Ordering::{Acquire, Relaxed},
    },
};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, tcs_block},
};

use super::{
    shared::{RECORDS, Record, STATE_BASE},
    ssa::{Context, GPRSGX, URSP, reg},
};

/// Where every process maps the page.
pub const BASE: u64 = 0x1F00_0000_0000;
/// Its size.
pub const SIZE: u64 = 0x1000;

/// What `enter` and `resume` return.
pub mod kind {
    #![allow(missing_docs)]
    pub const EXIT: u64 = 0;
    pub const AEX: u64 = 1;
    pub const BUSY: u64 = 2;
    pub const NSSA: u64 = 3;
    pub const CSSA_0: u64 = 4;
    pub const RIP: u64 = 5;
    pub const FAULT: u64 = 6;
}

/// RFLAGS bits that a resumed thread may have: the arithmetic ones, DF, RF, AC, ID.
const RFLAGS_KEPT: u32 = 0x25_0CD5;

global_asm!(
    ".pushsection .rodata.teemate_transition, \"a\", @progbits",
    ".balign 64",
    ".globl teemate_sim_start",
    ".hidden teemate_sim_start",
    "teemate_sim_start:",
    // What differs from enclave to enclave. Filled in by `page`.
    ".globl teemate_sim_c_tcs_start", ".hidden teemate_sim_c_tcs_start",
    "teemate_sim_c_tcs_start: .quad 0",
    "teemate_sim_c_tcs_count: .quad 0",
    "teemate_sim_c_size: .quad 0",
    "teemate_sim_c_records: .quad {records}",

    // enter(rdi record, rsi reason, rdx a, rcx b) -> kind
    ".balign 16",
    ".globl teemate_sim_enter", ".hidden teemate_sim_enter",
    "teemate_sim_enter:",
    "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdi + {host_rsp}], rsp",
    "rdfsbase rax",
    "mov [rdi + {host_fs}], rax",
    "mov r10, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov rax, [r10 + {state}]",
    "test eax, eax",
    "jnz 20f",
    "mov r11, rax",
    "shr r11, 32",
    "cmp r11, [r10 + {nssa}]",
    "jae 21f",
    "lea r12, [rax + 1]",
    "lock cmpxchg [r10 + {state}], r12",
    ".globl teemate_sim_enter_cas", ".hidden teemate_sim_enter_cas",
    "teemate_sim_enter_cas:",
    "jne 20f",
    "inc qword ptr [r10 + {eenter}]",
    "lea r12, [r11 + 1]",
    "imul r12, [r10 + {frame_size}]",
    "add r12, [r10 + {ssa}]",
    "mov rsp, [r10 + {untrusted_top}]",
    "xor ebp, ebp",
    "mov [r12 - {ursp_from_end}], rsp",
    "mov [r12 - {ursp_from_end} + 8], rbp",
    "mov rax, [r10 + {fsbase}]",
    "wrfsbase rax",
    "mov rax, [r10 + {gsbase}]",
    "wrgsbase rax",
    "mov rbx, [r10 + {tcs}]",
    "lea rcx, [rip + teemate_sim_aep]",
    "lea r8, [rip + teemate_sim_landing]",
    "mov r9, [r10 + {oentry}]",
    "mov rax, r11",
    "xor r10d, r10d", "xor r11d, r11d", "xor r12d, r12d", "xor r13d, r13d", "xor r14d, r14d", "xor r15d, r15d",
    "jmp r9",
    ".globl teemate_sim_enter_end", ".hidden teemate_sim_enter_end",
    "teemate_sim_enter_end:",
    "20: mov eax, {k_busy}",
    "jmp 30f",
    "21: mov eax, {k_nssa}",
    "jmp 30f",

    // Where the LibOS's EEXIT goes (R8 at EENTER).
    ".globl teemate_sim_landing", ".hidden teemate_sim_landing",
    "teemate_sim_landing:",
    "mov gs:[{out0}], rdi",
    "mov gs:[{out1}], rsi",
    "xor eax, eax",
    "jmp 29f",
    // Where a fault of the transition code itself goes.
    ".globl teemate_sim_fault", ".hidden teemate_sim_fault",
    "teemate_sim_fault:",
    "mov eax, {k_fault}",
    "jmp 29f",
    // Where an AEX goes: RAX = ERESUME, RBX = TCS, RCX = AEP, GS = record.
    ".globl teemate_sim_aep", ".hidden teemate_sim_aep",
    "teemate_sim_aep:",
    "mov eax, {k_aex}",
    "29: mov rsp, gs:[{host_rsp}]",
    "30: cld",
    "fninit",
    "fldcw [rsp + 4]",
    "ldmxcsr [rsp]",
    "add rsp, 8",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
    "ret",

    // resume(rdi record) -> kind
    ".balign 16",
    ".globl teemate_sim_resume", ".hidden teemate_sim_resume",
    "teemate_sim_resume:",
    "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdi + {host_rsp}], rsp",
    "rdfsbase rax",
    "mov [rdi + {host_fs}], rax",
    "mov r10, rdi",
    "mov rax, [r10 + {state}]",
    "test eax, eax",
    "jnz 20b",
    "mov r11, rax",
    "shr r11, 32",
    "jz 22f",
    "lea r12, [r11 - 1]",
    "shl r12, 32",
    "or r12, 1",
    "lock cmpxchg [r10 + {state}], r12",
    ".globl teemate_sim_resume_cas", ".hidden teemate_sim_resume_cas",
    "teemate_sim_resume_cas:",
    "jne 20b",
    "mov r12, r11",
    "imul r12, [r10 + {frame_size}]",
    "add r12, [r10 + {ssa}]",
    "mov r13, r12",
    "sub r13, [r10 + {frame_size}]",
    "sub r12, {gprsgx}",
    "mov rax, [r12 + 136]",
    "movabs rdx, {elrange}",
    "sub rax, rdx",
    "cmp rax, [rip + teemate_sim_c_size]",
    "jae 23f",
    "mov eax, [r10 + {xfrm}]",
    "mov edx, [r10 + {xfrm} + 4]",
    "xrstor64 [r13]",
    "mov rax, [r12 + 168]",
    "wrfsbase rax",
    "mov rax, [r12 + 176]",
    "wrgsbase rax",
    "mov rsp, [r10 + {untrusted_top}]",
    "mov eax, ss",
    "push rax",
    "push qword ptr [r12 + 32]",
    "mov eax, [r12 + 128]",
    "and eax, {rflags_kept}",
    "or eax, 0x202",
    "push rax",
    "mov eax, cs",
    "push rax",
    "push qword ptr [r12 + 136]",
    "inc qword ptr [r10 + {eresume}]",
    "mov rax, [r12]",
    "mov rcx, [r12 + 8]",
    "mov rdx, [r12 + 16]",
    "mov rbx, [r12 + 24]",
    "mov rbp, [r12 + 40]",
    "mov rsi, [r12 + 48]",
    "mov rdi, [r12 + 56]",
    "mov r8, [r12 + 64]",
    "mov r9, [r12 + 72]",
    "mov r10, [r12 + 80]",
    "mov r11, [r12 + 88]",
    "mov r13, [r12 + 104]",
    "mov r14, [r12 + 112]",
    "mov r15, [r12 + 120]",
    "mov r12, [r12 + 96]",
    "iretq",
    ".globl teemate_sim_resume_end", ".hidden teemate_sim_resume_end",
    "teemate_sim_resume_end:",
    "22: mov eax, {k_cssa0}",
    "jmp 30b",
    // R11 still has the old CSSA. Until the store, the guard would do the same.
    ".globl teemate_sim_resume_bad", ".hidden teemate_sim_resume_bad",
    "teemate_sim_resume_bad:",
    "23: shl r11, 32",
    "mov [r10 + {state}], r11",
    ".globl teemate_sim_resume_bad_end", ".hidden teemate_sim_resume_bad_end",
    "teemate_sim_resume_bad_end:",
    "mov eax, {k_rip}",
    "jmp 30b",

    // Where the diverted gate jumps to. Everything but RIP is the enclave's.
    ".balign 64",
    ".globl teemate_sim_gate", ".hidden teemate_sim_gate",
    "teemate_sim_gate:",
    "cmp eax, 4",
    "jne teemate_sim_leaf",
    // EEXIT. RCX is an output (the AEP), so it is free.
    "rdgsbase rcx",
    "sub rcx, [rip + teemate_sim_c_tcs_start]",
    "shr rcx, {stride_shift}",
    "cmp rcx, [rip + teemate_sim_c_tcs_count]",
    "jae teemate_sim_trap",
    "shl rcx, 9",
    "add rcx, [rip + teemate_sim_c_records]",
    "mov dword ptr [rcx + {state}], 0",
    ".globl teemate_sim_exited", ".hidden teemate_sim_exited",
    "teemate_sim_exited:",
    "inc qword ptr [rcx + {eexit}]",
    "mov rax, [rcx + {host_fs}]",
    "wrfsbase rax",
    "wrgsbase rcx",
    "lea rcx, [rip + teemate_sim_aep]",
    "mov eax, 4",
    "jmp rbx",
    ".globl teemate_sim_leaf", ".hidden teemate_sim_leaf",
    "teemate_sim_leaf:",
    "cmp eax, 5",
    "je teemate_sim_leaf_5",
    "cmp eax, 6",
    "je teemate_sim_leaf_6",
    "cmp eax, 7",
    "je teemate_sim_leaf_7",
    "cmp eax, 1",
    "je teemate_sim_leaf_1",
    "test eax, eax",
    "je teemate_sim_leaf_0",
    // No such leaf, or GS is not what EENTER made it: the general way.
    ".globl teemate_sim_trap", ".hidden teemate_sim_trap",
    "teemate_sim_trap:",
    ".byte 0x0f, 0x01, 0xd7",
    "ret",

    ".macro teemate_sim_leaf_stub number",
    ".globl teemate_sim_leaf_\\number",
    ".hidden teemate_sim_leaf_\\number",
    "teemate_sim_leaf_\\number:",
    "rdgsbase rax",
    "sub rax, [rip + teemate_sim_c_tcs_start]",
    "shr rax, {stride_shift}",
    "cmp rax, [rip + teemate_sim_c_tcs_count]",
    "jae 9f",
    "shl rax, 9",
    "add rax, [rip + teemate_sim_c_records]",
    "mov qword ptr [rax + {leaf}], \\number",
    "jmp teemate_sim_save",
    "9: mov eax, \\number",
    "jmp teemate_sim_trap",
    ".endm",
    "teemate_sim_leaf_stub 0",
    "teemate_sim_leaf_stub 1",
    "teemate_sim_leaf_stub 5",
    "teemate_sim_leaf_stub 6",
    "teemate_sim_leaf_stub 7",

    ".globl teemate_sim_save", ".hidden teemate_sim_save",
    "teemate_sim_save:",
    "mov qword ptr [rax + {leaf_done}], 0",
    "mov [rax + {regs} + 8], rcx",
    "mov [rax + {regs} + 16], rdx",
    "mov [rax + {regs} + 24], rbx",
    "mov [rax + {regs} + 32], rsp",
    "mov [rax + {regs} + 40], rbp",
    "mov [rax + {regs} + 48], rsi",
    "mov [rax + {regs} + 56], rdi",
    "mov [rax + {regs} + 64], r8",
    "mov [rax + {regs} + 72], r9",
    "mov [rax + {regs} + 80], r10",
    "mov [rax + {regs} + 88], r11",
    "mov [rax + {regs} + 96], r12",
    "mov [rax + {regs} + 104], r13",
    "mov [rax + {regs} + 112], r14",
    "mov [rax + {regs} + 120], r15",
    ".globl teemate_sim_saved", ".hidden teemate_sim_saved",
    "teemate_sim_saved:",
    "rdfsbase rcx",
    "mov [rax + {saved_fs}], rcx",
    "rdgsbase rcx",
    "mov [rax + {saved_gs}], rcx",
    "mov rbx, rax",
    "mov rcx, [rbx + {leaf}]",
    "mov [rbx + {regs}], rcx",
    "mov rsi, [rbx + {xarea}]",
    "mov eax, [rbx + {xfrm}]",
    "mov edx, [rbx + {xfrm} + 4]",
    "xsave64 [rsi]",
    ".globl teemate_sim_xsaved", ".hidden teemate_sim_xsaved",
    "teemate_sim_xsaved:",
    "mov rax, [rbx + {host_fs}]",
    "wrfsbase rax",
    "wrgsbase rbx",
    "mov rsp, [rbx + {untrusted_top}]",
    "mov rdi, rbx",
    "cld",
    "call [rbx + {helper}]",
    "test eax, eax",
    "jnz teemate_sim_aep",
    "mov rsi, [rbx + {xarea}]",
    "mov eax, [rbx + {xfrm}]",
    "mov edx, [rbx + {xfrm} + 4]",
    "xrstor64 [rsi]",
    "mov rax, [rbx + {saved_fs}]",
    "wrfsbase rax",
    "mov rax, [rbx + {saved_gs}]",
    "wrgsbase rax",
    "push qword ptr [rbx + {flags}]",
    "popfq",
    "mov rax, rbx",
    "mov rcx, [rax + {regs} + 8]",
    "mov rdx, [rax + {regs} + 16]",
    "mov rbx, [rax + {regs} + 24]",
    "mov rbp, [rax + {regs} + 40]",
    "mov rsi, [rax + {regs} + 48]",
    "mov rdi, [rax + {regs} + 56]",
    "mov r8, [rax + {regs} + 64]",
    "mov r9, [rax + {regs} + 72]",
    "mov r10, [rax + {regs} + 80]",
    "mov r11, [rax + {regs} + 88]",
    "mov r12, [rax + {regs} + 96]",
    "mov r13, [rax + {regs} + 104]",
    "mov r14, [rax + {regs} + 112]",
    "mov r15, [rax + {regs} + 120]",
    "mov rsp, [rax + {regs} + 32]",
    ".globl teemate_sim_restored", ".hidden teemate_sim_restored",
    "teemate_sim_restored:",
    "mov rax, [rax + {regs}]",
    "ret",
    ".globl teemate_sim_end", ".hidden teemate_sim_end",
    "teemate_sim_end:",
    ".purgem teemate_sim_leaf_stub",
    ".popsection",
    records = const STATE_BASE + RECORDS,
    elrange = const ELRANGE_BASE,
    state = const offset_of!(Record, state),
    tcs = const offset_of!(Record, tcs),
    nssa = const offset_of!(Record, nssa),
    ssa = const offset_of!(Record, ssa),
    oentry = const offset_of!(Record, oentry),
    fsbase = const offset_of!(Record, fsbase),
    gsbase = const offset_of!(Record, gsbase),
    frame_size = const offset_of!(Record, frame_size),
    xfrm = const offset_of!(Record, xfrm),
    untrusted_top = const offset_of!(Record, untrusted_top),
    xarea = const offset_of!(Record, xarea),
    host_rsp = const offset_of!(Record, host_rsp),
    host_fs = const offset_of!(Record, host_fs),
    helper = const offset_of!(Record, helper),
    out0 = const offset_of!(Record, out0),
    out1 = const offset_of!(Record, out1),
    leaf = const offset_of!(Record, leaf),
    leaf_done = const offset_of!(Record, leaf_done),
    regs = const offset_of!(Record, regs),
    flags = const offset_of!(Record, flags),
    saved_fs = const offset_of!(Record, saved_fs),
    saved_gs = const offset_of!(Record, saved_gs),
    eenter = const offset_of!(Record, eenter),
    eexit = const offset_of!(Record, eexit),
    eresume = const offset_of!(Record, eresume),
    gprsgx = const GPRSGX,
    ursp_from_end = const GPRSGX - URSP,
    rflags_kept = const RFLAGS_KEPT,
    stride_shift = const tcs_block::STRIDE.trailing_zeros(),
    k_busy = const kind::BUSY,
    k_nssa = const kind::NSSA,
    k_fault = const kind::FAULT,
    k_aex = const kind::AEX,
    k_cssa0 = const kind::CSSA_0,
    k_rip = const kind::RIP,
);

const _: () = assert!(size_of::<Record>() == 1 << 9);
const _: () = assert!(tcs_block::STRIDE.is_power_of_two());

macro_rules! labels {
    ($($name:ident = $symbol:ident),* $(,)?) => {
        unsafe extern "C" {
            #[link_name = "teemate_sim_start"]
            static START: u8;
            $(static $symbol: u8;)*
        }

        /// Addresses of the labels, in every process.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs)]
        pub struct Labels {
            $(pub $name: u64,)*
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
    constants = teemate_sim_c_tcs_start,
    enter = teemate_sim_enter,
    enter_cas = teemate_sim_enter_cas,
    enter_end = teemate_sim_enter_end,
    landing = teemate_sim_landing,
    fault = teemate_sim_fault,
    aep = teemate_sim_aep,
    resume = teemate_sim_resume,
    resume_cas = teemate_sim_resume_cas,
    resume_end = teemate_sim_resume_end,
    resume_bad = teemate_sim_resume_bad,
    resume_bad_end = teemate_sim_resume_bad_end,
    gate = teemate_sim_gate,
    exited = teemate_sim_exited,
    leaf = teemate_sim_leaf,
    trap = teemate_sim_trap,
    leaf_0 = teemate_sim_leaf_0,
    leaf_1 = teemate_sim_leaf_1,
    leaf_5 = teemate_sim_leaf_5,
    leaf_6 = teemate_sim_leaf_6,
    leaf_7 = teemate_sim_leaf_7,
    save = teemate_sim_save,
    saved = teemate_sim_saved,
    xsaved = teemate_sim_xsaved,
    restored = teemate_sim_restored,
    end = teemate_sim_end,
}

/// Where everything in the page is.
pub fn labels() -> &'static Labels {
    static LABELS: OnceLock<Labels> = OnceLock::new();
    LABELS.get_or_init(Labels::read)
}

/// The page for an enclave with these TCS blocks and this size.
pub fn page(tcs_start: u64, tcs_count: u64, elrange_size: u64) -> Vec<u8> {
    let labels = labels();
    let length = (labels.end - BASE) as usize;
    // SAFETY: from START to END is one piece of read-only data, made by the global_asm above.
    let code = unsafe { std::slice::from_raw_parts(&raw const START, length) };
    let mut page = code.to_vec();
    let at = (labels.constants - BASE) as usize;
    for (index, value) in [tcs_start, tcs_count, elrange_size].into_iter().enumerate() {
        page[at + index * 8..at + index * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }
    page.resize(SIZE as usize, 0xcc);
    page
}

/// What is at `gate` once it is diverted: `jmp [rip]`, the address, and the RET that ends a finished leaf.
pub fn diverted_gate() -> [u8; 16] {
    let mut bytes = [0xcc; 16];
    bytes[..6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    bytes[6..14].copy_from_slice(&labels().gate.to_le_bytes());
    bytes[GATE_RETURN as usize] = 0xc3;
    bytes
}

/// From the gate to the RET behind it.
pub const GATE_RETURN: u64 = 14;

/// How far a thread has come, as far as its TCS is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing of the enclave is in its registers.
    Outside,
    /// In EENTER, the TCS taken: give it back.
    Entering,
    /// In ERESUME, the TCS taken: give it back and raise CSSA again.
    Resuming,
    /// Inside, architecturally, with this context.
    Inside {
        /// What an AEX would save.
        context: Context,
        /// The XSAVE area is `Record::xarea`, not the thread's own.
        xstate_in_record: bool,
        /// In the transition code or one of its helpers, not in ELRANGE itself.
        in_transition: bool,
    },
}

/// Where a thread is that has (or may have) this TCS and these registers.
pub fn locate(record: &Record, elrange_size: u64, gate: u64, live: &Context) -> Place {
    let l = labels();
    let rip = live.rip;
    if rip.wrapping_sub(ELRANGE_BASE) < elrange_size {
        return Place::Inside { context: *live, xstate_in_record: false, in_transition: false };
    }
    let at = |context: Context, xstate_in_record| Place::Inside { context, xstate_in_record, in_transition: true };
    let live_at_gate = |rax: u64| {
        let mut context = *live;
        context.gpr[reg::RAX] = rax;
        context.rip = gate;
        at(context, false)
    };
    let zero_flag = live.rflags & 0x40 != 0;
    let leaf = record.leaf.load(Relaxed);
    match rip {
        _ if rip == l.enter_cas && !zero_flag => Place::Outside,
        _ if (l.enter_cas..l.enter_end).contains(&rip) => Place::Entering,
        _ if rip == l.resume_cas && !zero_flag => Place::Outside,
        _ if (l.resume_cas..l.resume_end).contains(&rip) => Place::Resuming,
        _ if (l.resume_bad..l.resume_bad_end).contains(&rip) => Place::Resuming,
        _ if (l.gate..l.exited).contains(&rip) => live_at_gate(live.gpr[reg::RAX]),
        _ if (l.exited..l.leaf).contains(&rip) => Place::Outside,
        _ if rip == l.trap + 3 => {
            let mut context = *live;
            context.rip = gate + GATE_RETURN;
            at(context, false)
        }
        _ if (l.leaf..l.leaf_0).contains(&rip) => live_at_gate(live.gpr[reg::RAX]),
        _ if (l.leaf_0..l.leaf_1).contains(&rip) => live_at_gate(0),
        _ if (l.leaf_1..l.leaf_5).contains(&rip) => live_at_gate(1),
        _ if (l.leaf_5..l.leaf_6).contains(&rip) => live_at_gate(5),
        _ if (l.leaf_6..l.leaf_7).contains(&rip) => live_at_gate(6),
        _ if (l.leaf_7..l.save).contains(&rip) => live_at_gate(7),
        _ if (l.save..l.saved).contains(&rip) => live_at_gate(leaf),
        _ if (l.saved..l.xsaved).contains(&rip) => {
            let mut context = saved(record, live);
            context.gpr[reg::RAX] = leaf;
            context.rip = gate;
            context.fs = live.fs;
            context.gs = live.gs;
            at(context, false)
        }
        _ if (l.xsaved..l.restored).contains(&rip) => at(leaf_context(record, gate, live), true),
        _ if (l.restored..l.end).contains(&rip) => {
            let mut context = *live;
            context.gpr[reg::RAX] = record.regs[reg::RAX].load(Relaxed);
            context.rip = gate + GATE_RETURN;
            at(context, false)
        }
        _ if (BASE..BASE + SIZE).contains(&rip) => Place::Outside,
        // A helper of the gate, in the process's own code: the only thing that runs on a slot's untrusted stack.
        _ if on_untrusted_stack(record, live.gpr[reg::RSP]) => at(leaf_context(record, gate, live), true),
        _ => Place::Outside,
    }
}

/// The context of a thread whose leaf is in Rust's hands: behind the leaf if it is complete, before it otherwise.
pub fn leaf_context(record: &Record, gate: u64, live: &Context) -> Context {
    let mut context = saved(record, live);
    if record.leaf_done.load(Acquire) != 0 {
        context.rflags = record.flags.load(Relaxed);
        context.rip = gate + GATE_RETURN;
    } else {
        context.gpr[reg::RAX] = record.leaf.load(Relaxed);
        context.rip = gate;
    }
    context
}

fn saved(record: &Record, live: &Context) -> Context {
    let mut context =
        Context { rflags: live.rflags, fs: record.saved_fs.load(Relaxed), gs: record.saved_gs.load(Relaxed), ..Context::default() };
    for (to, from) in context.gpr.iter_mut().zip(&record.regs) {
        *to = from.load(Relaxed);
    }
    context
}

fn on_untrusted_stack(record: &Record, rsp: u64) -> bool {
    let top = record.untrusted_top.load(Relaxed);
    let slot = top & !(host_area::SLOT_STRIDE - 1);
    (slot + host_area::SLOT_STACK..=top).contains(&rsp)
}

/// The end of a slot's untrusted stack as EENTER gives it: below the signal stack, with some room.
pub fn untrusted_top(index: u32) -> u64 {
    host_area::slot(index) + host_area::SLOT_STACK_TOP - 256
}
