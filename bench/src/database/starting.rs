//! Figure 11: how long the server stands still when a snapshot begins, by the size of the data.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use teemate_tests::artifacts::Artifacts;

use super::load::{Command, Load, Order, Target, Watch, put};
use super::servers::{Kind, Server};

/// Bytes of a value: so many keys of it are a mebibyte.
pub const VALUE: usize = 1024;
/// Keys of a mebibyte.
pub const KEYS_A_MIB: u64 = 1024;

/// A start of a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Who.
    pub kind: Kind,
    /// Data in MiB: the values alone.
    pub mib: u64,
    /// Microseconds for which the server served nobody: Redis's fork; ours, what the server does at once; exclusive, all of it.
    pub start_us: f64,
    /// Microseconds from the snapshot's begin until its writer ran, in its container if it has one; ours alone.
    pub writer_us: Option<f64>,
    /// Microseconds from the client's BGSAVE to its reply.
    pub reply_us: Option<f64>,
    /// Exclusive: microseconds until the second enclave answered.
    pub built_us: Option<f64>,
}

/// So many keys, one after the other.
pub fn fill(target: &Target, mib: u64, connections: usize) -> Result<()> {
    let load = Load {
        connections,
        pipeline: 64,
        command: Command::Set,
        keys: mib * KEYS_A_MIB,
        order: Order::Sequential,
        value: VALUE,
        rate: None,
    };
    let outcome = put(target, &load, None, &Watch::default())?;
    if let Some(error) = outcome.error {
        bail!("filling: {error}");
    }
    Ok(())
}

/// So many starts of snapshots of so much data.
pub fn measure(kind: Kind, mib: u64, samples: usize, artifacts: &Artifacts) -> Result<Vec<Start>> {
    if kind == Kind::Exclusive {
        return (0..samples).map(|_| exclusive(mib, artifacts)).collect();
    }
    let server = Server::start(kind, artifacts)?;
    fill(&server.target, mib, 4)?;
    let mut control = server.control()?;
    let mut starts = Vec::new();
    let is_redis = matches!(kind, Kind::Redis | Kind::RedisTls);
    // The first is not counted: it is the first for the caches, too.
    for sample in 0..=samples {
        std::thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        control.ask(&["bgsave"])?;
        let reply_us = begin.elapsed().as_secs_f64() * 1e6;
        let start = if is_redis {
            let start_us = control.number("latest_fork_usec")? as f64;
            server.end_fork();
            control.ended()?;
            Start { kind, mib, start_us, writer_us: None, reply_us: Some(reply_us), built_us: None }
        } else {
            control.saved()?;
            let start_us = control.number("rdb_last_start_us")? as f64;
            let writer_us = Some(control.number("rdb_last_writer_start_us")? as f64);
            Start { kind, mib, start_us, writer_us, reply_us: Some(reply_us), built_us: None }
        };
        if sample > 0 {
            starts.push(start);
        }
    }
    Ok(starts)
}

/// The Strawman: another enclave of the same image is built, and all there is goes to it through an encrypted channel. The part of the
/// parent is played by this program, which has the content at hand: what is measured is the building, one encryption, one decryption and
/// that the child has everything in its tables. Reading it out of the parent is not in it, so a real one takes longer.
fn exclusive(mib: u64, artifacts: &Artifacts) -> Result<Start> {
    let begin = Instant::now();
    let child = Server::start(Kind::Shared, artifacts)?;
    let built_us = begin.elapsed().as_secs_f64() * 1e6;
    fill(&child.target, mib, 1)?;
    let start_us = begin.elapsed().as_secs_f64() * 1e6;
    let there = child.control()?.ask(&["dbsize"])?;
    if there != teemate_tests::redis::Reply::Integer((mib * KEYS_A_MIB) as i64) {
        bail!("the copy has {there:?} keys");
    }
    Ok(Start { kind: Kind::Exclusive, mib, start_us, writer_us: None, reply_us: None, built_us: Some(built_us) })
}
