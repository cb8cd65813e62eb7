//! Control groups, version 1 and 2, also both at once, also where only some controllers are to be had.
//!
//! A node owns one directory, `teemate/<node id>`, in each hierarchy; below it every container has its own group. Groups are made ahead
//! of need and used again: making, limiting and removing them stays off the path of starting a container. What does lie on that path is
//! one write per v1 hierarchy, by the container itself, and nothing for v2 (`CLONE_INTO_CGROUP`).
//!
//! The node's directories are locked (`flock`) while it lives. [`Cgroups::sweep`] removes those that no living node holds.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Error, Result};
use crate::sys::Exit;

/// Directory of all nodes in each hierarchy.
const PARENT: &str = "teemate";

/// What a group limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// Share of CPU time.
    Cpu,
    /// Memory, and the killer when it runs out.
    Memory,
    /// Number of processes and threads.
    Pids,
}

impl Controller {
    /// All that this crate uses.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Limits of one group. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU time per second of time: 1,500,000 is one and a half CPUs.
    pub cpu_us_per_s: Option<u64>,
    /// Bytes of memory; swap is off.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// What a group has used since it was acquired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes now.
    pub memory_bytes: Option<u64>,
    /// Most bytes at once. On v2 since the group was made, before Linux 6.12 it cannot be reset.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the out-of-memory killer took.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Periods in which the CPU limit stopped it.
    pub throttled_periods: Option<u64>,
}

/// Where the controllers of this machine are.
#[derive(Clone, Debug, Default)]
pub struct Detected {
    /// One entry for each usable hierarchy.
    pub hierarchies: Vec<Hierarchy>,
    /// What is missing, in sentences.
    pub missing: Vec<(Controller, String)>,
}

/// One mounted hierarchy and the place in it where this process may make groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// 1 or 2.
    pub version: u8,
    /// Directory below which `teemate` is made.
    pub base: PathBuf,
    /// Its controllers that this crate uses. May be empty for v2, whose groups can be killed as a whole.
    pub controllers: Vec<Controller>,
}

fn failed(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Cgroup { path, action, source }
}

/// Writable for this process, as the kernel sees it.
fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

fn words(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// `key value` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Mounts of `/proc/self/mountinfo` that matter: version, mount point, root inside the file system, options of the file system.
fn mounts(mountinfo: &str) -> Vec<(u8, PathBuf, String, String)> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<_>, Vec<_>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(root), Some(point), Some(kind)) = (left.get(3), left.get(4), right.first()) else { continue };
        let version = match *kind {
            "cgroup" => 1,
            "cgroup2" => 2,
            _ => continue,
        };
        found.push((version, PathBuf::from(point.replace("\\040", " ")), (*root).to_owned(), right.get(2).unwrap_or(&"").to_string()));
    }
    found
}

/// This process's path in the hierarchy: `/proc/self/cgroup`.
fn own_path(cgroup: &str, version: u8, controller: &str) -> String {
    let line = cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let fits = if version == 2 { number == "0" && names.is_empty() } else { names.split(',').any(|name| name == controller) };
        fits.then(|| path.to_owned())
    });
    line.unwrap_or_else(|| "/".into())
}

/// Enable a v2 controller for the groups below `base`. The kernel forbids that while processes live in `base` itself; where this process
/// is the only one (a delegated service or scope of its own), it moves into a child.
fn enable(base: &Path, controller: Controller) -> bool {
    let on = || fs::write(base.join("cgroup.subtree_control"), format!("+{}", controller.name()));
    match on() {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let me = std::process::id().to_string();
            let child = base.join("teemate-node");
            words(&base.join("cgroup.procs")) == [me.as_str()]
                && make_directory(&child).is_ok()
                && fs::write(child.join("cgroup.procs"), &me).is_ok()
                && on().is_ok()
        }
        Err(_) => false,
    }
}

impl Detected {
    /// Look at this machine.
    #[must_use]
    pub fn now() -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = mounts(&mountinfo);
        let mut detected = Self::default();
        let mut missing: Vec<Controller> = Vec::new();

