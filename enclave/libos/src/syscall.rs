//! The syscalls of the payload. `docs/syscalls.md` has the same table with reasons; what is not here is ENOSYS.

use alloc::vec::Vec;

use teemate_abi::own_calls as own;

use crate::entry::{Frame, teemate_trapped};
use crate::thread::{self, Thread};
use crate::{SysResult, clock, container, data, enclu, end, epoll, files, futex, memory, ocall, random, signal, sockets, turn, user};

/// Called by the entry code with the payload's registers; puts the answer into RAX.
pub extern "C" fn dispatch(frame: &mut Frame) {
    frame.rax = match serve(frame) {
        Ok(value) => value,
        Err(errno) => (-i64::from(errno)) as u64,
    };
}

fn serve(frame: &mut Frame) -> SysResult {
    let [a, b, c, d, e, f] = frame.args;
    match frame.rax as i64 {
        // Memory.
        libc::SYS_mmap => memory::mmap(a, b, c, d, e as i64),
        libc::SYS_munmap => memory::munmap(a, b),
        libc::SYS_mprotect => memory::mprotect(a, b, c),
        libc::SYS_madvise => memory::madvise(a, b, c),
        libc::SYS_mremap => memory::mremap(a, b, c),
        libc::SYS_brk => Ok(memory::brk(a)),

        // Threads.
        libc::SYS_futex => futex::syscall(a, b, c, d, f),
        libc::SYS_clone3 => clone3(frame, a, b),
        libc::SYS_exit => thread::exit(),
        libc::SYS_exit_group => end::exit(a & 0xff),
        libc::SYS_gettid => Ok(u64::from(Thread::current().tid())),
        libc::SYS_getpid => Ok(1),
        libc::SYS_getppid => Ok(0),
        libc::SYS_set_tid_address => {
            Thread::current().clear_tid.set(a);
            Ok(u64::from(Thread::current().tid()))
        }
        libc::SYS_arch_prctl => arch_prctl(a, b),
        // Only glibc's own mutexes of dead threads would need the list; threads of a payload end by exit(2).
        libc::SYS_set_robust_list => Ok(0),
        // A pause is a way to let the holder of a user-space spin lock run: leave, and come back.
        libc::SYS_sched_yield => {
            let thread = Thread::current();
            thread.wait(Some(clock::monotonic() + 1));
            Ok(0)
        }
        libc::SYS_sched_getaffinity => affinity(b, c),
        libc::SYS_prctl => Ok(0),
        libc::SYS_tgkill | libc::SYS_tkill | libc::SYS_kill => {
            end::panic(format_args!("the payload gave up (signal {})", if frame.rax as i64 == libc::SYS_tgkill { c } else { b }))
        }

        // Time and chance.
        libc::SYS_clock_gettime => clock_gettime(a, b),
        libc::SYS_clock_getres => {
            if b != 0 {
                user::write(b, [0u64, 1])?;
            }
            Ok(0)
        }
        libc::SYS_clock_nanosleep => sleep(futex::deadline(c, b as i32 & libc::TIMER_ABSTIME != 0, a as i32 == libc::CLOCK_REALTIME)?),
        libc::SYS_nanosleep => sleep(futex::deadline(a, false, false)?),
        libc::SYS_getrandom => {
            random::fill(user::bytes_mut(a, b)?);
            Ok(b)
        }

        // Descriptors.
        libc::SYS_read => files::read(a, b, c, None),
        libc::SYS_write => files::write(a, b, c, None),
        libc::SYS_readv => files::vectored(a, b, c, false),
        libc::SYS_writev => files::vectored(a, b, c, true),
        libc::SYS_recvfrom => files::read(a, b, c, Some(d)),
        libc::SYS_sendto => files::write(a, b, c, Some(d)),
        libc::SYS_lseek => files::seek(a, b as i64, c),
        libc::SYS_pread64 => data::transfer_at(a, b, c, d, false),
        libc::SYS_pwrite64 => data::transfer_at(a, b, c, d, true),
        libc::SYS_fsync => data::sync(a, false),
        libc::SYS_fdatasync => data::sync(a, true),
        libc::SYS_ftruncate => data::truncate(a, b),
        libc::SYS_close => files::close(a),
        libc::SYS_poll => sockets::poll(a, b, c),
        libc::SYS_epoll_create1 => epoll::create(a),
        libc::SYS_epoll_ctl => epoll::control(a, b, c, d),
        libc::SYS_epoll_wait => epoll::wait(a, b, c, d),
        // No signal is ever delivered: a mask changes nothing.
        libc::SYS_epoll_pwait => epoll::wait(a, b, c, d),
        libc::SYS_eventfd2 => epoll::event(a, b),

        // Sockets.
        libc::SYS_accept => sockets::accept(a, b, c, 0),
        libc::SYS_accept4 => sockets::accept(a, b, c, d),
        libc::SYS_shutdown => sockets::shutdown(a, b),
        libc::SYS_getpeername => sockets::peer_name(a, b, c),
        libc::SYS_getsockname => sockets::name(a, b, c),
        libc::SYS_setsockopt => sockets::set_option(a, b, c, d, e),
        libc::SYS_getsockopt => sockets::option(a, b, c, d, e),
        libc::SYS_fstat => fstat(a, b),
        libc::SYS_newfstatat if user::string(b)?.is_empty() => fstat(a, c),
        libc::SYS_newfstatat => stat(c, data::status(b)?),
        libc::SYS_statx if user::string(b)?.is_empty() => statx(e, files::status(a)?),
        libc::SYS_statx => statx(e, data::status(b)?),
        libc::SYS_open => data::open(a, b),
        libc::SYS_openat => data::open(b, c),
        libc::SYS_mkdir => data::make_directory(a),
        libc::SYS_mkdirat => data::make_directory(b),
        libc::SYS_rename => data::rename(a, b),
        libc::SYS_renameat => data::rename(b, d),
        libc::SYS_renameat2 if e == 0 => data::rename(b, d),
        libc::SYS_unlink => data::remove(a),
        libc::SYS_unlinkat if c == 0 => data::remove(b),
        libc::SYS_access => Err(libc::ENOENT),
        libc::SYS_fcntl => files::control(a, b, c),
        libc::SYS_ioctl => files::ioctl(a, b, c),
        libc::SYS_readlink => readlink(a, b, c),

        // Signals: none but those that the payload raises by its own exceptions, and those cannot be blocked.
        libc::SYS_rt_sigaction => signal::action(a, b, c, d),
        libc::SYS_rt_sigprocmask => {
            if c != 0 {
                user::write(c, 0u64)?;
            }
            Ok(0)
        }
        libc::SYS_sigaltstack => {
            if b != 0 {
                user::write(b, [0u64, libc::SS_DISABLE as u64, 0])?;
            }
            Ok(0)
        }

        // Identity.
        libc::SYS_getuid | libc::SYS_geteuid | libc::SYS_getgid | libc::SYS_getegid => Ok(0),
        libc::SYS_uname => uname(a),
        libc::SYS_prlimit64 => {
            if d != 0 {
                let limit = if b as i32 == libc::RLIMIT_STACK as i32 { 8 << 20 } else { u64::MAX };
                user::write(d, [limit, limit])?;
            }
            Ok(0)
        }

        // What Linux has no call for.
        own::PRESENT => Ok(1),
        own::NEXT_CONTAINER => container::next(a),
        own::VERIFIED_FILE => files::verified(a, b, c, d),
        own::CONNECT => sockets::connect(a, b),
        own::REPORT => {
            let target = if a == 0 { [0; 512] } else { user::read::<[u8; 512]>(a)? };
            user::write(c, enclu::ereport(&target, &user::read::<[u8; 64]>(b)?))?;
            Ok(0)
        }
        own::KEY => {
            let key = enclu::egetkey(&user::read::<[u8; 512]>(a)?).map_err(|_| libc::EINVAL)?;
            user::write(b, key)?;
            Ok(0)
        }
        own::PREFAULT => {
            // Only addresses leave, and the host sees those anyway when the pages are touched.
            let end = a.checked_add(b).ok_or(libc::EFAULT)?;
            memory::prefault(a..end)?;
            ocall::prefault(a & !4095, end.next_multiple_of(4096) - (a & !4095));
            Ok(0)
        }
        own::CHARGED_PAGES => Ok(container::charged()),
        own::SET_QUOTA => container::set_quota(a),
        own::TURN => turn::turn(a, b, c as i64, d),

        // rseq, membarrier, io_uring, clone, fork, execve, ...: glibc and std do without.
        _ => Err(libc::ENOSYS),
    }
}

