//! A small key broker: the same protocol, written from its description, over real connections. And an authority for its certificate.
//!
//! Behind the feature `testing`, which the payload does not have. What fails here shall fail the test.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aes_kw::{KeyInit, KwAes256};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use p256::elliptic_curve::sec1::ToSec1Point;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha384};

/// Where REPORT_DATA lies in a quote of version 3: a header of 48 bytes, then the REPORT's body.
pub const REPORT_DATA: std::ops::Range<usize> = 48 + 320..48 + 384;
/// Where MRENCLAVE lies in it.
const MRENCLAVE: std::ops::Range<usize> = 48 + 64..48 + 96;
/// A connection on which nothing comes for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Who vouches for a broker's name.
pub struct Authority {
    root: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Authority { root, issuer: Issuer::new(params, key) }
    }

    /// Its certificate.
    pub fn der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    /// Its certificate, as owners have it in a file.
    pub fn pem(&self) -> String {
        let text = BASE64_STANDARD.encode(self.root.der());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// TLS of a server with a certificate for this name or address.
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        Arc::new(config)
    }
}

#[derive(Clone)]
struct Session {
    nonce: String,
    key: Option<Value>,
}

/// The broker.
pub struct Broker {
    secrets: HashMap<String, Vec<u8>>,
    denied: String,
    sessions: Mutex<HashMap<String, Session>>,
    /// Answers in chunks.
    pub chunked: bool,
    /// The only MRENCLAVE whose quotes it believes; `None`: any.
    pub measurement: Option<[u8; 32]>,
    /// The only value of the header `x-teemate-owner` whose requests it answers; `None`: any.
    pub owner: Option<String>,
    /// Secrets that it gave.
    pub released: AtomicUsize,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}

type Reply = (u16, Option<String>, Value);

impl Broker {
    /// With these secrets, and one that nobody may have.
    pub fn new(secrets: &[(&str, &[u8])], denied: &str) -> Broker {
        let secrets = secrets.iter().map(|(name, secret)| ((*name).to_owned(), secret.to_vec())).collect();
        let (sessions, released) = (Mutex::default(), AtomicUsize::new(0));
        Broker { secrets, denied: denied.to_owned(), sessions, chunked: false, measurement: None, owner: None, released }
    }

