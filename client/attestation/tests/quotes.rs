//! Quotes against policies: simulated ones changed in each byte, and one of a real processor.
#![allow(clippy::unwrap_used)]

mod common;

use common::{DEBUG, Enclave, MRENCLAVE, MRSIGNER, PRODUCT, SVN, body, platform, policy, quote};
use dcap_qvl::TcbStatus;
use teemate_attestation::document::Freshness;
use teemate_attestation::{Accepted, Collateral, Document, Identity, Policy, Refusal, describe, verify};
use teemate_evidence::SecretKey;
use teemate_evidence::quote::Quote;
use teemate_evidence::simulation::{self, Platform};

const NOW: u64 = 1_790_000_000;
const DATA: [u8; 64] = [0xda; 64];

fn judge(quote: &[u8], policy: &Policy) -> Result<teemate_attestation::Verified, Refusal> {
    verify(quote, None, policy, NOW)
}

fn collateral(made: &simulation::Collateral) -> Collateral {
    Collateral::from_json(&made.json()).unwrap()
}

#[test]
fn a_simulated_quote_says_what_the_report_said() {
    let verified = judge(&quote(&DATA), &policy()).unwrap();
    assert!(verified.simulation && !verified.debug);
    assert_eq!((verified.mrenclave, verified.mrsigner), (MRENCLAVE, MRSIGNER));
    assert_eq!((verified.isv_prod_id, verified.isv_svn), (PRODUCT, SVN));
    assert_eq!((verified.report_data, verified.accepted), (DATA, Accepted::Mrenclave));
    assert_eq!((verified.tcb_status, verified.cpu_svn), (TcbStatus::UpToDate, simulation::CPUSVN));
    let text = describe(&verified).to_string();
    assert!(text.starts_with("WARNING     SIMULATION"), "{text}");
}

#[test]
fn a_simulated_quote_is_refused_by_name_unless_the_policy_takes_it() {
    let strict = Policy { insecure_simulation: false, ..policy() };
    let refusal = judge(&quote(&DATA), &strict).unwrap_err();
    assert!(matches!(refusal, Refusal::Simulation));
    let text = refusal.to_string();
    assert!(text.contains("simulated quote") && text.contains("insecure_simulation = true"), "{text}");
}

#[test]
fn each_changed_byte_is_refused() {
    let good = quote(&DATA);
    let collateral = collateral(&simulation::Collateral::new(NOW));
    let judge = |quote: &[u8], policy: &Policy| verify(quote, Some(&collateral), policy, NOW);
    let expected = judge(&good, &policy()).unwrap();
    let parsed = Quote::parse(&good).unwrap();
    let chain = good.len() - parsed.certification.len();
    for at in 0..chain {
        let mut other = good.clone();
        other[at] ^= 1 << (at % 8);
        assert!(judge(&other, &policy()).is_err(), "byte {at}");
    }
    // The chain has bytes on which nothing depends: the root that comes along, since the verifier has its own, and the text around PEM.
    // A change there is refused, or changes nothing of what is said.
    for at in (chain..good.len()).step_by(11) {
        let mut other = good.clone();
        other[at] ^= 1;
        match judge(&other, &policy()) {
            Err(_) => {}
            Ok(verified) => assert_eq!(verified, expected, "byte {at}"),
        }
    }
    // Of the two certificates that matter, each letter matters.
    let text = std::str::from_utf8(parsed.certification).unwrap();
    let (root, _) = text.match_indices("-----BEGIN").nth(2).unwrap();
    let mut line = 0;
    for part in text[..root].split_inclusive('\n') {
        if !part.starts_with("-----") {
            let at = chain + line + line % (part.len() - 1);
            let mut other = good.clone();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert!(judge(&other, &policy()).is_err(), "byte {at}, in the chain");
        }
        line += part.len();
    }
    for length in [0, 1, 47, 48, 431, 432, 436, 1011, good.len() - 1] {
        assert!(judge(&good[..length], &policy()).is_err(), "cut to {length}");
    }
    assert!(judge(&[&good[..], b"x"].concat(), &policy()).is_err());
}

#[test]
fn an_unmarked_simulated_quote_is_measured_against_intels_root() {
    // Who hides the mark has no signature for the header. Who could sign would meet Intel's root.
    let mut hidden = quote(&DATA);
    hidden[28..44].fill(0);
    let given = collateral(&simulation::Collateral::new(NOW));
    let refusal = verify(&hidden, Some(&given), &policy(), NOW).unwrap_err();
    assert!(matches!(refusal, Refusal::NotGenuine(_)), "{refusal}");
    assert!(matches!(judge(&hidden, &policy()), Err(Refusal::NoCollateral)));
}

