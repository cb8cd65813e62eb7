//! A process's side: mapping the enclave, entering and resuming, and exceptions inside, which arrive as signals.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, ELRANGE_SIZE_MAX, NSSA, PAGE_SIZE, TCS_MAX, tcs_address},
};

use super::entry::{self, Control, kind, labels};
use crate::device::{EPC_FULL, Error, Exit, TcsState};

/// What is mapped where. The node writes it into a sealed memfd, because a container's process has no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Size of ELRANGE.
    pub elrange_size: u64,
    /// Address of the first TCS block.
    pub tcs_start: u64,
    /// TCS blocks.
    pub tcs_count: u32,
    /// Ranges, by rising offset.
    pub ranges: Vec<Range>,
}

/// One mmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// From ELRANGE_BASE.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// PROT_READ, PROT_WRITE, PROT_EXEC: not more than the driver allows there.
    pub protection: i32,
}

const TABLE_MAGIC: u64 = u64::from_le_bytes(*b"TMMAP001");
/// Most ranges: an image's runs, and the dynamic range.
const RANGES_MAX: u64 = 1 << 15;

impl Table {
    /// Words, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = [TABLE_MAGIC, self.elrange_size, self.tcs_start, u64::from(self.tcs_count), self.ranges.len() as u64];
        let ranges = self.ranges.iter().flat_map(|range| [range.offset, range.length, range.protection as u64]);
        head.into_iter().chain(ranges).flat_map(u64::to_le_bytes).collect()
    }

    /// From what [`Table::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Table, &'static str> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let [TABLE_MAGIC, elrange_size, tcs_start, tcs_count, count, ranges @ ..] = &words[..] else {
            return Err("the second descriptor is not the enclave's map");
        };
        if !rest.is_empty() || *count > RANGES_MAX || ranges.len() as u64 != count * 3 {
            return Err("the enclave's map is truncated");
        }
        let table = Table {
            elrange_size: *elrange_size,
            tcs_start: *tcs_start,
            tcs_count: u32::try_from(*tcs_count).unwrap_or(u32::MAX),
            ranges: ranges
                .as_chunks::<3>()
                .0
                .iter()
                .map(|&[offset, length, protection]| Range { offset, length, protection: (protection & 7) as i32 })
                .collect(),
        };
        let end = |range: &Range| range.offset.checked_add(range.length).filter(|&end| end <= table.elrange_size);
        let mut last = 0;
        for range in &table.ranges {
            let aligned = range.offset.is_multiple_of(PAGE_SIZE) && range.length.is_multiple_of(PAGE_SIZE) && range.length > 0;
            let Some(end) = end(range).filter(|_| aligned && range.offset >= last) else {
                return Err("the enclave's map has a range that is impossible");
            };
            last = end;
        }
        let tcs_end = tcs_address(table.tcs_start, table.tcs_count.min(TCS_MAX));
        if table.elrange_size > ELRANGE_SIZE_MAX
            || table.tcs_count > TCS_MAX
            || table.tcs_start < ELRANGE_BASE
            || tcs_end > ELRANGE_BASE + table.elrange_size
        {
            return Err("the enclave's map has an ELRANGE or TCSs that are impossible");
        }
        Ok(table)
    }
}

/// What the host's own code keeps of a TCS, at `SLOT_CONTROL` of its slot. Only counted: the processor arbitrates, and tells nobody.
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    /// Busy in bit 0, the last frame uncertain in bit 1, and CSSA from bit 32.
    pub state: AtomicU64,
    /// EENTER.
    pub eenter: AtomicU64,
    /// EEXIT.
    pub eexit: AtomicU64,
    /// AEX that the host saw: exceptions and interruptions, and kills.
    pub aex: AtomicU64,
    /// ERESUME that the host did by itself.
    pub eresume: AtomicU64,
    /// Times that a thread took the TCS over from one that died inside.
    pub killed_inside: AtomicU64,
}

/// A thread is inside.
const BUSY: u64 = 1;
/// The last frame that CSSA counts may not exist: its thread died near an ENCLU, and which side of it nobody knows.
const MAYBE: u64 = 2;
const CSSA: u64 = 1 << 32;

/// This process's mapping of an enclave. A forked child has it too; there is one for a process, for good.
#[derive(Debug)]
pub struct Attachment {
    table: Table,
}