        for controller in Controller::ALL {
            let mounted =
                mounts.iter().find(|(version, _, _, options)| *version == 1 && options.split(',').any(|o| o == controller.name()));
            let Some((_, point, root, _)) = mounted else {
                missing.push(controller);
                continue;
            };
            // Below the top where that is ours, else below our own group.
            let own = own_path(&cgroup, 1, controller.name());
            let own = point.join(own.strip_prefix(root.as_str()).unwrap_or(&own).trim_start_matches('/'));
            match [point.clone(), own].into_iter().find(|place| writable(place)) {
                Some(base) => match detected.hierarchies.iter_mut().find(|h| h.version == 1 && h.base == base) {
                    Some(hierarchy) => hierarchy.controllers.push(controller),
                    None => detected.hierarchies.push(Hierarchy { version: 1, base, controllers: vec![controller] }),
                },
                None => detected.missing.push((
                    controller,
                    format!(
                        "{} (cgroup v1) is not writable for this user: run the node as root, or let root delegate a group there",
                        point.display()
                    ),
                )),
            }
        }
        match mounts.iter().find(|(version, ..)| *version == 2) {
            Some((_, point, root, _)) => {
                let own = own_path(&cgroup, 2, "");
                let own = own.strip_prefix(root.as_str()).unwrap_or(&own).trim_start_matches('/').to_owned();
                detected.add_v2(point, &own, missing);
            }
            None => {
                for controller in missing {
                    detected.missing.push((controller, "no mounted hierarchy has it: mount cgroup2 at /sys/fs/cgroup".into()));
                }
            }
        }
        detected
    }

    fn add_v2(&mut self, point: &Path, own: &str, missing: Vec<Controller>) {
        // From the top down to our own group: the highest place where we may make groups and move processes.
        let mut places = vec![point.to_path_buf()];
        let mut place = point.to_path_buf();
        for part in own.split('/').filter(|part| !part.is_empty()) {
            place = place.join(part);
            places.push(place.clone());
        }
        let base = places.into_iter().find(|place| writable(place) && writable(&place.join("cgroup.procs")));
        let Some(base) = base else {
            for controller in missing {
                let text = "cgroup v2 has it, but no group there is delegated to this user: run the node as root, or as a systemd user service with Delegate=yes";
                self.missing.push((controller, text.into()));
            }
            return;
        };
        let (offered, enabled) = (words(&base.join("cgroup.controllers")), words(&base.join("cgroup.subtree_control")));
        let mut controllers = Vec::new();
        for controller in missing {
            let has = |list: &[String]| list.iter().any(|name| name == controller.name());
            if !has(&offered) {
                self.missing.push((
                    controller,
                    format!("{} does not offer it: enable it in the groups above (cgroup.subtree_control)", base.display()),
                ));
            } else if has(&enabled) || enable(&base, controller) {
                controllers.push(controller);
            } else {
                let text = "cannot be enabled below {}: processes live in that group itself; move them into a child, or start the node in a delegated group of its own";
                self.missing.push((controller, text.replace("{}", &base.display().to_string())));
            }
        }
        self.hierarchies.push(Hierarchy { version: 2, base, controllers });
    }

    /// Is this controller usable?
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.hierarchies.iter().any(|h| h.controllers.contains(&controller))
    }
}

/// A node's groups.
pub struct Cgroups {
    detected: Detected,
    /// The node's directory in each hierarchy, in the order of `detected.hierarchies`, held locked.
    homes: Vec<(PathBuf, OwnedFd)>,
    next: AtomicU64,
    idle: Mutex<Vec<Group>>,
}

/// The groups of one container: one directory in each hierarchy.
pub struct Group {
    name: String,
    places: Vec<Place>,
    limits: Limits,
    oom_kills_before: u64,
    throttled_before: u64,
    /// `cgroup.kill` was used on it. Linux (seen on 6.18) then kills, before its first instruction, every process that `CLONE_INTO_CGROUP`
    /// brings in from a group with another count of kills. Such a group is not used again.
    killed: AtomicBool,
    /// At a place that somebody else chose: never used again, and removed with the directories that were made for it.
    made_for: Option<Vec<PathBuf>>,
}

