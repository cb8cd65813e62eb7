//! Plain RDB from an owner, in place of what there is: all of it, or nothing.
//!
//! What comes is read into databases of their own, by another thread, while the server goes on. When all of it has come, its sum is right
//! and no snapshot is under way, they take the place of those there are, at once. Who sent it is answered when that is kept as the settings
//! promise.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, channel, sync_channel};

use super::{Error, rdb};
use crate::eviction::used_memory;
use crate::shared::Shared;
use crate::store::{Expiry, Store};
use crate::stored;
use crate::value::Limits;

/// Pieces that wait for the thread that reads them.
const PIECES: usize = 4;
/// What messages call it.
const NAME: &str = "the import";

/// What came of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys that are there now.
    pub keys: u64,
    /// Keys whose time was over.
    pub expired: u64,
    /// Libraries of functions that are there now.
    pub functions: u64,
    /// Where it is kept.
    pub kept: Kept,
}

/// Where an import is kept when it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// In memory alone: neither the log nor save points are on.
    #[default]
    Memory,
    /// In the log.
    Log,
    /// In a snapshot.
    Snapshot,
}

impl Kept {
    /// As the reply has it.
    pub fn word(self) -> &'static str {
        match self {
            Kept::Memory => "memory",
            Kept::Log => "log",
            Kept::Snapshot => "snapshot",
        }
    }
}

/// What who sends it is told.
#[derive(Debug)]
pub enum Answer {
    /// There is room for more.
    Taken,
    /// That was all.
    Done(Report),
    /// It failed: it is over.
    Failed(String),
}

/// How far it is.
enum Stage {
    /// Pieces come.
    Takes,
    /// All of them have; they are being read.
    Reads,
    /// It can take the place of what there is.
    Ready(Box<Loaded>),
    /// It has.
    Keeps(Report),
}

/// An import under way.
pub struct Import {
    /// Whose.
    pub session: u64,
    replace: bool,
    feed: Option<SyncSender<Vec<u8>>>,
    /// A piece that there is no room for yet.
    piece: Option<Vec<u8>>,
    loaded: Receiver<Result<Loaded, Error>>,
    stage: Stage,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Import").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What was read.
pub struct Loaded {
    /// The databases.
    pub store: Store,
    /// Libraries of functions.
    pub libraries: Vec<Vec<u8>>,
    report: Report,
}

impl Import {
    /// Begins one in this session's name. `replace`: what there is may be replaced; else it must be nothing.
    ///
    /// # Errors
    /// A sentence: that there is something; or no thread can be had.
    pub fn begin(store: &Store, shared: &Shared, session: u64, replace: bool) -> Result<Import, String> {
        if !replace {
            refuse_unless_empty(store)?;
        }
        let mut own = Store::new(store.databases());
        (own.now, own.clock) = (store.now, store.clock.clone());
        let (limits, most) = (shared.config.hot.limits, shared.config.hot.max_memory);
        let (feed, pieces) = sync_channel(PIECES);
        let (tell, loaded) = channel();
        let load = move || {
            // Who would be told may have gone.
            let _ = tell.send(load(own, &mut Pieces { pieces, piece: io::Cursor::default() }, &limits, most, NAME));
        };
        std::thread::Builder::new().name("import".to_owned()).stack_size(1 << 20).spawn(load).map_err(|error| error.to_string())?;
        Ok(Import { session, replace, feed: Some(feed), piece: None, loaded, stage: Stage::Takes })
    }

    /// The next piece.
    pub fn take(&mut self, piece: &[u8]) {
        self.piece = Some(piece.to_vec());
    }

    /// That was all.
    pub fn end(&mut self) {
        self.feed = None;
        self.stage = Stage::Reads;
    }

    /// Whether pieces still come.
    pub fn takes(&self) -> bool {
        matches!(self.stage, Stage::Takes)
    }

    /// Whether what there was is replaced already: then it goes on whoever goes.
    pub fn is_in_place(&self) -> bool {
        matches!(self.stage, Stage::Keeps(_))
    }

