//! A container's process: its mapping of the enclave, kept in step with the EPCM, and its threads.
//!
//! A process's page tables must never allow more than the EPCM does. They may allow less: then a fault looks at the EPCM and mends them.
//! Rights that were taken away are dropped at a shootdown (a signal from the node), at the next entry, or at [`sync`], whichever is first.

use std::{
    cell::UnsafeCell,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    },
};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, PAGE_SIZE, tcs_block},
};

use super::{
    epcm::{self, Word},
    leaves, shared,
    shared::{CHUNK_PAGES, NO_VECTOR, RECORDS, Record, STATE_BASE, Shared},
    signals,
    ssa::{Cause, Context, Frame},
    transition::{self, kind, labels},
    warm,
};
use crate::device::{Error, Exit, TcsState};

/// A page of this process alone, empty again in a forked child: which [`shared::ProcessEntry`] is its own.
pub const PROCESS_PAGE: u64 = 0x1F10_0000_0000;
/// Pages that one fault may map, on either side.
const FAULT_REACH: u64 = 512;
const SPIN_LIMIT: u32 = 1_000_000;

static ATTACHED: AtomicBool = AtomicBool::new(false);
static ELRANGE_SIZE: AtomicU64 = AtomicU64::new(0);
/// `Secs::changes` when the mapping was last brought up to date.
static SEEN_CHANGES: AtomicU64 = AtomicU64::new(0);
/// `Secs::revocations`, likewise.
static SEEN_REVOCATIONS: AtomicU64 = AtomicU64::new(0);
/// The change count of each chunk, likewise: a private mapping of as many words as there are chunks.
static SEEN_CHUNKS: AtomicU64 = AtomicU64::new(0);
/// Held while the mapping changes. Handlers run with signals blocked, and [`sync`] blocks them, so the holder is never interrupted.
static MAPPING: AtomicU32 = AtomicU32::new(0);

/// The state, once this process has attached.
pub fn shared() -> Option<Shared> {
    if !ATTACHED.load(Acquire) {
        return None;
    }
    // SAFETY: `attach` mapped it there, and it is never unmapped.
    Some(unsafe { Shared::new(STATE_BASE as *const u8, ELRANGE_SIZE.load(Relaxed)) })
}

/// Whether an address is in ELRANGE.
pub fn in_elrange(address: u64) -> bool {
    address.wrapping_sub(ELRANGE_BASE) < ELRANGE_SIZE.load(Relaxed)
}

/// Maps everything: EPC, state, host area, transition code, in the order of `SimulatedEnclave::share`.
pub fn attach(fds: Vec<OwnedFd>) -> Result<(), Error> {
    let [epc, state, host, code] = <[OwnedFd; 4]>::try_from(fds)
        .map_err(|fds| Error::Unsupported(format!("the simulator's enclave comes as 4 descriptors, not {}", fds.len())))?;
    if ATTACHED.load(Acquire) {
        return Err(Error::Unsupported("this process has an enclave already: a process can have one only".to_owned()));
    }
    // SAFETY: getauxval has no preconditions.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 == 0 {
        return Err(Error::Unsupported("the simulator needs FSGSBASE in user space: a processor since 2012 and Linux 5.9".to_owned()));
    }
    if (attach as *const () as u64) < transition::BASE {
        return Err(Error::Unsupported("the simulator needs its host program above ELRANGE: build it as a PIE".to_owned()));
    }
    let identity = read_identity(&state)?;
    let size = identity.elrange_size;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    map("map the state", STATE_BASE, shared::state_size(size), rw, &state)?;
    map("map the host area", host_area::BASE, identity.host_area_size, rw, &host)?;
    map("map the transition code", transition::BASE, transition::SIZE, libc::PROT_READ | libc::PROT_EXEC, &code)?;
    map("map ELRANGE", ELRANGE_BASE, size, libc::PROT_NONE, &epc)?;
    let own = transition::page(identity.tcs_start, identity.tcs_count, size);
    // SAFETY: mapped a moment ago, read-only for everybody (sealed).
    let mapped = unsafe { std::slice::from_raw_parts(transition::BASE as *const u8, transition::SIZE as usize) };
    if mapped != own {
        return Err(Error::Unsupported("the enclave was built by another version of this program; restart the node".to_owned()));
    }
    let chunks = size / PAGE_SIZE / CHUNK_PAGES + 1;
    let seen = map_private(0, chunks * 8)?;
    map_private(PROCESS_PAGE, PAGE_SIZE)?;
    // SAFETY: the page was mapped by the line above.
    if unsafe { libc::madvise(PROCESS_PAGE as *mut _, PAGE_SIZE as usize, libc::MADV_WIPEONFORK) } != 0 {
        return Err(system("madvise(MADV_WIPEONFORK)", "needs Linux 4.14"));
    }
    SEEN_CHUNKS.store(seen, Relaxed);
    ELRANGE_SIZE.store(size, Relaxed);
    ATTACHED.store(true, Release);
    signals::install()?;
    sync_all();
    measure_frames(identity.tcs_count as u32 - 1)
}

