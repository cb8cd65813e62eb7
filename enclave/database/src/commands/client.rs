//! CLIENT: connections, seen by each other.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;
use crate::session::{Replies, Session};
use crate::store::Store;

pub const COMMANDS: &[Command] =
    &[command("client", -2, Kind::Server, (0, 0, 0), client).with(flag::CONNECTION | flag::ADMIN | flag::NO_SCRIPT)];

fn client(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "id" => {
            context.count(2..=2)?;
            context.reply.integer(context.session.id as i64);
        }
        "getname" => {
            context.count(2..=2)?;
            let name = (!context.session.name.is_empty()).then_some(context.session.name.as_bytes());
            context.reply.bulk_or_null(name);
        }
        "setname" => {
            context.count(3..=3)?;
            set_name(context, context.arg(2))?;
            context.reply.ok();
        }
        "setinfo" => {
            context.count(4..=4)?;
            let value = plain(context.arg(3)).ok_or_else(|| {
                Error::new(format_args!(
                    "{} cannot contain spaces, newlines or special characters.",
                    String::from_utf8_lossy(context.arg(2))
                ))
            })?;
            if context.is(2, "lib-name") {
                context.session.library.0 = value;
            } else if context.is(2, "lib-ver") {
                context.session.library.1 = value;
            } else {
                return Err(Error::new(format_args!("Unrecognized option '{}'", String::from_utf8_lossy(context.arg(2)))));
            }
            context.reply.ok();
        }
        "list" => list(context)?,
        "info" => {
            context.count(2..=2)?;
            let line = describe(context.store, context.session) + "\n";
            context.reply.verbatim(&line);
        }
        "kill" => kill(context)?,
        "reply" => {
            context.count(3..=3)?;
            if context.is(2, "ON") {
                context.session.replies = Replies::On;
                context.reply.ok();
            } else if context.is(2, "OFF") {
                context.session.replies = Replies::Off;
            } else if context.is(2, "SKIP") {
                if context.session.replies == Replies::On {
                    context.session.replies = Replies::SkipNext;
                }
            } else {
                return Err(Error::Syntax);
            }
        }
        "no-evict" => {
            context.count(3..=3)?;
            context.session.no_evict = on_or_off(context, 2)?;
            context.reply.ok();
        }
        "no-touch" => {
            context.count(3..=3)?;
            on_or_off(context, 2)?;
            context.reply.ok();
        }
        "unblock" => unblock(context)?,
        "pause" => pause(context)?,
        "unpause" => {
            context.count(2..=2)?;
            context.shared.pause.until = 0;
            release_paused(context);
            context.reply.ok();
        }
        "tracking" => super::tracking::set(context)?,
        "caching" => super::tracking::caching(context)?,
        "trackinginfo" => super::tracking::show(context)?,
        "getredir" => {
            context.count(2..=2)?;
            let redirect = context.session.tracking.as_ref().map_or(-1, |tracking| tracking.redirect as i64);
            context.reply.integer(redirect);
        }
        "help" => super::help(
            context,
            &[
                "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "ID",
                "    Return the ID of the current connection.",
                "HELP",
                "    Print this help.",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

fn on_or_off(context: &Context<'_>, at: usize) -> Result<bool, Error> {
    if context.is(at, "ON") {
        Ok(true)
    } else if context.is(at, "OFF") {
        Ok(false)
    } else {
        Err(Error::Syntax)
    }
}

fn plain(text: &[u8]) -> Option<String> {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte)).then(|| String::from_utf8_lossy(text).into_owned())
}

/// CLIENT SETNAME.
pub(super) fn set_name(context: &mut Context<'_>, name: &[u8]) -> Done {
    context.session.name = plain(name).ok_or_else(|| Error::new("Client names cannot contain spaces, newlines or special characters."))?;
    Ok(())
}

/// A connection in one line.
pub(crate) fn describe(store: &Store, session: &Session) -> String {
    let mut flags = String::new();
    let marks = [
        (session.follows, 'S'),
        (session.monitor, 'O'),
        (session.is_subscriber(), 'P'),
        (session.queue.is_some(), 'x'),
        (session.waiting.is_some(), 'b'),
        (session.tracking.is_some(), 't'),
        (session.tracking.as_ref().is_some_and(|tracking| tracking.broken), 'R'),
        (session.tracking.as_ref().is_some_and(|tracking| tracking.broadcast), 'B'),
        (session.closing, 'c'),
        (session.no_evict, 'e'),
    ];
    flags.extend(marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark));
    if flags.is_empty() {
        flags.push('N');
    }
    let redirect = session.tracking.as_ref().map_or(-1, |tracking| tracking.redirect as i64);
    let queued = session.queue.as_ref().map_or(-1, |queue| queue.len() as i64);
    format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} multi={queued} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=16384 rbp=16384 obl={} oll=0 omem=0 tot-mem=0 events=r cmd={} user={} redir={redirect} resp={} lib-name={} lib-ver={}",
        session.id,
        session.address,
        session.local,
        session.slot + 8,
        session.name,
        (store.now - session.opened) / 1000,
        (store.now - session.used) / 1000,
        session.database,
        session.channels.len(),
        session.patterns.len(),
        session.shards.len(),
        session.buffers.0,
        session.buffers.1,
        session.last,
        session.user.as_deref().unwrap_or("(superuser)"),
        session.version,
        session.library.0,
        session.library.1,
    )
}

