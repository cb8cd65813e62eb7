//! A payload that checks the LibOS from inside. Each check prints `ok NAME` or `failed NAME: why`; the exit status is the number of failures.
//! It runs natively too: what passes there and fails in an enclave is the LibOS's fault.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

mod server;
mod signals;

type Check = Result<(), String>;
type Named = (&'static str, fn() -> Check);

fn main() {
    let checks: [Named; 16] = [
        ("arguments", arguments),
        ("heap", heap),
        ("threads", threads),
        ("condition variables", condition_variables),
        ("wait with timeout", wait_with_timeout),
        ("thread locals", thread_locals),
        ("time", time),
        ("randomness", randomness),
        ("panic and unwind", panic_and_unwind),
        ("floating point over syscalls", floating_point),
        ("mapping", mapping),
        ("zero pages", zero_pages),
        ("compiled code", compiled_code),
        ("report and key", report_and_key),
        ("exceptions as signals", signals::check),
        ("server", server::check),
    ];
    let only = std::env::args().nth(1);
    let mut failed = 0;
    for (name, check) in checks {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        match check() {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                failed += 1;
                println!("failed {name}: {why}");
            }
        }
    }
    std::process::exit(failed);
}

fn ensure(condition: bool, why: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(why()) }
}

fn arguments() -> Check {
    ensure(std::env::args().count() >= 1, || "no argv[0]".to_owned())
}

fn heap() -> Check {
    let mut map = HashMap::new();
    for round in 0..3u64 {
        for i in 0..20_000u64 {
            map.insert(i, vec![i ^ round; (i % 37) as usize]);
        }
    }
    let mut big = vec![1u8; 24 << 20];
    big.resize(40 << 20, 2);
    let sum: u64 = big.iter().map(|&b| u64::from(b)).sum();
    ensure(map.len() == 20_000 && map[&7] == vec![7 ^ 2; 7] && sum == (24 + 32) << 20, || format!("wrong sums ({sum})"))
}

fn threads() -> Check {
    let total = Arc::new(Mutex::new(0u64));
    for _ in 0..10 {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let total = Arc::clone(&total);
                std::thread::spawn(move || (0..2000).for_each(|_| *lock(&total) += 1))
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked".to_owned())?;
        }
    }
    let total = *lock(&total);
    ensure(total == 120_000, || format!("{total} increments of 120000"))
}

fn condition_variables() -> Check {
    // Two threads hand a token back and forth.
    let pair = Arc::new((Mutex::new(0u32), Condvar::new()));
    let other = Arc::clone(&pair);
    let turn = |me: u32, pair: &(Mutex<u32>, Condvar)| {
        for _ in 0..500 {
            let mut n = lock(&pair.0);
            while *n % 2 != me {
                n = pair.1.wait(n).unwrap_or_else(|e| e.into_inner());
            }
            *n += 1;
            pair.1.notify_one();
        }
    };
    let thread = std::thread::spawn(move || turn(1, &other));
    turn(0, &pair);
    thread.join().map_err(|_| "a thread panicked".to_owned())?;
    let n = *lock(&pair.0);
    ensure(n == 1000, || format!("{n} turns of 1000"))
}

fn wait_with_timeout() -> Check {
    let (sender, receiver) = mpsc::channel::<u8>();
    let start = Instant::now();
    let answer = receiver.recv_timeout(Duration::from_millis(30));
    let waited = start.elapsed();
    drop(sender);
    ensure(answer == Err(mpsc::RecvTimeoutError::Timeout) && waited >= Duration::from_millis(30), || format!("{answer:?} after {waited:?}"))
}

fn thread_locals() -> Check {
    thread_local!(static MINE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    let threads: Vec<_> = (1..=8u64)
        .map(|i| {
            std::thread::spawn(move || {
                MINE.set(i);
                std::thread::sleep(Duration::from_millis(2));
                MINE.get() == i
            })
        })
        .collect();
    let right = threads.into_iter().filter_map(|t| t.join().ok()).filter(|&right| right).count();
    ensure(right == 8 && MINE.get() == 0, || format!("{right} of 8 kept their value"))
}

fn time() -> Check {
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(20));
    let slept = start.elapsed();
    ensure(slept >= Duration::from_millis(20) && slept < Duration::from_secs(5), || format!("slept {slept:?} for 20 ms"))?;
    let mut last = Instant::now();
    for _ in 0..10_000 {
        let now = Instant::now();
        if now < last {
            return Err("time went back".to_owned());
        }
        last = now;
    }
    let year = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs() / 31_556_952 + 1970;
    ensure((2020..2200).contains(&year), || format!("the year is {year}"))
}

