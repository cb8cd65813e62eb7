//! `deploy/` and our images, as a cluster would use them: rendered, judged by schema, and run on an empty root file system.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use teemate_client::oci;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::containerd::{Containerd, Release, SHIM, Said};
use teemate_tests::manifests::Tools;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::{action_image, invoker, node_image, skip};

const IMAGE: &str = "docker.io/teemate/node:test";
const FUNCTION: &str = "docker.io/teemate/function:1";
const SOURCE: &str = "function main(p) { return { greeting: 'Hello ' + p.name }; }";

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    let tools = match Artifacts::find().and_then(|artifacts| Tools::find(&artifacts)) {
        Ok(tools) => tools,
        Err(reason) => return skip(reason),
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rendered.yaml");
    for (folder, kinds) in [
        ("deploy/node", &["namespace/teemate-system", "daemonset/teemate-node", "runtimeclass/teemate"][..]),
        ("deploy/sgx", &["namespace/teemate-system", "daemonset/teemate-node", "runtimeclass/teemate"]),
        ("deploy/database", &["service/teemate-database", "statefulset/teemate-database", "poddisruptionbudget/teemate-database"]),
    ] {
        let rendered = tools.render(folder).unwrap();
        assert!(rendered.contains("registry.example/teemate-node:latest"), "kustomize names the image\n{rendered}");
        fs::write(&file, &rendered).unwrap();
        let said = tools.validate(&file).unwrap();
        for kind in kinds {
            assert!(said.contains(&format!("passed for resource {kind}")), "{kind}: {said}");
        }
        // The judge does judge.
        fs::write(&file, rendered.replacen("metadata:", "metadatum:", 1)).unwrap();
        assert!(tools.validate(&file).is_err());
    }
}

/// A command in a root file system that holds the image and nothing else, with these directories of the host in it, as a container of the DaemonSet
/// has it: a mount namespace of its own, the host's processes and network.
fn inside(root: &Path, mounts: &[(&Path, &str)], words: &[&str]) -> Command {
    // As in a container, `/` is a mount of its own: from a chroot there is no way to a user namespace.
    let mut script = format!("set -e\nmount --bind '{root}' '{root}'\n", root = root.display());
    for (from, to) in mounts {
        let to = root.join(to.trim_start_matches('/'));
        script += &format!("mkdir -p '{to}'\nmount --rbind '{}' '{to}'\n", from.display(), to = to.display());
    }
    script += &format!("cd '{}'\nmkdir -p .host\npivot_root . .host\ncd /\nexec \"$@\"\n", root.display());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .args(words)
        .env_clear()
        .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin");
    command
}

/// An address that nobody listens at.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A program that is told to end with its test, whatever becomes of that.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

#[test]
fn the_node_s_image_runs_on_nothing_and_serves_containerd() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    if let Some(reason) = Containerd::missing(&artifacts, Release::INSTALLED) {
        return skip(reason);
    }
    let mut ctr = Containerd::start(&artifacts, Release::INSTALLED, &[]).unwrap();
    ctr.import(&oci::function(FUNCTION, "hello.js", SOURCE.as_bytes().to_vec())).unwrap();
    let host = |name: &str| {
        let directory = ctr.directory().join(name);
        fs::create_dir_all(&directory).unwrap();
        directory
    };
    let (root, bin, run, state) = (host("root"), host("host-bin"), host("host-run"), host("host-state"));
    let image = oci::Image::build(&node_image::spec(&artifacts, IMAGE).unwrap()).unwrap();
    fs::write(host("layer").join("layer.tar"), &image.blobs()[0].content).unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(host("layer").join("layer.tar")).arg("-C").arg(&root).status().unwrap();
    assert!(unpacked.success());

    // The init container: the shim comes to the machine, where it needs nothing else.
    let install = ["/opt/teemate/bin/teemate", "node", "install-shim", "/host/bin"];
    let said = Said::of(inside(&root, &[(Path::new("/proc"), "/proc"), (&bin, "/host/bin")], &install).output());
    assert_eq!(said.status, 0, "{said:?}");
    let shim = bin.join(SHIM);
    assert_eq!(fs::metadata(&shim).unwrap().permissions().mode() & 0o111, 0o111);
    let linked = Said::of(Command::new("ldd").arg(&shim).output());
    assert!((linked.stdout + &linked.stderr).contains("statically linked"), "the shim needs libraries of the machine");

    // The node, with what the DaemonSet gives it.
    let manifest = fs::read_to_string(teemate_tests::artifacts::root().join("deploy/node/daemonset.yaml")).unwrap();
    let mut arguments: Vec<String> =
        manifest.lines().filter_map(|line| line.trim().strip_prefix("- --")).map(|line| format!("--{line}")).collect();
    assert!(arguments.iter().any(|argument| argument == "--socket=/run/teemate/node.sock"), "{arguments:?}");
    // What the DaemonSet's annotations tell Prometheus; here at a port that is free.
    assert!(manifest.contains("prometheus.io/scrape: \"true\"") && manifest.contains("prometheus.io/port: \"9464\""), "{manifest}");
    let at = free();
    let metrics = arguments.iter_mut().find(|argument| *argument == "--metrics-address=0.0.0.0:9464").unwrap();
    *metrics = format!("--metrics-address={at}");
    let mounts = [
        (Path::new("/proc"), "/proc"),
        (Path::new("/sys"), "/sys"),
        (Path::new("/dev"), "/dev"),
        (&run, "/run/teemate"),
        (&state, "/var/lib/teemate"),
    ];
    let words: Vec<&str> = std::iter::once("/opt/teemate/bin/teemate-node").chain(arguments.iter().map(String::as_str)).collect();
    let log = fs::File::create(ctr.directory().join("node-in-image.log")).unwrap();
    let mut node = Ended(inside(&root, &mounts, &words).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let probe = ["/opt/teemate/bin/teemate", "node", "status", "--socket", "/run/teemate/node.sock"];
    assert!(manifest.contains(&probe.map(|word| format!("{word:?}")).join(", ")), "the DaemonSet has another probe");
    let (socket, begin) = (run.join("node.sock"), Instant::now());
    loop {
        let said = Said::of(inside(&root, &[(&run, "/run/teemate")], &probe).output());
        if said.status == 0 {
            break;
        }
        let log = || fs::read_to_string(ctr.directory().join("node-in-image.log")).unwrap_or_default();
        assert!(begin.elapsed() < Duration::from_secs(60) && node.0.try_wait().unwrap().is_none(), "{said:?}\n{}", log());
        thread::sleep(Duration::from_millis(200));
    }

    // The machine's containerd, with the shim that came, and the node behind it.
    ctr.drive(&bin, &socket).unwrap();
    let said = ctr.run(&["--rm"], FUNCTION, "function", &["/hello.js", "name=Ada"]);
    assert!(said.status == 0 && said.stdout.contains("Hello Ada"), "{said:?}\n{}", ctr.last_words());
    let mut metrics = TcpStream::connect(at).unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    metrics.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("teemate_containers"), "{text}");
    // A pod is deleted: the node ends in order.
    kill_process(Pid::from_child(&node.0), Signal::TERM).unwrap();
    assert!(node.0.wait().unwrap().success());
}

