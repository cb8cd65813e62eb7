//! CPUID raises #UD in an enclave, and the host's word on what the processor can do would be a lie waiting to be told. The answers come
//! from what a processor must have to run this enclave at all: SGX2 with AVX means Ice Lake server or later. What XCR0 (read by XGETBV,
//! which is legal) does not enable is left out.

/// EAX, EBX, ECX, EDX for a leaf and subleaf.
pub fn answer(leaf: u32, subleaf: u32, xcr0: u64) -> [u32; 4] {
    let avx = xcr0 & 6 == 6;
    let avx512 = xcr0 & 0xE6 == 0xE6;
    match (leaf, subleaf) {
        // "GenuineIntel", highest leaf 0xD.
        (0, _) => [0xD, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        // Family 6, model 106 (Ice Lake SP); CLFLUSH 64 bytes.
        (1, _) => {
            // SSE3 PCLMUL SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE OSXSAVE RDRAND
            let mut c = 1 | 1 << 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 25 | 1 << 26 | 1 << 27 | 1 << 30;
            if avx {
                // FMA AVX F16C
                c |= 1 << 12 | 1 << 28 | 1 << 29;
            }
            // FPU TSC CX8 CMOV CLFSH MMX FXSR SSE SSE2
            let d = 1 | 1 << 4 | 1 << 8 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;
            [0x0006_06a6, 8 << 8, c, d]
        }
        (7, 0) => {
            // FSGSBASE BMI1 BMI2 ERMS RDSEED ADX CLFLUSHOPT SHA
            let mut b = 1 | 1 << 3 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 29;
            let mut c = 1 << 8; // GFNI
            if avx {
                b |= 1 << 5; // AVX2
                c |= 1 << 9 | 1 << 10; // VAES VPCLMULQDQ
            }
            if avx512 {
                b |= 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31; // F DQ IFMA CD BW VL
                c |= 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14; // VBMI VBMI2 VNNI BITALG VPOPCNTDQ
            }
            [0, b, c, 1 << 4] // FSRM
        }
        (0xD, 0) => [(xcr0 & 0xE7) as u32, 2688, 2688, 0],
        (0xD, 2) => [256, 576, 0, 0],
        (0xD, 5) => [64, 1088, 0, 0],
        (0xD, 6) => [512, 1152, 0, 0],
        (0xD, 7) => [1024, 1664, 0, 0],
        // Caches: 48 KiB L1d, 1.25 MiB L2, 32 MiB L3. For memcpy's thresholds only.
        (4, 0) => [1 | 1 << 5 | 1 << 8, 11 << 22 | 63, 63, 0],
        (4, 1) => [2 | 1 << 5 | 1 << 8, 7 << 22 | 63, 63, 0],
        (4, 2) => [3 | 2 << 5 | 1 << 8, 19 << 22 | 63, 1023, 0],
        (4, 3) => [3 | 3 << 5 | 1 << 8, 15 << 22 | 63, 32767, 0],
        (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
        // LAHF LZCNT PREFETCHW; SYSCALL NX 1GB RDTSCP LM
        (0x8000_0001, _) => [0, 0, 1 | 1 << 5 | 1 << 8, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29],
        (0x8000_0008, _) => [46 | 57 << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

/// XCR0: what the operating system and SECS.ATTRIBUTES.XFRM allow.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: XGETBV with ECX = 0 reads a register and is legal in enclaves.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    #[test]
    fn without_avx_nothing_of_avx_is_promised() {
        assert_eq!(super::answer(1, 0, 3)[2] & (1 << 28 | 1 << 12 | 1 << 29), 0);
        assert_eq!(super::answer(7, 0, 3)[1] & (1 << 5 | 1 << 16), 0);
        assert_ne!(super::answer(7, 0, 0xE7)[1] & 1 << 16, 0);
    }
}
