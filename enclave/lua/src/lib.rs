//! Lua 5.1 scripts as Redis runs them, interpreted inside WebAssembly: a script that breaks the interpreter breaks only its own memory.
//!
//! Lua leaves protected calls by a trap that the host ends (see `engine/engine.c`). Instructions are bounded by fuel, because time is
//! the host's, and memory by a limit.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::time::Instant;

use sha1::{Digest, Sha1};
use wasmtime::{Caller, Config, Engine, Global, Instance, Linker, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc};

/// The engine's module, if the build had a compiler for it.
const MODULE: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/engine.rs"));
const PRELUDE: &[u8] = include_bytes!("../engine/prelude.lua");

/// Whether scripts can run: the build had a compiler for the interpreter.
pub fn is_there() -> bool {
    MODULE.is_some()
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The build had no compiler.
    #[error("ERR this server was built without scripts: clang-19 and wasi-libc were missing")]
    Absent,
    /// Over the limit.
    #[error("ERR the script did not end within {0} instructions and was stopped; what it wrote before stays")]
    Fuel(u64),
    /// The host ended it.
    #[error("{0}")]
    Ended(String),
    /// Out of memory, out of stack, or a fault.
    #[error("ERR the script was stopped: out of memory or stack ({0})")]
    Broken(String),
}

/// Carries out what scripts ask for.
pub trait Host: std::any::Any {
    /// A request of `redis.call`; the reply is RESP in the version that the script wants.
    fn call(&mut self, args: &[&[u8]]) -> Vec<u8>;
    /// `redis.acl_check_cmd`: `:1` or `:0`, or an error when there is no such command.
    fn may(&mut self, args: &[&[u8]]) -> Vec<u8>;
    /// `redis.setresp`: from now on replies are in this version, 2 or 3.
    fn version(&mut self, version: u8);
    /// `redis.log`: level (0 debug to 3 warning) and text.
    fn log(&mut self, level: i32, text: &[u8]);
    /// Called again and again while a script runs.
    ///
    /// # Errors
    /// Why it is to end now, as an error reply.
    fn tick(&mut self) -> Result<(), String>;
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub enum Job<'a> {
    /// A script.
    Eval {
        /// Its [`name()`].
        name: &'a str,
        /// Its text.
        source: &'a [u8],
    },
    /// Nothing of a script but whether it can be read: it is kept, as if it had been run.
    Compile {
        /// Its [`name()`].
        name: &'a str,
        /// Its text.
        source: &'a [u8],
    },
    /// A library of functions: what it registers is kept, as this library. The reply lists the functions: name, description, flags.
    Load {
        /// What it is called here; never used twice, so that an old one is not taken for a new one.
        library: &'a str,
        /// Its text.
        source: &'a [u8],
    },
    /// A function of a library that is loaded.
    Call {
        /// The library.
        library: &'a str,
        /// The function.
        function: &'a str,
    },
}

/// What it is run with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    /// KEYS.
    pub keys: &'a [&'a [u8]],
    /// ARGV.
    pub args: &'a [&'a [u8]],
    /// Version of the protocol that the reply is in: 2 or 3.
    pub version: u8,
}

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was returned.
    Value,
    /// An error.
    Error,
    /// An error of a command, which was an error there already.
    Passed,
}

/// What came of a script, and the host, which comes back.
pub type Outcome = (Result<(Kind, Vec<u8>), Error>, Option<Box<dyn Host>>);

/// Limits of a script.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the interpreter's memory, all scripts together.
    pub memory: usize,
    /// How many instructions of WebAssembly one may take: some thousand million are about a second.
    pub fuel: u64,
    /// How many of them without a look at whether it is to end: one call of a library's function, as a search with a hostile pattern.
    pub step: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 64 << 20, fuel: 100_000_000_000, step: 5_000_000_000 }
    }
}

/// A throw of Lua's on its way to the protected call.
#[derive(Debug, thiserror::Error)]
#[error("thrown")]
struct Thrown;

/// Requests of a script between two looks at whether it is to end.
const REQUESTS: u32 = 64;

/// The host wants a script to end: no protected call stops this one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(String);

