//! Knative's view of a container: it sets $PORT, asks there by HTTP/1.1, and ends it with SIGTERM. The container is `teemate serve`; what it
//! is asked runs in the enclave.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teemate_control::node::Sharing;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::skip;

const SOURCE: &str = "
async function main(p) {
  if (p.sleep) await new Promise((done) => setTimeout(done, +p.sleep));
  return { statusCode: 201, headers: { 'x-mine': 'yes' }, body: { name: p.name, path: p.__ow_path, method: p.__ow_method } };
}";

struct Served {
    child: Child,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(artifacts: &Artifacts, owner: &Owner, policy: &std::path::Path, endpoint: &str, action: &str) -> Result<Served, String> {
    let mut command = Command::new(artifacts.program("teemate"));
    command.env("HOME", owner.home()).env("PORT", "0").args(["serve", action, "--address", "127.0.0.1", "--endpoint", endpoint]);
    command.arg("--policy").arg(policy).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    match line.split_once("http://").and_then(|(_, rest)| rest.split(' ').next()) {
        Some(address) => Ok(Served { child, address: address.to_owned() }),
        None => {
            let mut why = String::new();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            let _ = child.wait();
            Err(why)
        }
    }
}

/// Sends a request's text and reads one answer: its head and body.
fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let got = stream.read(&mut piece).unwrap();
        text.extend_from_slice(&piece[..got]);
        let all = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            if got == 0 || length.is_some_and(|length| body.len() >= length) {
                return (head.to_owned(), body.to_owned());
            }
        }
        assert!(got > 0, "it ends too early: {all}");
    }
}

fn connect(served: &Served) -> TcpStream {
    let stream = TcpStream::connect(&served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

#[test]
fn an_action_is_served_at_a_port() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let node = Node::start_listening(&artifacts).unwrap();
    assert_eq!(node.status().unwrap().sharing, Sharing::Shared);
    let owner = Owner::new(&artifacts).unwrap();
    let policy = owner.policy_of_the_signer(&artifacts.image()).unwrap();
    owner.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    let script = owner.home().join("main.js");
    std::fs::write(&script, SOURCE).unwrap();
    let code = script.display().to_string();
    owner.json(&["--profile", "default", "function", "deploy", "hello", &code, "--web"]).unwrap();
    owner.json(&["--profile", "default", "function", "deploy", "private", &code]).unwrap();
    let endpoint = node.endpoint().to_string();

    // Who has another policy gets no port at all.
    let other = owner.policy("other.toml", &format!("mrenclave = \"{}\"", "00".repeat(32))).unwrap();
    let why = serve(&artifacts, &owner, &other, &endpoint, "ada/hello").err().unwrap();
    assert!(why.contains("MRENCLAVE"), "{why}");

    let mut served = serve(&artifacts, &owner, &policy, &endpoint, "ada/hello").unwrap_or_else(|why| panic!("{why}"));
    // One connection, several requests, of which one has a body in pieces.
    let mut stream = connect(&served);
    let (head, body) = ask(&mut stream, "GET /a/b?name=Ada HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 201") && head.contains("x-mine: yes"), "{head}\n{body}");
    assert_eq!(body, r#"{"name":"Ada","path":"/a/b","method":"get"}"#);
    let pieces = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"name\":\r\n6\r\n\"Eve\"}\r\n0\r\n\r\n";
    let (head, body) = ask(&mut stream, pieces);
    assert!(head.starts_with("HTTP/1.1 201"), "{head}\n{body}");
    assert_eq!(body, r#"{"name":"Eve","path":"","method":"post"}"#);

    // What is not for the web is not served, though it is there.
    let private = serve(&artifacts, &owner, &policy, &endpoint, "ada/private").unwrap_or_else(|why| panic!("{why}"));
    let (head, _) = ask(&mut connect(&private), "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");

    // SIGTERM: the request that runs is answered, a new one finds nobody.
    let mut last = connect(&served);
    let waits = std::thread::spawn(move || ask(&mut last, "GET /?sleep=2000&name=last HTTP/1.1\r\nHost: x\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(700));
    kill_process(Pid::from_child(&served.child), Signal::TERM).unwrap();
    let (head, body) = waits.join().unwrap();
    assert!(head.starts_with("HTTP/1.1 201") && body.contains("last"), "{head}\n{body}");
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = served.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&served.address).is_err());
}
