//! The node: what it has, and what it does for a client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use teemate_control::PROTOCOL;
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Mark, Outcome, Phase};
use teemate_control::node::{CallLog, EnclaveInfo, FunctionInfo, Ps, Response, Sharing, Status};
use teemate_control::service::{Ask, Order, OrderDone, Reply};
use teemate_image::Image;
use teemate_quoting::QuotingService;
use teemate_runner::board::{Board, OCALL_KINDS, now_ns};
use teemate_sgx::{BuildOptions, Counters, Device, Enclave};

use crate::config::Config;
use crate::containers::{Containers, Kind, Nursery};
use crate::control::Rest;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::gateway::{self, Listener};
use crate::history::History;
use crate::locks::{Lock, wait};
use crate::metrics::Metrics;
use crate::sealed::Sealed;
use crate::shared::SharedEnclave;
use crate::solo::{DEPLOY_LIMIT, Solo};
use crate::store::{Function, Store};
use crate::tasks::Tasks;
use crate::text::hex;

/// Beyond a function's own time limit and the wait for a thread: how long until a call is given up.
const CALL_MARGIN: Duration = Duration::from_secs(5);
/// How long the gateway may take to open its store, and for whatever an administrator wants.
const GATEWAY_LIMIT: Duration = Duration::from_secs(60);
/// Compiled functions kept for native mode.
const PRECOMPILED_MAX: usize = 256;
/// Ids that the node gives its own processes start here, far from those that an enclave counts up.
const OWN_IDS: u64 = 1 << 62;

/// The device, and the image of the next enclave.
type Builder = (Box<dyn Device>, Mutex<Arc<Image>>);

/// What all modes work with.
pub struct Shop {
    /// What the operator decided.
    pub config: Config,
    /// Functions.
    pub store: Store,
    /// Their last calls.
    pub history: History,
    /// Processes.
    pub containers: Arc<Containers>,
    /// What is counted.
    pub metrics: Metrics,
    /// Sealed bytes of the enclave.
    pub sealed: Mutex<Sealed>,
    /// Where the enclave's own clients connect.
    pub listener: Option<Listener>,
    /// Where the payload keeps files of its own.
    pub data: Option<Arc<Data>>,
    device: Option<Builder>,
    quoting: Option<Box<dyn QuotingService>>,
    enclaves: AtomicU64,
    ids: AtomicU64,
    precompiled: Mutex<HashMap<[u8; 32], Vec<u8>>>,
    solos: Mutex<HashMap<u64, Arc<dyn Enclave>>>,
    /// Of enclaves that are no more.
    past: Mutex<(Counters, [u64; OCALL_KINDS])>,
    past_threads: Mutex<([u64; 3], u64)>,
    alarm: (Mutex<bool>, Condvar),
}

impl Shop {
    /// With what there is. `device` may be missing in native mode.
    ///
    /// # Errors
    /// When the sealed bytes can't be reached, or the address for clients is taken.
    pub fn new(config: Config, store: Store, containers: Arc<Containers>, device: Option<(Box<dyn Device>, Image)>) -> Result<Shop> {
        let listen = config.listen.0.filter(|_| config.sharing == Sharing::Shared);
        Ok(Shop {
            sealed: Mutex::new(Sealed::open(&config.state)?),
            listener: listen.map(Listener::open).transpose()?,
            data: config.data.as_deref().map(|data| Data::open(data, config.witness_directory.as_deref())).transpose()?.map(Arc::new),
            quoting: device.as_ref().map(|(device, _)| crate::device::quoting(device.kind(), &config)).transpose()?,
            config,
            store,
            containers,
            device: device.map(|(device, image)| (device, Mutex::new(Arc::new(image)))),
            history: History::default(),
            metrics: Metrics::new(),
            enclaves: AtomicU64::new(1),
            ids: AtomicU64::new(OWN_IDS),
            precompiled: Mutex::new(HashMap::new()),
            solos: Mutex::new(HashMap::new()),
            past: Mutex::new((Counters::default(), [0; OCALL_KINDS])),
            past_threads: Mutex::default(),
            alarm: (Mutex::new(false), Condvar::new()),
        })
    }

