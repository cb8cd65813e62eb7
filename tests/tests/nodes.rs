//! Three nodes, each on a host of its own, behind one balancer: they serve the same owners, one is killed under load, then the one that the others
//! follow; and the network between them sees nothing.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::network::Network;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::skip;
use teemate_tests::witness::{Canaries, Tap};

const PORT: u16 = 8443;
const CALLERS: usize = 4;

/// A profile of this name for the same owner at one node.
fn profile(ada: &Owner, name: &str, address: SocketAddr) {
    let directory = ada.home().join(".config/teemate/profiles");
    let text = std::fs::read_to_string(directory.join("default.toml")).unwrap();
    let lines =
        text.lines().map(|line| if line.starts_with("endpoint") { format!("endpoint = \"https://{address}\"") } else { line.to_owned() });
    std::fs::write(directory.join(format!("{name}.toml")), lines.map(|line| line + "\n").collect::<String>()).unwrap();
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn three_nodes_serve_the_same_owners() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(reason) => return skip(reason),
    };
    let at = |host: usize| SocketAddr::from((network.address(host), PORT));
    let programs = tempfile::tempdir().unwrap();
    let node = |host: usize, arguments: &[&str]| {
        let program = network.on_host(host, &artifacts.program("teemate-node"), programs.path()).unwrap();
        Node::start_by(&artifacts, &program, &at(host).to_string(), arguments).unwrap()
    };
    let mut source = node(0, &["--accept-nodes"]);
    // What goes between the nodes goes by here.
    let between = Tap::before_each(vec![at(0)], network.outside()).unwrap();
    let join = format!("https://{}", between.address());
    let (mut second, third) = (node(1, &["--join", &join]), node(2, &["--join", &join]));
    let balancer = Tap::before_each((0..3).map(at).collect(), network.outside()).unwrap();

    let ada = Owner::new(&artifacts).unwrap();
    let policy = ada.policy_of_the_signer(&artifacts.image()).unwrap();
    ada.claim(source.socket(), "ada", balancer.address(), &policy).unwrap();
    let names = ["first", "second", "third"];
    names.iter().enumerate().for_each(|(host, name)| profile(&ada, name, at(host)));
    let canaries = Canaries::new(&["code", "param", "log"]).unwrap();
    let code = format!(
        "function main(p) {{ console.log('{}'); return {{ secret: '{}', param: p.param, answer: 6 * p.by }}; }}",
        canaries.text("log"),
        canaries.text("code")
    );
    // Wherever the balancer leads, it is there at once for who deployed it, and everywhere soon.
    ada.deploy("f", &code).unwrap();
    let params = json!({ "param": canaries.text("param"), "by": 7 });
    let call =
        |profile: &str, params: &Value| ada.json(&["--profile", profile, "function", "invoke", "f", "--params", &params.to_string()]);
    for name in names {
        until("the function on each node", || call(name, &params).is_ok());
    }
    let activation = |record: &Value| record["activationId"].as_str().unwrap_or_else(|| panic!("{record}")).to_owned();
    let made: Vec<String> = names.iter().map(|name| activation(&call(name, &params).unwrap())).collect();
    for id in &made {
        for name in names {
            until("the record on each node", || ada.json(&["--profile", name, "activation", "get", id]).is_ok());
            let logs = ada.run(&["--profile", name, "activation", "logs", id]).unwrap();
            assert!(logs.out.contains(canaries.text("log")), "{name}: {logs:?}");
            let receipt = ada.home().join("receipt.json").display().to_string();
            until("the receipt", || ada.run(&["--profile", name, "activation", "receipt", id, "--output", &receipt]).unwrap().code == 0);
            let verified = ada.run(&["verify", &receipt, "--policy", &policy.display().to_string()]).unwrap();
            assert_eq!(verified.code, 0, "{name}: {verified:?}");
        }
    }
    // A change that comes to a follower is made everywhere.
    let file = ada.home().join("g.js").display().to_string();
    std::fs::write(&file, "function main() { return { g: 1 }; }").unwrap();
    ada.json(&["--profile", "third", "function", "deploy", "g", &file]).unwrap();
    for name in names {
        until("what was deployed on a follower", || {
            ada.json(&["--profile", name, "function", "invoke", "g"]).is_ok_and(|record| record["response"]["result"]["g"] == 1)
        });
    }
    ada.json(&["--profile", "second", "function", "delete", "g"]).unwrap();
    assert_ne!(ada.run(&["--profile", "second", "function", "invoke", "g"]).unwrap().code, 0);
    until("the end of it", || ada.run(&["--profile", "third", "function", "invoke", "g"]).unwrap().code != 0);
    // Owners are made where the others follow.
    let refused = ada.run(&["--socket", &second.socket().display().to_string(), "owner", "invite", "bob"]).unwrap();
    assert!(refused.code == 1 && refused.err.contains("follows"), "{refused:?}");

    // Load, and one of them is killed; then the one that the others follow.
    let (over, right, phase) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut wrong = Vec::new();
                    while !over.load(SeqCst) {
                        let began = phase.load(SeqCst);
                        match ada.call("f", &params) {
                            Ok(record) if record["response"]["result"]["answer"] == 42 => _ = right.fetch_add(1, SeqCst),
                            Ok(record) => wrong.push((usize::MAX, format!("{record}"))),
                            Err(error) => wrong.push((began, error)),
                        }
                    }
                    wrong
                })
            })
            .collect();
        let some = |most: u64| {
            let (before, begin) = (right.load(SeqCst), Instant::now());
            while right.load(SeqCst) < before + 40 && begin.elapsed() < Duration::from_secs(most) {
                std::thread::sleep(Duration::from_millis(20));
            }
            right.load(SeqCst) - before
        };
        let mut answered = vec![some(60)];
        second.crash().unwrap();
        phase.store(1, SeqCst);
        answered.push(some(60));
        source.crash().unwrap();
        phase.store(2, SeqCst);
        answered.push(some(60));
        over.store(true, SeqCst);
        let wrong: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        assert!(answered.iter().all(|answered| *answered >= 40), "{answered:?} calls were right: {wrong:?}\n{}", third.last_words());
        wrong
    });
    println!("{} calls were right; {} were under way on a node that was killed", right.into_inner(), wrong.len());
    // At each kill each caller may have had one call there, and none fails that began when the dead were known.
    assert!(wrong.len() <= 2 * CALLERS && wrong.iter().all(|(began, _)| *began < 2), "{wrong:?}");
    // Without the source nothing changes, and says so.
    let refused = ada.run(&["--profile", "third", "function", "deploy", "g", &file]).unwrap();
    assert!(refused.code == 1 && refused.err.contains("does not answer"), "{refused:?}");

    for (network, bytes) in [("the balancer's", balancer.seen()), ("the nodes'", between.seen())] {
        assert!(bytes.len() > 10_000, "{network}: {} bytes", bytes.len());
        assert!(canaries.seen(&bytes).is_empty(), "{network} network sees {:?}", canaries.seen(&bytes));
    }
    drop(third);
}
