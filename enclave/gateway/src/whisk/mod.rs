//! OpenWhisk's REST API, inside the enclave: what any client of it expects, served by functions that run in containers of this enclave.
//!
//! Names, codes, parameters, results and logs stay in the enclave and in its sealed store; the host sees ids that were made at random, and
//! how large and how long things are. What of OpenWhisk there is and what not: docs/openwhisk.md.

mod actions;
pub mod activation;
mod activations;
pub mod bundle;
mod clock;
mod deployment;
mod ending;
mod entity;
mod exec;
mod history;
mod keeping;
mod limits;
mod logs;
mod names;
mod options;
mod packages;
mod parameters;
mod path;
pub mod put;
mod query;
mod readiness;
pub mod receipt;
mod rejection;
mod resolve;
mod rules;
mod run;
mod secrets;
mod space;
pub mod store;
mod throttle;
mod triggers;
pub mod vault;
mod web;
mod web_response;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use self::entity::{Collection, Entity};
pub use self::history::Retention;
use self::limits::{MAX_CODE, MAX_PARAMETERS, MAX_PAYLOAD};
use self::names::{Fqn, is_name};
use self::query::Query;
use self::receipt::Witness;
use self::rejection::{Answer, Rejection, TRANSACTION};
pub use self::store::Store;
use self::web::Target;
use crate::lock;
use crate::platform::{Functions, KeyBrokers};
use crate::router::{BodyLimit, Request, Response, Routes};

/// How the API is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What functions are told as `__OW_API_HOST`: a URL without a path.
    pub api_host: String,
    /// Invocations of all owners at one time.
    pub concurrent_overall: u32,
    /// Entities of one owner.
    pub entities: usize,
    /// Compiled functions that stay when nobody calls them.
    pub deployed: usize,
    /// Activations of one owner that are kept.
    pub retention: Retention,
    /// For how long secrets that a key broker released are kept in memory: so long a broker that changes its mind is not heard.
    pub secrets_for: Duration,
    /// Whether a published package may be called only, and its code read by nobody but its owner.
    pub execute_only: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            api_host: "https://localhost".to_owned(),
            concurrent_overall: 400,
            entities: 2000,
            deployed: 256,
            retention: Retention { count: 5000, bytes: 64 << 20 },
            secrets_for: Duration::from_secs(300),
            execute_only: false,
        }
    }
}

/// The API.
pub struct Whisk {
    config: Config,
    functions: Arc<dyn Functions>,
    store: Arc<dyn Store>,
    witness: Arc<dyn Witness>,
    spaces: space::Spaces,
    deployments: deployment::Deployments,
    overall: throttle::Overall,
    keeping: Arc<keeping::Keeping>,
    secrets: secrets::Secrets,
}

/// A request, and who asks.
struct Context {
    method: Method,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
    /// Empty: anybody.
    owner: String,
    transaction: String,
    received: u64,
}

impl Context {
    /// Only for what is one's own.
    fn own(&self, at: &Fqn) -> Result<(), Rejection> {
        if at.namespace == self.owner { Ok(()) } else { Err(Rejection::forbidden(at.full())) }
    }

    /// The body must not be larger than the parameters of a call may be.
    fn bounded(&self, space: &space::Space) -> Result<(), Rejection> {
        let allowed = MAX_PAYLOAD.min(usize::try_from(space.limits().parameters).unwrap_or(usize::MAX));
        if self.body.len() > allowed { Err(Rejection::too_large("Request", self.body.len(), allowed)) } else { Ok(()) }
    }

    /// The body, if any, has to be JSON.
    fn json_only(&self) -> Result<(), Rejection> {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/json");
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if self.body.is_empty() || kind == "application/json" {
            return Ok(());
        }
        let sentence = "The request's Content-Type is not supported. Expected:\napplication/json";
        Err(Rejection::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence))
    }

    /// A page of a list, or how many there are.
    fn listed(&self, all: Vec<Entity>, collection: Collection) -> Answer {
        let query = Query(&self.query);
        let (skip, limit) = query.page(collection.name())?;
        if query.flag("count", false)? {
            return Ok(respond(StatusCode::OK, json!({ collection.name(): all.len().saturating_sub(skip) }).to_string()));
        }
        let page: Vec<_> = all.iter().skip(skip).take(limit).map(Entity::summary).collect();
        Ok(respond(StatusCode::OK, serde_json::Value::Array(page).to_string()))
    }
}

