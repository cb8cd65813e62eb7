//! The zygote: a small process with one thread that turns requests into containers by `clone3`, without `execve`.
//!
//! Whatever the zygote has mapped `MAP_SHARED` (the enclave, at its address) its containers inherit. Its containers are its *siblings*
//! (`CLONE_PARENT`): the node is their parent, waits for them, and loses none of them if the zygote dies.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::AssertUnwindSafe;

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::protocol::{ContainerSpec, Hello, HelperReply, HelperRequest, MAX_PACKET, Reply, Request, VERSION};
use crate::ring::Ring;
use crate::setup::{self, Failure, Parts, Surroundings};
use crate::sys::{self, Cloned};
use crate::{root, socket};

/// What a container runs.
///
/// One value lives in the zygote; each container works on its own copy, as after a fork. Descriptors that the value holds are closed in
/// the container: what a container needs comes with its start request, or is mapped.
pub trait Body {
    /// Once, in the zygote, before it leaves the host's file system: the descriptors that the node named at [`crate::node::Zygote::spawn`].
    ///
    /// # Errors
    /// A sentence for the node's user; the zygote ends.
    fn inherit(&mut self, descriptors: Vec<(String, OwnedFd)>) -> std::result::Result<(), String> {
        let _ = descriptors;
        Ok(())
    }

    /// In the zygote, whenever the node calls [`crate::node::Zygote::configure`]: for example, map an enclave for all later containers.
    ///
    /// # Errors
    /// A sentence, which the node gets.
    fn configure(&mut self, message: &[u8], descriptors: Vec<OwnedFd>) -> std::result::Result<Vec<u8>, String> {
        let _ = (message, descriptors);
        Err("this zygote's body takes no configuration".into())
    }

    /// In the container, already without privileges, but before descriptors are closed and the filter is installed.
    ///
    /// # Errors
    /// The container ends, and the node gets the error.
    fn prepare(&mut self, start: &Start) -> std::io::Result<()> {
        let _ = start;
        Ok(())
    }

    /// In the container. The value is its exit code.
    fn run(&mut self, start: Start) -> i32;
}

/// What a container was started with.
#[derive(Debug)]
pub struct Start {
    /// The node's number for the container.
    pub id: u64,
    /// The node's message for the body.
    pub payload: Vec<u8>,
    /// The descriptors for the body, in the order in which the node gave them.
    pub descriptors: Vec<OwnedFd>,
}

/// Exit code of a container whose set-up failed; the reason is in its time-stamp slot.
pub const EXIT_SETUP: i32 = 125;
/// Exit code of a container whose body panicked.
pub const EXIT_PANIC: i32 = 126;

/// The control socket that [`crate::node::Zygote::spawn`] leaves as standard input. Call it first thing in `main`.
///
/// # Errors
/// If standard input is closed.
pub fn control_socket() -> Result<OwnedFd> {
    let socket =
        sys::take_inherited(0).map_err(Error::os("take the control socket from standard input; the node starts this program, not you"))?;
    Ok(socket)
}

/// Serve start requests until the node closes its end. Call it from a process with one thread.
///
/// # Errors
/// If the process cannot become a zygote. The node gets the same message.
pub fn serve(control: OwnedFd, mut body: impl Body) -> Result<()> {
    let mut buffer = vec![0; MAX_PACKET];
    let Some((hello, mut fds)) = socket::receive::<Hello>(&control, &mut buffer).map_err(Error::os("read the node's first message"))?
    else {
        return Ok(());
    };
    if hello.version != VERSION {
        let text = format!("version {} here, {} there", VERSION, hello.version);
        socket::send(&control, &Reply::Failed(text.clone()), &[]).map_err(Error::os("answer the node"))?;
        return Err(Error::Protocol(text));
    }
    let prepared = if fds.len() == hello.names.len() + 2 {
        let named = fds.split_off(2);
        become_zygote(&hello, fds, named, &control, &mut body)
    } else {
        Err("the first message lacks descriptors".into())
    };
    match prepared {
        Ok((ring, surroundings)) => {
            let ready = Reply::Ready { version: VERSION, rootless: surroundings.rootless, notes: Vec::new() };
            socket::send(&control, &ready, &[]).map_err(Error::os("answer the node"))?;
            requests(&control, ring, &surroundings, &mut body, &mut buffer)
        }
        Err(text) => {
            let _ = socket::send(&control, &Reply::Failed(text.clone()), &[]);
            Err(Error::ZygoteSetup(text))
        }
    }
}

