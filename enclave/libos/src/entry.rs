//! The ways in and out, in assembly: EENTER, EEXIT, the syscalls of the payload, and the switches between stacks.
//!
//! Registers that carry secrets are cleared at every EEXIT; flags, MXCSR and the x87 control word are set at every EENTER, since the host
//! chooses them (SDM vol. 3D, 38.3; known attacks: flags AC and DF, and FPU poisoning).

use core::arch::naked_asm;

use teemate_abi::transition::{enter, exit, refused};

use crate::{
    container, end, exception,
    local::{Local, state},
    thread,
};

/// XSTATE components that are saved: x87, SSE, AVX, AVX-512. PKRU and AMX are not used inside.
pub const XSTATE_MASK: u32 = 0xE7;
/// MXCSR and x87 control word as the ABI wants them at program start.
static MXCSR: u32 = 0x1F80;
static X87_CONTROL: u16 = 0x037F;

/// Where EENTER goes. RAX = CSSA, RBX = TCS, RCX = AEP, RDI, RSI, RDX = reason and arguments, R8 = where EEXIT shall go. GS = local page.
///
/// # Safety
/// Only the processor calls it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teemate_entry() -> ! {
    naked_asm!(
        "cld",
        "rdgsbase r10",
        "test rax, rax",
        "jnz 2f",
        // CSSA = 0: the upper page of the entry stack.
        "lea rsp, [r10 + 0x3000]",
        "jmp 3f",
        "2:",
        // CSSA = 1: the stack that the interrupted thread keeps for this. CSSA = 2, or no thread: the lower page of the entry stack.
        "lea rsp, [r10 + 0x2000]",
        "cmp rax, 1",
        "jne 3f",
        "mov r11, gs:[0x08]",
        "test r11, r11",
        "jz 3f",
        "mov rsp, [r11]",
        "3:",
        "push 2",
        "popfq",
        "ldmxcsr [rip + {mxcsr}]",
        "fldcw [rip + {x87}]",
        "mov rcx, r8",
        "mov r8, rax",
        "xor ebp, ebp",
        "call {entered}",
        // (reason, argument) in rax, rdx
        "mov rdi, rax",
        "mov rsi, rdx",
        "jmp {leave}",
        mxcsr = sym MXCSR,
        x87 = sym X87_CONTROL,
        entered = sym entered,
        leave = sym leave,
    )
}

/// EEXIT with the reason in RDI and the argument in RSI; everything else is cleared. The vector registers must hold no secret any more:
/// [`switch_ocall`] and the others put them into their initial state before.
///
/// # Safety
/// On a stack of this enclave, with GS as at entry.
#[unsafe(naked)]
pub unsafe extern "C" fn leave(reason: u64, argument: u64) -> ! {
    naked_asm!(
        "mov rbx, gs:[0x18]",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "xor ebp, ebp",
        "mov eax, 4",
        "jmp {gate}",
        gate = sym crate::enclu::teemate_enclu_gate,
    )
}

/// What an entry led to, for the assembly: RAX and RDX.
#[repr(C)]
pub struct Leave {
    reason: u64,
    argument: u64,
}

impl Leave {
    /// Leave with this reason and argument.
    pub fn new(reason: u64, argument: u64) -> Leave {
        Leave { reason, argument }
    }
    fn refuse(why: u64) -> Leave {
        Leave::new(exit::REFUSED, why)
    }
}

