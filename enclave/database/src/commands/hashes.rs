//! Hashes.

use std::sync::Arc;

use super::keys::Scan;
use super::{Command, Context, Done, Kind, command};
use crate::error::Error;
use crate::number;
use crate::value::{Blob, Hash, Value};

pub const COMMANDS: &[Command] = &[
    command("hset", -4, Kind::Grow, (1, 1, 1), |context| hset(context, false)),
    command("hmset", -4, Kind::Grow, (1, 1, 1), |context| hset(context, true)),
    command("hsetnx", 4, Kind::Grow, (1, 1, 1), hsetnx),
    command("hget", 3, Kind::Read, (1, 1, 1), hget),
    command("hmget", -3, Kind::Read, (1, 1, 1), hmget),
    command("hgetall", 2, Kind::Read, (1, 1, 1), |context| show(context, true, true)),
    command("hkeys", 2, Kind::Read, (1, 1, 1), |context| show(context, true, false)),
    command("hvals", 2, Kind::Read, (1, 1, 1), |context| show(context, false, true)),
    command("hdel", -3, Kind::Write, (1, 1, 1), hdel),
    command("hlen", 2, Kind::Read, (1, 1, 1), hlen),
    command("hexists", 3, Kind::Read, (1, 1, 1), hexists),
    command("hstrlen", 3, Kind::Read, (1, 1, 1), hstrlen),
    command("hincrby", 4, Kind::Grow, (1, 1, 1), hincrby),
    command("hincrbyfloat", 4, Kind::Grow, (1, 1, 1), hincrbyfloat),
    command("hrandfield", -2, Kind::Read, (1, 1, 1), hrandfield),
    command("hscan", -3, Kind::Read, (1, 1, 1), hscan),
];

/// The hash of the first key. Shared: what it shows stays what it is.
fn hash(context: &mut Context<'_>) -> Result<Option<Arc<Hash>>, Error> {
    match context.read(1) {
        None => Ok(None),
        Some(Value::Hash(hash)) => Ok(Some(Arc::clone(hash))),
        Some(_) => Err(Error::WrongType),
    }
}

/// The hash of the first key, to be changed; an empty one is made.
fn hash_mut<'a>(context: &'a mut Context<'_>) -> Result<&'a mut Hash, Error> {
    if context.read(1).is_some_and(|value| !matches!(value, Value::Hash(_))) {
        return Err(Error::WrongType);
    }
    let (db, key) = (context.db(), context.arg(1));
    match context.store.edit_or(db, key, || Value::Hash(Arc::default())) {
        Value::Hash(hash) => Ok(Arc::make_mut(hash)),
        _ => Err(Error::WrongType),
    }
}

fn hset(context: &mut Context<'_>, old_style: bool) -> Done {
    if !context.args.len().is_multiple_of(2) {
        return Err(Error::Arity(context.name()));
    }
    let (pairs, limits) = (&context.args[2..], context.limits());
    let hash = hash_mut(context)?;
    let new = pairs.chunks_exact(2).filter(|pair| hash.insert(pair[0], pair[1], &limits)).count();
    if old_style {
        context.reply.ok()
    } else {
        context.reply.count(new)
    }
    Ok(())
}

fn hsetnx(context: &mut Context<'_>) -> Done {
    let (field, value) = (context.arg(2), context.arg(3));
    let free = hash(context)?.is_none_or(|hash| hash.get(field).is_none());
    if free {
        let limits = context.limits();
        hash_mut(context)?.insert(field, value, &limits);
    }
    context.reply.integer(free.into());
    Ok(())
}

fn hget(context: &mut Context<'_>) -> Done {
    let hash = hash(context)?;
    let value = hash.as_ref().and_then(|hash| hash.get(context.arg(2)));
    context.reply.bulk_or_null(value.map(|value| &**value));
    Ok(())
}

fn hmget(context: &mut Context<'_>) -> Done {
    let hash = hash(context)?;
    context.reply.array(context.args.len() - 2);
    for field in &context.args[2..] {
        let value = hash.as_ref().and_then(|hash| hash.get(field));
        context.reply.bulk_or_null(value.map(|value| &**value));
    }
    Ok(())
}

fn show(context: &mut Context<'_>, fields: bool, values: bool) -> Done {
    let hash = hash(context)?.unwrap_or_default();
    if fields && values {
        context.reply.map(hash.len())
    } else {
        context.reply.array(hash.len())
    }
    for (field, value) in hash.iter() {
        if fields {
            context.reply.bulk(field);
        }
        if values {
            context.reply.bulk(value);
        }
    }
    Ok(())
}