fn randomness() -> Check {
    let mut bytes = [0u8; 64];
    // SAFETY: the buffer is as long as is said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    ensure(got == 64 && bytes.iter().filter(|&&b| b == 0).count() < 8, || format!("{got} bytes: {bytes:?}"))
}

fn panic_and_unwind() -> Check {
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| std::panic::panic_any(7u8));
    let _ = std::panic::take_hook();
    ensure(caught.is_err_and(|e| e.downcast_ref() == Some(&7u8)), || "the panic was not caught".to_owned())
}

fn floating_point() -> Check {
    // Values that the compiler keeps in vector registers while syscalls are made.
    let mut sums = [0f64; 8];
    for i in 0..1000 {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from(i) * 0.5 + j as f64;
        }
        // SAFETY: getppid has no arguments.
        unsafe { libc::syscall(libc::SYS_getppid) };
        if i % 100 == 0 {
            std::thread::sleep(Duration::from_micros(10));
        }
    }
    ensure(sums.iter().enumerate().all(|(j, &s)| s == 249_750.0 + 1000.0 * j as f64), || format!("{sums:?}"))
}

fn map(length: usize, protection: i32) -> Result<*mut u8, String> {
    // SAFETY: a new anonymous mapping touches nothing that exists.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if p == libc::MAP_FAILED { Err(std::io::Error::last_os_error().to_string()) } else { Ok(p.cast()) }
}

fn mapping() -> Check {
    let p = map(1 << 20, libc::PROT_NONE)?;
    // SAFETY: the mapping is ours; only its first half is touched, after it was made writable.
    unsafe {
        if libc::mprotect(p.cast(), 1 << 19, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            return Err("mprotect".to_owned());
        }
        for i in (0..1 << 19).step_by(1000) {
            p.add(i).write((i % 251) as u8);
        }
        if (0..1 << 19).step_by(1000).any(|i| p.add(i).read() != (i % 251) as u8) {
            return Err("memory does not keep what is written".to_owned());
        }
        if libc::madvise(p.cast(), 1 << 19, libc::MADV_DONTNEED) != 0 || (0..1 << 19).any(|i| p.add(i).read() != 0) {
            return Err("MADV_DONTNEED does not zero".to_owned());
        }
        ensure(libc::munmap(p.cast(), 1 << 20) == 0, || "munmap".to_owned())
    }
}

fn zero_pages() -> Check {
    for round in 0..50u8 {
        let p = map(256 << 10, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the mapping is ours.
        unsafe {
            let slice = std::slice::from_raw_parts_mut(p, 256 << 10);
            if slice.iter().any(|&b| b != 0) {
                return Err(format!("a new mapping holds old bytes in round {round}"));
            }
            slice.fill(round | 1);
            libc::munmap(p.cast(), 256 << 10);
        }
    }
    Ok(())
}

fn compiled_code() -> Check {
    for round in 1..20u32 {
        let p = map(8192, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: `mov eax, imm32; ret` is a function without arguments; the page is made executable before it is called.
        unsafe {
            let mut code = vec![0xb8];
            code.extend_from_slice(&round.to_le_bytes());
            code.push(0xc3);
            std::ptr::copy_nonoverlapping(code.as_ptr(), p, code.len());
            if libc::mprotect(p.cast(), 8192, libc::PROT_READ | libc::PROT_EXEC) != 0 {
                return Err("mprotect".to_owned());
            }
            let function: extern "C" fn() -> u32 = std::mem::transmute(p);
            if function() != round {
                return Err("wrong result".to_owned());
            }
            libc::munmap(p.cast(), 8192);
        }
    }
    Ok(())
}

fn report_and_key() -> Check {
    static SKIPPED: AtomicU64 = AtomicU64::new(0);
    if !teemate_containers::in_enclave() {
        SKIPPED.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    let report = teemate_containers::report(None, &[0x5a; 64]).map_err(|e| e.to_string())?;
    ensure(report[320..384] == [0x5a; 64], || "the report does not carry its data".to_owned())?;
    // KEYREQUEST: KEYNAME 4 (seal), KEYPOLICY 1 (MRENCLAVE).
    let mut request = [0u8; 512];
    request[0] = 4;
    request[2] = 1;
    let keys: Vec<_> = (0..2).map(|_| teemate_containers::key(&request)).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    ensure(keys[0] == keys[1] && keys[0] != [0; 16], || "sealing keys differ".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
