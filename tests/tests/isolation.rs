//! Functions that misbehave are stopped alone, with an error that names the limit; what one wrote no other sees.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use teemate_client::deployment::Deployment;
use teemate_control::function::{Failure, FailureKind, Limits, Outcome};
use teemate_control::node::Sharing;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::running::{Node, invoke, result};
use teemate_tests::{full, skip};

fn start() -> Option<Node> {
    static REASON: OnceLock<Result<Artifacts, String>> = OnceLock::new();
    match REASON.get_or_init(Artifacts::find) {
        Ok(artifacts) => Some(Node::start(artifacts, Sharing::Shared).unwrap()),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

fn limits(timeout_ms: u64) -> Limits {
    Limits { timeout_ms, memory: 32 << 20, log: 4096, result: 4096, ..Limits::default() }
}

/// The failure of a call that must fail; afterwards another call must be right.
#[track_caller]
fn stopped(node: &Node, name: &str, params: Value) -> Failure {
    let begin = Instant::now();
    let outcome = node.invoke(name, params).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15), "{name} was stopped only after {:?}", begin.elapsed());
    assert_eq!(node.call("good", json!({})).unwrap(), json!({ "good": true }), "after {name}");
    match outcome.result {
        Err(failure) => failure,
        Ok(bytes) => panic!("{name} was not stopped: {}", String::from_utf8_lossy(&bytes)),
    }
}

#[track_caller]
fn expect(failure: &Failure, kind: FailureKind, words: &[&str]) {
    assert_eq!(failure.kind, kind, "{}", failure.message);
    let message = failure.message.to_lowercase();
    assert!(words.iter().any(|word| message.contains(word)), "{words:?}: {}", failure.message);
}

fn good(node: &Node) {
    node.deploy_script("good", "function main() { return { good: true }; }", Limits::default()).unwrap();
}

#[test]
fn scripts_that_pass_a_limit() {
    let Some(mut node) = start() else { return };
    good(&node);
    let deploy = |name: &str, body: &str, limits: Limits| {
        node.deploy_script(name, &format!("function main(p) {{ {body} }}"), limits).unwrap();
    };
    deploy("forever", "for (;;) {}", limits(300));
    expect(&stopped(&node, "forever", json!({})), FailureKind::Limit, &["time"]);
    deploy("fuel", "for (;;) {}", Limits { fuel: Some(50_000_000), ..limits(10_000) });
    expect(&stopped(&node, "fuel", json!({})), FailureKind::Limit, &["fuel"]);
    deploy("never", "return new Promise(() => setTimeout(() => {}, 1e8));", limits(300));
    let failure = stopped(&node, "never", json!({}));
    assert!(matches!(failure.kind, FailureKind::Limit | FailureKind::Application), "{}", failure.message);
    deploy("logs", "for (let i = 0; i < 1e5; i++) console.log('x'.repeat(100)); return {};", limits(10_000));
    expect(&stopped(&node, "logs", json!({})), FailureKind::Limit, &["log"]);
    deploy("result", "return { x: 'y'.repeat(10000) };", limits(10_000));
    expect(&stopped(&node, "result", json!({})), FailureKind::Limit, &["result"]);
    deploy("eater", "const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1));", limits(10_000));
    let failure = stopped(&node, "eater", json!({}));
    assert!(matches!(failure.kind, FailureKind::Limit | FailureKind::Application), "{:?}", failure.kind);
    assert!(failure.message.to_lowercase().contains("memory"), "{}", failure.message);
    deploy("deep", "const f = () => f() + 1; return { n: f() };", limits(10_000));
    let failure = stopped(&node, "deep", json!({}));
    assert!(failure.message.to_lowercase().contains("stack"), "{}", failure.message);
    node.stop().unwrap();
}

/// Each may have more memory than the enclave has EPC: who finds none left fails, and the enclave goes on.
#[test]
fn a_call_that_finds_no_epc_left_fails_alone() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let mut node = Node::start_with(&artifacts, Sharing::Shared, &["--epc-limit", "160M"]).unwrap();
    good(&node);
    // In one piece, and bit by bit: most of what is held at the end was mapped by small steps within a region.
    const EATER: &str = "function main({ step }) { const all = []; for (;;) all.push(new Uint8Array(step).fill(1)); }";
    node.deploy_script("eater", EATER, Limits { memory: 1 << 30, ..limits(10_000) }).unwrap();
    for step in [64 << 20, 1 << 20, 5000] {
        let failure = stopped(&node, "eater", json!({ "step": step }));
        assert!(failure.message.to_lowercase().contains("memory"), "{step}: {}", failure.message);
    }
    let metrics = node.metrics().unwrap();
    assert!(metrics.contains("teemate_rebuilds_total 0"), "the enclave ended\n{}", node.last_words());
    node.stop().unwrap();
}

#[test]
fn scripts_that_reach_for_what_is_not_theirs() {
    let Some(mut node) = start() else { return };
    good(&node);
    let deploy = |name: &str, source: &str| node.deploy_script(name, source, limits(10_000)).unwrap();
    deploy("file", "function main() { return { text: require('fs').readFileSync('/etc/passwd', 'utf8') }; }");
    expect(&stopped(&node, "file", json!({})), FailureKind::Denied, &["/etc/passwd"]);
    deploy("connect", "async function main() { const r = await fetch('http://127.0.0.1:1/'); return { status: r.status }; }");
    expect(&stopped(&node, "connect", json!({})), FailureKind::Denied, &["127.0.0.1:1"]);
    deploy("throws", "function main() { throw new Error('my own fault'); }");
    expect(&stopped(&node, "throws", json!({})), FailureKind::Application, &["my own fault"]);
    node.stop().unwrap();
}

