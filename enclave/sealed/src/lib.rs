//! Files and logs that leave the enclave encrypted, authenticated and in order.
#![forbid(unsafe_code)]
