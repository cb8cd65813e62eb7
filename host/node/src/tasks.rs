//! Tasks: containers of the shared enclave that somebody else directs step by step.
//!
//! A task's container is made when the task is, as one that is made ahead is, and waits at the enclave's door. Its start is a call of its
//! function; the enclave asks for a container, and is given the task's. One task of a function starts at a time, so that the enclave's
//! wish, which names the function, belongs to that task and to no other. Equal functions are deployed once, under a name that says what
//! they are, and some that nobody uses are kept: the next task of the image then finds its code compiled.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use teemate_container::{Rlimit, User};
use teemate_control::function::{Failure, FailureKind, Outcome, Reuse};
use teemate_control::node::Sharing;
use teemate_control::task::{TaskExit, TaskInfo, TaskLimits, TaskPlace, TaskSpec, TaskState, TaskStats};

use crate::ahead::Ready;
use crate::containers::{Place, Process};
use crate::error::Error;
use crate::locks::{Lock, wait};
use crate::node::Node;
use crate::shared::{self, SharedEnclave};
use crate::store::Store;
use crate::text::hex;

/// Functions of tasks have names that begin so.
pub const PREFIX: &str = "task.";
/// Functions that are kept though no task uses them.
const UNUSED_KEPT: usize = 64;
/// How long the enclave may take to ask for a task's container.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the enclave may take to tell what came of a call whose container has ended.
const OUTCOME_LIMIT: Duration = Duration::from_secs(20);
/// Beyond a function's own time limit: how long until its call is given up.
const CALL_MARGIN: Duration = Duration::from_secs(5);
/// A frozen container whose thread holds what others wait for is let go on for so long, and frozen again.
const THAW: Duration = Duration::from_millis(3);
/// How long the enclave may take for an answer while a container is frozen, before it is taken for stuck.
const FROZEN_ANSWER: Duration = Duration::from_millis(500);
/// How often a container is frozen anew.
const FREEZE_ATTEMPTS: u32 = 20;

/// Kind of the kernel's file system of namespaces (`NSFS_MAGIC`, magic.h).
const NSFS: rustix::fs::FsWord = 0x6e73_6673;

type Done<T> = Result<T, Failure>;

/// A function of a task that is being made.
struct Needed<'a> {
    tasks: &'a Tasks,
    node: &'a Node,
    name: String,
}

impl Drop for Needed<'_> {
    fn drop(&mut self) {
        let mut needed = self.tasks.deploying.locked();
        if let Some(index) = needed.iter().position(|name| *name == self.name) {
            needed.swap_remove(index);
        }
        drop(needed);
        // Where no task came of it.
        self.tasks.forget_files(self.node, &self.name);
    }
}

struct Task {
    id: String,
    function: String,
    params: Map<String, Value>,
    limit: Duration,
    shared: Arc<SharedEnclave>,
    process: Arc<Process>,
    life: Mutex<Life>,
    changed: Condvar,
}

struct Life {
    /// Until it starts.
    ready: Option<Ready>,
    /// What comes of its call, once it has started.
    outcome: Option<Receiver<Done<Outcome>>>,
    started: bool,
    paused: bool,
    /// The signal that somebody sent.
    signal: Option<u32>,
    exit: Option<TaskExit>,
}

