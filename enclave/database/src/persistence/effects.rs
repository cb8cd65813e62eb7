//! What of a command goes into the log, and to replicas: what it did, so that doing it again gives the same, at another time and with other
//! random numbers.
//!
//! Most commands are their own effect: on the same data they do the same. Those that are not (times that count from now, chance, floating-point
//! sums, an order that nobody chose) are replaced here, or by their handlers with [`Context::rewrite`]. Commands that waited are carried out
//! again as they are: what they found is there, so they do not wait.

use crate::commands::{Command, Context};
use crate::store::Store;
use crate::stored;
use crate::value::Value;

/// What the store was like before a command.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    changes: u64,
    dropped: usize,
}

/// Before a command.
pub fn before(store: &Store) -> Before {
    Before { changes: store.changes, dropped: store.dropped.len() }
}

/// Puts into the log what a command did.
pub fn note(context: &mut Context<'_>, command: &Command, before: Before, failed: bool) {
    let rewritten = context.shared.rewritten.take();
    if context.shared.takes_effects() {
        // Keys that went by themselves are changes, too, and come first: the command no longer found them.
        let dropped = context.store.dropped.len().saturating_sub(before.dropped) as u64;
        let own = context.store.changes.saturating_sub(before.changes).saturating_sub(dropped);
        context.shared.drop_keys(&mut context.store.dropped);
        if own > 0 && is_logged(command) {
            match rewritten {
                _ if failed => command.keys(context.args).into_iter().for_each(|key| image(context, key)),
                Some(commands) => {
                    let db = context.db();
                    for command in &commands {
                        let parts: Vec<&[u8]> = command.iter().map(|part| &**part).collect();
                        context.shared.note_effect(db, &parts);
                    }
                }
                None => by_name(context, command.name),
            }
        }
    }
    if context.shared.depth == 0 {
        context.shared.end_unit();
    }
}

/// Whether a command that changed something is to be carried out again. A read that keeps a count in the value is: DUMP shows it.
pub fn is_logged(command: &Command) -> bool {
    command.writes() || matches!(command.name, "pfcount" | "debug" | "function")
}

fn by_name(context: &mut Context<'_>, name: &str) {
    let (db, args) = (context.db(), context.args);
    let key = context.arg(1);
    match name {
        "expire" | "pexpire" | "expireat" | "pexpireat" | "getex" => time(context, key),
        // Without options there is nothing in it that depends on anything.
        "set" if args.len() > 3 => set(context, key, context.arg(2)),
        "setex" | "psetex" => set(context, key, context.arg(3)),
        "incrbyfloat" => match context.store.peek(db, key) {
            Some(Value::Text(text)) => {
                let shown = text.bytes().into_owned();
                context.shared.note_effect(db, &[b"SET", key, &shown, b"KEEPTTL"]);
            }
            _ => image(context, key),
        },
        "hincrbyfloat" => {
            let field = context.arg(2);
            let shown = match context.store.peek(db, key) {
                Some(Value::Hash(hash)) => hash.get(field).map(|value| value.to_vec()),
                _ => None,
            };
            match shown {
                Some(shown) => context.shared.note_effect(db, &[b"HSET", key, field, &shown]),
                None => image(context, key),
            }
        }
        // The others change nothing, or what they do is in the base that is written next.
        "debug" if !context.is(1, "populate") => {}
        // What was not sorted, of a set, has an order of this process alone.
        "sort" => {
            let target = (2..args.len().saturating_sub(1)).rev().find(|at| context.is(*at, "store"));
            if let Some(at) = target {
                image(context, context.arg(at + 1));
            }
        }
        _ => context.shared.note_effect(db, args),
    }
}

/// A key's time, as it is now.
fn time(context: &mut Context<'_>, key: &[u8]) {
    let db = context.db();
    match context.store.expires(db, key) {
        None => context.shared.note_effect(db, &[b"DEL", key]),
        Some(None) => context.shared.note_effect(db, &[b"PERSIST", key]),
        Some(Some(time)) => context.shared.note_effect(db, &[b"PEXPIREAT", key, time.to_string().as_bytes()]),
    }
}

/// A key that was set to this value, with the time that it has now.
fn set(context: &mut Context<'_>, key: &[u8], value: &[u8]) {
    let db = context.db();
    match context.store.expires(db, key) {
        // Its time had passed already.
        None => context.shared.note_effect(db, &[b"DEL", key]),
        Some(None) => context.shared.note_effect(db, &[b"SET", key, value]),
        Some(Some(time)) => context.shared.note_effect(db, &[b"SET", key, value, b"PXAT", time.to_string().as_bytes()]),
    }
}

/// A key as it is now, whatever it was.
fn image(context: &mut Context<'_>, key: &[u8]) {
    let db = context.db();
    let expires = context.store.expires(db, key).flatten().unwrap_or(0).to_string();
    // Writing into memory does not fail.
    let payload = context.store.peek(db, key).and_then(|value| teemate_rdb::dump(|writer| stored::write(writer, 0, key, value, None)).ok());
    match payload {
        Some(payload) => context.shared.note_effect(db, &[b"RESTORE", key, expires.as_bytes(), &payload, b"REPLACE", b"ABSTTL"]),
        None => context.shared.note_effect(db, &[b"DEL", key]),
    }
}
