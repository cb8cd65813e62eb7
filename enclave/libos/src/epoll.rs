//! epoll(7) and eventfd(2).
//!
//! The host waits for sockets; which of them, and what the payload calls them, is in the [`Interest`] list. Counters of eventfd are inside
//! altogether: a write to one whose epoll instance sleeps outside kicks it awake, from whatever process the writer runs in.
//!
//! A host's descriptor dies with the process that holds it. Then the instance is made anew in the process that took over, and what was
//! watched and is gone is reported as hung up.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use teemate_abi::ocall::{EPOLL_EVENT, EPOLL_EVENTS_MAX};

use crate::files::{self, File, Kind, Target};
use crate::interest::{Interest, Watched};
use crate::lock::Spin;
use crate::{SysResult, clock, ocall, user};

/// Whose process holds the host's descriptors of instances: that of the payload's own threads.
const OWNER: u64 = 0;
/// Instances that there may be.
const INSTANCES: usize = 256;
/// Times that one wait makes its instance anew, before the host is taken at its word.
const ATTEMPTS: u32 = 16;
/// Largest value of a counter.
const COUNTER_MAX: u64 = u64::MAX - 1;
/// What is reported of a descriptor that is gone.
const GONE: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) as u32;

struct Instance {
    /// The host's descriptor.
    host: i32,
    list: Interest,
    /// Threads that may be waiting outside.
    sleepers: u32,
    /// Somebody has called them since the last one went out.
    kicked: bool,
    /// The last answer was of the inside alone: ask the host too before the next one, so that it is not starved.
    owed: bool,
}

struct Counter {
    value: u64,
    /// EFD_SEMAPHORE.
    by_one: bool,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<u64, Instance>,
    counters: BTreeMap<u64, Counter>,
}

static STATE: Spin<State> = Spin::new(State { instances: BTreeMap::new(), counters: BTreeMap::new() });

fn readiness(counter: Option<&Counter>) -> u32 {
    let Some(counter) = counter else { return 0 };
    let readable = if counter.value > 0 { libc::EPOLLIN } else { 0 };
    let writable = if counter.value < COUNTER_MAX { libc::EPOLLOUT } else { 0 };
    (readable | writable) as u32
}

/// epoll_create1(2).
pub fn create(flags: u64) -> SysResult {
    if flags & !(libc::EPOLL_CLOEXEC as u64) != 0 {
        return Err(libc::EINVAL);
    }
    if STATE.lock().instances.len() >= INSTANCES {
        return Err(libc::EMFILE);
    }
    let host = new_host()?;
    let file = File::new(Kind::Epoll, true);
    let instance = Instance { host, list: Interest::default(), sleepers: 0, kicked: false, owed: false };
    STATE.lock().instances.insert(file.id, instance);
    files::insert(file)
}

fn new_host() -> Result<i32, i32> {
    let host = ocall::epoll_create()?;
    files::claim(OWNER, host)?;
    Ok(host)
}

fn give_back(host: i32) {
    files::release(OWNER, host);
    ocall::close(host);
}

/// An epoll instance was closed.
pub fn destroy(id: u64) {
    let instance = STATE.lock().instances.remove(&id);
    if let Some(instance) = instance {
        give_back(instance.host);
    }
}

/// A file was closed: nobody watches it any more. (The host's list forgets it with the host's descriptor.)
pub fn closed(file: u64) {
    let mut state = STATE.lock();
    state.instances.values_mut().for_each(|instance| instance.list.forget(file));
    state.counters.remove(&file);
}

fn instance_of(fd: u64) -> Result<u64, i32> {
    match files::get(fd)? {
        Target::File(file) if matches!(file.kind, Kind::Epoll) => Ok(file.id),
        _ => Err(libc::EINVAL),
    }
}

