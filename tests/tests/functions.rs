//! The example functions, among them the paper's nine, in each mode: every result is checked, and every call has a container of its own.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use teemate_client::breakdown;
use teemate_control::function::Phase;
use teemate_control::node::Sharing;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::manifest::{Entry, Manifest, Source};
use teemate_tests::object_store::ObjectStore;
use teemate_tests::running::Node;
use teemate_tests::skip;

fn check(sharing: Sharing, wanted: fn(&Entry) -> bool) {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let manifest = Manifest::load(&Artifacts::manifest()).unwrap();
    let store = ObjectStore::start().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut node = Node::start(&artifacts, sharing).unwrap();
    let mut containers = HashSet::new();
    let mut wrong = Vec::new();
    for entry in manifest.functions.iter().filter(|entry| wanted(entry)) {
        let deployment = match manifest.deployment(entry, &store.address(), scratch.path()) {
            Ok(deployment) => deployment,
            Err(reason) if entry.kind == Source::C => {
                println!("{} is left out: {reason}", entry.name);
                continue;
            }
            Err(error) => panic!("{}: {error}", entry.name),
        };
        node.deploy(&deployment).unwrap_or_else(|error| panic!("{}: {error}\n{}", entry.name, node.last_words()));
        store.clear();
        let outcome = match node.invoke(&entry.name, entry.parameters(&store.address()).unwrap()) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{}: {error}\n{}", entry.name, node.last_words()),
        };
        let checked = entry.check(&outcome).and_then(|()| manifest.check_stored(entry, &store));
        wrong.extend(checked.err().map(|error| format!("{}: {error}", entry.name)));
        assert!(containers.insert(outcome.container), "{}: container {} was used before", entry.name, outcome.container);
        let phases: Vec<_> = outcome.marks.iter().map(|mark| mark.phase).collect();
        if !entry.must_fail() {
            for phase in [Phase::Received, Phase::Executed, Phase::Returned] {
                assert!(phases.contains(&phase), "{}: {phase:?} is missing in {phases:?}", entry.name);
            }
            assert!(breakdown::latency_us(&outcome.marks).is_some_and(|us| us > 0.0));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), node.last_words());
    node.stop().unwrap();
}

#[test]
fn the_papers_nine_shared() {
    check(Sharing::Shared, |entry| entry.paper);
}

#[test]
fn the_papers_nine_exclusive() {
    check(Sharing::Exclusive, |entry| entry.paper);
}

#[test]
fn the_papers_nine_native() {
    check(Sharing::Native, |entry| entry.paper);
}

#[test]
fn all_others_shared() {
    check(Sharing::Shared, |entry| !entry.paper);
}

/// Containers have connections of the same numbers, each in a process of its own.
#[test]
fn many_containers_are_connected_at_once() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let manifest = Manifest::load(&Artifacts::manifest()).unwrap();
    let store = ObjectStore::start().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut node = Node::start(&artifacts, Sharing::Shared).unwrap();
    let entry = manifest.functions.iter().find(|entry| entry.name == "uploader").unwrap();
    let deployment = manifest.deployment(entry, &store.address(), scratch.path()).unwrap();
    node.deploy(&deployment).unwrap();
    let params = entry.parameters(&store.address()).unwrap();
    let file = std::fs::read(&deployment.files[0].0).unwrap();
    let url = params["url"].as_str().unwrap().to_owned();
    std::thread::scope(|scope| {
        for n in 0..48 {
            let (node, mut params, url) = (&node, params.clone(), &url);
            params["url"] = format!("{url}.{n}").into();
            scope.spawn(move || {
                let outcome = node.invoke("uploader", params).unwrap();
                assert!(outcome.result.is_ok(), "{n}: {:?}", outcome.result);
            });
        }
    });
    for n in 0..48 {
        assert_eq!(store.get(&format!("/bucket/document.txt.{n}")).as_deref(), Some(&file[..]), "{n}");
    }
    node.stop().unwrap();
}
