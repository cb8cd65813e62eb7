//! The interest list of an epoll instance. It stays inside: the host knows an entry by an index alone, and what the host says happened is
//! believed only of an entry that is there, and only as far as the payload asked for it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const ET: u32 = libc::EPOLLET as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
/// What may be asked for.
const ASKABLE: u32 = IN | OUT | (libc::EPOLLPRI | libc::EPOLLRDHUP) as u32;
/// What may be reported without being asked for.
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// What an entry watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A descriptor of the host.
    Host(i32),
    /// A counter of the LibOS's own.
    Event,
}

/// One descriptor of the payload in the list.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it watches.
    pub watched: Watched,
    /// The events that were asked for, with ET and ONESHOT.
    pub events: u32,
    /// What the payload wants to be told.
    data: u64,
    /// The payload's number and the file's identity: a number that is used again is another entry.
    key: (i32, u64),
    generation: u32,
    /// Events that happened inside and are not told yet.
    pending: u32,
    /// Told once, with ONESHOT: silent until it is armed again.
    spent: bool,
    /// The last round in which it was told of.
    round: u64,
}

/// The list.
#[derive(Default)]
pub struct Interest {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_key: BTreeMap<(i32, u64), u32>,
    /// Slots of entries that something inside can make ready.
    inside: Vec<u32>,
    generation: u32,
    round: u64,
}

fn asked(events: u32) -> u32 {
    events & (ASKABLE | ET | ONESHOT)
}

impl Interest {
    /// Adds an entry; its index, or EEXIST.
    pub fn add(&mut self, key: (i32, u64), watched: Watched, events: u32, data: u64) -> Result<u64, i32> {
        if self.by_key.contains_key(&key) {
            return Err(libc::EEXIST);
        }
        self.generation = self.generation.wrapping_add(1);
        // The index that is all ones means something else outside.
        let generation = self.generation & 0x7fff_ffff;
        let entry = Entry { watched, events: asked(events), data, key, generation, pending: 0, spent: false, round: 0 };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() as u32 - 1
            }
        };
        self.slots[slot as usize] = Some(entry);
        self.by_key.insert(key, slot);
        if watched == Watched::Event {
            self.inside.push(slot);
        }
        Ok(index(slot, generation))
    }

    /// Changes an entry and arms it again; its index, or ENOENT.
    pub fn modify(&mut self, key: (i32, u64), events: u32, data: u64) -> Result<u64, i32> {
        let slot = *self.by_key.get(&key).ok_or(libc::ENOENT)?;
        let entry = self.slots[slot as usize].as_mut().ok_or(libc::ENOENT)?;
        (entry.events, entry.data, entry.spent, entry.pending) = (asked(events), data, false, 0);
        Ok(index(slot, entry.generation))
    }

    /// Takes an entry out, or ENOENT.
    pub fn remove(&mut self, key: (i32, u64)) -> Result<Entry, i32> {
        let slot = self.by_key.remove(&key).ok_or(libc::ENOENT)?;
        self.inside.retain(|inside| *inside != slot);
        self.free.push(slot);
        self.slots[slot as usize].take().ok_or(libc::ENOENT)
    }

    /// Takes out what watches this file.
    pub fn forget(&mut self, file: u64) {
        let keys: Vec<_> = self.by_key.keys().copied().filter(|key| key.1 == file).collect();
        for key in keys {
            let _ = self.remove(key);
        }
    }

    /// The entry with this index, if it is still the same.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.slots.get(index as u32 as usize)?.as_ref().filter(|entry| u64::from(entry.generation) == index >> 32)
    }

    /// Indices of the entries that the host watches.
    pub fn of_host(&self) -> Vec<u64> {
        let entries = self.slots.iter().enumerate().filter_map(|(slot, entry)| Some((slot, (*entry)?)));
        entries.filter(|(_, entry)| entry.watched != Watched::Event).map(|(slot, entry)| index(slot as u32, entry.generation)).collect()
    }

    /// Before the host is asked: what it tells from now on counts once for each entry.
    pub fn new_round(&mut self) {
        self.round += 1;
    }

    /// What the host says of an index, as the payload shall see it: nothing, when there is no such entry of the host's (any more), when
    /// it was told in this round already, or when nothing remains that was asked for.
    pub fn from_host(&mut self, index: u64, events: u32) -> Option<(u32, u64)> {
        let round = self.round;
        let entry = self.slots.get_mut(index as u32 as usize)?.as_mut()?;
        if u64::from(entry.generation) != index >> 32 || entry.watched == Watched::Event || entry.round == round {
            return None;
        }
        entry.round = round;
        told(entry, events)
    }

    /// Something happened inside, or was found lost: told with the next [`Interest::inside`].
    pub fn happened(&mut self, index: u64, events: u32) {
        if let Some(Some(entry)) = self.slots.get_mut(index as u32 as usize)
            && u64::from(entry.generation) == index >> 32
        {
            entry.pending |= events;
            let slot = index as u32;
            if !self.inside.contains(&slot) {
                self.inside.push(slot);
            }
        }
    }

    /// The counter `file` was written or read: `now` is what it is ready for. A change is an edge. True when somebody wants to know.
    pub fn counted(&mut self, file: u64, now: u32) -> bool {
        let mut wanted = false;
        for slot in &self.inside {
            if let Some(Some(entry)) = self.slots.get_mut(*slot as usize)
                && entry.key.1 == file
            {
                entry.pending |= now;
                wanted |= entry.events & now != 0 && !entry.spent;
            }
        }
        wanted
    }

    /// Tells what happened inside, at most `most` entries. `ready` gives what a counter is ready for now.
    pub fn inside(&mut self, most: usize, ready: impl Fn(u64) -> u32) -> Vec<(u32, u64)> {
        let mut all = Vec::new();
        let slots = &mut self.slots;
        self.inside.retain(|slot| {
            let Some(Some(entry)) = slots.get_mut(*slot as usize) else { return false };
            if all.len() == most {
                return true;
            }
            let pending = core::mem::take(&mut entry.pending);
            let now = match entry.watched {
                Watched::Host(_) => pending,
                Watched::Event if entry.events & ET != 0 => pending & ready(entry.key.1),
                Watched::Event => ready(entry.key.1),
            };
            all.extend(told(entry, now));
            entry.watched == Watched::Event
        });
        all
    }
}

