//! The LibOS's own heap: small tables only. The payload's memory comes from [`crate::memory`].

#[cfg(all(not(test), feature = "image"))]
mod global {
    use crate::lock::RawSpin;
    use talc::{TalcLock, source::Claim};

    const SIZE: usize = 1 << 20;
    static mut HEAP: [u8; SIZE] = [0; SIZE];

    // SAFETY: HEAP is named nowhere else, so the allocator alone uses it.
    #[global_allocator]
    static ALLOCATOR: TalcLock<RawSpin, Claim> = TalcLock::new(unsafe { Claim::array(&raw mut HEAP) });
}
