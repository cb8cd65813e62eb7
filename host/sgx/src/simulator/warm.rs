//! Which pages a call touches first.
//!
//! A container's process starts with an empty page table for the enclave: fork does not copy entries of a shared memfd (of the driver's
//! mappings, on hardware, it does). So each call begins with some seventy page faults, most of its time. But calls are alike: the guard
//! looks, when a process that was inside is at its end, which pages it had mapped, and keeps a list of those that several had. A process
//! that is about to enter has them mapped in a few system calls, most often before there is a call for it.
//!
//! The list is a hint. It lies in the state that all processes share, so it is checked like anything from there.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, PAGE_SIZE},
};

use super::{
    epcm::Word,
    process,
    shared::{CHUNK_PAGES, Shared, WARM_MAX},
    transition,
};

/// Processes whose pages are remembered.
const SAMPLES: usize = 16;
/// So many of them must have had a page.
const ENOUGH: u32 = 2;
/// Once there are [`SAMPLES`], one process in so many is looked at: looking takes some hundred microseconds.
const SELDOM: u64 = 256;
/// Most pages of the list.
const PAGES_MAX: usize = 8192;
/// A read fault of a page that is in memory maps its neighbours as well, those in the same aligned window of so many pages (the kernel's
/// `fault_around_bytes`, by default 64 KiB).
const WINDOW: u32 = 16;
/// Bit of a pagemap entry: the page is there.
const PRESENT: u64 = 1 << 63;

/// The guard's memory of what processes had mapped.
#[derive(Default)]
pub struct Samples {
    seen: u64,
    kept: VecDeque<Vec<(u32, u32)>>,
}

impl Samples {
    /// Whether to look at the next process.
    pub fn wanted(&mut self) -> bool {
        self.seen += 1;
        self.kept.len() < SAMPLES || self.seen.is_multiple_of(SELDOM)
    }

    /// Adds a process's pages, and publishes the list anew.
    pub fn add(&mut self, shared: &Shared, runs: Vec<(u32, u32)>) {
        if self.kept.len() == SAMPLES {
            self.kept.pop_front();
        }
        self.kept.push_back(runs);
        let rights = |page: u32| shared.word(page.into()).map_or(0, |word| Word(word.load(Relaxed)).usable());
        publish(shared, &sparse(&common(&self.kept), rights));
    }
}

/// Runs of ELRANGE's pages (first, count) that a process at its last stop has mapped.
pub fn mapped_pages(shared: &Shared, pid: i32) -> Option<Vec<(u32, u32)>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut entries = [0u8; CHUNK_PAGES as usize * 8];
    for chunk in 0..shared.secs().chunk_top.load(Acquire) {
        let first = chunk * CHUNK_PAGES;
        let read = pagemap.read_at(&mut entries, (ELRANGE_BASE / PAGE_SIZE + first) * 8).ok()?;
        for (index, entry) in entries[..read].as_chunks::<8>().0.iter().enumerate() {
            if u64::from_le_bytes(*entry) & PRESENT == 0 {
                continue;
            }
            let page = u32::try_from(first + index as u64).ok()?;
            match runs.last_mut() {
                Some((start, count)) if *start + *count == page => *count += 1,
                _ => runs.push((page, 1)),
            }
        }
    }
    Some(runs)
}

