//! ACL: users and what they may.

use std::collections::BTreeMap;

use teemate_service::clock;

use super::{Command, Context, Done, Kind, command, flag};
use crate::acl::{CATEGORIES, Logged, User, commands_of};
use crate::error::Error;
use crate::session::Session;
use crate::settings;

pub const COMMANDS: &[Command] = &[command("acl", -2, Kind::Server, (0, 0, 0), acl).with(flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT)];

/// Most bytes that ACL GENPASS makes.
const LONGEST: i64 = 4096;

/// Notes that something was denied.
pub(crate) fn log_denied(context: &mut Context<'_>, reason: &'static str, object: String, user: String) {
    let client = super::describe(context.store, context.session);
    let place = match (context.session.executing, context.shared.depth) {
        (true, 2..) => "lua",
        (true, _) => "multi",
        (false, _) if context.session.queue.is_some() => "multi",
        _ => "toplevel",
    };
    let (now, most) = (context.store.now, usize::try_from(context.shared.config.number("acllog-max-len")).unwrap_or(0));
    let acl = &mut context.shared.acl;
    // The same within a minute is one entry.
    let same = acl.log.iter().position(|entry| {
        entry.reason == reason && entry.object == object && entry.user == user && entry.context == place && now - entry.created < 60_000
    });
    let entry = match same.and_then(|at| acl.log.remove(at)) {
        Some(entry) => Logged { count: entry.count + 1, time: now, client, ..entry },
        None => {
            acl.log_id += 1;
            Logged { count: 1, reason, context: place, object, user, time: now, created: now, client, id: acl.log_id - 1 }
        }
    };
    acl.log.push_front(entry);
    acl.log.truncate(most);
}

