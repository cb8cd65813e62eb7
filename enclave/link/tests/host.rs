//! The host carries the packets, and does with them what it likes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use teemate_link::testing::FakePlatform;
use teemate_link::{Answerer, LinkError, Opener, Session};

const HERE: FakePlatform = FakePlatform { fuses: [1; 16], mrenclave: [2; 32], mrsigner: [3; 32], isv_svn: 4, debug: false };

fn link(a: &FakePlatform, b: &FakePlatform) -> Result<(Session, Session), LinkError> {
    let (opener, offer) = Opener::new(a)?;
    let (answerer, answer) = Answerer::new(b, &offer)?;
    let (ours, proof) = opener.answered(a, &answer)?;
    Ok((ours, answerer.proved(b, &proof)?))
}

#[test]
fn two_of_one_program_understand_each_other() {
    let (mut a, mut b) = link(&HERE, &HERE).unwrap();
    for n in 0..100u32 {
        let text = vec![n as u8; n as usize * 7];
        let there = a.seal(&text).unwrap();
        assert!(n < 8 || !there.windows(4).any(|part| part == [n as u8; 4]), "in clear");
        assert_eq!(b.open(&there).unwrap(), text);
        let back = b.seal(&text).unwrap();
        assert_ne!(there, back);
        assert_eq!(a.open(&back).unwrap(), text);
    }
}

#[test]
fn debug_enclaves_speak_to_debug_enclaves_alone() {
    let debug = FakePlatform { debug: true, ..HERE };
    assert!(link(&debug, &debug).is_ok());
    assert!(link(&HERE, &debug).is_err() && link(&debug, &HERE).is_err());
}

#[test]
fn strangers_are_refused_by_both_ends() {
    let strangers = [
        FakePlatform { mrenclave: [9; 32], ..HERE },
        FakePlatform { mrsigner: [9; 32], ..HERE },
        FakePlatform { isv_svn: 5, ..HERE },
        FakePlatform { fuses: [9; 16], ..HERE },
    ];
    for stranger in strangers {
        let (opener, offer) = Opener::new(&HERE).unwrap();
        let (_, answer) = Answerer::new(&stranger, &offer).unwrap();
        assert!(matches!(opener.answered(&HERE, &answer), Err(LinkError::Stranger | LinkError::Report)), "{stranger:?}");
        // The stranger would go on whatever the answer says: it has the keys, and no report that does.
        let (opener, offer) = Opener::new(&stranger).unwrap();
        let (answerer, mut answer) = Answerer::new(&HERE, &offer).unwrap();
        assert!(opener.answered(&stranger, &answer).is_err());
        answer[0] = 3;
        let report = [&[3][..], &answer[answer.len() - 432..]].concat();
        assert!(answerer.proved(&HERE, &report).is_err(), "{stranger:?}");
    }
}

#[test]
fn a_report_of_another_conversation_or_role_is_none_of_this_one() {
    // The answer of a third enclave of the same program, to another offer.
    let (opener, _) = Opener::new(&HERE).unwrap();
    let (_, other_offer) = Opener::new(&HERE).unwrap();
    let (_, answer) = Answerer::new(&HERE, &other_offer).unwrap();
    assert!(matches!(opener.answered(&HERE, &answer), Err(LinkError::Report)));
    // The report relayed with the host's own key in place of the enclave's.
    let (opener, offer) = Opener::new(&HERE).unwrap();
    let (_, mut answer) = Answerer::new(&HERE, &offer).unwrap();
    answer[1..33].fill(5);
    assert!(matches!(opener.answered(&HERE, &answer), Err(LinkError::Report)));
    // An enclave's own words said back to it: the offer as the answer, the answer's report as the proof.
    let (opener, mut offer) = Opener::new(&HERE).unwrap();
    offer[0] = 2;
    assert!(opener.answered(&HERE, &offer).is_err());
    let (_, offer) = Opener::new(&HERE).unwrap();
    let (answerer, answer) = Answerer::new(&HERE, &offer).unwrap();
    let mirrored = [&[3][..], &answer[answer.len() - 432..]].concat();
    assert!(matches!(answerer.proved(&HERE, &mirrored), Err(LinkError::Report)));
    // The proof of another conversation with the same enclave.
    let (opener, offer) = Opener::new(&HERE).unwrap();
    let (_, answer) = Answerer::new(&HERE, &offer).unwrap();
    let (late, _) = Answerer::new(&HERE, &offer).unwrap();
    let (_, proof) = opener.answered(&HERE, &answer).unwrap();
    assert!(matches!(late.proved(&HERE, &proof), Err(LinkError::Report)));
}