    /// Serves a port of this machine. Returns its address.
    pub fn serve(self: &Arc<Self>, tls: Option<Arc<ServerConfig>>) -> String {
        let listener = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let broker = self.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (broker, tls) = (broker.clone(), tls.clone());
                stream.set_read_timeout(Some(IDLE)).unwrap();
                std::thread::spawn(move || match tls {
                    Some(config) => broker.connection(StreamOwned::new(ServerConnection::new(config).unwrap(), stream)),
                    None => broker.connection::<TcpStream>(stream),
                });
            }
        });
        address
    }

    fn connection<S: Read + Write>(&self, stream: S) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if line == "\r\n" {
                    break;
                }
                head.push(line.trim_end().to_owned());
            }
            let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
            let mut body = vec![0; header("Content-Length:").map_or(0, |length| length.parse().unwrap())];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let stranger = self.owner.is_some() && self.owner != header("x-teemate-owner:");
            let (status, cookie, value) = match stranger {
                true => (403, None, json!({"type": "https://example.org/errors", "detail": "this is another owner's broker"})),
                false => self.answer(&head[0], header("Cookie:").as_deref(), &body),
            };
            let text = value.to_string();
            let mut reply = format!("HTTP/1.1 {status} X\r\n");
            if let Some(id) = cookie {
                reply += &format!("set-cookie: kbs-session-id={id}; Expires=Fri, 21 Nov 2036 10:00:00 GMT\r\n");
            }
            reply += &match self.chunked {
                true => {
                    let (one, two) = text.split_at(text.len() / 2);
                    format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len())
                }
                false => format!("content-length: {}\r\n\r\n{text}", text.len()),
            };
            let stream = reader.get_mut();
            if stream.write_all(reply.as_bytes()).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, line: &str, cookie: Option<&str>, body: &[u8]) -> Reply {
        let no = |status: u16, detail: &str| (status, None, json!({"type": "https://example.org/kbs/errors", "detail": detail}));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let id = cookie.and_then(|cookie| cookie.strip_prefix("kbs-session-id=")).unwrap_or_default();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["POST", "/kbs/v0/auth", "HTTP/1.1"] => {
                if body["version"] != "0.4.0" || body["tee"] != "sgx" {
                    return no(401, "KBS Client Protocol Version Mismatch");
                }
                let (id, nonce) = (BASE64_URL_SAFE_NO_PAD.encode(random::<16>()), BASE64_STANDARD.encode(random::<32>()));
                self.sessions.lock().unwrap().insert(id.clone(), Session { nonce: nonce.clone(), key: None });
                (200, Some(id), json!({"nonce": nonce, "extra-params": ""}))
            }
            ["POST", "/kbs/v0/attest", "HTTP/1.1"] => {
                let mut sessions = self.sessions.lock().unwrap();
                let Some(session) = sessions.get_mut(id) else { return no(401, "session not found") };
                let (nonce, key) = (&body["runtime-data"]["nonce"], &body["runtime-data"]["tee-pubkey"]);
                if *nonce != session.nonce {
                    return no(401, "the nonce in the handshake session is different");
                }
                let more = &body["tee-evidence"]["additional_evidence"];
                // Sorted, and so canonical, also where another crate of the build has serde_json keep the order of members.
                let mut bound = json!({"tee-pubkey": key, "nonce": nonce, "additional-evidence": more});
                bound.sort_all_objects();
                let mut expected = Sha384::digest(bound.to_string()).to_vec();
                expected.resize(64, 0);
                let quote = BASE64_STANDARD.decode(body["tee-evidence"]["primary_evidence"]["quote"].as_str().unwrap_or_default());
                let quote = quote.unwrap_or_default();
                if quote.get(REPORT_DATA) != Some(&expected[..]) {
                    return no(401, "REPORT_DATA is different from that in SGX Quote");
                }
                if self.measurement.is_some_and(|measurement| quote.get(MRENCLAVE) != Some(&measurement[..])) {
                    return no(401, "the policy accepts another MRENCLAVE");
                }
                session.key = Some(key.clone());
                (200, Some(id.to_owned()), json!({"token": "header.claims.signature"}))
            }
            ["GET", path, "HTTP/1.1"] => {
                let Some(name) = path.strip_prefix("/kbs/v0/resource/") else { return no(404, "no such path") };
                let Some(key) = self.sessions.lock().unwrap().get(id).and_then(|session| session.key.clone()) else {
                    return no(401, "not attested");
                };
                if name == self.denied {
                    return no(403, "the policy does not allow it");
                }
                match self.secrets.get(name) {
                    Some(secret) => {
                        self.released.fetch_add(1, Ordering::SeqCst);
                        (200, None, encrypt(&key, secret))
                    }
                    None => no(404, "no such resource"),
                }
            }
            _ => no(404, "no such path"),
        }
    }
}

/// JWE with ECDH-ES+A256KW and A256GCM for this JWK.
pub fn encrypt(key: &Value, secret: &[u8]) -> Value {
    assert_eq!((key["kty"].as_str(), key["crv"].as_str(), key["alg"].as_str()), (Some("EC"), Some("P-256"), Some("ECDH-ES+A256KW")));
    let coordinate = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let receiver = p256::PublicKey::from_sec1_bytes(&point).unwrap();
    let sender = p256::SecretKey::from_slice(&random::<32>()).unwrap();
    let shared = p256::ecdh::diffie_hellman(sender.to_nonzero_scalar(), receiver.as_affine());
    let mut kdf = Sha256::new();
    kdf.update([0, 0, 0, 1]);
    kdf.update(shared.raw_secret_bytes());
    kdf.update([0, 0, 0, 14]);
    kdf.update("ECDH-ES+A256KW");
    kdf.update([0, 0, 0, 0, 0, 0, 0, 0]);
    kdf.update([0, 0, 1, 0]);
    let content_key: [u8; 32] = random();
    let mut wrapped = [0; 40];
    KwAes256::new_from_slice(&kdf.finalize()).unwrap().wrap_key(&content_key, &mut wrapped).unwrap();
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let point = sender.public_key().to_sec1_point(false);
    let point = point.as_bytes();
    let epk = json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])});
    let protected = text(json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": epk}).to_string().as_bytes());
    let iv: [u8; 12] = random();
    let mut content = secret.to_vec();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &content_key).unwrap());
    let nonce = Nonce::assume_unique_for_key(iv);
    let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(protected.as_bytes()), &mut content).unwrap();
    json!({
        "protected": protected, "encrypted_key": text(&wrapped), "iv": text(&iv),
        "ciphertext": text(&content), "tag": text(tag.as_ref()),
    })
}
