//! An owner as a new user is one: with the command line, a home directory of his own, and a policy file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::artifacts::Artifacts;

/// What a command did.
#[derive(Clone, Debug)]
pub struct Run {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Run {
    /// The one document of `--json`.
    ///
    /// # Errors
    /// The whole of what it said, when it failed or said no JSON.
    pub fn json(&self) -> Result<Value, String> {
        if self.code != 0 {
            return Err(format!("exit code {}: {}{}", self.code, self.out, self.err));
        }
        serde_json::from_str(&self.out).map_err(|error| format!("{error}: {}", self.out))
    }
}

/// A user with a home directory.
pub struct Owner {
    home: tempfile::TempDir,
    teemate: PathBuf,
}

impl Owner {
    /// Somebody who has nothing yet.
    ///
    /// # Errors
    /// When there is no room for his home.
    pub fn new(artifacts: &Artifacts) -> Result<Owner, String> {
        let home = tempfile::Builder::new().prefix("teemate-owner-").tempdir().map_err(|error| error.to_string())?;
        Ok(Owner { home, teemate: artifacts.program("teemate") })
    }

    /// His home directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a policy that accepts simulated quotes of this enclave: `identity` is the table's content.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn policy(&self, name: &str, identity: &str) -> Result<PathBuf, String> {
        let path = self.home().join(name);
        let text = format!("insecure_simulation = true\n[[enclave]]\n{identity}\n");
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path)
    }

    /// Writes a policy that accepts whatever the signer of this image signed.
    ///
    /// # Errors
    /// When the image can't be read, or the policy can't be written.
    pub fn policy_of_the_signer(&self, image: &Path) -> Result<PathBuf, String> {
        let summary = self.json(&["image", "show", &image.display().to_string()])?;
        let signer = find(&summary, "mrsigner").ok_or("the image names no signer")?;
        self.policy("policy.toml", &format!("mrsigner = \"{signer}\"\nproduct = 0\nmin_svn = 0"))
    }

    /// Makes another image of the same signer: the same programs, other arguments, so another MRENCLAVE.
    ///
    /// # Errors
    /// What the command said.
    pub fn next_release(&self, artifacts: &Artifacts) -> Result<PathBuf, String> {
        self.image(artifacts, "next", 160)
    }

    /// Makes an image of the same programs and the same signer with so many TCSs; its name is measured, too.
    ///
    /// # Errors
    /// What the command said.
    pub fn image(&self, artifacts: &Artifacts, name: &str, tcs: u32) -> Result<PathBuf, String> {
        let config = self.home().join(format!("{name}.toml"));
        let env = format!("[[\"MALLOC_ARENA_MAX\", \"1\"], [\"RELEASE\", \"{name}\"]]");
        let text = format!("tcs_count = {tcs}\nargs = [\"teemate-functions\"]\nenv = {env}\n");
        std::fs::write(&config, text).map_err(|error| error.to_string())?;
        let image = self.home().join(format!("{name}.teemate"));
        let path = |path: &Path| path.display().to_string();
        let (libos, payload) = (path(&artifacts.directory().join("teemate-libos")), path(&artifacts.program("teemate-functions")));
        let (key, config) = (path(&artifacts.directory().join("signing-key.pem")), path(&config));
        let inputs = ["--libos", &libos, "--payload", &payload, "--config", &config, "--key", &key, "--output", &path(&image)];
        self.json(&[&["image", "build"], &inputs[..]].concat())?;
        Ok(image)
    }

    /// Runs `teemate` with these arguments, with nothing of the caller's environment that could change it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Run, String> {
        let mut command = Command::new(&self.teemate);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TEEMATE_") || text.starts_with("XDG_") {
                command.env_remove(&name);
            }
        }
        let Output { status, stdout, stderr } =
            command.env("HOME", self.home()).args(arguments).output().map_err(|error| error.to_string())?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Run { code: status.code().unwrap_or(-1), out: text(&stdout), err: text(&stderr) })
    }

    /// The JSON of a command that must succeed.
    ///
    /// # Errors
    /// What it said otherwise.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        self.run(&[&["--json"], arguments].concat())?.json()
    }

    /// Becomes the owner of a namespace: the administrator at `socket` invites, this user claims at `address`.
    ///
    /// # Errors
    /// What the command said.
    pub fn claim(&self, socket: &Path, namespace: &str, address: SocketAddr, policy: &Path) -> Result<(), String> {
        self.claim_limited(socket, namespace, address, policy, 100_000, 100)
    }

    /// The same, with so many calls a minute and at a time.
    ///
    /// # Errors
    /// As [`Owner::claim`].
    pub fn claim_limited(
        &self,
        socket: &Path,
        namespace: &str,
        address: SocketAddr,
        policy: &Path,
        per_minute: u32,
        concurrent: u32,
    ) -> Result<(), String> {
        let (socket, per_minute, concurrent) = (socket.display().to_string(), per_minute.to_string(), concurrent.to_string());
        let invite = ["--socket", &socket, "owner", "invite", namespace, "--per-minute", &per_minute, "--concurrent", &concurrent];
        let invitation = self.json(&invite)?;
        let token = invitation["token"].as_str().ok_or("the invitation holds no token")?;
        let (endpoint, policy) = (format!("https://{address}"), policy.display().to_string());
        self.json(&["login", &endpoint, "--claim", token, "--policy", &policy]).map(drop)
    }

    /// `uuid:key` of the profile `default`.
    ///
    /// # Errors
    /// When there is none.
    pub fn auth(&self) -> Result<String, String> {
        let path = self.home().join(".config/teemate/profiles/default.toml");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let profile: toml::Table = toml::from_str(&text).map_err(|error| error.to_string())?;
        profile.get("auth").and_then(toml::Value::as_str).map(str::to_owned).ok_or_else(|| "the profile holds no key".to_owned())
    }

    /// Deploys JavaScript source.
    ///
    /// # Errors
    /// What the command said.
    pub fn deploy(&self, name: &str, source: &str) -> Result<Value, String> {
        let file = self.home().join(format!("{name}.js"));
        std::fs::write(&file, source).map_err(|error| error.to_string())?;
        self.json(&["--profile", "default", "function", "deploy", name, &file.display().to_string()])
    }

    /// Calls a function; gives the record of its activation.
    ///
    /// # Errors
    /// What the command said.
    pub fn call(&self, name: &str, params: &Value) -> Result<Value, String> {
        self.json(&["--profile", "default", "function", "invoke", name, "--params", &params.to_string()])
    }
}

/// The first text under this key, at any depth.
fn find(value: &Value, key: &str) -> Option<String> {
    match value {
        Value::Object(map) => {
            map.iter().find_map(|(name, value)| if name == key { value.as_str().map(str::to_owned) } else { find(value, key) })
        }
        Value::Array(list) => list.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}
