//! Keys, whatever they hold: life, time, names, and going through them.

use super::{Command, Context, Done, Kind, command, event, flag};
use crate::error::Error;
use crate::glob;
use crate::number;
use crate::store::Expiry;
use crate::value::Value;

pub const COMMANDS: &[Command] = &[
    command("del", -2, Kind::Write, (1, -1, 1), del),
    command("unlink", -2, Kind::Write, (1, -1, 1), del).with(flag::FAST),
    command("exists", -2, Kind::Read, (1, -1, 1), exists).with(flag::FAST),
    command("touch", -2, Kind::Read, (1, -1, 1), exists).with(flag::FAST),
    command("type", 2, Kind::Read, (1, 1, 1), kind).with(flag::FAST),
    command("expire", -3, Kind::Write, (1, 1, 1), |context| expire(context, 1000, true)).with(flag::FAST),
    command("pexpire", -3, Kind::Write, (1, 1, 1), |context| expire(context, 1, true)).with(flag::FAST),
    command("expireat", -3, Kind::Write, (1, 1, 1), |context| expire(context, 1000, false)).with(flag::FAST),
    command("pexpireat", -3, Kind::Write, (1, 1, 1), |context| expire(context, 1, false)).with(flag::FAST),
    command("ttl", 2, Kind::Read, (1, 1, 1), |context| left(context, |time, now| (time - now + 500) / 1000)).with(flag::FAST),
    command("pttl", 2, Kind::Read, (1, 1, 1), |context| left(context, |time, now| time - now)).with(flag::FAST),
    command("expiretime", 2, Kind::Read, (1, 1, 1), |context| left(context, |time, _| (time + 500) / 1000)).with(flag::FAST),
    command("pexpiretime", 2, Kind::Read, (1, 1, 1), |context| left(context, |time, _| time)).with(flag::FAST),
    command("persist", 2, Kind::Write, (1, 1, 1), persist).with(flag::FAST),
    command("rename", 3, Kind::Write, (1, 2, 1), |context| rename(context, false)),
    command("renamenx", 3, Kind::Write, (1, 2, 1), |context| rename(context, true)).with(flag::FAST),
    command("copy", -3, Kind::Grow, (1, 2, 1), copy),
    command("move", 3, Kind::Write, (1, 1, 1), move_key).with(flag::FAST),
    command("keys", 2, Kind::Read, (0, 0, 0), keys).with(flag::DANGEROUS),
    command("scan", -2, Kind::Read, (0, 0, 0), scan),
    command("randomkey", 1, Kind::Read, (0, 0, 0), randomkey),
    command("dbsize", 1, Kind::Read, (0, 0, 0), dbsize).with(flag::FAST),
    command("flushdb", -1, Kind::Write, (0, 0, 0), |context| flush(context, false)).with(flag::DANGEROUS),
    command("flushall", -1, Kind::Write, (0, 0, 0), |context| flush(context, true)).with(flag::DANGEROUS),
    command("swapdb", 3, Kind::Write, (0, 0, 0), swapdb).with(flag::FAST | flag::DANGEROUS),
    command("object", -2, Kind::Read, (2, 2, 1), object).with(flag::MOVABLE),
];

fn del(context: &mut Context<'_>) -> Done {
    let db = context.db();
    let mut count = 0;
    for key in &context.args[1..] {
        if context.store.remove(db, key).is_some() {
            context.notify(event::GENERIC, "del", key);
            count += 1;
        }
    }
    context.reply.count(count);
    Ok(())
}

fn exists(context: &mut Context<'_>) -> Done {
    let db = context.db();
    let count = context.args[1..].iter().filter(|key| context.store.contains(db, key)).count();
    context.reply.count(count);
    Ok(())
}

fn kind(context: &mut Context<'_>) -> Done {
    let (db, key) = (context.db(), context.arg(1));
    let kind = context.store.peek(db, key).map_or("none", Value::kind);
    context.reply.simple(kind);
    Ok(())
}

