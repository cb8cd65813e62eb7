//! The machine crashes, or the disk fails, at each write in turn: nothing that was acknowledged is lost, and nothing is left behind.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use common::{Model, apply, frames, key, open, options, read, sealing, value};
use proptest::prelude::*;
use teemate_vault::testing::{Effect, Fault, MemoryDisk};
use teemate_vault::{Change, Disk, Vault, VaultError};

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    Soon(Change),
    Flush,
    Compact,
    Reopen,
}

fn put(name: u8, seed: u64, big: bool) -> Change {
    Change::Put(key(name), value(seed, big))
}

/// A bit of everything: new, changed, deleted; small, big, big by small and small by big; compaction, by itself and by order; restarts.
fn script() -> Vec<Step> {
    let mut steps = vec![
        Step::Commit(vec![put(0, 1, false), put(1, 2, true)]),
        Step::Commit(vec![put(0, 3, true), put(1, 4, true), put(2, 5, false)]),
        Step::Reopen,
        Step::Soon(put(3, 6, false)),
        Step::Soon(put(4, 7, true)),
        Step::Flush,
        Step::Commit(vec![Change::Delete(key(1)), put(0, 8, false)]),
        Step::Compact,
        Step::Commit(vec![put(1, 9, true)]),
        Step::Reopen,
        Step::Reopen,
        Step::Commit(vec![Change::Delete(key(4)), put(5, 10, true), put(6, 11, false)]),
    ];
    steps.extend((0..16).map(|round| Step::Commit(vec![put(7, 100 + round * 7, false)])));
    steps.push(Step::Soon(put(8, 12, false)));
    steps
}

/// What may be in the store: what was acknowledged, and what was asked for without an answer, each as a whole, in order.
#[derive(Clone)]
struct Expected {
    sure: Model,
    unsure: Vec<Vec<Change>>,
}

impl Expected {
    /// Takes what the store has for the truth, if it can be.
    fn settle(&mut self, found: Model) {
        let candidates = 1usize << self.unsure.len().min(10);
        for chosen in 0..candidates {
            let mut model = self.sure.clone();
            for (at, changes) in self.unsure.iter().enumerate() {
                if chosen & (1 << at) != 0 {
                    apply(&mut model, changes);
                }
            }
            if model == found {
                *self = Expected { sure: found, unsure: Vec::new() };
                return;
            }
        }
        let names = |model: &Model| model.iter().map(|(key, value)| format!("{key}: {}", value.len())).collect::<Vec<_>>();
        panic!("the store has {:?}, sure is {:?}, unsure {:?}", names(&found), names(&self.sure), self.unsure.len());
    }

    fn did(&mut self, changes: &[Change], outcome: Result<(), VaultError>) {
        match outcome {
            Ok(()) => apply(&mut self.sure, changes),
            Err(_) => self.unsure.push(changes.to_vec()),
        }
    }
}

/// Runs the steps on a disk that fails; opens again, on the revived disk, when it must. Returns at the end, with everything checked.
fn run(disk: &Arc<MemoryDisk>, steps: &[Step]) {
    let mut expected = Expected { sure: Model::new(), unsure: Vec::new() };
    let reopen = |expected: &mut Expected| -> Arc<Vault> {
        let vault = open(disk).or_else(|_| {
            disk.revive();
            open(disk)
        });
        let vault = vault.expect("an honest disk's store opens after a crash");
        expected.settle(read(&vault).expect("all of it can be read"));
        vault
    };
    let mut vault = reopen(&mut expected);
    for step in steps {
        match step {
            Step::Commit(changes) => expected.did(changes, vault.commit(changes.clone())),
            Step::Soon(change) => {
                let Change::Put(key, value) = change else { continue };
                let queued = vault.put_soon(key, value.clone());
                if queued.is_ok() {
                    assert_eq!(vault.get(key).ok().flatten().as_ref(), Some(value), "readable at once");
                }
                let outcome = queued.and_then(|()| vault.flush());
                expected.did(std::slice::from_ref(change), outcome);
            }
            Step::Flush => {
                let _ = vault.flush();
            }
            Step::Compact => {
                let _ = vault.compact();
            }
            Step::Reopen => {
                drop(vault);
                vault = reopen(&mut expected);
            }
        }
    }
    drop(vault);
    disk.revive();
    let vault = reopen(&mut expected);
    // The store goes on, and the next opening has everything.
    vault.put(&key(9), b"after").unwrap();
    apply(&mut expected.sure, &[Change::Put(key(9), b"after".to_vec())]);
    vault.compact().unwrap();
    drop(vault);
    let vault = reopen(&mut expected);
    drop(vault);
    let content = disk.content();
    assert_eq!(content.generations.len(), 1, "generations that are not active are gone");
    let big = expected.sure.values().filter(|value| value.len() > 65_536).count();
    assert_eq!(content.blobs.len(), big, "each blob belongs to a record");
}

