//! Rewriting of syscall sites: a `syscall` in an enclave is #UD, two transitions and a decode. A jump to a trampoline that calls the LibOS
//! costs a few cycles. It is done when the image is built, so the rewritten code is the code that is measured.
//!
//! # What a site becomes
//! `syscall` has two bytes, `jmp rel32` five. So a *window* of whole instructions around it is replaced by `jmp trampoline` and `int3`,
//! and the trampoline is
//! ```text
//! instructions of the window before the syscall
//! lea  -128(%rsp), %rsp        the red zone: `syscall` does not write to the stack, `call` does
//! call teemate_syscall
//! lea  128(%rsp), %rsp
//! instructions of the window after it
//! jmp  end of the window
//! ```
//! `teemate_syscall` takes and gives registers as the kernel does: number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9; result in RAX;
//! RCX, R11 and the arithmetic flags are lost, all else is kept (the direction flag too).
//!
//! **The stack at its return address lies 128 bytes below the payload's.** A child of `clone` or `clone3` starts at that return address, as
//! the parent goes on there; so the LibOS gives it RSP = (top of the child's stack) - 128, and the `lea` puts it right. A site that was
//! left to trap has no such offset.
//!
//! # Why it is safe
//! Three things could break a program, and each is excluded by what a file can say:
//! * *A jump into the middle of a window.* Only a window's first instruction may be the target of anything. Known targets are: direct
//!   branches in all code; addresses that any `lea` of code computes; symbols; addends of relocations (function pointers, tables of
//!   addresses: in a position-independent file each one has a relocation); starts of FDEs; landing pads; and jump tables of 32-bit
//!   distances. The last have no relocation, but their base is computed by a `lea`: every address in read-only data that a `lea` computes is
//!   read as if a table were there, until a distance leads out of the code. Taking data for a table only costs sites.
//! * *Code that is no code.* Instructions are decoded from the start of each function (symbols and FDEs) to its end, never by looking
//!   for bytes. A function with bytes that are no instruction, or whose last instruction ends beyond it, keeps its sites.
//! * *Flags that are still wanted.* The kernel keeps them, the call does not. A site after which they are read before they are written
//!   is left.
//!
//! What remains: code that reads its own bytes, and unwinding from *within* a trampoline (nothing unwinds through a syscall, except a
//! debugger).

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};
use serde::{Deserialize, Serialize};

use crate::elf::Program;

/// What became of a payload's syscall sites.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Sites, by rising address.
    pub sites: Vec<Site>,
}

/// One `syscall` instruction of the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Address in the payload's ELF file, not in ELRANGE.
    pub address: u64,
    /// The function it is in; empty where the file does not say.
    pub symbol: String,
    /// The syscall's number, where the code just before says it.
    pub number: Option<u32>,
    /// What was done.
    pub form: Form,
}

/// What was done with a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// `mov $nr,%eax; syscall`: exactly these gave way to the jump.
    Number,
    /// Other instructions before it gave way to the jump.
    Before,
    /// Instructions after it (and perhaps before) gave way to the jump.
    After,
    /// Left as it is: it traps. Why.
    Trap(String),
}

impl Report {
    /// How many sites were rewritten.
    pub fn rewritten(&self) -> usize {
        self.sites.iter().filter(|site| !matches!(site.form, Form::Trap(_))).count()
    }

    /// Sites that were left to trap.
    pub fn trapping(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(|site| matches!(site.form, Form::Trap(_)))
    }
}

/// vfork's child runs on its parent's stack: it would overwrite the return address that the parent needs.
const VFORK: u32 = 58;
/// Bytes of `jmp rel32`.
const JUMP: u64 = 5;
/// Instructions that a window may have on each side of the syscall.
const REACH: usize = 5;
/// Entries of a jump table that are read.
const TABLE_MAX: usize = 4096;
/// Where trampolines start.
const TRAMPOLINE_ALIGN: usize = 16;

/// One function, decoded.
struct Function {
    start: u64,
    instructions: Vec<Instruction>,
    symbol: String,
    /// Why its sites can't be touched.
    distrust: Option<&'static str>,
}

