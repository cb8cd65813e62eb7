//! One call: its instance, its limits, and the outcome.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use teemate_control::function::{Failure, FailureKind, Limits, Mark, Outcome, Phase, Reuse, Usage};
use wasmtime::{ResourceLimiter, Store, Trap};

use crate::clock::{self, mark};
use crate::control::Control;
use crate::engine::WASM_STACK;
use crate::function::{Code, Function};
use crate::javascript::Script;
use crate::jobs::Input;
use crate::slices::Fuel;
use crate::{javascript, slices, wasi};

/// Entries of a table that an instance may have. Function tables of large modules hold some ten thousand.
const TABLE_ENTRIES: usize = 200_000;

/// Everything that belongs to one call; the data of its store.
pub struct State {
    /// What is called.
    pub function: Arc<Function>,
    /// What may stop it.
    pub control: Arc<Control>,
    /// What it may use.
    pub meter: Meter,
    /// Its fuel, if it is a script.
    pub fuel: Fuel,
    /// Parameters, as it reads them from stdin.
    pub input: Vec<u8>,
    /// How much of them it has read.
    pub input_read: usize,
    /// Variables of this call, beside those of the function.
    pub env: Vec<(String, String)>,
    /// Whether they are others than when the instance last looked.
    pub env_changed: bool,
    /// Whether secret random numbers were drawn.
    pub drew: bool,
    /// Result, as it writes it to stdout.
    pub output: Vec<u8>,
    /// Log, as it writes it to stderr.
    pub log: Vec<u8>,
    /// Files that it has open.
    pub files: wasi::Files,
    /// A reply that the JavaScript engine has still to take.
    pub reply: Vec<u8>,
    /// Its memory, once it was asked for.
    pub memory: Option<wasmtime::Memory>,
    /// What it was denied, for when that ends it.
    pub denied: Option<Failure>,
    /// When it began, and with it the time that the guest sees: nanoseconds of the monotonic clock.
    pub began_ns: u64,
}

/// Memory and tables of an instance.
pub struct Meter {
    limit: u64,
    /// Largest size of the memory.
    pub peak: u64,
    /// The memory that was asked for beyond the limit, if any.
    pub refused: Option<u64>,
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired as u64 > self.limit {
            self.refused = Some(desired as u64);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.peak = self.peak.max(desired as u64);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        // The guest sees -1. What it could not have is the enclave's, or its container's, quota.
        self.refused.get_or_insert(self.peak);
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ENTRIES && maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        1
    }
}

/// Why the host's side ended a guest.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// It called `proc_exit`.
    #[error("exit with code {0}")]
    Exit(u32),
    /// It may not go on.
    #[error("{0}")]
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(failure)
    }
}

/// The error by which a host function ends its guest.
pub fn stop(stop: impl Into<Stop>) -> wasmtime::Error {
    wasmtime::Error::new(stop.into())
}

impl State {
    /// Another call begins in the same instance. What belongs to the call before goes; what an instance has of its own stays.
    fn begin(&mut self, control: &Arc<Control>, input: Input, began_ns: u64) {
        self.control = control.clone();
        self.env_changed = self.env != input.env;
        self.env = input.env;
        self.input = input.params;
        self.input_read = 0;
        self.output.clear();
        self.reply = Vec::new();
        self.denied = None;
        self.meter.refused = None;
        if self.function.spec.reuse == Reuse::Rewind {
            // Its initialisation ran in its own time; that of a kept instance goes on.
            self.began_ns = began_ns;
        }
    }

    /// Adds to the log.
    ///
    /// # Errors
    /// The limit that it passes.
    pub fn log(&mut self, text: &[u8]) -> Result<(), Failure> {
        let limit = self.function.spec.limits.log;
        let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(self.log.len());
        self.log.extend_from_slice(&text[..text.len().min(room)]);
        if text.len() > room {
            return Err(Failure::new(
                FailureKind::Limit,
                format!("log: the call wrote more than its limit of {limit} bytes; log less or raise limits.log"),
            ));
        }
        Ok(())
    }

    /// Adds to the result.
    ///
    /// # Errors
    /// The limit that it passes.
    pub fn answer(&mut self, text: &[u8]) -> Result<(), Failure> {
        let limit = self.function.spec.limits.result;
        if self.output.len() as u64 + text.len() as u64 > limit {
            return Err(Failure::new(
                FailureKind::Limit,
                format!("result: it is larger than its limit of {limit} bytes; return less or raise limits.result"),
            ));
        }
        self.output.extend_from_slice(text);
        Ok(())
    }

    /// Notes that something was denied, so that the call fails with it if it ends for that reason.
    pub fn deny(&mut self, failure: &Failure) {
        if matches!(failure.kind, FailureKind::Denied | FailureKind::Integrity) {
            self.denied = Some(failure.clone());
        }
    }
}

/// An instance that can be called.
pub struct Warm {
    store: Box<Store<State>>,
    running: Running,
}

