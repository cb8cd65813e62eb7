//! A Docker engine of one's own, before a containerd of one's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use teemate_client::oci::{self, ImageSpec};

use crate::artifacts::Artifacts;
use crate::containerd::{Containerd, DOCKER, RUNTIME, Release, Said, peers};
use crate::running::last_lines;

/// How long one command of docker may take.
const LIMIT: Duration = Duration::from_secs(60);

/// One engine.
pub struct Docker {
    child: Option<Child>,
    /// Behind it.
    pub containerd: Containerd,
    programs: PathBuf,
}

impl Docker {
    /// Why none can be had here, if so.
    pub fn missing(artifacts: &Artifacts) -> Option<String> {
        let there = peers(artifacts).join(DOCKER).join("usr/sbin/dockerd").is_file();
        let none = || format!("there is no {DOCKER}; `cargo xtask test` unpacks it where it is root of a Debian");
        Containerd::missing(artifacts, Release::V1_7).or_else(|| (!there).then(none))
    }

    /// Starts all of it.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(artifacts: &Artifacts) -> Result<Docker, String> {
        let containerd = Containerd::start(artifacts, Release::V1_7, &[])?;
        let programs = peers(artifacts).join(DOCKER).join("usr");
        let mut docker = Docker { child: None, containerd, programs };
        docker.begin()?;
        Ok(docker)
    }

    fn begin(&mut self) -> Result<(), String> {
        let at = |name: &str| self.containerd.directory().join(name);
        let log = std::fs::File::options().create(true).append(true).open(self.log()).map_err(|error| error.to_string())?;
        let mut command = Command::new(self.programs.join("sbin/dockerd"));
        // Nothing of the machine's network is touched: no bridge, no rules.
        command.args([
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        ]);
        command.args(["--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs", "--shutdown-timeout=5"]);
        command.arg("--containerd").arg(self.containerd.socket()).arg("--containerd-namespace").arg(self.containerd.namespace());
        command.arg("--containerd-plugins-namespace").arg(format!("{}-plugins", self.containerd.namespace()));
        command.arg("--data-root").arg(at("docker")).arg("--exec-root").arg(at("docker-run")).arg("--pidfile").arg(at("docker.pid"));
        command.arg("--config-file").arg(at("docker.json")).arg("--host").arg(self.host());
        std::fs::write(at("docker.json"), "{}").map_err(|error| error.to_string())?;
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(|error| error.to_string())?);
        let end = Instant::now() + Duration::from_secs(60);
        while self.docker(&["version"]).status != 0 {
            if Instant::now() > end {
                return Err(format!("dockerd does not answer\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn host(&self) -> String {
        format!("unix://{}", self.containerd.directory().join("docker.sock").display())
    }

    fn log(&self) -> PathBuf {
        self.containerd.directory().join("docker.log")
    }

    /// The ends of all logs, for the message of a failed test.
    pub fn last_words(&self) -> String {
        format!("{}\n--- containerd\n{}", last_lines(&self.log(), 20), self.containerd.last_words())
    }

    /// Carries out a command of docker.
    pub fn docker(&self, words: &[&str]) -> Said {
        Said::of(self.command(words).stdin(Stdio::null()).output())
    }

    /// The same that reads this.
    pub fn docker_reading(&self, input: &str, words: &[&str]) -> Said {
        let mut command = self.command(words);
        Said::of_reading(input, command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(LIMIT.as_secs().to_string()).arg(self.programs.join("bin/docker")).arg("--host").arg(self.host()).args(words);
        command.env("DOCKER_CONFIG", self.containerd.directory());
        command
    }

    /// `docker run` with the shim as the runtime.
    pub fn run(&self, options: &[&str], image: &str, command: &[&str]) -> Said {
        self.docker(&[&["run", "--runtime", RUNTIME, "--network", "none"], options, &[image], command].concat())
    }

    /// Loads an image.
    ///
    /// # Errors
    /// What docker said.
    pub fn load(&self, spec: &ImageSpec) -> Result<(), String> {
        let file = self.containerd.directory().join("image.tar");
        let archive = oci::Image::build(spec).and_then(|image| image.archive()).map_err(|error| error.to_string())?;
        std::fs::write(&file, archive).map_err(|error| error.to_string())?;
        let said = self.docker(&["load", "--input", &file.display().to_string()]);
        if said.status == 0 { Ok(()) } else { Err(format!("{said:?}\n{}", self.last_words())) }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "--all", "--quiet"]).stdout;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "--force"], ids.as_slice()].concat());
        }
        if let Some(mut child) = self.child.take() {
            // It has mounts to undo, so it is asked first.
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM);
            let end = Instant::now() + Duration::from_secs(20);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
