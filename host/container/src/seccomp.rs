//! The filter on system calls. The list is data: `seccomp/runner.json`, one line of reason for each call.

use seccompiler::{BpfProgram, TargetArch};

use crate::error::{Error, Result};

/// The runner's list, as source.
pub const RUNNER: &str = include_str!("../seccomp/runner.json");

/// A compiled filter: instructions of eight bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled(pub(crate) Vec<u64>);

impl Compiled {
    /// Number of instructions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No instruction at all? (Never true of a compiled list.)
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Compile a list with two parts: `answered` names the calls that get `ENOSYS` so that the C library takes another way, `runner` those
/// that are allowed; anything else kills the process.
///
/// Killing, not EPERM: a runner never makes another call, so one that does has been taken over or is broken. The node sees a container
/// that SIGSYS ended, says so, and recovers its thread as after any other kill.
///
/// # Errors
/// If the list is not valid.
pub fn compile(list: &str) -> Result<Compiled> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(|error: seccompiler::BackendError| Error::Filter(error.to_string()))?;
    let mut parts = seccompiler::compile_from_json(list.as_bytes(), arch).map_err(|error| Error::Filter(error.to_string()))?;
    let mut part = |name: &str| parts.remove(name).ok_or_else(|| Error::Filter(format!("the list lacks its part {name:?}")));
    let (answered, allowed) = (part("answered")?, part("runner")?);
    Ok(Compiled(join(&answered, &allowed)?))
}

/// Two programs become one: where the first says "allow" the second decides. One filter is cheaper to install and to run than two.
fn join(first: &BpfProgram, second: &BpfProgram) -> Result<Vec<u64>> {
    const RETURN: u16 = 0x06;
    const JUMP_ALWAYS: u16 = 0x05;
    const ALLOW: u32 = 0x7fff_0000;
    let mut joined = Vec::with_capacity(first.len() + second.len());
    for (index, instruction) in first.iter().enumerate() {
        let mut instruction = instruction.clone();
        if instruction.code == RETURN && instruction.k == ALLOW {
            instruction.code = JUMP_ALWAYS;
            instruction.k = u32::try_from(first.len() - index - 1).map_err(|_| Error::Filter("the list is too long".into()))?;
        }
        joined.push(pack(&instruction));
    }
    joined.extend(second.iter().map(pack));
    Ok(joined)
}

fn pack(instruction: &seccompiler::sock_filter) -> u64 {
    let code = instruction.code.to_ne_bytes();
    let k = instruction.k.to_ne_bytes();
    u64::from_ne_bytes([code[0], code[1], instruction.jt, instruction.jf, k[0], k[1], k[2], k[3]])
}

/// The runner's filter.
///
/// # Errors
/// Only if the list in this crate is broken, which a test excludes.
pub fn runner() -> Result<Compiled> {
    compile(RUNNER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_list_compiles() {
        let compiled = runner().unwrap();
        assert!(compiled.len() > 40 && compiled.len() < 4096, "{}", compiled.len());
    }

    #[test]
    fn a_broken_list_is_an_error() {
        for list in ["", "{}", "[]", r#"{"runner":{"mismatch_action":"allow","match_action":"allow","filter":[{"syscall":"nonsense"}]}}"#] {
            assert!(compile(list).is_err());
        }
    }
}
