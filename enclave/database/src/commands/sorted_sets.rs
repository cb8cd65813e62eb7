//! Sorted sets.

use std::ops::Range;
use std::sync::Arc;

use super::keys::Scan;
use super::{Command, Context, Done, Kind, command, flag, range};
use crate::error::Error;
use crate::number;
use crate::session::Otherwise;
use crate::value::{Member, SortedSet, Value};

pub const COMMANDS: &[Command] = &[
    command("zadd", -4, Kind::Grow, (1, 1, 1), zadd),
    command("zincrby", 4, Kind::Grow, (1, 1, 1), zincrby),
    command("zrem", -3, Kind::Write, (1, 1, 1), zrem),
    command("zscore", 3, Kind::Read, (1, 1, 1), zscore),
    command("zmscore", -3, Kind::Read, (1, 1, 1), zmscore),
    command("zcard", 2, Kind::Read, (1, 1, 1), zcard),
    command("zcount", 4, Kind::Read, (1, 1, 1), |context| count(context, by_score)),
    command("zlexcount", 4, Kind::Read, (1, 1, 1), |context| count(context, by_name)),
    command("zrank", 3, Kind::Read, (1, 1, 1), |context| zrank(context, false)),
    command("zrevrank", 3, Kind::Read, (1, 1, 1), |context| zrank(context, true)),
    command("zrange", -4, Kind::Read, (1, 1, 1), zrange),
    command("zrangestore", -5, Kind::Grow, (1, 2, 1), zrangestore),
    command("zrandmember", -2, Kind::Read, (1, 1, 1), zrandmember),
    command("zmpop", -4, Kind::Write, (0, 0, 0), |context| zmpop(context, 1)).with(flag::MOVABLE),
    command("bzmpop", -5, Kind::Write, (0, 0, 0), |context| zmpop(context, 2)).with(flag::MOVABLE | flag::BLOCKING | flag::NO_SCRIPT),
    command("zrevrange", -4, Kind::Read, (1, 1, 1), |context| old_range(context, Order::Rank, true)),
    command("zrangebyscore", -4, Kind::Read, (1, 1, 1), |context| old_range(context, Order::Score, false)),
    command("zrevrangebyscore", -4, Kind::Read, (1, 1, 1), |context| old_range(context, Order::Score, true)),
    command("zrangebylex", -4, Kind::Read, (1, 1, 1), |context| old_range(context, Order::Name, false)),
    command("zrevrangebylex", -4, Kind::Read, (1, 1, 1), |context| old_range(context, Order::Name, true)),
    command("zremrangebyrank", 4, Kind::Write, (1, 1, 1), |context| remove(context, by_rank)),
    command("zremrangebyscore", 4, Kind::Write, (1, 1, 1), |context| remove(context, by_score)),
    command("zremrangebylex", 4, Kind::Write, (1, 1, 1), |context| remove(context, by_name)),
    command("zpopmin", -2, Kind::Write, (1, 1, 1), |context| zpop(context, false)),
    command("zpopmax", -2, Kind::Write, (1, 1, 1), |context| zpop(context, true)),
    command("bzpopmin", -3, Kind::Write, (1, -2, 1), |context| bzpop(context, false)).with(flag::BLOCKING | flag::NO_SCRIPT | flag::FAST),
    command("bzpopmax", -3, Kind::Write, (1, -2, 1), |context| bzpop(context, true)).with(flag::BLOCKING | flag::NO_SCRIPT | flag::FAST),
    command("zscan", -3, Kind::Read, (1, 1, 1), zscan),
];

/// The sorted set of a key. Shared: what it shows stays what it is.
fn set(context: &mut Context<'_>, at: usize) -> Result<Option<Arc<SortedSet>>, Error> {
    match context.read(at) {
        None => Ok(None),
        Some(Value::SortedSet(set)) => Ok(Some(Arc::clone(set))),
        Some(_) => Err(Error::WrongType),
    }
}

