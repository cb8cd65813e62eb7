//! Memory that bodies may take, counted over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// So many bytes, and no more.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Budget(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Nothing yet, to be added to.
    pub fn none(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    /// Takes `bytes` more; says whether there were as many.
    pub fn take(&mut self, bytes: usize) -> bool {
        let taken = self.budget.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(bytes)).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(100);
        let mut first = budget.none();
        assert!(first.take(60));
        let mut second = budget.none();
        assert!(!second.take(41));
        assert!(second.take(40));
        assert!(!first.take(1));
        assert_eq!((first.bytes(), second.bytes(), budget.left()), (60, 40, 0));
        drop(first);
        assert!(second.take(60));
        drop(second);
        assert_eq!(budget.left(), 100);
    }
}
