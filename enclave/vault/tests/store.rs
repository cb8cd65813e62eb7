//! The store in ordinary use, and over restarts.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use teemate_vault::testing::MemoryDisk;
use teemate_vault::{Change, FixedSealing, Key, Options, Padding, Usage, Vault, VaultError};

fn sealing() -> Arc<FixedSealing> {
    Arc::new(FixedSealing::new([7; 16]))
}

fn open(disk: &Arc<MemoryDisk>) -> Arc<Vault> {
    Vault::open(disk.clone(), sealing()).unwrap()
}

fn key(name: &str) -> Key {
    Key::new("owner", "code", name)
}

#[test]
fn what_is_put_is_there_also_after_a_restart() {
    let disk = Arc::new(MemoryDisk::new());
    let (small, big) = (b"small".to_vec(), vec![5; 300_000]);
    {
        let vault = open(&disk);
        assert!(!vault.is_protected());
        vault.put(&key("small"), &small).unwrap();
        vault.put(&key("big"), &big).unwrap();
        vault.put(&key("gone"), b"x").unwrap();
        vault.delete(&key("gone")).unwrap();
        vault.put_soon(&key("soon"), b"later".to_vec()).unwrap();
        assert_eq!(vault.get(&key("soon")).unwrap().unwrap(), b"later", "readable at once");
        assert_eq!(disk.content().blobs.len(), 1);
    }
    for _ in 0..3 {
        let vault = open(&disk);
        assert_eq!(vault.get(&key("small")).unwrap().unwrap(), small);
        assert_eq!(vault.get(&key("big")).unwrap().unwrap(), big);
        assert_eq!(vault.get(&key("soon")).unwrap().unwrap(), b"later", "closing writes what waits");
        assert_eq!(vault.get(&key("gone")).unwrap(), None);
        let names: Vec<String> = vault.list("owner", "code").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["big", "small", "soon"]);
        let bytes = 300_000 + 5 + 5 + 3 * 9 + 3 + 5 + 4;
        assert_eq!(vault.owners(), [("owner".to_owned(), Usage { bytes, records: 3 })]);
    }
}

#[test]
fn versions_and_epochs_only_grow() {
    let disk = Arc::new(MemoryDisk::new());
    let (mut epoch, mut version) = (0, 0);
    for _ in 0..5 {
        let vault = open(&disk);
        for _ in 0..3 {
            vault.put(&key("a"), b"v").unwrap();
            assert!(vault.epoch() > epoch);
            let (now, _) = vault.get_versioned(&key("a")).unwrap().unwrap();
            assert!(now > version && now <= vault.epoch());
            assert_eq!(vault.list("owner", "code"), [("a".to_owned(), now)]);
            (epoch, version) = (vault.epoch(), now);
        }
        vault.compact().unwrap();
        assert_eq!(vault.epoch(), epoch);
        assert_eq!(vault.list("owner", "code"), [("a".to_owned(), version)]);
    }
}

#[test]
fn a_commit_is_whole_and_checked_first() {
    let disk = Arc::new(MemoryDisk::new());
    let options = Options { owner_bytes: 1000, owner_records: 3, value: 200_000, ..Options::default() };
    let vault = Vault::open_with(disk.clone(), sealing(), options).unwrap();
    let put = |name: &str, bytes: usize| Change::Put(key(name), vec![0; bytes]);
    vault.commit(vec![put("a", 1), put("b", 1), Change::Delete(key("c"))]).unwrap();
    assert!(matches!(vault.commit(vec![put("c", 1), put("c", 2)]), Err(VaultError::Twice { .. })));
    assert!(matches!(vault.commit(vec![put("c", 1), put("d", 1)]), Err(VaultError::OwnerRecords { records: 4, limit: 3 })));
    assert!(matches!(vault.put(&key("c"), &[0; 1000]), Err(VaultError::OwnerBytes { limit: 1000, .. })));
    assert!(matches!(vault.put(&key("c"), &[0; 100_000]), Err(VaultError::OwnerBytes { .. })));
    assert!(matches!(vault.put(&key("c"), &[0; 200_001]), Err(VaultError::TooLarge { .. })));
    assert!(matches!(vault.put(&key(""), b""), Err(VaultError::Name { .. })));
    assert!(matches!(vault.put(&key(&"n".repeat(1025)), b""), Err(VaultError::Name { .. })));
    assert_eq!(vault.usage("owner").records, 2);
    assert_eq!(disk.content().blobs.len(), 0, "the blob of a refused value is gone");
    vault.put(&Key::new("other", "code", "c"), &[0; 900]).unwrap();
    vault.put(&key("a"), &[0; 900]).unwrap();
    vault.delete(&key("a")).unwrap();
    vault.put(&key("b"), &[0; 900]).unwrap();
    vault.delete_owner("owner").unwrap();
    assert_eq!(vault.owners().len(), 1);
    assert!(vault.list("owner", "code").is_empty());
}

