//! Network namespaces, made before they are needed: making one takes about 400 us, joining a ready one 20.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::node::Helper;

/// How a pool behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetPoolConfig {
    /// Ready namespaces to keep.
    pub ready: usize,
    /// Use a namespace again, once it has no socket left. The containers that used it had no capability over it, so nothing but
    /// sockets could have changed in it.
    pub recycle: bool,
}

impl Default for NetPoolConfig {
    fn default() -> Self {
        Self { ready: 16, recycle: true }
    }
}

/// A namespace on loan. Dropping it gives it back.
pub struct Net {
    fd: Arc<OwnedFd>,
    pool: Arc<Inner>,
}

impl AsFd for Net {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.pool.state().used.push((self.fd.clone(), Instant::now()));
        self.pool.changed.notify_one();
    }
}

#[derive(Default)]
struct State {
    ready: Vec<Arc<OwnedFd>>,
    /// Given back, with the time: sockets vanish a moment after their process.
    used: Vec<(Arc<OwnedFd>, Instant)>,
    counts: Counts,
    failure: Option<String>,
    closing: bool,
}

/// What a pool has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Namespaces made.
    pub made: u64,
    /// Made on the path of a start, because the pool was empty.
    pub made_in_haste: u64,
    /// Used again.
    pub recycled: u64,
    /// Dropped after use.
    pub dropped: u64,
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    helper: Helper,
    config: NetPoolConfig,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool of ready network namespaces, filled by a thread of its own.
pub struct NetPool {
    inner: Arc<Inner>,
    filler: Option<std::thread::JoinHandle<()>>,
}

/// Checks of one used namespace before it is dropped instead of recycled.
const LINGER: Duration = Duration::from_secs(2);

impl NetPool {
    /// Start filling.
    ///
    /// # Errors
    /// If the thread cannot start.
    pub fn new(helper: Helper, config: NetPoolConfig) -> Result<Self> {
        let inner = Arc::new(Inner { state: Mutex::default(), changed: Condvar::new(), helper, config });
        let of_thread = inner.clone();
        let filler = std::thread::Builder::new()
            .name("netns-pool".into())
            .spawn(move || fill(&of_thread))
            .map_err(Error::os("start the thread that fills the pool of network namespaces"))?;
        Ok(Self { inner, filler: Some(filler) })
    }

    /// A namespace with `lo` up and nothing else. Waits for one to be made only if none is ready.
    ///
    /// # Errors
    /// If none is ready and none can be made.
    pub fn take(&self) -> Result<Net> {
        let ready = {
            let mut state = self.inner.state();
            let ready = state.ready.pop();
            if ready.is_none() {
                state.counts.made_in_haste += 1;
            }
            ready
        };
        self.inner.changed.notify_one();
        let fd = match ready {
            Some(fd) => fd,
            None => Arc::new(self.inner.helper.new_net()?),
        };
        Ok(Net { fd, pool: self.inner.clone() })
    }

    /// Ready namespaces now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.inner.state().ready.len()
    }

    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.state().counts
    }

    /// Why the last attempt to fill it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.inner.state().failure.clone()
    }
}

impl Drop for NetPool {
    fn drop(&mut self) {
        self.inner.state().closing = true;
        self.inner.changed.notify_all();
        if let Some(filler) = self.filler.take() {
            let _ = filler.join();
        }
    }
}

/// What the filler does next.
enum Work {
    Check(Arc<OwnedFd>, Instant),
    Make,
    Wait,
}

fn fill(inner: &Inner) {
    // Ends with the pool.
    loop {
        let work = {
            let mut state = inner.state();
            if state.closing {
                return;
            }
            if let Some((fd, since)) = state.used.pop() {
                Work::Check(fd, since)
            } else if state.ready.len() < inner.config.ready && state.failure.is_none() {
                Work::Make
            } else {
                Work::Wait
            }
        };
        match work {
            Work::Check(fd, since) => {
                let full = inner.state().ready.len() >= inner.config.ready;
                let idle = inner.config.recycle && !full && inner.helper.is_net_idle(&*fd).unwrap_or(false);
                let wait = inner.config.recycle && !full && !idle && since.elapsed() < LINGER;
                let mut state = inner.state();
                if idle {
                    state.counts.recycled += 1;
                    state.ready.push(fd);
                } else if wait {
                    // Looked at again later; others first.
                    state.used.insert(0, (fd, since));
                    drop(inner.changed.wait_timeout(state, Duration::from_millis(2)));
                } else {
                    state.counts.dropped += 1;
                    drop(state);
                    // The kernel destroys it in the background.
                    drop(fd);
                }
            }
            Work::Make => {
                let made = inner.helper.new_net();
                let mut state = inner.state();
                match made {
                    Ok(fd) => {
                        state.counts.made += 1;
                        state.ready.push(Arc::new(fd));
                    }
                    Err(error) => state.failure = Some(error.to_string()),
                }
            }
            Work::Wait => {
                let state = inner.state();
                if !state.closing {
                    // After a failure: try again in a while.
                    let (mut state, _) = inner.changed.wait_timeout(state, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
                    state.failure = None;
                }
            }
        }
    }
}
