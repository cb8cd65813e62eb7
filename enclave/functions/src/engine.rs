//! wasmtime as an enclave wants it: no files, small mappings, a meter, and no trap that the host could turn into something else.
#![allow(unsafe_code)]

use std::sync::Arc;

use wasmtime::{Config, Engine, OptLevel, WasmFeatures};

use crate::memory::{Creator, MARGIN, Pool};
use crate::stacks::Stacks;

/// Stack that WebAssembly may use. Deeper recursion ends the call.
pub const WASM_STACK: usize = 512 << 10;
/// Stack of a call: WebAssembly's, and room for the host's functions.
pub const CALL_STACK: usize = WASM_STACK + (256 << 10);

/// What an engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Modules of owners.
    Modules,
    /// The JavaScript engine, whose build has made sure that its table holds no null function.
    Script,
}

/// The configuration. Everything that decides what compiled code looks like is here, for the JavaScript engine is compiled when the
/// program is built and loaded when it runs.
///
/// With `signals_based_traps` a check that fails runs into an undefined instruction, which the LibOS delivers as SIGILL; without, it calls
/// a function, and code takes twice as long. But with it wasmtime also lets a call of a null function pointer read the function's address
/// at address 0 and counts on a fault. In an enclave address 0 is the host's: it could map a page there and have its address called. So
/// the quick traps are for a module alone in whose table nothing is null and whose code never changes it, which its build checks.
///
/// For the same reason Cranelift's masking of addresses after a failed check is off: masked accesses go to address 0, too. A speculative
/// access beyond a check is possible either way; see the threat model.
///
/// The JavaScript engine's memory has a margin ([`crate::memory`]) where others have guard pages: what lies there is the instance's own, so
/// that its check may be off by that much. A script that breaks the engine finds nothing there, and leaves nothing.
pub fn config(guest: Guest) -> Config {
    let mut config = Config::new();
    config
        .signals_based_traps(guest == Guest::Script)
        .memory_init_cow(false)
        .memory_reservation(0)
        .memory_reservation_for_growth(0)
        // The same check then does for all fields of a structure.
        .memory_guard_size(if guest == Guest::Script { MARGIN as u64 } else { 0 })
        .guard_before_linear_memory(false)
        .memory_may_move(true)
        // The meter that the host cannot touch, and that stops a call soon ([`crate::slices`]). The JavaScript engine has one of its own.
        .consume_fuel(guest == Guest::Modules)
        .wasm_branch_hinting(guest == Guest::Script)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(CALL_STACK)
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
    if guest == Guest::Script {
        config.wasm_features(WasmFeatures::FUNCTION_REFERENCES | WasmFeatures::GC, false);
    }
    for masking in ["enable_heap_access_spectre_mitigation", "enable_table_access_spectre_mitigation"] {
        // SAFETY: the flag takes the masking away and leaves the check itself: an access out of bounds traps before it is done.
        unsafe { config.cranelift_flag_set(masking, "false") };
    }
    config
}

/// An engine whose memories and stacks come from these.
///
/// # Errors
/// When this processor cannot run what the configuration asks for.
pub fn engine(guest: Guest, pool: &Arc<Pool>, stacks: &Stacks) -> wasmtime::Result<Engine> {
    let mut config = config(guest);
    config.with_host_memory(Arc::new(Creator(pool.clone()))).with_host_stack(Arc::new(stacks.clone()));
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
