//! What outlives the process: snapshots, and the log of everything since.
//!
//! | module | what |
//! |---|---|
//! | [`disk`] | where things are kept, and in which form |
//! | [`rdb`] | a snapshot's content |
//! | [`saving`] | the snapshot under way |
//! | [`log`] | the append-only log |
//! | [`guard`] | what keeps an old state from being taken for the newest |
//! | [`effects`] | what of a command goes into it |
//! | [`replay`] | carrying out a log again |
//! | [`import`] | plain RDB from an owner, in place of what there is |
//!
//! What each promises: `docs/storage.md`.

pub mod disk;
pub mod effects;
pub mod guard;
mod helper;
pub mod import;
pub mod log;
pub mod rdb;
pub mod replay;
pub mod saving;

use std::io;
use std::time::Duration;

use teemate_sealed::{Content, Known, Remembered, Version};

use crate::replication::SPOOLS;
use crate::runner::Thread;
use crate::shared::Shared;
use crate::store::{Store, Walked};
use disk::Witness;
use guard::Guard;
use log::AppendLog;
use rdb::Notes;
use replay::{Replay, Skim};
use saving::{Ended, Target};

/// Why something was not kept, or not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{file} can't be {what}: {source}")]
    File {
        /// Which.
        file: String,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A sealed one.
    #[error(transparent)]
    Sealed(#[from] teemate_sealed::Error),
    /// The server gave it up.
    #[error("the snapshot was given up: {0}")]
    Aborted(String),
    /// Its content.
    #[error("{file}: {source}")]
    Content {
        /// Which file.
        file: String,
        /// What is wrong.
        source: teemate_rdb::Error,
    },
    /// Functions.
    #[error("{file}: a library of functions can't be loaded: {why}")]
    Libraries {
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// More than a snapshot.
    #[error("{0}: something follows after the snapshot's end")]
    Rest(String),
    /// A plain file where a sealed one must be.
    #[error("{0} is plain RDB, which anybody can have written: import it, or say that plain files are to be used")]
    Plain(String),
    /// It is for more databases than there are.
    #[error("{file} has keys for database {database}; this server has {there}")]
    Databases {
        /// Which file.
        file: String,
        /// The number.
        database: usize,
        /// How many there are.
        there: usize,
    },
    /// No thread.
    #[error("no thread can be started for the snapshot: {0}")]
    Thread(io::Error),
    /// No container.
    #[error("the snapshot has no container: {0}")]
    NotRun(String),
    /// Nothing says how to keep things.
    #[error("nothing can be kept: there is no sealing key, and plain files were not asked for")]
    Nowhere,
    /// The log is always sealed.
    #[error("the append-only log needs a sealing key, and there is none")]
    NoKey,
    /// The log is off.
    #[error("the append-only log is off")]
    Off,
    /// A torn end, where that was not to be accepted.
    #[error("{0}; aof-load-truncated is `no`, so it is not accepted")]
    Torn(String),
    /// Memory.
    #[error("OOM the import needs more memory than 'maxmemory' allows, beside what there is")]
    Memory,
    /// A value that is none.
    #[error("{file}: the value of a key in database {database} contradicts itself")]
    Value {
        /// Which file.
        file: String,
        /// Where.
        database: usize,
    },
    /// Whoever remembers can't be asked.
    #[error("{0}. The database does not begin without it: nobody could tell whether what is on disk is the newest")]
    Unwitnessed(String),
    /// Something is older than what is remembered.
    #[error(
        "{why}: an old state was put back, or the newest was taken away. Put back the newest; if this is a backup that you mean, {accept}"
    )]
    RolledBack {
        /// What shows it.
        why: String,
        /// How the owner says that he means it.
        accept: String,
    },
    /// A log that stands still.
    #[error("the log takes nothing more: {0}")]
    Log(String),
}

