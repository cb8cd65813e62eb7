//! Enclave images: layout, rewriting of syscall sites, measurement, signature.
