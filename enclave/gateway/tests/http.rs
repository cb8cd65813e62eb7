//! What a well-behaved client sees.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{Http1, Http2, anonymous, request, run, start, start_failing, wait_for};
use serde_json::{Value, json};
use teemate_evidence::api::{AttestResponse, Info, ReceiptBundle};
use teemate_evidence::quote::Quote;
use teemate_gateway::testing::{ADA, MRENCLAVE};
use teemate_gateway::{Settings, State};

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(body)))
}

#[test]
fn both_versions_answer_the_same() {
    let running = start(Settings::default());
    run(async {
        let mut one = Http1::connect(running.address).await;
        let mut two = Http2::connect(running.address).await;
        for round in 0..3 {
            let body = format!("{{\"round\":{round}}}");
            let (status, _, got) = one.send(request("POST", "/api/v1/echo", body.clone())).await.unwrap();
            assert_eq!((status, &got[..]), (200, body.as_bytes()));
            let (status, _, got) = two.send(request("POST", "/api/v1/echo", body.clone())).await.unwrap();
            assert_eq!((status, &got[..]), (200, body.as_bytes()));
        }
        for length in [0, 1, 16_384, 16_385, 1_000_000] {
            let path = format!("/api/v1/bytes?n={length}");
            let (_, headers, got) = one.send(request("GET", &path, "")).await.unwrap();
            assert_eq!((got.len(), headers["content-length"].to_str().unwrap()), (length, &length.to_string()[..]));
            let (_, _, got) = two.send(request("GET", &path, "")).await.unwrap();
            assert_eq!(got.len(), length);
            // Of the size alone.
            let (_, headers, got) = one.send(request("HEAD", &path, "")).await.unwrap();
            assert_eq!((got.len(), headers["content-length"].to_str().unwrap()), (0, &length.to_string()[..]));
            let (_, headers, got) = two.send(request("HEAD", &path, "")).await.unwrap();
            assert_eq!((got.len(), headers["content-length"].to_str().unwrap()), (0, &length.to_string()[..]));
        }
        for (status, path) in
            [(404, "/"), (404, "/api/v2"), (404, "/api/v1/nothing"), (404, "/teemate/v1/nothing"), (405, "/teemate/v1/attest")]
        {
            let (got, _, body) = one.send(request("GET", path, "")).await.unwrap();
            assert_eq!(got, status, "{path}");
            assert!(parse(&body)["error"].is_string() && parse(&body)["code"].is_string(), "{path}");
        }
    });
    let counts = running.gateway.counts();
    assert_eq!((counts.accepted, counts.handshakes, counts.handshakes_failed), (2, 2, 0));
    assert_eq!(counts.requests, counts.answered_well + counts.answered_client_error);
}

#[test]
fn owners_are_told_apart_and_others_refused_before_their_body_is_read() {
    let running = start(Settings::default());
    run(async {
        let mut client = Http2::connect(running.address).await;
        let (status, _, body) = client.send(request("GET", "/api/v1/who", "")).await.unwrap();
        assert_eq!((status, &body[..]), (200, &b"ada"[..]));
        for wrong in [None, Some("ada:ada"), Some(&ADA[..ADA.len() - 1])] {
            let (status, headers, body) = client.send(anonymous("POST", "/api/v1/large", vec![0; 10_000], wrong)).await.unwrap();
            assert_eq!(status, 401);
            assert!(headers.contains_key("www-authenticate"));
            let text = if wrong.is_none() {
                "The resource requires authentication, which was not supplied with the request"
            } else {
                "The supplied authentication is invalid"
            };
            assert_eq!(parse(&body)["error"], text);
            // A web action is for anybody, whatever lies in the header.
            let (status, _, body) = client.send(anonymous("GET", "/api/v1/web/who", "", wrong)).await.unwrap();
            assert_eq!((status, &body[..]), (200, &b""[..]));
        }
        let (_, _, body) = client.send(request("GET", "/api/v1/web/who", "")).await.unwrap();
        assert_eq!(&body[..], b"ada");
    });
    assert_eq!(running.gateway.counts().refused_credentials, 3);
}

