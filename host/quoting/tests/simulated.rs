//! The simulated quoting enclave, with reports that an enclave really makes by EREPORT.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]

#[path = "../../sgx/tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};

use common::{DATA, act, attach, build, in_child};
use teemate_evidence::quote::Quote;
use teemate_evidence::simulation::{CPUSVN, Platform};
use teemate_quoting::{Error, QuotingService, SimulatedQuotingEnclave};
use teemate_sgx::{Enclave, Exit};

const BLOCK: u64 = DATA + 0x900;
const TARGET: u64 = DATA + 0x1000;
const REPORT_DATA: u64 = DATA + 0x1200;
const OUTPUT: u64 = DATA + 0x1400;

/// What EREPORT makes in an enclave on a machine of its own, and the machine's directory.
fn report(target: &[u8; 512], data: &[u8; 64]) -> ([u8; 432], [u8; 32], tempfile::TempDir) {
    let (enclave, directory) = build(true);
    let (mut reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        // The simulator protects nothing: a test may write where only the enclave should.
        let poke = |address: u64, bytes: &[u8]| unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        poke(TARGET, target);
        poke(REPORT_DATA, data);
        for (index, value) in [0, TARGET, REPORT_DATA, OUTPUT].into_iter().enumerate() {
            poke(BLOCK + index as u64 * 8, &value.to_le_bytes());
        }
        assert!(matches!(thread.enter(act::LEAF, BLOCK, 0).unwrap(), Exit::Exit { reason: 82, .. }));
        writer.write_all(unsafe { std::slice::from_raw_parts(OUTPUT as *const u8, 432) }).unwrap();
    });
    let mut report = [0; 432];
    reader.read_exact(&mut report).unwrap();
    (report, enclave.mrenclave(), directory)
}

#[test]
fn a_report_of_this_machine_becomes_a_quote() {
    let (report, mrenclave, directory) = report(&Platform::target(), &[0x5a; 64]);
    let service = SimulatedQuotingEnclave::new(directory.path()).unwrap();
    assert_eq!(service.target().unwrap(), Platform::target());
    let bytes = service.quote(&report).unwrap();
    let quote = Quote::parse(&bytes).unwrap();
    assert_eq!(quote.body.mrenclave(), mrenclave);
    assert_eq!(quote.body.report_data(), [0x5a; 64]);
    assert_eq!(quote.body.cpu_svn(), CPUSVN, "the processor's and the certificate's");
    assert!(quote.is_marked_as_simulation() && service.is_simulation());
    assert_eq!(SimulatedQuotingEnclave::new(directory.path()).unwrap().quote(&report).unwrap(), bytes, "the same platform");
}

#[test]
fn each_changed_bit_of_a_report_is_refused() {
    let (report, _, directory) = report(&Platform::target(), &[0x5a; 64]);
    let service = SimulatedQuotingEnclave::new(directory.path()).unwrap();
    for bit in 0..432 * 8 {
        let mut other = report;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(service.quote(&other), Err(Error::Report)), "bit {bit}");
    }
}

#[test]
fn reports_for_others_and_of_other_machines_are_refused() {
    let mut target = Platform::target();
    target[0] ^= 1;
    let (for_another, _, directory) = report(&target, &[0; 64]);
    assert!(matches!(SimulatedQuotingEnclave::new(directory.path()).unwrap().quote(&for_another), Err(Error::Report)));
    let (elsewhere, _, _other) = report(&Platform::target(), &[0; 64]);
    assert!(matches!(SimulatedQuotingEnclave::new(directory.path()).unwrap().quote(&elsewhere), Err(Error::Report)));
}
