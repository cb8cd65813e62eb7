//! Actions, packages, triggers and rules: as they are kept, and as clients see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::exec::Exec;
use super::limits::ActionLimits;
use super::names::{self, Fqn, SemVer};
use super::parameters::Parameters;
use super::secrets;
use super::store::{Key, kind};

/// What every entity has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Where it is.
    pub at: Fqn,
    /// Version.
    pub version: SemVer,
    /// Whether others may use it (packages).
    pub publish: bool,
    /// Annotations.
    pub annotations: Parameters,
    /// When it was changed last, milliseconds since 1970.
    pub updated: u64,
}

/// An action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// What every entity has.
    pub head: Head,
    /// What it executes.
    pub exec: Exec,
    /// Default parameters.
    pub parameters: Parameters,
    /// Limits.
    pub limits: ActionLimits,
    /// Name under which the code is kept. Each code has a name of its own, so that nobody reads new code with old limits.
    pub code: Option<String>,
}

/// A package, or a name of somebody's package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Package {
    /// What every entity has.
    pub head: Head,
    /// The package that this one stands for.
    pub binding: Option<Fqn>,
    /// Default parameters of its actions.
    pub parameters: Parameters,
}

/// A rule as its trigger knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The action.
    pub action: Fqn,
    /// Whether the trigger starts it.
    pub active: bool,
}

/// A trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// What every entity has.
    pub head: Head,
    /// Default parameters of what it starts.
    pub parameters: Parameters,
    /// Its rules, by name.
    pub rules: BTreeMap<String, Link>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// What every entity has.
    pub head: Head,
    /// What starts it.
    pub trigger: Fqn,
    /// What it starts.
    pub action: Fqn,
}

/// What one name of a namespace stands for: these four share their names, as in OpenWhisk.
/// An entity does not change: a new one takes its place.
#[derive(Clone, Debug, PartialEq)]
pub enum Entity {
    /// An action.
    Action(Arc<Action>),
    /// A package.
    Package(Arc<Package>),
    /// A trigger.
    Trigger(Arc<Trigger>),
    /// A rule.
    Rule(Arc<Rule>),
}

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Actions.
    Actions,
    /// Packages.
    Packages,
    /// Triggers.
    Triggers,
    /// Rules.
    Rules,
}

impl Collection {
    /// All of them.
    pub const ALL: [Collection; 4] = [Collection::Actions, Collection::Packages, Collection::Triggers, Collection::Rules];

    /// As paths have it.
    pub fn name(self) -> &'static str {
        match self {
            Collection::Actions => "actions",
            Collection::Packages => "packages",
            Collection::Triggers => "triggers",
            Collection::Rules => "rules",
        }
    }

    /// As the store has it.
    pub fn kind(self) -> &'static str {
        match self {
            Collection::Actions => kind::ACTION,
            Collection::Packages => kind::PACKAGE,
            Collection::Triggers => kind::TRIGGER,
            Collection::Rules => kind::RULE,
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Collection::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl Entity {
    /// Which of the four.
    pub fn collection(&self) -> Collection {
        match self {
            Entity::Action(_) => Collection::Actions,
            Entity::Package(_) => Collection::Packages,
            Entity::Trigger(_) => Collection::Triggers,
            Entity::Rule(_) => Collection::Rules,
        }
    }

    /// What every entity has.
    pub fn head(&self) -> &Head {
        match self {
            Entity::Action(it) => &it.head,
            Entity::Package(it) => &it.head,
            Entity::Trigger(it) => &it.head,
            Entity::Rule(it) => &it.head,
        }
    }

    /// Where the store keeps it, if this is its owner there.
    pub fn key(&self, owner: &str) -> Key {
        Key::new(owner, self.collection().kind(), self.head().at.key())
    }

    /// As the store keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = match self {
            Entity::Action(it) => serde_json::to_vec(&**it),
            Entity::Package(it) => serde_json::to_vec(&**it),
            Entity::Trigger(it) => serde_json::to_vec(&**it),
            Entity::Rule(it) => serde_json::to_vec(&**it),
        };
        // Strings, numbers, lists and maps by string: there is nothing that JSON cannot say.
        bytes.unwrap_or_default()
    }

    /// As the store kept it.
    ///
    /// # Errors
    /// When it is of another version of this program.
    pub fn from_bytes(collection: Collection, bytes: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match collection {
            Collection::Actions => Entity::Action(Arc::new(serde_json::from_slice(bytes)?)),
            Collection::Packages => Entity::Package(Arc::new(serde_json::from_slice(bytes)?)),
            Collection::Triggers => Entity::Trigger(Arc::new(serde_json::from_slice(bytes)?)),
            Collection::Rules => Entity::Rule(Arc::new(serde_json::from_slice(bytes)?)),
        })
    }

    /// As lists show it.
    pub fn summary(&self) -> Value {
        let mut fields = self.head().fields();
        match self {
            Entity::Action(it) => {
                fields.insert("limits".into(), json!(it.limits));
                fields.insert("exec".into(), json!({ "binary": it.exec.is_binary() }));
            }
            Entity::Package(it) => {
                fields.insert("binding".into(), it.binding.as_ref().map_or(Value::Bool(false), binding));
            }
            Entity::Trigger(_) => {}
            Entity::Rule(it) => {
                fields.insert("trigger".into(), it.trigger.to_json());
                fields.insert("action".into(), it.action.to_json());
            }
        }
        Value::Object(fields)
    }
}

