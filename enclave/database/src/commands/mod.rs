//! The commands: a table a family, and how they are found and called.
//!
//! To add a family: a file with a `pub const COMMANDS`, and a line in [`FAMILIES`].

mod acl;
mod bits;
mod blocking;
mod client;
mod config;
mod connection;
mod debug;
mod docs;
mod dump;
mod events;
#[cfg(feature = "scripts")]
mod functions;
mod geo;
mod hashes;
mod hyperloglog;
mod import;
mod info;
mod keys;
mod lists;
mod pubsub;
mod replication;
#[cfg(feature = "scripts")]
pub(crate) mod scripting;
mod server;
mod sets;
mod sort;
mod sorted_algebra;
mod sorted_sets;
mod stream_groups;
mod streams;
mod strings;
mod subsequence;
mod tracking;
mod transactions;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::Error;
use crate::number;
use crate::resp::Reply;
use crate::session::Session;
use crate::shared::Shared;
use crate::store::Store;
use crate::value::{Limits, Value};

pub(crate) use acl::log_denied;
pub(crate) use client::describe;
pub(crate) use import::answer as answer_import;
pub(crate) use replication::{follow_anew, follow_from_the_start};
pub(crate) use tracking::{invalidate, remember};
pub(crate) use transactions::unwatch;

/// What came of a handler: it wrote its reply, or there is an error to write.
pub type Done = Result<(), Error>;

/// What a command works with.
pub struct Context<'a> {
    /// The databases.
    pub store: &'a mut Store,
    /// Who asks.
    pub session: &'a mut Session,
    /// What all connections share.
    pub shared: &'a mut Shared,
    /// The command's name and arguments.
    pub args: &'a [&'a [u8]],
    /// Where the reply goes.
    pub reply: &'a mut Reply,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Looks.
    Read,
    /// Changes keys.
    Write,
    /// Changes keys, and may need memory for it.
    Grow,
    /// Is about the server or the connection.
    Server,
}

/// What else is to be known of a command: bits of [`Command::flags`].
pub mod flag {
    /// For administrators.
    pub const ADMIN: u32 = 1;
    /// Takes constant or logarithmic time.
    pub const FAST: u32 = 2;
    /// May wait.
    pub const BLOCKING: u32 = 4;
    /// About messages.
    pub const PUBSUB: u32 = 8;
    /// Not from a script.
    pub const NO_SCRIPT: u32 = 16;
    /// Before authentication too.
    pub const NO_AUTH: u32 = 32;
    /// Not between MULTI and EXEC.
    pub const NO_MULTI: u32 = 64;
    /// Not shown to monitors, nor kept in the slow log.
    pub const HIDDEN: u32 = 128;
    /// Dangerous without being for administrators only.
    pub const DANGEROUS: u32 = 256;
    /// About the connection.
    pub const CONNECTION: u32 = 512;
    /// Where its keys are depends on its arguments.
    pub const MOVABLE: u32 = 1024;
    /// About transactions.
    pub const TRANSACTION: u32 = 2048;
    /// About scripts.
    pub const SCRIPTING: u32 = 4096;
    /// About keys as such, whatever they hold.
    pub const KEYSPACE: u32 = 8192;
}

/// A command.
pub struct Command {
    /// In lower case.
    pub name: &'static str,
    /// Arguments, the name included; negative: at least so many.
    pub arity: i32,
    /// What it does.
    pub kind: Kind,
    /// First key, last key (negative: from the end), step. 0: none.
    pub keys: (i32, i32, i32),
    /// Bits of [`flag`].
    pub flags: u32,
    /// Carries it out.
    pub run: fn(&mut Context<'_>) -> Done,
}

const fn command(name: &'static str, arity: i32, kind: Kind, keys: (i32, i32, i32), run: fn(&mut Context<'_>) -> Done) -> Command {
    Command { name, arity, kind, keys, flags: 0, run }
}

impl Command {
    /// With these bits of [`flag`].
    pub const fn with(mut self, flags: u32) -> Command {
        self.flags |= flags;
        self
    }
}

