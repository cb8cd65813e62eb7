//! FUNCTION and FCALL: libraries of functions in Lua. They are data: snapshots and the log have them.

use std::collections::BTreeMap;

use teemate_lua::{Input, Interpreter, Job, Kind as Said};

use super::scripting::{self, ABOUT, Alone, Flags, Scripts};
use super::{Command, Context, Done, Kind, command, flag};
use crate::dispatch;
use crate::error::Error;
use crate::eviction;
use crate::glob;
use crate::resp;

pub const COMMANDS: &[Command] = &[
    command("fcall", -3, Kind::Server, (0, 0, 0), |context| call(context, false)).with(ABOUT),
    command("fcall_ro", -3, Kind::Server, (0, 0, 0), |context| call(context, true)).with(ABOUT),
    command("function", -2, Kind::Server, (0, 0, 0), function).with(flag::SCRIPTING | flag::NO_SCRIPT),
];

/// A function, as its library registered it.
#[derive(Clone, Debug)]
pub(super) struct Function {
    name: String,
    description: Option<Box<[u8]>>,
    names: Vec<Box<[u8]>>,
    /// What those names mean.
    pub flags: Flags,
}

/// A library.
#[derive(Clone, Debug)]
pub(super) struct Library {
    /// What the interpreter calls it: another one each time that it is loaded.
    id: String,
    /// As it was given, first line included.
    code: Box<[u8]>,
    functions: Vec<Function>,
}

/// The libraries, by their names.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    all: BTreeMap<String, Library>,
    next: u64,
}

impl Libraries {
    /// How many libraries, and functions.
    pub fn counts(&self) -> (usize, usize) {
        (self.all.len(), self.all.values().map(|library| library.functions.len()).sum())
    }

    /// The function of this name, in any case, and its library.
    pub fn find(&self, name: &[u8]) -> Option<(&Library, &Function)> {
        self.all.values().find_map(|library| Some((library, library.functions.iter().find(|one| is_named(one, name))?)))
    }
}

fn is_named(function: &Function, name: &[u8]) -> bool {
    function.name.as_bytes().eq_ignore_ascii_case(name)
}

/// Names are part of the log and of files: only letters, digits and `_`.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// The name that a library's first line gives, and its text without that line.
fn parse(code: &[u8]) -> Result<(String, &[u8]), Error> {
    let rest = code.strip_prefix(b"#!").ok_or_else(|| Error::new("Missing library metadata"))?;
    let end = memchr::memchr(b'\n', rest).ok_or_else(|| Error::new("Invalid library metadata"))?;
    let words = resp::words(&rest[..end]).ok_or_else(|| Error::new("Invalid library metadata"))?;
    // What follows the mark at once is the engine.
    let none = rest.first().is_none_or(u8::is_ascii_whitespace);
    let (engine, options) = if none { (&b""[..], &words[..]) } else { (&words[0][..], &words[1..]) };
    let mut name: Option<&[u8]> = None;
    for option in options {
        let Some(given) = option.strip_prefix(b"name=") else {
            return Err(Error::new(format_args!("Invalid metadata value given: {}", String::from_utf8_lossy(option))));
        };
        if name.replace(given).is_some() {
            return Err(Error::new("Invalid metadata value, name argument was given multiple times"));
        }
    }
    let name = name.ok_or_else(|| Error::new("Library name was not given"))?;
    if !is_name(name) {
        return Err(Error::new(
            "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        ));
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(Error::new(format_args!("Engine '{}' not found", String::from_utf8_lossy(engine))));
    }
    Ok((String::from_utf8_lossy(name).into_owned(), &rest[end..]))
}

/// Lets the interpreter load a library under this name of its own. What it says of its functions.
fn load(interpreter: &mut Interpreter, id: &str, source: &[u8]) -> Result<Vec<Function>, Error> {
    let (done, _) = interpreter.run(Job::Load { library: id, source }, Input::default(), Box::new(Alone::default()));
    let (said, reply) = done.map_err(|error| Error::Other(error.to_string()))?;
    if said != Said::Value {
        return Err(Error::Other(String::from_utf8_lossy(&reply).trim_start_matches('-').trim_end().to_owned()));
    }
    listed(&reply).ok_or_else(|| Error::new("the library's functions can't be read"))
}

/// The functions of the interpreter's reply: a list of lists, each of a name, a description or nothing, and flags.
fn listed(reply: &[u8]) -> Option<Vec<Function>> {
    let mut parts = Parts { rest: reply };
    let count = parts.number(b'*')?;
    (0..count)
        .map(|_| {
            let parts_of_it = parts.number(b'*')?;
            let name = String::from_utf8(parts.bytes()??.to_vec()).ok()?;
            let description = parts.bytes()?.map(Box::from);
            let names = (2..parts_of_it).map(|_| parts.bytes()?.map(Box::from)).collect::<Option<Vec<Box<[u8]>>>>()?;
            let flags = Flags::named(&names)?;
            Some(Function { name, description, names, flags })
        })
        .collect()
}

struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn number(&mut self, kind: u8) -> Option<i64> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let line = self.rest.get(..end)?.strip_suffix(b"\r")?;
        let (first, digits) = line.split_first()?;
        self.rest = &self.rest[end + 1..];
        if *first == kind { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
    }

    fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let Ok(length) = usize::try_from(self.number(b'$')?) else { return Some(None) };
        let bytes = self.rest.get(..length)?;
        self.rest = self.rest.get(length + 2..)?;
        Some(Some(bytes))
    }
}

