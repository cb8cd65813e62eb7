//! Numbers of blobs.

use std::collections::BTreeSet;

/// How far apart the oldest blob that no commit names yet and the newest may be: so far the next opening looks for what a crash left.
pub const WINDOW: u64 = 16;

/// Numbers that were given out, and those of them that are under way.
#[derive(Default)]
pub struct Numbers {
    next: u64,
    under_way: BTreeSet<u64>,
}

impl Numbers {
    /// A number. `None`: too many are under way.
    pub fn take(&mut self) -> Option<u64> {
        if self.is_full() {
            return None;
        }
        self.under_way.insert(self.next);
        self.next += 1;
        Some(self.next - 1)
    }

    /// Whether too many are under way.
    pub fn is_full(&self) -> bool {
        self.under_way.first().is_some_and(|oldest| self.next - oldest >= WINDOW)
    }

    /// The blob of this number is named by the journal, or deleted.
    pub fn settle(&mut self, number: u64) {
        self.under_way.remove(&number);
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Numbers that an opening may have left without a name when its journal says that `next` comes next.
    pub fn suspects(next: u64) -> std::ops::Range<u64> {
        next.saturating_sub(WINDOW)..next + WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_always_among_the_suspects() {
        let mut numbers = Numbers::default();
        let first = numbers.take().unwrap();
        let said = numbers.next();
        for _ in 1..WINDOW {
            let number = numbers.take().unwrap();
            numbers.settle(number);
        }
        assert_eq!(numbers.take(), None, "the oldest holds the others back");
        assert!(Numbers::suspects(said).contains(&(numbers.next() - 1)) && Numbers::suspects(numbers.next()).contains(&first));
        numbers.settle(first);
        assert!(numbers.take().is_some());
    }
}
