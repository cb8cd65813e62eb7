//! Records of activations.

use super::*;

#[tokio::test]
async fn records_are_listed_and_read() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    bench.action("g", "log hello").await;
    bench.put("packages/p", json!({})).await.ok();
    bench.action("p/f", "echo").await;
    for name in ["f", "g", "p/f"] {
        bench.call(name, json!({ "x": name })).await.ok();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let list = bench.get("activations").await.ok();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["f", "g", "f"]);
    assert_eq!(list[0]["statusCode"], 0);
    assert!(list[0].get("response").is_none() && list[0].get("logs").is_none());
    let count = async |query: &str| bench.get(&format!("activations?{query}")).await.ok().as_array().unwrap().len();
    assert_eq!(count("name=f").await, 1);
    assert_eq!(count("name=p/f").await, 1);
    assert_eq!(count("name=nothing").await, 0);
    assert_eq!(count("limit=2").await, 2);
    assert_eq!(count("skip=2").await, 1);
    let middle = list[1]["start"].as_u64().unwrap();
    assert_eq!(count(&format!("since={middle}")).await, 2);
    assert_eq!(count(&format!("upto={middle}")).await, 2);
    assert_eq!(bench.get("activations?count=true&name=g").await.ok(), json!({ "activations": 1 }));
    assert_eq!(bench.get("activations?docs=true").await.ok()[1]["logs"].as_array().unwrap().len(), 1);

    let id = list[1]["activationId"].as_str().unwrap();
    assert!(bench.get(&format!("activations/{id}/logs")).await.ok()["logs"][0].as_str().unwrap().ends_with("stdout: hello"));
    assert_eq!(
        bench.get(&format!("activations/{id}/result")).await.ok(),
        json!({ "status": "success", "success": true, "result": {}, "size": 2 })
    );
    bench.get(&format!("activations/{id}/nothing")).await.error(404);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let bench = Bench::new();
    assert_eq!(bench.get("activations/abc").await.error(400), "Activation id length is 3 but must be 32.");
    assert_eq!(bench.get(&format!("activations/{}", "X".repeat(32))).await.error(400), "The activation id is not valid.");
    bench.get(&format!("activations/{}", "a".repeat(32))).await.error(404);
    assert_eq!(bench.get("activations?count=true&docs=true").await.error(400), "The parameter 'docs' is not permitted with 'count'.");
    assert!(bench.get("activations?since=x").await.error(400).contains("Parameter is not a valid value for epoch seconds: x"));
    assert!(bench.get("activations?name=a/b/c").await.error(400).contains("Parameter may be a 'simple' name"));
    bench.get("/namespaces/bob/activations").await.error(403);
    bench.get(&format!("/namespaces/bob/activations/{}", "a".repeat(32))).await.error(403);
}

#[tokio::test]
async fn nobody_reads_anothers() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    let id = bench.post("actions/f?blocking=true", json!({})).await.ok()["activationId"].as_str().unwrap().to_owned();
    bench.send("bob", Method::GET, &format!("/namespaces/_/activations/{id}"), &[], "").await.error(404);
    assert_eq!(bench.send("bob", Method::GET, "/namespaces/_/activations", &[], "").await.ok(), json!([]));
}

#[tokio::test]
async fn the_oldest_are_forgotten() {
    let bench = Bench::with(|config| config.retention = Retention { count: 3, bytes: 1 << 20 });
    bench.action("f", "echo").await;
    for n in 0..5 {
        bench.call("f", json!({ "n": n })).await.ok();
    }
    let kept = async |bench: &Bench| {
        let list = bench.get("activations?docs=true").await.ok();
        let mut kept: Vec<u64> = list.as_array().unwrap().iter().map(|it| it["response"]["result"]["n"].as_u64().unwrap()).collect();
        kept.sort_unstable();
        kept
    };
    assert_eq!(kept(&bench).await, [2, 3, 4]);
    assert_eq!(lock(&bench.store.kept).keys().filter(|key| key.kind == "activation").count(), 3);
    assert_eq!(kept(&bench.restarted()).await, [2, 3, 4]);
}

#[tokio::test]
async fn an_answer_goes_out_before_its_record_is_kept_and_who_asks_for_that_waits() {
    let bench = Bench::new();
    bench.action("echo", "echo").await;
    bench.store.is_slow.store(true, Ordering::Relaxed);
    // Large enough to go to the disk at once.
    let body = json!({ "text": "x".repeat(40_000) }).to_string();
    let target = "/namespaces/_/actions/echo?blocking=true";
    let answered = bench.send_only("ada", Method::POST, target, &[("content-type", "application/json")], body).await;
    let id = answered.ok()["activationId"].as_str().unwrap().to_owned();
    assert_eq!((bench.whisk.running(), lock(&bench.notes.0).len()), (1, 0), "the answer came first");
    for target in [format!("/namespaces/_/activations/{id}"), "/namespaces/_/activations".to_owned()] {
        let asked = bench.send_only("ada", Method::GET, &target, &[], "");
        assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err(), "{target} does not wait");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), bench.whisk.kept("ada", &id)).await.is_err());
    // Others do not.
    assert_eq!(bench.send("bob", Method::GET, "/namespaces/_/activations", &[], "").await.ok(), json!([]));
    bench.whisk.kept("bob", &id).await;
    bench.store.is_slow.store(false, Ordering::Relaxed);
    assert_eq!(bench.get(&format!("activations/{id}")).await.ok()["activationId"], id);
    assert_eq!(bench.get("activations").await.ok().as_array().unwrap().len(), 1);
    while bench.whisk.running() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_has_his_answer_may_call_again() {
    let bench = Bench::new();
    bench.limit(|limits| limits.concurrent = 1);
    bench.action("echo", "echo").await;
    bench.store.is_slow.store(true, Ordering::Relaxed);
    let body = json!({ "text": "x".repeat(40_000) }).to_string();
    for _ in 0..3 {
        let target = "/namespaces/_/actions/echo?blocking=true";
        bench.send_only("ada", Method::POST, target, &[("content-type", "application/json")], body.clone()).await.ok();
    }
    bench.store.is_slow.store(false, Ordering::Relaxed);
    assert_eq!(bench.activations(3).await.len(), 3);
}
