//! A containerd of one's own, with its own directories and socket, whose runtime is the shim, and a node behind it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use teemate_client::oci::{self, ImageFile, ImageSpec};
use teemate_control::node::Sharing;

use crate::artifacts::Artifacts;
use crate::running::{Node, last_lines};

/// The runtime's name.
pub const RUNTIME: &str = "io.containerd.teemate.v1";
/// Name of the shim's program.
pub const SHIM: &str = "containerd-shim-teemate-v1";
/// Where Debian's package containernetworking-plugins puts them.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";
/// containerd's namespace for Kubernetes.
const CRI_NAMESPACE: &str = "k8s.io";
/// Those of this process.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// How long one command of ctr may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A release of containerd that is tested with.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Where it is unpacked, among [`peers`]. Empty: it is the machine's own.
    pub directory: &'static str,
}

impl Release {
    /// The machine's own.
    pub const INSTALLED: Release = Release { directory: "" };
    /// 1.7.
    pub const V1_7: Release = Release { directory: "containerd-1.7" };
    /// 2.
    pub const V2: Release = Release { directory: "containerd-2" };

    /// Where to look for its programs.
    fn search(self, artifacts: &Artifacts) -> Vec<PathBuf> {
        match self.directory {
            "" => ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"].map(PathBuf::from).to_vec(),
            directory => vec![peers(artifacts).join(directory).join("usr/bin")],
        }
    }
}

/// Docker, among [`peers`].
pub const DOCKER: &str = "docker-26";

/// Where `cargo xtask test` unpacks newer releases than the machine's own.
pub fn peers(artifacts: &Artifacts) -> PathBuf {
    artifacts.directory().join("peers")
}

/// The tests of a file, with each release: functions of the file that take one.
#[macro_export]
macro_rules! with_each_release {
    ($($test:ident),+ $(,)?) => {
        $crate::with_each_release!(installed = INSTALLED: $($test),+);
        $crate::with_each_release!(containerd_1_7 = V1_7: $($test),+);
        $crate::with_each_release!(containerd_2 = V2: $($test),+);
    };
    ($module:ident = $release:ident: $($test:ident),+) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test($crate::containerd::Release::$release);
            })+
        }
    };
}

/// One containerd and one node.
pub struct Containerd {
    child: Option<Child>,
    /// Behind the shim, unless another one is ([`Containerd::drive`]).
    pub node: Node,
    driven: Option<PathBuf>,
    directory: tempfile::TempDir,
    namespace: String,
    path: String,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit status; -1: none.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// That of a command which has ended, or was not started.
    pub fn of(output: std::io::Result<Output>) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match output {
            Ok(Output { status, stdout, stderr }) => {
                Said { status: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
            }
            Err(error) => Said { status: -1, stdout: String::new(), stderr: error.to_string() },
        }
    }
}

impl Said {
    /// That of a command with a pipe as its input, through which it is given this.
    pub fn of_reading(input: &str, begun: std::io::Result<Child>) -> Said {
        let mut child = match begun {
            Ok(child) => child,
            Err(error) => return Said::of(Err(error)),
        };
        // In a thread of its own, for nobody may read. Dropping the pipe ends the input.
        let (text, pipe) = (input.to_owned(), child.stdin.take());
        let writer = std::thread::spawn(move || pipe.map(|mut pipe| pipe.write_all(text.as_bytes())));
        let said = Said::of(child.wait_with_output());
        let _ = writer.join();
        said
    }
}

