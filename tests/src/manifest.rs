//! The manifest of the example functions: how each is deployed, what it is called with, and what must come of it. Its own head explains
//! the format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use teemate_client::deployment::Deployment;
use teemate_control::function::{FailureKind, Kind, Limits, Outcome, Reuse};

use crate::object_store::ObjectStore;
use crate::running::result;

/// What stands in a manifest for the address of the object store.
const STORE: &str = "{store}";
/// How near is near.
const NEAR: f64 = 1e-9;

/// A manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The functions, in the file's order.
    #[serde(rename = "function")]
    pub functions: Vec<Entry>,
    #[serde(skip)]
    directory: PathBuf,
}

/// What a source is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// JavaScript, deployed as it is.
    JavaScript,
    /// WebAssembly's text form.
    Wat,
    /// C, for WASI.
    C,
    /// A module, deployed as it is.
    Wasm,
}

/// One function.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// One of the paper's nine.
    #[serde(default)]
    pub paper: bool,
    /// What `file` is written in.
    pub kind: Source,
    file: PathBuf,
    #[serde(default)]
    params: String,
    #[serde(default)]
    egress: Vec<String>,
    #[serde(default)]
    files: Vec<EntryFile>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    reuse: Reuse,
    #[serde(default)]
    min_ms: u64,
    #[serde(default)]
    equals: BTreeMap<String, Value>,
    #[serde(default)]
    near: BTreeMap<String, f64>,
    #[serde(default)]
    contains: BTreeMap<String, String>,
    #[serde(default)]
    count: BTreeMap<String, Count>,
    #[serde(default)]
    stored: BTreeMap<String, PathBuf>,
    failure: Option<MustFail>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    path: String,
    source: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    text: String,
    times: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MustFail {
    kind: FailureKind,
    contains: String,
}

