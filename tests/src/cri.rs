//! A client of the Container Runtime Interface (`runtime.v1` of Kubernetes' cri-api), which does what a kubelet does. The messages have the
//! fields that are used here, with the numbers of `api.proto`; others are left out, as protocol buffers allow.
#![allow(missing_docs, reason = "the messages are documented by Kubernetes")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(60);
/// `NamespaceMode`.
pub const POD: i32 = 0;
pub const CONTAINER: i32 = 1;
pub const NODE: i32 = 2;
/// `ContainerState`.
pub const RUNNING: i32 = 1;
pub const EXITED: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOption {
    #[prost(int32, tag = "1")]
    pub network: i32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(int32, tag = "3")]
    pub ipc: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SecurityContext {
    #[prost(message, optional, tag = "1")]
    pub namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerSecurityContext {
    #[prost(message, optional, tag = "3")]
    pub namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LinuxSandbox {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<SecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sandbox {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<SandboxMetadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(string, tag = "3")]
    pub log_directory: String,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<Sandbox>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
}

/// Requests and answers that are one identifier.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub image: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resources {
    #[prost(int64, tag = "1")]
    pub cpu_period: i64,
    #[prost(int64, tag = "2")]
    pub cpu_quota: i64,
    #[prost(int64, tag = "4")]
    pub memory_limit_in_bytes: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainer {
    #[prost(message, optional, tag = "1")]
    pub resources: Option<Resources>,
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<ContainerSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    #[prost(map = "string, string", tag = "10")]
    pub annotations: HashMap<String, String>,
    #[prost(string, tag = "11")]
    pub log_path: String,
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<Container>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct Update {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    linux: Option<Resources>,
}

#[derive(Clone, PartialEq, Message)]
struct Stop {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "3")]
    pub state: i32,
    #[prost(int64, tag = "5")]
    pub started_at: i64,
    #[prost(int64, tag = "6")]
    pub finished_at: i64,
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
    #[prost(string, tag = "10")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Exec {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Executed {
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Value {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Cpu {
    #[prost(message, optional, tag = "2")]
    pub usage_core_nano_seconds: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Memory {
    #[prost(message, optional, tag = "2")]
    pub working_set_bytes: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Stats {
    #[prost(message, optional, tag = "2")]
    pub cpu: Option<Cpu>,
    #[prost(message, optional, tag = "3")]
    pub memory: Option<Memory>,
}

#[derive(Clone, PartialEq, Message)]
struct StatsAnswer {
    #[prost(message, optional, tag = "1")]
    stats: Option<Stats>,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Id>,
}

/// A connection to a runtime.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

impl Cri {
    /// Connects to this socket.
    ///
    /// # Errors
    /// A sentence.
    pub fn connect(socket: PathBuf) -> Result<Cri, String> {
        let failed = |error: &dyn std::fmt::Display| format!("containerd's CRI can't be reached: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = runtime
            .block_on(Endpoint::from_static("http://localhost").connect_with_connector(connector))
            .map_err(|error| failed(&error))?;
        Ok(Cri { runtime, grpc: Grpc::new(channel) })
    }

    fn ask<Q: Message + Default + 'static, A: Message + Default + 'static>(&mut self, method: &str, request: Q) -> Result<A, String> {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}")).map_err(|error| error.to_string())?;
        let grpc = &mut self.grpc;
        let answer = self.runtime.block_on(async move {
            grpc.ready().await.map_err(|error| error.to_string())?;
            let call = grpc.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default());
            match tokio::time::timeout(LIMIT, call).await {
                Ok(answer) => answer.map_err(|status| status.message().to_owned()),
                Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
            }
        });
        answer.map(tonic::Response::into_inner).map_err(|error| format!("{method}: {error}"))
    }

    /// Starts a pod's sandbox; its id.
    pub fn run_sandbox(&mut self, config: &Sandbox, handler: &str) -> Result<String, String> {
        let request = RunSandbox { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        self.ask::<_, Id>("RunPodSandbox", request).map(|id| id.id)
    }

    /// Makes a container in a sandbox; its id.
    pub fn create(&mut self, sandbox: &str, config: &Container, of: &Sandbox) -> Result<String, String> {
        let request = CreateContainer { sandbox: sandbox.to_owned(), config: Some(config.clone()), sandbox_config: Some(of.clone()) };
        self.ask::<_, Id>("CreateContainer", request).map(|id| id.id)
    }

    pub fn start(&mut self, id: &str) -> Result<(), String> {
        self.plain("StartContainer", id)
    }

    pub fn stop(&mut self, id: &str, seconds: i64) -> Result<(), String> {
        self.ask::<_, Id>("StopContainer", Stop { id: id.to_owned(), timeout: seconds }).map(drop)
    }

    /// Changes what a container may use.
    pub fn update(&mut self, id: &str, resources: Resources) -> Result<(), String> {
        self.ask::<_, Id>("UpdateContainerResources", Update { id: id.to_owned(), linux: Some(resources) }).map(drop)
    }

    pub fn remove(&mut self, id: &str) -> Result<(), String> {
        self.plain("RemoveContainer", id)
    }

    /// Stops a sandbox and forgets it, with all its containers.
    pub fn remove_sandbox(&mut self, id: &str) -> Result<(), String> {
        self.plain("StopPodSandbox", id)?;
        self.plain("RemovePodSandbox", id)
    }

    fn plain(&mut self, method: &str, id: &str) -> Result<(), String> {
        self.ask::<_, Id>(method, Id { id: id.to_owned() }).map(drop)
    }

    pub fn status(&mut self, id: &str) -> Result<Status, String> {
        let answer = self.ask::<_, StatusAnswer>("ContainerStatus", Id { id: id.to_owned() })?;
        answer.status.ok_or_else(|| "an answer without a status".to_owned())
    }

    /// Waits until a container has ended.
    pub fn ended(&mut self, id: &str) -> Result<Status, String> {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status(id)?;
            if status.state == EXITED {
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(format!("it does not end: {status:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn exec(&mut self, id: &str, command: &[&str]) -> Result<Executed, String> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.ask("ExecSync", Exec { id: id.to_owned(), command, timeout: 20 })
    }

    pub fn stats(&mut self, id: &str) -> Result<Stats, String> {
        let answer = self.ask::<_, StatsAnswer>("ContainerStats", Id { id: id.to_owned() })?;
        answer.stats.ok_or_else(|| "an answer without figures".to_owned())
    }

    /// How many containers the runtime knows.
    pub fn containers(&mut self) -> Result<usize, String> {
        self.ask::<_, Listed>("ListContainers", Id::default()).map(|listed| listed.containers.len())
    }
}

/// Namespaces as a kubelet asks for them: the pod's network or the node's, a pid namespace for each container, the pod's ipc.
fn namespaces(network: i32) -> NamespaceOption {
    NamespaceOption { network, pid: CONTAINER, ipc: POD }
}

impl Sandbox {
    /// A pod's.
    pub fn new(name: &str, network: i32, logs: &Path) -> Sandbox {
        let security = SecurityContext { namespace_options: Some(namespaces(network)) };
        Sandbox {
            metadata: Some(SandboxMetadata { name: name.to_owned(), uid: format!("uid-{name}"), namespace: "default".to_owned() }),
            // A pod in the host's network has the host's name.
            hostname: if network == NODE { String::new() } else { name.to_owned() },
            log_directory: logs.display().to_string(),
            annotations: HashMap::new(),
            linux: Some(LinuxSandbox { cgroup_parent: "/teemate-pods".to_owned(), security_context: Some(security) }),
        }
    }
}

impl Container {
    /// One of a pod with that network.
    pub fn new(name: &str, attempt: u32, image: &str, args: &[&str], network: i32) -> Container {
        let context = ContainerSecurityContext { namespace_options: Some(namespaces(network)) };
        Container {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt }),
            image: Some(Image { image: image.to_owned() }),
            command: Vec::new(),
            args: args.iter().map(|word| (*word).to_owned()).collect(),
            envs: Vec::new(),
            annotations: HashMap::new(),
            log_path: format!("{name}-{attempt}.log"),
            linux: Some(LinuxContainer { resources: None, security_context: Some(context) }),
        }
    }
}
