//! What initialisation left in an instance's memory: the pages in which it differs from the memory that every instance begins with.
//!
//! An instance is put back by making it anew and writing these pages. Nothing of an earlier call has to be found and undone, because
//! nothing of it is there: globals and tables are a new instance's, and the memory is a clean region of the pool.

use crate::image::PAGE;

/// Memory after initialisation, as its difference from the memory before.
pub struct Snapshot {
    size: usize,
    /// Where each run of pages begins, and where in `bytes` it lies. In order; they do not overlap.
    runs: Vec<(usize, std::ops::Range<usize>)>,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// What `memory` holds otherwise than `before`, beyond which memory was zero.
    pub fn take(memory: &[u8], before: &[u8]) -> Snapshot {
        let mut runs: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        let mut bytes = Vec::new();
        for (index, page) in memory.chunks(PAGE).enumerate() {
            let at = index * PAGE;
            let same = match before.get(at..at + page.len()) {
                Some(old) => old == page,
                None => page.iter().enumerate().all(|(byte, value)| *value == before.get(at + byte).copied().unwrap_or(0)),
            };
            if same {
                continue;
            }
            let from = bytes.len();
            bytes.extend_from_slice(page);
            match runs.last_mut() {
                Some((start, range)) if *start + range.len() == at => range.end = bytes.len(),
                _ => runs.push((at, from..bytes.len())),
            }
        }
        bytes.shrink_to_fit();
        Snapshot { size: memory.len(), runs, bytes }
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that are written when an instance is put back.
    pub fn changed(&self) -> usize {
        self.bytes.len()
    }

    /// Makes memory that is as it was before the initialisation what it was after it. False when it has another size.
    #[must_use]
    pub fn restore(&self, memory: &mut [u8]) -> bool {
        if memory.len() != self.size {
            return false;
        }
        for (at, range) in &self.runs {
            memory[*at..at + range.len()].copy_from_slice(&self.bytes[range.clone()]);
        }
        true
    }
}

impl Snapshot {
    /// Whether memory holds what it held after the initialisation, when it was `before` that at first: all of it, not only what changed.
    pub fn matches(&self, memory: &[u8], before: &[u8]) -> bool {
        let mut expected = vec![0; self.size];
        let known = before.len().min(self.size);
        expected[..known].copy_from_slice(&before[..known]);
        self.restore(&mut expected) && memory == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_taken_is_restored(
            before in prop::collection::vec(prop::option::of(any::<u8>()), 0..20),
            grown in 0usize..8,
            writes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
            ragged in 0usize..PAGE,
        ) {
            let mut old = vec![0u8; before.len() * PAGE];
            for (page, value) in old.chunks_mut(PAGE).zip(&before) { if let Some(v) = value { page[5] = *v; } }
            // Also sizes that are no whole pages, which WebAssembly does not have.
            old.truncate(old.len().saturating_sub(ragged));
            let mut memory = old.clone();
            memory.resize(old.len() + grown * PAGE, 0);
            for (at, value) in &writes { if !memory.is_empty() { let at = at.index(memory.len()); memory[at] = *value; } }
            let snapshot = Snapshot::take(&memory, &old);
            prop_assert!(snapshot.changed() <= writes.len() * PAGE);
            let mut other = old.clone();
            prop_assert_eq!(snapshot.restore(&mut other), grown == 0);
            let mut other = old;
            other.resize(memory.len(), 0);
            prop_assert!(snapshot.restore(&mut other));
            prop_assert_eq!(&other, &memory);
            prop_assert!(snapshot.matches(&memory, &memory));
            if let (Some((at, _)), false) = (writes.first(), memory.is_empty()) {
                other[at.index(memory.len())] ^= 1;
                prop_assert!(!snapshot.matches(&other, &memory));
            }
        }
    }
}
