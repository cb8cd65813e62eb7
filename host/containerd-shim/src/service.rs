//! The Task API, as containerd calls it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use containerd_shim::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty,
    ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_shim::asynchronous::ExitSignal;
use containerd_shim::protos::api::ProcessInfo;
use containerd_shim::protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::util::{convert_to_any, mount_rootfs};
use containerd_shim::{Task, TtrpcContext, TtrpcResult, cgroup};
use teemate_control::function::Kind;
use teemate_control::node::Request;

use crate::bundle::Config;
use crate::entry::{Ended, Entry, Runner, Stage};
use crate::error::{Error, Result};
use crate::events::{self, Events};
use crate::function::{self, Output};
use crate::image;
use crate::input;
use crate::node::Node;
use crate::ordinary::{self, Children, Runc};
use crate::resources::Resources;
use crate::stdio::{self, Stdio};

type Key = (String, String);

/// All containers of a containerd namespace.
#[derive(Clone)]
pub struct Service {
    namespace: String,
    /// Where containerd answers.
    address: String,
    exit: Arc<ExitSignal>,
    events: Events,
    runc: Runc,
    entries: Arc<Mutex<HashMap<Key, Arc<Entry>>>>,
    /// Held while a node is looked for, so that only one is started.
    finding: Arc<tokio::sync::Mutex<()>>,
}

/// Does what waits (the node, mounts) off the threads that serve.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Refused(format!("the shim could not work: {error}"))))
}