    fn device(&self) -> Result<&Builder> {
        let missing = || Error::Missing("this node was started without --image, so only native calls are possible".to_owned());
        self.device.as_ref().ok_or_else(missing)
    }

    /// The image of the enclaves to come.
    pub fn image(&self) -> Result<Arc<Image>> {
        self.device().map(|(_, image)| Arc::clone(&image.locked()))
    }

    /// Builds an enclave from an image.
    pub fn build(&self, image: &Image) -> Result<Box<dyn Enclave>> {
        let options = BuildOptions { epc_limit_pages: self.config.epc_limit / teemate_abi::layout::PAGE_SIZE };
        Ok(self.device()?.0.build(image, &options)?)
    }

    /// Takes another image for the enclaves to come; gives the one before.
    pub fn replace_image(&self, image: Image) -> Result<Arc<Image>> {
        self.replace_image_shared(Arc::new(image))
    }

    /// As [`Shop::replace_image`], with one that was here before.
    pub fn replace_image_shared(&self, image: Arc<Image>) -> Result<Arc<Image>> {
        Ok(std::mem::replace(&mut *self.device()?.1.locked(), image))
    }

    /// A number for an enclave.
    pub fn next_enclave(&self) -> u64 {
        self.enclaves.fetch_add(1, Ordering::Relaxed)
    }

    /// An id for a process of the node's own making.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Native mode: code that an earlier payload compiled.
    pub fn precompiled(&self, digest: &[u8; 32]) -> Option<Vec<u8>> {
        self.precompiled.locked().get(digest).cloned()
    }

    /// Native mode: keeps it.
    pub fn keep_precompiled(&self, digest: [u8; 32], code: Vec<u8>) {
        let mut known = self.precompiled.locked();
        if known.len() < PRECOMPILED_MAX {
            known.insert(digest, code);
        }
    }

    /// The enclaves that single calls have.
    pub fn solos<T>(&self, act: impl FnOnce(&mut HashMap<u64, Arc<dyn Enclave>>) -> T) -> T {
        act(&mut self.solos.locked())
    }

    /// Adds up what an enclave did that is about to go.
    pub fn account(&self, enclave: &dyn Enclave, board: &Board) {
        let mut past = self.past.locked();
        past.0 = sum(past.0, enclave.counters());
        for (total, count) in past.1.iter_mut().zip(board.ocalls()) {
            *total += count;
        }
    }

    /// The same of its threads: those that were adopted, and processes that took the service over.
    pub fn account_threads(&self, shared: &SharedEnclave) {
        let mut past = self.past_threads.locked();
        *past = with_threads(*past, shared);
    }

    /// Answers a question about quotes.
    pub fn quote(&self, ask: &Ask) -> Reply {
        let Some(quoting) = &self.quoting else { return Reply::Failed("this node has no enclave device, and so no quotes".to_owned()) };
        let made = match ask {
            Ask::QuoteTarget => quoting.target().map(|target| target.to_vec()),
            Ask::Quote { report } => match report.as_slice().try_into() {
                Ok(report) => quoting.quote(report),
                Err(_) => return Reply::Failed(format!("a report has {} bytes, this has {}", teemate_quoting::REPORT, report.len())),
            },
            _ => return Reply::Failed("this is no question about quotes".to_owned()),
        };
        made.map_or_else(
            |error| {
                tracing::error!(%error, "there is no quote of the enclave");
                Reply::Failed(error.to_string())
            },
            Reply::Bytes,
        )
    }

    /// Tells the keeper to look after the shared enclave.
    pub fn wake(&self) {
        *self.alarm.0.locked() = true;
        self.alarm.1.notify_all();
    }
}

