//! A pod as a kubelet makes it: containerd's CRI, a sandbox, functions that share the node's enclave, and an ordinary sidecar.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use teemate_client::oci;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::containerd::{CNI_PLUGINS, Containerd, Release, busybox, pause};
use teemate_tests::cri::{Container, Cri, KeyValue, NODE, POD, RUNNING, Resources, Sandbox};
use teemate_tests::{skip, with_each_release};

const HANDLER: &str = "teemate";
const FUNCTION: &str = "docker.io/teemate/function:1";
const BUSYBOX: &str = "docker.io/teemate/busybox:1";
const PAUSE: &str = "docker.io/teemate/pause:1";
const SOURCE: &str = "
async function main(p) {
  if (p.fail) throw new Error('asked to fail');
  console.log('log of ' + p.name);
  for (const end = Date.now() + (p.spin || 0); Date.now() < end; );
  const kept = [];
  for (let n = 0; n < (p.eat || 0); n++) kept.push(new Uint8Array(1 << 20).fill(n));
  return { greeting: 'Hello ' + p.name, mode: process.env.MODE };
}";

with_each_release!(a_pod_runs_functions_beside_a_sidecar, a_function_joins_the_namespaces_of_its_pod);

/// containerd with the images that pods want, and its CRI. `None`, with the reason told: they can't be had here.
fn begin(release: Release) -> Option<(Containerd, Cri)> {
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
    let Some(pause) = pause(PAUSE) else {
        skip("there is no /bin/busybox; install the package busybox-static");
        return None;
    };
    let containerd = Containerd::start_for_pods(&artifacts, release, &[], &pause).unwrap_or_else(|error| panic!("{error}"));
    containerd.import(&oci::function(FUNCTION, "hello.js", SOURCE.as_bytes().to_vec())).unwrap();
    containerd.import(&busybox(BUSYBOX)?).unwrap();
    let cri = Cri::connect(containerd.socket()).unwrap();
    Some((containerd, cri))
}

fn container(name: &str, attempt: u32, image: &str, args: &[&str], network: i32) -> Container {
    let mut container = Container::new(name, attempt, image, args, network);
    container.envs = vec![KeyValue { key: "MODE".to_owned(), value: "test".to_owned() }];
    container.annotations = HashMap::from([("io.teemate.timeout-ms".to_owned(), "50000".to_owned())]);
    container
}

/// The kernel's name for the namespace that a task is in.
fn namespace(containerd: &Containerd, id: &str, kind: &str) -> PathBuf {
    let (pid, _) = containerd.task(id).unwrap_or_else(|| panic!("no task {id}"));
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// Microseconds of CPU time that a process's group may use in a tenth of a second, where it is limited.
fn cpu_quota(pid: u32) -> Option<i64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |wanted: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| line.split_once(':')?.1.split_once(':').filter(|(names, _)| wanted(names)).map(|(_, path)| path))
    };
    let text = match path(&|names| names.split(',').any(|name| name == "cpu")) {
        Some(path) => fs::read_to_string(format!("/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us")),
        None => fs::read_to_string(format!("/sys/fs/cgroup{}/cpu.max", path(&str::is_empty).unwrap())),
    };
    // `max` on version 2, below zero on version 1: none.
    text.unwrap().split_whitespace().next().unwrap().parse().ok().filter(|quota| *quota > 0)
}