#[test]
fn lists_go_on_from_a_name() {
    let vault = open(&Arc::new(MemoryDisk::new()));
    for number in 0..20 {
        vault.put_soon(&key(&format!("{number:02}")), vec![1]).unwrap();
        if number % 3 == 0 {
            vault.flush().unwrap();
        }
    }
    let names = |from: &str, limit| vault.list_from("owner", "code", from, limit).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("", usize::MAX).len(), 20);
    assert_eq!(names("05", 3), ["05", "06", "07"]);
    assert_eq!(names("18x", 3), ["19"]);
    assert!(vault.list("owner", "cod").is_empty());
}

#[test]
fn threads_share_appends() {
    let disk = Arc::new(MemoryDisk::new());
    let vault = open(&disk);
    std::thread::scope(|scope| {
        for thread in 0..24 {
            let vault = &vault;
            scope.spawn(move || {
                for number in 0..100 {
                    let key = key(&format!("{thread}-{number}"));
                    match number % 3 {
                        0 => vault.put_soon(&key, vec![thread; 70_000 * usize::from(number % 30 == 0) + 10]).unwrap(),
                        1 => vault.put(&key, &[thread; 10]).unwrap(),
                        _ => vault.commit(vec![Change::Put(key.clone(), vec![thread; 10])]).unwrap(),
                    }
                    assert_eq!(vault.get(&key).unwrap().unwrap()[..10], [thread; 10]);
                }
            });
        }
    });
    drop(vault);
    let vault = open(&disk);
    assert_eq!(vault.list("owner", "code").len(), 2400);
    for thread in 0..24u8 {
        assert_eq!(vault.get(&key(&format!("{thread}-0"))).unwrap().unwrap(), [thread; 70_010]);
    }
}

#[test]
fn the_journal_stays_in_proportion_to_what_lives() {
    let disk = Arc::new(MemoryDisk::new());
    let options = Options { compact_from: 100_000, cache: 10_000, ..Options::default() };
    let vault = Vault::open_with(disk.clone(), sealing(), options).unwrap();
    let mut most = 0;
    for round in 0..3_000u32 {
        vault.put(&key(&format!("{}", round % 20)), &vec![round as u8; 2_000]).unwrap();
        if round % 50 == 0 {
            vault.put(&key("big"), &vec![round as u8; 100_000]).unwrap();
        }
        most = most.max(disk.content().journal().len());
    }
    assert!(most < 250_000, "{most}");
    assert_eq!(disk.content().blobs.len(), 1, "superseded blobs are deleted");
    assert_eq!(vault.trouble(), None);
    for check in 0..2 {
        let vault = if check == 0 { vault.clone() } else { open(&disk) };
        for name in 0..20u32 {
            assert_eq!(vault.get(&key(&format!("{name}"))).unwrap().unwrap(), vec![(2980 + name) as u8; 2_000]);
        }
        assert_eq!(vault.get(&key("big")).unwrap().unwrap(), vec![2950u32 as u8; 100_000]);
    }
}

#[test]
fn padding_hides_sizes() {
    let sizes = |padding| {
        let mut seen = std::collections::BTreeSet::new();
        for bytes in [1, 3, 50, 90] {
            let disk = Arc::new(MemoryDisk::new());
            let vault = Vault::open_with(disk.clone(), sealing(), Options { padding, ..Options::default() }).unwrap();
            vault.put(&key("name"), &vec![1; bytes]).unwrap();
            vault.put(&key("big"), &vec![1; 100_000 + bytes]).unwrap();
            drop(vault);
            let mut content = disk.content();
            seen.insert((content.journal().len(), content.blobs.values().map(Vec::len).sum::<usize>()));
            assert_eq!(open(&disk).get(&key("name")).unwrap().unwrap(), vec![1; bytes]);
        }
        seen.len()
    };
    assert_eq!((sizes(Padding::Exact), sizes(Padding::Classes)), (4, 1));
}

#[test]
fn nothing_that_is_kept_lies_on_the_disk_in_clear() {
    let disk = Arc::new(MemoryDisk::new());
    let vault = open(&disk);
    let canary = b"canary-canary-canary";
    vault.put(&Key::new("canary-owner", "canary-kind", "canary-name"), canary).unwrap();
    vault.put(&key("big"), &canary.repeat(10_000)).unwrap();
    vault.compact().unwrap();
    vault.put_soon(&key("soon"), canary.to_vec()).unwrap();
    drop(vault);
    let content = disk.content();
    for bytes in content.generations.values().chain(content.blobs.values()) {
        assert!(!bytes.windows(6).any(|window| window == b"canary"));
    }
}

#[test]
fn more_records_than_the_cache_holds_are_read_again() {
    let disk = Arc::new(MemoryDisk::new());
    let options = Options { cache: 300_000, ..Options::default() };
    let vault = Vault::open_with(disk.clone(), sealing(), options).unwrap();
    for number in 0..30_000 {
        vault.put_soon(&Key::new("owner", "activation", format!("{number:032x}")), vec![number as u8; 200]).unwrap();
    }
    vault.flush().unwrap();
    vault.compact().unwrap();
    drop(vault);
    let vault = Vault::open_with(disk, sealing(), options).unwrap();
    assert_eq!(vault.list("owner", "activation").len(), 30_000);
    for number in [0, 77, 29_999] {
        let key = Key::new("owner", "activation", format!("{number:032x}"));
        assert_eq!(vault.get(&key).unwrap().unwrap(), vec![number as u8; 200]);
    }
}
