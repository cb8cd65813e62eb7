//! The protocol's steps, without input and output. Each step consumes the one before it.

use ring::digest::{SHA384, digest};

use crate::jwe;
use crate::key::SessionKey;
use crate::message::{Attestation, Attested, AuthRequest, Bound, Challenge, ErrorInformation, Evidence, Jwk, RuntimeData, TeeEvidence};
use crate::{KbsError, ResourceId};

/// The protocol's version.
pub const VERSION: &str = "0.4.0";

const COOKIE: &str = "kbs-session-id";
const LONGEST_COOKIE: usize = 512;
const LONGEST_NONCE: usize = 1024;
const LONGEST_TOKEN: usize = 256 << 10;
/// Of a broker's words so much is repeated.
const LONGEST_DETAIL: usize = 500;
/// An enclave has one kind of evidence.
const NO_MORE: &str = "";

const AUTH: &str = "the first request";
const ATTEST: &str = "the quote";
const RESOURCE: &str = "the request of a resource";

/// Methods of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path, below what the broker's address has.
    pub path: String,
    /// Value of the `Cookie` header.
    pub cookie: Option<String>,
    /// JSON.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// Values of the `Set-Cookie` headers.
    pub cookies: Vec<String>,
    /// Body.
    pub body: Vec<u8>,
}

/// Before the first request.
pub struct Hello {
    tee: &'static str,
}

/// With a challenge.
pub struct Challenged {
    tee: &'static str,
    nonce: String,
    cookie: String,
    key: SessionKey,
    public: Jwk,
}

/// The broker knows the enclave.
pub struct Session {
    cookie: String,
    token: String,
    key: SessionKey,
}

impl Hello {
    /// For an SGX enclave.
    pub fn sgx() -> Hello {
        Hello { tee: "sgx" }
    }

    /// For brokers that accept the `sample` TEE, which proves nothing.
    pub fn insecure_sample() -> Hello {
        Hello { tee: "sample" }
    }

    /// Asks for a challenge.
    ///
    /// # Errors
    /// None that can be met.
    pub fn request(&self) -> Result<Request, KbsError> {
        let body = AuthRequest { version: VERSION, tee: self.tee, extra_params: "" };
        Ok(Request { method: Method::Post, path: "/kbs/v0/auth".into(), cookie: None, body: json(&body)? })
    }

    /// Reads the challenge, and makes the session's key.
    ///
    /// # Errors
    /// When the broker refuses, or its answer does not follow the protocol.
    pub fn answer(self, answer: &Answer) -> Result<Challenged, KbsError> {
        expect_ok(AUTH, answer)?;
        let wrong = |what| KbsError::Malformed { step: AUTH, what };
        let challenge: Challenge = serde_json::from_slice(&answer.body).map_err(|_| wrong("it is no challenge"))?;
        if challenge.nonce.is_empty() || challenge.nonce.len() > LONGEST_NONCE {
            return Err(wrong("its nonce is empty or too long"));
        }
        // Some brokers choose the hash of REPORT_DATA.
        let hash = challenge.extra_params.get("selected-hash-algorithm").and_then(|name| name.as_str());
        if hash.is_some_and(|name| !name.eq_ignore_ascii_case("sha384") && !name.eq_ignore_ascii_case("sha-384")) {
            return Err(KbsError::Unsupported { what: "another hash than SHA-384" });
        }
        let cookie = session_cookie(answer).ok_or(wrong("it begins no session"))?;
        let key = SessionKey::generate()?;
        Ok(Challenged { tee: self.tee, nonce: challenge.nonce, cookie, public: key.public(), key })
    }
}

impl Challenged {
    /// What the quote must contain: SHA-384 of the challenge and the session's public key, padded by zeros.
    ///
    /// # Errors
    /// None that can be met.
    pub fn report_data(&self) -> Result<[u8; 64], KbsError> {
        let bound = Bound { additional_evidence: NO_MORE, nonce: &self.nonce, tee_pubkey: &self.public };
        let mut data = [0; 64];
        data[..48].copy_from_slice(digest(&SHA384, &json(&bound)?).as_ref());
        Ok(data)
    }

    /// Shows the evidence.
    ///
    /// # Errors
    /// When the evidence is not of the TEE that was announced.
    pub fn request(&self, evidence: &Evidence) -> Result<Request, KbsError> {
        if evidence.tee() != self.tee {
            return Err(KbsError::Unsupported { what: "evidence of another TEE" });
        }
        let body = Attestation {
            runtime_data: RuntimeData { nonce: &self.nonce, tee_pubkey: &self.public },
            tee_evidence: TeeEvidence { primary_evidence: evidence, additional_evidence: NO_MORE },
        };
        Ok(Request { method: Method::Post, path: "/kbs/v0/attest".into(), cookie: Some(self.cookie.clone()), body: json(&body)? })
    }

    /// Reads what the broker thinks of it.
    ///
    /// # Errors
    /// When the broker refuses, or its answer does not follow the protocol.
    pub fn answer(self, answer: &Answer) -> Result<Session, KbsError> {
        expect_ok(ATTEST, answer)?;
        let wrong = |what| KbsError::Malformed { step: ATTEST, what };
        let attested: Attested = serde_json::from_slice(&answer.body).map_err(|_| wrong("it has no token"))?;
        if attested.token.len() > LONGEST_TOKEN {
            return Err(wrong("its token is too long"));
        }
        let cookie = session_cookie(answer).unwrap_or(self.cookie);
        Ok(Session { cookie, token: attested.token, key: self.key })
    }
}

