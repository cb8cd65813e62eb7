//! Strings, and bits of them.

use std::borrow::Cow;

use super::{Command, Context, Done, Kind, command, event, flag, range};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::value::{Text, Value};

/// Longest string: Redis's own limit.
const MAX: usize = 512 << 20;

pub const COMMANDS: &[Command] = &[
    command("get", 2, Kind::Read, (1, 1, 1), get).with(flag::FAST),
    command("set", -3, Kind::Grow, (1, 1, 1), set),
    command("setnx", 3, Kind::Grow, (1, 1, 1), setnx).with(flag::FAST),
    command("setex", 4, Kind::Grow, (1, 1, 1), |context| set_for(context, 1000)),
    command("psetex", 4, Kind::Grow, (1, 1, 1), |context| set_for(context, 1)),
    command("getset", 3, Kind::Grow, (1, 1, 1), getset).with(flag::FAST),
    command("getdel", 2, Kind::Write, (1, 1, 1), getdel).with(flag::FAST),
    command("getex", -2, Kind::Write, (1, 1, 1), getex).with(flag::FAST),
    command("mget", -2, Kind::Read, (1, -1, 1), mget).with(flag::FAST),
    command("mset", -3, Kind::Grow, (1, -1, 2), mset),
    command("msetnx", -3, Kind::Grow, (1, -1, 2), msetnx),
    command("append", 3, Kind::Grow, (1, 1, 1), append).with(flag::FAST),
    command("strlen", 2, Kind::Read, (1, 1, 1), strlen).with(flag::FAST),
    command("incr", 2, Kind::Grow, (1, 1, 1), |context| add(context, 1)).with(flag::FAST),
    command("decr", 2, Kind::Grow, (1, 1, 1), |context| add(context, -1)).with(flag::FAST),
    command("incrby", 3, Kind::Grow, (1, 1, 1), |context| context.integer(2).and_then(|by| add(context, by))).with(flag::FAST),
    command("decrby", 3, Kind::Grow, (1, 1, 1), decrby).with(flag::FAST),
    command("incrbyfloat", 3, Kind::Grow, (1, 1, 1), incrbyfloat).with(flag::FAST),
    command("getrange", 4, Kind::Read, (1, 1, 1), getrange),
    command("substr", 4, Kind::Read, (1, 1, 1), getrange),
    command("setrange", 4, Kind::Grow, (1, 1, 1), setrange),
    command("setbit", 4, Kind::Grow, (1, 1, 1), setbit),
    command("getbit", 3, Kind::Read, (1, 1, 1), getbit).with(flag::FAST),
    command("bitcount", -2, Kind::Read, (1, 1, 1), bitcount),
];

/// The text of a key.
fn text<'a>(context: &'a mut Context<'_>, at: usize) -> Result<Option<&'a Text>, Error> {
    match context.read(at) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(Error::WrongType),
    }
}

/// The text of a key, to be changed; an empty one is made.
fn text_mut<'a>(context: &'a mut Context<'_>) -> Result<&'a mut Text, Error> {
    text(context, 1)?;
    let (db, key) = (context.db(), context.arg(1));
    match context.store.edit_or(db, key, || Value::Text(Text::new(b""))) {
        Value::Text(text) => Ok(text),
        _ => Err(Error::WrongType),
    }
}

fn reply(context: &mut Context<'_>, at: usize) -> Done {
    let bytes = text(context, at)?.cloned();
    context.reply.bulk_or_null(bytes.as_ref().map(Text::bytes).as_deref());
    if bytes.is_some() {
        context.shared.counters.hits += 1;
    } else {
        context.shared.counters.misses += 1;
        context.notify(event::MISS, "keymiss", context.arg(at));
    }
    Ok(())
}

fn get(context: &mut Context<'_>) -> Done {
    reply(context, 1)
}