/// The families: name of the group, and its table.
pub const FAMILIES: &[(&str, &[Command])] = &[
    ("string", strings::COMMANDS),
    ("bitmap", bits::COMMANDS),
    ("geo", geo::COMMANDS),
    ("hyperloglog", hyperloglog::COMMANDS),
    ("generic", sort::COMMANDS),
    ("generic", dump::COMMANDS),
    ("string", subsequence::COMMANDS),
    ("generic", keys::COMMANDS),
    ("hash", hashes::COMMANDS),
    ("list", lists::COMMANDS),
    ("set", sets::COMMANDS),
    ("sorted-set", sorted_sets::COMMANDS),
    ("sorted-set", sorted_algebra::COMMANDS),
    #[cfg(feature = "scripts")]
    ("scripting", scripting::COMMANDS),
    #[cfg(feature = "scripts")]
    ("scripting", functions::COMMANDS),
    ("stream", streams::COMMANDS),
    ("stream", stream_groups::COMMANDS),
    ("connection", connection::COMMANDS),
    ("connection", client::COMMANDS),
    ("transactions", transactions::COMMANDS),
    ("pubsub", pubsub::COMMANDS),
    ("server", acl::COMMANDS),
    ("server", config::COMMANDS),
    ("server", debug::COMMANDS),
    ("server", docs::COMMANDS),
    ("server", import::COMMANDS),
    ("server", info::COMMANDS),
    ("server", replication::COMMANDS),
    ("server", server::COMMANDS),
];

/// All commands.
pub fn all() -> impl Iterator<Item = &'static Command> {
    FAMILIES.iter().flat_map(|(_, table)| table.iter())
}

/// The group of a command.
pub fn group(command: &Command) -> &'static str {
    FAMILIES.iter().find(|(_, table)| table.iter().any(|one| one.name == command.name)).map_or("generic", |(group, _)| group)
}

/// The command of this name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    static TABLE: LazyLock<HashMap<&'static [u8], &'static Command>> =
        LazyLock::new(|| all().map(|command| (command.name.as_bytes(), command)).collect());
    let mut lower = [0; 32];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    TABLE.get(&*lower).copied()
}

impl Command {
    /// Whether it can have so many arguments, its name included.
    pub fn fits(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }

    /// Whether it has this bit of [`flag`].
    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether it changes keys.
    pub fn writes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Grow)
    }

    /// The keys among its arguments.
    pub fn keys<'a>(&self, args: &'a [&'a [u8]]) -> Vec<&'a [u8]> {
        if self.is(flag::MOVABLE) {
            return self.movable(args);
        }
        let (first, last, step) = self.keys;
        let last = if last < 0 { args.len() as i32 + last } else { last };
        let range = if first == 0 { 0..0 } else { first as usize..(last + 1).max(first) as usize };
        range.step_by(step.max(1) as usize).filter_map(|at| args.get(at).copied()).collect()
    }

    /// Keys whose number, or place, is among the arguments.
    fn movable<'a>(&self, args: &'a [&'a [u8]]) -> Vec<&'a [u8]> {
        let counted = |at: usize| {
            let count = args.get(at).and_then(|count| number::integer(count)).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            args.iter().skip(at + 1).take(count).copied()
        };
        let word = |at: usize, word: &str| args.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
        match self.name {
            "eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro" => counted(2).collect(),
            "zunionstore" | "zinterstore" | "zdiffstore" => args.get(1).copied().into_iter().chain(counted(2)).collect(),
            "blmpop" | "bzmpop" => counted(2).collect(),
            "xread" | "xreadgroup" => {
                let Some(at) = (1..args.len()).find(|at| word(*at, "streams")) else { return Vec::new() };
                let rest = &args[at + 1..];
                rest[..rest.len() / 2].to_vec()
            }
            "sort" | "sort_ro" | "georadius" | "georadiusbymember" => {
                let mut keys = vec![args.get(1).copied().unwrap_or_default()];
                let store = (2..args.len().saturating_sub(1)).rev().find(|at| word(*at, "store") || word(*at, "storedist"));
                keys.extend(store.map(|at| args[at + 1]));
                keys
            }
            "object" | "memory" if args.len() > 2 && !word(1, "help") => vec![args[2]],
            "object" | "memory" => Vec::new(),
            _ => counted(1).collect(),
        }
    }
}

/// Classes of keyspace events: bits of the setting notify-keyspace-events.
pub mod event {
    /// `K`: messages on `__keyspace@N__:key`.
    pub const KEYSPACE: u32 = 1;
    /// `E`: messages on `__keyevent@N__:event`.
    pub const KEYEVENT: u32 = 2;
    /// `g`.
    pub const GENERIC: u32 = 4;
    /// `$`.
    pub const STRING: u32 = 8;
    /// `l`.
    pub const LIST: u32 = 16;
    /// `s`.
    pub const SET: u32 = 32;
    /// `h`.
    pub const HASH: u32 = 64;
    /// `z`.
    pub const SORTED_SET: u32 = 128;
    /// `x`.
    pub const EXPIRED: u32 = 256;
    /// `e`.
    pub const EVICTED: u32 = 512;
    /// `t`.
    pub const STREAM: u32 = 1024;
    /// `m`.
    pub const MISS: u32 = 2048;
    /// `d`.
    pub const MODULE: u32 = 4096;
    /// `n`.
    pub const NEW: u32 = 8192;
    /// `A`: all but `m` and `n`.
    pub const ALL: u32 = GENERIC | STRING | LIST | SET | HASH | SORTED_SET | EXPIRED | EVICTED | STREAM | MODULE;
}

impl<'a> Context<'a> {
    /// The database that the client has selected.
    pub fn db(&self) -> usize {
        self.session.database
    }

    /// An argument, by its place behind the name (1 is the first).
    pub fn arg(&self, at: usize) -> &'a [u8] {
        self.args.get(at).copied().unwrap_or_default()
    }

    /// An argument that is a whole number.
    pub fn integer(&self, at: usize) -> Result<i64, Error> {
        number::integer(self.arg(at)).ok_or(Error::NotAnInteger)
    }

    /// An argument that is a number.
    pub fn float(&self, at: usize) -> Result<f64, Error> {
        number::float(self.arg(at)).ok_or(Error::NotAFloat)
    }

    /// Whether an argument is this word, in any case.
    pub fn is(&self, at: usize, word: &str) -> bool {
        self.arg(at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The command's name as it is in the table.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.arg(0)).to_ascii_lowercase()
    }

    /// The subcommand, in lower case.
    pub fn subcommand(&self) -> String {
        String::from_utf8_lossy(self.arg(1)).to_ascii_lowercase()
    }

    /// The error for a subcommand that there is not, or not with so many arguments.
    pub fn unknown_subcommand(&self) -> Error {
        let given: String = String::from_utf8_lossy(self.arg(1)).chars().take(128).collect();
        Error::Subcommand(given, self.name().to_ascii_uppercase())
    }

    /// Refuses a subcommand that has not so many arguments, command and subcommand included.
    ///
    /// # Errors
    /// [`Error::Arity`].
    pub fn count(&self, allowed: impl std::ops::RangeBounds<usize>) -> Done {
        if allowed.contains(&self.args.len()) { Ok(()) } else { Err(Error::Arity(format!("{}|{}", self.name(), self.subcommand()))) }
    }

    /// Up to which size values are small.
    pub fn limits(&self) -> Limits {
        self.shared.config.hot.limits
    }

    /// The value of the key that this argument names.
    pub fn read(&mut self, at: usize) -> Option<&Value> {
        let (db, key) = (self.db(), self.arg(at));
        self.store.get(db, key)
    }

    /// The same, for who wants to have it counted as a hit or a miss.
    pub fn look(&mut self, at: usize) -> Option<&Value> {
        let (db, key) = (self.db(), self.arg(at));
        if self.store.contains(db, key) {
            self.shared.counters.hits += 1;
        } else {
            self.shared.counters.misses += 1;
            self.notify(event::MISS, "keymiss", key);
        }
        self.store.get(db, key)
    }

    /// Tells who listens that something has happened to a key of the selected database. `class` is one of [`event`].
    pub fn notify(&mut self, class: u32, name: &str, key: &[u8]) {
        if self.shared.config.hot.events & class != 0 {
            notify(self.shared, self.session.database, class, name, key);
        }
    }

    /// The same for a key of another database.
    pub fn notify_in(&mut self, db: usize, class: u32, name: &str, key: &[u8]) {
        if self.shared.config.hot.events & class != 0 {
            notify(self.shared, db, class, name, key);
        }
    }

    /// What the log and replicas get in place of this command, because its words alone do not say what it did. Nothing: it changed nothing.
    pub fn rewrite(&mut self, commands: &[&[&[u8]]]) {
        if !self.shared.takes_effects() {
            return;
        }
        let owned = commands.iter().map(|command| command.iter().map(|part| Box::from(*part)).collect());
        self.shared.rewritten.get_or_insert_default().extend(owned);
    }

    /// A number below a limit, at random.
    pub fn random(&mut self) -> impl FnMut(usize) -> usize + use<> {
        let mut seed = self.shared.random();
        move |limit| {
            // xorshift64*: nothing depends on it but fairness.
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
        }
    }
}

/// Carries a command out, and tells who listens what it did to its keys.
///
/// # Errors
/// The handler's.
pub(crate) fn run(context: &mut Context<'_>, command: &Command) -> Done {
    let wanted = context.shared.config.hot.events;
    if wanted == 0 {
        return (command.run)(context);
    }
    let changes = context.store.changes;
    context.store.remember_last();
    let done = (command.run)(context);
    for key in std::mem::take(&mut context.store.made) {
        context.notify(event::NEW, "new", &key);
    }
    if done.is_ok() {
        events::tell(context, command, changes);
    }
    done
}

/// Whether a command may write by the script that it runs.
pub(crate) fn may_write(shared: &Shared, command: &Command, args: &[&[u8]]) -> bool {
    #[cfg(feature = "scripts")]
    return scripting::may_write(shared, command, args);
    #[cfg(not(feature = "scripts"))]
    {
        let _ = (shared, command, args);
        false
    }
}

/// Whether a command's first argument says what it does.
pub(crate) fn has_subcommands(command: &Command) -> bool {
    [
        "acl", "client", "cluster", "command", "config", "debug", "function", "latency", "memory", "module", "object", "pubsub", "script",
        "slowlog", "xgroup", "xinfo",
    ]
    .contains(&command.name)
}

/// A command's name, with its subcommand if it has any: `client|list`.
pub(crate) fn full_name(command: &Command, args: &[&[u8]]) -> Cow<'static, str> {
    match args.get(1) {
        Some(sub) if command.arity == -2 && has_subcommands(command) => {
            Cow::Owned(format!("{}|{}", command.name, String::from_utf8_lossy(sub).to_ascii_lowercase()))
        }
        _ => Cow::Borrowed(command.name),
    }
}

