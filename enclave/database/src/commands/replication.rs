//! Replication: who wants a snapshot, or to follow.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;
use crate::replication::{Replica, Stage, Waiter};
use crate::session::{Otherwise, Waiting};

const ADMIN: u32 = flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT;

pub const COMMANDS: &[Command] = &[
    command("sync", 1, Kind::Server, (0, 0, 0), |context| follow(context, false)).with(ADMIN | flag::NO_MULTI),
    command("psync", -3, Kind::Server, (0, 0, 0), psync).with(ADMIN | flag::NO_MULTI),
    command("replconf", -1, Kind::Server, (0, 0, 0), replconf).with(ADMIN | flag::NO_MULTI),
    command("role", 1, Kind::Server, (0, 0, 0), role).with(flag::FAST | flag::ADMIN | flag::DANGEROUS | flag::NO_SCRIPT),
    command("wait", 3, Kind::Server, (0, 0, 0), wait).with(flag::BLOCKING | flag::NO_SCRIPT),
    command("replicaof", 3, Kind::Server, (0, 0, 0), replicaof).with(ADMIN),
    command("slaveof", 3, Kind::Server, (0, 0, 0), replicaof).with(ADMIN),
];

/// Somebody wants a snapshot, and what comes after it.
fn follow(context: &mut Context<'_>, told: bool) -> Done {
    if context.shared.replication.replicas.contains_key(&context.session.id) {
        return Ok(());
    }
    if !context.reply.bytes.is_empty() {
        return Err(Error::new("SYNC and PSYNC are invalid with pending output"));
    }
    // Where nothing can be kept, there is no file for it either.
    context.shared.storage.snapshot(&context.shared.config).map_err(Error::new)?;
    let replica = replica(context, Stage::Waits, told, 0);
    if !replica.only_snapshot {
        context.shared.replication.counters.full += 1;
    }
    add(context, replica);
    Ok(())
}

fn replica(context: &Context<'_>, stage: Stage, told: bool, at: u64) -> Replica {
    let session = &context.session;
    let shown = session.address.rsplit_once(':').map_or("", |(ip, _)| ip);
    Replica {
        stage,
        only_snapshot: session.announced.only_snapshot,
        told,
        ip: if session.announced.ip.is_empty() { shown.to_owned() } else { session.announced.ip.clone() },
        port: session.announced.port,
        at,
        acknowledged: 0,
        heard: context.store.now,
        soft_limit_since: None,
    }
}

fn add(context: &mut Context<'_>, replica: Replica) {
    context.session.follows = true;
    context.shared.replication.add(context.session.id, replica);
    context.store.logs = context.shared.takes_effects();
}

/// Somebody goes on where it was, if what it has not got yet is kept; else it begins anew.
fn psync(context: &mut Context<'_>) -> Done {
    if context.shared.replication.replicas.contains_key(&context.session.id) {
        return Ok(());
    }
    let (id, number) = (context.arg(1), number::integer(context.arg(2)));
    let number = number.ok_or_else(|| Error::new("value is not an integer or out of range"))?;
    // The byte that it wants next, counted from 1.
    let at = u64::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let replication = &mut context.shared.replication;
    let is_it = replication.kept && id == replication.stream.id().as_bytes();
    let Some(at) = at.filter(|at| is_it && replication.stream.from(*at).is_some()) else {
        if id != b"?" {
            replication.counters.refused += 1;
        }
        return follow(context, true);
    };
    replication.counters.partial += 1;
    let answer = format!("CONTINUE {}", replication.stream.id());
    context.reply.simple(&answer);
    let replica = replica(context, Stage::Follows, true, at);
    add(context, replica);
    Ok(())
}

fn replconf(context: &mut Context<'_>) -> Done {
    if context.args.len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    for at in (1..context.args.len()).step_by(2) {
        let value = context.arg(at + 1);
        if context.is(at, "ack") {
            // Without an answer: it would be one to nothing in the stream.
            let acknowledged = number::integer(value).and_then(|number| u64::try_from(number).ok());
            let session = context.session.id;
            if let (Some(acknowledged), Some(replica)) = (acknowledged, context.shared.replication.replicas.get_mut(&session)) {
                replica.acknowledged = replica.acknowledged.max(acknowledged);
            }
            return Ok(());
        } else if context.is(at, "listening-port") {
            let port = number::integer(value).and_then(|port| u16::try_from(port).ok());
            context.session.announced.port = port.ok_or(Error::NotAnInteger)?;
        } else if context.is(at, "ip-address") {
            let ip = std::str::from_utf8(value).ok().filter(|ip| ip.len() < 256 && ip.bytes().all(|byte| byte.is_ascii_graphic()));
            ip.ok_or_else(|| Error::new("REPLCONF ip-address provided by replica instance is too long or no address"))?
                .clone_into(&mut context.session.announced.ip);
        } else if context.is(at, "rdb-only") {
            context.session.announced.only_snapshot = number::integer(value).ok_or(Error::NotAnInteger)? == 1;
        } else if context.is(at, "rdb-filter-only") {
            if !value.is_empty() {
                return Err(Error::new("a snapshot has everything: REPLCONF rdb-filter-only is not supported"));
            }
        } else if !context.is(at, "capa") {
            return Err(Error::new(format_args!("Unrecognized REPLCONF option: {}", String::from_utf8_lossy(context.arg(at)))));
        }
    }
    context.reply.ok();
    Ok(())
}

fn role(context: &mut Context<'_>) -> Done {
    let replication = &context.shared.replication;
    context.reply.array(3);
    context.reply.bulk(b"master");
    context.reply.integer(replication.stream.end() as i64);
    let following: Vec<&Replica> =
        replication.following().map(|(_, replica)| replica).filter(|replica| matches!(replica.stage, Stage::Follows)).collect();
    context.reply.array(following.len());
    for replica in following {
        context.reply.array(3);
        context.reply.bulk(replica.ip.as_bytes());
        context.reply.bulk(replica.port.to_string().as_bytes());
        context.reply.bulk(replica.acknowledged.to_string().as_bytes());
    }
    Ok(())
}

/// Waits until so many replicas have carried out everything so far.
fn wait(context: &mut Context<'_>) -> Done {
    let timeout = context.integer(2).map_err(|_| Error::new("timeout is not an integer or out of range"))?;
    let replicas = context.integer(1)?;
    if replicas < 0 {
        return Err(Error::new("value is out of range, must be positive"));
    }
    if timeout < 0 {
        return Err(Error::new("timeout is negative"));
    }
    let offset = context.shared.replication.stream.end();
    let have = context.shared.replication.acknowledged(offset);
    if have >= replicas || context.session.executing {
        context.reply.integer(have);
        return Ok(());
    }
    let until = if timeout == 0 { None } else { Some(context.store.now.saturating_add(timeout)) };
    let request = context.args.iter().map(|arg| Box::from(*arg)).collect();
    context.session.waiting = Some(Waiting { request, keys: Vec::new(), until, otherwise: Otherwise::Integer(have), paused: false });
    context.shared.replication.waiters.push(Waiter { session: context.session.id, offset, replicas });
    context.shared.replication.asks = true;
    Ok(())
}

fn replicaof(context: &mut Context<'_>) -> Done {
    if context.is(1, "NO") && context.is(2, "ONE") {
        context.reply.ok();
        return Ok(());
    }
    Err(Error::new("replication is not supported: this server is a master only"))
}