/// Deploys a module in WebAssembly's text form.
fn module(node: &Node, directory: &Path, name: &str, text: &str, limits: Limits) {
    let code = directory.join(format!("{name}.wasm"));
    std::fs::write(&code, wat::parse_str(text).unwrap()).unwrap();
    node.deploy(&Deployment { name: name.to_owned(), code, limits, ..Deployment::default() }).unwrap();
}

/// Writes `{"n":D}` with the digit that `$main` gives.
fn reporting(imports: &str, body: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
          {imports}
          (memory (export "memory") 1)
          (data (i32.const 16) "{{\"n\":0}}")
          (func $main (result i32) {body})
          (func (export "_start")
            (i32.store8 (i32.const 21) (i32.add (i32.const 48) (call $main)))
            (i32.store (i32.const 0) (i32.const 16))
            (i32.store (i32.const 4) (i32.const 7))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

#[test]
fn modules_that_misbehave() {
    let Some(mut node) = start() else { return };
    good(&node);
    let directory = tempfile::tempdir().unwrap();
    let deploy = |name: &str, body: &str, limits| module(&node, directory.path(), name, &reporting("", body), limits);
    deploy("fine", "(i32.const 7)", limits(10_000));
    assert_eq!(node.call("fine", json!({})).unwrap(), json!({ "n": 7 }));
    deploy("outside", "(i32.load (i32.const 0x7fffffff))", limits(10_000));
    expect(&stopped(&node, "outside", json!({})), FailureKind::Application, &["out of bounds", "memory"]);
    deploy("forever", "(loop $l (br $l)) (unreachable)", limits(300));
    expect(&stopped(&node, "forever", json!({})), FailureKind::Limit, &["time"]);
    deploy("trap", "(unreachable)", limits(10_000));
    expect(&stopped(&node, "trap", json!({})), FailureKind::Application, &["unreachable"]);
    deploy("deep", "(i32.add (call $main) (i32.const 1))", limits(10_000));
    let failure = stopped(&node, "deep", json!({}));
    assert!(failure.message.to_lowercase().contains("stack"), "{}", failure.message);
    // 32 MiB is the limit: a growth beyond it is refused, and the function may go on.
    deploy("grow", "(i32.eq (memory.grow (i32.const 100000)) (i32.const -1))", limits(10_000));
    let outcome = node.invoke("grow", json!({})).unwrap();
    match &outcome.result {
        Ok(_) => assert_eq!(result(&outcome).unwrap(), json!({ "n": 1 })),
        Err(failure) => expect(failure, FailureKind::Limit, &["memory"]),
    }
    node.stop().unwrap();
}

#[test]
fn a_changed_file_is_refused_by_name() {
    let Some(mut node) = start() else { return };
    good(&node);
    let directory = tempfile::tempdir().unwrap();
    let marker = "a text that only this file of the container holds";
    std::fs::write(directory.path().join("data"), marker).unwrap();
    std::fs::write(directory.path().join("f.js"), "function main() { return { text: require('fs').readFileSync('/data/text', 'utf8') }; }")
        .unwrap();
    let deployment = Deployment {
        name: "reader".into(),
        code: directory.path().join("f.js"),
        files: vec![(directory.path().join("data"), "/data/text".into())],
        ..Deployment::default()
    };
    node.deploy(&deployment).unwrap();
    assert_eq!(node.call("reader", json!({})).unwrap(), json!({ "text": marker }));
    // The host changes one letter wherever it keeps the file.
    let changed = tamper(&node.state(), marker.as_bytes());
    assert!(changed > 0, "the host's copy was not found below {}", node.state().display());
    expect(&stopped(&node, "reader", json!({})), FailureKind::Integrity, &["/data/text"]);
    node.stop().unwrap();
}

/// Changes the last byte of each file below a directory that has exactly this content.
fn tamper(directory: &Path, content: &[u8]) -> usize {
    let mut changed = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            changed += tamper(&path, content);
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes == content) {
            let mut bytes = content.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            // The store keeps files read-only, which only root can ignore.
            let mut rights = std::fs::metadata(&path).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o644);
            std::fs::set_permissions(&path, rights).unwrap();
            std::fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    changed
}

/// Fills its memory with a secret, all but the first page.
const WRITER: &str = "(memory.fill (i32.const 65536) (i32.const 0x5e) (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 65536)))
  (i32.const 1)";
/// 1 when any byte of its memory beyond the first page is not zero.
const READER: &str = "(local $at i32) (local.set $at (i32.const 65536))
  (loop $next
    (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (i32.const 1))))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $next (i32.lt_u (local.get $at) (i32.shl (memory.size) (i32.const 16)))))
  (i32.const 0)";

#[test]
fn a_secret_is_found_in_no_later_instance() {
    let Some(mut node) = start() else { return };
    let directory = tempfile::tempdir().unwrap();
    for (name, body) in [("writer", WRITER), ("reader", READER)] {
        let text = reporting("", body).replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 64)");
        module(&node, directory.path(), name, &text, limits(10_000));
    }
    let mut connection = node.connect().unwrap();
    let mut number = |name: &str| {
        let outcome: Outcome = invoke(&mut connection, name, json!({}), None).unwrap();
        result(&outcome).unwrap()["n"].as_u64().unwrap()
    };
    for _ in 0..if full() { 10_000 } else { 300 } {
        assert_eq!(number("writer"), 1);
        assert_eq!(number("reader"), 0, "a later instance found bytes of an earlier one");
    }
    node.stop().unwrap();
}