struct Place {
    version: u8,
    path: PathBuf,
    controllers: Vec<Controller>,
    /// v1: `tasks`, open for writing. v2: the directory.
    handle: OwnedFd,
}

impl Cgroups {
    /// What this machine offers. Changes nothing but, on v2, enabling controllers for groups below ours, for which this process may have
    /// to move into a child of its group.
    #[must_use]
    pub fn detect() -> Detected {
        Detected::now()
    }

    /// Make and lock this node's directories. Works also where `detected` has no hierarchy: then groups are empty shells without limits.
    ///
    /// # Errors
    /// If a directory cannot be made, or another living node has the same id.
    pub fn open(detected: Detected, node_id: &str) -> Result<Self> {
        let plain = !node_id.is_empty() && node_id.len() <= 64 && node_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !plain {
            return Err(Error::Invalid(format!("{node_id:?} is no node id: use letters, digits, - and _, at most 64")));
        }
        let mut homes = Vec::new();
        for hierarchy in &detected.hierarchies {
            homes.push(settle(hierarchy, node_id)?);
        }
        let cgroups = Self { detected, homes, next: AtomicU64::new(0), idle: Mutex::new(Vec::new()) };
        // A crashed node of the same id may have left groups.
        for (home, _) in &cgroups.homes {
            remove_children(home, Instant::now() + Duration::from_secs(5));
        }
        Ok(cgroups)
    }

    /// What was found when this was opened.
    #[must_use]
    pub fn detected(&self) -> &Detected {
        &self.detected
    }

    /// This node's directories.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.homes.iter().map(|(path, _)| path.as_path())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Group>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Groups that wait for a container.
    #[must_use]
    pub fn idle_count(&self) -> usize {
        self.idle().len()
    }

