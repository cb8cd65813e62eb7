//! Linear memory: regions that go from one instance to the next, wiped in between.
//!
//! A new page costs an enclave much (EAUG, EACCEPT, a fault in each process), a warm one little. So a region is kept when its instance
//! ends, and it comes back holding exactly what a new memory of its pool holds: zeros, or the image of the JavaScript engine.
//! The wiping is off the path of a call: the cleaner does it between calls, and [`Pool::take`] itself only when it finds nothing clean.
//!
//! Behind a memory with an image lies a margin that belongs to it: the JavaScript engine's code checks an access with that much play, and
//! what it could do there is wiped, too.
//!
//! Invariant of a clean region: all its `capacity` bytes are as the pool's image has them, zero beyond it.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::image::Image;
use crate::lock;

/// Regions larger than this are given back to the system when their instance ends.
const KEEP_LARGEST: usize = 4 << 20;
/// Regions that a pool keeps, and bytes of them.
const KEEP: usize = 72;
const KEEP_BYTES: usize = 128 << 20;
/// Room that a memory without an image gets beyond what it asks for first, so that small growth stays in place.
const ROOM: usize = 256 << 10;

/// Bytes behind a memory with an image that are its own. Fields of larger structures than this are checked one by one.
pub const MARGIN: usize = 16 << 10;

/// Anonymous memory, ours alone.
struct Region {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a region is memory and nothing else; whoever owns the value has it alone.
unsafe impl Send for Region {}
// SAFETY: `&Region` gives nothing but its address and size.
unsafe impl Sync for Region {}

impl Region {
    fn new(capacity: usize) -> Result<Region, String> {
        let capacity = capacity.max(crate::image::PAGE);
        // SAFETY: a new anonymous mapping at an address that the system chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                capacity,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(format!("no memory for an instance: mmap of {capacity} bytes: {}", std::io::Error::last_os_error()));
        }
        NonNull::new(start.cast()).map(|start| Region { start, capacity }).ok_or_else(|| "mmap gave the address 0".to_owned())
    }

    /// Has the EPC for a part of it, before anything is written there: a call that finds none left fails alone, and what an instance has
    /// not grown to costs none.
    fn commit(&self, part: std::ops::Range<usize>) -> Result<(), String> {
        let start = self.start.as_ptr().wrapping_add(part.start);
        teemate_containers::prefault(start, part.len()).map_err(|error| format!("no memory for an instance: {error}"))
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has `capacity` readable and writable bytes, and `&mut self` says that nobody else uses them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.capacity) };
    }
}

/// Where the memories of one engine come from and go to.
pub struct Pool {
    image: Option<Image>,
    clean: Mutex<Vec<Region>>,
    /// With the number of bytes, from the start, that the instance may have written.
    dirty: Mutex<Vec<(Region, usize)>>,
}

impl Pool {
    /// A pool whose memories begin as zeros, or as this image.
    pub fn new(image: Option<Image>) -> Arc<Pool> {
        Arc::new(Pool { image, clean: Mutex::default(), dirty: Mutex::default() })
    }

    /// The image, if any.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// Makes regions ready beforehand, until so many are clean: a region made within a call costs it a fault a page.
    pub fn prepare(&self, spare: usize) {
        while lock(&self.clean).len() < spare {
            let Ok(region) = self.fresh(0) else { return };
            lock(&self.clean).push(region);
        }
    }

    /// Wipes what ended instances left, at most `most` regions. Gives how many.
    pub fn clean(&self, most: usize) -> usize {
        let mut done = 0;
        while done < most {
            let Some((mut region, used)) = lock(&self.dirty).pop() else { break };
            self.wipe(&mut region, used);
            lock(&self.clean).push(region);
            done += 1;
        }
        done
    }

    fn margin(&self) -> usize {
        if self.image.is_some() { MARGIN } else { 0 }
    }

    /// Regions that wait for an instance, and those that wait to be wiped.
    pub fn kept(&self) -> (usize, usize) {
        let clean = lock(&self.clean).len();
        (clean, lock(&self.dirty).len())
    }

    fn wipe(&self, region: &mut Region, used: usize) {
        let used = used.min(region.capacity);
        match &self.image {
            Some(image) => image.rewind(&mut region.bytes_mut()[..used.max(image.size())]),
            None => region.bytes_mut()[..used].fill(0),
        }
    }

    /// A region for a memory of so many bytes, and its margin.
    fn take(&self, minimum: usize) -> Result<Region, String> {
        let minimum = minimum.saturating_add(self.margin());
        self.kept_one(minimum).map_or_else(|| self.fresh(minimum), Ok)
    }

    /// A larger region for a memory that grows to so many bytes: one that an earlier instance grew to, if there is any. Else half as much again:
    /// growth in small steps then costs a constant number of copies of each byte.
    fn larger(&self, size: usize) -> Result<Region, String> {
        let least = size.saturating_add(self.margin());
        let ample = least.saturating_add(size / 2).next_multiple_of(64 << 10);
        let found = self.kept_one(least);
        found.map_or_else(|| Region::new(ample).or_else(|_| Region::new(least)), Ok)
    }

    /// The smallest of those that are kept and have so many bytes; a clean one if there is one.
    fn kept_one(&self, capacity: usize) -> Option<Region> {
        let smallest = |sizes: &mut dyn Iterator<Item = usize>| {
            let fitting = sizes.enumerate().filter(|(_, size)| *size >= capacity);
            fitting.min_by_key(|(_, size)| *size).map(|(at, _)| at)
        };
        let mut clean = lock(&self.clean);
        if let Some(at) = smallest(&mut clean.iter().map(|region| region.capacity)) {
            return Some(clean.swap_remove(at));
        }
        drop(clean);
        let mut dirty = lock(&self.dirty);
        let at = smallest(&mut dirty.iter().map(|(region, _)| region.capacity))?;
        let (mut region, used) = dirty.swap_remove(at);
        drop(dirty);
        self.wipe(&mut region, used);
        Some(region)
    }

