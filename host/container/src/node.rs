//! The node's side: start a zygote, start containers through it, wait for them, end them.
//!
//! All calls block for some hundred microseconds at most (except the waits, which have deadlines); call them from blocking threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::protocol::{
    ContainerSpec, Hello, HelperReply, HelperRequest, MAX_FDS, MAX_PACKET, Reply, Request, Role, RootTemplate, Stage, User, VERSION,
};
use crate::ring::{self, Ring};
use crate::sys::{self, Exit};
use crate::{seccomp, socket};

/// First of the host's user ids that containers of a privileged node get: above the ranges of systemd-nspawn, far from subuid's.
pub const DEFAULT_UID_BASE: u32 = 0x7001_0000;

/// Containers that one zygote can have at once, and host user ids that it uses.
pub const UIDS_PER_ZYGOTE: u32 = ring::SLOTS;

/// How a zygote is started.
#[derive(Clone, Debug)]
pub struct ZygoteConfig {
    /// Arguments of its program.
    pub arguments: Vec<String>,
    /// What its containers see as root.
    pub root: RootTemplate,
    /// First host user id of its containers, of which it uses [`UIDS_PER_ZYGOTE`]. Each living container has one of its own, as user and as
    /// group. Zygotes that live at the same time need bases that far apart.
    pub uid_base: u32,
    /// Longest wait for the zygote's first answer.
    pub patience: Duration,
}

impl Default for ZygoteConfig {
    fn default() -> Self {
        Self { arguments: Vec::new(), root: RootTemplate::runner(), uid_base: DEFAULT_UID_BASE, patience: Duration::from_secs(10) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The protected values stay consistent whatever panics: they are replaced, never half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Socket and receive buffer of one conversation.
struct Line {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// Set when an answer was not read: the next one would be the wrong one.
    broken: bool,
}

impl Line {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; MAX_PACKET], broken: false }
    }

    fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &mut self,
        question: &Q,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(A, Vec<OwnedFd>)> {
        if self.broken {
            return Err(Error::ZygoteGone("an earlier answer was lost".into()));
        }
        match socket::send(&self.socket, question, fds) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let bytes = postcard::to_stdvec(question).map_or(0, |bytes| bytes.len());
                return Err(Error::RequestTooLarge { bytes, fds: fds.len(), max_bytes: MAX_PACKET, max_fds: MAX_FDS });
            }
            Err(error) => {
                self.broken = true;
                return Err(Error::ZygoteGone(error.to_string()));
            }
        }
        self.broken = true;
        if !readable(&self.socket, patience)? {
            return Err(Error::ZygoteGone(format!("it did not answer within {patience:?}")));
        }
        let answer = socket::receive(&self.socket, &mut self.buffer).map_err(|error| Error::ZygoteGone(error.to_string()))?;
        let answer = answer.ok_or_else(|| Error::ZygoteGone("it closed its socket".into()))?;
        self.broken = false;
        Ok(answer)
    }
}

/// Wait until there is something to read (or the end).
fn readable(fd: impl AsFd, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    // Bounded by the deadline.
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time =
            rustix::event::Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Os { action: "wait for a descriptor", source: error.into() }),
        }
    }
}

/// The thread that starts zygotes. It lives as long as the process.
///
/// Containers die with the *thread* that is their parent (`PR_SET_PDEATHSIG`), and their parent is the thread that started their zygote.
/// A worker of the node's thread pool may end any time, so it must not be that thread.
type Job = Box<dyn FnOnce() + Send>;
static KEEPER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

fn on_keeper<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let keeper = KEEPER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        // Should the thread not start, the receiver is dropped and sending fails below.
        let _ = std::thread::Builder::new().name("zygote-parent".into()).spawn(move || {
            for job in receiver {
                job();
            }
        });
        sender
    });
    let (sender, receiver) = mpsc::channel();
    let gone = || Error::Os { action: "start a thread for zygotes", source: io::Error::other("it has ended") };
    keeper.send(Box::new(move || drop(sender.send(work())))).map_err(|_| gone())?;
    receiver.recv().map_err(|_| gone())
}

/// A running zygote. Dropping it ends the zygote, not its containers.
pub struct Zygote {
    shared: Arc<Shared>,
    child: Mutex<Child>,
    pid: u32,
    rootless: bool,
    notes: Vec<String>,
}

