//! JavaScript: QuickJS-ng, itself a WebAssembly module, in an instance that begins as the engine's frozen, initialised memory.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sha2::Digest;
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Limits, Reuse};
use wasmtime::{Caller, Engine, Instance, InstancePre, Linker, Memory, Module, Store, TypedFunc, WasmParams, WasmResults};

use crate::call::{self, State, not_a_dictionary, stop};
use crate::control::Control;
use crate::function::{Code, Function, environment_json};
use crate::image::Image;
use crate::jobs::Input;
use crate::memory::Pool;
use crate::snapshot::Snapshot;
use crate::stacks::Stacks;
use crate::{clock, egress, engine, files, guest, slices, spec, wasi};

/// Whether each instance that starts from a snapshot is compared with what it should be, byte by byte.
const CHECK_SNAPSHOTS: bool = cfg!(any(debug_assertions, feature = "check-snapshots"));

/// The engine as it was built: module without data, its memory, and the module compiled. `None` when it was not built.
const BUILT: Option<Built> = include!(concat!(env!("OUT_DIR"), "/js_engine.rs"));

/// The three files of `teemate-js-engine-build`.
struct Built {
    module: &'static [u8],
    image: &'static [u8],
    compiled: &'static [u8],
}

/// Fuel and time that compiling a source may take.
const COMPILE_FUEL: u64 = 20_000_000_000;
const COMPILE_MS: u64 = 20_000;

/// The JavaScript engine, ready to make instances.
pub struct Script {
    /// Its own engine, because its memories begin differently.
    pub engine: Engine,
    /// Where they come from.
    pub memories: Arc<Pool>,
    start: InstancePre<State>,
    exports: Exports,
}

struct Exports {
    memory: wasmtime::ModuleExport,
    meter: wasmtime::ModuleExport,
    alloc: wasmtime::ModuleExport,
    compile: wasmtime::ModuleExport,
    run: wasmtime::ModuleExport,
    free: wasmtime::ModuleExport,
    load: wasmtime::ModuleExport,
    call: wasmtime::ModuleExport,
    out: wasmtime::ModuleExport,
    out_length: wasmtime::ModuleExport,
}

/// What the engine's meter is exported as ([`crate::slices`]).
pub const METER: &str = "te_meter";

/// Whether this program was built with the JavaScript engine.
pub fn is_built() -> bool {
    BUILT.is_some()
}

impl Script {
    /// Loads the engine that is part of this program. Its calls run on these stacks.
    ///
    /// # Errors
    /// When it is not, or cannot run here.
    pub fn load(stacks: &Stacks) -> Result<Script, Failure> {
        let Some(built) = BUILT else {
            return Err(Failure::new(
                FailureKind::Invalid,
                "this service was built without the JavaScript engine: install clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc, run `cargo xtask build`, and start the node again; WebAssembly functions work without",
            ));
        };
        let broken = |error: &dyn std::fmt::Display| {
            Failure::new(
                FailureKind::Internal,
                format!("the JavaScript engine cannot be loaded: {error}; build it again with `cargo xtask build`"),
            )
        };
        let image = Image::thaw(built.image).map_err(|e| broken(&e))?;
        let memories = Pool::new(Some(image));
        let engine = engine::engine(engine::Guest::Script, &memories, stacks).map_err(|e| broken(&e))?;
        // SAFETY: the blob is part of this program, so it is measured with it, and `teemate-js-engine-build` made it from the module beside
        // it with the configuration of `engine::config`. wasmtime refuses it when this processor lacks something.
        let loaded = unsafe { Module::deserialize(&engine, built.compiled) };
        let module = loaded
            .or_else(|error| {
                eprintln!("teemate-functions: the JavaScript engine is compiled again, which takes seconds: {error}");
                Module::from_binary(&engine, built.module)
            })
            .map_err(|e| broken(&e))?;
        let export = |name: &str| module.get_export_index(name).ok_or_else(|| broken(&format!("it lacks {name}")));
        let exports = Exports {
            memory: export("memory")?,
            meter: export(METER)?,
            alloc: export("te_alloc")?,
            compile: export("te_compile")?,
            run: export("te_run")?,
            free: export("te_free")?,
            load: export("te_load")?,
            call: export("te_call")?,
            out: export("te_out")?,
            out_length: export("te_out_length")?,
        };
        let mut linker = Linker::new(&engine);
        wasi::define(&mut linker).map_err(|e| broken(&e))?;
        define(&mut linker).map_err(|e| broken(&e))?;
        let start = linker.instantiate_pre(&module).map_err(|e| broken(&e))?;
        Ok(Script { engine, memories, start, exports })
    }

