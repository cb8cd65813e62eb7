//! The database in the shared enclave under all that can happen to it at once: mixed writes, snapshots, rewrites of the log, kills of its
//! containers and of the node, a full disk, restarts. Models outside remember each acknowledged write, and compare.

mod client;
mod model;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::artifacts::Artifacts;
use crate::redis::{Proxy, Redis, Reply};
use crate::running::Node;
use client::{Client, Common};
use model::Random;

/// Clients that write.
const CLIENTS: usize = 4;
/// How long a disturbance may have consequences.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a value of the content that stays.
const VALUE: usize = 1000;
const PASSWORD: &str = "soak";

/// How long, and how much.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long. All disturbances are made at least once, however short.
    pub time: Duration,
    /// Rest between two disturbances.
    pub rest: Duration,
    /// MiB of content that stays, so that snapshots take their time.
    pub mib: usize,
    /// Of what is random.
    pub seed: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// How often each disturbance was made.
    pub disturbances: BTreeMap<&'static str, u64>,
    /// Units that were acknowledged: a command, a transaction or a script each.
    pub acknowledged: u64,
    /// Connections that broke, units of which nothing was known then, and how many of them had been carried out.
    pub broken: (u64, u64, u64),
    /// Writes that were refused while the disk was full.
    pub refused: u64,
    /// Times that all of a client's keys were compared.
    pub compared: u64,
    /// Snapshots that a kill hit.
    pub hit: u64,
    /// EPC pages after the first minute or disturbance, and at the end.
    pub pages: (u64, u64),
    /// What could not be tried, and why.
    pub notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (broken, unknown, carried_out) = self.broken;
        writeln!(f, "{} units acknowledged, none of them lost; all keys of a client compared {} times", self.acknowledged, self.compared)?;
        writeln!(f, "{broken} connections broke, with {unknown} units under way, of which {carried_out} had been carried out")?;
        writeln!(f, "{} units refused while the disk was full; {} snapshots hit by a kill", self.refused, self.hit)?;
        writeln!(f, "EPC pages: {} at the beginning, {} at the end", self.pages.0, self.pages.1)?;
        for (what, count) in &self.disturbances {
            writeln!(f, "{count:>6}  {what}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "not tried: {note}"))
    }
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    Snapshot,
    SnapshotKilled,
    ServerKilled,
    Rewrite,
    RewriteKilled,
    FullDisk,
    Restart,
    NodeKilled,
    Policy,
}

impl Disturbance {
    const ALL: [Disturbance; 9] = [
        Disturbance::Snapshot,
        Disturbance::SnapshotKilled,
        Disturbance::Rewrite,
        Disturbance::ServerKilled,
        Disturbance::FullDisk,
        Disturbance::NodeKilled,
        Disturbance::RewriteKilled,
        Disturbance::Restart,
        Disturbance::Policy,
    ];

    fn name(self) -> &'static str {
        match self {
            Disturbance::Snapshot => "a snapshot",
            Disturbance::SnapshotKilled => "the snapshot's container killed",
            Disturbance::ServerKilled => "the server's process killed",
            Disturbance::Rewrite => "the log rewritten",
            Disturbance::RewriteKilled => "the server's process killed while the log is rewritten",
            Disturbance::FullDisk => "the disk full",
            Disturbance::Restart => "the node stopped and started again",
            Disturbance::NodeKilled => "the node killed and started again",
            Disturbance::Policy => "appendfsync changed",
        }
    }
}

