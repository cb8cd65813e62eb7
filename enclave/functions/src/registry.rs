//! What is deployed, in three spaces that do not see each other.
//!
//! The node names the functions of its operator; the gateway in this process names those of owners; links name what another enclave
//! handed over. A name of one space means nothing in another, so that no message of the node reaches an owner's function.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use teemate_control::function::{Failure, FailureKind};

use crate::function::Function;

/// Functions in one space.
const MAX_FUNCTIONS: usize = 10_000;

/// Who gives the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The node.
    Operator,
    /// This process.
    Owners,
    /// Another enclave of this program, over a link.
    Handed,
}

/// A name in its space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Space.
    pub space: Space,
    /// As it was given.
    pub name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", crate::spec::shorten(&self.name))
    }
}

/// All functions.
#[derive(Default)]
pub struct Registry {
    spaces: RwLock<[HashMap<String, Arc<Function>>; 3]>,
}

impl Registry {
    /// The function of this name.
    ///
    /// # Errors
    /// That there is none.
    pub fn get(&self, name: &Name) -> Result<Arc<Function>, Failure> {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        spaces[name.space as usize].get(&name.name).cloned().ok_or_else(|| unknown(name))
    }

    /// Keeps a function; gives the one whose place it takes.
    ///
    /// # Errors
    /// When its space is full.
    pub fn put(&self, name: &Name, function: Function) -> Result<Option<Arc<Function>>, Failure> {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        let space = &mut spaces[name.space as usize];
        if space.len() >= MAX_FUNCTIONS && !space.contains_key(&name.name) {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_FUNCTIONS} functions are deployed already; delete one")));
        }
        Ok(space.insert(name.name.clone(), Arc::new(function)))
    }

    /// Forgets a function.
    ///
    /// # Errors
    /// That there is none.
    pub fn remove(&self, name: &Name) -> Result<Arc<Function>, Failure> {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces[name.space as usize].remove(&name.name).ok_or_else(|| unknown(name))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).iter().map(HashMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn unknown(name: &Name) -> Failure {
    if name.space == Space::Handed {
        // It was compiled once already, by who handed it over.
        let text = "the function could not be made ready in another enclave, and there was no room in the first; try again later";
        return Failure::new(FailureKind::Busy, text);
    }
    Failure::new(FailureKind::Invalid, format!("there is no function '{name}': deploy it first"))
}