/// An invoker of OpenWhisk starts the image as it stands, with the owner's profile mounted, and says `/init` and `/run`.
#[test]
fn the_action_s_image_runs_on_nothing_and_serves_an_invoker() {
    const ACTION: &str = "docker.io/teemate/action:1";
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    if let Some(reason) = Containerd::missing(&artifacts, Release::INSTALLED) {
        return skip(reason);
    }
    let node = Node::start_listening(&artifacts).unwrap();
    let owner = Owner::new(&artifacts).unwrap();
    let policy = owner.policy("policy.toml", &format!("mrenclave = \"{}\"", node.status().unwrap().mrenclave)).unwrap();
    owner.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    let ctr = Containerd::start(&artifacts, Release::INSTALLED, &[]).unwrap();
    ctr.import(&action_image::spec(&artifacts, ACTION).unwrap()).unwrap();

    // What is mounted: the profile, whose policy lies beside it.
    let profiles = ctr.directory().join("profiles");
    fs::create_dir(&profiles).unwrap();
    let profile = fs::read_to_string(owner.home().join(".config/teemate/profiles/default.toml")).unwrap();
    let there = format!("{}/policy.toml", action_image::PROFILES);
    assert!(profile.contains(&policy.display().to_string()), "{profile}");
    fs::write(profiles.join("default.toml"), profile.replace(&policy.display().to_string(), &there)).unwrap();
    fs::copy(&policy, profiles.join("policy.toml")).unwrap();

    // The test's machine may use the usual port itself.
    let address = free();
    let port = address.port();
    let mount = format!("type=bind,src={},dst={},options=rbind:ro", profiles.display(), action_image::PROFILES);
    let said = ctr.run(&["--detach", "--net-host", "--env", &format!("PORT={port}"), "--mount", &mount], ACTION, "action", &[]);
    assert_eq!(said.status, 0, "{said:?}\n{}", ctr.last_words());
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not listen: {:?}\n{}", ctr.task("action"), ctr.last_words());
        thread::sleep(Duration::from_millis(50));
    }
    let init = json!({"value": {"name": "hello", "main": "main", "binary": false, "code": SOURCE}});
    assert_eq!(invoker::post(address, "/init", &init).unwrap(), (200, json!({"OK": true})));
    let run = json!({"value": {"name": "Ada"}, "activation_id": "1"});
    assert_eq!(invoker::post(address, "/run", &run).unwrap(), (200, json!({"greeting": "Hello Ada"})));
    // It ran in a container of the shared enclave, which is kept for the next call.
    let ps = node.ps().unwrap();
    assert!(ps.containers.iter().any(|container| container.role == "function" && container.enclave.is_some()), "{ps:?}");
    assert_eq!(ctr.ctr(&["task", "kill", "--signal", "SIGTERM", "action"]).status, 0);
    assert!(ctr.becomes("action", "STOPPED"));
    assert!(ctr.remove("action").is_empty(), "it ends in order when it is told to");
}
