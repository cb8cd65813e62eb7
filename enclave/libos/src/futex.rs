//! futex(2), answered inside. A word in the enclave is nothing that the host's futex could name: the wait queues are here, and a waiter
//! sleeps on its own park word outside.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::lock::Spin;
use crate::thread::{self, Thread};
use crate::{SysResult, clock, user};

const BUCKETS: usize = 64;
const FUTEX_REQUEUE_COMMAND: u64 = 3;

struct Waiter {
    address: u64,
    bitset: u32,
    thread: u32,
}

static QUEUES: [Spin<Vec<Waiter>>; BUCKETS] = [const { Spin::new(Vec::new()) }; BUCKETS];

fn queue(address: u64) -> &'static Spin<Vec<Waiter>> {
    &QUEUES[(address >> 2) as usize * 0x9E37_79B1 % BUCKETS]
}

/// The syscall. Its fifth argument, a second word, is of no use to what is served here.
pub fn syscall(address: u64, operation: u64, value: u64, timeout: u64, bitset: u64) -> SysResult {
    if !address.is_multiple_of(4) {
        return Err(libc::EINVAL);
    }
    let command = operation & 0x7f;
    match command as i32 {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let realtime = operation & libc::FUTEX_CLOCK_REALTIME as u64 != 0;
            let absolute = command as i32 == libc::FUTEX_WAIT_BITSET;
            let deadline = if timeout == 0 { None } else { Some(deadline(timeout, absolute, realtime)?) };
            wait(address, value as u32, if absolute { bitset as u32 } else { u32::MAX }, deadline)
        }
        libc::FUTEX_WAKE => Ok(u64::from(wake(address, value as u32, u32::MAX))),
        libc::FUTEX_WAKE_BITSET => Ok(u64::from(wake(address, value as u32, bitset as u32))),
        libc::FUTEX_CMP_REQUEUE if user::read::<u32>(address)? != bitset as u32 => Err(libc::EAGAIN),
        // Waking everybody instead of moving them is always right, and rare: nothing that std or wasmtime does requeues.
        libc::FUTEX_CMP_REQUEUE => Ok(u64::from(wake(address, u32::MAX, u32::MAX))),
        _ if command == FUTEX_REQUEUE_COMMAND => Ok(u64::from(wake(address, u32::MAX, u32::MAX))),
        _ => Err(libc::ENOSYS),
    }
}

/// When a `struct timespec` of the payload ends, by [`clock::monotonic`].
pub fn deadline(timespec: u64, absolute: bool, realtime: bool) -> Result<u64, i32> {
    let [seconds, nanos] = user::read::<[i64; 2]>(timespec)?;
    if seconds < 0 || !(0..1_000_000_000).contains(&nanos) {
        return Err(libc::EINVAL);
    }
    let span = (seconds as u64).saturating_mul(1_000_000_000).saturating_add(nanos as u64);
    Ok(match (absolute, realtime) {
        (false, _) => clock::monotonic().saturating_add(span),
        (true, false) => span,
        (true, true) => span.saturating_sub(clock::realtime().saturating_sub(clock::monotonic())),
    })
}

fn wait(address: u64, expected: u32, bitset: u32, deadline: Option<u64>) -> SysResult {
    if bitset == 0 {
        return Err(libc::EINVAL);
    }
    user::check(address, 4, false)?;
    let thread = Thread::current();
    {
        let mut waiters = queue(address).lock();
        // SAFETY: checked above; an atomic load, as the payload's other threads use the word too.
        if unsafe { &*(address as *const AtomicU32) }.load(Ordering::SeqCst) != expected {
            return Err(libc::EAGAIN);
        }
        thread.forget_wake();
        waiters.push(Waiter { address, bitset, thread: thread.index });
    }
    loop {
        let woken = thread.wait(deadline);
        let mut waiters = queue(address).lock();
        match waiters.iter().position(|w| w.thread == thread.index && w.address == address) {
            // Whoever wakes us takes us off the queue first.
            None => return Ok(0),
            // A wake-up that was meant for an earlier wait.
            Some(_) if woken => {}
            Some(at) => {
                waiters.swap_remove(at);
                return Err(libc::ETIMEDOUT);
            }
        }
    }
}

/// Wakes at most `count` waiters on `address` whose bitset meets `bitset`; how many.
pub fn wake(address: u64, count: u32, bitset: u32) -> u32 {
    let mut woken = 0;
    while woken < count {
        let next = {
            let mut waiters = queue(address).lock();
            match waiters.iter().position(|w| w.address == address && w.bitset & bitset != 0) {
                Some(at) => waiters.remove(at),
                None => break,
            }
        };
        // The lock is not held while the host is asked.
        if let Some(thread) = thread::by_index(next.thread) {
            thread.wake();
        }
        woken += 1;
    }
    woken
}
