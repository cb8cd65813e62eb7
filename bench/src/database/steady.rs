//! Steady throughput: GET and SET, one request at a time and sixteen.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::load::{Command, Load, Order, Watch, put};
use super::servers::{Kind, Server};

/// Connections.
const CONNECTIONS: usize = 50;
/// Keys.
const KEYS: u64 = 100_000;
/// Bytes of a value.
const VALUE: usize = 64;

/// What is asked: its name, the command, and how many at a time.
pub const CASES: [(&str, Command, usize); 4] =
    [("GET, P1", Command::Get, 1), ("SET, P1", Command::Set, 1), ("GET, P16", Command::Get, 16), ("SET, P16", Command::Set, 16)];

/// A round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Who.
    pub kind: Kind,
    /// Which of [`CASES`], by its name.
    pub case: &'static str,
    /// Which turn.
    pub round: usize,
    /// Requests a second.
    pub per_second: f64,
    /// Microseconds of a batch, 99.9 %.
    pub p999_us: f64,
}

/// Puts the keys there that are asked for.
pub fn prepare(server: &Server) -> Result<()> {
    put(&server.target, &load(Command::Set, 64, Order::Sequential), None, &Watch::default()).map(drop)
}

/// One round of one case.
pub fn once(server: &Server, (case, command, pipeline): (&'static str, Command, usize), time: Duration, round: usize) -> Result<Round> {
    let outcome = put(&server.target, &load(command, pipeline, Order::Random), Some(time), &Watch::default())?;
    if let Some(error) = outcome.error {
        bail!("{case}: {error}");
    }
    let p999_us = outcome.latency.quantile(0.999) as f64 / 1000.0;
    Ok(Round { kind: server.kind, case, round, per_second: outcome.per_second(), p999_us })
}

fn load(command: Command, pipeline: usize, order: Order) -> Load {
    Load { connections: CONNECTIONS, pipeline, command, keys: KEYS, order, value: VALUE, rate: None }
}
