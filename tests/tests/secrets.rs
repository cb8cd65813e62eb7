//! Secrets that an owner's key broker releases to the enclave for a function: with a real node, and a small broker of the same protocol.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use teemate_control::function::Limits;
use teemate_kbs::testing::{Authority, Broker};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;
use teemate_tests::witness::{Canaries, Tap};
use teemate_tests::{memory, skip};

/// Names of resources: the first is one that the broker gives.
const TOKEN: &str = "default/token/7d1fb1a6c1a44d0ea2a5";
const DENIED: &str = "default/token/denied";

/// Its file: not a name that `Owner::deploy` gives to its own.
const SOURCE: &str = "proof.source.js";
/// Proves that it has the secret, without returning it; sleeps, so that the host has time to look.
const PROVE: &str = "const crypto = require('crypto');
function main(p) {
    const proof = crypto.createHash('sha256').update(process.env.TOKEN).digest('hex');
    return new Promise((done) => setTimeout(() => done({ proof, length: process.env.TOKEN.length }), p.sleep || 0));
}";

/// A node, a broker that believes its enclave alone, and a tap between the two.
struct World {
    node: Node,
    artifacts: Artifacts,
    authority: Authority,
    broker: Arc<Broker>,
    tap: Tap,
    secret: Canaries,
}

impl World {
    fn new(change: impl FnOnce(&mut Broker)) -> Option<World> {
        let artifacts = match Artifacts::find() {
            Ok(artifacts) => artifacts,
            Err(reason) => {
                skip(reason);
                return None;
            }
        };
        let node = Node::start_listening(&artifacts).unwrap();
        let secret = Canaries::new(&["secret"]).unwrap();
        let authority = Authority::new("Ada's");
        let mut broker = Broker::new(&[(TOKEN, secret.text("secret").as_bytes())], DENIED);
        broker.measurement = Some(measurement(&node));
        change(&mut broker);
        let broker = Arc::new(broker);
        let address: SocketAddr = broker.serve(Some(authority.server("127.0.0.1"))).parse().unwrap();
        let tap = Tap::before(address).unwrap();
        Some(World { node, artifacts, authority, broker, tap, secret })
    }

    fn owner(&self, namespace: &str) -> Owner {
        let owner = Owner::new(&self.artifacts).unwrap();
        let policy = owner.policy("policy.toml", &format!("mrenclave = \"{}\"", self.node.status().unwrap().mrenclave)).unwrap();
        owner.claim(self.node.socket(), namespace, self.node.endpoint(), &policy).unwrap();
        std::fs::write(owner.home().join("ca.pem"), self.authority.pem()).unwrap();
        std::fs::write(owner.home().join(SOURCE), PROVE).unwrap();
        owner
    }

    fn deploy(&self, owner: &Owner, name: &str, resource: &str, more: &[&str]) -> Value {
        let home = |name: &str| owner.home().join(name).display().to_string();
        let (file, roots, broker) = (home(SOURCE), home("ca.pem"), format!("https://{}", self.tap.address()));
        let secret = format!("TOKEN={resource}");
        let secret = ["--secret", &secret, "--broker", &broker, "--broker-ca", &roots];
        owner.json(&[&["--profile", "default", "function", "deploy", name, &file], &secret[..], more].concat()).unwrap()
    }

