//! Containers as the node sees them: real processes, real namespaces, real control groups.
//!
//! As root everything runs. Without root the same tests run rootless; those that cannot say `skipped: <reason>`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use teemate_container::cgroup::{Cgroups, Controller, Group, Limits};
use teemate_container::command::Command;
use teemate_container::pool::{NetPool, NetPoolConfig};
use teemate_container::protocol::Stage;
use teemate_container::{
    Container, ContainerSpec, Ending, Error, Exit, Fds, Filter, Namespaces, Rlimit, RootTemplate, User, Zygote, ZygoteConfig,
};

const PATIENCE: Duration = Duration::from_secs(20);
const ALL_KINDS: [&str; 6] = ["pid", "mnt", "uts", "ipc", "net", "user"];

/// Tests that count processes, mounts or namespaces of the whole machine must not meet each other.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: OnceLock<Mutex<()>> = OnceLock::new();
    LOCK.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn zygote() -> Zygote {
    zygote_with(ZygoteConfig::default())
}

fn zygote_with(config: ZygoteConfig) -> Zygote {
    Zygote::spawn(&probe(), Vec::new(), &config).unwrap()
}

/// The zygote for tests. The variable is set where this test runs as another user.
fn probe() -> std::path::PathBuf {
    std::env::var_os("TEEMATE_PROBE").map_or_else(|| env!("CARGO_BIN_EXE_container-probe").into(), Into::into)
}

/// Can this user have containers at all?
fn usable(test: &str) -> bool {
    match Zygote::spawn(&probe(), Vec::new(), &ZygoteConfig::default()) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {test}: {error}");
            false
        }
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

fn spec(payload: &str) -> ContainerSpec {
    let mut spec = ContainerSpec::new(7);
    spec.payload = payload.into();
    spec.filter = Filter::None;
    spec
}

/// Run to the end; exit and what it wrote to its descriptor.
fn run(zygote: &Zygote, spec: &ContainerSpec, fds: Fds<'_>) -> (Exit, String) {
    let (read, write) = pipe();
    let fds = Fds { body: fds.body.into_iter().chain([write.as_fd()]).collect(), ..fds };
    let mut container = zygote.start(spec, &fds).unwrap();
    drop(fds);
    drop(write);
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).unwrap();
    let exit = container.wait(PATIENCE).unwrap().expect("it ends");
    if let Some(error) = container.setup_error() {
        panic!("{error}");
    }
    (exit, text)
}

struct Report(Vec<(String, String)>);

impl Report {
    fn of(zygote: &Zygote, spec: &ContainerSpec, fds: Fds<'_>) -> Self {
        let (exit, text) = run(zygote, spec, fds);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        Self(text.lines().filter_map(|line| line.split_once(' ')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).unwrap_or_else(|| panic!("no {key}"))
    }

    fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
    }
}

fn own_namespaces() -> BTreeMap<&'static str, String> {
    ALL_KINDS.into_iter().map(|kind| (kind, std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string())).collect()
}

fn with_proc(payload: &str) -> ContainerSpec {
    ContainerSpec { proc: true, ..spec(payload) }
}

#[test]
fn each_namespace_is_its_own() {
    if !usable("each_namespace_is_its_own") {
        return;
    }
    let zygote = zygote();
    let nets = NetPool::new(zygote.helper(), NetPoolConfig::default()).unwrap();
    // Both alive at once: a network namespace of the pool may be used again later.
    let (one, other) = (nets.take().unwrap(), nets.take().unwrap());
    let first = Report::of(&zygote, &with_proc("report"), Fds { net: Some(one.as_fd()), ..Fds::default() });
    let second = Report::of(&zygote, &with_proc("report"), Fds { net: Some(other.as_fd()), ..Fds::default() });
    let third = Report::of(&zygote, &with_proc("report"), Fds::default());
    let host = own_namespaces();
    for kind in ALL_KINDS {
        assert_ne!(first.get(kind), host[kind], "{kind}");
        assert_ne!(third.get(kind), host[kind], "{kind}");
    }
    assert_ne!(first.get("net"), second.get("net"));
    assert_eq!(first.get("self"), "1");
    assert_eq!(first.get("hostname"), "teemate-7");

    // Side by side: numbers of namespaces are used again once one is gone, so compare living ones.
    let spec = spec("sleep 5000");
    let (a, b) = (zygote.start(&spec, &Fds::default()).unwrap(), zygote.start(&spec, &Fds::default()).unwrap());
    let (mut a, mut b) = (a, b);
    a.wait_ready(PATIENCE).unwrap();
    b.wait_ready(PATIENCE).unwrap();
    for kind in ALL_KINDS {
        let link = |c: &Container| std::fs::read_link(format!("/proc/{}/ns/{kind}", c.pid())).unwrap();
        assert_ne!(link(&a), link(&b), "{kind}");
    }
}

