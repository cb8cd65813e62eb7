//! Lua 5.1 scripts as Redis runs them, interpreted inside WebAssembly: a script that breaks the interpreter breaks only its own memory.
//!
//! Lua leaves protected calls by a trap that the host ends (see `engine/engine.c`). Instructions are bounded by fuel, because time is
//! the host's, and memory by a limit.

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
    /// Out of memory, out of stack, or a fault.
    #[error("ERR the script was stopped: out of memory or stack ({0})")]
    Broken(String),
}

/// Carries out what scripts ask for.
pub trait Host: std::any::Any {
    /// A request; the reply is RESP2.
    fn call(&mut self, args: &[&[u8]]) -> Vec<u8>;
    /// redis.log: level (0 debug to 3 warning) and text.
    fn log(&mut self, level: i32, text: &[u8]);
}

/// What came of a script, and the host, which comes back.
pub type Outcome = (Result<Vec<u8>, Error>, Option<Box<dyn Host>>);

/// Limits of a script.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the interpreter's memory, all scripts together.
    pub memory: usize,
    /// How many instructions of WebAssembly one may take: some thousand million are about a second.
    pub fuel: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 64 << 20, fuel: 10_000_000_000 }
    }
}

/// A throw of Lua's on its way to the protected call.
#[derive(Debug, thiserror::Error)]
#[error("thrown")]
struct Thrown;

struct Data {
    limits: StoreLimits,
    parts: Option<Parts>,
    /// Requests of the running script go there, and replies come back.
    host: Option<Box<dyn Host>>,
    reply: Vec<u8>,
}

#[derive(Clone)]
struct Parts {
    memory: Memory,
    stack: Global,
    invoke: TypedFunc<(u32, u32, u32), ()>,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<u32, ()>,
    eval: TypedFunc<(u32, u32, u32, u32, u32, u32), u32>,
    out: TypedFunc<(), u32>,
    out_length: TypedFunc<(), u32>,
}

