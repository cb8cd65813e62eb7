//! Calls of actions.

use super::*;

#[tokio::test]
async fn a_blocking_call_gives_the_record() {
    let bench = Bench::new();
    bench.action("hello", "echo").await;
    let answered = bench.post("actions/hello?blocking=true", json!({ "name": "Ada" })).await;
    let record = answered.ok();
    assert_eq!(answered.header("x-openwhisk-activation-id"), record["activationId"].as_str());
    assert_eq!(record["activationId"].as_str().unwrap().len(), 32);
    assert_eq!(record["response"], json!({ "status": "success", "success": true, "result": { "name": "Ada" }, "size": 14 }));
    assert_eq!((&record["namespace"], &record["name"], &record["version"]), (&json!("ada"), &json!("hello"), &json!("0.0.1")));
    assert_eq!(record["duration"].as_u64(), record["end"].as_u64().unwrap().checked_sub(record["start"].as_u64().unwrap()));
    assert_eq!(annotation(&record, "path"), Some(&json!("ada/hello")));
    assert_eq!(annotation(&record, "kind"), Some(&json!("nodejs:20")));
    assert_eq!(annotation(&record, "timeout"), Some(&json!(false)));
    assert_eq!(annotation(&record, "limits"), Some(&json!({ "timeout": 60000, "memory": 256, "logs": 10, "concurrency": 1 })));
    assert!(annotation(&record, "waitTime").is_some() && annotation(&record, "initTime").is_some());
    // The second finds it compiled.
    let second = bench.post("actions/hello?blocking=true", json!({})).await.ok();
    assert!(annotation(&second, "initTime").is_none());
    assert_eq!(bench.functions.deploys.load(Ordering::Relaxed), 1);
    assert_eq!(bench.call("hello", json!({ "b": 2, "a": 1.5 })).await.ok(), json!({ "a": 1.5, "b": 2 }));
}

#[tokio::test]
async fn a_call_need_not_be_waited_for() {
    let bench = Bench::new();
    bench.action("slow", "sleep 30").await;
    let answered = bench.post("actions/slow", json!({ "a": 1 })).await;
    assert_eq!(answered.status, 202);
    let id = answered.json()["activationId"].as_str().unwrap().to_owned();
    bench.get(&format!("activations/{id}")).await.error(404);
    assert_eq!(bench.activations(1).await[0]["response"]["result"], json!({ "a": 1 }));
    // A wait that is too short ends in the same answer.
    let answered = bench.post("actions/slow?blocking=true&result=true&timeout=1", json!({})).await;
    assert_eq!((answered.status, answered.json()["activationId"].as_str().unwrap().len()), (202, 32));
    bench.activations(2).await;
    assert!(
        bench
            .post("actions/slow?timeout=60001", json!({}))
            .await
            .error(400)
            .contains("Timeout must be number of milliseconds up to 60000.")
    );
}

#[tokio::test]
async fn who_goes_away_leaves_an_activation() {
    let bench = Bench::new();
    bench.action("slow", "sleep 20").await;
    let request = bench.call("slow", json!({ "gone": true }));
    assert!(tokio::time::timeout(Duration::from_millis(5), request).await.is_err());
    assert_eq!(bench.activations(1).await[0]["response"]["result"], json!({ "gone": true }));
}

#[tokio::test]
async fn failures_are_502_with_the_record() {
    let bench = Bench::new();
    for (does, status, words, sentence) in [
        ("raw {\"error\":{\"code\":5}}", 502, "application error", json!({ "code": 5 })),
        ("throw boom", 502, "action developer error", json!("An error has occurred: Error: boom")),
        ("raw [1,2]", 502, "action developer error", json!("The action did not produce a valid JSON or JSON Array response.")),
        ("time", 502, "action developer error", json!("The action exceeded its time limits of 60000 milliseconds.")),
        ("lost", 500, "whisk internal error", json!("The action did not produce a valid response and exited unexpectedly: it was killed")),
    ] {
        bench.action("bad", does).await;
        let answered = bench.post("actions/bad?blocking=true", json!({})).await;
        assert_eq!(answered.status, status, "{does}");
        let record = answered.json();
        assert_eq!(record["response"]["status"], words, "{does}");
        assert_eq!(record["response"]["success"], false);
        assert_eq!(record["response"]["result"], json!({ "error": sentence }), "{does}");
        assert_eq!(annotation(&record, "timeout"), Some(&json!(does == "time")));
        let result = bench.call("bad", json!({})).await;
        assert_eq!((result.status, result.json()), (status, json!({ "error": sentence })));
    }
}

