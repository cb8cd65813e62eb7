//! The server: snapshots, slow log, latency, monitors, memory, time, shutdown.

use sha2::{Digest, Sha256};

use super::{Command, Context, Done, Kind, command, flag};
use crate::config::Config;
use crate::error::Error;
use crate::persistence;
use crate::persistence::guard::WITNESS;

const ADMIN: u32 = flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT;

pub const COMMANDS: &[Command] = &[
    command("save", 1, Kind::Server, (0, 0, 0), save).with(ADMIN | flag::NO_MULTI),
    command("bgsave", -1, Kind::Server, (0, 0, 0), bgsave).with(ADMIN),
    command("bgrewriteaof", 1, Kind::Server, (0, 0, 0), bgrewriteaof).with(ADMIN),
    command("lastsave", 1, Kind::Server, (0, 0, 0), lastsave).with(flag::FAST | flag::ADMIN | flag::DANGEROUS),
    command("shutdown", -1, Kind::Server, (0, 0, 0), shutdown).with(ADMIN | flag::NO_MULTI),
    command("time", 1, Kind::Server, (0, 0, 0), time).with(flag::FAST),
    command("slowlog", -2, Kind::Server, (0, 0, 0), slowlog).with(flag::ADMIN | flag::DANGEROUS),
    command("latency", -2, Kind::Server, (0, 0, 0), latency).with(ADMIN),
    command("monitor", 1, Kind::Server, (0, 0, 0), monitor).with(ADMIN | flag::HIDDEN | flag::NO_MULTI),
    command("memory", -2, Kind::Read, (2, 2, 1), memory).with(flag::MOVABLE),
    command("module", -2, Kind::Server, (0, 0, 0), module).with(ADMIN),
    command("teemate.identity", 1, Kind::Server, (0, 0, 0), identity).with(flag::FAST | flag::CONNECTION | flag::NO_AUTH | flag::NO_SCRIPT),
    command("lolwut", -1, Kind::Server, (0, 0, 0), lolwut).with(flag::FAST),
    command("readonly", 1, Kind::Server, (0, 0, 0), no_cluster).with(flag::FAST | flag::CONNECTION),
    command("readwrite", 1, Kind::Server, (0, 0, 0), no_cluster).with(flag::FAST | flag::CONNECTION),
    command("cluster", -2, Kind::Server, (0, 0, 0), no_cluster).with(flag::NO_SCRIPT),
];

/// Writes a snapshot while the client, and all others, wait.
fn save(context: &mut Context<'_>) -> Done {
    if context.shared.saving.file_under_way().is_some() {
        return Err(Error::new("Background save already in progress"));
    }
    write(context)?;
    if !context.shared.guard.tell() && context.shared.config.hot.witness_refuses {
        let why = context.shared.guard.away().unwrap_or("this is a copy that was left behind");
        return Err(Error::new(format_args!("the snapshot is on disk, and the witness could not be told of it: {why}")));
    }
    context.reply.ok();
    Ok(())
}

/// Writes one, and waits for it.
pub(super) fn write(context: &mut Context<'_>) -> Done {
    persistence::save(context.store, context.shared).map_err(Error::new)
}

