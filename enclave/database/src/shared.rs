//! What all connections share beside the databases: settings, counters, who listens to what, who waits for what, the state of snapshots.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use teemate_service::clock;

use crate::acl::Acl;
use crate::config::Config;
use crate::glob;
use crate::network::Wires;
use crate::persistence::disk::Storage;
use crate::persistence::guard::{Guard, Reach};
use crate::persistence::import::Import;
use crate::persistence::log::AppendLog;
use crate::persistence::saving::Saving;
use crate::replication::Replication;
use crate::session::{Session, Waiting};
use crate::settings::Keep;

/// Counters since the start, or since CONFIG RESETSTAT.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused.
    pub rejected: u64,
    /// Commands carried out.
    pub commands: u64,
    /// Keys found by reads.
    pub hits: u64,
    /// Keys not found by reads.
    pub misses: u64,
    /// Keys evicted.
    pub evicted: u64,
    /// Bytes received.
    pub input: u64,
    /// Bytes sent.
    pub output: u64,
    /// Error replies.
    pub errors: u64,
    /// Error replies by their first word.
    pub by_error: BTreeMap<String, u64>,
    /// Clients closed for their output.
    pub output_limit: u64,
    /// Most memory seen.
    pub peak: usize,
}

/// Calls of one command.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// How often.
    pub calls: u64,
    /// Microseconds altogether.
    pub us: u64,
    /// How often it was not begun.
    pub rejected: u64,
    /// How often it failed.
    pub failed: u64,
    /// How often it took up to 1, 2, 4, and so on microseconds.
    pub took: [u32; 32],
}

/// An entry of the slow log.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Number.
    pub id: u64,
    /// Seconds since 1970.
    pub time: i64,
    /// Microseconds.
    pub us: u64,
    /// The command, shortened.
    pub request: Vec<Box<[u8]>>,
    /// Who.
    pub address: String,
    /// And its name.
    pub name: String,
}

/// What another connection is to be sent, in its own version of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// A published message.
    Message {
        /// The pattern by which it listens, if by one.
        pattern: Option<Box<[u8]>>,
        /// Channel.
        channel: Box<[u8]>,
        /// Content.
        content: Box<[u8]>,
        /// Whether by SPUBLISH.
        shard: bool,
    },
    /// A line for MONITOR.
    Line(String),
    /// Keys that it may have kept have changed; `None`: all.
    Invalidate(Option<Vec<Box<[u8]>>>),
    /// The same of keys with a prefix for which it listens: those that one command changed come together.
    Broadcast {
        /// The prefix.
        prefix: Box<[u8]>,
        /// The keys.
        keys: Vec<Box<[u8]>>,
    },
    /// The client to which its tracking messages go is gone.
    RedirectBroken(u64),
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pause {
    /// Milliseconds since 1970; 0: none.
    pub until: i64,
    /// Everything, or writes only.
    pub all: bool,
}

/// A script or function that is being run.
#[derive(Debug)]
pub struct Running {
    /// Of a function its name, else the script's.
    pub name: String,
    /// How it was asked for.
    pub command: Vec<Box<[u8]>>,
    /// Whether it is a function.
    pub is_function: bool,
    /// Since when.
    pub began: Instant,
    /// It has been running for so long that others are told so, and when they were last listened to.
    pub slow: Option<Instant>,
    /// It has read something.
    pub read: bool,
    /// It has changed something: it can't be killed any more.
    pub wrote: bool,
    /// Somebody wants it to end.
    pub killed: bool,
    /// Slots that were answered before it, and for which that could not be kept.
    pub held: Vec<usize>,
}

