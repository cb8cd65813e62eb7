//! A sealed append-only log: a base, and records since then.
//!
//! Records are gathered and written as *frames*, each bound to its number and to the tag of the frame before it, through all *segments*: what one
//! opening, or one rewrite, begins is a segment, a file with a key of its own. The *manifest*, a sealed file that is replaced at once, names the
//! base and the first segment. A rewrite begins a segment, writes a base of what was before it, and then replaces the manifest.

mod replay;

use std::io::{self, Read, Write};
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use crate::file::{self, HEADER};
use crate::seal::{CHECK, SegmentKey, TAG};
use crate::{AppendFile, Directory, Error, Head, Label, Reader, Sealing, Writer};

const MAGIC: &[u8; 8] = b"TMLOG\0\0\x01";
const PURPOSE: &str = "teemate sealed log 1";
/// Length of the ciphertext, and what authenticates it.
const FRAME_HEADER: usize = 4 + CHECK;
/// The most bytes that a frame's records have.
const MAX_FRAME: usize = 1 << 30;
const MANIFEST: usize = 97;

/// Where everything is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Manifest {
    log: [u8; 16],
    generation: u64,
    /// Number of the first segment, of its first frame, and the tag before that.
    segment: u64,
    frames: u64,
    root: [u8; TAG],
    base: Option<[u8; 32]>,
    /// The epoch in which it was written.
    epoch: u64,
}

impl Manifest {
    fn to_bytes(self) -> [u8; MANIFEST] {
        let mut bytes = [0; MANIFEST];
        bytes[..16].copy_from_slice(&self.log);
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.frames.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.root);
        bytes[56] = u8::from(self.base.is_some());
        bytes[57..89].copy_from_slice(&self.base.unwrap_or_default());
        bytes[89..].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; MANIFEST]) -> Manifest {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let (mut log, mut root, mut base) = ([0; 16], [0; TAG], [0; 32]);
        log.copy_from_slice(&bytes[..16]);
        root.copy_from_slice(&bytes[40..56]);
        base.copy_from_slice(&bytes[57..89]);
        let base = (bytes[56] == 1).then_some(base);
        Manifest { log, generation: number(16), segment: number(24), frames: number(32), root, base, epoch: number(89) }
    }
}

/// What all parts of a log share.
#[derive(Clone)]
struct Place {
    directory: Arc<dyn Directory + Sync>,
    sealing: Arc<dyn Sealing + Send + Sync>,
    owner: String,
    database: String,
    name: String,
}

impl Place {
    fn label(&self, kind: &'static str, name: String) -> Label {
        Label { owner: self.owner.clone(), database: self.database.clone(), kind, name }
    }

    fn manifest(&self) -> Label {
        self.label("manifest", format!("{}.manifest", self.name))
    }

    fn base(&self, generation: u64) -> Label {
        self.label("base", format!("{}.{generation}.base", self.name))
    }

    fn segment(&self, number: u64) -> Label {
        self.label("segment", format!("{}.{number}.log", self.name))
    }

    /// What each frame is bound to.
    fn associated(&self, log: &[u8; 16], frame: u64, before: &[u8; TAG], length: [u8; 4]) -> Vec<u8> {
        let mut bytes = self.label("log", self.name.clone()).bytes();
        bytes.extend_from_slice(log);
        bytes.extend_from_slice(&frame.to_le_bytes());
        bytes.extend_from_slice(before);
        bytes.extend_from_slice(&length);
        bytes
    }
}

fn disk(file: &str, what: &'static str) -> impl Fn(io::Error) -> Error {
    let file = file.to_owned();
    move |source| match source.downcast::<Error>() {
        // What a sealed file's reader has to say comes as it is.
        Ok(error) => error,
        Err(source) => Error::Disk { file: file.clone(), what, source },
    }
}

struct Segment {
    file: Box<dyn AppendFile>,
    name: String,
    key: SegmentKey,
    length: u64,
}

/// The log, open to append.
pub struct Log {
    place: Place,
    manifest: Manifest,
    segment: Option<Segment>,
    /// Number of the next segment.
    next: u64,
    head: Head,
    /// Room for a frame's header, then records, each with its length.
    gathered: Vec<u8>,
    /// How far it is on disk for certain.
    synced: Head,
    /// Whether there is a manifest: the log is one from then on.
    begun: bool,
    torn: Option<String>,
    failed: Option<String>,
    /// The epoch of what is written from now on.
    epoch: u64,
    /// The last generation that may be on disk.
    last: u64,
}

