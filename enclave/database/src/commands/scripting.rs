//! EVAL and its kin: scripts in Lua.

use std::any::Any;
use std::collections::HashMap;
use std::time::Instant;

use teemate_lua::{Host, Input, Interpreter, Job, Limits};

use super::functions::Libraries;
use super::{Command, Context, Done, Kind, command, flag};
use crate::config::Config;
use crate::dispatch;
use crate::error::Error;
use crate::eviction;
use crate::number;
use crate::resp::{self, Reply};
use crate::server::busy;
use crate::session::Session;
use crate::shared::{Running, Shared};
use crate::store::Store;

/// What commands about scripts are, beside.
pub(super) const ABOUT: u32 = flag::SCRIPTING | flag::NO_SCRIPT | flag::MOVABLE;

pub const COMMANDS: &[Command] = &[
    command("eval", -3, Kind::Server, (0, 0, 0), |context| eval(context, false, false)).with(ABOUT),
    command("evalsha", -3, Kind::Server, (0, 0, 0), |context| eval(context, true, false)).with(ABOUT),
    command("eval_ro", -3, Kind::Server, (0, 0, 0), |context| eval(context, false, true)).with(ABOUT),
    command("evalsha_ro", -3, Kind::Server, (0, 0, 0), |context| eval(context, true, true)).with(ABOUT),
    command("script", -2, Kind::Server, (0, 0, 0), script).with(flag::SCRIPTING | flag::NO_SCRIPT),
];

/// What changes the connection that a script has only borrowed.
const ALONE: [&str; 9] = ["subscribe", "unsubscribe", "psubscribe", "punsubscribe", "auth", "hello", "reset", "quit", "shutdown"];

/// What a script or function says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// It only reads.
    pub no_writes: bool,
    /// It may write when memory is short.
    pub allow_oom: bool,
}

impl Flags {
    /// From their names. `None`: one is none.
    pub fn named<T: AsRef<[u8]>>(names: &[T]) -> Option<Flags> {
        let mut flags = Flags::default();
        for name in names {
            match name.as_ref() {
                b"no-writes" => flags.no_writes = true,
                b"allow-oom" => flags.allow_oom = true,
                // There are neither masters nor slots.
                b"allow-stale" | b"no-cluster" | b"allow-cross-slot-keys" => {}
                _ => return None,
            }
        }
        Some(flags)
    }
}

/// A script.
#[derive(Clone, Debug)]
struct Script {
    /// Without its first line, if that tells of it.
    text: Box<[u8]>,
    /// `None`: it says nothing of itself, and may do what each of its commands may.
    flags: Option<Flags>,
}

/// Scripts by their SHA-1, libraries of functions, and who runs them.
#[derive(Debug, Default)]
pub struct Scripts {
    interpreter: Option<Interpreter>,
    sources: HashMap<String, Script>,
    pub(super) functions: Libraries,
}

impl Scripts {
    /// Takes out the interpreter, which is to be given back.
    pub(super) fn interpreter(&mut self) -> Interpreter {
        self.interpreter.take().unwrap_or_else(|| Interpreter::new(Limits::default()))
    }

    pub(super) fn give_back(&mut self, interpreter: Interpreter) {
        self.interpreter = Some(interpreter);
    }

    /// Bytes that Lua uses; bytes of scripts; scripts; libraries; functions.
    pub fn figures(&mut self) -> [usize; 5] {
        let used = self.interpreter.as_mut().map_or(0, Interpreter::used);
        let bytes = self.sources.values().map(|script| script.text.len()).sum();
        let (libraries, functions) = self.functions.counts();
        [used, bytes, self.sources.len(), libraries, functions]
    }
}

/// The whole server, for as long as a script has it.
struct Inside {
    store: Store,
    shared: Shared,
    session: Session,
    /// It may only read.
    reads: bool,
    /// There is no memory for more.
    full: bool,
}

impl Inside {
    /// Why a command is not for a script.
    fn refuses(&self, command: &Command, args: &[&[u8]]) -> Option<Error> {
        // What a script may never call takes part of what it has borrowed.
        let never = command.is(flag::TRANSACTION | flag::SCRIPTING) || ALONE.contains(&command.name);
        if never || command.is(flag::NO_SCRIPT) && !self.shared.scripts_may {
            return Some(Error::new("This Redis command is not allowed from script"));
        }
        if !command.fits(args.len()) {
            return Some(Error::new("Wrong number of args calling Redis command from script"));
        }
        if self.reads && (command.writes() || matches!(command.name, "publish" | "spublish" | "pfcount")) {
            return Some(Error::new("Write commands are not allowed from read-only scripts."));
        }
        (self.full && command.kind == Kind::Grow).then_some(Error::OutOfMemory)
    }
}

