//! The guard: a SIGKILL is an AEX as well.
//!
//! On hardware a thread that is killed inside has left the enclave by an AEX before the kernel even looks at the signal. Here nothing
//! would have saved its registers. So one thread of the node traces every process that enters (PTRACE_SEIZE, PTRACE_O_TRACEEXIT): a thread
//! that dies, of whatever cause, stops once more at PTRACE_EVENT_EXIT, where its registers and XSTATE can still be read, and the guard
//! writes them where an AEX would have. [`Rule`] lists what it may find; `transition::locate` tells them apart.
//!
//! The price: every signal of a traced process is a stop of its own (20-100 us). Nothing on the hot path raises one.
//!
//! The tracer is a process of its own ([`run`]), because ptrace and wait(2) belong to whole processes: in the node's own process, any
//! `waitpid` of another thread would take the tracer's stops, and the tracer would take exit statuses. It is forked when the simulator
//! starts, gets each enclave's memory over a socket, and answers each request by an eventfd that came with it. When the node is gone it
//! goes on until its last tracee is.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    time::Duration,
};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, TCS_MAX, tcs_block},
};

use super::{
    enclave::entry_of,
    leaves,
    memory::Memory,
    process,
    shared::{BUSY, RECORDS, Record, STATE_BASE, Shared},
    signals,
    ssa::{Cause, Context, reg},
    transition::{self, GATE_RETURN, Place},
    warm,
};
use crate::device::Error;

/// How long a seizure or a death may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Rounds in search of threads that a process makes while it is being seized.
const ROUNDS: usize = 64;

/// What a thread's death hit, and what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Rule {
    /// Nothing of an enclave was in its registers, or it had left by itself.
    Outside = 0,
    /// In ELRANGE: its registers are the frame.
    Inside = 1,
    /// In ELRANGE, at a syscall instruction that had trapped already: RIP goes back by two.
    InsideSyscall = 2,
    /// In EENTER with the TCS taken: given back.
    Entering = 3,
    /// In ERESUME with the TCS taken: given back, CSSA raised again.
    Resuming = 4,
    /// In the gate, before a leaf took effect: it will be executed again.
    LeafBefore = 5,
    /// In the gate, after a leaf took effect: it is complete.
    LeafAfter = 6,
    /// In a signal handler, interrupted in ELRANGE: the frame is what the kernel had written.
    HandlerInside = 7,
    /// In a signal handler, interrupted in the transition code.
    HandlerTransition = 8,
    /// Inside, but nobody knows with which TCS, or its registers could not be read. The TCS stays busy for ever.
    Lost = 9,
    /// Gone without a last stop, so nothing is known.
    Vanished = 10,
}

/// Deaths by [`Rule`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KillCounts(pub [u64; 16]);

impl KillCounts {
    pub(super) fn read(shared: &Shared) -> Self {
        let mut counts = KillCounts::default();
        for (to, from) in counts.0.iter_mut().zip(&shared.secs().kills) {
            *to = from.load(Relaxed);
        }
        counts
    }

    /// How many hit this.
    pub fn by(&self, rule: Rule) -> u64 {
        self.0[rule as usize]
    }

    /// Threads inside, whose state was saved.
    pub fn inside(&self) -> u64 {
        [Rule::Inside, Rule::InsideSyscall, Rule::LeafBefore, Rule::LeafAfter, Rule::HandlerInside, Rule::HandlerTransition]
            .into_iter()
            .map(|rule| self.by(rule))
            .sum()
    }

    /// Threads in the simulator's own code, with a TCS taken.
    pub fn in_transition(&self) -> u64 {
        [Rule::Entering, Rule::Resuming, Rule::LeafBefore, Rule::LeafAfter, Rule::HandlerTransition]
            .into_iter()
            .map(|rule| self.by(rule))
            .sum()
    }
}

/// The node's end: a socket to the guard's process.
pub struct Guard {
    socket: OwnedFd,
    next: AtomicU64,
}

