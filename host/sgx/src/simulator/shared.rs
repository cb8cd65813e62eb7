//! The state that the processor would keep for itself: SECS, EPCM and the threads' part of each TCS, in one memfd.
//!
//! The node maps it anywhere; a container's process maps it at [`STATE_BASE`], because the transition code names it by address. Every
//! field that changes after EINIT is an atomic, so that a reference to it may be shared between processes.
//!
//! ```text
//! 0x000_0000  Secs          identity, limits, counters
//! 0x000_1000  ProcessEntry  one for each process that has threads; acknowledges shootdowns
//! 0x002_0000  Record        one for each TCS
//! 0x020_0000  change count  one for each 2 MiB of ELRANGE: what a process compares to bring its mapping up to date
//! 0x0F0_0000  warm pages    numbers of pages that calls touch first ([`super::warm`])
//! 0x100_0000  EPCM          one word for each page of ELRANGE
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use teemate_abi::layout::{ELRANGE_BASE, PAGE_SIZE, TCS_MAX};

/// Where a container's process maps the state. Above ELRANGE, below the host area.
pub const STATE_BASE: u64 = 0x1E00_0000_0000;
/// Start of the processes' entries.
pub const PROCESSES: u64 = 0x1000;
/// How many there are.
pub const PROCESS_COUNT: usize = 0x1F000 / size_of::<ProcessEntry>();
/// Start of the TCS records.
pub const RECORDS: u64 = 0x2_0000;
/// Start of the change counts.
pub const CHANGES: u64 = 0x20_0000;
/// Start of the list of warm pages.
pub const WARM: u64 = 0xF0_0000;
/// Pages that it holds.
pub const WARM_MAX: usize = 1024;
/// Start of the EPCM.
pub const EPCM: u64 = 0x100_0000;
/// Pages that share a change count.
pub const CHUNK_PAGES: u64 = 512;
/// First eight bytes of [`Secs`]. Changes with the layout of anything in this module.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TMSIM002");

/// What EINIT fixed: never written afterwards.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Identity {
    /// Size of ELRANGE.
    pub elrange_size: u64,
    /// Address of the first TCS block.
    pub tcs_start: u64,
    /// TCS blocks.
    pub tcs_count: u64,
    /// First address of the dynamic range.
    pub heap_start: u64,
    /// Address of the ENCLU gate if it was diverted, else 0.
    pub gate: u64,
    /// ATTRIBUTES.FLAGS.
    pub flags: u64,
    /// ATTRIBUTES.XFRM.
    pub xfrm: u64,
    /// MISCSELECT.
    pub miscselect: u64,
    /// Bytes of an SSA frame.
    pub frame_size: u64,
    /// Bytes of an XSAVE area with the components of XFRM.
    pub xsave_size: u64,
    /// ISVPRODID.
    pub isv_prod_id: u64,
    /// ISVSVN.
    pub isv_svn: u64,
    /// MRENCLAVE.
    pub mrenclave: [u8; 32],
    /// MRSIGNER.
    pub mrsigner: [u8; 32],
    /// Stands in for the processor's fuses.
    pub fuses: [u8; 32],
    /// Bytes of the host area.
    pub host_area_size: u64,
}

/// The enclave as a whole.
#[repr(C)]
pub struct Secs {
    /// [`MAGIC`].
    pub magic: u64,
    /// Fixed by EINIT.
    pub identity: Identity,
    /// EPC pages of EADD, and the SECS, less the pages removed: may be "negative". See [`Shared::epc_pages`].
    pub epc_pages: AtomicU64,
    /// The most there may be; 0: no limit.
    pub epc_limit: AtomicU64,
    /// EREMOVE.
    pub eremove: AtomicU64,
    /// Rises with each change of a page's rights, after its chunk's change count did.
    pub changes: AtomicU64,
    /// Rises with each change that takes rights away.
    pub revocations: AtomicU64,
    /// Highest chunk that has had a page, plus one.
    pub chunk_top: AtomicU64,
    /// Kills by rule, see `guard::Rule`.
    pub kills: [AtomicU64; 16],
    /// How many there are in the list of warm pages.
    pub warm_pages: AtomicU64,
}

/// A process that has threads.
#[repr(C)]
pub struct ProcessEntry {
    /// 0: free.
    pub taken: AtomicU64,
    /// The last revocation that it has carried out in its own mapping.
    pub acknowledged: AtomicU64,
}

