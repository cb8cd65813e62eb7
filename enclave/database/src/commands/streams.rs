//! Streams: adding, reading, trimming. Groups of consumers are in [`super::stream_groups`].

use std::sync::Arc;

use super::{Command, Context, Done, Kind, command, event, flag};
use crate::error::Error;
use crate::number;
use crate::session::Otherwise;
use crate::value::{Id, Item, Stream, Value};

pub const COMMANDS: &[Command] = &[
    command("xadd", -5, Kind::Grow, (1, 1, 1), xadd).with(flag::FAST),
    command("xlen", 2, Kind::Read, (1, 1, 1), xlen).with(flag::FAST),
    command("xrange", -4, Kind::Read, (1, 1, 1), |context| xrange(context, false)),
    command("xrevrange", -4, Kind::Read, (1, 1, 1), |context| xrange(context, true)),
    command("xdel", -3, Kind::Write, (1, 1, 1), xdel).with(flag::FAST),
    command("xtrim", -4, Kind::Write, (1, 1, 1), xtrim),
    command("xsetid", -3, Kind::Grow, (1, 1, 1), xsetid).with(flag::FAST),
    command("xread", -4, Kind::Read, (0, 0, 0), xread).with(flag::MOVABLE | flag::BLOCKING),
];

/// The stream of a key. Shared: what it shows stays what it is.
pub(super) fn stream(context: &mut Context<'_>, at: usize) -> Result<Option<Arc<Stream>>, Error> {
    match context.look(at) {
        None => Ok(None),
        Some(Value::Stream(stream)) => Ok(Some(Arc::clone(stream))),
        Some(_) => Err(Error::WrongType),
    }
}

/// The stream of a key, to be changed; an empty one is made.
pub(super) fn stream_mut<'a>(context: &'a mut Context<'_>, at: usize) -> Result<&'a mut Stream, Error> {
    if context.read(at).is_some_and(|value| !matches!(value, Value::Stream(_))) {
        return Err(Error::WrongType);
    }
    let (db, key) = (context.db(), context.arg(at));
    match context.store.edit_or(db, key, || Value::Stream(Arc::default())) {
        Value::Stream(stream) => Ok(Arc::make_mut(stream)),
        _ => Err(Error::WrongType),
    }
}

/// An argument that is the number of an entry.
pub(super) fn id(context: &Context<'_>, at: usize) -> Result<Id, Error> {
    Id::parse(context.arg(at), 0).ok_or_else(bad_id)
}

fn bad_id() -> Error {
    Error::new("Invalid stream ID specified as stream command argument")
}

/// An argument that is one end of a range: `-`, `+`, a number, or `(` before a number that does not belong to it.
pub(super) fn end(context: &Context<'_>, at: usize, is_start: bool) -> Result<Id, Error> {
    let text = context.arg(at);
    let missing = if is_start { 0 } else { u64::MAX };
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        [b'(', rest @ ..] if !rest.is_empty() => {
            let id = Id::parse(rest, missing).ok_or_else(bad_id)?;
            let (id, which) = if is_start { (id.next(), "start") } else { (id.previous(), "end") };
            id.ok_or_else(|| Error::new(format_args!("invalid {which} ID for the interval")))
        }
        _ => Id::parse(text, missing).ok_or_else(bad_id),
    }
}

/// Writes an entry.
pub(super) fn show(context: &mut Context<'_>, item: &Item) {
    context.reply.array(2);
    context.reply.bulk(item.id.to_string().as_bytes());
    context.reply.array(item.parts().count());
    item.parts().for_each(|part| context.reply.bulk(part));
}

// ---- adding and trimming ----------------------------------------------------------------------------------------------------------------

/// What is to stay.
#[derive(Clone, Copy)]
enum Keep {
    Most(usize),
    From(Id),
}

#[derive(Default)]
struct Options {
    keep: Option<Keep>,
    /// Only whole nodes of Redis's are to go.
    roughly: bool,
    /// At most so many go.
    limit: Option<usize>,
    only_old: bool,
    /// Where the options end.
    next: usize,
}

