//! Replicas: Redis's own follow this server, this one follows Redis, and Redis's Sentinel has one take the other's place.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::process::{Client, Real, Server, installed};
use common::transfer::{fill, import, info, start, until};

/// Waits until a replica follows, and does something meanwhile.
fn linked(replica: &Real, mut meanwhile: impl FnMut()) {
    let (mut client, end) = (replica.client(), Instant::now() + Duration::from_secs(20));
    while !client.ask("INFO replication").contains("master_link_status:up") {
        assert!(Instant::now() < end, "it does not follow: {}", replica.said());
        meanwhile();
    }
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

type Content = std::collections::BTreeMap<(usize, String), String>;

/// Says the first key that is not the same.
fn equal(mine: &Content, theirs: &Content) {
    for (key, value) in mine {
        assert_eq!(theirs.get(key), Some(value), "{key:?}");
    }
    let more: Vec<_> = theirs.keys().filter(|key| !mine.contains_key(*key)).collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Without how much groups have read: of XREADGROUP Redis passes on what was delivered, and each end counts by itself.
fn without_counts(mut content: Content) -> Content {
    for value in content.values_mut() {
        let words: Vec<&str> = value.split(' ').collect();
        let is_count = |at: usize| at > 0 && ["entries-read", "lag"].contains(&words[at - 1]);
        *value = words.iter().enumerate().filter(|(at, _)| !is_count(*at)).map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
    }
    content
}

/// What two servers have, by the same server's words: the first's is loaded by one that is used for that.
fn same(connect: &impl Fn() -> Client, replica: &Real, judge: &Real) {
    assert_eq!(connect().ask("WAIT 1 10000"), "1", "the replica does not come so far");
    let mut export = connect();
    export.ask("REPLCONF rdb-only 1");
    judge.load(&export.sync().unwrap());
    equal(&judge.content(4), &replica.content(4));
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
        write(client, number, count);
        number += count;
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

/// Writes lines, a part of them in transactions.
fn write(client: &mut Client, from: usize, count: usize) {
    for number in from..from + count {
        let line = LINES[(number * 7 + number / 5) % LINES.len()].replace('$', &(number % 4).to_string());
        if number % 9 == 0 {
            for line in ["MULTI", &line, "SET in transaction", "EXEC"] {
                client.ask(line);
            }
        } else {
            client.ask(&line);
        }
    }
}

/// Waits until this server follows.
fn follows(replica: &Server) {
    until("the link", || info(&mut replica.connect(), "role") == "slave" && info(&mut replica.connect(), "master_link_status") == "up");
}

/// What a server has, by a real one's words.
fn content(server: &Server, judge: &Real) -> Content {
    let mut export = server.connect();
    export.ask("REPLCONF rdb-only 1");
    judge.load(&export.sync().unwrap());
    judge.content(4)
}

#[test]
fn it_follows_real_redis_and_takes_its_place() {
    let (Some(master), Some(judge)) = (Real::start(&["--requirepass", "p"]), Real::start(&[])) else { return };
    let directory = tempfile::tempdir().unwrap();
    let followed = format!("127.0.0.1 {}", master.port);
    let connect = || {
        let mut client = master.locked_client();
        assert_eq!(client.ask("AUTH p"), "OK");
        client
    };
    let mut theirs = connect();
    fill(&mut theirs);
    let replica = start(directory.path(), &["--appendonly", "--set", "masterauth", "p", "--set", "replicaof", &followed]);
    write(&mut theirs, 0, 200);
    follows(&replica);
    write(&mut theirs, 200, 500);
    let same = |theirs: &mut Client| {
        assert_eq!(theirs.ask("WAIT 1 10000"), "1", "it does not come so far");
        // What has a short time goes when the other end says so.
        std::thread::sleep(Duration::from_millis(300));
        theirs.ask("WAIT 1 10000");
        equal(&without_counts(content(&replica, &judge)), &without_counts(content_of(connect)));
    };
    same(&mut theirs);
    let mut client = replica.connect();
    assert!(client.ask("SET a 1").starts_with("READONLY"));
    assert!(client.ask("TEEMATE.IMPORT BEGIN REPLACE").starts_with("READONLY"));
    assert!(client.ask("PSYNC ? -1").contains("follows another one"));
    assert!(client.ask("ROLE").starts_with(&format!("slave 127.0.0.1 {} connected", master.port)));
    // A key whose time has come is not there, though the other end has not said so yet.
    theirs.ask("DEBUG SET-ACTIVE-EXPIRE 0");
    theirs.ask("SET passing 1 PX 100");
    theirs.ask("WAIT 1 10000");
    assert_eq!(client.ask("GET passing"), "1");
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(
        (client.ask("GET passing"), client.ask("EXISTS passing"), client.ask("PTTL passing")),
        ("nil".to_owned(), "0".to_owned(), "-2".to_owned())
    );
    theirs.ask("DEL passing");
    // The connection breaks: it goes on where it was.
    theirs.ask("CLIENT KILL TYPE replica");
    write(&mut theirs, 700, 100);
    follows(&replica);
    same(&mut theirs);
    assert_eq!(info(&mut theirs, "sync_partial_ok"), "1");
    // It takes the other's place, which follows it, and goes on where it was.
    assert_eq!(client.ask("REPLICAOF NO ONE"), "OK");
    write(&mut client, 0, 100);
    theirs.ask(&format!("REPLICAOF 127.0.0.1 {}", replica.port));
    until("the other's link", || theirs.ask("INFO replication").contains("master_link_status:up"));
    assert_eq!(client.ask("WAIT 1 10000"), "1");
    assert_eq!((info(&mut client, "sync_full"), info(&mut client, "sync_partial_ok")), ("0".to_owned(), "1".to_owned()));
    let was = content(&replica, &judge);
    equal(&without_counts(content_of(connect)), &without_counts(was.clone()));
    // All of it is in the log.
    drop(client);
    replica.kill();
    let again = start(directory.path(), &["--appendonly"]);
    equal(&content(&again, &judge), &was);
}

/// What a real one has, by its own words.
fn content_of(connect: impl Fn() -> Client) -> Content {
    Real::content_by(&mut connect(), 4)
}

#[test]
fn one_that_was_another_s_replica_forgets_what_it_had() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (master, replica) = (start(here.path(), &[]), start(there.path(), &[]));
    let (mut first, mut second) = (master.connect(), replica.connect());
    first.ask("SET a 1");
    second.ask("SET b 1");
    let mut waits = replica.connect();
    waits.send("BLPOP nothing 0");
    until("somebody who waits", || info(&mut second, "blocked_clients") == "1");
    assert_eq!(second.ask(&format!("REPLICAOF 127.0.0.1 {}", master.port)), "OK");
    assert!(waits.read().starts_with("UNBLOCKED"));
    follows(&replica);
    assert_eq!((second.ask("GET a"), second.ask("GET b")), ("1".to_owned(), "nil".to_owned()));
    assert_eq!(second.ask(&format!("REPLICAOF 127.0.0.1 {}", master.port)), "OK Already connected to specified master");
    // One that is not there, and one that is none.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [1, nobody.local_addr().unwrap().port()] {
        second.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
        assert_eq!((info(&mut second, "master_link_status"), second.ask("GET a")), ("down".to_owned(), "1".to_owned()));
    }
    let (mut other, _) = nobody.accept().unwrap();
    other.write_all(b"-ERR nothing for you\r\n").unwrap();
    drop((other, nobody));
    until("the reason", || second.ask("INFO replication").contains("master_link_error"));
    assert_eq!(second.ask("REPLICAOF NO ONE"), "OK");
    assert_eq!(second.ask("SET c 1"), "OK");
}

/// A Sentinel that watches this server, alone.
struct Sentinel {
    child: std::process::Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Sentinel {
    fn start(port: u16) -> Sentinel {
        let directory = tempfile::tempdir().unwrap();
        let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "port {own}\nbind 127.0.0.1\ndir {}\nlogfile log\nsentinel monitor it 127.0.0.1 {port} 1\nsentinel down-after-milliseconds it 2000\nsentinel failover-timeout it 5000\n",
            directory.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        let child = command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let sentinel = Sentinel { child, port: own, directory };
        // It asks a server every ten seconds how it does, and waits for four of its own reports before it says that one is a replica.
        until("Sentinel's start", || sentinel.ask("SENTINEL DEBUG INFO-PERIOD 500 PUBLISH-PERIOD 250").starts_with("OK"));
        sentinel
    }

    /// What it did.
    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What it says; nothing while it does not answer.
    fn ask(&self, line: &str) -> String {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return String::new() };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Client(BufReader::new(stream)).ask(line)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counts up one key for as long as it may, on whatever server is said to be the first. What was answered last.
fn count(name: usize, first: &AtomicU16, ends: &AtomicBool, answered: &AtomicUsize) {
    let mut number = 0;
    while !ends.load(SeqCst) {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", first.load(SeqCst))) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut client = Client(BufReader::new(stream));
        let port = first.load(SeqCst);
        while !ends.load(SeqCst) && first.load(SeqCst) == port {
            number += 1;
            if client.0.get_mut().write_all(format!("SET count:{name}:{number} {number}\r\n").as_bytes()).is_err() {
                break;
            }
            if client.receive().is_ok_and(|reply| reply == "OK") {
                answered.fetch_add(1, SeqCst);
            } else {
                break;
            }
        }
    }
}

/// As the issue has it: the first is killed under load, Sentinel has the second take its place, and the first comes back as its replica.
#[test]
fn sentinel_has_a_replica_take_the_place_of_a_killed_server() {
    if !installed("redis-server") {
        return;
    }
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let primary = start(here.path(), &["--appendonly"]);
    let of_it = format!("127.0.0.1 {}", primary.port);
    let replica = start(there.path(), &["--appendonly", "--set", "replicaof", &of_it]);
    follows(&replica);
    let sentinel = Sentinel::start(primary.port);
    until("Sentinel's knowledge of the replica", || sentinel.ask("SENTINEL REPLICAS it").contains(&replica.port.to_string()));
    let (first, ends, answered) = (AtomicU16::new(primary.port), AtomicBool::new(false), AtomicUsize::new(0));
    let new = replica.port;
    let (killed, back) = std::thread::scope(|scope| {
        for name in 0..4 {
            let (first, ends, answered) = (&first, &ends, &answered);
            scope.spawn(move || count(name, first, ends, answered));
        }
        until("load", || answered.load(SeqCst) > 2000);
        let port = primary.port;
        primary.kill();
        let killed = (Instant::now(), answered.load(SeqCst));
        let deadline = Instant::now() + Duration::from_secs(40);
        while !sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME it").ends_with(&new.to_string()) {
            if Instant::now() > deadline {
                ends.store(true, SeqCst);
                panic!("no failover: {}", sentinel.ask("SENTINEL MASTER it"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // On a busy machine the new one, too, may be silent for so long, and then the first one, which is back, takes its place again.
        assert_eq!(sentinel.ask("SENTINEL SET it down-after-milliseconds 60000"), "OK");
        first.store(new, SeqCst);
        let before = answered.load(SeqCst);
        until("answers of the new one", || answered.load(SeqCst) > before + 500);
        let took = killed.0.elapsed();
        ends.store(true, SeqCst);
        ((killed.1, took), port)
    });
    assert_eq!(info(&mut replica.connect(), "role"), "master");
    let total = answered.load(SeqCst);
    let there_are: usize = replica.connect().ask("DBSIZE").parse().unwrap();
    // Each client may have one more there than it was answered, at each of its ends.
    let lost = total.saturating_sub(there_are);
    println!("{} answered before the kill, others after {:?}; of {total} answered {lost} are lost", killed.0, killed.1);
    // Without WAIT what was answered may not have been sent yet: what is lost is the last of it.
    assert!(lost < 1000, "{lost} of {total}");
    // The first comes back as what Sentinel makes it.
    let again = start_at(here.path(), back, &["--appendonly"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut client = again.connect();
        client.send("INFO replication");
        // Sentinel ends other clients' connections when it says so.
        let text = client.receive().unwrap_or_default();
        if text.contains("role:slave") && text.contains("master_link_status:up") {
            break;
        }
        let told =
            || (sentinel.ask("SENTINEL MASTER it"), sentinel.ask("SENTINEL REPLICAS it"), sentinel.ask("INFO sentinel"), sentinel.log());
        assert!(Instant::now() < deadline, "the first one is no replica: {text}\nSentinel: {:?}", told());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(replica.connect().ask("WAIT 1 10000"), "1");
    assert_eq!(again.connect().ask("DBSIZE"), replica.connect().ask("DBSIZE"));
}

/// At a port that it had before.
fn start_at(directory: &Path, port: u16, more: &[&str]) -> Server {
    let key = directory.join("key").display().to_string();
    Server::start_at(port, directory, &[&["--sealing-key", &key], more].concat())
}
