//! ECREATE, EADD, EEXTEND, EINIT: from an image to an enclave.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, ELRANGE_SIZE_MAX, ENCLU_GATE_BYTES, PAGE_SIZE, TCS_MAX, tcs_block},
};
use teemate_image::{Attributes, Image, measure::Measurement};

use super::{
    SimulatorOptions,
    epcm::{self, Word},
    memory::Memory,
    shared::{CHUNK_PAGES, Identity},
    ssa::{EXINFO, GPRSGX},
    transition,
};
use crate::device::{BuildOptions, Error};

/// ATTRIBUTES.INIT.
const FLAG_INIT: u64 = 1;

/// Builds the enclave. `fuses` is the machine's secret.
pub fn load(image: &Image, options: &BuildOptions, simulator: &SimulatorOptions, fuses: [u8; 32]) -> Result<Memory, Error> {
    let size = image.elrange_size;
    if !size.is_power_of_two() || !(2 << 20..=ELRANGE_SIZE_MAX).contains(&size) {
        return Err(refused(format!("its ELRANGE of {size:#x} bytes is not a power of two from 2 MiB to 1 TiB")));
    }
    if image.tcs_count == 0 || image.tcs_count > TCS_MAX {
        return Err(refused(format!("it has {} TCSs; 1 to {TCS_MAX} are possible", image.tcs_count)));
    }
    let xfrm = image.attributes.xfrm_for(xcr0());
    let identity = Identity {
        elrange_size: size,
        tcs_start: image.tcs_start,
        tcs_count: image.tcs_count as u64,
        heap_start: image.heap_start,
        gate: 0,
        flags: image.attributes.flags,
        xfrm,
        miscselect: image.miscselect as u64,
        frame_size: image.ssa_frame_pages as u64 * PAGE_SIZE,
        xsave_size: xsave_size(xfrm),
        isv_prod_id: 0,
        isv_svn: 0,
        mrenclave: [0; 32],
        mrsigner: [0; 32],
        fuses,
        host_area_size: 0,
    };
    if identity.xsave_size + GPRSGX + EXINFO > identity.frame_size {
        return Err(refused(format!("its SSA frame has no room for the {} bytes of this processor's registers", identity.xsave_size)));
    }
    let memory = Memory::new(identity, options.epc_limit_pages)?;
    let measured = add_pages(&memory, image)?;
    let identity = initialise(&memory, image, simulator, measured)?;
    // SAFETY: the enclave has not left this function.
    unsafe { memory.set_identity(identity) };
    for index in 0..image.tcs_count {
        check_tcs(&memory, index)?;
    }
    let in_use = memory.shared().epc_pages();
    memory.header().acceptable_pages.store(options.epc_limit_pages.saturating_sub(in_use), Relaxed);
    Ok(memory)
}

/// EADD and EEXTEND of every page; gives MRENCLAVE.
fn add_pages(memory: &Memory, image: &Image) -> Result<[u8; 32], Error> {
    let shared = memory.shared();
    let secs = shared.secs();
    let limit = secs.epc_limit.load(Relaxed);
    let mut measurement = Measurement::ecreate(image.ssa_frame_pages, image.elrange_size);
    for page in image.pages() {
        let address = ELRANGE_BASE.wrapping_add(page.offset);
        let leaf = |why| Error::Leaf { leaf: "EADD", address, why };
        if page.offset % PAGE_SIZE != 0 {
            return Err(leaf("the page is not aligned"));
        }
        let word = shared.word(page.offset / PAGE_SIZE).ok_or_else(|| leaf("the page is outside ELRANGE"))?;
        let in_use = secs.epc_pages.fetch_add(1, Relaxed);
        if limit != 0 && in_use >= limit {
            return Err(Error::EpcFull { in_use, limit });
        }
        let next = Word(word.load(Relaxed)).eadd(page.secinfo).map_err(|refusal| match refusal {
            epcm::Refusal::Host(why) => leaf(why),
            _ => leaf("the SECINFO is not one of EADD"),
        })?;
        if !page.zero {
            // SAFETY: the enclave does not run yet.
            let to = unsafe { memory.enclave_bytes(address, PAGE_SIZE) }.ok_or_else(|| leaf("the page is outside ELRANGE"))?;
            to.copy_from_slice(page.data);
        }
        if next.kind() == epcm::PT_TCS {
            add_tcs(memory, image, address, page.data)?;
        }
        word.store(next.0, SeqCst);
        measurement.add(&page);
        let chunk = page.offset / PAGE_SIZE / CHUNK_PAGES;
        if let Some(changes) = shared.chunk_changes(chunk) {
            changes.fetch_add(1, Relaxed);
        }
        secs.chunk_top.fetch_max(chunk + 1, Relaxed);
    }
    secs.changes.fetch_add(1, SeqCst);
    Ok(measurement.finish())
}