/// Rewrites what can be rewritten. Trampolines will be at `trampolines`, `teemate_syscall` is at `entry` (both relative to the program's
/// base; `entry` may wrap below 0). Gives the trampolines' code.
pub(crate) fn rewrite(program: &mut Program, trampolines: u64, entry: u64) -> (Vec<u8>, Report) {
    let functions = decode(program);
    let targets = targets(program, &functions);
    let mut report = Report::default();
    let mut code: Vec<u8> = Vec::new();
    for function in &functions {
        // Windows must not overlap.
        let mut free = 0;
        for (index, instruction) in function.instructions.iter().enumerate() {
            if instruction.code() != Code::Syscall {
                continue;
            }
            let number = number(&function.instructions, index, &targets);
            let form = site(&functions, function, index, number, &targets, free).and_then(|window| {
                let at = trampolines + code.len() as u64;
                let bytes = trampoline(program, function, &window, index, at, entry)?;
                patch(program, function, &window, at)?;
                code.extend_from_slice(&bytes);
                code.resize(code.len().next_multiple_of(TRAMPOLINE_ALIGN), 0xcc);
                free = window.last + 1;
                Ok(window.form)
            });
            report.sites.push(Site {
                address: instruction.ip(),
                symbol: function.symbol.clone(),
                number,
                form: form.unwrap_or_else(|why| Form::Trap(why.to_owned())),
            });
        }
    }
    report.sites.sort_by_key(|site| site.address);
    (code, report)
}

/// Instructions `first..=last` of a function.
struct Window {
    first: usize,
    last: usize,
    form: Form,
}

/// Decodes every function from its start, and what lies between them.
fn decode(program: &Program) -> Vec<Function> {
    let mut functions = Vec::new();
    for &(start, end) in &program.code {
        // Nested and aliased functions: each piece starts where anything is known to start.
        let mut starts: BTreeMap<u64, (bool, &str)> = BTreeMap::from([(start, (false, ""))]);
        let mut covered = start;
        let mut name = "";
        for (&from, (to, symbol)) in program.functions.range(start..end) {
            if covered < from {
                starts.entry(covered).or_insert((false, ""));
            }
            let to = (*to).min(end);
            // A nested entry without a name of its own belongs to the function around it.
            if !symbol.is_empty() || from >= covered {
                name = symbol;
            }
            let sized = to > from || from < covered;
            starts.insert(from, (sized, name));
            covered = covered.max(to);
        }
        if covered < end {
            starts.entry(covered).or_insert((false, ""));
        }
        let ends: Vec<u64> = starts.keys().copied().skip(1).chain([end]).collect();
        for ((from, (known, symbol)), to) in starts.into_iter().zip(ends) {
            functions.push(decode_one(program, from, to, known, symbol));
        }
    }
    functions
}

fn decode_one(program: &Program, from: u64, to: u64, known: bool, symbol: &str) -> Function {
    let mut function = Function { start: from, instructions: Vec::new(), symbol: symbol.to_owned(), distrust: None };
    if !known {
        function.distrust = Some("outside of every function that the file names");
    }
    let bytes = usize::try_from(to - from).ok().and_then(|length| program.bytes(from)?.get(..length));
    let Some(bytes) = bytes else { return function };
    for instruction in &mut Decoder::with_ip(64, bytes, from, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            function.distrust = Some("in a function with bytes that are no instruction");
            // The decoder goes on behind the byte: what follows still counts as targets and sites, but is never rewritten.
            continue;
        }
        function.instructions.push(instruction);
    }
    function
}

/// Every address in the code that something may go to.
fn targets(program: &Program, functions: &[Function]) -> BTreeSet<u64> {
    let mut targets = program.targets.clone();
    targets.insert(program.entry);
    let mut bases = BTreeSet::new();
    for instruction in functions.iter().flat_map(|function| &function.instructions) {
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call | FlowControl::XbeginXabortXend => {
                targets.insert(instruction.near_branch_target());
            }
            _ => {}
        }
        if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
            targets.insert(instruction.ip_rel_memory_address());
            bases.insert(instruction.ip_rel_memory_address());
        }
    }
    for base in bases {
        jump_table(program, base, &mut targets);
    }
    targets
}

