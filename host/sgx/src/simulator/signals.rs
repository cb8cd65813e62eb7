//! Signals as the processor's exceptions: one naked handler, and what each signal means for code in ELRANGE.
//!
//! Handlers run on the slot's signal stack, which lies in shared memory, so that a kill in the middle of one loses nothing: the frame
//! that the kernel wrote is at a place that depends only on the top of that stack ([`frame_address`]).

use std::{
    arch::{asm, naked_asm},
    ffi::c_void,
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release},
};

use teemate_abi::{host_area, layout::TCS_MAX, transition::enclu};

use super::{
    leaves,
    process::{self, Resolution},
    shared::{RECORDS, Record, STATE_BASE, Shared},
    ssa::{Cause, Context, XSAVE_MIN, reg},
    transition::{self, Place, labels},
};
use crate::device::Error;

/// Signals that stand for exceptions.
const EXCEPTIONS: [i32; 6] = [libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
/// `si_code` of Syscall User Dispatch.
const SYS_USER_DISPATCH: i32 = 2;

/// The signal by which the node asks a process to drop rights from its mapping.
pub fn shootdown_signal() -> i32 {
    libc::SIGRTMAX() - 3
}

/// FS base.
pub fn fs_base() -> u64 {
    let value;
    // SAFETY: FSGSBASE was checked by `attach`; reads a register.
    unsafe { asm!("rdfsbase {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// GS base.
pub fn gs_base() -> u64 {
    let value;
    // SAFETY: as in `fs_base`.
    unsafe { asm!("rdgsbase {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// # Safety
/// Nothing in this thread uses GS.
pub unsafe fn set_gs_base(value: u64) {
    // SAFETY: FSGSBASE was checked by `attach`; the caller answers for GS.
    unsafe { asm!("wrgsbase {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

static OLD: [OldAction; 6] = [const { OldAction([const { AtomicU64::new(0) }; 2]) }; 6];

/// Handler and flags that were there before.
struct OldAction([AtomicU64; 2]);

/// Installs the handlers, once for a process and its forked children.
pub fn install() -> Result<(), Error> {
    for (index, signal) in EXCEPTIONS.into_iter().enumerate() {
        let old = set_handler(signal)?;
        OLD[index].0[0].store(old.sa_sigaction as u64, Relaxed);
        OLD[index].0[1].store(old.sa_flags as u64, Relaxed);
    }
    set_handler(shootdown_signal())?;
    Ok(())
}

fn set_handler(signal: i32) -> Result<libc::sigaction, Error> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both are local and zeroed, which is a valid sigaction; `handler` has the ABI of SA_SIGINFO.
    let result = unsafe {
        let new = &mut *action.as_mut_ptr();
        new.sa_sigaction = handler as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut new.sa_mask);
        if signal != libc::SIGSEGV && signal != libc::SIGBUS {
            // A leaf that trapped touches enclave memory that this process may not have mapped yet.
            libc::sigdelset(&mut new.sa_mask, libc::SIGSEGV);
            libc::sigdelset(&mut new.sa_mask, libc::SIGBUS);
        }
        libc::sigaction(signal, new, old.as_mut_ptr())
    };
    if result != 0 {
        return Err(process::system("sigaction", "another runtime may have reserved this signal"));
    }
    // SAFETY: filled by the call.
    Ok(unsafe { old.assume_init() })
}

/// FS and GS base of the interrupted code, as the naked handler pushed them; it loads them again at its end.
#[repr(C)]
struct Bases {
    gs: u64,
    fs: u64,
}

/// Saves FS and GS base, gives Rust the host's FS, and calls [`on_signal`] with the slot's record (if it runs on a slot's stack).
#[unsafe(naked)]
unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    naked_asm!(
        "rdfsbase rax",
        "push rax",
        "rdgsbase rax",
        "push rax",
        "mov r8, rsp",
        "sub rsp, 8",
        "movabs rcx, {slots}",
        "mov rax, rsp",
        "sub rax, rcx",
        "shr rax, {slot_shift}",
        "xor ecx, ecx",
        "cmp rax, {tcs_max}",
        "jae 2f",
        "shl rax, 9",
        "movabs rcx, {records}",
        "add rcx, rax",
        "mov rax, [rcx + {host_fs}]",
        "wrfsbase rax",
        "2: cld",
        "call {on_signal}",
        "add rsp, 8",
        "pop rax",
        "wrgsbase rax",
        "pop rax",
        "wrfsbase rax",
        "ret",
        slots = const host_area::SLOTS,
        slot_shift = const host_area::SLOT_STRIDE.trailing_zeros(),
        tcs_max = const TCS_MAX,
        records = const STATE_BASE + RECORDS,
        host_fs = const offset_of!(Record, host_fs),
        on_signal = sym on_signal,
    )
}

const _: () = assert!(host_area::SLOT_STRIDE.is_power_of_two() && host_area::SLOTS.is_multiple_of(host_area::SLOT_STRIDE));

/// From the place of the `ucontext` to where the handler's first push went (the FS base); see [`handler`].
pub const PUSHED_FS: u64 = 16;

/// From the top of a signal stack down to the `ucontext` of the first signal on it; 0: not measured yet. The same for all processes.
static FRAME_DEPTH: AtomicU64 = AtomicU64::new(0);

/// Where a signal leaves its `ucontext` on a signal stack with this top. Measured once by a signal to the calling thread, which must
/// have such a stack.
pub fn frame_address(top: u64) -> Result<u64, Error> {
    if FRAME_DEPTH.load(Relaxed) == 0 {
        // SAFETY: the handler for it is installed, and only measures and syncs.
        unsafe { libc::raise(shootdown_signal()) };
    }
    match FRAME_DEPTH.load(Relaxed) {
        0 => Err(Error::Unsupported(format!("signal {} is blocked; the simulator needs it", shootdown_signal()))),
        depth => Ok(top - depth),
    }
}

/// The general registers in a signal's frame.
struct Registers<'a>(&'a mut libc::ucontext_t);

/// `gregs` index of each register, in the order of GPRSGX.
pub const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// General registers, RFLAGS and RIP of a signal's frame. FS and GS are not in it.
pub fn context_of(gregs: &[i64; 23]) -> Context {
    let mut context =
        Context { rflags: gregs[libc::REG_EFL as usize] as u64, rip: gregs[libc::REG_RIP as usize] as u64, ..Default::default() };
    for (to, from) in context.gpr.iter_mut().zip(GREGS) {
        *to = gregs[from as usize] as u64;
    }
    context
}

impl Registers<'_> {
    fn get(&self, register: i32) -> u64 {
        self.0.uc_mcontext.gregs[register as usize] as u64
    }

    fn set(&mut self, register: i32, value: u64) {
        self.0.uc_mcontext.gregs[register as usize] = value as i64;
    }

    fn context(&self, bases: &Bases) -> Context {
        Context { fs: bases.fs, gs: bases.gs, ..context_of(&self.0.uc_mcontext.gregs) }
    }

    /// The XSAVE area of the frame.
    fn xsave(&mut self, size: u64) -> &mut [u8] {
        let at = self.0.uc_mcontext.fpregs.cast::<u8>();
        // SAFETY: the kernel put an XSAVE area there; it is at least as large as that of any XFRM that this machine has.
        unsafe { std::slice::from_raw_parts_mut(at, size as usize) }
    }
}

/// What a signal means.
extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t, record: *const Record, bases: *mut Bases) {
    // SAFETY: the kernel's own arguments, and what the naked handler pushed; nobody else has references to them.
    let (mut registers, bases) = unsafe { (Registers(&mut *context), &mut *bases) };
    if signal == shootdown_signal() {
        // SAFETY: errno of this thread, which has the host's FS now.
        let errno = unsafe { *libc::__errno_location() };
        // SAFETY: null, or the record of the slot on whose stack this runs.
        if !record.is_null() && FRAME_DEPTH.load(Relaxed) == 0 {
            let at = context as u64;
            let top = (at & !(host_area::SLOT_STRIDE - 1)) + host_area::SLOT_SIGNAL_STACK_TOP;
            FRAME_DEPTH.store(top - at, Relaxed);
        }
        process::sync_all();
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        return;
    }
    // SAFETY: as above.
    let (Some(record), Some(shared)) = (unsafe { record.as_ref() }, process::shared()) else {
        return chain(signal, info, context);
    };
    let trap = registers.get(libc::REG_TRAPNO);
    let error = registers.get(libc::REG_ERR) as u32;
    let address = registers.get(libc::REG_CR2);
    let rip = registers.get(libc::REG_RIP);
    // SAFETY: siginfo of a signal that was delivered.
    let code = unsafe { (*info).si_code };
    // Trap number and CR2 in the frame are those of the thread's last fault: stale unless this signal is a fault itself.
    let fault = code > 0 && signal != libc::SIGSYS;
    let by_enclu = fault && may_be_enclu(signal, trap, error) && is_enclu(rip);
    let mut cause = match (signal, trap) {
        _ if !fault => Cause::Interrupt,
        (libc::SIGSEGV | libc::SIGBUS, 14) => Cause::Exception { vector: 14, error, address },
        (_, vector @ 0..32) => Cause::Exception { vector: vector as u8, error: if vector == 13 { error } else { 0 }, address: 0 },
        _ => Cause::Interrupt,
    };
    if fault && signal == libc::SIGBUS && trap == 14 {
        // No memory behind the page: the machine's, not the enclave's limit, but the same for the enclave.
        cause = Cause::Exception { vector: 14, error: error & 0x12 | 4 | crate::device::EPC_FULL, address };
    } else if let (Cause::Exception { vector: 14, .. }, true) = (cause, process::in_elrange(address) && !by_enclu) {
        match process::resolve(record, address, error) {
            Resolution::Mapped => {
                process::count(&record.aex);
                process::count(&record.eresume);
                return;
            }
            Resolution::Denied(error) => cause = Cause::Exception { vector: 14, error, address },
        }
    }
    if let Some(fixup) = leaves::probe_fixup(rip) {
        registers.set(libc::REG_RIP, fixup);
        return;
    }
    if !record.busy() {
        return chain(signal, info, context);
    }
    let identity = shared.identity();
    if signal == libc::SIGSYS && code == SYS_USER_DISPATCH {
        cause = Cause::INVALID_OPCODE;
    }
    // The frame itself stays as it is: the guard reads it in the same way.
    let mut live = registers.context(bases);
    live.rip -= past_instruction(signal, code, trap);
    match transition::locate(record, identity.elrange_size, identity.gate, &live) {
        Place::Inside { context, xstate_in_record, .. } => {
            if by_enclu && !xstate_in_record {
                return trapped_leaf(&shared, record, &mut registers, bases);
            }
            let size = identity.xsave_size;
            if xstate_in_record {
                // SAFETY: the record's XSAVE area, complete at this place of the transition code.
                let xsave = unsafe { std::slice::from_raw_parts(record.xarea.load(Relaxed) as *const u8, size as usize) };
                process::asynchronous_exit(&shared, record, &context, xsave, cause);
            } else {
                process::asynchronous_exit(&shared, record, &context, registers.xsave(size), cause);
            }
            leave(record, &mut registers, bases);
        }
        Place::Entering => {
            record.state.fetch_and(!super::shared::BUSY, Release);
            fault_of_transition(record, &mut registers, bases);
        }
        Place::Resuming => {
            undo_resume(record);
            fault_of_transition(record, &mut registers, bases);
        }
        // An enclave that jumped out of ELRANGE: a processor would fault at the fetch.
        Place::Outside if fault && trap == 14 && (error & 0x10 != 0 || rip == address) => {
            process::asynchronous_exit(&shared, record, &live, registers.xsave(identity.xsave_size), cause);
            leave(record, &mut registers, bases);
        }
        Place::Outside => chain(signal, info, context),
    }
}

/// How far RIP is behind the instruction that raised a signal, where a processor would have left it on it: Syscall User Dispatch stops
/// behind the SYSCALL, which has to be a #UD; INT3 is a fault inside an enclave (SDM vol. 3D, 42.2.4).
pub fn past_instruction(signal: i32, code: i32, trap: u64) -> u64 {
    match signal {
        libc::SIGSYS if code == SYS_USER_DISPATCH => 2,
        libc::SIGTRAP if code > 0 && trap == 3 => 1,
        _ => 0,
    }
}

/// Back to what it was before a started ERESUME.
pub fn undo_resume(record: &Record) {
    record.state.store((record.cssa() + 1) << 32, Release);
}

/// The synthetic state behind an AEX (SDM vol. 3D, 40.3 "AEX"): what sigreturn will load.
fn leave(record: &Record, registers: &mut Registers<'_>, bases: &mut Bases) {
    let frame_size = record.frame_size.load(Relaxed);
    let end = record.ssa.load(Relaxed) + record.cssa() * frame_size;
    // SAFETY: the frame that the AEX has just written.
    let frame = unsafe { std::slice::from_raw_parts_mut((end - frame_size) as *mut u8, frame_size as usize) };
    let (rsp, rbp) = super::ssa::Frame(frame).untrusted_stack();
    for register in GREGS {
        registers.set(register, 0);
    }
    registers.set(libc::REG_RAX, enclu::ERESUME);
    registers.set(libc::REG_RBX, record.tcs.load(Relaxed));
    registers.set(libc::REG_RCX, labels().aep);
    registers.set(libc::REG_RSP, rsp);
    registers.set(libc::REG_RBP, rbp);
    registers.set(libc::REG_RIP, labels().aep);
    registers.set(libc::REG_EFL, 0x202);
    // Every register of XSTATE in its initial state: no component is said to be there.
    registers.xsave(XSAVE_MIN as u64)[512..520].fill(0);
    bases.fs = record.host_fs.load(Relaxed);
    bases.gs = record as *const Record as u64;
}

fn fault_of_transition(record: &Record, registers: &mut Registers<'_>, bases: &mut Bases) {
    registers.set(libc::REG_RIP, labels().fault);
    registers.set(libc::REG_EFL, 0x202);
    bases.fs = record.host_fs.load(Relaxed);
    bases.gs = record as *const Record as u64;
}

/// Whether an ENCLU may have raised this. A processor without SGX raises #UD. One whose SGX is switched off, or only hidden by the hypervisor,
/// raises #GP, or, for EENTER and ERESUME, #PF, since what RBX names is no page of its EPC (SDM vol. 3D, 40.4 "ENCLU").
fn may_be_enclu(signal: i32, trap: u64, error: u32) -> bool {
    const FETCH: u32 = 1 << 4;
    match trap {
        13 => signal == libc::SIGSEGV,
        14 => signal == libc::SIGSEGV && error & FETCH == 0,
        _ => signal == libc::SIGILL,
    }
}

/// Whether an ENCLU is at this address.
fn is_enclu(rip: u64) -> bool {
    // SAFETY: the processor has just decoded an instruction there, so its first byte can be read. 0x0f asks for a second, and 0x0f 0x01 for a
    // third: had one of them been on a page that can't be read, the fetch would have faulted.
    (0..).zip([0x0f, 0x01, 0xd7]).all(|(at, byte)| unsafe { *((rip + at) as *const u8) } == byte)
}

/// ENCLU that trapped.
fn trapped_leaf(shared: &Shared, record: &Record, registers: &mut Registers<'_>, bases: &mut Bases) {
    let identity = shared.identity();
    let leaf = registers.get(libc::REG_RAX);
    if leaf == enclu::EEXIT {
        record.state.fetch_and(!super::shared::BUSY, Release);
        process::count(&record.eexit);
        registers.set(libc::REG_RIP, registers.get(libc::REG_RBX));
        registers.set(libc::REG_RCX, labels().aep);
        bases.fs = record.host_fs.load(Relaxed);
        bases.gs = record as *const Record as u64;
        return;
    }
    let live = registers.context(bases);
    record.leaf_done.store(0, Release);
    record.leaf.store(leaf, Relaxed);
    record.flags.store(live.rflags, Relaxed);
    for (to, from) in record.regs.iter().zip(live.gpr) {
        to.store(from, Relaxed);
    }
    record.leaf_rip.store(live.rip, Release);
    match leaves::carry_out(shared, record) {
        Ok(()) => {
            registers.set(libc::REG_RAX, record.regs[reg::RAX].load(Relaxed));
            registers.set(libc::REG_EFL, record.flags.load(Relaxed));
            registers.set(libc::REG_RIP, live.rip + 3);
        }
        Err(cause) => {
            process::asynchronous_exit(shared, record, &at_gate(&live, identity.gate), registers.xsave(identity.xsave_size), cause);
            leave(record, registers, bases);
        }
    }
    record.leaf_rip.store(0, Release);
}

/// A leaf that trapped in the transition code is, for the enclave, at the gate.
fn at_gate(live: &Context, gate: u64) -> Context {
    let mut context = *live;
    if context.rip == labels().trap {
        context.rip = gate;
    }
    context
}

/// Not ours: what would have happened without us.
fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let Some(index) = EXCEPTIONS.iter().position(|known| *known == signal) else { return };
    let old = OLD[index].0[0].load(Relaxed) as usize;
    if old == libc::SIG_IGN {
        return;
    }
    if old != libc::SIG_DFL {
        // SAFETY: the handler that was installed before, with the arguments that it would have got (a plain one ignores the last two).
        unsafe {
            let old: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) = std::mem::transmute(old);
            old(signal, info, context);
        }
        return;
    }
    // SAFETY: back to the default; the instruction is executed again, faults again, and the process dies as it should. A signal that
    // was sent, or that is raised behind its instruction, is sent again.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        if (*info).si_code <= 0 || matches!(signal, libc::SIGTRAP | libc::SIGSYS) {
            libc::raise(signal);
        }
    }
}
