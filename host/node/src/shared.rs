//! One enclave, many containers.
//!
//! Threads: one reads the service's channel and starts a container at once if nothing stands in the way; a starter works off the queue
//! when TCSs or the zygote are taken; the reaping thread ([`crate::containers`]) gives TCSs back; a janitor deals with containers that did
//! not end well; one thread reads the reaper's reports; one carries out requests for dynamic memory.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, sockopt};
use teemate_abi::transition::refused;
use teemate_container::Filter;
use teemate_container::cgroup::Limits;
use teemate_container::command::EXIT_NOT_EXECUTED;
use teemate_control::function::{Failure, FailureKind, Mark, Outcome, Phase};
use teemate_control::service::ToService;
use teemate_image::Image;
use teemate_runner::board::{Board, Guest, now_ns};
use teemate_runner::body::SYNC;
use teemate_runner::descriptors;
use teemate_runner::reaper::{Command, Report, decode, encode};
use teemate_runner::role::{self, DeviceName, Role, descriptor};
use teemate_sgx::{Enclave, Error as DeviceError};

use crate::ahead::{Ahead, Ready};
use crate::answers::Answers;
use crate::broker::Allowed;
use crate::channel::{Channel, Demand, Wish};
use crate::containers::{Ended, Kind, Nursery, Order, Place, Process, Taking};
use crate::error::{Error, Result};
use crate::gateway::Listener;
use crate::lease::{Count, Lease, Leases};
use crate::locks::{Lock, wait};
use crate::node::{Shop, add_phases};
use crate::takeover::Lives;
use crate::workers::Post;

/// How long the payload has to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long the reaper has for one thread.
const ADOPTION_LIMIT: Duration = Duration::from_secs(60);
/// What a container lives beyond its function's time limit, before it is killed.
pub const LIFETIME_MARGIN: Duration = Duration::from_secs(10);
/// How often the service is asked for containers that only wait, while others are wanted.
const RECLAIM_STEP: Duration = Duration::from_millis(20);
/// How many of them are asked for at a time when EPC is short.
const RECLAIM_FOR_MEMORY: u32 = 4;
/// Containers that ended and whose calls may still ask for their phases.
const ENDED_KEPT: usize = 1024;
/// Memory of a container beside its function's: the runner's own, page tables, and what the simulator charges to who touches first.
const MEMORY_MARGIN: u64 = 128 << 20;
/// Status of a runner that was refused because the payload has ended.
const DEAD: i32 = role::EXIT_REFUSED + refused::DEAD as i32;
/// Processes and threads in a container's group.
const PIDS: u64 = 16;
/// TCSs that containers which are made ahead leave to others.
const TCS_SPARE: u32 = 8;
/// How often it is looked whether containers shall be made ahead, when no call's end says so.
const LOOK_AHEAD: Duration = Duration::from_millis(100);
/// How long a container that is made ahead has to become ready.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// A container for which there was no room.
struct Waiting {
    wish: Wish,
    until: Instant,
}

/// What the janitor is told.
enum Trouble {
    /// A container never came to be.
    NotStarted { container: u64, reason: String },
    /// A container that had no call yet was killed.
    Unused { pid: i32, tcs: u32 },
    /// A container ended otherwise than by finishing. `orphan`: its TCS may not be idle.
    Lost { container: u64, pid: i32, reason: String, orphan: Option<u32> },
    /// The process of the payload's own threads was killed.
    Service { pid: i32, how: String },
}

#[derive(Default)]
struct Calls {
    by_container: HashMap<u64, Arc<Process>>,
    ended: VecDeque<u64>,
    /// Refused for want of room.
    refused: HashMap<u64, String>,
}

/// Whether there are containers that wait for further calls, as far as is known, and when the service was last asked for some back.
enum Keeping {
    Nothing,
    Some(Option<Instant>),
}

/// An enclave that all containers share.
pub struct SharedEnclave {
    /// Number within the node.
    pub id: u64,
    /// The enclave.
    pub enclave: Box<dyn Enclave>,
    /// Shared with its processes.
    pub board: Arc<Board>,
    pub(crate) channel: Arc<Channel>,
    answers: Answers,
    nursery: Nursery,
    pub(crate) shop: Arc<Shop>,
    leases: Mutex<Leases<u64>>,
    service_tcs: u32,
    queue: (Mutex<VecDeque<Waiting>>, Condvar),
    /// Held while a container is being started: the zygote does one at a time.
    starting: Mutex<()>,
    ahead: Ahead,
    calls: Mutex<Calls>,
    trouble: Mutex<Sender<Trouble>>,
    reaper: OwnedFd,
    /// Wakes threads of the payload that wait, from whatever process of the enclave.
    kick: OwnedFd,
    /// With the reaper, and until when.
    adoptions: Mutex<HashMap<u32, Instant>>,
    pub(crate) stopping: AtomicBool,
    /// Why it can't go on, once it can't.
    broken: Mutex<Option<String>>,
    adopted: [AtomicU64; 3],
    lives: Lives,
    /// Calls of [`SharedEnclave::invoke`].
    invoking: AtomicU64,
    keeping: Mutex<Keeping>,
    /// Containers of tasks whose function was called and did not ask for its container yet, by the function's name.
    expected: Mutex<HashMap<String, Ready>>,
    /// Whether it serves, or works for one that does.
    pub(crate) post: Post,
}

impl SharedEnclave {
    /// Builds the enclave, and starts its zygote, reaper and service. Returns when the service is ready.
    pub fn start(shop: &Arc<Shop>) -> Result<Arc<SharedEnclave>> {
        let image = shop.image()?;
        let this = SharedEnclave::start_at(shop, &image, Post::serving(shop, &image))?;
        crate::workers::tend(&this).inspect_err(|_| this.down())?;
        Ok(this)
    }

