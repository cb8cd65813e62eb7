//! The stacks on which WebAssembly runs. They go from one call to the next: a new one costs an enclave a fault a page.
//!
//! All lie side by side in a range that holds nothing else, for good: each with an inaccessible page below it.
#![allow(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use wasmtime::{StackCreator, StackMemory};

use crate::image::PAGE;
use crate::lock;

/// What a call uses of its stack at least: it is made part of the enclave beforehand.
const SHALLOW: usize = 16 << 10;

/// Stacks of one size, for all engines. The lowest that is free is taken.
#[derive(Clone)]
pub struct Stacks(Arc<Area>);

/// Addresses: again and again an inaccessible page and a stack above it.
struct Area {
    start: NonNull<u8>,
    most: usize,
    size: usize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// Numbers of those that were in use and are not.
    free: BinaryHeap<Reverse<usize>>,
    /// So many have ever been in use: these can be read and written.
    opened: usize,
}

// SAFETY: `start` is where a mapping lies that is there until the area is dropped; who may use which part of it is said by `places`.
unsafe impl Send for Area {}
// SAFETY: as above; `places` is locked.
unsafe impl Sync for Area {}

impl Stacks {
    /// Addresses for at most so many stacks of `size` bytes. They cost nothing until they are used.
    ///
    /// # Errors
    /// When the system has no such range.
    pub fn new(most: usize, size: usize) -> wasmtime::Result<Stacks> {
        let size = size.next_multiple_of(PAGE);
        let length = most * (PAGE + size);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address that the system chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        let start = if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) };
        let Some(start) = start else {
            let error = std::io::Error::last_os_error();
            return Err(wasmtime::Error::msg(format!("no addresses for the stacks of calls: mmap of {length} bytes: {error}")));
        };
        Ok(Stacks(Arc::new(Area { start, most, size, places: Mutex::default() })))
    }

    fn take(&self) -> Result<Stack, String> {
        let mut places = lock(&self.0.places);
        let number = match places.free.pop() {
            Some(Reverse(number)) => number,
            None if places.opened < self.0.most => {
                self.0.open(places.opened)?;
                places.opened += 1;
                places.opened - 1
            }
            None => return Err(format!("no stack for an instance: all {} are in use; try again later", self.0.most)),
        };
        Ok(Stack { number, area: self.0.clone() })
    }
}

impl Area {
    /// Lowest byte of a stack.
    fn bottom(&self, number: usize) -> *mut u8 {
        self.start.as_ptr().wrapping_add(number * (PAGE + self.size) + PAGE)
    }

    /// Makes one usable that never was in use.
    fn open(&self, number: usize) -> Result<(), String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("no stack for an instance: {what}: {error}; try again later");
        // SAFETY: a part of the area's mapping that nobody uses yet.
        if unsafe { libc::mprotect(self.bottom(number).cast(), self.size, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(failed("mprotect", &std::io::Error::last_os_error()));
        }
        let shallow = SHALLOW.min(self.size);
        teemate_containers::prefault(self.bottom(number).wrapping_add(self.size - shallow), shallow)
            .map_err(|error| failed("memory", &error))
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and each stack in use holds the area.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.most * (PAGE + self.size)) };
    }
}

/// A stack in use.
struct Stack {
    number: usize,
    area: Arc<Area>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        lock(&self.area.places).free.push(Reverse(self.number));
    }
}

// SAFETY: a stack is whole pages, readable and writable, with an inaccessible page below that belongs to it; nobody else has it until it is
// dropped, and the area stays mapped until then.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.area.bottom(self.number).wrapping_add(self.area.size)
    }

    fn range(&self) -> Range<usize> {
        self.area.bottom(self.number) as usize..self.top() as usize
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let bottom = self.area.bottom(self.number);
        bottom.wrapping_sub(PAGE)..bottom
    }
}

// SAFETY: see `Stack`. What an earlier call left in a stack is not wiped, as in any thread's: compiled code reads nothing of it that it has
// not written, and neither does Rust. Who asks for a stack of zeros is refused.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        if zeroed || size > self.0.size {
            return Err(wasmtime::Error::msg("a larger stack or one of zeros was asked for; the engine is configured without"));
        }
        Ok(Box::new(self.take().map_err(wasmtime::Error::msg)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_stack_is_taken_and_has_a_guard() {
        let size = 100 << 10;
        let used = |stacks: &Stacks| {
            let places = lock(&stacks.0.places);
            places.opened - places.free.len()
        };
        let stacks = Stacks::new(2, size).unwrap();
        let stack = stacks.new_stack(size, false).unwrap();
        let (range, guard) = (stack.range(), stack.guard_range());
        assert_eq!((range.len(), guard.end as usize, stack.top() as usize), (size, range.start, range.end));
        // SAFETY: first and last byte of a stack that is ours alone.
        unsafe {
            stack.top().wrapping_sub(1).write_volatile(7);
            guard.end.write_volatile(7);
        }
        let other = stacks.new_stack(size, false).unwrap();
        assert_eq!(other.guard_range().start as usize, range.end);
        assert!(stacks.new_stack(size, false).is_err_and(|error| error.to_string().contains("all 2 are in use")));
        drop(stack);
        assert_eq!((used(&stacks), stacks.new_stack(size, false).unwrap().range()), (1, range), "the one that is free");
        drop(other);
        assert_eq!(used(&stacks), 0);
        assert!(stacks.new_stack(size + 1, false).is_err() && stacks.new_stack(size, true).is_err());
    }
}
