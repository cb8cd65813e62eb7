//! WASI preview 1, as far as a function needs it: its parameters on stdin, its result on stdout, its log on stderr, verified files to
//! read, a clock, randomness, sleep. Everything else is ENOSYS. No state is shared between calls.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use teemate_control::function::Reuse;
use wasmtime::{Caller, Extern, InstancePre, Linker, Module, Store, TypedFunc, Val, ValType};

use crate::call::{State, Stop, stop};
use crate::guest::{self, Fault};
use crate::{clock, files, slices};

const MODULE: &str = "wasi_snapshot_preview1";
/// The descriptor of `/`, of which the verified files hang.
const ROOT: u32 = 3;
/// Files that a call may have open.
const MAX_OPEN: usize = 64;
/// Iovecs and subscriptions in one call.
const MAX_ENTRIES: u32 = 1024;

/// WASI's error numbers.
mod errno {
    pub const SUCCESS: i32 = 0;
    pub const ACCES: i32 = 2;
    pub const BADF: i32 = 8;
    pub const FAULT: i32 = 21;
    pub const INVAL: i32 = 28;
    pub const IO: i32 = 29;
    pub const MFILE: i32 = 33;
    pub const NAMETOOLONG: i32 = 37;
    pub const NOSYS: i32 = 52;
    pub const OVERFLOW: i32 = 61;
    pub const ROFS: i32 = 69;
    pub const SPIPE: i32 = 70;
}

/// Files that a call has open; the first is descriptor ROOT + 1.
#[derive(Default)]
pub struct Files(Vec<Option<Open>>);

struct Open {
    content: Vec<u8>,
    at: u64,
}

impl Files {
    fn slot(&mut self, fd: u32) -> Option<&mut Option<Open>> {
        self.0.get_mut(fd.checked_sub(ROOT + 1)? as usize)
    }

    fn get(&mut self, fd: u32) -> Option<&mut Open> {
        self.slot(fd)?.as_mut()
    }

    fn add(&mut self, content: Vec<u8>) -> Option<u32> {
        let open = Some(Open { content, at: 0 });
        let at = match self.0.iter().position(Option::is_none) {
            Some(at) => {
                self.0[at] = open;
                at
            }
            None if self.0.len() < MAX_OPEN => {
                self.0.push(open);
                self.0.len() - 1
            }
            None => return None,
        };
        Some(ROOT + 1 + at as u32)
    }
}

/// The entry point of a module that is made ready once and then called, perhaps more than once; a command has `_start` instead.
const HANDLE: &str = "handle";
/// What makes such a module ready, if it exports that.
const INITIALIZE: &str = "_initialize";

/// Resolves a module's imports, once for all its calls.
///
/// # Errors
/// A sentence about what the module wants and cannot have.
pub fn link(module: &Module, reuse: Reuse) -> Result<InstancePre<State>, String> {
    let exports = |name| matches!(module.get_export(name), Some(wasmtime::ExternType::Func(_)));
    match (exports(HANDLE), exports("_start"), reuse) {
        (true, _, _) | (false, true, Reuse::Fresh | Reuse::Rewind) => {}
        (false, true, Reuse::Keep) => {
            return Err(format!(
                "a kept instance is called again and again, and _start may be called once: export a function {HANDLE} instead, or deploy it with another policy of reuse"
            ));
        }
        (false, false, _) => {
            return Err(format!("the module has no function _start: build it as a WASI command, or as a reactor that exports {HANDLE}"));
        }
    }
    let mut linker = Linker::new(module.engine());
    define(&mut linker).map_err(|e| e.to_string())?;
    for import in module.imports() {
        let known = import.module() == MODULE && defined(import.name());
        if known {
            continue;
        }
        let fits = import.module() == MODULE
            && import.ty().func().is_some_and(|ty| ty.results().all(|result| matches!(result, ValType::I32)) && ty.results().len() <= 1);
        if !fits {
            return Err(format!(
                "the module imports {} from {}, which is not here; a function may import WASI preview 1 only",
                crate::spec::shorten(import.name()),
                crate::spec::shorten(import.module())
            ));
        }
        let Some(ty) = import.ty().func().cloned() else { continue };
        let refuse = |_: Caller<'_, State>, _: &[Val], results: &mut [Val]| {
            results.iter_mut().for_each(|result| *result = Val::I32(errno::NOSYS));
            Ok(())
        };
        linker.func_new(MODULE, import.name(), ty, refuse).map_err(|e| e.to_string())?;
    }
    linker.instantiate_pre(module).map_err(|e| format!("the module's imports do not fit: {e:#}"))
}