fn hdel(context: &mut Context<'_>) -> Done {
    let fields = &context.args[2..];
    let mut count = 0;
    if hash(context)?.is_some_and(|hash| fields.iter().any(|field| hash.get(field).is_some())) {
        let hash = hash_mut(context)?;
        count = fields.iter().filter(|field| hash.remove(field).is_some()).count();
        let (db, key) = (context.db(), context.arg(1));
        context.store.remove_if_empty(db, key);
    }
    context.reply.count(count);
    Ok(())
}

fn hlen(context: &mut Context<'_>) -> Done {
    let length = hash(context)?.map_or(0, |hash| hash.len());
    context.reply.count(length);
    Ok(())
}

fn hexists(context: &mut Context<'_>) -> Done {
    let there = hash(context)?.is_some_and(|hash| hash.get(context.arg(2)).is_some());
    context.reply.integer(there.into());
    Ok(())
}

fn hstrlen(context: &mut Context<'_>) -> Done {
    let length = hash(context)?.and_then(|hash| hash.get(context.arg(2)).map(|value| value.len()));
    context.reply.count(length.unwrap_or(0));
    Ok(())
}

fn hincrby(context: &mut Context<'_>) -> Done {
    let by = context.integer(3)?;
    let field = context.arg(2);
    let old = match hash(context)?.and_then(|hash| hash.get(field).cloned()) {
        None => 0,
        Some(value) => number::integer(&value).ok_or_else(|| Error::new("hash value is not an integer"))?,
    };
    let new = old.checked_add(by).ok_or(Error::Overflow)?;
    let limits = context.limits();
    hash_mut(context)?.insert(field, new.to_string().as_bytes(), &limits);
    context.reply.integer(new);
    Ok(())
}

fn hincrbyfloat(context: &mut Context<'_>) -> Done {
    if context.float(3)?.is_infinite() {
        return Err(Error::new("value is NaN or Infinity"));
    }
    let (field, by) = (context.arg(2), context.arg(3));
    let old = hash(context)?.and_then(|hash| hash.get(field).cloned()).unwrap_or_else(|| Blob::from(&b"0"[..]));
    number::float(&old).ok_or_else(|| Error::new("hash value is not a float"))?;
    let shown = number::sum(&old, by).ok_or_else(|| Error::new("increment would produce NaN or Infinity"))?;
    let limits = context.limits();
    hash_mut(context)?.insert(field, shown.as_bytes(), &limits);
    context.reply.bulk(shown.as_bytes());
    Ok(())
}

fn hrandfield(context: &mut Context<'_>) -> Done {
    let random = context.random();
    let Some(hash) = hash(context)? else {
        if context.args.len() == 2 {
            context.reply.null()
        } else {
            context.reply.array(0)
        }
        return Ok(());
    };
    if context.args.len() == 2 {
        let field = hash.random(random).map(|(field, _)| field);
        context.reply.bulk_or_null(field);
        return Ok(());
    }
    let with_values = match context.args.len() {
        3 => false,
        4 if context.is(3, "WITHVALUES") => true,
        _ => return Err(Error::Syntax),
    };
    let count = context.integer(2)?;
    let chosen: Vec<(Vec<u8>, Blob)> = super::sets::choose(
        count,
        hash.len(),
        random,
        |random| hash.random(random).map(|(field, value)| (field.to_vec(), Arc::clone(value))),
        || hash.iter().map(|(field, value)| (field.to_vec(), Arc::clone(value))).collect(),
        |chosen| chosen.0.clone(),
    )?;
    let nested = with_values && context.reply.version >= 3;
    context.reply.array(if with_values && !nested { 2 * chosen.len() } else { chosen.len() });
    for (field, value) in &chosen {
        if nested {
            context.reply.array(2);
        }
        context.reply.bulk(field);
        if with_values {
            context.reply.bulk(value);
        }
    }
    Ok(())
}

fn hscan(context: &mut Context<'_>) -> Done {
    let scan = Scan::read(context, 2)?;
    let hash = hash(context)?.unwrap_or_default();
    let mut found: Vec<Vec<u8>> = Vec::new();
    let next = hash.scan(scan.cursor, scan.count, |field, value| {
        if scan.matches(field) {
            found.push(field.to_vec());
            found.push(value.to_vec());
        }
    });
    context.reply.array(2);
    context.reply.bulk(next.to_string().as_bytes());
    context.reply.bulks(found.iter());
    Ok(())
}
