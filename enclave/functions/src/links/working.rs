//! The end that takes calls: functions that were handed over, in a space of names that nothing else reaches, and the calls of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use teemate_control::function::{FunctionSpec, Outcome};
use teemate_link::{LinkError, Session};

use super::{FromWorker, Link, ToWorker, hear, say};
use crate::deploy::{Client, Deployment};
use crate::jobs::{Caller, Input};
use crate::lock;
use crate::registry::{Name, Space};
use crate::service::Service;

/// A link to the enclave that we work for.
pub(super) struct Working {
    session: Session,
    pub(super) serial: u64,
    functions: HashMap<u64, Kept>,
    /// Its calls here, by its numbers: ours.
    calls: HashMap<u64, u64>,
}

/// How far a function is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Compiling,
    /// Compiling still, and forgotten already.
    Unwanted,
    /// Here, unless it could not be compiled.
    Settled,
}

/// What is to be done, once the table is free.
pub(super) enum Task {
    Deploy(u64, FunctionSpec, Vec<u8>),
    Delete(u64),
    Call { number: u64, function: u64, input: Input },
    Cancel(u64),
}

impl Working {
    pub(super) fn new(session: Session, serial: u64) -> Working {
        Working { session, serial, functions: HashMap::new(), calls: HashMap::new() }
    }

    pub(super) fn hear(&mut self, packet: &[u8]) -> Result<Option<Task>, LinkError> {
        Ok(match hear(&mut self.session, packet)? {
            ToWorker::Function { id, spec, code } => {
                self.functions.insert(id, Kept::Compiling);
                Some(Task::Deploy(id, spec, code))
            }
            ToWorker::Forget { id } => match self.functions.get_mut(&id) {
                Some(kept @ Kept::Compiling) => {
                    *kept = Kept::Unwanted;
                    None
                }
                Some(Kept::Settled) => self.functions.remove(&id).map(|_| Task::Delete(id)),
                Some(Kept::Unwanted) | None => None,
            },
            ToWorker::Call { number, function, params, env } => Some(Task::Call { number, function, input: Input { params, env } }),
            ToWorker::Cancel { number } => self.calls.get(&number).map(|call| Task::Cancel(*call)),
        })
    }
}

/// Functions of a link have names of their own; another link's are others, though the node gives both the same number.
fn name(serial: u64, id: u64) -> Name {
    Name { space: Space::Handed, name: format!("{serial}-{id}") }
}

impl Service {
    pub(super) fn work_for(self: &Arc<Self>, peer: u64, serial: u64, task: Task) {
        match task {
            Task::Deploy(id, spec, code) => {
                let service = self.clone();
                let done = Box::new(move || service.compiled_for(peer, serial, id));
                self.deploy(Deployment { client: Client::Link(name(serial, id), done), spec, code, precompiled: None, came_as: None });
            }
            // One that could not be compiled is gone already.
            Task::Delete(id) => drop(self.delete(&name(serial, id))),
            Task::Call { number, function, input } => {
                let call = self.numbers.fetch_add(1, SeqCst);
                if let Some(Link::Working(working)) = lock(&self.links.table).get_mut(&peer) {
                    working.calls.insert(number, call);
                }
                let service = self.clone();
                // A worker's process does not have the socket that the answer goes through.
                let done = move |outcome| {
                    let errand = service.clone();
                    service.outbox.send_out(Box::new(move || errand.done_for(peer, serial, number, outcome)));
                };
                self.invoke(Caller::Local(call), name(serial, function), input, !self.containers, Some(Box::new(done)));
            }
            Task::Cancel(call) => self.cancel(Caller::Local(call)),
        }
    }

    /// A function is compiled, or can't be: then its calls find none, and say so.
    fn compiled_for(self: &Arc<Self>, peer: u64, serial: u64, id: u64) {
        let wanted = match lock(&self.links.table).get_mut(&peer) {
            Some(Link::Working(working)) if working.serial == serial => match working.functions.get_mut(&id) {
                Some(kept @ Kept::Compiling) => {
                    *kept = Kept::Settled;
                    true
                }
                _ => {
                    working.functions.remove(&id);
                    false
                }
            },
            _ => false,
        };
        if !wanted {
            let _ = self.delete(&name(serial, id));
        }
    }

    fn done_for(&self, peer: u64, serial: u64, number: u64, outcome: Outcome) {
        if let Some(Link::Working(working)) = lock(&self.links.table).get_mut(&peer)
            && working.serial == serial
        {
            working.calls.remove(&number);
            // A session that is over has told so already.
            let _ = say(&self.outbox, peer, &mut working.session, &FromWorker::Done { number, outcome });
        }
    }

    pub(super) fn stop_working(self: &Arc<Self>, working: Working) {
        working.calls.into_values().for_each(|call| self.cancel(Caller::Local(call)));
        for (id, kept) in working.functions {
            // What is being compiled is thrown away when it is done.
            if kept == Kept::Settled {
                let _ = self.delete(&name(working.serial, id));
            }
        }
    }
}
