//! Settings: those of Redis that clients ask for, with Redis's names, and a few of this server.

use std::collections::BTreeMap;

use crate::commands::event;
use crate::glob;
use crate::persistence::log::Policy;
use crate::value::Limits;

/// What a setting can be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Yes,
    Number(i64, i64),
    Memory,
    Choice(&'static [&'static str]),
    Text,
    Save,
    Events,
    OutputLimits,
    Percent,
}

/// Name, what it is when nobody says, what it can be, whether it is fixed at the start.
type Setting = (&'static str, &'static str, Kind, bool);

const POLICIES: &[&str] =
    &["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction"];

const MANY: i64 = i64::MAX;

const SETTINGS: &[Setting] = &[
    ("acl-pubsub-default", "resetchannels", Kind::Choice(&["allchannels", "resetchannels"]), false),
    ("acllog-max-len", "128", Kind::Number(0, MANY), false),
    ("active-expire-effort", "1", Kind::Number(1, 10), false),
    ("activedefrag", "no", Kind::Yes, false),
    ("activerehashing", "yes", Kind::Yes, false),
    ("aof-load-truncated", "yes", Kind::Yes, false),
    ("aof-use-rdb-preamble", "yes", Kind::Yes, false),
    ("appendfilename", "appendonly.aof", Kind::Text, true),
    ("appenddirname", "appendonlydir", Kind::Text, true),
    ("appendfsync", "everysec", Kind::Choice(&["always", "everysec", "no"]), false),
    ("appendonly", "no", Kind::Yes, false),
    ("auto-aof-rewrite-min-size", "67108864", Kind::Memory, false),
    ("auto-aof-rewrite-percentage", "100", Kind::Number(0, MANY), false),
    ("bind", "127.0.0.1", Kind::Text, false),
    ("busy-reply-threshold", "5000", Kind::Number(0, MANY), false),
    ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", Kind::OutputLimits, false),
    ("client-query-buffer-limit", "1073741824", Kind::Memory, false),
    ("close-on-oom", "no", Kind::Yes, false),
    ("cluster-enabled", "no", Kind::Yes, true),
    ("daemonize", "no", Kind::Yes, true),
    ("databases", "16", Kind::Number(1, 1 << 14), true),
    ("dbfilename", "dump.rdb", Kind::Text, false),
    ("dir", ".", Kind::Text, false),
    ("dynamic-hz", "yes", Kind::Yes, false),
    ("enable-debug-command", "yes", Kind::Choice(&["yes", "no", "local"]), true),
    ("hash-max-listpack-entries", "128", Kind::Number(0, MANY), false),
    ("hash-max-listpack-value", "64", Kind::Number(0, MANY), false),
    ("hash-max-ziplist-entries", "128", Kind::Number(0, MANY), false),
    ("hash-max-ziplist-value", "64", Kind::Number(0, MANY), false),
    ("hll-sparse-max-bytes", "3000", Kind::Memory, false),
    ("hz", "10", Kind::Number(0, 500), false),
    ("io-threads", "1", Kind::Number(1, 128), true),
    ("latency-monitor-threshold", "0", Kind::Number(0, MANY), false),
    ("latency-tracking", "yes", Kind::Yes, false),
    ("lazyfree-lazy-eviction", "no", Kind::Yes, false),
    ("lazyfree-lazy-expire", "no", Kind::Yes, false),
    ("lazyfree-lazy-server-del", "no", Kind::Yes, false),
    ("lazyfree-lazy-user-del", "no", Kind::Yes, false),
    ("lazyfree-lazy-user-flush", "no", Kind::Yes, false),
    ("lfu-decay-time", "1", Kind::Number(0, MANY), false),
    ("lfu-log-factor", "10", Kind::Number(0, MANY), false),
    ("list-compress-depth", "0", Kind::Number(0, MANY), false),
    ("list-max-listpack-size", "-2", Kind::Number(-5, MANY), false),
    ("list-max-ziplist-size", "-2", Kind::Number(-5, MANY), false),
    ("loglevel", "notice", Kind::Choice(&["debug", "verbose", "notice", "warning"]), false),
    ("busy-reply-threshold", "5000", Kind::Number(0, MANY), false),
    ("lua-time-limit", "5000", Kind::Number(0, MANY), false),
    ("masterauth", "", Kind::Text, false),
    ("masteruser", "", Kind::Text, false),
    ("maxclients", "10000", Kind::Number(1, 1 << 20), false),
    ("maxmemory", "0", Kind::Memory, false),
    ("maxmemory-clients", "0", Kind::Percent, false),
    ("maxmemory-policy", "noeviction", Kind::Choice(POLICIES), false),
    ("maxmemory-samples", "5", Kind::Number(1, 64), false),
    ("min-replicas-to-write", "0", Kind::Number(0, MANY), false),
    ("notify-keyspace-events", "", Kind::Events, false),
    ("oom-score-adj", "no", Kind::Text, false),
    ("port", "6379", Kind::Number(0, 65535), true),
    ("proto-max-bulk-len", "536870912", Kind::Memory, false),
    ("rdbchecksum", "yes", Kind::Yes, true),
    ("rdbcompression", "yes", Kind::Yes, false),
    ("repl-backlog-size", "1048576", Kind::Memory, false),
    ("repl-backlog-ttl", "3600", Kind::Number(0, MANY), false),
    ("repl-diskless-sync", "yes", Kind::Yes, false),
    ("repl-ping-replica-period", "10", Kind::Number(1, MANY), false),
    ("repl-timeout", "60", Kind::Number(1, MANY), false),
    ("replica-announce-ip", "", Kind::Text, false),
    ("replica-announce-port", "0", Kind::Number(0, 65535), false),
    ("replica-collateral", "", Kind::Text, false),
    ("replica-policy", "", Kind::Text, false),
    ("replica-priority", "100", Kind::Number(0, MANY), false),
    ("replica-read-only", "yes", Kind::Yes, false),
    ("replica-serve-stale-data", "yes", Kind::Yes, false),
    ("replicaof", "", Kind::Text, true),
    ("requirepass", "", Kind::Text, false),
    ("sanitize-dump-payload", "no", Kind::Choice(&["no", "yes", "clients"]), false),
    ("save", "3600 1 300 100 60 10000", Kind::Save, false),
    ("set-max-intset-entries", "512", Kind::Number(0, MANY), false),
    ("slaveof", "", Kind::Text, true),
    ("slowlog-log-slower-than", "10000", Kind::Number(-1, MANY), false),
    ("slowlog-max-len", "128", Kind::Number(0, MANY), false),
    ("snapshot-buffer", "67108864", Kind::Memory, false),
    ("stop-writes-on-bgsave-error", "yes", Kind::Yes, false),
    ("stream-node-max-bytes", "4096", Kind::Memory, false),
    ("stream-node-max-entries", "100", Kind::Number(0, MANY), false),
    ("tcp-backlog", "511", Kind::Number(0, MANY), true),
    ("tcp-keepalive", "300", Kind::Number(0, MANY), false),
    ("timeout", "0", Kind::Number(0, MANY), false),
    ("tracking-table-max-keys", "1000000", Kind::Number(0, MANY), false),
    ("witness", "", Kind::Text, false),
    ("witness-away", "refuse", Kind::Choice(&["refuse", "continue"]), false),
    ("witness-ca", "", Kind::Text, false),
    ("witness-sync", "everysec", Kind::Choice(&["always", "everysec"]), false),
    ("zset-max-listpack-entries", "128", Kind::Number(0, MANY), false),
    ("zset-max-listpack-value", "64", Kind::Number(0, MANY), false),
    ("zset-max-ziplist-entries", "128", Kind::Number(0, MANY), false),
    ("zset-max-ziplist-value", "64", Kind::Number(0, MANY), false),
];

