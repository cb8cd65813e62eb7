//! The payload's address space: which ranges are mapped, with which rights, for whom. Pure bookkeeping; [`crate::memory`] does the pages.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

/// Rights: as in mmap(2).
pub mod prot {
    /// PROT_READ.
    pub const R: u8 = 1;
    /// PROT_WRITE.
    pub const W: u8 = 2;
    /// PROT_EXEC.
    pub const X: u8 = 4;
}

/// One mapped range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte after it.
    pub end: u64,
    /// [`prot`].
    pub prot: u8,
    /// Container that pays for it; 0: the payload itself.
    pub owner: u64,
}

/// Mapped ranges within a range. All addresses are multiples of the page size; the caller sees to that.
pub struct Space {
    whole: Range<u64>,
    areas: BTreeMap<u64, Area>,
}

impl Space {
    /// Nothing mapped yet.
    pub const fn new(whole: Range<u64>) -> Space {
        Space { whole, areas: BTreeMap::new() }
    }

    /// Whether `range` lies in the space at all.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        self.whole.start <= range.start && range.start < range.end && range.end <= self.whole.end
    }

    /// The area at `address`.
    pub fn find(&self, address: u64) -> Option<(Range<u64>, Area)> {
        let (&start, &area) = self.areas.range(..=address).next_back()?;
        (address < area.end).then_some((start..area.end, area))
    }

    /// Areas that overlap `range`, cut to it.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Area)> + '_ {
        let first = self.find(range.start).map_or(range.start, |(r, _)| r.start);
        let cut = range.clone();
        self.areas.range(first..range.end).filter_map(move |(&start, &area)| {
            let r = start.max(cut.start)..area.end.min(cut.end);
            (r.start < r.end).then_some((r, area))
        })
    }

    /// Whether every byte of `range` is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for (r, _) in self.overlapping(range.clone()) {
            if r.start != at {
                return false;
            }
            at = r.end;
        }
        at >= range.end
    }

    /// The lowest free range of this length: low addresses are the ones whose pages were used before, and so are already accepted.
    pub fn free(&self, length: u64) -> Option<u64> {
        let mut at = self.whole.start;
        for (&start, area) in &self.areas {
            if start - at >= length {
                return Some(at);
            }
            at = area.end;
        }
        (self.whole.end - at >= length).then_some(at)
    }

    /// Maps a range that is free.
    pub fn insert(&mut self, range: Range<u64>, prot: u8, owner: u64) {
        debug_assert!(self.overlapping(range.clone()).next().is_none());
        let mut range = range;
        // Neighbours of the same kind become one area, so that the table stays small.
        if let Some((left, area)) = range.start.checked_sub(1).and_then(|a| self.find(a))
            && (area.prot, area.owner) == (prot, owner)
        {
            range.start = left.start;
        }
        if let Some(area) = self.areas.get(&range.end).copied()
            && (area.prot, area.owner) == (prot, owner)
        {
            self.areas.remove(&range.end);
            range.end = area.end;
        }
        self.areas.insert(range.start, Area { end: range.end, prot, owner });
    }

    /// Unmaps a range; what was mapped in it.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Area)> {
        let gone: Vec<_> = self.overlapping(range.clone()).collect();
        let touched: Vec<u64> = self
            .find(range.start)
            .map(|(r, _)| r.start)
            .into_iter()
            .chain(self.areas.range(range.start..range.end).map(|(&s, _)| s))
            .collect();
        for start in touched {
            let Some(area) = self.areas.remove(&start) else { continue };
            if start < range.start {
                self.areas.insert(start, Area { end: range.start, ..area });
            }
            if area.end > range.end {
                self.areas.insert(range.end, area);
            }
        }
        gone
    }

    /// Changes the rights of a range that is mapped throughout; false when it is not.
    pub fn protect(&mut self, range: Range<u64>, prot: u8) -> bool {
        if !self.covers(range.clone()) {
            return false;
        }
        for (r, area) in self.remove(range) {
            self.insert(r, prot, area.owner);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u64 = 64;

    #[derive(Clone, Debug)]
    enum Step {
        Map(u64, u64, u8, u64),
        Unmap(u64, u64),
        Protect(u64, u64, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = || (0..PAGES, 1..PAGES).prop_map(|(a, n)| (a, n.min(PAGES - a)));
        prop_oneof![
            (span(), 0..8u8, 0..3u64).prop_map(|((a, n), p, o)| Step::Map(a, n, p, o)),
            span().prop_map(|(a, n)| Step::Unmap(a, n)),
            (span(), 0..8u8).prop_map(|((a, n), p)| Step::Protect(a, n, p)),
        ]
    }

    proptest! {
        /// Against a table with one entry a page.
        #[test]
        fn behaves_as_a_page_table(steps in prop::collection::vec(step(), 0..60)) {
            let mut space = Space::new(0..PAGES);
            let mut model = [None::<(u8, u64)>; PAGES as usize];
            for s in steps {
                match s {
                    Step::Map(a, n, p, o) => {
                        space.remove(a..a + n);
                        space.insert(a..a + n, p, o);
                        model[a as usize..(a + n) as usize].fill(Some((p, o)));
                    }
                    Step::Unmap(a, n) => {
                        let gone: u64 = space.remove(a..a + n).iter().map(|(r, _)| r.end - r.start).sum();
                        let slice = &mut model[a as usize..(a + n) as usize];
                        prop_assert_eq!(gone, slice.iter().flatten().count() as u64);
                        slice.fill(None);
                    }
                    Step::Protect(a, n, p) => {
                        let slice = &mut model[a as usize..(a + n) as usize];
                        let all = slice.iter().all(Option::is_some);
                        prop_assert_eq!(space.protect(a..a + n, p), all);
                        if all { slice.iter_mut().flatten().for_each(|e| e.0 = p); }
                    }
                }
                for page in 0..PAGES {
                    prop_assert_eq!(space.find(page).map(|(_, a)| (a.prot, a.owner)), model[page as usize]);
                }
                for n in 1..8 {
                    let expected = (0..=PAGES - n).find(|&a| model[a as usize..(a + n) as usize].iter().all(Option::is_none));
                    prop_assert_eq!(space.free(n), expected);
                }
            }
        }
    }
}
