//! Bad input gives a clear error and an exit code, never a panic; and the node goes on.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use teemate_client::deployment::Deployment;
use teemate_control::function::{FailureKind, Limits};
use teemate_control::node::Sharing;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::running::Node;
use teemate_tests::skip;

fn artifacts() -> Option<Artifacts> {
    Artifacts::find().map_err(skip).ok()
}

/// A command line that must fail with 1 or 2, say something, and not panic. Gives what it said.
#[track_caller]
fn refused(artifacts: &Artifacts, node: Option<&Node>, arguments: &[&str]) -> String {
    let mut command = Command::new(artifacts.program("teemate"));
    if let Some(node) = node {
        command.arg("--socket").arg(node.socket());
    }
    let output = command.args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {:?}\n{words}", output.status);
    assert!(words.trim().len() > 10 && !words.contains("panicked"), "{arguments:?}: {words}");
    words
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

#[test]
fn images_cut_and_changed() {
    let Some(artifacts) = artifacts() else { return };
    let directory = tempfile::tempdir().unwrap();
    let good = std::fs::read(artifacts.image()).unwrap();
    let verify = |name: &str, bytes: &[u8]| refused(&artifacts, None, &["image", "verify", &write(directory.path(), name, bytes)]);
    for length in [0, 1, 7, 100, 4095, good.len() / 2, good.len() - 1] {
        verify("cut", &good[..length]);
    }
    verify("longer", &[good.as_slice(), &[0; 16]].concat());
    // A flipped bit anywhere: the layout, the measurement or the signature is wrong then.
    for place in (0..good.len()).step_by(good.len() / 23) {
        let mut changed = good.clone();
        changed[place] ^= 0x10;
        let mut command = Command::new(artifacts.program("teemate"));
        let output = command.args(["image", "verify", &write(directory.path(), "changed", &changed)]).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!words.contains("panicked"), "bit at {place}: {words}");
        // What is not measured (the report on syscall sites) may change.
        assert!(matches!(output.status.code(), Some(0 | 1)), "bit at {place}: {words}");
    }
    let program = artifacts.program("teemate").display().to_string();
    refused(&artifacts, None, &["image", "verify", &program]);
    refused(&artifacts, None, &["image", "verify", &artifacts.image().display().to_string(), "--mrenclave", "00"]);
    let node_options = ["node", "start", "--image", &program, "--timeout", "20s", "--state"];
    let state = directory.path().join("state").display().to_string();
    let socket = directory.path().join("node.sock").display().to_string();
    let mut arguments = vec!["--socket", &socket];
    arguments.extend(node_options);
    arguments.push(&state);
    refused(&artifacts, None, &arguments);
}

#[test]
fn modules_scripts_and_parameters() {
    let Some(artifacts) = artifacts() else { return };
    let mut node = Node::start(&artifacts, Sharing::Shared).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| write(directory.path(), name, bytes);
    let deploy = |path: &str| refused(&artifacts, Some(&node), &["function", "deploy", "bad", path]);
    let good = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
    for length in 8..good.len() - 1 {
        deploy(&file("cut.wasm", &good[..length]));
    }
    deploy(&file("noise.wasm", &[b"\0asm\x01\0\0\0".as_slice(), &[0xff; 200]].concat()));
    deploy(&file("import.wasm", &wat::parse_str(r#"(module (import "env" "f" (func)) (func (export "_start")))"#).unwrap()));
    deploy(&file("no_start.wasm", &wat::parse_str("(module)").unwrap()));
    // A module that wants more memory than its limit is sound; it is its calls that fail, by that limit.
    let huge = file("huge.wasm", &wat::parse_str("(module (memory (export \"memory\") 65536) (func (export \"_start\")))").unwrap());
    node.deploy(&Deployment { name: "huge".into(), code: huge.into(), ..Deployment::default() }).unwrap();
    let failure = node.invoke("huge", json!({})).unwrap().result.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Limit, "{}", failure.message);
    deploy(&file("syntax.js", b"function main( {"));
    deploy(&file("latin1.js", b"// \xe9\nfunction main() {}"));
    let large = directory.path().join("large.js");
    std::fs::File::create(&large).unwrap().set_len(49 << 20).unwrap();
    assert!(deploy(&large.display().to_string()).contains("at most"));

    node.deploy_script("echo", "function main(p) { return p; }", Limits::default()).unwrap();
    for params in ["", "[]", "1", "null", "{", "{\"a\":}", "{\"a\":1e999999}x", "@/nowhere"] {
        refused(&artifacts, Some(&node), &["function", "invoke", "echo", "--params", params]);
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    refused(&artifacts, Some(&node), &["function", "invoke", "echo", "--params", &format!("@{}", file("deep.json", deep.as_bytes()))]);
    refused(&artifacts, Some(&node), &["function", "invoke", "none"]);
    refused(&artifacts, Some(&node), &["kill", "18446744073709551615"]);
    // Large, but allowed: OpenWhisk's limit is 1 MB.
    let text = "x".repeat(900_000);
    assert_eq!(node.call("echo", json!({ "t": text })).unwrap(), json!({ "t": text }));
    for text in ["\u{1f980} \u{0}\n\"\\", "\u{202e}rtl", ""] {
        assert_eq!(node.call("echo", json!({ "t": text })).unwrap(), json!({ "t": text }));
    }
    node.stop().unwrap();
}

#[test]
fn hostile_bytes_on_the_control_socket() {
    let Some(artifacts) = artifacts() else { return };
    let mut node = Node::start(&artifacts, Sharing::Shared).unwrap();
    let lines: [&[u8]; 9] = [
        b"\n",
        b"hello\n",
        b"{\"request\":\"nonsense\"}\n",
        b"{\"request\":\"invoke\"}\n",
        b"{\"request\":\"invoke\",\"name\":\"../..\",\"params\":{},\"sharing\":null}\n",
        b"{\"request\":\"deploy\",\"spec\":{},\"code\":\"?\",\"files\":[]}\n",
        b"\xff\xfe\xfd\n",
        b"{\"request\":\"kill\",\"container\":-1}\n",
        b"{\"request\":\"status\"",
    ];
    for line in lines {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(line).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        // An answer that says what is wrong, or a closed connection: not silence.
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.is_empty() || answer.contains("failed"), "{:?}: {answer}", String::from_utf8_lossy(line));
        node.status().unwrap();
    }
    // A line without an end: the node gives up before its memory does.
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let piece = vec![b' '; 1 << 20];
    let sent = (0..512).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(sent < 512, "the node read a line of 512 MiB");
    drop(stream);
    // Clients that connect and say nothing keep nobody out.
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(node.socket()).unwrap()).collect();
    node.status().unwrap();
    drop(silent);
    node.stop().unwrap();
}