/// Pages that enough processes had, as runs.
fn common(samples: &VecDeque<Vec<(u32, u32)>>) -> Vec<(u32, u32)> {
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for (start, count) in samples.iter().flatten() {
        for page in *start..*start + *count {
            *counts.entry(page).or_default() += 1;
        }
    }
    let enough = ENOUGH.min(samples.len() as u32);
    let mut pages: Vec<(u32, u32)> = counts.into_iter().filter(|(_, count)| *count >= enough).collect();
    if pages.len() > PAGES_MAX {
        // The most common ones.
        pages.select_nth_unstable_by_key(PAGES_MAX, |(_, count)| std::cmp::Reverse(*count));
        pages.truncate(PAGES_MAX);
    }
    pages.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for (page, _) in pages {
        match runs.last_mut() {
            Some((start, count)) if *start + *count == page => *count += 1,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

/// One page for each window, and for each stretch of equal rights in it: so much does one fault map.
fn sparse(runs: &[(u32, u32)], rights: impl Fn(u32) -> u8) -> Vec<u32> {
    let mut pages: Vec<u32> = Vec::new();
    let mut before = None;
    for page in runs.iter().flat_map(|(start, count)| *start..*start + *count) {
        let key = (page / WINDOW, rights(page));
        if before != Some(key) {
            pages.push(page);
            before = Some(key);
        }
    }
    pages.truncate(WARM_MAX);
    pages
}

/// Readers may see a mixture of two lists: both are hints.
fn publish(shared: &Shared, pages: &[u32]) {
    for (index, page) in pages.iter().enumerate() {
        if let Some(word) = shared.warm_page(index) {
            word.store((*page).into(), Relaxed);
        }
    }
    shared.secs().warm_pages.store(pages.len() as u64, Release);
}

/// Maps what calls touch first, and what the TCS's own slot needs. Pages that the EPCM does not give stay as they are: they are PROT_NONE.
pub fn prefault(shared: &Shared, tcs: u32) {
    let populate = |address: u64, length: u64, how: i32| {
        // SAFETY: populating makes pages present and changes none; where nothing may be accessed it fails.
        unsafe { libc::madvise(address as *mut _, length as usize, how) };
    };
    let slot = host_area::slot(tcs);
    populate(transition::BASE, PAGE_SIZE, libc::MADV_POPULATE_READ);
    populate(process::PROCESS_PAGE, PAGE_SIZE, libc::MADV_POPULATE_WRITE);
    populate(host_area::BASE, PAGE_SIZE, libc::MADV_POPULATE_WRITE);
    populate(slot + host_area::SLOT_STACK_TOP - PAGE_SIZE, PAGE_SIZE, libc::MADV_POPULATE_WRITE);
    populate(slot + host_area::SLOT_MAILBOX, PAGE_SIZE, libc::MADV_POPULATE_WRITE);
    let count = shared.secs().warm_pages.load(Acquire).min(WARM_MAX as u64) as usize;
    for word in (0..count).filter_map(|index| shared.warm_page(index)) {
        let page = word.load(Relaxed);
        if page < shared.page_count() {
            // Reading is enough: a shared mapping of a memfd gets writable entries where it may be written.
            populate(ELRANGE_BASE + page * PAGE_SIZE, PAGE_SIZE, libc::MADV_POPULATE_READ);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_processes_had_is_common() {
        let samples = |list: &[&[(u32, u32)]]| list.iter().map(|runs| runs.to_vec()).collect::<VecDeque<_>>();
        assert_eq!(common(&samples(&[])), []);
        assert_eq!(common(&samples(&[&[(5, 2)]])), [(5, 2)], "one is all there is");
        assert_eq!(common(&samples(&[&[(5, 2), (9, 1)], &[(6, 3)]])), [(6, 1)]);
        assert_eq!(common(&samples(&[&[(5, 2)], &[(7, 1)], &[(5, 3)]])), [(5, 3)], "runs that touch are one");
        let many: Vec<(u32, u32)> = vec![(0, PAGES_MAX as u32 * 2)];
        let total: u32 = common(&samples(&[&many, &many])).iter().map(|(_, count)| count).sum();
        assert_eq!(total as usize, PAGES_MAX);
    }

    #[test]
    fn one_fault_maps_a_window_of_equal_rights() {
        assert_eq!(sparse(&[], |_| 7), []);
        assert_eq!(sparse(&[(3, 10), (14, 1), (17, 1)], |_| 7), [3, 17], "holes make no difference, windows do");
        assert_eq!(sparse(&[(0, 33)], |_| 7), [0, 16, 32]);
        assert_eq!(sparse(&[(0, 8)], |page| u8::from(page >= 5)), [0, 5], "a mapping ends where rights change");
        assert_eq!(sparse(&[(0, WINDOW * 2 * WARM_MAX as u32)], |_| 7).len(), WARM_MAX);
    }

    #[test]
    fn later_processes_are_seldom_looked_at() {
        let mut samples = Samples::default();
        assert!((0..SAMPLES).all(|_| samples.wanted()));
        samples.kept = (0..SAMPLES).map(|_| Vec::new()).collect();
        let looked = (0..SELDOM * 10).filter(|_| samples.wanted()).count();
        assert_eq!(looked, 10);
    }
}
