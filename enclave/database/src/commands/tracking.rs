//! CLIENT TRACKING: clients that keep what they read are told when it changes.

use super::{Command, Context, Done, flag};
use crate::error::Error;
use crate::session::{Session, Tracking};
use crate::shared::{Push, Shared};

/// CLIENT TRACKING ON or OFF.
pub(super) fn set(context: &mut Context<'_>) -> Done {
    context.count(3..)?;
    let on = if context.is(2, "ON") {
        true
    } else if context.is(2, "OFF") {
        false
    } else {
        return Err(Error::Syntax);
    };
    let mut new = Tracking::default();
    let mut at = 3;
    while at < context.args.len() {
        let more = at + 1 < context.args.len();
        if context.is(at, "REDIRECT") && more {
            at += 1;
            let id = context.integer(at)?;
            if new.redirect != 0 {
                return Err(Error::new("A client can only redirect to a single other client"));
            }
            let known = id as u64 == context.session.id || context.shared.slots.contains_key(&(id as u64));
            if !known {
                return Err(Error::new("The client ID you want redirect to does not exist"));
            }
            new.redirect = id as u64;
        } else if context.is(at, "PREFIX") && more {
            at += 1;
            new.prefixes.push(context.arg(at).into());
        } else if context.is(at, "BCAST") {
            new.broadcast = true;
        } else if context.is(at, "OPTIN") {
            new.opt_in = true;
        } else if context.is(at, "OPTOUT") {
            new.opt_out = true;
        } else if context.is(at, "NOLOOP") {
            new.no_loop = true;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    if !on {
        stop(context);
        context.reply.ok();
        return Ok(());
    }
    if !new.prefixes.is_empty() && !new.broadcast {
        return Err(Error::new("PREFIX option requires BCAST mode to be enabled"));
    }
    if let Some(old) = &context.session.tracking {
        if old.broadcast != new.broadcast {
            return Err(Error::new(
                "You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
            ));
        }
        if old.opt_in && new.opt_out || old.opt_out && new.opt_in {
            return Err(Error::new(
                "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
            ));
        }
        new.prefixes.extend(old.prefixes.iter().cloned());
    }
    if new.broadcast && (new.opt_in || new.opt_out) {
        return Err(Error::new("OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if new.opt_in && new.opt_out {
        return Err(Error::new("You can't specify both OPTIN mode and OPTOUT mode"));
    }
    for (at, one) in new.prefixes.iter().enumerate() {
        if let Some(other) = new.prefixes[at + 1..].iter().find(|other| one.starts_with(other) || other.starts_with(one)) {
            return Err(Error::new(format_args!(
                "Prefix '{}' overlaps with an existing prefix '{}'. Prefixes for a single client must not overlap.",
                String::from_utf8_lossy(one),
                String::from_utf8_lossy(other)
            )));
        }
    }
    if new.broadcast && new.prefixes.is_empty() {
        new.prefixes.push(Box::default());
    }
    context.shared.trackers.insert(context.session.id);
    context.store.record = true;
    context.session.tracking = Some(new);
    context.reply.ok();
    Ok(())
}

/// Tracks nothing any more.
pub(super) fn stop(context: &mut Context<'_>) {
    context.session.tracking = None;
    context.shared.trackers.remove(&context.session.id);
}

/// CLIENT CACHING.
pub(super) fn caching(context: &mut Context<'_>) -> Done {
    context.count(3..=3)?;
    let yes = if context.is(2, "YES") {
        true
    } else if context.is(2, "NO") {
        false
    } else {
        return Err(Error::Syntax);
    };
    let Some(tracking) = &mut context.session.tracking else {
        return Err(Error::new("CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"));
    };
    if yes && !tracking.opt_in {
        return Err(Error::new("CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."));
    }
    if !yes && !tracking.opt_out {
        return Err(Error::new("CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."));
    }
    tracking.caching = Some(yes);
    context.reply.ok();
    Ok(())
}

/// CLIENT TRACKINGINFO.
pub(super) fn show(context: &mut Context<'_>) -> Done {
    context.count(2..=2)?;
    let none = Tracking { redirect: 0, ..Tracking::default() };
    let on = context.session.tracking.is_some();
    let tracking = context.session.tracking.as_ref().unwrap_or(&none);
    let marks = [
        (!on, "off"),
        (on, "on"),
        (tracking.broadcast, "bcast"),
        (tracking.opt_in, "optin"),
        (tracking.opt_out, "optout"),
        (tracking.caching == Some(true), "caching-yes"),
        (tracking.caching == Some(false), "caching-no"),
        (tracking.no_loop, "noloop"),
        (tracking.broken, "broken_redirect"),
    ];
    let flags: Vec<&str> = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
    let reply = &mut *context.reply;
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|mark| reply.bulk(mark.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(if on { tracking.redirect as i64 } else { -1 });
    reply.bulk(b"prefixes");
    reply
        .bulks(tracking.prefixes.iter().filter(|prefix| !prefix.is_empty() || tracking.prefixes.len() > 1).collect::<Vec<_>>().into_iter());
    Ok(())
}

/// Notes which keys a client has read.
pub(crate) fn remember(context: &mut Context<'_>, command: &Command) {
    let Some(tracking) = &context.session.tracking else { return };
    let wanted = match (tracking.opt_in, tracking.opt_out) {
        (true, _) => tracking.caching == Some(true),
        (_, true) => tracking.caching != Some(false),
        _ => true,
    };
    if tracking.broadcast || !wanted || command.is(flag::PUBSUB) {
        return;
    }
    for key in command.keys(context.args) {
        context.shared.tracked.entry(Box::from(key)).or_default().insert(context.session.id);
    }
    let most = usize::try_from(context.shared.config.number("tracking-table-max-keys")).unwrap_or(0);
    // Whoever may have kept one of the others is told that it changed: then there is room.
    while most > 0 && context.shared.tracked.len() > most {
        let Some(key) = context.shared.tracked.keys().next().cloned() else { break };
        invalidate(context.shared, Some(&key), None);
    }
}

/// Tells those who may have kept a key (`None`: any key) that it has changed. `by`: the session that changed it.
pub(crate) fn invalidate(shared: &mut Shared, key: Option<&[u8]>, by: Option<&Session>) {
    if shared.trackers.is_empty() {
        shared.tracked.clear();
        return;
    }
    let interested: Vec<u64> = match key {
        None => {
            shared.tracked.clear();
            shared.trackers.iter().copied().collect()
        }
        Some(key) => shared.tracked.remove(key).into_iter().flatten().collect(),
    };
    let sessions = shared.sessions.iter().flatten().map(|session| &**session).chain(by);
    let mut told = Vec::new();
    for session in sessions {
        let Some(tracking) = &session.tracking else { continue };
        let meant = if tracking.broadcast {
            key.is_none_or(|key| tracking.prefixes.iter().any(|prefix| key.starts_with(prefix)))
        } else {
            interested.contains(&session.id)
        };
        let own = tracking.no_loop && by.is_some_and(|by| by.id == session.id);
        if !meant || own || tracking.broken {
            continue;
        }
        // Version 2 has no messages that nobody asked for.
        if tracking.redirect == 0 && session.version < 3 {
            continue;
        }
        let to = if tracking.redirect == 0 { session.id } else { tracking.redirect };
        let Some(key) = key.filter(|_| tracking.broadcast) else {
            told.push((to, Push::Invalidate(key.map(|key| vec![Box::from(key)]))));
            continue;
        };
        for prefix in tracking.prefixes.iter().filter(|prefix| key.starts_with(prefix)) {
            told.push((to, Push::Broadcast { prefix: prefix.clone(), keys: vec![key.into()] }));
        }
    }
    for (to, push) in told {
        let Push::Broadcast { prefix, keys: new } = &push else {
            shared.messages.push((to, push));
            continue;
        };
        let same = shared.messages.iter_mut().find_map(|(other, push)| match push {
            Push::Broadcast { prefix: of, keys } if *other == to && of == prefix => Some(keys),
            _ => None,
        });
        match same {
            Some(keys) => keys.extend(new.iter().cloned()),
            None => shared.messages.push((to, push)),
        }
    }
}