#[test]
fn namespaces_of_another_container_are_joined() {
    if !usable("namespaces_of_another_container_are_joined") {
        return;
    }
    let zygote = zygote();
    if zygote.is_rootless() {
        println!("SKIPPED: the namespaces of others are joined by root alone");
        return;
    }
    let of_pod = ContainerSpec { hostname: "pod".into(), ..spec("sleep 5000") };
    let mut first = zygote.start(&of_pod, &Fds::default()).unwrap();
    first.wait_ready(PATIENCE).unwrap();
    let file = |kind: &str| std::fs::File::open(format!("/proc/{}/ns/{kind}", first.pid())).unwrap();
    let (ipc, uts) = (file("ipc"), file("uts"));
    let joining = || Fds { ipc: Some(ipc.as_fd()), uts: Some(uts.as_fd()), ..Fds::default() };
    let report = Report::of(&zygote, &with_proc("report"), joining());
    for kind in ALL_KINDS {
        let link = std::fs::read_link(format!("/proc/{}/ns/{kind}", first.pid())).unwrap().display().to_string();
        assert_eq!(report.get(kind) == link, ["ipc", "uts"].contains(&kind), "{kind}: {} and {link}", report.get(kind));
    }
    assert_eq!(report.get("hostname"), "pod");
    // One of another kind.
    let mut wrong = zygote.start(&spec("exit 0"), &Fds { ipc: Some(uts.as_fd()), ..Fds::default() }).unwrap();
    let error = wrong.wait_ready(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Setup { stage: Stage::Ipc, .. }) && error.to_string().contains("another kind"), "{error}");
}

#[test]
fn only_the_wanted_namespaces() {
    if !usable("only_the_wanted_namespaces") {
        return;
    }
    let zygote = zygote();
    let namespaces = Namespaces { mount: true, pid: true, ..Namespaces::NONE };
    let report = Report::of(&zygote, &ContainerSpec { namespaces, ..with_proc("report") }, Fds::default());
    let host = own_namespaces();
    for kind in ["uts", "ipc", "net"] {
        assert_eq!(report.get(kind), host[kind], "{kind}");
    }
    assert_ne!(report.get("mnt"), host["mnt"]);
    assert_ne!(report.get("pid"), host["pid"]);
}

#[test]
fn nothing_is_left_open_or_allowed() {
    if !usable("nothing_is_left_open_or_allowed") {
        return;
    }
    // A descriptor of this process without CLOEXEC, as a careless library leaves it.
    let careless = std::fs::File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    let zygote = zygote();
    let report = Report::of(&zygote, &with_proc("report"), Fds::default());
    let fds: Vec<&str> = report.get("fds").split(' ').collect();
    let mine = report.get("mine");
    assert_eq!(fds.len(), 4, "{fds:?}");
    for fd in fds {
        let (number, target) = fd.split_once('=').unwrap();
        match number {
            "0" | "1" | "2" => assert_eq!(target, "/dev/null"),
            number => assert!(number == mine && target.starts_with("pipe:"), "{fd}"),
        }
    }
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(report.get(set), "0000000000000000", "{set}");
    }
    assert_eq!(report.get("NoNewPrivs:"), "1");
    assert_eq!(report.get("Threads:"), "1");
    assert_eq!(report.get("Uid:"), "0 0 0 0");
    assert!(!report.all("map").iter().any(|map| map.contains("teemate-starts")), "the ring of other containers is not mapped");
    let limit = |name: &str| report.all("limit").into_iter().find(|l| l.starts_with(name)).map(str::to_owned).unwrap();
    assert!(limit("Max core file size").split_whitespace().nth(4) == Some("0"), "{}", limit("Max core file size"));
    assert!(limit("Max open files").split_whitespace().nth(3) == Some("256"), "{}", limit("Max open files"));
    drop(careless);
}

#[test]
fn containers_have_different_users_on_the_host() {
    let _alone = alone();
    if !usable("containers_have_different_users_on_the_host") {
        return;
    }
    let zygote = zygote();
    if zygote.is_rootless() {
        println!("skipped: containers_have_different_users_on_the_host: rootless, all containers are this user on the host");
        return;
    }
    for user in [true, false] {
        let mut spec = spec("sleep 5000");
        spec.namespaces.user = user;
        let mut alive = Vec::new();
        for _ in 0..2 {
            let mut container = zygote.start(&spec, &Fds::default()).unwrap();
            container.wait_ready(PATIENCE).unwrap();
            alive.push(container);
        }
        let uid = |c: &Container| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
            status.lines().find(|l| l.starts_with("Uid:")).unwrap().split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
        };
        assert_ne!(uid(&alive[0]), uid(&alive[1]));
        assert!(uid(&alive[0]) >= teemate_container::node::DEFAULT_UID_BASE);
    }
}

#[test]
fn inside_it_is_who_it_shall_be() {
    if !usable("inside_it_is_who_it_shall_be") {
        return;
    }
    let zygote = zygote();
    for user in [User { uid: 1000, gid: 3000 }, User { uid: User::MAX_ID, gid: 0 }] {
        let report = Report::of(&zygote, &ContainerSpec { user, ..with_proc("report") }, Fds::default());
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
        assert_eq!((report.get("Uid:"), report.get("Gid:")), (four(user.uid).as_str(), four(user.gid).as_str()));
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            assert_eq!(report.get(set), "0000000000000000", "{set} of {user:?}");
        }
    }
    let nobody = ContainerSpec { user: User { uid: u32::MAX, gid: 0 }, ..spec("exit 0") };
    assert!(matches!(zygote.start(&nobody, &Fds::default()), Err(Error::Invalid(_))));
}