/// The time that an option means, in milliseconds since 1970.
fn time(context: &Context<'_>, at: usize, option: &str) -> Result<Expiry, Error> {
    let (unit, from) = match option {
        "EX" => (1000, context.store.now),
        "PX" => (1, context.store.now),
        "EXAT" => (1000, 0),
        _ => (1, 0),
    };
    let invalid = || Error::ExpireTime(context.name());
    let given = context.integer(at)?;
    let time = given.checked_mul(unit).and_then(|time| time.checked_add(from)).filter(|time| given > 0 && *time > 0);
    time.map(Expiry::At).ok_or_else(invalid)
}

const TIMES: [&str; 4] = ["EX", "PX", "EXAT", "PXAT"];

/// Sets a key. A time that has passed drops it.
fn put(context: &mut Context<'_>, key: &[u8], value: &[u8], expiry: Expiry) {
    let db = context.db();
    if matches!(expiry, Expiry::At(time) if context.store.is_over(time)) {
        if context.store.remove(db, key).is_some() {
            context.notify(event::GENERIC, "del", key);
        }
        return;
    }
    context.store.set(db, key, Value::Text(Text::new(value)), expiry);
    context.notify(event::STRING, "set", key);
    if matches!(expiry, Expiry::At(_)) {
        context.notify(event::GENERIC, "expire", key);
    }
}