    /// The least memory in which a function can run.
    pub fn smallest(&self) -> u64 {
        self.memories.image().map_or(0, Image::size) as u64 + (256 << 10)
    }
}

/// An instance of the engine.
pub struct Running {
    memory: Memory,
    instance: Instance,
}

impl Running {
    fn new(store: &mut Store<State>, script: &Script) -> wasmtime::Result<Running> {
        let instance = slices::instantiate(store, &script.start)?;
        let memory = instance.get_module_export(&mut *store, &script.exports.memory).and_then(wasmtime::Extern::into_memory);
        let memory = memory.ok_or_else(|| wasmtime::Error::msg("the engine has no memory"))?;
        store.data_mut().memory = Some(memory);
        let count = instance.get_module_export(&mut *store, &script.exports.meter).and_then(wasmtime::Extern::into_global);
        slices::count(store, count.ok_or_else(|| wasmtime::Error::msg("the engine has no meter"))?)?;
        // An instantiation grows no memory, so the limiter has not seen the initial size twice.
        Ok(Running { memory, instance })
    }

    /// An instance in which the store's function is initialised: the top level of its script evaluated, or, if that left a snapshot
    /// before, as that says.
    ///
    /// # Errors
    /// What the top level throws, and the limits that it passes.
    pub fn initialised(store: &mut Store<State>, script: &Script, bytecode: &[u8]) -> wasmtime::Result<Running> {
        let running = Running::new(store, script)?;
        let function = store.data().function.clone();
        match function.snapshot.get() {
            Some(Some(snapshot)) => running.restore(store, script, snapshot)?,
            Some(None) => running.load(store, script, bytecode)?,
            None => {
                running.load(store, script, bytecode)?;
                if function.spec.reuse == Reuse::Rewind {
                    let _ = function.snapshot.set(running.snapshot(store, script));
                }
            }
        }
        Ok(running)
    }

    /// Evaluates the top level of a script.
    fn load(&self, store: &mut Store<State>, script: &Script, bytecode: &[u8]) -> wasmtime::Result<()> {
        let function = store.data().function.clone();
        let environment = function.environment.as_bytes();
        let alloc = self.function(store, &script.exports.alloc)?;
        let [code, environment_at] = self.put(store, &alloc, [bytecode, environment])?;
        let load = self.function::<(u32, u32, u32, u32, u64), i32>(store, &script.exports.load)?;
        let arguments = (code, bytecode.len() as u32, environment_at, environment.len() as u32, seed());
        let status = slices::call(store, &load, arguments)?;
        self.free(store, script, code, &[bytecode, environment])?;
        if status == 0 {
            return Ok(());
        }
        let out = self.out(store, script)?;
        let (memory, state) = self.memory.data_and_store_mut(&mut *store);
        Err(stop(thrown(&memory[out], state)))
    }

    /// Gives back what [`Running::put`] took, wiped.
    fn free(&self, store: &mut Store<State>, script: &Script, at: u32, pieces: &[&[u8]]) -> wasmtime::Result<()> {
        let total: usize = pieces.iter().map(|piece| (piece.len() + 1).next_multiple_of(8)).sum();
        let free = self.function::<(u32, u32), ()>(store, &script.exports.free)?;
        slices::call(store, &free, (at, u32::try_from(total)?))
    }

    /// What the top level left, if later calls may start from it: not when it drew secret random numbers, which each call must have anew.
    fn snapshot(&self, store: &Store<State>, script: &Script) -> Option<Snapshot> {
        if store.data().drew {
            return None;
        }
        Some(Snapshot::take(self.memory.data(store), &before(script)))
    }

    fn restore(&self, store: &mut Store<State>, script: &Script, snapshot: &Snapshot) -> wasmtime::Result<()> {
        let missing = snapshot.size().saturating_sub(self.memory.data_size(&*store));
        if missing > 0 {
            self.memory.grow(&mut *store, missing as u64 / 65_536)?;
        }
        if !snapshot.restore(self.memory.data_mut(&mut *store)) {
            return Err(wasmtime::Error::msg("the memory has another size"));
        }
        if CHECK_SNAPSHOTS && !snapshot.matches(self.memory.data(&*store), &before(script)) {
            return Err(wasmtime::Error::msg("the memory is not as it was after the initialisation"));
        }
        Ok(())
    }

