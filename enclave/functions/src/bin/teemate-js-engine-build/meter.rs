//! A meter of our own in the JavaScript engine's module: it counts turns of loops and calls instead of instructions.
//!
//! wasmtime's meter keeps its count in a variable of each function, adds to it at each branch, and writes it back round each call. An
//! interpreter does little else than branch and call. Here a global counts down where execution could otherwise go on without end:
//!
//! * at the head of each loop;
//! * at the entry of one function at least of each circle of functions that call each other;
//! * before each call through the table;
//! * before each copy or fill of memory whose length is not known to be short.
//!
//! Everything between two such places is straight code of bounded length. A turn costs as many units as the loop has instructions of its own,
//! a call as many as its function, but at most [`MOST`]: the interpreter's loop is thousands of instructions long, of which a turn takes
//! some dozens. A copy costs a unit for 8 bytes. When the count falls below zero the code calls the service, which grants another slice or ends
//! the call.
//!
//! Globals are no part of linear memory: a script that breaks the engine does not reach the count.

use teemate_functions::javascript::METER;
use wasm_encoder::reencode::{Reencode, RoundtripReencoder, utils};
use wasm_encoder::{
    BlockType, BranchHint, BranchHints, CodeSection, ConstExpr, ExportKind, ExportSection, Function, GlobalSection, GlobalType,
    Instruction, Module, RawSection, ValType,
};
use wasmparser::{FunctionBody, Operator, Parser, Payload, TypeRef};

use crate::Result;

/// The most that a turn or a call costs.
const MOST: i32 = 40;
/// What a call through the table costs.
const INDIRECT: i32 = 20;
/// Bytes that are copied or filled for a unit, as a power of two.
const BYTES: i32 = 3;
/// What is not longer than this, in bytes, is part of the straight code.
const SHORT: i32 = 256;

/// The module with the meter in it, for a service that gives it `teemate.slice`.
pub fn meter(module: &[u8]) -> Result<Vec<u8>> {
    let Found { imports, slice, globals, bodies } = find(module)?;
    let places = Places { slice: slice.ok_or("the engine does not import teemate.slice")?, count: globals, length: globals + 1 };
    let circles = circles(&bodies, imports)?;

    let mut code = CodeSection::new();
    let mut hints = BranchHints::new();
    for ((index, body), circle) in (imports..).zip(&bodies).zip(circles) {
        let (function, checks) = places.put(body, circle)?;
        code.function(&function);
        if !checks.is_empty() {
            hints.function_hints(index, checks);
        }
    }
    let mut out = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::GlobalSection(section) => {
                let mut globals = GlobalSection::new();
                RoundtripReencoder.parse_global_section(&mut globals, section)?;
                let kind = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
                globals.global(kind, &ConstExpr::i32_const(0)).global(kind, &ConstExpr::i32_const(0));
                out.section(&globals);
            }
            Payload::ExportSection(section) => {
                let mut exports = ExportSection::new();
                RoundtripReencoder.parse_export_section(&mut exports, section)?;
                exports.export(METER, ExportKind::Global, places.count);
                out.section(&exports);
            }
            // They are in the places of the sections that they belong to.
            Payload::CodeSectionStart { .. } => {
                out.section(&hints);
                out.section(&code);
            }
            Payload::CodeSectionEntry(_) | Payload::CustomSection(_) => {}
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    out.section(&RawSection { id, data: &module[range] });
                }
            }
        }
    }
    Ok(out.finish())
}

/// What the code that is put in refers to.
struct Places {
    slice: u32,
    /// The global that counts.
    count: u32,
    /// One that holds a length for a moment.
    length: u32,
}

