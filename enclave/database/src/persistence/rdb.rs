//! Snapshots as RDB: from the queue that the store fills, or from a store that nobody uses; and back.

use std::io::{self, BufReader, Read, Write};
use std::str::FromStr;

use teemate_rdb::{Reader, Writer};
use teemate_sealed::Version;

use super::{Error, failed};
use crate::snapshot::{End, Item, Queue};
use crate::store::{Expiry, Store, Walked};
use crate::stored;
use crate::value::Limits;

/// Names of what is noted in a snapshot: readers that do not know them pass over them.
const VERSION: &str = "teemate-version";
const BEYOND: &str = "teemate-beyond-log";
/// Bytes in which all of it is.
const FIRST: u64 = 1 << 10;

/// What is noted in a snapshot of what was there when it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Which one it is.
    pub version: Version,
    /// The log that has less than this, if there was one.
    pub beyond: Option<Beyond>,
}

/// How far a log had come that did not have everything any more: it was off, or could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The log.
    pub log: [u8; 16],
    /// The last of its generations that may be on disk.
    pub generation: u64,
    /// Frames that it had.
    pub frames: u64,
}

impl Beyond {
    /// Whether this log has no more than that one had.
    pub fn covers(&self, (log, generation): ([u8; 16], u64), frames: u64) -> bool {
        self.log == log && (generation < self.generation || generation == self.generation && frames <= self.frames)
    }
}

impl Notes {
    fn write<W: Write>(&self, writer: &mut Writer<W>) -> io::Result<()> {
        if self.version != Version::default() {
            writer.aux(VERSION, &format!("{} {}", self.version.epoch, self.version.count))?;
        }
        if let Some(Beyond { log, generation, frames }) = self.beyond {
            writer.aux(BEYOND, &format!("{} {generation} {frames}", u128::from_be_bytes(log)))?;
        }
        Ok(())
    }

    /// What a reader has met. Nothing, of a file that says nothing.
    fn of<R: Read>(reader: &Reader<R>) -> Notes {
        fn words<T: FromStr>(text: Option<&[u8]>) -> Vec<T> {
            let text = text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
            text.split(' ').map_while(|word| word.parse().ok()).collect()
        }
        let version = match words(reader.aux(VERSION))[..] {
            [epoch, count] => Version { epoch, count },
            _ => Version::default(),
        };
        let beyond = match words::<u128>(reader.aux(BEYOND))[..] {
            [log, generation, frames] => generation.try_into().ok().zip(frames.try_into().ok()).map(|(generation, frames)| Beyond {
                log: log.to_be_bytes(),
                generation,
                frames,
            }),
            _ => None,
        };
        Notes { version, beyond }
    }
}

/// What is noted in a snapshot, without reading all of it. Whether it is whole is not known then.
///
/// # Errors
/// That its beginning was changed or can't be read.
pub fn notes(from: impl Read, name: &str) -> Result<Notes, Error> {
    let mut first = Vec::new();
    from.take(FIRST).read_to_end(&mut first).map_err(failed(name, "read"))?;
    let mut reader = Reader::new(&first[..]).map_err(|source| Error::Content { file: name.to_owned(), source })?;
    // An entry may be longer than what was read of it.
    let _ = reader.next_entry();
    Ok(Notes::of(&reader))
}

fn begin<W: Write>(into: W, libraries: &[Vec<u8>], name: &str, notes: &Notes) -> Result<Writer<W>, Error> {
    let begun = || {
        let mut writer = Writer::new(into)?;
        writer.aux("redis-ver", "7.0.0")?;
        writer.aux("redis-bits", "64")?;
        notes.write(&mut writer)?;
        libraries.iter().try_for_each(|library| writer.function(library))?;
        Ok(writer)
    };
    begun().map_err(failed(name, "written"))
}

fn put<W: Write>(writer: &mut Writer<W>, items: Vec<Item>, name: &str) -> Result<(), Error> {
    items
        .into_iter()
        .try_for_each(|item| stored::write(writer, item.database, &item.key, &item.value, item.expires))
        .map_err(failed(name, "written"))
}

/// Writes libraries of functions, and what comes out of the queue, until its end. Bytes written.
///
/// # Errors
/// Those of `into`, which `name` names, and that the snapshot was given up.
pub fn write(queue: &Queue, libraries: &[Vec<u8>], into: impl Write, name: &str, notes: &Notes) -> Result<u64, Error> {
    let mut writer = begin(into, libraries, name, notes)?;
    loop {
        match queue.take() {
            Ok(items) => put(&mut writer, items, name)?,
            Err(End::Complete) => break,
            Err(End::Aborted(why)) => return Err(Error::Aborted(why)),
        }
    }
    Ok(writer.finish().map_err(failed(name, "written"))?.0)
}