/// All of a node.
#[derive(Default)]
pub struct Tasks {
    map: Mutex<HashMap<String, Arc<Task>>>,
    /// Held while a function is deployed or forgotten: the functions of tasks that are being made, which must stay.
    deploying: Mutex<Vec<String>>,
    /// Held while a task starts.
    starting: Mutex<()>,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

impl Tasks {
    /// Makes a task. Returns when its container waits.
    pub fn create(&self, node: &Arc<Node>, spec: TaskSpec) -> Done<TaskInfo> {
        let failed = |error: Error| error.failure();
        let _running = node.enter().map_err(failed)?;
        if node.shop().config.sharing != Sharing::Shared {
            return Err(invalid("tasks need a node in shared mode; start one with --sharing shared"));
        }
        if spec.id.is_empty() || spec.id.len() > 256 {
            return Err(invalid("a task's id must have 1 to 256 bytes"));
        }
        let taken = || invalid(format!("there is a task {:?} already", spec.id));
        if self.map.locked().contains_key(&spec.id) {
            return Err(taken());
        }
        let Value::Object(params) = spec.params.clone() else {
            return Err(invalid("the parameters of a task must be a JSON object"));
        };
        let mut place = at(&spec.place)?;
        let mut group = shared::limits(spec.function.limits.memory, spec.function.limits.cpu_milli);
        if spec.place.pids > 0 {
            group.pids = Some(spec.place.pids);
        }
        let limit = Duration::from_millis(spec.function.limits.timeout_ms) + node.shop().config.queue_timeout + CALL_MARGIN;
        let needed = self.deploy(node, &spec)?;
        place.root = node.shop().store.get(&needed.name).map_err(failed)?.root();
        let shared = node.shared_enclave().map_err(failed)?;
        let ready = shared.make_for_task(group, place).map_err(failed)?;
        let task = Arc::new(Task {
            id: spec.id.clone(),
            function: needed.name.clone(),
            params,
            limit,
            shared,
            process: Arc::clone(&ready.process),
            life: Mutex::new(Life { ready: Some(ready), outcome: None, started: false, paused: false, signal: None, exit: None }),
            changed: Condvar::new(),
        });
        {
            let mut map = self.map.locked();
            if map.contains_key(&spec.id) {
                task.process.kill("another task has its id");
                return Err(taken());
            }
            map.insert(spec.id.clone(), Arc::clone(&task));
        }
        let watched = Arc::clone(&task);
        if let Err(error) = std::thread::Builder::new().name("task".to_owned()).stack_size(128 << 10).spawn(move || watched.watch()) {
            self.map.locked().remove(&spec.id);
            task.process.kill("the node has no thread for it");
            return Err(Failure::new(FailureKind::Busy, format!("there is no thread for a task: {error}")));
        }
        Ok(task.info())
    }

    /// Deploys its function unless it is there.
    fn deploy<'a>(&'a self, node: &'a Node, spec: &TaskSpec) -> Done<Needed<'a>> {
        let mut function = spec.function.clone();
        // Each task is one call in one container.
        function.reuse = Reuse::Fresh;
        function.name = String::new();
        let text = serde_json::to_vec(&function).map_err(|error| invalid(error.to_string()))?;
        let digest = Sha256::new().chain_update(&text).chain_update(spec.code.as_bytes()).finalize();
        function.name = format!("{PREFIX}{}", &hex(&digest)[..40]);
        let name = function.name.clone();
        let mut needed = self.deploying.locked();
        if node.shop().store.get(&name).is_ok() {
            needed.push(name.clone());
            return Ok(Needed { tasks: self, node, name });
        }
        let decoded = |what: &str, text: &String| STANDARD.decode(text).map_err(|error| invalid(format!("{what} is no base64: {error}")));
        let code = decoded("the code", &spec.code)?;
        let files = spec.files.iter().map(|text| decoded("a file", text)).collect::<Done<Vec<_>>>()?;
        self.forget_some(node, &needed);
        node.deploy(function, &code, &files)?;
        needed.push(name.clone());
        Ok(Needed { tasks: self, node, name })
    }

    /// Functions that some task has, or will have.
    fn used(&self, needed: &[String]) -> Vec<String> {
        needed.iter().cloned().chain(self.map.locked().values().map(|task| task.function.clone())).collect()
    }

    /// Forgets a function with files, such as a pod's secrets, with the last task of it.
    fn forget_files(&self, node: &Node, name: &str) {
        let needed = self.deploying.locked();
        let has_files = node.shop().store.get(name).is_ok_and(|function| function.root().is_some());
        if has_files
            && !self.used(&needed).iter().any(|used| used == name)
            && let Err(failure) = node.delete(name)
        {
            tracing::warn!(function = name, reason = failure.message, "the files of a task can't be forgotten");
        }
    }

    fn forget_some(&self, node: &Node, needed: &[String]) {
        let used = self.used(needed);
        let all = node.shop().store.all();
        let unused: Vec<_> =
            all.iter().map(|function| &function.spec.name).filter(|name| name.starts_with(PREFIX) && !used.contains(name)).collect();
        for name in unused.iter().skip(UNUSED_KEPT - 1) {
            if let Err(failure) = node.delete(name) {
                tracing::warn!(function = name.as_str(), reason = failure.message, "the function of earlier tasks can't be forgotten");
            }
        }
    }

    fn find(&self, id: &str) -> Done<Arc<Task>> {
        self.map.locked().get(id).cloned().ok_or_else(|| invalid(format!("there is no task {id:?}")))
    }

