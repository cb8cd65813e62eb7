//! Redis's snapshot format (RDB), version 9: a writer of what Redis 5 to 7 load, and a reader of the same plain types.
//!
//! The format: `REDIS0009`, then opcodes and entries, then 255 and a CRC-64 of everything before it, little-endian. Lengths are in Redis's
//! own variable form; values of the plain types (0 string, 1 list, 2 set, 4 hash, 5 sorted set) are lists of strings. The compact encodings
//! that Redis itself writes are not read yet.
#![forbid(unsafe_code)]

mod crc64;
mod reader;
mod writer;

pub use crc64::Crc64;
pub use reader::{Entry, Error, Reader, Value};
pub use writer::Writer;

/// Opcodes and types, as `rdb.h` numbers them.
mod code {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const HASH: u8 = 4;
    pub const SORTED_SET: u8 = 5;
    pub const AUX: u8 = 250;
    pub const RESIZE: u8 = 251;
    pub const EXPIRES_MS: u8 = 252;
    pub const EXPIRES_S: u8 = 253;
    pub const SELECT: u8 = 254;
    pub const END: u8 = 255;
    pub const FREQUENCY: u8 = 249;
    pub const IDLE: u8 = 248;
}
