//! Snapshots as RDB: from the queue that the store fills, or from a store that nobody uses; and back.

use std::io::{BufReader, Read, Write};

use teemate_rdb::{Reader, Writer};

use super::{Error, failed};
use crate::snapshot::{End, Item, Queue};
use crate::store::{Expiry, Store, Walked};
use crate::stored;
use crate::value::Limits;

fn begin<W: Write>(into: W, name: &str) -> Result<Writer<W>, Error> {
    let mut writer = Writer::new(into).map_err(failed(name, "written"))?;
    writer.aux("redis-ver", "7.0.0").map_err(failed(name, "written"))?;
    writer.aux("redis-bits", "64").map_err(failed(name, "written"))?;
    Ok(writer)
}

fn put<W: Write>(writer: &mut Writer<W>, items: Vec<Item>, name: &str) -> Result<(), Error> {
    items
        .into_iter()
        .try_for_each(|item| stored::write(writer, item.database, &item.key, &item.value, item.expires))
        .map_err(failed(name, "written"))
}

/// Writes what comes out of the queue, until its end. Bytes written.
///
/// # Errors
/// Those of `into`, which `name` names, and that the snapshot was given up.
pub fn write(queue: &Queue, into: impl Write, name: &str) -> Result<u64, Error> {
    let mut writer = begin(into, name)?;
    loop {
        match queue.take() {
            Ok(items) => put(&mut writer, items, name)?,
            Err(End::Complete) => break,
            Err(End::Aborted(why)) => return Err(Error::Aborted(why)),
        }
    }
    Ok(writer.finish().map_err(failed(name, "written"))?.0)
}

/// Writes all that is in a store that nobody uses meanwhile. Bytes written.
///
/// # Errors
/// As [`write()`].
pub fn write_store(store: &mut Store, into: impl Write, name: &str) -> Result<u64, Error> {
    let queue = store.begin_snapshot(usize::MAX).ok_or_else(|| Error::Aborted("another one is under way".to_owned()))?;
    let mut writer = begin(into, name)?;
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

/// Reads a snapshot to its end. Keys read; those whose time is over are left out.
///
/// # Errors
/// That it is not one, or was changed: nothing of it is to be served then.
pub fn read(store: &mut Store, from: impl Read, name: &str) -> Result<u64, Error> {
    let mut keys = 0;
    entries(from, name, |entry| {
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
    Ok(keys)
}

/// Gives each entry of a snapshot, and reads it to its end: a sealed one is known to be whole only then. Libraries of functions that it had
/// beside them.
///
/// # Errors
/// Those of `each`, and that it is no snapshot, or was changed.
pub fn entries(from: impl Read, name: &str, mut each: impl FnMut(teemate_rdb::Entry) -> Result<(), Error>) -> Result<usize, Error> {
    let wrong = |source| Error::Content { file: name.to_owned(), source };
    let mut from = BufReader::with_capacity(1 << 18, from);
    let mut reader = Reader::new(&mut from).map_err(wrong)?;
    while let Some(entry) = reader.next_entry().map_err(wrong)? {
        each(entry)?;
    }
    let functions = reader.functions().len();
    drop(reader);
    match from.read(&mut [0]).map_err(failed(name, "read"))? {
        0 => Ok(functions),
        _ => Err(Error::Rest(name.to_owned())),
    }
}
