//! Images of real programs: layout, measurement against independent implementations, files, and the rewritten code at work.

#![allow(clippy::unwrap_used)]

mod common;

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use sgx::page::{Class, Flags};
use sha2::{Digest as _, Sha256};
use teemate_abi::layout::{self, ELRANGE_BASE, PAGE_SIZE, tcs_block};
use teemate_image::{Content, Error, Image, ImageConfig, PageKind, describe, rewrite::Form};

fn config() -> ImageConfig {
    ImageConfig { tcs_count: 4, args: vec!["payload".into(), "one".into()], env: vec![("A".into(), "b".into())], ..ImageConfig::default() }
}

fn image() -> Option<Image> {
    let directory = tempfile::tempdir().unwrap();
    let (libos, payload) = common::programs(directory.path())?;
    Some(Image::build(&config(), &libos, &payload).unwrap())
}

#[test]
fn layout_of_an_image() {
    let Some(image) = image() else { return };
    image.check().unwrap();
    let tcs: Vec<_> = image.pages().filter(|page| page.secinfo == 0x100).collect();
    assert_eq!(tcs.len(), 4);
    for (index, page) in tcs.iter().enumerate() {
        assert_eq!(ELRANGE_BASE + page.offset, layout::tcs_address(image.tcs_start, index as u32));
        let tcs = sgx_isa::Tcs::try_copy_from(page.data).unwrap();
        assert_eq!((tcs.ossa, tcs.ogsbasgx, tcs.nssa, tcs.cssa), (page.offset + tcs_block::SSA, page.offset + tcs_block::LOCAL, 3, 0));
    }
    assert_eq!(image.heap_start % (2 << 20), 0);
    let info = image.pages().next().unwrap();
    let strings = &info.data[std::mem::offset_of!(layout::EnclaveInfo, strings)..];
    assert!(strings.starts_with(b"payload\0one\0A=b\0\0"));
    // The LibOS's pointer is relocated, and read-only afterwards.
    let pointers = image.pages.iter().filter(|run| matches!(run.kind, PageKind::READ)).filter_map(|run| match &run.content {
        Content::Bytes(bytes) => Some(bytes),
        Content::Zero => None,
    });
    let in_libos = |value: u64| value > ELRANGE_BASE + 4 * tcs_block::STRIDE && value < image.heap_start;
    let found = pointers.flat_map(|bytes| bytes.as_chunks::<8>().0).any(|bytes| in_libos(u64::from_le_bytes(*bytes)));
    assert!(found, "no relocated pointer in read-only pages");
}

#[test]
fn the_same_input_gives_the_same_image() {
    let directory = tempfile::tempdir().unwrap();
    let Some((libos, payload)) = common::programs(directory.path()) else { return };
    let one = Image::build(&config(), &libos, &payload).unwrap();
    let two = Image::build(&config(), &libos, &payload).unwrap();
    assert_eq!(one.to_bytes().unwrap(), two.to_bytes().unwrap());
    let other = ImageConfig { args: vec!["payload".into(), "two".into()], ..config() };
    assert_ne!(Image::build(&other, &libos, &payload).unwrap().measure(), one.measure());
}

struct Sha(Sha256);

