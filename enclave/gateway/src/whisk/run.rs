//! Running actions: one, or a sequence of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, Kind, Outcome};
use tokio::sync::oneshot;

use super::activation::{Activation, Ended, Status};
use super::clock::{now_ms, random_hex};
use super::deployment::Deployment;
use super::ending::{self, ARRAY, Notes};
use super::entity::Action;
use super::exec::Exec;
use super::keeping::Kept;
use super::names::Fqn;
use super::options::Options;
use super::parameters::Parameters;
use super::receipt::{Finished, Wanted};
use super::rejection::Rejection;
use super::resolve::Found;
use super::secrets::Variables;
use super::space::{Space, blocking, forget};
use super::store::{Key, kind};
use super::throttle::Permit;
use super::{Whisk, deployment, logs};
use crate::platform::Call;

/// Time that a call may take beyond the action's own limit: until it has a container, and until it is stopped.
const GRACE: Duration = Duration::from_secs(60);
/// How often a call is tried again that found no room, and how long to wait before the first time.
const TRIES: u32 = 7;
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// What a call is given.
#[derive(Clone, Debug)]
pub enum Input {
    /// Parameters.
    Object(Map<String, Value>),
    /// An array, which takes the place of all parameters.
    Array(Box<RawValue>),
}

/// One run of an action.
pub struct Run {
    /// Who calls: his are the record and the limits.
    pub caller: Arc<Space>,
    /// What.
    pub found: Found,
    /// With what.
    pub input: Input,
    /// The sequence that it is part of.
    pub cause: Option<String>,
    /// Id of the activation.
    pub id: String,
    /// Id of the request.
    pub transaction: String,
    /// When the request came.
    pub received: u64,
    /// What the caller wants in the receipt.
    pub wanted: Wanted,
    /// Variables that the caller sets, without `__OW_`.
    pub environment: Vec<(String, String)>,
    /// Who waits for its end. Nobody does for a part of a sequence, but that.
    pub first: Option<First>,
}

/// Who is answered first when an activation has ended, before it is kept.
pub struct First {
    /// Gets what it came to.
    pub tell: oneshot::Sender<Arc<Activation>>,
    /// The caller's room for one call: he may call again when he has his answer.
    pub permit: Permit,
}

impl Whisk {
    /// Runs an action or a sequence to its end, and records it.
    pub(super) fn run(self: Arc<Self>, run: Run) -> std::pin::Pin<Box<dyn Future<Output = Arc<Activation>> + Send>> {
        match run.found.action.exec.clone() {
            Exec::Code { .. } => Box::pin(self.run_one(run)),
            // Counted anew for each that stands at the top.
            Exec::Sequence { components } => self.sequence(run, components, true, Arc::default()),
        }
    }

