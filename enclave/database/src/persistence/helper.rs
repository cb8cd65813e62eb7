//! A thread that does one job after the other, so that the server does not wait: for the disk, for whoever remembers how far the log has come.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// The thread, from outside. It begins with the first job.
pub struct Helper<J, R> {
    name: &'static str,
    work: Arc<dyn Fn(J) -> R + Send + Sync>,
    thread: Option<Thread<J, R>>,
    busy: bool,
}

struct Thread<J, R> {
    jobs: Sender<J>,
    done: Receiver<R>,
    handle: JoinHandle<()>,
}

impl<J: Send + 'static, R: Send + 'static> Helper<J, R> {
    /// One that does this.
    pub fn new(name: &'static str, work: impl Fn(J) -> R + Send + Sync + 'static) -> Helper<J, R> {
        Helper { name, work: Arc::new(work), thread: None, busy: false }
    }

    /// Whether it is at work.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Gives it a job, when it is not at work. What came of it, if there is no thread for it: then it was waited for.
    pub fn give(&mut self, job: J) -> Option<R> {
        if self.thread.is_none() {
            let work = Arc::clone(&self.work);
            let ((jobs, todo), (tell, done)) = (channel::<J>(), channel());
            let begun = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
                for job in todo {
                    if tell.send(work(job)).is_err() {
                        return;
                    }
                }
            });
            self.thread = begun.ok().map(|handle| Thread { jobs, done, handle });
        }
        let job = match &self.thread {
            Some(thread) => match thread.jobs.send(job) {
                Ok(()) => {
                    self.busy = true;
                    return None;
                }
                Err(unsent) => unsent.0,
            },
            None => job,
        };
        Some((self.work)(job))
    }

    /// What came of the job, if that has ended by now. `Some(None)`: the thread ended without a word.
    pub fn look(&mut self) -> Option<Option<R>> {
        match self.thread.as_ref()?.done.try_recv() {
            Err(TryRecvError::Empty) => None,
            Ok(result) => {
                self.busy = false;
                Some(Some(result))
            }
            Err(TryRecvError::Disconnected) => {
                // The next job has another one.
                self.thread = None;
                std::mem::take(&mut self.busy).then_some(None)
            }
        }
    }

    /// Waits for the job under way, and gives what came of it as [`Helper::look`] does.
    pub fn wait(&mut self) -> Option<Option<R>> {
        if !self.busy {
            return None;
        }
        self.busy = false;
        let done = self.thread.as_ref()?.done.recv().ok();
        if done.is_none() {
            self.thread = None;
        }
        Some(done)
    }

    /// Waits for the job under way, and ends the thread.
    pub fn end(self) {
        if let Some(thread) = self.thread {
            drop(thread.jobs);
            // What it has to say nobody needs any more.
            let _ = thread.handle.join();
        }
    }
}