fn index(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

fn told(entry: &mut Entry, events: u32) -> Option<(u32, u64)> {
    let events = events & (entry.events & ASKABLE | ALWAYS);
    if events == 0 || entry.spent {
        return None;
    }
    entry.spent = entry.events & ONESHOT != 0;
    Some((events, entry.data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HUP: u32 = libc::EPOLLHUP as u32;

    fn host(list: &mut Interest, fd: i32, events: u32) -> u64 {
        list.add((fd, fd as u64), Watched::Host(100 + fd), events, 0x5EC0_0000 + fd as u64).unwrap()
    }

    #[test]
    fn the_host_reports_only_what_was_asked_for() {
        let mut list = Interest::default();
        let index = host(&mut list, 5, IN | ET);
        list.new_round();
        assert_eq!(list.from_host(index, IN | OUT), Some((IN, 0x5EC0_0005)));
        assert_eq!(list.from_host(index, IN), None, "twice in one answer");
        list.new_round();
        assert_eq!(list.from_host(index, OUT), None, "not asked for");
        list.new_round();
        assert_eq!(list.from_host(index, HUP), Some((HUP, 0x5EC0_0005)), "always reported");
        list.new_round();
        assert_eq!(list.from_host(index, 1 << 20 | ET), None, "no event at all");
    }

    #[test]
    fn an_index_that_is_not_of_the_list_is_ignored() {
        let mut list = Interest::default();
        let old = host(&mut list, 5, IN);
        list.remove((5, 5)).unwrap();
        let new = host(&mut list, 5, IN);
        assert_ne!(old, new, "a number that is used again has another index");
        let counter = list.add((9, 9), Watched::Event, IN, 7).unwrap();
        list.new_round();
        for lie in [old, counter, new + 1, new | 1 << 63, u64::MAX, 0] {
            assert_eq!(list.from_host(lie, IN | HUP), None, "{lie:#x}");
        }
        assert_eq!(list.from_host(new, IN).map(|told| told.0), Some(IN));
    }

    #[test]
    fn a_oneshot_entry_is_silent_until_it_is_armed() {
        let mut list = Interest::default();
        let index = host(&mut list, 5, IN | ONESHOT);
        for expected in [true, false] {
            list.new_round();
            assert_eq!(list.from_host(index, IN).is_some(), expected);
        }
        assert_eq!(list.modify((5, 5), OUT | ONESHOT, 1), Ok(index));
        list.new_round();
        assert_eq!(list.from_host(index, OUT), Some((OUT, 1)));
        assert_eq!(list.modify((6, 6), OUT, 1), Err(libc::ENOENT));
        assert_eq!(list.add((5, 5), Watched::Event, 0, 0), Err(libc::EEXIST));
    }

    #[test]
    fn a_counter_tells_edges_and_levels() {
        let mut list = Interest::default();
        list.add((1, 1), Watched::Event, IN | ET, 1).unwrap();
        list.add((2, 2), Watched::Event, IN, 2).unwrap();
        assert!(list.counted(1, IN) && list.counted(2, IN) && !list.counted(2, OUT) && !list.counted(3, IN));
        assert_eq!(list.inside(8, |_| IN), [(IN, 1), (IN, 2)]);
        assert_eq!(list.inside(8, |_| IN), [(IN, 2)], "the edge was told");
        assert!(list.counted(1, IN));
        assert_eq!(list.inside(8, |_| 0), [], "read meanwhile");
        assert!(list.counted(1, IN));
        assert_eq!(list.inside(1, |_| IN).len(), 1);
        assert_eq!(list.inside(1, |_| IN).len(), 1);
    }

    #[test]
    fn what_is_found_lost_is_told_once() {
        let mut list = Interest::default();
        let index = host(&mut list, 5, IN | ET);
        list.happened(index, IN | HUP);
        assert_eq!(list.of_host(), [index]);
        assert_eq!(list.inside(8, |_| 0), [(IN | HUP, 0x5EC0_0005)]);
        assert_eq!(list.inside(8, |_| 0), []);
        list.forget(5);
        assert!(list.get(index).is_none() && list.of_host().is_empty());
    }

    proptest! {
        /// Whatever the host answers, the payload hears only its own words, of entries that are there, for what they asked.
        #[test]
        fn a_lying_host_invents_nothing(
            entries in prop::collection::vec((any::<u32>(), any::<bool>()), 0..20),
            lies in prop::collection::vec((prop_oneof![0u64..40, any::<u64>(), (0u64..40, 0u64..40).prop_map(|(g, s)| g << 32 | s)], any::<u32>()), 0..200),
        ) {
            let mut list = Interest::default();
            for (i, (events, dropped)) in entries.iter().enumerate() {
                let key = (i as i32, i as u64);
                list.add(key, Watched::Host(i as i32), *events, 1000 + i as u64).unwrap();
                if *dropped {
                    list.remove(key).unwrap();
                }
            }
            list.new_round();
            let mut heard = alloc::collections::BTreeSet::new();
            for (index, events) in lies {
                if let Some((told, data)) = list.from_host(index, events) {
                    let (asked, dropped) = entries[(data - 1000) as usize];
                    prop_assert!(!dropped && told != 0 && told & !(asked & ASKABLE | ALWAYS) == 0 && told & !events == 0);
                    prop_assert!(heard.insert(data), "told twice");
                }
            }
        }
    }
}
