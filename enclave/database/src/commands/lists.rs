//! Lists, and waiting for them.

use super::{Command, Context, Done, Kind, command, flag, range};
use crate::error::Error;
use crate::number;
use crate::session::Otherwise;
use crate::structures::Sequence;
use crate::value::{Blob, Value};

pub const COMMANDS: &[Command] = &[
    command("lpush", -3, Kind::Grow, (1, 1, 1), |context| push(context, true, false)),
    command("rpush", -3, Kind::Grow, (1, 1, 1), |context| push(context, false, false)),
    command("lpushx", -3, Kind::Grow, (1, 1, 1), |context| push(context, true, true)),
    command("rpushx", -3, Kind::Grow, (1, 1, 1), |context| push(context, false, true)),
    command("lpop", -2, Kind::Write, (1, 1, 1), |context| pop(context, true)),
    command("rpop", -2, Kind::Write, (1, 1, 1), |context| pop(context, false)),
    command("llen", 2, Kind::Read, (1, 1, 1), llen),
    command("lrange", 4, Kind::Read, (1, 1, 1), lrange),
    command("lindex", 3, Kind::Read, (1, 1, 1), lindex),
    command("lset", 4, Kind::Grow, (1, 1, 1), lset),
    command("linsert", 5, Kind::Grow, (1, 1, 1), linsert),
    command("lrem", 4, Kind::Write, (1, 1, 1), lrem),
    command("ltrim", 4, Kind::Write, (1, 1, 1), ltrim),
    command("lpos", -3, Kind::Read, (1, 1, 1), lpos),
    command("lmove", 5, Kind::Grow, (1, 2, 1), lmove),
    command("rpoplpush", 3, Kind::Grow, (1, 2, 1), |context| carry(context, false, true).map(drop)),
    command("blpop", -3, Kind::Write, (1, -2, 1), |context| wait_and_pop(context, true)).with(flag::BLOCKING | flag::NO_SCRIPT),
    command("brpop", -3, Kind::Write, (1, -2, 1), |context| wait_and_pop(context, false)).with(flag::BLOCKING | flag::NO_SCRIPT),
    command("blmove", 6, Kind::Grow, (1, 2, 1), blmove).with(flag::BLOCKING | flag::NO_SCRIPT),
    command("lmpop", -4, Kind::Write, (0, 0, 0), |context| lmpop(context, 1)).with(flag::MOVABLE),
    command("blmpop", -5, Kind::Write, (0, 0, 0), |context| lmpop(context, 2)).with(flag::MOVABLE | flag::BLOCKING | flag::NO_SCRIPT),
    command("brpoplpush", 4, Kind::Grow, (1, 2, 1), |context| wait_and_carry(context, false, true, 3))
        .with(flag::BLOCKING | flag::NO_SCRIPT),
];

type List = Sequence<Blob>;

/// The list of a key. Shared: what it shows stays what it is.
fn list(context: &mut Context<'_>, at: usize) -> Result<Option<List>, Error> {
    match context.read(at) {
        None => Ok(None),
        Some(Value::List(list)) => Ok(Some(list.clone())),
        Some(_) => Err(Error::WrongType),
    }
}

/// Changes the list of a key that holds one; a key whose list is empty afterwards goes.
fn change<T>(context: &mut Context<'_>, at: usize, act: impl FnOnce(&mut List) -> T) -> Result<Option<T>, Error> {
    if context.read(at).is_some_and(|value| !matches!(value, Value::List(_))) {
        return Err(Error::WrongType);
    }
    let (db, key) = (context.db(), context.arg(at));
    let done = match context.store.edit(db, key) {
        Some(Value::List(list)) => Some(act(list)),
        _ => None,
    };
    context.store.remove_if_empty(db, key);
    Ok(done)
}

/// Puts elements into the list of a key, which is made if it is not there.
fn put(context: &mut Context<'_>, key: &[u8], items: &[&[u8]], left: bool) -> Result<usize, Error> {
    let db = context.db();
    if context.store.get(db, key).is_some_and(|value| !matches!(value, Value::List(_))) {
        return Err(Error::WrongType);
    }
    match context.store.edit_or(db, key, || Value::List(List::new())) {
        Value::List(list) => {
            for item in items {
                if left { list.push_front((*item).into()) } else { list.push_back((*item).into()) }
            }
            Ok(list.len())
        }
        _ => Err(Error::WrongType),
    }
}

fn push(context: &mut Context<'_>, left: bool, only_old: bool) -> Done {
    let (key, items) = (context.arg(1), &context.args[2..]);
    let length = if only_old && list(context, 1)?.is_none() { 0 } else { put(context, key, items, left)? };
    context.reply.count(length);
    Ok(())
}

fn take(list: &mut List, left: bool) -> Option<Blob> {
    if left { list.pop_front() } else { list.pop_back() }
}

