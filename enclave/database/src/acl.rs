//! Users: who may authenticate, call which commands, on which keys and channels (<https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/>).
//! Selectors are not supported.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sha2::{Digest, Sha256};

use crate::commands::{Command, FAMILIES, Kind, flag, group};
use crate::glob;

/// The categories, in Redis's order.
pub const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Whether a command is of a category.
pub fn is_of(command: &Command, category: &str) -> bool {
    match category {
        "all" => true,
        "read" => command.kind == Kind::Read && !command.is(flag::SCRIPTING),
        "write" => command.writes() && !command.is(flag::SCRIPTING),
        "fast" => command.is(flag::FAST),
        "slow" => !command.is(flag::FAST),
        "admin" => command.is(flag::ADMIN),
        "dangerous" => command.is(flag::ADMIN | flag::DANGEROUS),
        "blocking" => command.is(flag::BLOCKING),
        "pubsub" => command.is(flag::PUBSUB),
        "connection" => command.is(flag::CONNECTION),
        "transaction" => command.is(flag::TRANSACTION),
        "scripting" => command.is(flag::SCRIPTING),
        "keyspace" => command.is(flag::KEYSPACE) || group(command) == "generic",
        "sortedset" => group(command) == "sorted-set",
        other => group(command) == other,
    }
}

/// What may be done with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keys {
    pattern: Vec<u8>,
    read: bool,
    write: bool,
}

impl Keys {
    fn show(&self) -> String {
        let pattern = String::from_utf8_lossy(&self.pattern);
        match (self.read, self.write) {
            (true, true) => format!("~{pattern}"),
            (true, false) => format!("%R~{pattern}"),
            _ => format!("%W~{pattern}"),
        }
    }
}

/// One user.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// Whether it may authenticate.
    pub enabled: bool,
    /// Whether any password will do.
    pub no_password: bool,
    /// SHA-256 of each of its passwords, in hexadecimal.
    passwords: BTreeSet<String>,
    /// `+get`, `-@all` and so on: of those that are about a command the last one counts.
    rules: Vec<String>,
    keys: Vec<Keys>,
    channels: Vec<Vec<u8>>,
    /// Whether its rules allow every command on every key and channel.
    everything: bool,
}

/// Why something is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The command.
    Command,
    /// A key.
    Key(Vec<u8>),
    /// A channel.
    Channel(Vec<u8>),
}

/// An entry of ACL LOG.
#[derive(Clone, Debug)]
pub struct Logged {
    /// How often.
    pub count: u64,
    /// `command`, `key`, `channel` or `auth`.
    pub reason: &'static str,
    /// `toplevel`, `multi` or `lua`.
    pub context: &'static str,
    /// What was denied.
    pub object: String,
    /// To whom.
    pub user: String,
    /// Milliseconds since 1970.
    pub time: i64,
    /// And when it was first.
    pub created: i64,
    /// About the client.
    pub client: String,
    /// Its number.
    pub id: u64,
}

/// All users.
#[derive(Clone, Debug)]
pub struct Acl {
    /// By their names.
    pub users: BTreeMap<String, User>,
    /// What was denied, the newest first.
    pub log: VecDeque<Logged>,
    /// The next entry's number.
    pub log_id: u64,
}

impl Default for Acl {
    fn default() -> Self {
        Acl { users: BTreeMap::from([("default".to_owned(), User::everything())]), log: VecDeque::new(), log_id: 0 }
    }
}