/// An instance whose initialisation is over.
pub struct Running {
    entry: TypedFunc<(), ()>,
}

impl Running {
    /// Makes an instance, and makes it ready.
    ///
    /// # Errors
    /// Why its initialisation ended otherwise than by itself.
    pub fn initialised(store: &mut Store<State>, start: &InstancePre<State>) -> wasmtime::Result<Running> {
        let instance = slices::instantiate(store, start)?;
        if instance.get_func(&mut *store, HANDLE).is_none() {
            return Ok(Running { entry: instance.get_typed_func(&mut *store, "_start")? });
        }
        if instance.get_func(&mut *store, INITIALIZE).is_some() {
            let initialize = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)?;
            slices::call(store, &initialize, ())?;
        }
        Ok(Running { entry: instance.get_typed_func(&mut *store, HANDLE)? })
    }

    /// Calls it with the store's input. False when it left by `proc_exit`, after which it cannot be called again.
    ///
    /// # Errors
    /// Why it ended otherwise than by itself.
    pub fn call(&self, store: &mut Store<State>) -> wasmtime::Result<bool> {
        match slices::call(store, &self.entry, ()) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.downcast_ref::<Stop>(), Some(Stop::Exit(0))) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The guest's memory, and the call's state beside it.
///
/// # Errors
/// When the guest exports no memory.
pub fn memory<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(&'a mut [u8], &'a mut State)> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => {
            let memory = caller.get_export("memory").and_then(Extern::into_memory);
            let memory = memory.ok_or_else(|| wasmtime::Error::msg("the module calls WASI but exports no memory"))?;
            caller.data_mut().memory = Some(memory);
            memory
        }
    };
    Ok(memory.data_and_store_mut(caller))
}

/// Runs `body` on the guest's memory and turns its result into an error number.
fn with(caller: &mut Caller<'_, State>, body: impl FnOnce(&mut [u8], &mut State) -> Result<(), Errno>) -> wasmtime::Result<i32> {
    let (memory, state) = memory(caller)?;
    match body(memory, state) {
        Ok(()) => Ok(errno::SUCCESS),
        Err(Errno::Number(number)) => Ok(number),
        Err(Errno::Stop(error)) => Err(error),
    }
}

/// What a WASI function ends with: a number for the guest, or the end of the guest.
enum Errno {
    Number(i32),
    Stop(wasmtime::Error),
}

impl From<Fault> for Errno {
    fn from(Fault: Fault) -> Errno {
        Errno::Number(errno::FAULT)
    }
}

const fn no<T>(number: i32) -> Result<T, Errno> {
    Err(Errno::Number(number))
}

/// Names that [`define`] defines.
const DEFINED: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_filestat_get",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_seek",
    "fd_tell",
    "fd_write",
    "path_filestat_get",
    "path_open",
    "poll_oneoff",
    "proc_exit",
    "random_get",
    "sched_yield",
];

fn defined(name: &str) -> bool {
    DEFINED.contains(&name)
}

