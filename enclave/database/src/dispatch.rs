//! From a request to its command: whether it is one, whether it may, and what is noted of it.

use std::time::{Duration, Instant};

use crate::acl::Denied;
use crate::commands::{self, Command, Context, Kind, event, flag};
use crate::error::Error;
use crate::eviction;
use crate::session::Replies;
use crate::shared::{Push, Slow};
use crate::store::Cause;

/// Carries one request out, or queues it, or refuses it; the reply is written in any case.
pub fn process(context: &mut Context<'_>) {
    let before = context.reply.bytes.len();
    context.session.requests += 1;
    context.session.used = context.store.now;
    match admit(context) {
        Err(error) => {
            if context.session.queue.is_some() && !matches!(context.args.first(), Some(name) if is_control(name)) {
                context.session.refused = true;
            }
            note_error(context, &error);
            context.reply.error(&error.to_string());
        }
        Ok(command) => {
            let queue = context.session.queue.is_some() && !is_control(command.name.as_bytes());
            match &mut context.session.queue {
                Some(queued) if queue => {
                    queued.push(context.args.iter().map(|arg| Box::from(*arg)).collect());
                    context.reply.simple("QUEUED");
                }
                _ => call(context, command),
            }
        }
    }
    // What says that messages come is itself a message.
    let is_push = context.session.replies != Replies::On
        && commands::find(context.arg(0)).is_some_and(|command| command.is(flag::PUBSUB) && command.name.ends_with("subscribe"));
    match context.session.replies {
        Replies::On => {}
        _ if is_push => {}
        Replies::Off => context.reply.bytes.truncate(before),
        Replies::Skip => {
            context.reply.bytes.truncate(before);
            context.session.replies = Replies::On;
        }
        Replies::SkipNext => context.session.replies = Replies::Skip,
    }
}

/// What a database says that nobody has a password for.
const NO_OWNER: &str =
    "DENIED This database has no owner yet. Whoever sets its password first owns it: `teemate db claim`, or CONFIG SET requirepass";

/// Commands that it takes all the same.
fn is_for_anybody(command: &Command) -> bool {
    command.is(flag::NO_AUTH) || matches!(command.name, "ping" | "config" | "acl")
}

/// Commands that a transaction does not queue.
fn is_control(name: &[u8]) -> bool {
    ["exec", "discard", "multi", "watch", "quit", "reset"].iter().any(|control| name.eq_ignore_ascii_case(control.as_bytes()))
}

/// Counts an error.
pub fn note_error(context: &mut Context<'_>, error: &Error) {
    let text = error.to_string();
    let counters = &mut context.shared.counters;
    counters.errors += 1;
    let word = text.split(' ').next().unwrap_or("ERR");
    // A script can make up words; Redis stops counting at 128 too.
    let has_room = counters.by_error.len() < 128;
    match counters.by_error.get_mut(word) {
        Some(count) => *count += 1,
        None if has_room => drop(counters.by_error.insert(word.to_owned(), 1)),
        None => {}
    }
}

/// The command of a request, if there is one that may be carried out.
fn admit(context: &mut Context<'_>) -> Result<&'static Command, Error> {
    let name = context.arg(0);
    let Some(command) = commands::find(name) else {
        return Err(unknown(context));
    };
    let refuse = |context: &mut Context<'_>, error: Error| {
        context.shared.calls.entry(command.name).or_default().rejected += 1;
        Err(error)
    };
    if !command.fits(context.args.len()) {
        return refuse(context, Error::Arity(command.name.to_owned()));
    }
    if context.session.user.is_none() && !command.is(flag::NO_AUTH) {
        return refuse(context, Error::NoAuth);
    }
    if context.shared.protected && context.shared.acl.initial().is_some() && !is_for_anybody(command) {
        return refuse(context, Error::Other(NO_OWNER.to_owned()));
    }
    if let Err(error) = permitted(context, command) {
        return refuse(context, error);
    }
    if context.session.queue.is_some() && command.is(flag::NO_MULTI) {
        return refuse(context, Error::new("Command not allowed inside a transaction"));
    }
    if context.session.version == 2 && context.session.is_subscriber() {
        let allowed = ["subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe", "ping", "quit", "reset"];
        if !allowed.contains(&command.name) {
            return refuse(
                context,
                Error::new(format_args!(
                    "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                    command.name
                )),
            );
        }
    }
    if context.shared.config.hot.max_memory > 0 && !context.session.executing {
        let queued = context.session.queue.iter().flatten().filter_map(|request| commands::find(request.first()?));
        let exec = command.name == "exec" && queued.into_iter().any(|command| command.kind == Kind::Grow);
        if (command.kind != Kind::Server || exec) && !eviction::make_room(context.store, context.shared) {
            if exec {
                context.session.queue = None;
                commands::unwatch(context.store, context.session);
                return refuse(
                    context,
                    Error::Other(format!("EXECABORT Transaction discarded because of: {}", &Error::OutOfMemory.to_string())),
                );
            }
            if command.kind == Kind::Grow {
                return refuse(context, Error::OutOfMemory);
            }
        }
    }
    if command.writes()
        && context.shared.saving.failed.is_some()
        && !context.shared.config.hot.save.is_empty()
        && context.shared.config.is_on("stop-writes-on-bgsave-error")
    {
        return refuse(
            context,
            Error::Other(
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.".to_owned(),
            ),
        );
    }
    Ok(command)
}