    /// Calls the entry point of the function that [`Running::initialised`] made ready, with the store's input.
    ///
    /// # Errors
    /// Why it ended otherwise than by a result.
    pub fn call(&self, store: &mut Store<State>, script: &Script) -> wasmtime::Result<()> {
        let function = store.data().function.clone();
        let params = std::mem::take(&mut store.data_mut().input);
        let entry = function.entry.as_bytes();
        let new = store.data().env_changed;
        let environment = if new { environment(store.data()).into_owned() } else { String::new() };
        let environment = environment.as_bytes();
        let alloc = self.function(store, &script.exports.alloc)?;
        let pieces = [entry, environment, &params];
        let [entry_at, environment_at, params_at] = self.put(store, &alloc, pieces)?;
        let call = self.function::<(u32, u32, u32, u32, u32, u64), i32>(store, &script.exports.call)?;
        let arguments = (entry_at, environment_at, environment.len() as u32, params_at, params.len() as u32, seed());
        let status = slices::call(store, &call, arguments)?;
        let out = self.out(store, script)?;
        let (memory, state) = self.memory.data_and_store_mut(&mut *store);
        if status != 0 {
            return Err(stop(thrown(&memory[out], state)));
        }
        state.answer(&memory[out]).map_err(stop)?;
        if function.spec.reuse == Reuse::Keep {
            self.free(store, script, entry_at, &pieces)?;
        }
        Ok(())
    }

    /// Its memory, for tests.
    pub fn bytes<'a>(&self, store: &'a Store<State>) -> &'a [u8] {
        self.memory.data(store)
    }

    fn function<P: WasmParams, R: WasmResults>(
        &self,
        store: &mut Store<State>,
        export: &wasmtime::ModuleExport,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        let function = self.instance.get_module_export(&mut *store, export).and_then(wasmtime::Extern::into_func);
        function.ok_or_else(|| wasmtime::Error::msg("an entry point is missing"))?.typed(&mut *store)
    }

    /// Copies several pieces into one allocation of the engine, each followed by a zero byte. Gives the address of each.
    fn put<const N: usize>(&self, store: &mut Store<State>, alloc: &TypedFunc<u32, u32>, pieces: [&[u8]; N]) -> wasmtime::Result<[u32; N]> {
        // Each piece begins at a multiple of 8, as QuickJS reads bytecode in words.
        let total: usize = pieces.iter().map(|piece| (piece.len() + 1).next_multiple_of(8)).sum();
        let start = slices::call(store, alloc, u32::try_from(total)?)?;
        if start == 0 {
            return Err(stop(Failure::new(FailureKind::Application, "out of memory before the script began")));
        }
        let memory = self.memory.data_mut(&mut *store);
        let mut at = start;
        let mut places = [0; N];
        for (place, piece) in places.iter_mut().zip(pieces) {
            *place = at;
            guest::write(memory, at, piece)
                .and_then(|()| guest::write(memory, at.wrapping_add(piece.len() as u32), &[0]))
                .map_err(|_| broken_engine())?;
            at = at.wrapping_add((piece.len() + 1).next_multiple_of(8) as u32);
        }
        Ok(places)
    }

    fn out(&self, store: &mut Store<State>, script: &Script) -> wasmtime::Result<std::ops::Range<usize>> {
        let [at, length] = [&script.exports.out, &script.exports.out_length].map(|export| {
            let value = self.function::<(), u32>(store, export)?;
            slices::call(store, &value, ())
        });
        let (at, length) = (at?, length?);
        guest::range(self.memory.data(&*store), at, length).map_err(|_| broken_engine())
    }
}

fn broken_engine() -> wasmtime::Error {
    stop(Failure::new(FailureKind::Application, "the script broke its JavaScript engine"))
}

