//! A snapshot is the state of one moment, whatever is written meanwhile and whenever the server is killed: real Redis loads it, and finds
//! in it what it comes to itself when it is given the same commands up to that moment. Redis is the model.
//!
//! Several clients write at a time, each into a database of its own, without waiting for anything but their answers. What each does follows
//! from a seed, and with every step, in the same transaction, it writes the step's number. So the snapshot says which moment it is of; that
//! must lie between what was answered when it was asked for, and what was sent when it had begun.
//!
//! A few runs, or a thousand with `TEEMATE_FULL=1`.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::process::{Client, Real, Server};

const CLIENTS: usize = 3;
/// Keys of each database that are there at the beginning.
const KEYS: usize = 600;
/// Steps that are sent before their answers are read.
const BATCH: usize = 20;
/// Milliseconds within which short times end.
const SHORT: u64 = 300;

/// Commands that do the same wherever and whenever they are carried out. `$s` and its like: one of a few keys; `$v`, `$n`, `$i`: a value, a
/// number, a stream's id; `$k`: a key that was there at the beginning; `$t`: a time that is over when the test looks; `$f`: one that is
/// not.
const LINES: &[&str] = &[
    "SET $s $v",
    "SET $s $v PXAT $f",
    "SET e$n $v PXAT $t",
    "DEL e$n",
    "SET $k $v",
    "APPEND $k $v",
    "DEL $k",
    "RENAME $k $k",
    "COPY $k $s REPLACE",
    "APPEND $s $v",
    "INCRBY $s $n",
    "SETRANGE $s $n $v",
    "SETBIT $s $n 1",
    "BITOP XOR $s $s $s",
    "PFADD $p $v $n",
    "PFMERGE $p $p $p",
    "GETDEL $s",
    "DEL $s",
    "PEXPIREAT $s $f",
    "PERSIST $s",
    "RENAME $s $s",
    "LPUSH $l $v $n",
    "RPUSH $l $v $v $v",
    "LPOP $l",
    "LSET $l 0 $v",
    "LREM $l 1 $v",
    "LTRIM $l 0 40",
    "LMOVE $l $l LEFT RIGHT",
    "LINSERT $l BEFORE $v $n",
    "PEXPIREAT $l $f",
    "HSET $h $v $v",
    "HSET $h $n $v f$n $n",
    "HDEL $h $v $n",
    "HINCRBY $h c $n",
    "SADD $c $v $n",
    "SADD $c $n $n $n",
    "SREM $c $v $n",
    "SUNIONSTORE $c $c $c",
    "SDIFFSTORE $c $c $c",
    "ZADD $z $n $v $n m$n",
    "ZADD $z GT $n $v",
    "ZINCRBY $z 0.5 $v",
    "ZREM $z $v",
    "ZPOPMIN $z",
    "ZREMRANGEBYSCORE $z -inf 2",
    "ZUNIONSTORE $z 2 $z $z AGGREGATE MAX",
    "XADD $x $i f $v",
    "XADD $x $i f $v g $n",
    "XDEL $x $i",
    "XTRIM $x MAXLEN 30",
    "XGROUP CREATE $x g 0 MKSTREAM",
    "XGROUP DESTROY $x g",
    "XREADGROUP GROUP g c$n COUNT 2 STREAMS $x >",
    "XACK $x g $i",
    "XSETID $x 9000-0",
    "RESTORE",
];

/// What one client does: the same for the same seed.
struct Steps {
    dice: u64,
    step: usize,
    began: u64,
}

