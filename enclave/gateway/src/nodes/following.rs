//! What clients of a follower meet: calls are made here, what changes something is done by the source, and records are looked for at both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use teemate_vault::Owners;

use super::follower::Follower;
use super::other;
use super::wire::{FORWARD, Forward, Place};
use crate::platform::{Accounts, ClaimError, Claimed};
use crate::receipts::Shelf;
use crate::router::{BodyLimit, Owner, Request, Response, Routes};
use crate::whisk::Whisk;
use crate::whisk::store::{Account, Change, Key, Store, StoreError, kind};
use crate::whisk::vault::{VOUCHERS, VaultStore};

/// OpenWhisk's API on a follower.
pub struct FollowingRoutes {
    whisk: Arc<Whisk>,
    follower: Arc<Follower>,
}

impl FollowingRoutes {
    /// Over the API of this node.
    pub fn new(whisk: Arc<Whisk>, follower: Arc<Follower>) -> Arc<FollowingRoutes> {
        Arc::new(FollowingRoutes { whisk, follower })
    }
}

/// Where a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// Here.
    Here,
    /// By the source: it changes something.
    Source,
    /// By the source if it is there: it has the records of all nodes.
    SourceFirst,
    /// Here, and by the source when there is nothing here.
    HereFirst,
}

impl Where {
    fn of(method: &Method, path: &str) -> Where {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, &parts[..]) {
            (_, ["web" | "experimental", ..]) => Where::Here,
            (&Method::PUT | &Method::DELETE, _) | (&Method::POST, ["namespaces", _, "rules", ..]) => Where::Source,
            (&Method::GET, ["namespaces", _, "activations"]) => Where::SourceFirst,
            (&Method::GET, ["namespaces", _, "activations", ..]) => Where::HereFirst,
            _ => Where::Here,
        }
    }
}

impl Routes for FollowingRoutes {
    fn limits(&self, method: &Method, path: &str) -> BodyLimit {
        self.whisk.limits(method, path)
    }

    fn root(&self) -> Response {
        self.whisk.root()
    }

    fn kept<'a>(&'a self, namespace: &'a str, activation: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.whisk.kept(namespace, activation)
    }

    fn handle(self: Arc<Self>, request: Request) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        let place = if request.owner.is_some() { Where::of(&request.method, &request.path) } else { Where::Here };
        if place == Where::Here {
            return self.whisk.clone().handle(request);
        }
        Box::pin(async move {
            match place {
                Where::HereFirst => {
                    let here = self.whisk.clone().handle(request.clone()).await;
                    let elsewhere = here.status == StatusCode::NOT_FOUND;
                    if elsewhere { self.forward(request, false).await.unwrap_or(here) } else { here }
                }
                Where::SourceFirst => match self.forward(request.clone(), false).await {
                    Ok(answer) => answer,
                    Err(_) => self.whisk.clone().handle(request).await,
                },
                // What changes something is done to its end when the caller is gone.
                _ => {
                    let (this, endpoint) = (self.clone(), self.follower.endpoint());
                    let done =
                        tokio::spawn(async move { this.forward(request, true).await }).await.unwrap_or_else(|error| Err(other(error)));
                    done.unwrap_or_else(|error| {
                        let why = format!(
                            "Changes are made by the node at {endpoint}, which does not answer now ({error}). Whether this one was made is not known: \
                             look, or ask again, when it does."
                        );
                        Response::error(StatusCode::SERVICE_UNAVAILABLE, &why)
                    })
                }
            }
        })
    }
}

impl FollowingRoutes {
    async fn forward(&self, request: Request, changes: bool) -> io::Result<Response> {
        let follower = self.follower.clone();
        let work = move || {
            let answer = forward(&follower, &request)?;
            if changes && answer.status.is_success() {
                follower.catch_up();
            }
            Ok(answer)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(other(error)))
    }
}

fn forward(follower: &Follower, request: &Request) -> io::Result<Response> {
    let Some(Owner { namespace, uuid }) = request.owner.clone() else { return Err(other("nobody asks")) };
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let headers = request.headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)));
    let hop = |name: &str| ["host", "connection", "content-length", "transfer-encoding", "expect", "accept-encoding"].contains(&name);
    let forward = Forward {
        namespace,
        uuid,
        method: request.method.as_str().to_owned(),
        path: request.path.clone(),
        query: request.query.clone(),
        headers: headers.filter(|(name, _)| !hop(name)).collect(),
    };
    let head = STANDARD.encode(serde_json::to_vec(&forward).map_err(other)?);
    let answer = follower.ask("POST", "forward", &[(FORWARD, &head)], Some(("application/octet-stream", &request.body)))?;
    let mut headers = HeaderMap::new();
    for (name, value) in answer.headers.iter().filter(|(name, _)| !hop(name) && name != "date") {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let status = StatusCode::from_u16(answer.status).map_err(other)?;
    Ok(Response { status, headers, body: answer.body.into() })
}

