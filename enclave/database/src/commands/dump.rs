//! Values out of one database and into another.

use super::{Command, Context, Done, Kind, command, event, flag};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::stored;

pub const COMMANDS: &[Command] = &[
    command("dump", 2, Kind::Read, (1, 1, 1), dump).with(flag::KEYSPACE),
    command("restore", -4, Kind::Grow, (1, 1, 1), restore).with(flag::KEYSPACE | flag::DANGEROUS),
    command("restore-asking", -4, Kind::Grow, (1, 1, 1), restore).with(flag::KEYSPACE | flag::DANGEROUS),
];

fn dump(context: &mut Context<'_>) -> Done {
    let Some(value) = context.look(1).cloned() else {
        context.reply.null();
        return Ok(());
    };
    let dumped = teemate_rdb::dump(|writer| stored::write(writer, 0, b"", &value, None));
    let dumped = dumped.map_err(|error| Error::new(format_args!("the value can't be written: {error}")))?;
    context.reply.bulk(&dumped);
    Ok(())
}

fn restore(context: &mut Context<'_>) -> Done {
    let (mut replace, mut absolute, mut at) = (false, false, 4);
    let (mut idle, mut count) = (None, None);
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "REPLACE") {
            replace = true;
        } else if context.is(at, "ABSTTL") {
            absolute = true;
        } else if context.is(at, "IDLETIME") && left >= 1 && count.is_none() {
            at += 1;
            let seconds = u32::try_from(context.integer(at)?).map_err(|_| Error::new("Invalid IDLETIME value, must be >= 0"))?;
            idle = Some(seconds.saturating_mul(1000));
        } else if context.is(at, "FREQ") && left >= 1 && idle.is_none() {
            at += 1;
            let often = u8::try_from(context.integer(at)?).map_err(|_| Error::new("Invalid FREQ value, must be >= 0 and <= 255"))?;
            count = Some(u32::from(often));
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    let (db, key, now) = (context.db(), context.arg(1), context.store.now);
    if !replace && context.store.contains(db, key) {
        return Err(Error::Other("BUSYKEY Target key name already exists.".to_owned()));
    }
    let time = number::integer(context.arg(2)).ok_or(Error::NotAnInteger)?;
    if time < 0 {
        return Err(Error::new("Invalid TTL value, must be >= 0"));
    }
    let value = teemate_rdb::restore(context.arg(3)).map_err(|error| match error {
        teemate_rdb::Error::Payload => Error::new("DUMP payload version or checksum are wrong"),
        _ => Error::new("Bad data format"),
    })?;
    let value = stored::read(value, &context.limits()).ok_or_else(|| Error::new("Bad data format"))?;
    let expires = if absolute || time == 0 { time } else { now.saturating_add(time) };
    if expires != 0 && context.store.is_over(expires) {
        // It is over already.
        if context.store.remove(db, key).is_some() {
            context.notify(event::GENERIC, "del", key);
            context.rewrite(&[&[b"DEL", key]]);
        }
        context.reply.ok();
        return Ok(());
    }
    context.store.set(db, key, value, if expires == 0 { Expiry::Never } else { Expiry::At(expires) });
    if idle.is_some() || count.is_some() {
        let access = context.store.clock.access(idle.unwrap_or(0), count.unwrap_or(0));
        context.store.set_access(db, key, access);
    }
    context.notify(event::GENERIC, "restore", key);
    let (shown, payload) = (expires.to_string(), context.arg(3));
    context.rewrite(&[&[b"RESTORE", key, shown.as_bytes(), payload, b"REPLACE", b"ABSTTL"]]);
    context.reply.ok();
    Ok(())
}
