//! Makes a deployment of files: reads, guesses the kind, checks what can be checked here, digests.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use teemate_control::function::{FunctionSpec, Kind, Limits, Reuse, VerifiedFile};
use teemate_control::node::Request;

/// Most code that a node takes: OpenWhisk's limit.
pub const MAX_CODE: u64 = 48 << 20;
/// Most bytes of files: with the code they must fit into one message.
pub const MAX_FILES: u64 = 16 << 20;

/// What its owner wants deployed.
#[derive(Clone, Debug, Default)]
pub struct Deployment {
    /// Name.
    pub name: String,
    /// Source or module.
    pub code: PathBuf,
    /// `None`: by content and by the file's ending.
    pub kind: Option<Kind>,
    /// Entry point; `None` is `main`.
    pub main: Option<String>,
    /// Limits of each call.
    pub limits: Limits,
    /// `host:port` pairs that it may connect to.
    pub egress: Vec<String>,
    /// Files on this machine, and where the function sees them.
    pub files: Vec<(PathBuf, String)>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// What calls of it share.
    pub reuse: Reuse,
}

/// Why something can't be deployed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is too large.
    #[error("{} is {size} bytes long; at most {limit} can be deployed", path.display())]
    Large {
        /// Which.
        path: PathBuf,
        /// How large.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A file is not what it should be.
    #[error("{} can't be deployed: {why}", path.display())]
    Code {
        /// Which.
        path: PathBuf,
        /// What is wrong, what to try.
        why: String,
    },
    /// A value breaks a rule.
    #[error("{what} {value:?} is refused: {why}")]
    Value {
        /// What it is.
        what: &'static str,
        /// What was given.
        value: String,
        /// The rule.
        why: &'static str,
    },
}

impl Deployment {
    /// Reads the files and makes the request.
    ///
    /// # Errors
    /// When a file can't be read or is too large, or a value breaks a rule that the node would enforce anyway.
    pub fn request(&self) -> Result<Request, Error> {
        self.check()?;
        let code = read(&self.code, MAX_CODE)?;
        let kind = match self.kind {
            Some(kind) => kind,
            None => guess(&self.code, &code)?,
        };
        check_code(&self.code, kind, &code)?;
        let mut files = Vec::new();
        let mut contents = Vec::new();
        let mut room = MAX_FILES;
        for (source, target) in &self.files {
            let content = read(source, room)?;
            room -= content.len() as u64;
            files.push(VerifiedFile { path: target.clone(), sha256: Sha256::digest(&content).into(), length: content.len() as u64 });
            contents.push(STANDARD.encode(content));
        }
        Ok(Request::Deploy {
            spec: FunctionSpec {
                name: self.name.clone(),
                kind,
                main: self.main.clone().unwrap_or_else(|| "main".to_owned()),
                limits: self.limits.clone(),
                egress: self.egress.clone(),
                files,
                env: self.env.clone(),
                reuse: self.reuse,
            },
            code: STANDARD.encode(code),
            files: contents,
        })
    }

    fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        let refuse = |what, value: &str, why| Err(Error::Value { what, value: value.to_owned(), why });
        for pair in &self.egress {
            let port = pair.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return refuse("the destination", pair, "it must be host:port, with a port from 1 to 65535");
            }
        }
        for (_, target) in &self.files {
            if !target.starts_with('/') || target.split('/').any(|part| part == "..") || target.contains('\0') {
                return refuse("the path", target, "a function's file needs an absolute path without `..`");
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return refuse("the variable", name, "a name may not be empty nor hold `=`, and neither name nor value may hold a NUL");
            }
        }
        let Limits { timeout_ms, memory, .. } = self.limits;
        if !(1..=600_000).contains(&timeout_ms) {
            return refuse("the timeout", &format!("{timeout_ms} ms"), "it must be from 1 ms to 600 s");
        }
        if !(65_536..=4 << 30).contains(&memory) {
            return refuse("the memory limit", &format!("{memory} bytes"), "it must be from 64 KiB to 4 GiB");
        }
        Ok(())
    }
}

/// The rule for a function's name.
///
/// # Errors
/// [`Error::Value`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    if name.is_empty() || name.len() > 256 || !name.chars().all(allowed) {
        let value = name.chars().take(64).collect();
        return Err(Error::Value {
            what: "the name",
            value,
            why: "a name has 1 to 256 characters, each a letter, a digit or one of _ . @ -",
        });
    }
    Ok(())
}

/// Reads a regular file of at most so many bytes.
///
/// # Errors
/// [`Error::Read`], [`Error::Code`], [`Error::Large`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let data = path.metadata().map_err(fail)?;
    if !data.is_file() {
        return Err(Error::Code { path: path.to_owned(), why: "it is not a regular file".to_owned() });
    }
    if data.len() > limit {
        return Err(Error::Large { path: path.to_owned(), size: data.len(), limit });
    }
    std::fs::read(path).map_err(fail)
}

/// Whether this is a zip archive: of JavaScript, unless somebody or its name says that a module is in it.
pub fn is_archive(code: &[u8]) -> bool {
    code.starts_with(b"PK\x03\x04")
}

