//! What follows from commands for others than who sent them: those who waited for a key, those who get messages, those who are paused.

use super::connections::Connections;
use super::now;
use crate::commands::{self, Context};
use crate::dispatch;
use crate::error::Error;
use crate::resp::{self, Reply};
use crate::session::{Session, Waiting};
use crate::shared::{Push, Shared};
use crate::store::Store;
use crate::value::Value;

impl Connections<'_> {
    /// What follows from commands: messages to others, who waited for a key.
    pub(super) fn after(&mut self) {
        // What one gets may be what another waits for; each round serves at least one, or ends.
        for _ in 0..10_000 {
            self.unblock();
            let filled = self.store.filled();
            if filled.is_empty() {
                break;
            }
            // What filled them may have taken its time: a key may be over by now.
            self.store.now = now();
            for (db, key) in filled {
                let waiters: Vec<u64> =
                    self.shared.waiters.get(&(db, key)).map(|queue| queue.iter().copied().collect()).unwrap_or_default();
                for id in waiters {
                    self.retry(id);
                }
            }
        }
        self.deliver();
    }

    /// Tries again what a connection waits for.
    fn retry(&mut self, id: u64) {
        let Some(slot) = self.shared.slots.get(&id).copied() else { return };
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        let Some(waiting) = session.waiting.take() else {
            self.shared.sessions[slot] = Some(session);
            return;
        };
        let buffers = &mut self.shared.wires.buffers[slot];
        let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
        let before = reply.bytes.len();
        let args: Vec<&[u8]> = waiting.request.iter().map(|arg| &**arg).collect();
        session.retrying = true;
        let database = session.database;
        if let Some((db, _)) = waiting.keys.first() {
            session.database = *db;
        }
        let result = match commands::find(args.first().copied().unwrap_or_default()) {
            Some(command) => {
                let (store, shared) = (&mut self.store, &mut self.shared);
                let mut context = Context { store, session: &mut session, shared, args: &args, reply: &mut reply };
                dispatch::again(&mut context, command)
            }
            None => Ok(()),
        };
        session.database = database;
        // `block` takes the mark away: then it waits on. So it does for a key that became something else.
        // Not so where the list is there, and the wrong one is that to which its element would go.
        let is_list = waiting.keys.first().is_some_and(|(db, key)| matches!(self.store.peek(*db, key), Some(Value::List(_))));
        let carries = args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"blmove") || name.eq_ignore_ascii_case(b"brpoplpush"));
        let waits = !session.retrying || result == Err(Error::WrongType) && !(carries && is_list);
        session.retrying = false;
        if waits {
            reply.bytes.truncate(before);
            session.waiting = Some(waiting);
        } else {
            if let Err(error) = result {
                reply.bytes.truncate(before);
                reply.error(&error.to_string());
            }
            self.forget(id, &waiting);
            self.shared.wires.again.push(slot);
        }
        self.shared.wires.buffers[slot].output = reply.bytes;
        self.shared.wires.dirty.push(slot);
        self.shared.sessions[slot] = Some(session);
    }

    /// Ends the waiting of those for whom CLIENT UNBLOCK was called.
    fn unblock(&mut self) {
        for (id, with_error) in std::mem::take(&mut self.shared.unblock) {
            self.end_waiting(id, with_error);
        }
    }

    pub(super) fn end_waiting(&mut self, id: u64, with_error: bool) {
        let Some(slot) = self.shared.slots.get(&id).copied() else { return };
        let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take) else { return };
        if let Some(waiting) = session.waiting.take() {
            self.forget(id, &waiting);
            let buffers = &mut self.shared.wires.buffers[slot];
            if waiting.paused {
                // It comes again, before what came behind it.
                let mut input = Vec::new();
                resp::write_request(&mut input, &waiting.request);
                input.append(&mut buffers.input);
                buffers.input = input;
            } else {
                let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
                if with_error {
                    reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
                } else {
                    reply.otherwise(waiting.otherwise);
                }
                buffers.output = reply.bytes;
                self.shared.wires.dirty.push(slot);
            }
            self.shared.wires.again.push(slot);
        }
        self.shared.sessions[slot] = Some(session);
    }

    /// Puts messages into the buffers of those who get them.
    fn deliver(&mut self) {
        for (id, push) in std::mem::take(&mut self.shared.messages) {
            let Some(slot) = self.shared.slots.get(&id).copied() else { continue };
            let Some(Some(session)) = self.shared.sessions.get(slot) else { continue };
            let buffers = &mut self.shared.wires.buffers[slot];
            let mut reply = Reply { bytes: std::mem::take(&mut buffers.output), version: session.version };
            write_push(&mut reply, &push);
            buffers.output = reply.bytes;
            self.shared.wires.dirty.push(slot);
        }
    }
}

pub(super) fn is_paused(store: &Store, shared: &Shared, session: &Session, args: &[&[u8]]) -> bool {
    if shared.pause.until <= store.now || session.queue.is_some() && !args[0].eq_ignore_ascii_case(b"exec") {
        return false;
    }
    let Some(command) = commands::find(args[0]) else { return false };
    // Who pauses must be able to go on.
    if command.name == "client" || command.name == "ping" && !shared.pause.all {
        return false;
    }
    let writes = |command: &commands::Command, args: &[&[u8]]| {
        command.writes() || matches!(command.name, "publish" | "spublish" | "pfcount") || commands::may_write(shared, command, args)
    };
    let queued = || {
        session.queue.iter().flatten().any(|request| {
            let args: Vec<&[u8]> = request.iter().map(|arg| &**arg).collect();
            args.first().and_then(|name| commands::find(name)).is_some_and(|command| writes(command, &args))
        })
    };
    shared.pause.all || writes(command, args) || command.name == "exec" && queued()
}

pub(super) fn paused(args: &[&[u8]], until: i64) -> Waiting {
    Waiting {
        request: args.iter().map(|arg| Box::from(*arg)).collect(),
        keys: Vec::new(),
        until: Some(until),
        otherwise: crate::session::Otherwise::Null,
        paused: true,
    }
}

fn write_push(reply: &mut Reply, push: &Push) {
    match push {
        Push::Message { pattern: None, channel, content, shard } => {
            reply.push(3);
            reply.bulk(if *shard { b"smessage" } else { b"message" });
            reply.bulk(channel);
            reply.bulk(content);
        }
        Push::Message { pattern: Some(pattern), channel, content, .. } => {
            reply.push(4);
            reply.bulk(b"pmessage");
            reply.bulk(pattern);
            reply.bulk(channel);
            reply.bulk(content);
        }
        Push::Line(line) => reply.simple(line),
        Push::RedirectBroken(id) if reply.version >= 3 => {
            reply.push(2);
            reply.bulk(b"tracking-redir-broken");
            reply.integer(*id as i64);
        }
        Push::RedirectBroken(_) => {}
        Push::Broadcast { keys, .. } => write_push(reply, &Push::Invalidate(Some(keys.clone()))),
        Push::Invalidate(keys) => {
            if reply.version >= 3 {
                reply.push(2);
                reply.bulk(b"invalidate");
            } else {
                reply.array(3);
                reply.bulk(b"message");
                reply.bulk(b"__redis__:invalidate");
            }
            match keys {
                Some(keys) => reply.bulks(keys.iter()),
                None => reply.null_array(),
            }
        }
    }
}
