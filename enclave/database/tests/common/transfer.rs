//! Servers that keep sealed files, keys of every kind, and an import as a client sends it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{Client, Server};

/// A server in this directory, with a key.
pub fn start(directory: &Path, more: &[&str]) -> Server {
    let key = directory.join("key");
    std::fs::write(&key, "00112233445566778899aabbccddeeff\n").unwrap();
    let key = key.display().to_string();
    Server::start(directory, &[&["--sealing-key", &key], more].concat())
}

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "{what} does not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A field of INFO.
pub fn info(client: &mut Client, field: &str) -> String {
    let text = client.ask("INFO");
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// Keys of every kind, in several databases.
pub fn fill(client: &mut Client) {
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
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sends an import, and gives what it is answered at last.
pub fn import(client: &mut Client, rdb: &[u8], begin: &[&[u8]]) -> String {
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
