//! Command line <-> node: one JSON object a line over the node's unix socket. The node checks the peer's uid first.

use serde::{Deserialize, Serialize};

use crate::function::{Failure, FunctionSpec, Mark, Outcome};
use crate::service::{Allowance, OwnerInfo};
use crate::task::{TaskInfo, TaskLimits, TaskSpec, TaskStats};

/// How calls and enclaves relate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// No enclave: the payload as an ordinary process in a container (the paper's Native).
    Native,
    /// One enclave a container, built at each start (the paper's Strawman).
    Exclusive,
    /// One enclave, many containers.
    #[default]
    Shared,
}

/// What a client asks. A connection carries any number of requests, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Is it there, what is it.
    Status,
    /// Deploy: the code follows as base64 in the same object.
    Deploy {
        /// What it is.
        spec: FunctionSpec,
        /// Source or module, base64.
        code: String,
        /// Content of the files of `spec.files`, base64, in the same order.
        files: Vec<String>,
    },
    /// Call a function.
    Invoke {
        /// Name.
        name: String,
        /// JSON object.
        params: serde_json::Value,
        /// Overrides the node's mode for this call.
        sharing: Option<Sharing>,
    },
    /// All functions.
    Functions,
    /// One function.
    Function {
        /// Name.
        name: String,
    },
    /// Forget one.
    Delete {
        /// Name.
        name: String,
    },
    /// Log of the last calls of a function, newest last.
    Logs {
        /// Name.
        name: String,
        /// At most so many calls.
        last: usize,
    },
    /// Enclaves, containers, TCSs, pages.
    Ps,
    /// Prometheus text.
    Metrics,
    /// Kill a container, as an administrator would.
    Kill {
        /// Id of the container.
        container: u64,
    },
    /// Make a task: its container waits at the enclave's door.
    TaskCreate {
        /// What it is.
        task: Box<TaskSpec>,
    },
    /// Let it in.
    TaskStart {
        /// Its id.
        id: String,
        /// Further parameters, which go before those of the same name.
        #[serde(default)]
        params: serde_json::Map<String, serde_json::Value>,
    },
    /// One task, as it is now.
    TaskState {
        /// Its id.
        id: String,
    },
    /// One task, when it has ended, or as it is after the time.
    TaskWait {
        /// Its id.
        id: String,
        /// Milliseconds, at most 60,000.
        within_ms: u64,
    },
    /// Send it a signal. Those that end a program end it; others it does not notice.
    TaskKill {
        /// Its id.
        id: String,
        /// Number of the signal.
        signal: u32,
    },
    /// Freeze it.
    TaskPause {
        /// Its id.
        id: String,
    },
    /// Let it go on.
    TaskResume {
        /// Its id.
        id: String,
    },
    /// What it uses.
    TaskStats {
        /// Its id.
        id: String,
    },
    /// Change what its container may use.
    TaskUpdate {
        /// Its id.
        id: String,
        /// What changes.
        limits: TaskLimits,
    },
    /// Forget it. One that has not ended is refused unless `force`, which kills it.
    TaskDelete {
        /// Its id.
        id: String,
        /// Whether it may live.
        force: bool,
    },
    /// Invite somebody to own a namespace.
    Invite {
        /// Name of the namespace.
        namespace: String,
        /// What its owner may use.
        #[serde(default)]
        allowance: Allowance,
    },
    /// All owners.
    Owners,
    /// Forget an owner and everything that it has.
    RemoveOwner {
        /// Its namespace.
        namespace: String,
    },
    /// Replace the shared enclave by one of another image; no call is lost.
    Upgrade {
        /// The image, on the node's machine.
        image: std::path::PathBuf,
    },
    /// Finish the calls under way, take everything down, exit.
    Stop,
}