impl Session {
    /// The broker's attestation result, a JWT, for other services that trust it.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Asks for a secret.
    pub fn request(&self, resource: &ResourceId) -> Request {
        Request { method: Method::Get, path: resource.path(), cookie: Some(self.cookie.clone()), body: Vec::new() }
    }

    /// The secret.
    ///
    /// # Errors
    /// When the broker does not give it, or what it gives is not encrypted for this session.
    pub fn answer(&self, resource: &ResourceId, answer: &Answer) -> Result<Vec<u8>, KbsError> {
        let named = |make: fn(String, String) -> KbsError| make(resource.to_string(), detail(answer));
        match answer.status {
            200 => jwe::open(&answer.body, &self.key),
            403 => Err(named(|resource, detail| KbsError::Denied { resource, detail })),
            404 => Err(named(|resource, detail| KbsError::NotFound { resource, detail })),
            _ => Err(expect_ok(RESOURCE, answer).err().unwrap_or(KbsError::Decrypt)),
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, KbsError> {
    serde_json::to_vec(value).map_err(|error| KbsError::Connection(error.into()))
}

fn expect_ok(step: &'static str, answer: &Answer) -> Result<(), KbsError> {
    match answer.status {
        200 => Ok(()),
        401 | 403 => Err(KbsError::Refused { step, detail: detail(answer) }),
        status => Err(KbsError::Status { step, status, detail: detail(answer) }),
    }
}

/// The broker's words, made harmless.
fn detail(answer: &Answer) -> String {
    let information = serde_json::from_slice::<ErrorInformation>(&answer.body).map(|information| information.detail);
    let text = information.unwrap_or_default();
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_DETAIL).collect();
    if text.is_empty() { "it gives no reason".into() } else { text }
}

/// The session's cookie as it is sent back. One that could end the header is none.
fn session_cookie(answer: &Answer) -> Option<String> {
    let pairs = answer.cookies.iter().filter_map(|cookie| cookie.split(';').next()?.split_once('='));
    let value = pairs.filter(|(name, _)| name.trim() == COOKIE).map(|(_, value)| value.trim()).next_back()?;
    let harmless = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
    (!value.is_empty() && value.len() <= LONGEST_COOKIE && value.bytes().all(harmless)).then(|| format!("{COOKIE}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(cookie: &str, body: &str) -> Result<Challenged, KbsError> {
        Hello::sgx().answer(&Answer { status: 200, cookies: vec![cookie.into()], body: body.into() })
    }

    #[test]
    fn the_first_request_is_as_the_protocol_has_it() {
        let request = Hello::sgx().request().unwrap();
        assert_eq!((request.method, request.path.as_str(), request.cookie), (Method::Post, "/kbs/v0/auth", None));
        assert_eq!(request.body, br#"{"version":"0.4.0","tee":"sgx","extra-params":""}"#);
    }

    #[test]
    fn report_data_is_the_digest_of_the_canonical_text() {
        let challenged = challenge("kbs-session-id=1", r#"{"nonce":"n\"1","extra-params":""}"#).unwrap();
        let Jwk { x, y, .. } = &challenged.public;
        let text = format!(
            r#"{{"additional-evidence":"","nonce":"n\"1","tee-pubkey":{{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}}}"#
        );
        let data = challenged.report_data().unwrap();
        assert_eq!((&data[..48], &data[48..]), (digest(&SHA384, text.as_bytes()).as_ref(), &[0; 16][..]));
    }

    #[test]
    fn odd_challenges_are_refused() {
        let good = r#"{"nonce":"bm9uY2U=","extra-params":{"selected-hash-algorithm":"sha384"}}"#;
        assert!(challenge("kbs-session-id=abc; Path=/; HttpOnly", good).is_ok());
        for cookie in ["", "kbs-session-id=", "session=abc", "kbs-session-id=a b", "kbs-session-id=a\"b", "kbs-session-id=a\r\nX: y"] {
            assert!(matches!(challenge(cookie, good), Err(KbsError::Malformed { .. })), "{cookie:?}");
        }
        for body in ["", "{}", "[]", r#"{"nonce":""}"#, r#"{"nonce":1}"#, &format!(r#"{{"nonce":"{}"}}"#, "n".repeat(1025))] {
            assert!(matches!(challenge("kbs-session-id=1", body), Err(KbsError::Malformed { .. })), "{body}");
        }
        let other = r#"{"nonce":"n","extra-params":{"selected-hash-algorithm":"sha256"}}"#;
        assert!(matches!(challenge("kbs-session-id=1", other), Err(KbsError::Unsupported { .. })));
    }

    #[test]
    fn evidence_is_of_the_announced_kind() {
        let challenged = challenge("kbs-session-id=1", r#"{"nonce":"n"}"#).unwrap();
        assert!(challenged.request(&Evidence::Sample { report_data: [0; 64] }).is_err());
        let request = challenged.request(&Evidence::Sgx { quote: vec![1, 2, 3] }).unwrap();
        assert_eq!(request.cookie.as_deref(), Some("kbs-session-id=1"));
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["tee-evidence"]["primary_evidence"]["quote"], "AQID");
    }

    #[test]
    fn refusals_keep_the_brokers_words_without_their_harm() {
        let body =
            br#"{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"no\u001b[31m\nfit"}"#.to_vec();
        let refused = |status| Hello::sgx().answer(&Answer { status, cookies: Vec::new(), body: body.clone() }).err().unwrap().to_string();
        assert!(refused(401).contains("does not accept this enclave at the first request: no [31m fit"));
        assert!(refused(500).contains("status 500"));
        let silent = Hello::sgx().answer(&Answer { status: 401, ..Answer::default() }).err().unwrap();
        assert!(silent.to_string().contains("gives no reason"));
    }
}
