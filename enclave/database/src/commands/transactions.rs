//! Several commands as one: MULTI, EXEC, DISCARD, WATCH.

use super::{Command, Context, Done, Kind, command, flag};
use crate::dispatch;
use crate::error::Error;
use crate::session::Session;
use crate::store::Store;

const TRANSACTION: u32 = flag::TRANSACTION | flag::NO_SCRIPT;

pub const COMMANDS: &[Command] = &[
    command("multi", 1, Kind::Server, (0, 0, 0), multi).with(TRANSACTION | flag::FAST),
    command("exec", 1, Kind::Server, (0, 0, 0), exec).with(TRANSACTION),
    command("discard", 1, Kind::Server, (0, 0, 0), discard).with(TRANSACTION | flag::FAST),
    command("watch", -2, Kind::Server, (1, -1, 1), watch).with(TRANSACTION | flag::FAST),
    command("unwatch", 1, Kind::Server, (0, 0, 0), unwatch_all).with(TRANSACTION | flag::FAST),
];

fn multi(context: &mut Context<'_>) -> Done {
    if context.session.queue.is_some() {
        return Err(Error::new("MULTI calls can not be nested"));
    }
    context.session.queue = Some(Vec::new());
    context.session.refused = false;
    context.reply.ok();
    Ok(())
}

/// Forgets what a connection watches. Whether something of it has changed.
pub(crate) fn unwatch(store: &mut Store, session: &mut Session) -> bool {
    let watched = std::mem::take(&mut session.watched);
    watched.iter().fold(false, |changed, (db, key, version)| store.unwatch(*db, key, *version) || changed)
}

fn exec(context: &mut Context<'_>) -> Done {
    let Some(queue) = context.session.queue.take() else { return Err(Error::new("EXEC without MULTI")) };
    let changed = unwatch(context.store, context.session);
    if std::mem::take(&mut context.session.refused) {
        return Err(Error::ExecAbort);
    }
    if changed {
        context.reply.null_array();
        return Ok(());
    }
    context.reply.array(queue.len());
    context.session.executing = true;
    for request in &queue {
        let args: Vec<&[u8]> = request.iter().map(|arg| &**arg).collect();
        let mut inner =
            Context { store: context.store, session: context.session, shared: context.shared, args: &args, reply: context.reply };
        // Permissions may have changed since it was queued.
        match super::find(args[0]) {
            Some(command) => match dispatch::permitted(&mut inner, command) {
                Ok(()) => dispatch::call(&mut inner, command),
                Err(error) => inner.reply.error(&error.to_string()),
            },
            None => inner.reply.error(&Error::new("unknown command").to_string()),
        }
    }
    context.session.executing = false;
    Ok(())
}

fn discard(context: &mut Context<'_>) -> Done {
    if context.session.queue.take().is_none() {
        return Err(Error::new("DISCARD without MULTI"));
    }
    context.session.refused = false;
    unwatch(context.store, context.session);
    context.reply.ok();
    Ok(())
}

fn watch(context: &mut Context<'_>) -> Done {
    if context.session.queue.is_some() {
        return Err(Error::new("WATCH inside MULTI is not allowed"));
    }
    let db = context.db();
    for key in &context.args[1..] {
        if !context.session.watched.iter().any(|(known, name, _)| *known == db && **name == **key) {
            let version = context.store.watch(db, key);
            context.session.watched.push((db, Box::from(*key), version));
        }
    }
    context.reply.ok();
    Ok(())
}

fn unwatch_all(context: &mut Context<'_>) -> Done {
    unwatch(context.store, context.session);
    context.reply.ok();
    Ok(())
}
