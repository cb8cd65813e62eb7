//! The gateway as the service holds it: a thread with a runtime of its own, and a handle.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::api::{About, Api, Epoch};
use crate::auth::Authenticator;
use crate::error::GatewayError;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::lock;
use crate::metrics::{Counts, Metrics};
use crate::nodes::Role;
use crate::platform::{Accounts, Attester};
use crate::receipts::Receipts;
use crate::router::Routes;
pub use crate::server::Drained;
use crate::server::Server;
use crate::service::Service;
use crate::tls::{self, Certificates};

/// Stack of the thread that serves, and of those that may block.
const STACK: usize = 1 << 20;

/// What a gateway is made of.
pub struct Parts {
    /// Where peers connect. It listens already.
    pub listener: TcpListener,
    /// Keys.
    pub identity: Arc<Identity>,
    /// Quotes.
    pub attester: Arc<dyn Attester>,
    /// Owners.
    pub accounts: Arc<dyn Accounts>,
    /// Receipts; made from the same identity.
    pub receipts: Arc<Receipts>,
    /// What answers below `/api/v1`.
    pub routes: Arc<dyn Routes>,
    /// What this enclave is.
    pub about: About,
    /// The store's epoch.
    pub epoch: Epoch,
    /// What this node is to others.
    pub nodes: Role,
    /// What may be chosen.
    pub settings: Settings,
}

/// What may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Limits of the transport.
    pub limits: Limits,
    /// After this time the certificate is made anew, with a fresh quote.
    pub certificate_age: Duration,
    /// DNS names in the certificate, for clients that want some.
    pub names: Vec<String>,
    /// Whether sizes of answers are rounded up to classes.
    pub padding: bool,
    /// Threads that may block, beside the one that serves.
    pub blocking_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            limits: Limits::default(),
            certificate_age: Duration::from_secs(3600),
            names: vec!["localhost".to_owned()],
            padding: false,
            blocking_threads: 4,
        }
    }
}

/// How far a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no quote yet and serves nothing. With the failure of the last attempt.
    Attesting(Option<String>),
    /// It serves.
    Serving,
    /// It accepts nobody and lets its connections finish.
    Draining,
    /// It is over.
    Ended,
}

/// A gateway that runs. Dropping it drains it without patience.
pub struct Gateway {
    metrics: Arc<Metrics>,
    authenticator: Arc<Authenticator>,
    state: watch::Receiver<State>,
    /// Asks for the end, within this time.
    end: watch::Sender<Option<Duration>>,
    ended: Mutex<mpsc::Receiver<(Drained, Option<TcpListener>)>>,
    listener: Mutex<Option<TcpListener>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Gateway {
    /// Starts a thread that first gets a quote, for as long as that takes, and then serves.
    ///
    /// # Errors
    /// When TLS, the listener or the thread can't be set up.
    pub fn start(parts: Parts) -> Result<Gateway, GatewayError> {
        let Parts { listener, identity, attester, accounts, receipts, routes, about, epoch, nodes, settings } = parts;
        let metrics = Arc::<Metrics>::default();
        let authenticator = Arc::new(Authenticator::new(accounts.clone()).ok_or(GatewayError::Random)?);
        let api = Api::new(identity.clone(), attester.clone(), accounts, receipts.clone(), about, epoch, nodes);
        let certificates = Certificates::new(identity, attester, receipts, settings.names, metrics.clone())?;
        let config = tls::config(&certificates)?;
        let service = Service::new(settings.limits, metrics.clone(), authenticator.clone(), api.clone(), routes, settings.padding);
        let server = Server::new(service, config);
        listener.set_nonblocking(true).map_err(GatewayError::io("listener"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(settings.blocking_threads.max(1))
            .thread_stack_size(STACK)
            .thread_name("gateway-blocks")
            .build()
            .map_err(GatewayError::io("runtime"))?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(GatewayError::io("listener"))?
        };
        let (report, state) = watch::channel(State::Attesting(None));
        let (end, mut wish) = watch::channel(None);
        let (result, ended) = mpsc::channel();
        let age = settings.certificate_age;
        let body = async move {
            let failed = |error: &std::io::Error| {
                report.send_if_modified(|state| {
                    let Some(next) = (match state {
                        State::Attesting(_) => Some(State::Attesting(Some(error.to_string()))),
                        // The old certificate serves on; its quote is only older.
                        _ => None,
                    }) else {
                        return false;
                    };
                    *state = next;
                    true
                });
            };
            let wished = async {
                // The sender lives in the handle: when that is gone, nobody has patience.
                let limit = wish.wait_for(Option::is_some).await.map(|limit| *limit);
                limit.ok().flatten().unwrap_or_default()
            };
            let mut wished = std::pin::pin!(wished);
            let limit = tokio::select! {
                limit = &mut wished => Some(limit),
                () = certificates.renew_until_done(failed) => None,
            };
            let drained = match limit {
                Some(_) => Drained::default(),
                None => {
                    report.send_replace(State::Serving);
                    let limit = tokio::select! {
                        limit = &mut wished => limit,
                        () = server.run(&listener) => Duration::ZERO,
                        () = certificates.keep_fresh(age, failed) => Duration::ZERO,
                    };
                    report.send_replace(State::Draining);
                    api.drain();
                    server.drain(limit).await
                }
            };
            report.send_replace(State::Ended);
            // The socket may serve another gateway. If it can't be had back, it is closed; and nobody may be listening.
            let _ = result.send((drained, listener.into_std().ok()));
        };
        let thread = std::thread::Builder::new()
            .name("gateway".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                runtime.block_on(body);
                // A quote may be under way still; nobody waits for it.
                runtime.shutdown_background();
            })
            .map_err(GatewayError::io("thread"))?;
        Ok(Gateway {
            metrics,
            authenticator,
            state,
            end,
            ended: Mutex::new(ended),
            listener: Mutex::default(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        self.metrics.counts()
    }

    /// Forgets whose credentials it has checked: call it when a key was taken back.
    pub fn forget_credentials(&self) {
        self.authenticator.forget();
    }

    /// Stops accepting, lets requests finish within this time, cuts the rest, and ends. Blocks until then. Later calls find nothing to do.
    pub fn drain(&self, limit: Duration) -> Drained {
        self.end.send_replace(Some(limit));
        let (drained, listener) = lock(&self.ended).recv().unwrap_or_default();
        if listener.is_some() {
            *lock(&self.listener) = listener;
        }
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread has been reported by itself.
            let _ = thread.join();
        }
        drained
    }

    /// The listening socket, once the gateway is drained: for the next gateway, or to be closed. Peers that connect meanwhile wait in its
    /// queue.
    pub fn take_listener(&self) -> Option<TcpListener> {
        lock(&self.listener).take()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}