/// The options of XADD and XTRIM.
fn options(context: &Context<'_>, adds: bool) -> Result<Options, Error> {
    let mut options = Options { next: 2, ..Options::default() };
    let mut limit = None;
    let exclusive = || Error::new("syntax error, MAXLEN and MINID options at the same time are not compatible");
    while options.next < context.args.len() {
        let at = options.next;
        let left = context.args.len() - at - 1;
        let (length, from) = (context.is(at, "MAXLEN"), context.is(at, "MINID"));
        if (length || from) && left > 0 {
            if options.keep.is_some() {
                return Err(exclusive());
            }
            let sign = left >= 2 && matches!(context.arg(at + 1), b"~" | b"=");
            options.roughly = sign && context.arg(at + 1) == b"~";
            let value = at + 1 + usize::from(sign);
            options.keep = Some(if length {
                let most = context.integer(value)?;
                Keep::Most(usize::try_from(most).map_err(|_| Error::new("The MAXLEN argument must be >= 0."))?)
            } else {
                Keep::From(id(context, value)?)
            });
            options.next = value + 1;
        } else if context.is(at, "LIMIT") && left > 0 {
            let most = context.integer(at + 1)?;
            limit = Some(usize::try_from(most).map_err(|_| Error::new("The LIMIT argument must be >= 0."))?);
            options.next += 2;
        } else if adds && context.is(at, "NOMKSTREAM") {
            options.only_old = true;
            options.next += 1;
        } else if adds {
            break;
        } else {
            return Err(Error::Syntax);
        }
    }
    if options.keep.is_none() && limit.is_some_and(|limit| limit > 0) {
        return Err(Error::new("syntax error, LIMIT cannot be used without specifying a trimming strategy"));
    }
    if options.keep.is_none() && !adds {
        return Err(Error::new("syntax error, XTRIM must be called with a trimming strategy"));
    }
    if limit.is_some() && !options.roughly && options.keep.is_some() {
        return Err(Error::new("syntax error, LIMIT cannot be used without the special ~ option"));
    }
    options.limit = match limit {
        Some(limit) => Some(limit).filter(|limit| *limit > 0),
        None if options.roughly => Some(match node(context).saturating_mul(100) {
            0 => 10_000,
            many => many.min(1_000_000),
        }),
        None => None,
    };
    Ok(options)
}

/// Entries that Redis keeps in one node.
fn node(context: &Context<'_>) -> usize {
    usize::try_from(context.shared.config.number("stream-node-max-entries")).unwrap_or(0)
}

/// How many entries go from the beginning.
fn excess(context: &Context<'_>, stream: &Stream, options: &Options) -> usize {
    let many = match options.keep {
        None => 0,
        Some(Keep::Most(most)) => stream.len().saturating_sub(most),
        Some(Keep::From(id)) => stream.items().partition_point(|item| item.id < id),
    };
    if !options.roughly {
        return many;
    }
    // Redis drops whole nodes only, and clients see that.
    let node = match node(context) {
        0 => 100,
        node => node,
    };
    let many = many.min(options.limit.unwrap_or(usize::MAX));
    // The first node lacks what went before.
    let gone = usize::try_from(stream.added).unwrap_or(usize::MAX).saturating_sub(stream.len()) % node;
    ((many + gone) / node * node).saturating_sub(gone)
}

/// Which number an entry gets.
enum Wanted {
    Any,
    /// Any within this millisecond.
    Within(u64),
    This(Id),
}

fn xadd(context: &mut Context<'_>) -> Done {
    let options = options(context, true)?;
    let first = options.next + 1;
    let wanted = match context.arg(options.next) {
        b"*" => Wanted::Any,
        text => match text.strip_suffix(b"-*") {
            Some(ms) => Wanted::Within(number::natural(ms).ok_or_else(bad_id)?),
            None => Wanted::This(id(context, options.next)?),
        },
    };
    let parts = context.args.get(first..).unwrap_or_default();
    if parts.is_empty() || !parts.len().is_multiple_of(2) {
        return Err(Error::Arity(context.name()));
    }
    if matches!(wanted, Wanted::This(Id::MIN)) {
        return Err(Error::new("The ID specified in XADD must be greater than 0-0"));
    }
    let old = stream(context, 1)?;
    if old.is_none() && options.only_old {
        context.reply.null();
        return Ok(());
    }
    let last = old.as_ref().map_or(Id::MIN, |stream| stream.last);
    if last == Id::MAX {
        return Err(Error::new("The stream has exhausted the last possible ID, unable to add more items"));
    }
    let small = || Error::new("The ID specified in XADD is equal or smaller than the target stream top item");
    let now = u64::try_from(context.store.now).unwrap_or(0);
    let id = match wanted {
        Wanted::This(id) => id,
        Wanted::Any if now > last.ms => Id { ms: now, seq: 0 },
        Wanted::Any => last.next().ok_or_else(small)?,
        Wanted::Within(ms) if ms == last.ms => last.next().filter(|id| id.ms == ms).ok_or_else(small)?,
        Wanted::Within(ms) => Id { ms, seq: 0 },
    };
    if id <= last {
        return Err(small());
    }
    drop(old);
    stream_mut(context, 1)?.push(Item::new(id, parts));
    let new = match context.read(1) {
        Some(Value::Stream(stream)) if options.keep.is_some() => Some(Arc::clone(stream)),
        _ => None,
    };
    let excess = new.map_or(0, |stream| excess(context, &stream, &options));
    if excess > 0 {
        stream_mut(context, 1)?.trim(excess);
    }
    let (key, shown) = (context.arg(1), id.to_string());
    context.notify(event::STREAM, "xadd", key);
    if excess > 0 {
        context.notify(event::STREAM, "xtrim", key);
    }
    let add: Vec<&[u8]> = [&b"XADD"[..], key, shown.as_bytes()].into_iter().chain(parts.iter().copied()).collect();
    let left = length(context).to_string();
    let trim: [&[u8]; 5] = [b"XTRIM", key, b"MAXLEN", b"=", left.as_bytes()];
    context.rewrite(&[&add]);
    if excess > 0 {
        context.rewrite(&[&trim]);
    }
    context.reply.bulk(shown.as_bytes());
    Ok(())
}