fn a_pod_runs_functions_beside_a_sidecar(release: Release) {
    let Some((containerd, mut cri)) = begin(release) else { return };
    let logs = containerd.directory().join("logs");
    fs::create_dir(&logs).unwrap();
    let pod = Sandbox::new("one", NODE, &logs);
    let id = cri.run_sandbox(&pod, HANDLER).unwrap_or_else(|error| panic!("{error}\n{}", containerd.last_words()));
    let begin = |cri: &mut Cri, container: &Container| {
        let made = cri.create(&id, container, &pod).unwrap_or_else(|error| panic!("{error}\n{}", containerd.last_words()));
        cri.start(&made).unwrap_or_else(|error| panic!("{error}\n{}", containerd.last_words()));
        made
    };
    // The log is a kubelet's: a time, the stream, whether the line is whole, the line.
    let log = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
    let good = begin(&mut cri, &container("good", 0, FUNCTION, &["name=Ada"], NODE));
    let status = cri.ended(&good).unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "{}", log("good-0.log"));
    // containerd notes the start when it has the shim's answer; a short function may be over by then. A second is far more than that takes.
    assert!(status.started_at > 0 && status.finished_at + 1_000_000_000 >= status.started_at, "{status:?}");
    assert!(log("good-0.log").contains(r#"stdout F {"greeting":"Hello Ada","mode":"test"}"#), "{}", log("good-0.log"));
    assert!(log("good-0.log").contains("stderr F log of Ada"), "{}", log("good-0.log"));
    // One that fails, and as a kubelet does, the next attempt.
    for attempt in 0..2 {
        let bad = begin(&mut cri, &container("bad", attempt, FUNCTION, &["fail=true"], NODE));
        let status = cri.ended(&bad).unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (1, "Error"));
        assert!(log(&format!("bad-{attempt}.log")).contains("asked to fail"));
        cri.remove(&bad).unwrap();
    }
    // A container's limit is the function's.
    let mut small = container("small", 0, FUNCTION, &["name=x", "eat=200"], NODE);
    small.linux.as_mut().unwrap().resources = Some(Resources { memory_limit_in_bytes: 64 << 20, cpu_quota: 50_000, cpu_period: 100_000 });
    let small = begin(&mut cri, &small);
    assert_eq!(cri.ended(&small).unwrap().exit_code, 1);
    assert!(log("small-0.log").contains("memory"), "{}", log("small-0.log"));

    // A sidecar that is an ordinary container, and a function that runs: both are measured and stopped.
    let mut sidecar = container("sidecar", 0, BUSYBOX, &[], NODE);
    sidecar.command = ["/bin/busybox", "sleep", "1000"].map(str::to_owned).to_vec();
    let sidecar = begin(&mut cri, &sidecar);
    let said = cri.exec(&sidecar, &["/bin/sh", "-c", "echo inside; exit 5"]).unwrap();
    assert_eq!((said.exit_code, said.stdout.as_slice()), (5, &b"inside\n"[..]));
    let busy = begin(&mut cri, &container("busy", 0, FUNCTION, &["name=x", "spin=40000"], NODE));
    assert_eq!(cri.status(&busy).unwrap().state, RUNNING);
    let (pid, _) = containerd.task(&busy).unwrap();
    let ps = containerd.node.ps().unwrap();
    assert!(ps.containers.iter().any(|container| container.pid == pid && container.role == "function"), "{pid} is none of {ps:?}");
    let used = |cri: &mut Cri| {
        let stats = cri.stats(&busy).unwrap();
        (stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value, stats.memory.unwrap().working_set_bytes.unwrap().value)
    };
    let before = used(&mut cri);
    let end = Instant::now() + Duration::from_secs(20);
    while used(&mut cri).0 == before.0 {
        assert!(Instant::now() < end, "it uses no time: {before:?}");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(before.1 > 0, "{before:?}");
    assert_eq!(namespace(&containerd, &busy, "ipc"), namespace(&containerd, &id, "ipc"), "it has the ipc namespace of its pod");
    assert_ne!(namespace(&containerd, &busy, "pid"), namespace(&containerd, &id, "pid"));
    // Parameters of a standard input that a pod's container does not have.
    let mut deaf = container("deaf", 0, FUNCTION, &["name=x"], NODE);
    deaf.annotations.insert("io.teemate.stdin".to_owned(), "params".to_owned());
    let deaf = cri.create(&id, &deaf, &pod).unwrap();
    let said = cri.start(&deaf).unwrap_err();
    assert!(said.contains("the container has none"), "{said}");
    cri.remove(&deaf).unwrap();
    // A pod that is resized.
    let limits = |containerd: &Containerd| {
        let said = containerd.ctr(&["task", "metrics", &busy]);
        let line = said.stdout.lines().find_map(|line| line.strip_prefix("memory.limit_in_bytes")).unwrap_or_else(|| panic!("{said:?}"));
        (line.trim().parse::<u64>().unwrap() >> 20, cpu_quota(pid))
    };
    cri.update(&busy, Resources { memory_limit_in_bytes: 300 << 20, cpu_quota: 30_000, cpu_period: 100_000 })
        .unwrap_or_else(|error| panic!("{error}\n{}", containerd.last_words()));
    // The group has room for the process that carries the function.
    assert_eq!(limits(&containerd), (300 + 128, Some(30_000)));
    cri.update(&busy, Resources { memory_limit_in_bytes: 200 << 20, cpu_quota: -1, cpu_period: 100_000 }).unwrap();
    assert_eq!(limits(&containerd), (200 + 128, None));
    let (of_sidecar, _) = containerd.task(&sidecar).unwrap();
    cri.update(&sidecar, Resources { memory_limit_in_bytes: 64 << 20, cpu_quota: 20_000, cpu_period: 100_000 }).unwrap();
    assert_eq!(cpu_quota(of_sidecar), Some(20_000));
    let said = cri.exec(&busy, &["/bin/sh"]).unwrap_err();
    assert!(said.contains("exec") || said.contains("function"), "{said}");
    for (id, code) in [(&busy, 143), (&sidecar, 137)] {
        cri.stop(id, 1).unwrap();
        assert_eq!(cri.status(id).unwrap().exit_code, code);
    }
    assert_eq!(cri.containers(), Ok(4));
    cri.remove_sandbox(&id).unwrap();
    assert_eq!((cri.containers().unwrap(), containerd.mounts()), (0, 0));
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    let end = Instant::now() + Duration::from_secs(10);
    while !containerd.shims().is_empty() {
        assert!(Instant::now() < end, "the shim stays though its last pod has gone");
        thread::sleep(Duration::from_millis(50));
    }
}

fn a_function_joins_the_namespaces_of_its_pod(release: Release) {
    let Some((containerd, mut cri)) = begin(release) else { return };
    if ["ptp", "host-local", "loopback"].iter().any(|plugin| !Path::new(CNI_PLUGINS).join(plugin).is_file()) {
        return skip("there are no network plugins; install the package containernetworking-plugins");
    }
    let network = r#"{"cniVersion":"0.4.0","name":"teemate-test","plugins":[{"type":"ptp","ipMasq":false,
        "ipam":{"type":"host-local","dataDir":"DATA","ranges":[[{"subnet":"10.213.77.0/24"}]]}}]}"#;
    let configuration = containerd.directory().join("cni");
    fs::create_dir_all(&configuration).unwrap();
    let data = containerd.directory().join("addresses").display().to_string();
    fs::write(configuration.join("10-test.conflist"), network.replace("DATA", &data)).unwrap();
    let logs = containerd.directory().join("logs");
    fs::create_dir(&logs).unwrap();
    let pod = Sandbox::new("two", POD, &logs);
    // containerd notices a new network by itself, soon.
    let end = Instant::now() + Duration::from_secs(20);
    let id = loop {
        match cri.run_sandbox(&pod, HANDLER) {
            Ok(id) => break id,
            Err(error) => assert!(error.contains("cni") && Instant::now() < end, "{error}\n{}", containerd.last_words()),
        }
        thread::sleep(Duration::from_millis(200));
    };
    let busy = cri.create(&id, &container("busy", 0, FUNCTION, &["name=x", "spin=30000"], POD), &pod).unwrap();
    cri.start(&busy).unwrap();
    for kind in ["net", "ipc", "uts"] {
        let of_function = namespace(&containerd, &busy, kind);
        assert_eq!(of_function, namespace(&containerd, &id, kind), "the function is in the {kind} namespace of its pod");
        assert_ne!(of_function, fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
    }
    cri.stop(&busy, 1).unwrap();
    cri.remove_sandbox(&id).unwrap();
    assert_eq!(containerd.mounts(), 0);
}
