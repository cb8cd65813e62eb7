//! The service as other parts of this process use it: functions of owners, and questions to the host.
//!
//! Callbacks run on threads that have other things to do and must not wait for anything, least of all for another answer: they leave what they got
//! and return.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use teemate_control::function::{FunctionSpec, Outcome};
use teemate_control::service::{Ask, Reply};
use teemate_service::stream::Host;

use crate::asks::{self, Answered};
use crate::deploy::{Client, Deployed, Deployment};
use crate::jobs::{Caller, Input};
use crate::registry::{Name, Space};
use crate::service::Service;

/// The running service. Clones are the same service.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Service>);

impl Handle {
    /// Compiles and keeps a function; replaces one of the same name. Its name is apart from those that the node gives.
    pub fn deploy(&self, spec: FunctionSpec, code: Vec<u8>, done: Deployed) {
        self.0.deploy(Deployment { client: Client::Local(done), spec, code, precompiled: None, came_as: None });
    }

    /// Forgets a function. Calls under way end as they would have.
    pub fn delete(&self, name: &str) {
        // One that is not there is gone too.
        let _ = self.0.delete(&owners(name));
    }

    /// Calls a function: in a container, or in this process where there are none. `done` gets the outcome, exactly once; mostly on the
    /// thread that ran the call, while that is in its container still. Gives a number with which the call can be given up.
    pub fn invoke(&self, function: &str, input: Input, done: Box<dyn FnOnce(Outcome) + Send>) -> u64 {
        let number = self.0.numbers.fetch_add(1, SeqCst);
        self.0.invoke(Caller::Local(number), owners(function), input, !self.0.containers, Some(done));
        number
    }

    /// Gives up a call. Its outcome comes all the same, soon.
    pub fn cancel(&self, call: u64) {
        self.0.cancel(Caller::Local(call));
    }

    /// Asks the host. `done` gets the reply, exactly once; what does not fit the question is a failure.
    pub fn ask(&self, ask: Ask, done: Answered) {
        let _ = asks::put(&self.0.asks, &self.0.outbox, ask, done);
    }

    /// Whether calls run in containers of an enclave.
    pub fn has_containers(&self) -> bool {
        self.0.containers
    }
}

impl Host for Handle {
    /// Not from a callback.
    fn ask_wait(&self, ask: Ask, limit: Duration) -> io::Result<Reply> {
        asks::wait(&self.0.asks, &self.0.outbox, ask, limit)
    }

    fn tell(&self, ask: Ask) {
        asks::tell(&self.0.asks, &self.0.outbox, ask);
    }
}

fn owners(name: &str) -> Name {
    Name { space: Space::Owners, name: name.to_owned() }
}