fn become_zygote(
    hello: &Hello,
    fds: Vec<OwnedFd>,
    named: Vec<OwnedFd>,
    control: &OwnedFd,
    body: &mut impl Body,
) -> std::result::Result<(Ring, Surroundings), String> {
    let step = |what: &'static str| move |error: std::io::Error| format!("cannot {what}: {error}");
    if sys::thread_count() != 1 {
        return Err("the zygote's process has more than one thread; start none before serve()".into());
    }
    let [ring, helper]: [OwnedFd; 2] = fds.try_into().map_err(|_| "the first message lacks descriptors")?;
    let ring = Ring::map(&ring).map_err(step("map the ring of time stamps"))?;
    sys::die_with_parent().map_err(step("follow the node's death"))?;
    if socket::is_hung_up(control) {
        return Err("the node has gone".into());
    }
    // A new session: a terminal's Ctrl-C is the node's business. Fails harmlessly for a group leader.
    let _ = rustix::process::setsid();

    let rootless = !has_sys_admin();
    if rootless {
        become_root_of_own()?;
    }
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let null = open("/dev/null", OFlags::RDWR).map_err(|e| step("open /dev/null")(e.into()))?;
    let proc = open("/proc", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| step("open /proc")(e.into()))?;
    let last_capability =
        std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(40);
    sys::dup_to(&null, 0).and_then(|()| sys::dup_to(&null, 1)).map_err(step("set standard input and output"))?;
    root::leave_mounts().map_err(step("leave the host's mount namespace"))?;

    body.inherit(hello.names.iter().cloned().zip(named).collect())?;

    if sys::fork().map_err(step("start the helper"))? {
        let _ = sys::die_with_parent();
        serve_helper(&helper, rootless);
        sys::exit_now(0);
    }
    drop(helper);
    // The helper keeps the one with the host's mounts.
    sys::unshare(libc::CLONE_NEWNS).map_err(step("leave the helper's mount namespace"))?;
    root::build(&hello.root, rootless)?;

    let surroundings = Surroundings {
        rootless,
        uid_base: hello.uid_base,
        last_capability,
        open_files_hard: sys::hard_limit(libc::RLIMIT_NOFILE as i32),
        null,
        proc,
        runner_filter: hello.runner_filter.clone(),
        service_filter: hello.service_filter.clone(),
    };
    Ok((ring, surroundings))
}

fn has_sys_admin() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// A user namespace of our own in which we are root, so that all that follows is as it is for root.
fn become_root_of_own() -> std::result::Result<(), String> {
    // The ids before the namespace: inside, they read as "nobody" until the maps are written.
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(libc::CLONE_NEWUSER).map_err(|error| {
        format!(
            "neither CAP_SYS_ADMIN nor a user namespace is to be had ({error}): run the node as root, or allow unprivileged user \
             namespaces (user.max_user_namespaces; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    })?;
    for (file, text) in [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))] {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|error| format!("cannot write /proc/self/{file}: {error}"))?;
    }
    Ok(())
}

