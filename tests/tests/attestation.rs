//! The whole way of attestation, with the parts that run in production: EREPORT in an enclave of the simulator, the quoting enclave of its
//! machine, and the verifier of a user.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]

#[path = "../../host/sgx/tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use common::{DATA, act, attach, build, in_child};
use teemate_attestation::{Document, Identity, Policy, Refusal, now, verify};
use teemate_evidence::extension::{Claims, Evidence};
use teemate_evidence::{Binding, SecretKey, certificate};
use teemate_quoting::{QuotingService, SimulatedQuotingEnclave};
use teemate_sgx::{Enclave, Exit};

const BLOCK: u64 = DATA + 0x900;
const TARGET: u64 = DATA + 0x1000;
const REPORT_DATA: u64 = DATA + 0x1200;
const OUTPUT: u64 = DATA + 0x1400;

/// An enclave on a machine of its own.
struct Machine {
    enclave: teemate_sgx::simulator::SimulatedEnclave,
    quoting: SimulatedQuotingEnclave,
    _state: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let (enclave, state) = build(true);
        let quoting = SimulatedQuotingEnclave::new(state.path()).unwrap();
        Machine { enclave, quoting, _state: state }
    }

    /// What EREPORT makes inside, for this machine's quoting enclave.
    fn report(&self, data: &[u8; 64]) -> [u8; 432] {
        let target = self.quoting.target().unwrap();
        let (mut reader, mut writer) = UnixStream::pair().unwrap();
        in_child(|| {
            let attachment = attach(&self.enclave);
            let thread = attachment.thread(0).unwrap();
            // The simulator protects nothing: a test may write where only the enclave should.
            let poke = |at: u64, bytes: &[u8]| unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
            poke(TARGET, &target);
            poke(REPORT_DATA, data);
            for (index, value) in [0, TARGET, REPORT_DATA, OUTPUT].into_iter().enumerate() {
                poke(BLOCK + index as u64 * 8, &value.to_le_bytes());
            }
            assert!(matches!(thread.enter(act::LEAF, BLOCK, 0).unwrap(), Exit::Exit { reason: 82, .. }));
            writer.write_all(unsafe { std::slice::from_raw_parts(OUTPUT as *const u8, 432) }).unwrap();
        });
        let mut report = [0; 432];
        reader.read_exact(&mut report).unwrap();
        report
    }

    fn quote(&self, data: &[u8; 64]) -> Vec<u8> {
        self.quoting.quote(&self.report(data)).unwrap()
    }

    fn policy(&self) -> Policy {
        Policy { insecure_simulation: true, ..Policy::strict(vec![Identity::Enclave { mrenclave: self.enclave.mrenclave() }]) }
    }
}

#[test]
fn what_an_enclave_reports_is_what_its_user_verifies() {
    let machine = Machine::new();
    let keys = [SecretKey::from_bytes(&[1; 32]).unwrap(), SecretKey::from_bytes(&[2; 32]).unwrap()];
    let binding = Binding::attest([7; 32], keys[0].public().spki_sha256(), keys[1].public());
    let quote = machine.quote(&binding.report_data());
    let verified = verify(&quote, None, &machine.policy(), now()).unwrap();
    assert_eq!(verified.mrenclave, machine.enclave.mrenclave());
    assert!(verified.simulation && !verified.debug);
    binding.check(&verified.report_data).unwrap();
    let strict = Policy { insecure_simulation: false, ..machine.policy() };
    assert!(matches!(verify(&quote, None, &strict, now()), Err(Refusal::Simulation)));
    let other = Policy { enclaves: vec![Identity::Enclave { mrenclave: [0; 32] }], ..machine.policy() };
    assert!(matches!(verify(&quote, None, &other, now()), Err(Refusal::Enclave { .. })));
}

#[test]
fn a_certificate_with_a_real_reports_quote_verifies() {
    let machine = Machine::new();
    let key = SecretKey::from_bytes(&[1; 32]).unwrap();
    let claims = Claims::new(&key.public().spki());
    let evidence = Evidence { quote: machine.quote(&claims.report_data()), claims: claims.encode() };
    let der = certificate::self_signed(&key, &evidence.encode(), &["localhost"], 1_700_000_000, 4_000_000_000);
    let document = Document::parse(&der).unwrap();
    assert!(document.verify(None, &machine.policy(), None, now()).is_ok());
}

#[test]
fn a_host_that_changes_the_report_gets_no_quote_and_one_that_changes_the_quote_no_user() {
    let machine = Machine::new();
    let report = machine.report(&[5; 64]);
    for at in (0..432).step_by(5) {
        let mut other = report;
        other[at] ^= 1;
        assert!(machine.quoting.quote(&other).is_err(), "byte {at} of the report");
    }
    let quote = machine.quoting.quote(&report).unwrap();
    for at in (0..1046).step_by(7) {
        let mut other = quote.clone();
        other[at] ^= 1;
        assert!(verify(&other, None, &machine.policy(), now()).is_err(), "byte {at} of the quote");
    }
    assert!(verify(&quote, None, &machine.policy(), now()).is_ok());
}