fn class(name: &[u8]) -> Option<&'static str> {
    let known = ["normal", "pubsub", "master", "replica", "slave"].into_iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()))?;
    Some(if known == "slave" { "replica" } else { known })
}

fn list(context: &mut Context<'_>) -> Done {
    let (mut kind, mut ids): (Option<&str>, Option<Vec<u64>>) = (None, None);
    if context.args.len() == 4 && context.is(2, "TYPE") {
        let name = context.arg(3);
        kind = Some(class(name).ok_or_else(|| Error::new(format_args!("Unknown client type '{}'", String::from_utf8_lossy(name))))?);
    } else if context.args.len() > 3 && context.is(2, "ID") {
        let read = |arg: &&[u8]| number::integer(arg).and_then(|id| u64::try_from(id).ok()).ok_or_else(|| Error::new("Invalid client ID"));
        ids = Some(context.args[3..].iter().map(read).collect::<Result<_, _>>()?);
    } else if context.args.len() > 2 {
        return Err(Error::Syntax);
    }
    let others = context.shared.sessions.iter().flatten().map(|session| &**session);
    let mut all: Vec<&Session> = others.chain([&*context.session]).collect();
    all.retain(|session| kind.is_none_or(|kind| session.class() == kind) && ids.as_ref().is_none_or(|ids| ids.contains(&session.id)));
    all.sort_unstable_by_key(|session| session.id);
    let text: String = all.iter().map(|session| describe(context.store, session) + "\n").collect();
    context.reply.verbatim(&text);
    Ok(())
}

/// Which connections CLIENT KILL means.
#[derive(Default)]
struct Filter {
    id: Option<u64>,
    address: Option<String>,
    local: Option<String>,
    kind: Option<&'static str>,
    user: Option<String>,
    not_me: bool,
}