impl Manifest {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{} can't be read: {error}", path.display()))?;
        let mut manifest: Manifest = toml::from_str(&text).map_err(|error| format!("{} is refused: {error}", path.display()))?;
        manifest.directory = path.parent().unwrap_or(Path::new("")).to_owned();
        for entry in &manifest.functions {
            entry.parameters("store:1").map_err(|error| format!("{}: {}: {error}", path.display(), entry.name))?;
        }
        Ok(manifest)
    }

    /// The paper's nine functions.
    pub fn paper(&self) -> impl Iterator<Item = &Entry> {
        self.functions.iter().filter(|entry| entry.paper)
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.functions.iter().find(|entry| entry.name == name)
    }

    /// How to deploy an entry, with `store` as the object store's `host:port`. What must be compiled goes below `scratch`.
    ///
    /// # Errors
    /// A sentence; for C also when there is no compiler for it.
    pub fn deployment(&self, entry: &Entry, store: &str, scratch: &Path) -> Result<Deployment, String> {
        let fill = |text: &String| text.replace(STORE, store);
        let code = self.code(entry, scratch)?;
        let kind = if entry.kind == Source::JavaScript { Kind::JavaScript } else { Kind::Wasm };
        Ok(Deployment {
            name: entry.name.clone(),
            code,
            kind: Some(kind),
            main: None,
            limits: entry.limits.clone(),
            egress: entry.egress.iter().map(fill).collect(),
            files: entry.files.iter().map(|file| (self.directory.join(&file.source), file.path.clone())).collect(),
            env: entry.env.iter().map(|(name, value)| (name.clone(), fill(value))).collect(),
            reuse: entry.reuse,
        })
    }

    fn code(&self, entry: &Entry, scratch: &Path) -> Result<PathBuf, String> {
        let source = self.directory.join(&entry.file);
        let module = scratch.join(format!("{}.wasm", entry.name));
        match entry.kind {
            Source::JavaScript | Source::Wasm => return Ok(source),
            Source::Wat => {
                let bytes = wat::parse_file(&source).map_err(|error| error.to_string())?;
                std::fs::write(&module, bytes).map_err(|error| error.to_string())?;
            }
            Source::C => {
                let clang = std::env::var("TEEMATE_CLANG").unwrap_or_else(|_| "clang-19".to_owned());
                let mut command = Command::new(&clang);
                command.args(["--target=wasm32-wasi", "-O2"]).arg(&source).arg("-o").arg(&module);
                let output = command.output().map_err(|error| format!("{clang} is needed to compile {}: {error}", source.display()))?;
                if !output.status.success() {
                    return Err(format!("{clang} can't compile {}: {}", source.display(), String::from_utf8_lossy(&output.stderr).trim()));
                }
            }
        }
        Ok(module)
    }

    /// Whether the store holds what an entry must put there.
    ///
    /// # Errors
    /// The first object that is missing or differs.
    pub fn check_stored(&self, entry: &Entry, store: &ObjectStore) -> Result<(), String> {
        for (object, file) in &entry.stored {
            let must = std::fs::read(self.directory.join(file)).map_err(|error| format!("{}: {error}", file.display()))?;
            match store.get(object) {
                None => return Err(format!("the object store has no {object}")),
                Some(is) if is != must => return Err(format!("{object} in the object store differs from {}", file.display())),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Entry {
    /// What to call it with, with `store` as the object store's `host:port`.
    ///
    /// # Errors
    /// When they are not a JSON object.
    pub fn parameters(&self, store: &str) -> Result<Value, String> {
        let text = if self.params.is_empty() { "{}" } else { &self.params };
        match serde_json::from_str(&text.replace(STORE, store)) {
            Ok(params @ Value::Object(_)) => Ok(params),
            Ok(_) => Err("params is no JSON object".to_owned()),
            Err(error) => Err(format!("params is no JSON: {error}")),
        }
    }

    /// Whether it must fail.
    pub fn must_fail(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether it needs the network.
    pub fn connects(&self) -> bool {
        !self.egress.is_empty()
    }

    /// Whether a call ended as it must.
    ///
    /// # Errors
    /// A sentence that names the first thing that differs.
    pub fn check(&self, outcome: &Outcome) -> Result<(), String> {
        match (&self.failure, &outcome.result) {
            (Some(must), Err(failure)) if failure.kind != must.kind => {
                Err(format!("it failed by {:?}, not {:?}: {}", failure.kind, must.kind, failure.message))
            }
            (Some(must), Err(failure)) if !failure.message.contains(&must.contains) => {
                Err(format!("its failure does not tell of {:?}: {}", must.contains, failure.message))
            }
            (Some(_), Err(_)) => Ok(()),
            (Some(must), Ok(_)) => Err(format!("it succeeded; it must fail by {:?}", must.kind)),
            (None, _) => {
                self.check_result(&result(outcome)?)?;
                let took = outcome.usage.execution_us / 1000;
                if took < self.min_ms { Err(format!("it took {took} ms; it must take {}", self.min_ms)) } else { Ok(()) }
            }
        }
    }

    /// Whether a result is what it must be.
    ///
    /// # Errors
    /// A sentence that names the first thing that differs.
    pub fn check_result(&self, value: &Value) -> Result<(), String> {
        let at = |pointer: &str| value.pointer(pointer).ok_or_else(|| format!("the result has nothing at {pointer}: {}", brief(value)));
        let text = |pointer: &str| at(pointer)?.as_str().ok_or_else(|| format!("what the result has at {pointer} is no text"));
        for (pointer, must) in &self.equals {
            let is = at(pointer)?;
            if !same(is, must) {
                return Err(format!("{pointer} is {}, not {}", brief(is), brief(must)));
            }
        }
        for (pointer, must) in &self.near {
            let is = at(pointer)?;
            if is.as_f64().is_none_or(|is| (is - must).abs() > NEAR) {
                return Err(format!("{pointer} is {}, not {must}", brief(is)));
            }
        }
        for (pointer, must) in &self.contains {
            if !text(pointer)?.contains(must) {
                return Err(format!("{pointer} does not contain {must:?}"));
            }
        }
        for (pointer, must) in &self.count {
            let times = text(pointer)?.matches(&must.text).count();
            if times != must.times {
                return Err(format!("{pointer} contains {:?} {times} times, not {}", must.text, must.times));
            }
        }
        Ok(())
    }
}

/// Equal, where 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b))),
        (a, b) => a == b,
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Artifacts;
    use serde_json::json;
    use teemate_control::function::{Failure, Usage};

    fn outcome(result: Result<Value, Failure>) -> Outcome {
        let result = result.map(|value| serde_json::to_vec(&value).unwrap());
        Outcome { result, logs: String::new(), usage: Usage { execution_us: 5_000, ..Usage::default() }, container: 1, marks: vec![] }
    }

    fn entry(text: &str) -> Entry {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.toml");
        std::fs::write(&path, format!("[[function]]\nname = 'f'\nkind = 'javascript'\nfile = 'f.js'\n{text}")).unwrap();
        Manifest::load(&path).unwrap().functions.remove(0)
    }

    #[test]
    fn the_examples_can_be_deployed() {
        let manifest = Manifest::load(&Artifacts::manifest()).unwrap();
        assert_eq!(manifest.paper().count(), 9);
        let scratch = tempfile::tempdir().unwrap();
        for entry in &manifest.functions {
            match manifest.deployment(entry, "127.0.0.1:1", scratch.path()) {
                Ok(deployment) => _ = deployment.request().unwrap(),
                Err(error) => assert!(entry.kind == Source::C, "{}: {error}", entry.name),
            }
            entry.parameters("127.0.0.1:1").unwrap();
        }
    }

    #[test]
    fn results_are_checked_at_each_pointer() {
        let entry = entry(
            "equals = { '/a/0' = 1, '/b' = { c = 'x' } }\nnear = { '/n' = 1.5 }\ncontains = { '/t' = 'lo' }\ncount = { '/t' = { text = 'l', times = 2 } }\n",
        );
        let good = json!({"a": [1.0], "b": {"c": "x"}, "n": 1.500_000_000_01, "t": "hello"});
        assert_eq!(entry.check_result(&good), Ok(()));
        for (pointer, value) in [("/a/0", json!(2)), ("/b", json!({})), ("/n", json!(1.6)), ("/t", json!("he")), ("/t", json!("hell lo"))] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value;
            assert!(entry.check_result(&bad).unwrap_err().contains(pointer), "{bad}");
        }
        assert!(entry.check_result(&json!({})).is_err());
    }

    #[test]
    fn failures_are_checked_too() {
        let entry = entry("failure = { kind = 'limit', contains = '200 ms' }\n");
        let failed = |kind, message: &str| entry.check(&outcome(Err(Failure::new(kind, message))));
        assert_eq!(failed(FailureKind::Limit, "it ran 200 ms"), Ok(()));
        assert!(failed(FailureKind::Limit, "it ran").is_err());
        assert!(failed(FailureKind::Application, "200 ms").is_err());
        assert!(entry.check(&outcome(Ok(json!({})))).is_err());
    }

    #[test]
    fn a_call_that_is_too_fast_is_wrong() {
        assert!(entry("min_ms = 6\n").check(&outcome(Ok(json!({})))).is_err());
        assert!(entry("min_ms = 5\n").check(&outcome(Ok(json!({})))).is_ok());
    }
}