#[test]
fn parts_of_two_platforms_do_not_make_a_quote() {
    let (ours, theirs) = (quote(&DATA), Platform::new(&[1; 32]).quote(&body(0, &DATA)));
    assert!(judge(&theirs, &policy()).is_ok());
    for range in [436..500, 500..564, 564..948, 948..1012, 436..1012] {
        let mut mixed = ours.clone();
        mixed[range.clone()].copy_from_slice(&theirs[range.clone()]);
        assert!(judge(&mixed, &policy()).is_err(), "{range:?}");
    }
    // All of their signatures under our body.
    let mut mixed = theirs.clone();
    mixed[48..432].copy_from_slice(&body(0, &[1; 64]));
    assert!(judge(&mixed, &policy()).is_err());
}

#[test]
fn what_the_policy_does_not_name_is_refused_with_what_was_found() {
    let with = |identity| judge(&quote(&DATA), &Policy { enclaves: vec![identity], ..policy() });
    let signer = |mrsigner, product, min_svn| Identity::Signer { mrsigner, product, min_svn };
    assert_eq!(with(signer(MRSIGNER, PRODUCT, SVN)).unwrap().accepted, Accepted::Signer);
    assert_eq!(with(signer(MRSIGNER, PRODUCT, 0)).unwrap().accepted, Accepted::Signer);
    for (identity, hint) in [
        (Identity::Enclave { mrenclave: [0; 32] }, "e1e1e1e1"),
        (signer([0; 32], PRODUCT, SVN), "51515151"),
        (signer(MRSIGNER, PRODUCT + 1, SVN), "accepts product 2"),
        (signer(MRSIGNER, PRODUCT, SVN + 1), "accepts versions from 4 on"),
    ] {
        let refusal = with(identity).unwrap_err();
        assert!(matches!(refusal, Refusal::Enclave { .. }));
        assert!(refusal.to_string().contains(hint), "{refusal}");
    }
}

#[test]
fn debug_enclaves_need_a_policy_that_says_so() {
    let quote = platform().quote(&body(DEBUG, &DATA));
    assert!(matches!(judge(&quote, &policy()), Err(Refusal::Debug)));
    assert!(judge(&quote, &Policy { debug: true, ..policy() }).unwrap().debug);
}

#[test]
fn the_platforms_state_is_the_policys_to_judge() {
    let quote = quote(&DATA);
    let state = |status, advisories: &[&str]| collateral(&simulation::Collateral::new(NOW).status(status, advisories));
    let with = |given: &Collateral, policy: &Policy| verify(&quote, Some(given), policy, NOW);
    let outdated = state("OutOfDate", &["SIM-SA-1", "SIM-SA-2"]);
    let refusal = with(&outdated, &policy()).unwrap_err();
    assert!(matches!(&refusal, Refusal::TcbStatus { advisories, .. } if advisories.len() == 2), "{refusal}");
    let tolerant = Policy { tcb_status: vec![TcbStatus::UpToDate, TcbStatus::OutOfDate], ..policy() };
    let refusal = with(&outdated, &tolerant).unwrap_err();
    assert!(matches!(&refusal, Refusal::Advisory { advisories, .. } if advisories.len() == 2), "{refusal}");
    let knowing = Policy { advisories: vec!["SIM-SA-1".into(), "SIM-SA-2".into()], ..tolerant };
    assert_eq!(with(&outdated, &knowing).unwrap().tcb_status, TcbStatus::OutOfDate);
    let everything = Policy { tcb_status: vec![TcbStatus::Revoked], ..knowing };
    assert!(matches!(with(&state("Revoked", &[]), &everything), Err(Refusal::NotGenuine(why)) if why.contains("Revoked")));
}

#[test]
fn revoked_expired_early_and_foreign_collateral_is_refused() {
    let quote = quote(&DATA);
    let with = |made: simulation::Collateral, now| verify(&quote, Some(&collateral(&made)), &policy(), now);
    let not_genuine = |made, now, hint: &str| match with(made, now) {
        Err(Refusal::NotGenuine(why)) => assert!(why.contains(hint), "{why}"),
        other => panic!("{hint}: {other:?}"),
    };
    let today = || simulation::Collateral::new(NOW);
    assert!(with(today(), NOW).is_ok());
    not_genuine(today().revoke(&platform()), NOW, "Revoked");
    not_genuine(today(), NOW + 31 * 86_400, "xpired");
    not_genuine(today(), NOW - 2 * 86_400, "future");
    // Collateral of another family of processors is not taken for the simulation's: its own is made.
    assert!(with(today().fmspc([9; 6]), NOW).is_ok());
    // Old, though it has not ended yet.
    let long = || today().expires(NOW + 1000 * 86_400);
    assert!(with(long(), NOW + 29 * 86_400).is_ok());
    assert!(matches!(with(long(), NOW + 31 * 86_400), Err(Refusal::StaleCollateral { age_days: 31, limit_days: 30 })));
    assert!(matches!(verify(&quote, None, &policy(), 0), Err(Refusal::NotGenuine(_))), "before the certificates begin");
}

