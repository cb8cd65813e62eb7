//! A database in an enclave follows one in another enclave: verified before anything is sent, seen by nobody between, and driven by a real Sentinel.
#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use teemate_tests::artifacts::Artifacts;
use teemate_tests::redis::{Proxy, Redis, Reply};
use teemate_tests::running::Node;
use teemate_tests::skip;
use teemate_tests::witness::{Canaries, Tap};

const PASSWORD: &str = "correct horse battery staple";

/// A node with a database, and the proxy before it.
struct Database {
    node: Node,
    proxy: Proxy,
}

impl Database {
    /// One that has an owner, and knows how to follow another.
    fn start(artifacts: &Artifacts) -> Database {
        let node = Node::start_database(artifacts).unwrap();
        let proxy = Proxy::start(artifacts, &node, node.endpoint()).unwrap();
        let claimed = proxy.claim(node.endpoint(), PASSWORD).unwrap();
        assert_eq!(claimed.code, 0, "{claimed:?}");
        let database = Database { node, proxy };
        let mut redis = database.connect();
        let (port, policy) = (database.proxy.address().port().to_string(), std::fs::read_to_string(database.proxy.policy()).unwrap());
        ok(&mut redis, &["config", "set", "masterauth", PASSWORD, "replica-policy", &policy]);
        ok(&mut redis, &["config", "set", "replica-announce-ip", "127.0.0.1", "replica-announce-port", &port]);
        database
    }

