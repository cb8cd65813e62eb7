//! COMMAND: what commands there are.

use super::{Command, Context, Done, Kind, command, flag};
use crate::acl::{CATEGORIES, is_of};
use crate::error::Error;
use crate::glob;
use crate::resp::Reply;

pub const COMMANDS: &[Command] = &[command("command", -1, Kind::Server, (0, 0, 0), commands).with(flag::CONNECTION)];

fn flags(command: &Command) -> Vec<&'static str> {
    let marks = [
        (command.writes(), "write"),
        (command.kind == Kind::Read, "readonly"),
        (command.kind == Kind::Grow, "denyoom"),
        (command.is(flag::ADMIN), "admin"),
        (command.is(flag::PUBSUB), "pubsub"),
        (command.is(flag::NO_SCRIPT), "noscript"),
        (command.is(flag::BLOCKING), "blocking"),
        (command.kind == Kind::Server, "loading"),
        (command.kind == Kind::Server, "stale"),
        (command.is(flag::FAST), "fast"),
        (command.is(flag::NO_AUTH), "no_auth"),
        (command.is(flag::NO_MULTI), "no_multi"),
        (command.is(flag::MOVABLE) && !matches!(command.name, "memory" | "object"), "movablekeys"),
    ];
    marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect()
}

fn show(reply: &mut Reply, command: &Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    let flags = flags(command);
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let (first, last, step) = if command.is(flag::MOVABLE) { (0, 0, 0) } else { command.keys };
    [first, last, step].into_iter().for_each(|number| reply.integer(number.into()));
    let categories: Vec<String> =
        CATEGORIES.iter().filter(|category| is_of(command, category)).map(|category| format!("@{category}")).collect();
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(category));
    // Tips, key specifications, subcommands.
    reply.array(0);
    reply.array(0);
    reply.array(0);
}

fn commands(context: &mut Context<'_>) -> Done {
    if context.args.len() == 1 {
        let all: Vec<&Command> = super::all().collect();
        context.reply.array(all.len());
        all.into_iter().for_each(|command| show(context.reply, command));
        return Ok(());
    }
    match context.subcommand().as_str() {
        "count" => {
            context.count(2..=2)?;
            context.reply.count(super::all().count());
        }
        "info" => {
            let names: Vec<&[u8]> = if context.args.len() > 2 {
                context.args[2..].to_vec()
            } else {
                super::all().map(|command| command.name.as_bytes()).collect()
            };
            context.reply.array(names.len());
            for name in names {
                match super::find(name) {
                    Some(command) => show(context.reply, command),
                    None => context.reply.null_array(),
                }
            }
        }
        "docs" => {
            let found: Vec<&Command> = if context.args.len() > 2 {
                context.args[2..].iter().filter_map(|name| super::find(name)).collect()
            } else {
                super::all().collect()
            };
            context.reply.map(found.len());
            for command in found {
                context.reply.bulk(command.name.as_bytes());
                context.reply.map(1);
                context.reply.bulk(b"group");
                context.reply.bulk(super::group(command).as_bytes());
            }
        }
        "list" => {
            let names: Vec<&str> = match context.args.len() {
                2 => super::all().map(|command| command.name).collect(),
                5 if context.is(2, "FILTERBY") && context.is(3, "ACLCAT") => {
                    let category = String::from_utf8_lossy(context.arg(4)).to_ascii_lowercase();
                    let known = CATEGORIES.contains(&category.as_str());
                    super::all().filter(|command| known && is_of(command, &category)).map(|command| command.name).collect()
                }
                5 if context.is(2, "FILTERBY") && context.is(3, "PATTERN") => {
                    let pattern = context.arg(4).to_ascii_lowercase();
                    super::all().map(|command| command.name).filter(|name| glob::matches(&pattern, name.as_bytes())).collect()
                }
                5 if context.is(2, "FILTERBY") && context.is(3, "MODULE") => Vec::new(),
                _ => return Err(Error::Syntax),
            };
            context.reply.bulks(names.iter());
        }
        "getkeys" | "getkeysandflags" => {
            context.count(3..)?;
            let args = &context.args[2..];
            let command = super::find(args[0]).ok_or_else(|| Error::new("Invalid command specified"))?;
            if command.keys == (0, 0, 0) && !command.is(flag::MOVABLE) {
                return Err(Error::new("The command has no key arguments"));
            }
            if !command.fits(args.len()) {
                return Err(Error::new("Invalid number of arguments specified for command"));
            }
            let keys = command.keys(args);
            if keys.is_empty() && !command.is(flag::SCRIPTING) {
                return Err(Error::new("Invalid arguments specified for command"));
            }
            if context.is(1, "getkeys") {
                context.reply.bulks(keys.iter());
            } else {
                context.reply.array(keys.len());
                for key in keys {
                    context.reply.array(2);
                    context.reply.bulk(key);
                    let flags: &[&str] = if command.writes() { &["RW", "UPDATE"] } else { &["RO", "ACCESS"] };
                    context.reply.bulks(flags.iter());
                }
            }
        }
        "help" => super::help(
            context,
            &[
                "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "COUNT",
                "DOCS [<command-name> ...]",
                "GETKEYS <full-command>",
                "INFO [<command-name> ...]",
                "LIST",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}
