//! The service's functions, as the gateway calls them.

use teemate_control::function::{Failure, FunctionSpec, Outcome};
use teemate_gateway::{Call, Functions};

use crate::handle::Handle;
use crate::jobs::Input;

impl Functions for Handle {
    fn deploy(&self, spec: FunctionSpec, code: Vec<u8>, done: Box<dyn FnOnce(Result<[u8; 32], Failure>) + Send>) {
        Handle::deploy(self, spec, code, done);
    }

    fn delete(&self, id: &str) {
        Handle::delete(self, id);
    }

    fn invoke(&self, call: Call, done: Box<dyn FnOnce(Outcome) + Send>) -> u64 {
        let Call { function, params, env } = call;
        Handle::invoke(self, &function, Input { params, env }, done)
    }

    fn cancel(&self, call: u64) {
        Handle::cancel(self, call);
    }
}
