//! What a function is, what a call of it may use, and what came of it.

use serde::{Deserialize, Serialize};

/// What language the code is in, and so how it is run. Everything runs in WebAssembly: JavaScript by an engine that is itself a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A WASI preview 1 command module: JSON on stdin, JSON on stdout, logs on stderr.
    Wasm,
    /// A script that defines `main(params)`, or sets `exports.main`.
    JavaScript,
}

/// What one call may use. A call that passes one of them is stopped alone, with [`FailureKind::Limit`] and the name of the limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Wall-clock time in milliseconds, from the start of the instance (1 ..= 600,000).
    pub timeout_ms: u64,
    /// Linear memory in bytes (65,536 ..= 4 GiB).
    pub memory: u64,
    /// wasmtime fuel; about one unit an instruction. `None`: only time limits the call.
    pub fuel: Option<u64>,
    /// Bytes of log kept; what is beyond is an error of the call.
    pub log: u64,
    /// Bytes of result.
    pub result: u64,
    /// CPU of the container in thousandths of a core, for the cgroup. 0: no limit.
    pub cpu_milli: u32,
    /// How long a container waits for the next call of its function before it goes, in milliseconds (1 ..= 3,600,000). Only for functions
    /// whose containers are used again.
    pub idle_ms: u64,
}

impl Default for Limits {
    /// OpenWhisk's defaults: 60 s, 256 MB, 10 MB of log, 1 MB of result. An idle container goes after a minute.
    fn default() -> Self {
        Limits { timeout_ms: 60_000, memory: 256 << 20, fuel: None, log: 10 << 20, result: 1 << 20, cpu_milli: 0, idle_ms: 60_000 }
    }
}

/// What a later call of a function may find of an earlier one. A container and an instance never change their function, nor its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// Nothing: each call has a new container, and in it a new instance.
    #[default]
    Fresh,
    /// The container. The instance is put back to what it was after its initialisation, so that no call sees another's data.
    Rewind,
    /// Container and instance, as OpenWhisk's warm containers: what a call leaves in global variables, the next one finds.
    Keep,
}

/// A file of the container that the function may read, with the digest that it must have.
/// The host stores the bytes; the enclave refuses any that differ, naming the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedFile {
    /// Absolute path as the function sees it.
    pub path: String,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
    /// Length in bytes.
    pub length: u64,
}

/// A function as its owner deploys it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Name: 1 to 256 characters of `[A-Za-z0-9_.@-]`.
    pub name: String,
    /// Language.
    pub kind: Kind,
    /// Entry point of a JavaScript function (`main` unless told otherwise); ignored for WebAssembly.
    pub main: String,
    /// Limits of each call.
    pub limits: Limits,
    /// `host:port` pairs that the function may connect to. Empty: none.
    pub egress: Vec<String>,
    /// Files that it may read.
    pub files: Vec<VerifiedFile>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// What calls of it share.
    #[serde(default)]
    pub reuse: Reuse,
}

/// Points in time of one call, in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The node read the request.
    Received,
    /// The service in the enclave read it.
    Accepted,
    /// The node read the service's wish for a container.
    ContainerRequested,
    /// A TCS was leased.
    TcsLeased,
    /// The enclave is there: found (shared) or built (exclusive).
    EnclaveReady,
    /// The container's process runs its first instruction.
    ProcessStarted,
    /// Namespaces, root and cgroup are as they shall be.
    ContainerReady,
    /// The enclave's pages are mapped in it.
    EnclaveMapped,
    /// A thread of the enclave runs in the container.
    Entered,
    /// The instance exists: module instantiated, memory there.
    InstanceReady,
    /// The function returned.
    Executed,
    /// The service gave the answer away.
    Answered,
    /// The node read the answer.
    Returned,
    /// The container's process is reaped and its cgroup gone.
    Reaped,
    /// A container that was made ahead was given to the call, instead of the phases from `ProcessStarted` to `EnclaveMapped`.
    ContainerTaken,
}

/// When a phase was reached: nanoseconds of the host's CLOCK_MONOTONIC. Untrusted, as all time in an enclave is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which phase.
    pub phase: Phase,
    /// When.
    pub at_ns: u64,
}

/// What one call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// wasmtime fuel.
    pub fuel: u64,
    /// Peak of linear memory, bytes.
    pub memory_peak: u64,
    /// Time from instance start to return, microseconds.
    pub execution_us: u64,
}

/// A call that came to an end, well or by the function's own fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// JSON object on success; on failure what failed.
    pub result: Result<Vec<u8>, Failure>,
    /// What it wrote to stderr or the console, cut at the limit.
    pub logs: String,
    /// What it used.
    pub usage: Usage,
    /// Container that it ran in.
    pub container: u64,
    /// Phases seen so far.
    pub marks: Vec<Mark>,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The function threw, returned an error or trapped.
    Application,
    /// A limit stopped it; the message names which.
    Limit,
    /// It tried what it may not: a file, a connection.
    Denied,
    /// A file of its container is not what the owner deployed.
    Integrity,
    /// The container died under it (killed, out of memory) before it was done.
    ContainerLost,
    /// The request cannot be carried out: unknown function, malformed code or parameters.
    Invalid,
    /// There is no room now; the same call may succeed later.
    Busy,
    /// The service itself is at fault.
    Internal,
}

/// Why a call or a command failed: a kind for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose fault.
    pub kind: FailureKind,
    /// What failed, on what, what to try.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }
}
