//! The payload's first thread: its stack with arguments, environment and auxiliary vector, as Linux makes it for a static program.

use teemate_abi::layout::PAGE_SIZE;

use crate::entry::Frame;
use crate::local::info;
use crate::thread::{self, Thread};
use crate::{memory, random};

const STACK: u64 = 8 << 20;

/// Sets memory up and makes the main thread. Runs once, on an entry stack.
pub fn main_thread() -> Option<&'static Thread> {
    let info = info();
    memory::start();
    let stack = memory::reserve(STACK)?;
    let top = stack + STACK;
    memory::ensure(top - 4 * PAGE_SIZE..top, true).ok()?;

    // Strings at the top, sixteen random bytes below them, then the vectors.
    let strings = top - info.strings.len() as u64;
    let random = strings - 16;
    // SAFETY: the top four pages of the stack are mapped and accepted, and nobody else knows of them.
    unsafe {
        core::ptr::copy_nonoverlapping(info.strings.as_ptr(), strings as *mut u8, info.strings.len());
        random::fill(core::slice::from_raw_parts_mut(random as *mut u8, 16));
    }
    let mut words = [0u64; 256];
    let mut count = 0;
    let mut push = |word: u64| {
        if count < words.len() {
            words[count] = word;
            count += 1;
        }
    };
    push(u64::from(info.argc));
    let mut at = 0;
    for (entries, end) in [(info.argc, 0u64), (info.envc, 0)] {
        for _ in 0..entries {
            push(strings + at as u64);
            at += info.strings.get(at..)?.iter().position(|&b| b == 0)? + 1;
        }
        push(end);
    }
    for (key, value) in [
        (libc::AT_PHDR, info.payload_phdr),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, info.payload_phnum),
        (libc::AT_PAGESZ, PAGE_SIZE),
        (libc::AT_ENTRY, info.payload_entry),
        (libc::AT_UID, 0),
        (libc::AT_EUID, 0),
        (libc::AT_GID, 0),
        (libc::AT_EGID, 0),
        (libc::AT_SECURE, 0),
        (libc::AT_CLKTCK, 100),
        (libc::AT_HWCAP2, 2), // FSGSBASE
        (libc::AT_RANDOM, random),
        (libc::AT_EXECFN, strings),
        (libc::AT_MINSIGSTKSZ, 4096),
        (libc::AT_NULL, 0),
    ] {
        push(key);
        push(value);
    }
    let rsp = (random - count as u64 * 8) & !15;
    // The thread starts by a `ret`: the entry address below what the program sees as its stack.
    let start = rsp - 8;
    // SAFETY: as above; at most 2 KiB below the strings.
    unsafe {
        core::ptr::copy_nonoverlapping(words.as_ptr(), rsp as *mut u64, count);
        *(start as *mut u64) = info.payload_entry;
    }
    let registers = Frame { rax: 0, args: [0; 6], r15: 0, r14: 0, r13: 0, r12: 0, rbx: 0, rbp: 0, rsp: start };
    thread::create(&registers, 0).ok()
}
