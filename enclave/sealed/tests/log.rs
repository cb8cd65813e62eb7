//! The log on a disk that crashes at each write, and on one that lies.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{Read, Write};
use std::sync::Arc;

use teemate_sealed::simulated::{Disk, Kind};
use teemate_sealed::{Content, Counter, Error, FileCounter, FileDirectory, FixedSealing, Found, Head, Known, Log, Mark, MemoryCounter};

#[derive(Default)]
struct Records(Vec<Vec<u8>>);

impl Content for Records {
    fn base(&mut self, base: &mut dyn Read) -> Result<(), String> {
        let mut bytes = Vec::new();
        base.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        self.0 = bytes.chunks(8).map(<[u8]>::to_vec).collect();
        Ok(())
    }

    fn record(&mut self, record: &[u8]) -> Result<(), String> {
        self.0.push(record.to_vec());
        Ok(())
    }
}

fn open(disk: &Disk, name: &str, known: Option<Head>) -> Result<(Log, Vec<Vec<u8>>), Error> {
    let mut records = Records::default();
    let sealing = Arc::new(FixedSealing::new([3; 16]));
    let known = Known { last: known.map(|head| (Some(head), 0)), epoch: 0 };
    let log = Log::open(Arc::new(disk.clone()), sealing, ("owner", "database", name), known, &mut records)?;
    Ok((log, records.0))
}

/// In an epoch, with what is known from another.
fn open_in(disk: &Disk, epoch: u64, last: Option<(Option<Head>, u64)>) -> Result<Log, Error> {
    let sealing = Arc::new(FixedSealing::new([3; 16]));
    Log::open(Arc::new(disk.clone()), sealing, ("owner", "database", "log"), Known { last, epoch }, &mut Records::default())
}

fn record(number: usize) -> Vec<u8> {
    (number as u64).to_be_bytes().to_vec()
}

fn rewrite(log: &mut Log, records: usize) -> Result<(), Error> {
    let mut base = log.begin_rewrite()?;
    (0..records).try_for_each(|n| base.write_all(&record(n))).map_err(|source| Error::Disk {
        file: "base".to_owned(),
        what: "written",
        source,
    })?;
    let finished = base.finish()?;
    log.switch(finished)
}

/// What survives what.
#[derive(Default)]
struct Promise {
    appended: usize,
    flushed: usize,
    synced: usize,
    known: Option<Head>,
}

/// Works until the disk ends.
fn work(log: &mut Log, promise: &mut Promise) -> Result<(), Error> {
    for turn in 0..12 {
        for _ in 0..turn % 3 + 1 {
            log.append(&record(promise.appended))?;
            promise.appended += 1;
        }
        log.flush()?;
        promise.flushed = promise.appended;
        if turn % 2 == 1 {
            log.sync()?;
            promise.synced = promise.appended;
            promise.known = Some(log.head());
        }
        if turn % 5 == 4 {
            rewrite(log, promise.appended)?;
            promise.synced = promise.appended;
        }
    }
    Ok(())
}

#[test]
fn wherever_it_crashes_nothing_is_lost_that_was_promised() {
    let mut crashes = 0;
    for power_cut in [false, true] {
        for (part, zeros) in [(0, false), (100, false), (100, true), (255, false)] {
            for at in 0..200 {
                let disk = Disk::default();
                disk.crash_at(at, part);
                let mut promise = Promise::default();
                let ended = open(&disk, "log", None).and_then(|(mut log, _)| work(&mut log, &mut promise));
                if ended.is_ok() {
                    break;
                }
                crashes += 1;
                // Three times, for what one crash leaves behind the next start must get along with.
                for again in 0..3 {
                    if power_cut {
                        disk.cut_power(part, zeros);
                    } else {
                        disk.restart();
                    }
                    let (mut log, found) =
                        open(&disk, "log", promise.known).unwrap_or_else(|error| panic!("crash at {at}, {part}, {power_cut}: {error}"));
                    let least = if power_cut { promise.synced } else { promise.flushed };
                    assert!(
                        found.len() >= least && found.len() <= promise.appended,
                        "crash at {at}: {least} <= {} <= {}",
                        found.len(),
                        promise.appended
                    );
                    assert!(found.iter().enumerate().all(|(n, bytes)| *bytes == record(n)), "crash at {at}");
                    // Opening puts on disk what it finds, however the last one ended.
                    promise = Promise { appended: found.len(), flushed: found.len(), synced: found.len(), known: promise.known };
                    disk.crash_at(disk.operations() + at % (7 + again), part);
                    let _ = work(&mut log, &mut promise);
                }
            }
        }
    }
    assert!(crashes > 300, "{crashes}");
}

