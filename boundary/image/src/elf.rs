//! Static-pie ELF files for x86-64, as far as an image needs them. The file may be hostile: every rule that it breaks is an error.

use std::collections::{BTreeMap, BTreeSet};

use object::{
    LittleEndian,
    elf::{self, FileHeader64},
    read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _},
};
use teemate_abi::layout::PAGE_SIZE;

use crate::Error;

/// Most bytes that one program may take in memory before EINIT: so everything in an image is within reach of a 32-bit displacement.
const MEMORY_MAX: u64 = 512 << 20;
/// Largest alignment of a segment.
const ALIGN_MAX: u64 = 2 << 20;
/// Largest file.
const FILE_MAX: usize = 512 << 20;

const R_NONE: u32 = 0;
const R_RELATIVE: u32 = 8;
const R_IRELATIVE: u32 = 37;

/// What a program is for; the rules differ a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Has no start-up code: everything is relocated here, once and for all.
    LibOs,
    /// glibc's start-up code relocates it again, and then asks for RELRO to be read-only.
    Payload,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::LibOs => "LibOS",
            Role::Payload => "payload",
        }
    }
}

/// A program as it will be in memory, at addresses relative to where it is put.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// By rising address; no two share a page.
    pub segments: Vec<Segment>,
    /// Largest alignment of a segment.
    pub align: u64,
    /// Page-aligned end.
    pub end: u64,
    /// e_entry.
    pub entry: u64,
    /// Address of the program headers.
    pub phdr: u64,
    /// How many.
    pub phnum: u64,
    /// Defined symbols by name.
    pub symbols: BTreeMap<String, u64>,
    /// Functions: start to (end, name). Size 0 where the file does not say.
    pub functions: BTreeMap<u64, (u64, String)>,
    /// Executable sections (the executable segments where there are no sections).
    pub code: Vec<(u64, u64)>,
    /// Addresses in executable segments that something may jump or call to: symbols, relocation addends, starts of FDEs, landing pads.
    pub targets: BTreeSet<u64>,
    /// Where each RELATIVE relocation writes, and the address that it writes (relative to the base).
    relative: Vec<(u64, u64)>,
    /// RELRO pages.
    relro: Option<(u64, u64)>,
    /// Where `.eh_frame` is.
    eh_frame: Option<(u64, u64)>,
}

/// One PT_LOAD.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Page-aligned start.
    pub start: u64,
    /// Page-aligned end of what the file fills.
    pub file_end: u64,
    /// Page-aligned end.
    pub end: u64,
    /// From `start` to `file_end`.
    pub data: Vec<u8>,
    /// Rights.
    pub flags: Flags,
}

/// Rights of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub r: bool,
    pub w: bool,
    pub x: bool,
}