fn guess(path: &Path, code: &[u8]) -> Result<Kind, Error> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        _ if code.starts_with(b"\0asm") => Ok(Kind::Wasm),
        "wasm" => Ok(Kind::Wasm),
        _ if is_archive(code) => Ok(if path.to_string_lossy().ends_with(".wasm.zip") { Kind::Wasm } else { Kind::JavaScript }),
        "js" | "mjs" | "cjs" => Ok(Kind::JavaScript),
        _ => Err(Error::Code {
            path: path.to_owned(),
            why: "neither its content nor its ending (.wasm, .js, .zip) tells its kind; use --kind".to_owned(),
        }),
    }
}

fn check_code(path: &Path, kind: Kind, code: &[u8]) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Code { path: path.to_owned(), why: why.to_owned() });
    match kind {
        // The enclave looks into it.
        _ if is_archive(code) => Ok(()),
        Kind::Wasm if !code.starts_with(b"\0asm") => refuse("it is no WebAssembly: the first four bytes are not `\\0asm`"),
        Kind::Wasm if code.get(4..8) == Some(&[0x0d, 0, 1, 0]) => {
            refuse("it is a component; build a core module that speaks WASI preview 1 (target wasm32-wasip1)")
        }
        Kind::Wasm if code.get(4..8) != Some(&[1, 0, 0, 0]) => refuse("its WebAssembly version is not 1, or it is cut short"),
        Kind::JavaScript if std::str::from_utf8(code).is_err() => refuse("it is no JavaScript: it is not UTF-8 text"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(name: &str, content: &[u8]) -> (tempfile::TempDir, Deployment) {
        let directory = tempfile::tempdir().unwrap();
        let code = directory.path().join(name);
        std::fs::write(&code, content).unwrap();
        (directory, Deployment { name: "f".into(), code, ..Default::default() })
    }

    fn kind(name: &str, content: &[u8]) -> Result<Kind, String> {
        let (_directory, deployment) = deployment(name, content);
        match deployment.request() {
            Ok(Request::Deploy { spec, .. }) => Ok(spec.kind),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_kind_is_seen_by_content_and_ending() {
        assert_eq!(kind("f.bin", b"\0asm\x01\0\0\0"), Ok(Kind::Wasm));
        assert_eq!(kind("f.js", b"function main() {}"), Ok(Kind::JavaScript));
        assert_eq!(kind("f.zip", b"PK\x03\x04"), Ok(Kind::JavaScript));
        assert_eq!(kind("f.wasm.zip", b"PK\x03\x04"), Ok(Kind::Wasm));
        assert!(kind("f.txt", b"hello").unwrap_err().contains("--kind"));
    }

    #[test]
    fn wrong_code_is_refused_before_it_is_sent() {
        assert!(kind("f.wasm", b"").unwrap_err().contains("no WebAssembly"));
        assert!(kind("f.wasm", b"\0asm").unwrap_err().contains("cut short"));
        assert!(kind("f.wasm", b"\0asm\x0d\0\x01\0").unwrap_err().contains("component"));
        assert!(kind("f.js", b"\xff\xfe").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn files_are_digested() {
        let (directory, mut deployment) = deployment("f.js", b"function main() {}");
        let data = directory.path().join("data");
        std::fs::write(&data, "abc").unwrap();
        deployment.files = vec![(data, "/data".into())];
        let Ok(Request::Deploy { spec, files, .. }) = deployment.request() else { panic!() };
        assert_eq!(spec.files[0].length, 3);
        assert_eq!(spec.files[0].sha256[..3], [0xba, 0x78, 0x16]);
        assert_eq!(files, ["YWJj"]);
    }

    #[test]
    fn values_that_break_a_rule_are_named() {
        let (_directory, good) = deployment("f.js", b"");
        let refused = |change: &dyn Fn(&mut Deployment)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.request().unwrap_err().to_string()
        };
        assert!(refused(&|d| d.name = "a b".into()).contains("name"));
        assert!(refused(&|d| d.name = "x".repeat(257)).contains("name"));
        assert!(refused(&|d| d.egress = vec!["host".into()]).contains("host:port"));
        assert!(refused(&|d| d.egress = vec![":80".into()]).contains("host:port"));
        assert!(refused(&|d| d.files = vec![("x".into(), "data".into())]).contains("absolute"));
        assert!(refused(&|d| d.files = vec![("x".into(), "/a/../b".into())]).contains(".."));
        assert!(refused(&|d| d.env = vec![("".into(), "v".into())]).contains("variable"));
        assert!(refused(&|d| d.limits.timeout_ms = 0).contains("timeout"));
        assert!(refused(&|d| d.limits.memory = 1).contains("memory"));
    }

    #[test]
    fn a_directory_is_no_code() {
        let directory = tempfile::tempdir().unwrap();
        let deployment = Deployment { name: "f".into(), code: directory.path().into(), ..Default::default() };
        assert!(deployment.request().unwrap_err().to_string().contains("not a regular file"));
    }
}
