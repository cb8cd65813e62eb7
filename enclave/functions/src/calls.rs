//! Calling: from a request to a worker, in a container or in this process, and back to whoever called.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use teemate_control::function::{Failure, FailureKind, Mark, Outcome, Phase, Reuse, Usage};
use teemate_control::service::FromService;

use crate::call::{self, Finished, Warm};
use crate::channel::leaves;
use crate::clock::mark;
use crate::control::Control;
use crate::function::Function;
use crate::jobs::{Caller, Done, Input, Job, Jobs, Lost};
use crate::registry::Name;
use crate::service::Service;
use crate::{lock, spec, thread};

/// Stack of a worker. WebAssembly has stacks of its own.
const WORKER_STACK: usize = 256 << 10;
/// Calls at one time, of each sort.
pub(crate) const MAX_WORKERS: usize = 256;

/// A call that somebody wants.
pub struct Invocation {
    /// Who.
    pub caller: Caller,
    /// Of which function.
    pub name: Name,
    /// With what.
    pub input: Input,
    /// In this process, without a container.
    pub inline: bool,
    /// Its stop switch.
    pub control: Arc<Control>,
    /// When it was read.
    pub accepted: Mark,
}

/// Calls that wait for a worker of this process.
#[derive(Default)]
pub struct Inline {
    queue: VecDeque<Job>,
    idle: usize,
    all: usize,
}

impl Service {
    /// A call. `done` gets its outcome if the caller is not the node.
    pub fn invoke(self: &Arc<Self>, caller: Caller, name: Name, input: Input, inline: bool, done: Option<Done>) {
        let (control, accepted) = (Arc::new(Control::default()), mark(Phase::Accepted));
        if !lock(&self.jobs).open(caller, &control, done) {
            return;
        }
        match self.wait_for_deployment(Invocation { caller, name, input, inline, control, accepted }) {
            Ok(None) => {}
            Ok(Some(invocation)) => self.start(invocation),
            Err(failure) => self.refuse(caller, failure),
        }
    }

    /// Answers a request that never became a call.
    fn refuse(&self, caller: Caller, failure: Failure) {
        match caller {
            Caller::Node(request) => {
                if lock(&self.jobs).close(caller).is_some() {
                    self.outbox.post_here(FromService::Failed { request, failure });
                }
            }
            Caller::Local(_) => self.answer(caller, without_result(failure, 0)),
        }
    }

    /// Starts a call whose function is deployed, if it is.
    pub fn start(self: &Arc<Self>, invocation: Invocation) {
        let caller = invocation.caller;
        if let Err(failure) = self.try_start(invocation) {
            self.refuse(caller, failure);
        }
    }

    fn try_start(self: &Arc<Self>, invocation: Invocation) -> Result<(), Failure> {
        let Invocation { caller, name, input, inline, control, accepted } = invocation;
        // It may have been given up while its function was compiled.
        control.check()?;
        let function = self.functions.get(&name)?;
        spec::check_params(&input.params)?;
        spec::check_env(&input.env, "the call")?;
        if self.finishing.load(SeqCst) {
            return Err(Failure::new(FailureKind::Busy, "the service is shutting down"));
        }
        if !inline && !self.containers {
            return Err(Failure::new(FailureKind::Invalid, "this process is no enclave, so no container can enter it: call inline"));
        }
        let reuse = function.spec.reuse;
        let job = Box::new(Job { caller, container: 0, function, input, control, marks: vec![accepted] });
        if inline {
            return self.place_inline(*job);
        }
        if reuse == Reuse::Fresh {
            return self.place(*job);
        }
        let given = lock(&self.jobs).give(job);
        given.or_else(|job| self.place(*job))
    }

    /// A call gets a new container.
    fn place(self: &Arc<Self>, job: Job) -> Result<(), Failure> {
        self.ask_for_container(job, false)
    }

    /// A call that can't go to another enclave gets a new container in this one.
    pub(crate) fn place_here(self: &Arc<Self>, job: Job) {
        let caller = job.caller;
        if let Err(failure) = self.ask_for_container(job, true) {
            self.refuse(caller, failure);
        }
    }

    fn ask_for_container(self: &Arc<Self>, mut job: Job, here: bool) -> Result<(), Failure> {
        let container = self.ids.fetch_add(1, SeqCst);
        let need = need(container, &job.function, here);
        job.container = container;
        self.await_container(job)?;
        self.outbox.post_here(need);
        Ok(())
    }