/// TEEMATE.IDENTITY: what a client compares with what it has seen before, whoever it is: pairs of words.
fn identity(context: &mut Context<'_>) -> Done {
    let shared = &context.shared;
    let owned = shared.acl.initial().is_none();
    let guard = &shared.guard;
    let witness = if guard.protection() == WITNESS { witness_name(&shared.config) } else { String::new() };
    let pairs = [
        ("database", shared.storage.database.clone()),
        ("owned", if owned { "yes" } else { "no" }.to_owned()),
        ("protection", guard.protection().to_owned()),
        ("epoch", guard.epoch().to_string()),
        ("witness", witness),
    ];
    context.reply.map(pairs.len());
    for (name, value) in pairs {
        context.reply.bulk(name.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// Which witness it is: not where it is, which is nobody's business, but whether it is the same.
fn witness_name(config: &Config) -> String {
    let digest = Sha256::digest(format!("{}\n{}", config.get("witness"), config.get("witness-ca")));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bgsave(context: &mut Context<'_>) -> Done {
    let schedule = match context.args.len() {
        1 => false,
        2 if context.is(1, "SCHEDULE") => true,
        _ => return Err(Error::Syntax),
    };
    if context.shared.saving.file_under_way().is_some() && !schedule {
        return Err(Error::new("Background save already in progress"));
    }
    if context.shared.saving.is_under_way() {
        if schedule {
            context.shared.save_again = true;
            context.reply.simple("Background saving scheduled");
            return Ok(());
        }
        return Err(Error::new(
            "Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.",
        ));
    }
    persistence::begin_file(context.store, context.shared).map_err(Error::new)?;
    context.reply.simple("Background saving started");
    Ok(())
}

fn bgrewriteaof(context: &mut Context<'_>) -> Done {
    if !context.shared.log.is_wanted() {
        return Err(Error::new("the append-only log is off"));
    }
    if context.shared.log.is_rewriting() {
        return Err(Error::new("Background append only file rewriting already in progress"));
    }
    if context.shared.saving.is_under_way() || context.shared.depth > 1 {
        context.shared.log.scheduled = true;
        context.reply.simple("Background append only file rewriting scheduled");
        return Ok(());
    }
    persistence::rewrite(context.store, context.shared).map_err(Error::new)?;
    context.reply.simple("Background append only file rewriting started");
    Ok(())
}

fn lastsave(context: &mut Context<'_>) -> Done {
    context.reply.integer(context.shared.saving.last);
    Ok(())
}

fn shutdown(context: &mut Context<'_>) -> Done {
    let (mut save, mut force) = (None, false);
    for at in 1..context.args.len() {
        if context.is(at, "SAVE") && save.is_none() {
            save = Some(true);
        } else if context.is(at, "NOSAVE") && save.is_none() {
            save = Some(false);
        } else if context.is(at, "FORCE") {
            force = true;
        } else if context.is(at, "ABORT") && context.args.len() == 2 {
            return Err(Error::new("No shutdown in progress."));
        } else if !context.is(at, "NOW") {
            return Err(Error::Syntax);
        }
    }
    if save.unwrap_or(!context.shared.config.hot.save.is_empty()) {
        let result = write(context);
        if result.is_err() && !force {
            return Err(Error::new("Errors trying to SHUTDOWN. Check logs."));
        }
    }
    if context.shared.log.sync().is_err() && !force {
        return Err(Error::new("Errors trying to SHUTDOWN. Check logs."));
    }
    context.shared.shutdown = true;
    Ok(())
}

fn time(context: &mut Context<'_>) -> Done {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    context.reply.array(2);
    context.reply.bulk(now.as_secs().to_string().as_bytes());
    context.reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(())
}

fn slowlog(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "get" => {
            context.count(2..=3)?;
            let count = if context.args.len() == 3 { context.integer(2)? } else { 10 };
            if count < -1 {
                return Err(Error::new("count should be greater than or equal to -1"));
            }
            let log = &context.shared.slow;
            let count = usize::try_from(count).unwrap_or(log.len()).min(log.len());
            context.reply.array(count);
            for entry in log.iter().take(count) {
                context.reply.array(6);
                context.reply.integer(entry.id as i64);
                context.reply.integer(entry.time);
                context.reply.integer(entry.us as i64);
                context.reply.bulks(entry.request.iter());
                context.reply.bulk(entry.address.as_bytes());
                context.reply.bulk(entry.name.as_bytes());
            }
        }
        "len" => {
            context.count(2..=2)?;
            context.reply.count(context.shared.slow.len());
        }
        "reset" => {
            context.count(2..=2)?;
            context.shared.slow.clear();
            context.reply.ok();
        }
        "help" => super::help(
            context,
            &["SLOWLOG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", "GET [<count>]", "LEN", "RESET", "HELP"],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

fn latency(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "latest" => {
            context.count(2..=2)?;
            context.reply.array(context.shared.latency.len());
            for (event, times) in &context.shared.latency {
                let (second, last) = times.back().copied().unwrap_or_default();
                let most = times.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
                context.reply.array(4);
                context.reply.bulk(event.as_bytes());
                context.reply.integer(second);
                context.reply.integer(last as i64);
                context.reply.integer(most as i64);
            }
        }
        "history" => {
            context.count(3..=3)?;
            let event = String::from_utf8_lossy(context.arg(2)).into_owned();
            let times = context.shared.latency.get(event.as_str()).cloned().unwrap_or_default();
            context.reply.array(times.len());
            for (second, ms) in times {
                context.reply.array(2);
                context.reply.integer(second);
                context.reply.integer(ms as i64);
            }
        }
        "reset" => {
            let before = context.shared.latency.len();
            if context.args.len() == 2 {
                context.shared.latency.clear();
            } else {
                let events = &context.args[2..];
                context.shared.latency.retain(|event, _| !events.iter().any(|name| name.eq_ignore_ascii_case(event.as_bytes())));
            }
            context.reply.count(before - context.shared.latency.len());
        }
        "doctor" => {
            context.count(2..=2)?;
            context.reply.verbatim("Dave, I have observed the system: LATENCY LATEST tells what it saw.\n");
        }
        "histogram" => histogram(context),
        "help" if context.args.len() > 2 => context.count(2..=2)?,
        "help" => super::help(
            context,
            &[
                "LATENCY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "HISTOGRAM [<command> ...]",
                "HISTORY <event>",
                "LATEST",
                "RESET [<event> ...]",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

/// How long calls took, by command: of those asked for, a command's subcommands with it, or of all.
fn histogram(context: &mut Context<'_>) {
    let asked: Vec<String> = context.args[2..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let is_asked = |name: &str| {
        let of = |one: &String| name == one || name.split_once('|').is_some_and(|(command, _)| command == one);
        asked.is_empty() || asked.iter().any(of)
    };
    let mut all: Vec<_> = context.shared.calls.iter().filter(|(name, calls)| calls.calls > 0 && is_asked(name)).collect();
    all.sort_unstable_by_key(|(name, _)| *name);
    context.reply.map(all.len());
    for (name, calls) in all {
        context.reply.bulk(name.as_bytes());
        context.reply.map(2);
        context.reply.bulk(b"calls");
        context.reply.integer(calls.calls as i64);
        context.reply.bulk(b"histogram_usec");
        let last = calls.took.iter().rposition(|count| *count > 0).unwrap_or(0);
        let first = calls.took.iter().position(|count| *count > 0).unwrap_or(0);
        context.reply.map(last + 1 - first);
        let mut sum = 0;
        for bits in first..=last {
            sum += i64::from(calls.took[bits]);
            context.reply.integer(1 << bits);
            context.reply.integer(sum);
        }
    }
}

fn monitor(context: &mut Context<'_>) -> Done {
    if context.session.executing {
        return Err(Error::new("MONITOR isn't allowed for DENY BLOCKING client"));
    }
    context.session.monitor = true;
    let id = context.session.id;
    if !context.shared.monitors.contains(&id) {
        context.shared.monitors.push(id);
    }
    context.reply.ok();
    Ok(())
}

fn memory(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "usage" => {
            context.count(3..)?;
            let rest = &context.args[3..];
            if !(rest.is_empty() || rest.len() == 2 && context.is(3, "SAMPLES")) {
                return Err(Error::Syntax);
            }
            let (db, key) = (context.db(), context.arg(2));
            match context.store.peek(db, key).map(crate::value::Value::weight) {
                Some(weight) => context.reply.count(weight + key.len() + 64),
                None => context.reply.null(),
            }
        }
        "doctor" => context.reply.verbatim("Sam, I can't find any memory issue: INFO memory tells what is used.\n"),
        "purge" => context.reply.ok(),
        "stats" => {
            let used = crate::eviction::used_memory();
            let peak = context.shared.counters.peak.max(used);
            let keys = (0..context.store.databases()).map(|db| context.store.len(db)).sum::<usize>();
            context.reply.map(4);
            for (field, value) in [
                ("peak.allocated", peak),
                ("total.allocated", used),
                ("keys.count", keys),
                ("keys.bytes-per-key", used.checked_div(keys).unwrap_or(0)),
            ] {
                context.reply.bulk(field.as_bytes());
                context.reply.count(value);
            }
        }
        "malloc-stats" => context.reply.verbatim("not kept by this allocator\n"),
        "help" => super::help(
            context,
            &[
                "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "DOCTOR",
                "PURGE",
                "STATS",
                "USAGE <key> [SAMPLES <count>]",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

fn module(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "list" => context.reply.array(0),
        "load" | "loadex" | "unload" => return Err(Error::new("modules are not supported")),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

fn lolwut(context: &mut Context<'_>) -> Done {
    context.reply.verbatim(&format!("Redis ver. {}\n", super::info::VERSION));
    Ok(())
}

fn no_cluster(_: &mut Context<'_>) -> Done {
    Err(Error::new("This instance has cluster support disabled"))
}
