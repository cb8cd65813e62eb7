//! Actions: create, update, get, delete, list, invoke.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;

use super::activation::{Activation, Status};
use super::clock::{now_ms, random_hex};
use super::entity::{Action, Collection, Entity, Head};
use super::exec::Exec;
use super::limits::ActionLimits;
use super::names::{Fqn, SemVer};
use super::options::Options;
use super::parameters::Parameters;
use super::put::{self, Put};
use super::query::Query;
use super::receipt;
use super::rejection::{Answer, Rejection};
use super::resolve::Found;
use super::run::{First, Input, Run};
use super::secrets::{self, Needs};
use super::space::{Edit, Space, blocking};
use super::store::{Change, Key, kind};
use super::throttle::Rate;
use super::{Context, Whisk, readiness, respond};
use crate::router::Response;

/// Name of the header that carries the id of an activation.
pub const ACTIVATION: HeaderName = HeaderName::from_static("x-openwhisk-activation-id");

impl Whisk {
    /// `PUT`.
    pub(super) async fn put_action(self: &Arc<Self>, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let put = Put::read(&context.body, &context.owner, &space.limits())?;
        let overwrite = Query(&context.query).flag("overwrite", false)?;
        let _changing = space.changing.lock().await;
        self.check_package(context, &at).await?;
        let old = match space.get(&at.key()) {
            None => None,
            Some(_) if !overwrite => return Err(Rejection::conflict("resource already exists")),
            Some(Entity::Action(old)) => Some(old),
            Some(_) => return Err(Rejection::another_collection()),
        };
        if let Some(Exec::Sequence { components }) = put.exec.as_ref().map(|put| &put.exec) {
            self.check_sequence(&space, &at, components).await?;
        }
        let code = put.exec.as_ref().and_then(|exec| exec.code.clone());
        let action = Arc::new(self.merged(at.clone(), put, old.as_deref())?);
        let mut more = Vec::new();
        if let Some(old) = old.as_ref().and_then(|old| old.code.clone()).filter(|old| action.code.as_ref() != Some(old)) {
            more.push(Change::Delete(Key::new(&space.id, kind::CODE, old)));
        }
        if let (Some(code), Some(name)) = (&code, &action.code) {
            more.push(Change::Put(Key::new(&space.id, kind::CODE, name.as_str()), code.clone().into_bytes()));
        }
        self.room(&space, old.is_none())?;
        space.change(&self.store, vec![Edit::Put(Entity::Action(action.clone()))], more).await?;
        self.deployments.forget(&at.namespace, &at.key());
        // Who deploys again wants what the broker says now.
        if action.head.annotations.get(secrets::SECRETS).is_some() {
            self.secrets.forget(&at.namespace);
        }
        if readiness::wanted(&context.headers) && matches!(action.exec, Exec::Code { .. }) {
            self.make_ready(context, action.clone()).await?;
        }
        let code = match (&code, &action.code) {
            (Some(code), _) => Some(code.clone()),
            (None, Some(_)) => Some(self.read_code(&action).await?),
            (None, None) => None,
        };
        Ok(respond(StatusCode::OK, action.to_json(code.as_deref()).to_string()))
    }

    /// Whether an action may be made or deleted there: in a package, not in a binding.
    async fn check_package(&self, context: &Context, at: &Fqn) -> Result<(), Rejection> {
        let Some(package) = &at.package else { return Ok(()) };
        let package = self.package(&context.owner, &Fqn::plain(&at.namespace, package)).await?;
        if package.package.binding.is_some() {
            return Err(Rejection::bad_request("Operation not permitted on package binding."));
        }
        Ok(())
    }

    /// The action that a body makes, of nothing or of what there was.
    fn merged(&self, at: Fqn, put: Put, old: Option<&Action>) -> Result<Action, Rejection> {
        let new_code = put.exec.as_ref().is_some_and(|exec| exec.code.is_some());
        let (exec, code) = match (put.exec, old) {
            (Some(put), _) if new_code => (put.exec, Some(format!("{}@{}", at.key(), random_hex()?))),
            (Some(put), _) => (put.exec, None),
            (None, Some(old)) => (old.exec.clone(), old.code.clone()),
            (None, None) => return Err(Rejection::bad_request("exec undefined")),
        };
        let was_sequence = old.is_some_and(|old| matches!(old.exec, Exec::Sequence { .. }));
        let parameters = match &exec {
            // Clients that know sequences from long ago look here.
            Exec::Sequence { components } => {
                let names: Vec<Value> = components.iter().map(|it| format!("/{}", it.full()).into()).collect();
                Parameters::default().with("_actions", names)
            }
            Exec::Code { .. } => match (put.parameters, old) {
                (Some(parameters), _) => parameters,
                (None, Some(old)) if !was_sequence => old.parameters.clone(),
                (None, _) => Parameters::default(),
            },
        };
        let mut annotations = old.map(|old| old.head.annotations.clone()).unwrap_or_default();
        for name in put.del_annotations.unwrap_or_default() {
            annotations.remove(&name);
        }
        annotations = annotations.merged(&put.annotations.unwrap_or_default());
        if old.is_none() && annotations.get("provide-api-key").is_none() {
            annotations.set("provide-api-key", false);
        }
        annotations.set("exec", exec.kind());
        Options::of(&annotations).map_err(Rejection::bad_request)?;
        Needs::of(&annotations).map_err(Rejection::bad_request)?;
        Ok(Action {
            exec,
            parameters,
            limits: put.limits.over(old.map_or_else(ActionLimits::default, |old| old.limits)),
            code,
            head: Head {
                at,
                version: put.version.unwrap_or_else(|| old.map_or_else(SemVer::default, |old| old.head.version.next())),
                publish: put.publish.unwrap_or_else(|| old.is_some_and(|old| old.head.publish)),
                annotations,
                updated: now_ms(),
            },
        })
    }

