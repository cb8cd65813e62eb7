//! TeeMate's own paths, `/teemate/v1/`: what this enclave is, a fresh quote, claiming an invitation, receipts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use teemate_evidence::api::{self, AttestRequest, AttestResponse, Info};
use tokio::sync::Semaphore;

use crate::identity::Identity;
use crate::nodes::Role;
use crate::nodes::follower::Follower;
use crate::nodes::source::Source;
use crate::platform::{Accounts, Attester, ClaimError};
use crate::receipts::Receipts;
use crate::router::{BodyLimit, Request, Response};

/// Bytes of a request's body; the longest has a nonce or a token.
const MAX_BODY: usize = 4 << 10;
/// Quotes, claims and look-ups that wait for a thread or have one, of each sort.
const MAX_WAITING: usize = 32;

/// What does not change in the life of this enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// TeeMate's version.
    pub version: String,
    /// MRENCLAVE.
    pub mrenclave: [u8; 32],
    /// MRSIGNER.
    pub mrsigner: [u8; 32],
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// Name of the sealed store.
    pub store: Option<String>,
}

/// The epoch of the sealed store.
pub type Epoch = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Answers TeeMate's own paths.
pub struct Api {
    identity: Arc<Identity>,
    attester: Arc<dyn Attester>,
    accounts: Arc<dyn Accounts>,
    receipts: Arc<Receipts>,
    about: About,
    epoch: Epoch,
    draining: AtomicBool,
    quotes: Queue,
    store: Queue,
    nodes: Role,
}

/// Asks to be made the owner that an invitation is for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimRequest {
    token: String,
}

/// The credentials, shown once.
#[derive(Serialize)]
struct ClaimResponse<'a> {
    namespace: &'a str,
    uuid: &'a str,
    key: &'a str,
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    Info,
    Health,
    Attest,
    Claim,
    Receipt(&'a str),
    /// For other nodes.
    Node(&'a str),
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Option<Self> {
        match path {
            "/info" => Some(Place::Info),
            "/health" => Some(Place::Health),
            "/attest" => Some(Place::Attest),
            "/claim" => Some(Place::Claim),
            _ if path.starts_with("/nodes/") => path.strip_prefix("/nodes").map(Place::Node),
            _ => path.strip_prefix("/receipts/").filter(|id| is_activation(id)).map(Place::Receipt),
        }
    }

    fn takes(self, method: &Method) -> bool {
        match self {
            Place::Attest | Place::Claim => *method == Method::POST,
            Place::Node(path) => Source::limit(method, path).is_some(),
            Place::Info | Place::Health | Place::Receipt(_) => *method == Method::GET || *method == Method::HEAD,
        }
    }
}

fn is_activation(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Api {
    /// An API that speaks for `identity`.
    pub fn new(
        identity: Arc<Identity>,
        attester: Arc<dyn Attester>,
        accounts: Arc<dyn Accounts>,
        receipts: Arc<Receipts>,
        about: About,
        epoch: Epoch,
        nodes: Role,
    ) -> Arc<Self> {
        let draining = AtomicBool::new(false);
        // One quote at a time: the machine has one quoting enclave, and each quote takes it milliseconds.
        let (quotes, store) = (Queue::new(1), Queue::new(1));
        Arc::new(Api { identity, attester, accounts, receipts, about, epoch, draining, quotes, store, nodes })
    }

    /// The activation whose receipt this path asks for.
    pub fn receipt_asked_for(path: &str) -> Option<&str> {
        match Place::of(path) {
            Some(Place::Receipt(activation)) => Some(activation),
            _ => None,
        }
    }

    /// From now on `health` says that this gateway is closing.
    pub fn drain(&self) {
        self.draining.store(true, SeqCst);
    }

    /// What a path takes.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub fn limits(&self, method: &Method, path: &str) -> Result<BodyLimit, StatusCode> {
        let place = Place::of(path).ok_or(StatusCode::NOT_FOUND)?;
        if !place.takes(method) {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let bytes = match (place, &self.nodes) {
            (Place::Node(path), Role::Source(_)) => Source::limit(method, path).ok_or(StatusCode::NOT_FOUND)?,
            (Place::Node(_), _) => return Err(StatusCode::NOT_FOUND),
            _ => MAX_BODY,
        };
        Ok(BodyLimit { bytes, anonymous: !matches!(place, Place::Receipt(_)) })
    }

    /// Answers a request for one of these paths.
    /// It came over a connection with this keying material.
    pub async fn handle(&self, request: Request, channel: Option<[u8; 32]>) -> Response {
        if let (Some(Place::Node(path)), Role::Source(source)) = (Place::of(&request.path), &self.nodes) {
            let path = path.to_owned();
            return source.handle(Request { path, ..request }, channel).await;
        }
        let mut response = match (Place::of(&request.path), &request.owner) {
            (Some(Place::Info), _) => answer(&self.info()),
            (Some(Place::Health), _) => self.health(),
            (Some(Place::Attest), _) => self.attest(&request.body).await,
            (Some(Place::Claim), _) => self.claim(&request.body).await,
            (Some(Place::Receipt(activation)), Some(owner)) => self.receipt(&owner.namespace, activation).await,
            (Some(Place::Receipt(_)), None) => Response::error(StatusCode::UNAUTHORIZED, "Receipts are for their owner."),
            (None | Some(Place::Node(_)), _) => Response::error(StatusCode::NOT_FOUND, "The requested resource could not be found."),
        };
        response.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn info(&self) -> Info {
        let About { version, mrenclave, mrsigner, isv_prod_id, isv_svn, store } = self.about.clone();
        Info {
            version,
            api: api::VERSION,
            mrenclave,
            mrsigner,
            isv_prod_id,
            isv_svn,
            simulation: self.attester.is_simulation(),
            store,
            source: match &self.nodes {
                Role::Follower(follower) => follower.source(),
                Role::Alone | Role::Source(_) => None,
            },
            epoch: (self.epoch)(),
            receipt_key: self.identity.receipt_public(),
        }
    }

    fn health(&self) -> Response {
        if self.draining.load(SeqCst) {
            return Response::json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"draining\"}");
        }
        Response::json(StatusCode::OK, "{\"status\":\"ok\"}")
    }

    async fn attest(&self, body: &[u8]) -> Response {
        let request: AttestRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return malformed(&error),
        };
        let binding = self.identity.challenge(request.nonce);
        let (attester, data) = (self.attester.clone(), binding.report_data());
        match self.quotes.run(move || attester.quote(data)).await {
            Ok(Ok(quote)) => answer(&AttestResponse { quote, binding, collateral: None }),
            Ok(Err(error)) => Response::error(StatusCode::SERVICE_UNAVAILABLE, &format!("The machine gives no quote now: {error}")),
            Err(refused) => refused,
        }
    }

    async fn claim(&self, body: &[u8]) -> Response {
        let request: ClaimRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return malformed(&error),
        };
        let accounts = self.accounts.clone();
        match self.store.run(move || accounts.claim(&request.token)).await {
            Ok(Ok(claimed)) => answer(&ClaimResponse { namespace: &claimed.namespace, uuid: &claimed.uuid, key: &claimed.key }),
            Ok(Err(ClaimError::Refused(why))) => Response::error(StatusCode::FORBIDDEN, &why),
            Ok(Err(ClaimError::Failed(why))) => Response::error(StatusCode::SERVICE_UNAVAILABLE, &format!("The store failed: {why}")),
            Err(refused) => refused,
        }
    }

    async fn receipt(&self, namespace: &str, activation: &str) -> Response {
        let (receipts, owner, id) = (self.receipts.clone(), namespace.to_owned(), activation.to_owned());
        match self.store.run(move || receipts.bundle(&owner, &id)).await {
            Ok(Some(bundle)) => answer(&bundle),
            // Another node may have made the call.
            Ok(None)
                if let Role::Follower(follower) = &self.nodes
                    && let Some(answer) = elsewhere(follower.clone(), namespace, activation).await =>
            {
                answer
            }
            Ok(None) => Response::error(StatusCode::NOT_FOUND, "There is no receipt of this activation."),
            Err(refused) => refused,
        }
    }
}

