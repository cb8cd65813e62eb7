//! A process's side of an enclave: mapping it, entering it. Whichever device it is.

use std::{marker::PhantomData, os::fd::OwnedFd};

use crate::{
    device::{DeviceKind, Error, Exit, TcsState},
    kernel,
    simulator::process,
};

/// This process's mapping of an enclave. A forked child has it too; there is one for a process, for good.
#[derive(Debug)]
pub struct Attachment(Kind);

#[derive(Debug)]
enum Kind {
    Sgx(kernel::Attachment),
    Simulator,
}

impl Attachment {
    /// Maps everything at its fixed address, and closes the descriptors: the mapping is what a container gets.
    pub fn attach(kind: DeviceKind, fds: Vec<OwnedFd>) -> Result<Attachment, Error> {
        Ok(Attachment(match kind {
            DeviceKind::Sgx => Kind::Sgx(kernel::Attachment::attach(fds)?),
            DeviceKind::Simulator => {
                process::attach(fds)?;
                Kind::Simulator
            }
        }))
    }

    /// Which device.
    pub fn kind(&self) -> DeviceKind {
        match self.0 {
            Kind::Sgx(_) => DeviceKind::Sgx,
            Kind::Simulator => DeviceKind::Simulator,
        }
    }

    /// Maps what the enclave has grown by since the last time, so that a child forked now takes fewer faults. Cheap when nothing changed.
    pub fn sync(&self) {
        match &self.0 {
            Kind::Sgx(attachment) => attachment.sync(),
            Kind::Simulator => process::sync(),
        }
    }

    /// Maps these pages in one go. Only a hint.
    pub fn prefault(&self, address: u64, length: u64) {
        match &self.0 {
            Kind::Sgx(attachment) => attachment.prefault(address, length),
            Kind::Simulator => process::prefault(address, length),
        }
    }

    /// Readies the calling host thread to enter with this TCS. A host thread has one at a time.
    pub fn thread(&self, tcs: u32) -> Result<Thread<'_>, Error> {
        let inner = match &self.0 {
            Kind::Sgx(attachment) => Inner::Sgx(attachment.thread(tcs)?),
            Kind::Simulator => Inner::Simulator(process::Thread::new(tcs)?),
        };
        Ok(Thread { inner, _attachment: PhantomData })
    }
}

/// A host thread that may enter with one TCS.
pub struct Thread<'a> {
    inner: Inner,
    _attachment: PhantomData<&'a Attachment>,
}

enum Inner {
    Sgx(kernel::Thread),
    Simulator(process::Thread),
}

impl Thread<'_> {
    /// EENTER with `teemate_abi::transition::enter` and two arguments.
    pub fn enter(&self, reason: u64, a: u64, b: u64) -> Result<Exit, Error> {
        match &self.inner {
            Inner::Sgx(thread) => thread.enter(reason, a, b),
            Inner::Simulator(thread) => thread.enter(reason, a, b),
        }
    }

    /// Maps what the enclave's threads touch first, so that the entry takes fewer faults. Only a hint, for a moment when nobody waits.
    pub fn prefault(&self) {
        match &self.inner {
            // The driver's entries of the page table are copied by fork.
            Inner::Sgx(_) => {}
            Inner::Simulator(thread) => thread.prefault(),
        }
    }

    /// ERESUME.
    pub fn resume(&self) -> Result<Exit, Error> {
        match &self.inner {
            Inner::Sgx(thread) => thread.resume(),
            Inner::Simulator(thread) => thread.resume(),
        }
    }

    /// Busy, and CSSA.
    pub fn state(&self) -> TcsState {
        match &self.inner {
            Inner::Sgx(thread) => thread.state(),
            Inner::Simulator(thread) => thread.state(),
        }
    }
}
