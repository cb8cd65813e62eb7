//! Secrets from a real server of the protocol, and from one that a host has put itself in front of.
#![allow(clippy::unwrap_used)]

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::{Value, json};
use teemate_kbs::testing::{Authority, Broker, REPORT_DATA, encrypt};
use teemate_kbs::{Answer, Evidence, Hello, Http, KbsError, Method, Request, ResourceId, Transport, release};

const SECRETS: &[(&str, &[u8])] =
    &[("default/key/one", b"first secret"), ("repo/password/two", &[0xfe; 70_000]), ("repo/empty/three", b"")];

fn broker() -> Broker {
    Broker::new(SECRETS, "default/key/denied")
}

/// Something of a quote's length with REPORT_DATA in its place. What else is in a quote the broker's verifier would look at.
fn quote(report_data: [u8; 64]) -> io::Result<Vec<u8>> {
    let mut quote = vec![3; 1200];
    quote[REPORT_DATA].copy_from_slice(&report_data);
    Ok(quote)
}

fn connect(address: &str) -> Http<TcpStream> {
    Http::new(TcpStream::connect(address).unwrap(), address, "").unwrap()
}

fn ids(names: &[&str]) -> Vec<ResourceId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn all() -> Vec<ResourceId> {
    SECRETS.iter().map(|(name, _)| name.parse().unwrap()).collect()
}

#[test]
fn secrets_come_to_whom_the_quote_names() {
    for chunked in [false, true] {
        let mut broker = broker();
        broker.chunked = chunked;
        let mut http = connect(&Arc::new(broker).serve(None));
        // Twice over one connection: each time another key and another challenge.
        for _ in 0..2 {
            let released = release(&mut http, quote, &all()).unwrap();
            assert!(released.iter().eq(SECRETS.iter().map(|(_, secret)| *secret)));
        }
    }
}

#[test]
fn what_the_broker_says_no_to_is_told_apart() {
    let address = Arc::new(broker()).serve(None);
    let ask = |quote: fn([u8; 64]) -> io::Result<Vec<u8>>, name: &str| release(&mut connect(&address), quote, &ids(&[name])).unwrap_err();
    let error = ask(|_| Ok(vec![0; 1200]), "default/key/one");
    assert!(matches!(&error, KbsError::Refused { detail, .. } if detail.contains("REPORT_DATA")), "{error}");
    let error = ask(|_| Err(io::ErrorKind::NotFound.into()), "default/key/one");
    assert!(matches!(error, KbsError::Quote(_)));
    let error = ask(quote, "default/key/denied");
    assert!(matches!(&error, KbsError::Denied { resource, .. } if resource == "kbs:///default/key/denied"), "{error}");
    let error = ask(quote, "default/key/none");
    assert!(matches!(&error, KbsError::NotFound { resource, .. } if resource == "kbs:///default/key/none"), "{error}");
    let challenge = connect(&address).exchange(&Hello::insecure_sample().request().unwrap()).unwrap();
    assert!(matches!(Hello::insecure_sample().answer(&challenge), Err(KbsError::Refused { .. })), "this broker takes no samples");
}

#[test]
fn tls_authenticates_the_broker() {
    let (authority, stranger) = (Authority::new("the owner's"), Authority::new("the host's"));
    let address = Arc::new(broker()).serve(Some(authority.server("broker.example")));
    let ask = |name: &str, roots: &str| {
        let broker = teemate_kbs::Broker::new(&format!("https://{name}"), roots)?;
        release(&mut broker.over(TcpStream::connect(&address).unwrap())?, quote, &all())
    };
    assert_eq!(ask("broker.example", &authority.pem()).unwrap().len(), 3);
    assert!(matches!(ask("broker.example", &stranger.pem()), Err(KbsError::Connection(_))), "another authority");
    assert!(matches!(ask("other.example", &authority.pem()), Err(KbsError::Connection(_))), "another name");
    assert!(matches!(ask("broker.example", ""), Err(KbsError::Tls(_))));
}

#[test]
fn a_broker_can_tell_owners_and_enclaves_apart() {
    let authority = Authority::new("the owner's");
    let mut server = broker();
    (server.owner, server.measurement) = (Some("ada-1".into()), Some([3; 32]));
    let server = Arc::new(server);
    let address = format!("https://{}", server.serve(Some(authority.server("127.0.0.1"))));
    let broker = teemate_kbs::Broker::new(&address, &authority.pem()).unwrap();
    let ask = |owner: &str, quote: fn([u8; 64]) -> io::Result<Vec<u8>>| {
        let http = broker.over(TcpStream::connect(broker.endpoint()).unwrap())?;
        release(&mut http.with_header("x-teemate-owner", owner)?, quote, &all())
    };
    assert_eq!(ask("ada-1", quote).unwrap().len(), 3);
    let error = ask("eve-1", quote).unwrap_err();
    assert!(matches!(&error, KbsError::Refused { detail, .. } if detail.contains("another owner")), "{error}");
    let other = |report_data| {
        let mut quote = quote(report_data)?;
        quote[112] = 4;
        Ok(quote)
    };
    let error = ask("ada-1", other).unwrap_err();
    assert!(matches!(&error, KbsError::Refused { detail, .. } if detail.contains("MRENCLAVE")), "{error}");
    assert_eq!(server.released.load(std::sync::atomic::Ordering::SeqCst), 3);
}