fn hexadecimal(password: &[u8]) -> String {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl User {
    fn everything() -> User {
        User {
            enabled: true,
            no_password: true,
            rules: vec!["+@all".to_owned()],
            keys: vec![Keys { pattern: b"*".to_vec(), read: true, write: true }],
            channels: vec![b"*".to_vec()],
            everything: true,
            ..User::default()
        }
    }

    /// A new user: may do nothing.
    pub fn nobody(all_channels: bool) -> User {
        let channels = if all_channels { vec![b"*".to_vec()] } else { Vec::new() };
        User { rules: vec!["-@all".to_owned()], channels, ..User::default() }
    }

    /// Changes it by one rule.
    ///
    /// # Errors
    /// Why it is none, in Redis's words.
    pub fn apply(&mut self, rule: &[u8], all_channels: bool) -> Result<(), &'static str> {
        let text = String::from_utf8_lossy(rule).into_owned();
        let lower = text.to_ascii_lowercase();
        match (lower.as_str(), rule.first()) {
            ("on", _) => self.enabled = true,
            ("off", _) => self.enabled = false,
            ("nopass", _) => {
                self.no_password = true;
                self.passwords.clear();
            }
            ("resetpass", _) => {
                self.no_password = false;
                self.passwords.clear();
            }
            ("allkeys", _) => self.keys = vec![Keys { pattern: b"*".to_vec(), read: true, write: true }],
            ("resetkeys", _) => self.keys.clear(),
            ("allchannels", _) => self.channels = vec![b"*".to_vec()],
            ("resetchannels", _) => self.channels.clear(),
            ("allcommands" | "+@all", _) => self.rules = vec!["+@all".to_owned()],
            ("nocommands" | "-@all", _) => self.rules = vec!["-@all".to_owned()],
            ("sanitize-payload" | "skip-sanitize-payload", _) => {}
            ("reset", _) => *self = User::nobody(all_channels),
            (_, Some(b'>')) => {
                self.no_password = false;
                self.passwords.insert(hexadecimal(&rule[1..]));
            }
            (_, Some(b'<')) => {
                if !self.passwords.remove(&hexadecimal(&rule[1..])) {
                    return Err("The password you are trying to remove from the user does not exist");
                }
            }
            (_, Some(b'#' | b'!')) => {
                let is_hash = lower.len() == 65 && lower[1..].bytes().all(|byte| byte.is_ascii_hexdigit());
                if !is_hash || text != lower {
                    return Err(
                        "The provided password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
                    );
                }
                if let Some(hash) = lower.strip_prefix('#') {
                    self.no_password = false;
                    self.passwords.insert(hash.to_owned());
                } else if !self.passwords.remove(&lower[1..]) {
                    return Err("The password you are trying to remove from the user does not exist");
                }
            }
            (_, Some(b'~')) => self.add_keys(&rule[1..], true, true)?,
            (_, Some(b'%')) => {
                let at = rule.iter().position(|byte| *byte == b'~').ok_or("Syntax error")?;
                let letters = lower[1..at].to_owned();
                if letters.is_empty() || letters.chars().any(|letter| letter != 'r' && letter != 'w') {
                    return Err("Syntax error");
                }
                self.add_keys(&rule[at + 1..], letters.contains('r'), letters.contains('w'))?;
            }
            (_, Some(b'&')) => {
                if self.channels.iter().any(|known| known == b"*") && &rule[1..] != b"*" {
                    return Err(
                        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels",
                    );
                }
                let pattern = rule[1..].to_vec();
                if !self.channels.contains(&pattern) {
                    self.channels.push(pattern);
                }
            }
            (_, Some(b'+' | b'-')) => {
                let what = &lower[1..];
                if let Some(category) = what.strip_prefix('@') {
                    if !CATEGORIES.contains(&category) {
                        return Err("Unknown command or category name in ACL");
                    }
                } else {
                    let (name, rest) = what.split_once('|').map_or((what, None), |(name, rest)| (name, Some(rest)));
                    if crate::commands::find(name.as_bytes()).is_none() || rest.is_some_and(|rest| rest.contains('|')) {
                        return Err("Unknown command or category name in ACL");
                    }
                    if rest == Some("") {
                        return Err("Syntax error");
                    }
                }
                let opposite = [&lower[1..]];
                self.rules.retain(|rule| !opposite.contains(&&rule[1..]));
                self.rules.push(lower);
            }
            _ => return Err("Syntax error"),
        }
        self.everything = self.rules == ["+@all"]
            && self.keys.iter().any(|keys| keys.pattern == b"*" && keys.read && keys.write)
            && self.channels.iter().any(|pattern| pattern == b"*");
        Ok(())
    }

    fn add_keys(&mut self, pattern: &[u8], read: bool, write: bool) -> Result<(), &'static str> {
        let is_all = pattern == b"*" && read && write;
        if self.keys.iter().any(|keys| keys.pattern == b"*" && keys.read && keys.write) && !is_all {
            return Err(
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns",
            );
        }
        let keys = Keys { pattern: pattern.to_vec(), read, write };
        if is_all {
            self.keys = vec![keys];
        } else if !self.keys.contains(&keys) {
            self.keys.push(keys);
        }
        Ok(())
    }

    /// Whether the user may call this command at all.
    pub fn may_call(&self, command: &Command, subcommand: Option<&[u8]>) -> bool {
        if self.everything || command.is(flag::NO_AUTH) {
            return true;
        }
        let subcommand = subcommand.map(|sub| String::from_utf8_lossy(sub).to_ascii_lowercase());
        let mut allowed = false;
        for rule in &self.rules {
            let (plus, what) = (rule.starts_with('+'), &rule[1..]);
            let about = match (what.strip_prefix('@'), what.split_once('|')) {
                (Some(category), _) => is_of(command, category),
                (None, Some((name, sub))) => name == command.name && subcommand.as_deref() == Some(sub),
                (None, None) => what == command.name,
            };
            if about {
                allowed = plus;
            }
        }
        allowed
    }

    /// Whether the user may do this to a key.
    pub fn may_touch(&self, key: &[u8], read: bool, write: bool) -> bool {
        self.everything || self.keys.iter().any(|keys| (keys.read || !read) && (keys.write || !write) && glob::matches(&keys.pattern, key))
    }

    /// Whether the user may use a channel; a pattern must be allowed literally.
    pub fn may_use(&self, channel: &[u8], pattern: bool) -> bool {
        self.everything
            || self
                .channels
                .iter()
                .any(|allowed| if pattern { allowed == channel || allowed == b"*" } else { glob::matches(allowed, channel) })
    }

    /// Whether it may do everything on all keys and channels.
    pub fn is_unlimited(&self) -> bool {
        self.everything
    }

    /// What of a command is denied.
    pub fn denies(&self, command: &Command, args: &[&[u8]]) -> Option<Denied> {
        if self.everything {
            return None;
        }
        if !self.may_call(command, args.get(1).copied()) {
            return Some(Denied::Command);
        }
        let (read, write) = (command.kind == Kind::Read, command.writes());
        if let Some(key) = command.keys(args).into_iter().find(|key| !self.may_touch(key, read, write)) {
            return Some(Denied::Key(key.to_vec()));
        }
        let (channels, pattern): (&[&[u8]], bool) = match command.name {
            "subscribe" | "ssubscribe" => (&args[1..], false),
            "psubscribe" => (&args[1..], true),
            "publish" | "spublish" => (args.get(1..2).unwrap_or_default(), false),
            _ => (&[], false),
        };
        channels.iter().find(|channel| !self.may_use(channel, pattern)).map(|channel| Denied::Channel(channel.to_vec()))
    }

    /// Whether this is one of its passwords.
    pub fn accepts(&self, password: &[u8]) -> bool {
        self.enabled && (self.no_password || self.passwords.contains(&hexadecimal(password)))
    }

    /// Its flags, for ACL GETUSER.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        flags.extend(self.no_password.then_some("nopass"));
        flags
    }

    /// Its passwords' hashes.
    pub fn passwords(&self) -> impl ExactSizeIterator<Item = &String> {
        self.passwords.iter()
    }

    /// Its rules about commands.
    pub fn commands(&self) -> String {
        let first = self.rules.first().map_or("", String::as_str);
        if matches!(first, "+@all" | "-@all") { self.rules.join(" ") } else { format!("-@all {}", self.rules.join(" ")) }
    }

    /// Its patterns of keys.
    pub fn keys(&self) -> String {
        self.keys.iter().map(Keys::show).collect::<Vec<_>>().join(" ")
    }

    /// Its patterns of channels.
    pub fn channels(&self) -> String {
        self.channels.iter().map(|pattern| format!("&{}", String::from_utf8_lossy(pattern))).collect::<Vec<_>>().join(" ")
    }

    /// All of it, as ACL LIST shows it and ACL SETUSER reads it.
    pub fn show(&self, name: &str) -> String {
        let mut words = vec!["user".to_owned(), name.to_owned()];
        words.extend(self.flags().into_iter().map(str::to_owned));
        words.extend(self.passwords.iter().map(|hash| format!("#{hash}")));
        words.push(self.keys());
        words.push(if self.channels.is_empty() { "resetchannels".to_owned() } else { self.channels() });
        words.push(self.commands());
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

impl Acl {
    /// The setting `requirepass`.
    pub fn set_default_password(&mut self, password: &str) {
        let user = self.users.entry("default".to_owned()).or_insert_with(User::everything);
        user.passwords.clear();
        user.no_password = password.is_empty();
        if !password.is_empty() {
            user.passwords.insert(hexadecimal(password.as_bytes()));
        }
    }

    /// Who a connection is before it says so; `None`: it must authenticate.
    pub fn initial(&self) -> Option<String> {
        self.users.get("default").filter(|user| user.enabled && user.no_password).map(|_| "default".to_owned())
    }
}

/// All names of commands, for ACL CAT.
pub fn commands_of(category: &str) -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|(_, table)| table.iter()).filter(|command| is_of(command, category)).map(|command| command.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(rules: &[&str], line: &str) -> Option<Denied> {
        let mut user = User::nobody(false);
        for rule in rules {
            user.apply(rule.as_bytes(), false).unwrap();
        }
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        user.denies(crate::commands::find(args[0]).unwrap(), &args)
    }

    #[test]
    fn the_last_rule_counts() {
        assert_eq!(may(&["+@all", "~*"], "get a"), None);
        assert_eq!(may(&["+@all", "-get", "~*"], "get a"), Some(Denied::Command));
        assert_eq!(may(&["-get", "+@string", "~*"], "get a"), None);
        assert_eq!(may(&["+@read", "~*"], "set a 1"), Some(Denied::Command));
        assert_eq!(may(&["+config|get"], "config get x"), None);
        assert_eq!(may(&["+config|get"], "config set x y"), Some(Denied::Command));
    }

    #[test]
    fn keys_and_channels_have_patterns() {
        assert_eq!(may(&["+@all", "~a*"], "mget ab ac"), None);
        assert_eq!(may(&["+@all", "~a*"], "mget ab b"), Some(Denied::Key(b"b".to_vec())));
        assert_eq!(may(&["+@all", "%R~a*"], "set a 1"), Some(Denied::Key(b"a".to_vec())));
        assert_eq!(may(&["+@all", "&news.*"], "publish news.x hi"), None);
        assert_eq!(may(&["+@all", "&news.*"], "subscribe other"), Some(Denied::Channel(b"other".to_vec())));
    }

    #[test]
    fn passwords_are_kept_as_hashes_only() {
        let mut user = User::nobody(false);
        user.apply(b"on", false).unwrap();
        user.apply(b">secret", false).unwrap();
        assert!(user.accepts(b"secret") && !user.accepts(b"other"));
        assert!(!format!("{user:?}").contains("secret"));
        user.apply(b"<secret", false).unwrap();
        assert!(!user.accepts(b"secret"));
    }
}