    /// A call waits for its container; makes sure that a worker waits for it too.
    fn await_container(self: &Arc<Self>, job: Job) -> Result<(), Failure> {
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
            // One that waits for a call of another function can do this one as well.
            let freed = jobs.dismiss(1, None);
            self.idle.fetch_add(freed, SeqCst);
            if freed > 0 {
                return Ok(());
            }
            return full(&mut jobs, format!("{MAX_WORKERS} calls are running, which is the limit; try again later"));
        }
        // Counted as idle from here on: it will wait for a container before long.
        self.workers.fetch_add(1, SeqCst);
        self.idle.fetch_add(1, SeqCst);
        let service = self.clone();
        if let Err(error) = thread("worker", WORKER_STACK, move || service.work()) {
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
                    self.serve_in_container(job);
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
        match thread("worker", WORKER_STACK, move || service.work_inline()) {
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
            self.run_inline(job);
        }
    }

    fn run_inline(&self, job: Job) {
        let caller = job.caller;
        let Finished { outcome, rest, .. } = self.execute(job, None);
        self.answer(caller, outcome);
        // The instance is taken down when the answer is on its way.
        drop(rest);
        self.cleaner.wake();
    }

    /// Runs a call, in this instance if one is given.
    pub(crate) fn execute(&self, job: Job, warm: Option<Warm>) -> Finished {
        let Job { container, function, input, control, marks, .. } = job;
        call::run(&function, &control, input, container, marks, warm)
    }

    /// Answers a call, if that has not been done.
    pub(crate) fn answer(&self, caller: Caller, mut outcome: Outcome) {
        let closed = lock(&self.jobs).close(caller);
        match (closed.map(|closed| closed.done), caller) {
            (Some(Some(done)), _) => {
                leaves(&mut outcome);
                done(outcome);
            }
            (Some(None), Caller::Node(request)) => self.outbox.post(FromService::Done { request, outcome }),
            // Answered already, or nobody wants to know.
            (Some(None), Caller::Local(_)) | (None, _) => {}
        }
        if self.finished() {
            self.outbox.close();
        }
    }

    /// A call is given up by who made it.
    pub fn cancel(self: &Arc<Self>, caller: Caller) {
        let lost = lock(&self.jobs).cancel(caller);
        let message = "time: the call was given up, because its caller has gone or its deadline has passed";
        self.lost(lost, 0, Failure::new(FailureKind::Limit, message));
    }

    /// What a loss means for its call.
    pub fn lost(self: &Arc<Self>, lost: Lost, container: u64, failure: Failure) {
        match lost {
            Lost::Waiting(caller) => self.answer(caller, without_result(failure, container)),
            Lost::Unneeded(caller, container) => {
                self.outbox.post_here(FromService::Unneeded { container });
                self.answer(caller, without_result(failure, container));
            }
            Lost::Again(job) => {
                let caller = job.caller;
                if let Err(failure) = self.place(*job) {
                    self.answer(caller, without_result(failure, container));
                }
            }
            Lost::Running(control) => control.stop(failure),
            Lost::Elsewhere(caller, peer, number) => {
                self.answer(caller, without_result(failure, container));
                self.cancel_elsewhere(peer, number);
            }
            Lost::Nothing => {}
        }
    }
}

/// The outcome of a call of which nothing ran, or of which nobody knows what ran.
pub(crate) fn without_result(failure: Failure, container: u64) -> Outcome {
    Outcome { result: Err(failure), logs: String::new(), usage: Usage::default(), container, marks: Vec::new() }
}

fn need(container: u64, function: &Function, here: bool) -> FromService {
    let limits = &function.spec.limits;
    FromService::NeedContainer {
        container,
        memory: limits.memory,
        cpu_milli: limits.cpu_milli,
        egress: function.spec.egress.clone(),
        data: false,
        function: function.spec.name.clone(),
        timeout_ms: limits.timeout_ms,
        keep_ms: if function.spec.reuse == Reuse::Fresh { 0 } else { limits.idle_ms },
        here,
    }
}

/// Pages that a call may map: its memory twice, since a memory that grows out of its region is copied, and what the engine needs for it.
fn quota_pages(memory: u64) -> u64 {
    const ENGINE: u64 = 16 << 20;
    memory.saturating_mul(2).saturating_add(ENGINE) / crate::image::PAGE as u64
}