fn failed(file: &str, what: &'static str) -> impl Fn(io::Error) -> Error {
    let file = file.to_owned();
    move |source| match source.downcast::<teemate_sealed::Error>() {
        // What a sealed file's reader has to say comes as it is.
        Ok(error) => Error::Sealed(error),
        Err(source) => Error::File { file: file.clone(), what, source },
    }
}

/// What there was at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Keys that were read.
    pub keys: u64,
    /// From where; `None`: there was nothing.
    pub from: Option<String>,
    /// The log's torn end, in a sentence.
    pub torn: Option<String>,
}

/// Reads what there is, before anybody is served: the log if it is on, else the snapshot. A log that is on and that there is not yet begins with
/// the snapshot; so does one that a snapshot goes beyond.
///
/// # Errors
/// That it can't be read, was changed or was rolled back: nothing of it is to be served.
pub fn start(store: &mut Store, shared: &mut Shared) -> Result<Started, Error> {
    let settings = shared.settings.as_ref().map_or(Version::default(), |settings| settings.version());
    let (notes, log) = (peek(shared), AppendLog::look(&shared.storage, &shared.config));
    let above = settings.epoch.max(notes.version.epoch).max(log.map_or(0, |log| log.epoch));
    shared.guard = Guard::open(&shared.storage, settings, above)?;
    shared.guard.found_snapshot(notes.version, &shared.storage)?;
    let mut started = Started::default();
    let is_on = shared.config.is_on("appendonly");
    if is_on {
        let passed = match &notes.beyond {
            Some(beyond) => {
                open_log(shared, &mut Skim)?;
                shared.log.is_within(beyond)
            }
            None => false,
        };
        if !passed {
            replay(store, shared)?;
        }
        started.torn = shared.log.torn();
        if let Some(torn) = started.torn.as_ref().filter(|_| !passed && !shared.config.is_on("aof-load-truncated")) {
            return Err(Error::Torn(torn.clone()));
        }
        if !passed && !shared.log.is_new() {
            started.keys = (0..store.databases()).map(|database| store.len(database) as u64).sum();
            started.from = Some(shared.config.get("appendfilename").to_owned());
        }
    } else {
        shared.log.leave(log);
    }
    if started.from.is_none()
        && let Ok(place) = shared.storage.snapshot(&shared.config)
        && let Some(file) = place.open()?
    {
        let (keys, read, libraries) = rdb::read(store, file, place.name())?;
        // It may have been exchanged since its beginning was looked at.
        shared.guard.found_snapshot(read.version, &shared.storage)?;
        take_libraries(shared, &libraries, false, place.name())?;
        (started.keys, started.from) = (keys, Some(place.name().to_owned()));
        if is_on {
            // Until this is its base, there is no log on disk that could be taken for all there is.
            rewrite(store, shared)?;
            finish(store, shared);
            if let Some(why) = shared.log.rewrite_failed() {
                return Err(Error::Aborted(why.to_owned()));
            }
        }
    }
    shared.saving.changes = store.changes;
    store.filled();
    store.logs = shared.takes_effects();
    shared.guard.log_is(shared.log.on_disk());
    // What a crash left of snapshots for replicas: nobody gets them any more.
    (0..SPOOLS).filter_map(|number| shared.storage.spool(&shared.config, number).ok()).for_each(|place| drop(place.remove()));
    Ok(started)
}

/// What is noted in the snapshot. One that can't be read says nothing; where it is used, that shows.
fn peek(shared: &Shared) -> Notes {
    let place = shared.storage.snapshot(&shared.config).ok();
    let file = place.as_ref().and_then(|place| Some((place.open().ok()??, place.name())));
    file.and_then(|(file, name)| rdb::notes(file, name).ok()).unwrap_or_default()
}

fn open_log(shared: &mut Shared, content: &mut dyn Content) -> Result<(), Error> {
    let opened = shared.log.open(&shared.storage, &shared.config, shared.guard.known_log(), content);
    opened.map_err(|error| shared.guard.explain(error, &shared.storage))
}

