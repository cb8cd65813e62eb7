//! What goes when memory is short: the key that was not asked for longest, or least, or that would go soonest, of some taken at random.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::commands::event;
use crate::shared::Shared;
use crate::store::Store;

/// Bytes that the program has allocated: kept by its allocator (see the program's `allocator.rs`). 0 where none counts.
pub static USED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that the program has allocated.
pub fn used_memory() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Most keys that one command makes go: a limit that was lowered by far is reached over several.
const MOST: usize = 10_000;
/// What a new key's count begins with, so that it does not go at once.
const FIRST: u32 = 5;

/// An entry's access, which changes while the entry is looked at. One thread at a time uses it; that it is atomic lets whole databases go
/// from one thread to another.
#[derive(Debug, Default)]
pub struct Access(AtomicU32);

impl Access {
    /// This one.
    pub fn new(access: u32) -> Access {
        Access(AtomicU32::new(access))
    }

    /// What it is.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// What it is from now on.
    pub fn set(&self, access: u32) {
        self.0.store(access, Ordering::Relaxed);
    }
}

impl Clone for Access {
    fn clone(&self) -> Access {
        Access::new(self.get())
    }
}

/// How an entry's access is kept: when it was last asked for (milliseconds, the lower 32 bits), or, where that is what counts, the minute
/// (the upper 16 bits) and a logarithmic count (the lower 8) as Redis has them ("Using Redis as an LRU cache").
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Whether it counts.
    pub counts: bool,
    /// Milliseconds.
    pub now: i64,
    /// How unlikely an increment becomes, and minutes after which a count loses one.
    pub lfu: (u32, u32),
    random: Cell<u32>,
}

impl Clock {
    fn minute(&self) -> u32 {
        (self.now / 60_000) as u32 & 0xffff
    }

    /// A new entry's access.
    pub fn fresh(&self) -> u32 {
        if self.counts { self.minute() << 16 | FIRST } else { self.now as u32 }
    }

    /// Notes that an entry was asked for.
    pub fn touch(&self, access: &Access) {
        if !self.counts {
            access.set(self.now as u32);
            return;
        }
        let count = self.count(access.get());
        let mut random = self.random.get() | 1;
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random.set(random);
        let above = count.saturating_sub(FIRST);
        let more = count < 255 && (f64::from(random) / f64::from(u32::MAX)) < 1.0 / f64::from(above * self.lfu.0 + 1);
        access.set(self.minute() << 16 | (count + u32::from(more)));
    }

    /// The count of an entry, as it is by now.
    pub fn count(&self, access: u32) -> u32 {
        let passed = self.minute().wrapping_sub(access >> 16) & 0xffff;
        let lost = passed.checked_div(self.lfu.1).unwrap_or(0);
        (access & 0xff).saturating_sub(lost)
    }

    /// Milliseconds since it was asked for.
    pub fn idle(&self, access: u32) -> u32 {
        if self.counts { (self.minute().wrapping_sub(access >> 16) & 0xffff) * 60_000 } else { (self.now as u32).wrapping_sub(access) }
    }

    /// The access of an entry that was not asked for so long (milliseconds), or so often.
    pub fn access(&self, idle: u32, count: u32) -> u32 {
        if self.counts { self.minute() << 16 | count.min(255) } else { (self.now as u32).wrapping_sub(idle) }
    }
}

/// Makes keys go until memory is below its limit. Whether it is.
pub fn make_room(store: &mut Store, shared: &mut Shared) -> bool {
    if shared.replication.is_replica() {
        // The server that it follows says what goes.
        return true;
    }
    // What waits for replicas is no reason for keys to go: each that goes is one more thing for them.
    let limit = shared.config.hot.max_memory;
    let limit = if limit == 0 { 0 } else { limit.saturating_add(shared.replication.stream.held()) };
    if limit == 0 || used_memory() <= limit {
        return true;
    }
    let policy = shared.config.get("maxmemory-policy").to_owned();
    if policy == "noeviction" {
        return false;
    }
    let (expiring, samples) = (policy.starts_with("volatile"), shared.config.number("maxmemory-samples").max(1));
    let mut next_db = shared.random() as usize;
    for _ in 0..MOST {
        if used_memory() <= limit {
            return true;
        }
        let mut worst: Option<(u64, usize, Box<[u8]>)> = None;
        for _ in 0..samples {
            // The databases in turn, those without such keys left out.
            let count = |db: usize| if expiring { store.expiring(db) } else { store.len(db) };
            let databases = store.databases();
            let Some(db) = (1..=databases).map(|step| (next_db.wrapping_add(step)) % databases).find(|db| count(*db) > 0) else {
                return false;
            };
            next_db = db;
            let mut seed = shared.random();
            let random = |limit: usize| {
                seed ^= seed >> 12;
                seed ^= seed << 25;
                seed ^= seed >> 27;
                (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
            };
            let Some((key, access, expires)) = store.sample(db, expiring, random) else { continue };
            let weight = match policy.as_str() {
                "volatile-ttl" => u64::MAX - expires.max(0) as u64,
                "allkeys-lfu" | "volatile-lfu" => u64::from(255 - store.clock.count(access)),
                "allkeys-lru" | "volatile-lru" => u64::from(store.clock.idle(access)),
                _ => u64::from(worst.is_none()),
            };
            if worst.as_ref().is_none_or(|(most, ..)| weight > *most) {
                worst = Some((weight, db, key.into()));
            }
        }
        let Some((_, db, key)) = worst else { return false };
        if store.evict(db, &key) {
            shared.counters.evicted += 1;
            crate::commands::notify(shared, db, event::EVICTED, "evicted", &key);
        }
    }
    used_memory() <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_grow_slowly_and_fade() {
        let mut clock = Clock { counts: true, now: 60_000 * 100, lfu: (10, 1), random: Cell::new(7) };
        let access = Access::new(clock.fresh());
        (0..1000).for_each(|_| clock.touch(&access));
        let count = clock.count(access.get());
        assert!((10..=60).contains(&count), "{count}");
        clock.now += 60_000 * 200;
        assert_eq!(clock.count(access.get()), 0);
    }

    #[test]
    fn idleness_is_the_time_since() {
        let mut clock = Clock { now: i64::from(u32::MAX) - 5, ..Clock::default() };
        let access = Access::new(clock.fresh());
        clock.now += 1000;
        assert_eq!(clock.idle(access.get()), 1000);
        clock.touch(&access);
        assert_eq!(clock.idle(access.get()), 0);
        assert_eq!(clock.idle(clock.access(4000, 0)), 4000);
    }
}
