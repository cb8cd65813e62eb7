//! Every process that the node started: begun, watched by pidfd, reaped, taken down.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use teemate_container::cgroup::{Cgroups, Group, Limits, Stats};
use teemate_container::pool::{Net, NetPool, NetPoolConfig};
use teemate_container::{Container, ContainerSpec, Exit, Fds, Filter, Rlimit, User, Zygote, ZygoteConfig};
use teemate_control::function::{Mark, Phase};
use teemate_control::node::ContainerInfo;
use teemate_runner::board::{Board, Stamp, now_ns};
use teemate_runner::descriptors;
use teemate_runner::role::Role;

use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::locks::{Lock, SharedLock, wait};

/// Idle control groups that are kept.
const GROUPS_KEPT: usize = 64;
/// Network namespaces that are kept ready.
const NETS_READY: usize = 16;
/// How often containers that have passed their time are looked for.
const SWEEP: Duration = Duration::from_millis(250);

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Runs the payload's own threads.
    Service,
    /// Adopts threads.
    Reaper,
    /// Runs one call.
    Function,
    /// Made ahead of its call; becomes a [`Kind::Function`] with it.
    Ready,
}

impl Kind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::Reaper => "reaper",
            Kind::Function => "function",
            Kind::Ready => "ready",
        }
    }
}

/// A process to be started.
pub struct Order<'a> {
    /// Id that people see.
    pub id: u64,
    /// What it is for.
    pub kind: Kind,
    /// What its body shall be.
    pub role: Role,
    /// Function, if it runs one.
    pub function: Option<String>,
    /// Enclave, if it maps one.
    pub enclave: Option<u64>,
    /// TCS, if it leases one.
    pub lease: Option<Lease>,
    /// Limits of its group.
    pub limits: Limits,
    /// Filter on system calls.
    pub filter: Filter,
    /// A directory as its root, instead of an empty one.
    pub root: Option<PathBuf>,
    /// How long it may live.
    pub lifetime: Option<Duration>,
    /// Descriptors for its body.
    pub body: Vec<BorrowedFd<'a>>,
    /// Where it leaves its time stamps.
    pub board: Option<(Arc<Board>, u32)>,
    /// Phases that led here.
    pub marks: Vec<Mark>,
}

/// Where a process shall be, if not at a place of the node's own.
#[derive(Default)]
pub struct Place {
    /// Host name inside; empty: the node's choice.
    pub hostname: String,
    /// Network namespace to join.
    pub network: Option<OwnedFd>,
    /// Ipc namespace to join.
    pub ipc: Option<OwnedFd>,
    /// Uts namespace to join.
    pub uts: Option<OwnedFd>,
    /// Path of its group below the top of each hierarchy.
    pub group: Option<PathBuf>,
    /// Who it is inside.
    pub user: User,
    /// A directory as its root, instead of an empty one.
    pub root: Option<PathBuf>,
    /// Limits of the process that are not the node's choice.
    pub rlimits: Vec<Rlimit>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Killed(String),
}

/// Called once, on the reaping thread, when a process has ended: it must not wait for anything.
pub type OnEnd = Box<dyn FnOnce(&Arc<Process>, &Ended) + Send>;

/// What a process is for. A container that was made ahead learns it late.
#[derive(Clone, Debug)]
struct Purpose {
    id: u64,
    kind: Kind,
    function: Option<String>,
    until: Option<Instant>,
}

/// The call that takes a container which was made ahead.
pub struct Taking {
    /// Id that the enclave gave it.
    pub id: u64,
    /// Function.
    pub function: String,
    /// Limits of its group.
    pub limits: Limits,
    /// How long it may live from now on.
    pub lifetime: Duration,
    /// Phases that led here.
    pub marks: Vec<Mark>,
}