#[test]
fn changed_collateral_is_refused() {
    let quote = quote(&DATA);
    let good = simulation::Collateral::new(NOW).status("OutOfDate", &[]).json();
    let tolerant = Policy { tcb_status: vec![TcbStatus::OutOfDate, TcbStatus::UpToDate], ..policy() };
    let judge = |value: &serde_json::Value| verify(&quote, Some(&Collateral::from_json(value).unwrap()), &tolerant, NOW);
    assert!(judge(&good).is_ok());
    for (name, from, to) in [
        ("tcb_info", "OutOfDate", "UpToDate"),
        ("tcb_info", "\"pcesvn\":1", "\"pcesvn\":0"),
        ("qe_identity", "UpToDate", "OutOfDate"),
        ("qe_identity", "\"isvprodid\":1", "\"isvprodid\":2"),
    ] {
        let mut other = good.clone();
        let text = other[name].as_str().unwrap();
        assert!(text.contains(from), "{name} has {from}");
        other[name] = text.replace(from, to).into();
        assert!(matches!(judge(&other), Err(Refusal::NotGenuine(_))), "{name}");
    }
    for name in ["tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"] {
        let mut other = good.clone();
        let mut text = other[name].as_str().unwrap().to_owned().into_bytes();
        let last = text.len() - 1;
        text[last] = if text[last] == b'0' { b'1' } else { b'0' };
        other[name] = String::from_utf8(text).unwrap().into();
        assert!(judge(&other).is_err(), "{name}");
    }
    // A list of the wrong authority, and certificates that are not the signers'.
    let mut other = good.clone();
    other["pck_crl"] = good["root_ca_crl"].clone();
    assert!(judge(&other).is_err());
    let mut other = good.clone();
    other["tcb_info_issuer_chain"] = good["pck_crl_issuer_chain"].clone();
    assert!(judge(&other).is_err());
    // The quote's own chain is the only one.
    let mut other = good.clone();
    other["pck_certificate_chain"] = good["pck_crl_issuer_chain"].clone();
    assert!(matches!(Collateral::from_json(&other), Err(Refusal::BadCollateral(_))));
    assert!(matches!(Collateral::from_slice(b"{}"), Err(Refusal::BadCollateral(_))));
}