    /// A sequence, as a future whose type does not contain itself.
    fn sequence(
        self: Arc<Self>,
        run: Run,
        components: Vec<Fqn>,
        topmost: bool,
        count: Arc<Count>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Arc<Activation>> + Send>> {
        Box::pin(self.run_sequence(run, components, topmost, count))
    }

    async fn run_one(self: Arc<Self>, mut run: Run) -> Arc<Activation> {
        let action = run.found.action.clone();
        let params = params(&run, &action);
        let digest = params.as_ref().ok().filter(|_| run.wanted.input).map(|params| Sha256::digest(params).into());
        let (ended, notes, outcome, init) = match params {
            Ok(params) => self.call(&run, &action, params).await,
            Err(failure) => {
                let (ended, notes) = ending::failed(&failure, &action.limits, run.caller.limits().result);
                (ended, notes, Rest::default(), None)
            }
        };
        let end = now_ms().max(run.received);
        let ran = outcome.outcome.as_ref().map_or(0, |outcome| outcome.usage.execution_us.div_ceil(1000));
        // The host's clock tells the time: whatever it says, times stay in their order.
        let duration = ran.saturating_add(init.unwrap_or(0)).min(end - run.received);
        let start = end - duration;
        let limit = usize::try_from(action.limits.logs << 20).unwrap_or(usize::MAX);
        let text = outcome.outcome.as_ref().map_or("", |outcome| &outcome.logs);
        let mut lines = logs::lines(&outcome.deployment.named(text, &action), action.exec.engine() == Kind::JavaScript, end, limit);
        if notes.log_cut {
            logs::note_truncated(&mut lines, end, limit);
        }
        let mut annotations = Parameters::default()
            .with("path", action.head.at.full())
            .with("waitTime", start - run.received)
            .with("kind", action.exec.kind())
            .with("timeout", notes.timed_out)
            .with("limits", json!(action.limits));
        if let Some(init) = init {
            annotations.set("initTime", init);
        }
        if run.cause.is_some() {
            annotations.set("causedBy", "sequence");
        }
        if let Some(binding) = &run.found.binding {
            annotations.set("binding", binding.as_str());
        }
        let activation = Arc::new(Activation {
            namespace: run.caller.name.clone(),
            name: action.head.at.name.clone(),
            version: action.head.version,
            id: run.id,
            start,
            end: Some(end),
            duration: Some(duration),
            cause: run.cause,
            response: ended,
            logs: lines,
            annotations,
        });
        let _kept = self.answer_first(run.first.take(), &activation).await;
        if let (Some(outcome), Exec::Code { sha256, .. }) = (&outcome.outcome, &action.exec) {
            self.witness.on_finished(&Finished {
                activation: &activation,
                outcome,
                action: if action.head.at.namespace == run.caller.name {
                    action.head.at.key()
                } else {
                    format!("/{}", action.head.at.full())
                },
                code: *sha256,
                limits: deployment::limits(&action, run.caller.limits().result),
                reuse: Options::of(&action.head.annotations).unwrap_or_default().reuse,
                input: digest,
                output: run.wanted.output.then(|| Sha256::digest(activation.response.text()).into()),
            });
        }
        self.record(&run.caller, activation.clone()).await;
        activation
    }

    /// Answers who waits for an activation. What is given is to be held until that is kept.
    async fn answer_first(&self, first: Option<First>, activation: &Arc<Activation>) -> Kept {
        let kept = self.keeping.begin(&activation.namespace, &activation.id);
        if let Some(First { tell, permit }) = first {
            drop(permit);
            if tell.send(activation.clone()).is_ok() {
                // The answer goes out before anything else is done for this call.
                tokio::task::yield_now().await;
            }
        }
        kept
    }

    /// Makes the action ready, calls it, and tries again while there is no room.
    async fn call(self: &Arc<Self>, run: &Run, action: &Arc<Action>, params: Vec<u8>) -> (Ended, Notes, Rest, Option<u64>) {
        let limits = &action.limits;
        let allowed = run.caller.limits();
        let internal = |_| Failure::new(FailureKind::Internal, "no id could be made");
        let found = match self.deployments.of(action, &run.caller.name, allowed.result).map_err(internal) {
            Ok(deployment) => self.secrets(run, action).await.map(|secrets| (deployment, secrets)),
            Err(failure) => Err(failure),
        };
        let (deployment, secrets) = match found {
            Ok(found) => found,
            Err(failure) => {
                let (ended, notes) = ending::failed(&failure, limits, allowed.result);
                return (ended, notes, Rest::default(), None);
            }
        };
        let mut wait = FIRST_WAIT;
        let mut init = None;
        for tried in 1.. {
            let code = self.code(action.clone());
            let outcome = match deployment.ready(action, code).await {
                Ok(took) => {
                    init = init.or(took);
                    self.invoke(run, action, &deployment, params.clone(), &secrets).await
                }
                Err(failure) if failure.kind == FailureKind::Busy && tried < TRIES => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                    continue;
                }
                Err(failure) => {
                    let (ended, notes) = ending::not_ready(&failure, limits, allowed.result);
                    return (ended, notes, Rest { deployment: Named(Some(deployment)), ..Rest::default() }, Some(0));
                }
            };
            let busy = matches!(&outcome.result, Err(failure) if failure.kind == FailureKind::Busy);
            if busy && tried < TRIES {
                tokio::time::sleep(wait).await;
                wait *= 2;
                continue;
            }
            let (ended, notes) = ending::ended(&outcome, limits, allowed.result);
            return (ended, notes, Rest { outcome: Some(outcome), deployment: Named(Some(deployment)) }, init);
        }
        // The loop ends by a return: `tried` counts up to `TRIES`.
        let (ended, notes) = ending::failed(&Failure::new(FailureKind::Busy, ""), limits, allowed.result);
        (ended, notes, Rest::default(), None)
    }

    /// What a first call of an action would come to, as far as the code alone decides; `calls`: its script is evaluated, too.
    pub(super) async fn prepare(self: &Arc<Self>, run: &Run, calls: bool) -> Ended {
        let action = run.found.action.clone();
        let (limits, most) = (action.limits, run.caller.limits().result);
        let failed = |failure: &Failure| ending::not_ready(failure, &limits, most).0;
        if calls {
            return match params(run, &action) {
                Ok(params) => self.call(run, &action, params).await.0,
                Err(failure) => failed(&failure),
            };
        }
        let Ok(deployment) = self.deployments.of(&action, &run.caller.name, most) else {
            return failed(&Failure::new(FailureKind::Internal, "no id could be made"));
        };
        match deployment.ready(&action, self.code(action.clone())).await {
            Ok(_) => Ended { status: Status::Success, result: None, size: None },
            Err(failure) => failed(&failure),
        }
    }