fn kill(context: &mut Context<'_>) -> Done {
    let mut filter = Filter { not_me: true, ..Filter::default() };
    let old_style = context.args.len() == 3;
    let text = |at: usize| String::from_utf8_lossy(context.arg(at)).into_owned();
    if old_style {
        filter = Filter { address: Some(text(2)), ..Filter::default() };
    } else if context.args.len() > 3 && context.args.len().is_multiple_of(2) {
        for at in (2..context.args.len()).step_by(2) {
            if context.is(at, "ID") {
                let id = number::integer(context.arg(at + 1)).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                filter.id = Some(id.ok_or_else(|| Error::new("client-id should be greater than 0"))?);
            } else if context.is(at, "ADDR") {
                filter.address = Some(text(at + 1));
            } else if context.is(at, "LADDR") {
                filter.local = Some(text(at + 1));
            } else if context.is(at, "TYPE") {
                let name = text(at + 1);
                filter.kind = Some(class(name.as_bytes()).ok_or_else(|| Error::new(format_args!("Unknown client type '{name}'")))?);
            } else if context.is(at, "USER") {
                let name = text(at + 1);
                if !context.shared.acl.users.contains_key(&name) {
                    return Err(Error::new(format_args!("No such user '{name}'")));
                }
                filter.user = Some(name);
            } else if context.is(at, "SKIPME") && (context.is(at + 1, "YES") || context.is(at + 1, "NO")) {
                filter.not_me = context.is(at + 1, "YES");
            } else {
                return Err(Error::Syntax);
            }
        }
    } else if context.args.len() == 2 {
        return Err(Error::Arity("client|kill".to_owned()));
    } else {
        return Err(Error::Syntax);
    }
    let meant = |session: &Session| {
        filter.id.is_none_or(|id| session.id == id)
            && filter.address.as_ref().is_none_or(|address| session.address == *address)
            && filter.local.as_ref().is_none_or(|local| session.local == *local)
            && filter.kind.is_none_or(|kind| session.class() == kind)
            && filter.user.as_ref().is_none_or(|user| session.user.as_ref() == Some(user))
    };
    let mut count = 0;
    for session in context.shared.sessions.iter_mut().flatten().filter(|session| meant(session)) {
        session.killed = true;
        count += 1;
    }
    if !filter.not_me && meant(context.session) {
        // It still gets the answer.
        context.session.closing = true;
        count += 1;
    }
    match (old_style, count) {
        (true, 0) => return Err(Error::new("No such client")),
        (true, _) => context.reply.ok(),
        (false, count) => context.reply.integer(count),
    }
    Ok(())
}

fn unblock(context: &mut Context<'_>) -> Done {
    context.count(3..=4)?;
    let with_error = match context.args.len() {
        4 if context.is(3, "ERROR") => true,
        4 if !context.is(3, "TIMEOUT") => return Err(Error::new("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => false,
    };
    let id = context.integer(2)?;
    let session = context.shared.sessions.iter().flatten().find(|session| session.id as i64 == id);
    let waits = session.and_then(|session| session.waiting.as_ref()).is_some_and(|waiting| !waiting.paused);
    if waits {
        context.shared.unblock.push((id as u64, with_error));
    }
    context.reply.integer(waits.into());
    Ok(())
}

fn pause(context: &mut Context<'_>) -> Done {
    context.count(3..=4)?;
    let all = match context.args.len() {
        4 if context.is(3, "WRITE") => false,
        4 if context.is(3, "ALL") => true,
        4 => return Err(Error::new("CLIENT PAUSE mode must be WRITE or ALL")),
        _ => true,
    };
    let ms = number::integer(context.arg(2)).ok_or_else(|| Error::new("timeout is not an integer or out of range"))?;
    if ms < 0 {
        return Err(Error::new("timeout is negative"));
    }
    let until = context.store.now.checked_add(ms).ok_or_else(|| Error::new("timeout is out of range"))?;
    let pause = &mut context.shared.pause;
    // A shorter pause does not end a longer one.
    let still = pause.until > context.store.now;
    (pause.all, pause.until) = (all || still && pause.all, until.max(if still { pause.until } else { 0 }));
    context.reply.ok();
    Ok(())
}

fn release_paused(context: &mut Context<'_>) {
    let waiting = context.shared.sessions.iter().flatten().filter(|session| session.waiting.as_ref().is_some_and(|waiting| waiting.paused));
    let ids: Vec<u64> = waiting.map(|session| session.id).collect();
    context.shared.unblock.extend(ids.into_iter().map(|id| (id, false)));
}
