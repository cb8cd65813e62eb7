//! What the server knows of a connection.

use std::collections::BTreeSet;

/// A request of a transaction, kept until EXEC.
pub type Queued = Vec<Box<[u8]>>;

/// One connection's state.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Never used twice.
    pub id: u64,
    /// The database that it has selected.
    pub database: usize,
    /// 2 or 3: the version of the protocol.
    pub version: u8,
    /// Whether it may do more than authenticate.
    pub authenticated: bool,
    /// CLIENT SETNAME.
    pub name: String,
    /// The other end.
    pub address: String,
    /// Requests between MULTI and EXEC.
    pub queue: Option<Vec<Queued>>,
    /// Whether one of them was refused.
    pub refused: bool,
    /// Whether EXEC is running them: then nothing waits.
    pub executing: bool,
    /// WATCH: database, key, and the version that it had.
    pub watched: Vec<(usize, Box<[u8]>, u64)>,
    /// SUBSCRIBE.
    pub channels: BTreeSet<Box<[u8]>>,
    /// PSUBSCRIBE.
    pub patterns: BTreeSet<Box<[u8]>>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Close when everything is sent.
    pub closing: bool,
    /// Milliseconds since 1970 when it was opened.
    pub opened: i64,
    /// Requests so far.
    pub requests: u64,
}

/// A command that waits for a key.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The command, to be tried again.
    pub request: Queued,
    /// Keys, any of which may end the waiting.
    pub keys: Vec<(usize, Box<[u8]>)>,
    /// What one of them must hold, as TYPE names it.
    pub kind: &'static str,
    /// Milliseconds since 1970 at which it ends by itself. `None`: never.
    pub until: Option<i64>,
}

impl Session {
    /// How many channels and patterns it listens to.
    pub fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}
