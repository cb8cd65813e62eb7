//! Out of a database, and in: exports and imports, and replicas that follow. Real Redis is on the other side.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::process::{Client, Real, Server, installed};

fn start(directory: &Path, more: &[&str]) -> Server {
    let key = directory.join("key");
    std::fs::write(&key, "00112233445566778899aabbccddeeff\n").unwrap();
    let key = key.display().to_string();
    Server::start(directory, &[&["--sealing-key", &key], more].concat())
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "{what} does not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a replica follows, and does something meanwhile.
fn linked(replica: &Real, mut meanwhile: impl FnMut()) {
    let (mut client, end) = (replica.client(), Instant::now() + Duration::from_secs(20));
    while !client.ask("INFO replication").contains("master_link_status:up") {
        assert!(Instant::now() < end, "it does not follow: {}", replica.said());
        meanwhile();
    }
}

fn info(client: &mut Client, field: &str) -> String {
    let text = client.ask("INFO");
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// Keys of every kind, in several databases.
fn fill(client: &mut Client) {
    for line in [
        "SET text hello",
        "SET soon 1 EX 9000",
        "RPUSH list a b c",
        "SADD set x y 3",
        "HSET hash f v",
        "ZADD sorted 1.5 m",
        "XADD stream 5-5 f v",
        "XADD stream 6-1 f v",
        "XGROUP CREATE stream g 0",
        "XREADGROUP GROUP g c COUNT 1 STREAMS stream >",
        "PFADD hyper a b c",
        "SELECT 3",
        "SET elsewhere 1",
        "DEBUG POPULATE 5000 key 100",
        "SELECT 0",
    ] {
        client.ask(line);
    }
}

/// The files of a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sends an import, and gives what it is answered at last.
fn import(client: &mut Client, rdb: &[u8], begin: &[&[u8]]) -> String {
    let answer = client.call(&[&[&b"TEEMATE.IMPORT"[..], b"BEGIN"], begin].concat());
    if answer != "OK" {
        return answer;
    }
    for piece in rdb.chunks(100_000) {
        let answer = client.call(&[b"TEEMATE.IMPORT", b"DATA", piece]);
        if answer != "OK" {
            return answer;
        }
    }
    client.call(&[b"TEEMATE.IMPORT", b"COMMIT"])
}

#[test]
fn what_goes_out_real_redis_loads_and_what_it_saves_comes_in() {
    let Some(real) = Real::start(&[]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    let mut client = server.connect();
    fill(&mut client);
    let rdb = server.connect().sync().unwrap();
    until("the file's end", || names(directory.path()) == ["key"]);
    real.load(&rdb);
    let was = real.content(4);
    assert_eq!(was.len(), 5009);
    assert!(was[&(0, "text".to_owned())].starts_with("string"));
    if installed("redis-cli") {
        let file = directory.path().join("cli.rdb");
        let mut cli = Command::new("redis-cli");
        let output = cli.args(["-p", &server.port.to_string(), "--rdb"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        real.load(&std::fs::read(file).unwrap());
        assert_eq!(real.content(4), was);
    }
    // In Redis's own encodings, and back.
    let theirs = real.save();
    assert!(import(&mut client, &theirs, &[]).contains("there are keys"));
    assert_eq!(import(&mut client, &theirs, &[b"REPLACE"]), "keys 5009 expired 0 functions 0 kept memory");
    real.load(&server.connect().sync().unwrap());
    assert_eq!(real.content(4), was);
    // Into a log, which has it when it is answered.
    client.ask("CONFIG SET appendonly yes");
    until("the log", || info(&mut client, "aof_rewrites") == "1");
    assert_eq!(import(&mut client, &theirs, &[b"REPLACE"]), "keys 5009 expired 0 functions 0 kept log");
    client.ask("APPEND text !");
    server.kill();
    let server = start(directory.path(), &["--appendonly"]);
    assert_eq!(server.connect().ask("GET text"), "hello!");
    assert_eq!(server.connect().ask("XPENDING stream g"), "1 5-5 5-5 c 1");
}

#[test]
fn who_takes_an_export_slowly_or_not_at_all_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &["--set", "snapshot-buffer", "1mb"]);
    let mut client = server.connect();
    client.ask("DEBUG POPULATE 30000 key 1000");
    // One stands still, one reads a little.
    let mut still = server.connect();
    still.send("SYNC");
    let mut little = server.connect();
    little.ask("REPLCONF rdb-only 1");
    little.send("SYNC");
    let mut beginning = vec![0; 100];
    little.0.read_exact(&mut beginning).unwrap();
    // All is written anew meanwhile, more than once: nothing waits, nothing is given up.
    let began = Instant::now();
    for round in 0..3 {
        (0..30_000).for_each(|n| client.send(&format!("SET key:{n} {round}")));
        (0..30_000).for_each(|_| assert_eq!(client.read(), "OK"));
    }
    println!("90,000 writes in {:?}", began.elapsed());
    client.ask("BGSAVE");
    assert_eq!(client.saved(), "ok");
    let rdb = server.connect().sync().unwrap();
    assert!(rdb.len() < 1_000_000, "of now");
    // The slow one gets the state of its moment.
    let mut rest = Vec::new();
    let text = String::from_utf8_lossy(&beginning).into_owned();
    let head = text.trim_start_matches('\n').lines().next().unwrap();
    let length: usize = head.strip_prefix('$').unwrap().parse().unwrap();
    let begun = beginning.len() - text.find("REDIS").unwrap();
    rest.resize(length - begun, 0);
    little.0.read_exact(&mut rest).unwrap();
    assert!(length > 30_000_000 && rest[rest.len() - 9] == 255);
    assert_eq!(little.ask("GET key:1"), "2", "it is a client again");
    drop(still);
    until("the files' end", || names(directory.path()) == ["dump.rdb", "key"]);
}

#[test]
fn who_may_not_gets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    let mut client = server.connect();
    client.ask("SET secret 1");
    client.ask("ACL SETUSER worker on >w ~* +@all -@dangerous");
    client.ask("ACL SETUSER owner on >o ~* +@all");
    let mut worker = server.connect();
    assert_eq!(worker.ask("AUTH worker w"), "OK");
    for line in ["SYNC", "PSYNC ? -1", "REPLCONF rdb-only 1", "TEEMATE.IMPORT BEGIN REPLACE"] {
        assert!(worker.ask(line).starts_with("NOPERM"), "{line}");
    }
    let mut owner = server.connect();
    assert_eq!(owner.ask("AUTH owner o"), "OK");
    assert!(owner.sync().is_ok());
    // Nor within a transaction, or a script.
    owner = server.connect();
    owner.ask("MULTI");
    assert!(owner.ask("SYNC").contains("not allowed inside a transaction"));
    owner.ask("DISCARD");
    // Nothing is kept, so there is no file for it either.
    let plain = tempfile::tempdir().unwrap();
    let server = Server::start(plain.path(), &[]);
    assert!(server.connect().sync().unwrap_err().contains("no sealing key"));
    // Who goes away in the middle of an import changes nothing.
    let mut client = server.connect();
    client.ask("TEEMATE.IMPORT BEGIN");
    client.call(&[b"TEEMATE.IMPORT", b"DATA", b"REDIS0010"]);
    drop(client);
    let mut client = server.connect();
    until("the import's end", || client.ask("TEEMATE.IMPORT BEGIN") == "OK");
    assert!(client.call(&[b"TEEMATE.IMPORT", b"DATA", b"nonsense"]) == "OK");
    assert!(client.ask("TEEMATE.IMPORT COMMIT").contains("the import"));
}

/// Commands whose effects are not what they say, and some whose are.
const LINES: &[&str] = &[
    "SET a$ 1 EX 1000",
    "SETEX b$ 100 x",
    "GETEX b$ EX 2000",
    "INCRBYFLOAT f 0.1",
    "HINCRBYFLOAT h f 1.3",
    "SADD s$ 1 2 3 4 5 6 7 8",
    "SPOP s$ 3",
    "EXPIRE s$ 1000",
    "RPUSH l$ a b c",
    "LMOVE l$ m LEFT RIGHT",
    "BLPOP l$ 0.01",
    "SORT s$ BY nosort STORE l$",
    "ZADD z$ 1 a 2 b 3 c",
    "ZPOPMIN z$",
    "ZRANGESTORE y z$ 0 -1",
    "XADD x$ * f v",
    "XADD x$ MAXLEN ~ 5 * f v",
    "XGROUP CREATE x$ g 0 MKSTREAM",
    "XREADGROUP GROUP g c COUNT 1 STREAMS x$ >",
    "XAUTOCLAIM x$ g d 0 0 COUNT 2",
    "XREADGROUP GROUP g e NOACK COUNT 1 STREAMS x$ >",
    "PFADD p$ a b",
    "PFCOUNT p$",
    "GEOADD geo 13.3 38.1 a$",
    "SET short$ 1 PX 3",
    "RENAME a$ c$",
    "COPY c$ d$ DB 2 REPLACE",
    "MOVE b$ 1",
    "SWAPDB 1 2",
    "SETBIT bits $ 1",
    "DEL z$",
    "GETDEL d$",
    "PUBLISH news $",
];

/// What two servers have, by the same server's words: the first's is loaded by one that is used for that.
fn same(connect: &impl Fn() -> Client, replica: &Real, judge: &Real) {
    assert_eq!(connect().ask("WAIT 1 10000"), "1", "the replica does not come so far");
    let mut export = connect();
    export.ask("REPLCONF rdb-only 1");
    judge.load(&export.sync().unwrap());
    let (mine, theirs) = (judge.content(4), replica.content(4));
    for (key, value) in &mine {
        assert_eq!(theirs.get(key), Some(value), "{key:?}");
    }
    assert_eq!(mine.len(), theirs.len());
}

#[test]
fn a_real_replica_follows() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &["--requirepass", "p"]);
    let connect = || {
        let mut client = server.connect();
        assert_eq!(client.ask("AUTH p"), "OK");
        client
    };
    let mut client = connect();
    let more: &[&str] = &["--replicaof", "127.0.0.1", &server.port.to_string(), "--masterauth", "p"];
    let (Some(replica), Some(judge)) = (Real::start(more), Real::start(&[])) else { return };
    fill(&mut client);
    // It begins while much is written.
    let mut theirs = replica.client();
    let mut number = 0;
    let mut write = |client: &mut Client, count: usize| {
        for _ in 0..count {
            number += 1;
            let line = LINES[(number * 7 + number / 5) % LINES.len()].replace('$', &(number % 4).to_string());
            if number % 9 == 0 {
                client.ask("MULTI");
                client.ask(&line);
                client.ask("SET in transaction");
                client.ask("EXEC");
            } else {
                client.ask(&line);
            }
        }
    };
    linked(&replica, || write(&mut client, 50));
    write(&mut client, 500);
    same(&connect, &replica, &judge);
    assert!(client.ask("INFO replication").contains("state=online"));
    assert!(client.ask("ROLE").starts_with("master "));
    assert_eq!(client.ask("WAIT 2 50"), "1");
    // The connection breaks: it goes on where it was.
    assert_eq!(client.ask("CLIENT KILL TYPE replica"), "1");
    write(&mut client, 100);
    linked(&replica, || ());
    same(&connect, &replica, &judge);
    assert_eq!((info(&mut client, "sync_full"), info(&mut client, "sync_partial_ok")), ("1".to_owned(), "1".to_owned()));
    // More was written than is kept for it: it begins anew.
    client.ask("CONFIG SET repl-backlog-size 16kb");
    theirs.ask("DEBUG SLEEP 0");
    theirs.ask("REPLICAOF NO ONE");
    until("the replica's end", || info(&mut client, "connected_slaves") == "0");
    (0..50).for_each(|n| drop(client.ask(&format!("SETRANGE large:{n} 3000 x"))));
    theirs.ask(&format!("REPLICAOF 127.0.0.1 {}", server.port));
    linked(&replica, || ());
    write(&mut client, 100);
    same(&connect, &replica, &judge);
    assert_eq!(info(&mut client, "sync_full"), "2");
    // An import is another history.
    let rdb = judge.save();
    assert!(import(&mut client, &rdb, &[b"REPLACE"]).ends_with("kept memory"));
    write(&mut client, 50);
    until("another synchronisation", || info(&mut client, "sync_full") == "3");
    linked(&replica, || ());
    same(&connect, &replica, &judge);
}

#[test]
fn a_replica_that_takes_nothing_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &["--set", "client-output-buffer-limit", "slave 2mb 0 0"]);
    let mut client = server.connect();
    let mut replica = server.connect();
    assert!(replica.sync().is_ok());
    let large = "x".repeat(50_000);
    (0..400).for_each(|n| client.send(&format!("SET key:{} {large}", n % 3)));
    (0..400).for_each(|_| assert_eq!(client.read(), "OK"));
    until("the end", || info(&mut client, "connected_slaves") == "0");
    assert_eq!(info(&mut client, "client_output_buffer_limit_disconnections"), "1");
    assert!(info(&mut client, "repl_backlog_histlen").parse::<usize>().unwrap() <= 1 << 20);
}
