//! Carrying out a log again, at the start.

use std::io::{self, Read};

use teemate_sealed::Content;

use super::effects::is_logged;
use super::log::{FIRST, LAST};
use super::rdb;
use crate::commands::{self, Context};
use crate::config::Config;
use crate::number;
use crate::resp::{self, Reply};
use crate::session::Session;
use crate::shared::Shared;
use crate::store::Store;

/// Carries out what the log has, on a store that must be `replaying`.
pub struct Replay<'a> {
    store: &'a mut Store,
    /// Of nobody: only for what commands want to look at.
    shared: Box<Shared>,
    session: Session,
    reply: Reply,
    /// Pieces of the unit so far. It counts when it is whole.
    unit: Vec<u8>,
    records: u64,
    /// Bytes of everything.
    pub bytes: u64,
    /// Bytes of the base.
    pub base: u64,
}

impl<'a> Replay<'a> {
    /// Into this store, by these settings.
    pub fn new(store: &'a mut Store, config: &Config) -> Replay<'a> {
        let mut session = Session::new(0, 0, store.now);
        // Then nothing waits.
        session.executing = true;
        let shared = Box::new(Shared::new(config.clone(), store.now));
        Replay { store, shared, session, reply: Reply::default(), unit: Vec::new(), records: 0, bytes: 0, base: 0 }
    }

    /// The libraries of functions that there are by now.
    pub fn libraries(&self) -> Vec<Vec<u8>> {
        self.shared.libraries()
    }

    fn carry_out(&mut self, args: &[&[u8]]) -> Result<(), String> {
        // Neither names nor values: what is said here is the host's to read.
        let wrong = |what: &str| format!("the command in record {} {what}", self.records);
        let name = args.first().copied().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"select") {
            let number = args.get(1).and_then(|number| number::integer(number)).and_then(|number| usize::try_from(number).ok());
            let there = self.store.databases();
            let number = number.filter(|number| *number < there);
            self.session.database = number.ok_or_else(|| wrong(&format!("is for a database beyond the {there} that there are")))?;
            return Ok(());
        }
        let command = commands::find(name).ok_or_else(|| wrong("is not known"))?;
        if !command.fits(args.len()) || !is_logged(command) {
            return Err(wrong("is none that changes anything"));
        }
        self.reply.bytes.clear();
        let (store, shared, session) = (&mut *self.store, &mut *self.shared, &mut self.session);
        let result = (command.run)(&mut Context { store, shared, session, args, reply: &mut self.reply });
        self.shared.messages.clear();
        result.map_err(|error| wrong(&format!("was refused ({})", error.to_string().split(' ').next().unwrap_or_default())))
    }
}

impl Content for Replay<'_> {
    fn base(&mut self, base: &mut dyn Read) -> Result<(), String> {
        let mut counted = Counted(base, 0);
        let result = rdb::read(self.store, &mut counted, "the log's base");
        self.base = counted.1;
        self.bytes = self.base;
        let (_, _, libraries) = result.map_err(|error| error.to_string())?;
        self.shared.set_libraries(&libraries, false)
    }

    fn record(&mut self, record: &[u8]) -> Result<(), String> {
        self.records += 1;
        let number = self.records;
        let damaged = || format!("record {number} is none");
        let (flags, piece) = record.split_first().ok_or_else(damaged)?;
        if flags & FIRST != 0 {
            // Of one that was not whole when a crash came, nothing counts.
            self.unit.clear();
        }
        self.unit.extend_from_slice(piece);
        if flags & LAST == 0 {
            return Ok(());
        }
        let unit = std::mem::take(&mut self.unit);
        self.bytes += unit.len() as u64;
        let mut at = 0;
        while at < unit.len() {
            let Ok(Some((request, length))) = resp::request(&unit[at..]) else { return Err(damaged()) };
            self.carry_out(&request.arguments(&unit[at..at + length]))?;
            at += length;
        }
        Ok(())
    }
}

struct Counted<'a>(&'a mut dyn Read, u64);

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(into)?;
        self.1 += count as u64;
        Ok(count)
    }
}

/// Reads a log without carrying it out: for who wants to know only where it ends.
pub struct Skim;

impl Content for Skim {
    fn base(&mut self, base: &mut dyn Read) -> Result<(), String> {
        io::copy(base, &mut io::sink()).map(drop).map_err(|error| error.to_string())
    }

    fn record(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}
