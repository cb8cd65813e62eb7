//! Containers, as the enclave knows them: an opaque id, a quota of pages, and the worker thread that is bound to it.
//!
//! Which container a thread works for is written here and in its record, never taken from the host: the host's id at entry only says
//! which *waiting* call it made a container for, and the payload looks that up among those that it asked for.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::entry;
use crate::local::mailbox;
use crate::lock::Spin;
use crate::thread::Thread;
use crate::{SysResult, files, user};

/// Workers that wait for a container. The last one is taken first: its pages are warm.
static WAITING: Spin<Vec<&'static Thread>> = Spin::new(Vec::new());
static CHARGES: Spin<BTreeMap<u64, Charge>> = Spin::new(BTreeMap::new());

#[derive(Clone, Copy)]
struct Charge {
    pages: u64,
    quota: u64,
    /// Where it runs.
    tcs: u32,
}

impl Charge {
    /// Tells the host how many pages there are, for people to look at. Nothing is read back.
    fn publish(&self) {
        let mailbox = mailbox(self.tcs);
        // SAFETY: the mailbox of a TCS of this enclave is outside ELRANGE at a constant place.
        unsafe { (&raw mut (*mailbox).charged_pages).write_volatile(self.pages) }
    }
}

/// Container of the running thread; 0: none.
pub fn current() -> u64 {
    Thread::current().container.load(Ordering::Relaxed)
}

/// The syscall NEXT_CONTAINER: gives the present container back and waits, outside, for the next one.
pub fn next(id_address: u64) -> SysResult {
    extern "C" fn publish(thread: u64) {
        // SAFETY: threads' blocks are never given back; the stack of this one is put aside.
        WAITING.lock().push(unsafe { &*(thread as *const Thread) });
    }
    user::check(id_address, 8, true)?;
    let thread = Thread::current();
    let old = thread.container.swap(0, Ordering::Relaxed);
    if old != 0 {
        files::close_all_of(old);
        if let Some(charge) = CHARGES.lock().remove(&old) {
            Charge { pages: 0, ..charge }.publish();
        }
    }
    // SAFETY: `saved_rsp` is this thread's; XSTATE is its own page.
    unsafe {
        entry::save_xstate(thread.xstate);
        entry::switch_suspend(thread.saved_rsp.as_ptr(), publish, &raw const *thread as u64);
        entry::restore_xstate(thread.xstate);
    }
    user::write(id_address, thread.container.load(Ordering::Relaxed))?;
    Ok(0)
}

/// An entry for container `id` with this TCS: a worker that waits, bound to it.
pub fn bind(id: u64, tcs: u32) -> Option<&'static Thread> {
    let thread = WAITING.lock().pop()?;
    thread.container.store(id, Ordering::Relaxed);
    if id != 0 {
        let charge = Charge { pages: 0, quota: u64::MAX, tcs };
        charge.publish();
        CHARGES.lock().insert(id, charge);
    }
    Some(thread)
}

/// Sets the quota of the running thread's container, in pages.
pub fn set_quota(pages: u64) -> SysResult {
    match CHARGES.lock().get_mut(&current()) {
        Some(charge) => {
            charge.quota = pages;
            Ok(0)
        }
        None => Err(libc::ESRCH),
    }
}

/// Pages charged to the running thread's container.
pub fn charged() -> u64 {
    CHARGES.lock().get(&current()).map_or(0, |charge| charge.pages)
}

/// Charges pages, or refuses them with ENOMEM.
pub fn charge(id: u64, pages: u64) -> Result<(), i32> {
    if let Some(charge) = CHARGES.lock().get_mut(&id) {
        let total = charge.pages.saturating_add(pages);
        if total > charge.quota {
            return Err(libc::ENOMEM);
        }
        charge.pages = total;
        charge.publish();
    }
    Ok(())
}

/// Takes a charge back. The container may be gone: then its charge is too.
pub fn uncharge(id: u64, pages: u64) {
    if let Some(charge) = CHARGES.lock().get_mut(&id) {
        charge.pages = charge.pages.saturating_sub(pages);
        charge.publish();
    }
}
