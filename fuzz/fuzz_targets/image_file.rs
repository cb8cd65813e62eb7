//! Image files. One that is accepted has a sound layout, can be written and read again, and can be measured.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_image::{Image, describe};

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::from_bytes(bytes) else { return };
    let file = image.to_bytes().expect("what was read can be written");
    assert_eq!(Image::from_bytes(&file).expect("what was written can be read"), image);
    // Zero runs make large images of small files; measuring those is slow, not wrong.
    if image.page_count() < 4096 {
        let _ = (image.verify(), describe(&image));
    }
});
