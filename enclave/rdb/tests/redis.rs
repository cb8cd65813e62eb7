//! Against the real thing: Redis loads what is written here, saves it in its own encodings, and that is read back.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use teemate_rdb::{Consumer, Entry, Group, Pending, Reader, Stream, StreamEntry, StreamId, StreamState, Value, Writer, dump, restore};

struct Redis {
    child: Child,
    stream: BufReader<UnixStream>,
}

impl Redis {
    #[allow(clippy::zombie_processes, reason = "it is waited for when it is dropped; where it never answers, the test fails")]
    fn start(dir: &Path, settings: &[&str]) -> Redis {
        let socket = dir.join("socket");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).arg("--dir").arg(dir).args(settings);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                let mut redis = Redis { child, stream: BufReader::new(stream) };
                while redis.call(&[b"PING"]) != b"+PONG" {
                    assert!(Instant::now() < until, "redis-server loads for too long");
                    std::thread::sleep(Duration::from_millis(20));
                }
                return redis;
            }
            assert!(Instant::now() < until, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command and its answer: of a bulk string the bytes, of anything else the first line.
    fn call(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend_from_slice(word);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).unwrap();
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        let line = line.trim_ascii_end().to_vec();
        let Some(length) = line.strip_prefix(b"$").and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok()) else {
            return line;
        };
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has_redis() -> bool {
    let there = ["redis-server", "redis-check-rdb"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !there {
        println!("skipped: redis-server and redis-check-rdb are not installed");
    }
    there
}

fn numbered(count: usize, length: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{n:>length$}").into_bytes()).collect()
}

fn stream() -> Stream {
    let id = |ms: u64, sequence| StreamId { ms, sequence };
    let entries: Vec<_> = (0..300u64)
        .map(|n| {
            let mut fields = vec![(b"field".to_vec(), n.to_string().into_bytes()), (b"text".to_vec(), vec![b'v'; n as usize])];
            if n % 7 == 0 {
                fields.push((b"other".to_vec(), b"-129".to_vec()));
            }
            StreamEntry { id: id(1_000 + n / 3, n % 3), fields }
        })
        .collect();
    let pending =
        [2u64, 5, 9].map(|n| Pending { id: entries[n as usize].id, consumer: (n % 2) as usize, delivered: 1_700_000_000_000, times: n });
    let consumers = ["even", "odd"].map(|name| Consumer { name: name.into(), seen: 1_700_000_000_001, active: 1_700_000_000_001 });
    let group = Group { name: b"group".to_vec(), last: entries[20].id, read: 21, pending: pending.into(), consumers: consumers.into() };
    let first = entries[0].id;
    Stream { entries, state: StreamState { last: id(9_999, 1), first, max_deleted: id(3, 4), added: 400, groups: vec![group] } }
}

fn values() -> Vec<(&'static str, Value)> {
    let scores = |count: usize| (0..count).map(|n| (format!("m{n}").into_bytes(), n as f64 / 3.0 - 5.0)).collect();
    let text = |text: &[u8]| Value::Text(text.to_vec());
    vec![
        ("empty", text(b"")),
        ("small", text(b"-7")),
        ("int16", text(b"-30000")),
        ("int32", text(b"2000000000")),
        ("int64", text(b"-9000000000000000000")),
        ("packs", text(&b"abcabcabd".repeat(20_000))),
        ("bytes", text(&(0..=255).collect::<Vec<u8>>())),
        ("list", Value::List([numbered(10, 1), numbered(10, 100), vec![vec![b'l'; 70_000], b"x".to_vec(), b"-5000".to_vec()]].concat())),
        ("long list", Value::List(numbered(5_000, 9))),
        ("integers", Value::Set((0..100).map(|n: i64| (n * 700_000_007 - 5).to_string().into_bytes()).collect())),
        ("short integers", Value::Set(numbered(9, 1))),
        ("set", Value::Set(numbered(1_000, 12))),
        ("hash", Value::Hash(numbered(30, 3).into_iter().zip(numbered(30, 40)).collect())),
        ("long hash", Value::Hash(numbered(1_000, 5).into_iter().zip(numbered(1_000, 80)).collect())),
        ("scores", Value::SortedSet(scores(50))),
        ("more scores", Value::SortedSet(scores(1_000))),
        ("ends", Value::SortedSet(vec![(b"down".to_vec(), f64::NEG_INFINITY), (b"up".to_vec(), f64::INFINITY), (b"0".to_vec(), 1e300)])),
        ("stream", Value::Stream(Box::new(stream()))),
    ]
}

fn write<W: Write>(writer: &mut Writer<W>, database: usize, key: &[u8], expires: Option<i64>, value: &Value) -> std::io::Result<()> {
    match value {
        Value::Text(text) => writer.text(database, key, expires, text),
        Value::List(items) => writer.list(database, key, expires, items.iter()),
        Value::Set(members) => writer.set(database, key, expires, members.len(), members.iter()),
        Value::Hash(pairs) => writer.hash(database, key, expires, pairs.len(), pairs.iter().map(|(f, v)| (f, v))),
        Value::SortedSet(members) => writer.sorted_set(database, key, expires, members.iter().map(|(m, s)| (m, *s))),
        Value::Stream(stream) => {
            let entries = stream.entries.iter().map(|entry| (entry.id, entry.fields.iter().map(|(f, v)| (f, v))));
            writer.stream(database, key, expires, &stream.state, entries)
        }
    }
}

/// Where there is no order, one is made.
fn ordered(value: Value) -> Value {
    match value {
        Value::Set(mut members) => {
            members.sort();
            Value::Set(members)
        }
        Value::Hash(mut pairs) => {
            pairs.sort();
            Value::Hash(pairs)
        }
        Value::SortedSet(mut members) => {
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::SortedSet(members)
        }
        other => other,
    }
}

fn read(path: &Path) -> BTreeMap<Vec<u8>, (usize, Option<i64>, Value)> {
    let mut reader = Reader::new(BufReader::new(fs::File::open(path).unwrap())).unwrap();
    let mut all = BTreeMap::new();
    while let Some(Entry { database, key, expires, value }) = reader.next_entry().unwrap() {
        all.insert(key, (database, expires, ordered(value)));
    }
    all
}

#[test]
fn redis_loads_what_is_written_and_what_it_saves_is_read() {
    if !has_redis() {
        return;
    }
    const LATER: i64 = 4_000_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump.rdb");
    let mut expected = BTreeMap::new();
    let mut writer = Writer::new(fs::File::create(&path).unwrap()).unwrap();
    writer.aux("redis-ver", "7.0.0").unwrap();
    writer.sizes(0, 9, 3).unwrap();
    for (place, (name, value)) in values().into_iter().enumerate() {
        let (database, expires) = (place / 9, (place % 3 == 0).then_some(LATER + place as i64));
        write(&mut writer, database, name.as_bytes(), expires, &value).unwrap();
        expected.insert(name.as_bytes().to_vec(), (database, expires, ordered(value)));
    }
    writer.finish().unwrap();
    assert_eq!(read(&path), expected);
    let check = Command::new("redis-check-rdb").arg(&path).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    // The settings make Redis choose other encodings for the same values.
    let plain: &[&str] = &["--set-max-intset-entries", "0", "--hash-max-listpack-entries", "0", "--zset-max-listpack-entries", "0"];
    let packed: &[&str] = &[
        "--rdbcompression",
        "no",
        "--hash-max-listpack-entries",
        "9999",
        "--zset-max-listpack-entries",
        "9999",
        "--list-max-listpack-size",
        "5",
    ];
    for settings in [&[][..], plain, packed] {
        let mut redis = Redis::start(dir.path(), settings);
        assert_eq!(redis.call(&[b"STRLEN", b"packs"]), b":180000");
        assert_eq!(redis.call(&[b"SAVE"]), b"+OK");
        drop(redis);
        assert_eq!(read(&path), expected, "{settings:?}");
    }
}

#[test]
fn redis_restores_what_is_dumped_and_its_dumps_are_restored() {
    if !has_redis() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(dir.path(), &["--sanitize-dump-payload", "yes"]);
    for (name, value) in values() {
        let payload = dump(|writer| write(writer, 0, b"", None, &value)).unwrap();
        assert_eq!(restore(&payload).unwrap(), value);
        assert_eq!(redis.call(&[b"RESTORE", name.as_bytes(), b"0", &payload]), b"+OK", "{name}");
        let back = redis.call(&[b"DUMP", name.as_bytes()]);
        assert_eq!(ordered(restore(&back).unwrap()), ordered(value), "{name}");
    }
}

#[test]
fn what_clients_made_in_redis_is_read() {
    if !has_redis() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(dir.path(), &[]);
    let library = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    assert_eq!(redis.call(&[b"FUNCTION", b"LOAD", library]), b"lib");
    for n in 1..=5 {
        redis.call(&[b"XADD", b"s", format!("{n}-0").as_bytes(), b"n", n.to_string().as_bytes()]);
    }
    assert_eq!(redis.call(&[b"XDEL", b"s", b"2-0"]), b":1");
    redis.call(&[b"XGROUP", b"CREATE", b"s", b"g", b"0"]);
    assert_eq!(redis.call(&[b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lfu"]), b"+OK");
    assert_eq!(redis.call(&[b"SAVE"]), b"+OK");
    drop(redis);
    let mut reader = Reader::new(fs::File::open(dir.path().join("dump.rdb")).unwrap()).unwrap();
    let Some(Entry { value: Value::Stream(stream), .. }) = reader.next_entry().unwrap() else { panic!("no stream") };
    assert_eq!(stream.entries.iter().map(|entry| entry.id.ms).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert_eq!((stream.state.added, stream.state.max_deleted), (5, StreamId { ms: 2, sequence: 0 }));
    assert!(reader.next_entry().unwrap().is_none());
    assert_eq!(reader.functions(), [library.to_vec()]);
}

/// A payload of these bytes, as Redis 5 gave it.
fn old_payload(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut payload = vec![kind, 0x80];
    payload.extend((bytes.len() as u32).to_be_bytes());
    payload.extend_from_slice(bytes);
    payload.extend([9, 0]);
    let mut crc = teemate_rdb::Crc64::default();
    crc.update(&payload);
    payload.extend(crc.value().to_le_bytes());
    payload
}

#[test]
fn encodings_that_redis_no_longer_writes_mean_to_it_what_is_read_here() {
    if !has_redis() {
        return;
    }
    // Each of a ziplist's encodings once, an even number of them.
    let long = [&[0x41u8, 0x2c][..], &[b'y'; 300]].concat();
    let longest = [&[0x80u8, 0, 0, 0x40, 1][..], &[b'z'; 0x4001]].concat();
    let entries: [&[u8]; 10] = [
        b"\x03abc",
        b"\xf1",
        b"\xfd",
        b"\xfe\x80",
        b"\xc0\x00\x80",
        b"\xf0\xff\xff\x7f",
        b"\xd0\x01\0\0\x80",
        b"\xe0\0\0\0\0\0\0\0\x80",
        &long,
        &longest,
    ];
    let mut ziplist = vec![0; 10];
    let (mut before, mut last) = (0, 0);
    for entry in entries {
        last = ziplist.len();
        if before < 254 {
            ziplist.push(before as u8);
        } else {
            ziplist.push(254);
            ziplist.extend((before as u32).to_le_bytes());
        }
        ziplist.extend_from_slice(entry);
        before = ziplist.len() - last;
    }
    ziplist.push(255);
    let total = ziplist.len() as u32;
    ziplist[..4].copy_from_slice(&total.to_le_bytes());
    ziplist[4..8].copy_from_slice(&(last as u32).to_le_bytes());
    ziplist[8..10].copy_from_slice(&10u16.to_le_bytes());
    let zipmap = b"\x02\x01a\x01\x02b??\x02cd\x03\x00xyz\xff";

    let dir = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(dir.path(), &[]);
    for (kind, bytes) in [(10, &ziplist[..]), (13, &ziplist), (9, zipmap)] {
        let payload = old_payload(kind, bytes);
        let key = [b'k', kind];
        assert_eq!(redis.call(&[b"RESTORE", &key, b"0", &payload]), b"+OK", "type {kind}");
        assert_eq!(ordered(restore(&payload).unwrap()), ordered(restore(&redis.call(&[b"DUMP", &key])).unwrap()), "type {kind}");
    }
}
