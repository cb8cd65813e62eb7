//! containerd drives the shared enclave: `ctr` against a containerd of Debian with its own directories.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use teemate_client::oci;
use teemate_kbs::testing::{Authority, Broker};
use teemate_tests::archive::zip;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::containerd::{Containerd, RUNTIME, Release, Said, busybox};
use teemate_tests::registry::{PASSWORD, Registry, USER};
use teemate_tests::witness::Canaries;
use teemate_tests::{full, skip, with_each_release};

const FUNCTION: &str = "docker.io/teemate/function:1";
const ZIPPED: &str = "docker.io/teemate/zipped:1";
const ENCRYPTED: &str = "docker.io/teemate/encrypted:1";
const MODULE: &str = "docker.io/teemate/module:1";
/// Writes its result.
const PRINT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "{\"module\":1}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 12))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;
/// Reads a file and writes what is in it as its result, `{"text":".."}`.
const READ: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "mnt/volume/deep/file")
  (data (i32.const 128) "{\"text\":\"")
  (data (i32.const 192) "\"}")
  (func (export "_start")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 20) (i32.const 0)
        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))
      (then unreachable))
    (i32.store (i32.const 0) (i32.const 256))
    (i32.store (i32.const 4) (i32.const 1024))
    (if (call $read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 40)) (then unreachable))
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 9))
    (i32.store (i32.const 8) (i32.const 256))
    (i32.store (i32.const 12) (i32.load (i32.const 40)))
    (i32.store (i32.const 16) (i32.const 192))
    (i32.store (i32.const 20) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 48)))))"#;
const BUSYBOX: &str = "docker.io/teemate/busybox:1";
const SOURCE: &str = "
async function main(p) {
  if (p.fail) throw new Error('asked to fail');
  console.log('log of ' + p.name);
  for (const end = Date.now() + (p.spin || 0); Date.now() < end; );
  if (p.sleep) await new Promise((done) => setTimeout(done, p.sleep));
  return { greeting: 'Hello ' + p.name, mode: process.env.MODE, fill: 'x'.repeat(p.fill || 0) };
}";

with_each_release!(
    a_function_is_a_container_with_output_and_exit_code,
    tasks_are_processes_that_can_be_stopped_measured_and_killed,
    a_process_is_what_its_bundle_says,
    mounted_files_are_read_and_forgotten,
    standard_input_is_parameters,
    events_tell_each_step,
    ordinary_images_run_beside_functions,
    an_image_goes_through_a_registry,
);