/// What all connections share.
pub struct Shared {
    /// Scripts that were loaded, and who runs them.
    #[cfg(feature = "scripts")]
    pub(crate) scripts: crate::commands::scripting::Scripts,
    /// The script that is being run.
    pub running: Option<Running>,
    /// The network.
    pub wires: Wires,
    /// Settings.
    pub config: Config,
    /// Users.
    pub acl: Acl,
    /// Counters.
    pub counters: Counters,
    /// Calls by command.
    pub calls: HashMap<Cow<'static, str>, Calls>,
    /// All connections but the one whose command is being carried out.
    pub sessions: Vec<Option<Box<Session>>>,
    /// Where a session is.
    pub slots: HashMap<u64, usize>,
    /// Connections that wait for keys.
    pub waiters: HashMap<(usize, Box<[u8]>), VecDeque<u64>>,
    /// When waiting ends.
    pub deadlines: BTreeSet<(i64, u64)>,
    /// How many connections wait.
    pub blocked: usize,
    /// Sessions that are to be unblocked: with an error, or as if their time were over.
    pub unblock: Vec<(u64, bool)>,
    /// CLIENT PAUSE.
    pub pause: Pause,
    /// Milliseconds since 1970 at the start.
    pub started: i64,
    /// When the command being carried out began, and the last one ended.
    pub clock: Instant,
    /// Port, for INFO.
    pub port: u16,
    /// Forty hexadecimal digits that name this run.
    pub run_id: String,
    /// Where things are kept.
    pub storage: Storage,
    /// Snapshots.
    pub saving: Saving,
    /// The append-only log.
    pub log: AppendLog,
    /// Who follows, and what there is for them.
    pub replication: Replication,
    /// What an owner is sending to take the place of what there is.
    pub import: Option<Import>,
    /// A snapshot that was asked for while one was under way.
    pub save_again: bool,
    /// Who listens to a channel.
    channels: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// Who listens to a pattern.
    patterns: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// Who listens to a channel by SSUBSCRIBE.
    shards: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// Messages for connections.
    pub messages: Vec<(u64, Push)>,
    /// Who gets every command.
    pub monitors: Vec<u64>,
    /// Who may have kept a key.
    pub tracked: HashMap<Box<[u8]>, BTreeSet<u64>>,
    /// Who has tracking on.
    pub trackers: BTreeSet<u64>,
    /// Slow commands, the newest first.
    pub slow: VecDeque<Slow>,
    /// The next one's number.
    pub slow_id: u64,
    /// What took long, by event: seconds, milliseconds.
    pub latency: BTreeMap<&'static str, VecDeque<(i64, u64)>>,
    /// What keeps an old state from being taken for the newest.
    pub guard: Guard,
    /// The way to a witness, if there is one.
    pub reach: Option<Box<dyn Reach>>,
    /// Where settings and users are kept, if anywhere.
    pub settings: Option<Box<dyn Keep>>,
    /// Nothing is served as long as anybody could ask: the first thing must be a password.
    pub protected: bool,
    /// SHUTDOWN was asked for.
    pub shutdown: bool,
    /// DEBUG SET-ACTIVE-EXPIRE.
    pub active_expire: bool,
    /// DEBUG SET-DISABLE-DENY-SCRIPTS: scripts may call everything.
    pub scripts_may: bool,
    /// The command's effect, if it is another than its words say: what the log gets in its place.
    pub rewritten: Option<Vec<Vec<Box<[u8]>>>>,
    /// Deep in a script or transaction.
    pub depth: usize,
    random: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("port", &self.port).finish_non_exhaustive()
    }
}

/// Which table of listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

