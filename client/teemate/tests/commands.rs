//! The program as users run it, against a node that is a thread of this test.
#![allow(clippy::unwrap_used)] // A test that cannot go on says where.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Limits, Mark, Outcome, Phase, Reuse, Usage};
use teemate_control::node::{ContainerInfo, EnclaveInfo, FunctionInfo, Ps, Request, Response, Sharing, Status};

/// A node that answers every request by `answer`, and tells what it was asked.
struct Node {
    directory: tempfile::TempDir,
    requests: mpsc::Receiver<Request>,
}

impl Node {
    fn new(answer: impl Fn(&Request) -> Response + Send + 'static) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("node.sock")).unwrap();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                    let request: Request = serde_json::from_str(&line).unwrap();
                    let mut text = serde_json::to_string(&answer(&request)).unwrap();
                    text.push('\n');
                    let _ = sender.send(request);
                    let _ = stream.get_mut().write_all(text.as_bytes());
                    line.clear();
                }
            }
        });
        Node { directory, requests }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], stdin: &str) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_teemate"));
        command.arg("--socket").arg(self.directory.path().join("node.sock")).args(arguments);
        run(&mut command, stdin)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn asked(&self) -> Request {
        self.requests.try_recv().unwrap()
    }
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

fn run(command: &mut Command, stdin: &str) -> Run {
    command.env_remove("XDG_RUNTIME_DIR").env_remove("TEEMATE_IMAGE").env_remove("TEEMATE_LIBEXEC");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Run { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}

fn teemate(arguments: &[&str]) -> Run {
    run(Command::new(env!("CARGO_BIN_EXE_teemate")).args(arguments), "")
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        protocol: teemate_control::PROTOCOL,
        pid: 4_000_000,
        uptime_s: 61,
        device: "simulator".into(),
        sharing: Sharing::Shared,
        mrenclave: "ab".repeat(32),
        endpoint: Some("127.0.0.1:8443".into()),
        calls: 7,
        running: 1,
    }
}

fn info(spec: &FunctionSpec) -> FunctionInfo {
    FunctionInfo { spec: spec.clone(), digest: "cd".repeat(32), size: 20, calls: 3, failed: 1 }
}

fn spec(name: &str) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        kind: Kind::JavaScript,
        main: "main".into(),
        limits: Limits::default(),
        egress: vec!["localhost:9".into()],
        files: vec![],
        env: vec![("A".into(), "B".into())],
        reuse: Reuse::Fresh,
    }
}

fn outcome(result: Result<Vec<u8>, Failure>) -> Response {
    let marks = [(Phase::Received, 0), (Phase::Entered, 300_000), (Phase::Executed, 500_000), (Phase::Returned, 900_000)];
    Response::Invoked {
        outcome: Outcome {
            result,
            logs: "hello\n".into(),
            usage: Usage { fuel: 5, memory_peak: 65536, execution_us: 200 },
            container: 42,
            marks: marks.into_iter().map(|(phase, at_ns)| Mark { phase, at_ns }).collect(),
        },
    }
}

/// Answers everything with what a healthy node would.
fn healthy(request: &Request) -> Response {
    match request {
        Request::Status => Response::Status(status()),
        Request::Deploy { spec, .. } => Response::Function(info(spec)),
        Request::Function { name } => Response::Function(info(&spec(name))),
        Request::Functions => Response::Functions { functions: vec![info(&spec("one")), info(&spec("two"))] },
        Request::Invoke { params, .. } => outcome(Ok(serde_json::to_vec(params).unwrap())),
        Request::Logs { .. } => Response::Logs { calls: vec![] },
        Request::Ps => Response::Ps(Ps {
            enclaves: vec![EnclaveInfo {
                id: 1,
                role: "serving".into(),
                mrenclave: "ab".repeat(32),
                device: "simulator".into(),
                tcs_total: 160,
                tcs_leased: 2,
                epc_pages: 30_000,
                epc_limit: 0,
            }],
            containers: vec![ContainerInfo {
                id: 9,
                role: "function".into(),
                function: Some("one".into()),
                enclave: Some(1),
                tcs: Some(3),
                pid: 77,
                namespaces: vec![("pid".into(), 4026531836)],
                cgroups: vec!["/teemate/9".into()],
                charged_pages: Some(64),
                rss_kib: 900,
                age_ms: 12,
            }],
        }),
        Request::Metrics => Response::Metrics { text: "# EOF\n".into() },
        _ => Response::Ok,
    }
}

