//! A sealed store that the host has changed: it is refused, or it is an earlier state of itself.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use teemate_vault::testing::{Content, MemoryDisk};
use teemate_vault::{FixedSealing, Key, Vault, Witness};

const OWNER: &str = "owner";

fn sealing() -> Arc<FixedSealing> {
    Arc::new(FixedSealing::new([7; 16]))
}

fn value(name: usize, round: usize) -> Vec<u8> {
    vec![(name * 16 + round) as u8; if name == 3 { 66_000 } else { 20 * name }]
}

/// Three openings, changed records, a blob, a compaction.
static STORE: LazyLock<(Content, Witness)> = LazyLock::new(|| {
    let disk = Arc::new(MemoryDisk::new());
    let mut witness = None;
    for round in 0..3 {
        let vault = Vault::open(disk.clone(), sealing()).expect("an honest disk");
        for name in 0..5 {
            vault.put(&Key::new(OWNER, "kind", name.to_string()), &value(name, round)).expect("an honest disk");
        }
        if round == 1 {
            vault.compact().expect("an honest disk");
        }
        witness = Some(vault.witness());
    }
    (disk.content(), witness.expect("three rounds"))
});

/// Edits of five bytes: what, where, how long.
fn edit(journal: &mut Vec<u8>, edits: &[u8]) {
    let whole = journal.clone();
    for edit in edits.as_chunks::<5>().0 {
        let length = usize::from(edit[3]) | usize::from(edit[4]) << 8;
        let at = (usize::from(edit[1]) | usize::from(edit[2]) << 8) % (journal.len() + 1);
        let end = (at + length).min(journal.len());
        match edit[0] % 5 {
            0 if at < journal.len() => journal[at] = edit[3],
            1 => drop(journal.drain(at..end)),
            2 => {
                let from = length % whole.len();
                let piece = whole[from..(from + 300).min(whole.len())].to_vec();
                drop(journal.splice(at..at, piece));
            }
            3 => journal[at..end].fill(0),
            _ => journal.truncate(at),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (mut content, witness) = STORE.clone();
    let whole = content.journal().clone();
    // The first byte says whether the rest is the whole file or edits of the genuine one.
    match bytes.split_first() {
        Some((0, file)) => *content.journal() = file.to_vec(),
        Some((_, edits)) => edit(content.journal(), edits),
        None => {}
    }
    let unchanged = *content.journal() == whole;
    let Ok(vault) = Vault::open(Arc::new(MemoryDisk::with(content)), sealing()) else {
        assert!(!unchanged, "an unchanged store opens");
        return;
    };
    assert_eq!(vault.continues(&witness), unchanged);
    for (name, _) in vault.list(OWNER, "kind") {
        let number: usize = name.parse().expect("only such names were stored");
        if let Ok(Some(found)) = vault.get(&Key::new(OWNER, "kind", name)) {
            assert!((0..3).any(|round| value(number, round) == found), "a value that was never stored");
        }
    }
});