impl Shared {
    /// With these settings.
    pub fn new(config: Config, now: i64) -> Shared {
        let mut seed = [0; 28];
        clock::random(&mut seed);
        let run_id = seed[..20].iter().map(|byte| format!("{byte:02x}")).collect();
        let random = seed[20..].iter().fold(1, |sum: u64, byte| sum << 8 | u64::from(*byte)) | 1;
        let mut shared = Shared {
            #[cfg(feature = "scripts")]
            scripts: Default::default(),
            running: None,
            wires: Wires::default(),
            acl: Acl::default(),
            config,
            counters: Counters::default(),
            calls: HashMap::new(),
            sessions: Vec::new(),
            slots: HashMap::new(),
            waiters: HashMap::new(),
            deadlines: BTreeSet::new(),
            blocked: 0,
            unblock: Vec::new(),
            pause: Pause::default(),
            started: now,
            clock: Instant::now(),
            port: 0,
            run_id,
            storage: Storage::default(),
            saving: Saving::default(),
            log: AppendLog::default(),
            replication: Replication::default(),
            import: None,
            save_again: false,
            channels: BTreeMap::new(),
            patterns: BTreeMap::new(),
            shards: BTreeMap::new(),
            messages: Vec::new(),
            monitors: Vec::new(),
            tracked: HashMap::new(),
            trackers: BTreeSet::new(),
            slow: VecDeque::new(),
            slow_id: 0,
            latency: BTreeMap::new(),
            guard: Guard::default(),
            reach: None,
            settings: None,
            protected: false,
            shutdown: false,
            active_expire: true,
            scripts_may: false,
            rewritten: None,
            depth: 0,
            random,
        };
        shared.saving.last = now / 1000;
        let password = shared.config.get("requirepass").to_owned();
        shared.acl.set_default_password(&password);
        shared
    }

    /// Who was let in as anybody, while anybody was, must say who he is once there is a password; but not the one who set it.
    pub fn forget_anybody(&mut self, but: &mut Session) {
        if self.protected && self.acl.initial().is_none() {
            let anybody = |session: &&mut Box<Session>| session.unasked && session.id != but.id;
            self.sessions.iter_mut().flatten().filter(anybody).for_each(|session| session.killed = true);
            but.unasked = false;
        }
    }

    /// Whether effects are to be noted, for the log or for replicas.
    pub fn takes_effects(&self) -> bool {
        self.log.takes() || self.replication.takes()
    }

    /// Notes what a command did: it is a command itself, that does the same whenever it is carried out.
    pub fn note_effect(&mut self, database: usize, command: &[&[u8]]) {
        if self.log.takes() {
            self.log.note(database, command);
        }
        if self.replication.takes() {
            self.replication.note(database, command);
        }
    }

    /// Notes keys that went by themselves.
    pub fn drop_keys(&mut self, keys: &mut Vec<(usize, Box<[u8]>)>) {
        self.log.drop_keys(keys);
        if self.replication.takes() {
            keys.iter().for_each(|(database, key)| self.replication.stream.note_dropped(*database, key));
        }
        keys.clear();
    }

    /// What was noted since this was said last is to be there whole, or not at all.
    pub fn end_unit(&mut self) {
        self.log.end_unit();
        self.replication.end_unit();
    }

    /// Ends the connections of those who follow: they come back, and begin as there is to begin.
    pub fn cut_off_replicas(&mut self) {
        self.sessions.iter_mut().flatten().filter(|session| session.follows).for_each(|session| session.killed = true);
    }

    /// The calls of a command.
    pub fn calls_of(&mut self, name: &'static str) -> &mut Calls {
        self.calls.entry(Cow::Borrowed(name)).or_default()
    }

    /// Libraries of functions, as FUNCTION LOAD takes them.
    pub fn libraries(&self) -> Vec<Vec<u8>> {
        #[cfg(feature = "scripts")]
        return self.scripts.libraries();
        #[cfg(not(feature = "scripts"))]
        Vec::new()
    }

    /// Takes libraries, in place of those that there are: of all, or, if `merge`, of those with the same names.
    ///
    /// # Errors
    /// That one of them is none.
    pub fn set_libraries(&mut self, libraries: &[Vec<u8>], merge: bool) -> Result<(), String> {
        #[cfg(feature = "scripts")]
        return self.scripts.set_libraries(libraries, merge).map_err(|error| error.to_string());
        #[cfg(not(feature = "scripts"))]
        match (libraries, merge) {
            ([], _) => Ok(()),
            _ => Err("this program was built without functions".to_owned()),
        }
    }

    /// Bytes that Lua uses; bytes of scripts; scripts; libraries; functions.
    pub fn script_figures(&mut self) -> [usize; 5] {
        #[cfg(feature = "scripts")]
        return self.scripts.figures();
        #[cfg(not(feature = "scripts"))]
        [0; 5]
    }

