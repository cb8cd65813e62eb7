//! Nodes that follow another one, with a host between the two that leads elsewhere, repeats, changes and cuts.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use teemate_attestation::http::{Client, Request};
use teemate_attestation::policy::Identity;
use teemate_attestation::{Connector, Endpoint, Policy};
use teemate_gateway::nodes::follower::{Dial, Follower};
use teemate_gateway::nodes::following::{FollowingAccounts, FollowingRoutes, FollowingStore};
use teemate_gateway::nodes::source::Source;
use teemate_gateway::nodes::wire::{EXPORTER, Join, Joined, Manifest, TOKEN, report_data};
use teemate_gateway::nodes::{Acceptance, Role};
use teemate_gateway::testing::{EchoFunctions, MRSIGNER, SimulatedAttester, parts};
use teemate_gateway::whisk::vault::VaultStore;
use teemate_gateway::whisk::{Config, Whisk};
use teemate_gateway::{Accounts, Attester, Gateway, Identity as Keys, Receipts, Settings, State};
use teemate_vault::testing::MemoryDisk;
use teemate_vault::{FixedSealing, Key, OwnerLimits, Owners, Vault};

fn acceptance(mrsigner: [u8; 32]) -> Acceptance {
    let identity = Identity::Signer { mrsigner, product: 1, min_svn: 1 };
    Acceptance { policy: Policy { insecure_simulation: true, ..Policy::strict(vec![identity]) }, collateral: None }
}

/// A node without its enclave.
struct Node {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    vault: Arc<Vault>,
    owners: Arc<Owners>,
    follower: Option<Arc<Follower>>,
}

impl Node {
    fn new(disk: &Arc<MemoryDisk>, join: Option<(SocketAddr, [u8; 32])>) -> Node {
        let vault = Vault::open(disk.clone(), Arc::new(FixedSealing::new([3; 16]))).unwrap();
        let owners = Arc::new(Owners::open(vault.clone()).unwrap());
        let (keys, attester) = (Arc::new(Keys::generate().unwrap()), SimulatedAttester::failing(0));
        let store = VaultStore::new(vault.clone(), owners.clone());
        let functions = Arc::new(EchoFunctions::default());
        let follower = join.map(|(source, signer)| {
            let dial: Dial = Box::new(|address| {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                Ok(Box::new(stream))
            });
            let endpoint: Endpoint = source.to_string().parse().unwrap();
            Follower::new(endpoint, acceptance(signer), attester.clone(), dial, vault.clone(), owners.clone()).unwrap()
        });
        let mut made;
        let whisk = match &follower {
            Some(follower) => {
                let store = Arc::new(FollowingStore::new(store, follower.clone()));
                let receipts = Receipts::new(keys.clone(), store.clone());
                let whisk = Whisk::new(Config::default(), functions, store, receipts.clone(), Arc::new(()));
                made = parts(attester, FollowingRoutes::new(whisk.clone(), follower.clone()), Settings::default()).unwrap();
                (made.receipts, made.nodes) = (receipts, Role::Follower(follower.clone()));
                made.accounts = FollowingAccounts::new(owners.clone(), follower.clone());
                whisk
            }
            None => {
                let store = Arc::new(store);
                let receipts = Receipts::new(keys.clone(), store.clone());
                let whisk = Whisk::new(Config::default(), functions, store, receipts.clone(), Arc::new(()));
                made = parts(attester, whisk.clone(), Settings::default()).unwrap();
                let (accepts, name) = (acceptance(MRSIGNER), "the source's".to_owned());
                made.nodes = Role::Source(Source::new(vault.clone(), owners.clone(), whisk.clone(), receipts.clone(), accepts, name));
                (made.receipts, made.accounts) = (receipts, owners.clone());
                whisk
            }
        };
        made.identity = keys;
        let address = made.listener.local_addr().unwrap();
        let gateway = Arc::new(Gateway::start(made).unwrap());
        until("a quote", || gateway.state() == State::Serving);
        if let Some(follower) = &follower {
            let known = Arc::downgrade(&gateway);
            let forget = Box::new(move || {
                known.upgrade().inspect(|gateway| gateway.forget_credentials());
            });
            follower.follow(&whisk, forget).unwrap();
        }
        Node { gateway, address, vault, owners, follower }
    }