/// What was written and is to be put on disk, for another thread.
pub struct Syncing {
    file: Box<dyn AppendFile>,
    name: String,
    head: Head,
}

impl Syncing {
    /// Waits until it is on disk. How far the log has come there, for [`Log::synced`].
    ///
    /// # Errors
    /// Those of the disk; for [`Log::synced`], too.
    pub fn wait(mut self) -> Result<Head, Error> {
        self.file.sync().map_err(disk(&self.name, "put on disk"))?;
        Ok(self.head)
    }
}

/// A base that a rewrite writes: another thread may do it.
pub struct Base {
    writer: Writer<Box<dyn AppendFile>>,
    next: Manifest,
    name: String,
}

/// A base that is complete and on disk.
pub struct Finished(Manifest);

impl Base {
    /// Ends the base, and waits until it is on disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(self) -> Result<Finished, Error> {
        let id = self.writer.id();
        self.writer.finish().and_then(|mut file| file.sync()).map_err(disk(&self.name, "written"))?;
        Ok(Finished(Manifest { base: Some(id), ..self.next }))
    }
}

impl Write for Base {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// What a log's manifest says of it, without any of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Random number of the log.
    pub log: [u8; 16],
    /// Its generation.
    pub generation: u64,
    /// The epoch in which that was written.
    pub epoch: u64,
}

/// What is known of a log before it is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// How far it had come at least, if there was one at all, and the epoch of who remembered that.
    pub last: Option<(Option<Head>, u64)>,
    /// The epoch that has begun. Epochs never come twice: so a manifest of an earlier one than `last` is one that was left behind.
    pub epoch: u64,
}

/// What is given at the start, in order.
pub trait Content {
    /// The base, if there is one. To its end: only then it is known to be whole.
    ///
    /// # Errors
    /// A sentence, when it is not what was expected.
    fn base(&mut self, base: &mut dyn Read) -> Result<(), String>;

    /// A record.
    ///
    /// # Errors
    /// As [`Content::base`].
    fn record(&mut self, record: &[u8]) -> Result<(), String>;
}

impl Log {
    /// Opens a log, and gives what it has to `content`. Where there is none, one begins with its first frame or its first base: what ends
    /// before that leaves nothing behind.
    ///
    /// # Errors
    /// [`Error`]: whatever is not as this enclave wrote it. What `content` was given until then is not to be used.
    pub fn open(
        directory: Arc<dyn Directory + Sync>,
        sealing: Arc<dyn Sealing + Send + Sync>,
        (owner, database, name): (&str, &str, &str),
        known: Known,
        content: &mut dyn Content,
    ) -> Result<Log, Error> {
        let place = Place { directory, sealing, owner: owner.to_owned(), database: database.to_owned(), name: name.to_owned() };
        let found = read_manifest(&place)?;
        let begun = found.is_some();
        let manifest = match found {
            Some(manifest) => manifest,
            None => {
                if let Some((Some(known), _)) = known.last {
                    return Err(Error::RolledBack { file: name.to_owned(), found: 0, known: known.frames });
                }
                let mut log = [0; 16];
                SystemRandom::new().fill(&mut log).map_err(|_| Error::Random)?;
                Manifest { log, generation: 0, segment: 0, frames: 0, root: [0; TAG], base: None, epoch: known.epoch }
            }
        };
        let (head, next, torn) = replay::replay(&place, &manifest, known.last, content)?;
        if let Some(known) = known.last.and_then(|(known, _)| known).filter(|known| known.frames > head.frames) {
            return Err(Error::RolledBack { file: name.to_owned(), found: head.frames, known: known.frames });
        }
        // What a process that was killed left unsynced may be gone after a power cut, and what comes after it would hang on nothing.
        for number in manifest.segment..next {
            let name = place.segment(number).name;
            place.directory.sync_file(&name).map_err(disk(&name, "put on disk"))?;
        }
        let gathered = vec![0; FRAME_HEADER];
        Ok(Log {
            place,
            manifest,
            segment: None,
            next,
            head,
            gathered,
            synced: head,
            begun,
            torn,
            failed: None,
            epoch: known.epoch,
            last: manifest.generation,
        })
    }

    /// Looks at the manifest alone. `None`: there is none.
    ///
    /// # Errors
    /// [`Error`]: the manifest was changed, or can't be read.
    pub fn look(
        directory: Arc<dyn Directory + Sync>,
        sealing: Arc<dyn Sealing + Send + Sync>,
        (owner, database, name): (&str, &str, &str),
    ) -> Result<Option<Found>, Error> {
        let place = Place { directory, sealing, owner: owner.to_owned(), database: database.to_owned(), name: name.to_owned() };
        let found = read_manifest(&place)?;
        Ok(found.map(|Manifest { log, generation, epoch, .. }| Found { log, generation, epoch }))
    }

