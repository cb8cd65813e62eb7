//! CONFIG.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::persistence;
use crate::settings;
use crate::shared::Counters;

pub const COMMANDS: &[Command] =
    &[command("config", -2, Kind::Server, (0, 0, 0), config).with(flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT)];

fn config(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "get" => {
            context.count(3..)?;
            let mut found: Vec<(&str, &str)> =
                context.args[2..].iter().flat_map(|pattern| context.shared.config.matching(pattern)).collect();
            found.sort_unstable();
            found.dedup();
            context.reply.map(found.len());
            for (name, value) in found {
                context.reply.bulk(name.as_bytes());
                context.reply.bulk(value.as_bytes());
            }
        }
        "set" => set(context)?,
        "resetstat" => {
            context.count(2..=2)?;
            context.shared.counters = Counters::default();
            context.shared.calls.clear();
            context.store.expired = 0;
            context.reply.ok();
        }
        "rewrite" if context.shared.settings.is_none() => return Err(Error::new("The server is running without a config file")),
        "rewrite" => {
            settings::keep(context.shared)?;
            context.reply.ok();
        }
        "help" => super::help(
            context,
            &[
                "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "GET <pattern>",
                "SET <directive> <value>",
                "RESETSTAT",
                "REWRITE",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

/// All of them, or none.
fn set(context: &mut Context<'_>) -> Done {
    if context.args.len() < 4 || !context.args.len().is_multiple_of(2) {
        return Err(Error::Arity("config|set".to_owned()));
    }
    let mut new = context.shared.config.clone();
    let mut seen: Vec<String> = Vec::new();
    for pair in context.args[2..].chunks_exact(2) {
        let (name, value) = (String::from_utf8_lossy(pair[0]).to_ascii_lowercase(), String::from_utf8_lossy(pair[1]));
        if !new.knows(&name) {
            let shown = String::from_utf8_lossy(pair[0]).into_owned();
            return Err(Error::new(format_args!("Unknown option or number of arguments for CONFIG SET - '{shown}'")));
        }
        let failed = |why: String| Error::new(format_args!("CONFIG SET failed (possibly related to argument '{name}') - {why}"));
        if seen.contains(&name) {
            return Err(failed("duplicate parameter".to_owned()));
        }
        if name == "dir" && !context.shared.storage.disk.is_directory(&value) {
            return Err(failed("No such file or directory".to_owned()));
        }
        if name == "dbfilename" && value.contains('/') {
            return Err(failed("dbfilename can't be a path, just a filename".to_owned()));
        }
        new.set(&name, &value).map_err(failed)?;
        seen.push(name);
    }
    let before = (std::mem::replace(&mut context.shared.config, new), context.shared.acl.users.clone());
    let is_set = |name: &str| seen.iter().any(|seen| seen == name);
    let differs = |name: &str| before.0.get(name) != context.shared.config.get(name);
    let met = (differs("witness") || differs("witness-ca")).then(|| persistence::meet_witness(context.shared)).transpose();
    if is_set("requirepass") {
        let password = context.shared.config.get("requirepass").to_owned();
        context.shared.acl.set_default_password(&password);
    }
    let failed = |name: &str, why: String| Error::new(format_args!("CONFIG SET failed (possibly related to argument '{name}') - {why}"));
    let kept = met.map_err(|why| failed("witness", why)).and_then(|met| {
        let keep = if met.is_some() { settings::keep_untold } else { settings::keep };
        keep(context.shared).map(|()| met)
    });
    let met = match kept {
        Ok(met) => met,
        Err(error) => {
            (context.shared.config, context.shared.acl.users) = before;
            return Err(error);
        }
    };
    // After the settings: a log that was turned on, or off, by settings that were then refused would stay so.
    if is_set("appendonly") {
        let on = context.shared.config.is_on("appendonly");
        if let Err(why) = persistence::set_append_only(context.shared, on) {
            (context.shared.config, context.shared.acl.users) = before;
            let why = failed("appendonly", why.to_string());
            return Err(settings::keep(context.shared).err().unwrap_or(why));
        }
    }
    if let Some(met) = met {
        persistence::change_witness(context.shared, met)?;
    }
    context.shared.forget_anybody(context.session);
    let hot = &context.shared.config.hot;
    context.store.clock.counts = hot.counts;
    context.store.clock.lfu = hot.lfu;
    if seen.iter().any(|name| name.starts_with("maxmemory")) {
        crate::eviction::make_room(context.store, context.shared);
    }
    context.reply.ok();
    Ok(())
}