fn expire(context: &mut Context<'_>, unit: i64, relative: bool) -> Done {
    let given = context.integer(2)?;
    let from = if relative { context.store.now } else { 0 };
    let time = given.checked_mul(unit).and_then(|time| time.checked_add(from)).ok_or_else(|| Error::ExpireTime(context.name()))?;
    let (mut new, mut old, mut later, mut sooner) = (false, false, false, false);
    for at in 3..context.args.len() {
        match context.arg(at).to_ascii_uppercase().as_slice() {
            b"NX" => new = true,
            b"XX" => old = true,
            b"GT" => later = true,
            b"LT" => sooner = true,
            other => return Err(Error::new(format_args!("Unsupported option {}", String::from_utf8_lossy(other)))),
        }
    }
    if new && (old || later || sooner) {
        return Err(Error::new("NX and XX, GT or LT options at the same time are not compatible"));
    }
    if later && sooner {
        return Err(Error::new("GT and LT options at the same time are not compatible"));
    }
    let (db, key) = (context.db(), context.arg(1));
    let does = match context.store.expires(db, key) {
        None => false,
        // What has no time stays for ever, which is later than any.
        Some(None) => !old && !later,
        Some(Some(now)) => !new && (!later || time > now) && (!sooner || time < now),
    };
    if does {
        if context.store.is_over(time) {
            context.store.remove(db, key);
            context.notify(event::GENERIC, "del", key);
        } else {
            context.store.set_expires(db, key, Some(time));
            context.notify(event::GENERIC, "expire", key);
        }
    }
    context.reply.integer(does.into());
    Ok(())
}

fn left(context: &mut Context<'_>, show: fn(i64, i64) -> i64) -> Done {
    let (db, key, now) = (context.db(), context.arg(1), context.store.now);
    let answer = match context.store.expires(db, key) {
        None => -2,
        Some(None) => -1,
        Some(Some(time)) => show(time, now).max(0),
    };
    context.reply.integer(answer);
    Ok(())
}

fn persist(context: &mut Context<'_>) -> Done {
    let (db, key) = (context.db(), context.arg(1));
    let had = matches!(context.store.expires(db, key), Some(Some(_)));
    if had {
        context.store.set_expires(db, key, None);
        context.notify(event::GENERIC, "persist", key);
    }
    context.reply.integer(had.into());
    Ok(())
}

fn rename(context: &mut Context<'_>, only_new: bool) -> Done {
    let (db, from, to) = (context.db(), context.arg(1), context.arg(2));
    if !context.store.contains(db, from) {
        return Err(Error::NoSuchKey);
    }
    if only_new && context.store.contains(db, to) {
        context.reply.integer(0);
        return Ok(());
    }
    if from != to
        && let Some((value, expires)) = context.store.remove(db, from)
    {
        context.store.set(db, to, value, expires.map_or(Expiry::Never, Expiry::At));
        context.notify(event::GENERIC, "rename_from", from);
        context.notify(event::GENERIC, "rename_to", to);
    }
    if only_new {
        context.reply.integer(1)
    } else {
        context.reply.ok()
    }
    Ok(())
}

/// A number of a database.
fn database(context: &Context<'_>, at: usize) -> Result<usize, Error> {
    let number = usize::try_from(context.integer(at)?).ok();
    number.filter(|number| *number < context.store.databases()).ok_or(Error::Database)
}

