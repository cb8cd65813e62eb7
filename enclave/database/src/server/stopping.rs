//! Ending the server from outside its loop.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Server;
use crate::persistence;

/// Why the server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A client said SHUTDOWN.
    Shutdown,
    /// It was told to by [`Stop`].
    Told,
}

/// An order to end, with everything on disk.
pub struct Stop {
    done: SyncSender<Result<(), String>>,
}

impl Stop {
    /// An order, and where the outcome comes: what is in memory is on disk, or why not, and then the server goes on.
    pub fn new() -> (Stop, Receiver<Result<(), String>>) {
        let (done, outcome) = sync_channel(1);
        (Stop { done }, outcome)
    }
}

impl Server {
    /// The same, which takes orders to end.
    pub fn until(self, stops: Receiver<Stop>) -> Server {
        Server { stops: Some(stops), ..self }
    }

    /// Whether it is to end, and why. When what is in memory can't be written the server goes on: somebody may find the room.
    pub(super) fn ends(&mut self) -> Option<Ended> {
        if self.shared.shutdown {
            return Some(Ended::Shutdown);
        }
        let stop = self.stops.as_ref()?.try_recv().ok()?;
        let closed = persistence::close(&mut self.store, &mut self.shared);
        let ended = closed.is_ok().then_some(Ended::Told);
        // Who asked may have gone.
        let _ = stop.done.try_send(closed);
        ended
    }
}
