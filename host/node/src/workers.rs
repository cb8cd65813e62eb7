//! Further enclaves of the same image, for calls for which the shared one has no room.
//!
//! The enclave that serves has the gateway and the sealed store. When its TCSs are nearly all taken, when calls wait for one, or when its
//! EPC is nearly used up, a *worker* is built. The two enclaves attest each other and agree on keys, over packets that the node carries and
//! can't read ([`LinkOrder`], [`LinkNews`]); then the node answers a wish for a container by "elsewhere", and the serving enclave hands
//! that call to the worker. The worker's containers are the worker's own matter: it asks for them by its own channel, as any enclave does.
//!
//! The worker that was built first is filled first, so the last one is the first that nobody needs. One that was given no call for a while
//! gets no more, and is taken down when the serving enclave says that the last call there has been answered. One that breaks is reported to
//! the serving enclave, which answers its calls as lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use teemate_control::service::{LinkNews, LinkOrder, ToService};
use teemate_image::Image;

use crate::channel::{Channel, Wish};
use crate::containers::Kind;
use crate::error::{Error, Result};
use crate::locks::{Lock, wait};
use crate::node::Shop;
use crate::shared::SharedEnclave;

/// How often workers are looked after, when nothing calls for it.
const LOOK: Duration = Duration::from_millis(100);
/// How long two enclaves have to agree.
const AGREEMENT_LIMIT: Duration = Duration::from_secs(30);
/// For how long room is kept for a call that was sent to a worker and has not asked for its container.
const PROMISE: Duration = Duration::from_secs(3);
/// After a worker that could not be built or linked.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a call waits before a worker is built, where containers could go for it.
const PATIENCE: Duration = Duration::from_millis(100);
/// One in so many TCSs free: a worker is built before it is needed.
const MARK: usize = 8;

/// What an enclave is there for.
pub enum Post {
    /// It has the gateway and the store, and these workers.
    Serving(Workers),
    /// It works for one that serves.
    Worker(Duty),
}

/// A worker's end.
pub struct Duty {
    serving: Weak<SharedEnclave>,
    /// Packets for the serving enclave.
    back: Sender<Vec<u8>>,
    promised: Mutex<Promises>,
}

/// When calls were sent to a worker that have not asked for a container yet. One that needed none, since a container there waited for it,
/// is forgotten after a while.
#[derive(Default)]
struct Promises(VecDeque<Instant>);

impl Promises {
    /// Takes one of so many free places, if all are not promised already.
    fn take(&mut self, free: usize, now: Instant) -> bool {
        while self.0.front().is_some_and(|at| now.duration_since(*at) > PROMISE) {
            self.0.pop_front();
        }
        let taken = self.0.len() < free;
        if taken {
            self.0.push_back(now);
        }
        taken
    }

    /// A call has come.
    fn kept(&mut self) {
        self.0.pop_front();
    }
}

/// Workers of a serving enclave.
pub struct Workers {
    /// How many there may be.
    most: usize,
    idle: Duration,
    image: Arc<Image>,
    list: Mutex<Vec<Arc<Worker>>>,
    /// There was no room.
    wanted: AtomicBool,
    changed: (Mutex<bool>, Condvar),
}

struct Worker {
    enclave: Arc<SharedEnclave>,
    /// Packets for it.
    there: Sender<Vec<u8>>,
    state: Mutex<State>,
}

enum State {
    /// The enclaves have not agreed yet.
    Linking(Instant),
    /// It takes calls; it was last given one then.
    Up(Instant),
    /// It gets no more.
    Draining,
    /// It is to be taken down, and why.
    Gone(String),
}

impl Post {
    /// That of an enclave that serves.
    pub fn serving(shop: &Shop, image: &Arc<Image>) -> Post {
        Post::Serving(Workers {
            most: shop.config.enclaves.saturating_sub(1),
            idle: shop.config.worker_idle,
            image: Arc::clone(image),
            list: Mutex::default(),
            wanted: AtomicBool::new(false),
            changed: (Mutex::new(false), Condvar::new()),
        })
    }

