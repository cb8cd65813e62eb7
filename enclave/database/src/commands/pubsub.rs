//! Messages: SUBSCRIBE and PUBLISH, by name and by pattern.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::glob;
use crate::shared::Listening;

const LISTEN: u32 = flag::PUBSUB | flag::NO_SCRIPT;
const TELL: u32 = flag::PUBSUB | flag::FAST;

pub const COMMANDS: &[Command] = &[
    command("subscribe", -2, Kind::Server, (0, 0, 0), |context| subscribe(context, Listening::Channel)).with(LISTEN),
    command("psubscribe", -2, Kind::Server, (0, 0, 0), |context| subscribe(context, Listening::Pattern)).with(LISTEN),
    command("ssubscribe", -2, Kind::Server, (1, -1, 1), |context| subscribe(context, Listening::Shard)).with(LISTEN),
    command("unsubscribe", -1, Kind::Server, (0, 0, 0), |context| unsubscribe(context, Listening::Channel)).with(LISTEN),
    command("punsubscribe", -1, Kind::Server, (0, 0, 0), |context| unsubscribe(context, Listening::Pattern)).with(LISTEN),
    command("sunsubscribe", -1, Kind::Server, (1, -1, 1), |context| unsubscribe(context, Listening::Shard)).with(LISTEN),
    command("publish", 3, Kind::Server, (0, 0, 0), |context| publish(context, false)).with(TELL),
    command("spublish", 3, Kind::Server, (1, 1, 1), |context| publish(context, true)).with(TELL),
    command("pubsub", -2, Kind::Server, (0, 0, 0), pubsub).with(flag::PUBSUB),
];

fn words(which: Listening) -> (&'static str, &'static str) {
    match which {
        Listening::Channel => ("subscribe", "unsubscribe"),
        Listening::Pattern => ("psubscribe", "punsubscribe"),
        Listening::Shard => ("ssubscribe", "sunsubscribe"),
    }
}

fn mine<'s>(context: &'s mut Context<'_>, which: Listening) -> &'s mut std::collections::BTreeSet<Box<[u8]>> {
    match which {
        Listening::Channel => &mut context.session.channels,
        Listening::Pattern => &mut context.session.patterns,
        Listening::Shard => &mut context.session.shards,
    }
}

fn tell(context: &mut Context<'_>, word: &str, name: Option<&[u8]>, which: Listening) {
    let count = if which == Listening::Shard { context.session.shards.len() } else { context.session.subscriptions() };
    context.reply.push(3);
    context.reply.bulk(word.as_bytes());
    context.reply.bulk_or_null(name);
    context.reply.count(count);
}

fn subscribe(context: &mut Context<'_>, which: Listening) -> Done {
    if context.session.executing && context.session.version == 2 && context.shared.depth > 2 {
        return Err(Error::new("SUBSCRIBE isn't allowed for a DENY BLOCKING client"));
    }
    for name in &context.args[1..] {
        mine(context, which).insert(Box::from(*name));
        context.shared.subscribe(context.session.id, name, which);
        tell(context, words(which).0, Some(name), which);
    }
    Ok(())
}

fn unsubscribe(context: &mut Context<'_>, which: Listening) -> Done {
    let names: Vec<Box<[u8]>> = if context.args.len() > 1 {
        context.args[1..].iter().map(|name| Box::from(*name)).collect()
    } else {
        mine(context, which).iter().cloned().collect()
    };
    if names.is_empty() {
        tell(context, words(which).1, None, which);
    }
    for name in names {
        mine(context, which).remove(&name);
        context.shared.unsubscribe(context.session.id, &name, which);
        tell(context, words(which).1, Some(&name), which);
    }
    Ok(())
}

/// Listens to nothing any more, without a word.
pub(super) fn leave_all(context: &mut Context<'_>) {
    for which in [Listening::Channel, Listening::Pattern, Listening::Shard] {
        for name in std::mem::take(mine(context, which)) {
            context.shared.unsubscribe(context.session.id, &name, which);
        }
    }
}

fn publish(context: &mut Context<'_>, shard: bool) -> Done {
    let (channel, content) = (context.arg(1), context.arg(2));
    if context.shared.replication.takes() {
        // Those who listen at a replica are told, too.
        let db = context.db();
        context.shared.replication.note(db, context.args);
    }
    let count = if shard { context.shared.publish_shard(channel, content) } else { context.shared.publish(channel, content) };
    context.reply.count(count);
    Ok(())
}

fn pubsub(context: &mut Context<'_>) -> Done {
    let subcommand = context.subcommand();
    let which = if subcommand.starts_with("shard") { Listening::Shard } else { Listening::Channel };
    match subcommand.as_str() {
        "channels" | "shardchannels" => {
            context.count(2..=3)?;
            let pattern = (context.args.len() == 3).then(|| context.arg(2));
            let names = context.shared.channels(which).keys().filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name)));
            let names: Vec<&Box<[u8]>> = names.collect();
            context.reply.bulks(names.into_iter());
        }
        "numsub" | "shardnumsub" => {
            context.reply.array(2 * (context.args.len() - 2));
            for name in &context.args[2..] {
                context.reply.bulk(name);
                let count = context.shared.channels(which).get(*name).map_or(0, std::collections::BTreeSet::len);
                context.reply.count(count);
            }
        }
        "numpat" => {
            context.count(2..=2)?;
            let count = context.shared.channels(Listening::Pattern).len();
            context.reply.count(count);
        }
        "help" => super::help(
            context,
            &[
                "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "CHANNELS [<pattern>]",
                "NUMPAT",
                "NUMSUB [<channel> ...]",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}