enum Running {
    Module(wasi::Running),
    Script(javascript::Running, Arc<Script>),
}

impl Warm {
    /// Its linear memory, for tests.
    pub fn memory(&self) -> &[u8] {
        match &self.running {
            Running::Script(running, _) => running.bytes(&self.store),
            Running::Module(_) => &[],
        }
    }
}

/// A call that is over. Its instance is still there, so that the answer need not wait for it to be taken down: drop this afterwards.
pub struct Finished {
    /// What came of it.
    pub outcome: Outcome,
    /// Its store, when no further call may use it.
    pub rest: Option<Box<Store<State>>>,
    /// Its instance, when further calls may: only for a function whose instances are kept.
    pub warm: Option<Warm>,
}

/// A store for one call of this function.
pub fn store(function: &Arc<Function>, control: &Arc<Control>, input: Input, began_ns: u64) -> wasmtime::Result<Store<State>> {
    let Limits { memory, fuel, .. } = function.spec.limits;
    let state = State {
        function: function.clone(),
        control: control.clone(),
        meter: Meter { limit: memory, peak: 0, refused: None },
        fuel: Fuel::default(),
        input: input.params,
        input_read: 0,
        env_changed: !input.env.is_empty(),
        env: input.env,
        drew: false,
        output: Vec::new(),
        log: Vec::new(),
        files: wasi::Files::default(),
        reply: Vec::new(),
        memory: None,
        denied: None,
        began_ns,
    };
    let mut store = Store::new(function.engine(), state);
    store.limiter(|state| &mut state.meter);
    slices::refuel(&mut store, fuel.unwrap_or(u64::MAX))?;
    Ok(store)
}

/// An instance of a function that is rewound, as it is before a call. `None` when its initialisation fails: then the next call says why.
pub fn prepare(function: &Arc<Function>, control: &Arc<Control>) -> Option<Warm> {
    let attempt = || {
        let began_ns = clock::monotonic_ns();
        control.start(began_ns, function.spec.limits.timeout_ms);
        let mut store = Box::new(store(function, control, Input::default(), began_ns).ok()?);
        let running = initialise(&mut store).ok()?;
        Some(Warm { store, running })
    };
    std::panic::catch_unwind(AssertUnwindSafe(attempt)).ok().flatten()
}

fn initialise(store: &mut Store<State>) -> wasmtime::Result<Running> {
    let function = store.data().function.clone();
    match &function.code {
        Code::Module { start } => wasi::Running::initialised(store, start).map(Running::Module),
        Code::Script { bytecode, script } => {
            javascript::Running::initialised(store, script, bytecode).map(|running| Running::Script(running, script.clone()))
        }
    }
}

/// Runs a call to its end, in this instance if one is given. Never panics.
pub fn run(
    function: &Arc<Function>,
    control: &Arc<Control>,
    input: Input,
    container: u64,
    mut marks: Vec<Mark>,
    warm: Option<Warm>,
) -> Finished {
    let begun = marks.len();
    let attempt = std::panic::catch_unwind(AssertUnwindSafe(|| run_inner(function, control, input, container, &mut marks, warm)));
    attempt.unwrap_or_else(|_| {
        marks.truncate(begun);
        let failure = Failure::new(
            FailureKind::Internal,
            format!("the service failed while it ran '{}'; its log has the reason", function.spec.name),
        );
        over(failure, container, marks)
    })
}

/// A call that has no instance.
fn over(failure: Failure, container: u64, marks: Vec<Mark>) -> Finished {
    let outcome = Outcome { result: Err(failure), logs: String::new(), usage: Usage::default(), container, marks };
    Finished { outcome, rest: None, warm: None }
}