/// What the processor keeps of one TCS, and what the transition code keeps beside it. The offsets are known to the assembly.
#[repr(C, align(512))]
pub struct Record {
    /// Busy in bit 0, CSSA from bit 32: one word, so that an AEX commits by one store.
    pub state: AtomicU64,
    /// Address of the TCS; 0: no such TCS.
    pub tcs: AtomicU64,
    /// TCS.NSSA.
    pub nssa: AtomicU64,
    /// Address of SSA[0].
    pub ssa: AtomicU64,
    /// Address of TCS.OENTRY.
    pub oentry: AtomicU64,
    /// FS base of a fresh entry.
    pub fsbase: AtomicU64,
    /// GS base of a fresh entry.
    pub gsbase: AtomicU64,
    /// Bytes of an SSA frame.
    pub frame_size: AtomicU64,
    /// XFRM.
    pub xfrm: AtomicU64,
    /// Untrusted stack that EENTER gives.
    pub untrusted_top: AtomicU64,
    /// XSAVE area for a leaf in progress.
    pub xarea: AtomicU64,

    /// Stack pointer of the host code that entered last.
    pub host_rsp: AtomicU64,
    /// Its FS base. Its GS base is the address of this record.
    pub host_fs: AtomicU64,
    /// `leaves::gate_leaf` in the process that entered last.
    pub helper: AtomicU64,
    /// RDI at EEXIT.
    pub out0: AtomicU64,
    /// RSI at EEXIT.
    pub out1: AtomicU64,

    /// Leaf in progress.
    pub leaf: AtomicU64,
    /// Its effect is complete and its result is in `regs` and `flags`.
    pub leaf_done: AtomicU64,
    /// Address of the ENCLU, if it trapped and its signal handler is at work on it.
    pub leaf_rip: AtomicU64,
    /// Page that an EACCEPT is changing, plus one.
    pub journal: AtomicU64,
    /// EAUGs by this TCS's thread, from bit 32; below, the page that one is adding, plus one. One word: the store that counts it ends it.
    pub eaug: AtomicU64,
    /// Registers at the leaf, in the order of GPRSGX.
    pub regs: [AtomicU64; 16],
    /// RFLAGS after the leaf.
    pub flags: AtomicU64,
    /// FS base at the leaf.
    pub saved_fs: AtomicU64,
    /// GS base at the leaf.
    pub saved_gs: AtomicU64,

    /// EENTER.
    pub eenter: AtomicU64,
    /// EEXIT.
    pub eexit: AtomicU64,
    /// AEX.
    pub aex: AtomicU64,
    /// ERESUME.
    pub eresume: AtomicU64,

    /// Address of the `ucontext` that a signal leaves on this slot's signal stack.
    pub signal_frame: AtomicU64,
    /// Vector of the last AEX; [`NO_VECTOR`] if it was an interrupt.
    pub exit_vector: AtomicU64,
    /// Its error code.
    pub exit_error: AtomicU64,
    /// Its address.
    pub exit_address: AtomicU64,
}

/// [`Record::exit_vector`] of an interrupt.
pub const NO_VECTOR: u64 = 256;
/// Busy bit of [`Record::state`].
pub const BUSY: u64 = 1;

const _: () = assert!(size_of::<Record>() == 512);
const _: () = assert!(size_of::<Secs>() <= PROCESSES as usize);
const _: () = assert!(RECORDS + TCS_MAX as u64 * 512 <= CHANGES);

impl Record {
    /// CSSA.
    pub fn cssa(&self) -> u64 {
        self.state.load(Relaxed) >> 32
    }

    /// A thread is inside.
    pub fn busy(&self) -> bool {
        self.state.load(Relaxed) & BUSY != 0
    }
}

/// The state's memfd, mapped at `base`. Lives as long as the mapping, which its maker sees to.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    base: *const u8,
    pages: u64,
}

// SAFETY: everything behind the pointer is either fixed before the first `Shared` is handed out (Identity) or atomic.
unsafe impl Send for Shared {}
// SAFETY: as for Send.
unsafe impl Sync for Shared {}

/// Bytes of the state's memfd for an ELRANGE of this size.
pub const fn state_size(elrange_size: u64) -> u64 {
    EPCM + elrange_size / PAGE_SIZE * 8
}

