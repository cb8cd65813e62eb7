//! The server itself: settings, figures, snapshots, its commands.

use std::fmt::Write;

use super::{Command, Context, Done, Kind, command};
use crate::error::Error;
use crate::glob;

/// The version of Redis whose behaviour this is.
pub const REDIS_VERSION: &str = "7.0.15";

pub const COMMANDS: &[Command] = &[
    command("info", -1, Kind::Server, (0, 0, 0), info),
    command("config", -2, Kind::Server, (0, 0, 0), config),
    command("command", -1, Kind::Server, (0, 0, 0), commands),
    command("bgsave", -1, Kind::Server, (0, 0, 0), bgsave),
    command("function", -2, Kind::Server, (0, 0, 0), function),
    command("lastsave", 1, Kind::Server, (0, 0, 0), lastsave),
    command("shutdown", -1, Kind::Server, (0, 0, 0), shutdown),
    command("time", 1, Kind::Server, (0, 0, 0), time),
    command("role", 1, Kind::Server, (0, 0, 0), role),
];

/// A section of INFO: its name, and its lines.
fn sections(context: &Context<'_>) -> Vec<(&'static str, String)> {
    let (store, shared) = (&context.store, &context.shared);
    let saving = &shared.saving;
    let uptime = (store.now - shared.started) / 1000;
    let mut keyspace = String::new();
    for database in 0..store.databases() {
        if !store.is_empty(database) {
            let _ = write!(keyspace, "db{database}:keys={},expires={},avg_ttl=0\r\n", store.len(database), store.expiring(database));
        }
    }
    vec![
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nredis_git_sha1:00000000\r\nredis_mode:standalone\r\nserver_name:teemate-database\r\n\
                 process_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime}\r\n",
                std::process::id(),
                shared.port
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\nblocked_clients:{}\r\n", shared.clients, shared.waiting.len())),
        (
            "Persistence",
            format!(
                "loading:0\r\nrdb_changes_since_last_save:{}\r\nrdb_bgsave_in_progress:{}\r\nrdb_last_save_time:{}\r\n\
                 rdb_last_bgsave_status:{}\r\nrdb_last_bgsave_error:{}\r\nrdb_last_bgsave_time_ms:{}\r\nrdb_last_start_us:{}\r\n\
                 rdb_last_cow_size:{}\r\naof_enabled:0\r\n",
                store.changes - saving.changes,
                u8::from(saving.is_under_way()),
                saving.last,
                if saving.failed.is_some() { "err" } else { "ok" },
                saving.failed.as_deref().unwrap_or_default().replace(['\r', '\n'], " "),
                saving.took_ms,
                saving.start_us,
                saving.handed.max(store.handed_over()),
            ),
        ),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\nexpired_keys:{}\r\nkeyspace_hits:{}\r\nkeyspace_misses:{}\r\n\
                 pubsub_channels:{}\r\npubsub_patterns:{}\r\n",
                shared.counters.connections,
                shared.counters.commands,
                store.expired,
                shared.counters.hits,
                shared.counters.misses,
                shared.channels().count(),
                shared.patterns(),
            ),
        ),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Keyspace", keyspace),
    ]
}

