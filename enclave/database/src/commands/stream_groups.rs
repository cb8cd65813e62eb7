//! Streams: groups of consumers that share the entries, and what is known of all of it.

use std::sync::Arc;

use super::streams::{begin, begin_stream, end, id, reading, show, stream, stream_mut};
use super::{Command, Context, Done, Kind, command, event, flag, help};
use crate::error::Error;
use crate::number;
use crate::session::Otherwise;
use crate::value::{Blob, Consumer, Group, Id, Pending, Stream, Value};

pub const COMMANDS: &[Command] = &[
    command("xgroup", -2, Kind::Grow, (2, 2, 1), xgroup),
    command("xreadgroup", -7, Kind::Grow, (0, 0, 0), xreadgroup).with(flag::MOVABLE | flag::BLOCKING),
    command("xack", -4, Kind::Write, (1, 1, 1), xack).with(flag::FAST),
    command("xpending", -3, Kind::Read, (1, 1, 1), xpending),
    command("xclaim", -6, Kind::Write, (1, 1, 1), xclaim).with(flag::FAST),
    command("xautoclaim", -6, Kind::Write, (1, 1, 1), xautoclaim).with(flag::FAST),
    command("xinfo", -2, Kind::Read, (2, 2, 1), xinfo),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn no_group(key: &[u8], group: &[u8]) -> Error {
    Error::Other(format!("NOGROUP No such key '{}' or consumer group '{}'", text(key), text(group)))
}

fn no_such_group(key: &[u8], group: &[u8]) -> Error {
    Error::Other(format!("NOGROUP No such consumer group '{}' for key name '{}'", text(group), text(key)))
}

/// The group that two arguments name, to be changed; it is there.
fn group_mut<'a>(context: &'a mut Context<'_>, key: usize, group: usize) -> Result<&'a mut Group, Error> {
    let (name, group) = (context.arg(key), context.arg(group));
    stream_mut(context, key)?.groups.get_mut(group).ok_or_else(|| no_group(name, group))
}

/// The consumer of a group; one that is not there is made. Whether it was.
fn consumer(context: &mut Context<'_>, key: usize, group: usize, name: &[u8]) -> Result<bool, Error> {
    let now = context.store.now;
    let consumers = &mut group_mut(context, key, group)?.consumers;
    let new = !consumers.contains_key(name);
    consumers.entry(name.into()).or_insert_with(Consumer::default).seen = now;
    if new {
        let key = context.arg(key);
        context.notify(event::STREAM, "xgroup-createconsumer", key);
    }
    Ok(new)
}

// ---- XGROUP -----------------------------------------------------------------------------------------------------------------------------

fn xgroup(context: &mut Context<'_>) -> Done {
    let sub = context.subcommand();
    match &*sub {
        "help" => {
            context.count(2..=2)?;
            help(
                context,
                &[
                    "XGROUP <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                    "CREATE <key> <groupname> <id|$> [option]",
                    "    Create a new consumer group. Options are:",
                    "    * MKSTREAM",
                    "      Create the empty stream if it does not exist.",
                    "    * ENTRIESREAD entries_read",
                    "      Set the group's entries_read counter (internal use).",
                    "CREATECONSUMER <key> <groupname> <consumer>",
                    "    Create a new consumer in the specified group.",
                    "DELCONSUMER <key> <groupname> <consumer>",
                    "    Remove the specified consumer.",
                    "DESTROY <key> <groupname>",
                    "    Remove the specified group.",
                    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
                    "    Set the current group ID and entries_read counter.",
                    "HELP",
                    "    Print this help.",
                ],
            );
            return Ok(());
        }
        "create" => context.count(5..)?,
        "setid" => context.count(5..)?,
        "destroy" => context.count(4..=4)?,
        "createconsumer" | "delconsumer" => context.count(5..=5)?,
        _ => return Err(context.unknown_subcommand()),
    }
    let (key, name) = (context.arg(2), context.arg(3));
    let (mut make, mut read, mut at) = (false, None, 5);
    while at < context.args.len() {
        if sub == "create" && context.is(at, "MKSTREAM") {
            make = true;
            at += 1;
        } else if context.is(at, "ENTRIESREAD") && at + 1 < context.args.len() {
            let count = context.integer(at + 1)?;
            if count < -1 {
                return Err(Error::new("value for ENTRIESREAD must be positive or -1"));
            }
            read = u64::try_from(count).ok();
            at += 2;
        } else {
            return Err(Error::Syntax);
        }
    }
    let old = stream(context, 2)?;
    if old.is_none() && !make {
        return Err(Error::new(
            "The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.",
        ));
    }
    let known = old.as_ref().is_some_and(|stream| stream.groups.contains_key(name));
    if !known && matches!(&*sub, "setid" | "createconsumer" | "delconsumer") {
        return Err(no_such_group(key, name));
    }
    let last = match context.arg(4) {
        _ if !matches!(&*sub, "create" | "setid") => Id::MIN,
        b"$" => old.as_ref().map_or(Id::MIN, |stream| stream.last),
        b"-" => Id::MIN,
        b"+" => Id::MAX,
        _ => id(context, 4)?,
    };
    let there =
        old.as_ref().is_some_and(|stream| stream.groups.get(name).is_some_and(|group| group.consumers.contains_key(context.arg(4))));
    drop(old);
    match &*sub {
        "create" if known => return Err(Error::Other("BUSYGROUP Consumer Group name already exists".to_owned())),
        "create" => {
            stream_mut(context, 2)?.groups.insert(name.into(), Group { last, read, ..Group::default() });
            context.notify(event::STREAM, "xgroup-create", key);
            context.reply.ok();
        }
        "setid" => {
            let group = group_mut(context, 2, 3)?;
            (group.last, group.read) = (last, read);
            context.notify(event::STREAM, "xgroup-setid", key);
            context.reply.ok();
        }
        "destroy" => {
            if known {
                stream_mut(context, 2)?.groups.remove(name);
                context.notify(event::STREAM, "xgroup-destroy", key);
            }
            context.reply.integer(known.into());
        }
        "createconsumer" => {
            if !there {
                consumer(context, 2, 3, context.arg(4))?;
            }
            context.reply.integer((!there).into());
        }
        _ => {
            let mut pending = 0;
            if there {
                let who = context.arg(4);
                pending = group_mut(context, 2, 3)?.drop_consumer(who);
                context.notify(event::STREAM, "xgroup-delconsumer", key);
            }
            context.reply.count(pending);
        }
    }
    Ok(())
}

// ---- reading ----------------------------------------------------------------------------------------------------------------------------

/// What the log gets for an entry that is now pending with somebody.
fn claim_words(key: &[u8], group: &[u8], pending: &Pending, last: Id) -> Vec<Vec<u8>> {
    let number = |number: String| number.into_bytes();
    vec![
        b"XCLAIM".to_vec(),
        key.to_vec(),
        group.to_vec(),
        pending.consumer.to_vec(),
        b"0".to_vec(),
        number(pending.id.to_string()),
        b"TIME".to_vec(),
        number(pending.time.to_string()),
        b"RETRYCOUNT".to_vec(),
        number(pending.count.to_string()),
        b"FORCE".to_vec(),
        b"JUSTID".to_vec(),
        b"LASTID".to_vec(),
        number(last.to_string()),
    ]
}

/// What makes a consumer.
fn made_words(key: &[u8], name: &[u8], who: &[u8]) -> Vec<Vec<u8>> {
    [&b"XGROUP"[..], b"CREATECONSUMER", key, name, who].map(<[u8]>::to_vec).to_vec()
}

/// What sets how far a group has come.
fn last_words(key: &[u8], name: &[u8], group: &Group) -> Vec<Vec<u8>> {
    let read = group.read.map_or(-1, |read| i64::try_from(read).unwrap_or(i64::MAX)).to_string();
    let last = group.last.to_string();
    [&b"XGROUP"[..], b"SETID", key, name, last.as_bytes(), b"ENTRIESREAD", read.as_bytes()].map(<[u8]>::to_vec).to_vec()
}

fn log(context: &mut Context<'_>, commands: &[Vec<Vec<u8>>]) {
    context.rewrite(&[]);
    for command in commands {
        let command: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        context.rewrite(&[&command]);
    }
}

fn xreadgroup(context: &mut Context<'_>) -> Done {
    let reading = reading(context, true)?;
    let (streams, retrying) = (reading.keys.len(), context.session.retrying);
    let group_at = reading.group.ok_or(Error::Syntax)?;
    let (name, who) = (context.arg(group_at), context.arg(group_at + 1));
    let mut plans = Vec::with_capacity(streams);
    for key in reading.keys.clone() {
        let stream = match stream(context, key) {
            Ok(None) | Err(_) if retrying => return Err(Error::Other("UNBLOCKED the stream key no longer exists".to_owned())),
            stream => stream?,
        };
        let group = stream.as_ref().and_then(|stream| stream.groups.get(name));
        let Some((stream, group)) = stream.as_ref().zip(group) else {
            if retrying {
                return Err(Error::Other("NOGROUP the consumer group this client was blocked on no longer exists".to_owned()));
            }
            return Err(Error::Other(format!(
                "NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option",
                text(context.arg(key)),
                text(name)
            )));
        };
        let (new, after) = match context.arg(key + streams) {
            b">" => (true, group.last),
            b"$" => {
                return Err(Error::new(
                    "The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.",
                ));
            }
            _ => (false, id(context, key + streams)?),
        };
        let places = after.next().map_or(0..0, |start| stream.places(start, Id::MAX));
        if !new || !places.is_empty() {
            let places = places.start..places.end.min(places.start.saturating_add(reading.most));
            plans.push((key, new, after, places));
        }
    }
    if plans.is_empty() {
        let Some(until) = reading.wait else {
            context.reply.null_array();
            return Ok(());
        };
        let keys: Vec<&[u8]> = context.args[reading.keys].to_vec();
        context.block(&keys, until, Otherwise::NullArray);
        return Ok(());
    }
    let mut words = Vec::new();
    begin(context, plans.len());
    for (key_at, new, after, places) in plans {
        let (key, now) = (context.arg(key_at), context.store.now);
        if consumer(context, key_at, group_at, who)? {
            words.push(made_words(key, name, who));
        }
        begin_stream(context, key);
        let Some(shared) = stream(context, key_at)? else { return Err(Error::Syntax) };
        if !new {
            history(context, &shared, (name, who), after, reading.most, key_at, &mut words)?;
            continue;
        }
        context.reply.array(places.len());
        let mut delivered = Vec::with_capacity(places.len());
        for item in shared.items().range(places) {
            show(context, item);
            delivered.push(item.id);
        }
        let mut group = shared.groups.get(name).cloned().unwrap_or_default();
        for id in delivered {
            shared.advance(&mut group, id);
            if !reading.forget {
                let pending = Pending { id, consumer: who.into(), time: now, count: 1 };
                words.push(claim_words(key, name, &pending, group.last));
                group.deliver(pending);
            }
        }
        // Claims say how far it has come, but not how many entries that are.
        words.push(last_words(key, name, &group));
        drop(shared);
        *group_mut(context, key_at, group_at)? = group;
    }
    log(context, &words);
    Ok(())
}

/// What a consumer got before and has not acknowledged.
fn history(
    context: &mut Context<'_>,
    stream: &Stream,
    who: (&[u8], &[u8]),
    after: Id,
    most: usize,
    key: usize,
    words: &mut Vec<Vec<Vec<u8>>>,
) -> Done {
    let (name, consumer) = who;
    let now = context.store.now;
    let Some(group) = stream.groups.get(name) else { return Err(no_group(context.arg(key), name)) };
    let ids: Vec<Id> = group.consumers.get(consumer).map_or_else(Vec::new, |consumer| {
        let first = consumer.pending.partition_point(|id| *id <= after);
        consumer.pending.range(first..consumer.pending.len()).take(most).copied().collect()
    });
    context.reply.array(ids.len());
    for id in &ids {
        match stream.find(*id) {
            Some(item) => show(context, item),
            None => {
                context.reply.array(2);
                context.reply.bulk(id.to_string().as_bytes());
                context.reply.null_array();
            }
        }
    }
    let at = context.arg(key);
    if let Some(group) = stream_mut(context, key)?.groups.get_mut(name) {
        for id in ids {
            let place = group.place(id);
            if let Some(pending) = group.pending.get_mut(place) {
                (pending.time, pending.count) = (now, pending.count + 1);
                if stream.find(id).is_some() {
                    words.push(claim_words(at, name, pending, group.last));
                }
            }
        }
    }
    Ok(())
}

fn xack(context: &mut Context<'_>) -> Done {
    let ids = (3..context.args.len()).map(|at| id(context, at)).collect::<Result<Vec<_>, _>>()?;
    let name = context.arg(2);
    let any = stream(context, 1)?
        .is_some_and(|stream| stream.groups.get(name).is_some_and(|group| ids.iter().any(|id| group.find(*id).is_some())));
    let mut count = 0;
    if any {
        let group = group_mut(context, 1, 2)?;
        count = ids.iter().filter(|id| group.acknowledge(**id)).count();
    }
    context.reply.count(count);
    Ok(())
}

// ---- what is pending --------------------------------------------------------------------------------------------------------------------

fn xpending(context: &mut Context<'_>) -> Done {
    let mut at = 3;
    let mut idle = 0;
    if context.args.len() > 3 && context.is(3, "IDLE") {
        if context.args.len() < 8 {
            return Err(Error::Syntax);
        }
        idle = context.integer(4)?;
        at = 5;
    }
    let range = match context.args.len() - at {
        0 => None,
        3 | 4 => {
            let most = usize::try_from(context.integer(at + 2)?).unwrap_or(0);
            Some((end(context, at, true)?, end(context, at + 1, false)?, most))
        }
        _ => return Err(Error::Syntax),
    };
    let who = context.args.get(at + 3).copied();
    let (key, name, now) = (context.arg(1), context.arg(2), context.store.now);
    let stream = stream(context, 1)?.ok_or_else(|| no_group(key, name))?;
    let group = stream.groups.get(name).ok_or_else(|| no_group(key, name))?;
    let Some((start, stop, most)) = range else {
        return summary(context, group);
    };
    let (first, last) = (group.place(start), group.pending.partition_point(|pending| pending.id <= stop));
    let wanted = |pending: &&Pending| who.is_none_or(|who| *pending.consumer == *who) && now - pending.time >= idle;
    let found: Vec<&Pending> = group.pending.range(first..last.max(first)).filter(wanted).take(most).collect();
    context.reply.array(found.len());
    for pending in found {
        context.reply.array(4);
        context.reply.bulk(pending.id.to_string().as_bytes());
        context.reply.bulk(&pending.consumer);
        context.reply.integer((now - pending.time).max(0));
        context.reply.count(pending.count as usize);
    }
    Ok(())
}

fn summary(context: &mut Context<'_>, group: &Group) -> Done {
    context.reply.array(4);
    context.reply.count(group.pending.len());
    let Some((first, last)) = group.pending.first().zip(group.pending.last()) else {
        context.reply.null();
        context.reply.null();
        context.reply.null_array();
        return Ok(());
    };
    context.reply.bulk(first.id.to_string().as_bytes());
    context.reply.bulk(last.id.to_string().as_bytes());
    let busy: Vec<(&Blob, usize)> =
        group.consumers.iter().map(|(name, consumer)| (name, consumer.pending.len())).filter(|(_, count)| *count > 0).collect();
    context.reply.array(busy.len());
    for (name, count) in busy {
        context.reply.array(2);
        context.reply.bulk(name);
        context.reply.bulk(count.to_string().as_bytes());
    }
    Ok(())
}

fn xclaim(context: &mut Context<'_>) -> Done {
    let (key, name, who, now) = (context.arg(1), context.arg(2), context.arg(3), context.store.now);
    let shared = stream(context, 1)?;
    let known = shared.as_ref().is_some_and(|stream| stream.groups.contains_key(name));
    let Some(shared) = shared.filter(|_| known) else { return Err(no_group(key, name)) };
    let idle = number::integer(context.arg(4)).ok_or_else(|| Error::new("Invalid min-idle-time argument for XCLAIM"))?.max(0);
    let mut at = 5;
    while at < context.args.len() && Id::parse(context.arg(at), 0).is_some() {
        at += 1;
    }
    let ids = (5..at).map(|at| id(context, at)).collect::<Result<Vec<_>, _>>()?;
    let (mut time, mut count, mut force, mut just, mut last) = (now, None, false, false, Id::MIN);
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "FORCE") {
            force = true;
        } else if context.is(at, "JUSTID") {
            just = true;
        } else if context.is(at, "IDLE") && left > 0 {
            at += 1;
            let ago = number::integer(context.arg(at)).ok_or_else(|| Error::new("Invalid IDLE option argument for XCLAIM"))?;
            time = now.saturating_sub(ago);
        } else if context.is(at, "TIME") && left > 0 {
            at += 1;
            time = number::integer(context.arg(at)).ok_or_else(|| Error::new("Invalid TIME option argument for XCLAIM"))?;
        } else if context.is(at, "RETRYCOUNT") && left > 0 {
            at += 1;
            let given = number::integer(context.arg(at)).and_then(|count| u64::try_from(count).ok());
            count = Some(given.ok_or_else(|| Error::new("Invalid RETRYCOUNT option argument for XCLAIM"))?);
        } else if context.is(at, "LASTID") && left > 0 {
            at += 1;
            last = id(context, at)?;
        } else {
            return Err(Error::new(format_args!("Unrecognized XCLAIM option '{}'", text(context.arg(at)))));
        }
        at += 1;
    }
    // A time that has not come yet would make the entry wait for ever.
    let time = if (0..=now).contains(&time) || context.store.replaying { time } else { now };
    let mut words = Vec::new();
    if consumer(context, 1, 2, who)? {
        words.push(made_words(key, name, who));
    }
    let group = group_mut(context, 1, 2)?;
    if group.last < last {
        group.last = last;
        words.push(last_words(key, name, group));
    }
    let mut claimed = Vec::new();
    for id in ids {
        let exists = shared.find(id).is_some();
        let old = group.find(id).cloned();
        if !exists {
            // It was deleted: nobody can do anything with it.
            if group.acknowledge(id) {
                words.push([&b"XACK"[..], key, name, id.to_string().as_bytes()].map(<[u8]>::to_vec).to_vec());
            }
            continue;
        }
        let old = match old {
            // A clock that was set back must not keep a claim from being made again as it was.
            Some(old) if idle > 0 && now - old.time < idle => continue,
            Some(old) => old,
            None if force => Pending { id, consumer: who.into(), time, count: 0 },
            None => continue,
        };
        let count = count.unwrap_or(old.count + u64::from(!just));
        let pending = Pending { id, consumer: who.into(), time, count };
        words.push(claim_words(key, name, &pending, group.last));
        group.deliver(pending);
        claimed.push(id);
    }
    reply_claimed(context, &shared, &claimed, just);
    log(context, &words);
    Ok(())
}