    /// Whether the components are there, are not too many, and do not lead back here.
    async fn check_sequence(&self, space: &Space, at: &Fqn, components: &[Fqn]) -> Result<(), Rejection> {
        let too_long = || Rejection::bad_request("Too many actions in the sequence.");
        if components.is_empty() {
            return Err(Rejection::bad_request("No component specified for the sequence."));
        }
        let most = space.limits().sequence as usize;
        let mut actions = 0;
        let mut left = components.to_vec();
        while let Some(component) = left.pop() {
            if left.len() + actions >= most {
                return Err(too_long());
            }
            let missing = |rejection: Rejection| match rejection.status {
                StatusCode::NOT_FOUND | StatusCode::CONFLICT => Rejection::bad_request("Sequence component does not exist."),
                _ => rejection,
            };
            if component == *at {
                return Err(Rejection::bad_request("Sequence may not refer to itself."));
            }
            let found = self.action(&space.name, &component).await.map_err(missing)?;
            if found.action.head.at == *at {
                return Err(Rejection::bad_request("Sequence may not refer to itself."));
            }
            match &found.action.exec {
                Exec::Code { .. } => actions += 1,
                Exec::Sequence { components } => left.extend(components.iter().cloned()),
            }
        }
        if actions > most { Err(too_long()) } else { Ok(()) }
    }

    /// Whether a namespace has room for one more.
    pub(super) fn room(&self, space: &Space, new: bool) -> Result<(), Rejection> {
        if new && space.len() >= self.config.entities {
            let sentence = format!("The namespace has {} entities, which is as many as it may have.", space.len());
            return Err(Rejection::new(StatusCode::FORBIDDEN, sentence));
        }
        Ok(())
    }

    /// The code of an action, as it stood in the request.
    pub(super) async fn read_code(&self, action: &Action) -> Result<String, Rejection> {
        let Some(name) = &action.code else { return Ok(String::new()) };
        let at = &action.head.at;
        let space = self.space(&at.namespace, &at.full()).await?;
        let (store, key) = (self.store.clone(), Key::new(&space.id, kind::CODE, name.as_str()));
        let code = blocking(move || store.get(&key)).await??;
        // Gone: it was changed or deleted after the action was looked up.
        let code = code.ok_or_else(|| Rejection::conflict("Concurrent modification to resource detected."))?;
        String::from_utf8(code).map_err(|_| Rejection::internal())
    }

    /// `GET`.
    pub(super) async fn get_action(&self, context: &Context, at: Fqn) -> Answer {
        let with_code = Query(&context.query).flag("code", true)?;
        let found = self.action(&context.owner, &at).await?;
        if self.config.execute_only && found.action.head.at.namespace != context.owner {
            let sentence = format!("GET not permitted for '{}' since it's an action in a shared package", at.path());
            return Err(Rejection::new(StatusCode::FORBIDDEN, sentence));
        }
        let code = if with_code && found.action.code.is_some() { Some(self.read_code(&found.action).await?) } else { None };
        let mut shown = Action { parameters: found.parameters, ..(*found.action).clone() };
        if shown.head.at.namespace != context.owner {
            secrets::hide(&mut shown.head.annotations);
        }
        let mut shown = shown.to_json(code.as_deref());
        if let (false, Some(binding)) = (with_code, found.binding) {
            shown["binding"] = binding.into();
        }
        Ok(respond(StatusCode::OK, shown.to_string()))
    }

    /// `DELETE`.
    pub(super) async fn delete_action(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let _changing = space.changing.lock().await;
        self.check_package(context, &at).await?;
        let action = match space.get(&at.key()) {
            Some(Entity::Action(action)) => action,
            Some(_) => return Err(Rejection::another_collection()),
            None => return Err(Rejection::not_found()),
        };
        let code = if action.code.is_some() { Some(self.read_code(&action).await?) } else { None };
        let more = action.code.iter().map(|name| Change::Delete(Key::new(&space.id, kind::CODE, name.as_str()))).collect();
        space.change(&self.store, vec![Edit::Delete(Entity::Action(action.clone()))], more).await?;
        self.deployments.forget(&at.namespace, &at.key());
        Ok(respond(StatusCode::OK, action.to_json(code.as_deref()).to_string()))
    }

