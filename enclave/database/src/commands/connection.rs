//! The connection itself: who it is, what it has selected, what it listens to, and its transactions.

use super::{Command, Context, Done, Kind, command};
use crate::error::Error;
use crate::number;
use crate::resp::Reply;

pub const COMMANDS: &[Command] = &[
    command("ping", -1, Kind::Server, (0, 0, 0), ping),
    command("echo", 2, Kind::Server, (0, 0, 0), echo),
    command("hello", -1, Kind::Server, (0, 0, 0), hello),
    command("auth", -2, Kind::Server, (0, 0, 0), auth),
    command("select", 2, Kind::Server, (0, 0, 0), select),
    command("quit", -1, Kind::Server, (0, 0, 0), quit),
    command("reset", 1, Kind::Server, (0, 0, 0), reset),
    command("client", -2, Kind::Server, (0, 0, 0), client),
    command("watch", -2, Kind::Server, (1, -1, 1), watch),
    command("unwatch", 1, Kind::Server, (0, 0, 0), |context| {
        unwatch(context);
        context.reply.ok();
        Ok(())
    }),
    command("multi", 1, Kind::Server, (0, 0, 0), multi),
    command("discard", 1, Kind::Server, (0, 0, 0), discard),
    command("subscribe", -2, Kind::Server, (0, 0, 0), |context| subscribe(context, false)),
    command("psubscribe", -2, Kind::Server, (0, 0, 0), |context| subscribe(context, true)),
    command("unsubscribe", -1, Kind::Server, (0, 0, 0), |context| unsubscribe(context, false)),
    command("punsubscribe", -1, Kind::Server, (0, 0, 0), |context| unsubscribe(context, true)),
    command("publish", 3, Kind::Server, (0, 0, 0), publish),
    command("pubsub", -2, Kind::Server, (0, 0, 0), pubsub),
];

fn ping(context: &mut Context<'_>) -> Done {
    match context.args.len() {
        // Who listens in RESP2 can only be told in the form of a message.
        1 | 2 if context.session.subscriptions() > 0 && context.reply.version < 3 => {
            context.reply.array(2);
            context.reply.bulk(b"pong");
            context.reply.bulk(context.arg(1));
        }
        1 => context.reply.simple("PONG"),
        2 => context.reply.bulk(context.arg(1)),
        _ => return Err(Error::Arity("ping".to_owned())),
    }
    Ok(())
}

fn echo(context: &mut Context<'_>) -> Done {
    context.reply.bulk(context.arg(1));
    Ok(())
}