#[test]
fn records_of_one_session_are_nothing_in_another() {
    let (mut a, mut b) = link(&HERE, &HERE).unwrap();
    let (mut c, mut d) = link(&HERE, &HERE).unwrap();
    let (for_b, for_d) = (a.seal(b"to b").unwrap(), c.seal(b"to d").unwrap());
    // Swapped between two workers.
    assert!(matches!(b.open(&for_d), Err(LinkError::Record)));
    assert!(matches!(d.open(&for_b), Err(LinkError::Record)));
    // Over is over, for both directions.
    assert!(matches!(b.open(&for_b), Err(LinkError::Over)) && matches!(b.seal(b"x"), Err(LinkError::Over)));
    // One's own record said back.
    let (mut a, _b) = link(&HERE, &HERE).unwrap();
    let own = a.seal(b"mine").unwrap();
    assert!(matches!(a.open(&own), Err(LinkError::Record)));
}

/// What the host does with the next record.
#[derive(Clone, Debug)]
enum Deed {
    Deliver,
    Drop,
    Again,
    Swap,
    Flip(usize, u8),
    Cut(usize),
    Forge(Vec<u8>),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => Just(Deed::Deliver),
        1 => Just(Deed::Drop),
        1 => Just(Deed::Again),
        1 => Just(Deed::Swap),
        1 => (any::<usize>(), 1u8..).prop_map(|(at, bits)| Deed::Flip(at, bits)),
        1 => any::<usize>().prop_map(Deed::Cut),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Deed::Forge),
    ]
}

proptest! {
    /// What comes out is always a beginning of what was put in, in order, and after the first lie nothing comes.
    #[test]
    fn only_a_beginning_arrives(deeds in prop::collection::vec(deed(), 1..60)) {
        let (mut a, mut b) = link(&HERE, &HERE).unwrap();
        let (mut sent, mut got, mut lied) = (Vec::new(), Vec::new(), false);
        for (n, deed) in deeds.iter().enumerate() {
            let mut next = |sent: &mut Vec<Vec<u8>>| {
                let text = format!("record {n} {}", sent.len()).into_bytes();
                sent.push(text.clone());
                a.seal(&text).unwrap()
            };
            let record = next(&mut sent);
            let (packets, lie) = match deed {
                Deed::Deliver => (vec![record], false),
                Deed::Drop => { lied = true; continue }
                Deed::Again => (vec![record.clone(), record], true),
                Deed::Swap => { let later = next(&mut sent); (vec![later, record], true) }
                Deed::Flip(at, bits) => { let mut bad = record; let at = at % bad.len(); bad[at] ^= bits; (vec![bad], true) }
                Deed::Cut(at) => { let at = at % record.len(); (vec![record[..at].to_vec()], true) }
                Deed::Forge(bytes) => (vec![bytes.clone()], true),
            };
            for packet in packets {
                match b.open(&packet) {
                    Ok(text) => got.push(text),
                    Err(_) => lied = true,
                }
            }
            prop_assert!(!lie || matches!(b.open(&[]), Err(LinkError::Over)));
            lied |= lie;
            prop_assert_eq!(&sent[..got.len()], &got[..]);
        }
        prop_assert!(lied || got.len() == sent.len());
    }

    #[test]
    fn hostile_handshakes_end_in_an_error(packet in prop::collection::vec(any::<u8>(), 0..1500), kind in 0u8..5, at in any::<usize>(), bits in 1u8..) {
        let mut packet = packet;
        if let Some(first) = packet.first_mut() { *first = kind }
        let (opener, offer) = Opener::new(&HERE).unwrap();
        prop_assert!(opener.answered(&HERE, &packet).is_err());
        if let Ok((answerer, _)) = Answerer::new(&HERE, &packet) {
            prop_assert!(answerer.proved(&HERE, &packet).is_err());
        }
        // A changed byte anywhere: in the offer, the answer, the proof.
        let mut bad = offer.clone();
        let index = at % bad.len();
        bad[index] ^= bits;
        let (opener, good) = Opener::new(&HERE).unwrap();
        if let Ok((_, answer)) = Answerer::new(&HERE, &bad) {
            prop_assert!(opener.answered(&HERE, &answer).is_err());
        }
        let (again, offer) = Opener::new(&HERE).unwrap();
        let (answerer, mut answer) = Answerer::new(&HERE, &offer).unwrap();
        let index = at % answer.len();
        answer[index] ^= bits;
        prop_assert!(again.answered(&HERE, &answer).is_err());
        drop((answerer, good));
        let (opener, offer) = Opener::new(&HERE).unwrap();
        let (answerer, answer) = Answerer::new(&HERE, &offer).unwrap();
        let (_, mut proof) = opener.answered(&HERE, &answer).unwrap();
        let index = at % proof.len();
        proof[index] ^= bits;
        prop_assert!(answerer.proved(&HERE, &proof).is_err());
    }
}