/// clone3(2) for threads: a new LibOS thread that starts after the syscall with RAX = 0.
fn clone3(frame: &Frame, arguments: u64, size: u64) -> SysResult {
    const NEEDED: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    if size < 64 {
        return Err(libc::EINVAL);
    }
    let [flags, _pidfd, child_tid, parent_tid, _signal, stack, stack_size, tls] = user::read::<[u64; 8]>(arguments)?;
    if flags & NEEDED != NEEDED {
        return Err(libc::ENOSYS);
    }
    let has = |flag: i32| flags & flag as u64 != 0;
    let top = stack.checked_add(stack_size).ok_or(libc::EINVAL)?;
    // Between the return address and the payload's own stack pointer lie the 128 bytes that the trampoline skips, and for a trapped
    // syscall the address to go back to. The child needs the same below its own stack pointer.
    let return_address = user::read::<u64>(frame.rsp)?;
    let trapped = teemate_trapped as *const () as u64;
    let kept = if (trapped..trapped + 64).contains(&return_address) { 2 } else { 1 };
    let rsp = top.checked_sub(128 + kept * 8).ok_or(libc::EINVAL)?;
    for i in 0..kept {
        user::write(rsp + i * 8, user::read::<u64>(frame.rsp + i * 8)?)?;
    }
    let registers = Frame { rax: 0, rsp, ..*frame };
    let fs_base = if has(libc::CLONE_SETTLS) { tls } else { Thread::current().fs_base.get() };
    let child = thread::create(&registers, fs_base)?;
    if has(libc::CLONE_PARENT_SETTID) {
        user::write(parent_tid, child.tid())?;
    }
    if has(libc::CLONE_CHILD_SETTID) {
        user::write(child_tid, child.tid())?;
    }
    if has(libc::CLONE_CHILD_CLEARTID) {
        child.clear_tid.set(child_tid);
    }
    let tid = child.tid();
    thread::make_ready(child);
    Ok(u64::from(tid))
}