    /// Whether there was no log: nothing is on disk of it yet.
    pub fn is_new(&self) -> bool {
        !self.begun
    }

    /// What a crash tore, if it did: nothing behind the last whole frame counts. A sentence.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    /// How far it has come. On disk only after [`Log::sync`].
    pub fn head(&self) -> Head {
        self.head
    }

    /// Which log it is, and the last of its generations that may be on disk: a snapshot that was made of more than it has stands for more
    /// than those.
    pub fn generation(&self) -> ([u8; 16], u64) {
        (self.manifest.log, self.last)
    }

    /// Begins the next rewrite with a generation after this one, which a snapshot stands for.
    pub fn skip_to(&mut self, generation: u64) {
        self.last = self.last.max(generation);
    }

    /// The greatest epoch that is known of it.
    pub fn epoch(&self) -> u64 {
        self.epoch.max(self.manifest.epoch)
    }

    /// The epoch of what is written from now on: somebody else remembers it.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// How far it is on disk for certain, if there is a log: what a [`crate::Counter`] may remember.
    pub fn on_disk(&self) -> Option<Head> {
        self.begun.then_some(self.synced)
    }

    /// Bytes that wait for [`Log::flush`].
    pub fn gathered(&self) -> usize {
        self.gathered.len() - FRAME_HEADER
    }

    /// Adds a record. It is written with all others since the last [`Log::flush`]: all of them are there after a crash, or none.
    ///
    /// # Errors
    /// When that would be more than 1 GiB.
    pub fn append(&mut self, record: &[u8]) -> Result<(), Error> {
        let bytes = self.gathered.len() + record.len() + 4;
        if bytes > MAX_FRAME {
            return Err(Error::TooLarge { bytes });
        }
        self.gathered.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.gathered.extend_from_slice(record);
        Ok(())
    }