struct Shared {
    control: Mutex<Line>,
    helper: Helper,
    ring: Ring,
    free_slots: Mutex<Vec<u32>>,
}

/// Makes namespaces and mount trees beside the zygote, off the path of starting containers.
#[derive(Clone)]
pub struct Helper(Arc<Mutex<Line>>);

const HELPER_PATIENCE: Duration = Duration::from_secs(5);

impl Helper {
    fn make(&self, request: &HelperRequest, action: &'static str) -> Result<OwnedFd> {
        let failed = |message: String| Error::Helper { action, message };
        match lock(&self.0).ask::<_, HelperReply>(request, &[], HELPER_PATIENCE)? {
            (HelperReply::Made, mut fds) => fds.pop().ok_or_else(|| failed("its answer lacks a descriptor".into())),
            (HelperReply::Failed(message), _) => Err(failed(message)),
            (HelperReply::Idle(_), _) => Err(failed("it answered another question".into())),
        }
    }

    /// A new network namespace with `lo` up.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn new_net(&self) -> Result<OwnedFd> {
        self.make(&HelperRequest::MakeNet, "make a network namespace")
    }

    /// Has the network namespace no socket and no lingering connection?
    ///
    /// # Errors
    /// If the helper has gone.
    pub fn is_net_idle(&self, net: impl AsFd) -> Result<bool> {
        match lock(&self.0).ask::<_, HelperReply>(&HelperRequest::IsNetIdle, &[net.as_fd()], HELPER_PATIENCE)?.0 {
            HelperReply::Idle(idle) => Ok(idle),
            _ => Ok(false),
        }
    }

    /// A copy of a directory of the host as a mount tree that [`Fds::binds`] or [`Fds::root`] takes. Each serves one container.
    ///
    /// # Errors
    /// If the directory does not exist or the kernel refuses.
    pub fn tree(&self, path: &Path, read_only: bool) -> Result<OwnedFd> {
        let path = path.to_str().ok_or_else(|| Error::Invalid(format!("{} is not UTF-8", path.display())))?.to_owned();
        self.make(&HelperRequest::OpenTree { path, read_only }, "open a mount tree")
    }
}

/// What travels beside a start request. Everything is borrowed: the container gets its own copies.
#[derive(Default)]
pub struct Fds<'a> {
    /// The control groups that the container starts in.
    pub group: Option<&'a Group>,
    /// A ready network namespace. Without it, and with `namespaces.net`, a new one is made (some 400 us).
    pub net: Option<BorrowedFd<'a>>,
    /// An ipc namespace to join. Without it, and with `namespaces.ipc`, a new one is made.
    pub ipc: Option<BorrowedFd<'a>>,
    /// A uts namespace to join, with its host name. Without it, and with `namespaces.uts`, a new one is made.
    pub uts: Option<BorrowedFd<'a>>,
    /// A mount tree as root instead of the zygote's template. Must contain `/dev`, and `/proc`, `/tmp` if these are asked for.
    pub root: Option<BorrowedFd<'a>>,
    /// Mount trees (see [`Helper::tree`]) and where they appear. The mount points must exist in the root.
    pub binds: Vec<(&'a str, BorrowedFd<'a>)>,
    /// Standard input, output and error; `/dev/null` where not given.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
    /// For the body, in this order.
    pub body: Vec<BorrowedFd<'a>>,
}