/// Settings that are looked at for each command, as what they are.
#[derive(Clone, Debug, Default)]
pub struct Hot {
    /// Bits of [`event`].
    pub events: u32,
    /// Bytes; 0: no limit.
    pub max_memory: usize,
    /// Replicas without which nothing may be written.
    pub replicas: usize,
    /// Microseconds; negative: none is slow.
    pub slower_than: i64,
    /// Milliseconds; 0: nothing is.
    pub latency: i64,
    /// Seconds and changes after which a snapshot is made.
    pub save: Vec<(u64, u64)>,
    /// Longest argument.
    pub max_bulk: usize,
    /// Bytes of unread requests.
    pub query_limit: usize,
    /// Hard limit, soft limit, and seconds of it, for normal clients, for those that listen, and for replicas.
    pub output_limits: [(usize, usize, i64); 3],
    /// LFU: how unlikely a count becomes, and minutes of decay.
    pub lfu: (u32, u32),
    /// Whether access counts how often instead of when.
    pub counts: bool,
    /// Up to which size values are small.
    pub limits: Limits,
    /// When the log is put on disk.
    pub sync: Policy,
    /// Whether the witness is told before anybody is answered, and not once a second.
    pub witness_always: bool,
    /// Whether writes are refused while it can't be told.
    pub witness_refuses: bool,
}

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    values: BTreeMap<&'static str, String>,
    /// Those that are needed fast.
    pub hot: Hot,
}

impl Default for Config {
    fn default() -> Self {
        let mut config =
            Config { values: SETTINGS.iter().map(|(name, value, ..)| (*name, (*value).to_owned())).collect(), hot: Hot::default() };
        config.refresh();
        config
    }
}

