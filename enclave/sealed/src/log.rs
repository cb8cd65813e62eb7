//! A sealed append-only log: a base, and records since then.
//!
//! Records are gathered and written as *frames*, each bound to its number and to the tag of the frame before it, through all *segments*: what one
//! opening, or one rewrite, begins is a segment, a file with a key of its own. The *manifest*, a sealed file that is replaced at once, names the
//! base and the first segment. A rewrite begins a segment, writes a base of what was before it, and then replaces the manifest.

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
const MANIFEST: usize = 89;

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
        bytes[57..].copy_from_slice(&self.base.unwrap_or_default());
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
        base.copy_from_slice(&bytes[57..]);
        Manifest { log, generation: number(16), segment: number(24), frames: number(32), root, base: (bytes[56] == 1).then_some(base) }
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
    unsynced: bool,
    failed: Option<String>,
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
    /// Opens a log, or begins one where there is none, and gives what it has to `content`. `known`: how far it had come at least.
    ///
    /// # Errors
    /// [`Error`]: whatever is not as this enclave wrote it. What `content` was given until then is not to be used.
    pub fn open(
        directory: Arc<dyn Directory + Sync>,
        sealing: Arc<dyn Sealing + Send + Sync>,
        (owner, database, name): (&str, &str, &str),
        known: Option<Head>,
        content: &mut dyn Content,
    ) -> Result<Log, Error> {
        let place = Place { directory, sealing, owner: owner.to_owned(), database: database.to_owned(), name: name.to_owned() };
        let manifest = match read_manifest(&place)? {
            Some(manifest) => manifest,
            None => {
                if let Some(known) = known {
                    return Err(Error::RolledBack { file: name.to_owned(), found: 0, known: known.frames });
                }
                let mut log = [0; 16];
                SystemRandom::new().fill(&mut log).map_err(|_| Error::Random)?;
                let manifest = Manifest { log, generation: 0, segment: 0, frames: 0, root: [0; TAG], base: None };
                write_manifest(&place, &manifest)?;
                manifest
            }
        };
        let mut replay =
            Replay { place: &place, head: Head { log: manifest.log, frames: manifest.frames, root: manifest.root }, known, content };
        replay.check()?;
        if let Some(base) = manifest.base {
            replay.base(manifest.generation, base)?;
        }
        let mut next = manifest.segment;
        while replay.segment(next)? {
            next += 1;
        }
        let head = replay.head;
        if let Some(known) = known.filter(|known| known.frames > head.frames) {
            return Err(Error::RolledBack { file: name.to_owned(), found: head.frames, known: known.frames });
        }
        let gathered = vec![0; FRAME_HEADER];
        Ok(Log { place, manifest, segment: None, next, head, gathered, unsynced: false, failed: None })
    }

    /// How far it has come. On disk only after [`Log::sync`].
    pub fn head(&self) -> Head {
        self.head
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
            if let Err(error) = segment.file.cut(segment.length).and_then(|()| segment.file.sync()) {
                self.failed = Some(format!("{} could neither be written nor cut ({source}; {error})", segment.name));
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
        self.unsynced = true;
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<Segment, Error> {
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
        if let Some(segment) = self.segment.as_mut().filter(|_| self.unsynced) {
            if let Err(source) = segment.file.sync() {
                self.failed = Some(format!("{} could not be put on disk ({source})", segment.name));
                return Err(disk(&segment.name, "put on disk")(source));
            }
            self.unsynced = false;
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
            generation: self.manifest.generation + 1,
            segment: self.next,
            frames: self.head.frames,
            root: self.head.root,
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
        if next.generation != self.manifest.generation + 1 {
            return Err(Error::Foreign { file: self.place.name.clone(), what: "this base is not for the generation that comes next" });
        }
        self.place.directory.sync().map_err(disk(&self.place.name, "put on disk"))?;
        if let Err(error) = write_manifest(&self.place, &next) {
            self.failed = Some(error.to_string());
            return Err(error);
        }
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

struct Replay<'a> {
    place: &'a Place,
    head: Head,
    known: Option<Head>,
    content: &'a mut dyn Content,
}

impl Replay<'_> {
    /// Whether what is known fits to what was read so far.
    fn check(&self) -> Result<(), Error> {
        let foreign = |what| Err(Error::Foreign { file: self.place.name.clone(), what });
        match self.known {
            Some(known) if known.log != self.head.log => foreign("its number is another"),
            Some(known) if known.frames == self.head.frames && known.root != self.head.root => {
                foreign("it went on otherwise from an older state")
            }
            _ => Ok(()),
        }
    }

    fn base(&mut self, generation: u64, id: [u8; 32]) -> Result<(), Error> {
        let label = self.place.base(generation);
        let damaged = |what: &str| Error::Damaged { file: label.name.clone(), what: what.to_owned() };
        let file = self.place.directory.open(&label.name).map_err(disk(&label.name, "opened"))?;
        let mut reader = Reader::new(file.ok_or(damaged("it is not there"))?, &*self.place.sealing, &label)?;
        if reader.id() != id {
            return Err(damaged("it is another than the manifest names"));
        }
        self.content.base(&mut reader).map_err(|reason| Error::Content { file: label.name.clone(), reason })?;
        // Nothing may be left; and only the end says that it is whole.
        match reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::Content { file: label.name.clone(), reason: "it was not read to its end".to_owned() }),
            Err(error) => Err(disk(&label.name, "read")(error)),
        }
    }

    /// Reads a segment, if there is one of this number.
    fn segment(&mut self, number: u64) -> Result<bool, Error> {
        let name = self.place.segment(number).name;
        let failed = disk(&name, "read");
        let Some(mut file) = self.place.directory.open(&name).map_err(disk(&name, "opened"))? else { return Ok(false) };
        let header = up_to(&mut file, HEADER).map_err(&failed)?;
        let Some(header) = header.first_chunk::<HEADER>().filter(|_| header.len() == HEADER) else { return Ok(true) };
        let key = match file::key(&*self.place.sealing, &name, header, MAGIC, PURPOSE) {
            Ok(key) => key,
            // A crash tore the header.
            Err(_) if header.ends_with(&[0]) && only_zeros(&mut file).map_err(&failed)? => return Ok(true),
            Err(error) => return Err(error),
        };
        loop {
            let head = up_to(&mut file, FRAME_HEADER).map_err(&failed)?;
            let Some((length, check)) = head.split_first_chunk::<4>().filter(|_| head.len() == FRAME_HEADER) else { return Ok(true) };
            let associated = self.place.associated(&self.head.log, self.head.frames, &self.head.root, *length);
            let frame = self.head.frames;
            let damaged = |what| Err(Error::Damaged { file: name.clone(), what: format!("frame {frame} {what}") });
            if key.check(&associated) != check {
                let torn = check.ends_with(&[0]) && only_zeros(&mut file).map_err(&failed)?;
                return if torn { Ok(true) } else { damaged("does not lie where it belongs, or its header was changed") };
            }
            // The length is genuine from here on.
            let length = u32::from_le_bytes(*length) as usize + TAG;
            let mut body = up_to(&mut file, length).map_err(&failed)?;
            let Some(tag) = body.last_chunk::<TAG>().copied().filter(|_| body.len() == length) else { return Ok(true) };
            let Some(plain) = key.open(frame, &associated, &mut body) else {
                let torn = tag.ends_with(&[0]) && only_zeros(&mut file).map_err(&failed)?;
                return if torn { Ok(true) } else { damaged("is not what was written there") };
            };
            self.records(&name, plain)?;
            self.head = Head { frames: frame + 1, root: tag, ..self.head };
            self.check()?;
        }
    }

    fn records(&mut self, name: &str, mut rest: &[u8]) -> Result<(), Error> {
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let Some((record, tail)) = tail.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
            self.content.record(record).map_err(|reason| Error::Content { file: name.to_owned(), reason })?;
            rest = tail;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(Error::Content { file: name.to_owned(), reason: "its records do not fill a frame".to_owned() })
        }
    }
}

/// So many bytes, or as many as there are.
fn up_to(file: &mut dyn Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether nothing but zeros follows, as behind a write that a power cut ended. Of more than the longest frame nobody says that.
fn only_zeros(file: &mut dyn Read) -> io::Result<bool> {
    let mut piece = [0; 4096];
    for _ in 0..=(MAX_FRAME / 4096) * 2 {
        match file.read(&mut piece)? {
            0 => return Ok(true),
            count if piece[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}
