//! A container as containerd describes it: `config.json` of its bundle (OCI runtime specification), as far as a function needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use teemate_control::function::{FunctionSpec, Kind, Limits, Reuse, VerifiedFile};
use teemate_control::task::{Rlimit, TaskPlace, TaskSpec};

use crate::error::{Error, Result};
use crate::mounts::{self, Mount, Wanted};
use crate::resources::Resources;

/// Path of the function in the image, where the arguments do not begin with it.
const FUNCTION: &str = "io.teemate.function";
/// Entry point of a JavaScript function.
const MAIN: &str = "io.teemate.main";
/// Time limit in milliseconds.
const TIMEOUT: &str = "io.teemate.timeout-ms";
/// Fuel.
const FUEL: &str = "io.teemate.fuel";
/// `host:port` pairs with commas between them.
const EGRESS: &str = "io.teemate.egress";
/// `none`: the function is given no files of the container's mounts. `all`: those of a pod's own token, too.
pub const MOUNTS: &str = "io.teemate.mounts";
/// `params`: a JSON object on standard input is parameters.
const STDIN: &str = "io.teemate.stdin";
/// Environment variable with the parameters, a JSON object.
const PARAMS: &str = "TEEMATE_PARAMS";
/// Largest code: the node's limit.
pub const CODE_MAX: u64 = 48 << 20;

