//! What of this process the enclave may name, and by which numbers.
//!
//! A number of a descriptor that was made on demand says in which life of the process it was made: after a kill the enclave may still name
//! what the dead process had, and must not meet another descriptor that has the same number by chance.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use teemate_abi::ocall::DESCRIPTOR_FIRST;

use crate::host;

/// The payload's number for the service's channel.
pub const SERVICE_FD: RawFd = 3;
/// The payload's number for the listening socket.
pub const LISTEN_FD: RawFd = 4;
/// Descriptors that a process may have.
pub const MAX: RawFd = 16384;
/// Lives that numbers tell apart.
const LIVES: u32 = 1 << 16;

/// What the process that runs the payload's own threads has beside.
pub struct Service {
    channel: OwnedFd,
    listener: Option<OwnedFd>,
    /// Made when the payload takes its first turn.
    turns: OnceLock<OwnedFd>,
    reading: Mutex<()>,
}

impl Service {
    /// With its channel and, if there is one, its listening socket, which is made non-blocking: a connection that vanishes between poll
    /// and accept must not hold the thread.
    ///
    /// # Errors
    /// When the kernel refuses that.
    pub fn new(channel: OwnedFd, listener: Option<OwnedFd>) -> std::io::Result<Service> {
        if let Some(listener) = &listener {
            rustix::io::ioctl_fionbio(listener, true)?;
        }
        Ok(Service { channel, listener, turns: OnceLock::new(), reading: Mutex::new(()) })
    }

    /// The epoll instance of turns ([`crate::turn`]), which `kick` wakes.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn turns(&self, kick: RawFd) -> std::io::Result<RawFd> {
        if let Some(epoll) = self.turns.get() {
            return Ok(epoll.as_raw_fd());
        }
        let epoll = crate::turn::epoll(kick, self.listener())?;
        // Two threads at once: one of the two instances is closed again.
        Ok(self.turns.get_or_init(|| epoll).as_raw_fd())
    }

    /// Reads from the channel while nobody else does.
    pub fn read_alone<R>(&self, read: impl FnOnce(RawFd) -> R) -> R {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        read(self.channel.as_raw_fd())
    }

    /// The listening socket.
    pub fn listener(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }
}

/// Descriptors that the enclave may use in this process: those that the node gave, and those made on demand.
pub struct Descriptors {
    open: [AtomicU64; MAX as usize / 64],
    service: Option<Service>,
    kick: OwnedFd,
    life: RawFd,
    /// Milliseconds that a receive and a send may wait, where that was set.
    patience: Mutex<HashMap<RawFd, [i32; 2]>>,
}

/// What wakes the payload's threads that wait with epoll: all processes of an enclave share one.
///
/// # Errors
/// When the kernel has no descriptor for it.
pub fn new_kick() -> std::io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?)
}

impl Descriptors {
    /// Of a container: what wakes the payload's waiting threads, and nothing that the payload made.
    pub fn of_container(kick: OwnedFd) -> Descriptors {
        Descriptors::with(None, kick, 0)
    }

    /// Of the process that runs the payload's own threads, in its nth life.
    pub fn of_service(service: Service, kick: OwnedFd, life: u32) -> Descriptors {
        Descriptors::with(Some(service), kick, (life % LIVES) as RawFd)
    }

    fn with(service: Option<Service>, kick: OwnedFd, life: RawFd) -> Descriptors {
        Descriptors { open: [const { AtomicU64::new(0) }; MAX as usize / 64], service, kick, life, patience: Mutex::default() }
    }

    /// What wakes the payload's threads that wait with epoll, in whatever process.
    pub fn kick(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// What only the process with the payload's own threads has.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// The process's descriptor for a number of the payload's, if it may be used.
    pub fn real(&self, number: RawFd) -> Option<RawFd> {
        match (number, &self.service) {
            (SERVICE_FD, Some(service)) => Some(service.channel.as_raw_fd()),
            (LISTEN_FD, Some(service)) => service.listener(),
            _ => self.made(number),
        }
    }

    /// The same for what was made on demand alone.
    pub fn made(&self, number: RawFd) -> Option<RawFd> {
        let number = number.checked_sub(DESCRIPTOR_FIRST).filter(|number| *number >= 0 && number / MAX == self.life)?;
        let fd = number % MAX;
        let (word, bit) = self.place(fd)?;
        (word.load(Ordering::Acquire) & bit != 0).then_some(fd)
    }

    fn place(&self, fd: RawFd) -> Option<(&AtomicU64, u64)> {
        let fd = usize::try_from(fd).ok()?;
        Some((self.open.get(fd / 64)?, 1 << (fd % 64)))
    }

    /// Adds one that was made; its number, or nothing (and it is closed) when there are too many.
    pub fn insert(&self, fd: OwnedFd) -> Option<RawFd> {
        let (word, bit) = self.place(fd.as_raw_fd())?;
        word.fetch_or(bit, Ordering::AcqRel);
        Some(DESCRIPTOR_FIRST + self.life * MAX + fd.into_raw_fd())
    }

    /// Takes out one that was made, for one caller only: who gets it closes it.
    pub fn remove(&self, number: RawFd) -> Option<RawFd> {
        let fd = self.made(number)?;
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).remove(&fd);
        let (word, bit) = self.place(fd)?;
        (word.fetch_and(!bit, Ordering::AcqRel) & bit != 0).then_some(fd)
    }

    /// How long a receive (or a send) on this descriptor may wait.
    pub fn set_patience(&self, fd: RawFd, receive: bool, ms: i32) {
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        patience.entry(fd).or_default()[usize::from(!receive)] = ms;
    }

    /// Waits as long as was set until the descriptor can be read or written; false when it can't.
    pub fn wait(&self, fd: RawFd, receive: bool) -> bool {
        let ms = {
            let patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
            patience.get(&fd).map_or(0, |times| times[usize::from(!receive)])
        };
        let events = if receive { libc::POLLIN } else { libc::POLLOUT };
        ms == 0 || host::poll(vec![libc::pollfd { fd, events, revents: 0 }], ms, Some).0 != 0
    }
}

impl Drop for Descriptors {
    /// Only tests get here: processes end.
    fn drop(&mut self) {
        for (word, bits) in self.open.iter().enumerate() {
            for bit in (0..64).filter(|bit| bits.load(Ordering::Acquire) & 1 << bit != 0) {
                host::close(word as RawFd * 64 + bit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_an_earlier_life_is_nothing() {
        let service = || {
            let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
            Service::new(a.into(), None).unwrap()
        };
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let of_life = |life| Descriptors::of_service(service(), new_kick().unwrap(), life);
        let (first, second) = (of_life(1), of_life(2));
        let number = first.insert(file()).unwrap();
        let other = second.insert(file()).unwrap();
        assert!(first.made(number).is_some() && second.made(other).is_some());
        assert_eq!((first.made(other), second.made(number), second.remove(number)), (None, None, None));
        assert_eq!((second.made(other - DESCRIPTOR_FIRST), second.made(-1), second.made(i32::MIN)), (None, None, None));
        assert_eq!(first.real(LISTEN_FD), None);
        let fd = second.remove(other).unwrap();
        assert_eq!(second.remove(other), None);
        host::close(fd);
        let last = of_life(LIVES - 1);
        assert!(last.insert(file()).is_some_and(|number| number > 0));
    }
}
