//! Sets.

use std::collections::HashSet;
use std::sync::Arc;

use super::keys::Scan;
use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::value::{Limits, Set, Value};

pub const COMMANDS: &[Command] = &[
    command("sadd", -3, Kind::Grow, (1, 1, 1), sadd),
    command("srem", -3, Kind::Write, (1, 1, 1), srem),
    command("sismember", 3, Kind::Read, (1, 1, 1), sismember),
    command("smismember", -3, Kind::Read, (1, 1, 1), smismember),
    command("scard", 2, Kind::Read, (1, 1, 1), scard),
    command("smembers", 2, Kind::Read, (1, 1, 1), smembers),
    command("spop", -2, Kind::Write, (1, 1, 1), spop),
    command("srandmember", -2, Kind::Read, (1, 1, 1), srandmember),
    command("smove", 4, Kind::Write, (1, 2, 1), smove),
    command("sinter", -2, Kind::Read, (1, -1, 1), |context| combine(context, inter, 1, false)),
    command("sunion", -2, Kind::Read, (1, -1, 1), |context| combine(context, union, 1, false)),
    command("sdiff", -2, Kind::Read, (1, -1, 1), |context| combine(context, diff, 1, false)),
    command("sinterstore", -3, Kind::Grow, (1, -1, 1), |context| combine(context, inter, 2, true)),
    command("sunionstore", -3, Kind::Grow, (1, -1, 1), |context| combine(context, union, 2, true)),
    command("sdiffstore", -3, Kind::Grow, (1, -1, 1), |context| combine(context, diff, 2, true)),
    command("sintercard", -3, Kind::Read, (0, 0, 0), sintercard).with(flag::MOVABLE),
    command("sscan", -3, Kind::Read, (1, 1, 1), sscan),
];

/// The set of a key. Shared: what it shows stays what it is.
fn set(context: &mut Context<'_>, at: usize) -> Result<Option<Arc<Set>>, Error> {
    match context.read(at) {
        None => Ok(None),
        Some(Value::Set(set)) => Ok(Some(Arc::clone(set))),
        Some(_) => Err(Error::WrongType),
    }
}

/// The set of a key, to be changed; an empty one is made.
fn set_mut<'a>(context: &'a mut Context<'_>, at: usize) -> Result<&'a mut Set, Error> {
    if context.read(at).is_some_and(|value| !matches!(value, Value::Set(_))) {
        return Err(Error::WrongType);
    }
    let (db, key) = (context.db(), context.arg(at));
    match context.store.edit_or(db, key, || Value::Set(Arc::default())) {
        Value::Set(set) => Ok(Arc::make_mut(set)),
        _ => Err(Error::WrongType),
    }
}

fn sadd(context: &mut Context<'_>) -> Done {
    let (members, limits) = (&context.args[2..], context.limits());
    let set = set_mut(context, 1)?;
    let count = members.iter().filter(|member| set.insert(member, &limits)).count();
    context.reply.count(count);
    Ok(())
}

/// Takes members out. How many were there.
fn remove(context: &mut Context<'_>, members: &[&[u8]]) -> Result<usize, Error> {
    if !set(context, 1)?.is_some_and(|set| members.iter().any(|member| set.contains(member))) {
        return Ok(0);
    }
    let set = set_mut(context, 1)?;
    let count = members.iter().filter(|member| set.remove(member)).count();
    let (db, key) = (context.db(), context.arg(1));
    context.store.remove_if_empty(db, key);
    Ok(count)
}

fn srem(context: &mut Context<'_>) -> Done {
    let count = remove(context, &context.args[2..])?;
    context.reply.count(count);
    Ok(())
}

fn sismember(context: &mut Context<'_>) -> Done {
    let there = set(context, 1)?.is_some_and(|set| set.contains(context.arg(2)));
    context.reply.integer(there.into());
    Ok(())
}

