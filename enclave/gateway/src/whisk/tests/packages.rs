//! Packages, bindings, and what owners share.

use super::*;

#[tokio::test]
async fn parameters_of_package_binding_action_and_call() {
    let bench = Bench::new();
    let list = |pairs: &[(&str, i32)]| pairs.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect::<Vec<_>>();
    bench.put("packages/p", json!({ "parameters": list(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]) })).await.ok();
    bench
        .put("packages/q", json!({ "binding": { "namespace": "_", "name": "p" }, "parameters": list(&[("b", 2), ("c", 2), ("d", 2)]) }))
        .await
        .ok();
    bench
        .put("actions/p/f", json!({ "exec": { "kind": "nodejs:20", "code": "//echo" }, "parameters": list(&[("c", 3), ("d", 3)]) }))
        .await
        .ok();
    assert_eq!(bench.call("p/f", json!({ "d": 4 })).await.ok(), json!({ "a": 1, "b": 1, "c": 3, "d": 4 }));
    assert_eq!(bench.call("q/f", json!({ "d": 4 })).await.ok(), json!({ "a": 1, "b": 2, "c": 3, "d": 4 }));
    let record = bench.post("actions/q/f?blocking=true", json!({})).await.ok();
    assert_eq!((annotation(&record, "path"), annotation(&record, "binding")), (Some(&json!("ada/p/f")), Some(&json!("ada/q"))));
    assert_eq!(bench.get("activations?name=q/f").await.ok().as_array().unwrap().len(), 2);
    // As a client sees them.
    let shown = bench.get("actions/q/f").await.ok();
    assert_eq!((&shown["namespace"], shown["parameters"].as_array().unwrap().len()), (&json!("ada/p"), 4));
    assert_eq!(bench.get("actions/q/f?code=false").await.ok()["binding"], "ada/q");
    let package = bench.get("packages/q").await.ok();
    assert_eq!(package["binding"], json!({ "namespace": "ada", "name": "p" }));
    assert_eq!(package["actions"][0]["name"], "f");
    assert_eq!(package["parameters"], json!(list(&[("a", 1), ("b", 2), ("c", 2), ("d", 2)])));
    assert_eq!(annotation(&package, "binding"), Some(&json!({ "namespace": "ada", "name": "p" })));
    assert_eq!(bench.get("actions/q/").await.ok()[0]["namespace"], "ada/p");
    assert_eq!(bench.get("packages").await.ok().as_array().unwrap().len(), 2);
    assert_eq!(bench.get("packages?count=true").await.ok(), json!({ "packages": 2 }));
}

#[tokio::test]
async fn packages_are_made_changed_and_deleted() {
    let bench = Bench::new();
    let made =
        bench.put("packages/p", json!({ "annotations": [{ "key": "binding", "value": "forged" }, { "key": "x", "value": 1 }] })).await.ok();
    assert_eq!((&made["binding"], annotation(&made, "binding")), (&json!({}), None));
    assert_eq!(bench.put("packages/p", json!({})).await.error(409), "resource already exists");
    assert_eq!(bench.put("packages/p?overwrite=true", json!({ "publish": true })).await.ok()["version"], "0.0.2");
    assert_eq!(bench.put("packages/default", json!({})).await.error(400), "Package name 'default' is reserved.");
    bench.action("p/a", "echo").await;
    assert_eq!(
        bench.delete("packages/p").await.error(409),
        "Package not empty (contains 1 entity). Set force param or delete package contents."
    );
    bench.action("p/b", "echo").await;
    bench.call("p/a", json!({})).await.ok();
    assert!(bench.delete("packages/p").await.error(409).contains("contains 2 entities"));
    bench.delete("packages/p?force=true").await.ok();
    bench.get("actions/p/a").await.error(404);
    assert!(lock(&bench.functions.deployed).is_empty());
    assert!(lock(&bench.store.kept).keys().all(|key| key.kind == "activation"));
}

#[tokio::test]
async fn bindings_have_their_rules() {
    let bench = Bench::new();
    bench.put("packages/p", json!({})).await.ok();
    bench.action("p/f", "echo").await;
    let bind = |name: &str| json!({ "binding": { "namespace": "_", "name": name } });
    bench.put("packages/q", bind("p")).await.ok();
    assert_eq!(bench.put("packages/r", bind("nothing")).await.error(400), "Binding references a package that does not exist.");
    assert_eq!(bench.put("packages/r", bind("q")).await.error(400), "Cannot bind to another package binding.");
    assert_eq!(bench.put("packages/p?overwrite=true", bind("q")).await.error(400), "Cannot bind to another package binding.");
    bench.put("packages/s", json!({})).await.ok();
    assert_eq!(
        bench.put("packages/p?overwrite=true", bind("s")).await.error(409),
        "Resource is a package and cannot be converted into a binding."
    );
    bench.put("packages/q?overwrite=true", bind("q")).await.error(422);
    let not_on_bindings = "Operation not permitted on package binding.";
    assert_eq!(bench.put("actions/q/g", json!({ "exec": { "kind": "nodejs:20", "code": "" } })).await.error(400), not_on_bindings);
    assert_eq!(bench.delete("actions/q/f").await.error(400), not_on_bindings);
    // A binding may go whatever is in the package.
    bench.delete("packages/q").await.ok();
    bench.get("actions/p/f").await.ok();
}