pub(crate) fn page_down(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

pub(crate) fn page_up(address: u64) -> Option<u64> {
    Some(address.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}

impl Program {
    /// A program of nothing but code at address 0x1000: functions as (start, end), and further targets.
    #[cfg(test)]
    pub fn of_code(code: &[u8], functions: &[(u64, u64)], rodata: &[u8]) -> Program {
        let mut data = code.to_vec();
        data.resize(data.len().next_multiple_of(PAGE_SIZE as usize), 0xcc);
        let (start, end) = (PAGE_SIZE, PAGE_SIZE + data.len() as u64);
        let mut constants = rodata.to_vec();
        constants.resize(PAGE_SIZE as usize, 0);
        Program {
            segments: vec![
                Segment { start, file_end: end, end, data, flags: Flags { r: true, w: false, x: true } },
                Segment {
                    start: end,
                    file_end: end + PAGE_SIZE,
                    end: end + PAGE_SIZE,
                    data: constants,
                    flags: Flags { r: true, w: false, x: false },
                },
            ],
            align: PAGE_SIZE,
            end: end + PAGE_SIZE,
            functions: functions.iter().map(|&(start, end)| (start, (end, format!("f{start:x}")))).collect(),
            code: vec![(start, start + code.len() as u64)],
            targets: functions.iter().map(|&(start, _)| start).collect(),
            ..Program::default()
        }
    }

    /// Reads a file; nothing is relocated yet.
    pub fn parse(role: Role, file: &[u8]) -> Result<Program, Error> {
        parse(role, file).map_err(|why| Error::Elf { role: role.name(), why })
    }

    /// The segment that holds an address in its filled part.
    pub fn segment(&self, address: u64) -> Option<&Segment> {
        let index = self.segments.partition_point(|segment| segment.start <= address).checked_sub(1)?;
        let segment = self.segments.get(index)?;
        (address < segment.file_end).then_some(segment)
    }

    /// Bytes from an address to the end of its segment.
    pub fn bytes(&self, address: u64) -> Option<&[u8]> {
        let segment = self.segment(address)?;
        segment.data.get(usize::try_from(address - segment.start).ok()?..)
    }

    /// `length` bytes at an address, to write.
    pub fn bytes_mut(&mut self, address: u64, length: u64) -> Option<&mut [u8]> {
        let index = self.segments.partition_point(|segment| segment.start <= address).checked_sub(1)?;
        let segment = self.segments.get_mut(index)?;
        let from = usize::try_from(address - segment.start).ok()?;
        segment.data.get_mut(from..from.checked_add(usize::try_from(length).ok()?)?)
    }

    /// Whether the address is in an executable section.
    pub fn is_code(&self, address: u64) -> bool {
        self.code.iter().any(|&(start, end)| (start..end).contains(&address))
    }

    /// Relocates everything to `base`.
    ///
    /// For a payload it is done so that its pages are as they will be after its own start-up code has done the same: RELATIVE relocations
    /// with an addend give the same bytes however often they are done.
    pub fn relocate(&mut self, role: Role, base: u64) -> Result<(), Error> {
        for (place, addend) in std::mem::take(&mut self.relative) {
            let value = base.wrapping_add(addend).to_le_bytes();
            match self.bytes_mut(place, 8) {
                Some(bytes) => bytes.copy_from_slice(&value),
                None => {
                    let why = format!("a relocation at {place:#x} is outside what the file fills");
                    return Err(Error::Elf { role: role.name(), why });
                }
            }
        }
        Ok(())
    }

    /// Splits segments at the ends of RELRO, and gives that part the right that `role` wants: see [`Role`].
    pub fn settle_relro(&mut self, role: Role) {
        let Some((start, end)) = self.relro else { return };
        let mut segments = Vec::with_capacity(self.segments.len() + 2);
        for segment in self.segments.drain(..) {
            // Only whole pages; the first page is whole if the segment starts there (glibc rounds it down too).
            let from = page_down(start).max(segment.start);
            let to = page_down(end).min(segment.file_end);
            if from >= to || segment.flags.x {
                segments.push(segment);
                continue;
            }
            let flags = Flags { w: role == Role::Payload, ..segment.flags };
            let part = |from: u64, to: u64, end: u64, flags: Flags| {
                let range = (from - segment.start) as usize..(to - segment.start) as usize;
                let data = segment.data.get(range).unwrap_or_default().to_vec();
                Segment { start: from, file_end: to, end, data, flags }
            };
            let parts = [
                part(segment.start, from, from, segment.flags),
                part(from, to, to, flags),
                part(to, segment.file_end, segment.end, segment.flags),
            ];
            segments.extend(parts.into_iter().filter(|part| part.start < part.end));
        }
        self.segments = segments;
    }

    /// Reads `.eh_frame`: where functions start and end, and where the unwinder may continue. Broken tables add nothing.
    pub fn read_unwind_tables(&mut self) {
        let Some((start, end)) = self.eh_frame else { return };
        let mut targets = Vec::new();
        let mut functions = Vec::new();
        if let Some(data) = self.bytes(start).and_then(|bytes| bytes.get(..usize::try_from(end.checked_sub(start)?).ok()?)) {
            unwind_tables(self, start, data, &mut functions, &mut targets);
        }
        for (start, end) in functions {
            self.targets.insert(start);
            if self.is_code(start) {
                let known = self.functions.entry(start).or_insert((end, String::new()));
                known.0 = known.0.max(end);
            }
        }
        self.targets.extend(targets);
    }
}

type Headers<'a> = &'a [elf::ProgramHeader64<LittleEndian>];

fn parse(role: Role, file: &[u8]) -> Result<Program, String> {
    if file.len() > FILE_MAX {
        return Err(format!("it has {} bytes; the most is {FILE_MAX}", file.len()));
    }
    let header = FileHeader64::<LittleEndian>::parse(file).map_err(|error| format!("not a 64-bit ELF file ({error})"))?;
    let endian = header.endian().map_err(|_| "it is not little-endian".to_owned())?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err("it is for another processor than x86-64".to_owned());
    }
    if header.e_type(endian) != elf::ET_DYN {
        return Err("it is not position-independent; link it as static-pie (-static-pie, or for Rust -C relocation-model=pie -C target-feature=+crt-static)".to_owned());
    }
    let headers: Headers<'_> =
        header.program_headers(endian, file).map_err(|error| format!("its program headers can't be read ({error})"))?;
    if headers.is_empty() || headers.len() > 64 {
        return Err(format!("it has {} program headers; from 1 to 64 are expected", headers.len()));
    }

    let mut program = Program { align: PAGE_SIZE, ..Program::default() };
    let mut dynamic = None;
    for segment in headers {
        let (vaddr, memsz) = (segment.p_vaddr(endian), segment.p_memsz(endian));
        let end = vaddr.checked_add(memsz).ok_or("a segment ends beyond the address space")?;
        match segment.p_type(endian) {
            elf::PT_INTERP => {
                return Err(
                    "it is dynamically linked (PT_INTERP); link it statically: -static-pie, or for Rust -C target-feature=+crt-static"
                        .to_owned(),
                );
            }
            elf::PT_LOAD if memsz > 0 => load(&mut program, file, segment)?,
            elf::PT_DYNAMIC => dynamic = Some((vaddr, memsz)),
            elf::PT_GNU_RELRO => program.relro = Some((vaddr, end)),
            _ => {}
        }
    }
    let first = program.segments.first().ok_or("it has no loadable segment")?;
    if first.start >= PAGE_SIZE {
        return Err("its first segment does not start at address 0: it is not position-independent".to_owned());
    }
    for pair in program.segments.windows(2) {
        if let [a, b] = pair
            && a.end > b.start
        {
            return Err(format!(
                "segments at {:#x} and {:#x} share a page or are out of order; link with -z separate-code",
                a.start, b.start
            ));
        }
    }
    program.end = program.segments.last().map_or(0, |segment| segment.end);

    program.entry = header.e_entry(endian);
    let entry_code = program.segment(program.entry).is_some_and(|segment| segment.flags.x);
    if role == Role::Payload && !entry_code {
        return Err(format!("its entry {:#x} is not in an executable segment", program.entry));
    }
    let phoff = header.e_phoff(endian);
    let phnum = headers.len() as u64;
    program.phnum = phnum;
    program.phdr = headers
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .find_map(|segment| {
            let within = phoff.checked_sub(segment.p_offset(endian))?;
            (within.checked_add(phnum * 56)? <= segment.p_filesz(endian)).then(|| segment.p_vaddr(endian).checked_add(within))?
        })
        .ok_or("its program headers are in no loaded segment, where the C library looks for them (AT_PHDR)")?;

    sections(&mut program, header, file)?;
    if let Some((start, size)) = dynamic {
        relocations(&mut program, role, start, size)?;
    }
    Ok(program)
}

fn load(program: &mut Program, file: &[u8], segment: &elf::ProgramHeader64<LittleEndian>) -> Result<(), String> {
    let endian = LittleEndian;
    let (vaddr, filesz, memsz) = (segment.p_vaddr(endian), segment.p_filesz(endian), segment.p_memsz(endian));
    let bad = |why: &str| format!("the segment at {vaddr:#x} {why}");
    if filesz > memsz {
        return Err(bad("is larger in the file than in memory"));
    }
    let align = segment.p_align(endian);
    if align > 1 && (!align.is_power_of_two() || align > ALIGN_MAX) {
        return Err(bad(&format!("wants alignment {align:#x}; a power of two up to {ALIGN_MAX:#x} is possible")));
    }
    let end = vaddr.checked_add(memsz).and_then(page_up).filter(|&end| end <= MEMORY_MAX);
    let end = end.ok_or_else(|| bad(&format!("ends beyond {MEMORY_MAX:#x}; memory that large belongs into the heap")))?;
    let bytes = segment.data(endian, file).map_err(|()| bad("is not wholly in the file: it is truncated"))?;
    let flags = segment.p_flags(endian).0;
    let flags = Flags { r: flags & elf::PF_R.0 != 0, w: flags & elf::PF_W.0 != 0, x: flags & elf::PF_X.0 != 0 };
    if flags.w && flags.x {
        return Err(bad("is writable and executable"));
    }
    let start = page_down(vaddr);
    let file_end = page_up(vaddr + filesz).ok_or_else(|| bad("ends beyond the address space"))?;
    let file_end = if filesz == 0 { start } else { file_end };
    let mut data = vec![0; (file_end - start) as usize];
    if let Some(place) = data.get_mut((vaddr - start) as usize..).and_then(|rest| rest.get_mut(..bytes.len())) {
        place.copy_from_slice(bytes);
    }
    program.align = program.align.max(align);
    // Every program can be read where it can be run, and SGX has no write-only page.
    let flags = Flags { r: flags.r || flags.w || flags.x, ..flags };
    program.segments.push(Segment { start, file_end, end, data, flags });
    Ok(())
}

fn sections(program: &mut Program, header: &FileHeader64<LittleEndian>, file: &[u8]) -> Result<(), String> {
    let endian = LittleEndian;
    let sections = header.sections(endian, file).map_err(|error| format!("its sections can't be read ({error})"))?;
    for section in sections.iter() {
        let start = section.sh_addr(endian);
        let Some(end) = start.checked_add(section.sh_size(endian)) else { continue };
        if section.sh_flags(endian).0 & elf::SHF_EXECINSTR.0 != 0
            && start < end
            && program.segment(start).is_some_and(|segment| segment.flags.x && end <= segment.file_end)
        {
            program.code.push((start, end));
        }
        if sections.section_name(endian, section) == Ok(b".eh_frame".as_slice()) && start != 0 {
            program.eh_frame = Some((start, end));
        }
    }
    if program.code.is_empty() {
        program.code = program.segments.iter().filter(|segment| segment.flags.x).map(|segment| (segment.start, segment.file_end)).collect();
    }
    program.code.sort_unstable();
    for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
        let table = sections.symbols(endian, file, kind).map_err(|error| format!("its symbols can't be read ({error})"))?;
        for symbol in table.iter() {
            let value = symbol.st_value(endian);
            if symbol.is_undefined(endian) || symbol.st_type() == elf::STT_TLS {
                continue;
            }
            let name = symbol.name(endian, table.strings()).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
            if program.is_code(value) {
                program.targets.insert(value);
                if symbol.st_type() == elf::STT_FUNC || symbol.st_type() == elf::STT_GNU_IFUNC {
                    let end = value.saturating_add(symbol.st_size(endian));
                    let known = program.functions.entry(value).or_insert_with(|| (end, name.clone()));
                    known.0 = known.0.max(end);
                    // Aliases: the one that does not depend on the order in the file.
                    if !name.is_empty() && (known.1.is_empty() || (name.len(), &name) < (known.1.len(), &known.1)) {
                        known.1.clone_from(&name);
                    }
                }
            }
            if !name.is_empty() {
                program.symbols.entry(name).or_insert(value);
            }
        }
    }
    Ok(())
}