    async fn code(self: &Arc<Self>, action: Arc<Action>) -> Result<String, Failure> {
        let failed = |why: &str| Failure::new(FailureKind::Internal, why.to_owned());
        self.read_code(&action).await.map_err(|_| failed("the code cannot be read from the sealed store"))
    }

    async fn invoke(&self, run: &Run, action: &Action, deployment: &Deployment, params: Vec<u8>, secrets: &Variables) -> Outcome {
        let time = Duration::from_millis(action.limits.timeout);
        let deadline = now_ms().saturating_add(action.limits.timeout);
        // A variable is named once, and a caller's binding must not stand in for a secret.
        let is_secret = |name: &str| secrets.iter().any(|(secret, _)| secret == name);
        let mut env: Vec<(String, String)> = run.found.parameters.environment().filter(|(name, _)| !is_secret(name)).collect();
        env.extend(secrets.iter().cloned());
        for (key, value) in [
            ("API_HOST", self.config.api_host.clone()),
            ("NAMESPACE", run.caller.name.clone()),
            ("ACTION_NAME", format!("/{}", action.head.at.full())),
            ("ACTION_VERSION", action.head.version.to_string()),
            ("ACTIVATION_ID", run.id.clone()),
            ("TRANSACTION_ID", run.transaction.clone()),
            ("DEADLINE", deadline.to_string()),
        ] {
            if !run.environment.iter().any(|(own, _)| own == key) {
                env.push((format!("__OW_{key}"), value));
            }
        }
        env.extend(run.environment.iter().map(|(key, value)| (format!("__OW_{key}"), value.clone())));
        let (done, answer) = oneshot::channel();
        let call = Call { function: deployment.id.clone(), params, env };
        let number = self.functions.invoke(call, Box::new(move |outcome| drop(done.send(outcome))));
        tokio::pin!(answer);
        if let Ok(answer) = tokio::time::timeout(time + GRACE, &mut answer).await {
            return answer.unwrap_or_else(|_| lost("the service gave no answer"));
        }
        // The host may withhold a container for ever; the caller does not wait for ever.
        self.functions.cancel(number);
        match tokio::time::timeout(GRACE, answer).await {
            Ok(Ok(outcome)) => outcome,
            _ => lost("the host gave no container in time"),
        }
    }

    async fn run_sequence(self: Arc<Self>, mut run: Run, components: Vec<Fqn>, topmost: bool, count: Arc<Count>) -> Arc<Activation> {
        let start = now_ms().max(run.received);
        let most = run.caller.limits().sequence as usize;
        let mut ids = Vec::new();
        let mut duration: u64 = 0;
        let mut memory: Option<u64> = None;
        let mut last = Ended { status: Status::Success, result: None, size: None };
        let mut input = run.input;
        for (index, component) in components.into_iter().enumerate() {
            if index > 0 {
                match next_input(&last) {
                    Ok(next) => input = next,
                    Err(ended) => {
                        last = ended;
                        break;
                    }
                }
            }
            if count.actions.load(Relaxed) >= most || count.sequences.load(Relaxed) >= most {
                last = Ended::error(Status::ApplicationError, "Too many actions in the sequence.");
                break;
            }
            let found = match self.action(&run.caller.name, &component).await {
                Ok(found) => found,
                Err(Rejection { status: StatusCode::INTERNAL_SERVER_ERROR, .. }) => {
                    last = Ended::error(Status::WhiskError, "Sequence failed.");
                    break;
                }
                Err(_) => {
                    last = Ended::error(Status::ApplicationError, "Sequence component does not exist.");
                    break;
                }
            };
            let Ok(id) = random_hex() else {
                last = Ended::error(Status::WhiskError, "Sequence failed.");
                break;
            };
            let exec = found.action.exec.clone();
            let next = Run {
                caller: run.caller.clone(),
                found,
                input: input.clone(),
                cause: Some(run.id.clone()),
                id,
                transaction: run.transaction.clone(),
                received: now_ms(),
                wanted: run.wanted,
                environment: Vec::new(),
                first: None,
            };
            let activation = match exec {
                Exec::Code { .. } => {
                    count.actions.fetch_add(1, Relaxed);
                    self.clone().run_one(next).await
                }
                Exec::Sequence { components } => {
                    count.sequences.fetch_add(1, Relaxed);
                    // A task of its own: fifty of them within each other would be too much for the stack of one.
                    match tokio::spawn(self.clone().sequence(next, components, false, count.clone())).await {
                        Ok(activation) => activation,
                        // A panic is the whole call's. No task is cancelled before its runtime ends.
                        Err(error) => match error.try_into_panic() {
                            Ok(panic) => std::panic::resume_unwind(panic),
                            Err(_) => std::future::pending().await,
                        },
                    }
                }
            };
            duration = duration.saturating_add(activation.duration.unwrap_or(0));
            let used = activation.annotations.get("limits").and_then(|limits| limits.get("memory")?.as_u64());
            memory = memory.max(used);
            ids.push(activation.id.clone());
            last = Ended { size: None, ..activation.response.clone() };
            if last.status != Status::Success {
                break;
            }
        }
        let action = &run.found.action;
        let mut annotations = Parameters::default()
            .with("topmost", topmost)
            .with("path", action.head.at.full())
            .with("kind", "sequence")
            .with("waitTime", start - run.received);
        if !topmost {
            annotations.set("causedBy", "sequence");
        }
        if let Some(binding) = &run.found.binding {
            annotations.set("binding", binding.as_str());
        }
        if let Some(memory) = memory {
            annotations
                .set("limits", json!({ "timeout": action.limits.timeout, "memory": memory, "logs": action.limits.logs, "concurrency": 1 }));
        }
        let activation = Arc::new(Activation {
            namespace: run.caller.name.clone(),
            name: action.head.at.name.clone(),
            version: action.head.version,
            id: run.id,
            start,
            end: Some(now_ms().max(start)),
            duration: Some(duration),
            cause: if topmost { None } else { run.cause },
            response: last,
            logs: ids,
            annotations,
        });
        let _kept = self.answer_first(run.first.take(), &activation).await;
        self.record(&run.caller, activation.clone()).await;
        activation
    }

