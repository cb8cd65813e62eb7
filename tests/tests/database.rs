//! The database in the shared enclave: real clients through the proxy, snapshots in containers of their own, kills, restarts.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use teemate_control::node::{Request, Response};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::memory;
use teemate_tests::owner::{Owner, Run};
use teemate_tests::redis::{Proxy, Redis, Reply, cli};
use teemate_tests::running::Node;
use teemate_tests::skip;
use teemate_tests::witness::{Canaries, Tap};

const PASSWORD: &str = "correct horse battery staple";

fn start() -> Option<(Artifacts, Node, Proxy)> {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => {
            skip(reason);
            return None;
        }
    };
    let node = Node::start_database(&artifacts).unwrap();
    let proxy = Proxy::start(&artifacts, &node, node.endpoint()).unwrap();
    claim(&proxy, node.endpoint());
    Some((artifacts, node, proxy))
}

/// Becomes the owner.
fn claim(proxy: &Proxy, endpoint: SocketAddr) {
    let run = try_claim(proxy, endpoint);
    assert_eq!(run.code, 0, "{run:?}");
}

fn try_claim(proxy: &Proxy, endpoint: SocketAddr) -> Run {
    proxy.claim(endpoint, PASSWORD).unwrap()
}

fn ok(redis: &mut Redis, words: &[&str]) {
    assert_eq!(redis.call(words).unwrap(), Reply::Status("OK".to_owned()), "{words:?}");
}

fn text(redis: &mut Redis, words: &[&str]) -> String {
    redis.call(words).unwrap().text()
}

/// A field of INFO.
fn info(redis: &mut Redis, field: &str) -> String {
    redis.info(field).unwrap().unwrap_or_else(|| panic!("no {field} in INFO"))
}