/// Writes libraries, and all that is in a store that nobody uses meanwhile. Bytes written.
///
/// # Errors
/// As [`write()`].
pub fn write_store(store: &mut Store, libraries: &[Vec<u8>], into: impl Write, name: &str) -> Result<u64, Error> {
    let queue = store.begin_snapshot(usize::MAX).ok_or_else(|| Error::Aborted("another one is under way".to_owned()))?;
    let mut writer = begin(into, libraries, name, &Notes::default())?;
    while !matches!(store.walk(), Walked::Done | Walked::Nothing) {
        while queue.weight() > 0 {
            put(&mut writer, queue.take().unwrap_or_default(), name)?;
        }
    }
    while let Ok(items) = queue.take() {
        put(&mut writer, items, name)?;
    }
    Ok(writer.finish().map_err(failed(name, "written"))?.0)
}

/// Reads a snapshot to its end. Keys read, without those whose time is over; what is noted in it; and its libraries of functions.
///
/// # Errors
/// That it is not one, or was changed: nothing of it is to be served then.
pub fn read(store: &mut Store, from: impl Read, name: &str) -> Result<(u64, Notes, Vec<Vec<u8>>), Error> {
    let mut keys = 0;
    let (notes, libraries) = entries(from, name, |entry| {
        if entry.database >= store.databases() {
            return Err(Error::Databases { file: name.to_owned(), database: entry.database, there: store.databases() });
        }
        if entry.expires.is_some_and(|expires| store.is_over(expires)) {
            return Ok(());
        }
        if let Some(value) = stored::read(entry.value, &Limits::default()) {
            store.set(entry.database, &entry.key, value, entry.expires.map_or(Expiry::Never, Expiry::At));
            keys += 1;
        }
        Ok(())
    })?;
    Ok((keys, notes, libraries))
}

/// Gives each entry of a snapshot, and reads it to its end: a sealed one is known to be whole only then. What is noted in it, and its
/// libraries of functions.
///
/// # Errors
/// Those of `each`, and that it is no snapshot, or was changed.
pub fn entries(
    from: impl Read,
    name: &str,
    mut each: impl FnMut(teemate_rdb::Entry) -> Result<(), Error>,
) -> Result<(Notes, Vec<Vec<u8>>), Error> {
    let wrong = |source| Error::Content { file: name.to_owned(), source };
    let mut from = BufReader::with_capacity(1 << 18, from);
    let mut reader = Reader::new(&mut from).map_err(wrong)?;
    while let Some(entry) = reader.next_entry().map_err(wrong)? {
        each(entry)?;
    }
    let (notes, libraries) = (Notes::of(&reader), reader.functions().to_vec());
    drop(reader);
    match from.read(&mut [0]).map_err(failed(name, "read"))? {
        0 => Ok((notes, libraries)),
        _ => Err(Error::Rest(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_from_the_beginning_and_from_the_whole() {
        let beyond = Beyond { log: [0xab; 16], generation: 7, frames: u64::MAX };
        let version = Version { epoch: u64::MAX, count: 3 };
        for kept in [Notes::default(), Notes { version, beyond: None }, Notes { version, beyond: Some(beyond) }] {
            let mut bytes = Vec::new();
            let mut writer = begin(&mut bytes, &[], "it", &kept).unwrap();
            writer.text(0, b"key", None, &[7; 5000]).unwrap();
            writer.finish().unwrap();
            assert_eq!(notes(&bytes[..], "it").unwrap(), kept);
            assert_eq!(entries(&bytes[..], "it", |_| Ok(())).unwrap().0, kept);
        }
        assert!(notes(&b"what"[..], "it").is_err());
    }

    #[test]
    fn a_log_that_went_on_is_not_covered() {
        let beyond = Beyond { log: [1; 16], generation: 5, frames: 9 };
        for (log, generation, frames, covered) in
            [(1, 5, 9, true), (1, 5, 10, false), (1, 4, 99, true), (1, 6, 0, false), (2, 5, 9, false), (1, 5, 0, true)]
        {
            assert_eq!(beyond.covers(([log; 16], generation), frames), covered, "{log} {generation} {frames}");
        }
    }
}
