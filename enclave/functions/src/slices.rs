//! WebAssembly by slices of fuel: between two of them a call looks at its stop switch.
//!
//! One meter does for both limits. Code that is interrupted by epochs has a second check in each loop, which costs an interpreter's loop an
//! eighth of its time, and wants a thread that ticks.
//!
//! Modules of owners have wasmtime's meter. With its yields code runs on a stack of its own ([`crate::stacks`]), leaves it when a slice is used
//! up, and goes on where it was. The JavaScript engine has a meter of ours, which `teemate-js-engine-build` put into it: it counts down in a
//! global, and below zero it calls [`spend`].

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::{AsContextMut, Global, Instance, InstancePre, Store, Trap, TypedFunc, Val, WasmParams, WasmResults};

use crate::call::{State, stop};
use crate::control::Control;
use crate::function::Code;

/// Fuel of a slice: a millisecond's worth, more or less.
pub const SLICE: u64 = 4_000_000;

/// Fuel of an instance of the JavaScript engine.
#[derive(Default)]
pub struct Fuel {
    /// What no slice was granted from yet.
    left: u64,
    /// The engine's count: what is left of the slice, below zero when it is overdrawn.
    count: Option<Global>,
}

impl Fuel {
    /// The next slice, when this much is left of the last one. `None`: less than nothing is left in all.
    fn slice(&mut self, over: i64) -> Option<i32> {
        let all = self.left.checked_add_signed(over);
        let slice = all.unwrap_or(0).min(SLICE);
        self.left = all.unwrap_or(0) - slice;
        all.map(|_| slice as i32)
    }
}

/// Gives a store this much fuel, whatever it had before.
///
/// # Errors
/// None that a call can do anything about.
pub fn refuel(store: &mut Store<State>, fuel: u64) -> wasmtime::Result<()> {
    if let Code::Module { .. } = store.data().function.code {
        store.set_fuel(fuel)?;
        return store.fuel_async_yield_interval(Some(SLICE));
    }
    let of_script = &mut store.data_mut().fuel;
    of_script.left = fuel;
    let Some(count) = of_script.count else { return Ok(()) };
    let slice = of_script.slice(0).unwrap_or(0);
    count.set(store, Val::I32(slice))
}

/// Fuel that is left.
pub fn fuel(store: &mut Store<State>) -> u64 {
    if let Code::Module { .. } = store.data().function.code {
        return store.get_fuel().unwrap_or(0);
    }
    let Fuel { left, count } = store.data().fuel;
    let over = count.and_then(|count| count.get(store).i32()).unwrap_or(0);
    left.saturating_add_signed(i64::from(over))
}

/// Tells a store where an instance of the JavaScript engine counts, and grants it the first slice.
///
/// # Errors
/// When it is no global of that kind.
pub fn count(store: &mut Store<State>, global: Global) -> wasmtime::Result<()> {
    store.data_mut().fuel.count = Some(global);
    let left = store.data().fuel.left;
    refuel(store, left)
}

/// Takes fuel for what the service does for an instance. With none at all: the JavaScript engine has used a slice up, and gets the next one.
///
/// # Errors
/// Why the call must end: it has no fuel left, or somebody stopped it.
pub fn spend(mut context: impl AsContextMut<Data = State>, fuel: u32) -> wasmtime::Result<()> {
    let mut context = context.as_context_mut();
    context.data().control.check().map_err(stop)?;
    let enough = if let Some(count) = context.data().fuel.count {
        let over = i64::from(count.get(&mut context).i32().unwrap_or(0)) - i64::from(fuel);
        let slice = context.data_mut().fuel.slice(over);
        count.set(&mut context, Val::I32(slice.unwrap_or(0)))?;
        slice.is_some()
    } else {
        let left = context.get_fuel()?;
        context.set_fuel(left.saturating_sub(fuel.into()))?;
        left >= fuel.into()
    };
    if enough { Ok(()) } else { Err(Trap::OutOfFuel.into()) }
}

/// Takes what a digest or random bytes of this length cost: some units a byte, for they are made in a nanosecond or some.
///
/// # Errors
/// As [`spend`].
pub fn spend_bytes(context: impl AsContextMut<Data = State>, length: u32) -> wasmtime::Result<()> {
    spend(context, length.saturating_mul(8))
}

/// Calls a function of an instance.
///
/// # Errors
/// What it ends with, and why it had to be stopped.
pub fn call<P: WasmParams + Sync, R: WasmResults + Sync>(
    store: &mut Store<State>,
    function: &TypedFunc<P, R>,
    parameters: P,
) -> wasmtime::Result<R> {
    let control = store.data().control.clone();
    drive(&control, function.call_async(&mut *store, parameters))
}

/// Makes an instance.
///
/// # Errors
/// Those of its start function, and that there is no memory.
pub fn instantiate(store: &mut Store<State>, start: &InstancePre<State>) -> wasmtime::Result<Instance> {
    let control = store.data().control.clone();
    drive(&control, start.instantiate_async(&mut *store))
}

/// Each poll runs a slice of a module, or all of a script. A future that is given up has its stack unwound.
fn drive<T>(control: &Arc<Control>, future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        control.check().map_err(stop)?;
    }
}