/// Reads what may be a table of 32-bit distances from its own start.
fn jump_table(program: &Program, base: u64, targets: &mut BTreeSet<u64>) {
    let Some(bytes) = program.segment(base).filter(|segment| !segment.flags.w).and_then(|_| program.bytes(base)) else { return };
    for entry in bytes.as_chunks::<4>().0.iter().take(TABLE_MAX) {
        let target = base.wrapping_add_signed(i64::from(i32::from_le_bytes(*entry)));
        if !program.is_code(target) {
            return;
        }
        targets.insert(target);
    }
}

/// The number in EAX, if it is set by a constant just before, in a straight line.
fn number(instructions: &[Instruction], site: usize, targets: &BTreeSet<u64>) -> Option<u32> {
    if targets.contains(&instructions.get(site)?.ip()) {
        return None;
    }
    for instruction in instructions.get(..site)?.iter().rev().take(8) {
        let rax = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == Register::RAX;
        match instruction.mnemonic() {
            Mnemonic::Mov if rax && matches!(instruction.code(), Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32) => {
                return Some(instruction.immediate32());
            }
            Mnemonic::Xor
                if rax && instruction.op1_kind() == OpKind::Register && instruction.op1_register() == instruction.op0_register() =>
            {
                return Some(0);
            }
            // Instructions that surely leave RAX alone.
            Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Xor | Mnemonic::Movsxd | Mnemonic::And | Mnemonic::Or | Mnemonic::Add if !rax => {}
            _ => return None,
        }
        if targets.contains(&instruction.ip()) {
            return None;
        }
    }
    None
}

/// Chooses the window of a site, or says why there is none.
fn site(
    functions: &[Function],
    function: &Function,
    site: usize,
    number: Option<u32>,
    targets: &BTreeSet<u64>,
    free: usize,
) -> Result<Window, &'static str> {
    if let Some(why) = function.distrust {
        return Err(why);
    }
    let instructions = &function.instructions;
    if number == Some(VFORK) {
        return Err("vfork's child shares its parent's stack");
    }
    if instructions.get(site).is_none_or(|site| flags_live(functions, site.next_ip())) {
        return Err("the flags are read after it");
    }
    // (instructions displaced, of them after the site, first, last)
    let mut best: Option<(usize, usize, usize, usize)> = None;
    for first in (site.saturating_sub(REACH).max(free)..=site).rev() {
        for last in site..=site + REACH {
            let Some(window) = instructions.get(first..=last) else { break };
            let displaced = last - first;
            let size: u64 = window.iter().map(|instruction| instruction.len() as u64).sum();
            let fits = size >= JUMP
                && window.iter().skip(1).all(|instruction| !targets.contains(&instruction.ip()))
                && window.iter().enumerate().all(|(index, instruction)| first + index == site || is_displaceable(instruction));
            let candidate = (displaced, last - site, first, last);
            if fits && best.is_none_or(|best| candidate < best) {
                best = Some(candidate);
            }
        }
    }
    let (displaced, after, first, last) = best.ok_or("no room: branches or their targets are too near")?;
    let form = match instructions.get(first) {
        _ if after > 0 => Form::After,
        Some(before) if displaced == 1 && before.code() == Code::Mov_r32_imm32 && before.op0_register() == Register::EAX => Form::Number,
        _ => Form::Before,
    };
    Ok(Window { first, last, form })
}

/// Whether an instruction does the same at another address.
fn is_displaceable(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Next
        && !matches!(instruction.mnemonic(), Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Syscall)
}

