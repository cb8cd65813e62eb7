//! Which call is where. Every call is answered exactly once: whoever takes it out of [`Jobs`] answers it, and only one can.
//!
//! A call is *waiting* (its container is not here yet), *running*, or over. Whoever calls has numbers of his own ([`Caller`]); a number of
//! the node's that is under way or was answered lately is not run again. Container ids are ours, and never used twice.
//!
//! A container whose function allows it waits after a call for the next one of the same function: see [`crate::reuse`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use teemate_control::function::{Mark, Outcome};

use crate::control::Control;
use crate::function::Function;
use crate::reuse::{Bell, Told};

/// Answered requests of the node that are remembered.
const REMEMBERED: usize = 65_536;

/// For how long the node's wish for containers is remembered, in nanoseconds: it repeats it while it is short of them.
const WANTED_NS: u64 = 500_000_000;

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
    /// Containers that wait for a further call of their function, the one that has waited longest first.
    idle: VecDeque<Idle>,
    /// Those that have been given one, which they have not begun: it is in `waiting` under the container's id.
    given: HashMap<u64, Arc<Bell>>,
    /// Containers that are gone, but whose call an adopter may be carrying to its end: no other call may be given to one.
    lost: HashSet<u64>,
    /// How many containers the node wants back, and until when that is believed.
    wanted: (usize, u64),
    answered: HashSet<u64>,
    order: VecDeque<u64>,
    total: u64,
}

struct Idle {
    container: u64,
    function: Arc<Function>,
    bell: Arc<Bell>,
}

/// What a container that has done its call does next.
pub enum Next {
    /// This call, which would have had another container: that one is not needed any more.
    Call(Box<Job>, u64),
    /// Wait for the bell.
    Wait(Arc<Bell>),
    /// Go.
    Leave,
}

struct Open {
    container: u64,
    control: Arc<Control>,
    done: Option<Done>,
    /// In another enclave: which, and the call's number there.
    elsewhere: Option<(u64, u64)>,
}