fn pop(context: &mut Context<'_>, left: bool) -> Done {
    let count = match context.args.len() {
        2 => None,
        3 => {
            let count = number::integer(context.arg(2)).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or_else(|| Error::new("value is out of range, must be positive"))?)
        }
        _ => return Err(Error::Arity(context.name())),
    };
    match count {
        None => {
            let item = change(context, 1, |list| take(list, left))?.flatten();
            context.reply.bulk_or_null(item.as_deref());
        }
        Some(0) => {
            let there = list(context, 1)?.is_some();
            if there { context.reply.array(0) } else { context.reply.null_array() }
        }
        Some(count) => match change(context, 1, |list| std::iter::from_fn(|| take(list, left)).take(count).collect::<Vec<_>>())? {
            Some(items) => context.reply.bulks(items.iter()),
            None => context.reply.null_array(),
        },
    }
    Ok(())
}

fn llen(context: &mut Context<'_>) -> Done {
    let length = list(context, 1)?.map_or(0, |list| list.len());
    context.reply.count(length);
    Ok(())
}

fn lrange(context: &mut Context<'_>) -> Done {
    let (start, stop) = (context.integer(2)?, context.integer(3)?);
    let list = list(context, 1)?.unwrap_or_default();
    context.reply.bulks(list.range(range(start, stop, list.len())));
    Ok(())
}

/// A place that counts from either end.
fn place(at: i64, length: usize) -> Option<usize> {
    let at = if at < 0 { at + length as i64 } else { at };
    usize::try_from(at).ok().filter(|at| *at < length)
}

fn lindex(context: &mut Context<'_>) -> Done {
    let at = context.integer(2)?;
    let list = list(context, 1)?.unwrap_or_default();
    let item = place(at, list.len()).and_then(|at| list.get(at));
    context.reply.bulk_or_null(item.map(|item| &**item));
    Ok(())
}

fn lset(context: &mut Context<'_>) -> Done {
    let length = list(context, 1)?.ok_or(Error::NoSuchKey)?.len();
    let at = place(context.integer(2)?, length).ok_or(Error::IndexOutOfRange)?;
    let item: Blob = context.arg(3).into();
    change(context, 1, |list| list.get_mut(at).map(|old| *old = item))?;
    context.reply.ok();
    Ok(())
}

fn linsert(context: &mut Context<'_>) -> Done {
    let before = match context.arg(2).to_ascii_lowercase().as_slice() {
        b"before" => true,
        b"after" => false,
        _ => return Err(Error::Syntax),
    };
    let (pivot, item) = (context.arg(3), context.arg(4));
    let answer = match list(context, 1)? {
        None => 0,
        Some(list) => match list.iter().position(|known| **known == *pivot) {
            None => -1,
            Some(at) => {
                drop(list);
                let length = change(context, 1, |list| {
                    list.insert(if before { at } else { at + 1 }, item.into());
                    list.len()
                })?;
                length.map_or(0, |length| length as i64)
            }
        },
    };
    context.reply.integer(answer);
    Ok(())
}

fn lrem(context: &mut Context<'_>) -> Done {
    let count = context.integer(2)?;
    let item = context.arg(3);
    let most = if count == 0 { usize::MAX } else { usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX) };
    let list = list(context, 1)?.unwrap_or_default();
    let found = list.iter().enumerate().filter(|(_, known)| ***known == *item).map(|(at, _)| at);
    let mut places: Vec<usize> = if count < 0 {
        let length = list.len();
        list.iter().rev().enumerate().filter(|(_, known)| ***known == *item).map(|(at, _)| length - 1 - at).take(most).collect()
    } else {
        found.take(most).collect()
    };
    drop(list);
    // From the back, so that the places of those before stay.
    places.sort_unstable_by(|a, b| b.cmp(a));
    if !places.is_empty() {
        change(context, 1, |list| places.iter().for_each(|at| drop(list.remove(*at))))?;
    }
    context.reply.count(places.len());
    Ok(())
}

fn ltrim(context: &mut Context<'_>) -> Done {
    let (start, stop) = (context.integer(2)?, context.integer(3)?);
    change(context, 1, |list| {
        let keep = range(start, stop, list.len());
        list.remove_range(keep.end..list.len());
        list.remove_range(0..keep.start);
    })?;
    context.reply.ok();
    Ok(())
}

fn lpos(context: &mut Context<'_>) -> Done {
    let (mut rank, mut count, mut most) = (1, None, 0);
    let mut at = 3;
    while at < context.args.len() {
        if at + 1 == context.args.len() {
            return Err(Error::Syntax);
        }
        let number = context.integer(at + 1)?;
        let natural = |name: &str| usize::try_from(number).map_err(|_| Error::new(format_args!("{name} can't be negative")));
        if context.is(at, "RANK") {
            if number == 0 || number == i64::MIN {
                return Err(Error::new(
                    "RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list",
                ));
            }
            rank = number;
        } else if context.is(at, "COUNT") {
            count = Some(natural("COUNT")?);
        } else if context.is(at, "MAXLEN") {
            most = natural("MAXLEN")?;
        } else {
            return Err(Error::Syntax);
        }
        at += 2;
    }
    let item = context.arg(2);
    let list = list(context, 1)?.unwrap_or_default();
    let length = list.len();
    let looked = if most == 0 { length } else { most.min(length) };
    let wanted = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let skip = (rank.unsigned_abs() - 1) as usize;
    let places: Vec<usize> = if rank > 0 {
        list.iter().take(looked).enumerate().filter(|(_, known)| ***known == *item).map(|(at, _)| at).skip(skip).take(wanted).collect()
    } else {
        let back = list.iter().rev().take(looked).enumerate();
        back.filter(|(_, known)| ***known == *item).map(|(at, _)| length - 1 - at).skip(skip).take(wanted).collect()
    };
    match (count, places.first()) {
        (Some(_), _) => {
            context.reply.array(places.len());
            places.iter().for_each(|at| context.reply.count(*at));
        }
        (None, Some(at)) => context.reply.count(*at),
        (None, None) => context.reply.null(),
    }
    Ok(())
}

