//! The library operating system inside the enclave.
#![cfg_attr(not(test), no_std)]