impl Zygote {
    /// Start `program` as a zygote. It must call [`crate::zygote::control_socket`] and [`crate::zygote::serve`].
    ///
    /// `descriptors` go to [`crate::zygote::Body::inherit`].
    ///
    /// # Errors
    /// If it does not start, or says that it cannot work here.
    pub fn spawn(program: &Path, descriptors: Vec<(String, OwnedFd)>, config: &ZygoteConfig) -> Result<Self> {
        let (runner_filter, service_filter) = (seccomp::runner()?.0, seccomp::service()?.0);
        let pair = || socket::pair().map_err(Error::errno("make a socket pair"));
        let ((control, theirs), (helper, helpers)) = (pair()?, pair()?);
        let ring_fd = Ring::create().map_err(Error::os("make the ring of time stamps"))?;
        let ring = Ring::map(&ring_fd).map_err(Error::os("map the ring of time stamps"))?;

        let mut command = Command::new(program);
        command.args(&config.arguments).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        let spawned = on_keeper(move || command.spawn())?;
        let child = spawned.map_err(|source| Error::Spawn { program: PathBuf::from(program), source })?;
        let pid = child.id();
        // From here on, dropping `zygote` ends the process.
        let mut zygote = Self {
            shared: Arc::new(Shared {
                control: Mutex::new(Line::new(control)),
                helper: Helper(Arc::new(Mutex::new(Line::new(helper)))),
                ring,
                free_slots: Mutex::new((0..ring::SLOTS).rev().collect()),
            }),
            child: Mutex::new(child),
            pid,
            rootless: false,
            notes: Vec::new(),
        };
        let (names, owned): (Vec<String>, Vec<OwnedFd>) = descriptors.into_iter().unzip();
        let hello = Hello {
            version: VERSION,
            root: config.root.clone(),
            uid_base: config.uid_base,
            slots: ring::SLOTS,
            runner_filter,
            service_filter,
            names,
        };
        let fds: Vec<BorrowedFd<'_>> = [ring_fd.as_fd(), helpers.as_fd()].into_iter().chain(owned.iter().map(AsFd::as_fd)).collect();
        match lock(&zygote.shared.control).ask::<_, Reply>(&hello, &fds, config.patience)?.0 {
            Reply::Ready { version: VERSION, rootless, notes } => (zygote.rootless, zygote.notes) = (rootless, notes),
            Reply::Ready { version, .. } => return Err(Error::Protocol(format!("version {VERSION} here, {version} there"))),
            Reply::Failed(text) => return Err(Error::ZygoteSetup(text)),
            _ => return Err(Error::Protocol("an unexpected first answer".into())),
        }
        Ok(zygote)
    }

    /// The zygote's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Does it work in a user namespace of its own, for lack of privileges on the host?
    #[must_use]
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// What the zygote wants its user to know.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The helper.
    #[must_use]
    pub fn helper(&self) -> Helper {
        self.shared.helper.clone()
    }

    /// Containers alive or not yet reaped.
    #[must_use]
    pub fn containers(&self) -> usize {
        ring::SLOTS as usize - lock(&self.shared.free_slots).len()
    }