#[test]
fn chosen_limits_hold_instead_of_the_usual_ones() {
    if !usable("chosen_limits_hold_instead_of_the_usual_ones") {
        return;
    }
    let zygote = zygote();
    let mut chosen = with_proc("report");
    chosen.rlimits.chosen =
        Rlimit::all([("RLIMIT_NOFILE", 64, 512), ("RLIMIT_STACK", 1 << 20, 2 << 20), ("RLIMIT_CPU", 100, 200)]).unwrap();
    let report = Report::of(&zygote, &chosen, Fds::default());
    let limit = |name: &str| {
        let line = report.all("limit").into_iter().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(|number| number.parse().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!(limit("Max open files"), [64, 512]);
    assert_eq!(limit("Max stack size"), [1 << 20, 2 << 20]);
    assert_eq!(limit("Max cpu time"), [100, 200]);
    assert_eq!(limit("Max core file size"), [0, 0], "nobody chose this one");
    // Without any descriptor left it starts all the same.
    chosen.rlimits.chosen = Rlimit::all([("RLIMIT_NOFILE", 0, 0)]).unwrap();
    chosen.payload = b"exit 3".to_vec();
    assert_eq!(run(&zygote, &chosen, Fds::default()).0.code, Some(3));
}

#[test]
fn the_root_is_small_and_read_only() {
    if !usable("the_root_is_small_and_read_only") {
        return;
    }
    let zygote = zygote();
    let report = Report::of(&zygote, &with_proc("report"), Fds::default());
    assert_eq!(report.get("root"), "data dev mnt proc tmp work");
    let mounts = report.all("mount");
    let expected = if zygote.is_rootless() { 12 } else { 2 };
    assert!(mounts.len() <= expected, "{mounts:#?}");
    assert!(!mounts.iter().any(|m| m.contains("/sys/fs/cgroup") || m.contains(" /usr ")), "{mounts:#?}");
    for path in ["/x", "/dev/x", "/data/x", "/tmp/x"] {
        let (exit, _) = run(&zygote, &spec(&format!("write {path}")), Fds::default());
        assert!(matches!(exit.code, Some(libc::EROFS | libc::EACCES)), "{path}: {exit:?}");
    }
    // Its own /tmp, of limited size, is writable.
    let (exit, _) = run(&zygote, &ContainerSpec { tmp_bytes: Some(1 << 20), ..spec("write /tmp/x") }, Fds::default());
    assert_eq!(exit.code, Some(0));
    // Without a /proc of its own it sees none, in particular not the host's.
    let (exit, _) = run(&zygote, &spec("read /proc/version"), Fds::default());
    assert_eq!(exit.code, Some(libc::ENOENT));
    for path in ["/dev/null", "/dev/zero"] {
        let (exit, _) = run(&zygote, &spec(&format!("write {path}")), Fds::default());
        assert_eq!(exit.code, Some(0), "{path}");
    }
}

#[test]
fn a_directory_of_the_host_is_bound_read_only() {
    if !usable("a_directory_of_the_host_is_bound_read_only") {
        return;
    }
    let zygote = zygote();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hello"), "from the host").unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let tree = || zygote.helper().tree(directory.path(), true).unwrap();
    let (first, second) = (tree(), tree());
    let (exit, text) = run(&zygote, &spec("read /data/hello"), Fds { binds: vec![("/data", first.as_fd())], ..Fds::default() });
    assert_eq!((exit.code, text.as_str()), (Some(0), "from the host"));
    let (exit, _) = run(&zygote, &spec("write /data/x"), Fds { binds: vec![("/data", second.as_fd())], ..Fds::default() });
    assert_eq!(exit.code, Some(libc::EROFS));
    // The next one sees nothing of it.
    let (exit, _) = run(&zygote, &spec("read /data/hello"), Fds::default());
    assert_eq!(exit.code, Some(libc::ENOENT));
}

#[test]
fn another_root_for_one_container() {
    if !usable("another_root_for_one_container") {
        return;
    }
    let zygote = zygote();
    let directory = tempfile::tempdir().unwrap();
    for name in ["dev", "proc", "tmp"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(directory.path().join("mark"), "its own").unwrap();
    let tree = zygote.helper().tree(directory.path(), true).unwrap();
    let report = Report::of(&zygote, &with_proc("report"), Fds { root: Some(tree.as_fd()), ..Fds::default() });
    assert_eq!(report.get("root"), "dev mark proc tmp");
    drop(tree);
}

#[test]
fn the_filter_stops_what_is_not_listed() {
    if !usable("the_filter_stops_what_is_not_listed") {
        return;
    }
    let zygote = zygote();
    let filtered = |payload: &str| ContainerSpec { filter: Filter::Runner, ..with_proc(payload) };
    for payload in ["forbidden", "connect 127.0.0.1:1", "write /tmp/x", "{not a command}"] {
        let mut spec = filtered(payload);
        if payload.starts_with('{') {
            spec.payload = Command { program: "/bin/true".into(), ..Command::default() }.to_payload().unwrap();
        }
        let (exit, _) = run(&zygote, &spec, Fds::default());
        assert_eq!((exit.code, exit.signal), (None, Some(libc::SIGSYS)), "{payload}");
    }
    // What a runner does is allowed: threads, memory, sleep, reading.
    for payload in ["exit 3", "sleep 10", "allocate 4", "threads 3"] {
        let (exit, text) = run(&zygote, &filtered(payload), Fds::default());
        assert_eq!(exit.code, Some(if payload == "exit 3" { 3 } else { 0 }), "{payload} {exit:?} {text}");
    }
}

#[test]
fn time_stamps_are_in_order() {
    if !usable("time_stamps_are_in_order") {
        return;
    }
    let zygote = zygote();
    let mut container = zygote.start(&spec("exit 0"), &Fds::default()).unwrap();
    let t = container.wait_ready(PATIENCE).unwrap();
    assert!(t.requested_ns <= t.received_ns && t.received_ns <= t.first_ns && t.first_ns <= t.ready_ns, "{t:?}");
    assert!(t.received_ns <= t.cloned_ns);
    assert_eq!(container.wait(PATIENCE).unwrap().unwrap().code, Some(0));
    drop(container);
    assert_eq!(zygote.containers(), 0);
}

#[test]
fn failures_have_names() {
    if !usable("failures_have_names") {
        return;
    }
    let zygote = zygote();
    // A mount point that is not there.
    let directory = tempfile::tempdir().unwrap();
    let tree = zygote.helper().tree(directory.path(), true).unwrap();
    let mut container = zygote.start(&spec("exit 0"), &Fds { binds: vec![("/nowhere", tree.as_fd())], ..Fds::default() }).unwrap();
    let error = container.wait_ready(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Setup { stage: Stage::Mounts, .. }), "{error}");
    assert!(error.to_string().contains("mounting its file systems"), "{error}");

    assert!(matches!(zygote.helper().tree(Path::new("/does/not/exist"), true), Err(Error::Helper { .. })));
    let long = ContainerSpec { hostname: "x".repeat(65), ..spec("exit 0") };
    assert!(matches!(zygote.start(&long, &Fds::default()), Err(Error::Invalid(_))));
    let large = ContainerSpec { payload: vec![0; 200 << 10], ..spec("exit 0") };
    assert!(matches!(zygote.start(&large, &Fds::default()), Err(Error::RequestTooLarge { .. })));
    for path in ["data", "/../data", "/"] {
        assert!(matches!(zygote.start(&spec(""), &Fds { binds: vec![(path, tree.as_fd())], ..Fds::default() }), Err(Error::Invalid(_))));
    }
    // None of that has harmed the zygote.
    let (exit, _) = run(&zygote, &spec("exit 5"), Fds::default());
    assert_eq!(exit.code, Some(5));
    let (exit, _) = run(&zygote, &spec("panic"), Fds::default());
    assert_eq!(exit.code, Some(teemate_container::zygote::EXIT_PANIC));
    assert_eq!(zygote.containers(), 1, "the failed one is still held");

    let missing = Zygote::spawn(Path::new("/no/such/zygote"), Vec::new(), &ZygoteConfig::default());
    assert!(matches!(missing, Err(Error::Spawn { .. })));
    // A program that is no zygote.
    let wrong = Zygote::spawn(Path::new("/bin/true"), Vec::new(), &ZygoteConfig::default());
    assert!(matches!(wrong, Err(Error::ZygoteGone(_))));
    let root = RootTemplate { directory: Some("/does/not/exist".into()), ..RootTemplate::default() };
    let bad = Zygote::spawn(&probe(), Vec::new(), &ZygoteConfig { root, ..ZygoteConfig::default() });
    assert!(matches!(bad, Err(Error::ZygoteSetup(ref text)) if text.contains("/does/not/exist")));
}

#[test]
fn configuration_reaches_later_containers() {
    if !usable("configuration_reaches_later_containers") {
        return;
    }
    let (read, _write) = pipe();
    let program = probe();
    let zygote = Zygote::spawn(&program, vec![("device".into(), read)], &ZygoteConfig::default()).unwrap();
    let (other, _keep) = pipe();
    let answer = zygote.configure(b"enclave at ten", &[other.as_fd()], PATIENCE).unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), "enclave at ten with 1, inherited device");
    assert_eq!(run(&zygote, &spec("configured"), Fds::default()).1, "enclave at ten");
    assert!(matches!(zygote.configure(b"fail", &[], PATIENCE), Err(Error::ZygoteSetup(text)) if text == "asked to fail"));
}