impl Host for Inside {
    fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut reply = Reply { version: self.session.version, ..Reply::default() };
        let command = args.first().and_then(|name| super::find(name));
        let refused = match command {
            None => Some(Error::new("Unknown Redis command called from script")),
            Some(command) => self.refuses(command, args),
        };
        let Inside { store, shared, session, .. } = self;
        let mut context = Context { store, session, shared, args, reply: &mut reply };
        match refused {
            Some(error) => {
                if let Some(command) = command {
                    context.shared.calls_of(command.name).rejected += 1;
                }
                dispatch::note_error(&mut context, &error);
                context.reply.error(&error.to_string());
            }
            None => {
                dispatch::process(&mut context);
                if let Some(running) = &mut context.shared.running {
                    running.wrote |= command.is_some_and(Command::writes);
                    running.read |= command.is_some_and(|command| command.kind == Kind::Read);
                }
            }
        }
        reply.bytes
    }

    fn may(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut reply = Reply::default();
        match args.first().and_then(|name| super::find(name)).filter(|command| command.fits(args.len())) {
            None => reply.error("ERR Invalid command passed to redis.acl_check_cmd()"),
            Some(command) => {
                let user = self.session.user.as_ref().and_then(|name| self.shared.acl.users.get(name));
                reply.integer(user.is_some_and(|user| user.denies(command, args).is_none()).into());
            }
        }
        reply.bytes
    }

    fn version(&mut self, version: u8) {
        self.session.version = version;
    }

    fn log(&mut self, level: i32, text: &[u8]) {
        // In an enclave what is written there is the host's to read.
        if level >= 2 && !self.shared.protected {
            eprintln!("script: {}", String::from_utf8_lossy(text));
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        if !busy::look(&mut self.store, &mut self.shared) {
            return Ok(());
        }
        let (name, what) = match &self.shared.running {
            Some(running) if running.is_function => (running.name.as_str(), "FUNCTION"),
            Some(running) => (running.name.as_str(), "SCRIPT"),
            None => ("", "SCRIPT"),
        };
        Err(format!("ERR Error running script (call to {name}): Script killed by user with {what} KILL"))
    }
}

/// Words of a request.
type Words<'a> = &'a [&'a [u8]];

/// Keys and further arguments, behind their number.
pub(super) fn arguments<'a>(context: &Context<'a>, wrong: Error) -> Result<(Words<'a>, Words<'a>), Error> {
    let keys = number::integer(context.arg(2)).ok_or(wrong)?;
    let rest = &context.args[3..];
    if keys < 0 {
        return Err(Error::new("Number of keys can't be negative"));
    }
    rest.split_at_checked(keys as usize).ok_or_else(|| Error::new("Number of keys can't be greater than number of args"))
}

/// What a script says of itself in its first line, and its text without it.
fn parse(source: &[u8]) -> Result<Script, Error> {
    let Some(rest) = source.strip_prefix(b"#!") else { return Ok(Script { text: source.into(), flags: None }) };
    let end = memchr::memchr(b'\n', rest).ok_or_else(|| Error::new("Invalid script shebang"))?;
    let words = resp::words(&rest[..end]).ok_or_else(|| Error::new("Invalid engine in script shebang"))?;
    let shown = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let (engine, options) = words.split_first().ok_or_else(|| Error::new("Invalid engine in script shebang"))?;
    // What follows the mark at once is the engine.
    if !engine.eq_ignore_ascii_case(b"lua") || rest.first().is_some_and(u8::is_ascii_whitespace) {
        return Err(Error::new(format_args!("Unexpected engine in script shebang: {}", shown(engine))));
    }
    let mut flags = Flags::default();
    for option in options {
        let Some(names) = option.strip_prefix(b"flags=") else {
            return Err(Error::new(format_args!("Unknown lua shebang option: {}", shown(option))));
        };
        for name in names.split(|byte| *byte == b',').filter(|name| !name.is_empty()) {
            let one =
                Flags::named(&[name]).ok_or_else(|| Error::new(format_args!("Unexpected flag in script shebang: {}", shown(name))))?;
            (flags.no_writes, flags.allow_oom) = (flags.no_writes | one.no_writes, flags.allow_oom | one.allow_oom);
        }
    }
    // The line stays, empty: errors count lines.
    Ok(Script { text: rest[end..].into(), flags: Some(flags) })
}

