//! Who may enter with which TCS. The processor arbitrates (EENTER on a busy TCS is #GP); this is the policy, and the proof that nobody
//! enters with another's thread.

use std::collections::BTreeMap;

/// TCSs of one enclave that containers may have.
///
/// Last in, first out: the TCS that came back last has the warmest pages.
#[derive(Debug)]
pub struct Leases<H> {
    free: Vec<u32>,
    held: BTreeMap<u32, (u32, State<H>)>,
    next_number: u32,
}

#[derive(Debug)]
enum State<H> {
    Held(H),
    /// Its process died; the reaper has it.
    Orphaned,
    /// Nobody can bring it to an end. Never leased again.
    Stuck,
}

/// A TCS, and the number of this lease of it: a late message about an earlier one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// TCS.
    pub tcs: u32,
    /// Never 0, different for leases that follow each other.
    pub number: u32,
}

/// How many are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Free.
    pub free: u32,
    /// Held by a container.
    pub held: u32,
    /// With the reaper.
    pub orphaned: u32,
    /// Lost.
    pub stuck: u32,
}

impl<H> Leases<H> {
    /// All of these are free.
    pub fn new(tcs: impl IntoIterator<Item = u32>) -> Self {
        let mut free: Vec<u32> = tcs.into_iter().collect();
        free.reverse();
        Leases { free, held: BTreeMap::new(), next_number: 0 }
    }

    /// Leases one, if there is one.
    pub fn take(&mut self, holder: H) -> Option<Lease> {
        let tcs = self.free.pop()?;
        self.next_number = self.next_number.checked_add(1).unwrap_or(1);
        self.held.insert(tcs, (self.next_number, State::Held(holder)));
        Some(Lease { tcs, number: self.next_number })
    }

    /// Takes it back: its thread is idle. Gives the holder; `None` when this lease is over.
    pub fn give_back(&mut self, lease: Lease) -> Option<H> {
        match self.held.get(&lease.tcs) {
            Some((number, State::Held(_))) if *number == lease.number => {}
            _ => return None,
        }
        let (_, state) = self.held.remove(&lease.tcs)?;
        self.free.push(lease.tcs);
        match state {
            State::Held(holder) => Some(holder),
            _ => None,
        }
    }

    /// Its process died, and its thread may still be inside: the reaper's now. Gives the holder.
    pub fn orphan(&mut self, lease: Lease) -> Option<H> {
        match self.held.get_mut(&lease.tcs) {
            Some((number, state @ State::Held(_))) if *number == lease.number => match std::mem::replace(state, State::Orphaned) {
                State::Held(holder) => Some(holder),
                _ => None,
            },
            _ => None,
        }
    }

    /// The reaper has brought its thread to an end. False when it was not with the reaper.
    pub fn adopted(&mut self, tcs: u32) -> bool {
        if !matches!(self.held.get(&tcs), Some((_, State::Orphaned))) {
            return false;
        }
        self.held.remove(&tcs);
        self.free.push(tcs);
        true
    }

    /// The reaper could not.
    pub fn stuck(&mut self, tcs: u32) {
        if let Some((_, state @ State::Orphaned)) = self.held.get_mut(&tcs) {
            *state = State::Stuck;
        }
    }

    /// How many are where.
    pub fn count(&self) -> Count {
        let mut count = Count { free: self.free.len() as u32, ..Count::default() };
        for (_, state) in self.held.values() {
            match state {
                State::Held(_) => count.held += 1,
                State::Orphaned => count.orphaned += 1,
                State::Stuck => count.stuck += 1,
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        GiveBack(usize),
        Orphan(usize),
        Adopted(u32),
        Stuck(u32),
        Stale(Lease),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Take),
            2 => any::<usize>().prop_map(Step::GiveBack),
            2 => any::<usize>().prop_map(Step::Orphan),
            2 => (0u32..12).prop_map(Step::Adopted),
            1 => (0u32..12).prop_map(Step::Stuck),
            1 => (0u32..12, 0u32..40).prop_map(|(tcs, number)| Step::Stale(Lease { tcs, number })),
        ]
    }

    proptest! {
        /// Against a plain model: never two holders, nothing lost, nothing invented.
        #[test]
        fn one_holder_at_a_time(steps in prop::collection::vec(step(), 0..200)) {
            const ALL: u32 = 8;
            let mut leases = Leases::new(0..ALL);
            let mut held: HashMap<u32, (Lease, u64)> = HashMap::new();
            let (mut orphaned, mut stuck) = (Vec::new(), Vec::new());
            let mut serial = 0u64;
            for step in steps {
                let pick = |index: usize, held: &HashMap<u32, (Lease, u64)>| {
                    let mut tcs: Vec<u32> = held.keys().copied().collect();
                    tcs.sort_unstable();
                    (!tcs.is_empty()).then(|| tcs[index % tcs.len()])
                };
                match step {
                    Step::Take => {
                        serial += 1;
                        match leases.take(serial) {
                            Some(lease) => {
                                prop_assert!(lease.tcs < ALL && lease.number != 0);
                                prop_assert!(!orphaned.contains(&lease.tcs) && !stuck.contains(&lease.tcs));
                                prop_assert!(held.insert(lease.tcs, (lease, serial)).is_none(), "two holders of one TCS");
                            }
                            None => prop_assert_eq!(held.len() + orphaned.len() + stuck.len(), ALL as usize),
                        }
                    }
                    Step::GiveBack(index) => if let Some(tcs) = pick(index, &held) {
                        let (lease, holder) = held.remove(&tcs).unwrap();
                        prop_assert_eq!(leases.give_back(lease), Some(holder));
                        prop_assert_eq!(leases.give_back(lease), None, "given back twice");
                    },
                    Step::Orphan(index) => if let Some(tcs) = pick(index, &held) {
                        let (lease, holder) = held.remove(&tcs).unwrap();
                        prop_assert_eq!(leases.orphan(lease), Some(holder));
                        prop_assert_eq!(leases.give_back(lease), None);
                        orphaned.push(tcs);
                    },
                    Step::Adopted(tcs) => {
                        let expected = orphaned.iter().position(|t| *t == tcs).map(|at| orphaned.remove(at)).is_some();
                        prop_assert_eq!(leases.adopted(tcs), expected);
                    }
                    Step::Stuck(tcs) => {
                        if let Some(at) = orphaned.iter().position(|t| *t == tcs) {
                            stuck.push(orphaned.remove(at));
                        }
                        leases.stuck(tcs);
                    }
                    Step::Stale(lease) => if held.get(&lease.tcs).is_none_or(|(held, _)| *held != lease) {
                        prop_assert_eq!(leases.give_back(lease), None);
                        prop_assert_eq!(leases.orphan(lease), None);
                    },
                }
                let count = leases.count();
                prop_assert_eq!(count.free + count.held + count.orphaned + count.stuck, ALL);
                prop_assert_eq!(count.held as usize, held.len());
                prop_assert_eq!(count.orphaned as usize, orphaned.len());
                prop_assert_eq!(count.stuck as usize, stuck.len());
            }
        }
    }

    #[test]
    fn the_last_one_back_is_the_first_one_out() {
        let mut leases = Leases::new([4, 5, 6]);
        let a = leases.take(()).unwrap();
        let b = leases.take(()).unwrap();
        assert_eq!((a.tcs, b.tcs), (4, 5));
        leases.give_back(a).unwrap();
        assert_eq!(leases.take(()).unwrap().tcs, 4);
    }
}