/// A process that the node started.
pub struct Process {
    /// Number within the node.
    pub serial: u64,
    /// Enclave, if it maps one.
    pub enclave: Option<u64>,
    /// TCS, if it leases one.
    pub lease: Option<Lease>,
    /// On the host.
    pub pid: i32,
    begun: Instant,
    purpose: Mutex<Purpose>,
    /// Made ahead: how it came to be is no part of its call.
    ahead: bool,
    board: Option<(Arc<Board>, u32)>,
    marks: Mutex<Vec<Mark>>,
    why: Mutex<Option<String>>,
    out_of_memory: AtomicBool,
    /// The signal that ended it; 0: none.
    signal: AtomicI32,
    ended: Mutex<Option<Ended>>,
    inner: Mutex<Inner>,
    over: (Mutex<bool>, Condvar),
}

struct Inner {
    container: Option<Container>,
    group: Option<Group>,
    net: Option<Net>,
    on_end: Option<OnEnd>,
}

impl Process {
    /// Id that people see.
    pub fn id(&self) -> u64 {
        self.purpose.locked().id
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.purpose.locked().kind
    }

    /// Function, if it runs one.
    pub fn function(&self) -> Option<String> {
        self.purpose.locked().function.clone()
    }

    /// Gives a container that was made ahead to a call: its group gets the call's limits, and `let_in` is called if it lives. False when
    /// it does not, or can't be limited; then it is no use to anybody.
    pub fn take(&self, taking: Taking, let_in: impl FnOnce()) -> bool {
        // Held to the end: it can't be reaped meanwhile, so its end either was seen before or belongs to this call.
        let mut inner = self.inner.locked();
        if inner.container.is_none() || self.why.locked().is_some() {
            return false;
        }
        if let Some(Err(error)) = inner.group.as_mut().map(|group| group.set_limits(&taking.limits)) {
            tracing::warn!(pid = self.pid, %error, "a container that was made ahead can't get the limits of a call");
            return false;
        }
        *self.marks.locked() = taking.marks;
        *self.purpose.locked() =
            Purpose { id: taking.id, kind: Kind::Function, function: Some(taking.function), until: Some(Instant::now() + taking.lifetime) };
        self.mark(Phase::ContainerTaken, now_ns());
        let_in();
        true
    }

    /// Acts unless it has been reaped; it is not reaped meanwhile. So what is said to its TCS is never said to the next holder of that.
    pub fn while_it_lives(&self, act: impl FnOnce()) {
        let inner = self.inner.locked();
        if inner.container.is_some() {
            act();
        }
    }

    /// Whether it waits for its call, everything that can be done ahead being done.
    pub fn is_waiting(&self) -> bool {
        let stamped = |(board, slot): &(Arc<Board>, u32)| board.stamps(*slot).any(|(stamp, _)| stamp == Stamp::EnclaveMapped);
        self.kind() == Kind::Ready && self.board.as_ref().is_some_and(stamped)
    }

    /// The phases that it has reached.
    pub fn marks(&self) -> Vec<Mark> {
        let inner = self.inner.locked();
        self.marks_with(inner.container.as_ref())
    }

    /// With what its shared memory says now; after its end everything is in `marks`.
    fn marks_with(&self, container: Option<&Container>) -> Vec<Mark> {
        let mut marks = self.marks.locked().clone();
        let Some(container) = container else { return marks };
        let timing = container.timing();
        let mut add = |phase, at_ns: u64| {
            if at_ns != 0 {
                marks.push(Mark { phase, at_ns });
            }
        };
        if !self.ahead {
            add(Phase::ProcessStarted, timing.first_ns);
            add(Phase::ContainerReady, timing.ready_ns);
        }
        if let Some((board, slot)) = &self.board {
            for (stamp, at_ns) in board.stamps(*slot) {
                match stamp {
                    Stamp::EnclaveMapped if self.ahead => {}
                    Stamp::EnclaveMapped => add(Phase::EnclaveMapped, at_ns),
                    Stamp::Entered => add(Phase::Entered, at_ns),
                    Stamp::ProcessStarted | Stamp::ContainerReady => {}
                }
            }
        }
        marks
    }