fn good() -> (Disk, Promise) {
    let disk = Disk::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    let mut promise = Promise::default();
    work(&mut log, &mut promise).unwrap();
    (disk, promise)
}

#[test]
fn every_changed_bit_is_an_error_or_cuts_no_more_than_the_end() {
    let (disk, promise) = good();
    let (_, whole) = open(&disk, "log", promise.known).unwrap();
    assert_eq!(whole.len(), promise.appended);
    let (mut errors, mut shorter) = (0, 0);
    for name in disk.names() {
        let genuine = disk.bytes(&name);
        for bit in (0..genuine.len() * 8).step_by(3) {
            let mut changed = genuine.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            disk.set_bytes(&name, changed);
            match open(&disk, "log", None) {
                Err(_) => errors += 1,
                Ok((_, found)) => {
                    assert!(found.len() < whole.len() && whole.starts_with(&found), "{name} bit {bit}");
                    shorter += 1;
                    // Who knows how far it had come is not deceived.
                    assert!(open(&disk, "log", promise.known).is_err(), "{name} bit {bit}");
                }
            }
        }
        disk.set_bytes(&name, genuine);
    }
    assert!(errors > 1_000 && shorter < errors / 20, "{errors} {shorter}");
}

#[test]
fn a_changed_frame_is_named() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    for n in 0..3 {
        log.append(&record(n)).unwrap();
        log.sync().unwrap();
    }
    let mut bytes = disk.bytes("log.0.log");
    bytes[58 + 12 + 12 + 16 + 14] ^= 1;
    disk.set_bytes("log.0.log", bytes);
    let error = open(&disk, "log", None).err().unwrap().to_string();
    assert!(error.contains("log.0.log") && error.contains("frame 1"), "{error}");
}

#[test]
fn what_was_rolled_back_or_is_another_log_is_noticed() {
    let (disk, promise) = good();
    let old = disk.content();
    let (mut log, _) = open(&disk, "log", promise.known).unwrap();
    log.append(b"newer").unwrap();
    log.sync().unwrap();
    let known = log.head();
    drop(log);
    assert!(open(&disk, "log", Some(known)).is_ok());

    // The state of before.
    disk.put_back(old.clone());
    assert!(matches!(open(&disk, "log", Some(known)), Err(Error::RolledBack { .. })));
    // One that went on from there.
    let (mut log, _) = open(&disk, "log", None).unwrap();
    log.append(b"other").unwrap();
    log.sync().unwrap();
    drop(log);
    assert!(matches!(open(&disk, "log", Some(known)), Err(Error::Foreign { .. })));
    // None at all, and a new one.
    let empty = Disk::default();
    assert!(matches!(open(&empty, "log", Some(known)), Err(Error::RolledBack { .. })));
    let (mut log, _) = open(&empty, "log", None).unwrap();
    assert!(log.is_new() && empty.names().is_empty(), "nothing is there before there is something");
    log.append(b"new").unwrap();
    log.sync().unwrap();
    assert!(!log.is_new());
    drop(log);
    assert!(matches!(open(&empty, "log", Some(known)), Err(Error::Foreign { .. })));
    // Files under the name of another database.
    disk.put_back(old);
    disk.names().iter().for_each(|name| disk.set_bytes(&name.replace("log.", "other."), disk.bytes(name)));
    assert!(matches!(open(&disk, "other", None), Err(Error::Damaged { .. })));
}

#[test]
fn a_base_of_an_attempt_that_failed_does_not_pass_for_the_one_that_counts() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    log.append(&record(0)).unwrap();
    let mut base = log.begin_rewrite().unwrap();
    base.write_all(&record(7)).unwrap();
    base.finish().unwrap();
    let attempt = disk.bytes("log.1.base");
    rewrite(&mut log, 1).unwrap();
    drop(log);
    assert_eq!(open(&disk, "log", None).unwrap().1, [record(0)]);
    disk.set_bytes("log.1.base", attempt);
    let error = open(&disk, "log", None).err().unwrap().to_string();
    assert!(error.contains("another than the manifest names"), "{error}");
}

