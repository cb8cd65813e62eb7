//! A stock invoker's view: it starts a container, says `/init` and `/run`, reads its output up to the markers, and kills it. The container
//! is `teemate action`; what it was given runs in the enclave.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use teemate_tests::archive;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::{invoker, skip};

const MARKER: &str = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";

/// A container as an invoker has it.
struct Container {
    child: Child,
    address: SocketAddr,
    out: Receiver<String>,
    err: Receiver<String>,
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

impl Container {
    fn start(artifacts: &Artifacts, home: &Path) -> Container {
        let mut command = Command::new(artifacts.program("teemate"));
        command.env("HOME", home).env_remove("TEEMATE_SOCKET").env("TEEMATE_PROFILE", "default").env("PORT", "0");
        command.args(["action", "--address", "127.0.0.1"]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        let first = out
            .recv_timeout(Duration::from_secs(30))
            .unwrap_or_else(|_| panic!("it does not listen: {:?}", err.try_iter().collect::<Vec<_>>()));
        Container { child, address: first.parse().unwrap(), out, err }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        post(self.address, path, body)
    }

    fn init(&self, code: &str) -> (u16, Value) {
        self.post("/init", &json!({ "value": { "name": "test", "main": "main", "binary": false, "code": code } }))
    }

    fn run(&self, value: Value) -> (u16, Value) {
        self.post("/run", &json!({ "value": value }))
    }

    /// What it wrote up to the markers, and nothing beyond them.
    fn output(&self) -> (Vec<String>, Vec<String>) {
        let up_to = |lines: &Receiver<String>| {
            let mut read = Vec::new();
            loop {
                match lines.recv_timeout(Duration::from_secs(10)).expect("no marker came") {
                    line if line == MARKER => return read,
                    line => read.push(line),
                }
            }
        };
        let output = (up_to(&self.out), up_to(&self.err));
        assert!(self.out.try_recv().is_err() && self.err.try_recv().is_err(), "something came behind the markers");
        output
    }
}

fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    invoker::post(address, path, body).unwrap()
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Option<(Artifacts, Node, Owner)> {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => {
            skip(reason);
            return None;
        }
    };
    let node = Node::start_listening(&artifacts).unwrap();
    let owner = Owner::new(&artifacts).unwrap();
    let policy = owner.policy("policy.toml", &format!("mrenclave = \"{}\"", node.status().unwrap().mrenclave)).unwrap();
    owner.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    Some((artifacts, node, owner))
}

#[test]
fn an_invoker_finds_what_it_expects() {
    let Some((artifacts, mut node, owner)) = start() else { return };
    let container = || Container::start(&artifacts, owner.home());

    // An echo: any JSON in and out, its log, its state, and what it is told of the call.
    let echo = container();
    assert_eq!(echo.run(json!({})), (403, json!({ "error": "System not initialized." })));
    assert_eq!(echo.post("/init", &json!({ "value": { "main": "main" } })), (403, json!({ "error": "Missing main/no code to execute." })));
    let code = "let calls = 0; function main(args) { console.log('said: ' + args.say); console.error('loud'); return { args, calls: ++calls, \
                id: process.env.__OW_ACTIVATION_ID, mine: process.env.MINE }; }";
    let init = json!({ "value": { "name": "echo", "main": "main", "code": code, "env": { "MINE": "ü" } } });
    assert_eq!(echo.post("/init", &init), (200, json!({ "OK": true })));
    assert_eq!(echo.init(code), (403, json!({ "error": "Cannot initialize the action more than once." })));
    // What was refused is said on the container's standard error, too, soon after.
    while !echo.err.recv_timeout(Duration::from_secs(10)).unwrap().contains("more than once") {}
    for calls in 1..=3 {
        let run =
            json!({ "value": { "say": "\u{1f600} ü" }, "activation_id": format!("id-{calls}"), "deadline": "1", "namespace": "guest" });
        let args = json!({ "say": "\u{1f600} ü" });
        assert_eq!(echo.post("/run", &run), (200, json!({ "args": args, "calls": calls, "id": format!("id-{calls}"), "mine": "ü" })));
        assert_eq!(echo.output(), (vec!["said: \u{1f600} ü".to_owned()], vec!["loud".to_owned()]));
    }
    for (value, kind) in [(json!("x"), "string"), (json!(4), "number")] {
        let sentence = format!("Internal system error: the argument must be a dictionary but has type '{kind}'.");
        assert_eq!(echo.run(value), (403, json!({ "error": sentence })));
    }
    let large = "x".repeat(900_000);
    let (status, answer) = echo.run(json!({ "say": large }));
    assert_eq!((status, &answer["args"]["say"]), (200, &json!(large)));

    // What each action comes to.
    for (code, value, status, answer) in [
        ("function main() { return { error: 'mine' }; }", json!({}), 200, json!({ "error": "mine" })),
        ("function main() { return Promise.reject({ reason: 5 }); }", json!({}), 200, json!({ "error": { "reason": 5 } })),
        ("function main(list) { return list.reverse(); }", json!([1, 2, 3]), 200, json!([3, 2, 1])),
        ("function main() { return 7; }", json!({}), 502, json!({ "error": "The action did not return a dictionary." })),
        ("function main() { throw new Error('boom'); }", json!({}), 502, json!({ "error": "An error has occurred: Error: boom" })),
        ("async function main(a) { await null; return { sum: a.x + a.y }; }", json!({ "x": 1, "y": 2 }), 200, json!({ "sum": 3 })),
    ] {
        let container = container();
        assert_eq!(container.init(code), (200, json!({ "OK": true })), "{code}");
        assert_eq!(container.run(value), (status, answer), "{code}");
        container.output();
    }

    // What does not begin.
    for code in ["function main( {", "throw new Error('at the top')", "const x = 1;"] {
        let container = container();
        let (status, answer) = container.init(code);
        assert_eq!(status, 502, "{code}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with("Initialization has failed due to: "), "{code}: {answer}");
        container.output();
        assert_eq!(container.run(json!({})), (403, json!({ "error": "System not initialized." })));
        assert_eq!(container.init(code), (403, json!({ "error": "System not ready, status is stopped." })));
    }

    // Archives, and an entry point in one.
    let zipped = archive::zip(&[
        ("package.json", br#"{"main":"lib/it.js"}"#),
        ("lib/it.js", b"const fs = require('fs'); exports.go = (a) => ({ hello: require('./who').who(a), note: fs.readFileSync('data/note.txt', 'utf8') });"),
        ("lib/who.js", b"exports.who = (a) => a.name;"),
        ("data/note.txt", "für alle".as_bytes()),
    ]);
    let zipped = STANDARD.encode(zipped.unwrap());
    let container = container();
    assert_eq!(
        container.post("/init", &json!({ "value": { "main": "go", "binary": true, "code": zipped } })),
        (200, json!({ "OK": true }))
    );
    assert_eq!(container.run(json!({ "name": "Ada" })), (200, json!({ "hello": "Ada", "note": "für alle" })));
    drop(container);
    node.stop().unwrap();
}

#[test]
fn one_call_at_a_time_and_nothing_is_left() {
    let Some((artifacts, mut node, owner)) = start() else { return };
    let mut container = Container::start(&artifacts, owner.home());
    assert_eq!(container.init("function main(a) { return new Promise((done) => setTimeout(() => done({ n: a.n }), 1500)); }").0, 200);
    let address = container.address;
    let first = std::thread::spawn(move || post(address, "/run", &json!({ "value": { "n": 1 } })));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(container.run(json!({ "n": 2 })), (403, json!({ "error": "System not ready, status is running." })));
    assert_eq!(first.join().unwrap(), (200, json!({ "n": 1 })));
    let functions = || owner.json(&["--profile", "default", "function", "list"]).unwrap().as_array().unwrap().len();
    assert_eq!(functions(), 1);
    let pid = rustix::process::Pid::from_child(&container.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(container.child.wait().unwrap().success());
    assert_eq!(functions(), 0, "the action goes with its container");
    node.stop().unwrap();
}