    /// Notes a phase.
    pub fn mark(&self, phase: Phase, at_ns: u64) {
        self.marks.locked().push(Mark { phase, at_ns });
    }

    /// Kills it; `why` is for the caller of its function.
    pub fn kill(&self, why: &str) {
        self.why.locked().get_or_insert_with(|| why.to_owned());
        let inner = self.inner.locked();
        if let Some(container) = &inner.container
            && let Err(error) = container.kill()
        {
            tracing::error!(container = self.id(), pid = self.pid, %error, "a container can't be killed");
        }
    }

    /// It may live for so long from now, and at least as long as it might before.
    pub fn live_for(&self, time: Duration) {
        let until = &mut self.purpose.locked().until;
        *until = until.map(|before| before.max(Instant::now() + time));
    }

    /// Why the node killed it, if it did.
    pub fn why(&self) -> Option<String> {
        self.why.locked().clone()
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.locked().clone()
    }

    /// Whether the out-of-memory killer took it.
    pub fn ran_out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Acquire)
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Acquire)).filter(|signal| *signal != 0)
    }

    /// Freezes it, or lets it go on.
    pub fn freeze(&self, stop: bool) -> Result<()> {
        let inner = self.inner.locked();
        let (Some(container), Some(group)) = (&inner.container, &inner.group) else {
            return Err(Error::Invalid("it has ended".to_owned()));
        };
        if !group.freeze(stop)? {
            container.signal(if stop { libc::SIGSTOP } else { libc::SIGCONT })?;
        }
        Ok(())
    }

    /// Changes the limits of its group.
    pub fn limit(&self, change: impl FnOnce(&mut Limits)) -> Result<()> {
        let mut inner = self.inner.locked();
        let Some(group) = inner.group.as_mut().filter(|_| self.ended().is_none()) else {
            return Err(Error::Invalid("it has ended".to_owned()));
        };
        let mut limits = group.limits();
        change(&mut limits);
        if let Some(controller) = group.lacks(&limits) {
            let name = controller.name();
            return Err(Error::Invalid(format!("this limit can't be changed: the node has no controller {name}; see `teemate doctor`")));
        }
        Ok(group.set_limits(&limits)?)
    }

    /// What its group uses, and its limits; `None` once it has ended.
    pub fn used(&self) -> Option<(Stats, Limits)> {
        self.inner.locked().group.as_ref().map(|group| (group.stats(), group.limits()))
    }

    /// Waits until it is reaped; false at the limit.
    pub fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut over = self.over.0.locked();
        while !*over {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            over = wait(&self.over.1, over, left);
        }
        true
    }

    /// As `Ps` shows it.
    pub fn info(&self) -> ContainerInfo {
        let (namespaces, rss_kib) = (namespaces(self.pid), rss_kib(self.pid));
        let cgroups = {
            let inner = self.inner.locked();
            inner.group.iter().flat_map(Group::directories).map(|path| path.display().to_string()).collect()
        };
        let purpose = self.purpose.locked().clone();
        ContainerInfo {
            id: purpose.id,
            role: purpose.kind.name().to_owned(),
            function: purpose.function,
            enclave: self.enclave,
            tcs: self.lease.map(|lease| lease.tcs),
            pid: self.pid.unsigned_abs(),
            namespaces,
            cgroups,
            charged_pages: None,
            rss_kib,
            age_ms: self.begun.elapsed().as_millis() as u64,
        }
    }
}

/// Inodes of a process's namespaces.
fn namespaces(pid: i32) -> Vec<(String, u64)> {
    ["pid", "mnt", "uts", "ipc", "net", "user"]
        .into_iter()
        .filter_map(|name| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()?;
            let text = link.to_str()?;
            let inode = text.split_once('[')?.1.strip_suffix(']')?.parse().ok()?;
            Some((name.to_owned(), inode))
        })
        .collect()
}

