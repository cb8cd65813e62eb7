//! LibOS threads. A thread's whole state is inside the enclave: a block of pages with this record, its XSTATE, its LibOS stack and a stack
//! for exceptions. A TCS is only what it happens to run on.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use teemate_abi::host_area::{PARK_COUNT, PARK_STRIDE, PARK_WORDS};
use teemate_abi::layout::PAGE_SIZE;

use crate::entry::{self, Frame};
use crate::local::Local;
use crate::lock::Spin;
use crate::{boot, clock, futex, memory, ocall};

/// Pages of a block: record, XSTATE, LibOS stack, exception stack.
const BLOCK_PAGES: u64 = 1 + 1 + 6 + 3;

/// One thread.
#[repr(C)]
pub struct Thread {
    /// Top of the stack for exceptions. First: the assembly of [`entry`] reads it.
    exception_stack_top: u64,
    /// Index: names the park word, and the thread id is one more.
    pub index: u32,
    /// The page that holds XSTATE during an OCALL.
    pub xstate: *mut u8,
    /// Stack pointer while the thread is aside.
    pub saved_rsp: Cell<u64>,
    /// The payload's FS base.
    pub fs_base: Cell<u64>,
    /// clear_child_tid of set_tid_address(2).
    pub clear_tid: Cell<u64>,
    /// Container that it runs in; 0: none.
    pub container: AtomicU64,
    /// Set by who wakes it.
    woken: AtomicBool,
    /// Set while it may be waiting outside.
    parked: AtomicBool,
}

// SAFETY: the cells belong to whoever runs the thread: one TCS at a time, handed on through the queues' locks. The rest is atomic.
unsafe impl Sync for Thread {}

static THREADS: [AtomicPtr<Thread>; PARK_COUNT as usize] = [const { AtomicPtr::new(core::ptr::null_mut()) }; PARK_COUNT as usize];
static CREATED: AtomicU32 = AtomicU32::new(0);
static BOOTED: AtomicBool = AtomicBool::new(false);
static READY: Spin<VecDeque<&'static Thread>> = Spin::new(VecDeque::new());
static FREE: Spin<Vec<&'static Thread>> = Spin::new(Vec::new());

impl Thread {
    /// The one that runs here.
    pub fn current() -> &'static Thread {
        match Local::current().thread() {
            Some(thread) => thread,
            None => crate::end::panic(format_args!("a syscall without a thread")),
        }
    }

    /// Top of its LibOS stack.
    pub fn stack_top(&self) -> u64 {
        self.exception_stack_top - 3 * PAGE_SIZE
    }

    /// Linux's thread id.
    pub fn tid(&self) -> u32 {
        self.index + 1
    }

    /// Waits until [`Thread::wake`], or until `deadline` (of [`clock::monotonic`]). True when woken.
    pub fn wait(&self, deadline: Option<u64>) -> bool {
        loop {
            if self.woken.swap(false, Ordering::SeqCst) {
                return true;
            }
            let left = match deadline {
                None => u64::MAX,
                Some(deadline) => match deadline.saturating_sub(clock::monotonic()) {
                    0 => return self.woken.swap(false, Ordering::SeqCst),
                    left => left,
                },
            };
            let word = park_word(self.index).load(Ordering::SeqCst);
            self.parked.store(true, Ordering::SeqCst);
            if !self.woken.load(Ordering::SeqCst) {
                ocall::park(self.index, word, left);
            }
            self.parked.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the thread's present or next [`Thread::wait`].
    pub fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) {
            // The word must change before the host is told, so that a waiter that is just going to sleep does not.
            park_word(self.index).fetch_add(1, Ordering::SeqCst);
            ocall::unpark(self.index);
        }
    }

    /// Forgets a wake-up that came too late for the wait that it was meant for.
    pub fn forget_wake(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }
}

fn park_word(index: u32) -> &'static AtomicU32 {
    // SAFETY: the park words are at a constant place outside ELRANGE, one for each index; atomic access copies.
    unsafe { &*((PARK_WORDS + u64::from(index) * PARK_STRIDE) as *const AtomicU32) }
}

/// The thread with this index, if it was ever made.
pub fn by_index(index: u32) -> Option<&'static Thread> {
    // SAFETY: null, or a block that is never given back.
    THREADS.get(index as usize).and_then(|p| unsafe { p.load(Ordering::Acquire).as_ref() })
}

/// A thread that wants to run: the payload's first one, once; then those of clone.
pub fn next_ready() -> Option<&'static Thread> {
    if !BOOTED.swap(true, Ordering::SeqCst) {
        return boot::main_thread();
    }
    READY.lock().pop_front()
}

/// A new thread that will start in the payload with these registers. EAGAIN when there is no room.
pub fn create(registers: &Frame, fs_base: u64) -> Result<&'static Thread, i32> {
    let reused = FREE.lock().pop();
    let thread = match reused {
        Some(thread) => thread,
        None => new_block().ok_or(libc::EAGAIN)?,
    };
    let top = thread.stack_top();
    let frame = (top - size_of::<Frame>() as u64) as *mut Frame;
    // Below it what `return_from_ocall` pops: six registers and where to go.
    let saved = (frame as u64 - 7 * 8) as *mut [u64; 7];
    // SAFETY: both lie in the thread's own stack, which nothing uses yet.
    unsafe {
        (&raw mut *frame).copy_from_nonoverlapping(registers, 1);
        *saved = [0, 0, 0, 0, 0, 0, entry::first_run as *const () as u64];
    }
    thread.saved_rsp.set(saved as u64);
    thread.fs_base.set(fs_base);
    thread.clear_tid.set(0);
    thread.container.store(0, Ordering::Relaxed);
    thread.forget_wake();
    Ok(thread)
}

fn new_block() -> Option<&'static Thread> {
    let index = CREATED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (u64::from(n) < PARK_COUNT).then_some(n + 1)).ok()?;
    let block = memory::kernel_pages(BLOCK_PAGES)? as u64;
    let thread = block as *mut Thread;
    // SAFETY: the pages are ours alone, zero, and large enough.
    unsafe {
        thread.write(Thread {
            exception_stack_top: block + BLOCK_PAGES * PAGE_SIZE,
            index,
            xstate: (block + PAGE_SIZE) as *mut u8,
            saved_rsp: Cell::new(0),
            fs_base: Cell::new(0),
            clear_tid: Cell::new(0),
            container: AtomicU64::new(0),
            woken: AtomicBool::new(false),
            parked: AtomicBool::new(false),
        });
        THREADS[index as usize].store(thread, Ordering::Release);
        Some(&*thread)
    }
}

/// Queues a thread for the service process.
pub fn make_ready(thread: &'static Thread) {
    READY.lock().push_back(thread);
    ocall::spawn();
}

/// exit(2) of the running thread.
pub fn exit() -> ! {
    extern "C" fn publish(thread: u64) {
        // SAFETY: blocks are never given back; nothing runs on its stacks any more.
        let thread = unsafe { &*(thread as *const Thread) };
        FREE.lock().push(thread);
    }
    let thread = Thread::current();
    let clear = thread.clear_tid.get();
    if clear != 0 && crate::user::write(clear, 0u32).is_ok() {
        futex::wake(clear, u32::MAX, u32::MAX);
    }
    // SAFETY: vector registers are cleared by `save_xstate`; nothing on this stack is needed any more.
    unsafe {
        entry::save_xstate(thread.xstate);
        entry::leave_idle(0, publish, &raw const *thread as u64)
    }
}
