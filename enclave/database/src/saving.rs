//! Writing snapshots, and reading one at the start.
//!
//! The writer is a thread or a container ([`crate::place`]) that takes entries from the snapshot's queue. It writes beside the old file, and puts the new one in its place when
//! it is complete and on disk: whatever ends it early, the old file stays.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use teemate_rdb::{Reader, Writer};

use crate::config::Config;
use crate::place::{Job, Place, Thread};
use crate::snapshot::{End, Queue};
use crate::store::{Expiry, Store, Walked};
use crate::stored;
use crate::value::Limits;

/// Why a snapshot was not written, or not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{} can't be {what}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server gave it up.
    #[error("the snapshot was given up: {0}")]
    Aborted(String),
    /// Its content.
    #[error("{}: {source}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: teemate_rdb::Error,
    },
    /// It is for more databases than there are.
    #[error("{} has keys for database {database}; this server has {there}", path.display())]
    Databases {
        /// Which file.
        path: PathBuf,
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
    NoPlace(String),
}

/// The state of snapshots.
#[derive(Debug)]
pub struct Saving {
    /// Where the writer runs.
    pub place: Box<dyn Place>,
    under_way: Option<UnderWay>,
    /// Seconds since 1970 of the last good one.
    pub last: i64,
    /// Whether the last one that ended was good, and why not.
    pub failed: Option<String>,
    /// The store's count of changes as of the last good one, or as of what was read at the start.
    pub changes: u64,
    /// Microseconds that the last start took: everything that the server did at once for it.
    pub start_us: u64,
    /// Milliseconds from its start to its end.
    pub took_ms: u64,
    /// Bytes that writes handed over to it.
    pub handed: usize,
    /// Good ones since the start.
    pub saves: u64,
}

impl Default for Saving {
    fn default() -> Self {
        Saving {
            place: Box::new(Thread),
            under_way: None,
            last: 0,
            failed: None,
            changes: 0,
            start_us: 0,
            took_ms: 0,
            handed: 0,
            saves: 0,
        }
    }
}

#[derive(Debug)]
struct UnderWay {
    done: Receiver<Result<u64, Error>>,
    began: Instant,
    changes: u64,
}

/// Where the settings say that the snapshot is.
pub fn path(config: &Config) -> PathBuf {
    Path::new(config.get("dir")).join(config.get("dbfilename"))
}

impl Saving {
    /// Waits until the snapshot under way, if there is one, has ended.
    pub fn finish(&mut self, store: &mut Store) {
        while self.is_under_way() {
            if matches!(store.walk(), Walked::Nothing | Walked::Full | Walked::Done) {
                std::thread::sleep(Duration::from_micros(200));
            }
            self.look(store);
        }
    }

    /// Whether one is being written.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins a snapshot, which a thread writes to this file.
    ///
    /// # Errors
    /// When one is under way already (`None` of the store), or no thread can be had.
    pub fn begin(&mut self, store: &mut Store, path: PathBuf, limit: usize) -> Result<bool, Error> {
        if self.is_under_way() {
            return Ok(false);
        }
        let began = Instant::now();
        let Some(queue) = store.begin_snapshot(limit) else { return Ok(false) };
        self.start_us = began.elapsed().as_micros() as u64;
        let (tell, done) = channel();
        let (tell_lost, lost, taken) = (tell.clone(), queue.clone(), queue.clone());
        let started = self.place.start(Job {
            run: Box::new(move || {
                // Whatever ends this thread, nothing is kept for it any more.
                let result = write(&queue, &path);
                queue.desert();
                // Who would be told may have gone.
                let _ = tell.send(result);
            }),
            lost: Box::new(move |why| {
                lost.desert();
                let _ = tell_lost.send(Err(Error::NoPlace(why)));
            }),
        });
        if let Err(error) = started {
            taken.desert();
            store.abort_snapshot("there is no thread for it");
            return Err(Error::Thread(error));
        }
        self.handed = 0;
        self.under_way = Some(UnderWay { done, began, changes: store.changes });
        Ok(true)
    }

    /// Writes a snapshot with a thread of this process, whatever the place of others is, and waits for it.
    ///
    /// # Errors
    /// As [`Saving::begin`], and those of the writer.
    pub fn save_here(&mut self, store: &mut Store, path: PathBuf) -> Result<(), Error> {
        self.finish(store);
        let place = std::mem::replace(&mut self.place, Box::new(Thread));
        let begun = self.begin(store, path, usize::MAX);
        self.finish(store);
        self.place = place;
        begun?;
        self.failed.clone().map_or(Ok(()), |why| Err(Error::Aborted(why)))
    }

    /// Looks whether the snapshot under way has ended.
    pub fn look(&mut self, store: &mut Store) {
        let Some(under_way) = &self.under_way else { return };
        self.handed = self.handed.max(store.handed_over());
        let ended = match under_way.done.try_recv() {
            Err(TryRecvError::Empty) => return,
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(TryRecvError::Disconnected) => Some("its writer ended without a word".to_owned()),
        };
        if ended.is_some() {
            store.abort_snapshot("its writer failed");
        } else {
            self.last = store.now / 1000;
            self.changes = under_way.changes;
            self.saves += 1;
        }
        self.took_ms = under_way.began.elapsed().as_millis() as u64;
        self.failed = ended;
        self.under_way = None;
    }
}

/// Writes what comes out of the queue. Bytes of the file.
fn write(queue: &Queue, path: &Path) -> Result<u64, Error> {
    let new = path.with_extension("new");
    let failed = |path: &Path, what: &'static str| {
        let path = path.to_owned();
        move |source: io::Error| Error::File { path, what, source }
    };
    let file = File::create(&new).map_err(failed(&new, "made"))?;
    let result = (|| {
        let mut writer = Writer::new(&file).map_err(failed(&new, "written"))?;
        writer.aux("redis-ver", "7.0.0").map_err(failed(&new, "written"))?;
        writer.aux("redis-bits", "64").map_err(failed(&new, "written"))?;
        loop {
            match queue.take() {
                Ok(items) => items
                    .into_iter()
                    .try_for_each(|item| stored::write(&mut writer, item.database, &item.key, &item.value, item.expires))
                    .map_err(failed(&new, "written"))?,
                Err(End::Complete) => break,
                Err(End::Aborted(why)) => return Err(Error::Aborted(why)),
            }
        }
        let (bytes, _) = writer.finish().map_err(failed(&new, "written"))?;
        file.sync_all().map_err(failed(&new, "put on disk"))?;
        fs::rename(&new, path).map_err(failed(path, "replaced"))?;
        // The new name is on disk when its directory is.
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed(directory, "put on disk"))?;
        }
        Ok(bytes)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

/// Reads a snapshot into empty databases. Keys read; `None`: there is no such file.
///
/// # Errors
/// [`Error`]: nothing of it is to be served then.
pub fn load(store: &mut Store, path: &Path) -> Result<Option<u64>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { path: path.to_owned(), what: "opened", source }),
    };
    let wrong = |source| Error::Content { path: path.to_owned(), source };
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file)).map_err(wrong)?;
    let mut keys = 0;
    while let Some(entry) = reader.next_entry().map_err(wrong)? {
        if entry.database >= store.databases() {
            return Err(Error::Databases { path: path.to_owned(), database: entry.database, there: store.databases() });
        }
        if entry.expires.is_some_and(|expires| expires <= store.now) {
            continue;
        }
        if let Some(value) = stored::read(entry.value, &Limits::default()) {
            store.set(entry.database, &entry.key, value, entry.expires.map_or(Expiry::Never, Expiry::At));
            keys += 1;
        }
    }
    Ok(Some(keys))
}