    /// Make groups until `count` are idle. For quiet moments.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn prepare(&self, count: usize) -> Result<()> {
        let missing = count.saturating_sub(self.idle_count());
        for _ in 0..missing {
            let group = self.make()?;
            self.idle().push(group);
        }
        Ok(())
    }

    /// A group without processes, with these limits.
    ///
    /// # Errors
    /// If none is idle and none can be made, or the limits cannot be set.
    pub fn acquire(&self, limits: &Limits) -> Result<Group> {
        let found = {
            let mut idle = self.idle();
            let same = idle.iter().rposition(|group| group.limits == *limits);
            match same {
                Some(index) => Some(idle.swap_remove(index)),
                None => idle.pop(),
            }
        };
        let mut group = match found {
            Some(group) => group,
            None => self.make()?,
        };
        group.set_limits(limits)?;
        Ok(group)
    }

    /// Take a group back after its container has been reaped with this exit (`None`: there was no container). What still runs in it is
    /// killed. Up to `keep` idle groups are kept; a group that was killed as a whole, or cannot be reset, is removed. Off the hot path: it
    /// reads and writes some files.
    ///
    /// # Errors
    /// If the group can be neither kept nor removed.
    pub fn release(&self, mut group: Group, exit: Option<&Exit>, keep: usize) -> Result<()> {
        let empty = group.is_empty() || group.kill_all(Duration::from_secs(2)).is_ok();
        // Whoever sent SIGKILL may have done it through `cgroup.kill`.
        if exit.is_some_and(|exit| exit.signal == Some(libc::SIGKILL)) && group.v2_directory().is_some() {
            group.killed.store(true, Ordering::Relaxed);
        }
        if empty && group.made_for.is_none() && !group.killed.load(Ordering::Relaxed) && self.idle_count() < keep && group.reset() {
            self.idle().push(group);
            return Ok(());
        }
        group.remove(Duration::from_secs(2))
    }

    fn make(&self) -> Result<Group> {
        let name = format!("c{}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut group = Group {
            name,
            places: Vec::new(),
            limits: Limits::default(),
            oom_kills_before: 0,
            throttled_before: 0,
            killed: AtomicBool::new(false),
            made_for: None,
        };
        for (hierarchy, (home, _)) in self.detected.hierarchies.iter().zip(&self.homes) {
            let path = home.join(&group.name);
            Self::add_place(&mut group, hierarchy, path)?;
        }
        Ok(group)
    }

    /// A group at a place that somebody else chose: a path below the top of each hierarchy. It is removed when it is released.
    ///
    /// # Errors
    /// If the path is none, is in use, or cannot be made; if the limits cannot be set.
    pub fn acquire_at(&self, place: &Path, limits: &Limits) -> Result<Group> {
        let parts: Option<Vec<_>> = place
            .components()
            .filter(|part| !matches!(part, std::path::Component::RootDir | std::path::Component::CurDir))
            .map(|part| if let std::path::Component::Normal(name) = part { Some(name) } else { None })
            .collect();
        let parts = parts.filter(|parts| !parts.is_empty() && parts.len() <= 32);
        let parts = parts.ok_or_else(|| Error::Invalid(format!("{} is no path of a control group", place.display())))?;
        let mut group = Group {
            name: place.display().to_string(),
            places: Vec::new(),
            limits: Limits::default(),
            oom_kills_before: 0,
            throttled_before: 0,
            killed: AtomicBool::new(false),
            made_for: Some(Vec::new()),
        };
        for hierarchy in &self.detected.hierarchies {
            let mut path = hierarchy.base.clone();
            for (index, part) in parts.iter().enumerate() {
                if hierarchy.version == 2 {
                    for controller in &hierarchy.controllers {
                        let file = path.join("cgroup.subtree_control");
                        fs::write(&file, format!("+{}", controller.name())).map_err(failed(file, "enable a controller in"))?;
                    }
                }
                path.push(part);
                let made = fs::create_dir(&path);
                match made {
                    Ok(()) if index + 1 < parts.len() => group.made_for.iter_mut().for_each(|list| list.push(path.clone())),
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    Err(error) => {
                        let _ = group.remove(Duration::from_millis(100));
                        return Err(failed(path, "create")(error));
                    }
                }
            }
            if !words(&path.join("cgroup.procs")).is_empty() {
                let _ = group.remove(Duration::from_millis(100));
                return Err(failed(path, "use")(ErrorKind::ResourceBusy.into()));
            }
            Self::add_place(&mut group, hierarchy, path)?;
        }
        group.set_limits(limits)?;
        Ok(group)
    }

    fn add_place(group: &mut Group, hierarchy: &Hierarchy, path: PathBuf) -> Result<()> {
        let made = make_directory(&path).and_then(|()| {
            if hierarchy.version == 1 {
                let file = path.join("tasks");
                rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(file, "open")(e.into()))
            } else {
                open_directory(&path)
            }
        });
        let handle = match made {
            Ok(handle) => handle,
            Err(error) => {
                let _ = fs::remove_dir(&path);
                let _ = group.clear(Duration::from_millis(100));
                return Err(error);
            }
        };
        if hierarchy.controllers.contains(&Controller::Memory) {
            // No swap: an enclave's runner should not wait for a disk, and what it handles should not reach one. Files that a kernel
            // without swap accounting lacks are no loss.
            let _ = fs::write(path.join(if hierarchy.version == 1 { "memory.swappiness" } else { "memory.swap.max" }), "0");
        }
        if hierarchy.version == 2 && hierarchy.controllers.contains(&Controller::Memory) {
            // A container is one unit: if one process of it must go, all go.
            let _ = fs::write(path.join("memory.oom.group"), "1");
        }
        group.places.push(Place { version: hierarchy.version, path, controllers: hierarchy.controllers.clone(), handle });
        Ok(())
    }

    /// Let go of the locks and leave everything as it is, as a crash would. For an orderly hand-over to another process, and for tests.
    pub fn abandon(mut self) {
        self.homes.clear();
        // Closes the groups' descriptors, removes nothing.
        self.idle().clear();
    }

    /// Remove what nodes left behind that are no more: their processes are killed, their groups removed. Returns what was removed.
    #[must_use]
    pub fn sweep(detected: &Detected) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        for hierarchy in &detected.hierarchies {
            let Ok(entries) = fs::read_dir(hierarchy.base.join(PARENT)) else { continue };
            for home in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
                let Ok(directory) = open_directory(&home) else { continue };
                if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
                    continue;
                }
                let deadline = Instant::now() + Duration::from_secs(5);
                remove_children(&home, deadline);
                if remove_directory(&home, deadline).is_ok() {
                    removed.push(home);
                }
            }
            // Fails while nodes are there, rightly.
            let _ = fs::remove_dir(hierarchy.base.join(PARENT));
        }
        removed
    }
}

