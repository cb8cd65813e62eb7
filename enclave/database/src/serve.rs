//! The server's one thread: connections, their requests, their replies, and what is done in between.
//!
//! A turn of its loop: what can be read is read, every request that is complete is carried out, and all replies of a connection leave with
//! one write. Between turns the snapshot's walker takes small steps, and some of the keys whose time has come are dropped.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use crate::commands::server;
use crate::executor::Executor;
use crate::resp::{self, Reply};
use crate::session::Session;
use crate::store::Walked;

/// The listener's number among events.
const LISTENER: u64 = 0;
/// Bytes that are read from a connection at a time.
const READ: usize = 64 << 10;
/// Bytes that a request may have before it is complete.
const REQUEST_MAX: usize = 1 << 30;
/// Bytes of replies that a client may leave unread.
const UNREAD_MAX: usize = 256 << 20;
/// Longest wait for something to happen: what is done by time is done so often.
const TICK: Duration = Duration::from_millis(50);
/// For how long the walker and the dropping of keys may hold up requests in a turn.
const SLICE: Duration = Duration::from_millis(1);
/// Keys that expire and are looked at in a turn.
const EXPIRE: usize = 20;

struct Connection {
    stream: TcpStream,
    session: Session,
    /// Read, and not carried out yet.
    input: Vec<u8>,
    reply: Reply,
    /// Of the reply: what is sent already.
    sent: usize,
    /// Whether the kernel tells when there is room for more.
    full: bool,
    gone: bool,
}

/// A server that listens.
pub struct Server {
    executor: Executor,
    listener: TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    /// Where each database's search for keys whose time has come goes on.
    expire_cursors: Vec<u64>,
    saved: Instant,
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

impl Server {
    /// Serves this listener.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn new(mut executor: Executor, listener: TcpListener) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        executor.shared.port = listener.local_addr()?.port();
        let databases = executor.store.databases();
        Ok(Server {
            executor,
            listener,
            epoll,
            connections: HashMap::new(),
            next: LISTENER + 1,
            expire_cursors: vec![0; databases],
            saved: Instant::now(),
        })
    }