fn run_inner(
    function: &Arc<Function>,
    control: &Arc<Control>,
    input: Input,
    container: u64,
    marks: &mut Vec<Mark>,
    warm: Option<Warm>,
) -> Finished {
    // A worker has just looked at the clock; in an enclave that is a call out, so not again.
    let began_ns = marks.last().map_or_else(clock::monotonic_ns, |last| last.at_ns);
    control.start(began_ns, function.spec.limits.timeout_ms);
    if let Some(failure) = control.stopped() {
        // Its container was lost while the call was on its way to it: whoever carries this thread on must not run it in its place.
        return over(failure, container, std::mem::take(marks));
    }
    let fuel = function.spec.limits.fuel.unwrap_or(u64::MAX);
    let (mut store, running) = match warm {
        Some(Warm { mut store, running }) => {
            store.data_mut().begin(control, input, began_ns);
            let refuelled = slices::refuel(&mut store, fuel);
            match refuelled {
                Ok(()) => (store, Some(running)),
                Err(error) => return over(no_store(function, &error), container, std::mem::take(marks)),
            }
        }
        None => match store(function, control, input, began_ns) {
            Ok(store) => (Box::new(store), None),
            Err(error) => return over(no_store(function, &error), container, std::mem::take(marks)),
        },
    };
    let mut ready = || marks.push(mark(Phase::InstanceReady));
    let (ended, running) = match (running, &function.code, function.spec.reuse) {
        // In one go, since nothing is called twice.
        (None, Code::Script { bytecode, script }, Reuse::Fresh) => {
            (javascript::run(&mut store, script, bytecode, ready).map(|()| false), None)
        }
        (running, ..) => match running.map_or_else(|| initialise(&mut store), Ok) {
            Ok(running) => {
                ready();
                let ended = match &running {
                    Running::Module(module) => module.call(&mut store),
                    Running::Script(instance, script) => instance.call(&mut store, script).map(|()| true),
                };
                (ended, Some(running))
            }
            Err(error) => (Err(error), None),
        },
    };
    let executed = mark(Phase::Executed);
    marks.push(executed);
    let left = slices::fuel(&mut store);
    let spent = Usage {
        fuel: fuel.saturating_sub(left),
        memory_peak: store.data().meter.peak,
        execution_us: executed.at_ns.saturating_sub(began_ns) / 1000,
    };
    let state = store.data_mut();
    let again = matches!(ended, Ok(true)) && function.spec.reuse == Reuse::Keep;
    let result = match ended {
        Ok(_) => finish(state),
        Err(error) => Err(failure(state, &error)),
    };
    let logs = match String::from_utf8(std::mem::take(&mut state.log)) {
        Ok(logs) => logs,
        Err(bytes) => String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
    };
    let outcome = Outcome { result, logs, usage: spent, container, marks: std::mem::take(marks) };
    match running {
        Some(running) if again && outcome.result.is_ok() => Finished { outcome, rest: None, warm: Some(Warm { store, running }) },
        _ => Finished { outcome, rest: Some(store), warm: None },
    }
}

fn no_store(function: &Function, error: &wasmtime::Error) -> Failure {
    Failure::new(FailureKind::Internal, format!("no store for '{}': {error}", function.spec.name))
}

/// What a guest that ended well left as its result.
fn finish(state: &mut State) -> Result<Vec<u8>, Failure> {
    let output = std::mem::take(&mut state.output);
    let trimmed = output.trim_ascii();
    match crate::spec::object(trimmed) {
        Ok(()) if trimmed.len() == output.len() => Ok(output),
        Ok(()) => Ok(trimmed.to_vec()),
        Err(_) => Err(not_a_dictionary()),
    }
}

/// OpenWhisk's sentence for a result that is no object.
pub fn not_a_dictionary() -> Failure {
    Failure::new(FailureKind::Application, "The action did not return a dictionary.")
}

/// Whose fault an ended guest is.
fn failure(state: &mut State, error: &wasmtime::Error) -> Failure {
    let limits = &state.function.spec.limits;
    if let Some(Stop::Failure(failure)) = error.downcast_ref::<Stop>() {
        // A script that ran out of memory says so in its own words; the limit is the better answer.
        return match state.meter.refused {
            Some(refused) if failure.kind == FailureKind::Application && failure.message.contains("out of memory") => {
                memory(refused, limits.memory)
            }
            _ => failure.clone(),
        };
    }
    if let Some(Stop::Exit(code)) = error.downcast_ref::<Stop>() {
        return match (&state.denied, state.meter.refused) {
            (Some(denied), _) => denied.clone(),
            (None, Some(refused)) => memory(refused, limits.memory),
            (None, None) => Failure::new(FailureKind::Application, format!("the function exited with code {code}; its log may say why")),
        };
    }
    let limit = |message: String| Failure::new(FailureKind::Limit, message);
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            limit(format!("fuel: the call used its limit of {} units; raise limits.fuel if it needs more", limits.fuel.unwrap_or(u64::MAX)))
        }
        Some(Trap::StackOverflow) => limit(format!("stack: the call recursed deeper than its stack of {} KiB allows", WASM_STACK >> 10)),
        Some(Trap::Interrupt) => match state.control.check() {
            Err(failure) => failure,
            Ok(()) => limit("time: the call was interrupted".to_owned()),
        },
        Some(trap) => match (&state.denied, state.meter.refused) {
            (None, Some(refused)) => memory(refused, limits.memory),
            (Some(denied), _) if *trap == Trap::UnreachableCodeReached => denied.clone(),
            _ => Failure::new(FailureKind::Application, format!("the function trapped: {trap}")),
        },
        None if state.meter.refused.is_some() => memory(state.meter.refused.unwrap_or(0), limits.memory),
        None => Failure::new(FailureKind::Application, format!("the function could not run: {error}")),
    }
}

fn memory(wanted: u64, limit: u64) -> Failure {
    let message = if wanted > limit {
        format!("memory: the call wanted {wanted} bytes, its limit is {limit}; raise limits.memory if it needs more")
    } else {
        format!("memory: beyond {wanted} bytes its container or the enclave had none left; its own limit is {limit}")
    };
    Failure::new(FailureKind::Limit, message)
}
