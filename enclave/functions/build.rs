//! Finds the JavaScript engine that the payload embeds: three files that `teemate-js-engine-build` made. Without them the crate builds
//! too, and says so when somebody deploys JavaScript.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=TEEMATE_JS_ENGINE");
    println!("cargo:rerun-if-changed=build.rs");
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let module = std::env::var_os("TEEMATE_JS_ENGINE").map_or_else(|| manifest.join("../../artifacts/js-engine.wasm"), PathBuf::from);
    let module = std::path::absolute(&module).unwrap_or(module);
    let parts = [module.clone(), module.with_extension("image"), module.with_extension("cwasm")];
    for part in &parts {
        println!("cargo:rerun-if-changed={}", part.display());
    }
    let text = if parts.iter().all(|part| part.is_file()) {
        let include = |path: &Path| format!("include_bytes!({:?})", path);
        format!("Some(Built {{ module: {}, image: {}, compiled: {} }})", include(&parts[0]), include(&parts[1]), include(&parts[2]))
    } else {
        "None".to_owned()
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("js_engine.rs");
    std::fs::write(out, text).expect("OUT_DIR can be written");
}
