//! wasmtime as an enclave wants it: no signals, no files, small mappings, and a meter.

use std::sync::Arc;

use wasmtime::{Config, Engine, OptLevel};

use crate::memory::{Creator, Pool};

/// Stack that WebAssembly may use. Deeper recursion ends the call.
pub const WASM_STACK: usize = 512 << 10;
/// Stack of a thread that runs calls: WebAssembly's, and room for the host's functions.
pub const THREAD_STACK: usize = WASM_STACK + (256 << 10);

/// The one configuration. Everything that decides what compiled code looks like is here, for the JavaScript engine is compiled when the
/// program is built and loaded when it runs.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        // A fault would need a signal handler; explicit bounds checks do not.
        .signals_based_traps(false)
        .memory_init_cow(false)
        .memory_reservation(0)
        .memory_reservation_for_growth(0)
        .memory_guard_size(0)
        .guard_before_linear_memory(false)
        .memory_may_move(true)
        // The meter that the host cannot touch, and the one that stops a call soon.
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .cranelift_opt_level(OptLevel::Speed)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(None)
        .concurrency_support(false);
    config
        // What compilers for WASI preview 1 produce; each further proposal is code that could be wrong.
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_extended_const(true)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

/// An engine whose memories come from this pool.
///
/// # Errors
/// When this processor cannot run what the configuration asks for.
pub fn engine(pool: &Arc<Pool>) -> wasmtime::Result<Engine> {
    let mut config = config();
    config.with_host_memory(Arc::new(Creator(pool.clone())));
    Engine::new(&config)
}

/// What the JavaScript engine is compiled for when the program is built: x86-64-v3, which every processor with SGX2 has. A processor
/// that lacks it compiles the engine itself at first use.
pub const BUILD_FEATURES: &[&str] = &[
    "has_sse3",
    "has_ssse3",
    "has_cmpxchg16b",
    "has_sse41",
    "has_sse42",
    "has_popcnt",
    "has_avx",
    "has_avx2",
    "has_fma",
    "has_bmi1",
    "has_bmi2",
    "has_lzcnt",
];