    /// Whether it is a worker's.
    pub fn is_worker(&self) -> bool {
        matches!(self, Post::Worker(_))
    }

    /// The enclave asks for a container: if it is a worker, for a call that it was promised room for.
    pub(crate) fn arrived(&self) {
        if let Post::Worker(duty) = self {
            duty.promised.locked().kept();
        }
    }

    /// Takes all workers down.
    pub(crate) fn down(&self) {
        if let Post::Serving(workers) = self {
            workers.wake();
            let all = std::mem::take(&mut *workers.list.locked());
            all.iter().for_each(|worker| worker.enclave.down());
        }
    }
}

impl Workers {
    fn wake(&self) {
        *self.changed.0.locked() = true;
        self.changed.1.notify_all();
    }

    fn want(&self) {
        if self.most > 0 && !self.wanted.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    fn find(&self, peer: u64) -> Option<Arc<Worker>> {
        self.list.locked().iter().find(|worker| worker.enclave.id == peer).cloned()
    }

    /// A worker is to be taken down.
    fn give_up(&self, peer: u64, why: &str) {
        if let Some(worker) = self.find(peer) {
            let mut state = worker.state.locked();
            if !matches!(*state, State::Gone(_)) {
                *state = State::Gone(why.to_owned());
            }
        }
        self.wake();
    }

    /// A worker that has room for a call; it is kept for it.
    fn pick(&self) -> Option<u64> {
        let list = self.list.locked();
        list.iter().find(|worker| worker.take()).map(|worker| worker.enclave.id)
    }
}

impl Worker {
    fn take(&self) -> bool {
        let mut state = self.state.locked();
        let State::Up(used) = &mut *state else { return false };
        let Post::Worker(duty) = &self.enclave.post else { return false };
        if self.enclave.broken().is_some() || self.enclave.queued() > 0 || self.enclave.is_short_of_memory() {
            return false;
        }
        let now = Instant::now();
        let free = self.enclave.room().0;
        let taken = duty.promised.locked().take(free, now);
        if taken {
            *used = now;
        }
        taken
    }
}

impl SharedEnclave {
    /// What it is there for, in a word.
    pub fn role(&self) -> &'static str {
        if self.post.is_worker() { "worker" } else { "serving" }
    }

    /// Its workers' enclaves.
    pub fn worker_enclaves(&self) -> Vec<Arc<SharedEnclave>> {
        match &self.post {
            Post::Serving(workers) => workers.list.locked().iter().map(|worker| Arc::clone(&worker.enclave)).collect(),
            Post::Worker(_) => Vec::new(),
        }
    }

    /// Sends a call to a worker. False when there is none with room, or it must not go.
    pub(crate) fn send_elsewhere(&self, wish: &Wish) -> bool {
        match self.pick_worker(wish) {
            Some(peer) => {
                self.send_there(wish.container, peer);
                true
            }
            None => {
                self.lack_room(wish);
                false
            }
        }
    }

    /// Sends it to this one.
    pub(crate) fn send_there(&self, container: u64, peer: u64) {
        self.shop.metrics.sent_elsewhere();
        self.say(&ToService::Elsewhere { container, peer });
    }

    /// The worker that a call shall go to.
    pub(crate) fn pick_worker(&self, wish: &Wish) -> Option<u64> {
        let Post::Serving(workers) = &self.post else { return None };
        if wish.here || self.shop.containers.count(Kind::Function) >= self.shop.config.max_containers {
            return None;
        }
        workers.pick()
    }

    /// There is no room for this call in any worker: there may be another, and containers that only wait for further calls shall go.
    pub(crate) fn lack_room(&self, wish: &Wish) {
        if let Post::Serving(workers) = &self.post
            && !wish.here
        {
            // Where containers only wait for further calls, one of them leaves sooner than an enclave is built.
            if !self.keeps() || self.waited() > PATIENCE {
                workers.want();
            }
            self.worker_enclaves().iter().for_each(|worker| worker.reclaim_for(self.queued().max(1)));
        }
    }

