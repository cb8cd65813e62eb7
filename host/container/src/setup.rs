//! From a fresh clone to a container: what the child does before its body runs, in this order, and why the order.
//!
//! Everything up to the user namespace happens as the zygote's user (root, on the host or in the zygote's own user namespace), so the
//! container's namespaces belong to the zygote's user namespace: nothing inside the container, whatever it gains in its own user
//! namespace, has a say over its mounts, network, host name or pids. That also lets it join a ready network namespace directly.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::protocol::{ContainerSpec, Filter, Namespaces, Role, Stage};
use crate::ring::Slot;
use crate::{root, sys};

/// What the zygote knows and every container needs.
pub(crate) struct Surroundings {
    pub rootless: bool,
    pub uid_base: u32,
    pub last_capability: u32,
    pub open_files_hard: u64,
    pub null: OwnedFd,
    /// The host's `/proc`, for the id maps.
    pub proc: OwnedFd,
    pub runner_filter: Vec<u64>,
    pub service_filter: Vec<u64>,
}

/// The descriptors of a request, by role.
#[derive(Default)]
pub(crate) struct Parts {
    pub tasks: Vec<OwnedFd>,
    pub group: Option<OwnedFd>,
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    pub root: Option<OwnedFd>,
    pub binds: Vec<(String, OwnedFd)>,
    pub stdio: Vec<(i32, OwnedFd)>,
    pub body: Vec<OwnedFd>,
}

impl Parts {
    pub(crate) fn sort(roles: Vec<Role>, fds: Vec<OwnedFd>) -> Option<Self> {
        if roles.len() != fds.len() {
            return None;
        }
        let mut parts = Self::default();
        for (role, fd) in roles.into_iter().zip(fds) {
            match role {
                Role::CgroupTasks => parts.tasks.push(fd),
                Role::CgroupDir => parts.group = Some(fd),
                Role::Net => parts.net = Some(fd),
                Role::Ipc => parts.ipc = Some(fd),
                Role::Uts => parts.uts = Some(fd),
                Role::Root => parts.root = Some(fd),
                Role::Bind(path) => parts.binds.push((path, fd)),
                Role::Stdio(number) => parts.stdio.push((i32::from(number.min(2)), fd)),
                Role::Body => parts.body.push(fd),
            }
        }
        Some(parts)
    }

    /// Which of the wanted namespaces are made, and not joined.
    pub(crate) fn new_namespaces(&self, wanted: Namespaces) -> Namespaces {
        Namespaces {
            net: wanted.net && self.net.is_none(),
            ipc: wanted.ipc && self.ipc.is_none(),
            uts: wanted.uts && self.uts.is_none(),
            ..wanted
        }
    }
}

/// A failure and where it happened.
pub(crate) struct Failure(pub Stage, pub io::Error);

trait During<T> {
    fn during(self, stage: Stage) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure(stage, error.into()))
    }
}

/// Everything that needs privileges.
pub(crate) fn enter(
    spec: &ContainerSpec,
    parts: &Parts,
    slot_index: u32,
    control: BorrowedFd<'_>,
    surroundings: &Surroundings,
) -> Result<(), Failure> {
    // First of all, so that all that follows is charged to the container. A thread that moves *itself* through a v1 `tasks` file takes
    // no lock on thread groups; moving it from outside does, and waits for a grace period (5-18 ms) now and then.
    for tasks in &parts.tasks {
        rustix::io::write(tasks, b"0").during(Stage::Cgroup)?;
    }

    rustix::process::setsid().during(Stage::Identity)?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    if let Some(uts) = &parts.uts {
        // With the host name of those that are in it already.
        sys::setns(uts, libc::CLONE_NEWUTS).during(Stage::Uts)?;
    } else if spec.namespaces.uts {
        rustix::system::sethostname(spec.hostname.as_bytes()).during(Stage::Identity)?;
    }

    if let Some(net) = &parts.net {
        sys::setns(net, libc::CLONE_NEWNET).during(Stage::Net)?;
    } else if spec.namespaces.net {
        sys::loopback_up().during(Stage::Net)?;
    }

    if let Some(ipc) = &parts.ipc {
        sys::setns(ipc, libc::CLONE_NEWIPC).during(Stage::Ipc)?;
    }

    if spec.namespaces.mount {
        mounts(spec, parts)?;
    }
    if spec.namespaces.cgroup {
        // Not by clone3: the namespace's root is the group that the process is in at that moment.
        sys::unshare(libc::CLONE_NEWCGROUP).during(Stage::CgroupNamespace)?;
    }

    let open_files = spec.rlimits.open_files.min(surroundings.open_files_hard);
    let own = [
        (libc::RLIMIT_NOFILE as i32, Some(open_files)),
        (libc::RLIMIT_CORE as i32, Some(spec.rlimits.core_bytes)),
        (libc::RLIMIT_FSIZE as i32, spec.rlimits.file_bytes),
    ];
    // A chosen one comes last: these steps need descriptors and memory, of which it may leave none.
    for (resource, value) in own.into_iter().filter(|(resource, _)| !spec.rlimits.is_chosen(*resource)) {
        if let Some(value) = value {
            sys::set_rlimit(resource, value, value).during(Stage::Rlimits)?;
        }
    }

    become_user(spec, slot_index, surroundings)?;

    // A change of user forgets both of these.
    sys::set_dumpable().during(Stage::Parent)?;
    sys::die_with_parent().during(Stage::Parent)?;
    // The node may have died before the line above: then its end of the zygote's socket is closed already.
    if crate::socket::is_hung_up(control) {
        return Err(Failure(Stage::Parent, io::Error::from_raw_os_error(libc::EPIPE)));
    }
    Ok(())
}