impl Places {
    /// The function with its checks, and where those branch: away from what is likely.
    fn put(&self, body: &FunctionBody, circle: bool) -> Result<(Function, Vec<BranchHint>)> {
        let (length, mut loops) = weights(body)?;
        loops.reverse();
        let mut function = utils::new_function_with_parsed_locals(&mut RoundtripReencoder, body)?;
        let mut checks = Vec::new();
        if circle {
            self.check(&mut function, length, &mut checks);
        }
        let mut reader = body.get_operators_reader()?;
        let mut short = false;
        while !reader.eof() {
            let instruction = RoundtripReencoder.parse_instruction(&mut reader)?;
            match instruction {
                Instruction::CallIndirect { .. } => self.check(&mut function, INDIRECT, &mut checks),
                Instruction::MemoryCopy { .. } | Instruction::MemoryFill(_) if !short => self.check_length(&mut function, &mut checks),
                _ => {}
            }
            function.instruction(&instruction);
            if matches!(instruction, Instruction::Loop(_)) {
                self.check(&mut function, loops.pop().ok_or("a loop was not weighed")?, &mut checks);
            }
            short = matches!(instruction, Instruction::I32Const(0..=SHORT));
        }
        Ok((function, checks))
    }

    /// Takes this much from the count.
    fn check(&self, function: &mut Function, cost: i32, checks: &mut Vec<BranchHint>) {
        function.instructions().global_get(self.count).i32_const(cost);
        self.take(function, checks);
    }

    /// Takes what a copy of the length on the stack costs, and leaves that there.
    fn check_length(&self, function: &mut Function, checks: &mut Vec<BranchHint>) {
        let mut code = function.instructions();
        code.global_set(self.length).global_get(self.length);
        code.global_get(self.count).global_get(self.length).i32_const(BYTES).i32_shr_u();
        self.take(function, checks);
    }

    /// Sets the count to the difference of what is on the stack. It was not below zero, so it is a number of 32 bits.
    fn take(&self, function: &mut Function, checks: &mut Vec<BranchHint>) {
        let mut code = function.instructions();
        code.i32_sub().global_set(self.count);
        code.global_get(self.count).i32_const(0).i32_lt_s();
        checks.push(BranchHint { branch_func_offset: function.byte_len() as u32, branch_hint_value: 0 });
        function.instructions().if_(BlockType::Empty).call(self.slice).end();
    }
}

/// What a call of a function costs, and a turn of each of its loops, in the order in which they begin.
fn weights(body: &FunctionBody) -> Result<(i32, Vec<i32>)> {
    // Of each block that is open: the loop it is, if it is one.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut inside: Vec<usize> = Vec::new();
    let (mut own, mut loops) = (0, Vec::new());
    for operator in body.get_operators_reader()? {
        match operator? {
            Operator::Loop { .. } => {
                open.push(Some(loops.len()));
                inside.push(loops.len());
                loops.push(0);
            }
            Operator::Block { .. } | Operator::If { .. } => open.push(None),
            Operator::End => {
                if let Some(Some(_)) = open.pop() {
                    inside.pop();
                }
            }
            _ => {}
        }
        let count: &mut i32 = inside.last().map_or(&mut own, |&at| &mut loops[at]);
        *count = (*count + 1).min(MOST);
    }
    Ok((own, loops))
}

/// Functions of which at least one is on each circle of direct calls.
fn circles(bodies: &[FunctionBody], first: u32) -> Result<Vec<bool>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    for body in bodies {
        let mut callees = Vec::new();
        for operator in body.get_operators_reader()? {
            match operator? {
                Operator::Call { function_index } if function_index >= first => callees.push((function_index - first) as usize),
                operator @ (Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::CallRef { .. }
                | Operator::ReturnCallRef { .. }
                | Operator::MemoryInit { .. }
                | Operator::TableCopy { .. }
                | Operator::TableFill { .. }
                | Operator::TableGrow { .. }
                | Operator::TableInit { .. }) => return Err(format!("the meter does not know: {operator:?}").into()),
                _ => {}
            }
        }
        callees.sort_unstable();
        callees.dedup();
        calls.push(callees);
    }
    // Depth first, large functions first: the interpreter, which most circles lead through, then pays for them all.
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(bodies[at].range().len()));
    let mut circles = vec![false; calls.len()];
    let mut state = vec![Visit::Not; calls.len()];
    for root in order {
        if state[root] != Visit::Not {
            continue;
        }
        state[root] = Visit::Open;
        let mut path = vec![(root, 0)];
        while let Some((at, next)) = path.last_mut() {
            let Some(&callee) = calls[*at].get(*next) else {
                state[*at] = Visit::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match state[callee] {
                Visit::Not => {
                    state[callee] = Visit::Open;
                    path.push((callee, 0));
                }
                // A call back to where the path came from closes a circle, and each circle has such a call.
                Visit::Open => circles[callee] = true,
                Visit::Done => {}
            }
        }
    }
    Ok(circles)
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    Not,
    /// It is on the path.
    Open,
    Done,
}

