//! The service: reads what the node wants, and has it done.
//!
//! Threads: the reader (the main thread), the sender, the cleaner, one that compiles while there is something to compile, and workers.
//! A worker for containers waits in [`Entrance::next`] until the node lets a container in, which then *is* that thread; a worker for calls
//! in this process waits for the next such call. The gateway brings threads of its own and uses the service by its [`Handle`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

use teemate_control::PROTOCOL;
use teemate_control::function::{Failure, FailureKind};
use teemate_control::service::{FromService, Order, OrderDone, ToService};
use teemate_link::Platform;

use crate::asks::{self, Asks};
use crate::calls::Inline;
use crate::channel::{Channel, Inbox, Outbox};
use crate::cleaner::Cleaner;
use crate::clock::first_container;
use crate::deploy::{Client, Compiler, Deployment};
use crate::function::Engines;
use crate::handle::Handle;
use crate::jobs::{Caller, Input, Jobs};
use crate::links::Links;
use crate::registry::{Name, Registry, Space};
use crate::source::Sources;
use crate::{lock, spec, thread};

/// Memories kept ready for the next calls, of each sort. A process that serves one call keeps none.
const SPARE: usize = 4;

/// Where a worker waits for its next container.
pub trait Entrance: Send + Sync {
    /// The id of the container that this thread is now in.
    ///
    /// # Errors
    /// When there are no containers here.
    fn next(&self) -> io::Result<u64>;
}

/// The enclave's own.
pub struct Enclave;

impl Entrance for Enclave {
    fn next(&self) -> io::Result<u64> {
        teemate_containers::next_container()
    }
}

/// What is done with what came of an [`Order`].
pub type Ordered = Box<dyn FnOnce(Result<OrderDone, Failure>) + Send>;

/// Carries out orders of the node's administrator. Called on the reader: it must not wait for anything.
pub type Gateway = Box<dyn Fn(Order, Ordered) + Send + Sync>;

/// The state that all threads share.
pub struct Service {
    pub(crate) engines: Engines,
    pub(crate) functions: Registry,
    pub(crate) jobs: Mutex<Jobs>,
    pub(crate) asks: Mutex<Asks>,
    pub(crate) outbox: Outbox,
    pub(crate) cleaner: Cleaner,
    pub(crate) compiler: Mutex<Compiler>,
    pub(crate) inline: Mutex<Inline>,
    pub(crate) inline_filled: Condvar,
    pub(crate) entrance: Box<dyn Entrance>,
    /// Workers for containers: all, and those that wait for one.
    pub(crate) workers: AtomicUsize,
    pub(crate) idle: AtomicUsize,
    pub(crate) finishing: AtomicBool,
    pub(crate) containers: bool,
    /// Of containers.
    pub(crate) ids: AtomicU64,
    /// Of calls from this process.
    pub(crate) numbers: AtomicU64,
    pub(crate) links: Links,
    pub(crate) sources: Sources,
}

/// Serves the node until it hangs up or says so. `platform` vouches for this enclave to others. `start` is called when functions can be
/// deployed: it may start a gateway, which then answers the node's administrator.
///
/// # Errors
/// When the engine or the gateway cannot start, or the channel fails.
pub fn serve(
    channel: Channel,
    entrance: Box<dyn Entrance>,
    containers: bool,
    platform: Box<dyn Platform>,
    start: impl FnOnce(Handle) -> io::Result<Option<Gateway>>,
) -> io::Result<()> {
    let engines = Engines::new().map_err(|error| io::Error::other(format!("the WebAssembly engine cannot start: {error}")))?;
    let service = Arc::new(Service {
        engines,
        functions: Registry::default(),
        jobs: Mutex::default(),
        asks: Mutex::default(),
        outbox: Outbox::new(channel),
        cleaner: Cleaner::default(),
        compiler: Mutex::default(),
        inline: Mutex::default(),
        inline_filled: Condvar::new(),
        entrance,
        workers: AtomicUsize::new(0),
        idle: AtomicUsize::new(0),
        finishing: AtomicBool::new(false),
        containers,
        ids: AtomicU64::new(first_container()),
        numbers: AtomicU64::new(1),
        links: Links::new(platform),
        sources: Sources::default(),
    });
    let sender = thread("sender", 256 << 10, {
        let service = service.clone();
        move || {
            service.outbox.run();
            if service.finished() {
                // The last answer is written; the reader still waits for a message that need not come.
                std::process::exit(0);
            }
        }
    })?;
    thread("cleaner", 128 << 10, {
        let service = service.clone();
        move || service.cleaner.run(&service.engines, if containers { SPARE } else { 0 })
    })?;
    service.outbox.post_here(FromService::Ready { protocol: PROTOCOL });
    let gateway = start(Handle(service.clone()))?;

    let mut inbox = Inbox::new(channel);
    while let Some(message) = inbox.receive()? {
        if service.handle(message, gateway.as_ref()) || service.finished() {
            break;
        }
    }
    asks::fail_all(&service.asks, "the node has hung up");
    if service.finishing.load(SeqCst) {
        service.outbox.close();
        let _ = sender.join();
    }
    Ok(())
}