/// A host that changes what passes it.
struct Between<F> {
    broker: Http<TcpStream>,
    change: F,
}

impl<F: FnMut(&mut Request, Option<&mut Answer>)> Transport for Between<F> {
    fn exchange(&mut self, request: &Request) -> Result<Answer, KbsError> {
        let mut request = request.clone();
        (self.change)(&mut request, None);
        let mut answer = self.broker.exchange(&request)?;
        (self.change)(&mut request, Some(&mut answer));
        Ok(answer)
    }
}

fn with_host(change: impl FnMut(&mut Request, Option<&mut Answer>)) -> Result<Vec<Vec<u8>>, KbsError> {
    release(&mut Between { broker: connect(&Arc::new(broker()).serve(None)), change }, quote, &all())
}

/// A key of the host.
fn hosts_key() -> Value {
    let challenge = Answer { status: 200, cookies: vec!["kbs-session-id=1".into()], body: br#"{"nonce":"n"}"#.to_vec() };
    let request = Hello::sgx().answer(&challenge).unwrap().request(&Evidence::Sgx { quote: Vec::new() }).unwrap();
    serde_json::from_slice::<Value>(&request.body).unwrap()["runtime-data"]["tee-pubkey"].clone()
}

#[test]
fn a_host_between_the_two_gets_and_gives_nothing() {
    assert!(with_host(|_, _| {}).is_ok());
    // It puts its own key in the enclave's place: the quote binds the other.
    let refused = with_host(|request, answer| {
        if answer.is_none() && request.path.ends_with("attest") {
            let mut body: Value = serde_json::from_slice(&request.body).unwrap();
            body["runtime-data"]["tee-pubkey"] = hosts_key();
            request.body = body.to_string().into_bytes();
        }
    });
    assert!(matches!(refused, Err(KbsError::Refused { .. })));
    // It gives the enclave another challenge, say one that it got for itself.
    let refused = with_host(|request, answer| {
        if let Some(answer) = answer.filter(|_| request.path.ends_with("auth")) {
            answer.body = json!({"nonce": "b3RoZXI=", "extra-params": ""}).to_string().into_bytes();
        }
    });
    assert!(matches!(refused, Err(KbsError::Refused { .. })));
    // It changes a secret, or gives one that was encrypted for another session.
    for name in ["protected", "encrypted_key", "iv", "ciphertext", "tag", "aad"] {
        let changed = with_host(|request, answer| {
            if let Some(answer) = answer.filter(|_| request.method == Method::Get) {
                let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
                let mut text = body[name].as_str().unwrap_or_default().to_owned();
                let at = text.len().saturating_sub(5);
                text.replace_range(at.., if text.ends_with("AAAAA") { "BBBBB" } else { "AAAAA" });
                body[name] = text.into();
                answer.body = body.to_string().into_bytes();
            }
        });
        assert!(matches!(changed, Err(KbsError::Decrypt | KbsError::Malformed { .. })), "{name}: {changed:?}");
    }
    let other = encrypt(&hosts_key(), b"another secret");
    let changed = with_host(|request, answer| {
        if let Some(answer) = answer.filter(|_| request.method == Method::Get) {
            answer.body = other.to_string().into_bytes();
        }
    });
    assert!(matches!(changed, Err(KbsError::Decrypt)));
}

#[test]
fn weaker_algorithms_are_not_taken() {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    let with_header = |header: Value| {
        with_host(|request, answer| {
            if let Some(answer) = answer.filter(|_| request.method == Method::Get) {
                let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
                body["protected"] = BASE64_URL_SAFE_NO_PAD.encode(header.to_string()).into();
                answer.body = body.to_string().into_bytes();
            }
        })
        .unwrap_err()
    };
    let epk = json!({"kty": "EC", "crv": "P-256", "x": "", "y": ""});
    for header in [
        json!({"alg": "dir", "enc": "A256GCM", "epk": epk}),
        json!({"alg": "RSA1_5", "enc": "A256GCM"}),
        json!({"alg": "ECDH-ES+A256KW", "enc": "A128CBC-HS256", "epk": epk}),
        json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": epk, "zip": "DEF"}),
        json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": epk, "crit": ["x"]}),
        json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": {"kty": "OKP", "crv": "X25519", "x": "", "y": ""}}),
    ] {
        assert!(matches!(with_header(header.clone()), KbsError::Unsupported { .. }), "{header}");
    }
    for header in [
        json!({}),
        json!([]),
        json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}),
        json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": epk}),
    ] {
        assert!(matches!(with_header(header.clone()), KbsError::Malformed { .. }), "{header}");
    }
}