impl Attachment {
    /// Maps everything at its fixed address, and closes the descriptors: whoever has the device's could change or remove any page.
    pub fn attach(fds: Vec<OwnedFd>) -> Result<Attachment, Error> {
        let [device, table, host, code]: [OwnedFd; 4] =
            fds.try_into().map_err(|_| Error::Unsupported("an SGX enclave is handed over as four descriptors".to_owned()))?;
        let table = Table::from_bytes(&read_all(&table)?).map_err(|why| Error::Unsupported(why.to_owned()))?;
        let hint = "does a node of the same version run? Is this address range free (no other enclave in this process)?";
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        map(host_area::BASE, host_area::size(table.tcs_count), rw, libc::MAP_SHARED, &host, "map the host area", hint)?;
        map(entry::BASE, entry::SIZE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, &code, "map the entry code", hint)?;
        let hint = "EACCES: is the personality READ_IMPLIES_EXEC set (executable stack)? EEXIST: the address range is taken";
        for range in &table.ranges {
            map(ELRANGE_BASE + range.offset, range.length, range.protection, libc::MAP_SHARED, &device, "map the enclave", hint)?;
        }
        catch_exceptions()?;
        Ok(Attachment { table })
    }

    /// Nothing to do: the driver maps what faults.
    pub fn sync(&self) {}

    /// Nothing to do: touching a page from outside could only add one.
    pub fn prefault(&self, _address: u64, _length: u64) {}

    /// Readies the calling host thread to enter with this TCS.
    pub fn thread(&self, tcs: u32) -> Result<Thread, Error> {
        if tcs >= self.table.tcs_count {
            return Err(Error::Entry { tcs, why: "there is no such TCS" });
        }
        // SAFETY: `attach` mapped the host area for this many TCSs, for good; a Slot has only atomics, and is valid for any bytes.
        let slot = unsafe { &*((host_area::slot(tcs) + host_area::SLOT_CONTROL) as *const Slot) };
        let tcs_at = tcs_address(self.table.tcs_start, tcs);
        Thread::new(tcs, tcs_at, host_area::slot(tcs) + host_area::SLOT_STACK_TOP - 256, slot)
    }
}

/// A host thread that may enter with one TCS. Bound to its host thread.
#[derive(Debug)]
pub struct Thread {
    index: u32,
    control: Box<Control>,
    slot: &'static Slot,
    signal_stack: Box<[u8]>,
    old_stack: libc::stack_t,
    old_gs: u64,
    _not_send: std::marker::PhantomData<*const ()>,
}

/// For signal frames with the registers of AVX-512, and the handler. Private: a frame in shared memory could be changed.
const SIGNAL_STACK: usize = 64 << 10;

impl Thread {
    fn new(index: u32, tcs: u64, stack_top: u64, slot: &'static Slot) -> Result<Thread, Error> {
        if !fsgsbase() {
            return Err(Error::Unsupported(
                "the kernel does not let programs set GS (FSGSBASE): it was started with nofsgsbase".to_owned(),
            ));
        }
        // The lease is ours alone: if a thread seems to be inside, it is one that died there, and its death was an AEX.
        let state = slot.state.load(Acquire);
        if state & BUSY != 0 {
            slot.state.store((state & !BUSY).wrapping_add(CSSA) | MAYBE, Release);
            slot.killed_inside.fetch_add(1, Relaxed);
            slot.aex.fetch_add(1, Relaxed);
        }
        let mut control = Box::new(Control { tcs, stack_top, ..Control::default() });
        let mut signal_stack = vec![0; SIGNAL_STACK].into_boxed_slice();
        let stack = libc::stack_t { ss_sp: signal_stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK };
        let mut old_stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        // SAFETY: the stack is owned by this value, and taken back in `drop`.
        if unsafe { libc::sigaltstack(&stack, &mut old_stack) } != 0 {
            return Err(system("sigaltstack", "the frame of this processor's registers may be larger than 64 KiB"));
        }
        let old_gs = gs_base();
        // SAFETY: neither Rust nor libc uses GS on x86-64. `control` does not move: it is boxed.
        unsafe { set_gs_base(&raw mut *control as u64) };
        Ok(Thread { index, control, slot, signal_stack, old_stack, old_gs, _not_send: std::marker::PhantomData })
    }