impl Whisk {
    /// The API over these functions and this store, with secrets from these brokers.
    pub fn new(
        config: Config,
        functions: Arc<dyn Functions>,
        store: Arc<dyn Store>,
        witness: Arc<dyn Witness>,
        brokers: Arc<dyn KeyBrokers>,
    ) -> Arc<Self> {
        Arc::new(Whisk {
            spaces: space::Spaces::new(store.clone(), config.retention),
            deployments: deployment::Deployments::new(functions.clone(), config.deployed),
            overall: throttle::Overall::default(),
            keeping: Arc::default(),
            secrets: secrets::Secrets::new(brokers, config.secrets_for),
            config,
            functions,
            store,
            witness,
        })
    }

    /// Forgets what is in memory of a namespace whose owner was removed. The store forgets him by itself.
    pub fn forget(&self, namespace: &str) {
        self.spaces.forget(namespace);
        self.deployments.forget_all(namespace);
        self.secrets.forget(namespace);
    }

    /// A record of an owner's was changed in the store by somebody else.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn renew(&self, owner: &str, kind: &str, name: &str) -> Result<(), store::StoreError> {
        let Some(collection) = Collection::ALL.into_iter().find(|collection| collection.kind() == kind) else { return Ok(()) };
        for space in self.spaces.of(owner) {
            space.renew(&*self.store, collection, name)?;
            self.deployments.forget(&space.name, name);
            self.secrets.forget(&space.name);
        }
        Ok(())
    }

    /// The store has the record of an activation that another node made.
    pub fn note_activation(&self, namespace: &str, record: &[u8]) {
        let Some(space) = self.spaces.loaded(namespace) else { return };
        let Ok(activation) = serde_json::from_slice::<activation::Activation>(record) else { return };
        if space.history.contains(&activation.id) {
            return;
        }
        let gone = space.history.add(&activation, record.len(), self.config.retention);
        if !gone.is_empty()
            && let Err(error) = self.store.commit(space::forget(&space.id, gone))
        {
            eprintln!("teemate-gateway: old activations stay for now: {error}");
        }
    }

    /// Invocations under way, also those that nobody waits for any more, and those whose callers were answered while they are being kept. Who
    /// closes the store first waits until there are none.
    pub fn running(&self) -> u32 {
        self.overall.running()
    }

    /// Keeps something soon. What is large goes to the disk at once, which may take its time, and so does what the store cannot hold back.
    async fn put_soon(&self, key: store::Key, value: Vec<u8>) {
        const LARGE: usize = 32 << 10;
        if value.len() < LARGE && self.store.put_soon(key.clone(), value.clone()).is_ok() {
            return;
        }
        let store = self.store.clone();
        let kept = space::blocking(move || store.commit(vec![store::Change::Put(key, value)])).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("teemate-gateway: the record of an activation is not kept: {error}"),
            Err(_) => eprintln!("teemate-gateway: the record of an activation is not kept"),
        }
    }

    async fn answer(self: Arc<Self>, context: Context, path: String) -> Response {
        let result = self.clone().route(&context, &path).await;
        let mut response = result.unwrap_or_else(|rejection| rejection.response(&context.transaction));
        if let Ok(transaction) = HeaderValue::from_str(&context.transaction) {
            response.headers.insert(TRANSACTION, transaction);
        }
        if !path.starts_with("/web/") {
            cors(&mut response.headers, "GET, DELETE, POST, PUT, HEAD");
        }
        response
    }

    async fn route(self: Arc<Self>, context: &Context, path: &str) -> Answer {
        let segments = path::segments(path)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let ["web", namespace, package, action, ..] = segments[..]
            && let Some(target) = Target::read(namespace, package, action, path::after(path, 4))
        {
            return Ok(self.web(context, target).await);
        }
        if context.method == Method::OPTIONS {
            return Ok(Response::empty(StatusCode::OK));
        }
        match segments[..] {
            [] | [""] => {
                get_only(context)?;
                let info = json!({
                    "description": "OpenWhisk API", "api_version": "1.0.0", "api_version_path": "v1", "build": env!("CARGO_PKG_VERSION"), "buildno": "teemate",
                    "limits": limits::of_system(), "runtimes": exec::runtimes(),
                });
                Ok(respond(StatusCode::OK, info.to_string()))
            }
            ["namespaces"] | ["namespaces", ""] => {
                signed_in(context)?;
                get_only(context)?;
                Ok(respond(StatusCode::OK, json!([context.owner]).to_string()))
            }
            ["namespaces", namespace, collection, ref rest @ ..] => {
                signed_in(context)?;
                let namespace = if namespace == "_" { &context.owner } else { namespace };
                if namespace.len() > names::MAX_NAME {
                    return Err(Rejection::bad_request(format!(
                        "Namespace longer than allowed: {} > {}.",
                        namespace.len(),
                        names::MAX_NAME
                    )));
                }
                if !is_name(namespace) {
                    return Err(Rejection::bad_request("The namespace contains illegal characters."));
                }
                self.collection(context, namespace, collection, rest).await
            }
            _ => Err(Rejection::not_found()),
        }
    }

    async fn collection(self: Arc<Self>, context: &Context, namespace: &str, name: &str, rest: &[&str]) -> Answer {
        if name == "activations" {
            get_only(context)?;
            return match rest {
                [] | [""] => self.list_activations(context, namespace).await,
                [id] => self.get_activation(context, namespace, id, None).await,
                [id, part] => self.get_activation(context, namespace, id, Some(part)).await,
                _ => Err(Rejection::not_found()),
            };
        }
        if name == "limits" {
            get_only(context)?;
            if namespace != context.owner {
                return Err(Rejection::forbidden(namespace));
            }
            return match rest {
                [] | [""] => Ok(respond(StatusCode::OK, limits::of_owner(&self.space(namespace, namespace).await?.limits()).to_string())),
                _ => Err(Rejection::bad_request("Inner entity level routes for limits are not yet implemented.")),
            };
        }
        let Some(collection) = Collection::named(name) else { return Err(Rejection::not_found()) };
        if let [] | [""] = rest {
            get_only(context)?;
            return self.list(context, namespace, collection).await;
        }
        for segment in rest {
            if segment.len() > names::MAX_NAME {
                return Err(Rejection::bad_request(format!("Name segement longer than allowed: {} > {}.", segment.len(), names::MAX_NAME)));
            }
        }
        let entity = |name: &str| {
            let illegal = || Rejection::bad_request("The name of the entity contains illegal characters.");
            if is_name(name) { Ok(name.to_owned()) } else { Err(illegal()) }
        };
        let at = match (collection, rest) {
            (_, [name]) => Fqn::plain(namespace, &entity(name)?),
            (Collection::Actions, [package, ""]) => {
                get_only(context)?;
                return self.list_package(context, Fqn::plain(namespace, &entity(package)?)).await;
            }
            (Collection::Actions, [package, name]) => {
                Fqn { namespace: namespace.to_owned(), package: Some(entity(package)?), name: entity(name)? }
            }
            _ => return Err(Rejection::not_found()),
        };
        self.entity(context, collection, at).await
    }

    async fn list(&self, context: &Context, namespace: &str, collection: Collection) -> Answer {
        if collection == Collection::Packages {
            return self.list_packages(context, namespace).await;
        }
        if namespace != context.owner {
            return Err(Rejection::forbidden(namespace));
        }
        let space = self.space(namespace, namespace).await?;
        context.listed(space.list(collection, None), collection)
    }

    async fn entity(self: Arc<Self>, context: &Context, collection: Collection, at: Fqn) -> Answer {
        use Collection::{Actions, Packages, Rules, Triggers};
        match (context.method.as_str(), collection) {
            ("PUT", Actions) => self.put_action(context, at).await,
            ("GET", Actions) => self.get_action(context, at).await,
            ("DELETE", Actions) => self.delete_action(context, at).await,
            ("POST", Actions) => self.invoke_action(context, at).await,
            ("PUT", Packages) => self.put_package(context, at).await,
            ("GET", Packages) => self.get_package(context, at).await,
            ("DELETE", Packages) => self.delete_package(context, at).await,
            ("PUT", Triggers) => self.put_trigger(context, at).await,
            ("GET", Triggers) => self.get_trigger(context, at).await,
            ("DELETE", Triggers) => self.delete_trigger(context, at).await,
            ("POST", Triggers) => self.fire_trigger(context, at).await,
            ("PUT", Rules) => self.put_rule(context, at).await,
            ("GET", Rules) => self.get_rule(context, at).await,
            ("DELETE", Rules) => self.delete_rule(context, at).await,
            ("POST", Rules) => self.set_rule(context, at).await,
            (_, Packages) => Err(Rejection::method("PUT, GET, DELETE")),
            _ => Err(Rejection::method("PUT, GET, DELETE, POST")),
        }
    }
}

