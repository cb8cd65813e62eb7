//! A manifest: functions, how each is deployed, what to call it with, and what must come out.
//!
//! ```toml
//! [[function]]
//! name = "uploader"
//! file = "uploader.js"                      # relative to the manifest
//! params = { url = "http://{store}/x" }     # {store}: the object store that the one who runs it offers
//! egress = ["{store}"]
//! files = [{ local = "data.txt", path = "/data.txt" }]
//! env = { MODE = "test" }
//! limits = { timeout_ms = 5000 }
//! expect = { status = 200 }                 # members that the result must have; others may be there
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use teemate_control::function::{Kind, Limits};

use crate::deployment::Deployment;

/// What stands in a manifest for the address of the object store.
pub const STORE: &str = "{store}";

/// A manifest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The functions, in the file's order.
    #[serde(rename = "function")]
    pub functions: Vec<Entry>,
    /// Directory of the manifest.
    #[serde(skip)]
    directory: PathBuf,
}

/// One function of a manifest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// What it does, for people.
    #[serde(default)]
    pub description: String,
    /// Its code, relative to the manifest.
    pub file: PathBuf,
    /// Language, unless the file tells.
    pub kind: Option<Kind>,
    /// Entry point.
    pub main: Option<String>,
    /// What to call it with.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// What it may connect to.
    #[serde(default)]
    pub egress: Vec<String>,
    /// Files that it may read.
    #[serde(default)]
    pub files: Vec<EntryFile>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// What the result must hold.
    #[serde(default)]
    pub expect: Map<String, Value>,
}

/// A file of a function.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryFile {
    /// Where it is, relative to the manifest.
    pub local: PathBuf,
    /// Where the function sees it.
    pub path: String,
}

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("the manifest {} can't be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("the manifest {} is refused: {why}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Manifest {
    /// Reads one.
    ///
    /// # Errors
    /// When it can't be read or is not a manifest.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let mut manifest: Manifest =
            toml::from_str(&text).map_err(|error| Error::Format { path: path.to_owned(), why: error.to_string() })?;
        manifest.directory = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(manifest)
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.functions.iter().find(|entry| entry.name == name)
    }

    /// How to deploy an entry, with `store` as the object store's `host:port`.
    pub fn deployment(&self, entry: &Entry, store: &str) -> Deployment {
        let fill = |text: &String| text.replace(STORE, store);
        Deployment {
            name: entry.name.clone(),
            code: self.directory.join(&entry.file),
            kind: entry.kind,
            main: entry.main.clone(),
            limits: entry.limits.clone(),
            egress: entry.egress.iter().map(fill).collect(),
            files: entry.files.iter().map(|file| (self.directory.join(&file.local), file.path.clone())).collect(),
            env: entry.env.iter().map(|(name, value)| (name.clone(), fill(value))).collect(),
        }
    }

    /// Where an entry's file is on this machine.
    pub fn local(&self, file: &EntryFile) -> PathBuf {
        self.directory.join(&file.local)
    }
}

impl Entry {
    /// What to call it with, with `store` as the object store's `host:port`.
    pub fn parameters(&self, store: &str) -> Value {
        let mut params = Value::Object(self.params.clone());
        fill(&mut params, store);
        params
    }

    /// Whether a result is what it must be.
    ///
    /// # Errors
    /// A sentence that names the first member that differs.
    pub fn check(&self, result: &Value) -> Result<(), String> {
        contains(result, &Value::Object(self.expect.clone()), "the result")
    }
}

fn fill(value: &mut Value, store: &str) {
    match value {
        Value::String(text) => *text = text.replace(STORE, store),
        Value::Array(list) => list.iter_mut().for_each(|value| fill(value, store)),
        Value::Object(members) => members.values_mut().for_each(|value| fill(value, store)),
        _ => {}
    }
}

/// Whether `is` has everything that `must` has: members of objects may be more, lists are of the same length, numbers may differ in the
/// last digits.
fn contains(is: &Value, must: &Value, place: &str) -> Result<(), String> {
    match (is, must) {
        (Value::Object(is), Value::Object(must)) => must.iter().try_for_each(|(name, must)| match is.get(name) {
            Some(is) => contains(is, must, &format!("{place}.{name}")),
            None => Err(format!("{place} has no member {name:?}")),
        }),
        (Value::Array(is), Value::Array(must)) if is.len() == must.len() => {
            is.iter().zip(must).enumerate().try_for_each(|(at, (is, must))| contains(is, must, &format!("{place}[{at}]")))
        }
        (Value::Number(is), Value::Number(must)) if close(is.as_f64(), must.as_f64()) => Ok(()),
        (is, must) if is == must => Ok(()),
        (is, must) => Err(format!("{place} is {}, not {}", brief(is), brief(must))),
    }
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs()))
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest(text: &str) -> Result<Manifest, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("functions.toml");
        std::fs::write(&path, text).unwrap();
        Manifest::load(&path)
    }

    #[test]
    fn the_store_is_filled_in_everywhere() {
        let manifest = manifest(
            "[[function]]\nname = 'u'\nfile = 'u.js'\nparams = { url = 'http://{store}/x', n = 1 }\negress = ['{store}']\n\
             files = [{ local = 'd', path = '/d' }]\n",
        )
        .unwrap();
        let entry = manifest.get("u").unwrap();
        assert_eq!(entry.parameters("h:1"), json!({"url": "http://h:1/x", "n": 1}));
        let deployment = manifest.deployment(entry, "h:1");
        assert_eq!(deployment.egress, ["h:1"]);
        assert!(deployment.files[0].0.is_absolute());
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(manifest("[[function]]\nname = 'u'\nfile = 'u.js'\nexpected = {}\n").is_err());
        assert!(manifest("nonsense").is_err());
        assert!(matches!(Manifest::load(Path::new("/nowhere")), Err(Error::Read { .. })));
    }

    #[test]
    fn a_result_is_checked_member_by_member() {
        let must = json!({"a": 60.08994194659945, "b": [1, {"c": "x"}]});
        let check = |is: Value| contains(&is, &must, "the result");
        assert_eq!(check(json!({"a": 60.08994194659946, "b": [1, {"c": "x", "d": 0}], "e": 1})), Ok(()));
        assert_eq!(check(json!({"a": 60.0, "b": []})), Err("the result.a is 60.0, not 60.08994194659945".to_owned()));
        assert_eq!(check(json!({"a": 60.08994194659945, "b": [1, {"c": "y"}]})), Err("the result.b[1].c is \"y\", not \"x\"".to_owned()));
        assert_eq!(check(json!({})), Err("the result has no member \"a\"".to_owned()));
    }
}
