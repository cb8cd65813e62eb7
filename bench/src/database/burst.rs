//! Figure 12: requests and memory while a snapshot is made under a burst of writes.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use teemate_tests::artifacts::Artifacts;

use super::load::{Command, Load, Order, Outcome, Watch, put};
use super::servers::{Kind, Server};
use super::starting::{KEYS_A_MIB, VALUE, fill};

/// How often memory is looked at.
const STEP: Duration = Duration::from_millis(50);
/// Connections that write.
const CONNECTIONS: usize = 50;

/// Requests of a while.
#[derive(Clone, Debug, Serialize)]
pub struct Burst {
    /// Who.
    pub kind: Kind,
    /// Which turn.
    pub round: usize,
    /// Whether a snapshot was made meanwhile.
    pub snapshot: bool,
    /// Seconds that it lasted.
    pub seconds: f64,
    /// Requests a second.
    pub per_second: f64,
    /// Microseconds of a request: median, 99 %, 99.9 %, the longest.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// See `p50_us`.
    pub p999_us: f64,
    /// See `p50_us`.
    pub most_us: f64,
}

/// Memory during a rewrite of all keys.
#[derive(Clone, Debug, Serialize)]
pub struct Rewrite {
    /// Who.
    pub kind: Kind,
    /// Which turn.
    pub round: usize,
    /// Data in MiB: the values alone.
    pub mib: u64,
    /// KiB before.
    pub before_kib: u64,
    /// Peak in KiB while all keys were written again, without a snapshot.
    pub without_kib: u64,
    /// Peak in KiB while all keys were written again during a snapshot.
    pub during_kib: u64,
    /// Seconds that writing them all took, during the snapshot.
    pub seconds: f64,
    /// Whether the snapshot was still being made when the last had been written.
    pub whole: bool,
}

impl Rewrite {
    /// Memory that the snapshot needs in addition, by the data.
    pub fn share(&self) -> f64 {
        self.during_kib.saturating_sub(self.without_kib.max(self.before_kib)) as f64 / (self.mib * 1024) as f64
    }
}

fn writes(mib: u64, pipeline: usize, order: Order) -> Load {
    Load { connections: CONNECTIONS, pipeline, command: Command::Set, keys: mib * KEYS_A_MIB, order, value: VALUE, rate: None }
}

fn burst(kind: Kind, round: usize, snapshot: bool, outcome: &Outcome) -> Result<Burst> {
    if let Some(error) = &outcome.error {
        bail!("{} writes failed, the first: {error}", outcome.errors);
    }
    let us = |share| outcome.latency.quantile(share) as f64 / 1000.0;
    Ok(Burst {
        kind,
        round,
        snapshot,
        seconds: outcome.seconds,
        per_second: outcome.per_second(),
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: us(0.999),
        most_us: outcome.latency.most() as f64 / 1000.0,
    })
}

/// A server with that much in it.
pub fn filled(kind: Kind, mib: u64, artifacts: &Artifacts) -> Result<Server> {
    let server = Server::start(kind, artifacts)?;
    fill(&server.target, mib, 4)?;
    Ok(server)
}

/// Requests without a snapshot, for so long, and with one, for as long as it is made.
pub fn requests(server: &Server, mib: u64, time: Duration, round: usize) -> Result<[Burst; 2]> {
    let load = writes(mib, 1, Order::Random);
    let without = put(&server.target, &load, Some(time), &Watch::default())?;
    let mut control = server.control()?;
    let watch = Watch::default();
    let during = thread::scope(|scope| {
        let load = scope.spawn(|| put(&server.target, &load, None, &watch));
        let ended = started(&watch).and_then(|()| {
            control.ask(&["bgsave"])?;
            control.saved()
        });
        watch.over.store(true, Ordering::Relaxed);
        let outcome = load.join().map_err(|_| anyhow!("the load's thread panicked"))?;
        ended.and(outcome)
    })?;
    Ok([burst(server.kind, round, false, &without)?, burst(server.kind, round, true, &during)?])
}

/// Waits until a load is under way.
fn started(watch: &Watch) -> Result<()> {
    let begin = Instant::now();
    while watch.answered.load(Ordering::Relaxed) == 0 {
        if begin.elapsed() > Duration::from_secs(20) {
            bail!("the load does not begin");
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// The peak of a server's memory while something is done.
fn peak<T: Send>(server: &Server, work: impl FnOnce() -> Result<T> + Send) -> Result<(u64, T)> {
    thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut peak = server.memory_kib()?;
        while !work.is_finished() {
            thread::sleep(STEP);
            peak = peak.max(server.memory_kib()?);
        }
        let done = work.join().map_err(|_| anyhow!("a thread panicked"))??;
        Ok((peak, done))
    })
}

/// Writes all keys again, without a snapshot and during one.
pub fn rewrite(server: &Server, mib: u64, round: usize) -> Result<Rewrite> {
    let load = writes(mib, 4, Order::Sequential);
    let mut control = server.control()?;
    // What an allocator keeps is then there already.
    put(&server.target, &load, None, &Watch::default())?;
    let before_kib = server.memory_kib()?;
    let (without_kib, _) = peak(server, || put(&server.target, &load, None, &Watch::default()))?;
    let (during_kib, (outcome, whole)) = peak(server, || {
        control.ask(&["bgsave"])?;
        let outcome = put(&server.target, &load, None, &Watch::default())?;
        let whole = control.is_saving()?;
        control.saved()?;
        Ok((outcome, whole))
    })?;
    Ok(Rewrite { kind: server.kind, round, mib, before_kib, without_kib, during_kib, seconds: outcome.seconds, whole })
}

/// A look at a server that makes snapshots again and again.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Look {
    /// Who.
    pub kind: Kind,
    /// Seconds since the first.
    pub seconds: f64,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Requests answered so far.
    pub answered: u64,
    /// Whether a snapshot is being made.
    pub saving: bool,
}

/// Memory over time, with so many writes a second, and a snapshot each `every`.
pub fn series(kind: Kind, mib: u64, time: Duration, every: Duration, rate: f64, artifacts: &Artifacts) -> Result<Vec<Look>> {
    let server = filled(kind, mib, artifacts)?;
    let mut control = server.control()?;
    let (watch, load) = (Watch::default(), Load { rate: Some(rate), ..writes(mib, 1, Order::Random) });
    thread::scope(|scope| {
        let load = scope.spawn(|| put(&server.target, &load, None, &watch));
        let begin = Instant::now();
        let mut looks = Vec::new();
        let mut look = || -> Result<()> {
            let (mut next, mut saves) = (every / 2, 0);
            while begin.elapsed() < time {
                let saving = control.is_saving()?;
                looks.push(Look {
                    kind,
                    seconds: begin.elapsed().as_secs_f64(),
                    memory_kib: server.memory_kib()?,
                    answered: watch.answered.load(Ordering::Relaxed),
                    saving,
                });
                if begin.elapsed() >= next && !saving {
                    control.ask(&["bgsave"])?;
                    (next, saves) = (next + every, saves + 1);
                }
                thread::sleep(STEP * 4);
            }
            control.saved().with_context(|| format!("after {saves} snapshots"))
        };
        let looked = look();
        watch.over.store(true, Ordering::Relaxed);
        let outcome = load.join().map_err(|_| anyhow!("the load's thread panicked"))??;
        looked?;
        match outcome.error {
            Some(error) => Err(anyhow!("{} writes failed, the first: {error}", outcome.errors)),
            None => Ok(looks),
        }
    })
}
