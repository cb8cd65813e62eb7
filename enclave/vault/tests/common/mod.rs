//! What the tests of crashes and lies have in common.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use teemate_vault::testing::MemoryDisk;
use teemate_vault::{Change, FixedSealing, Key, Options, Vault, VaultError};

pub fn sealing() -> Arc<FixedSealing> {
    Arc::new(FixedSealing::new([7; 16]))
}

/// Everything that the bounds hide becomes visible: nothing is cached, and compaction comes early.
pub fn options() -> Options {
    Options { cache: 0, compact_from: 1_500, ..Options::default() }
}

pub fn open(disk: &Arc<MemoryDisk>) -> Result<Arc<Vault>, VaultError> {
    Vault::open_with(disk.clone(), sealing(), options())
}

pub fn key(name: u8) -> Key {
    Key::new(format!("owner{}", name % 2), "kind", format!("name{name}"))
}

/// A value that differs for each seed; big ones become blobs.
pub fn value(seed: u64, big: bool) -> Vec<u8> {
    let length = if big { 65_600 + seed as usize % 100 } else { seed as usize % 200 };
    let mut value = vec![seed as u8; length];
    value.iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, of_seed)| *byte = of_seed);
    value
}

/// What the store should have.
pub type Model = BTreeMap<Key, Vec<u8>>;

pub fn apply(model: &mut Model, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(key, value) => model.insert(key.clone(), value.clone()),
            Change::Delete(key) => model.remove(key),
        };
    }
}

/// What the store has.
pub fn read(vault: &Vault) -> Result<Model, VaultError> {
    let mut model = Model::new();
    for (owner, usage) in vault.owners() {
        let mut count = 0;
        for (name, version) in vault.list(&owner, "kind") {
            let key = Key::new(owner.clone(), "kind", name);
            let (read, value) = vault.get_versioned(&key)?.expect("what is listed is there");
            assert!(read >= version && version <= vault.epoch() + 1);
            model.insert(key, value);
            count += 1;
        }
        assert_eq!(count, usage.records);
    }
    Ok(model)
}

/// Where the frames of a journal begin, and its end.
pub fn frames(journal: &[u8]) -> Vec<usize> {
    let mut starts = vec![16];
    while let Some(header) = journal.get(starts[starts.len() - 1]..).filter(|rest| rest.len() >= 24) {
        let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        starts.push(starts[starts.len() - 1] + 24 + length);
    }
    assert_eq!(starts.last(), Some(&journal.len()));
    starts
}