/// What a dynamic table's tags of interest say.
#[derive(Default)]
struct Dynamic {
    rela: u64,
    rela_size: u64,
    plt: u64,
    plt_size: u64,
    relr: u64,
    relr_size: u64,
}

fn relocations(program: &mut Program, role: Role, start: u64, size: u64) -> Result<(), String> {
    let table = program.bytes(start).ok_or("its dynamic table is in no segment")?;
    let mut dynamic = Dynamic::default();
    let count = usize::try_from(size / 16).unwrap_or(usize::MAX);
    for entry in table.as_chunks::<16>().0.iter().take(count) {
        let (tag, value) = (word(entry, 0), word(entry, 8));
        match tag {
            0 => break,
            1 => return Err("it needs a shared library (DT_NEEDED); link it statically: -static-pie".to_owned()),
            2 => dynamic.plt_size = value,
            7 => dynamic.rela = value,
            8 => dynamic.rela_size = value,
            17 => return Err("it has relocations without addend (DT_REL), which x86-64 does not use".to_owned()),
            23 => dynamic.plt = value,
            35 => dynamic.relr_size = value,
            36 => dynamic.relr = value,
            _ => {}
        }
    }
    let mut relative = Vec::new();
    let mut addends = Vec::new();
    for (what, start, size) in [("DT_RELA", dynamic.rela, dynamic.rela_size), ("DT_JMPREL", dynamic.plt, dynamic.plt_size)] {
        for entry in slice(program, what, start, size)?.as_chunks::<24>().0 {
            let (place, info, addend) = (word(entry, 0), word(entry, 8), word(entry, 16));
            match info as u32 {
                R_NONE => {}
                R_RELATIVE => relative.push((place, addend)),
                // The resolver runs in the payload's own start-up.
                R_IRELATIVE if role == Role::Payload => addends.push(addend),
                other => {
                    return Err(format!(
                        "the relocation at {place:#x} is {}; only R_X86_64_RELATIVE is possible here",
                        relocation_name(other)
                    ));
                }
            }
        }
    }
    let mut packed = Vec::new();
    relr(slice(program, "DT_RELR", dynamic.relr, dynamic.relr_size)?, &mut packed);
    for place in packed {
        let value = program.bytes(place).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
        let value = value.ok_or_else(|| format!("a DT_RELR relocation at {place:#x} is outside what the file fills"))?;
        match role {
            Role::LibOs => relative.push((place, value)),
            // Adds the base to what is there: doing it here too would add it twice.
            Role::Payload => addends.push(value),
        }
    }
    addends.extend(relative.iter().map(|&(_, addend)| addend));
    program.targets.extend(addends.into_iter().filter(|&address| program.code.iter().any(|&(start, end)| (start..end).contains(&address))));
    program.relative = relative;
    Ok(())
}

