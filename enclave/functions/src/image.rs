//! The frozen memory of an initialised module: the pages that hold something, and where.

use std::io;

/// Granularity of the image.
pub const PAGE: usize = 4096;

/// Memory as it was after initialisation. Runs are in order and do not overlap.
pub struct Image {
    size: usize,
    runs: Vec<(usize, std::ops::Range<usize>)>,
    bytes: &'static [u8],
}

impl Image {
    /// Reads what [`freeze`] wrote.
    ///
    /// # Errors
    /// When the bytes are no image.
    pub fn thaw(bytes: &'static [u8]) -> io::Result<Image> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the image of the JavaScript engine is broken: build it again");
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(broken);
        let (size, count) = (word(0)? as usize, word(8)? as usize);
        let mut content = count.checked_mul(16).and_then(|n| n.checked_add(16)).ok_or_else(broken)?;
        let mut runs = Vec::new();
        let mut last = 0;
        for run in 0..count {
            let (at, length) = (word(16 + run * 16)? as usize, word(24 + run * 16)? as usize);
            let end = content.checked_add(length).ok_or_else(broken)?;
            let fits = at >= last && at.checked_add(length).is_some_and(|end| end <= size) && end <= bytes.len();
            if !fits {
                return Err(broken());
            }
            runs.push((at, content..end));
            last = at + length;
            content = end;
        }
        Ok(Image { size, runs, bytes })
    }

    /// Bytes of memory when frozen.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that are not in all-zero pages.
    pub fn filled(&self) -> usize {
        self.runs.iter().map(|(_, range)| range.len()).sum()
    }

    /// The whole of `memory` as the image has it: zero beyond and between the runs.
    pub fn rewind(&self, memory: &mut [u8]) {
        let mut zero_from = 0;
        for (at, range) in &self.runs {
            memory[zero_from..*at].fill(0);
            memory[*at..at + range.len()].copy_from_slice(&self.bytes[range.clone()]);
            zero_from = at + range.len();
        }
        memory[zero_from..].fill(0);
    }

    /// Like [`Image::rewind`] for memory that is all zero.
    pub fn fill(&self, memory: &mut [u8]) {
        for (at, range) in &self.runs {
            memory[*at..at + range.len()].copy_from_slice(&self.bytes[range.clone()]);
        }
    }
}

/// Writes the pages of `memory` that are not zero, as [`Image::thaw`] reads them.
pub fn freeze(memory: &[u8]) -> Vec<u8> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, page) in memory.chunks(PAGE).enumerate() {
        if page.iter().all(|&byte| byte == 0) {
            continue;
        }
        let at = index * PAGE;
        match runs.last_mut() {
            Some((start, length)) if *start + *length == at => *length += page.len(),
            _ => runs.push((at, page.len())),
        }
    }
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(memory.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(runs.len() as u64).to_le_bytes());
    for (at, length) in &runs {
        bytes.extend_from_slice(&(*at as u64).to_le_bytes());
        bytes.extend_from_slice(&(*length as u64).to_le_bytes());
    }
    for (at, length) in runs {
        bytes.extend_from_slice(&memory[at..at + length]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_frozen_is_thawed(pages in prop::collection::vec(prop::option::of(any::<u8>()), 0..40)) {
            let mut memory = vec![0u8; pages.len() * PAGE];
            for (page, value) in memory.chunks_mut(PAGE).zip(&pages) { if let Some(v) = value { page[17] = *v; } }
            let image = Image::thaw(Vec::leak(freeze(&memory))).unwrap();
            let mut other = vec![0xaa; memory.len() + 3 * PAGE];
            image.rewind(&mut other);
            prop_assert_eq!(&other[..memory.len()], &memory[..]);
            prop_assert!(other[memory.len()..].iter().all(|&b| b == 0));
        }

        #[test]
        fn broken_images_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Image::thaw(Vec::leak(bytes));
        }
    }
}