struct Data {
    limits: StoreLimits,
    parts: Option<Parts>,
    /// Requests of the running script go there, and replies come back.
    host: Option<Box<dyn Host>>,
    reply: Vec<u8>,
    /// Requests of the running script.
    requests: u32,
    /// Instructions that it may still take beside those that it was given.
    left: u64,
    /// Those that it is given at a time.
    step: u64,
}

/// What carries a script out.
type Run = TypedFunc<(u32, u32, u32, u32, u32, u32, u32, u32), u32>;

#[derive(Clone)]
struct Parts {
    memory: Memory,
    stack: Global,
    invoke: TypedFunc<(u32, u32, u32), ()>,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<u32, ()>,
    run: Run,
    forget: TypedFunc<u32, ()>,
    used: TypedFunc<(), u32>,
    out: TypedFunc<(), u32>,
    out_length: TypedFunc<(), u32>,
}

/// The interpreter of one server: compiled when the first script comes.
pub struct Interpreter {
    limits: Limits,
    store: Option<Store<Data>>,
    /// Libraries that are loaded.
    libraries: HashSet<String>,
}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interpreter").field("limits", &self.limits).field("ready", &self.store.is_some()).finish()
    }
}

/// The name of a script: SHA-1 in hexadecimal.
pub fn name(script: &[u8]) -> String {
    Sha1::digest(script).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Broken(format!("{error}").lines().next().unwrap_or_default().to_owned())
}

impl Interpreter {
    /// Within these limits. Costs nothing yet.
    pub fn new(limits: Limits) -> Interpreter {
        Interpreter { limits, store: None, libraries: HashSet::new() }
    }

    /// Drops all scripts and libraries that it has compiled.
    pub fn forget(&mut self) {
        self.store = None;
        self.libraries.clear();
    }

    /// Drops a library.
    pub fn forget_library(&mut self, library: &str) {
        if self.libraries.remove(library)
            && let Some(mut store) = self.store.take()
        {
            let dropped = drop_library(&mut store, library);
            if dropped.is_ok() {
                self.store = Some(store);
            } else {
                self.forget();
            }
        }
    }

    /// Whether a library is loaded: after a script that had to be stopped none is.
    pub fn has_library(&self, library: &str) -> bool {
        self.libraries.contains(library)
    }

    /// Bytes that Lua uses.
    pub fn used(&mut self) -> usize {
        let Some(store) = &mut self.store else { return 0 };
        let Some(parts) = store.data().parts.clone() else { return 0 };
        // What it takes is no script's.
        store.set_fuel(self.limits.fuel).and_then(|()| parts.used.call(store, ())).map_or(0, |bytes| bytes as usize)
    }

    /// Runs a script. Its reply is RESP: what it returned, or its error. The host comes back in any case.
    ///
    /// # Errors
    /// [`Error`]: the script was stopped; the next one finds a new interpreter.
    pub fn run(&mut self, job: Job<'_>, input: Input<'_>, host: Box<dyn Host>) -> Outcome {
        let mut store = match self.store.take().map_or_else(|| self.start(), Ok) {
            Ok(store) => store,
            Err(error) => return (Err(error), Some(host)),
        };
        store.data_mut().host = Some(host);
        let first = self.limits.fuel.min(self.limits.step);
        store.data_mut().left = self.limits.fuel - first;
        let done = store.set_fuel(first).and_then(|()| run(&mut store, job, input));
        let host = store.data_mut().host.take();
        let done = match done {
            Ok((kind, reply)) => {
                self.store = Some(store);
                if let (Job::Load { library, .. }, Kind::Value) = (job, kind) {
                    self.libraries.insert(library.to_owned());
                }
                Ok((kind, reply))
            }
            Err(error) => {
                self.forget();
                if error.downcast_ref() == Some(&Trap::OutOfFuel) {
                    Err(Error::Fuel(self.limits.fuel))
                } else if let Some(Stopped(why)) = error.downcast_ref() {
                    Err(Error::Ended(why.clone()))
                } else {
                    Err(broken(error.root_cause()))
                }
            }
        };
        (done, host)
    }

