//! From a request to its command: whether it is one, whether it may, and what is noted of it.

mod notes;

use std::time::Instant;

use crate::acl::Denied;
use crate::commands::{self, Command, Context, Kind, flag};
use crate::error::Error;
use crate::eviction;
use crate::persistence::effects;
use crate::session::Replies;

use notes::{follow, monitor, note_call, note_slow};
pub use notes::{note_error, quote};

/// Carries one request out, or queues it, or refuses it; the reply is written in any case.
pub fn process(context: &mut Context<'_>) {
    let before = context.reply.bytes.len();
    context.session.requests += 1;
    context.session.used = context.store.now;
    match admit(context) {
        Err(error) => {
            let aborts = context.session.queue.is_some() && context.is(0, "exec") && !matches!(error, Error::Arity(_));
            if context.session.queue.is_some() && !matches!(context.args.first(), Some(name) if is_control(name)) {
                context.session.refused = true;
            }
            let error = if aborts {
                context.session.queue = None;
                commands::unwatch(context.store, context.session);
                Error::Other(format!("EXECABORT Transaction discarded because of: {error}"))
            } else {
                error
            };
            note_error(context, &error);
            context.reply.error(&error.to_string());
        }
        Ok(command) => {
            let queue = context.session.queue.is_some() && !is_control(command.name.as_bytes());
            match &mut context.session.queue {
                Some(queued) if queue => {
                    queued.push(context.args.iter().map(|arg| Box::from(*arg)).collect());
                    context.reply.simple("QUEUED");
                }
                _ => call(context, command),
            }
        }
    }
    // What says that messages come is itself a message.
    let is_push = context.session.replies != Replies::On
        && commands::find(context.arg(0)).is_some_and(|command| command.is(flag::PUBSUB) && command.name.ends_with("subscribe"));
    match context.session.replies {
        Replies::On => {}
        _ if is_push => {}
        Replies::Off => context.reply.bytes.truncate(before),
        Replies::Skip => {
            context.reply.bytes.truncate(before);
            context.session.replies = Replies::On;
        }
        Replies::SkipNext => context.session.replies = Replies::Skip,
    }
}

/// What a database says that nobody has a password for.
const NO_OWNER: &str =
    "DENIED This database has no owner yet. Whoever sets its password first owns it: `teemate db claim`, or CONFIG SET requirepass";

/// Commands that it takes all the same.
fn is_for_anybody(command: &Command) -> bool {
    command.is(flag::NO_AUTH) || matches!(command.name, "ping" | "config" | "acl")
}

/// What others are told while a script runs that does not end.
pub(crate) fn busy(is_function: bool) -> Error {
    let what = if is_function { "FUNCTION" } else { "SCRIPT" };
    Error::Other(format!("BUSY Redis is busy running a script. You can only call {what} KILL or SHUTDOWN NOSAVE."))
}

/// Commands that do not need the databases, and those that end it.
fn may_while_busy(context: &Context<'_>, command: &Command) -> bool {
    match command.name {
        "auth" | "hello" | "quit" | "reset" | "multi" | "discard" | "watch" | "unwatch" => true,
        "shutdown" => context.is(1, "nosave"),
        "script" => context.is(1, "kill"),
        "function" => context.is(1, "kill") || context.is(1, "stats"),
        _ => false,
    }
}

/// Commands that a transaction does not queue.
fn is_control(name: &[u8]) -> bool {
    ["exec", "discard", "multi", "watch", "quit", "reset"].iter().any(|control| name.eq_ignore_ascii_case(control.as_bytes()))
}

/// The command of a request, if there is one that may be carried out.
fn admit(context: &mut Context<'_>) -> Result<&'static Command, Error> {
    let name = context.arg(0);
    let Some(command) = commands::find(name) else {
        return Err(unknown(context));
    };
    let refuse = |context: &mut Context<'_>, error: Error| {
        context.shared.calls_of(command.name).rejected += 1;
        Err(error)
    };
    if !command.fits(context.args.len()) {
        return refuse(context, Error::Arity(command.name.to_owned()));
    }
    if context.session.user.is_none() && !command.is(flag::NO_AUTH) {
        return refuse(context, Error::NoAuth);
    }
    if context.shared.protected && context.shared.acl.initial().is_some() && !is_for_anybody(command) {
        return refuse(context, Error::Other(NO_OWNER.to_owned()));
    }
    if let Err(error) = permitted(context, command) {
        return refuse(context, error);
    }
    if let Some(running) = &context.shared.running
        && !context.session.executing
        && !may_while_busy(context, command)
    {
        let error = busy(running.is_function);
        return refuse(context, error);
    }
    if context.session.queue.is_some() && command.is(flag::NO_MULTI) {
        return refuse(context, Error::new("Command not allowed inside a transaction"));
    }
    if context.session.version == 2 && context.session.is_subscriber() {
        let allowed = ["subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe", "ping", "quit", "reset"];
        if !allowed.contains(&command.name) {
            return refuse(
                context,
                Error::new(format_args!(
                    "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                    command.name
                )),
            );
        }
    }
    if context.shared.config.hot.max_memory > 0 && !context.session.executing {
        let queued = context.session.queue.iter().flatten().filter_map(|request| commands::find(request.first()?));
        let exec = command.name == "exec" && queued.into_iter().any(|command| command.kind == Kind::Grow);
        if (command.kind != Kind::Server || exec)
            && !eviction::make_room(context.store, context.shared)
            && (exec || command.kind == Kind::Grow)
        {
            return refuse(context, Error::OutOfMemory);
        }
    }
    let queued = || context.session.queue.iter().flatten().filter_map(|request| commands::find(request.first()?)).any(Command::writes);
    let writes = command.writes() || command.name == "exec" && queued();
    if context.shared.replication.is_replica()
        && context.shared.config.is_on("replica-read-only")
        && (writes || command.name == "teemate.import")
    {
        return refuse(context, Error::Other("READONLY You can't write against a read only replica.".to_owned()));
    }
    if writes && let Some(why) = refuses_writes(context.shared) {
        return refuse(context, Error::Other(why));
    }
    Ok(command)
}

