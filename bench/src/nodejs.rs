//! The Node container: an action runtime in a container of its own, started for each call, as OpenWhisk does when it is cold.
//!
//! The runtime is Apache OpenWhisk's own for Node.js where its sources and their packages are there (see [`WHERE`]), else a small server
//! that does the same for these functions and starts faster.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use teemate_tests::memory::{self, Memory};

const SERVER: &str = include_str!("../nodejs/server.js");
const LISTEN: &str = include_str!("../nodejs/listen.js");
/// Names the directory of Apache's runtime: `core/nodejsActionBase` of its sources, with its packages installed.
const WHERE: &str = "TEEMATE_OPENWHISK_RUNTIME";
/// How to get it; nothing here does so by itself.
const GET: &str = "git clone https://github.com/apache/openwhisk-runtime-nodejs && cd openwhisk-runtime-nodejs/core/nodejsActionBase && \
    npm install --omit=dev && export TEEMATE_OPENWHISK_RUNTIME=$PWD";
/// How long a runtime may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often its socket is tried.
const STEP: Duration = Duration::from_micros(500);
/// Directory of the socket and the server, inside the container.
const INSIDE: &str = "/action";
/// Directory of Apache's runtime, inside the container, as in its own image.
const APACHE_INSIDE: &str = "/nodejsAction";

/// What makes the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    /// An OCI runtime, as Docker and containerd use it.
    Runc,
    /// unshare(1): namespaces only, no root of its own, no cgroup. Faster than any OCI runtime.
    Unshare,
}

/// Node containers can be made.
pub struct Nodejs {
    node: PathBuf,
    runtime: Runtime,
    /// Apache's runtime; without, the small server is used.
    apache: Option<PathBuf>,
    directory: tempfile::TempDir,
    count: AtomicU64,
}

/// A function for it.
pub struct Action<'a> {
    /// Source.
    pub code: &'a str,
    /// Files, and where the function sees them.
    pub files: &'a [(PathBuf, String)],
    /// Whether it needs the host's network.
    pub network: bool,
}

/// One call's result and where the time went, in microseconds.
pub struct Call {
    /// From the request to the result.
    pub total_us: f64,
    /// Until the runtime listens.
    pub container_us: f64,
    /// `/init`.
    pub init_us: f64,
    /// `/run`.
    pub run_us: f64,
    /// What the function returned.
    pub result: Value,
    /// Memory of the container's processes after the call.
    pub container: Container,
}

impl Nodejs {
    /// Finds what it needs.
    ///
    /// # Errors
    /// The reason why there can be no Node container here.
    pub fn find() -> Result<Self> {
        let node = which("node").context("Node.js is not installed: install nodejs 18 or newer")?;
        let root = rustix::process::geteuid().is_root();
        let runtime = match (root, which("runc"), which("unshare")) {
            (true, Some(_), _) => Runtime::Runc,
            (true, None, Some(_)) => Runtime::Unshare,
            (false, _, _) => bail!("a container of its own for Node.js needs root here"),
            _ => bail!("neither runc nor unshare is installed"),
        };
        let directory = tempfile::Builder::new().prefix("teemate-nodejs-").tempdir()?;
        fs::write(directory.path().join("server.js"), SERVER)?;
        fs::write(directory.path().join("listen.js"), LISTEN)?;
        Ok(Nodejs { node, runtime, apache: apache()?, directory, count: AtomicU64::new(0) })
    }

    /// What runs and how containers are made, for the report.
    pub fn describe(&self) -> String {
        let program = match &self.apache {
            Some(_) => "Apache OpenWhisk's action runtime for Node.js".to_owned(),
            None => format!("a small server that starts faster than Apache's action runtime, which is not here ({GET})"),
        };
        let container = match self.runtime {
            Runtime::Runc => "runc, namespaces pid mount uts ipc net, a cgroup, a root of bind mounts",
            Runtime::Unshare => {
                "unshare(1), namespaces pid mount uts ipc net; runc is not installed (apt-get install runc), and would take longer"
            }
        };
        format!("{program}; {container}")
    }

    /// Arguments of Node.js, when the runtime is at `apache` and what [`Nodejs::prepare`] made is at `own`.
    fn arguments(&self, apache: &Path, own: &Path) -> Vec<PathBuf> {
        match self.apache {
            // As its own image starts it.
            Some(_) => vec!["--expose-gc".into(), "--require".into(), own.join("listen.js"), apache.join("app.js")],
            None => vec![own.join("server.js")],
        }
    }