#[test]
fn a_torn_end_is_said_and_passed_over_wherever_it_is() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    for n in 0..3 {
        log.append(&record(n)).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let whole = disk.bytes("log.0.log");
    let frame = (whole.len() - 58) / 3;
    for length in 58..whole.len() {
        disk.set_bytes("log.0.log", whole[..length].to_vec());
        let (log, found) = open(&disk, "log", None).unwrap();
        assert_eq!((found.len(), log.torn().is_some()), ((length - 58) / frame, (length - 58) % frame != 0), "{length}");
        assert!(log.torn().is_none_or(|text| text.contains("log.0.log")));
    }
}

#[test]
fn what_a_kill_left_unsynced_is_put_on_disk_before_anything_hangs_on_it() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    log.append(&record(0)).unwrap();
    log.flush().unwrap();
    drop(log);
    disk.restart();
    let (mut log, found) = open(&disk, "log", None).unwrap();
    assert_eq!(found.len(), 1);
    log.append(&record(1)).unwrap();
    log.sync().unwrap();
    drop(log);
    disk.cut_power(0, false);
    assert_eq!(open(&disk, "log", None).unwrap().1.len(), 2);
}

#[test]
fn another_thread_can_wait_for_the_disk() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    assert!(log.begin_sync().unwrap().is_none());
    log.append(&record(0)).unwrap();
    let syncing = log.begin_sync().unwrap().unwrap();
    log.append(&record(1)).unwrap();
    log.flush().unwrap();
    let head = std::thread::spawn(move || syncing.wait()).join().unwrap();
    log.synced(head).unwrap();
    assert!(!log.is_synced(), "one came after");
    let syncing = log.begin_sync().unwrap().unwrap();
    disk.refuse(Some((Kind::Sync, std::io::ErrorKind::Other)));
    assert!(log.synced(syncing.wait()).is_err());
    disk.refuse(None);
    assert!(matches!(log.flush(), Err(Error::Failed(_))), "nobody knows what is on disk");
}

#[test]
fn a_full_disk_is_survived() {
    for kind in [Kind::Write, Kind::Create, Kind::SyncNames] {
        let disk = Disk::default();
        let (mut log, _) = open(&disk, "log", None).unwrap();
        log.append(&record(0)).unwrap();
        log.sync().unwrap();
        log.append(&record(1)).unwrap();
        if kind != Kind::Write {
            // The next frame needs a new segment.
            rewrite(&mut log, 2).unwrap();
            log.append(&record(2)).unwrap();
        }
        disk.refuse(Some((kind, std::io::ErrorKind::StorageFull)));
        for _ in 0..3 {
            assert!(matches!(log.flush(), Err(Error::Disk { .. })), "{kind:?}");
        }
        disk.refuse(None);
        log.append(&record(3)).unwrap();
        log.sync().unwrap();
        let (_, found) = open(&disk, "log", Some(log.head())).unwrap();
        assert_eq!(found.last().unwrap(), &record(3));
        assert_eq!(found.len(), if kind == Kind::Write { 3 } else { 4 });
    }
}