    /// EENTER with these in RDI, RSI and RDX.
    pub fn enter(&self, reason: u64, a: u64, b: u64) -> Result<Exit, Error> {
        let state = self.slot.state.load(Acquire);
        if state / CSSA >= u64::from(NSSA) {
            return Err(self.entry_error("CSSA = NSSA: no SSA frame is left for another exception; resume it"));
        }
        self.slot.state.store(state | BUSY, Release);
        self.slot.eenter.fetch_add(1, Relaxed);
        // SAFETY: the page's code has this ABI, and comes back with the callee-saved registers as they were. GS points to our Control.
        let came = unsafe {
            let enter: unsafe extern "C" fn(*const Control, u64, u64, u64) -> u64 = std::mem::transmute(labels().enter);
            enter(&raw const *self.control, reason, a, b)
        };
        self.came(came, state, false)
    }

    /// ERESUME.
    pub fn resume(&self) -> Result<Exit, Error> {
        let state = self.slot.state.load(Acquire);
        let Some(below) = (state & !MAYBE).checked_sub(CSSA) else {
            return Err(self.entry_error("CSSA = 0: there is nothing to resume"));
        };
        self.slot.state.store(below | BUSY | (state & MAYBE), Release);
        self.slot.eresume.fetch_add(1, Relaxed);
        // SAFETY: as in `enter`.
        let came = unsafe {
            let resume: unsafe extern "C" fn(*const Control) -> u64 = std::mem::transmute(labels().resume);
            resume(&raw const *self.control)
        };
        if came == kind::REFUSED {
            // As it was, unless the frame that may not exist does not.
            let lost = state & MAYBE != 0 && self.last().0 == GP;
            self.slot.state.store(if lost { below } else { state }, Release);
            return Err(self.refused(true));
        }
        self.came(came, below, true)
    }

    /// Busy, and CSSA, as counted.
    pub fn state(&self) -> TcsState {
        let state = self.slot.state.load(Acquire);
        TcsState { busy: state & BUSY != 0, cssa: (state / CSSA) as u32 }
    }

    /// Which TCS.
    pub fn tcs(&self) -> u32 {
        self.index
    }

    /// The address of the word to set when the thread shall come out with [`Exit::Interrupted`] at its next AEX; for a signal handler of
    /// this same thread, whose delivery is an AEX.
    pub fn interrupt_word(&self) -> *mut u64 {
        (&raw const self.control.interrupt).cast_mut()
    }

    /// Accounts for a way out. `state`: the slot's before BUSY was set.
    fn came(&self, came: u64, state: u64, resumed: bool) -> Result<Exit, Error> {
        let aex = || {
            self.slot.aex.fetch_add(1, Relaxed);
            self.slot.state.store((state & !MAYBE).wrapping_add(CSSA), Release);
        };
        match came {
            kind::EXIT => {
                self.slot.eexit.fetch_add(1, Relaxed);
                self.slot.state.store(state & !MAYBE, Release);
                let [reason, argument] = [&raw const self.control.out0, &raw const self.control.out1].map(|word| {
                    // SAFETY: a field of our own box; volatile, because the assembly wrote it through GS.
                    unsafe { word.read_volatile() }
                });
                Ok(Exit::Exit { reason, argument })
            }
            kind::EXCEPTION => {
                aex();
                let (vector, error, address) = self.last();
                Ok(Exit::Exception { vector: vector as u8, error: error as u32, address })
            }
            kind::INTERRUPTED => {
                aex();
                // SAFETY: a field of our own box.
                unsafe { self.interrupt_word().write_volatile(0) };
                Ok(Exit::Interrupted)
            }
            _ => {
                self.slot.state.store(state, Release);
                Err(self.refused(resumed))
            }
        }
    }

    /// Vector, error code and address of the last exception.
    fn last(&self) -> (u64, u64, u64) {
        let words = [&raw const self.control.vector, &raw const self.control.error, &raw const self.control.address];
        // SAFETY: fields of our own box; volatile, because the signal handler wrote them.
        let [vector, error, address] = words.map(|word| unsafe { word.read_volatile() });
        (vector, error, address)
    }

    /// Why ENCLU itself raised an exception.
    fn refused(&self, resumed: bool) -> Error {
        self.entry_error(match (self.last().0, resumed) {
            (UD, _) => "ENCLU raised #UD: SGX is off on this processor",
            (GP, false) => "EENTER raised #GP: another thread is inside with it, CSSA = NSSA, or it is no TCS",
            (GP, true) => "ERESUME raised #GP: another thread is inside with it, or nothing was interrupted",
            _ => "ENCLU faulted: the TCS or its SSA frame is gone; was the machine suspended? Then build the enclave again",
        })
    }