    /// Has a worker built before it is needed.
    pub(crate) fn foresee(&self) {
        if let Post::Serving(workers) = &self.post
            && workers.most > 0
            && !self.keeps()
        {
            let (free, all) = self.room();
            if free.saturating_mul(MARK) < all {
                workers.want();
            }
        }
    }

    /// A TCS of a worker is free.
    pub(crate) fn tell_freed(&self) {
        if let Post::Worker(duty) = &self.post
            && let Some(serving) = duty.serving.upgrade()
            && serving.queued() > 0
        {
            serving.nudge_starter();
        }
    }

    /// A worker can't go on: its calls are lost, and shall hear it now.
    pub(crate) fn tell_failed(&self, why: &str) {
        if let Post::Worker(duty) = &self.post
            && let Some(serving) = duty.serving.upgrade()
            && let Post::Serving(workers) = &serving.post
        {
            serving.say(&ToService::Link { peer: self.id, link: LinkOrder::Close(why.to_owned()) });
            workers.give_up(self.id, why);
        }
    }

    /// The service says something of a link.
    pub(crate) fn on_link(&self, peer: u64, news: LinkNews) {
        match (&self.post, news) {
            (Post::Serving(workers), LinkNews::Packet(packet)) => {
                if let Some(worker) = workers.find(peer) {
                    let _ = worker.there.send(packet);
                }
            }
            (Post::Serving(workers), LinkNews::Up) => {
                if let Some(worker) = workers.find(peer) {
                    let mut state = worker.state.locked();
                    if let State::Linking(since) = *state {
                        tracing::info!(enclave = peer, ms = since.elapsed().as_millis() as u64, "a worker enclave takes calls");
                        *state = State::Up(Instant::now());
                    }
                }
                self.nudge_starter();
            }
            (Post::Serving(workers), LinkNews::Down(why)) => workers.give_up(peer, &why),
            (Post::Worker(duty), LinkNews::Packet(packet)) => {
                let _ = duty.back.send(packet);
            }
            (Post::Worker(_), LinkNews::Down(why)) => self.tell_failed(&format!("its link broke: {why}")),
            (Post::Worker(_), LinkNews::Up) => {}
        }
    }

    /// Says something for which there is no answer.
    fn say(&self, message: &ToService) {
        if let Err(failure) = self.channel.send(message)
            && !self.stopping.load(Ordering::Acquire)
        {
            self.fail(&failure.message);
        }
    }
}

/// Starts the thread that looks after the workers of an enclave that serves.
pub(crate) fn tend(serving: &Arc<SharedEnclave>) -> Result<()> {
    let Post::Serving(workers) = &serving.post else { return Ok(()) };
    if workers.most == 0 {
        return Ok(());
    }
    let serving = Arc::downgrade(serving);
    let spawned = std::thread::Builder::new().name("workers".to_owned()).spawn(move || {
        let mut pause_until = None;
        while let Some(serving) = serving.upgrade().filter(|serving| !serving.stopping.load(Ordering::Acquire)) {
            if let Post::Serving(workers) = &serving.post {
                look_after(&serving, workers, &mut pause_until);
            }
        }
    });
    spawned.map(drop).map_err(Error::system("start a thread of the node"))
}

fn look_after(serving: &Arc<SharedEnclave>, workers: &Workers, pause_until: &mut Option<Instant>) {
    {
        let mut changed = workers.changed.0.locked();
        if !*changed {
            changed = wait(&workers.changed.1, changed, LOOK);
        }
        *changed = false;
    }
    remove_gone(serving, workers, pause_until);
    retire_idle(serving, workers);
    let wanted = workers.wanted.swap(false, Ordering::AcqRel);
    // One that is on its way to serve answers the wish; one that drains does not count, for it takes nothing any more.
    let states: Vec<_> = workers.list.locked().iter().cloned().collect();
    let coming = states.iter().any(|worker| matches!(*worker.state.locked(), State::Linking(_)));
    let there = states.iter().filter(|worker| !matches!(*worker.state.locked(), State::Draining)).count();
    if !wanted || coming || there >= workers.most || states.len() > workers.most || pause_until.is_some_and(|until| Instant::now() < until)
    {
        return;
    }
    *pause_until = None;
    if let Err(error) = build(serving, workers) {
        tracing::error!(%error, "a worker enclave can't be built; the enclave that serves goes on alone for now");
        *pause_until = Some(Instant::now() + PAUSE);
    }
}