#[test]
fn a_rewrite_on_a_line_that_was_left_behind_is_noticed() {
    let disk = Disk::default();
    let mut log = open_in(&disk, 5, None).unwrap();
    (0..3).for_each(|n| log.append(&record(n)).unwrap());
    log.sync().unwrap();
    let before = log.head();
    drop(log);
    let copy = disk.content();
    // The copy goes on in its epoch, and rewrites: what it had when it was copied is not in its frames any more.
    let mut log = open_in(&disk, 5, None).unwrap();
    log.append(&record(3)).unwrap();
    rewrite(&mut log, 4).unwrap();
    assert_eq!(log.epoch(), 5);
    drop(log);
    let left = disk.content();
    // The same enclave may have told less than it had: that it rewrote in the same epoch says that it is the same line.
    assert!(open_in(&disk, 6, Some((Some(before), 5))).is_ok());
    // Another went on from there in epoch 6.
    disk.put_back(copy);
    let mut log = open_in(&disk, 6, Some((Some(before), 5))).unwrap();
    log.append(b"other").unwrap();
    log.sync().unwrap();
    let known = log.head();
    drop(log);
    assert!(open_in(&disk, 7, Some((Some(known), 6))).is_ok());
    let good = disk.content();
    disk.put_back(left.clone());
    assert!(matches!(open_in(&disk, 7, Some((Some(known), 6))), Err(Error::Foreign { .. })), "as many frames, others");
    assert!(matches!(open_in(&disk, 7, Some((Some(before), 6))), Err(Error::Foreign { .. })), "rewritten since, in an epoch that was over");
    // Where there was none, none of before may come.
    assert!(matches!(open_in(&disk, 7, Some((None, 6))), Err(Error::Foreign { .. })));
    disk.put_back(good);
    let mut log = open_in(&disk, 6, Some((Some(known), 6))).unwrap();
    rewrite(&mut log, 4).unwrap();
    drop(log);
    assert!(open_in(&disk, 7, Some((None, 6))).is_ok());
}

#[test]
fn a_generation_that_a_snapshot_stands_for_does_not_come_again() {
    let disk = Disk::default();
    let mut log = open_in(&disk, 1, None).unwrap();
    rewrite(&mut log, 1).unwrap();
    let (name, generation) = log.generation();
    log.skip_to(generation + 5);
    rewrite(&mut log, 1).unwrap();
    assert_eq!(log.generation(), (name, generation + 6));
    drop(log);
    let sealing = Arc::new(FixedSealing::new([3; 16]));
    let look = || Log::look(Arc::new(disk.clone()), sealing.clone(), ("owner", "database", "log"));
    assert_eq!(look().unwrap(), Some(Found { log: name, generation: generation + 6, epoch: 1 }));
    assert_eq!(disk.names().iter().filter(|name| name.ends_with(".base")).count(), 1);
    disk.names().iter().for_each(|name| disk.take(name));
    assert_eq!(look().unwrap(), None);
}

#[test]
fn counters_remember_and_go_forward_only() {
    let mark = |epoch, frames| Mark { epoch, log: Some(Head { log: [1; 16], frames, root: [2; 16] }), ..Mark::default() };
    let dir = tempfile::tempdir().unwrap();
    let file = || FileCounter::new(dir.path(), Arc::new(FixedSealing::new([3; 16])), "owner", "database", "head");
    let (mut memory, mut first) = (MemoryCounter::default(), file());
    for counter in [&mut memory as &mut dyn Counter, &mut first] {
        let opened = counter.open(0).unwrap();
        assert_eq!((opened.epoch, opened.last), (1, None));
        for frames in [7, 8, 8] {
            counter.remember(&mark(1, frames)).unwrap();
        }
        assert!(matches!(counter.remember(&mark(1, 7)), Err(Error::Backwards(_))));
        let opened = counter.open(0).unwrap();
        assert_eq!((opened.epoch, opened.last), (2, Some(mark(1, 8))));
        assert!(matches!(counter.remember(&mark(1, 9)), Err(Error::Backwards(_))), "who opened it before has no say");
        counter.remember(&mark(2, 9)).unwrap();
        assert_eq!(counter.open(40).unwrap().epoch, 41);
    }
    assert_eq!(file().open(0).unwrap().last, Some(mark(2, 9)));
    // One that was changed, or is of another database, says so.
    let path = dir.path().join("head");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(file().open(0).is_err());
}

#[test]
fn on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let sealing = Arc::new(FixedSealing::new([3; 16]));
    for round in 0..3 {
        let mut records = Records::default();
        let directory = Arc::new(FileDirectory::new(dir.path()));
        let mut log = Log::open(directory, sealing.clone(), ("owner", "database", "log"), Known::default(), &mut records).unwrap();
        assert_eq!(records.0.len(), round * 10);
        for n in round * 10..round * 10 + 10 {
            log.append(&record(n)).unwrap();
        }
        log.sync().unwrap();
        rewrite(&mut log, round * 10 + 10).unwrap();
    }
}