/// The reply of HELP.
pub(crate) fn help(context: &mut Context<'_>, lines: &[&str]) {
    context.reply.array(lines.len());
    lines.iter().for_each(|line| context.reply.simple(line));
}

/// Publishes an event of a key.
pub(crate) fn notify(shared: &mut Shared, db: usize, class: u32, name: &str, key: &[u8]) {
    let wanted = shared.config.hot.events;
    if wanted & class == 0 {
        return;
    }
    if wanted & event::KEYSPACE != 0 {
        shared.publish(&[format!("__keyspace@{db}__:").as_bytes(), key].concat(), name.as_bytes());
    }
    if wanted & event::KEYEVENT != 0 {
        shared.publish(format!("__keyevent@{db}__:{name}").as_bytes(), key);
    }
}

/// A part of something with an order, as Redis's ranges name it: negative numbers count from the end. Empty where nothing is meant.
pub(crate) fn range(start: i64, stop: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let place = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, stop) = (place(start).max(0), place(stop).min(length - 1));
    if start > stop { 0..0 } else { start as usize..stop as usize + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_are_told_once() {
        assert_eq!(find(b"GeT").map(|command| command.name), Some("get"));
        assert!(find(b"nothing").is_none() && find(&[b'x'; 100]).is_none() && find(b"").is_none());
        let mut names: Vec<_> = all().map(|command| command.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let keys = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            find(args[0]).unwrap().keys(&args).iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(keys("mset a 1 b 2"), ["a", "b"]);
        assert_eq!(keys("del a b c"), ["a", "b", "c"]);
        assert!(keys("ping").is_empty());
        // Where they are depends on a number: who may not use them must not get them so.
        for line in ["zunion 2 a b", "zinter 2 a b", "zdiff 2 a b", "zintercard 2 a b limit 1", "sintercard 2 a b", "eval_ro x 2 a b c"] {
            assert_eq!(keys(line), ["a", "b"], "{line}");
        }
        for line in
            ["lmpop 2 a b left", "blmpop 0 2 a b left", "zmpop 2 a b min", "bzmpop 0 2 a b min", "fcall f 2 a b", "zunionstore a 1 b"]
        {
            assert_eq!(keys(line), ["a", "b"], "{line}");
        }
    }

    #[test]
    fn ranges_count_from_either_end() {
        for (start, stop, length, expected) in [
            (0, -1, 5, 0..5),
            (-2, -1, 5, 3..5),
            (1, 1, 5, 1..2),
            (3, 1, 5, 0..0),
            (0, 100, 5, 0..5),
            (-100, 0, 5, 0..1),
            (5, 9, 5, 0..0),
            (0, -1, 0, 0..0),
            (i64::MIN, i64::MAX, 3, 0..3),
        ] {
            assert_eq!(range(start, stop, length), expected, "{start} {stop} {length}");
        }
    }
}