/// Decides what an entry may do. Returns only when there is nothing to run.
extern "C" fn entered(reason: u64, a: u64, b: u64, exit_address: u64, cssa: u64) -> Leave {
    let _ = b;
    let local = Local::current();
    local.prepare();
    // The exit address is the host's choice, but it must be the host's own: EEXIT into ELRANGE would run our code outside enclave mode,
    // which faults, but there is no reason to allow it.
    let elrange = teemate_abi::layout::ELRANGE_BASE..teemate_abi::layout::ELRANGE_BASE + crate::local::info().elrange_size;
    if elrange.contains(&exit_address) {
        end::stop();
    }
    local.exit_address = exit_address;
    if cssa > 0 {
        return if reason == enter::EXCEPTION { exception::second_stage(local, a, cssa) } else { Leave::refuse(refused::CSSA) };
    }
    if end::is_dead() {
        return Leave::refuse(refused::DEAD);
    }
    match (reason, local.state) {
        (enter::RETURN, state::OCALL) => {
            local.state = state::RUNNING;
            let Some(thread) = local.thread() else { return Leave::refuse(refused::NO_OCALL) };
            // SAFETY: state OCALL means that `switch_ocall` stored its stack pointer in this page and nothing ran here since.
            unsafe { return_from_ocall(a, local.ocall_rsp, thread.fs_base.get()) }
        }
        (enter::RETURN, _) => Leave::refuse(refused::NO_OCALL),
        (_, state::OCALL) => Leave::refuse(refused::OCALL_PENDING),
        (enter::START, _) => match thread::next_ready() {
            Some(thread) => run(local, thread),
            None => Leave::refuse(refused::NO_THREAD),
        },
        (enter::CONTAINER, _) => match container::bind(a, local.index) {
            Some(thread) => run(local, thread),
            None => Leave::refuse(refused::NO_WORKER),
        },
        (enter::EXCEPTION, _) => Leave::refuse(refused::CSSA),
        _ => Leave::refuse(refused::REASON),
    }
}

/// Lets `thread` run on this TCS.
fn run(local: &mut Local, thread: &'static thread::Thread) -> ! {
    local.thread = (&raw const *thread).cast_mut();
    local.stack_top = thread.stack_top();
    local.state = state::RUNNING;
    // SAFETY: a thread that is ready, or a worker that waits, left its stack as `switch_suspend` or `thread::create` made it, and the
    // queue that we took it from gave it to us alone.
    unsafe { return_from_ocall(0, thread.saved_rsp.get(), thread.fs_base.get()) }
}

/// Registers that the callee keeps, onto the stack.
macro_rules! push_kept {
    () => {
        "push rbp\npush rbx\npush r12\npush r13\npush r14\npush r15"
    };
}
/// The same, back.
macro_rules! pop_kept {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop rbx\npop rbp"
    };
}
/// All of a [`Frame`], the stack pointer last, and back to the payload.
macro_rules! pop_frame {
    () => {
        concat!("pop rax\npop rdi\npop rsi\npop rdx\npop r10\npop r8\npop r9\n", pop_kept!(), "\npop rsp\nret")
    };
}

/// Takes up a stack that [`switch_ocall`] or [`switch_suspend`] left: `rdi` becomes their result.
#[unsafe(naked)]
unsafe extern "C" fn return_from_ocall(value: u64, rsp: u64, fs_base: u64) -> ! {
    naked_asm!("wrfsbase rdx", "mov rsp, rsi", "mov rax, rdi", pop_kept!(), "ret")
}

/// Leaves with an OCALL and returns when it is answered: the `enter::RETURN` argument.
///
/// # Safety
/// On the stack of the thread that runs on this TCS, the mailbox filled.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_ocall() -> u64 {
    naked_asm!(
        push_kept!(),
        "mov gs:[0x20], rsp",
        "mov qword ptr gs:[0x28], 2",
        "mov edi, 1",
        "xor esi, esi",
        "jmp {leave}",
        leave = sym leave,
    )
}

/// Puts the thread that runs here aside and leaves the TCS idle; returns when another entry takes the thread up, on whatever TCS.
/// `publish` is called with `argument` on the entry stack, when nothing uses the thread's stack any more.
///
/// # Safety
/// `saved_rsp` is that of the thread that runs on this TCS.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_suspend(saved_rsp: *mut u64, publish: extern "C" fn(u64), argument: u64) -> u64 {
    naked_asm!(
        push_kept!(),
        "mov [rdi], rsp",
        "jmp {finish}",
        finish = sym leave_idle,
    )
}

/// Goes over to the entry stack, calls `publish(argument)` (RSI, RDX) there, and leaves the TCS idle.
///
/// # Safety
/// Nothing on the present stack is needed any more, or it was put aside.
#[unsafe(naked)]
pub unsafe extern "C" fn leave_idle(unused: u64, publish: extern "C" fn(u64), argument: u64) -> ! {
    naked_asm!(
        "mov rax, gs:[0]",
        "lea rsp, [rax + 0x3000]",
        "xor ebp, ebp",
        "mov qword ptr gs:[0x08], 0",
        "mov rdi, rdx",
        "call rsi",
        "mov qword ptr gs:[0x28], 0",
        "mov edi, 2",
        "xor esi, esi",
        "jmp {leave}",
        leave = sym leave,
    )
}