fn hello(context: &mut Context<'_>) -> Done {
    let mut version = context.session.version;
    if context.args.len() > 1 {
        let wanted = number::integer(context.arg(1)).ok_or_else(|| Error::new("Protocol version is not an integer or out of range"))?;
        version = match wanted {
            2 => 2,
            3 => 3,
            _ => return Err(Error::Other("NOPROTO unsupported protocol version".to_owned())),
        };
    }
    let (mut at, mut name) = (2, None);
    while at < context.args.len() {
        if context.is(at, "AUTH") && at + 2 < context.args.len() {
            let known = context.arg(at + 1) == b"default" && log_in(context, context.arg(at + 2));
            if !known {
                return Err(Error::WrongPass);
            }
            at += 3;
        } else if context.is(at, "SETNAME") && at + 1 < context.args.len() {
            name = Some(client_name(context.arg(at + 1))?);
            at += 2;
        } else {
            return Err(Error::new(format_args!("Syntax error in HELLO option '{}'", String::from_utf8_lossy(context.arg(at)))));
        }
    }
    if !context.session.authenticated {
        let sentence = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
        return Err(Error::Other(sentence.to_owned()));
    }
    if let Some(name) = name {
        context.session.name = name;
    }
    (context.session.version, context.reply.version) = (version, version);
    context.reply.map(7);
    for (key, value) in [("server", "redis"), ("version", super::server::REDIS_VERSION)] {
        context.reply.bulk(key.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    context.reply.bulk(b"proto");
    context.reply.integer(version.into());
    context.reply.bulk(b"id");
    context.reply.integer(context.session.id as i64);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        context.reply.bulk(key.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    context.reply.bulk(b"modules");
    context.reply.array(0);
    Ok(())
}

/// Whether this is the password. Compared as a whole: how long it takes tells nothing of where they differ.
fn log_in(context: &mut Context<'_>, password: &[u8]) -> bool {
    let wanted = context.shared.settings.password.as_bytes();
    let same = wanted.len() == password.len() && wanted.iter().zip(password).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
    context.session.authenticated |= same || wanted.is_empty();
    same || wanted.is_empty()
}

fn auth(context: &mut Context<'_>) -> Done {
    let (user, password) = match context.args.len() {
        2 => (&b"default"[..], context.arg(1)),
        3 => (context.arg(1), context.arg(2)),
        _ => return Err(Error::Syntax),
    };
    if context.args.len() == 2 && context.shared.settings.password.is_empty() {
        let sentence =
            "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
        return Err(Error::new(sentence));
    }
    if user != b"default" || !log_in(context, password) {
        return Err(Error::WrongPass);
    }
    context.reply.ok();
    Ok(())
}

fn select(context: &mut Context<'_>) -> Done {
    let number = context.integer(1).map_err(|_| Error::new("invalid DB index"))?;
    let number = usize::try_from(number).ok().filter(|number| *number < context.store.databases()).ok_or(Error::Database)?;
    context.session.database = number;
    context.reply.ok();
    Ok(())
}

fn quit(context: &mut Context<'_>) -> Done {
    context.session.closing = true;
    context.reply.ok();
    Ok(())
}

fn reset(context: &mut Context<'_>) -> Done {
    unwatch(context);
    forget_subscriptions(context);
    let session = &mut context.session;
    (session.queue, session.refused) = (None, false);
    (session.database, session.version, context.reply.version) = (0, 2, 2);
    session.name.clear();
    session.authenticated = context.shared.settings.password.is_empty();
    context.reply.simple("RESET");
    Ok(())
}

fn client_name(name: &[u8]) -> Result<String, Error> {
    let plain = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    match std::str::from_utf8(name) {
        Ok(name) if plain => Ok(name.to_owned()),
        _ => Err(Error::new("Client names cannot contain spaces, newlines or special characters.")),
    }
}

fn client(context: &mut Context<'_>) -> Done {
    let subcommand = String::from_utf8_lossy(context.arg(1)).to_ascii_uppercase();
    match (subcommand.as_str(), context.args.len()) {
        ("ID", 2) => context.reply.integer(context.session.id as i64),
        ("GETNAME", 2) if context.session.name.is_empty() => context.reply.null(),
        ("GETNAME", 2) => context.reply.bulk(context.session.name.as_bytes()),
        ("SETNAME", 3) => {
            context.session.name = client_name(context.arg(2))?;
            context.reply.ok();
        }
        ("SETINFO", 4) if context.is(2, "LIB-NAME") || context.is(2, "LIB-VER") => context.reply.ok(),
        ("INFO", 2) => {
            let line = describe(context);
            context.reply.verbatim(&line);
        }
        ("NO-EVICT" | "NO-TOUCH", 3) => context.reply.ok(),
        ("UNBLOCK", 3 | 4) => {
            let by_error = match context.args.len() {
                4 if context.is(3, "ERROR") => true,
                4 if !context.is(3, "TIMEOUT") => return Err(Error::new("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
                _ => false,
            };
            let id = context.integer(2)? as u64;
            let waits = context.shared.waiting.contains(&id);
            if waits {
                context.shared.unblock.push((id, by_error));
            }
            context.reply.integer(waits.into());
        }
        _ => return Err(Error::Subcommand(subcommand, "CLIENT".to_owned())),
    }
    Ok(())
}

fn describe(context: &Context<'_>) -> String {
    let session = &context.session;
    format!(
        "id={} addr={} name={} age={} db={} sub={} psub={} multi={} watch={} resp={}\n",
        session.id,
        session.address,
        session.name,
        (context.store.now - session.opened) / 1000,
        session.database,
        session.channels.len(),
        session.patterns.len(),
        session.queue.as_ref().map_or(-1, |queue| queue.len() as i64),
        session.watched.len(),
        session.version,
    )
}

fn watch(context: &mut Context<'_>) -> Done {
    if context.session.queue.is_some() {
        return Err(Error::new("WATCH inside MULTI is not allowed"));
    }
    let db = context.db();
    for key in &context.args[1..] {
        let known = context.session.watched.iter().any(|(database, watched, _)| *database == db && **watched == **key);
        if !known {
            let version = context.store.watch(db, key);
            context.session.watched.push((db, (*key).into(), version));
        }
    }
    context.reply.ok();
    Ok(())
}

/// Ends all watching. Whether anything has changed meanwhile.
pub fn unwatch(context: &mut Context<'_>) -> bool {
    let watched = std::mem::take(&mut context.session.watched);
    watched.iter().fold(false, |changed, (db, key, version)| context.store.unwatch(*db, key, *version) || changed)
}

fn multi(context: &mut Context<'_>) -> Done {
    if context.session.queue.is_some() {
        return Err(Error::new("MULTI calls can not be nested"));
    }
    (context.session.queue, context.session.refused) = (Some(Vec::new()), false);
    context.reply.ok();
    Ok(())
}

fn discard(context: &mut Context<'_>) -> Done {
    if context.session.queue.take().is_none() {
        return Err(Error::new("DISCARD without MULTI"));
    }
    unwatch(context);
    context.reply.ok();
    Ok(())
}

fn told(reply: &mut Reply, word: &str, name: Option<&[u8]>, count: usize) {
    reply.push(3);
    reply.bulk(word.as_bytes());
    reply.bulk_or_null(name);
    reply.count(count);
}

fn subscribe(context: &mut Context<'_>, pattern: bool) -> Done {
    for name in &context.args[1..] {
        context.shared.subscribe(context.session.id, name, pattern);
        let (names, word) =
            if pattern { (&mut context.session.patterns, "psubscribe") } else { (&mut context.session.channels, "subscribe") };
        names.insert((*name).into());
        told(context.reply, word, Some(name), context.session.subscriptions());
    }
    Ok(())
}

fn unsubscribe(context: &mut Context<'_>, pattern: bool) -> Done {
    let word = if pattern { "punsubscribe" } else { "unsubscribe" };
    let mine = if pattern { &context.session.patterns } else { &context.session.channels };
    let names: Vec<Box<[u8]>> =
        if context.args.len() > 1 { context.args[1..].iter().map(|name| (*name).into()).collect() } else { mine.iter().cloned().collect() };
    if names.is_empty() {
        told(context.reply, word, None, context.session.subscriptions());
    }
    for name in names {
        context.shared.unsubscribe(context.session.id, &name, pattern);
        let mine = if pattern { &mut context.session.patterns } else { &mut context.session.channels };
        mine.remove(&name);
        told(context.reply, word, Some(&name), context.session.subscriptions());
    }
    Ok(())
}

/// Of a connection that goes, or is reset.
pub fn forget_subscriptions(context: &mut Context<'_>) {
    for (names, pattern) in [(std::mem::take(&mut context.session.channels), false), (std::mem::take(&mut context.session.patterns), true)]
    {
        names.iter().for_each(|name| context.shared.unsubscribe(context.session.id, name, pattern));
    }
}

fn publish(context: &mut Context<'_>) -> Done {
    let count = context.shared.publish(context.arg(1), context.arg(2));
    context.reply.count(count);
    Ok(())
}

fn pubsub(context: &mut Context<'_>) -> Done {
    let subcommand = String::from_utf8_lossy(context.arg(1)).to_ascii_uppercase();
    match (subcommand.as_str(), context.args.len()) {
        ("CHANNELS", 2 | 3) => {
            let pattern = if context.args.len() == 3 { context.arg(2) } else { b"*" };
            let names: Vec<_> =
                context.shared.channels().map(|(name, _)| name.to_vec()).filter(|name| crate::glob::matches(pattern, name)).collect();
            context.reply.bulks(names.iter());
        }
        ("NUMSUB", _) => {
            let counts: Vec<(Vec<u8>, usize)> = context.args[2..]
                .iter()
                .map(|name| (name.to_vec(), context.shared.channels().find(|(known, _)| known == name).map_or(0, |(_, count)| count)))
                .collect();
            context.reply.array(2 * counts.len());
            for (name, count) in counts {
                context.reply.bulk(&name);
                context.reply.count(count);
            }
        }
        ("NUMPAT", 2) => {
            let count = context.shared.patterns();
            context.reply.count(count);
        }
        _ => return Err(Error::Subcommand(subcommand, "PUBSUB".to_owned())),
    }
    Ok(())
}