const EFFECTS: [Effect; 8] = [
    Effect::Nothing,
    Effect::Part(1),
    Effect::Part(40),
    Effect::Part(130),
    Effect::Part(255),
    Effect::PartAndZeros(3),
    Effect::PartAndZeros(130),
    Effect::Whole,
];

#[test]
fn a_failure_at_any_write_loses_nothing() {
    let steps = script();
    let count = {
        let disk = Arc::new(MemoryDisk::new());
        run(&disk, &steps);
        assert!(*disk.content().generations.keys().last().unwrap() > 3, "it was compacted by itself too");
        disk.writes()
    };
    assert!(count > 100, "{count} writes");
    let passing = [Effect::Nothing, Effect::Part(130), Effect::Whole];
    for (crash, effects) in [(true, &EFFECTS[..]), (false, &passing[..])] {
        for write in 0..count {
            for effect in effects.iter().copied() {
                let disk = Arc::new(MemoryDisk::new());
                disk.fail([Fault { write, effect, crash }]);
                run(&disk, &steps);
            }
        }
    }
}

#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing() {
    let steps = script();
    for first in (5..60).step_by(6) {
        for second in 1..12 {
            let disk = Arc::new(MemoryDisk::new());
            let fault = |write, effect| Fault { write, effect, crash: true };
            disk.fail([fault(first, Effect::Part(100))]);
            // The first crash ends the first part of the script; what follows meets the second one.
            run_until_dead(&disk, &steps);
            let content = disk.content();
            let disk = Arc::new(MemoryDisk::with(content.clone()));
            let survivors = read(&open(&Arc::new(MemoryDisk::with(content))).unwrap()).unwrap();
            disk.fail([fault(second, Effect::Part(200))]);
            let _ = open(&disk).and_then(|vault| vault.compact());
            disk.revive();
            assert_eq!(read(&open(&disk).unwrap()).unwrap(), survivors);
        }
    }
}

fn run_until_dead(disk: &Arc<MemoryDisk>, steps: &[Step]) {
    let Ok(mut vault) = open(disk) else { return };
    for step in steps {
        let outcome = match step {
            Step::Commit(changes) => vault.commit(changes.clone()),
            Step::Soon(Change::Put(key, value)) => vault.put_soon(key, value.clone()).and_then(|()| vault.flush()),
            Step::Compact => vault.compact(),
            Step::Reopen => {
                drop(vault);
                let Ok(next) = open(disk) else { return };
                vault = next;
                Ok(())
            }
            _ => Ok(()),
        };
        if outcome.is_err() && disk.journal(0).is_err() {
            return;
        }
    }
}

#[test]
fn what_nobody_waits_for_is_tried_until_it_succeeds() {
    let disk = Arc::new(MemoryDisk::new());
    let vault = open(&disk).unwrap();
    let from = disk.writes();
    disk.fail((from..from + 3).map(|write| Fault { write, effect: Effect::Part(90), crash: false }));
    for name in 0..5 {
        vault.put_soon(&key(name), vec![name; 10]).unwrap();
    }
    while let Err(error) = vault.flush() {
        assert!(matches!(error, VaultError::Unknown { .. }), "{error}");
        assert_eq!(vault.get(&key(3)).unwrap().unwrap(), [3; 10]);
    }
    assert_eq!(vault.trouble(), None);
    let copy = Arc::new(MemoryDisk::with(disk.content()));
    assert_eq!(read(&open(&copy).unwrap()).unwrap().len(), 5);
}