#[test]
fn what_the_zygote_maps_its_containers_share() {
    if !usable("what_the_zygote_maps_its_containers_share") {
        return;
    }
    let zygote = zygote();
    let memory = rustix::fs::memfd_create("enclave", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 1 << 20).unwrap();
    zygote.configure(b"map", &[memory.as_fd()], PATIENCE).unwrap();
    for filter in [Filter::None, Filter::Runner] {
        for _ in 0..5 {
            let (exit, _) = run(&zygote, &ContainerSpec { filter, ..spec("increment") }, Fds::default());
            assert_eq!(exit.code, Some(0));
        }
    }
    let mut counter = [0; 4];
    rustix::io::pread(&memory, &mut counter, 0).unwrap();
    assert_eq!(u32::from_ne_bytes(counter), 10);
    // The mapping, without the descriptor.
    let report = Report::of(&zygote, &with_proc("report"), Fds::default());
    assert!(report.all("map").iter().any(|map| map.starts_with("100000000000-") && map.contains("memfd:enclave")));
    assert!(!report.get("fds").contains("memfd"), "{}", report.get("fds"));
}

#[test]
fn the_node_may_trace_a_container() {
    if !usable("the_node_may_trace_a_container") {
        return;
    }
    let zygote = zygote();
    let mut container = zygote.start(&spec("sleep 5000"), &Fds::default()).unwrap();
    container.wait_ready(PATIENCE).unwrap();
    // SAFETY: attaches to our own child; no memory of this process is involved.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, container.pid(), 0, 0) };
    assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
    container.kill().unwrap();
    assert_eq!(container.wait(PATIENCE).unwrap().unwrap().signal, Some(libc::SIGKILL));
}