fn slice<'a>(program: &'a Program, what: &str, start: u64, size: u64) -> Result<&'a [u8], String> {
    if size == 0 {
        return Ok(&[]);
    }
    let bytes = program.bytes(start).and_then(|bytes| bytes.get(..usize::try_from(size).ok()?));
    bytes.ok_or_else(|| format!("{what} ({start:#x}, {size:#x} bytes) is not in one segment"))
}

/// Unpacks DT_RELR: an even word is a place; an odd one a bitmap of the 63 words after it.
fn relr(table: &[u8], places: &mut Vec<u64>) {
    let mut next = 0u64;
    for entry in table.as_chunks::<8>().0 {
        let entry = u64::from_le_bytes(*entry);
        if entry & 1 == 0 {
            places.push(entry);
            next = entry.wrapping_add(8);
        } else {
            places.extend((0..63).filter(|bit| entry >> (bit + 1) & 1 == 1).map(|bit: u64| next.wrapping_add(bit * 8)));
            next = next.wrapping_add(63 * 8);
        }
    }
}

fn word(entry: &[u8], at: usize) -> u64 {
    entry.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn relocation_name(kind: u32) -> String {
    let name = match kind {
        1 => "R_X86_64_64",
        2 => "R_X86_64_PC32",
        5 => "R_X86_64_COPY",
        6 => "R_X86_64_GLOB_DAT",
        7 => "R_X86_64_JUMP_SLOT",
        10 => "R_X86_64_32",
        16 => "R_X86_64_DTPMOD64",
        17 => "R_X86_64_DTPOFF64",
        18 => "R_X86_64_TPOFF64",
        36 => "R_X86_64_TLSDESC",
        37 => "R_X86_64_IRELATIVE",
        38 => "R_X86_64_RELATIVE64",
        _ => return format!("number {kind}"),
    };
    name.to_owned()
}

fn unwind_tables(program: &Program, at: u64, data: &[u8], functions: &mut Vec<(u64, u64)>, targets: &mut Vec<u64>) {
    use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian as Little, Pointer, UnwindSection as _};
    let bases = BaseAddresses::default().set_eh_frame(at);
    let section = EhFrame::new(data, Little);
    let mut entries = section.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(|section, bases, offset| section.cie_from_offset(bases, offset)) else { continue };
        let start = fde.initial_address();
        functions.push((start, start.saturating_add(fde.len())));
        if let Some(Pointer::Direct(lsda)) = fde.lsda()
            && let Some(bytes) = program.bytes(lsda)
        {
            landing_pads(bytes, start, targets);
        }
    }
}

/// The call-site table of a language-specific data area (Itanium C++ ABI, "Exception Handling Tables"): each landing pad.
fn landing_pads(bytes: &[u8], function: u64, targets: &mut Vec<u64>) -> Option<()> {
    let mut reader = Bytes(bytes);
    let start = match reader.byte()? {
        0xff => function,
        // Other bases than the function are never made by GCC or LLVM.
        _ => return None,
    };
    if reader.byte()? != 0xff {
        reader.uleb()?;
    }
    let encoding = reader.byte()?;
    let length = usize::try_from(reader.uleb()?).ok()?;
    let mut table = Bytes(reader.0.get(..length)?);
    while !table.0.is_empty() {
        let mut field = || match encoding & 0x0f {
            0x01 => table.uleb(),
            0x03 => table.fixed::<4>(),
            0x02 => table.fixed::<2>(),
            0x04 => table.fixed::<8>(),
            _ => None,
        };
        let (_start, _length, pad) = (field()?, field()?, field()?);
        table.uleb()?;
        if pad != 0 {
            targets.push(start.wrapping_add(pad));
        }
    }
    Some(())
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn uleb(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn fixed<const N: usize>(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        let mut value = [0; 8];
        value.get_mut(..N)?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    }
}