fn requests(control: &OwnedFd, ring: Ring, surroundings: &Surroundings, body: &mut impl Body, buffer: &mut [u8]) -> Result<()> {
    let tid = sys::thread_id_address();
    let answer = |reply: &Reply, fds: &[BorrowedFd<'_>]| socket::send(control, reply, fds).map_err(Error::os("answer the node"));
    // Ends when the node closes its end.
    loop {
        let Some((request, fds)) = socket::receive::<Request>(control, buffer).map_err(Error::os("read the node's request"))? else {
            return Ok(());
        };
        let received_ns = sys::monotonic_ns();
        match request {
            Request::Configure(message) => answer(&Reply::Configured(body.configure(&message, fds)), &[])?,
            Request::Start { spec, slot, roles } => {
                let Some(parts) = Parts::sort(roles, fds).filter(|_| ring.slot(slot).is_some()) else {
                    answer(&Reply::Failed("a start request lacks descriptors".into()), &[])?;
                    continue;
                };
                let flags = sys::namespace_flags(parts.new_namespaces(spec.namespaces));
                match sys::clone_sibling(flags, parts.group.as_ref().map(AsFd::as_fd), tid) {
                    Ok(Cloned::Child) => contain(spec, parts, slot, control, ring, surroundings, body),
                    Ok(Cloned::Parent { pid, pidfd }) => {
                        let cloned_ns = sys::monotonic_ns();
                        answer(&Reply::Started { pid, received_ns, cloned_ns }, &[pidfd.as_fd()])?;
                    }
                    Err(error) => answer(&Reply::CloneFailed(error.raw_os_error().unwrap_or(0)), &[])?,
                }
            }
        }
    }
}

/// The container's side of the clone.
fn contain(
    spec: ContainerSpec,
    parts: Parts,
    slot_index: u32,
    control: &OwnedFd,
    ring: Ring,
    surroundings: &Surroundings,
    body: &mut impl Body,
) -> ! {
    let first_ns = sys::monotonic_ns();
    let Some(slot) = ring.slot(slot_index) else { sys::exit_now(EXIT_SETUP) };
    slot.first_ns.store(first_ns, std::sync::atomic::Ordering::Relaxed);
    let fail = |Failure(stage, error): Failure| -> ! {
        slot.fail(stage, error.raw_os_error().unwrap_or(libc::EIO));
        sys::exit_now(EXIT_SETUP)
    };
    if let Err(failure) = setup::enter(&spec, &parts, slot_index, control.as_fd(), surroundings) {
        fail(failure);
    }
    let mut parts = std::mem::ManuallyDrop::new(parts);
    let mut start = Start { id: spec.id, payload: Vec::new(), descriptors: std::mem::take(&mut parts.body) };
    let mut spec = spec;
    start.payload = std::mem::take(&mut spec.payload);
    if let Err(error) = body.prepare(&start) {
        fail(Failure(crate::protocol::Stage::Prepare, error));
    }
    // `keep_only` reads the body's descriptors from the parts.
    parts.body = std::mem::take(&mut start.descriptors);
    if let Err(failure) = setup::keep_only(&parts, surroundings) {
        fail(failure);
    }
    start.descriptors = std::mem::take(&mut parts.body);
    if let Err(failure) = setup::lock_down(&spec, surroundings, slot) {
        fail(failure);
    }
    // From here on the container has no way to other containers' slots.
    drop(ring);
    let code = std::panic::catch_unwind(AssertUnwindSafe(|| body.run(start))).unwrap_or(EXIT_PANIC);
    sys::exit_now(code)
}

/// The helper keeps the host's mounts and makes what pools need, so that the zygote never does slow work between two requests.
fn serve_helper(helper: &OwnedFd, rootless: bool) {
    let mut buffer = vec![0; MAX_PACKET];
    // Rootless there is no way back into the host's network namespace; one of our own is home then.
    if rootless && sys::unshare(libc::CLONE_NEWNET).is_err() {
        return;
    }
    let Ok(home) = rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else { return };
    // Ends when the node closes its end.
    while let Ok(Some((request, fds))) = socket::receive::<HelperRequest>(helper, &mut buffer) {
        let made = match request {
            HelperRequest::MakeNet => in_other_net(&home, || {
                sys::unshare(libc::CLONE_NEWNET)?;
                sys::loopback_up()?;
                Ok(rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
            })
            .map(Some),
            HelperRequest::OpenTree { path, read_only } => root::detached(&path, read_only).map(Some),
            HelperRequest::IsNetIdle => {
                let idle = fds.first().is_some_and(|net| {
                    in_other_net(&home, || {
                        sys::setns(net, libc::CLONE_NEWNET)?;
                        std::fs::read_to_string("/proc/self/net/sockstat")
                    })
                    .is_ok_and(|text| is_idle(&text))
                });
                if socket::send(helper, &HelperReply::Idle(idle), &[]).is_err() {
                    return;
                }
                continue;
            }
        };
        let sent = match made {
            Ok(Some(fd)) => socket::send(helper, &HelperReply::Made, &[fd.as_fd()]),
            Ok(None) => socket::send(helper, &HelperReply::Made, &[]),
            Err(error) => socket::send(helper, &HelperReply::Failed(error.to_string()), &[]),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn in_other_net<T>(home: &OwnedFd, work: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    let result = work();
    sys::setns(home, libc::CLONE_NEWNET)?;
    result
}

/// No socket, no connection that lingers: the text is `/proc/net/sockstat`.
fn is_idle(sockstat: &str) -> bool {
    let number = |line: &str, name: &str| -> Option<u64> {
        let mut words = sockstat.lines().find(|l| l.starts_with(line))?.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse().ok()
    };
    number("sockets:", "used") == Some(0) && number("TCP:", "inuse") == Some(0) && number("TCP:", "tw") == Some(0)
}

#[cfg(test)]
mod tests {
    use super::is_idle;

    #[test]
    fn a_namespace_with_sockets_is_not_idle() {
        let text =
            |used, inuse, tw| format!("sockets: used {used}\nTCP: inuse {inuse} orphan 0 tw {tw} alloc 7 mem 1\nUDP: inuse 0 mem 0\n");
        assert!(is_idle(&text(0, 0, 0)));
        assert!(!is_idle(&text(1, 0, 0)));
        assert!(!is_idle(&text(0, 1, 0)));
        assert!(!is_idle(&text(0, 0, 1)));
        assert!(!is_idle(""));
    }
}
