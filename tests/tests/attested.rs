//! The user's side and the enclave's, each with the other's real code: attested connections, challenges, receipts. The quotes are simulated.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use teemate_attestation::http::Request;
use teemate_attestation::policy::Identity;
use teemate_attestation::{Connector, Document, Endpoint, Policy, Session, now, session, tls};
use teemate_evidence::api::ReceiptBundle;
use teemate_evidence::receipt::{Limits, Receipt, Reuse, Status, Usage, VERSION};
use teemate_gateway::testing::{ADA, Echo, MRENCLAVE, SimulatedAttester, parts};
use teemate_gateway::{Gateway, Receipts, Settings, State};

fn policy() -> Policy {
    Policy { insecure_simulation: true, ..Policy::strict(vec![Identity::Enclave { mrenclave: MRENCLAVE }]) }
}

fn start(settings: Settings) -> (Gateway, Endpoint, Arc<Receipts>) {
    let parts = parts(SimulatedAttester::failing(0), Arc::new(Echo::default()), settings).unwrap();
    let endpoint = format!("localhost:{}", parts.listener.local_addr().unwrap().port()).parse().unwrap();
    let receipts = parts.receipts.clone();
    let gateway = Gateway::start(parts).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while gateway.state() != State::Serving {
        assert!(Instant::now() < end, "it does not serve");
        std::thread::sleep(Duration::from_millis(2));
    }
    (gateway, endpoint, receipts)
}

#[test]
fn a_client_takes_the_gateway_for_what_it_is() {
    let (_gateway, endpoint, receipts) = start(Settings { padding: true, ..Settings::default() });
    let mut session = Session::open(&Connector::new(policy()).unwrap(), &endpoint).unwrap();
    assert_eq!(session.verified().mrenclave, MRENCLAVE);
    assert!(session.info().unwrap().simulation);
    let nonce = session::nonce().unwrap();
    assert_eq!(session.attest(nonce, now()).unwrap().binding.nonce, Some(nonce));

    let activation = "0123456789abcdef0123456789abcdef";
    let receipt = Receipt {
        version: VERSION,
        owner: "ada".into(),
        action: "hello".into(),
        action_version: "0.0.1".into(),
        code_sha256: [1; 32],
        limits: Limits { timeout_ms: 60_000, memory: 256 << 20, fuel: None, log: 10 << 20, result: 1 << 20 },
        container: 7,
        activation: activation.into(),
        reuse: Reuse::Fresh,
        status: Status::Success,
        usage: Usage::default(),
        input_sha256: None,
        output_sha256: None,
        untrusted_start_ms: 1,
        untrusted_end_ms: 2,
    };
    receipts.issue(&receipt).unwrap();
    let path = format!("/teemate/v1/receipts/{activation}");
    let credentials = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(ADA));
    let request = Request { method: "GET", path: &path, headers: &[("authorization", &credentials)], body: None };
    let answer = session.client().send(&request, 1 << 20).unwrap();
    assert_eq!(answer.status, 200);
    let bundle: ReceiptBundle = serde_json::from_slice(&answer.body).unwrap();
    // Offline: the gateway is not asked again.
    let findings = Document::Receipt(Box::new(bundle)).verify(None, &policy(), None, now()).unwrap();
    assert_eq!(findings.receipt.unwrap(), receipt);
}

#[test]
fn a_client_with_another_policy_sends_nothing() {
    let (gateway, endpoint, _) = start(Settings::default());
    let other = Policy { insecure_simulation: true, ..Policy::strict(vec![Identity::Enclave { mrenclave: [0; 32] }]) };
    for policy in [other, Policy { insecure_simulation: false, ..policy() }] {
        let error = Session::open(&Connector::new(policy).unwrap(), &endpoint).err().unwrap();
        assert!(matches!(error, session::Error::Connect(tls::Error::Refused { .. })), "{error}");
    }
    gateway.drain(Duration::from_secs(60));
    assert_eq!(gateway.counts().requests, 0);
}
