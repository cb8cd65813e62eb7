//! WebAssembly by slices of fuel: between two of them a call looks at its stop switch.
//!
//! One meter does for both limits. Code that is interrupted by epochs has a second check in each loop, which costs an interpreter's loop an
//! eighth of its time, and wants a thread that ticks. With wasmtime's yields code runs on a stack of its own ([`crate::stacks`]), leaves it
//! when a slice is used up, and goes on where it was.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::{Instance, InstancePre, Store, TypedFunc, WasmParams, WasmResults};

use crate::call::{State, stop};
use crate::control::Control;

/// Fuel of a slice: a millisecond's worth, more or less.
pub const SLICE: u64 = 4_000_000;

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

/// Each poll runs a slice. A future that is given up has its stack unwound.
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
