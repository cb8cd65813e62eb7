//! The log on a disk that crashes at each write, and on one that lies.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use teemate_sealed::{AppendFile, Content, Counter, Directory, Error, FileCounter, FileDirectory, FixedSealing, Head, Log, MemoryCounter};

#[derive(Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// What is on disk for certain: this much of the beginning.
    synced: usize,
}

#[derive(Clone, Default)]
struct Files {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    operations: u64,
    /// At which operation the machine ends, and how many 256ths of a write arrive then.
    crash: Option<(u64, u8)>,
    dead: bool,
}

impl Files {
    /// Counts an operation. `Some`: it is the last one.
    fn operation(&mut self) -> io::Result<Option<u8>> {
        if self.dead {
            return Err(io::Error::other("the machine is off"));
        }
        self.operations += 1;
        let last = self.crash.filter(|(at, _)| *at + 1 == self.operations).map(|(_, part)| part);
        self.dead = last.is_some();
        Ok(last)
    }

    fn ended<T>(last: Option<u8>, value: T) -> io::Result<T> {
        if last.is_some() { Err(io::Error::other("the machine went off")) } else { Ok(value) }
    }
}

/// A disk in memory, with what is on it for certain and what is not yet.
#[derive(Clone, Default)]
struct Simulated(Arc<Mutex<Files>>);

impl Simulated {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap()
    }

    /// The machine is on again. After a power cut, of what was not synced `part` 256ths are there, then perhaps zeros.
    fn revive(&self, power_cut: bool, part: u8, zeros: bool) {
        let mut files = self.files();
        if power_cut {
            files.names = files.durable.clone();
            for inode in &mut files.inodes {
                let unsynced = inode.bytes.len() - inode.synced.min(inode.bytes.len());
                let kept = inode.synced.min(inode.bytes.len()) + unsynced * usize::from(part) / 256;
                let length = inode.bytes.len();
                inode.bytes.truncate(kept);
                if zeros {
                    inode.bytes.resize(length, 0);
                }
            }
        }
        files.durable = files.names.clone();
        files.inodes.iter_mut().for_each(|inode| inode.synced = inode.bytes.len());
        (files.dead, files.crash) = (false, None);
    }
}

struct Open(Simulated, usize);

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut files = self.0.files();
        let last = files.operation()?;
        let arrived = last.map_or(bytes.len(), |part| bytes.len() * usize::from(part) / 256);
        files.inodes[self.1].bytes.extend_from_slice(&bytes[..arrived]);
        Files::ended(last, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AppendFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        let mut files = self.0.files();
        let last = files.operation()?;
        let inode = &mut files.inodes[self.1];
        if last.is_none() {
            inode.synced = inode.bytes.len();
        }
        Files::ended(last, ())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut files = self.0.files();
        let last = files.operation()?;
        files.inodes[self.1].bytes.truncate(length as usize);
        Files::ended(last, ())
    }
}

impl Directory for Simulated {
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let mut files = self.files();
        let last = files.operation()?;
        files.inodes.push(Inode::default());
        let number = files.inodes.len() - 1;
        files.names.insert(name.to_owned(), number);
        Files::ended(last, Box::new(Open(self.clone(), number)) as Box<dyn AppendFile>)
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read>>> {
        let files = self.files();
        Ok(files.names.get(name).map(|number| Box::new(io::Cursor::new(files.inodes[*number].bytes.clone())) as Box<dyn Read>))
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let last = files.operation()?;
        // At once or not at all.
        if last.is_none_or(|part| part >= 128) {
            let number = files.names.remove(from).unwrap();
            files.names.insert(to.to_owned(), number);
            files.durable = files.names.clone();
        }
        Files::ended(last, ())
    }

    fn sync(&self) -> io::Result<()> {
        let mut files = self.files();
        let last = files.operation()?;
        if last.is_none() {
            files.durable = files.names.clone();
        }
        Files::ended(last, ())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        let last = files.operation()?;
        files.names.remove(name);
        Files::ended(last, ())
    }
}

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

fn open(disk: &Simulated, name: &str, known: Option<Head>) -> Result<(Log, Vec<Vec<u8>>), Error> {
    let mut records = Records::default();
    let sealing = Arc::new(FixedSealing::new([3; 16]));
    let log = Log::open(Arc::new(disk.clone()), sealing, ("owner", "database", name), known, &mut records)?;
    Ok((log, records.0))
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
                let disk = Simulated::default();
                disk.files().crash = Some((at, part));
                let mut promise = Promise::default();
                let ended = open(&disk, "log", None).and_then(|(mut log, _)| work(&mut log, &mut promise));
                if ended.is_ok() {
                    break;
                }
                crashes += 1;
                // Three times, for what one crash leaves behind the next start must get along with.
                for again in 0..3 {
                    disk.revive(power_cut, part, zeros);
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
                    promise = Promise { appended: found.len(), flushed: found.len(), synced: found.len(), known: promise.known };
                    let operations = disk.files().operations;
                    disk.files().crash = Some((operations + at % (7 + again), part));
                    let _ = work(&mut log, &mut promise);
                }
            }
        }
    }
    assert!(crashes > 300, "{crashes}");
}

