//! An image's configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_image::ImageConfig;

fuzz_target!(|text: &str| {
    if let Ok(config) = ImageConfig::from_toml(text) {
        config.check().expect("what was accepted is sound");
    }
});
