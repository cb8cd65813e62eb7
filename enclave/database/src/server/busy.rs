//! While a script runs that does not end: others are listened to, so that somebody can end it, and told that the server is busy.

use std::time::{Duration, Instant};

use super::connections::Connections;
use crate::network::Turn;
use crate::persistence;
use crate::shared::Shared;
use crate::store::Store;

/// How often others are listened to.
const EVERY: Duration = Duration::from_millis(5);

/// Listens to others if the script that is running has been for so long that it is time. Whether somebody wants it to end.
pub(crate) fn look(store: &mut Store, shared: &mut Shared) -> bool {
    let threshold = Duration::from_millis(u64::try_from(shared.config.number("busy-reply-threshold")).unwrap_or(0));
    let Some(running) = &shared.running else { return false };
    let now = Instant::now();
    match running.slow {
        None if threshold.is_zero() || now.duration_since(running.began) < threshold => return false,
        None => {
            let dirty = std::mem::take(&mut shared.wires.dirty);
            // What was answered before it is sent if what was done is kept.
            if persistence::commit_before(shared) {
                shared.wires.dirty = dirty;
            } else if let Some(running) = &mut shared.running {
                running.held = dirty;
            }
        }
        Some(last) if now.duration_since(last) < EVERY => return false,
        Some(_) => {}
    }
    let Some(running) = &mut shared.running else { return false };
    running.slow = Some(now);
    let held = running.held.clone();
    let mut send = std::mem::take(&mut shared.wires.dirty);
    send.sort_unstable();
    send.dedup();
    let (later, now): (Vec<usize>, Vec<usize>) = send.into_iter().partition(|slot| held.contains(slot));
    shared.wires.dirty = later;
    let mut turn = Turn::default();
    // A network that fails does so for the server, too.
    let _ = shared.wires.turn(&now, Duration::ZERO, &mut turn);
    shared.counters.input += turn.bytes.0;
    shared.counters.output += turn.bytes.1;
    let mut connections = Connections { store, shared };
    turn.opened.drain(..).for_each(|(slot, peer, local)| connections.open(slot, peer, local));
    // Those whose turn it would be after the script, too.
    let wires = &mut connections.shared.wires;
    let ready: Vec<usize> = wires.ready.drain(..).chain(wires.again.drain(..)).chain(turn.ready.drain(..)).collect();
    ready.into_iter().for_each(|slot| connections.serve(slot));
    let mut gone = std::mem::take(&mut connections.shared.wires.gone);
    gone.append(&mut turn.closed);
    gone.sort_unstable();
    gone.dedup();
    gone.into_iter().for_each(|slot| connections.close(slot));
    shared.shutdown || shared.running.as_ref().is_some_and(|running| running.killed)
}