    /// Ask the zygote's body something: [`crate::zygote::Body::configure`].
    ///
    /// # Errors
    /// What the body answers, or that the zygote has gone.
    pub fn configure(&self, message: &[u8], descriptors: &[BorrowedFd<'_>], patience: Duration) -> Result<Vec<u8>> {
        match lock(&self.shared.control).ask::<_, Reply>(&Request::Configure(message.to_vec()), descriptors, patience)?.0 {
            Reply::Configured(answer) => answer.map_err(Error::ZygoteSetup),
            _ => Err(Error::Protocol("an unexpected answer".into())),
        }
    }

    /// Start a container. Returns when its process exists; [`Container::wait_ready`] tells when its body starts, or why it did not.
    ///
    /// # Errors
    /// If the process cannot be created. Then nothing is left of it.
    pub fn start(&self, spec: &ContainerSpec, fds: &Fds<'_>) -> Result<Container> {
        let requested_ns = sys::monotonic_ns();
        if spec.hostname.is_empty() || spec.hostname.len() > 64 {
            return Err(Error::Invalid("a container's host name must have 1 to 64 bytes".into()));
        }
        if spec.user.uid.max(spec.user.gid) > User::MAX_ID {
            return Err(Error::Invalid(format!("a container's user and group have ids of at most {}", User::MAX_ID)));
        }
        let (mut roles, mut handles) = (Vec::new(), Vec::new());
        let mut add = |role, fd| {
            roles.push(role);
            handles.push(fd);
        };
        if let Some(group) = fds.group {
            group.tasks().for_each(|fd| add(Role::CgroupTasks, fd));
            group.v2_directory().into_iter().for_each(|fd| add(Role::CgroupDir, fd));
        }
        let joined = [
            (Role::Net, fds.net.filter(|_| spec.namespaces.net)),
            (Role::Ipc, fds.ipc.filter(|_| spec.namespaces.ipc)),
            (Role::Uts, fds.uts.filter(|_| spec.namespaces.uts)),
        ];
        for (role, fd) in joined {
            fd.into_iter().for_each(|fd| add(role.clone(), fd));
        }
        if let Some(root) = fds.root {
            add(Role::Root, root);
        }
        for (path, fd) in &fds.binds {
            crate::root::inside(path).map_err(Error::Invalid)?;
            add(Role::Bind((*path).to_owned()), *fd);
        }
        if (fds.root.is_some() || !fds.binds.is_empty() || spec.tmp_bytes.is_some() || spec.proc) && !spec.namespaces.mount {
            return Err(Error::Invalid("a root, binds, /proc or /tmp of its own need a mount namespace".into()));
        }
        for (number, fd) in (0_u8..).zip(fds.stdio) {
            if let Some(fd) = fd {
                add(Role::Stdio(number), fd);
            }
        }
        fds.body.iter().for_each(|fd| add(Role::Body, *fd));

        let slot = lock(&self.shared.free_slots).pop().ok_or(Error::TooManyContainers(ring::SLOTS as usize))?;
        let slot = SlotLease { shared: self.shared.clone(), index: slot };
        if let Some(line) = self.shared.ring.slot(slot.index) {
            line.clear();
        }
        let request = Request::Start { spec: spec.clone(), slot: slot.index, roles };
        let (reply, mut sent) = lock(&self.shared.control).ask::<_, Reply>(&request, &handles, Duration::from_secs(10))?;
        match reply {
            Reply::Started { pid, received_ns, cloned_ns } => {
                let pidfd = sent.pop().ok_or_else(|| Error::Protocol("an answer without a pidfd".into()))?;
                Ok(Container { id: spec.id, pid, pidfd, slot, exit: None, requested_ns, received_ns, cloned_ns })
            }
            Reply::CloneFailed(errno) => Err(Error::Clone(io::Error::from_raw_os_error(errno))),
            Reply::Failed(text) => Err(Error::Protocol(text)),
            _ => Err(Error::Protocol("an unexpected answer".into())),
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It holds nothing that must be put in order.
        let _ = child.kill();
        let _ = child.wait();
    }
}

struct SlotLease {
    shared: Arc<Shared>,
    index: u32,
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        lock(&self.shared.free_slots).push(self.index);
    }
}

/// When the phases of a start happened, `CLOCK_MONOTONIC` in ns. Zero: not yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// `Zygote::start` was called.
    pub requested_ns: u64,
    /// The zygote read the request.
    pub received_ns: u64,
    /// clone3 returned in the zygote.
    pub cloned_ns: u64,
    /// The container's first instruction.
    pub first_ns: u64,
    /// Namespaces, root, groups, limits and filter are in place; the body starts.
    pub ready_ns: u64,
}

/// A container: a process in its own namespaces and groups. Dropping it kills and reaps it.
pub struct Container {
    id: u64,
    pid: i32,
    pidfd: OwnedFd,
    slot: SlotLease,
    exit: Option<Exit>,
    requested_ns: u64,
    received_ns: u64,
    cloned_ns: u64,
}

impl Container {
    /// The node's number for it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its process on the host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Phases so far. Needs no system call.
    #[must_use]
    pub fn timing(&self) -> Timing {
        use std::sync::atomic::Ordering::Relaxed;
        let slot = self.slot.shared.ring.slot(self.slot.index);
        Timing {
            requested_ns: self.requested_ns,
            received_ns: self.received_ns,
            cloned_ns: self.cloned_ns,
            first_ns: slot.map_or(0, |slot| slot.first_ns.load(Relaxed)),
            ready_ns: slot.map_or(0, |slot| slot.ready_ns.load(Relaxed)),
        }
    }

    /// Why its set-up failed, if it did.
    #[must_use]
    pub fn setup_error(&self) -> Option<Error> {
        use std::sync::atomic::Ordering::{Acquire, Relaxed};
        let slot = self.slot.shared.ring.slot(self.slot.index)?;
        if slot.status.load(Acquire) != ring::FAILED {
            return None;
        }
        let errno = i32::try_from(slot.errno.load(Relaxed)).unwrap_or(0);
        Some(Error::Setup { stage: Stage::from_u32(slot.stage.load(Relaxed)), source: io::Error::from_raw_os_error(errno) })
    }