/// Owners on a follower: known here, made by the source.
pub struct FollowingAccounts {
    owners: Arc<Owners>,
    follower: Arc<Follower>,
}

impl FollowingAccounts {
    /// Over the owners that were copied.
    pub fn new(owners: Arc<Owners>, follower: Arc<Follower>) -> Arc<FollowingAccounts> {
        Arc::new(FollowingAccounts { owners, follower })
    }
}

impl Accounts for FollowingAccounts {
    fn authenticate(&self, uuid: &str, key: &str) -> Option<Owner> {
        Accounts::authenticate(&*self.owners, uuid, key)
    }

    fn claim(&self, token: &str) -> Result<Claimed, ClaimError> {
        let failed = |why: String| ClaimError::Failed(format!("the node at {} makes owners: {why}", self.follower.endpoint()));
        let answer =
            self.follower.ask("POST", "claim", &[], Some(("text/plain", token.as_bytes()))).map_err(|error| failed(error.to_string()))?;
        if answer.status == 200 {
            let (namespace, uuid, key) = serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
            self.follower.catch_up();
            return Ok(Claimed { namespace, uuid, key });
        }
        let why = serde_json::from_slice::<serde_json::Value>(&answer.body).ok().and_then(|body| body["error"].as_str().map(str::to_owned));
        let why = why.unwrap_or_else(|| format!("it answers {}", answer.status));
        Err(if answer.status == 403 { ClaimError::Refused(why) } else { failed(why) })
    }
}

/// The store of a follower: records of calls go to the source, too.
pub struct FollowingStore {
    store: VaultStore,
    follower: Arc<Follower>,
}

impl FollowingStore {
    /// Over the store of this node.
    pub fn new(store: VaultStore, follower: Arc<Follower>) -> FollowingStore {
        FollowingStore { store, follower }
    }

    fn pass_on(&self, key: &Key, value: &[u8]) {
        if [kind::ACTIVATION, kind::RECEIPT].contains(&key.kind) {
            let place = Place { owner: key.owner.clone(), kind: key.kind.to_owned(), name: key.name.clone() };
            self.follower.record(place, value.to_vec());
        }
    }
}

impl Store for FollowingStore {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        for change in &changes {
            if let Change::Put(key, value) = change {
                self.pass_on(key, value);
            }
        }
        self.store.commit(changes)
    }

    fn put_soon(&self, key: Key, value: Vec<u8>) -> Result<(), StoreError> {
        self.pass_on(&key, &value);
        self.store.put_soon(key, value)
    }

    fn list(&self, owner: &str, kind: &'static str) -> Result<Vec<String>, StoreError> {
        self.store.list(owner, kind)
    }

    fn account(&self, namespace: &str) -> Option<Account> {
        self.store.account(namespace)
    }
}

impl Shelf for FollowingStore {
    fn keep(&self, owner: &str, activation: &str, receipt: String) {
        if let Some(account) = self.store.account(owner) {
            self.pass_on(&Key::new(&account.id, kind::RECEIPT, activation), receipt.as_bytes());
        }
        self.store.keep(owner, activation, receipt);
    }

    fn find(&self, owner: &str, activation: &str) -> Option<String> {
        self.store.find(owner, activation)
    }

    fn forget(&self, owner: &str, activation: &str) {
        self.store.forget(owner, activation);
    }

    fn keep_voucher(&self, name: &str, voucher: Vec<u8>) {
        let place = Place { owner: VOUCHERS.0.to_owned(), kind: VOUCHERS.1.to_owned(), name: name.to_owned() };
        self.follower.record(place, voucher.clone());
        self.store.keep_voucher(name, voucher);
    }

    fn voucher(&self, name: &str) -> Option<Vec<u8>> {
        self.store.voucher(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_made_here_and_changes_there() {
        for (method, path, place) in [
            (Method::POST, "/namespaces/_/actions/a", Where::Here),
            (Method::POST, "/namespaces/_/triggers/t", Where::Here),
            (Method::GET, "/namespaces/_/actions/a", Where::Here),
            (Method::POST, "/web/ada/default/a", Where::Here),
            (Method::PUT, "/web/ada/default/a", Where::Here),
            (Method::PUT, "/namespaces/_/actions/p/a", Where::Source),
            (Method::DELETE, "/namespaces/_/rules/r", Where::Source),
            (Method::POST, "/namespaces/_/rules/r", Where::Source),
            (Method::GET, "/namespaces/_/activations", Where::SourceFirst),
            (Method::GET, "/namespaces/_/activations/", Where::SourceFirst),
            (Method::GET, "/namespaces/_/activations/abc/logs", Where::HereFirst),
        ] {
            assert_eq!(Where::of(&method, path), place, "{method} {path}");
        }
    }
}
