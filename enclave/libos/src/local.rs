//! What belongs to one TCS: the page that GS points to while a thread is inside.

use core::arch::asm;

use teemate_abi::host_area;
use teemate_abi::layout::{ELRANGE_BASE, EnclaveInfo, PAGE_SIZE, tcs_block};

use crate::thread::Thread;

/// State of a TCS as the LibOS sees it.
pub mod state {
    /// Nothing runs; START and CONTAINER are possible.
    pub const IDLE: u64 = 0;
    /// A thread runs.
    pub const RUNNING: u64 = 1;
    /// A thread waits for the answer to an OCALL.
    pub const OCALL: u64 = 2;
}

/// The page that GS points to. Zero when measured. The offsets are used by the assembly of [`crate::entry`].
#[repr(C)]
pub struct Local {
    /// +0x00: address of this.
    pub this: *mut Local,
    /// +0x08: the thread that runs here, or null.
    pub thread: *mut Thread,
    /// +0x10: top of that thread's stack.
    pub stack_top: u64,
    /// +0x18: where EEXIT goes: what the host asked for at its last EENTER, known to be outside ELRANGE.
    pub exit_address: u64,
    /// +0x20: stack pointer of the thread that waits for an OCALL.
    pub ocall_rsp: u64,
    /// +0x28: one of [`state`].
    pub state: u64,
    /// +0x30: the payload's stack pointer, for a moment, at a syscall.
    pub scratch: u64,
    /// +0x38: index of the TCS.
    pub index: u32,
    /// Calls of the host so far.
    pub calls: u32,
}

impl Local {
    /// That of the TCS that this code runs on.
    pub fn current() -> &'static mut Local {
        let base: u64;
        // SAFETY: GS is loaded from the measured TCS at EENTER and nothing in the enclave changes it. The page belongs to this TCS, and
        // a TCS runs one thing at a time: no other reference to it is alive while LibOS code of this TCS runs.
        unsafe {
            asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
            &mut *(base as *mut Local)
        }
    }

    /// Fills in what never changes. Called at every entry; the page is zero the first time.
    pub fn prepare(&mut self) {
        if self.this.is_null() {
            self.index = (((&raw mut *self as u64) - tcs_block::LOCAL - info().tcs_start) / tcs_block::STRIDE) as u32;
            self.this = self;
        }
    }

    /// Top of the entry stack.
    pub fn entry_stack_top(&self) -> u64 {
        &raw const *self as u64 + (tcs_block::STACK_TOP - tcs_block::LOCAL)
    }

    /// SSA frame `n` of this TCS.
    pub fn ssa(&self, n: u64) -> u64 {
        &raw const *self as u64 - tcs_block::LOCAL + tcs_block::SSA + n * PAGE_SIZE
    }

    /// The mailbox of this TCS, outside.
    pub fn mailbox(&self) -> *mut host_area::Mailbox {
        mailbox(self.index)
    }

    /// The thread that runs here.
    pub fn thread(&self) -> Option<&'static Thread> {
        // SAFETY: the pointer is null or that of a thread that lives as long as it runs here.
        unsafe { self.thread.as_ref() }
    }
}

/// The mailbox of a TCS, outside.
pub fn mailbox(tcs: u32) -> *mut host_area::Mailbox {
    (host_area::slot(tcs) + host_area::SLOT_MAILBOX) as *mut host_area::Mailbox
}

/// The measured description of this enclave.
pub fn info() -> &'static EnclaveInfo {
    // SAFETY: the image builder puts an EnclaveInfo into the first page of ELRANGE, read-only for the enclave's whole life.
    unsafe { &*(ELRANGE_BASE as *const EnclaveInfo) }
}