/// What the node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// To Status.
    Status(Status),
    /// To Deploy, Function.
    Function(FunctionInfo),
    /// To Functions.
    Functions {
        /// Sorted by name.
        functions: Vec<FunctionInfo>,
    },
    /// To Invoke.
    Invoked {
        /// What came of it; `result` as JSON below so that people can read it.
        outcome: Outcome,
    },
    /// To Logs.
    Logs {
        /// Oldest first.
        calls: Vec<CallLog>,
    },
    /// To Ps.
    Ps(Ps),
    /// To TaskCreate, TaskStart, TaskState, TaskWait, TaskKill, TaskPause, TaskResume, TaskUpdate, TaskDelete.
    Task(TaskInfo),
    /// To TaskStats.
    TaskStats(TaskStats),
    /// To Metrics.
    Metrics {
        /// Prometheus text exposition.
        text: String,
    },
    /// To Invite.
    Invitation {
        /// Works once; whoever shows it first becomes the owner.
        token: String,
        /// Seconds since 1970 until when it works.
        expires: u64,
        /// Where to show it: `host:port` of the gateway.
        endpoint: String,
    },
    /// To Upgrade.
    Upgraded {
        /// MRENCLAVE of the new enclave, hexadecimal.
        mrenclave: String,
    },
    /// To Owners.
    Owners {
        /// Sorted by namespace.
        owners: Vec<OwnerInfo>,
    },
    /// To Delete, Kill, RemoveOwner, Stop.
    Ok,
    /// Anything that failed.
    Failed(Failure),
}

/// The node in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the node.
    pub version: String,
    /// [`crate::PROTOCOL`].
    pub protocol: u32,
    /// Process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// `sgx` or `simulator`.
    pub device: String,
    /// Default mode.
    pub sharing: Sharing,
    /// MRENCLAVE of the image, hexadecimal.
    pub mrenclave: String,
    /// `host:port` at which the enclave itself answers by attested TLS, if it does.
    pub endpoint: Option<String>,
    /// Calls answered.
    pub calls: u64,
    /// Calls under way.
    pub running: u64,
}

/// A deployed function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionInfo {
    /// What was deployed.
    pub spec: FunctionSpec,
    /// SHA-256 of the code, hexadecimal.
    pub digest: String,
    /// Bytes of code.
    pub size: u64,
    /// Calls since the node's start.
    pub calls: u64,
    /// Of which failed.
    pub failed: u64,
}

/// Log of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallLog {
    /// Container it ran in.
    pub container: u64,
    /// Seconds since 1970 when it ended.
    pub ended: u64,
    /// Whether it succeeded.
    pub success: bool,
    /// What it wrote.
    pub logs: String,
    /// Phases.
    pub marks: Vec<Mark>,
}

/// What runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ps {
    /// Enclaves.
    pub enclaves: Vec<EnclaveInfo>,
    /// Containers, service and reapers included.
    pub containers: Vec<ContainerInfo>,
}

/// One enclave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnclaveInfo {
    /// Number within the node.
    pub id: u64,
    /// `serving`: it has the gateway and the sealed store; `worker`: it takes the calls for which that one has no room; `exclusive`: it
    /// was built for one call.
    pub role: String,
    /// MRENCLAVE, hexadecimal.
    pub mrenclave: String,
    /// `sgx` or `simulator`.
    pub device: String,
    /// TCSs in all.
    pub tcs_total: u32,
    /// Leased.
    pub tcs_leased: u32,
    /// EPC pages in use.
    pub epc_pages: u64,
    /// The most there may be; 0: no limit.
    pub epc_limit: u64,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// Id.
    pub id: u64,
    /// `service`, `reaper`, `function`.
    pub role: String,
    /// Function that it runs, if any.
    pub function: Option<String>,
    /// Enclave that it maps, if any.
    pub enclave: Option<u64>,
    /// TCS that it leases, if one.
    pub tcs: Option<u32>,
    /// Process id on the host.
    pub pid: u32,
    /// `pid`, `mnt`, `uts`, `ipc`, `net`, `user` and the inode of each namespace.
    pub namespaces: Vec<(String, u64)>,
    /// Paths of its cgroups.
    pub cgroups: Vec<String>,
    /// EPC pages that the enclave charges to it, if it runs a function in one.
    pub charged_pages: Option<u64>,
    /// Resident memory in KiB, shared pages included.
    pub rss_kib: u64,
    /// Milliseconds since its start.
    pub age_ms: u64,
}
