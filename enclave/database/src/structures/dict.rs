//! A map from byte strings: linear hashing over small hash tables.
//!
//! The entries lie in *segments* of about [`TARGET`] entries. Segment `i` has the keys whose hash ends in the bits of `i`. When the map
//! grows, one segment at a time is split in two (Litwin, "Linear hashing", 1980), so no insertion moves more than one segment's entries.
//!
//! The *position* of a key is its hash with the bits reversed. In that order each segment is one contiguous range, before and after any
//! split or merge: so a position is a cursor that needs no state, and what is there during the whole of a scan is seen by it.

use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

/// Entries of a segment on average, when it has not been split for long.
const TARGET: usize = 48;
/// Segments of a chunk of the directory.
const CHUNK: usize = 256;

/// The hash of a key: SipHash under a key of this process, so that no client can choose keys that collide.
pub fn hash(key: &[u8]) -> u64 {
    static SEED: OnceLock<std::hash::RandomState> = OnceLock::new();
    SEED.get_or_init(std::hash::RandomState::new).hash_one(key)
}

/// Where a key of this hash stands in the order of [`Dict::scan`].
pub fn position(hash: u64) -> u64 {
    hash.reverse_bits()
}

/// A map from byte strings to `V`.
///
/// `clone` shares everything: it costs one reference for each 256 segments (some 12,000 entries).
#[derive(Clone, Debug)]
pub struct Dict<V> {
    /// Segment `i` is at `chunks[i / CHUNK][i % CHUNK]`. There is always one.
    chunks: Vec<Arc<Chunk<V>>>,
    segments: usize,
    len: usize,
}

type Chunk<V> = Vec<Arc<Segment<V>>>;

#[derive(Clone, Debug)]
struct Segment<V> {
    table: HashTable<Entry<V>>,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    key: Box<[u8]>,
    value: V,
}

/// What the segments' tables are given: their own bits must not be those by which the segment was chosen, or all would be alike.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

fn rehash<V>(entry: &Entry<V>) -> u64 {
    spread(hash(&entry.key))
}

impl<V> Default for Dict<V> {
    fn default() -> Self {
        Dict { chunks: vec![Arc::new(vec![Arc::new(Segment { table: HashTable::new() })])], segments: 1, len: 0 }
    }
}

