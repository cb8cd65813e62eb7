//! Random numbers come from the processor: the host has no say in them.

/// Fills `into` by RDRAND.
pub fn fill(into: &mut [u8]) {
    for chunk in into.chunks_mut(8) {
        let bytes = next().to_ne_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// One number. RDRAND may have nothing ready (CF = 0) under load; ten tries are Intel's advice, and more mean a broken processor.
pub fn next() -> u64 {
    for _ in 0..1000 {
        let (value, ok): (u64, u8);
        // SAFETY: RDRAND writes two registers. SGX2 processors have it.
        unsafe { core::arch::asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
        if ok != 0 {
            return value;
        }
    }
    crate::end::panic(format_args!("RDRAND gives no numbers: the processor is broken"))
}
