//! Second stage of an exception: the first was the AEX; now the LibOS looks at the interrupted frame in the SSA and mends it, and the host
//! resumes it. What the host says about the exception is not looked at: EXITINFO and EXINFO are the processor's word.

use teemate_abi::layout::PAGE_SIZE;
use teemate_abi::transition::{EXCEPTION_EPC_FULL, exit};

use crate::entry::{Leave, teemate_trapped};
use crate::local::{Local, info};
use crate::memory::{self, Fault};
use crate::{cpuid, enclu, end, signal};

/// GPRSGX at the end of an SSA frame (SDM vol. 3D, 34.9.1).
#[repr(C)]
pub(crate) struct Gprsgx {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8_to_r15: [u64; 8],
    pub rflags: u64,
    pub rip: u64,
    ursp: u64,
    urbp: u64,
    exitinfo: u32,
    reserved: u32,
    fsbase: u64,
    gsbase: u64,
}

/// EXINFO, right below it (34.9.2.1).
#[repr(C)]
struct Exinfo {
    maddr: u64,
    errcd: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gprsgx>() == 184 && size_of::<Exinfo>() == 16);

const DIVIDE: u32 = 0;
const UNDEFINED: u32 = 6;
const PAGE_FAULT: u32 = 14;
const VALID: u32 = 1 << 31;

/// Deals with the exception in SSA[cssa - 1].
pub fn second_stage(local: &mut Local, host_says: u64, cssa: u64) -> Leave {
    let end = local.ssa(cssa - 1) + PAGE_SIZE;
    // SAFETY: the SSA frame is a page of this TCS; the interrupted thread does not run until it is resumed.
    let (frame, exinfo) = unsafe { (&mut *((end - 184) as *mut Gprsgx), &*((end - 200) as *const Exinfo)) };
    let resume = Leave::new(exit::RESUME, 0);
    if frame.exitinfo & VALID == 0 {
        // No exception that an enclave is told of: an interrupt, or a host that makes things up.
        return resume;
    }
    let gate = enclu::teemate_enclu_gate as *const () as u64;
    if frame.rip == gate {
        // EACCEPT that found no page. The kernel adds one and we try again, unless the host says that there is none.
        if host_says == EXCEPTION_EPC_FULL {
            // As if the gate had returned with an error: its bytes behind the instruction are not looked at, a simulator may have others.
            frame.rax = enclu::EPC_FULL;
            // SAFETY: the gate is reached by `call` whenever the leaf is EACCEPT, so the interrupted stack begins with the return address.
            frame.rip = unsafe { (frame.rsp as *const u64).read() };
            frame.rsp += 8;
        }
        return resume;
    }
    let payload = info().payload_start..info().payload_end;
    let heap = info().heap_start..info().heap_end;
    let of_payload = payload.contains(&frame.rip) || heap.contains(&frame.rip);
    let vector = frame.exitinfo & 0xff;
    match vector {
        UNDEFINED if of_payload => match opcode(frame.rip) {
            [0x0f, 0x05] => {
                // As the instruction leaves them: RCX the next address, R11 the flags.
                frame.rcx = frame.rip + 2;
                frame.r8_to_r15[3] = frame.rflags;
                frame.rip = teemate_trapped as *const () as u64;
                return resume;
            }
            [0x0f, 0xa2] => return answer_cpuid(frame),
            _ => {}
        },
        // The LibOS and the crates in it ask, too.
        UNDEFINED if opcode(frame.rip) == [0x0f, 0xa2] => return answer_cpuid(frame),
        PAGE_FAULT if of_payload => match memory::fault(exinfo.maddr, exinfo.errcd & 2 != 0, exinfo.errcd & 16 != 0) {
            Ok(()) => return resume,
            Err(Fault::Full) => return die(format_args!("no EPC page is left for the payload's memory")),
            Err(Fault::Segment) => {}
        },
        _ => {}
    }
    if of_payload && let Some(cause) = as_signal(vector, frame.rip, exinfo) {
        // The payload may have a handler for it: WebAssembly's traps are such exceptions. It runs when the host resumes the thread.
        if signal::deliver(frame, local.ssa(cssa - 1) as *const u8, &cause) {
            return resume;
        }
    }
    die(format_args!(
        "exception {vector} at {:#x} (address {:#x}, error {:#x}, stack {:#x}) in the {}",
        frame.rip,
        exinfo.maddr,
        exinfo.errcd,
        frame.rsp,
        if of_payload { "payload" } else { "LibOS" }
    ))
}

/// What Linux would make of an exception of the payload.
fn as_signal(vector: u32, rip: u64, exinfo: &Exinfo) -> Option<signal::Cause> {
    const FPE_INTDIV: i32 = 1;
    const ILL_ILLOPN: i32 = 2;
    const SEGV_MAPERR: i32 = 1;
    let (signal, code, address, error) = match vector {
        DIVIDE => (libc::SIGFPE, FPE_INTDIV, rip, 0),
        UNDEFINED => (libc::SIGILL, ILL_ILLOPN, rip, 0),
        PAGE_FAULT => (libc::SIGSEGV, SEGV_MAPERR, exinfo.maddr, exinfo.errcd),
        _ => return None,
    };
    Some(signal::Cause { signal, code, address, vector, error })
}

fn answer_cpuid(frame: &mut Gprsgx) -> Leave {
    let [a, b, c, d] = cpuid::answer(frame.rax as u32, frame.rcx as u32, cpuid::xcr0());
    (frame.rax, frame.rbx, frame.rcx, frame.rdx) = (a.into(), b.into(), c.into(), d.into());
    frame.rip += 2;
    Leave::new(exit::RESUME, 0)
}

fn opcode(rip: u64) -> [u8; 2] {
    // SAFETY: #UD was raised by the instruction there, so its bytes can be fetched; W^X pages that are executable are readable.
    unsafe { (rip as *const [u8; 2]).read() }
}

fn die(message: core::fmt::Arguments<'_>) -> Leave {
    Leave::new(exit::PANIC, end::record(message))
}