impl Shared {
    /// # Safety
    /// `base` is a mapping of [`state_size`]`(elrange_size)` bytes of a state memfd, readable and writable, that outlives every use.
    pub const unsafe fn new(base: *const u8, elrange_size: u64) -> Self {
        Shared { base, pages: elrange_size / PAGE_SIZE }
    }

    /// The enclave as a whole.
    pub fn secs(&self) -> &Secs {
        // SAFETY: the mapping starts with a Secs (contract of `new`); its changing fields are atomics.
        unsafe { &*self.base.cast() }
    }

    /// What EINIT fixed.
    pub fn identity(&self) -> &Identity {
        &self.secs().identity
    }

    /// TCS `index`, if there is such a one.
    pub fn record(&self, index: u64) -> Option<&Record> {
        if index >= TCS_MAX as u64 {
            return None;
        }
        // SAFETY: below TCS_MAX, so within the mapping; all fields are atomics.
        let record: &Record = unsafe { &*self.base.add((RECORDS + index * 512) as usize).cast() };
        (record.tcs.load(Relaxed) != 0).then_some(record)
    }

    /// All TCSs.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        (0..TCS_MAX as u64).filter_map(|index| self.record(index))
    }

    /// The room for TCS `index`, whether there is one or not.
    pub fn record_slot(&self, index: u64) -> Option<&Record> {
        // SAFETY: as in `record`.
        (index < TCS_MAX as u64).then(|| unsafe { &*self.base.add((RECORDS + index * 512) as usize).cast() })
    }

    /// Entry of a process.
    pub fn process(&self, index: usize) -> Option<&ProcessEntry> {
        // SAFETY: below PROCESS_COUNT, so before RECORDS; all fields are atomics.
        (index < PROCESS_COUNT).then(|| unsafe { &*self.base.add(PROCESSES as usize).cast::<ProcessEntry>().add(index) })
    }

    /// EPCM word of a page, counted from ELRANGE_BASE.
    pub fn word(&self, page: u64) -> Option<&AtomicU64> {
        // SAFETY: below `pages`, so within the mapping (contract of `new`).
        (page < self.pages).then(|| unsafe { &*self.base.add(EPCM as usize).cast::<AtomicU64>().add(page as usize) })
    }

    /// The number of a warm page.
    pub fn warm_page(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: below WARM_MAX, so before EPCM.
        (index < WARM_MAX).then(|| unsafe { &*self.base.add(WARM as usize).cast::<AtomicU64>().add(index) })
    }

    /// Change count of the chunk that holds a page.
    pub fn chunk_changes(&self, chunk: u64) -> Option<&AtomicU64> {
        // SAFETY: ELRANGE has at most 1 TiB, so the counts end below WARM.
        (chunk < self.pages.div_ceil(CHUNK_PAGES))
            .then(|| unsafe { &*self.base.add(CHANGES as usize).cast::<AtomicU64>().add(chunk as usize) })
    }

    /// Says that the rights of a page changed. After the change of its EPCM word.
    pub fn changed(&self, page: u64) {
        let chunk = page / CHUNK_PAGES;
        if let Some(count) = self.chunk_changes(chunk) {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        let secs = self.secs();
        if secs.chunk_top.load(Relaxed) <= chunk {
            secs.chunk_top.fetch_max(chunk + 1, Relaxed);
        }
        secs.changes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }

    /// EPC pages in use, SECS included.
    pub fn epc_pages(&self) -> u64 {
        self.secs().epc_pages.load(Relaxed).wrapping_add(self.eaug())
    }

    /// EAUGs of all threads.
    pub fn eaug(&self) -> u64 {
        self.records().map(|record| record.eaug.load(Relaxed) >> 32).sum()
    }

    /// Pages in ELRANGE.
    pub fn page_count(&self) -> u64 {
        self.pages
    }

    /// Page of an address, if it is in ELRANGE.
    pub fn page_of(&self, address: u64) -> Option<u64> {
        let page = address.checked_sub(ELRANGE_BASE)? / PAGE_SIZE;
        (page < self.pages).then_some(page)
    }
}

const _: () = assert!(CHANGES + (teemate_abi::layout::ELRANGE_SIZE_MAX >> 21) * 8 <= WARM);
const _: () = assert!(WARM + WARM_MAX as u64 * 8 <= EPCM);
