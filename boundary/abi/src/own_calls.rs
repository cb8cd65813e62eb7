//! Syscall numbers that only the LibOS knows, far above Linux's own: what a payload can ask that Linux has no call for.
//!
//! They do not cross the wall, but their two ends are two crates: `enclave/containers` asks, `enclave/libos` answers.

/// `() -> 1`: is there an enclave?
pub const PRESENT: i64 = 0x7EE_0000;
/// `(*mut u64) -> 0`: give the container back, wait for the next, store its id.
pub const NEXT_CONTAINER: i64 = 0x7EE_0001;
/// `(path, path_len, sha256, length) -> fd`: a file of the container whose content has this digest.
pub const VERIFIED_FILE: i64 = 0x7EE_0002;
/// `(address, address_len) -> fd`: connect to `host:port` by the node's broker.
pub const CONNECT: i64 = 0x7EE_0003;
/// `(target_info or null, report_data, *mut report) -> 0`: EREPORT.
pub const REPORT: i64 = 0x7EE_0004;
/// `(key_request, *mut [u8; 16]) -> 0`: EGETKEY.
pub const KEY: i64 = 0x7EE_0005;
/// `(start, len) -> 0`: a range that the caller is about to touch. Its pages are accepted, ENOMEM if there is no EPC for them, and the host
/// may map them in one go.
pub const PREFAULT: i64 = 0x7EE_0006;
/// `() -> pages`: EPC pages charged to the caller's container.
pub const CHARGED_PAGES: i64 = 0x7EE_0007;
/// `(pages) -> 0`: quota of the caller's container, until it is given back. Beyond it mmap fails with ENOMEM.
pub const SET_QUOTA: i64 = 0x7EE_0008;
/// `(records, len, timeout_ms, *mut [u8; MAILBOX_DATA]) -> len`: a turn of input and output for many connections, with one exit
/// ([`crate::turn`]). For the payload's own threads.
pub const TURN: i64 = 0x7EE_0009;