const STATUS: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Whether a status flag may be read from here on before it is written. Calls and returns end it: no ABI passes flags.
fn flags_live(functions: &[Function], start: u64) -> bool {
    let mut work = vec![(start, 0u32)];
    let mut seen = BTreeSet::new();
    while let Some((mut address, mut written)) = work.pop() {
        while written & STATUS != STATUS && seen.insert((address, written)) {
            // Not understood: say yes, and leave the site.
            let Some(instruction) = instruction_at(functions, address).filter(|_| seen.len() <= 256) else { return true };
            address = instruction.next_ip();
            if instruction.code() == Code::Syscall {
                // The next syscall keeps the flags, unless it is rewritten itself, and then the same was asked for it.
                continue;
            }
            if instruction.rflags_read() & STATUS & !written != 0 {
                return true;
            }
            written |= instruction.rflags_modified();
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::Call | FlowControl::IndirectCall | FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt => {
                    break;
                }
                FlowControl::UnconditionalBranch => address = instruction.near_branch_target(),
                FlowControl::ConditionalBranch => work.push((instruction.near_branch_target(), written)),
                FlowControl::IndirectBranch | FlowControl::XbeginXabortXend => return true,
            }
        }
    }
    false
}

/// The instruction that was decoded at an address.
fn instruction_at(functions: &[Function], address: u64) -> Option<&Instruction> {
    let index = functions.partition_point(|function| function.start <= address).checked_sub(1)?;
    let instructions = &functions.get(index)?.instructions;
    instructions.get(instructions.binary_search_by_key(&address, Instruction::ip).ok()?)
}

/// The trampoline's code.
fn trampoline(program: &Program, function: &Function, window: &Window, site: usize, at: u64, entry: u64) -> Result<Vec<u8>, &'static str> {
    let mut code = Vec::new();
    let instructions = function.instructions.get(window.first..=window.last).ok_or("no such window")?;
    for (index, instruction) in instructions.iter().enumerate() {
        if window.first + index == site {
            code.extend_from_slice(&[0x48, 0x8d, 0x64, 0x24, 0x80]); // lea -128(%rsp), %rsp
            transfer(&mut code, 0xe8, at, entry)?;
            code.extend_from_slice(&[0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0]); // lea 128(%rsp), %rsp
        } else if instruction.is_ip_rel_memory_operand() {
            let mut encoder = Encoder::new(64);
            encoder.encode(instruction, at + code.len() as u64).map_err(|_| "an instruction beside it can't be moved")?;
            code.extend_from_slice(&encoder.take_buffer());
        } else {
            let bytes = program.bytes(instruction.ip()).and_then(|bytes| bytes.get(..instruction.len()));
            code.extend_from_slice(bytes.ok_or("an instruction beside it can't be read")?);
        }
    }
    let back = instructions.last().map_or(0, Instruction::next_ip);
    transfer(&mut code, 0xe9, at, back)?;
    Ok(code)
}

/// Puts the jump in the window's place. The rest of it is `int3`: whoever gets there by a way that nobody knew traps.
fn patch(program: &mut Program, function: &Function, window: &Window, trampoline: u64) -> Result<(), &'static str> {
    let (first, last) = (function.instructions.get(window.first), function.instructions.get(window.last));
    let (Some(first), Some(last)) = (first, last) else { return Err("no such window") };
    let mut jump = Vec::new();
    transfer(&mut jump, 0xe9, first.ip(), trampoline)?;
    let place = program.bytes_mut(first.ip(), last.next_ip() - first.ip()).ok_or("the window is not in one segment")?;
    place.fill(0xcc);
    place.get_mut(..jump.len()).ok_or("the window is too small")?.copy_from_slice(&jump);
    Ok(())
}