/// Resident memory.
fn rss_kib(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let from_rollup = rollup.and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("Rss:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    });
    from_rollup
        .or_else(|| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4)
        })
        .unwrap_or(0)
}

/// A zygote, and network namespaces that its containers can join.
pub struct Nursery {
    /// The zygote.
    pub zygote: Zygote,
    nets: NetPool,
}

impl Nursery {
    /// Starts one.
    pub fn new(program: &Path, descriptors: Vec<(String, OwnedFd)>, arguments: Vec<String>) -> Result<Nursery> {
        let config = ZygoteConfig { arguments, ..ZygoteConfig::default() };
        let zygote = Zygote::spawn(program, descriptors, &config)?;
        for note in zygote.notes() {
            tracing::warn!(note = note.as_str(), "the zygote has a remark");
        }
        let nets = NetPool::new(zygote.helper(), NetPoolConfig { ready: NETS_READY, recycle: true })?;
        Ok(Nursery { zygote, nets })
    }

    /// Network namespaces that are ready.
    pub fn nets_ready(&self) -> usize {
        self.nets.ready()
    }
}

/// All processes.
pub struct Containers {
    map: Mutex<HashMap<u64, Arc<Process>>>,
    serial: AtomicU64,
    epoll: OwnedFd,
    /// None once the node has ended.
    cgroups: RwLock<Option<Cgroups>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Groups of ended containers, on their way back.
    returned: Mutex<Sender<(Group, Option<Exit>)>>,
    stopping: AtomicBool,
    /// Reaped since the start.
    reaped: AtomicU64,
}