#[test]
fn endings_have_names() {
    if !usable("endings_have_names") {
        return;
    }
    let zygote = zygote();
    let ending = |spec: &ContainerSpec, group: Option<&Group>| {
        let mut container = zygote.start(spec, &Fds { group, ..Fds::default() }).unwrap();
        container.wait(PATIENCE).unwrap().unwrap();
        container.ending(group).unwrap()
    };
    assert!(matches!(ending(&spec("exit 3"), None), Ending::Exited(3)));
    assert!(matches!(ending(&ContainerSpec { filter: Filter::Runner, ..spec("forbidden") }, None), Ending::ForbiddenCall));
    assert_eq!(ending(&spec("panic"), None).to_string(), "its body panicked");
    let Some(cgroups) = groups("endings", &[Controller::Memory]) else { return };
    let group = cgroups.acquire(&Limits { memory_bytes: Some(16 << 20), ..Limits::default() }).unwrap();
    assert_eq!(ending(&spec("allocate 64"), Some(&group)).to_string(), "it ran out of its 16 MB of memory");
    cgroups.release(group, None, 0).unwrap();
}

#[test]
fn the_doctor_has_an_answer_for_everything() {
    let report = teemate_container::doctor::Report::now();
    println!("{report}");
    assert!(report.items.len() >= 13);
    assert!(report.items.iter().all(|item| item.found || !item.advice.is_empty()), "{report}");
}

#[test]
fn a_command_of_the_host_runs() {
    if !usable("a_command_of_the_host_runs") {
        return;
    }
    let zygote = zygote_with(ZygoteConfig { root: RootTemplate::host_programs(), ..ZygoteConfig::default() });
    let (read, write) = pipe();
    let command = Command {
        program: "/bin/sh".into(),
        arguments: vec![
            "-c".into(),
            "echo $$ $WHO $(hostname 2>/dev/null || cat /proc/sys/kernel/hostname); ls -l /proc/self/fd | wc -l".into(),
        ],
        environment: vec![("WHO".into(), "me".into()), ("PATH".into(), "/usr/bin:/bin".into())],
        ..Command::default()
    };
    let spec = ContainerSpec { payload: command.to_payload().unwrap(), ..with_proc("") };
    let mut container = zygote.start(&spec, &Fds { stdio: [None, Some(write.as_fd()), None], ..Fds::default() }).unwrap();
    drop(write);
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(container.wait(PATIENCE).unwrap().unwrap().code, Some(0), "{text}");
    assert!(text.starts_with("1 me teemate-7\n"), "{text}");
}

#[test]
fn a_program_of_a_descriptor_runs() {
    if !usable("a_program_of_a_descriptor_runs") {
        return;
    }
    let zygote = zygote_with(ZygoteConfig { root: RootTemplate::host_programs(), ..ZygoteConfig::default() });
    let program = std::fs::File::open("/bin/true").unwrap();
    let command = Command { program: "true".into(), from_descriptor: true, ..Command::default() };
    let spec = ContainerSpec { payload: command.to_payload().unwrap(), ..spec("") };
    let mut container = zygote.start(&spec, &Fds { body: vec![program.as_fd()], ..Fds::default() }).unwrap();
    assert_eq!(container.wait(PATIENCE).unwrap().unwrap().code, Some(0));
}

#[test]
fn loopback_works_and_namespaces_are_used_again_only_when_idle() {
    let _alone = alone();
    if !usable("loopback_works_and_namespaces_are_used_again_only_when_idle") {
        return;
    }
    let zygote = zygote();
    let nets = NetPool::new(zygote.helper(), NetPoolConfig { ready: 2, recycle: true }).unwrap();
    let net = nets.take().unwrap();
    let (exit, _) = run(&zygote, &spec("listen"), Fds { net: Some(net.as_fd()), ..Fds::default() });
    assert_eq!(exit.code, Some(0));
    assert!(!zygote.helper().is_net_idle(&net).unwrap(), "a connection in TIME_WAIT is left");
    drop(net);
    let clean = nets.take().unwrap();
    let (exit, _) = run(&zygote, &spec("exit 0"), Fds { net: Some(clean.as_fd()), ..Fds::default() });
    assert_eq!(exit.code, Some(0));
    drop(clean);
    let deadline = Instant::now() + Duration::from_secs(10);
    while nets.counts().dropped + nets.counts().recycled < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(nets.counts().dropped >= 1, "{:?}", nets.counts());
    // A new one, made for the container itself, has a loop-back interface too.
    let (exit, _) = run(&zygote, &spec("listen"), Fds::default());
    assert_eq!(exit.code, Some(0));
}