/// Adds phases that the service did not report itself: what happened inside, it knows better.
pub fn add_phases(marks: &mut Vec<Mark>, more: impl IntoIterator<Item = Mark>) {
    for mark in more {
        if marks.iter().all(|known| known.phase != mark.phase) {
            marks.push(mark);
        }
    }
}

fn with_threads((mut adopted, takeovers): ([u64; 3], u64), shared: &SharedEnclave) -> ([u64; 3], u64) {
    for (total, count) in adopted.iter_mut().zip(shared.adopted()) {
        *total += count;
    }
    (adopted, takeovers + shared.taken_over())
}

/// Counters of two enclaves.
pub fn sum(a: Counters, b: Counters) -> Counters {
    Counters {
        eenter: a.eenter + b.eenter,
        eexit: a.eexit + b.eexit,
        aex: a.aex + b.aex,
        eresume: a.eresume + b.eresume,
        eaug: a.eaug + b.eaug,
        eremove: a.eremove + b.eremove,
        killed_inside: a.killed_inside + b.killed_inside,
        killed_entering: a.killed_entering + b.killed_entering,
        killed_in_leaf: a.killed_in_leaf + b.killed_in_leaf,
        killed_in_exit: a.killed_in_exit + b.killed_in_exit,
    }
}

/// The node.
pub struct Node {
    shop: Arc<Shop>,
    pub(crate) shared: Mutex<Option<Arc<SharedEnclave>>>,
    /// Held while the shared enclave is being built.
    pub(crate) building: Mutex<()>,
    base: Mutex<Option<Arc<Nursery>>>,
    pub(crate) deploying: Mutex<()>,
    begun: Instant,
    calls: AtomicU64,
    running: (Mutex<u64>, Condvar),
    stopping: AtomicBool,
    tasks: Tasks,
}

/// A call under way.
pub(crate) struct Running<'a>(&'a Node);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.running.0.locked() -= 1;
        self.0.running.1.notify_all();
    }
}