fn copy(context: &mut Context<'_>) -> Done {
    let (mut to, mut replace) = (context.db(), false);
    let mut at = 3;
    while at < context.args.len() {
        if context.is(at, "REPLACE") {
            replace = true;
        } else if context.is(at, "DB") && at + 1 < context.args.len() {
            to = database(context, at + 1)?;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    let (db, key, new) = (context.db(), context.arg(1), context.arg(2));
    if db == to && key == new {
        return Err(Error::new("source and destination objects are the same"));
    }
    let expires = context.store.expires(db, key).flatten();
    let value = context.store.get(db, key).cloned();
    let does = value.is_some() && (replace || !context.store.contains(to, new));
    if let Some(value) = value.filter(|_| does) {
        context.store.set(to, new, value, expires.map_or(Expiry::Never, Expiry::At));
        context.notify_in(to, event::GENERIC, "copy_to", new);
    }
    context.reply.integer(does.into());
    Ok(())
}

fn move_key(context: &mut Context<'_>) -> Done {
    let (db, key) = (context.db(), context.arg(1));
    let to = database(context, 2)?;
    if to == db {
        return Err(Error::new("source and destination objects are the same"));
    }
    let free = !context.store.contains(to, key);
    let moved = if free { context.store.remove(db, key) } else { None };
    context.reply.integer(moved.is_some().into());
    if let Some((value, expires)) = moved {
        context.store.set(to, key, value, expires.map_or(Expiry::Never, Expiry::At));
        context.notify(event::GENERIC, "move_from", key);
        context.notify_in(to, event::GENERIC, "move_to", key);
    }
    Ok(())
}

fn keys(context: &mut Context<'_>) -> Done {
    let (db, pattern) = (context.db(), context.arg(1));
    let mut found: Vec<Box<[u8]>> = Vec::new();
    context.store.scan(db, 0, usize::MAX, |key, _| {
        if glob::matches(pattern, key) {
            found.push(key.into());
        }
    });
    context.reply.bulks(found.iter());
    Ok(())
}

/// What SCAN and its like are asked for.
pub(super) struct Scan<'a> {
    pub cursor: u64,
    pub count: usize,
    pattern: Option<&'a [u8]>,
    kind: Option<Vec<u8>>,
}

impl<'a> Scan<'a> {
    /// From the arguments: the cursor is at this place.
    pub fn read(context: &Context<'a>, at: usize) -> Result<Scan<'a>, Error> {
        let cursor = std::str::from_utf8(context.arg(at)).ok().and_then(|text| text.parse().ok());
        let mut scan = Scan { cursor: cursor.ok_or_else(|| Error::new("invalid cursor"))?, count: 10, pattern: None, kind: None };
        let mut at = at + 1;
        while at < context.args.len() {
            if at + 1 == context.args.len() {
                return Err(Error::Syntax);
            }
            if context.is(at, "COUNT") {
                let count = context.integer(at + 1)?;
                scan.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Error::Syntax)?;
            } else if context.is(at, "MATCH") {
                scan.pattern = Some(context.arg(at + 1));
            } else if context.is(at, "TYPE") && context.is(0, "scan") {
                scan.kind = Some(context.arg(at + 1).to_ascii_lowercase());
            } else {
                return Err(Error::Syntax);
            }
            at += 2;
        }
        Ok(scan)
    }

    /// Whether a name is wanted.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

fn scan(context: &mut Context<'_>) -> Done {
    let scan = Scan::read(context, 1)?;
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let next = context.store.scan_and_expire(context.db(), scan.cursor, scan.count, |key, value| {
        if scan.matches(key) && scan.kind.as_ref().is_none_or(|kind| value.kind().as_bytes() == kind) {
            found.push(key.into());
        }
    });
    context.reply.array(2);
    context.reply.bulk(next.to_string().as_bytes());
    context.reply.bulks(found.iter());
    Ok(())
}

fn randomkey(context: &mut Context<'_>) -> Done {
    let random = context.random();
    let key = context.store.random(context.db(), random);
    context.reply.bulk_or_null(key.as_deref());
    Ok(())
}

fn dbsize(context: &mut Context<'_>) -> Done {
    let length = context.store.len(context.db());
    context.reply.count(length);
    Ok(())
}

fn flush(context: &mut Context<'_>, all: bool) -> Done {
    if context.args.len() > 2 || context.args.len() == 2 && !context.is(1, "ASYNC") && !context.is(1, "SYNC") {
        return Err(Error::Syntax);
    }
    if all {
        (0..context.store.databases()).for_each(|db| context.store.flush(db));
    } else {
        context.store.flush(context.db());
    }
    context.reply.ok();
    Ok(())
}

fn swapdb(context: &mut Context<'_>) -> Done {
    let first = number::integer(context.arg(1)).ok_or_else(|| Error::new("invalid first DB index"));
    let second = number::integer(context.arg(2)).ok_or_else(|| Error::new("invalid second DB index"));
    first?;
    second?;
    let (a, b) = (database(context, 1)?, database(context, 2)?);
    context.store.swap(a, b);
    context.reply.ok();
    Ok(())
}

/// About how many bytes a key takes.
fn object(context: &mut Context<'_>) -> Done {
    let (db, key) = (context.db(), context.arg(2));
    let adjust = "Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";
    match context.subcommand().as_str() {
        "encoding" => {
            context.count(3..=3)?;
            let encoding = context.store.peek(db, key).map(Value::encoding);
            context.reply.bulk_or_null(encoding.map(str::as_bytes));
        }
        "refcount" => {
            context.count(3..=3)?;
            match context.store.peek(db, key) {
                // As Redis, which keeps one object for each of these.
                Some(Value::Text(crate::value::Text::Integer(0..=9999))) => context.reply.integer(i64::from(i32::MAX)),
                Some(_) => context.reply.integer(1),
                None => context.reply.null(),
            }
        }
        "idletime" => {
            context.count(3..=3)?;
            let access = context.store.access(db, key);
            if access.is_some() && context.shared.config.hot.counts {
                return Err(Error::new(format_args!("An LFU maxmemory policy is selected, idle time not tracked. {adjust}")));
            }
            match access {
                Some(access) => context.reply.integer(i64::from(context.store.clock.idle(access) / 1000)),
                None => context.reply.null(),
            }
        }
        "freq" => {
            context.count(3..=3)?;
            let access = context.store.access(db, key);
            if access.is_some() && !context.shared.config.hot.counts {
                return Err(Error::new(format_args!("An LFU maxmemory policy is not selected, access frequency not tracked. {adjust}")));
            }
            match access {
                Some(access) => context.reply.integer(i64::from(context.store.clock.count(access))),
                None => context.reply.null(),
            }
        }
        "help" => super::help(
            context,
            &[
                "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "ENCODING <key>",
                "FREQ <key>",
                "HELP",
                "IDLETIME <key>",
                "REFCOUNT <key>",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}