/// Appends `opcode rel32` to code that starts at `at`.
fn transfer(code: &mut Vec<u8>, opcode: u8, at: u64, target: u64) -> Result<(), &'static str> {
    let end = at.wrapping_add(code.len() as u64 + JUMP);
    let distance = i32::try_from(target.wrapping_sub(end).cast_signed()).map_err(|_| "too far from the trampolines")?;
    code.push(opcode);
    code.extend_from_slice(&distance.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x1000;
    const TRAMPOLINES: u64 = 0x8000;
    const ENTRY: u64 = 0x9000;
    const MOV_39_EAX: [u8; 5] = [0xb8, 39, 0, 0, 0];
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    const CMP_4095_RAX: [u8; 6] = [0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff];
    const RET: [u8; 1] = [0xc3];

    fn run(code: &[&[u8]]) -> (Program, Vec<u8>, Vec<Site>) {
        let code = code.concat();
        let mut program = Program::of_code(&code, &[(BASE, BASE + code.len() as u64)], &[]);
        let (trampolines, report) = rewrite(&mut program, TRAMPOLINES, ENTRY);
        (program, trampolines, report.sites)
    }

    fn traps(code: &[&[u8]], why: &str) {
        let (program, trampolines, sites) = run(code);
        assert!(trampolines.is_empty());
        assert_eq!(&program.bytes(BASE).unwrap()[..code.concat().len()], &code.concat()[..], "changed");
        match &sites[..] {
            [Site { form: Form::Trap(said), .. }] => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }

    /// Decodes from an address on, following the rewriter's own jumps: what the processor would execute up to a `ret`.
    fn path(program: &Program, trampolines: &[u8], mut at: u64) -> Vec<String> {
        let mut path = Vec::new();
        for _ in 0..100 {
            let bytes = if at >= TRAMPOLINES { &trampolines[(at - TRAMPOLINES) as usize..] } else { program.bytes(at).unwrap() };
            let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
            at = instruction.next_ip();
            match instruction.flow_control() {
                FlowControl::UnconditionalBranch => at = instruction.near_branch_target(),
                FlowControl::Call if instruction.code() != Code::Syscall => {
                    assert_eq!(instruction.near_branch_target(), ENTRY);
                    path.push("call".to_owned());
                }
                FlowControl::Return => return path,
                _ => path.push(format!("{:?}", instruction.code())),
            }
        }
        panic!("does not return: {path:?}");
    }

    #[test]
    fn number_then_syscall() {
        let (program, trampolines, sites) = run(&[&MOV_39_EAX, &SYSCALL, &RET]);
        assert_eq!(sites, [Site { address: BASE + 5, symbol: "f1000".into(), number: Some(39), form: Form::Number }]);
        let code = &program.bytes(BASE).unwrap()[..8];
        assert_eq!(code, [0xe9, 0xfb, 0x6f, 0, 0, 0xcc, 0xcc, 0xc3]);
        assert_eq!(
            trampolines[..28],
            [
                0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x64, 0x24, 0x80, 0xe8, 0xf1, 0x0f, 0, 0, 0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0, 0xe9, 0xeb,
                0x8f, 0xff, 0xff
            ]
        );
        assert_eq!(path(&program, &trampolines, BASE), ["Mov_r32_imm32", "Lea_r64_m", "call", "Lea_r64_m"]);
    }

    #[test]
    fn bare_syscall_takes_the_comparison_after_it() {
        let je_to_syscall = [0x74, 0xf6];
        let (program, trampolines, sites) = run(&[&SYSCALL, &CMP_4095_RAX, &je_to_syscall, &RET]);
        assert_eq!(sites[0].form, Form::After);
        assert_eq!(path(&program, &trampolines, BASE), ["Lea_r64_m", "call", "Lea_r64_m", "Cmp_RAX_imm32", "Je_rel8_64"]);
    }

    #[test]
    fn instructions_before_are_displaced() {
        // mov %rdi,%rsi; mov %r8d,%eax; syscall; jmp to itself
        let (program, trampolines, sites) = run(&[&[0x48, 0x89, 0xfe], &[0x44, 0x89, 0xc0], &SYSCALL, &[0x85, 0xc0], &RET]);
        assert_eq!(sites[0].form, Form::Before);
        assert_eq!(path(&program, &trampolines, BASE), ["Mov_rm64_r64", "Mov_rm32_r32", "Lea_r64_m", "call", "Lea_r64_m", "Test_rm32_r32"]);
    }

    #[test]
    fn rip_relative_operands_keep_their_target() {
        // lea 0x100(%rip),%rsi; syscall; test %eax,%eax; ret
        let (_, trampolines, sites) = run(&[&[0x48, 0x8d, 0x35, 0, 1, 0, 0], &SYSCALL, &[0x85, 0xc0], &RET]);
        assert_eq!(sites[0].form, Form::Before);
        let lea = Decoder::with_ip(64, &trampolines, TRAMPOLINES, DecoderOptions::NONE).decode();
        assert_eq!(lea.ip_rel_memory_address(), BASE + 7 + 0x100);
    }

    #[test]
    fn a_target_inside_every_window_leaves_the_site() {
        // mov $39,%eax; L: syscall; jne L; ret
        traps(&[&MOV_39_EAX, &SYSCALL, &[0x75, 0xfc], &RET], "the flags are read");
        // mov $39,%eax; L: syscall; test %eax,%eax; jne L; ret
        traps(&[&MOV_39_EAX, &SYSCALL, &[0x85, 0xc0], &[0x75, 0xfa], &RET], "no room");
    }

    #[test]
    fn a_jump_table_is_a_target() {
        // lea table(%rip),%rdx; movslq (%rdx,%rax,4),%rax; add %rdx,%rax; jmp *%rax;
        // xor %eax,%eax; nop; nop; nop; L: syscall; ret
        let code = [
            &[0x48, 0x8d, 0x15, 0xf9, 0x0f, 0, 0][..],
            &[0x48, 0x63, 0x04, 0x82],
            &[0x48, 0x01, 0xd0],
            &[0xff, 0xe0],
            &[0x31, 0xc0, 0x90, 0x90, 0x90],
            &SYSCALL,
            &RET,
        ]
        .concat();
        let site = BASE + 21;
        let functions = [(BASE, BASE + code.len() as u64)];
        let distance = (site as i32 - 0x2000).to_le_bytes();
        let mut program = Program::of_code(&code, &functions, &distance);
        let (_, report) = rewrite(&mut program, TRAMPOLINES, ENTRY);
        assert_eq!(report.rewritten(), 0, "{report:?}");
        let mut program = Program::of_code(&code, &functions, &[]);
        assert_eq!(rewrite(&mut program, TRAMPOLINES, ENTRY).1.rewritten(), 1);
    }

    #[test]
    fn flags_that_are_wanted_leave_the_site() {
        // cmp %esi,%edi; mov $39,%eax; syscall; je +1; nop; ret
        traps(&[&[0x39, 0xf7], &MOV_39_EAX, &SYSCALL, &[0x74, 0x01], &[0x90], &RET], "flags");
    }

    #[test]
    fn vfork_is_left() {
        traps(&[&[0xb8, 58, 0, 0, 0], &SYSCALL, &RET], "vfork");
    }

    #[test]
    fn data_in_a_function_leaves_its_sites() {
        traps(&[&MOV_39_EAX, &SYSCALL, &RET, &[0x06, 0x06]], "no instruction");
    }

    #[test]
    fn code_without_a_function_is_left() {
        let code = [&MOV_39_EAX[..], &SYSCALL, &RET].concat();
        let mut program = Program::of_code(&code, &[], &[]);
        let (trampolines, report) = rewrite(&mut program, TRAMPOLINES, ENTRY);
        assert!(trampolines.is_empty());
        assert!(matches!(&report.sites[0].form, Form::Trap(why) if why.contains("outside")));
    }

    #[test]
    fn two_sites_do_not_share_instructions() {
        // syscall; syscall; test; ret: the first can't have the second's bytes.
        let (program, trampolines, sites) = run(&[&[0x90; 3], &SYSCALL, &[0x90; 2], &SYSCALL, &[0x85, 0xc0, 0x90, 0x90], &RET]);
        assert!(sites.iter().all(|site| !matches!(site.form, Form::Trap(_))), "{sites:?}");
        let calls = path(&program, &trampolines, BASE).iter().filter(|step| *step == "call").count();
        assert_eq!(calls, 2);
    }
}
