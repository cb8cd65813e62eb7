//! The real process, on real files: killed under load, restarted, lied to.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::process::{Client, Server, installed};

/// A directory with a key, and what starts a server in it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        std::fs::write(place.key(), "00112233445566778899aabbccddeeff\n").unwrap();
        std::fs::create_dir(place.data()).unwrap();
        std::fs::create_dir(place.counter()).unwrap();
        place
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn counter(&self) -> PathBuf {
        self.directory.path().join("counter")
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let key = self.key().display().to_string();
        ["--sealing-key", &key].iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    fn start(&self, more: &[&str]) -> Server {
        let arguments = self.arguments(more);
        Server::start(&self.data(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// With the log, and the counter.
    fn logged(&self, policy: &str) -> Server {
        let counter = self.counter().display().to_string();
        self.start(&["--appendonly", "--witness-directory", &counter, "--set", "appendfsync", policy])
    }
}

/// Writes in the name of one client until the connection breaks. How many were answered.
fn load(port: u16, name: usize) -> usize {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return 0 };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = BufReader::new(stream);
    let (mut answered, mut line) = (0, String::new());
    loop {
        let mut batch = String::new();
        (answered..answered + 8).for_each(|n| batch.push_str(&format!("SET {name}:{} {n}\r\n", n % 500)));
        batch.push_str(&format!("MULTI\r\nSET left:{name} {answered}\r\nSET right:{name} {answered}\r\nEXEC\r\n"));
        if stream.get_mut().write_all(batch.as_bytes()).is_err() {
            return answered;
        }
        // Eight answers, then those of the transaction: OK, QUEUED twice, an array of two.
        for number in 0..14 {
            line.clear();
            if !stream.read_line(&mut line).is_ok_and(|length| length > 0 && line.ends_with('\n')) {
                return answered;
            }
            assert!(line.starts_with(['+', '*']), "{line}");
            if number < 8 {
                answered += 1;
            }
        }
    }
}

/// What was answered is there: each client's last 500 numbers.
fn check(client: &mut Client, name: usize, answered: usize, round: &str) {
    for n in answered.saturating_sub(500)..answered {
        let found = client.ask(&format!("GET {name}:{}", n % 500));
        let number: usize = found.parse().unwrap_or_else(|_| panic!("{round}: {name}:{n} of {answered} is {found}"));
        assert!(number >= n && number % 500 == n % 500, "{round}: {name}:{n} of {answered} is {number}");
    }
    assert_eq!(client.ask(&format!("GET left:{name}")), client.ask(&format!("GET right:{name}")), "{round}: half a transaction");
}

fn killed_under_load(policy: &str) {
    let place = Place::new();
    let mut total = 0;
    for round in 0..6_u64 {
        let server = place.logged(policy);
        let port = server.port;
        let clients: Vec<_> = (0..4).map(|name| std::thread::spawn(move || load(port, name))).collect();
        let end = Instant::now() + Duration::from_millis(150 + 130 * round);
        let mut client = server.connect();
        while Instant::now() < end {
            if round % 2 == 1 {
                client.ask("BGREWRITEAOF");
            }
            std::thread::sleep(Duration::from_millis(3 + round));
        }
        drop(client);
        server.kill();
        let answered: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        total += answered.iter().sum::<usize>();
        let server = place.logged(policy);
        let mut client = server.connect();
        answered.iter().enumerate().for_each(|(name, answered)| check(&mut client, name, *answered, &format!("{policy}, round {round}")));
        // And once more, killed at once.
        server.kill();
        let server = place.logged(policy);
        let mut client = server.connect();
        answered.iter().enumerate().for_each(|(name, answered)| check(&mut client, name, *answered, &format!("{policy}, again {round}")));
        client.ask("FLUSHALL");
        server.kill();
    }
    println!("{policy}: {total} answered");
    assert!(total > 500, "{total}");
}

#[test]
fn nothing_answered_is_lost_by_a_kill_with_always() {
    killed_under_load("always");
}

#[test]
fn nothing_answered_is_lost_by_a_kill_with_everysec() {
    killed_under_load("everysec");
}

#[test]
fn nothing_answered_is_lost_by_a_kill_with_no() {
    killed_under_load("no");
}

#[test]
fn who_waited_and_what_expired_is_in_the_log() {
    let place = Place::new();
    let server = place.logged("always");
    let (mut a, mut b) = (server.connect(), server.connect());
    b.send("BLMOVE queue done LEFT RIGHT 20");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(a.ask("RPUSH queue x y"), "2");
    assert_eq!(b.read(), "x");
    a.ask("XGROUP CREATE stream g $ MKSTREAM");
    b.send("XREADGROUP GROUP g c BLOCK 20000 STREAMS stream >");
    std::thread::sleep(Duration::from_millis(100));
    a.ask("XADD stream 7-7 f v");
    assert!(b.read().contains("7-7"));
    a.ask("SET short 1 PX 300");
    a.ask("SET long 1 PX 600000");
    std::thread::sleep(Duration::from_millis(700));
    a.ask("APPEND short x");
    let time = a.ask("PEXPIRETIME long");
    server.kill();
    let server = place.logged("always");
    let mut a = server.connect();
    assert_eq!(a.ask("LRANGE queue 0 -1"), "y");
    assert_eq!(a.ask("LRANGE done 0 -1"), "x");
    assert!(a.ask("XPENDING stream g").contains("7-7 c 1"));
    assert_eq!((a.ask("GET short"), a.ask("PTTL short")), ("x".to_owned(), "-1".to_owned()));
    assert_eq!(a.ask("PEXPIRETIME long"), time);
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn an_old_log_is_refused_and_the_reason_said() {
    let place = Place::new();
    let server = place.logged("always");
    let mut client = server.connect();
    client.ask("SET canary-key canary-value");
    assert_eq!(client.ask("SHUTDOWN NOSAVE"), "");
    drop(server);
    let old = place.directory.path().join("old");
    copy(&place.data(), &old);
    let server = place.logged("always");
    let mut client = server.connect();
    client.ask("SET a 2");
    client.ask("SHUTDOWN NOSAVE");
    drop(server);
    for entry in std::fs::read_dir(place.data()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "it is not sealed");
    }
    copy(&old, &place.data());
    let counter = place.counter().display().to_string();
    let arguments = place.arguments(&["--appendonly", "--witness-directory", &counter, "--port", "0", "--dir"]);
    let output = Command::new(env!("CARGO_BIN_EXE_teemate-database")).args(arguments).arg(place.data()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("It was rolled back"), "{output:?}");
}

#[test]
fn a_torn_end_is_said_at_the_start() {
    let place = Place::new();
    let server = place.logged("always");
    let mut client = server.connect();
    client.ask("SET a 1");
    client.ask("SET b 2");
    server.kill();
    let log = std::fs::read_dir(place.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "log"));
    let log = log.unwrap();
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_teemate-database"));
    command.args(place.arguments(&["--appendonly", "--port", "0", "--dir"])).arg(place.data());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let torn = lines.map_while(Result::ok).take(3).find(|line| line.contains("as a crash leaves it"));
    let _ = child.kill();
    let _ = child.wait();
    assert!(torn.is_some());
}

#[test]
fn nobody_is_answered_before_the_disk_has_it() {
    if !installed("strace") {
        return;
    }
    let place = Place::new();
    let trace = place.directory.path().join("trace");
    let server = place.logged("always");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=fdatasync,write,sendto,epoll_wait", "-o"]).arg(&trace).args(["-p", &server.pid().to_string()]);
    let mut strace = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(800));
    let mut client = server.connect();
    for n in 0..20 {
        assert_eq!(client.ask(&format!("SET a {n}")), "OK");
    }
    server.kill();
    let end = Instant::now() + Duration::from_secs(20);
    while strace.try_wait().unwrap().is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = strace.kill();
    let _ = strace.wait();
    let text = std::fs::read_to_string(&trace).unwrap_or_default();
    if !text.contains("+OK") {
        println!("SKIPPED: strace can't attach here");
        return;
    }
    let (mut synced, mut answers) = (false, 0);
    for line in text.lines() {
        if line.contains("fdatasync") && line.trim_end().ends_with("= 0") {
            synced = true;
        } else if line.contains("+OK") {
            assert!(synced, "answered before it was on disk: {line}");
            (synced, answers) = (false, answers + 1);
        }
    }
    assert_eq!(answers, 20);
}