    /// Whether who sends it waits for an answer.
    pub fn is_owed(&self) -> bool {
        self.piece.is_some() || !self.takes()
    }
}

fn refuse_unless_empty(store: &Store) -> Result<(), String> {
    for database in 0..store.databases() {
        let (mut found, mut cursor) = (false, 0);
        loop {
            cursor = store.scan(database, cursor, 100, |_, _| found = true);
            if found {
                return Err(format!(
                    "there are keys in database {database} already: an import replaces everything, and only if it is told so"
                ));
            }
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Reads all of it into a store that nobody uses; `most` bytes may be in use then, 0: any. `name` is what errors call it.
///
/// # Errors
/// That it is no snapshot, is not whole, has what can't be here, or needs more memory.
pub(crate) fn load(mut store: Store, from: &mut dyn Read, limits: &Limits, most: usize, name: &str) -> Result<Loaded, Error> {
    let mut report = Report::default();
    let (_, libraries) = rdb::entries(from, name, |entry| {
        if most > 0 && used_memory() > most {
            return Err(Error::Memory);
        }
        let (database, there) = (entry.database, store.databases());
        if database >= there {
            return Err(Error::Databases { file: name.to_owned(), database, there });
        }
        if entry.expires.is_some_and(|expires| store.is_over(expires)) {
            report.expired += 1;
            return Ok(());
        }
        let value = stored::read(entry.value, limits).ok_or_else(|| Error::Value { file: name.to_owned(), database })?;
        store.set(database, &entry.key, value, entry.expires.map_or(Expiry::Never, Expiry::At));
        Ok(())
    })?;
    report.functions = libraries.len() as u64;
    report.keys = (0..store.databases()).map(|database| store.len(database) as u64).sum();
    Ok(Loaded { store, libraries, report })
}

/// What came, as something that can be read.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(into)? {
                0 if !into.is_empty() => match self.pieces.recv() {
                    Ok(piece) => self.piece = io::Cursor::new(piece),
                    // That was all: whether it is whole, the content says.
                    Err(_) => return Ok(0),
                },
                count => return Ok(count),
            }
        }
    }
}

/// Goes on with the import under way. What who sent it is to be told, if anything.
pub fn step(store: &mut Store, shared: &mut Shared) -> Option<(u64, Answer)> {
    let mut import = shared.import.take()?;
    let session = import.session;
    let answer = advance(&mut import, store, shared);
    if !matches!(answer, Some(Answer::Done(_) | Answer::Failed(_))) {
        shared.import = Some(import);
    }
    answer.map(|answer| (session, answer))
}

fn advance(import: &mut Import, store: &mut Store, shared: &mut Shared) -> Option<Answer> {
    if let (Some(feed), Some(piece)) = (&import.feed, import.piece.take()) {
        match feed.try_send(piece) {
            Ok(()) => return Some(Answer::Taken),
            Err(TrySendError::Full(piece)) => import.piece = Some(piece),
            // Its reader found something wrong, and says so.
            Err(TrySendError::Disconnected(_)) => import.end(),
        }
    }
    if let Stage::Reads = import.stage {
        match import.loaded.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => return Some(Answer::Failed("its reader ended without a word".to_owned())),
            Ok(Err(error)) => return Some(Answer::Failed(error.to_string())),
            Ok(Ok(loaded)) => import.stage = Stage::Ready(Box::new(loaded)),
        }
    }
    if let Stage::Ready(_) = import.stage {
        super::look(store, shared);
        // One that is under way is of what there was, and the log's base would be, too.
        if shared.saving.is_under_way() {
            return None;
        }
        if !import.replace
            && let Err(why) = refuse_unless_empty(store)
        {
            return Some(Answer::Failed(why));
        }
        let Stage::Ready(loaded) = std::mem::replace(&mut import.stage, Stage::Takes) else { return None };
        let Loaded { store: own, libraries, report } = *loaded;
        // Before anything is replaced: one that is none is found here.
        if let Err(error) = super::take_libraries(shared, &libraries, false, NAME) {
            return Some(Answer::Failed(error.to_string()));
        }
        match put_in_place(own, store, shared) {
            Ok(kept) => import.stage = Stage::Keeps(Report { kept, ..report }),
            Err(error) => return Some(Answer::Failed(not_kept(&error.to_string()))),
        }
    }
    let Stage::Keeps(report) = import.stage else { return None };
    super::look(store, shared);
    let (under_way, failed) = match report.kept {
        Kept::Memory => (false, None),
        Kept::Log => (shared.log.is_rewriting(), shared.log.rewrite_failed().or(shared.log.failed()).map(str::to_owned)),
        Kept::Snapshot => (shared.saving.is_under_way(), shared.saving.failed.as_ref().map(|(why, _)| why.clone())),
    };
    if under_way {
        return None;
    }
    Some(failed.map_or(Answer::Done(report), |why| Answer::Failed(not_kept(&why))))
}

fn not_kept(why: &str) -> String {
    format!("it is there, but not kept yet: {why}")
}

/// Puts other databases in the place of those there are, and begins to keep them. Where they will be.
///
/// # Errors
/// That nothing can be begun. They are there all the same; a log goes on with them as soon as it can.
pub(crate) fn put_in_place(own: Store, store: &mut Store, shared: &mut Shared) -> Result<Kept, Error> {
    super::gather(store, shared);
    let old = store.adopt(own);
    // What there was may take long to drop. If there is no thread for that, it takes long here.
    let _ = std::thread::Builder::new().name("import".to_owned()).stack_size(1 << 20).spawn(move || drop(old));
    // Nobody can follow that.
    shared.replication.restart();
    shared.cut_off_replicas();
    if shared.log.is_wanted() {
        shared.log.replaced("what there is was replaced, and is being put into the log: try again in a moment");
        super::rewrite(store, shared)?;
        return Ok(Kept::Log);
    }
    if !shared.config.hot.save.is_empty() && shared.storage.snapshot(&shared.config).is_ok() {
        super::begin_file(store, shared)?;
        return Ok(Kept::Snapshot);
    }
    Ok(Kept::Memory)
}