fn good() -> (Simulated, Promise) {
    let disk = Simulated::default();
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
    let files: Vec<_> = disk.files().names.clone().into_iter().collect();
    let (mut errors, mut shorter) = (0, 0);
    for (name, number) in files {
        let bits = disk.files().inodes[number].bytes.len() * 8;
        for bit in (0..bits).step_by(3) {
            let flip = || disk.files().inodes[number].bytes[bit / 8] ^= 1 << (bit % 8);
            flip();
            match open(&disk, "log", None) {
                Err(_) => errors += 1,
                Ok((_, found)) => {
                    assert!(found.len() < whole.len() && whole.starts_with(&found), "{name} bit {bit}");
                    shorter += 1;
                    // Who knows how far it had come is not deceived.
                    assert!(open(&disk, "log", promise.known).is_err(), "{name} bit {bit}");
                }
            }
            flip();
        }
    }
    assert!(errors > 1_000 && shorter < errors / 20, "{errors} {shorter}");
}

#[test]
fn a_changed_frame_is_named() {
    let disk = Simulated::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    for n in 0..3 {
        log.append(&record(n)).unwrap();
        log.sync().unwrap();
    }
    let number = disk.files().names["log.0.log"];
    disk.files().inodes[number].bytes[58 + 12 + 12 + 16 + 14] ^= 1;
    let error = open(&disk, "log", None).err().unwrap().to_string();
    assert!(error.contains("log.0.log") && error.contains("frame 1"), "{error}");
}

#[test]
fn what_was_rolled_back_or_is_another_log_is_noticed() {
    let (disk, promise) = good();
    let old = disk.files().clone();
    let (mut log, _) = open(&disk, "log", promise.known).unwrap();
    log.append(b"newer").unwrap();
    log.sync().unwrap();
    let known = log.head();
    drop(log);
    assert!(open(&disk, "log", Some(known)).is_ok());

    // The state of before.
    *disk.files() = old.clone();
    assert!(matches!(open(&disk, "log", Some(known)), Err(Error::RolledBack { .. })));
    // One that went on from there.
    let (mut log, _) = open(&disk, "log", None).unwrap();
    log.append(b"other").unwrap();
    log.sync().unwrap();
    drop(log);
    assert!(matches!(open(&disk, "log", Some(known)), Err(Error::Foreign { .. })));
    // None at all, and a new one.
    let empty = Simulated::default();
    assert!(matches!(open(&empty, "log", Some(known)), Err(Error::RolledBack { .. })));
    open(&empty, "log", None).unwrap();
    assert!(matches!(open(&empty, "log", Some(known)), Err(Error::Foreign { .. })));
    // Files under the name of another database.
    let renamed = old.names.iter().map(|(name, number)| (name.replace("log.", "other."), *number)).collect();
    *disk.files() = Files { names: renamed, ..old };
    assert!(matches!(open(&disk, "other", None), Err(Error::Damaged { .. })));
}

#[test]
fn a_base_of_an_attempt_that_failed_does_not_pass_for_the_one_that_counts() {
    let disk = Simulated::default();
    let (mut log, _) = open(&disk, "log", None).unwrap();
    log.append(&record(0)).unwrap();
    let mut base = log.begin_rewrite().unwrap();
    base.write_all(&record(7)).unwrap();
    base.finish().unwrap();
    let attempt = disk.files().names["log.1.base"];
    rewrite(&mut log, 1).unwrap();
    drop(log);
    assert_eq!(open(&disk, "log", None).unwrap().1, [record(0)]);
    disk.files().names.insert("log.1.base".to_owned(), attempt);
    let error = open(&disk, "log", None).err().unwrap().to_string();
    assert!(error.contains("another than the manifest names"), "{error}");
}

#[test]
fn counters_remember() {
    let head = Head { log: [1; 16], frames: 7, root: [2; 16] };
    let memory = MemoryCounter::default();
    let dir = tempfile::tempdir().unwrap();
    let file = FileCounter::new(dir.path(), Arc::new(FixedSealing::new([3; 16])), "owner", "database", "head");
    for counter in [&memory as &dyn Counter, &file] {
        assert_eq!(counter.last().unwrap(), None);
        for frames in [7, 8] {
            counter.remember(Head { frames, ..head }).unwrap();
            assert_eq!(counter.last().unwrap(), Some(Head { frames, ..head }));
        }
    }
}

#[test]
fn on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let sealing = Arc::new(FixedSealing::new([3; 16]));
    for round in 0..3 {
        let mut records = Records::default();
        let directory = Arc::new(FileDirectory::new(dir.path()));
        let mut log = Log::open(directory, sealing.clone(), ("owner", "database", "log"), None, &mut records).unwrap();
        assert_eq!(records.0.len(), round * 10);
        for n in round * 10..round * 10 + 10 {
            log.append(&record(n)).unwrap();
        }
        log.sync().unwrap();
        rewrite(&mut log, round * 10 + 10).unwrap();
    }
}