    /// A new interpreter that knows no script.
    fn start(&mut self) -> Result<Store<Data>, Error> {
        let (engine, module) = compiled()?;
        let limits = StoreLimitsBuilder::new().memory_size(self.limits.memory).build();
        let mut store =
            Store::new(engine, Data { limits, parts: None, host: None, reply: Vec::new(), requests: 0, left: 0, step: self.limits.step });
        store.limiter(|data| &mut data.limits);
        store.set_fuel(self.limits.fuel).map_err(broken)?;
        let instance = link(engine, module).and_then(|linker| linker.instantiate(&mut store, module)).map_err(broken)?;
        initialise(&mut store, &instance).map_err(broken)?;
        Ok(store)
    }
}

/// What every interpreter of this process is an instance of.
fn compiled() -> Result<&'static (Engine, Module), Error> {
    static COMPILED: OnceLock<Result<(Engine, Module), Error>> = OnceLock::new();
    let compile = || {
        let mut config = Config::new();
        config.consume_fuel(true).signals_based_traps(false).memory_guard_size(0).memory_reservation(0);
        config.wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).map_err(broken)?;
        let module = Module::new(&engine, MODULE.ok_or(Error::Absent)?).map_err(broken)?;
        Ok((engine, module))
    };
    COMPILED.get_or_init(compile).as_ref().map_err(Clone::clone)
}

fn link(engine: &Engine, module: &Module) -> wasmtime::Result<Linker<Data>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("teemate", "throw", || -> wasmtime::Result<()> { Err(Thrown.into()) })?;
    linker.func_wrap("teemate", "try", |mut caller: Caller<'_, Data>, function: u32, state: u32, data: u32| -> wasmtime::Result<()> {
        let parts = caller.data().parts.clone().ok_or_else(|| wasmtime::Error::msg("not ready"))?;
        let stack = parts.stack.get(&mut caller);
        match parts.invoke.call(&mut caller, (function, state, data)) {
            // The frames between are gone, and with them what they had on the stack.
            Err(error) if error.is::<Thrown>() => parts.stack.set(&mut caller, stack),
            other => other,
        }
    })?;
    linker.func_wrap("teemate", "call", |mut caller: Caller<'_, Data>, ask: u32, request: u32, length: u32| -> wasmtime::Result<u32> {
        let bytes = read(&mut caller, request, length)?;
        let mut args = Vec::new();
        let mut rest = &bytes[..];
        while let Some((size, behind)) = rest.split_first_chunk::<4>() {
            let size = u32::from_le_bytes(*size) as usize;
            let (arg, behind) = behind.split_at_checked(size).ok_or_else(|| wasmtime::Error::msg("a request is cut"))?;
            args.push(arg);
            rest = behind;
        }
        let data = caller.data_mut();
        let asked = |host: &mut Box<dyn Host>| if ask == 0 { host.call(&args) } else { host.may(&args) };
        data.reply = data.host.as_mut().map(asked).unwrap_or_default();
        // What a script asks for takes longer than what it does itself.
        data.requests = data.requests.wrapping_add(1);
        if data.requests.is_multiple_of(REQUESTS) {
            data.host.as_mut().map_or(Ok(()), |host| host.tick()).map_err(Stopped)?;
        }
        Ok(data.reply.len() as u32)
    })?;
    linker.func_wrap("teemate", "take", |mut caller: Caller<'_, Data>, place: u32| -> wasmtime::Result<()> {
        let reply = std::mem::take(&mut caller.data_mut().reply);
        write(&mut caller, place, &reply)
    })?;
    linker.func_wrap("teemate", "log", |mut caller: Caller<'_, Data>, level: i32, text: u32, length: u32| -> wasmtime::Result<()> {
        let text = read(&mut caller, text, length)?;
        if let Some(host) = &mut caller.data_mut().host {
            host.log(level, &text);
        }
        Ok(())
    })?;
    linker.func_wrap("teemate", "sha1", |mut caller: Caller<'_, Data>, text: u32, length: u32, hex: u32| -> wasmtime::Result<()> {
        let text = read(&mut caller, text, length)?;
        write(&mut caller, hex, name(&text).as_bytes())
    })?;
    linker.func_wrap("teemate", "version", |mut caller: Caller<'_, Data>, version: u32| {
        if let Some(host) = &mut caller.data_mut().host {
            host.version(if version >= 3 { 3 } else { 2 });
        }
    })?;
    linker.func_wrap("teemate", "tick", |mut caller: Caller<'_, Data>| -> wasmtime::Result<()> {
        caller.data_mut().host.as_mut().map_or(Ok(()), |host| host.tick()).map_err(Stopped)?;
        // It gets as much again as it has taken, as far as there is more for it.
        let there = caller.get_fuel()?;
        let data = caller.data_mut();
        let more = data.step.saturating_sub(there).min(data.left);
        data.left -= more;
        caller.set_fuel(there + more)
    })?;
    // The standard library's own seeds are random in an enclave, too.
    linker.func_wrap("teemate", "seed", || RandomState::new().hash_one(0) as u32)?;
    let began = Instant::now();
    linker.func_wrap("teemate", "clock", move || began.elapsed().as_secs_f64())?;
    // C's library looks for directories when it starts: there are none (EBADF). It wants files, which nothing here uses: such a call ends
    // the script.
    linker.func_wrap("wasi_snapshot_preview1", "fd_prestat_get", |_: i32, _: i32| 8_i32)?;
    linker.define_unknown_imports_as_traps(module)?;
    Ok(linker)
}

