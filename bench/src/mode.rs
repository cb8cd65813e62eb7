//! The four ways to run a function that are compared.

use serde::Serialize;
use teemate_control::node::Sharing;

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Node.js in a container of its own.
    Node,
    /// The payload as a process in a container.
    Native,
    /// An enclave a container.
    Exclusive,
    /// One enclave, many containers.
    Shared,
}

impl Mode {
    /// All, in the order of the figures.
    pub const ALL: [Mode; 4] = [Mode::Node, Mode::Native, Mode::Exclusive, Mode::Shared];

    /// For tables and figures.
    pub const fn title(self) -> &'static str {
        match self {
            Mode::Node => "Node container",
            Mode::Native => "native",
            Mode::Exclusive => "exclusive",
            Mode::Shared => "shared",
        }
    }

    /// The node's word for it; none for the Node container.
    pub const fn sharing(self) -> Option<Sharing> {
        match self {
            Mode::Node => None,
            Mode::Native => Some(Sharing::Native),
            Mode::Exclusive => Some(Sharing::Exclusive),
            Mode::Shared => Some(Sharing::Shared),
        }
    }
}
