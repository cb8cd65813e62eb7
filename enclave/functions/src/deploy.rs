//! Deploying: a queue, one thread that compiles while there is something to compile, and the calls that wait for it.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use teemate_control::envelope;
use teemate_control::function::{Failure, FailureKind, FunctionSpec};
use teemate_control::service::FromService;

use crate::calls::Invocation;
use crate::encrypted;
use crate::function::Function;
use crate::gateway::brokers::Brokers;
use crate::gateway::quotes::Quotes;
use crate::handle::Handle;
use crate::registry::{Name, Space};
use crate::service::Service;
use crate::{lock, thread};

/// Deployments that wait for the compiler, and calls that wait for a deployment.
const MAX_QUEUED: usize = 1024;
/// Stack of a thread that speaks with a key broker.
const KEY_STACK: usize = 512 << 10;
/// Cranelift recurses over large functions.
const COMPILER_STACK: usize = 4 << 20;

/// What is done with the digest of the code, or with what is wrong with it.
pub type Deployed = Box<dyn FnOnce(Result<[u8; 32], Failure>) + Send>;

/// Who wants to know.
pub enum Client {
    /// The node, by its number.
    Node(u64),
    /// This process.
    Local(Deployed),
    /// A link, which gives the name, and is told when there is nothing more to wait for.
    Link(Name, Box<dyn FnOnce() + Send>),
}

/// A function to be deployed.
pub struct Deployment {
    /// Who wants it.
    pub client: Client,
    /// What it is.
    pub spec: FunctionSpec,
    /// Source or module.
    pub code: Vec<u8>,
    /// Compiled by an earlier process; never in an enclave.
    pub precompiled: Option<Vec<u8>>,
    /// SHA-256 of the code as it came, if that is not what is compiled: nobody outside shall know more of what was encrypted.
    pub came_as: Option<[u8; 32]>,
}

impl Deployment {
    fn name(&self) -> Name {
        let space = match &self.client {
            Client::Node(_) => Space::Operator,
            Client::Local(_) => Space::Owners,
            Client::Link(name, _) => return name.clone(),
        };
        Name { space, name: self.spec.name.clone() }
    }
}

/// What waits for the compiler.
#[derive(Default)]
pub struct Compiler {
    queue: VecDeque<Deployment>,
    /// Names in the queue or at work, and the calls that wait for them.
    names: HashMap<Name, (usize, Vec<Invocation>)>,
    running: bool,
}

impl Service {
    /// Puts a deployment into the queue.
    pub fn deploy(self: &Arc<Self>, deployment: Deployment) {
        let mut compiler = lock(&self.compiler);
        if compiler.queue.len() >= MAX_QUEUED {
            drop(compiler);
            let message = format!("{MAX_QUEUED} deployments are waiting already; try again later");
            return self.deployed(deployment.client, Err(Failure::new(FailureKind::Busy, message)), None);
        }
        compiler.names.entry(deployment.name()).or_default().0 += 1;
        drop(compiler);
        if envelope::is_envelope(&deployment.code) { self.open_first(deployment) } else { self.enqueue(deployment) }
    }

    /// Has the key of encrypted code released: by a thread of its own, for a broker may take its time.
    fn open_first(self: &Arc<Self>, deployment: Deployment) {
        let (sender, receiver) = std::sync::mpsc::channel::<Deployment>();
        let service = self.clone();
        let spawned = thread("key", KEY_STACK, move || {
            let Ok(deployment) = receiver.recv() else { return };
            let handle = Handle(service.clone());
            let brokers = Brokers::new(handle.clone(), Arc::new(Quotes::new(handle)));
            match encrypted::open(&brokers, &deployment.spec.name, &deployment.code) {
                Ok(code) => {
                    let came_as = Some(Sha256::digest(&deployment.code).into());
                    service.enqueue(Deployment { code, came_as, ..deployment });
                }
                Err(failure) => service.undeployed(deployment, failure),
            }
        });
        // The thread has the channel's other end, or there is none.
        match spawned {
            Ok(_) => drop(sender.send(deployment)),
            Err(error) => {
                let failure = Failure::new(FailureKind::Busy, format!("no thread to have a key released: {error}; try again later"));
                self.undeployed(deployment, failure);
            }
        }
    }