fn mounts(spec: &ContainerSpec, parts: &Parts) -> Result<(), Failure> {
    // Before the root changes: unprivileged, it takes the template's hidden proc to be allowed another.
    let proc = if spec.proc && spec.namespaces.pid { Some(root::proc().during(Stage::Mounts)?) } else { None };
    if let Some(tree) = &parts.root {
        let dev = rustix::mount::open_tree(
            CWD,
            "/dev",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
        )
        .during(Stage::Root)?;
        root::attach(tree, "/mnt").during(Stage::Root)?;
        rustix::process::chdir("/mnt").during(Stage::Root)?;
        root::attach(&dev, "dev").during(Stage::Root)?;
        root::pivot_here().during(Stage::Root)?;
    }
    if let Some(proc) = proc {
        root::attach(proc, "/proc").during(Stage::Mounts)?;
    }
    if let Some(bytes) = spec.tmp_bytes {
        root::attach(root::tmpfs(bytes, "1777").during(Stage::Mounts)?, "/tmp").during(Stage::Mounts)?;
    }
    for (path, tree) in &parts.binds {
        root::attach(tree, path).during(Stage::Mounts)?;
    }
    Ok(())
}

fn become_user(spec: &ContainerSpec, slot_index: u32, surroundings: &Surroundings) -> Result<(), Failure> {
    // Where setgroups is denied (rootless) there is nobody else's group to leave.
    match sys::leave_groups() {
        Err(error) if !surroundings.rootless => return Err(Failure(Stage::User, error)),
        _ => {}
    }
    let host_id = surroundings.uid_base.saturating_add(slot_index);
    if spec.namespaces.user {
        // An unprivileged user may map itself, so nobody outside has to write the maps and nobody waits for anybody. Rootless there is
        // only one id to be.
        let id = if surroundings.rootless { 0 } else { host_id };
        if !surroundings.rootless {
            sys::become_ids(host_id).during(Stage::User)?;
            sys::set_dumpable().during(Stage::User)?;
        }
        sys::unshare(libc::CLONE_NEWUSER).during(Stage::User)?;
        let (uids, gids) = (format!("{} {id} 1", spec.user.uid), format!("{} {id} 1", spec.user.gid));
        for (file, text) in [("self/setgroups", "deny"), ("self/uid_map", &uids), ("self/gid_map", &gids)] {
            let file = rustix::fs::openat(&surroundings.proc, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).during(Stage::User)?;
            rustix::io::write(&file, text.as_bytes()).during(Stage::User)?;
        }
        limit_capabilities(spec, surroundings)?;
    } else {
        limit_capabilities(spec, surroundings)?;
        if !surroundings.rootless {
            sys::become_ids(host_id).during(Stage::User)?;
        }
    }
    sys::clear_capabilities().during(Stage::Capabilities)
}

fn limit_capabilities(spec: &ContainerSpec, surroundings: &Surroundings) -> Result<(), Failure> {
    // The bounding set matters to `execve` only, and no filter here allows that: 41 calls (20 us) less.
    if spec.filter == Filter::None {
        sys::empty_bounding_set(surroundings.last_capability).during(Stage::Capabilities)?;
    }
    sys::lock_capabilities().during(Stage::Capabilities)
}

/// No descriptor but 0, 1, 2 and the body's. The caller must not drop an owner of any other descriptor afterwards.
pub(crate) fn keep_only(parts: &Parts, surroundings: &Surroundings) -> Result<(), Failure> {
    for number in 0..3 {
        let fd = parts.stdio.iter().find(|(wanted, _)| *wanted == number).map_or(surroundings.null.as_fd(), |(_, fd)| fd.as_fd());
        sys::dup_to(fd, number).during(Stage::Descriptors)?;
    }
    let mut keep = vec![0, 1, 2];
    keep.extend(parts.body.iter().map(AsRawFd::as_raw_fd));
    keep.sort_unstable();
    sys::close_all_but(&keep).during(Stage::Descriptors)
}

/// The last step.
pub(crate) fn lock_down(spec: &ContainerSpec, surroundings: &Surroundings, slot: &Slot) -> Result<(), Failure> {
    for limit in &spec.rlimits.chosen {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).during(Stage::Rlimits)?;
    }
    sys::no_new_privileges().during(Stage::Filter)?;
    let filter = match spec.filter {
        Filter::Runner => Some(&surroundings.runner_filter),
        Filter::Service => Some(&surroundings.service_filter),
        Filter::None => None,
    };
    if let Some(filter) = filter {
        sys::install_filter(filter).during(Stage::Filter)?;
    }
    slot.ready_ns.store(sys::monotonic_ns(), std::sync::atomic::Ordering::Relaxed);
    slot.finish(crate::ring::READY);
    Ok(())
}
