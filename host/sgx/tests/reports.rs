//! EREPORT and EGETKEY, called from inside; MRENCLAVE and SIGSTRUCT at EINIT.
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use common::{DATA, act, attach, build, in_child, simulator};
use teemate_sgx::simulator::keys;
use teemate_sgx::{Attachment, BuildOptions, Enclave, Error, Exit, Thread};

/// Within the data page: the block of `act::LEAF`, then operands.
const BLOCK: u64 = DATA + 0x900;
const REQUEST: u64 = DATA + 0x1000;
const REPORT_DATA: u64 = DATA + 0x1200;
const OUTPUT: u64 = DATA + 0x1400;
const KEY: u64 = DATA + 0x1600;

/// The simulator protects nothing: a test may write where only the enclave should.
fn poke(address: u64, bytes: &[u8]) {
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
}

fn peek(address: u64, length: usize) -> Vec<u8> {
    unsafe { std::slice::from_raw_parts(address as *const u8, length) }.to_vec()
}

fn leaf(thread: &Thread<'_>, leaf: u64, rbx: u64, rcx: u64, rdx: u64) -> Result<(u64, bool), Exit> {
    for (index, value) in [0, rbx, rcx, rdx].into_iter().enumerate() {
        poke(BLOCK + index as u64 * 8, &value.to_le_bytes());
    }
    match thread.enter(act::LEAF, BLOCK, leaf).unwrap() {
        Exit::Exit { reason: 82, argument } => {
            let flags = u64::from_le_bytes(*peek(BLOCK + 32, 8).first_chunk().unwrap());
            Ok((argument, flags & 0x40 != 0))
        }
        other => Err(other),
    }
}

fn get_key(thread: &Thread<'_>, request: &[u8; 512]) -> Result<Vec<u8>, u64> {
    poke(REQUEST, request);
    match leaf(thread, 1, REQUEST, KEY, 0).unwrap() {
        (0, false) => Ok(peek(KEY, 16)),
        (code, true) => Err(code),
        other => panic!("{other:?}"),
    }
}

fn with_thread(gate: bool, work: impl FnOnce(&dyn Enclave, &Attachment, &Thread<'_>)) {
    let (enclave, _dir) = build(gate);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        work(&enclave, &attachment, &thread);
    });
}

#[test]
fn a_report_verifies_with_the_targets_key() {
    for gate in [true, false] {
        with_thread(gate, |enclave, _, thread| {
            // The enclave is its own target.
            let mut target = [0u8; 512];
            target[..32].copy_from_slice(&enclave.mrenclave());
            poke(REQUEST, &target);
            poke(REPORT_DATA, &[0x5a; 64]);
            leaf(thread, 0, REQUEST, REPORT_DATA, OUTPUT).unwrap();
            let first = peek(OUTPUT, 432);
            assert_eq!(first[64..96], enclave.mrenclave());
            assert_eq!(first[320..384], [0x5a; 64]);
            // The target's attributes are part of its key: take them from the report.
            target[32..48].copy_from_slice(&first[48..64]);
            target[52..56].copy_from_slice(&first[16..20]);
            poke(REQUEST, &target);
            leaf(thread, 0, REQUEST, REPORT_DATA, OUTPUT).unwrap();
            let report = peek(OUTPUT, 432);
            let mut request = [0u8; 512];
            request[0] = 3;
            request[40..72].copy_from_slice(&report[384..416]);
            let key = get_key(thread, &request).unwrap();
            assert_eq!(keys::aes_cmac(key[..].try_into().unwrap(), &report[..384]), report[416..432]);
            // Not with the attributes left out.
            assert_ne!(first[416..432], report[416..432]);
            // The same bytes as an independent crate reads them.
            let parsed = sgx_isa::Report::try_copy_from(&report).unwrap();
            assert_eq!(parsed.mrenclave, enclave.mrenclave());
            assert_eq!(parsed.keyid, report[384..416]);
            assert_eq!(parsed.reportdata, [0x5a; 64]);
            assert_eq!(parsed.mac, report[416..432]);
        });
    }
}

#[test]
fn sealing_keys() {
    with_thread(true, |_, _, thread| {
        let mut request = [0u8; 512];
        request[0] = 4;
        request[2] = 1;
        request[24..40].fill(0xff);
        let key = get_key(thread, &request).unwrap();
        assert_eq!(get_key(thread, &request).unwrap(), key);
        let changed = |at: usize, value: u8| {
            let mut other = request;
            other[at] = value;
            get_key(thread, &other)
        };
        assert_ne!(changed(40, 1).unwrap(), key, "KEYID");
        assert_ne!(changed(2, 2).unwrap(), key, "policy");
        assert_eq!(changed(4, 1), Err(keys::code::INVALID_ISVSVN));
        assert_eq!(changed(8, 0xff), Err(keys::code::INVALID_CPUSVN));
        assert_eq!(changed(0, 9), Err(keys::code::INVALID_KEYNAME));
        assert_eq!(changed(0, 0), Err(keys::code::INVALID_ATTRIBUTE), "launch key");
        assert_eq!(changed(0, 1), Err(keys::code::INVALID_ATTRIBUTE), "provisioning key");
        // Reserved: #GP.
        let mut other = request;
        other[100] = 1;
        poke(REQUEST, &other);
        assert!(matches!(leaf(thread, 1, REQUEST, KEY, 0), Err(Exit::Exception { vector: 13, .. })));
    });
}

#[test]
fn operands_are_checked() {
    for gate in [true, false] {
        for (number, rbx, rcx, rdx, vector) in [
            // Alignment, outside ELRANGE, not writable, no such leaf, EENTER inside.
            (0, REQUEST + 8, REPORT_DATA, OUTPUT, 13),
            (0, 0x2000_0000_0000, REPORT_DATA, OUTPUT, 13),
            (0, REQUEST, REPORT_DATA, common::CODE, 14),
            (5, REQUEST, common::HEAP + 8, 0, 13),
            (9, 0, 0, 0, 13),
            (2, 0, 0, 0, 13),
        ] {
            with_thread(gate, |_, _, thread| match leaf(thread, number, rbx, rcx, rdx) {
                Err(Exit::Exception { vector: came, .. }) => assert_eq!(came, vector, "leaf {number}"),
                other => panic!("leaf {number}: {other:?}"),
            });
        }
    }
}

#[test]
fn the_measurement_is_the_images() {
    for gate in [true, false] {
        let (enclave, _dir) = build(gate);
        assert_eq!(enclave.mrenclave(), common::image().measure());
    }
}

#[test]
fn an_unsigned_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = teemate_sgx::simulator::SimulatorOptions::new(dir.path());
    let strict = teemate_sgx::simulator::Simulator::new(options).unwrap();
    let refused = strict.build_enclave(&common::image(), &BuildOptions::default()).err().unwrap();
    assert!(matches!(&refused, Error::Image(why) if why.contains("SIGSTRUCT")), "{refused}");
    let (lenient, _dir) = simulator(true);
    let mut image = common::image();
    image.sigstruct = Some([0; 1808]);
    let refused = lenient.build_enclave(&image, &BuildOptions::default()).err().unwrap();
    assert!(matches!(&refused, Error::Image(_)), "{refused}");
}
