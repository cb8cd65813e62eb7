//! The enclave device: Linux's SGX driver, and a simulator behind the same trait.