fn info(context: &mut Context<'_>) -> Done {
    let wanted: Vec<String> = context.args[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let all = wanted.is_empty() || wanted.iter().any(|name| ["all", "default", "everything"].contains(&name.as_str()));
    let mut text = String::new();
    for (name, lines) in sections(context) {
        if all || wanted.contains(&name.to_ascii_lowercase()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {name}\r\n{lines}");
        }
    }
    context.reply.verbatim(&text);
    Ok(())
}

/// Settings, as CONFIG shows them.
fn settings(context: &Context<'_>) -> Vec<(String, String)> {
    let settings = &context.shared.settings;
    let save: Vec<String> = settings.save.iter().map(|(seconds, changes)| format!("{seconds} {changes}")).collect();
    let mut all: Vec<(String, String)> = [
        ("requirepass", settings.password.clone()),
        ("dir", settings.directory.display().to_string()),
        ("dbfilename", settings.file.clone()),
        ("save", save.join(" ")),
        ("snapshot-buffer", settings.snapshot_buffer.to_string()),
        ("databases", context.store.databases().to_string()),
        ("port", context.shared.port.to_string()),
        ("appendonly", "no".to_owned()),
        ("maxmemory", "0".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let limits = settings.limits;
    for (name, value) in [
        ("hash-max-listpack-entries", limits.hash.0),
        ("hash-max-listpack-value", limits.hash.1),
        ("zset-max-listpack-entries", limits.sorted_set.0),
        ("zset-max-listpack-value", limits.sorted_set.1),
        ("set-max-intset-entries", limits.set),
    ] {
        all.push((name.to_owned(), value.to_string()));
        // As they were called before Redis 7.
        if name.contains("listpack") {
            all.push((name.replace("listpack", "ziplist"), value.to_string()));
        }
    }
    for (name, value) in &settings.without_effect {
        all.push(((*name).to_owned(), value.clone()));
        if name.contains("listpack") {
            all.push((name.replace("listpack", "ziplist"), value.clone()));
        }
    }
    all
}

fn config(context: &mut Context<'_>) -> Done {
    let subcommand = String::from_utf8_lossy(context.arg(1)).to_ascii_uppercase();
    match (subcommand.as_str(), context.args.len()) {
        ("GET", 3..) => {
            let patterns: Vec<Vec<u8>> = context.args[2..].iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
            let found: Vec<_> = settings(context)
                .into_iter()
                .filter(|(name, _)| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes())))
                .collect();
            context.reply.map(found.len());
            for (name, value) in found {
                context.reply.bulk(name.as_bytes());
                context.reply.bulk(value.as_bytes());
            }
        }
        ("SET", 4..) if context.args.len().is_multiple_of(2) => {
            for pair in context.args[2..].chunks_exact(2) {
                let (name, value) = (String::from_utf8_lossy(pair[0]).to_ascii_lowercase(), String::from_utf8_lossy(pair[1]).into_owned());
                set(context, &name, &value)?;
            }
            context.reply.ok();
        }
        ("RESETSTAT", 2) => {
            context.shared.counters = Default::default();
            context.store.expired = 0;
            context.reply.ok();
        }
        _ => return Err(Error::Subcommand(subcommand, "CONFIG".to_owned())),
    }
    Ok(())
}

/// Changes one setting. What can't be changed while it runs, or is not known, is an error: a setting that does nothing would be a lie.
fn set(context: &mut Context<'_>, name: &str, value: &str) -> Done {
    let failed = |why: &str| Error::new(format_args!("CONFIG SET failed (possibly related to argument '{name}') - {why}"));
    let size = |text: &str| text.parse::<usize>().map_err(|_| failed("argument couldn't be parsed into an integer"));
    let settings = &mut context.shared.settings;
    match name {
        "requirepass" => settings.password = value.to_owned(),
        "dir" => settings.directory = value.into(),
        "dbfilename" if !value.is_empty() && !value.contains('/') => settings.file = value.to_owned(),
        "dbfilename" => return Err(failed("it must be a file name, without a path")),
        "snapshot-buffer" => settings.snapshot_buffer = value.parse().map_err(|_| failed("argument must be a number of bytes"))?,
        "hash-max-listpack-entries" | "hash-max-ziplist-entries" => settings.limits.hash.0 = size(value)?,
        "hash-max-listpack-value" | "hash-max-ziplist-value" => settings.limits.hash.1 = size(value)?,
        "zset-max-listpack-entries" | "zset-max-ziplist-entries" => settings.limits.sorted_set.0 = size(value)?,
        "zset-max-listpack-value" | "zset-max-ziplist-value" => settings.limits.sorted_set.1 = size(value)?,
        "set-max-intset-entries" => settings.limits.set = size(value)?,
        "list-max-listpack-size" | "list-max-ziplist-size" | "list-compress-depth" => {
            size(value.trim_start_matches('-'))?;
            let name = if name == "list-compress-depth" { name } else { "list-max-listpack-size" };
            let place = settings.without_effect.iter_mut().find(|(known, _)| *known == name);
            place.into_iter().for_each(|(_, kept)| value.clone_into(kept));
        }
        "save" => settings.save = save_points(value).ok_or_else(|| failed("Invalid save parameters"))?,
        _ => return Err(Error::new(format_args!("Unknown option or number of arguments for CONFIG SET - '{name}'"))),
    }
    Ok(())
}

/// `900 1 300 10`: seconds and changes, any number of them.
pub fn save_points(text: &str) -> Option<Vec<(u64, u64)>> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    let numbers = numbers.filter(|numbers| numbers.len().is_multiple_of(2))?;
    Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn commands(context: &mut Context<'_>) -> Done {
    let subcommand = String::from_utf8_lossy(context.arg(1)).to_ascii_uppercase();
    match (subcommand.as_str(), context.args.len()) {
        ("", 1) => {
            context.reply.array(super::all().count());
            super::all().for_each(|command| describe(context, command));
        }
        ("COUNT", 2) => context.reply.count(super::all().count()),
        ("LIST", 2) => {
            let names: Vec<_> = super::all().map(|command| command.name).collect();
            context.reply.bulks(names.iter());
        }
        ("INFO", _) => {
            context.reply.array(context.args.len() - 2);
            for name in &context.args[2..] {
                match super::find(name) {
                    Some(command) => describe(context, command),
                    None => context.reply.null_array(),
                }
            }
        }
        // Clients that ask for documentation do without.
        ("DOCS", _) => context.reply.map(0),
        ("GETKEYS", 3..) => {
            let args = &context.args[2..];
            let command = super::find(args[0]).ok_or_else(|| Error::new("Invalid command specified"))?;
            if !command.fits(args.len()) {
                return Err(Error::new("Invalid number of arguments specified for command"));
            }
            let keys: Vec<&[u8]> = command.keys(args).collect();
            if keys.is_empty() {
                return Err(Error::new("The command has no key arguments"));
            }
            context.reply.bulks(keys.iter());
        }
        _ => return Err(Error::Subcommand(subcommand, "COMMAND".to_owned())),
    }
    Ok(())
}

fn describe(context: &mut Context<'_>, command: &Command) {
    let reply = &mut *context.reply;
    reply.array(6);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    let flags: &[&str] = match command.kind {
        Kind::Read => &["readonly"],
        Kind::Write => &["write"],
        Kind::Grow => &["write", "denyoom"],
        Kind::Server => &["loading", "stale"],
    };
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let (first, last, step) = command.keys;
    [first, last, step].iter().for_each(|place| reply.integer((*place).into()));
}

/// Begins a snapshot. Whether it did: there may be one under way.
///
/// # Errors
/// Why it could not.
pub fn begin_snapshot(context: &mut Context<'_>) -> Result<bool, Error> {
    let path = context.shared.settings.directory.join(&context.shared.settings.file);
    let limit = context.shared.settings.snapshot_buffer;
    context.shared.saving.begin(context.store, path, limit).map_err(Error::new)
}

fn bgsave(context: &mut Context<'_>) -> Done {
    if context.args.len() > 2 || context.args.len() == 2 && !context.is(1, "SCHEDULE") {
        return Err(Error::Syntax);
    }
    if !begin_snapshot(context)? {
        return Err(Error::new("Background save already in progress"));
    }
    context.reply.simple("Background saving started");
    Ok(())
}

/// There are none, so there is nothing to forget, and nothing to list.
fn function(context: &mut Context<'_>) -> Done {
    let subcommand = String::from_utf8_lossy(context.arg(1)).to_ascii_uppercase();
    match (subcommand.as_str(), context.args.len()) {
        ("FLUSH", 2 | 3) => context.reply.ok(),
        ("LIST", _) => context.reply.array(0),
        _ => return Err(Error::Subcommand(subcommand, "FUNCTION".to_owned())),
    }
    Ok(())
}

fn lastsave(context: &mut Context<'_>) -> Done {
    context.reply.integer(context.shared.saving.last);
    Ok(())
}

fn shutdown(context: &mut Context<'_>) -> Done {
    let save = match context.args.len() {
        1 => !context.shared.settings.save.is_empty(),
        2 if context.is(1, "SAVE") => true,
        2 if context.is(1, "NOSAVE") => false,
        _ => return Err(Error::Syntax),
    };
    if save && !begin_snapshot(context)? {
        return Err(Error::new("a snapshot is under way; ask again when it has ended, or with NOSAVE"));
    }
    // The server goes when the snapshot has ended well.
    context.shared.shutdown = true;
    Ok(())
}

fn time(context: &mut Context<'_>) -> Done {
    let now = context.store.now;
    context.reply.array(2);
    context.reply.bulk((now / 1000).to_string().as_bytes());
    context.reply.bulk((now % 1000 * 1000).to_string().as_bytes());
    Ok(())
}

fn role(context: &mut Context<'_>) -> Done {
    context.reply.array(3);
    context.reply.bulk(b"master");
    context.reply.integer(0);
    context.reply.array(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::save_points;

    #[test]
    fn save_points_are_pairs() {
        assert_eq!(save_points("900 1 300 10"), Some(vec![(900, 1), (300, 10)]));
        assert_eq!(save_points(""), Some(vec![]));
        assert!(save_points("900").is_none() && save_points("a 1").is_none());
    }
}
