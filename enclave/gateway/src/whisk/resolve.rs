//! From a name to what is called: packages, bindings, and who may use what of others.

use std::sync::Arc;

use http::StatusCode;

use super::entity::{Action, Entity, Package};
use super::names::{self, Fqn};
use super::parameters::Parameters;
use super::rejection::Rejection;
use super::{Whisk, space::Space};

/// An action as a caller finds it.
#[derive(Clone)]
pub struct Found {
    /// The action.
    pub action: Arc<Action>,
    /// Its parameters over those of the package and of the binding.
    pub parameters: Parameters,
    /// The package by whose name it was found, if that is a name of another one: `namespace/package`.
    pub binding: Option<String>,
}

impl Found {
    /// Keys that no caller may set.
    pub fn is_final(&self, key: &str) -> bool {
        self.action.head.annotations.is_true("final") && self.parameters.defines(key)
    }
}

/// A package as a caller finds it.
pub struct FoundPackage {
    /// The package of this name.
    pub package: Arc<Package>,
    /// The package that has the actions: the same, or the one that it stands for.
    pub provider: Arc<Package>,
    /// Parameters of the provider, and over them those of the binding.
    pub parameters: Parameters,
}

impl FoundPackage {
    /// Whether somebody other than `owner` has the actions.
    pub fn is_foreign(&self, owner: &str) -> bool {
        self.provider.head.at.namespace != owner
    }
}

impl Whisk {
    /// The namespace, for its owner or for somebody else.
    ///
    /// # Errors
    /// 403 when there is none, just as when it is another's: nobody learns who is here.
    pub(super) async fn space(&self, namespace: &str, resource: &str) -> Result<Arc<Space>, Rejection> {
        self.spaces.get(namespace).await?.ok_or_else(|| Rejection::forbidden(resource))
    }

    /// A package that `owner` may use: of his own, or published.
    ///
    /// # Errors
    /// 403, 404 or 409.
    pub(super) async fn package(&self, owner: &str, at: &Fqn) -> Result<FoundPackage, Rejection> {
        let package = self.package_itself(owner, at).await?;
        let Some(target) = &package.binding else {
            let parameters = package.parameters.clone();
            return Ok(FoundPackage { provider: package.clone(), package, parameters });
        };
        // A binding is its owner's alone, and what it stands for may have been withdrawn since.
        if at.namespace != owner {
            return Err(Rejection::forbidden(at.full()));
        }
        let provider = self.package_itself(owner, target).await?;
        if provider.binding.is_some() {
            let sentence = format!("Package binding '{}' contains a circular reference.", target.full());
            return Err(Rejection::new(StatusCode::UNPROCESSABLE_ENTITY, sentence));
        }
        let parameters = provider.parameters.merged(&package.parameters);
        Ok(FoundPackage { package, provider, parameters })
    }

    async fn package_itself(&self, owner: &str, at: &Fqn) -> Result<Arc<Package>, Rejection> {
        let own = at.namespace == owner;
        let space = self.space(&at.namespace, &at.full()).await?;
        match space.get(&at.name) {
            Some(Entity::Package(package)) if own || package.head.publish => Ok(package),
            _ if !own => Err(Rejection::forbidden(at.full())),
            Some(_) => Err(Rejection::another_collection()),
            None => Err(Rejection::not_found()),
        }
    }

    /// An action that `owner` may call.
    ///
    /// # Errors
    /// 403, 404 or 409.
    pub(super) async fn action(&self, owner: &str, at: &Fqn) -> Result<Found, Rejection> {
        let Some(package) = &at.package else {
            if at.namespace != owner {
                return Err(Rejection::forbidden(at.full()));
            }
            let space = self.space(owner, &at.full()).await?;
            let action = action_in(&space, &at.name)?;
            return Ok(Found { parameters: action.parameters.clone(), action, binding: None });
        };
        let package = self.package(owner, &Fqn::plain(&at.namespace, package)).await?;
        let provider = &package.provider.head.at;
        let space = self.space(&provider.namespace, &at.full()).await?;
        let action = action_in(&space, &names::key(Some(&provider.name), &at.name))?;
        let binding = package.package.binding.is_some().then(|| at.path());
        Ok(Found { parameters: package.parameters.merged(&action.parameters), action, binding })
    }
}

fn action_in(space: &Space, key: &str) -> Result<Arc<Action>, Rejection> {
    match space.get(key) {
        Some(Entity::Action(action)) => Ok(action),
        Some(_) => Err(Rejection::another_collection()),
        None => Err(Rejection::not_found()),
    }
}
