//! One call: a fresh instance, its limits, and the outcome.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use teemate_control::function::{Failure, FailureKind, Limits, Mark, Outcome, Phase, Usage};
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use crate::clock::{self, mark};
use crate::control::Control;
use crate::engine::WASM_STACK;
use crate::function::{Code, Function};
use crate::jobs::Input;
use crate::{javascript, wasi};

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
    /// Parameters, as it reads them from stdin.
    pub input: Vec<u8>,
    /// How much of them it has read.
    pub input_read: usize,
    /// Variables of this call, beside those of the function.
    pub env: Vec<(String, String)>,
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
    /// When it began: nanoseconds of the monotonic clock.
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

/// A call that is over. Its instance is still there, so that the answer need not wait for it to be taken down: drop this afterwards.
pub struct Finished {
    /// What came of it.
    pub outcome: Outcome,
    /// Its store.
    pub rest: Option<Box<Store<State>>>,
}

/// A store for one call of this function.
pub fn store(function: &Arc<Function>, control: &Arc<Control>, input: Input, began_ns: u64) -> wasmtime::Result<Store<State>> {
    let Limits { memory, fuel, .. } = function.spec.limits;
    let state = State {
        function: function.clone(),
        control: control.clone(),
        meter: Meter { limit: memory, peak: 0, refused: None },
        input: input.params,
        input_read: 0,
        env: input.env,
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
    store.set_fuel(fuel.unwrap_or(u64::MAX))?;
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| match context.data().control.check() {
        Ok(()) => Ok(UpdateDeadline::Continue(1)),
        Err(failure) => Err(stop(failure)),
    });
    Ok(store)
}

/// Runs a call to its end. Never panics.
pub fn run(function: &Arc<Function>, control: &Arc<Control>, input: Input, container: u64, mut marks: Vec<Mark>) -> Finished {
    let begun = marks.len();
    let attempt = std::panic::catch_unwind(AssertUnwindSafe(|| run_inner(function, control, input, container, &mut marks)));
    attempt.unwrap_or_else(|_| {
        marks.truncate(begun);
        let failure = Failure::new(
            FailureKind::Internal,
            format!("the service failed while it ran '{}'; its log has the reason", function.spec.name),
        );
        Finished { outcome: Outcome { result: Err(failure), logs: String::new(), usage: Usage::default(), container, marks }, rest: None }
    })
}

fn run_inner(function: &Arc<Function>, control: &Arc<Control>, input: Input, container: u64, marks: &mut Vec<Mark>) -> Finished {
    // A worker has just looked at the clock; in an enclave that is a call out, so not again.
    let began_ns = marks.last().map_or_else(clock::monotonic_ns, |last| last.at_ns);
    control.start(began_ns, function.spec.limits.timeout_ms);
    let fuel = function.spec.limits.fuel.unwrap_or(u64::MAX);
    let mut store = match store(function, control, input, began_ns) {
        Ok(store) => Box::new(store),
        Err(error) => {
            let failure = Failure::new(FailureKind::Internal, format!("no store for '{}': {error}", function.spec.name));
            let outcome =
                Outcome { result: Err(failure), logs: String::new(), usage: Usage::default(), container, marks: std::mem::take(marks) };
            return Finished { outcome, rest: None };
        }
    };
    let ready = |marks: &mut Vec<Mark>| marks.push(mark(Phase::InstanceReady));
    let ended = match &function.code {
        Code::Module { start, .. } => wasi::run(&mut store, start, || ready(marks)),
        Code::Script { bytecode, script } => javascript::run(&mut store, script, bytecode, || ready(marks)),
    };
    let executed = mark(Phase::Executed);
    marks.push(executed);
    // wasmtime keeps the count in a register between calls and writes it back at calls, returns and traps, but not when a loop is
    // interrupted: for a call that its deadline stopped, this is what it had used at its last call or return.
    let left = store.get_fuel().unwrap_or(0);
    let spent = Usage {
        fuel: fuel.saturating_sub(left),
        memory_peak: store.data().meter.peak,
        execution_us: executed.at_ns.saturating_sub(began_ns) / 1000,
    };
    let state = store.data_mut();
    let result = match ended {
        Ok(()) => finish(state),
        Err(error) => Err(failure(state, &error)),
    };
    let logs = match String::from_utf8(std::mem::take(&mut state.log)) {
        Ok(logs) => logs,
        Err(bytes) => String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
    };
    let outcome = Outcome { result, logs, usage: spent, container, marks: std::mem::take(marks) };
    Finished { outcome, rest: Some(store) }
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
