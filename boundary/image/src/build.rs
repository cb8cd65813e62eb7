//! From two ELF files to an image: the layout of `teemate_abi::layout`.

use std::mem::offset_of;

use sgx_isa::Tcs;
use teemate_abi::{
    ABI_VERSION,
    layout::{ELRANGE_BASE, ENCLU_GATE_BYTES, EnclaveInfo, INFO_MAGIC, NSSA, PAGE_SIZE, SSA_FRAME_PAGES, symbol, tcs_block},
};

use crate::{
    Attributes, Content, Error, FLAG_DEBUG, FLAG_MODE64BIT, Image, ImageConfig, MISC_EXINFO, PageKind, PageRun, XFRM_ALLOWED,
    elf::{Flags, Program, Role},
    rewrite,
};

/// Programs start at a multiple of this (or of their own alignment, if that is larger).
const PROGRAM_ALIGN: u64 = 0x1_0000;
/// The dynamic range starts at a multiple of this: the reach of one page table.
const HEAP_ALIGN: u64 = 2 << 20;
/// The least that the dynamic range must have.
const HEAP_MIN: u64 = 4 << 20;
/// Upper bound of one trampoline: 2 x 5 displaced instructions of at most 15 bytes, and 23 bytes of its own, aligned.
const TRAMPOLINE_MAX: u64 = 192;

impl Image {
    /// An image with the LibOS and one payload, both static-pie ELF files. The same input gives the same image, bit for bit.
    pub fn build(config: &ImageConfig, libos_elf: &[u8], payload_elf: &[u8]) -> Result<Image, Error> {
        config.check()?;
        let mut libos = Program::parse(Role::LibOs, libos_elf)?;
        let mut payload = Program::parse(Role::Payload, payload_elf)?;
        payload.read_unwind_tables();

        // Where everything is, relative to ELRANGE_BASE.
        let tcs_start = tcs_block::STRIDE;
        let tcs_end = tcs_start + u64::from(config.tcs_count) * tcs_block::STRIDE;
        let libos_at = tcs_end.next_multiple_of(libos.align.max(PROGRAM_ALIGN));
        let libos_end = libos_at + libos.end;
        let payload_at = (libos_end + PAGE_SIZE).next_multiple_of(payload.align.max(PROGRAM_ALIGN));
        let heap = |end: u64| end.next_multiple_of(HEAP_ALIGN);
        // A first bound, so that nothing below can overflow or run out of memory.
        if heap(payload_at + payload.end) + HEAP_MIN > config.elrange_size {
            return Err(Error::Config(format!("elrange_size {:#x} has no room for these programs; double it", config.elrange_size)));
        }

        let libos_symbol = |name: &str| {
            let why = || format!("it defines no symbol {name}; is it the LibOS, and not stripped?");
            libos.symbols.get(name).copied().ok_or_else(|| Error::Elf { role: "LibOS", why: why() })
        };
        let entry = libos_symbol(symbol::ENTRY)?;
        let syscall = libos_symbol(symbol::SYSCALL)?;
        let gate = libos_symbol(symbol::ENCLU_GATE)?;
        for (name, address) in [(symbol::ENTRY, entry), (symbol::SYSCALL, syscall), (symbol::ENCLU_GATE, gate)] {
            if !libos.segment(address).is_some_and(|segment| segment.flags.x) {
                return Err(Error::Elf { role: "LibOS", why: format!("{name} is not in an executable segment") });
            }
        }
        if gate % 16 != 0 || libos.bytes(gate).and_then(|bytes| bytes.first_chunk()) != Some(&ENCLU_GATE_BYTES) {
            let why = format!("{} is not `enclu; ret` and int3, aligned to 16", symbol::ENCLU_GATE);
            return Err(Error::Elf { role: "LibOS", why });
        }

        let (trampolines, report) = if config.rewrite {
            let trampolines = payload.end;
            rewrite::rewrite(&mut payload, trampolines, libos_at.wrapping_add(syscall).wrapping_sub(payload_at))
        } else {
            (Vec::new(), rewrite::Report::default())
        };
        debug_assert!(trampolines.len() as u64 <= report.sites.len() as u64 * TRAMPOLINE_MAX);
        let trampoline_pages = (trampolines.len() as u64).div_ceil(PAGE_SIZE);
        let payload_end = payload_at + payload.end + trampoline_pages * PAGE_SIZE;
        let heap_start = heap(payload_end);
        if heap_start + HEAP_MIN > config.elrange_size {
            return Err(Error::Config(format!("elrange_size {:#x} has no room for these programs; double it", config.elrange_size)));
        }

        libos.relocate(Role::LibOs, ELRANGE_BASE + libos_at)?;
        payload.relocate(Role::Payload, ELRANGE_BASE + payload_at)?;
        libos.settle_relro(Role::LibOs);
        payload.settle_relro(Role::Payload);

        let info = EnclaveInfo {
            magic: INFO_MAGIC,
            abi_version: ABI_VERSION,
            tcs_count: config.tcs_count,
            elrange_size: config.elrange_size,
            tcs_start: ELRANGE_BASE + tcs_start,
            libos_start: ELRANGE_BASE + libos_at,
            libos_end: ELRANGE_BASE + libos_end,
            payload_start: ELRANGE_BASE + payload_at,
            payload_end: ELRANGE_BASE + payload_end,
            payload_entry: ELRANGE_BASE + payload_at + payload.entry,
            payload_phdr: ELRANGE_BASE + payload_at + payload.phdr,
            payload_phnum: payload.phnum,
            heap_start: ELRANGE_BASE + heap_start,
            heap_end: ELRANGE_BASE + config.elrange_size,
            argc: config.args.len() as u32,
            envc: config.env.len() as u32,
            strings: config.strings()?,
        };

        let mut pages = vec![PageRun { offset: 0, count: 1, kind: PageKind::READ, content: Content::Bytes(info_page(&info)) }];
        for index in 0..u64::from(config.tcs_count) {
            tcs_pages(&mut pages, tcs_start + index * tcs_block::STRIDE, libos_at + entry);
        }
        program_pages(&mut pages, &libos, libos_at);
        program_pages(&mut pages, &payload, payload_at);
        if trampoline_pages > 0 {
            let mut bytes = trampolines;
            bytes.resize((trampoline_pages * PAGE_SIZE) as usize, 0xcc);
            pages.push(PageRun {
                offset: payload_at + payload.end,
                count: trampoline_pages,
                kind: PageKind::READ_EXECUTE,
                content: Content::Bytes(bytes),
            });
        }

        let image = Image {
            elrange_size: config.elrange_size,
            ssa_frame_pages: SSA_FRAME_PAGES,
            pages,
            gate: ELRANGE_BASE + libos_at + gate,
            tcs_start: info.tcs_start,
            tcs_count: config.tcs_count,
            heap_start: info.heap_start,
            attributes: Attributes { flags: FLAG_MODE64BIT | if config.debug { FLAG_DEBUG } else { 0 }, xfrm: XFRM_ALLOWED },
            miscselect: MISC_EXINFO,
            isv_prod_id: config.isv_prod_id,
            isv_svn: config.isv_svn,
            report,
            sigstruct: None,
        };
        image.check()?;
        Ok(image)
    }
}

