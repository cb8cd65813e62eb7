//! The EPCM rules against a model of the SDM's text that is written in another way: flags and types as plain fields.

use proptest::prelude::*;
use teemate_sgx::simulator::epcm::{PT_REG, PT_TCS, PT_TRIM, R, Refusal, W, Word, X};

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    valid: bool,
    kind: u8,
    r: bool,
    w: bool,
    x: bool,
    pending: bool,
    modified: bool,
    pr: bool,
    tracked: bool,
}

const NONE: Page = Page { valid: false, kind: 0, r: false, w: false, x: false, pending: false, modified: false, pr: false, tracked: true };

#[derive(Clone, Copy, Debug)]
enum Op {
    Add(u64),
    Aug,
    Accept(u64),
    AcceptCopy(u64),
    Extend(u64),
    Restrict(u8),
    Trim,
    Track,
    Remove,
}

/// `None`: refused, nothing changes.
fn model(page: Page, op: Op) -> Option<Page> {
    let bits = |flags: u64| (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
    match op {
        Op::Add(flags) => {
            let (r, w, x) = bits(flags);
            let kind = (flags >> 8) as u8;
            let sound = kind == PT_TCS || kind == PT_REG && (r || !w);
            let tcs = kind == PT_TCS;
            (!page.valid && sound).then_some(Page { valid: true, kind, r: r && !tcs, w: w && !tcs, x: x && !tcs, ..NONE })
        }
        Op::Aug => (!page.valid).then_some(Page { valid: true, kind: PT_REG, r: true, w: true, pending: true, ..NONE }),
        Op::Accept(flags) => {
            let (r, w, x) = bits(flags);
            let want = (flags >> 8 & 0xff, r, w, x, flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
            let have = (page.kind as u64, page.r, page.w, page.x, page.pending, page.modified, page.pr);
            // The SECINFOs that EACCEPT knows: a page that was added or restricted, a type that was changed.
            let possible = flags & !0xff3f == 0
                && match want {
                    (2, _, _, _, _, modified, _) => !modified,
                    (1, false, false, false, pending, modified, false) => !(pending && modified),
                    (4, false, false, false, false, true, false) => true,
                    _ => false,
                };
            (possible && page.valid && want == have && page.tracked && page != NONE).then_some(Page {
                pending: false,
                modified: false,
                pr: false,
                ..page
            })
        }
        Op::AcceptCopy(flags) => {
            let (r, w, x) = bits(flags);
            let fresh = Page { valid: true, kind: PT_REG, r: true, w: true, pending: true, ..NONE };
            let sound = flags & !7 == (PT_REG as u64) << 8 && (r || !w);
            (sound && Page { pr: page.pr, tracked: page.tracked, ..page } == fresh).then_some(Page { r, w, x, pending: false, ..page })
        }
        Op::Extend(flags) => {
            let (r, w, x) = bits(flags);
            let regular = page.valid && page.kind == PT_REG && !page.pending && !page.modified;
            let sound = flags & !0xff07 == 0 && !(w && !(r || page.r));
            (regular && sound).then_some(Page { r: page.r || r, w: page.w || w, x: page.x || x, ..page })
        }
        Op::Restrict(rights) => {
            let regular = page.valid && page.kind == PT_REG && !page.pending && !page.modified;
            (regular && rights & R != 0 && rights < 8).then_some(Page {
                r: page.r && rights & R != 0,
                w: page.w && rights & W != 0,
                x: page.x && rights & X != 0,
                pr: true,
                tracked: false,
                ..page
            })
        }
        Op::Trim => {
            let in_use = page.valid && (page.kind == PT_REG || page.kind == PT_TCS) && !page.pending && !page.modified;
            in_use.then_some(Page { valid: true, kind: PT_TRIM, modified: true, tracked: false, ..NONE })
        }
        Op::Track => Some(Page { tracked: true, ..page }),
        Op::Remove => (page.valid && page.kind == PT_TRIM && !page.modified).then_some(NONE),
    }
}

fn code(word: Word, op: Op) -> Result<Word, Refusal> {
    match op {
        Op::Add(flags) => word.eadd(flags),
        Op::Aug => word.eaug(),
        Op::Accept(flags) => word.eaccept(flags),
        Op::AcceptCopy(flags) => word.eacceptcopy(flags),
        Op::Extend(flags) => word.emodpe(flags),
        Op::Restrict(rights) => word.emodpr(rights),
        Op::Trim => word.trim(),
        Op::Track => Ok(word.tracked()),
        Op::Remove => word.remove(),
    }
}

fn seen(word: Word) -> Page {
    let rights = word.rights();
    Page {
        valid: word.valid(),
        kind: word.kind(),
        r: rights & R != 0,
        w: rights & W != 0,
        x: rights & X != 0,
        pending: word.pending(),
        modified: word.modified(),
        pr: word.restricted(),
        // Not to be seen from outside but by EACCEPT.
        tracked: word == word.tracked(),
    }
}

fn secinfo() -> impl Strategy<Value = u64> {
    let kind = prop_oneof![Just(PT_REG), Just(PT_TRIM), Just(PT_TCS), Just(0u8), Just(3u8)];
    (kind, 0u64..64).prop_map(|(kind, low)| (kind as u64) << 8 | low)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        secinfo().prop_map(Op::Add),
        Just(Op::Aug),
        secinfo().prop_map(Op::Accept),
        // What an enclave would really say, so that sequences come further than the first refusal.
        prop_oneof![Just(0x20bu64), Just(0x410), Just(0x221), Just(0x223), Just(0x227)].prop_map(Op::Accept),
        (0u64..8).prop_map(|rights| Op::AcceptCopy(0x200 | rights)),
        (0u64..8).prop_map(|rights| Op::Extend(0x200 | rights)),
        (0u8..9).prop_map(Op::Restrict),
        Just(Op::Trim),
        Just(Op::Track),
        Just(Op::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequences_agree_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let (mut word, mut page) = (Word(0), NONE);
        for op in ops {
            let (next, expected) = (code(word, op), model(page, op));
            prop_assert_eq!(next.is_ok(), expected.is_some(), "{:?} on {:?}: {:?}", op, page, next);
            if let (Ok(next), Some(expected)) = (next, expected) {
                word = next;
                page = expected;
            }
            prop_assert_eq!(seen(word), page, "after {:?}", op);
            // Nobody uses a page that is not regular, or whose last change the enclave has not accepted.
            let usable = page.valid && page.kind == PT_REG && !page.pending && !page.modified;
            prop_assert!(usable || word.usable() == 0);
        }
    }
}