/// Whether the client's user may do this.
pub fn permitted(context: &mut Context<'_>, command: &Command) -> Result<(), Error> {
    let Some(name) = context.session.user.clone() else { return Ok(()) };
    let Some(user) = context.shared.acl.users.get(&name) else { return Err(Error::NoAuth) };
    if user.is_unlimited() {
        return Ok(());
    }
    let Some(denied) = user.denies(command, context.args) else { return Ok(()) };
    let sub = if matches!(denied, Denied::Command) && crate::commands::has_subcommands(command) && context.args.len() > 1 {
        format!("{}|{}", command.name, context.subcommand())
    } else {
        command.name.to_owned()
    };
    let (reason, object, text) = match denied {
        Denied::Command => ("command", sub.clone(), format!("NOPERM this user has no permissions to run the '{sub}' command")),
        Denied::Key(key) => (
            "key",
            String::from_utf8_lossy(&key).into_owned(),
            "NOPERM this user has no permissions to access one of the keys used as arguments".to_owned(),
        ),
        Denied::Channel(channel) => (
            "channel",
            String::from_utf8_lossy(&channel).into_owned(),
            "NOPERM this user has no permissions to access one of the channels used as arguments".to_owned(),
        ),
    };
    commands::log_denied(context, reason, object, name);
    Err(Error::Other(text))
}

fn unknown(context: &Context<'_>) -> Error {
    let name: String = String::from_utf8_lossy(context.arg(0)).chars().take(128).collect();
    let mut arguments = String::new();
    for arg in context.args.iter().skip(1) {
        if arguments.len() >= 128 {
            break;
        }
        let left = 128 - arguments.len();
        arguments.push_str(&format!("'{}' ", String::from_utf8_lossy(&arg[..arg.len().min(left)])));
    }
    Error::Unknown { name, arguments }
}

/// Carries a command out that may be, and notes what is to be noted.
pub fn call(context: &mut Context<'_>, command: &'static Command) {
    if !context.shared.monitors.is_empty() && !command.is(flag::HIDDEN) {
        monitor(context);
    }
    let (began, changes) = (context.shared.clock, context.store.changes);
    context.shared.depth += 1;
    if context.shared.depth == 1 {
        context.session.last = command.name;
    }
    let before = context.reply.bytes.len();
    let result = commands::run(context, command);
    context.shared.depth -= 1;
    let ended = Instant::now();
    let took = ended.saturating_duration_since(began);
    context.shared.clock = ended;
    let failed = match &result {
        Ok(()) => false,
        Err(error) => {
            // A handler that fails may have begun to reply.
            context.reply.bytes.truncate(before);
            note_error(context, error);
            context.reply.error(&error.to_string());
            true
        }
    };
    let calls = context.shared.calls.entry(command.name).or_default();
    calls.calls += 1;
    calls.us += took.as_micros() as u64;
    calls.failed += u64::from(failed);
    context.shared.counters.commands += 1;
    note_slow(context, command, took);
    if context.store.record {
        follow(context, command);
    }
    if context.store.changes == changes {
        context.shared.rewritten = None;
    }
    if context.shared.trackers.contains(&context.session.id) && command.kind == Kind::Read && !failed {
        commands::remember(context, command);
    }
    if let Some(tracking) = &mut context.session.tracking
        && context.shared.depth == 0
        && command.name != "client"
    {
        tracking.caching = None;
    }
}