/// What the guard is asked for.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Ask {
    /// Here is the memory of enclave `enclave` (four descriptors).
    Enclave = 1,
    /// It is gone.
    Forget = 2,
    /// Seize process `pid`, which has `enclave`.
    Seize = 3,
    /// Answer when all its threads have had their last stop.
    WaitSaved = 4,
    /// Tests: see [`Guard::kill_after`].
    KillAfter = 5,
}

/// A request on the wire; its last descriptor is the eventfd for the answer.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Request {
    ask: u64,
    enclave: u64,
    pid: i64,
    count: u64,
}

/// Most descriptors with a request.
const FDS_MAX: usize = 5;
/// How often a guard whose node is gone looks whether its last threads are still there.
const LAST_LOOK_MS: i32 = 500;

impl Guard {
    /// Forks the guard's process.
    pub fn start() -> Result<Arc<Guard>, Error> {
        let mut ends = [0; 2];
        // SAFETY: writes two descriptors.
        if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) } != 0 {
            return Err(process::system("socketpair", "raise `ulimit -n`"));
        }
        // SAFETY: new, and ours.
        let [ours, theirs] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: the child runs only `run`, which takes no lock that another thread of this process could have held at the fork: it
        // allocates (the C library makes its allocator usable in a forked child) and makes system calls.
        match unsafe { libc::fork() } {
            -1 => Err(process::system("fork", "check `ulimit -u`")),
            0 => {
                // Twice, so that nobody has to reap it.
                // SAFETY: as above; _exit runs nothing.
                unsafe {
                    if libc::fork() == 0 {
                        run(theirs);
                    }
                    libc::_exit(0)
                }
            }
            child => {
                // SAFETY: the child above, which exits at once; EINTR only leaves a zombie until this process ends.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                Ok(Arc::new(Guard { socket: ours, next: AtomicU64::new(1) }))
            }
        }
    }

    /// Shows it an enclave; gives the number by which it knows it.
    pub fn show(&self, memory: &Memory) -> Result<u64, Error> {
        let enclave = self.next.fetch_add(1, Relaxed);
        let fds: Vec<BorrowedFd<'_>> = memory.fds.iter().map(std::os::fd::AsFd::as_fd).collect();
        self.ask(Request { ask: Ask::Enclave as u64, enclave, ..Request::default() }, &fds, "the guard could not map the enclave")?;
        Ok(enclave)
    }

    /// The enclave is gone.
    pub fn forget(&self, enclave: u64) {
        // Nothing to do if the guard is gone too.
        let _ = self.ask(Request { ask: Ask::Forget as u64, enclave, ..Request::default() }, &[], "");
    }

    /// Seizes all threads of a process. Returns when they are.
    pub fn seize(&self, pid: i32, enclave: u64) -> Result<(), Error> {
        let request = Request { ask: Ask::Seize as u64, enclave, pid: pid.into(), count: 0 };
        self.ask(request, &[], "the process is gone, or has another debugger, or kernel.yama.ptrace_scope forbids it")
    }

    /// Waits until all threads of a process have had their last stop.
    pub fn wait_saved(&self, pid: i32) -> Result<(), Error> {
        let request = Request { ask: Ask::WaitSaved as u64, pid: pid.into(), ..Request::default() };
        self.ask(request, &[], "the process did not end; kill it first")
    }

    /// For tests: at the next INT3 of this (seized) process, swallows it, executes so many instructions more, and kills it there.
    #[doc(hidden)]
    pub fn kill_after(&self, pid: i32, instructions: u64) -> Result<(), Error> {
        let request = Request { ask: Ask::KillAfter as u64, pid: pid.into(), count: instructions, ..Request::default() };
        self.ask(request, &[], "the guard does not have this process")
    }

    fn ask(&self, request: Request, fds: &[BorrowedFd<'_>], hint: &'static str) -> Result<(), Error> {
        // SAFETY: no memory is passed.
        let answer = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if answer < 0 {
            return Err(process::system("eventfd", "raise `ulimit -n`"));
        }
        // SAFETY: new, and ours.
        let answer = unsafe { OwnedFd::from_raw_fd(answer) };
        let mut raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        raw.push(answer.as_raw_fd());
        if !send(&self.socket, &request, &raw) {
            return Err(process::system("send to the simulator's guard", "its process is gone; restart the node"));
        }
        let mut poll = libc::pollfd { fd: answer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            // SAFETY: one local pollfd.
            match unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32 + 1) } {
                1 => break,
                -1 if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
                _ => {
                    let source = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
                    return Err(Error::System { what: "wait for the simulator's guard", source, hint });
                }
            }
        }
        let mut value = 0u64;
        // SAFETY: writes eight bytes to `value`.
        unsafe { libc::read(answer.as_raw_fd(), (&raw mut value).cast(), 8) };
        match value {
            1 => Ok(()),
            value => {
                let source = std::io::Error::from_raw_os_error(value.saturating_sub(1) as i32);
                Err(Error::System { what: "the simulator's guard", source, hint })
            }
        }
    }
}