#[tokio::test]
async fn code_that_does_not_compile_is_the_developers() {
    let bench = Bench::new();
    bench.put("actions/bad", json!({ "exec": { "kind": "nodejs:20", "code": "syntax error" } })).await.ok();
    for _ in 0..2 {
        let answered = bench.call("bad", json!({})).await;
        // By its name, not by the id that the engines know.
        assert_eq!(
            (answered.status, answered.json()),
            (502, json!({ "error": "Initialization has failed due to: 'bad' does not compile: SyntaxError" }))
        );
    }
    assert_eq!(bench.functions.deploys.load(Ordering::Relaxed), 1, "what is wrong stays wrong");
    bench.action("bad", "echo").await;
    bench.call("bad", json!({})).await.ok();
}

#[tokio::test]
async fn an_update_is_what_the_next_call_runs() {
    let bench = Bench::new();
    bench.action("f", "wait").await;
    let waiting = bench.post("actions/f", json!({})).await;
    assert_eq!(waiting.status, 202);
    while bench.functions.calls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.action("f", "add").await;
    assert_eq!(bench.call("f", json!({ "n": 1 })).await.ok(), json!({ "n": 2 }));
    // The old one stays as long as somebody calls it, and no longer.
    assert_eq!(lock(&bench.functions.deployed).len(), 2);
    bench.functions.release();
    bench.activations(2).await;
    tokio::task::yield_now().await;
    assert_eq!(lock(&bench.functions.deployed).len(), 1);
    bench.delete("actions/f").await.ok();
    assert!(lock(&bench.functions.deployed).is_empty());
}

#[tokio::test]
async fn functions_are_known_by_names_that_say_nothing() {
    let bench = Bench::new();
    bench
        .put(
            "actions/secret",
            json!({ "exec": { "kind": "nodejs:20", "code": "//echo" }, "limits": { "memory": 128, "logs": 1 },
        "annotations": [{ "key": "teemate-reuse", "value": "keep" }, { "key": "teemate-egress", "value": ["localhost:80"] }] }),
        )
        .await
        .ok();
    bench.call("secret", json!({})).await.ok();
    let deployed = lock(&bench.functions.deployed).clone();
    let (id, (spec, _)) = deployed.first_key_value().unwrap();
    assert!(id.len() == 34 && id.starts_with("f-") && id[2..].bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(
        (spec.limits.memory, spec.limits.timeout_ms, &spec.egress[0][..], &spec.main[..]),
        (128 << 20, 60_000, "localhost:80", "__teemate_entry")
    );
    assert_eq!(spec.reuse, teemate_control::function::Reuse::Keep);
    assert!(spec.env.is_empty());
}

#[tokio::test]
async fn functions_see_openwhisks_environment() {
    let bench = Bench::new();
    bench.action("env", "env").await;
    bench
        .put(
            "actions/env?overwrite=true",
            json!({ "parameters": [{ "key": "MODE", "value": 5, "init": true }, { "key": "plain", "value": 1 }] }),
        )
        .await
        .ok();
    let answered = bench.post("actions/env?blocking=true&result=true", json!({})).await;
    let env = answered.ok();
    assert_eq!(env["__OW_ACTION_NAME"], "/ada/env");
    assert_eq!(env["__OW_ACTION_VERSION"], "0.0.2");
    assert_eq!(env["__OW_NAMESPACE"], "ada");
    assert_eq!(env["__OW_API_HOST"], "https://host");
    assert_eq!(env["__OW_ACTIVATION_ID"].as_str(), answered.header("x-openwhisk-activation-id"));
    assert!(env["__OW_DEADLINE"].as_str().unwrap().parse::<u64>().unwrap() > 1_500_000_000_000);
    assert_eq!((&env["MODE"], env.get("plain"), env.get("__OW_API_KEY")), (&json!("5"), None, None));
}

#[tokio::test]
async fn parameters_are_merged_and_final_ones_stay() {
    let bench = Bench::new();
    bench
        .put(
            "actions/f",
            json!({ "exec": { "kind": "nodejs:20", "code": "//echo" }, "annotations": [{ "key": "final", "value": true }],
        "parameters": [{ "key": "a", "value": 1 }, { "key": "open", "value": null }] }),
        )
        .await
        .ok();
    assert_eq!(bench.call("f", json!({ "open": 2, "b": 3 })).await.ok(), json!({ "a": 1, "open": 2, "b": 3 }));
    let sentence = "Request defines parameters that are not allowed (e.g., reserved properties).";
    assert_eq!(bench.call("f", json!({ "a": 2 })).await.error(400), sentence);
}

#[tokio::test]
async fn payloads_have_their_bounds() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    let large = json!({ "a": "x".repeat(1 << 20) }).to_string();
    let answered = bench.send("ada", Method::POST, "/namespaces/_/actions/f", &[], large.clone()).await;
    assert_eq!(answered.error(413), format!("Request larger than allowed: {} > 1048576 bytes.", large.len()));
    let form =
        bench.send("ada", Method::POST, "/namespaces/_/actions/f", &[("content-type", "application/x-www-form-urlencoded")], "a=1").await;
    form.error(415);
    bench.post("actions/f", json!([1])).await.error(400);
    bench.send("ada", Method::POST, "/namespaces/_/actions/f", &[], "{").await.error(400);
    // No body is an empty object.
    let empty = bench.send("ada", Method::POST, "/namespaces/_/actions/f?blocking=true&result=true", &[], "").await;
    assert_eq!(empty.ok(), json!({}));
    bench.post("actions/nothing", json!({})).await.error(404);
}

