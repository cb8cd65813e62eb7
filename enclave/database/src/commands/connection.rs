//! The connection: who, which version, which database.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;

const CONNECTION: u32 = flag::CONNECTION | flag::FAST;

pub const COMMANDS: &[Command] = &[
    command("ping", -1, Kind::Server, (0, 0, 0), ping).with(CONNECTION),
    command("echo", 2, Kind::Server, (0, 0, 0), echo).with(CONNECTION),
    command("hello", -1, Kind::Server, (0, 0, 0), hello).with(CONNECTION | flag::NO_AUTH | flag::NO_SCRIPT | flag::HIDDEN),
    command("auth", -2, Kind::Server, (0, 0, 0), auth).with(CONNECTION | flag::NO_AUTH | flag::NO_SCRIPT | flag::HIDDEN),
    command("quit", -1, Kind::Server, (0, 0, 0), quit).with(CONNECTION | flag::NO_AUTH | flag::NO_SCRIPT),
    command("reset", 1, Kind::Server, (0, 0, 0), reset).with(CONNECTION | flag::NO_AUTH | flag::NO_SCRIPT),
    command("select", 2, Kind::Server, (0, 0, 0), select).with(CONNECTION),
];

fn ping(context: &mut Context<'_>) -> Done {
    if context.args.len() > 2 {
        return Err(Error::Arity("ping".to_owned()));
    }
    if context.session.version == 2 && context.session.is_subscriber() {
        context.reply.array(2);
        context.reply.bulk(b"pong");
        context.reply.bulk(context.arg(1));
    } else if context.args.len() == 2 {
        context.reply.bulk(context.arg(1));
    } else {
        context.reply.simple("PONG");
    }
    Ok(())
}

fn echo(context: &mut Context<'_>) -> Done {
    context.reply.bulk(context.arg(1));
    Ok(())
}

/// Makes the connection a user's.
fn authenticate(context: &mut Context<'_>, name: &[u8], password: &[u8]) -> Done {
    let name = String::from_utf8_lossy(name).into_owned();
    if context.shared.acl.users.get(&name).is_some_and(|user| user.accepts(password)) {
        context.session.user = Some(name);
        context.session.unasked = false;
        return Ok(());
    }
    super::log_denied(context, "auth", "AUTH".to_owned(), name);
    Err(Error::WrongPass)
}

fn auth(context: &mut Context<'_>) -> Done {
    match context.args.len() {
        2 => {
            if context.shared.acl.users.get("default").is_some_and(|user| user.no_password) {
                return Err(Error::new(
                    "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                ));
            }
            authenticate(context, b"default", context.arg(1))?;
        }
        3 => authenticate(context, context.arg(1), context.arg(2))?,
        _ => return Err(Error::Syntax),
    }
    context.reply.ok();
    Ok(())
}

fn hello(context: &mut Context<'_>) -> Done {
    let mut version = None;
    let mut at = 1;
    if context.args.len() > 1 {
        let wanted = number::integer(context.arg(1)).ok_or_else(|| Error::new("Protocol version is not an integer or out of range"))?;
        version = Some(
            u8::try_from(wanted)
                .ok()
                .filter(|version| matches!(version, 2 | 3))
                .ok_or_else(|| Error::Other("NOPROTO unsupported protocol version".to_owned()))?,
        );
        at = 2;
    }
    let (mut user, mut name) = (None, None);
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "AUTH") && left >= 2 {
            user = Some((context.arg(at + 1), context.arg(at + 2)));
            at += 3;
        } else if context.is(at, "SETNAME") && left >= 1 {
            name = Some(context.arg(at + 1));
            at += 2;
        } else {
            let option = String::from_utf8_lossy(context.arg(at)).into_owned();
            return Err(Error::new(format_args!("Syntax error in HELLO option '{option}'")));
        }
    }
    if let Some((user, password)) = user {
        authenticate(context, user, password)?;
    }
    if context.session.user.is_none() {
        return Err(Error::Other(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time".to_owned(),
        ));
    }
    if let Some(name) = name {
        super::client::set_name(context, name)?;
    }
    if let Some(version) = version {
        context.session.version = version;
        context.reply.version = version;
    }
    let role = if context.shared.replication.is_replica() { "replica" } else { "master" };
    let (id, version) = (context.session.id as i64, context.session.version);
    let reply = &mut *context.reply;
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", super::info::VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(version.into());
    reply.bulk(b"id");
    reply.integer(id);
    for (field, value) in [("mode", "standalone"), ("role", role)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn quit(context: &mut Context<'_>) -> Done {
    context.session.closing = true;
    context.reply.ok();
    Ok(())
}

fn reset(context: &mut Context<'_>) -> Done {
    super::unwatch(context.store, context.session);
    context.session.queue = None;
    context.session.refused = false;
    super::pubsub::leave_all(context);
    super::tracking::stop(context);
    let id = context.session.id;
    context.shared.monitors.retain(|monitor| *monitor != id);
    let session = &mut *context.session;
    (session.monitor, session.no_evict) = (false, false);
    (session.database, session.version) = (0, 2);
    session.name.clear();
    session.replies = crate::session::Replies::On;
    session.user = context.shared.acl.initial();
    session.unasked = session.user.is_some();
    context.reply.version = 2;
    context.reply.simple("RESET");
    Ok(())
}

fn select(context: &mut Context<'_>) -> Done {
    let number = number::integer(context.arg(1)).ok_or_else(|| Error::new("value is not an integer or out of range"))?;
    let database = usize::try_from(number).ok().filter(|database| *database < context.store.databases()).ok_or(Error::Database)?;
    context.session.database = database;
    context.reply.ok();
    Ok(())
}