/// Room for the control message with [`FDS_MAX`] descriptors.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn send(socket: &OwnedFd, request: &Request, fds: &[i32]) -> bool {
    let mut vector = libc::iovec { iov_base: (request as *const Request).cast_mut().cast(), iov_len: size_of::<Request>() };
    let mut control = Control([0; 64]);
    let bytes = size_of_val(fds) as u32;
    // SAFETY: zeroed is a valid msghdr; all pointers are to locals that outlive the call; at most FDS_MAX descriptors fit `control`.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(bytes) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
        std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), bytes as usize);
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) == size_of::<Request>() as isize
    }
}

/// A request and its descriptors; `None`: the node is gone.
fn receive(socket: &OwnedFd) -> Option<(Request, Vec<OwnedFd>)> {
    let mut request = Request::default();
    let mut vector = libc::iovec { iov_base: (&raw mut request).cast(), iov_len: size_of::<Request>() };
    let mut control = Control([0; 64]);
    let mut fds = Vec::new();
    // SAFETY: zeroed is a valid msghdr; all pointers are to locals that outlive the call; the kernel's control messages are well formed.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        if libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) != size_of::<Request>() as isize {
            return None;
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / 4;
            let data = libc::CMSG_DATA(header).cast::<i32>();
            for index in 0..count.min(FDS_MAX) {
                fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
            }
        }
    }
    Some((request, fds))
}

fn answer(to: &OwnedFd, errno: i32) {
    let value = errno as u64 + 1;
    // SAFETY: reads eight bytes of `value`.
    unsafe { libc::write(to.as_raw_fd(), (&raw const value).cast(), 8) };
}

/// The guard's own tables.
#[derive(Default)]
struct Inner {
    enclaves: HashMap<u64, Arc<Memory>>,
    /// Pages that processes of each enclave had, by the address of its memory.
    samples: HashMap<usize, warm::Samples>,
    processes: HashMap<i32, Process>,
    /// Thread to process.
    threads: HashMap<i32, i32>,
    /// Registers at a thread's last stop. If it is killed in that stop, PTRACE_CONT may hit the stop at its end instead, before anybody
    /// saw that one. Then these are its registers, because it did not run in between.
    last: HashMap<i32, Stopped>,
    /// Who waits for the end of a process.
    waiting: Vec<(i32, OwnedFd)>,
    /// Tests: processes that are to be killed so many instructions after their next INT3.
    doomed: HashMap<i32, u64>,
}

struct Process {
    memory: Arc<Memory>,
    /// Threads that have not had their last stop.
    alive: HashSet<i32>,
}

/// A thread's registers.
struct Stopped {
    context: Context,
    /// Stopped in a system call.
    at_syscall: bool,
    xsave: Option<Vec<u8>>,
}

