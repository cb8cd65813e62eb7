//! The four memory functions that compiled Rust calls. `rep movsb` and `rep stosb` are as fast as anything on processors with SGX2
//! (all have ERMS), and cannot be turned into calls of themselves by the compiler.

use core::arch::asm;

/// C's memcpy.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller promises that both ranges are valid and do not overlap.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// C's memmove.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: copying upwards never overwrites a byte of `from` before it is read.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: the ranges are valid by the caller's promise; copying downwards reads each byte before it is overwritten. The direction
    // flag is cleared again, as the ABI demands.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") length => _, inout("rdi") to.add(length).sub(1) => _,
             inout("rsi") from.add(length).sub(1) => _, options(nostack));
    }
    to
}

/// C's memset.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller promises that the range is valid.
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") value as u8, options(nostack, preserves_flags));
    }
    to
}

/// C's memcmp.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    let mut i = 0;
    while i < length {
        // SAFETY: i < length, and the caller promises both ranges.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        i += 1;
    }
    0
}

/// C's bcmp.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: same contract.
    unsafe { memcmp(a, b, length) }
}

/// C's strlen, which `CStr` uses.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(s: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller promises a NUL at the end.
    while unsafe { s.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
