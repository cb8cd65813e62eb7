//! The loop: input, commands, output, and what is done as time passes.

pub(crate) mod busy;
mod connections;
mod following;
mod importing;
mod replicas;
mod stopping;
mod upkeep;
mod waiting;

use std::io;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::commands::{self, event};
use crate::network::{Network, Turn};
use crate::persistence;
use crate::shared::Shared;
use crate::store::Store;

use connections::Connections;
pub use stopping::{Ended, Stop};

/// How long one turn may go on with the snapshot's walk, with expiry.
const SLICE: Duration = Duration::from_millis(1);
/// How often time-driven work is looked at.
const TICK: Duration = Duration::from_millis(100);

/// The server.
pub struct Server {
    store: Store,
    shared: Shared,
    last_tick: Instant,
    /// Commands as of the last tick, and whether many came before it.
    commands: u64,
    serving: bool,
    expiry: (usize, u64),
    stops: Option<Receiver<Stop>>,
    /// Another thread is about to have something for a connection.
    soon: Option<Duration>,
    followed: following::Followed,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}

impl Server {
    /// Serves these databases over this network.
    pub fn new(network: impl Network + 'static, store: Store, mut shared: Shared) -> Server {
        shared.wires.network = Some(Box::new(network));
        Server {
            store,
            shared,
            last_tick: Instant::now(),
            commands: 0,
            serving: false,
            expiry: (0, 0),
            stops: None,
            soon: None,
            followed: following::Followed::new(),
        }
    }

    fn connections(&mut self) -> Connections<'_> {
        Connections { store: &mut self.store, shared: &mut self.shared }
    }

    /// Until SHUTDOWN, or until it is told to end.
    ///
    /// # Errors
    /// What ends the whole server: the network.
    pub fn run(mut self) -> io::Result<Ended> {
        let mut turn = Turn::default();
        commands::follow_from_the_start(&mut self.store, &mut self.shared);
        loop {
            self.commit();
            if let Some(why) = self.shared.guard.left_behind() {
                return Err(io::Error::other(why.to_owned()));
            }
            let wait = match (self.shared.wires.again.is_empty(), self.store.is_walking()) {
                (true, false) => self.until_next(),
                (true, true) if self.is_paced() => self.until_next().min(SLICE),
                _ => Duration::ZERO,
            };
            self.send(wait, &mut turn)?;
            self.set_time();
            self.shared.counters.input += turn.bytes.0;
            self.shared.counters.output += turn.bytes.1;
            for (slot, peer, local) in turn.opened.drain(..) {
                self.connections().open(slot, peer, local);
            }
            let wires = &mut self.shared.wires;
            wires.ready.extend(wires.again.drain(..).chain(turn.ready.drain(..)));
            // Not to be closed later under a number that a script's turns have given to another.
            wires.gone.append(&mut turn.closed);
            while let Some(slot) = self.shared.wires.ready.pop_front() {
                self.connections().serve(slot);
            }
            for slot in std::mem::take(&mut self.shared.wires.gone) {
                self.connections().close(slot);
            }
            turn.bytes = (0, 0);
            self.background();
            if let Some(ended) = self.ends() {
                self.commit();
                self.send(Duration::ZERO, &mut turn)?;
                persistence::end(&mut self.shared);
                return Ok(ended);
            }
        }
    }

    /// What this turn's commands did goes into the log, once for all of them, before anybody is told. Who would be told of something that
    /// could not be kept gets no answer: the connection ends.
    fn commit(&mut self) {
        let followed = self.follow();
        persistence::gather(&mut self.store, &mut self.shared);
        let soon = self.import() | self.replicate();
        self.soon = soon.then_some(replicas::SOON).into_iter().chain(followed).min();
        if !persistence::commit(&mut self.store, &mut self.shared) {
            for slot in std::mem::take(&mut self.shared.wires.dirty) {
                self.connections().close(slot);
            }
        }
    }

    /// Sends what was answered, and waits for what comes.
    fn send(&mut self, wait: Duration, turn: &mut Turn) -> io::Result<()> {
        let wires = &mut self.shared.wires;
        let mut dirty = std::mem::take(&mut wires.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        wires.turn(&dirty, wait, turn)?;
        dirty.clear();
        wires.dirty = dirty;
        Ok(())
    }

    fn set_time(&mut self) {
        let now = now();
        self.store.now = now;
        let hot = &self.shared.config.hot;
        self.store.clock.now = now;
        self.store.clock.lfu = hot.lfu;
        self.store.clock.counts = hot.counts;
        self.shared.clock = Instant::now();
        self.store.record = hot.events & event::EXPIRED != 0 || !self.shared.trackers.is_empty();
    }

    fn until_next(&self) -> Duration {
        let tick = TICK.saturating_sub(self.last_tick.elapsed()).min(self.soon.unwrap_or(TICK));
        match self.shared.deadlines.first() {
            Some((until, _)) => tick.min(Duration::from_millis(until.saturating_sub(now()).max(0) as u64)),
            None => tick,
        }
    }
}
