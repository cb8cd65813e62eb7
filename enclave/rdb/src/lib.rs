//! Redis's snapshot format (RDB): a writer of what Redis 7.0 loads, and a reader of what it writes.
#![forbid(unsafe_code)]