#[test]
fn the_enclave_says_what_it_is_and_answers_a_challenge() {
    let running = start(Settings::default());
    run(async {
        let mut client = Http1::connect(running.address).await;
        let (_, headers, body) = client.send(anonymous("GET", "/teemate/v1/info", "", None)).await.unwrap();
        assert_eq!(headers["cache-control"], "no-store");
        let info: Info = serde_json::from_slice(&body).unwrap();
        assert_eq!((info.mrenclave, info.simulation, info.epoch), (MRENCLAVE, true, 1));
        let nonce = "A".repeat(42) + "E";
        let (_, _, body) = client.send(anonymous("POST", "/teemate/v1/attest", json!({ "nonce": nonce }).to_string(), None)).await.unwrap();
        let answer: AttestResponse = serde_json::from_slice(&body).unwrap();
        answer.binding.check(&Quote::parse(&answer.quote).unwrap().body.report_data()).unwrap();
        assert_eq!(answer.binding.nonce.unwrap()[31], 1);
        assert_eq!(answer.binding.receipt_key, info.receipt_key);
        for wrong in ["", "{}", "{\"nonce\":\"AAAA\"}", "[]"] {
            let (status, _, _) = client.send(anonymous("POST", "/teemate/v1/attest", wrong, None)).await.unwrap();
            assert_eq!(status, 400, "{wrong}");
        }
        let (status, _, body) = client.send(anonymous("GET", "/teemate/v1/health", "", None)).await.unwrap();
        assert_eq!((status, parse(&body)["status"].as_str().unwrap()), (200, "ok"));
    });
}

#[test]
fn an_invitation_makes_an_owner_once() {
    let running = start(Settings::default());
    run(async {
        let mut client = Http1::connect(running.address).await;
        let claim = |token: &str| anonymous("POST", "/teemate/v1/claim", json!({ "token": token }).to_string(), None);
        let (status, _, body) = client.send(claim("welcome")).await.unwrap();
        assert_eq!(status, 200);
        let claimed = parse(&body);
        assert_eq!(claimed["namespace"], "bob");
        let credentials = format!("{}:{}", claimed["uuid"].as_str().unwrap(), claimed["key"].as_str().unwrap());
        let (_, _, body) = client.send(anonymous("GET", "/api/v1/who", "", Some(&credentials))).await.unwrap();
        assert_eq!(&body[..], b"bob");
        let (status, _, body) = client.send(claim("welcome")).await.unwrap();
        assert_eq!(status, 403);
        assert!(parse(&body)["error"].as_str().unwrap().contains("claimed already"));
    });
}

#[test]
fn a_receipt_is_for_its_owner_and_can_be_checked() {
    use teemate_evidence::receipt::{Limits, Receipt, Reuse, Status, Usage, VERSION};
    let running = start(Settings::default());
    let activation = "0123456789abcdef0123456789abcdef".to_owned();
    let receipt = Receipt {
        version: VERSION,
        owner: "ada".into(),
        action: "hello".into(),
        action_version: "0.0.1".into(),
        code_sha256: [1; 32],
        limits: Limits { timeout_ms: 60_000, memory: 256 << 20, fuel: None, log: 10 << 20, result: 1 << 20 },
        container: 7,
        activation: activation.clone(),
        reuse: Reuse::Fresh,
        status: Status::Success,
        usage: Usage::default(),
        input_sha256: None,
        output_sha256: None,
        untrusted_start_ms: 1,
        untrusted_end_ms: 2,
    };
    running.receipts.issue(&receipt).unwrap();
    run(async {
        let mut client = Http1::connect(running.address).await;
        let path = format!("/teemate/v1/receipts/{activation}");
        let (status, _, body) = client.send(request("GET", &path, "")).await.unwrap();
        assert_eq!(status, 200);
        let bundle: ReceiptBundle = serde_json::from_slice(&body).unwrap();
        let data = Quote::parse(&bundle.quote).unwrap().body.report_data();
        assert_eq!(bundle.check(&data).unwrap(), receipt);
        assert_eq!(client.send(anonymous("GET", &path, "", None)).await.unwrap().0, 401);
        let (_, _, body) =
            client.send(anonymous("POST", "/teemate/v1/claim", json!({ "token": "welcome" }).to_string(), None)).await.unwrap();
        let bob = format!("uuid-of-bob:{}", parse(&body)["key"].as_str().unwrap());
        assert_eq!(client.send(anonymous("GET", &path, "", Some(&bob))).await.unwrap().0, 404);
    });
}

