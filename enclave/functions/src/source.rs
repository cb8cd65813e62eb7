//! Code as it was deployed, kept so that it can be handed to another enclave.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Most bytes of code that are kept, of all functions. Calls of a function whose code is not kept run here alone.
const MOST: usize = 64 << 20;

/// What is kept in all.
#[derive(Clone, Debug, Default)]
pub struct Sources(Arc<AtomicUsize>);

impl Sources {
    /// Keeps code if there is room for it.
    pub fn keep(&self, code: Vec<u8>) -> Option<Source> {
        let room = |held: usize| held.checked_add(code.len()).filter(|held| *held <= MOST);
        self.0.fetch_update(SeqCst, SeqCst, room).ok()?;
        Some(Source { code: code.into_boxed_slice(), all: self.clone() })
    }
}

/// Code of one function.
#[derive(Debug)]
pub struct Source {
    code: Box<[u8]>,
    all: Sources,
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.code
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.code.len(), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_and_given_back() {
        let sources = Sources::default();
        let first = sources.keep(vec![1; MOST - 10]).unwrap();
        assert!(sources.keep(vec![2; 11]).is_none());
        let second = sources.keep(vec![2; 10]).unwrap();
        assert_eq!(&second[..], [2; 10]);
        drop(first);
        assert!(sources.keep(vec![3; 11]).is_some());
    }
}
