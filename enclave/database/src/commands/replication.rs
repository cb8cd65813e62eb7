//! Replication: who wants a snapshot, or to follow.

use super::{Command, Context, Done, Kind, command, flag};
use crate::error::Error;
use crate::number;
use crate::persistence;
use crate::replication::link::{Link, State};
use crate::replication::{Replica, Stage, Waiter};
use crate::session::{Otherwise, Waiting};
use crate::shared::Shared;
use crate::store::Store;

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
    if context.shared.replication.is_replica() && !context.session.announced.only_snapshot {
        return Err(Error::new("this server follows another one: who wants to follow is to follow that"));
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
    let Some(at) = at.filter(|at| !replication.is_replica() && replication.continues(id, *at)) else {
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
        } else if context.is(at, "password") {
            // Asked by a replica in an enclave: a host may have led it here.
            let user = context.session.user.as_ref().and_then(|name| context.shared.acl.users.get(name));
            if user.is_none_or(|user| user.no_password) {
                return Err(Error::new("NOPASSWORD whoever comes is let in here: the user needs no password"));
            }
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
    if let Some(link) = &replication.link {
        context.reply.array(5);
        context.reply.bulk(b"slave");
        context.reply.bulk(link.host.as_bytes());
        context.reply.integer(link.port.into());
        context.reply.bulk(match link.state {
            State::Connecting => b"connect",
            State::Loading => b"sync",
            State::Up => b"connected",
        });
        context.reply.integer(if link.state == State::Up { replication.stream.end() as i64 } else { -1 });
        return Ok(());
    }
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
    if context.shared.replication.is_replica() {
        return Err(Error::new(
            "WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        ));
    }
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
        stand_alone(context.store, context.shared);
        context.reply.ok();
        return Ok(());
    }
    let host = String::from_utf8_lossy(context.arg(1)).into_owned();
    let port = context.integer(2).ok().and_then(|port| u16::try_from(port).ok()).ok_or_else(|| Error::new("Invalid master port"))?;
    if context.shared.replication.link.as_ref().is_some_and(|link| link.host == host && link.port == port) {
        context.reply.simple("OK Already connected to specified master");
        return Ok(());
    }
    begin_to_follow(context.store, context.shared, &host, port).map_err(Error::new)?;
    context.reply.ok();
    Ok(())
}

/// Follows another server from now on: what there is here is replaced by what that has.
fn begin_to_follow(store: &mut Store, shared: &mut Shared, host: &str, port: u16) -> Result<(), String> {
    let Some(following) = shared.replication.following.clone() else {
        return Err("this server can't follow another one".to_owned());
    };
    if following.demands_password && shared.config.get("masterauth").is_empty() {
        return Err("set masterauth first: without a password anybody's database could be followed".to_owned());
    }
    // What was done so far is of this server.
    persistence::gather(store, shared);
    let replication = &mut shared.replication;
    // It may have been followed by the other one, which then knows the stream to here.
    let stream = replication.kept.then(|| (replication.stream.id().to_owned(), replication.stream.end()));
    let link = Link::start(&following, (host, port), &shared.config, shared.port, store.databases(), stream, store.now);
    replication.link = Some(link.map_err(|error| format!("there is no thread for it: {error}"))?);
    (replication.kept, store.passive) = (true, true);
    shared.cut_off_replicas();
    let blocked = shared.sessions.iter().flatten().filter(|session| session.waiting.as_ref().is_some_and(|waiting| !waiting.paused));
    let blocked: Vec<_> = blocked.map(|session| (session.id, true)).collect();
    shared.unblock.extend(blocked);
    store.logs = shared.takes_effects();
    Ok(())
}

/// Follows nobody any more. Who followed the same server can go on with this one, from where it is.
fn stand_alone(store: &mut Store, shared: &mut Shared) {
    let replication = &mut shared.replication;
    if replication.link.take().is_none() {
        return;
    }
    let before = replication.stream.part();
    (replication.before, replication.alone_since) = (Some((before, replication.stream.end())), None);
    store.passive = false;
    store.logs = shared.takes_effects();
}

/// Follows the same server anew, from a snapshot on.
pub(crate) fn follow_anew(store: &mut Store, shared: &mut Shared) {
    let Some(link) = shared.replication.link.take() else { return };
    shared.replication.kept = false;
    if let Err(why) = begin_to_follow(store, shared, &link.host, link.port) {
        eprintln!("teemate-database: {}:{} is not followed any more: {why}", link.host, link.port);
    }
}

/// Follows whom the settings name.
pub(crate) fn follow_from_the_start(store: &mut Store, shared: &mut Shared) {
    let words: Vec<String> = shared.config.get("replicaof").split_whitespace().map(str::to_owned).collect();
    let [host, port] = &words[..] else { return };
    let begun = port.parse().map_err(|_| format!("{port:?} is no port")).and_then(|port| begin_to_follow(store, shared, host, port));
    if let Err(why) = begun {
        eprintln!("teemate-database: {host}:{port} is not followed: {why}");
    }
}