/// The life of the guard's process.
fn run(socket: OwnedFd) -> ! {
    let Some((signals, own)) = settle_in(socket.as_raw_fd()) else {
        // SAFETY: ends the process without running anything of the node's.
        unsafe { libc::_exit(1) }
    };
    // SAFETY: both are open and ours; the node's descriptor was moved to `own`.
    let (signals, socket) = unsafe {
        std::mem::forget(socket);
        (OwnedFd::from_raw_fd(signals), OwnedFd::from_raw_fd(own))
    };
    let mut inner = Inner::default();
    let mut connected = true;
    while connected || !inner.threads.is_empty() {
        let node = if connected { socket.as_raw_fd() } else { -1 };
        let mut polls = [signals.as_raw_fd(), node].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: two local pollfds.
        unsafe { libc::poll(polls.as_mut_ptr(), 2, if connected { -1 } else { LAST_LOOK_MS }) };
        if polls[0].revents != 0 {
            let mut info = [0u8; 128];
            // SAFETY: writes at most 128 bytes to `info`.
            unsafe { libc::read(signals.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
        }
        stops(&mut inner);
        if polls[1].revents != 0 {
            match receive(&socket) {
                Some((request, fds)) => serve(&mut inner, request, fds),
                None => connected = false,
            }
        }
        if !connected {
            // Nobody will stop a thread any more that has gone without a last stop; it must not hold the guard.
            inner.threads.retain(|thread, _| is_traced(*thread));
        }
    }
    // SAFETY: as above.
    unsafe { libc::_exit(0) }
}

/// Whether the kernel still knows a thread as one that we trace.
fn is_traced(thread: i32) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: writes at most one siginfo_t; WNOWAIT leaves whatever there is for `stops`.
    unsafe { libc::waitid(libc::P_PID, thread as u32, info.as_mut_ptr(), options) == 0 }
}

/// Makes the forked process one of its own: no descriptors, terminal or signals of the node. Gives the signalfd and the socket.
fn settle_in(socket: i32) -> Option<(i32, i32)> {
    // SAFETY: descriptors and signal masks of this process, in which nothing else runs.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"teemate-guard".as_ptr());
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        libc::dup2(socket, 3);
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        for signal in [libc::SIGCHLD, libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        let signals = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        (signals >= 0).then_some((signals, 3))
    }
}

fn serve(inner: &mut Inner, request: Request, mut fds: Vec<OwnedFd>) {
    let Some(to) = fds.pop() else { return };
    let pid = request.pid as i32;
    let errno = match request.ask {
        ask if ask == Ask::Enclave as u64 => match Memory::open(fds) {
            Ok(memory) => {
                inner.enclaves.insert(request.enclave, Arc::new(memory));
                0
            }
            Err(_) => libc::ENOMEM,
        },
        ask if ask == Ask::Forget as u64 => {
            if let Some(memory) = inner.enclaves.remove(&request.enclave) {
                inner.samples.remove(&(Arc::as_ptr(&memory) as usize));
            }
            0
        }
        ask if ask == Ask::Seize as u64 => match inner.enclaves.get(&request.enclave).cloned() {
            Some(memory) => seize_all(inner, pid, &memory),
            None => libc::ENOENT,
        },
        ask if ask == Ask::WaitSaved as u64 && inner.processes.contains_key(&pid) => {
            inner.waiting.push((pid, to));
            return;
        }
        ask if ask == Ask::WaitSaved as u64 => 0,
        ask if ask == Ask::KillAfter as u64 && inner.processes.contains_key(&pid) => {
            inner.doomed.insert(pid, request.count);
            0
        }
        _ => libc::EINVAL,
    };
    answer(&to, errno);
}

/// Deals with every stop that there is.
fn stops(inner: &mut Inner) {
    loop {
        let mut status = 0;
        // SAFETY: one local integer.
        let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::WNOHANG) };
        if tid <= 0 {
            return;
        }
        on_stop(inner, tid, status);
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Gives an errno, 0 if all threads are seized.
fn seize_all(inner: &mut Inner, pid: i32, memory: &Arc<Memory>) -> i32 {
    let options = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACECLONE;
    inner.processes.entry(pid).or_insert_with(|| Process { memory: memory.clone(), alive: HashSet::new() }).memory = memory.clone();
    for _ in 0..ROUNDS {
        let mut fresh = false;
        for tid in threads_of(pid) {
            if inner.threads.contains_key(&tid) {
                continue;
            }
            // SAFETY: no memory is passed.
            if unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0usize, options as usize) } != 0 {
                match (errno(), tracing_of(tid)) {
                    // Gone, or on its way.
                    (libc::ESRCH, _) | (_, Tracing::Dead) => continue,
                    // Made by a thread that is seized already.
                    (libc::EPERM, Tracing::Ours) => {}
                    (error, _) => {
                        inner.processes.remove(&pid);
                        return error;
                    }
                }
            }
            inner.threads.insert(tid, pid);
            if let Some(process) = inner.processes.get_mut(&pid) {
                process.alive.insert(tid);
            }
            fresh = true;
        }
        if !fresh {
            if inner.processes.get(&pid).is_some_and(|process| !process.alive.is_empty()) {
                return 0;
            }
            inner.processes.remove(&pid);
            return libc::ESRCH;
        }
    }
    libc::EAGAIN
}