/// A file system of its own for the data, which can be filled.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mib: usize) -> Result<Disk, String> {
        use rustix::mount::{MountFlags, mount};
        let options = std::ffi::CString::new(format!("size={mib}m,mode=755")).map_err(|error| error.to_string())?;
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str())
            .map_err(|error| format!("no tmpfs can be mounted: {error}"))?;
        Ok(Disk(at.to_owned()))
    }

    /// Takes all the room that there is.
    fn fill(&self) -> Result<PathBuf, String> {
        use std::io::Write;
        let path = self.0.join("full");
        let mut file = std::fs::File::create(&path).map_err(|error| error.to_string())?;
        for piece in [1 << 20, 4096] {
            let bytes = vec![0; piece];
            while file.write_all(&bytes).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Runs it. `say` is told how it goes.
///
/// # Errors
/// A write that was lost, an answer that was wrong, a database that does not come back.
pub fn run(artifacts: &Artifacts, options: &Options, say: &dyn Fn(&str)) -> Result<Report, String> {
    let mut report = Report::default();
    // Declared in this order: the node goes before its disk, and that before the directory.
    let directory = tempfile::Builder::new().prefix("teemate-soak-").tempdir().map_err(|error| error.to_string())?;
    let disk = match Disk::mount(directory.path(), 256 + 8 * options.mib) {
        Ok(disk) => Some(disk),
        Err(why) => {
            report.notes.push(format!("{}: {why}", Disturbance::FullDisk.name()));
            None
        }
    };
    let node = Node::start_database_in(artifacts, &directory.path().join("data"))?;
    let proxy = Proxy::start(artifacts, &node, node.endpoint())?;
    let mut machine = Machine { node, address: proxy.address(), disk, common: Common::default(), hit: 0 };
    machine.common.acknowledged = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    machine.prepare(options.mib)?;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, machine.address, PASSWORD, options.seed)).collect();
    machine.soak(&mut clients, options, &mut report, say)?;
    machine.at_the_end(&mut clients, options.mib)?;
    let common = &machine.common;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    report.acknowledged = common.acknowledged.iter().map(count).sum();
    report.broken = (count(&common.broken), count(&common.unknown), count(&common.carried_out));
    (report.refused, report.compared, report.hit) = (count(&common.refused), count(&common.compared), machine.hit);
    report.pages.1 = machine.pages()?;
    machine.node.stop()?;
    Ok(report)
}

struct Machine {
    node: Node,
    address: SocketAddr,
    disk: Option<Disk>,
    common: Common,
    hit: u64,
}

