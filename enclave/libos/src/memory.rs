//! Pages of the dynamic range: accepted when first needed, zeroed when freed, and kept.
//!
//! ```text
//! heap_start   page table of this module: one byte a page, itself accepted as it is needed
//!              kernel zone: threads' blocks
//!              brk zone
//!              arena: everything that the payload maps
//! heap_end
//! ```
//! A page that the payload gave back stays in the enclave, zero and accepted, and the next mapping takes the lowest addresses first: no
//! EAUG on the path of a request. What a container maps is charged to it, and beyond its quota it gets ENOMEM, alone.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use teemate_abi::host_area::{BASE, Header};
use teemate_abi::layout::PAGE_SIZE;
use teemate_abi::ocall::edmm;

use crate::enclu::{self, eaccept, emodpe, flags};
use crate::lock::Spin;
use crate::space::{Space, prot};
use crate::{SysResult, container, local::info, ocall};

const KERNEL_ZONE: u64 = 1 << 28;
const BRK_ZONE: u64 = 1 << 28;
/// Bytes of the brk zone that are accepted from the start.
const HEAP_RESERVE: u64 = 2 << 20;
/// Of what the host means to give, one page in so many, and at most so many pages, are not for containers: a thread of the payload that
/// finds no page for its stack or heap ends the enclave for all.
const RESERVE_SHARE: u64 = 16;
const RESERVE_MOST: u64 = 8192;
/// Pages that are accepted together at a fault.
const FAULT_AROUND: u64 = 16;

/// In the page table: the page is part of the enclave.
const ACCEPTED: u8 = 0x80;
/// In the page table: its rights in the EPCM.
const RIGHTS: u8 = 0x07;

static MEMORY: Spin<Option<Memory>> = Spin::new(None);
static ACCEPTED_PAGES: AtomicU64 = AtomicU64::new(0);

struct Memory {
    table: PageTable,
    kernel_next: u64,
    kernel_end: u64,
    brk_start: u64,
    brk: u64,
    space: Space,
}

/// Why a page cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there, or not with these rights.
    Segment,
    /// No EPC page is left.
    Full,
}

/// Sets the zones up. Once, before any other function here.
pub fn start() {
    let (start, end) = (info().heap_start, info().heap_end);
    let pages = (end - start) / PAGE_SIZE;
    let table_end = (start + pages).next_multiple_of(PAGE_SIZE);
    let kernel_end = table_end + KERNEL_ZONE;
    let arena = kernel_end + BRK_ZONE;
    let mut table = PageTable { start };
    // So that the payload's own heap does not fail first when a container has taken the last EPC page.
    if table.accept(kernel_end..kernel_end + HEAP_RESERVE).is_err() {
        crate::end::panic(format_args!("the EPC has no room for the payload's heap: give the enclave more"));
    }
    *MEMORY.lock() =
        Some(Memory { table, kernel_next: table_end, kernel_end, brk_start: kernel_end, brk: kernel_end, space: Space::new(arena..end) });
}

fn with<R>(f: impl FnOnce(&mut Memory) -> R) -> R {
    match MEMORY.lock().as_mut() {
        Some(memory) => f(memory),
        None => crate::end::panic(format_args!("memory is used before it is set up")),
    }
}

/// Pages accepted after EINIT and still part of the enclave.
pub fn accepted_pages() -> u64 {
    ACCEPTED_PAGES.load(Ordering::Relaxed)
}

/// Fresh zero pages for the LibOS itself. They are never given back; who uses them keeps them for reuse.
pub fn kernel_pages(count: u64) -> Option<*mut u8> {
    with(|m| {
        let range = m.kernel_next..m.kernel_next + count * PAGE_SIZE;
        if range.end > m.kernel_end {
            return None;
        }
        m.table.accept(range.clone()).ok()?;
        m.kernel_next = range.end;
        Some(range.start as *mut u8)
    })
}

fn pages(address: u64, length: u64) -> Result<Range<u64>, i32> {
    let end = address.checked_add(length).and_then(|e| e.checked_next_multiple_of(PAGE_SIZE)).ok_or(libc::ENOMEM)?;
    if !address.is_multiple_of(PAGE_SIZE) || length == 0 {
        return Err(libc::EINVAL);
    }
    Ok(address..end)
}