/// Make and lock the node's directory in one hierarchy. Another node's sweep, or its end, may remove a directory just before it is locked:
/// then again.
fn settle(hierarchy: &Hierarchy, node_id: &str) -> Result<(PathBuf, OwnedFd)> {
    let parent = hierarchy.base.join(PARENT);
    let home = parent.join(node_id);
    let attempt = || -> Result<OwnedFd> {
        for directory in [&parent, &home] {
            make_directory(directory)?;
            if hierarchy.version == 2 {
                for controller in &hierarchy.controllers {
                    let file = directory.join("cgroup.subtree_control");
                    fs::write(&file, format!("+{}", controller.name())).map_err(failed(file, "enable a controller in"))?;
                }
            }
        }
        let lock = open_directory(&home)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed(&home, "lock it (does a node with this id run already?):")(e.into()))?;
        let (locked, named) = (rustix::fs::fstat(&lock), rustix::fs::stat(&home));
        match (locked, named) {
            (Ok(locked), Ok(named)) if locked.st_ino == named.st_ino => Ok(lock),
            _ => Err(failed(&home, "keep")(ErrorKind::NotFound.into())),
        }
    };
    const ATTEMPTS: usize = 10;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(Error::Cgroup { source, .. }) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.map(|lock| (home.clone(), lock)),
        }
    }
    attempt().map(|lock| (home.clone(), lock))
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        for group in self.idle.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = group.remove(Duration::from_secs(1));
        }
        for (home, _) in &self.homes {
            remove_children(home, deadline);
            let _ = remove_directory(home, deadline);
            // Fails while other nodes are there, rightly.
            if let Some(parent) = home.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

impl Group {
    /// Its name below the node's directories.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directories.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.path.as_path())
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn tasks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.places.iter().filter(|place| place.version == 1).map(|place| place.handle.as_fd())
    }

    pub(crate) fn v2_directory(&self) -> Option<BorrowedFd<'_>> {
        self.places.iter().find(|place| place.version == 2).map(|place| place.handle.as_fd())
    }

    fn place(&self, controller: Controller) -> Option<&Place> {
        self.places.iter().find(|place| place.controllers.contains(&controller))
    }

    /// The controller of a limit that these change, if this machine lacks it. [`Group::set_limits`] passes such a limit over.
    #[must_use]
    pub fn lacks(&self, limits: &Limits) -> Option<Controller> {
        let before = self.limits;
        let changes = [
            (Controller::Cpu, before.cpu_us_per_s != limits.cpu_us_per_s),
            (Controller::Memory, before.memory_bytes != limits.memory_bytes),
            (Controller::Pids, before.pids != limits.pids),
        ];
        changes.into_iter().find(|(controller, changes)| *changes && self.place(*controller).is_none()).map(|(controller, _)| controller)
    }

    /// Change its limits; what stays the same costs nothing. A controller that this machine lacks is passed over (see
    /// [`Detected::missing`]).
    ///
    /// # Errors
    /// If the kernel refuses a value.
    pub fn set_limits(&mut self, limits: &Limits) -> Result<()> {
        let before = self.limits;
        if before.cpu_us_per_s != limits.cpu_us_per_s
            && let Some(place) = self.place(Controller::Cpu)
        {
            // A tenth of a second is the kernel's default period. The kernel takes no quota below 1 ms.
            let quota = limits.cpu_us_per_s.map(|us| (us / 10).max(1_000));
            if place.version == 1 {
                place.write("cpu.cfs_quota_us", &quota.map_or_else(|| "-1".to_owned(), |us| us.to_string()))?;
            } else {
                place.write("cpu.max", &format!("{} 100000", quota.map_or_else(|| "max".to_owned(), |us| us.to_string())))?;
            }
        }
        if before.memory_bytes != limits.memory_bytes
            && let Some(place) = self.place(Controller::Memory)
        {
            if place.version == 1 {
                let value = limits.memory_bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
                // Memory plus swap may never be below memory, so their order depends on the direction.
                let both = place.path.join("memory.memsw.limit_in_bytes").exists();
                let grows = limits.memory_bytes.is_none_or(|new| before.memory_bytes.is_some_and(|old| new > old));
                if both && grows {
                    place.write("memory.memsw.limit_in_bytes", &value)?;
                }
                place.write("memory.limit_in_bytes", &value)?;
                if both && !grows {
                    place.write("memory.memsw.limit_in_bytes", &value)?;
                }
            } else {
                place.write("memory.max", &limits.memory_bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string()))?;
            }
        }
        if before.pids != limits.pids
            && let Some(place) = self.place(Controller::Pids)
        {
            place.write("pids.max", &limits.pids.map_or_else(|| "max".to_owned(), |pids| pids.to_string()))?;
        }
        self.limits = *limits;
        Ok(())
    }

    /// What it uses.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if let Some(place) = self.place(Controller::Memory) {
            let v1 = place.version == 1;
            stats.memory_bytes = place.number(if v1 { "memory.usage_in_bytes" } else { "memory.current" });
            stats.memory_peak_bytes = place.number(if v1 { "memory.max_usage_in_bytes" } else { "memory.peak" });
            stats.oom_kills = self.oom_kills().map(|kills| kills.saturating_sub(self.oom_kills_before));
        }
        stats.pids = self.place(Controller::Pids).and_then(|place| place.number("pids.current"));
        stats.throttled_periods = self.throttled().map(|periods| periods.saturating_sub(self.throttled_before));
        stats
    }

    fn oom_kills(&self) -> Option<u64> {
        let place = self.place(Controller::Memory)?;
        keyed(&place.path.join(if place.version == 1 { "memory.oom_control" } else { "memory.events" }), "oom_kill")
    }

    fn throttled(&self) -> Option<u64> {
        keyed(&self.place(Controller::Cpu)?.path.join("cpu.stat"), "nr_throttled")
    }

    /// Did the out-of-memory killer take a process since the group was acquired?
    #[must_use]
    pub fn was_oom_killed(&self) -> bool {
        self.oom_kills().is_some_and(|kills| kills > self.oom_kills_before)
    }

    /// Processes in it now.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> =
            self.places.iter().flat_map(|place| words(&place.path.join("cgroup.procs"))).filter_map(|word| word.parse().ok()).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// No process in any of its directories?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(|place| fs::read_to_string(place.path.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty()))
    }

    /// Kill everything in it and wait until it is empty. On v2 the group can take no container afterwards; give it back.
    ///
    /// # Errors
    /// If processes are left at the deadline.
    pub fn kill_all(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for place in &self.places {
            self.killed.fetch_or(place.version == 2, Ordering::Relaxed);
            kill_in(&place.path, deadline).map_err(failed(&place.path, "kill the processes in"))?;
        }
        Ok(())
    }

    /// Ready for the next container: counters are remembered, peaks set back.
    fn reset(&mut self) -> bool {
        self.oom_kills_before = self.oom_kills().unwrap_or(0);
        self.throttled_before = self.throttled().unwrap_or(0);
        match self.place(Controller::Memory) {
            Some(place) if place.version == 1 => {
                let peak = fs::write(place.path.join("memory.max_usage_in_bytes"), "0");
                // Pages that outlived the container (caches) would be charged to the next one.
                let left = place.number("memory.usage_in_bytes").unwrap_or(0);
                peak.is_ok() && (left < 1 << 20 || fs::write(place.path.join("memory.force_empty"), "0").is_ok())
            }
            Some(place) => place.number("memory.current").unwrap_or(0) < 1 << 20,
            None => true,
        }
    }

    /// Remove it. It must be empty.
    ///
    /// # Errors
    /// If a directory is still busy at the deadline.
    pub fn remove(mut self, patience: Duration) -> Result<()> {
        self.clear(patience)
    }

    fn clear(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut result = Ok(());
        for place in self.places.drain(..) {
            drop(place.handle);
            if let Err(error) = remove_directory(&place.path, deadline) {
                result = Err(error);
            }
        }
        // Fails while others have groups there, rightly.
        for directory in self.made_for.iter_mut().flat_map(|list| list.drain(..).rev()) {
            let _ = fs::remove_dir(directory);
        }
        result
    }

    /// Stop everything in it, or let it go on. False where the kernel has no freezer for it (v1 only).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn freeze(&self, stop: bool) -> Result<bool> {
        let Some(place) = self.places.iter().find(|place| place.version == 2) else { return Ok(false) };
        place.write("cgroup.freeze", if stop { "1" } else { "0" })?;
        Ok(true)
    }
}