    /// Serves until SHUTDOWN.
    ///
    /// # Errors
    /// Those of epoll: nothing can be served any more.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        let mut busy = false;
        while !self.is_over() {
            let wait = if busy { Duration::ZERO } else { TICK };
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.executor.store.now = now_ms();
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    id => self.serve(id, event.flags),
                }
            }
            self.deliver();
            self.wake();
            busy = self.between();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let shared = &self.executor.shared;
        shared.shutdown && !shared.saving.is_under_way()
    }

    fn accept(&mut self) {
        // As many as there are; one that is gone again is nobody's concern.
        while let Ok((stream, address)) = self.listener.accept() {
            let id = self.next;
            self.next += 1;
            let set_up = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            let added = set_up.and_then(|()| Ok(epoll::add(&self.epoll, &stream, EventData::new_u64(id), EventFlags::IN)?));
            if added.is_err() {
                continue;
            }
            let session = Session {
                id,
                version: 2,
                authenticated: self.executor.shared.settings.password.is_empty(),
                address: address.to_string(),
                opened: self.executor.store.now,
                ..Session::default()
            };
            self.executor.shared.counters.connections += 1;
            self.executor.shared.clients += 1;
            let connection = Connection { stream, session, input: Vec::new(), reply: Reply::default(), sent: 0, full: false, gone: false };
            self.connections.insert(id, connection);
        }
    }

    /// Reads, carries out and answers, for one connection.
    fn serve(&mut self, id: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            connection.read();
            carry_out(&mut self.executor, connection);
        }
        self.finish(id);
    }

    /// Sends what there is, and takes leave of who is done.
    fn finish(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.send(&self.epoll, id);
        let waits = connection.session.waiting.is_some();
        let waiting = &mut self.executor.shared.waiting;
        if waits && !waiting.contains(&id) {
            waiting.push(id);
        }
        let sent = connection.reply.bytes.is_empty();
        if (connection.gone || connection.session.closing && sent)
            && let Some(mut connection) = self.connections.remove(&id)
        {
            self.executor.shared.waiting.retain(|waiting| *waiting != id);
            self.executor.forget(&mut connection.session);
            self.executor.shared.clients -= 1;
            // Closing takes it out of epoll.
        }
        self.executor.store.awaited = !self.executor.shared.waiting.is_empty();
    }

    /// Published messages go to who listens.
    fn deliver(&mut self) {
        let mut touched = Vec::new();
        for message in std::mem::take(&mut self.executor.shared.messages) {
            let Some(connection) = self.connections.get_mut(&message.session) else { continue };
            let reply = &mut connection.reply;
            match &message.pattern {
                Some(pattern) => {
                    reply.push(4);
                    reply.bulk(b"pmessage");
                    reply.bulk(pattern);
                }
                None => {
                    reply.push(3);
                    reply.bulk(b"message");
                }
            }
            reply.bulk(&message.channel);
            reply.bulk(&message.content);
            touched.push(message.session);
        }
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().for_each(|id| self.finish(id));
    }

    /// Whoever waits for a key that is there now goes on, the longest first; and whoever has waited long enough.
    fn wake(&mut self) {
        // Each command that goes on may fill what others wait for; it also ends its own wait, so this ends.
        for (id, by_error) in std::mem::take(&mut self.executor.shared.unblock) {
            self.give_up(id, by_error);
        }
        for _ in 0..=self.executor.shared.waiting.len() {
            let filled = self.executor.store.filled();
            let now = self.executor.store.now;
            let waiting = self.executor.shared.waiting.clone();
            let ready: Vec<u64> = waiting.into_iter().filter(|id| self.is_ready(*id, &filled, now)).collect();
            if ready.is_empty() {
                return;
            }
            for id in ready {
                self.resume(id);
            }
        }
    }

    fn is_ready(&mut self, id: u64, filled: &[(usize, Box<[u8]>)], now: i64) -> bool {
        let Some(waiting) = self.connections.get(&id).and_then(|connection| connection.session.waiting.as_ref()) else { return false };
        let store = &mut self.executor.store;
        // What was put there may be gone again, or be something else by now.
        let mut holds = |(database, key): &(usize, Box<[u8]>)| store.get(*database, key).is_some_and(|value| value.kind() == waiting.kind);
        waiting.until.is_some_and(|until| until <= now) || waiting.keys.iter().any(|key| filled.contains(key) && holds(key))
    }

    fn resume(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(waiting) = connection.session.waiting.clone() else { return };
        let args: Vec<&[u8]> = waiting.request.iter().map(|arg| &**arg).collect();
        let database = connection.session.database;
        self.executor.execute(&mut connection.session, &args, &mut connection.reply);
        connection.session.database = database;
        if connection.session.waiting.is_none() {
            self.go_on(id);
        } else if waiting.until.is_some_and(|until| until <= self.executor.store.now) {
            self.give_up(id, false);
        } else {
            self.finish(id);
        }
    }

    /// Ends a wait that came to nothing.
    fn give_up(&mut self, id: u64, by_error: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(waiting) = connection.session.waiting.take() else { return };
        let name = waiting.request.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        match name.as_slice() {
            _ if by_error => connection.reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            b"blmove" | b"brpoplpush" => connection.reply.null(),
            _ => connection.reply.null_array(),
        }
        self.go_on(id);
    }

    /// Carries out what came behind the command that waited.
    fn go_on(&mut self, id: u64) {
        self.executor.shared.waiting.retain(|waiting| *waiting != id);
        if let Some(connection) = self.connections.get_mut(&id) {
            carry_out(&mut self.executor, connection);
        }
        self.finish(id);
    }

    /// What is done between requests. Whether there is more of it to do at once.
    fn between(&mut self) -> bool {
        let begin = Instant::now();
        let Executor { store, shared } = &mut self.executor;
        let mut more = false;
        while begin.elapsed() < SLICE {
            match store.walk() {
                Walked::More => more = true,
                // Its end, or the writer's turn.
                Walked::Full | Walked::Done | Walked::Nothing => {
                    more = false;
                    break;
                }
            }
        }
        let was = shared.saving.is_under_way();
        shared.saving.look(store);
        if was && !shared.saving.is_under_way() && shared.shutdown && shared.saving.failed.is_some() {
            // What could not be saved is not thrown away.
            shared.shutdown = false;
        }
        for database in 0..store.databases() {
            while store.expiring(database) > 0 && begin.elapsed() < SLICE {
                let (dropped, seen) = store.expire_some(database, &mut self.expire_cursors[database], EXPIRE);
                // As Redis does: who finds that a quarter of them is late looks again.
                if dropped * 4 <= seen {
                    break;
                }
            }
        }
        self.save_when_due();
        more
    }

    /// The save points.
    fn save_when_due(&mut self) {
        let Executor { store, shared } = &mut self.executor;
        if shared.settings.save.is_empty() || shared.saving.is_under_way() {
            return;
        }
        let (changes, since) =
            (store.changes - shared.saving.changes, (store.now / 1000 - shared.saving.last.max(shared.started / 1000)).max(0));
        let due = shared.settings.save.iter().any(|(seconds, least)| changes >= *least && since >= *seconds as i64);
        // After a failure not at every turn.
        if due && (shared.saving.failed.is_none() || self.saved.elapsed() > Duration::from_secs(5)) {
            self.saved = Instant::now();
            let (mut session, mut reply) = (Session::default(), Reply::default());
            let mut context = crate::commands::Context { store, session: &mut session, shared, args: &[], reply: &mut reply };
            if let Err(error) = server::begin_snapshot(&mut context) {
                shared.saving.failed = Some(error.to_string());
            }
        }
    }
}

