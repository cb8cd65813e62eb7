//! Reading a log from its beginning.

use std::io::{self, Read};

use super::{Content, FRAME_HEADER, MAGIC, MAX_FRAME, Manifest, PURPOSE, Place, disk};
use crate::file::{self, HEADER};
use crate::seal::TAG;
use crate::{Error, Head, Reader};

/// Gives everything to `content`. How far the log has come, the number of the next segment, and what a crash tore.
pub(super) fn replay(
    place: &Place,
    manifest: &Manifest,
    known: Option<(Option<Head>, u64)>,
    content: &mut dyn Content,
) -> Result<(Head, u64, Option<String>), Error> {
    let head = Head { log: manifest.log, frames: manifest.frames, root: manifest.root };
    if let Some((known, epoch)) = known
        && known.is_none_or(|known| known.frames < manifest.frames)
        && manifest.epoch < epoch
    {
        // Nothing of it can be compared but the time at which it began so.
        return Err(Error::Foreign { file: place.name.clone(), what: "it is of a line that was left behind, or of a time before" });
    }
    let mut replay = Replay { place, head, known: known.and_then(|(known, _)| known), content, torn: None };
    replay.check()?;
    if let Some(base) = manifest.base {
        replay.base(manifest.generation, base)?;
    }
    let mut next = manifest.segment;
    while replay.segment(next)? {
        next += 1;
    }
    Ok((replay.head, next, replay.torn))
}

struct Replay<'a> {
    place: &'a Place,
    head: Head,
    known: Option<Head>,
    content: &'a mut dyn Content,
    /// What was passed over.
    torn: Option<String>,
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
        let Some(header) = header.first_chunk::<HEADER>().filter(|_| header.len() == HEADER) else {
            // Nothing had been written into it yet.
            return Ok(true);
        };
        let key = match file::key(&*self.place.sealing, &name, header, MAGIC, PURPOSE) {
            Ok(key) => key,
            // A crash tore the header.
            Err(_) if header.ends_with(&[0]) && only_zeros(&mut file).map_err(&failed)? => return Ok(true),
            Err(error) => return Err(error),
        };
        loop {
            let head = up_to(&mut file, FRAME_HEADER).map_err(&failed)?;
            if head.is_empty() {
                return Ok(true);
            }
            let Some((length, check)) = head.split_first_chunk::<4>().filter(|_| head.len() == FRAME_HEADER) else {
                self.note_torn(&name);
                return Ok(true);
            };
            let associated = self.place.associated(&self.head.log, self.head.frames, &self.head.root, *length);
            let frame = self.head.frames;
            let damaged = |what| Err(Error::Damaged { file: name.clone(), what: format!("frame {frame} {what}") });
            if key.check(&associated) != check {
                if check.ends_with(&[0]) && only_zeros(&mut file).map_err(&failed)? {
                    self.note_torn(&name);
                    return Ok(true);
                }
                return damaged("does not lie where it belongs, or its header was changed");
            }
            // The length is genuine from here on.
            let length = u32::from_le_bytes(*length) as usize + TAG;
            let mut body = up_to(&mut file, length).map_err(&failed)?;
            let Some(tag) = body.last_chunk::<TAG>().copied().filter(|_| body.len() == length) else {
                self.note_torn(&name);
                return Ok(true);
            };
            let Some(plain) = key.open(frame, &associated, &mut body) else {
                if tag.ends_with(&[0]) && only_zeros(&mut file).map_err(&failed)? {
                    self.note_torn(&name);
                    return Ok(true);
                }
                return damaged("is not what was written there");
            };
            self.records(&name, plain)?;
            self.head = Head { frames: frame + 1, root: tag, ..self.head };
            self.check()?;
        }
    }

    fn note_torn(&mut self, name: &str) {
        self.torn = Some(format!("{name} ends within frame {}, as a crash leaves it: that frame is passed over", self.head.frames));
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
