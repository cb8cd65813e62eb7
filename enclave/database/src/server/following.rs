//! Being a replica: what the server that is followed did is done here, too.

use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use super::{SLICE, Server};
use crate::commands::{self, Context};
use crate::dispatch;
use crate::number;
use crate::persistence;
use crate::replication::link::{Event, State};
use crate::resp::{self, Reply};
use crate::session::Session;

/// How soon to look for more, while something came within the last second, and after that.
const BUSY: Duration = Duration::from_millis(1);
const QUIET: Duration = Duration::from_millis(10);
/// The session of the server that is followed. Connections have other numbers.
const FOLLOWED: u64 = u64::MAX;

/// The server that is followed, as somebody who sends commands.
pub(super) struct Followed {
    session: Session,
    /// Requests since MULTI.
    transaction: Option<Vec<Vec<u8>>>,
    /// What came and does not count yet.
    held: Vec<u8>,
}

impl Followed {
    pub(super) fn new() -> Followed {
        let mut session = Session::new(FOLLOWED, 0, 0);
        // Then nothing waits.
        session.executing = true;
        Followed { session, transaction: None, held: Vec::new() }
    }
}

impl Server {
    /// Carries out what came from the server that is followed, for a short time. How soon there may be more.
    pub(super) fn follow(&mut self) -> Option<Duration> {
        let began = Instant::now();
        self.shared.replication.link.as_ref()?;
        loop {
            let event = self.shared.replication.link.as_ref()?.events.try_recv();
            let event = match event {
                Ok(event) => event,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => Event::Broken("its thread has ended".to_owned()),
            };
            self.happened(event);
            if began.elapsed() >= SLICE {
                return Some(Duration::ZERO);
            }
        }
        let heard = self.shared.replication.link.as_ref()?.heard;
        Some(if self.store.now - heard < 1000 { BUSY } else { QUIET })
    }

    fn happened(&mut self, event: Event) {
        let now = self.store.now;
        let Some(link) = &mut self.shared.replication.link else { return };
        link.heard = now;
        match event {
            Event::Full => link.state = State::Loading,
            Event::Loaded(loaded, id, offset) => {
                link.rest.clear();
                self.followed = Followed::new();
                if let Err(error) = persistence::take_libraries(&mut self.shared, &loaded.libraries, false, "the snapshot that came") {
                    eprintln!("teemate-database: {error}");
                }
                if let Err(error) = persistence::import::put_in_place(loaded.store, &mut self.store, &mut self.shared) {
                    eprintln!("teemate-database: what came from the server that is followed is not kept yet: {error}");
                }
                self.shared.replication.stream.become_one(id, offset);
                self.up();
            }
            Event::Continues(id) => {
                self.shared.replication.stream.rename(id);
                self.up();
            }
            Event::Bytes(bytes) => {
                link.rest.extend(bytes);
                self.carry_out();
            }
            Event::Broken(why) => {
                if link.state != State::Connecting {
                    eprintln!("teemate-database: {}:{} is not followed any more: {why}", link.host, link.port);
                    (link.state, link.down_since) = (State::Connecting, now);
                }
                link.why = Some(why);
            }
        }
    }

    fn up(&mut self) {
        if let Some(link) = &mut self.shared.replication.link {
            (link.state, link.why) = (State::Up, None);
            link.applied(self.shared.replication.stream.end());
        }
    }

    /// Carries out the whole commands among what came.
    fn carry_out(&mut self) {
        let Some(link) = &mut self.shared.replication.link else { return };
        let bytes = std::mem::take(&mut link.rest);
        let mut at = 0;
        // As for a log that is carried out: what went by itself the other end says.
        self.store.replaying = true;
        loop {
            match resp::request(&bytes[at..]) {
                Ok(Some((request, length))) => {
                    let raw = &bytes[at..at + length];
                    self.one(&request.arguments(raw), raw);
                    self.followed.held.extend_from_slice(raw);
                    if self.followed.transaction.is_none() {
                        // Half a transaction is none yet: who goes on elsewhere goes on before it.
                        self.shared.replication.stream.push(&self.followed.held);
                        self.followed.held.clear();
                    }
                    at += length;
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("teemate-database: what comes from the server that is followed is no command: {error}");
                    // It begins anew, with a snapshot.
                    self.store.replaying = false;
                    return commands::follow_anew(&mut self.store, &mut self.shared);
                }
            }
        }
        self.store.replaying = false;
        let end = self.shared.replication.stream.end();
        if let Some(link) = &mut self.shared.replication.link {
            link.rest = bytes[at..].to_vec();
            link.applied(end);
        }
        if self.store.has_filled() || !self.shared.messages.is_empty() {
            self.connections().after();
        }
    }

    fn one(&mut self, args: &[&[u8]], raw: &[u8]) {
        let name = args.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        match (name.as_slice(), &mut self.followed.transaction) {
            (b"ping" | b"", _) => {}
            (b"replconf", _) => {
                if let Some(link) =
                    self.shared.replication.link.as_ref().filter(|_| args.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"getack")))
                {
                    link.ask();
                }
            }
            (b"multi", transaction) => *transaction = Some(Vec::new()),
            (b"exec", transaction) => {
                let requests = transaction.take().unwrap_or_default();
                // One unit of the log.
                self.shared.depth += 1;
                for raw in requests {
                    if let Ok(Some((request, _))) = resp::request(&raw) {
                        self.command(&request.arguments(&raw));
                    }
                }
                self.shared.depth -= 1;
                self.shared.end_unit();
            }
            (_, Some(requests)) => requests.push(raw.to_vec()),
            (_, None) => self.command(args),
        }
    }

    fn command(&mut self, args: &[&[u8]]) {
        if args[0].eq_ignore_ascii_case(b"select") {
            let number = args.get(1).and_then(|number| number::integer(number)).and_then(|number| usize::try_from(number).ok());
            match number.filter(|number| *number < self.store.databases()) {
                Some(number) => self.followed.session.database = number,
                None => {
                    eprintln!("teemate-database: the server that is followed has more databases than the {} here", self.store.databases())
                }
            }
            return;
        }
        let Some(command) = commands::find(args[0]).filter(|command| command.fits(args.len())) else {
            eprintln!("teemate-database: a command of the server that is followed is not known here");
            return;
        };
        let mut reply = Reply::default();
        let (store, shared, session) = (&mut self.store, &mut self.shared, &mut self.followed.session);
        dispatch::call(&mut Context { store, session, shared, args, reply: &mut reply }, command);
        session.waiting = None;
    }
}