    fn proof(&self) -> String {
        Sha256::digest(self.secret.text("secret")).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn released(&self) -> usize {
        self.broker.released.load(Ordering::SeqCst)
    }
}

fn measurement(node: &Node) -> [u8; 32] {
    let text = node.status().unwrap().mrenclave;
    let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The error of a call that fails.
fn refusal(owner: &Owner, name: &str) -> String {
    let run = owner.run(&["--json", "--profile", "default", "function", "invoke", name]).unwrap();
    assert_eq!(run.code, 1, "{run:?}");
    let record: Value = serde_json::from_str(&run.out).unwrap();
    record["response"]["result"]["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_function_proves_that_it_has_the_secret_and_nothing_else_shows_it() {
    let Some(mut world) = World::new(|_| {}) else { return };
    let ada = world.owner("ada");
    let deployed = world.deploy(&ada, "prove", TOKEN, &[]);
    let record = ada.call("prove", &json!({})).unwrap();
    let proof = json!({ "proof": world.proof(), "length": world.secret.text("secret").len() });
    assert_eq!(record["response"]["result"], proof, "{record}");
    assert_eq!(ada.call("prove", &json!({})).unwrap()["response"]["result"], proof);
    assert_eq!(world.released(), 1, "the broker is asked for each call");
    // However a container is used.
    for reuse in ["rewind", "keep"] {
        world.deploy(&ada, reuse, TOKEN, &["--reuse", reuse]);
        for _ in 0..3 {
            assert_eq!(ada.call(reuse, &json!({})).unwrap()["response"]["result"], proof, "{reuse}");
        }
    }
    // What else the owner can look at names the secret and does not hold it.
    let mine = |arguments: &[&str]| ada.json(&[&["--profile", "default"], arguments].concat()).unwrap().to_string();
    let id = record["activationId"].as_str().unwrap();
    let shown = mine(&["function", "show", "prove"]);
    assert!(shown.contains(TOKEN) && shown.contains("teemate-broker"), "{shown}");
    let receipt = ada.run(&["--profile", "default", "activation", "receipt", id]).unwrap();
    assert_eq!(receipt.code, 0, "{receipt:?}");
    for text in
        [deployed.to_string(), record.to_string(), shown, receipt.out, mine(&["activation", "get", id]), mine(&["function", "list"])]
    {
        assert!(world.secret.seen(text.as_bytes()).is_empty(), "{text}");
    }
    // Deployed without it, the function has it no more.
    ada.deploy("prove", "function main() { return { token: String(process.env.TOKEN) }; }").unwrap();
    assert_eq!(ada.call("prove", &json!({})).unwrap()["response"]["result"], json!({ "token": "undefined" }));
    // Another enclave, or this one after a restart, has to ask again.
    world.deploy(&ada, "prove", TOKEN, &[]);
    ada.call("prove", &json!({})).unwrap();
    let before = world.released();
    world.node.stop().unwrap();
    world.node.restart_here().unwrap();
    assert_eq!(ada.call("prove", &json!({})).unwrap()["response"]["result"], proof);
    assert_eq!(world.released(), before + 1, "the secret was stored");
    world.node.stop().unwrap();
}

#[test]
fn a_broker_that_refuses_is_named_with_its_reason() {
    let Some(mut world) = World::new(|_| {}) else { return };
    let ada = world.owner("ada");
    let address = format!("https://{}", world.tap.address());
    for (resource, words) in [(DENIED, "the policy does not allow it"), ("default/token/none", "no such resource")] {
        world.deploy(&ada, "prove", resource, &[]);
        let error = refusal(&ada, "prove");
        assert!(error.contains(&address) && error.contains(words) && error.contains(&format!("kbs:///{resource}")), "{error}");
    }
    // Another authority than the one that vouches for this broker: nothing is asked of it.
    std::fs::write(ada.home().join("ca.pem"), Authority::new("somebody's").pem()).unwrap();
    world.deploy(&ada, "prove", TOKEN, &[]);
    let error = refusal(&ada, "prove");
    assert!(error.contains(&address) && error.contains("certificate"), "{error}");
    assert_eq!(world.released(), 0);
    // It is not what the function is that fails, and not for long.
    std::fs::write(ada.home().join("ca.pem"), world.authority.pem()).unwrap();
    world.deploy(&ada, "prove", TOKEN, &[]);
    assert_eq!(ada.call("prove", &json!({})).unwrap()["response"]["result"]["proof"], world.proof());
    // What cannot be is refused when it is deployed.
    let pem = ada.home().join("ca.pem").display().to_string();
    let file = ada.home().join(SOURCE).display().to_string();
    let deploy = |broker: &str, secret: &str, roots: &str| {
        let arguments = ["--profile", "default", "function", "deploy", "bad", &file, "--secret", secret, "--broker", broker];
        ada.run(&[&arguments[..], &["--broker-ca", roots]].concat()).unwrap()
    };
    for (run, words) in [
        (deploy("http://127.0.0.1", "A=a/b/c", &pem), "could play the broker"),
        (deploy("https://127.0.0.1", "A=a/b", &pem), "is not a resource"),
        (deploy("https://127.0.0.1", "A=a/b/c", &file), "no root certificate"),
    ] {
        assert!(run.code == 1 && run.err.contains(words), "{words}: {run:?}");
    }
    world.node.stop().unwrap();
}

#[test]
fn a_broker_believes_one_enclave_and_can_tell_its_owners_apart() {
    let Some(mut world) = World::new(|broker| broker.measurement = Some([7; 32])) else { return };
    let ada = world.owner("ada");
    world.deploy(&ada, "prove", TOKEN, &[]);
    let error = refusal(&ada, "prove");
    assert!(error.contains("accepts another MRENCLAVE") && error.contains("teemate attest"), "{error}");
    assert_eq!(world.released(), 0);
    // One that looks at the owner's header: who is in the same enclave, and knows all names, gets nothing.
    let auth = ada.auth().unwrap();
    let mut broker = Broker::new(&[(TOKEN, world.secret.text("secret").as_bytes())], DENIED);
    (broker.measurement, broker.owner) = (Some(measurement(&world.node)), auth.split(':').next().map(str::to_owned));
    world.broker = Arc::new(broker);
    world.tap = Tap::before(world.broker.serve(Some(world.authority.server("127.0.0.1"))).parse().unwrap()).unwrap();
    world.deploy(&ada, "prove", TOKEN, &[]);
    assert_eq!(ada.call("prove", &json!({})).unwrap()["response"]["result"]["proof"], world.proof());
    let eve = world.owner("eve");
    world.deploy(&eve, "prove", TOKEN, &[]);
    let error = refusal(&eve, "prove");
    assert!(error.contains("another owner's broker"), "{error}");
    assert_eq!(world.released(), 1);
    world.node.stop().unwrap();
}

#[test]
fn the_host_finds_no_secret_and_in_the_control_run_it_does() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can read the memory of all processes of a node");
    }
    let Some(mut world) = World::new(|_| {}) else { return };
    let ada = world.owner("ada");
    world.deploy(&ada, "prove", TOKEN, &[]);
    let look = |world: &World| {
        let (mut found, looked) = world.secret.in_processes(&memory::family(world.node.pid().unwrap()));
        found.extend(world.secret.in_files(&world.node.state()));
        found.extend(world.secret.in_files(world.node.socket().parent().unwrap()));
        assert!(looked > 10 << 20, "only {looked} bytes of memory could be looked at");
        found
    };
    let over = AtomicBool::new(false);
    let mut found = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let records: Vec<_> = (0..3).map(|_| ada.call("prove", &json!({ "sleep": 400 }))).collect();
            over.store(true, Ordering::Release);
            records
        });
        let mut found = look(&world);
        while !over.load(Ordering::Acquire) {
            found.extend(look(&world));
        }
        for record in call.join().unwrap() {
            let record = record.unwrap();
            assert_eq!(record["response"]["result"]["proof"], world.proof(), "{record}");
        }
        found
    });
    found.extend(look(&world));
    let carried = world.tap.seen();
    assert!(carried.len() > 4000, "only {} bytes went between enclave and broker", carried.len());
    found.extend(world.secret.seen(&carried).into_iter().map(|name| format!("{name} on the connection")));
    assert!(!carried.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "the host reads the secret's name");
    assert!(found.is_empty(), "the host found {found:#?}");

    // The control: a variable that the operator gives passes the node in clear, and the same looking finds it.
    let variable = ("TOKEN".to_owned(), world.secret.text("secret").to_owned());
    world.node.deploy_changed("open", PROVE, Limits::default(), |spec| spec.env = vec![variable]).unwrap();
    assert_eq!(world.node.call("open", json!({})).unwrap()["proof"], world.proof());
    assert!(look(&world).iter().any(|place| place.starts_with("secret")), "the control run does not show it");
    world.node.stop().unwrap();
}