    /// The same, at this post.
    pub(crate) fn start_at(shop: &Arc<Shop>, image: &Image, post: Post) -> Result<Arc<SharedEnclave>> {
        let begun = Instant::now();
        let enclave = shop.build(image)?;
        let built = begun.elapsed();
        let board = Arc::new(Board::create().map_err(Error::system("make the memory shared with containers"))?);
        let mut descriptors =
            vec![(descriptor::BOARD.to_owned(), board.fd().try_clone_to_owned().map_err(Error::system("share the board"))?)];
        descriptors.extend(enclave.share()?.into_iter().enumerate().map(|(index, fd)| (format!("{}{index}", descriptor::ENCLAVE), fd)));
        let device = crate::device::name(enclave.kind());
        let arguments = vec!["--device".to_owned(), device.to_owned(), "--tcs-count".to_owned(), enclave.tcs_count().to_string()];
        let nursery = Nursery::new(&shop.config.zygote, descriptors, arguments)?;

        let total = enclave.tcs_count();
        let service_tcs = shop.config.service_threads.min((total / 2).max(1));
        let (reaper, reapers_end) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::system("make the reaper's socket"))?;
        let (channel, service_end) = Channel::pair()?;
        let answers = Answers::start(shop, &channel)?;
        let (sender, troubles) = std::sync::mpsc::channel();
        let this = Arc::new(SharedEnclave {
            id: shop.next_enclave(),
            enclave,
            board,
            channel,
            answers,
            nursery,
            shop: Arc::clone(shop),
            leases: Mutex::new(Leases::new(service_tcs..total)),
            service_tcs,
            queue: (Mutex::new(VecDeque::new()), Condvar::new()),
            starting: Mutex::new(()),
            ahead: Ahead::new(
                if post.is_worker() { 0 } else { shop.config.ready_containers },
                limits(teemate_control::function::Limits::default().memory, 0),
            ),
            calls: Mutex::new(Calls::default()),
            trouble: Mutex::new(sender),
            reaper,
            kick: descriptors::new_kick().map_err(Error::system("make what wakes the enclave's waiting threads"))?,
            adoptions: Mutex::new(HashMap::new()),
            stopping: AtomicBool::new(false),
            broken: Mutex::new(None),
            adopted: Default::default(),
            lives: Lives::default(),
            invoking: AtomicU64::new(0),
            keeping: Mutex::new(Keeping::Nothing),
            expected: Mutex::new(HashMap::new()),
            post,
        });
        match this.bring_up(&service_end, &reapers_end, troubles) {
            Ok(()) => {
                tracing::info!(
                    enclave = this.id,
                    device,
                    tcs = total,
                    build_ms = built.as_millis() as u64,
                    total_ms = begun.elapsed().as_millis() as u64,
                    "the shared enclave is ready"
                );
                Ok(this)
            }
            Err(error) => {
                this.down();
                Err(error)
            }
        }
    }

    fn bring_up(self: &Arc<Self>, service_end: &OwnedFd, reapers_end: &OwnedFd, troubles: Receiver<Trouble>) -> Result<()> {
        self.thread("edmm", |this| serve_edmm(&this.board, &*this.enclave, &this.stopping))?;
        self.thread("janitor", move |this| this.janitor_loop(&troubles))?;
        self.thread("starter", |this| this.starter_loop())?;
        // Adoptions need nothing of the service, and the service's death must not end the reaper.
        self.long_lived(Kind::Reaper, Role::Reaper, vec![reapers_end.as_fd(), self.kick.as_fd()])?;
        self.thread("reaper", |this| this.reports_loop())?;
        let service = self.service(service_end, 0)?;
        // What a service process does not survive before it is ready is no orphan: the whole enclave goes.
        self.channel.open(BOOT_LIMIT).map_err(|error| not_up(&service, error))?;
        // Not earlier: a guarded process takes each of its faults more slowly, and has most of them now.
        self.enclave.guard(service.pid)?;
        self.lives.ready(service_end)?;
        self.thread("service", |this| {
            let on = Arc::clone(&this);
            this.channel.pump(|demand| match demand {
                Demand::Container(wish) => on.on_wish(wish),
                Demand::Unneeded(container) => on.unneeded(container),
                Demand::Keep(container, time) => on.keep(container, time),
                Demand::Question(question, ask) => on.answers.leave(&on.channel, question, ask),
                Demand::Link(peer, news) => on.on_link(peer, news),
            });
            this.fail("the function service closed its channel");
        })?;
        if self.shop.config.ready_containers > 0 && !self.post.is_worker() {
            self.thread("ahead", |this| this.ahead_loop())?;
        }
        Ok(())
    }

    fn thread(self: &Arc<Self>, name: &str, work: impl FnOnce(Arc<Self>) + Send + 'static) -> Result<()> {
        let this = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(this));
        spawned.map(|_| ()).map_err(Error::system(format!("start the thread {name:?}")))
    }

    fn long_lived(self: &Arc<Self>, kind: Kind, role: Role, body: Vec<BorrowedFd<'_>>) -> Result<Arc<Process>> {
        let order = Order {
            id: self.shop.next_id(),
            kind,
            role,
            function: None,
            enclave: Some(self.id),
            lease: None,
            limits: Limits::default(),
            filter: if kind == Kind::Service { Filter::Service } else { Filter::Runner },
            root: None,
            lifetime: None,
            body,
            board: None,
            marks: Vec::new(),
        };
        let this = Arc::downgrade(self);
        let on_end = Box::new(move |process: &Arc<Process>, ended: &Ended| {
            let Some(this) = this.upgrade() else { return };
            if !this.stopping.load(Ordering::Acquire) {
                let how = how(ended);
                if kind == Kind::Service && matches!(ended, Ended::Killed(_)) && this.lives.goes_on() {
                    return this.trouble(Trouble::Service { pid: process.pid, how });
                }
                tracing::error!(pid = process.pid, role = kind.name(), how, "a process of the enclave ended");
                this.fail(&format!("the {} process ended: {how}", kind.name()));
            }
        });
        self.shop.containers.start(&self.nursery, order, on_end)
    }

    /// Starts the process of the payload's own threads, in its nth life.
    fn service(self: &Arc<Self>, end: &OwnedFd, life: u32) -> Result<Arc<Process>> {
        let listener = self.shop.listener.as_ref().filter(|_| !self.post.is_worker()).map(Listener::fd);
        let tcs = (0..self.service_tcs).collect();
        let data = self.shop.data.clone();
        let broker = data.map(|data| crate::broker::serve(Allowed { egress: Vec::new(), data: Some(data) }, None, true)).transpose()?;
        let role = Role::Service { tcs, attach: None, broker: broker.is_some(), listener: listener.is_some(), life };
        let broker = broker.as_ref().map(AsFd::as_fd);
        self.long_lived(Kind::Service, role, [Some(end.as_fd()), listener, Some(self.kick.as_fd()), broker].into_iter().flatten().collect())
    }

    /// Has another process take over what the service's killed one was doing.
    fn take_over(self: &Arc<Self>, pid: i32) -> Result<()> {
        self.enclave.wait_saved(pid)?;
        let (life, end) = self.lives.next()?;
        (0..self.service_tcs).for_each(|tcs| self.board.reset(tcs));
        let service = self.service(&end, life)?;
        match self.enclave.guard(service.pid) {
            Ok(()) => self.board.let_in(0, life, Guest { container: 0, broker: false }),
            // It was killed before it entered: its own end is dealt with in its turn.
            Err(_) if service.wait(Duration::from_millis(500)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Processes that took the service over from a killed one.
    pub fn taken_over(&self) -> u64 {
        self.lives.count()
    }

    /// The service's channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// TCSs in all, and how many are where. The service's own count as held.
    pub fn tcs(&self) -> (u32, Count) {
        let mut count = self.leases.locked().count();
        count.held += self.service_tcs;
        (self.enclave.tcs_count(), count)
    }

    /// Threads adopted: found idle, in a call, inside.
    pub fn adopted(&self) -> [u64; 3] {
        let mut sum = self.board.found();
        for (total, count) in sum.iter_mut().zip(&self.adopted) {
            *total += count.load(Ordering::Relaxed);
        }
        sum
    }

    /// Calls of [`SharedEnclave::invoke`] that are under way.
    pub fn under_way(&self) -> u64 {
        self.invoking.load(Ordering::Acquire)
    }

    /// Containers that wait for a TCS.
    pub fn queued(&self) -> usize {
        self.queue.0.locked().len()
    }

    /// Network namespaces that are ready.
    pub fn nets_ready(&self) -> usize {
        self.nursery.nets_ready()
    }

    /// Why it can't go on, once it can't.
    pub fn broken(&self) -> Option<String> {
        self.broken.locked().clone()
    }

    /// Notes that it can't go on, and why; the node builds another.
    pub fn fail(&self, why: &str) {
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let mut broken = self.broken.locked();
        if broken.is_none() {
            tracing::error!(enclave = self.id, why, "the shared enclave can't go on");
            *broken = Some(why.to_owned());
            drop(broken);
            self.lives.close();
            self.channel.close();
            self.tell_failed(why);
            self.shop.wake();
        }
    }

    // ---- a call ----

    /// Calls a function in a container of its own.
    pub fn invoke(
        &self,
        name: &str,
        params: Vec<u8>,
        limit: Duration,
        given_up: &dyn Fn() -> bool,
    ) -> std::result::Result<Outcome, Failure> {
        self.invoking.fetch_add(1, Ordering::AcqRel);
        let invoked = self.channel.invoke(name, params, false, limit, given_up);
        self.invoking.fetch_sub(1, Ordering::AcqRel);
        let (mut outcome, returned_ns) = invoked?;
        let (process, refused) = {
            let known = self.known_of(outcome.container);
            let elsewhere = || self.worker_enclaves().iter().map(|worker| worker.known_of(outcome.container)).find(Option::is_some);
            known.or_else(|| elsewhere().flatten()).unwrap_or_default()
        };
        if let (Some(reason), Err(failure)) = (refused, &mut outcome.result) {
            *failure = Failure::new(FailureKind::Busy, reason);
        }
        if let Some(process) = process {
            // What a container did before this call, it did for an earlier one.
            let first = outcome.marks.first().map_or(0, |mark| mark.at_ns);
            add_phases(&mut outcome.marks, process.marks().into_iter().filter(|mark| mark.at_ns >= first));
        }
        outcome.marks.push(Mark { phase: Phase::Returned, at_ns: returned_ns });
        Ok(outcome)
    }

    /// What this enclave's part of the node knows of a container: its process, and why it was refused.
    fn known_of(&self, container: u64) -> Option<(Option<Arc<Process>>, Option<String>)> {
        let mut calls = self.calls.locked();
        let (process, refused) = (calls.by_container.get(&container).cloned(), calls.refused.remove(&container));
        (process.is_some() || refused.is_some()).then_some((process, refused))
    }

    // ---- starting containers ----

    fn on_wish(self: &Arc<Self>, wish: Wish) {
        self.post.arrived();
        let expected = self.expected.locked().remove(&wish.function);
        if let Some(ready) = expected {
            self.give_to_task(ready, &wish);
            return;
        }
        // The short ways: nobody waits, and a container is ready, or the zygote and a TCS are free. No other thread has to be woken.
        let nobody_waits = self.queue.0.locked().is_empty();
        if nobody_waits && self.is_short_of_memory() && self.send_elsewhere(&wish) {
            return;
        }
        if nobody_waits && self.take_ahead(&wish) {
            return;
        }
        if nobody_waits && let Ok(starting) = self.starting.try_lock() {
            if let Some(lease) = self.lease(wish.container) {
                self.start_container(wish, lease);
                drop(starting);
                self.foresee();
                return;
            }
            drop(starting);
            if self.send_elsewhere(&wish) {
                return;
            }
        }
        let mut queue = self.queue.0.locked();
        if queue.len() >= self.shop.config.queue {
            drop(queue);
            self.refuse(wish.container, format!("{} calls wait already; try again in a moment", self.shop.config.queue));
            return;
        }
        queue.push_back(Waiting { wish, until: Instant::now() + self.shop.config.queue_timeout });
        drop(queue);
        self.queue.1.notify_one();
        self.reclaim();
    }

    /// Containers are short: those that only wait for further calls shall go. Said now and then, for as long as it is so.
    fn reclaim(&self) {
        self.reclaim_for(self.queued());
    }

    /// The same, for so many that wait, here or elsewhere.
    pub(crate) fn reclaim_for(&self, waiting: usize) {
        {
            let mut asked = self.keeping.locked();
            match *asked {
                Keeping::Nothing => return,
                Keeping::Some(Some(at)) if at.elapsed() < RECLAIM_STEP => return,
                Keeping::Some(_) => *asked = Keeping::Some(Some(Instant::now())),
            }
        }
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX);
        if wanted > 0 {
            self.want_back(wanted);
        }
    }

    /// When EPC is short, containers that only wait shall go, a few at a time.
    fn spare_memory(&self) {
        if self.is_short_of_memory() && !matches!(*self.keeping.locked(), Keeping::Nothing) {
            self.want_back(RECLAIM_FOR_MEMORY);
        }
    }

    /// Whether nine tenths of the EPC that it may have are in use.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        let epc = self.enclave.epc();
        epc.limit > 0 && epc.pages.saturating_mul(10) > epc.limit.saturating_mul(9)
    }

    /// Whether there are containers that may be waiting for further calls.
    pub(crate) fn keeps(&self) -> bool {
        !matches!(*self.keeping.locked(), Keeping::Nothing)
    }

    /// How long the call that has waited longest waits for a container.
    pub(crate) fn waited(&self) -> Duration {
        let until = self.queue.0.locked().front().map(|waiting| waiting.until);
        until.map_or(Duration::ZERO, |until| self.shop.config.queue_timeout.saturating_sub(until.saturating_duration_since(Instant::now())))
    }

    /// TCSs that a container could have now: free ones, and those of containers that are made ahead. And how many containers may have.
    pub(crate) fn room(&self) -> (usize, usize) {
        let free = self.leases.locked().count().free as usize;
        (free + self.ahead.waiting(), (self.enclave.tcs_count() - self.service_tcs) as usize)
    }

    /// A TCS is free: whoever waits here may have it, or whoever waits in the enclave that this one works for.
    fn freed(&self) {
        if !self.queue.0.locked().is_empty() {
            self.queue.1.notify_one();
        }
        self.tell_freed();
    }

    /// Has the starter look at what waits.
    pub(crate) fn nudge_starter(&self) {
        self.queue.1.notify_one();
    }

    fn want_back(&self, wanted: u32) {
        if let Err(failure) = self.channel.send(&ToService::Reclaim { wanted }) {
            self.fail(&failure.message);
        }
    }

    /// Nobody waits for this container any more. One that is started already leaves again by itself.
    fn unneeded(&self, container: u64) {
        self.queue.0.locked().retain(|waiting| waiting.wish.container != container);
    }

    /// A container waits for further calls of its function.
    fn keep(&self, container: u64, time: Duration) {
        let mut keeping = self.keeping.locked();
        if let Keeping::Nothing = *keeping {
            *keeping = Keeping::Some(None);
        }
        drop(keeping);
        let process = self.calls.locked().by_container.get(&container).cloned();
        if let Some(process) = process {
            process.live_for(time + LIFETIME_MARGIN);
        }
    }

    fn lease(&self, container: u64) -> Option<Lease> {
        if self.shop.containers.count(Kind::Function) >= self.shop.config.max_containers {
            return None;
        }
        self.leases.locked().take(container)
    }

    fn refuse(&self, container: u64, reason: String) {
        self.calls.locked().refused.insert(container, reason.clone());
        self.trouble(Trouble::NotStarted { container, reason });
    }

    fn trouble(&self, trouble: Trouble) {
        let _ = self.trouble.locked().send(trouble);
    }

    fn starter_loop(self: &Arc<Self>) {
        while !self.stopping.load(Ordering::Acquire) {
            let late = {
                let mut queue = self.queue.0.locked();
                // Also wakes when nothing was said: deadlines pass in silence.
                queue = wait(&self.queue.1, queue, Duration::from_millis(100));
                let now = Instant::now();
                let mut late = Vec::new();
                while queue.front().is_some_and(|waiting| waiting.until <= now) {
                    late.extend(queue.pop_front());
                }
                late
            };
            for waiting in late {
                let seconds = self.shop.config.queue_timeout.as_secs();
                let reason =
                    format!("no thread of the enclave became free within {seconds} s; try again later, or use an image with more TCSs");
                self.refuse(waiting.wish.container, reason);
            }
            while !self.stopping.load(Ordering::Acquire) {
                let starting = self.starting.locked();
                // Take the wish before the lease, so that a lease is never held for nobody.
                let Some(waiting) = self.queue.0.locked().pop_front() else { break };
                if self.take_ahead(&waiting.wish) {
                    continue;
                }
                match self.lease(waiting.wish.container) {
                    Some(lease) => self.start_container(waiting.wish, lease),
                    None => {
                        self.queue.0.locked().push_front(waiting);
                        self.dismiss_one();
                        drop(starting);
                        self.send_queued_elsewhere();
                        self.reclaim();
                        break;
                    }
                }
            }
        }
    }

    /// Calls that wait go where there is room, the one that has waited longest first.
    fn send_queued_elsewhere(&self) {
        let (mut going, mut lacking) = (Vec::new(), None);
        self.queue.0.locked().retain(|waiting| {
            if lacking.is_some() || waiting.wish.here {
                return true;
            }
            let peer = self.pick_worker(&waiting.wish);
            match peer {
                Some(peer) => going.push((waiting.wish.container, peer)),
                None => lacking = Some(waiting.wish.clone()),
            }
            peer.is_none()
        });
        going.into_iter().for_each(|(container, peer)| self.send_there(container, peer));
        lacking.iter().for_each(|wish| self.lack_room(wish));
    }

    fn start_container(self: &Arc<Self>, wish: Wish, lease: Lease) {
        let container = wish.container;
        if let Err(error) = self.try_start(wish, lease) {
            tracing::error!(container, %error, "a container can't be started");
            self.leases.locked().give_back(lease);
            self.trouble(Trouble::NotStarted { container, reason: format!("its container could not be started: {error}") });
        }
    }

    fn try_start(self: &Arc<Self>, wish: Wish, lease: Lease) -> Result<()> {
        let leased_ns = now_ns();
        self.board.reset(lease.tcs);
        let (root, lifetime) = self.of_function(&wish);
        let patience = lifetime + Duration::from_millis(wish.keep_ms);
        let allowed = self.allowed(&wish);
        let broker = (!allowed.is_nothing()).then(|| crate::broker::serve(allowed, Some(patience), wish.keep_ms > 0)).transpose()?;
        let order = Order {
            id: wish.container,
            kind: Kind::Function,
            role: Role::Function { tcs: lease.tcs, number: lease.number, ahead: false },
            enclave: Some(self.id),
            lease: Some(lease),
            limits: limits(wish.memory, wish.cpu_milli),
            filter: Filter::Runner,
            root,
            function: Some(wish.function),
            lifetime: Some(lifetime),
            body: [&self.kick].into_iter().chain(&broker).map(AsFd::as_fd).collect(),
            board: Some((Arc::clone(&self.board), lease.tcs)),
            marks: vec![
                Mark { phase: Phase::ContainerRequested, at_ns: wish.at_ns },
                Mark { phase: Phase::TcsLeased, at_ns: leased_ns },
                // Found, not built: that is what sharing means.
                Mark { phase: Phase::EnclaveReady, at_ns: leased_ns },
            ],
        };
        let this = Arc::clone(self);
        let on_end = Box::new(move |process: &Arc<Process>, ended: &Ended| this.on_end(process, ended));
        let process = self.shop.containers.start(&self.nursery, order, on_end)?;
        self.calls.locked().by_container.insert(wish.container, Arc::clone(&process));
        if let Err(error) = self.enclave.guard(process.pid) {
            // It has not entered, and will not.
            process.kill(&format!("it could not be guarded: {error}"));
            return Ok(());
        }
        let guest = Guest { container: wish.container, broker: broker.is_some() };
        process.while_it_lives(|| self.board.let_in(lease.tcs, lease.number, guest));
        Ok(())
    }

    /// What the container may ask the node for.
    fn allowed(&self, wish: &Wish) -> Allowed {
        Allowed { egress: wish.egress.clone(), data: self.shop.data.clone().filter(|_| wish.data) }
    }

    /// The root that a function's containers have, if not the empty one, and how long one may live.
    fn of_function(&self, wish: &Wish) -> (Option<PathBuf>, Duration) {
        let root = self.shop.store.get(&wish.function).ok().and_then(|function| function.root());
        (root, Duration::from_millis(wish.timeout_ms) + LIFETIME_MARGIN)
    }

    // ---- containers that are made ahead ----

    /// Gives a container that is ready to the call. False if there is none, or none that would do.
    fn take_ahead(self: &Arc<Self>, wish: &Wish) -> bool {
        let (root, lifetime) = self.of_function(wish);
        if root.is_some() || self.shop.containers.count(Kind::Function) >= self.shop.config.max_containers {
            return false;
        }
        let limits = limits(wish.memory, wish.cpu_milli);
        while let Some(ready) = self.ahead.take(limits) {
            match self.hand_over(ready, wish, limits, lifetime) {
                Some(true) => {
                    self.ahead.count_taken();
                    return true;
                }
                Some(false) => {}
                None => return false,
            }
        }
        false
    }

    /// Lets a container that waits in for a call. False when it is no use, and is killed; nothing when no other would be either.
    fn hand_over(&self, Ready { process, broker }: Ready, wish: &Wish, limits: Limits, lifetime: Duration) -> Option<bool> {
        let Some(lease) = process.lease else { return Some(false) };
        let at_ns = now_ns();
        let allowed = self.allowed(wish);
        let guest = Guest { container: wish.container, broker: !allowed.is_nothing() };
        let patience = lifetime + Duration::from_millis(wish.keep_ms);
        if guest.broker
            && let Err(error) = crate::broker::serve_at(broker, allowed, Some(patience), wish.keep_ms > 0)
        {
            // The long way fails for the same reason, and says so to the caller.
            tracing::warn!(%error, "a container that was made ahead can't have connections");
            process.kill("it could not have the connections of its call");
            return None;
        }
        let taking = Taking {
            id: wish.container,
            function: wish.function.clone(),
            limits,
            lifetime,
            marks: vec![
                Mark { phase: Phase::ContainerRequested, at_ns: wish.at_ns },
                Mark { phase: Phase::TcsLeased, at_ns },
                Mark { phase: Phase::EnclaveReady, at_ns },
            ],
        };
        self.calls.locked().by_container.insert(wish.container, Arc::clone(&process));
        if process.take(taking, || self.board.let_in(lease.tcs, lease.number, guest)) {
            return Some(true);
        }
        self.calls.locked().by_container.remove(&wish.container);
        process.kill("it could not be given to a call");
        Some(false)
    }

    // ---- tasks ----

    /// Makes the container of a task; it waits at the enclave's door.
    pub(crate) fn make_for_task(self: &Arc<Self>, limits: Limits, place: Place) -> Result<Ready> {
        let starting = self.starting.locked();
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::Busy("the enclave is being taken down; try again in a moment".to_owned()));
        }
        let id = self.shop.next_id();
        let Some(lease) = self.leases.locked().take(id) else {
            self.dismiss_one();
            return Err(Error::Busy("no thread of the enclave is free; try again later, or use an image with more TCSs".to_owned()));
        };
        self.make_waiting(id, lease, limits, place, starting)
    }

    /// Calls a task's function, in the container that was made for it. `expect` is told when the enclave has asked for it.
    pub(crate) fn run_task(
        &self,
        function: &str,
        ready: Ready,
        params: Vec<u8>,
        limit: Duration,
        given_up: &dyn Fn() -> bool,
    ) -> std::result::Result<Outcome, Failure> {
        self.expected.locked().insert(function.to_owned(), ready);
        let invoked = self.invoke(function, params, limit, given_up);
        // Where it was refused before it needed a container.
        self.expected.locked().remove(function);
        invoked
    }

    /// Whether the enclave has not asked for this function's container yet.
    pub(crate) fn is_expected(&self, function: &str) -> bool {
        self.expected.locked().contains_key(function)
    }

    fn give_to_task(&self, ready: Ready, wish: &Wish) {
        let process = Arc::clone(&ready.process);
        // The task's group has the limits that its container was made with.
        let limits = process.used().map_or_else(Limits::default, |(_, limits)| limits);
        let lifetime = Duration::from_millis(wish.timeout_ms) + LIFETIME_MARGIN;
        if self.hand_over(ready, wish, limits, lifetime) != Some(true) {
            let reason = process.why().unwrap_or_else(|| "the task's container was lost before it started".to_owned());
            self.trouble(Trouble::NotStarted { container: wish.container, reason });
        }
    }

    /// Keeps containers ready, and makes them in quiet moments.
    fn ahead_loop(self: &Arc<Self>) {
        while !self.stopping.load(Ordering::Acquire) {
            let Some(limits) = self.ahead.wanted() else {
                self.ahead.pause(LOOK_AHEAD);
                continue;
            };
            // With a call under way, or the next one a moment after the last, it would take the processor from them.
            if self.shop.containers.count(Kind::Function) > 0 && !self.ahead.is_quiet() {
                self.ahead.pause(Duration::from_millis(2));
                continue;
            }
            match self.make_ahead(limits) {
                Ok(true) => {}
                Ok(false) => self.ahead.pause(LOOK_AHEAD),
                Err(error) => {
                    tracing::warn!(%error, "a container can't be made ahead");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    /// False if the enclave has no thread to spare.
    fn make_ahead(self: &Arc<Self>, limits: Limits) -> Result<bool> {
        let starting = self.starting.locked();
        if self.stopping.load(Ordering::Acquire) {
            return Ok(false);
        }
        let id = self.shop.next_id();
        let lease = {
            let mut leases = self.leases.locked();
            if leases.count().free <= TCS_SPARE { None } else { leases.take(id) }
        };
        let Some(lease) = lease else { return Ok(false) };
        let ready = self.make_waiting(id, lease, limits, Place::default(), starting)?;
        self.ahead.add(ready);
        Ok(true)
    }

    /// Makes a container that waits at the enclave's door. Returns when everything that can be done ahead is done.
    fn make_waiting(
        self: &Arc<Self>,
        id: u64,
        lease: Lease,
        limits: Limits,
        place: Place,
        starting: std::sync::MutexGuard<'_, ()>,
    ) -> Result<Ready> {
        self.board.reset(lease.tcs);
        let made = crate::broker::pair().and_then(|(broker, theirs)| {
            let order = Order {
                id,
                kind: Kind::Ready,
                role: Role::Function { tcs: lease.tcs, number: lease.number, ahead: true },
                enclave: Some(self.id),
                lease: Some(lease),
                limits,
                filter: Filter::Runner,
                root: place.root.clone(),
                function: None,
                lifetime: None,
                body: vec![self.kick.as_fd(), theirs.as_fd()],
                board: Some((Arc::clone(&self.board), lease.tcs)),
                marks: Vec::new(),
            };
            let this = Arc::clone(self);
            let on_end = Box::new(move |process: &Arc<Process>, ended: &Ended| this.on_end(process, ended));
            let process = self.shop.containers.start_at(&self.nursery, order, place, on_end)?;
            Ok(Ready { process, broker })
        });
        drop(starting);
        let ready = match made {
            Ok(ready) => ready,
            Err(error) => {
                self.leases.locked().give_back(lease);
                return Err(error);
            }
        };
        if let Err(error) = self.enclave.guard(ready.process.pid) {
            ready.process.kill("it could not be guarded");
            return Err(error.into());
        }
        let end = Instant::now() + READY_LIMIT;
        while !ready.process.is_waiting() {
            if ready.process.ended().is_some() || Instant::now() > end {
                ready.process.kill("it did not become ready");
                let why =
                    ready.process.ended().map_or_else(|| format!("it took more than {} s", READY_LIMIT.as_secs()), |ended| how(&ended));
                return Err(Error::Service(format!("a container did not become ready: {why}")));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(ready)
    }

    /// Has a container that is ready end, so that a call which can't use it gets its TCS.
    fn dismiss_one(&self) {
        if let Some(Ready { process, .. }) = self.ahead.take_any()
            && let Some(lease) = process.lease
        {
            process.while_it_lives(|| self.board.let_in(lease.tcs, lease.number, Guest { container: 0, broker: false }));
        }
    }

    /// Calls that got a container which was made ahead.
    pub fn containers_taken(&self) -> u64 {
        self.ahead.taken()
    }

    // ---- ends of containers ----

    /// On the reaping thread.
    fn on_end(&self, process: &Arc<Process>, ended: &Ended) {
        let Some(lease) = process.lease else { return };
        let marks = process.marks();
        let entered = marks.iter().any(|mark| mark.phase == Phase::Entered);
        if process.kind() == Kind::Ready {
            self.on_end_unused(process, lease, ended, entered);
            return;
        }
        self.ahead.nudge();
        if let Some(mark) = marks.iter().find(|mark| mark.phase == Phase::Reaped) {
            self.shop.history.reaped(process.function().as_deref(), process.id(), *mark);
        }
        self.forget_later(process);
        if let Ended::Exited(status @ (role::EXIT_PANIC | role::EXIT_PAYLOAD | DEAD)) = ended {
            tracing::error!(container = process.id(), status, "a container found the payload at its end");
            self.fail("the enclave's payload has ended");
        }
        match ended {
            Ended::Exited(role::EXIT_IDLE) => {
                self.leases.locked().give_back(lease);
            }
            // The LibOS refused: nothing ran, the TCS is as it was.
            Ended::Exited(status) if !entered || *status >= role::EXIT_REFUSED && *status < role::EXIT_REFUSED + 16 => {
                self.leases.locked().give_back(lease);
                self.trouble(Trouble::Lost { container: process.id(), pid: process.pid, reason: reason(process, ended), orphan: None });
            }
            Ended::Exited(_) | Ended::Killed(_) => {
                self.leases.locked().orphan(lease);
                let orphan = Some(lease.tcs);
                self.trouble(Trouble::Lost { container: process.id(), pid: process.pid, reason: reason(process, ended), orphan });
            }
        }
        self.freed();
    }

    /// The end of a container that had no call.
    fn on_end_unused(&self, process: &Arc<Process>, lease: Lease, ended: &Ended, entered: bool) {
        self.ahead.forget(process);
        if matches!(ended, Ended::Exited(_)) && !entered {
            self.leases.locked().give_back(lease);
        } else {
            self.leases.locked().orphan(lease);
            if !self.stopping.load(Ordering::Acquire) {
                self.trouble(Trouble::Unused { pid: process.pid, tcs: lease.tcs });
            }
        }
        self.ahead.nudge();
        if !self.queue.0.locked().is_empty() {
            self.queue.1.notify_one();
        }
    }

    fn forget_later(&self, process: &Arc<Process>) {
        let mut calls = self.calls.locked();
        // It may have ended before `try_start` came to noting it.
        calls.by_container.insert(process.id(), Arc::clone(process));
        calls.ended.push_back(process.id());
        while calls.ended.len() > ENDED_KEPT {
            if let Some(id) = calls.ended.pop_front() {
                calls.by_container.remove(&id);
                calls.refused.remove(&id);
            }
        }
    }

    fn janitor_loop(self: &Arc<Self>, troubles: &Receiver<Trouble>) {
        let mut synced = 0;
        while !self.stopping.load(Ordering::Acquire) {
            let Ok(trouble) = troubles.recv_timeout(Duration::from_millis(250)) else {
                self.look_for_late_adoptions();
                self.spare_memory();
                let eaug = self.enclave.counters().eaug;
                if eaug != synced {
                    synced = eaug;
                    self.sync();
                }
                continue;
            };
            match trouble {
                Trouble::NotStarted { container, reason } => self.tell_lost(container, reason),
                Trouble::Service { pid, how } => {
                    tracing::warn!(pid, how, "the service process was killed; another takes over");
                    if let Err(error) = self.take_over(pid) {
                        self.fail(&format!("the service process ended: {how}; and no other could take over: {error}"));
                    }
                }
                Trouble::Unused { pid, tcs } => {
                    tracing::warn!(pid, tcs, "a container was lost before it had a call");
                    self.adopt(pid, tcs);
                }
                Trouble::Lost { container, pid, reason, orphan } => {
                    tracing::warn!(container, pid, reason, tcs = orphan, "a container was lost");
                    self.tell_lost(container, reason);
                    if let Some(tcs) = orphan {
                        self.adopt(pid, tcs);
                    }
                }
            }
        }
    }

    fn tell_lost(&self, container: u64, reason: String) {
        if let Err(failure) = self.channel.send(&ToService::ContainerLost { container, reason }) {
            self.fail(&failure.message);
        }
    }

    /// Has the reaper bring an orphaned thread to its end.
    fn adopt(&self, pid: i32, tcs: u32) {
        if let Err(error) = self.enclave.wait_saved(pid) {
            // The state may be lost: to enter would be to guess.
            tracing::error!(tcs, pid, %error, "the state of a killed thread was not saved; its TCS is not used again");
            self.leases.locked().stuck(tcs);
            return;
        }
        self.adoptions.locked().insert(tcs, Instant::now() + ADOPTION_LIMIT);
        let command = encode(&Command::Adopt { tcs });
        if let Err(error) = rustix::io::retry_on_intr(|| send(&self.reaper, &command, SendFlags::NOSIGNAL)) {
            self.adoptions.locked().remove(&tcs);
            self.leases.locked().stuck(tcs);
            self.fail(&format!("the reaper takes no commands: {error}"));
        }
    }

    /// Has the zygote map what the enclave has grown by, so that later containers inherit it. Cheap when nothing changed.
    pub fn sync(&self) {
        if let Err(error) = self.nursery.zygote.configure(SYNC, &[], Duration::from_secs(10)) {
            self.fail(&format!("the zygote does not answer: {error}"));
        }
    }

    fn look_for_late_adoptions(&self) {
        let now = Instant::now();
        self.adoptions.locked().retain(|tcs, until| {
            if *until < now {
                tracing::error!(tcs, "an orphaned thread did not come to its end in time; its TCS is not used until it does");
            }
            *until >= now
        });
    }

    fn reports_loop(&self) {
        let mut buffer = [0u8; 256];
        let step = Some(Duration::from_millis(500));
        let _ = sockopt::set_socket_timeout(&self.reaper, sockopt::Timeout::Recv, step);
        while !self.stopping.load(Ordering::Acquire) {
            let length = match recv(&self.reaper, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => break,
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                Err(_) => break,
            };
            match decode::<Report>(buffer.get(..length).unwrap_or_default()) {
                Some(Report::Ready) => {}
                Some(Report::Adopted { tcs, found }) => {
                    self.adoptions.locked().remove(&tcs);
                    tracing::info!(tcs, ?found, "an orphaned thread has come to its end");
                    self.adopted[found.index()].fetch_add(1, Ordering::Relaxed);
                    if !self.leases.locked().adopted(tcs) {
                        tracing::error!(tcs, "the reaper reports a thread that it was not given");
                    }
                    self.freed();
                }
                Some(Report::Stuck { tcs, status }) => {
                    self.adoptions.locked().remove(&tcs);
                    tracing::error!(tcs, status, "an orphaned thread can't be brought to its end; its TCS is not used again");
                    self.leases.locked().stuck(tcs);
                    if [role::EXIT_PANIC, role::EXIT_PAYLOAD, DEAD].contains(&status) {
                        self.fail("the enclave's payload has ended");
                    }
                }
                None => tracing::error!("the reaper sent what is no report"),
            }
        }
        if !self.stopping.load(Ordering::Acquire) {
            self.fail("the reaper closed its socket");
        }
    }

    /// Takes everything down. Its calls get errors.
    pub fn down(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.post.down();
        self.lives.close();
        self.channel.close();
        self.queue.1.notify_all();
        self.ahead.nudge();
        self.board.ring();
        // Whoever starts a container next sees that none is wanted any more.
        drop(self.starting.locked());
        let id = self.id;
        let gone =
            self.shop.containers.kill_all("its enclave is taken down", Duration::from_secs(10), |process| process.enclave == Some(id));
        if !gone {
            tracing::error!(enclave = id, "processes of the enclave did not end within 10 s");
        }
        self.shop.account(&*self.enclave, &self.board);
        self.shop.account_threads(self);
    }
}

/// Why a service did not come up.
pub fn not_up(process: &Process, error: Error) -> Error {
    process.wait(Duration::from_millis(200));
    match process.ended() {
        Some(ended) => Error::Service(format!("the function service did not come up: {}", reason(process, &ended))),
        None => error,
    }
}

/// Limits of a function's group.
pub fn limits(memory: u64, cpu_milli: u32) -> Limits {
    Limits {
        cpu_us_per_s: (cpu_milli > 0).then(|| u64::from(cpu_milli) * 1000),
        memory_bytes: (memory > 0).then(|| memory.saturating_add(MEMORY_MARGIN)),
        pids: Some(PIDS),
    }
}

fn how(ended: &Ended) -> String {
    match ended {
        Ended::Exited(status) => match *status {
            role::EXIT_IDLE => "its thread ended".to_owned(),
            role::EXIT_SETUP => "it lacked something; the node's log says what".to_owned(),
            role::EXIT_NO_LEAVE => "it was not let in".to_owned(),
            role::EXIT_DEVICE => "the enclave device failed".to_owned(),
            role::EXIT_PAYLOAD => "the payload ended".to_owned(),
            role::EXIT_PANIC => "the enclave hit an error from which it can't go on; the node's log has its message".to_owned(),
            EXIT_NOT_EXECUTED => "the program could not be executed; a payload must be a static program".to_owned(),
            status if (role::EXIT_REFUSED..role::EXIT_REFUSED + 16).contains(&status) => {
                format!("the LibOS refused its entry (reason {})", status - role::EXIT_REFUSED)
            }
            status => format!("it ended with status {status}"),
        },
        Ended::Killed(why) => why.clone(),
    }
}

/// Why a container was lost, for the caller.
pub fn reason(process: &Process, ended: &Ended) -> String {
    if process.ran_out_of_memory() {
        return "the container was killed for want of memory; deploy the function with a larger memory limit".to_owned();
    }
    match process.why() {
        Some(why) => format!("the container was killed: {why}"),
        None => format!("the container was lost: {}", how(ended)),
    }
}

/// Carries out requests for dynamic memory until told to stop.
pub fn serve_edmm(board: &Board, enclave: &dyn Enclave, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        let seen = board.bell();
        board.serve_requests(|tcs, request| match enclave.edmm(request.operation, request.address, request.length, request.permissions) {
            Ok(done) => i64::try_from(done).unwrap_or(i64::MAX),
            Err(error) => {
                tracing::debug!(tcs, %error, "a request for dynamic memory was refused");
                -i64::from(match error {
                    DeviceError::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
                    DeviceError::EpcFull { .. } => libc::ENOMEM,
                    _ => libc::EINVAL,
                })
            }
        });
        board.wait_for_requests(seen, Duration::from_millis(500));
    }
}

/// For [`Role::Service`].
pub fn device_name(enclave: &dyn Enclave) -> DeviceName {
    match enclave.kind() {
        teemate_sgx::DeviceKind::Sgx => DeviceName::Sgx,
        teemate_sgx::DeviceKind::Simulator => DeviceName::Simulator,
    }
}