    /// Keeps the record of an activation, and forgets those that are too old.
    pub(super) async fn record(&self, space: &Arc<Space>, activation: Arc<Activation>) {
        let bytes = serde_json::to_vec(&*activation).unwrap_or_default();
        let length = bytes.len();
        self.put_soon(Key::new(&space.id, kind::ACTIVATION, &*activation.id), bytes).await;
        let gone = space.history.add(&activation, length, self.config.retention);
        if !gone.is_empty() {
            let (store, changes) = (self.store.clone(), forget(&space.id, gone));
            match blocking(move || store.commit(changes)).await {
                Ok(Ok(())) => {}
                // They are gone from memory, and the next start forgets them.
                Ok(Err(error)) => eprintln!("teemate-gateway: old activations stay for now: {error}"),
                Err(_) => eprintln!("teemate-gateway: old activations stay for now"),
            }
        }
    }
}

fn lost(why: &str) -> Outcome {
    let failure = Failure::new(FailureKind::Internal, why);
    Outcome { result: Err(failure), logs: String::new(), usage: Default::default(), container: 0, marks: Vec::new() }
}

/// How many actions and sequences a sequence has started. Sequences, too: a binding that was changed can make two contain each other.
#[derive(Default)]
struct Count {
    actions: AtomicUsize,
    sequences: AtomicUsize,
}

/// What a call left beside its result.
#[derive(Default)]
struct Rest {
    outcome: Option<Outcome>,
    deployment: Named,
}

/// Puts the action's name where the engine wrote the id that it knows.
#[derive(Default)]
struct Named(Option<Arc<Deployment>>);

impl Named {
    fn named(&self, text: &str, action: &Action) -> String {
        match &self.0 {
            Some(deployment) if text.contains(&deployment.id) => text.replace(&deployment.id, &action.head.at.name),
            _ => text.to_owned(),
        }
    }
}

/// The parameters of a call, as the function reads them.
fn params(run: &Run, action: &Action) -> Result<Vec<u8>, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::new(FailureKind::Internal, format!("the parameters cannot be written: {why}"));
    match &run.input {
        Input::Object(payload) => serde_json::to_vec(&run.found.parameters.arguments(payload.clone())).map_err(|error| failed(&error)),
        Input::Array(array) if action.exec.engine() == Kind::JavaScript => {
            Ok(format!("{{{}:{}}}", Value::from(ARRAY), array.get()).into_bytes())
        }
        Input::Array(_) => Err(Failure::new(FailureKind::Application, "a WebAssembly action takes an object, not an array")),
    }
}

/// What the next component of a sequence is given.
fn next_input(last: &Ended) -> Result<Input, Ended> {
    let text = last.text();
    if text.trim_start().starts_with('[') {
        return RawValue::from_string(text.to_owned()).map(Input::Array).map_err(|_| Ended::error(Status::WhiskError, "Sequence failed."));
    }
    let nested = |error: serde_json::Error| {
        Ended::error(Status::ApplicationError, &format!("The result cannot be given to the next action of the sequence: {error}"))
    };
    serde_json::from_str(text).map(Input::Object).map_err(nested)
}
