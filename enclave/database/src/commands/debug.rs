//! DEBUG: what Redis's own tests ask for.

use sha1::{Digest, Sha1};

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;
use crate::persistence;
use crate::store::Expiry;
use crate::value::{Text, Value};

pub const COMMANDS: &[Command] =
    &[command("debug", -2, Kind::Server, (0, 0, 0), debug).with(flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT)];

/// Longest that DEBUG SLEEP sleeps.
const LONGEST: f64 = 60.0;

fn debug(context: &mut Context<'_>) -> Done {
    match context.subcommand().as_str() {
        "sleep" => {
            let seconds = context.float(2)?.clamp(0.0, LONGEST);
            std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
            context.reply.ok();
        }
        "set-active-expire" => {
            context.shared.active_expire = context.integer(2)? != 0;
            context.reply.ok();
        }
        "log"
        | "replybuffer"
        | "quicklist-packed-threshold"
        | "change-repl-id"
        | "jmap"
        | "listpack-entries"
        | "config-rewrite-force-all"
        | "dict-resizing"
        | "stringmatch-len" => context.reply.ok(),
        "set-disable-deny-scripts" => {
            context.shared.scripts_may = context.integer(2)? != 0;
            context.reply.ok();
        }
        "object" => object(context)?,
        "reload" | "loadaof" => reload(context)?,
        "populate" => populate(context)?,
        "digest" => {
            let mut all = [0u8; 20];
            for db in 0..context.store.databases() {
                let mut keys: Vec<Box<[u8]>> = Vec::new();
                context.store.scan(db, 0, usize::MAX, |key, _| keys.push(key.into()));
                for key in keys {
                    mix(&mut all, &digest(context, db, &key));
                }
            }
            context.reply.simple(&show(&all));
        }
        "digest-value" => {
            let db = context.db();
            let digests: Vec<String> = context.args[2..].iter().map(|key| show(&value_digest(context.store.peek(db, key)))).collect();
            context.reply.array(digests.len());
            digests.iter().for_each(|digest| context.reply.simple(digest));
        }
        "protocol" => protocol(context)?,
        "error" => {
            let text = String::from_utf8_lossy(context.arg(2)).into_owned();
            return Err(Error::Other(text));
        }
        "stringmatch" => context.reply.ok(),
        "help" => super::help(
            context,
            &[
                "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "DIGEST",
                "OBJECT <key>",
                "POPULATE <count> [<prefix>] [<size>]",
                "RELOAD",
                "SLEEP <seconds>",
                "HELP",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

fn object(context: &mut Context<'_>) -> Done {
    let (db, key) = (context.db(), context.arg(2));
    let now = context.store.now;
    let Some(value) = context.store.peek_late(db, key) else { return Err(Error::NoSuchKey) };
    let line = format!(
        "Value at:0x1 refcount:1 encoding:{} serializedlength:{} lru:{} lru_seconds_idle:0",
        value.encoding(),
        value.weight(),
        (now / 1000) & 0xff_ffff
    );
    context.reply.simple(&line);
    Ok(())
}

/// Writes a snapshot, forgets everything, and reads it again.
fn reload(context: &mut Context<'_>) -> Done {
    let words: Vec<String> = context.args[2..].iter().map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase()).collect();
    let has = |word: &str| words.iter().any(|one| one == word);
    if !has("nosave") {
        super::server::write(context)?;
    }
    let is_empty = (0..context.store.databases()).all(|db| context.store.is_empty(db)) && context.shared.libraries().is_empty();
    if has("noflush") && !has("merge") && !is_empty {
        return Err(Error::new("Error trying to load the RDB dump, check server logs."));
    }
    if !has("noflush") {
        (0..context.store.databases()).for_each(|db| context.store.flush(db));
    }
    let place = context.shared.storage.snapshot(&context.shared.config).map_err(Error::new)?;
    if let Some(file) = place.open().map_err(Error::new)? {
        let (_, _, libraries) = persistence::rdb::read(context.store, file, place.name()).map_err(Error::new)?;
        persistence::take_libraries(context.shared, &libraries, has("noflush"), place.name()).map_err(Error::new)?;
    }
    // What was not in the file, or is there beside it, no command did.
    if has("nosave") || has("noflush") {
        context.shared.log.scheduled = true;
        context.shared.replication.restart();
        context.shared.cut_off_replicas();
    }
    context.shared.saving.changes = context.store.changes;
    context.reply.ok();
    Ok(())
}

fn populate(context: &mut Context<'_>) -> Done {
    let count = context.integer(2)?.clamp(0, 100_000_000);
    let prefix = if context.args.len() > 3 { context.arg(3) } else { b"key" };
    let size = if context.args.len() > 4 { Some(usize::try_from(context.integer(4)?).unwrap_or(0)) } else { None };
    let db = context.db();
    for number in 0..count {
        let key = [prefix, format!(":{number}").as_bytes()].concat();
        if context.store.contains(db, &key) {
            continue;
        }
        let mut value = format!("value:{number}").into_bytes();
        if let Some(size) = size {
            value.resize(size, 0);
        }
        context.store.set(db, &key, Value::Text(Text::new(&value)), Expiry::Never);
    }
    context.reply.ok();
    Ok(())
}

fn mix(into: &mut [u8; 20], other: &[u8; 20]) {
    into.iter_mut().zip(other).for_each(|(a, b)| *a ^= b);
}

fn show(digest: &[u8; 20]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn digest(context: &mut Context<'_>, db: usize, key: &[u8]) -> [u8; 20] {
    let expires = context.store.expires(db, key).flatten().is_some();
    let value = value_digest(context.store.peek(db, key));
    sha1(&[format!("{db}").as_bytes(), key, &value, if expires { b"!!expire!!" } else { b"" }])
}

/// The same for the same content, however it is kept. Sets and hashes: in any order.
fn value_digest(value: Option<&Value>) -> [u8; 20] {
    let mut all = [0; 20];
    match value {
        None => {}
        Some(Value::Text(text)) => all = sha1(&[&text.bytes()]),
        Some(Value::List(list)) => list.iter().for_each(|item| all = sha1(&[&all, item])),
        Some(Value::Set(set)) => set.iter().for_each(|member| mix(&mut all, &sha1(&[&member]))),
        Some(Value::Hash(hash)) => hash.iter().for_each(|(field, value)| mix(&mut all, &sha1(&[field, value]))),
        Some(Value::Stream(stream)) => stream.items().iter().for_each(|item| {
            all = sha1(&[&all, item.id.to_string().as_bytes()]);
            item.parts().for_each(|part| all = sha1(&[&all, part]));
        }),
        Some(Value::SortedSet(set)) => {
            set.members().iter().for_each(|member| mix(&mut all, &sha1(&[&member.name, number::show(member.score).as_bytes()])));
        }
    }
    all
}

fn protocol(context: &mut Context<'_>) -> Done {
    let kind = String::from_utf8_lossy(context.arg(2)).to_ascii_lowercase();
    let reply = &mut *context.reply;
    match kind.as_str() {
        "string" => reply.bulk(b"Hello World"),
        "integer" => reply.integer(12345),
        "double" => reply.double(3141.0 / 1000.0),
        "null" => reply.null(),
        "array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        "set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        "map" => {
            reply.map(3);
            (0..3).for_each(|number| {
                reply.integer(number);
                reply.boolean(number == 1);
            });
        }
        "attrib" => {
            if reply.version < 3 {
                reply.bulk(b"Some real reply following the attribute");
            } else {
                reply.bytes.extend_from_slice(b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n");
                reply.bulk(b"Some real reply following the attribute");
            }
        }
        "push" => {
            if reply.version < 3 {
                return Err(Error::new("RESP2 is not supported by this command"));
            }
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
        }
        "verbatim" => reply.verbatim("This is a verbatim\nstring"),
        "true" => reply.boolean(true),
        "false" => reply.boolean(false),
        "bignum" => {
            if reply.version >= 3 {
                reply.bytes.extend_from_slice(b"(1234567999999999999999999999999999999\r\n");
            } else {
                reply.bulk(b"1234567999999999999999999999999999999");
            }
        }
        _ => {
            return Err(Error::new(
                "Wrong protocol type name. Please use one of the following: string|integer|double|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}