fn reply_claimed(context: &mut Context<'_>, stream: &Stream, claimed: &[Id], just: bool) {
    context.reply.array(claimed.len());
    for id in claimed {
        match stream.find(*id) {
            Some(item) if !just => show(context, item),
            _ => context.reply.bulk(id.to_string().as_bytes()),
        }
    }
}

fn xautoclaim(context: &mut Context<'_>) -> Done {
    let (key, name, who, now) = (context.arg(1), context.arg(2), context.arg(3), context.store.now);
    let idle = number::integer(context.arg(4)).ok_or_else(|| Error::new("Invalid min-idle-time argument for XAUTOCLAIM"))?.max(0);
    let start = end(context, 5, true)?;
    let (mut most, mut just, mut at) = (100, false, 6);
    while at < context.args.len() {
        if context.is(at, "COUNT") && at + 1 < context.args.len() {
            let count = number::integer(context.arg(at + 1)).and_then(|count| usize::try_from(count).ok());
            most = count.filter(|count| (1..=1 << 40).contains(count)).ok_or_else(|| Error::new("COUNT must be > 0"))?;
            at += 2;
        } else if context.is(at, "JUSTID") {
            just = true;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
    }
    let shared = stream(context, 1)?;
    let known = shared.as_ref().is_some_and(|stream| stream.groups.contains_key(name));
    let Some(shared) = shared.filter(|_| known) else { return Err(no_group(key, name)) };
    let mut words = Vec::new();
    if consumer(context, 1, 2, who)? {
        words.push(made_words(key, name, who));
    }
    let group = group_mut(context, 1, 2)?;
    let (mut claimed, mut deleted) = (Vec::new(), Vec::new());
    let mut place = group.place(start);
    // Redis looks at ten entries for each that is asked for.
    let mut attempts = most.saturating_mul(10);
    while attempts > 0 && claimed.len() + deleted.len() < most {
        let Some(old) = group.pending.get(place).cloned() else { break };
        attempts -= 1;
        if shared.find(old.id).is_none() {
            group.acknowledge(old.id);
            words.push([&b"XACK"[..], key, name, old.id.to_string().as_bytes()].map(<[u8]>::to_vec).to_vec());
            deleted.push(old.id);
            continue;
        }
        place += 1;
        if now - old.time < idle {
            continue;
        }
        let pending = Pending { id: old.id, consumer: who.into(), time: now, count: old.count + u64::from(!just) };
        words.push(claim_words(key, name, &pending, group.last));
        group.deliver(pending);
        claimed.push(old.id);
    }
    let next = group.pending.get(place).map_or(Id::MIN, |pending| pending.id);
    context.reply.array(3);
    context.reply.bulk(next.to_string().as_bytes());
    reply_claimed(context, &shared, &claimed, just);
    context.reply.bulks(deleted.iter().map(Id::to_string));
    log(context, &words);
    Ok(())
}

// ---- XINFO ------------------------------------------------------------------------------------------------------------------------------

fn xinfo(context: &mut Context<'_>) -> Done {
    let sub = context.subcommand();
    match &*sub {
        "help" => {
            context.count(2..=2)?;
            help(
                context,
                &[
                    "XINFO <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                    "CONSUMERS <key> <groupname>",
                    "    Show consumers of <groupname>.",
                    "GROUPS <key>",
                    "    Show the stream consumer groups.",
                    "STREAM <key> [FULL [COUNT <count>]",
                    "    Show information about the stream.",
                    "HELP",
                    "    Print this help.",
                ],
            );
            return Ok(());
        }
        "stream" => context.count(3..)?,
        "groups" => context.count(3..=3)?,
        "consumers" => context.count(4..=4)?,
        _ => return Err(context.unknown_subcommand()),
    }
    let full = sub == "stream" && context.args.len() > 3;
    let mut most = 10;
    if full {
        if !context.is(3, "FULL") || !matches!(context.args.len(), 4 | 6) || context.args.len() == 6 && !context.is(4, "COUNT") {
            return Err(Error::Syntax);
        }
        if context.args.len() == 6 {
            most = usize::try_from(context.integer(5)?).unwrap_or(10);
        }
    }
    let most = if most == 0 { usize::MAX } else { most };
    let stream: Arc<Stream> = match context.read(2) {
        None => return Err(Error::NoSuchKey),
        Some(Value::Stream(stream)) => Arc::clone(stream),
        Some(_) => return Err(Error::WrongType),
    };
    match &*sub {
        "stream" => about_stream(context, &stream, full.then_some(most)),
        "groups" => about_groups(context, &stream),
        _ => {
            let (key, name) = (context.arg(2), context.arg(3));
            let group = stream.groups.get(name).ok_or_else(|| no_such_group(key, name))?;
            let now = context.store.now;
            context.reply.array(group.consumers.len());
            for (name, consumer) in &group.consumers {
                context.reply.map(3);
                context.reply.bulk(b"name");
                context.reply.bulk(name);
                context.reply.bulk(b"pending");
                context.reply.count(consumer.pending.len());
                context.reply.bulk(b"idle");
                context.reply.integer((now - consumer.seen).max(0));
            }
        }
    }
    Ok(())
}

fn number_or_null(context: &mut Context<'_>, name: &str, number: Option<u64>) {
    context.reply.bulk(name.as_bytes());
    match number {
        Some(number) => context.reply.count(number as usize),
        None => context.reply.null(),
    }
}

fn count(context: &mut Context<'_>, name: &str, number: usize) {
    number_or_null(context, name, Some(number as u64));
}

fn shown(context: &mut Context<'_>, name: &str, id: Id) {
    context.reply.bulk(name.as_bytes());
    context.reply.bulk(id.to_string().as_bytes());
}

fn about_stream(context: &mut Context<'_>, stream: &Stream, full: Option<usize>) {
    context.reply.map(if full.is_some() { 9 } else { 10 });
    let nodes = stream.len().div_ceil(100);
    count(context, "length", stream.len());
    count(context, "radix-tree-keys", nodes);
    count(context, "radix-tree-nodes", nodes + 1);
    shown(context, "last-generated-id", stream.last);
    shown(context, "max-deleted-entry-id", stream.max_deleted);
    number_or_null(context, "entries-added", Some(stream.added));
    shown(context, "recorded-first-entry-id", stream.first());
    let Some(most) = full else {
        count(context, "groups", stream.groups.len());
        for (name, item) in [("first-entry", stream.items().first()), ("last-entry", stream.items().last())] {
            context.reply.bulk(name.as_bytes());
            match item {
                Some(item) => show(context, item),
                None => context.reply.null(),
            }
        }
        return;
    };
    context.reply.bulk(b"entries");
    context.reply.array(stream.len().min(most));
    stream.items().iter().take(most).for_each(|item| show(context, item));
    context.reply.bulk(b"groups");
    context.reply.array(stream.groups.len());
    for (name, group) in &stream.groups {
        context.reply.map(7);
        context.reply.bulk(b"name");
        context.reply.bulk(name);
        shown(context, "last-delivered-id", group.last);
        number_or_null(context, "entries-read", group.read);
        number_or_null(context, "lag", stream.lag(group));
        count(context, "pel-count", group.pending.len());
        context.reply.bulk(b"pending");
        context.reply.array(group.pending.len().min(most));
        for pending in group.pending.iter().take(most) {
            context.reply.array(4);
            context.reply.bulk(pending.id.to_string().as_bytes());
            context.reply.bulk(&pending.consumer);
            context.reply.integer(pending.time);
            context.reply.count(pending.count as usize);
        }
        context.reply.bulk(b"consumers");
        context.reply.array(group.consumers.len());
        for (name, consumer) in &group.consumers {
            context.reply.map(4);
            context.reply.bulk(b"name");
            context.reply.bulk(name);
            context.reply.bulk(b"seen-time");
            context.reply.integer(consumer.seen);
            count(context, "pel-count", consumer.pending.len());
            context.reply.bulk(b"pending");
            context.reply.array(consumer.pending.len().min(most));
            for id in consumer.pending.iter().take(most) {
                let (time, count) = group.find(*id).map_or((0, 0), |pending| (pending.time, pending.count));
                context.reply.array(3);
                context.reply.bulk(id.to_string().as_bytes());
                context.reply.integer(time);
                context.reply.count(count as usize);
            }
        }
    }
}

fn about_groups(context: &mut Context<'_>, stream: &Stream) {
    context.reply.array(stream.groups.len());
    for (name, group) in &stream.groups {
        context.reply.map(6);
        context.reply.bulk(b"name");
        context.reply.bulk(name);
        count(context, "consumers", group.consumers.len());
        count(context, "pending", group.pending.len());
        shown(context, "last-delivered-id", group.last);
        number_or_null(context, "entries-read", group.read);
        number_or_null(context, "lag", stream.lag(group));
    }
}
