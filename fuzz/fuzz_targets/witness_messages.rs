//! What comes to a witness, what comes from one, and what a proxy is told of a database: an answer or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_attestation::database::Identity;
use teemate_witness::protocol::{self, Request, Response};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(request)) = protocol::read::<Request>(&mut rest) {
        let mut again = Vec::new();
        protocol::write(&request, &mut again).expect("what was read can be written");
        assert_eq!(protocol::read(&mut &again[..]).expect("what was written can be read"), Some(request));
    }
    let mut rest = bytes;
    while let Ok(Some(_)) = protocol::read::<Response>(&mut rest) {}
    let _ = Identity::parse(bytes);
});