/// Why nothing may be written now, if so.
pub(crate) fn refuses_writes(shared: &crate::shared::Shared) -> Option<String> {
    if shared.config.hot.replicas > 0 {
        // There are none.
        return Some("NOREPLICAS Not enough good replicas to write.".to_owned());
    }
    crate::persistence::refuses_writes(shared)
}

/// Whether the client's user may do this.
pub fn permitted(context: &mut Context<'_>, command: &Command) -> Result<(), Error> {
    let Some(name) = context.session.user.clone() else { return Ok(()) };
    let Some(user) = context.shared.acl.users.get(&name) else { return Err(Error::NoAuth) };
    if user.is_unlimited() {
        return Ok(());
    }
    let Some(denied) = user.denies(command, context.args) else { return Ok(()) };
    let sub = if matches!(denied, Denied::Command) && crate::commands::has_subcommands(command) && context.args.len() > 1 {
        format!("{}|{}", command.name, context.subcommand())
    } else {
        command.name.to_owned()
    };
    let (reason, object, text) = match denied {
        Denied::Command => ("command", sub.clone(), format!("NOPERM this user has no permissions to run the '{sub}' command")),
        Denied::Key(key) => (
            "key",
            String::from_utf8_lossy(&key).into_owned(),
            "NOPERM this user has no permissions to access one of the keys used as arguments".to_owned(),
        ),
        Denied::Channel(channel) => (
            "channel",
            String::from_utf8_lossy(&channel).into_owned(),
            "NOPERM this user has no permissions to access one of the channels used as arguments".to_owned(),
        ),
    };
    commands::log_denied(context, reason, object, name);
    Err(Error::Other(text))
}

fn unknown(context: &Context<'_>) -> Error {
    let name: String = String::from_utf8_lossy(context.arg(0)).chars().take(128).collect();
    let mut arguments = String::new();
    for arg in context.args.iter().skip(1) {
        if arguments.len() >= 128 {
            break;
        }
        let left = 128 - arguments.len();
        arguments.push_str(&format!("'{}' ", String::from_utf8_lossy(&arg[..arg.len().min(left)])));
    }
    Error::Unknown { name, arguments }
}

/// Carries a command out that may be, and notes what is to be noted.
pub fn call(context: &mut Context<'_>, command: &'static Command) {
    let watched = !context.shared.monitors.is_empty() && !command.is(flag::HIDDEN);
    // A transaction's commands come before its end.
    if watched && command.name != "exec" {
        monitor(context);
    }
    let (began, state) = (context.shared.clock, effects::before(context.store));
    context.shared.depth += 1;
    if context.shared.depth == 1 {
        context.session.last = commands::full_name(command, context.args);
    }
    let before = context.reply.bytes.len();
    let result = commands::run(context, command);
    context.shared.depth -= 1;
    if watched && command.name == "exec" {
        monitor(context);
    }
    let ended = Instant::now();
    let took = ended.saturating_duration_since(began);
    context.shared.clock = ended;
    let failed = match &result {
        Ok(()) => false,
        Err(error) => {
            // A handler that fails may have begun to reply.
            context.reply.bytes.truncate(before);
            note_error(context, error);
            context.reply.error(&error.to_string());
            true
        }
    };
    note_call(context, command, took, failed);
    context.shared.counters.commands += 1;
    note_slow(context, command, took);
    if context.store.record {
        follow(context);
    }
    effects::note(context, command, state, failed);
    if context.shared.trackers.contains(&context.session.id) && command.kind == Kind::Read && !failed && !context.session.script {
        commands::remember(context, command);
    }
    if let Some(tracking) = &mut context.session.tracking
        && context.shared.depth == 0
        && command.name != "client"
    {
        tracking.caching = None;
    }
}

/// Carries out once more a command that waited.
///
/// # Errors
/// The handler's; that it waits on is none, nor noted.
pub fn again(context: &mut Context<'_>, command: &'static Command) -> Result<(), Error> {
    let (began, before) = (Instant::now(), effects::before(context.store));
    let result = commands::run(context, command);
    if context.session.retrying {
        note_slow(context, command, began.elapsed());
    }
    effects::note(context, command, before, result.is_err());
    if let Err(error) = &result
        && *error != Error::WrongType
    {
        note_error(context, error);
        context.shared.calls_of(command.name).failed += 1;
    }
    result
}

#[cfg(test)]
mod tests;
