//! Memory of the guest. An address from the guest is an allegation: only these functions turn it into bytes.

use std::ops::Range;

/// The guest named memory that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The bytes `at .. at + length`.
pub fn range(memory: &[u8], at: u32, length: u32) -> Result<Range<usize>, Fault> {
    let start = at as usize;
    let end = start.checked_add(length as usize).ok_or(Fault)?;
    if end > memory.len() { Err(Fault) } else { Ok(start..end) }
}

/// Reads bytes.
pub fn bytes(memory: &[u8], at: u32, length: u32) -> Result<&[u8], Fault> {
    Ok(&memory[range(memory, at, length)?])
}

/// Bytes to write to.
pub fn bytes_mut(memory: &mut [u8], at: u32, length: u32) -> Result<&mut [u8], Fault> {
    let range = range(memory, at, length)?;
    Ok(&mut memory[range])
}

/// Reads a little-endian word.
pub fn u32_at(memory: &[u8], at: u32) -> Result<u32, Fault> {
    Ok(u32::from_le_bytes(bytes(memory, at, 4)?.try_into().map_err(|_| Fault)?))
}

/// Reads a little-endian double word.
pub fn u64_at(memory: &[u8], at: u32) -> Result<u64, Fault> {
    Ok(u64::from_le_bytes(bytes(memory, at, 8)?.try_into().map_err(|_| Fault)?))
}

/// Writes bytes.
pub fn write(memory: &mut [u8], at: u32, data: &[u8]) -> Result<(), Fault> {
    let length = u32::try_from(data.len()).map_err(|_| Fault)?;
    bytes_mut(memory, at, length)?.copy_from_slice(data);
    Ok(())
}

/// Address of entry `index` of a table whose entries have `size` bytes.
pub fn entry(table: u32, index: u32, size: u32) -> Result<u32, Fault> {
    index.checked_mul(size).and_then(|offset| table.checked_add(offset)).ok_or(Fault)
}

/// The entry `index` of an array of WASI iovecs: address and length.
pub fn iovec(memory: &[u8], table: u32, index: u32) -> Result<(u32, u32), Fault> {
    let at = entry(table, index, 8)?;
    Ok((u32_at(memory, at)?, u32_at(memory, at.checked_add(4).ok_or(Fault)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_what_is_there(size in 0usize..200_000, at in any::<u32>(), near in 0u32..300_000, length in any::<u32>(), short in 0u32..70_000) {
            let mut memory = vec![7u8; size];
            for (at, length) in [(at, length), (near, short), (at, short), (near, length), (u32::MAX, u32::MAX)] {
                let fits = u64::from(at) + u64::from(length) <= size as u64;
                prop_assert_eq!(bytes(&memory, at, length).is_ok(), fits);
                prop_assert_eq!(bytes_mut(&mut memory, at, length).is_ok(), fits);
                prop_assert_eq!(u32_at(&memory, at).is_ok(), u64::from(at) + 4 <= size as u64);
                prop_assert_eq!(u64_at(&memory, at).is_ok(), u64::from(at) + 8 <= size as u64);
                let wrote = write(&mut memory, at, &[1; 16]).is_ok();
                prop_assert_eq!(wrote, u64::from(at) + 16 <= size as u64);
            }
        }

        #[test]
        fn tables_do_not_wrap(table in any::<u32>(), index in any::<u32>(), size in 0u32..64) {
            let wide = u64::from(table) + u64::from(index) * u64::from(size);
            prop_assert_eq!(entry(table, index, size).ok().map(u64::from), (wide <= u64::from(u32::MAX)).then_some(wide));
        }
    }
}