    fn source() -> Node {
        Node::new(&Arc::new(MemoryDisk::new()), None)
    }

    fn following(address: SocketAddr) -> Node {
        Node::new(&Arc::new(MemoryDisk::new()), Some((address, MRSIGNER)))
    }

    /// An answer to an owner.
    fn ask(&self, auth: &str, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let (mut client, _) = connect(self.address);
        let credentials = format!("Basic {}", base64(auth));
        let body = body.map(|body| ("application/json", body.as_bytes()));
        let request = Request { method, path, headers: &[("authorization", &credentials)], body };
        let answer = client.send(&request, 1 << 20).unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    fn deploy(&self, auth: &str, name: &str, code: &str) -> u16 {
        let body = json!({ "exec": { "kind": "nodejs:20", "code": code } }).to_string();
        self.ask(auth, "PUT", &format!("/api/v1/namespaces/_/actions/{name}?overwrite=true"), Some(&body)).0
    }

    fn has(&self, auth: &str, name: &str) -> bool {
        self.ask(auth, "GET", &format!("/api/v1/namespaces/_/actions/{name}"), None).0 == 200
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.follower.iter().for_each(|follower| follower.end());
        self.gateway.drain(Duration::ZERO);
    }
}

fn base64(text: &str) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

type Https = Client<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>;

/// A verified connection, and what binds it.
fn connect(address: SocketAddr) -> (Https, [u8; 32]) {
    let endpoint: Endpoint = address.to_string().parse().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let tls = Connector::new(acceptance(MRSIGNER).policy).unwrap().over(&endpoint, stream).unwrap();
    let channel = tls.conn.export_keying_material([0; 32], EXPORTER, None).unwrap();
    (Client::new(tls, endpoint.authority()), channel)
}

fn join(client: &mut Https, quote: Vec<u8>) -> (u16, Vec<u8>) {
    let body = serde_json::to_vec(&Join { quote }).unwrap();
    let request = Request { method: "POST", path: "/teemate/v1/nodes/join", headers: &[], body: Some(("application/json", &body)) };
    let answer = client.send(&request, 1 << 20).unwrap();
    (answer.status, answer.body)
}

fn owner(source: &Node, name: &str) -> String {
    let limits = OwnerLimits { calls_per_minute: 10_000, ..OwnerLimits::default() };
    let claimed = source.owners.claim(&source.owners.invite(name, limits, Duration::from_secs(60)).unwrap()).unwrap();
    format!("{}:{}", claimed.uuid, claimed.key)
}

#[test]
fn a_follower_has_what_the_source_has() {
    let source = Node::source();
    let ada = owner(&source, "ada");
    assert_eq!(source.deploy(&ada, "a", "function main() { return 1 }"), 200);
    let disk = Arc::new(MemoryDisk::new());
    let follower = Node::new(&disk, Some((source.address, MRSIGNER)));
    until("ada", || follower.has(&ada, "a"));
    assert_eq!(follower.follower.as_ref().unwrap().source().as_deref(), Some("the source's"));
    // What is changed there is made there, and is here at once.
    assert_eq!(follower.deploy(&ada, "b", "function main() { return 2 }"), 200);
    assert!(source.has(&ada, "b") && follower.has(&ada, "b"));
    assert_eq!(follower.ask(&ada, "DELETE", "/api/v1/namespaces/_/actions/a", None).0, 200);
    assert!(!source.has(&ada, "a") && !follower.has(&ada, "a"));
    // A call, its record, and the source's list.
    let (status, record) = follower.ask(&ada, "POST", "/api/v1/namespaces/_/actions/b?blocking=true", Some("{\"x\":1}"));
    assert_eq!(status, 200, "{record}");
    let id = serde_json::from_str::<serde_json::Value>(&record).unwrap()["activationId"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/namespaces/_/activations/{id}");
    until("the record at the source", || source.ask(&ada, "GET", &path, None).0 == 200);
    assert!(follower.ask(&ada, "GET", "/api/v1/namespaces/_/activations", None).1.contains(&id));
    assert!(source.ask(&ada, "GET", "/api/v1/namespaces/_/activations", None).1.contains(&id));
    // An invitation is claimed where the owners are, by way of a follower.
    let token = source.owners.invite("bob", OwnerLimits::default(), Duration::from_secs(60)).unwrap();
    let accounts = FollowingAccounts::new(follower.owners.clone(), follower.follower.clone().unwrap());
    let bob = accounts.claim(&token).unwrap();
    assert!(accounts.claim(&token).is_err(), "an invitation works once");
    assert!(Accounts::authenticate(&*source.owners, &bob.uuid, &bob.key).is_some());
    assert!(Accounts::authenticate(&*follower.owners, &bob.uuid, &bob.key).is_some());
    // Who is removed while a follower is away is gone when it comes back, with all that was his.
    let address = source.address;
    drop(follower);
    source.owners.remove("ada").unwrap();
    let follower = Node::new(&disk, Some((address, MRSIGNER)));
    assert!(follower.owners.get("ada").is_some(), "it begins with what it had");
    until("the end of ada", || follower.owners.get("ada").is_none());
    assert!(follower.vault.owners().iter().all(|(owner, _)| !ada.starts_with(owner)), "{:?}", follower.vault.owners());
    assert!(follower.owners.get("bob").is_some());
}

#[test]
fn who_is_not_of_the_same_kind_learns_nothing() {
    let source = Node::source();
    let ada = owner(&source, "ada");
    assert_eq!(source.deploy(&ada, "a", "function main() {}"), 200);
    let attester = SimulatedAttester::failing(0);
    // A genuine quote that was made for another connection, whoever brings it.
    let ((mut one, own), (mut two, other)) = (connect(source.address), connect(source.address));
    assert_ne!(own, other);
    let quote = attester.quote(report_data(&own)).unwrap();
    let (status, why) = join(&mut two, quote.clone());
    assert!(status == 403 && String::from_utf8_lossy(&why).contains("another connection"), "{status}");
    let mut changed = quote.clone();
    changed[48 + 128] ^= 1;
    assert_eq!(join(&mut one, changed).0, 403, "another signer's, or nobody's");
    assert_eq!(join(&mut one, vec![7; 100]).0, 403);
    // Without a token, or with a wrong one.
    let get = |client: &mut Https, path: &str, token: &str| {
        let path = format!("/teemate/v1/nodes/{path}");
        client.send(&Request { method: "GET", path: &path, headers: &[(TOKEN, token)], body: None }, 1 << 20).unwrap()
    };
    let credentials = format!("Basic {}", base64(&ada));
    for headers in [&[][..], &[(TOKEN, "AAAA")], &[("authorization", &credentials)]] {
        let request = Request { method: "GET", path: "/teemate/v1/nodes/manifest", headers, body: None };
        assert_eq!(one.send(&request, 1 << 20).unwrap().status, 403);
    }
    // Who has joined gets what is copied, and no record of a call.
    let (status, joined) = join(&mut one, quote);
    assert_eq!(status, 200);
    let Joined { token, .. } = serde_json::from_slice(&joined).unwrap();
    let manifest: Manifest = serde_json::from_slice(&get(&mut one, "manifest", &token).body).unwrap();
    let uuid = ada.split(':').next().unwrap();
    assert!(manifest.entries.iter().any(|(place, _)| place.owner == uuid && place.name == "a"));
    source.vault.put(&Key::new(uuid, "activation", "x"), b"a record").unwrap();
    assert_eq!(get(&mut one, &format!("record?owner={uuid}&kind=activation&name=x"), &token).status, 404);
    let keep = |client: &mut Https, kind: &str| {
        let body = json!({ "at": { "owner": uuid, "kind": kind, "name": "planted" }, "value": base64("x") }).to_string();
        let body = Some(("application/json", body.as_bytes()));
        client.send(&Request { method: "POST", path: "/teemate/v1/nodes/keep", headers: &[(TOKEN, &token)], body }, 1 << 20).unwrap().status
    };
    assert_eq!((keep(&mut one, "action"), keep(&mut one, "owner"), keep(&mut one, "activation")), (400, 400, 204));
    // A node that accepts another signer alone follows nobody here, and shows nothing: the source has met no quote of it.
    let strange = Node::new(&Arc::new(MemoryDisk::new()), Some((source.address, [9; 32])));
    std::thread::sleep(Duration::from_millis(300));
    assert!(strange.owners.list().is_empty() && strange.follower.as_ref().unwrap().source().is_none());
    // A node that nobody follows has no such paths.
    let (mut client, _) = connect(strange.address);
    assert_eq!(get(&mut client, "manifest", &token).status, 404);
}

/// What carries connections, and what it does with the bytes that come back: it may change them, or end the connection by an error.
type Carries = Arc<Mutex<Box<dyn FnMut(&mut Vec<u8>) -> io::Result<()> + Send>>>;

fn between(target: SocketAddr, carries: &Carries) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let carries = carries.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(target) else { continue };
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            let (mut from, mut to, carries) = (server, client, carries.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    let mut bytes = buffer[..length].to_vec();
                    if carries.lock().unwrap()(&mut bytes).is_err() || to.write_all(&bytes).is_err() {
                        break;
                    }
                }
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    });
    address
}

