//! Signals that the payload raises itself by an exception: SIGSEGV, SIGILL and SIGFPE, delivered to the handler that it installed, on the
//! stack that it was on. WebAssembly's traps are made of them. No other signal is ever delivered: none comes from the host.
//!
//! The second stage of the exception (see [`crate::exception`]) writes a frame as Linux does and turns the interrupted thread to the
//! handler; when that returns, [`teemate_signal_return`] takes up what the frame says, which the handler may have changed. It is code of the
//! LibOS that runs as the payload's: it reads the payload's stack and nothing else.

use core::arch::naked_asm;

use crate::entry::XSTATE_MASK;
use crate::exception::Gprsgx;
use crate::lock::Spin;
use crate::{SysResult, memory, user};

/// Linux's `struct kernel_sigaction`: handler, flags, restorer, mask.
pub type Action = [u64; 4];

static ACTIONS: Spin<[Action; 65]> = Spin::new([[0; 4]; 65]);

/// rt_sigaction(2).
pub fn action(signal: u64, new: u64, old: u64, size: u64) -> SysResult {
    let index = signal as usize;
    let fixed = [libc::SIGKILL as u64, libc::SIGSTOP as u64].contains(&signal);
    if size != 8 || !(1..=64).contains(&signal) || new != 0 && fixed {
        return Err(libc::EINVAL);
    }
    let wanted = if new == 0 { None } else { Some(user::read::<Action>(new)?) };
    let had = {
        let mut actions = ACTIONS.lock();
        let had = actions[index];
        if let Some(wanted) = wanted {
            actions[index] = wanted;
        }
        had
    };
    if old != 0 {
        user::write(old, had)?;
    }
    Ok(0)
}

/// What Linux puts on the stack of a thread that gets a signal, as far as x86-64's ABI defines it: lowest address first.
#[repr(C)]
struct Frame {
    return_address: u64,
    // struct ucontext
    flags: u64,
    link: u64,
    stack: [u64; 3],
    registers: [u64; 23],
    vectors: u64,
    reserved: [u64; 8],
    mask: u64,
    // siginfo_t
    signal: u32,
    errno: u32,
    code: u32,
    padding: u32,
    address: u64,
    rest: [u64; 13],
}

/// Indices into [`Frame::registers`].
mod register {
    pub const RDI: usize = 8;
    pub const RSI: usize = 9;
    pub const RBP: usize = 10;
    pub const RBX: usize = 11;
    pub const RDX: usize = 12;
    pub const RAX: usize = 13;
    pub const RCX: usize = 14;
    pub const RSP: usize = 15;
    pub const RIP: usize = 16;
    pub const FLAGS: usize = 17;
    pub const ERROR: usize = 19;
    pub const VECTOR: usize = 20;
    pub const CR2: usize = 22;
}

/// From where `ret` of the handler leaves the stack pointer to [`Frame::registers`], and to [`Frame::vectors`].
const REGISTERS: usize = core::mem::offset_of!(Frame, registers) - 8;
const VECTORS: usize = core::mem::offset_of!(Frame, vectors) - 8;
const _: () = assert!(REGISTERS == 40 && VECTORS == 224 && size_of::<Frame>() == 8 + 304 + 128);

/// Bytes of XSTATE in its standard form, up to the last component of [`XSTATE_MASK`].
const XSTATE_BYTES: u64 = 2688;
/// What a function may use below its stack pointer.
const RED_ZONE: u64 = 128;
/// Flags with which a function begins: all clear but the one that is always set.
const CLEAR_FLAGS: u64 = 2;

/// An exception as a signal.
pub(crate) struct Cause {
    /// SIGSEGV and so on.
    pub signal: i32,
    /// si_code.
    pub code: i32,
    /// si_addr.
    pub address: u64,
    /// The exception's number.
    pub vector: u32,
    /// Its error code.
    pub error: u32,
}

