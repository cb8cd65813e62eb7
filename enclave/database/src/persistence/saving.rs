//! The snapshot under way: there is one at a time, for a file of its own, as the base of the log, or for replicas.
//!
//! The writer is a thread, or a container ([`crate::runner`]), that takes entries from the snapshot's queue. It writes beside what there is,
//! which stays until the new one is complete and on disk, whatever ends it early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;

use teemate_sealed::{Base, Finished, Version};

use super::disk::Place;
use super::rdb::Notes;
use super::{Error, rdb};
use crate::runner::{Job, Runner, Thread};
use crate::snapshot::Queue;
use crate::store::Store;

/// What a snapshot is for.
pub enum Target {
    /// A file, and what is noted in it.
    File(Place, Notes),
    /// The base of the log.
    Base(Box<Base>),
    /// A file that replicas get.
    Replicas(Place),
}

/// What the snapshot under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    File,
    Base,
    Replicas,
}

impl Target {
    fn purpose(&self) -> Purpose {
        match self {
            Target::File(..) => Purpose::File,
            Target::Base(_) => Purpose::Base,
            Target::Replicas(_) => Purpose::Replicas,
        }
    }
}

/// How a snapshot ended.
pub enum Ended {
    /// One in a file: which one is there now. `None`: the one that was. [`Saving`] tells why.
    File(Option<Version>),
    /// One for replicas: where it is, and its bytes; or why there is none.
    Replicas(Result<(Place, u64), String>),
    /// The base of the log: it, and its bytes; or why there is none.
    Base(Result<(Finished, u64), String>),
}

/// What a snapshot took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Microseconds that its start took: everything that the server did at once for it.
    pub start_us: u64,
    /// Milliseconds from its start to its end.
    pub took_ms: Option<u64>,
    /// Bytes that writes handed over to it.
    pub handed: usize,
}

/// The state of snapshots.
#[derive(Debug)]
pub struct Saving {
    /// What runs the writers of files.
    pub runner: Box<dyn Runner>,
    under_way: Option<UnderWay>,
    /// Seconds since 1970 of the last good file.
    pub last: i64,
    /// Why the last file that ended was not good, and the milliseconds since 1970 of that.
    pub failed: Option<(String, i64)>,
    /// The store's count of changes as of the last good file, or as of what was read at the start.
    pub changes: u64,
    /// Of the last file.
    pub file: Figures,
    /// Of the last base.
    pub base: Figures,
    /// Of the last one for replicas.
    pub replicas: Figures,
    /// Good files since the start.
    pub saves: u64,
    /// Microseconds from the begin of the last file until its writer ran, in its container if it has one. 0: it has not yet.
    pub writer_us: Arc<AtomicU64>,
}

