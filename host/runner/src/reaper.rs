//! What node and reaper say to each other, a packet each.

use serde::{Deserialize, Serialize};

/// Node to reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take over the thread of a killed process.
    Adopt {
        /// Its TCS.
        tcs: u32,
    },
}

/// Reaper to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It serves.
    Ready,
    /// The thread came to its end, or to the wait for another container: the TCS is idle.
    Adopted {
        /// Which.
        tcs: u32,
        /// How the TCS was found.
        found: Found,
    },
    /// It could not be brought to an end. The TCS must not be leased again.
    Stuck {
        /// Which.
        tcs: u32,
        /// The runner's exit status for it.
        status: i32,
    },
}

/// How an orphaned TCS was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Idle: the process had not entered, or had left for good.
    Idle,
    /// Outside, in a call to the host.
    InCall,
    /// Inside: it was resumed from its SSA frame.
    Inside,
}

/// For the wire.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap_or_default()
}

/// From the wire.
pub fn decode<M: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<M> {
    postcard::from_bytes(bytes).ok()
}
