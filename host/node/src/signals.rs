//! SIGTERM and SIGINT, taken by one thread in its own time.

use std::time::Duration;

/// Keeps both from every thread that starts from now on. Call it first thing in `main`.
pub fn hold() {
    let set = set();
    // SAFETY: `set` is an initialised signal set; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for one of them; `None` at the limit.
pub fn wait(limit: Duration) -> Option<i32> {
    let set = set();
    let time = libc::timespec { tv_sec: limit.as_secs() as libc::time_t, tv_nsec: limit.subsec_nanos().into() };
    // SAFETY: both point to initialised values; no siginfo is asked for.
    let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time) };
    (signal > 0).then_some(signal)
}

fn set() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain data; sigemptyset initialises it, and both signals exist.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}