/// Tells those who listen about what happened to keys on the way.
fn follow(context: &mut Context<'_>, _command: &Command) {
    for (db, key, cause) in std::mem::take(&mut context.store.touched) {
        match &key {
            Some(key) if cause == Cause::Expired => commands::notify(context.shared, db, event::EXPIRED, "expired", key),
            _ => {}
        }
        commands::invalidate(context.shared, key.as_deref(), if cause == Cause::Command { Some(context.session) } else { None });
    }
}

fn note_slow(context: &mut Context<'_>, command: &Command, took: Duration) {
    let (us, hot) = (took.as_micros() as u64, &context.shared.config.hot);
    if hot.latency > 0 && took.as_millis() as i64 >= hot.latency {
        let event = if command.is(flag::FAST) { "fast-command" } else { "command" };
        context.shared.note_latency(event, context.store.now / 1000, took.as_millis() as u64);
    }
    let limit = context.shared.config.hot.slower_than;
    if limit < 0 || us < limit as u64 || command.is(flag::HIDDEN) || context.session.waiting.is_some() {
        return;
    }
    let most = usize::try_from(context.shared.config.number("slowlog-max-len")).unwrap_or(0);
    let request = shorten(context.args);
    let entry = Slow {
        id: context.shared.slow_id,
        time: context.store.now / 1000,
        us,
        request,
        address: context.session.address.clone(),
        name: context.session.name.clone(),
    };
    context.shared.slow_id += 1;
    context.shared.slow.push_front(entry);
    context.shared.slow.truncate(most);
}

/// The first 31 arguments, and 128 bytes of each.
fn shorten(args: &[&[u8]]) -> Vec<Box<[u8]>> {
    let one = |arg: &&[u8]| -> Box<[u8]> {
        if arg.len() <= 128 {
            return Box::from(*arg);
        }
        [&arg[..128], format!("... ({} more bytes)", arg.len() - 128).as_bytes()].concat().into()
    };
    if args.len() <= 32 {
        return args.iter().map(one).collect();
    }
    let more = format!("... ({} more arguments)", args.len() - 31);
    args[..31].iter().map(one).chain([Box::from(more.as_bytes())]).collect()
}

fn monitor(context: &mut Context<'_>) {
    let now = context.store.now;
    let who = if context.session.executing && context.shared.depth > 1 { "lua" } else { context.session.address.as_str() };
    let mut line = format!("{}.{:06} [{} {who}]", now / 1000, now % 1000 * 1000, context.session.database);
    let secret = ["auth", "hello"].iter().any(|name| context.is(0, name));
    for (at, arg) in context.args.iter().enumerate() {
        line.push(' ');
        line.push_str(&quote(if secret && at > 0 { b"(redacted)" } else { arg }));
    }
    let all = context.shared.monitors.clone();
    context.shared.messages.extend(all.into_iter().map(|id| (id, Push::Line(line.clone()))));
}

