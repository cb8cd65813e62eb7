//! What node and zygote say to each other. One packet asks, one packet answers, over a `SOCK_SEQPACKET` pair; descriptors travel beside
//! the packet in the order of the roles that it lists.
//!
//! The zygote believes the node: they are one program in two processes. What a *container* can reach is only its own time-stamp slot,
//! and that only until its body starts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rlimit::Rlimit;

/// Version of this protocol; both ends refuse another one.
pub(crate) const VERSION: u32 = 1;
/// Largest packet. A socket's default buffer takes it.
pub(crate) const MAX_PACKET: usize = 128 * 1024;
/// Most descriptors in one packet (the kernel's own limit is 253).
pub(crate) const MAX_FDS: usize = 64;

/// Which namespaces a container gets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, missing_docs)]
pub struct Namespaces {
    pub pid: bool,
    pub mount: bool,
    pub uts: bool,
    pub ipc: bool,
    pub net: bool,
    pub user: bool,
    pub cgroup: bool,
}

impl Namespaces {
    /// pid, mount, uts, ipc, net and user: what an isolated container has.
    pub const ALL_SIX: Self = Self { pid: true, mount: true, uts: true, ipc: true, net: true, user: true, cgroup: false };
    /// None: a bare process.
    pub const NONE: Self = Self { pid: false, mount: false, uts: false, ipc: false, net: false, user: false, cgroup: false };
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::ALL_SIX
    }
}

/// Who the process is in its own user namespace. On the host it is a user of its own, whoever it is inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl User {
    /// The largest id: the one after it means "none" to the kernel (setresuid(2)).
    pub const MAX_ID: u32 = u32::MAX - 1;
}

/// Resource limits of the process itself (the group's limits are [`crate::cgroup::Limits`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Most open descriptors.
    pub open_files: u64,
    /// Largest core file. Zero: what an enclave's runner held must not reach a disk.
    pub core_bytes: u64,
    /// Largest file the container may write; `None` leaves it unlimited.
    pub file_bytes: Option<u64>,
    /// What somebody else chose. Such a limit holds instead of one of those above.
    pub chosen: Vec<Rlimit>,
}

impl Rlimits {
    /// Whether somebody else chose the limit of this resource.
    pub(crate) fn is_chosen(&self, resource: libc::c_int) -> bool {
        self.chosen.iter().any(|limit| limit.resource == resource)
    }
}

impl Default for Rlimits {
    fn default() -> Self {
        Self { open_files: 256, core_bytes: 0, file_bytes: None, chosen: Vec::new() }
    }
}

/// Which seccomp filter the container installs last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// The enclave runner's (`seccomp/runner.json`).
    #[default]
    Runner,
    /// That, and what a server needs (`seccomp/service.json`).
    Service,
    /// None: for programs of the baselines, which need arbitrary calls.
    None,
}

/// What a container is. Descriptors come beside it, see [`crate::node::Fds`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The node's own number for it; only carried.
    pub id: u64,
    /// Host name inside, at most 64 bytes.
    pub hostname: String,
    /// Its own namespaces.
    pub namespaces: Namespaces,
    /// Who it is in a user namespace of its own; without one it does not matter.
    pub user: User,
    /// Mount a `/proc` of its own pid namespace. Costs some 30 us; an enclave's runner does not need it.
    pub proc: bool,
    /// Mount a `/tmp` of its own with at most so many bytes.
    pub tmp_bytes: Option<u64>,
    /// Filter on system calls.
    pub filter: Filter,
    /// Limits of the process.
    pub rlimits: Rlimits,
    /// Handed to the body, opaque here.
    pub payload: Vec<u8>,
}

impl ContainerSpec {
    /// A container with all six namespaces and the runner's filter.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            hostname: format!("teemate-{id}"),
            namespaces: Namespaces::ALL_SIX,
            user: User::default(),
            proc: false,
            tmp_bytes: None,
            filter: Filter::Runner,
            rlimits: Rlimits::default(),
            payload: Vec::new(),
        }
    }
}

/// What a descriptor beside a start request is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// `tasks` of a v1 group, open for writing: the container moves itself.
    CgroupTasks,
    /// Directory of a v2 group, for `CLONE_INTO_CGROUP`.
    CgroupDir,
    /// Network namespace to join.
    Net,
    /// Ipc namespace to join.
    Ipc,
    /// Uts namespace to join.
    Uts,
    /// Detached mount tree to become the root.
    Root,
    /// Detached mount tree to attach at this path.
    Bind(String),
    /// Becomes descriptor 0, 1 or 2.
    Stdio(u8),
    /// For the body.
    Body,
}

/// How the zygote lays out the root that its containers inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootTemplate {
    /// A directory of the host as root, read-only. `None`: an empty file system with `/dev`, `/proc`, `/tmp` and the mount points below.
    /// A given directory must contain these already.
    pub directory: Option<String>,
    /// Read-only binds for every container: directory of the host, path inside. Missing directories of the host are an error.
    pub binds: Vec<(String, String)>,
    /// Symbolic links to create in an empty root: target, path inside.
    pub links: Vec<(String, String)>,
    /// Empty directories to create in an empty root, for the binds of single containers.
    pub mount_points: Vec<String>,
}

