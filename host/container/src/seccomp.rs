//! The filters on system calls. The lists are data, in seccompiler's format, with a reason for each call: `seccomp/runner.json`, and
//! `seccomp/service.json` for what the process of the payload's own threads may do beyond that.
//!
//! The compiler is our own because a filter is installed at every start, and there seccompiler's program cost 140 us, this one some
//! 20. Two things make the difference. One shared return for all plain calls keeps the program short. And an instruction that the
//! kernel's start-up analysis does not follow keeps it from trying the filter on all 900 system calls of both ABIs in order to cache
//! the answers: a runner makes too few calls to earn that back (each pays some 30 ns instead). seccompiler is the oracle in the tests.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The runner's list, as source.
pub const RUNNER: &str = include_str!("../seccomp/runner.json");

/// What the service adds to it, as source.
pub const SERVICE: &str = include_str!("../seccomp/service.json");

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    mismatch_action: Action,
    match_action: Action,
    filter: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Allow,
    KillProcess,
    Errno(u16),
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::KillProcess => 0x8000_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    syscall: String,
    /// Demanded: no call without a reason.
    #[serde(rename = "comment")]
    _reason: String,
    #[serde(default)]
    args: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    index: u8,
    #[serde(rename = "type")]
    _width: Width,
    op: Operation,
    val: u32,
    #[serde(rename = "comment")]
    _reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Width {
    /// The lower half, which is all that the kernel looks at in flags and options.
    Dword,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Eq,
    MaskedEq(u32),
}

const LOAD: u16 = 0x20;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const THIS_ARCH: u32 = 0xc000_003e;

fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> u64 {
    let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
    u64::from_ne_bytes([code[0], code[1], jump_true, jump_false, k[0], k[1], k[2], k[3]])
}

fn distance(from: usize, to: usize) -> Result<u8> {
    u8::try_from(to - from - 1).map_err(|_| Error::Filter("the list is too long for short jumps".into()))
}

/// Compile lists with two parts and more: `answered` names the calls that get an error number so that the C library takes another way,
/// all others (`runner`, `service`) those that are allowed; anything else kills the process.
///
/// Killing, not EPERM: a runner never makes another call, so one that does has been taken over or is broken. The node sees a container
/// that SIGSYS ended, says so, and recovers its thread as after any other kill.
///
/// # Errors
/// If the list is not valid.
pub fn compile(lists: &[&str]) -> Result<Compiled> {
    let mut parts = BTreeMap::new();
    for list in lists {
        parts.extend(serde_json::from_str::<BTreeMap<String, Part>>(list).map_err(|error| Error::Filter(error.to_string()))?);
    }
    let mut part = |name: &str| parts.remove(name).ok_or_else(|| Error::Filter(format!("the list lacks its part {name:?}")));
    let (answered, mut allowed) = (part("answered")?, part("runner")?);
    if lists.len() > 1 {
        let more = part("service")?;
        if (more.match_action, more.mismatch_action) != (allowed.match_action, allowed.mismatch_action) {
            return Err(Error::Filter("both lists of allowed calls do the same with a call".into()));
        }
        allowed.filter.extend(more.filter);
    }
    if let Some(name) = parts.keys().next() {
        return Err(Error::Filter(format!("the list has an unknown part {name:?}")));
    }
    if answered.mismatch_action != Action::Allow || allowed.match_action != Action::Allow {
        return Err(Error::Filter("calls that are not \"answered\" go on to \"runner\", and its calls are allowed".into()));
    }

    // In the order of the list, which begins with the frequent calls. A condition per rule; rules of one call are alternatives.
    let mut plain = Vec::new();
    let mut conditional: Vec<(u32, Vec<&[Condition]>)> = Vec::new();
    for rule in &allowed.filter {
        let number = number(&rule.syscall)?;
        if rule.args.is_empty() {
            plain.push(number);
        } else {
            match conditional.iter_mut().find(|(known, _)| *known == number) {
                Some((_, alternatives)) => alternatives.push(&rule.args),
                None => conditional.push((number, vec![&rule.args])),
            }
        }
    }
    if let Some((number, _)) = conditional.iter().find(|(number, _)| plain.contains(number)) {
        return Err(Error::Filter(format!("call {number} is allowed both with and without conditions")));
    }
    let mut errors = Vec::new();
    for rule in &answered.filter {
        if !rule.args.is_empty() {
            return Err(Error::Filter(format!("{}: an answered call takes no conditions", rule.syscall)));
        }
        errors.push(number(&rule.syscall)?);
    }

    // The last three instructions are the returns.
    let conditions =
        conditional.iter().map(|(_, alternatives)| 2 + alternatives.iter().map(|args| 2 + 3 * args.len()).sum::<usize>()).sum::<usize>();
    let bound = 5 + plain.len() + errors.len() + conditions;
    let mut program = Program { code: Vec::with_capacity(bound + 3), pending: Vec::new() };
    program.push(LOAD, ARCH);
    program.jump(THIS_ARCH, None, Some(Target::Kill));
    program.push(LOAD, NUMBER);
    // Adds nothing; see the top of this file.
    program.push(ADD, 0);
    for number in &errors {
        program.jump(*number, Some(Target::Error), None);
    }
    for number in &plain {
        program.jump(*number, Some(Target::Allow), None);
    }
    for (number, alternatives) in &conditional {
        let skip = program.code.len();
        program.push(JUMP_IF_EQUAL, *number);
        for args in alternatives {
            let mut exits = Vec::new();
            for (index, condition) in args.iter().enumerate() {
                if condition.index > 5 {
                    return Err(Error::Filter(format!("a system call has no argument {}", condition.index)));
                }
                program.push(LOAD, ARGUMENTS + 8 * u32::from(condition.index));
                let mut value = condition.val;
                if let Operation::MaskedEq(mask) = condition.op {
                    program.push(AND, mask);
                    value &= mask;
                }
                if index + 1 == args.len() {
                    program.jump(value, Some(Target::Allow), None);
                } else {
                    exits.push(program.code.len());
                    program.push(JUMP_IF_EQUAL, value);
                }
            }
            let next = program.code.len();
            for exit in exits {
                program.code[exit].2 = distance(exit, next)?;
            }
        }
        program.push(RETURN, allowed.mismatch_action.value());
        program.code[skip].2 = distance(skip, program.code.len())?;
    }
    // First of the returns, so that what matched nothing falls into it.
    program.finish([(Target::Kill, allowed.mismatch_action), (Target::Allow, Action::Allow), (Target::Error, answered.match_action)])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Allow,
    Kill,
    Error,
}

