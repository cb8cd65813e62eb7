//! What is deployed: a function's specification and its code, compiled in this process.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind};
use teemate_gateway::whisk::bundle;
use wasmtime::{Engine, InstancePre, Module};

use crate::call::State;
use crate::calls::MAX_WORKERS;
use crate::javascript::{self, Script};
use crate::memory::Pool;
use crate::snapshot::Snapshot;
use crate::source::Source;
use crate::stacks::Stacks;
use crate::{engine, spec, wasi};

/// Stacks of calls that there may be: workers of either sort run one call each; the rest is for what is deployed or made ready meanwhile.
const STACKS: usize = 3 * MAX_WORKERS;

/// The engines: one for modules of owners, one for the JavaScript engine, whose memories begin as its image.
pub struct Engines {
    /// Compiles and runs modules.
    pub modules: Engine,
    /// Where their memories come from.
    pub memories: Arc<Pool>,
    stacks: Stacks,
    script: OnceLock<Result<Arc<Script>, Failure>>,
}

impl Engines {
    /// Makes the engine for modules; the one for scripts comes with the first script.
    ///
    /// # Errors
    /// When this processor cannot run it, or there are no addresses for the stacks.
    pub fn new() -> wasmtime::Result<Engines> {
        let (memories, stacks) = (Pool::new(None), Stacks::new(STACKS, engine::CALL_STACK)?);
        Ok(Engines { modules: engine::engine(engine::Guest::Modules, &memories, &stacks)?, memories, stacks, script: OnceLock::new() })
    }

    /// The JavaScript engine.
    ///
    /// # Errors
    /// When the program was built without it.
    pub fn script(&self) -> Result<&Arc<Script>, Failure> {
        self.script.get_or_init(|| Script::load(&self.stacks).map(Arc::new)).as_ref().map_err(Clone::clone)
    }

    /// The JavaScript engine if a script was deployed.
    pub fn script_if_loaded(&self) -> Option<&Arc<Script>> {
        self.script.get()?.as_ref().ok()
    }

    /// Makes memories ready beforehand.
    pub fn prepare(&self, spare: usize) {
        self.memories.prepare(spare);
        if let Some(script) = self.script_if_loaded() {
            script.memories.prepare(spare);
        }
    }

    /// Wipes what ended instances left. Gives how many regions.
    pub fn clean(&self) -> usize {
        let scripts = self.script_if_loaded().map_or(0, |script| script.memories.clean(16));
        scripts + self.memories.clean(16)
    }
}

/// A deployed function.
pub struct Function {
    /// Different for each deployment in this process.
    pub number: u64,
    /// As its owner gave it.
    pub spec: FunctionSpec,
    /// SHA-256 of its code as given.
    pub digest: [u8; 32],
    /// The code, ready to run.
    pub code: Code,
    /// The code as given, if other enclaves may run it.
    pub source: Option<Source>,
    /// What the engine calls in a script.
    pub entry: String,
    /// Its environment as JSON, for scripts.
    pub environment: String,
    /// What the top level of a script that is rewound left, once it was evaluated; `None` inside when each call must evaluate it anew.
    pub snapshot: OnceLock<Option<Snapshot>>,
    /// Another took its place, or it was deleted: no instance of it is kept.
    pub retired: AtomicBool,
}

/// Environment variables as a script gets them.
pub fn environment_json<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let object: serde_json::Map<_, _> = variables.map(|(name, value)| (name.to_owned(), value.into())).collect();
    if object.is_empty() { String::new() } else { serde_json::Value::from(object).to_string() }
}

/// Code, ready to run.
pub enum Code {
    /// A module of its own.
    Module {
        /// Compiled, its imports resolved.
        start: InstancePre<State>,
    },
    /// A script, run by the engine.
    Script {
        /// Compiled by the engine, in an instance of its own.
        bytecode: Vec<u8>,
        /// The engine.
        script: Arc<Script>,
    },
}

