//! Documentation that a program can check.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use teemate_tests::artifacts::root;

/// Every word that follows `mark` in a text.
fn after<'a>(text: &'a str, mark: &str) -> BTreeSet<&'a str> {
    let word = |rest: &'a str| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
    text.split(mark).skip(1).map(word).filter(|word| !word.is_empty()).collect()
}

#[test]
fn the_table_of_syscalls_is_that_of_the_library_os() {
    let source = fs::read_to_string(root().join("enclave/libos/src/syscall.rs")).unwrap();
    let dispatch = source.split("fn serve(").nth(1).unwrap().split("\nfn ").next().unwrap();
    let document = fs::read_to_string(root().join("docs/syscalls.md")).unwrap();
    let (linux, own) = document.split_once("## Own calls").unwrap();
    assert_eq!(after(dispatch, "libc::SYS_"), after(linux, "\n| `"), "served and documented syscalls differ");
    assert_eq!(after(dispatch, "own::"), after(own, "\n| `"), "served and documented own calls differ");
}

fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut all = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    documents(&root().join("docs"), &mut all);
    for document in all {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(document.parent().unwrap().join(path).exists(), "{}: {target}", document.display());
        }
    }
}

/// The files of `deploy/` hang together: each is listed, names its kind, and what refers to another names one that is there.
#[test]
fn the_files_for_kubernetes_fit_each_other() {
    let read = |name: &str| fs::read_to_string(root().join("deploy").join(name)).unwrap();
    let field = |text: &str, name: &str| -> String {
        let line = text.lines().find(|line| line.trim_start().trim_start_matches("- ").starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name}")).split_once(": ").unwrap().1.trim().to_owned()
    };
    for folder in ["node/", "sgx/", "database/"] {
        let listed = read(&format!("{folder}kustomization.yaml"));
        let entries = fs::read_dir(root().join("deploy").join(folder)).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file()).map(|entry| entry.file_name().into_string().unwrap());
        for file in files.filter(|file| file != "kustomization.yaml") {
            assert!(listed.contains(&format!("- {file}")), "{folder}{file} is not listed");
            let text = read(&format!("{folder}{file}"));
            assert!(!text.contains('\t'), "{file}: YAML takes no tabs");
            assert!(!field(&text, "apiVersion").is_empty() && !field(&text, "kind").is_empty(), "{file}");
        }
    }
    let listed = read("node/kustomization.yaml");
    let (class, daemon, space) = (read("node/runtimeclass.yaml"), read("node/daemonset.yaml"), read("node/namespace.yaml"));
    let label = "teemate.io/runtime: \"true\"";
    assert!(class.contains(label) && daemon.contains(label), "pods go where the node is");
    assert_eq!(field(&daemon, "namespace"), field(&space, "name"));
    assert!(listed.contains(&format!("name: {}", field(&daemon, "image"))), "the image has a name of its own in kustomization.yaml");
    let mounts: BTreeSet<&str> = daemon.split("- name: ").skip(1).map(|rest| rest.split_whitespace().next().unwrap()).collect();
    for mount in ["host-bin", "run", "state", "cgroup", "netns"] {
        assert!(mounts.contains(mount) && daemon.matches(&format!("- name: {mount}\n")).count() >= 2, "{mount} is mounted and declared");
    }
    assert!(daemon.contains("\"install-shim\", \"/host/bin\""), "the shim is installed into the host's directory");
    assert!(fs::read_to_string(root().join("docs/kubernetes.md")).unwrap().contains(&field(&class, "handler")));
}
