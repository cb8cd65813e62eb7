//! What is noted of a command: errors, what it did to keys that others keep, slow ones, lines for monitors.

use std::borrow::Cow;
use std::time::Duration;

use crate::commands::{self, Command, Context, event, flag};
use crate::error::Error;
use crate::shared::{Push, Slow};
use crate::store::Cause;

/// Counts an error.
pub fn note_error(context: &mut Context<'_>, error: &Error) {
    if matches!(error, Error::Passed(_)) {
        return;
    }
    let text = error.to_string();
    let counters = &mut context.shared.counters;
    counters.errors += 1;
    let word = text.split(' ').next().unwrap_or("ERR");
    // A script can make up words; Redis stops counting at 128 too.
    let has_room = counters.by_error.len() < 128;
    match counters.by_error.get_mut(word) {
        Some(count) => *count += 1,
        None if has_room => drop(counters.by_error.insert(word.to_owned(), 1)),
        None => {}
    }
}

/// Tells those who listen about what happened to keys on the way.
pub(super) fn follow(context: &mut Context<'_>) {
    for (db, key, cause) in std::mem::take(&mut context.store.touched) {
        match &key {
            Some(key) if cause == Cause::Expired => commands::notify(context.shared, db, event::EXPIRED, "expired", key),
            _ => {}
        }
        commands::invalidate(context.shared, key.as_deref(), if cause == Cause::Command { Some(context.session) } else { None });
    }
}

/// Counts a call.
pub(super) fn note_call(context: &mut Context<'_>, command: &Command, took: Duration, failed: bool) {
    let us = took.as_micros() as u64;
    let name = commands::full_name(command, context.args);
    // Whoever makes up subcommands does not make this grow.
    let name = if failed { Cow::Borrowed(command.name) } else { name };
    let calls = context.shared.calls.entry(name).or_default();
    calls.calls += 1;
    calls.us += us;
    calls.failed += u64::from(failed);
    let bits = (u64::BITS - us.saturating_sub(1).leading_zeros()) as usize;
    calls.took[bits.min(31)] += 1;
}

pub(super) fn note_slow(context: &mut Context<'_>, command: &Command, took: Duration) {
    let (us, hot) = (took.as_micros() as u64, &context.shared.config.hot);
    if hot.latency > 0 && took.as_millis() as i64 >= hot.latency {
        let event = if command.is(flag::FAST) { "fast-command" } else { "command" };
        context.shared.note_latency(event, context.store.now / 1000, took.as_millis() as u64);
    }
    let limit = context.shared.config.hot.slower_than;
    // Of a transaction its commands are noted, each by itself.
    let is_other = command.is(flag::HIDDEN) || command.name == "exec" || context.session.waiting.is_some();
    if limit < 0 || us < limit as u64 || is_other {
        return;
    }
    let most = usize::try_from(context.shared.config.number("slowlog-max-len")).unwrap_or(0);
    let request = shorten(context.args);
    let entry = Slow {
        id: context.shared.slow_id,
        time: context.store.now / 1000,
        us,
        request,
        address: context.session.address.clone(),
        name: context.session.name.clone(),
    };
    context.shared.slow_id += 1;
    context.shared.slow.push_front(entry);
    context.shared.slow.truncate(most);
}

/// The first 31 arguments, and 128 bytes of each.
fn shorten(args: &[&[u8]]) -> Vec<Box<[u8]>> {
    let one = |arg: &&[u8]| -> Box<[u8]> {
        if arg.len() <= 128 {
            return Box::from(*arg);
        }
        [&arg[..128], format!("... ({} more bytes)", arg.len() - 128).as_bytes()].concat().into()
    };
    if args.len() <= 32 {
        return args.iter().map(one).collect();
    }
    let more = format!("... ({} more arguments)", args.len() - 31);
    args[..31].iter().map(one).chain([Box::from(more.as_bytes())]).collect()
}

pub(super) fn monitor(context: &mut Context<'_>) {
    let now = context.store.now;
    let who = if context.session.script { "lua" } else { context.session.address.as_str() };
    let mut line = format!("{}.{:06} [{} {who}]", now / 1000, now % 1000 * 1000, context.session.database);
    let secret = ["auth", "hello"].iter().any(|name| context.is(0, name));
    for (at, arg) in context.args.iter().enumerate() {
        line.push(' ');
        line.push_str(&quote(if secret && at > 0 { b"(redacted)" } else { arg }));
    }
    let all = context.shared.monitors.clone();
    context.shared.messages.extend(all.into_iter().map(|id| (id, Push::Line(line.clone()))));
}

/// Bytes in quotes, so that they are one line of text.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for byte in bytes {
        match byte {
            b'\\' | b'"' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            0x20..=0x7e => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}
