//! The host's side of the store, as the vault sees it.

use std::io;

/// The most bytes that [`Disk::journal`] may give at once.
pub const MAX_PIECE: usize = 4 << 20;

/// Where the store's bytes lie. The disk belongs to the host: everything it gives is checked, nothing it says is believed.
///
/// What an honest disk promises, so that a crash loses nothing:
/// - [`append`](Disk::append) is durable when it returns. It cuts the file at `offset` first: what lay beyond is gone. A file that does not
///   exist is made when `offset` is 0. After a crash in the middle of it the file holds any prefix of the bytes, perhaps followed by zeros.
/// - [`activate`](Disk::activate) switches at once or not at all, and is durable when it returns. Other generations may be deleted.
/// - [`put_blob`](Disk::put_blob) is durable when it returns and replaces what was there; after a crash in the middle of it there is anything.
pub trait Disk: Send + Sync {
    /// A piece of the active generation from `offset` on, of at most [`MAX_PIECE`] bytes; empty at the end. `None`: there is no journal.
    ///
    /// # Errors
    /// Those of the disk.
    fn journal(&self, offset: u64) -> io::Result<Option<Vec<u8>>>;

    /// The same when no more than `length` bytes are wanted. More are no error.
    ///
    /// # Errors
    /// Those of the disk.
    fn journal_part(&self, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        let _ = length;
        self.journal(offset)
    }

    /// Writes `bytes` at `offset` of a generation's file and ends the file there. The file begins with the generation's number, eight bytes,
    /// little-endian; the vault writes it as part of the first append.
    ///
    /// # Errors
    /// Those of the disk. What became of the bytes is then unknown.
    fn append(&self, generation: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()>;

    /// Makes a generation the active one.
    ///
    /// # Errors
    /// Those of the disk. Which generation is active is then unknown.
    fn activate(&self, generation: u64) -> io::Result<()>;

    /// Keeps a blob.
    ///
    /// # Errors
    /// Those of the disk.
    fn put_blob(&self, id: [u8; 32], bytes: Vec<u8>) -> io::Result<()>;

    /// A blob, if it is there.
    ///
    /// # Errors
    /// Those of the disk.
    fn blob(&self, id: [u8; 32]) -> io::Result<Option<Vec<u8>>>;

    /// Deletes a blob; one that is not there is no error.
    ///
    /// # Errors
    /// Those of the disk.
    fn drop_blob(&self, id: [u8; 32]) -> io::Result<()>;
}