fn memory(caller: &Caller<'_, Data>) -> wasmtime::Result<Memory> {
    caller.data().parts.as_ref().map(|parts| parts.memory).ok_or_else(|| wasmtime::Error::msg("not ready"))
}

fn read(caller: &mut Caller<'_, Data>, at: u32, length: u32) -> wasmtime::Result<Vec<u8>> {
    let memory = memory(caller)?;
    let range = at as usize..at as usize + length as usize;
    Ok(memory.data(&*caller).get(range).ok_or_else(|| wasmtime::Error::msg("an address outside memory"))?.to_vec())
}

fn write(caller: &mut Caller<'_, Data>, at: u32, bytes: &[u8]) -> wasmtime::Result<()> {
    Ok(memory(caller)?.write(caller, at as usize, bytes)?)
}

fn initialise(store: &mut Store<Data>, instance: &Instance) -> wasmtime::Result<()> {
    let missing = || wasmtime::Error::msg("the engine lacks an export");
    let parts = Parts {
        memory: instance.get_memory(&mut *store, "memory").ok_or_else(missing)?,
        stack: instance.get_global(&mut *store, "__stack_pointer").ok_or_else(missing)?,
        invoke: instance.get_typed_func(&mut *store, "te_invoke")?,
        alloc: instance.get_typed_func(&mut *store, "te_alloc")?,
        free: instance.get_typed_func(&mut *store, "te_free")?,
        run: instance.get_typed_func(&mut *store, "te_run")?,
        forget: instance.get_typed_func(&mut *store, "te_forget")?,
        used: instance.get_typed_func(&mut *store, "te_used")?,
        out: instance.get_typed_func(&mut *store, "te_out")?,
        out_length: instance.get_typed_func(&mut *store, "te_out_length")?,
    };
    store.data_mut().parts = Some(parts.clone());
    instance.get_typed_func::<(), ()>(&mut *store, "_initialize")?.call(&mut *store, ())?;
    let place = put(store, &parts, PRELUDE)?;
    let status = instance.get_typed_func::<(u32, u32), u32>(&mut *store, "te_init")?.call(&mut *store, (place, PRELUDE.len() as u32))?;
    if status != 0 {
        return Err(wasmtime::Error::msg(String::from_utf8_lossy(&output(store, &parts)?).into_owned()));
    }
    parts.free.call(&mut *store, place)
}

fn put(store: &mut Store<Data>, parts: &Parts, bytes: &[u8]) -> wasmtime::Result<u32> {
    let place = parts.alloc.call(&mut *store, u32::try_from(bytes.len())?)?;
    if place == 0 {
        return Err(wasmtime::Error::msg("the script does not fit"));
    }
    parts.memory.write(&mut *store, place as usize, bytes)?;
    Ok(place)
}

fn output(store: &mut Store<Data>, parts: &Parts) -> wasmtime::Result<Vec<u8>> {
    let (at, length) = (parts.out.call(&mut *store, ())? as usize, parts.out_length.call(&mut *store, ())? as usize);
    Ok(parts.memory.data(&*store).get(at..at + length).ok_or_else(|| wasmtime::Error::msg("an address outside memory"))?.to_vec())
}

