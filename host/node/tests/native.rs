//! The daemon as its users meet it, with the payload as an ordinary program: no enclave is needed, root and a built payload are.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

struct Daemon {
    child: Child,
    directory: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The programs, or why the test can't run.
fn programs() -> Result<(PathBuf, PathBuf), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root, for namespaces and control groups".to_owned());
    }
    let node = Path::new(env!("CARGO_BIN_EXE_teemate-node"));
    let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../artifacts/bin");
    let find = |name: &str, variable: &str| {
        let named = std::env::var_os(variable).map(PathBuf::from);
        let places = named.into_iter().chain([node.with_file_name(name), artifacts.join(name)]);
        places.into_iter().find(|path| path.is_file()).ok_or(format!("{name} is not built; run `cargo xtask build`, or set {variable}"))
    };
    let payload = find("teemate-functions", "TEEMATE_NATIVE_PAYLOAD")?;
    // A container's root is empty: no program with an interpreter runs in it. Cargo puts such a one beside the node.
    let bytes = std::fs::read(&payload).map_err(|error| error.to_string())?;
    if bytes.windows(INTERPRETER.len()).any(|window| window == INTERPRETER) {
        return Err(format!("{} is not static; `cargo xtask build` makes one, TEEMATE_NATIVE_PAYLOAD names it", payload.display()));
    }
    Ok((find("teemate-zygote", "TEEMATE_ZYGOTE")?, payload))
}

/// What a dynamic program's PT_INTERP names.
const INTERPRETER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";

