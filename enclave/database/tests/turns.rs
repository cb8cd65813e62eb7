//! The server's loop, turn by turn: who is answered, and what is on the disk then.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::machine::{Machine, config, storage};
use teemate_database::network::{Buffers, Network, Turn};
use teemate_database::persistence;
use teemate_database::server::Server;
use teemate_database::shared::Shared;
use teemate_database::store::Store;
use teemate_sealed::simulated::{Disk, Kind};

/// What a turn brought to the clients, and what the disk did for it.
#[derive(Debug, Default)]
struct Seen {
    answers: Vec<(usize, String)>,
    closed: Vec<usize>,
    operations: u64,
    /// Keys that are there after a power cut at the moment of the answers.
    certain: usize,
}

/// Of one turn: what of the disk's operations fails from then on, and what the clients send.
type Step = (Option<Kind>, Vec<(usize, String)>);

/// A network whose clients say what they are told to, turn by turn.
struct Scripted {
    disk: Disk,
    script: std::vec::IntoIter<Step>,
    open: Vec<usize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    operations: u64,
    closed: Vec<usize>,
    turns: usize,
}

impl Network for Scripted {
    fn turn(&mut self, buffers: &mut Vec<Buffers>, dirty: &[usize], _: Duration, turn: &mut Turn) -> io::Result<()> {
        let mut seen =
            Seen { closed: std::mem::take(&mut self.closed), operations: self.disk.operations() - self.operations, ..Seen::default() };
        for slot in dirty {
            let output = std::mem::take(&mut buffers[*slot].output);
            if !output.is_empty() {
                seen.answers.push((*slot, String::from_utf8(output).unwrap()));
            }
        }
        let copy = Disk::default();
        copy.put_back(self.disk.content());
        copy.cut_power(0, false);
        seen.certain = Machine::start(&copy, &[("appendonly", "yes")], None).unwrap().content().len();
        self.seen.lock().unwrap().push(seen);
        self.turns += 1;
        assert!(self.turns < 100, "it goes on after SHUTDOWN");
        let Some((refused, said)) = self.script.next() else { return Ok(()) };
        self.disk.refuse(refused.map(|kind| (kind, io::ErrorKind::StorageFull)));
        for (slot, line) in said {
            if !self.open.contains(&slot) {
                self.open.push(slot);
                if buffers.len() <= slot {
                    buffers.resize_with(slot + 1, Buffers::default);
                }
                turn.opened.push((slot, "client".to_owned(), "server".to_owned()));
            }
            buffers[slot].input.extend_from_slice(line.as_bytes());
            turn.ready.push(slot);
        }
        self.operations = self.disk.operations();
        Ok(())
    }

    fn close(&mut self, slot: usize) {
        self.open.retain(|open| *open != slot);
        self.closed.push(slot);
    }
}

fn run(policy: &str, script: Vec<Step>) -> Vec<Seen> {
    let disk = Disk::default();
    let mut shared = Shared::new(config(&[("appendonly", "yes"), ("appendfsync", policy)]), 1);
    shared.storage = storage(&disk, None);
    let mut store = Store::new(4);
    persistence::start(&mut store, &mut shared).unwrap();
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let network =
        Scripted { disk, script: script.into_iter(), open: Vec::new(), seen: seen.clone(), operations: 0, closed: Vec::new(), turns: 0 };
    Server::new(network, store, shared).run().unwrap();
    let mut seen = seen.lock().unwrap();
    std::mem::take(&mut *seen)
}

fn said(lines: &[(usize, &str)]) -> Step {
    (None, lines.iter().map(|(slot, line)| (*slot, format!("{line}\r\n"))).collect())
}

#[test]
fn all_clients_of_a_turn_are_answered_after_one_time_on_the_disk() {
    let first: Vec<(usize, String)> = (0..50).map(|slot| (slot, format!("SET key:{slot} 1\r\nSET other:{slot} 1\r\n"))).collect();
    let second: Vec<(usize, String)> = (0..50).map(|slot| (slot, format!("SET third:{slot} 1\r\n"))).collect();
    let seen = run("always", vec![(None, first), (None, second), said(&[(0, "SHUTDOWN NOSAVE")])]);
    assert!(seen[1].answers.len() == 50 && seen[1].answers.iter().all(|(_, answer)| answer == "+OK\r\n+OK\r\n"));
    assert_eq!((seen[1].certain, seen[2].certain), (100, 150));
    assert_eq!(seen[2].operations, 2, "one write, and once to the disk");
}

#[test]
fn who_can_not_be_told_the_truth_is_told_nothing() {
    for (policy, kind) in [("always", Kind::Write), ("always", Kind::Sync), ("no", Kind::Write), ("everysec", Kind::Write)] {
        let mut fails = said(&[(1, "SET a 2"), (2, "GET a")]);
        fails.0 = Some(kind);
        let mut later = said(&[(3, "SET a 3"), (4, "GET a")]);
        later.0 = Some(kind);
        let seen = run(policy, vec![said(&[(1, "SET a 1"), (5, "PING")]), fails, later, said(&[(3, "SHUTDOWN NOSAVE FORCE")])]);
        assert_eq!(seen[1].answers, [(1, "+OK\r\n".to_owned()), (5, "+PONG\r\n".to_owned())], "{policy}");
        // Both would be told of what is not kept; one who says nothing stays.
        assert!(seen[2].answers.is_empty(), "{policy}, {kind:?}: {:?}", seen[2].answers);
        let mut closed = seen[2].closed.clone();
        closed.sort_unstable();
        assert_eq!(closed, [1, 2], "{policy}, {kind:?}");
        // Afterwards writes are refused, and said to be.
        let answers = &seen[3].answers;
        assert!(answers[0].1.starts_with("-MISCONF Errors writing to the AOF file") && answers[1].1.starts_with("$1\r\n2"), "{answers:?}");
    }
}

#[test]
fn answers_by_the_other_policies_come_after_the_write() {
    for policy in ["everysec", "no"] {
        let seen = run(policy, vec![said(&[(0, "SET a 1")]), said(&[(0, "SET b 1")]), said(&[(0, "SHUTDOWN NOSAVE")])]);
        assert_eq!(seen[2].answers, [(0, "+OK\r\n".to_owned())]);
        // `everysec` may just have begun to put it on disk in another thread.
        assert!(seen[2].operations >= 1, "{policy}");
    }
}