fn replay(store: &mut Store, shared: &mut Shared) -> Result<(), Error> {
    store.replaying = true;
    let mut replay = Replay::new(store, &shared.config);
    let opened = open_log(shared, &mut replay);
    let (read, base, libraries) = (replay.bytes, replay.base, replay.libraries());
    store.replaying = false;
    opened?;
    take_libraries(shared, &libraries, false, "the log")?;
    shared.log.continues(read, base);
    Ok(())
}

/// Takes the libraries of functions that a file had, in place of those that there are; `merge`: of those with the same names.
///
/// # Errors
/// That one of them is none.
pub(crate) fn take_libraries(shared: &mut Shared, libraries: &[Vec<u8>], merge: bool, file: &str) -> Result<(), Error> {
    shared.set_libraries(libraries, merge).map_err(|why| Error::Libraries { file: file.to_owned(), why })
}

/// What commands did, and keys that went by themselves, is put together for the log and for replicas.
pub fn gather(store: &mut Store, shared: &mut Shared) {
    shared.drop_keys(&mut store.dropped);
    shared.end_unit();
    store.logs = shared.takes_effects();
}

/// What commands did goes into the log, and as far as the policies say, to the disk and to the witness. Whether who asked for it may be
/// told.
pub fn commit(store: &mut Store, shared: &mut Shared) -> bool {
    gather(store, shared);
    let owed = shared.log.is_owed();
    shared.log.commit(shared.config.hot.sync) && is_covered(shared, owed)
}

/// The same for what came before a script that is being carried out.
pub fn commit_before(shared: &mut Shared) -> bool {
    let owed = shared.log.is_owed();
    shared.log.commit_before(shared.config.hot.sync) && is_covered(shared, owed)
}

/// Tells the witness of the log, if it is to know before anybody is answered. Whether those to whom something is `owed` may be.
fn is_covered(shared: &mut Shared, owed: bool) -> bool {
    shared.guard.log_is(shared.log.on_disk());
    let hot = &shared.config.hot;
    !hot.witness_always || shared.guard.cover() || !owed || !hot.witness_refuses
}

/// Goes on with what is under way, and begins what is due.
pub fn upkeep(store: &mut Store, shared: &mut Shared) {
    look(store, shared);
    if !shared.saving.is_under_way() {
        begin_due(store, shared);
    }
    shared.log.tick(shared.config.hot.sync);
    shared.guard.log_is(shared.log.on_disk());
    shared.guard.tick();
}

/// Looks whether the snapshot under way has ended, and goes on with what waits for it.
pub fn look(store: &mut Store, shared: &mut Shared) {
    match shared.saving.look(store) {
        Some(Ended::Base(result)) => shared.log.end_rewrite(result, store.now),
        Some(Ended::Replicas(result)) => shared.replication.saved(result),
        Some(Ended::File(Some(version))) => shared.guard.snapshot_is(version),
        Some(Ended::File(None)) | None => {}
    }
}

fn begin_due(store: &mut Store, shared: &mut Shared) {
    let (saving, hot) = (&shared.saving, &shared.config.hot);
    let changes = store.changes.saturating_sub(saving.changes);
    let since = store.now / 1000 - saving.last;
    let due = hot.save.iter().any(|(seconds, least)| changes >= *least && since >= *seconds as i64);
    // After a failure it is tried again a little later only.
    let may = saving.failed.as_ref().is_none_or(|(_, at)| store.now - at > 5000);
    if due && may || shared.save_again {
        shared.save_again = false;
        if let Err(error) = begin_file(store, shared) {
            shared.saving.fail(error.to_string(), store.now);
        }
        return;
    }
    let (percentage, least) = (shared.config.number("auto-aof-rewrite-percentage"), shared.config.number("auto-aof-rewrite-min-size"));
    if shared.log.wants_rewrite(percentage, least, store.now) {
        // What comes of it is noted there.
        let _ = rewrite(store, shared);
    }
}

