//! Packages and bindings.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::clock::now_ms;
use super::entity::{Collection, Entity, Head, Package};
use super::names::{Fqn, SemVer};
use super::put::Put;
use super::query::Query;
use super::rejection::{Answer, Rejection};
use super::space::Edit;
use super::store::{Change, Key, kind};
use super::{Context, Whisk, respond};

impl Whisk {
    /// `PUT`.
    pub(super) async fn put_package(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let overwrite = Query(&context.query).flag("overwrite", false)?;
        if at.name == "default" {
            return Err(Rejection::bad_request(format!("Package name '{}' is reserved.", at.name)));
        }
        let space = self.space(&at.namespace, &at.full()).await?;
        let put = Put::read(&context.body, &context.owner, &space.limits())?;
        let binding = put.binding.flatten();
        if let Some(target) = &binding {
            self.check_binding(context, &at, target).await?;
        }
        let _changing = space.changing.lock().await;
        let old = match space.get(&at.name) {
            None => None,
            Some(_) if !overwrite => return Err(Rejection::conflict("resource already exists")),
            Some(Entity::Package(old)) => Some(old),
            Some(_) => return Err(Rejection::another_collection()),
        };
        if binding.is_some() && old.as_ref().is_some_and(|old| old.binding.is_none()) {
            return Err(Rejection::conflict("Resource is a package and cannot be converted into a binding."));
        }
        let old_ref = old.as_deref();
        let binding = binding.or_else(|| old_ref.and_then(|old| old.binding.clone()));
        let mut annotations = put.annotations.or_else(|| old_ref.map(|old| old.head.annotations.clone())).unwrap_or_default();
        Package::annotate(&mut annotations, binding.as_ref());
        let package = Package {
            binding,
            parameters: put.parameters.or_else(|| old_ref.map(|old| old.parameters.clone())).unwrap_or_default(),
            head: Head {
                at,
                version: put.version.unwrap_or_else(|| old_ref.map_or_else(SemVer::default, |old| old.head.version.next())),
                publish: put.publish.unwrap_or_else(|| old_ref.is_some_and(|old| old.head.publish)),
                annotations,
                updated: now_ms(),
            },
        };
        self.room(&space, old.is_none())?;
        let shown = package.to_json().to_string();
        space.change(&self.store, vec![Edit::Put(Entity::Package(Arc::new(package)))], Vec::new()).await?;
        Ok(respond(StatusCode::OK, shown))
    }

    async fn check_binding(&self, context: &Context, at: &Fqn, target: &Fqn) -> Result<(), Rejection> {
        if at == target {
            let sentence = format!("Package binding '{}' contains a circular reference.", target.full());
            return Err(Rejection::new(StatusCode::UNPROCESSABLE_ENTITY, sentence));
        }
        let found = self.package(&context.owner, target).await.map_err(|rejection| match rejection.status {
            StatusCode::NOT_FOUND => Rejection::bad_request("Binding references a package that does not exist."),
            StatusCode::CONFLICT => Rejection::conflict("Cannot bind to a resource that is not a package."),
            _ => rejection,
        })?;
        if found.package.binding.is_some() {
            return Err(Rejection::bad_request("Cannot bind to another package binding."));
        }
        Ok(())
    }

    /// `GET`: with the actions, and for a binding with the parameters of both.
    pub(super) async fn get_package(&self, context: &Context, at: Fqn) -> Answer {
        let found = self.package(&context.owner, &at).await?;
        if self.config.execute_only && found.is_foreign(&context.owner) {
            let sentence = if found.package.binding.is_some() {
                format!("GET not permitted since {} is a binding of a shared package", at.name)
            } else {
                format!("GET not permitted for '{}' since it's a shared package", at.full())
            };
            return Err(Rejection::new(StatusCode::FORBIDDEN, sentence));
        }
        let provider = &found.provider.head.at;
        let space = self.space(&provider.namespace, &at.full()).await?;
        let (mut actions, mut feeds) = (Vec::new(), Vec::new());
        for mut entity in space.list(Collection::Actions, Some(&provider.name)) {
            if provider.namespace != context.owner {
                entity.hide_secrets();
            }
            let head = entity.head();
            let shown = json!({ "name": head.at.name, "version": head.version, "annotations": head.annotations });
            if head.annotations.get("feed").is_some() { &mut feeds } else { &mut actions }.push(shown);
        }
        let mut shown = Package { parameters: found.parameters, ..(*found.package).clone() }.to_json();
        shown["actions"] = Value::Array(actions);
        shown["feeds"] = Value::Array(feeds);
        Ok(respond(StatusCode::OK, shown.to_string()))
    }

    /// `DELETE`.
    pub(super) async fn delete_package(&self, context: &Context, at: Fqn) -> Answer {
        context.own(&at)?;
        let force = Query(&context.query).flag("force", false)?;
        let space = self.space(&at.namespace, &at.full()).await?;
        let _changing = space.changing.lock().await;
        let package = match space.get(&at.name) {
            Some(Entity::Package(package)) => package,
            Some(_) => return Err(Rejection::another_collection()),
            None => return Err(Rejection::not_found()),
        };
        let actions = if package.binding.is_some() { Vec::new() } else { space.list(Collection::Actions, Some(&at.name)) };
        if !actions.is_empty() && !force {
            let count = actions.len();
            let entities = if count == 1 { "entity" } else { "entities" };
            let sentence = format!("Package not empty (contains {count} {entities}). Set force param or delete package contents.");
            return Err(Rejection::conflict(sentence));
        }
        let mut more = Vec::new();
        for entity in &actions {
            if let Entity::Action(action) = entity {
                more.extend(action.code.iter().map(|name| Change::Delete(Key::new(&space.id, kind::CODE, name.as_str()))));
            }
        }
        let keys: Vec<String> = actions.iter().map(|entity| entity.head().at.key()).collect();
        let edits = actions.into_iter().chain([Entity::Package(package.clone())]).map(Edit::Delete).collect();
        space.change(&self.store, edits, more).await?;
        for key in keys {
            self.deployments.forget(&at.namespace, &key);
        }
        Ok(respond(StatusCode::OK, package.to_json().to_string()))
    }

    /// `GET` of the collection: all of one's own, those that are published of others.
    pub(super) async fn list_packages(&self, context: &Context, namespace: &str) -> Answer {
        let packages = match self.spaces.get(namespace).await? {
            Some(space) => space.list(Collection::Packages, None),
            None => Vec::new(),
        };
        let visible = |it: &Entity| namespace == context.owner || it.head().publish;
        context.listed(packages.into_iter().filter(visible).collect(), Collection::Packages)
    }
}