/// The part of config.json that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    process: Process,
    hostname: String,
    annotations: BTreeMap<String, String>,
    linux: Linux,
    root: Root,
    mounts: Vec<Mount>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    args: Vec<String>,
    env: Vec<String>,
    user: User,
    rlimits: Vec<Rlimit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    /// Wider than an id, so that what is none is refused with a sentence.
    uid: i64,
    gid: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Root {
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: String,
    namespaces: Vec<Namespace>,
    resources: Resources,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

impl Config {
    /// Reads that of a bundle.
    pub fn read(bundle: &Path) -> Result<Config> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).map_err(Error::file(&path))?;
        serde_json::from_slice(&text).map_err(Error::file(&path))
    }

    /// Where the root file system is mounted.
    pub fn root(&self, bundle: &Path) -> PathBuf {
        if self.root.path.as_os_str().is_empty() { bundle.join("rootfs") } else { bundle.join(&self.root.path) }
    }

    /// Path of the function in the image and its kind, if this is a container of one.
    pub fn function(&self) -> Option<(&str, Kind)> {
        let path = self.annotations.get(FUNCTION).or(self.process.args.first())?;
        // A zip holds JavaScript, unless its name says that a module is in it.
        let kind = match path.strip_suffix(".zip").unwrap_or(path).rsplit_once('.') {
            Some((_, "wasm")) => Kind::Wasm,
            Some((_, "js" | "cjs")) => Kind::JavaScript,
            _ if path.ends_with(".zip") => Kind::JavaScript,
            _ => return None,
        };
        Some((path, kind))
    }

    /// Whether standard input has parameters.
    pub fn input_is_params(&self) -> Result<bool> {
        match self.annotations.get(STDIN).map(String::as_str) {
            None => Ok(false),
            Some("params") => Ok(true),
            Some(text) => Err(Error::Refused(format!("the annotation {STDIN} can only be \"params\", not {text:?}"))),
        }
    }

    /// The code in a root file system, where that is mounted.
    pub fn code(&self, root: &Path) -> Result<Vec<u8>> {
        read_inside(root, self.known()?.0)
    }

    fn known(&self) -> Result<(&str, Kind)> {
        self.function().ok_or_else(|| Error::Unsupported("the image holds no function".to_owned()))
    }

    /// The task of a container of a function with this code, whose bundle is here.
    pub fn task(&self, id: String, code: Vec<u8>, bundle: &Path) -> Result<TaskSpec> {
        let (_, kind) = self.known()?;
        let wanted = match self.annotations.get(MOUNTS).map(String::as_str) {
            None => Wanted::Chosen,
            Some("none") => Wanted::None,
            Some("all") => Wanted::All,
            Some(text) => return Err(Error::Refused(format!("the annotation {MOUNTS} can only be \"none\" or \"all\", not {text:?}"))),
        };
        let mounted = mounts::files(&self.mounts, bundle, wanted)?;
        let verified = |(path, content): &(String, Vec<u8>)| VerifiedFile {
            path: path.clone(),
            sha256: Sha256::digest(content).into(),
            length: content.len() as u64,
        };
        let function = FunctionSpec {
            name: String::new(),
            kind,
            main: self.annotations.get(MAIN).cloned().unwrap_or_else(|| "main".to_owned()),
            limits: self.limits()?,
            egress: self
                .annotations
                .get(EGRESS)
                .map(|text| text.split(',').map(|pair| pair.trim().to_owned()).collect())
                .unwrap_or_default(),
            files: mounted.iter().map(verified).collect(),
            env: self.environment(),
            reuse: Reuse::Fresh,
        };
        let files = mounted.iter().map(|(_, content)| STANDARD.encode(content)).collect();
        Ok(TaskSpec { id, function, code: STANDARD.encode(code), files, params: self.params()?, place: self.place()? })
    }

    fn environment(&self) -> Vec<(String, String)> {
        let pairs = self.process.env.iter().filter_map(|pair| pair.split_once('='));
        let wanted = pairs.filter(|(name, _)| !["PATH", "HOSTNAME", PARAMS].contains(name));
        wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn limits(&self) -> Result<Limits> {
        let number = |name: &str| -> Result<Option<u64>> {
            let Some(text) = self.annotations.get(name) else { return Ok(None) };
            text.parse().map(Some).map_err(|_| Error::Refused(format!("the annotation {name} must be a number, not {text:?}")))
        };
        let mut limits = Limits { fuel: number(FUEL)?, ..Limits::default() };
        if let Some(timeout) = number(TIMEOUT)? {
            limits.timeout_ms = timeout;
        }
        let given = self.linux.resources.limits();
        if let Some(bytes) = given.memory.filter(|bytes| *bytes > 0) {
            limits.memory = bytes.clamp(65_536, 4 << 30);
        }
        limits.cpu_milli = given.cpu_milli.unwrap_or(limits.cpu_milli);
        Ok(limits)
    }

    /// Parameters: those of the variable, then each argument after the function's path: a JSON object, or `name=value` with a JSON value or
    /// else a text.
    fn params(&self) -> Result<Value> {
        let mut params = Map::new();
        let object = |text: &str, whose: &str| -> Result<Map<String, Value>> {
            serde_json::from_str(text).map_err(|error| Error::Refused(format!("{whose} must be a JSON object: {error}")))
        };
        let variable = self.process.env.iter().filter_map(|pair| pair.strip_prefix(PARAMS)?.strip_prefix('=')).next_back();
        if let Some(text) = variable {
            params.extend(object(text, PARAMS)?);
        }
        let named = self.annotations.contains_key(FUNCTION) && self.process.args.first() != self.annotations.get(FUNCTION);
        for argument in self.process.args.iter().skip(usize::from(!named)) {
            if argument.starts_with('{') {
                params.extend(object(argument, "an argument that begins with a brace")?);
            } else if let Some((name, text)) = argument.split_once('=') {
                let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
                params.insert(name.to_owned(), value);
            } else {
                return Err(Error::Refused(format!("the argument {argument:?} is neither name=value nor a JSON object")));
            }
        }
        Ok(Value::Object(params))
    }

    fn place(&self) -> Result<TaskPlace> {
        let id = |of: &str, id: i64| {
            // The last number of 32 bits means "none" to the kernel.
            let good = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
            good.ok_or_else(|| Error::Refused(format!("the bundle's {of} {id} is no id: it must be 0 to {}", u32::MAX - 1)))
        };
        let group = &self.linux.cgroups_path;
        let namespace = |kind: &str| self.linux.namespaces.iter().find(|namespace| namespace.kind == kind)?.path.clone();
        Ok(TaskPlace {
            hostname: self.hostname.chars().take(64).filter(char::is_ascii).collect(),
            network: namespace("network"),
            ipc: namespace("ipc"),
            uts: namespace("uts"),
            // `slice:prefix:name` is for systemd, which the node does not speak with.
            cgroup: (!group.is_empty() && !group.contains(':')).then(|| PathBuf::from(group)),
            pids: self.linux.resources.limits().pids.unwrap_or(0),
            uid: id("user", self.process.user.uid)?,
            gid: id("group", self.process.user.gid)?,
            rlimits: self.process.rlimits.clone(),
        })
    }
}