impl Service {
    /// One message. True when the service shall end now.
    fn handle(self: &Arc<Self>, message: ToService, gateway: Option<&Gateway>) -> bool {
        match message {
            ToService::Hello { .. } => asks::fail_all(&self.asks, "the node was replaced before it replied"),
            ToService::Deploy { request, spec, code, precompiled } => {
                self.deploy(Deployment { client: Client::Node(request), spec, code, precompiled, came_as: None });
            }
            ToService::Delete { request, name } => {
                let gone = self.delete(&operators(name));
                self.outbox.post_here(match gone {
                    Ok(()) => FromService::Deleted { request },
                    Err(failure) => FromService::Failed { request, failure },
                });
            }
            ToService::Invoke { request, name, params, inline } => {
                self.invoke(Caller::Node(request), operators(name), Input { params, env: Vec::new() }, inline, None);
            }
            ToService::ContainerLost { container, reason } => {
                let lost = lock(&self.jobs).lose(container);
                let message = format!("its container was lost: {}", spec::shorten(&reason));
                self.lost(lost, container, Failure::new(FailureKind::ContainerLost, message));
            }
            ToService::Cancel { request } => self.cancel(Caller::Node(request)),
            ToService::Stats { request } => {
                let functions = self.functions.len() as u64;
                let jobs = lock(&self.jobs);
                let (running, answered) = (jobs.under_way() as u64, jobs.answered());
                drop(jobs);
                let idle_workers = self.idle.load(SeqCst) as u64;
                self.outbox.post_here(FromService::Stats { request, functions, running, idle_workers, answered });
            }
            ToService::Reclaim { wanted } => self.reclaim(wanted),
            ToService::Reply { question, reply } => {
                let replied = lock(&self.asks).reply(question, reply);
                if let Some((answered, reply)) = replied {
                    answered(reply);
                }
            }
            ToService::Link { peer, link } => self.link(peer, link),
            ToService::Elsewhere { container, peer } => self.elsewhere(container, peer),
            ToService::Administer { request, order } => self.administer(request, order, gateway),
            ToService::Shutdown => {
                self.finishing.store(true, SeqCst);
                return self.finished();
            }
        }
        false
    }

    fn administer(self: &Arc<Self>, request: u64, order: Order, gateway: Option<&Gateway>) {
        let Some(gateway) = gateway else {
            let failure = Failure::new(FailureKind::Invalid, "this service has no gateway");
            return self.outbox.post_here(FromService::Failed { request, failure });
        };
        let service = self.clone();
        let ordered = move |result| {
            service.outbox.post(match result {
                Ok(done) => FromService::Administered { request, done },
                Err(failure) => FromService::Failed { request, failure },
            });
        };
        gateway(order, Box::new(ordered));
    }

    /// Forgets a function.
    pub(crate) fn delete(&self, name: &Name) -> Result<(), Failure> {
        self.functions.remove(name).map(|gone| self.retire(&gone))
    }

    pub(crate) fn finished(&self) -> bool {
        self.finishing.load(SeqCst) && lock(&self.jobs).under_way() == 0
    }
}

fn operators(name: String) -> Name {
    Name { space: Space::Operator, name }
}
