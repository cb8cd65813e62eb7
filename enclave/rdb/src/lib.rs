//! Redis's snapshot format (RDB), version 10: a writer of what Redis 7.0 loads, and a reader of what any Redis up to 7.2
//! writes, but for the values of modules.
//!
//! The format: `REDIS0010`, then opcodes and entries, then 255 and a CRC-64 of everything before it, little-endian. Lengths are in Redis's
//! own variable form. The writer knows the plain types (0 string, 1 list, 2 set, 4 hash, 5 sorted set: strings behind each other) and streams
//! (19); whoever loads it makes of them what it likes. The reader knows the compact encodings too.
#![forbid(unsafe_code)]

mod compact;
mod crc64;
mod dump;
mod lzf;
mod reader;
mod stream;
mod writer;

pub use crc64::Crc64;
pub use dump::{dump, dump_functions, restore, restore_functions};
pub use reader::{Entry, Error, Reader, Value};
pub use stream::{Consumer, Group, Pending, Stream, StreamEntry, StreamId, StreamState};
pub use writer::Writer;

/// Opcodes and types, as `rdb.h` numbers them.
mod code {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const SORTED_SET_TEXT: u8 = 3;
    pub const HASH: u8 = 4;
    pub const SORTED_SET: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const SORTED_SET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICK: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const SORTED_SET_LISTPACK: u8 = 17;
    pub const LIST_QUICK_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    pub const FUNCTION: u8 = 245;
    pub const AUX: u8 = 250;
    pub const RESIZE: u8 = 251;
    pub const EXPIRES_MS: u8 = 252;
    pub const EXPIRES_S: u8 = 253;
    pub const SELECT: u8 = 254;
    pub const END: u8 = 255;
    pub const FREQUENCY: u8 = 249;
    pub const IDLE: u8 = 248;
}