/// Compiles a source to bytecode, in an instance of its own that is then dropped.
///
/// # Errors
/// The syntax error, with its line.
pub fn compile(script: &Arc<Script>, source: &str, name: &str) -> Result<Vec<u8>, Failure> {
    let limits = Limits { timeout_ms: COMPILE_MS, memory: 256 << 20, fuel: Some(COMPILE_FUEL), ..Limits::default() };
    let spec = FunctionSpec {
        name: name.to_owned(),
        kind: Kind::JavaScript,
        main: String::new(),
        limits,
        egress: vec![],
        files: vec![],
        env: vec![],
        reuse: Reuse::Fresh,
    };
    let code = Code::Script { bytecode: Vec::new(), script: script.clone() };
    let function = Arc::new(Function::new(spec, [0; 32], code, String::new()));
    let control = Arc::new(Control::default());
    control.start(clock::monotonic_ns(), COMPILE_MS);
    let attempt = || -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let mut store = call::store(&function, &control, Input::default(), clock::monotonic_ns())?;
        let running = Running::new(&mut store, script)?;
        let alloc = running.function(&mut store, &script.exports.alloc)?;
        let file = format!("{name}.js");
        let [at, file] = running.put(&mut store, &alloc, [source.as_bytes(), file.as_bytes()])?;
        let compile = running.function::<(u32, u32, u32), i32>(&mut store, &script.exports.compile)?;
        let status = slices::call(&mut store, &compile, (at, source.len() as u32, file))?;
        let out = running.out(&mut store, script)?;
        let out = running.memory.data(&store)[out].to_vec();
        if status == 0 {
            return Ok(Ok(out));
        }
        let said = said(&out);
        Ok(Err(Failure::new(FailureKind::Invalid, format!("'{name}' does not compile: {} {}", said.message, said.stack.trim()))))
    };
    attempt().map_err(|error| Failure::new(FailureKind::Invalid, format!("the source of '{name}' could not be compiled: {error}")))?
}

/// Runs a compiled script in the store's new instance.
///
/// # Errors
/// Why it ended otherwise than by a result.
pub fn run(store: &mut Store<State>, script: &Script, bytecode: &[u8], ready: impl FnOnce()) -> wasmtime::Result<()> {
    let running = Running::new(store, script)?;
    ready();
    let function = store.data().function.clone();
    let params = std::mem::take(&mut store.data_mut().input);
    let environment = environment(store.data()).into_owned();
    let environment = environment.as_bytes();
    let entry = function.entry.as_str();
    let alloc = running.function(store, &script.exports.alloc)?;
    let [code, entry, environment_at, params_at] = running.put(store, &alloc, [bytecode, entry.as_bytes(), environment, &params])?;
    let run = running.function::<(u32, u32, u32, u32, u32, u32, u32), i32>(store, &script.exports.run)?;
    let arguments = (code, bytecode.len() as u32, entry, environment_at, environment.len() as u32, params_at, params.len() as u32);
    let status = slices::call(store, &run, arguments)?;
    let out = running.out(store, script)?;
    let (memory, state) = running.memory.data_and_store_mut(&mut *store);
    if status == 0 {
        return state.answer(&memory[out]).map_err(stop);
    }
    Err(stop(thrown(&memory[out], state)))
}

/// The memory with which each instance of the engine begins.
fn before(script: &Script) -> Vec<u8> {
    let mut memory = vec![0; script.memories.image().map_or(0, Image::size)];
    if let Some(image) = script.memories.image() {
        image.fill(&mut memory);
    }
    memory
}

/// What Math.random begins with in a call.
fn seed() -> u64 {
    let mut seed = [0; 8];
    clock::random(&mut seed);
    u64::from_le_bytes(seed)
}

/// The environment of the store's call, as JSON.
fn environment(state: &State) -> Cow<'_, str> {
    let function = &state.function;
    match state.env.is_empty() {
        true => Cow::Borrowed(&function.environment),
        false => Cow::Owned(environment_json(spec::environment(&function.spec.env, &state.env))),
    }
}

/// What `describe` in prelude.js says of an error.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Said {
    message: String,
    stack: String,
}