impl Service {
    /// Without containers.
    pub async fn new(namespace: String, address: String, exit: Arc<ExitSignal>, events: Events) -> Service {
        let runc = Runc::new(&namespace, Children::listen().await);
        Service { namespace, address, exit, events, runc, entries: Arc::default(), finding: Arc::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Key, Arc<Entry>>) -> T) -> T {
        act(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, id: &str, exec_id: &str) -> Result<Arc<Entry>> {
        let found = self.with(|entries| entries.get(&(id.to_owned(), exec_id.to_owned())).cloned());
        let what = || if exec_id.is_empty() { format!("container {id:?}") } else { format!("process {exec_id:?} in the container {id:?}") };
        found.ok_or_else(|| Error::Missing(what()))
    }

    fn task_id(&self, id: &str) -> String {
        task_id(&self.namespace, id)
    }

    async fn ask(&self, request: Request) -> Result<teemate_control::task::TaskInfo> {
        let namespace = self.namespace.clone();
        aside(move || Node::running(&namespace)?.task(&request)).await
    }

    fn note_end(&self, entry: &Entry, ended: Ended) {
        entry.advance(Stage::Stopped(ended));
        self.events.send(TaskExit {
            container_id: entry.id.clone(),
            id: if entry.exec_id.is_empty() { entry.id.clone() } else { entry.exec_id.clone() },
            pid: entry.pid(),
            exit_status: ended.status,
            exited_at: MessageField::some(ended.timestamp()),
            ..Default::default()
        });
    }

    // ---- functions ----

    async fn create_function(&self, entry: &Arc<Entry>, config: Config, request: &CreateTaskRequest) -> Result<()> {
        let root = config.root(&entry.bundle);
        let mounted = mount_all(request, &root).await;
        let read = match mounted {
            // The code is in memory then, and nothing of the image is needed any more.
            Ok(()) => config.code(&root),
            Err(error) => Err(error),
        };
        unmount_all(request, &root);
        let code = match read {
            // A module may be a layer by itself.
            Err(error @ Error::File { .. }) if matches!(config.function(), Some((_, Kind::Wasm))) => {
                image::module(&self.address, &self.namespace, &entry.id).await?.ok_or(error)?
            }
            read => read?,
        };
        let task = Box::new(config.task(self.task_id(&entry.id), code, &entry.bundle)?);
        let output = Output::open(&entry.stdio)?;
        let one_at_a_time = self.finding.lock().await;
        let namespace = self.namespace.clone();
        let node = aside(move || Node::find_or_start(&namespace)).await?;
        drop(one_at_a_time);
        let on = node.clone();
        let info = aside(move || on.task(&Request::TaskCreate { task })).await?;
        entry.set_pid(info.pid);
        let (this, watched) = (self.clone(), Arc::clone(entry));
        let watch = move || {
            let (id, events) = (watched.id.clone(), this.events.clone());
            let oom = |out_of_memory| {
                if out_of_memory {
                    events.send(TaskOOM { container_id: id, ..Default::default() });
                }
            };
            let ended = function::watch(&node, &this.task_id(&watched.id), output, oom);
            this.note_end(&watched, ended);
        };
        let spawned = std::thread::Builder::new().name("task".to_owned()).stack_size(128 << 10).spawn(watch);
        spawned.map(|_| ()).map_err(|error| Error::Refused(format!("there is no thread for the container: {error}")))
    }

    // ---- ordinary containers ----

    async fn create_ordinary(&self, entry: &Arc<Entry>, config: &Config, request: &CreateTaskRequest) -> Result<()> {
        let root = config.root(&entry.bundle);
        let made = match mount_all(request, &root).await {
            Ok(()) => self.runc.create(entry).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(pid) => {
                entry.set_pid(pid);
                self.follow(entry);
                Ok(())
            }
            Err(error) => {
                unmount_all(request, &root);
                Err(error)
            }
        }
    }

    /// Notes the end of a process that is this one's child.
    fn follow(&self, entry: &Arc<Entry>) {
        let (this, entry) = (self.clone(), Arc::clone(entry));
        let end = self.runc.children().end_of(entry.pid());
        tokio::spawn(async move {
            let status = end.await.unwrap_or(255);
            this.note_end(&entry, Ended::now(status));
        });
    }

    async fn kill_ordinary(&self, entry: &Entry, signal: u32, all: bool) -> Result<()> {
        if entry.exec_id.is_empty() {
            return self.runc.kill(entry, signal, all).await;
        }
        let pid = i32::try_from(entry.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let signal = i32::try_from(signal).ok().and_then(rustix::process::Signal::from_named_raw);
        let (Some(pid), Some(signal)) = (pid, signal) else {
            return Err(Error::Refused("it does not run, or there is no such signal".to_owned()));
        };
        rustix::process::kill_process(pid, signal).map_err(|error| Error::Refused(format!("the process can't be signalled: {error}")))
    }
}

/// What a function's container is given on its standard input, if it takes parameters there.
async fn params_of_input(entry: &Entry) -> Result<serde_json::Map<String, serde_json::Value>> {
    if !entry.input_is_params {
        return Ok(serde_json::Map::new());
    }
    let name = entry.stdio.stdin.clone();
    aside(move || match stdio::reading(&name)? {
        Some(file) => input::params(file, input::LIMIT),
        None => Err(Error::Refused("parameters are wanted on standard input, and the container has none: run it with one (-i)".to_owned())),
    })
    .await
}

fn task_id(namespace: &str, id: &str) -> String {
    format!("{namespace}/{id}")
}

/// Mounts a container's root file system.
async fn mount_all(request: &CreateTaskRequest, root: &Path) -> Result<()> {
    if !request.rootfs.is_empty() {
        std::fs::create_dir_all(root).map_err(Error::file(root))?;
    }
    for mount in &request.rootfs {
        mount_rootfs(mount, root).await?;
    }
    Ok(())
}

/// Undoes that. A root file system that somebody else mounted (Docker does) stays.
fn unmount_all(request: &CreateTaskRequest, root: &Path) {
    if !request.rootfs.is_empty() {
        unmount(root);
    }
}

fn unmount(root: &Path) {
    // As often as something is mounted there, within reason.
    for _ in 0..16 {
        if rustix::mount::unmount(root, rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW).is_err() {
            return;
        }
    }
}

/// What containerd has done when a shim has gone without notice.
pub async fn clean_up(namespace: &str, id: &str, bundle: &str) -> DeleteResponse {
    let bundle = if bundle.is_empty() { std::env::current_dir().unwrap_or_default() } else { PathBuf::from(bundle) };
    let (namespace, id) = (namespace.to_owned(), id.to_owned());
    let _ = aside(move || {
        let task = task_id(&namespace, &id);
        let forgotten = Node::running(&namespace).and_then(|node| node.task(&Request::TaskDelete { id: task, force: true }));
        if forgotten.is_err() {
            ordinary::delete_without_shim(&namespace, &id);
        }
        unmount(&bundle.join("rootfs"));
        Ok(())
    })
    .await;
    let ended = Ended::now(137);
    DeleteResponse { exit_status: ended.status, exited_at: MessageField::some(ended.timestamp()), ..Default::default() }
}

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> TtrpcResult<CreateTaskResponse> {
        if request.terminal {
            return Err(Error::Unsupported("this runtime gives no terminal; run the container without one".to_owned()).into());
        }
        if !request.checkpoint.is_empty() {
            return Err(Error::Unsupported("containers can't be restored from a checkpoint".to_owned()).into());
        }
        let bundle = PathBuf::from(&request.bundle);
        let config = Config::read(&bundle)?;
        let runner = if config.function().is_some() { Runner::Function } else { Runner::Ordinary };
        let stdio = Stdio { stdin: request.stdin.clone(), stdout: request.stdout.clone(), stderr: request.stderr.clone() };
        let mut entry = Entry::new(&request.id, "", runner, bundle, stdio);
        entry.input_is_params = runner == Runner::Function && config.input_is_params()?;
        let entry = Arc::new(entry);
        let key = (request.id.clone(), String::new());
        let free = self.with(|entries| match entries.contains_key(&key) {
            true => false,
            false => {
                entries.insert(key.clone(), Arc::clone(&entry));
                true
            }
        });
        if !free {
            return Err(Error::Refused(format!("there is a container {:?} already", request.id)).into());
        }
        let made = match runner {
            Runner::Function => self.create_function(&entry, config, &request).await,
            Runner::Ordinary => self.create_ordinary(&entry, &config, &request).await,
        };
        if let Err(error) = made {
            self.with(|entries| entries.remove(&key));
            return Err(error.into());
        }
        self.events.send(TaskCreate {
            container_id: entry.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(events::io(&entry.stdio)),
            pid: entry.pid(),
            ..Default::default()
        });
        Ok(CreateTaskResponse { pid: entry.pid(), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> TtrpcResult<StartResponse> {
        let entry = self.find(&request.id, &request.exec_id)?;
        if !request.exec_id.is_empty() {
            let pid = self.runc.exec(&entry).await?;
            entry.set_pid(pid);
            entry.advance(Stage::Running);
            self.events.send(TaskExecStarted { container_id: request.id, exec_id: request.exec_id, pid, ..Default::default() });
            self.follow(&entry);
            return Ok(StartResponse { pid, ..Default::default() });
        }
        match entry.runner {
            Runner::Function => {
                let params = params_of_input(&entry).await?;
                _ = self.ask(Request::TaskStart { id: self.task_id(&request.id), params }).await?;
            }
            Runner::Ordinary => self.runc.start(&entry).await?,
        }
        // A short one may have ended already; then its end stays.
        entry.advance(Stage::Running);
        self.events.send(TaskStart { container_id: request.id, pid: entry.pid(), ..Default::default() });
        Ok(StartResponse { pid: entry.pid(), ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        let entry = self.find(&request.id, &request.exec_id)?;
        let stage = entry.stage();
        let mut response = StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: entry.bundle.display().to_string(),
            pid: entry.pid(),
            stdin: entry.stdio.stdin.clone(),
            stdout: entry.stdio.stdout.clone(),
            stderr: entry.stdio.stderr.clone(),
            ..Default::default()
        };
        response.status = match stage {
            Stage::Created => Status::CREATED,
            Stage::Running => Status::RUNNING,
            Stage::Paused => Status::PAUSED,
            Stage::Stopped(ended) => {
                response.exit_status = ended.status;
                response.exited_at = MessageField::some(ended.timestamp());
                Status::STOPPED
            }
        }
        .into();
        Ok(response)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        let ended = self.find(&request.id, &request.exec_id)?.wait().await;
        Ok(WaitResponse { exit_status: ended.status, exited_at: MessageField::some(ended.timestamp()), ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        let entry = self.find(&request.id, &request.exec_id)?;
        if entry.ended().is_some() {
            return Err(Error::Missing(format!("process of the container {:?} that lives", request.id)).into());
        }
        match entry.runner {
            Runner::Function => _ = self.ask(Request::TaskKill { id: self.task_id(&request.id), signal: request.signal }).await?,
            Runner::Ordinary => self.kill_ordinary(&entry, request.signal, request.all).await?,
        }
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> TtrpcResult<DeleteResponse> {
        let entry = self.find(&request.id, &request.exec_id)?;
        let own = entry.exec_id.is_empty();
        if entry.ended().is_none() && (entry.stage() != Stage::Created || (own && entry.runner == Runner::Ordinary && entry.pid() == 0)) {
            return Err(Error::Refused(format!("the container {:?} runs; kill it first", request.id)).into());
        }
        if own {
            match entry.runner {
                Runner::Function => match self.ask(Request::TaskDelete { id: self.task_id(&request.id), force: true }).await {
                    // A node that has gone has forgotten it.
                    Ok(_) | Err(Error::Node { .. } | Error::Refused(_)) => {}
                    Err(error) => return Err(error.into()),
                },
                Runner::Ordinary => {
                    self.runc.delete(&entry).await?;
                    unmount(&entry.bundle.join("rootfs"));
                }
            }
            entry.wait().await;
        }
        let ended = entry.ended().unwrap_or_else(|| Ended::now(0));
        self.with(|entries| entries.remove(&(request.id.clone(), request.exec_id.clone())));
        if own {
            self.events.send(TaskDelete {
                container_id: request.id.clone(),
                pid: entry.pid(),
                exit_status: ended.status,
                exited_at: MessageField::some(ended.timestamp()),
                ..Default::default()
            });
        }
        let exited_at = MessageField::some(ended.timestamp());
        Ok(DeleteResponse { pid: entry.pid(), exit_status: ended.status, exited_at, ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> TtrpcResult<Empty> {
        let container = self.find(&request.id, "")?;
        if container.runner == Runner::Function {
            let text = "a function's container holds no programs: nothing can be executed in it";
            return Err(Error::Unsupported(text.to_owned()).into());
        }
        if request.terminal {
            return Err(Error::Unsupported("this runtime gives no terminal; execute without one".to_owned()).into());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if request.exec_id.is_empty() || request.exec_id.len() > 128 || !request.exec_id.chars().all(plain) {
            return Err(Error::Refused(format!("{:?} is no id of a process", request.exec_id)).into());
        }
        let stdio = Stdio { stdin: request.stdin.clone(), stdout: request.stdout.clone(), stderr: request.stderr.clone() };
        let mut entry = Entry::new(&request.id, &request.exec_id, Runner::Ordinary, container.bundle.clone(), stdio);
        entry.process = request.spec.as_ref().map(|spec| spec.value.clone());
        let key = (request.id.clone(), request.exec_id.clone());
        let before = self.with(|entries| match entries.contains_key(&key) {
            true => true,
            false => entries.insert(key, Arc::new(entry)).is_some(),
        });
        if before {
            return Err(Error::Refused(format!("there is a process {:?} already", request.exec_id)).into());
        }
        self.events.send(TaskExecAdded { container_id: request.id, exec_id: request.exec_id, ..Default::default() });
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> TtrpcResult<Empty> {
        let entry = self.find(&request.id, "")?;
        match entry.runner {
            Runner::Function => _ = self.ask(Request::TaskPause { id: self.task_id(&request.id) }).await?,
            Runner::Ordinary => self.runc.freeze(&entry, true).await?,
        }
        entry.advance(Stage::Paused);
        self.events.send(TaskPaused { container_id: request.id, ..Default::default() });
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> TtrpcResult<Empty> {
        let entry = self.find(&request.id, "")?;
        match entry.runner {
            Runner::Function => _ = self.ask(Request::TaskResume { id: self.task_id(&request.id) }).await?,
            Runner::Ordinary => self.runc.freeze(&entry, false).await?,
        }
        entry.advance(Stage::Running);
        self.events.send(TaskResumed { container_id: request.id, ..Default::default() });
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> TtrpcResult<StatsResponse> {
        let entry = self.find(&request.id, "")?;
        let (namespace, id, pid) = (self.namespace.clone(), self.task_id(&request.id), entry.pid());
        let runner = entry.runner;
        let metrics = aside(move || match runner {
            Runner::Function => Ok(function::metrics(&Node::running(&namespace)?.stats(&id)?)),
            Runner::Ordinary => Ok(cgroup::collect_metrics(&cgroup::get_cgroup(pid)?)?),
        })
        .await?;
        let any = convert_to_any(Box::new(metrics)).map_err(Error::from)?;
        Ok(StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> TtrpcResult<PidsResponse> {
        let entry = self.find(&request.id, "")?;
        let mut pids = vec![entry.pid()];
        if entry.runner == Runner::Ordinary && entry.ended().is_none() {
            let of_group = cgroup::get_cgroup(entry.pid()).map(|group| group.procs()).unwrap_or_default();
            pids.extend(of_group.iter().map(|process| process.pid as u32).filter(|pid| *pid != entry.pid()));
        }
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, ..Default::default() }).collect();
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        let task_pid = self.find(&request.id, "").map_or(0, |entry| entry.pid());
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() })
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> TtrpcResult<Empty> {
        self.find(&request.id, &request.exec_id)?.keep_input(None);
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> TtrpcResult<Empty> {
        self.find(&request.id, &request.exec_id)?;
        Err(Error::Unsupported("the container has no terminal".to_owned()).into())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        let entry = self.find(&request.id, "")?;
        match entry.runner {
            Runner::Function => {
                let limits = Resources::change(&request.resources.value)?;
                _ = self.ask(Request::TaskUpdate { id: self.task_id(&request.id), limits }).await?;
            }
            Runner::Ordinary => self.runc.update(&entry, &request.resources.value).await?,
        }
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> TtrpcResult<Empty> {
        if request.now || self.with(|entries| entries.is_empty()) {
            let namespace = self.namespace.clone();
            let _ = aside(move || {
                Node::stop_own(&namespace);
                Ok(())
            })
            .await;
            self.exit.signal();
        }
        Ok(Empty::new())
    }
}