/// Measures how deep a signal's frame is, once for this process and those that are forked from it: in a guarded container the signal
/// would be a ptrace stop, which takes longer than everything else there. The slot is one that nobody can be using: an enclave's first
/// process attaches before any thread enters.
fn measure_frames(slot: u32) -> Result<(), Error> {
    let Some(shared) = shared() else { return Ok(()) };
    let Some(record) = shared.record(slot.into()) else { return Err(Error::Entry { tcs: slot, why: "there is no such TCS" }) };
    let old = use_signal_stack(slot)?;
    // The handler loads it, as it finds itself on the slot's stack.
    record.host_fs.store(signals::fs_base(), Relaxed);
    let measured = signals::frame_address(host_area::slot(slot) + host_area::SLOT_SIGNAL_STACK_TOP);
    // SAFETY: what `use_signal_stack` found there; nothing runs on the slot's stack now.
    unsafe { libc::sigaltstack(&old, std::ptr::null_mut()) };
    measured.map(|_| ())
}

/// Makes a slot's signal stack that of the calling thread; gives the one that it had.
fn use_signal_stack(slot: u32) -> Result<libc::stack_t, Error> {
    let stack = libc::stack_t {
        ss_sp: (host_area::slot(slot) + host_area::SLOT_SIGNAL_STACK) as *mut _,
        ss_flags: 0,
        ss_size: (host_area::SLOT_SIGNAL_STACK_TOP - host_area::SLOT_SIGNAL_STACK) as usize,
    };
    let mut old = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the slot's signal stack is mapped for good, and this thread alone uses it (see the callers).
    if unsafe { libc::sigaltstack(&stack, &mut old) } != 0 {
        return Err(system("sigaltstack", "the frame of this processor's registers may be larger than 64 KiB"));
    }
    Ok(old)
}

pub(super) fn read_identity(state: &OwnedFd) -> Result<shared::Identity, Error> {
    // SAFETY: maps a page of the descriptor wherever the kernel likes; unmapped below.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, state.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(system("map the state", "is this the simulator's descriptor?"));
    }
    // SAFETY: a page, and Secs is smaller; the fields read here are plain numbers and never change.
    let (magic, identity) = unsafe { ((*at.cast::<shared::Secs>()).magic, (*at.cast::<shared::Secs>()).identity) };
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(at, 4096) };
    if magic != shared::MAGIC {
        return Err(Error::Unsupported("these descriptors are not an enclave of this simulator".to_owned()));
    }
    Ok(identity)
}

fn map(what: &'static str, address: u64, size: u64, protection: i32, fd: &OwnedFd) -> Result<(), Error> {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
    // SAFETY: FIXED_NOREPLACE: it can't replace a mapping that something else relies on.
    let at = unsafe { libc::mmap(address as *mut _, size as usize, protection, flags, fd.as_raw_fd(), 0) };
    if at as u64 == address {
        return Ok(());
    }
    Err(system(what, "is something else mapped below 0x3000_0000_0000? Check `ulimit -v` too"))
}