fn said(out: &[u8]) -> Said {
    out.get(1..).and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

fn thrown(out: &[u8], state: &mut State) -> Failure {
    let said = said(out);
    let kind = match out.first() {
        Some(b'd') => return not_a_dictionary(),
        Some(b'D') => FailureKind::Denied,
        Some(b'I') => FailureKind::Integrity,
        Some(b'L') => FailureKind::Limit,
        _ => FailureKind::Application,
    };
    // The script could have made up the kind; only what the service really denied counts as such.
    if let Some(denied) = state.denied.as_ref().filter(|denied| denied.kind == kind && said.message == denied.message) {
        return denied.clone();
    }
    let text = format!("{}\n{}", said.message, said.stack);
    if let Err(limit) = state.log(text.trim_end().as_bytes()).and_then(|()| state.log(b"\n")) {
        return limit;
    }
    Failure::new(FailureKind::Application, format!("An error has occurred: {}", said.message))
}

/// Defines what engine.c imports.
fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    const HOST: &str = "teemate";
    linker.func_wrap(HOST, "slice", |caller: Caller<'_, State>| slices::spend(caller, 0))?;
    linker.func_wrap(HOST, "log", |mut caller: Caller<'_, State>, at: u32, length: u32| {
        let (memory, state) = wasi::memory(&mut caller)?;
        let text = guest::bytes(memory, at, length).map_err(|_| broken_engine())?;
        state.log(text).map_err(stop)
    })?;
    linker.func_wrap(HOST, "sleep", |caller: Caller<'_, State>, ms: f64| {
        let wait = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::ZERO);
        caller.data().control.sleep(wait).map_err(stop)
    })?;
    linker.func_wrap(HOST, "now", |caller: Caller<'_, State>| clock::monotonic_ns().saturating_sub(caller.data().began_ns) as f64 / 1e6)?;
    linker.func_wrap(HOST, "random", |mut caller: Caller<'_, State>, at: u32, length: u32| {
        slices::spend_bytes(&mut caller, length)?;
        let (memory, state) = wasi::memory(&mut caller)?;
        state.drew = true;
        clock::random(guest::bytes_mut(memory, at, length).map_err(|_| broken_engine())?);
        Ok(())
    })?;
    linker.func_wrap(HOST, "take", |mut caller: Caller<'_, State>, at: u32| {
        // The reply was copied into being, too.
        let length = caller.data().reply.len() as u32;
        slices::spend(&mut caller, length)?;
        let (memory, state) = wasi::memory(&mut caller)?;
        let reply = std::mem::take(&mut state.reply);
        guest::write(memory, at, &reply).map_err(|_| broken_engine())
    })?;
    linker.func_wrap(HOST, "file", |mut caller: Caller<'_, State>, at: u32, length: u32| {
        let (memory, state) = wasi::memory(&mut caller)?;
        let path = String::from_utf8_lossy(guest::bytes(memory, at, length).map_err(|_| broken_engine())?).into_owned();
        let content = files::read(&state.function.spec, &path);
        Ok(reply(state, content))
    })?;
    linker.func_wrap(HOST, "fetch", |mut caller: Caller<'_, State>, head: u32, head_length: u32, body: u32, length: u32| {
        let (memory, state) = wasi::memory(&mut caller)?;
        let head = guest::bytes(memory, head, head_length).map_err(|_| broken_engine())?;
        let body = guest::bytes(memory, body, length).map_err(|_| broken_engine())?;
        let response = egress::fetch(&state.function.spec, &state.control, head, body);
        state.control.check().map_err(stop)?;
        Ok(reply(state, response))
    })?;
    linker.func_wrap(HOST, "hash", |mut caller: Caller<'_, State>, name: u32, name_length: u32, at: u32, length: u32| {
        slices::spend_bytes(&mut caller, length)?;
        let (memory, state) = wasi::memory(&mut caller)?;
        let name = guest::bytes(memory, name, name_length).map_err(|_| broken_engine())?;
        let data = guest::bytes(memory, at, length).map_err(|_| broken_engine())?;
        let digest = match name {
            b"md5" => Ok(md5::Md5::digest(data).to_vec()),
            b"sha1" => Ok(sha1::Sha1::digest(data).to_vec()),
            b"sha256" => Ok(sha2::Sha256::digest(data).to_vec()),
            _ => Err(Failure::new(
                FailureKind::Application,
                format!("the digest '{}' is not there; md5, sha1 and sha256 are", String::from_utf8_lossy(name)),
            )),
        };
        Ok(reply(state, digest))
    })?;
    Ok(())
}

/// Keeps a reply for `take`. Its length, or -1 - length for an error, whose first character is its kind.
fn reply(state: &mut State, reply: Result<Vec<u8>, Failure>) -> i32 {
    match reply {
        Ok(bytes) if bytes.len() < i32::MAX as usize => {
            state.reply = bytes;
            state.reply.len() as i32
        }
        Ok(_) => {
            state.reply = b"Lthe reply is larger than 2 GiB".to_vec();
            -1 - state.reply.len() as i32
        }
        Err(failure) => {
            state.deny(&failure);
            let kind = match failure.kind {
                FailureKind::Denied => 'D',
                FailureKind::Integrity => 'I',
                FailureKind::Limit => 'L',
                _ => 'A',
            };
            state.reply = format!("{kind}{failure}").into_bytes();
            -1 - state.reply.len() as i32
        }
    }
}