#[test]
fn the_end_of_the_zygote_leaves_its_containers() {
    if !usable("the_end_of_the_zygote_leaves_its_containers") {
        return;
    }
    let zygote = zygote();
    let mut container = zygote.start(&spec("sleep 400"), &Fds::default()).unwrap();
    container.wait_ready(PATIENCE).unwrap();
    let pid = rustix::process::Pid::from_raw(zygote.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(matches!(zygote.start(&spec("exit 0"), &Fds::default()), Err(Error::ZygoteGone(_))));
    assert_eq!(container.wait(PATIENCE).unwrap().unwrap().code, Some(0));
}

#[test]
fn containers_die_with_the_node() {
    if !usable("containers_die_with_the_node") {
        return;
    }
    if std::env::var_os("TEEMATE_ACT_AS_NODE").is_some() {
        let zygote = zygote();
        let mut container = zygote.start(&spec("spin"), &Fds::default()).unwrap();
        container.wait_ready(PATIENCE).unwrap();
        println!("pids {} {}", container.pid(), zygote.pid());
        std::thread::sleep(PATIENCE);
        return;
    }
    let mut node = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "containers_die_with_the_node"])
        .env("TEEMATE_ACT_AS_NODE", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(node.stdout.take().unwrap()));
    let pids: Vec<i32> = loop {
        let line = lines.next().expect("the node says its pids").unwrap();
        if let Some((_, pids)) = line.split_once("pids ") {
            break pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
        }
    };
    node.kill().unwrap();
    node.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    for pid in pids {
        // Nobody may have reaped it yet: a zombie is dead.
        let alive = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!alive(), "{pid} outlived the node");
    }
}

// ---- control groups ----

fn groups(test: &str, needed: &[Controller]) -> Option<Cgroups> {
    let detected = Cgroups::detect();
    for controller in needed {
        if !detected.has(*controller) {
            let reason = detected.missing.iter().find(|(c, _)| c == controller).map_or("not found", |(_, text)| text);
            println!("skipped: {test}: no controller {}: {reason}", controller.name());
            return None;
        }
    }
    Some(Cgroups::open(detected, &format!("{test}-{}", std::process::id())).unwrap())
}

/// Every directory of the group contains the process.
#[test]
fn a_limit_that_nothing_can_hold_is_named() {
    let cgroups = Cgroups::open(Default::default(), "without-controllers").unwrap();
    let mut group = cgroups.acquire(&Limits::default()).unwrap();
    assert_eq!(group.lacks(&Limits::default()), None, "nothing changes");
    for (limits, controller) in [
        (Limits { cpu_us_per_s: Some(1_000_000), ..Limits::default() }, Controller::Cpu),
        (Limits { memory_bytes: Some(1 << 20), ..Limits::default() }, Controller::Memory),
        (Limits { pids: Some(5), ..Limits::default() }, Controller::Pids),
    ] {
        assert_eq!(group.lacks(&limits), Some(controller));
        group.set_limits(&limits).unwrap();
        assert_eq!(group.lacks(&limits), None, "it has them, for what they are worth");
        group.set_limits(&Limits::default()).unwrap();
    }
    cgroups.release(group, None, 0).unwrap();
}