fn limit(shared: &Shared) -> usize {
    usize::try_from(shared.config.number("snapshot-buffer")).unwrap_or(usize::MAX)
}

/// Begins a snapshot in a file. False: one is under way.
///
/// # Errors
/// That it can't begin.
pub fn begin_file(store: &mut Store, shared: &mut Shared) -> Result<bool, Error> {
    let (place, limit) = (shared.storage.snapshot(&shared.config)?, limit(shared));
    let notes = Notes { version: shared.guard.next_snapshot(), beyond: shared.log.has_less() };
    let libraries = shared.libraries();
    shared.saving.begin(store, libraries, Target::File(place, notes), limit)
}

/// Begins a snapshot for replicas that wait for one: not within a transaction or a script, for the same reason as a rewrite. False: one is
/// under way, or all files are in use.
///
/// # Errors
/// That it can't begin.
pub fn begin_for_replicas(store: &mut Store, shared: &mut Shared) -> Result<bool, Error> {
    if shared.saving.is_under_way() {
        return Ok(false);
    }
    let Some(number) = shared.replication.take_spool() else { return Ok(false) };
    gather(store, shared);
    let (place, limit) = (shared.storage.spool(&shared.config, number)?, limit(shared));
    let libraries = shared.libraries();
    shared.saving.begin(store, libraries, Target::Replicas(place), limit)
}

/// Begins a rewrite of the log: not within a transaction or a script, for what those did so far is in the snapshot, and would come again.
///
/// # Errors
/// That it can't begin.
pub fn rewrite(store: &mut Store, shared: &mut Shared) -> Result<(), Error> {
    if !shared.log.is_wanted() {
        return Err(Error::Off);
    }
    if shared.saving.is_under_way() {
        return Err(Error::Aborted("another one is under way".to_owned()));
    }
    let begun = begin_base(store, shared);
    if let Err(error) = &begun {
        shared.log.end_rewrite(Err(error.to_string()), store.now);
    }
    begun
}

fn begin_base(store: &mut Store, shared: &mut Shared) -> Result<(), Error> {
    gather(store, shared);
    let base = shared.log.begin_rewrite()?;
    store.logs = shared.takes_effects();
    let limit = limit(shared);
    let libraries = shared.libraries();
    shared.saving.begin(store, libraries, Target::Base(Box::new(base)), limit).map(drop)
}

/// Waits until the snapshot under way, if there is one, has ended.
pub fn finish(store: &mut Store, shared: &mut Shared) {
    while shared.saving.is_under_way() {
        if matches!(store.walk(), Walked::Nothing | Walked::Full | Walked::Done) {
            std::thread::sleep(Duration::from_micros(200));
        }
        look(store, shared);
    }
}

/// Writes a snapshot in a file, and waits for it.
///
/// # Errors
/// A sentence.
pub fn save(store: &mut Store, shared: &mut Shared) -> Result<(), String> {
    finish(store, shared);
    begin_file(store, shared).map_err(|error| {
        shared.saving.fail(error.to_string(), store.now);
        error.to_string()
    })?;
    finish(store, shared);
    match &shared.saving.failed {
        None => Ok(()),
        Some((why, _)) => Err(why.clone()),
    }
}

/// Puts everything on disk, by a thread of this process, whatever runs the writers of other snapshots: in the log if it is on and whole, else
/// in a file.
///
/// # Errors
/// A sentence.
pub fn close(store: &mut Store, shared: &mut Shared) -> Result<(), String> {
    if shared.protected && !shared.guard.has_settings() {
        // It never had an owner, so nobody has written anything; and under its name, which is not kept, nothing would be found.
        return Ok(());
    }
    finish(store, shared);
    let runner = std::mem::replace(&mut shared.saving.runner, Box::new(Thread));
    let closed = match shared.log.is_wanted() && shared.log.failed().is_none() {
        true => close_log(store, shared),
        false => save(store, shared),
    };
    shared.saving.runner = runner;
    closed
}