/// epoll_ctl(2).
pub fn control(epoll: u64, operation: u64, fd: u64, event: u64) -> SysResult {
    let id = instance_of(epoll)?;
    let (file, watched) = match files::get(fd)? {
        Target::Standard(fd @ 3..) => (fd as u64, Watched::Host(fd)),
        Target::File(file) => match file.kind {
            Kind::Socket { fd, .. } => (file.id, Watched::Host(fd)),
            Kind::Event => (file.id, Watched::Event),
            Kind::Epoll => return Err(libc::EINVAL),
            Kind::Content { .. } | Kind::Data(_) => return Err(libc::EPERM),
        },
        Target::Standard(_) => return Err(libc::EPERM),
    };
    let key = (fd as i32, file);
    let operation = operation as i32;
    let (events, data) = if operation == libc::EPOLL_CTL_DEL { (0, 0) } else { split(user::read::<[u8; EPOLL_EVENT]>(event)?) };
    let (host, index, events) = {
        let mut state = STATE.lock();
        let State { instances, counters } = &mut *state;
        let instance = instances.get_mut(&id).ok_or(libc::EBADF)?;
        let index = match operation {
            libc::EPOLL_CTL_ADD => instance.list.add(key, watched, events, data)?,
            libc::EPOLL_CTL_MOD => instance.list.modify(key, events, data)?,
            libc::EPOLL_CTL_DEL => instance.list.remove(key).map(|_| 0)?,
            _ => return Err(libc::EINVAL),
        };
        let ready = readiness(counters.get(&file));
        if ready != 0 && operation != libc::EPOLL_CTL_DEL && watched == Watched::Event {
            instance.list.happened(index, ready);
        }
        (instance.host, index, instance.list.get(index).map_or(0, |entry| entry.events))
    };
    match watched {
        Watched::Host(target) => match ocall::epoll_control(host, operation, target, events, index) {
            Ok(()) => Ok(0),
            // The list says what shall be; the new instance is made from it.
            Err(libc::ESTALE) => renew(id, host).map(|()| 0),
            Err(error) => {
                if operation == libc::EPOLL_CTL_ADD
                    && let Some(instance) = STATE.lock().instances.get_mut(&id)
                {
                    let _ = instance.list.remove(key);
                }
                Err(error)
            }
        },
        // A counter that is ready already: who sleeps outside does not know.
        Watched::Event => {
            let wake = operation != libc::EPOLL_CTL_DEL && STATE.lock().instances.get_mut(&id).is_some_and(Instance::must_be_kicked);
            if wake {
                ocall::kick();
            }
            Ok(0)
        }
    }
}

fn split(event: [u8; EPOLL_EVENT]) -> (u32, u64) {
    let [a, b, c, d, data @ ..] = event;
    (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(data))
}

impl Instance {
    /// Notes a kick; true when the host has to be asked for it.
    fn must_be_kicked(&mut self) -> bool {
        self.sleepers > 0 && !core::mem::replace(&mut self.kicked, true)
    }
}

/// Makes the host's part of an instance anew, unless another thread has done so, and reports as hung up what the new process does not have.
fn renew(id: u64, stale: i32) -> Result<(), i32> {
    let new = new_host()?;
    let indices = {
        let mut state = STATE.lock();
        match state.instances.get_mut(&id) {
            Some(instance) if instance.host == stale => {
                instance.host = new;
                Some(instance.list.of_host())
            }
            _ => None,
        }
    };
    let Some(indices) = indices else {
        give_back(new);
        return Ok(());
    };
    files::release(OWNER, stale);
    for index in indices {
        let entry = STATE.lock().instances.get(&id).and_then(|instance| instance.list.get(index).copied());
        let Some(entry) = entry else { continue };
        let Watched::Host(fd) = entry.watched else { continue };
        match ocall::epoll_control(new, libc::EPOLL_CTL_ADD, fd, entry.events, index) {
            Ok(()) | Err(libc::EEXIST) => {}
            Err(libc::ESTALE) => break,
            Err(_) => {
                if let Some(instance) = STATE.lock().instances.get_mut(&id) {
                    instance.list.happened(index, GONE);
                }
            }
        }
    }
    Ok(())
}