#[test]
fn nothing_is_served_before_there_is_a_quote() {
    let running = start_failing(Settings::default(), 2);
    wait_for(|| matches!(running.gateway.state(), State::Attesting(Some(_))));
    let State::Attesting(Some(why)) = running.gateway.state() else { panic!("it serves already") };
    assert!(why.contains("quoting service"), "{why}");
    assert_eq!(running.gateway.counts().accepted, 0);
    run(async {
        // Waits in the backlog until the gateway serves.
        let mut client = Http1::connect(running.address).await;
        assert_eq!(client.send(request("GET", "/api/v1/who", "")).await.unwrap().0, 200);
    });
    let counts = running.gateway.counts();
    assert_eq!((counts.quotes_failed, counts.certificates), (2, 1));
}

#[test]
fn a_gateway_without_a_quote_can_be_stopped() {
    let running = start_failing(Settings::default(), usize::MAX);
    wait_for(|| matches!(running.gateway.state(), State::Attesting(Some(_))));
    running.gateway.drain(common::PATIENCE);
    assert_eq!(running.gateway.state(), State::Ended);
}

#[test]
fn answers_are_padded_when_that_is_asked_for() {
    let running = start(Settings { padding: true, ..Settings::default() });
    run(async {
        let mut client = Http2::connect(running.address).await;
        let mut sizes = std::collections::BTreeSet::new();
        for length in [10, 100, 900] {
            let body = format!("\"{}\"", "x".repeat(length));
            let (_, _, got) = client.send(request("POST", "/api/v1/echo", body.clone())).await.unwrap();
            assert_eq!(parse(&got), parse(body.as_bytes()));
            sizes.insert(got.len());
        }
        assert_eq!(sizes.len(), 1);
    });
}

#[test]
fn a_caller_can_have_its_own_answers_padded() {
    let running = start(Settings::default());
    run(async {
        let mut client = Http2::connect(running.address).await;
        let body = "{\"a\":1}";
        let mut size = async |value: Option<&str>| {
            let mut request = request("POST", "/api/v1/echo", body);
            if let Some(value) = value {
                request.headers_mut().insert("x-teemate-padding", value.parse().unwrap());
            }
            let (_, _, got) = client.send(request).await.unwrap();
            assert_eq!(parse(&got), parse(body.as_bytes()));
            got.len()
        };
        let plain = size(None).await;
        assert!(plain < 1 << 10);
        assert_eq!(size(Some("on")).await, 1 << 10);
        // Each request for itself.
        assert_eq!(size(None).await, plain);
        assert_eq!(size(Some("off")).await, plain);
    });
}

#[test]
fn curl_speaks_both_versions() {
    let running = start(Settings::default());
    let url = format!("https://{}/api/v1/echo", running.address);
    let body = "x".repeat(100_000);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let curl = Command::new("curl")
            .args([
                "--silent",
                "--insecure",
                "--user",
                ADA,
                option,
                "--data-binary",
                "@-",
                "--write-out",
                " %{http_code} %{http_version}",
                &url,
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut curl) = curl else {
            println!("SKIPPED: there is no curl here");
            return;
        };
        std::io::Write::write_all(&mut curl.stdin.take().unwrap(), body.as_bytes()).unwrap();
        let output = curl.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, format!("{body} 200 {version}"), "{option}");
    }
}
