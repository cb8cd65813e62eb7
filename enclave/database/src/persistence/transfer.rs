//! A sealed snapshot as plain RDB, for an owner who has shown the right to it, and back.

use std::io::{self, Read, Write};

use super::disk::{Place, Storage};
use super::replay::Replay;
use super::{Error, failed, rdb};
use crate::config::Config;
use crate::store::Store;

/// Gives a snapshot as plain RDB. Bytes; `None`: there is no snapshot. After an error, what was given is to be thrown away: the end alone says that
/// the whole is genuine.
///
/// # Errors
/// That it was changed or can't be read; those of `into`.
pub fn export(place: &Place, into: &mut dyn Write) -> Result<Option<u64>, Error> {
    let Some(mut file) = place.open()? else { return Ok(None) };
    let mut piece = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut piece).map_err(failed(place.name(), "read"))?;
        if count == 0 {
            into.flush().map_err(failed("the export", "written"))?;
            return Ok(Some(bytes));
        }
        into.write_all(&piece[..count]).map_err(failed("the export", "written"))?;
        bytes += count as u64;
    }
}

/// Gives what the log has, base and all that came after, as plain RDB. Bytes; `None`: there is no log. `now`: milliseconds since 1970; keys whose
/// time is over are in it, and will be dropped by whoever loads it.
///
/// # Errors
/// As [`export`]; and that the log was rolled back, or is another than the witness knows.
pub fn export_log(storage: &Storage, config: &Config, now: i64, into: &mut dyn Write) -> Result<Option<u64>, Error> {
    let mut store = Store::new(usize::try_from(config.number("databases")).unwrap_or(16));
    (store.now, store.replaying) = (now, true);
    let mut log = super::log::AppendLog::default();
    log.open(storage, config, &mut Replay::new(&mut store, config))?;
    if log.is_new() {
        return Ok(None);
    }
    rdb::write_store(&mut store, into, "the export").map(Some)
}

/// Takes plain RDB as the snapshot, in place of the one that there is: whole, or not at all. Keys.
///
/// # Errors
/// That it is no RDB, is not whole, or has what can't be read here; or those of the disk.
pub fn import(place: &Place, from: &mut dyn Read) -> Result<u64, Error> {
    place.replace(|writer| {
        let mut keys = 0;
        // It is read to its end, sum included, as it passes.
        rdb::entries(Tee { from, into: writer }, "the import", |_| {
            keys += 1;
            Ok(())
        })?;
        Ok(keys)
    })
}

/// What is read from one is written into the other.
struct Tee<'a, W> {
    from: &'a mut dyn Read,
    into: W,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.into.write_all(&into[..count])?;
        Ok(count)
    }
}