#[test]
fn a_host_that_changes_or_cuts_what_it_carries_only_delays() {
    let source = Node::source();
    let ada = owner(&source, "ada");
    for number in 0..30 {
        assert_eq!(source.deploy(&ada, &format!("a{number}"), &format!("function main() {{ return {number} }}")), 200);
    }
    // Each connection breaks after some more bytes than the one before, or has a bit flipped there.
    let (seen, limit) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(500)));
    let carries: Carries = {
        let (seen, limit) = (seen.clone(), limit.clone());
        Arc::new(Mutex::new(Box::new(move |bytes: &mut Vec<u8>| {
            let so_far = seen.fetch_add(bytes.len(), SeqCst) + bytes.len();
            if so_far < limit.load(SeqCst) {
                return Ok(());
            }
            seen.store(0, SeqCst);
            let often = limit.fetch_add(3000, SeqCst) / 3000;
            if often.is_multiple_of(2) {
                bytes[0] ^= 1;
                return Ok(());
            }
            Err(io::ErrorKind::ConnectionReset.into())
        })))
    };
    let follower = Node::following(between(source.address, &carries));
    until("all of it", || follower.owners.get("ada").is_some() && follower.has(&ada, "a29"));
    assert!((0..30).all(|number| follower.has(&ada, &format!("a{number}"))));
    assert!(limit.load(SeqCst) > 3000, "nothing was broken");
    // One that carries nothing any more: calls go on, and changes say why not.
    *carries.lock().unwrap() = Box::new(|_| Err(io::ErrorKind::ConnectionReset.into()));
    let (status, said) = follower.ask(&ada, "DELETE", "/api/v1/namespaces/_/actions/a1", None);
    assert!(status == 503 && said.contains("does not answer"), "{status} {said}");
    assert!(said.contains("not known"), "the source may have done it: {said}");
    assert_eq!(follower.ask(&ada, "POST", "/api/v1/namespaces/_/actions/a2?blocking=true", Some("{}")).0, 200);
}