impl Node {
    /// A node. Builds the shared enclave if that is its mode.
    pub fn new(shop: Shop) -> Result<Arc<Node>> {
        let node = Arc::new(Node {
            shop: Arc::new(shop),
            shared: Mutex::new(None),
            building: Mutex::new(()),
            base: Mutex::new(None),
            deploying: Mutex::new(()),
            begun: Instant::now(),
            calls: AtomicU64::new(0),
            running: (Mutex::new(0), Condvar::new()),
            stopping: AtomicBool::new(false),
            tasks: Tasks::default(),
        });
        crate::metrics::watch(&node);
        crate::tasks::forget_files_of_earlier(&node.shop.store);
        match node.shop.config.sharing {
            Sharing::Shared => _ = node.shared_enclave()?,
            Sharing::Exclusive | Sharing::Native => _ = node.base()?,
        }
        let keeper = Arc::downgrade(&node);
        let shop = Arc::clone(&node.shop);
        let spawned = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || keep(&keeper, &shop));
        spawned.map_err(Error::system("start a thread of the node"))?;
        Ok(node)
    }

    /// What it works with.
    pub fn shop(&self) -> &Arc<Shop> {
        &self.shop
    }

    /// What somebody else directs.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The shared enclave, if it is there.
    pub fn current(&self) -> Option<Arc<SharedEnclave>> {
        self.shared.locked().clone()
    }

    /// The shared enclave and its workers.
    pub fn all_shared(&self) -> Vec<Arc<SharedEnclave>> {
        let serving = self.current();
        serving.into_iter().flat_map(|serving| std::iter::once(Arc::clone(&serving)).chain(serving.worker_enclaves())).collect()
    }

    /// The shared enclave; built if this is the first call that wants it.
    pub(crate) fn shared_enclave(&self) -> Result<Arc<SharedEnclave>> {
        let there = |node: &Node| -> Result<Option<Arc<SharedEnclave>>> {
            match node.current() {
                Some(shared) => match shared.broken() {
                    None => Ok(Some(shared)),
                    Some(why) => Err(Error::Busy(format!("the shared enclave is being built anew ({why}); try again in a moment"))),
                },
                None => Ok(None),
            }
        };
        if let Some(shared) = there(self)? {
            return Ok(shared);
        }
        let _one_builder = self.building.locked();
        if let Some(shared) = there(self)? {
            return Ok(shared);
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(stopping());
        }
        let shared = SharedEnclave::start(&self.shop)?;
        if let Err(failure) = self.open_gateway(&shared) {
            shared.down();
            return Err(Error::Service(failure.message));
        }
        let _no_deployment = self.deploying.locked();
        for function in self.shop.store.all() {
            if let Err(reason) = give(&shared, &function) {
                tracing::error!(function = function.spec.name, reason = reason.message, "a stored function can't be deployed");
            }
        }
        *self.shared.locked() = Some(Arc::clone(&shared));
        Ok(shared)
    }

    /// Lets an enclave answer at the listening socket.
    pub(crate) fn open_gateway(&self, shared: &SharedEnclave) -> std::result::Result<(), Failure> {
        let Some(listener) = &self.shop.listener else { return Ok(()) };
        let unreadable = |error| Failure::new(FailureKind::Invalid, format!("the file of --collateral can't be read: {error}"));
        if let Some(nodes) = self.shop.config.nodes().map_err(unreadable)? {
            gateway::expect_done(shared.channel().administer(Order::Nodes(nodes), GATEWAY_LIMIT)?)?;
        }
        gateway::expect_done(shared.channel().administer(Order::Serve, GATEWAY_LIMIT)?)?;
        tracing::info!(endpoint = %listener.address(), "the enclave answers its clients");
        Ok(())
    }

    /// Has the gateway do something for the administrator.
    pub fn administer(&self, order: Order) -> std::result::Result<OrderDone, Failure> {
        if self.shop.listener.is_none() {
            let text = "this node has no gateway, and so no owners: start it in shared mode, with --listen ADDRESS";
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        self.shared_enclave().map_err(|error| error.failure())?.channel().administer(order, GATEWAY_LIMIT)
    }

    /// Where the enclave's own clients connect, as `host:port`.
    pub fn endpoint(&self) -> Option<String> {
        self.shop.listener.as_ref().map(|listener| listener.address().to_string())
    }

    /// The zygote of containers that have no part in the shared enclave.
    fn base(&self) -> Result<Arc<Nursery>> {
        let mut base = self.base.locked();
        match &*base {
            Some(nursery) => Ok(Arc::clone(nursery)),
            None => {
                let nursery = Arc::new(Nursery::new(&self.shop.config.zygote, Vec::new(), Vec::new())?);
                *base = Some(Arc::clone(&nursery));
                Ok(nursery)
            }
        }
    }

    pub(crate) fn enter(&self) -> Result<Running<'_>> {
        let mut running = self.running.0.locked();
        if self.stopping.load(Ordering::Acquire) {
            return Err(stopping());
        }
        *running += 1;
        Ok(Running(self))
    }

    // ---- requests ----

    /// Calls a function. The second value must be dropped when the answer is out.
    pub fn invoke(
        &self,
        name: &str,
        params: serde_json::Value,
        sharing: Option<Sharing>,
        received_ns: u64,
        given_up: &dyn Fn() -> bool,
    ) -> (Response, Rest) {
        let sharing = sharing.unwrap_or(self.shop.config.sharing);
        let mut rest: Rest = None;
        let result = self.try_invoke(name, &params, sharing, received_ns, given_up, &mut rest);
        let result = result.map(|mut outcome| {
            outcome.marks.sort_by_key(|mark| (mark.at_ns, mark.phase));
            outcome
        });
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.shop.metrics.call(sharing, &result);
        if self.shop.store.get(name).is_ok() {
            self.shop.history.note(name, result.as_ref().ok());
        }
        let response = match result {
            Ok(outcome) => Response::Invoked { outcome },
            Err(failure) => Response::Failed(failure),
        };
        (response, rest)
    }

    fn try_invoke(
        &self,
        name: &str,
        params: &serde_json::Value,
        sharing: Sharing,
        received_ns: u64,
        given_up: &dyn Fn() -> bool,
        rest: &mut Rest,
    ) -> std::result::Result<Outcome, Failure> {
        let failed = |error: Error| error.failure();
        let _running = self.enter().map_err(failed)?;
        let function = self.shop.store.get(name).map_err(failed)?;
        if !params.is_object() {
            return Err(Failure::new(FailureKind::Invalid, "the parameters of a call must be a JSON object"));
        }
        let params = serde_json::to_vec(params).map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        let received = Mark { phase: Phase::Received, at_ns: received_ns };
        let timeout = Duration::from_millis(function.spec.limits.timeout_ms);
        match sharing {
            Sharing::Shared => {
                let limit = timeout + self.shop.config.queue_timeout + CALL_MARGIN;
                let mut outcome = self.shared_enclave().map_err(failed)?.invoke(name, params, limit, given_up)?;
                outcome.marks.push(received);
                Ok(outcome)
            }
            Sharing::Exclusive | Sharing::Native => {
                let solo = self.solo(sharing, &function, vec![received]).map_err(failed)?;
                let called = solo.deploy(&function).and_then(|()| solo.invoke(name, params, timeout + CALL_MARGIN, given_up));
                *rest = Some(Box::new(solo));
                called
            }
        }
    }

    fn solo(&self, sharing: Sharing, function: &Function, marks: Vec<Mark>) -> Result<Solo> {
        if self.shop.containers.count(Kind::Function) >= self.shop.config.max_containers {
            let text = format!(
                "{} containers run already; try again later, or start the node with a larger --max-containers",
                self.shop.config.max_containers
            );
            return Err(Error::Busy(text));
        }
        let base = self.base()?;
        match sharing {
            Sharing::Native => Solo::native(&self.shop, &base, function, marks),
            _ => Solo::exclusive(&self.shop, &base, function, marks),
        }
    }

    /// Deploys a function: tried first, then stored.
    pub fn deploy(&self, spec: FunctionSpec, code: &[u8], files: &[Vec<u8>]) -> std::result::Result<FunctionInfo, Failure> {
        let failed = |error: Error| error.failure();
        let _running = self.enter().map_err(failed)?;
        let staged = self.shop.store.stage(spec, code, files).map_err(failed)?;
        let shared = match self.shop.config.sharing {
            Sharing::Shared => Some(self.shared_enclave().map_err(failed)?),
            mode => {
                self.solo(mode, &staged.function, Vec::new()).map_err(failed)?.deploy(&staged.function)?;
                self.current()
            }
        };
        let _one_at_a_time = self.deploying.locked();
        if let Some(shared) = shared {
            give(&shared, &staged.function)?;
            shared.sync();
        }
        let function = self.shop.store.commit(staged).map_err(failed)?;
        tracing::info!(function = function.spec.name, digest = hex(&function.digest), "a function was deployed");
        Ok(self.info(&function))
    }

    /// Forgets a function.
    pub fn delete(&self, name: &str) -> std::result::Result<(), Failure> {
        let failed = |error: Error| error.failure();
        let _one_at_a_time = self.deploying.locked();
        self.shop.store.get(name).map_err(failed)?;
        if let Some(shared) = self.current()
            && let Err(failure) = shared.channel().delete(name, Duration::from_secs(30))
            && failure.kind != FailureKind::Invalid
        {
            return Err(failure);
        }
        self.shop.store.delete(name).map_err(failed)?;
        self.shop.history.forget(name);
        tracing::info!(function = name, "a function was deleted");
        Ok(())
    }

    fn info(&self, function: &Function) -> FunctionInfo {
        let tally = self.shop.history.tally(&function.spec.name);
        FunctionInfo {
            spec: function.spec.clone(),
            digest: hex(&function.digest),
            size: function.size,
            calls: tally.calls,
            failed: tally.failed,
        }
    }

    /// All functions.
    pub fn functions(&self) -> Vec<FunctionInfo> {
        self.shop.store.all().iter().map(|function| self.info(function)).collect()
    }

    /// One function.
    pub fn function(&self, name: &str) -> Result<FunctionInfo> {
        self.shop.store.get(name).map(|function| self.info(&function))
    }

    /// The last calls of one.
    pub fn logs(&self, name: &str, last: usize) -> Result<Vec<CallLog>> {
        self.shop.store.get(name)?;
        Ok(self.shop.history.last(name, last))
    }

    /// The node in a line.
    pub fn status(&self) -> Status {
        let kind = self.shop.device.as_ref().map(|(device, _)| crate::device::name(device.kind()));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            pid: std::process::id(),
            uptime_s: self.begun.elapsed().as_secs(),
            device: kind.unwrap_or("none").to_owned(),
            sharing: self.shop.config.sharing,
            endpoint: self.endpoint(),
            mrenclave: self.current().map(|shared| hex(&shared.enclave.mrenclave())).unwrap_or_default(),
            calls: self.calls.load(Ordering::Relaxed),
            running: *self.running.0.locked(),
        }
    }

    /// All enclaves.
    pub fn enclave_rows(&self) -> Vec<EnclaveInfo> {
        let mut rows = Vec::new();
        for shared in self.all_shared() {
            let (total, count) = shared.tcs();
            rows.push(crate::solo::row(shared.id, shared.role(), &*shared.enclave, total - count.free));
        }
        let solos: Vec<_> = self.shop.solos(|rows| rows.iter().map(|(id, enclave)| (*id, Arc::clone(enclave))).collect());
        rows.extend(solos.iter().map(|(id, enclave)| crate::solo::row(*id, "exclusive", &**enclave, enclave.tcs_count())));
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// What runs.
    pub fn ps(&self) -> Ps {
        let mut containers: Vec<_> = self.shop.containers.all().iter().map(|process| process.info()).collect();
        for shared in self.all_shared() {
            let of_it = containers.iter_mut().filter(|one| one.enclave == Some(shared.id) && one.role != Kind::Ready.name());
            of_it.for_each(|container| container.charged_pages = container.tcs.map(|tcs| shared.enclave.charged_pages(tcs)));
        }
        Ps { enclaves: self.enclave_rows(), containers }
    }

    /// Containers of shared enclaves that run a function, and the EPC pages that are charged to each.
    pub fn charged_pages(&self) -> Vec<(u64, Kind, u64)> {
        let all = self.shop.containers.all();
        let mut rows = Vec::new();
        for shared in self.all_shared() {
            let of_it = all.iter().filter(|process| process.enclave == Some(shared.id) && process.kind() != Kind::Ready);
            rows.extend(of_it.filter_map(|one| Some((one.id(), one.kind(), shared.enclave.charged_pages(one.lease?.tcs)))));
        }
        rows
    }

    /// Prometheus text.
    pub fn metrics(&self) -> String {
        self.shop.metrics.text()
    }

    /// Counters of all enclaves, and OCALLs by kind, since the node's start.
    pub fn counters(&self) -> (Counters, [u64; OCALL_KINDS]) {
        let (mut counters, mut ocalls) = *self.shop.past.locked();
        for shared in self.all_shared() {
            counters = sum(counters, shared.enclave.counters());
            for (total, count) in ocalls.iter_mut().zip(shared.board.ocalls()) {
                *total += count;
            }
        }
        for enclave in self.shop.solos(|rows| rows.values().cloned().collect::<Vec<_>>()) {
            counters = sum(counters, enclave.counters());
        }
        (counters, ocalls)
    }

    /// Threads of shared enclaves since the node's start: adopted, by where they were found, and taken over with a service.
    pub fn threads(&self) -> ([u64; 3], u64) {
        let past = *self.shop.past_threads.locked();
        self.all_shared().iter().fold(past, |sum, shared| with_threads(sum, shared))
    }

    /// Kills a container.
    pub fn kill(&self, container: u64) -> Result<()> {
        let process = self.shop.containers.find(container);
        let process = process.ok_or_else(|| Error::Invalid(format!("no container {container} runs; `teemate ps` shows those that do")))?;
        process.kill("an administrator wanted it");
        Ok(())
    }

    // ---- end ----

    /// Takes no more calls; [`Node::is_stopping`] is true from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.shop.wake();
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Lets the calls under way come to their end, as far as the grace goes, and takes everything down.
    pub fn shut_down(&self) {
        self.stop();
        let end = Instant::now() + self.shop.config.stop_grace;
        let mut running = self.running.0.locked();
        while *running > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(calls = *running, "calls under way are given up");
                break;
            }
            running = wait(&self.running.1, running, left);
        }
        drop(running);
        // Nobody builds an enclave meanwhile: `shared_enclave` looks at `stopping` under this lock.
        let _no_builder = self.building.locked();
        let shared = self.shared.locked().take();
        if let Some(shared) = shared {
            if self.shop.listener.is_some() && shared.broken().is_none() {
                let limit = Duration::from_millis(gateway::DRAIN_MS) + CALL_MARGIN;
                if let Err(failure) = shared.channel().administer(gateway::drain(), limit) {
                    tracing::warn!(reason = failure.message, "the gateway did not end in order");
                }
            }
            shared.down();
        }
        self.shop.containers.kill_all("the node stops", Duration::from_secs(10), |_| true);
        // Calls of their own take down what they have when their containers are gone.
        let end = Instant::now() + Duration::from_secs(5);
        let mut running = self.running.0.locked();
        while *running > 0 && Instant::now() < end {
            running = wait(&self.running.1, running, Duration::from_millis(100));
        }
        drop(running);
        *self.base.locked() = None;
        self.shop.containers.stop();
    }
}

