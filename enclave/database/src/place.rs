//! Where a snapshot's writer runs: in a thread beside the server, or in a container of its own.

use std::fmt::Debug;
use std::io;

/// What a writer does.
pub struct Job {
    /// All of it.
    pub run: Box<dyn FnOnce() + Send>,
    /// Called instead of `run`, with the reason, when there is no place after all.
    pub lost: Box<dyn FnOnce(String) + Send>,
}

/// A place for a writer.
pub trait Place: Debug + Send {
    /// Begins a job there, soon. Exactly one of its two halves is called.
    ///
    /// # Errors
    /// When it is clear at once that there is no place. Then neither half is called.
    fn start(&self, job: Job) -> io::Result<()>;
}

/// A thread of this process.
#[derive(Debug)]
pub struct Thread;

impl Place for Thread {
    fn start(&self, job: Job) -> io::Result<()> {
        std::thread::Builder::new().name("snapshot".to_owned()).spawn(job.run).map(drop)
    }
}
