//! ENCLU leaves that stay inside: EREPORT, EGETKEY, EACCEPT, EMODPE, EACCEPTCOPY (SDM vol. 3D, 40.4).
//!
//! Operands and results are in the TCS's [`Record`], whichever way the leaf came (gate or trap). A leaf happens exactly once, also when
//! its thread is killed in the middle: it either has `leaf_done` set, or can be executed again. The one leaf that can't be executed
//! twice, EACCEPT, marks the EPCM word with its TCS in the same compare-exchange that changes it; [`settle`] reads the mark.

use std::{
    arch::global_asm,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use teemate_abi::{
    layout::{ELRANGE_BASE, PAGE_SIZE},
    transition::enclu,
};

use super::{
    epcm::{self, Refusal, Word},
    keys::{self, KeyReply},
    process, shared,
    shared::{Record, Shared},
    ssa::{Cause, reg},
    transition,
};
use crate::device::EPC_FULL;

/// More attempts than this at one word mean that something else is wrong.
const ATTEMPTS: usize = 10_000;
const ZERO_FLAG: u64 = 0x40;
/// CF, PF, AF, SF, OF.
const CLEARED_FLAGS: u64 = 0x8d5;

/// #PF error code: user mode, EPCM violation.
pub const PF_USER_SGX: u32 = 0x8004;
const PF_PRESENT: u32 = 1;
const PF_WRITE: u32 = 2;

global_asm!(
    ".pushsection .text.teemate_probe, \"ax\", @progbits",
    ".globl teemate_sim_probe",
    ".hidden teemate_sim_probe",
    "teemate_sim_probe:",
    "mov rcx, rdx",
    "rep movsb",
    ".globl teemate_sim_probe_end",
    ".hidden teemate_sim_probe_end",
    "teemate_sim_probe_end:",
    "xor eax, eax",
    "ret",
    ".globl teemate_sim_probe_fault",
    ".hidden teemate_sim_probe_fault",
    "teemate_sim_probe_fault:",
    "mov eax, 1",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    /// Copies; 1 if it met a fault that the simulator refuses to mend.
    fn teemate_sim_probe(to: *mut u8, from: *const u8, length: usize) -> u64;
    safe static teemate_sim_probe_end: u8;
    safe static teemate_sim_probe_fault: u8;
}

/// Where RIP goes on if it is in the copy loop and its fault can't be mended.
pub fn probe_fixup(rip: u64) -> Option<u64> {
    let start = teemate_sim_probe as *const () as u64;
    (start..&raw const teemate_sim_probe_end as u64).contains(&rip).then_some(&raw const teemate_sim_probe_fault as u64)
}

/// Called by the transition code for a leaf that came by the gate. 0: done, load the registers. 1: it was an AEX.
///
/// # Safety
/// `record` is that of the TCS that this thread is in.
pub unsafe extern "C" fn gate_leaf(record: *const Record) -> u64 {
    let shared = process::shared();
    // SAFETY: the transition code passes the record of the TCS that this thread is in.
    let (Some(shared), Some(record)) = (shared, unsafe { record.as_ref() }) else { return 1 };
    record.flags.store(0x202, Relaxed);
    match carry_out(&shared, record) {
        Ok(()) => 0,
        Err(cause) => {
            let gate = shared.identity().gate;
            let context = transition::leaf_context(record, gate, &Default::default());
            let context = super::ssa::Context { rflags: 0x202, ..context };
            // SAFETY: the transition code has just written an XSAVE area there.
            let xsave =
                unsafe { std::slice::from_raw_parts(record.xarea.load(Relaxed) as *const u8, shared.identity().xsave_size as usize) };
            process::asynchronous_exit(&shared, record, &context, xsave, cause);
            1
        }
    }
}

/// Does what `record.leaf` asks with `record.regs`. On success the results are there and `leaf_done` is set.
pub fn carry_out(shared: &Shared, record: &Record) -> Result<(), Cause> {
    let leaf = record.leaf.load(Relaxed);
    match leaf {
        enclu::EREPORT => report(shared, record),
        enclu::EGETKEY => get_key(shared, record),
        enclu::EACCEPT => accept(shared, record),
        enclu::EMODPE => extend(shared, record),
        enclu::EACCEPTCOPY => accept_copy(shared, record),
        // EENTER and ERESUME inside an enclave, and numbers that are no leaf of this processor.
        _ => Err(Cause::GENERAL_PROTECTION),
    }
}

fn done(record: &Record) {
    record.leaf_done.store(1, Release);
}

/// Result in RAX, ZF says whether it is an error, the other arithmetic flags are cleared.
fn result(record: &Record, code: u64) {
    record.regs[reg::RAX].store(code, Relaxed);
    let flags = record.flags.load(Relaxed) & !(CLEARED_FLAGS | ZERO_FLAG);
    record.flags.store(if code == 0 { flags } else { flags | ZERO_FLAG }, Relaxed);
}

fn report(shared: &Shared, record: &Record) -> Result<(), Cause> {
    let mut target = [0; keys::TARGETINFO_SIZE];
    let mut data = [0; 64];
    copy_in(shared, operand(record, reg::RBX, 512)?, &mut target)?;
    copy_in(shared, operand(record, reg::RCX, 128)?, &mut data)?;
    let output = operand(record, reg::RDX, 512)?;
    let report = keys::report(shared.identity(), &target, &data).ok_or(Cause::GENERAL_PROTECTION)?;
    copy_out(shared, output, &report)?;
    done_unchanged(record);
    Ok(())
}

fn get_key(shared: &Shared, record: &Record) -> Result<(), Cause> {
    let mut request = [0; keys::KEYREQUEST_SIZE];
    copy_in(shared, operand(record, reg::RBX, 512)?, &mut request)?;
    let output = operand(record, reg::RCX, 16)?;
    check(shared, output, 16, epcm::W)?;
    match keys::key(shared.identity(), &request) {
        KeyReply::GeneralProtection => return Err(Cause::GENERAL_PROTECTION),
        KeyReply::Refused(code) => result(record, code),
        KeyReply::Key(key) => {
            copy_out(shared, output, &key)?;
            result(record, 0);
        }
    }
    done(record);
    Ok(())
}

/// RAX goes back as it came: the leaf's number.
fn done_unchanged(record: &Record) {
    record.regs[reg::RAX].store(record.leaf.load(Relaxed), Relaxed);
    done(record);
}

fn accept(shared: &Shared, record: &Record) -> Result<(), Cause> {
    let flags = secinfo(shared, record)?;
    let (address, page) = page_operand(shared, record, reg::RCX)?;
    let word = shared.word(page).ok_or(Cause::GENERAL_PROTECTION)?;
    let mark = mark_of(shared, record);
    for _ in 0..ATTEMPTS {
        let now = Word(word.load(Acquire));
        if !now.valid() {
            // The page fault that the driver answers by EAUG, without the fault.
            augment(shared, record, page, address)?;
            continue;
        }
        let next = match now.eaccept(flags) {
            Ok(next) => next.marked(mark),
            Err(refusal) => return refuse(record, refusal, address),
        };
        record.journal.store(page + 1, SeqCst);
        if word.compare_exchange(now.0, next.0, AcqRel, Relaxed).is_err() {
            continue;
        }
        finish(shared, record, page, mark);
        return Ok(());
    }
    Err(page_fault(address, PF_PRESENT))
}

/// The end of EACCEPT and EACCEPTCOPY, once the page has changed under its mark: the result first, then what a kill in between would need.
fn finish(shared: &Shared, record: &Record, page: u64, mark: u64) {
    result(record, 0);
    done(record);
    unmark(shared, page, mark);
    record.journal.store(0, SeqCst);
    shared.changed(page);
}

fn accept_copy(shared: &Shared, record: &Record) -> Result<(), Cause> {
    let flags = secinfo(shared, record)?;
    let (address, page) = page_operand(shared, record, reg::RCX)?;
    let (source, _) = page_operand(shared, record, reg::RDX)?;
    let mut content = [0; PAGE_SIZE as usize];
    copy_in(shared, source, &mut content)?;
    let word = shared.word(page).ok_or(Cause::GENERAL_PROTECTION)?;
    let mark = mark_of(shared, record);
    for _ in 0..ATTEMPTS {
        let now = Word(word.load(Acquire));
        if !now.valid() {
            augment(shared, record, page, address)?;
            continue;
        }
        let last = match now.eacceptcopy(flags) {
            Ok(last) => last,
            Err(refusal) => return refuse(record, refusal, address),
        };
        // Open for writing first, under the mark; a kill in between takes it back (`settle`).
        let Ok(open) = now.eacceptcopy(u64::from(epcm::PT_REG) << 8 | 3) else { continue };
        record.journal.store(page + 1, SeqCst);
        if word.compare_exchange(now.0, open.marked(mark).0, AcqRel, Relaxed).is_err() {
            continue;
        }
        copy_out(shared, address, &content)?;
        word.store(last.marked(mark).0, Release);
        finish(shared, record, page, mark);
        return Ok(());
    }
    Err(page_fault(address, PF_PRESENT))
}

fn extend(shared: &Shared, record: &Record) -> Result<(), Cause> {
    let flags = secinfo(shared, record)?;
    let (address, page) = page_operand(shared, record, reg::RCX)?;
    let word = shared.word(page).ok_or(Cause::GENERAL_PROTECTION)?;
    for _ in 0..ATTEMPTS {
        let now = Word(word.load(Acquire));
        let next = match now.emodpe(flags) {
            Ok(next) => next,
            Err(refusal) => return refuse(record, refusal, address),
        };
        if word.compare_exchange(now.0, next.0, AcqRel, Relaxed).is_ok() {
            done_unchanged(record);
            shared.changed(page);
            return Ok(());
        }
    }
    Err(page_fault(address, PF_PRESENT))
}

fn refuse(record: &Record, refusal: Refusal, address: u64) -> Result<(), Cause> {
    match refusal {
        Refusal::GeneralProtection | Refusal::Host(_) => Err(Cause::GENERAL_PROTECTION),
        Refusal::PageFault => Err(page_fault(address, PF_PRESENT)),
        Refusal::AttributesMismatch => {
            result(record, epcm::PAGE_ATTRIBUTES_MISMATCH);
            done(record);
            Ok(())
        }
        Refusal::NotTracked => {
            result(record, epcm::NOT_TRACKED);
            done(record);
            Ok(())
        }
    }
}

/// EAUG as the driver does on a fault in the dynamic range. #PF if the page is elsewhere, or if no EPC page is left (threads that grow at
/// the same instant may go over the limit by a page each).
///
/// The count and the page change together even if the thread is killed: the record says first which page it is about, the page's word
/// then says by its mark that it took place, and one store counts it and forgets it.
pub fn augment(shared: &Shared, record: &Record, page: u64, address: u64) -> Result<(), Cause> {
    if ELRANGE_BASE + page * PAGE_SIZE < shared.identity().heap_start {
        return Err(page_fault(address, 0));
    }
    let limit = shared.secs().epc_limit.load(Relaxed);
    if limit != 0 && shared.epc_pages() >= limit {
        return Err(page_fault(address, EPC_FULL));
    }
    let word = shared.word(page).ok_or(Cause::GENERAL_PROTECTION)?;
    let now = Word(word.load(Acquire));
    let Ok(next) = now.eaug() else { return Ok(()) };
    let mark = EAUG_MARK | mark_of(shared, record);
    let count = record.eaug.load(Relaxed) >> 32;
    record.eaug.store(count << 32 | (page + 1), SeqCst);
    // If it fails, another thread was first.
    let added = word.compare_exchange(now.0, next.marked(mark).0, AcqRel, Relaxed).is_ok();
    record.eaug.store((count + u64::from(added)) << 32, SeqCst);
    unmark(shared, page, mark);
    Ok(())
}

/// In a mark: an EAUG, not an EACCEPT.
const EAUG_MARK: u64 = 0x800;
const _: () = assert!(EAUG_MARK > teemate_abi::layout::TCS_MAX as u64);

/// [`settle`] for an EAUG.
fn settle_augment(shared: &Shared, record: &Record) {
    let word = record.eaug.load(SeqCst);
    let Some(page) = (word & 0xffff_ffff).checked_sub(1) else { return };
    let mark = EAUG_MARK | mark_of(shared, record);
    let added = shared.word(page).is_some_and(|word| Word(word.load(SeqCst)).mark() == mark);
    record.eaug.store(((word >> 32) + u64::from(added)) << 32, SeqCst);
    unmark(shared, page, mark);
}

/// After a kill in the middle of a leaf: completes an EACCEPT whose effect took place, takes back an EACCEPTCOPY's first half.
pub fn settle(shared: &Shared, record: &Record) {
    settle_augment(shared, record);
    let Some(page) = record.journal.load(SeqCst).checked_sub(1) else { return };
    let mark = mark_of(shared, record);
    if let Some(word) = shared.word(page) {
        let now = Word(word.load(SeqCst));
        if now.mark() == mark && record.leaf_done.load(Acquire) == 0 {
            if record.leaf.load(Relaxed) == enclu::EACCEPT {
                result(record, 0);
                done(record);
            } else if let Ok(pending) = Word(0).eaug() {
                // Only this thread could have changed it: the page is marked and not yet the enclave's.
                word.store(pending.0, SeqCst);
            }
        }
        unmark(shared, page, mark);
        shared.changed(page);
    }
    record.journal.store(0, SeqCst);
}

fn unmark(shared: &Shared, page: u64, mark: u64) {
    let Some(word) = shared.word(page) else { return };
    for _ in 0..ATTEMPTS {
        let now = Word(word.load(Acquire));
        if now.mark() != mark || word.compare_exchange(now.0, now.marked(0).0, AcqRel, Relaxed).is_ok() {
            return;
        }
    }
}

fn mark_of(shared: &Shared, record: &Record) -> u64 {
    let offset = record.tcs.load(Relaxed) - shared.identity().tcs_start;
    offset / teemate_abi::layout::tcs_block::STRIDE + 1
}

/// SECINFO at RBX: 64-aligned, its reserved part zero.
fn secinfo(shared: &Shared, record: &Record) -> Result<u64, Cause> {
    let mut secinfo = [0; 64];
    copy_in(shared, operand(record, reg::RBX, 64)?, &mut secinfo)?;
    if secinfo[8..].iter().any(|byte| *byte != 0) {
        return Err(Cause::GENERAL_PROTECTION);
    }
    Ok(secinfo.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

fn operand(record: &Record, register: usize, align: u64) -> Result<u64, Cause> {
    let address = record.regs[register].load(Relaxed);
    if address.is_multiple_of(align) { Ok(address) } else { Err(Cause::GENERAL_PROTECTION) }
}

fn page_operand(shared: &Shared, record: &Record, register: usize) -> Result<(u64, u64), Cause> {
    let address = operand(record, register, PAGE_SIZE)?;
    Ok((address, shared.page_of(address).ok_or(Cause::GENERAL_PROTECTION)?))
}

/// An operand in enclave memory: #GP outside ELRANGE, #PF where the EPCM forbids it.
fn check(shared: &Shared, address: u64, length: usize, access: u8) -> Result<(), Cause> {
    let last = address.checked_add(length as u64 - 1).ok_or(Cause::GENERAL_PROTECTION)?;
    let first = shared.page_of(address).ok_or(Cause::GENERAL_PROTECTION)?;
    let last = shared.page_of(last).ok_or(Cause::GENERAL_PROTECTION)?;
    for page in first..=last {
        let word = Word(shared.word(page).ok_or(Cause::GENERAL_PROTECTION)?.load(Acquire));
        if !word.allows(access) {
            return Err(page_fault(address, if access == epcm::W { PF_WRITE | PF_PRESENT } else { PF_PRESENT }));
        }
    }
    Ok(())
}

fn copy_in(shared: &Shared, address: u64, to: &mut [u8]) -> Result<(), Cause> {
    check(shared, address, to.len(), epcm::R)?;
    // SAFETY: `to` is writable; a fault on the other side, in ELRANGE, is mended or becomes a return of 1.
    let fault = unsafe { teemate_sim_probe(to.as_mut_ptr(), address as *const u8, to.len()) };
    if fault == 0 { Ok(()) } else { Err(page_fault(address, PF_PRESENT)) }
}

fn copy_out(shared: &Shared, address: u64, from: &[u8]) -> Result<(), Cause> {
    check(shared, address, from.len(), epcm::W)?;
    // SAFETY: `from` is readable; the destination is the enclave's memory, which it asked to have written.
    let fault = unsafe { teemate_sim_probe(address as *mut u8, from.as_ptr(), from.len()) };
    if fault == 0 { Ok(()) } else { Err(page_fault(address, PF_PRESENT | PF_WRITE)) }
}

fn page_fault(address: u64, error: u32) -> Cause {
    Cause::Exception { vector: 14, error: error | PF_USER_SGX, address }
}

const _: () = assert!(shared::BUSY == 1);
