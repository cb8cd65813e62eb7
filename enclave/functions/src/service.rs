//! The service: reads what the node wants, deploys, calls, answers.
//!
//! Threads: the reader (the main thread), the sender, the ticker, one that compiles while there is something to compile, and workers.
//! A worker for containers waits in [`Entrance::next`] until the node lets a container in, which then *is* that thread; a worker for calls
//! in this process waits for the next such call.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use teemate_control::PROTOCOL;
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Mark, Outcome, Phase, Usage};
use teemate_control::packet::{Joiner, MAX_PACKET};
use teemate_control::service::{FromService, ToService};

use crate::call::{self, Finished};
use crate::channel::{Channel, Outbox};
use crate::clock::mark;
use crate::control::Control;
use crate::engine::THREAD_STACK;
use crate::function::{Engines, Function};
use crate::jobs::{Job, Jobs, Lost};
use crate::ticker::Ticker;
use crate::{lock, spec};

/// Calls at one time, of each sort.
const MAX_WORKERS: usize = 256;
/// Functions deployed.
const MAX_FUNCTIONS: usize = 10_000;
/// Deployments that wait for the compiler, and calls that wait for a deployment.
const MAX_QUEUED: usize = 1024;

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

/// The state that all threads share.
struct Service {
    engines: Engines,
    functions: RwLock<HashMap<String, Arc<Function>>>,
    jobs: Mutex<Jobs>,
    outbox: Outbox,
    ticker: Ticker,
    compiler: Mutex<Compiler>,
    inline: Mutex<Inline>,
    inline_filled: Condvar,
    entrance: Box<dyn Entrance>,
    /// Workers for containers: all, and those that wait for one.
    workers: AtomicUsize,
    idle: AtomicUsize,
    finishing: AtomicBool,
    containers: bool,
    ids: AtomicU64,
}

/// What waits for the compiler.
#[derive(Default)]
struct Compiler {
    queue: VecDeque<Deployment>,
    /// Names in the queue or at work, and the calls that wait for them.
    names: HashMap<String, (usize, Vec<Invocation>)>,
    running: bool,
}

struct Deployment {
    request: u64,
    spec: FunctionSpec,
    code: Vec<u8>,
    precompiled: Option<Vec<u8>>,
}

struct Invocation {
    request: u64,
    name: String,
    params: Vec<u8>,
    inline: bool,
    accepted: Mark,
}

/// Calls that wait for a worker of this process.
#[derive(Default)]
struct Inline {
    queue: VecDeque<Job>,
    idle: usize,
    all: usize,
}

/// Serves the node until it hangs up or says so.
///
/// # Errors
/// When the engine cannot start, or the channel fails.
pub fn serve(channel: Channel, entrance: Box<dyn Entrance>, containers: bool) -> io::Result<()> {
    let engines = Engines::new().map_err(|error| io::Error::other(format!("the WebAssembly engine cannot start: {error}")))?;
    let service = Arc::new(Service {
        engines,
        functions: RwLock::default(),
        jobs: Mutex::default(),
        outbox: Outbox::new(channel),
        ticker: Ticker::default(),
        compiler: Mutex::default(),
        inline: Mutex::default(),
        inline_filled: Condvar::new(),
        entrance,
        workers: AtomicUsize::new(0),
        idle: AtomicUsize::new(0),
        finishing: AtomicBool::new(false),
        containers,
        ids: first_id(),
    });
    let sender = thread("sender", 128 << 10, {
        let service = service.clone();
        move || {
            service.outbox.run();
            if service.finished() {
                // The last answer is written; the reader still waits for a message that need not come.
                std::process::exit(0);
            }
        }
    })?;
    thread("ticker", 128 << 10, {
        let service = service.clone();
        move || service.ticker.run(&service.engines, if containers { SPARE } else { 0 })
    })?;
    service.outbox.post_here(FromService::Ready { protocol: PROTOCOL });

    let mut joiner = Joiner::default();
    let mut buffer = Box::new([0u8; MAX_PACKET]);
    while let Some(packet) = channel.receive(&mut buffer)? {
        match joiner.take::<ToService>(packet) {
            Ok(None) => {}
            Ok(Some(ToService::Hello { protocol })) => {
                joiner = Joiner::default();
                if protocol != PROTOCOL {
                    return Err(io::Error::other(format!(
                        "the node speaks protocol {protocol}, this service {PROTOCOL}: both must be of the same version"
                    )));
                }
            }
            Ok(Some(message)) => {
                if service.handle(message) {
                    break;
                }
            }
            Err(error) => {
                eprintln!("teemate-functions: from the node: {error}");
                joiner = Joiner::default();
            }
        }
        if service.finished() {
            break;
        }
    }
    if service.finishing.load(SeqCst) {
        service.outbox.close();
        let _ = sender.join();
    }
    Ok(())
}