fn length(context: &mut Context<'_>) -> usize {
    match context.read(1) {
        Some(Value::Stream(stream)) => stream.len(),
        _ => 0,
    }
}

fn xtrim(context: &mut Context<'_>) -> Done {
    let options = options(context, false)?;
    let Some(stream) = stream(context, 1)? else {
        context.reply.count(0);
        return Ok(());
    };
    let excess = excess(context, &stream, &options);
    drop(stream);
    if excess > 0 {
        stream_mut(context, 1)?.trim(excess);
        let key = context.arg(1);
        context.notify(event::STREAM, "xtrim", key);
        let left = length(context).to_string();
        context.rewrite(&[&[b"XTRIM", key, b"MAXLEN", b"=", left.as_bytes()]]);
    }
    context.reply.count(excess);
    Ok(())
}

fn xdel(context: &mut Context<'_>) -> Done {
    let ids = (2..context.args.len()).map(|at| id(context, at)).collect::<Result<Vec<_>, _>>()?;
    let mut count = 0;
    if stream(context, 1)?.is_some_and(|stream| ids.iter().any(|id| stream.find(*id).is_some())) {
        let stream = stream_mut(context, 1)?;
        count = ids.iter().filter(|id| stream.remove(**id)).count();
        let key = context.arg(1);
        context.notify(event::STREAM, "xdel", key);
    }
    context.reply.count(count);
    Ok(())
}

fn xsetid(context: &mut Context<'_>) -> Done {
    let last = id(context, 2)?;
    let (mut added, mut deleted, mut at) = (None, None, 3);
    while at < context.args.len() {
        if at + 1 >= context.args.len() {
            return Err(Error::Syntax);
        }
        if context.is(at, "ENTRIESADDED") {
            let count = context.integer(at + 1)?;
            added = Some(u64::try_from(count).map_err(|_| Error::new("entries_added must be positive"))?);
        } else if context.is(at, "MAXDELETEDID") {
            let id = id(context, at + 1)?;
            if last < id {
                return Err(Error::new("The ID specified in XSETID is smaller than the provided max_deleted_entry_id"));
            }
            deleted = Some(id);
        } else {
            return Err(Error::Syntax);
        }
        at += 2;
    }
    let old = stream(context, 1)?.ok_or(Error::NoSuchKey)?;
    if last < old.max_deleted {
        return Err(Error::new("The ID specified in XSETID is smaller than current max_deleted_entry_id"));
    }
    if old.items().last().is_some_and(|item| last < item.id) {
        return Err(Error::new("The ID specified in XSETID is smaller than the target stream top item"));
    }
    if added.is_some_and(|added| (old.len() as u64) > added) {
        return Err(Error::new("The entries_added specified in XSETID is smaller than the target stream length"));
    }
    drop(old);
    let stream = stream_mut(context, 1)?;
    stream.last = last;
    stream.added = added.unwrap_or(stream.added);
    stream.max_deleted = deleted.filter(|id| *id != Id::MIN).unwrap_or(stream.max_deleted);
    let key = context.arg(1);
    context.notify(event::STREAM, "xsetid", key);
    context.reply.ok();
    Ok(())
}

// ---- reading ----------------------------------------------------------------------------------------------------------------------------

fn xlen(context: &mut Context<'_>) -> Done {
    let length = stream(context, 1)?.map_or(0, |stream| stream.len());
    context.reply.count(length);
    Ok(())
}

fn xrange(context: &mut Context<'_>, backwards: bool) -> Done {
    let (start, stop) = if backwards { (3, 2) } else { (2, 3) };
    let (start, stop) = (end(context, start, true)?, end(context, stop, false)?);
    let (mut most, mut at) = (None, 4);
    while at < context.args.len() {
        if !context.is(at, "COUNT") || at + 1 >= context.args.len() {
            return Err(Error::Syntax);
        }
        most = Some(usize::try_from(context.integer(at + 1)?).unwrap_or(0));
        at += 2;
    }
    let Some(stream) = stream(context, 1)? else {
        context.reply.array(0);
        return Ok(());
    };
    if most == Some(0) {
        context.reply.null_array();
        return Ok(());
    }
    let places = stream.places(start, stop);
    let count = places.len().min(most.unwrap_or(usize::MAX));
    context.reply.array(count);
    let items = stream.items().range(places);
    if backwards {
        items.rev().take(count).for_each(|item| show(context, item));
    } else {
        items.take(count).for_each(|item| show(context, item));
    }
    Ok(())
}