impl Function {
    /// Of its parts.
    pub fn new(spec: FunctionSpec, digest: [u8; 32], code: Code, environment: String) -> Function {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let (number, snapshot, retired) = (NUMBERS.fetch_add(1, SeqCst), OnceLock::new(), AtomicBool::new(false));
        let entry = if spec.main.is_empty() { "main".to_owned() } else { spec.main.clone() };
        Function { number, spec, digest, code, source: None, entry, environment, snapshot, retired }
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &Engine {
        match &self.code {
            Code::Module { start } => start.module().engine(),
            Code::Script { script, .. } => &script.engine,
        }
    }

    /// Checks and compiles. `precompiled` is what [`Function::precompiled`] of an earlier process gave; only outside an enclave.
    ///
    /// # Errors
    /// What is wrong with the specification or the code.
    pub fn deploy(engines: &Engines, spec: FunctionSpec, code: &[u8], precompiled: Option<&[u8]>) -> Result<Function, Failure> {
        spec::check(&spec)?;
        let invalid = |message: String| Failure::new(FailureKind::Invalid, message);
        if code.len() > spec::MAX_CODE {
            return Err(invalid(format!("the code of '{}' has {} bytes; the limit is {}", spec.name, code.len(), spec::MAX_CODE)));
        }
        if precompiled.is_some() && teemate_containers::in_enclave() {
            return Err(Failure::new(
                FailureKind::Denied,
                "an enclave takes no precompiled code: what was compiled elsewhere could break out; send the module alone",
            ));
        }
        let digest = Sha256::digest(code).into();
        let packed = bundle::is_archive(code);
        let broken = |why: String| invalid(format!("'{}': {why}", spec.name));
        let (environment, code) = match spec.kind {
            Kind::Wasm => {
                let module = if packed { Cow::Owned(bundle::module_of_archive(code).map_err(broken)?) } else { Cow::Borrowed(code) };
                let module = match precompiled {
                    Some(blob) => load(&engines.modules, blob),
                    None => compile(&engines.modules, &module),
                };
                let module =
                    module.map_err(|error| invalid(format!("'{}' is no WebAssembly module that can run here: {error:#}", spec.name)))?;
                (
                    String::new(),
                    Code::Module { start: wasi::link(&module, spec.reuse).map_err(|why| invalid(format!("'{}': {why}", spec.name)))? },
                )
            }
            Kind::JavaScript => {
                let script = engines.script()?;
                let main = Some(spec.main.as_str()).filter(|main| !main.is_empty());
                let source = match std::str::from_utf8(code) {
                    _ if packed => Cow::Owned(bundle::script_of_archive(code, main).map_err(broken)?),
                    Ok(source) => Cow::Borrowed(source),
                    Err(error) => return Err(invalid(format!("the source of '{}' is not UTF-8: {error}", spec.name))),
                };
                if spec.limits.memory < script.smallest() {
                    return Err(invalid(format!(
                        "limits.memory of '{}' is {}; a JavaScript function needs at least {}",
                        spec.name,
                        spec.limits.memory,
                        script.smallest()
                    )));
                }
                let bytecode = match precompiled {
                    Some(blob) => blob.to_vec(),
                    None => javascript::compile(script, &source, &spec.name)?,
                };
                (environment_json(spec::environment(&spec.env, &[])), Code::Script { bytecode, script: script.clone() })
            }
        };
        let mut function = Function::new(spec, digest, code, environment);
        if packed {
            bundle::ENTRY.clone_into(&mut function.entry);
        }
        Ok(function)
    }

    /// The compiled code, so that the next process need not compile it. Only outside an enclave.
    pub fn precompiled(&self) -> Option<Vec<u8>> {
        if teemate_containers::in_enclave() {
            return None;
        }
        match &self.code {
            Code::Module { start } => start.module().serialize().ok(),
            Code::Script { bytecode, .. } => Some(bytecode.clone()),
        }
    }
}

fn compile(engine: &Engine, code: &[u8]) -> wasmtime::Result<Module> {
    // Text is for people; an enclave has no parser for it.
    if code.starts_with(b"\0asm") { Module::from_binary(engine, code) } else { Err(wasmtime::Error::msg("it does not begin with \\0asm")) }
}

fn load(engine: &Engine, blob: &[u8]) -> wasmtime::Result<Module> {
    // SAFETY: not in an enclave (`deploy` has checked), where the process and the node that gives this blob are of the same user and
    // the process guards no secret of another; wasmtime refuses what another version or configuration compiled.
    unsafe { Module::deserialize(engine, blob) }
}