impl Containerd {
    /// Why this release can't be had here, if so.
    pub fn missing(artifacts: &Artifacts, release: Release) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("containerd needs root".to_owned());
        }
        let found = |release: Release, name: &str| release.search(artifacts).iter().any(|directory| directory.join(name).is_file());
        if !found(Release::INSTALLED, "runc") {
            return Some("there is no runc; install the package".to_owned());
        }
        if let Some(absent) = ["containerd", "ctr"].into_iter().find(|name| !found(release, name)) {
            return Some(match release.directory {
                "" => format!("there is no {absent}; install the package containerd"),
                directory => format!("there is no {directory}; `cargo xtask test` unpacks it where it is root of a Debian"),
            });
        }
        let shim = artifacts.program(SHIM);
        (!shim.is_file()).then(|| format!("{} is not built", shim.display()))
    }

    /// Starts both.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(artifacts: &Artifacts, release: Release, arguments: &[&str]) -> Result<Containerd, String> {
        let namespace = format!("teemate-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        Containerd::start_with(artifacts, release, arguments, namespace, &["io.containerd.grpc.v1.cri"], |_| String::new())
    }

    /// The same with Kubernetes' interface: pods of the handler `teemate` are the shim's, those of `runc` containerd's own, and this image is
    /// their pause container.
    ///
    /// # Errors
    /// A sentence.
    pub fn start_for_pods(artifacts: &Artifacts, release: Release, arguments: &[&str], pause: &ImageSpec) -> Result<Containerd, String> {
        let plugins = |at: &Path| {
            format!(
                r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{at}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "teemate"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.teemate]
  runtime_type = "{RUNTIME}"
  pod_annotations = ["io.teemate.*"]
  container_annotations = ["io.teemate.*"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#,
                pause = pause.reference,
                at = at.display()
            )
        };
        let containerd = Containerd::start_with(artifacts, release, arguments, CRI_NAMESPACE.to_owned(), &[], plugins)?;
        containerd.import(pause)?;
        Ok(containerd)
    }

    fn start_with(
        artifacts: &Artifacts,
        release: Release,
        arguments: &[&str],
        namespace: String,
        disabled: &[&str],
        plugins: impl FnOnce(&Path) -> String,
    ) -> Result<Containerd, String> {
        let node = Node::start_with(artifacts, Sharing::Shared, arguments)?;
        let directory = tempfile::Builder::new().prefix("teemate-ctr-").tempdir().map_err(|error| error.to_string())?;
        let at = directory.path().display();
        // That of NRI would listen at a place of the whole machine.
        let disabled = [disabled, &["io.containerd.nri.v1.nri"]].concat();
        let text = format!("version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\ndisabled_plugins = {disabled:?}\n")
            + &plugins(directory.path())
            + &format!("[grpc]\n  address = \"{at}/containerd.sock\"\n");
        std::fs::write(directory.path().join("config.toml"), text).map_err(|error| error.to_string())?;
        let own = release.search(artifacts).into_iter().chain([artifacts.directory().join("bin")]);
        let usual = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let path = own.map(|directory| format!("{}:", directory.display())).collect::<String>() + &usual;
        let mut containerd = Containerd { child: None, node, driven: None, directory, namespace, path };
        containerd.begin()?;
        Ok(containerd)
    }

    fn begin(&mut self) -> Result<(), String> {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).map_err(|error| error.to_string())?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.directory.path().join("config.toml")).env("PATH", &self.path);
        command
            .env("TEEMATE_SOCKET", self.driven.as_deref().unwrap_or(self.node.socket()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().map_err(|error| error.to_string())?);
        let end = Instant::now() + Duration::from_secs(30);
        while self.ctr(&["version"]).status != 0 {
            if Instant::now() > end {
                return Err(format!("containerd does not answer\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills containerd as a crash would, and starts it again on the same state.
    ///
    /// # Errors
    /// A sentence.
    pub fn crash_and_restart(&mut self) -> Result<(), String> {
        self.end();
        self.begin()
    }

    /// From now on it finds its shim in this directory, and that the node at this socket.
    ///
    /// # Errors
    /// A sentence.
    pub fn drive(&mut self, shim: &Path, socket: &Path) -> Result<(), String> {
        self.path = format!("{}:{}", shim.display(), self.path);
        self.driven = Some(socket.to_owned());
        self.crash_and_restart()
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("containerd.log")
    }

    /// The ends of both logs, for the message of a failed test.
    pub fn last_words(&self) -> String {
        format!("{}\n--- node\n{}", last_lines(&self.log(), 20), self.node.last_words())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("containerd.sock")
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// containerd's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Begins a command of ctr.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn begin_ctr(&self, words: &[&str]) -> std::io::Result<Child> {
        self.begin_ctr_with(Stdio::null(), words)
    }

    /// The same with this as its input.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn begin_ctr_with(&self, input: Stdio, words: &[&str]) -> std::io::Result<Child> {
        let mut command = Command::new("timeout");
        command.arg(LIMIT.as_secs().to_string()).arg("ctr").arg("--address").arg(self.socket());
        command.args(["--namespace", &self.namespace]).args(words).env("PATH", &self.path);
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    /// Carries out a command of ctr.
    pub fn ctr(&self, words: &[&str]) -> Said {
        Said::of(self.begin_ctr(words).and_then(Child::wait_with_output))
    }

    /// Carries out a command of ctr that reads this.
    pub fn ctr_reading(&self, input: &str, words: &[&str]) -> Said {
        Said::of_reading(input, self.begin_ctr_with(Stdio::piped(), words))
    }

    /// Runs a container to its end, or with `-d` among the options in the background.
    pub fn run(&self, options: &[&str], image: &str, id: &str, command: &[&str]) -> Said {
        self.ctr(&[&["run", "--runtime", RUNTIME], options, &[image, id], command].concat())
    }

    /// The same from a bundle's `config.json`, which names its root file system itself.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn run_bundle(&self, options: &[&str], id: &str, config: &serde_json::Value) -> Result<Said, String> {
        let file = self.directory.path().join(format!("{id}.json"));
        std::fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        Ok(self.ctr(&[&["run", "--runtime", RUNTIME, "--config", &file.display().to_string()], options, &[id]].concat()))
    }

    /// Imports an image.
    ///
    /// # Errors
    /// What ctr said.
    pub fn import(&self, spec: &ImageSpec) -> Result<(), String> {
        let file = self.directory.path().join("image.tar");
        let archive = oci::Image::build(spec).and_then(|image| image.archive()).map_err(|error| error.to_string())?;
        std::fs::write(&file, archive).map_err(|error| error.to_string())?;
        let said = self.ctr(&["image", "import", &file.display().to_string()]);
        if said.status == 0 { Ok(()) } else { Err(format!("{said:?}")) }
    }

    /// State of a task, as `ctr task ls` shows it, and its pid.
    pub fn task(&self, id: &str) -> Option<(u32, String)> {
        let said = self.ctr(&["task", "ls"]);
        let words = said.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.first() == Some(&id))?;
        Some((words.get(1)?.parse().ok()?, (*words.get(2)?).to_owned()))
    }

    /// Waits until a task has this state.
    pub fn becomes(&self, id: &str, state: &str) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if self.task(id).is_some_and(|(_, now)| now == state) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Forgets a stopped container; gives what ctr says of its end.
    pub fn remove(&self, id: &str) -> String {
        let said = self.ctr(&["task", "rm", id]);
        self.ctr(&["container", "rm", id]);
        said.stderr
    }

    /// Processes of this containerd's shims.
    pub fn shims(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let socket = self.socket().display().to_string();
            words.first().is_some_and(|program| program.ends_with(SHIM))
                && [&self.namespace, &socket].iter().all(|own| words.iter().any(|word| word == *own))
        };
        pids.filter(ours).collect()
    }

    /// Mounts below its directories.
    pub fn mounts(&self) -> usize {
        let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        text.lines().filter(|line| line.contains(&self.directory.path().display().to_string())).count()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let tasks: Vec<String> = self.ctr(&["task", "ls", "-q"]).stdout.split_whitespace().map(str::to_owned).collect();
        for task in &tasks {
            self.ctr(&["task", "rm", "--force", task]);
        }
        for shim in self.shims() {
            if let Some(pid) = i32::try_from(shim).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        self.end();
    }
}

/// An image of a pod's pause container, of the same busybox.
pub fn pause(reference: &str) -> Option<ImageSpec> {
    let entrypoint = ["/bin/busybox", "sleep", "1000000"].map(str::to_owned).to_vec();
    busybox(reference).map(|image| ImageSpec { entrypoint, ..image })
}

/// An image with a static busybox, where the machine has one.
pub fn busybox(reference: &str) -> Option<ImageSpec> {
    let content = std::fs::read("/bin/busybox").ok()?;
    let file = |path: &str| ImageFile { path: path.to_owned(), content: content.clone(), executable: true };
    Some(ImageSpec {
        reference: reference.to_owned(),
        files: vec![file("bin/busybox"), file("bin/sh")],
        entrypoint: vec!["/bin/sh".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        module: None,
    })
}