/// The options of XREAD and XREADGROUP.
pub(super) struct Reading {
    /// Entries of each stream, at most.
    pub most: usize,
    /// Whether it waits, and until when.
    pub wait: Option<Option<i64>>,
    /// Where the names of the group and the consumer are.
    pub group: Option<usize>,
    /// What is delivered is not to be acknowledged.
    pub forget: bool,
    /// Where the keys are; the numbers follow.
    pub keys: std::ops::Range<usize>,
}

pub(super) fn reading(context: &Context<'_>, of_group: bool) -> Result<Reading, Error> {
    let mut reading = Reading { most: usize::MAX, wait: None, group: None, forget: false, keys: 0..0 };
    let mut at = 1;
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "BLOCK") && left >= 1 {
            if context.session.script {
                let name = context.name();
                return Err(Error::new(format_args!("{name} command is not allowed with BLOCK option from scripts")));
            }
            reading.wait = Some(context.timeout_ms(at + 1)?);
            at += 2;
        } else if context.is(at, "COUNT") && left >= 1 {
            reading.most = usize::try_from(context.integer(at + 1)?).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
            at += 2;
        } else if context.is(at, "STREAMS") && left >= 1 {
            if !left.is_multiple_of(2) {
                return Err(Error::new("Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."));
            }
            reading.keys = at + 1..at + 1 + left / 2;
            break;
        } else if context.is(at, "GROUP") && left >= 2 {
            if !of_group {
                return Err(Error::new("The GROUP option is only supported by XREADGROUP. You called XREAD instead."));
            }
            reading.group = Some(at + 1);
            at += 3;
        } else if context.is(at, "NOACK") {
            if !of_group {
                return Err(Error::new("The NOACK option is only supported by XREADGROUP. You called XREAD instead."));
            }
            reading.forget = true;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
    }
    if reading.keys.is_empty() {
        return Err(Error::Syntax);
    }
    if of_group && reading.group.is_none() {
        return Err(Error::new("Missing GROUP option for XREADGROUP"));
    }
    Ok(reading)
}

/// Begins the reply of a read: streams by name, as many as have something.
pub(super) fn begin(context: &mut Context<'_>, count: usize) {
    if context.reply.version >= 3 { context.reply.map(count) } else { context.reply.array(count) }
}

/// Begins the part of one stream.
pub(super) fn begin_stream(context: &mut Context<'_>, key: &[u8]) {
    if context.reply.version < 3 {
        context.reply.array(2);
    }
    context.reply.bulk(key);
}

fn xread(context: &mut Context<'_>) -> Done {
    let reading = reading(context, false)?;
    let (streams, retrying) = (reading.keys.len(), context.session.retrying);
    let mut found = Vec::new();
    // What `$` means is decided when it is first looked at.
    let mut decided: Vec<Box<[u8]>> = Vec::new();
    for key in reading.keys.clone() {
        let after = match context.arg(key + streams) {
            b"$" => None,
            b">" => {
                return Err(Error::new(
                    "The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                ));
            }
            _ => Some(id(context, key + streams)?),
        };
        let stream = match stream(context, key) {
            Err(_) if retrying => None,
            stream => stream?,
        };
        let after = after.unwrap_or_else(|| stream.as_ref().map_or(Id::MIN, |stream| stream.last));
        decided.push(after.to_string().into_bytes().into());
        if let (Some(stream), Some(start)) = (stream, after.next()) {
            let places = stream.places(start, Id::MAX);
            if !places.is_empty() {
                found.push((key, stream, places));
            }
        }
    }
    if found.is_empty() {
        let Some(until) = reading.wait else {
            context.reply.null_array();
            return Ok(());
        };
        let mut args = context.args[..reading.keys.end].to_vec();
        args.extend(decided.iter().map(|id| &**id));
        let keys: Vec<&[u8]> = context.args[reading.keys].to_vec();
        let mut later = Context {
            store: &mut *context.store,
            session: &mut *context.session,
            shared: &mut *context.shared,
            args: &args,
            reply: &mut *context.reply,
        };
        later.block(&keys, until, Otherwise::NullArray);
        return Ok(());
    }
    begin(context, found.len());
    for (key, stream, places) in found {
        let count = places.len().min(reading.most);
        let key = context.arg(key);
        begin_stream(context, key);
        context.reply.array(count);
        stream.items().range(places).take(count).for_each(|item| show(context, item));
    }
    Ok(())
}