    /// Lets a task into the enclave, with these parameters beside its own. Returns when it runs, or has ended.
    pub fn start(&self, id: &str, further: Map<String, Value>) -> Done<TaskInfo> {
        let task = self.find(id)?;
        let params: Map<String, Value> = task.params.clone().into_iter().chain(further).collect();
        let params = serde_json::to_vec(&params).map_err(|error| invalid(error.to_string()))?;
        let _one_at_a_time = self.starting.locked();
        let (ready, sender) = {
            let mut life = task.life.locked();
            if life.exit.is_some() {
                return Err(invalid(format!("the task {id:?} has ended")));
            }
            let Some(ready) = life.ready.take() else { return Err(invalid(format!("the task {id:?} was started before"))) };
            let (sender, outcome) = channel();
            (life.outcome, life.started) = (Some(outcome), true);
            (ready, sender)
        };
        let caller = Arc::clone(&task);
        let spawned = std::thread::Builder::new()
            .name("task-call".to_owned())
            .stack_size(256 << 10)
            .spawn(move || caller.call(ready, params, &sender));
        if let Err(error) = spawned {
            task.process.kill("the node has no thread for it");
            return Err(Failure::new(FailureKind::Busy, format!("there is no thread for a task: {error}")));
        }
        let end = Instant::now() + START_LIMIT;
        // Not until its container is given away may another task of the same function start.
        while task.info().exit.is_none() && !task.is_let_in() {
            if Instant::now() > end {
                task.process.kill("the enclave did not ask for it in time");
                return Err(Failure::new(FailureKind::Busy, "the enclave did not ask for the task's container in time"));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(task.info())
    }

    /// One task.
    pub fn state(&self, id: &str) -> Done<TaskInfo> {
        Ok(self.find(id)?.info())
    }

    /// Waits for its end.
    pub fn wait(&self, id: &str, limit: Duration, given_up: &dyn Fn() -> bool) -> Done<TaskInfo> {
        let task = self.find(id)?;
        let end = Instant::now() + limit;
        let mut life = task.life.locked();
        while life.exit.is_none() && Instant::now() < end && !given_up() {
            life = wait(&task.changed, life, end.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)));
        }
        drop(life);
        Ok(task.info())
    }

    /// Sends a signal. A container's process is the first of its pid namespace and handles none, so what would end a program ends it by
    /// SIGKILL, and its status says which signal it was.
    pub fn kill(&self, id: &str, signal: u32) -> Done<TaskInfo> {
        let task = self.find(id)?;
        if signal > 64 {
            return Err(invalid(format!("{signal} is no signal")));
        }
        if ends_a_program(signal) {
            let mut life = task.life.locked();
            if life.exit.is_none() {
                life.signal.get_or_insert(signal);
                drop(life);
                task.process.kill("whoever directs the task wanted it");
            }
        }
        Ok(task.info())
    }

    /// Freezes a task.
    pub fn pause(&self, id: &str) -> Done<TaskInfo> {
        let task = self.find(id)?;
        let mut life = task.life.locked();
        if life.exit.is_some() || !life.started || life.paused {
            return Err(invalid(format!("the task {id:?} does not run")));
        }
        // Its thread may be stopped where it holds what the whole enclave waits for. Then the service does not answer.
        for _ in 0..FREEZE_ATTEMPTS {
            task.process.freeze(true).map_err(|error| error.failure())?;
            if task.shared.channel().stats(FROZEN_ANSWER).is_ok() {
                life.paused = true;
                drop(life);
                return Ok(task.info());
            }
            task.process.freeze(false).map_err(|error| error.failure())?;
            std::thread::sleep(THAW);
        }
        Err(Failure::new(FailureKind::Busy, "the enclave does not answer while the task is frozen; it goes on"))
    }

    /// Lets a frozen task go on.
    pub fn resume(&self, id: &str) -> Done<TaskInfo> {
        let task = self.find(id)?;
        let mut life = task.life.locked();
        if !life.paused || life.exit.is_some() {
            return Err(invalid(format!("the task {id:?} is not paused")));
        }
        task.process.freeze(false).map_err(|error| error.failure())?;
        life.paused = false;
        drop(life);
        Ok(task.info())
    }

    /// Changes what it may use.
    pub fn update(&self, id: &str, limits: &TaskLimits) -> Done<TaskInfo> {
        let task = self.find(id)?;
        let new = shared::limits(limits.memory.unwrap_or(0), limits.cpu_milli.unwrap_or(0));
        let some = |number: u64| Some(number).filter(|number| *number > 0);
        let changed = task.process.limit(|group| {
            if limits.memory.is_some() {
                group.memory_bytes = new.memory_bytes;
            }
            if limits.cpu_milli.is_some() {
                group.cpu_us_per_s = new.cpu_us_per_s;
            }
            group.pids = limits.pids.map_or(group.pids, some);
        });
        changed.map_err(|error| error.failure())?;
        Ok(task.info())
    }

