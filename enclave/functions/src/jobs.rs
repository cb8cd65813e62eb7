//! Which call is where. Every call is answered exactly once: whoever takes it out of [`Jobs`] answers it, and only one can.
//!
//! A call is *waiting* (its container is not here yet), *running*, or over. Numbers of requests are the node's; a number that is under
//! way or was answered lately is not run again. Container ids are ours, and never used twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use teemate_control::function::Mark;

use crate::control::Control;
use crate::function::Function;

/// Answered requests that are remembered.
const REMEMBERED: usize = 65_536;

/// A call.
pub struct Job {
    /// Number of the request.
    pub request: u64,
    /// Container that it runs in; 0 when it runs in this process.
    pub container: u64,
    /// What is called.
    pub function: Arc<Function>,
    /// With what.
    pub params: Vec<u8>,
    /// Its stop switch.
    pub control: Arc<Control>,
    /// Phases so far.
    pub marks: Vec<Mark>,
}

/// Calls under way and answered.
#[derive(Default)]
pub struct Jobs {
    /// By request: those that have no answer yet.
    open: HashMap<u64, Open>,
    /// By container: those that wait for it.
    waiting: HashMap<u64, Job>,
    /// By container: the requests that run there.
    running: HashMap<u64, u64>,
    answered: HashSet<u64>,
    order: VecDeque<u64>,
    total: u64,
}

struct Open {
    container: u64,
    control: Arc<Control>,
}

/// What the loss of a container means.
pub enum Lost {
    /// The call had not begun; the request must be answered now.
    Waiting(u64),
    /// The call runs; this stops it.
    Running(Arc<Control>),
    /// No call is there (any more).
    Nothing,
}

impl Jobs {
    /// Whether a request is under way or was answered lately.
    pub fn known(&self, request: u64) -> bool {
        self.open.contains_key(&request) || self.answered.contains(&request)
    }

    /// A call begins. With a container it waits for that.
    pub fn open(&mut self, request: u64, container: u64, control: &Arc<Control>) {
        self.open.insert(request, Open { container, control: control.clone() });
    }

    /// A call waits for its container.
    pub fn wait(&mut self, job: Job) {
        self.waiting.insert(job.container, job);
    }

    /// Its container is here. `None` when the call was lost or never was.
    pub fn enter(&mut self, container: u64) -> Option<Job> {
        let job = self.waiting.remove(&container)?;
        self.running.insert(container, job.request);
        Some(job)
    }

    /// A container is gone.
    pub fn lose(&mut self, container: u64) -> Lost {
        if let Some(job) = self.waiting.remove(&container) {
            return Lost::Waiting(job.request);
        }
        let open = self.running.get(&container).and_then(|request| self.open.get(request));
        open.map_or(Lost::Nothing, |open| Lost::Running(open.control.clone()))
    }

    /// A call is given up. Like [`Jobs::lose`].
    pub fn cancel(&mut self, request: u64) -> Lost {
        let Some(open) = self.open.get(&request) else { return Lost::Nothing };
        if self.waiting.remove(&open.container).is_some() { Lost::Waiting(request) } else { Lost::Running(open.control.clone()) }
    }

    /// Takes a call out, for its answer. False when it was answered already.
    pub fn close(&mut self, request: u64) -> bool {
        let Some(open) = self.open.remove(&request) else { return false };
        if self.running.get(&open.container) == Some(&request) {
            self.running.remove(&open.container);
        }
        self.remember(request);
        true
    }

    /// A request was answered without having been a call.
    pub fn remember(&mut self, request: u64) {
        if self.answered.insert(request) {
            self.order.push_back(request);
            self.total += 1;
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answered.remove(&oldest);
        }
    }

    /// Calls without an answer.
    pub fn under_way(&self) -> usize {
        self.open.len()
    }

    /// Calls that wait for their container.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.total
    }
}