impl Machine {
    /// A connection that answers.
    fn connect(&self) -> Result<Redis, String> {
        let begin = Instant::now();
        loop {
            if let Ok(mut redis) = Redis::connect(self.address)
                && matches!(redis.call(&["auth", PASSWORD]), Ok(Reply::Status(_)))
            {
                return Ok(redis);
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("nobody answers\n{}", self.node.last_words()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A password, a log, and content that stays.
    fn prepare(&self, mib: usize) -> Result<(), String> {
        let mut redis = Redis::connect(self.address).map_err(|error| error.to_string())?;
        order(&mut redis, &["config", "set", "requirepass", PASSWORD])?;
        let mut redis = self.connect()?;
        order(
            &mut redis,
            &["config", "set", "save", "60 1", "stop-writes-on-bgsave-error", "no", "appendfsync", "always", "appendonly", "yes"],
        )?;
        let broken = |error: std::io::Error| error.to_string();
        for first in (0..content(mib)).step_by(100) {
            let last = (first + 100).min(content(mib));
            for number in first..last {
                let (key, value) = kept(number);
                redis.send(&["set", &key, &value]).map_err(broken)?;
            }
            for _ in first..last {
                redis.receive().map_err(broken)?;
            }
        }
        // The log counts from its first base on.
        self.until("the log begins", |redis| {
            Ok(field(redis, "aof_rewrite_in_progress")? == "0" && field(redis, "aof_last_rewrite_time_sec")? != "-1")
        })
    }

    fn soak(&mut self, clients: &mut [Client], options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), String> {
        let common = std::mem::take(&mut self.common);
        let (begin, mut random) = (Instant::now(), Random(options.seed | 1));
        let done = std::thread::scope(|scope| {
            let common = &common;
            let write = |client: &mut Client| client.run(common).inspect_err(|_| common.failed.store(true, Ordering::Relaxed));
            let writers: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || write(client))).collect();
            let mut disturb = || -> Result<(), String> {
                self.settle(common)?;
                report.pages.0 = self.pages()?;
                loop {
                    let mut all = Disturbance::ALL.to_vec();
                    // The first round in this order, so that a short run has each.
                    if !report.disturbances.is_empty() {
                        (1..all.len()).rev().for_each(|at| all.swap(at, random.below(at as u64 + 1) as usize));
                    }
                    for disturbance in all {
                        if common.failed.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        if disturbance == Disturbance::FullDisk && self.disk.is_none() {
                            continue;
                        }
                        let at = Instant::now();
                        self.disturb(disturbance, common, &mut random).map_err(|why| format!("{}: {why}", disturbance.name()))?;
                        self.settle(common).map_err(|why| format!("after {}: {why}", disturbance.name()))?;
                        *report.disturbances.entry(disturbance.name()).or_default() += 1;
                        say(&format!(
                            "{:>6.0} s: {}, {:.1} s",
                            begin.elapsed().as_secs_f64(),
                            disturbance.name(),
                            at.elapsed().as_secs_f64()
                        ));
                        std::thread::sleep(options.rest);
                    }
                    if begin.elapsed() >= options.time {
                        return Ok(());
                    }
                }
            };
            let disturbed = disturb();
            common.over.store(true, Ordering::Relaxed);
            let mut failures = Vec::new();
            for writer in writers {
                match writer.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => failures.push(why),
                    Err(_) => failures.push("a client's thread panicked".to_owned()),
                }
            }
            failures.extend(disturbed.err());
            if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
        });
        self.common = common;
        done.map_err(|why| format!("after {:.0} s: {why}\n{}", begin.elapsed().as_secs_f64(), self.node.last_words()))
    }

    /// Waits until every client has been told of writes again.
    fn settle(&self, common: &Common) -> Result<(), String> {
        let (begin, before) = (Instant::now(), counts(common));
        while counts(common).iter().zip(&before).any(|(now, before)| *now < before + 20) {
            if common.failed.load(Ordering::Relaxed) || begin.elapsed() > PATIENCE {
                return Err(format!("clients are told of no more writes: {before:?}, then {:?}", counts(common)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn disturb(&mut self, disturbance: Disturbance, common: &Common, random: &mut Random) -> Result<(), String> {
        let soon = Duration::from_micros(random.below(30_000));
        match disturbance {
            Disturbance::Snapshot => self.snapshot(),
            Disturbance::SnapshotKilled => self.kill_snapshot(soon),
            Disturbance::ServerKilled => self.kill_server(),
            Disturbance::Rewrite => {
                self.begin_rewrite()?;
                self.until("the log is rewritten", |redis| Ok(field(redis, "aof_rewrite_in_progress")? == "0"))?;
                is(&mut self.connect()?, "aof_last_bgrewrite_status", "ok")
            }
            Disturbance::RewriteKilled => {
                self.begin_rewrite()?;
                std::thread::sleep(soon);
                self.kill_server()
            }
            Disturbance::FullDisk => self.fill_disk(common),
            Disturbance::Restart => {
                self.node.stop()?;
                self.node.restart_here()
            }
            Disturbance::NodeKilled => {
                // With something under way, if it is still.
                order(&mut self.connect()?, &["bgsave", "schedule"])?;
                std::thread::sleep(soon);
                self.node.crash()?;
                self.node.restart_here()
            }
            Disturbance::Policy => {
                let mut redis = self.connect()?;
                let Reply::Array(now) = order(&mut redis, &["config", "get", "appendfsync"])? else { return Err("no setting".to_owned()) };
                let is_always = now.get(1).is_some_and(|policy| policy.text() == "always");
                order(&mut redis, &["config", "set", "appendfsync", if is_always { "everysec" } else { "always" }]).map(drop)
            }
        }
    }

    /// Waits until this holds.
    fn until(&self, what: &str, holds: impl Fn(&mut Redis) -> Result<bool, String>) -> Result<(), String> {
        let begin = Instant::now();
        let mut redis = self.connect()?;
        loop {
            match holds(&mut redis) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => redis = self.connect()?,
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("{what}: not within {PATIENCE:?}\n{}", self.node.last_words()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until no snapshot is being made, for a file or for the log.
    fn at_rest(&self) -> Result<(), String> {
        self.until("no snapshot is under way", |redis| {
            Ok(field(redis, "rdb_bgsave_in_progress")? == "0" && field(redis, "aof_rewrite_in_progress")? == "0")
        })
    }

    fn begin_rewrite(&self) -> Result<(), String> {
        self.at_rest()?;
        order(&mut self.connect()?, &["bgrewriteaof"]).map(drop)
    }

    /// Begins a snapshot. Its number among those that ended well.
    fn begin_snapshot(&self) -> Result<u64, String> {
        loop {
            self.at_rest()?;
            let mut redis = self.connect()?;
            let saves = field(&mut redis, "rdb_saves")?.parse().map_err(|_| "rdb_saves is no number")?;
            // A save point, or a rewrite, may have been quicker.
            if order(&mut redis, &["bgsave"]).is_ok() {
                return Ok(saves);
            }
        }
    }

    fn snapshot(&self) -> Result<(), String> {
        let before = self.begin_snapshot()?;
        self.at_rest()?;
        let mut redis = self.connect()?;
        is(&mut redis, "rdb_last_bgsave_status", "ok")?;
        let after = field(&mut redis, "rdb_saves")?;
        if after.parse::<u64>().is_ok_and(|after| after > before) {
            Ok(())
        } else {
            Err(format!("{before} snapshots before, {after} after"))
        }
    }

    fn kill_snapshot(&mut self, soon: Duration) -> Result<(), String> {
        self.begin_snapshot()?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if let Some(pid) = self.of_role("function")? {
                std::thread::sleep(soon);
                // It may have ended by itself: then the snapshot is whole.
                kill(pid);
                break;
            }
        }
        self.at_rest()?;
        let failed = field(&mut self.connect()?, "rdb_last_bgsave_status")? != "ok";
        self.hit += u64::from(failed);
        // The next one works.
        self.snapshot()
    }

    fn kill_server(&self) -> Result<(), String> {
        kill(self.of_role("service")?.ok_or("there is no service process")?);
        Ok(())
    }

    fn fill_disk(&self, common: &Common) -> Result<(), String> {
        let Some(disk) = &self.disk else { return Ok(()) };
        self.at_rest()?;
        common.trouble.store(true, Ordering::Relaxed);
        let full = disk.fill()?;
        self.until("the log notices that the disk is full", |redis| Ok(field(redis, "aof_last_write_status")? == "err"))?;
        // Reads are served, and a snapshot fails and says why.
        let mut redis = self.connect()?;
        order(&mut redis, &["get", "kept:0"])?;
        if order(&mut redis, &["bgsave"]).is_ok() {
            self.at_rest()?;
            is(&mut self.connect()?, "rdb_last_bgsave_status", "err")?;
        }
        std::thread::sleep(Duration::from_secs(1));
        std::fs::remove_file(full).map_err(|error| error.to_string())?;
        self.until("writes are taken again", |redis| Ok(order(redis, &["set", "probe", "1"]).is_ok()))?;
        self.settle(common)?;
        common.trouble.store(false, Ordering::Relaxed);
        self.snapshot()
    }

    /// The process of the first container of this role.
    fn of_role(&self, role: &str) -> Result<Option<u32>, String> {
        let ps = self.node.ps().map_err(|error| error.to_string())?;
        Ok(ps.containers.iter().find(|one| one.role == role).map(|one| one.pid))
    }

    fn pages(&self) -> Result<u64, String> {
        let ps = self.node.ps().map_err(|error| error.to_string())?;
        Ok(ps.enclaves.iter().map(|enclave| enclave.epc_pages).sum())
    }

    /// Once more, after an end in order and after a kill: everything is as the models say.
    fn at_the_end(&mut self, clients: &mut [Client], mib: usize) -> Result<(), String> {
        for killed in [false, true] {
            if killed {
                self.node.crash()?
            } else {
                self.node.stop()?
            }
            self.node.restart_here()?;
            for client in &mut *clients {
                client.compare(&self.common).map_err(|why| format!("at the end: {why}\n{}", self.node.last_words()))?;
            }
            let mut redis = self.connect()?;
            for number in 0..content(mib) {
                let (key, value) = kept(number);
                if order(&mut redis, &["get", &key])?.text() != value {
                    return Err(format!("at the end: {key} is lost, or is another"));
                }
            }
        }
        Ok(())
    }
}

fn counts(common: &Common) -> Vec<u64> {
    common.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

/// How many keys stay.
fn content(mib: usize) -> usize {
    (mib << 20) / VALUE
}

/// One of them.
fn kept(number: usize) -> (String, String) {
    let mut value = format!("{number}:").repeat(VALUE / 3);
    value.truncate(VALUE);
    (format!("kept:{number}"), value)
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Asks, and takes no error for an answer.
fn order(redis: &mut Redis, words: &[&str]) -> Result<Reply, String> {
    match redis.call(words) {
        Ok(Reply::Error(why)) => Err(format!("{}: {why}", words.join(" "))),
        Ok(reply) => Ok(reply),
        Err(error) => Err(format!("{}: {error}", words.join(" "))),
    }
}

/// A field of INFO.
fn field(redis: &mut Redis, name: &str) -> Result<String, String> {
    redis.info(name).map_err(|error| error.to_string())?.ok_or_else(|| format!("INFO has no {name}"))
}

fn is(redis: &mut Redis, name: &str, wanted: &str) -> Result<(), String> {
    let value = field(redis, name)?;
    if value == wanted {
        return Ok(());
    }
    let why = ["rdb_last_bgsave_error", "aof_last_bgrewrite_error"].map(|name| field(redis, name).unwrap_or_default());
    Err(format!("{name} is {value}: {}", why.join(" ")))
}