    /// A seed.
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random | 1
    }

    fn table(&mut self, which: Listening) -> &mut BTreeMap<Box<[u8]>, BTreeSet<u64>> {
        match which {
            Listening::Channel => &mut self.channels,
            Listening::Pattern => &mut self.patterns,
            Listening::Shard => &mut self.shards,
        }
    }

    /// A session listens from now on.
    pub fn subscribe(&mut self, session: u64, name: &[u8], which: Listening) {
        self.table(which).entry(name.into()).or_default().insert(session);
    }

    /// It does not any more.
    pub fn unsubscribe(&mut self, session: u64, name: &[u8], which: Listening) {
        let table = self.table(which);
        if let Some(sessions) = table.get_mut(name) {
            sessions.remove(&session);
            if sessions.is_empty() {
                table.remove(name);
            }
        }
    }

    /// Publishes a message. To how many.
    pub fn publish(&mut self, channel: &[u8], content: &[u8]) -> usize {
        if self.channels.is_empty() && self.patterns.is_empty() {
            return 0;
        }
        let before = self.messages.len();
        let message = |pattern: Option<&[u8]>| Push::Message {
            pattern: pattern.map(Into::into),
            channel: channel.into(),
            content: content.into(),
            shard: false,
        };
        let direct = self.channels.get(channel).into_iter().flatten().map(|session| (*session, message(None)));
        let matching = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        let by_pattern = matching.flat_map(|(pattern, sessions)| sessions.iter().map(|session| (*session, message(Some(pattern)))));
        self.messages.extend(direct.chain(by_pattern));
        self.messages.len() - before
    }

    /// Publishes a message to those who listen by SSUBSCRIBE. To how many.
    pub fn publish_shard(&mut self, channel: &[u8], content: &[u8]) -> usize {
        let before = self.messages.len();
        let message = || Push::Message { pattern: None, channel: channel.into(), content: content.into(), shard: true };
        self.messages.extend(self.shards.get(channel).into_iter().flatten().map(|session| (*session, message())));
        self.messages.len() - before
    }

    /// Channels that somebody listens to, and how many do.
    pub fn channels(&self, which: Listening) -> &BTreeMap<Box<[u8]>, BTreeSet<u64>> {
        match which {
            Listening::Channel => &self.channels,
            Listening::Pattern => &self.patterns,
            Listening::Shard => &self.shards,
        }
    }

    /// A session begins to wait.
    pub fn wait(&mut self, session: u64, waiting: &Waiting) {
        for key in &waiting.keys {
            let queue = self.waiters.entry(key.clone()).or_default();
            if !queue.contains(&session) {
                queue.push_back(session);
            }
        }
        if let Some(until) = waiting.until {
            self.deadlines.insert((until, session));
        }
        self.blocked += 1;
    }

    /// A session waits no longer. Keys that nobody waits for any more.
    pub fn stop_waiting(&mut self, session: u64, waiting: &Waiting) {
        for key in &waiting.keys {
            if let Some(queue) = self.waiters.get_mut(key) {
                queue.retain(|waiter| *waiter != session);
                if queue.is_empty() {
                    self.waiters.remove(key);
                }
            }
        }
        if let Some(until) = waiting.until {
            self.deadlines.remove(&(until, session));
        }
        self.blocked = self.blocked.saturating_sub(1);
    }

    /// Notes something that took long.
    pub fn note_latency(&mut self, event: &'static str, seconds: i64, ms: u64) {
        let limit: u64 = self.config.get("latency-monitor-threshold").parse().unwrap_or(0);
        if limit == 0 || ms < limit {
            return;
        }
        let events = self.latency.entry(event).or_default();
        match events.back_mut() {
            Some((second, most)) if *second == seconds => *most = (*most).max(ms),
            _ => events.push_back((seconds, ms)),
        }
        if events.len() > 160 {
            events.pop_front();
        }
    }
}