/// A file of the image. Links are followed only inside it: the image is not trusted.
fn read_inside(root: &Path, path: &str) -> Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    use std::io::Read;
    let fail = |reason: String| Error::File { path: PathBuf::from(path), reason };
    let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| fail(error.to_string()))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = openat2(&directory, path.trim_start_matches('/'), flags, Mode::empty(), ResolveFlags::IN_ROOT)
        .map_err(|error| fail(format!("it is not in the image: {error}")))?;
    let mut file = std::fs::File::from(fd);
    let meta = file.metadata().map_err(|error| fail(error.to_string()))?;
    if !meta.is_file() || meta.len() > CODE_MAX {
        return Err(fail(format!("a function is a file of at most {CODE_MAX} bytes")));
    }
    let mut code = Vec::new();
    file.by_ref().take(CODE_MAX).read_to_end(&mut code).map_err(|error| fail(error.to_string()))?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_no_function_is_an_ordinary_container() {
        for args in [r#"["/pause"]"#, r#"["node","main.js"]"#, "[]", r#"["/app.jsx"]"#] {
            assert!(config(&format!(r#"{{"process":{{"args":{args}}}}}"#)).function().is_none(), "{args}");
        }
        assert_eq!(config(r#"{"process":{"args":["/f.wasm"]}}"#).function(), Some(("/f.wasm", Kind::Wasm)));
        for (path, kind) in [("/f.zip", Kind::JavaScript), ("/f.js.zip", Kind::JavaScript), ("/f.wasm.zip", Kind::Wasm)] {
            assert_eq!(config(&format!(r#"{{"process":{{"args":["{path}"]}}}}"#)).function(), Some((path, kind)));
        }
        let named = config(r#"{"process":{"args":["run"]},"annotations":{"io.teemate.function":"/a/b.js"}}"#);
        assert_eq!(named.function(), Some(("/a/b.js", Kind::JavaScript)));
    }

    #[test]
    fn parameters_limits_and_place_come_from_the_bundle() {
        let config = config(
            r#"{"process":{"args":["/f.js","name=Ada","n=3","{\"deep\":{\"a\":1}}"],"env":["PATH=/bin","TEEMATE_PARAMS={\"n\":1,\"x\":2}","A=b=c"],
                "user":{"uid":1000,"gid":3000,"additionalGids":[3000]},
                "rlimits":[{"type":"RLIMIT_NOFILE","soft":64,"hard":18446744073709551615}]},
                "hostname":"host","annotations":{"io.teemate.timeout-ms":"1500","io.teemate.egress":"a:1, b:2"},
                "linux":{"cgroupsPath":"/default/c1","namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"},
                    {"type":"ipc","path":"/proc/7/ns/ipc"},{"type":"uts"}],
                "resources":{"memory":{"limit":67108864},"cpu":{"quota":50000,"period":100000},"pids":{"limit":9}}}}"#,
        );
        let task = config.task("ns/c1".to_owned(), b"code".to_vec(), Path::new("/")).unwrap();
        assert_eq!(task.params, serde_json::json!({"name": "Ada", "n": 3, "x": 2, "deep": {"a": 1}}));
        assert_eq!((task.function.limits.timeout_ms, task.function.limits.memory, task.function.limits.cpu_milli), (1500, 64 << 20, 500));
        assert_eq!(task.function.egress, ["a:1", "b:2"]);
        assert_eq!(task.function.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(task.place.cgroup.as_deref(), Some(Path::new("/default/c1")));
        assert_eq!(task.place.network.as_deref(), Some(Path::new("/run/netns/x")));
        assert_eq!(task.place.ipc.as_deref(), Some(Path::new("/proc/7/ns/ipc")));
        assert_eq!(task.place.uts, None, "one of its own");
        assert_eq!((task.place.hostname.as_str(), task.place.pids), ("host", 9));
        assert_eq!((task.place.uid, task.place.gid), (1000, 3000));
        assert_eq!(task.place.rlimits, [Rlimit { name: "RLIMIT_NOFILE".to_owned(), soft: 64, hard: u64::MAX }]);
    }

    #[test]
    fn a_link_out_of_the_image_reads_nothing_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("f.js")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/passwd", directory.path().join("g.js")).unwrap();
        for path in ["/f.js", "/g.js", "/../../../../../../../etc/passwd"] {
            assert!(read_inside(directory.path(), path).is_err(), "{path}");
        }
    }

    #[test]
    fn bad_values_are_sentences() {
        for text in [
            r#"{"process":{"args":["/f.js","x"]}}"#,
            r#"{"process":{"args":["/f.js"],"user":{"uid":4294967295}}}"#,
            r#"{"process":{"args":["/f.js"],"user":{"gid":-1}}}"#,
            r#"{"process":{"args":["/f.js"]},"annotations":{"io.teemate.mounts":"some"}}"#,
            r#"{"process":{"args":["/f.js"],"env":["TEEMATE_PARAMS=[1]"]}}"#,
            r#"{"process":{"args":["/f.js"]},"annotations":{"io.teemate.fuel":"much"}}"#,
        ] {
            assert!(matches!(config(text).task("x".to_owned(), Vec::new(), Path::new("/")), Err(Error::Refused(_))), "{text}");
        }
    }
}