/// The bytes of [`EnclaveInfo`], field by field.
fn info_page(info: &EnclaveInfo) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = page.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(offset_of!(EnclaveInfo, magic), &info.magic.to_le_bytes());
    put(offset_of!(EnclaveInfo, abi_version), &info.abi_version.to_le_bytes());
    put(offset_of!(EnclaveInfo, tcs_count), &info.tcs_count.to_le_bytes());
    put(offset_of!(EnclaveInfo, elrange_size), &info.elrange_size.to_le_bytes());
    put(offset_of!(EnclaveInfo, tcs_start), &info.tcs_start.to_le_bytes());
    put(offset_of!(EnclaveInfo, libos_start), &info.libos_start.to_le_bytes());
    put(offset_of!(EnclaveInfo, libos_end), &info.libos_end.to_le_bytes());
    put(offset_of!(EnclaveInfo, payload_start), &info.payload_start.to_le_bytes());
    put(offset_of!(EnclaveInfo, payload_end), &info.payload_end.to_le_bytes());
    put(offset_of!(EnclaveInfo, payload_entry), &info.payload_entry.to_le_bytes());
    put(offset_of!(EnclaveInfo, payload_phdr), &info.payload_phdr.to_le_bytes());
    put(offset_of!(EnclaveInfo, payload_phnum), &info.payload_phnum.to_le_bytes());
    put(offset_of!(EnclaveInfo, heap_start), &info.heap_start.to_le_bytes());
    put(offset_of!(EnclaveInfo, heap_end), &info.heap_end.to_le_bytes());
    put(offset_of!(EnclaveInfo, argc), &info.argc.to_le_bytes());
    put(offset_of!(EnclaveInfo, envc), &info.envc.to_le_bytes());
    put(offset_of!(EnclaveInfo, strings), &info.strings);
    page
}

/// One TCS block: the TCS, then its SSA frames, local page and entry stack (SDM vol. 3D, "Thread Control Structure").
fn tcs_pages(pages: &mut Vec<PageRun>, block: u64, entry: u64) {
    let tcs = Tcs {
        ossa: block + tcs_block::SSA,
        nssa: NSSA,
        oentry: entry,
        ofsbasgx: block + tcs_block::LOCAL,
        ogsbasgx: block + tcs_block::LOCAL,
        fslimit: 0xfff,
        gslimit: 0xfff,
        ..Tcs::default()
    };
    let content = Content::Bytes(AsRef::<[u8]>::as_ref(&tcs).to_vec());
    pages.push(PageRun { offset: block + tcs_block::TCS, count: 1, kind: PageKind::Tcs, content });
    let writable = (tcs_block::STACK_TOP - tcs_block::SSA) / PAGE_SIZE;
    pages.push(PageRun { offset: block + tcs_block::SSA, count: writable, kind: PageKind::READ_WRITE, content: Content::Zero });
}

/// The pages of a program at `at`.
fn program_pages(pages: &mut Vec<PageRun>, program: &Program, at: u64) {
    for segment in &program.segments {
        let Flags { r, w, x } = segment.flags;
        let kind = PageKind::Regular { r, w, x };
        if segment.start < segment.file_end {
            let count = (segment.file_end - segment.start) / PAGE_SIZE;
            pages.push(PageRun { offset: at + segment.start, count, kind, content: Content::Bytes(segment.data.clone()) });
        }
        if segment.file_end < segment.end {
            let count = (segment.end - segment.file_end) / PAGE_SIZE;
            pages.push(PageRun { offset: at + segment.file_end, count, kind, content: Content::Zero });
        }
    }
}