/// Pages that a call may map: its memory twice, since a memory that grows out of its region is copied, and what the engine needs for it.
fn quota_pages(memory: u64) -> u64 {
    const ENGINE: u64 = 16 << 20;
    memory.saturating_mul(2).saturating_add(ENGINE) / crate::image::PAGE as u64
}

/// Container ids go from a random start upwards, and are never 0.
fn first_id() -> AtomicU64 {
    let mut start = [0u8; 8];
    crate::clock::random(&mut start);
    // Half of the range is left: more than any enclave can use.
    AtomicU64::new((u64::from_le_bytes(start) >> 1) + 1)
}

fn thread(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(body)
}

impl Service {
    /// One message. True when the service shall end now.
    fn handle(self: &Arc<Self>, message: ToService) -> bool {
        match message {
            ToService::Hello { .. } => {}
            ToService::Deploy { request, spec, code, precompiled } => self.deploy(Deployment { request, spec, code, precompiled }),
            ToService::Delete { request, name } => {
                let gone = self.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&name);
                self.outbox.post_here(match gone {
                    Some(_) => FromService::Deleted { request },
                    None => FromService::Failed { request, failure: unknown(&name) },
                });
            }
            ToService::Invoke { request, name, params, inline } => {
                self.invoke(Invocation { request, name, params, inline, accepted: mark(Phase::Accepted) });
            }
            ToService::ContainerLost { container, reason } => {
                let lost = lock(&self.jobs).lose(container);
                let message = format!("its container was lost: {}", spec::shorten(&reason));
                self.lost(lost, container, Failure::new(FailureKind::ContainerLost, message));
            }
            ToService::Cancel { request } => {
                let lost = lock(&self.jobs).cancel(request);
                self.lost(
                    lost,
                    0,
                    Failure::new(
                        FailureKind::Limit,
                        "time: the node gave the call up, because its caller has gone or its deadline has passed",
                    ),
                );
            }
            ToService::Stats { request } => {
                let functions = self.functions.read().unwrap_or_else(std::sync::PoisonError::into_inner).len() as u64;
                let jobs = lock(&self.jobs);
                let (running, answered) = (jobs.under_way() as u64, jobs.answered());
                drop(jobs);
                let idle_workers = self.idle.load(SeqCst) as u64;
                self.outbox.post_here(FromService::Stats { request, functions, running, idle_workers, answered });
            }
            // It has asked nothing.
            ToService::Reply { .. } => {}
            ToService::Administer { request, .. } => {
                let failure = Failure::new(FailureKind::Invalid, "this service has no gateway");
                self.outbox.post_here(FromService::Failed { request, failure });
            }
            ToService::Shutdown => {
                self.finishing.store(true, SeqCst);
                return self.finished();
            }
        }
        false
    }

    fn finished(&self) -> bool {
        self.finishing.load(SeqCst) && lock(&self.jobs).under_way() == 0
    }

    // ---- deploying -----------------------------------------------------------------------------------------------------------------

    fn deploy(self: &Arc<Self>, deployment: Deployment) {
        let request = deployment.request;
        let refuse =
            |message: String| self.outbox.post_here(FromService::Failed { request, failure: Failure::new(FailureKind::Busy, message) });
        let mut compiler = lock(&self.compiler);
        if compiler.queue.len() >= MAX_QUEUED {
            return refuse(format!("{MAX_QUEUED} deployments are waiting already; try again later"));
        }
        compiler.names.entry(deployment.spec.name.clone()).or_default().0 += 1;
        compiler.queue.push_back(deployment);
        if !compiler.running {
            compiler.running = true;
            drop(compiler);
            let service = self.clone();
            // Cranelift recurses over large functions.
            if let Err(error) = thread("compiler", 4 << 20, move || service.compile()) {
                let mut compiler = lock(&self.compiler);
                compiler.running = false;
                compiler.queue.clear();
                compiler.names.clear();
                refuse(format!("no thread to compile with: {error}"));
            }
        }
    }

    /// The thread that compiles, until nothing is left.
    fn compile(self: Arc<Self>) {
        loop {
            let deployment = {
                let mut compiler = lock(&self.compiler);
                match compiler.queue.pop_front() {
                    Some(deployment) => deployment,
                    None => {
                        compiler.running = false;
                        return;
                    }
                }
            };
            let Deployment { request, spec, code, precompiled } = deployment;
            let name = spec.name.clone();
            self.ticker.begin();
            let attempt = || Function::deploy(&self.engines, spec, &code, precompiled.as_deref());
            let function = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
                Err(Failure::new(FailureKind::Invalid, format!("'{name}' cannot be compiled: the compiler gave up on it")))
            });
            self.ticker.end();
            // A native node keeps what was compiled for its next process; it need not get back what it sent.
            let compiled = function.as_ref().ok().filter(|_| precompiled.is_none()).and_then(Function::precompiled);
            self.outbox.post(match function.and_then(|function| self.keep(function)) {
                Ok(digest) => FromService::Deployed { request, digest, precompiled: compiled },
                Err(failure) => FromService::Failed { request, failure },
            });
            self.deployed(&name);
        }
    }

    fn keep(&self, function: Function) -> Result<[u8; 32], Failure> {
        let mut functions = self.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if functions.len() >= MAX_FUNCTIONS && !functions.contains_key(&function.spec.name) {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_FUNCTIONS} functions are deployed already; delete one")));
        }
        let digest = function.digest;
        functions.insert(function.spec.name.clone(), Arc::new(function));
        Ok(digest)
    }

    /// Starts the calls that waited for a deployment.
    fn deployed(self: &Arc<Self>, name: &str) {
        let waiting = {
            let mut compiler = lock(&self.compiler);
            match compiler.names.get_mut(name) {
                Some((count, _)) if *count > 1 => {
                    *count -= 1;
                    return;
                }
                Some(_) => compiler.names.remove(name).map(|(_, waiting)| waiting).unwrap_or_default(),
                None => return,
            }
        };
        for invocation in waiting {
            self.start(invocation);
        }
    }

    // ---- calling -------------------------------------------------------------------------------------------------------------------

    fn invoke(self: &Arc<Self>, invocation: Invocation) {
        if lock(&self.jobs).known(invocation.request) {
            return;
        }
        {
            let mut compiler = lock(&self.compiler);
            if let Some((_, waiting)) = compiler.names.get_mut(&invocation.name) {
                if waiting.len() < MAX_QUEUED {
                    lock(&self.jobs).open(invocation.request, 0, &Arc::default());
                    waiting.push(invocation);
                    return;
                }
                drop(compiler);
                return self.refuse(
                    invocation.request,
                    Failure::new(FailureKind::Busy, format!("'{}' is being deployed and {MAX_QUEUED} calls wait for it", invocation.name)),
                );
            }
        }
        self.start(invocation);
    }

    /// Answers a request that never became a call.
    fn refuse(&self, request: u64, failure: Failure) {
        let mut jobs = lock(&self.jobs);
        if !jobs.close(request) {
            jobs.remember(request);
        }
        drop(jobs);
        self.outbox.post_here(FromService::Failed { request, failure });
    }

    fn start(self: &Arc<Self>, invocation: Invocation) {
        let Invocation { request, name, params, inline, accepted } = invocation;
        let function = self.functions.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&name).cloned();
        let Some(function) = function else { return self.refuse(request, unknown(&name)) };
        if let Err(failure) = spec::check_params(&params) {
            return self.refuse(request, failure);
        }
        if self.finishing.load(SeqCst) {
            return self.refuse(request, Failure::new(FailureKind::Busy, "the service is shutting down"));
        }
        if !inline && !self.containers {
            return self.refuse(
                request,
                Failure::new(FailureKind::Invalid, "this process is no enclave, so no container can enter it: call inline"),
            );
        }
        let container = if inline { 0 } else { self.ids.fetch_add(1, SeqCst) };
        let control = Arc::new(Control::default());
        let limits = &function.spec.limits;
        let need = FromService::NeedContainer {
            container,
            memory: limits.memory,
            cpu_milli: limits.cpu_milli,
            egress: function.spec.egress.clone(),
            function: name,
        };
        let job = Job { request, container, function, params, control: control.clone(), marks: vec![accepted] };
        lock(&self.jobs).open(request, container, &control);
        let placed = if inline { self.place_inline(job) } else { self.place(job) };
        match placed {
            Ok(()) if inline => {}
            Ok(()) => self.outbox.post_here(need),
            Err(failure) => self.refuse(request, failure),
        }
    }

    /// A call waits for its container; makes sure that a worker waits for it too.
    fn place(self: &Arc<Self>, job: Job) -> Result<(), Failure> {
        let mut jobs = lock(&self.jobs);
        let container = job.container;
        jobs.wait(job);
        if self.idle.load(SeqCst) >= jobs.waiting() {
            return Ok(());
        }
        let full = |jobs: &mut Jobs, why: String| {
            jobs.lose(container);
            Err(Failure::new(FailureKind::Busy, why))
        };
        if self.workers.load(SeqCst) >= MAX_WORKERS {
            return full(&mut jobs, format!("{MAX_WORKERS} calls are running, which is the limit; try again later"));
        }
        // Counted as idle from here on: it will wait for a container before long.
        self.workers.fetch_add(1, SeqCst);
        self.idle.fetch_add(1, SeqCst);
        let service = self.clone();
        if let Err(error) = thread("worker", THREAD_STACK, move || service.work()) {
            self.workers.fetch_sub(1, SeqCst);
            self.idle.fetch_sub(1, SeqCst);
            return full(&mut jobs, format!("no thread for another call: {error}; try again later"));
        }
        Ok(())
    }

    /// A worker for containers.
    fn work(self: Arc<Self>) {
        loop {
            match self.entrance.next() {
                Ok(container) => {
                    let entered = mark(Phase::Entered);
                    let job = {
                        let mut jobs = lock(&self.jobs);
                        let job = jobs.enter(container);
                        if job.is_some() {
                            self.idle.fetch_sub(1, SeqCst);
                        }
                        job
                    };
                    // An id that the service does not know, or one that was lost: nothing to do in there.
                    let Some(mut job) = job else { continue };
                    job.marks.push(entered);
                    // What the enclave itself enforces, whatever becomes of the limits above it. Natively there are no quotas, and the
                    // call says so by failing.
                    let _ = teemate_containers::set_quota(quota_pages(job.function.spec.limits.memory));
                    self.run(job);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    eprintln!("teemate-functions: a worker ends: {error}");
                    self.idle.fetch_sub(1, SeqCst);
                    self.workers.fetch_sub(1, SeqCst);
                    return;
                }
            }
        }
    }

    fn place_inline(self: &Arc<Self>, job: Job) -> Result<(), Failure> {
        let mut inline = lock(&self.inline);
        let spawn = inline.idle <= inline.queue.len();
        if spawn && inline.all >= MAX_WORKERS {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_WORKERS} calls are running, which is the limit; try again later")));
        }
        inline.queue.push_back(job);
        if !spawn {
            drop(inline);
            self.inline_filled.notify_one();
            return Ok(());
        }
        let service = self.clone();
        match thread("worker", THREAD_STACK, move || service.work_inline()) {
            Ok(_) => {
                inline.all += 1;
                Ok(())
            }
            Err(error) => {
                inline.queue.pop_back();
                Err(Failure::new(FailureKind::Busy, format!("no thread for another call: {error}; try again later")))
            }
        }
    }

    /// A worker for calls in this process.
    fn work_inline(self: Arc<Self>) {
        loop {
            let mut job = {
                let mut inline = lock(&self.inline);
                loop {
                    if let Some(job) = inline.queue.pop_front() {
                        break job;
                    }
                    inline.idle += 1;
                    inline = self.inline_filled.wait(inline).unwrap_or_else(std::sync::PoisonError::into_inner);
                    inline.idle -= 1;
                }
            };
            job.marks.push(mark(Phase::Entered));
            self.run(job);
        }
    }

    fn run(&self, job: Job) {
        let Job { request, container, function, params, control, marks } = job;
        self.ticker.begin();
        let Finished { outcome, rest } = call::run(&function, &control, params, container, marks);
        self.ticker.end();
        if container != 0 {
            // Before the answer, so that the call that follows on it finds a worker and starts none.
            self.idle.fetch_add(1, SeqCst);
        }
        self.answer(request, outcome);
        // The instance is taken down when the answer is on its way.
        drop(rest);
        self.ticker.wipe();
    }

    fn answer(&self, request: u64, outcome: Outcome) {
        if lock(&self.jobs).close(request) {
            self.outbox.post(FromService::Done { request, outcome });
        }
        if self.finished() {
            self.outbox.close();
        }
    }

    fn lost(&self, lost: Lost, container: u64, failure: Failure) {
        match lost {
            Lost::Waiting(request) => {
                self.answer(
                    request,
                    Outcome { result: Err(failure), logs: String::new(), usage: Usage::default(), container, marks: Vec::new() },
                );
            }
            Lost::Running(control) => {
                control.stop(failure);
                self.engines.tick();
            }
            Lost::Nothing => {}
        }
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new(FailureKind::Invalid, format!("there is no function '{}': deploy it first", spec::shorten(name)))
}
