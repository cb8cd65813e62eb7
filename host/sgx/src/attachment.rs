//! A process's side of an enclave: mapping it, entering it.

use std::{marker::PhantomData, os::fd::OwnedFd};

use crate::{
    device::{DeviceKind, Error, Exit, TcsState},
    simulator::process,
};

/// This process's mapping of an enclave. A forked child has it too; there is one for a process, for good.
#[derive(Debug)]
pub struct Attachment {
    kind: DeviceKind,
}

impl Attachment {
    /// Maps everything at its fixed address, and closes the descriptors: the mapping is what a container gets.
    pub fn attach(kind: DeviceKind, fds: Vec<OwnedFd>) -> Result<Attachment, Error> {
        match kind {
            DeviceKind::Simulator => process::attach(fds)?,
            DeviceKind::Sgx => return Err(Error::Unsupported("the hardware device is not in this build".to_owned())),
        }
        Ok(Attachment { kind })
    }

    /// Which device.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Maps what the enclave has grown by since the last time, so that a child forked now takes fewer faults. Cheap when nothing changed.
    pub fn sync(&self) {
        match self.kind {
            DeviceKind::Simulator => process::sync(),
            DeviceKind::Sgx => {}
        }
    }

    /// Maps these pages in one go. Only a hint.
    pub fn prefault(&self, address: u64, length: u64) {
        match self.kind {
            DeviceKind::Simulator => process::prefault(address, length),
            DeviceKind::Sgx => {}
        }
    }

    /// Readies the calling host thread to enter with this TCS. A host thread has one at a time.
    pub fn thread(&self, tcs: u32) -> Result<Thread<'_>, Error> {
        match self.kind {
            DeviceKind::Simulator => Ok(Thread { inner: process::Thread::new(tcs)?, _attachment: PhantomData }),
            DeviceKind::Sgx => Err(Error::Unsupported("the hardware device is not in this build".to_owned())),
        }
    }
}

/// A host thread that may enter with one TCS.
pub struct Thread<'a> {
    inner: process::Thread,
    _attachment: PhantomData<&'a Attachment>,
}

impl Thread<'_> {
    /// EENTER with `teemate_abi::transition::enter` and two arguments.
    pub fn enter(&self, reason: u64, a: u64, b: u64) -> Result<Exit, Error> {
        self.inner.enter(reason, a, b)
    }

    /// ERESUME.
    pub fn resume(&self) -> Result<Exit, Error> {
        self.inner.resume()
    }

    /// Busy, and CSSA.
    pub fn state(&self) -> TcsState {
        self.inner.state()
    }
}
