//! Lines between the command line and the node: what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_control::node::{Request, Response};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_string(&request).expect("what was read can be written");
        assert_eq!(serde_json::from_str::<Request>(&text).expect("what was written can be read"), request);
    }
    let _ = serde_json::from_slice::<Response>(bytes);
});
