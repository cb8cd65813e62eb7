//! Triggers.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::actions::{Started, with_activation};
use super::activation::{Activation, Ended, Status};
use super::clock::{now_ms, random_hex};
use super::entity::{Entity, Head, Link, Trigger};
use super::names::{Fqn, SemVer};
use super::parameters::Parameters;
use super::put::{self, Put};
use super::query::Query;
use super::rejection::{Answer, Rejection};
use super::run::Input;
use super::space::{Edit, Space};
use super::throttle::Rate;
use super::{Context, Whisk, respond};

impl Whisk {
    /// The trigger of this name.
    pub(super) fn trigger(space: &Space, name: &str) -> Result<Arc<Trigger>, Rejection> {
        match space.get(name) {
            Some(Entity::Trigger(trigger)) => Ok(trigger),
            Some(_) => Err(Rejection::another_collection()),
            None => Err(Rejection::not_found()),
        }
    }

    /// `PUT`.
    pub(super) async fn put_trigger(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let overwrite = Query(&context.query).flag("overwrite", false)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let put = Put::read(&context.body, &context.owner, &space.limits())?;
        let _changing = space.changing.lock().await;
        let old = match space.get(&at.name) {
            None => None,
            Some(_) if !overwrite => return Err(Rejection::conflict("resource already exists")),
            Some(Entity::Trigger(old)) => Some(old),
            Some(_) => return Err(Rejection::another_collection()),
        };
        if let (None, Some(feed)) = (&old, put.annotations.as_ref().and_then(|annotations| annotations.get("feed"))) {
            let parts = |feed: &str| feed.split('/').filter(|part| !part.is_empty()).all(super::names::is_name);
            if !feed.as_str().is_some_and(|feed| !feed.is_empty() && parts(feed)) {
                return Err(Rejection::bad_request("Feed name is not valid"));
            }
        }
        let old_ref = old.as_deref();
        let trigger = Arc::new(Trigger {
            parameters: put.parameters.or_else(|| old_ref.map(|old| old.parameters.clone())).unwrap_or_default(),
            rules: old_ref.map(|old| old.rules.clone()).unwrap_or_default(),
            head: Head {
                at,
                version: put.version.unwrap_or_else(|| old_ref.map_or_else(SemVer::default, |old| old.head.version.next())),
                publish: put.publish.unwrap_or_else(|| old_ref.is_some_and(|old| old.head.publish)),
                annotations: put.annotations.or_else(|| old_ref.map(|old| old.head.annotations.clone())).unwrap_or_default(),
                updated: now_ms(),
            },
        });
        self.room(&space, old.is_none())?;
        space.change(&self.store, vec![Edit::Put(Entity::Trigger(trigger.clone()))], Vec::new()).await?;
        Ok(respond(StatusCode::OK, trigger.to_json().to_string()))
    }

    /// `GET`.
    pub(super) async fn get_trigger(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        Ok(respond(StatusCode::OK, Whisk::trigger(&space, &at.name)?.to_json().to_string()))
    }

    /// `DELETE`. Its rules stay, and are inactive.
    pub(super) async fn delete_trigger(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let _changing = space.changing.lock().await;
        let trigger = Whisk::trigger(&space, &at.name)?;
        space.change(&self.store, vec![Edit::Delete(Entity::Trigger(trigger.clone()))], Vec::new()).await?;
        Ok(respond(StatusCode::OK, trigger.to_json().to_string()))
    }

    /// `POST`: starts the actions of its active rules.
    pub(super) async fn fire_trigger(self: &Arc<Self>, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        space.throttle.count(Rate::Triggers, now_ms(), space.limits().triggers_per_minute)?;
        context.bounded(&space)?;
        context.json_only()?;
        let payload = put::object(&context.body)?;
        let trigger = Whisk::trigger(&space, &at.name)?;
        if !trigger.rules.values().any(|link| link.active) {
            return Ok(crate::router::Response::empty(StatusCode::NO_CONTENT));
        }
        let id = random_hex()?;
        let result = serde_json::value::to_raw_value(&payload).ok();
        let arguments = trigger.parameters.arguments(payload);
        let mut logs = Vec::new();
        for (name, link) in &trigger.rules {
            let said = self.fire_rule(context, &space, name, link, &arguments).await;
            let (code, rest) = match said {
                Ok(id) => (Status::Success, ("activationId", id)),
                Err(rejection) if rejection.status.is_server_error() => (Status::WhiskError, ("error", rejection.message)),
                Err(rejection) => (Status::ApplicationError, ("error", rejection.message)),
            };
            let line = json!({
                "rule": format!("{}/{name}", at.namespace), "action": link.action.full(), "statusCode": code.code(),
                "success": code == Status::Success, rest.0: rest.1,
            });
            logs.push(line.to_string());
        }
        let activation = Activation {
            namespace: space.name.clone(),
            name: at.name,
            version: trigger.head.version,
            id: id.clone(),
            start: context.received,
            end: None,
            duration: None,
            cause: None,
            response: Ended { status: Status::Success, result, size: None },
            logs,
            annotations: Parameters::default(),
        };
        self.record(&space, Arc::new(activation)).await;
        Ok(with_activation(respond(StatusCode::ACCEPTED, format!("{{\"activationId\":\"{id}\"}}")), &id))
    }

    async fn fire_rule(
        self: &Arc<Self>,
        context: &Context,
        space: &Arc<Space>,
        rule: &str,
        link: &Link,
        arguments: &Map<String, Value>,
    ) -> Result<String, Rejection> {
        if !link.active {
            let sentence = format!("Rule '{}/{rule}' is inactive, action '{}' was not activated.", space.name, link.action.full());
            return Err(Rejection::bad_request(sentence));
        }
        space.throttle.count(Rate::Actions, now_ms(), space.limits().calls_per_minute)?;
        let found = self.action(&space.name, &link.action).await?;
        if arguments.keys().any(|key| found.is_final(key)) {
            return Err(Rejection::bad_request("Request defines parameters that are not allowed (e.g., reserved properties)."));
        }
        match self.start(context, space, found, Input::Object(arguments.clone()), None, Vec::new()).await? {
            Started::Later(id) => Ok(id),
            Started::Ended(activation) => Ok(activation.id.clone()),
        }
    }
}