    /// Wait until its body starts.
    ///
    /// # Errors
    /// If its set-up failed, if it was killed before, or at the deadline.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Timing> {
        let deadline = Instant::now() + patience;
        // Bounded by the deadline.
        loop {
            if let Some(error) = self.setup_error() {
                return Err(error);
            }
            if self.status() == ring::READY {
                return Ok(self.timing());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NotReady(patience));
            }
            if let Some(slot) = self.slot.shared.ring.slot(self.slot.index) {
                // Short waits: a container that is killed wakes nobody.
                let step = left.min(Duration::from_millis(5)).subsec_nanos().into();
                let step = rustix::thread::futex::Timespec { tv_sec: 0, tv_nsec: step };
                let _ = rustix::thread::futex::wait(&slot.status, rustix::thread::futex::Flags::empty(), ring::PENDING, Some(&step));
            }
            if self.status() == ring::PENDING && self.try_wait()?.is_some() && self.status() == ring::PENDING {
                return Err(Error::Setup { stage: Stage::Created, source: io::Error::other("it was killed before") });
            }
        }
    }

    fn status(&self) -> u32 {
        let slot = self.slot.shared.ring.slot(self.slot.index);
        slot.map_or(ring::PENDING, |slot| slot.status.load(std::sync::atomic::Ordering::Acquire))
    }

    /// Its exit, if it has ended. Reaps it.
    ///
    /// # Errors
    /// If the kernel's answer makes no sense (somebody else reaped it).
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        if self.exit.is_none() {
            self.exit = sys::wait(&self.pidfd, false).map_err(Error::os("reap a container"))?;
        }
        Ok(self.exit)
    }

    /// Wait for its end. `None` at the deadline.
    ///
    /// # Errors
    /// As [`Self::try_wait`].
    pub fn wait(&mut self, patience: Duration) -> Result<Option<Exit>> {
        if self.exit.is_none() && readable(&self.pidfd, patience)? {
            self.exit = sys::wait(&self.pidfd, true).map_err(Error::os("reap a container"))?;
        }
        Ok(self.exit)
    }

    /// Kill it, and with it everything in its pid namespace. Success also if it has ended.
    ///
    /// # Errors
    /// If the node may not signal it.
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Send it a signal. As pid 1 it gets only those that it handles, and SIGKILL and SIGSTOP.
    ///
    /// # Errors
    /// If the node may not signal it.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        sys::kill(&self.pidfd, signal).map_err(Error::os("signal a container"))
    }
}

/// How a container ended, for people and for metrics.
#[derive(Debug)]
pub enum Ending {
    /// Its body returned this code.
    Exited(i32),
    /// Its set-up failed.
    SetupFailed(Error),
    /// The out-of-memory killer took it; this was its limit.
    OutOfMemory(Option<u64>),
    /// It made a system call that its filter forbids.
    ForbiddenCall,
    /// A signal ended it: a kill from outside, or a fault of its own.
    Signal(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(crate::zygote::EXIT_PANIC) => write!(f, "its body panicked"),
            Self::Exited(code) => write!(f, "it exited with {code}"),
            Self::SetupFailed(error) => error.fmt(f),
            Self::OutOfMemory(Some(bytes)) => write!(f, "it ran out of its {} MB of memory", bytes >> 20),
            Self::OutOfMemory(None) => write!(f, "the machine ran out of memory, and the kernel chose it to end"),
            Self::ForbiddenCall => write!(
                f,
                "it made a system call that its filter forbids (host/container/seccomp/runner.json); the kernel's audit log says which"
            ),
            Self::Signal(libc::SIGKILL) => write!(f, "it was killed"),
            Self::Signal(signal) => write!(f, "signal {signal} ended it"),
        }
    }
}

impl Container {
    /// How it ended, if it has been reaped. `group`: the one that it ran in, before it is released.
    #[must_use]
    pub fn ending(&self, group: Option<&Group>) -> Option<Ending> {
        let exit = self.exit?;
        if let Some(error) = self.setup_error() {
            return Some(Ending::SetupFailed(error));
        }
        Some(match (exit.code, exit.signal) {
            (Some(code), _) => Ending::Exited(code),
            (None, Some(libc::SIGKILL)) => match group.filter(|group| group.was_oom_killed()) {
                Some(group) => Ending::OutOfMemory(group.limits().memory_bytes),
                None => Ending::Signal(libc::SIGKILL),
            },
            (None, Some(libc::SIGSYS)) => Ending::ForbiddenCall,
            (None, signal) => Ending::Signal(signal.unwrap_or(0)),
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.kill();
            let _ = self.wait(Duration::from_secs(2));
        }
    }
}
