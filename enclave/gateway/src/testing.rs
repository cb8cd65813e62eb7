//! What stands in for the rest of the service in tests and native runs: simulated quotes, a handful of owners, an API that echoes,
//! functions that do nothing.
//!
//! Behind the feature `testing`, which the payload does not have.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Outcome, Usage};
use teemate_evidence::quote::BODY;
use teemate_evidence::simulation::{CPUSVN, Platform};

use crate::About;
use crate::api::Api;
use crate::auth::Authenticator;
use crate::gateway::{Parts, Settings};
use crate::identity::Identity;
use crate::limits::Limits;
use crate::lock;
use crate::platform::{Accounts, Attester, Call, ClaimError, Claimed, Functions};
use crate::receipts::{MemoryShelf, Receipts};
use crate::router::{BodyLimit, Owner, Request, Response, Routes};
use crate::service::Service;

/// MRENCLAVE of the quotes made here.
pub const MRENCLAVE: [u8; 32] = [0xe1; 32];
/// MRSIGNER of the quotes made here.
pub const MRSIGNER: [u8; 32] = [0x51; 32];

/// Makes simulated quotes of an enclave that does not exist.
pub struct SimulatedAttester {
    platform: Platform,
    /// So many attempts fail before one succeeds.
    pub failures: AtomicUsize,
    /// Quotes made.
    pub quotes: AtomicUsize,
}

impl SimulatedAttester {
    /// One whose first `failures` attempts fail.
    pub fn failing(failures: usize) -> Arc<Self> {
        let platform = Platform::new(&[7; 32]);
        Arc::new(SimulatedAttester { platform, failures: AtomicUsize::new(failures), quotes: AtomicUsize::new(0) })
    }
}

impl Attester for SimulatedAttester {
    fn quote(&self, report_data: [u8; 64]) -> io::Result<Vec<u8>> {
        if self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(io::Error::other("the quoting service is not there yet"));
        }
        self.quotes.fetch_add(1, SeqCst);
        let mut body = [0; BODY];
        body[..16].copy_from_slice(&CPUSVN);
        // INIT and MODE64BIT.
        body[48] = 5;
        body[56] = 3;
        body[64..96].copy_from_slice(&MRENCLAVE);
        body[128..160].copy_from_slice(&MRSIGNER);
        body[256] = 1;
        body[258] = 1;
        body[320..].copy_from_slice(&report_data);
        Ok(self.platform.quote(&body))
    }

    fn is_simulation(&self) -> bool {
        true
    }
}

/// Owners with known keys, and invitations.
#[derive(Default)]
pub struct FixedAccounts {
    owners: Mutex<Vec<Claimed>>,
    invitations: Mutex<Vec<(String, String)>>,
}

impl FixedAccounts {
    /// An owner `ada` with [`ADA`], and an invitation `welcome` for `bob`.
    pub fn ada() -> Arc<Self> {
        let accounts = FixedAccounts::default();
        let (uuid, key) = ADA.split_once(':').unwrap_or_default();
        lock(&accounts.owners).push(Claimed { namespace: "ada".into(), uuid: uuid.into(), key: key.into() });
        lock(&accounts.invitations).push(("welcome".into(), "bob".into()));
        Arc::new(accounts)
    }
}

/// Ada's credentials: those that OpenWhisk's own stand-alone server gives its guest.
pub const ADA: &str = "23bc46b1-71f6-4ed5-8c54-816aa4f8c502:123zO3xZCLrMN6v2BKK1dXYFpXlPkccOFqm12CdAsMgRU4VrNZ9lyGVCGuMDGIwP";

impl Accounts for FixedAccounts {
    fn authenticate(&self, uuid: &str, key: &str) -> Option<Owner> {
        let owners = lock(&self.owners);
        let owner = owners.iter().find(|owner| owner.uuid == uuid && owner.key == key)?;
        Some(Owner { namespace: owner.namespace.clone(), uuid: owner.uuid.clone() })
    }

    fn claim(&self, token: &str) -> Result<Claimed, ClaimError> {
        let mut invitations = lock(&self.invitations);
        let at = invitations
            .iter()
            .position(|(known, _)| known == token)
            .ok_or_else(|| ClaimError::Refused("this invitation is unknown, or was claimed already".into()))?;
        let (_, namespace) = invitations.remove(at);
        let claimed = Claimed { uuid: format!("uuid-of-{namespace}"), key: crate::router::transaction(), namespace };
        lock(&self.owners).push(claimed.clone());
        Ok(claimed)
    }
}