/// The interpreter of one server: compiled when the first script comes.
pub struct Interpreter {
    limits: Limits,
    compiled: Option<(Engine, Module)>,
    store: Option<Store<Data>>,
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
        Interpreter { limits, compiled: None, store: None }
    }

    /// Drops all scripts that it has compiled; what it is itself compiled to stays.
    pub fn forget(&mut self) {
        self.store = None;
    }

    /// Runs a script. Its reply is RESP2: what it returned, or its error. The host comes back in any case.
    ///
    /// # Errors
    /// [`Error`]: the script was stopped; the next one finds a new interpreter.
    pub fn eval(&mut self, script: &[u8], keys: &[&[u8]], args: &[&[u8]], host: Box<dyn Host>) -> Outcome {
        let mut store = match self.store.take().map_or_else(|| self.start(), Ok) {
            Ok(store) => store,
            Err(error) => return (Err(error), Some(host)),
        };
        store.data_mut().host = Some(host);
        let done = store.set_fuel(self.limits.fuel).and_then(|()| run(&mut store, script, keys, args));
        let host = store.data_mut().host.take();
        match done {
            Ok(reply) => {
                self.store = Some(store);
                (Ok(reply), host)
            }
            Err(error) if error.downcast_ref() == Some(&Trap::OutOfFuel) => (Err(Error::Fuel(self.limits.fuel)), host),
            Err(error) => (Err(broken(error.root_cause())), host),
        }
    }

    /// A new interpreter that knows no script.
    fn start(&mut self) -> Result<Store<Data>, Error> {
        let (engine, module) = match self.compiled.take() {
            Some(compiled) => compiled,
            None => self.compile()?,
        };
        self.compiled = Some((engine.clone(), module.clone()));
        let limits = StoreLimitsBuilder::new().memory_size(self.limits.memory).build();
        let mut store = Store::new(&engine, Data { limits, parts: None, host: None, reply: Vec::new() });
        store.limiter(|data| &mut data.limits);
        store.set_fuel(self.limits.fuel).map_err(broken)?;
        let instance = link(&engine, &module).and_then(|linker| linker.instantiate(&mut store, &module)).map_err(broken)?;
        initialise(&mut store, &instance).map_err(broken)?;
        Ok(store)
    }

    fn compile(&mut self) -> Result<(Engine, Module), Error> {
        let mut config = Config::new();
        config.consume_fuel(true).signals_based_traps(false).memory_guard_size(0).memory_reservation(0);
        config.wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).map_err(broken)?;
        let module = Module::new(&engine, MODULE.ok_or(Error::Absent)?).map_err(broken)?;
        Ok((engine, module))
    }
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
    linker.func_wrap("teemate", "call", |mut caller: Caller<'_, Data>, request: u32, length: u32| -> wasmtime::Result<u32> {
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
        data.reply = data.host.as_mut().map(|host| host.call(&args)).unwrap_or_default();
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
        eval: instance.get_typed_func(&mut *store, "te_eval")?,
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

/// One allocation holds everything: name, script, arguments.
fn run(store: &mut Store<Data>, script: &[u8], keys: &[&[u8]], args: &[&[u8]]) -> wasmtime::Result<Vec<u8>> {
    let parts = store.data().parts.clone().ok_or_else(|| wasmtime::Error::msg("not ready"))?;
    let mut bytes = name(script).into_bytes();
    bytes.push(0);
    bytes.extend_from_slice(script);
    for arg in keys.iter().chain(args) {
        bytes.extend_from_slice(&(arg.len() as u32).to_le_bytes());
        bytes.extend_from_slice(arg);
    }
    let place = put(store, &parts, &bytes)?;
    let (text, length) = (place + 41, script.len() as u32);
    let counts = (keys.len() as u32, (keys.len() + args.len()) as u32);
    parts.eval.call(&mut *store, (place, text, length, text + length, counts.0, counts.1))?;
    parts.free.call(&mut *store, place)?;
    output(store, &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Host for Echo {
        fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
            match args[0] {
                b"fail" => b"-ERR failed\r\n".to_vec(),
                b"list" => b"*3\r\n:1\r\n$1\r\nx\r\n$-1\r\n".to_vec(),
                _ => [b"+".as_slice(), &args.join(&b' '), b"\r\n"].concat(),
            }
        }
        fn log(&mut self, _: i32, _: &[u8]) {}
    }

    #[test]
    fn scripts_are_run_and_stopped() {
        if !is_there() {
            println!("SKIPPED: this was built without a compiler for Lua");
            return;
        }
        if MODULE.is_none() {
            println!("skipped: there is no clang-19 with wasi-libc");
            return;
        }
        let limits = Limits { memory: 16 << 20, fuel: 500_000_000 };
        let mut lua = Interpreter::new(limits);
        let mut eval = |script: &str, keys: &[&[u8]], args: &[&[u8]]| {
            let (done, host) = lua.eval(script.as_bytes(), keys, args, Box::new(Echo));
            assert!(host.is_some());
            match done {
                Ok(reply) => String::from_utf8_lossy(&reply).replace("\r\n", "|"),
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(eval("return {KEYS[1], ARGV[1], 3.9, true, false}", &[b"k"], &[b"v"]), "*5|$1|k|$1|v|:3|:1|$-1|");
        assert_eq!(eval("return redis.call('set', KEYS[1], 10)", &[b"k"], &[]), "+set k 10|");
        assert_eq!(eval("return redis.call('list')[2]", &[], &[]), "$1|x|");
        assert_eq!(eval("return redis.pcall('fail').err", &[], &[]), "$10|ERR failed|");
        assert!(eval("redis.call('fail')", &[], &[]).starts_with("-ERR failed script: "));
        assert!(eval("return nothing", &[], &[]).contains("Script attempted to access nonexistent global variable 'nothing'"));
        assert!(eval("x = 1", &[], &[]).contains("Attempt to modify a readonly table"));
        assert!(eval("string.rep = 1", &[], &[]).contains("Attempt to modify a readonly table"));
        assert!(eval("return (", &[], &[]).starts_with("-ERR Error compiling script (new function): user_script:1:"));
        assert_eq!(eval("return bit.band(7, 12)", &[], &[]), ":4|");
        assert_eq!(eval("local c = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) c() return c()", &[], &[]), ":2|");
        assert_eq!(eval("return {pcall(function() error('x', 0) end)}", &[], &[]), "*2|$-1|$1|x|");
        assert_eq!(eval("return redis.sha1hex('')", &[], &[]), "$40|da39a3ee5e6b4b0d3255bfef95601890afd80709|");
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
            "return loadstring(string.rep('(', 100000))()",
            "getmetatable('').__index.rep = nil",
            "return select(-1e9, 1)",
        ] {
            let said = eval(hostile, &[], &[]);
            assert!(said.starts_with("-") || said.starts_with("ERR") || said.contains("-ERR"), "{hostile}: {said:.200}");
            assert_eq!(eval("return 1", &[], &[]), ":1|", "{hostile}");
        }
        let begin = std::time::Instant::now();
        for _ in 0..1000 {
            eval("return redis.call('set', KEYS[1], 10)", &[b"k"], &[]);
        }
        println!("{:?} a script with one request", begin.elapsed() / 1000);
    }
}
