//! Builds the JavaScript engine that the payload embeds. `cargo xtask build` runs it, from the root of the workspace, *before* it builds
//! the payload:
//!
//! ```text
//! cargo run --locked --release -p teemate-functions --features engine-build --bin teemate-js-engine-build -- artifacts/js-engine.wasm
//! ```
//!
//! Needs `clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc` (Debian's names; `TEEMATE_CLANG` names another clang) and `cargo`, which
//! fetches the C sources of QuickJS-ng with the crate pinned in `engine/sources/Cargo.lock`. It writes, beside each other,
//!
//! * `js-engine.wasm`: the module without data segments, its memory as large as the image;
//! * `js-engine.image`: that memory after the engine was initialised and `prelude.js` evaluated (see [`teemate_functions::image`]);
//! * `js-engine.cwasm`: the module compiled for x86-64-v3 with the payload's own configuration.
//!
//! The build script of this crate finds them there, or where `TEEMATE_JS_ENGINE` says. Same sources and same clang give the same bytes.
//! Exit code 2: a tool is missing, and the last line says which to install.

mod meter;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use teemate_functions::{engine, image};
use wasmtime::{Engine, Instance, Linker, Memory, Module, Store, WasmParams, WasmResults};

/// C sources of the engine that include QuickJS-ng's own of nearly the same name, and those of QuickJS-ng that are compiled as they are.
/// The own ones include more files of `engine/`.
const OWN_SOURCES: [&str; 2] = ["engine.c", "regexp.c"];
const C_SOURCES: [&str; 2] = ["libunicode.c", "dtoa.c"];
const INSTALL: &str = "install them with: apt-get install clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let Some(out) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: teemate-js-engine-build OUT.wasm");
        return ExitCode::from(64);
    };
    let clang = std::env::var("TEEMATE_CLANG").unwrap_or_else(|_| "clang-19".to_owned());
    if Command::new(&clang).arg("--version").output().is_err() {
        eprintln!("{clang} is not here, and the JavaScript engine is C compiled to WebAssembly: {INSTALL}");
        return ExitCode::from(2);
    }
    match build(&clang, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teemate-js-engine-build: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(clang: &str, out: &Path) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine");
    let sources = quickjs(&folder.join("sources"))?;
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let raw = out.with_extension("raw");
    compile(clang, &folder, &sources, &raw)?;
    let module = std::fs::read(&raw)?;
    std::fs::remove_file(&raw)?;

    let memory = initialise(&module, &std::fs::read(folder.join("prelude.js"))?)?;
    let stripped = strip(&module, memory.len() / 65536)?;
    check(&stripped)?;
    let stripped = meter::meter(&stripped)?;
    let frozen = image::freeze(&memory);

    let mut config = engine::config(engine::Guest::Script);
    config.target("x86_64-unknown-linux-gnu")?;
    for feature in engine::BUILD_FEATURES {
        // SAFETY: the flags name features of processors; a payload refuses code for features that its processor lacks.
        unsafe { config.cranelift_flag_enable(feature) };
    }
    let compiled = Engine::new(&config)?.precompile_module(&stripped).map_err(|e| format!("{e:#}"))?;

    let sizes = [stripped.len(), frozen.len(), compiled.len()];
    for (extension, bytes) in [("wasm", stripped), ("image", frozen), ("cwasm", compiled)] {
        std::fs::write(out.with_extension(extension), bytes)?;
    }
    let [module, frozen, compiled] = sizes.map(|size| size / 1024);
    println!(
        "{}: module {module} KiB, memory {} KiB of which {frozen} KiB are filled, compiled {compiled} KiB",
        out.display(),
        memory.len() / 1024
    );
    Ok(())
}

