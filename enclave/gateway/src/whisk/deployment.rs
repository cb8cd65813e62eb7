//! Actions as the engines know them: compiled at the first call, forgotten when nobody calls them any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Limits};
use tokio::sync::{OnceCell, oneshot};

use super::bundle::{ENTRY, Program};
use super::clock::random_hex;
use super::entity::Action;
use super::lock;
use super::options::Options;
use super::rejection::Rejection;
use crate::platform::Functions;

/// Room for the line that goes beyond the log limit: OpenWhisk cuts there and lets the action go on.
const LOG_SLACK: u64 = 64 << 10;

/// An action that the engines know, or are about to know. It is forgotten there when the last call that uses it has ended.
pub struct Deployment {
    /// Id under which the engines know it. The host sees it, so it says nothing.
    pub id: String,
    functions: Arc<dyn Functions>,
    /// Largest result, bytes.
    result: u64,
    ready: OnceCell<Result<(), Failure>>,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.functions.delete(&self.id);
    }
}

impl Deployment {
    /// Compiles it unless that was done. Gives the milliseconds that it took, when this call did it.
    ///
    /// # Errors
    /// Why it cannot be called. What is wrong with the code stays wrong and is remembered; anything else is tried again.
    pub async fn ready(&self, action: &Action, code: impl Future<Output = Result<String, Failure>> + Send) -> Result<Option<u64>, Failure> {
        let mut took = None;
        let deploy = async {
            let began = Instant::now();
            let result = self.deploy(action, code).await;
            took = Some(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            match result {
                Err(failure) if failure.kind != FailureKind::Invalid => Err(failure),
                known => Ok(known),
            }
        };
        self.ready.get_or_try_init(|| deploy).await?.clone()?;
        Ok(took)
    }

    async fn deploy(&self, action: &Action, code: impl Future<Output = Result<String, Failure>> + Send) -> Result<(), Failure> {
        let code = code.await?;
        let options = Options::of(&action.head.annotations).map_err(|why| Failure::new(FailureKind::Invalid, why))?;
        let exec = action.exec.clone();
        let program = super::space::blocking(move || exec.program(&code)).await;
        let program = program.map_err(|_| Failure::new(FailureKind::Internal, "the code could not be unpacked"))?;
        let program = program.map_err(|why| Failure::new(FailureKind::Invalid, why))?;
        let (kind, main, code) = match program {
            Program::Script(source) => (Kind::JavaScript, ENTRY.to_owned(), source.into_bytes()),
            Program::Module(module) => (Kind::Wasm, String::new(), module),
        };
        let limits = limits(action, self.result);
        let spec = FunctionSpec {
            name: self.id.clone(),
            kind,
            main,
            limits,
            egress: options.egress,
            files: Vec::new(),
            env: options.env,
            reuse: options.reuse,
        };
        let (done, answer) = oneshot::channel();
        self.functions.deploy(spec, code, Box::new(move |result| drop(done.send(result))));
        let lost = |_| Failure::new(FailureKind::Internal, "the service gave no answer");
        answer.await.map_err(lost)?.map(drop).map_err(|failure| self.renamed(failure, action))
    }

    /// The failure with the action's name where it has the id.
    fn renamed(&self, failure: Failure, action: &Action) -> Failure {
        Failure { message: failure.message.replace(&self.id, &action.head.at.name), ..failure }
    }
}

/// The limits of a call of this action whose result may have so many bytes.
pub fn limits(action: &Action, result: u64) -> Limits {
    // They were read when the action was put.
    let options = Options::of(&action.head.annotations).unwrap_or_default();
    let default = Limits::default();
    Limits {
        timeout_ms: action.limits.timeout,
        memory: action.limits.memory << 20,
        fuel: options.fuel,
        log: (action.limits.logs << 20) + LOG_SLACK,
        result: options.result.map_or(result, |own| own.min(result)),
        cpu_milli: options.cpu_milli.unwrap_or(default.cpu_milli),
        idle_ms: options.idle_ms.unwrap_or(default.idle_ms),
    }
}

/// What somebody calls: an action, and for whom instances of it are kept.
type Name = (String, String, String);

struct Kept {
    action: Arc<Action>,
    deployment: Arc<Deployment>,
    used: Instant,
}

/// The deployments of all owners.
pub struct Deployments {
    functions: Arc<dyn Functions>,
    most: usize,
    kept: Mutex<HashMap<Name, Kept>>,
}

impl Deployments {
    /// None yet; at most `most` that nobody calls.
    pub fn new(functions: Arc<dyn Functions>, most: usize) -> Self {
        Deployments { functions, most, kept: Mutex::default() }
    }

    /// The deployment of an action as it is now, for this caller and results of at most so many bytes.
    ///
    /// # Errors
    /// 500 when there is no randomness for its id.
    pub fn of(&self, action: &Arc<Action>, caller: &str, result: u64) -> Result<Arc<Deployment>, Rejection> {
        // An instance that stays must not show one owner what another one did with a shared action.
        let caller = if Options::keeps_state(&action.head.annotations) { caller } else { "" };
        let name = (action.head.at.namespace.clone(), action.head.at.key(), caller.to_owned());
        let mut kept = lock(&self.kept);
        if let Some(it) = kept.get_mut(&name)
            && Arc::ptr_eq(&it.action, action)
        {
            it.used = Instant::now();
            return Ok(it.deployment.clone());
        }
        let id = format!("f-{}", random_hex()?);
        let deployment = Arc::new(Deployment { id, functions: self.functions.clone(), result, ready: OnceCell::new() });
        // What goes is dropped after the lock: dropping it calls the service.
        let mut gone = Vec::new();
        gone.extend(kept.insert(name, Kept { action: action.clone(), deployment: deployment.clone(), used: Instant::now() }));
        if kept.len() > self.most {
            let idle = kept.iter().filter(|(_, it)| Arc::strong_count(&it.deployment) == 1).min_by_key(|(_, it)| it.used);
            let idle = idle.map(|(name, _)| name.clone());
            gone.extend(idle.and_then(|name| kept.remove(&name)));
        }
        drop(kept);
        drop(gone);
        Ok(deployment)
    }

    /// Forgets an action that was changed or deleted. Calls that run go on.
    pub fn forget(&self, namespace: &str, key: &str) {
        let mut kept = lock(&self.kept);
        let names: Vec<Name> = kept.keys().filter(|(space, name, _)| space == namespace && name == key).cloned().collect();
        let gone: Vec<_> = names.iter().filter_map(|name| kept.remove(name)).collect();
        drop(kept);
        drop(gone);
    }

    /// Forgets all of a namespace.
    pub fn forget_all(&self, namespace: &str) {
        let mut kept = lock(&self.kept);
        let names: Vec<Name> = kept.keys().filter(|(space, ..)| space == namespace).cloned().collect();
        let gone: Vec<_> = names.iter().filter_map(|name| kept.remove(name)).collect();
        drop(kept);
        drop(gone);
    }
}