/// What the meter has to know of a module.
#[derive(Default)]
struct Found<'a> {
    /// Functions that are imported: the index of the first one of its own.
    imports: u32,
    /// Index of `teemate.slice`.
    slice: Option<u32>,
    globals: u32,
    bodies: Vec<FunctionBody<'a>>,
}

fn find(module: &[u8]) -> Result<Found<'_>> {
    let mut found = Found::default();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    if !matches!(import.ty, TypeRef::Func(_)) {
                        return Err(format!("the engine imports more than functions: {}", import.name).into());
                    }
                    if (import.module, import.name) == ("teemate", "slice") {
                        found.slice = Some(found.imports);
                    }
                    found.imports += 1;
                }
            }
            Payload::GlobalSection(section) => found.globals = section.count(),
            Payload::CodeSectionEntry(body) => found.bodies.push(body),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use wasmtime::{Caller, Engine, Extern, Instance, Linker, Store, Val};

    use super::*;

    const HEAD: &str = r#"(import "teemate" "slice" (func $slice)) (memory (export "memory") 16) (global $own (mut i32) (i32.const 7))"#;

    /// What a module was granted.
    #[derive(Default)]
    struct Granted {
        slices: u32,
        /// More are refused.
        most: u32,
    }

    const SLICE: i32 = 100;

    fn metered(text: &str) -> (Store<Granted>, Instance) {
        let module = meter(&wat::parse_str(format!("(module {HEAD} {text})")).unwrap()).unwrap();
        let engine = Engine::default();
        let module = wasmtime::Module::new(&engine, module).unwrap();
        let mut linker = Linker::new(&engine);
        let slice = |mut caller: Caller<'_, Granted>| {
            caller.data_mut().slices += 1;
            if caller.data().slices > caller.data().most {
                return Err(wasmtime::Trap::OutOfFuel.into());
            }
            let Some(Extern::Global(count)) = caller.get_export(METER) else { panic!("no meter") };
            let over = count.get(&mut caller).i32().unwrap();
            assert!(over < 0, "{over} is not used up");
            count.set(&mut caller, Val::I32(over + SLICE))
        };
        linker.func_wrap("teemate", "slice", slice).unwrap();
        let mut store = Store::new(&engine, Granted { slices: 0, most: 1000 });
        let instance = linker.instantiate(&mut store, &module).unwrap();
        (store, instance)
    }

    /// What `f` of this module gives, and what it cost.
    fn run(text: &str, argument: i32) -> (i32, i32) {
        let (mut store, instance) = metered(text);
        let f = instance.get_typed_func::<i32, i32>(&mut store, "f").unwrap();
        let given = f.call(&mut store, argument).unwrap();
        let left = instance.get_global(&mut store, METER).unwrap().get(&mut store).i32().unwrap();
        (given, store.data().slices as i32 * SLICE - left)
    }

    const SUM: &str = r#"(func (export "f") (param $n i32) (result i32) (local $sum i32)
        (loop $again
            (local.set $sum (i32.add (local.get $sum) (local.get $n)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (br_if $again (local.get $n)))
        local.get $sum)"#;

    #[test]
    fn a_turn_costs_what_the_loop_has() {
        let (sum, cost) = run(SUM, 100);
        assert_eq!(sum, 5050);
        // Its head, ten instructions and its end.
        assert_eq!(cost, 100 * 11);
        assert_eq!(run(SUM, 1).1, 11);
    }

    #[test]
    fn a_loop_pays_for_its_own_and_no_more_than_the_most() {
        let long = "(drop (i32.const 1)) ".repeat(100);
        let nested = format!(
            r#"(func (export "f") (param $n i32) (result i32) (local $i i32)
            (loop $outer
                (local.set $i (i32.const 5))
                (loop $inner {long} (br_if $inner (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
                (br_if $outer (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            local.get $i)"#
        );
        // The outer one: its head, a constant that is set, 5 for its end, and its `end`.
        assert_eq!(run(&nested, 3), (0, 3 * 9 + 3 * 5 * MOST));
    }

    #[test]
    fn who_may_call_himself_pays() {
        let fibonacci = |call: &str| {
            format!(
                r#"(type $t (func (param i32) (result i32))) (table funcref (elem $even $f $g))
                (func $even (type $t) local.get 0)
                (func $f (export "f") (type $t)
                    (if (result i32) (i32.lt_s (local.get 0) (i32.const 2)) (then (call $even (local.get 0))) (else
                        (i32.add (i32.sub (local.get 0) (i32.const 1)) ({call}) (i32.sub (local.get 0) (i32.const 2)) ({call})))))
                (func $g (type $t) local.get 0 call $f)"#
            )
        };
        // 177 calls, and 88 of those make two.
        let direct = run(&fibonacci("call $f"), 10);
        assert_eq!(direct, (55, 177 * 18));
        // The larger one of the two.
        let by_another = run(&fibonacci("call $g"), 10);
        assert_eq!(by_another, (55, 177 * 18));
        let by_table = run(&fibonacci("call_indirect (type $t) (i32.const 1)"), 10);
        assert_eq!(by_table, (55, 176 * INDIRECT));
    }

    #[test]
    fn what_is_straight_is_free() {
        let straight = r#"(func $double (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
            (func (export "f") (param i32) (result i32) (i32.add (call $double (local.get 0)) (global.get $own)))"#;
        assert_eq!(run(straight, 4), (15, 0));
    }

    #[test]
    fn memory_costs_by_its_length() {
        let copy = |length: &str| {
            format!(
                r#"(func (export "f") (param $n i32) (result i32)
                (memory.fill (i32.const 0) (i32.const 3) {length})
                (memory.copy (i32.const 65536) (i32.const 0) {length})
                (i32.load8_u (i32.add (i32.const 65535) {length})))"#
            )
        };
        assert_eq!(run(&copy("(local.get $n)"), 8000), (3, 2000));
        assert_eq!(run(&copy("(i32.const 8000)"), 0), (3, 2000));
        assert_eq!(run(&copy("(i32.const 8)"), 0), (3, 0));
    }

    #[test]
    fn nothing_goes_on_for_ever() {
        let endless = [
            r#"(func (export "f") (param i32) (result i32) (loop $again (br $again)) unreachable)"#,
            r#"(func $f (export "f") (param i32) (result i32) (call $f (local.get 0)))"#,
            r#"(func $g (param i32) (result i32) (call $f (local.get 0))) (func $f (export "f") (param i32) (result i32) (call $g (local.get 0)))"#,
            r#"(type $t (func (param i32) (result i32))) (table funcref (elem $f))
               (func $f (export "f") (type $t) (call_indirect (type $t) (local.get 0) (i32.const 0)))"#,
            r#"(func (export "f") (param i32) (result i32) (memory.fill (i32.const 0) (i32.const 0) (i32.const -1)) (i32.const 0))"#,
        ];
        for text in endless {
            let (mut store, instance) = metered(text);
            store.data_mut().most = 3;
            let f = instance.get_typed_func::<i32, i32>(&mut store, "f").unwrap();
            let error = f.call(&mut store, 0).unwrap_err();
            // A fill of all there could be is over at once: the memory is not that large.
            let wanted = if text.contains("memory.fill") { wasmtime::Trap::MemoryOutOfBounds } else { wasmtime::Trap::OutOfFuel };
            assert_eq!(error.downcast_ref(), Some(&wanted), "{text}: {error:?}");
        }
    }

    #[test]
    fn what_it_cannot_meter_is_refused() {
        let refused = |text: &str| meter(&wat::parse_str(text).unwrap()).unwrap_err().to_string();
        assert!(refused("(module)").contains("teemate.slice"));
        assert!(refused(r#"(module (import "teemate" "slice" (func)) (import "a" "b" (memory 1)))"#).contains("more than functions: b"));
        let with = |code: &str| {
            format!(r#"(module (import "teemate" "slice" (func $s)) (table 1 funcref) (global i32 (i32.const 0)) (func $f {code}))"#)
        };
        assert!(refused(&with("return_call $f")).contains("ReturnCall"));
        assert!(refused(&with("(table.fill (i32.const 0) (ref.null func) (i32.const 1))")).contains("TableFill"));
    }
}
