//! Records of a turn: what the host says of many connections at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_abi::turn::{Records, SENT, header};

fuzz_target!(|bytes: &[u8]| {
    let mut records = Records::new(bytes);
    let mut written = Vec::new();
    for record in records.by_ref() {
        assert!(record.kind == SENT && record.bytes.is_empty() || record.bytes.len() == record.length as usize);
        written.extend(header(record.kind, record.fd, record.length));
        written.extend(record.bytes);
    }
    // What was read is how it is written; and only a cut record is left.
    assert!(bytes.starts_with(&written));
    assert_eq!(records.is_at_the_end(), written.len() == bytes.len());
});