fn eval(context: &mut Context<'_>, by_name: bool, reads: bool) -> Done {
    let (keys, args) = arguments(context, Error::NotAnInteger)?;
    let name = if by_name { String::from_utf8_lossy(context.arg(1)).to_ascii_lowercase() } else { teemate_lua::name(context.arg(1)) };
    let known = context.shared.scripts.sources.get(&name).cloned();
    let script = match known {
        Some(script) => script,
        None if by_name => return Err(Error::Other("NOSCRIPT No matching script. Please use EVAL.".to_owned())),
        None => {
            let script = parse(context.arg(1))?;
            context.shared.scripts.sources.insert(name.clone(), script.clone());
            script
        }
    };
    let flags = may_run(context, script.flags, reads)?;
    run(context, Job::Eval { name: &name, source: &script.text }, &name, (keys, args), flags)
}

/// What a script is run with that was found to be allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    reads: bool,
    full: bool,
}

/// Whether a script may run now that says this of itself. `reads`: by a command that only reads.
pub(super) fn may_run(context: &mut Context<'_>, flags: Option<Flags>, reads: bool) -> Result<Allowed, Error> {
    let full = context.shared.config.hot.max_memory > 0 && !eviction::make_room(context.store, context.shared);
    let Some(flags) = flags else { return Ok(Allowed { reads, full }) };
    if reads && !flags.no_writes {
        return Err(Error::new("Can not execute a script with write flag using *_ro command."));
    }
    if !flags.no_writes {
        if let Some(why) = dispatch::refuses_writes(context.shared) {
            return Err(Error::Other(why));
        }
        if full && !flags.allow_oom {
            return Err(Error::Other(
                "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'".to_owned(),
            ));
        }
    }
    Ok(Allowed { reads: reads || flags.no_writes, full: full && !flags.allow_oom && !flags.no_writes })
}

/// Runs a script or a function, and replies.
pub(super) fn run(context: &mut Context<'_>, job: Job<'_>, name: &str, input: (&[&[u8]], &[&[u8]]), allowed: Allowed) -> Done {
    let mut interpreter = context.shared.scripts.interpreter();
    let mut session = context.session.clone();
    (session.queue, session.executing, session.script, session.version) = (None, true, true, 2);
    context.shared.running = Some(Running {
        name: name.to_owned(),
        command: context.args.iter().map(|arg| Box::from(*arg)).collect(),
        is_function: matches!(job, Job::Call { .. }),
        began: Instant::now(),
        slow: None,
        read: false,
        wrote: false,
        killed: false,
        held: Vec::new(),
    });
    let store = std::mem::replace(context.store, Store::new(1));
    let shared = std::mem::replace(context.shared, Shared::new(Config::default(), 0));
    let inside = Inside { store, shared, session, reads: allowed.reads, full: allowed.full };
    let input = Input { keys: input.0, args: input.1, version: context.reply.version };
    let (done, host) = interpreter.run(job, input, Box::new(inside));
    let host: Option<Box<dyn Any>> = host.map(|host| host as Box<dyn Any>);
    let inside = host.and_then(|host| host.downcast::<Inside>().ok()).ok_or_else(|| Error::new("the script lost the databases"))?;
    *context.store = inside.store;
    *context.shared = inside.shared;
    context.shared.scripts.give_back(interpreter);
    if let Some(mut running) = context.shared.running.take() {
        context.shared.wires.dirty.append(&mut running.held);
        // Who tracks keys is told of those that the script was given, whichever of them it has read.
        let command = super::find(context.arg(0)).filter(|_| running.read && context.shared.trackers.contains(&context.session.id));
        if let Some(command) = command {
            super::remember(context, command);
        }
    }
    let (kind, reply) = done.map_err(|error| Error::Other(error.to_string()))?;
    let text = || String::from_utf8_lossy(&reply).trim_start_matches('-').trim_end_matches("\r\n").to_owned();
    match kind {
        teemate_lua::Kind::Value => context.reply.bytes.extend_from_slice(&reply),
        teemate_lua::Kind::Error => return Err(Error::Other(text())),
        teemate_lua::Kind::Passed => return Err(Error::Passed(text())),
    }
    Ok(())
}

/// Ends the script, or the function, that is running.
pub(super) fn kill(context: &mut Context<'_>, is_function: bool) -> Done {
    let Some(running) = &mut context.shared.running else {
        return Err(Error::Other("NOTBUSY No scripts in execution right now.".to_owned()));
    };
    if running.is_function != is_function {
        return Err(dispatch::busy(running.is_function));
    }
    if running.wrote {
        return Err(Error::Other(
            "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command."
                .to_owned(),
        ));
    }
    running.killed = true;
    context.reply.ok();
    Ok(())
}

