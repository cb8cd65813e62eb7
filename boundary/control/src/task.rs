//! Tasks: containers of the shared enclave whose life somebody else directs step by step, as containerd does.
//!
//! A task is one call of a function in one container. Unlike a call, its container is there before it starts, in the network namespace and
//! the control group that its owner chose, and can be stopped for a while, killed and asked for what it uses.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::function::FunctionSpec;

/// What a task is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Chosen by the caller, 1 to 256 bytes; no two tasks of a node have the same.
    pub id: String,
    /// The function. The node gives it a name of its own, so that equal ones are deployed once.
    pub function: FunctionSpec,
    /// Source or module, base64.
    pub code: String,
    /// Content of the files of `function.files`, base64, in the same order.
    #[serde(default)]
    pub files: Vec<String>,
    /// JSON object.
    pub params: serde_json::Value,
    /// Where its container shall be.
    pub place: TaskPlace,
}

/// What somebody else prepared for a task's container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskPlace {
    /// Host name inside, 1 to 64 bytes. Empty: the node's choice. In a uts namespace that it joins it has the host name of that.
    pub hostname: String,
    /// File of a network namespace to join. `None`: one of its own, without a way out.
    pub network: Option<PathBuf>,
    /// File of an ipc namespace to join. `None`: one of its own.
    pub ipc: Option<PathBuf>,
    /// File of a uts namespace to join. `None`: one of its own.
    pub uts: Option<PathBuf>,
    /// Path of its control group below the top of each hierarchy. `None`: one of the node's.
    pub cgroup: Option<PathBuf>,
    /// Most processes and threads; 0: the node's choice.
    pub pids: u64,
    /// User of its process in the container's user namespace, 0 to 2³² - 2. On the host it is one of the node's choice.
    pub uid: u32,
    /// Group of its process there.
    pub gid: u32,
    /// Limits of its process. Others are the node's choice.
    pub rlimits: Vec<Rlimit>,
}

/// A limit of a process, as the OCI runtime specification has it (`process.rlimits`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name of getrlimit(2), such as `RLIMIT_NOFILE`, which also says the unit.
    #[serde(rename = "type")]
    pub name: String,
    /// What holds. 2⁶⁴ - 1: no limit.
    pub soft: u64,
    /// How far the process may raise that.
    pub hard: u64,
}

/// What changes of what a task's container may use. `None`: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskLimits {
    /// Bytes of memory; 0: no limit. The bound of the function's memory in the enclave stays as it was when the task was made.
    pub memory: Option<u64>,
    /// CPU in thousandths of a core; 0: no limit.
    pub cpu_milli: Option<u32>,
    /// Most processes and threads; 0: no limit.
    pub pids: Option<u64>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Its container waits to be let into the enclave.
    Created,
    /// Its function runs.
    Running,
    /// Its container is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

/// A task, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Its id.
    pub id: String,
    /// Its container's process on the host.
    pub pid: u32,
    /// How far it is.
    pub state: TaskState,
    /// How it ended, once it has.
    pub exit: Option<TaskExit>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskExit {
    /// 0: it has a result. 1: its function failed. 128 + n: signal n ended it.
    pub status: u32,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Its result, a JSON object, if it has one.
    pub result: Option<String>,
    /// Why not, if it has none.
    pub reason: Option<String>,
    /// What it wrote.
    pub logs: String,
    /// Whether the out-of-memory killer took it.
    pub out_of_memory: bool,
}

/// What a task's container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStats {
    /// CPU time in user mode, ns.
    pub user_ns: u64,
    /// CPU time in the kernel, ns.
    pub system_ns: u64,
    /// Bytes of its group now.
    pub memory_bytes: u64,
    /// Most bytes of its group at once.
    pub memory_peak_bytes: u64,
    /// The most that its group may have; 0: no limit.
    pub memory_limit_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// The most that there may be; 0: no limit.
    pub pids_limit: u64,
    /// EPC pages that are charged to it.
    pub epc_pages: u64,
}
