//! ELF files of the LibOS and the payload: the first two bytes say where the one ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_image::{Image, ImageConfig};

fuzz_target!(|bytes: &[u8]| {
    let Some((at, files)) = bytes.split_first_chunk::<2>() else { return };
    let (libos, payload) = files.split_at(usize::from(u16::from_le_bytes(*at)).min(files.len()));
    let config = ImageConfig { tcs_count: 1, ..ImageConfig::default() };
    if let Ok(image) = Image::build(&config, libos, payload) {
        image.check().expect("what was built is sound");
        let file = image.to_bytes().expect("what was built can be written");
        assert_eq!(Image::from_bytes(&file).expect("what was written can be read"), image);
    }
});