fn build(serving: &Arc<SharedEnclave>, workers: &Workers) -> Result<()> {
    let (back, from_worker) = channel();
    let duty = Duty { serving: Arc::downgrade(serving), back, promised: Mutex::default() };
    let enclave = SharedEnclave::start_at(&serving.shop, &workers.image, Post::Worker(duty))?;
    let peer = enclave.id;
    let (there, from_serving) = channel();
    // Each knows the other by its number within the node.
    let carried = carry("to-worker", from_serving, Arc::clone(&enclave.channel), serving.id)
        .and_then(|()| carry("to-serving", from_worker, Arc::clone(&serving.channel), peer));
    let worker = Arc::new(Worker { enclave, there, state: Mutex::new(State::Linking(Instant::now())) });
    let taken = {
        let mut list = workers.list.locked();
        let taken = carried.is_ok() && !serving.stopping.load(Ordering::Acquire);
        if taken {
            list.push(Arc::clone(&worker));
        }
        taken
    };
    if !taken {
        worker.enclave.down();
        return carried;
    }
    serving.say(&ToService::Link { peer, link: LinkOrder::Open });
    Ok(())
}

/// Carries packets one way, in their order, until the sender is gone. No enclave waits for another's channel.
fn carry(name: &str, packets: Receiver<Vec<u8>>, to: Arc<Channel>, from: u64) -> Result<()> {
    let work = move || {
        for packet in packets {
            if to.send(&ToService::Link { peer: from, link: LinkOrder::Packet(packet) }).is_err() {
                return;
            }
        }
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(Error::system("start a thread of the node"))
}

fn remove_gone(serving: &Arc<SharedEnclave>, workers: &Workers, pause_until: &mut Option<Instant>) {
    let all: Vec<_> = workers.list.locked().iter().cloned().collect();
    for worker in all {
        let id = worker.enclave.id;
        let why = {
            let mut state = worker.state.locked();
            if let State::Linking(since) = *state
                && since.elapsed() > AGREEMENT_LIMIT
            {
                *state = State::Gone("the two enclaves did not agree in time".to_owned());
                *pause_until = Some(Instant::now() + PAUSE);
            }
            match &*state {
                State::Gone(why) => Some(why.clone()),
                _ => worker.enclave.broken(),
            }
        };
        let Some(why) = why else { continue };
        tracing::info!(enclave = id, why, "a worker enclave is taken down");
        // Where the link is down already, this says nothing new.
        serving.say(&ToService::Link { peer: id, link: LinkOrder::Close(why) });
        workers.list.locked().retain(|other| other.enclave.id != id);
        worker.enclave.down();
    }
}

/// A worker that was given nothing for a while gets no more, unless the serving enclave is about to need it.
fn retire_idle(serving: &Arc<SharedEnclave>, workers: &Workers) {
    let (free, all) = serving.room();
    if serving.queued() > 0 || free.saturating_mul(MARK) < all {
        return;
    }
    for worker in &*workers.list.locked() {
        let mut state = worker.state.locked();
        if matches!(*state, State::Up(used) if used.elapsed() > workers.idle) {
            *state = State::Draining;
            serving.say(&ToService::Link { peer: worker.enclave.id, link: LinkOrder::Drain });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_promised_once_and_not_for_ever() {
        let now = Instant::now();
        let mut promises = Promises::default();
        assert!(promises.take(2, now) && promises.take(2, now) && !promises.take(2, now));
        // One has come and holds its place: there is one less, and one promise.
        promises.kept();
        assert!(!promises.take(1, now));
        assert!(promises.take(1, now + PROMISE + Duration::from_millis(1)));
        promises.kept();
        promises.kept();
        assert!(promises.take(1, now) && !promises.take(0, now));
    }
}
