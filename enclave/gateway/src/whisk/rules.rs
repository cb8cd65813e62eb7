//! Rules: which trigger starts which action.

use std::sync::Arc;

use http::StatusCode;

use super::clock::now_ms;
use super::entity::{Entity, Head, Link, Rule, Trigger};
use super::names::{Fqn, SemVer};
use super::put::{self, Put};
use super::query::Query;
use super::rejection::{Answer, Rejection};
use super::space::{Edit, Space};
use super::{Context, Whisk, respond};

impl Whisk {
    fn rule(space: &Space, name: &str) -> Result<Arc<Rule>, Rejection> {
        match space.get(name) {
            Some(Entity::Rule(rule)) => Ok(rule),
            Some(_) => Err(Rejection::another_collection()),
            None => Err(Rejection::not_found()),
        }
    }

    /// `PUT`.
    pub(super) async fn put_rule(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let overwrite = Query(&context.query).flag("overwrite", false)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let put = Put::read(&context.body, &context.owner, &space.limits())?;
        for name in put.trigger.iter() {
            context.own(name)?;
        }
        let _changing = space.changing.lock().await;
        let old = match space.get(&at.name) {
            None => None,
            Some(_) if !overwrite => return Err(Rejection::conflict("resource already exists")),
            Some(Entity::Rule(old)) => Some(old),
            Some(_) => return Err(Rejection::another_collection()),
        };
        let old_ref = old.as_deref();
        let trigger = put.trigger.or_else(|| old_ref.map(|old| old.trigger.clone()));
        let action = put.action.or_else(|| old_ref.map(|old| old.action.clone()));
        let (Some(trigger), Some(action)) = (trigger, action) else {
            return Err(Rejection::bad_request("rule requires a valid trigger and a valid action"));
        };
        let missing = |what: &str, at: &Fqn, rejection: Rejection| match rejection.status {
            StatusCode::NOT_FOUND => Rejection::bad_request(format!("{what} /{} does not exist", at.full())),
            _ => rejection,
        };
        let linked = Whisk::trigger(&space, &trigger.name).map_err(|rejection| missing("trigger", &trigger, rejection))?;
        self.action(&context.owner, &action).await.map_err(|rejection| missing("action", &action, rejection))?;
        // A new rule is active; one that was there stays as it was.
        let active = old_ref.is_none_or(|old| is_active(&space, old));
        let rule = Rule {
            trigger,
            action: action.clone(),
            head: Head {
                at: at.clone(),
                version: put.version.unwrap_or_else(|| old_ref.map_or_else(SemVer::default, |old| old.head.version.next())),
                publish: put.publish.unwrap_or_else(|| old_ref.is_some_and(|old| old.head.publish)),
                annotations: put.annotations.or_else(|| old_ref.map(|old| old.head.annotations.clone())).unwrap_or_default(),
                updated: now_ms(),
            },
        };
        self.room(&space, old.is_none())?;
        let mut edits = Vec::new();
        if let Some(old) = old_ref.filter(|old| old.trigger != rule.trigger)
            && let Ok(before) = Whisk::trigger(&space, &old.trigger.name)
        {
            edits.push(unlinked(&before, &at.name));
        }
        edits.push(linked_to(&linked, &at.name, Link { action, active }));
        let shown = rule.to_json(active).to_string();
        edits.push(Edit::Put(Entity::Rule(Arc::new(rule))));
        space.change(&self.store, edits, Vec::new()).await?;
        Ok(respond(StatusCode::OK, shown))
    }

    /// `GET`.
    pub(super) async fn get_rule(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let rule = Whisk::rule(&space, &at.name)?;
        Ok(respond(StatusCode::OK, rule.to_json(is_active(&space, &rule)).to_string()))
    }

    /// `DELETE`.
    pub(super) async fn delete_rule(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let _changing = space.changing.lock().await;
        let rule = Whisk::rule(&space, &at.name)?;
        let mut edits = vec![Edit::Delete(Entity::Rule(rule.clone()))];
        if let Ok(trigger) = Whisk::trigger(&space, &rule.trigger.name) {
            edits.push(unlinked(&trigger, &at.name));
        }
        space.change(&self.store, edits, Vec::new()).await?;
        Ok(respond(StatusCode::OK, rule.to_json(false).to_string()))
    }

    /// `POST`: makes it active or inactive.
    pub(super) async fn set_rule(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let body = put::object(&context.body)?;
        let active = match body.get("status").and_then(|status| status.as_str()) {
            Some("active") => true,
            Some("inactive") => false,
            Some(other) => {
                let other: String = other.chars().take(80).collect();
                return Err(Rejection::malformed(format!(
                    "'{other}' is not a recognized rule state, must be one of ['active', 'inactive']"
                )));
            }
            None => return Err(Rejection::malformed("key not found: status")),
        };
        let space = self.space(&at.namespace, &at.full()).await?;
        let _changing = space.changing.lock().await;
        let rule = Whisk::rule(&space, &at.name)?;
        if active != is_active(&space, &rule) {
            let trigger = Whisk::trigger(&space, &rule.trigger.name);
            let trigger =
                trigger.map_err(|_| Rejection::new(StatusCode::NOT_FOUND, "Only rules with existing triggers can be activated"))?;
            let link = Link { action: rule.action.clone(), active };
            space.change(&self.store, vec![linked_to(&trigger, &at.name, link)], Vec::new()).await?;
        }
        Ok(super::text(StatusCode::OK, "OK"))
    }
}

/// Its trigger knows whether a rule is active. Without a trigger it is not.
fn is_active(space: &Space, rule: &Rule) -> bool {
    let trigger = Whisk::trigger(space, &rule.trigger.name);
    trigger.is_ok_and(|trigger| trigger.rules.get(&rule.head.at.name).is_some_and(|link| link.active))
}

fn linked_to(trigger: &Trigger, rule: &str, link: Link) -> Edit {
    let mut trigger = trigger.clone();
    trigger.rules.insert(rule.to_owned(), link);
    Edit::Put(Entity::Trigger(Arc::new(trigger)))
}

fn unlinked(trigger: &Trigger, rule: &str) -> Edit {
    let mut trigger = trigger.clone();
    trigger.rules.remove(rule);
    Edit::Put(Entity::Trigger(Arc::new(trigger)))
}