fn smismember(context: &mut Context<'_>) -> Done {
    let set = set(context, 1)?.unwrap_or_default();
    context.reply.array(context.args.len() - 2);
    context.args[2..].iter().for_each(|member| context.reply.integer(set.contains(member).into()));
    Ok(())
}

fn scard(context: &mut Context<'_>) -> Done {
    let length = set(context, 1)?.map_or(0, |set| set.len());
    context.reply.count(length);
    Ok(())
}

fn smembers(context: &mut Context<'_>) -> Done {
    let set = set(context, 1)?.unwrap_or_default();
    context.reply.set(set.len());
    set.iter().for_each(|member| context.reply.bulk(&member));
    Ok(())
}

fn spop(context: &mut Context<'_>) -> Done {
    let mut random = context.random();
    let set = set(context, 1)?.unwrap_or_default();
    if context.args.len() > 3 {
        return Err(Error::Syntax);
    }
    let one = context.args.len() == 2;
    let count = match number::integer(context.arg(2)) {
        _ if one => 1,
        Some(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
        _ => return Err(Error::new("value is out of range, must be positive")),
    };
    let chosen: Vec<Vec<u8>> = if count >= set.len() {
        set.iter().map(|member| member.into_owned()).collect()
    } else {
        let mut chosen = HashSet::new();
        while chosen.len() < count {
            chosen.extend(set.random(&mut random).map(|member| member.into_owned()));
        }
        chosen.into_iter().collect()
    };
    drop(set);
    let members: Vec<&[u8]> = chosen.iter().map(Vec::as_slice).collect();
    remove(context, &members)?;
    let words: Vec<&[u8]> = [&b"SREM"[..], context.arg(1)].into_iter().chain(members.iter().copied()).collect();
    context.rewrite(&[&words]);
    if one {
        context.reply.bulk_or_null(members.first().copied());
    } else {
        context.reply.set(members.len());
        members.iter().for_each(|member| context.reply.bulk(member));
    }
    Ok(())
}

/// Elements at random, as SRANDMEMBER and its like want them: positive, so many different ones; negative, so many, which may repeat.
pub(super) fn choose<T, R: FnMut(usize) -> usize>(
    count: i64,
    length: usize,
    mut random: R,
    mut one: impl FnMut(&mut R) -> Option<T>,
    all: impl FnOnce() -> Vec<T>,
    name: impl Fn(&T) -> Vec<u8>,
) -> Result<Vec<T>, Error> {
    if count < -(i64::MAX / 2) {
        return Err(Error::new("value is out of range"));
    }
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if length == 0 || wanted == 0 {
        return Ok(Vec::new());
    }
    if count < 0 {
        return Ok((0..wanted).filter_map(|_| one(&mut random)).collect());
    }
    if wanted >= length {
        return Ok(all());
    }
    if wanted > length / 2 {
        // To draw nearly all of them one by one would take long: the others are left out instead.
        let mut all = all();
        while all.len() > wanted {
            let at = random(all.len());
            all.swap_remove(at);
        }
        return Ok(all);
    }
    let (mut names, mut chosen) = (HashSet::new(), Vec::new());
    while chosen.len() < wanted {
        let Some(it) = one(&mut random) else { break };
        if names.insert(name(&it)) {
            chosen.push(it);
        }
    }
    Ok(chosen)
}

fn srandmember(context: &mut Context<'_>) -> Done {
    let random = context.random();
    let set = set(context, 1)?.unwrap_or_default();
    match context.args.len() {
        2 => {
            let member = set.random(random);
            context.reply.bulk_or_null(member.as_deref());
        }
        3 => {
            let count = context.integer(2)?;
            let one = |random: &mut _| set.random(random).map(|member| member.into_owned());
            let chosen = choose(count, set.len(), random, one, || set.iter().map(|member| member.into_owned()).collect(), Clone::clone)?;
            context.reply.bulks(chosen.iter());
        }
        _ => return Err(Error::Syntax),
    }
    Ok(())
}

fn smove(context: &mut Context<'_>) -> Done {
    let member = context.arg(3);
    set(context, 2)?;
    let there = set(context, 1)?.is_some_and(|set| set.contains(member));
    if there && context.arg(1) != context.arg(2) {
        remove(context, &[member])?;
        if set(context, 2)?.is_some_and(|set| set.contains(member)) {
            context.reply.integer(1);
            return Ok(());
        }
        let limits = context.limits();
        set_mut(context, 2)?.insert(member, &limits);
    }
    context.reply.integer(there.into());
    Ok(())
}

/// Sets, some of which may not be there.
type Sets = Vec<Option<Arc<Set>>>;

fn inter(sets: &Sets, limits: &Limits) -> Set {
    let mut result = Set::default();
    let Some(mut sets) = sets.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return result };
    sets.sort_by_key(|set| set.len());
    let Some((smallest, others)) = sets.split_first() else { return result };
    for member in smallest.iter().filter(|member| others.iter().all(|set| set.contains(member))) {
        result.insert(&member, limits);
    }
    result
}