/// An API that answers with what it was asked.
///
/// `POST echo`: the body; `GET bytes?n=`: so many; `GET sleep?ms=`: after so long; `GET panic`; `GET who`: the owner; below `web/`: for
/// anybody. A body may have 1 MiB, below `large` 64 MiB.
#[derive(Default)]
pub struct Echo {
    /// Requests that arrived here.
    pub asked: AtomicUsize,
    /// Requests that were answered here, and not given up before.
    pub answered: AtomicUsize,
}

impl Routes for Echo {
    fn limits(&self, _method: &Method, path: &str) -> BodyLimit {
        let bytes = if path.starts_with("/large") { 64 << 20 } else { 1 << 20 };
        BodyLimit { bytes, anonymous: path.starts_with("/web/") }
    }

    fn handle(self: Arc<Self>, request: Request) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        self.asked.fetch_add(1, SeqCst);
        let number = |name: &str| request.query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let (n, ms) = (number("n"), number("ms"));
        Box::pin(async move {
            let response = match request.path.trim_start_matches("/web") {
                "/echo" => Response::json(StatusCode::OK, request.body),
                "/large" => Response::json(StatusCode::OK, request.body.len().to_string()),
                "/bytes" => {
                    let mut response = Response::json(StatusCode::OK, Bytes::from(vec![b'x'; n as usize]));
                    response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                    response
                }
                "/sleep" => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    Response::json(StatusCode::OK, "{}")
                }
                "/who" => Response::json(StatusCode::OK, request.owner.map_or_else(String::new, |owner| owner.namespace)),
                "/panic" => std::panic::panic_any("asked to panic"),
                _ => Response::error(StatusCode::NOT_FOUND, "The requested resource does not exist."),
            };
            self.answered.fetch_add(1, SeqCst);
            response
        })
    }
}

/// Functions that give back their parameters, after `sleep_ms` if they have that.
#[derive(Default)]
pub struct EchoFunctions {
    deployed: Mutex<Vec<String>>,
    calls: AtomicU64,
}

impl Functions for EchoFunctions {
    fn deploy(&self, spec: FunctionSpec, code: Vec<u8>, done: Box<dyn FnOnce(Result<[u8; 32], Failure>) + Send>) {
        lock(&self.deployed).push(spec.name);
        done(Ok(Sha256::digest(code).into()));
    }

    fn delete(&self, id: &str) {
        lock(&self.deployed).retain(|deployed| deployed != id);
    }

    fn invoke(&self, call: Call, done: Box<dyn FnOnce(Outcome) + Send>) -> u64 {
        let number = self.calls.fetch_add(1, SeqCst);
        let known = lock(&self.deployed).contains(&call.function);
        std::thread::spawn(move || {
            let value: serde_json::Value = serde_json::from_slice(&call.params).unwrap_or_default();
            std::thread::sleep(Duration::from_millis(value["sleep_ms"].as_u64().unwrap_or(0)));
            let result = match known {
                true => Ok(call.params),
                false => Err(Failure::new(FailureKind::Invalid, "there is no such function")),
            };
            done(Outcome { result, logs: String::new(), usage: Usage::default(), container: number, marks: Vec::new() });
        });
        number
    }

    fn cancel(&self, _call: u64) {}
}

/// A service over an [`Echo`], for connections that are no sockets.
///
/// # Errors
/// When there are no random numbers.
pub fn service(limits: Limits) -> io::Result<(Arc<Service>, Arc<Echo>)> {
    let echo = Arc::new(Echo::default());
    let parts = parts(SimulatedAttester::failing(0), echo.clone(), Settings::default())?;
    let authenticator = Authenticator::new(parts.accounts.clone()).ok_or_else(|| io::Error::other("no random numbers"))?;
    let api = Api::new(parts.identity, parts.attester, parts.accounts, parts.receipts, parts.about, parts.epoch, parts.nodes);
    Ok((Service::new(limits, Arc::default(), Arc::new(authenticator), api, echo.clone(), false), echo))
}

/// What a gateway is made of, with everything above.
///
/// # Errors
/// When there is no loopback interface or no random numbers.
pub fn parts(attester: Arc<dyn Attester>, routes: Arc<dyn Routes>, settings: Settings) -> io::Result<Parts> {
    let identity = Arc::new(Identity::generate().map_err(io::Error::other)?);
    let receipts = Receipts::new(identity.clone(), Arc::new(MemoryShelf::new(1000)));
    Ok(Parts {
        listener: std::net::TcpListener::bind(("127.0.0.1", 0))?,
        identity,
        attester,
        accounts: FixedAccounts::ada(),
        receipts,
        routes,
        about: About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mrenclave: MRENCLAVE,
            mrsigner: MRSIGNER,
            isv_prod_id: 1,
            isv_svn: 1,
            store: None,
        },
        epoch: Arc::new(|| 1),
        nodes: crate::nodes::Role::Alone,
        settings,
    })
}