/// epoll_wait(2).
pub fn wait(epoll: u64, address: u64, most: u64, timeout_ms: u64) -> SysResult {
    let (most, timeout_ms) = (most as i32, timeout_ms as i32);
    if most <= 0 {
        return Err(libc::EINVAL);
    }
    let most = (most as usize).min(EPOLL_EVENTS_MAX);
    user::check(address, (most * EPOLL_EVENT) as u64, true)?;
    let id = instance_of(epoll)?;
    let deadline = match timeout_ms {
        ..0 => None,
        ms => Some(clock::monotonic().saturating_add(ms as u64 * 1_000_000)),
    };
    let mut attempts = 0;
    loop {
        let left_ms = match deadline {
            None => -1,
            // Rounded up: to come back too late by less than a millisecond is allowed, too early is not.
            Some(deadline) => (deadline.saturating_sub(clock::monotonic()).div_ceil(1_000_000) as i64).min(i64::from(i32::MAX)),
        };
        let (told, host, sleeps) = {
            let mut state = STATE.lock();
            let State { instances, counters } = &mut *state;
            let instance = instances.get_mut(&id).ok_or(libc::EBADF)?;
            let told = instance.list.inside(most, |file| readiness(counters.get(&file)));
            let sleeps = told.is_empty() && left_ms != 0;
            if !told.is_empty() {
                instance.owed = !instance.owed;
                if instance.owed || told.len() == most {
                    return answer(address, &told);
                }
            }
            if sleeps {
                instance.sleepers += 1;
                instance.kicked = false;
            }
            instance.list.new_round();
            (told, instance.host, sleeps)
        };
        let came = ocall::epoll_wait(host, most - told.len(), if told.is_empty() { left_ms } else { 0 });
        let told = {
            let mut state = STATE.lock();
            let instance = state.instances.get_mut(&id).ok_or(libc::EBADF)?;
            if sleeps {
                instance.sleepers -= 1;
            }
            let mut told = told;
            for n in 0..*came.as_ref().unwrap_or(&0) {
                let (events, index) = split(ocall::epoll_event(n));
                told.extend(instance.list.from_host(index, events));
            }
            told
        };
        if !told.is_empty() {
            return answer(address, &told);
        }
        match came {
            Ok(_) | Err(libc::EINTR) => {}
            Err(libc::ESTALE) if attempts < ATTEMPTS => {
                attempts += 1;
                renew(id, host)?;
                continue;
            }
            Err(error) => return Err(error),
        }
        // Nothing, or nothing that counts: a kick for somebody else, or a host that answers early.
        if left_ms == 0 {
            return Ok(0);
        }
    }
}

fn answer(address: u64, told: &[(u32, u64)]) -> SysResult {
    for (n, (events, data)) in told.iter().enumerate() {
        let mut event = [0u8; EPOLL_EVENT];
        event[..4].copy_from_slice(&events.to_le_bytes());
        event[4..].copy_from_slice(&data.to_le_bytes());
        user::write(address + (n * EPOLL_EVENT) as u64, event)?;
    }
    Ok(told.len() as u64)
}

/// eventfd2(2).
pub fn event(initial: u64, flags: u64) -> SysResult {
    let flags = flags as i32;
    // Nobody could be waiting in a read: what wakes it up is epoll.
    if flags & libc::EFD_NONBLOCK == 0 || flags & !(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC | libc::EFD_SEMAPHORE) != 0 {
        return Err(libc::EINVAL);
    }
    let file = File::new(Kind::Event, true);
    let counter = Counter { value: initial as u32 as u64, by_one: flags & libc::EFD_SEMAPHORE != 0 };
    STATE.lock().counters.insert(file.id, counter);
    files::insert(file)
}

/// read(2) of a counter.
pub fn read_event(file: u64, address: u64, length: u64) -> SysResult {
    if length < 8 {
        return Err(libc::EINVAL);
    }
    user::check(address, 8, true)?;
    let value = {
        let mut state = STATE.lock();
        let State { instances, counters } = &mut *state;
        let counter = counters.get_mut(&file).ok_or(libc::EBADF)?;
        let value = match counter.value {
            0 => return Err(libc::EAGAIN),
            _ if counter.by_one => 1,
            value => value,
        };
        counter.value -= value;
        instances.values_mut().for_each(|instance| {
            instance.list.counted(file, libc::EPOLLOUT as u32);
        });
        value
    };
    user::write(address, value)?;
    Ok(8)
}

/// write(2) to a counter.
pub fn write_event(file: u64, address: u64, length: u64) -> SysResult {
    if length < 8 {
        return Err(libc::EINVAL);
    }
    let more = user::read::<u64>(address)?;
    if more == u64::MAX {
        return Err(libc::EINVAL);
    }
    let kicks: Vec<bool> = {
        let mut state = STATE.lock();
        let State { instances, counters } = &mut *state;
        let counter = counters.get_mut(&file).ok_or(libc::EBADF)?;
        counter.value = counter.value.checked_add(more).filter(|value| *value <= COUNTER_MAX).ok_or(libc::EAGAIN)?;
        let wants = |instance: &mut Instance| instance.list.counted(file, libc::EPOLLIN as u32) && instance.must_be_kicked();
        instances.values_mut().map(wants).collect()
    };
    // One kick wakes all of them.
    if kicks.contains(&true) {
        ocall::kick();
    }
    Ok(8)
}