    /// Whether this function can run in such a container.
    pub fn fits(&self, action: &Action<'_>) -> Result<(), String> {
        match self.runtime {
            Runtime::Unshare if !action.files.is_empty() => Err("without runc the container has no root to put files in".to_owned()),
            _ => Ok(()),
        }
    }

    /// Starts a container, initialises the action and calls it. The container lives until [`Call::container`] goes.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn call(&self, action: &Action<'_>, params: &Value) -> Result<Call> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let bundle = self.directory.path().join(number.to_string());
        self.prepare(&bundle, action)?;
        let begin = Instant::now();
        let container = self.start(&bundle, number, action)?;
        let socket = bundle.join("run/socket");
        wait(&socket, &container)?;
        let listening = begin.elapsed();
        let init = json!({ "value": { "name": "f", "main": "main", "binary": false, "code": action.code, "env": {} } });
        let (code, answer) = post(&socket, "/init", &init)?;
        if code != 200 {
            bail!("/init answered {code}: {answer}");
        }
        let ready = begin.elapsed();
        let (code, result) = post(&socket, "/run", &json!({ "value": params }))?;
        if code != 200 {
            bail!("/run answered {code}: {result}");
        }
        let done = begin.elapsed();
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        Ok(Call {
            total_us: us(done),
            container_us: us(listening),
            init_us: us(ready - listening),
            run_us: us(done - ready),
            result,
            container,
        })
    }

    /// What can be made before the call: directories and the configuration.
    fn prepare(&self, bundle: &Path, action: &Action<'_>) -> Result<()> {
        fs::create_dir_all(bundle.join("run"))?;
        fs::create_dir_all(bundle.join("rootfs"))?;
        for script in ["server.js", "listen.js"] {
            fs::copy(self.directory.path().join(script), bundle.join("run").join(script))?;
        }
        if self.runtime == Runtime::Runc {
            fs::write(bundle.join("config.json"), serde_json::to_vec(&self.configuration(bundle, action))?)?;
        }
        Ok(())
    }

    /// An OCI runtime configuration.
    fn configuration(&self, bundle: &Path, action: &Action<'_>) -> Value {
        let bind =
            |source: &Path, target: &str| json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", "ro"] });
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }),
            json!({ "destination": INSIDE, "type": "bind", "source": bundle.join("run"), "options": ["rbind", "rw"] }),
        ];
        let places = ["/usr", "/lib", "/lib64", "/bin"].map(Path::new);
        let node = self.node.canonicalize().unwrap_or_else(|_| self.node.clone());
        let extra = node.parent().filter(|parent| !parent.starts_with("/usr") && !parent.starts_with("/bin"));
        for place in places.into_iter().chain(extra).filter(|place| place.is_dir()) {
            mounts.push(bind(place, &place.display().to_string()));
        }
        mounts.extend(self.apache.as_ref().map(|apache| bind(apache, APACHE_INSIDE)));
        for (source, target) in action.files {
            mounts.push(bind(&source.canonicalize().unwrap_or_else(|_| source.clone()), target));
        }
        let arguments = [vec![node], self.arguments(Path::new(APACHE_INSIDE), Path::new(INSIDE))].concat();
        let mut namespaces = vec!["pid", "mount", "uts", "ipc"];
        if !action.network {
            namespaces.push("network");
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": arguments,
                "env": ["PATH=/usr/bin:/bin", format!("SOCKET={INSIDE}/socket")],
                "cwd": if self.apache.is_some() { APACHE_INSIDE } else { "/" },
            },
            "root": { "path": "rootfs", "readonly": false },
            "hostname": "action",
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
                "resources": { "memory": { "limit": 256 << 20 }, "pids": { "limit": 256 } },
            },
        })
    }

    fn start(&self, bundle: &Path, number: u64, action: &Action<'_>) -> Result<Container> {
        let id = format!("teemate-bench-{}-{number}", std::process::id());
        let log = fs::File::create(bundle.join("log"))?;
        let mut command = match self.runtime {
            Runtime::Runc => {
                let mut command = Command::new("runc");
                command.args(["run", "--bundle"]).arg(bundle).arg(&id);
                command
            }
            Runtime::Unshare => {
                let mut command = Command::new("unshare");
                command.args(["--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc"]);
                if !action.network {
                    command.arg("--net");
                }
                let apache = self.apache.clone().unwrap_or_default();
                command.arg(&self.node).args(self.arguments(&apache, &bundle.join("run"))).env("SOCKET", bundle.join("run/socket"));
                command
            }
        };
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("the container can't be started")?;
        Ok(Container { child, id, bundle: bundle.to_owned(), runtime: self.runtime })
    }
}