    /// `GET` of a package's actions.
    pub(super) async fn list_package(&self, context: &Context, at: Fqn) -> Answer {
        let package = self.package(&context.owner, &at).await?;
        let provider = &package.provider.head.at;
        let space = self.space(&provider.namespace, &at.full()).await?;
        let mut actions = space.list(Collection::Actions, Some(&provider.name));
        if space.name != context.owner {
            actions.iter_mut().for_each(Entity::hide_secrets);
        }
        context.listed(actions, Collection::Actions)
    }

    /// `POST`.
    pub(super) async fn invoke_action(self: &Arc<Self>, context: &Context, at: Fqn) -> Answer {
        let query = Query(&context.query);
        let (blocking, result, wait) = (query.flag("blocking", false)?, query.flag("result", false)?, query.wait()?);
        let caller = self.space(&context.owner, &context.owner).await?;
        if at.package.is_none() {
            context.own(&at)?;
        }
        caller.throttle.count(Rate::Actions, now_ms(), caller.limits().calls_per_minute)?;
        context.bounded(&caller)?;
        context.json_only()?;
        let payload = put::object(&context.body)?;
        let found = self.action(&context.owner, &at).await?;
        if let Exec::Sequence { components } = &found.action.exec {
            // What is not there is an error of the sequence; what is another's is the caller's.
            for component in components {
                if let Err(rejection) = self.action(&context.owner, component).await
                    && rejection.status == StatusCode::FORBIDDEN
                {
                    return Err(rejection);
                }
            }
        }
        if payload.keys().any(|key| found.is_final(key)) {
            return Err(Rejection::bad_request("Request defines parameters that are not allowed (e.g., reserved properties)."));
        }
        let environment = readiness::environment(&context.headers)?;
        if !environment.is_empty() && found.action.head.at.namespace != context.owner {
            // Another owner's action believes what it is told of its call.
            return Err(Rejection::bad_request(format!("the header '{}' is for one's own actions", readiness::ENVIRONMENT)));
        }
        let wait = blocking.then(|| Duration::from_millis(wait));
        let activation = self.start(context, &caller, found, Input::Object(payload), wait, environment).await?;
        let activation = match activation {
            Started::Later(id) => return Ok(with_activation(respond(StatusCode::ACCEPTED, format!("{{\"activationId\":\"{id}\"}}")), &id)),
            Started::Ended(activation) => activation,
        };
        let body = if result || activation.response.text().starts_with('[') {
            activation.response.text().to_owned()
        } else {
            activation.to_json()
        };
        let status = match activation.response.status {
            Status::Success => StatusCode::OK,
            Status::ApplicationError | Status::DeveloperError => StatusCode::BAD_GATEWAY,
            Status::WhiskError => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Ok(with_activation(respond(status, body), &activation.id))
    }

    /// Starts an action, and waits for it if somebody is to wait. It runs on when the waiting is over, or the caller is gone.
    pub(super) async fn start(
        self: &Arc<Self>,
        context: &Context,
        caller: &Arc<Space>,
        found: Found,
        input: Input,
        wait: Option<Duration>,
        environment: Vec<(String, String)>,
    ) -> Result<Started, Rejection> {
        let permit = caller.throttle.enter(caller.limits().concurrent)?;
        let overall = self.overall.enter(self.config.concurrent_overall)?;
        let (tell, told) = oneshot::channel();
        let id = random_hex()?;
        let run = Run {
            caller: caller.clone(),
            found,
            input,
            cause: None,
            id: id.clone(),
            transaction: context.transaction.clone(),
            received: context.received,
            wanted: receipt::Wanted::of(&context.headers),
            environment,
            first: Some(First { tell, permit }),
        };
        let whisk = self.clone();
        tokio::spawn(async move {
            whisk.run(run).await;
            drop(overall);
        });
        let Some(wait) = wait else { return Ok(Started::Later(id)) };
        match tokio::time::timeout(wait, told).await {
            Ok(Ok(activation)) => Ok(Started::Ended(activation)),
            // It ended without an end: a panic.
            Ok(Err(_)) => Err(Rejection::internal()),
            Err(_) => Ok(Started::Later(id)),
        }
    }
}

/// An activation that was started.
pub enum Started {
    /// It runs; its record will have this id.
    Later(String),
    /// It ended.
    Ended(Arc<Activation>),
}

/// The answer with the id of an activation in its header.
pub fn with_activation(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers.insert(ACTIVATION, id);
    }
    response
}
