//! The user trusts a quote and nothing else: owners, attested TLS, sealed storage, receipts; and a host that looks, lies and goes back.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use teemate_control::function::Limits;
use teemate_control::node::{Request, Response, Sharing};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::witness::{Canaries, Tap};
use teemate_tests::{memory, skip};

fn start() -> Option<(Artifacts, Node)> {
    match Artifacts::find() {
        Ok(artifacts) => {
            let node = Node::start_listening(&artifacts).unwrap();
            Some((artifacts, node))
        }
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

/// What a policy says of this node's enclave.
fn this_enclave(node: &Node) -> String {
    format!("mrenclave = \"{}\"", node.status().unwrap().mrenclave)
}

/// An owner of the namespace `ada`, at `address`.
fn ada(artifacts: &Artifacts, node: &Node, address: SocketAddr) -> Owner {
    let owner = Owner::new(artifacts).unwrap();
    let policy = owner.policy("policy.toml", &this_enclave(node)).unwrap();
    owner.claim(node.socket(), "ada", address, &policy).unwrap();
    owner
}

const GREET: &str = "function main({ name }) { console.log('greeting ' + name); return { hello: name }; }";

#[test]
fn a_new_user_verifies_deploys_calls_and_has_a_receipt() {
    let Some((artifacts, mut node)) = start() else { return };
    let ada = ada(&artifacts, &node, node.endpoint());
    ada.deploy("greet", GREET).unwrap();
    let record = ada.call("greet", &json!({ "name": "Ada" })).unwrap();
    assert_eq!(record["response"]["result"], json!({ "hello": "Ada" }), "{record}");
    assert!(record["logs"][0].as_str().unwrap().ends_with("greeting Ada"), "{record}");
    let id = record["activationId"].as_str().unwrap();
    let mine = |arguments: &[&str]| ada.json(&[&["--profile", "default"], arguments].concat());
    assert_eq!(mine(&["activation", "result", id]).unwrap()["result"], json!({ "hello": "Ada" }));
    assert_eq!(mine(&["activation", "list"]).unwrap()[0]["activationId"], id);
    assert_eq!(mine(&["function", "list"]).unwrap()[0]["name"], "greet");

    // The receipt says what ran, and can be checked without the node.
    let receipt = ada.home().join("receipt.json").display().to_string();
    mine(&["activation", "receipt", id, "--output", &receipt]).unwrap();
    let endpoint = format!("https://{}", node.endpoint());
    let policy = ada.home().join("policy.toml").display().to_string();
    let attested = ada.json(&["attest", &endpoint, "--policy", &policy]).unwrap();
    assert!(attested.to_string().contains(&node.status().unwrap().mrenclave), "{attested}");
    assert!(node.stop().is_ok());
    let verified = ada.json(&["verify", &receipt, "--policy", &policy]).unwrap();
    assert!(verified.to_string().contains(id), "{verified}");
    // One changed byte, and it is none.
    let text = std::fs::read_to_string(&receipt).unwrap();
    let at = text.find("\"receipt\":\"").unwrap() + 200;
    let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
    std::fs::write(&receipt, format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
    assert_ne!(ada.run(&["verify", &receipt, "--policy", &policy]).unwrap().code, 0);
}

#[test]
fn who_is_not_accepted_hears_nothing() {
    let Some((artifacts, mut node)) = start() else { return };
    let tap = Tap::before(node.endpoint()).unwrap();
    let ada = ada(&artifacts, &node, tap.address());
    ada.deploy("greet", GREET).unwrap();
    let calls = || ada.json(&["--profile", "default", "activation", "list"]).unwrap().as_array().unwrap().len();
    let before = calls();
    // The same profile under other policies.
    let profile = ada.home().join(".config/teemate/profiles/default.toml");
    let policy = ada.home().join("policy.toml");
    let right = std::fs::read_to_string(&policy).unwrap();
    let wrong = [
        (right.replace("insecure_simulation = true", ""), "simulat"),
        (format!("insecure_simulation = true\n[[enclave]]\nmrenclave = \"{}\"\n", "00".repeat(32)), "mrenclave"),
        (format!("insecure_simulation = true\n[[enclave]]\nmrsigner = \"{}\"\nproduct = 0\nmin_svn = 0\n", "00".repeat(32)), "signer"),
    ];
    assert!(profile.is_file());
    for (text, words) in wrong {
        std::fs::write(&policy, text).unwrap();
        let run = ada.run(&["--profile", "default", "function", "invoke", "greet", "-p", "name=Ada"]).unwrap();
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.err.to_lowercase().contains(words), "{words}: {}", run.err);
    }
    std::fs::write(&policy, right).unwrap();
    assert_eq!(calls(), before, "a call was made all the same");
    // A second claim of the same token is refused, in words that make its owner look.
    let eve = Owner::new(&artifacts).unwrap();
    let policy = eve.policy("policy.toml", &this_enclave(&node)).unwrap().display().to_string();
    let socket = node.socket().display().to_string();
    let token = eve.json(&["--socket", &socket, "owner", "invite", "eve"]).unwrap()["token"].as_str().unwrap().to_owned();
    let endpoint = format!("https://{}", node.endpoint());
    eve.json(&["login", &endpoint, "--claim", &token, "--policy", &policy]).unwrap();
    let again = eve.run(&["login", &endpoint, "--claim", &token, "--policy", &policy, "--name", "again"]).unwrap();
    assert!(again.code == 1 && again.err.contains("used already"), "{again:?}");
    // Owners do not see each other's.
    assert_eq!(eve.json(&["--profile", "default", "function", "list"]).unwrap(), json!([]));
    let run = eve.run(&["--profile", "default", "function", "invoke", "greet"]).unwrap();
    assert_eq!(run.code, 1, "{run:?}");
    eve.json(&["--socket", &socket, "owner", "remove", "eve"]).unwrap();
    assert_eq!(eve.run(&["--profile", "default", "function", "list"]).unwrap().code, 1);
    node.stop().unwrap();
}

/// Reads a canary that the code holds, takes one by parameter, returns one, logs one; sleeps, so that the host has time to look.
fn secretive(canaries: &Canaries) -> String {
    format!(
        "const hidden = '{}';\nfunction main(p) {{ console.log('{}' + p.note.length); \
         return new Promise((done) => setTimeout(() => done({{ made: hidden.length, echo: p.note, own: '{}' }}), 400)); }}",
        canaries.text("code"),
        canaries.text("log"),
        canaries.text("result"),
    )
}

#[test]
fn the_host_finds_nothing_and_in_the_control_run_everything() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can read the memory of all processes of a node");
    }
    let Some((artifacts, mut node)) = start() else { return };
    let canaries = Canaries::new(&["code", "parameter", "result", "log"]).unwrap();
    let tap = Tap::before(node.endpoint()).unwrap();
    let ada = ada(&artifacts, &node, tap.address());
    let look = |node: &Node| {
        let (mut found, looked) = canaries.in_processes(&memory::family(node.pid().unwrap()));
        found.extend(canaries.in_files(&node.state()));
        found.extend(canaries.in_files(node.socket().parent().unwrap()));
        assert!(looked > 10 << 20, "only {looked} bytes of memory could be looked at");
        found
    };
    ada.deploy("secretive", &secretive(&canaries)).unwrap();
    let params = json!({ "note": canaries.text("parameter") });
    let over = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let records: Vec<_> = (0..3).map(|_| ada.call("secretive", &params)).collect();
            over.store(true, Ordering::Release);
            records
        });
        let mut found = look(&node);
        while !over.load(Ordering::Acquire) {
            found.extend(look(&node));
        }
        for record in call.join().unwrap() {
            let record = record.unwrap();
            assert_eq!(record["response"]["result"]["echo"].as_str(), Some(canaries.text("parameter")), "{record}");
        }
        found
    });
    let mut found = found;
    found.extend(look(&node));
    found.extend(canaries.seen(&tap.seen()).into_iter().map(|name| format!("{name} on the connection")));
    assert!(!tap.seen().is_empty(), "nothing went through the tap");
    assert!(found.is_empty(), "the host found {found:#?}");

    // The control: the operator's own path has neither TLS nor sealing, and the same looking finds all four.
    node.deploy_script("open", &secretive(&canaries), Limits::default()).unwrap();
    let seen = std::thread::scope(|scope| {
        let call = scope.spawn(|| node.call("open", params.clone()));
        let mut seen = look(&node);
        while !call.is_finished() {
            seen.extend(look(&node));
        }
        call.join().unwrap().unwrap();
        seen.extend(look(&node));
        seen
    });
    for name in ["code", "parameter", "result", "log"] {
        assert!(seen.iter().any(|place| place.starts_with(name)), "the control run does not show the {name}: {seen:#?}");
    }
    node.stop().unwrap();
}