impl sgx::crypto::Digest for Sha {
    type Output = [u8; 32];
    fn new() -> Self {
        Sha(Sha256::new())
    }
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl sgxs::crypto::SgxHashOps for Sha {
    fn new() -> Self {
        Sha(Sha256::new())
    }
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[test]
fn the_measurement_is_what_others_compute() {
    let Some(image) = image() else { return };

    let frame = std::num::NonZeroU32::new(image.ssa_frame_pages).unwrap();
    let mut hasher = sgx::signature::Hasher::<Sha>::new(image.elrange_size as usize, frame);
    for page in image.pages() {
        let secinfo = match page.secinfo {
            0x100 => Class::Tcs.info(None),
            flags => Class::Regular.info(Flags::from_bits(flags as u8 & 7).unwrap()),
        };
        hasher.load(page.data, page.offset as usize, secinfo, true).unwrap();
    }
    assert_eq!(hasher.finish(), image.measure());

    use sgxs::sgxs::{CanonicalSgxsWriter, MeasECreate, SecinfoTruncated};
    let mut stream = Vec::new();
    let create = MeasECreate { ssaframesize: image.ssa_frame_pages, size: image.elrange_size };
    let mut writer = CanonicalSgxsWriter::new(&mut stream, create, true).unwrap();
    for page in image.pages() {
        let secinfo = SecinfoTruncated { flags: sgx_isa::SecinfoFlags::from_bits_truncate(page.secinfo) };
        writer.write_page(Some(&mut &page.data[..]), Some(page.offset), secinfo).unwrap();
    }
    let hash = sgxs::sigstruct::EnclaveHash::from_stream::<_, Sha>(&mut &stream[..]).unwrap();
    assert_eq!(hash.hash(), image.measure());
}

#[test]
fn round_trip_through_a_file() {
    let Some(mut image) = image() else { return };
    image.sigstruct = Some([7; 1808]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    image.save(&path).unwrap();
    assert_eq!(Image::load(&path).unwrap(), image);
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 2 << 20, "{size}");
    assert!(matches!(Image::load(&directory.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn most_sites_are_rewritten() {
    let Some(image) = image() else { return };
    let summary = describe(&image);
    eprintln!("{:?}", summary.sites);
    for trap in &summary.traps {
        eprintln!("{:#x} {} {:?}: {}", trap.address, trap.symbol, trap.number, trap.why);
    }
    assert!(summary.sites.found > 100);
    assert!(summary.sites.trap * 20 < summary.sites.found, "{:?}", summary.sites);
    assert!(image.report.sites.iter().any(|site| site.symbol.contains("syscall") && !matches!(site.form, Form::Trap(_))));
}

/// An ordinary executable with the image's pages, started at the stand-in's entry. Its trampolines call the stand-in too.
fn executable(image: &Image) -> Vec<u8> {
    let entry =
        image.pages().find(|page| page.secinfo == 0x100).map(|page| sgx_isa::Tcs::try_copy_from(page.data).unwrap().oentry).unwrap();
    let mut headers: Vec<u8> = Vec::new();
    let mut file = vec![0; PAGE_SIZE as usize];
    for run in &image.pages {
        let PageKind::Regular { r, w, x } = run.kind else { continue };
        let flags = u32::from(r) << 2 | u32::from(w) << 1 | u32::from(x);
        headers.extend_from_slice(&1u32.to_le_bytes());
        headers.extend_from_slice(&flags.to_le_bytes());
        let (address, size) = (ELRANGE_BASE + run.offset, run.count * PAGE_SIZE);
        for value in [file.len() as u64, address, address, size, size, PAGE_SIZE] {
            headers.extend_from_slice(&value.to_le_bytes());
        }
        for page in run.pages() {
            file.extend_from_slice(page.data);
        }
    }
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    file[24..32].copy_from_slice(&(ELRANGE_BASE + entry).to_le_bytes());
    file[32..40].copy_from_slice(&64u64.to_le_bytes());
    file[52..58].copy_from_slice(&[64, 0, 56, 0, (headers.len() / 56) as u8, 0]);
    file[64..64 + headers.len()].copy_from_slice(&headers);
    file
}

/// Runs an image's payload as an ordinary process; gives its status and output.
fn run(image: &Image, path: &Path) -> (Option<i32>, String) {
    std::fs::write(path, executable(image)).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(path).output().unwrap();
    (output.status.code(), format!("{} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn rewritten_code_runs() {
    let directory = tempfile::tempdir().unwrap();
    let Some((libos, payload)) = common::programs(directory.path()) else { return };
    let plain = Image::build(&ImageConfig { rewrite: false, tcs_count: 1, ..config() }, &libos, &payload).unwrap();
    let (status, output) = run(&plain, &directory.path().join("plain"));
    assert_eq!(status, Some(0), "not rewritten: {output}");
    let rewritten = Image::build(&ImageConfig { tcs_count: 1, ..config() }, &libos, &payload).unwrap();
    for _ in 0..20 {
        let (status, output) = run(&rewritten, &directory.path().join("rewritten"));
        assert_eq!(status, Some(77), "rewritten: {output}");
        assert!(output.contains("all right"), "{output}");
    }
}

#[test]
fn rewritten_rust_code_runs() {
    let directory = tempfile::tempdir().unwrap();
    let Some((libos, _)) = common::programs(directory.path()) else { return };
    let Some(payload) = common::rust_program(directory.path()) else { return };
    let image = Image::build(&ImageConfig { tcs_count: 1, ..config() }, &libos, &payload).unwrap();
    eprintln!("{:?}", describe(&image).sites);
    for _ in 0..5 {
        let (status, output) = run(&image, &directory.path().join("rewritten"));
        assert_eq!(status, Some(77), "{output}");
        assert!(output.contains("all right"), "{output}");
    }
}

#[test]
fn programs_that_do_not_fit_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let Some((libos, payload)) = common::programs(directory.path()) else { return };
    let refused = |libos: &[u8], payload: &[u8]| Image::build(&config(), libos, payload).unwrap_err().to_string();
    assert!(refused(&libos, b"#!/bin/sh").contains("payload ELF file is refused: not a 64-bit ELF"));
    assert!(refused(&payload, &payload).contains("R_X86_64_IRELATIVE; only R_X86_64_RELATIVE"));
    let libos_source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libos.s");
    if let Some(stripped) = common::compile(&libos_source, &directory.path().join("stripped"), &["-nostdlib", "-static-pie", "-s"]) {
        assert!(refused(&stripped, &payload).contains("no symbol teemate_entry"));
    }
    assert!(refused(&libos, &payload[..payload.len() / 2]).contains("truncated"));
    let source = directory.path().join("small.c");
    std::fs::write(&source, "int main(void) { return 0; }").unwrap();
    if let Some(dynamic) = common::compile(&source, &directory.path().join("dynamic"), &[]) {
        assert!(refused(&libos, &dynamic).contains("dynamically linked"));
    }
    if let Some(fixed) = common::compile(&source, &directory.path().join("fixed"), &["-static", "-no-pie"]) {
        assert!(refused(&libos, &fixed).contains("not position-independent"));
    }
    let mut arm = payload.clone();
    arm[18] = 183;
    assert!(refused(&libos, &arm).contains("another processor"));
}

#[test]
fn damaged_elf_files_never_panic() {
    let directory = tempfile::tempdir().unwrap();
    let Some((libos, _)) = common::programs(directory.path()) else { return };
    // The small one: every byte of its headers, and every truncation.
    for at in 0..libos.len().min(0x400) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = libos.clone();
            bytes[at] = value;
            let _ = Image::build(&config(), &bytes, &bytes);
        }
    }
    for length in (0..libos.len()).step_by(7) {
        let _ = Image::build(&config(), &libos[..length], &libos[..length]);
    }
}

#[test]
fn noise_in_elf_files_never_panics() {
    let directory = tempfile::tempdir().unwrap();
    let Some((libos, payload)) = common::programs(directory.path()) else { return };
    // Few and many changes, anywhere: code, relocations, symbols, unwind tables. xorshift64, so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let rounds = std::env::var("TEEMATE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30);
    for round in 0..rounds {
        let mut bytes = payload.clone();
        // Every third time only the headers, where one change does most.
        let most = if round % 3 == 0 { 0x300 } else { bytes.len() };
        for _ in 0..1 << (round % 12) {
            let at = random() % most;
            bytes[at] = random() as u8;
        }
        if let Ok(image) = Image::build(&config(), &libos, &bytes) {
            image.check().unwrap();
        }
    }
}