/// What the loss of a container means.
pub enum Lost {
    /// The call had not begun; it must be answered now.
    Waiting(Caller),
    /// So it is, and the container that it waited for is not needed any more.
    Unneeded(Caller, u64),
    /// The call had not begun and was given to a container that was there already: it can have another.
    Again(Box<Job>),
    /// The call runs; this stops it.
    Running(Arc<Control>),
    /// The call is in another enclave, under this number.
    Elsewhere(Caller, u64, u64),
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
            self.open.insert(caller, Open { container: 0, control: control.clone(), done, elsewhere: None });
        }
        new
    }

    /// A call waits for its container.
    pub fn wait(&mut self, job: Job) {
        if let Some(open) = self.open.get_mut(&job.caller) {
            open.container = job.container;
            open.elsewhere = None;
            self.waiting.insert(job.container, job);
        }
    }

    /// A call that waits for this container goes to another enclave, as this number. `None` when none waits (any more), or when it has a
    /// container already.
    pub fn depart(&mut self, container: u64, peer: u64, number: u64) -> Option<Job> {
        if self.given.contains_key(&container) {
            return None;
        }
        let mut job = self.waiting.remove(&container)?;
        job.container = 0;
        if let Some(open) = self.open.get_mut(&job.caller) {
            open.container = 0;
            open.elsewhere = Some((peer, number));
        }
        Some(job)
    }

    /// Its container is here. `None` when the call was lost or never was.
    pub fn enter(&mut self, container: u64) -> Option<Job> {
        let job = self.waiting.remove(&container)?;
        self.given.remove(&container);
        self.running.insert(container, job.caller);
        Some(job)
    }

    /// A container is gone.
    pub fn lose(&mut self, container: u64) -> Lost {
        if let Some(at) = self.idle.iter().position(|idle| idle.container == container) {
            // Its thread wakes when somebody carries it on, and must find that nothing is left to do.
            self.idle.remove(at).inspect(|idle| idle.bell.ring(Told::Lost));
            return Lost::Nothing;
        }
        let given = self.given.remove(&container);
        if let Some(bell) = &given {
            bell.ring(Told::Lost);
        }
        if let Some(job) = self.waiting.remove(&container) {
            return if given.is_some() { Lost::Again(Box::new(job)) } else { Lost::Waiting(job.caller) };
        }
        let Some(open) = self.running.get(&container).and_then(|caller| self.open.get(caller)) else { return Lost::Nothing };
        self.lost.insert(container);
        Lost::Running(open.control.clone())
    }

    /// A call is given up.
    pub fn cancel(&mut self, caller: Caller) -> Lost {
        let Some(open) = self.open.get(&caller) else { return Lost::Nothing };
        if let Some((peer, number)) = open.elsewhere {
            return Lost::Elsewhere(caller, peer, number);
        }
        if self.waiting.remove(&open.container).is_none() {
            return Lost::Running(open.control.clone());
        }
        // A container that had been given it finds nothing and waits on.
        if self.given.remove(&open.container).is_some() { Lost::Waiting(caller) } else { Lost::Unneeded(caller, open.container) }
    }

    /// Takes a call out, for its answer. `None` when it was answered already.
    pub fn close(&mut self, caller: Caller) -> Option<Closed> {
        let open = self.open.remove(&caller)?;
        if self.running.get(&open.container) == Some(&caller) {
            self.running.remove(&open.container);
            self.lost.remove(&open.container);
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

    // ---- containers that are used again ----

    /// Gives a call to a container that waits for one of its function, the one that waits shortest: the others may go when their time
    /// comes. Gives the call back if there is none.
    ///
    /// # Errors
    /// The call.
    pub fn give(&mut self, mut job: Box<Job>) -> Result<(), Box<Job>> {
        let Some(at) = self.idle.iter().rposition(|idle| Arc::ptr_eq(&idle.function, &job.function)) else { return Err(job) };
        let Some(idle) = self.idle.remove(at) else { return Err(job) };
        job.container = idle.container;
        idle.bell.ring(Told::Work);
        self.given.insert(idle.container, idle.bell);
        self.wait(*job);
        Ok(())
    }

    /// A container has done its call. The call that has waited longest comes first: if it is another function's and the node is short of
    /// containers, this one goes.
    pub fn next(&mut self, container: u64, function: &Arc<Function>, now_ns: u64) -> Next {
        if self.lost.contains(&container) {
            return Next::Leave;
        }
        let short = self.wanted.0 > 0 && now_ns < self.wanted.1;
        // Ids go upwards, so the smallest has waited longest.
        let waits = self.waiting.values().filter(|job| !self.given.contains_key(&job.container));
        let (mut oldest, mut ours) = (None, None);
        for job in waits {
            let (first, same) = (|seen: Option<u64>| seen.is_none_or(|seen| job.container < seen), Arc::ptr_eq(&job.function, function));
            if first(oldest) {
                oldest = Some(job.container);
            }
            if same && first(ours) {
                ours = Some(job.container);
            }
        }
        if let Some(other) = ours.filter(|_| !short || ours == oldest)
            && let Some(mut job) = self.waiting.remove(&other)
        {
            job.container = container;
            if let Some(open) = self.open.get_mut(&job.caller) {
                open.container = container;
            }
            self.running.insert(container, job.caller);
            return Next::Call(Box::new(job), other);
        }
        if short || function.retired.load(SeqCst) {
            self.wanted.0 = self.wanted.0.saturating_sub(1);
            return Next::Leave;
        }
        let bell = Arc::new(Bell::default());
        self.idle.push_back(Idle { container, function: function.clone(), bell: bell.clone() });
        Next::Wait(bell)
    }

    /// The node wants containers back: those that wait go now, others when they have done their calls. Gives how many go now.
    pub fn want(&mut self, count: usize, now_ns: u64) -> usize {
        let gone = self.dismiss(count, None);
        self.wanted = (count - gone, now_ns.saturating_add(WANTED_NS));
        gone
    }

    /// A container has waited long enough. False when its bell rings now.
    pub fn withdraw(&mut self, container: u64) -> bool {
        match self.idle.iter().position(|idle| idle.container == container) {
            Some(at) => self.idle.remove(at).is_some(),
            None => false,
        }
    }

    /// Tells containers that wait to go: those of a function, or the `most` that have waited longest. Gives how many.
    pub fn dismiss(&mut self, most: usize, function: Option<&Arc<Function>>) -> usize {
        let mut gone = 0;
        self.idle.retain(|idle| {
            let go = gone < most && function.is_none_or(|function| Arc::ptr_eq(function, &idle.function));
            if go {
                idle.bell.ring(Told::Leave);
                gone += 1;
            }
            !go
        });
        gone
    }

    /// Containers that wait for a further call.
    pub fn kept(&self) -> usize {
        self.idle.len()
    }

    /// Calls without an answer.
    pub fn under_way(&self) -> usize {
        self.open.len()
    }

    /// Calls that wait for a container to come.
    pub fn waiting(&self) -> usize {
        self.waiting.len() - self.given.len()
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::{Code, Engines};
    use teemate_control::function::{FunctionSpec, Kind, Limits, Reuse};

    fn function(engines: &Engines) -> Arc<Function> {
        let (limits, reuse) = (Limits::default(), Reuse::Keep);
        let spec = FunctionSpec {
            name: "f".into(),
            kind: Kind::Wasm,
            main: String::new(),
            limits,
            egress: vec![],
            files: vec![],
            env: vec![],
            reuse,
        };
        let module = wasmtime::Module::new(&engines.modules, wat::parse_str(r#"(module (func (export "handle")))"#).unwrap()).unwrap();
        let start = crate::wasi::link(&module, reuse).unwrap();
        Arc::new(Function::new(spec, [0; 32], Code::Module { start }, String::new()))
    }

    fn job(function: &Arc<Function>, number: u64, container: u64) -> Box<Job> {
        let (function, control) = (function.clone(), Arc::default());
        Box::new(Job { caller: Caller::Local(number), container, function, input: Input::default(), control, marks: vec![] })
    }

    fn open(jobs: &mut Jobs, number: u64) {
        assert!(jobs.open(Caller::Local(number), &Arc::default(), None));
    }

    #[test]
    fn a_call_that_had_not_begun_can_have_another_container() {
        let engines = Engines::new().unwrap();
        let (a, b) = (function(&engines), function(&engines));
        let mut jobs = Jobs::default();
        (1..=4).for_each(|number| open(&mut jobs, number));
        assert!(matches!(jobs.next(10, &a, 0), Next::Wait(_)));
        assert!(jobs.give(job(&b, 1, 0)).is_err(), "another function's container");
        jobs.give(job(&a, 1, 0)).ok().unwrap();
        assert!(jobs.give(job(&a, 2, 0)).is_err(), "one container, two calls");
        assert_eq!(jobs.waiting(), 0);
        let Lost::Again(again) = jobs.lose(10) else { panic!("the call is lost with its container") };
        assert_eq!(again.caller, Caller::Local(1));
        assert!(jobs.enter(10).is_none());
        assert!(matches!(jobs.lose(10), Lost::Nothing));
        // One that has begun is over; one that is idle concerns nobody.
        assert!(matches!(jobs.next(11, &a, 0), Next::Wait(_)));
        jobs.give(again).ok().unwrap();
        assert_eq!(jobs.enter(11).unwrap().caller, Caller::Local(1));
        assert!(matches!(jobs.lose(11), Lost::Running(_)));
        assert!(matches!(jobs.next(12, &a, 0), Next::Wait(_)));
        assert!(matches!(jobs.lose(12), Lost::Nothing));
        assert!(!jobs.withdraw(12) && jobs.give(job(&a, 2, 0)).is_err());
        // Given up before it began: answered once, and the container finds nothing.
        assert!(matches!(jobs.next(13, &a, 0), Next::Wait(_)));
        jobs.give(job(&a, 3, 0)).ok().unwrap();
        assert!(matches!(jobs.cancel(Caller::Local(3)), Lost::Waiting(Caller::Local(3))));
        assert!(jobs.close(Caller::Local(3)).is_some() && jobs.close(Caller::Local(3)).is_none());
        assert!(jobs.enter(13).is_none());
        assert_eq!(jobs.waiting(), 0);
    }

    #[test]
    fn a_container_that_is_gone_serves_no_other_call() {
        let engines = Engines::new().unwrap();
        let a = function(&engines);
        let mut jobs = Jobs::default();
        (1..=2).for_each(|number| open(&mut jobs, number));
        assert!(matches!(jobs.next(10, &a, 0), Next::Wait(_)));
        jobs.give(job(&a, 1, 0)).ok().unwrap();
        assert!(jobs.enter(10).is_some());
        // Its process is killed, and the adopter brings the call to its end before that looks at its stop switch.
        assert!(matches!(jobs.lose(10), Lost::Running(_)));
        assert!(matches!(jobs.next(10, &a, 0), Next::Leave));
        assert!(jobs.close(Caller::Local(1)).is_some());
        assert!(jobs.give(job(&a, 2, 0)).is_err() && jobs.lost.is_empty());
    }

    #[test]
    fn the_call_that_has_waited_longest_comes_first() {
        let engines = Engines::new().unwrap();
        let (a, b) = (function(&engines), function(&engines));
        let mut jobs = Jobs::default();
        (1..=4).for_each(|number| open(&mut jobs, number));
        jobs.wait(*job(&b, 1, 21));
        jobs.wait(*job(&a, 2, 22));
        jobs.wait(*job(&a, 3, 23));
        // Containers for all of them are on their way.
        let Next::Call(taken, unneeded) = jobs.next(10, &a, 0) else { panic!("it waits beside work") };
        assert_eq!((taken.caller, taken.container, unneeded), (Caller::Local(2), 10, 22));
        // There are none left: another function's call has waited longer than ours.
        assert_eq!(jobs.want(1, 0), 0);
        assert!(matches!(jobs.next(10, &a, 1), Next::Leave));
        assert!(matches!(jobs.next(11, &a, 2), Next::Call(_, 23)));
        assert!(matches!(jobs.next(12, &a, 3), Next::Wait(_)));
        // The node's wish is forgotten in time; one that waits goes at once.
        jobs.want(5, 4);
        assert_eq!(jobs.kept(), 0);
        assert!(matches!(jobs.next(13, &a, 5 + WANTED_NS), Next::Wait(_)));
        assert!(matches!(jobs.next(14, &b, 5 + WANTED_NS), Next::Call(_, 21)));
        // And so does one whose function is no more.
        assert_eq!((jobs.dismiss(9, Some(&b)), jobs.dismiss(9, Some(&a))), (0, 1));
        b.retired.store(true, SeqCst);
        assert!(matches!(jobs.next(15, &b, u64::MAX), Next::Leave));
    }
}