fn rights(linux: u64) -> Result<u8, i32> {
    let known = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let r = (linux & known) as u8;
    // No page is writable and executable at one time.
    if linux & !known != 0 || r & (prot::W | prot::X) == prot::W | prot::X { Err(libc::EINVAL) } else { Ok(r) }
}

/// mmap(2), anonymous and private.
pub fn mmap(address: u64, length: u64, protection: u64, mmap_flags: u64, fd: i64) -> SysResult {
    let has = |flag: i32| mmap_flags & flag as u64 != 0;
    if !has(libc::MAP_ANONYMOUS) || fd as i32 != -1 || has(libc::MAP_SHARED) && !has(libc::MAP_PRIVATE) {
        return Err(libc::ENODEV);
    }
    if length == 0 {
        return Err(libc::EINVAL);
    }
    let length = length.checked_next_multiple_of(PAGE_SIZE).ok_or(libc::ENOMEM)?;
    let right = rights(protection)?;
    let owner = container::current();
    let fixed = has(libc::MAP_FIXED) || has(libc::MAP_FIXED_NOREPLACE);
    if has(libc::MAP_FIXED) && address.is_multiple_of(PAGE_SIZE) {
        forget_code(&(address..address.checked_add(length).ok_or(libc::ENOMEM)?))?;
    }
    with(|m| {
        let wanted = if address.is_multiple_of(PAGE_SIZE) { address.checked_add(length).map(|end| address..end) } else { None };
        let range = match wanted {
            Some(r) if m.space.contains(&r) && (fixed || m.space.overlapping(r.clone()).next().is_none()) => r,
            _ if fixed => return Err(libc::ENOMEM),
            _ => m.space.free(length).map(|start| start..start + length).ok_or(libc::ENOMEM)?,
        };
        if has(libc::MAP_FIXED_NOREPLACE) && m.space.overlapping(range.clone()).next().is_some() {
            return Err(libc::EEXIST);
        }
        container::charge(owner, length / PAGE_SIZE)?;
        m.release(range.clone());
        m.space.insert(range.clone(), right, owner);
        if !has(libc::MAP_NORESERVE) {
            m.commit(range.clone(), right, owner)?;
        }
        Ok(range.start)
    })
}

/// A readable and writable mapping of the payload itself, before any thread runs.
pub fn reserve(length: u64) -> Option<u64> {
    with(|m| {
        let start = m.space.free(length)?;
        m.space.insert(start..start + length, prot::R | prot::W, 0);
        Some(start)
    })
}

/// munmap(2).
pub fn munmap(address: u64, length: u64) -> SysResult {
    let range = pages(address, length)?;
    forget_code(&range)?;
    with(|m| {
        if !m.space.contains(&range) {
            return Err(libc::EINVAL);
        }
        m.release(range);
        Ok(0)
    })
}

/// mprotect(2). Rights that grow are given by EMODPE; rights that shrink need the host (EMODPR), and each page is then accepted.
pub fn mprotect(address: u64, length: u64, protection: u64) -> SysResult {
    if length == 0 {
        return Ok(0);
    }
    let range = pages(address, length)?;
    let right = rights(protection)?;
    let image = range.start >= info().payload_start && range.end <= info().payload_end;
    if image {
        // Measured pages: the rights that they have are not kept; give, then restrict.
        return change(range, right, None);
    }
    with(|m| {
        let in_arena = m.space.contains(&range) && m.space.protect(range.clone(), right);
        let in_brk = range.start >= m.brk_start && range.end <= m.brk;
        if in_arena || in_brk { Ok(()) } else { Err(libc::ENOMEM) }
    })?;
    // PROT_NONE is not told to the EPCM: a guard page that was never touched is no part of the enclave, and faults.
    if right == 0 {
        return Ok(0);
    }
    set_rights(range, right, |had| had != right | prot::R)
}

/// Gives accepted pages whose present rights are `wrong` these ones. The lock is not held while the host is asked: were the asking process
/// killed, everybody would wait for its adoption.
fn set_rights(range: Range<u64>, right: u8, wrong: impl Fn(u8) -> bool) -> SysResult {
    let mut at = range.start;
    while at < range.end {
        let (run, had) = with(|m| m.table.run(at..range.end, &wrong));
        if run.is_empty() {
            break;
        }
        change(run.clone(), right, Some(had))?;
        with(|m| m.table.set(run.clone(), ACCEPTED | right));
        at = run.end;
    }
    Ok(0)
}

