//! Exceptions of the payload reach its own handlers, and what a handler makes of the registers is what goes on.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Check, ensure};

/// What the handler puts into RAX.
const MENDED: u64 = 0x0123_4567_89ab_cdef;
/// What registers hold while the exception happens.
const HELD: u64 = 0xfeed_f00d_dead_beef;

static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Steps over the instruction that could not be carried out, and does to the vector registers what handlers do.
extern "C" fn mend(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's, or the LibOS's, frame; nobody else uses it.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        // `mov rax, [rdi]`, `ud2`, `div ecx`.
        registers[libc::REG_RIP as usize] += if signal == libc::SIGSEGV { 3 } else { 2 };
        registers[libc::REG_RAX as usize] = MENDED as i64;
        ADDRESS.store((*info).si_addr() as u64, Ordering::Relaxed);
        asm!("pxor xmm5, xmm5", "pxor xmm14, xmm14", out("xmm5") _, out("xmm14") _);
    }
}

/// Carries out one of the three instructions; what is wrong with the registers afterwards.
fn provoke(signal: i32, address: u64) -> Check {
    let (mut rax, mut r12, mut xmm5, mut xmm14, mut flags) = (7u64, HELD, HELD, HELD, 0u64);
    macro_rules! with {
        ($instruction:literal) => {
            // SAFETY: the handler steps over the instruction and changes RAX alone.
            unsafe {
                asm!(
                    "movq xmm5, {five}", "movq xmm14, {fourteen}", "xor edx, edx", "xor ecx, ecx", "stc",
                    $instruction,
                    "setc {flags:l}", "movq {five}, xmm5", "movq {fourteen}, xmm14",
                    five = inout(reg) xmm5, fourteen = inout(reg) xmm14, flags = inout(reg) flags,
                    inout("rax") rax, inout("r12") r12, in("rdi") address, out("rcx") _, out("rdx") _, out("xmm5") _, out("xmm14") _,
                )
            }
        };
    }
    match signal {
        libc::SIGSEGV => with!("mov rax, [rdi]"),
        libc::SIGILL => with!("ud2"),
        _ => with!("div ecx"),
    }
    // What an exception leaves of the carry flag is defined for none of them but the first two.
    let flags_kept = flags == 1 || signal == libc::SIGFPE;
    ensure(rax == MENDED && [r12, xmm5, xmm14] == [HELD; 3] && flags_kept, || {
        format!("signal {signal}: rax {rax:#x}, r12 {r12:#x}, xmm5 {xmm5:#x}, xmm14 {xmm14:#x}, carry {flags}")
    })
}

/// The check.
pub fn check() -> Check {
    const SIGNALS: [i32; 3] = [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE];
    // So much that it was nobody's before: a page that was accepted once stays accepted, and PROT_NONE is only noted (docs/syscalls.md).
    const GUARDED: usize = 64 << 20;
    let guarded = crate::map(GUARDED, libc::PROT_NONE)? as u64;
    let mut old = Vec::new();
    for signal in SIGNALS {
        // SAFETY: plain structures; the handler is as SA_SIGINFO wants it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = mend as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            let mut had: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, &raw const action, &raw mut had) != 0 {
                return Err("sigaction".to_owned());
            }
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut now);
            ensure(now.sa_sigaction == action.sa_sigaction, || "sigaction does not tell what it was given".to_owned())?;
            old.push((signal, had));
        }
    }
    let result = (|| {
        for round in 0..50 {
            for signal in SIGNALS {
                provoke(signal, guarded + 4096 + round)?;
            }
        }
        provoke(libc::SIGSEGV, guarded + 4096 + 17)?;
        let told = ADDRESS.load(Ordering::Relaxed);
        ensure(told == guarded + 4096 + 17, || format!("si_addr is {told:#x}"))?;
        let threads: Vec<_> = (0..3).map(|n| std::thread::spawn(move || (0..50).try_for_each(|_| provoke(SIGNALS[n], guarded)))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
    })();
    for (signal, had) in old {
        // SAFETY: what sigaction gave.
        unsafe { libc::sigaction(signal, &raw const had, std::ptr::null_mut()) };
    }
    // SAFETY: the mapping is ours.
    unsafe { libc::munmap(guarded as *mut _, GUARDED) };
    result
}
