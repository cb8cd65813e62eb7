//! A host that puts back old states of the database: what nobody notices without a witness, and what is refused with one.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::{Owner, Run};
use teemate_tests::redis::{Proxy, Redis, Reply};
use teemate_tests::running::Node;
use teemate_tests::skip;

const PASSWORD: &str = "correct horse battery staple";
const PATIENCE: Duration = Duration::from_secs(60);

/// `teemate witness serve`, ended with its owner.
struct Witness {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Witness {
    fn start(artifacts: &Artifacts, directory: &Path, listen: &str) -> Witness {
        let mut command = Command::new(artifacts.program("teemate"));
        command.args(["--json", "witness", "serve", "--listen", listen, "--directory"]).arg(directory);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let told = serde_json::Deserializer::from_reader(child.stdout.take().unwrap()).into_iter::<serde_json::Value>().next();
        let address = told.unwrap().unwrap()["listen"].as_str().unwrap().parse().unwrap();
        Witness { child, directory: directory.to_owned(), address }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end();
    }
}

fn artifacts() -> Option<Artifacts> {
    Artifacts::find().map_err(skip).ok()
}

fn claim(proxy: &Proxy, endpoint: SocketAddr, witness: Option<&Witness>) -> Run {
    let file = proxy.owner().home().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let endpoint = format!("https://{endpoint}");
    let (file, policy) = (file.display().to_string(), proxy.policy().display().to_string());
    let mut words = vec!["db".to_owned(), "claim".into(), endpoint, "--password-file".into(), file, "--policy".into(), policy];
    if let Some(witness) = witness {
        let certificate = witness.directory.join("certificate.pem").display().to_string();
        words.extend(["--witness".into(), format!("https://{}", witness.address), "--witness-ca".into(), certificate]);
        words.extend(["--witness-sync".into(), "always".into()]);
    }
    proxy.owner().run(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

/// A database that is claimed, and answers only what its log, and its witness if it has one, have.
fn start(artifacts: &Artifacts, witness: Option<&Witness>) -> (Node, Proxy) {
    let node = Node::start_database(artifacts).unwrap();
    let proxy = Proxy::start(artifacts, &node, node.endpoint()).unwrap();
    let claimed = claim(&proxy, node.endpoint(), witness);
    assert_eq!(claimed.code, 0, "{claimed:?}\n{}", node.last_words());
    assert_eq!(claimed.out.contains("protected by: witness"), witness.is_some(), "{claimed:?}");
    let mut redis = connected(&proxy);
    ok(&mut redis, &["config", "set", "appendonly", "yes", "appendfsync", "always"]);
    let begin = Instant::now();
    while info(&mut redis, "aof_last_rewrite_time_sec") == "-1" || info(&mut redis, "aof_rewrite_in_progress") != "0" {
        assert!(begin.elapsed() < PATIENCE, "the log does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    (node, proxy)
}

/// A connection that answers.
fn connected(proxy: &Proxy) -> Redis {
    let begin = Instant::now();
    loop {
        let answer = proxy.connect().and_then(|mut redis| Ok((redis.call(&["auth", PASSWORD])?, redis)));
        match answer {
            Ok((reply, redis)) if reply.text() == "OK" => return redis,
            answer => assert!(begin.elapsed() < PATIENCE, "nobody answers: {:?}", answer.map(|(reply, _)| reply)),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ok(redis: &mut Redis, words: &[&str]) {
    assert_eq!(redis.call(words).unwrap(), Reply::Status("OK".to_owned()), "{words:?}");
}

fn text(redis: &mut Redis, words: &[&str]) -> String {
    redis.call(words).unwrap().text()
}

fn info(redis: &mut Redis, field: &str) -> String {
    let text = text(redis, &["info"]);
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

/// What the host can copy, and put back.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn the_control_an_old_state_is_served_and_nobody_notices() {
    let Some(artifacts) = artifacts() else { return };
    let (mut node, proxy) = start(&artifacts, None);
    let old = node.state().with_file_name("old");
    ok(&mut connected(&proxy), &["set", "money", "spent not yet"]);
    node.crash().unwrap();
    copy(&node.data(), &old);
    node.restart_here().unwrap();
    let mut redis = connected(&proxy);
    ok(&mut redis, &["set", "money", "spent"]);
    assert_eq!(info(&mut redis, "rollback_protection"), "enclave");
    node.crash().unwrap();
    copy(&old, &node.data());
    node.restart_here().unwrap();
    assert_eq!(text(&mut connected(&proxy), &["get", "money"]), "spent not yet");
    node.stop().unwrap();
}

#[test]
fn with_a_witness_an_old_state_is_refused_until_the_owner_means_it() {
    let Some(artifacts) = artifacts() else { return };
    let directory = tempfile::tempdir().unwrap();
    let witness = Witness::start(&artifacts, directory.path(), "127.0.0.1:0");
    let (mut node, proxy) = start(&artifacts, Some(&witness));
    let (old, new) = (node.state().with_file_name("old"), node.state().with_file_name("new"));
    ok(&mut connected(&proxy), &["set", "money", "spent not yet"]);
    ok(&mut connected(&proxy), &["save"]);
    node.crash().unwrap();
    copy(&node.data(), &old);
    node.restart_here().unwrap();
    let mut redis = connected(&proxy);
    ok(&mut redis, &["set", "money", "spent"]);
    ok(&mut redis, &["save"]);
    ok(&mut redis, &["config", "set", "maxmemory", "1gb"]);
    assert_eq!((info(&mut redis, "rollback_protection"), info(&mut redis, "rollback_witness_status")), ("witness".into(), "ok".into()));
    let id = info(&mut redis, "database_id");
    drop(redis);
    node.crash().unwrap();
    copy(&node.data(), &new);

    // All of it; then each part by itself.
    copy(&old, &node.data());
    let why = node.restart_here().unwrap_err();
    assert!(why.contains("an old state was put back") && why.contains(&format!("teemate witness accept {id}")), "{why}");
    for part in ["settings", "dump.rdb", "appendonly.aof"] {
        copy(&new, &node.data());
        let names = |directory: &Path| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let is_part = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with(part);
        names(&node.data()).iter().filter(|path| is_part(path)).for_each(|path| std::fs::remove_file(path).unwrap());
        names(&old).iter().filter(|path| is_part(path)).for_each(|path| {
            std::fs::copy(path, node.data().join(path.file_name().unwrap())).unwrap();
        });
        let why = node.restart_here().unwrap_err();
        assert!(why.contains("the database can't be opened"), "{part}: {why}");
    }
    // What is newest is served, and so is a backup that the owner means.
    copy(&new, &node.data());
    node.restart_here().unwrap();
    assert_eq!(text(&mut connected(&proxy), &["get", "money"]), "spent");
    node.crash().unwrap();
    copy(&old, &node.data());
    let accepted = proxy.owner().run(&["witness", "accept", &id, "--directory", &directory.path().display().to_string()]).unwrap();
    assert_eq!(accepted.code, 0, "{accepted:?}");
    node.restart_here().unwrap();
    assert_eq!(text(&mut connected(&proxy), &["get", "money"]), "spent not yet");
    node.stop().unwrap();
    let shown = proxy.owner().json(&["witness", "show", "--directory", &directory.path().display().to_string()]).unwrap();
    assert!(shown[0]["database"] == id.as_str() && shown[0]["log_frames"].as_u64() > Some(0), "{shown}");
}

#[test]
fn a_new_database_in_the_place_of_the_old_one_is_refused_by_who_knew_it() {
    let Some(artifacts) = artifacts() else { return };
    let (mut node, proxy) = start(&artifacts, None);
    ok(&mut connected(&proxy), &["set", "secret", "value"]);
    node.crash().unwrap();
    let old = node.state().with_file_name("old");
    copy(&node.data(), &old);
    std::fs::remove_dir_all(node.data()).unwrap();
    node.restart_here().unwrap();
    let said = text(&mut proxy.connect().unwrap(), &["auth", PASSWORD]);
    assert!(said.contains("ANOTHER DATABASE") && said.contains("sent nothing"), "{said}");
    // The host claims it, with the password that it read from somewhere: no better.
    let eve = Proxy::start(&artifacts, &node, node.endpoint()).unwrap();
    assert_eq!(claim(&eve, node.endpoint(), None).code, 0);
    let said = text(&mut proxy.connect().unwrap(), &["auth", PASSWORD]);
    assert!(said.contains("ANOTHER DATABASE"), "{said}");
    let again = claim(&proxy, node.endpoint(), None);
    assert!(again.code == 1 && again.err.contains("ANOTHER DATABASE"), "{again:?}");
    node.crash().unwrap();
    copy(&old, &node.data());
    node.restart_here().unwrap();
    assert_eq!(text(&mut connected(&proxy), &["get", "secret"]), "value");
    node.stop().unwrap();
}

#[test]
fn settings_of_before_there_was_a_witness_are_refused_by_who_knew_it_with_one() {
    let Some(artifacts) = artifacts() else { return };
    let directory = tempfile::tempdir().unwrap();
    let witness = Witness::start(&artifacts, directory.path(), "127.0.0.1:0");
    let (mut node, proxy) = start(&artifacts, None);
    let old = node.state().with_file_name("old");
    ok(&mut connected(&proxy), &["set", "a", "old"]);
    node.crash().unwrap();
    copy(&node.data(), &old);
    node.restart_here().unwrap();
    let certificate = std::fs::read_to_string(directory.path().join("certificate.pem")).unwrap();
    let address = format!("https://{}", witness.address);
    ok(&mut connected(&proxy), &["config", "set", "witness", &address, "witness-ca", &certificate, "witness-sync", "always"]);
    ok(&mut connected(&proxy), &["set", "a", "new"]);
    node.crash().unwrap();
    node.restart_here().unwrap();
    assert_eq!(text(&mut connected(&proxy), &["get", "a"]), "new");
    node.crash().unwrap();
    copy(&old, &node.data());
    // The enclave can't know of a witness that its settings do not name; the client can.
    node.restart_here().unwrap();
    let said = text(&mut proxy.connect().unwrap(), &["auth", PASSWORD]);
    assert!(said.contains("OLD COPY") || said.contains("ANOTHER WITNESS"), "{said}");
    node.stop().unwrap();
}

#[test]
fn of_two_copies_at_once_one_goes_on() {
    let Some(artifacts) = artifacts() else { return };
    let directory = tempfile::tempdir().unwrap();
    let witness = Witness::start(&artifacts, directory.path(), "127.0.0.1:0");
    let (mut node, proxy) = start(&artifacts, Some(&witness));
    ok(&mut connected(&proxy), &["set", "a", "common"]);
    let mut second = Node::start_database(&artifacts).unwrap();
    second.crash().unwrap();
    copy(&node.data(), &second.data());
    // On the same machine: the simulated processor's fuses are a file beside.
    copy(&node.state().join("simulator"), &second.state().join("simulator"));
    second.restart_here().unwrap();
    let other = Proxy::start(&artifacts, &second, second.endpoint()).unwrap();
    let mut redis = connected(&other);
    assert_eq!(text(&mut redis, &["get", "a"]), "common");
    ok(&mut redis, &["set", "a", "second"]);
    // Whoever writes to the first is not told that it was kept.
    let answer = connected(&proxy).call(&["set", "a", "first"]);
    assert!(answer.is_err(), "{answer:?}");
    let begin = Instant::now();
    while !node.last_words().contains("old state was put back") {
        assert!(begin.elapsed() < PATIENCE, "{}", node.last_words());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(text(&mut connected(&other), &["get", "a"]), "second");
    second.stop().unwrap();
    let _ = node.crash();
}

#[test]
fn while_the_witness_is_away_nothing_is_written_and_nothing_begins() {
    let Some(artifacts) = artifacts() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut witness = Witness::start(&artifacts, directory.path(), "127.0.0.1:0");
    let (mut node, proxy) = start(&artifacts, Some(&witness));
    ok(&mut connected(&proxy), &["set", "a", "1"]);
    witness.end();
    let answer = connected(&proxy).call(&["set", "a", "2"]);
    assert!(answer.as_ref().is_err() || answer.as_ref().is_ok_and(|reply| reply.text().starts_with("MISCONF")), "{answer:?}");
    let mut redis = connected(&proxy);
    assert!(text(&mut redis, &["set", "a", "3"]).starts_with("MISCONF The witness"));
    assert_eq!(info(&mut redis, "rollback_witness_status"), "away");
    assert!(["1", "2"].contains(&text(&mut redis, &["get", "a"]).as_str()), "reads are served");
    let address = witness.address.to_string();
    let mut witness = Witness::start(&artifacts, directory.path(), &address);
    let begin = Instant::now();
    while text(&mut redis, &["set", "a", "4"]) != "OK" {
        assert!(begin.elapsed() < PATIENCE, "it does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(redis);
    node.crash().unwrap();
    witness.end();
    let why = node.restart_here().unwrap_err();
    assert!(why.contains("does not begin without it"), "{why}");
    let _witness = Witness::start(&artifacts, directory.path(), &address);
    node.restart_here().unwrap();
    assert_eq!(text(&mut connected(&proxy), &["get", "a"]), "4");
    node.stop().unwrap();
}

/// A counter on the node's own machine finds a database that was restored by itself.
#[test]
fn a_counter_in_a_file_tells_an_accident() {
    let Some(artifacts) = artifacts() else { return };
    let owner = Owner::new(&artifacts).unwrap();
    let at = |name: &str| owner.home().join(name);
    let text = |name: &str| at(name).display().to_string();
    let (socket, data, counter) = (text("db.sock"), text("db"), text("counter"));
    let start = || {
        let words = ["--socket", &socket, "db", "start", "--data", &data, "--listen", "127.0.0.1:0", "--witness-directory", &counter];
        owner.run(&words).unwrap()
    };
    let stop = || assert_eq!(owner.run(&["--socket", &socket, "node", "stop"]).unwrap().code, 0);
    let started = start();
    assert!(started.code == 0 && started.err.contains("no host that means it"), "{started:?}");
    stop();
    // One that never had an owner has nothing, and starts again.
    assert_eq!(start().code, 0);
    let endpoint = || {
        let status = owner.json(&["--socket", &socket, "node", "status"]).unwrap();
        status["endpoint"].as_str().unwrap().to_owned()
    };
    let policy = text("policy.toml");
    let image = artifacts.database_image().display().to_string();
    owner.json(&["policy", "init", "--image", &image, "--insecure-simulation", "--policy", &policy]).unwrap();
    std::fs::write(at("password"), format!("{PASSWORD}\n")).unwrap();
    let (database, password) = (format!("https://{}", endpoint()), text("password"));
    let claim = ["db", "claim", &database, "--password-file", &password, "--policy", &policy];
    let claimed = owner.run(&claim).unwrap();
    assert!(claimed.code == 0 && claimed.out.contains("protected by: file"), "{claimed:?}");
    stop();
    copy(&at("db/files"), &at("old"));
    assert_eq!(start().code, 0);
    // Something changes: everything is taken out, and put in again.
    for words in [&["export"][..], &["import", "--replace"]] {
        let (endpoint, password) = (format!("https://{}", endpoint()), text("password"));
        let rest = [endpoint.as_str(), "--password-file", &password, "--policy", &policy, &text("all.rdb")].map(ToOwned::to_owned);
        let words: Vec<&str> = ["db"].into_iter().chain(words.iter().copied()).chain(rest.iter().map(String::as_str)).collect();
        let done = owner.run(&words).unwrap();
        assert_eq!(done.code, 0, "{done:?}");
    }
    stop();
    copy(&at("old"), &at("db/files"));
    let refused = start();
    assert!(refused.code != 0 && refused.err.contains("delete the counter's file"), "{refused:?}");
    std::fs::remove_file(at("counter/counter")).unwrap();
    assert_eq!(start().code, 0);
    stop();
}