/// Code, jump if true, jump if false, operand.
struct Program {
    code: Vec<(u16, u8, u8, u32)>,
    pending: Vec<(usize, Option<Target>, Option<Target>)>,
}

impl Program {
    fn push(&mut self, code: u16, k: u32) {
        self.code.push((code, 0, 0, k));
    }

    /// Go to a return if the loaded value is `k`, or is not.
    fn jump(&mut self, k: u32, equal: Option<Target>, other: Option<Target>) {
        self.pending.push((self.code.len(), equal, other));
        self.push(JUMP_IF_EQUAL, k);
    }

    fn finish(mut self, returns: [(Target, Action); 3]) -> Result<Compiled> {
        let first = self.code.len();
        let place = |target: Option<Target>, at: usize| match target {
            Some(target) => distance(at, first + returns.iter().position(|(t, _)| *t == target).unwrap_or(0)),
            None => Ok(0),
        };
        for (at, equal, other) in &self.pending {
            (self.code[*at].1, self.code[*at].2) = (place(*equal, *at)?, place(*other, *at)?);
        }
        for (_, action) in returns {
            self.push(RETURN, action.value());
        }
        Ok(Compiled(self.code.iter().map(|(code, jt, jf, k)| instruction(*code, *jt, *jf, *k)).collect()))
    }
}

/// The call's number, from the C library's table.
fn number(name: &str) -> Result<u32> {
    macro_rules! table {
        ($($name:ident),* $(,)?) => { [$((stringify!($name), libc::$name)),*] };
    }
    let table = table![
        SYS_accept4,
        SYS_arch_prctl,
        SYS_clock_gettime,
        SYS_clock_nanosleep,
        SYS_clone,
        SYS_clone3,
        SYS_close,
        SYS_dup,
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_pwait,
        SYS_epoll_wait,
        SYS_eventfd2,
        SYS_exit,
        SYS_exit_group,
        SYS_fcntl,
        SYS_fdatasync,
        SYS_fstat,
        SYS_fsync,
        SYS_ftruncate,
        SYS_futex,
        SYS_getdents64,
        SYS_getpid,
        SYS_getrandom,
        SYS_getsockname,
        SYS_getsockopt,
        SYS_gettid,
        SYS_ioctl,
        SYS_lseek,
        SYS_madvise,
        SYS_membarrier,
        SYS_mmap,
        SYS_mprotect,
        SYS_mremap,
        SYS_munmap,
        SYS_nanosleep,
        SYS_newfstatat,
        SYS_openat,
        SYS_poll,
        SYS_ppoll,
        SYS_prctl,
        SYS_pread64,
        SYS_pwrite64,
        SYS_read,
        SYS_readv,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_restart_syscall,
        SYS_rseq,
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sched_getaffinity,
        SYS_sched_yield,
        SYS_sendmsg,
        SYS_sendto,
        SYS_set_robust_list,
        SYS_set_tid_address,
        SYS_setsockopt,
        SYS_shutdown,
        SYS_sigaltstack,
        SYS_statx,
        SYS_tgkill,
        SYS_write,
        SYS_writev,
    ];
    let found = table.iter().find(|(known, _)| known.strip_prefix("SYS_") == Some(name));
    found
        .and_then(|(_, number)| u32::try_from(*number).ok())
        .ok_or_else(|| Error::Filter(format!("{name:?} is not in the table of this compiler; add it there if a runner needs it")))
}

/// The runner's filter.
///
/// # Errors
/// Only if the list in this crate is broken, which a test excludes.
pub fn runner() -> Result<Compiled> {
    compile(&[RUNNER])
}