fn close_log(store: &mut Store, shared: &mut Shared) -> Result<(), String> {
    if !shared.log.takes() {
        // Its first base has not begun, or came to nothing: the next start would find none, or one of an earlier time.
        rewrite(store, shared).map_err(|error| error.to_string())?;
        finish(store, shared);
        if let Some(why) = shared.log.rewrite_failed() {
            return Err(why.to_owned());
        }
    }
    shared.log.end_unit();
    shared.log.sync().map_err(|error| error.to_string())
}

/// CONFIG SET appendonly. Turned on, the log counts when its first rewrite has ended: until then it is as if it were off.
///
/// # Errors
/// That there can be none, or that the one there is was changed or rolled back.
pub fn set_append_only(shared: &mut Shared, on: bool) -> Result<(), Error> {
    if on == shared.log.is_wanted() {
        return Ok(());
    }
    if on {
        open_log(shared, &mut Skim)?;
        shared.log.wait_for_base();
    } else {
        let head = shared.log.close();
        shared.guard.log_is(head);
    }
    Ok(())
}

/// A witness that was asked, and does not count yet.
pub struct Met {
    witness: Option<Witness>,
    opened: Option<Remembered>,
}

/// CONFIG SET witness: the settings name another one, or none. It is asked before they are kept.
///
/// # Errors
/// A sentence: there is no such witness, or it does not answer.
pub fn meet_witness(shared: &Shared) -> Result<Met, String> {
    let (address, roots) = (shared.config.get("witness"), shared.config.get("witness-ca"));
    if address.is_empty() {
        return Ok(Met { witness: None, opened: None });
    }
    let reach = shared.reach.as_ref().ok_or("this server has no way to a witness: it is in no enclave")?;
    let witness = reach.reach(address, roots, true)?;
    let opened = guard::meet(&witness, shared.guard.epoch().max(shared.log.epoch())).map_err(|error| error.to_string())?;
    Ok(Met { witness: Some(witness), opened: Some(opened) })
}

/// The settings that name it are kept: it has the say from now on. Everything that it is told of is made anew, so that nothing that was
/// made before can be taken for it.
///
/// # Errors
/// That the settings can't be kept once more.
pub fn change_witness(shared: &mut Shared, met: Met) -> Result<(), crate::error::Error> {
    let is_met = met.witness.is_some();
    if is_met && !shared.log.is_wanted() {
        // One that lies there, turned off, is the one that may be turned on again: how far it has come is to be known.
        let mut left = AppendLog::default();
        if left.open(&shared.storage, &shared.config, Known::default(), &mut Skim).is_ok() {
            shared.guard.log_is(left.on_disk());
        }
    }
    shared.guard.change(met.witness.clone(), met.opened);
    shared.storage.witness = met.witness;
    shared.log.set_epoch(shared.guard.epoch());
    if is_met {
        shared.save_again |= shared.guard.has_snapshot();
        crate::settings::keep(shared)?;
    }
    Ok(())
}

/// The server ends: the log is closed, and the witness knows the last of it.
pub fn end(shared: &mut Shared) {
    let head = shared.log.close();
    shared.guard.log_is(head);
    shared.guard.end();
}

/// Why writes are refused, in Redis's words, if they are.
pub fn refuses_writes(shared: &Shared) -> Option<String> {
    if let Some(why) = shared.log.failed() {
        return Some(format!("MISCONF Errors writing to the AOF file: {why}"));
    }
    if let Some(why) = shared.guard.away().filter(|_| shared.config.hot.witness_refuses) {
        return Some(format!("MISCONF The witness can't be told how far the database has come, and witness-away is `refuse`: {why}"));
    }
    let failed = shared.saving.failed.is_some() && !shared.config.hot.save.is_empty();
    (failed && shared.config.is_on("stop-writes-on-bgsave-error")).then(|| {
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.".to_owned()
    })
}
