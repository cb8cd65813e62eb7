//! SORT: elements of a list, a set or a sorted set in the order of what they are, or of what other keys say of them.

use std::cmp::Ordering;

use super::{Command, Context, Done, Kind, command, event, flag};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::value::{Blob, Value};

pub const COMMANDS: &[Command] = &[
    command("sort", -2, Kind::Grow, (1, 1, 1), |context| sort(context, false)).with(flag::MOVABLE),
    command("sort_ro", -2, Kind::Read, (1, 1, 1), |context| sort(context, true)).with(flag::MOVABLE),
];

/// What an element is ordered by.
enum By {
    Nothing,
    Number(f64),
    Bytes(Option<Vec<u8>>),
}

/// What a pattern says of an element: the content of the key, or of the field behind `->`, whose name has the element for `*`.
fn look_up(context: &mut Context<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let arrow = pattern[star..].windows(2).position(|two| two == b"->").map(|at| star + at).filter(|at| at + 2 < pattern.len());
    let key = [&pattern[..star], element, &pattern[star + 1..arrow.unwrap_or(pattern.len())]].concat();
    let db = context.db();
    match (context.store.get(db, &key)?, arrow) {
        (Value::Text(text), None) => Some(text.bytes().into_owned()),
        (Value::Hash(hash), Some(arrow)) => hash.get(&pattern[arrow + 2..]).map(|value| value.to_vec()),
        _ => None,
    }
}

fn sort(context: &mut Context<'_>, only_read: bool) -> Done {
    let (mut backwards, mut alpha, mut limit) = (false, false, None);
    let (mut by, mut get, mut store) = (None, Vec::new(), None);
    let mut at = 2;
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "ASC") || context.is(at, "DESC") {
            backwards = context.is(at, "DESC");
        } else if context.is(at, "ALPHA") {
            alpha = true;
        } else if context.is(at, "LIMIT") && left >= 2 {
            limit = Some((context.integer(at + 1)?, context.integer(at + 2)?));
            at += 2;
        } else if context.is(at, "STORE") && left >= 1 && !only_read {
            at += 1;
            store = Some(context.arg(at));
        } else if context.is(at, "BY") && left >= 1 {
            at += 1;
            by = Some(context.arg(at));
        } else if context.is(at, "GET") && left >= 1 {
            at += 1;
            get.push(context.arg(at));
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    let mut unsorted = by.is_some_and(|by| !by.contains(&b'*'));
    let mut by_score = false;
    let mut elements: Vec<Vec<u8>> = match context.read(1) {
        None => Vec::new(),
        Some(Value::List(list)) => list.iter().map(|item| item.to_vec()).collect(),
        Some(Value::Set(set)) => set.iter().map(|member| member.into_owned()).collect(),
        Some(Value::SortedSet(set)) => {
            by_score = true;
            set.members().iter().map(|member| member.name.to_vec()).collect()
        }
        Some(_) => return Err(Error::WrongType),
    };
    // A set has no order of its own: what is stored, or what a script gets, must not depend on where its members happen to be.
    if unsorted && (store.is_some() || context.session.script) && matches!(context.read(1), Some(Value::Set(_))) {
        (unsorted, alpha, by) = (false, true, None);
    }
    if unsorted {
        if by_score && backwards {
            elements.reverse();
        }
    } else {
        elements = order(context, elements, by, alpha, backwards)?;
    }
    let (start, count) = limit.unwrap_or((0, -1));
    let start = usize::try_from(start).unwrap_or(0).min(elements.len());
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(elements.len() - start);
    let mut result: Vec<Option<Vec<u8>>> = Vec::new();
    for element in elements.into_iter().skip(start).take(count) {
        if get.is_empty() {
            result.push(Some(element));
        } else {
            result.extend(get.iter().map(|pattern| look_up(context, pattern, &element)));
        }
    }
    let Some(into) = store else {
        context.reply.array(result.len());
        result.iter().for_each(|item| context.reply.bulk_or_null(item.as_deref()));
        return Ok(());
    };
    let db = context.db();
    let length = result.len();
    if length > 0 {
        let list = result.into_iter().map(|item| Blob::from(item.unwrap_or_default())).collect();
        context.store.set(db, into, Value::List(list), Expiry::Never);
        context.notify(event::LIST, "sortstore", into);
    } else if context.store.remove(db, into).is_some() {
        context.notify(event::GENERIC, "del", into);
    }
    context.reply.count(length);
    Ok(())
}

fn order(
    context: &mut Context<'_>,
    elements: Vec<Vec<u8>>,
    by: Option<&[u8]>,
    alpha: bool,
    backwards: bool,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut keyed = Vec::with_capacity(elements.len());
    for element in elements {
        let weight = match by {
            Some(pattern) => look_up(context, pattern, &element),
            None if alpha => None,
            None => Some(element.clone()),
        };
        let key = match (alpha, by.is_some(), weight) {
            (true, true, weight) => By::Bytes(weight),
            (true, false, _) => By::Nothing,
            (false, _, None) => By::Number(0.0),
            (false, _, Some(weight)) => {
                let weight = number::float(&weight);
                By::Number(weight.ok_or_else(|| Error::new("One or more scores can't be converted into double"))?)
            }
        };
        keyed.push((key, element));
    }
    keyed.sort_by(|(a, first), (b, second)| {
        let order = match (a, b) {
            (By::Number(a), By::Number(b)) => a.total_cmp(b).then_with(|| first.cmp(second)),
            (By::Bytes(a), By::Bytes(b)) => a.cmp(b),
            _ => first.cmp(second),
        };
        if backwards { Ordering::reverse(order) } else { order }
    });
    Ok(keyed.into_iter().map(|(_, element)| element).collect())
}