/// What is done with libraries of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Refuse,
    Replace,
}

impl Scripts {
    /// The libraries, as FUNCTION LOAD takes them.
    pub fn libraries(&self) -> Vec<Vec<u8>> {
        self.functions.all.values().map(|library| library.code.to_vec()).collect()
    }

    /// Takes libraries, in place of those that there are: of all, or, if `merge`, of those with the same names.
    ///
    /// # Errors
    /// That one of them is none: then nothing has changed.
    pub fn set_libraries(&mut self, libraries: &[Vec<u8>], merge: bool) -> Result<(), Error> {
        self.take(libraries, !merge, if merge { Policy::Replace } else { Policy::Refuse })
    }

    /// Loads a library. Its name.
    fn add(&mut self, code: &[u8], policy: Policy) -> Result<String, Error> {
        let (name, source) = parse(code)?;
        if policy == Policy::Refuse && self.functions.all.contains_key(&name) {
            return Err(Error::new(format_args!("Library '{name}' already exists")));
        }
        self.functions.next += 1;
        let id = format!("library {}", self.functions.next);
        let mut interpreter = self.interpreter();
        let loaded = load(&mut interpreter, &id, source);
        let others = || self.functions.all.iter().filter(|(other, _)| **other != name).flat_map(|(_, library)| &library.functions);
        let clash = loaded.iter().flatten().find(|function| others().any(|one| is_named(one, function.name.as_bytes())));
        if let Some(function) = clash {
            interpreter.forget_library(&id);
            let error = Error::new(format_args!("Function {} already exists", function.name));
            self.give_back(interpreter);
            return Err(error);
        }
        self.give_back(interpreter);
        let library = Library { id, code: code.into(), functions: loaded? };
        if let Some(old) = self.functions.all.insert(name.clone(), library) {
            self.drop_library(&old);
        }
        Ok(name)
    }

    fn drop_library(&mut self, library: &Library) {
        let mut interpreter = self.interpreter();
        interpreter.forget_library(&library.id);
        self.give_back(interpreter);
    }

    /// Loads libraries: all of them or none.
    fn take(&mut self, libraries: &[Vec<u8>], flush: bool, policy: Policy) -> Result<(), Error> {
        let before = if flush { std::mem::take(&mut self.functions.all) } else { self.functions.all.clone() };
        for code in libraries {
            let known = |name: &str| policy == Policy::Refuse && self.functions.all.contains_key(name);
            let added = match parse(code) {
                Ok((name, _)) if known(&name) => Err(Error::new(format_args!("Library {name} already exists"))),
                _ => self.add(code, policy).map(drop),
            };
            if let Err(error) = added {
                self.functions.all = before;
                return Err(error);
            }
        }
        let kept = |library: &Library| self.functions.all.values().any(|one| one.id == library.id);
        let gone: Vec<Library> = before.into_values().filter(|library| !kept(library)).collect();
        gone.iter().for_each(|library| self.drop_library(library));
        Ok(())
    }
}

fn call(context: &mut Context<'_>, reads: bool) -> Done {
    let name = context.arg(1);
    let Some((library, function)) = context.shared.scripts.functions.find(name) else { return Err(Error::new("Function not found")) };
    let (id, code, name, flags) = (library.id.clone(), library.code.clone(), function.name.clone(), function.flags);
    let (keys, args) = scripting::arguments(context, Error::new("Bad number of keys provided"))?;
    let allowed = scripting::may_run(context, Some(flags), reads)?;
    let mut interpreter = context.shared.scripts.interpreter();
    // After a script that had to be stopped everything is loaded anew, when it is asked for.
    let loaded = if interpreter.has_library(&id) { Ok(Vec::new()) } else { load(&mut interpreter, &id, parse(&code)?.1) };
    context.shared.scripts.give_back(interpreter);
    loaded?;
    scripting::run(context, Job::Call { library: &id, function: &name }, &name, (keys, args), allowed)
}