/// The sorted set of a key, to be changed; an empty one is made.
fn set_mut<'a>(context: &'a mut Context<'_>, at: usize) -> Result<&'a mut SortedSet, Error> {
    if context.read(at).is_some_and(|value| !matches!(value, Value::SortedSet(_))) {
        return Err(Error::WrongType);
    }
    let (db, key) = (context.db(), context.arg(at));
    match context.store.edit_or(db, key, || Value::SortedSet(Arc::default())) {
        Value::SortedSet(set) => Ok(Arc::make_mut(set)),
        _ => Err(Error::WrongType),
    }
}

fn zadd(context: &mut Context<'_>) -> Done {
    let (mut new, mut old, mut greater, mut less, mut changed, mut increment) = (false, false, false, false, false, false);
    let mut at = 2;
    loop {
        match context.arg(at).to_ascii_uppercase().as_slice() {
            b"NX" => new = true,
            b"XX" => old = true,
            b"GT" => greater = true,
            b"LT" => less = true,
            b"CH" => changed = true,
            b"INCR" => increment = true,
            _ => break,
        }
        at += 1;
    }
    let pairs = &context.args[at.min(context.args.len())..];
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    if new && old {
        return Err(Error::new("XX and NX options at the same time are not compatible"));
    }
    if greater && less || new && (greater || less) {
        return Err(Error::new("GT, LT, and/or NX options at the same time are not compatible"));
    }
    if increment && pairs.len() != 2 {
        return Err(Error::new("INCR option supports a single increment-element pair"));
    }
    let scores: Vec<f64> = pairs.chunks_exact(2).map(|pair| number::float(pair[0]).ok_or(Error::NotAFloat)).collect::<Result<_, _>>()?;
    let there = set(context, 1)?.is_some();
    let (mut added, mut moved, mut last) = (0, 0, None);
    if there || !old {
        let limits = context.limits();
        let set = set_mut(context, 1)?;
        for (score, pair) in scores.into_iter().zip(pairs.chunks_exact(2)) {
            let known = set.score(pair[1]);
            let score = if increment { score + known.unwrap_or(0.0) } else { score };
            if score.is_nan() {
                let (db, key) = (context.db(), context.arg(1));
                context.store.remove_if_empty(db, key);
                return Err(Error::new("resulting score is not a number (NaN)"));
            }
            let does = match known {
                None => !old,
                Some(known) => !new && (!greater || score > known) && (!less || score < known),
            };
            if does {
                set.insert(pair[1], score, &limits);
                added += usize::from(known.is_none());
                moved += usize::from(known.is_some_and(|known| known != score));
                last = Some(score);
            }
        }
        let (db, key) = (context.db(), context.arg(1));
        context.store.remove_if_empty(db, key);
    }
    match (increment, last) {
        (true, Some(score)) => context.reply.double(score),
        (true, None) => context.reply.null(),
        (false, _) => context.reply.count(if changed { added + moved } else { added }),
    }
    Ok(())
}

fn zincrby(context: &mut Context<'_>) -> Done {
    let by = context.float(2)?;
    let member = context.arg(3);
    let score = set(context, 1)?.and_then(|set| set.score(member)).unwrap_or(0.0) + by;
    if score.is_nan() {
        return Err(Error::new("resulting score is not a number (NaN)"));
    }
    let limits = context.limits();
    set_mut(context, 1)?.insert(member, score, &limits);
    context.reply.double(score);
    Ok(())
}

fn zrem(context: &mut Context<'_>) -> Done {
    let members = &context.args[2..];
    let mut count = 0;
    if set(context, 1)?.is_some_and(|set| members.iter().any(|member| set.score(member).is_some())) {
        let set = set_mut(context, 1)?;
        count = members.iter().filter(|member| set.remove(member).is_some()).count();
        let (db, key) = (context.db(), context.arg(1));
        context.store.remove_if_empty(db, key);
    }
    context.reply.count(count);
    Ok(())
}

fn score_or_null(context: &mut Context<'_>, score: Option<f64>) {
    match score {
        Some(score) => context.reply.double(score),
        None => context.reply.null(),
    }
}