/// Whether a command may write by what it runs: who pauses writes pauses it.
pub(super) fn may_write(shared: &Shared, command: &Command, args: &[&[u8]]) -> bool {
    let what = args.get(1).copied().unwrap_or_default();
    let flags = match command.name {
        "eval" => parse(what).ok().and_then(|script| script.flags),
        "evalsha" => shared.scripts.sources.get(&String::from_utf8_lossy(what).to_ascii_lowercase()).and_then(|script| script.flags),
        "fcall" => shared.scripts.functions.find(what).map(|(_, function)| function.flags),
        "function" => {
            return [&b"load"[..], b"flush", b"delete", b"restore"].iter().any(|one| what.eq_ignore_ascii_case(one));
        }
        _ => return false,
    };
    !flags.is_some_and(|flags| flags.no_writes)
}

fn script(context: &mut Context<'_>) -> Done {
    match (context.subcommand().as_str(), context.args.len()) {
        ("load", 3) => {
            let name = teemate_lua::name(context.arg(2));
            if !context.shared.scripts.sources.contains_key(&name) {
                let script = parse(context.arg(2))?;
                compile(context, &name, &script.text)?;
                context.shared.scripts.sources.insert(name.clone(), script);
            }
            context.reply.bulk(name.as_bytes());
        }
        ("exists", 3..) => {
            context.reply.array(context.args.len() - 2);
            for at in 2..context.args.len() {
                let name = String::from_utf8_lossy(context.arg(at)).to_ascii_lowercase();
                let known = context.shared.scripts.sources.contains_key(&name);
                context.reply.integer(known.into());
            }
        }
        ("flush", 2 | 3) => {
            if context.args.len() == 3 && !context.is(2, "async") && !context.is(2, "sync") {
                return Err(Error::new("SCRIPT FLUSH only support SYNC|ASYNC option"));
            }
            let scripts = &mut context.shared.scripts;
            scripts.sources.clear();
            if let Some(interpreter) = &mut scripts.interpreter {
                interpreter.forget();
            }
            context.reply.ok();
        }
        ("kill", 2) => kill(context, false)?,
        ("debug", 3) if context.is(2, "no") => context.reply.ok(),
        ("debug", 3) => return Err(Error::new("the debugger of scripts is not supported")),
        ("help", 2) => super::help(
            context,
            &[
                "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "EXISTS <sha1> [<sha1> ...]",
                "    Return information about the existence of the scripts in the script cache.",
                "FLUSH [ASYNC|SYNC]",
                "    Flush the Lua scripts cache. Very dangerous on replicas.",
                "KILL",
                "    Kill the currently executing Lua script.",
                "LOAD <script>",
                "    Load a script into the scripts cache without executing it.",
                "HELP",
                "    Print this help.",
            ],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

/// Whether a script can be read at all.
fn compile(context: &mut Context<'_>, name: &str, source: &[u8]) -> Done {
    let mut interpreter = context.shared.scripts.interpreter();
    let (done, _) = interpreter.run(Job::Compile { name, source }, Input::default(), Box::new(Alone::default()));
    context.shared.scripts.give_back(interpreter);
    match done.map_err(|error| Error::Other(error.to_string()))? {
        (teemate_lua::Kind::Value, _) => Ok(()),
        (_, why) => Err(Error::Other(String::from_utf8_lossy(&why).trim_start_matches('-').trim_end().to_owned())),
    }
}

/// What is run without the databases: a library that registers its functions.
#[derive(Debug, Default)]
pub(super) struct Alone {
    ticks: usize,
}

/// Instructions are counted, not time: what was loaded once is loaded again when a log is carried out. About half a second.
const TICKS: usize = 1000;

impl Host for Alone {
    fn call(&mut self, _: &[&[u8]]) -> Vec<u8> {
        b"-ERR there are no databases here\r\n".to_vec()
    }

    fn may(&mut self, _: &[&[u8]]) -> Vec<u8> {
        b":0\r\n".to_vec()
    }

    fn version(&mut self, _: u8) {}

    fn log(&mut self, _: i32, _: &[u8]) {}

    fn tick(&mut self) -> Result<(), String> {
        self.ticks += 1;
        if self.ticks > TICKS { Err("ERR FUNCTION LOAD timeout".to_owned()) } else { Ok(()) }
    }
}