    fn fresh(&self, minimum: usize) -> Result<Region, String> {
        let minimum = minimum.max(self.image.as_ref().map_or(64 << 10, Image::size));
        let mut region = Region::new(minimum.saturating_add(ROOM).next_multiple_of(64 << 10))?;
        if let Some(image) = &self.image {
            region.commit(0..image.size() + MARGIN)?;
            image.fill(region.bytes_mut());
        }
        Ok(region)
    }

    fn give_back(&self, region: Region, used: usize) {
        if region.capacity > KEEP_LARGEST {
            return;
        }
        let mut dirty = lock(&self.dirty);
        let clean = lock(&self.clean);
        let bytes = clean.iter().chain(dirty.iter().map(|(region, _)| region)).map(|region| region.capacity).sum::<usize>();
        if clean.len() + dirty.len() < KEEP && bytes.saturating_add(region.capacity) <= KEEP_BYTES {
            drop(clean);
            dirty.push((region, used));
        }
    }
}

/// One instance's memory.
struct Linear {
    pool: Arc<Pool>,
    /// Only `None` while it is dropped.
    region: Option<Region>,
    size: usize,
}

// SAFETY: `as_ptr` gives a mapping of at least `byte_capacity` bytes that lives as long as `self`; bytes from `byte_size` on are zero,
// for a clean region is zero beyond the image, which is no larger than the memory's minimum, and the guest writes beyond its size, and then
// within the margin, only when it is broken: it finds there what it left.
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.capacity - self.pool.margin())
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let Some(old) = self.region.as_mut() else { return Err(wasmtime::Error::msg("memory is gone")) };
        let margin = self.pool.margin();
        if new_size.saturating_add(margin) > old.capacity {
            let mut region = self.pool.larger(new_size).map_err(wasmtime::Error::msg)?;
            region.commit(0..self.size + margin).map_err(wasmtime::Error::msg)?;
            region.bytes_mut()[..self.size].copy_from_slice(&old.bytes_mut()[..self.size]);
            if let Some(old) = self.region.replace(region) {
                self.pool.give_back(old, self.size + margin);
            }
        }
        if let Some(region) = &self.region {
            region.commit(self.size + margin..new_size + margin).map_err(wasmtime::Error::msg)?;
        }
        self.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.region.as_ref().map_or(std::ptr::null_mut(), |region| region.start.as_ptr())
    }
}

impl Drop for Linear {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            self.pool.give_back(region, self.size + self.pool.margin());
        }
    }
}

/// Gives wasmtime memories of a pool.
pub struct Creator(pub Arc<Pool>);

// SAFETY: a memory comes from `Pool::take`, is at least `minimum` bytes and the margin behind it, which is as large as the guard that code
// counts on (an access there is no fault, and it is nobody else's), and is used by nobody else until it is dropped. With an image
// it is not all zero, which is what the only module of that engine expects: it has no data segments.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if guard > self.0.margin() || reserved.is_some_and(|reserved| reserved > minimum) {
            return Err("memory with more guard pages or a reservation was asked for; the engine is configured without".to_owned());
        }
        if let Some(image) = self.0.image()
            && image.size() > minimum
        {
            return Err("the image is larger than the memory".to_owned());
        }
        let region = self.0.take(minimum)?;
        region.commit(0..minimum + self.0.margin())?;
        Ok(Box::new(Linear { pool: self.0.clone(), region: Some(region), size: minimum }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_that_grow_take_what_earlier_ones_grew_to() {
        let pool = Pool::new(None);
        let grow = |steps: usize| {
            let region = pool.take(64 << 10).unwrap();
            let mut memory = Linear { pool: pool.clone(), region: Some(region), size: 64 << 10 };
            for step in 1..steps {
                let size = memory.size;
                memory.grow_to((1 + 4 * step) << 16).unwrap();
                let bytes = memory.region.as_mut().unwrap().bytes_mut();
                assert!(bytes[..size].iter().all(|byte| *byte == 7 || size == 64 << 10) && bytes[size..].iter().all(|byte| *byte == 0));
                let size = memory.size;
                memory.region.as_mut().unwrap().bytes_mut()[..size].fill(7);
            }
        };
        grow(12);
        let (clean, dirty) = pool.kept();
        for round in 0..50 {
            grow(12);
            pool.clean(round % 9);
            let (now, then) = (pool.kept(), clean + dirty);
            assert!(now.0 + now.1 <= then + 1, "{now:?} after {round}, {then} before");
        }
    }

    #[test]
    fn a_region_comes_back_wiped() {
        let mut frozen = vec![0u8; 3 * 4096];
        frozen[5000] = 42;
        let image = Image::thaw(Vec::leak(crate::image::freeze(&frozen))).unwrap();
        for (pool, mark) in [(Pool::new(None), 0), (Pool::new(Some(image)), 42)] {
            for round in 0..100 {
                let mut region = pool.take(2 * 65536).unwrap();
                let bytes = region.bytes_mut();
                assert_eq!(bytes[5000], mark);
                assert!(bytes.iter().enumerate().all(|(at, &b)| b == 0 || at == 5000));
                bytes[..2 * 65536].fill(0xee);
                pool.give_back(region, 2 * 65536);
                if round % 2 == 0 {
                    assert_eq!(pool.clean(8), 1);
                }
            }
            let (clean, dirty) = pool.kept();
            assert_eq!(clean + dirty, 1);
        }
    }
}
