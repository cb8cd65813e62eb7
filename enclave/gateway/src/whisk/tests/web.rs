//! Web actions.

use super::*;

async fn export(bench: &Bench, name: &str, does: &str, annotations: &[(&str, Value)]) {
    let mut list = vec![json!({ "key": "web-export", "value": true })];
    list.extend(annotations.iter().map(|(key, value)| json!({ "key": key, "value": value })));
    let body = json!({ "exec": { "kind": "nodejs:20", "code": format!("//{does}") }, "annotations": list });
    bench.put(&format!("actions/{name}?overwrite=true"), body).await.ok();
}

async fn get(bench: &Bench, target: &str) -> Answered {
    bench.send("", Method::GET, target, &[], "").await
}

#[tokio::test]
async fn an_action_sees_how_it_was_called() {
    let bench = Bench::new();
    export(&bench, "f", "echo", &[]).await;
    let headers = [("content-type", "application/json"), ("x-thing", "1"), ("x-thing", "2")];
    let answered = bench.send("", Method::POST, "/web/ada/default/f.json/a%20b/c?q=1&r=x", &headers, r#"{"r":5}"#).await;
    let seen = answered.ok();
    assert_eq!(
        (&seen["__ow_method"], &seen["__ow_path"], &seen["q"], &seen["r"]),
        (&json!("post"), &json!("/a%20b/c"), &json!("1"), &json!(5))
    );
    assert_eq!(seen["__ow_headers"]["x-thing"], "1, 2");
    assert_eq!(seen.get("__ow_user"), None);
    assert!(answered.header("x-openwhisk-activation-id").is_some());
    assert_eq!(bench.get("activations?count=true").await.ok(), json!({ "activations": 1 }));
    // Somebody who is signed in is named.
    assert_eq!(bench.send("bob", Method::GET, "/web/ada/default/f.json", &[], "").await.ok()["__ow_user"], "bob");
    let form = bench
        .send("", Method::POST, "/web/ada/default/f.json", &[("content-type", "application/x-www-form-urlencoded")], "a=1&b=x+y")
        .await;
    assert_eq!((&form.ok()["a"], &form.json()["b"]), (&json!("1"), &json!("x y")));
    let text = bench.send("", Method::PUT, "/web/ada/default/f.json", &[("content-type", "text/plain")], "hello").await;
    assert_eq!(text.ok()["__ow_body"], "hello");
    let binary = bench.send("", Method::PATCH, "/web/ada/default/f.json", &[("content-type", "image/png")], vec![0u8, 1, 2]).await;
    assert_eq!(binary.ok()["__ow_body"], "AAEC");
    let sentence = "Request defines parameters that are not allowed (e.g., reserved properties).";
    assert_eq!(get(&bench, "/web/ada/default/f.json?__ow_path=x").await.error(400), sentence);
    assert_eq!(
        bench
            .send("", Method::POST, "/web/ada/default/f", &[("content-type", "application/json")], r#"{"__ow_user":"x"}"#)
            .await
            .error(400),
        sentence
    );
    bench.send("", Method::POST, "/web/ada/default/f", &[("content-type", "application/json")], "{").await.error(400);
}

#[tokio::test]
async fn only_what_is_exported_is_there() {
    let bench = Bench::new();
    bench.action("private", "echo").await;
    export(&bench, "f", "echo", &[]).await;
    for target in
        ["/web/ada/default/private", "/web/ada/default/nothing", "/web/ada/nothing/f", "/web/nobody/default/f", "/web/ada/f", "/web/ada"]
    {
        assert_eq!(get(&bench, target).await.error(404), "The requested resource does not exist.", "{target}");
    }
    bench.put("packages/p", json!({})).await.ok();
    export(&bench, "p/f", "raw {\"body\":\"in a package\"}", &[]).await;
    assert_eq!(&get(&bench, "/web/ada/p/f").await.bytes[..], b"in a package");
}

#[tokio::test]
async fn extensions_choose_the_answer() {
    let bench = Bench::new();
    export(&bench, "f", r#"raw {"statusCode":201,"headers":{"x-a":"b"},"body":"<p>hi</p>"}"#, &[]).await;
    let http = get(&bench, "/web/ada/default/f.http").await;
    assert_eq!(
        (http.status, http.header("x-a"), http.header("content-type"), &http.bytes[..]),
        (201, Some("b"), Some("text/html; charset=UTF-8"), &b"<p>hi</p>"[..])
    );
    assert_eq!(get(&bench, "/web/ada/default/f").await.bytes, http.bytes);
    assert_eq!(get(&bench, "/web/ada/default/f.json").await.ok()["statusCode"], 201);
    assert_eq!(get(&bench, "/web/ada/default/f.text").await.header("content-type"), Some("text/plain; charset=UTF-8"));
    assert_eq!(get(&bench, "/web/ada/default/f.svg").await.header("content-type"), Some("image/svg+xml"));
    assert_eq!(get(&bench, "/web/ada/default/f.html").await.status, 200);
}

#[tokio::test]
async fn errors_of_an_action_are_answers_or_bad_requests() {
    let bench = Bench::new();
    export(&bench, "e", r#"raw {"error":{"statusCode":418,"body":"tea"}}"#, &[]).await;
    let error = get(&bench, "/web/ada/default/e").await;
    assert_eq!((error.status, &error.bytes[..]), (418, &b"tea"[..]));
    export(&bench, "e", r#"raw {"error":"no"}"#, &[]).await;
    assert_eq!(get(&bench, "/web/ada/default/e").await.error(400), "Response is not valid 'message/http'.");
    export(&bench, "e", "throw x", &[]).await;
    assert_eq!(get(&bench, "/web/ada/default/e").await.error(400), "There was an error processing your request.");
}

#[tokio::test]
async fn raw_actions_read_the_request_themselves() {
    let bench = Bench::new();
    export(&bench, "raw", "echo", &[("raw-http", json!(true))]).await;
    let headers = [("content-type", "application/json")];
    let seen = bench.send("", Method::POST, "/web/ada/default/raw.json?a=1&b=%C3%A4", &headers, r#"{"x":1}"#).await.ok();
    assert_eq!(
        (&seen["__ow_query"], &seen["__ow_body"], seen.get("a"), seen.get("x")),
        (&json!("a=1&b=%25C3%25A4"), &json!("eyJ4IjoxfQ=="), None, None)
    );
    assert_eq!(get(&bench, "/web/ada/default/raw.json").await.ok()["__ow_body"], "");
}

#[tokio::test]
async fn some_are_for_those_with_a_key() {
    let bench = Bench::new();
    export(&bench, "f", "echo", &[("require-whisk-auth", json!("tiger"))]).await;
    let with = async |value: &str| bench.send("", Method::GET, "/web/ada/default/f.json", &[("x-require-whisk-auth", value)], "").await;
    get(&bench, "/web/ada/default/f.json").await.error(401);
    with("lion").await.error(401);
    with("tiger").await.ok();
    export(&bench, "f", "echo", &[("require-whisk-auth", json!(true))]).await;
    get(&bench, "/web/ada/default/f.json").await.error(401);
    bench.send("bob", Method::GET, "/web/ada/default/f.json", &[], "").await.ok();
    export(&bench, "f", "echo", &[("require-whisk-auth", json!({}))]).await;
    bench.send("bob", Method::GET, "/web/ada/default/f.json", &[], "").await.error(401);
    export(&bench, "f", "echo", &[("require-whisk-auth", json!(false))]).await;
    get(&bench, "/web/ada/default/f.json").await.ok();
}

#[tokio::test]
async fn browsers_may_ask_from_elsewhere() {
    let bench = Bench::new();
    export(&bench, "f", "raw {\"body\":\"x\"}", &[]).await;
    let asked = [("access-control-request-headers", "x-mine")];
    let options = bench.send("", Method::OPTIONS, "/web/ada/default/f", &asked, "").await;
    assert_eq!((options.status, options.header("access-control-allow-headers")), (200, Some("x-mine")));
    assert_eq!(options.header("access-control-allow-methods"), Some("OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH"));
    assert_eq!(get(&bench, "/web/ada/default/f").await.header("access-control-allow-origin"), Some("*"));
    assert_eq!(bench.functions.calls.load(Ordering::Relaxed), 1, "the question does not call it");
    // Unless the action wants to answer that itself.
    export(
        &bench,
        "f",
        r#"raw {"headers":{"access-control-allow-origin":"https://one.place"},"body":"x"}"#,
        &[("web-custom-options", json!(true)), ("require-whisk-auth", json!("k"))],
    )
    .await;
    let options = bench.send("", Method::OPTIONS, "/web/ada/default/f", &[], "").await;
    assert_eq!(options.header("access-control-allow-origin"), Some("https://one.place"));
    get(&bench, "/web/ada/default/f").await.error(401);
}

#[tokio::test]
async fn final_parameters_are_not_the_callers() {
    let bench = Bench::new();
    export(&bench, "f", "echo", &[("final", json!(true))]).await;
    bench.put("actions/f?overwrite=true", json!({ "parameters": [{ "key": "secret", "value": 1 }] })).await.ok();
    get(&bench, "/web/ada/default/f.json?secret=2").await.error(400);
    assert_eq!(get(&bench, "/web/ada/default/f.json?other=2").await.ok()["secret"], 1);
}

#[tokio::test]
async fn the_owner_pays() {
    let bench = Bench::new();
    export(&bench, "f", "echo", &[]).await;
    bench.limit(|limits| limits.calls_per_minute = 0);
    get(&bench, "/web/ada/default/f.json").await.error(429);
    bench.limit(|limits| limits.calls_per_minute = 60);
    let large = "x".repeat((1 << 20) + 1);
    bench.send("", Method::POST, "/web/ada/default/f.json", &[], large).await.error(413);
}
