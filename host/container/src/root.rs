//! The root that containers see.
//!
//! The zygote builds it once and makes it its *own* root. A container's mount namespace is a copy of the zygote's, so a container starts
//! in its finished, read-only root: per container nothing is left to do but what differs (`/proc`, `/tmp`, single binds). The copy is
//! cheap because the zygote has cut its namespace down to these few mounts; a copy of the host's would cost by the number of its mounts,
//! and so would detaching them again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};

use crate::protocol::RootTemplate;
use crate::sys::{self, MOUNT_NODEV, MOUNT_NOSUID, MOUNT_RDONLY};

/// The harmless devices, with their numbers.
const DEVICES: [(&str, u32, u32); 4] = [("null", 1, 3), ("zero", 1, 5), ("random", 1, 8), ("urandom", 1, 9)];

/// A message that names the path.
fn at(path: &str, action: &str, error: impl Into<io::Error>) -> String {
    format!("cannot {action} {path}: {}", error.into())
}

/// A detached copy of the mounts at `path`.
pub(crate) fn detached(path: &str, read_only: bool) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // With children: in a rootless mount namespace the host's mounts are locked together, and a part of them cannot be taken.
    let tree = open_tree(CWD, path, flags | OpenTreeFlags::AT_RECURSIVE)?;
    if read_only {
        sys::mount_setattr(&tree, MOUNT_RDONLY | MOUNT_NOSUID | MOUNT_NODEV, true)?;
    }
    Ok(tree)
}

/// A new, detached tmpfs.
pub(crate) fn tmpfs(bytes: u64, mode: &str) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "size", bytes.to_string())?;
    fsconfig_set_string(&fs, "mode", mode)?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)
}

/// A new, detached proc of the caller's pid namespace.
pub(crate) fn proc() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// Attach a detached tree at `path`.
pub(crate) fn attach(tree: impl AsFd, path: &str) -> rustix::io::Result<()> {
    move_mount(tree.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Make the current directory the root and let go of the old one.
pub(crate) fn pivot_here() -> rustix::io::Result<()> {
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one.
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// A path inside, made relative to the current directory, without any way out.
pub(crate) fn inside(path: &str) -> Result<String, String> {
    let relative = path.trim_start_matches('/');
    let plain = Path::new(relative).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if relative.is_empty() || !plain || !path.starts_with('/') {
        return Err(format!("{path:?} is no path inside a container: it must be absolute, without . and .."));
    }
    Ok(relative.to_owned())
}

/// The zygote's own mount namespace becomes what containers shall see. `rootless`: the zygote is root only in a user namespace.
pub(crate) fn build(template: &RootTemplate, rootless: bool) -> Result<(), String> {
    // Sources are taken before anything is covered.
    let mut binds = Vec::new();
    for (source, path) in &template.binds {
        binds.push((detached(source, true).map_err(|e| at(source, "take", e))?, path.clone()));
    }
    let mut devices = Vec::new();
    if rootless {
        for (name, _, _) in DEVICES {
            let path = format!("/dev/{name}");
            devices.push((name, detached(&path, false).map_err(|e| at(&path, "take", e))?));
        }
    }
    let host_proc = if rootless { Some(detached("/proc", false).map_err(|e| at("/proc", "take", e))?) } else { None };

    let root = match &template.directory {
        Some(directory) => detached(directory, false).map_err(|e| at(directory, "take", e))?,
        None => tmpfs(1 << 20, "0755").map_err(|e| at("a tmpfs", "make", e))?,
    };
    // Any directory serves to attach it: this namespace is ours, and what it covers goes away with the old root.
    let place = ["/mnt", "/tmp", "/proc"].into_iter().find(|path| Path::new(path).is_dir()).unwrap_or("/");
    attach(&root, place).map_err(|e| at(place, "attach the root at", e))?;
    rustix::process::chdir(place).map_err(|e| at(place, "enter", e))?;

    if template.directory.is_none() {
        fill(template, &devices, rootless)?;
    }
    for (tree, path) in &binds {
        let path = inside(path)?;
        if template.directory.is_none() {
            std::fs::create_dir_all(&path).map_err(|e| at(&path, "create", e))?;
        }
        attach(tree, &path).map_err(|e| at(&path, "attach a bind at", e))?;
    }
    if let Some(host_proc) = host_proc {
        // The kernel lets an unprivileged user mount a proc only where one is visible in full. It is: below an empty cover, so that a
        // container without a proc of its own does not see the host's.
        let cover = open_tree(CWD, "proc", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|e| at("/proc", "cover", e))?;
        attach(&host_proc, "proc").map_err(|e| at("/proc", "attach a proc at", e))?;
        attach(&cover, "proc").map_err(|e| at("/proc", "cover", e))?;
    }
    sys::mount_setattr(&root, MOUNT_RDONLY | MOUNT_NOSUID, false).map_err(|e| at("/", "make read-only:", e))?;
    pivot_here().map_err(|e| at(place, "change the root to", e))
}

fn fill(template: &RootTemplate, devices: &[(&str, OwnedFd)], rootless: bool) -> Result<(), String> {
    for directory in ["dev", "proc", "tmp", "mnt"] {
        std::fs::create_dir(directory).map_err(|e| at(directory, "create", e))?;
    }
    for point in &template.mount_points {
        let path = inside(point)?;
        std::fs::create_dir_all(&path).map_err(|e| at(point, "create", e))?;
    }
    for (target, path) in &template.links {
        let path = inside(path)?;
        std::os::unix::fs::symlink(target, &path).map_err(|e| at(&path, "link", e))?;
    }
    let everybody = Mode::from_raw_mode(0o666);
    if rootless {
        for (name, tree) in devices {
            let path = format!("dev/{name}");
            rustix::fs::open(&path, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, everybody).map_err(|e| at(&path, "create", e))?;
            attach(tree, &path).map_err(|e| at(&path, "attach a device at", e))?;
        }
    } else {
        // Nodes instead of binds: each mount less makes each container's start a little shorter.
        for (name, major, minor) in DEVICES {
            let path = format!("dev/{name}");
            rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, everybody, rustix::fs::makedev(major, minor))
                .map_err(|e| at(&path, "create", e))?;
            // The umask does not apply to chmod.
            rustix::fs::chmodat(CWD, &path, everybody, AtFlags::empty()).map_err(|e| at(&path, "open up", e))?;
        }
    }
    Ok(())
}

/// No mount of ours reaches the host, none of the host's reaches us later.
pub(crate) fn leave_mounts() -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}
