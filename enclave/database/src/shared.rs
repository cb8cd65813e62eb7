//! What all connections share beside the databases: settings, counters, who listens to what, the state of snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::glob;
use crate::saving::Saving;
use crate::value::Limits;

/// Settings, as CONFIG shows and changes them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Password of the user `default`; empty: none.
    pub password: String,
    /// Directory of snapshots.
    pub directory: PathBuf,
    /// File name of the snapshot.
    pub file: String,
    /// Seconds and changes after which a snapshot is made by itself.
    pub save: Vec<(u64, u64)>,
    /// Bytes that writes may hand over to a snapshot before it takes them.
    pub snapshot_buffer: usize,
    /// Up to which size values are small.
    pub limits: Limits,
    /// Settings of Redis's lists that are kept for who asks: the nodes of lists have one size here, and are not compressed.
    pub without_effect: [(&'static str, String); 2],
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            password: String::new(),
            directory: PathBuf::from("."),
            file: "dump.rdb".to_owned(),
            save: Vec::new(),
            snapshot_buffer: 64 << 20,
            limits: Limits::default(),
            without_effect: [("list-max-listpack-size", "-2".to_owned()), ("list-compress-depth", "0".to_owned())],
        }
    }
}

/// Counters since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Commands carried out.
    pub commands: u64,
    /// Keys found, and not found, by reads.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// Settings.
    pub settings: Settings,
    /// Counters.
    pub counters: Counters,
    /// Connections now.
    pub clients: usize,
    /// Connections that wait for a key, the longest first.
    pub waiting: Vec<u64>,
    /// Of these: who shall wait no longer, and whether with an error.
    pub unblock: Vec<(u64, bool)>,
    /// Milliseconds since 1970 at the start.
    pub started: i64,
    /// Port, for INFO.
    pub port: u16,
    /// Snapshots.
    pub saving: Saving,
    /// Who listens to a channel.
    channels: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// Who listens to a pattern.
    patterns: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// Messages for other connections: who, from which pattern, on which channel, what.
    pub messages: Vec<Message>,
    /// Scripts that were loaded, and who runs them.
    #[cfg(feature = "scripts")]
    pub(crate) scripts: crate::commands::scripting::Scripts,
    /// SHUTDOWN was asked for.
    pub shutdown: bool,
    random: u64,
}

/// A published message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The session that gets it.
    pub session: u64,
    /// The pattern by which it listens, if by one.
    pub pattern: Option<Box<[u8]>>,
    /// Channel.
    pub channel: Box<[u8]>,
    /// Content.
    pub content: Box<[u8]>,
}

impl Shared {
    /// With these settings.
    pub fn new(settings: Settings, now: i64) -> Shared {
        Shared {
            settings,
            counters: Counters::default(),
            clients: 0,
            waiting: Vec::new(),
            unblock: Vec::new(),
            started: now,
            port: 0,
            saving: Saving::default(),
            channels: BTreeMap::new(),
            patterns: BTreeMap::new(),
            messages: Vec::new(),
            #[cfg(feature = "scripts")]
            scripts: Default::default(),
            shutdown: false,
            random: crate::structures::hash(b"seed") | 1,
        }
    }

    /// A seed.
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random | 1
    }

    fn table(&mut self, pattern: bool) -> &mut BTreeMap<Box<[u8]>, BTreeSet<u64>> {
        if pattern { &mut self.patterns } else { &mut self.channels }
    }

    /// A session listens from now on.
    pub fn subscribe(&mut self, session: u64, name: &[u8], pattern: bool) {
        self.table(pattern).entry(name.into()).or_default().insert(session);
    }

    /// It does not any more.
    pub fn unsubscribe(&mut self, session: u64, name: &[u8], pattern: bool) {
        let table = self.table(pattern);
        if let Some(sessions) = table.get_mut(name) {
            sessions.remove(&session);
            if sessions.is_empty() {
                table.remove(name);
            }
        }
    }

    /// Publishes a message. To how many.
    pub fn publish(&mut self, channel: &[u8], content: &[u8]) -> usize {
        let before = self.messages.len();
        let message = |session: u64, pattern: Option<&[u8]>| Message {
            session,
            pattern: pattern.map(Into::into),
            channel: channel.into(),
            content: content.into(),
        };
        let direct = self.channels.get(channel).into_iter().flatten().map(|session| message(*session, None));
        let matching = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        let by_pattern = matching.flat_map(|(pattern, sessions)| sessions.iter().map(|session| message(*session, Some(pattern))));
        let all: Vec<_> = direct.chain(by_pattern).collect();
        self.messages.extend(all);
        self.messages.len() - before
    }

    /// Channels that somebody listens to, and how many do.
    pub fn channels(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.channels.iter().map(|(name, sessions)| (&**name, sessions.len()))
    }

    /// Patterns that somebody listens to.
    pub fn patterns(&self) -> usize {
        self.patterns.len()
    }
}