/// Before pages are given back: takes the right to execute away, which needs the host. What is left for the lock's holder is to zero them.
fn forget_code(range: &Range<u64>) -> Result<(), i32> {
    let executable = |had: u8| had & prot::X != 0;
    if with(|m| m.space.contains(range)) {
        set_rights(range.clone(), prot::R, executable)?;
    }
    Ok(())
}

/// Makes the EPCM's rights of accepted pages `right`; `had`: what they are, if known.
fn change(range: Range<u64>, right: u8, had: Option<u8>) -> SysResult {
    let right = u64::from(right | prot::R);
    let had = had.map(u64::from);
    let grows = had.is_none_or(|had| right & !had != 0);
    let shrinks = had.is_none_or(|had| had & !right != 0);
    if grows {
        for page in range.clone().step_by(PAGE_SIZE as usize) {
            emodpe(page, right | flags::REGULAR);
        }
    }
    if shrinks {
        ocall::edmm(edmm::RESTRICT, range.start, range.end - range.start, right)?;
        for page in range.step_by(PAGE_SIZE as usize) {
            // Only EACCEPT proves that the host did restrict the page and that no stale translation is left.
            if let Err(error) = eaccept(page, right | flags::RESTRICTED | flags::REGULAR) {
                crate::end::panic(format_args!("the host did not restrict page {page:#x} as asked: EACCEPT error {error:#x}"));
            }
        }
    }
    Ok(0)
}

/// madvise(2): DONTNEED zeroes; the other advice changes nothing.
pub fn madvise(address: u64, length: u64, advice: u64) -> SysResult {
    if length == 0 {
        return Ok(0);
    }
    let range = pages(address, length)?;
    if advice == libc::MADV_DONTNEED as u64 {
        forget_code(&range)?;
        with(|m| {
            if !m.space.covers(range.clone()) {
                return Err(libc::ENOMEM);
            }
            m.table.zero(range);
            Ok(0)
        })
    } else {
        Ok(0)
    }
}

/// mremap(2): shrinks, or grows where there is room behind; else ENOMEM, and the caller copies.
pub fn mremap(address: u64, old: u64, new: u64) -> SysResult {
    let (old, new) = (pages(address, old)?, pages(address, new)?);
    if new.end < old.end {
        forget_code(&(new.end..old.end))?;
    }
    with(|m| {
        if !m.space.contains(&old) || !m.space.covers(old.clone()) {
            return Err(libc::EFAULT);
        }
        if new.end <= old.end {
            if new.end < old.end {
                m.release(new.end..old.end);
            }
            return Ok(address);
        }
        let more = old.end..new.end;
        let Some((_, area)) = m.space.find(old.end - 1) else { return Err(libc::EFAULT) };
        if !m.space.contains(&more) || m.space.overlapping(more.clone()).next().is_some() {
            return Err(libc::ENOMEM);
        }
        container::charge(area.owner, (more.end - more.start) / PAGE_SIZE)?;
        m.space.insert(more.clone(), area.prot, area.owner);
        m.commit(more, area.prot, area.owner)?;
        Ok(address)
    })
}

/// brk(2).
pub fn brk(address: u64) -> u64 {
    with(|m| {
        if (m.brk_start..=m.brk_start + BRK_ZONE).contains(&address) {
            let (old, new) = (m.brk.next_multiple_of(PAGE_SIZE), address.next_multiple_of(PAGE_SIZE));
            if new > old && m.table.accept(old..new).is_err() {
                return m.brk;
            }
            if new < old {
                m.table.zero(new..old);
            }
            m.brk = address;
        }
        m.brk
    })
}