    fn entry_error(&self, why: &'static str) -> Error {
        Error::Entry { tcs: self.index, why }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        debug_assert_eq!(self.signal_stack.len(), SIGNAL_STACK);
        // SAFETY: what it was before `new`; afterwards nothing refers to the signal stack or the Control.
        unsafe {
            set_gs_base(self.old_gs);
            libc::sigaltstack(&self.old_stack, std::ptr::null_mut());
        }
    }
}

const UD: u64 = 6;
const GP: u64 = 13;
const PF: u64 = 14;

/// Signals as which the kernel delivers exceptions.
const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
/// What handled them before.
static BEFORE: OnceLock<[libc::sigaction; 5]> = OnceLock::new();

fn catch_exceptions() -> Result<(), Error> {
    let hint = "a seccomp filter must allow rt_sigaction";
    // SAFETY: all-zero is a valid sigaction.
    let mut before: [libc::sigaction; 5] = unsafe { std::mem::zeroed() };
    for (signal, before) in SIGNALS.into_iter().zip(&mut before) {
        // SAFETY: writes `before`.
        if unsafe { libc::sigaction(signal, std::ptr::null(), before) } != 0 {
            return Err(system("sigaction", hint));
        }
    }
    if BEFORE.set(before).is_err() {
        // Another attachment of this process has installed it.
        return Ok(());
    }
    for signal in SIGNALS {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_exception as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: the handler touches nothing but atomics, the frame, and the Control that GS points to at the page's ENCLUs.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(system("sigaction", hint));
        }
    }
    Ok(())
}

/// An exception at the AEP was inside the enclave; at an ENCLU it was the instruction's own. Everything else was not ours.
extern "C" fn on_exception(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext_t and a siginfo_t to a handler with SA_SIGINFO.
    let (context, code) = unsafe { (&mut *context.cast::<libc::ucontext_t>(), (*info).si_code) };
    let registers = &mut context.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as u64;
    let l = labels();
    let goes_to = match rip {
        _ if code <= 0 => None, // sent by a process
        _ if rip == l.aep => Some(l.exception),
        _ if rip == l.eenter || rip == l.eresume || rip == l.aep_eresume => Some(l.refused),
        _ => None,
    };
    let Some(goes_to) = goes_to else {
        // SAFETY: the kernel's own arguments, passed on.
        unsafe { pass_on(signal, info, context) };
        return;
    };
    let vector = registers[libc::REG_TRAPNO as usize] as u64;
    let mut error = registers[libc::REG_ERR as usize] as u64 & u64::from(u32::MAX);
    if signal == libc::SIGBUS && vector == PF {
        // The driver had no EPC page to give.
        error |= u64::from(EPC_FULL);
    }
    let address = registers[libc::REG_CR2 as usize] as u64;
    registers[libc::REG_RIP as usize] = goes_to as i64;
    let control = gs_base() as *mut Control;
    // SAFETY: only a Thread gets to these addresses, and while it is there GS is its Control (AEX restores GS: SDM vol. 3D, 36.3).
    unsafe {
        (&raw mut (*control).vector).write_volatile(vector);
        (&raw mut (*control).error).write_volatile(error);
        (&raw mut (*control).address).write_volatile(if vector == PF { address } else { 0 });
    }
}

/// What would have happened without us.
///
/// # Safety
/// With the arguments of a signal handler.
unsafe fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let index = SIGNALS.iter().position(|&known| known == signal);
    let before = index.and_then(|index| BEFORE.get()?.get(index));
    match before.map(|before| (before.sa_sigaction, before.sa_flags)) {
        Some((handler, flags)) if handler != libc::SIG_DFL && handler != libc::SIG_IGN => {
            // SAFETY: the handler was installed with these flags, so it has this signature.
            unsafe {
                if flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) = std::mem::transmute(handler);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(i32) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
        // The default kills: by the same exception again, or by the signal that we send to ourselves.
        // SAFETY: async-signal-safe calls.
        _ => unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        },
    }
}

/// Whether RDGSBASE and WRGSBASE are allowed (AT_HWCAP2, bit 1).
fn fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