/// Bytes: `1kb`, `5mb`, `2gb`, `100`.
pub fn memory(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

const EVENTS: &[(char, u32)] = &[
    ('g', event::GENERIC),
    ('$', event::STRING),
    ('l', event::LIST),
    ('s', event::SET),
    ('h', event::HASH),
    ('z', event::SORTED_SET),
    ('x', event::EXPIRED),
    ('e', event::EVICTED),
    ('t', event::STREAM),
    ('d', event::MODULE),
    ('K', event::KEYSPACE),
    ('E', event::KEYEVENT),
    ('m', event::MISS),
    ('n', event::NEW),
];

fn events(text: &str) -> Option<u32> {
    text.chars().try_fold(0, |all, letter| {
        let bits = if letter == 'A' { Some(event::ALL) } else { EVENTS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| *bit) };
        bits.map(|bits| all | bits)
    })
}

fn show_events(bits: u32) -> String {
    let all = bits & event::ALL == event::ALL;
    let letters = EVENTS.iter().filter(|(_, bit)| bits & bit != 0 && !(all && event::ALL & bit != 0)).map(|(letter, _)| *letter);
    all.then_some('A').into_iter().chain(letters).collect()
}

fn pairs(text: &str) -> Option<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    if !numbers.len().is_multiple_of(2) || numbers.chunks(2).any(|pair| pair[0] < 1) {
        return None;
    }
    Some(numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The other name of a setting that has two.
fn twin(name: &str) -> Option<String> {
    match name {
        "lua-time-limit" => return Some("busy-reply-threshold".to_owned()),
        "busy-reply-threshold" => return Some("lua-time-limit".to_owned()),
        _ => {}
    }
    if name.contains("listpack") {
        Some(name.replace("listpack", "ziplist"))
    } else {
        name.contains("ziplist").then(|| name.replace("ziplist", "listpack"))
    }
}

impl Config {
    /// The value of a setting, as CONFIG GET shows it; empty if there is none.
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// One that is a number; 0 if it is none.
    pub fn number(&self, name: &str) -> i64 {
        self.get(name).parse().unwrap_or(0)
    }

    /// Whether one is `yes`.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name) == "yes"
    }

    /// Settings whose names match a pattern.
    pub fn matching<'a>(&'a self, pattern: &'a [u8]) -> impl Iterator<Item = (&'static str, &'a str)> {
        let pattern = pattern.to_ascii_lowercase();
        self.values.iter().filter(move |(name, _)| glob::matches(&pattern, name.as_bytes())).map(|(name, value)| (*name, value.as_str()))
    }

    /// Whether there is such a setting.
    pub fn knows(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Sets one before the server starts: those too that are fixed from then on.
    ///
    /// # Errors
    /// Why not, in Redis's words.
    pub fn set_at_start(&mut self, name: &str, value: &str) -> Result<(), String> {
        let value = self.check(name, value, true)?;
        self.put(name, value);
        Ok(())
    }

    /// Sets one.
    ///
    /// # Errors
    /// Why not, in Redis's words.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let value = self.check(name, value, false)?;
        self.put(name, value);
        Ok(())
    }

    fn put(&mut self, name: &str, value: String) {
        if let Some(twin) = twin(name)
            && let Some(other) = self.values.get_mut(twin.as_str())
        {
            other.clone_from(&value);
        }
        if let Some(old) = self.values.get_mut(name) {
            *old = value;
        }
        self.refresh();
    }

    /// The value in its one spelling, if it can be set.
    fn check(&self, name: &str, value: &str, at_start: bool) -> Result<String, String> {
        let Some((_, _, kind, fixed)) = SETTINGS.iter().find(|(known, ..)| *known == name) else {
            return Err("Unknown option or number of arguments for CONFIG SET".to_owned());
        };
        if *fixed && !at_start {
            return Err("can't set immutable config".to_owned());
        }
        let lower = value.to_ascii_lowercase();
        match kind {
            Kind::Yes if lower == "yes" || lower == "no" => Ok(lower),
            Kind::Yes => Err("argument must be 'yes' or 'no'".to_owned()),
            Kind::Number(least, most) => match value.parse::<i64>() {
                Ok(number) if (*least..=*most).contains(&number) => Ok(number.to_string()),
                Ok(_) => Err(format!("argument must be between {least} and {most} inclusive")),
                Err(_) => Err("argument couldn't be parsed into an integer".to_owned()),
            },
            Kind::Memory => memory(value).map(|bytes| bytes.to_string()).ok_or_else(|| "argument must be a memory value".to_owned()),
            Kind::Percent => {
                let percent = value.strip_suffix('%').and_then(|number| number.parse::<u64>().ok());
                if percent.is_some_and(|percent| percent > 100) {
                    return Err("percentage argument must be less or equal to 100".to_owned());
                }
                let percent = percent.map(|number| format!("{number}%"));
                let bytes = memory(value).map(|bytes| bytes.to_string());
                percent.or(bytes).ok_or_else(|| "argument must be a memory or percent value".to_owned())
            }
            Kind::Choice(known) if known.contains(&lower.as_str()) => Ok(lower),
            Kind::Choice(known) => Err(format!("argument(s) must be one of the following: {}", known.join(", "))),
            Kind::Text => Ok(value.to_owned()),
            Kind::Save => {
                let pairs = pairs(value).ok_or_else(|| "Invalid save parameters".to_owned())?;
                Ok(pairs.iter().map(|(seconds, changes)| format!("{seconds} {changes}")).collect::<Vec<_>>().join(" "))
            }
            Kind::Events => {
                events(value).map(show_events).ok_or_else(|| "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned())
            }
            Kind::OutputLimits => self.output_limits(value),
        }
    }

    /// What is given replaces what there is of the same class.
    fn output_limits(&self, value: &str) -> Result<String, String> {
        let words: Vec<&str> = value.split_whitespace().collect();
        if words.is_empty() || !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
        }
        let now: Vec<String> = self.get("client-output-buffer-limit").split_whitespace().map(str::to_owned).collect();
        let mut classes: Vec<Vec<String>> = now.chunks(4).map(<[String]>::to_vec).collect();
        for given in words.chunks(4) {
            let name = if given[0].eq_ignore_ascii_case("replica") { "slave".to_owned() } else { given[0].to_ascii_lowercase() };
            let class = classes.iter_mut().find(|class| class[0] == name);
            let class = class.ok_or_else(|| "Invalid client class specified in buffer limit configuration.".to_owned())?;
            let numbers = (memory(given[1]), memory(given[2]), given[3].parse::<u32>());
            let (Some(hard), Some(soft), Ok(seconds)) = numbers else {
                return Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.".to_owned());
            };
            *class = vec![name, hard.to_string(), soft.to_string(), seconds.to_string()];
        }
        Ok(classes.concat().join(" "))
    }

    fn refresh(&mut self) {
        let size = |name: &str| usize::try_from(self.number(name)).unwrap_or(0);
        let limits = |class: &str| {
            let words: Vec<&str> = self.get("client-output-buffer-limit").split_whitespace().collect();
            let found = words.chunks(4).find(|words| words[0] == class).map(<[&str]>::to_vec).unwrap_or_default();
            let number = |at: usize| found.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
            (number(1), number(2), number(3) as i64)
        };
        self.hot = Hot {
            events: events(self.get("notify-keyspace-events")).unwrap_or(0),
            max_memory: size("maxmemory"),
            replicas: size("min-replicas-to-write"),
            slower_than: self.number("slowlog-log-slower-than"),
            latency: self.number("latency-monitor-threshold"),
            save: pairs(self.get("save")).unwrap_or_default(),
            max_bulk: size("proto-max-bulk-len"),
            query_limit: size("client-query-buffer-limit"),
            output_limits: [limits("normal"), limits("pubsub"), limits("slave")],
            lfu: (size("lfu-log-factor") as u32, size("lfu-decay-time") as u32),
            counts: self.get("maxmemory-policy").ends_with("lfu"),
            limits: Limits {
                hash: (size("hash-max-listpack-entries"), size("hash-max-listpack-value")),
                sorted_set: (size("zset-max-listpack-entries"), size("zset-max-listpack-value")),
                set: size("set-max-intset-entries"),
            },
            sync: match self.get("appendfsync") {
                "always" => Policy::Always,
                "no" => Policy::No,
                _ => Policy::Everysec,
            },
            witness_always: self.get("witness-sync") == "always",
            witness_refuses: self.get("witness-away") == "refuse",
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_one_spelling() {
        let mut config = Config::default();
        for (name, given, shown) in [
            ("maxmemory", "1kb", "1024"),
            ("notify-keyspace-events", "KEx$", "$xKE"),
            ("notify-keyspace-events", "KEA", "AKE"),
            ("save", "10 1 20  2", "10 1 20 2"),
            ("appendonly", "YES", "yes"),
            ("client-output-buffer-limit", "pubsub 10 5 1", "normal 0 0 0 slave 268435456 67108864 60 pubsub 10 5 1"),
        ] {
            assert_eq!(config.set(name, given), Ok(()), "{name} {given}");
            assert_eq!(config.get(name), shown);
        }
        assert_eq!(config.hot.max_memory, 1024);
        for (name, bad) in
            [("maxmemory", "x"), ("port", "1"), ("nothing", "1"), ("hz", "501"), ("save", "1"), ("notify-keyspace-events", "Q")]
        {
            assert!(config.set(name, bad).is_err(), "{name} {bad}");
        }
        config.set("hash-max-ziplist-entries", "7").unwrap();
        assert_eq!(config.get("hash-max-listpack-entries"), "7");
    }
}