impl RootTemplate {
    /// Empty but for `/dev`, `/proc`, `/tmp` and the mount points `/data` and `/work`.
    #[must_use]
    pub fn runner() -> Self {
        Self { mount_points: vec!["/data".into(), "/work".into()], ..Self::default() }
    }

    /// The host's programs and libraries, read-only: for containers that run a command of the host (baselines).
    #[must_use]
    pub fn host_programs() -> Self {
        let mut template = Self::runner();
        for directory in ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt"] {
            match std::fs::symlink_metadata(directory) {
                Ok(meta) if meta.is_dir() => template.binds.push((directory.into(), directory.into())),
                Ok(meta) if meta.is_symlink() => {
                    if let Ok(target) = std::fs::read_link(directory) {
                        template.links.push((target.to_string_lossy().into_owned(), directory.into()));
                    }
                }
                _ => {}
            }
        }
        template
    }
}

/// First packet. Beside it: the ring of time stamps, the helper's socket, then the named descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub version: u32,
    pub root: RootTemplate,
    /// Containers of a privileged zygote get the host's user and group `uid_base + slot`.
    pub uid_base: u32,
    pub slots: u32,
    pub runner_filter: Vec<u64>,
    /// That of [`Filter::Service`].
    pub service_filter: Vec<u64>,
    pub names: Vec<String>,
}

/// Later packets to the zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Start { spec: ContainerSpec, slot: u32, roles: Vec<Role> },
    Configure(Vec<u8>),
}

/// The zygote's answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ready {
        version: u32,
        rootless: bool,
        notes: Vec<String>,
    },
    Failed(String),
    /// Beside it: the pidfd.
    Started {
        pid: i32,
        received_ns: u64,
        cloned_ns: u64,
    },
    CloneFailed(i32),
    Configured(std::result::Result<Vec<u8>, String>),
}

/// Packets to the zygote's helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum HelperRequest {
    /// Answer: a new network namespace with `lo` up.
    MakeNet,
    /// Beside it: a network namespace. Is it without sockets?
    IsNetIdle,
    /// Answer: a detached copy of the mount tree at this path.
    OpenTree { path: String, read_only: bool },
}

/// The helper's answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum HelperReply {
    /// Beside it: what was asked for.
    Made,
    Idle(bool),
    Failed(String),
}

/// What a starting container is doing. Kept in its time-stamp slot, so that a failure has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Nothing yet.
    Created = 0,
    /// Joining its control groups.
    Cgroup,
    /// Starting a session, setting its host name.
    Identity,
    /// Joining its network namespace.
    Net,
    /// Joining its ipc namespace.
    Ipc,
    /// Joining its uts namespace.
    Uts,
    /// Changing its root.
    Root,
    /// Mounting /proc, /tmp and its binds.
    Mounts,
    /// Its namespace of control groups.
    CgroupNamespace,
    /// Its limits.
    Rlimits,
    /// Joining its user namespace.
    User,
    /// Giving up capabilities.
    Capabilities,
    /// The body's own preparation.
    Prepare,
    /// Closing descriptors.
    Descriptors,
    /// Installing the seccomp filter.
    Filter,
    /// Following the node's death.
    Parent,
}

impl Stage {
    const ALL: [Self; 16] = [
        Self::Created,
        Self::Cgroup,
        Self::Identity,
        Self::Net,
        Self::Ipc,
        Self::Uts,
        Self::Root,
        Self::Mounts,
        Self::CgroupNamespace,
        Self::Rlimits,
        Self::User,
        Self::Capabilities,
        Self::Prepare,
        Self::Descriptors,
        Self::Filter,
        Self::Parent,
    ];

    pub(crate) fn from_u32(value: u32) -> Self {
        Self::ALL.get(value as usize).copied().unwrap_or(Self::Created)
    }

    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Cgroup => "; the group may have been removed, or the node may not move processes into it",
            Self::Root | Self::Mounts => {
                "; a mount point may be missing in the root, or this kernel forbids the mount to an unprivileged user"
            }
            Self::Net | Self::Ipc | Self::Uts => "; the file may be of a namespace of another kind, or the node may not join it",
            Self::User => "; user namespaces may be switched off (user.max_user_namespaces, AppArmor)",
            Self::Filter => "; this kernel may lack seccomp filters",
            _ => "",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "being created",
            Self::Cgroup => "joining its control groups",
            Self::Identity => "setting its session and host name",
            Self::Net => "joining its network namespace",
            Self::Ipc => "joining its ipc namespace",
            Self::Uts => "joining its uts namespace",
            Self::Root => "changing its root",
            Self::Mounts => "mounting its file systems",
            Self::CgroupNamespace => "entering its cgroup namespace",
            Self::Rlimits => "setting its limits",
            Self::User => "entering its user namespace",
            Self::Capabilities => "giving up capabilities",
            Self::Prepare => "preparing its body",
            Self::Descriptors => "closing descriptors",
            Self::Filter => "installing its seccomp filter",
            Self::Parent => "tying its life to the node's",
        })
    }
}