fn set(context: &mut Context<'_>) -> Done {
    let (mut expiry, mut only_new, mut only_old, mut get) = (None, false, false, false);
    let mut at = 3;
    while at < context.args.len() {
        if let Some(option) = TIMES.into_iter().find(|option| context.is(at, option)) {
            if expiry.is_some() || at + 1 >= context.args.len() {
                return Err(Error::Syntax);
            }
            expiry = Some(time(context, at + 1, option)?);
            at += 1;
        } else if context.is(at, "KEEPTTL") && expiry.is_none() {
            expiry = Some(Expiry::Keep);
        } else if context.is(at, "NX") && !only_old {
            only_new = true;
        } else if context.is(at, "XX") && !only_new {
            only_old = true;
        } else if context.is(at, "GET") {
            get = true;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    let (db, key) = (context.db(), context.arg(1));
    if get {
        reply(context, 1)?;
    }
    if only_new || only_old {
        let there = context.store.contains(db, key);
        if there == only_new {
            if !get {
                context.reply.null();
            }
            return Ok(());
        }
    }
    put(context, key, context.arg(2), expiry.unwrap_or(Expiry::Never));
    if !get {
        context.reply.ok();
    }
    Ok(())
}

fn setnx(context: &mut Context<'_>) -> Done {
    let (db, key) = (context.db(), context.arg(1));
    let new = !context.store.contains(db, key);
    if new {
        put(context, key, context.arg(2), Expiry::Never);
    }
    context.reply.integer(new.into());
    Ok(())
}

fn set_for(context: &mut Context<'_>, unit: i64) -> Done {
    let expiry = time(context, 2, if unit == 1 { "PX" } else { "EX" })?;
    let key = context.arg(1);
    put(context, key, context.arg(3), expiry);
    context.reply.ok();
    Ok(())
}

fn getset(context: &mut Context<'_>) -> Done {
    reply(context, 1)?;
    let key = context.arg(1);
    put(context, key, context.arg(2), Expiry::Never);
    Ok(())
}

fn getdel(context: &mut Context<'_>) -> Done {
    reply(context, 1)?;
    let (db, key) = (context.db(), context.arg(1));
    if context.store.remove(db, key).is_some() {
        context.notify(event::GENERIC, "del", key);
    }
    Ok(())
}

fn getex(context: &mut Context<'_>) -> Done {
    let expires = match context.args.len() {
        2 => None,
        3 if context.is(2, "PERSIST") => Some(None),
        4 => {
            let option = TIMES.into_iter().find(|option| context.is(2, option)).ok_or(Error::Syntax)?;
            match time(context, 3, option)? {
                Expiry::At(time) => Some(Some(time)),
                Expiry::Never | Expiry::Keep => None,
            }
        }
        _ => return Err(Error::Syntax),
    };
    reply(context, 1)?;
    if let Some(expires) = expires {
        let (db, key) = (context.db(), context.arg(1));
        getex_time(context, db, key, expires);
    }
    Ok(())
}

/// What GETEX does to a key's time.
fn getex_time(context: &mut Context<'_>, db: usize, key: &[u8], expires: Option<i64>) {
    let Some(old) = context.store.expires(db, key) else { return };
    match expires {
        Some(time) if context.store.is_over(time) => {
            context.store.remove(db, key);
            context.notify(event::GENERIC, "del", key);
        }
        Some(_) => {
            context.store.set_expires(db, key, expires);
            context.notify(event::GENERIC, "expire", key);
        }
        None if old.is_some() => {
            context.store.set_expires(db, key, None);
            context.notify(event::GENERIC, "persist", key);
        }
        None => {}
    }
}

fn mget(context: &mut Context<'_>) -> Done {
    context.reply.array(context.args.len() - 1);
    for at in 1..context.args.len() {
        if text(context, at).is_err() {
            context.reply.null();
        } else {
            reply(context, at)?;
        }
    }
    Ok(())
}

fn pairs(context: &Context<'_>) -> Done {
    if context.args.len().is_multiple_of(2) { Err(Error::Arity(context.name())) } else { Ok(()) }
}

fn set_all(context: &mut Context<'_>) {
    let db = context.db();
    for pair in context.args[1..].chunks_exact(2) {
        context.store.set(db, pair[0], Value::Text(Text::new(pair[1])), Expiry::Never);
        context.notify(event::STRING, "set", pair[0]);
    }
}

fn mset(context: &mut Context<'_>) -> Done {
    pairs(context)?;
    set_all(context);
    context.reply.ok();
    Ok(())
}

fn msetnx(context: &mut Context<'_>) -> Done {
    pairs(context)?;
    let db = context.db();
    let free = context.args[1..].chunks_exact(2).all(|pair| !context.store.contains(db, pair[0]));
    if free {
        set_all(context);
    }
    context.reply.integer(free.into());
    Ok(())
}

fn append(context: &mut Context<'_>) -> Done {
    let more = context.arg(2);
    if text(context, 1)?.map_or(0, Text::len) + more.len() > MAX {
        return Err(Error::new("string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    let bytes = text_mut(context)?.bytes_mut();
    bytes.extend_from_slice(more);
    let length = bytes.len();
    context.notify(event::STRING, "append", context.arg(1));
    context.reply.count(length);
    Ok(())
}

fn strlen(context: &mut Context<'_>) -> Done {
    let length = text(context, 1)?.map_or(0, Text::len);
    context.reply.count(length);
    Ok(())
}

fn add(context: &mut Context<'_>, by: i64) -> Done {
    let old = match text(context, 1)? {
        None => 0,
        Some(text) => text.integer().ok_or(Error::NotAnInteger)?,
    };
    let new = old.checked_add(by).ok_or(Error::Overflow)?;
    *text_mut(context)? = Text::Integer(new);
    context.notify(event::STRING, "incrby", context.arg(1));
    context.reply.integer(new);
    Ok(())
}

fn decrby(context: &mut Context<'_>) -> Done {
    let by = context.integer(2)?.checked_neg().ok_or_else(|| Error::new("decrement would overflow"))?;
    add(context, by)
}

fn incrbyfloat(context: &mut Context<'_>) -> Done {
    context.float(2)?;
    let by = context.arg(2);
    let old = text(context, 1)?.map_or(Cow::Borrowed(&b"0"[..]), Text::bytes);
    number::float(&old).ok_or(Error::NotAFloat)?;
    let shown = number::sum(&old, by).ok_or_else(|| Error::new("increment would produce NaN or Infinity"))?;
    *text_mut(context)? = Text::new(shown.as_bytes());
    context.notify(event::STRING, "incrbyfloat", context.arg(1));
    context.reply.bulk(shown.as_bytes());
    Ok(())
}

fn getrange(context: &mut Context<'_>) -> Done {
    let (start, stop) = (context.integer(2)?, context.integer(3)?);
    let bytes = text(context, 1)?.map(|text| text.bytes().into_owned()).unwrap_or_default();
    // Redis takes two negative places in the wrong order for nothing.
    let part = if start < 0 && stop < 0 && start > stop { 0..0 } else { range(start, stop.max(-(bytes.len() as i64)), bytes.len()) };
    context.reply.bulk(&bytes[part]);
    Ok(())
}

fn setrange(context: &mut Context<'_>) -> Done {
    let offset = context.integer(2)?;
    let piece = context.arg(3);
    let offset = usize::try_from(offset).map_err(|_| Error::new("offset is out of range"))?;
    let old = text(context, 1)?.map(Text::len);
    if piece.is_empty() {
        context.reply.count(old.unwrap_or(0));
        return Ok(());
    }
    let end = offset.checked_add(piece.len()).filter(|end| *end <= MAX);
    let end = end.ok_or_else(|| Error::new("string exceeds maximum allowed size (proto-max-bulk-len)"))?;
    let bytes = text_mut(context)?.bytes_mut();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(piece);
    let length = bytes.len();
    context.notify(event::STRING, "setrange", context.arg(1));
    context.reply.count(length);
    Ok(())
}

/// The place of a bit: its byte, and its mask.
fn bit(context: &Context<'_>) -> Result<(usize, u8), Error> {
    let place = number::integer(context.arg(2)).and_then(|place| usize::try_from(place).ok()).filter(|place| place / 8 < MAX);
    let place = place.ok_or_else(|| Error::new("bit offset is not an integer or out of range"))?;
    Ok((place / 8, 0x80 >> (place % 8)))
}

fn setbit(context: &mut Context<'_>) -> Done {
    let (byte, mask) = bit(context)?;
    let on = match context.arg(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err(Error::new("bit is not an integer or out of range")),
    };
    if let Some(old) = text(context, 1)?.and_then(|text| text.bytes().get(byte).map(|byte| byte & mask != 0))
        && old == on
    {
        context.reply.integer(old.into());
        return Ok(());
    }
    let bytes = text_mut(context)?.bytes_mut();
    if bytes.len() <= byte {
        bytes.resize(byte + 1, 0);
    }
    let old = bytes[byte] & mask != 0;
    if on {
        bytes[byte] |= mask
    } else {
        bytes[byte] &= !mask
    }
    context.notify(event::STRING, "setbit", context.arg(1));
    context.reply.integer(old.into());
    Ok(())
}

fn getbit(context: &mut Context<'_>) -> Done {
    let (byte, mask) = bit(context)?;
    let on = text(context, 1)?.is_some_and(|text| text.bytes().get(byte).is_some_and(|byte| byte & mask != 0));
    context.reply.integer(on.into());
    Ok(())
}

fn bitcount(context: &mut Context<'_>) -> Done {
    let bits = match context.args.len() {
        2 | 4 => false,
        5 if context.is(4, "BIT") => true,
        5 if context.is(4, "BYTE") => false,
        _ => return Err(Error::Syntax),
    };
    let ends = if context.args.len() > 2 { Some((context.integer(2)?, context.integer(3)?)) } else { None };
    let bytes = text(context, 1)?.map(|text| text.bytes().into_owned()).unwrap_or_default();
    let count = match ends {
        None => bytes.iter().map(|byte| byte.count_ones() as usize).sum(),
        Some((start, stop)) if bits => {
            range(start, stop, bytes.len() * 8).filter(|place| bytes[place / 8] & (0x80 >> (place % 8)) != 0).count()
        }
        Some((start, stop)) => bytes[range(start, stop, bytes.len())].iter().map(|byte| byte.count_ones() as usize).sum(),
    };
    context.reply.count(count);
    Ok(())
}