/// What a syscall finds on the LibOS stack, lowest address first.
#[repr(C)]
pub struct Frame {
    /// Number, then result.
    pub rax: u64,
    /// Arguments in Linux's order: rdi, rsi, rdx, r10, r8, r9.
    pub args: [u64; 6],
    /// Registers that the callee keeps.
    pub r15: u64,
    /// See r15.
    pub r14: u64,
    /// See r15.
    pub r13: u64,
    /// See r15.
    pub r12: u64,
    /// See r15.
    pub rbx: u64,
    /// See r15.
    pub rbp: u64,
    /// The payload's stack pointer; it points to the return address.
    pub rsp: u64,
}

/// Where rewritten syscall sites call: Linux's syscall ABI, but entered by `call`.
/// The payload's vector registers survive, as Linux promises: the LibOS uses SSE, so XMM and MXCSR are kept here; an OCALL keeps the rest.
///
/// # Safety
/// Only the trampolines and [`teemate_trapped`] call it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teemate_syscall() {
    naked_asm!(
        "mov gs:[0x30], rsp",
        "mov rsp, gs:[0x10]",
        "push qword ptr gs:[0x30]",
        push_kept!(),
        "push r9",
        "push r8",
        "push r10",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rax",
        "mov rbp, rsp",
        "sub rsp, 512",
        "and rsp, -64",
        "fxsave64 [rsp]",
        "cld",
        "mov rdi, rbp",
        "call {dispatch}",
        "fxrstor64 [rsp]",
        "mov rsp, rbp",
        pop_frame!(),
        dispatch = sym crate::syscall::dispatch,
    )
}

/// Where the second stage of an exception sends a thread whose `syscall` instruction trapped: RCX is the address after it, as the
/// instruction itself would leave it.
///
/// # Safety
/// Only [`exception`] sends a thread here.
#[unsafe(naked)]
pub unsafe extern "C" fn teemate_trapped() -> ! {
    naked_asm!(
        "lea rsp, [rsp - 128]",
        "push rcx",
        "call {syscall}",
        "pop rcx",
        "lea rsp, [rsp + 128]",
        "jmp rcx",
        syscall = sym teemate_syscall,
    )
}

/// First code of a new thread, on its own LibOS stack: goes to the payload with everything cleared but what [`thread::create`] left there.
///
/// # Safety
/// The stack is as `thread::create` made it.
#[unsafe(naked)]
pub unsafe extern "C" fn first_run() -> ! {
    naked_asm!(
        // The frame of a syscall that "returns" to the new thread.
        pop_frame!(),
    )
}

/// Saves the whole XSTATE into `area` (64-aligned, one page) and puts it into its initial state, so that nothing of it leaves.
///
/// # Safety
/// `area` is a page of this thread.
pub unsafe fn save_xstate(area: *mut u8) {
    // SAFETY: the caller's area is large enough: components beyond XSTATE_MASK are not saved.
    unsafe {
        core::arch::asm!(
            "xsave64 [{area}]",
            area = in(reg) area, in("eax") XSTATE_MASK, in("edx") 0, options(nostack, preserves_flags));
        core::arch::asm!(
            "xrstor64 [{zero}]",
            zero = in(reg) &raw const INITIAL_XSTATE, in("eax") XSTATE_MASK, in("edx") 0, options(nostack, preserves_flags));
    }
}

/// Brings back what [`save_xstate`] saved.
///
/// # Safety
/// `area` holds what `save_xstate` wrote.
pub unsafe fn restore_xstate(area: *const u8) {
    // SAFETY: by the caller's promise.
    unsafe {
        core::arch::asm!(
            "xrstor64 [{area}]",
            area = in(reg) area, in("eax") XSTATE_MASK, in("edx") 0, options(nostack, preserves_flags));
    }
}

/// An XSAVE area whose header says: everything in its initial state. XRSTOR takes MXCSR from the area even so.
#[repr(C, align(64))]
struct XstateArea([u32; 1024]);
static INITIAL_XSTATE: XstateArea = {
    let mut words = [0u32; 1024];
    words[0] = 0x037F;
    words[6] = 0x1F80;
    XstateArea(words)
};
