//! The demo: the paper's nine functions under one shared enclave, each in a fresh container, each result checked.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use teemate_client::breakdown::{self, Part};
use teemate_control::function::Outcome;
use teemate_control::node::{ContainerInfo, Ps, Sharing};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::manifest::{Entry, Manifest};
use teemate_tests::object_store::ObjectStore;
use teemate_tests::running::Node;

use crate::{build, step, text};

/// Containers that are held to be looked at.
const HELD: usize = 3;
const SLEEPER: &str = "sleep";

/// Builds and shows it.
pub fn run() -> Result<()> {
    let built = build::everything()?;
    let store = ObjectStore::start().context("the object store can't listen on 127.0.0.1")?;
    let manifest = Manifest::load(&Artifacts::manifest()).map_err(|error| anyhow!(error))?;
    println!("\nstarting a node with one shared enclave");
    let begin = Instant::now();
    let mut node = Node::start(&built, Sharing::Shared).map_err(|error| anyhow!(error))?;
    let status = node.status()?;
    println!("the node answers after {}; device {}, MRENCLAVE {}", text::seconds(begin.elapsed()), status.device, status.mrenclave);
    if status.device == "simulator" {
        println!("the simulator stands in for the processor: it runs the same image, and protects nothing");
    }
    let mut wrong = functions(&node, &manifest, &store)?;
    wrong.extend(containers(&node, &built)?);
    node.stop().map_err(|error| anyhow!(error))?;
    println!("\nthe node has stopped");
    if !wrong.is_empty() {
        bail!("{} of the demo's checks failed:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!("all results are right");
    Ok(())
}

/// Deploys and calls each function; gives what is wrong.
fn functions(node: &Node, manifest: &Manifest, store: &ObjectStore) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let nine: Vec<&Entry> = manifest.paper().collect();
    let scratch = std::env::temp_dir();
    for entry in &nine {
        let deployed = manifest.deployment(entry, &store.address(), &scratch).and_then(|deployment| node.deploy(&deployment));
        deployed.map_err(|error| anyhow!("{} can't be deployed: {error}", entry.name))?;
    }
    println!("{} functions are deployed: what they are made of was compiled inside the enclave\n", nine.len());
    for entry in &nine {
        let params = entry.parameters(&store.address()).map_err(|error| anyhow!(error))?;
        let outcome = node.invoke(&entry.name, params).map_err(|error| error.to_string());
        let verdict = match &outcome {
            Ok(outcome) => entry.check(outcome).and_then(|()| manifest.check_stored(entry, store)),
            Err(error) => Err(error.clone()),
        };
        if let Ok(outcome) = &outcome
            && !seen.insert(outcome.container)
        {
            wrong.push(format!("{}: container {} was used before", entry.name, outcome.container));
        }
        rows.push(row(&entry.name, outcome.as_ref().ok(), verdict.is_ok()));
        if let Err(error) = verdict {
            wrong.push(format!("{}: {error}", entry.name));
        }
    }
    let mut head = vec!["function", "result", "container"];
    head.extend(columns().map(Part::title));
    head.push("in all");
    println!("{}", text::table(&head, &rows));
    if nine.len() != 9 {
        wrong.push(format!("the manifest has {} functions of the paper, not nine", nine.len()));
    }
    Ok(wrong)
}

/// The columns; clean-up comes after the answer.
fn columns() -> impl Iterator<Item = Part> {
    Part::ALL.into_iter().filter(|part| *part != Part::Cleanup)
}

fn row(name: &str, outcome: Option<&Outcome>, good: bool) -> Vec<String> {
    let mut row = vec![name.to_owned(), if good { "right".to_owned() } else { "WRONG".to_owned() }];
    row.push(outcome.map_or_else(|| "-".to_owned(), |outcome| outcome.container.to_string()));
    let parts = outcome.map(|outcome| breakdown::parts(&outcome.marks)).unwrap_or_default();
    for part in columns() {
        let time = parts.iter().find(|(which, _)| *which == part).map(|(_, us)| breakdown::human(*us));
        row.push(time.unwrap_or_else(|| "-".to_owned()));
    }
    let latency = outcome.and_then(|outcome| breakdown::latency_us(&outcome.marks));
    row.push(latency.map_or_else(|| "-".to_owned(), breakdown::human));
    row
}

/// Holds some containers, shows them, and checks that each has namespaces and cgroups of its own.
fn containers(node: &Node, built: &Artifacts) -> Result<Vec<String>> {
    println!("\n{HELD} containers at once, of the same enclave:");
    thread::scope(|scope| {
        let calls: Vec<_> = (0..HELD).map(|_| scope.spawn(move || node.call(SLEEPER, json!({ "sleep": 2 })))).collect();
        let ps = wait_for(node, HELD);
        let shown = show_ps(node.socket(), built);
        let mut wrong = Vec::new();
        for call in calls {
            if let Err(error) = call.join().unwrap_or_else(|_| Err("its thread panicked".to_owned())) {
                wrong.push(format!("a held call of {SLEEPER}: {error}"));
            }
        }
        shown?;
        match ps? {
            Some(ps) => wrong.extend(differ(&ps)),
            None => wrong.push(format!("{HELD} containers never ran at the same time")),
        }
        Ok(wrong)
    })
}

/// Waits until so many function containers run.
fn wait_for(node: &Node, count: usize) -> Result<Option<Ps>> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        let ps = node.ps()?;
        if of_functions(&ps).count() >= count {
            return Ok(Some(ps));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

fn show_ps(socket: &Path, built: &Artifacts) -> Result<()> {
    step::run(Command::new(built.program("teemate")).arg("--socket").arg(socket).arg("ps"))
}

fn of_functions(ps: &Ps) -> impl Iterator<Item = &ContainerInfo> {
    ps.containers.iter().filter(|container| container.role == "function")
}

/// What containers of one enclave have in common and should not.
fn differ(ps: &Ps) -> Vec<String> {
    let mut wrong = Vec::new();
    let containers: Vec<_> = of_functions(ps).collect();
    let all_differ = |values: Vec<String>| values.iter().collect::<BTreeSet<_>>().len() == values.len();
    let same_enclave = containers.iter().map(|container| container.enclave).collect::<BTreeSet<_>>().len() == 1;
    if !same_enclave || containers.iter().any(|container| container.enclave.is_none()) {
        wrong.push("the held containers are not of one enclave".to_owned());
    }
    for kind in ["pid", "mnt", "uts", "ipc", "net", "user"] {
        let inode =
            |container: &&ContainerInfo| container.namespaces.iter().find(|(name, _)| name == kind).map(|(_, inode)| inode.to_string());
        let inodes: Vec<_> = containers.iter().filter_map(inode).collect();
        if inodes.len() != containers.len() {
            wrong.push(format!("a container has no {kind} namespace to show"));
        } else if !all_differ(inodes) {
            wrong.push(format!("two containers share a {kind} namespace"));
        }
    }
    let cgroups: Vec<_> = containers.iter().map(|container| container.cgroups.join(" ")).collect();
    if cgroups.iter().any(String::is_empty) {
        println!("note: a container has no cgroup: none is delegated to this user");
    } else if !all_differ(cgroups) {
        wrong.push("two containers share a cgroup".to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: u64, inode: u64) -> ContainerInfo {
        let kinds = ["pid", "mnt", "uts", "ipc", "net", "user"];
        ContainerInfo {
            id,
            role: "function".into(),
            function: None,
            enclave: Some(1),
            tcs: None,
            pid: 1,
            namespaces: kinds.iter().map(|kind| ((*kind).to_owned(), inode)).collect(),
            cgroups: vec![format!("/{inode}")],
            rss_kib: 0,
            charged_pages: None,
            age_ms: 0,
        }
    }

    #[test]
    fn shared_namespaces_are_found() {
        let ps = |containers| Ps { enclaves: vec![], containers };
        assert!(differ(&ps(vec![container(1, 10), container(2, 20)])).is_empty());
        assert_eq!(differ(&ps(vec![container(1, 10), container(2, 10)])).len(), 7);
        let mut foreign = container(2, 20);
        foreign.enclave = Some(2);
        assert_eq!(differ(&ps(vec![container(1, 10), foreign])).len(), 1);
    }
}
