//! What the server knows of a connection.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// A request that is kept: of a transaction until EXEC, or of who waits.
pub type Queued = Vec<Box<[u8]>>;

/// One connection's state.
#[derive(Clone, Debug)]
pub struct Session {
    /// Never used twice.
    pub id: u64,
    /// Where it is in the table of sessions.
    pub slot: usize,
    /// The database that it has selected.
    pub database: usize,
    /// 2 or 3: the version of the protocol.
    pub version: u8,
    /// The user that it has authenticated as; `None`: it may only authenticate.
    pub user: Option<String>,
    /// Nobody asked who it is: it is the user that everybody is.
    pub unasked: bool,
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO: the library's name and version.
    pub library: (String, String),
    /// The other end.
    pub address: String,
    /// This end.
    pub local: String,
    /// Requests between MULTI and EXEC.
    pub queue: Option<Vec<Queued>>,
    /// Whether one of them was refused.
    pub refused: bool,
    /// Whether EXEC or a script is running its commands: then nothing waits.
    pub executing: bool,
    /// Whether it is a script that asks, for the connection that called it.
    pub script: bool,
    /// WATCH: database, key, and the version that it had.
    pub watched: Vec<(usize, Box<[u8]>, u64)>,
    /// SUBSCRIBE.
    pub channels: BTreeSet<Box<[u8]>>,
    /// PSUBSCRIBE.
    pub patterns: BTreeSet<Box<[u8]>>,
    /// SSUBSCRIBE.
    pub shards: BTreeSet<Box<[u8]>>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Whether what it waits for is tried again just now.
    pub retrying: bool,
    /// Close when everything is sent.
    pub closing: bool,
    /// Close at once.
    pub killed: bool,
    /// MONITOR.
    pub monitor: bool,
    /// CLIENT REPLY.
    pub replies: Replies,
    /// CLIENT TRACKING.
    pub tracking: Option<Tracking>,
    /// CLIENT NO-EVICT.
    pub no_evict: bool,
    /// REPLCONF.
    pub announced: Announced,
    /// Whether it is a replica's: it gets a snapshot, or follows the stream.
    pub follows: bool,
    /// Milliseconds since 1970 when it was opened.
    pub opened: i64,
    /// And when it last asked for something.
    pub used: i64,
    /// Requests so far.
    pub requests: u64,
    /// The last command's name.
    pub last: Cow<'static, str>,
    /// Bytes that wait to be read, and to be sent: as of the last turn.
    pub buffers: (usize, usize),
    /// Since when (ms) its output is beyond the soft limit.
    pub soft_limit_since: Option<i64>,
}

/// What a replica says of itself before it begins.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// Its port.
    pub port: u16,
    /// Where it can be reached; empty: where it comes from.
    pub ip: String,
    /// It wants the snapshot alone.
    pub only_snapshot: bool,
}

/// What is done with replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    /// They are sent.
    #[default]
    On,
    /// They are not.
    Off,
    /// The next one is not.
    SkipNext,
    /// This one is not.
    Skip,
}

/// CLIENT TRACKING.
#[derive(Clone, Debug, Default)]
pub struct Tracking {
    /// Who gets the messages; 0: the client itself.
    pub redirect: u64,
    /// Every key that begins so.
    pub broadcast: bool,
    /// Prefixes of a broadcast.
    pub prefixes: Vec<Box<[u8]>>,
    /// Only what CLIENT CACHING YES precedes.
    pub opt_in: bool,
    /// Not what CLIENT CACHING NO precedes.
    pub opt_out: bool,
    /// Not what it changes itself.
    pub no_loop: bool,
    /// CLIENT CACHING, for the next command.
    pub caching: Option<bool>,
    /// Who gets the messages is gone.
    pub broken: bool,
}

/// A command that waits for a key.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The command, to be tried again.
    pub request: Queued,
    /// Keys, any of which may end the waiting.
    pub keys: Vec<(usize, Box<[u8]>)>,
    /// Milliseconds since 1970 at which it ends by itself. `None`: never.
    pub until: Option<i64>,
    /// What it is told then.
    pub otherwise: Otherwise,
    /// Whether it may be tried again at any time, not for its keys' sake only (CLIENT PAUSE).
    pub paused: bool,
}

/// The reply of a command that waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// No list.
    NullArray,
    /// No bytes.
    Null,
    /// A number.
    Integer(i64),
}

impl Session {
    /// A new connection's.
    pub fn new(id: u64, slot: usize, now: i64) -> Session {
        Session {
            id,
            slot,
            database: 0,
            version: 2,
            user: None,
            unasked: false,
            name: String::new(),
            library: (String::new(), String::new()),
            address: String::new(),
            local: String::new(),
            queue: None,
            refused: false,
            executing: false,
            script: false,
            watched: Vec::new(),
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            shards: BTreeSet::new(),
            waiting: None,
            retrying: false,
            closing: false,
            killed: false,
            monitor: false,
            replies: Replies::On,
            tracking: None,
            no_evict: false,
            announced: Announced::default(),
            follows: false,
            opened: now,
            used: now,
            requests: 0,
            last: Cow::Borrowed("NULL"),
            buffers: (0, 0),
            soft_limit_since: None,
        }
    }

    /// How many channels and patterns it listens to.
    pub fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Whether it listens to anything.
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions() + self.shards.len() > 0
    }

    /// How INFO and output limits class it.
    pub fn class(&self) -> &'static str {
        match self.is_subscriber() {
            _ if self.follows => "replica",
            true => "pubsub",
            false => "normal",
        }
    }
}
