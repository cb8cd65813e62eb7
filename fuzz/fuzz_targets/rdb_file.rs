//! Snapshots and payloads of RESTORE: any bytes behind a good beginning, and any value behind a good sum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_rdb::{Crc64, Reader, restore};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut reader) = Reader::new([&b"REDIS0010"[..], bytes].concat().as_slice()) {
        while let Ok(Some(_)) = reader.next_entry() {}
    }
    let mut payload = [bytes, &10u16.to_le_bytes()].concat();
    let mut crc = Crc64::default();
    crc.update(&payload);
    payload.extend(crc.value().to_le_bytes());
    let _ = restore(&payload);
});
