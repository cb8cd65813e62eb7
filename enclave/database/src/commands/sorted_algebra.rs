//! Unions, intersections and differences of sorted sets and sets.

use std::collections::HashMap;
use std::sync::Arc;

use super::sorted_sets::show;
use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::value::{Member, SortedSet, Value};

pub const COMMANDS: &[Command] = &[
    command("zunion", -3, Kind::Read, (0, 0, 0), |context| combine(context, How::Union, None)).with(flag::MOVABLE),
    command("zinter", -3, Kind::Read, (0, 0, 0), |context| combine(context, How::Inter, None)).with(flag::MOVABLE),
    command("zdiff", -3, Kind::Read, (0, 0, 0), |context| combine(context, How::Diff, None)).with(flag::MOVABLE),
    command("zunionstore", -4, Kind::Grow, (1, 1, 1), |context| combine(context, How::Union, Some(1))).with(flag::MOVABLE),
    command("zinterstore", -4, Kind::Grow, (1, 1, 1), |context| combine(context, How::Inter, Some(1))).with(flag::MOVABLE),
    command("zdiffstore", -4, Kind::Grow, (1, 1, 1), |context| combine(context, How::Diff, Some(1))).with(flag::MOVABLE),
    command("zintercard", -3, Kind::Read, (0, 0, 0), zintercard).with(flag::MOVABLE),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Union,
    Inter,
    Diff,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            // Redis: infinity less infinity is nothing.
            Aggregate::Sum if (a + b).is_nan() => 0.0,
            Aggregate::Sum => a + b,
            Aggregate::Min => a.min(b),
            Aggregate::Max => a.max(b),
        }
    }
}

/// Members and scores of a key; those of a set have the score 1.
fn scores(context: &mut Context<'_>, at: usize) -> Result<HashMap<Vec<u8>, f64>, Error> {
    match context.read(at) {
        None => Ok(HashMap::new()),
        Some(Value::SortedSet(set)) => Ok(set.members().iter().map(|member| (member.name.to_vec(), member.score)).collect()),
        Some(Value::Set(set)) => Ok(set.iter().map(|name| (name.into_owned(), 1.0)).collect()),
        Some(_) => Err(Error::WrongType),
    }
}

/// The places of the keys that a count announces.
fn keys(context: &Context<'_>, at: usize) -> Result<std::ops::Range<usize>, Error> {
    let count = number::integer(context.arg(at)).ok_or(Error::NotAnInteger)?;
    if count <= 0 {
        return Err(Error::new(format_args!("at least 1 input key is needed for '{}' command", context.name())));
    }
    let end = usize::try_from(count).ok().and_then(|count| count.checked_add(at + 1)).filter(|end| *end <= context.args.len());
    Ok(at + 1..end.ok_or(Error::Syntax)?)
}

/// The arguments: with a key to store under at `store`, the keys' number behind it, then the keys.
fn combine(context: &mut Context<'_>, how: How, store: Option<usize>) -> Done {
    let keys = keys(context, store.map_or(1, |at| at + 1))?;
    let (mut weights, mut aggregate, mut with_scores) = (vec![1.0; keys.len()], Aggregate::Sum, false);
    let mut at = keys.end;
    while at < context.args.len() {
        if context.is(at, "WEIGHTS") && how != How::Diff && at + keys.len() < context.args.len() {
            for (place, weight) in weights.iter_mut().enumerate() {
                *weight = number::float(context.arg(at + 1 + place)).ok_or_else(|| Error::new("weight value is not a float"))?;
            }
            at += keys.len();
        } else if context.is(at, "AGGREGATE") && how != How::Diff && at + 1 < context.args.len() {
            aggregate = match context.arg(at + 1).to_ascii_lowercase().as_slice() {
                b"sum" => Aggregate::Sum,
                b"min" => Aggregate::Min,
                b"max" => Aggregate::Max,
                _ => return Err(Error::Syntax),
            };
            at += 1;
        } else if context.is(at, "WITHSCORES") && store.is_none() {
            with_scores = true;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    let mut sets = keys.map(|at| scores(context, at)).collect::<Result<Vec<_>, _>>()?;
    for (set, weight) in sets.iter_mut().zip(weights) {
        // Infinity times nothing is nothing.
        set.values_mut().for_each(|score| *score = if (*score * weight).is_nan() { 0.0 } else { *score * weight });
    }
    let (mut result, others) = (sets.remove(0), sets);
    for set in others {
        match how {
            How::Diff => result.retain(|name, _| !set.contains_key(name)),
            How::Inter => result.retain(|name, score| set.get(name).map(|other| *score = aggregate.of(*score, *other)).is_some()),
            How::Union => {
                for (name, score) in set {
                    result.entry(name).and_modify(|mine| *mine = aggregate.of(*mine, score)).or_insert(score);
                }
            }
        }
    }
    let limits = context.limits();
    let mut set = SortedSet::default();
    for (name, score) in &result {
        set.insert(name, *score, &limits);
    }
    match store {
        None => {
            let members: Vec<&Member> = set.members().iter().collect();
            show(context, members.into_iter(), with_scores);
        }
        Some(at) => put(context, at, set),
    }
    Ok(())
}

/// Stores a result, or drops the key when there is none. The reply is how many members it has.
pub(super) fn put(context: &mut Context<'_>, at: usize, set: SortedSet) {
    let (db, key, length) = (context.db(), context.arg(at), set.len());
    if length == 0 {
        context.store.remove(db, key);
    } else {
        context.store.set(db, key, Value::SortedSet(Arc::new(set)), Expiry::Never);
    }
    context.reply.count(length);
}

fn zintercard(context: &mut Context<'_>) -> Done {
    let keys = keys(context, 1)?;
    let limit = match context.args.len() - keys.end {
        0 => 0,
        2 if context.is(keys.end, "LIMIT") => {
            let limit = number::integer(context.arg(keys.end + 1)).and_then(|limit| usize::try_from(limit).ok());
            limit.ok_or_else(|| Error::new("LIMIT can't be negative"))?
        }
        _ => return Err(Error::Syntax),
    };
    let sets = keys.map(|at| scores(context, at)).collect::<Result<Vec<_>, _>>()?;
    let count = sets.first().map_or(0, |first| first.keys().filter(|name| sets[1..].iter().all(|set| set.contains_key(*name))).count());
    context.reply.count(if limit > 0 { count.min(limit) } else { count });
    Ok(())
}