impl Default for Saving {
    fn default() -> Self {
        Saving {
            runner: Box::new(Thread),
            under_way: None,
            last: 0,
            failed: None,
            changes: 0,
            file: Figures::default(),
            base: Figures::default(),
            replicas: Figures::default(),
            saves: 0,
            writer_us: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct UnderWay {
    done: Receiver<Result<Written, Error>>,
    began: Instant,
    changes: u64,
    purpose: Purpose,
}

/// What a writer has written.
enum Written {
    File(Version),
    Replicas(Place, u64),
    Base(Finished, u64),
}

impl Saving {
    /// Whether one is being written.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Milliseconds since the one for a file began that is being written.
    pub fn file_under_way(&self) -> Option<u128> {
        self.elapsed(Purpose::File)
    }

    /// The same of the one for the log.
    pub fn base_under_way(&self) -> Option<u128> {
        self.elapsed(Purpose::Base)
    }

    /// Whether the one under way is for replicas.
    pub fn is_for_replicas(&self) -> bool {
        self.elapsed(Purpose::Replicas).is_some()
    }

    fn elapsed(&self, purpose: Purpose) -> Option<u128> {
        self.under_way.as_ref().filter(|one| one.purpose == purpose).map(|one| one.began.elapsed().as_millis())
    }

    /// Begins a snapshot, with these libraries of functions, which a thread writes. False: one is under way already.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin(&mut self, store: &mut Store, libraries: Vec<Vec<u8>>, target: Target, limit: usize) -> Result<bool, Error> {
        if self.is_under_way() {
            return Ok(false);
        }
        let began = Instant::now();
        let Some(queue) = store.begin_snapshot(limit) else { return Ok(false) };
        let purpose = target.purpose();
        let writer_us: Arc<AtomicU64> = Arc::default();
        if purpose == Purpose::File {
            self.writer_us = writer_us.clone();
        }
        let (tell, done) = channel();
        let (tell_lost, lost, taken) = (tell.clone(), queue.clone(), queue.clone());
        let job = Job {
            run: Box::new(move || {
                writer_us.store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                // Whatever ends this thread, nothing is kept for it any more.
                let result = write(&queue, &libraries, target);
                queue.desert();
                // Who would be told may have gone.
                let _ = tell.send(result);
            }),
            lost: Box::new(move |why| {
                lost.desert();
                let _ = tell_lost.send(Err(Error::NotRun(why)));
            }),
        };
        // The file of a base is open already, in this process.
        let started = if purpose == Purpose::Base { Thread.start(job) } else { self.runner.start(job) };
        if let Err(error) = started {
            taken.desert();
            store.abort_snapshot("there is no thread for it");
            return Err(Error::Thread(error));
        }
        *self.figures(purpose) = Figures { start_us: began.elapsed().as_micros() as u64, ..Figures::default() };
        self.under_way = Some(UnderWay { done, began, changes: store.changes, purpose });
        Ok(true)
    }

    fn figures(&mut self, purpose: Purpose) -> &mut Figures {
        match purpose {
            Purpose::File => &mut self.file,
            Purpose::Base => &mut self.base,
            Purpose::Replicas => &mut self.replicas,
        }
    }

    /// Notes that a file could not even be begun.
    pub fn fail(&mut self, why: String, now: i64) {
        self.failed = Some((why, now));
    }

    /// Looks whether the snapshot under way has ended.
    pub fn look(&mut self, store: &mut Store) -> Option<Ended> {
        let under_way = self.under_way.as_ref()?;
        let (purpose, handed) = (under_way.purpose, store.handed_over());
        let ended = match under_way.done.try_recv() {
            Err(TryRecvError::Empty) => None,
            Ok(result) => Some(result.map_err(|error| error.to_string())),
            Err(TryRecvError::Disconnected) => Some(Err("its writer ended without a word".to_owned())),
        };
        let took = under_way.began.elapsed().as_millis() as u64;
        let figures = self.figures(purpose);
        figures.handed = figures.handed.max(handed);
        let ended = ended?;
        figures.took_ms = Some(took);
        let changes = self.under_way.take().map_or(0, |under_way| under_way.changes);
        if ended.is_err() {
            store.abort_snapshot("its writer failed");
        }
        Some(match ended {
            Ok(Written::Base(finished, bytes)) => Ended::Base(Ok((finished, bytes))),
            Ok(Written::Replicas(place, bytes)) => Ended::Replicas(Ok((place, bytes))),
            Err(why) if purpose == Purpose::Base => Ended::Base(Err(why)),
            Err(why) if purpose == Purpose::Replicas => Ended::Replicas(Err(why)),
            Ok(Written::File(version)) => {
                (self.last, self.changes, self.failed) = (store.now / 1000, changes, None);
                self.saves += 1;
                Ended::File(Some(version))
            }
            Err(why) => {
                self.fail(why, store.now);
                Ended::File(None)
            }
        })
    }
}

fn write(queue: &Queue, libraries: &[Vec<u8>], target: Target) -> Result<Written, Error> {
    match target {
        Target::File(place, notes) => {
            place.replace(|writer| rdb::write(queue, libraries, writer, place.name(), &notes))?;
            Ok(Written::File(notes.version))
        }
        Target::Replicas(place) => {
            let bytes = place.replace(|writer| rdb::write(queue, libraries, writer, place.name(), &Notes::default()))?;
            Ok(Written::Replicas(place, bytes))
        }
        Target::Base(mut base) => {
            let bytes = rdb::write(queue, libraries, &mut base, "the log's base", &Notes::default())?;
            Ok(Written::Base(base.finish()?, bytes))
        }
    }
}
