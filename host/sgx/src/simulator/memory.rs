//! The node's own view of an enclave: its memfds, mapped wherever there is room.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, PAGE_SIZE},
};

use super::{
    process::{self, system},
    shared::{self, Identity, Record, Secs, Shared},
    ssa::Frame,
    transition,
};
use crate::device::Error;

/// An enclave's memory. Unmapped when it is dropped.
#[derive(Debug)]
pub struct Memory {
    /// EPC, state, host area, transition code: the order of `share`.
    pub fds: [OwnedFd; 4],
    epc: Mapping,
    state: Mapping,
    host: Mapping,
    elrange_size: u64,
}

#[derive(Debug)]
struct Mapping {
    base: *mut u8,
    size: u64,
}

// SAFETY: a mapping may be used and unmapped by any thread.
unsafe impl Send for Mapping {}
// SAFETY: accesses go through the methods of `Memory`, which say what keeps them apart.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `Mapping::new`; `Shared` values are not kept beyond their Memory (contract of `Memory::shared`).
        unsafe { libc::munmap(self.base.cast(), self.size as usize) };
    }
}

impl Mapping {
    fn new(fd: &OwnedFd, size: u64) -> Result<Mapping, Error> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses a free place.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size as usize, protection, flags, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(system("map the enclave into the node", "check `ulimit -v` and vm.overcommit_memory"));
        }
        Ok(Mapping { base: base.cast(), size })
    }
}

impl Memory {
    /// Fresh memory for an enclave; the TCS records and EPCM are empty.
    pub fn new(mut identity: Identity, epc_limit: u64) -> Result<Memory, Error> {
        let size = identity.elrange_size;
        identity.host_area_size = host_area::size(identity.tcs_count as u32);
        let epc = memfd(c"teemate-epc", size)?;
        let state = memfd(c"teemate-state", shared::state_size(size))?;
        let host = memfd(c"teemate-host", identity.host_area_size)?;
        let code = memfd(c"teemate-transition", transition::SIZE)?;
        write_all(&code, &transition::page(identity.tcs_start, identity.tcs_count, size))?;
        for fd in [&epc, &state, &host] {
            seal(fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
        }
        seal(&code, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE)?;
        let memory = Memory {
            epc: Mapping::new(&epc, size)?,
            state: Mapping::new(&state, shared::state_size(size))?,
            host: Mapping::new(&host, identity.host_area_size)?,
            fds: [epc, state, host, code],
            elrange_size: size,
        };
        // SAFETY: nobody else has the mapping yet; a Secs fits before the processes' entries.
        unsafe {
            let secs = memory.state.base.cast::<Secs>();
            (*secs).magic = shared::MAGIC;
            (*secs).identity = identity;
            *(*secs).epc_limit.get_mut() = epc_limit;
            // The SECS itself.
            *(*secs).epc_pages.get_mut() = 1;
            let header = memory.host.base.cast::<host_area::Header>();
            (*header).magic = host_area::MAGIC;
            (*header).abi_version = teemate_abi::ABI_VERSION;
            (*header).tcs_count = identity.tcs_count as u32;
        }
        Ok(memory)
    }

    /// Memory that another process made, from the descriptors of `fds`.
    pub fn open(fds: Vec<OwnedFd>) -> Result<Memory, Error> {
        let Ok([epc, state, host, code]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Err(Error::Unsupported("an enclave of the simulator comes as 4 descriptors".to_owned()));
        };
        let identity = process::read_identity(&state)?;
        let size = identity.elrange_size;
        Ok(Memory {
            epc: Mapping::new(&epc, size)?,
            state: Mapping::new(&state, shared::state_size(size))?,
            host: Mapping::new(&host, identity.host_area_size)?,
            fds: [epc, state, host, code],
            elrange_size: size,
        })
    }

    /// The state. Not to be kept longer than this.
    pub fn shared(&self) -> Shared {
        // SAFETY: mapped with this size by `new`, until `self` is dropped.
        unsafe { Shared::new(self.state.base, self.elrange_size) }
    }

    /// # Safety
    /// No process may have the enclave yet.
    pub unsafe fn set_identity(&self, identity: Identity) {
        // SAFETY: the caller's promise: nobody reads it.
        unsafe { (*self.state.base.cast::<Secs>()).identity = identity };
    }

    /// Bytes of the enclave at an address.
    ///
    /// # Safety
    /// Nobody else uses them while the slice lives: the enclave does not run yet, or the range is an SSA frame that no thread is using.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn enclave_bytes(&self, address: u64, length: u64) -> Option<&mut [u8]> {
        let offset = address.checked_sub(ELRANGE_BASE)?;
        if offset.checked_add(length)? > self.elrange_size {
            return None;
        }
        // SAFETY: within the mapping (checked above); alone by the caller's promise.
        Some(unsafe { std::slice::from_raw_parts_mut(self.epc.base.add(offset as usize), length as usize) })
    }