/// The filter of the process that runs the payload's own threads.
///
/// # Errors
/// As [`runner`].
pub fn service() -> Result<Compiled> {
    compile(&[RUNNER, SERVICE])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program of either compiler says to a call. Seccomp's subset of classic BPF, as far as both use it.
    fn run(program: &[(u16, u8, u8, u32)], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCH => arch,
            _ => {
                let argument = arguments[(offset as usize - 16) / 8];
                (if offset.is_multiple_of(8) { argument & 0xffff_ffff } else { argument >> 32 }) as u32
            }
        };
        let (mut at, mut accumulator) = (0, 0_u32);
        for _ in 0..program.len() + 1 {
            let (code, jump_true, jump_false, k) = program[at];
            at += 1;
            match code {
                LOAD => accumulator = load(k),
                ADD => accumulator = accumulator.wrapping_add(k),
                AND => accumulator &= k,
                RETURN => return k,
                0x05 => at += k as usize,
                0x15 => at += usize::from(if accumulator == k { jump_true } else { jump_false }),
                0x25 => at += usize::from(if accumulator > k { jump_true } else { jump_false }),
                0x35 => at += usize::from(if accumulator >= k { jump_true } else { jump_false }),
                other => panic!("instruction {other:#x}"),
            }
        }
        panic!("no return");
    }

    fn ours(compiled: &Compiled) -> Vec<(u16, u8, u8, u32)> {
        let unpack = |word: &u64| {
            let b = word.to_ne_bytes();
            (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], u32::from_ne_bytes([b[4], b[5], b[6], b[7]]))
        };
        compiled.0.iter().map(unpack).collect()
    }

    #[test]
    fn agrees_with_seccompiler() {
        let mut theirs: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for list in [RUNNER, SERVICE] {
            let programs = seccompiler::compile_from_json(list.as_bytes(), std::env::consts::ARCH.try_into().unwrap()).unwrap();
            theirs.extend(programs.into_iter().map(|(name, program)| (name, program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect())));
        }
        let (runner, service) = (ours(&runner().unwrap()), ours(&service().unwrap()));
        let interesting: Vec<u64> = [0, 1, 2, 3, 15, 22, 59, 0x1001, 0x1002, 0x1003, 0x1004, 0x1005, 0o100, 0o1000, 0o2000000, 0o20000000]
            .into_iter()
            .chain([0x5356_4d41, 0x3d_0f00, 0x0001_0000, 0x1001_0000, 0x0001_0080, 0x7e02_0000, 1 << 32, u64::MAX])
            .collect();
        // Levels and names of socket options.
        let options: Vec<[u64; 6]> = (0..12).flat_map(|level| (0..24).map(move |name| [9, level, name, 0, 0, 0])).collect();
        for (number, arguments) in
            [libc::SYS_setsockopt, libc::SYS_getsockopt].into_iter().flat_map(|n| options.iter().map(move |o| (n, o)))
        {
            let expected = run(&theirs["service"], THIS_ARCH, number as u32, *arguments);
            assert_eq!(run(&service, THIS_ARCH, number as u32, *arguments), expected, "call {number} {arguments:?}");
        }
        let mut compared = 0;
        for arch in [THIS_ARCH, 0x4000_0003, 0] {
            for number in (0..600).chain([1 << 30, (1 << 30) + 1, u32::MAX]) {
                for index in 0..6 {
                    for value in &interesting {
                        let mut arguments = [0; 6];
                        arguments[index] = *value;
                        let mut expected = run(&theirs["answered"], arch, number, arguments);
                        if expected == Action::Allow.value() {
                            expected = run(&theirs["runner"], arch, number, arguments);
                        }
                        let what = format!("arch {arch:#x} call {number} argument {index} = {value:#x}");
                        assert_eq!(run(&runner, arch, number, arguments), expected, "{what}");
                        if expected == Action::KillProcess.value() {
                            expected = run(&theirs["service"], arch, number, arguments);
                        }
                        assert_eq!(run(&service, arch, number, arguments), expected, "service, {what}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 100_000);
    }

    #[test]
    fn a_broken_list_is_an_error() {
        let rule = |syscall: &str, rest: &str| {
            format!(
                r#"{{"answered":{{"mismatch_action":"allow","match_action":{{"errno":38}},"filter":[]}},
                    "runner":{{"mismatch_action":"kill_process","match_action":"allow","filter":[{{"syscall":"{syscall}"{rest}}}]}}}}"#
            )
        };
        assert!(compile(&[&rule("read", r#","comment":"why""#)]).is_ok());
        assert!(compile(&[RUNNER, RUNNER]).is_err() && compile(&[SERVICE]).is_err());
        for list in [
            "".to_owned(),
            "{}".to_owned(),
            "[]".to_owned(),
            rule("read", ""),
            rule("nonsense", r#","comment":"why""#),
            rule("read", r#","comment":"why","args":[{"index":6,"type":"dword","op":"eq","val":1,"comment":"none such"}]"#),
            rule("read", r#","comment":"why","args":[{"index":1,"type":"qword","op":"eq","val":1,"comment":"not done"}]"#),
        ] {
            assert!(compile(&[&list]).is_err(), "{list}");
        }
    }
}
