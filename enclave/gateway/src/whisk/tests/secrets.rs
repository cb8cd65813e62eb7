//! Secrets that a key broker releases: what of them is seen where, and how often it is asked.

use std::sync::Condvar;
use std::sync::LazyLock;

use teemate_kbs::testing::Authority;
use teemate_kbs::{Broker, KbsError, ResourceId};

use super::*;
use crate::platform::KeyBrokers;

/// Brokers that give for each resource a text with its name and who asked. `deny/..` they refuse, `slow/..` waits until it is let go.
#[derive(Default)]
pub struct Scripted {
    pub asked: Mutex<Vec<String>>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Scripted {
    fn asked(&self) -> usize {
        lock(&self.asked).len()
    }

    fn let_go(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }

    async fn until_asked(&self, times: usize) {
        for _ in 0..2000 {
            if self.asked() >= times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("asked {} times, not {times}", self.asked());
    }
}

impl KeyBrokers for Scripted {
    fn release(&self, owner: &str, broker: &Broker, resources: &[ResourceId]) -> Result<Vec<Vec<u8>>, KbsError> {
        lock(&self.asked).push(format!("{owner} {broker} {resources:?}"));
        let give = |resource: &ResourceId| {
            let name = resource.to_string();
            if name.starts_with("kbs:///deny/") {
                return Err(KbsError::Denied { resource: name, detail: "not for you".into() });
            }
            if name.starts_with("kbs:///lost/") {
                return Err(KbsError::Connection(std::io::Error::other("nobody answers")));
            }
            if name.starts_with("kbs:///slow/") {
                let opened = self.opened.wait_timeout_while(lock(&self.open), Duration::from_secs(20), |open| !*open).unwrap();
                assert!(*opened.0, "nobody let it go");
            }
            Ok(format!("secret {name} of {owner}").into_bytes())
        };
        resources.iter().map(give).collect()
    }
}

static ROOTS: LazyLock<String> = LazyLock::new(|| Authority::new("a root").pem());

fn annotations(secrets: &[(&str, &str)]) -> Value {
    let secrets: Value = secrets.iter().map(|(name, resource)| ((*name).to_owned(), json!(resource))).collect();
    let broker = json!({ "address": "https://broker.example:8443", "roots": *ROOTS });
    json!([{ "key": "teemate-broker", "value": broker }, { "key": "teemate-secrets", "value": secrets }])
}

fn body(does: &str, secrets: &[(&str, &str)]) -> Value {
    json!({ "exec": { "kind": "nodejs:20", "code": format!("//{does}") }, "annotations": annotations(secrets) })
}

async fn deploy(bench: &Bench, name: &str, does: &str, secrets: &[(&str, &str)]) -> Value {
    bench.put(&format!("actions/{name}?overwrite=true"), body(does, secrets)).await.ok()
}

async fn call_as(bench: &Bench, owner: &str, target: &str) -> Answered {
    bench.send(owner, Method::POST, &format!("/namespaces/{target}?blocking=true&result=true"), &[], "{}").await
}

#[tokio::test]
async fn a_call_finds_them_in_its_environment_and_nobody_elsewhere() {
    let bench = Bench::new();
    let mut made = body("env", &[("TOKEN", "kbs:///default/token/1"), ("KEY", "default/key/2")]);
    made["parameters"] = json!([{ "key": "TOKEN", "value": "not this one", "init": true }]);
    bench.put("actions/f", made).await.ok();
    let env = bench.call("f", json!({})).await.ok();
    assert_eq!(env["TOKEN"], "secret kbs:///default/token/1 of uuid-ada");
    assert_eq!(env["KEY"], "secret kbs:///default/key/2 of uuid-ada");
    assert_eq!(env["__OW_NAMESPACE"], "ada");
    deploy(&bench, "quiet", "echo", &[("TOKEN", "default/token/1")]).await;
    bench.post("actions/quiet?blocking=true", json!({ "a": 1 })).await.ok();
    let record = bench.get("activations?docs=true&name=quiet").await;
    let seen = [bench.get("actions/f").await, bench.get("actions").await, record, bench.get("actions/f?code=false").await];
    for answered in seen {
        assert_eq!(answered.status, 200);
        assert!(!String::from_utf8_lossy(&answered.bytes).contains("secret kbs"), "{:?}", answered.bytes);
    }
    assert_eq!(annotation(&bench.get("actions/f").await.ok(), "teemate-secrets").unwrap()["KEY"], "default/key/2");
    let kept = lock(&bench.store.kept);
    let leaked = kept.iter().filter(|(_, value)| String::from_utf8_lossy(value).contains("secret kbs"));
    // What the function returned is its own matter.
    assert!(
        leaked
            .map(|(key, value)| (key.kind, String::from_utf8_lossy(value)))
            .all(|(kind, text)| kind == "activation" && text.contains("__OW_"))
    );
}

#[tokio::test]
async fn a_broker_is_asked_once_for_a_while() {
    let bench = Bench::new();
    deploy(&bench, "f", "env", &[("A", "default/token/1")]).await;
    for _ in 0..3 {
        bench.call("f", json!({})).await.ok();
    }
    assert_eq!(bench.brokers.asked(), 1);
    // Deployed again it is asked again, and for another owner anyway.
    deploy(&bench, "f", "env", &[("A", "default/token/1")]).await;
    bench.call("f", json!({})).await.ok();
    assert_eq!(bench.brokers.asked(), 2);
    let made = body("env", &[("A", "default/token/1")]).to_string();
    bench.send("bob", Method::PUT, "/namespaces/_/actions/f", &[], made).await.ok();
    assert_eq!(call_as(&bench, "bob", "_/actions/f").await.ok()["A"], "secret kbs:///default/token/1 of uuid-bob");
    assert_eq!(bench.brokers.asked(), 3);
    bench.whisk.forget("ada");
    bench.call("f", json!({})).await.ok();
    assert_eq!(bench.brokers.asked(), 4, "a later owner of the namespace finds what an earlier one had");
}

#[tokio::test]
async fn what_was_released_is_forgotten_in_time() {
    let bench = Bench::with(|config| config.secrets_for = Duration::from_millis(50));
    deploy(&bench, "f", "env", &[("A", "default/token/1")]).await;
    for _ in 0..2000 {
        bench.call("f", json!({})).await.ok();
        if bench.brokers.asked() > 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("they are kept for ever");
}

#[tokio::test]
async fn who_waits_for_the_same_asks_once_and_who_does_not_need_it_does_not_wait() {
    let bench = Arc::new(Bench::new());
    deploy(&bench, "f", "env", &[("A", "slow/token/1")]).await;
    bench.action("plain", "echo").await;
    let made = body("env", &[("A", "default/token/1")]).to_string();
    bench.send("bob", Method::PUT, "/namespaces/_/actions/f", &[], made).await.ok();
    // More brokers than one owner may have asked at one time.
    for n in 0..4 {
        deploy(&bench, &format!("g{n}"), "env", &[("A", &format!("slow/token/g{n}"))]).await;
    }
    let spawn = |name: String| {
        let bench = bench.clone();
        tokio::spawn(async move { bench.call(&name, json!({})).await })
    };
    let mut waiting: Vec<_> = (0..5).map(|_| spawn("f".into())).collect();
    bench.brokers.until_asked(1).await;
    waiting.extend((0..4).map(|n| spawn(format!("g{n}"))));
    bench.brokers.until_asked(2).await;
    bench.call("plain", json!({})).await.ok();
    call_as(&bench, "bob", "_/actions/f").await.ok();
    assert_eq!(bench.brokers.asked(), 3, "an owner has more than two brokers asked at one time");
    assert!(waiting.iter().all(|call| !call.is_finished()));
    bench.brokers.let_go();
    for call in waiting {
        call.await.unwrap().ok();
    }
    assert_eq!(bench.brokers.asked(), 6);
}

#[tokio::test]
async fn a_broker_that_gives_nothing_is_named_with_its_reason() {
    let bench = Bench::new();
    deploy(&bench, "denied", "echo", &[("A", "default/token/1"), ("B", "deny/token/1")]).await;
    for asked in 1..3 {
        let answered = bench.call("denied", json!({})).await;
        let error = answered.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(answered.status, 502);
        for words in ["https://broker.example:8443", "kbs:///deny/token/1", "not for you"] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains("secret kbs"), "{error}");
        assert_eq!(bench.brokers.asked(), asked, "a failure is not kept");
    }
    deploy(&bench, "lost", "echo", &[("A", "lost/token/1")]).await;
    let answered = bench.post("actions/lost?blocking=true", json!({})).await;
    assert_eq!((answered.status, &answered.json()["response"]["status"]), (500, &json!("whisk internal error")));
    assert!(answered.json().to_string().contains("nobody answers"), "{:?}", answered.bytes);
    assert_eq!(bench.functions.calls.load(Ordering::Relaxed), 0, "it ran without its secret");
    assert!(bench.put("actions/bad", body("echo", &[("A", "nonsense")])).await.error(400).contains("teemate-secrets"));
}

#[tokio::test]
async fn others_may_call_and_learn_neither_secrets_nor_names() {
    let bench = Bench::new();
    bench.put("packages/p", json!({ "publish": true })).await.ok();
    deploy(&bench, "p/f", "env", &[("A", "default/token/1")]).await;
    deploy(&bench, "p/g", "echo", &[("A", "deny/token/1")]).await;
    let as_bob = |target: &'static str| bench.send("bob", Method::GET, target, &[], "");
    for target in ["/namespaces/ada/actions/p/f", "/namespaces/ada/actions/p/", "/namespaces/ada/packages/p"] {
        let answered = as_bob(target).await;
        let text = answered.ok().to_string();
        assert!(text.contains("\"exec\"") && !text.contains("teemate-"), "{target}: {text}");
        let own = bench.get(target).await.ok().to_string();
        assert!(own.contains("teemate-broker") && own.contains("default/token/1"), "{target}: {own}");
    }
    // The action is Ada's, and so are its secrets.
    assert_eq!(call_as(&bench, "bob", "ada/actions/p/f").await.ok()["A"], "secret kbs:///default/token/1 of uuid-ada");
    let refused = call_as(&bench, "bob", "ada/actions/p/g").await;
    assert_eq!(refused.status, 502);
    let error = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("its owner's key broker") && !error.contains("token") && !error.contains("broker.example"), "{error}");
}