/// One allocation holds everything: name, text, arguments.
fn run(store: &mut Store<Data>, job: Job<'_>, input: Input<'_>) -> wasmtime::Result<(Kind, Vec<u8>)> {
    let parts = store.data().parts.clone().ok_or_else(|| wasmtime::Error::msg("not ready"))?;
    let (what, name, text) = match job {
        Job::Eval { name, source } => (0, name, source),
        Job::Load { library, source } => (1, library, source),
        Job::Call { library, function } => (2, library, function.as_bytes()),
        Job::Compile { name, source } => (3, name, source),
    };
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(text);
    for arg in input.keys.iter().chain(input.args) {
        bytes.extend_from_slice(&(arg.len() as u32).to_le_bytes());
        bytes.extend_from_slice(arg);
    }
    let place = put(store, &parts, &bytes)?;
    let (at, length) = (place + name.len() as u32 + 1, text.len() as u32);
    let counts = (input.keys.len() as u32, (input.keys.len() + input.args.len()) as u32);
    let arguments = (what, place, at, length, at + length, counts.0, counts.1, input.version.into());
    let kind = match parts.run.call(&mut *store, arguments)? {
        0 => Kind::Value,
        1 => Kind::Error,
        _ => Kind::Passed,
    };
    parts.free.call(&mut *store, place)?;
    Ok((kind, output(store, &parts)?))
}