#[tokio::test]
async fn an_owner_is_held_to_his_limits() {
    let bench = Bench::new();
    bench.action("f", "wait").await;
    bench.limit(|limits| limits.concurrent = 1);
    let first = bench.post("actions/f", json!({})).await;
    assert_eq!(first.status, 202);
    assert_eq!(bench.post("actions/f", json!({})).await.error(429), "Too many concurrent requests in flight (count: 1, allowed: 1).");
    while bench.functions.calls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.functions.release();
    bench.activations(1).await;
    bench.limit(|limits| limits.calls_per_minute = 0);
    let sentence = bench.post("actions/f", json!({})).await.error(429);
    assert!(sentence.starts_with("Too many requests in the last minute (count: ") && sentence.ends_with(", allowed: 0)."), "{sentence}");
    // Another owner has limits of his own.
    bench.send("bob", Method::POST, "/namespaces/_/actions/f", &[], "{}").await.error(404);
}

#[tokio::test]
async fn all_owners_together_are_held_to_theirs() {
    let bench = Bench::with(|config| config.concurrent_overall = 0);
    bench.action("f", "echo").await;
    assert_eq!(bench.post("actions/f", json!({})).await.error(429), "System is overloaded, try again later.");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_room_is_tried_again_and_then_given_up() {
    let bench = Bench::new();
    bench.action("f", "busy").await;
    let answered = bench.call("f", json!({})).await;
    assert_eq!((answered.status, answered.json()), (500, json!({ "error": "System is overloaded, try again later." })));
    assert_eq!(bench.functions.calls.load(Ordering::Relaxed), 7);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_ends_is_cancelled() {
    let bench = Bench::new();
    bench.put("actions/f", json!({ "exec": { "kind": "nodejs:20", "code": "//wait" }, "limits": { "timeout": 100 } })).await.ok();
    // The wait for the answer ends first.
    assert_eq!(bench.call("f", json!({})).await.status, 202);
    let record = &bench.activations(1).await[0];
    assert_eq!(record["response"]["result"], json!({ "error": "cancelled" }));
}

#[tokio::test]
async fn receipts_say_what_ran() {
    let bench = Bench::new();
    bench.action("f", "echo").await;
    let headers = [("x-teemate-receipt", "input, output"), ("content-type", "application/json")];
    let target = "/namespaces/_/actions/f?blocking=true&result=true";
    let answered = bench.send("ada", Method::POST, target, &headers, r#"{"b":1,"a":0.10}"#).await;
    let receipt = lock(&bench.notes.0).pop().unwrap();
    assert_eq!((&receipt.owner[..], &receipt.action[..], &receipt.action_version[..]), ("ada", "f", "0.0.1"));
    assert_eq!(Some(&receipt.activation[..]), answered.header("x-openwhisk-activation-id"));
    assert_eq!(receipt.code_sha256, <[u8; 32]>::from(Sha256::digest("//echo")));
    assert_eq!(receipt.container, 7);
    // The body of the answer is what was digested.
    assert_eq!(receipt.has_output(&answered.bytes), Some(true));
    assert_eq!(receipt.has_input(&answered.bytes), Some(true));
    bench.call("f", json!({})).await.ok();
    let receipt = lock(&bench.notes.0).pop().unwrap();
    assert_eq!((receipt.input_sha256, receipt.output_sha256), (None, None));
}

#[tokio::test]
async fn logs_are_openwhisks_lines() {
    let bench = Bench::new();
    bench.action("f", "log one\\n\u{1e}two").await;
    let record = bench.post("actions/f?blocking=true", json!({})).await.ok();
    let logs: Vec<&str> = record["logs"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(logs.len() == 2 && logs[0].ends_with("Z stdout: one") && logs[1].ends_with("Z stderr: two"), "{logs:?}");
}

#[tokio::test]
async fn what_nobody_calls_makes_room() {
    let bench = Bench::with(|config| config.deployed = 2);
    for name in ["a", "b", "c", "d"] {
        bench.action(name, "echo").await;
        bench.call(name, json!({})).await.ok();
    }
    assert!(lock(&bench.functions.deployed).len() <= 2);
    bench.call("a", json!({})).await.ok();
}