fn union(sets: &Sets, limits: &Limits) -> Set {
    let mut result = Set::default();
    sets.iter().flatten().for_each(|set| {
        set.iter().for_each(|member| {
            result.insert(&member, limits);
        });
    });
    result
}

fn diff(sets: &Sets, limits: &Limits) -> Set {
    let mut result = Set::default();
    let Some((Some(first), others)) = sets.split_first() else { return result };
    for member in first.iter().filter(|member| !others.iter().flatten().any(|set| set.contains(member))) {
        result.insert(&member, limits);
    }
    result
}

fn combine(context: &mut Context<'_>, how: fn(&Sets, &Limits) -> Set, first: usize, store: bool) -> Done {
    let sets = (first..context.args.len()).map(|at| set(context, at)).collect::<Result<Sets, _>>()?;
    let result = how(&sets, &context.limits());
    drop(sets);
    if store {
        let (db, key, length) = (context.db(), context.arg(1), result.len());
        if length == 0 {
            context.store.remove(db, key);
        } else {
            context.store.set(db, key, Value::Set(Arc::new(result)), Expiry::Never);
        }
        context.reply.count(length);
    } else {
        context.reply.set(result.len());
        result.iter().for_each(|member| context.reply.bulk(&member));
    }
    Ok(())
}

fn sintercard(context: &mut Context<'_>) -> Done {
    let count = number::integer(context.arg(1)).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let count = count.ok_or_else(|| Error::new("numkeys should be greater than 0"))?;
    if count > context.args.len() - 2 {
        return Err(Error::new("Number of keys can't be greater than number of args"));
    }
    let limit = match context.args.len() - 2 - count {
        0 => 0,
        2 if context.is(2 + count, "LIMIT") => {
            let limit = number::integer(context.arg(3 + count)).and_then(|limit| usize::try_from(limit).ok());
            limit.ok_or_else(|| Error::new("LIMIT can't be negative"))?
        }
        _ => return Err(Error::Syntax),
    };
    let sets = (2..2 + count).map(|at| set(context, at)).collect::<Result<Sets, _>>()?;
    let length = inter(&sets, &context.limits()).len();
    context.reply.count(if limit > 0 { length.min(limit) } else { length });
    Ok(())
}

fn sscan(context: &mut Context<'_>) -> Done {
    let scan = Scan::read(context, 2)?;
    let set = set(context, 1)?.unwrap_or_default();
    let mut found: Vec<Vec<u8>> = Vec::new();
    let next = set.scan(scan.cursor, scan.count, |member| {
        if scan.matches(member) {
            found.push(member.to_vec());
        }
    });
    context.reply.array(2);
    context.reply.bulk(next.to_string().as_bytes());
    context.reply.bulks(found.iter());
    Ok(())
}