fn acl(context: &mut Context<'_>) -> Done {
    let all_channels = context.shared.config.get("acl-pubsub-default") == "allchannels";
    match context.subcommand().as_str() {
        "whoami" => {
            context.count(2..=2)?;
            let name = context.session.user.clone().unwrap_or_default();
            context.reply.bulk(name.as_bytes());
        }
        "users" => {
            context.count(2..=2)?;
            context.reply.bulks(context.shared.acl.users.keys().collect::<Vec<_>>().into_iter());
        }
        "list" => {
            context.count(2..=2)?;
            let lines: Vec<String> = context.shared.acl.users.iter().map(|(name, user)| user.show(name)).collect();
            context.reply.bulks(lines.iter());
        }
        "cat" => {
            context.count(2..=3)?;
            if context.args.len() == 2 {
                context.reply.bulks(CATEGORIES.iter());
            } else {
                let category = String::from_utf8_lossy(context.arg(2)).to_ascii_lowercase();
                if !CATEGORIES.contains(&category.as_str()) {
                    return Err(Error::new(format_args!("Unknown category '{}'", String::from_utf8_lossy(context.arg(2)))));
                }
                context.reply.bulks(commands_of(&category).iter());
            }
        }
        "setuser" => {
            context.count(3..)?;
            let name = String::from_utf8_lossy(context.arg(2)).into_owned();
            if name.contains([' ', '\0']) {
                return Err(Error::new("Usernames can't contain spaces or null characters"));
            }
            let mut user = context.shared.acl.users.get(&name).cloned().unwrap_or_else(|| User::nobody(all_channels));
            for rule in &context.args[3..] {
                user.apply(rule, all_channels).map_err(|why| {
                    let shown = String::from_utf8_lossy(rule).into_owned();
                    Error::new(format_args!("Error in ACL SETUSER modifier '{shown}': {why}"))
                })?;
            }
            let before = context.shared.acl.users.clone();
            context.shared.acl.users.insert(name, user);
            keep(context, before)?;
            context.reply.ok();
        }
        "getuser" => {
            context.count(3..=3)?;
            let name = String::from_utf8_lossy(context.arg(2)).into_owned();
            let Some(user) = context.shared.acl.users.get(&name) else {
                context.reply.null();
                return Ok(());
            };
            let reply = &mut *context.reply;
            reply.map(6);
            reply.bulk(b"flags");
            let flags = user.flags();
            reply.set(flags.len());
            flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
            reply.bulk(b"passwords");
            reply.bulks(user.passwords());
            for (field, value) in [("commands", user.commands()), ("keys", user.keys()), ("channels", user.channels())] {
                reply.bulk(field.as_bytes());
                reply.bulk(value.as_bytes());
            }
            reply.bulk(b"selectors");
            reply.array(0);
        }
        "deluser" => {
            context.count(3..)?;
            let mut names: Vec<String> = context.args[2..].iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            if names.iter().any(|name| name == "default") {
                return Err(Error::new("The 'default' user cannot be removed"));
            }
            let before = context.shared.acl.users.clone();
            names.retain(|name| context.shared.acl.users.remove(name).is_some());
            keep(context, before)?;
            let is_removed = |session: &Session| session.user.as_ref().is_some_and(|user| names.contains(user));
            let sessions = context.shared.sessions.iter_mut().flatten();
            sessions.filter(|session| is_removed(session)).for_each(|session| session.killed = true);
            context.session.closing |= is_removed(context.session);
            context.reply.integer(names.len() as i64);
        }
        "genpass" => {
            context.count(2..=3)?;
            let bits = if context.args.len() == 3 { context.integer(2)? } else { 256 };
            if !(1..=LONGEST).contains(&bits) {
                return Err(Error::new(format_args!(
                    "ACL GENPASS argument must be the number of bits for the output password, a positive number up to {LONGEST}"
                )));
            }
            let digits = (bits as usize).div_ceil(4);
            let mut bytes = vec![0; digits.div_ceil(2)];
            clock::random(&mut bytes);
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            context.reply.bulk(&text.as_bytes()[..digits]);
        }
        "dryrun" => dry_run(context)?,
        "log" => log(context)?,
        "save" if context.shared.settings.is_some() => {
            settings::keep(context.shared)?;
            context.reply.ok();
        }
        "load" | "save" => {
            return Err(Error::new(
                "This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.",
            ));
        }
        "help" => super::help(
            context,
            &[
                "ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "CAT [<category>]",
                "SETUSER <username> <attribute> [<attribute> ...]",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

/// Keeps the users, or takes the change back.
fn keep(context: &mut Context<'_>, before: BTreeMap<String, User>) -> Done {
    if let Err(error) = settings::keep(context.shared) {
        context.shared.acl.users = before;
        return Err(error);
    }
    context.shared.forget_anybody(context.session);
    Ok(())
}

fn dry_run(context: &mut Context<'_>) -> Done {
    context.count(4..)?;
    let name = String::from_utf8_lossy(context.arg(2)).into_owned();
    let Some(user) = context.shared.acl.users.get(&name) else { return Err(Error::new(format_args!("User '{name}' not found"))) };
    let args = &context.args[3..];
    let Some(command) = super::find(args[0]) else {
        return Err(Error::new(format_args!("Command '{}' not found", String::from_utf8_lossy(args[0]))));
    };
    if !command.fits(args.len()) {
        return Err(Error::Arity(command.name.to_owned()));
    }
    use crate::acl::Denied;
    let text = match user.denies(command, args) {
        None => {
            context.reply.ok();
            return Ok(());
        }
        Some(Denied::Command) => format!("This user has no permissions to run the '{}' command", command.name),
        Some(Denied::Key(key)) => format!("This user has no permissions to access the '{}' key", String::from_utf8_lossy(&key)),
        Some(Denied::Channel(channel)) => {
            format!("This user has no permissions to access the '{}' channel", String::from_utf8_lossy(&channel))
        }
    };
    context.reply.bulk(text.as_bytes());
    Ok(())
}

fn log(context: &mut Context<'_>) -> Done {
    context.count(2..=3)?;
    if context.is(2, "RESET") {
        context.shared.acl.log.clear();
        context.reply.ok();
        return Ok(());
    }
    let count = if context.args.len() == 3 {
        usize::try_from(context.integer(2)?).map_err(|_| Error::new("value is out of range, must be positive"))?
    } else {
        10
    };
    let (log, now) = (&context.shared.acl.log, context.store.now);
    let reply = &mut *context.reply;
    reply.array(log.len().min(count));
    for entry in log.iter().take(count) {
        reply.map(10);
        reply.bulk(b"count");
        reply.integer(entry.count as i64);
        for (field, value) in [("reason", entry.reason), ("context", entry.context), ("object", &entry.object), ("username", &entry.user)] {
            reply.bulk(field.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"age-seconds");
        reply.double((now - entry.time) as f64 / 1000.0);
        reply.bulk(b"client-info");
        reply.bulk(entry.client.as_bytes());
        for (field, value) in [("entry-id", entry.id as i64), ("timestamp-created", entry.created), ("timestamp-last-updated", entry.time)]
        {
            reply.bulk(field.as_bytes());
            reply.integer(value);
        }
    }
    Ok(())
}
