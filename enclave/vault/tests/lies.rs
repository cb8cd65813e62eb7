//! The host lies about what lies on its disk: whatever it shows is noticed and named, or is an older state that a witness tells.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::sync::Arc;

use common::{frames, key, open, read, sealing, value};
use proptest::prelude::*;
use teemate_vault::testing::{Content, MemoryDisk};
use teemate_vault::{Disk, FixedSealing, Key, MAX_PIECE, Options, Vault, VaultError, Witness};

/// A store with two segments, small and big values.
fn store() -> (Content, Witness) {
    let disk = Arc::new(MemoryDisk::new());
    let mut witness = None;
    for half in 0..2 {
        let vault = Vault::open(disk.clone(), sealing()).unwrap();
        for name in 0..6 {
            vault.put(&key(name), &value(u64::from(half * 10 + name), name == 5)).unwrap();
        }
        witness = Some(vault.witness());
    }
    (disk.content(), witness.unwrap())
}

fn open_content(content: Content) -> Result<Arc<Vault>, VaultError> {
    open(&Arc::new(MemoryDisk::with(content)))
}

fn damage(content: Content) -> String {
    match open_content(content) {
        Err(error @ VaultError::Damaged { .. }) => error.to_string(),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_changed_bit_anywhere_is_noticed_and_named() {
    let (mut content, _) = store();
    let starts = frames(content.journal());
    for at in 0..content.journal().len() {
        let mut changed = content.clone();
        changed.journal()[at] ^= 1 << (at % 8);
        let error = match open_content(changed) {
            Err(error) => error,
            Ok(_) => panic!("byte {at} was changed and nobody noticed"),
        };
        let frame = starts.iter().filter(|start| **start <= at).count();
        match error {
            VaultError::Damaged { what } if frame > 1 => assert!(what.contains(&format!("entry {}", frame - 1)), "{at}: {what}"),
            // What the first frame's key derives from, or names the format.
            VaultError::Damaged { .. } | VaultError::Foreign | VaultError::Format { .. } => {}
            // The security version of a segment.
            VaultError::Newer { .. } | VaultError::NoKey { .. } => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn removed_repeated_and_exchanged_entries_are_named() {
    let (mut content, _) = store();
    let journal = content.journal().clone();
    let starts = frames(&journal);
    let frame = |number: usize| &journal[starts[number]..starts[number + 1]];
    let count = starts.len() - 1;
    let with = |parts: &[&[u8]]| {
        let mut content = content.clone();
        *content.journal() = parts.concat();
        damage(content)
    };
    for number in 1..count - 1 {
        let (head, tail) = (&journal[..starts[number]], &journal[starts[number + 1]..]);
        assert!(with(&[head, tail]).contains(&format!("lacks entry {number}: entry {} lies in its place", number + 1)));
        let repeated = with(&[head, frame(number), frame(number), tail]);
        assert!(repeated.contains(&format!("has entry {number} again where entry {} belongs", number + 1)), "{repeated}");
        let exchanged = with(&[head, frame(number + 1), frame(number), &journal[starts[number + 2]..]]);
        assert!(exchanged.contains(&format!("entry {number}")), "{exchanged}");
    }
    // At the end too, also in what nobody has followed yet.
    let last = with(&[&journal, frame(count - 1)]);
    assert!(last.contains(&format!("has entry {} again", count - 1)), "{last}");
    assert!(with(&[&journal, &[7; 100]]).contains(&format!("entry {count}")));
}

#[test]
fn entries_of_another_line_of_the_stores_life_do_not_fit() {
    let (content, _) = store();
    let grow = |seed: u64| {
        let disk = Arc::new(MemoryDisk::with(content.clone()));
        let vault = Vault::open(disk.clone(), sealing()).unwrap();
        for name in 0..4 {
            vault.put(&key(name), &value(seed + u64::from(name), false)).unwrap();
        }
        drop(vault);
        disk.content()
    };
    let (mut one, mut two) = (grow(50), grow(60));
    let (first, second) = (one.journal().clone(), two.journal().clone());
    let (starts, others) = (frames(&first), frames(&second));
    assert_eq!(starts.len(), others.len());
    let common = frames(content.clone().journal()).len();
    for number in common..starts.len() - 1 {
        let mut mixed = one.clone();
        *mixed.journal() = [&first[..starts[number]], &second[others[number]..]].concat();
        assert!(damage(mixed).contains(&format!("entry {number} of the journal was changed, or those before it were exchanged")));
    }
}

#[test]
fn an_older_store_opens_but_no_witness_believes_it() {
    let (mut content, witness) = store();
    let starts = frames(content.journal());
    let mut cuts: Vec<usize> = starts[1..starts.len() - 1].to_vec();
    cuts.extend(starts[2..].iter().map(|start| start - 1));
    for cut in cuts {
        let mut older = content.clone();
        older.journal().truncate(cut);
        let vault = open_content(older).unwrap();
        assert!(!vault.continues(&witness), "cut at {cut}");
        while vault.epoch() < witness.epoch + 3 {
            vault.put(&key(1), b"as if nothing had been").unwrap();
            assert!(!vault.continues(&witness), "cut at {cut}, at epoch {}", vault.epoch());
        }
    }
    let vault = open_content(content.clone()).unwrap();
    assert!(vault.continues(&witness));
    vault.put(&key(1), b"more").unwrap();
    vault.compact().unwrap();
    assert!(vault.continues(&witness) && vault.continues(&vault.witness()));
    let empty = open_content(Content::default()).unwrap();
    assert!(!empty.continues(&witness), "a new store is no continuation");
}

#[test]
fn two_enclaves_on_copies_of_one_store_are_told_apart() {
    let (content, old) = store();
    let (one, two) = (open_content(content.clone()).unwrap(), open_content(content).unwrap());
    for vault in [&one, &two] {
        vault.put(&key(1), b"one of two").unwrap();
    }
    assert!(one.continues(&old) && two.continues(&old));
    assert!(!one.continues(&two.witness()) && !two.continues(&one.witness()));
}

#[test]
fn a_generation_that_is_not_whole_is_refused() {
    let (content, _) = store();
    let disk = Arc::new(MemoryDisk::with(content));
    let vault = Vault::open(disk.clone(), sealing()).unwrap();
    let before = disk.content();
    vault.compact().unwrap();
    drop(vault);
    let mut after = disk.content();
    for cut in 0..after.journal().len() {
        let mut part = after.clone();
        part.journal().truncate(cut);
        let error = damage(part);
        assert!(error.contains("incomplete") || error.contains("shorter"), "{error}");
    }
    assert!(open_content(before).is_ok(), "an old generation is an old store");
}

#[test]
fn what_the_host_changes_under_a_running_enclave_is_noticed() {
    let (content, _) = store();
    let disk = Arc::new(MemoryDisk::with(content));
    let vault = open(&disk).unwrap();
    let expected = read(&vault).unwrap();
    let good = disk.content();
    let journal = good.clone().journal().clone();
    let mut noticed = 0;
    for at in (0..journal.len()).step_by(13) {
        disk.tamper(|content| content.journal()[at] ^= 0x10);
        for (key, value) in &expected {
            match vault.get(key) {
                Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                Err(VaultError::Damaged { what }) => {
                    assert!(what.contains(&key.to_string()), "{what}");
                    noticed += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        disk.tamper(|content| content.journal()[at] ^= 0x10);
    }
    assert!(noticed > 10);
    for lie in 0..3 {
        disk.tamper(|content| match lie {
            0 => content.journal().truncate(200),
            1 => content.active = None,
            _ => content.journal().rotate_left(1),
        });
        assert!(matches!(vault.get(&key(1)), Err(VaultError::Damaged { .. })));
        assert!(vault.compact().is_err(), "what cannot be read is not left behind");
        disk.tamper(|content| *content = good.clone());
    }
    assert_eq!(read(&vault).unwrap(), expected);
    vault.compact().unwrap();
    assert_eq!(read(&vault).unwrap(), expected);
}

#[test]
fn blobs_are_what_was_stored_or_are_named() {
    let disk = Arc::new(MemoryDisk::new());
    let vault = open(&disk).unwrap();
    let big = |seed: u64| value(seed, true);
    vault.put(&key(1), &big(100)).unwrap();
    let old = disk.content().blobs;
    vault.put(&key(1), &big(200)).unwrap();
    let one = *disk.content().blobs.keys().next().unwrap();
    vault.put(&key(2), &big(300)).unwrap();
    let two = *disk.content().blobs.keys().find(|id| **id != one).unwrap();
    let good = disk.content();
    type Lie<'a> = Box<dyn Fn(&mut Content) + 'a>;
    let lies: [(&str, Lie<'_>); 7] = [
        ("missing", Box::new(|content| drop(content.blobs.remove(&one)))),
        ("changed", Box::new(|content| content.blobs.get_mut(&one).unwrap()[5] ^= 1)),
        ("swapped", Box::new(|content| drop(content.blobs.insert(one, content.blobs[&two].clone())))),
        ("older", Box::new(|content| drop(content.blobs.insert(one, old.values().next().unwrap().clone())))),
        ("changed", Box::new(|content| content.blobs.get_mut(&one).unwrap().truncate(10))),
        ("changed", Box::new(|content| content.blobs.get_mut(&one).unwrap().clear())),
        ("changed", Box::new(|content| content.blobs.get_mut(&one).unwrap().push(0))),
    ];
    for (what, lie) in &lies {
        disk.tamper(|content| lie(content));
        let error = vault.get(&key(1)).unwrap_err().to_string();
        assert!(error.contains(&key(1).to_string()) && error.contains(what), "{error}");
        assert_eq!(vault.get(&key(2)).unwrap().unwrap(), big(300), "the other is not touched");
        disk.tamper(|content| *content = good.clone());
    }
    assert_eq!(vault.get(&key(1)).unwrap().unwrap(), big(200));
}

#[test]
fn only_the_same_or_a_higher_version_of_the_same_signer_opens() {
    let open = |disk: &Arc<MemoryDisk>, sealing: FixedSealing| Vault::open(disk.clone(), Arc::new(sealing));
    let at = |svn| FixedSealing::new([7; 16]).at(svn);
    let disk = Arc::new(MemoryDisk::new());
    open(&disk, at(2)).unwrap().put(&key(1), b"sealed at 2").unwrap();
    assert_eq!(open(&disk, at(1)).err(), Some(VaultError::Newer { sealed: 2, own: 1 }));
    assert_eq!(open(&disk, FixedSealing::new([8; 16]).at(2)).err(), Some(VaultError::Foreign));
    let vault = open(&disk, at(3)).unwrap();
    assert_eq!(vault.get(&key(1)).unwrap().unwrap(), b"sealed at 2");
    drop(vault);
    // The upgrade sealed everything anew: a broken old version has nothing more to open.
    assert_eq!(open(&disk, at(2)).err(), Some(VaultError::Newer { sealed: 3, own: 2 }));
    assert_eq!(disk.content().generations.len(), 1);
    assert!(open(&disk, at(3)).is_ok());
}

/// A disk that answers what no disk answers.
struct Odd(u8);

impl Disk for Odd {
    fn journal(&self, offset: u64) -> io::Result<Option<Vec<u8>>> {
        match self.0 {
            0 => Ok(Some(vec![0; MAX_PIECE + 1])),
            1 => Ok(Some(Vec::new())),
            2 => Ok(Some(vec![0; 100])),
            3 if offset == 0 => Ok(Some(MemoryDisk::with(store().0).journal(0)?.unwrap()[..100].to_vec())),
            3 => Ok(None),
            4 => Ok(Some(b"something else entirely".to_vec())),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn append(&self, _: u64, _: u64, _: Vec<u8>) -> io::Result<()> {
        Ok(())
    }

    fn activate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn put_blob(&self, _: [u8; 32], _: Vec<u8>) -> io::Result<()> {
        Ok(())
    }

    fn blob(&self, _: [u8; 32]) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn drop_blob(&self, _: [u8; 32]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn odd_answers_are_errors() {
    for odd in 0..=5 {
        let error = Vault::open(Arc::new(Odd(odd)), sealing()).err().unwrap();
        let fits = match odd {
            0 | 5 => matches!(error, VaultError::Disk { .. }),
            _ => matches!(error, VaultError::Damaged { .. }),
        };
        assert!(fits, "{odd}: {error:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_that_passes() {
    let disk = Arc::new(MemoryDisk::new());
    let options = Options { queue: 1_000, ..Options::default() };
    let vault = Vault::open_with(disk.clone(), sealing(), options).unwrap();
    use teemate_vault::testing::{Effect, Fault};
    let from = disk.writes();
    disk.fail((from..from + 200).map(|write| Fault { write, effect: Effect::Nothing, crash: false }));
    let mut refused = None;
    for number in 0..100 {
        if let Err(error) = vault.put_soon(&Key::new("o", "k", format!("{number}")), vec![1; 100]) {
            refused = Some((number, error));
            break;
        }
    }
    let (kept, error) = refused.unwrap();
    assert!((2..10).contains(&kept) && matches!(error, VaultError::Unknown { .. } | VaultError::Busy { .. }), "{kept}: {error}");
    assert!(matches!(vault.put(&key(1), &value(1, true)), Err(VaultError::Disk { .. })));
    disk.revive();
    vault.flush().unwrap();
    assert_eq!(vault.list("o", "k").len(), kept);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_spliced_is_a_prefix_or_refused(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5u8, any::<u8>()), 1..4),
    ) {
        let (mut content, witness) = store();
        let whole = content.journal().clone();
        let journal = content.journal();
        for (a, b, what, byte) in edits {
            if journal.is_empty() {
                break;
            }
            let (a, b) = (a.index(journal.len()), b.index(journal.len()));
            let (from, to) = (a.min(b), a.max(b));
            match what {
                0 => journal[a] = byte,
                1 => drop(journal.drain(from..to)),
                2 => journal.splice(a..a, whole[from.min(whole.len())..to.min(whole.len())].iter().copied()).for_each(drop),
                3 => journal[from..to].fill(0),
                _ => journal.truncate(a),
            }
        }
        let unchanged = *journal == whole;
        if let Ok(vault) = open_content(content) {
            prop_assert_eq!(vault.continues(&witness), unchanged);
            for (owner, _) in vault.owners() {
                for (name, _) in vault.list(&owner, "kind") {
                    let number: u64 = name[4..].parse().unwrap();
                    match vault.get(&Key::new(owner.as_str(), "kind", name.as_str())) {
                        Ok(found) => {
                            let found = found.unwrap();
                            prop_assert!([number, 10 + number].into_iter().any(|seed| value(seed, number == 5) == found), "{}", name);
                        }
                        // An older store names a blob that was deleted since.
                        Err(VaultError::Damaged { what }) => prop_assert!(number == 5 && what.contains("missing")),
                        Err(other) => prop_assert!(false, "{}", other),
                    }
                }
            }
        }
    }
}
