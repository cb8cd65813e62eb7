//! What is called: the manifest's functions, and a small one in WebAssembly.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use teemate_client::deployment::Deployment;
use teemate_tests::manifest::{Entry, Manifest, Source};

/// Name of the small function.
pub const SMALL: &str = "small";

/// Name of a function's second deployment, whose containers are used again.
pub fn rewound(name: &str) -> String {
    format!("{name}-rewound")
}

/// One function, ready for each way to run it.
pub struct Workload {
    /// Name.
    pub name: String,
    /// For a node.
    pub deployment: Deployment,
    /// What to call it with.
    pub params: Value,
    /// JavaScript source, for the Node container.
    pub script: Option<String>,
    entry: Option<Entry>,
}

impl Workload {
    /// Whether a result is right.
    pub fn check(&self, result: &Value) -> Result<(), String> {
        match &self.entry {
            Some(entry) => entry.check_result(result),
            None if *result == json!({ "n": 7 }) => Ok(()),
            None => Err(format!("the small function returned {result}")),
        }
    }
}

/// The paper's functions, of these only those that are wanted (all when `wanted` is empty). What must be compiled goes below `scratch`.
pub fn nine(manifest: &Manifest, wanted: &[String], store: &str, scratch: &Path) -> Result<Vec<Workload>> {
    if let Some(name) = wanted.iter().find(|name| manifest.get(name).is_none()) {
        bail!("the manifest has no function {name:?}");
    }
    let chosen = |entry: &&Entry| if wanted.is_empty() { entry.paper } else { wanted.contains(&entry.name) };
    let workload = |entry: &Entry| {
        let deployment = manifest.deployment(entry, store, scratch).map_err(|error| anyhow!("{}: {error}", entry.name))?;
        let script = match entry.kind {
            Source::JavaScript => Some(fs::read_to_string(&deployment.code).with_context(|| deployment.code.display().to_string())?),
            _ => None,
        };
        let params = entry.parameters(store).map_err(|error| anyhow!("{}: {error}", entry.name))?;
        Ok(Workload { name: entry.name.clone(), deployment, params, script, entry: Some(entry.clone()) })
    };
    manifest.functions.iter().filter(chosen).map(workload).collect()
}

/// The small function; its module is written below `directory`.
pub fn small(directory: &Path) -> Result<Workload> {
    let code: PathBuf = directory.join("small.wasm");
    fs::write(&code, wat::parse_str(include_str!("small.wat"))?)?;
    Ok(Workload {
        name: SMALL.to_owned(),
        deployment: Deployment { name: SMALL.to_owned(), code, ..Deployment::default() },
        params: Value::Object(Map::new()),
        script: Some("function main() { return { n: 7 }; }".to_owned()),
        entry: None,
    })
}
