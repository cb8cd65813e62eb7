//! The ways to run a function that are compared.

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
    /// One enclave, many containers, each made when its call is there.
    Unpooled,
    /// One enclave, many containers, some of them made ahead of their calls.
    Shared,
    /// The same enclave, in a container that served this function before and was rewound.
    Rewound,
    /// As shared, end to end: an owner's call over a new TLS connection whose quote is verified.
    Attested,
}

impl Mode {
    /// All, in the order of the figures.
    pub const ALL: [Mode; 7] = [Mode::Node, Mode::Native, Mode::Exclusive, Mode::Unpooled, Mode::Shared, Mode::Rewound, Mode::Attested];

    /// For tables and figures.
    pub const fn title(self) -> &'static str {
        match self {
            Mode::Node => "Node container",
            Mode::Native => "native",
            Mode::Exclusive => "exclusive",
            Mode::Unpooled => "shared, no pool",
            Mode::Shared => "shared",
            Mode::Rewound => "shared, rewound",
            Mode::Attested => "shared, end to end",
        }
    }

    /// The node's word for it; none for the Node container.
    pub const fn sharing(self) -> Option<Sharing> {
        match self {
            Mode::Node => None,
            Mode::Native => Some(Sharing::Native),
            Mode::Exclusive => Some(Sharing::Exclusive),
            Mode::Unpooled | Mode::Shared | Mode::Rewound | Mode::Attested => Some(Sharing::Shared),
        }
    }
}
