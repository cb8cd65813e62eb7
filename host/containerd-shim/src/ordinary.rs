//! Ordinary containers, such as a pod's pause and sidecars: the machine's runc runs them.
//!
//! The shim is their subreaper: when runc has set one up and left, its process is the shim's child. The library's signal handler reaps all
//! children and tells their pids to subscribers, also those of runc itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim::asynchronous::monitor::{monitor_subscribe, monitor_unsubscribe};
use containerd_shim::monitor::{Subject, Topic};
use tokio::sync::oneshot;

use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::stdio;

/// The program.
const RUNC: &str = "runc";
/// How long one command of runc may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Ends of processes that nobody has asked for yet.
const UNCLAIMED: usize = 4096;

/// Ends of children, by pid.
#[derive(Clone, Default)]
pub struct Children {
    ends: Arc<Mutex<Ends>>,
}

#[derive(Default)]
struct Ends {
    /// Told before anybody asked.
    early: HashMap<u32, u32>,
    waiting: HashMap<u32, oneshot::Sender<u32>>,
}

impl Children {
    /// Listens from now on.
    pub async fn listen() -> Children {
        let children = Children::default();
        let ends = Arc::clone(&children.ends);
        match monitor_subscribe(Topic::Pid).await {
            Ok(mut subscription) => {
                tokio::spawn(async move {
                    while let Some(event) = subscription.rx.recv().await {
                        let Subject::Pid(pid) = event.subject else { continue };
                        let (pid, status) = (pid.unsigned_abs(), event.exit_code.unsigned_abs());
                        let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                        match ends.waiting.remove(&pid) {
                            Some(sender) => _ = sender.send(status),
                            None if ends.early.len() < UNCLAIMED => _ = ends.early.insert(pid, status),
                            None => {}
                        }
                    }
                    let _ = monitor_unsubscribe(subscription.id).await;
                });
            }
            Err(error) => log::error!("ends of processes can't be listened for: {error}"),
        }
        children
    }

    /// The status with which a child ends; 128 + n for signal n.
    pub fn end_of(&self, pid: u32) -> oneshot::Receiver<u32> {
        let (sender, receiver) = oneshot::channel();
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.early.remove(&pid) {
            Some(status) => _ = sender.send(status),
            None => _ = ends.waiting.insert(pid, sender),
        }
        receiver
    }
}

/// runc, for one containerd namespace.
#[derive(Clone)]
pub struct Runc {
    root: PathBuf,
    children: Children,
}

impl Runc {
    /// With the ends of this process's children.
    pub fn new(namespace: &str, children: Children) -> Runc {
        Runc { root: root(namespace), children }
    }

    /// Ends of children.
    pub fn children(&self) -> &Children {
        &self.children
    }

    async fn run(&self, entry: &Entry, words: &[&str], with_stdio: bool) -> Result<()> {
        let name = words.first().copied().unwrap_or_default();
        let failed = |reason: String| Error::Runc { command: name.to_owned(), reason };
        let log = entry.bundle.join(format!("runc-{}.log", if entry.exec_id.is_empty() { "init" } else { &entry.exec_id }));
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(RUNC);
        command.arg("--root").arg(&self.root).arg("--log").arg(&log).args(["--log-format", "json"]).args(words).current_dir(&entry.bundle);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if with_stdio {
            let open = |file: Option<std::fs::File>| -> Result<Stdio> {
                Ok(file.map(stdio::waiting).transpose()?.map_or_else(Stdio::null, Stdio::from))
            };
            let input = stdio::input(&entry.stdio.stdin)?.map(|(end, keeper)| {
                entry.keep_input(Some(keeper));
                end
            });
            command
                .stdin(open(input)?)
                .stdout(open(stdio::output(&entry.stdio.stdout)?)?)
                .stderr(open(stdio::output(&entry.stdio.stderr)?)?);
        }
        let child = command.spawn().map_err(|error| {
            failed(format!("the program {RUNC} can't be started ({error}); an ordinary image needs it, install the package runc"))
        })?;
        drop(command);
        match tokio::time::timeout(LIMIT, self.children.end_of(child.id())).await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(status)) => Err(failed(said(&log).unwrap_or_else(|| format!("it ended with status {status}")))),
            Ok(Err(_)) => Err(failed("its end is unknown".to_owned())),
            Err(_) => Err(failed(format!("it did not end within {} s", LIMIT.as_secs()))),
        }
    }

    /// Makes a container; gives its pid.
    pub async fn create(&self, entry: &Entry) -> Result<u32> {
        let file = entry.bundle.join("init.pid");
        let (bundle, pid_file) = (text(&entry.bundle)?, text(&file)?);
        self.run(entry, &["create", "--bundle", bundle, "--pid-file", pid_file, &entry.id], true).await?;
        pid(&file)
    }

    /// Starts it.
    pub async fn start(&self, entry: &Entry) -> Result<()> {
        self.run(entry, &["start", &entry.id], false).await
    }

    /// Executes one more process in it; gives its pid.
    pub async fn exec(&self, entry: &Entry) -> Result<u32> {
        let process = entry.bundle.join(format!("exec-{}.json", entry.exec_id));
        let file = entry.bundle.join(format!("exec-{}.pid", entry.exec_id));
        std::fs::write(&process, entry.process.as_deref().unwrap_or_default()).map_err(Error::file(&process))?;
        let words = ["exec", "--detach", "--process", text(&process)?, "--pid-file", text(&file)?, &entry.id];
        let done = self.run(entry, &words, true).await;
        let _ = std::fs::remove_file(&process);
        done?;
        let found = pid(&file);
        let _ = std::fs::remove_file(&file);
        found
    }

    /// Sends a signal to its process, or to all of them.
    pub async fn kill(&self, entry: &Entry, signal: u32, all: bool) -> Result<()> {
        let signal = signal.to_string();
        let words: &[&str] = if all { &["kill", "--all", &entry.id, &signal] } else { &["kill", &entry.id, &signal] };
        self.run(entry, words, false).await
    }

    /// Freezes it, or lets it go on.
    pub async fn freeze(&self, entry: &Entry, stop: bool) -> Result<()> {
        self.run(entry, &[if stop { "pause" } else { "resume" }, &entry.id], false).await
    }

    /// Changes its limits to these (JSON).
    pub async fn update(&self, entry: &Entry, resources: &[u8]) -> Result<()> {
        let file = entry.bundle.join("resources.json");
        std::fs::write(&file, resources).map_err(Error::file(&file))?;
        let done = self.run(entry, &["update", "--resources", text(&file)?, &entry.id], false).await;
        let _ = std::fs::remove_file(&file);
        done
    }

    /// Forgets it.
    pub async fn delete(&self, entry: &Entry) -> Result<()> {
        self.run(entry, &["delete", "--force", &entry.id], false).await
    }
}

/// Forgets a container whose shim has gone.
pub fn delete_without_shim(namespace: &str, id: &str) {
    let mut command = Command::new(RUNC);
    let _ = command.arg("--root").arg(root(namespace)).args(["delete", "--force", id]).stderr(Stdio::null()).status();
}

fn root(namespace: &str) -> PathBuf {
    Path::new("/run/teemate/runc").join(namespace)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::File { path: path.to_owned(), reason: "it is not UTF-8".to_owned() })
}

fn pid(file: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(file).map_err(Error::file(file))?;
    text.trim().parse().map_err(Error::file(file))
}

/// The last error of runc's log: JSON lines with `level` and `msg`.
fn said(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["level"] == "error").filter_map(|line| Some(line["msg"].as_str()?.to_owned())).next_back()
}
