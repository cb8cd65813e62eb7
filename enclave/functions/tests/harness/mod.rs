//! Starts the native program with a socket on descriptor 3, or the service in this process, and speaks its protocol; reads the manifest of
//! the examples.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Limits, Outcome, Reuse, VerifiedFile};
use teemate_control::packet::{Joiner, MAX_PACKET, cut};
use teemate_control::service::{FromService, ToService};
use teemate_functions::channel::Channel;
use teemate_functions::handle::Handle;
use teemate_functions::service::{Entrance, Gateway, serve};
use teemate_link::Platform;

pub struct Node {
    socket: OwnedFd,
    joiner: Joiner,
    child: Option<Child>,
    next: u64,
    /// Messages that were read while another was waited for.
    early: Vec<FromService>,
}

/// The program under test: cargo's, or another build of it that `TEEMATE_FUNCTIONS` names, such as the payload.
fn program() -> PathBuf {
    std::env::var_os("TEEMATE_FUNCTIONS").map_or_else(|| env!("CARGO_BIN_EXE_teemate-functions").into(), PathBuf::from)
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours from then on.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// Containers come in by a channel.
struct Door(Mutex<Receiver<u64>>);

impl Entrance for Door {
    fn next(&self) -> io::Result<u64> {
        self.0.lock().unwrap().recv().map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The service in this process, as an enclave has it: its node, where containers are let in, and what its gateway would use.
pub fn in_process(containers: bool, platform: impl Platform + 'static, gateway: Option<Gateway>) -> (Node, Sender<u64>, Handle) {
    let (ours, theirs) = pair();
    let (enter, entered) = channel();
    let (give, given) = channel();
    let door = Box::new(Door(Mutex::new(entered)));
    std::thread::spawn(move || {
        serve(Channel(theirs.into_raw_fd()), door, containers, Box::new(platform), |handle| {
            give.send(handle).unwrap();
            Ok(gateway)
        })
        .unwrap();
    });
    (Node::over(ours), enter, given.recv().unwrap())
}

impl Node {
    pub fn start() -> Node {
        use std::os::fd::AsRawFd;
        let (ours, theirs) = pair();
        let raw = theirs.as_raw_fd();
        let mut command = Command::new(program());
        // SAFETY: only dup2 between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(raw, 3) < 0 || (raw == 3 && libc::fcntl(3, libc::F_SETFD, 0) < 0) {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let mut node = Node::over(ours);
        node.child = Some(child);
        node
    }

    /// The node at this end of a socket, when it has greeted the service at the other.
    pub fn over(socket: OwnedFd) -> Node {
        let mut node = Node { socket, joiner: Joiner::default(), child: None, next: 0, early: Vec::new() };
        assert!(matches!(node.receive(), FromService::Ready { .. }));
        node.send(&ToService::Hello { protocol: teemate_control::PROTOCOL });
        node
    }

    pub fn send_raw(&self, packet: &[u8]) {
        use std::os::fd::AsRawFd;
        // SAFETY: the packet is as long as we say.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), libc::MSG_NOSIGNAL) };
        assert_eq!(sent, packet.len() as isize);
    }

    pub fn send(&mut self, message: &ToService) {
        self.next += 1;
        for packet in cut(1_000_000 + self.next, message).unwrap() {
            self.send_raw(&packet);
        }
    }

    pub fn receive(&mut self) -> FromService {
        use std::os::fd::AsRawFd;
        let mut buffer = vec![0u8; MAX_PACKET];
        loop {
            // SAFETY: the buffer is as long as we say.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            assert!(got > 0, "the service has gone");
            if let Some(message) = self.joiner.take(&buffer[..got as usize]).unwrap() {
                return message;
            }
        }
    }

    pub fn receive_that(&mut self, fits: impl Fn(&FromService) -> bool) -> FromService {
        if let Some(at) = self.early.iter().position(&fits) {
            return self.early.remove(at);
        }
        loop {
            let message = self.receive();
            if fits(&message) {
                return message;
            }
            self.early.push(message);
        }
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn deploy(&mut self, spec: FunctionSpec, code: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        self.deploy_with(spec, code, None)
    }

    pub fn deploy_with(&mut self, spec: FunctionSpec, code: Vec<u8>, precompiled: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Failure> {
        let number = self.number();
        self.send(&ToService::Deploy { request: number, spec, code, precompiled });
        match self.receive_that(
            |m| matches!(m, FromService::Deployed { request, .. } | FromService::Failed { request, .. } if *request == number),
        ) {
            FromService::Deployed { precompiled, .. } => Ok(precompiled),
            FromService::Failed { failure, .. } => Err(failure),
            _ => unreachable!(),
        }
    }

    pub fn begin(&mut self, name: &str, params: &str, inline: bool) -> u64 {
        let request = self.number();
        self.send(&ToService::Invoke { request, name: name.into(), params: params.into(), inline });
        request
    }

    pub fn answer(&mut self, number: u64) -> Outcome {
        match self
            .receive_that(|m| matches!(m, FromService::Done { request, .. } | FromService::Failed { request, .. } if *request == number))
        {
            FromService::Done { outcome, .. } => outcome,
            FromService::Failed { failure, .. } => {
                Outcome { result: Err(failure), logs: String::new(), usage: Default::default(), container: 0, marks: vec![] }
            }
            _ => unreachable!(),
        }
    }

    pub fn call(&mut self, name: &str, params: &str) -> Outcome {
        let request = self.begin(name, params, true);
        self.answer(request)
    }

    pub fn deploy_js(&mut self, name: &str, source: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.deploy(spec(name, Kind::JavaScript), source.into())
    }

    pub fn deploy_wat(&mut self, name: &str, text: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.deploy(spec(name, Kind::Wasm), wat::parse_str(text).unwrap())
    }

    /// Hangs up and gives the exit code.
    pub fn hang_up(mut self) -> Option<i32> {
        let child = self.child.take();
        drop(self);
        child.and_then(|mut child| child.wait().unwrap().code())
    }

    pub fn wait(mut self) -> Option<i32> {
        self.child.take().and_then(|mut child| child.wait().unwrap().code())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn spec(name: &str, kind: Kind) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        kind,
        main: "main".into(),
        limits: Limits::default(),
        egress: vec![],
        files: vec![],
        env: vec![],
        reuse: Default::default(),
    }
}

pub fn text(outcome: &Outcome) -> String {
    match &outcome.result {
        Ok(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Err(failure) => panic!("failed: {failure} log: {}", outcome.logs),
    }
}

pub fn failure(outcome: &Outcome) -> (FailureKind, String) {
    match &outcome.result {
        Ok(bytes) => panic!("it succeeded: {}", String::from_utf8_lossy(bytes)),
        Err(failure) => (failure.kind, failure.message.clone()),
    }
}

// ---- the manifest ---------------------------------------------------------------------------------------------------------------------

#[derive(serde::Deserialize)]
pub struct Manifest {
    pub function: Vec<Example>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub name: String,
    pub kind: String,
    pub file: String,
    #[serde(default)]
    pub paper: bool,
    #[serde(default = "empty")]
    pub params: String,
    #[serde(default)]
    pub egress: Vec<String>,
    #[serde(default)]
    pub files: Vec<FileOf>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub reuse: Reuse,
    #[serde(default)]
    pub min_ms: u64,
    #[serde(default)]
    pub equals: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub near: BTreeMap<String, f64>,
    #[serde(default)]
    pub contains: BTreeMap<String, String>,
    #[serde(default)]
    pub count: BTreeMap<String, Count>,
    #[serde(default)]
    pub stored: BTreeMap<String, String>,
    pub failure: Option<Expected>,
}

#[derive(serde::Deserialize)]
pub struct FileOf {
    pub path: String,
    pub source: String,
}
#[derive(serde::Deserialize)]
pub struct Count {
    pub text: String,
    pub times: usize,
}
#[derive(serde::Deserialize)]
pub struct Expected {
    pub kind: FailureKind,
    pub contains: String,
}

fn empty() -> String {
    "{}".into()
}

pub fn examples() -> (PathBuf, Vec<Example>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/functions").canonicalize().unwrap();
    let text = std::fs::read_to_string(folder.join("functions.toml")).unwrap();
    (folder, toml::from_str::<Manifest>(&text).unwrap().function)
}

/// Code of an example, or why it cannot be had here.
pub fn code(folder: &Path, example: &Example) -> Result<(Kind, Vec<u8>), String> {
    let path = folder.join(&example.file);
    match example.kind.as_str() {
        "javascript" if !teemate_functions::javascript::is_built() => {
            Err("the JavaScript engine is not built: run `cargo xtask build`".into())
        }
        "javascript" => Ok((Kind::JavaScript, std::fs::read(path).unwrap())),
        "wat" => Ok((Kind::Wasm, wat::parse_file(path).unwrap())),
        "c" => {
            let out = std::env::temp_dir().join(format!("teemate-{}-{}.wasm", std::process::id(), example.name));
            let done = Command::new("clang-19").args(["--target=wasm32-wasi", "-O2"]).arg(path).arg("-o").arg(&out).status();
            if !done.is_ok_and(|status| status.success()) {
                return Err("clang-19 with wasi-libc is not installed".into());
            }
            let bytes = std::fs::read(&out).unwrap();
            let _ = std::fs::remove_file(out);
            Ok((Kind::Wasm, bytes))
        }
        other => panic!("unknown kind {other}"),
    }
}

/// The specification of an example as it runs natively: its files are where they are in the work tree.
pub fn native(folder: &Path, example: &Example, kind: Kind, store: &str) -> (FunctionSpec, String) {
    let mut params = example.params.replace("{store}", store);
    let mut files = Vec::new();
    for file in &example.files {
        let path = folder.join(&file.source).to_str().unwrap().to_owned();
        let content = std::fs::read(&path).unwrap();
        params = params.replace(&file.path, &path);
        files.push(VerifiedFile { path, sha256: Sha256::digest(&content).into(), length: content.len() as u64 });
    }
    let egress = example.egress.iter().map(|address| address.replace("{store}", store)).collect();
    (FunctionSpec { limits: example.limits.clone(), egress, files, reuse: example.reuse, ..spec(&example.name, kind) }, params)
}

pub fn check(folder: &Path, example: &Example, outcome: &Outcome, took_ms: u128, store: &Store) {
    let name = &example.name;
    if let Some(expected) = &example.failure {
        let (kind, message) = failure(outcome);
        assert_eq!(kind, expected.kind, "{name}: {message}");
        assert!(message.contains(&expected.contains), "{name}: {message}");
        return;
    }
    let result: serde_json::Value = serde_json::from_str(&text(outcome)).unwrap();
    let at = |pointer: &str| result.pointer(pointer).unwrap_or_else(|| panic!("{name}: no {pointer} in {result}"));
    for (pointer, value) in &example.equals {
        assert_eq!(at(pointer), value, "{name} {pointer}");
    }
    for (pointer, value) in &example.near {
        assert!((at(pointer).as_f64().unwrap() - value).abs() < 1e-9, "{name} {pointer}: {}", at(pointer));
    }
    for (pointer, part) in &example.contains {
        assert!(at(pointer).as_str().unwrap().contains(part), "{name} {pointer}");
    }
    for (pointer, count) in &example.count {
        assert_eq!(at(pointer).as_str().unwrap().matches(&count.text).count(), count.times, "{name} {pointer}");
    }
    for (path, source) in &example.stored {
        assert_eq!(store.get(path).as_deref(), Some(&std::fs::read(folder.join(source)).unwrap()[..]), "{name} {path}");
    }
    assert!(took_ms >= u128::from(example.min_ms), "{name} took {took_ms} ms");
}

/// An object store: PUT and GET over HTTP.
pub struct Store {
    pub address: String,
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Store {
    pub fn start() -> Store {
        use std::io::{BufRead, BufReader, Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let objects = Arc::new(Mutex::new(BTreeMap::new()));
        let kept = objects.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let mut length = 0;
                loop {
                    let mut header = String::new();
                    reader.read_line(&mut header).unwrap();
                    if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if header.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let mut words = line.split(' ');
                let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
                let reply = match method {
                    "PUT" => {
                        kept.lock().unwrap().insert(path, body);
                        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()
                    }
                    "GET" if path == "/chunked" => {
                        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n".to_vec()
                    }
                    "GET" if path == "/moved" => b"HTTP/1.1 302 Found\r\nLocation: /chunked\r\nContent-Length: 0\r\n\r\n".to_vec(),
                    "GET" if path == "/silent" => {
                        std::thread::sleep(std::time::Duration::from_secs(3));
                        continue;
                    }
                    "GET" if path == "/garbage" => b"\0\xff\xfe nonsense\r\n\r\n".to_vec(),
                    _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
                };
                let _ = reader.get_mut().write_all(&reply);
            }
        });
        Store { address, objects }
    }

    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().get(path).cloned()
    }
}
