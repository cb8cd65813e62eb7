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
