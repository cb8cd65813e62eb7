//! Archives of actions: unpacked within bounds or refused, and what comes of them is a script or a module.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_gateway::whisk::bundle::{MAX_FILES, MAX_UNPACKED, module_of_archive, script_of_archive, unpack};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(files) = unpack(bytes, |_| true) {
        assert!(files.len() <= MAX_FILES);
        assert!(files.values().map(|content| content.len() as u64).sum::<u64>() <= MAX_UNPACKED);
        assert!(files.keys().all(|path| !path.starts_with('/') && !path.split('/').any(|part| part == "..")));
    }
    let _ = module_of_archive(bytes);
    let main = std::str::from_utf8(bytes).ok().and_then(|text| text.get(..16));
    let _ = script_of_archive(bytes, main);
});
