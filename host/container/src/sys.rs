//! The system calls that no safe crate wraps. The crate's `unsafe` blocks are here and in [`crate::ring`]; nothing else needs any.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `CLOCK_MONOTONIC`, in nanoseconds: comparable between processes.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of [`clone_sibling`] this is.
pub(crate) enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The namespaces that clone3 creates.
pub(crate) fn namespace_flags(namespaces: crate::protocol::Namespaces) -> u64 {
    let mut flags = 0;
    for (wanted, flag) in [
        (namespaces.pid, libc::CLONE_NEWPID),
        (namespaces.mount, libc::CLONE_NEWNS),
        (namespaces.uts, libc::CLONE_NEWUTS),
        (namespaces.ipc, libc::CLONE_NEWIPC),
        (namespaces.net, libc::CLONE_NEWNET),
    ] {
        if wanted {
            flags |= flag as u64;
        }
    }
    flags
}

/// A copy of this process whose *parent* is this process's parent.
///
/// `tid` is where the C library keeps this thread's id (see [`thread_id_address`]); the kernel writes the child's there.
pub(crate) fn clone_sibling(flags: u64, cgroup: Option<BorrowedFd<'_>>, tid: u64) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: flags | libc::CLONE_PARENT as u64 | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        ..CloneArgs::default()
    };
    if tid != 0 {
        arguments.flags |= libc::CLONE_CHILD_SETTID as u64 | libc::CLONE_CHILD_CLEARTID as u64;
        arguments.child_tid = tid;
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(0);
    }
    // SAFETY: no CLONE_VM: the child is a copy, on a copy of this stack, as after fork(2). The calling process has one thread (the
    // contract of `zygote::serve`, which checks it), so no lock can be held by a thread that the copy lacks, and the child may use std.
    // `arguments` and `pidfd` outlive the call; `tid` is null or the C library's own word for the thread id.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArgs>()) };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the call succeeded with CLONE_PIDFD, so the kernel stored a fresh descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).unwrap_or(0), pidfd })
        }
    }
}

/// Plain fork for the zygote's helper. `true` in the child.
pub(crate) fn fork() -> io::Result<bool> {
    // SAFETY: the zygote has one thread (checked by `zygote::serve`), so the child may go on using std.
    let result = unsafe { libc::fork() };
    Ok(check(result.into())? == 0)
}

/// Where the C library keeps the thread's id, or 0 where the kernel does not tell (it needs `CONFIG_CHECKPOINT_RESTORE`).
pub(crate) fn thread_id_address() -> u64 {
    const PR_GET_TID_ADDRESS: libc::c_int = 40;
    let mut address: u64 = 0;
    // SAFETY: the kernel writes one pointer to the given place, which is a valid u64.
    let result = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut address) };
    if result == 0 { address } else { 0 }
}

/// End now: no destructors, no buffers. What a container's body does last.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(crate) const MOUNT_RDONLY: u64 = 1;
pub(crate) const MOUNT_NOSUID: u64 = 2;
pub(crate) const MOUNT_NODEV: u64 = 4;