/// A page fault of the payload: accepts the page and its neighbours when it is mapped with the rights that the access needs.
pub fn fault(address: u64, write: bool, execute: bool) -> Result<(), Fault> {
    with(|m| {
        let Some((range, area)) = m.space.find(address) else { return Err(Fault::Segment) };
        let needs = if execute {
            prot::X
        } else if write {
            prot::W
        } else {
            prot::R
        };
        if area.prot & needs == 0 {
            return Err(Fault::Segment);
        }
        let page = address & !(PAGE_SIZE - 1);
        if m.table.get(page) & ACCEPTED != 0 {
            // Accepted meanwhile by another thread, or a right that the EPCM does not have.
            return if m.table.get(page) & needs != 0 { Ok(()) } else { Err(Fault::Segment) };
        }
        let window = page & !(FAULT_AROUND * PAGE_SIZE - 1);
        let around = window.max(range.start)..(window + FAULT_AROUND * PAGE_SIZE).min(range.end);
        m.table.accept(around)
    })
}

/// Accepts memory of the payload that it is about to write.
///
/// # Errors
/// `ENOMEM` when there is no EPC for it, `EFAULT` when it is not mapped for writing.
pub fn prefault(range: Range<u64>) -> Result<(), i32> {
    let pages = range.start & !(PAGE_SIZE - 1)..range.end.checked_next_multiple_of(PAGE_SIZE).ok_or(libc::EFAULT)?;
    if container::current() != 0 {
        with(|m| {
            // What is not a mapping is judged below.
            let mapped = m.space.contains(&pages) && m.space.covers(pages.clone());
            if mapped { m.accept_for_container(pages) } else { Ok(()) }
        })?;
    }
    ensure(range, true)
}

/// Makes sure that the LibOS can touch a range of the payload without a fault: it is mapped with the rights, and accepted.
pub fn ensure(range: Range<u64>, write: bool) -> Result<(), i32> {
    let (image_start, image_end) = (info().payload_start, info().payload_end);
    if range.start >= image_start && range.end <= image_end {
        return Ok(());
    }
    let page_range = range.start & !(PAGE_SIZE - 1)..range.end.checked_next_multiple_of(PAGE_SIZE).ok_or(libc::EFAULT)?;
    let needs = if write { prot::W } else { prot::R };
    with(|m| {
        if range.start >= m.brk_start && range.end <= m.brk {
            return Ok(());
        }
        if !m.space.contains(&page_range)
            || !m.space.covers(page_range.clone())
            || m.space.overlapping(page_range.clone()).any(|(_, area)| area.prot & needs == 0)
        {
            return Err(libc::EFAULT);
        }
        m.table.accept(page_range).map_err(|_| libc::ENOMEM)
    })
}

impl Memory {
    /// Accepts what a container maps now, not at the first touch: when no EPC page is left it gets ENOMEM, alone. What the payload maps for
    /// itself (stacks, arenas) is mostly never touched, and is accepted as it is; so is what is mapped with MAP_NORESERVE, whose user has it
    /// accepted by PREFAULT before the first touch.
    fn commit(&mut self, range: Range<u64>, right: u8, owner: u64) -> Result<(), i32> {
        if owner == 0 || right & prot::W == 0 {
            return Ok(());
        }
        self.accept_for_container(range.clone()).inspect_err(|_| self.release(range))
    }

    /// Accepts all of it, or, when that would leave too little for the payload itself, nothing.
    fn accept_for_container(&mut self, range: Range<u64>) -> Result<(), i32> {
        let new = range.clone().step_by(PAGE_SIZE as usize).filter(|page| self.table.get(*page) & ACCEPTED == 0).count() as u64;
        // SAFETY: the header is at a constant place outside ELRANGE; an atomic load of a number that may be anything.
        let acceptable = unsafe { &*(BASE as *const Header) }.acceptable_pages.load(Ordering::Relaxed);
        let reserve = (acceptable / RESERVE_SHARE).min(RESERVE_MOST);
        if acceptable != 0 && new > (acceptable - reserve).saturating_sub(accepted_pages()) {
            return Err(libc::ENOMEM);
        }
        self.table.accept(range).map_err(|_| libc::ENOMEM)
    }

    /// Unmaps, zeroes and uncharges.
    fn release(&mut self, range: Range<u64>) {
        for (r, area) in self.space.remove(range) {
            container::uncharge(area.owner, (r.end - r.start) / PAGE_SIZE);
            self.table.zero(r);
        }
    }
}

/// One byte for each page of the dynamic range.
struct PageTable {
    start: u64,
}

/// Which pages of the page table itself are accepted. Beside the table, not in it: the table is made on an entry stack of two pages.
static KNOWN: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