/// Where cargo keeps the C sources.
fn quickjs(package: &Path) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = package.join("Cargo.toml");
    let metadata =
        Command::new(cargo).args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(&manifest).output()?;
    if !metadata.status.success() {
        return Err(format!("the sources of QuickJS-ng cannot be fetched: {}", String::from_utf8_lossy(&metadata.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == "rquickjs-sys").ok_or("cargo metadata lists no rquickjs-sys")?;
    let manifest = package["manifest_path"].as_str().ok_or("cargo metadata gives no path")?;
    Ok(Path::new(manifest).parent().ok_or("a manifest has a folder")?.join("quickjs"))
}

fn compile(clang: &str, own: &Path, sources: &Path, out: &Path) -> Result<()> {
    let objects = out.with_extension("objects");
    std::fs::create_dir_all(&objects)?;
    let all = OWN_SOURCES.map(|name| own.join(name)).into_iter().chain(C_SOURCES.map(|name| sources.join(name)));
    let mut linked = Vec::new();
    for source in all {
        let object = objects.join(source.file_stem().ok_or("a source has a name")?).with_extension("o");
        let mut command = Command::new(clang);
        command
            .args(["--target=wasm32-wasi", "-O2", "-DNDEBUG", "-D_GNU_SOURCE", "-w"])
            // As QuickJS-ng's own build for WASI does it.
            .args(["-DEMSCRIPTEN=1", "-DFE_DOWNWARD=0", "-DFE_UPWARD=0"])
            .args(["-msign-ext", "-mbulk-memory", "-mnontrapping-fptoint", "-msimd128"])
            .arg(format!("-ffile-prefix-map={}=quickjs", sources.display()))
            .arg("-I")
            .arg(sources)
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(&object);
        run(clang, &mut command)?;
        linked.push(object);
    }
    // Linked apart, and without -O: with it clang runs the machine's wasm-opt if there is one, and other machines would get other bytes.
    let mut command = Command::new(clang);
    command
        .args(["--target=wasm32-wasi", "-mexec-model=reactor"])
        .args(&linked)
        .arg("-o")
        .arg(out)
        // The stack at address 0: its overflow is an access below memory, which traps.
        .args(["-Wl,--stack-first,-z,stack-size=163840,--strip-all"]);
    run(clang, &mut command)?;
    std::fs::remove_dir_all(&objects)?;
    Ok(())
}

fn run(clang: &str, command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{clang} cannot build the engine; {INSTALL}\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// The memory of an engine that has evaluated the prelude, which another instance compiled.
fn initialise(module: &[u8], prelude: &[u8]) -> Result<Vec<u8>> {
    let engine = Engine::new(&engine::config(engine::Guest::Script))?;
    let module = Module::from_binary(&engine, module).map_err(|e| format!("{e:#}"))?;
    let mut compiler = Start::new(&engine, &module)?;
    // QuickJS wants a zero after the source, and a name.
    let source = compiler.leave(&[prelude, b"\0teemate\0"].concat())?;
    let length = u32::try_from(prelude.len())?;
    let status = compiler.call::<(u32, u32, u32), i32>("te_compile", (source, length, source + length + 1))?;
    let code = compiler.answer()?;
    if status != 0 {
        return Err(format!("prelude.js does not compile: {}", String::from_utf8_lossy(&code)).into());
    }
    let mut start = Start::new(&engine, &module)?;
    let (at, length) = (start.leave(&code)?, u32::try_from(code.len())?);
    let status = start.call::<(u32, u32), i32>("te_init", (at, length))?;
    if status != 0 {
        return Err(format!("prelude.js failed (status {status}): {}", String::from_utf8_lossy(&start.answer()?)).into());
    }
    start.call::<(u32, u32), ()>("te_free", (at, length))?;
    Ok(start.memory.data(&start.store).to_vec())
}

/// An instance whose runtime is made. The host's functions do nothing and return 0.
struct Start {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
}

impl Start {
    fn new(engine: &Engine, module: &Module) -> Result<Start> {
        let mut store = Store::new(engine, ());
        let mut linker = Linker::new(engine);
        linker.define_unknown_imports_as_default_values(&mut store, module)?;
        let instance = linker.instantiate(&mut store, module)?;
        let memory = instance.get_memory(&mut store, "memory").ok_or("the engine has no memory")?;
        let mut start = Start { store, instance, memory };
        start.call::<(), ()>("_initialize", ())?;
        match start.call::<(), i32>("te_begin", ())? {
            0 => Ok(start),
            status => Err(format!("QuickJS makes no runtime (status {status})").into()),
        }
    }

    fn call<P: WasmParams, R: WasmResults>(&mut self, name: &str, parameters: P) -> Result<R> {
        Ok(self.instance.get_typed_func::<P, R>(&mut self.store, name)?.call(&mut self.store, parameters)?)
    }

    /// Puts bytes into its memory.
    fn leave(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = self.call::<u32, u32>("te_alloc", u32::try_from(bytes.len())?)?;
        self.memory.write(&mut self.store, at as usize, bytes)?;
        Ok(at)
    }

    /// What the last call left.
    fn answer(&mut self) -> Result<Vec<u8>> {
        let (at, length) = (self.call::<(), u32>("te_out", ())? as usize, self.call::<(), u32>("te_out_length", ())? as usize);
        Ok(self
            .memory
            .data(&self.store)
            .get(at..at.saturating_add(length))
            .ok_or("the engine's answer reaches beyond its memory")?
            .to_vec())
    }
}

/// The module without its data, custom sections and so on, with a memory of this many pages from the start, and with the function that
/// is exported as `te_null` where the table had null: the engine's traps count on that (see `teemate_functions::engine`).
fn strip(module: &[u8], pages: usize) -> Result<Vec<u8>> {
    const TABLE: u8 = 4;
    const MEMORY: u8 = 5;
    const GLOBAL: u8 = 6;
    const EXPORT: u8 = 7;
    const ELEMENT: u8 = 9;
    const DROPPED: [u8; 4] = [0, 8, 11, 12];
    let mut out = module.get(..8).ok_or("too short for a module")?.to_vec();
    let mut at = 8;
    let (mut entries, mut null, mut filled) = (None, None, false);
    while at < module.len() {
        let id = module[at];
        let (length, start) = number(module, at + 1)?;
        let body = module.get(start..start + length).ok_or("a section reaches beyond the module")?;
        at = start + length;
        if DROPPED.contains(&id) {
            continue;
        }
        // The linker's stack pointer is the one global; it has its first value again when an entry point has returned.
        if id == GLOBAL && body[0] != 1 {
            return Err(format!("the engine has {} globals; only the stack pointer is expected", body[0]).into());
        }
        let body = match id {
            TABLE => {
                let (least, next) = number(body, 3)?;
                if body[..3] != [1, 0x70, 1] || number(body, next)?.0 != least {
                    return Err("the engine must have one table of functions that cannot grow".into());
                }
                entries = Some(least);
                body.to_vec()
            }
            MEMORY => {
                if body[..2] != [1, 0] {
                    return Err("the engine must have one memory without a maximum".into());
                }
                let mut memory = vec![1, 0];
                put(&mut memory, pages);
                memory
            }
            EXPORT => {
                null = exported(body, b"te_null")?;
                body.to_vec()
            }
            ELEMENT => {
                // One active segment of functions, from entry 1 to the last: C's null pointer is entry 0.
                let (count, functions) = number(body, 5)?;
                if body[..5] != [1, 0, 0x41, 1, 0x0b] || Some(count + 1) != entries {
                    return Err("the engine's table must be filled by one segment that begins with entry 1".into());
                }
                let mut element = vec![1, 0, 0x41, 0, 0x0b];
                put(&mut element, count + 1);
                put(&mut element, null.ok_or("the engine exports no te_null")?);
                element.extend_from_slice(&body[functions..]);
                filled = true;
                element
            }
            _ => body.to_vec(),
        };
        out.push(id);
        put(&mut out, body.len());
        out.extend_from_slice(&body);
    }
    if !filled {
        return Err("the engine's table is not filled".into());
    }
    Ok(out)
}

/// Makes sure that the module leaves its table as it is, and exports it to nobody who would not: then no entry is ever null.
fn check(module: &[u8]) -> Result<()> {
    use wasmparser::{ExternalKind, Operator, Parser, Payload};
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ExportSection(exports) => {
                for export in exports {
                    if export?.kind == ExternalKind::Table {
                        return Err("the engine exports its table".into());
                    }
                }
            }
            Payload::CodeSectionEntry(function) => {
                for operator in function.get_operators_reader()? {
                    if let operator @ (Operator::RefNull { .. }
                    | Operator::TableSet { .. }
                    | Operator::TableFill { .. }
                    | Operator::TableGrow { .. }
                    | Operator::TableCopy { .. }
                    | Operator::TableInit { .. }) = operator?
                    {
                        return Err(format!("the engine's code may change its table: {operator:?}").into());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Index of the function that an export section exports under this name.
fn exported(section: &[u8], wanted: &[u8]) -> Result<Option<usize>> {
    let (count, mut at) = number(section, 0)?;
    for _ in 0..count {
        let (length, start) = number(section, at)?;
        let name = section.get(start..start + length).ok_or("a name is cut off")?;
        let kind = *section.get(start + length).ok_or("an export is cut off")?;
        let (index, next) = number(section, start + length + 1)?;
        if name == wanted && kind == 0 {
            return Ok(Some(index));
        }
        at = next;
    }
    Ok(None)
}

/// Reads a LEB128 number; gives it and what follows.
fn number(bytes: &[u8], mut at: usize) -> Result<(usize, usize)> {
    let (mut value, mut shift) = (0usize, 0);
    loop {
        let byte = *bytes.get(at).ok_or("a number is cut off")?;
        value |= usize::from(byte & 0x7f) << shift;
        at += 1;
        shift += 7;
        if byte < 0x80 {
            return Ok((value, at));
        }
        if shift > 28 {
            return Err("a number is too long".into());
        }
    }
}

fn put(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