impl<V> Dict<V> {
    /// An empty one.
    pub fn new() -> Self {
        Dict::default()
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The largest power of two that is at most the number of segments.
    fn level(&self) -> usize {
        1 << self.segments.ilog2()
    }

    /// The segment of a hash.
    fn index(&self, hash: u64) -> usize {
        let level = self.level();
        let index = hash as usize & (2 * level - 1);
        if index < self.segments { index } else { index & (level - 1) }
    }

    /// How many bits of the hash choose this segment.
    fn depth(&self, index: usize) -> u32 {
        let level = self.level();
        if index >= level || index + level < self.segments { level.ilog2() + 1 } else { level.ilog2() }
    }

    fn segment(&self, index: usize) -> &Segment<V> {
        &self.chunks[index / CHUNK][index % CHUNK]
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.get_hashed(hash(key), key)
    }

    /// The same for who knows the hash.
    pub fn get_hashed(&self, hash: u64, key: &[u8]) -> Option<&V> {
        let entry = self.segment(self.index(hash)).table.find(spread(hash), |entry| *entry.key == *key)?;
        Some(&entry.value)
    }

    /// The key as it is kept, and its value.
    pub fn get_key_value(&self, key: &[u8]) -> Option<(&[u8], &V)> {
        let hash = hash(key);
        let entry = self.segment(self.index(hash)).table.find(spread(hash), |entry| *entry.key == *key)?;
        Some((&entry.key, &entry.value))
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// All entries, in the order of their segments.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        let segments = self.chunks.iter().flat_map(|chunk| chunk.iter());
        segments.flat_map(|segment| segment.table.iter()).map(|entry| (&*entry.key, &entry.value))
    }

    /// Calls `see` for the entries from `cursor` on, whole segments at a time, until it has seen `count` of them or more. Returns the
    /// cursor to go on with; 0 is the beginning, and the end.
    ///
    /// An entry that is there during the whole of a scan is seen at least once, whatever else is put in or taken out meanwhile. It is
    /// seen twice only if segments were merged meanwhile.
    pub fn scan(&self, mut cursor: u64, count: usize, mut see: impl FnMut(&[u8], &V)) -> u64 {
        let mut seen = 0;
        // Empty segments cost a step too, so that a scan of a map that was emptied is bounded.
        for _ in 0..count.max(1).saturating_mul(10) {
            let index = self.index(position(cursor));
            let table = &self.segment(index).table;
            table.iter().for_each(|entry| see(&entry.key, &entry.value));
            seen += table.len();
            cursor = self.after(cursor, index);
            if cursor == 0 || seen >= count {
                break;
            }
        }
        cursor
    }

    /// The first position behind the range of the segment in which `cursor` is; 0 behind the last.
    fn after(&self, cursor: u64, index: usize) -> u64 {
        match self.depth(index) {
            0 => 0,
            depth => (cursor >> (64 - depth)).wrapping_add(1) << (64 - depth),
        }
    }

    /// An entry at random: `random` gives a number below the one that it gets. `None` if there is none.
    ///
    /// First a segment, then one of its entries, as evenly as sizes of segments allow: a segment is taken in proportion to its size.
    pub fn random(&self, mut random: impl FnMut(usize) -> usize) -> Option<(&[u8], &V)> {
        if self.len == 0 {
            return None;
        }
        let largest = if self.segments == 1 { 1 } else { 4 * TARGET };
        // In a map that was mostly emptied nearly all segments are empty; merging bounds how many, so the bound is never met in practice.
        for _ in 0..64 * self.segments.max(16) {
            let table = &self.segment(random(self.segments)).table;
            // Reject in proportion, so that each entry is as likely as any other. Oversized segments are taken at once.
            let wanted = random(largest.max(table.len()));
            if wanted < table.len()
                && let Some(entry) = table.iter().nth(wanted)
            {
                return Some((&entry.key, &entry.value));
            }
        }
        self.iter().next()
    }
}

impl<V: Clone> Dict<V> {
    fn segment_mut(&mut self, index: usize) -> &mut Segment<V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.chunks[index / CHUNK])[index % CHUNK])
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        self.get_mut_hashed(hash(key), key)
    }

    /// The same for who knows the hash.
    pub fn get_mut_hashed(&mut self, hash: u64, key: &[u8]) -> Option<&mut V> {
        let index = self.index(hash);
        let shared =
            Arc::strong_count(&self.chunks[index / CHUNK]) > 1 || Arc::strong_count(&self.chunks[index / CHUNK][index % CHUNK]) > 1;
        if shared && self.get_hashed(hash, key).is_none() {
            return None;
        }
        let entry = self.segment_mut(index).table.find_mut(spread(hash), |entry| *entry.key == *key)?;
        Some(&mut entry.value)
    }

    /// Puts a value in. Returns the one that was there.
    pub fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        self.insert_hashed(hash(key), key, value)
    }

    /// The same for who knows the hash.
    pub fn insert_hashed(&mut self, hash: u64, key: &[u8], value: V) -> Option<V> {
        let index = self.index(hash);
        match self.segment_mut(index).table.entry(spread(hash), |entry| *entry.key == *key, rehash) {
            Slot::Occupied(mut slot) => Some(std::mem::replace(&mut slot.get_mut().value, value)),
            Slot::Vacant(slot) => {
                slot.insert(Entry { key: key.into(), value });
                self.len += 1;
                if self.len > self.segments * TARGET {
                    self.split();
                }
                None
            }
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &[u8]) -> Option<(Box<[u8]>, V)> {
        self.remove_hashed(hash(key), key)
    }

    /// The same for who knows the hash.
    pub fn remove_hashed(&mut self, hash: u64, key: &[u8]) -> Option<(Box<[u8]>, V)> {
        self.get_hashed(hash, key)?;
        let index = self.index(hash);
        let slot = self.segment_mut(index).table.find_entry(spread(hash), |entry| *entry.key == *key).ok()?;
        let (Entry { key, value }, _) = slot.remove();
        self.len -= 1;
        // Half as full as after a split: otherwise an entry that comes and goes would split and merge each time.
        if self.segments > 1 && self.len < self.segments * (TARGET / 4) {
            self.merge();
        }
        Some((key, value))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Dict::default();
    }

    /// As [`Dict::scan`], for who changes values as it goes.
    pub fn scan_mut(&mut self, mut cursor: u64, count: usize, mut see: impl FnMut(&[u8], &mut V)) -> u64 {
        let mut seen = 0;
        for _ in 0..count.max(1).saturating_mul(10) {
            let index = self.index(position(cursor));
            if !self.segment(index).table.is_empty() {
                let table = &mut self.segment_mut(index).table;
                table.iter_mut().for_each(|entry| see(&entry.key, &mut entry.value));
                seen += table.len();
            }
            cursor = self.after(cursor, index);
            if cursor == 0 || seen >= count {
                break;
            }
        }
        cursor
    }

    /// Divides the next segment in turn in two.
    fn split(&mut self) {
        let level = self.level();
        let (from, to) = (self.segments - level, self.segments);
        let bit = level as u64;
        let old = std::mem::take(&mut self.segment_mut(from).table);
        let mut parts = [HashTable::with_capacity(old.len() / 2 + 1), HashTable::with_capacity(old.len() / 2 + 1)];
        for entry in old {
            let hash = hash(&entry.key);
            parts[usize::from(hash & bit != 0)].insert_unique(spread(hash), entry, rehash);
        }
        let [low, high] = parts;
        self.segment_mut(from).table = low;
        if to.is_multiple_of(CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(1)));
        }
        Arc::make_mut(&mut self.chunks[to / CHUNK]).push(Arc::new(Segment { table: high }));
        self.segments += 1;
    }

    /// The reverse: the last segment goes back into the one that it came from.
    fn merge(&mut self) {
        let last = self.segments - 1;
        let into = last - (1 << last.ilog2());
        let chunk = Arc::make_mut(&mut self.chunks[last / CHUNK]);
        let Some(segment) = chunk.pop() else { return };
        if chunk.is_empty() {
            self.chunks.pop();
        }
        self.segments -= 1;
        let table = &mut self.segment_mut(into).table;
        for entry in Arc::unwrap_or_clone(segment).table {
            table.insert_unique(rehash(&entry), entry, rehash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn key(number: u32) -> Vec<u8> {
        format!("key:{number}").into_bytes()
    }

    fn content(dict: &Dict<u32>) -> BTreeMap<Vec<u8>, u32> {
        dict.iter().map(|(key, value)| (key.to_vec(), *value)).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, u32),
        Remove(u32),
        Change(u32, u32),
        Clone,
        /// Many at once, so that segments split and merge.
        Fill(u32),
        Drain(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..3000, any::<u32>()).prop_map(|(k, v)| Step::Insert(k, v)),
            3 => (0u32..3000).prop_map(Step::Remove),
            3 => (0u32..3000, any::<u32>()).prop_map(|(k, v)| Step::Change(k, v)),
            1 => Just(Step::Clone),
            1 => (0u32..2000).prop_map(Step::Fill),
            1 => (0u32..3000).prop_map(Step::Drain),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_map_and_its_clones_stay_what_they_were(steps in prop::collection::vec(step(), 1..60)) {
            let (mut dict, mut model) = (Dict::new(), BTreeMap::new());
            let mut clones = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(k, v) => prop_assert_eq!(dict.insert(&key(k), v), model.insert(key(k), v)),
                    Step::Remove(k) => prop_assert_eq!(dict.remove(&key(k)).map(|(_, v)| v), model.remove(&key(k))),
                    Step::Change(k, v) => {
                        let (mine, theirs) = (dict.get_mut(&key(k)), model.get_mut(&key(k)));
                        prop_assert_eq!(mine.is_some(), theirs.is_some());
                        if let (Some(mine), Some(theirs)) = (mine, theirs) {
                            *mine = v;
                            *theirs = v;
                        }
                    }
                    Step::Clone => clones.push((dict.clone(), model.clone())),
                    Step::Fill(n) => (0..n).for_each(|k| {
                        dict.insert(&key(k), k);
                        model.insert(key(k), k);
                    }),
                    Step::Drain(n) => (0..n).for_each(|k| {
                        dict.remove(&key(k));
                        model.remove(&key(k));
                    }),
                }
                prop_assert_eq!(dict.len(), model.len());
            }
            prop_assert_eq!(content(&dict), model);
            for (clone, model) in clones {
                prop_assert_eq!(content(&clone), model);
            }
        }

        #[test]
        fn a_scan_sees_all_that_stays(start in 0u32..4000, changes in prop::collection::vec((any::<bool>(), 0u32..2000), 0..40), count in 1usize..200) {
            let mut dict = Dict::new();
            // Even numbers stay; odd ones come and go while it is scanned.
            (0..start).for_each(|k| { dict.insert(&key(2 * k), k); });
            let (mut cursor, mut seen, mut changes) = (0, BTreeSet::new(), changes.into_iter());
            loop {
                cursor = dict.scan(cursor, count, |key, _| { seen.insert(key.to_vec()); });
                if cursor == 0 {
                    break;
                }
                if let Some((add, n)) = changes.next() {
                    for k in 0..n {
                        if add { dict.insert(&key(2 * k + 1), 0); } else { dict.remove(&key(2 * k + 1)); }
                    }
                }
            }
            for k in 0..start {
                prop_assert!(seen.contains(&key(2 * k)), "{} was not seen", 2 * k);
            }
        }
    }

    #[test]
    fn it_shrinks_again() {
        let mut dict = Dict::new();
        (0..100_000).for_each(|k| {
            dict.insert(&key(k), k);
        });
        assert!(dict.segments > 1000);
        (0..100_000).for_each(|k| {
            dict.remove(&key(k));
        });
        assert_eq!((dict.segments, dict.len()), (1, 0));
    }

    #[test]
    fn a_clone_costs_nothing_and_a_write_after_it_little() {
        let mut dict = Dict::new();
        (0..200_000).for_each(|k| {
            dict.insert(&key(k), k);
        });
        let clone = dict.clone();
        dict.insert(&key(5), 0);
        let shared = dict.chunks.iter().zip(&clone.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, dict.chunks.len() - 1);
        let pairs = dict.chunks.iter().zip(&clone.chunks).flat_map(|(a, b)| a.iter().zip(b.iter()));
        assert_eq!(pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
    }

    #[test]
    fn a_random_entry_is_any_entry() {
        let mut dict = Dict::new();
        (0..1000).for_each(|k| {
            dict.insert(&key(k), k);
        });
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        let mut counts = vec![0u32; 1000];
        (0..100_000).for_each(|_| counts[*dict.random(&mut random).unwrap().1 as usize] += 1);
        // 100 each; six standard deviations are 60.
        assert!(counts.iter().all(|count| (40..160).contains(count)), "{counts:?}");
    }
}