    fn undeployed(self: &Arc<Self>, deployment: Deployment, failure: Failure) {
        let name = deployment.name();
        self.deployed(deployment.client, Err(failure), None);
        self.start_waiting(&name);
    }

    fn enqueue(self: &Arc<Self>, deployment: Deployment) {
        let mut compiler = lock(&self.compiler);
        compiler.queue.push_back(deployment);
        if compiler.running {
            return;
        }
        compiler.running = true;
        drop(compiler);
        let service = self.clone();
        if let Err(error) = thread("compiler", COMPILER_STACK, move || service.compile()) {
            let (queue, names) = {
                let mut compiler = lock(&self.compiler);
                compiler.running = false;
                (std::mem::take(&mut compiler.queue), std::mem::take(&mut compiler.names))
            };
            let failure = Failure::new(FailureKind::Busy, format!("no thread to compile with: {error}; try again later"));
            queue.into_iter().for_each(|deployment| self.deployed(deployment.client, Err(failure.clone()), None));
            names.into_values().flat_map(|(_, waiting)| waiting).for_each(|invocation| self.start(invocation));
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
            let name = deployment.name();
            let Deployment { client, spec, code, precompiled, came_as } = deployment;
            let attempt = || Function::deploy(&self.engines, spec, &code, precompiled.as_deref());
            let function = catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
                Err(Failure::new(FailureKind::Invalid, format!("'{name}' cannot be compiled: the compiler gave up on it")))
            });
            self.cleaner.wake();
            // A native node keeps what was compiled for its next process; it need not get back what it sent.
            let compiled = function.as_ref().ok().filter(|_| precompiled.is_none()).and_then(Function::precompiled);
            let kept = function.and_then(|mut function| {
                function.digest = came_as.unwrap_or(function.digest);
                if self.containers && name.space != Space::Handed {
                    function.source = self.sources.keep(code);
                }
                let digest = function.digest;
                self.functions.put(&name, function).map(|before| before.inspect(|before| self.retire(before))).map(|_| digest)
            });
            self.deployed(client, kept, compiled);
            self.start_waiting(&name);
        }
    }

    fn deployed(&self, client: Client, result: Result<[u8; 32], Failure>, precompiled: Option<Vec<u8>>) {
        match (client, result) {
            (Client::Node(request), Ok(digest)) => self.outbox.post(FromService::Deployed { request, digest, precompiled }),
            (Client::Node(request), Err(failure)) => self.outbox.post(FromService::Failed { request, failure }),
            (Client::Local(done), result) => self.outbox.send_out(Box::new(move || done(result))),
            // Why it can't be is its owner's business, who knew of no error when it was deployed.
            (Client::Link(_, done), _) => self.outbox.send_out(done),
        }
    }

    /// Starts the calls that waited for a deployment.
    fn start_waiting(self: &Arc<Self>, name: &Name) {
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

    /// Lets a call wait if its function is being deployed; else gives it back.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn wait_for_deployment(&self, invocation: Invocation) -> Result<Option<Invocation>, Failure> {
        let mut compiler = lock(&self.compiler);
        let Some((_, waiting)) = compiler.names.get_mut(&invocation.name) else { return Ok(Some(invocation)) };
        if waiting.len() < MAX_QUEUED {
            waiting.push(invocation);
            return Ok(None);
        }
        let message = format!("'{}' is being deployed and {MAX_QUEUED} calls wait for it", invocation.name);
        Err(Failure::new(FailureKind::Busy, message))
    }
}