/// Waits for the snapshot under way.
fn saved(redis: &mut Redis) -> String {
    let begin = Instant::now();
    while info(redis, "rdb_bgsave_in_progress") != "0" {
        assert!(begin.elapsed() < Duration::from_secs(60), "the snapshot does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    info(redis, "rdb_last_bgsave_status")
}

#[test]
fn clients_work_unchanged() {
    let Some((_, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    ok(&mut redis, &["set", "a", "1"]);
    assert_eq!(redis.call(&["incr", "a"]).unwrap(), Reply::Integer(2));
    assert_eq!(text(&mut redis, &["eval", "return redis.call('get', KEYS[1]) .. '!'", "1", "a"]), "2!");
    // Pipelined, and large.
    let large = "x".repeat(3_000_000);
    for number in 0..500 {
        redis.send(&["rpush", "list", &number.to_string()]).unwrap();
    }
    for number in 1..=500 {
        assert_eq!(redis.receive().unwrap(), Reply::Integer(number));
    }
    ok(&mut redis, &["set", "large", &large]);
    assert!(text(&mut redis, &["get", "large"]) == large);
    // Somebody who waits, and somebody who is told.
    let mut waits = connected(&proxy);
    waits.send(&["blpop", "queue", "30"]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    redis.call(&["rpush", "queue", "job"]).unwrap();
    assert_eq!(waits.receive().unwrap(), Reply::Array(vec![Reply::Bulk(b"queue".to_vec()), Reply::Bulk(b"job".to_vec())]));
    match cli(proxy.address(), &["-a", PASSWORD, "--no-auth-warning", "get", "a"]) {
        Some(text) => {
            assert_eq!(text, "2");
            assert!(cli(proxy.address(), &["-a", PASSWORD, "--no-auth-warning", "--scan"]).unwrap().lines().any(|line| line == "list"));
        }
        None => println!("redis-cli is not installed: it was not tried"),
    }
    // Many at once.
    let address = proxy.address();
    std::thread::scope(|scope| {
        for client in 0..50 {
            scope.spawn(move || {
                let mut redis = Redis::connect(address).unwrap();
                ok(&mut redis, &["auth", PASSWORD]);
                for number in 0..20 {
                    let (key, value) = (format!("{client}:{number}"), format!("{client}-{number}"));
                    ok(&mut redis, &["set", &key, &value]);
                    assert_eq!(text(&mut redis, &["get", &key]), value);
                }
            });
        }
    });
    node.stop().unwrap();
}

/// As a new user would, by the command line alone.
#[test]
fn one_command_starts_it_and_one_owns_it() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let ada = Owner::new(&artifacts).unwrap();
    let at = |name: &str| ada.home().join(name).display().to_string();
    let (socket, data, policy, password) = (at("db.sock"), at("db"), at("policy.toml"), at("password"));
    let started = ada.json(&["--socket", &socket, "db", "start", "--data", &data, "--listen", "127.0.0.1:0"]).unwrap();
    let endpoint = format!("https://{}", started["status"]["endpoint"].as_str().unwrap());
    let image = artifacts.database_image().display().to_string();
    ada.json(&["policy", "init", "--image", &image, "--insecure-simulation", "--policy", &policy]).unwrap();
    std::fs::write(ada.home().join("password"), "\n").unwrap();
    let claim = |policy: &str| ada.run(&["db", "claim", &endpoint, "--password-file", &password, "--policy", policy]).unwrap();
    assert_eq!(claim(&policy).code, 2, "an empty password");
    std::fs::write(ada.home().join("password"), format!("{PASSWORD}\n")).unwrap();
    // Whoever expects another enclave says nothing to this one.
    let other = ada.policy("other.toml", &format!("mrenclave = \"{}\"", "00".repeat(32))).unwrap().display().to_string();
    let refused = claim(&other);
    assert!(refused.code == 1 && refused.err.to_lowercase().contains("mrenclave"), "{refused:?}");
    let claimed = claim(&policy);
    assert_eq!(claimed.code, 0, "{claimed:?}");
    assert!(claim(&policy).err.contains("has an owner already"));
    ada.json(&["--socket", &socket, "node", "stop"]).unwrap();
    let files: Vec<_> = std::fs::read_dir(ada.home().join("db/files")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().any(|name| name == "settings") && files.iter().any(|name| name == "dump.rdb"), "{files:?}");
}

#[test]
fn a_snapshot_has_a_container_and_outlives_the_node() {
    let Some((artifacts, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    for number in 0..2000 {
        ok(&mut redis, &["set", &format!("key:{number}"), &"v".repeat(500)]);
    }
    assert_eq!(text(&mut redis, &["bgsave"]), "Background saving started");
    assert_eq!(saved(&mut redis), "ok");
    assert!(std::fs::read_dir(node.data()).unwrap().count() > 0);
    // What is written after the last snapshot is written when the node stops in order.
    ok(&mut redis, &["set", "last", "word"]);
    drop((redis, proxy));
    node.stop().unwrap();
    node.restart_here().unwrap();
    let proxy = Proxy::start(&artifacts, &node, node.endpoint()).unwrap();
    let mut redis = connected(&proxy);
    assert_eq!(redis.call(&["dbsize"]).unwrap(), Reply::Integer(2001));
    assert_eq!(text(&mut redis, &["get", "last"]), "word");
    assert_eq!(text(&mut redis, &["get", "key:1999"]), "v".repeat(500));
    node.stop().unwrap();
}

/// Process ids of the node's containers of this role.
fn of_role(node: &Node, role: &str) -> Vec<(u64, u32)> {
    node.ps().unwrap().containers.iter().filter(|one| one.role == role).map(|one| (one.id, one.pid)).collect()
}

fn kill(node: &Node, container: u64) {
    let mut connection = node.connect().unwrap();
    if let Response::Failed(failure) = connection.ask(&Request::Kill { container }).unwrap() {
        panic!("{failure:?}");
    }
}

#[test]
fn a_killed_snapshot_changes_nothing() {
    let Some((_, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    let value = "v".repeat(10_000);
    for number in 0..3000 {
        ok(&mut redis, &["set", &format!("key:{number}"), &value]);
    }
    let mut killed = 0;
    for round in 0..20 {
        assert_eq!(text(&mut redis, &["bgsave"]), "Background saving started", "round {round}");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if let Some((_, pid)) = of_role(&node, "function").first() {
                std::thread::sleep(Duration::from_micros(700 * round));
                // It may have ended by itself: then the snapshot is whole.
                if let Some(pid) = rustix::process::Pid::from_raw(*pid as i32) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                break;
            }
            if info(&mut redis, "rdb_bgsave_in_progress") == "0" {
                break;
            }
        }
        if saved(&mut redis) == "err" {
            killed += 1;
        }
        assert_eq!(text(&mut redis, &["ping"]), "PONG");
    }
    println!("{killed} of 20 snapshots were killed");
    assert!(killed > 0, "no kill hit a snapshot");
    // The next one works.
    assert_eq!(text(&mut redis, &["bgsave"]), "Background saving started");
    assert_eq!(saved(&mut redis), "ok");
    let leases = node.at_rest().unwrap().enclaves[0].tcs_leased;
    println!("{leases} TCSs are leased at rest");
    node.stop().unwrap();
}

#[test]
fn a_killed_server_loses_no_key() {
    let Some((_, mut node, proxy)) = start() else { return };
    let mut written = 0;
    for round in 0..5 {
        let mut redis = connected(&proxy);
        for _ in 0..200 {
            ok(&mut redis, &["set", &format!("key:{written}"), &format!("value {written}")]);
            written += 1;
        }
        let (container, _) = of_role(&node, "service")[0];
        kill(&node, container);
        let mut redis = connected(&proxy);
        for number in 0..written {
            assert_eq!(
                text(&mut redis, &["get", &format!("key:{number}")]),
                format!("value {number}"),
                "round {round}: {}",
                node.last_words()
            );
        }
        // And a snapshot works in the new process.
        assert_eq!(text(&mut redis, &["bgsave"]), "Background saving started");
        assert_eq!(saved(&mut redis), "ok");
    }
    node.stop().unwrap();
}

/// A connection that answers; for a moment after a kill none does.
fn connected(proxy: &Proxy) -> Redis {
    let begin = Instant::now();
    loop {
        if let Ok(mut redis) = proxy.connect()
            && redis.call(&["auth", PASSWORD]).is_ok_and(|reply| reply.text() == "OK")
        {
            return redis;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "nobody answers");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_was_acknowledged_outlives_a_crash_of_the_node() {
    let Some((artifacts, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    ok(&mut redis, &["config", "set", "appendonly", "yes", "appendfsync", "always"]);
    let begin = Instant::now();
    // What is written before its first base is on disk is not in it.
    while info(&mut redis, "aof_last_rewrite_time_sec") == "-1" || info(&mut redis, "aof_rewrite_in_progress") != "0" {
        assert!(begin.elapsed() < Duration::from_secs(60), "the log does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut written = 0;
    for round in 0..3 {
        let mut redis = connected(&proxy);
        for _ in 0..200 {
            ok(&mut redis, &["set", &format!("key:{written}"), &format!("value {written}")]);
            written += 1;
        }
        if round == 1 {
            assert_eq!(text(&mut redis, &["bgrewriteaof"]), "Background append only file rewriting started");
        }
        node.crash().unwrap();
        node.restart_here().unwrap();
        let mut redis = connected(&proxy);
        for number in 0..written {
            assert_eq!(text(&mut redis, &["get", &format!("key:{number}")]), format!("value {number}"), "round {round}");
        }
    }
    node.stop().unwrap();
    // One changed byte in what is kept, and nothing is served.
    let logs = std::fs::read_dir(node.data()).unwrap().map(|entry| entry.unwrap().path());
    let largest = logs.filter(|path| path.is_file()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let why = node.restart_here().unwrap_err();
    assert!(why.contains("the database can't be opened"), "{why}");
    drop(artifacts);
}

#[test]
fn the_first_to_set_a_password_owns_it() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let mut node = Node::start_database(&artifacts).unwrap();
    let proxy = Proxy::start(&artifacts, &node, node.endpoint()).unwrap();
    // Somebody who is there before the owner gets nothing, then or later.
    let mut early = proxy.connect().unwrap();
    assert!(text(&mut early, &["get", "a"]).starts_with("DENIED"));
    assert!(text(&mut early, &["eval", "return 1", "0"]).starts_with("DENIED"));
    claim(&proxy, node.endpoint());
    assert!(early.call(&["get", "a"]).is_err(), "it was cut off");
    let mut late = proxy.connect().unwrap();
    assert!(text(&mut late, &["get", "a"]).starts_with("NOAUTH"));
    let again = try_claim(&proxy, node.endpoint());
    assert!(again.code == 1 && again.err.contains("has an owner already"), "{again:?}");
    // Users outlive the node.
    let mut redis = connected(&proxy);
    ok(&mut redis, &["acl", "setuser", "worker", "on", ">w0rk", "~jobs:*", "+@list"]);
    node.crash().unwrap();
    node.restart_here().unwrap();
    let mut worker = proxy.connect().unwrap();
    ok(&mut worker, &["auth", "worker", "w0rk"]);
    assert_eq!(worker.call(&["lpush", "jobs:1", "x"]).unwrap(), Reply::Integer(1));
    assert!(text(&mut worker, &["get", "a"]).starts_with("NOPERM"));
    // A host that takes the settings away has a new database, and not the old one's data.
    ok(&mut connected(&proxy), &["set", "secret", "value"]);
    assert_eq!(text(&mut connected(&proxy), &["save"]), "OK");
    node.stop().unwrap();
    std::fs::remove_file(node.data().join("settings")).unwrap();
    match node.restart_here() {
        Err(why) => assert!(why.contains("the database can't be opened"), "{why}"),
        Ok(()) => {
            let refused = text(&mut proxy.connect().unwrap(), &["ping"]);
            assert!(refused.contains("ANOTHER DATABASE"), "{refused}");
            // Who does not know the old one takes it for what it is.
            let proxy = Proxy::start(&artifacts, &node, node.endpoint()).unwrap();
            let mut eve = proxy.connect().unwrap();
            ok(&mut eve, &["config", "set", "requirepass", "mine"]);
            assert_eq!(eve.call(&["get", "secret"]).unwrap(), Reply::Null);
            node.stop().unwrap();
        }
    }
}

/// `teemate db export` or `import`.
fn transfer(proxy: &Proxy, what: &str, endpoint: SocketAddr, file: &std::path::Path, more: &[&str]) -> Run {
    let (password, policy) = (proxy.owner().home().join("password"), proxy.policy().display().to_string());
    let endpoint = format!("https://{endpoint}");
    let (password, file) = (password.display().to_string(), file.display().to_string());
    let words = ["--json", "db", what, &endpoint, &file, "--password-file", &password, "--policy", &policy];
    proxy.owner().run(&[&words, more].concat()).unwrap()
}

#[test]
fn an_owner_takes_everything_out_and_puts_it_in() {
    let Some((artifacts, mut node, proxy)) = start() else { return };
    let endpoint = node.endpoint();
    let mut redis = connected(&proxy);
    for number in 0..2000 {
        ok(&mut redis, &["set", &format!("key:{number}"), &"v".repeat(500)]);
    }
    redis.call(&["zadd", "sorted", "1.5", "a"]).unwrap();
    let file = proxy.owner().home().join("out.rdb");
    let exported = transfer(&proxy, "export", endpoint, &file, &[]).json().unwrap();
    assert_eq!(exported["keys"], 2001);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"REDIS") && exported["bytes"] == bytes.len());
    assert_eq!(info(&mut redis, "rdb_saves"), "0", "it is no snapshot of the database's own");
    let home = || std::fs::read_dir(proxy.owner().home()).unwrap().count();
    let there = home();
    // Who has no right to it, or means another enclave, gets nothing, and no file changes.
    std::fs::write(proxy.owner().home().join("password"), "wrong\n").unwrap();
    let refused = transfer(&proxy, "export", endpoint, &file, &[]);
    assert!(refused.code == 1 && refused.err.contains("WRONGPASS"), "{refused:?}");
    ok(&mut redis, &["acl", "setuser", "worker", "on", ">w0rk", "~*", "+@all", "-@dangerous"]);
    std::fs::write(proxy.owner().home().join("password"), "w0rk\n").unwrap();
    for what in ["export", "import"] {
        let refused = transfer(&proxy, what, endpoint, &file, &["--user", "worker"]);
        assert!(refused.code == 1 && refused.err.contains("NOPERM"), "{refused:?}");
    }
    std::fs::write(proxy.owner().home().join("password"), format!("{PASSWORD}\n")).unwrap();
    let other = proxy.owner().policy("other.toml", &format!("mrenclave = \"{}\"", "00".repeat(32))).unwrap().display().to_string();
    let (endpoint_text, file_text) = (format!("https://{endpoint}"), file.display().to_string());
    let password = proxy.owner().home().join("password").display().to_string();
    for what in ["export", "import"] {
        let refused =
            proxy.owner().run(&["db", what, &endpoint_text, &file_text, "--password-file", &password, "--policy", &other]).unwrap();
        assert!(refused.code == 1 && refused.err.to_lowercase().contains("mrenclave"), "{refused:?}");
    }
    assert_eq!((home(), std::fs::read(&file).unwrap()), (there + 1, bytes.clone()), "the policy alone is new");
    // In: not over what is there, unless it is told so; not what is broken.
    assert!(transfer(&proxy, "import", endpoint, &file, &[]).err.contains("keys in database 0 already"));
    let broken = proxy.owner().home().join("broken.rdb");
    std::fs::write(&broken, &bytes[..bytes.len() - 9]).unwrap();
    assert_eq!(transfer(&proxy, "import", endpoint, &broken, &["--replace"]).code, 1);
    ok(&mut redis, &["set", "key:1", "changed"]);
    let imported = transfer(&proxy, "import", endpoint, &file, &["--replace"]).json().unwrap();
    assert_eq!((&imported["keys"], &imported["kept"]), (&serde_json::json!(2001), &serde_json::json!("snapshot")));
    assert_eq!(text(&mut redis, &["get", "key:1"]), "v".repeat(500));
    // It is kept, though the node ends at once.
    drop(redis);
    node.crash().unwrap();
    node.restart_here().unwrap();
    let mut redis = connected(&proxy);
    assert_eq!((redis.call(&["dbsize"]).unwrap(), text(&mut redis, &["zscore", "sorted", "a"])), (Reply::Integer(2001), "1.5".to_owned()));
    // Redis's own tool, through the proxy; and Redis's own server.
    let theirs = proxy.owner().home().join("cli.rdb").display().to_string();
    match cli(proxy.address(), &["-a", PASSWORD, "--no-auth-warning", "--rdb", &theirs]) {
        Some(said) => {
            assert!(said.contains("Transfer finished with success"), "{said}");
            let check = std::process::Command::new("redis-check-rdb").arg(&theirs).output().unwrap();
            assert!(String::from_utf8_lossy(&check.stdout).contains("2001 keys read"), "{check:?}");
        }
        None => println!("redis-cli is not installed: it was not tried"),
    }
    let files = std::fs::read_dir(node.data()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(files.filter(|name| name.starts_with("replica")).count() == 0, "nobody gets them any more");
    node.stop().unwrap();
    drop(artifacts);
}

/// Redis's own server, which is ended with what it began.
struct Real {
    child: std::process::Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Real {
    /// One that follows what is at this address. `None`: it is not installed.
    fn following(address: SocketAddr) -> Option<Real> {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let followed = format!("127.0.0.1 {}", address.port());
        let mut command = std::process::Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--masterauth", PASSWORD, "--replicaof", &followed, "--port"]);
        command.arg(free.port().to_string()).arg("--dir").arg(directory.path()).stdout(std::process::Stdio::null());
        Some(Real { child: command.spawn().ok()?, address: free, _directory: directory })
    }

    /// Waits until it has so many keys.
    fn has(&self, keys: i64) {
        let begin = Instant::now();
        while Redis::connect(self.address).and_then(|mut redis| redis.call(&["dbsize"])).ok() != Some(Reply::Integer(keys)) {
            assert!(begin.elapsed() < Duration::from_secs(60), "the replica does not come to {keys} keys");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_replica_follows_through_the_proxy() {
    let Some((_, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    for number in 0..1000 {
        ok(&mut redis, &["set", &format!("key:{number}"), &"v".repeat(3000)]);
    }
    let Some(replica) = Real::following(proxy.address()) else {
        node.stop().unwrap();
        return skip("redis-server is not installed");
    };
    replica.has(1000);
    for number in 1000..3000 {
        ok(&mut redis, &["set", &format!("key:{number}"), &"v".repeat(3000)]);
    }
    assert_eq!(redis.call(&["wait", "1", "20000"]).unwrap(), Reply::Integer(1));
    replica.has(3000);
    // The connection breaks: it goes on where it was.
    assert_eq!(redis.call(&["client", "kill", "type", "replica"]).unwrap(), Reply::Integer(1));
    ok(&mut redis, &["set", "more", "1"]);
    replica.has(3001);
    assert_eq!((info(&mut redis, "sync_full"), info(&mut redis, "sync_partial_ok")), ("1".to_owned(), "1".to_owned()));
    drop(replica);
    node.stop().unwrap();
}

#[test]
fn a_killed_export_changes_nothing() {
    let Some((_, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    let value = "v".repeat(10_000);
    for number in 0..2000 {
        ok(&mut redis, &["set", &format!("key:{number}"), &value]);
    }
    let file = proxy.owner().home().join("out.rdb");
    let (mut killed, mut failed) = (0, 0);
    for round in 0..6 {
        let _ = std::fs::remove_file(&file);
        let (node, endpoint) = (&node, node.endpoint());
        let export = std::thread::scope(|scope| {
            let export = scope.spawn(|| transfer(&proxy, "export", endpoint, &file, &[]));
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(10) && !export.is_finished() {
                if let Some((_, pid)) = of_role(node, "function").first() {
                    std::thread::sleep(Duration::from_millis(2 * round));
                    if let Some(pid) = rustix::process::Pid::from_raw(*pid as i32) {
                        killed += usize::from(rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
                    }
                    break;
                }
            }
            export.join().unwrap()
        });
        if export.code == 0 {
            assert_eq!(export.json().unwrap()["keys"], 2000);
        } else {
            failed += 1;
            assert!(export.err.contains("there is no snapshot") && !file.exists(), "{export:?}");
        }
        assert_eq!(text(&mut redis, &["ping"]), "PONG");
    }
    println!("{killed} of 6 exports were killed, and {failed} failed by it");
    assert!(failed > 0, "no kill hit an export");
    assert_eq!(transfer(&proxy, "export", node.endpoint(), &file, &[]).json().unwrap()["keys"], 2000);
    node.stop().unwrap();
}

#[test]
fn shutdown_is_a_restart() {
    let Some((_, mut node, proxy)) = start() else { return };
    let mut redis = connected(&proxy);
    ok(&mut redis, &["set", "a", "1"]);
    redis.send(&["shutdown", "save"]).unwrap();
    let answer = redis.receive();
    assert!(answer.is_err(), "there is no answer but the end: {answer:?}");
    let mut redis = connected(&proxy);
    assert_eq!(text(&mut redis, &["get", "a"]), "1");
    node.stop().unwrap();
}

/// A host that reads every file, every byte on the sockets, and the memory of all processes outside of ELRANGE.
#[test]
fn the_host_finds_nothing() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let mut node = Node::start_database(&artifacts).unwrap();
    let tap = Tap::before(node.endpoint()).unwrap();
    let proxy = Proxy::start(&artifacts, &node, tap.address()).unwrap();
    claim(&proxy, tap.address());
    let canaries = Canaries::new(&["key", "value", "field", "user", "script", "channel"]).unwrap();
    let canary = |name: &str| canaries.text(name);
    let mut redis = connected(&proxy);
    for number in 0..500 {
        ok(&mut redis, &["set", &format!("{}:{number}", canary("key")), &canary("value").repeat(10)]);
    }
    redis.call(&["hset", "hash", canary("field"), canary("value")]).unwrap();
    ok(&mut redis, &["acl", "setuser", canary("user"), "on", "nopass", "+@all", "~*"]);
    assert_eq!(text(&mut redis, &["eval", &format!("return '{}'", canary("script")), "0"]), canary("script"));
    redis.call(&["publish", canary("channel"), canary("value")]).unwrap();
    assert_eq!(text(&mut redis, &["bgsave"]), "Background saving started");
    assert_eq!(saved(&mut redis), "ok");
    assert_eq!(text(&mut redis, &["get", &format!("{}:499", canary("key"))]), canary("value").repeat(10));
    // Out, and in again: plain in the owner's file alone.
    let file = proxy.owner().home().join("out.rdb");
    assert_eq!(transfer(&proxy, "export", tap.address(), &file, &[]).code, 0);
    assert!(!canaries.in_files(proxy.owner().home()).is_empty());
    let imported = transfer(&proxy, "import", tap.address(), &file, &["--replace"]);
    assert_eq!(imported.code, 0, "{imported:?}");
    let family = memory::family(node.pid().unwrap());
    let (in_memory, looked) = canaries.in_processes(&family);
    assert!(in_memory.is_empty(), "{in_memory:?}");
    assert!(looked > 10 << 20, "only {looked} bytes were looked at");
    node.stop().unwrap();
    let in_files = [node.data(), node.state()].iter().flat_map(|directory| canaries.in_files(directory)).collect::<Vec<_>>();
    assert!(in_files.is_empty(), "{in_files:?}");
    let bytes = tap.seen();
    let passed = canaries.seen(&bytes);
    assert!(passed.is_empty() && bytes.len() > 100_000, "{passed:?} in {} bytes", bytes.len());
}
