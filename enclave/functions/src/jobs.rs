//! Which call is where. Every call is answered exactly once: whoever takes it out of [`Jobs`] answers it, and only one can.
//!
//! A call is *waiting* (its container is not here yet), *running*, or over. Whoever calls has numbers of his own ([`Caller`]); a number of
//! the node's that is under way or was answered lately is not run again. Container ids are ours, and never used twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use teemate_control::function::{Mark, Outcome};

use crate::control::Control;
use crate::function::Function;

/// Answered requests of the node that are remembered.
const REMEMBERED: usize = 65_536;

/// Whose call it is, and his number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The node's: it gave the number, perhaps twice.
    Node(u64),
    /// This process's own: the number was never given before.
    Local(u64),
}

/// What is done with the outcome of a call from this process.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// A call.
pub struct Job {
    /// Whose.
    pub caller: Caller,
    /// Container that it runs in; 0 when it runs in this process.
    pub container: u64,
    /// What is called.
    pub function: Arc<Function>,
    /// With what.
    pub input: Input,
    /// Its stop switch.
    pub control: Arc<Control>,
    /// Phases so far.
    pub marks: Vec<Mark>,
}

/// What a call gives its function.
#[derive(Debug, Default)]
pub struct Input {
    /// JSON object.
    pub params: Vec<u8>,
    /// Variables of its environment, beside and before those of the function.
    pub env: Vec<(String, String)>,
}

/// Calls under way and answered.
#[derive(Default)]
pub struct Jobs {
    /// Those that have no answer yet.
    open: HashMap<Caller, Open>,
    /// By container: those that wait for it.
    waiting: HashMap<u64, Job>,
    /// By container: the calls that run there.
    running: HashMap<u64, Caller>,
    answered: HashSet<u64>,
    order: VecDeque<u64>,
    total: u64,
}

struct Open {
    container: u64,
    control: Arc<Control>,
    done: Option<Done>,
}

/// What the loss of a container means.
pub enum Lost {
    /// The call had not begun; it must be answered now.
    Waiting(Caller),
    /// The call runs; this stops it.
    Running(Arc<Control>),
    /// No call is there (any more).
    Nothing,
}

/// A call that was taken out: to be answered by who took it.
pub struct Closed {
    /// Where the outcome goes when the call is not the node's.
    pub done: Option<Done>,
}

impl Jobs {
    /// Whether a call is under way or was answered lately.
    pub fn known(&self, caller: Caller) -> bool {
        self.open.contains_key(&caller) || matches!(caller, Caller::Node(request) if self.answered.contains(&request))
    }

    /// A call begins. Whoever has its outcome gives it to `done`, or to the node without. False when the number is known: nothing begins.
    pub fn open(&mut self, caller: Caller, control: &Arc<Control>, done: Option<Done>) -> bool {
        let new = !self.open.contains_key(&caller) && !matches!(caller, Caller::Node(request) if self.answered.contains(&request));
        if new {
            self.open.insert(caller, Open { container: 0, control: control.clone(), done });
        }
        new
    }

    /// A call waits for its container.
    pub fn wait(&mut self, job: Job) {
        if let Some(open) = self.open.get_mut(&job.caller) {
            open.container = job.container;
            self.waiting.insert(job.container, job);
        }
    }

    /// Its container is here. `None` when the call was lost or never was.
    pub fn enter(&mut self, container: u64) -> Option<Job> {
        let job = self.waiting.remove(&container)?;
        self.running.insert(container, job.caller);
        Some(job)
    }

    /// A container is gone.
    pub fn lose(&mut self, container: u64) -> Lost {
        if let Some(job) = self.waiting.remove(&container) {
            return Lost::Waiting(job.caller);
        }
        let open = self.running.get(&container).and_then(|caller| self.open.get(caller));
        open.map_or(Lost::Nothing, |open| Lost::Running(open.control.clone()))
    }

    /// A call is given up. Like [`Jobs::lose`].
    pub fn cancel(&mut self, caller: Caller) -> Lost {
        let Some(open) = self.open.get(&caller) else { return Lost::Nothing };
        if self.waiting.remove(&open.container).is_some() { Lost::Waiting(caller) } else { Lost::Running(open.control.clone()) }
    }

    /// Takes a call out, for its answer. `None` when it was answered already.
    pub fn close(&mut self, caller: Caller) -> Option<Closed> {
        let open = self.open.remove(&caller)?;
        if self.running.get(&open.container) == Some(&caller) {
            self.running.remove(&open.container);
        }
        self.total += 1;
        if let Caller::Node(request) = caller {
            self.remember(request);
        }
        Some(Closed { done: open.done })
    }

    fn remember(&mut self, request: u64) {
        if self.answered.insert(request) {
            self.order.push_back(request);
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
