//! The program, and Redis's own tools: what its clients see, and that its snapshots are Redis's.
//!
//! What needs `redis-cli` or `redis-server` is skipped, with the reason, where they are not installed.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::process::{Client, Server, installed};

#[test]
fn requests_in_a_row_and_clients_that_wait() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let (mut a, mut b, mut c) = (server.connect(), server.connect(), server.connect());
    // Many requests with one write: as many answers, in order.
    (0..1000).for_each(|n| a.send(&format!("RPUSH list {n}")));
    (1..=1000).for_each(|n| assert_eq!(a.read(), n.to_string()));
    assert_eq!(a.ask("LINDEX list -1"), "999");
    // Who waits first is served first.
    b.send("BLPOP queue 10");
    std::thread::sleep(Duration::from_millis(100));
    c.send("BRPOPLPUSH queue other 10");
    std::thread::sleep(Duration::from_millis(100));
    assert!(a.ask("INFO clients").contains("blocked_clients:2"));
    assert_eq!(a.ask("RPUSH queue first second"), "2");
    assert_eq!(b.read(), "queue first");
    assert_eq!(c.read(), "second");
    assert_eq!(a.ask("LRANGE other 0 -1"), "second");
    // What is put there and taken away again, or is something else by then, is not what somebody waits for.
    b.send("BLPOP later 10");
    std::thread::sleep(Duration::from_millis(100));
    for line in ["MULTI", "RPUSH later x", "DEL later", "SET later y", "EXEC", "DEL later"] {
        a.ask(line);
    }
    assert_eq!(a.ask("RPUSH later z"), "1");
    assert_eq!(b.read(), "later z");
    // A time that passes; and what came behind a command that waited.
    b.send("BLPOP queue 0.1");
    b.send("PING");
    assert_eq!((b.read(), b.read()), ("nil".to_owned(), "PONG".to_owned()));
    // Messages.
    assert_eq!(b.ask("PSUBSCRIBE n*"), "psubscribe n* 1");
    assert_eq!(a.ask("PUBLISH news hello"), "1");
    assert_eq!(b.read(), "pmessage n* news hello");
    // A connection that breaks the protocol is told, and closed; the others go on.
    c.send("*1\r\n$-5");
    assert!(c.read().starts_with("ERR Protocol error"));
    assert_eq!(c.0.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(a.ask("PING"), "PONG");
}

#[test]
fn a_snapshot_is_taken_under_load_and_survives_kills() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump.rdb");
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let mut client = server.connect();
    // Each key holds the number of the round in which all of them were written: a snapshot has one number, or two neighbours' at the
    // place where the round was when it began.
    const KEYS: usize = 20_000;
    let write = |client: &mut Client, round: usize, from: usize, to: usize| {
        (from..to).for_each(|n| client.send(&format!("SET key:{n} {round}")));
        (from..to).for_each(|_| assert_eq!(client.read(), "OK"));
    };
    write(&mut client, 1, 0, KEYS);
    write(&mut client, 2, 0, KEYS / 2);
    assert_eq!(client.ask("BGSAVE"), "Background saving started");
    write(&mut client, 3, 0, KEYS);
    assert_eq!(client.saved(), "ok");
    let load = |port: &Server| {
        let mut client = port.connect();
        let keys = (0..KEYS).map(|n| client.send(&format!("GET key:{n}"))).count();
        (0..keys).map(|_| client.read()).collect::<Vec<_>>()
    };
    server.kill();
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let values = load(&server);
    assert!(values[..KEYS / 2].iter().all(|value| value == "2") && values[KEYS / 2..].iter().all(|value| value == "1"));

    // Killed while it saves: the old file stays whole.
    let before = std::fs::read(&file).unwrap();
    for delay in [0, 1, 3, 10] {
        let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
        let mut client = server.connect();
        write(&mut client, 9, 0, 100);
        client.send("BGSAVE");
        std::thread::sleep(Duration::from_millis(delay));
        server.kill();
        let now = std::fs::read(&file).unwrap();
        if now != before {
            // It was complete in time: then it is the new state.
            let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
            assert!(load(&server)[..100].iter().all(|value| value == "9"));
        }
        std::fs::write(&file, &before).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_written_or_read_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let mut client = server.connect();
    client.ask("SET a 1");
    assert!(client.ask("CONFIG SET dir /nowhere/at/all").contains("No such file or directory"));
    let gone = directory.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    assert_eq!(client.ask(&format!("CONFIG SET dir {}", gone.display())), "OK");
    std::fs::remove_dir(&gone).unwrap();
    client.ask("BGSAVE");
    assert_eq!(client.saved(), "err");
    assert!(client.ask("INFO persistence").contains("can't be made"));
    assert_eq!(client.ask("GET a"), "1", "it goes on");
    assert_eq!(client.ask(&format!("CONFIG SET dir {}", directory.path().display())), "OK");
    client.ask("BGSAVE");
    assert_eq!(client.saved(), "ok");
    server.kill();
    // One changed byte: it does not serve half of it.
    let file = directory.path().join("dump.rdb");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_teemate-database"))
        .args(["--insecure-plain-rdb", "--port", "0", "--dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("dump.rdb"), "{output:?}");
}

/// What there is, as real Redis shows it too.
fn dump(port: u16, commands: &[&str]) -> Vec<String> {
    let ask = |command: &str| {
        let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command.split(' ')).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    commands.iter().map(|command| ask(command)).collect()
}

#[test]
fn real_redis_loads_what_is_saved_and_answers_alike() {
    if !installed("redis-server") || !installed("redis-cli") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let mut client = server.connect();
    for line in [
        "SET text hello",
        "SET number 12345",
        "SET empty \"\"",
        "SET soon 1 EX 1000",
        "RPUSH list a b c",
        "SADD numbers 1 2 3",
        "SADD words x y",
        "HSET hash f v g w",
        "ZADD sorted 1 a 2.5 b -inf c",
        "SELECT 3",
        "SET elsewhere 1",
    ] {
        client.ask(line);
    }
    (0..1000).for_each(|n| client.send(&format!("HSET large field:{n} {n}")));
    (0..1000).for_each(|_| assert_eq!(client.read(), "1"));
    client.ask("BGSAVE");
    assert_eq!(client.saved(), "ok");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut redis = Command::new("redis-server");
    redis.args(["--port", &free.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(directory.path());
    let mut redis = redis.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", free)).is_err() {
        assert!(Instant::now() < end, "redis-server does not load the snapshot");
        std::thread::sleep(Duration::from_millis(20));
    }
    let commands = [
        "GET text",
        "GET number",
        "GET empty",
        "LRANGE list 0 -1",
        "SMEMBERS numbers",
        "SCARD words",
        "HGET hash g",
        "HLEN large",
        "ZRANGE sorted 0 -1 WITHSCORES",
        "-n 3 GET elsewhere",
        "DBSIZE",
        "OBJECT ENCODING numbers",
        "OBJECT ENCODING list",
        "TYPE hash",
        "EXPIRETIME soon",
        "GETRANGE text 1 3",
        "LPOS list c",
        "NONSENSE",
        "GET hash",
    ];
    let (mine, theirs) = (dump(server.port, &commands), dump(free, &commands));
    let _ = redis.kill();
    let _ = redis.wait();
    for ((command, mine), theirs) in commands.iter().zip(mine).zip(theirs) {
        assert_eq!(mine, theirs, "{command}");
    }
}