async fn elsewhere(follower: Arc<Follower>, namespace: &str, activation: &str) -> Option<Response> {
    let query = [("owner", namespace), ("name", activation)];
    let path = format!("receipt?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
    let asked = tokio::task::spawn_blocking(move || follower.ask("GET", &path, &[], None)).await;
    asked.ok()?.ok().filter(|answer| answer.status == 200).map(|answer| Response::json(StatusCode::OK, answer.body))
}

fn answer(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => Response::json(StatusCode::OK, text),
        Err(_) => Response::error(StatusCode::INTERNAL_SERVER_ERROR, "The answer can't be written."),
    }
}

fn malformed(error: &serde_json::Error) -> Response {
    Response::error(StatusCode::BAD_REQUEST, &format!("The request content was malformed: {error}"))
}

/// Work that blocks: so many at a time, and so many that wait.
struct Queue {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Queue {
    fn new(at_a_time: usize) -> Self {
        Queue { places: Arc::new(Semaphore::new(at_a_time)), waiting: AtomicUsize::new(0) }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Response> {
        let busy = || Response::error(StatusCode::TOO_MANY_REQUESTS, "Too many such requests are waiting; try again later.");
        let _waiting = Waiting::begin(&self.waiting).ok_or_else(busy)?;
        let place = self.places.clone().acquire_owned().await.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|_| Response::error(StatusCode::INTERNAL_SERVER_ERROR, "There was an internal server error."))
    }
}

/// One that waits, also when it is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let more = |waiting| (waiting < MAX_WAITING).then_some(waiting + 1);
        count.fetch_update(SeqCst, SeqCst, more).ok().map(|_| Waiting(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_methods() {
        assert_eq!(Place::of("/info"), Some(Place::Info));
        assert_eq!(Place::of(&format!("/receipts/{}", "a".repeat(32))), Some(Place::Receipt(&"a".repeat(32))));
        for nowhere in ["", "/", "/info/", "/receipts/", "/receipts/../info", &format!("/receipts/{}", "A".repeat(32))] {
            assert_eq!(Place::of(nowhere), None, "{nowhere}");
        }
        assert!(Place::Attest.takes(&Method::POST) && !Place::Attest.takes(&Method::GET));
        assert!(Place::Info.takes(&Method::GET) && !Place::Info.takes(&Method::DELETE));
    }

    #[test]
    fn only_so_many_wait() {
        let count = AtomicUsize::new(0);
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| Waiting::begin(&count).unwrap()).collect();
        assert!(Waiting::begin(&count).is_none());
        drop(waiting);
        assert!(Waiting::begin(&count).is_some());
    }
}