#[test]
fn status_in_text_and_in_json() {
    let node = Node::new(healthy);
    let text = node.run(&["node", "status"]);
    assert_eq!(text.code, Some(0), "{}", text.err);
    assert!(text.out.contains("simulator (protects nothing"), "{}", text.out);
    assert!(!text.out.contains('\x1b'), "colours without a terminal");
    assert_eq!(node.run(&["--json", "node", "status"]).json()["calls"], 7);
    assert_eq!(node.run(&["node", "status", "--json"]).json()["pid"], 4_000_000);
}

#[test]
fn where_no_node_is_the_exit_code_is_3() {
    let run = teemate(&["--socket", "/nowhere/node.sock", "--json", "ps"]);
    assert_eq!(run.code, Some(3));
    assert_eq!(run.json()["error"]["kind"], "unreachable");
    assert!(run.err.contains("teemate node start"), "{}", run.err);
}

#[test]
fn a_wrong_command_line_is_2() {
    for arguments in [&["function"][..], &["nothing"], &["kill", "x"], &["function", "deploy", "a"], &[]] {
        assert_eq!(teemate(arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let run = teemate(&["--help"]);
    assert_eq!(run.code, Some(0));
    assert!(run.out.contains("Exit codes") && run.out.contains("3  no node answers"), "{}", run.out);
}

#[test]
fn deploy_sends_what_the_command_line_says() {
    let node = Node::new(healthy);
    std::fs::write(node.path("f.js"), "function main() {}").unwrap();
    std::fs::write(node.path("data"), "abc").unwrap();
    let file = format!("{}=/data", node.path("data"));
    let run = node.run(&[
        "function",
        "deploy",
        "f",
        &node.path("f.js"),
        "--timeout",
        "5s",
        "--memory",
        "64M",
        "--fuel",
        "100",
        "--egress",
        "127.0.0.1:80",
        "--file",
        &file,
        "--env",
        "K=V=W",
        "--cpu",
        "500m",
        "--reuse",
        "rewind",
        "--idle",
        "5s",
        "--json",
    ]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.json()["spec"]["name"], "f");
    let Request::Deploy { spec, code, files } = node.asked() else { panic!() };
    assert_eq!(spec.kind, Kind::JavaScript);
    assert_eq!(
        spec.limits,
        Limits { timeout_ms: 5000, memory: 64 << 20, fuel: Some(100), cpu_milli: 500, idle_ms: 5000, ..Limits::default() }
    );
    assert_eq!(spec.reuse, Reuse::Rewind);
    assert_eq!(spec.egress, ["127.0.0.1:80"]);
    assert_eq!(spec.env, [("K".to_owned(), "V=W".to_owned())]);
    assert_eq!((spec.files[0].path.as_str(), spec.files[0].length), ("/data", 3));
    assert_eq!((code.as_str(), files), ("ZnVuY3Rpb24gbWFpbigpIHt9", vec!["YWJj".to_owned()]));
}

#[test]
fn what_cannot_be_deployed_is_never_sent() {
    let node = Node::new(healthy);
    std::fs::write(node.path("cut.wasm"), b"\0asm").unwrap();
    std::fs::write(node.path("f.txt"), b"?").unwrap();
    for (arguments, code, word) in [
        (vec!["f".to_owned(), node.path("cut.wasm")], 1, "cut short"),
        (vec!["f".to_owned(), node.path("f.txt")], 1, "--kind"),
        (vec!["f".to_owned(), node.path("none.js")], 1, "can't be read"),
        (vec!["a/b".to_owned(), node.path("f.txt")], 2, "letter"),
        (vec!["f".to_owned(), node.path("f.txt"), "--memory".to_owned(), "1".to_owned()], 2, "64 KiB"),
    ] {
        let mut all = vec!["function", "deploy"];
        all.extend(arguments.iter().map(String::as_str));
        let run = node.run(&all);
        assert_eq!(run.code, Some(code), "{arguments:?} {}", run.err);
        assert!(run.err.contains(word), "{}", run.err);
    }
    assert!(node.requests.try_recv().is_err());
}

#[test]
fn invoke_prints_the_result_alone() {
    let node = Node::new(healthy);
    let run =
        node.run(&["function", "invoke", "f", "-p", "n=4", "-p", "who=Ada", "--params", r#"{"n":1,"x":[]}"#, "--sharing", "exclusive"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    assert_eq!(run.json(), json!({"n": 4, "who": "Ada", "x": []}));
    let Request::Invoke { sharing, .. } = node.asked() else { panic!() };
    assert_eq!(sharing, Some(Sharing::Exclusive));
}

#[test]
fn parameters_come_from_a_file_or_stdin_too() {
    let node = Node::new(healthy);
    std::fs::write(node.path("p.json"), r#"{"a":1}"#).unwrap();
    let run = node.run(&["function", "invoke", "f", "--params", &format!("@{}", node.path("p.json"))]);
    assert_eq!(run.json(), json!({"a": 1}));
    assert_eq!(node.run_with(&["function", "invoke", "f", "--params", "-"], r#"{"b":2}"#).json(), json!({"b": 2}));
    for bad in ["[1]", "{", "nope", "@/nowhere"] {
        let run = node.run(&["function", "invoke", "f", "--params", bad]);
        assert!(matches!(run.code, Some(1 | 2)), "{bad}");
        assert!(!run.err.contains("panicked"), "{}", run.err);
    }
}

#[test]
fn a_breakdown_goes_to_stderr_and_into_json() {
    let node = Node::new(healthy);
    let run = node.run(&["function", "invoke", "f", "--breakdown", "--logs"]);
    assert!(run.err.contains("function execution") && run.err.contains("hello") && run.err.contains("200 us"), "{}", run.err);
    let document = node.run(&["function", "invoke", "f", "--json"]).json();
    assert_eq!(document["container"], 42);
    assert_eq!(document["breakdown"][3]["phase"], "returned");
    assert_eq!(document["error"], Value::Null);
}

#[test]
fn a_failed_function_is_1_with_its_failure_on_stderr() {
    let node = Node::new(|_| outcome(Err(Failure::new(FailureKind::Limit, "it ran longer than timeout_ms = 100"))));
    let run = node.run(&["function", "invoke", "f"]);
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    assert!(run.err.contains("(limit)") && run.err.contains("timeout_ms"), "{}", run.err);
    let run = node.run(&["function", "invoke", "f", "--json"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(run.json()["error"]["kind"], "limit");
}

#[test]
fn a_failed_request_is_1_with_the_nodes_sentence() {
    let node = Node::new(|_| Response::Failed(Failure::new(FailureKind::Invalid, "there is no function 'f'")));
    for arguments in
        [&["function", "invoke", "f"][..], &["function", "show", "f"], &["function", "delete", "f"], &["kill", "3"], &["metrics"]]
    {
        let run = node.run(arguments);
        assert_eq!(run.code, Some(1), "{arguments:?}");
        assert!(run.err.contains("no function 'f'"), "{}", run.err);
    }
}

#[test]
fn lists_show_and_ps_are_tables() {
    let node = Node::new(healthy);
    assert!(node.run(&["function", "list"]).out.starts_with("NAME"), "head");
    assert_eq!(node.run(&["function", "list", "--json"]).json().as_array().unwrap().len(), 2);
    assert!(node.run(&["function", "show", "one"]).out.contains("env        A=B"));
    assert!(node.run(&["function", "logs", "one"]).out.contains("no call"));
    let ps = node.run(&["ps"]).out;
    assert!(ps.contains("4026531836") && ps.contains("/teemate/9") && ps.contains("2/160"), "{ps}");
    assert_eq!(node.run(&["ps", "--json"]).json()["containers"][0]["pid"], 77);
    assert_eq!(node.run(&["metrics"]).out, "# EOF\n");
    assert_eq!(node.run(&["kill", "9", "--json"]).json()["killed"], 9);
    assert_eq!(node.run(&["function", "delete", "one"]).code, Some(0));
}

#[test]
fn what_a_host_writes_cannot_steer_the_terminal() {
    let node = Node::new(|_| outcome(Err(Failure::new(FailureKind::Application, "\x1b]0;evil\x07"))));
    assert!(!node.run(&["function", "invoke", "f"]).err.contains('\x1b'));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_teemate"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn completion_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = teemate(&["completion", shell]);
        assert_eq!(run.code, Some(0));
        assert!(run.out.contains("invoke"), "{shell}");
    }
}

#[test]
fn doctor_reports_every_check_and_needs_no_node() {
    let run = teemate(&["doctor", "--json"]);
    assert!(matches!(run.code, Some(0 | 1)), "{}", run.err);
    let report = run.json();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() > 8);
    assert!(checks.iter().all(|check| check["found"] == true || !check["advice"].as_str().unwrap().is_empty()), "{report}");
}

#[test]
fn a_start_without_the_nodes_program_says_what_to_build() {
    let directory = tempfile::tempdir().unwrap();
    // Alone in a directory, and without a PATH: nothing stands beside it.
    let own = directory.path().join("teemate");
    std::fs::copy(env!("CARGO_BIN_EXE_teemate"), &own).unwrap();
    let run = run(Command::new(&own).env("PATH", "").arg("--socket").arg(directory.path().join("s")).args(["node", "start"]), "");
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("cargo xtask build"), "{}", run.err);
}

/// A stand-in for teemate-node that says something and ends.
fn fake_node(directory: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("teemate-node");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_node_that_ends_at_once_is_reported_with_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    fake_node(directory.path(), "echo 'no memory for the enclave' >&2; exit 7");
    let mut command = Command::new(env!("CARGO_BIN_EXE_teemate"));
    command
        .arg("--socket")
        .arg(directory.path().join("run/node.sock"))
        .args(["node", "start", "--image", "x", "--state"])
        .arg(directory.path());
    command.env("TEEMATE_LIBEXEC", directory.path());
    command.env_remove("XDG_RUNTIME_DIR");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("no memory for the enclave") && words.contains('7'), "{words}");
}

#[test]
fn a_second_node_on_the_same_socket_is_refused() {
    let node = Node::new(healthy);
    let run = node.run(&["node", "start", "--image", "x"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("already answers"), "{}", run.err);
}

#[test]
fn a_key_is_made_once_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem").display().to_string();
    std::fs::write(&key, "old").unwrap();
    let run = teemate(&["image", "keygen", &key]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("never overwritten"), "{}", run.err);
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "old");
}

#[test]
fn wrong_files_given_to_image_are_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let (empty, noise) = (path("empty", b""), path("noise", &[0xa5; 5000]));
    let (elf, unknown) = (path("elf", b"\x7fELF\x02\x01\x01"), path("unknown.toml", b"nonsense = 1\n"));
    let out = directory.path().join("out").display().to_string();
    let directory_path = directory.path().display().to_string();
    for file in [&empty, &noise, &elf, &directory_path, &"/nowhere".to_owned()] {
        for command in ["measure", "verify", "show"] {
            let run = teemate(&["image", command, file]);
            assert_eq!(run.code, Some(1), "{command} {file}: {}", run.err);
            assert!(run.err.starts_with("error: ") && !run.err.contains("panicked"), "{}", run.err);
        }
        let run = teemate(&["image", "sign", file, "--key", &noise]);
        assert_eq!(run.code, Some(1), "{}", run.err);
        let run = teemate(&["image", "build", "--libos", file, "--payload", file, "--output", &out]);
        assert_eq!(run.code, Some(1), "{}", run.err);
    }
    let run = teemate(&["image", "build", "--libos", &elf, "--payload", &elf, "--config", &unknown, "--output", &out]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("unknown.toml") && run.err.contains("nonsense"), "{}", run.err);
    assert!(!Path::new(&out).exists());
}
