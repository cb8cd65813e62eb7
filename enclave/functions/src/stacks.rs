//! The stacks on which WebAssembly runs. They go from one call to the next: a new one costs an enclave a fault a page.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use wasmtime::{StackCreator, StackMemory};

use crate::image::PAGE;
use crate::lock;

/// Stacks that are kept.
const KEEP: usize = 72;
/// What a call uses of its stack at least: it is made part of the enclave beforehand.
const SHALLOW: usize = 16 << 10;

/// Stacks that no call uses now.
#[derive(Clone, Default)]
pub struct Stacks(Arc<Mutex<Vec<Mapping>>>);

/// A guard page, and above it the stack.
struct Mapping {
    start: NonNull<u8>,
    /// With the guard page.
    length: usize,
}

// SAFETY: a mapping is memory and nothing else; whoever owns the value has it alone.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives nothing but addresses.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(size: usize) -> Result<Mapping, String> {
        let length = size.next_multiple_of(PAGE) + PAGE;
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new anonymous mapping at an address that the system chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, rights, flags, -1, 0) };
        let failed = |what: &str| format!("no stack for an instance: {what} of {length} bytes: {}", std::io::Error::last_os_error());
        if start == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let start = NonNull::new(start.cast()).ok_or("mmap gave the address 0")?;
        let mapping = Mapping { start, length };
        // SAFETY: the first page of the mapping, which nobody uses yet.
        if unsafe { libc::mprotect(start.as_ptr().cast(), PAGE, libc::PROT_NONE) } != 0 {
            return Err(failed("mprotect"));
        }
        let shallow = start.as_ptr().wrapping_add(length - SHALLOW.min(size));
        teemate_containers::prefault(shallow, SHALLOW.min(size)).map_err(|error| format!("no stack for an instance: {error}"))?;
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A stack in use.
struct Stack {
    /// Only `None` while it is dropped.
    mapping: Option<Mapping>,
    home: Stacks,
}

impl Stack {
    fn place(&self) -> (*mut u8, usize) {
        self.mapping.as_ref().map_or((std::ptr::null_mut(), 0), |mapping| (mapping.start.as_ptr(), mapping.length))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut free = lock(&self.home.0);
        if free.len() < KEEP {
            free.extend(self.mapping.take());
        }
    }
}

// SAFETY: a stack comes from `Mapping::new`: page-aligned, whole pages, readable and writable, with an inaccessible page below; and nobody
// else has it until it is dropped.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        let (start, length) = self.place();
        start.wrapping_add(length)
    }

    fn range(&self) -> Range<usize> {
        let (start, length) = self.place();
        start as usize + PAGE..start as usize + length
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let (start, _) = self.place();
        start..start.wrapping_add(PAGE)
    }
}

// SAFETY: see `Stack`. What an earlier call left in a stack is not wiped unless that is asked for, as in any thread's: compiled code reads
// nothing of it that it has not written, and neither does Rust.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        // All of an engine are of the same size.
        let kept = if zeroed { None } else { lock(&self.0).pop() }.filter(|mapping| mapping.length >= size + PAGE);
        let mapping = kept.map_or_else(|| Mapping::new(size), Ok).map_err(wasmtime::Error::msg)?;
        Ok(Box::new(Stack { mapping: Some(mapping), home: self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_comes_back_and_has_a_guard() {
        let stacks = Stacks::default();
        let stack = stacks.new_stack(100 << 10, false).unwrap();
        let (range, guard) = (stack.range(), stack.guard_range());
        assert_eq!((range.len(), guard.end as usize, stack.top() as usize), (100 << 10, range.start, range.end));
        // SAFETY: the last byte of a stack that is ours alone.
        unsafe { stack.top().wrapping_sub(1).write_volatile(7) };
        let other = stacks.new_stack(100 << 10, false).unwrap();
        assert!(other.range().start >= range.end || other.range().end <= range.start);
        drop(stack);
        assert_eq!(stacks.new_stack(100 << 10, false).unwrap().range(), range, "the one that is free");
        let larger = stacks.new_stack(200 << 10, false).unwrap();
        assert_eq!(larger.range().len(), 200 << 10);
    }
}