fn zscore(context: &mut Context<'_>) -> Done {
    let score = set(context, 1)?.and_then(|set| set.score(context.arg(2)));
    score_or_null(context, score);
    Ok(())
}

fn zmscore(context: &mut Context<'_>) -> Done {
    let set = set(context, 1)?.unwrap_or_default();
    context.reply.array(context.args.len() - 2);
    for member in &context.args[2..] {
        score_or_null(context, set.score(member));
    }
    Ok(())
}

fn zcard(context: &mut Context<'_>) -> Done {
    let length = set(context, 1)?.map_or(0, |set| set.len());
    context.reply.count(length);
    Ok(())
}

fn zrank(context: &mut Context<'_>, reverse: bool) -> Done {
    let set = set(context, 1)?.unwrap_or_default();
    match set.rank(context.arg(2)) {
        Some(rank) => context.reply.count(if reverse { set.len() - 1 - rank } else { rank }),
        None => context.reply.null(),
    }
    Ok(())
}

/// Ranks between two bounds, as the arguments spell them.
type Bounds = fn(&SortedSet, &[u8], &[u8]) -> Result<Range<usize>, Error>;

fn by_rank(set: &SortedSet, min: &[u8], max: &[u8]) -> Result<Range<usize>, Error> {
    let integer = |text| number::integer(text).ok_or(Error::NotAnInteger);
    Ok(range(integer(min)?, integer(max)?, set.len()))
}

fn by_score(set: &SortedSet, min: &[u8], max: &[u8]) -> Result<Range<usize>, Error> {
    let bound = |text: &[u8]| {
        let (open, text) = text.strip_prefix(b"(").map_or((false, text), |rest| (true, rest));
        number::float(text).map(|score| (open, score)).ok_or_else(|| Error::new("min or max is not a float"))
    };
    let ((min_open, min), (max_open, max)) = (bound(min)?, bound(max)?);
    let start = set.partition_point(|member| if min_open { member.score <= min } else { member.score < min });
    let end = set.partition_point(|member| if max_open { member.score < max } else { member.score <= max });
    Ok(start..end.max(start))
}

fn by_name(set: &SortedSet, min: &[u8], max: &[u8]) -> Result<Range<usize>, Error> {
    let invalid = || Error::new("min or max not valid string range item");
    let place = |text: &[u8], upper: bool| match text {
        b"-" => Ok(0),
        b"+" => Ok(set.len()),
        // Before the first that is not below the bound, or behind the last that is not above it.
        [b'[', name @ ..] => Ok(set.partition_point(|member| if upper { *member.name <= *name } else { *member.name < *name })),
        [b'(', name @ ..] => Ok(set.partition_point(|member| if upper { *member.name < *name } else { *member.name <= *name })),
        _ => Err(invalid()),
    };
    let (start, end) = (place(min, false)?, place(max, true)?);
    Ok(start..end.max(start))
}

fn count(context: &mut Context<'_>, bounds: Bounds) -> Done {
    let (min, max) = (context.arg(2), context.arg(3));
    let set = set(context, 1)?.unwrap_or_default();
    let length = bounds(&set, min, max)?.len();
    context.reply.count(length);
    Ok(())
}

fn remove(context: &mut Context<'_>, bounds: Bounds) -> Done {
    let (min, max) = (context.arg(2), context.arg(3));
    let range = bounds(&set(context, 1)?.unwrap_or_default(), min, max)?;
    if !range.is_empty() {
        let set = set_mut(context, 1)?;
        for _ in range.clone() {
            set.remove_at(range.start);
        }
        let (db, key) = (context.db(), context.arg(1));
        context.store.remove_if_empty(db, key);
    }
    context.reply.count(range.len());
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Rank,
    Score,
    Name,
}

/// ZREVRANGE and the others that ZRANGE made superfluous.
fn old_range(context: &mut Context<'_>, order: Order, reverse: bool) -> Done {
    let (set, ranks, with_scores) = select(context, 1, order, reverse)?;
    let members = set.members().range(ranks);
    let members: Vec<&Member> = if reverse { members.rev().collect() } else { members.collect() };
    show(context, members.into_iter(), with_scores);
    Ok(())
}