impl Steps {
    fn new(seed: u64, client: usize, began: u64) -> Steps {
        let mut steps = Steps { dice: (seed * 7919 + client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, step: 0, began };
        (0..8).for_each(|_| _ = steps.roll(2));
        steps
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as usize % sides
    }

    fn line(&mut self) -> String {
        if self.roll(400) == 0 {
            return "FLUSHDB".to_owned();
        }
        let (line, mut filled) = (LINES[self.roll(LINES.len())], String::new());
        let mut letters = line.chars();
        while let Some(letter) = letters.next() {
            if letter != '$' {
                filled.push(letter);
                continue;
            }
            match letters.next().unwrap() {
                'v' => {
                    let length = [0, 1, 3, 3, 10, 70, 400][self.roll(7)];
                    filled.push_str(&format!("v{}{}", self.roll(5), "x".repeat(length)));
                }
                'n' => filled.push_str(&self.roll(12).to_string()),
                'k' => filled.push_str(&format!("key:{}", self.roll(KEYS))),
                'i' => {
                    // Mostly one that comes next.
                    let ms = if self.roll(4) == 0 { self.roll(self.step + 1) } else { self.step };
                    filled.push_str(&format!("{}-{}", ms + 1, self.roll(3)));
                }
                't' => filled.push_str(&(self.began + self.roll(SHORT as usize) as u64).to_string()),
                'f' => filled.push_str(&(4_000_000_000_000 + self.roll(1000) as u64).to_string()),
                family => filled.push_str(&format!("{family}{}", self.roll(3))),
            }
        }
        filled
    }

    /// The next step, as it is sent. What is answered: OK, QUEUED for each command, and the results.
    fn next(&mut self, into: &mut Vec<u8>) -> usize {
        self.step += 1;
        let commands = 1 + self.roll(3);
        into.extend(b"MULTI\r\n");
        for _ in 0..commands {
            let mut line = self.line();
            if line == "RESTORE" {
                // The number that DUMP gives for 10, in Redis's documentation.
                line = format!(
                    "RESTORE s{} {} \"\\x00\\xc0\\n\\t\\x00\\xbem\\x06\\x89Z(\\x00\\n\" REPLACE ABSTTL",
                    self.roll(3),
                    4_000_000_000_000_u64
                );
            }
            into.extend(line.bytes());
            into.extend(b"\r\n");
        }
        into.extend(format!("SET step {}\r\nEXEC\r\n", self.step).bytes());
        commands + 3
    }
}

/// How far a client is: steps answered, steps sent.
#[derive(Default)]
struct Progress {
    answered: AtomicUsize,
    sent: AtomicUsize,
}

fn begin(client: &mut Client, database: usize) {
    client.ask(&format!("SELECT {database}"));
    assert_eq!(client.ask(&format!("DEBUG POPULATE {KEYS} key 300")), "OK");
}

/// Writes until it is told to end, or the server ends.
fn write(port: u16, mut steps: Steps, database: usize, progress: &Progress, ends: &AtomicBool) {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
    stream.set_nodelay(true).unwrap();
    let mut client = Client(std::io::BufReader::new(stream));
    client.ask(&format!("SELECT {database}"));
    let mut batch = Vec::new();
    while !ends.load(SeqCst) && steps.step < 20_000 {
        batch.clear();
        let answers: Vec<usize> = (0..BATCH).map(|_| steps.next(&mut batch)).collect();
        progress.sent.store(steps.step, SeqCst);
        if client.0.get_mut().write_all(&batch).is_err() {
            return;
        }
        for answers in answers {
            // The last one of a step is that of EXEC.
            let Some(Ok(done)) = (0..answers).map(|_| client.receive()).last() else { return };
            assert!(done.ends_with("OK"), "{done}");
            progress.answered.fetch_add(1, SeqCst);
        }
    }
}

/// What each client had done at least, and at most, when a snapshot began.
type Bounds = Vec<(usize, usize)>;

fn answered(progress: &[Progress]) -> Vec<usize> {
    progress.iter().map(|one| one.answered.load(SeqCst)).collect()
}

/// Does something at a moment of which it is known when it was.
fn at_a_moment<T>(progress: &[Progress], what: impl FnOnce() -> T) -> (T, Bounds) {
    let before = answered(progress);
    let done = what();
    (done, before.into_iter().zip(progress.iter().map(|one| one.sent.load(SeqCst))).collect())
}

/// Whether a snapshot is of this moment: what Redis loads is what Redis comes to.
fn check(seed: u64, began: u64, rdb: &[u8], moment: &Bounds, loaded: &Real, model: &Real) {
    loaded.load(rdb);
    let mut client = loaded.client();
    let steps: Vec<usize> = (0..CLIENTS)
        .map(|database| {
            client.ask(&format!("SELECT {database}"));
            client.ask("GET step").parse().unwrap_or(0)
        })
        .collect();
    let is_of_it = moment.iter().zip(&steps).all(|((least, most), step)| (least..=most).contains(&step));
    assert!(is_of_it, "seed {seed}: it is of {steps:?}, and was asked for within {moment:?}");
    let mut client = model.client();
    assert_eq!(client.ask("FLUSHALL"), "OK");
    for (database, count) in steps.iter().enumerate() {
        begin(&mut client, database);
        let mut all = Steps::new(seed, database, began);
        while all.step < *count {
            let mut batch = Vec::new();
            let answers: usize = (0..BATCH.min(count - all.step)).map(|_| all.next(&mut batch)).sum();
            client.0.get_mut().write_all(&batch).unwrap();
            (0..answers).for_each(|_| drop(client.read()));
        }
    }
    let (found, expected) = (loaded.content(CLIENTS), model.content(CLIENTS));
    for (key, value) in &expected {
        assert_eq!(found.get(key), Some(value), "seed {seed}: {key:?} after {steps:?}");
    }
    let more: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
    assert!(more.is_empty(), "seed {seed}: {more:?} after {steps:?}");
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What was seen of runs.
#[derive(Default)]
struct Seen {
    saved: usize,
    exported: usize,
    killed: usize,
    /// Kills after which the file was the one before.
    old: usize,
    steps: usize,
}

fn run(seed: u64, loaded: &Real, model: &Real, seen: &mut Seen) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump.rdb");
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let began = now();
    (0..CLIENTS).for_each(|database| begin(&mut server.connect(), database));
    let progress: Arc<Vec<Progress>> = Arc::new((0..CLIENTS).map(|_| Progress::default()).collect());
    let ends = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|database| {
            let (port, progress, ends) = (server.port, progress.clone(), ends.clone());
            std::thread::spawn(move || write(port, Steps::new(seed, database, began), database, &progress[database], &ends))
        })
        .collect();
    let mut dice = Steps::new(seed, 99, began);
    let mut pause = |most: usize| std::thread::sleep(Duration::from_micros(dice.roll(most) as u64));
    pause(40_000);
    let mut client = server.connect();
    let mut save = || {
        let (reply, bounds) = at_a_moment(&progress, || client.ask("BGSAVE"));
        assert_eq!(reply, "Background saving started");
        bounds
    };
    let found = match seed % 3 {
        0 => {
            seen.exported += 1;
            let mut other = server.connect();
            let (rdb, moment) = at_a_moment(&progress, || other.sync());
            (rdb.unwrap(), moment)
        }
        kind => {
            let first = save();
            assert_eq!(server.connect().saved(), "ok");
            let rdb = std::fs::read(&file).unwrap();
            if kind == 1 {
                seen.saved += 1;
                (rdb, first)
            } else {
                pause(5_000);
                let second = save();
                pause(80_000);
                server.kill();
                seen.killed += 1;
                let left = std::fs::read(&file).unwrap();
                let is_old = left == rdb;
                seen.old += usize::from(is_old);
                (left, if is_old { first } else { second })
            }
        }
    };
    ends.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    seen.steps += answered(&progress).iter().sum::<usize>();
    verify(seed, began, directory.path(), &found, (loaded, model));
}