fn is_known(table_page: usize) -> bool {
    KNOWN[table_page / 64].load(Ordering::Relaxed) & 1 << (table_page % 64) != 0
}

impl PageTable {
    fn slot(&self, page: u64) -> (u64, usize) {
        let index = (page - self.start) / PAGE_SIZE;
        (self.start + index, (index / PAGE_SIZE) as usize)
    }

    fn get(&self, page: u64) -> u8 {
        let (slot, table_page) = self.slot(page);
        if !is_known(table_page) {
            return 0;
        }
        // SAFETY: the slot's page is accepted, and belongs to this table alone; we hold the lock.
        unsafe { *(slot as *const u8) }
    }

    fn set_one(&mut self, page: u64, value: u8) -> Result<(), Fault> {
        let (slot, table_page) = self.slot(page);
        if !is_known(table_page) {
            accept_page(slot & !(PAGE_SIZE - 1))?;
            KNOWN[table_page / 64].fetch_or(1 << (table_page % 64), Ordering::Relaxed);
        }
        // SAFETY: as in `get`.
        unsafe { *(slot as *mut u8) = value };
        Ok(())
    }

    fn set(&mut self, range: Range<u64>, value: u8) {
        for page in range.step_by(PAGE_SIZE as usize) {
            // The table's page is there: these pages were accepted before.
            let _ = self.set_one(page, value);
        }
    }

    /// Accepts what is not yet, as zero pages that can be read and written.
    fn accept(&mut self, range: Range<u64>) -> Result<(), Fault> {
        for page in range.step_by(PAGE_SIZE as usize) {
            if self.get(page) & ACCEPTED == 0 {
                // First the table's own page, so that a page is never accepted and unknown.
                self.set_one(page, 0)?;
                accept_page(page)?;
                self.set_one(page, ACCEPTED | prot::R | prot::W)?;
            }
        }
        Ok(())
    }

    /// Zeroes the accepted pages of a range and makes them readable and writable again.
    fn zero(&mut self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let state = self.get(at);
            let mut end = at + PAGE_SIZE;
            while end < range.end && self.get(end) == state {
                end += PAGE_SIZE;
            }
            if state & ACCEPTED != 0 {
                let right = state & RIGHTS;
                if right & prot::W == 0 {
                    for page in (at..end).step_by(PAGE_SIZE as usize) {
                        emodpe(page, flags::R | flags::W | flags::REGULAR);
                    }
                }
                // SAFETY: the range is accepted and writable, and no longer mapped by the payload, or given up by MADV_DONTNEED.
                unsafe { core::ptr::write_bytes(at as *mut u8, 0, (end - at) as usize) };
                if right & prot::X != 0 {
                    let _ = change(at..end, prot::R | prot::W, Some(right | prot::W));
                }
                self.set(at..end, ACCEPTED | prot::R | prot::W);
            }
            at = end;
        }
    }

    /// The first run of accepted pages in `range` that have the same rights, and `wrong` ones; and these rights.
    fn run(&self, range: Range<u64>, wrong: &impl Fn(u8) -> bool) -> (Range<u64>, u8) {
        let differs = |state: u8| state & ACCEPTED != 0 && wrong(state & RIGHTS);
        let mut at = range.start;
        while at < range.end && !differs(self.get(at)) {
            at += PAGE_SIZE;
        }
        if at >= range.end {
            return (range.end..range.end, 0);
        }
        let state = self.get(at);
        let mut end = at + PAGE_SIZE;
        while end < range.end && self.get(end) == state {
            end += PAGE_SIZE;
        }
        (at..end, state & RIGHTS)
    }
}

fn accept_page(page: u64) -> Result<(), Fault> {
    match eaccept(page, flags::R | flags::W | flags::REGULAR | flags::PENDING) {
        Ok(()) => {
            let pages = ACCEPTED_PAGES.fetch_add(1, Ordering::Relaxed) + 1;
            // SAFETY: the header is at a constant place outside ELRANGE; an atomic store, and nothing is read back.
            unsafe { &*(BASE as *const Header) }.accepted_pages.store(pages, Ordering::Relaxed);
            Ok(())
        }
        Err(enclu::EPC_FULL) => Err(Fault::Full),
        Err(error) => crate::end::panic(format_args!("page {page:#x} cannot be accepted: EACCEPT error {error:#x}")),
    }
}
