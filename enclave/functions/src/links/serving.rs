//! The end that gives calls: what a worker has, and which calls are there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use teemate_control::function::{Failure, FailureKind, Mark, Outcome, Phase};
use teemate_control::service::LinkNews;
use teemate_link::{LinkError, Session};

use super::{FromWorker, Link, ToWorker, hear, say};
use crate::calls::without_result;
use crate::function::Function;
use crate::jobs::{Caller, Job};
use crate::lock;
use crate::service::Service;

/// A link to a worker.
pub(super) struct Serving {
    session: Session,
    /// Functions that it has.
    known: HashSet<u64>,
    /// Calls that are there, by number.
    away: HashMap<u64, Away>,
    /// It gets no more.
    draining: bool,
}

struct Away {
    caller: Caller,
    /// What happened to the call here.
    marks: Vec<Mark>,
}

/// A call that has come back.
pub(super) struct Back {
    caller: Caller,
    outcome: Outcome,
}

impl Serving {
    pub(super) fn new(session: Session) -> Serving {
        Serving { session, known: HashSet::new(), away: HashMap::new(), draining: false }
    }

    /// `None`: an answer to a call that nobody waits for any more.
    pub(super) fn hear(&mut self, packet: &[u8]) -> Result<Option<Box<Back>>, LinkError> {
        let FromWorker::Done { number, mut outcome } = hear(&mut self.session, packet)?;
        let Some(Away { caller, mut marks }) = self.away.remove(&number) else { return Ok(None) };
        // When it was accepted and answered, its caller's enclave knows.
        outcome.marks.retain(|mark| !matches!(mark.phase, Phase::Accepted | Phase::Answered));
        marks.append(&mut outcome.marks);
        outcome.marks = marks;
        Ok(Some(Box::new(Back { caller, outcome })))
    }

    fn is_drained(&self) -> bool {
        self.draining && self.away.is_empty()
    }

    /// Gives the call back when it can't go there.
    fn give(&mut self, service: &Service, peer: u64, number: u64, mut job: Job) -> Result<(), Job> {
        let function = job.function.clone();
        // Whoever retires a function says so before it looks who has it.
        if self.draining || function.retired.load(SeqCst) {
            return Err(job);
        }
        if !self.known.contains(&function.number) {
            let Some(source) = &function.source else { return Err(job) };
            let message = ToWorker::Function { id: function.number, spec: function.spec.clone(), code: source.to_vec() };
            if say(&service.outbox, peer, &mut self.session, &message).is_err() {
                return Err(job);
            }
            self.known.insert(function.number);
        }
        let params = std::mem::take(&mut job.input.params);
        let env = std::mem::take(&mut job.input.env);
        let message = ToWorker::Call { number, function: function.number, params, env };
        let said = say(&service.outbox, peer, &mut self.session, &message);
        if said.is_err()
            && let ToWorker::Call { params, env, .. } = message
        {
            (job.input.params, job.input.env) = (params, env);
            return Err(job);
        }
        self.away.insert(number, Away { caller: job.caller, marks: job.marks });
        Ok(())
    }
}

impl Service {
    /// There is no room here for this container, says the node, but in another enclave.
    pub(crate) fn elsewhere(self: &Arc<Self>, container: u64, peer: u64) {
        let number = self.numbers.fetch_add(1, SeqCst);
        let Some(job) = lock(&self.jobs).depart(container, peer, number) else { return };
        let given = match lock(&self.links.table).get_mut(&peer) {
            Some(Link::Serving(serving)) => serving.give(self, peer, number, job),
            _ => Err(job),
        };
        if let Err(job) = given {
            self.place_here(job);
        }
    }

    pub(super) fn came_back(self: &Arc<Self>, peer: u64, back: Back) {
        self.answer(back.caller, back.outcome);
        self.end_if_drained(peer);
    }

    pub(super) fn drain_link(self: &Arc<Self>, peer: u64) {
        if let Some(Link::Serving(serving)) = lock(&self.links.table).get_mut(&peer) {
            serving.draining = true;
        }
        self.end_if_drained(peer);
    }

    fn end_if_drained(&self, peer: u64) {
        let mut table = lock(&self.links.table);
        if matches!(table.get(&peer), Some(Link::Serving(serving)) if serving.is_drained()) {
            table.remove(&peer);
            self.news(peer, LinkNews::Down("its last call has been answered".to_owned()));
        }
    }

    pub(super) fn lose_all(self: &Arc<Self>, serving: Serving, reason: &str) {
        for Away { caller, .. } in serving.away.into_values() {
            let failure = Failure::new(FailureKind::ContainerLost, format!("its container was lost: {reason}"));
            self.answer(caller, without_result(failure, 0));
        }
    }

    /// A call that is away was given up. Its answer, if one comes, goes nowhere.
    pub(crate) fn cancel_elsewhere(self: &Arc<Self>, peer: u64, number: u64) {
        if let Some(Link::Serving(serving)) = lock(&self.links.table).get_mut(&peer)
            && serving.away.remove(&number).is_some()
        {
            // A session that is over has told so already.
            let _ = say(&self.outbox, peer, &mut serving.session, &ToWorker::Cancel { number });
        }
        self.end_if_drained(peer);
    }

    /// Workers need not keep this function any longer.
    pub(crate) fn forget_elsewhere(&self, function: &Function) {
        for (peer, link) in &mut *lock(&self.links.table) {
            if let Link::Serving(serving) = link
                && serving.known.remove(&function.number)
            {
                let _ = say(&self.outbox, *peer, &mut serving.session, &ToWorker::Forget { id: function.number });
            }
        }
    }
}
