//! TEEMATE.IMPORT: an owner's plain RDB in place of what there is. A command of this server's own; `teemate db import` sends it.
//!
//! `BEGIN [REPLACE]`, then `DATA bytes` as often as it takes, each answered when there is room for the next, then `COMMIT`, answered when
//! everything is in place and kept. Whatever ends it before, ABORT and the connection's end included, changes nothing.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::persistence::import::{Answer, Import};
use crate::resp::Reply;
use crate::session::{Otherwise, Waiting};

const NAME: &str = "teemate.import";

pub const COMMANDS: &[Command] = &[command(NAME, -2, Kind::Server, (0, 0, 0), import)
    .with(flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT | flag::NO_MULTI | flag::HIDDEN)];

fn import(context: &mut Context<'_>) -> Done {
    let id = context.session.id;
    match context.subcommand().as_str() {
        "begin" => {
            context.count(2..=3)?;
            let replace = context.args.len() == 3;
            if replace && !context.is(2, "REPLACE") {
                return Err(Error::Syntax);
            }
            if context.shared.import.is_some() {
                return Err(Error::Other("BUSY another import is under way".to_owned()));
            }
            let begun = Import::begin(context.store, context.shared, id, replace).map_err(Error::new)?;
            context.shared.import = Some(begun);
            context.reply.ok();
        }
        "data" => {
            context.count(3..=3)?;
            let piece = context.arg(2);
            own(context)?.take(piece);
            wait(context);
        }
        "commit" => {
            context.count(2..=2)?;
            own(context)?.end();
            wait(context);
        }
        "abort" => {
            context.count(2..=2)?;
            own(context)?;
            context.shared.import = None;
            context.reply.ok();
        }
        "help" => super::help(
            context,
            &["TEEMATE.IMPORT <subcommand>. Subcommands are:", "BEGIN [REPLACE]", "DATA <bytes>", "COMMIT", "ABORT", "HELP"],
        ),
        _ => return Err(context.unknown_subcommand()),
    }
    Ok(())
}

/// The import that this connection began.
fn own<'a>(context: &'a mut Context<'_>) -> Result<&'a mut Import, Error> {
    let id = context.session.id;
    let import = context.shared.import.as_mut().filter(|import| import.session == id && import.takes());
    import.ok_or_else(|| Error::new("there is no import of this connection: TEEMATE.IMPORT BEGIN comes first"))
}

/// The answer comes when there is one.
fn wait(context: &mut Context<'_>) {
    let request = vec![Box::from(NAME.as_bytes())];
    context.session.waiting = Some(Waiting { request, keys: Vec::new(), until: None, otherwise: Otherwise::Null, paused: false });
}

/// Writes an answer.
pub(crate) fn answer(reply: &mut Reply, answer: &Answer) {
    match answer {
        Answer::Taken => reply.ok(),
        Answer::Failed(why) if why.starts_with("OOM ") => reply.error(why),
        Answer::Failed(why) => reply.error(&format!("ERR {why}")),
        Answer::Done(report) => {
            reply.map(4);
            for (name, number) in [("keys", report.keys), ("expired", report.expired), ("functions", report.functions)] {
                reply.bulk(name.as_bytes());
                reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
            }
            reply.bulk(b"kept");
            reply.bulk(report.kept.word().as_bytes());
        }
    }
}
