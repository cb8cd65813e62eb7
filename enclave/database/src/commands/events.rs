//! The keyspace events of the families whose events follow from the command alone.
//!
//! A command that changed something tells it for its key, and tells that the key went when nothing was left of it. The families of strings
//! and keys, streams and others say theirs themselves.

use super::{Command, Context, event};

/// What a command tells: class, and the event for its first key, or for its first and its second.
fn of(name: &str) -> Option<(u32, &'static str, Option<&'static str>)> {
    let (class, first, second) = match name {
        "hset" | "hmset" | "hsetnx" => (event::HASH, "hset", None),
        "hincrby" => (event::HASH, "hincrby", None),
        "hincrbyfloat" => (event::HASH, "hincrbyfloat", None),
        "hdel" => (event::HASH, "hdel", None),
        "lpush" | "lpushx" => (event::LIST, "lpush", None),
        "rpush" | "rpushx" => (event::LIST, "rpush", None),
        "lpop" => (event::LIST, "lpop", None),
        "rpop" => (event::LIST, "rpop", None),
        "linsert" => (event::LIST, "linsert", None),
        "lset" => (event::LIST, "lset", None),
        "lrem" => (event::LIST, "lrem", None),
        "ltrim" => (event::LIST, "ltrim", None),
        "rpoplpush" | "brpoplpush" => (event::LIST, "rpop", Some("lpush")),
        "sadd" => (event::SET, "sadd", None),
        "srem" => (event::SET, "srem", None),
        "spop" => (event::SET, "spop", None),
        "smove" => (event::SET, "srem", Some("sadd")),
        "sinterstore" => (event::SET, "sinterstore", None),
        "sunionstore" => (event::SET, "sunionstore", None),
        "sdiffstore" => (event::SET, "sdiffstore", None),
        "zadd" | "geoadd" => (event::SORTED_SET, "zadd", None),
        "zincrby" => (event::SORTED_SET, "zincr", None),
        "zrem" => (event::SORTED_SET, "zrem", None),
        "zpopmin" => (event::SORTED_SET, "zpopmin", None),
        "zpopmax" => (event::SORTED_SET, "zpopmax", None),
        "zremrangebyscore" => (event::SORTED_SET, "zremrangebyscore", None),
        "zremrangebyrank" => (event::SORTED_SET, "zremrangebyrank", None),
        "zremrangebylex" => (event::SORTED_SET, "zremrangebylex", None),
        "zunionstore" => (event::SORTED_SET, "zunionstore", None),
        "zinterstore" => (event::SORTED_SET, "zinterstore", None),
        "zdiffstore" => (event::SORTED_SET, "zdiffstore", None),
        "zrangestore" => (event::SORTED_SET, "zrangestore", None),
        _ => return None,
    };
    Some((class, first, second))
}

/// Tells what a command did to its keys; `changes`: of the store, before it.
pub(super) fn tell(context: &mut Context<'_>, command: &Command, changes: u64) {
    if context.store.changes == changes {
        return;
    }
    let (db, key) = (context.db(), context.arg(1));
    let word = |at: usize, left: &'static str, right: &'static str| if context.is(at, "LEFT") { left } else { right };
    let found = match command.name {
        "lmove" | "blmove" => Some((event::LIST, word(3, "lpop", "rpop"), Some(word(4, "lpush", "rpush")))),
        // Which of the keys it was is in the reply only; the store knows it too.
        "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "lmpop" | "blmpop" | "zmpop" | "bzmpop" => {
            let (class, name) = match command.name {
                "blpop" => (event::LIST, "lpop"),
                "brpop" => (event::LIST, "rpop"),
                "bzpopmin" => (event::SORTED_SET, "zpopmin"),
                "bzpopmax" => (event::SORTED_SET, "zpopmax"),
                "lmpop" | "blmpop" => {
                    (event::LIST, if context.args.iter().any(|arg| arg.eq_ignore_ascii_case(b"left")) { "lpop" } else { "rpop" })
                }
                _ => {
                    (event::SORTED_SET, if context.args.iter().any(|arg| arg.eq_ignore_ascii_case(b"min")) { "zpopmin" } else { "zpopmax" })
                }
            };
            if let Some(key) = context.store.last_changed().map(Box::<[u8]>::from) {
                told(context, db, class, name, &key);
            }
            return;
        }
        name => of(name),
    };
    let Some((class, first, second)) = found else { return };
    let stored = command.name.ends_with("store");
    if stored && !context.store.contains(db, key) {
        context.notify(event::GENERIC, "del", key);
        return;
    }
    told(context, db, class, first, key);
    if let Some(second) = second {
        context.notify(class, second, context.arg(2));
    }
}

fn told(context: &mut Context<'_>, db: usize, class: u32, name: &str, key: &[u8]) {
    context.notify(class, name, key);
    if !context.store.contains(db, key) {
        context.notify(event::GENERIC, "del", key);
    }
}
