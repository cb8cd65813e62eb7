//! `attest`, `verify`, `policy` and `proxy` as users run them, against an enclave whose quotes are simulated.
#![allow(clippy::unwrap_used)]

#[path = "../../attestation/tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Enclave, MRENCLAVE, Server};
use serde_json::Value;
use teemate_evidence::encoding::hex;

struct User(tempfile::TempDir);

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    #[track_caller]
    fn fails(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert!(self.err.contains(words), "{words}: {}", self.err);
    }
}

impl User {
    /// With a policy that takes the test's enclave.
    fn new() -> User {
        let user = User(tempfile::tempdir().unwrap());
        let run = user.run(&["policy", "init", "--mrenclave", &hex(&MRENCLAVE), "--insecure-simulation"]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        user
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_teemate"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TEEMATE_") || name.to_string_lossy().starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.0.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[test]
fn attest_says_in_words_what_a_fresh_quote_says() {
    let (user, server) = (User::new(), Server::honest());
    let endpoint = server.endpoint().to_string();
    let run = user.run(&["attest", &endpoint]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    for words in ["is an enclave that the policy accepts", "SIMULATION", &hex(&MRENCLAVE), "made just now", "epoch 7, not seen before"] {
        assert!(run.out.contains(words), "{words}: {}", run.out);
    }
    let nonce = "ab".repeat(32);
    let document = user.run(&["--json", "attest", &endpoint, "--nonce", &nonce, "--save", &user.path("answer.json")]).json();
    assert_eq!((&document["accepted"], &document["quote"]["simulation"]), (&true.into(), &true.into()));
    assert_eq!((&document["epoch"], &document["last_epoch"], document["nonce"].as_str()), (&7.into(), &7.into(), Some(nonce.as_str())));
    // What was saved answers that nonce and no other.
    let verified = user.run(&["--json", "verify", &user.path("answer.json"), "--nonce", &nonce]).json();
    assert_eq!(verified["freshness"], "answers_nonce");
    user.run(&["verify", &user.path("answer.json"), "--nonce", &"cd".repeat(32)]).fails(1, "another nonce");
}

#[test]
fn attest_refuses_with_exit_codes_that_say_why() {
    let (user, server) = (User::new(), Server::honest());
    let endpoint = server.endpoint().to_string();
    let strict = user.path("strict.toml");
    assert_eq!(user.run(&["policy", "init", "--policy", &strict, "--mrenclave", &hex(&MRENCLAVE)]).code, Some(0));
    let run = user.run(&["--json", "attest", &endpoint, "--policy", &strict]);
    run.fails(1, "simulated quote");
    assert_eq!(run.json()["error"]["kind"], "refused");
    let other = user.path("other.toml");
    user.run(&["policy", "init", "--policy", &other, "--mrenclave", &"00".repeat(32), "--insecure-simulation"]);
    user.run(&["attest", &endpoint, "--policy", &other]).fails(1, &hex(&MRENCLAVE));
    assert_eq!(server.received(), 0);
    user.run(&["attest", "https://127.0.0.1:1"]).fails(3, "can't be reached");
    user.run(&["attest", "http://127.0.0.1:1"]).fails(2, "https");
    user.run(&["attest"]).fails(2, "which enclave");
    user.run(&["attest", "--node", "--socket", "/nowhere/socket"]).fails(3, "teemate node start");
    user.run(&["attest", &endpoint, "--nonce", "12"]).fails(2, "32 bytes");
    user.run(&["attest", &endpoint, "--policy", "/nowhere/policy.toml"]).fails(1, "teemate policy init");
}

#[test]
fn an_old_copy_of_the_store_is_noticed() {
    let user = User::new();
    let enclave = Enclave::new();
    let config = common::server_config(enclave.certificate(), &enclave.tls);
    let epoch = Arc::new(AtomicU64::new(9));
    let current = epoch.clone();
    let server = Server::new(config, move |path, body| {
        let mut info = enclave.info();
        info.epoch = current.load(Ordering::SeqCst);
        if path.ends_with("info") { (200, serde_json::to_vec(&info).unwrap()) } else { enclave.answer(path, body) }
    });
    let endpoint = server.endpoint().to_string();
    assert_eq!(user.run(&["attest", &endpoint]).code, Some(0));
    epoch.store(5, Ordering::SeqCst);
    let run = user.run(&["--json", "attest", &endpoint]);
    run.fails(1, "OLD COPY");
    assert_eq!(run.json()["error"]["kind"], "store");
    assert_eq!(user.run(&["attest", &endpoint, "--accept-store"]).code, Some(0));
    assert_eq!(user.run(&["attest", &endpoint]).code, Some(0));
}

#[test]
fn verify_checks_files_offline() {
    let (user, enclave) = (User::new(), Enclave::new());
    let receipt = user.write("receipt.json", &serde_json::to_vec(&enclave.bundle()).unwrap());
    let run = user.run(&["verify", &receipt]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    for words in ["this receipt holds", "ada/hello version 0.0.1", "new for this call", "HOST'S clock", "00112233445566778899aabbccddeeff"]
    {
        assert!(run.out.contains(words), "{words}: {}", run.out);
    }
    assert_eq!(user.run(&["--json", "verify", &receipt]).json()["receipt"]["owner"], "ada");
    user.run(&["verify", &receipt, "--input", &receipt]).fails(1, "no digest of the parameters");
    let certificate = user.write("certificate.der", &enclave.certificate());
    assert_eq!(user.run(&["--json", "verify", &certificate]).json()["kind"], "certificate");
    user.run(&["verify", &certificate, "--input", &receipt]).fails(2, "only a receipt");
    let quote = user.write("quote", &common::quote(&[1; 64]));
    assert_eq!(user.run(&["--json", "verify", &quote]).json()["freshness"], "unknown");
    user.run(&["verify", &quote, "--at", "2020-01-01T00:00:00Z"]).fails(1, "not genuine");
    user.run(&["verify", &quote, "--at", "yesterday"]).fails(2, "2026-11-20T09:30:00Z");
    let mut changed = enclave.bundle();
    changed.receipt = changed.receipt.replacen('A', "B", 1);
    user.run(&["verify", &user.write("changed.json", &serde_json::to_vec(&changed).unwrap())]).fails(1, "receipt");
    user.run(&["verify", &user.write("nonsense", b"hello")]).fails(1, "no quote, certificate");
    user.run(&["verify", "/nowhere/file"]).fails(1, "can't be read");
    user.run(&["verify", &user.write("huge", &vec![b' '; 2 << 20])]).fails(1, "that are read");
}

#[test]
fn a_receipt_is_compared_with_parameters_and_result() {
    let (user, enclave) = (User::new(), Enclave::new());
    let mut bundle = enclave.bundle();
    let mut receipt = teemate_evidence::Receipt::check(&bundle.receipt, &enclave.receipts.public()).unwrap();
    receipt.input_sha256 = Some(sha256(b"{\"n\":1}"));
    receipt.output_sha256 = Some(sha256(b"{\"m\":2}"));
    bundle.receipt = receipt.sign(&enclave.receipts).unwrap();
    let file = user.write("receipt.json", &serde_json::to_vec(&bundle).unwrap());
    let (input, result) = (user.write("input", b"{\"n\":1}"), user.write("output", b"{\"m\":2}"));
    let document = user.run(&["--json", "verify", &file, "--input", &input, "--output", &result]).json();
    assert_eq!((&document["input_matches"], &document["output_matches"]), (&true.into(), &true.into()));
    user.run(&["verify", &file, "--input", &result]).fails(1, "not the parameters");
    user.run(&["verify", &file, "--output", &input]).fails(1, "not the result");
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

#[test]
fn policies_are_made_checked_and_shown() {
    let user = User::new();
    let policy = user.0.path().join(".config/teemate/policy.toml");
    assert!(std::fs::read_to_string(&policy).unwrap().contains("insecure_simulation = true"));
    assert!(user.run(&["policy", "check"]).out.contains("SIMULATED"));
    assert_eq!(user.run(&["--json", "policy", "show"]).json()["enclaves"][0]["mrenclave"], hex(&MRENCLAVE));
    user.run(&["policy", "init", "--mrenclave", &hex(&MRENCLAVE)]).fails(1, "--replace");
    user.run(&["policy", "init"]).fails(2, "--mrenclave");
    user.run(&["policy", "init", "--mrsigner", &hex(&MRENCLAVE)]).fails(2, "--min-svn");
    user.run(&["policy", "init", "--policy", "-", "--mrenclave", "12"]).fails(2, "64 hexadecimal digits");
    let signer = ["policy", "init", "--policy", "-", "--mrsigner", &hex(&MRENCLAVE), "--product", "1", "--min-svn", "2"];
    assert!(user.run(&signer).out.contains("min_svn = 2"));
    let wrong = user.write("wrong.toml", b"insecure_simulatoin = true\n");
    user.run(&["policy", "check", "--policy", &wrong]).fails(1, "insecure_simulatoin");
    let run = user.run(&["--json", "policy", "check", "--policy", &wrong]);
    assert!(run.err.contains("line 1"), "{}", run.err);
    assert_eq!(run.json()["error"]["kind"], "policy");
}

#[test]
fn proxy_gives_plain_http() {
    let (user, server) = (User::new(), Server::honest());
    let endpoint = server.endpoint().to_string();
    let arguments = ["--json", "proxy", "--listen", "127.0.0.1:0", "--endpoint", &endpoint];
    let mut child = user.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    while serde_json::from_str::<Value>(&told).is_err() {
        assert_ne!(lines.read_line(&mut told).unwrap(), 0, "{told}");
    }
    let document: Value = serde_json::from_str(&told).unwrap();
    let mut stream = TcpStream::connect(document["listen"].as_str().unwrap()).unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\n\r\n").unwrap();
    let expected = b"HTTP/1.1 200 X\r\nContent-Length: 17\r\n\r\nhello from inside";
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, expected, "{}", String::from_utf8_lossy(&answer));
    child.kill().unwrap();
    child.wait().unwrap();
    user.run(&["proxy", "--listen", "0.0.0.0:0", "--endpoint", &endpoint]).fails(2, "--insecure-remote");
    user.run(&["proxy", "--protocol", "smtp", "--endpoint", &endpoint]).fails(2, "[possible values: http, redis, tcp]");
    user.run(&["proxy", "--listen", "127.0.0.1:0", "--endpoint", "https://127.0.0.1:1"]).fails(3, "can't be reached");
}
