//! A registry of one's own: Debian's docker-registry (CNCF Distribution), on a port of this machine, which lets one user in.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Who is let in.
pub const USER: &str = "ada";
/// With this.
pub const PASSWORD: &str = "open sesame";
/// That one's line of an htpasswd file (bcrypt).
const ENTRY: &str = "ada:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";
/// The program.
const PROGRAM: &str = "docker-registry";

/// It ends with the value.
pub struct Registry {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Registry {
    /// Starts one; `None` when the program is not here.
    ///
    /// # Errors
    /// A sentence.
    pub fn start() -> Result<Option<Registry>, String> {
        let failed = |error: std::io::Error| format!("{PROGRAM}: {error}");
        let directory = tempfile::tempdir().map_err(failed)?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(failed)?.port();
        let at = directory.path().display();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: 127.0.0.1:{port}, secret: test}}\n\
             auth: {{htpasswd: {{realm: test, path: {at}/users}}}}\n"
        );
        std::fs::write(directory.path().join("config.yml"), text).map_err(failed)?;
        std::fs::write(directory.path().join("users"), format!("{ENTRY}\n")).map_err(failed)?;
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(directory.path().join("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            started => started.map_err(failed)?,
        };
        let registry = Registry { child, port, _directory: directory };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                return Err(format!("{PROGRAM} does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(registry))
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
