//! Out of a database, and in. Real Redis is on the other side.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::Read;
use std::process::Command;
use std::time::Instant;

use common::process::{Real, Server, installed};
use common::transfer::{fill, import, info, names, start, until};

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
    // Who leaves before there is anything for him leaves nothing behind.
    (0..3).for_each(|_| server.connect().send("SYNC"));
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