/// Carries out every request that is all there, until one waits.
fn carry_out(executor: &mut Executor, connection: &mut Connection) {
    let mut done = 0;
    while connection.session.waiting.is_none() && !connection.session.closing {
        let input = &connection.input[done..];
        match resp::request(input) {
            Ok(None) => break,
            Ok(Some((request, length))) => {
                connection.reply.version = connection.session.version;
                executor.execute(&mut connection.session, &request.arguments(input), &mut connection.reply);
                done += length;
            }
            Err(error) => {
                connection.reply.error(&format!("ERR {error}"));
                connection.session.closing = true;
            }
        }
    }
    connection.input.drain(..done);
    if connection.input.len() > REQUEST_MAX || connection.reply.bytes.len() > UNREAD_MAX {
        connection.gone = true;
    }
}

impl Connection {
    /// Takes what has come, up to a bound: the others have their turn, too.
    fn read(&mut self) {
        let begin = self.input.len();
        self.input.resize(begin + READ, 0);
        let read = match self.stream.read(&mut self.input[begin..]) {
            Ok(0) => {
                self.gone = true;
                0
            }
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.gone = true;
                0
            }
        };
        self.input.truncate(begin + read);
    }

    /// Sends as much of the replies as the kernel takes.
    fn send(&mut self, epoll: &OwnedFd, id: u64) {
        while self.sent < self.reply.bytes.len() {
            match self.stream.write(&self.reply.bytes[self.sent..]) {
                Ok(0) => self.gone = true,
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.gone = true,
            }
            if self.gone {
                return;
            }
        }
        if self.sent == self.reply.bytes.len() {
            self.reply.bytes.clear();
            self.reply.bytes.shrink_to(1 << 20);
            self.sent = 0;
        }
        let full = self.sent < self.reply.bytes.len();
        if full != self.full {
            // Who does not read is not read from either.
            let flags = if full { EventFlags::OUT } else { EventFlags::IN };
            self.gone |= epoll::modify(epoll, &self.stream, EventData::new_u64(id), flags).is_err();
            self.full = full;
        }
    }
}