fn side(word: &[u8]) -> Result<bool, Error> {
    match word.to_ascii_lowercase().as_slice() {
        b"left" => Ok(true),
        b"right" => Ok(false),
        _ => Err(Error::Syntax),
    }
}

/// Takes from one list and puts into another. Whether there was something.
fn carry(context: &mut Context<'_>, from_left: bool, to_left: bool) -> Result<bool, Error> {
    if list(context, 1)?.is_none() {
        context.reply.null();
        return Ok(false);
    }
    list(context, 2)?;
    let is_one = context.arg(1) == context.arg(2);
    let taken = change(context, 1, |list| {
        let item = take(list, from_left)?;
        // Of one list it never goes: a list of one element keeps its time.
        match is_one {
            true if to_left => list.push_front(item.clone()),
            true => list.push_back(item.clone()),
            false => {}
        }
        Some(item)
    });
    let item = taken?.flatten();
    if let Some(item) = item.as_deref().filter(|_| !is_one) {
        put(context, context.arg(2), &[item], to_left)?;
    }
    context.reply.bulk_or_null(item.as_deref());
    Ok(item.is_some())
}

fn lmove(context: &mut Context<'_>) -> Done {
    let (from, to) = (side(context.arg(3))?, side(context.arg(4))?);
    carry(context, from, to).map(drop)
}

fn wait_and_pop(context: &mut Context<'_>, left: bool) -> Done {
    let last = context.args.len() - 1;
    let until = context.timeout(last)?;
    for at in 1..last {
        if list(context, at)?.is_some() {
            let item = change(context, at, |list| take(list, left))?.flatten();
            context.session.waiting = None;
            context.reply.array(2);
            context.reply.bulk(context.args[at]);
            context.reply.bulk_or_null(item.as_deref());
            return Ok(());
        }
    }
    if context.session.executing {
        context.reply.null_array();
    } else {
        context.block(&context.args[1..last], until, Otherwise::NullArray);
    }
    Ok(())
}

/// What LMPOP and ZMPOP are asked for: the places of the keys, which end, how many.
pub(super) fn many(context: &Context<'_>, at: usize, ends: [(&str, bool); 2]) -> Result<(std::ops::Range<usize>, bool, usize), Error> {
    let natural = |text: &[u8]| number::integer(text).and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
    let count = natural(context.arg(at)).ok_or_else(|| Error::new("numkeys should be greater than 0"))?;
    let end = count.checked_add(at + 1).filter(|end| *end < context.args.len()).ok_or(Error::Syntax)?;
    let side = ends.into_iter().find(|(word, _)| context.is(end, word)).ok_or(Error::Syntax)?.1;
    let count = match context.args.len() - end {
        1 => 1,
        3 if context.is(end + 1, "COUNT") => natural(context.arg(end + 2)).ok_or_else(|| Error::new("count should be greater than 0"))?,
        _ => return Err(Error::Syntax),
    };
    Ok((at + 1..end, side, count))
}

/// LMPOP, and BLMPOP whose time comes first: `at` is where the number of keys is.
fn lmpop(context: &mut Context<'_>, at: usize) -> Done {
    let until = if at == 2 { context.timeout(1)? } else { None };
    let (keys, left, count) = many(context, at, [("LEFT", true), ("RIGHT", false)])?;
    for key in keys.clone() {
        if list(context, key)?.is_some() {
            let items = change(context, key, |list| std::iter::from_fn(|| take(list, left)).take(count).collect::<Vec<_>>())?;
            context.session.waiting = None;
            context.reply.array(2);
            context.reply.bulk(context.args[key]);
            context.reply.bulks(items.unwrap_or_default().iter());
            return Ok(());
        }
    }
    if at == 1 || context.session.executing {
        context.reply.null_array();
    } else {
        context.block(&context.args[keys], until, Otherwise::NullArray);
    }
    Ok(())
}

fn wait_and_carry(context: &mut Context<'_>, from_left: bool, to_left: bool, time: usize) -> Done {
    let until = context.timeout(time)?;
    if list(context, 1)?.is_some() || context.session.executing {
        context.session.waiting = None;
        return carry(context, from_left, to_left).map(drop);
    }
    context.block(&context.args[1..2], until, Otherwise::Null);
    Ok(())
}

fn blmove(context: &mut Context<'_>) -> Done {
    let (from, to) = (side(context.arg(3))?, side(context.arg(4))?);
    wait_and_carry(context, from, to, 5)
}
