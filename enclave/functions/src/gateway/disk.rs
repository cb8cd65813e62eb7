//! The store's disk: the host's, through questions.

use std::io;
use std::time::Duration;

use teemate_control::service::{Ask, JOURNAL_PIECE, Reply};
use teemate_service::stream::Host;
use teemate_vault::Disk;

use crate::handle::Handle;

/// How long the host has for one piece. A disk that syncs slowly takes seconds; one that does not answer must not hold the store for ever.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the host.
pub struct HostDisk(pub Handle);

impl HostDisk {
    fn bytes(&self, ask: Ask) -> io::Result<Option<Vec<u8>>> {
        match self.0.ask_wait(ask, LIMIT)? {
            Reply::Bytes(bytes) => Ok(Some(bytes)),
            // What does not fit the question has become a failure already.
            _ => Ok(None),
        }
    }

    fn done(&self, ask: Ask) -> io::Result<()> {
        self.0.ask_wait(ask, LIMIT).map(drop)
    }
}

impl Disk for HostDisk {
    fn journal(&self, offset: u64) -> io::Result<Option<Vec<u8>>> {
        self.bytes(Ask::Journal { offset, length: JOURNAL_PIECE as u32 })
    }

    fn journal_part(&self, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        self.bytes(Ask::Journal { offset, length: length.min(JOURNAL_PIECE) as u32 })
    }

    fn append(&self, generation: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.done(Ask::Append { generation, offset, bytes })
    }

    fn activate(&self, generation: u64) -> io::Result<()> {
        self.done(Ask::Activate { generation })
    }

    fn put_blob(&self, id: [u8; 32], bytes: Vec<u8>) -> io::Result<()> {
        self.done(Ask::PutBlob { id, bytes })
    }

    fn blob(&self, id: [u8; 32]) -> io::Result<Option<Vec<u8>>> {
        self.bytes(Ask::Blob { id })
    }

    fn drop_blob(&self, id: [u8; 32]) -> io::Result<()> {
        self.done(Ask::DropBlob { id })
    }
}