impl Place {
    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(failed(path, "set a limit in"))
    }

    fn number(&self, file: &str) -> Option<u64> {
        number(&self.path.join(file))
    }
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(path, "create")(error)),
        _ => Ok(()),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(path, "open")(e.into()))
}

/// Kill until nothing is left, at most until the deadline.
fn kill_in(path: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        let pids: Vec<i32> = match fs::read_to_string(path.join("cgroup.procs")) {
            Ok(text) => text.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, format!("{} processes do not end", pids.len())));
        }
        // In one go where the kernel can (v2, 5.14), else one by one: new ones are met in the next round.
        if fs::write(path.join("cgroup.kill"), "1").is_err() {
            for pid in pids {
                // Zero stands for processes that we cannot see.
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Remove a group's directory; it may stay busy for a moment after its last process has ended.
fn remove_directory(path: &Path, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {}
            Err(error) => return Err(failed(path, "remove")(error)),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Kill and remove all groups directly below a node's directory.
fn remove_children(home: &Path, deadline: Instant) {
    let Ok(entries) = fs::read_dir(home) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let _ = kill_in(&path, deadline);
        let _ = remove_directory(&path, deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_in_mountinfo() {
        let text = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                    22 27 0:21 / /proc rw,relatime - proc proc rw\n";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0, found[0].3.as_str()), (1, "rw,memory"));
        assert_eq!((found[1].0, found[1].1.to_str()), (2, Some("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn own_paths() {
        let text = "9:name=systemd:/a\n8:cpu,cpuacct:/b\n4:memory:/c/d\n0::/e\n";
        assert_eq!(own_path(text, 1, "cpu"), "/b");
        assert_eq!(own_path(text, 1, "memory"), "/c/d");
        assert_eq!(own_path(text, 2, ""), "/e");
        assert_eq!(own_path(text, 1, "pids"), "/");
    }

    #[test]
    fn node_ids_are_names_not_paths() {
        for id in ["", "..", "a/b", "a b", &"x".repeat(65)] {
            assert!(Cgroups::open(Detected::default(), id).is_err(), "{id:?}");
        }
        assert!(Cgroups::open(Detected::default(), "node-1").is_ok());
    }

    #[test]
    fn without_any_hierarchy_groups_are_shells() {
        let cgroups = Cgroups::open(Detected::default(), "none").unwrap();
        let group = cgroups.acquire(&Limits { memory_bytes: Some(1), ..Limits::default() }).unwrap();
        assert_eq!(group.stats(), Stats::default());
        assert!(group.is_empty() && !group.was_oom_killed());
        cgroups.release(group, None, 1).unwrap();
        assert_eq!(cgroups.idle_count(), 1);
    }
}