/// A container that runs.
pub struct Container {
    child: Child,
    id: String,
    bundle: PathBuf,
    runtime: Runtime,
}

impl Container {
    /// Memory of its processes, without the runtime's own.
    pub fn memory(&self) -> Memory {
        let family = memory::family(self.child.id());
        let own = usize::from(self.runtime == Runtime::Runc || self.runtime == Runtime::Unshare);
        memory::of(family.get(own..).unwrap_or_default())
    }

    fn words(&self) -> String {
        fs::read_to_string(self.bundle.join("log")).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.runtime == Runtime::Runc {
            let _ = Command::new("runc").args(["delete", "--force", &self.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.bundle);
    }
}

fn wait(socket: &Path, container: &Container) -> Result<()> {
    let begin = Instant::now();
    while UnixStream::connect(socket).is_err() {
        let gone = !Path::new(&format!("/proc/{}", container.child.id())).exists() || memory::family(container.child.id()).is_empty();
        if gone || begin.elapsed() > PATIENCE {
            return Err(anyhow!("the runtime does not listen: {}", container.words()));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn post(socket: &Path, path: &str, body: &Value) -> Result<(u16, Value)> {
    let body = serde_json::to_vec(body)?;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: action\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the runtime's answer has no end of head")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the runtime's answer has no code")?;
    Ok((code, serde_json::from_str(body)?))
}

/// Apache's runtime, if somebody said where it is.
fn apache() -> Result<Option<PathBuf>> {
    let Some(directory) = std::env::var_os(WHERE).map(PathBuf::from) else { return Ok(None) };
    for needed in ["app.js", "node_modules/express"] {
        if !directory.join(needed).exists() {
            bail!("{WHERE} names {}, which has no {needed}: {GET}", directory.display());
        }
    }
    Ok(Some(directory.canonicalize()?))
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_initialises_and_runs_an_action() {
        let nodejs = match Nodejs::find() {
            Ok(nodejs) => nodejs,
            Err(reason) => {
                println!("skipped: {reason:#}");
                return;
            }
        };
        let action = Action { code: "function main(p) { return { n: p.n + 1 }; }", files: &[], network: false };
        let call = nodejs.call(&action, &json!({ "n": 1 })).unwrap();
        assert_eq!(call.result, json!({ "n": 2 }), "{}", nodejs.describe());
        assert!(call.container_us > 0.0 && call.init_us > 0.0 && call.run_us > 0.0);
        assert!(call.container.memory().pss_kib > 0);
    }

    /// Needs no container: the server itself, as a process.
    #[test]
    fn the_server_speaks_init_and_run() {
        let Some(node) = which("node") else {
            println!("SKIPPED: Node.js is not installed");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let (server, socket) = (directory.path().join("server.js"), directory.path().join("socket"));
        fs::write(&server, SERVER).unwrap();
        let mut child = Command::new(node).arg(&server).env("SOCKET", &socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begin.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        let ask = |path: &str, body: Value| post(&socket, path, &body).unwrap();
        assert_eq!(ask("/run", json!({})).0, 403);
        assert_eq!(ask("/init", json!({ "value": {} })).0, 403);
        let init = json!({ "value": { "code": "function main(p) { if (p.bad) return 1; if (p.throw) throw new Error('x'); return { n: p.n + 1 }; }" } });
        assert_eq!(ask("/init", init.clone()), (200, json!({ "OK": true })));
        assert_eq!(ask("/init", init).0, 403);
        assert_eq!(ask("/run", json!({ "value": { "n": 1 } })), (200, json!({ "n": 2 })));
        assert_eq!(ask("/run", json!({ "value": { "bad": 1 } })).0, 502);
        assert_eq!(ask("/run", json!({ "value": { "throw": 1 } })).0, 502);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