impl Daemon {
    fn start(directory: &Path, zygote: &Path, payload: &Path) -> Daemon {
        let log = std::fs::File::options().append(true).create(true).open(directory.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_teemate-node"))
            .args(["--sharing", "native", "--stop-grace", "2"])
            .arg("--state")
            .arg(directory.join("state"))
            .arg("--socket")
            .arg(directory.join("node.sock"))
            .arg("--zygote")
            .arg(zygote)
            .arg("--native-payload")
            .arg(payload)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { child, directory: directory.to_owned() };
        let end = Instant::now() + Duration::from_secs(30);
        while daemon.try_ask(&json!({"request": "status"})).is_none() {
            assert!(Instant::now() < end, "the node does not answer:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn try_ask(&self, request: &Value) -> Option<Value> {
        let mut stream = UnixStream::connect(self.directory.join("node.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    fn ask(&self, request: &Value) -> Value {
        self.try_ask(request).unwrap_or_else(|| panic!("no answer to {request}:\n{}", self.log()))
    }

    fn deploy(&self, name: &str, source: &str) -> Value {
        use base64::Engine;
        let spec = json!({"name": name, "kind": "javascript", "main": "main", "limits": {"timeout_ms": 3000}, "egress": [], "files": [], "env": []});
        let code = base64::engine::general_purpose::STANDARD.encode(source);
        self.ask(&json!({"request": "deploy", "spec": spec, "code": code, "files": []}))
    }

    fn invoke(&self, name: &str, params: Value) -> Value {
        self.ask(&json!({"request": "invoke", "name": name, "params": params, "sharing": null}))
    }

    fn containers(&self) -> Vec<Value> {
        self.ask(&json!({"request": "ps"}))["containers"].as_array().unwrap().clone()
    }
}

/// What the function returned.
fn result(answer: &Value) -> Value {
    let bytes: Vec<u8> = answer["outcome"]["result"]["Ok"]
        .as_array()
        .unwrap_or_else(|| panic!("no result: {answer}"))
        .iter()
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    serde_json::from_slice(&bytes).unwrap()
}

fn groups_of(pid: u32) -> Vec<PathBuf> {
    let hierarchies = ["memory", "cpu", "pids", "unified", "."];
    hierarchies
        .iter()
        .map(|name| Path::new("/sys/fs/cgroup").join(name).join(format!("teemate/{pid}")))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn a_node_lives_crashes_comes_back_and_leaves_nothing() {
    let (zygote, payload) = match programs() {
        Ok(programs) => programs,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(directory.path(), &zygote, &payload);

    let deployed = daemon.deploy("add", "function main(p) { console.log('hi'); return {sum: p.a + p.b}; }");
    assert_eq!(deployed["response"], "function", "{deployed}");
    assert_eq!(daemon.deploy("bad", "function main( {")["response"], "failed");
    assert_eq!(daemon.deploy("loop", "function main() { for (;;) {} }")["response"], "function");

    let answer = daemon.invoke("add", json!({"a": 2, "b": 40}));
    assert_eq!(result(&answer), json!({"sum": 42}));
    let marks = answer["outcome"]["marks"].as_array().unwrap();
    for phase in ["received", "container_requested", "process_started", "container_ready", "entered", "executed", "returned"] {
        assert!(marks.iter().any(|mark| mark["phase"] == phase), "{phase} is missing in {marks:?}");
    }
    assert!(marks.windows(2).all(|pair| pair[0]["at_ns"].as_u64() <= pair[1]["at_ns"].as_u64()));
    assert_eq!(daemon.invoke("add", json!([1]))["kind"], "invalid");
    assert_eq!(daemon.invoke("none", json!({}))["kind"], "invalid");
    // A call's container is taken down after its answer is out.
    let end = Instant::now() + Duration::from_secs(5);
    while !daemon.containers().is_empty() {
        assert!(Instant::now() < end, "a container outlives its call: {:?}", daemon.containers());
        std::thread::sleep(Duration::from_millis(5));
    }

    // A container that is killed from outside: its caller gets an error, and no other call does.
    std::thread::scope(|scope| {
        let lost = scope.spawn(|| daemon.invoke("loop", json!({})));
        let end = Instant::now() + Duration::from_secs(20);
        let container = loop {
            if let Some(container) = daemon.containers().into_iter().find(|container| container["function"] == "loop") {
                break container;
            }
            assert!(Instant::now() < end, "the container does not show");
            std::thread::sleep(Duration::from_millis(2));
        };
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
        let namespaces = container["namespaces"].as_array().unwrap();
        assert_eq!(namespaces.len(), 6);
        assert!(!own.contains(&namespaces[0][1].to_string()));
        assert!(container["rss_kib"].as_u64().unwrap() > 0 && !container["cgroups"].as_array().unwrap().is_empty());
        assert_eq!(daemon.ask(&json!({"request": "kill", "container": container["id"]}))["response"], "ok");
        assert_eq!(result(&daemon.invoke("add", json!({"a": 1, "b": 1}))), json!({"sum": 2}));
        let lost = lost.join().unwrap();
        assert_eq!(lost["response"], "failed", "{lost}");
        assert!(lost["message"].as_str().unwrap().contains("an administrator"), "{lost}");
    });

    // Another node on the same state is refused.
    let second = Command::new(env!("CARGO_BIN_EXE_teemate-node"))
        .args(["--sharing", "native", "--state"])
        .arg(directory.path().join("state"))
        .arg("--socket")
        .arg(directory.path().join("other.sock"))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another node"), "{}", String::from_utf8_lossy(&second.stderr));

    // A crash: everything that it started dies, its groups are swept by the next one, functions are there.
    let crashed = daemon.child.id();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| daemon.try_ask(&json!({"request": "invoke", "name": "loop", "params": {}, "sharing": null})));
        let end = Instant::now() + Duration::from_secs(20);
        while daemon.containers().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        let pids: Vec<u64> = daemon.containers().iter().filter_map(|container| container["pid"].as_u64()).collect();
        rustix::process::kill_process(rustix::process::Pid::from_raw(crashed as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
        assert_eq!(call.join().unwrap(), None);
        let end = Instant::now() + Duration::from_secs(5);
        while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z"), "a container outlived its node: {stat}");
        }
    });
    daemon.child.wait().unwrap();
    let mut daemon = Daemon::start(directory.path(), &zygote, &payload);
    assert_eq!(groups_of(crashed), Vec::<PathBuf>::new(), "groups of the crashed node");
    assert_eq!(result(&daemon.invoke("add", json!({"a": 3, "b": 4}))), json!({"sum": 7}));
    let logs = daemon.ask(&json!({"request": "logs", "name": "add", "last": 5}));
    assert_eq!(logs["calls"][0]["logs"].as_str().unwrap().trim(), "hi", "{logs}");
    assert!(daemon.ask(&json!({"request": "metrics"}))["text"].as_str().unwrap().contains("teemate_calls_total"));

    // In order: a call that lasts too long is given up, nothing is left.
    let pid = daemon.child.id();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| daemon.try_ask(&json!({"request": "invoke", "name": "loop", "params": {}, "sharing": null})));
        while daemon.containers().is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(daemon.ask(&json!({"request": "stop"}))["response"], "ok");
        let refused = daemon.try_ask(&json!({"request": "invoke", "name": "add", "params": {}, "sharing": null}));
        assert!(refused.is_none_or(|answer| answer["kind"] == "busy"));
        let _ = call.join().unwrap();
    });
    let status = daemon.child.wait().unwrap();
    assert!(status.success(), "{status}\n{}", daemon.log());
    assert!(!directory.path().join("node.sock").exists() && !directory.path().join("state/node.pid").exists());
    assert_eq!(groups_of(pid), Vec::<PathBuf>::new());
}
