//! Create, read, update, delete.

use super::*;

#[tokio::test]
async fn an_action_is_made_changed_and_deleted() {
    let bench = Bench::new();
    let code = "//echo\nfunction main(p) { return p; }";
    let body = json!({
        "exec": { "kind": "nodejs:default", "code": code }, "parameters": [{ "key": "a", "value": 1 }],
        "annotations": [{ "key": "description", "value": "x" }], "limits": { "timeout": 1000, "memory": 128 },
    });
    let made = bench.put("actions/hello", body.clone()).await.ok();
    assert_eq!(made["namespace"], "ada");
    assert_eq!(made["version"], "0.0.1");
    assert_eq!(made["publish"], false);
    assert_eq!(made["exec"], json!({ "kind": "nodejs:20", "code": code, "binary": false }));
    assert_eq!(made["limits"], json!({ "timeout": 1000, "memory": 128, "logs": 10, "concurrency": 1 }));
    assert_eq!(annotation(&made, "exec"), Some(&json!("nodejs:20")));
    assert_eq!(annotation(&made, "provide-api-key"), Some(&json!(false)));
    assert!(made["updated"].as_u64().unwrap() > 1_500_000_000_000);

    assert_eq!(bench.put("actions/hello", body).await.error(409), "resource already exists");
    // What an update does not name stays.
    let update = json!({ "annotations": [{ "key": "more", "value": 2 }], "delAnnotations": ["description"], "limits": { "memory": 256 } });
    let updated = bench.put("actions/hello?overwrite=true", update).await.ok();
    assert_eq!((&updated["version"], &updated["exec"]["code"]), (&json!("0.0.2"), &json!(code)));
    assert_eq!(updated["limits"], json!({ "timeout": 1000, "memory": 256, "logs": 10, "concurrency": 1 }));
    assert_eq!((annotation(&updated, "more"), annotation(&updated, "description")), (Some(&json!(2)), None));
    assert_eq!(updated["parameters"], json!([{ "key": "a", "value": 1 }]));
    let versioned = bench.put("actions/hello?overwrite=true", json!({ "version": "1.0.0", "publish": true })).await.ok();
    assert_eq!((&versioned["version"], &versioned["publish"]), (&json!("1.0.0"), &json!(true)));

    assert_eq!(bench.get("actions/hello").await.ok(), versioned);
    let without = bench.get("actions/hello?code=false").await.ok();
    assert_eq!(without["exec"], json!({ "kind": "nodejs:20", "binary": false }));
    assert_eq!(bench.delete("actions/hello").await.ok(), versioned);
    assert_eq!(bench.get("actions/hello").await.error(404), "The requested resource does not exist.");
    bench.delete("actions/hello").await.error(404);
    // Nothing stays behind.
    assert!(lock(&bench.store.kept).is_empty());
}

#[tokio::test]
async fn what_cannot_be_an_action_is_refused() {
    let bench = Bench::new();
    for (body, sentence) in [
        (json!({}), "exec undefined"),
        (json!({ "exec": { "kind": "nodejs:20" } }), "'code' must be a string"),
        (json!({ "exec": { "kind": "swift", "code": "" } }), "The specified runtime 'swift' is not supported by this platform."),
        (
            json!({ "exec": { "kind": "nodejs:20", "code": "" }, "annotations": [{ "key": "teemate-reuse", "value": "hot" }] }),
            "teemate-reuse",
        ),
        (json!({ "exec": { "kind": "nodejs:20", "code": "" }, "limits": { "timeout": 1 } }), "below allowed threshold"),
    ] {
        assert!(bench.put("actions/a", body).await.error(400).contains(sentence), "{sentence}");
    }
    bench.put("actions/a?overwrite=perhaps", json!({})).await.error(400);
    bench.limit(|limits| limits.code = 10);
    assert_eq!(
        bench.put("actions/a", json!({ "exec": { "kind": "nodejs:20", "code": "0123456789a" } })).await.error(413),
        "exec larger than allowed: 11 > 10 bytes."
    );
    bench.send("bob", Method::PUT, "/namespaces/ada/actions/a", &[], "{}").await.error(403);
    bench.put("actions/p/a", json!({ "exec": { "kind": "nodejs:20", "code": "" } })).await.error(404);
}