    /// A connection that answers; while the node starts none does.
    fn connect(&self) -> Redis {
        let begin = Instant::now();
        loop {
            if let Some(redis) = connect(self.proxy.address()) {
                return redis;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "nobody answers\n{}", self.node.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn port(&self) -> u16 {
        self.proxy.address().port()
    }
}

fn artifacts() -> Option<Artifacts> {
    Artifacts::find().map_err(skip).ok()
}

fn connect(address: SocketAddr) -> Option<Redis> {
    let mut redis = Redis::connect(address).ok()?;
    redis.call(&["auth", PASSWORD]).is_ok_and(|reply| reply.text() == "OK").then_some(redis)
}

fn ok(redis: &mut Redis, words: &[&str]) {
    assert_eq!(redis.call(words).unwrap(), Reply::Status("OK".to_owned()), "{words:?}");
}

fn text(redis: &mut Redis, words: &[&str]) -> String {
    redis.call(words).unwrap().text()
}

/// Waits until INFO has these words.
fn says(database: &Database, words: &[&str]) {
    let begin = Instant::now();
    loop {
        let said = text(&mut database.connect(), &["info", "replication"]);
        if words.iter().all(|word| said.contains(word)) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "not {words:?}, but\n{said}\n{}", database.node.last_words());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn follow(replica: &Database, address: SocketAddr) {
    ok(&mut replica.connect(), &["replicaof", "127.0.0.1", &address.port().to_string()]);
}

const UP: &[&str] = &["role:slave", "master_link_status:up"];

#[test]
fn a_replica_in_an_enclave_follows_what_it_has_verified() {
    let Some(artifacts) = artifacts() else { return };
    let (primary, replica) = (Database::start(&artifacts), Database::start(&artifacts));
    let canaries = Canaries::new(&["key", "value", "later"]).unwrap();
    let mut first = primary.connect();
    ok(&mut first, &["set", canaries.text("key"), canaries.text("value")]);
    for number in 0..3000 {
        ok(&mut first, &["set", &format!("key:{number}"), &"v".repeat(200)]);
    }
    // The network between the two looks.
    let tap = Tap::before(primary.node.endpoint()).unwrap();
    follow(&replica, tap.address());
    says(&replica, UP);
    let mut second = replica.connect();
    assert_eq!(second.call(&["dbsize"]).unwrap(), Reply::Integer(3001));
    ok(&mut first, &["set", "later", canaries.text("later")]);
    assert_eq!(first.call(&["wait", "1", "10000"]).unwrap(), Reply::Integer(1));
    assert_eq!(text(&mut second, &["get", "later"]), canaries.text("later"));
    assert_eq!(text(&mut second, &["get", canaries.text("key")]), canaries.text("value"));
    assert!(text(&mut second, &["set", "a", "1"]).starts_with("READONLY"));
    let seen = tap.seen();
    assert!(seen.len() > 100_000, "{} bytes went over the network", seen.len());
    assert!(canaries.seen(&seen).is_empty(), "{:?}", canaries.seen(&seen));
    // The way through the other's proxy, as a Sentinel names it.
    follow(&replica, primary.proxy.address());
    says(&replica, UP);
    ok(&mut first, &["set", "more", "1"]);
    assert_eq!(first.call(&["wait", "1", "10000"]).unwrap(), Reply::Integer(1));
    assert_eq!(text(&mut second, &["get", "more"]), "1");

    // Whom it did not verify it tells nothing: another program, nobody's password, a server without TLS.
    let refused = |policy: &str, why: &str| {
        let mut redis = replica.connect();
        ok(&mut redis, &["config", "set", "replica-policy", policy]);
        ok(&mut redis, &["replicaof", "no", "one"]);
        follow(&replica, primary.node.endpoint());
        says(&replica, &["master_link_status:down", why]);
    };
    refused(&format!("insecure_simulation = true\n[[enclave]]\nmrenclave = \"{}\"\n", "00".repeat(32)), "is refused");
    // No simulation, said the owner. Where he says nothing a simulated one follows a simulated one.
    let policy = std::fs::read_to_string(replica.proxy.policy()).unwrap();
    refused(&policy.replace("insecure_simulation = true", ""), "is refused");
    ok(&mut replica.connect(), &["config", "set", "replica-policy", ""]);
    ok(&mut replica.connect(), &["replicaof", "no", "one"]);
    follow(&replica, primary.node.endpoint());
    says(&replica, UP);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    follow(&replica, plain.local_addr().unwrap());
    let (mut stream, _) = plain.accept().unwrap();
    let mut hello = [0; 1];
    std::io::Read::read_exact(&mut stream, &mut hello).unwrap();
    assert_eq!(hello, [22], "it speaks nothing but TLS");
    drop((stream, plain));
    ok(&mut first, &["acl", "setuser", "anybody", "on", "nopass", "~*", "+@all"]);
    ok(&mut replica.connect(), &["config", "set", "masteruser", "anybody"]);
    ok(&mut replica.connect(), &["replicaof", "no", "one"]);
    follow(&replica, primary.node.endpoint());
    says(&replica, &["master_link_status:down", "NOPASSWORD"]);
    ok(&mut replica.connect(), &["config", "set", "masteruser", "", "masterauth", ""]);
    ok(&mut replica.connect(), &["replicaof", "no", "one"]);
    let said = text(&mut replica.connect(), &["replicaof", "127.0.0.1", "1"]);
    assert!(said.contains("masterauth"), "{said}");
    // All the time it has what it had.
    assert_eq!(text(&mut replica.connect(), &["get", "more"]), "1");
}

/// A Sentinel that watches this server, alone.
struct Sentinel {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Sentinel {
    fn start(port: u16) -> Sentinel {
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor it 127.0.0.1 {port} 1\nsentinel auth-pass it \"{PASSWORD}\"\nsentinel down-after-milliseconds it 2000\nsentinel failover-timeout it 5000\n",
            address.port(),
            directory.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        let child = command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let sentinel = Sentinel { child, address, _directory: directory };
        // It asks a server every ten seconds how it does, and waits for four of its own reports before it says that one is a replica.
        until("Sentinel's start", || sentinel.ask(&["sentinel", "debug", "info-period", "500", "publish-period", "250"]).starts_with("OK"));
        sentinel
    }

    /// What it says; nothing while it does not answer.
    fn ask(&self, words: &[&str]) -> String {
        Redis::connect(self.address).and_then(|mut redis| redis.call(words)).map_or_else(|_| String::new(), |reply| flat(&reply))
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn flat(reply: &Reply) -> String {
    match reply {
        Reply::Array(parts) => parts.iter().map(flat).collect::<Vec<_>>().join(" "),
        other => other.text(),
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes one key after the other through whatever proxy is said to be the first's.
fn write(name: usize, first: &AtomicU16, ends: &AtomicBool, answered: &AtomicUsize) {
    let mut number = 0;
    while !ends.load(SeqCst) {
        let port = first.load(SeqCst);
        let Some(mut redis) = connect(([127, 0, 0, 1], port).into()) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        while !ends.load(SeqCst) && first.load(SeqCst) == port {
            number += 1;
            match redis.call(&["set", &format!("count:{name}:{number}"), "1"]) {
                Ok(Reply::Status(_)) => _ = answered.fetch_add(1, SeqCst),
                _ => break,
            }
        }
    }
}

#[test]
fn sentinel_fails_over_from_one_enclave_to_another() {
    let Some(artifacts) = artifacts() else { return };
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("there is no redis-server; install the package");
    }
    let (mut primary, replica) = (Database::start(&artifacts), Database::start(&artifacts));
    follow(&replica, primary.proxy.address());
    says(&replica, UP);
    let sentinel = Sentinel::start(primary.port());
    until("Sentinel's knowledge of the replica", || sentinel.ask(&["sentinel", "replicas", "it"]).contains(&replica.port().to_string()));
    let (first, ends, answered) = (AtomicU16::new(primary.port()), AtomicBool::new(false), AtomicUsize::new(0));
    let took = std::thread::scope(|scope| {
        for name in 0..4 {
            let (first, ends, answered) = (&first, &ends, &answered);
            scope.spawn(move || write(name, first, ends, answered));
        }
        let begin = Instant::now();
        while answered.load(SeqCst) < 2000 && begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        primary.node.crash().unwrap();
        let killed = Instant::now();
        let new = replica.port();
        while !sentinel.ask(&["sentinel", "get-master-addr-by-name", "it"]).ends_with(&new.to_string()) {
            if killed.elapsed() > Duration::from_secs(60) {
                ends.store(true, SeqCst);
                panic!("no failover: {}\n{}", sentinel.ask(&["sentinel", "master", "it"]), replica.node.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // On a busy machine the new one, too, may be silent for so long, and then the first one, once it is back, takes its place again.
        assert_eq!(sentinel.ask(&["sentinel", "set", "it", "down-after-milliseconds", "60000"]), "OK");
        first.store(new, SeqCst);
        let before = answered.load(SeqCst);
        while answered.load(SeqCst) < before + 200 && killed.elapsed() < Duration::from_secs(90) {
            std::thread::sleep(Duration::from_millis(10));
        }
        ends.store(true, SeqCst);
        killed.elapsed()
    });
    says(&replica, &["role:master"]);
    let total = answered.load(SeqCst);
    let Reply::Integer(there) = replica.connect().call(&["dbsize"]).unwrap() else { panic!("DBSIZE is a number") };
    let lost = total.saturating_sub(there as usize);
    println!("writes go on {took:?} after the kill; of {total} that were answered {lost} are lost");
    // What was answered and not yet sent may be lost, no more.
    assert!(total > 2200 && lost < 1000, "{lost} of {total}");
    // The first one comes back, and Sentinel makes it the other's replica: by way of that one's proxy.
    primary.node.restart_here().unwrap();
    says(&primary, UP);
    let mut redis = replica.connect();
    assert_eq!(redis.call(&["wait", "1", "10000"]).unwrap(), Reply::Integer(1));
    assert_eq!(primary.connect().call(&["dbsize"]).unwrap(), redis.call(&["dbsize"]).unwrap());
}