fn assert_member(group: &Group, pid: i32) {
    let mut count = 0;
    for directory in group.directories() {
        let procs = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap();
        assert_eq!(procs.trim(), pid.to_string(), "{}", directory.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn a_container_starts_in_its_groups() {
    if !usable("groups") {
        return;
    }
    let Some(cgroups) = groups("membership", &Controller::ALL) else { return };
    let zygote = zygote();
    let limits = Limits { cpu_us_per_s: Some(500_000), memory_bytes: Some(64 << 20), pids: Some(8) };
    let group = cgroups.acquire(&limits).unwrap();
    let mut container = zygote.start(&spec("sleep 5000"), &Fds { group: Some(&group), ..Fds::default() }).unwrap();
    container.wait_ready(PATIENCE).unwrap();
    assert_member(&group, container.pid());
    assert_eq!(group.processes(), [container.pid()]);
    assert_eq!(group.stats().pids, Some(1));
    assert!(group.stats().memory_bytes.unwrap() > 0);
    group.kill_all(Duration::from_secs(5)).unwrap();
    let exit = container.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    assert!(!group.was_oom_killed());
    let directories: Vec<_> = group.directories().map(Path::to_path_buf).collect();
    cgroups.release(group, Some(&exit), 4).unwrap();
    // The kernel would kill what comes into a group that was killed once: the next container must get another one.
    let group = cgroups.acquire(&limits).unwrap();
    let (exit, _) = run(&zygote, &spec("exit 4"), Fds { group: Some(&group), ..Fds::default() });
    assert_eq!(exit.code, Some(4));
    cgroups.release(group, Some(&exit), 4).unwrap();
    assert_eq!(cgroups.idle_count(), 1);
    drop(cgroups);
    for directory in directories {
        assert!(!directory.exists(), "{}", directory.display());
    }
}

#[test]
fn its_own_cgroup_namespace_hides_the_groups_above() {
    if !usable("cgroup namespace") {
        return;
    }
    let Some(cgroups) = groups("cgroupns", &[]) else { return };
    let zygote = zygote();
    let group = cgroups.acquire(&Limits::default()).unwrap();
    let mut spec = with_proc("read /proc/self/cgroup");
    spec.namespaces.cgroup = true;
    let (exit, text) = run(&zygote, &spec, Fds { group: Some(&group), ..Fds::default() });
    assert_eq!(exit.code, Some(0));
    assert!(!text.contains("teemate"), "{text}");
    cgroups.release(group, None, 0).unwrap();
}

#[test]
fn memory_limit_and_oom_are_seen() {
    if !usable("memory limit") {
        return;
    }
    let Some(cgroups) = groups("oom", &[Controller::Memory]) else { return };
    let zygote = zygote();
    let limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
    for round in 0..3 {
        let group = cgroups.acquire(&limits).unwrap();
        let (exit, _) = run(&zygote, &spec("allocate 4"), Fds { group: Some(&group), ..Fds::default() });
        assert_eq!(exit.code, Some(0), "round {round}");
        assert!(!group.was_oom_killed(), "round {round}");
        let (exit, _) = run(&zygote, &spec("allocate 64"), Fds { group: Some(&group), ..Fds::default() });
        assert_eq!(exit.signal, Some(libc::SIGKILL));
        assert!(group.was_oom_killed());
        assert_eq!(group.stats().oom_kills, Some(1));
        // The next user starts with clean counters.
        cgroups.release(group, Some(&exit), 4).unwrap();
    }
}

#[test]
fn pids_limit_holds() {
    if !usable("pids limit") {
        return;
    }
    let Some(cgroups) = groups("pids", &[Controller::Pids]) else { return };
    let zygote = zygote();
    let group = cgroups.acquire(&Limits { pids: Some(5), ..Limits::default() }).unwrap();
    let (exit, text) = run(&zygote, &spec("threads 20"), Fds { group: Some(&group), ..Fds::default() });
    assert_eq!((exit.code, text.as_str()), (Some(0), "4"));
    cgroups.release(group, None, 0).unwrap();
    let group = cgroups.acquire(&Limits::default()).unwrap();
    let (_, text) = run(&zygote, &spec("threads 20"), Fds { group: Some(&group), ..Fds::default() });
    assert_eq!(text, "20");
    cgroups.release(group, None, 0).unwrap();
}

#[test]
fn cpu_limit_holds() {
    if !usable("cpu limit") {
        return;
    }
    let Some(cgroups) = groups("cpu", &[Controller::Cpu]) else { return };
    let zygote = zygote();
    let group = cgroups.acquire(&Limits { cpu_us_per_s: Some(100_000), ..Limits::default() }).unwrap();
    let mut container = zygote.start(&spec("spin"), &Fds { group: Some(&group), ..Fds::default() }).unwrap();
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    container.kill().unwrap();
    let exit = container.wait(PATIENCE).unwrap().unwrap();
    let share = (exit.user_us + exit.system_us) as f64 / begin.elapsed().as_micros() as f64;
    assert!(share < 0.3, "{share}");
    assert!(group.stats().throttled_periods.unwrap() > 0);
    cgroups.release(group, None, 0).unwrap();
}

#[test]
fn what_a_crashed_node_left_is_swept() {
    if !usable("sweep") {
        return;
    }
    let Some(other) = groups("crashed", &[Controller::Memory]) else { return };
    // In a place of its own: a sweep concerns every node of the machine, also those that are not part of this test.
    let mut detected = other.detected().clone();
    drop(other);
    for hierarchy in &mut detected.hierarchies {
        hierarchy.base = hierarchy.base.join(format!("teemate-test-{}", std::process::id()));
        std::fs::create_dir(&hierarchy.base).unwrap();
        if hierarchy.version == 2 {
            for controller in &hierarchy.controllers {
                std::fs::write(hierarchy.base.join("cgroup.subtree_control"), format!("+{}", controller.name())).unwrap();
            }
        }
    }
    let cgroups = Cgroups::open(detected.clone(), "crashed").unwrap();
    let zygote = zygote();
    let group = cgroups.acquire(&Limits::default()).unwrap();
    let mut container = zygote.start(&spec("spin"), &Fds { group: Some(&group), ..Fds::default() }).unwrap();
    container.wait_ready(PATIENCE).unwrap();
    let homes: Vec<_> = cgroups.directories().map(Path::to_path_buf).collect();
    // A living node's groups stay.
    let _ = Cgroups::sweep(&detected);
    assert!(homes.iter().all(|home| home.exists()));
    assert!(container.try_wait().unwrap().is_none());
    let id = homes[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(matches!(Cgroups::open(detected.clone(), &id), Err(Error::Cgroup { .. })), "the id is taken");
    // A crash: the locks go, no destructor runs. Leaking `group` keeps its directories.
    let pidfd_exit = {
        std::mem::forget(group);
        cgroups.abandon();
        let removed = Cgroups::sweep(&detected);
        assert!(homes.iter().all(|home| removed.contains(home)), "{removed:?}");
        container.wait(PATIENCE).unwrap().unwrap()
    };
    assert_eq!(pidfd_exit.signal, Some(libc::SIGKILL));
    assert!(homes.iter().all(|home| !home.exists()));
    for hierarchy in &detected.hierarchies {
        std::fs::remove_dir(&hierarchy.base).unwrap();
    }
}

// ---- kills ----

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

fn children() -> Vec<String> {
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        if tail.split_whitespace().nth(1) == Some(&me) {
            found.push(head.to_owned());
        }
    }
    found
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn two_hundred_kills_leave_nothing() {
    if !usable("two_hundred_kills_leave_nothing") {
        return;
    }
    // In a process of its own: other tests start containers meanwhile.
    if std::env::var_os("TEEMATE_KILLS").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "two_hundred_kills_leave_nothing"])
            .env("TEEMATE_KILLS", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let detected = Cgroups::detect();
    let cgroups = Cgroups::open(detected, &format!("kills-{}", std::process::id())).unwrap();
    let zygote = zygote();
    let nets = NetPool::new(zygote.helper(), NetPoolConfig { ready: 4, recycle: true }).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while nets.ready() < 4 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mounts_before, children_before, fds_before) = (mounts(), children(), open_fds());
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut before_ready = 0;
    for round in 0..200 {
        let group = cgroups.acquire(&Limits { memory_bytes: Some(64 << 20), pids: Some(8), ..Limits::default() }).unwrap();
        let net = nets.take().unwrap();
        let spec = ContainerSpec { id: round, proc: round % 2 == 0, tmp_bytes: (round % 3 == 0).then_some(1 << 20), ..spec("spin") };
        let mut container = zygote.start(&spec, &Fds { group: Some(&group), net: Some(net.as_fd()), ..Fds::default() }).unwrap();
        if round % 2 == 1 {
            container.wait_ready(PATIENCE).unwrap();
        }
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let wait = Duration::from_micros(seed % 1000);
        let begin = Instant::now();
        while begin.elapsed() < wait {
            std::hint::spin_loop();
        }
        // By the node, or from outside by its pid alone, or through its group.
        match round % 3 {
            0 => container.kill().unwrap(),
            1 => rustix::process::kill_process(rustix::process::Pid::from_raw(container.pid()).unwrap(), rustix::process::Signal::KILL)
                .unwrap(),
            _ if group.directories().next().is_some() => group.kill_all(PATIENCE).unwrap(),
            _ => container.kill().unwrap(),
        }
        if container.timing().ready_ns == 0 {
            before_ready += 1;
        }
        let exit = container.wait(PATIENCE).unwrap().expect("it is dead");
        assert_eq!(exit.signal, Some(libc::SIGKILL), "round {round}: {exit:?}");
        assert!(group.is_empty());
        cgroups.release(group, Some(&exit), 4).unwrap();
    }
    println!("200 kills, {before_ready} of them before the body had started");
    let (exit, _) = run(&zygote, &spec("exit 9"), Fds::default());
    assert_eq!(exit.code, Some(9));
    assert_eq!(zygote.containers(), 0);
    // The pool's thread may hold a namespace or two that it is looking at.
    let deadline = Instant::now() + PATIENCE;
    while open_fds() > fds_before + 8 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(open_fds() <= fds_before + 8, "{} before, {} after", fds_before, open_fds());
    assert_eq!(mounts(), mounts_before);
    assert_eq!(children(), children_before);
    let counts = nets.counts();
    drop(nets);
    assert!(counts.recycled + counts.dropped >= 190, "{counts:?}");
    let homes: Vec<_> = cgroups.directories().map(Path::to_path_buf).collect();
    drop(cgroups);
    assert!(homes.iter().all(|home| !home.exists()));
    let zygotes_helper = zygote.pid();
    drop(zygote);
    assert!(!Path::new(&format!("/proc/{zygotes_helper}")).exists());
    assert_eq!(children(), Vec::<String>::new());
}

#[test]
fn sixty_four_at_once_from_many_threads() {
    if !usable("sixty_four_at_once") {
        return;
    }
    let zygote = zygote();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut alive: Vec<Container> = Vec::new();
                for _ in 0..8 {
                    alive.push(zygote.start(&spec("sleep 100"), &Fds::default()).unwrap());
                }
                for mut container in alive {
                    assert_eq!(container.wait(PATIENCE).unwrap().unwrap().code, Some(0));
                }
            });
        }
    });
    assert_eq!(zygote.containers(), 0);
}

#[test]
fn rootless() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: rootless: this is no root; all other tests ran rootless already");
        return;
    }
    // The whole file again as nobody. What nobody must reach lies in /tmp.
    let place = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = place.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let probe = copy(&probe(), "container-probe");
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(&tests)
        .args(["--nocapture", "--test-threads=1"])
        .env("TEEMATE_PROBE", &probe)
        .env("TMPDIR", place.path())
        .current_dir("/")
        .status();
    match status {
        Ok(status) => assert!(status.success()),
        Err(error) => println!("skipped: rootless: setpriv(1): {error}"),
    }
}