fn drop_library(store: &mut Store<Data>, library: &str) -> wasmtime::Result<()> {
    let parts = store.data().parts.clone().ok_or_else(|| wasmtime::Error::msg("not ready"))?;
    store.set_fuel(1 << 20)?;
    let place = put(store, &parts, &[library.as_bytes(), b"\0"].concat())?;
    parts.forget.call(&mut *store, place)?;
    parts.free.call(&mut *store, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is asked before it ends the script.
    struct Echo(usize);

    impl Host for Echo {
        fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
            match args[0] {
                b"fail" => b"-ERR failed\r\n".to_vec(),
                b"list" => b"*3\r\n:1\r\n$1\r\nx\r\n$-1\r\n".to_vec(),
                b"map" => b"%1\r\n$1\r\nf\r\n,1.5\r\n".to_vec(),
                b"members" => b"~2\r\n#t\r\n_\r\n".to_vec(),
                b"said" => b"|1\r\n+a\r\n:1\r\n=6\r\ntxt:hi\r\n".to_vec(),
                b"large" => b"(12345678901234567890123\r\n".to_vec(),
                _ => [b"+".as_slice(), &args.join(&b' '), b"\r\n"].concat(),
            }
        }
        fn may(&mut self, args: &[&[u8]]) -> Vec<u8> {
            if args[0] == b"set" { b":1\r\n".to_vec() } else { b"-ERR\r\n".to_vec() }
        }
        fn version(&mut self, _: u8) {}
        fn log(&mut self, _: i32, _: &[u8]) {}
        fn tick(&mut self) -> Result<(), String> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| "ERR enough".to_owned())?;
            Ok(())
        }
    }

    /// An interpreter, if there is one.
    fn interpreter(limits: Limits) -> Option<Interpreter> {
        if !is_there() {
            println!("SKIPPED: this was built without clang-19 and wasi-libc, so without Lua");
            return None;
        }
        Some(Interpreter::new(limits))
    }

    /// What is said, with `|` for line ends.
    fn said((done, host): Outcome) -> String {
        assert!(host.is_some());
        match done {
            Ok((_, reply)) => String::from_utf8_lossy(&reply).replace("\r\n", "|"),
            Err(error) => error.to_string(),
        }
    }

    fn eval(lua: &mut Interpreter, script: &str, keys: &[&[u8]], args: &[&[u8]]) -> String {
        let job = Job::Eval { name: &name(script.as_bytes()), source: script.as_bytes() };
        said(lua.run(job, Input { keys, args, version: 2 }, Box::new(Echo(usize::MAX))))
    }

    #[test]
    fn scripts_are_run_and_stopped() {
        let Some(mut lua) = interpreter(Limits { memory: 16 << 20, fuel: 500_000_000, step: 200_000_000 }) else { return };
        let mut eval = |script: &str, keys: &[&[u8]], args: &[&[u8]]| eval(&mut lua, script, keys, args);
        assert_eq!(eval("return {KEYS[1], ARGV[1], 3.9, true, false}", &[b"k"], &[b"v"]), "*5|$1|k|$1|v|:3|:1|$-1|");
        assert_eq!(eval("return redis.call('set', KEYS[1], 10)", &[b"k"], &[]), "+set k 10|");
        assert_eq!(eval("return redis.call('list')[2]", &[], &[]), "$1|x|");
        assert_eq!(eval("return redis.pcall('fail').err", &[], &[]), "$10|ERR failed|");
        let failed = eval("\nredis.call('fail')", &[], &[]);
        assert!(failed.starts_with("-ERR failed script: ") && failed.ends_with(", on @user_script:2.|"), "{failed}");
        assert!(eval("return nothing", &[], &[]).contains("Script attempted to access nonexistent global variable 'nothing'"));
        for script in ["x = 1", "string.rep = 1", "KEYS = 1", "rawset(redis, 'call', 1)", "table.insert(string, 1)", "setmetatable(_G, {})"]
        {
            assert!(eval(script, &[], &[]).contains("Attempt to modify a readonly table"), "{script}");
        }
        assert!(eval("return (", &[], &[]).starts_with("-ERR Error compiling script (new function): user_script:1:"));
        assert_eq!(eval("local c = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) c() return c()", &[], &[]), ":2|");
        assert_eq!(eval("return {pcall(function() error('x', 0) end)}", &[], &[]), "*2|$-1|$1|x|");
        assert_eq!(eval("return redis.sha1hex('')", &[], &[]), "$40|da39a3ee5e6b4b0d3255bfef95601890afd80709|");
        assert_eq!(eval("return redis.acl_check_cmd('set', 'k')", &[], &[]), ":1|");
        assert!(eval("return redis.acl_check_cmd('none')", &[], &[]).contains("Invalid command passed to redis.acl_check_cmd()"));
        assert!(eval("redis.set_repl(9)", &[], &[]).contains("Invalid replication flags"));
        assert_eq!(
            eval("return cjson.encode({1, 'a/\\n', true, cjson.null, {}, {x = 1.5}})", &[], &[]),
            "$34|[1,\"a\\/\\n\",true,null,{},{\"x\":1.5}]|"
        );
        assert_eq!(
            eval(
                "local t = cjson.decode(ARGV[1]) return {t[1], t[2].k, t[3] == cjson.null, t[4]}",
                &[],
                &[br#" [1, {"k": "\u00e9\n"}, null, -2e2 ] "#]
            ),
            "*4|:1|$3|\u{e9}\n|:1|:-200|"
        );
        assert!(eval("return cjson.decode(string.rep('[', 2000))", &[], &[]).contains("too many nested data structures"));
        assert!(eval("return cjson.decode('[1,]')", &[], &[]).contains("Expected value but found invalid token at character 4"));
        // What is hostile ends, and the next script runs.
        for hostile in [
            "while true do end",
            "while true do pcall(function() while true do end end) end",
            "return string.rep('x', 1e9)",
            "local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end",
            "local function f() return 1 + f() end return f()",
            "return string.find(string.rep('a', 30000), string.rep('a?', 3000) .. string.rep('a', 3000))",
            "local function f() return pcall(f) end f() error('deep')",
            "local t = {} t[1] = t return t",
            "return loadstring('\\27Lua')()",
            "return loadstring(string.dump(function() end))()",
            "return loadstring(string.rep('(', 100000))()",
            "getmetatable('').__index.rep = nil",
            "getmetatable('').__index = nil",
            "return select(-1e9, 1)",
            "return cmsgpack.unpack(string.rep('\\145', 1000000))",
            "return cmsgpack.unpack('\\221\\255\\255\\255\\255')",
            "return struct.pack('i33', 1)",
            "return struct.unpack('c4294967296', 'x')",
            "return struct.unpack('c0', 'x')",
            "return struct.unpack('i4', 'abc', 2)",
        ] {
            let said = eval(hostile, &[], &[]);
            assert!(said.starts_with("-") || said.starts_with("ERR") || said.contains("-ERR"), "{hostile}: {said:.200}");
            assert_eq!(eval("return 1", &[], &[]), ":1|", "{hostile}");
        }
        let begin = Instant::now();
        for _ in 0..1000 {
            eval("return redis.call('set', KEYS[1], 10)", &[b"k"], &[]);
        }
        println!("{:?} a script with one request", begin.elapsed() / 1000);
    }

    #[test]
    fn libraries_of_c_give_what_theirs_give() {
        let Some(mut lua) = interpreter(Limits::default()) else { return };
        let hex = "local h = '' for i = 1, #x do h = h .. string.format('%02x', string.byte(x, i)) end return h";
        let mut packed = |what: &str| eval(&mut lua, &format!("local x = {what} {hex}"), &[], &[]).split('|').nth(1).unwrap().to_owned();
        // The examples of MessagePack's own specification, and of Lua's struct.
        for (what, bytes) in [
            ("cmsgpack.pack({compact = true})", "81a7636f6d70616374c3"),
            (
                "cmsgpack.pack(0, 127, 128, 256, 65536, 2^32, -1, -32, -33, -129, -32769)",
                "007fcc80cd0100ce00010000cf0000000100000000ffe0d0dfd1ff7fd2ffff7fff",
            ),
            ("cmsgpack.pack(-1099511627776, 0.1, 0.5)", "d3ffffff0000000000cb3fb999999999999aca3f000000"),
            ("cmsgpack.pack(nil, false, {1, {}}, 'x')", "c0c2920190a178"),
            ("struct.pack('>Ihb', 1, -2, 3)", "00000001fffe03"),
            ("struct.pack('<lBc2s', 1, 255, 'abc', 'z')", "0100000000000000ff61627a00"),
            ("struct.pack('!4bi', 1, 2)", "0100000002000000"),
            ("struct.pack('>d', 1)", "3ff0000000000000"),
        ] {
            assert_eq!(packed(what), bytes, "{what}");
        }
        let mut eval = |script: &str| eval(&mut lua, script, &[], &[]);
        assert_eq!(eval("return {struct.unpack('>Ihb', '\\0\\0\\0\\1\\255\\254\\3')}"), "*4|:1|:-2|:3|:8|");
        assert_eq!(eval("return {struct.unpack('Bc0s', '\\2abz\\0', 1)}"), "*3|$2|ab|$1|z|:6|");
        assert_eq!(eval("return struct.size('!8bd')"), ":16|");
        assert_eq!(eval("return {cmsgpack.unpack_limit(cmsgpack.pack(1, 2, 3), 2, 0)}"), "*3|:2|:1|:2|");
        assert_eq!(eval("return {cmsgpack.unpack_one('\\1', 0)}"), "*2|:-1|:1|");
        assert!(eval("return cmsgpack.unpack('\\203\\0')").contains("Missing bytes in input."));
        assert_eq!(
            eval("local t = {1, 'two', {a = {true, 2.5}}} t = cmsgpack.unpack(cmsgpack.pack(t)) return {t[1], t[2], tostring(t[3].a[2])}"),
            "*3|:1|$3|two|$3|2.5|"
        );
        assert_eq!(
            eval(
                "return {bit.band(7, 12), bit.bor(1, 2, 4), bit.bxor(5, 1), bit.bnot(0), bit.lshift(1, 31), bit.rshift(-1, 28), bit.arshift(-8, 1)}"
            ),
            "*7|:4|:7|:4|:-1|:-2147483648|:15|:-4|"
        );
        assert_eq!(
            eval(
                "return {bit.rol(0x12345678, 8), bit.ror(0x12345678, 8), bit.bswap(0x12345678), bit.tohex(255, 4), bit.tohex(65535, -2147483648)}"
            ),
            "*5|:878082066|:2014458966|:2018915346|$4|00ff|$8|0000FFFF|"
        );
        assert!(eval("return bit.band()").contains("number expected"));
    }

    #[test]
    fn replies_in_version_3_go_in_and_out() {
        let Some(mut lua) = interpreter(Limits::default()) else { return };
        let mut ask = |script: &str, version: u8| {
            let job = Job::Eval { name: &name(script.as_bytes()), source: script.as_bytes() };
            said(lua.run(job, Input { version, ..Input::default() }, Box::new(Echo(usize::MAX))))
        };
        for (script, two, three) in [
            ("redis.setresp(3) return redis.call('map')", "*2|$1|f|$3|1.5|", "%1|$1|f|,1.5|"),
            ("redis.setresp(3) return redis.call('said')", "$2|hi|", "=6|txt:hi|"),
            ("redis.setresp(3) return redis.call('large')", "$23|12345678901234567890123|", "(12345678901234567890123|"),
            ("redis.setresp(3) return false", ":0|", "#f|"),
            ("return true", ":1|", ":1|"),
            ("return nil", "$-1|", "_|"),
            ("return redis.call('map').map.f.double * 2", ":3|", ":3|"),
            ("return {set = {a = true}}", "*1|$1|a|", "~1|$1|a|"),
        ] {
            assert_eq!((ask(script, 2).as_str(), ask(script, 3).as_str()), (two, three), "{script}");
        }
        assert!(ask("redis.setresp(4)", 2).contains("RESP version must be 2 or 3."));
        // A set with nothing in it for a key breaks the script, not more.
        assert!(ask("return redis.call('members')", 2).starts_with('-'));
    }

    #[test]
    fn functions_are_registered_and_called() {
        let Some(mut lua) = interpreter(Limits { fuel: 2_000_000_000, ..Limits::default() }) else { return };
        let load = |lua: &mut Interpreter, library: &str, source: &str| {
            said(lua.run(Job::Load { library, source: source.as_bytes() }, Input::default(), Box::new(Echo(100))))
        };
        let call = |lua: &mut Interpreter, library: &str, function: &str, ticks: usize| {
            let input = Input { keys: &[b"k"], args: &[b"v"], version: 2 };
            said(lua.run(Job::Call { library, function }, input, Box::new(Echo(ticks))))
        };
        let source = "local count = 0
            redis.register_function('next', function(keys, args) count = count + 1 return {count, keys[1], args[1], math.max(1, 2)} end)
            redis.register_function{function_name = 'reads', callback = function() return redis.call('get') end,
                description = 'what', flags = {'no-writes'}}
            redis.register_function('long', function() while true do pcall(function() while true do end end) end end)
            redis.register_function('fails', function() error('why') end)";
        assert_eq!(load(&mut lua, "1", source), "*4|*2|$4|next|$-1|*3|$5|reads|$4|what|$9|no-writes|*2|$4|long|$-1|*2|$5|fails|$-1|");
        assert!(lua.has_library("1"));
        assert_eq!(call(&mut lua, "1", "next", 100), "*4|:1|$1|k|$1|v|:2|");
        assert_eq!(call(&mut lua, "1", "next", 100), "*4|:2|$1|k|$1|v|:2|");
        assert_eq!(call(&mut lua, "1", "reads", 100), "+get|");
        assert!(call(&mut lua, "1", "fails", 100).ends_with("user_function:6: why script: fails, on @user_function:6.|"));
        for (source, why) in [
            ("return 1", "No functions registered"),
            ("redis.call('ping')", "nonexistent global variable 'call'"),
            ("return math.random()", "nonexistent global variable 'math'"),
            ("x = 1", "Attempt to modify a readonly table"),
            ("while true do end", "enough"),
            ("redis.register_function('a b', function() end)", "Library names can only contain"),
            ("redis.register_function('a', 1)", "second argument to redis.register_function must be a function"),
            ("redis.register_function{function_name = 'a', callback = function() end, flags = {'what'}}", "unknown flag given"),
            ("(", "Error compiling function"),
        ] {
            let told = load(&mut lua, "2", source);
            assert!(told.contains(why) && !lua.has_library("2"), "{source}: {told}");
        }
        // The one that did not end has taken everything with it: libraries are loaded again by who has their text.
        assert!(!lua.has_library("1"));
        load(&mut lua, "1", source);
        assert_eq!(call(&mut lua, "1", "long", 10), "ERR enough");
        load(&mut lua, "1", source);
        lua.forget_library("1");
        assert!(!lua.has_library("1") && call(&mut lua, "1", "next", 10).contains("the library is not loaded"));
        assert!(lua.used() > 10_000);
    }
}