/// Defines the functions.
///
/// # Errors
/// Never in practice: names are distinct.
pub fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, State>;
    linker.func_wrap(MODULE, "fd_write", |mut c: C<'_>, fd: u32, table: u32, count: u32, written: u32| {
        with(&mut c, |memory, state| {
            check_count(count)?;
            let mut total = 0u32;
            for index in 0..count {
                let (at, length) = guest::iovec(memory, table, index)?;
                let bytes = guest::bytes(memory, at, length)?;
                match fd {
                    1 => state.answer(bytes).map_err(|f| Errno::Stop(stop(f)))?,
                    2 => state.log(bytes).map_err(|f| Errno::Stop(stop(f)))?,
                    _ if fd == 0 || fd == ROOT || state.files.get(fd).is_some() => return no(errno::ROFS),
                    _ => return no(errno::BADF),
                }
                total = total.checked_add(length).ok_or(Errno::Number(errno::OVERFLOW))?;
            }
            Ok(guest::write(memory, written, &total.to_le_bytes())?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_read", |mut c: C<'_>, fd: u32, table: u32, count: u32, read: u32| {
        with(&mut c, |memory, state| {
            check_count(count)?;
            let mut total = 0u32;
            for index in 0..count {
                let (at, length) = guest::iovec(memory, table, index)?;
                let into = guest::bytes_mut(memory, at, length)?;
                let from: &[u8] = match fd {
                    0 => state.input.get(state.input_read..).unwrap_or_default(),
                    _ => match state.files.get(fd) {
                        Some(open) => open.content.get(usize::try_from(open.at).unwrap_or(usize::MAX)..).unwrap_or_default(),
                        None => return no(errno::BADF),
                    },
                };
                let some = from.len().min(into.len());
                into[..some].copy_from_slice(&from[..some]);
                match fd {
                    0 => state.input_read += some,
                    _ => {
                        if let Some(open) = state.files.get(fd) {
                            open.at += some as u64;
                        }
                    }
                }
                total = total.saturating_add(some as u32);
                if some < length as usize {
                    break;
                }
            }
            Ok(guest::write(memory, read, &total.to_le_bytes())?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_close", |mut c: C<'_>, fd: u32| {
        with(&mut c, |_, state| match state.files.slot(fd) {
            Some(slot) if slot.is_some() => {
                *slot = None;
                Ok(())
            }
            _ if fd <= 2 => Ok(()),
            _ => no(errno::BADF),
        })
    })?;
    linker.func_wrap(MODULE, "fd_seek", |mut c: C<'_>, fd: u32, offset: i64, whence: u32, result: u32| {
        with(&mut c, |memory, state| {
            let Some(open) = state.files.get(fd) else { return no(if fd <= 2 { errno::SPIPE } else { errno::BADF }) };
            let base = match whence {
                0 => 0,
                1 => open.at,
                2 => open.content.len() as u64,
                _ => return no(errno::INVAL),
            };
            let at = base.checked_add_signed(offset).ok_or(Errno::Number(errno::INVAL))?;
            guest::write(memory, result, &at.to_le_bytes())?;
            open.at = at;
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_tell", |mut c: C<'_>, fd: u32, result: u32| {
        with(&mut c, |memory, state| {
            let Some(open) = state.files.get(fd) else { return no(if fd <= 2 { errno::SPIPE } else { errno::BADF }) };
            Ok(guest::write(memory, result, &open.at.to_le_bytes())?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut c: C<'_>, fd: u32, result: u32| {
        with(&mut c, |memory, state| {
            // File type, flags, rights: read for files, look up and read for the directory, the plain stream for 0, 1, 2.
            let (kind, rights, inherited): (u8, u64, u64) = match fd {
                0 => (2, 1 << 1, 0),
                1 | 2 => (2, 1 << 6, 0),
                ROOT if has_files(state) => (3, (1 << 13) | (1 << 18), (1 << 1) | (1 << 2) | (1 << 5) | (1 << 21)),
                _ if state.files.get(fd).is_some() => (4, (1 << 1) | (1 << 2) | (1 << 5) | (1 << 21), 0),
                _ => return no(errno::BADF),
            };
            let mut stat = [0u8; 24];
            stat[0] = kind;
            stat[8..16].copy_from_slice(&rights.to_le_bytes());
            stat[16..24].copy_from_slice(&inherited.to_le_bytes());
            Ok(guest::write(memory, result, &stat)?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |_: C<'_>, fd: u32, _: u32| if fd <= 2 { errno::SUCCESS } else { errno::BADF })?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut c: C<'_>, fd: u32, result: u32| {
        with(&mut c, |memory, state| {
            let (kind, size) = match fd {
                0..=2 => (2, 0),
                ROOT if has_files(state) => (3, 0),
                _ => match state.files.get(fd) {
                    Some(open) => (4, open.content.len() as u64),
                    None => return no(errno::BADF),
                },
            };
            Ok(guest::write(memory, result, &filestat(kind, size))?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_prestat_get", |mut c: C<'_>, fd: u32, result: u32| {
        with(&mut c, |memory, state| {
            if fd != ROOT || !has_files(state) {
                return no(errno::BADF);
            }
            Ok(guest::write(memory, result, &[0, 0, 0, 0, 1, 0, 0, 0])?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |mut c: C<'_>, fd: u32, at: u32, length: u32| {
        with(&mut c, |memory, state| {
            if fd != ROOT || !has_files(state) {
                return no(errno::BADF);
            }
            if length < 1 {
                return no(errno::NAMETOOLONG);
            }
            Ok(guest::write(memory, at, b"/")?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "path_open",
        |mut c: C<'_>, dir: u32, _: u32, at: u32, length: u32, open_flags: u32, rights: u64, _: u64, _: u32, result: u32| {
            with(&mut c, |memory, state| {
                let path = path(memory, state, dir, at, length)?;
                // Creating, truncating, or the right to write.
                if open_flags & 0b1101 != 0 || rights & (1 << 6) != 0 {
                    return no(errno::ROFS);
                }
                let content = files::read(&state.function.spec, &path).map_err(|failure| {
                    state.deny(&failure);
                    Errno::Number(if failure.kind == teemate_control::function::FailureKind::Denied { errno::ACCES } else { errno::IO })
                })?;
                // An address that the guest does not have must not leave a file open.
                guest::range(memory, result, 4)?;
                let Some(fd) = state.files.add(content) else { return no(errno::MFILE) };
                Ok(guest::write(memory, result, &fd.to_le_bytes())?)
            })
        },
    )?;
    linker.func_wrap(MODULE, "path_filestat_get", |mut c: C<'_>, dir: u32, _: u32, at: u32, length: u32, result: u32| {
        with(&mut c, |memory, state| {
            let path = path(memory, state, dir, at, length)?;
            let Some(file) = state.function.spec.files.iter().find(|file| file.path == path) else { return no(errno::ACCES) };
            let stat = filestat(4, file.length);
            Ok(guest::write(memory, result, &stat)?)
        })
    })?;
    linker.func_wrap(MODULE, "args_sizes_get", |mut c: C<'_>, count: u32, size: u32| {
        with(&mut c, |memory, state| sizes(memory, count, size, std::slice::from_ref(&state.function.spec.name)))
    })?;
    linker.func_wrap(MODULE, "args_get", |mut c: C<'_>, table: u32, text: u32| {
        with(&mut c, |memory, state| strings(memory, table, text, std::slice::from_ref(&state.function.spec.name)))
    })?;
    linker.func_wrap(MODULE, "environ_sizes_get", |mut c: C<'_>, count: u32, size: u32| {
        with(&mut c, |memory, state| sizes(memory, count, size, &environment(state)))
    })?;
    linker.func_wrap(MODULE, "environ_get", |mut c: C<'_>, table: u32, text: u32| {
        with(&mut c, |memory, state| strings(memory, table, text, &environment(state)))
    })?;
    linker.func_wrap(MODULE, "clock_res_get", |mut c: C<'_>, _: u32, result: u32| {
        with(&mut c, |memory, _| Ok(guest::write(memory, result, &1000u64.to_le_bytes())?))
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |mut c: C<'_>, id: u32, _: u64, result: u32| {
        with(&mut c, |memory, state| {
            let now = match id {
                0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64,
                1 => clock::monotonic_ns(),
                2 | 3 => clock::monotonic_ns().saturating_sub(state.began_ns),
                _ => return no(errno::INVAL),
            };
            Ok(guest::write(memory, result, &now.to_le_bytes())?)
        })
    })?;
    linker.func_wrap(MODULE, "random_get", |mut c: C<'_>, at: u32, length: u32| {
        let answer = with(&mut c, |memory, _| {
            clock::random(guest::bytes_mut(memory, at, length)?);
            Ok(())
        })?;
        // A length that there is no memory for costs nothing.
        slices::spend_bytes(&mut c, if answer == errno::SUCCESS { length } else { 0 })?;
        Ok(answer)
    })?;
    linker.func_wrap(MODULE, "poll_oneoff", |mut c: C<'_>, subscriptions: u32, events: u32, count: u32, result: u32| {
        with(&mut c, |memory, state| poll(memory, state, subscriptions, events, count, result))
    })?;
    linker.func_wrap(MODULE, "proc_exit", |_: C<'_>, code: u32| -> wasmtime::Result<()> { Err(stop(Stop::Exit(code))) })?;
    linker.func_wrap(MODULE, "sched_yield", |_: C<'_>| errno::SUCCESS)?;
    Ok(())
}

fn check_count(count: u32) -> Result<(), Errno> {
    if count > MAX_ENTRIES { no(errno::INVAL) } else { Ok(()) }
}

fn has_files(state: &State) -> bool {
    !state.function.spec.files.is_empty()
}

/// The absolute path that a guest names relative to the directory.
fn path(memory: &[u8], state: &mut State, dir: u32, at: u32, length: u32) -> Result<String, Errno> {
    if dir != ROOT {
        return no(errno::BADF);
    }
    if length > 4096 {
        return no(errno::NAMETOOLONG);
    }
    let text = std::str::from_utf8(guest::bytes(memory, at, length)?).map_err(|_| Errno::Number(errno::INVAL))?;
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let path = format!("/{}", parts.join("/"));
    if !has_files(state) {
        // The guest has no directory at all and made the number up: say so as for any other file.
        if let Err(failure) = files::read(&state.function.spec, &path) {
            state.deny(&failure);
        }
        return no(errno::ACCES);
    }
    Ok(path)
}

fn filestat(kind: u8, size: u64) -> [u8; 64] {
    let mut stat = [0u8; 64];
    stat[16] = kind;
    stat[24..32].copy_from_slice(&1u64.to_le_bytes());
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    stat
}

fn environment(state: &State) -> Vec<String> {
    crate::spec::environment(&state.function.spec.env, &state.env).map(|(name, value)| format!("{name}={value}")).collect()
}

fn sizes(memory: &mut [u8], count: u32, size: u32, strings: &[String]) -> Result<(), Errno> {
    let total: usize = strings.iter().map(|text| text.len() + 1).sum();
    guest::write(memory, count, &(strings.len() as u32).to_le_bytes())?;
    Ok(guest::write(memory, size, &(total as u32).to_le_bytes())?)
}

fn strings(memory: &mut [u8], table: u32, text: u32, strings: &[String]) -> Result<(), Errno> {
    let mut at = text;
    for (index, string) in strings.iter().enumerate() {
        guest::write(memory, guest::entry(table, index as u32, 4)?, &at.to_le_bytes())?;
        guest::write(memory, at, string.as_bytes())?;
        let end = at.checked_add(string.len() as u32).ok_or(Fault)?;
        guest::write(memory, end, &[0])?;
        at = end.checked_add(1).ok_or(Fault)?;
    }
    Ok(())
}

/// Waits for the first of the clocks; streams are always ready.
fn poll(memory: &mut [u8], state: &mut State, subscriptions: u32, events: u32, count: u32, result: u32) -> Result<(), Errno> {
    if count == 0 || count > MAX_ENTRIES {
        return no(errno::INVAL);
    }
    let mut wait: Option<u64> = None;
    let mut ready = Vec::new();
    let mut clocks = Vec::new();
    for index in 0..count {
        let at = guest::entry(subscriptions, index, 48)?;
        let record = guest::bytes(memory, at, 48)?;
        let user: [u8; 8] = record[..8].try_into().map_err(|_| Fault)?;
        match record[8] {
            0 => {
                let clock = guest::u32_at(record, 16)?;
                let timeout = guest::u64_at(record, 24)?;
                let now = match clock {
                    0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64,
                    1 => clock::monotonic_ns(),
                    _ => return no(errno::INVAL),
                };
                let timeout = if record[40] & 1 == 1 { timeout.saturating_sub(now) } else { timeout };
                wait = Some(wait.map_or(timeout, |least| least.min(timeout)));
                clocks.push((user, timeout));
            }
            kind @ (1 | 2) => ready.push((user, kind)),
            _ => return no(errno::INVAL),
        }
    }
    if let (true, Some(wait)) = (ready.is_empty(), wait) {
        state.control.sleep(Duration::from_nanos(wait)).map_err(|failure| Errno::Stop(stop(failure)))?;
        ready.extend(clocks.into_iter().filter(|(_, timeout)| *timeout <= wait).map(|(user, _)| (user, 0)));
    }
    for (index, (user, kind)) in ready.iter().enumerate() {
        let mut event = [0u8; 32];
        event[..8].copy_from_slice(user);
        event[10] = *kind;
        guest::write(memory, guest::entry(events, index as u32, 32)?, &event)?;
    }
    Ok(guest::write(memory, result, &(ready.len() as u32).to_le_bytes())?)
}