fn arch_prctl(code: u64, address: u64) -> SysResult {
    const ARCH_SET_FS: u64 = 0x1002;
    const ARCH_GET_FS: u64 = 0x1003;
    let thread = Thread::current();
    match code {
        ARCH_SET_FS => {
            thread.fs_base.set(address);
            // SAFETY: FS belongs to the payload; the LibOS does not use it. WRFSBASE is legal in enclaves.
            unsafe { core::arch::asm!("wrfsbase {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
            Ok(0)
        }
        ARCH_GET_FS => user::write(address, thread.fs_base.get()).map(|()| 0),
        _ => Err(libc::EINVAL),
    }
}

/// Two processors: what the payload sees decides how many threads it starts, not how many the host lends.
fn affinity(size: u64, mask: u64) -> SysResult {
    if size < 8 {
        return Err(libc::EINVAL);
    }
    user::write(mask, 3u64)?;
    Ok(8)
}

fn clock_gettime(id: u64, timespec: u64) -> SysResult {
    let now = match id as i32 {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => clock::realtime(),
        // CPU time is the host's business; what the payload wants of it is a clock that runs.
        _ => clock::monotonic(),
    };
    user::write(timespec, [now / 1_000_000_000, now % 1_000_000_000])?;
    Ok(0)
}

fn sleep(deadline: u64) -> SysResult {
    let thread = Thread::current();
    // Time is looked at in here: a host that answers early only makes us ask again.
    while clock::monotonic() < deadline {
        thread.wait(Some(deadline));
    }
    Ok(0)
}

fn fstat(fd: u64, address: u64) -> SysResult {
    stat(address, files::status(fd)?)
}

/// A `struct statx`: what is known is type, mode and size.
fn statx(address: u64, (mode, length): (u32, u64)) -> SysResult {
    let mut statx = [0u64; 32];
    statx[0] = u64::from(libc::STATX_TYPE | libc::STATX_MODE | libc::STATX_NLINK | libc::STATX_SIZE) | 4096 << 32; // stx_mask, stx_blksize
    statx[2] = 1; // stx_nlink
    statx[3] = u64::from(mode) << 32; // stx_mode
    statx[5] = length;
    user::write(address, statx)?;
    Ok(0)
}

fn stat(address: u64, (mode, length): (u32, u64)) -> SysResult {
    let mut stat = [0u64; 18];
    stat[2] = 1; // st_nlink
    stat[3] = u64::from(mode); // st_mode, st_uid
    stat[6] = length;
    stat[7] = 4096;
    user::write(address, stat)?;
    Ok(0)
}

fn readlink(path: u64, buffer: u64, size: u64) -> SysResult {
    const EXECUTABLE: &[u8] = b"/payload";
    if user::string(path)? != b"/proc/self/exe" {
        return Err(libc::ENOENT);
    }
    let length = EXECUTABLE.len().min(size as usize);
    user::bytes_mut(buffer, length as u64)?.copy_from_slice(&EXECUTABLE[..length]);
    Ok(length as u64)
}

fn uname(address: u64) -> SysResult {
    let mut names = Vec::with_capacity(6 * 65);
    for name in ["Linux", "enclave", "6.0.0", "TeeMate", "x86_64", ""] {
        let start = names.len();
        names.extend_from_slice(name.as_bytes());
        names.resize(start + 65, 0);
    }
    user::bytes_mut(address, names.len() as u64)?.copy_from_slice(&names);
    Ok(0)
}
