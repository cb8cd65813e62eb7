//! What is called: the manifest's functions, and a small one in WebAssembly.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use teemate_client::deployment::Deployment;
use teemate_client::manifest::{Entry, Manifest};

/// Name of the small function.
pub const SMALL: &str = "small";

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
            Some(entry) => entry.check(result),
            None if *result == json!({ "n": 7 }) => Ok(()),
            None => Err(format!("the small function returned {result}")),
        }
    }
}

/// Those of the manifest that are wanted (all when `wanted` is empty).
pub fn nine(manifest: &Manifest, wanted: &[String], store: &str) -> Result<Vec<Workload>> {
    if let Some(name) = wanted.iter().find(|name| manifest.get(name).is_none()) {
        bail!("the manifest has no function {name:?}");
    }
    let chosen = manifest.functions.iter().filter(|entry| wanted.is_empty() || wanted.contains(&entry.name));
    chosen
        .map(|entry| {
            let deployment = manifest.deployment(entry, store);
            let script = match deployment.code.extension().is_some_and(|ending| ending == "js") {
                true => Some(fs::read_to_string(&deployment.code).with_context(|| deployment.code.display().to_string())?),
                false => None,
            };
            Ok(Workload { name: entry.name.clone(), deployment, params: entry.parameters(store), script, entry: Some(entry.clone()) })
        })
        .collect()
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