/// Bytes in quotes, so that they are one line of text.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for byte in bytes {
        match byte {
            b'\\' | b'"' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            0x20..=0x7e => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::resp::Reply;
    use crate::session::Session;
    use crate::shared::Shared;
    use crate::store::Store;

    /// Carries out lines, and compares what is answered; `|` stands for line ends.
    fn talk(password: &str, lines: &[(&str, &str)]) {
        let mut config = Config::default();
        config.set("requirepass", password).unwrap();
        let (mut store, mut shared, mut session) = (Store::new(16), Shared::new(config, 0), Session::new(1, 0, 0));
        session.user = shared.acl.initial();
        store.now = 1_000_000;
        for (line, answer) in lines {
            let words = crate::resp::words(line.as_bytes()).unwrap();
            let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let mut reply = Reply { version: session.version, ..Reply::default() };
            process(&mut Context { store: &mut store, session: &mut session, shared: &mut shared, args: &args, reply: &mut reply });
            let said = String::from_utf8_lossy(&reply.bytes).replace("\r\n", "|");
            assert_eq!(said, *answer, "{line}");
        }
    }

    #[test]
    fn strings() {
        talk(
            "",
            &[
                ("SET a 1", "+OK|"),
                ("GET a", "$1|1|"),
                ("INCR a", ":2|"),
                ("INCRBYFLOAT a 0.5", "$3|2.5|"),
                ("INCR a", "-ERR value is not an integer or out of range|"),
                ("SET a x NX", "$-1|"),
                ("SET a x XX GET", "$3|2.5|"),
                ("APPEND a yz", ":3|"),
                ("GETRANGE a -2 -1", "$2|yz|"),
                ("SETRANGE a 5 !", ":6|"),
                ("GET a", "$6|xyz\0\0!|"),
                ("SET b 1 EX 0", "-ERR invalid expire time in 'set' command|"),
                ("SET b 1 PX 1500", "+OK|"),
                ("TTL b", ":2|"),
                ("PTTL b", ":1500|"),
                ("GETEX b PERSIST", "$1|1|"),
                ("TTL b", ":-1|"),
                ("TTL c", ":-2|"),
                ("MSET x 1 y", "-ERR wrong number of arguments for 'mset' command|"),
                ("MGET a nothing b", "*3|$6|xyz\0\0!|$-1|$1|1|"),
                ("SETBIT bits 7 1", ":0|"),
                ("GET bits", "$1|\u{1}|"),
                ("BITCOUNT bits", ":1|"),
                ("DECR big", ":-1|"),
                ("SET big 9223372036854775807", "+OK|"),
                ("INCR big", "-ERR increment or decrement would overflow|"),
                ("LPUSH a 1", "-WRONGTYPE Operation against a key holding the wrong kind of value|"),
            ],
        );
    }

    #[test]
    fn collections() {
        talk(
            "",
            &[
                ("RPUSH l a b c d", ":4|"),
                ("LRANGE l 0 -1", "*4|$1|a|$1|b|$1|c|$1|d|"),
                ("LPOP l 2", "*2|$1|a|$1|b|"),
                ("LINSERT l BEFORE d x", ":3|"),
                ("LPOS l d", ":2|"),
                ("LREM l 0 x", ":1|"),
                ("LTRIM l 5 9", "+OK|"),
                ("EXISTS l", ":0|"),
                ("LPUSHX l a", ":0|"),
                ("BLPOP l 0", ""),
                ("HSET h a 1 b 2", ":2|"),
                ("HINCRBY h a 5", ":6|"),
                ("HGETALL h", "*4|$1|a|$1|6|$1|b|$1|2|"),
                ("HDEL h a b", ":2|"),
                ("TYPE h", "+none|"),
                ("SADD s 3 1 2", ":3|"),
                ("SMEMBERS s", "*3|$1|1|$1|2|$1|3|"),
                ("OBJECT ENCODING s", "$6|intset|"),
                ("SADD s x", ":1|"),
                ("OBJECT ENCODING s", "$9|hashtable|"),
                ("SADD t 2 x", ":2|"),
                ("SINTERCARD 2 s t", ":2|"),
                ("SDIFFSTORE u t s", ":0|"),
                ("ZADD z 1 a 2 b 3 c", ":3|"),
                ("ZRANGE z (1 +inf BYSCORE", "*2|$1|b|$1|c|"),
                ("ZRANGE z 0 -1 REV WITHSCORES", "*6|$1|c|$1|3|$1|b|$1|2|$1|a|$1|1|"),
                ("ZADD z GT CH 0 a 9 b", ":1|"),
                ("ZREVRANK z b", ":0|"),
                ("ZINCRBY z 0.5 a", "$3|1.5|"),
                ("ZPOPMIN z", "*2|$1|a|$3|1.5|"),
                ("ZRANGEBYLEX z [b +", "*2|$1|c|$1|b|"),
                ("ZREMRANGEBYRANK z 0 -1", ":2|"),
                ("DBSIZE", ":2|"),
            ],
        );
    }

    #[test]
    fn transactions() {
        talk(
            "",
            &[
                ("EXEC", "-ERR EXEC without MULTI|"),
                ("MULTI", "+OK|"),
                ("SET a 1", "+QUEUED|"),
                ("LPUSH a 1", "+QUEUED|"),
                ("BLPOP nothing 0", "+QUEUED|"),
                ("EXEC", "*3|+OK|-WRONGTYPE Operation against a key holding the wrong kind of value|*-1|"),
                ("MULTI", "+OK|"),
                ("NONSENSE x", "-ERR unknown command 'NONSENSE', with args beginning with: 'x' |"),
                ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
                ("WATCH a", "+OK|"),
                ("SET a 2", "+OK|"),
                ("MULTI", "+OK|"),
                ("GET a", "+QUEUED|"),
                ("EXEC", "*-1|"),
                ("WATCH a", "+OK|"),
                ("MULTI", "+OK|"),
                ("GET a", "+QUEUED|"),
                ("EXEC", "*1|$1|2|"),
                ("MULTI", "+OK|"),
                ("MULTI", "-ERR MULTI calls can not be nested|"),
                ("DISCARD", "+OK|"),
            ],
        );
    }

    #[test]
    fn passwords_and_versions() {
        talk(
            "secret",
            &[
                ("GET a", "-NOAUTH Authentication required.|"),
                ("EXEC", "-NOAUTH Authentication required.|"),
                ("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.|"),
                ("AUTH default secret", "+OK|"),
                ("GET a", "$-1|"),
                ("HELLO 4", "-NOPROTO unsupported protocol version|"),
                (
                    "HELLO 3",
                    "%7|$6|server|$5|redis|$7|version|$6|7.0.15|$5|proto|:3|$2|id|:1|$4|mode|$10|standalone|$4|role|$6|master|$7|modules|*0|",
                ),
                ("GET a", "_|"),
                ("SUBSCRIBE c", ">3|$9|subscribe|$1|c|:1|"),
                ("GET a", "_|"),
                (
                    "HELLO 2",
                    "*14|$6|server|$5|redis|$7|version|$6|7.0.15|$5|proto|:2|$2|id|:1|$4|mode|$10|standalone|$4|role|$6|master|$7|modules|*0|",
                ),
                (
                    "GET a",
                    "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context|",
                ),
                ("PING", "*2|$4|pong|$0||"),
                ("RESET", "+RESET|"),
                ("GET a", "-NOAUTH Authentication required.|"),
            ],
        );
    }

    #[test]
    fn databases() {
        talk(
            "",
            &[
                ("SET a 0", "+OK|"),
                ("SELECT 1", "+OK|"),
                ("GET a", "$-1|"),
                ("SELECT 16", "-ERR DB index is out of range|"),
                ("SWAPDB 0 1", "+OK|"),
                ("GET a", "$1|0|"),
                ("MOVE a 2", ":1|"),
                ("DBSIZE", ":0|"),
                ("SELECT 2", "+OK|"),
                ("COPY a b", ":1|"),
                ("RENAME a b", "+OK|"),
                ("KEYS *", "*1|$1|b|"),
                ("SCAN 0 MATCH b COUNT 10", "*2|$1|0|*1|$1|b|"),
                ("FLUSHALL", "+OK|"),
                ("RANDOMKEY", "$-1|"),
                ("EXPIRE b 10", ":0|"),
            ],
        );
    }

    #[cfg(feature = "scripts")]
    #[test]
    fn scripts() {
        if !teemate_lua::is_there() {
            println!("SKIPPED: this was built without a compiler for Lua");
            return;
        }
        talk(
            "",
            &[
                ("EVAL \"return redis.call('set', KEYS[1], ARGV[1])\" 1 a 5", "+OK|"),
                ("GET a", "$1|5|"),
                ("EVAL \"return redis.call('incr', KEYS[1])\" 1 a", ":6|"),
                (
                    "EVAL \"return redis.pcall('lpush', 'a', 1).err\" 0",
                    "$65|WRONGTYPE Operation against a key holding the wrong kind of value|",
                ),
                ("EVAL \"return redis.pcall('eval', 'x', 0)\" 0", "-ERR This Redis command is not allowed from script|"),
                ("EVAL \"return redis.pcall('multi')\" 0", "-ERR This Redis command is not allowed from script|"),
                ("EVAL \"redis.call('select', 1) return redis.call('set', 'b', 1)\" 0", "+OK|"),
                ("EXISTS b", ":0|"),
                ("SCRIPT LOAD \"return 1\"", "$40|e0e1f9fabfc9d4800c877a703b823ac0578ff8db|"),
                ("EVALSHA E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 0", ":1|"),
                ("SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db x", "*2|:1|:0|"),
                ("SCRIPT FLUSH", "+OK|"),
                ("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0", "-NOSCRIPT No matching script. Please use EVAL.|"),
                ("EVAL x 2 a", "-ERR Number of keys can't be greater than number of args|"),
            ],
        );
    }
}