fn map_private(address: u64, size: u64) -> Result<u64, Error> {
    let fixed = if address == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: a fresh anonymous mapping that replaces nothing.
    let at = unsafe { libc::mmap(address as *mut _, size as usize, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED || (address != 0 && at as u64 != address) {
        return Err(system("map private memory", "check `ulimit -v`"));
    }
    Ok(at as u64)
}

pub(super) fn system(what: &'static str, hint: &'static str) -> Error {
    Error::System { what, source: std::io::Error::last_os_error(), hint }
}

/// Brings this process's mapping up to date. Cheap when nothing changed. Not for signal handlers.
pub fn sync() {
    let Some(shared) = shared() else { return };
    if shared.secs().changes.load(SeqCst) != SEEN_CHANGES.load(Relaxed) {
        with_signals_blocked(sync_all);
    }
}

/// Runs `work` with every signal blocked that can be.
fn with_signals_blocked(work: impl FnOnce()) {
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are local; the second call puts back what the first read.
    unsafe {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    work();
    // SAFETY: initialised by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
}

/// The same, with signals blocked already.
pub(super) fn sync_all() {
    let Some(shared) = shared() else { return };
    let secs = shared.secs();
    let _lock = lock_mapping();
    let revocations = secs.revocations.load(SeqCst);
    let changes = secs.changes.load(SeqCst);
    for chunk in 0..secs.chunk_top.load(SeqCst) {
        let (Some(count), Some(seen)) = (shared.chunk_changes(chunk), seen_chunk(chunk)) else { break };
        let now = count.load(SeqCst);
        if seen.load(Relaxed) == now {
            continue;
        }
        remap_chunk(&shared, chunk);
        seen.store(now, Relaxed);
    }
    SEEN_CHANGES.store(changes, Relaxed);
    SEEN_REVOCATIONS.store(revocations, Relaxed);
    // SAFETY: `attach` mapped the page.
    let own = unsafe { &*(PROCESS_PAGE as *const AtomicU64) }.load(Relaxed);
    if let Some(entry) = own.checked_sub(1).and_then(|index| shared.process(index as usize)) {
        entry.acknowledged.fetch_max(revocations, SeqCst);
    }
}

fn seen_chunk(chunk: u64) -> Option<&'static AtomicU64> {
    let base = SEEN_CHUNKS.load(Relaxed);
    if base == 0 || chunk > ELRANGE_SIZE.load(Relaxed) / PAGE_SIZE / CHUNK_PAGES {
        return None;
    }
    // SAFETY: `attach` mapped a word for each chunk there, for good.
    Some(unsafe { &*(base as *const AtomicU64).add(chunk as usize) })
}

struct MappingLock;

fn lock_mapping() -> MappingLock {
    for _ in 0..SPIN_LIMIT {
        if MAPPING.compare_exchange_weak(0, 1, AcqRel, Relaxed).is_ok() {
            break;
        }
        // SAFETY: no preconditions.
        unsafe { libc::sched_yield() };
    }
    MappingLock
}

impl Drop for MappingLock {
    fn drop(&mut self) {
        MAPPING.store(0, Release);
    }
}

/// Gives a chunk's pages the protection that the EPCM says, run by run.
///
/// Not so the blocks of the TCSs: a process needs those that its threads enter with ([`map_block`]), and hundreds of them would be two
/// mappings each, which every clone copies and every exit tears down. They only lose rights here.
fn remap_chunk(shared: &Shared, chunk: u64) {
    let first = chunk * CHUNK_PAGES;
    let end = (first + CHUNK_PAGES).min(shared.page_count());
    let blocks = blocks(shared);
    let wanted = |page: u64| Some(rights_of(shared, page)).filter(|&rights| rights == 0 || !blocks.contains(&page));
    remap(first..end, wanted);
}

/// Maps the pages of a TCS's block as the EPCM says.
fn map_block(shared: &Shared, tcs: u32) {
    let first = blocks(shared).start + u64::from(tcs) * BLOCK_PAGES;
    let _lock = lock_mapping();
    remap(first..first + BLOCK_PAGES, |page| Some(rights_of(shared, page)));
}

/// Pages of the blocks of all TCSs.
fn blocks(shared: &Shared) -> std::ops::Range<u64> {
    let identity = shared.identity();
    let first = (identity.tcs_start - ELRANGE_BASE) / PAGE_SIZE;
    first..first + identity.tcs_count * BLOCK_PAGES
}

/// Runs of pages that shall have the same rights become one call; those without an opinion stay as they are.
fn remap(pages: std::ops::Range<u64>, wanted: impl Fn(u64) -> Option<u8>) {
    let mut page = pages.start;
    while page < pages.end {
        let rights = wanted(page);
        let mut next = page + 1;
        while next < pages.end && wanted(next) == rights {
            next += 1;
        }
        if let Some(rights) = rights {
            protect(page, next - page, rights);
        }
        page = next;
    }
}

const BLOCK_PAGES: u64 = tcs_block::STRIDE / PAGE_SIZE;

fn rights_of(shared: &Shared, page: u64) -> u8 {
    shared.word(page).map_or(0, |word| Word(word.load(SeqCst)).usable())
}

fn protect(page: u64, count: u64, rights: u8) -> bool {
    let mut protection = libc::PROT_NONE;
    for (right, bit) in [(epcm::R, libc::PROT_READ), (epcm::W, libc::PROT_WRITE), (epcm::X, libc::PROT_EXEC)] {
        if rights & right != 0 {
            protection |= bit;
        }
    }
    let address = ELRANGE_BASE + page * PAGE_SIZE;
    // SAFETY: a part of ELRANGE, in which no Rust object lives.
    unsafe { libc::mprotect(address as *mut _, (count * PAGE_SIZE) as usize, protection) == 0 }
}

/// What became of a fault in ELRANGE.
pub enum Resolution {
    /// The mapping was older than the EPCM; try again.
    Mapped,
    /// The EPCM forbids it: #PF with this error code.
    Denied(u32),
}

/// A page fault in ELRANGE, with the error code that the processor gave. In a signal handler.
pub fn resolve(record: &Record, address: u64, error: u32) -> Resolution {
    let Some(shared) = shared() else { return Resolution::Denied(error) };
    let Some(page) = shared.page_of(address) else { return Resolution::Denied(error) };
    let access = match error & 0x12 {
        0x10 | 0x12 => epcm::X,
        2 => epcm::W,
        _ => epcm::R,
    };
    let user = error & 0x12 | 4;
    let _lock = lock_mapping();
    let Some(word) = shared.word(page) else { return Resolution::Denied(user) };
    let now = Word(word.load(SeqCst));
    if !now.valid() {
        // The driver answers a fault in the dynamic range by EAUG; the page is then pending, and only EACCEPT may touch it.
        return match leaves::augment(&shared, record, page, address) {
            Ok(()) => Resolution::Denied(user | 1 | leaves::PF_USER_SGX),
            Err(Cause::Exception { error, .. }) => Resolution::Denied(user | error & crate::device::EPC_FULL),
            Err(Cause::Interrupt) => Resolution::Denied(user),
        };
    }
    if !now.allows(access) {
        return Resolution::Denied(user | 1 | leaves::PF_USER_SGX);
    }
    let rights = now.usable();
    let low = page.saturating_sub(FAULT_REACH);
    let high = (page + FAULT_REACH).min(shared.page_count());
    let mut first = page;
    while first > low && rights_of(&shared, first - 1) == rights {
        first -= 1;
    }
    let mut end = page + 1;
    while end < high && rights_of(&shared, end) == rights {
        end += 1;
    }
    if protect(first, end - first, rights) || protect(page, 1, rights) {
        Resolution::Mapped
    } else {
        // Too many mappings (vm.max_map_count).
        Resolution::Denied(user | crate::device::EPC_FULL)
    }
}

/// Maps these pages in one go, and touches them, as far as the EPCM allows.
pub fn prefault(address: u64, length: u64) {
    sync();
    if length == 0 || !in_elrange(address) || !in_elrange(address.saturating_add(length - 1)) {
        return;
    }
    // SAFETY: a part of ELRANGE; populating does not change its content. Where a page forbids it, the kernel stops there.
    unsafe { libc::madvise(address as *mut _, length as usize, libc::MADV_POPULATE_WRITE) };
}

/// AEX: the context goes to SSA[CSSA], then one store raises CSSA and gives the TCS back.
pub fn asynchronous_exit(shared: &Shared, record: &Record, context: &Context, xsave: &[u8], cause: Cause) {
    let frame = record.ssa.load(Relaxed) + record.cssa() * record.frame_size.load(Relaxed);
    // SAFETY: image pages of the enclave, readable and writable (checked when it was built); nobody else touches this TCS's frame.
    let bytes = unsafe { std::slice::from_raw_parts_mut(frame as *mut u8, record.frame_size.load(Relaxed) as usize) };
    commit(shared, record, &mut Frame(bytes), context, xsave, cause);
}

/// The same with the frame given as bytes: the guard has ELRANGE elsewhere.
pub fn commit(shared: &Shared, record: &Record, frame: &mut Frame<'_>, context: &Context, xsave: &[u8], cause: Cause) {
    let identity = shared.identity();
    frame.store(context, xsave, identity.xfrm, cause, identity.miscselect & 1 != 0);
    let (vector, error, address) = match cause {
        Cause::Interrupt => (NO_VECTOR, 0, 0),
        Cause::Exception { vector, error, address } => (vector as u64, error as u64, address),
    };
    record.exit_vector.store(vector, Relaxed);
    record.exit_error.store(error, Relaxed);
    record.exit_address.store(address, Relaxed);
    count(&record.aex);
    record.state.store((record.cssa() + 1) << 32, Release);
}

/// Adds one to a counter that has one writer at a time.
pub fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// A host thread that may enter with one TCS. While it lives, the thread's signal stack and GS base are the TCS's.
pub struct Thread {
    shared: Shared,
    index: u32,
    old_stack: libc::stack_t,
    old_gs: u64,
    /// Bound to its host thread.
    _not_send: std::marker::PhantomData<UnsafeCell<*const ()>>,
}

impl Thread {
    /// Readies the calling thread for TCS `index`.
    pub fn new(index: u32) -> Result<Thread, Error> {
        let Some(shared) = shared() else {
            return Err(Error::Unsupported("this process has not attached to an enclave".to_owned()));
        };
        let Some(record) = shared.record(index as u64) else {
            return Err(Error::Entry { tcs: index, why: "there is no such TCS" });
        };
        with_signals_blocked(|| map_block(&shared, index));
        let slot = host_area::slot(index);
        // The TCS is leased to this thread alone.
        let old_stack = use_signal_stack(index)?;
        record.host_fs.store(signals::fs_base(), Relaxed);
        let old_gs = signals::gs_base();
        // SAFETY: neither Rust nor libc uses GS on x86-64.
        unsafe { signals::set_gs_base(STATE_BASE + RECORDS + index as u64 * 512) };
        let thread = Thread { shared, index, old_stack, old_gs, _not_send: std::marker::PhantomData };
        record.signal_frame.store(signals::frame_address(slot + host_area::SLOT_SIGNAL_STACK_TOP)?, Relaxed);
        set_syscall_dispatch(true)?;
        Ok(thread)
    }

    /// EENTER with these in RDI, RSI and RDX.
    pub fn enter(&self, reason: u64, a: u64, b: u64) -> Result<Exit, Error> {
        let record = self.prepare()?;
        // SAFETY: the transition code has this ABI, and comes back with the callee-saved registers as they were.
        let came = unsafe {
            let enter: unsafe extern "C" fn(*const Record, u64, u64, u64) -> u64 = std::mem::transmute(labels().enter);
            enter(record, reason, a, b)
        };
        self.exit(record, came)
    }

    /// Maps what calls touch first. For a moment when nobody waits.
    pub fn prefault(&self) {
        warm::prefault(&self.shared, self.index);
    }

    /// ERESUME.
    pub fn resume(&self) -> Result<Exit, Error> {
        let record = self.prepare()?;
        // SAFETY: as in `enter`.
        let came = unsafe {
            let resume: unsafe extern "C" fn(*const Record) -> u64 = std::mem::transmute(labels().resume);
            resume(record)
        };
        self.exit(record, came)
    }

    /// Busy, and CSSA.
    pub fn state(&self) -> TcsState {
        let state = self.shared.record(self.index as u64).map_or(0, |record| record.state.load(Acquire));
        TcsState { busy: state & 1 != 0, cssa: (state >> 32) as u32 }
    }

    /// Which TCS.
    pub fn tcs(&self) -> u32 {
        self.index
    }

    /// A process takes its entry, and so its part in shootdowns, with its first way in: one that only waits is not woken for them.
    fn prepare(&self) -> Result<&Record, Error> {
        claim_entry(&self.shared)?;
        if self.shared.secs().revocations.load(SeqCst) != SEEN_REVOCATIONS.load(Relaxed) {
            with_signals_blocked(sync_all);
        }
        let Some(record) = self.shared.record(self.index as u64) else {
            return Err(Error::Entry { tcs: self.index, why: "the TCS was removed" });
        };
        record.helper.store(leaves::gate_leaf as *const () as u64, Relaxed);
        Ok(record)
    }

    fn exit(&self, record: &Record, came: u64) -> Result<Exit, Error> {
        let why = match came {
            kind::EXIT => {
                return Ok(Exit::Exit { reason: record.out0.load(Relaxed), argument: record.out1.load(Relaxed) });
            }
            kind::AEX => {
                return Ok(match record.exit_vector.load(Relaxed) {
                    NO_VECTOR => Exit::Interrupted,
                    vector => Exit::Exception {
                        vector: vector as u8,
                        error: record.exit_error.load(Relaxed) as u32,
                        address: record.exit_address.load(Relaxed),
                    },
                });
            }
            kind::BUSY => "it is busy (#GP): another thread is inside with it",
            kind::NSSA => "CSSA = NSSA (#GP): no SSA frame is left for another exception; resume it",
            kind::CSSA_0 => "CSSA = 0 (#GP): there is nothing to resume",
            kind::RIP => "the saved RIP is outside ELRANGE (#GP)",
            _ => "its SSA frame can't be read or written (#PF), or holds impossible register contents (#GP)",
        };
        Err(Error::Entry { tcs: self.index, why })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Errors would only mean that the thread is as it was before.
        let _ = set_syscall_dispatch(false);
        // SAFETY: what it was before `new`.
        unsafe {
            signals::set_gs_base(self.old_gs);
            libc::sigaltstack(&self.old_stack, std::ptr::null_mut());
        }
    }
}

/// Syscall User Dispatch: every syscall instruction below the end of ELRANGE raises SIGSYS.
fn set_syscall_dispatch(on: bool) -> Result<(), Error> {
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    let end = ELRANGE_BASE + ELRANGE_SIZE.load(Relaxed);
    let (mode, start, length) = if on { (1u64, end, 0x7fff_ffff_f000 - end) } else { (0, 0, 0) };
    // SAFETY: no memory is passed (no selector).
    if unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, mode, start, length, 0u64) } != 0 {
        return Err(system("prctl(PR_SET_SYSCALL_USER_DISPATCH)", "needs Linux 5.11 and a seccomp filter that allows it"));
    }
    Ok(())
}

/// Takes an entry for this process, unless it has one.
fn claim_entry(shared: &Shared) -> Result<(), Error> {
    // SAFETY: `attach` mapped the page; in a child it is there, and empty.
    let own = unsafe { &*(PROCESS_PAGE as *const AtomicU64) };
    if own.load(Acquire) != 0 {
        return Ok(());
    }
    for index in 0..shared::PROCESS_COUNT {
        let Some(entry) = shared.process(index) else { break };
        if entry.taken.compare_exchange(0, 1, AcqRel, Relaxed).is_err() {
            continue;
        }
        entry.acknowledged.store(0, SeqCst);
        // From here on shootdowns count this process; what was revoked before is carried out below.
        if own.compare_exchange(0, index as u64 + 1, AcqRel, Relaxed).is_err() {
            // Another thread of this process was first.
            entry.taken.store(0, Release);
        }
        let revocations = shared.secs().revocations.load(SeqCst);
        if revocations == SEEN_REVOCATIONS.load(Relaxed) {
            entry.acknowledged.fetch_max(revocations, SeqCst);
        } else {
            with_signals_blocked(sync_all);
        }
        return Ok(());
    }
    Err(Error::Unsupported("too many processes have this enclave; end containers".to_owned()))
}
