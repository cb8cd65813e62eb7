//! Rewriting of syscall sites.

use serde::{Deserialize, Serialize};

/// What became of a payload's syscall sites.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Sites, by rising address.
    pub sites: Vec<Site>,
}

/// One `syscall` instruction of the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Address in the payload's ELF file, not in ELRANGE.
    pub address: u64,
    /// The function it is in; empty where the file does not say.
    pub symbol: String,
    /// What was done.
    pub form: Form,
}

/// What was done with a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// `mov $nr,%eax; syscall`: both replaced by the jump.
    Number,
    /// The jump took the place of instructions before it too.
    Before,
    /// The jump took the place of instructions after it (and perhaps before).
    After,
    /// Left as it is: it traps. Why.
    Trap(String),
}
