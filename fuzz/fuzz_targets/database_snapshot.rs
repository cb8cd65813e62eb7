//! A snapshot that the host gives to the database.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_rdb::Reader;

fuzz_target!(|input: &[u8]| {
    // With and without its beginning, so that the fuzzer need not find that.
    for prefix in [&b""[..], b"REDIS0009"] {
        let bytes = [prefix, input].concat();
        if let Ok(mut reader) = Reader::new(bytes.as_slice()) {
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
});