/// Set attributes of the mount at `tree` (an open tree or a directory that is a mount's root), with its children if `recursive`.
pub(crate) fn mount_setattr(tree: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    const AT_EMPTY_PATH: libc::c_long = 0x1000;
    const AT_RECURSIVE: libc::c_long = 0x8000;
    const MS_PRIVATE: u64 = 1 << 18;
    let attr = MountAttr { attr_set: set, attr_clr: 0, propagation: MS_PRIVATE, userns_fd: 0 };
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` a structure of the given size; the kernel only reads both.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_fd().as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    };
    check(result).map(drop)
}

/// Close every descriptor but `keep` (sorted, ascending).
///
/// Only for a process that will never again use, nor drop, an owner of another descriptor: a container before its body runs.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut first: libc::c_uint = 0;
    for &fd in keep {
        let Ok(fd) = libc::c_uint::try_from(fd) else { continue };
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: closes descriptors of this process only. The owners that may still name them are forgotten by the caller's contract (see
    // `close_all_but`), so no descriptor is used or closed twice.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Make `fd` also known as `number`.
pub(crate) fn dup_to(fd: impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: `number` is 0, 1 or 2, which this crate treats as owned by the process as a whole, never by an `OwnedFd`.
    check(unsafe { libc::dup3(fd.as_fd().as_raw_fd(), number, 0) }.into()).map(drop)
}

/// Take descriptor `number`, which the program that started us left open for us.
pub(crate) fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number is harmless; it fails on one that is not open. The copy belongs to nobody else.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    let copy = RawFd::try_from(copy).map_err(io::Error::other)?;
    // SAFETY: fcntl just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Empty the bounding set. `last` is the kernel's highest capability.
pub(crate) fn empty_bounding_set(last: u32) -> io::Result<()> {
    for capability in 0..=last.min(63) {
        // SAFETY: prctl with plain numbers.
        check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }.into())?;
    }
    Ok(())
}

/// Root is no longer special: neither a change of user nor a program executed later brings a capability. Locked.
pub(crate) fn lock_capabilities() -> io::Result<()> {
    // NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS.
    const SECBITS: libc::c_ulong = 0xef;
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBITS, 0, 0, 0) }.into()).map(drop)
}

/// What remains of giving up capabilities after the last change of identity.
pub(crate) fn clear_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let data = [0_u32; 6];
    // SAFETY: version 3 of the call reads a header and two structures of three u32 each.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// This thread's user and group ids, all three of each, by the raw calls: the process has one thread.
pub(crate) fn become_ids(id: u32) -> io::Result<()> {
    // SAFETY: system calls with plain numbers. The raw calls change this thread only, and there is no other.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, id, id, id))?;
        check(libc::syscall(libc::SYS_setresuid, id, id, id))?;
    }
    Ok(())
}

/// Leave all supplementary groups.
pub(crate) fn leave_groups() -> io::Result<()> {
    // SAFETY: with a length of zero the pointer is not read.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) }).map(drop)
}

/// Stay traceable by who owns us. A change of user ids switches it off; the node's guard of the simulator attaches with `PTRACE_SEIZE`,
/// and `/proc/self` must belong to us for the id maps.
pub(crate) fn set_dumpable() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into()).map(drop)
}

/// Die when the thread that is our parent dies.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into()).map(drop)
}

/// Join the namespace behind `fd`.
pub(crate) fn setns(fd: impl AsFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the call changes only which namespaces this (only) thread is in; no memory is touched.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kind) }.into()).map(drop)
}

/// Leave the shared namespaces named by `flags` (`CLONE_NEW*` only).
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: only CLONE_NEW* flags are passed: neither memory nor descriptors are unshared.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Limit `resource`.
pub(crate) fn set_rlimit(resource: libc::c_int, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one structure.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>()) }).map(drop)
}

/// The hard limit of `resource`.
pub(crate) fn hard_limit(resource: libc::c_int) -> u64 {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one structure.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<libc::rlimit64>(), &raw mut limit) };
    if result == 0 { limit.rlim_max } else { 0 }
}

/// No program executed from here on gains privileges.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Install a seccomp filter on this thread. Needs [`no_new_privileges`] before.
pub(crate) fn install_filter(program: &[u64]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        filter: *const u64,
    }
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = Program { length, filter: program.as_ptr() };
    // SAFETY: a `sock_filter` is eight bytes in the layout that `seccomp::Compiled` stores in a u64; the kernel copies `length` of them
    // and verifies the program.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Does this kernel know seccomp's "kill process"? It came with the filter's other modern actions.
pub(crate) fn seccomp_available() -> bool {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    const KILL_PROCESS: u32 = 0x8000_0000;
    let action = KILL_PROCESS;
    // SAFETY: the kernel reads one u32.
    unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Bring the loop-back interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq` of 40 bytes, which `Request` is.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// How a process ended, and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// CPU time in user mode, us.
    pub user_us: u64,
    /// CPU time in the kernel, us.
    pub system_us: u64,
    /// Largest resident set, bytes. Shared pages, so the enclave's, are counted too.
    pub max_rss_bytes: u64,
}

/// Reap the child behind `pidfd`, or `None` if it still runs and `block` is false.
pub(crate) fn wait(pidfd: impl AsFd, block: bool) -> io::Result<Option<Exit>> {
    // SAFETY: both structures are plain data for which zero is a valid value.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let options = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: the kernel writes one siginfo and one rusage.
        let result =
            unsafe { libc::syscall(libc::SYS_waitid, libc::P_PIDFD, pidfd.as_fd().as_raw_fd(), &raw mut info, options, &raw mut usage) };
        match check(result) {
            Ok(_) => break,
            // Bounded by the number of signals that arrive.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: waitid filled the SIGCHLD part, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let exited = info.si_code == libc::CLD_EXITED;
    let us = |time: libc::timeval| u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0);
    Ok(Some(Exit {
        code: exited.then_some(status),
        signal: (!exited).then_some(status),
        user_us: us(usage.ru_utime),
        system_us: us(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }))
}

/// Send `signal` to the process behind `pidfd`. Success also if it has ended already.
pub(crate) fn kill(pidfd: impl AsFd, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: plain numbers and a null siginfo.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    match check(result) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Become the program behind `fd`. Returns only on failure.
pub(crate) fn execute_descriptor(fd: impl AsFd, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the path is a C string, both arrays end with a null pointer, and all strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Become another program. Returns only on failure.
pub(crate) fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer, and all strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Let the descriptor survive `execve`.
pub(crate) fn keep_over_exec(fd: impl AsFd) -> io::Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    Ok(())
}

/// Threads of this process.
pub(crate) fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count())
}