fn function(context: &mut Context<'_>) -> Done {
    let count = context.args.len();
    match context.subcommand().as_str() {
        "load" if count >= 3 => {
            has_room(context)?;
            let mut policy = Policy::Refuse;
            for at in 2..count - 1 {
                if !context.is(at, "replace") {
                    return Err(Error::new(format_args!("Unknown option given: {}", String::from_utf8_lossy(context.arg(at)))));
                }
                policy = Policy::Replace;
            }
            let name = context.shared.scripts.add(context.arg(count - 1), policy)?;
            context.store.changes += 1;
            context.reply.bulk(name.as_bytes());
        }
        "delete" if count == 3 => {
            let name = String::from_utf8_lossy(context.arg(2)).into_owned();
            let scripts = &mut context.shared.scripts;
            let library = scripts.functions.all.remove(&name).ok_or_else(|| Error::new("Library not found"))?;
            scripts.drop_library(&library);
            context.store.changes += 1;
            context.reply.ok();
        }
        "flush" if count <= 3 => {
            if count == 3 && !context.is(2, "sync") && !context.is(2, "async") {
                return Err(Error::new("FUNCTION FLUSH only supports SYNC|ASYNC option"));
            }
            context.shared.scripts.take(&[], true, Policy::Refuse)?;
            context.store.changes += 1;
            context.reply.ok();
        }
        "dump" if count == 2 => {
            let payload = teemate_rdb::dump_functions(&context.shared.scripts.libraries());
            context.reply.bulk(&payload);
        }
        "restore" if count == 3 || count == 4 => {
            let (flush, policy) = match String::from_utf8_lossy(context.arg(3)).to_ascii_lowercase().as_str() {
                "" if count == 3 => (false, Policy::Refuse),
                "append" => (false, Policy::Refuse),
                "flush" => (true, Policy::Refuse),
                "replace" => (false, Policy::Replace),
                _ => return Err(Error::new("Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.")),
            };
            has_room(context)?;
            let libraries = teemate_rdb::restore_functions(context.arg(2));
            let libraries = libraries.map_err(|_| Error::new("DUMP payload version or checksum are wrong"))?;
            context.shared.scripts.take(&libraries, flush, policy)?;
            context.store.changes += 1;
            context.reply.ok();
        }
        "list" => list(context)?,
        "stats" if count == 2 => stats(context),
        "kill" if count == 2 => scripting::kill(context, true)?,
        "help" if count == 2 => super::help(
            context,
            &[
                "FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "DELETE <LIBRARY NAME>",
                "DUMP",
                "FLUSH [ASYNC|SYNC]",
                "KILL",
                "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
                "LOAD [REPLACE] <FUNCTION CODE>",
                "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
                "STATS",
                "HELP",
            ],
        ),
        known @ ("delete" | "dump" | "flush" | "restore" | "stats" | "kill" | "load" | "help") => {
            return Err(Error::new(format_args!("unknown subcommand or wrong number of arguments for '{known}'. Try FUNCTION HELP.")));
        }
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

/// Libraries need memory, and are written like keys.
fn has_room(context: &mut Context<'_>) -> Done {
    if context.shared.config.hot.max_memory > 0 && !eviction::make_room(context.store, context.shared) {
        return Err(Error::OutOfMemory);
    }
    dispatch::refuses_writes(context.shared).map_or(Ok(()), |why| Err(Error::Other(why)))
}

fn list(context: &mut Context<'_>) -> Done {
    let (mut code, mut pattern, mut at) = (false, None, 2);
    while at < context.args.len() {
        if context.is(at, "withcode") && !code {
            code = true;
        } else if context.is(at, "libraryname") && pattern.is_none() {
            at += 1;
            if at == context.args.len() {
                return Err(Error::new("library name argument was not given"));
            }
            pattern = Some(context.arg(at));
        } else {
            return Err(Error::new(format_args!("Unknown argument {}", String::from_utf8_lossy(context.arg(at)))));
        }
        at += 1;
    }
    let reply = &mut *context.reply;
    let all = context.shared.scripts.functions.all.iter();
    let wanted: Vec<_> = all.filter(|(name, _)| pattern.is_none_or(|pattern| glob::matches(pattern, name.as_bytes()))).collect();
    reply.array(wanted.len());
    for (name, library) in wanted {
        reply.map(if code { 4 } else { 3 });
        reply.bulk(b"library_name");
        reply.bulk(name.as_bytes());
        reply.bulk(b"engine");
        reply.bulk(b"LUA");
        reply.bulk(b"functions");
        reply.array(library.functions.len());
        for function in &library.functions {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(function.name.as_bytes());
            reply.bulk(b"description");
            reply.bulk_or_null(function.description.as_deref());
            reply.bulk(b"flags");
            reply.set(function.names.len());
            function.names.iter().for_each(|flag| reply.simple(&String::from_utf8_lossy(flag)));
        }
        if code {
            reply.bulk(b"library_code");
            reply.bulk(&library.code);
        }
    }
    Ok(())
}

fn stats(context: &mut Context<'_>) {
    let reply = &mut *context.reply;
    reply.map(2);
    reply.bulk(b"running_script");
    match context.shared.running.as_ref().filter(|running| running.is_function) {
        None => reply.null(),
        Some(running) => {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(running.name.as_bytes());
            reply.bulk(b"command");
            reply.bulks(running.command.iter());
            reply.bulk(b"duration_ms");
            reply.integer(running.began.elapsed().as_millis() as i64);
        }
    }
    let (libraries, functions) = context.shared.scripts.functions.counts();
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.count(libraries);
    reply.bulk(b"functions_count");
    reply.count(functions);
}
