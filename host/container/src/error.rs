//! What can go wrong, in sentences that say what to try.

use std::io;
use std::path::PathBuf;

use crate::protocol::Stage;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The zygote's program could not be started.
    #[error("cannot start the zygote {program}: {source}; check that the file exists, is executable and was built for this machine")]
    Spawn {
        /// The program that was to be started.
        program: PathBuf,
        /// Why it did not start.
        source: io::Error,
    },
    /// The zygote has ended or closed its socket: no container can be started through it any more.
    #[error("the zygote has gone ({0}); its standard error says why. Start another one: containers that already run are not affected")]
    ZygoteGone(String),
    /// The zygote answered something that this side does not understand.
    #[error("the zygote does not speak this node's protocol ({0}); build node and zygote from the same source")]
    Protocol(String),
    /// The zygote could not prepare itself.
    #[error("the zygote could not set itself up: {0}")]
    ZygoteSetup(String),
    /// A request is larger than one packet or carries too many descriptors.
    #[error("a start request of {bytes} bytes and {fds} descriptors is too large (at most {max_bytes} bytes and {max_fds} descriptors)")]
    RequestTooLarge {
        /// Size of the encoded request.
        bytes: usize,
        /// Descriptors that should have travelled with it.
        fds: usize,
        /// The limit on bytes.
        max_bytes: usize,
        /// The limit on descriptors.
        max_fds: usize,
    },
    /// The kernel refused to create the container's process.
    #[error("cannot create the container's process: {}{}", .0, clone_advice(.0))]
    Clone(io::Error),
    /// The container's process ended before its body could start.
    #[error("the container stopped while {stage}: {}{}", .source, .stage.advice())]
    Setup {
        /// What it was doing.
        stage: Stage,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The container did not become ready in time.
    #[error("the container was not ready after {0:?}")]
    NotReady(std::time::Duration),
    /// More containers at once than the zygote's page of time stamps has room for.
    #[error("{0} containers of this zygote exist already; wait for one to end, or start a second zygote")]
    TooManyContainers(usize),
    /// A control group could not be made, changed, read or removed.
    #[error("control group {path}: cannot {action}: {source}")]
    Cgroup {
        /// The directory or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A system call of the node's side failed.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The zygote's helper could not make or check something for a pool.
    #[error("the zygote's helper could not {action}: {message}")]
    Helper {
        /// What was tried.
        action: &'static str,
        /// What it answered.
        message: String,
    },
    /// The list of allowed system calls does not compile.
    #[error("the seccomp filter does not compile: {0}")]
    Filter(String),
    /// A value of the caller's cannot be used.
    #[error("{0}")]
    Invalid(String),
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn os(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Os { action, source }
    }

    pub(crate) fn errno(action: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |source| Self::Os { action, source: source.into() }
    }
}

fn clone_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; the node lacks CAP_SYS_ADMIN and this kernel allows no user namespaces to it: see `teemate doctor`",
        Some(libc::EAGAIN) => {
            "; a limit on processes is reached: raise RLIMIT_NPROC, kernel.threads-max or the pids limit of the node's own control group"
        }
        Some(libc::ENOSPC) => "; a limit on namespaces is reached: raise /proc/sys/user/max_*_namespaces",
        Some(libc::EOPNOTSUPP | libc::EBUSY) => {
            "; the container's control group cannot hold processes (a domain with enabled controllers or an invalid type)"
        }
        Some(libc::ENOMEM) => "; the machine is out of memory, or the pid namespace is ending",
        _ => "",
    }
}