fn gs_base() -> u64 {
    let base;
    // SAFETY: no Thread exists where `fsgsbase` is false, and without one nobody gets here.
    unsafe { std::arch::asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// # Safety
/// Nobody relies on GS in this thread. FSGSBASE is allowed.
unsafe fn set_gs_base(base: u64) {
    // SAFETY: the caller's promise.
    unsafe { std::arch::asm!("wrgsbase {}", in(reg) base, options(nostack, preserves_flags)) };
}

fn map(address: u64, length: u64, protection: i32, kind: i32, fd: &OwnedFd, what: &'static str, hint: &'static str) -> Result<(), Error> {
    let flags = kind | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE: nothing that is mapped is replaced.
    let got = unsafe { libc::mmap(address as *mut _, length as usize, protection, flags, fd.as_raw_fd(), 0) };
    if got == libc::MAP_FAILED {
        return Err(system(what, hint));
    }
    if got as u64 != address {
        // SAFETY: just mapped, by a kernel that does not know the flag.
        unsafe { libc::munmap(got, length as usize) };
        return Err(Error::System { what, source: io::Error::from_raw_os_error(libc::EEXIST), hint });
    }
    Ok(())
}

fn read_all(fd: &OwnedFd) -> Result<Vec<u8>, Error> {
    use std::os::unix::fs::FileExt as _;
    let file: std::fs::File = fd.try_clone().map_err(|source| Error::System { what: "dup", source, hint: "raise `ulimit -n`" })?.into();
    let failed = |source| Error::System { what: "read the enclave's map", source, hint: "does a node of the same version run?" };
    let length = file.metadata().map_err(failed)?.len().min((RANGES_MAX * 3 + 5) * 8);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

fn system(what: &'static str, hint: &'static str) -> Error {
    Error::System { what, source: io::Error::last_os_error(), hint }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd as _;

    use super::*;

    #[test]
    fn broken_maps_are_refused() {
        let range = Range { offset: 0x1000, length: 0x2000, protection: 3 };
        let table = Table { elrange_size: 1 << 24, tcs_start: ELRANGE_BASE + 0x8000, tcs_count: 2, ranges: vec![range; 1] };
        assert_eq!(Table::from_bytes(&table.to_bytes()).unwrap(), table);
        let refused = |change: &dyn Fn(&mut Table)| {
            let mut table = table.clone();
            change(&mut table);
            assert!(Table::from_bytes(&table.to_bytes()).is_err(), "{table:?}");
        };
        refused(&|table| table.ranges.push(range));
        refused(&|table| table.ranges[0].length = 0);
        refused(&|table| table.ranges[0].offset = u64::MAX - 4095);
        refused(&|table| table.ranges[0].length = 1 << 24);
        refused(&|table| table.elrange_size = u64::MAX);
        refused(&|table| table.tcs_count = TCS_MAX + 1);
        refused(&|table| table.tcs_start = 0);
        let bytes = table.to_bytes();
        for length in 0..bytes.len() {
            assert!(Table::from_bytes(&bytes[..length]).is_err());
        }
    }

    fn memfd(size: u64, content: &[u8]) -> OwnedFd {
        // SAFETY: a constant name; the descriptor is new.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), 0)) };
        let file: std::fs::File = fd.try_clone().unwrap().into();
        file.set_len(size).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, content, 0).unwrap();
        fd
    }

    /// Runs a test in a process of its own, because it maps fixed addresses and catches signals. `page` is the entry code.
    fn in_child(page: Vec<u8>, test: fn(&Attachment)) {
        if !fsgsbase() {
            eprintln!("skipped: this kernel does not allow FSGSBASE");
            return;
        }
        // SAFETY: the child runs only this test, and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let passed = std::panic::catch_unwind(|| {
                let range = Range { offset: 0, length: 1 << 20, protection: 3 };
                let table = Table { elrange_size: 1 << 24, tcs_start: ELRANGE_BASE + 0x8000, tcs_count: 2, ranges: vec![range] }.to_bytes();
                let fds =
                    vec![memfd(1 << 20, &[]), memfd(table.len() as u64, &table), memfd(host_area::size(2), &[]), memfd(entry::SIZE, &page)];
                test(&Attachment::attach(fds).unwrap());
            });
            // SAFETY: ends this process.
            unsafe { libc::_exit(if passed.is_ok() { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child failed: see its message");
    }

    fn patch(page: &mut [u8], address: u64, bytes: &[u8]) {
        let at = (address - entry::BASE) as usize;
        page[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn a_processor_without_sgx_says_so() {
        in_child(entry::page(), |attachment| {
            let thread = attachment.thread(1).unwrap();
            for _ in 0..3 {
                let error = thread.enter(1, 2, 3).unwrap_err().to_string();
                assert!(
                    error.contains("TCS 1") && (error.contains("#UD") || error.contains("#GP") || error.contains("faulted")),
                    "{error}"
                );
            }
            assert_eq!(thread.state(), TcsState { busy: false, cssa: 0 });
            assert!(thread.resume().unwrap_err().to_string().contains("nothing to resume"));
            assert!(attachment.thread(2).is_err());
        });
    }

    #[test]
    fn eexit_brings_reason_and_argument() {
        let mut page = entry::page();
        // Instead of EENTER: jmp *%r8, as EEXIT would.
        patch(&mut page, labels().eenter, &[0x41, 0xff, 0xe0]);
        in_child(page, |attachment| {
            let thread = attachment.thread(0).unwrap();
            let floats = std::hint::black_box(1.5f64);
            for round in 0..1000 {
                assert_eq!(thread.enter(round, round + 7, 9).unwrap(), Exit::Exit { reason: round, argument: round + 7 });
            }
            assert_eq!(std::hint::black_box(floats) * 2.0, 3.0);
            let slot = thread.slot;
            assert_eq!((slot.eenter.load(Relaxed), slot.eexit.load(Relaxed), slot.aex.load(Relaxed)), (1000, 1000, 0));
        });
    }

    #[test]
    fn an_exception_at_the_aep_was_inside() {
        let mut page = entry::page();
        // EENTER: jmp *%rcx, as an AEX would; at the AEP the exception: ud2. ERESUME: EEXIT to the landing by the distance.
        patch(&mut page, labels().eenter, &[0xff, 0xe1, 0x90]);
        patch(&mut page, labels().aep, &[0x0f, 0x0b]);
        let back = (labels().landing as i64 - (labels().eresume as i64 + 5)) as i32;
        let mut jump = vec![0xe9];
        jump.extend_from_slice(&back.to_le_bytes());
        patch(&mut page, labels().eresume, &jump);
        in_child(page, |attachment| {
            let thread = attachment.thread(0).unwrap();
            for _ in 0..100 {
                assert_eq!(thread.enter(1, 2, 3).unwrap(), Exit::Exception { vector: 6, error: 0, address: 0 });
                assert_eq!(thread.state().cssa, 1);
                assert!(matches!(thread.resume().unwrap(), Exit::Exit { .. }));
                assert_eq!(thread.state().cssa, 0);
            }
            for cssa in 1..=3 {
                assert!(matches!(thread.enter(1, 2, 3), Ok(Exit::Exception { .. })));
                assert_eq!(thread.state().cssa, cssa);
            }
            assert!(thread.enter(1, 2, 3).unwrap_err().to_string().contains("NSSA"));
        });
    }

    #[test]
    fn an_interrupt_comes_out_when_it_is_asked_for() {
        let mut page = entry::page();
        // EENTER: straight to the AEP, as a timer interrupt would. The ERESUME there: as if the enclave left.
        patch(&mut page, labels().eenter, &[0xff, 0xe1, 0x90]);
        in_child(page, |attachment| {
            let thread = attachment.thread(0).unwrap();
            // SAFETY: our own thread's word.
            unsafe { thread.interrupt_word().write_volatile(1) };
            assert_eq!(thread.enter(1, 2, 3).unwrap(), Exit::Interrupted);
            assert_eq!(thread.state().cssa, 1);
            // Not asked for any more: it resumes at once, which this machine can't.
            assert!(thread.enter(1, 2, 3).is_err());
        });
    }

    #[test]
    fn a_death_inside_counts_as_an_aex() {
        let mut page = entry::page();
        // ERESUME raises #GP: a load from a non-canonical address can't be had in three bytes, but `in al, dx` is privileged.
        patch(&mut page, labels().eresume, &[0xec]);
        in_child(page, |attachment| {
            let thread = attachment.thread(0).unwrap();
            thread.slot.state.store(BUSY, Release);
            drop(thread);
            let thread = attachment.thread(0).unwrap();
            assert_eq!(thread.state(), TcsState { busy: false, cssa: 1 });
            // The frame was not there: it died before the EENTER.
            assert!(thread.resume().unwrap_err().to_string().contains("#GP"));
            assert_eq!(thread.state().cssa, 0);
        });
    }

    #[test]
    fn other_faults_are_passed_on() {
        in_child(entry::page(), |_attachment| {
            // SAFETY: the grandchild faults, and is waited for.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    libc::setrlimit(libc::RLIMIT_CORE, &limit);
                    std::ptr::null_mut::<u8>().wrapping_add(8).write_volatile(1);
                    libc::_exit(0);
                }
                let mut status = 0;
                libc::waitpid(child, &mut status, 0);
                assert!(libc::WIFSIGNALED(status), "{status:#x}");
            }
        });
    }
}
