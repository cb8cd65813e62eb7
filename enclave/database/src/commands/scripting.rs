//! EVAL and its kin: scripts in Lua.

use std::any::Any;
use std::collections::HashMap;

use teemate_lua::{Host, Interpreter, Limits};

use super::{Command, Context, Done, Kind, command, flag};
use crate::config::Config;
use crate::dispatch;
use crate::error::Error;
use crate::number;
use crate::resp::Reply;
use crate::session::Session;
use crate::shared::Shared;
use crate::store::Store;

/// What commands about scripts are, beside.
const ABOUT: u32 = flag::SCRIPTING | flag::NO_SCRIPT | flag::MOVABLE;

pub const COMMANDS: &[Command] = &[
    command("eval", -3, Kind::Server, (0, 0, 0), |context| eval(context, false)).with(ABOUT),
    command("evalsha", -3, Kind::Server, (0, 0, 0), |context| eval(context, true)).with(ABOUT),
    command("script", -2, Kind::Server, (0, 0, 0), script).with(flag::SCRIPTING | flag::NO_SCRIPT),
];

/// What changes the connection that a script has only borrowed.
const ALONE: [&str; 9] = ["subscribe", "unsubscribe", "psubscribe", "punsubscribe", "auth", "hello", "reset", "quit", "shutdown"];

/// Scripts by their SHA-1, and who runs them.
#[derive(Debug, Default)]
pub struct Scripts {
    interpreter: Option<Interpreter>,
    sources: HashMap<String, Box<[u8]>>,
}

/// The whole server, for as long as a script has it.
struct Server {
    store: Store,
    shared: Shared,
    session: Session,
}

impl Host for Server {
    fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut reply = Reply { version: 2, ..Reply::default() };
        match args.first().map(|name| super::find(name)) {
            Some(None) => reply.error("ERR Unknown Redis command called from script"),
            Some(Some(command)) if command.is(flag::NO_SCRIPT) || command.is(flag::TRANSACTION) || ALONE.contains(&command.name) => {
                reply.error("ERR This Redis command is not allowed from script")
            }
            Some(Some(command)) if !command.fits(args.len()) => reply.error("ERR Wrong number of args calling Redis command from script"),
            None => reply.error("ERR Please specify at least one argument for this redis.call() call"),
            Some(Some(_)) => {
                let Server { store, shared, session } = self;
                dispatch::process(&mut Context { store, session, shared, args, reply: &mut reply });
            }
        }
        reply.bytes
    }

    fn log(&mut self, level: i32, text: &[u8]) {
        if level >= 2 {
            eprintln!("script: {}", String::from_utf8_lossy(text));
        }
    }
}

fn eval(context: &mut Context<'_>, by_name: bool) -> Done {
    let keys = number::integer(context.arg(2)).ok_or(Error::NotAnInteger)?;
    let rest = &context.args[3..];
    if keys < 0 {
        return Err(Error::new("Number of keys can't be negative"));
    }
    let (keys, args) =
        rest.split_at_checked(keys as usize).ok_or_else(|| Error::new("Number of keys can't be greater than number of args"))?;
    let scripts = &mut context.shared.scripts;
    let source: Box<[u8]> = if by_name {
        let name = String::from_utf8_lossy(context.arg(1)).to_ascii_lowercase();
        let missing = || Error::Other("NOSCRIPT No matching script. Please use EVAL.".to_owned());
        context.shared.scripts.sources.get(&name).cloned().ok_or_else(missing)?
    } else {
        let source: Box<[u8]> = context.args[1].into();
        scripts.sources.insert(teemate_lua::name(&source), source.clone());
        source
    };
    let mut interpreter = context.shared.scripts.interpreter.take().unwrap_or_else(|| Interpreter::new(Limits::default()));

    let store = std::mem::replace(context.store, Store::new(1));
    let shared = std::mem::replace(context.shared, Shared::new(Config::default(), 0));
    let mut session = context.session.clone();
    (session.queue, session.executing, session.version) = (None, true, 2);
    let server = Server { store, shared, session };
    let (done, host) = interpreter.eval(&source, keys, args, Box::new(server));
    let host: Option<Box<dyn Any>> = host.map(|host| host as Box<dyn Any>);
    let server = host.and_then(|host| host.downcast::<Server>().ok()).ok_or_else(|| Error::new("the script lost the databases"))?;
    *context.store = server.store;
    *context.shared = server.shared;
    context.shared.scripts.interpreter = Some(interpreter);
    let reply = done.map_err(|error| Error::Other(error.to_string()))?;
    context.reply.bytes.extend_from_slice(&reply);
    Ok(())
}

fn script(context: &mut Context<'_>) -> Done {
    match (context.subcommand().as_str(), context.args.len()) {
        ("load", 3) => {
            let source: Box<[u8]> = context.arg(2).into();
            let name = teemate_lua::name(&source);
            context.shared.scripts.sources.insert(name.clone(), source);
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
            let scripts = &mut context.shared.scripts;
            scripts.sources.clear();
            if let Some(interpreter) = &mut scripts.interpreter {
                interpreter.forget();
            }
            context.reply.ok();
        }
        ("kill", 2) => return Err(Error::Other("NOTBUSY No scripts in execution right now.".to_owned())),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}
