//! Triggers and rules.

use super::*;

#[tokio::test]
async fn triggers_are_made_changed_and_deleted() {
    let bench = Bench::new();
    let made = bench.put("triggers/t", json!({ "parameters": [{ "key": "a", "value": 1 }] })).await.ok();
    assert_eq!((&made["version"], &made["limits"], made.get("rules")), (&json!("0.0.1"), &json!({}), None));
    assert_eq!(bench.put("triggers/t", json!({})).await.error(409), "resource already exists");
    assert_eq!(bench.put("triggers/t?overwrite=true", json!({ "publish": true })).await.ok()["version"], "0.0.2");
    assert_eq!(bench.get("triggers").await.ok()[0]["name"], "t");
    assert_eq!(bench.get("triggers?count=true").await.ok(), json!({ "triggers": 1 }));
    let feed = json!({ "annotations": [{ "key": "feed", "value": 5 }] });
    assert_eq!(bench.put("triggers/u", feed).await.error(400), "Feed name is not valid");
    bench.delete("triggers/t").await.ok();
    bench.get("triggers/t").await.error(404);
}

#[tokio::test]
async fn a_trigger_starts_the_actions_of_its_active_rules() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    bench.action("g", "echo").await;
    bench.put("triggers/t", json!({ "parameters": [{ "key": "a", "value": 1 }, { "key": "b", "value": 1 }] })).await.ok();
    let nobody = bench.post("triggers/t", json!({})).await;
    assert_eq!((nobody.status, nobody.bytes.len()), (204, 0));
    let rule = bench.put("rules/r", json!({ "trigger": "/_/t", "action": "/_/f" })).await.ok();
    assert_eq!(rule["status"], "active");
    assert_eq!((&rule["trigger"], &rule["action"]), (&json!({ "path": "ada", "name": "t" }), &json!({ "path": "ada", "name": "f" })));
    bench.put("rules/s", json!({ "trigger": "/_/t", "action": "/_/g" })).await.ok();
    bench.post("rules/s", json!({ "status": "inactive" })).await;
    assert_eq!(bench.get("triggers/t").await.ok()["rules"]["ada/s"]["status"], "inactive");

    let fired = bench.post("triggers/t", json!({ "b": 2, "c": 3 })).await;
    assert_eq!(fired.status, 202);
    let id = fired.json()["activationId"].as_str().unwrap().to_owned();
    let all = bench.activations(2).await;
    let called = all.iter().find(|it| it["name"] == "f").unwrap();
    assert_eq!(called["response"]["result"], json!({ "a": 1, "b": 2, "c": 3 }));
    let record = bench.get(&format!("activations/{id}")).await.ok();
    assert_eq!((&record["response"]["result"], record.get("end")), (&json!({ "b": 2, "c": 3 }), None));
    let logs: Vec<Value> =
        record["logs"].as_array().unwrap().iter().map(|line| serde_json::from_str(line.as_str().unwrap()).unwrap()).collect();
    assert_eq!(
        logs[0],
        json!({ "rule": "ada/r", "action": "ada/f", "statusCode": 0, "success": true, "activationId": called["activationId"] })
    );
    assert_eq!(
        (&logs[1]["success"], &logs[1]["error"]),
        (&json!(false), &json!("Rule 'ada/s' is inactive, action 'ada/g' was not activated."))
    );
    // An action that is gone is noted, too.
    bench.delete("actions/f").await.ok();
    bench.post("triggers/t", json!({})).await;
    let record = bench.activations(3).await.into_iter().find(|it| it["name"] == "t" && it["activationId"] != json!(id)).unwrap();
    assert!(record["logs"][0].as_str().unwrap().contains("The requested resource does not exist."));
}

#[tokio::test]
async fn rules_are_switched_and_moved() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    bench.put("triggers/t", json!({})).await.ok();
    bench.put("triggers/u", json!({})).await.ok();
    bench.put("rules/r", json!({ "trigger": "/_/t", "action": "/_/f" })).await.ok();
    for status in ["inactive", "inactive", "active"] {
        assert_eq!(bench.post("rules/r", json!({ "status": status })).await.status, 200);
        assert_eq!(bench.get("rules/r").await.ok()["status"], status);
    }
    assert!(bench.post("rules/r", json!({ "status": "asleep" })).await.error(400).contains("'asleep' is not a recognized rule state"));
    bench.post("rules/r", json!({})).await.error(400);
    bench.post("rules/r", json!({ "status": "inactive" })).await;
    // It stays inactive when it is moved.
    let moved = bench.put("rules/r?overwrite=true", json!({ "trigger": "/_/u" })).await.ok();
    assert_eq!((&moved["status"], &moved["version"], &moved["trigger"]["name"]), (&json!("inactive"), &json!("0.0.2"), &json!("u")));
    assert_eq!(bench.get("triggers/t").await.ok().get("rules"), None);
    // Without its trigger a rule is inactive, and cannot be otherwise.
    bench.post("rules/r", json!({ "status": "active" })).await;
    bench.delete("triggers/u").await.ok();
    assert_eq!(bench.get("rules/r").await.ok()["status"], "inactive");
    assert_eq!(bench.post("rules/r", json!({ "status": "active" })).await.error(404), "Only rules with existing triggers can be activated");
    assert_eq!(bench.get("rules").await.ok()[0]["name"], "r");
    assert_eq!(bench.delete("rules/r").await.ok()["status"], "inactive");
    bench.get("rules/r").await.error(404);
}

#[tokio::test]
async fn rules_need_what_they_join() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    bench.put("triggers/t", json!({})).await.ok();
    for (body, sentence) in [
        (json!({}), "rule requires a valid trigger and a valid action"),
        (json!({ "trigger": "/_/t" }), "rule requires a valid trigger and a valid action"),
        (json!({ "trigger": "/_/x", "action": "/_/f" }), "trigger /ada/x does not exist"),
        (json!({ "trigger": "/_/t", "action": "/_/x" }), "action /ada/x does not exist"),
        (json!({ "trigger": "t", "action": "/_/f" }), "The request content was malformed"),
    ] {
        assert!(bench.put("rules/r", body).await.error(400).contains(sentence), "{sentence}");
    }
    bench.put("rules/r", json!({ "trigger": "/bob/t", "action": "/_/f" })).await.error(403);
    bench.put("rules/r", json!({ "trigger": "/_/t", "action": "/bob/f" })).await.error(403);
    bench.put("rules/r", json!({ "trigger": "/_/t", "action": "/_/f" })).await.ok();
    assert_eq!(bench.put("rules/r", json!({ "trigger": "/_/t", "action": "/_/f" })).await.error(409), "resource already exists");
    bench.delete("rules/r").await.ok();
    assert_eq!(bench.get("triggers/t").await.ok().get("rules"), None);
    bench.limit(|limits| limits.triggers_per_minute = 0);
    assert!(bench.post("triggers/t", json!({})).await.error(429).starts_with("Too many requests in the last minute"));
}
