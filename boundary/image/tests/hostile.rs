//! Files that are truncated, changed or made by an attacker: an error that says what is wrong, never a panic.

#![allow(clippy::unwrap_used)]

use std::mem::offset_of;

use proptest::prelude::*;
use teemate_abi::layout::{ELRANGE_BASE, EnclaveInfo, PAGE_SIZE};
use teemate_image::{
    Attributes, Content, Image, PageKind, PageRun,
    rewrite::{Form, Report, Site},
};

/// A small image that keeps all rules, without any program.
fn small() -> Image {
    let page = PAGE_SIZE as usize;
    let mut info = vec![0; page];
    let tcs_start = ELRANGE_BASE + 8 * PAGE_SIZE;
    let heap_start = ELRANGE_BASE + 64 * PAGE_SIZE;
    let elrange_size = 1u64 << 24;
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(EnclaveInfo, magic), &teemate_abi::layout::INFO_MAGIC.to_le_bytes());
    put(offset_of!(EnclaveInfo, abi_version), &teemate_abi::ABI_VERSION.to_le_bytes());
    put(offset_of!(EnclaveInfo, tcs_count), &1u32.to_le_bytes());
    put(offset_of!(EnclaveInfo, elrange_size), &elrange_size.to_le_bytes());
    put(offset_of!(EnclaveInfo, tcs_start), &tcs_start.to_le_bytes());
    put(offset_of!(EnclaveInfo, heap_start), &heap_start.to_le_bytes());
    let mut code = vec![0xcc; page];
    code[64..80].copy_from_slice(&teemate_abi::layout::ENCLU_GATE_BYTES);
    let run = |offset, count, kind, content| PageRun { offset: offset * PAGE_SIZE, count, kind, content };
    let image = Image {
        elrange_size,
        ssa_frame_pages: 1,
        pages: vec![
            run(0, 1, PageKind::READ, Content::Bytes(info)),
            run(8, 1, PageKind::Tcs, Content::Bytes(vec![0; page])),
            run(9, 6, PageKind::READ_WRITE, Content::Zero),
            run(20, 1, PageKind::READ_EXECUTE, Content::Bytes(code)),
            run(30, 2, PageKind::READ, Content::Bytes(vec![5; 2 * page])),
        ],
        gate: ELRANGE_BASE + 20 * PAGE_SIZE + 64,
        tcs_start,
        tcs_count: 1,
        heap_start,
        attributes: Attributes { flags: 4, xfrm: 3 },
        miscselect: 1,
        isv_prod_id: 1,
        isv_svn: 2,
        report: Report { sites: vec![Site { address: 1, symbol: "f".into(), number: Some(3), form: Form::Trap("why".into()) }] },
        sigstruct: Some([1; 1808]),
    };
    image.check().unwrap();
    image
}

/// The error for a changed image.
fn refused(change: impl FnOnce(&mut Image)) -> String {
    let mut image = small();
    change(&mut image);
    let error = image.check().unwrap_err().to_string();
    // What is refused in memory is refused in a file.
    assert_eq!(Image::from_bytes(&image.to_bytes().unwrap()).unwrap_err().to_string(), error);
    error
}

#[test]
fn round_trip() {
    let image = small();
    assert_eq!(Image::from_bytes(&image.to_bytes().unwrap()).unwrap(), image);
}

#[test]
fn rules() {
    assert!(refused(|image| image.elrange_size += 1).contains("power of two"));
    assert!(refused(|image| image.tcs_count = 2).contains("TCS pages"));
    assert!(refused(|image| image.tcs_count = 0).contains("tcs_count"));
    assert!(refused(|image| image.ssa_frame_pages = 2).contains("SSA"));
    assert!(refused(|image| image.attributes.flags = 4 | 16).contains("attributes"));
    assert!(refused(|image| image.attributes.xfrm = 3 | 1 << 18).contains("XFRM"));
    assert!(refused(|image| image.miscselect = 3).contains("MISCSELECT"));
    assert!(refused(|image| image.gate += 16).contains("gate"));
    assert!(refused(|image| image.heap_start = ELRANGE_BASE).contains("dynamic range"));
    assert!(refused(|image| image.heap_start += PAGE_SIZE).contains("EnclaveInfo says otherwise"));
    assert!(refused(|image| image.tcs_start += PAGE_SIZE).contains("wrong place"));
    assert!(refused(|image| image.pages[4].offset = 20 * PAGE_SIZE).contains("overlap"));
    assert!(refused(|image| image.pages[4].offset += 1).contains("aligned"));
    assert!(refused(|image| image.pages[4].offset = image.elrange_size - PAGE_SIZE).contains("beyond ELRANGE"));
    assert!(refused(|image| image.pages[4].offset = u64::MAX - 4095).contains("beyond ELRANGE"));
    assert!(refused(|image| image.pages[2].count = 0).contains("none"));
    assert!(refused(|image| image.pages[4].kind = PageKind::Regular { r: true, w: true, x: true }).contains("writable and executable"));
    assert!(refused(|image| image.pages[4].kind = PageKind::Regular { r: false, w: true, x: false }).contains("not readable"));
    assert!(refused(|image| image.pages[0].content = Content::Zero).contains("EnclaveInfo"));
}

#[test]
fn messages_of_broken_files() {
    let said = |bytes: &[u8]| Image::from_bytes(bytes).unwrap_err().to_string();
    let good = small().to_bytes().unwrap();
    assert!(said(b"").contains("magic"));
    assert!(said(b"\x7fELF").contains("magic"));
    assert!(said(&good[..14]).contains("truncated in its header"));
    assert!(said(&good[..100]).contains("truncated in its metadata"));
    assert!(said(&good[..good.len() - 1]).contains("truncated in the content"));
    assert!(said(&[&good[..], b"x"].concat()).contains("1 bytes follow"));
    let mut other = good.clone();
    other[8] = 9;
    assert!(said(&other).contains("version 9"));
    other[8] = 1;
    other[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(said(&other).contains("metadata has 4294967295 bytes"));
}

#[test]
fn every_truncation() {
    let good = small().to_bytes().unwrap();
    for length in 0..good.len() {
        assert!(Image::from_bytes(&good[..length]).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small().to_bytes().unwrap();
        // Mostly the metadata: the rest is content, where everything is allowed.
        for (index, value) in changes {
            let at = index.index(2400.min(bytes.len()));
            bytes[at] = value;
        }
        if let Ok(image) = Image::from_bytes(&bytes) {
            image.check().unwrap();
            prop_assert_eq!(Image::from_bytes(&image.to_bytes().unwrap()).unwrap(), image);
        }
    }

    #[test]
    fn noise_never_panics(metadata in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = b"TMIMAGE\0\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&metadata);
        prop_assert!(Image::from_bytes(&bytes).is_err());
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_survive_a_file(counts in prop::collection::vec((1u64..4, any::<bool>(), any::<u8>()), 0..12)) {
        let mut image = small();
        let mut offset = 40 * PAGE_SIZE;
        for (count, zero, fill) in counts {
            let content = if zero { Content::Zero } else { Content::Bytes(vec![fill; (count * PAGE_SIZE) as usize]) };
            image.pages.push(PageRun { offset, count, kind: PageKind::READ_WRITE, content });
            offset += count * PAGE_SIZE;
        }
        prop_assume!(ELRANGE_BASE + offset <= image.heap_start);
        let bytes = image.to_bytes().unwrap();
        let back = Image::from_bytes(&bytes).unwrap();
        prop_assert_eq!(back.measure(), image.measure());
        prop_assert_eq!(back, image);
    }
}
