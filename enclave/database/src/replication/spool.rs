//! A snapshot in a file, for who gets it over a connection.
//!
//! It is written as fast as the disk takes it, and read as fast as the connection does. So a reader that is slow, or stands still, holds up
//! neither the snapshot nor, through it, any write.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::persistence::disk::Place;

/// Bytes of a piece.
const PIECE: usize = 64 << 10;
/// Pieces that wait for one reader.
const PIECES: usize = 8;

/// The file. It is deleted when nobody gets it any more.
pub struct Spool {
    place: Place,
    /// Bytes of the snapshot.
    pub length: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Spool").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Spool {
    /// Of the file that was written there.
    pub fn new(place: Place, length: u64) -> Spool {
        Spool { place, length }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // If it can't be: the next one is written in its place.
        let _ = self.place.remove();
    }
}

/// Gives the snapshot piece by piece, from another thread: all of it, or an error at last. Who gets less, without one, is to be told that
/// too.
///
/// # Errors
/// When no thread can be had.
pub fn read(spool: Arc<Spool>) -> io::Result<Receiver<Result<Vec<u8>, String>>> {
    let (give, pieces) = sync_channel(PIECES);
    std::thread::Builder::new().name("replica".to_owned()).stack_size(256 << 10).spawn(move || {
        if let Err(why) = give_all(&spool, &give) {
            // Who would be told may have gone.
            let _ = give.send(Err(why));
        }
    })?;
    Ok(pieces)
}

fn give_all(spool: &Spool, give: &SyncSender<Result<Vec<u8>, String>>) -> Result<(), String> {
    let changed = || format!("{} is not what was written: the host has changed it", spool.place.name());
    let mut file = spool.place.open().map_err(|error| error.to_string())?.ok_or_else(changed)?;
    let mut left = spool.length;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut file).take(PIECE as u64).read_to_end(&mut piece).map_err(|error| error.to_string())?;
        if piece.is_empty() {
            return if left == 0 { Ok(()) } else { Err(changed()) };
        }
        left = left.checked_sub(piece.len() as u64).ok_or_else(changed)?;
        if give.send(Ok(piece)).is_err() {
            // Nobody wants it any more.
            return Ok(());
        }
    }
}