    /// What it uses.
    pub fn stats(&self, id: &str) -> Done<TaskStats> {
        let task = self.find(id)?;
        let (stats, limits) = task.process.used().ok_or_else(|| invalid(format!("the task {id:?} has ended")))?;
        let (user_ns, system_ns) = cpu_ns(task.process.pid);
        Ok(TaskStats {
            user_ns,
            system_ns,
            memory_bytes: stats.memory_bytes.unwrap_or(0),
            memory_peak_bytes: stats.memory_peak_bytes.unwrap_or(0),
            memory_limit_bytes: limits.memory_bytes.unwrap_or(0),
            pids: stats.pids.unwrap_or(0),
            pids_limit: limits.pids.unwrap_or(0),
            epc_pages: task.process.lease.map_or(0, |lease| task.shared.enclave.charged_pages(lease.tcs)),
        })
    }

    /// Forgets a task.
    pub fn delete(&self, node: &Node, id: &str, force: bool) -> Done<TaskInfo> {
        let task = self.find(id)?;
        if task.life.locked().exit.is_none() {
            if !force {
                return Err(invalid(format!("the task {id:?} has not ended; kill it first")));
            }
            self.kill(id, libc::SIGKILL as u32)?;
            let info = self.wait(id, OUTCOME_LIMIT + Duration::from_secs(10), &|| false)?;
            if info.exit.is_none() {
                return Err(Failure::new(FailureKind::Busy, format!("the task {id:?} does not end")));
            }
        }
        self.map.locked().remove(id);
        self.forget_files(node, &task.function);
        Ok(task.info())
    }
}

/// Forgets, before anything runs, the files of tasks that an earlier node was killed with.
pub fn forget_files_of_earlier(store: &Store) {
    for function in store.all() {
        let name = &function.spec.name;
        if name.starts_with(PREFIX)
            && function.root().is_some()
            && let Err(error) = store.delete(name)
        {
            tracing::warn!(function = name.as_str(), %error, "the files of an earlier task can't be forgotten");
        }
    }
}

impl Task {
    fn info(&self) -> TaskInfo {
        let life = self.life.locked();
        let state = match &*life {
            Life { exit: Some(_), .. } => TaskState::Stopped,
            Life { paused: true, .. } => TaskState::Paused,
            Life { started: true, .. } => TaskState::Running,
            _ => TaskState::Created,
        };
        TaskInfo { id: self.id.clone(), pid: self.process.pid.unsigned_abs(), state, exit: life.exit.clone() }
    }

    /// Whether its container is no longer one that only waits.
    fn is_let_in(&self) -> bool {
        self.process.kind() != crate::containers::Kind::Ready
            || (self.process.ended().is_some() && !self.shared.is_expected(&self.function))
    }

    fn call(&self, ready: Ready, params: Vec<u8>, done: &Sender<Done<Outcome>>) {
        let outcome = self.shared.run_task(&self.function, ready, params, self.limit, &|| false);
        // A call that was refused before it had its container leaves that waiting for ever.
        if self.process.kind() == crate::containers::Kind::Ready {
            self.process.kill("its call was refused");
        }
        let _ = done.send(outcome);
    }