/// What the processor will read of a TCS page (SDM vol. 3D, 34.8).
fn add_tcs(memory: &Memory, image: &Image, address: u64, page: &[u8; PAGE_SIZE as usize]) -> Result<(), Error> {
    let leaf = |why| Error::Leaf { leaf: "EADD", address, why };
    let field = |at: usize| page.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let index = address.checked_sub(image.tcs_start).map(|from| from / tcs_block::STRIDE);
    let index = index.filter(|index| *index < image.tcs_count as u64 && (address - image.tcs_start) % tcs_block::STRIDE == tcs_block::TCS);
    let Some(index) = index else { return Err(leaf("the TCS is not at the start of one of the image's TCS blocks")) };
    let (ossa, cssa, nssa) = (field(16), field(24) as u32, (field(24) >> 32) as u32);
    let (oentry, ofsbase, ogsbase) = (field(32), field(48), field(56));
    if field(0) != 0 || cssa != 0 {
        return Err(leaf("STATE and CSSA of the TCS are not zero"));
    }
    if field(8) & !1 != 0 {
        return Err(leaf("reserved FLAGS of the TCS are set"));
    }
    if ossa % PAGE_SIZE != 0 || ofsbase % PAGE_SIZE != 0 || ogsbase % PAGE_SIZE != 0 {
        return Err(leaf("OSSA, OFSBASE and OGSBASE of the TCS are not multiples of the page size"));
    }
    if nssa == 0 || oentry >= image.elrange_size || page[72..].iter().any(|byte| *byte != 0) {
        return Err(leaf("NSSA, OENTRY or the reserved part of the TCS is wrong"));
    }
    let shared = memory.shared();
    let Some(record) = shared.record_slot(index) else { return Err(leaf("there are too many TCSs")) };
    let identity = shared.identity();
    let at = |offset: u64| ELRANGE_BASE.wrapping_add(offset);
    record.state.store(0, Relaxed);
    record.nssa.store(nssa as u64, Relaxed);
    record.ssa.store(at(ossa), Relaxed);
    record.oentry.store(at(oentry), Relaxed);
    record.fsbase.store(at(ofsbase), Relaxed);
    record.gsbase.store(at(ogsbase), Relaxed);
    record.frame_size.store(identity.frame_size, Relaxed);
    record.xfrm.store(identity.xfrm, Relaxed);
    record.untrusted_top.store(transition::untrusted_top(index as u32), Relaxed);
    record.xarea.store(host_area::slot(index as u32) + host_area::SLOT_CONTROL, Relaxed);
    record.tcs.store(address, SeqCst);
    Ok(())
}

/// The SSA frames of a TCS must be readable and writable pages: the processor would fault at the first EENTER.
fn check_tcs(memory: &Memory, index: u32) -> Result<(), Error> {
    let shared = memory.shared();
    let Some(record) = shared.record(index as u64) else {
        return Err(refused(format!("TCS block {index} has no TCS page")));
    };
    let start = record.ssa.load(Relaxed);
    let frames = record.nssa.load(Relaxed) * record.frame_size.load(Relaxed);
    for address in (start..start.saturating_add(frames)).step_by(PAGE_SIZE as usize) {
        let word = shared.page_of(address).and_then(|page| shared.word(page)).map_or(0, |word| word.load(Relaxed));
        if !Word(word).allows(epcm::R | epcm::W) {
            return Err(refused(format!("SSA page {address:#x} of TCS {index} is not readable and writable")));
        }
    }
    Ok(())
}

/// EINIT, and then the gate, which is not the measured code any more (see the module's documentation).
fn initialise(memory: &Memory, image: &Image, simulator: &SimulatorOptions, mrenclave: [u8; 32]) -> Result<Identity, Error> {
    let mut identity = *memory.shared().identity();
    identity.mrenclave = mrenclave;
    match &image.sigstruct {
        Some(sigstruct) => {
            let sentence = |error: teemate_image::Error| refused(error.to_string());
            let signed = teemate_image::verify_sigstruct(sigstruct).map_err(sentence)?;
            let attributes = Attributes { flags: identity.flags, xfrm: identity.xfrm };
            signed.permits(&mrenclave, attributes, image.miscselect).map_err(sentence)?;
            identity.mrsigner = signed.mrsigner;
            identity.isv_prod_id = signed.isv_prod_id as u64;
            identity.isv_svn = signed.isv_svn as u64;
        }
        None if simulator.allow_unsigned => {}
        None => return Err(refused("it has no SIGSTRUCT; sign it first: `teemate image sign`".to_owned())),
    }
    identity.flags |= FLAG_INIT;
    if simulator.gate && image.gate != 0 {
        // SAFETY: the enclave does not run yet.
        let bytes = unsafe { memory.enclave_bytes(image.gate, 16) };
        let Some(bytes) = bytes.filter(|bytes| **bytes == ENCLU_GATE_BYTES) else {
            return Err(refused(format!("at {:#x} there is not the ENCLU gate that it promises", image.gate)));
        };
        bytes.copy_from_slice(&transition::diverted_gate());
        identity.gate = image.gate;
    }
    Ok(identity)
}

fn refused(why: String) -> Error {
    Error::Image(why)
}

/// XCR0: the register state that the operating system has switched on.
fn xcr0() -> u64 {
    // SAFETY: every 64-bit processor with AVX has XGETBV and Linux switches it on; without OSXSAVE there is only x87 and SSE.
    unsafe { if std::arch::x86_64::__cpuid(1).ecx & 1 << 27 == 0 { 3 } else { xgetbv() } }
}

#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: register 0 exists wherever XGETBV does.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// Bytes of a standard-format XSAVE area with these components (SDM vol. 1, 13.5).
fn xsave_size(xfrm: u64) -> u64 {
    (2..63).filter(|component| xfrm >> component & 1 != 0).fold(576, |size, component| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, component);
        size.max(leaf.eax as u64 + leaf.ebx as u64)
    })
}
