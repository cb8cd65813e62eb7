//! What runs a snapshot's writer: a thread beside the server, or a container of its own.

use std::fmt::Debug;
use std::io;

/// What a writer does.
pub struct Job {
    /// All of it.
    pub run: Box<dyn FnOnce() + Send>,
    /// Called instead of `run`, with the reason, when nothing runs it after all.
    pub lost: Box<dyn FnOnce(String) + Send>,
}

/// Runs writers.
pub trait Runner: Debug + Send {
    /// Begins a job, soon. Exactly one of its two halves is called.
    ///
    /// # Errors
    /// When it is clear at once that nothing will. Then neither half is called.
    fn start(&self, job: Job) -> io::Result<()>;
}

/// A thread of this process.
#[derive(Debug)]
pub struct Thread;

impl Runner for Thread {
    fn start(&self, job: Job) -> io::Result<()> {
        std::thread::Builder::new().name("snapshot".to_owned()).spawn(job.run).map(drop)
    }
}
