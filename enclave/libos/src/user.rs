//! Memory of the payload, named by an address that the payload gave. The payload is trusted; its bugs are not: an address that is not
//! mapped is EFAULT, never a fault in the LibOS.

use crate::memory;

/// Checks that `length` bytes can be read (or written), and makes sure that they are there.
pub fn check(address: u64, length: u64, write: bool) -> Result<(), i32> {
    if length == 0 {
        return Ok(());
    }
    let end = address.checked_add(length).ok_or(libc::EFAULT)?;
    memory::ensure(address..end, write)
}

/// A value of plain data.
pub fn read<T: Plain>(address: u64) -> Result<T, i32> {
    check(address, size_of::<T>() as u64, false)?;
    // SAFETY: the range is mapped and accepted; any bytes make a T.
    Ok(unsafe { (address as *const T).read_unaligned() })
}

/// Stores a value of plain data.
pub fn write<T: Plain>(address: u64, value: T) -> Result<(), i32> {
    check(address, size_of::<T>() as u64, true)?;
    // SAFETY: the range is mapped, writable and accepted.
    unsafe { (address as *mut T).write_unaligned(value) };
    Ok(())
}

/// Bytes to read. The payload's other threads may write them meanwhile: treat them as bytes and copy them once.
pub fn bytes<'a>(address: u64, length: u64) -> Result<&'a [u8], i32> {
    check(address, length, false)?;
    // SAFETY: the range is mapped and accepted, and stays so during this syscall unless the payload unmaps its own buffer under it.
    Ok(unsafe { core::slice::from_raw_parts(if length == 0 { core::ptr::dangling() } else { address as *const u8 }, length as usize) })
}

/// Bytes to write.
pub fn bytes_mut<'a>(address: u64, length: u64) -> Result<&'a mut [u8], i32> {
    check(address, length, true)?;
    // SAFETY: as for `bytes`, and writable.
    Ok(unsafe {
        core::slice::from_raw_parts_mut(if length == 0 { core::ptr::dangling_mut() } else { address as *mut u8 }, length as usize)
    })
}

/// A NUL-terminated string of at most 4,096 bytes.
pub fn string<'a>(address: u64) -> Result<&'a [u8], i32> {
    for length in 0..4096 {
        if read::<u8>(address.checked_add(length).ok_or(libc::EFAULT)?)? == 0 {
            return bytes(address, length);
        }
    }
    Err(libc::ENAMETOOLONG)
}

/// Types of which every bit pattern is a value.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for i64 {}
impl<T: Plain, const N: usize> Plain for [T; N] {}
