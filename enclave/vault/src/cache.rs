//! Small values in memory, up to a bound. The second chance goes to what was read since it was last looked at.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What an entry costs besides its bytes.
const OVERHEAD: usize = 64;

struct Entry {
    value: Arc<[u8]>,
    used: bool,
}

/// Values by the serial number of their record.
pub struct Cache {
    entries: HashMap<u64, Entry>,
    order: VecDeque<u64>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    /// Holds this many bytes.
    pub fn new(limit: usize) -> Cache {
        Cache { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, limit }
    }

    /// A value, if it is here.
    pub fn get(&mut self, serial: u64) -> Option<Arc<[u8]>> {
        let entry = self.entries.get_mut(&serial)?;
        entry.used = true;
        Some(entry.value.clone())
    }

    /// The same without counting as a use.
    pub fn peek(&self, serial: u64) -> Option<Arc<[u8]>> {
        self.entries.get(&serial).map(|entry| entry.value.clone())
    }

    /// Keeps a value, at the cost of others.
    pub fn insert(&mut self, serial: u64, value: Arc<[u8]>) {
        let cost = value.len() + OVERHEAD;
        if cost > self.limit / 4 || self.entries.contains_key(&serial) {
            return;
        }
        while self.bytes + cost > self.limit {
            let Some(oldest) = self.order.pop_front() else { break };
            match self.entries.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.order.push_back(oldest);
                }
                Some(_) => self.remove(oldest),
                None => {}
            }
        }
        self.bytes += cost;
        self.entries.insert(serial, Entry { value, used: false });
        self.order.push_back(serial);
        if self.order.len() > 2 * self.entries.len() + 64 {
            self.order.retain(|serial| self.entries.contains_key(serial));
        }
    }

    /// Forgets a value.
    pub fn remove(&mut self, serial: u64) {
        if let Some(entry) = self.entries.remove(&serial) {
            self.bytes -= entry.value.len() + OVERHEAD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_is_used_within_its_bound() {
        let mut cache = Cache::new(100 * (OVERHEAD + 10));
        for serial in 0..10_000 {
            cache.insert(serial, Arc::from([serial as u8; 10]));
            assert_eq!(cache.get(0).as_deref(), Some(&[0; 10][..]), "what is read stays");
            assert!(cache.bytes <= cache.limit && cache.entries.len() <= 100 && cache.order.len() <= 300);
        }
        assert!(cache.get(5).is_none());
        cache.remove(0);
        assert!(cache.get(0).is_none());
        cache.insert(1, Arc::from(vec![0; cache.limit]));
        assert!(cache.get(1).is_none(), "one value does not drive out all others");
        for serial in 10_000..20_000 {
            cache.insert(serial, Arc::from([1; 10]));
            cache.remove(serial);
        }
        assert!(cache.order.len() <= 2 * cache.entries.len() + 65);
    }
}