#[test]
fn a_quote_of_a_real_processor_verifies_against_intels_root() {
    let quote = include_bytes!("samples/sgx_quote");
    let given = Collateral::from_slice(include_bytes!("samples/sgx_quote_collateral.json")).unwrap();
    // The collateral ran from 2025-06-19 to 2025-07-19.
    let then = 1_750_400_000;
    let mrenclave = Quote::parse(quote).unwrap().body.mrenclave();
    let mut policy = Policy::strict(vec![Identity::Enclave { mrenclave }]);
    let refusal = verify(quote, Some(&given), &policy, then).unwrap_err();
    let Refusal::TcbStatus { status, advisories, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!(status, "ConfigurationAndSWHardeningNeeded");
    policy.tcb_status.push(TcbStatus::ConfigurationAndSWHardeningNeeded);
    policy.advisories = advisories.clone();
    let verified = verify(quote, Some(&given), &policy, then).unwrap();
    assert!(!verified.simulation);
    assert_eq!((verified.mrenclave, verified.fmspc), (mrenclave, [0, 0xa0, 0x67, 0x11, 0, 0]));
    assert!(describe(&verified).to_string().contains("Intel's SGX root"));
    // A policy for simulations does not loosen what real quotes must satisfy.
    policy.insecure_simulation = true;
    assert!(verify(quote, Some(&given), &policy, then).is_ok());
    assert!(matches!(verify(quote, None, &policy, then), Err(Refusal::NoCollateral)));
    assert!(matches!(verify(quote, Some(&given), &policy, then + 40 * 86_400), Err(Refusal::NotGenuine(_))), "expired");
    let foreign = collateral(&simulation::Collateral::new(then));
    assert!(matches!(verify(quote, Some(&foreign), &policy, then), Err(Refusal::NotGenuine(_))), "the simulation's collateral");
    for at in (0..1046).step_by(17) {
        let mut other = quote.to_vec();
        other[at] ^= 0x10;
        assert!(verify(&other, Some(&given), &policy, then).is_err(), "byte {at}");
    }
}

#[test]
fn documents_are_recognised_and_verified_offline() {
    let enclave = Enclave::new();
    let check = |bytes: &[u8], nonce: Option<&[u8; 32]>| Document::parse(bytes).unwrap().verify(None, &policy(), nonce, NOW);
    let kinds = [
        (quote(&DATA), "quote"),
        ([quote(&DATA), vec![0; 100]].concat(), "quote"),
        (enclave.certificate(), "certificate"),
        (teemate_evidence::certificate::pem(&enclave.certificate()).into_bytes(), "certificate"),
        (serde_json::to_vec(&enclave.attest([4; 32])).unwrap(), "attestation answer"),
        (serde_json::to_vec_pretty(&enclave.bundle()).unwrap(), "receipt"),
    ];
    for (bytes, kind) in &kinds {
        assert_eq!(Document::parse(bytes).unwrap().kind(), *kind);
        let findings = check(bytes, None).unwrap();
        assert_eq!(findings.freshness, Freshness::Unknown);
        assert_eq!(findings.receipt.is_some(), *kind == "receipt");
        let fresh = check(bytes, Some(&[4; 32]));
        assert_eq!(fresh.is_ok(), *kind == "attestation answer", "{kind}");
        assert!(check(bytes, Some(&[5; 32])).is_err());
    }
    for wrong in [&b""[..], b"{}", b"{\"receipt\":1}", b"\x03\x00", b"\x30\x82\x00\x00", b"hello", b"-----BEGIN CERTIFICATE-----\n"] {
        assert!(
            Document::parse(wrong)
                .and_then(|document| document.verify(None, &policy(), None, NOW).map_err(|_| teemate_evidence::Error::Mismatch("refused")))
                .is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn bundles_and_answers_with_foreign_parts_are_refused() {
    let (ours, theirs) = (Enclave::new(), Enclave { receipts: Enclave::new().tls, ..Enclave::new() });
    let bundle = |change: &dyn Fn(&mut teemate_evidence::api::ReceiptBundle)| {
        let mut bundle = ours.bundle();
        change(&mut bundle);
        Document::Receipt(Box::new(bundle)).verify(None, &policy(), None, NOW)
    };
    assert!(bundle(&|_| {}).is_ok());
    // Somebody else's receipt, with a quote of ours; with their key named; with their quote as well, which their enclave would have to be
    // accepted for: that is a good bundle of another enclave.
    assert!(bundle(&|b| b.receipt = theirs.bundle().receipt).is_err());
    assert!(bundle(&|b| (b.receipt, b.binding) = (theirs.bundle().receipt, theirs.bundle().binding)).is_err());
    assert!(bundle(&|b| b.quote = quote(&DATA)).is_err());
    assert!(bundle(&|b| (b.quote, b.binding) = (ours.attest([1; 32]).quote, ours.attest([1; 32]).binding)).is_err());
    assert!(bundle(&|b| *b = theirs.bundle()).is_ok());
    let mut answer = ours.attest([1; 32]);
    answer.binding.nonce = Some([2; 32]);
    assert!(Document::Answer(Box::new(answer)).verify(None, &policy(), Some(&[2; 32]), NOW).is_err(), "a nonce that was not quoted");
}

#[test]
fn a_certificate_with_anothers_quote_is_refused() {
    let enclave = Enclave::new();
    let other = SecretKey::from_bytes(&[0x31; 32]).unwrap();
    // The host takes the enclave's quote for a key of its own.
    let stolen = teemate_evidence::certificate::self_signed(&other, &enclave.evidence().encode(), &[], 0, 4_000_000_000);
    let refusal = Document::parse(&stolen).unwrap().verify(None, &policy(), None, NOW).unwrap_err();
    assert!(refusal.to_string().contains("another key"), "{refusal}");
    // It changes the claims to fit its key: then they do not fit the quote.
    let claims = teemate_evidence::extension::Claims::new(&other.public().spki()).encode();
    let forged = teemate_evidence::extension::Evidence { claims, ..enclave.evidence() };
    let forged = teemate_evidence::certificate::self_signed(&other, &forged.encode(), &[], 0, 4_000_000_000);
    assert!(Document::parse(&forged).unwrap().verify(None, &policy(), None, NOW).is_err());
    let without = teemate_evidence::certificate::self_signed(&other, b"", &[], 0, 4_000_000_000);
    assert!(Document::parse(&without).is_err());
}