#[tokio::test]
async fn published_packages_are_for_everybody() {
    let bench = Bench::new();
    bench.put("packages/p", json!({ "parameters": [{ "key": "secret", "value": 1 }] })).await.ok();
    bench.action("p/f", "env").await;
    let bob = |method: Method, target: &'static str, body: Value| {
        let bench = &bench;
        async move { bench.send("bob", method, target, &[], body.to_string()).await }
    };
    let target = "/namespaces/ada/actions/p/f?blocking=true&result=true";
    bob(Method::POST, target, json!({})).await.error(403);
    bob(Method::GET, "/namespaces/ada/packages/p", json!({})).await.error(403);
    let bind = json!({ "binding": { "namespace": "ada", "name": "p" } });
    bob(Method::PUT, "/namespaces/_/packages/mine", bind.clone()).await.error(403);
    assert_eq!(bob(Method::GET, "/namespaces/ada/packages", json!({})).await.ok(), json!([]));

    bench.put("packages/p?overwrite=true", json!({ "publish": true })).await.ok();
    let env = bob(Method::POST, target, json!({})).await.ok();
    assert_eq!((&env["__OW_NAMESPACE"], &env["__OW_ACTION_NAME"]), (&json!("bob"), &json!("/ada/p/f")));
    assert_eq!(bob(Method::GET, "/namespaces/ada/packages", json!({})).await.ok()[0]["name"], "p");
    bob(Method::PUT, "/namespaces/_/packages/mine", bind).await.ok();
    bob(Method::POST, "/namespaces/_/actions/mine/f?blocking=true", json!({})).await.ok();
    // The record is the caller's, and so are the limits.
    assert_eq!(bob(Method::GET, "/namespaces/_/activations?count=true", json!({})).await.ok(), json!({ "activations": 2 }));
    assert_eq!(bench.get("activations?count=true").await.ok(), json!({ "activations": 0 }));
    assert_eq!(lock(&bench.notes.0)[0].action, "/ada/p/f");
    // To change it is the owner's alone.
    bob(Method::DELETE, "/namespaces/ada/actions/p/f", json!({})).await.error(403);
    bob(Method::PUT, "/namespaces/ada/actions/p/f?overwrite=true", json!({})).await.error(403);
    // Withdrawn, it is closed to those who have bound it as well.
    bench.put("packages/p?overwrite=true", json!({ "publish": false })).await.ok();
    bob(Method::POST, "/namespaces/_/actions/mine/f", json!({})).await.error(403);
}

#[tokio::test]
async fn code_may_be_for_calling_only() {
    let bench = Bench::with(|config| config.execute_only = true);
    bench.put("packages/p", json!({ "publish": true })).await.ok();
    bench.action("p/f", "echo").await;
    let bob = async |target: &str| bench.send("bob", Method::GET, target, &[], "").await;
    assert!(bob("/namespaces/ada/actions/p/f").await.error(403).contains("shared package"));
    assert!(bob("/namespaces/ada/packages/p").await.error(403).contains("shared package"));
    bench.send("bob", Method::POST, "/namespaces/ada/actions/p/f?blocking=true", &[], "{}").await.ok();
    bench.get("actions/p/f").await.ok();
}

#[tokio::test]
async fn instances_that_stay_are_not_shared_between_owners() {
    let bench = Bench::new();
    bench.put("packages/p", json!({ "publish": true })).await.ok();
    for (name, reuse, deployments) in [("keep", "keep", 2), ("fresh", "fresh", 1)] {
        let body =
            json!({ "exec": { "kind": "nodejs:20", "code": "//echo" }, "annotations": [{ "key": "teemate-reuse", "value": reuse }] });
        bench.put(&format!("actions/p/{name}"), body).await.ok();
        let before = bench.functions.deploys.load(Ordering::Relaxed);
        for owner in ["ada", "bob", "ada", "bob"] {
            bench.send(owner, Method::POST, &format!("/namespaces/ada/actions/p/{name}?blocking=true"), &[], "{}").await.ok();
        }
        assert_eq!(bench.functions.deploys.load(Ordering::Relaxed) - before, deployments, "{name}");
    }
}