    /// Writes what was gathered. After this it survives the end of this process, not that of the machine. After an error nothing was written,
    /// the records wait on, and it may be tried again; unless it is [`Error::Failed`], which stays.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&mut self) -> Result<(), Error> {
        if let Some(why) = &self.failed {
            return Err(Error::Failed(why.clone()));
        }
        if self.gathered() == 0 {
            return Ok(());
        }
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.begin_segment()?,
        };
        let length = ((self.gathered.len() - FRAME_HEADER) as u32).to_le_bytes();
        let associated = self.place.associated(&self.head.log, self.head.frames, &self.head.root, length);
        // Should the write fail, the records must be there still.
        let mut frame = self.gathered.clone();
        frame[..4].copy_from_slice(&length);
        frame[4..FRAME_HEADER].copy_from_slice(&segment.key.check(&associated));
        let tag = segment
            .key
            .seal(self.head.frames, &associated, &mut frame[FRAME_HEADER..])
            .map_err(|_| Error::TooLarge { bytes: frame.len() })?;
        frame.extend_from_slice(&tag);
        if let Err(source) = segment.file.write_all(&frame) {
            // How much of it arrived is unknown. The segment ends before it; the next try begins another, for the same number under the same key
            // may not encrypt anything else.
            match segment.file.cut(segment.length).and_then(|()| segment.file.sync()) {
                Ok(()) => self.synced = self.head,
                Err(error) => self.failed = Some(format!("{} could neither be written nor cut ({source}; {error})", segment.name)),
            }
            return Err(disk(&segment.name, "written")(source));
        }
        segment.length += frame.len() as u64;
        self.gathered.truncate(FRAME_HEADER);
        if self.gathered.capacity() > 1 << 20 {
            self.gathered.shrink_to(1 << 16);
        }
        self.head = Head { frames: self.head.frames + 1, root: tag, ..self.head };
        self.segment = Some(segment);
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<Segment, Error> {
        if !self.begun {
            write_manifest(&self.place, &self.manifest)?;
            self.begun = true;
        }
        let name = self.place.segment(self.next).name;
        let (header, key) = file::begin(&*self.place.sealing, &name, MAGIC, PURPOSE)?;
        let mut file = self.place.directory.create(&name).map_err(disk(&name, "made"))?;
        // A file that has no good header and nothing behind it is passed over when the log is read.
        self.next += 1;
        file.write_all(&header).map_err(disk(&name, "written"))?;
        self.place.directory.sync().map_err(disk(&name, "put on disk"))?;
        Ok(Segment { file, name, key, length: HEADER as u64 })
    }

    /// Writes what was gathered and waits until it is on disk: after this it survives the end of the machine.
    ///
    /// # Errors
    /// Those of the disk. After a failed sync what is on disk is unknown, and the log takes nothing more.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.flush()?;
        if let Some(segment) = self.segment.as_mut().filter(|_| self.synced != self.head)
            && let Err(source) = segment.file.sync()
        {
            self.failed = Some(format!("{} could not be put on disk ({source})", segment.name));
            return Err(disk(&segment.name, "put on disk")(source));
        }
        self.synced = self.head;
        Ok(())
    }

    /// Whether everything that was written is on disk.
    pub fn is_synced(&self) -> bool {
        self.gathered() == 0 && self.synced == self.head
    }

    /// The same as [`Log::sync`] for who does not want to wait: writes what was gathered, and gives what another thread waits for. `None`:
    /// everything is on disk.
    ///
    /// # Errors
    /// Those of the disk, as [`Log::flush`] has them.
    pub fn begin_sync(&mut self) -> Result<Option<Syncing>, Error> {
        self.flush()?;
        let Some(segment) = self.segment.as_ref().filter(|_| self.synced != self.head) else { return Ok(None) };
        let file = segment.file.another().map_err(disk(&segment.name, "opened once more"))?;
        Ok(Some(Syncing { file, name: segment.name.clone(), head: self.head }))
    }

    /// What came of [`Syncing::wait`].
    ///
    /// # Errors
    /// The same: after that the log takes nothing more.
    pub fn synced(&mut self, result: Result<Head, Error>) -> Result<(), Error> {
        match result {
            Ok(head) if head.frames > self.synced.frames => self.synced = head,
            Ok(_) => {}
            Err(error) => {
                self.failed = Some(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins a rewrite: the base that is written into what this gives stands for everything so far; records from now on come after it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn begin_rewrite(&mut self) -> Result<Base, Error> {
        self.sync()?;
        self.segment = None;
        let next = Manifest {
            generation: self.last + 1,
            segment: self.next,
            frames: self.head.frames,
            root: self.head.root,
            epoch: self.epoch,
            ..self.manifest
        };
        let label = self.place.base(next.generation);
        let file = self.place.directory.create(&label.name).map_err(disk(&label.name, "made"))?;
        Ok(Base { writer: Writer::new(file, &*self.place.sealing, &label)?, next, name: label.name })
    }

    /// Ends a rewrite: from now on the base counts, and what was before it is deleted. Until then, whatever happens, the old base and all
    /// segments count.
    ///
    /// # Errors
    /// Those of the disk. Which of the two counts is then unknown, and the log takes nothing more, for it would not know where.
    pub fn switch(&mut self, Finished(next): Finished) -> Result<(), Error> {
        if next.generation != self.last + 1 {
            return Err(Error::Foreign { file: self.place.name.clone(), what: "this base is not for the generation that comes next" });
        }
        self.place.directory.sync().map_err(disk(&self.place.name, "put on disk"))?;
        self.last = next.generation;
        if let Err(error) = write_manifest(&self.place, &next) {
            self.failed = Some(error.to_string());
            return Err(error);
        }
        self.begun = true;
        let old = std::mem::replace(&mut self.manifest, next);
        // What can't be deleted takes space, and nothing else.
        let _ = self.place.directory.remove(&self.place.base(old.generation).name);
        for number in old.segment..next.segment {
            let _ = self.place.directory.remove(&self.place.segment(number).name);
        }
        Ok(())
    }
}

fn read_manifest(place: &Place) -> Result<Option<Manifest>, Error> {
    let label = place.manifest();
    let Some(file) = place.directory.open(&label.name).map_err(disk(&label.name, "opened"))? else { return Ok(None) };
    let mut reader = Reader::new(file, &*place.sealing, &label)?;
    let mut bytes = [0; MANIFEST];
    reader.read_exact(&mut bytes).map_err(disk(&label.name, "read"))?;
    Ok(Some(Manifest::from_bytes(&bytes)))
}

fn write_manifest(place: &Place, manifest: &Manifest) -> Result<(), Error> {
    let label = place.manifest();
    let new = format!("{}.new", label.name);
    let file = place.directory.create(&new).map_err(disk(&new, "made"))?;
    let mut writer = Writer::new(file, &*place.sealing, &label)?;
    writer.write_all(&manifest.to_bytes()).map_err(disk(&new, "written"))?;
    writer.finish().and_then(|mut file| file.sync()).map_err(disk(&new, "written"))?;
    place.directory.replace(&new, &label.name).map_err(disk(&label.name, "replaced"))
}