fn begin(release: Release, arguments: &[&str]) -> Option<Containerd> {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => {
            skip(reason);
            return None;
        }
    };
    if let Some(reason) = Containerd::missing(&artifacts, release) {
        skip(reason);
        return None;
    }
    let containerd = Containerd::start(&artifacts, release, arguments).unwrap_or_else(|error| panic!("{error}"));
    containerd.import(&oci::function(FUNCTION, "hello.js", SOURCE.as_bytes().to_vec())).unwrap();
    Some(containerd)
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn a_function_is_a_container_with_output_and_exit_code(release: Release) {
    let Some(ctr) = begin(release, &[]) else { return };
    let said = ctr.run(&["--rm", "--env", "MODE=test"], FUNCTION, "good", &["/hello.js", "name=Ada"]);
    assert_eq!(said.status, 0, "{said:?}\n{}", ctr.last_words());
    assert_eq!(said.stdout, "{\"greeting\":\"Hello Ada\",\"mode\":\"test\",\"fill\":\"\"}\n");
    assert!(said.stderr.contains("log of Ada"), "{said:?}");

    let said = ctr.run(&["--rm"], FUNCTION, "bad", &["/hello.js", "fail=true"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stdout.is_empty() && said.stderr.contains("asked to fail"), "{said:?}");

    // More than a pipe takes at once.
    let said = ctr.run(&["--rm"], FUNCTION, "large", &["/hello.js", r#"{"fill":300000}"#]);
    assert_eq!((said.status, said.stdout.len() > 300_000), (0, true), "{}", said.stderr);

    // Files that require each other.
    let files: [(&str, &[u8]); 2] = [
        ("index.js", b"exports.main = (p) => require('./lib').greet(p.name)"),
        ("lib.js", b"exports.greet = (name) => ({ zipped: name })"),
    ];
    ctr.import(&oci::function(ZIPPED, "hello.zip", zip(&files).unwrap())).unwrap();
    let said = ctr.run(&["--rm"], ZIPPED, "zipped", &["/hello.zip", "name=Ada"]);
    assert!(said.status == 0 && said.stdout.contains(r#"{"zipped":"Ada"}"#), "{said:?}");

    // A module that is a layer by itself: containerd 1.6 knows no such layers.
    if release.directory != Release::INSTALLED.directory {
        ctr.import(&oci::module(MODULE, "print.wasm", wat::parse_str(PRINT).unwrap())).unwrap();
        let said = ctr.run(&["--rm"], MODULE, "module", &["/print.wasm"]);
        assert!(said.status == 0 && said.stdout.contains(r#"{"module":1}"#), "{said:?}\n{}", ctr.last_words());
    }

    for (options, command, why) in
        [(&["--rm"][..], &["/hello.js", "word"][..], "neither name=value"), (&["--rm"], &["/absent.js"], "not in the image")]
    {
        let said = ctr.run(options, FUNCTION, "refused", command);
        assert!(said.status != 0 && format!("{said:?}").contains(why), "{why}: {said:?}");
        ctr.ctr(&["container", "rm", "refused"]);
    }
    assert_eq!(ctr.mounts(), 0, "no root file system stays mounted");
    let end = Instant::now() + Duration::from_secs(10);
    while !ctr.shims().is_empty() {
        assert!(Instant::now() < end, "the shim stays though its last container has gone");
        thread::sleep(Duration::from_millis(50));
    }
}

fn tasks_are_processes_that_can_be_stopped_measured_and_killed(release: Release) {
    let Some(mut ctr) = begin(release, &[]) else { return };
    let mut events = ctr.begin_ctr(&["events"]).unwrap();
    let spin = |ctr: &Containerd, id: &str| {
        let said = ctr.run(&["--detach"], FUNCTION, id, &["/hello.js", "name=x", "spin=50000"]);
        assert_eq!(said.status, 0, "{said:?}\n{}", ctr.last_words());
        let (pid, state) = ctr.task(id).unwrap();
        assert_eq!(state, "RUNNING");
        pid
    };
    let first = spin(&ctr, "first");
    let second = spin(&ctr, "second");
    assert_eq!(ctr.shims().len(), 1, "one shim serves all containers of a namespace");

    // The pid is the container's own process: it maps the enclave that the other one maps, in namespaces of its own.
    let ps = ctr.node.ps().unwrap();
    let of = |pid: u32| ps.containers.iter().find(|container| container.pid == pid).unwrap_or_else(|| panic!("{pid} is none of {ps:?}"));
    assert_eq!((of(first).role.as_str(), of(first).enclave), ("function", of(second).enclave));
    assert_ne!(of(first).tcs, of(second).tcs);
    assert!(of(first).namespaces.iter().zip(&of(second).namespaces).all(|(a, b)| a != b), "namespaces are shared");
    let group = std::fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
    assert!(group.contains(&format!("/{}/first", ctr.namespace())), "{group}");

    let said = ctr.ctr(&["task", "metrics", "first"]);
    let value = |name: &str| -> u64 {
        let line = said.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {said:?}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(value("pids.current"), 1);
    assert!(value("memory.usage_in_bytes") > 0 && value("memory.limit_in_bytes") > 64 << 20, "{said:?}");
    assert_eq!(ctr.ctr(&["task", "exec", "--exec-id", "e", "first", "/bin/sh"]).status, 1, "nothing can be executed in a function");

    // Paused it uses no time; going on it does.
    let time = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(ctr.ctr(&["task", "pause", "first"]).status, 0, "{}", ctr.last_words());
    assert!(ctr.becomes("first", "PAUSED"));
    let before = time(first);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(time(first), before);
    // The others go on meanwhile.
    let said = ctr.run(&["--rm"], FUNCTION, "meanwhile", &["/hello.js", "name=y"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(ctr.ctr(&["task", "resume", "first"]).status, 0);
    let end = Instant::now() + Duration::from_secs(20);
    while time(first) == before {
        assert!(Instant::now() < end, "it does not go on");
        thread::sleep(Duration::from_millis(50));
    }

    // kill -9 of the process, and a signal by containerd.
    kill(first);
    assert!(ctr.becomes("first", "STOPPED"));
    assert!(ctr.remove("first").contains("137"), "kill -9 is 137");
    assert_eq!(ctr.ctr(&["task", "kill", "--signal", "SIGTERM", "second"]).status, 0);
    assert!(ctr.becomes("second", "STOPPED"));
    assert!(ctr.remove("second").contains("143"), "SIGTERM is 143");

    // containerd dies and comes back: the task, its shim and the node do not notice.
    let third = spin(&ctr, "third");
    let shims = ctr.shims();
    let _ = events.kill();
    let _ = events.wait();
    ctr.crash_and_restart().unwrap();
    assert_eq!((ctr.task("third"), ctr.shims()), (Some((third, "RUNNING".to_owned())), shims));
    // The shim dies: its containers are taken down with it.
    ctr.shims().into_iter().for_each(kill);
    let end = Instant::now() + Duration::from_secs(20);
    while std::fs::exists(format!("/proc/{third}")).unwrap() {
        assert!(Instant::now() < end, "the task outlives its shim\n{}", ctr.last_words());
        thread::sleep(Duration::from_millis(50));
    }
    ctr.remove("third");
    let said = ctr.run(&["--rm"], FUNCTION, "after", &["/hello.js", "name=z"]);
    assert_eq!(said.status, 0, "{said:?}\n{}", ctr.last_words());
}

/// The `config.json` of a container of the function, which works for a while.
fn bundle(ctr: &Containerd, process: &Value) -> Value {
    let root = ctr.directory().join("bundle");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("hello.js"), SOURCE).unwrap();
    let mut config = json!({
        "ociVersion": "1.0.2", "root": {"path": root},
        "process": {"args": ["/hello.js", "name=x", "spin=50000"], "cwd": "/", "env": []},
    });
    config["process"].as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
    config
}

fn a_process_is_what_its_bundle_says(release: Release) {
    let Some(ctr) = begin(release, &[]) else { return };
    let rlimits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CPU", "soft": 500, "hard": 600}]);
    // Whatever it is given, it has no capability and the runner's filter. A program of the image could do nothing with this profile.
    let all = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"];
    let capabilities = json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all});
    let process = json!({"user": {"uid": 1000, "gid": 3000}, "rlimits": rlimits, "capabilities": capabilities});
    let mut config = bundle(&ctr, &process);
    config["linux"] = json!({"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []}});
    let said = ctr.run_bundle(&["--detach"], "own", &config).unwrap();
    assert_eq!(said.status, 0, "{said:?}\n{}", ctr.last_words());
    let (pid, _) = ctr.task("own").unwrap();
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    // Its user inside, its own user on the host, and how many.
    for (file, inside) in [("uid_map", "1000"), ("gid_map", "3000")] {
        let map = of(file);
        let [id, on_host, count] = map.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{map}") };
        assert_eq!((id, count), (inside, "1"));
        assert_ne!(on_host, inside, "on the host it is somebody else");
    }
    let status = of("status");
    for (name, value) in [
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        // A filter.
        ("Seccomp:", "2"),
        ("Seccomp_filters:", "1"),
    ] {
        let found = status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(found, Some(value), "{name}");
    }
    let limits = of("limits");
    for (name, numbers) in [("Max open files", ["100", "200"]), ("Max cpu time", ["500", "600"]), ("Max core file size", ["0", "0"])] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), numbers, "{name}");
    }
    assert_eq!(ctr.ctr(&["task", "rm", "--force", "own"]).status, 0);
    ctr.ctr(&["container", "rm", "own"]);

    for (process, why) in [
        (json!({"user": {"uid": u32::MAX}}), "is no id"),
        (json!({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX}]}), "more than the node itself may have"),
        (json!({"rlimits": [{"type": "RLIMIT_MANY", "soft": 1, "hard": 1}]}), "no limit of a process"),
    ] {
        let said = ctr.run_bundle(&["--rm"], "refused", &bundle(&ctr, &process)).unwrap();
        assert!(said.status != 0 && format!("{said:?}").contains(why), "{why}: {said:?}");
        ctr.ctr(&["container", "rm", "refused"]);
    }
}

/// A bind mount of `config.json`.
fn bind(source: &Path, destination: &str) -> Value {
    json!({"type": "bind", "source": source, "destination": destination, "options": ["rbind", "ro"]})
}

fn mounted_files_are_read_and_forgotten(release: Release) {
    const MODULE_SOURCE: &str = "exports.main = ({ path }) => ({ text: require('fs').readFileSync(path, 'utf8') });";
    let Some(ctr) = begin(release, &[]) else { return };
    let canaries = Canaries::new(&["secret"]).unwrap();
    // A Secret as a kubelet lays it out, and a volume.
    let (secret, volume) = (ctr.directory().join("secret"), ctr.directory().join("volume"));
    std::fs::create_dir_all(secret.join("..first")).unwrap();
    std::fs::create_dir_all(volume.join("deep")).unwrap();
    std::fs::write(secret.join("..first/key"), canaries.text("secret")).unwrap();
    std::os::unix::fs::symlink("..first", secret.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/key", secret.join("key")).unwrap();
    std::fs::write(volume.join("deep/file"), "of a volume").unwrap();
    let bundle = |command: &[&str]| {
        let mut config = bundle(&ctr, &json!({ "args": command }));
        std::fs::write(ctr.directory().join("bundle/read.js"), MODULE_SOURCE).unwrap();
        std::fs::write(ctr.directory().join("bundle/read.wasm"), wat::parse_str(READ).unwrap()).unwrap();
        config["mounts"] = json!([
            {"type": "proc", "source": "proc", "destination": "/proc"},
            bind(&secret, "/var/run/secrets"), bind(&volume, "/mnt/volume"), bind(&volume.join("deep/file"), "/etc/hosts"),
        ]);
        config
    };
    let read = |id: &str, command: &[&str]| ctr.run_bundle(&["--rm"], id, &bundle(command)).unwrap();
    for (path, text) in [("/var/run/secrets/key", canaries.text("secret")), ("/mnt/volume/deep/file", "of a volume")] {
        let said = read("javascript", &["/read.js", &format!("path={path}")]);
        assert!(said.status == 0 && said.stdout.contains(text), "{path}: {said:?}\n{}", ctr.last_words());
    }
    let said = read("module", &["/read.wasm"]);
    assert!(said.status == 0 && said.stdout.contains("of a volume"), "{said:?}\n{}", ctr.last_words());
    // What is not mounted, what its host is told by, and what lies beside it.
    for path in ["/etc/hosts", "/hello.js", "/var/run/secrets/..data/key", "/etc/passwd"] {
        let said = read("refused", &["/read.js", &format!("path={path}")]);
        assert!(said.status == 1 && said.stderr.contains(path), "{path}: {said:?}");
    }
    assert!(canaries.in_files(&ctr.node.state()).is_empty(), "with its container the secret is gone from the node's disk");
    // More than a function is given.
    for number in 0..300 {
        std::fs::write(volume.join(number.to_string()), "x").unwrap();
    }
    let said = read("many", &["/read.js", "path=/mnt/volume/0"]);
    assert!(said.status != 0 && format!("{said:?}").contains("more than 256 files"), "{said:?}");
    ctr.ctr(&["container", "rm", "many"]);
    let mut without = bundle(&["/hello.js", "name=Ada"]);
    without["annotations"] = json!({"io.teemate.mounts": "none"});
    let said = ctr.run_bundle(&["--rm"], "without", &without).unwrap();
    assert!(said.status == 0 && said.stdout.contains("Hello Ada"), "{said:?}");
}

fn standard_input_is_parameters(release: Release) {
    let Some(ctr) = begin(release, &[]) else { return };
    let run = |id: &str, annotation: &str, input: &str| {
        let words = ["run", "--rm", "--runtime", RUNTIME, "--annotation", annotation, FUNCTION, id, "/hello.js", "name=argument", "fill=3"];
        let said = ctr.ctr_reading(input, &words);
        ctr.ctr(&["container", "rm", id]);
        said
    };
    const PARAMS: &str = "io.teemate.stdin=params";
    let said = run("object", PARAMS, "{\"name\": \"input\"}\n");
    assert!(said.status == 0 && said.stdout.contains("Hello input") && said.stdout.contains("xxx"), "{said:?}\n{}", ctr.last_words());
    // More than a FIFO takes at once.
    let said = run("large", PARAMS, &json!({"name": "input", "more": "y".repeat(300_000)}).to_string());
    assert!(said.status == 0 && said.stdout.contains("Hello input"), "{}", said.stderr);
    for (id, annotation, input) in [("empty", PARAMS, "{}"), ("unasked", "io.teemate.main=main", "{\"name\": \"input\"}")] {
        let said = run(id, annotation, input);
        assert!(said.status == 0 && said.stdout.contains("Hello argument"), "{id}: {said:?}");
    }
    for (id, annotation, input, why) in [
        ("array", PARAMS, "[1]", "must be a JSON object"),
        ("torn", PARAMS, "{\"a\":", "must be a JSON object"),
        ("other", "io.teemate.stdin=yes", "", "can only be"),
    ] {
        let said = run(id, annotation, input);
        assert!(said.status != 0 && format!("{said:?}").contains(why), "{id}: {said:?}");
    }
    // An input that says nothing is not waited for for ever.
    let begin = Instant::now();
    let (silent, input) = std::io::pipe().map(|(input, silent)| (silent, input)).unwrap();
    let words = ["run", "--rm", "--runtime", RUNTIME, "--annotation", PARAMS, FUNCTION, "silent", "/hello.js"];
    let said = Said::of(ctr.begin_ctr_with(input.into(), &words).and_then(Child::wait_with_output));
    drop(silent);
    assert!(said.status != 0 && said.stderr.contains("no JSON object came"), "{said:?}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

fn events_tell_each_step(release: Release) {
    let Some(ctr) = begin(release, &[]) else { return };
    let mut events = ctr.begin_ctr(&["events"]).unwrap();
    thread::sleep(Duration::from_millis(500));
    let said = ctr.run(&["--rm"], FUNCTION, "one", &["/hello.js", "name=Ada"]);
    assert_eq!(said.status, 0, "{said:?}");
    thread::sleep(Duration::from_millis(500));
    // ctr is the child of `timeout`, which passes this on.
    kill_process(Pid::from_child(&events), Signal::TERM).unwrap();
    let text = output(&mut events);
    let mut rest = text.as_str();
    for topic in ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] {
        let at = rest.find(topic).unwrap_or_else(|| panic!("{topic} is missing or out of order:\n{text}"));
        rest = &rest[at..];
    }
}

fn output(child: &mut Child) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
    let _ = child.wait();
    text
}

fn ordinary_images_run_beside_functions(release: Release) {
    let Some(ctr) = begin(release, &[]) else { return };
    let Some(image) = busybox(BUSYBOX) else { return skip("there is no /bin/busybox; install the package busybox-static") };
    ctr.import(&image).unwrap();
    let said = ctr.run(&["--rm"], BUSYBOX, "short", &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((said.status, said.stdout.as_str()), (3, "out\n"), "{said:?}\n{}", ctr.last_words());
    assert!(said.stderr.contains("err"), "{said:?}");

    assert_eq!(ctr.run(&["--detach"], BUSYBOX, "long", &["/bin/busybox", "sleep", "1000"]).status, 0);
    let said = ctr.run(&["--rm"], FUNCTION, "function", &["/hello.js", "name=Ada"]);
    assert_eq!(said.status, 0, "{said:?}");
    let said = ctr.ctr(&["task", "exec", "--exec-id", "e1", "long", "/bin/sh", "-c", "echo inside; exit 5"]);
    assert_eq!((said.status, said.stdout.as_str()), (5, "inside\n"), "{said:?}");
    assert_eq!(ctr.ctr(&["task", "pause", "long"]).status, 0);
    assert!(ctr.becomes("long", "PAUSED"));
    assert_eq!(ctr.ctr(&["task", "resume", "long"]).status, 0);
    assert!(ctr.ctr(&["task", "metrics", "long"]).stdout.contains("pids.current"));
    kill(ctr.task("long").unwrap().0);
    assert!(ctr.becomes("long", "STOPPED"));
    assert!(ctr.remove("long").contains("137"));
    assert_eq!(ctr.mounts(), 0);
}

#[test]
fn many_containers_of_one_enclave_leave_nothing() {
    // The image has 160 TCSs, of which the service keeps 24.
    let (count, at_once) = if full() { (200, 100) } else { (50, 50) };
    let Some(ctr) = begin(Release::INSTALLED, &["--ready-containers", "0"]) else { return };
    assert_eq!(ctr.run(&["--rm"], FUNCTION, "first", &["/hello.js", "name=x"]).status, 0);
    let before = ctr.node.at_rest().unwrap();
    let leased = |ps: &teemate_control::node::Ps| ps.enclaves[0].tcs_leased;
    let mut begun = 0;
    while begun < count {
        let ids: Vec<String> = (begun..begun + at_once).map(|number| format!("c{number}")).collect();
        for id in &ids {
            let said = ctr.run(
                &["--detach", "--annotation", "io.teemate.timeout-ms=200000"],
                FUNCTION,
                id,
                &["/hello.js", "name=x", "sleep=100000"],
            );
            assert_eq!(said.status, 0, "{id}: {said:?}\n{}", ctr.last_words());
        }
        let ps = ctr.node.ps().unwrap();
        let mut running = ps.containers.iter().filter(|container| container.role == "function").collect::<Vec<_>>();
        assert_eq!(running.len(), at_once);
        assert!(running.iter().all(|container| container.enclave == running[0].enclave));
        running.sort_by_key(|container| container.tcs);
        running.dedup_by_key(|container| container.tcs);
        assert_eq!(running.len(), at_once, "two containers have one TCS");
        let pids: Vec<u32> = running.iter().map(|container| container.pid).collect();
        for id in &ids {
            assert_eq!(ctr.ctr(&["task", "rm", "--force", id]).status, 0, "{id}\n{}", ctr.last_words());
            ctr.ctr(&["container", "rm", id]);
        }
        assert!(pids.iter().all(|pid| !std::fs::exists(format!("/proc/{pid}/ns")).unwrap()), "processes are left");
        begun += at_once;
    }
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let after = ctr.node.at_rest().unwrap();
        if leased(&after) == leased(&before) {
            break;
        }
        assert!(Instant::now() < end, "{} TCSs before, {} after", leased(&before), leased(&after));
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(ctr.mounts(), 0);
    assert!(ctr.shims().is_empty() || ctr.task("c0").is_none());
    for hierarchy in ["memory", "pids", "cpu", "unified", ""] {
        let left = format!("/sys/fs/cgroup/{hierarchy}/{}/c0", ctr.namespace());
        assert!(!std::fs::exists(&left).unwrap(), "{left} is left");
    }
}

fn an_image_goes_through_a_registry(release: Release) {
    let Some(ctr) = begin(release, &[]) else { return };
    let Some(registry) = Registry::start().unwrap() else { return skip("there is no docker-registry; install the package") };
    let name = format!("{}/ada/pushed:1", registry.address());
    let at = |file: &str| ctr.directory().join(file).display().to_string();
    std::fs::write(at("hello.js"), SOURCE).unwrap();
    std::fs::write(at("password"), format!("{PASSWORD}\n")).unwrap();
    std::fs::write(at("wrong"), "wrong").unwrap();
    let push = |more: &[&str]| {
        let mut command = Command::new(Artifacts::find().unwrap().program("teemate"));
        command.args(["image", "push", &at("hello.js"), &name, "--plain-http"]).args(more).env("DOCKER_CONFIG", ctr.directory());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for refused in [&[][..], &["--username", USER, "--password-file", &at("wrong")]] {
        let (status, said) = push(refused);
        assert!(status == Some(1) && said.contains("does not let"), "{said}");
    }
    let login = ["--username", USER, "--password-file", &at("password")];
    let (status, said) = push(&login);
    assert_eq!(status, Some(0), "{said}");
    // What is there already is not sent again, and the same function is the same image.
    assert_eq!(push(&login), (status, said));
    // Who is logged in with Docker need not say it again.
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    std::fs::write(at("config.json"), format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address())).unwrap();
    assert_eq!(push(&[]).0, Some(0));

    let said = ctr.ctr(&["image", "pull", "--plain-http", "--user", &format!("{USER}:{PASSWORD}"), &name]);
    assert_eq!(said.status, 0, "{said:?}");
    let said = ctr.run(&["--rm"], &name, "pulled", &["/hello.js", "name=Ada"]);
    assert!(said.status == 0 && said.stdout.contains("Hello Ada"), "{said:?}\n{}", ctr.last_words());
}

#[test]
fn encrypted_code_is_opened_in_the_enclave_alone() {
    const KEY: &str = "default/key/of-a-function";
    let Some(ctr) = begin(Release::INSTALLED, &[]) else { return };
    let at = |name: &str| ctr.directory().join(name).display().to_string();
    let canaries = Canaries::new(&["code"]).unwrap();
    let source =
        format!("function main(p) {{ const secret = '{}'; return {{ name: p.name, length: secret.length }}; }}", canaries.text("code"));
    std::fs::write(at("secret.js"), source).unwrap();
    let key: Vec<u8> = (0..32).collect();
    std::fs::write(at("key"), &key).unwrap();
    let authority = Authority::new("Ada's");
    std::fs::write(at("ca.pem"), authority.pem()).unwrap();
    let broker = Arc::new(Broker::new(&[(KEY, &key), ("default/key/short", &key[1..])], "default/key/denied"));
    let address = broker.serve(Some(authority.server("127.0.0.1")));
    let pack = |resource: &str| {
        let mut command = Command::new(Artifacts::find().unwrap().program("teemate"));
        command.args(["image", "pack", &at("secret.js"), "--name", ENCRYPTED, "--output", &at("secret.tar"), "--encrypt-key", &at("key")]);
        command.args(["--key-broker", &format!("https://{address}"), "--key-broker-ca", &at("ca.pem"), "--key-resource", resource]);
        let said = Said::of(command.output());
        assert_eq!(said.status, 0, "{said:?}");
        assert_eq!(ctr.ctr(&["image", "import", &at("secret.tar")]).status, 0);
    };
    pack(KEY);
    assert!(canaries.seen(&std::fs::read(at("secret.tar")).unwrap()).is_empty(), "the image shows the code");
    let said = ctr.run(&["--rm"], ENCRYPTED, "encrypted", &["/secret.js", "name=Ada"]);
    assert!(said.status == 0 && said.stdout.contains(r#"{"name":"Ada","length":128}"#), "{said:?}\n{}", ctr.last_words());
    let pids: Vec<u32> =
        ctr.node.ps().unwrap().containers.iter().map(|container| container.pid).chain(ctr.node.pid()).chain(ctr.shims()).collect();
    let (found, looked) = canaries.in_processes(&pids);
    assert!(found.is_empty() && looked > 0, "{found:?}");
    assert!(canaries.in_files(&ctr.node.state()).is_empty());
    // A key that does not fit, that nobody may have, and that is none.
    for (resource, why) in [("default/key/short", "no key"), ("default/key/denied", "can't be had"), ("default/key/absent", "can't be had")]
    {
        pack(resource);
        let said = ctr.run(&["--rm"], ENCRYPTED, "refused", &["/secret.js", "name=Ada"]);
        assert!(said.status != 0 && format!("{said:?}").contains(why), "{resource}: {said:?}");
        ctr.ctr(&["container", "rm", "refused"]);
    }
}
