//! A killed service process costs no enclave: another one takes its threads over, with the same channel and the same listening socket.
//!
//! What the payload's threads were doing goes on: a thread inside is resumed, a call of the host that had its reply gets it, another is told
//! that nobody knows. Connections of the gateway end with the process that held them, and their clients see that.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::locks::Lock;

/// Deaths within [`WINDOW`] after which the enclave is given up: something else is wrong.
const DEATHS_MAX: usize = 500;
/// See [`DEATHS_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// The service of an enclave over the lives of its processes.
pub struct Lives {
    /// The service's end of its channel, once the service is ready: kept so that it outlives the process.
    end: Mutex<Option<OwnedFd>>,
    lives: AtomicU32,
    deaths: Mutex<VecDeque<Instant>>,
}

impl Default for Lives {
    fn default() -> Lives {
        Lives { end: Mutex::new(None), lives: AtomicU32::new(0), deaths: Mutex::default() }
    }
}

impl Lives {
    /// The service is ready, and its process guarded: from now on it may die. `end` is its end of the channel.
    pub fn ready(&self, end: &OwnedFd) -> Result<()> {
        let copy = end.as_fd().try_clone_to_owned().map_err(Error::system("keep the service's channel"))?;
        *self.end.locked() = Some(copy);
        Ok(())
    }

    /// Nobody takes over any more.
    pub fn close(&self) {
        *self.end.locked() = None;
    }

    /// Whether a process that was killed now is followed by another.
    pub fn goes_on(&self) -> bool {
        let mut deaths = self.deaths.locked();
        let now = Instant::now();
        deaths.push_back(now);
        while deaths.front().is_some_and(|death| now.duration_since(*death) > WINDOW) {
            deaths.pop_front();
        }
        deaths.len() <= DEATHS_MAX && self.end.locked().is_some()
    }

    /// The next process's number, never 0, and the channel's end for it.
    pub fn next(&self) -> Result<(u32, OwnedFd)> {
        let end = self.end.locked();
        let end = end.as_ref().ok_or_else(|| Error::Service("the service is being taken down".to_owned()))?;
        let copy = end.try_clone().map_err(Error::system("share the service's channel"))?;
        Ok((self.lives.fetch_add(1, Ordering::AcqRel).wrapping_add(1).max(1), copy))
    }

    /// Processes that took over.
    pub fn count(&self) -> u64 {
        self.lives.load(Ordering::Acquire).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_not_ready_or_dies_all_the_time_is_given_up() {
        let lives = Lives::default();
        assert!(!lives.goes_on() && lives.next().is_err());
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        lives.ready(&end.into()).unwrap();
        assert!(lives.goes_on());
        assert_eq!((lives.next().unwrap().0, lives.next().unwrap().0, lives.count()), (1, 2, 2));
        assert!((0..DEATHS_MAX).any(|_| !lives.goes_on()));
        lives.close();
        assert!(lives.next().is_err());
    }
}
