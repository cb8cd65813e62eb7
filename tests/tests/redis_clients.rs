//! Redis's real clients, unchanged, against the database in the shared enclave: through `teemate proxy`.
//!
//! They are fetched from their registries in these versions; where that cannot be, the test is skipped, and says why.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use teemate_tests::artifacts::{Artifacts, root};
use teemate_tests::redis::{Proxy, cli};
use teemate_tests::running::Node;
use teemate_tests::skip;

const PASSWORD: &str = "correct horse battery staple";
const PYTHON: [&str; 2] = ["redis==8.1.0", "rq==3.0.0"];
const NODE: [&str; 3] = ["redis@6.3.1", "ioredis@6.0.0", "bullmq@6.7.0"];

fn start() -> Option<(Node, Proxy)> {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => {
            skip(reason);
            return None;
        }
    };
    let node = Node::start_database(&artifacts).unwrap();
    let proxy = Proxy::start(&artifacts, &node, node.endpoint()).unwrap();
    let claimed = proxy.claim(node.endpoint(), PASSWORD).unwrap();
    assert_eq!(claimed.code, 0, "{claimed:?}");
    Some((node, proxy))
}

/// Where clients are kept between runs.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-clients").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn done(command: &mut Command) -> Result<String, String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{shown} does not run: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

fn first_line(why: &str) -> &str {
    why.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given")
}

/// A Python that has them.
fn python() -> Result<PathBuf, String> {
    let folder = folder("python");
    let python = folder.join("bin/python");
    let has = |python: &Path| done(Command::new(python).args(["-c", "import redis, rq"])).is_ok();
    if !has(&python) {
        done(Command::new("python3").args(["-m", "venv"]).arg(&folder)).map_err(|why| format!("no venv: {}", first_line(&why)))?;
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--retries=0", "--timeout=20"]).args(PYTHON);
        done(&mut pip).map_err(|why| format!("pip cannot install {}: {}", PYTHON.join(" "), first_line(&why)))?;
    }
    Ok(python)
}

/// A folder whose modules have them.
fn modules() -> Result<PathBuf, String> {
    let folder = folder("node");
    if !folder.join("node_modules/bullmq").is_dir() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--fetch-retries=0", "--fetch-timeout=20000", "--loglevel=error"]);
        done(npm.args(NODE).current_dir(&folder)).map_err(|why| format!("npm cannot install {}: {}", NODE.join(" "), first_line(&why)))?;
    }
    Ok(folder)
}

/// Runs a script against this address; it must say that it works.
fn works(command: &mut Command, address: SocketAddr) {
    let shown = format!("{command:?}");
    command.env("REDIS_HOST", "127.0.0.1").env("REDIS_PORT", address.port().to_string()).env("REDIS_PASSWORD", PASSWORD);
    let said = done(command).unwrap_or_else(|why| panic!("{shown}: {why}"));
    assert!(said.trim_end().ends_with("works"), "{shown}: {said}");
    println!("{}", said.trim_end());
}

fn script(name: &str) -> PathBuf {
    root().join("tests/redis_clients").join(name)
}

#[test]
fn redis_cli_and_redis_benchmark() {
    let Some((mut node, proxy)) = start() else { return };
    let ask = |arguments: &[&str]| cli(proxy.address(), &[&["-a", PASSWORD, "--no-auth-warning"], arguments].concat());
    let Some(said) = ask(&["set", "a", "1"]) else { return skip("redis-cli is not installed (Debian's package redis-tools)") };
    assert_eq!(said, "OK");
    // Version 3 of the protocol; keys; what is large; a script.
    assert_eq!(ask(&["-3", "hset", "h", "f", "v"]).unwrap(), "1");
    assert_eq!(ask(&["-3", "--json", "hgetall", "h"]).unwrap(), r#"{"f":"v"}"#);
    assert_eq!(ask(&["--scan", "--pattern", "h*"]).unwrap(), "h");
    assert!(ask(&["--bigkeys"]).unwrap().contains("Biggest string found '\"a\"' has 1 bytes"));
    let lua = proxy.owner().home().join("add.lua");
    std::fs::write(&lua, "return redis.call('incrby', KEYS[1], ARGV[1])").unwrap();
    assert_eq!(ask(&["--eval", &lua.display().to_string(), "a", ",", "41"]).unwrap(), "42");
    let port = proxy.address().port().to_string();
    let mut benchmark = Command::new("redis-benchmark");
    benchmark.args(["-h", "127.0.0.1", "-p", &port, "-a", PASSWORD, "-n", "2000", "-c", "20", "-P", "8", "--csv"]);
    benchmark.args(["-t", "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"]);
    match done(&mut benchmark) {
        Ok(table) => assert!(table.lines().filter(|line| line.starts_with('"')).count() >= 15, "{table}"),
        Err(why) if why.contains("does not run") => skip(why),
        Err(why) => panic!("{why}"),
    }
    node.stop().unwrap();
}

#[test]
fn clients_in_python() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(why),
    };
    let Some((mut node, proxy)) = start() else { return };
    for name in ["redis_py.py", "rq_jobs.py"] {
        works(Command::new(&python).arg(script(name)), proxy.address());
    }
    node.stop().unwrap();
}

#[test]
fn clients_in_javascript() {
    let modules = match modules() {
        Ok(modules) => modules,
        Err(why) => return skip(why),
    };
    let Some((mut node, proxy)) = start() else { return };
    for name in ["node_redis.mjs", "ioredis.mjs", "bullmq.mjs"] {
        // Modules are looked for from where the script lies.
        let here = modules.join(name);
        std::fs::copy(script(name), &here).unwrap();
        works(Command::new("node").arg("--no-warnings").arg(&here), proxy.address());
    }
    node.stop().unwrap();
}