#[test]
fn threads_on_a_failing_disk_keep_what_was_acknowledged() {
    let disk = Arc::new(MemoryDisk::new());
    let vault = open(&disk).unwrap();
    let from = disk.writes();
    disk.fail((0..400).map(|at| Fault { write: from + at * 5, effect: EFFECTS[at as usize % EFFECTS.len()], crash: false }));
    let kept: Vec<u64> = std::thread::scope(|scope| {
        let writers = (0..8u8).map(|thread| {
            let vault = &vault;
            scope.spawn(move || {
                let mut acknowledged = 0;
                for round in 1..=40 {
                    let name = key(thread);
                    let value = value(round, round % 10 == 0);
                    let done =
                        if round % 4 == 0 { vault.put_soon(&name, value).and_then(|()| vault.flush()) } else { vault.put(&name, &value) };
                    if done.is_ok() {
                        acknowledged = round;
                    }
                }
                acknowledged
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    drop(vault);
    disk.revive();
    let found = read(&open(&disk).unwrap()).unwrap();
    for (thread, acknowledged) in kept.into_iter().enumerate() {
        assert!(acknowledged > 0, "some writes succeed");
        let found = found.get(&key(thread as u8)).unwrap();
        // What came after it without an answer may be there instead.
        assert!((acknowledged..=40).any(|round| value(round, round % 10 == 0) == *found), "thread {thread}, {acknowledged}");
    }
    assert_eq!(disk.content().blobs.len(), found.values().filter(|value| value.len() > 65_536).count());
}

/// Key id and sequence of a frame, and so the nonce; and the frame.
type Frames = HashMap<(Vec<u8>, u64), Vec<u8>>;

/// Looks at every frame that is ever written.
struct Watched {
    disk: MemoryDisk,
    seen: Mutex<Frames>,
    key_ids: Mutex<HashMap<u64, Vec<u8>>>,
}

impl Disk for Watched {
    fn journal(&self, offset: u64) -> io::Result<Option<Vec<u8>>> {
        self.disk.journal(offset)
    }

    fn append(&self, generation: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let from = if offset == 0 { 0 } else { 16 };
        let mut journal = vec![0; from];
        journal.extend_from_slice(&bytes);
        let starts = frames(&journal);
        for frame in starts.windows(2).map(|pair| &journal[pair[0]..pair[1]]) {
            let mut ids = self.key_ids.lock().unwrap();
            if frame[4] == 1 {
                ids.insert(generation, frame[24 + 18..24 + 50].to_vec());
            }
            let sequence = u64::from_le_bytes(frame[8..16].try_into().unwrap());
            let nonce = (ids[&generation].clone(), sequence);
            if let Some(other) = self.seen.lock().unwrap().insert(nonce, frame.to_vec()) {
                assert_eq!(other, frame, "the same key and nonce for two frames");
            }
        }
        self.disk.append(generation, offset, bytes)
    }

    fn activate(&self, generation: u64) -> io::Result<()> {
        self.disk.activate(generation)
    }

    fn put_blob(&self, id: [u8; 32], bytes: Vec<u8>) -> io::Result<()> {
        self.disk.put_blob(id, bytes)
    }

    fn blob(&self, id: [u8; 32]) -> io::Result<Option<Vec<u8>>> {
        self.disk.blob(id)
    }

    fn drop_blob(&self, id: [u8; 32]) -> io::Result<()> {
        self.disk.drop_blob(id)
    }
}

#[test]
fn no_nonce_comes_twice_whatever_the_disk_does() {
    let watched = Arc::new(Watched { disk: MemoryDisk::new(), seen: Mutex::default(), key_ids: Mutex::default() });
    let open = || Vault::open_with(watched.clone(), sealing(), options()).unwrap();
    drop(open());
    let old = watched.disk.content();
    for round in 0..60u64 {
        let vault = open();
        for step in 0..6u64 {
            let from = watched.disk.writes();
            if step % 2 == 1 {
                let effect = EFFECTS[(round + step) as usize % EFFECTS.len()];
                watched.disk.fail([Fault { write: from, effect, crash: false }]);
            }
            let _ = vault.put(&key(step as u8), &value(round * 10 + step, false));
        }
        drop(vault);
        // The host puts back what it had at first: the same numbers come again, with other keys.
        if round % 3 == 0 {
            watched.disk.tamper(|content| *content = old.clone());
        }
    }
    assert!(watched.seen.lock().unwrap().len() > 200);
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = || {
        prop_oneof![
            6 => (0..9u8, any::<u64>(), proptest::bool::weighted(0.2)).prop_map(|(name, seed, big)| put(name, seed, big)),
            2 => (0..9u8).prop_map(|name| Change::Delete(key(name))),
        ]
    };
    let several = proptest::collection::vec(change(), 1..5).prop_map(|mut changes| {
        let mut seen = std::collections::HashSet::new();
        changes.retain(|change| seen.insert(change.key().clone()));
        changes
    });
    let step = prop_oneof![
        10 => several.prop_map(Step::Commit),
        4 => change().prop_map(Step::Soon),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault =
        (0..150u64, 0..EFFECTS.len(), any::<bool>()).prop_map(|(write, effect, crash)| Fault { write, effect: EFFECTS[effect], crash });
    proptest::collection::vec(fault, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_what_a_map_would_be(steps in steps(), faults in faults()) {
        let disk = Arc::new(MemoryDisk::new().in_pieces(777));
        disk.fail(faults);
        run(&disk, &steps);
    }
}
