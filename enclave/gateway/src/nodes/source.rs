//! The node that is followed: it admits enclaves of its own kind, shows them what there is, and does what their owners want changed.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ring::digest::{Context, SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use teemate_attestation::verify;
use teemate_evidence::encoding::hex;
use teemate_vault::{Key, Owners, Vault};
use tokio::time::{Instant, sleep};

use super::wire::{FORWARD, Forward, Join, Joined, KINDS, Manifest, OWNERS, Place, Record, TOKEN, report_data};
use super::{Acceptance, other};
use crate::lock;
use crate::platform::{Accounts, ClaimError, Claimed};
use crate::receipts::Receipts;
use crate::router::{Owner, Request, Response, Routes};
use crate::whisk::Whisk;
use crate::whisk::store::kind;
use crate::whisk::vault::VOUCHERS;

/// For how long a manifest that is no other one is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How soon it is looked for again.
const LOOK: Duration = Duration::from_millis(50);
/// For how long a token is good after it was used last.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Nodes that may follow at one time, more or less: each connection of one that lost its token has a new one.
const TOKENS: usize = 256;

/// Nobody is told more than that.
const REFUSED: &str = "Only nodes that have joined may ask this.";

/// The source.
pub struct Source {
    vault: Arc<Vault>,
    owners: Arc<Owners>,
    whisk: Arc<Whisk>,
    acceptance: Acceptance,
    receipts: Arc<Receipts>,
    store: String,
    /// By SHA-256; until when each is good.
    tokens: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Source {
    /// Of this store, whose name is `store`.
    pub fn new(
        vault: Arc<Vault>,
        owners: Arc<Owners>,
        whisk: Arc<Whisk>,
        receipts: Arc<Receipts>,
        acceptance: Acceptance,
        store: String,
    ) -> Arc<Source> {
        Arc::new(Source { vault, owners, whisk, receipts, acceptance, store, tokens: Mutex::default() })
    }

    /// Largest body that a path takes; `None`: there is no such path.
    pub fn limit(method: &Method, path: &str) -> Option<usize> {
        match (method, path) {
            (&Method::POST, "/join") => Some(64 << 10),
            (&Method::POST, "/claim") | (&Method::GET, "/manifest" | "/record" | "/receipt") => Some(4 << 10),
            // Code of 48 MB in base64 in JSON, and a record with a log of 10 MB the same way.
            (&Method::POST, "/forward") => Some(72 << 20),
            (&Method::POST, "/keep") => Some(32 << 20),
            _ => None,
        }
    }

    /// Answers a request over a connection with this keying material.
    pub async fn handle(self: &Arc<Self>, request: Request, channel: Option<[u8; 32]>) -> Response {
        if request.path == "/join" {
            return self.join(&request.body, channel).await;
        }
        if !self.knows(&request.headers) {
            return Response::error(StatusCode::FORBIDDEN, REFUSED);
        }
        match request.path.as_str() {
            "/manifest" => self.manifest(value(&request.query, "since")).await,
            "/record" => self.record(&request.query).await,
            "/receipt" => self.receipt(&request.query).await,
            "/forward" => self.forward(request).await,
            "/claim" => self.claim(request.body.to_vec()).await,
            "/keep" => self.keep(request.body.to_vec()).await,
            _ => Response::error(StatusCode::NOT_FOUND, "The requested resource could not be found."),
        }
    }

    async fn join(self: &Arc<Self>, body: &[u8], channel: Option<[u8; 32]>) -> Response {
        let (Ok(join), Some(channel)) = (serde_json::from_slice::<Join>(body), channel) else {
            return Response::error(StatusCode::BAD_REQUEST, "This is no request to join.");
        };
        let this = self.clone();
        let admitted = blocking(move || this.admit(&join, &channel)).await;
        match admitted.and_then(|admitted| admitted) {
            Ok(token) => json(&Joined { token, store: self.store.clone() }),
            Err(why) => {
                eprintln!("teemate-gateway: a node may not join: {why}");
                Response::error(StatusCode::FORBIDDEN, &format!("This enclave is not accepted here: {why}"))
            }
        }
    }

    /// The other end of this connection is an enclave of the same kind: only it could have made a report that binds the connection.
    fn admit(&self, join: &Join, channel: &[u8; 32]) -> io::Result<String> {
        let Acceptance { policy, collateral } = &self.acceptance;
        let verified = verify(&join.quote, collateral.as_ref(), policy, teemate_attestation::now()).map_err(other)?;
        if verified.report_data != report_data(channel) {
            return Err(other("its quote was made for another connection"));
        }
        let mut token = [0; 32];
        SystemRandom::new().fill(&mut token).map_err(|_| other("there are no random numbers"))?;
        let token = URL_SAFE_NO_PAD.encode(token);
        let mut tokens = lock(&self.tokens);
        let now = Instant::now();
        tokens.retain(|_, until| *until > now);
        if tokens.len() >= TOKENS {
            return Err(other("too many nodes have joined"));
        }
        tokens.insert(hashed(&token), now + TOKEN_LIFE);
        Ok(token)
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = headers.get(TOKEN).and_then(|token| token.to_str().ok()) else { return false };
        let now = Instant::now();
        match lock(&self.tokens).get_mut(&hashed(token)) {
            Some(until) if *until > now => {
                *until = now + TOKEN_LIFE;
                true
            }
            _ => false,
        }
    }

    /// Answers when there is another manifest than the one that is known.
    async fn manifest(self: &Arc<Self>, known: Option<&str>) -> Response {
        let end = Instant::now() + PATIENCE;
        let mut looked_at = None;
        loop {
            let epoch = self.vault.epoch();
            if looked_at != Some(epoch) {
                looked_at = Some(epoch);
                let this = self.clone();
                match blocking(move || this.now()).await {
                    Ok(manifest) if known != Some(manifest.digest.as_str()) => return json(&manifest),
                    Ok(_) => {}
                    Err(error) => return Response::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                }
            }
            if Instant::now() >= end {
                return Response::empty(StatusCode::NOT_MODIFIED);
            }
            sleep(LOOK).await;
        }
    }

    /// What there is now.
    fn now(&self) -> Manifest {
        let mut entries = Vec::new();
        let mut add = |owner: &str, kind: &str| {
            let records = self.vault.list(owner, kind).into_iter();
            let place = |name| Place { owner: owner.to_owned(), kind: kind.to_owned(), name };
            entries.extend(records.map(|(name, version)| (place(name), version)));
        };
        add(OWNERS.0, OWNERS.1);
        for owner in self.owners.list().into_iter().filter_map(|owner| owner.uuid) {
            KINDS.iter().for_each(|kind| add(&owner, kind));
        }
        entries.sort_unstable();
        let mut sum = Context::new(&SHA256);
        for (Place { owner, kind, name }, version) in &entries {
            sum.update(format!("{owner}\n{kind}\n{name}\n{version}\n").as_bytes());
        }
        Manifest { digest: hex(sum.finish().as_ref()), entries }
    }

    async fn record(self: &Arc<Self>, query: &[(String, String)]) -> Response {
        let (Some(owner), Some(kind), Some(name)) = (value(query, "owner"), value(query, "kind"), value(query, "name")) else {
            return Response::error(StatusCode::BAD_REQUEST, "A record has an owner, a kind and a name.");
        };
        let copied = KINDS.contains(&kind) || (owner, kind) == OWNERS;
        if !copied {
            return Response::error(StatusCode::NOT_FOUND, "Such records are not copied.");
        }
        let (vault, key) = (self.vault.clone(), Key::new(owner, kind, name));
        match blocking(move || vault.get(&key)).await.and_then(|read| read.map_err(other)) {
            Ok(Some(bytes)) => Response { body: bytes.into(), ..Response::empty(StatusCode::OK) },
            Ok(None) => Response::error(StatusCode::NOT_FOUND, "There is no such record (any more)."),
            Err(error) => Response::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    async fn receipt(&self, query: &[(String, String)]) -> Response {
        let (Some(owner), Some(name)) = (value(query, "owner"), value(query, "name")) else {
            return Response::error(StatusCode::BAD_REQUEST, "A receipt has an owner and an activation.");
        };
        self.whisk.kept(owner, name).await;
        let (receipts, owner, name) = (self.receipts.clone(), owner.to_owned(), name.to_owned());
        match blocking(move || receipts.bundle(&owner, &name)).await {
            Ok(Some(bundle)) => json(&bundle),
            _ => Response::error(StatusCode::NOT_FOUND, "There is no receipt of this activation."),
        }
    }

    /// What an owner wants of a follower that is for this node to do: he was asked for his key there.
    async fn forward(&self, request: Request) -> Response {
        let head = request.headers.get(FORWARD).and_then(|head| STANDARD.decode(head.as_bytes()).ok());
        let Some(forward) = head.and_then(|head| serde_json::from_slice::<Forward>(&head).ok()) else {
            return Response::error(StatusCode::BAD_REQUEST, "This is no request that was passed on.");
        };
        let Ok(method) = Method::from_bytes(forward.method.as_bytes()) else {
            return Response::error(StatusCode::BAD_REQUEST, "There is no such method.");
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &forward.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                headers.append(name, value);
            }
        }
        let owner = Some(Owner { namespace: forward.namespace, uuid: forward.uuid });
        let request = Request { method, path: forward.path, query: forward.query, headers, body: request.body, owner };
        self.whisk.clone().handle(request).await
    }

    async fn claim(&self, token: Vec<u8>) -> Response {
        let owners = self.owners.clone();
        let claimed = blocking(move || Accounts::claim(&*owners, &String::from_utf8_lossy(&token))).await;
        match claimed {
            Ok(Ok(Claimed { namespace, uuid, key })) => json(&(namespace, uuid, key)),
            Ok(Err(ClaimError::Refused(why))) => Response::error(StatusCode::FORBIDDEN, &why),
            Ok(Err(ClaimError::Failed(why))) => Response::error(StatusCode::SERVICE_UNAVAILABLE, &why),
            Err(error) => Response::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    async fn keep(self: &Arc<Self>, body: Vec<u8>) -> Response {
        let this = self.clone();
        match blocking(move || this.take(&body)).await.and_then(|taken| taken) {
            Ok(()) => Response::empty(StatusCode::NO_CONTENT),
            Err(error) => Response::error(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    fn take(&self, body: &[u8]) -> io::Result<()> {
        let Record { at, value } = serde_json::from_slice(body).map_err(other)?;
        if (at.owner.as_str(), at.kind.as_str()) == VOUCHERS {
            return self.vault.put_soon(&Key::new(&at.owner, &at.kind, &at.name), value).map_err(other);
        }
        if ![kind::ACTIVATION, kind::RECEIPT].contains(&at.kind.as_str()) {
            return Err(other("only records of calls are kept for others"));
        }
        // One who is gone meanwhile has no records.
        let Some(owner) = self.owners.list().into_iter().find(|owner| owner.uuid.as_deref() == Some(&at.owner)) else { return Ok(()) };
        self.vault.put_soon(&Key::new(&at.owner, &at.kind, &at.name), value.clone()).map_err(other)?;
        if at.kind == kind::ACTIVATION {
            self.whisk.note_activation(&owner.namespace, &value);
        }
        Ok(())
    }
}

fn hashed(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => Response::json(StatusCode::OK, text),
        Err(_) => Response::error(StatusCode::INTERNAL_SERVER_ERROR, "The answer can't be written."),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| other("it was given up"))
}