impl Routes for Whisk {
    /// Limits and kinds, as `wsk` reads them.
    fn root(&self) -> Response {
        let info = json!({
            "description": "OpenWhisk",
            "support": { "github": "https://github.com/apache/openwhisk/issues" },
            "api_paths": ["/api/v1"],
            "limits": limits::of_system(),
            "runtimes": exec::runtimes(),
        });
        respond(StatusCode::OK, info.to_string())
    }

    fn limits(&self, method: &Method, path: &str) -> BodyLimit {
        // A little more than OpenWhisk allows, so that it is this API that says so, in OpenWhisk's words.
        const ROOM: usize = 64 << 10;
        let web = path.starts_with("/web/");
        let anonymous = web || path.is_empty() || path == "/" || method == Method::OPTIONS;
        let bytes = match *method {
            Method::PUT if path.starts_with("/namespaces/") && path.contains("/actions/") => MAX_CODE + 2 * MAX_PARAMETERS + ROOM,
            Method::PUT if !web => 2 * MAX_PARAMETERS + ROOM,
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => MAX_PAYLOAD + ROOM,
            _ if web => MAX_PAYLOAD + ROOM,
            _ => ROOM,
        };
        BodyLimit { bytes, anonymous }
    }

    fn kept<'a>(&'a self, namespace: &'a str, activation: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.keeping.settled(namespace, Some(activation)))
    }

    fn handle(self: Arc<Self>, request: Request) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        let Request { method, path, query, headers, body, owner } = request;
        let reads = method == Method::GET && !path.starts_with("/web/");
        let transaction = match transaction(&headers) {
            Ok(transaction) => transaction,
            Err(rejection) => return Box::pin(std::future::ready(rejection.response(""))),
        };
        let owner = owner.map_or_else(String::new, |owner| owner.namespace);
        let context = Context { method, query, headers, body, owner, transaction, received: clock::now_ms() };
        Box::pin(async move {
            if reads {
                return self.answer(context, path).await;
            }
            // What changes something, or calls something, is done to its end when the caller is gone.
            let transaction = context.transaction.clone();
            let done = tokio::spawn(self.answer(context, path)).await;
            done.unwrap_or_else(|_| Rejection::internal().response(&transaction))
        })
    }
}

/// The id of a request: the client's, or one of our own.
fn transaction(headers: &HeaderMap) -> Result<String, Rejection> {
    let given = headers.get(TRANSACTION).and_then(|id| id.to_str().ok());
    let plain = |id: &&str| {
        let fits = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        fits && !id.starts_with("sid_")
    };
    given.filter(plain).map_or_else(clock::random_hex, |id| Ok(id.to_owned()))
}

fn signed_in(context: &Context) -> Result<(), Rejection> {
    if context.owner.is_empty() { Err(Rejection::unauthorized()) } else { Ok(()) }
}

fn get_only(context: &Context) -> Result<(), Rejection> {
    if context.method == Method::GET { Ok(()) } else { Err(Rejection::method("GET")) }
}

fn respond(status: StatusCode, body: String) -> Response {
    Response::json(status, body)
}

fn text(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::empty(status);
    response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response.body = Bytes::from_static(body.as_bytes());
    response
}

fn cors(headers: &mut HeaderMap, methods: &'static str) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let allowed = "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
}