/// Looks at what a run left: snapshots, and of which moments they must be.
fn verify(seed: u64, began: u64, directory: &Path, (rdb, moment): &(Vec<u8>, Bounds), (loaded, model): (&Real, &Real)) {
    // What has a short time is gone wherever one looks.
    std::thread::sleep(Duration::from_millis((began + SHORT + 20).saturating_sub(now())));
    check(seed, began, rdb, moment, loaded, model);
    if seed % 12 == 2 {
        // This server serves the same.
        let server = Server::start(directory, &["--insecure-plain-rdb"]);
        let (mut mine, mut theirs) = (server.connect(), loaded.client());
        for database in 0..CLIENTS {
            assert_eq!(mine.ask(&format!("SELECT {database}")), theirs.ask(&format!("SELECT {database}")));
            assert_eq!(mine.ask("DBSIZE"), theirs.ask("DBSIZE"), "seed {seed}");
        }
    }
}

#[test]
fn a_snapshot_is_one_moment_of_what_redis_itself_comes_to() {
    let (Some(loaded), Some(model)) = (Real::start(&[]), Real::start(&[])) else { return };
    let runs = if std::env::var_os("TEEMATE_FULL").is_some_and(|value| value == "1") { 1000 } else { 12 };
    let (began, mut seen) = (Instant::now(), Seen::default());
    for seed in 0..runs {
        run(seed, &loaded, &model, &mut seen);
        if seed % 100 == 99 {
            println!("{} runs in {} s", seed + 1, began.elapsed().as_secs());
        }
    }
    println!(
        "{runs} runs, {} steps: {} snapshots, {} exports, {} kills, after {} of which the file was the one before",
        seen.steps, seen.saved, seen.exported, seen.killed, seen.old
    );
}