#[tokio::test]
async fn the_four_collections_share_their_names() {
    let bench = Bench::new();
    bench.put("triggers/x", json!({})).await.ok();
    let sentence = "Resource by this name exists but is not in this collection.";
    let exec = json!({ "exec": { "kind": "nodejs:20", "code": "//echo" } });
    assert_eq!(bench.put("actions/x?overwrite=true", exec.clone()).await.error(409), sentence);
    assert_eq!(bench.get("actions/x").await.error(409), sentence);
    assert_eq!(bench.get("rules/x").await.error(409), sentence);
    assert_eq!(bench.get("packages/x").await.error(409), sentence);
    assert_eq!(bench.delete("actions/x").await.error(409), sentence);
    bench.action("y", "echo").await;
    assert_eq!(bench.get("triggers/y").await.error(409), sentence);
}

#[tokio::test]
async fn lists_show_the_latest_first() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.action(name, "echo").await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let list = bench.get("actions").await.ok();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "b", "a"]);
    assert_eq!(list[0]["exec"], json!({ "binary": false }));
    assert!(list[0].get("parameters").is_none());
    assert_eq!(bench.get("actions?skip=1&limit=1").await.ok()[0]["name"], "b");
    assert_eq!(bench.get("actions?count=true").await.ok(), json!({ "actions": 3 }));
    let sentence = "The query parameter 'limit' was malformed:\nThe value '201' is not in the range of 0 to 200 for actions.";
    assert_eq!(bench.get("actions?limit=201").await.error(400), sentence);
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let bench = Bench::new();
    let made = bench.action("a", "echo").await;
    bench.put("packages/p", json!({ "parameters": [{ "key": "k", "value": "v" }] })).await.ok();
    bench.action("p/b", "add").await;
    bench.put("triggers/t", json!({})).await.ok();
    bench.put("rules/r", json!({ "trigger": "/_/t", "action": "/_/p/b" })).await.ok();
    let record = bench.post("actions/a?blocking=true", json!({ "x": 1 })).await.ok();
    let again = bench.restarted();
    assert_eq!(again.get("actions/a").await.ok(), made);
    assert_eq!(again.call("p/b", json!({ "n": 4 })).await.ok(), json!({ "n": 5 }));
    assert_eq!(again.get("rules/r").await.ok()["status"], "active");
    let id = record["activationId"].as_str().unwrap();
    assert_eq!(again.get(&format!("activations/{id}")).await.ok(), record);
    // Another owner of the same namespace finds nothing.
    lock(&bench.store.owners).get_mut("ada").unwrap().id = "uuid-eve".into();
    again.get("actions/a").await.error(404);
    again.get(&format!("activations/{id}")).await.error(404);
}

#[tokio::test]
async fn a_store_that_fails_changes_nothing() {
    let bench = Bench::new();
    let made = bench.action("a", "echo").await;
    *lock(&bench.store.fails) = true;
    bench.put("actions/a?overwrite=true", json!({ "publish": true })).await.error(500);
    bench.put("actions/b", json!({ "exec": { "kind": "nodejs:20", "code": "" } })).await.error(500);
    bench.delete("actions/a").await.error(500);
    *lock(&bench.store.fails) = false;
    assert_eq!(bench.get("actions/a").await.ok(), made);
    bench.get("actions/b").await.error(404);
}

#[tokio::test]
async fn a_namespace_is_full_at_some_point() {
    let bench = Bench::with(|config| config.entities = 2);
    bench.action("a", "echo").await;
    bench.put("triggers/t", json!({})).await.ok();
    assert!(bench.put("packages/p", json!({})).await.error(403).contains("2 entities"));
    // What is there can still be changed.
    bench.action("a", "add").await;
}