    /// From its making to its end.
    fn watch(&self) {
        while !self.process.wait(Duration::from_secs(3600)) {}
        let outcome = self.life.locked().outcome.take();
        let outcome = outcome.and_then(|outcome| outcome.recv_timeout(OUTCOME_LIMIT).ok());
        let mut life = self.life.locked();
        life.exit = Some(exit(outcome, life.signal, &self.process));
        life.ready = None;
        drop(life);
        self.changed.notify_all();
    }
}

/// What is told of an end.
fn exit(outcome: Option<Done<Outcome>>, asked: Option<u32>, process: &Process) -> TaskExit {
    let at_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let out_of_memory = process.ran_out_of_memory();
    let mut exit = TaskExit { status: 1, at_ns, result: None, reason: None, logs: String::new(), out_of_memory };
    let failure = match outcome {
        Some(Ok(outcome)) => {
            exit.logs = outcome.logs;
            match outcome.result {
                Ok(result) => {
                    exit.status = 0;
                    exit.result = Some(String::from_utf8_lossy(&result).into_owned());
                    return exit;
                }
                Err(failure) => Some(failure),
            }
        }
        Some(Err(failure)) => Some(failure),
        None => None,
    };
    exit.reason = failure.as_ref().map(|failure| failure.message.clone());
    let lost = failure.is_none_or(|failure| failure.kind == FailureKind::ContainerLost);
    if let Some(signal) = process.signal().filter(|_| lost || asked.is_some()) {
        exit.status = 128 + asked.unwrap_or(signal.unsigned_abs());
    }
    exit
}

/// Whether a signal ends a program that does not handle it (signal(7)).
fn ends_a_program(signal: u32) -> bool {
    let harmless =
        [0, libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    !harmless.iter().any(|one| one.unsigned_abs() == signal)
}

fn at(place: &TaskPlace) -> Done<Place> {
    if place.hostname.len() > 64 {
        return Err(invalid("a host name has at most 64 bytes"));
    }
    let network = namespace("network", place.network.as_deref())?;
    let (ipc, uts) = (namespace("ipc", place.ipc.as_deref())?, namespace("uts", place.uts.as_deref())?);
    let user = User { uid: place.uid, gid: place.gid };
    let rlimits = Rlimit::all(place.rlimits.iter().map(|limit| (limit.name.as_str(), limit.soft, limit.hard)));
    let rlimits = rlimits.map_err(|error| invalid(error.to_string()))?;
    Ok(Place { hostname: place.hostname.clone(), network, ipc, uts, group: place.cgroup.clone(), user, root: None, rlimits })
}

fn namespace(kind: &str, path: Option<&Path>) -> Done<Option<OwnedFd>> {
    let Some(path) = path else { return Ok(None) };
    let failed = |reason: String| invalid(format!("the {kind} namespace {} can't be joined: {reason}", path.display()));
    // Opening anything else might wait for ever, as with a FIFO.
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let file = file.map_err(|error| failed(error.to_string()))?;
    let system = rustix::fs::fstatfs(&file).map_err(|error| failed(error.to_string()))?;
    if system.f_type != NSFS {
        return Err(failed("it is no file of a namespace".to_owned()));
    }
    Ok(Some(file))
}

/// CPU time of a process: fields 14 and 15 of /proc/PID/stat (proc(5)), in ticks of 10 ms.
fn cpu_ns(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11).map(|field| field.parse::<u64>().unwrap_or(0));
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let mut next = || fields.next().unwrap_or(0) * tick;
    (next(), next())
}

#[cfg(test)]
mod tests {
    use teemate_control::function::{FunctionSpec, Kind, VerifiedFile};

    use super::*;

    #[test]
    fn signals_that_end_a_program_end_a_task() {
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
            assert!(ends_a_program(signal as u32), "{signal}");
        }
        for signal in [0, libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT] {
            assert!(!ends_a_program(signal as u32), "{signal}");
        }
    }

    #[test]
    fn what_a_killed_node_kept_of_mounted_files_is_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let spec = |name: &str, files: &[&[u8]]| FunctionSpec {
            name: name.to_owned(),
            kind: Kind::JavaScript,
            main: "main".to_owned(),
            limits: Default::default(),
            egress: Vec::new(),
            files: files
                .iter()
                .map(|content| VerifiedFile {
                    path: "/secret".to_owned(),
                    sha256: Sha256::digest(content).into(),
                    length: content.len() as u64,
                })
                .collect(),
            env: Vec::new(),
            reuse: Reuse::Fresh,
        };
        let (store, _) = Store::open(state.path()).unwrap();
        for (name, files) in [("task.a", &[&b"key"[..]][..]), ("task.b", &[]), ("own", &[b"key"])] {
            let contents: Vec<Vec<u8>> = files.iter().map(|content| content.to_vec()).collect();
            store.put(spec(name, files), b"code", &contents).unwrap();
        }
        forget_files_of_earlier(&store);
        let left: Vec<String> = store.all().iter().map(|function| function.spec.name.clone()).collect();
        assert_eq!(left, ["own", "task.b"], "what the node's users deployed stays, and what holds no files");
    }

    #[test]
    fn the_time_of_a_process_that_works_grows() {
        let own = std::process::id() as i32;
        let begin = Instant::now();
        while cpu_ns(own).0 + cpu_ns(own).1 < 20_000_000 {
            assert!(begin.elapsed() < Duration::from_secs(60), "no time passes");
        }
        assert_eq!(cpu_ns(-1), (0, 0));
    }
}