#[test]
fn what_is_sealed_survives_a_restart_and_damage_is_named() {
    let Some((artifacts, mut node)) = start() else { return };
    // The port changes with each start; the owner's endpoint must not.
    let ada = ada(&artifacts, &node, node.endpoint());
    ada.deploy("greet", GREET).unwrap();
    let record = ada.call("greet", &json!({ "name": "Ada" })).unwrap();
    let id = record["activationId"].as_str().unwrap().to_owned();
    let old = copy_of(&node.state().join("sealed"));
    ada.deploy("greet", &GREET.replace("hello", "again")).unwrap();
    node.stop().unwrap();
    node.restart_here().unwrap();
    let record = ada.call("greet", &json!({ "name": "Ada" })).unwrap();
    assert_eq!(record["response"]["result"], json!({ "again": "Ada" }));
    assert_eq!(ada.json(&["--profile", "default", "activation", "get", &id]).unwrap()["activationId"], id.as_str());

    // A crash of the node loses nothing that was acknowledged.
    node.crash().unwrap();
    node.restart_here().unwrap();
    assert_eq!(ada.call("greet", &json!({ "name": "Ada" })).unwrap()["response"]["result"], json!({ "again": "Ada" }));

    // An old copy of the whole store is genuine; only who has seen a newer one can tell, and the client has.
    node.stop().unwrap();
    let sealed = node.state().join("sealed");
    let newer = copy_of(&sealed);
    replace(&sealed, old.path());
    node.restart_here().unwrap();
    let run = ada.run(&["--profile", "default", "function", "invoke", "greet", "-p", "name=Ada"]).unwrap();
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err.to_lowercase().contains("old"), "{}", run.err);
    node.stop().unwrap();

    // A changed byte in the middle is noticed by the enclave itself, which then does not serve.
    replace(&sealed, newer.path());
    let journal = journal_of(&sealed);
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let error = node.restart_here().unwrap_err();
    assert!(error.contains("sealed store"), "{error}");
    replace(&sealed, newer.path());
    node.restart_here().unwrap();
    assert!(ada.call("greet", &json!({ "name": "Ada" })).is_ok());
    node.stop().unwrap();
}

fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    replace(copy.path(), directory);
    copy
}

/// Makes `target` hold what `source` holds, and nothing else.
fn replace(target: &Path, source: &Path) {
    let _ = std::fs::remove_dir_all(target);
    std::fs::create_dir_all(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let place = target.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            replace(&place, &entry.path());
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

fn journal_of(sealed: &Path) -> PathBuf {
    let journal = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"));
    std::fs::read_dir(sealed).unwrap().map(|entry| entry.unwrap().path()).find(journal).unwrap()
}

#[test]
fn an_upgrade_to_another_measurement_loses_no_call_and_no_data() {
    let Some((artifacts, mut node)) = start() else { return };
    if std::fs::read(artifacts.directory().join("signing-key.pem")).is_err() {
        return skip("the signing key of the artifacts can't be read, so no second image of the same signer can be made");
    }
    let ada = Owner::new(&artifacts).unwrap();
    let image = ada.next_release(&artifacts).unwrap();
    let policy = ada.policy_of_the_signer(&image).unwrap();
    ada.claim(node.socket(), "ada", node.endpoint(), &policy).unwrap();
    ada.deploy("greet", GREET).unwrap();
    node.deploy_script("operators", GREET, Limits::default()).unwrap();
    let before = node.status().unwrap().mrenclave;
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    let record = ada.call("greet", &json!({ "name": "Ada" })).unwrap();
                    assert_eq!(record["response"]["result"], json!({ "hello": "Ada" }));
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        let upgraded = ada.json(&["--socket", &node.socket().display().to_string(), "node", "upgrade", &image.display().to_string()]);
        std::thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::Release);
        assert_ne!(upgraded.unwrap()["mrenclave"], json!(before));
    });
    assert!(calls.load(Ordering::Relaxed) > 4, "only {calls:?} calls went on beside the upgrade");
    assert_eq!(node.call("operators", json!({ "name": "x" })).unwrap(), json!({ "hello": "x" }));
    assert_eq!(ada.json(&["--profile", "default", "function", "list"]).unwrap()[0]["name"], "greet");

    // An image that can't be used leaves what runs as it was.
    let mut connection = node.connect().unwrap();
    let request = Request::Upgrade { image: ada.home().join("policy.toml") };
    assert!(!matches!(connection.ask(&request), Ok(Response::Upgraded { .. })));
    assert!(ada.call("greet", &json!({ "name": "Ada" })).is_ok());
    node.stop().unwrap();
}

#[test]
fn an_administrator_learns_what_is_wrong() {
    let Some((_, mut node)) = start() else { return };
    let ask = |request: &Request| node.connect().unwrap().ask(request);
    for bad in ["", "../x", ".hidden", &"x".repeat(300)] {
        assert!(ask(&Request::Invite { namespace: bad.to_owned(), allowance: Default::default() }).is_err(), "{bad:?}");
    }
    assert!(matches!(ask(&Request::Invite { namespace: "bob".into(), allowance: Default::default() }), Ok(Response::Invitation { .. })));
    assert!(matches!(ask(&Request::RemoveOwner { namespace: "nobody".into() }), Err(error) if error.to_string().contains("nobody")));
    let Ok(Response::Owners { owners }) = ask(&Request::Owners) else { panic!() };
    assert_eq!(owners.iter().map(|owner| (owner.namespace.as_str(), owner.claimed)).collect::<Vec<_>>(), [("bob", false)]);
    node.stop().unwrap();
    let mut native = Node::start(&Artifacts::find().unwrap(), Sharing::Native).unwrap();
    let refused = native.connect().unwrap().ask(&Request::Owners).unwrap_err();
    assert!(refused.to_string().contains("shared mode"), "{refused}");
    native.stop().unwrap();
}
