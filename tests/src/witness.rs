//! A host that looks: at every file, at every byte on a connection, and at the memory of every process of a node outside ELRANGE.
//!
//! What stands for the processor is left out: the simulator's EPC and its processor state are memory of the host only because there is no
//! processor that would hide them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aho_corasick::AhoCorasick;

/// Names of the simulator's memory that stands for the processor's.
const PROCESSOR: [&str; 2] = ["/memfd:teemate-epc", "/memfd:teemate-state"];
/// Bytes of a canary.
pub const CANARY: usize = 128;
/// How long a server may take to accept a connection before the next one is tried.
const CONNECT: Duration = Duration::from_millis(500);
/// Bytes read at a time.
const PIECE: usize = 4 << 20;

/// What must not be seen: a name for each, and random text that is nowhere else.
#[derive(Clone, Debug)]
pub struct Canaries {
    texts: Vec<(String, String)>,
    search: Arc<AhoCorasick>,
}

impl Canaries {
    /// One for each name.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn new(names: &[&str]) -> Result<Canaries, String> {
        let mut texts = Vec::new();
        for name in names {
            let mut bytes = [0; CANARY];
            File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).map_err(|error| error.to_string())?;
            let letters = bytes.iter().map(|byte| char::from(b'a' + byte % 26));
            texts.push(((*name).to_owned(), letters.collect()));
        }
        let search = AhoCorasick::new(texts.iter().map(|(_, text)| text)).map_err(|error| error.to_string())?;
        Ok(Canaries { texts, search: Arc::new(search) })
    }

    /// The text of a name.
    pub fn text(&self, name: &str) -> &str {
        self.texts.iter().find(|(known, _)| known == name).map_or("", |(_, text)| text)
    }

    /// Names of those in these bytes.
    pub fn seen(&self, bytes: &[u8]) -> BTreeSet<String> {
        self.search.find_iter(bytes).map(|found| self.texts[found.pattern().as_usize()].0.clone()).collect()
    }

    /// Names of those in files below this directory, each with the file.
    pub fn in_files(&self, directory: &Path) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut left = vec![directory.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => left.push(path),
                    Ok(kind) if kind.is_file() => {
                        let bytes = std::fs::read(&path).unwrap_or_default();
                        found.extend(self.seen(&bytes).into_iter().map(|name| format!("{name} in {}", path.display())));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Names of those in the memory of these processes outside ELRANGE, each with the process and the mapping; and how many bytes were
    /// looked at.
    pub fn in_processes(&self, pids: &[u32]) -> (BTreeSet<String>, u64) {
        let (mut found, mut looked) = (BTreeSet::new(), 0);
        for pid in pids {
            let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { continue };
            let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else { continue };
            for line in maps.lines() {
                let Some((start, end)) = visible(line) else { continue };
                let mut at = start;
                let mut buffer = vec![0; PIECE + CANARY];
                while at < end {
                    let length = buffer.len().min((end - at) as usize);
                    // A page that is not there, or no more, holds nothing.
                    let Ok(length) = memory.read_at(&mut buffer[..length], at) else { break };
                    if length == 0 {
                        break;
                    }
                    looked += length as u64;
                    found.extend(self.seen(&buffer[..length]).into_iter().map(|name| format!("{name} in process {pid}: {line}")));
                    // The next piece begins so much earlier that nothing falls between two.
                    at += if length > CANARY { (length - CANARY) as u64 } else { length as u64 };
                    if length <= CANARY {
                        break;
                    }
                }
            }
        }
        (found, looked)
    }
}

/// Range of a readable mapping that does not stand for the processor's memory.
fn visible(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let name = words.nth(3).unwrap_or("");
    if !rights.starts_with('r') || name == "[vvar]" || name == "[vsyscall]" || PROCESSOR.iter().any(|hidden| name.starts_with(hidden)) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Stands between clients and one server or several, passes every byte on and keeps a copy, as a network or a balancer does.
pub struct Tap {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    ending: Arc<AtomicBool>,
}

impl Tap {
    /// Before this address.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn before(target: SocketAddr) -> std::io::Result<Tap> {
        Tap::before_each(vec![target], Ipv4Addr::LOCALHOST)
    }

    /// At a free port of this address, before all of these: each connection goes to the next one; one that does not answer is passed over.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn before_each(servers: Vec<SocketAddr>, at: Ipv4Addr) -> std::io::Result<Tap> {
        let listener = TcpListener::bind((at, 0))?;
        let tap = Tap { address: listener.local_addr()?, seen: Arc::default(), ending: Arc::default() };
        let (seen, ending) = (Arc::clone(&tap.seen), Arc::clone(&tap.ending));
        std::thread::spawn(move || {
            for (first, client) in listener.incoming().map_while(Result::ok).enumerate() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let order: Vec<_> = (0..servers.len()).map(|at| servers[(first + at) % servers.len()]).collect();
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || {
                    let server = order.iter().find_map(|server| TcpStream::connect_timeout(server, CONNECT).ok());
                    // With none the client is cut off.
                    let Some(server) = server else { return };
                    for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
                        let (Ok(from), Ok(to)) = (from, to) else { return };
                        let seen = Arc::clone(&seen);
                        std::thread::spawn(move || pass(from, to, &seen));
                    }
                });
            }
        });
        Ok(tap)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every byte so far, of both directions, piece by piece as it came.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_seen() {
        let canaries = Canaries::new(&["a", "b"]).unwrap();
        assert_eq!(canaries.text("a").len(), CANARY);
        assert_ne!(canaries.text("a"), canaries.text("b"));
        let text = format!("x{}y", canaries.text("b"));
        assert_eq!(canaries.seen(text.as_bytes()), BTreeSet::from(["b".to_owned()]));
        assert!(canaries.seen(&text.as_bytes()[2..]).is_empty());
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        std::fs::write(directory.path().join("sub/file"), text).unwrap();
        assert_eq!(canaries.in_files(directory.path()).len(), 1);
    }

    #[test]
    fn memory_of_a_process_is_looked_at() {
        let canaries = Canaries::new(&["mine"]).unwrap();
        let (found, looked) = canaries.in_processes(&[std::process::id()]);
        assert!(looked > 0 && found.iter().any(|place| place.starts_with("mine in process")), "{looked}");
    }

    #[test]
    fn the_processors_memory_is_not_the_hosts() {
        assert_eq!(visible("1000-2000 rw-s 00000000 00:01 5 /memfd:teemate-epc (deleted)"), None);
        assert_eq!(visible("1000-2000 rw-p 00000000 00:00 0 [heap]"), Some((0x1000, 0x2000)));
        assert_eq!(visible("1000-2000 ---p 00000000 00:00 0"), None);
    }

    #[test]
    fn a_tap_passes_on_and_keeps() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let tap = Tap::before(server.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(tap.address()).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"there").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        accepted.read_to_string(&mut text).unwrap();
        accepted.write_all(b" and back").unwrap();
        drop(accepted);
        client.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), tap.seen().as_slice()), ("there and back", &b"there and back"[..]));
    }
}