fn threads_of(pid: i32) -> Vec<i32> {
    let Ok(directory) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// How things stand with a thread that can't be seized.
#[derive(PartialEq, Eq)]
enum Tracing {
    Ours,
    Dead,
    Other,
}

fn tracing_of(tid: i32) -> Tracing {
    let Some(status) = status_of(tid) else { return Tracing::Dead };
    let field = |name: &str| field(&status, name).unwrap_or_default();
    if field("State").starts_with(['Z', 'X']) {
        Tracing::Dead
    } else if field("TracerPid") == std::process::id().to_string() {
        Tracing::Ours
    } else {
        Tracing::Other
    }
}

fn process_of(tid: i32) -> Option<i32> {
    field(&status_of(tid)?, "Tgid")?.parse().ok()
}

/// What the kernel says of a thread (proc_pid_status(5)); `None`: it is gone.
fn status_of(tid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{tid}/status")).ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn on_stop(inner: &mut Inner, tid: i32, status: i32) {
    if !libc::WIFSTOPPED(status) {
        // Gone without a last stop.
        if let Some(pid) = inner.threads.remove(&tid) {
            let last = inner.last.remove(&tid);
            ended(inner, pid, tid, |memory| last.map_or(Rule::Vanished, |last| save(memory, last)));
        }
        return;
    }
    adopt(inner, tid);
    let signal = libc::WSTOPSIG(status);
    let before = inner.last.get(&tid).map(|last| last.context);
    if status >> 16 != libc::PTRACE_EVENT_EXIT && !remember(inner, tid) {
        // It was killed in this stop and is on its way to the last one, which a PTRACE_CONT would only spoil.
        return;
    }
    match status >> 16 {
        0 if inner.doomed.contains_key(&tid) => step(inner, tid, signal),
        0 if before.is_some() && before == inner.last.get(&tid).map(|last| last.context) && survives_its_fault(tid, signal) => {
            // SAFETY: no memory is passed; the thread is a tracee that has not been reaped, so the id is its own.
            unsafe { libc::kill(tid, libc::SIGKILL) };
        }
        0 => go_on(libc::PTRACE_CONT, tid, signal),
        libc::PTRACE_EVENT_EXIT => {
            if let Some(pid) = inner.threads.remove(&tid) {
                inner.last.remove(&tid);
                sample(inner, pid);
                ended(inner, pid, tid, |memory| stopped(memory, tid).map_or(Rule::Lost, |stopped| save(memory, stopped)));
            }
            go_on(libc::PTRACE_DETACH, tid, 0);
        }
        libc::PTRACE_EVENT_STOP if matches!(signal, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {
            go_on(libc::PTRACE_LISTEN, tid, 0);
        }
        _ => go_on(libc::PTRACE_CONT, tid, 0),
    }
}

/// Whether a thread is stopped by a fault that nothing in its process handles. Such a fault ends a process, unless that is the first one of
/// a pid namespace and traced (kernel/signal.c, `force_sig_info_to_task`): then the instruction faults again, for ever.
fn survives_its_fault(tid: i32, signal: i32) -> bool {
    if !matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGSYS | libc::SIGTRAP) {
        return false;
    }
    let status = status_of(tid).unwrap_or_default();
    let caught = field(&status, "SigCgt").and_then(|set| u64::from_str_radix(set, 16).ok());
    caught.is_some_and(|caught| caught >> (signal - 1) & 1 == 0)
}

/// A thread that a seized thread made, and that is traced since its start: at its own first stop, before which it has done nothing. Not when
/// its maker reports it: by then it may have had its last one. (A process, if it was cloned with another exit signal than
/// SIGCHLD; then nothing of it is known but that it must go on.)
fn adopt(inner: &mut Inner, tid: i32) {
    if inner.threads.contains_key(&tid) {
        return;
    }
    let Some(pid) = process_of(tid) else { return };
    inner.threads.insert(tid, pid);
    if let Some(process) = inner.processes.get_mut(&pid) {
        process.alive.insert(tid);
    }
}

/// False if the thread is not stopped any more.
fn remember(inner: &mut Inner, tid: i32) -> bool {
    let memory = inner.threads.get(&tid).and_then(|pid| inner.processes.get(pid)).map(|process| &process.memory);
    let Some(memory) = memory else { return true };
    let Some(stopped) = stopped(memory, tid) else { return false };
    inner.last.insert(tid, stopped);
    true
}

/// Looks what a process that was inside has mapped, before its last thread ends: if it has one thread, as those of calls have.
fn sample(inner: &mut Inner, pid: i32) {
    let Some(process) = inner.processes.get(&pid).filter(|process| process.alive.len() == 1) else { return };
    let memory = Arc::clone(&process.memory);
    let samples = inner.samples.entry(Arc::as_ptr(&memory) as usize).or_default();
    if entry_of(pid).is_some()
        && samples.wanted()
        && let Some(runs) = warm::mapped_pages(&memory.shared(), pid)
    {
        samples.add(&memory.shared(), runs);
    }
}

/// A thread is at its end: deals with its TCS, and forgets the process with its last thread.
fn ended(inner: &mut Inner, pid: i32, tid: i32, deal: impl FnOnce(&Memory) -> Rule) {
    let Some(process) = inner.processes.get_mut(&pid) else { return };
    if process.alive.remove(&tid) {
        let rule = deal(&process.memory);
        count(&process.memory, rule);
    }
    if process.alive.is_empty() {
        free_entry(&process.memory, pid);
        inner.processes.remove(&pid);
        inner.doomed.remove(&pid);
        for (_, to) in inner.waiting.extract_if(.., |(waited, _)| *waited == pid) {
            answer(&to, 0);
        }
    }
}

/// A stop of a process that a test has doomed.
fn step(inner: &mut Inner, tid: i32, signal: i32) {
    let passed_on = if signal == libc::SIGTRAP { 0 } else { signal };
    match inner.doomed.get_mut(&tid) {
        Some(0) => {
            inner.doomed.remove(&tid);
            // SAFETY: no memory is passed; the process is a tracee that has not been reaped, so the pid is its own.
            unsafe { libc::kill(tid, libc::SIGKILL) };
        }
        Some(left) => {
            // The stop at INT3 itself counts for none; every later one is an instruction.
            *left -= 1;
            go_on(libc::PTRACE_SINGLESTEP, tid, passed_on);
        }
        None => go_on(libc::PTRACE_CONT, tid, signal),
    }
}

fn go_on(how: libc::c_uint, tid: i32, signal: i32) {
    // SAFETY: no memory is passed. It fails only if the thread was killed meanwhile, and then there is another event.
    unsafe { libc::ptrace(how, tid, 0usize, signal as usize) };
}

fn count(memory: &Memory, rule: Rule) {
    memory.shared().secs().kills[rule as usize].fetch_add(1, Relaxed);
}

/// The process will not acknowledge anything any more.
fn free_entry(memory: &Memory, pid: i32) {
    if let Some(entry) = entry_of(pid).and_then(|index| memory.shared().process(index).map(|entry| &entry.taken as *const _)) {
        // SAFETY: lives as long as `memory`'s mapping.
        let taken: &std::sync::atomic::AtomicU64 = unsafe { &*entry };
        taken.store(0, Release);
    }
}

/// Reads a stopped thread's registers; XSTATE only where it may be the enclave's.
fn stopped(memory: &Memory, tid: i32) -> Option<Stopped> {
    let (context, at_syscall) = registers_of(tid)?;
    let shared = memory.shared();
    let identity = shared.identity();
    let elsewhere = context.rip.wrapping_sub(ELRANGE_BASE) >= identity.elrange_size
        && !(transition::BASE..transition::BASE + transition::SIZE).contains(&context.rip);
    let xsave = if elsewhere { None } else { Some(xstate_of(tid, identity.xsave_size as usize)?) };
    Some(Stopped { context, at_syscall, xsave })
}

/// A thread at its last stop: does for its TCS what an AEX would have done.
fn save(memory: &Memory, Stopped { context: mut live, at_syscall, mut xsave }: Stopped) -> Rule {
    let shared = memory.shared();
    let identity = shared.identity();
    let size = identity.xsave_size;
    let inside = live.rip.wrapping_sub(ELRANGE_BASE) < identity.elrange_size;
    let handler_slot = signal_slot(live.gpr[reg::RSP], identity.tcs_count);
    let index = if inside { None } else { handler_slot.or_else(|| stack_slot(live.gpr[reg::RSP], identity.tcs_count)) };
    let Some(index) = index.or_else(|| owner_by_gs(&shared, live.gs)) else {
        return if inside { Rule::Lost } else { Rule::Outside };
    };
    let Some(record) = shared.record(index) else { return Rule::Outside };
    if record.state.load(SeqCst) & BUSY == 0 {
        return Rule::Outside;
    }
    leaves::settle(&shared, record);
    let in_handler = !inside && handler_slot.is_some();
    if in_handler {
        let Some((context, area)) = interrupted(memory, record, &live, size) else { return Rule::Lost };
        live = context;
        xsave = Some(area);
    } else if inside && at_syscall && is_syscall(memory, live.rip.wrapping_sub(2)) {
        live.rip -= 2;
    } else if at_syscall && inside {
        return Rule::Lost;
    }
    match transition::locate(record, identity.elrange_size, identity.gate, &live) {
        Place::Outside => Rule::Outside,
        Place::Entering => {
            record.state.fetch_and(!BUSY, SeqCst);
            Rule::Entering
        }
        Place::Resuming => {
            signals::undo_resume(record);
            Rule::Resuming
        }
        Place::Inside { context, xstate_in_record, in_transition } => {
            let xsave = if xstate_in_record { memory.host_bytes(record.xarea.load(Relaxed), size) } else { xsave };
            let Some(xsave) = xsave else { return Rule::Lost };
            // SAFETY: its only user is at its last stop.
            let Some(mut frame) = (unsafe { memory.next_frame(record) }) else { return Rule::Lost };
            process::commit(&shared, record, &mut frame, &context, &xsave, Cause::Interrupt);
            match (in_handler, in_transition) {
                (true, true) => Rule::HandlerTransition,
                (true, false) => Rule::HandlerInside,
                (false, true) if context.rip == identity.gate + GATE_RETURN => Rule::LeafAfter,
                (false, true) => Rule::LeafBefore,
                (false, false) if at_syscall => Rule::InsideSyscall,
                (false, false) => Rule::Inside,
            }
        }
    }
}

/// Which slot's signal stack this is in.
fn signal_slot(rsp: u64, tcs_count: u64) -> Option<u64> {
    let offset = rsp.checked_sub(host_area::SLOTS)?;
    let (slot, within) = (offset / host_area::SLOT_STRIDE, offset % host_area::SLOT_STRIDE);
    let on_it = within > host_area::SLOT_SIGNAL_STACK && within <= host_area::SLOT_SIGNAL_STACK_TOP;
    (slot < tcs_count && on_it).then_some(slot)
}

/// Which slot's untrusted stack this is in.
fn stack_slot(rsp: u64, tcs_count: u64) -> Option<u64> {
    let offset = rsp.checked_sub(host_area::SLOTS)?;
    let (slot, within) = (offset / host_area::SLOT_STRIDE, offset % host_area::SLOT_STRIDE);
    let on_it = (host_area::SLOT_STACK..host_area::SLOT_STACK_TOP).contains(&within);
    (slot < tcs_count && on_it).then_some(slot)
}

/// Which TCS a thread has, by its GS base: inside it is the TCS's local page, outside the record.
fn owner_by_gs(shared: &Shared, gs: u64) -> Option<u64> {
    let identity = shared.identity();
    let by = |start: u64, stride: u64, count: u64| {
        let index = gs.checked_sub(start)? / stride;
        (index < count).then_some(index)
    };
    by(STATE_BASE + RECORDS, size_of::<Record>() as u64, TCS_MAX as u64)
        .or_else(|| by(identity.tcs_start, tcs_block::STRIDE, identity.tcs_count))
}

/// What a signal handler interrupted: context and XSAVE area of the frame at its constant place.
fn interrupted(memory: &Memory, record: &Record, live: &Context, xsave_size: u64) -> Option<(Context, Vec<u8>)> {
    /// Within the kernel's `ucontext`: the general registers, the pointer to the XSAVE area, and the siginfo behind it.
    const GREGS: usize = 40;
    const FPSTATE: usize = GREGS + 23 * 8;
    const SIGINFO: usize = 304;
    let at = record.signal_frame.load(Relaxed);
    let bytes = memory.host_bytes(at, SIGINFO as u64 + 32)?;
    let long = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
    let mut gregs = [0i64; 23];
    for (index, register) in gregs.iter_mut().enumerate() {
        *register = long(GREGS + index * 8)? as i64;
    }
    let mut context = signals::context_of(&gregs);
    context.gs = live.gs;
    context.fs = live.fs;
    if live.fs == record.host_fs.load(Relaxed) {
        // The handler has pushed the interrupted one and loaded the host's.
        let pushed = memory.host_bytes(at - signals::PUSHED_FS, 8)?;
        context.fs = u64::from_le_bytes(*pushed.first_chunk()?);
    }
    let signal = long(SIGINFO)? as i32;
    context.rip -= signals::past_instruction(signal, long(SIGINFO + 8)? as i32, gregs[libc::REG_TRAPNO as usize] as u64);
    let leaf_rip = record.leaf_rip.load(Acquire);
    if leaf_rip != 0 && leaf_rip == context.rip && record.leaf_done.load(Acquire) != 0 {
        context.gpr[reg::RAX] = record.regs[reg::RAX].load(Relaxed);
        context.rflags = record.flags.load(Relaxed);
        context.rip += 3;
    }
    Some((context, memory.host_bytes(long(FPSTATE)?, xsave_size)?))
}

/// General registers, and whether it is in a system call.
fn registers_of(tid: i32) -> Option<(Context, bool)> {
    let mut regs = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    // SAFETY: writes one user_regs_struct.
    if unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0usize, regs.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: zeroed, then filled.
    let r = unsafe { regs.assume_init() };
    let gpr = [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    let mut context = Context { gpr, rflags: r.eflags, rip: r.rip, fs: r.fs_base, gs: r.gs_base };
    let at_syscall = (r.orig_rax as i64) >= 0;
    if at_syscall && context.rip.wrapping_sub(ELRANGE_BASE) < teemate_abi::layout::ELRANGE_SIZE_MAX {
        context.gpr[reg::RAX] = r.orig_rax;
    }
    Some((context, at_syscall))
}

/// XSTATE in the standard format, `size` bytes of it.
fn xstate_of(tid: i32, size: usize) -> Option<Vec<u8>> {
    const NT_X86_XSTATE: usize = 0x202;
    let mut area = vec![0u8; 16 << 10];
    let mut vector = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
    // SAFETY: writes at most iov_len bytes to `area`.
    if unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, &raw mut vector) } != 0 || vector.iov_len < size {
        return None;
    }
    area.truncate(size);
    Some(area)
}

fn is_syscall(memory: &Memory, address: u64) -> bool {
    // SAFETY: two bytes of code, compared at once.
    unsafe { memory.enclave_bytes(address, 2) }.is_some_and(|bytes| *bytes == [0x0f, 0x05])
}
