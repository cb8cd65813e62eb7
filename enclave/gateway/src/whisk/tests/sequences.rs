//! Sequences.

use super::*;

async fn sequence(bench: &Bench, name: &str, components: &[&str]) -> Answered {
    bench.put(&format!("actions/{name}?overwrite=true"), json!({ "exec": { "kind": "sequence", "components": components } })).await
}

#[tokio::test]
async fn results_go_from_one_to_the_next() {
    let bench = Bench::new();
    bench.action("add", "add").await;
    let made = sequence(&bench, "s", &["/_/add", "/_/add", "/ada/add"]).await.ok();
    assert_eq!(made["exec"], json!({ "kind": "sequence", "components": ["/ada/add", "/ada/add", "/ada/add"] }));
    assert_eq!(made["parameters"], json!([{ "key": "_actions", "value": ["/ada/add", "/ada/add", "/ada/add"] }]));
    let record = bench.post("actions/s?blocking=true", json!({ "n": 1 })).await.ok();
    assert_eq!(record["response"]["result"], json!({ "n": 4 }));
    assert_eq!((annotation(&record, "kind"), annotation(&record, "topmost")), (Some(&json!("sequence")), Some(&json!(true))));
    assert!(record.get("cause").is_none());
    let ids = record["logs"].as_array().unwrap();
    assert_eq!(ids.len(), 3);
    let mut duration = 0;
    for id in ids {
        let component = bench.get(&format!("activations/{}", id.as_str().unwrap())).await.ok();
        assert_eq!(component["cause"], record["activationId"]);
        assert_eq!(annotation(&component, "causedBy"), Some(&json!("sequence")));
        duration += component["duration"].as_u64().unwrap();
    }
    assert_eq!(record["duration"], duration);
    assert_eq!(annotation(&record, "limits").unwrap()["memory"], 256);
}

#[tokio::test]
async fn an_error_ends_it() {
    let bench = Bench::new();
    bench.action("add", "add").await;
    bench.action("bad", "raw {\"error\":\"no\"}").await;
    sequence(&bench, "s", &["/_/add", "/_/bad", "/_/add"]).await.ok();
    let answered = bench.post("actions/s?blocking=true", json!({ "error": "in the payload it is only a parameter" })).await;
    assert_eq!(answered.status, 502);
    let record = answered.json();
    assert_eq!((&record["response"]["status"], &record["response"]["result"]), (&json!("application error"), &json!({ "error": "no" })));
    assert_eq!(record["logs"].as_array().unwrap().len(), 2);
    // A component that is gone is an error when its turn comes.
    bench.delete("actions/bad").await.ok();
    let record = bench.post("actions/s?blocking=true", json!({})).await.json();
    assert_eq!(record["response"]["result"], json!({ "error": "Sequence component does not exist." }));
    assert_eq!(record["logs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn sequences_of_sequences() {
    let bench = Bench::new();
    bench.action("add", "add").await;
    sequence(&bench, "two", &["/_/add", "/_/add"]).await.ok();
    sequence(&bench, "five", &["/_/two", "/_/two", "/_/add"]).await.ok();
    let record = bench.post("actions/five?blocking=true", json!({})).await.ok();
    assert_eq!(record["response"]["result"], json!({ "n": 5 }));
    let inner = bench.get(&format!("activations/{}", record["logs"][0].as_str().unwrap())).await.ok();
    assert_eq!((annotation(&inner, "topmost"), annotation(&inner, "causedBy")), (Some(&json!(false)), Some(&json!("sequence"))));
    assert_eq!(inner["cause"], record["activationId"]);
    // Neither directly nor by way of another.
    let itself = "Sequence may not refer to itself.";
    assert_eq!(sequence(&bench, "two", &["/_/two"]).await.error(400), itself);
    assert_eq!(sequence(&bench, "two", &["/_/add", "/_/five"]).await.error(400), itself);
    assert_eq!(sequence(&bench, "add", &["/_/five"]).await.error(400), itself);
}

#[tokio::test]
async fn lengths_have_their_bounds() {
    let bench = Bench::new();
    bench.action("add", "add").await;
    sequence(&bench, "most", &["/_/add"; 50]).await.ok();
    assert_eq!(bench.call("most", json!({})).await.ok(), json!({ "n": 50 }));
    let too_long = "Too many actions in the sequence.";
    assert_eq!(sequence(&bench, "more", &["/_/add"; 51]).await.error(400), too_long);
    assert_eq!(sequence(&bench, "more", &["/_/most", "/_/add"]).await.error(400), too_long);
    assert_eq!(sequence(&bench, "none", &[]).await.error(400), "No component specified for the sequence.");
    assert_eq!(sequence(&bench, "x", &["/_/nothing"]).await.error(400), "Sequence component does not exist.");
    sequence(&bench, "x", &["/bob/f"]).await.error(403);
    // What grows later is noticed when it runs.
    sequence(&bench, "half", &["/_/add"; 20]).await.ok();
    sequence(&bench, "both", &["/_/half", "/_/half"]).await.ok();
    sequence(&bench, "half", &["/_/add"; 30]).await.ok();
    let record = bench.post("actions/both?blocking=true", json!({})).await;
    assert_eq!((record.status, &record.json()["response"]["result"]), (502, &json!({ "error": too_long })));
}

#[tokio::test]
async fn a_circle_by_way_of_a_binding_ends() {
    let bench = Bench::new();
    bench.action("add", "add").await;
    for package in ["good", "evil"] {
        bench.put(&format!("packages/{package}"), json!({})).await.ok();
    }
    bench.put("packages/way", json!({ "binding": { "namespace": "_", "name": "good" } })).await.ok();
    bench.action("good/s", "add").await;
    sequence(&bench, "circle", &["/_/way/s"]).await.ok();
    sequence(&bench, "evil/s", &["/_/circle"]).await.ok();
    // Now the way leads elsewhere.
    bench.put("packages/way?overwrite=true", json!({ "binding": { "namespace": "_", "name": "evil" } })).await.ok();
    let answered = bench.call("circle", json!({})).await;
    assert_eq!((answered.status, answered.json()), (502, json!({ "error": "Too many actions in the sequence." })));
}

#[tokio::test]
async fn arrays_go_through() {
    let bench = Bench::new();
    bench.action("list", "raw {\"\\u001earray\":[1,{\"a\":2}]}").await;
    bench.action("echo", "echo").await;
    sequence(&bench, "s", &["/_/list", "/_/echo"]).await.ok();
    let answered = bench.post("actions/s?blocking=true", json!({})).await;
    assert_eq!(answered.ok(), json!([1, { "a": 2 }]));
}

#[tokio::test]
async fn an_action_becomes_a_sequence_and_back() {
    let bench = Bench::new();
    bench.action("add", "add").await;
    bench
        .put("actions/x", json!({ "exec": { "kind": "nodejs:20", "code": "//echo" }, "parameters": [{ "key": "a", "value": 1 }] }))
        .await
        .ok();
    sequence(&bench, "x", &["/_/add"]).await.ok();
    assert_eq!(bench.call("x", json!({ "n": 1 })).await.ok(), json!({ "n": 2 }));
    let back = bench.put("actions/x?overwrite=true", json!({ "exec": { "kind": "nodejs:20", "code": "//echo" } })).await.ok();
    assert_eq!(back["parameters"], json!([]));
    assert_eq!(lock(&bench.store.kept).keys().filter(|key| key.kind == "code").count(), 2);
}