impl Containers {
    /// With the node's control groups. Starts the thread that reaps, and the one that takes groups back.
    pub fn new(cgroups: Cgroups) -> Result<Arc<Containers>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::system("make an epoll instance"))?;
        let (sender, receiver) = channel();
        if let Err(error) = cgroups.prepare(8) {
            tracing::warn!(%error, "control groups can't be made in advance");
        }
        let containers = Arc::new(Containers {
            map: Mutex::new(HashMap::new()),
            serial: AtomicU64::new(1),
            epoll,
            cgroups: RwLock::new(Some(cgroups)),
            threads: Mutex::new(Vec::new()),
            returned: Mutex::new(sender),
            stopping: AtomicBool::new(false),
            reaped: AtomicU64::new(0),
        });
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Error::system("start a thread of the node"))
        };
        let this = Arc::clone(&containers);
        let reap = spawn("reap", Box::new(move || this.reap_loop()))?;
        let this = Arc::clone(&containers);
        let groups = spawn("groups", Box::new(move || this.take_groups_back(&receiver)))?;
        containers.threads.locked().extend([reap, groups]);
        Ok(containers)
    }

    /// Starts a process. `on_end` is called once, also when it ends at once.
    pub fn start(&self, nursery: &Nursery, order: Order<'_>, on_end: OnEnd) -> Result<Arc<Process>> {
        self.start_at(nursery, order, Place::default(), on_end)
    }

    /// The same, at a place that somebody else chose.
    pub fn start_at(&self, nursery: &Nursery, order: Order<'_>, place: Place, on_end: OnEnd) -> Result<Arc<Process>> {
        let mut spec = ContainerSpec::new(order.id);
        spec.hostname = if place.hostname.is_empty() { hostname(order.kind, order.id) } else { place.hostname };
        spec.filter = order.filter;
        spec.user = place.user;
        spec.rlimits.chosen = place.rlimits;
        spec.payload = order.role.encode();
        if order.kind == Kind::Service {
            spec.rlimits.open_files = descriptors::MAX as u64;
        }
        let group = match &*self.cgroups.read_lock() {
            Some(cgroups) => match &place.group {
                Some(path) => cgroups.acquire_at(path, &order.limits)?,
                None => cgroups.acquire(&order.limits)?,
            },
            None => return Err(Error::Busy("the node is stopping; it takes no more calls".to_owned())),
        };
        let back = |group: Group| {
            let _ = self.returned.locked().send((group, None));
        };
        let made = || -> Result<(Container, Option<Net>)> {
            let net = if place.network.is_none() { Some(nursery.nets.take()?) } else { None };
            let root = order.root.as_deref().map(|path| nursery.zygote.helper().tree(path, true)).transpose()?;
            let stderr = std::io::stderr();
            let fds = Fds {
                group: Some(&group),
                net: place.network.as_ref().map(AsFd::as_fd).or(net.as_ref().map(AsFd::as_fd)),
                ipc: place.ipc.as_ref().map(AsFd::as_fd),
                uts: place.uts.as_ref().map(AsFd::as_fd),
                root: root.as_ref().map(AsFd::as_fd),
                binds: Vec::new(),
                stdio: [None, None, Some(stderr.as_fd())],
                body: order.body,
            };
            Ok((nursery.zygote.start(&spec, &fds)?, net))
        };
        let (container, net) = match made() {
            Ok(made) => made,
            Err(error) => {
                back(group);
                return Err(error);
            }
        };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let until = order.lifetime.map(|lifetime| begun + lifetime);
        let process = Arc::new(Process {
            serial,
            enclave: order.enclave,
            lease: order.lease,
            pid: container.pid(),
            begun,
            purpose: Mutex::new(Purpose { id: order.id, kind: order.kind, function: order.function, until }),
            ahead: order.kind == Kind::Ready,
            board: order.board,
            marks: Mutex::new(order.marks),
            why: Mutex::new(None),
            out_of_memory: AtomicBool::new(false),
            signal: AtomicI32::new(0),
            ended: Mutex::new(None),
            inner: Mutex::new(Inner { container: Some(container), group: Some(group), net, on_end: Some(on_end) }),
            over: (Mutex::new(false), Condvar::new()),
        });
        self.map.locked().insert(serial, Arc::clone(&process));
        let inner = process.inner.locked();
        if let Some(container) = &inner.container {
            let watched = epoll::add(&self.epoll, container.pidfd(), epoll::EventData::new_u64(serial), epoll::EventFlags::IN);
            if let Err(error) = watched {
                // The sweep finds it.
                tracing::error!(%error, pid = process.pid, "a container's end can't be watched");
            }
        }
        drop(inner);
        Ok(process)
    }

    /// All that live.
    pub fn all(&self) -> Vec<Arc<Process>> {
        let mut all: Vec<_> = self.map.locked().values().cloned().collect();
        all.sort_by_key(|process| process.serial);
        all
    }

    /// How many of this kind live.
    pub fn count(&self, kind: Kind) -> usize {
        self.map.locked().values().filter(|process| process.kind() == kind).count()
    }

    /// Reaped since the start.
    pub fn reaped(&self) -> u64 {
        self.reaped.load(Ordering::Relaxed)
    }

    /// The one with this id, if it lives.
    pub fn find(&self, id: u64) -> Option<Arc<Process>> {
        self.map.locked().values().find(|process| process.id() == id).cloned()
    }

    /// Kills everything that matches, and waits until it is reaped, at most `limit`.
    pub fn kill_all(&self, why: &str, limit: Duration, matches: impl Fn(&Process) -> bool) -> bool {
        let end = Instant::now() + limit;
        let doomed: Vec<_> = self.all().into_iter().filter(|process| matches(process)).collect();
        for process in &doomed {
            process.kill(why);
        }
        doomed.iter().filter(|process| !process.wait(end.saturating_duration_since(Instant::now()))).count() == 0
    }

    /// Ends the threads and removes the control groups. Nothing can be started or reaped afterwards.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let threads: Vec<_> = self.threads.locked().drain(..).collect();
        for thread in threads {
            let _ = thread.join();
        }
        drop(self.cgroups.write_lock().take());
    }

    fn reap_loop(&self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        let step = rustix::event::Timespec { tv_sec: 0, tv_nsec: SWEEP.as_nanos() as _ };
        let mut swept = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&step)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the ends of containers can't be waited for; looking for them now and then");
                    std::thread::sleep(SWEEP);
                }
            }
            for event in &events {
                let process = self.map.locked().get(&event.data.u64()).cloned();
                if let Some(process) = process {
                    self.reap(&process);
                }
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.sweep();
            }
        }
    }

    /// Kills what has lived too long, and finds what epoll missed.
    fn sweep(&self) {
        let now = Instant::now();
        for process in self.all() {
            let until = process.purpose.locked().until;
            if until.is_some_and(|until| until < now) && process.why().is_none() {
                process.kill("its time was over");
            }
            if process.begun.elapsed() > Duration::from_secs(1) {
                self.reap(&process);
            }
        }
    }

    fn reap(&self, process: &Arc<Process>) {
        let (ended, exit, on_end, container) = {
            let mut inner = process.inner.locked();
            let Some(container) = inner.container.as_mut() else { return };
            let (ended, exit) = match container.try_wait() {
                Ok(None) => return,
                Ok(Some(exit)) => (self::ended(&exit, container), Some(exit)),
                Err(error) => (Ended::Killed(format!("its end could not be read: {error}")), None),
            };
            let container = inner.container.take();
            if matches!(ended, Ended::Killed(_)) {
                process.out_of_memory.store(inner.group.as_ref().is_some_and(Group::was_oom_killed), Ordering::Release);
            }
            let marks = process.marks_with(container.as_ref());
            *process.marks.locked() = marks;
            (ended, exit, inner.on_end.take(), container)
        };
        process.signal.store(exit.and_then(|exit| exit.signal).unwrap_or(0), Ordering::Release);
        self.reaped.fetch_add(1, Ordering::Relaxed);
        process.mark(Phase::Reaped, now_ns());
        *process.ended.locked() = Some(ended.clone());
        if let Some(container) = &container {
            let _ = epoll::delete(&self.epoll, container.pidfd());
        }
        if let Some(on_end) = on_end {
            on_end(process, &ended);
        }
        drop(container);
        let (group, net) = {
            let mut inner = process.inner.locked();
            (inner.group.take(), inner.net.take())
        };
        drop(net);
        if let Some(group) = group {
            let _ = self.returned.locked().send((group, exit));
        }
        self.map.locked().remove(&process.serial);
        *process.over.0.locked() = true;
        process.over.1.notify_all();
    }

    fn take_groups_back(&self, returned: &Receiver<(Group, Option<Exit>)>) {
        let take = |group: Group, exit: Option<Exit>, keep: usize| {
            if let Some(cgroups) = &*self.cgroups.read_lock()
                && let Err(error) = cgroups.release(group, exit.as_ref(), keep)
            {
                tracing::warn!(%error, "a control group can't be taken back");
            }
        };
        while !self.stopping.load(Ordering::Acquire) {
            let Ok((group, exit)) = returned.recv_timeout(SWEEP) else { continue };
            take(group, exit, GROUPS_KEPT);
        }
        for (group, exit) in returned.try_iter() {
            take(group, exit, 0);
        }
    }
}

/// The container's error of set-up, if that is how it ended, has more to say than its status.
fn ended(exit: &Exit, container: &Container) -> Ended {
    if let Some(error) = container.setup_error() {
        return Ended::Killed(error.to_string());
    }
    match (exit.code, exit.signal) {
        (Some(code), _) => Ended::Exited(code),
        (None, Some(signal)) => Ended::Killed(format!("it was killed by signal {signal}")),
        (None, None) => Ended::Killed("nobody knows how it ended".to_owned()),
    }
}

fn hostname(kind: Kind, id: u64) -> String {
    match kind {
        Kind::Function | Kind::Ready => format!("f-{id:x}"),
        kind => format!("{}-{id:x}", kind.name()),
    }
}