/// Turns the interrupted thread to its handler. `xstate` is the thread's in the SSA frame. False: it has none, or no stack for it.
pub(crate) fn deliver(interrupted: &mut Gprsgx, xstate: *const u8, cause: &Cause) -> bool {
    let [handler, ..] = ACTIONS.lock()[cause.signal as usize];
    if handler == libc::SIG_DFL as u64 || handler == libc::SIG_IGN as u64 {
        return false;
    }
    let Some((frame, vectors)) = places(interrupted.rsp) else { return false };
    if memory::ensure(frame..interrupted.rsp - RED_ZONE, true).is_err() {
        return false;
    }
    let g = &*interrupted;
    let mut registers = [0; 23];
    registers[..8].copy_from_slice(&g.r8_to_r15);
    for (index, value) in [
        (register::RDI, g.rdi),
        (register::RSI, g.rsi),
        (register::RBP, g.rbp),
        (register::RBX, g.rbx),
        (register::RDX, g.rdx),
        (register::RAX, g.rax),
        (register::RCX, g.rcx),
        (register::RSP, g.rsp),
        (register::RIP, g.rip),
        (register::FLAGS, g.rflags),
        (register::ERROR, cause.error.into()),
        (register::VECTOR, cause.vector.into()),
        (register::CR2, if cause.signal == libc::SIGSEGV { cause.address } else { 0 }),
    ] {
        registers[index] = value;
    }
    let written = Frame {
        return_address: teemate_signal_return as *const () as u64,
        flags: 0,
        link: 0,
        stack: [0, libc::SS_DISABLE as u64, 0],
        registers,
        vectors,
        reserved: [0; 8],
        mask: 0,
        signal: cause.signal as u32,
        errno: 0,
        code: cause.code as u32,
        padding: 0,
        address: cause.address,
        rest: [0; 13],
    };
    // SAFETY: the range is the payload's, mapped, writable and accepted, and the thread to whose stack it belongs does not run. The SSA
    // frame has room for XSTATE_BYTES below EXINFO.
    unsafe {
        (frame as *mut Frame).write(written);
        core::ptr::copy_nonoverlapping(xstate, vectors as *mut u8, XSTATE_BYTES as usize);
    }
    interrupted.rip = handler;
    interrupted.rsp = frame;
    interrupted.rdi = cause.signal as u64;
    interrupted.rsi = frame + core::mem::offset_of!(Frame, signal) as u64;
    interrupted.rdx = frame + core::mem::offset_of!(Frame, flags) as u64;
    interrupted.rax = 0;
    interrupted.rflags = CLEAR_FLAGS;
    true
}

/// Where the frame and XSTATE go below this stack pointer: the one as at a call, the other at a multiple of 64.
fn places(rsp: u64) -> Option<(u64, u64)> {
    let vectors = rsp.checked_sub(RED_ZONE + XSTATE_BYTES)? & !63;
    let frame = (vectors.checked_sub(size_of::<Frame>() as u64 + 8)? & !15) + 8;
    Some((frame, vectors))
}

/// What a handler returns to: the stack pointer is at the frame's ucontext. Restores all registers from it. Flags and address go by way
/// of the stack that is returned to, below its red zone, for they must be the last.
///
/// # Safety
/// Only handlers that [`deliver`] started return here.
#[unsafe(naked)]
unsafe extern "C" fn teemate_signal_return() -> ! {
    naked_asm!(
        "mov rdi, [rsp + {vectors}]",
        "mov eax, {mask}",
        "xor edx, edx",
        "xrstor64 [rdi]",
        "lea rsi, [rsp + {registers}]",
        "mov rcx, [rsi + 15*8]",
        "mov rax, [rsi + 16*8]",
        "mov [rcx - 136], rax",
        "mov r8, [rsi + 0*8]",
        "mov r9, [rsi + 1*8]",
        "mov r10, [rsi + 2*8]",
        "mov r11, [rsi + 3*8]",
        "mov r12, [rsi + 4*8]",
        "mov r13, [rsi + 5*8]",
        "mov r14, [rsi + 6*8]",
        "mov r15, [rsi + 7*8]",
        "mov rdi, [rsi + 8*8]",
        "mov rbp, [rsi + 10*8]",
        "mov rbx, [rsi + 11*8]",
        "mov rdx, [rsi + 12*8]",
        "mov rax, [rsi + 13*8]",
        "mov rcx, [rsi + 14*8]",
        "push qword ptr [rsi + 17*8]",
        "popfq",
        "mov rsp, [rsi + 15*8]",
        "mov rsi, [rsi + 9*8]",
        "jmp qword ptr [rsp - 136]",
        vectors = const VECTORS,
        registers = const REGISTERS,
        mask = const XSTATE_MASK,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_frame_lies_below_the_red_zone(rsp in 0u64..u64::MAX) {
            if let Some((frame, vectors)) = places(rsp) {
                prop_assert_eq!((frame % 16, vectors % 64), (8, 0));
                prop_assert!(frame + size_of::<Frame>() as u64 <= vectors);
                prop_assert!(vectors + XSTATE_BYTES <= rsp - RED_ZONE);
                prop_assert!(rsp - frame < RED_ZONE + XSTATE_BYTES + size_of::<Frame>() as u64 + 128);
            } else {
                prop_assert!(rsp < 8192);
            }
        }
    }
}
