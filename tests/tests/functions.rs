//! The paper's nine functions in each mode: every result is checked, and every call has a container of its own.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use teemate_client::breakdown;
use teemate_client::manifest::Manifest;
use teemate_control::function::Phase;
use teemate_control::node::Sharing;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::object_store::{ObjectStore, digest};
use teemate_tests::running::{Node, result};
use teemate_tests::skip;

fn nine(sharing: Sharing) {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let manifest = Manifest::load(&Artifacts::manifest()).unwrap();
    let store = ObjectStore::start().unwrap();
    let mut node = Node::start(&artifacts, sharing).unwrap();
    let mut containers = HashSet::new();
    for entry in &manifest.functions {
        node.deploy(&manifest.deployment(entry, &store.address())).unwrap();
    }
    for entry in &manifest.functions {
        store.clear();
        let outcome = node.invoke(&entry.name, entry.parameters(&store.address())).unwrap();
        let value = result(&outcome).unwrap_or_else(|error| panic!("{}: {error}\n{}", entry.name, node.last_words()));
        entry.check(&value).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
        assert!(containers.insert(outcome.container), "{}: container {} was used before", entry.name, outcome.container);
        let phases: Vec<_> = outcome.marks.iter().map(|mark| mark.phase).collect();
        for phase in [Phase::Received, Phase::Executed, Phase::Returned] {
            assert!(phases.contains(&phase), "{}: {phase:?} is missing in {phases:?}", entry.name);
        }
        assert!(breakdown::latency_us(&outcome.marks).is_some_and(|us| us > 0.0));
        if !entry.egress.is_empty() {
            let digests: Vec<_> = store.digests().into_iter().map(|(_, digest)| digest).collect();
            for file in &entry.files {
                assert!(digests.contains(&digest(&std::fs::read(manifest.local(file)).unwrap())), "{} was not stored", file.path);
            }
        }
    }
    assert!(manifest.functions.len() >= 9);
    node.stop().unwrap();
}

#[test]
fn nine_functions_shared() {
    nine(Sharing::Shared);
}

#[test]
fn nine_functions_exclusive() {
    nine(Sharing::Exclusive);
}

#[test]
fn nine_functions_native() {
    nine(Sharing::Native);
}
