//! Real ELF files to test with, made by the machine's C compiler.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The stand-in for the LibOS, and a static-pie payload; `None`, with the reason on stderr, where there is no C compiler or no static libc.
pub fn programs(directory: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let source = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let libos = compile(
        &source("libos.s"),
        &directory.join("libos"),
        &["-nostdlib", "-static-pie", "-Wl,-z,separate-code", "-Wl,-e,teemate_entry"],
    )?;
    let payload = compile(&source("payload.c"), &directory.join("payload"), &["-O2", "-static-pie", "-pthread"])?;
    Some((libos, payload))
}

/// Compiles one file.
pub fn compile(source: &Path, output: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let result = Command::new("cc").args(options).arg("-o").arg(output).arg(source).output();
    match result {
        Ok(done) if done.status.success() => Some(std::fs::read(output).unwrap()),
        Ok(done) => {
            eprintln!("skipped: cc can't make a static-pie program here: {}", String::from_utf8_lossy(&done.stderr));
            None
        }
        Err(error) => {
            eprintln!("skipped: there is no cc ({error})");
            None
        }
    }
}

/// A static-pie program of Rust's std; `None`, with the reason on stderr, where rustc can't make one.
pub fn rust_program(directory: &Path) -> Option<Vec<u8>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/common/payload.rs");
    let output = directory.join("rust-payload");
    let options = ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Crelocation-model=pie"];
    match Command::new(rustc).args(options).arg("-o").arg(&output).arg(source).output() {
        Ok(done) if done.status.success() => Some(std::fs::read(output).unwrap()),
        Ok(done) => {
            eprintln!("skipped: rustc can't make a static-pie program here: {}", String::from_utf8_lossy(&done.stderr));
            None
        }
        Err(error) => {
            eprintln!("skipped: there is no rustc ({error})");
            None
        }
    }
}