impl Head {
    fn fields(&self) -> Map<String, Value> {
        let fields = [
            ("namespace", names::path(&self.at.namespace, self.at.package.as_deref()).into()),
            ("name", self.at.name.as_str().into()),
            ("version", self.version.to_string().into()),
            ("publish", self.publish.into()),
            ("annotations", json!(self.annotations)),
            ("updated", self.updated.into()),
        ];
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn binding(of: &Fqn) -> Value {
    json!({ "namespace": of.namespace, "name": of.name })
}

impl Entity {
    /// Takes out what only its owner may see.
    pub fn hide_secrets(&mut self) {
        if let Entity::Action(action) = self {
            secrets::hide(&mut Arc::make_mut(action).head.annotations);
        }
    }
}

impl Action {
    /// As a client sees it, with its code or without.
    pub fn to_json(&self, code: Option<&str>) -> Value {
        let mut fields = self.head.fields();
        fields.insert("exec".into(), self.exec.to_json(code));
        fields.insert("parameters".into(), json!(self.parameters));
        fields.insert("limits".into(), json!(self.limits));
        Value::Object(fields)
    }
}

impl Package {
    /// As a client sees it.
    pub fn to_json(&self) -> Value {
        let mut fields = self.head.fields();
        fields.insert("binding".into(), self.binding.as_ref().map_or_else(|| json!({}), binding));
        fields.insert("parameters".into(), json!(self.parameters));
        Value::Object(fields)
    }

    /// The annotations that a package has: the one of its binding is the system's, whatever the client says.
    pub fn annotate(annotations: &mut Parameters, of: Option<&Fqn>) {
        annotations.remove("binding");
        if let Some(of) = of {
            annotations.set("binding", binding(of));
        }
    }
}

impl Trigger {
    /// As a client sees it.
    pub fn to_json(&self) -> Value {
        let mut fields = self.head.fields();
        fields.insert("parameters".into(), json!(self.parameters));
        fields.insert("limits".into(), json!({}));
        if !self.rules.is_empty() {
            let rule = |(name, link): (&String, &Link)| {
                let link = json!({ "action": link.action.to_json(), "status": status(link.active) });
                (format!("{}/{name}", self.head.at.namespace), link)
            };
            fields.insert("rules".into(), Value::Object(self.rules.iter().map(rule).collect()));
        }
        Value::Object(fields)
    }
}

impl Rule {
    /// As a client sees it.
    pub fn to_json(&self, active: bool) -> Value {
        let mut fields = self.head.fields();
        fields.insert("trigger".into(), self.trigger.to_json());
        fields.insert("action".into(), self.action.to_json());
        fields.insert("status".into(), status(active).into());
        Value::Object(fields)
    }
}

/// The word for whether a rule is active.
pub fn status(active: bool) -> &'static str {
    if active { "active" } else { "inactive" }
}