fn stopping() -> Error {
    Error::Busy("the node is stopping; it takes no more calls".to_owned())
}

/// Deploys a function to the shared enclave.
pub(crate) fn give(shared: &SharedEnclave, function: &Function) -> std::result::Result<(), Failure> {
    let code = function.code().map_err(|error| error.failure())?;
    let (digest, _) = shared.channel().deploy(&function.spec, code, None, DEPLOY_LIMIT)?;
    if digest == function.digest {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Internal, "the function service read another code than was sent"))
}

/// Builds the shared enclave anew when it can't go on.
fn keep(node: &Weak<Node>, shop: &Shop) {
    let mut pause = Duration::from_millis(200);
    loop {
        {
            let mut alarm = shop.alarm.0.locked();
            while !*alarm {
                alarm = wait(&shop.alarm.1, alarm, Duration::from_secs(1));
                if node.strong_count() == 0 {
                    return;
                }
            }
            *alarm = false;
        }
        let Some(node) = node.upgrade() else { return };
        if node.is_stopping() {
            return;
        }
        let Some(broken) = node.current().filter(|shared| shared.broken().is_some()) else { continue };
        let begun = now_ns();
        broken.down();
        *node.shared.locked() = None;
        drop(broken);
        shop.metrics.rebuilt();
        match node.shared_enclave() {
            Ok(_) => {
                tracing::info!(ms = (now_ns() - begun) / 1_000_000, "the shared enclave was built anew");
                pause = Duration::from_millis(200);
            }
            Err(error) => {
                tracing::error!(%error, "the shared enclave can't be built anew; the next call tries again");
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    }
}