    /// SSA frame that the next AEX of a TCS would use.
    ///
    /// # Safety
    /// The TCS is not in use by any thread that runs.
    pub unsafe fn next_frame(&self, record: &Record) -> Option<Frame<'_>> {
        use std::sync::atomic::Ordering::Relaxed;
        if record.cssa() >= record.nssa.load(Relaxed) {
            return None;
        }
        let size = record.frame_size.load(Relaxed);
        // SAFETY: the frame belongs to the TCS, which nobody uses (caller).
        unsafe { self.enclave_bytes(record.ssa.load(Relaxed) + record.cssa() * size, size) }.map(Frame)
    }

    /// The host area's header.
    pub fn header(&self) -> &host_area::Header {
        // SAFETY: mapped until `self` is dropped; `new` wrote its plain fields before anybody else had it, and the others are atomics.
        unsafe { &*self.host.base.cast::<host_area::Header>() }
    }

    /// A copy of bytes of the host area.
    pub fn host_bytes(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        let offset = address.checked_sub(host_area::BASE)?;
        if offset.checked_add(length)? > self.host.size {
            return None;
        }
        let mut copy = vec![0; length as usize];
        // SAFETY: within the mapping; other processes may write at the same time, so it is copied by pointer, and the copy is used.
        unsafe { std::ptr::copy_nonoverlapping(self.host.base.add(offset as usize), copy.as_mut_ptr(), length as usize) };
        Some(copy)
    }

    /// Gives a page's memory back; it reads as zeros afterwards.
    pub fn punch(&self, page: u64) -> Result<(), Error> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a hole in our own memfd; the page is invalid by EPCM, and unmapped everywhere since its trim.
        if unsafe { libc::fallocate(self.fds[0].as_raw_fd(), mode, (page * PAGE_SIZE) as i64, PAGE_SIZE as i64) } != 0 {
            return Err(system("fallocate(PUNCH_HOLE)", "the EPC's memfd is not on tmpfs?"));
        }
        Ok(())
    }
}

fn memfd(name: &CStr, size: u64) -> Result<OwnedFd, Error> {
    // SAFETY: a constant name.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(system("memfd_create", "raise `ulimit -n`"));
    }
    // SAFETY: new, and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no memory is passed.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), size as i64) } != 0 {
        return Err(system("ftruncate", "check `ulimit -f`"));
    }
    Ok(fd)
}

fn write_all(fd: &OwnedFd, bytes: &[u8]) -> Result<(), Error> {
    // SAFETY: reads `bytes`.
    let written = unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if written == bytes.len() as isize { Ok(()) } else { Err(system("write the transition code", "is there memory left?")) }
}

fn seal(fd: &OwnedFd, seals: i32) -> Result<(), Error> {
    // SAFETY: no memory is passed.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(system("fcntl(F_ADD_SEALS)", "needs a memfd of its own"));
    }
    Ok(())
}