fn zrange(context: &mut Context<'_>) -> Done {
    let (order, reverse) = wanted(context, 4);
    old_range(context, order, reverse)
}

fn zrangestore(context: &mut Context<'_>) -> Done {
    let (order, reverse) = wanted(context, 5);
    let (set, ranks, with_scores) = select(context, 2, order, reverse)?;
    if with_scores {
        return Err(Error::Syntax);
    }
    let limits = context.limits();
    let mut result = SortedSet::default();
    for member in set.members().range(ranks) {
        result.insert(&member.name, member.score, &limits);
    }
    super::sorted_algebra::put(context, 1, result);
    Ok(())
}

/// The options of ZRANGE that say in which order, and from which end.
fn wanted(context: &Context<'_>, first: usize) -> (Order, bool) {
    let has = |word| (first..context.args.len()).any(|at| context.is(at, word));
    let order = if has("BYSCORE") {
        Order::Score
    } else if has("BYLEX") {
        Order::Name
    } else {
        Order::Rank
    };
    (order, has("REV"))
}

/// The set of the key at `key`, the ranks that the arguments behind it mean, and whether scores are wanted.
fn select(context: &mut Context<'_>, key: usize, order: Order, reverse: bool) -> Result<(Arc<SortedSet>, Range<usize>, bool), Error> {
    let unified = context.is(0, "zrange") || context.is(0, "zrangestore");
    let (mut with_scores, mut limit, mut at) = (false, None, key + 3);
    while at < context.args.len() {
        if context.is(at, "WITHSCORES") {
            with_scores = true;
        } else if context.is(at, "LIMIT") && at + 2 < context.args.len() {
            limit = Some((context.integer(at + 1)?, context.integer(at + 2)?));
            at += 2;
        } else if !(unified && ["BYSCORE", "BYLEX", "REV"].iter().any(|word| context.is(at, word))) {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    if limit.is_some() && order == Order::Rank {
        return Err(Error::new("syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"));
    }
    if with_scores && order == Order::Name {
        return Err(Error::new("syntax error, WITHSCORES not supported in combination with BYLEX"));
    }
    let bounds: Bounds = match order {
        Order::Rank => by_rank,
        Order::Score => by_score,
        Order::Name => by_name,
    };
    // By score and by name the larger bound comes first when the order is turned; ranks count from the other end instead.
    let swapped = reverse && order != Order::Rank;
    let (first, second) = (context.arg(key + 1), context.arg(key + 2));
    let (min, max) = if swapped { (second, first) } else { (first, second) };
    let set = set(context, key)?.unwrap_or_default();
    let mut ranks = bounds(&set, min, max)?;
    if reverse && order == Order::Rank {
        ranks = set.len() - ranks.end..set.len() - ranks.start;
    }
    if let Some((offset, count)) = limit {
        let offset = usize::try_from(offset).unwrap_or(ranks.len()).min(ranks.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(ranks.len() - offset);
        ranks = if reverse { ranks.end - offset - count..ranks.end - offset } else { ranks.start + offset..ranks.start + offset + count };
    }
    Ok((set, ranks, with_scores))
}

/// Members, and their scores if they are wanted: as pairs in RESP3, one behind the other in RESP2.
pub(super) fn show<'m>(context: &mut Context<'_>, members: impl ExactSizeIterator<Item = &'m Member>, with_scores: bool) {
    let nested = with_scores && context.reply.version >= 3;
    context.reply.array(if with_scores && !nested { 2 * members.len() } else { members.len() });
    for member in members {
        if nested {
            context.reply.array(2);
        }
        context.reply.bulk(&member.name);
        if with_scores {
            context.reply.double(member.score);
        }
    }
}

/// Takes the first or the last members out.
fn take(context: &mut Context<'_>, at: usize, count: usize, last: bool) -> Result<Vec<Member>, Error> {
    if set(context, at)?.is_none() || count == 0 {
        return Ok(Vec::new());
    }
    let set = set_mut(context, at)?;
    let mut taken = Vec::new();
    while taken.len() < count
        && let Some(member) = set.remove_at(if last { set.len().saturating_sub(1) } else { 0 })
    {
        taken.push(member);
    }
    let (db, key) = (context.db(), context.arg(at));
    context.store.remove_if_empty(db, key);
    Ok(taken)
}

fn zpop(context: &mut Context<'_>, last: bool) -> Done {
    let count = match context.args.len() {
        2 => 1,
        3 => {
            let count = number::integer(context.arg(2)).and_then(|count| usize::try_from(count).ok());
            count.ok_or_else(|| Error::new("value is out of range, must be positive"))?
        }
        _ => return Err(Error::Syntax),
    };
    let taken = take(context, 1, count, last)?;
    if context.args.len() == 2 {
        // One member is a flat pair, whatever the version.
        context.reply.array(2 * taken.len());
        for member in &taken {
            context.reply.bulk(&member.name);
            context.reply.double(member.score);
        }
    } else {
        show(context, taken.iter(), true);
    }
    Ok(())
}

fn bzpop(context: &mut Context<'_>, last: bool) -> Done {
    let end = context.args.len() - 1;
    let until = context.timeout(end)?;
    for at in 1..end {
        let taken = take(context, at, 1, last)?;
        if let Some(member) = taken.first() {
            context.session.waiting = None;
            context.reply.array(3);
            context.reply.bulk(context.args[at]);
            context.reply.bulk(&member.name);
            context.reply.double(member.score);
            return Ok(());
        }
    }
    if context.session.executing {
        context.reply.null_array();
    } else {
        context.block(&context.args[1..end], until, Otherwise::NullArray);
    }
    Ok(())
}

/// ZMPOP, and BZMPOP whose time comes first: `at` is where the number of keys is.
fn zmpop(context: &mut Context<'_>, at: usize) -> Done {
    let until = if at == 2 { context.timeout(1)? } else { None };
    let (keys, last, count) = super::lists::many(context, at, [("MIN", false), ("MAX", true)])?;
    for key in keys.clone() {
        let taken = take(context, key, count, last)?;
        if !taken.is_empty() {
            context.session.waiting = None;
            context.reply.array(2);
            context.reply.bulk(context.args[key]);
            context.reply.array(taken.len());
            for member in &taken {
                context.reply.array(2);
                context.reply.bulk(&member.name);
                context.reply.double(member.score);
            }
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

fn zrandmember(context: &mut Context<'_>) -> Done {
    let mut random = context.random();
    let set = set(context, 1)?.unwrap_or_default();
    if context.args.len() == 2 {
        let member = set.members().get(random(set.len()));
        context.reply.bulk_or_null(member.map(|member| &*member.name));
        return Ok(());
    }
    let with_scores = match context.args.len() {
        3 => false,
        4 if context.is(3, "WITHSCORES") => true,
        _ => return Err(Error::Syntax),
    };
    let count = context.integer(2)?;
    if with_scores && count < -(i64::MAX / 2) {
        return Err(Error::new("value is out of range"));
    }
    let one = |random: &mut _| set.members().get(call(random, set.len())).cloned();
    let chosen =
        super::sets::choose(count, set.len(), random, one, || set.members().iter().cloned().collect(), |member| member.name.to_vec())?;
    show(context, chosen.iter(), with_scores);
    Ok(())
}

fn call(random: &mut impl FnMut(usize) -> usize, limit: usize) -> usize {
    random(limit)
}

fn zscan(context: &mut Context<'_>) -> Done {
    let scan = Scan::read(context, 2)?;
    let set = set(context, 1)?.unwrap_or_default();
    let mut found: Vec<(Vec<u8>, f64)> = Vec::new();
    let next = set.scan(scan.cursor, scan.count, |name, score| {
        if scan.matches(name) {
            found.push((name.to_vec(), score));
        }
    });
    context.reply.array(2);
    context.reply.bulk(next.to_string().as_bytes());
    context.reply.array(2 * found.len());
    for (name, score) in found {
        context.reply.bulk(&name);
        context.reply.bulk(number::show(score).as_bytes());
    }
    Ok(())
}
